/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_TESTS_FAKE_BITMAPD_H
#define BITMAPD_TESTS_FAKE_BITMAPD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * libbitmapd's functions that the nbdkit plugin uses, with a daemon of one
 * drive behind them in memory, to be linked instead of the library.  It counts
 * for each block of FAKE_BLOCK_BYTES the marks that are not settled, and
 * aborts when
 *
 * - a handle is used by two threads at once,
 * - a settle names an id that was not given out, or twice,
 * - more marks are unsettled than the limit allows.
 *
 * The functions below are for the test's threads, and take the fake's own
 * lock.
 */
#define FAKE_BLOCK_BYTES 512u
#define FAKE_BLOCKS      2048u
#define FAKE_SIZE_BYTES  ((uint64_t)FAKE_BLOCK_BYTES * FAKE_BLOCKS - 12) /* no whole block */

struct fake_counts {
    unsigned connects;
    unsigned attaches;
    unsigned resumes;
    unsigned detaches;
    unsigned mark_calls;
    unsigned marks; /* ranges in them */
    unsigned settled;
    unsigned unsettled; /* now, on this connection */
    unsigned unsettled_most;
    unsigned ranges_most; /* in one call */
    unsigned dispatches;
    unsigned settled_marks;     /* ranges in marks that are settled at once */
    uint64_t last_offset_bytes; /* of the last range marked */
    uint64_t last_length_bytes;
};

void fake_reset(void); /* between tests; no handle may be open */
struct fake_counts fake_counts(void);

/* What happens when asked. */
void fake_set_unsettled_max(size_t max);
void fake_set_size(uint64_t size_bytes);
void fake_set_attach(int result, bool resuming);
void fake_set_mark_result(int result); /* of marks that complete from now on */
void fake_set_unreachable(bool unreachable);

/* Marks get no answer while held. */
void fake_hold_replies(bool hold);
/* The tracker's thread is stopped within bitmapd_dispatch() while the gate is shut. */
void fake_shut_gate(bool shut);
bool fake_is_at_gate(void);
/* The connection is lost, and sought by the library; marks wait. */
void fake_set_offline(bool offline);
/* There is a connection, but the library has not made the marks again yet; marks wait. */
void fake_set_returning(bool returning);
/* The connection is lost for good: its marks stay until a later connection resumes. */
void fake_break_connection(void);
/* The writer was given up: marks and settles are refused until it attaches anew. */
void fake_fence(void);
/* The same for one that is lost. */
void fake_fence_lost(void);

/* The writer has said that it goes on without us, is lost, and has not resumed. */
bool fake_is_doubtful(void);

/* Marks, on any connection, that keep the block dirty; the fewest of the range's blocks. */
unsigned fake_marks_over(uint64_t offset_bytes, uint64_t length_bytes);
/*
 * Called, in the thread that uses the handle, when a block that was held by
 * marks no longer is.
 */
void fake_set_on_free_block(void (*on_free_block)(unsigned block));
/* The same when a writer resumes or attaches anew: the numbers of marks over each block. */
void fake_set_on_back(void (*on_back)(const unsigned over[FAKE_BLOCKS]));

#endif
