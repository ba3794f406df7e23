// SPDX-License-Identifier: GPL-2.0
#include "selftest.h"

#include <linux/init.h>
#include <linux/pid_namespace.h>
#include <net/netlink.h>

#include "record.h"
#include "task_dump.h"

/* The structs are part of the protocol, on any machine. */
static_assert(sizeof(struct gestalt_status) == 64);
static_assert(sizeof(struct gestalt_load) == 104);
static_assert(sizeof(struct gestalt_counts) == 24);
static_assert(sizeof(struct gestalt_cpu) == 72);
static_assert(sizeof(struct gestalt_pidns) == 32);
static_assert(sizeof(struct gestalt_task) == 240);
static_assert(sizeof(struct gestalt_event) == 88);
static_assert(sizeof(struct gestalt_slice) == 48);

static bool __init task_attributes(void)
{
	const struct gestalt_task info = { .pid = 7, .comm = "seven" };
	struct nlattr *parsed[GESTALT_TASK_A_MAX + 1];
	const u32 numbers[] = { 4711, 7 };
	struct sk_buff *skb = nlmsg_new(600, GFP_KERNEL);
	unsigned int count = 0, length;
	bool good = true;

	if (!GESTALT_EXPECT(skb))
		return false;
	while (!gestalt_put_task(skb, &info, numbers, ARRAY_SIZE(numbers)))
		++count;
	/* One that does not fit leaves nothing behind. */
	length = skb->len;
	good &= GESTALT_EXPECT(count > 0 && length % count == 0);
	good &= GESTALT_EXPECT(gestalt_put_task(skb, &info, numbers, 2) == -EMSGSIZE);
	good &= GESTALT_EXPECT(skb->len == length);
	if (GESTALT_EXPECT(!nla_parse_nested_deprecated(parsed, GESTALT_TASK_A_MAX,
							(struct nlattr *)skb->data, NULL, NULL)) &&
	    GESTALT_EXPECT(parsed[GESTALT_TASK_A_INFO] && parsed[GESTALT_TASK_A_PIDS])) {
		good &= GESTALT_EXPECT(nla_len(parsed[GESTALT_TASK_A_INFO]) == sizeof(info));
		good &= GESTALT_EXPECT(!nla_memcmp(parsed[GESTALT_TASK_A_INFO], &info, sizeof(info)));
		good &= GESTALT_EXPECT(!nla_memcmp(parsed[GESTALT_TASK_A_PIDS], numbers, 8));
	} else {
		good = false;
	}
	nlmsg_free(skb);
	return good;
}

static bool __init event_attributes(void)
{
	static struct {
		struct gestalt_record record;
		u32 numbers[3 * (MAX_PID_NS_LEVEL + 1)];
	} big __initdata = { .record = { .levels = MAX_PID_NS_LEVEL + 1 } };
	struct gestalt_record none = { .levels = 0 };
	struct sk_buff *skb = nlmsg_new(600, GFP_KERNEL);
	bool good = true;

	if (!GESTALT_EXPECT(skb))
		return false;
	good &= GESTALT_EXPECT(gestalt_record_size(0) == sizeof(none));
	good &= GESTALT_EXPECT(gestalt_record_size(2) == sizeof(none) + 24);
	good &= GESTALT_EXPECT(!gestalt_put_event(skb, &big.record));
	good &= GESTALT_EXPECT(gestalt_put_event(skb, &big.record) == -EMSGSIZE);
	skb_trim(skb, 0);
	good &= GESTALT_EXPECT(!gestalt_put_event(skb, &none));
	good &= GESTALT_EXPECT(skb->len == 2 * NLA_HDRLEN + sizeof(none.info));
	nlmsg_free(skb);
	return good;
}

bool __init gestalt_selftest_attributes(void)
{
	return task_attributes() & event_attributes();
}
