// SPDX-License-Identifier: GPL-2.0
#include "slice_probe.h"

#include <linux/build_bug.h>
#include <linux/errno.h>
#include <linux/idr.h>
#include <linux/kprobes.h>
#include <linux/printk.h>
#include <linux/ptrace.h>

#include "compat.h"
#include "slice.h"

#if GESTALT_HAS_KPROBES

static int last_error;

/*
 * idr_alloc_cyclic(idr, entry, start, end, gfp). It has other users than
 * alloc_pid(), but an IDR that a slice is for is only alloc_pid()'s.
 */
static_assert(__same_type(idr_alloc_cyclic, int (struct idr *, void *, int, int, gfp_t)));

static int before_alloc(struct kprobe *probe, struct pt_regs *regs)
{
	gestalt_slice_before_alloc((struct idr *)regs_get_kernel_argument(regs, 0),
				   regs_get_kernel_argument(regs, 2),
				   regs_get_kernel_argument(regs, 3));
	return 0;
}

static struct kprobe probe = {
	.symbol_name = "idr_alloc_cyclic",
	.pre_handler = before_alloc,
};

int gestalt_slice_probe_init(void)
{
	/* Memory may be there the next time. */
	if (last_error && last_error != -ENOMEM)
		return last_error;
	/* It was left here when that failed, and one that has a name, too, is refused. */
	probe.addr = NULL;
	probe.flags = 0;
	last_error = register_kprobe(&probe);
	if (last_error)
		pr_warn("no probe on %s (%d): slices are held less exactly\n", probe.symbol_name,
			last_error);
	return last_error;
}

void gestalt_slice_probe_exit(void)
{
	unregister_kprobe(&probe);
}

bool gestalt_slice_probe_possible(void)
{
	return !last_error;
}

#else

int gestalt_slice_probe_init(void)
{
	return -EOPNOTSUPP;
}

void gestalt_slice_probe_exit(void) {}

bool gestalt_slice_probe_possible(void)
{
	return false;
}

#endif
