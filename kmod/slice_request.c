// SPDX-License-Identifier: GPL-2.0
#include "slice_request.h"

#include <linux/netlink.h>
#include <linux/pid_namespace.h>

#include "compat.h"
#include "family.h"
#include "free_pid.h"
#include "slice.h"

/* Whoever opened the socket must have the capability, too: sockets can be handed on. */
static int allowed(struct sk_buff *skb, struct genl_info *info, struct pid_namespace *ns)
{
	if (netlink_ns_capable(skb, ns->user_ns, CAP_SYS_ADMIN))
		return 0;
	GENL_SET_ERR_MSG(info, "CAP_SYS_ADMIN over your pid namespace is needed");
	return -EPERM;
}

static int get_range(struct genl_info *info, struct pid_namespace *ns, u32 *first, u32 *last)
{
	u32 pid_max = gestalt_pid_max(ns) ? : PID_MAX_LIMIT;

	if (!info->attrs[GESTALT_A_SLICE_FIRST] || !info->attrs[GESTALT_A_SLICE_LAST]) {
		GENL_SET_ERR_MSG(info, "a slice needs its first and its last pid");
		return -EINVAL;
	}
	*first = nla_get_u32(info->attrs[GESTALT_A_SLICE_FIRST]);
	*last = nla_get_u32(info->attrs[GESTALT_A_SLICE_LAST]);
	if (*first < GESTALT_SLICE_LOWEST) {
		NL_SET_ERR_MSG_ATTR(info->extack, info->attrs[GESTALT_A_SLICE_FIRST],
				    "a slice cannot begin before 300");
		return -ERANGE;
	}
	if (*last < *first || *last >= pid_max) {
		NL_SET_ERR_MSG_ATTR(info->extack, info->attrs[GESTALT_A_SLICE_LAST],
				    "a slice ends behind its first pid, and before pid_max");
		return -ERANGE;
	}
	return 0;
}

int gestalt_do_slice_set(struct sk_buff *skb, struct genl_info *info)
{
	struct pid_namespace *ns = task_active_pid_ns(current);
	struct gestalt_slice_owner owner = { .net = genl_info_net(info),
					     .portid = info->snd_portid };
	u32 first, last;
	int error;

	error = allowed(skb, info, ns);
	if (!error)
		error = get_range(info, ns, &first, &last);
	if (error)
		return error;
	error = gestalt_slice_set(ns, &owner, first, last);
	if (error == -EBUSY)
		GENL_SET_ERR_MSG(info, "another socket has set a slice for this pid namespace");
	else if (error == -ENOSPC)
		GENL_SET_ERR_MSG(info, "too many slices on this node");
	return error;
}

int gestalt_do_slice_get(struct sk_buff *skb, struct genl_info *info)
{
	struct gestalt_slice slice;
	struct sk_buff *reply;
	int error;

	error = gestalt_slice_get(task_active_pid_ns(current), &slice);
	if (error) {
		GENL_SET_ERR_MSG(info, "your pid namespace has no slice");
		return error;
	}
	reply = gestalt_reply_new(info, nla_total_size(sizeof(slice)));
	error = reply ? nla_put(reply, GESTALT_A_SLICE, sizeof(slice), &slice) : -ENOMEM;
	return gestalt_reply_send(reply, info, error);
}

int gestalt_do_slice_clear(struct sk_buff *skb, struct genl_info *info)
{
	struct pid_namespace *ns = task_active_pid_ns(current);
	int error = allowed(skb, info, ns);

	if (error)
		return error;
	error = gestalt_slice_clear(ns);
	if (error)
		GENL_SET_ERR_MSG(info, "your pid namespace has no slice");
	return error;
}
