// SPDX-License-Identifier: GPL-2.0
/*
 * The dump of tasks. One message fills a buffer; the next goes on behind the
 * last pid. Nothing is allocated for a task, and no lock is held from one to
 * the next; RCU only for some tasks at a time.
 */
#include "task_dump.h"

#include <linux/pid_namespace.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "compat.h"
#include "family.h"
#include "task.h"
#include "view.h"

struct task_cursor {
	struct gestalt_view view;
	u32 next;
	u32 last;
	enum pid_type type;
};

unsigned int gestalt_pids_from(u32 *numbers, const struct pid *pid,
			       const struct pid_namespace *outer)
{
	unsigned int level, count = 0;

	for (level = outer->level; level <= pid->level; ++level)
		numbers[count++] = pid->numbers[level].nr;
	return count;
}

int gestalt_put_task(struct sk_buff *skb, const struct gestalt_task *info, const u32 *numbers,
		     unsigned int count)
{
	struct nlattr *nest = nla_nest_start(skb, GESTALT_A_TASK);

	if (!nest)
		return -EMSGSIZE;
	if (nla_put(skb, GESTALT_TASK_A_INFO, sizeof(*info), info) ||
	    nla_put(skb, GESTALT_TASK_A_PIDS, count * sizeof(*numbers), numbers)) {
		nla_nest_cancel(skb, nest);
		return -EMSGSIZE;
	}
	nla_nest_end(skb, nest);
	return 0;
}

static int dump_task(struct sk_buff *skb, const struct task_cursor *cursor, struct pid *pid)
{
	struct task_struct *task = pid_task(pid, cursor->type);
	u32 numbers[MAX_PID_NS_LEVEL + 1];
	struct gestalt_task info;

	if (!task || !gestalt_fill_task(&info, task, pid, &cursor->view,
					cursor->type == PIDTYPE_TGID))
		return 0;
	return gestalt_put_task(skb, &info, numbers,
				gestalt_pids_from(numbers, pid, cursor->view.caller));
}

int gestalt_tasks_start(struct netlink_callback *cb)
{
	struct nlattr **attributes = gestalt_dump_attributes(cb);
	struct nlattr *pid = attributes[GESTALT_A_PID];
	struct nlattr *only = attributes[GESTALT_A_TASK_PID];
	struct task_cursor *cursor = kzalloc(sizeof(*cursor), GFP_KERNEL);
	int error;

	if (!cursor)
		return -ENOMEM;
	error = gestalt_view_open(&cursor->view, pid ? nla_get_u32(pid) : 0);
	if (error) {
		NL_SET_ERR_MSG_ATTR(cb->extack, pid, "no such process in your pid namespace");
		kfree(cursor);
		return error;
	}
	cursor->next = only ? nla_get_u32(only) : 1;
	cursor->last = only ? cursor->next : U32_MAX;
	cursor->type = attributes[GESTALT_A_THREADS] ? PIDTYPE_PID : PIDTYPE_TGID;
	cb->args[0] = (long)cursor;
	return 0;
}

/* 0: everything was dumped. */
static int dump_tasks(struct sk_buff *skb, struct task_cursor *cursor)
{
	unsigned int steps = 0;
	struct pid *pid;
	int error = 0;

	rcu_read_lock();
	while ((pid = gestalt_next_pid(cursor->view.ns, &cursor->next))) {
		if (cursor->next > cursor->last)
			break;
		error = dump_task(skb, cursor, pid);
		if (error)
			break;
		++cursor->next;
		gestalt_walk_pause(&steps);
	}
	rcu_read_unlock();
	return error;
}

int gestalt_tasks_dump(struct sk_buff *skb, struct netlink_callback *cb)
{
	struct task_cursor *cursor = (struct task_cursor *)cb->args[0];
	unsigned int empty;
	void *header;
	int error;

	header = gestalt_dump_begin(skb, cb, GESTALT_CMD_TASKS);
	if (!header)
		return -EMSGSIZE;
	empty = skb->len;
	error = dump_tasks(skb, cursor);
	if (skb->len == empty) {
		genlmsg_cancel(skb, header);
		return error;
	}
	genlmsg_end(skb, header);
	return skb->len;
}

int gestalt_tasks_done(struct netlink_callback *cb)
{
	struct task_cursor *cursor = (struct task_cursor *)cb->args[0];

	gestalt_view_close(&cursor->view);
	kfree(cursor);
	return 0;
}
