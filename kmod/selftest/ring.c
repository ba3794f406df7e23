// SPDX-License-Identifier: GPL-2.0
#include "selftest.h"

#include <linux/init.h>
#include <linux/string.h>

#include "ring.h"

/* Records of all lengths, often enough to wrap at each offset; each is read as written. */
static bool __init in_and_out(struct gestalt_ring *ring)
{
	u32 length, round, read = 0, written = 0, expected;
	bool good = true;
	u32 *record;

	for (round = 0; round < 1000 && good; ++round) {
		length = 4 + round * 7 % 60;
		record = gestalt_ring_reserve(ring, length);
		if (record) {
			memset(record, 0xff, length);
			*record = written++;
			gestalt_ring_commit(ring);
		}
		if (record && round % 3)
			continue;
		expected = read;
		while ((record = gestalt_ring_peek(ring, gestalt_ring_limit(ring)))) {
			good &= GESTALT_EXPECT(*record == read);
			++read;
			gestalt_ring_consume(ring);
		}
		good &= GESTALT_EXPECT(read > expected);
	}
	while (gestalt_ring_peek(ring, gestalt_ring_limit(ring))) {
		gestalt_ring_consume(ring);
		++read;
	}
	return good & GESTALT_EXPECT(read == written) & GESTALT_EXPECT(written > 900);
}

static bool __init full_and_counted(struct gestalt_ring *ring)
{
	u32 fits = 0, i;
	bool good;

	while (gestalt_ring_reserve(ring, 24)) {
		gestalt_ring_commit(ring);
		++fits;
	}
	good = GESTALT_EXPECT(fits >= 30 && fits <= 32);
	gestalt_ring_lost(ring);
	for (i = 0; i < 5; ++i)
		good &= GESTALT_EXPECT(!gestalt_ring_reserve(ring, 24));
	good &= GESTALT_EXPECT(gestalt_ring_lost(ring) == 5);
	good &= GESTALT_EXPECT(!gestalt_ring_lost(ring));
	for (i = 0; gestalt_ring_peek(ring, gestalt_ring_limit(ring)); ++i)
		gestalt_ring_consume(ring);
	return good & GESTALT_EXPECT(i == fits);
}

/* What is committed behind the limit is not seen before there is a new one. */
static bool __init limited(struct gestalt_ring *ring)
{
	u32 limit = gestalt_ring_limit(ring);
	bool good;

	gestalt_ring_reserve(ring, 8);
	good = GESTALT_EXPECT(gestalt_ring_limit(ring) == limit);
	gestalt_ring_commit(ring);
	good &= GESTALT_EXPECT(!gestalt_ring_peek(ring, limit));
	good &= GESTALT_EXPECT(gestalt_ring_peek(ring, gestalt_ring_limit(ring)));
	gestalt_ring_consume(ring);
	return good;
}

bool __init gestalt_selftest_ring(void)
{
	struct gestalt_ring ring;
	bool good;

	if (!GESTALT_EXPECT(gestalt_ring_init(&ring, 1000) < 0) ||
	    !GESTALT_EXPECT(!gestalt_ring_init(&ring, 1024)))
		return false;
	/* Positions wrap at 2^32, too. */
	ring.head = -512;
	ring.reserved = ring.head;
	ring.tail = ring.head;
	good = in_and_out(&ring) & full_and_counted(&ring) & limited(&ring);
	gestalt_ring_free(&ring);
	return good;
}
