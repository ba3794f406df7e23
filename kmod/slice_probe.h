/* SPDX-License-Identifier: GPL-2.0 */
/* A look at each allocation of a pid, in the moment before it. */
#ifndef _GESTALT_SLICE_PROBE_H
#define _GESTALT_SLICE_PROBE_H

#include <linux/types.h>

/* Calls gestalt_slice_before_alloc(). An error: it cannot be had. */
int gestalt_slice_probe_init(void);
void gestalt_slice_probe_exit(void);
/* As far as one can say without trying. */
bool gestalt_slice_probe_possible(void);

#endif /* _GESTALT_SLICE_PROBE_H */
