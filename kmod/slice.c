// SPDX-License-Identifier: GPL-2.0
/*
 * How a slice holds. alloc_pid() calls idr_alloc_cyclic() for each namespace
 * that the new task is in, under a lock of its own (pidmap_lock), which all that
 * allocates and frees pids holds. That takes the first free number from the
 * cursor on. slice_probe.c is called at its very beginning, so under the lock,
 * too: what we see free there is free when it is taken, however many fork at the
 * same time, and however many numbers are in use. We look for the first free
 * number from the cursor to the slice's last one, then from its first one, and
 * make it the cursor: that number is the one that is taken. If there is none,
 * the slice is full, and the kernel goes on where it likes: we only tell.
 *
 * A pid that is asked for by clone3(2) does not come this way. A cursor that is
 * written by way of ns_last_pid is put right at the next allocation; one that
 * is written just between our look and the kernel's is obeyed once.
 *
 * If idr_alloc_cyclic() cannot be probed, we look after each fork and rewind
 * early. Forks that run at the same time may then leave the slice, if more than
 * the margin of them do, or that many numbers in a row are in use.
 */
#include "slice.h"

#include <linux/hashtable.h>
#include <linux/idr.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/netlink.h>
#include <linux/notifier.h>
#include <linux/pid_namespace.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "free_pid.h"
#include "publish.h"
#include "slice_probe.h"

#define SLICES_MAX 1024

struct slice {
	struct hlist_node node;
	struct rcu_head rcu;
	struct pid_namespace *ns; /* counted */
	struct gestalt_slice_owner owner;
	u32 first, last;
	bool full, dead;
	u64 rewound, exhausted, outside;
};

static DEFINE_HASHTABLE(slices, 6); /* by the address of the namespace's IDR */
static DEFINE_MUTEX(lock);	    /* whoever changes it */
static unsigned int total;

static bool use_probe = true;
module_param(use_probe, bool, 0444);
MODULE_PARM_DESC(use_probe, "hold pid slices exactly, by a kprobe (default Y)");
static bool exact;

static struct slice *find(const struct idr *idr)
{
	struct slice *slice;

	hash_for_each_possible_rcu(slices, slice, node, (unsigned long)idr,
				   lockdep_is_held(&lock)) {
		if (&slice->ns->idr == idr)
			return slice;
	}
	return NULL;
}

static void tell(const struct slice *slice, u32 type, u32 value)
{
	struct gestalt_event event = {
		.type = type,
		.value = value,
		.pidns_inum = slice->ns->ns.inum,
		.slice_first = slice->first,
		.slice_last = slice->last,
	};

	gestalt_publish(&event, NULL, NULL, NULL);
}

static void rewind(struct slice *slice, struct idr *idr, u32 number)
{
	WRITE_ONCE(slice->rewound, slice->rewound + 1);
	idr_set_cursor(idr, number);
	tell(slice, GESTALT_EVENT_SLICE_REWOUND, number);
}

/* The slice is full; the kernel's own rule says what is taken. */
static void leave(struct slice *slice, struct idr *idr, u32 start, u32 end)
{
	u32 cursor = max(idr_get_cursor(idr), start);
	u32 number = gestalt_free_number(idr, cursor, end - 1);

	if (!slice->full) {
		slice->full = true;
		WRITE_ONCE(slice->exhausted, slice->exhausted + 1);
		tell(slice, GESTALT_EVENT_SLICE_EXHAUSTED, 0);
	}
	if (!number)
		number = gestalt_free_number(idr, start, end - 1);
	if (number) {
		WRITE_ONCE(slice->outside, slice->outside + 1);
		tell(slice, GESTALT_EVENT_SLICE_OUTSIDE, number);
	}
}

void gestalt_slice_before_alloc(struct idr *idr, u32 start, u32 end)
{
	u32 cursor, last, number;
	struct slice *slice;

	if (!READ_ONCE(total))
		return;
	rcu_read_lock();
	slice = find(idr);
	if (!slice)
		goto out;
	cursor = idr_get_cursor(idr);
	last = min(slice->last, end - 1);
	number = gestalt_free_number(idr, gestalt_slice_start(cursor, slice->first, last), last);
	if (!number)
		number = gestalt_free_number(idr, slice->first, last);
	if (!number) {
		leave(slice, idr, start, end);
	} else {
		slice->full = false;
		if (number < cursor || cursor < slice->first)
			rewind(slice, idr, number);
	}
out:
	rcu_read_unlock();
}

void gestalt_slice_after_fork(struct task_struct *child)
{
	struct pid *pid = task_pid(child);
	struct slice *slice;
	u32 number, level;
	struct idr *idr;

	if (!READ_ONCE(total) || exact)
		return;
	rcu_read_lock();
	for (level = 0; level <= pid->level; ++level) {
		idr = &pid->numbers[level].ns->idr;
		slice = find(idr);
		if (!slice)
			continue;
		number = pid->numbers[level].nr;
		if (number < slice->first || number > slice->last) {
			WRITE_ONCE(slice->outside, slice->outside + 1);
			tell(slice, GESTALT_EVENT_SLICE_OUTSIDE, number);
		}
		if (gestalt_slice_near_end(idr_get_cursor(idr), slice->first, slice->last))
			rewind(slice, idr, slice->first);
	}
	rcu_read_unlock();
}

static void remove(struct slice *slice)
{
	lockdep_assert_held(&lock);
	hash_del_rcu(&slice->node);
	WRITE_ONCE(total, total - 1);
	/* Whoever still sees the slice allocates in the namespace, and so has it. */
	put_pid_ns(slice->ns);
	kfree_rcu(slice, rcu);
}

static void remove_dead(struct work_struct *work)
{
	struct hlist_node *next;
	struct slice *slice;
	int i;

	mutex_lock(&lock);
	hash_for_each_safe(slices, i, next, slice, node) {
		if (READ_ONCE(slice->dead))
			remove(slice);
	}
	mutex_unlock(&lock);
}

static DECLARE_WORK(undertaker, remove_dead);

void gestalt_slice_after_exit(struct task_struct *task)
{
	struct pid *pid = task_tgid(task);
	struct slice *slice;

	if (!READ_ONCE(total) || !pid || !is_child_reaper(pid))
		return;
	rcu_read_lock();
	slice = find(&ns_of_pid(pid)->idr);
	if (slice) {
		WRITE_ONCE(slice->dead, true);
		schedule_work(&undertaker);
	}
	rcu_read_unlock();
}

static bool same(const struct gestalt_slice_owner *a, const struct gestalt_slice_owner *b)
{
	return a->net == b->net && a->portid == b->portid;
}

int gestalt_slice_set(struct pid_namespace *ns, const struct gestalt_slice_owner *owner, u32 first,
		      u32 last)
{
	struct slice *slice, *old;
	int error = 0;

	slice = kzalloc(sizeof(*slice), GFP_KERNEL_ACCOUNT);
	if (!slice)
		return -ENOMEM;
	slice->first = first;
	slice->last = last;
	slice->owner = *owner;

	mutex_lock(&lock);
	old = find(&ns->idr);
	if (old && !same(&old->owner, owner))
		error = -EBUSY;
	else if (!old && total == SLICES_MAX)
		error = -ENOSPC;
	if (error) {
		kfree(slice);
	} else {
		if (!exact && use_probe && !gestalt_slice_probe_init())
			WRITE_ONCE(exact, true);
		slice->ns = get_pid_ns(ns);
		WRITE_ONCE(total, total + 1);
		/* The new one first: whoever searches finds either. */
		hash_add_rcu(slices, &slice->node, (unsigned long)&ns->idr);
		if (old)
			remove(old);
	}
	mutex_unlock(&lock);
	return error;
}

int gestalt_slice_get(struct pid_namespace *ns, struct gestalt_slice *answer)
{
	struct slice *slice;

	rcu_read_lock();
	slice = find(&ns->idr);
	if (slice) {
		*answer = (struct gestalt_slice) {
			.first = slice->first,
			.last = slice->last,
			.next = idr_get_cursor(&ns->idr),
			.pidns_inum = ns->ns.inum,
			.rewound = READ_ONCE(slice->rewound),
			.exhausted = READ_ONCE(slice->exhausted),
			.outside = READ_ONCE(slice->outside),
			.exact = READ_ONCE(exact),
		};
	}
	rcu_read_unlock();
	return slice ? 0 : -ENOENT;
}

int gestalt_slice_clear(struct pid_namespace *ns)
{
	struct slice *slice;

	mutex_lock(&lock);
	slice = find(&ns->idr);
	if (slice)
		remove(slice);
	mutex_unlock(&lock);
	return slice ? 0 : -ENOENT;
}

unsigned int gestalt_slice_total(void)
{
	return READ_ONCE(total);
}

bool gestalt_slice_exact(void)
{
	return READ_ONCE(exact) || (use_probe && gestalt_slice_probe_possible());
}

static int on_release(struct notifier_block *block, unsigned long event, void *data)
{
	struct netlink_notify *notify = data;
	struct gestalt_slice_owner owner = { .net = notify->net, .portid = notify->portid };
	struct hlist_node *next;
	struct slice *slice;
	int i;

	if (event != NETLINK_URELEASE || notify->protocol != NETLINK_GENERIC || !READ_ONCE(total))
		return NOTIFY_DONE;
	mutex_lock(&lock);
	hash_for_each_safe(slices, i, next, slice, node) {
		if (same(&slice->owner, &owner))
			remove(slice);
	}
	mutex_unlock(&lock);
	return NOTIFY_DONE;
}

static struct notifier_block release_notifier = { .notifier_call = on_release };

int __init gestalt_slice_init(void)
{
	return netlink_register_notifier(&release_notifier);
}

void gestalt_slice_exit(void)
{
	struct hlist_node *next;
	struct slice *slice;
	int i;

	netlink_unregister_notifier(&release_notifier);
	if (exact)
		gestalt_slice_probe_exit();
	cancel_work_sync(&undertaker);
	mutex_lock(&lock);
	hash_for_each_safe(slices, i, next, slice, node)
		remove(slice);
	mutex_unlock(&lock);
}
