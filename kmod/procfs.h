/* SPDX-License-Identifier: GPL-2.0 */
/* /proc/gestalt: load, pidns, tasks, as the opener's pid and user namespaces have them. */
#ifndef _GESTALT_PROCFS_H
#define _GESTALT_PROCFS_H

int gestalt_procfs_init(void);
void gestalt_procfs_exit(void);

#endif /* _GESTALT_PROCFS_H */
