// SPDX-License-Identifier: GPL-2.0
#include "pidns.h"

#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "compat.h"
#include "family.h"
#include "load.h"
#include "view.h"

struct pidns_cursor {
	struct gestalt_view view;
	u32 next;
};

struct pid_namespace *gestalt_next_pidns(struct pid_namespace *caller, u32 *init_pid)
{
	struct pid_namespace *found = NULL;
	unsigned int steps = 0;
	struct pid *pid;

	rcu_read_lock();
	for (; (pid = gestalt_next_pid(caller, init_pid));
	     ++*init_pid, gestalt_walk_pause(&steps)) {
		if (is_child_reaper(pid) && pid_task(pid, PIDTYPE_PID)) {
			found = get_pid_ns(ns_of_pid(pid));
			break;
		}
	}
	rcu_read_unlock();
	return found;
}

void gestalt_fill_pidns(struct gestalt_pidns *entry, struct pid_namespace *caller,
			struct pid_namespace *ns, u32 init_pid)
{
	struct gestalt_counts counts;

	gestalt_count(ns, &counts);
	*entry = (struct gestalt_pidns) {
		.inum = ns->ns.inum,
		.parent_inum = ns == caller ? 0 : ns->parent->ns.inum,
		.level = ns->level - caller->level,
		.init_pid = init_pid,
		.processes = counts.processes,
		.pids = READ_ONCE(ns->pid_allocated) & ~PIDNS_ADDING,
		.last_pid = max_t(int, READ_ONCE(ns->idr.idr_next), 1) - 1,
		.pid_max = gestalt_pid_max(ns),
	};
}

int gestalt_pidns_start(struct netlink_callback *cb)
{
	struct pidns_cursor *cursor = kzalloc(sizeof(*cursor), GFP_KERNEL);
	int error;

	if (!cursor)
		return -ENOMEM;
	error = gestalt_view_open(&cursor->view, 0);
	if (error) {
		kfree(cursor);
		return error;
	}
	cursor->next = 1;
	cb->args[0] = (long)cursor;
	return 0;
}

int gestalt_pidns_dump(struct sk_buff *skb, struct netlink_callback *cb)
{
	struct pidns_cursor *cursor = (struct pidns_cursor *)cb->args[0];
	struct pid_namespace *caller = cursor->view.caller;
	struct gestalt_pidns entry;
	struct pid_namespace *ns;
	bool any = false;
	void *header;

	header = gestalt_dump_begin(skb, cb, GESTALT_CMD_PIDNS);
	if (!header)
		return -EMSGSIZE;
	while ((ns = gestalt_next_pidns(caller, &cursor->next))) {
		gestalt_fill_pidns(&entry, caller, ns, cursor->next);
		put_pid_ns(ns);
		if (nla_put(skb, GESTALT_A_PIDNS, sizeof(entry), &entry))
			break;
		any = true;
		++cursor->next;
	}
	if (!any) {
		genlmsg_cancel(skb, header);
		return ns ? -EMSGSIZE : 0;
	}
	genlmsg_end(skb, header);
	return skb->len;
}

int gestalt_pidns_done(struct netlink_callback *cb)
{
	struct pidns_cursor *cursor = (struct pidns_cursor *)cb->args[0];

	gestalt_view_close(&cursor->view);
	kfree(cursor);
	return 0;
}
