/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The tracker's connection: how it begins and ends, and what becomes of
 * writes while the daemon is away or has given the writer up.  As in
 * test_tracker.c, threads are held where they must meet, and nothing depends
 * on how long anything takes.
 */
#include "client/nbdkit/tracker_private.h"
#include "tests/nbdkit/fake_bitmapd.h"
#include "tests/nbdkit/tracker_harness.h"

#include <errno.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

/* ---- Start and end ---- */

static void test_attaches_and_detaches(void **state)
{
    (void)state;
    struct tracker *tracker = harness_start(1);
    harness_stop(tracker);
    struct fake_counts counts = fake_counts();
    assert_int_equal(counts.attaches, 1);
    assert_int_equal(counts.resumes, 0);
    assert_int_equal(counts.detaches, 1);
    assert_int_equal(harness_syncs(),
                     1); /* so that the evidence kept is of the drive's last state */
    assert_int_equal(harness.reports, 0);
}

static void test_never_started_detaches(void **state)
{
    (void)state;
    struct error error;
    struct tracker *tracker = NULL;
    assert_int_equal(harness_new(1, &tracker, &error), 0);
    tracker_free(tracker);
    assert_int_equal(fake_counts().detaches, 1);
}

static void test_unreachable(void **state)
{
    (void)state;
    struct error error;
    struct tracker *tracker = NULL;
    fake_set_unreachable(true);
    assert_int_equal(harness_new(1, &tracker, &error), -ECONNREFUSED);
    assert_non_null(strstr(error.text, "vm1"));
    assert_null(tracker);
}

static void test_size_mismatch(void **state)
{
    (void)state;
    struct error error;
    struct tracker *tracker = NULL;
    fake_set_size(FAKE_SIZE_BYTES + 1);
    assert_int_equal(harness_new(1, &tracker, &error), -EINVAL);
    assert_non_null(strstr(error.text, "bitmapctl drive resize vm1 --size"));
    assert_int_equal(fake_counts().detaches, 1); /* no lost writer stays behind */
}

static void test_size_mismatch_leaves_lost_writer_lost(void **state)
{
    (void)state;
    struct error error;
    struct tracker *tracker = NULL;
    fake_set_size(FAKE_SIZE_BYTES + 1);
    fake_set_attach(0, true);
    assert_int_equal(harness_new(1, &tracker, &error), -EINVAL);
    assert_int_equal(fake_counts().detaches, 0);
    assert_int_equal(fake_counts().resumes, 0);
}

static void test_token_in_use(void **state)
{
    (void)state;
    struct error error;
    struct tracker *tracker = NULL;
    fake_set_attach(-EBUSY, false);
    assert_int_equal(harness_new(1, &tracker, &error), -EBUSY);
    assert_non_null(strstr(error.text, "nbdkit-vm1"));
}

static void test_another_drive(void **state)
{
    (void)state;
    struct error error;
    struct tracker *tracker = NULL;
    fake_set_attach(-EXDEV, false);
    assert_int_equal(harness_new(1, &tracker, &error), -EXDEV);
    assert_non_null(strstr(error.text, "words of the fake"));
    assert_non_null(strstr(error.text, "bitmapctl drive adopt vm1"));
}

static void test_resuming_syncs_first(void **state)
{
    (void)state;
    fake_set_attach(0, true);
    struct tracker *tracker = harness_start(1);
    assert_int_equal(harness_syncs(), 1);
    assert_int_equal(fake_counts().resumes, 1);
    harness_stop(tracker);
}

static void test_resuming_needs_the_sync(void **state)
{
    (void)state;
    struct error error;
    struct tracker *tracker = NULL;
    fake_set_attach(0, true);
    harness_fail_sync(-EIO);
    assert_int_equal(harness_new(1, &tracker, &error), -EIO);
    assert_int_equal(fake_counts().resumes, 0);
    assert_int_equal(fake_counts().detaches, 0);
}

/* ---- Outages ---- */

static void test_short_outage_holds_writes_back(void **state)
{
    (void)state;
    struct tracker *tracker = harness_start(1);
    harness_write(tracker, 0, 512);
    fake_set_offline(true);
    harness_wait(!harness_online(tracker));
    struct writer *marked = writer_begin(tracker, 0, 512);
    struct writer *new = writer_begin(tracker, 512, 512);
    harness_pause();
    assert_false(writer_is_done(marked));
    assert_false(writer_is_done(new));
    fake_set_offline(false);
    assert_int_equal(writer_wait(marked), 0);
    assert_int_equal(writer_wait(new), 0);
    writer_end(marked, false);
    writer_end(new, false);
    assert_int_equal(harness.reports, 0);
    harness_stop(tracker);
    assert_int_equal(fake_counts().connects, 1);
}

/* A connection alone is not enough: the mark has to be there again. */
static void test_marks_that_are_not_back_yet(void **state)
{
    (void)state;
    struct tracker *tracker = harness_start(1);
    harness_write(tracker, 0, 512);
    fake_set_offline(true);
    harness_wait(!harness_online(tracker));
    unsigned dispatches = fake_counts().dispatches;
    fake_set_returning(true);
    fake_set_offline(false);
    struct writer *marked = writer_begin(tracker, 0, 512);
    struct writer *new = writer_begin(tracker, 512, 512);
    harness_wait(fake_counts().dispatches > dispatches + 1);
    harness_pause();
    assert_false(harness_online(tracker));
    assert_false(writer_is_done(marked));
    assert_false(writer_is_done(new));
    fake_set_returning(false);
    assert_int_equal(writer_wait(marked), 0);
    assert_int_equal(writer_wait(new), 0);
    writer_end(marked, false);
    writer_end(new, false);
    harness_stop(tracker);
    assert_int_equal(fake_counts().connects, 1);
}

static void test_long_outage(void **state)
{
    (void)state;
    struct tracker *tracker = harness_start(1);
    harness_write(tracker, 0, 512);
    struct writer *across = writer_begin(tracker, 4096, 512);
    assert_int_equal(writer_wait(across), 0);
    struct writer *failed = writer_begin(tracker, 8192, 512);
    assert_int_equal(writer_wait(failed), 0);
    writer_end(failed, true);

    fake_set_offline(true);
    harness_wait(!harness_online(tracker));
    struct writer *marked = writer_begin(tracker, 0, 512);
    struct writer *new = writer_begin(tracker, 512, 512);
    harness_pause();
    fake_set_unreachable(true);
    fake_break_connection();
    assert_int_equal(writer_wait(marked), -EIO);
    assert_int_equal(writer_wait(new), -EIO);
    writer_drop(marked);
    writer_drop(new);
    struct tracker_mark *mark = NULL;
    assert_int_equal(tracker_write_begin(tracker, 0, 512, &mark), -EIO);
    assert_int_equal(tracker_write_begin(tracker, 1024, 512, &mark), -EIO);
    assert_int_equal(harness.reports, 1);

    /* What was written can be made stable all the same. */
    assert_int_equal(tracker_flush(tracker), 0);

    fake_set_offline(false);
    fake_set_unreachable(false);
    harness_wait(harness_online(tracker));
    assert_int_equal(fake_counts().resumes, 1);
    assert_int_equal(harness.reports, 2);
    /* Marked again: what was under way and what had failed, not what was stable. */
    assert_int_equal(fake_marks_over(0, 512), 0);
    assert_int_equal(fake_marks_over(4096, 512), 1);
    assert_int_equal(fake_marks_over(8192, 512), 1);

    writer_end(across, false);
    harness_write(tracker, 512, 512);
    assert_int_equal(tracker_flush(tracker), 0);
    harness_wait(fake_counts().unsettled == 1); /* the failed one */
    harness_stop(tracker);
}

static void test_outage_that_a_resize_prolongs(void **state)
{
    (void)state;
    struct tracker *tracker = harness_start(1);
    fake_set_size(FAKE_SIZE_BYTES - 1);
    fake_break_connection();
    harness_wait(fake_counts().attaches >= 3);
    assert_false(harness_online(tracker));
    assert_int_equal(harness.reports, 2); /* gone; back but of another size */
    assert_non_null(strstr(harness.last_report, "drive resize"));
    fake_set_size(FAKE_SIZE_BYTES);
    harness_wait(harness_online(tracker));
    harness_write(tracker, 0, 512);
    harness_stop(tracker);
    assert_int_equal(fake_counts().detaches, 1);
}

static void test_fenced_writer_attaches_again(void **state)
{
    (void)state;
    struct tracker *tracker = harness_start(1);
    struct writer *across = writer_begin(tracker, 4096, 512);
    assert_int_equal(writer_wait(across), 0);
    struct tracker_mark *mark = NULL;
    fake_set_mark_result(-EOWNERDEAD);
    assert_int_equal(tracker_write_begin(tracker, 0, 512, &mark), -EIO);
    fake_set_mark_result(0);
    harness_wait(fake_counts().attaches == 2 && harness_online(tracker));
    assert_int_equal(fake_marks_over(4096, 512), 1);
    writer_end(across, false);
    harness_write(tracker, 0, 512);
    harness_stop(tracker);
    assert_int_equal(fake_counts().detaches, 1);
}

static void test_fence_found_by_a_mark(void **state)
{
    (void)state;
    struct tracker *tracker = harness_start(1);
    struct writer *across = writer_begin(tracker, 4096, 512);
    assert_int_equal(writer_wait(across), 0);
    fake_fence();
    struct tracker_mark *mark = NULL;
    assert_int_equal(tracker_write_begin(tracker, 0, 512, &mark), -EIO);
    harness_wait(fake_counts().attaches == 2 && harness_online(tracker));
    writer_end(across, false);
    harness_write(tracker, 0, 512);
    harness_stop(tracker);
    assert_int_equal(fake_counts().detaches, 1);
}

static void test_fence_found_by_a_settle(void **state)
{
    (void)state;
    struct tracker *tracker = harness_start(1);
    harness_write(tracker, 0, 512);
    fake_fence();
    assert_int_equal(tracker_flush(tracker), 0);
    harness_wait(fake_counts().attaches == 2 && harness_online(tracker));
    harness_write(tracker, 0, 512);
    harness_stop(tracker);
    assert_int_equal(fake_counts().detaches, 1);
}

/* Nothing is marked or settled: writes under the marks that there are must not go on. */
static void test_fence_found_by_nothing(void **state)
{
    (void)state;
    struct tracker *tracker = harness_start(1);
    struct writer *across = writer_begin(tracker, 4096, 512);
    assert_int_equal(writer_wait(across), 0);
    harness_write(tracker, 0, 512);
    fake_fence();
    harness_wait(fake_counts().attaches == 2 && harness_online(tracker));
    assert_int_equal(fake_marks_over(0, 512), 1);
    assert_int_equal(fake_marks_over(4096, 512), 1);
    writer_end(across, false);
    harness_stop(tracker);
    assert_int_equal(fake_counts().detaches, 1);
}

static void test_stop_while_away(void **state)
{
    (void)state;
    struct tracker *tracker = harness_start(1);
    harness_write(tracker, 0, 512);
    fake_set_unreachable(true);
    fake_break_connection();
    harness_wait(!harness_online(tracker));
    harness_stop(tracker); /* does not hang, does not write to what is closed */
    assert_int_equal(fake_counts().detaches, 0);
    assert_int_equal(harness_syncs(), 1);
    assert_int_equal(harness.reports, 2);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup(name, harness_setup)
    const struct CMUnitTest tests[] = {
        TEST(test_attaches_and_detaches),
        TEST(test_never_started_detaches),
        TEST(test_unreachable),
        TEST(test_size_mismatch),
        TEST(test_size_mismatch_leaves_lost_writer_lost),
        TEST(test_token_in_use),
        TEST(test_another_drive),
        TEST(test_resuming_syncs_first),
        TEST(test_resuming_needs_the_sync),
        TEST(test_short_outage_holds_writes_back),
        TEST(test_marks_that_are_not_back_yet),
        TEST(test_long_outage),
        TEST(test_outage_that_a_resize_prolongs),
        TEST(test_fenced_writer_attaches_again),
        TEST(test_fence_found_by_a_mark),
        TEST(test_fence_found_by_a_settle),
        TEST(test_fence_found_by_nothing),
        TEST(test_stop_while_away),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
