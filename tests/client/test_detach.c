/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How a writer ends and resumes for its caller: what these requests wait for,
 * what becomes of marks that are made meanwhile, and of a daemon that stops.
 */
#include "tests/client/fake.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>

static const struct bitmapd_range one = {4096, 512};

/*
 * A completion marks while the synchronous detach waits: these marks come
 * after it, and are those of a writer that is not attached.
 */
static void script_marks_during_detach(struct fake *fake)
{
    struct message_mark mark;

    fake->limits.requests_max = 2;
    fake_hello(fake);
    fake_attach(fake, "vm-1", false);
    uint64_t other = fake_expect(fake, OPERATION_MARK, &mark);
    uint64_t detach = fake_expect(fake, OPERATION_DETACH, NULL);
    fake_ok(fake, OPERATION_MARK, other);
    /* No more than two may be unanswered: others wait in the library. */
    uint64_t first = fake_expect_mark(fake, 1, 1, NULL);
    fake_ok(fake, OPERATION_DETACH, detach);
    uint64_t second = fake_expect_mark(fake, 2, 1, NULL);
    fake_ok(fake, OPERATION_MARK, first);
    fake_ok(fake, OPERATION_MARK, second);
    fake_ok(fake, OPERATION_MARK, fake_expect_mark(fake, 3, 1, NULL));
    fake_expect_settle(fake, 1, 3);
    fake_expect_end(fake);
}

struct mark_more {
    bitmapd *handle;
    struct outcome outcomes[3];
};

static void mark_more(void *opaque, int result)
{
    struct mark_more *more = opaque;
    assert_int_equal(result, 0);
    for (int i = 0; i < 3; i++) {
        fake_aio_mark(more->handle, 0, &more->outcomes[i]);
    }
}

static void test_marks_during_detach(void **state)
{
    struct fake fake = {0};
    struct mark_more more = {0};

    (void)state;
    more.handle = fake_attached(&fake, script_marks_during_detach, 0);
    assert_int_equal(bitmapd_aio_mark(more.handle, FAKE_DRIVE, &one, 1, NULL, mark_more, &more), 0);
    assert_int_equal(bitmapd_detach(more.handle, FAKE_DRIVE), 0);
    assert_int_equal(bitmapd_detach(more.handle, FAKE_DRIVE), -ENOENT);
    TURN_UNTIL(more.handle, more.outcomes[2].done);
    for (int i = 0; i < 3; i++) {
        assert_true(more.outcomes[i].done == 1 && more.outcomes[i].result == 0);
    }
    assert_int_equal(bitmapd_unsettled(more.handle, FAKE_DRIVE), 3);
    assert_int_equal(bitmapd_settle(more.handle, FAKE_DRIVE, 1, 3), 0);
    assert_int_equal(bitmapd_drain(more.handle), 0);
    bitmapd_close(more.handle);
    fake_join(&fake);
}

/* What a stopping daemon did not take is sent again, and waits for the writer's way back. */
static void script_waits_for_the_writer(struct fake *fake)
{
    fake_hello(fake);
    fake_attach(fake, "vm-1", true);
    fake_ok(fake, OPERATION_MARK, fake_expect_mark(fake, 1, 1, NULL));
    fake_error(fake, OPERATION_RESUME, fake_expect(fake, OPERATION_RESUME, NULL),
               STATUS_SHUTTING_DOWN, "bye");
    fake_hang_up(fake);
    fake_hello(fake);
    fake_attach(fake, "vm-1", true);
    /* RESUME before the marks would have the daemon forget them. */
    fake_ok(fake, OPERATION_MARK, fake_expect_mark(fake, 1, 1, NULL));
    fake_ok(fake, OPERATION_RESUME, fake_expect(fake, OPERATION_RESUME, NULL));
    fake_expect_settle(fake, 1, 1);
    fake_error(fake, OPERATION_DETACH, fake_expect(fake, OPERATION_DETACH, NULL),
               STATUS_SHUTTING_DOWN, "bye");
    fake_hang_up(fake);
    fake_hello(fake);
    fake_attach(fake, "vm-1", true);
    fake_ok(fake, OPERATION_RESUME, fake_expect(fake, OPERATION_RESUME, NULL));
    fake_ok(fake, OPERATION_DETACH, fake_expect(fake, OPERATION_DETACH, NULL));
    fake_expect_end(fake);
}

static void test_waits_for_the_writer(void **state)
{
    struct fake fake = {0};
    bool resuming = false;
    uint64_t id;

    (void)state;
    fake_start(&fake, script_waits_for_the_writer);
    bitmapd *handle = fake_connect(&fake, 20);
    assert_int_equal(bitmapd_attach(handle, "vg0/a", "vm-1", 0, NULL, NULL, &resuming), 0);
    assert_true(resuming);
    assert_int_equal(bitmapd_mark(handle, FAKE_DRIVE, &one, 1, &id), 0);
    assert_int_equal(bitmapd_resume(handle, FAKE_DRIVE), 0);
    assert_int_equal(bitmapd_settle(handle, FAKE_DRIVE, id, 1), 0);
    assert_int_equal(bitmapd_detach(handle, FAKE_DRIVE), 0);
    bitmapd_close(handle);
    fake_join(&fake);
}

/* The writer is lost while its detach waits for it. */
static void script_lost_while_detaching(struct fake *fake)
{
    fake_hello(fake);
    fake_attach(fake, "vm-1", false);
    fake_error(fake, OPERATION_DETACH, fake_expect(fake, OPERATION_DETACH, NULL),
               STATUS_SHUTTING_DOWN, "bye");
    fake_hang_up(fake);
    fake_hello(fake);
    fake_error(fake, OPERATION_ATTACH, fake_expect(fake, OPERATION_ATTACH, NULL), STATUS_NOT_FOUND,
               "no such drive");
    fake_expect_end(fake);
}

static void test_lost_while_detaching(void **state)
{
    struct fake fake = {0};

    (void)state;
    bitmapd *handle = fake_attached(&fake, script_lost_while_detaching, 20);
    assert_int_equal(bitmapd_detach(handle, FAKE_DRIVE), -ENOENT);
    assert_string_equal(bitmapd_error(handle), "no such drive");
    assert_int_equal(bitmapd_writer_ready(handle, FAKE_DRIVE), -ENOENT);
    bitmapd_close(handle);
    fake_join(&fake);
}

/* Done, but not on stable storage yet: done all the same. */
static void script_detached_not_durable(struct fake *fake)
{
    fake_hello(fake);
    fake_attach(fake, "vm-1", false);
    fake_error(fake, OPERATION_DETACH, fake_expect(fake, OPERATION_DETACH, NULL),
               STATUS_NOT_DURABLE, "disk");
    fake_hang_up(fake);
    fake_hello(fake);
    /* Nobody to bring back. */
    fake_error(fake, OPERATION_FLUSH, fake_expect(fake, OPERATION_FLUSH, NULL), STATUS_IO, "disk");
    fake_expect_end(fake);
}

static void test_detached_not_durable(void **state)
{
    struct fake fake = {0};

    (void)state;
    bitmapd *handle = fake_attached(&fake, script_detached_not_durable, 20);
    assert_int_equal(bitmapd_detach(handle, FAKE_DRIVE), -EINPROGRESS);
    assert_int_equal(bitmapd_writer_ready(handle, FAKE_DRIVE), -ENOENT);
    TURN_UNTIL(handle, bitmapd_fd(handle) < 0);
    assert_int_equal(bitmapd_flush(handle), -EIO);
    bitmapd_close(handle);
    fake_join(&fake);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_marks_during_detach),
        cmocka_unit_test(test_waits_for_the_writer),
        cmocka_unit_test(test_lost_while_detaching),
        cmocka_unit_test(test_detached_not_durable),
    };
    alarm(60);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
