/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What bitmaps take from the heap, and what happens when it has no more: the
 * figures that are promised for large drives, that changes after a reserve
 * never allocate, and that -ENOMEM leaves everything as it was, proven by
 * failing each allocation of an operation in turn.
 */
#include "tests/bitmap/alloc_fault.h"
#include "tests/bitmap/shadow.h"

#include <errno.h>
#include <malloc.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)
#define TIB (1024 * 1024 * MIB)

/* What a dense bitmap of 16 TiB at 64 KiB may cost: its 32 MiB of bits and a little. */
#define DENSE_16TIB_BYTES (32 * MIB + 512 * KIB)

/* The heap in use; 0 where a sanitizer keeps the heap and does not tell. */
static uint64_t heap_bytes(void)
{
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

static struct bitmap *new_bitmap(uint64_t size_bytes, uint32_t granularity, uint32_t chunk_bytes)
{
    struct bitmap *bitmap;

    assert_int_equal(bitmap_new(size_bytes, granularity, chunk_bytes, &bitmap), 0);
    return bitmap;
}

static void reserve_set(struct bitmap *bitmap, uint64_t offset, uint64_t length, uint64_t version)
{
    assert_int_equal(bitmap_reserve(bitmap, offset, length), 0);
    bitmap_set(bitmap, offset, length, version);
}

static void test_large_drive(void **state)
{
    const uint64_t granule = 64 * KIB;
    const uint64_t chunk_span = granule * 64 * KIB * 8;
    uint64_t heap_before = heap_bytes();

    (void)state;
    struct bitmap *bitmap = new_bitmap(16 * TIB, 64 * KIB, 64 * KIB);
    assert_int_equal(bitmap_chunks(bitmap), 512);
    assert_in_range(bitmap_memory_bytes(bitmap), 1, 64 * KIB - 1);
    assert_in_range(heap_bytes() - heap_before, 0, 64 * KIB - 1);

    /* All dirty, by a set of everything, by set_all, and clean again: no chunk, no allocation. */
    uint64_t empty_bytes = bitmap_memory_bytes(bitmap);
    (void)alloc_count();
    reserve_set(bitmap, 0, 16 * TIB, 1);
    assert_int_equal(bitmap_count(bitmap), UINT64_C(1) << 28);
    bitmap_clear_all(bitmap, 2);
    bitmap_set_all(bitmap, 3);
    assert_int_equal(bitmap_reserve(bitmap, chunk_span, 3 * chunk_span), 0);
    bitmap_clear(bitmap, chunk_span, 3 * chunk_span, 4);
    assert_int_equal(bitmap_count(bitmap), (UINT64_C(1) << 28) - 3 * 64 * KIB * 8);
    bitmap_clear_all(bitmap, 5);
    assert_int_equal(alloc_count(), 0);
    assert_int_equal(bitmap_memory_bytes(bitmap), empty_bytes);

    /* One bit in each chunk makes all of them dense. */
    for (uint64_t offset = 0; offset < 16 * TIB; offset += chunk_span) {
        reserve_set(bitmap, offset + 12345 * granule, 1, 6);
    }
    assert_int_equal(alloc_count(), 512);
    assert_in_range(bitmap_memory_bytes(bitmap), 32 * MIB, DENSE_16TIB_BYTES);
    assert_in_range(heap_bytes() - heap_before, 0, DENSE_16TIB_BYTES);

    /* A snapshot shares the buffers, and changing a chunk then costs that chunk. */
    struct bitmap *snapshot;
    assert_int_equal(bitmap_snapshot(bitmap, &snapshot), 0);
    assert_in_range(heap_bytes() - heap_before, 0, DENSE_16TIB_BYTES + 64 * KIB);
    (void)alloc_count();
    reserve_set(bitmap, 0, 1, 7);
    reserve_set(bitmap, granule, 5 * granule, 8);
    assert_int_equal(alloc_count(), 1);
    assert_in_range(heap_bytes() - heap_before, 0, DENSE_16TIB_BYTES + 192 * KIB);
    bitmap_free(snapshot);

    bitmap_set_all(bitmap, 9);
    assert_int_equal(bitmap_memory_bytes(bitmap), empty_bytes);
    bitmap_free(bitmap);
    assert_int_equal(heap_bytes(), heap_before);
}

/* A chunk that the drive's end cuts has a buffer for the bits that exist. */
static void test_short_chunk(void **state)
{
    struct bitmap *bitmap;

    (void)state;
    bitmap = new_bitmap(100 * 512, 512, 2 << 20);
    uint64_t empty_bytes = bitmap_memory_bytes(bitmap);
    reserve_set(bitmap, 512, 512, 1);
    assert_in_range(bitmap_memory_bytes(bitmap), empty_bytes + 13, empty_bytes + 64);
    bitmap_free(bitmap);

    /* Also behind chunks of full length, in a range that cuts both, and as a spare. */
    bitmap = new_bitmap(4196 * 512, 512, 512);
    assert_int_equal(bitmap_reserve(bitmap, 512, 4190 * 512), 0);
    uint64_t reserved_bytes = bitmap_memory_bytes(bitmap);
    assert_in_range(reserved_bytes, empty_bytes + 512 + 13, empty_bytes + 512 + 128);
    (void)alloc_count();
    bitmap_set(bitmap, 512, 4190 * 512, 1);
    assert_int_equal(alloc_count(), 0);
    assert_int_equal(bitmap_memory_bytes(bitmap), reserved_bytes);
    bitmap_free(bitmap);
}

/* A granule in a chunk of one's own needs nothing, whatever is set or cleared in it. */
static void test_dense_changes_in_place(void **state)
{
    struct bitmap *bitmap = new_bitmap(1024 * MIB, 64 * KIB, 64 * KIB);

    (void)state;
    reserve_set(bitmap, 0, 1, 1);
    (void)alloc_count();
    for (uint64_t i = 0; i < 1000; i++) {
        assert_int_equal(bitmap_reserve(bitmap, i * 65536, 65536), 0);
        bitmap_set(bitmap, i * 65536, 65536, 2 + i);
    }
    for (uint64_t i = 1; i < 1000; i++) {
        assert_int_equal(bitmap_reserve(bitmap, i * 65536, 65536), 0);
        bitmap_clear(bitmap, i * 65536, 65536, 2000 + i);
    }
    assert_int_equal(alloc_count(), 0);
    assert_int_equal(bitmap_count(bitmap), 1);
    bitmap_free(bitmap);
}

/*
 * The bitmap for failures: three full chunks of 4096 granules and a short one
 * of 100 whose last granule is cut, each of a kind of its own.
 */
#define GRANULE     UINT64_C(512)
#define CHUNK       (4096 * GRANULE)
#define CHUNKS      4
#define DRIVE_BYTES (3 * CHUNK + 100 * GRANULE - 200)
#define KINDS       4

enum kind {
    ZEROS,
    ONES,
    DENSE,
    SHARED, /* dense, with a snapshot */
};

struct scene {
    struct bitmap *bitmap;
    struct shadow *shadow;
    struct bitmap *snapshot;
    struct shadow *snapshot_shadow;
    uint64_t memory_bytes;
};

static void scene_dirty(struct scene *scene, uint64_t offset, uint64_t length)
{
    reserve_set(scene->bitmap, offset, length, 1);
    shadow_set(scene->shadow, offset, length, 1);
}

static uint64_t chunk_bytes_at(uint32_t chunk)
{
    return chunk == CHUNKS - 1 ? DRIVE_BYTES - 3 * CHUNK : CHUNK;
}

static void scene_init(struct scene *scene, const enum kind kinds[CHUNKS])
{
    scene->bitmap = new_bitmap(DRIVE_BYTES, GRANULE, 512);
    scene->shadow = shadow_new(DRIVE_BYTES, GRANULE, 512);
    for (uint32_t i = 0; i < CHUNKS; i++) {
        if (kinds[i] == ONES) {
            scene_dirty(scene, i * CHUNK, chunk_bytes_at(i));
        } else if (kinds[i] == SHARED) {
            /* Some, and room for more at both ends. */
            scene_dirty(scene, i * CHUNK + 10 * GRANULE, 70 * GRANULE);
        }
    }
    assert_int_equal(bitmap_snapshot(scene->bitmap, &scene->snapshot), 0);
    scene->snapshot_shadow = shadow_copy(scene->shadow);
    for (uint32_t i = 0; i < CHUNKS; i++) {
        if (kinds[i] == DENSE) {
            scene_dirty(scene, i * CHUNK + 10 * GRANULE, 70 * GRANULE);
        }
    }
    scene->memory_bytes = bitmap_memory_bytes(scene->bitmap);
}

static void scene_deinit(struct scene *scene)
{
    shadow_check(scene->shadow, scene->bitmap);
    shadow_check(scene->snapshot_shadow, scene->snapshot);
    bitmap_free(scene->bitmap);
    shadow_free(scene->shadow);
    bitmap_free(scene->snapshot);
    shadow_free(scene->snapshot_shadow);
}

/* After a failure: nothing has changed, nothing more is held. */
static void scene_check_untouched(const struct scene *scene)
{
    alloc_fail_from(0);
    shadow_check(scene->shadow, scene->bitmap);
    shadow_check(scene->snapshot_shadow, scene->snapshot);
    assert_int_equal(bitmap_memory_bytes(scene->bitmap), scene->memory_bytes);
}

/* Reserves with every allocation failing in turn, then changes with all of them failing. */
static uint64_t reserve_and_change(const enum kind kinds[CHUNKS], uint64_t offset, uint64_t end,
                                   bool set)
{
    struct scene scene;
    uint64_t failures = 0;
    int r;

    scene_init(&scene, kinds);
    /* The scene was built with reserves too; what they left would hide what is needed here. */
    struct bitmap *fresh;
    assert_int_equal(bitmap_snapshot(scene.bitmap, &fresh), 0);
    bitmap_free(scene.bitmap);
    scene.bitmap = fresh;
    scene.memory_bytes = bitmap_memory_bytes(fresh);

    for (;;) {
        alloc_fail_from(failures + 1);
        r = bitmap_reserve(scene.bitmap, offset, end - offset);
        if (r == 0) {
            break;
        }
        assert_int_equal(r, -ENOMEM);
        scene_check_untouched(&scene);
        failures++;
    }

    alloc_fail_from(1);
    (void)alloc_count();
    if (set) {
        bitmap_set(scene.bitmap, offset, end - offset, 2);
        shadow_set(scene.shadow, offset, end - offset, 2);
    } else {
        bitmap_clear(scene.bitmap, offset, end - offset, 2);
        shadow_clear(scene.shadow, offset, end - offset, 2);
    }
    assert_int_equal(alloc_count(), 0);
    alloc_fail_from(0);
    scene_deinit(&scene);
    return failures;
}

static void test_reserve(void **state)
{
    /* Where ranges begin and end within a chunk: at its edge, and a byte, a granule, more off. */
    static const uint64_t insets[] = {0, 1, GRANULE - 1, GRANULE, 20 * GRANULE + 3};
    static const uint32_t spans[][2] = {{0, 0}, {0, 2}, {2, 3}, {3, 3}};
    const size_t insets_count = sizeof insets / sizeof insets[0];
    uint64_t failures_max = 0;

    (void)state;
    for (size_t span = 0; span < sizeof spans / sizeof spans[0]; span++) {
        uint32_t first = spans[span][0];
        uint32_t last = spans[span][1];
        for (int variant = 0; variant < KINDS * KINDS * 2; variant++) {
            enum kind kinds[CHUNKS] = {DENSE, SHARED, ZEROS, ONES};
            if (first == last && variant / 2 % KINDS != 0) {
                continue; /* one chunk has one kind */
            }
            kinds[first] = (enum kind)(variant / 2 % KINDS);
            kinds[last] = (enum kind)(variant / 2 / KINDS);
            for (size_t i = 0; i < insets_count * insets_count; i++) {
                uint64_t offset = first * CHUNK + insets[i % insets_count];
                uint64_t end = last * CHUNK + chunk_bytes_at(last) - insets[i / insets_count];
                uint64_t failures = reserve_and_change(kinds, offset, end, variant % 2);
                failures_max = failures > failures_max ? failures : failures_max;
                assert_in_range(failures, 0, first == last ? 1 : 2);
            }
        }
    }
    assert_int_equal(failures_max, 2);
}

/* Ranges whose ends are one granule apart across a chunk's edge, where a clear covers less. */
static void test_reserve_across_edge(void **state)
{
    (void)state;
    for (int variant = 0; variant < KINDS * KINDS * 2; variant++) {
        enum kind kinds[CHUNKS] = {ZEROS, (enum kind)(variant / 2 % KINDS),
                                   (enum kind)(variant / 2 / KINDS), ONES};
        for (uint64_t before = 1; before <= 2 * GRANULE + 1; before += GRANULE / 2) {
            for (uint64_t after = 1; after <= 2 * GRANULE + 1; after += GRANULE / 2) {
                (void)reserve_and_change(kinds, 2 * CHUNK - before, 2 * CHUNK + after, variant % 2);
            }
        }
    }
}

/* A change without a reserve works while there is memory, and else does not lose the bit. */
static void test_unreserved(void **state)
{
    (void)state;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct bitmap *bitmap = new_bitmap(DRIVE_BYTES, GRANULE, 512);
        bitmap_set(bitmap, 0, 1, 1);
        if (bitmap_count(bitmap) != 1) {
            _exit(1);
        }
        (void)signal(SIGABRT, SIG_DFL);
        (void)prctl(PR_SET_DUMPABLE, 0); /* no core file */
        alloc_fail_from(1);
        bitmap_set(bitmap, CHUNK, 1, 2);
        _exit(2);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
}

/* A source for merges with dense, ones and zeros against every kind of the target. */
static struct bitmap *merge_source(uint32_t granularity, uint32_t chunk_bytes,
                                   struct shadow **ret_shadow)
{
    struct bitmap *source = new_bitmap(DRIVE_BYTES, granularity, chunk_bytes);
    struct shadow *shadow = shadow_new(DRIVE_BYTES, granularity, chunk_bytes);

    for (uint32_t i = 0; i < CHUNKS; i++) {
        uint64_t offset = i * CHUNK + 3 * GRANULE;
        uint64_t length = 90 * GRANULE;
        reserve_set(source, offset, length, 1);
        shadow_set(shadow, offset, length, 1);
        /* And one across the edge to the chunk before. */
        offset = i * CHUNK - (i > 0 ? 2 * GRANULE : 0);
        length = i > 0 ? 3 * GRANULE : GRANULE;
        reserve_set(source, offset, length, 1);
        shadow_set(shadow, offset, length, 1);
    }
    *ret_shadow = shadow;
    return source;
}

static void test_merge_without_memory(void **state)
{
    static const uint32_t shapes[][2] = {{512, 512}, {512, 4096}, {2048, 512}, {65536, 512}};

    (void)state;
    for (size_t shape = 0; shape < sizeof shapes / sizeof shapes[0]; shape++) {
        struct shadow *source_shadow;
        struct bitmap *source = merge_source(shapes[shape][0], shapes[shape][1], &source_shadow);
        for (int variant = 0; variant < KINDS * KINDS * KINDS * KINDS; variant++) {
            enum kind kinds[CHUNKS];
            struct scene scene;
            uint64_t failures = 0;
            int r;
            for (int i = 0, rest = variant; i < CHUNKS; i++, rest /= KINDS) {
                kinds[i] = (enum kind)(rest % KINDS);
            }
            scene_init(&scene, kinds);
            for (;;) {
                alloc_fail_from(failures + 1);
                r = bitmap_merge(scene.bitmap, source, 2);
                if (r == 0) {
                    break;
                }
                assert_int_equal(r, -ENOMEM);
                scene_check_untouched(&scene);
                failures++;
            }
            alloc_fail_from(0);
            shadow_merge(scene.shadow, source_shadow, 2);
            /* Every chunk that had no buffer of its own asked for one at most. */
            assert_in_range(failures, 0, CHUNKS);
            if (variant == 0) {
                assert_true(failures > 0);
            }
            scene_deinit(&scene);
        }
        bitmap_free(source);
        shadow_free(source_shadow);
    }
}

/* Runs that complete chunks only together: what was taken for them is given back. */
static void test_merge_gives_back(void **state)
{
    enum {
        MANY = 8
    };
    const uint64_t span = 4096 * 2048; /* of a chunk of the target */
    struct bitmap *target = new_bitmap(MANY * span, 2048, 512);
    struct bitmap *source = new_bitmap(MANY * span, 512, 512);
    uint64_t empty_bytes = bitmap_memory_bytes(target);

    (void)state;
    bitmap_set_all(source, 1);
    for (uint64_t i = 0; i < MANY; i++) {
        bitmap_clear(source, i * span + span / 2, 512, 2);
    }
    (void)alloc_count();
    assert_int_equal(bitmap_merge(target, source, 3), 0);
    assert_int_equal(alloc_count(), MANY);
    assert_int_equal(bitmap_count(target), bitmap_granules(target));
    assert_in_range(bitmap_memory_bytes(target), empty_bytes, empty_bytes + 2 * (512 + 8));
    bitmap_free(source);
    bitmap_free(target);
}

/* Nothing to do needs no memory, even where everything is shared. */
static void test_merge_of_nothing_new(void **state)
{
    static const enum kind kinds[CHUNKS] = {SHARED, ONES, SHARED, SHARED};
    struct bitmap *coarse;
    struct scene scene;

    (void)state;
    scene_init(&scene, kinds);
    coarse = new_bitmap(DRIVE_BYTES, 1024, 1024);
    reserve_set(coarse, 12 * GRANULE, 20 * GRANULE, 1);
    reserve_set(coarse, 3 * CHUNK + 20 * GRANULE, 20 * GRANULE, 1);
    alloc_fail_from(1);
    assert_int_equal(bitmap_merge(scene.bitmap, scene.snapshot, 2), 0);
    assert_int_equal(bitmap_merge(scene.bitmap, scene.bitmap, 2), 0);
    assert_int_equal(bitmap_merge(scene.bitmap, coarse, 2), 0);
    scene_check_untouched(&scene);
    bitmap_free(coarse);
    scene_deinit(&scene);
}

static void test_copies_without_memory(void **state)
{
    static const uint64_t sizes[] = {
        DRIVE_BYTES,
        DRIVE_BYTES + 100,
        DRIVE_BYTES + GRANULE,
        DRIVE_BYTES - GRANULE,
        DRIVE_BYTES + CHUNK,
        CHUNK + 50 * GRANULE,
        2 * CHUNK,
        1,
    };
    static const enum kind kinds[][CHUNKS] = {
        {SHARED, SHARED, SHARED, SHARED},
        {DENSE, DENSE, ZEROS, DENSE},
        {ONES, ONES, ONES, ONES},
        {ZEROS, ZEROS, ZEROS, ZEROS},
    };
    uint64_t failures_max = 0;

    (void)state;
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        struct scene scene;
        struct bitmap *copy = NULL;
        scene_init(&scene, kinds[k]);
        alloc_fail_from(1);
        assert_int_equal(bitmap_snapshot(scene.bitmap, &copy), -ENOMEM);
        assert_null(copy);
        scene_check_untouched(&scene);
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            uint64_t failures = 0;
            for (;;) {
                alloc_fail_from(failures + 1);
                int r = bitmap_resized(scene.bitmap, sizes[i], 9, &copy);
                if (r == 0) {
                    break;
                }
                assert_int_equal(r, -ENOMEM);
                assert_null(copy);
                scene_check_untouched(&scene);
                failures++;
            }
            alloc_fail_from(0);
            struct shadow *resized = shadow_resized(scene.shadow, sizes[i], 9);
            shadow_check(resized, copy);
            shadow_free(resized);
            bitmap_free(copy);
            copy = NULL;
            assert_true(failures >= 1);
            failures_max = failures > failures_max ? failures : failures_max;
        }
        scene_deinit(&scene);
    }
    assert_true(failures_max > 1);
}

static void test_load_and_new_without_memory(void **state)
{
    static const enum kind kinds[CHUNKS] = {ZEROS, ONES, DENSE, SHARED};
    unsigned shorts = 0;
    struct bitmap *bitmap = NULL;
    struct scene scene;

    (void)state;
    scene_init(&scene, kinds);
    for (uint32_t i = 0; i < CHUNKS; i++) {
        struct bitmap_chunk_view view;
        bitmap_chunk(scene.bitmap, i, &view);
        struct bitmap_loader loader = {.bitmap = scene.bitmap};
        alloc_fail_from(1);
        assert_null(bitmap_loader_space(&loader));
        alloc_fail_from(0);
        uint8_t *space = bitmap_loader_space(&loader);
        assert_non_null(space);
        memset(space, 0x5a, bitmap_chunk_bytes(scene.bitmap));
        if (view.length_bytes < bitmap_chunk_bytes(scene.bitmap)) {
            /* A short one is copied. */
            space[view.length_bytes - 1] = 0;
            alloc_fail_from(1);
            assert_int_equal(bitmap_loader_take(&loader, i, 5), -ENOMEM);
            alloc_fail_from(0);
            shorts++;
        }
        scene_check_untouched(&scene);
        bitmap_loader_deinit(&loader);
    }
    scene_deinit(&scene);
    assert_int_equal(shorts, 1);

    alloc_fail_from(1);
    assert_int_equal(bitmap_new(DRIVE_BYTES, GRANULE, 512, &bitmap), -ENOMEM);
    alloc_fail_from(0);
    assert_null(bitmap);
}

/* Whatever a test leaves armed must not reach the next one. */
static int disarm(void **state)
{
    (void)state;
    alloc_fail_from(0);
    return 0;
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
        cmocka_unit_test(test_large_drive),
        cmocka_unit_test(test_short_chunk),
        cmocka_unit_test(test_dense_changes_in_place),
        cmocka_unit_test_teardown(test_reserve, disarm),
        cmocka_unit_test_teardown(test_reserve_across_edge, disarm),
        cmocka_unit_test(test_unreserved),
        cmocka_unit_test_teardown(test_merge_without_memory, disarm),
        cmocka_unit_test(test_merge_gives_back),
        cmocka_unit_test_teardown(test_merge_of_nothing_new, disarm),
        cmocka_unit_test_teardown(test_copies_without_memory, disarm),
        cmocka_unit_test_teardown(test_load_and_new_without_memory, disarm),
    };
    return cmocka_run_group_tests_name("bitmap: memory", tests, setup, NULL);
}
