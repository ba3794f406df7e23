/* SPDX-License-Identifier: GPL-2.0 */
/*
 * From where an event happens to those who listen. The event is put into its
 * CPU's ring; a worker takes them out of all rings, in the order of time,
 * numbers them, and sends many in one message.
 */
#ifndef _GESTALT_PUBLISH_H
#define _GESTALT_PUBLISH_H

#include <linux/types.h>
#include <gestalt.h>

struct pid;

int gestalt_publish_init(void);
/* From now on nothing is published or sent; the family may go. */
void gestalt_publish_stop(void);
/* Nobody may publish any more. */
void gestalt_publish_exit(void);

/*
 * In any context but an interrupt. Sequence and time are set here; pids as in
 * gestalt_record_numbers(), TASK may be NULL. Nothing happens if nobody listens.
 */
void gestalt_publish(struct gestalt_event *event, struct pid *task, struct pid *process,
		     struct pid *parent);

u64 gestalt_publish_sequence(void);
u64 gestalt_publish_dropped(void);

#endif /* _GESTALT_PUBLISH_H */
