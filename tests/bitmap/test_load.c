/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Bitmaps as they are loaded, whole or in halves, and what is done with them then.
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
static struct bitmap *loaded(void)
{
    struct bitmap *bitmap;
    struct bitmap_loader loader = {0};

    assert_int_equal(bitmap_new(CHUNKS * CHUNK - GRANULE, GRANULE, CHUNK_BYTES, &bitmap), 0);
    uint64_t empty_bytes = bitmap_memory_bytes(bitmap);
    loader.bitmap = bitmap;
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
    assert_int_equal(alloc_count(), CHUNKS);
    bitmap_loader_deinit(&loader);
    assert_int_equal(bitmap_count(bitmap), CHUNKS * (CHUNK / GRANULE) / 4);
    assert_in_range(bitmap_memory_bytes(bitmap) - empty_bytes, CHUNKS * CHUNK_BYTES,
                    CHUNKS * (CHUNK_BYTES + 64));
    return bitmap;
}

static void test_lifetimes(void **state)
{
    const uint64_t dirty = CHUNK / GRANULE / 4, all = CHUNK / GRANULE;
    struct bitmap *bitmap = loaded();
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

/* A half that another thread has loaded. */
static void test_halves(void **state)
{
    struct bitmap *bitmap = loaded(), *half = loaded();
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lifetimes),
        cmocka_unit_test(test_halves),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
