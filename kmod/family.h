/* SPDX-License-Identifier: GPL-2.0 */
/* The generic netlink family: what can be asked, and by whom. */
#ifndef _GESTALT_FAMILY_H
#define _GESTALT_FAMILY_H

#include <net/genetlink.h>
#include <gestalt.h>

#define GESTALT_VERSION "1.0.0"

int gestalt_family_init(void);
void gestalt_family_exit(void);

/* An answer with room for so much; gestalt_reply_send() takes it, also with an error. */
struct sk_buff *gestalt_reply_new(struct genl_info *info, size_t room);
int gestalt_reply_send(struct sk_buff *reply, struct genl_info *info, int error);

/* A message of a dump. */
void *gestalt_dump_begin(struct sk_buff *skb, struct netlink_callback *cb, u8 command);

bool gestalt_events_wanted(void);
struct sk_buff *gestalt_events_new(size_t room);
void gestalt_events_send(struct sk_buff *skb);

#endif /* _GESTALT_FAMILY_H */
