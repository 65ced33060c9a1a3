/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Marks, settles and limits, one rule after the other, against a libbitmapd of our own.
 * Where two threads must meet at a point, the test holds one of them there:
 * the tracker's thread at the fake's gate, a sync at its latch.  Nothing
 * depends on how long anything takes; the only times are the limits after
 * which a hang is called a failure, and pauses that give a wrong
 * implementation room to show itself.
 */
#include "client/nbdkit/tracker_private.h"
#include "tests/nbdkit/fake_bitmapd.h"
#include "tests/nbdkit/tracker_harness.h"

#include <errno.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

/* ---- Marks ---- */

static void test_alignment(void **state)
{
    (void)state;
    static const struct {
        uint64_t offset, length, marked_offset, marked_length;
    } cases[] = {
        {0, 1, 0, 4096},
        {4095, 2, 0, 8192},
        {4096, 4096, 4096, 4096},
        {FAKE_SIZE_BYTES - 1, 1, FAKE_SIZE_BYTES & ~4095ull, FAKE_SIZE_BYTES % 4096},
        {0, FAKE_SIZE_BYTES, 0, FAKE_SIZE_BYTES},
    };
    struct tracker *tracker = harness_start(4096);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        harness_write(tracker, cases[i].offset, cases[i].length);
        assert_int_equal(fake_counts().last_offset_bytes, cases[i].marked_offset);
        assert_int_equal(fake_counts().last_length_bytes, cases[i].marked_length);
    }
    harness_stop(tracker);
}

static void test_alignment_beyond_everything(void **state)
{
    (void)state;
    struct tracker *tracker = harness_start(UINT64_C(1) << 63);
    harness_write(tracker, 5000, 10);
    assert_int_equal(fake_counts().last_offset_bytes, 0);
    assert_int_equal(fake_counts().last_length_bytes, FAKE_SIZE_BYTES);
    harness_stop(tracker);
}

static void test_exact_range_without_alignment(void **state)
{
    (void)state;
    struct tracker *tracker = harness_start(1);
    harness_write(tracker, 777, 13);
    assert_int_equal(fake_counts().last_offset_bytes, 777);
    assert_int_equal(fake_counts().last_length_bytes, 13);
    harness_stop(tracker);
}

static void test_waits_for_the_reply(void **state)
{
    (void)state;
    struct tracker *tracker = harness_start(1);
    fake_hold_replies(true);
    struct writer *writer = writer_begin(tracker, 0, 512);
    harness_pause();
    assert_false(writer_is_done(writer));
    fake_hold_replies(false);
    assert_int_equal(writer_wait(writer), 0);
    writer_end(writer, false);
    harness_stop(tracker);
}

#define GATHERED 8

static void test_gathers(void **state)
{
    (void)state;
    struct tracker *tracker = harness_start(1);
    fake_shut_gate(true);
    harness_wait(fake_is_at_gate());
    struct writer *writers[GATHERED];
    for (unsigned i = 0; i < GATHERED; i++) {
        writers[i] = writer_begin(tracker, i * 4096, 512);
    }
    harness_wait(harness_unsettled(tracker) == GATHERED);
    fake_shut_gate(false);
    for (unsigned i = 0; i < GATHERED; i++) {
        assert_int_equal(writer_wait(writers[i]), 0);
    }
    assert_int_equal(fake_counts().mark_calls, 1);
    assert_int_equal(fake_counts().marks, GATHERED);
    for (unsigned i = 0; i < GATHERED; i++) {
        writer_end(writers[i], false);
    }
    harness_stop(tracker);
}

static void test_one_mark_for_a_range(void **state)
{
    (void)state;
    struct tracker *tracker = harness_start(65536);
    for (unsigned i = 0; i < 16; i++) {
        harness_write(tracker, i * 4096, 4096);
    }
    assert_int_equal(fake_counts().marks, 1);
    assert_int_equal(tracker_flush(tracker), 0);
    harness_wait(fake_counts().settled == 1);
    harness_write(tracker, 0, 4096); /* settled: to be marked again */
    assert_int_equal(fake_counts().marks, 2);
    harness_stop(tracker);
}

/* Those who come while the mark is on its way share its fate. */
static void test_one_mark_for_waiters(void **state)
{
    (void)state;
    struct tracker *tracker = harness_start(1);
    fake_hold_replies(true);
    struct writer *a = writer_begin(tracker, 0, 512);
    struct writer *b = writer_begin(tracker, 0, 512);
    harness_wait(harness_writers(tracker, 0, 512) == 2);
    fake_set_mark_result(-EIO);
    fake_hold_replies(false);
    assert_int_equal(writer_wait(a), -EIO);
    assert_int_equal(writer_wait(b), -EIO);
    writer_drop(a);
    writer_drop(b);
    assert_int_equal(fake_counts().marks, 1);
    assert_int_equal(harness_unsettled(tracker), 0);
    fake_set_mark_result(0);
    harness_write(tracker, 0, 512);
    harness_stop(tracker);
}

static void test_refusals_are_reported_once(void **state)
{
    (void)state;
    struct tracker *tracker = harness_start(1);
    struct tracker_mark *mark = NULL;
    fake_set_mark_result(-EINPROGRESS);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(tracker_write_begin(tracker, 512 * i, 512, &mark), -EIO);
    }
    assert_int_equal(harness.reports, 1);
    fake_set_mark_result(0);
    harness_write(tracker, 0, 512);
    fake_set_mark_result(-EINPROGRESS);
    assert_int_equal(tracker_write_begin(tracker, 512, 512, &mark), -EIO);
    assert_int_equal(harness.reports, 2);
    harness_stop(tracker);
}

/* ---- Settling ---- */

static void test_nothing_settles_by_itself(void **state)
{
    (void)state;
    struct tracker *tracker = harness_start(1);
    harness_write(tracker, 0, 512);
    harness_write(tracker, 512, 512);
    harness_pause();
    assert_int_equal(fake_counts().settled, 0);
    assert_int_equal(tracker_flush(tracker), 0);
    harness_wait(fake_counts().settled == 2);
    assert_int_equal(fake_counts().unsettled, 0);
    harness_stop(tracker);
}

static void test_write_during_sync_is_not_covered(void **state)
{
    (void)state;
    struct tracker *tracker = harness_start(1);
    harness_write(tracker, 0, 512);
    struct writer *across = writer_begin(tracker, 4096, 512);
    assert_int_equal(writer_wait(across), 0);

    harness_hold_sync(true);
    struct flusher *flusher = flusher_begin(tracker);
    harness_wait(harness_sync_is_held());
    harness_write(tracker, 8192, 512); /* begun and ended while it ran */
    writer_end(across, false);         /* begun before, ended while it ran */
    harness_hold_sync(false);
    assert_int_equal(flusher_wait(flusher), 0);

    harness_wait(fake_counts().settled == 1);
    harness_pause();
    assert_int_equal(fake_counts().settled, 1);
    assert_int_equal(fake_marks_over(0, 512), 0);
    assert_int_equal(fake_marks_over(4096, 512), 1);
    assert_int_equal(fake_marks_over(8192, 512), 1);

    assert_int_equal(tracker_flush(tracker), 0);
    harness_wait(fake_counts().settled == 3);
    harness_stop(tracker);
}

static void test_rewrite_during_sync_keeps_the_mark(void **state)
{
    (void)state;
    struct tracker *tracker = harness_start(1);
    harness_write(tracker, 0, 512);
    harness_hold_sync(true);
    struct flusher *flusher = flusher_begin(tracker);
    harness_wait(harness_sync_is_held());
    struct writer *again = writer_begin(tracker, 0, 512); /* under the same mark */
    assert_int_equal(writer_wait(again), 0);
    harness_hold_sync(false);
    assert_int_equal(flusher_wait(flusher), 0);
    harness_pause();
    assert_int_equal(fake_marks_over(0, 512), 1);
    assert_int_equal(fake_counts().marks, 1);

    writer_end(again, false);
    assert_int_equal(tracker_flush(tracker), 0);
    harness_wait(fake_marks_over(0, 512) == 0);
    harness_stop(tracker);
}

static void test_flush_during_sync_waits_for_another(void **state)
{
    (void)state;
    struct tracker *tracker = harness_start(1);
    harness_hold_sync(true);
    struct flusher *first = flusher_begin(tracker);
    harness_wait(harness_sync_is_held());
    harness_write(tracker, 0, 512);
    struct flusher *second = flusher_begin(tracker);
    struct flusher *third = flusher_begin(tracker);
    harness_pause();
    harness_hold_sync(false);
    assert_int_equal(flusher_wait(first), 0);
    assert_int_equal(flusher_wait(second), 0);
    assert_int_equal(flusher_wait(third), 0);
    harness_wait(fake_counts().settled == 1);
    assert_in_range(harness_syncs(), 2, 3);
    harness_stop(tracker);
}

static void test_failed_write_is_never_settled(void **state)
{
    (void)state;
    struct tracker *tracker = harness_start(1);
    struct writer *writer = writer_begin(tracker, 0, 512);
    assert_int_equal(writer_wait(writer), 0);
    writer_end(writer, true);
    harness_write(tracker, 512, 512);
    assert_int_equal(tracker_flush(tracker), 0);
    harness_wait(fake_counts().settled == 1);

    /* Tried again, with success: no second mark, and the first stays. */
    harness_write(tracker, 0, 512);
    assert_int_equal(tracker_flush(tracker), 0);
    harness_pause();
    assert_int_equal(fake_counts().marks, 2);
    assert_int_equal(fake_marks_over(0, 512), 1);

    assert_int_equal(harness.reports, 0);
    harness_stop(tracker);
    assert_int_equal(fake_counts().detaches, 0);
    assert_int_equal(harness.reports, 1);
    assert_non_null(strstr(harness.last_report, "nbdkit-vm1"));
}

static void test_failed_sync_ends_settling(void **state)
{
    (void)state;
    struct tracker *tracker = harness_start(1);
    harness_write(tracker, 0, 512);
    harness_fail_sync(-EIO);
    assert_int_equal(tracker_flush(tracker), -EIO);
    harness_fail_sync(0);
    assert_int_equal(tracker_flush(tracker), -EIO);
    harness_write(tracker, 512, 512);
    assert_int_equal(tracker_flush(tracker), -EIO);
    harness_pause();
    assert_int_equal(harness_syncs(), 1);
    assert_int_equal(fake_counts().settled, 0);
    assert_int_equal(harness.reports, 1);
    harness_stop(tracker);
    assert_int_equal(fake_counts().detaches, 0);
}

static void test_failed_sync_fails_all_who_waited(void **state)
{
    (void)state;
    struct tracker *tracker = harness_start(1);
    harness_hold_sync(true);
    struct flusher *first = flusher_begin(tracker);
    harness_wait(harness_sync_is_held());
    harness_write(tracker, 0, 512);
    struct flusher *second = flusher_begin(tracker);
    harness_fail_sync(-ENOSPC);
    harness_hold_sync(false);
    assert_int_equal(flusher_wait(first), -ENOSPC);
    assert_int_equal(flusher_wait(second), -ENOSPC);
    harness_stop(tracker);
}

/* ---- Limits ---- */

static void test_syncs_before_the_limit(void **state)
{
    (void)state;
    fake_set_unsettled_max(8);
    struct tracker *tracker = harness_start(1);
    for (unsigned i = 0; i < 100; i++) {
        harness_write(tracker, i * 1024, 512);
    }
    assert_in_range(fake_counts().unsettled_most, 1, 8);
    assert_in_range(harness_syncs(), 100 / 8, 100 / 4);
    harness_stop(tracker);
    assert_int_equal(fake_counts().settled, 100);
}

static void test_limit_of_one(void **state)
{
    (void)state;
    fake_set_unsettled_max(1);
    struct tracker *tracker = harness_start(1);
    struct writer *a = writer_begin(tracker, 0, 512);
    assert_int_equal(writer_wait(a), 0);
    struct writer *b = writer_begin(tracker, 512, 512);
    harness_pause();
    assert_false(writer_is_done(b));
    writer_end(a, false);
    assert_int_equal(writer_wait(b), 0);
    writer_end(b, false);
    harness_stop(tracker);
    assert_int_equal(fake_counts().settled, 2);
}

static void test_limit_full_of_failures(void **state)
{
    (void)state;
    fake_set_unsettled_max(4);
    struct tracker *tracker = harness_start(1);
    for (unsigned i = 0; i < 4; i++) {
        struct writer *writer = writer_begin(tracker, i * 512, 512);
        assert_int_equal(writer_wait(writer), 0);
        writer_end(writer, true);
    }
    struct tracker_mark *mark = NULL;
    assert_int_equal(tracker_write_begin(tracker, 8192, 512, &mark), -EIO);
    assert_int_equal(tracker_write_begin(tracker, 8192, 512, &mark), -EIO);
    assert_int_equal(harness.reports, 1);
    harness_write(tracker, 512, 512); /* has a mark */
    harness_stop(tracker);
}

static void test_limit_after_a_failed_sync(void **state)
{
    (void)state;
    fake_set_unsettled_max(4);
    harness_fail_sync(-EIO);
    struct tracker *tracker = harness_start(1);
    for (unsigned i = 0; i < 4; i++) {
        harness_write(tracker, i * 512, 512);
    }
    struct tracker_mark *mark = NULL;
    assert_int_equal(tracker_write_begin(tracker, 8192, 512, &mark), -EIO);
    assert_int_equal(tracker_flush(tracker), -EIO); /* our own sync's failure is the client's too */
    assert_int_equal(harness_syncs(), 1);
    harness_stop(tracker);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup(name, harness_setup)
    const struct CMUnitTest tests[] = {
        TEST(test_alignment),
        TEST(test_alignment_beyond_everything),
        TEST(test_exact_range_without_alignment),
        TEST(test_waits_for_the_reply),
        TEST(test_gathers),
        TEST(test_one_mark_for_a_range),
        TEST(test_one_mark_for_waiters),
        TEST(test_refusals_are_reported_once),
        TEST(test_nothing_settles_by_itself),
        TEST(test_write_during_sync_is_not_covered),
        TEST(test_rewrite_during_sync_keeps_the_mark),
        TEST(test_flush_during_sync_waits_for_another),
        TEST(test_failed_write_is_never_settled),
        TEST(test_failed_sync_ends_settling),
        TEST(test_failed_sync_fails_all_who_waited),
        TEST(test_syncs_before_the_limit),
        TEST(test_limit_of_one),
        TEST(test_limit_full_of_failures),
        TEST(test_limit_after_a_failed_sync),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
