// SPDX-License-Identifier: GPL-2.0
#include "family.h"

#include <linux/module.h>

#include "compat.h"
#include "load.h"
#include "pidns.h"
#include "publish.h"
#include "slice.h"
#include "slice_request.h"
#include "task_dump.h"

static struct genl_family family;

/* One for each command: what it does not know, it refuses. */
static const struct nla_policy load_policy[] = {
	[GESTALT_A_PID] = NLA_POLICY_MIN(NLA_U32, 1),
};

static const struct nla_policy tasks_policy[] = {
	[GESTALT_A_PID] = NLA_POLICY_MIN(NLA_U32, 1),
	[GESTALT_A_TASK_PID] = NLA_POLICY_MIN(NLA_U32, 1),
	[GESTALT_A_THREADS] = { .type = NLA_FLAG },
};

static const struct nla_policy slice_policy[] = {
	[GESTALT_A_SLICE_FIRST] = { .type = NLA_U32 },
	[GESTALT_A_SLICE_LAST] = { .type = NLA_U32 },
};

/* Of one attribute: a policy of none would be taken for the family's. */
static const struct nla_policy no_policy[] = {
	[GESTALT_A_PID] = { .type = NLA_REJECT },
};

struct sk_buff *gestalt_reply_new(struct genl_info *info, size_t room)
{
	struct sk_buff *reply = genlmsg_new(room, GFP_KERNEL);

	if (reply && !genlmsg_put_reply(reply, info, &family, 0, info->genlhdr->cmd)) {
		nlmsg_free(reply);
		reply = NULL;
	}
	return reply;
}

int gestalt_reply_send(struct sk_buff *reply, struct genl_info *info, int error)
{
	if (error) {
		nlmsg_free(reply);
		return error;
	}
	genlmsg_end(reply, genlmsg_data(nlmsg_data(nlmsg_hdr(reply))));
	return genlmsg_reply(reply, info);
}

void *gestalt_dump_begin(struct sk_buff *skb, struct netlink_callback *cb, u8 command)
{
	return genlmsg_put(skb, NETLINK_CB(cb->skb).portid, cb->nlh->nlmsg_seq, &family,
			   NLM_F_MULTI, command);
}

bool gestalt_events_wanted(void)
{
	return genl_has_listeners(&family, &init_net, 0);
}

struct sk_buff *gestalt_events_new(size_t room)
{
	struct sk_buff *skb = genlmsg_new(room, GFP_KERNEL | __GFP_NOWARN);

	if (skb && !genlmsg_put(skb, 0, 0, &family, 0, GESTALT_CMD_EVENTS)) {
		nlmsg_free(skb);
		skb = NULL;
	}
	return skb;
}

/*
 * Not GFP_KERNEL: then a listener that is slow would make the sender yield the
 * CPU, and the others wait.
 */
void gestalt_events_send(struct sk_buff *skb)
{
	genlmsg_end(skb, genlmsg_data(nlmsg_data(nlmsg_hdr(skb))));
	genlmsg_multicast(&family, skb, 0, 0, GFP_ATOMIC);
}

static int do_status(struct sk_buff *skb, struct genl_info *info)
{
	struct gestalt_status status = {
		.api = GESTALT_GENL_VERSION,
		.sequence = gestalt_publish_sequence(),
		.dropped = gestalt_publish_dropped(),
		.slices = gestalt_slice_total(),
		.listening = gestalt_events_wanted(),
		.version = GESTALT_VERSION,
	};
	struct sk_buff *reply;
	int error = -ENOMEM;

	if (gestalt_slice_exact())
		status.features |= GESTALT_FEATURE_SLICE_EXACT;
	if (IS_ENABLED(CONFIG_CGROUPS))
		status.features |= GESTALT_FEATURE_CGROUP_ID;
	if (GESTALT_HAS_PID_MAX)
		status.features |= GESTALT_FEATURE_PID_MAX;
#ifdef DEBUG
	status.features |= GESTALT_FEATURE_SELFTEST;
#endif
	reply = gestalt_reply_new(info, nla_total_size(sizeof(status)));
	if (reply)
		error = nla_put(reply, GESTALT_A_STATUS, sizeof(status), &status);
	return gestalt_reply_send(reply, info, error);
}

#define WITH_POLICY(name) .policy = name, .maxattr = ARRAY_SIZE(name) - 1

static const struct genl_ops operations[] = {
	{
		.cmd = GESTALT_CMD_STATUS,
		.doit = do_status,
		WITH_POLICY(no_policy),
	},
	{
		.cmd = GESTALT_CMD_LOAD,
		.doit = gestalt_do_load,
		WITH_POLICY(load_policy),
	},
	{
		.cmd = GESTALT_CMD_PIDNS,
		.start = gestalt_pidns_start,
		.dumpit = gestalt_pidns_dump,
		.done = gestalt_pidns_done,
		WITH_POLICY(no_policy),
	},
	{
		.cmd = GESTALT_CMD_TASKS,
		.start = gestalt_tasks_start,
		.dumpit = gestalt_tasks_dump,
		.done = gestalt_tasks_done,
		WITH_POLICY(tasks_policy),
	},
	{
		.cmd = GESTALT_CMD_SLICE_SET,
		.doit = gestalt_do_slice_set,
		WITH_POLICY(slice_policy),
	},
	{
		.cmd = GESTALT_CMD_SLICE_GET,
		.doit = gestalt_do_slice_get,
		WITH_POLICY(no_policy),
	},
	{
		.cmd = GESTALT_CMD_SLICE_CLEAR,
		.doit = gestalt_do_slice_clear,
		WITH_POLICY(no_policy),
	},
};

/* Sent to the initial network namespace only, so its CAP_SYS_ADMIN is meant. */
static const struct genl_multicast_group groups[] = {
	{ .name = GESTALT_GENL_EVENTS, .flags = GENL_MCAST_CAP_SYS_ADMIN },
};

static struct genl_family family __ro_after_init = {
	.name = GESTALT_GENL_NAME,
	.version = GESTALT_GENL_VERSION,
	.maxattr = GESTALT_A_REQUEST_MAX,
	.netnsok = true,
	.parallel_ops = true,
	.ops = operations,
	.n_ops = ARRAY_SIZE(operations),
	.resv_start_op = GESTALT_CMD_UNSPEC + 1,
	.mcgrps = groups,
	.n_mcgrps = ARRAY_SIZE(groups),
	.module = THIS_MODULE,
};

int __init gestalt_family_init(void)
{
	return genl_register_family(&family);
}

void gestalt_family_exit(void)
{
	genl_unregister_family(&family);
}
