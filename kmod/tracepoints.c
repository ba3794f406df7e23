// SPDX-License-Identifier: GPL-2.0
#include "tracepoints.h"

#include <linux/binfmts.h>
#include <linux/pid_namespace.h>
#include <linux/sched/cputime.h>
#include <linux/sched/signal.h>
#include <linux/string.h>
#include <linux/tracepoint.h>
#include <trace/events/sched.h>

#include "compat.h"
#include "family.h"
#include "publish.h"
#include "slice.h"
#include "task.h"

static void publish(struct gestalt_event *event, struct task_struct *task)
{
	struct task_struct *parent;
	struct pid *pid;

	rcu_read_lock();
	pid = task_pid(task);
	parent = rcu_dereference(task->real_parent);
	if (pid) {
		event->start_boottime_ns = task->start_boottime;
		event->pidns_inum = ns_of_pid(pid)->ns.inum;
		memcpy(event->comm, task->comm, sizeof(event->comm));
		event->comm[sizeof(event->comm) - 1] = 0;
		gestalt_publish(event, pid, task_tgid(task), task_tgid(parent));
	}
	rcu_read_unlock();
}

static void on_fork(void *data, struct task_struct *parent, struct task_struct *child)
{
	struct gestalt_event event = { .type = GESTALT_EVENT_FORK };

	gestalt_slice_after_fork(child);
	if (!gestalt_events_wanted())
		return;
	if (!thread_group_leader(child))
		event.flags = GESTALT_EVENT_F_THREAD;
	publish(&event, child);
}

static void on_exec(void *data, struct task_struct *task, pid_t old_pid,
		    struct linux_binprm *binprm)
{
	struct gestalt_event event = { .type = GESTALT_EVENT_EXEC };

	if (!gestalt_events_wanted())
		return;
	event.value = task->self_exec_id;
	publish(&event, task);
}

static void fill_exit(struct gestalt_event *event, struct task_struct *task)
{
	struct signal_struct *signal = task->signal;
	struct gestalt_times times;

	event->exit_code = task->exit_code;
	if (!thread_group_leader(task))
		event->flags |= GESTALT_EVENT_F_THREAD;
	if (atomic_read(&signal->live)) {
		task_cputime_adjusted(task, &event->utime_ns, &event->stime_ns);
		return;
	}
	event->flags |= GESTALT_EVENT_F_LAST;
	if (signal->flags & SIGNAL_GROUP_EXIT)
		event->exit_code = signal->group_exit_code;
	rcu_read_lock();
	gestalt_process_times(task, &times);
	rcu_read_unlock();
	event->utime_ns = times.utime_ns;
	event->stime_ns = times.stime_ns;
}

static void on_exit(GESTALT_EXIT_ARGUMENTS)
{
	struct gestalt_event event = { .type = GESTALT_EVENT_EXIT };

	if (!atomic_read(&task->signal->live))
		gestalt_slice_after_exit(task);
	if (!gestalt_events_wanted())
		return;
	fill_exit(&event, task);
	publish(&event, task);
}

static struct {
	const char *name;
	void *probe;
	struct tracepoint *tracepoint;
	bool registered;
} hooks[] = {
	{ .name = "sched_process_fork", .probe = on_fork },
	{ .name = "sched_process_exec", .probe = on_exec },
	{ .name = "sched_process_exit", .probe = on_exit },
};

/* They are not exported by name. */
static void __init find(struct tracepoint *tracepoint, void *data)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(hooks); ++i) {
		if (!strcmp(tracepoint->name, hooks[i].name))
			hooks[i].tracepoint = tracepoint;
	}
}

/* They are registered by untyped pointers: so it is seen here if one has other arguments. */
static void __init check_types(void)
{
	check_trace_callback_type_sched_process_fork(on_fork);
	check_trace_callback_type_sched_process_exec(on_exec);
	check_trace_callback_type_sched_process_exit(on_exit);
}

int __init gestalt_tracepoints_init(void)
{
	int i, error;

	check_types();
	for_each_kernel_tracepoint(find, NULL);
	for (i = 0; i < ARRAY_SIZE(hooks); ++i) {
		error = -ENOENT;
		if (hooks[i].tracepoint)
			error = tracepoint_probe_register(hooks[i].tracepoint, hooks[i].probe, NULL);
		if (error) {
			pr_err("tracepoint %s: error %d\n", hooks[i].name, error);
			gestalt_tracepoints_exit();
			return error;
		}
		hooks[i].registered = true;
	}
	return 0;
}

void gestalt_tracepoints_exit(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(hooks); ++i) {
		if (hooks[i].registered)
			tracepoint_probe_unregister(hooks[i].tracepoint, hooks[i].probe, NULL);
		hooks[i].registered = false;
	}
	tracepoint_synchronize_unregister();
}
