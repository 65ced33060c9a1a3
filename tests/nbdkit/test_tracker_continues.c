/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A tracker that goes on without marks while the daemon stays away: when that
 * begins, what has to be before it ends, and when it must not be.
 */
#include "client/nbdkit/tracker_private.h"
#include "tests/nbdkit/fake_bitmapd.h"
#include "tests/nbdkit/tracker_harness.h"

#include <errno.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static int setup(void **state)
{
    int r = harness_setup(state);
    harness.continues = true;
    return r;
}

/* A tracker whose daemon has gone away for good. */
static struct tracker *start_and_lose(void)
{
    struct tracker *tracker = harness_start(1);
    fake_set_unreachable(true);
    fake_break_connection();
    harness_wait(harness_continuing(tracker));
    return tracker;
}

static void come_back(struct tracker *tracker)
{
    fake_set_unreachable(false);
    harness_wait(harness_online(tracker));
}

/* Within the time-out nothing is different. */
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
    harness_stop(tracker);
    assert_int_equal(harness.reports, 0);
    assert_int_equal(fake_counts().detaches, 1);
}

/* Those that waited when the time was over go on too: for a mark, for an answer, under a mark. */
static void test_long_outage(void **state)
{
    (void)state;
    struct tracker *tracker = harness_start(1);
    harness_write(tracker, 0, 512);
    fake_hold_replies(true);
    struct writer *sent = writer_begin(tracker, 4096, 512);
    harness_wait(fake_counts().marks == 2);
    fake_set_offline(true);
    harness_wait(!harness_online(tracker));
    struct writer *marked = writer_begin(tracker, 0, 512);
    struct writer *new = writer_begin(tracker, 512, 512);
    harness_pause();
    assert_false(writer_is_done(sent) || writer_is_done(marked) || writer_is_done(new));

    fake_set_unreachable(true);
    fake_break_connection();
    assert_int_equal(writer_wait(sent), 0);
    assert_int_equal(writer_wait(marked), 0);
    assert_int_equal(writer_wait(new), 0);
    writer_end(sent, false);
    writer_end(marked, false);
    writer_end(new, false);
    harness_write(tracker, 8192, 512);
    assert_int_equal(harness.reports, 1);
    assert_non_null(strstr(harness.last_report, "without marks"));

    fake_hold_replies(false);
    fake_set_offline(false);
    come_back(tracker);
    assert_int_equal(harness.reports, 2);
    assert_int_equal(fake_counts().resumes, 1);
    assert_int_equal(fake_counts().settled_marks, 0);
    assert_true(harness_syncs() >= 1);
    assert_int_equal(harness_unsettled(tracker), 0); /* all stable before it resumed */
    harness_write(tracker, 512, 512);
    assert_int_equal(fake_marks_over(512, 512), 1);
    harness_stop(tracker);
    assert_int_equal(fake_counts().detaches, 1);
}

/* Once attached, new writes wait for marks, and RESUME for those that have none. */
static void test_resume_waits_for_writes_without_marks(void **state)
{
    (void)state;
    struct tracker *tracker = start_and_lose();
    struct writer *across = writer_begin(tracker, 4096, 512);
    assert_int_equal(writer_wait(across), 0);
    fake_set_unreachable(false);
    harness_wait(fake_counts().attaches == 2 && !harness_continuing(tracker));
    struct writer *new = writer_begin(tracker, 512, 512);
    struct writer *again = writer_begin(tracker, 4096, 512);
    harness_pause();
    assert_false(writer_is_done(new) || writer_is_done(again));
    assert_int_equal(fake_counts().resumes, 0);
    assert_true(fake_is_doubtful());

    harness_hold_sync(true);
    writer_end(across, false);
    harness_wait(harness_sync_is_held());
    harness_pause();
    assert_int_equal(fake_counts().resumes, 0);
    harness_hold_sync(false);
    assert_int_equal(writer_wait(new), 0);
    assert_int_equal(writer_wait(again), 0);
    assert_int_equal(fake_counts().resumes, 1);
    assert_int_equal(fake_marks_over(512, 512), 1);
    assert_int_equal(fake_marks_over(4096, 512), 1);
    writer_end(new, false);
    writer_end(again, false);
    harness_stop(tracker);
    assert_int_equal(fake_counts().detaches, 1);
}

/* What is on the drive is not known: it stays marked. */
static void test_failed_write_without_mark_is_marked(void **state)
{
    (void)state;
    struct tracker *tracker = start_and_lose();
    struct writer *failed = writer_begin(tracker, 4096, 512);
    assert_int_equal(writer_wait(failed), 0);
    writer_end(failed, true);
    harness_write(tracker, 0, 512);
    come_back(tracker);
    assert_int_equal(fake_marks_over(4096, 512), 1);
    assert_int_equal(fake_marks_over(0, 512), 0);
    harness_stop(tracker);
    assert_int_equal(fake_counts().detaches, 0);
}

static void test_failed_sync_keeps_it_lost(void **state)
{
    (void)state;
    struct tracker *tracker = start_and_lose();
    harness_write(tracker, 0, 512);
    harness_fail_sync(-EIO);
    assert_int_equal(tracker_flush(tracker), -EIO);
    unsigned connects = fake_counts().connects;
    fake_set_unreachable(false);
    harness_wait(fake_counts().connects >= connects + 3);
    harness_write(tracker, 512, 512);
    assert_true(fake_is_doubtful());
    assert_int_equal(fake_counts().resumes, 0);
    harness_stop(tracker);
    assert_int_equal(fake_counts().detaches, 0);
}

/* It is up again and away again in the middle of our return. */
static void test_second_outage(void **state)
{
    (void)state;
    struct tracker *tracker = start_and_lose();
    harness_write(tracker, 0, 512);
    come_back(tracker);
    fake_set_unreachable(true);
    fake_break_connection();
    harness_wait(harness_continuing(tracker));
    harness_write(tracker, 4096, 512);
    come_back(tracker);
    assert_int_equal(fake_counts().resumes, 2);
    assert_int_equal(harness.reports, 4);
    harness_stop(tracker);
    assert_int_equal(fake_counts().detaches, 1);
}

/* Busy: the daemon still takes us for connected, so that nothing is held against the drive. */
static void test_busy_token_is_waited_for(void **state)
{
    (void)state;
    struct tracker *tracker = harness_start(1);
    fake_set_attach(-EBUSY, false);
    unsigned connects = fake_counts().connects;
    fake_break_connection();
    harness_wait(fake_counts().connects >= connects + 2);
    struct writer *writer = writer_begin(tracker, 0, 512);
    harness_pause();
    assert_false(writer_is_done(writer));
    assert_false(harness_continuing(tracker));
    fake_set_attach(0, false);
    assert_int_equal(writer_wait(writer), 0);
    assert_int_equal(fake_marks_over(0, 512), 1);
    writer_end(writer, false);
    harness_stop(tracker);
    assert_int_equal(fake_counts().detaches, 1);
}

/* A drive that may not be attached to is lost to the daemon all the same. */
static void test_refused_return(void **state)
{
    (void)state;
    struct tracker *tracker = harness_start(1);
    fake_set_attach(-EXDEV, false);
    fake_break_connection();
    harness_wait(harness_continuing(tracker));
    harness_write(tracker, 0, 512);
    fake_set_attach(0, false);
    harness_wait(harness_online(tracker));
    harness_stop(tracker);
    assert_int_equal(fake_counts().detaches, 1);
}

static void test_return_to_another_size(void **state)
{
    (void)state;
    struct tracker *tracker = harness_start(1);
    fake_set_size(FAKE_SIZE_BYTES - 1);
    fake_break_connection();
    harness_wait(harness_continuing(tracker));
    harness_write(tracker, 0, 512);
    unsigned attaches = fake_counts().attaches;
    harness_wait(fake_counts().attaches > attaches + 1);
    assert_true(fake_is_doubtful());
    fake_set_size(FAKE_SIZE_BYTES);
    harness_wait(harness_online(tracker));
    assert_int_equal(fake_counts().resumes, 1);
    harness_stop(tracker);
    assert_int_equal(fake_counts().detaches, 1);
}

/* Nobody holds anything against the drive any more: what we have written is marked as a whole. */
static void test_given_up_while_it_continues(void **state)
{
    (void)state;
    struct tracker *tracker = start_and_lose();
    harness_write(tracker, 0, 512);
    fake_fence_lost();
    come_back(tracker);
    struct fake_counts counts = fake_counts();
    assert_int_equal(counts.resumes, 0);
    assert_int_equal(counts.settled_marks, 1);
    assert_int_equal(counts.last_offset_bytes, 0);
    assert_int_equal(counts.last_length_bytes, FAKE_SIZE_BYTES);
    assert_int_equal(harness.reports, 3);
    harness_stop(tracker);
    assert_int_equal(fake_counts().detaches, 1);
}

/* Given up by a daemon that is there: nothing is written until it is attached again. */
static void test_given_up_before(void **state)
{
    (void)state;
    struct tracker *tracker = harness_start(1);
    fake_set_unreachable(true);
    fake_fence();
    struct tracker_mark *mark = NULL;
    harness_wait(!harness_online(tracker));
    assert_int_equal(tracker_write_begin(tracker, 0, 512, &mark), -EIO);
    assert_false(harness_continuing(tracker));
    come_back(tracker);
    harness_write(tracker, 0, 512);
    assert_int_equal(fake_marks_over(0, 512), 1);
    assert_int_equal(fake_counts().settled_marks, 0);
    harness_stop(tracker);
    assert_int_equal(fake_counts().detaches, 1);
}

/* The daemon is there, and knows of no writes without marks: there are none. */
static void test_refused_mark(void **state)
{
    (void)state;
    struct tracker *tracker = harness_start(1);
    struct tracker_mark *mark = NULL;
    fake_set_mark_result(-EIO);
    assert_int_equal(tracker_write_begin(tracker, 0, 512, &mark), -EIO);
    assert_true(harness_online(tracker));
    fake_set_mark_result(0);
    harness_write(tracker, 0, 512);
    harness_stop(tracker);
    assert_int_equal(fake_counts().detaches, 1);
}

static void test_stop_while_it_continues(void **state)
{
    (void)state;
    struct tracker *tracker = start_and_lose();
    harness_write(tracker, 0, 512);
    harness_stop(tracker);
    assert_int_equal(harness_syncs(), 1);
    assert_int_equal(fake_counts().detaches, 0);
    assert_non_null(strstr(harness.last_report, "could not be detached"));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup(name, setup)
    const struct CMUnitTest tests[] = {
        TEST(test_short_outage_holds_writes_back),
        TEST(test_long_outage),
        TEST(test_resume_waits_for_writes_without_marks),
        TEST(test_failed_write_without_mark_is_marked),
        TEST(test_failed_sync_keeps_it_lost),
        TEST(test_second_outage),
        TEST(test_busy_token_is_waited_for),
        TEST(test_refused_return),
        TEST(test_return_to_another_size),
        TEST(test_given_up_while_it_continues),
        TEST(test_given_up_before),
        TEST(test_refused_mark),
        TEST(test_stop_while_it_continues),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
