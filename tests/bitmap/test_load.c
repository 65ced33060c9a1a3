/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Large bitmaps as they are loaded or replayed: their chunks are in one piece of
 * memory, which goes back in parts, in whatever order snapshots, resizing and
 * changes let go.
 */
#include "daemon/bitmap/bitmap.h"
#include "tests/bitmap/alloc_fault.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define CHUNK_BYTES (UINT32_C(64) << 10)
#define GRANULE     512u
#define CHUNK       (UINT64_C(8) * CHUNK_BYTES * GRANULE) /* bytes of the drive */
#define CHUNKS      40u

static void set(struct bitmap *bitmap, uint64_t offset, uint64_t length, uint64_t version)
{
    assert_int_equal(bitmap_reserve(bitmap, offset, length), 0);
    bitmap_set(bitmap, offset, length, version);
}

/* Every fourth granule is dirty; the last chunk is short by one bit. */
static struct bitmap *loaded(uint32_t announced)
{
    struct bitmap *bitmap;
    struct bitmap_loader loader;

    assert_int_equal(bitmap_new(CHUNKS * CHUNK - GRANULE, GRANULE, CHUNK_BYTES, &bitmap), 0);
    uint64_t empty_bytes = bitmap_memory_bytes(bitmap);
    bitmap_loader_init(&loader, bitmap, announced);
    (void)alloc_count();
    for (uint32_t i = 0; i < CHUNKS; i++) {
        struct bitmap_chunk_view view;
        bitmap_chunk(bitmap, i, &view);
        for (unsigned pass = 0; pass < 3; pass++) { /* of none and all no memory is kept */
            uint8_t *space = bitmap_loader_space(&loader);
            assert_non_null(space);
            memset(space, pass == 0 ? 0 : pass == 1 ? 0xff : 0x11, CHUNK_BYTES);
            space[view.length_bytes - 1] &= (uint8_t)(0xff >> (7 - (view.granules - 1) % 8));
            assert_int_equal(bitmap_loader_take(&loader, i, 1), 0);
        }
    }
    bool pays = announced > 31; /* a huge page at least */
    assert_int_equal(alloc_count(), !pays ? CHUNKS : announced < CHUNKS ? CHUNKS - announced : 0);
    bitmap_loader_deinit(&loader);
    assert_int_equal(bitmap_count(bitmap), CHUNKS * (CHUNK / GRANULE) / 4);
    assert_in_range(bitmap_memory_bytes(bitmap) - empty_bytes, CHUNKS * CHUNK_BYTES,
                    CHUNKS * (CHUNK_BYTES + 64));
    return bitmap;
}

static void test_lifetimes(void **state)
{
    const uint64_t dirty = CHUNK / GRANULE / 4, all = CHUNK / GRANULE;
    struct bitmap *bitmap = loaded(CHUNKS - 1);
    struct bitmap *snapshot, *resized;

    (void)state;
    assert_int_equal(bitmap_snapshot(bitmap, &snapshot), 0);
    assert_int_equal(bitmap_resized(bitmap, 30 * CHUNK, 2, &resized), 0);
    for (uint32_t i = 0; i < CHUNKS; i += 2) { /* which copies it */
        set(bitmap, i * CHUNK + GRANULE, GRANULE, 3);
    }
    assert_int_equal(bitmap_count(bitmap), CHUNKS * dirty + CHUNKS / 2);
    assert_int_equal(bitmap_count(snapshot), CHUNKS * dirty);
    bitmap_free(snapshot);
    set(resized, 0, 15 * CHUNK, 4);
    set(bitmap, 0, 20 * CHUNK, 5);
    assert_int_equal(bitmap_count(bitmap), 20 * all + 20 * dirty + 10);
    bitmap_clear_all(bitmap, 6);
    bitmap_free(bitmap);
    assert_int_equal(bitmap_count(resized), 15 * all + 15 * dirty);
    for (uint64_t at = 15 * CHUNK; at < 30 * CHUNK; at += CHUNK / 64) {
        assert_true(bitmap_test_all(resized, at, GRANULE));
        assert_false(bitmap_test_all(resized, at + GRANULE, GRANULE));
    }
    bitmap_free(resized);
}

static uint64_t resident_bytes(void)
{
    unsigned long long size, resident;
    FILE *file = fopen("/proc/self/statm", "re");

    assert_non_null(file);
    assert_int_equal(fscanf(file, "%llu %llu", &size, &resident), 2);
    (void)fclose(file);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* Each chunk's memory goes back at once, though most of its neighbours stay. */
static void test_memory_goes_back(void **state)
{
    const uint64_t gone_bytes = UINT64_C(30) * CHUNK_BYTES, slack_bytes = gone_bytes / 4;

    (void)state;
    struct bitmap *bitmap = loaded(CHUNKS);
    uint64_t before = resident_bytes();
    for (uint32_t i = 0; i < CHUNKS; i++) {
        if (i % 4 != 0) {
            set(bitmap, i * CHUNK, CHUNK - GRANULE * (i == CHUNKS - 1), 2);
        }
    }
    assert_true(resident_bytes() < before - gone_bytes + slack_bytes);
    bitmap_free(bitmap);
}

/* What changes take when many of them are expected: a little of the heap, then large pieces. */
static void test_many_changes(void **state)
{
    struct bitmap *bitmap, *snapshot;

    (void)state;
    assert_int_equal(bitmap_new(CHUNKS * CHUNK - GRANULE, GRANULE, CHUNK_BYTES, &bitmap), 0);
    for (unsigned pass = 0; pass < 2; pass++) {
        bitmap_expect_many(bitmap, true);
        bitmap_expect_many(bitmap, true);
        (void)alloc_count();
        for (uint32_t i = 0; i < CHUNKS; i++) {
            set(bitmap, i * CHUNK + 2 * GRANULE, GRANULE, 2);
            assert_int_equal(alloc_count(), i < 16);
        }
        assert_int_equal(bitmap_count(bitmap), CHUNKS);
        assert_int_equal(bitmap_snapshot(bitmap, &snapshot), 0);
        set(bitmap, 0, 2 * GRANULE, 3); /* all that is left is taken, and more */
        for (uint32_t i = 1; i < CHUNKS; i++) {
            set(bitmap, i * CHUNK, GRANULE, 3);
        }
        assert_int_equal(bitmap_count(snapshot), CHUNKS);
        assert_int_equal(bitmap_count(bitmap), 2 * CHUNKS + 1);
        bitmap_expect_many(bitmap, false);
        bitmap_free(snapshot);
        assert_int_equal(bitmap_count(bitmap), 2 * CHUNKS + 1);
        bitmap_clear_all(bitmap, 4);
    }
    bitmap_expect_many(bitmap, true);
    bitmap_free(bitmap);
}

/* A half that another thread has loaded. */
static void test_halves(void **state)
{
    struct bitmap *bitmap = loaded(CHUNKS), *half = loaded(CHUNKS);
    const uint64_t dirty = CHUNK / GRANULE / 4, all = CHUNK / GRANULE;

    (void)state;
    set(bitmap, 0, CHUNK, 2);
    set(bitmap, 39 * CHUNK, GRANULE * 4, 3);
    set(half, 37 * CHUNK, CHUNK, 4);
    bitmap_clear(half, 38 * CHUNK, CHUNK, 5);
    bitmap_move_chunks(bitmap, half, 20, 39);
    assert_int_equal(bitmap_count(bitmap), 2 * all + 37 * dirty + 3);
    assert_int_equal(bitmap_count(half), 21 * dirty);
    assert_int_equal(bitmap_version(half), 1);
    assert_int_equal(bitmap_version(bitmap), 5);
    bitmap_free(half);
    set(bitmap, 20 * CHUNK + GRANULE, GRANULE, 6);
    assert_int_equal(bitmap_count(bitmap), 2 * all + 37 * dirty + 4);
    bitmap_free(bitmap);
}

/* More announced than there are, or too few to be worth it. */
static void test_announced(void **state)
{
    static const uint32_t announced[] = {UINT32_MAX, CHUNKS + 1, 32, 31, 0};

    (void)state;
    for (size_t i = 0; i < sizeof announced / sizeof announced[0]; i++) {
        bitmap_free(loaded(announced[i]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lifetimes),    cmocka_unit_test(test_memory_goes_back),
        cmocka_unit_test(test_many_changes), cmocka_unit_test(test_halves),
        cmocka_unit_test(test_announced),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
