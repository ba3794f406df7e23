/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A ring of records, one for each CPU: its CPU alone writes, with interrupts
 * off, and one reader reads. No locks. A record that has no room is counted as
 * lost, and the ring stays as it was.
 */
#ifndef _GESTALT_RING_H
#define _GESTALT_RING_H

#include <linux/types.h>

struct gestalt_ring {
	u8 *data;
	u32 size;	    /* a power of two */
	u32 head;	    /* the writer's; both only ever grow, and wrap */
	u32 reserved;	    /* head after the commit */
	u32 tail;	    /* the reader's */
	u64 lost;	    /* the writer's */
	u64 lost_seen;	    /* the reader's */
};

int gestalt_ring_init(struct gestalt_ring *ring, u32 size);
void gestalt_ring_free(struct gestalt_ring *ring);

/* Room for a record of so many bytes, to be filled and committed; NULL: lost. */
void *gestalt_ring_reserve(struct gestalt_ring *ring, u32 length);
/* Returns whether the ring is more than half full. */
bool gestalt_ring_commit(struct gestalt_ring *ring);

/* The first record that is before LIMIT, NULL if there is none. */
void *gestalt_ring_peek(struct gestalt_ring *ring, u32 limit);
void gestalt_ring_consume(struct gestalt_ring *ring);
/* Everything that is committed by now is before it. */
u32 gestalt_ring_limit(const struct gestalt_ring *ring);
/* How many were lost since the last call. */
u64 gestalt_ring_lost(struct gestalt_ring *ring);

#endif /* _GESTALT_RING_H */
