/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The rules of drives, bitmaps and writers, one at a time. */
#include "tests/drive/harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define KIB UINT64_C(1024)
#define MIB (UINT64_C(1) << 20)

static int setup(void **state)
{
    struct harness *harness = malloc(sizeof *harness);
    assert_non_null(harness);
    harness_init(harness);
    harness_open(harness);
    harness_add_drive(harness, "d", MIB);
    *state = harness;
    return 0;
}

static int teardown(void **state)
{
    harness_deinit(*state);
    free(*state);
    return 0;
}

static int bad_drive(struct harness *harness, const char *name, uint64_t size)
{
    struct record record = {.type = RECORD_DRIVE_ADD,
                            .name = text_of(name),
                            .size = size,
                            .granularity = 512,
                            .durability = DURABILITY_POWER_LOSS};
    return model_commit(harness->model, &record, &harness->error);
}

static void drives_are_checked(void **state)
{
    struct harness *harness = *state;
    uint64_t before = model_sequence(harness->model);

    assert_int_equal(bad_drive(harness, "d", 1), -EEXIST);
    assert_int_equal(bad_drive(harness, "", 1), -EINVAL);
    assert_int_equal(bad_drive(harness, "a b", 1), -EINVAL);
    assert_int_equal(bad_drive(harness, "a@b", 1), -EINVAL);
    assert_int_equal(bad_drive(harness, "a//b", 1), -EINVAL);
    assert_int_equal(bad_drive(harness, "-a", 1), -EINVAL);
    assert_int_equal(bad_drive(harness, "e", 0), -EINVAL);
    assert_int_equal(bad_drive(harness, "e", UINT64_MAX), -EINVAL);
    /* What is refused changes nothing, not even the sequence. */
    assert_int_equal(model_sequence(harness->model), before);
    assert_int_equal(bad_drive(harness, "e", 1), 0);
    harness->settings.drives_max = 2;
    model_configure(harness->model, &harness->settings);
    assert_int_equal(bad_drive(harness, "f", 1), -EDQUOT);
}

static void a_drive_is_removed_last(void **state)
{
    struct harness *harness = *state;
    harness_add_bitmap(harness, "d/a", 512, false);
    struct record remove = {.type = RECORD_DRIVE_REMOVE, .drive = harness_drive(harness, "d")->id};

    assert_int_equal(model_commit(harness->model, &remove, &harness->error), -EBUSY);
    struct writer *writer;
    uint64_t sequence;
    bool resuming;
    assert_int_equal(writer_attach(harness->model, harness_drive(harness, "d"),
                                   &(struct writer_attachment){.token = text_of("w")}, &writer,
                                   &sequence, &resuming, &harness->error),
                     0);
    remove.force = true;
    assert_int_equal(model_commit(harness->model, &remove, &harness->error), -EBUSY);
    assert_int_equal(
        writer_detach(harness->model, writer, NULL, text_of(""), &sequence, &harness->error), 0);
    assert_int_equal(harness_commit(harness, &remove), 0);
    assert_null(model_drive_by_name(harness->model, text_of("d"), NULL));

    /* The name is free; the id is not. */
    assert_true(harness_add_drive(harness, "d", MIB) > remove.drive);
    harness_add_bitmap(harness, "d/a", 512, false);
    assert_int_equal(drive_bitmap_dirty_bytes(harness_bitmap(harness, "d/a")), 0);
    assert_int_equal(harness_close(harness), 0);
    harness_open(harness);
    assert_int_equal(drive_bitmap_dirty_bytes(harness_bitmap(harness, "d/a")), 0);
}

static void ranges_are_checked(void **state)
{
    struct harness *harness = *state;
    harness_add_bitmap(harness, "d/a", 4096, false);
    struct drive *drive = harness_drive(harness, "d");
    static const struct range bad[][2] = {
        {{0, 1}, {MIB, 1}},        {{0, 1}, {0, 0}},          {{0, 1}, {MIB - 1, 2}},
        {{0, 1}, {UINT64_MAX, 1}}, {{0, 1}, {1, UINT64_MAX}}, {{0, 1}, {UINT64_MAX, UINT64_MAX}},
        {{0, MIB + 1}, {0, 1}},
    };
    uint64_t sequence;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        int r = drive_mark(harness->model, drive, bad[i], 2, &sequence, &harness->error);
        assert_true(r == -EINVAL || r == -ERANGE);
    }
    /* One wrong range refuses all. */
    assert_int_equal(drive_bitmap_dirty_bytes(harness_bitmap(harness, "d/a")), 0);
    assert_int_equal(drive_mark(harness->model, drive, bad[0], 0, &sequence, &harness->error),
                     -EINVAL);
    /* A clear takes only granules that it covers whole. */
    harness_mark(harness, "d", 0, MIB);
    assert_int_equal(harness_clear(harness, "d/a", 1, 8191), 0);
    assert_true(harness_is_dirty(harness, "d/a", 0));
    assert_false(harness_is_dirty(harness, "d/a", 4096));
    assert_true(harness_is_dirty(harness, "d/a", 8192));
}

static void disabled_bitmaps_note_a_gap(void **state)
{
    struct harness *harness = *state;
    harness_add_bitmap(harness, "d/a", 512, false);
    harness_mark(harness, "d", 0, 512);

    /* Nothing is written while it is off: nothing is missed. */
    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_DISABLE, "d/a"), 0);
    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_ENABLE, "d/a"), 0);
    assert_int_equal(harness_bitmap(harness, "d/a")->validity, VALIDITY_EXACT);

    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_DISABLE, "d/a"), 0);
    harness_mark(harness, "d", 4096, 512);
    struct drive_bitmap *a = harness_bitmap(harness, "d/a");
    assert_true(a->gap);
    assert_int_equal(a->validity, VALIDITY_EXACT); /* for its time */
    assert_false(harness_is_dirty(harness, "d/a", 4096));
    /* The gap is durable. */
    assert_int_equal(harness_close(harness), 0);
    harness_open(harness);
    a = harness_bitmap(harness, "d/a");
    assert_true(a->gap);
    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_ENABLE, "d/a"), 0);
    assert_int_equal(a->validity, VALIDITY_UNKNOWN);
    assert_true(harness_is_dirty(harness, "d/a", MIB - 1));
    /* Clearing part of it restarts nothing. */
    assert_int_equal(harness_clear(harness, "d/a", 0, MIB), 0);
    assert_int_equal(a->validity, VALIDITY_UNKNOWN);
    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_CLEAR_ALL, "d/a"), 0);
    assert_int_equal(a->validity, VALIDITY_EXACT);
    assert_int_equal(drive_bitmap_dirty_bytes(a), 0);
    assert_string_equal(a->reason, "");
}

static void merges_take_the_worst_validity(void **state)
{
    struct harness *harness = *state;
    harness_add_bitmap(harness, "d/a", 512, false);
    harness_add_bitmap(harness, "d/coarse", 65536, false);
    harness_mark(harness, "d", 512, 512);
    harness_add_bitmap(harness, "d/t", 4096, true);
    harness_add_drive(harness, "other", MIB);
    harness_add_bitmap(harness, "other/x", 512, false);

    uint64_t sources[2] = {harness_bitmap(harness, "d/a")->id,
                           harness_bitmap(harness, "other/x")->id};
    struct drive_bitmap *target = harness_bitmap(harness, "d/t");
    struct record merge = {.type = RECORD_BITMAP_MERGE,
                           .drive = target->drive->id,
                           .bitmap = target->id,
                           .sources = sources,
                           .sources_count = 2};
    assert_int_equal(model_commit(harness->model, &merge, &harness->error), -EINVAL);
    assert_int_equal(drive_bitmap_dirty_bytes(target), 0); /* untouched */
    /* Each source costs a pass: there are no more than the drive has bitmaps. */
    uint64_t many[4] = {sources[0], sources[0], sources[0], sources[0]};
    merge.sources = many;
    merge.sources_count = 4;
    assert_int_equal(model_commit(harness->model, &merge, &harness->error), -EINVAL);
    merge.sources = sources;
    merge.sources_count = 1;
    assert_int_equal(harness_commit(harness, &merge), 0);
    assert_int_equal(drive_bitmap_dirty_bytes(target), 4096);
    assert_int_equal(target->validity, VALIDITY_EXACT);

    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_DISABLE, "d/coarse"), 0);
    harness_mark(harness, "d", 0, 512);
    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_ENABLE, "d/coarse"), 0);
    sources[0] = harness_bitmap(harness, "d/coarse")->id;
    assert_int_equal(harness_commit(harness, &merge), 0);
    assert_int_equal(target->validity, VALIDITY_UNKNOWN);
    assert_non_null(strstr(target->reason, "coarse"));
}

static void names_can_be_exchanged(void **state)
{
    struct harness *harness = *state;
    uint64_t a = harness_add_bitmap(harness, "d/a", 512, false);
    harness_mark(harness, "d", 0, 512);
    uint64_t b = harness_add_bitmap(harness, "d/b", 512, false);
    assert_int_equal(harness_wait(harness, model_sequence(harness->model), ACK_CONTAINER), 0);

    static const char *const steps[][2] = {{"d/a", "tmp"}, {"d/b", "a"}, {"d/tmp", "b"}};
    struct record rename = {.type = RECORD_BITMAP_RENAME};
    for (size_t i = 0; i < 3; i++) {
        struct drive_bitmap *bitmap = harness_bitmap(harness, steps[i][0]);
        rename.drive = bitmap->drive->id;
        rename.bitmap = bitmap->id;
        rename.name = text_of(steps[i][1]);
        assert_int_equal(model_commit(harness->model, &rename, &harness->error), 0);
    }
    /* All three in one write-back. */
    assert_int_equal(harness_wait(harness, rename.sequence, ACK_DURABLE), 0);
    assert_int_equal(harness_close(harness), 0);
    harness_open(harness);
    assert_int_equal(harness_bitmap(harness, "d/b")->id, a);
    assert_int_equal(harness_bitmap(harness, "d/a")->id, b);
    assert_true(harness_is_dirty(harness, "d/b", 0));
    assert_false(harness_is_dirty(harness, "d/a", 0));
}

static void resize(struct harness *harness, uint64_t size)
{
    struct record record = {
        .type = RECORD_DRIVE_RESIZE, .drive = harness_drive(harness, "d")->id, .size = size};
    if (harness_commit(harness, &record) < 0) {
        fail_msg("resize: %s", harness->error.text);
    }
}

static void grown_parts_are_dirty(void **state)
{
    struct harness *harness = *state;
    harness_add_bitmap(harness, "d/a", 512, false);
    harness_mark(harness, "d", MIB - 512, 512);
    resize(harness, MIB / 2);
    assert_int_equal(drive_bitmap_dirty_bytes(harness_bitmap(harness, "d/a")), 0);
    resize(harness, 4 * MIB + 100);
    assert_int_equal(harness_close(harness), 0);
    harness_open(harness);
    assert_false(harness_is_dirty(harness, "d/a", MIB / 2 - 1));
    assert_true(harness_is_dirty(harness, "d/a", MIB / 2));
    assert_true(harness_is_dirty(harness, "d/a", 4 * MIB + 99));
    assert_int_equal(drive_bitmap_dirty_bytes(harness_bitmap(harness, "d/a")),
                     4 * MIB + 100 - MIB / 2);
}

/* ---- Requests, records, faults ---- */

static void repeats_are_known_across_restarts(void **state)
{
    struct harness *harness = *state;
    struct record record = {.type = RECORD_BITMAP_CREATE,
                            .drive = harness_drive(harness, "d")->id,
                            .name = text_of("a"),
                            .request = {.bytes = {1, 2, 3}}};
    assert_int_equal(harness_commit(harness, &record), 0);
    assert_int_equal(harness_close(harness), 0);
    harness_open(harness);
    const struct request_result *result = model_request_find(harness->model, &record.request);
    assert_non_null(result);
    assert_int_equal(result->type, RECORD_BITMAP_CREATE);
    assert_int_equal(result->object, record.bitmap);
    assert_int_equal(result->sequence, record.sequence);

    /* The oldest are forgotten beyond the limit. */
    struct record set = {.type = RECORD_DRIVE_SET, .drive = harness_drive(harness, "d")->id};
    for (uint32_t i = 0; i < MODEL_REQUESTS_MAX; i++) {
        memcpy(set.request.bytes + 8, &i, sizeof i);
        set.request.bytes[0] = 9;
        assert_int_equal(model_commit(harness->model, &set, &harness->error), 0);
    }
    assert_null(model_request_find(harness->model, &record.request));
    assert_non_null(model_request_find(harness->model, &set.request));
}

static void what_is_dirty_already_is_no_record(void **state)
{
    struct harness *harness = *state;
    harness_add_bitmap(harness, "d/a", 65536, false);
    harness_mark(harness, "d", 0, 512);
    uint64_t sequence = model_sequence(harness->model);
    harness_mark(harness, "d", 4096, 512);
    assert_int_equal(model_sequence(harness->model), sequence);
    harness_add_bitmap(harness, "d/b", 65536, false);
    sequence = model_sequence(harness->model);
    harness_mark(harness, "d", 4096, 512); /* clean in b */
    assert_int_equal(model_sequence(harness->model), sequence + 1);
}

static void a_full_container_degrades_and_recovers(void **state)
{
    struct harness *harness = *state;
    assert_int_equal(harness_close(harness), 0);
    struct stat st;
    assert_int_equal(stat(harness->container, &st), 0);
    harness->settings.container_bytes_max = (uint64_t)st.st_size + 16384;
    harness_open(harness);
    harness_add_bitmap(harness, "d/a", 512, false);

    struct record grow = {
        .type = RECORD_DRIVE_RESIZE, .drive = harness_drive(harness, "d")->id, .size = 1024 * MIB};
    assert_int_equal(model_commit(harness->model, &grow, &harness->error), 0);
    /* The journal has it, so it is durable; the container has not. */
    assert_int_equal(harness_wait(harness, grow.sequence, ACK_DURABLE), 0);
    assert_int_equal(harness_wait(harness, grow.sequence, ACK_CONTAINER), -EINPROGRESS);
    assert_string_not_equal(model_degraded_reason(harness->model), "");
    /* Marks go on, answers are right. */
    harness_mark(harness, "d", 0, 512);
    assert_true(harness_is_dirty(harness, "d/a", 0));
    assert_true(harness_is_dirty(harness, "d/a", 1000 * MIB));

    /* There is room again. */
    struct record shrink = {
        .type = RECORD_DRIVE_RESIZE, .drive = harness_drive(harness, "d")->id, .size = 2 * MIB};
    assert_int_equal(harness_commit(harness, &shrink), 0);
    assert_int_equal(harness_wait(harness, shrink.sequence, ACK_CONTAINER), 0);
    assert_string_equal(model_degraded_reason(harness->model), "");
    assert_int_equal(harness_close(harness), 0);
    harness_open(harness);
    assert_true(harness_is_dirty(harness, "d/a", 0));
    assert_false(harness_is_dirty(harness, "d/a", 512));
}

static void status_tells_what_is_not_written_back(void **state)
{
    struct harness *harness = *state;
    struct model_status status;
    harness_add_bitmap(harness, "d/a", 512, false);
    harness_mark(harness, "d", 0, 512);
    model_get_status(harness->model, &status);
    assert_int_equal(status.dirty_memory_bytes, 256);
    assert_true(status.memory_bytes >= 256);
    /* The sums may lag a little. */
    assert_int_equal(harness_wait(harness, model_sequence(harness->model), ACK_CONTAINER), 0);
    for (int i = 0; i < 100 && status.dirty_memory_bytes; i++) {
        (void)usleep(50000);
        model_get_status(harness->model, &status);
    }
    assert_int_equal(status.dirty_memory_bytes, 0);
    assert_int_equal(status.applied_seq, status.sequence);
}

static void limits_hold(void **state)
{
    struct harness *harness = *state;
    harness->settings.bitmaps_max = 2;
    harness->settings.memory_max = 300;
    model_configure(harness->model, &harness->settings);
    harness_add_bitmap(harness, "d/a", 512, false); /* 2048 granules, 256 bytes */
    struct record create = {.type = RECORD_BITMAP_CREATE,
                            .drive = harness_drive(harness, "d")->id,
                            .name = text_of("b")};
    assert_int_equal(model_commit(harness->model, &create, &harness->error), -EDQUOT);
    assert_non_null(strstr(harness->error.text, "limits.memory"));
    create.granularity = 65536;
    assert_int_equal(harness_commit(harness, &create), 0);
    create.name = text_of("c");
    assert_int_equal(model_commit(harness->model, &create, &harness->error), -EDQUOT);
    assert_non_null(strstr(harness->error.text, "limits.bitmaps"));
    create.granularity = 1000;
    assert_int_equal(model_commit(harness->model, &create, &harness->error), -EINVAL);
}

int main(void)
{
#define RULE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        RULE(drives_are_checked),
        RULE(a_drive_is_removed_last),
        RULE(ranges_are_checked),
        RULE(disabled_bitmaps_note_a_gap),
        RULE(merges_take_the_worst_validity),
        RULE(names_can_be_exchanged),
        RULE(grown_parts_are_dirty),
        RULE(repeats_are_known_across_restarts),
        RULE(what_is_dirty_already_is_no_record),
        RULE(a_full_container_degrades_and_recovers),
        RULE(status_tells_what_is_not_written_back),
        RULE(limits_hold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
