// SPDX-License-Identifier: GPL-2.0
#include "ring.h"

#include <linux/align.h>
#include <linux/errno.h>
#include <linux/log2.h>
#include <linux/mm.h>

/* Before each record; records do not wrap, so one that would is preceded by a filler. */
struct frame {
	u32 length; /* with the frame */
	u32 filler;
};

int gestalt_ring_init(struct gestalt_ring *ring, u32 size)
{
	if (!is_power_of_2(size))
		return -EINVAL;
	*ring = (struct gestalt_ring) { .size = size };
	ring->data = kvzalloc(size, GFP_KERNEL);
	return ring->data ? 0 : -ENOMEM;
}

void gestalt_ring_free(struct gestalt_ring *ring)
{
	kvfree(ring->data);
	ring->data = NULL;
}

static struct frame *frame_at(const struct gestalt_ring *ring, u32 position)
{
	return (struct frame *)(ring->data + (position & (ring->size - 1)));
}

void *gestalt_ring_reserve(struct gestalt_ring *ring, u32 length)
{
	u32 total = ALIGN(length + sizeof(struct frame), sizeof(struct frame));
	u32 end = ring->size - (ring->head & (ring->size - 1));
	u32 filler = total > end ? end : 0;
	struct frame *frame;
	u32 used;

	/* With the reader's release in gestalt_ring_consume(): it is done with that room. */
	used = ring->head - smp_load_acquire(&ring->tail);
	if (total + filler > ring->size - used) {
		WRITE_ONCE(ring->lost, ring->lost + 1);
		return NULL;
	}
	if (filler)
		*frame_at(ring, ring->head) = (struct frame) { filler, 1 };
	frame = frame_at(ring, ring->head + filler);
	*frame = (struct frame) { total, 0 };
	ring->reserved = ring->head + filler + total;
	return frame + 1;
}

bool gestalt_ring_commit(struct gestalt_ring *ring)
{
	/* With the reader's acquire in gestalt_ring_limit(): the record is whole. */
	smp_store_release(&ring->head, ring->reserved);
	return ring->reserved - READ_ONCE(ring->tail) > ring->size / 2;
}

u32 gestalt_ring_limit(const struct gestalt_ring *ring)
{
	/* With the writer's release in gestalt_ring_commit(). */
	return smp_load_acquire(&ring->head);
}

void *gestalt_ring_peek(struct gestalt_ring *ring, u32 limit)
{
	struct frame *frame;

	while (ring->tail != limit) {
		frame = frame_at(ring, ring->tail);
		if (!frame->filler)
			return frame + 1;
		gestalt_ring_consume(ring);
	}
	return NULL;
}

void gestalt_ring_consume(struct gestalt_ring *ring)
{
	/* With the writer's acquire in gestalt_ring_reserve(): it was read. */
	smp_store_release(&ring->tail, ring->tail + frame_at(ring, ring->tail)->length);
}

u64 gestalt_ring_lost(struct gestalt_ring *ring)
{
	u64 lost = READ_ONCE(ring->lost);
	u64 more = lost - ring->lost_seen;

	ring->lost_seen = lost;
	return more;
}
