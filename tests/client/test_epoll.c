/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The library in somebody else's event loop: plain epoll and nothing
 * synchronous but the first connect.  Many marks in flight, settles behind
 * them, a connection lost in the middle; and a peer that does not read.
 */
#include "tests/client/fake.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define MARKS  20000u
#define WINDOW 48u

static const struct bitmapd_range range = {65536, 4096};

struct writer {
    bitmapd *handle;
    unsigned started;
    unsigned completed;
};

struct mark {
    struct writer *writer;
    uint64_t id;
};

static struct mark marks[MARKS];

static void start_mark(struct writer *writer);

static void mark_done(void *opaque, int result)
{
    struct mark *mark = opaque;
    struct writer *writer = mark->writer;

    assert_int_equal(result, 0);
    assert_int_equal(bitmapd_settle(writer->handle, FAKE_DRIVE, mark->id, 1), 0);
    writer->completed++;
    start_mark(writer);
}

static void start_mark(struct writer *writer)
{
    if (writer->started < MARKS) {
        struct mark *mark = &marks[writer->started++];
        mark->writer = writer;
        assert_int_equal(
            bitmapd_aio_mark(writer->handle, FAKE_DRIVE, &range, 1, &mark->id, mark_done, mark), 0);
    }
}

/* Answers MARK and SETTLE until @requests were answered or the client is gone. */
static void serve(struct fake *fake, unsigned requests)
{
    while (requests-- > 0) {
        struct pollfd poll_fd = {.fd = fake->fd, .events = POLLIN};
        if (fake->in_done == fake->in.bytes) {
            char byte;
            poll(&poll_fd, 1, -1);
            if (recv(fake->fd, &byte, 1, MSG_PEEK) <= 0) {
                return;
            }
        }
        struct frame frame = fake_receive(fake);
        FAKE_CHECK(frame.operation == OPERATION_MARK || frame.operation == OPERATION_SETTLE ||
                   frame.operation == OPERATION_RESUME);
        fake_ok(fake, frame.operation, frame.cookie);
    }
}

static void script_loop(struct fake *fake)
{
    fake_hello(fake);
    fake_attach(fake, "vm-1", false);
    serve(fake, 3000);
    fake_hang_up(fake);
    fake_hello(fake);
    fake_attach(fake, "vm-1", true);
    serve(fake, UINT32_MAX);
}

static void test_epoll(void **state)
{
    struct fake fake = {0};
    struct writer writer = {0};
    int watched = -1, epoll_fd = epoll_create1(EPOLL_CLOEXEC);

    (void)state;
    assert_true(epoll_fd >= 0);
    fake_start(&fake, script_loop);
    writer.handle = fake_connect(&fake, 20);
    assert_int_equal(bitmapd_attach(writer.handle, "vg0/a", "vm-1", 0, NULL, NULL, NULL), 0);
    for (unsigned i = 0; i < WINDOW; i++) {
        start_mark(&writer);
    }
    while (writer.completed < MARKS || bitmapd_pending(writer.handle) > 0) {
        struct epoll_event event = {.events = bitmapd_events(writer.handle)};
        int fd = bitmapd_fd(writer.handle);
        /* The old descriptor is closed, so it has left the set by itself; its number may be back.
         */
        if (fd >= 0 && epoll_ctl(epoll_fd, EPOLL_CTL_MOD, fd, &event) < 0) {
            assert_int_equal(errno, ENOENT);
            assert_int_equal(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event), 0);
            watched = fd;
        }
        int n = epoll_wait(epoll_fd, &event, 1, bitmapd_timeout_ms(writer.handle));
        assert_true(n >= 0);
        assert_int_equal(bitmapd_dispatch(writer.handle, n ? event.events : 0), 0);
    }
    assert_true(watched >= 0);
    assert_int_equal(bitmapd_unsettled(writer.handle, FAKE_DRIVE), 0);
    bitmapd_close(writer.handle);
    close(epoll_fd);
    fake_join(&fake);
}

/* ---- A daemon that does not read ---- */

static void script_does_not_read(struct fake *fake)
{
    fake->limits.requests_max = 100000;
    fake->limits.unsettled_max = 1u << 20;
    fake_hello(fake);
    /* Until the client has had enough. */
    struct pollfd poll_fd = {.fd = fake->fd, .events = POLLRDHUP};
    poll(&poll_fd, 1, -1);
}

static void test_does_not_read(void **state)
{
    struct fake fake = {0};
    struct outcome outcome = {0};
    static struct bitmapd_range ranges[4096];
    uint64_t id;

    (void)state;
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        ranges[i] = range;
    }
    fake_start(&fake, script_does_not_read);
    bitmapd *handle = fake_connect(&fake, 0);
    /* 64 KiB a mark: far more than socket and send buffer hold. */
    for (int i = 0; i < 100; i++) {
        assert_int_equal(
            bitmapd_aio_mark(handle, FAKE_DRIVE, ranges, 4096, &id, outcome_completion, &outcome),
            0);
        assert_int_equal(bitmapd_dispatch(handle, POLLOUT), 0);
    }
    assert_int_equal(outcome.done, 0);
    assert_int_equal(bitmapd_pending(handle), 100);
    assert_true(bitmapd_events(handle) & POLLOUT);
    struct pollfd poll_fd = {.fd = bitmapd_fd(handle), .events = POLLOUT};
    assert_int_equal(poll(&poll_fd, 1, 0), 0);
    bitmapd_close(handle);
    assert_int_equal(outcome.done, 100);
    assert_int_equal(outcome.result, -ECANCELED);
    fake_join(&fake);
}

/* ---- A client that does not dispatch ---- */

#define UNREAD 3000u

static void script_unread(struct fake *fake)
{
    fake->limits.requests_max = UNREAD;
    fake_hello(fake);
    for (unsigned i = 0; i < UNREAD; i++) {
        fake_expect(fake, OPERATION_MARK, NULL);
        fake_ok(fake, OPERATION_MARK, fake->cookie); /* blocks when the client's socket is full */
    }
    fake_expect_end(fake);
}

static void test_never_drains(void **state)
{
    struct fake fake = {0};
    struct outcome outcome = {0};

    (void)state;
    fake_start(&fake, script_unread);
    bitmapd *handle = fake_connect(&fake, 0);
    for (unsigned i = 0; i < UNREAD; i++) {
        assert_int_equal(
            bitmapd_aio_mark(handle, FAKE_DRIVE, &range, 1, NULL, outcome_completion, &outcome), 0);
    }
    /* Only ever sends: replies wait in the socket, none is lost. */
    while (bitmapd_events(handle) & POLLOUT) {
        struct pollfd poll_fd = {.fd = bitmapd_fd(handle), .events = POLLOUT};
        assert_int_equal(poll(&poll_fd, 1, -1), 1);
        assert_int_equal(bitmapd_dispatch(handle, POLLOUT), 0);
    }
    assert_int_equal(outcome.done, 0);
    TURN_UNTIL(handle, bitmapd_pending(handle) == 0);
    assert_int_equal(outcome.done, UNREAD);
    bitmapd_close(handle);
    fake_join(&fake);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_epoll),
        cmocka_unit_test(test_does_not_read),
        cmocka_unit_test(test_never_drains),
    };
    alarm(60);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
