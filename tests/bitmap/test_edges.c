/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What random sequences on small drives do not reach, or would only show as a
 * disagreement: the limits of geometry, the largest drives, the layout of the
 * bytes, and the rules for kinds, versions and limits spelled out.
 */
#include "tests/bitmap/shadow.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define KIB UINT64_C(1024)
#define GIB (KIB * KIB * KIB)

static struct bitmap *new_bitmap(uint64_t size_bytes, uint64_t granularity, uint32_t chunk_bytes)
{
    struct bitmap *bitmap;

    assert_int_equal(bitmap_new(size_bytes, (uint32_t)granularity, chunk_bytes, &bitmap), 0);
    return bitmap;
}

static struct bitmap_chunk_view view_of(const struct bitmap *bitmap, uint32_t chunk)
{
    struct bitmap_chunk_view view;

    bitmap_chunk(bitmap, chunk, &view);
    return view;
}

static void test_geometry(void **state)
{
    static const struct {
        uint64_t size_bytes;
        uint64_t granularity;
        bool valid;
    } cases[] = {
        {1, 512, true},
        {0, 512, false},
        {1, 0, false},
        {1, 1, false},
        {1, 256, false},
        {1, 513, false},
        {1, 768, false},
        {1, 2 * GIB, true},
        {1, 4 * GIB, false},
        {1, UINT64_C(1) << 63, false},
        {1, UINT64_MAX, false},
        /* 2^32 granules are the most. */
        {UINT64_C(1) << 41, 512, true},
        {(UINT64_C(1) << 41) + 1, 512, false},
        {UINT64_C(1) << 63, 2 * GIB, true},
        {(UINT64_C(1) << 63) + 1, 2 * GIB, false},
        {UINT64_MAX, 2 * GIB, false},
        {UINT64_MAX, 512, false},
    };
    static const uint32_t bad_chunks[] = {0, 1, 256, 513, 65535, 4 << 20, UINT32_MAX};
    struct bitmap *bitmap = NULL;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(bitmap_geometry_valid(cases[i].size_bytes, cases[i].granularity),
                         cases[i].valid);
        if (!cases[i].valid && cases[i].granularity <= UINT32_MAX) {
            assert_int_equal(
                bitmap_new(cases[i].size_bytes, (uint32_t)cases[i].granularity, 65536, &bitmap),
                -EINVAL);
        }
    }
    for (size_t i = 0; i < sizeof bad_chunks / sizeof bad_chunks[0]; i++) {
        assert_int_equal(bitmap_new(1, 512, bad_chunks[i], &bitmap), -EINVAL);
    }
    assert_null(bitmap);

    bitmap = new_bitmap(1, 512, 512);
    assert_int_equal(bitmap_resized(bitmap, 0, 1, &bitmap), -EINVAL);
    assert_int_equal(bitmap_resized(bitmap, UINT64_MAX, 1, &bitmap), -EINVAL);
    assert_int_equal(bitmap_size_bytes(bitmap), 1);
    assert_int_equal(bitmap_granularity(bitmap), 512);
    assert_int_equal(bitmap_chunk_bytes(bitmap), 512);
    assert_int_equal(bitmap_granules(bitmap), 1);
    assert_int_equal(bitmap_chunks(bitmap), 1);
    bitmap_free(bitmap);
    bitmap_free(NULL);
}

/* 8 EiB, 2^32 granules: the largest there is, with its first and last byte dirty. */
static void check_largest(uint64_t granularity, uint32_t chunk_bytes)
{
    const uint64_t size_bytes = granularity << 32;
    struct bitmap *bitmap = new_bitmap(size_bytes, granularity, chunk_bytes);
    uint64_t offset, end;
    bool dirty;

    assert_int_equal(bitmap_granules(bitmap), UINT64_C(1) << 32);
    assert_int_equal((uint64_t)bitmap_chunks(bitmap) * chunk_bytes, BITMAP_BYTES_MAX);
    assert_false(bitmap_next_dirty(bitmap, 0, &offset, &end));

    bitmap_set(bitmap, 0, 1, 1);
    bitmap_set(bitmap, size_bytes - 1, 1, 2);
    assert_int_equal(bitmap_count(bitmap), 2);
    assert_int_equal(bitmap_dirty_bytes(bitmap), 2 * granularity);
    assert_int_equal(bitmap_count_range(bitmap, 1, size_bytes - 2), 2);
    assert_int_equal(bitmap_count_range(bitmap, granularity, size_bytes - 2 * granularity), 0);
    bitmap_run(bitmap, granularity, UINT64_MAX, &dirty, &end);
    assert_false(dirty);
    assert_int_equal(end, size_bytes - granularity);
    assert_true(bitmap_next_dirty(bitmap, granularity, &offset, &end));
    assert_int_equal(offset, size_bytes - granularity);
    assert_int_equal(end, size_bytes);
    assert_false(bitmap_next_dirty(bitmap, size_bytes, &offset, &end));

    bitmap_set(bitmap, 1, size_bytes - 2, 3);
    assert_int_equal(bitmap_count(bitmap), UINT64_C(1) << 32);
    assert_int_equal(bitmap_dirty_bytes(bitmap), size_bytes);
    assert_true(bitmap_test_all(bitmap, 0, size_bytes));
    bitmap_clear(bitmap, 1, size_bytes - 1, 4);
    assert_int_equal(bitmap_count(bitmap), 1);
    assert_true(bitmap_next_dirty(bitmap, 0, &offset, &end));
    assert_int_equal(end, granularity);
    bitmap_free(bitmap);
}

static void test_largest(void **state)
{
    (void)state;
    check_largest(2 * GIB, 2 << 20);
    check_largest(512, 64 << 10);
    check_largest(2 * GIB, 512);
}

/* Bit n is bit n % 8, least significant first, of byte n / 8; nothing beyond the drive. */
static void test_layout(void **state)
{
    static const uint8_t expected[] = {0x01, 0x00, 0xfe, 0xff, 0x01, 0, 0, 0, 0x80, 0x01};
    struct bitmap *bitmap = new_bitmap(73 * KIB - 1, 1024, 512);

    (void)state;
    bitmap_set(bitmap, 0, 1, 1);
    bitmap_set(bitmap, 17 * KIB, 16 * KIB, 1);
    bitmap_set(bitmap, 71 * KIB, 2 * KIB - 1, 1);
    struct bitmap_chunk_view view = view_of(bitmap, 0);
    assert_int_equal(view.kind, BITMAP_DENSE);
    assert_int_equal(view.length_bytes, sizeof expected);
    assert_memory_equal(view.bits, expected, sizeof expected);
    assert_int_equal(view.granules, 73);
    assert_int_equal(view.dirty, 19);
    assert_int_equal(bitmap_dirty_bytes(bitmap), 19 * KIB - 1);
    bitmap_free(bitmap);
}

/* A set goes out to whole granules, a clear comes in; the drive's end counts as an edge. */
static void test_rounding(void **state)
{
    const uint64_t size_bytes = 10 * KIB + 100;
    struct bitmap *bitmap = new_bitmap(size_bytes, 1024, 512);

    (void)state;
    bitmap_set(bitmap, 1023, 2, 1);
    assert_int_equal(bitmap_count_range(bitmap, 0, 2 * KIB), 2);
    assert_int_equal(bitmap_count(bitmap), 2);
    bitmap_clear(bitmap, 1, 2 * KIB - 2, 2);
    assert_int_equal(bitmap_count(bitmap), 2);
    bitmap_clear(bitmap, 1, 2 * KIB - 1, 3);
    assert_int_equal(bitmap_count(bitmap), 1);
    assert_true(bitmap_test_all(bitmap, 0, 1));

    bitmap_set_all(bitmap, 4);
    bitmap_clear(bitmap, 10 * KIB, 99, 5);
    assert_true(bitmap_test_all(bitmap, size_bytes - 1, 1));
    bitmap_clear(bitmap, 10 * KIB + 1, 99, 6);
    assert_true(bitmap_test_all(bitmap, size_bytes - 1, 1));
    assert_int_equal(bitmap_dirty_bytes(bitmap), size_bytes);
    bitmap_clear(bitmap, 10 * KIB - 1, 101, 7);
    assert_int_equal(bitmap_dirty_bytes(bitmap), 10 * KIB);
    bitmap_free(bitmap);
}

static void test_versions_and_kinds(void **state)
{
    const uint64_t chunk = 4096 * 512;
    struct bitmap *bitmap = new_bitmap(2 * chunk, 512, 512);

    (void)state;
    assert_int_equal(bitmap_version(bitmap), 0);
    bitmap_clear_all(bitmap, 1);
    assert_int_equal(bitmap_version(bitmap), 0); /* nothing changed */
    bitmap_set(bitmap, 0, 512, 10);
    assert_int_equal(view_of(bitmap, 0).version, 10);
    assert_int_equal(view_of(bitmap, 1).version, 0);
    bitmap_set(bitmap, 0, 512, 11);
    assert_int_equal(view_of(bitmap, 0).version, 10);

    /* Dirty, and covered by a watermark that has reached the last change of the chunk. */
    assert_true(test_all_since(bitmap, 0, 512, 10));
    assert_false(test_all_since(bitmap, 0, 512, 9));
    assert_false(test_all_since(bitmap, 0, 513, 10));
    bitmap_set(bitmap, 1024, 512, 12);
    assert_false(test_all_since(bitmap, 0, 512, 10));

    /* Completing a chunk makes it ones, and emptying it zeros; both are changes. */
    bitmap_set(bitmap, 0, chunk - 512, 13);
    assert_int_equal(view_of(bitmap, 0).kind, BITMAP_DENSE);
    bitmap_set(bitmap, chunk - 512, 512, 14);
    assert_int_equal(view_of(bitmap, 0).kind, BITMAP_ONES);
    assert_int_equal(view_of(bitmap, 0).version, 14);
    bitmap_set_all(bitmap, 15);
    assert_int_equal(view_of(bitmap, 0).version, 14);
    assert_int_equal(view_of(bitmap, 1).version, 15);
    assert_true(test_all_since(bitmap, 0, 2 * chunk, 15));
    assert_false(test_all_since(bitmap, chunk - 1, 2, 14));
    bitmap_clear(bitmap, 512, chunk - 512, 16);
    assert_int_equal(view_of(bitmap, 0).kind, BITMAP_DENSE);
    bitmap_clear(bitmap, 0, 512, 17);
    assert_int_equal(view_of(bitmap, 0).kind, BITMAP_ZEROS);
    assert_int_equal(view_of(bitmap, 0).version, 17);
    assert_int_equal(bitmap_version(bitmap), 17);
    bitmap_free(bitmap);
}

/* What a snapshot's view points to stays where and what it is. */
static void test_view_of_snapshot(void **state)
{
    struct bitmap *bitmap = new_bitmap(100 * KIB, 1024, 512);
    struct bitmap *snapshot;
    uint8_t before[13];

    (void)state;
    bitmap_set(bitmap, 5 * KIB, 20 * KIB, 1);
    assert_int_equal(bitmap_snapshot(bitmap, &snapshot), 0);
    struct bitmap_chunk_view view = view_of(snapshot, 0);
    assert_int_equal(view.length_bytes, sizeof before);
    memcpy(before, view.bits, sizeof before);
    bitmap_set(bitmap, 50 * KIB, 1, 2);
    bitmap_clear(bitmap, 5 * KIB, 5 * KIB, 3);
    bitmap_set_all(bitmap, 4);
    bitmap_free(bitmap);
    assert_memory_equal(view.bits, before, sizeof before);
    assert_ptr_equal(view_of(snapshot, 0).bits, view.bits);
    bitmap_free(snapshot);
}

static void test_run_limits(void **state)
{
    const uint64_t size_bytes = 20 * KIB - 7;
    struct bitmap *bitmap = new_bitmap(size_bytes, 1024, 512);
    uint64_t end;
    bool dirty;

    (void)state;
    bitmap_set(bitmap, 4 * KIB, 8 * KIB, 1);
    bitmap_run(bitmap, 4 * KIB, 12 * KIB, &dirty, &end);
    assert_true(dirty);
    assert_int_equal(end, 12 * KIB);
    bitmap_run(bitmap, 4 * KIB, 8 * KIB, &dirty, &end); /* cut */
    assert_int_equal(end, 8 * KIB);
    bitmap_run(bitmap, 4 * KIB, 8 * KIB + 1, &dirty, &end); /* cut after a whole granule */
    assert_int_equal(end, 9 * KIB);
    bitmap_run(bitmap, 4 * KIB, 0, &dirty, &end); /* one granule at least */
    assert_int_equal(end, 5 * KIB);
    bitmap_run(bitmap, 12 * KIB, size_bytes - 1, &dirty, &end);
    assert_false(dirty);
    assert_int_equal(end, size_bytes);
    bitmap_run(bitmap, 19 * KIB, 1, &dirty, &end);
    assert_int_equal(end, size_bytes);
    bitmap_free(bitmap);
}

static void test_resize_dirties_the_cut_granule(void **state)
{
    struct bitmap *bitmap = new_bitmap(10 * KIB + 100, 1024, 512);
    struct bitmap *resized;

    (void)state;
    bitmap_set(bitmap, 0, 1, 1);
    assert_int_equal(bitmap_resized(bitmap, 10 * KIB + 101, 7, &resized), 0);
    assert_int_equal(bitmap_count(resized), 2);
    assert_true(bitmap_test_all(resized, 10 * KIB, 1));
    assert_int_equal(view_of(resized, 0).version, 7);
    bitmap_free(resized);

    assert_int_equal(bitmap_resized(bitmap, 10 * KIB + 99, 7, &resized), 0);
    assert_int_equal(bitmap_count(resized), 1);
    bitmap_free(resized);

    /* An edge of a granule cuts nothing. */
    assert_int_equal(bitmap_resized(bitmap, 9 * KIB, 7, &resized), 0);
    bitmap_free(bitmap);
    assert_int_equal(bitmap_resized(resized, 12 * KIB, 8, &bitmap), 0);
    assert_int_equal(bitmap_count(bitmap), 4);
    assert_false(bitmap_test_all(bitmap, 8 * KIB, 1));
    assert_true(bitmap_test_all(bitmap, 9 * KIB, 3 * KIB));
    bitmap_free(resized);
    bitmap_free(bitmap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_geometry),
        cmocka_unit_test(test_largest),
        cmocka_unit_test(test_layout),
        cmocka_unit_test(test_rounding),
        cmocka_unit_test(test_versions_and_kinds),
        cmocka_unit_test(test_view_of_snapshot),
        cmocka_unit_test(test_run_limits),
        cmocka_unit_test(test_resize_dirties_the_cut_granule),
    };
    return cmocka_run_group_tests_name("bitmap: edges", tests, NULL, NULL);
}
