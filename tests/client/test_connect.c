/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Getting a connection: HELLO, and every way in which it goes wrong.
 */
#include "tests/client/fake.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void check_connect(void (*script)(struct fake *), int expected, const char *words)
{
    struct fake fake = {0};
    fake_start(&fake, script);
    bitmapd *handle = bitmapd_new();
    assert_non_null(handle);
    assert_int_equal(bitmapd_connect(handle, fake.path), expected);
    if (!strstr(bitmapd_error(handle), words)) {
        fail_msg("'%s' does not say '%s'", bitmapd_error(handle), words);
    }
    assert_int_equal(bitmapd_fd(handle), expected == 0 ? bitmapd_fd(handle) : -1);
    bitmapd_close(handle);
    fake_join(&fake);
}

static void script_good(struct fake *fake)
{
    struct message_hello hello;
    fake_accept(fake);
    uint64_t cookie = fake_expect(fake, OPERATION_HELLO, &hello);
    FAKE_CHECK(fake_string_is(hello.client, "test"));
    FAKE_CHECK(hello.features == 0);
    fake_reply_as(fake, MESSAGE_HELLO_REPLY, &fake->limits, OPERATION_HELLO, FRAME_REPLY, 0,
                  cookie);
    fake_expect_end(fake);
}

static void test_good(void **state)
{
    struct fake fake = {0};

    (void)state;
    fake_start(&fake, script_good);
    bitmapd *handle = fake_connect(&fake, 0);
    assert_true(bitmapd_fd(handle) >= 0);
    assert_int_equal(bitmapd_events(handle), POLLIN);
    assert_int_equal(bitmapd_timeout_ms(handle), -1);
    assert_int_equal(bitmapd_pending(handle), 0);
    assert_int_equal(bitmapd_unsettled_max(handle), 1000);
    assert_int_equal(bitmapd_connect(handle, fake.path), -EISCONN);
    bitmapd_close(handle);
    fake_join(&fake);
}

static void script_version(struct fake *fake)
{
    fake_accept(fake);
    fake_error(fake, OPERATION_HELLO, fake_expect(fake, OPERATION_HELLO, NULL), STATUS_VERSION,
               "versions 3 to 4");
}

static void script_permission(struct fake *fake)
{
    fake_accept(fake);
    fake_error(fake, OPERATION_HELLO, fake_expect(fake, OPERATION_HELLO, NULL), STATUS_PERMISSION,
               "user nobody\nmay not");
}

static void script_full(struct fake *fake)
{
    fake_accept(fake);
    /* Before any request was read: nobody's reply. */
    fake_error(fake, 0, 0, STATUS_LIMIT, "512 connections");
}

static void script_wrong_version(struct fake *fake)
{
    fake->limits.version = 2;
    fake_hello(fake);
}

static void script_no_limits(struct fake *fake)
{
    fake->limits.requests_max = 0;
    fake_hello(fake);
}

static void script_small_frames(struct fake *fake)
{
    fake->limits.frame_bytes_max = 20;
    fake_hello(fake);
}

static void script_short_hello(struct fake *fake)
{
    struct message_drive_id message = {1};
    fake_accept(fake);
    fake_reply_as(fake, MESSAGE_DRIVE_ID, &message, OPERATION_HELLO, FRAME_REPLY, 0,
                  fake_expect(fake, OPERATION_HELLO, NULL));
}

static void script_other_reply(struct fake *fake)
{
    fake_accept(fake);
    fake_ok(fake, OPERATION_STATUS, fake_expect(fake, OPERATION_HELLO, NULL));
}

static void script_request(struct fake *fake)
{
    fake_accept(fake);
    fake_reply_as(fake, MESSAGE_EMPTY, NULL, OPERATION_HELLO, 0, 0,
                  fake_expect(fake, OPERATION_HELLO, NULL));
}

static void script_noise(struct fake *fake)
{
    fake_accept(fake);
    fake_expect(fake, OPERATION_HELLO, NULL);
    fake_send(fake, "HTTP/1.1 400 Bad Request\r\n\r\n", 28);
}

static void script_huge(struct fake *fake)
{
    uint8_t header[FRAME_HEADER_BYTES];
    struct frame frame = {
        .operation = OPERATION_HELLO, .flags = FRAME_REPLY, .payload_bytes = 5000};
    fake_accept(fake);
    frame.cookie = fake_expect(fake, OPERATION_HELLO, NULL);
    frame_encode_header(header, &frame);
    fake_send(fake, header, sizeof header);
}

static void script_closes(struct fake *fake)
{
    fake_accept(fake);
    fake_expect(fake, OPERATION_HELLO, NULL);
}

static void script_half(struct fake *fake)
{
    fake_accept(fake);
    fake_expect(fake, OPERATION_HELLO, NULL);
    fake_send(fake, "\x20\0\0\0\1\0\1", 7);
}

static void test_refused(void **state)
{
    (void)state;
    check_connect(script_version, -EPROTONOSUPPORT, "versions 3 to 4");
    /* What the daemon says goes to terminals. */
    check_connect(script_permission, -EPERM, "user nobody?may not");
    check_connect(script_full, -EDQUOT, "512 connections");
}

static void test_broken(void **state)
{
    (void)state;
    check_connect(script_wrong_version, -EPROTO, "version");
    check_connect(script_no_limits, -EPROTO, "limits");
    check_connect(script_small_frames, -EPROTO, "limits");
    check_connect(script_short_hello, -EPROTO, "hello_reply");
    check_connect(script_other_reply, -EPROTO, "first reply");
    check_connect(script_request, -EPROTO, "expected replies");
    check_connect(script_noise, -EPROTO, "expected a length of");
    check_connect(script_huge, -EPROTO, "4096");
    check_connect(script_closes, -ECONNRESET, "closed");
    check_connect(script_half, -ECONNRESET, "closed");
}

static void test_nobody_there(void **state)
{
    char path[] = "/tmp/bitmapd-client-XXXXXX";
    char longest[300];

    (void)state;
    assert_non_null(mkdtemp(path));
    bitmapd *handle = bitmapd_new();
    assert_int_equal(bitmapd_set_reconnect_timeout(handle, 5), 0);
    char socket_path[64];
    snprintf(socket_path, sizeof socket_path, "%s/none", path);
    assert_int_equal(bitmapd_connect(handle, socket_path), -ENOENT);
    assert_non_null(strstr(bitmapd_error(handle), socket_path));
    assert_int_equal(bitmapd_connect(handle, path), -ECONNREFUSED);
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    assert_int_equal(bitmapd_connect(handle, longest), -ENAMETOOLONG);
    assert_int_equal(setenv("BITMAPD_SOCKET", socket_path, 1), 0);
    assert_int_equal(bitmapd_connect(handle, NULL), -ENOENT);
    assert_non_null(strstr(bitmapd_error(handle), socket_path));
    assert_int_equal(bitmapd_flush(handle), -ENOTCONN);
    assert_int_equal(unsetenv("BITMAPD_SOCKET"), 0);
    bitmapd_close(handle);
    assert_int_equal(rmdir(path), 0);
}

static void test_never_connected(void **state)
{
    struct bitmapd_range range = {0, 1};
    bitmapd *handle = bitmapd_new();

    (void)state;
    assert_int_equal(bitmapd_fd(handle), -1);
    assert_int_equal(bitmapd_events(handle), 0);
    assert_int_equal(bitmapd_timeout_ms(handle), -1);
    assert_int_equal(bitmapd_dispatch(handle, 0), 0);
    assert_int_equal(bitmapd_drain(handle), 0);
    assert_int_equal(bitmapd_flush(handle), -ENOTCONN);
    assert_string_equal(bitmapd_error(handle), "not connected");
    assert_int_equal(bitmapd_aio_mark(handle, 1, &range, 1, NULL, NULL, NULL), -ENOTCONN);
    assert_int_equal(bitmapd_attach(handle, "a", "b", 0, NULL, NULL, NULL), -ENOTCONN);
    assert_int_equal(bitmapd_settle(handle, 1, 1, 1), -EINVAL);
    assert_int_equal(bitmapd_detach(handle, 1), -ENOENT);
    assert_int_equal(bitmapd_set_client_name(handle, ""), -EINVAL);
    bitmapd_close(handle);
    bitmapd_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_broken),
        cmocka_unit_test(test_nobody_there),
        cmocka_unit_test(test_never_connected),
    };
    alarm(60);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
