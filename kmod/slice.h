/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Slices: from where to where the pids of a namespace are.
 *
 * A slice belongs to the socket by which it was set and to a pid namespace. It
 * has a reference to the namespace, and goes when the socket is closed, the
 * namespace's init ends, or the module is unloaded; so the namespace does not
 * outlive its processes.
 */
#ifndef _GESTALT_SLICE_H
#define _GESTALT_SLICE_H

#include <linux/types.h>
#include <gestalt.h>

struct idr;
struct net;
struct pid_namespace;
struct task_struct;

struct gestalt_slice_owner {
	const struct net *net;
	u32 portid;
};

int gestalt_slice_init(void);
/* Requests are at an end. */
void gestalt_slice_exit(void);

/* -EBUSY: it is another socket's; -ENOSPC: too many. */
int gestalt_slice_set(struct pid_namespace *ns, const struct gestalt_slice_owner *owner, u32 first,
		      u32 last);
/* -ENOENT */
int gestalt_slice_get(struct pid_namespace *ns, struct gestalt_slice *slice);
int gestalt_slice_clear(struct pid_namespace *ns);

unsigned int gestalt_slice_total(void);
bool gestalt_slice_exact(void);

/*
 * With the lock held that pid allocation holds: a number between START and END
 * (exclusive) is about to be allocated from IDR, from its cursor on.
 */
void gestalt_slice_before_alloc(struct idr *idr, u32 start, u32 end);
/* Without that: a task was given its pids. */
void gestalt_slice_after_fork(struct task_struct *child);
/* The last thread of a process ends. */
void gestalt_slice_after_exit(struct task_struct *task);

#endif /* _GESTALT_SLICE_H */
