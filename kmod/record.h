/* SPDX-License-Identifier: GPL-2.0 */
/* An event as it lies in a ring, and as it goes out. */
#ifndef _GESTALT_RECORD_H
#define _GESTALT_RECORD_H

#include <linux/types.h>
#include <gestalt.h>

struct pid;
struct sk_buff;

struct gestalt_record {
	struct gestalt_event info;
	u32 levels;	/* 0: the event is of no task */
	u32 reserved;
	u32 numbers[];	/* pids, tgids, ppids: LEVELS of each */
};

u32 gestalt_record_size(u32 levels);
/* Any of the three may be NULL, or have fewer levels: then there is a 0. */
void gestalt_record_numbers(struct gestalt_record *record, struct pid *task, struct pid *process,
			    struct pid *parent);
int gestalt_put_event(struct sk_buff *skb, const struct gestalt_record *record);

#endif /* _GESTALT_RECORD_H */
