/* SPDX-License-Identifier: GPL-2.0 */
/* The arithmetic of slices. */
#ifndef _GESTALT_FREE_PID_H
#define _GESTALT_FREE_PID_H

#include <linux/types.h>

struct idr;

/* The kernel begins here when it begins anew, and so a slice cannot begin before. */
#define GESTALT_SLICE_LOWEST 300
/* Without the exact way: so many pids are kept free, or a quarter of the slice. */
#define GESTALT_SLICE_MARGIN 1024

/* Where to search, if CURSOR is where the kernel would. */
u32 gestalt_slice_start(u32 cursor, u32 first, u32 last);
/* Whether CURSOR is so near the end that it must be rewound, when we come late. */
bool gestalt_slice_near_end(u32 cursor, u32 first, u32 last);

/*
 * The first free number from START to LAST; 0: there is none. It is the one that
 * idr_alloc_u32() would give out. The caller holds what protects the IDR, and
 * nothing is changed or allocated.
 */
u32 gestalt_free_number(const struct idr *idr, u32 start, u32 last);

#endif /* _GESTALT_FREE_PID_H */
