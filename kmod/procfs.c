// SPDX-License-Identifier: GPL-2.0
/*
 * Position 0 of a listing is its header line; the position of anything else is
 * its pid. So reading can stop at any line, and goes on behind that pid.
 */
#include "procfs.h"

#include <linux/pid_namespace.h>
#include <linux/proc_fs.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/timekeeping.h>

#include "load.h"
#include "pidns.h"
#include "task.h"
#include "view.h"

static struct proc_dir_entry *directory;

/* An entry that is not a header: seq_file wants something that is not NULL. */
#define ENTRY ((void *)2)

static int open_listing(struct inode *inode, struct file *file, const struct seq_operations *ops)
{
	struct gestalt_view *view = __seq_open_private(file, ops, sizeof(*view));
	int error;

	if (!view)
		return -ENOMEM;
	error = gestalt_view_open(view, 0);
	if (error)
		seq_release_private(inode, file);
	return error;
}

static int release_listing(struct inode *inode, struct file *file)
{
	struct seq_file *seq = file->private_data;

	gestalt_view_close(seq->private);
	return seq_release_private(inode, file);
}

static void stop_listing(struct seq_file *seq, void *entry)
{
}

/* --- load ----------------------------------------------------------------- */

static int show_load(struct seq_file *seq, void *unused)
{
	struct gestalt_load load;
	struct gestalt_cpu cpu;
	int number, i;

	gestalt_fill_load(&load);
	for (i = 0; i < ARRAY_SIZE(load.load_1); ++i) {
		static const int minutes[] = { 1, 5, 15 };
		u64 hundredths = div_u64(load.load_1[i] * 100, load.load_scale);

		seq_printf(seq, "load_%d %llu.%02llu\n", minutes[i], hundredths / 100,
			   hundredths % 100);
	}
	seq_printf(seq, "cpus %u\nprocesses %u\nthreads %u\nrunnable %u\nuninterruptible %u\n",
		   load.cpus_online, load.processes, load.threads, load.runnable,
		   load.uninterruptible);
	seq_printf(seq, "memory_total_bytes %llu\nmemory_free_bytes %llu\n",
		   load.memory_total_bytes, load.memory_free_bytes);
	seq_printf(seq, "memory_available_bytes %llu\nmemory_shared_bytes %llu\n",
		   load.memory_available_bytes, load.memory_shared_bytes);
	seq_printf(seq, "buffers_bytes %llu\ncached_bytes %llu\nswap_free_bytes %llu\n",
		   load.buffers_bytes, load.cached_bytes, load.swap_free_bytes);
	for_each_online_cpu(number) {
		gestalt_fill_cpu(&cpu, number);
		seq_printf(seq, "cpu%d_ns user %llu nice %llu system %llu idle %llu iowait %llu ",
			   number, cpu.user_ns, cpu.nice_ns, cpu.system_ns, cpu.idle_ns,
			   cpu.iowait_ns);
		seq_printf(seq, "irq %llu softirq %llu steal %llu\n", cpu.irq_ns, cpu.softirq_ns,
			   cpu.steal_ns);
	}
	return 0;
}

/* --- pidns ---------------------------------------------------------------- */

static void *find_pidns(struct seq_file *seq, loff_t *position)
{
	struct gestalt_view *view = seq->private;
	u32 init_pid = *position;
	struct pid_namespace *ns;

	if (!*position)
		return SEQ_START_TOKEN;
	if (*position > PID_MAX_LIMIT)
		return NULL;
	ns = gestalt_next_pidns(view->caller, &init_pid);
	*position = init_pid;
	return ns;
}

static void *after_pidns(struct seq_file *seq, void *entry, loff_t *position)
{
	if (entry != SEQ_START_TOKEN)
		put_pid_ns(entry);
	++*position;
	return find_pidns(seq, position);
}

static void stop_pidns(struct seq_file *seq, void *entry)
{
	if (entry && entry != SEQ_START_TOKEN)
		put_pid_ns(entry);
}

static int show_pidns(struct seq_file *seq, void *entry)
{
	struct gestalt_view *view = seq->private;
	struct gestalt_pidns info;

	if (entry == SEQ_START_TOKEN) {
		seq_puts(seq, "      INUM     PARENT LEVEL    INIT PROCESSES    PIDS    LAST\n");
		return 0;
	}
	gestalt_fill_pidns(&info, view->caller, entry, seq->index);
	seq_printf(seq, "%10u %10u %5u %7u %9u %7u %7u\n", info.inum, info.parent_inum, info.level,
		   info.init_pid, info.processes, info.pids, info.last_pid);
	return 0;
}

static const struct seq_operations pidns_listing = {
	.start = find_pidns,
	.next = after_pidns,
	.stop = stop_pidns,
	.show = show_pidns,
};

static int open_pidns(struct inode *inode, struct file *file)
{
	return open_listing(inode, file, &pidns_listing);
}

static const struct proc_ops pidns_file = {
	.proc_open = open_pidns,
	.proc_read = seq_read,
	.proc_lseek = seq_lseek,
	.proc_release = release_listing,
};

/* --- tasks ---------------------------------------------------------------- */

/* Each line looks its task up anew: no lock is held from one to the next. */
static void *find_task(struct seq_file *seq, loff_t *position)
{
	struct gestalt_view *view = seq->private;
	unsigned int steps = 0;
	u32 number = *position;
	void *found = NULL;
	struct pid *pid;

	if (!*position) {
		view->opened_ns = ktime_get_boottime_ns(); /* read again: anew */
		return SEQ_START_TOKEN;
	}
	if (*position > PID_MAX_LIMIT)
		return NULL;
	rcu_read_lock();
	for (; (pid = gestalt_next_pid(view->ns, &number)); ++number, gestalt_walk_pause(&steps)) {
		if (pid_task(pid, PIDTYPE_TGID)) {
			found = ENTRY;
			break;
		}
	}
	rcu_read_unlock();
	*position = number;
	return found;
}

static void *after_task(struct seq_file *seq, void *entry, loff_t *position)
{
	++*position;
	return find_task(seq, position);
}

static bool look_up(struct gestalt_task *info, const struct gestalt_view *view, u32 number)
{
	struct task_struct *task;
	struct pid *pid;
	bool found;

	rcu_read_lock();
	pid = find_pid_ns(number, view->ns);
	task = pid ? pid_task(pid, PIDTYPE_TGID) : NULL;
	found = task && gestalt_fill_task(info, task, pid, view, true);
	rcu_read_unlock();
	return found;
}

static int show_task(struct seq_file *seq, void *entry)
{
	struct gestalt_task info;
	u64 rss_kib, time_ms;

	if (entry == SEQ_START_TOKEN) {
		seq_puts(seq, "    PID    PPID    PGID     SID        UID S  NI THREADS CPU   TIME_MS");
		seq_puts(seq, "    RSS_KIB      PIDNS COMM\n");
		return 0;
	}
	if (!look_up(&info, seq->private, seq->index))
		return SEQ_SKIP;
	time_ms = div_u64(info.utime_ns + info.stime_ns, NSEC_PER_MSEC);
	rss_kib = (info.rss_anon_bytes + info.rss_file_bytes + info.rss_shmem_bytes) >> 10;
	seq_printf(seq, "%7u %7u %7u %7u %10u %c %3d %7u %3u %9llu %10llu %10u ", info.pid, info.ppid,
		   info.pgid, info.sid, info.uid, info.state, info.nice, info.threads,
		   info.processor, time_ms, rss_kib, info.pidns_inum);
	seq_escape(seq, info.comm, "\n\\");
	seq_putc(seq, '\n');
	return 0;
}

static const struct seq_operations task_listing = {
	.start = find_task,
	.next = after_task,
	.stop = stop_listing,
	.show = show_task,
};

static int open_tasks(struct inode *inode, struct file *file)
{
	return open_listing(inode, file, &task_listing);
}

static const struct proc_ops tasks_file = {
	.proc_open = open_tasks,
	.proc_read = seq_read,
	.proc_lseek = seq_lseek,
	.proc_release = release_listing,
};

int __init gestalt_procfs_init(void)
{
	directory = proc_mkdir("gestalt", NULL);
	if (!directory)
		return -ENOMEM;
	if (proc_create_single("load", 0444, directory, show_load) &&
	    proc_create("pidns", 0444, directory, &pidns_file) &&
	    proc_create("tasks", 0444, directory, &tasks_file))
		return 0;
	gestalt_procfs_exit();
	return -ENOMEM;
}

/* Waits for readers. Files that are still open give errors from then on. */
void gestalt_procfs_exit(void)
{
	proc_remove(directory);
}
