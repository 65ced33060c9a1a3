/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Many marks in flight: replies out of order, back-pressure, what is refused
 * and what fails, settles, and completions that queue the next mark.
 */
#include "tests/client/fake.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- Pipelining ---- */

#define PIPELINE 40u

static void script_out_of_order(struct fake *fake)
{
    uint64_t cookies[PIPELINE];

    fake_hello(fake);
    for (uint32_t i = 0; i < PIPELINE; i++) {
        cookies[i] = fake_expect_mark(fake, 1 + i * 2, 2, NULL);
        for (uint32_t j = 0; j < i; j++) {
            FAKE_CHECK(cookies[i] != cookies[j]);
        }
    }
    for (uint32_t i = PIPELINE; i-- > 0;) {
        if (i % 5 == 3) {
            fake_error(fake, OPERATION_MARK, cookies[i], STATUS_IO, "disk");
        } else {
            fake_ok(fake, OPERATION_MARK, cookies[i]);
        }
    }
    /* The settles of the even ones: neighbours are not joined, but go in one frame. */
    struct message_settle settle;
    uint64_t cookie = fake_expect(fake, OPERATION_SETTLE, &settle);
    FAKE_CHECK(settle.ids.count == PIPELINE / 2 - 4);
    FAKE_CHECK(wire_ranges_get(&settle.ids, 0).offset == 1);
    FAKE_CHECK(wire_ranges_get(&settle.ids, 0).length == 2);
    fake_ok(fake, OPERATION_SETTLE, cookie);
}

static void test_out_of_order(void **state)
{
    struct fake fake = {0};
    struct outcome outcomes[PIPELINE] = {{0}};
    const struct bitmapd_range ranges[2] = {{0, 512}, {1 << 20, 1}};
    uint64_t ids[PIPELINE];
    size_t expected = 2 * PIPELINE;

    (void)state;
    fake_start(&fake, script_out_of_order);
    bitmapd *handle = fake_connect(&fake, 0);
    for (uint32_t i = 0; i < PIPELINE; i++) {
        assert_int_equal(bitmapd_aio_mark(handle, FAKE_DRIVE, ranges, 2, &ids[i],
                                          outcome_completion, &outcomes[i]),
                         0);
        assert_int_equal(ids[i], 1 + 2 * i);
    }
    assert_int_equal(bitmapd_pending(handle), PIPELINE);
    assert_int_equal(bitmapd_unsettled(handle, FAKE_DRIVE), 2 * PIPELINE);
    /* Not before they are complete. */
    assert_int_equal(bitmapd_settle(handle, FAKE_DRIVE, ids[0], 2), -EINVAL);
    TURN_UNTIL(handle, bitmapd_pending(handle) == 0);
    for (uint32_t i = 0; i < PIPELINE; i++) {
        assert_int_equal(outcomes[i].done, 1);
        assert_int_equal(outcomes[i].result, i % 5 == 3 ? -EIO : 0);
        expected -= i % 5 == 3 ? 2 : 0;
    }
    assert_int_equal(bitmapd_unsettled(handle, FAKE_DRIVE), expected);
    assert_int_equal(bitmapd_settle(handle, FAKE_DRIVE, 0, 1), -EINVAL);
    assert_int_equal(bitmapd_settle(handle, FAKE_DRIVE, 1, 0), -EINVAL);
    assert_int_equal(bitmapd_settle(handle, FAKE_DRIVE, 1, 2 * PIPELINE + 1), -EINVAL);
    assert_int_equal(bitmapd_settle(handle, FAKE_DRIVE, 1, UINT64_MAX), -EINVAL);
    assert_int_equal(bitmapd_settle(handle, FAKE_DRIVE + 1, 1, 1), -EINVAL);
    assert_int_equal(bitmapd_unsettled(handle, FAKE_DRIVE), expected);
    for (uint32_t i = 0; i < PIPELINE; i += 2) {
        if (outcomes[i].result == 0) {
            assert_int_equal(bitmapd_settle(handle, FAKE_DRIVE, ids[i], 2), 0);
            expected -= 2;
        }
    }
    assert_int_equal(bitmapd_unsettled(handle, FAKE_DRIVE), expected);
    assert_int_equal(bitmapd_drain(handle), 0);
    bitmapd_close(handle);
    fake_join(&fake);
}

/* The daemon takes only so many requests at a time. */
static void script_back_pressure(struct fake *fake)
{
    struct pollfd poll_fd;

    fake->limits.requests_max = 3;
    fake_hello(fake);
    uint64_t cookies[3];
    for (uint32_t i = 0; i < 3; i++) {
        cookies[i] = fake_expect_mark(fake, 1 + i, 1, NULL);
    }
    poll_fd = (struct pollfd){.fd = fake->fd, .events = POLLIN};
    FAKE_CHECK(fake->in_done == fake->in.bytes && poll(&poll_fd, 1, 50) == 0);
    fake_ok(fake, OPERATION_MARK, cookies[1]);
    cookies[1] = fake_expect_mark(fake, 4, 1, NULL);
    for (uint32_t i = 0; i < 3; i++) {
        fake_ok(fake, OPERATION_MARK, cookies[i]);
    }
    for (uint32_t id = 5; id <= 10; id++) {
        fake_ok(fake, OPERATION_MARK, fake_expect_mark(fake, id, 1, NULL));
    }
}

static void test_back_pressure(void **state)
{
    struct fake fake = {0};
    struct outcome outcome = {0};
    const struct bitmapd_range range = {0, 512};

    (void)state;
    fake_start(&fake, script_back_pressure);
    bitmapd *handle = fake_connect(&fake, 0);
    for (uint32_t i = 0; i < 10; i++) {
        uint64_t id;
        assert_int_equal(
            bitmapd_aio_mark(handle, FAKE_DRIVE, &range, 1, &id, outcome_completion, &outcome), 0);
    }
    TURN_UNTIL(handle, outcome.done == 10);
    bitmapd_close(handle);
    fake_join(&fake);
}

/* ---- Marks ---- */

static void script_mark_errors(struct fake *fake)
{
    fake->limits.unsettled_max = 5;
    fake_hello(fake);
    fake_ok(fake, OPERATION_MARK, fake_expect_mark(fake, 1, 3, NULL));
    /* Applied, but not durable: it counts for the daemon, and nothing is written under it. */
    fake_error(fake, OPERATION_MARK, fake_expect_mark(fake, 4, 2, NULL), STATUS_NOT_DURABLE,
               "disk");
    fake_expect_settle(fake, 4, 2);
    struct message_mark mark;
    uint64_t cookie = fake_expect(fake, OPERATION_MARK, &mark);
    FAKE_CHECK(mark.first_id == 0 && mark.ranges.count == 1);
    fake_ok(fake, OPERATION_MARK, cookie);
    fake_expect_settle(fake, 1, 5);
    fake_ok(fake, OPERATION_MARK, fake_expect_mark(fake, 6, 5, NULL));
    fake_expect_settle(fake, 6, 5); /* one range, whatever the order of the calls */
    fake_ok(fake, OPERATION_MARK, fake_expect_mark(fake, 11, 1, NULL));
    /* A settle that is refused comes out of the drain. */
    fake_error(fake, OPERATION_SETTLE, fake_expect(fake, OPERATION_SETTLE, NULL), STATUS_NOT_FOUND,
               "no such drive");
}

static void test_mark_errors(void **state)
{
    struct fake fake = {0};
    const struct bitmapd_range ranges[6] = {{0, 1}, {1, 1}, {2, 1}, {3, 1}, {4, 1}, {5, 1}};
    const struct bitmapd_range empty = {0, 0}, overflowing = {2, UINT64_MAX - 1};
    uint64_t id = 99;

    (void)state;
    fake_start(&fake, script_mark_errors);
    bitmapd *handle = fake_connect(&fake, 0);
    assert_int_equal(bitmapd_mark(handle, FAKE_DRIVE, ranges, 0, &id), -EINVAL);
    assert_int_equal(bitmapd_mark(handle, FAKE_DRIVE, ranges, BITMAPD_RANGES_MAX + 1, &id),
                     -EINVAL);
    assert_int_equal(bitmapd_mark(handle, FAKE_DRIVE, &empty, 1, &id), -EINVAL);
    assert_int_equal(bitmapd_mark(handle, FAKE_DRIVE, &overflowing, 1, NULL), -EINVAL);
    assert_int_equal(bitmapd_mark(handle, FAKE_DRIVE, ranges, 6, &id), -EDQUOT);
    assert_int_equal(id, 99);
    assert_int_equal(bitmapd_mark(handle, FAKE_DRIVE, ranges, 3, &id), 0);
    assert_int_equal(id, 1);
    assert_int_equal(bitmapd_mark(handle, FAKE_DRIVE, ranges, 3, &id), -EDQUOT);
    assert_int_equal(bitmapd_mark(handle, FAKE_DRIVE, ranges, 2, &id), -EINPROGRESS);
    assert_int_equal(id, 1);
    assert_int_equal(bitmapd_unsettled(handle, FAKE_DRIVE), 3);
    assert_int_equal(bitmapd_mark(handle, FAKE_DRIVE, ranges, 1, NULL), 0);
    assert_int_equal(bitmapd_settle(handle, FAKE_DRIVE, 1, 5), 0); /* 4 and 5 are passed over */
    assert_int_equal(bitmapd_unsettled(handle, FAKE_DRIVE), 0);
    assert_int_equal(bitmapd_mark(handle, FAKE_DRIVE, ranges, 5, &id), 0);
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(bitmapd_settle(handle, FAKE_DRIVE, id + (i * 3) % 5, 1), 0);
    }
    assert_int_equal(bitmapd_drain(handle), 0);
    assert_int_equal(bitmapd_mark(handle, FAKE_DRIVE, ranges, 1, &id), 0);
    assert_int_equal(bitmapd_settle(handle, FAKE_DRIVE, id, 1), 0);
    assert_int_equal(bitmapd_pending(handle), 1);
    assert_int_equal(bitmapd_drain(handle), -ENOENT);
    assert_non_null(strstr(bitmapd_error(handle), "no such drive"));
    assert_int_equal(bitmapd_pending(handle), 0);
    bitmapd_close(handle);
    fake_join(&fake);
}

/* The library's completions may call it again. */
struct chain {
    bitmapd *handle;
    int left;
};

static void chain_completion(void *opaque, int result)
{
    struct chain *chain = opaque;
    const struct bitmapd_range range = {0, 1};

    assert_int_equal(result, 0);
    assert_int_equal(bitmapd_dispatch(chain->handle, 0), -EDEADLK);
    assert_int_equal(bitmapd_flush(chain->handle), -EDEADLK);
    assert_int_equal(bitmapd_drain(chain->handle), -EDEADLK);
    assert_int_equal(bitmapd_mark(chain->handle, FAKE_DRIVE, &range, 1, NULL), -EDEADLK);
    if (chain->left-- > 0) {
        assert_int_equal(
            bitmapd_aio_mark(chain->handle, FAKE_DRIVE, &range, 1, NULL, chain_completion, chain),
            0);
    }
}

static void script_chain(struct fake *fake)
{
    fake_hello(fake);
    for (int i = 0; i < 20; i++) {
        fake_ok(fake, OPERATION_MARK, fake_expect(fake, OPERATION_MARK, NULL));
    }
    fake_expect(fake, OPERATION_MARK, NULL); /* not answered: it ends with the handle */
    fake_expect_end(fake);
}

static void test_chain(void **state)
{
    struct fake fake = {0};
    const struct bitmapd_range range = {0, 1};
    struct outcome outcome = {0};

    (void)state;
    fake_start(&fake, script_chain);
    struct chain chain = {fake_connect(&fake, 0), 19};
    assert_int_equal(
        bitmapd_aio_mark(chain.handle, FAKE_DRIVE, &range, 1, NULL, chain_completion, &chain), 0);
    assert_int_equal(bitmapd_drain(chain.handle), 0);
    assert_int_equal(chain.left, -1);
    assert_int_equal(
        bitmapd_aio_mark(chain.handle, FAKE_DRIVE, &range, 1, NULL, outcome_completion, &outcome),
        0);
    assert_int_equal(bitmapd_dispatch(chain.handle, 0), 0);
    assert_int_equal(outcome.done, 0);
    bitmapd_close(chain.handle);
    assert_int_equal(outcome.done, 1);
    assert_int_equal(outcome.result, -ECANCELED);
    fake_join(&fake);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_out_of_order),
        cmocka_unit_test(test_back_pressure),
        cmocka_unit_test(test_mark_errors),
        cmocka_unit_test(test_chain),
    };
    alarm(60);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
