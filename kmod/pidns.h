/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The pid namespaces that a caller can see. The kernel keeps no list of them
 * that a module could read; but each has an init, which is number 1 in it.
 */
#ifndef _GESTALT_PIDNS_H
#define _GESTALT_PIDNS_H

#include <linux/types.h>
#include <gestalt.h>

struct netlink_callback;
struct pid_namespace;
struct sk_buff;

/*
 * The first namespace whose init has, in CALLER, the number *init_pid or a higher
 * one; with a reference. *init_pid becomes that init's.
 */
struct pid_namespace *gestalt_next_pidns(struct pid_namespace *caller, u32 *init_pid);
void gestalt_fill_pidns(struct gestalt_pidns *entry, struct pid_namespace *caller,
			struct pid_namespace *ns, u32 init_pid);

int gestalt_pidns_start(struct netlink_callback *cb);
int gestalt_pidns_dump(struct sk_buff *skb, struct netlink_callback *cb);
int gestalt_pidns_done(struct netlink_callback *cb);

#endif /* _GESTALT_PIDNS_H */
