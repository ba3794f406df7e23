// SPDX-License-Identifier: GPL-2.0
#include "free_pid.h"

#include <linux/bitops.h>
#include <linux/idr.h>
#include <linux/minmax.h>
#include <linux/xarray.h>

u32 gestalt_slice_start(u32 cursor, u32 first, u32 last)
{
	return cursor < first || cursor > last ? first : cursor;
}

bool gestalt_slice_near_end(u32 cursor, u32 first, u32 last)
{
	u32 margin = min_t(u32, GESTALT_SLICE_MARGIN, (last - first + 1) / 4);

	return cursor < first || cursor > last - margin;
}

/*
 * An IDR is a tree of nodes of 64 slots. Each node has a bit for each slot that
 * says whether something below it is free; a slot without a node below is free
 * altogether, and so is what is beyond the tree.
 */
u32 gestalt_free_number(const struct idr *idr, u32 start, u32 last)
{
	unsigned long number = start;
	unsigned int offset, shift;
	struct xa_node *node;
	void *entry;

	while (number <= last) {
		entry = rcu_dereference_raw(idr->idr_rt.xa_head);
		if (!xa_is_node(entry))
			return entry && !number ? 1 : number;
		if (number >> xa_to_node(entry)->shift >= XA_CHUNK_SIZE)
			return number;
		while (xa_is_node(entry)) {
			node = xa_to_node(entry);
			shift = node->shift;
			offset = (number >> shift) & XA_CHUNK_MASK;
			if (!test_bit(offset, node->tags[IDR_FREE])) {
				offset = find_next_bit(node->tags[IDR_FREE], XA_CHUNK_SIZE, offset);
				/* The first number of that slot, or, of none, behind this node. */
				number = (((number >> shift) & ~XA_CHUNK_MASK) + offset) << shift;
				if (offset == XA_CHUNK_SIZE)
					break;
			}
			entry = rcu_dereference_raw(node->slots[offset]);
			if (!shift || !entry)
				return number <= last ? number : 0;
		}
	}
	return 0;
}
