/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Who looks at which pid namespace.
 *
 * A caller names a namespace by a process that his own pid namespace has a
 * number for. So none can be named that is not his own or below it. User ids
 * are shown as his user namespace has them.
 */
#ifndef _GESTALT_VIEW_H
#define _GESTALT_VIEW_H

#include <linux/cred.h>
#include <linux/pid_namespace.h>

struct gestalt_view {
	/* An ancestor of ns, or ns itself, and so kept by the reference to ns. */
	struct pid_namespace *caller;
	struct pid_namespace *ns;
	const struct cred *cred;
	u64 opened_ns; /* since boot; tasks that started later are not shown */
};

/* Of the current task; pid 0 means its own namespace. May give -ESRCH. */
int gestalt_view_open(struct gestalt_view *view, u32 pid);
void gestalt_view_close(struct gestalt_view *view);

/*
 * The walk over all pids of a namespace that are in use. The position is a pid
 * number, so a walk can be broken off and resumed: what was seen is not seen
 * again, and what was there all the time is not missed. New pids are ahead of
 * it: whoever waits for a reader between two of them, and tasks keep forking,
 * must pass over what came after the view was opened, or may never end.
 */
struct pid *gestalt_next_pid(struct pid_namespace *ns, u32 *number);

/* Lets others have the CPU, and RCU its grace periods, now and then. */
void gestalt_walk_pause(unsigned int *steps);

#endif /* _GESTALT_VIEW_H */
