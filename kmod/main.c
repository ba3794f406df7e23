// SPDX-License-Identifier: GPL-2.0
#include <linux/init.h>
#include <linux/module.h>

#include "family.h"
#include "procfs.h"
#include "publish.h"
#include "selftest.h"
#include "slice.h"
#include "tracepoints.h"

static int __init gestalt_init(void)
{
	int error;

	if (!gestalt_selftest())
		return -ENOTRECOVERABLE;
	error = gestalt_publish_init();
	if (error)
		return error;
	error = gestalt_slice_init();
	if (error)
		goto no_slices;
	error = gestalt_family_init();
	if (error)
		goto no_family;
	error = gestalt_tracepoints_init();
	if (error)
		goto no_tracepoints;
	error = gestalt_procfs_init();
	if (error)
		goto no_procfs;
	pr_info("version %s\n", GESTALT_VERSION);
	return 0;
no_procfs:
	gestalt_tracepoints_exit();
no_tracepoints:
	gestalt_publish_stop();
	gestalt_family_exit();
no_family:
	gestalt_slice_exit();
no_slices:
	gestalt_publish_exit();
	return error;
}

/*
 * Events need the family, and requests may set slices, whose probe publishes
 * events: so events end first, and then requests, and then slices.
 */
static void __exit gestalt_exit(void)
{
	gestalt_procfs_exit();
	gestalt_tracepoints_exit();
	gestalt_publish_stop();
	gestalt_family_exit();
	gestalt_slice_exit();
	gestalt_publish_exit();
}

module_init(gestalt_init);
module_exit(gestalt_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Gestalt: load, tasks, events and pid slices of a node");
MODULE_VERSION(GESTALT_VERSION);
MODULE_ALIAS_GENL_FAMILY(GESTALT_GENL_NAME);
