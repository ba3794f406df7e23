/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _GESTALT_LOAD_H
#define _GESTALT_LOAD_H

#include <linux/kernel.h>
#include <gestalt.h>

struct pid_namespace;
struct netlink_ext_ack;
struct genl_info;
struct sk_buff;

/* Looks at each thread of the namespace; sleeps. */
void gestalt_count(struct pid_namespace *ns, struct gestalt_counts *counts);
void gestalt_fill_load(struct gestalt_load *load);
void gestalt_fill_cpu(struct gestalt_cpu *cpu, int number);

int gestalt_do_load(struct sk_buff *skb, struct genl_info *info);

#endif /* _GESTALT_LOAD_H */
