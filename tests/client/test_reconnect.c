/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Lost connections: which requests are sent again and which are not, and when
 * the search ends; with and without a reconnect timeout.
 */
#include "tests/client/fake.h"

#include "proto/base/crc32c.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static const struct bitmapd_range one = {4096, 512};

static bitmapd *attached(struct fake *fake, void (*script)(struct fake *), unsigned timeout_s)
{
    uint64_t drive = 0, size = 0;
    bool resuming = true;

    fake_start(fake, script);
    bitmapd *handle = fake_connect(fake, timeout_s);
    assert_int_equal(bitmapd_attach(handle, "vg0/a", "vm-1", 0, &drive, &size, &resuming), 0);
    assert_true(drive == FAKE_DRIVE && size == FAKE_DRIVE_SIZE && !resuming);
    return handle;
}

static uint64_t aio_mark(bitmapd *handle, uint64_t offset, struct outcome *outcome)
{
    const struct bitmapd_range range = {offset, 512};
    uint64_t id = 0;
    assert_int_equal(
        bitmapd_aio_mark(handle, FAKE_DRIVE, &range, 1, &id, outcome_completion, outcome), 0);
    return id;
}

/* ---- Requests ---- */

static void script_outcome_unknown(struct fake *fake)
{
    fake_hello(fake);
    fake_expect(fake, OPERATION_DRIVE_RESIZE, NULL);
    fake_hang_up(fake);
    fake_hello(fake);
    /* Not sent again; reads are. */
    fake_expect(fake, OPERATION_DRIVE_LIST, NULL);
    fake_hang_up(fake);
    fake_hello(fake);
    struct message_list_end end = {0};
    fake_reply_as(fake, MESSAGE_LIST_END, &end, OPERATION_DRIVE_LIST, FRAME_REPLY, 0,
                  fake_expect(fake, OPERATION_DRIVE_LIST, NULL));
    fake_hang_up(fake);
    /* What was not sent yet waits for the next connection, changes too. */
    fake_hello(fake);
    fake_ok(fake, OPERATION_DRIVE_RESIZE, fake_expect(fake, OPERATION_DRIVE_RESIZE, NULL));
}

static void no_drive(void *opaque, const struct bitmapd_drive *drive)
{
    (void)opaque;
    (void)drive;
    fail();
}

static void test_outcome_unknown(void **state)
{
    struct fake fake = {0};

    (void)state;
    fake_start(&fake, script_outcome_unknown);
    bitmapd *handle = fake_connect(&fake, 20);
    assert_int_equal(bitmapd_drive_resize(handle, "vg0/a", 4096), -ECONNABORTED);
    assert_non_null(strstr(bitmapd_error(handle), "drive-resize was sent"));
    assert_int_equal(bitmapd_drive_list(handle, no_drive, NULL), 0);
    TURN_UNTIL(handle, bitmapd_fd(handle) < 0);
    assert_int_equal(bitmapd_drive_resize(handle, "vg0/a", 4096), 0);
    bitmapd_close(handle);
    fake_join(&fake);
}

/* A daemon on its way out takes nothing more; its successor gets it. */
static void script_shutting_down(struct fake *fake)
{
    fake_hello(fake);
    fake_attach(fake, "vm-1", false);
    uint64_t mark = fake_expect_mark(fake, 1, 1, NULL);
    uint64_t resize = fake_expect(fake, OPERATION_DRIVE_RESIZE, NULL);
    fake_error(fake, OPERATION_MARK, mark, STATUS_SHUTTING_DOWN, "stopping");
    fake_error(fake, OPERATION_DRIVE_RESIZE, resize, STATUS_SHUTTING_DOWN, "stopping");
    fake_hang_up(fake);
    fake_hello(fake);
    fake_attach(fake, "vm-1", true);
    resize = fake_expect(fake, OPERATION_DRIVE_RESIZE, NULL);
    fake_ok(fake, OPERATION_MARK, fake_expect_mark(fake, 1, 1, NULL));
    fake_ok(fake, OPERATION_RESUME, fake_expect(fake, OPERATION_RESUME, NULL));
    fake_ok(fake, OPERATION_DRIVE_RESIZE, resize);
    /* Without a reconnect timeout it is the answer. */
    fake_error(fake, OPERATION_FLUSH, fake_expect(fake, OPERATION_FLUSH, NULL),
               STATUS_SHUTTING_DOWN, "stopping again");
}

static void test_shutting_down(void **state)
{
    struct fake fake = {0};
    struct outcome outcome = {0};

    (void)state;
    bitmapd *handle = attached(&fake, script_shutting_down, 20);
    aio_mark(handle, 0, &outcome);
    assert_int_equal(bitmapd_drive_resize(handle, "vg0/a", 4096), 0);
    TURN_UNTIL(handle, outcome.done);
    assert_int_equal(outcome.result, 0);
    assert_int_equal(bitmapd_set_reconnect_timeout(handle, 0), 0);
    assert_int_equal(bitmapd_flush(handle), -ESHUTDOWN);
    assert_string_equal(bitmapd_error(handle), "stopping again");
    bitmapd_close(handle);
    fake_join(&fake);
}

/* What lies behind a full socket was not seen by the daemon, even if it was in flight for us. */
#define UNSENT 5

static void script_unsent(struct fake *fake)
{
    fake_hello(fake);
    usleep(100000); /* reads nothing; should the client be slower, this tests less */
    fake_hang_up(fake);
    fake_hello(fake);
    for (int i = 0; i < UNSENT; i++) {
        fake_expect(fake, OPERATION_MARK, NULL);
        fake_ok(fake, OPERATION_MARK, fake->cookie);
    }
    fake_error(fake, OPERATION_FLUSH, fake_expect(fake, OPERATION_FLUSH, NULL), STATUS_IO, "disk");
}

static void test_unsent(void **state)
{
    static struct bitmapd_range ranges[4096];
    struct fake fake = {0};
    struct outcome outcome = {0};

    (void)state;
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        ranges[i] = one;
    }
    fake_start(&fake, script_unsent);
    bitmapd *handle = fake_connect(&fake, 20);
    for (int i = 0; i < UNSENT; i++) {
        assert_int_equal(
            bitmapd_aio_mark(handle, FAKE_DRIVE, ranges, 4096, NULL, outcome_completion, &outcome),
            0);
        assert_int_equal(bitmapd_dispatch(handle, 0), 0);
    }
    assert_int_equal(bitmapd_flush(handle), -EIO);
    assert_int_equal(bitmapd_drain(handle), 0);
    assert_int_equal(outcome.done, UNSENT);
    assert_int_equal(outcome.result, 0);
    bitmapd_close(handle);
    fake_join(&fake);
}

struct seen {
    int heads;
    int runs;
    int items;
};

static void see_head(void *opaque, const struct bitmapd_map *map)
{
    struct seen *seen = opaque;
    assert_int_equal(map->size, FAKE_DRIVE_SIZE);
    seen->heads++;
}

static void see_runs(void *opaque, const struct bitmapd_range *runs, size_t count)
{
    struct seen *seen = opaque;
    (void)runs;
    seen->runs += (int)count;
}

static void see_drive(void *opaque, const struct bitmapd_drive *drive)
{
    struct seen *seen = opaque;
    (void)drive;
    seen->items++;
}

static const struct bitmapd_map_callbacks see_map = {see_head, see_runs};

static void script_map_again(struct fake *fake)
{
    uint8_t pair[WIRE_RANGE_BYTES];
    struct message_drive_info info = {.id = 1, .name = wire_string("a"), .size = 1};

    fake_hello(fake);
    /* Only the head arrived: nothing was used of it. */
    fake_map_head(fake, fake_expect(fake, OPERATION_MAP, NULL), 4096);
    fake_hang_up(fake);
    fake_hello(fake);
    uint64_t cookie = fake_expect(fake, OPERATION_MAP, NULL);
    fake_map_head(fake, cookie, FAKE_DRIVE_SIZE);
    fake_map_page(fake, cookie, 0, 512);
    wire_range_store(pair, (struct wire_range){0, 512});
    struct message_map_end end = {1, 512, crc32c(0, pair, sizeof pair)};
    fake_reply_as(fake, MESSAGE_MAP_END, &end, OPERATION_MAP, FRAME_REPLY, 0, cookie);
    /* A run arrived: another map cannot go on where this one ended. */
    cookie = fake_expect(fake, OPERATION_MAP, NULL);
    fake_map_head(fake, cookie, FAKE_DRIVE_SIZE);
    fake_map_page(fake, cookie, 0, 512);
    fake_hang_up(fake);
    fake_hello(fake);
    /* The same with a list. */
    cookie = fake_expect(fake, OPERATION_DRIVE_LIST, NULL);
    fake_reply_as(fake, MESSAGE_DRIVE_INFO, &info, OPERATION_DRIVE_LIST, FRAME_REPLY | FRAME_MORE,
                  0, cookie);
    fake_hang_up(fake);
    fake_hello(fake);
    fake_expect_end(fake);
}

static void test_map_again(void **state)
{
    struct fake fake = {0};
    struct seen seen = {0};

    (void)state;
    fake_start(&fake, script_map_again);
    bitmapd *handle = fake_connect(&fake, 20);
    assert_int_equal(bitmapd_map(handle, "vg0/a/b", 0, &see_map, &seen, NULL), 0);
    assert_true(seen.heads == 1 && seen.runs == 1);
    assert_int_equal(bitmapd_map(handle, "vg0/a/b", 0, &see_map, &seen, NULL), -ECONNABORTED);
    assert_true(seen.heads == 2 && seen.runs == 2);
    assert_int_equal(bitmapd_drive_list(handle, see_drive, &seen), -ECONNABORTED);
    assert_int_equal(seen.items, 1);
    TURN_UNTIL(handle, bitmapd_fd(handle) >= 0 && bitmapd_timeout_ms(handle) < 0);
    bitmapd_close(handle);
    fake_join(&fake);
}

/* ---- The end ---- */

/* Without a timeout nothing is sought: each fails as its kind does. */
static void script_no_reconnect(struct fake *fake)
{
    fake_hello(fake);
    fake_attach(fake, "vm-1", false);
    fake_expect_mark(fake, 1, 1, NULL);
    fake_expect(fake, OPERATION_FLUSH, NULL);
}

static void test_no_reconnect(void **state)
{
    struct fake fake = {0};
    struct outcome outcome = {0};
    uint64_t id;

    (void)state;
    bitmapd *handle = attached(&fake, script_no_reconnect, 0);
    aio_mark(handle, 0, &outcome);
    assert_int_equal(bitmapd_flush(handle), -ECONNABORTED);
    assert_int_equal(outcome.done, 1);
    assert_int_equal(outcome.result, -ENOTCONN);
    assert_int_equal(bitmapd_dispatch(handle, 0), -ENOTCONN);
    assert_non_null(strstr(bitmapd_error(handle), "closed the connection"));
    assert_int_equal(bitmapd_drain(handle), -ENOTCONN);
    assert_int_equal(bitmapd_pending(handle), 0);
    assert_int_equal(bitmapd_unsettled(handle, FAKE_DRIVE), 0);
    assert_int_equal(bitmapd_mark(handle, FAKE_DRIVE, &one, 1, &id), -ENOTCONN);
    assert_int_equal(bitmapd_resume(handle, FAKE_DRIVE), -ENOTCONN);
    assert_int_equal(bitmapd_fd(handle), -1);
    assert_int_equal(bitmapd_timeout_ms(handle), -1);
    bitmapd_close(handle);
    fake_join(&fake);
}

static void script_gone(struct fake *fake)
{
    fake_hello(fake);
    fake_attach(fake, "vm-1", false);
    fake_ok(fake, OPERATION_MARK, fake_expect_mark(fake, 1, 1, NULL));
    fake_expect_mark(fake, 2, 1, NULL);
    close(fake->listen_fd);
    fake->listen_fd = -1;
    fake_hang_up(fake);
}

static void test_timeout(void **state)
{
    struct fake fake = {0};
    struct outcome outcomes[3] = {{0}};
    uint64_t id;

    (void)state;
    bitmapd *handle = attached(&fake, script_gone, 1);
    assert_int_equal(bitmapd_mark(handle, FAKE_DRIVE, &one, 1, &id), 0);
    aio_mark(handle, 0, &outcomes[0]);
    TURN_UNTIL(handle, bitmapd_fd(handle) < 0);
    aio_mark(handle, 0, &outcomes[1]);
    assert_int_equal(outcomes[0].done, 0);
    struct bitmapd_daemon_status status;
    assert_int_equal(bitmapd_get_status(handle, &status), -ENOTCONN);
    assert_non_null(strstr(bitmapd_error(handle), "connect to"));
    for (int i = 0; i < 2; i++) {
        assert_true(outcomes[i].done == 1 && outcomes[i].result == -ENOTCONN);
    }
    assert_int_equal(bitmapd_drain(handle), -ENOTCONN);
    /* The mark that was complete is unsettled still: its write may be under way. */
    assert_int_equal(bitmapd_unsettled(handle, FAKE_DRIVE), 1);
    bitmapd_close(handle);
    fake_join(&fake);
}

/* A daemon that dies of what it is sent is not sought for ever. */
static void script_dies_again(struct fake *fake)
{
    fake_hello(fake);
    fake_attach(fake, "vm-1", false);
    struct pollfd poll_fd = {.fd = fake->listen_fd, .events = POLLIN};
    for (;;) {
        fake_expect(fake, OPERATION_MARK, NULL);
        fake_hang_up(fake);
        if (poll(&poll_fd, 1, -1) != 1 || poll_fd.revents != POLLIN) {
            return;
        }
        fake_hello(fake);
        fake_attach(fake, "vm-1", false);
        /* The way back succeeds, and the next request kills. */
        fake_ok(fake, OPERATION_MARK, fake_expect(fake, OPERATION_MARK, NULL));
    }
}

static void test_dies_again(void **state)
{
    struct fake fake = {0};
    struct outcome outcome = {0};
    uint64_t id;
    int r;

    (void)state;
    bitmapd *handle = attached(&fake, script_dies_again, 1);
    aio_mark(handle, 0, &outcome);
    TURN_UNTIL(handle, outcome.done);
    assert_int_equal(outcome.result, 0);
    /* Completed marks prove that it works, so this goes on; a request that kills does not. */
    const struct bitmapd_range range = {0, 1};
    do {
        struct outcome killed = {0};
        assert_int_equal(
            bitmapd_aio_mark(handle, FAKE_DRIVE, &range, 1, NULL, outcome_completion, &killed), 0);
        TURN_UNTIL(handle, killed.done);
        r = killed.result;
    } while (r == 0);
    assert_int_equal(r, -ENOTCONN);
    assert_int_equal(bitmapd_mark(handle, FAKE_DRIVE, &one, 1, &id), -ENOTCONN);
    bitmapd_close(handle);
    assert_int_equal(shutdown(fake.listen_fd, SHUT_RDWR), 0); /* ends the script */
    fake_join(&fake);
}

static void script_other_container(struct fake *fake)
{
    fake_hello(fake);
    fake_attach(fake, "vm-1", false);
    fake_expect_mark(fake, 1, 1, NULL);
    fake_hang_up(fake);
    fake->limits.container.bytes[15] ^= 1;
    fake_hello(fake);
    fake_expect_end(fake);
}

static void test_other_container(void **state)
{
    struct fake fake = {0};
    struct outcome outcome = {0};

    (void)state;
    bitmapd *handle = attached(&fake, script_other_container, 20);
    aio_mark(handle, 0, &outcome);
    TURN_UNTIL(handle, outcome.done);
    assert_int_equal(outcome.result, -ESTALE);
    assert_int_equal(bitmapd_dispatch(handle, 0), -ESTALE);
    bitmapd_close(handle);
    fake_join(&fake);
}

/* Connecting again by hand takes the writers up again. */
static void script_by_hand(struct fake *fake)
{
    fake_hello(fake);
    fake_attach(fake, "vm-1", false);
    fake_ok(fake, OPERATION_MARK, fake_expect_mark(fake, 1, 1, NULL));
    fake_hang_up(fake);
    fake_hello(fake);
    fake_attach(fake, "vm-1", true);
    fake_ok(fake, OPERATION_MARK, fake_expect_mark(fake, 1, 2, NULL));
    fake_ok(fake, OPERATION_RESUME, fake_expect(fake, OPERATION_RESUME, NULL));
}

static void test_by_hand(void **state)
{
    struct fake fake = {0};
    uint64_t id;

    (void)state;
    bitmapd *handle = attached(&fake, script_by_hand, 0);
    assert_int_equal(bitmapd_mark(handle, FAKE_DRIVE, &one, 1, &id), 0);
    TURN_UNTIL(handle, bitmapd_fd(handle) < 0);
    assert_int_equal(bitmapd_mark(handle, FAKE_DRIVE, &one, 1, &id), -ENOTCONN);
    assert_int_equal(bitmapd_connect(handle, fake.path), 0);
    assert_int_equal(bitmapd_mark(handle, FAKE_DRIVE, &one, 1, &id), 0);
    assert_int_equal(id, 2);
    bitmapd_close(handle);
    fake_join(&fake);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_outcome_unknown), cmocka_unit_test(test_unsent),
        cmocka_unit_test(test_shutting_down),   cmocka_unit_test(test_map_again),
        cmocka_unit_test(test_no_reconnect),    cmocka_unit_test(test_timeout),
        cmocka_unit_test(test_dies_again),      cmocka_unit_test(test_other_container),
        cmocka_unit_test(test_by_hand),
    };
    alarm(60);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
