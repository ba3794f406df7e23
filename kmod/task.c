// SPDX-License-Identifier: GPL-2.0
#include "task.h"

#include <linux/cgroup.h>
#include <linux/cred.h>
#include <linux/mm.h>
#include <linux/pid_namespace.h>
#include <linux/rculist.h>
#include <linux/sched/cputime.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/tty.h>
#include <linux/tty_driver.h>
#include <linux/uidgid.h>
#include <linux/user_namespace.h>

#include "compat.h"
#include "view.h"

/*
 * A thread that ends moves its times to the process's while the sequence lock
 * is held. Three tries, no lock: a listing is not worth holding up an exit.
 */
#define TRIES 3

void gestalt_process_times(struct task_struct *task, struct gestalt_times *times)
{
	struct signal_struct *signal = task->signal;
	struct task_struct *thread;
	u64 utime, stime;
	unsigned int seq;
	int tries = 0;

	do {
		seq = read_seqbegin(&signal->stats_lock);
		times->utime_ns = signal->utime;
		times->stime_ns = signal->stime;
		times->minflt = signal->min_flt;
		times->majflt = signal->maj_flt;
		/*
		 * As for_each_thread(). Where the kernel proves its RCU lists right, that one
		 * looks at tasklist_lock, too, which is not exported.
		 */
		list_for_each_entry_rcu(thread, &signal->thread_head, thread_node) {
			task_cputime_adjusted(thread, &utime, &stime);
			times->utime_ns += utime;
			times->stime_ns += stime;
			times->minflt += thread->min_flt;
			times->majflt += thread->maj_flt;
		}
	} while (read_seqretry(&signal->stats_lock, seq) && ++tries < TRIES);
}

static void fill_times(struct gestalt_task *info, struct task_struct *task, bool whole)
{
	struct signal_struct *signal = task->signal;
	struct gestalt_times times;

	if (whole) {
		gestalt_process_times(task, &times);
	} else {
		task_cputime_adjusted(task, &times.utime_ns, &times.stime_ns);
		times.minflt = task->min_flt;
		times.majflt = task->maj_flt;
	}
	info->utime_ns = times.utime_ns;
	info->stime_ns = times.stime_ns;
	info->minflt = times.minflt;
	info->majflt = times.majflt;
	info->cutime_ns = signal->cutime;
	info->cstime_ns = signal->cstime;
	info->cminflt = signal->cmin_flt;
	info->cmajflt = signal->cmaj_flt;
	info->start_boottime_ns = task->start_boottime;
}

/* The task's lock keeps its memory from going, without a reference that may be the last. */
static void fill_memory(struct gestalt_task *info, struct task_struct *task)
{
	struct mm_struct *mm;

	task_lock(task);
	mm = task->mm;
	if (mm && !(task->flags & PF_KTHREAD)) {
		info->vsize_bytes = (u64)READ_ONCE(mm->total_vm) << PAGE_SHIFT;
		info->rss_anon_bytes = (u64)get_mm_counter(mm, MM_ANONPAGES) << PAGE_SHIFT;
		info->rss_file_bytes = (u64)get_mm_counter(mm, MM_FILEPAGES) << PAGE_SHIFT;
		info->rss_shmem_bytes = (u64)get_mm_counter(mm, MM_SHMEMPAGES) << PAGE_SHIFT;
	}
	memcpy(info->comm, task->comm, sizeof(info->comm));
	info->comm[sizeof(info->comm) - 1] = 0;
	task_unlock(task);
}

static void read_terminal(struct gestalt_task *info, struct tty_struct *tty,
			  struct pid_namespace *ns)
{
	if (!tty)
		return;
	info->tty_nr = new_encode_dev(tty_devnum(tty));
	spin_lock(&tty->ctrl.lock);
	info->tpgid = pid_nr_ns(tty->ctrl.pgrp, ns);
	spin_unlock(&tty->ctrl.lock);
}

/* lock_task_sighand() is not exported; sighands are freed by RCU, and their type stays. */
static void fill_terminal(struct gestalt_task *info, struct task_struct *task,
			  struct pid_namespace *ns)
{
	struct sighand_struct *sighand;
	unsigned long flags;
	bool same = false;

	info->tpgid = -1;
	/* Most have none, and need no lock for that. */
	if (!READ_ONCE(task->signal->tty))
		return;
	while (!same && (sighand = rcu_dereference(task->sighand))) {
		spin_lock_irqsave(&sighand->siglock, flags);
		same = sighand == rcu_access_pointer(task->sighand);
		if (same)
			read_terminal(info, task->signal->tty, ns);
		spin_unlock_irqrestore(&sighand->siglock, flags);
	}
}

static void fill_ids(struct gestalt_task *info, struct task_struct *task,
		     const struct cred *viewer)
{
	struct user_namespace *ns = viewer->user_ns;
	const struct cred *cred = __task_cred(task);

	info->uid = from_kuid_munged(ns, cred->uid);
	info->euid = from_kuid_munged(ns, cred->euid);
	info->suid = from_kuid_munged(ns, cred->suid);
	info->fsuid = from_kuid_munged(ns, cred->fsuid);
	info->gid = from_kgid_munged(ns, cred->gid);
	info->egid = from_kgid_munged(ns, cred->egid);
	info->sgid = from_kgid_munged(ns, cred->sgid);
	info->fsgid = from_kgid_munged(ns, cred->fsgid);
}

static void fill_pids(struct gestalt_task *info, struct task_struct *task, struct pid *pid,
		      struct pid_namespace *ns)
{
	info->pid = pid_nr_ns(pid, ns);
	info->tgid = task_tgid_nr_ns(task, ns);
	info->ppid = task_ppid_nr_ns(task, ns);
	info->pgid = task_pgrp_nr_ns(task, ns);
	info->sid = task_session_nr_ns(task, ns);
	info->pidns_inum = ns_of_pid(pid)->ns.inum;
	info->level = pid->level - ns->level;
}

bool gestalt_fill_task(struct gestalt_task *info, struct task_struct *task, struct pid *pid,
		       const struct gestalt_view *view, bool whole)
{
	if (task->start_boottime > view->opened_ns)
		return false;
	memset(info, 0, sizeof(*info));
	fill_pids(info, task, pid, view->ns);
	if (!info->tgid)
		return false;
	fill_times(info, task, whole);
	fill_memory(info, task);
	fill_terminal(info, task, view->ns);
	fill_ids(info, task, view->cred);
#ifdef CONFIG_CGROUPS
	info->cgroup_id = cgroup_id(task_dfl_cgroup(task));
#endif
	info->generation = task->self_exec_id;
	info->flags = task->flags;
	info->threads = get_nr_threads(task);
	info->processor = task_cpu(task);
	info->policy = task->policy;
	info->rt_priority = task->rt_priority;
	info->nice = task_nice(task);
	info->priority = task->prio - MAX_RT_PRIO;
	info->exit_signal = task->exit_signal;
	info->state = task_state_to_char(task);
	return true;
}
