/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A bitmap that is large enough for two threads to load it, whole and with
 * damage in what either of them reads.
 */
#include "tests/drive/faulty.h"
#include "tests/drive/harness.h"

#include "daemon/drive/internal.h"

#include <string.h>

#define CHUNKS  200u
#define GRANULE 512u
#define BITS    4096u /* of a chunk, in clusters of 512 bytes */
#define SIZE    ((uint64_t)CHUNKS * BITS * GRANULE - 1000)

/* Two in each chunk, which no other one has. */
static uint64_t first_of(uint32_t chunk)
{
    return ((uint64_t)chunk * BITS + chunk) * GRANULE;
}

static uint64_t second_of(uint32_t chunk)
{
    return ((uint64_t)chunk * BITS + 1000 + chunk) * GRANULE;
}

static void fill(struct harness *harness)
{
    harness_init(harness);
    harness->settings.files = &faulty_files;
    harness_open(harness);
    harness_add_drive(harness, "d", SIZE);
    harness_add_bitmap(harness, "d/b", GRANULE, false);
    for (uint32_t i = 0; i < CHUNKS; i++) {
        harness_mark(harness, "d", first_of(i), GRANULE);
        harness_mark(harness, "d", second_of(i), GRANULE);
    }
    assert_int_equal(harness_close(harness), 0);
}

static void damage(struct harness *harness, uint32_t chunk)
{
    uint8_t bits[BITS / 8] = {0};
    uint32_t second = 1000 + chunk;

    bits[chunk / 8] = (uint8_t)(1u << chunk % 8);
    bits[second / 8] = (uint8_t)(1u << second % 8);
    faulty_damage(harness->container, bits, sizeof bits);
}

static void check(struct harness *harness, const uint32_t *damaged, uint32_t count)
{
    const struct drive_bitmap *bitmap = harness_bitmap(harness, "d/b");
    uint64_t dirty = 2 * CHUNKS;

    for (uint32_t i = 0, k = 0; i < CHUNKS; i++) {
        bool bad = k < count && damaged[k] == i;
        assert_true(bitmap_test_all(bitmap->bits, first_of(i), GRANULE));
        assert_true(bitmap_test_all(bitmap->bits, second_of(i), GRANULE));
        assert_int_equal(bitmap_test_all(bitmap->bits, second_of(i) + GRANULE, GRANULE), bad);
        if (bad) {
            dirty += (i + 1 < CHUNKS ? BITS : BITS - 1) - 2;
            k++;
        }
    }
    assert_int_equal(bitmap_count(bitmap->bits), dirty);
    assert_int_equal(bitmap->validity, count > 0 ? VALIDITY_UNKNOWN : VALIDITY_EXACT);
    if (count > 0) {
        char words[64];
        (void)snprintf(words, sizeof words, "cluster of bits %u at", damaged[0]);
        assert_non_null(strstr(bitmap->reason, words));
    }
}

static void damaged_clusters_are_all_dirty(void **state)
{
    static const struct {
        uint32_t chunks[3], count;
    } cases[] = {
        {.count = 0},
        {{0}, 1},
        {{99}, 1},
        {{100}, 1},
        {{150}, 1},
        {{CHUNKS - 1}, 1},
        {{50, 120}, 2},
        {{99, 100, 101}, 3},
        {{120, 121, CHUNKS - 1}, 3},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct harness harness;
        fill(&harness);
        for (uint32_t k = 0; k < cases[i].count; k++) {
            damage(&harness, cases[i].chunks[k]);
        }
        for (unsigned starts = 0; starts < 2; starts++) { /* the second finds it mended */
            harness_open(&harness);
            check(&harness, cases[i].chunks, cases[i].count);
            assert_int_equal(harness_close(&harness), 0);
        }
        harness_deinit(&harness);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(damaged_clusters_are_all_dirty),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
