// SPDX-License-Identifier: GPL-2.0
#include "selftest.h"

#include <linux/init.h>
#include <linux/pid_namespace.h>
#include <linux/sched.h>

#include "pidns.h"
#include "view.h"

/* A walk ascends, comes by init and by ourselves, and ends. */
bool __init gestalt_selftest_cursor(void)
{
	u32 number, last = 0, own = task_pid_nr(current);
	bool good = true, saw_init = false, saw_us = false;
	struct pid_namespace *ns;
	unsigned int steps = 0;

	rcu_read_lock();
	for (number = 1; gestalt_next_pid(&init_pid_ns, &number); ++number) {
		good &= number > last;
		last = number;
		saw_init |= number == 1;
		saw_us |= number == own;
		gestalt_walk_pause(&steps);
	}
	/* From the middle of nowhere it goes on at the next one. */
	number = own - 1;
	good &= gestalt_next_pid(&init_pid_ns, &number) && number <= own;
	number = U32_MAX;
	good &= !gestalt_next_pid(&init_pid_ns, &number);
	rcu_read_unlock();

	number = 1;
	ns = gestalt_next_pidns(&init_pid_ns, &number);
	good &= ns == &init_pid_ns && number == 1;
	if (ns)
		put_pid_ns(ns);
	return GESTALT_EXPECT(good) & GESTALT_EXPECT(saw_init) & GESTALT_EXPECT(saw_us);
}
