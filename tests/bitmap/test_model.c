/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Long random sequences of every operation, mirrored on the naive model, over
 * geometries with all the edges: one byte, one granule, one less and one more
 * than a word, a byte, a chunk; drives whose last granule is cut.
 *
 * Beside the bitmap under test live snapshots of it, each with its own copy of
 * the model, which must stay as they were; and partners of other shapes to
 * merge from, so that a merge meets any mixture of kinds on both sides.
 */
#include "tests/bitmap/alloc_fault.h"
#include "tests/bitmap/shadow.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SNAPSHOTS        3
#define CHANGES_TOGETHER 6

struct pair {
    struct bitmap *bitmap;
    struct shadow *shadow;
};

static uint64_t version; /* of the last change */

static struct pair pair_new(uint64_t size_bytes, uint64_t granularity, uint32_t chunk_bytes)
{
    struct pair pair;

    assert_int_equal(bitmap_new(size_bytes, (uint32_t)granularity, chunk_bytes, &pair.bitmap), 0);
    pair.shadow = shadow_new(size_bytes, granularity, chunk_bytes);
    return pair;
}

static void pair_free(struct pair *pair)
{
    bitmap_free(pair->bitmap);
    shadow_free(pair->shadow);
    *pair = (struct pair){0};
}

/*
 * A range of bytes of the drive: of a few granules, of many, or along the
 * edges of chunks; and its ends on a granule's edge, or a byte beside it.
 */
static void random_range(const struct shadow *shadow, uint64_t *ret_offset, uint64_t *ret_length)
{
    uint64_t begin = random_below(shadow->granules);
    uint64_t left = shadow->granules - begin;
    uint64_t granules;

    switch (random_below(4)) {
    case 0:
        granules = 1;
        break;
    case 1:
        granules = 1 + random_below(left < 100 ? left : 100);
        break;
    case 2:
        granules = 1 + random_below(left);
        break;
    default:
        begin -= begin % shadow->chunk_granules;
        left = shadow->granules - begin;
        granules = shadow->chunk_granules * (1 + random_below(3));
        granules = granules < left ? granules : left;
        break;
    }
    uint64_t offset = begin * shadow->granularity;
    uint64_t end = offset + granules * shadow->granularity;
    end = end < shadow->size_bytes ? end : shadow->size_bytes;
    if (random_below(4) == 0 && end - offset > 1) {
        offset += 1 + random_below(end - offset - 1 < 2000 ? end - offset - 1 : 2000);
    }
    if (random_below(4) == 0 && end - offset > 1) {
        end -= 1 + random_below(end - offset - 1 < 2000 ? end - offset - 1 : 2000);
    }
    *ret_offset = offset;
    *ret_length = end - offset;
}

static void pair_change(struct pair *pair)
{
    uint64_t offset, length;

    random_range(pair->shadow, &offset, &length);
    version++;
    if (random_below(2) == 0) {
        assert_int_equal(bitmap_reserve(pair->bitmap, offset, length), 0);
    }
    if (random_below(5) < 3) {
        bitmap_set(pair->bitmap, offset, length, version);
        shadow_set(pair->shadow, offset, length, version);
    } else {
        bitmap_clear(pair->bitmap, offset, length, version);
        shadow_clear(pair->shadow, offset, length, version);
    }
}

/* Several changes that are reserved for together; not one of them may allocate. */
static void pair_change_together(struct pair *pair)
{
    struct {
        uint64_t offset, length;
        bool set;
    } changes[CHANGES_TOGETHER];
    struct bitmap_need need = {0};
    uint64_t n = 1 + random_below(CHANGES_TOGETHER);
    uint64_t all = random_below(8);

    version++;
    for (uint64_t i = 0; i < n; i++) {
        random_range(pair->shadow, &changes[i].offset, &changes[i].length);
        changes[i].set = random_below(2) == 0;
        bitmap_need_change(pair->bitmap, changes[i].offset, changes[i].length, &need);
    }
    assert_int_equal(bitmap_reserve_need(pair->bitmap, &need), 0);
    (void)alloc_count();
    if (all == 0) {
        bitmap_clear_all(pair->bitmap, version);
        shadow_clear(pair->shadow, 0, pair->shadow->size_bytes, version);
    }
    for (uint64_t i = 0; i < n; i++) {
        if (changes[i].set) {
            bitmap_set(pair->bitmap, changes[i].offset, changes[i].length, version);
            shadow_set(pair->shadow, changes[i].offset, changes[i].length, version);
        } else {
            bitmap_clear(pair->bitmap, changes[i].offset, changes[i].length, version);
            shadow_clear(pair->shadow, changes[i].offset, changes[i].length, version);
        }
    }
    assert_int_equal(alloc_count(), 0);
    bitmap_reserve_end(pair->bitmap);
}

static void pair_query(const struct pair *pair)
{
    uint64_t offset, length;
    random_range(pair->shadow, &offset, &length);
    uint64_t since = version - random_below(version < 10 ? version + 1 : 10);

    assert_int_equal(bitmap_test_all(pair->bitmap, offset, length),
                     shadow_test_all(pair->shadow, offset, length));
    assert_int_equal(test_all_since(pair->bitmap, offset, length, since),
                     shadow_test_all_since(pair->shadow, offset, length, since));
    assert_int_equal(bitmap_count_range(pair->bitmap, offset, length),
                     shadow_count_range(pair->shadow, offset, length));
}

/* What is asked of a range that was just set must be seen too, not only what is random. */
static void pair_set_and_test(struct pair *pair)
{
    uint64_t offset, length;
    random_range(pair->shadow, &offset, &length);

    version++;
    if (random_below(2) == 0) {
        length = 1;
    }
    if (random_below(2) == 0 || !bitmap_set_quickly(pair->bitmap, offset, length, version)) {
        bitmap_set(pair->bitmap, offset, length, version);
    }
    shadow_set(pair->shadow, offset, length, version);
    assert_true(bitmap_test_all(pair->bitmap, offset, length));
    assert_true(test_all_since(pair->bitmap, offset, length, version));
    assert_int_equal(test_all_since(pair->bitmap, offset, length, version - 1),
                     shadow_test_all_since(pair->shadow, offset, length, version - 1));
}

static void pair_all(struct pair *pair)
{
    uint64_t size_bytes = pair->shadow->size_bytes;

    version++;
    if (random_below(2) == 0) {
        bitmap_set_all(pair->bitmap, version);
        shadow_set(pair->shadow, 0, size_bytes, version);
    } else {
        bitmap_clear_all(pair->bitmap, version);
        shadow_clear(pair->shadow, 0, size_bytes, version);
    }
}

/* Two sources, the second one as the first one was before. */
static void pair_merge_together(struct pair *pair, struct pair *first)
{
    struct pair second = {.shadow = shadow_copy(first->shadow)};
    struct bitmap_need need = {0};
    struct shadow *before = shadow_copy(first->shadow);

    assert_int_equal(bitmap_snapshot(first->bitmap, &second.bitmap), 0);
    for (uint64_t i = random_below(4); i > 0; i--) {
        pair_change(&second);
    }
    bitmap_need_merge(pair->bitmap, first->bitmap, &need);
    bitmap_need_merge(pair->bitmap, second.bitmap, &need);
    assert_int_equal(bitmap_reserve_need(pair->bitmap, &need), 0);
    (void)alloc_count();
    bitmap_merge_reserved(pair->bitmap, first->bitmap, version);
    bitmap_merge_reserved(pair->bitmap, second.bitmap, version);
    assert_int_equal(alloc_count(), 0);
    bitmap_reserve_end(pair->bitmap);
    shadow_merge(pair->shadow, first->shadow, version);
    shadow_merge(pair->shadow, second.shadow, version);
    shadow_check(before, first->bitmap);
    shadow_free(before);
    pair_free(&second);
}

/* From a bitmap of the same drive and any other shape that the naive model can bear. */
static void pair_merge(struct pair *pair)
{
    static const uint32_t chunk_bytes[] = {512, 1024, 65536};
    uint64_t size_bytes = pair->shadow->size_bytes;
    uint64_t granularity = pair->shadow->granularity;

    switch (random_below(4)) {
    case 0:
        granularity = granularity >= 2048 ? granularity / 4 : granularity;
        break;
    case 1:
        granularity = granularity <= BITMAP_GRANULARITY_MAX / 8 ? granularity * 8 : granularity;
        break;
    default:
        break;
    }
    struct pair source =
        pair_new(size_bytes, granularity,
                 random_below(2) ? bitmap_chunk_bytes(pair->bitmap) : chunk_bytes[random_below(3)]);
    for (uint64_t i = random_below(6); i > 0; i--) {
        pair_change(&source);
    }
    struct shadow *source_before = shadow_copy(source.shadow);

    version++;
    if (random_below(2) == 0) {
        assert_int_equal(bitmap_merge(pair->bitmap, source.bitmap, version), 0);
        shadow_merge(pair->shadow, source.shadow, version);
    } else {
        pair_merge_together(pair, &source);
    }
    shadow_check(source_before, source.bitmap);
    shadow_free(source_before);
    pair_free(&source);
}

static void pair_resize(struct pair *pair)
{
    uint64_t size_bytes = pair->shadow->size_bytes;
    uint64_t granularity = pair->shadow->granularity;
    uint64_t chunk = granularity * pair->shadow->chunk_granules;
    uint64_t step;
    struct pair resized;

    switch (random_below(4)) {
    case 0:
        step = 1;
        break;
    case 1:
        step = granularity;
        break;
    case 2:
        step = 1 + random_below(20 * granularity);
        break;
    default:
        /* To the next chunk's edge, where chunks are small enough for the model. */
        step = pair->shadow->chunk_granules <= 8192 ? chunk - size_bytes % chunk : granularity;
        break;
    }
    if (random_below(2) == 0 && step < size_bytes) {
        size_bytes -= step;
    } else if (size_bytes < 20000 * granularity) {
        size_bytes += step;
    }
    version++;
    assert_int_equal(bitmap_resized(pair->bitmap, size_bytes, version, &resized.bitmap), 0);
    resized.shadow = shadow_resized(pair->shadow, size_bytes, version);
    shadow_check(pair->shadow, pair->bitmap);
    pair_free(pair);
    *pair = resized;
}

/* As the container's reader does, with what it may leave beyond the chunk's bits. */
static int load_chunk(struct bitmap *bitmap, uint32_t chunk, const uint8_t *bits,
                      uint32_t length_bytes, uint64_t sequence)
{
    struct bitmap_loader loader = {.bitmap = bitmap};

    uint8_t *space = bitmap_loader_space(&loader);
    assert_non_null(space);
    assert_ptr_equal(bitmap_loader_space(&loader), space);
    memset(space, 0xa5, bitmap_chunk_bytes(bitmap));
    memcpy(space, bits, length_bytes);
    int r = bitmap_loader_take(&loader, chunk, sequence);
    bitmap_loader_deinit(&loader);
    return r;
}

static void pair_load_chunk(struct pair *pair)
{
    uint32_t chunk = (uint32_t)random_below(pair->shadow->chunks);
    struct bitmap_chunk_view view;
    bitmap_chunk(pair->bitmap, chunk, &view);
    uint8_t *bits = calloc(1, view.length_bytes);
    bool *dirty = calloc(view.granules, sizeof *dirty);
    uint64_t density = random_below(4); /* none, some, many, all */

    assert_non_null(bits);
    assert_non_null(dirty);
    for (uint32_t i = 0; i < view.granules; i++) {
        dirty[i] = density == 3 || random_below(3) < density;
        bits[i / 8] |= (uint8_t)(dirty[i] << (i % 8));
    }

    if (view.granules % 8 != 0) {
        bits[view.length_bytes - 1] |= 0x80;
        assert_int_equal(load_chunk(pair->bitmap, chunk, bits, view.length_bytes, version + 1),
                         -EINVAL);
        bits[view.length_bytes - 1] &= (uint8_t)((1 << (view.granules % 8)) - 1);
    }
    shadow_check(pair->shadow, pair->bitmap);

    version++;
    assert_int_equal(load_chunk(pair->bitmap, chunk, bits, view.length_bytes, version), 0);
    shadow_load_chunk(pair->shadow, chunk, dirty, version);
    free(bits);
    free(dirty);
}

/* Out through the views and in through a loader, as the container will do. */
static void pair_round_trip(const struct pair *pair)
{
    struct bitmap *copy;

    assert_int_equal(bitmap_new(pair->shadow->size_bytes, (uint32_t)pair->shadow->granularity,
                                bitmap_chunk_bytes(pair->bitmap), &copy),
                     0);
    for (uint32_t i = 0; i < bitmap_chunks(pair->bitmap); i++) {
        struct bitmap_chunk_view view;
        bitmap_chunk(pair->bitmap, i, &view);
        if (view.kind == BITMAP_ZEROS) {
            uint8_t *zeros = calloc(1, view.length_bytes);
            assert_non_null(zeros);
            assert_int_equal(load_chunk(copy, i, zeros, view.length_bytes, view.version), 0);
            free(zeros);
        } else if (view.kind == BITMAP_ONES) {
            uint8_t *ones = malloc(view.length_bytes);
            assert_non_null(ones);
            memset(ones, 0xff, view.length_bytes);
            if (view.granules % 8 != 0) {
                ones[view.length_bytes - 1] = (uint8_t)((1 << (view.granules % 8)) - 1);
            }
            assert_int_equal(load_chunk(copy, i, ones, view.length_bytes, view.version), 0);
            free(ones);
        } else {
            assert_int_equal(load_chunk(copy, i, view.bits, view.length_bytes, view.version), 0);
        }
    }
    shadow_check(pair->shadow, copy);
    bitmap_free(copy);
}

static void run_sequence(uint64_t size_bytes, uint64_t granularity, uint32_t chunk_bytes,
                         uint64_t steps)
{
    struct pair pair = pair_new(size_bytes, granularity, chunk_bytes);
    struct pair snapshots[SNAPSHOTS] = {0};

    for (uint64_t step = 0; step < steps; step++) {
        struct pair *slot = &snapshots[random_below(SNAPSHOTS)];
        switch (random_below(16)) {
        case 0:
            pair_all(&pair);
            break;
        case 1:
            pair_merge(&pair);
            break;
        case 2:
            pair_resize(&pair);
            break;
        case 3:
            pair_load_chunk(&pair);
            break;
        case 4:
            pair_round_trip(&pair);
            break;
        case 5:
            pair_set_and_test(&pair);
            break;
        case 6:
        case 7:
            /* The newest of the history may be merged back, as folding checkpoints does. */
            if (slot->bitmap && slot->shadow->size_bytes == pair.shadow->size_bytes) {
                version++;
                assert_int_equal(bitmap_merge(pair.bitmap, slot->bitmap, version), 0);
                shadow_merge(pair.shadow, slot->shadow, version);
            }
            break;
        case 8:
        case 9:
        case 10:
            if (slot->bitmap) {
                shadow_check(slot->shadow, slot->bitmap);
                pair_free(slot);
            }
            assert_int_equal(bitmap_snapshot(pair.bitmap, &slot->bitmap), 0);
            slot->shadow = shadow_copy(pair.shadow);
            break;
        case 11:
        case 12:
            pair_change_together(&pair);
            break;
        default:
            pair_change(&pair);
            break;
        }
        pair_query(&pair);
        shadow_check(pair.shadow, pair.bitmap);
    }

    for (size_t i = 0; i < SNAPSHOTS; i++) {
        if (snapshots[i].bitmap) {
            shadow_check(snapshots[i].shadow, snapshots[i].bitmap);
            /* The last owner changes what was shared. */
            pair_free(&pair);
            pair = snapshots[i];
            pair_change(&pair);
            shadow_check(pair.shadow, pair.bitmap);
        }
    }
    pair_free(&pair);
}

static void run_granules(uint64_t granules, uint64_t granularity, uint32_t chunk_bytes,
                         uint64_t work)
{
    const uint64_t cuts[] = {0, 1, granularity - 1};
    uint64_t steps = 4 + work / (granules + 100);

    for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
        run_sequence(granules * granularity - cuts[i], granularity, chunk_bytes, steps);
    }
}

static void test_small_geometries(void **state)
{
    static const uint64_t granules[] = {1, 2, 7, 8, 9, 63, 64, 65, 127, 128, 129, 1000};
    static const uint64_t granularities[] = {512, 4096, 65536, UINT64_C(1) << 31};
    static const uint32_t chunk_bytes[] = {512, 65536, 2 << 20};

    (void)state;
    for (size_t i = 0; i < sizeof granules / sizeof granules[0]; i++) {
        for (size_t j = 0; j < sizeof granularities / sizeof granularities[0]; j++) {
            for (size_t k = 0; k < sizeof chunk_bytes / sizeof chunk_bytes[0]; k++) {
                run_granules(granules[i], granularities[j], chunk_bytes[k], 8000);
            }
        }
    }
}

static void test_chunk_edges(void **state)
{
    static const uint64_t granules[] = {4095, 4096, 4097, 4160, 8191, 8192, 8193, 12345, 16384};
    static const uint64_t granularities[] = {512, 1 << 20, UINT64_C(1) << 31};

    (void)state;
    for (size_t i = 0; i < sizeof granules / sizeof granules[0]; i++) {
        for (size_t j = 0; j < sizeof granularities / sizeof granularities[0]; j++) {
            run_granules(granules[i], granularities[j], 512, 200000);
        }
    }
    run_granules(20001, 4096, 1024, 400000);
}

/* The container's default cluster: three chunks of 524288 granules. */
static void test_default_chunk(void **state)
{
    (void)state;
    run_sequence(UINT64_C(65536) * (2 * 524288 + 77) - 1000, 65536, 65536, 8);
}

static int setup(void **state)
{
    (void)state;
    random_init();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_small_geometries),
        cmocka_unit_test(test_chunk_edges),
        cmocka_unit_test(test_default_chunk),
    };
    return cmocka_run_group_tests_name("bitmap: random operations against the model", tests, setup,
                                       NULL);
}
