/* SPDX-License-Identifier: GPL-2.0 */
/* What there is to say of one task; the caller is in an RCU read section. */
#ifndef _GESTALT_TASK_H
#define _GESTALT_TASK_H

#include <linux/types.h>
#include <gestalt.h>

struct gestalt_view;
struct pid;
struct task_struct;

struct gestalt_times {
	u64 utime_ns, stime_ns;
	u64 minflt, majflt;
};

/* Of all threads that the process has and had. */
void gestalt_process_times(struct task_struct *task, struct gestalt_times *times);

/* False: the task is gone, or new. WHOLE: the process, not just the thread. */
bool gestalt_fill_task(struct gestalt_task *info, struct task_struct *task, struct pid *pid,
		       const struct gestalt_view *view, bool whole);

#endif /* _GESTALT_TASK_H */
