// SPDX-License-Identifier: GPL-2.0
#include "record.h"

#include <linux/overflow.h>
#include <linux/pid.h>
#include <net/netlink.h>

u32 gestalt_record_size(u32 levels)
{
	return offsetof(struct gestalt_record, numbers) + 3 * levels * sizeof(u32);
}

static void copy_numbers(u32 *numbers, struct pid *pid, const struct gestalt_record *record,
			 struct pid *task)
{
	u32 level;

	for (level = 0; level < record->levels; ++level)
		numbers[level] = pid ? pid_nr_ns(pid, task->numbers[level].ns) : 0;
}

void gestalt_record_numbers(struct gestalt_record *record, struct pid *task, struct pid *process,
			    struct pid *parent)
{
	copy_numbers(record->numbers, task, record, task);
	copy_numbers(record->numbers + record->levels, process, record, task);
	copy_numbers(record->numbers + 2 * record->levels, parent, record, task);
}

int gestalt_put_event(struct sk_buff *skb, const struct gestalt_record *record)
{
	const u32 size = record->levels * sizeof(u32);
	const u32 *numbers = record->numbers;
	struct nlattr *nest = nla_nest_start(skb, GESTALT_A_EVENT);

	if (!nest)
		return -EMSGSIZE;
	if (nla_put(skb, GESTALT_EVENT_A_INFO, sizeof(record->info), &record->info))
		goto full;
	if (size && (nla_put(skb, GESTALT_EVENT_A_PIDS, size, numbers) ||
		     nla_put(skb, GESTALT_EVENT_A_TGIDS, size, numbers + record->levels) ||
		     nla_put(skb, GESTALT_EVENT_A_PPIDS, size, numbers + 2 * record->levels)))
		goto full;
	nla_nest_end(skb, nest);
	return 0;
full:
	nla_nest_cancel(skb, nest);
	return -EMSGSIZE;
}
