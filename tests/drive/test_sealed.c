/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sealed bitmaps whose bits are in the container only: read when they are needed, let go of when
 * they are not, and what happens when they cannot be read.
 */
#include "tests/drive/cold.h"
#include "tests/drive/faulty.h"

#include "daemon/container/container.h"
#include "daemon/drive/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB (UINT64_C(1) << 20)

static int setup(void **state)
{
    struct harness *harness = malloc(sizeof *harness);
    assert_non_null(harness);
    harness_init(harness);
    harness->settings.files = &faulty_files;
    harness_open(harness);
    harness_add_drive(harness, "d", MIB);
    cold_fill(harness);
    *state = harness;
    return 0;
}

static int teardown(void **state)
{
    faulty_reads_fail(0);
    harness_deinit(*state);
    free(*state);
    return 0;
}

static struct record delete_of(struct harness *harness, const char *name)
{
    const struct drive_bitmap *bitmap = past_find(harness, "d", name);
    return (struct record){
        .type = RECORD_CHECKPOINT_DELETE, .drive = bitmap->drive->id, .bitmap = bitmap->id};
}

static void ignore_done(struct model_fetch *fetch, int r, const struct error *error)
{
    (void)fetch;
    (void)r;
    (void)error;
    fail();
}

static void what_is_needed_is_fetched(void **state)
{
    struct harness *harness = *state;
    for (size_t i = 0; i < 3; i++) {
        assert_true(cold_is(harness, cold_names[i]));
    }
    assert_false(cold_is(harness, "c3"));
    uint64_t all = past_dirty_bytes(harness, "d", "c0", NULL);
    uint64_t some = past_dirty_bytes(harness, "d", "c0", "c3");
    /* A map keeps nothing. */
    assert_true(cold_is(harness, "c1"));
    assert_int_equal(harness->model->cache_bytes, 0);

    struct record record = delete_of(harness, "c2");
    struct past_image image;
    past_image_take(harness, &image);
    assert_int_equal(model_commit(harness->model, &record, &harness->error), -EAGAIN);
    past_image_check(harness, &image);
    past_image_free(&image);
    assert_int_equal(harness->model->needed_count, 2);
    struct model_fetch fetch = {.model = NULL};
    assert_int_equal(past_fetch(harness, &fetch), 0);
    assert_false(cold_is(harness, "c1"));
    assert_false(cold_is(harness, "c2"));
    assert_true(cold_is(harness, "c0"));
    assert_int_equal(harness_commit(harness, &record), 0);
    past_flush(harness);
    assert_false(cold_is(harness, "c1")); /* while the fetch is held */
    model_fetch_release(&fetch);
    assert_true(cold_is(harness, "c1"));
    assert_int_equal(harness->model->cache_bytes, 0);
    assert_int_equal(past_dirty_bytes(harness, "d", "c0", NULL), all);
    assert_int_equal(past_dirty_bytes(harness, "d", "c0", "c3"), some);
    past_restart(harness);
    assert_int_equal(past_dirty_bytes(harness, "d", "c0", NULL), all);
    assert_int_equal(past_dirty_bytes(harness, "d", "c0", "c3"), some);
}

static void what_is_counted_needs_no_reading(void **state)
{
    struct harness *harness = *state;
    uint64_t bytes[3], counts[3];
    for (size_t i = 0; i < 3; i++) {
        bytes[i] = drive_bitmap_dirty_bytes(past_find(harness, "d", cold_names[i]));
        counts[i] = drive_bitmap_dirty_count(past_find(harness, "d", cold_names[i]));
        assert_int_equal(past_dirty_bytes(harness, "d", cold_names[i], cold_names[i + 1]),
                         bytes[i]);
        assert_int_equal(counts[i] * 512, bytes[i]);
    }
    past_restart(harness);
    for (size_t i = 0; i < 3; i++) {
        assert_true(cold_is(harness, cold_names[i]));
        assert_int_equal(drive_bitmap_dirty_bytes(past_find(harness, "d", cold_names[i])),
                         bytes[i]);
        assert_int_equal(drive_bitmap_dirty_count(past_find(harness, "d", cold_names[i])),
                         counts[i]);
    }
}

static void the_cache_has_a_limit(void **state)
{
    struct harness *harness = *state;
    past_create(harness, "d", "c4");
    past_create(harness, "d", "c5");
    /* What the container has not stays whatever the limit. */
    assert_false(cold_is(harness, "c3"));
    assert_false(cold_is(harness, "c4"));
    harness->settings.cache_max = past_find(harness, "d", "c4")->cached_bytes;
    model_configure(harness->model, &harness->settings);
    past_flush(harness);
    assert_true(cold_is(harness, "c3"));
    assert_false(cold_is(harness, "c4"));
    assert_true(harness->model->cache_bytes <= harness->settings.cache_max);
}

static void a_fetch_that_is_let_go_of(void **state)
{
    struct harness *harness = *state;
    struct record record = delete_of(harness, "c1");

    assert_int_equal(model_commit(harness->model, &record, &harness->error), -EAGAIN);
    struct model_fetch fetch = {.done = ignore_done};
    assert_int_equal(model_fetch(harness->model, &fetch, &harness->error), 0);
    model_fetch_release(&fetch);
    model_fetch_release(&fetch);
    past_flush(harness); /* behind it on the same thread */
    assert_int_equal(harness->model->fetches, 0);
    assert_true(cold_is(harness, "c1"));
    /* Twice at once, with one let go of. */
    struct model_fetch other = {.done = ignore_done}, third = {.model = NULL};
    assert_int_equal(model_commit(harness->model, &record, &harness->error), -EAGAIN);
    assert_int_equal(model_fetch(harness->model, &other, &harness->error), 0);
    model_fetch_release(&other);
    assert_int_equal(past_fetch(harness, &third), 0);
    assert_int_equal(harness_commit(harness, &record), 0);
    model_fetch_release(&third);
    /* The end comes while one is under way. */
    record = delete_of(harness, "c2");
    assert_int_equal(model_commit(harness->model, &record, &harness->error), -EAGAIN);
    assert_int_equal(model_fetch(harness->model, &fetch, &harness->error), 0);
    model_fetch_release(&fetch);
    past_restart(harness);
    assert_non_null(past_find(harness, "d", "c2"));
}

struct slow {
    struct model_fetch fetch; /* first */
    int r;
    bool done;
};

static void slow_done(struct model_fetch *fetch, int r, const struct error *error)
{
    (void)error;
    ((struct slow *)fetch)->r = r;
    ((struct slow *)fetch)->done = true;
}

/* Between the request and the answer the checkpoint goes, or gets another size. */
static void what_is_fetched_changes_meanwhile(void **state)
{
    struct harness *harness = *state;
    struct record record = delete_of(harness, "c1");
    for (int resized = 0; resized < 2; resized++) {
        struct slow slow = {.fetch = {.done = slow_done}};
        assert_int_equal(model_commit(harness->model, &record, &harness->error), -EAGAIN);
        assert_int_equal(model_fetch(harness->model, &slow.fetch, &harness->error), 0);
        if (resized) {
            struct record resize = {
                .type = RECORD_DRIVE_RESIZE, .drive = record.drive, .size = MIB / 2};
            assert_int_equal(past_commit(harness, &resize), 0);
        } else {
            past_delete(harness, "d", "c0");
            past_create(harness, "d", "c0");
            past_delete(harness, "d", "c2");
        }
        while (!slow.done) {
            (void)uv_run(&harness->loop, UV_RUN_ONCE);
        }
        assert_int_equal(slow.r, 0);
        model_fetch_release(&slow.fetch);
        past_flush(harness);
        record = delete_of(harness, "c3");
    }
    assert_int_equal(past_validity(harness, "d", "c1"), VALIDITY_EXACT);
}

/* ---- Damage ---- */

static void damage(struct harness *harness, unsigned i)
{
    uint8_t pattern[COLD_PATTERN_BYTES];
    cold_pattern(i, pattern);
    faulty_damage(harness->container, pattern, sizeof pattern);
}

static void check_damaged(struct harness *harness, const char *name)
{
    const struct drive_bitmap *bitmap = past_find(harness, "d", name);
    assert_int_equal(bitmap->validity, VALIDITY_UNKNOWN);
    assert_non_null(strstr(bitmap->reason, "CRC32C"));
    assert_int_equal(past_validity(harness, "d", name), VALIDITY_UNKNOWN);
}

static void found(void *opaque, bool corruption, const char *text)
{
    (void)opaque;
    (void)corruption;
    print_message("%s\n", text);
}

/* In the container nothing is left of it. */
static void check_mended(struct harness *harness)
{
    struct container_check_report report;
    struct file *file;

    assert_int_equal(harness_close(harness), 0);
    assert_int_equal(file_system_posix.open(&file_system_posix, harness->container, FILE_READ,
                                            &file, &harness->error),
                     0);
    assert_int_equal(container_check(file, found, NULL, &report, &harness->error), 0);
    file_close(file);
    assert_int_equal(report.corruptions, 0);
    harness_open(harness);
}

static void a_damaged_one_is_unknown_to_a_map(void **state)
{
    struct harness *harness = *state;
    damage(harness, 1);
    assert_int_equal(past_find(harness, "d", "c1")->validity, VALIDITY_EXACT);
    uint64_t before = model_sequence(harness->model);
    struct model_union map;
    assert_int_equal(past_union(harness, "d", "c0", NULL, &map), 0);
    assert_int_equal(map.validity, VALIDITY_UNKNOWN);
    assert_non_null(strstr(map.reason, "CRC32C"));
    assert_int_equal(bitmap_dirty_bytes(map.bits), MIB);
    bitmap_free(map.bits);
    assert_int_equal(model_sequence(harness->model), before + 1);
    check_damaged(harness, "c1");
    assert_int_equal(past_validity(harness, "d", "c2"), VALIDITY_EXACT);
    assert_int_equal(past_find(harness, "d", "c0")->validity, VALIDITY_EXACT);
    assert_int_not_equal(past_dirty_bytes(harness, "d", "c0", "c1"), MIB);

    past_crash(harness); /* the verdict is in the journal */
    check_damaged(harness, "c1");
    past_flush(harness);
    assert_true(cold_is(harness, "c1"));
    check_mended(harness);
    check_damaged(harness, "c1");
    past_delete(harness, "d", "c2");
    check_damaged(harness, "c1");
    past_delete(harness, "d", "c1");
    assert_int_equal(past_find(harness, "d", "c0")->validity, VALIDITY_UNKNOWN);
    past_delete(harness, "d", "c0");
    assert_int_equal(past_validity(harness, "d", "c3"), VALIDITY_EXACT);
}

static void a_damaged_one_is_folded(void **state)
{
    struct harness *harness = *state;
    damage(harness, 2);
    past_delete(harness, "d", "c2");
    check_damaged(harness, "c1");
    assert_int_equal(past_validity(harness, "d", "c3"), VALIDITY_EXACT);
    past_flush(harness);
    check_mended(harness);
    check_damaged(harness, "c1");
}

static void a_damaged_elder_is_folded_into(void **state)
{
    struct harness *harness = *state;
    damage(harness, 1);
    past_delete(harness, "d", "c2");
    check_damaged(harness, "c1");
    check_mended(harness);
}

/* The journal has the deletion, and the container is damaged when it is replayed. */
static void a_damaged_one_is_replayed(void **state)
{
    struct harness *harness = *state;
    past_delete(harness, "d", "c2");
    harness_mark(harness, "d", MIB / 2, 512);
    past_crash_begin(harness);
    char path[256];
    uint8_t pattern[COLD_PATTERN_BYTES];
    (void)snprintf(path, sizeof path, "%s.crashed/bitmaps.qcow2", harness->directory);
    cold_pattern(1, pattern);
    faulty_damage(path, pattern, sizeof pattern);
    past_crash_end(harness);
    check_damaged(harness, "c1");
    assert_null(past_find(harness, "d", "c2"));
    assert_int_equal(past_find(harness, "d", "c0")->validity, VALIDITY_EXACT);
    assert_int_equal(past_validity(harness, "d", "c3"), VALIDITY_EXACT);
    assert_true(past_is_dirty(harness, "d", "c3", MIB / 2));
    check_mended(harness);
    check_damaged(harness, "c1");
}

static void a_damaged_one_is_deleted_as_the_eldest(void **state)
{
    struct harness *harness = *state;
    damage(harness, 0);
    past_delete(harness, "d", "c0");
    check_mended(harness);
    assert_int_equal(past_validity(harness, "d", "c1"), VALIDITY_EXACT);
}

/* ---- Errors ---- */

static void what_cannot_be_read_is_an_error_and_no_damage(void **state)
{
    struct harness *harness = *state;
    uint64_t all = past_dirty_bytes(harness, "d", "c0", NULL);
    struct model_union map;
    struct past_image image;

    past_image_take(harness, &image);
    for (int i = 0; i < 2; i++) {
        faulty_reads_fail(-EIO);
        assert_int_equal(past_union(harness, "d", "c0", NULL, &map), -EIO);
        assert_true(harness->error.text[0] != '\0');
        assert_int_equal(past_try_delete(harness, "d", "c2"), -EIO);
        struct record resize = {
            .type = RECORD_DRIVE_RESIZE, .drive = harness_drive(harness, "d")->id, .size = MIB / 2};
        assert_int_equal(past_commit(harness, &resize), -EIO);
        /* Where nothing has to be read, nothing fails. */
        assert_int_equal(past_validity(harness, "d", "c3"), VALIDITY_EXACT);
        faulty_reads_fail(0);
        past_image_check(harness, &image);
        assert_int_equal(past_dirty_bytes(harness, "d", "c0", NULL), all);
    }
    past_image_free(&image);
    /* Nor does the container take note of it. */
    harness_mark(harness, "d", MIB / 2, 512);
    past_flush(harness);
    past_restart(harness);
    assert_int_equal(past_validity(harness, "d", "c0"), VALIDITY_EXACT);
    assert_int_equal(past_dirty_bytes(harness, "d", "c0", NULL), all + 512);
    past_delete(harness, "d", "c2");
    assert_int_equal(past_dirty_bytes(harness, "d", "c0", NULL), all + 512);
}

/* What the replay needs of a sealed bitmap may be there another time. */
static void a_start_that_cannot_read(void **state)
{
    struct harness *harness = *state;
    uint8_t pattern[COLD_PATTERN_BYTES];
    past_delete(harness, "d", "c2");
    uint64_t all = past_dirty_bytes(harness, "d", "c0", NULL);
    past_crash_begin(harness);
    assert_int_equal(harness_close(harness), 0);
    past_crash_take(harness);
    cold_pattern(1, pattern);
    for (int i = 0; i < 2; i++) {
        faulty_reads_fail_of(-EIO, pattern, sizeof pattern);
        assert_int_equal(harness_try_open(harness, 0), -EIO);
        faulty_reads_fail(0);
    }
    harness_open(harness);
    assert_int_equal(past_validity(harness, "d", "c0"), VALIDITY_EXACT);
    assert_int_equal(past_dirty_bytes(harness, "d", "c0", NULL), all);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(what_is_needed_is_fetched),
        TEST(what_is_counted_needs_no_reading),
        TEST(the_cache_has_a_limit),
        TEST(a_fetch_that_is_let_go_of),
        TEST(what_is_fetched_changes_meanwhile),
        TEST(a_damaged_one_is_unknown_to_a_map),
        TEST(a_damaged_one_is_folded),
        TEST(a_damaged_elder_is_folded_into),
        TEST(a_damaged_one_is_replayed),
        TEST(a_damaged_one_is_deleted_as_the_eldest),
        TEST(what_cannot_be_read_is_an_error_and_no_damage),
        TEST(a_start_that_cannot_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
