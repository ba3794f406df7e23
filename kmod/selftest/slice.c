// SPDX-License-Identifier: GPL-2.0
#include "selftest.h"

#include <linux/idr.h>
#include <linux/init.h>

#include "free_pid.h"

static bool __init arithmetic(void)
{
	bool good = true;

	good &= GESTALT_EXPECT(gestalt_slice_start(0, 300, 400) == 300);
	good &= GESTALT_EXPECT(gestalt_slice_start(299, 300, 400) == 300);
	good &= GESTALT_EXPECT(gestalt_slice_start(300, 300, 400) == 300);
	good &= GESTALT_EXPECT(gestalt_slice_start(400, 300, 400) == 400);
	good &= GESTALT_EXPECT(gestalt_slice_start(401, 300, 400) == 300);
	good &= GESTALT_EXPECT(gestalt_slice_start(301, 300, 300) == 300);
	good &= GESTALT_EXPECT(gestalt_slice_near_end(299, 300, 699));
	good &= GESTALT_EXPECT(!gestalt_slice_near_end(300, 300, 699));
	good &= GESTALT_EXPECT(!gestalt_slice_near_end(599, 300, 699));
	good &= GESTALT_EXPECT(gestalt_slice_near_end(600, 300, 699));
	good &= GESTALT_EXPECT(!gestalt_slice_near_end(15360, 300, 16683 - 299));
	good &= GESTALT_EXPECT(gestalt_slice_near_end(15361, 300, 16683 - 299));
	return good;
}

/* What the IDR itself gives out is what we say it will. */
static bool __init as_idr_says(struct idr *idr, u32 start, u32 last)
{
	u32 number = start, said = gestalt_free_number(idr, start, last);
	int error = idr_alloc_u32(idr, NULL, &number, last, GFP_KERNEL);

	if (error == -ENOSPC)
		return GESTALT_EXPECT(!said);
	if (!GESTALT_EXPECT(!error))
		return false;
	if (said != number)
		pr_err("from %u to %u: said %u, is %u\n", start, last, said, number);
	return GESTALT_EXPECT(said == number);
}

static bool __init free_numbers(struct idr *idr)
{
	u32 random = 1, i;
	bool good = true;

	good &= as_idr_says(idr, 300, 299 + 64);
	good &= as_idr_says(idr, 4000000, 4194303);
	for (i = 0; i < 8200 && good; ++i)
		good &= as_idr_says(idr, 4096, 4096 + 8191);
	good &= GESTALT_EXPECT(!gestalt_free_number(idr, 4096, 4096 + 8191));
	good &= GESTALT_EXPECT(gestalt_free_number(idr, 4096, 4096 + 8192) == 4096 + 8192);
	for (i = 0; i < 20000 && good; ++i) {
		random = random * 1103515245 + 12345;
		if (random & 0x10000)
			idr_remove(idr, 4096 + (random >> 17) % 8192);
		else
			good &= as_idr_says(idr, 4000 + (random >> 17) % 8400, 4096 + 8191);
	}
	return good;
}

bool __init gestalt_selftest_slice(void)
{
	struct idr idr;
	bool good;

	idr_init(&idr);
	good = arithmetic() & free_numbers(&idr);
	idr_destroy(&idr);
	return good;
}
