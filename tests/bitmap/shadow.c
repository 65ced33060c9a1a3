/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The naive model that bitmaps are tested against, and the comparison with it.
 */
#include "tests/bitmap/shadow.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static void *alloc(uint64_t count, uint64_t bytes)
{
    void *p = calloc(count, bytes);
    if (!p) {
        abort();
    }
    return p;
}

struct shadow *shadow_new(uint64_t size_bytes, uint64_t granularity, uint64_t chunk_bytes)
{
    struct shadow *shadow = alloc(1, sizeof *shadow);

    shadow->size_bytes = size_bytes;
    shadow->granularity = granularity;
    shadow->chunk_granules = chunk_bytes * 8;
    shadow->granules = (size_bytes + granularity - 1) / granularity;
    shadow->chunks = (shadow->granules + shadow->chunk_granules - 1) / shadow->chunk_granules;
    shadow->dirty = alloc(shadow->granules, sizeof *shadow->dirty);
    shadow->versions = alloc(shadow->chunks, sizeof *shadow->versions);
    return shadow;
}

void shadow_free(struct shadow *shadow)
{
    if (shadow) {
        free(shadow->dirty);
        free(shadow->versions);
        free(shadow);
    }
}

struct shadow *shadow_copy(const struct shadow *shadow)
{
    struct shadow *copy =
        shadow_new(shadow->size_bytes, shadow->granularity, shadow->chunk_granules / 8);

    memcpy(copy->dirty, shadow->dirty, shadow->granules * sizeof *shadow->dirty);
    memcpy(copy->versions, shadow->versions, shadow->chunks * sizeof *shadow->versions);
    return copy;
}

static uint64_t granule_end(const struct shadow *shadow, uint64_t granule)
{
    uint64_t end = (granule + 1) * shadow->granularity;
    return end < shadow->size_bytes ? end : shadow->size_bytes;
}

/* Granules that have a byte in the range, or all of their bytes. */
static bool touches(const struct shadow *shadow, uint64_t granule, uint64_t offset, uint64_t length)
{
    return granule * shadow->granularity < offset + length && granule_end(shadow, granule) > offset;
}

static bool covers(const struct shadow *shadow, uint64_t granule, uint64_t offset, uint64_t length)
{
    return granule * shadow->granularity >= offset &&
           granule_end(shadow, granule) <= offset + length;
}

static void change(struct shadow *shadow, uint64_t granule, bool dirty, uint64_t version)
{
    if (shadow->dirty[granule] != dirty) {
        shadow->dirty[granule] = dirty;
        shadow->versions[granule / shadow->chunk_granules] = version;
    }
}

void shadow_set(struct shadow *shadow, uint64_t offset, uint64_t length, uint64_t version)
{
    for (uint64_t i = 0; i < shadow->granules; i++) {
        if (touches(shadow, i, offset, length)) {
            change(shadow, i, true, version);
        }
    }
}

void shadow_clear(struct shadow *shadow, uint64_t offset, uint64_t length, uint64_t version)
{
    for (uint64_t i = 0; i < shadow->granules; i++) {
        if (covers(shadow, i, offset, length)) {
            change(shadow, i, false, version);
        }
    }
}

void shadow_merge(struct shadow *target, const struct shadow *source, uint64_t version)
{
    for (uint64_t i = 0; i < source->granules; i++) {
        if (source->dirty[i]) {
            uint64_t begin = i * source->granularity;
            uint64_t end = granule_end(source, i);
            /* Only those that can touch: all of them would take quadratic time. */
            for (uint64_t j = begin / target->granularity;
                 j < target->granules && j * target->granularity < end; j++) {
                assert_true(touches(target, j, begin, end - begin));
                change(target, j, true, version);
            }
        }
    }
}

struct shadow *shadow_resized(const struct shadow *shadow, uint64_t size_bytes, uint64_t version)
{
    struct shadow *resized =
        shadow_new(size_bytes, shadow->granularity, shadow->chunk_granules / 8);

    for (uint64_t i = 0; i < resized->granules; i++) {
        bool grew = i >= shadow->granules || granule_end(resized, i) > granule_end(shadow, i);
        resized->dirty[i] = grew || shadow->dirty[i];
    }
    for (uint64_t i = 0; i < resized->chunks; i++) {
        resized->versions[i] = version;
    }
    return resized;
}

void shadow_load_chunk(struct shadow *shadow, uint64_t chunk, const bool *dirty, uint64_t version)
{
    uint64_t first = chunk * shadow->chunk_granules;

    for (uint64_t i = 0; i < shadow->chunk_granules && first + i < shadow->granules; i++) {
        shadow->dirty[first + i] = dirty[i];
    }
    shadow->versions[chunk] = version;
}

bool shadow_test_all(const struct shadow *shadow, uint64_t offset, uint64_t length)
{
    return shadow_test_all_since(shadow, offset, length, UINT64_MAX);
}

bool shadow_test_all_since(const struct shadow *shadow, uint64_t offset, uint64_t length,
                           uint64_t version)
{
    for (uint64_t i = 0; i < shadow->granules; i++) {
        if (touches(shadow, i, offset, length) &&
            (!shadow->dirty[i] || shadow->versions[i / shadow->chunk_granules] > version)) {
            return false;
        }
    }
    return true;
}

uint64_t shadow_count_range(const struct shadow *shadow, uint64_t offset, uint64_t length)
{
    uint64_t count = 0;

    for (uint64_t i = 0; i < shadow->granules; i++) {
        count += touches(shadow, i, offset, length) && shadow->dirty[i];
    }
    return count;
}

static void check_chunk(const struct shadow *shadow, const struct bitmap *bitmap, uint32_t chunk)
{
    struct bitmap_chunk_view view;
    uint64_t first = chunk * shadow->chunk_granules;
    uint64_t granules = shadow->granules - first;
    uint64_t dirty = 0;

    if (granules > shadow->chunk_granules) {
        granules = shadow->chunk_granules;
    }
    bitmap_chunk(bitmap, chunk, &view);
    assert_int_equal(view.granules, granules);
    assert_int_equal(view.length_bytes, (granules + 7) / 8);
    assert_int_equal(view.version, shadow->versions[chunk]);
    for (uint64_t i = 0; i < granules; i++) {
        dirty += shadow->dirty[first + i];
        if (view.kind == BITMAP_DENSE) {
            assert_int_equal((view.bits[i / 8] >> (i % 8)) & 1, shadow->dirty[first + i]);
        }
    }
    if (view.kind == BITMAP_DENSE && granules % 8 != 0) {
        assert_int_equal(view.bits[granules / 8] >> (granules % 8), 0);
    }
    assert_int_equal(view.dirty, dirty);
    assert_int_equal(view.kind, dirty == 0          ? BITMAP_ZEROS
                                : dirty == granules ? BITMAP_ONES
                                                    : BITMAP_DENSE);
    assert_true((view.bits != NULL) == (view.kind == BITMAP_DENSE));
}

/* The end of the run that granule @first begins. */
static uint64_t run_end(const struct shadow *shadow, uint64_t first)
{
    uint64_t end = first + 1;

    while (end < shadow->granules && shadow->dirty[end] == shadow->dirty[first]) {
        end++;
    }
    return granule_end(shadow, end - 1);
}

static void check_runs(const struct shadow *shadow, const struct bitmap *bitmap)
{
    uint64_t next_offset = 0, next_end = 0;
    bool next = bitmap_next_dirty(bitmap, 0, &next_offset, &next_end);

    for (uint64_t offset = 0; offset < shadow->size_bytes;) {
        bool dirty;
        uint64_t end;
        bitmap_run(bitmap, offset, UINT64_MAX, &dirty, &end);
        assert_int_equal(dirty, shadow->dirty[offset / shadow->granularity]);
        assert_int_equal(end, run_end(shadow, offset / shadow->granularity));
        if (dirty) {
            assert_true(next);
            assert_int_equal(next_offset, offset);
            assert_int_equal(next_end, end);
            next = bitmap_next_dirty(bitmap, end, &next_offset, &next_end);
        }
        offset = end;
    }
    assert_false(next);

    /* The same, several at once, from anywhere. */
    for (uint32_t max = 1; max <= 64; max *= 8) {
        struct bitmap_extent runs[64];
        uint64_t offset = random_below(shadow->granules + 1) * shadow->granularity;
        uint32_t count = max;
        offset = offset < shadow->size_bytes ? offset : shadow->size_bytes;
        while (count == max) {
            count = bitmap_dirty_runs(bitmap, offset, runs, max);
            assert_true(count <= max);
            for (uint32_t i = 0; i < count; i++) {
                assert_true(bitmap_next_dirty(bitmap, offset, &next_offset, &next_end));
                assert_int_equal(runs[i].offset, next_offset);
                assert_int_equal(runs[i].offset + runs[i].length, next_end);
                offset = next_end;
            }
        }
        assert_false(bitmap_next_dirty(bitmap, offset, &next_offset, &next_end));
    }

    /* From anywhere, with a limit anywhere. */
    for (int i = 0; i < 4; i++) {
        uint64_t granule = random_below(shadow->granules);
        uint64_t offset = granule * shadow->granularity;
        uint64_t limit = offset + random_below(shadow->size_bytes - offset) + 1;
        uint64_t limit_up =
            granule_end(shadow, (limit + shadow->granularity - 1) / shadow->granularity - 1);
        uint64_t true_end = run_end(shadow, granule);
        uint64_t end;
        bool dirty;
        bitmap_run(bitmap, offset, limit, &dirty, &end);
        assert_int_equal(dirty, shadow->dirty[granule]);
        assert_int_equal(end, true_end < limit_up ? true_end : limit_up);

        while (granule < shadow->granules && !shadow->dirty[granule]) {
            granule++;
        }
        next = bitmap_next_dirty(bitmap, offset, &next_offset, &next_end);
        assert_int_equal(next, granule < shadow->granules);
        if (next) {
            assert_int_equal(next_offset, granule * shadow->granularity);
            assert_int_equal(next_end, run_end(shadow, granule));
        }
    }
}

void shadow_check(const struct shadow *shadow, const struct bitmap *bitmap)
{
    uint64_t dirty = 0, dirty_bytes = 0, version = 0;

    assert_int_equal(bitmap_size_bytes(bitmap), shadow->size_bytes);
    assert_int_equal(bitmap_granularity(bitmap), shadow->granularity);
    assert_int_equal(bitmap_granules(bitmap), shadow->granules);
    assert_int_equal(bitmap_chunks(bitmap), shadow->chunks);
    for (uint64_t i = 0; i < shadow->granules; i++) {
        if (shadow->dirty[i]) {
            dirty++;
            dirty_bytes += granule_end(shadow, i) - i * shadow->granularity;
        }
    }
    for (uint32_t i = 0; i < shadow->chunks; i++) {
        check_chunk(shadow, bitmap, i);
        version = shadow->versions[i] > version ? shadow->versions[i] : version;
    }
    assert_int_equal(bitmap_count(bitmap), dirty);
    assert_int_equal(bitmap_dirty_bytes(bitmap), dirty_bytes);
    assert_int_equal(bitmap_version(bitmap), version);
    check_runs(shadow, bitmap);
}

static uint64_t random_state;

void random_init(void)
{
    const char *text = getenv("BITMAPD_TEST_SEED");
    struct timespec now;

    if (text) {
        random_state = strtoull(text, NULL, 0);
    } else {
        clock_gettime(CLOCK_REALTIME, &now);
        random_state = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
    }
    print_message("BITMAPD_TEST_SEED=%" PRIu64 "\n", random_state);
}

/* splitmix64, public domain (Vigna). */
uint64_t random_u64(void)
{
    uint64_t z = random_state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint64_t random_below(uint64_t limit)
{
    return random_u64() % limit;
}
