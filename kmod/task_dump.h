/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _GESTALT_TASK_DUMP_H
#define _GESTALT_TASK_DUMP_H

#include <gestalt.h>

struct netlink_callback;
struct pid;
struct pid_namespace;
struct sk_buff;

/* The pids of a task, from those in OUTER inward; how many there are. */
unsigned int gestalt_pids_from(u32 *numbers, const struct pid *pid,
			       const struct pid_namespace *outer);
int gestalt_put_task(struct sk_buff *skb, const struct gestalt_task *info, const u32 *numbers,
		     unsigned int count);

int gestalt_tasks_start(struct netlink_callback *cb);
int gestalt_tasks_dump(struct sk_buff *skb, struct netlink_callback *cb);
int gestalt_tasks_done(struct netlink_callback *cb);

#endif /* _GESTALT_TASK_DUMP_H */
