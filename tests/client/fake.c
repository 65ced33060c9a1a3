/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The scripted daemon of fake.h: plain blocking calls on a thread.
 */
#include "tests/client/fake.h"

#include "proto/base/crc32c.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

_Noreturn void fake_fail(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: the fake daemon found wrong: %s\n", file, line, what);
    abort();
}

static void *run_script(void *opaque)
{
    struct fake *fake = opaque;
    fake->script(fake);
    fake_hang_up(fake);
    return NULL;
}

void fake_start(struct fake *fake, void (*script)(struct fake *fake))
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    fake->script = script;
    fake->fd = -1;
    if (fake->limits.version == 0) {
        fake->limits = (struct message_hello_reply){
            .version = 1,
            .frame_bytes_max = FRAME_BYTES_MAX,
            .requests_max = 64,
            .unsettled_max = 1000,
            .container = {{1, 2, 3}},
            .server = wire_string("fake 1"),
        };
    }
    strcpy(fake->folder, "/tmp/bitmapd-client-XXXXXX");
    FAKE_CHECK(mkdtemp(fake->folder));
    snprintf(fake->path, sizeof fake->path, "%s/socket", fake->folder);
    strcpy(address.sun_path, fake->path);
    fake->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    FAKE_CHECK(fake->listen_fd >= 0);
    FAKE_CHECK(bind(fake->listen_fd, (struct sockaddr *)&address, sizeof address) == 0);
    FAKE_CHECK(listen(fake->listen_fd, 8) == 0);
    FAKE_CHECK(pthread_create(&fake->thread, NULL, run_script, fake) == 0);
}

void fake_join(struct fake *fake)
{
    FAKE_CHECK(pthread_join(fake->thread, NULL) == 0);
    if (fake->listen_fd >= 0) {
        close(fake->listen_fd);
    }
    unlink(fake->path);
    FAKE_CHECK(rmdir(fake->folder) == 0);
    wire_buffer_deinit(&fake->in);
    wire_buffer_deinit(&fake->out);
}

/* ---- For scripts ---- */

void fake_accept(struct fake *fake)
{
    FAKE_CHECK(fake->fd < 0);
    fake->fd = accept4(fake->listen_fd, NULL, NULL, SOCK_CLOEXEC);
    FAKE_CHECK(fake->fd >= 0);
    fake->in.bytes = 0;
    fake->in_done = 0;
}

void fake_hang_up(struct fake *fake)
{
    if (fake->fd >= 0) {
        close(fake->fd);
        fake->fd = -1;
    }
}

struct frame fake_receive(struct fake *fake)
{
    struct frame frame;
    struct error error;
    uint32_t needed = 0;

    if (fake->in_done > 0) {
        memmove(fake->in.data, fake->in.data + fake->in_done, fake->in.bytes - fake->in_done);
    }
    fake->in.bytes -= fake->in_done;
    fake->in_done = 0;
    for (;;) {
        int r =
            frame_decode(fake->in.data, fake->in.bytes, FRAME_BYTES_MAX, &frame, &needed, &error);
        if (r < 0) {
            fake_fail(__FILE__, __LINE__, error.text);
        }
        if (r > 0) {
            fake->in_done = (size_t)r;
            FAKE_CHECK(!(frame.flags & FRAME_REPLY));
            fake->cookie = frame.cookie;
            return frame;
        }
        FAKE_CHECK(wire_buffer_reserve(&fake->in, needed - fake->in.bytes) == 0);
        ssize_t n = read(fake->fd, fake->in.data + fake->in.bytes, needed - fake->in.bytes);
        if (n <= 0) {
            fake_fail(__FILE__, __LINE__, "the client closed, another frame was expected");
        }
        fake->in.bytes += (size_t)n;
    }
}

uint64_t fake_expect(struct fake *fake, uint16_t operation, void *ret)
{
    struct frame frame = fake_receive(fake);
    struct error error;
    union {
        struct message_status_reply largest;
        struct message_bitmap_range other;
    } scratch;

    if (frame.operation != operation) {
        char words[100];
        snprintf(words, sizeof words, "expected %s, found %s", operation_name(operation),
                 operation_name(frame.operation));
        fake_fail(__FILE__, __LINE__, words);
    }
    if (message_decode(message_request_type(operation), frame.payload, frame.payload_bytes, 0,
                       ret ? ret : (void *)&scratch, &error) < 0) {
        fake_fail(__FILE__, __LINE__, error.text);
    }
    return frame.cookie;
}

void fake_expect_end(struct fake *fake)
{
    char byte;
    FAKE_CHECK(fake->in_done == fake->in.bytes);
    FAKE_CHECK(read(fake->fd, &byte, 1) <= 0);
}

void fake_hello(struct fake *fake)
{
    struct message_hello hello;

    fake_accept(fake);
    uint64_t cookie = fake_expect(fake, OPERATION_HELLO, &hello);
    FAKE_CHECK(hello.magic == PROTOCOL_MAGIC);
    FAKE_CHECK(hello.version_min <= 1 && hello.version_max >= 1);
    fake_reply_as(fake, MESSAGE_HELLO_REPLY, &fake->limits, OPERATION_HELLO, FRAME_REPLY, STATUS_OK,
                  cookie);
}

void fake_send(struct fake *fake, const void *data, size_t bytes)
{
    const uint8_t *at = data;
    while (bytes > 0) {
        ssize_t n = send(fake->fd, at, bytes, MSG_NOSIGNAL);
        if (n < 0) {
            return; /* a client that gave up; the test looks at that from its side */
        }
        at += n;
        bytes -= (size_t)n;
    }
}

void fake_reply_as(struct fake *fake, enum message_type type, const void *message,
                   uint16_t operation, uint8_t flags, uint8_t status, uint64_t cookie)
{
    fake->out.bytes = 0;
    FAKE_CHECK(message_encode(&fake->out, type, message, operation, flags, status, cookie) == 0);
    fake_send(fake, fake->out.data, fake->out.bytes);
}

void fake_ok(struct fake *fake, uint16_t operation, uint64_t cookie)
{
    fake_reply_as(fake, MESSAGE_EMPTY, NULL, operation, FRAME_REPLY, STATUS_OK, cookie);
}

void fake_error(struct fake *fake, uint16_t operation, uint64_t cookie, enum status status,
                const char *text)
{
    struct message_error message = {wire_string(text)};
    fake_reply_as(fake, MESSAGE_ERROR, &message, operation, FRAME_REPLY, (uint8_t)status, cookie);
}

bool fake_string_is(struct wire_string string, const char *text)
{
    return string.length == strlen(text) &&
           (string.length == 0 || memcmp(string.data, text, string.length) == 0);
}

void fake_attach(struct fake *fake, const char *token, bool resuming)
{
    struct message_attach attach;
    struct message_attach_reply reply = {FAKE_DRIVE, FAKE_DRIVE_SIZE, resuming};

    uint64_t cookie = fake_expect(fake, OPERATION_ATTACH, &attach);
    FAKE_CHECK(fake_string_is(attach.drive, "vg0/a"));
    FAKE_CHECK(fake_string_is(attach.writer, token));
    fake->attach_flags = attach.flags;
    fake_reply_as(fake, MESSAGE_ATTACH_REPLY, &reply, OPERATION_ATTACH, FRAME_REPLY, STATUS_OK,
                  cookie);
}

uint64_t fake_expect_mark(struct fake *fake, uint64_t first_id, uint32_t count,
                          struct wire_range *ret_first)
{
    struct message_mark mark;
    uint64_t cookie = fake_expect(fake, OPERATION_MARK, &mark);

    if (mark.drive != FAKE_DRIVE || mark.first_id != first_id || mark.ranges.count != count) {
        char words[160];
        snprintf(words, sizeof words, "MARK of ids %llu+%u expected, found drive %llu, %llu+%u",
                 (unsigned long long)first_id, count, (unsigned long long)mark.drive,
                 (unsigned long long)mark.first_id, mark.ranges.count);
        fake_fail(__FILE__, __LINE__, words);
    }
    if (ret_first) {
        *ret_first = wire_ranges_get(&mark.ranges, 0);
    }
    return cookie;
}

void fake_expect_settle(struct fake *fake, uint64_t first_id, uint64_t count)
{
    struct message_settle settle;
    uint64_t cookie = fake_expect(fake, OPERATION_SETTLE, &settle);

    FAKE_CHECK(settle.drive == FAKE_DRIVE);
    FAKE_CHECK(settle.ids.count == 1);
    struct wire_range ids = wire_ranges_get(&settle.ids, 0);
    if (ids.offset != first_id || ids.length != count) {
        char words[160];
        snprintf(words, sizeof words, "SETTLE of ids %llu+%llu expected, found %llu+%llu",
                 (unsigned long long)first_id, (unsigned long long)count,
                 (unsigned long long)ids.offset, (unsigned long long)ids.length);
        fake_fail(__FILE__, __LINE__, words);
    }
    fake_ok(fake, OPERATION_SETTLE, cookie);
}

void fake_map_head(struct fake *fake, uint64_t cookie, uint64_t size)
{
    struct message_map_head head = {
        .bitmap = wire_string("vg0/a/b"), .size = size, .granularity = 512, .recording = 1};
    fake_reply_as(fake, MESSAGE_MAP_HEAD, &head, OPERATION_MAP, FRAME_REPLY | FRAME_MORE, STATUS_OK,
                  cookie);
}

void fake_map_page(struct fake *fake, uint64_t cookie, uint64_t offset, uint64_t length)
{
    uint8_t pair[WIRE_RANGE_BYTES];
    struct message_map_page page = {{.data = pair, .count = 1}};

    wire_range_store(pair, (struct wire_range){offset, length});
    fake_reply_as(fake, MESSAGE_MAP_PAGE, &page, OPERATION_MAP, FRAME_REPLY | FRAME_MORE, STATUS_OK,
                  cookie);
}

/* ---- For tests ---- */

bitmapd *fake_connect(struct fake *fake, unsigned reconnect_timeout_s)
{
    bitmapd *handle = bitmapd_new();

    assert_non_null(handle);
    assert_int_equal(bitmapd_set_client_name(handle, "test"), 0);
    assert_int_equal(bitmapd_set_reconnect_timeout(handle, reconnect_timeout_s), 0);
    int r = bitmapd_connect(handle, fake->path);
    if (r < 0) {
        fail_msg("connect: %s", bitmapd_error(handle));
    }
    return handle;
}

bitmapd *fake_attached(struct fake *fake, void (*script)(struct fake *), unsigned timeout_s)
{
    uint64_t drive = 0, size = 0;
    bool resuming = true;

    fake_start(fake, script);
    bitmapd *handle = fake_connect(fake, timeout_s);
    assert_int_equal(bitmapd_attach(handle, "vg0/a", "vm-1", 0, &drive, &size, &resuming), 0);
    assert_true(drive == FAKE_DRIVE && size == FAKE_DRIVE_SIZE && !resuming);
    assert_int_equal(bitmapd_writer_ready(handle, drive), 1);
    assert_int_equal(bitmapd_writer_ready(handle, drive + 1), -ENOENT);
    return handle;
}

uint64_t fake_aio_mark(bitmapd *handle, uint64_t offset, struct outcome *outcome)
{
    const struct bitmapd_range range = {offset, 512};
    uint64_t id = 0;
    assert_int_equal(
        bitmapd_aio_mark(handle, FAKE_DRIVE, &range, 1, &id, outcome_completion, outcome), 0);
    return id;
}

void outcome_completion(void *opaque, int result)
{
    struct outcome *outcome = opaque;
    outcome->done++;
    outcome->result = result;
}

void fake_turn(bitmapd *handle)
{
    struct pollfd poll_fd = {.fd = bitmapd_fd(handle), .events = (short)bitmapd_events(handle)};
    int n = poll(&poll_fd, 1, bitmapd_timeout_ms(handle));
    (void)bitmapd_dispatch(handle, n > 0 ? (unsigned short)poll_fd.revents : 0);
}
