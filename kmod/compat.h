/* SPDX-License-Identifier: GPL-2.0 */
/* What differs between the kernels that are supported; nothing else may ask. */
#ifndef _GESTALT_COMPAT_H
#define _GESTALT_COMPAT_H

#include <linux/kernel_stat.h>
#include <linux/pid_namespace.h>
#include <linux/tick.h>
#include <linux/tracepoint.h>
#include <linux/version.h>
#include <net/genetlink.h>

/* A dump's attributes are in a struct genl_info since 6.7. */
static inline struct nlattr **gestalt_dump_attributes(struct netlink_callback *cb)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 7, 0)
	return genl_dumpit_info(cb)->info.attrs;
#else
	return genl_dumpit_info(cb)->attrs;
#endif
}

/* Each pid namespace has its own pid_max since 6.14; before, none is exported. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 14, 0)
#define GESTALT_HAS_PID_MAX 1
static inline u32 gestalt_pid_max(const struct pid_namespace *ns)
{
	return READ_ONCE(ns->pid_max);
}
#else
#define GESTALT_HAS_PID_MAX 0
static inline u32 gestalt_pid_max(const struct pid_namespace *ns)
{
	return 0;
}
#endif

/* Idle time that is not yet accounted, as /proc/stat adds it: since 7.1 it is there. */
static inline void gestalt_fetch_cpu(struct kernel_cpustat *times, int cpu)
{
	kcpustat_cpu_fetch(times, cpu);
#if LINUX_VERSION_CODE < KERNEL_VERSION(7, 1, 0)
	{
		u64 idle_us = get_cpu_idle_time_us(cpu, NULL);
		u64 iowait_us = get_cpu_iowait_time_us(cpu, NULL);

		if (idle_us != U64_MAX)
			times->cpustat[CPUTIME_IDLE] = idle_us * NSEC_PER_USEC;
		if (iowait_us != U64_MAX)
			times->cpustat[CPUTIME_IOWAIT] = iowait_us * NSEC_PER_USEC;
	}
#endif
}

/* sched_process_exit says since 6.16 whether that was the last thread. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 16, 0)
#define GESTALT_EXIT_ARGUMENTS void *data, struct task_struct *task, bool last
#else
#define GESTALT_EXIT_ARGUMENTS void *data, struct task_struct *task
#endif

/* Without this flag in the kernel nobody is kept from joining the group. */
#ifndef GENL_MCAST_CAP_SYS_ADMIN
#error "this kernel cannot restrict a multicast group (GENL_MCAST_CAP_SYS_ADMIN)"
#endif

/* What a probe on a function needs in order to see its arguments. */
#if defined(CONFIG_KPROBES) && defined(CONFIG_HAVE_FUNCTION_ARG_ACCESS_API)
#define GESTALT_HAS_KPROBES 1
#else
#define GESTALT_HAS_KPROBES 0
#endif

#endif /* _GESTALT_COMPAT_H */
