/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How a writer comes back after a lost connection: what is marked again, who
 * resumes, and the writers that cannot come back.
 */
#include "tests/client/fake.h"

#include <errno.h>
#include <poll.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>

static const struct bitmapd_range one = {4096, 512};

/* ---- The way back ---- */

static void script_marks_again(struct fake *fake)
{
    struct wire_range range;
    struct message_drive_id id;

    fake_hello(fake);
    fake_attach(fake, "vm-1", false);
    fake_ok(fake, OPERATION_MARK, fake_expect_mark(fake, 1, 1, NULL));
    fake_ok(fake, OPERATION_MARK, fake_expect_mark(fake, 2, 1, NULL));
    fake_expect_settle(fake, 1, 1);
    fake_expect_mark(fake, 3, 1, NULL); /* taken, and the answer lost */
    fake_hang_up(fake);

    fake_hello(fake);
    fake_attach(fake, "vm-1", true);
    /* The settled one is not marked again; the others are, in one frame, with their ids. */
    uint64_t cookie = fake_expect_mark(fake, 2, 3, &range);
    FAKE_CHECK(range.offset == 2 * 4096);
    fake_ok(fake, OPERATION_MARK, cookie);
    cookie = fake_expect(fake, OPERATION_RESUME, &id);
    FAKE_CHECK(id.drive == FAKE_DRIVE);
    fake_ok(fake, OPERATION_RESUME, cookie);
    fake_ok(fake, OPERATION_MARK, fake_expect_mark(fake, 5, 1, NULL));
    fake_expect_settle(fake, 2, 4);
    fake_ok(fake, OPERATION_DETACH, fake_expect(fake, OPERATION_DETACH, &id));
    FAKE_CHECK(id.drive == FAKE_DRIVE);
    fake_expect_end(fake);
}

static void test_marks_again(void **state)
{
    struct fake fake = {0};
    struct outcome outcomes[6] = {{0}};

    (void)state;
    bitmapd *handle = fake_attached(&fake, script_marks_again, 20);
    assert_int_equal(fake_aio_mark(handle, 1 * 4096, &outcomes[1]), 1);
    assert_int_equal(fake_aio_mark(handle, 2 * 4096, &outcomes[2]), 2);
    assert_int_equal(bitmapd_drain(handle), 0);
    assert_true(outcomes[1].done == 1 && outcomes[2].done == 1);
    assert_int_equal(bitmapd_settle(handle, FAKE_DRIVE, 1, 1), 0);
    assert_int_equal(bitmapd_drain(handle), 0);
    fake_aio_mark(handle, 3 * 4096, &outcomes[3]);
    TURN_UNTIL(handle, bitmapd_fd(handle) < 0);
    assert_int_equal(outcomes[3].done, 0);
    assert_int_equal(bitmapd_events(handle), 0);
    assert_true(bitmapd_timeout_ms(handle) >= 0);
    assert_int_equal(bitmapd_writer_ready(handle, FAKE_DRIVE), 0);
    fake_aio_mark(handle, 4 * 4096, &outcomes[4]); /* queued without a connection */
    assert_int_equal(bitmapd_settle(handle, FAKE_DRIVE, 4, 1), -EINVAL);
    TURN_UNTIL(handle, outcomes[3].done && outcomes[4].done);
    assert_true(outcomes[3].result == 0 && outcomes[4].result == 0);
    assert_int_equal(bitmapd_writer_ready(handle, FAKE_DRIVE), 1);
    fake_aio_mark(handle, 5 * 4096, &outcomes[5]);
    TURN_UNTIL(handle, outcomes[5].done);
    assert_int_equal(bitmapd_unsettled(handle, FAKE_DRIVE), 4);
    assert_int_equal(bitmapd_detach(handle, FAKE_DRIVE), -EBUSY);
    assert_int_equal(bitmapd_settle(handle, FAKE_DRIVE, 2, 4), 0);
    assert_int_equal(bitmapd_detach(handle, FAKE_DRIVE), 0);
    assert_int_equal(bitmapd_detach(handle, FAKE_DRIVE), -ENOENT);
    assert_int_equal(bitmapd_writer_ready(handle, FAKE_DRIVE), -ENOENT);
    bitmapd_close(handle);
    for (int i = 1; i < 6; i++) {
        assert_int_equal(outcomes[i].done, 1);
    }
    fake_join(&fake);
}

/* Settled while the connection was gone: then it is not marked again. */
static void script_settled_meanwhile(struct fake *fake)
{
    fake_hello(fake);
    fake_attach(fake, "vm-1", false);
    for (uint32_t id = 1; id <= 5; id++) {
        fake_ok(fake, OPERATION_MARK, fake_expect_mark(fake, id, 1, NULL));
    }
    fake_hang_up(fake);
    fake_hello(fake);
    fake_attach(fake, "vm-1", true);
    /* What does not mark need not wait for the writer. */
    uint64_t flush = fake_expect(fake, OPERATION_FLUSH, NULL);
    /* 2 and 4 are gone: three frames, as ids in a frame have no gaps. */
    uint64_t cookies[3] = {
        fake_expect_mark(fake, 1, 1, NULL),
        fake_expect_mark(fake, 3, 1, NULL),
        fake_expect_mark(fake, 5, 1, NULL),
    };
    fake_ok(fake, OPERATION_MARK, cookies[2]);
    fake_ok(fake, OPERATION_MARK, cookies[0]);
    /* RESUME forgets what was carried, so it has to wait for the last answer. */
    struct pollfd poll_fd = {.fd = fake->fd, .events = POLLIN};
    FAKE_CHECK(fake->in_done == fake->in.bytes && poll(&poll_fd, 1, 50) == 0);
    fake_ok(fake, OPERATION_MARK, cookies[1]);
    fake_ok(fake, OPERATION_RESUME, fake_expect(fake, OPERATION_RESUME, NULL));
    fake_error(fake, OPERATION_FLUSH, flush, STATUS_IO, "disk");
}

static void test_settled_meanwhile(void **state)
{
    struct fake fake = {0};
    struct outcome outcome = {0};

    (void)state;
    bitmapd *handle = fake_attached(&fake, script_settled_meanwhile, 20);
    for (int i = 0; i < 5; i++) {
        fake_aio_mark(handle, 0, &outcome);
    }
    assert_int_equal(bitmapd_drain(handle), 0);
    TURN_UNTIL(handle, bitmapd_fd(handle) < 0);
    assert_int_equal(bitmapd_settle(handle, FAKE_DRIVE, 2, 1), 0);
    assert_int_equal(bitmapd_settle(handle, FAKE_DRIVE, 4, 1), 0);
    assert_int_equal(bitmapd_unsettled(handle, FAKE_DRIVE), 3);
    assert_int_equal(bitmapd_flush(handle), -EIO);
    bitmapd_close(handle);
    fake_join(&fake);
}

/* Marks of the old connection are settled during the way back, and new ones take their room. */
static void script_settled_on_the_way(struct fake *fake)
{
    struct message_mark mark;

    fake->limits.unsettled_max = 2;
    fake_hello(fake);
    fake_attach(fake, "vm-1", false);
    fake_ok(fake, OPERATION_MARK, fake_expect_mark(fake, 1, 2, NULL));
    fake_hang_up(fake);
    fake_hello(fake);
    fake_attach(fake, "vm-1", true);
    uint64_t other = fake_expect(fake, OPERATION_MARK, &mark);
    FAKE_CHECK(mark.first_id == 0);
    uint64_t again = fake_expect_mark(fake, 1, 2, NULL);
    fake_ok(fake, OPERATION_MARK, other);
    FAKE_CHECK(sem_wait(fake->opaque) == 0);
    fake_ok(fake, OPERATION_MARK, again);
    /* The limit is reached: a third mark would be refused before the settle. */
    fake_expect_settle(fake, 1, 2);
    fake_ok(fake, OPERATION_MARK, fake_expect_mark(fake, 3, 1, NULL));
    fake_ok(fake, OPERATION_RESUME, fake_expect(fake, OPERATION_RESUME, NULL));
    fake_expect_end(fake);
}

static void test_settled_on_the_way(void **state)
{
    sem_t settled;
    struct fake fake = {.opaque = &settled};
    const struct bitmapd_range two[] = {{0, 512}, {4096, 512}};
    struct outcome other = {0}, new = {0};
    uint64_t id;

    (void)state;
    assert_int_equal(sem_init(&settled, 0, 0), 0);
    bitmapd *handle = fake_attached(&fake, script_settled_on_the_way, 20);
    assert_int_equal(bitmapd_mark(handle, FAKE_DRIVE, two, 2, &id), 0);
    TURN_UNTIL(handle, bitmapd_fd(handle) < 0);
    assert_int_equal(
        bitmapd_aio_mark(handle, FAKE_DRIVE, &one, 1, NULL, outcome_completion, &other), 0);
    TURN_UNTIL(handle, other.done);
    assert_int_equal(bitmapd_writer_ready(handle, FAKE_DRIVE), 0);
    assert_int_equal(bitmapd_settle(handle, FAKE_DRIVE, id, 2), 0);
    assert_int_equal(fake_aio_mark(handle, 8192, &new), 3);
    assert_int_equal(sem_post(&settled), 0);
    TURN_UNTIL(handle, new.done);
    assert_int_equal(new.result, 0);
    assert_int_equal(bitmapd_unsettled(handle, FAKE_DRIVE), 1);
    bitmapd_close(handle);
    fake_join(&fake);
}

/* Marks of a handle that never attached: no ATTACH, no RESUME. */
static void script_anonymous(struct fake *fake)
{
    struct message_mark mark;

    fake_hello(fake);
    fake_ok(fake, OPERATION_MARK, fake_expect_mark(fake, 1, 1, NULL));
    fake_expect(fake, OPERATION_MARK, &mark);
    FAKE_CHECK(mark.first_id == 0);
    fake_hang_up(fake);
    fake_hello(fake);
    uint64_t cookies[2];
    cookies[0] = fake_expect_mark(fake, 1, 1, NULL);
    cookies[1] = fake_expect(fake, OPERATION_MARK, &mark);
    FAKE_CHECK(mark.first_id == 0 && wire_ranges_get(&mark.ranges, 0).offset == one.offset);
    fake_ok(fake, OPERATION_MARK, cookies[1]);
    fake_ok(fake, OPERATION_MARK, cookies[0]);
}

static void test_anonymous(void **state)
{
    struct fake fake = {0};
    uint64_t id;

    (void)state;
    fake_start(&fake, script_anonymous);
    bitmapd *handle = fake_connect(&fake, 20);
    assert_int_equal(bitmapd_mark(handle, FAKE_DRIVE, &one, 1, &id), 0);
    assert_int_equal(bitmapd_mark(handle, FAKE_DRIVE, &one, 1, NULL), 0);
    assert_int_equal(bitmapd_detach(handle, FAKE_DRIVE), -ENOENT);
    bitmapd_close(handle);
    fake_join(&fake);
}

/*
 * The daemon knew the token as lost, and the program has not vouched for its
 * earlier writes yet: the library must not do it in its place.
 */
static void script_caller_resumes(struct fake *fake)
{
    fake_hello(fake);
    fake_attach(fake, "vm-1", true);
    fake_ok(fake, OPERATION_MARK, fake_expect_mark(fake, 1, 1, NULL));
    fake_hang_up(fake);
    fake_hello(fake);
    fake_attach(fake, "vm-1", true);
    fake_ok(fake, OPERATION_MARK, fake_expect_mark(fake, 1, 2, NULL));
    fake_ok(fake, OPERATION_RESUME, fake_expect(fake, OPERATION_RESUME, NULL));
    fake_hang_up(fake);
    /* From then on the library does. */
    fake_hello(fake);
    fake_attach(fake, "vm-1", true);
    fake_ok(fake, OPERATION_MARK, fake_expect_mark(fake, 1, 3, NULL));
    fake_ok(fake, OPERATION_RESUME, fake_expect(fake, OPERATION_RESUME, NULL));
}

static void test_caller_resumes(void **state)
{
    struct fake fake = {0};
    uint64_t id;
    bool resuming = false;

    (void)state;
    fake_start(&fake, script_caller_resumes);
    bitmapd *handle = fake_connect(&fake, 20);
    assert_int_equal(bitmapd_attach(handle, "vg0/a", "vm-1", 0, NULL, NULL, &resuming), 0);
    assert_true(resuming);
    assert_int_equal(bitmapd_mark(handle, FAKE_DRIVE, &one, 1, &id), 0);
    TURN_UNTIL(handle, bitmapd_fd(handle) < 0);
    assert_int_equal(bitmapd_mark(handle, FAKE_DRIVE, &one, 1, &id), 0);
    assert_int_equal(bitmapd_resume(handle, FAKE_DRIVE), 0);
    TURN_UNTIL(handle, bitmapd_fd(handle) < 0);
    assert_int_equal(bitmapd_mark(handle, FAKE_DRIVE, &one, 1, &id), 0);
    bitmapd_close(handle);
    fake_join(&fake);
}

/* The way back is itself interrupted, at each of its steps. */
static void script_interrupted(struct fake *fake)
{
    fake_hello(fake);
    fake_attach(fake, "vm-1", false);
    fake_expect_mark(fake, 1, 1, NULL);
    fake_hang_up(fake);
    fake_accept(fake); /* HELLO not answered */
    fake_hang_up(fake);
    fake_hello(fake);
    fake_expect(fake, OPERATION_ATTACH, NULL);
    fake_hang_up(fake);
    fake_hello(fake);
    fake_attach(fake, "vm-1", true);
    fake_expect_mark(fake, 1, 1, NULL);
    fake_hang_up(fake);
    fake_hello(fake);
    fake_attach(fake, "vm-1", true);
    fake_ok(fake, OPERATION_MARK, fake_expect_mark(fake, 1, 1, NULL));
    fake_expect(fake, OPERATION_RESUME, NULL);
    fake_hang_up(fake);
    fake_hello(fake);
    fake_attach(fake, "vm-1", true);
    /* Storage trouble passes: begun anew on another connection. */
    fake_error(fake, OPERATION_MARK, fake_expect_mark(fake, 1, 1, NULL), STATUS_NOT_DURABLE,
               "disk");
    fake_expect_end(fake);
    fake_hang_up(fake);
    fake_hello(fake);
    fake_attach(fake, "vm-1", true);
    fake_ok(fake, OPERATION_MARK, fake_expect_mark(fake, 1, 1, NULL));
    fake_ok(fake, OPERATION_RESUME, fake_expect(fake, OPERATION_RESUME, NULL));
}

static void test_interrupted(void **state)
{
    struct fake fake = {0};
    struct outcome outcome = {0};

    (void)state;
    bitmapd *handle = fake_attached(&fake, script_interrupted, 30);
    fake_aio_mark(handle, 0, &outcome);
    TURN_UNTIL(handle, outcome.done);
    assert_int_equal(outcome.result, 0);
    bitmapd_close(handle);
    fake_join(&fake);
}

/* ---- Writers that cannot come back ---- */

static void script_fenced(struct fake *fake)
{
    fake_hello(fake);
    fake_attach(fake, "vm-1", false);
    fake_expect_mark(fake, 1, 1, NULL);
    fake_hang_up(fake);
    fake_hello(fake);
    fake_error(fake, OPERATION_ATTACH, fake_expect(fake, OPERATION_ATTACH, NULL), STATUS_FENCED,
               "fenced by root");
    /* No second ATTACH; the handle is good for other things, and for a new token. */
    fake_error(fake, OPERATION_FLUSH, fake_expect(fake, OPERATION_FLUSH, NULL), STATUS_IO, "disk");
    fake_attach(fake, "vm-2", false);
    fake_ok(fake, OPERATION_MARK, fake_expect_mark(fake, 2, 1, NULL));
    /* Fenced while connected. */
    fake_error(fake, OPERATION_MARK, fake_expect_mark(fake, 3, 1, NULL), STATUS_FENCED, "again");
    fake_expect_end(fake);
}

static void test_fenced(void **state)
{
    struct fake fake = {0};
    struct outcome outcome = {0};
    const struct bitmapd_range range = {0, 1};
    uint64_t id;

    (void)state;
    bitmapd *handle = fake_attached(&fake, script_fenced, 20);
    fake_aio_mark(handle, 0, &outcome);
    TURN_UNTIL(handle, outcome.done);
    assert_int_equal(outcome.result, -EOWNERDEAD);
    assert_int_equal(bitmapd_mark(handle, FAKE_DRIVE, &range, 1, &id), -EOWNERDEAD);
    assert_int_equal(bitmapd_settle(handle, FAKE_DRIVE, 1, 1), -EOWNERDEAD);
    assert_int_equal(bitmapd_resume(handle, FAKE_DRIVE), -EOWNERDEAD);
    assert_int_equal(bitmapd_unsettled(handle, FAKE_DRIVE), 0);
    assert_int_equal(bitmapd_flush(handle), -EIO);
    assert_int_equal(bitmapd_attach(handle, "vg0/a", "vm-2", 0, NULL, NULL, NULL), 0);
    assert_int_equal(bitmapd_mark(handle, FAKE_DRIVE, &range, 1, &id), 0);
    assert_int_equal(bitmapd_mark(handle, FAKE_DRIVE, &range, 1, &id), -EOWNERDEAD);
    assert_int_equal(bitmapd_detach(handle, FAKE_DRIVE), -EOWNERDEAD);
    assert_int_equal(bitmapd_detach(handle, FAKE_DRIVE), -ENOENT);
    bitmapd_close(handle);
    fake_join(&fake);
}

/* The drive has shrunk meanwhile, or is another one. */
static void script_refused(struct fake *fake)
{
    struct message_attach_reply other = {FAKE_DRIVE + 1, 1, 0};

    fake_hello(fake);
    fake_attach(fake, "vm-1", false);
    fake_expect_mark(fake, 1, 1, NULL);
    fake_hang_up(fake);
    fake_hello(fake);
    if (fake->opaque) {
        fake_reply_as(fake, MESSAGE_ATTACH_REPLY, &other, OPERATION_ATTACH, FRAME_REPLY, 0,
                      fake_expect(fake, OPERATION_ATTACH, NULL));
    } else {
        fake_attach(fake, "vm-1", true);
        fake_error(fake, OPERATION_MARK, fake_expect_mark(fake, 1, 1, NULL), STATUS_INVALID,
                   "past the end");
    }
    fake_expect_end(fake);
}

static void test_refused(void **state)
{
    (void)state;
    for (int other = 0; other < 2; other++) {
        struct fake fake = {.opaque = other ? &fake : NULL};
        struct outcome outcome = {0};
        bitmapd *handle = fake_attached(&fake, script_refused, 20);
        fake_aio_mark(handle, 0, &outcome);
        TURN_UNTIL(handle, outcome.done);
        assert_int_equal(outcome.result, other ? -ENOENT : -EINVAL);
        bitmapd_close(handle);
        fake_join(&fake);
    }
}

/* The daemon has not noticed yet that our old connection is gone. */
static void script_busy(struct fake *fake)
{
    fake_hello(fake);
    fake_attach(fake, "vm-1", false);
    fake_ok(fake, OPERATION_MARK, fake_expect_mark(fake, 1, 1, NULL));
    fake_hang_up(fake);
    fake_hello(fake);
    for (int i = 0; i < 3; i++) {
        fake_error(fake, OPERATION_ATTACH, fake_expect(fake, OPERATION_ATTACH, NULL), STATUS_BUSY,
                   "in use");
    }
    fake_attach(fake, "vm-1", true);
    fake_ok(fake, OPERATION_MARK, fake_expect_mark(fake, 1, 2, NULL));
    fake_ok(fake, OPERATION_RESUME, fake_expect(fake, OPERATION_RESUME, NULL));
}

static void test_busy(void **state)
{
    struct fake fake = {0};
    uint64_t id;

    (void)state;
    bitmapd *handle = fake_attached(&fake, script_busy, 20);
    assert_int_equal(bitmapd_mark(handle, FAKE_DRIVE, &one, 1, &id), 0);
    TURN_UNTIL(handle, bitmapd_fd(handle) < 0);
    assert_int_equal(bitmapd_mark(handle, FAKE_DRIVE, &one, 1, &id), 0);
    bitmapd_close(handle);
    fake_join(&fake);
}

/* It is another program, and stays. */
static void script_taken(struct fake *fake)
{
    fake_hello(fake);
    fake_attach(fake, "vm-1", false);
    fake_hang_up(fake);
    fake_hello(fake);
    struct frame frame;
    while ((frame = fake_receive(fake)).operation == OPERATION_ATTACH) {
        fake_error(fake, OPERATION_ATTACH, frame.cookie, STATUS_BUSY, "in use");
    }
    FAKE_CHECK(frame.operation == OPERATION_FLUSH);
    fake_error(fake, OPERATION_FLUSH, frame.cookie, STATUS_IO, "disk");
    fake_expect_end(fake);
}

static void test_taken(void **state)
{
    struct fake fake = {0};
    uint64_t id;

    (void)state;
    bitmapd *handle = fake_attached(&fake, script_taken, 1);
    TURN_UNTIL(handle, bitmapd_fd(handle) < 0);
    /* Connected it is soon, but not as the writer; without a request that says so, too. */
    TURN_UNTIL(handle, bitmapd_fd(handle) >= 0);
    assert_int_equal(bitmapd_writer_ready(handle, FAKE_DRIVE), 0);
    TURN_UNTIL(handle, bitmapd_writer_ready(handle, FAKE_DRIVE) != 0);
    assert_int_equal(bitmapd_writer_ready(handle, FAKE_DRIVE), -EOWNERDEAD);
    assert_int_equal(bitmapd_mark(handle, FAKE_DRIVE, &one, 1, &id), -EOWNERDEAD);
    assert_int_equal(bitmapd_flush(handle), -EIO);
    bitmapd_close(handle);
    fake_join(&fake);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_marks_again),
        cmocka_unit_test(test_settled_meanwhile),
        cmocka_unit_test(test_anonymous),
        cmocka_unit_test(test_caller_resumes),
        cmocka_unit_test(test_interrupted),
        cmocka_unit_test(test_fenced),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_busy),
        cmocka_unit_test(test_taken),

        cmocka_unit_test(test_settled_on_the_way),
    };
    alarm(60);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
