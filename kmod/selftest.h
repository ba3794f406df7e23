/* SPDX-License-Identifier: GPL-2.0 */
/* Tests at load, of a module built with DEBUG; if one fails, it is not loaded. */
#ifndef _GESTALT_SELFTEST_H
#define _GESTALT_SELFTEST_H

#include <linux/printk.h>
#include <linux/types.h>

#ifdef DEBUG
bool gestalt_selftest_ring(void);
bool gestalt_selftest_slice(void);
bool gestalt_selftest_attributes(void);
bool gestalt_selftest_cursor(void);

static inline bool gestalt_selftest(void)
{
	bool passed = gestalt_selftest_ring();

	passed &= gestalt_selftest_slice();
	passed &= gestalt_selftest_attributes();
	passed &= gestalt_selftest_cursor();
	pr_info("self-tests %s\n", passed ? "passed" : "FAILED");
	return passed;
}
#else
static inline bool gestalt_selftest(void)
{
	return true;
}
#endif

/* Says what was not so. */
#define GESTALT_EXPECT(condition) ({					\
	bool _so = !!(condition);					\
									\
	if (!_so)							\
		pr_err("self-test %s:%d: not so: %s\n", __func__, __LINE__, #condition); \
	_so;								\
})

#endif /* _GESTALT_SELFTEST_H */
