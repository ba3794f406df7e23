/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _GESTALT_SLICE_REQUEST_H
#define _GESTALT_SLICE_REQUEST_H

struct genl_info;
struct sk_buff;

int gestalt_do_slice_set(struct sk_buff *skb, struct genl_info *info);
int gestalt_do_slice_get(struct sk_buff *skb, struct genl_info *info);
int gestalt_do_slice_clear(struct sk_buff *skb, struct genl_info *info);

#endif /* _GESTALT_SLICE_REQUEST_H */
