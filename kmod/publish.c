// SPDX-License-Identifier: GPL-2.0
#include "publish.h"

#include <linux/irq_work.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/pid.h>
#include <linux/preempt.h>
#include <linux/rcupdate.h>
#include <linux/skbuff.h>
#include <linux/timekeeping.h>
#include <linux/workqueue.h>

#include "family.h"
#include "record.h"
#include "ring.h"

static unsigned int ring_kib = 256;
module_param(ring_kib, uint, 0444);
MODULE_PARM_DESC(ring_kib, "KiB of events kept for each CPU, a power of two (default 256)");

/* Events wait so long for company, unless a ring is half full. */
#define DELAY 1

static DEFINE_PER_CPU(struct gestalt_ring, rings);
static DEFINE_PER_CPU(u32, limits); /* the worker's */

enum { KICKED, URGENT };
static unsigned long state;
static bool stopped;

/* The worker's; others only look. */
static u64 sequence, dropped;
static u64 owed; /* lost, and not yet told */

static struct workqueue_struct *queue;
static void send_events(struct work_struct *work);
static DECLARE_DELAYED_WORK(sender, send_events);

/* A work cannot be queued where a pid is being allocated: that takes the scheduler's locks. */
static void wake_sender(struct irq_work *work)
{
	if (test_bit(URGENT, &state))
		mod_delayed_work(queue, &sender, 0);
	else
		queue_delayed_work(queue, &sender, DELAY);
}

static DEFINE_IRQ_WORK(waker, wake_sender);

static void wake(bool urgent)
{
	bool first = !test_and_set_bit(KICKED, &state);

	if (urgent)
		first |= !test_and_set_bit(URGENT, &state);
	if (first)
		irq_work_queue(&waker);
}

/*
 * Until its breakpoint has been made a jump, the probe on slices runs in what counts
 * as an NMI: there the usual clock, whose lock such a one may have interrupted, is not
 * to be asked. The other one may be some nanoseconds off.
 */
static u64 now_ns(void)
{
	return in_nmi() ? ktime_get_boot_fast_ns() : ktime_get_boottime_ns();
}

void gestalt_publish(struct gestalt_event *event, struct pid *task, struct pid *process,
		     struct pid *parent)
{
	u32 levels = task ? task->level + 1 : 0;
	struct gestalt_record *record;
	struct gestalt_ring *ring;
	unsigned long flags;
	bool urgent = true;

	rcu_read_lock();
	if (READ_ONCE(stopped) || !gestalt_events_wanted()) {
		rcu_read_unlock();
		return;
	}
	local_irq_save(flags);
	ring = this_cpu_ptr(&rings);
	record = gestalt_ring_reserve(ring, gestalt_record_size(levels));
	if (record) {
		event->boottime_ns = now_ns();
		record->info = *event;
		record->levels = levels;
		record->reserved = 0;
		gestalt_record_numbers(record, task, process, parent);
		urgent = gestalt_ring_commit(ring);
	}
	local_irq_restore(flags);
	wake(urgent);
	rcu_read_unlock();
}

/* An event whose message cannot be had still has its number: that is the gap. */
static struct sk_buff *put_event(struct sk_buff *skb, struct gestalt_record *record)
{
	WRITE_ONCE(sequence, sequence + 1);
	record->info.sequence = sequence;
	if (skb && !gestalt_put_event(skb, record))
		return skb;
	if (skb)
		gestalt_events_send(skb);
	skb = gestalt_events_new(GESTALT_EVENTS_SIZE - NLMSG_HDRLEN - GENL_HDRLEN);
	if (skb && !gestalt_put_event(skb, record))
		return skb;
	nlmsg_free(skb);
	++owed;
	return NULL;
}

static struct sk_buff *put_resync(struct sk_buff *skb)
{
	struct gestalt_record record = { .info = { .type = GESTALT_EVENT_RESYNC } };
	u64 lost = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		lost += gestalt_ring_lost(per_cpu_ptr(&rings, cpu));
	WRITE_ONCE(sequence, sequence + lost);
	owed += lost;
	if (!owed)
		return skb;
	record.info.value = owed;
	record.info.boottime_ns = ktime_get_boottime_ns();
	skb = put_event(skb, &record);
	if (skb) {
		WRITE_ONCE(dropped, dropped + owed);
		owed = 0;
	}
	return skb;
}

/* The ring whose first record is the oldest, and no younger than UNTIL. */
static struct gestalt_ring *oldest(u64 until, struct gestalt_record **record)
{
	struct gestalt_record *first;
	struct gestalt_ring *ring, *found = NULL;
	int cpu;

	for_each_possible_cpu(cpu) {
		ring = per_cpu_ptr(&rings, cpu);
		first = gestalt_ring_peek(ring, per_cpu(limits, cpu));
		if (!first || first->info.boottime_ns > until)
			continue;
		until = first->info.boottime_ns;
		*record = first;
		found = ring;
	}
	return found;
}

/*
 * What happens because of an event has a later time, and the event is in its
 * ring before that. So of what is no later than a moment before we look, we
 * miss nothing that something else that we see came from.
 */
static void send_events(struct work_struct *work)
{
	u64 until = ktime_get_boottime_ns();
	struct gestalt_record *record;
	struct gestalt_ring *ring;
	struct sk_buff *skb = NULL;
	bool more = false;
	int cpu;

	clear_bit(KICKED, &state);
	clear_bit(URGENT, &state);
	/* With the barrier in test_and_set_bit(): either we see the record, or are woken. */
	smp_mb__after_atomic();
	for_each_possible_cpu(cpu)
		per_cpu(limits, cpu) = gestalt_ring_limit(per_cpu_ptr(&rings, cpu));
	skb = put_resync(skb);
	while ((ring = oldest(until, &record))) {
		skb = put_event(skb, record);
		gestalt_ring_consume(ring);
		cond_resched();
	}
	if (skb)
		gestalt_events_send(skb);
	for_each_possible_cpu(cpu)
		more |= !!gestalt_ring_peek(per_cpu_ptr(&rings, cpu), per_cpu(limits, cpu));
	if (more)
		wake(false);
	else if (owed && !READ_ONCE(stopped))
		queue_delayed_work(queue, &sender, HZ / 10);
}

u64 gestalt_publish_sequence(void)
{
	return READ_ONCE(sequence);
}

u64 gestalt_publish_dropped(void)
{
	return READ_ONCE(dropped);
}

static void free_rings(void)
{
	int cpu;

	for_each_possible_cpu(cpu)
		gestalt_ring_free(per_cpu_ptr(&rings, cpu));
}

int __init gestalt_publish_init(void)
{
	int cpu, error;

	if (ring_kib < 4 || ring_kib > 65536)
		return -EINVAL;
	for_each_possible_cpu(cpu) {
		error = gestalt_ring_init(per_cpu_ptr(&rings, cpu), ring_kib * 1024);
		if (error)
			goto failed;
	}
	queue = alloc_workqueue("gestalt", WQ_UNBOUND | WQ_HIGHPRI, 1);
	if (queue)
		return 0;
	error = -ENOMEM;
failed:
	free_rings();
	return error;
}

void gestalt_publish_stop(void)
{
	WRITE_ONCE(stopped, true);
	/* Publishers are in RCU read sections. */
	synchronize_rcu();
	irq_work_sync(&waker);
	cancel_delayed_work_sync(&sender);
	/* The worker may have woken itself, but not twice. */
	irq_work_sync(&waker);
	cancel_delayed_work_sync(&sender);
}

void gestalt_publish_exit(void)
{
	destroy_workqueue(queue);
	free_rings();
}
