// SPDX-License-Identifier: GPL-2.0
#include "view.h"

#include <linux/pid.h>
#include <linux/sched.h>
#include <linux/sched/task.h>
#include <linux/timekeeping.h>

/* Pids that are looked at in one stretch of RCU. */
#define STRETCH 64

static struct pid_namespace *namespace_of(u32 number, struct pid_namespace *caller)
{
	struct pid_namespace *ns = NULL;
	struct pid *pid;

	rcu_read_lock();
	pid = find_pid_ns(number, caller);
	/* A number may be in use by a group or a session only. */
	if (pid && pid_task(pid, PIDTYPE_PID))
		ns = get_pid_ns(ns_of_pid(pid));
	rcu_read_unlock();
	return ns;
}

int gestalt_view_open(struct gestalt_view *view, u32 pid)
{
	view->caller = task_active_pid_ns(current);
	if (pid > PID_MAX_LIMIT)
		return -ESRCH;
	view->ns = pid ? namespace_of(pid, view->caller) : get_pid_ns(view->caller);
	if (!view->ns)
		return -ESRCH;
	view->cred = get_current_cred();
	view->opened_ns = ktime_get_boottime_ns();
	return 0;
}

void gestalt_view_close(struct gestalt_view *view)
{
	put_cred(view->cred);
	put_pid_ns(view->ns);
}

struct pid *gestalt_next_pid(struct pid_namespace *ns, u32 *number)
{
	struct pid *pid;

	if (*number > PID_MAX_LIMIT)
		return NULL;
	pid = find_ge_pid(*number, ns);
	if (pid)
		*number = pid_nr_ns(pid, ns);
	return pid;
}

void gestalt_walk_pause(unsigned int *steps)
{
	if (++*steps % STRETCH && !need_resched())
		return;
	rcu_read_unlock();
	cond_resched();
	rcu_read_lock();
}
