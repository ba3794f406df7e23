/* SPDX-License-Identifier: GPL-2.0 */
/* Where the kernel says that a task came, executes something else, or goes. */
#ifndef _GESTALT_TRACEPOINTS_H
#define _GESTALT_TRACEPOINTS_H

int gestalt_tracepoints_init(void);
void gestalt_tracepoints_exit(void);

#endif /* _GESTALT_TRACEPOINTS_H */
