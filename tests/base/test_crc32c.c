/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * CRC32C against published vectors, and the two implementations and a bitwise
 * one of our own against each other, at every alignment and in pieces.
 */
#include "proto/base/crc32c.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

static uint32_t crc32c_bitwise(uint32_t crc, const uint8_t *p, size_t length_bytes)
{
    crc = ~crc;
    for (size_t i = 0; i < length_bytes; i++) {
        crc ^= p[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = crc & 1 ? (crc >> 1) ^ UINT32_C(0x82f63b78) : crc >> 1;
        }
    }
    return ~crc;
}

static void check_vector(const uint8_t *bytes, size_t length_bytes, uint32_t expected)
{
    assert_int_equal(crc32c(0, bytes, length_bytes), expected);
    assert_int_equal(crc32c_portable(0, bytes, length_bytes), expected);
    assert_int_equal(crc32c_bitwise(0, bytes, length_bytes), expected);
}

/* RFC 3720, B.4 (which prints the bytes of the CRC in order of transmission). */
static void test_vectors(void **state)
{
    static const uint8_t read_command[48] = {
        0x01, 0xc0, [16] = 0x14, [22] = 0x04, [27] = 0x14, [31] = 0x18, [32] = 0x28, [40] = 0x02,
    };
    uint8_t bytes[32] = {0};

    (void)state;
    check_vector(bytes, 32, 0x8a9136aa);
    for (uint8_t i = 0; i < 32; i++) {
        bytes[i] = 0xff;
    }
    check_vector(bytes, 32, 0x62a8ab43);
    for (uint8_t i = 0; i < 32; i++) {
        bytes[i] = i;
    }
    check_vector(bytes, 32, 0x46dd794e);
    for (uint8_t i = 0; i < 32; i++) {
        bytes[i] = (uint8_t)(31 - i);
    }
    check_vector(bytes, 32, 0x113fdb5c);
    check_vector(read_command, sizeof read_command, 0xd9963a56);
    check_vector((const uint8_t *)"123456789", 9, 0xe3069283);
    check_vector(bytes, 0, 0);
    assert_int_equal(crc32c(0x12345678, NULL, 0), 0x12345678);
    assert_int_equal(crc32c_portable(0x12345678, NULL, 0), 0x12345678);
}

static void test_against_each_other(void **state)
{
    enum {
        BYTES_MAX = 300
    };
    const char *text = getenv("BITMAPD_TEST_SEED");
    uint64_t seed = text ? strtoull(text, NULL, 0) : (uint64_t)time(NULL);
    unsigned short state48[3] = {(unsigned short)seed, (unsigned short)(seed >> 16),
                                 (unsigned short)(seed >> 32)};
    /* From the heap and of the exact length, so that a sanitizer sees a byte read too many. */
    uint8_t *buffer = malloc(BYTES_MAX);

    (void)state;
    print_message("BITMAPD_TEST_SEED=%" PRIu64 "\n", seed);
    assert_non_null(buffer);
    for (size_t i = 0; i < BYTES_MAX; i++) {
        buffer[i] = (uint8_t)nrand48(state48);
    }
    for (size_t offset = 0; offset < 17; offset++) {
        for (size_t length = 0; offset + length <= BYTES_MAX; length++) {
            const uint8_t *p = buffer + BYTES_MAX - length - offset;
            uint32_t start = (uint32_t)nrand48(state48) << 1;
            uint32_t expected = crc32c_bitwise(start, p, length);
            assert_int_equal(crc32c(start, p, length), expected);
            assert_int_equal(crc32c_portable(start, p, length), expected);

            size_t cut = length ? (size_t)nrand48(state48) % length : 0;
            assert_int_equal(crc32c(crc32c(start, p, cut), p + cut, length - cut), expected);
            assert_int_equal(crc32c_portable(crc32c(start, p, cut), p + cut, length - cut),
                             expected);
        }
    }
    free(buffer);
}

/* Around the lengths that are taken as three parts. */
static void test_long(void **state)
{
    enum {
        BYTES_MAX = 16384
    };
    uint8_t *buffer = malloc(BYTES_MAX);
    uint32_t word = 1;

    (void)state;
    assert_non_null(buffer);
    for (size_t i = 0; i < BYTES_MAX; i++) {
        word = word * 1664525 + 1013904223;
        buffer[i] = (uint8_t)(word >> 24);
    }
    for (size_t length = 0; length <= BYTES_MAX; length += length % 128 == 1 ? 126 : 1) {
        const uint8_t *p = buffer + BYTES_MAX - length;
        uint32_t expected = crc32c_bitwise((uint32_t)length, p, length);
        assert_int_equal(crc32c((uint32_t)length, p, length), expected);
        assert_int_equal(crc32c_portable((uint32_t)length, p, length), expected);
    }
    free(buffer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_against_each_other),
        cmocka_unit_test(test_long),
    };
    return cmocka_run_group_tests_name("base: crc32c", tests, NULL, NULL);
}
