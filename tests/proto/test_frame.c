/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Frames: the header's bytes, every way in which one is incomplete or broken,
 * and a stream of frames cut at every byte.
 */
#include "proto/frame.h"
#include "proto/message.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const uint8_t golden[] = {
    0x13, 0x00, 0x00, 0x00,                         /* length 19 */
    0x30, 0x00,                                     /* MARK */
    0x03,                                           /* REPLY, MORE */
    0x0e,                                           /* fenced */
    0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01, /* cookie */
    'a',  'b',  'c',                                /* payload */
};

static void test_header_bytes(void **state)
{
    struct frame frame = {
        .operation = OPERATION_MARK,
        .flags = FRAME_REPLY | FRAME_MORE,
        .status = 14,
        .cookie = UINT64_C(0x0123456789abcdef),
        .payload_bytes = 3,
    };
    uint8_t header[FRAME_HEADER_BYTES];

    (void)state;
    frame_encode_header(header, &frame);
    assert_memory_equal(header, golden, sizeof header);
    frame_set_cookie(header, UINT64_C(0xfedcba9876543210));
    assert_memory_equal(header, golden, 8);
    assert_memory_equal(header + 8, "\x10\x32\x54\x76\x98\xba\xdc\xfe", 8);
}

static void test_decode(void **state)
{
    struct frame frame;
    struct error error;
    uint32_t needed = 0;

    (void)state;
    assert_int_equal(frame_decode(golden, sizeof golden, 4096, &frame, &needed, &error), 19);
    assert_int_equal(frame.operation, OPERATION_MARK);
    assert_int_equal(frame.flags, FRAME_REPLY | FRAME_MORE);
    assert_int_equal(frame.status, 14);
    assert_true(frame.cookie == UINT64_C(0x0123456789abcdef));
    assert_ptr_equal(frame.payload, golden + 16);
    assert_int_equal(frame.payload_bytes, 3);
}

static void test_incomplete(void **state)
{
    (void)state;
    for (size_t bytes = 0; bytes < sizeof golden; bytes++) {
        /* A copy of exactly that length, so that reading on is noticed. */
        uint8_t *part = malloc(bytes ? bytes : 1);
        struct frame frame;
        struct error error;
        uint32_t needed = 0;
        assert_non_null(part);
        memcpy(part, golden, bytes);
        assert_int_equal(frame_decode(part, bytes, 4096, &frame, &needed, &error), 0);
        assert_int_equal(needed, bytes < FRAME_HEADER_BYTES ? FRAME_HEADER_BYTES : sizeof golden);
        free(part);
    }
}

static void check_broken(uint32_t length, uint8_t flags, uint8_t status, uint32_t limit,
                         const char *words)
{
    uint8_t header[FRAME_HEADER_BYTES] = {
        (uint8_t)length,
        (uint8_t)(length >> 8),
        (uint8_t)(length >> 16),
        (uint8_t)(length >> 24),
        1,
        0,
        flags,
        status,
    };
    struct frame frame;
    struct error error = {{0}};
    uint32_t needed;

    assert_int_equal(frame_decode(header, sizeof header, limit, &frame, &needed, &error), -EPROTO);
    if (!strstr(error.text, words)) {
        fail_msg("'%s' does not say '%s'", error.text, words);
    }
}

static void test_broken(void **state)
{
    (void)state;
    check_broken(0, FRAME_REPLY, 0, 4096, "16 to 4096 bytes, found 0");
    check_broken(15, FRAME_REPLY, 0, 4096, "found 15");
    check_broken(4097, FRAME_REPLY, 0, 4096, "16 to 4096 bytes, found 4097");
    check_broken(UINT32_MAX, FRAME_REPLY, 0, FRAME_BYTES_MAX, "found 4294967295");
    check_broken(FRAME_BYTES_MAX + 1, FRAME_REPLY, 0, FRAME_BYTES_MAX, "16 to 1048576 bytes");
    for (unsigned bit = 2; bit < 8; bit++) {
        check_broken(16, (uint8_t)(FRAME_REPLY | 1u << bit), 0, 4096, "unknown flags");
    }
    check_broken(16, FRAME_MORE, 0, 4096, "in a request");
    check_broken(16, 0, 1, 4096, "in a request");
}

static void test_limits(void **state)
{
    uint8_t header[FRAME_HEADER_BYTES] = {0};
    struct frame frame = {.operation = 1};
    struct error error;
    uint32_t needed = 0;

    (void)state;
    frame_encode_header(header, &frame);
    assert_int_equal(
        frame_decode(header, sizeof header, FRAME_HEADER_BYTES, &frame, &needed, &error),
        FRAME_HEADER_BYTES);
    frame.payload_bytes = FRAME_BYTES_MAX - FRAME_HEADER_BYTES;
    frame_encode_header(header, &frame);
    assert_int_equal(frame_decode(header, sizeof header, FRAME_BYTES_MAX, &frame, &needed, &error),
                     0);
    assert_int_equal(needed, FRAME_BYTES_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_header_bytes), cmocka_unit_test(test_decode),
        cmocka_unit_test(test_incomplete),   cmocka_unit_test(test_broken),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
