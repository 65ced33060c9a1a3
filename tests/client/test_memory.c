/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory that runs out: one conversation, with attach, marks, a lost
 * connection, settles and a list, run again and again with the n-th
 * allocation failing, until one is run in which none does.  Whatever fails
 * must fail with a reason, complete everything that was queued, and leak
 * nothing (which the sanitizers look at).
 */
#include "client/lib/bitmapd-transaction.h"
#include "tests/client/fake.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- Allocations of the test's own thread are counted and fail ---- */

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
void *__real_reallocarray(void *old, size_t count, size_t bytes);
char *__real_strdup(const char *text);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *old, size_t bytes);
void *__wrap_reallocarray(void *old, size_t count, size_t bytes);
char *__wrap_strdup(const char *text);

static _Thread_local unsigned fail_at; /* 0: none fails */
static _Thread_local unsigned allocations;

static bool fails(void)
{
    return fail_at != 0 && ++allocations == fail_at;
}

void *__wrap_malloc(size_t bytes)
{
    return fails() ? NULL : __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes)
{
    return fails() ? NULL : __real_calloc(count, bytes);
}

void *__wrap_realloc(void *old, size_t bytes)
{
    return fails() ? NULL : __real_realloc(old, bytes);
}

void *__wrap_reallocarray(void *old, size_t count, size_t bytes)
{
    return fails() ? NULL : __real_reallocarray(old, count, bytes);
}

char *__wrap_strdup(const char *text)
{
    return fails() ? NULL : __real_strdup(text);
}

/* ---- A daemon that answers whatever is asked ---- */

static void answer(struct fake *fake, const struct frame *frame)
{
    struct message_attach_reply attached = {FAKE_DRIVE, FAKE_DRIVE_SIZE, 0};
    struct message_drive_info info = {.id = 1, .name = wire_string("a"), .size = 1};
    struct message_list_end end = {1};

    switch (frame->operation) {
    case OPERATION_HELLO:
        fake_reply_as(fake, MESSAGE_HELLO_REPLY, &fake->limits, OPERATION_HELLO, FRAME_REPLY, 0,
                      frame->cookie);
        break;
    case OPERATION_ATTACH:
        fake_reply_as(fake, MESSAGE_ATTACH_REPLY, &attached, OPERATION_ATTACH, FRAME_REPLY, 0,
                      frame->cookie);
        break;
    case OPERATION_DRIVE_LIST:
        fake_reply_as(fake, MESSAGE_DRIVE_INFO, &info, OPERATION_DRIVE_LIST,
                      FRAME_REPLY | FRAME_MORE, 0, frame->cookie);
        fake_reply_as(fake, MESSAGE_LIST_END, &end, OPERATION_DRIVE_LIST, FRAME_REPLY, 0,
                      frame->cookie);
        break;
    case OPERATION_TRANSACTION:
        fake_reply_as(fake, MESSAGE_TRANSACTION_REPLY, &(struct message_transaction_reply){1},
                      OPERATION_TRANSACTION, FRAME_REPLY, 0, frame->cookie);
        break;
    case OPERATION_RELOAD:
        fake_error(fake, OPERATION_RELOAD, frame->cookie, STATUS_INVALID, "in words");
        break;
    case OPERATION_FLUSH:
        fake_hang_up(fake); /* the conversation's lost connection */
        break;
    default:
        fake_ok(fake, frame->operation, frame->cookie);
    }
}

static void script_anything(struct fake *fake)
{
    for (;;) {
        char byte;
        if (fake->fd < 0) {
            fake->fd = accept(fake->listen_fd, NULL, NULL);
            if (fake->fd < 0) {
                return; /* shut down: the test is over */
            }
            fake->in.bytes = fake->in_done = 0;
        }
        if (fake->in_done == fake->in.bytes && recv(fake->fd, &byte, 1, MSG_PEEK) <= 0) {
            fake_hang_up(fake);
            continue;
        }
        struct frame frame = fake_receive(fake);
        answer(fake, &frame);
    }
}

/* ---- The conversation ---- */

static void nothing(void *opaque, const struct bitmapd_drive *drive)
{
    (void)opaque;
    assert_string_equal(drive->name, "a");
}

static int try_transaction(bitmapd *handle)
{
    static const char *const drives[] = {"vg0/a", "b"};
    bitmapd_transaction *transaction = bitmapd_transaction_new();

    if (!transaction) {
        return -ENOMEM;
    }
    int r = bitmapd_transaction_bitmap_clear_all(transaction, "a/b");
    if (r == 0) {
        r = bitmapd_transaction_checkpoint_create(transaction, "c", drives, 2);
    }
    if (r == 0) {
        r = bitmapd_transaction_commit(handle, transaction, NULL);
    } else {
        assert_string_not_equal(bitmapd_transaction_error(transaction), "");
    }
    bitmapd_transaction_free(transaction);
    return r;
}

/* Everything is tried whatever failed before.  Whether all of it succeeded. */
static bool converse(const char *path)
{
    const struct bitmapd_range ranges[3] = {{0, 1}, {8, 1}, {16, 1}};
    struct outcome outcomes[40] = {{0}};
    uint64_t ids[40];
    bool good = true;
    int queued = 0;

    bitmapd *handle = bitmapd_new();
    if (!handle) {
        return false;
    }
    assert_int_equal(bitmapd_set_reconnect_timeout(handle, 20), 0);
    int r = bitmapd_connect(handle, path);
    if (r < 0) {
        assert_int_equal(r, -ENOMEM);
        assert_string_not_equal(bitmapd_error(handle), "");
        bitmapd_close(handle);
        return false;
    }
    good &= bitmapd_attach(handle, "vg0/a", "vm-1", 0, NULL, NULL, NULL) == 0;
    for (int i = 0; i < 40; i++) {
        r = bitmapd_aio_mark(handle, FAKE_DRIVE, ranges, 3, i % 4 ? &ids[i] : NULL,
                             outcome_completion, &outcomes[i]);
        assert_true(r == 0 || r == -ENOMEM);
        outcomes[i].done = r == 0 ? 0 : -1;
        queued += r == 0;
        good &= r == 0;
    }
    r = bitmapd_flush(handle); /* loses the connection */
    assert_true(r == -ECONNABORTED || r == -ENOMEM || r == -ENOTCONN);
    good &= bitmapd_drain(handle) == 0;
    for (int i = 0; i < 40; i++) {
        assert_true(outcomes[i].done == 1 || outcomes[i].done == -1);
        queued -= outcomes[i].done == 1;
        good &= outcomes[i].result == 0;
        if (i % 4 && outcomes[i].done == 1 && outcomes[i].result == 0) {
            good &= bitmapd_settle(handle, FAKE_DRIVE, ids[i], 2) == 0;
        }
    }
    assert_int_equal(queued, 0);
    r = try_transaction(handle);
    assert_true(r == 0 || r == -ENOMEM || r == -ENOTCONN || r == -ECONNABORTED);
    good &= r == 0;
    r = bitmapd_drive_list(handle, nothing, NULL);
    assert_true(r == 0 || r == -ENOMEM || r == -ENOTCONN || r == -ECONNABORTED);
    good &= r == 0;
    r = bitmapd_reload(handle);
    assert_true(r == -EINVAL || r == -ENOMEM || r == -ENOTCONN || r == -ECONNABORTED);
    assert_string_not_equal(bitmapd_error(handle), "");
    good &= bitmapd_drain(handle) == 0;
    good &= r == -EINVAL;
    bitmapd_close(handle);
    return good;
}

static void test_sweep(void **state)
{
    struct fake fake = {0};
    unsigned n = 0, ran_out = 0;

    (void)state;
    fake_start(&fake, script_anything);
    do {
        n++;
        allocations = 0;
        fail_at = n;
        ran_out += !converse(fake.path);
        fail_at = 0;
    } while (allocations >= n && n < 1000);
    print_message("%u allocations\n", n - 1);
    assert_true(n > 10 && n < 1000 && ran_out > 10);
    assert_int_equal(shutdown(fake.listen_fd, SHUT_RDWR), 0);
    fake_join(&fake);
}

/* The way of a mark allocates nothing once it has been gone. */
static void test_marks_allocate_nothing(void **state)
{
    struct fake fake = {0};
    const struct bitmapd_range range = {4096, 512};
    uint64_t id;

    (void)state;
    fake_start(&fake, script_anything);
    bitmapd *handle = fake_connect(&fake, 0);
    for (int i = 0; i < 1000; i++) {
        if (i == 100) {
            allocations = 0;
            fail_at = UINT32_MAX;
        }
        assert_int_equal(bitmapd_mark(handle, FAKE_DRIVE, &range, 1, &id), 0);
        assert_int_equal(bitmapd_settle(handle, FAKE_DRIVE, id, 1), 0);
        assert_int_equal(bitmapd_mark(handle, FAKE_DRIVE, &range, 1, NULL), 0);
    }
    assert_int_equal(allocations, 0);
    fail_at = 0;
    bitmapd_close(handle);
    assert_int_equal(shutdown(fake.listen_fd, SHUT_RDWR), 0);
    fake_join(&fake);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sweep),
        cmocka_unit_test(test_marks_allocate_nothing),
    };
    alarm(110);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
