/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Drives get other sizes and names while bits of theirs are in the container only; and how many
 * bits are in memory. */
#include "tests/drive/cold.h"

#include "daemon/drive/internal.h"

#include <stdio.h>
#include <stdlib.h>

#define MIB (UINT64_C(1) << 20)

static int setup(void **state)
{
    struct harness *harness = malloc(sizeof *harness);
    assert_non_null(harness);
    harness_init(harness);
    harness_open(harness);
    harness_add_drive(harness, "d", MIB);
    cold_fill(harness);
    *state = harness;
    return 0;
}

static int teardown(void **state)
{
    harness_deinit(*state);
    free(*state);
    return 0;
}

static int resize_to(struct harness *harness, uint64_t size)
{
    struct record record = {
        .type = RECORD_DRIVE_RESIZE, .drive = harness_drive(harness, "d")->id, .size = size};
    return past_commit(harness, &record);
}

static void check_size(struct harness *harness, uint64_t from, uint64_t size)
{
    struct model_union map;
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(
            past_union(harness, "d", cold_names[i], i < 3 ? cold_names[i + 1] : NULL, &map), 0);
        assert_int_equal(map.validity, VALIDITY_EXACT);
        assert_int_equal(map.size, size);
        uint8_t pattern[COLD_PATTERN_BYTES];
        cold_pattern((unsigned)i, pattern);
        for (unsigned bit = 0; bit < COLD_PATTERN_BYTES * 8; bit++) {
            assert_int_equal(bitmap_test_all(map.bits, bit * 512, 1),
                             pattern[bit / 8] >> bit % 8 & 1u);
        }
        assert_int_equal(bitmap_count_range(map.bits, COLD_PATTERN_BYTES * 8 * 512,
                                            from - COLD_PATTERN_BYTES * 8 * 512),
                         0);
        if (size > from) {
            assert_true(bitmap_test_all(map.bits, from, size - from));
        }
        bitmap_free(map.bits);
    }
}

static void sizes_change_with_cold_ones(void **state)
{
    struct harness *harness = *state;
    /* Nothing of the end comes back, but as what is new. */
    assert_int_equal(resize_to(harness, 300 * 1024), 0);
    check_size(harness, 300 * 1024, 300 * 1024);
    past_crash(harness);
    check_size(harness, 300 * 1024, 300 * 1024);
    past_flush(harness);
    assert_true(cold_is(harness, "c2"));
    check_size(harness, 300 * 1024, 300 * 1024);
    assert_int_equal(resize_to(harness, 4 * MIB), 0);
    check_size(harness, 300 * 1024, 4 * MIB);
    for (int i = 0; i < 3; i++) {
        if (i == 0) {
            past_crash(harness);
        } else {
            past_restart(harness);
        }
        check_size(harness, 300 * 1024, 4 * MIB);
    }
    /* Both ways between two commits. */
    assert_int_equal(resize_to(harness, 200 * 1024), 0);
    assert_int_equal(resize_to(harness, 2 * MIB), 0);
    past_crash(harness);
    check_size(harness, 200 * 1024, 2 * MIB);
    assert_int_equal(resize_to(harness, 150 * 1024), 0);
    assert_int_equal(resize_to(harness, 9 * MIB + 1), 0);
    past_flush(harness);
    assert_true(cold_is(harness, "c1"));
    check_size(harness, 150 * 1024, 9 * MIB + 1);
    past_restart(harness);
    check_size(harness, 150 * 1024, 9 * MIB + 1);
}

static void a_drive_is_renamed_with_cold_ones(void **state)
{
    struct harness *harness = *state;
    uint64_t all = past_dirty_bytes(harness, "d", "c0", NULL);
    struct record rename = {.type = RECORD_DRIVE_RENAME,
                            .drive = harness_drive(harness, "d")->id,
                            .name = text_of("vg0/other")};
    assert_int_equal(harness_commit(harness, &rename), 0);
    assert_null(past_find(harness, "vg0/other", "c0")->bits);
    assert_int_equal(past_dirty_bytes(harness, "vg0/other", "c0", NULL), all);
    past_crash(harness);
    assert_int_equal(past_dirty_bytes(harness, "vg0/other", "c0", NULL), all);
    past_flush(harness);
    for (int i = 0; i < 2; i++) {
        assert_null(past_find(harness, "vg0/other", "c0")->bits);
        assert_int_equal(past_validity(harness, "vg0/other", "c0"), VALIDITY_EXACT);
        assert_int_equal(past_dirty_bytes(harness, "vg0/other", "c0", NULL), all);
        past_restart(harness);
    }
    /* Two drives that exchange their names. */
    harness_add_drive(harness, "d", MIB);
    past_create(harness, "d", "c0");
    past_create(harness, "d", "c1");
    past_flush(harness);
    struct record away = {.type = RECORD_DRIVE_RENAME,
                          .drive = harness_drive(harness, "d")->id,
                          .name = text_of("aside")};
    assert_int_equal(harness_commit(harness, &away), 0);
    rename.name = text_of("d");
    assert_int_equal(harness_commit(harness, &rename), 0);
    away.name = text_of("vg0/other");
    assert_int_equal(harness_commit(harness, &away), 0);
    past_flush(harness);
    past_restart(harness);
    assert_int_equal(past_dirty_bytes(harness, "d", "c0", NULL), all);
    assert_int_equal(past_dirty_bytes(harness, "vg0/other", "c0", NULL), 0);
}

/* ---- How much memory ---- */

static void create_now(struct harness *harness, uint64_t drive, const char *name)
{
    struct record record = {
        .type = RECORD_CHECKPOINT_CREATE, .drive = drive, .name = text_of(name)};
    if (model_commit(harness->model, &record, &harness->error) < 0) {
        fail_msg("checkpoint create: %s", harness->error.text);
    }
}

static void a_thousand_drives_with_seven_each(void **state)
{
    struct harness *harness = *state;
    enum {
        DRIVES = 1000,
        CHECKPOINTS = 7
    };
    static uint64_t drives[DRIVES];
    char name[16];

    harness->settings.drives_max = DRIVES + 1;
    harness->settings.bitmaps_max = (DRIVES + 1) * CHECKPOINTS;
    model_configure(harness->model, &harness->settings);
    for (unsigned i = 0; i < DRIVES; i++) {
        (void)snprintf(name, sizeof name, "vm%u", i);
        struct record add = {.type = RECORD_DRIVE_ADD,
                             .name = text_of(name),
                             .size = MIB,
                             .granularity = 512,
                             .durability = DURABILITY_POWER_LOSS};
        assert_int_equal(model_commit(harness->model, &add, &harness->error), 0);
        drives[i] = add.drive;
    }
    for (unsigned k = 0; k < CHECKPOINTS; k++) {
        (void)snprintf(name, sizeof name, "c%u", k);
        for (unsigned i = 0; i < DRIVES; i++) {
            create_now(harness, drives[i], name);
            struct range range = {i * 512, 512};
            uint64_t sequence;
            assert_int_equal(drive_mark(harness->model,
                                        model_drive_by_id(harness->model, drives[i]), &range, 1,
                                        &sequence, &harness->error),
                             0);
        }
    }
    past_flush(harness);
    for (int i = 0; i < 2; i++) {
        struct drive_bitmap *bitmap;
        unsigned sealed = 0;
        RB_FOREACH (bitmap, bitmaps_by_id, &harness->model->bitmaps) {
            if (drive_bitmap_is_sealed(bitmap)) {
                assert_null(bitmap->bits);
                sealed++;
            }
        }
        assert_int_equal(sealed, DRIVES * (CHECKPOINTS - 1) + 3);
        assert_int_equal(harness->model->cache_bytes, 0);
        assert_true(TAILQ_EMPTY(&harness->model->cache));
        assert_int_equal(past_dirty_bytes(harness, "vm999", "c0", NULL), 512);
        past_restart(harness);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(sizes_change_with_cold_ones),
        TEST(a_drive_is_renamed_with_cold_ones),
        TEST(a_thousand_drives_with_seven_each),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
