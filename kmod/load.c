// SPDX-License-Identifier: GPL-2.0
/* The node's load. Pressure is not here: psi_system is not exported. */
#include "load.h"

#include <linux/mm.h>
#include <linux/sched/loadavg.h>
#include <linux/sched/signal.h>
#include <linux/swap.h>
#include <linux/vmstat.h>

#include "compat.h"
#include "family.h"
#include "view.h"

void gestalt_count(struct pid_namespace *ns, struct gestalt_counts *counts)
{
	struct task_struct *task;
	unsigned int steps = 0;
	u32 number = 1;
	struct pid *pid;

	memset(counts, 0, sizeof(*counts));
	counts->inum = ns->ns.inum;
	rcu_read_lock();
	for (; (pid = gestalt_next_pid(ns, &number)); ++number, gestalt_walk_pause(&steps)) {
		task = pid_task(pid, PIDTYPE_PID);
		if (!task)
			continue;
		++counts->threads;
		counts->processes += thread_group_leader(task);
		switch (task_state_to_char(task)) {
		case 'R':
			++counts->runnable;
			break;
		case 'D':
			++counts->uninterruptible;
			break;
		}
	}
	rcu_read_unlock();
}

static void fill_memory(struct gestalt_load *load)
{
	unsigned long cached = global_node_page_state(NR_FILE_PAGES);
	struct sysinfo memory;
	long available = si_mem_available();

	si_meminfo(&memory);
	load->memory_total_bytes = (u64)memory.totalram << PAGE_SHIFT;
	load->memory_free_bytes = (u64)memory.freeram << PAGE_SHIFT;
	load->memory_available_bytes = (u64)max(available, 0L) << PAGE_SHIFT;
	load->memory_shared_bytes = (u64)memory.sharedram << PAGE_SHIFT;
	load->buffers_bytes = (u64)memory.bufferram << PAGE_SHIFT;
	cached -= min(cached, memory.bufferram);
#ifdef CONFIG_SWAP
	cached -= min(cached, global_node_page_state(NR_SWAPCACHE));
#endif
	load->cached_bytes = (u64)cached << PAGE_SHIFT;
	load->swap_free_bytes = (u64)get_nr_swap_pages() << PAGE_SHIFT;
}

void gestalt_fill_load(struct gestalt_load *load)
{
	struct gestalt_counts counts;
	int i;

	memset(load, 0, sizeof(*load));
	for (i = 0; i < ARRAY_SIZE(load->load_1); ++i)
		load->load_1[i] = READ_ONCE(avenrun[i]);
	load->load_scale = FIXED_1;
	load->cpus_online = num_online_cpus();
	gestalt_count(&init_pid_ns, &counts);
	load->processes = counts.processes;
	load->threads = counts.threads;
	load->runnable = counts.runnable;
	load->uninterruptible = counts.uninterruptible;
	fill_memory(load);
}

void gestalt_fill_cpu(struct gestalt_cpu *cpu, int number)
{
	struct kernel_cpustat times;

	gestalt_fetch_cpu(&times, number);
	*cpu = (struct gestalt_cpu) {
		.cpu = number,
		.user_ns = times.cpustat[CPUTIME_USER],
		.nice_ns = times.cpustat[CPUTIME_NICE],
		.system_ns = times.cpustat[CPUTIME_SYSTEM],
		.idle_ns = times.cpustat[CPUTIME_IDLE],
		.iowait_ns = times.cpustat[CPUTIME_IOWAIT],
		.irq_ns = times.cpustat[CPUTIME_IRQ],
		.softirq_ns = times.cpustat[CPUTIME_SOFTIRQ],
		.steal_ns = times.cpustat[CPUTIME_STEAL],
	};
}

static int put_load(struct sk_buff *reply, struct pid_namespace *named)
{
	struct gestalt_counts counts;
	struct gestalt_load load;
	struct gestalt_cpu cpu;
	int number;

	gestalt_fill_load(&load);
	if (nla_put(reply, GESTALT_A_LOAD, sizeof(load), &load))
		return -EMSGSIZE;
	if (named) {
		gestalt_count(named, &counts);
		if (nla_put(reply, GESTALT_A_LOAD_PIDNS, sizeof(counts), &counts))
			return -EMSGSIZE;
	}
	for_each_online_cpu(number) {
		gestalt_fill_cpu(&cpu, number);
		if (nla_put(reply, GESTALT_A_CPU, sizeof(cpu), &cpu))
			return -EMSGSIZE;
	}
	return 0;
}

int gestalt_do_load(struct sk_buff *skb, struct genl_info *info)
{
	struct nlattr *pid = info->attrs[GESTALT_A_PID];
	struct gestalt_view view;
	struct sk_buff *reply;
	int error;

	error = gestalt_view_open(&view, pid ? nla_get_u32(pid) : 0);
	if (error) {
		NL_SET_ERR_MSG_ATTR(info->extack, pid, "no such process in your pid namespace");
		return error;
	}
	reply = gestalt_reply_new(info, nla_total_size(sizeof(struct gestalt_load)) +
				  nla_total_size(sizeof(struct gestalt_counts)) +
				  nr_cpu_ids * nla_total_size(sizeof(struct gestalt_cpu)));
	error = reply ? put_load(reply, pid ? view.ns : NULL) : -ENOMEM;
	gestalt_view_close(&view);
	return gestalt_reply_send(reply, info, error);
}
