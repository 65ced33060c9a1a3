/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Maps: good ones, and every way to break one; a broken one must never pass
 * for an answer.
 */
#include "tests/client/fake.h"

#include "proto/base/crc32c.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- Maps ---- */

struct map_seen {
    int heads;
    size_t runs;
    uint64_t bytes;
    uint64_t sequence;
};

static void map_head(void *opaque, const struct bitmapd_map *map)
{
    struct map_seen *seen = opaque;
    assert_string_equal(map->bitmap, "vg0/a/b");
    assert_int_equal(seen->runs, 0);
    seen->heads++;
}

static void map_runs(void *opaque, const struct bitmapd_range *runs, size_t count)
{
    struct map_seen *seen = opaque;
    assert_int_equal(seen->heads, 1);
    for (size_t i = 0; i < count; i++) {
        seen->bytes += runs[i].length;
    }
    seen->runs += count;
}

static const struct bitmapd_map_callbacks map_callbacks = {map_head, map_runs};

#define MAP_RUNS 3000u

static void map_end(struct fake *fake, uint64_t cookie, uint64_t runs, uint64_t bytes, uint32_t crc)
{
    struct message_map_end end = {runs, bytes, crc};
    fake_reply_as(fake, MESSAGE_MAP_END, &end, OPERATION_MAP, FRAME_REPLY, 0, cookie);
}

static void script_map(struct fake *fake)
{
    static uint8_t pairs[MAP_RUNS * WIRE_RANGE_BYTES];
    struct message_map map;

    fake_hello(fake);
    uint64_t cookie = fake_expect(fake, OPERATION_MAP, &map);
    FAKE_CHECK(fake_string_is(map.bitmap, "vg0/a/b") && map.offset == 0);
    fake_map_head(fake, cookie, FAKE_DRIVE_SIZE);
    for (uint32_t i = 0; i < MAP_RUNS; i++) {
        wire_range_store(pairs + i * WIRE_RANGE_BYTES, (struct wire_range){i * 1024, 512});
    }
    struct message_map_page page = {{.data = pairs, .count = 1000}};
    for (int i = 0; i < 3; i++) {
        fake_reply_as(fake, MESSAGE_MAP_PAGE, &page, OPERATION_MAP, FRAME_REPLY | FRAME_MORE, 0,
                      cookie);
        page.dirty.data += 1000 * WIRE_RANGE_BYTES;
    }
    map_end(fake, cookie, MAP_RUNS, MAP_RUNS * 512, crc32c(0, pairs, sizeof pairs));

    /* Nothing dirty. */
    cookie = fake_expect(fake, OPERATION_MAP, &map);
    FAKE_CHECK(map.offset == 4096);
    fake_map_head(fake, cookie, FAKE_DRIVE_SIZE);
    map_end(fake, cookie, 0, 0, 0);
    fake_error(fake, OPERATION_MAP, fake_expect(fake, OPERATION_MAP, NULL), STATUS_NOT_FOUND, "no");
}

static void test_map(void **state)
{
    struct fake fake = {0};
    struct map_seen seen = {0};
    uint32_t crc = 1;

    (void)state;
    fake_start(&fake, script_map);
    bitmapd *handle = fake_connect(&fake, 0);
    assert_int_equal(bitmapd_map(handle, "vg0/a/b", 0, &map_callbacks, &seen, &crc), 0);
    assert_true(seen.heads == 1 && seen.runs == MAP_RUNS && seen.bytes == MAP_RUNS * 512);
    assert_int_not_equal(crc, 0);
    seen = (struct map_seen){0};
    assert_int_equal(bitmapd_map(handle, "vg0/a/b", 4096, &map_callbacks, &seen, &crc), 0);
    assert_true(seen.heads == 1 && seen.runs == 0);
    assert_int_equal(crc, 0);
    assert_int_equal(bitmapd_map(handle, "vg0/a/c", 0, &map_callbacks, &seen, NULL), -ENOENT);
    bitmapd_close(handle);
    fake_join(&fake);
}

/* Ways to break a map; each on a connection of its own. */
enum map_fault {
    MAP_WRONG_CRC,
    MAP_WRONG_RUNS,
    MAP_WRONG_BYTES,
    MAP_NO_HEAD,
    MAP_PAGE_FIRST,
    MAP_TWO_HEADS,
    MAP_EMPTY_RUN,
    MAP_TOUCHING,
    MAP_BACKWARDS,
    MAP_BEYOND,
    MAP_OVERFLOW,
    MAP_BEFORE_OFFSET,
    MAP_OFFSET_BEYOND,
    MAP_ERROR_WITH_MORE,
    MAP_SHORT_PAGE,
    MAP_FAULTS
};

static void script_bad_map(struct fake *fake)
{
    enum map_fault fault = *(enum map_fault *)fake->opaque;
    uint8_t pair[WIRE_RANGE_BYTES];

    wire_range_store(pair, (struct wire_range){8192, 4096});
    fake_hello(fake);
    uint64_t cookie = fake_expect(fake, OPERATION_MAP, NULL);
    if (fault != MAP_NO_HEAD && fault != MAP_PAGE_FIRST) {
        fake_map_head(fake, cookie, fault == MAP_OFFSET_BEYOND ? 4095 : 1 << 20);
    }
    switch (fault) {
    case MAP_WRONG_CRC:
    case MAP_WRONG_RUNS:
    case MAP_WRONG_BYTES:
        fake_map_page(fake, cookie, 8192, 4096);
        map_end(fake, cookie, 1 + (fault == MAP_WRONG_RUNS), 4096 - (fault == MAP_WRONG_BYTES),
                crc32c(0, pair, sizeof pair) ^ (fault == MAP_WRONG_CRC));
        break;
    case MAP_TWO_HEADS:
        fake_map_head(fake, cookie, 1 << 20);
        break;
    case MAP_EMPTY_RUN:
        fake_map_page(fake, cookie, 8192, 0);
        break;
    case MAP_TOUCHING:
        fake_map_page(fake, cookie, 8192, 4096);
        fake_map_page(fake, cookie, 12288, 4096);
        break;
    case MAP_BACKWARDS:
        fake_map_page(fake, cookie, 16384, 4096);
        fake_map_page(fake, cookie, 8192, 4096);
        break;
    case MAP_BEYOND:
        fake_map_page(fake, cookie, (1 << 20) - 512, 513);
        break;
    case MAP_OVERFLOW:
        fake_map_page(fake, cookie, 8192, UINT64_MAX - 8191);
        break;
    case MAP_BEFORE_OFFSET:
        fake_map_page(fake, cookie, 4095, 4096);
        break;
    case MAP_PAGE_FIRST:
        fake_map_page(fake, cookie, 8192, 4096);
        break;
    case MAP_ERROR_WITH_MORE: {
        struct message_error error = {wire_string("no")};
        fake_reply_as(fake, MESSAGE_ERROR, &error, OPERATION_MAP, FRAME_REPLY | FRAME_MORE,
                      STATUS_IO, cookie);
        break;
    }
    case MAP_SHORT_PAGE: {
        struct message_mark lie = {.drive = 2}; /* "2 ranges", and not enough bytes for them */
        fake_reply_as(fake, MESSAGE_MARK, &lie, OPERATION_MAP, FRAME_REPLY | FRAME_MORE, 0, cookie);
        break;
    }
    default:
        map_end(fake, cookie, 0, 0, 0);
    }
    fake_expect_end(fake);
}

static void test_bad_maps(void **state)
{
    (void)state;
    for (int fault = 0; fault < MAP_FAULTS; fault++) {
        struct fake fake = {.opaque = &fault};
        struct map_seen seen = {0};
        fake_start(&fake, script_bad_map);
        bitmapd *handle = fake_connect(&fake, 5);
        if (bitmapd_map(handle, "vg0/a/b", 4096, &map_callbacks, &seen, NULL) != -EPROTO ||
            strstr(bitmapd_error(handle), "broke the protocol") == NULL) {
            fail_msg("fault %d: %s", fault, bitmapd_error(handle));
        }
        assert_true(seen.runs <= 1);
        bitmapd_close(handle);
        fake_join(&fake);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_map),
        cmocka_unit_test(test_bad_maps),
    };
    alarm(60);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
