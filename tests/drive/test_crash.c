/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a crash leaves: with the journal everything that was acknowledged, without it a verdict. */
#include "tests/drive/harness.h"

#include "daemon/container/container.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

static void crash_loses_nothing_acknowledged(void **state)
{
    (void)state;
    struct harness harness;
    harness_init(&harness);
    harness_crash_after(&harness, harness_fill);
    for (int i = 0; i < 3; i++) {
        harness_open(&harness);
        harness_check_filled(&harness);
        assert_int_equal(harness_bitmap(&harness, "vm1/a")->validity, VALIDITY_EXACT);
        assert_true(harness_bitmap(&harness, "vm1/off")->gap); /* it was marked meanwhile */
        assert_int_equal(harness_bitmap(&harness, "vm1/off")->validity, VALIDITY_EXACT);
        assert_int_equal(harness_close(&harness), 0);
    }
    harness_deinit(&harness);
}

static void mark_more(struct harness *harness)
{
    uint64_t offset = 0;
    while (harness_is_dirty(harness, "vm1/a", offset)) {
        offset += 1024;
    }
    harness_mark(harness, "vm1", offset, 1);
}

static void crash_after_crash(void **state)
{
    (void)state;
    struct harness harness;
    harness_init(&harness);
    harness_crash_after(&harness, harness_fill);
    for (int i = 0; i < 10; i++) {
        harness_crash_after(&harness, mark_more);
    }
    harness_open(&harness);
    for (uint64_t i = 0; i <= 10; i++) {
        assert_true(harness_is_dirty(&harness, "vm1/a", i * 1024));
    }
    assert_false(harness_is_dirty(&harness, "vm1/a", 11 * 1024));
    assert_int_equal(harness_bitmap(&harness, "vm1/a")->validity, VALIDITY_EXACT);
    harness_deinit(&harness);
}

/* One of each kind of record. */
static void change_everything(struct harness *harness)
{
    harness_fill(harness);
    struct drive *drive = harness_drive(harness, "vm1");
    struct record rename = {
        .type = RECORD_DRIVE_RENAME, .drive = drive->id, .name = text_of("vm2")};
    assert_int_equal(harness_commit(harness, &rename), 0);
    struct record set = {.type = RECORD_DRIVE_SET,
                         .drive = drive->id,
                         .granularity = 4096,
                         .durability = DURABILITY_PROCESS_CRASH};
    assert_int_equal(harness_commit(harness, &set), 0);
    struct record resize = {.type = RECORD_DRIVE_RESIZE, .drive = drive->id, .size = 9 * MIB};
    assert_int_equal(harness_commit(harness, &resize), 0);
    harness_add_bitmap(harness, "vm2/gone", 512, false);
    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_DELETE, "vm2/gone"), 0);
    harness_add_bitmap(harness, "vm2/c", 512, false);
    struct drive_bitmap *c = harness_bitmap(harness, "vm2/c");
    struct record name = {.type = RECORD_BITMAP_RENAME,
                          .drive = drive->id,
                          .bitmap = c->id,
                          .name = text_of("d"),
                          .request = {.bytes = {7}}};
    assert_int_equal(harness_commit(harness, &name), 0);
    uint64_t source = harness_bitmap(harness, "vm2/a")->id;
    struct record merge = {.type = RECORD_BITMAP_MERGE,
                           .drive = drive->id,
                           .bitmap = c->id,
                           .sources = &source,
                           .sources_count = 1};
    assert_int_equal(harness_commit(harness, &merge), 0);
    assert_int_equal(harness_clear(harness, "vm2/d", 4 * MIB, MIB / 2), 0);
    struct range range = {6 * MIB + 1024, 1};
    struct record bits = {.type = RECORD_BITMAP_SET,
                          .drive = drive->id,
                          .bitmap = source,
                          .ranges = &range,
                          .ranges_count = 1};
    assert_int_equal(harness_commit(harness, &bits), 0);
    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_DISABLE, "vm2/d"), 0);
    harness_mark(harness, "vm2", 6 * MIB, 1);
    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_CLEAR_ALL, "vm2/d"), 0);
    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_ENABLE, "vm2/d"), 0);
    harness_mark(harness, "vm2", 7 * MIB, 1);
    struct record remove = {
        .type = RECORD_DRIVE_REMOVE, .drive = harness_drive(harness, "vg0/lv1")->id, .force = true};
    assert_int_equal(harness_commit(harness, &remove), 0);
}

static void every_kind_of_record_is_replayed(void **state)
{
    (void)state;
    struct harness harness;
    harness_init(&harness);
    harness_crash_after(&harness, change_everything);
    harness_open(&harness);
    struct drive *drive = harness_drive(&harness, "vm2");
    assert_int_equal(drive->size, 9 * MIB);
    assert_int_equal(drive->granularity, 4096);
    assert_int_equal(drive->durability, DURABILITY_PROCESS_CRASH);
    assert_int_equal(drive->bitmaps_count, 3);
    assert_null(model_drive_by_name(harness.model, text_of("vm1"), NULL));
    assert_null(model_drive_by_name(harness.model, text_of("vg0/lv1"), NULL));
    assert_null(model_bitmap_by_name(harness.model, text_of("vm2/gone"), NULL));
    assert_true(harness_is_dirty(&harness, "vm2/a", 0));
    assert_true(harness_is_dirty(&harness, "vm2/a", 4 * MIB));
    assert_true(harness_is_dirty(&harness, "vm2/a", 6 * MIB));
    assert_true(harness_is_dirty(&harness, "vm2/a", 6 * MIB + 1024));
    assert_false(harness_is_dirty(&harness, "vm2/a", 6 * MIB + 2048));
    assert_true(harness_is_dirty(&harness, "vm2/a", 9 * MIB - 1)); /* grown */
    assert_int_equal(drive_bitmap_dirty_bytes(harness_bitmap(&harness, "vm2/d")), 512);
    assert_true(harness_is_dirty(&harness, "vm2/d", 7 * MIB));
    assert_int_equal(harness_bitmap(&harness, "vm2/d")->validity, VALIDITY_EXACT);
    struct request_id request = {.bytes = {7}};
    assert_non_null(model_request_find(harness.model, &request));
    harness_deinit(&harness);
}

static void mark_unsettled(struct harness *harness, struct writer *writer, uint64_t offset)
{
    struct range range = {offset, 512};
    uint64_t sequence;
    assert_int_equal(writer_mark(harness->model, writer, 1, &range, 1, &sequence, &harness->error),
                     0);
    assert_int_equal(harness_wait(harness, model_sequence(harness->model), ACK_DURABLE), 0);
}

static void attach_and_mark(struct harness *harness)
{
    harness_fill(harness);
    struct writer *writer;
    uint64_t sequence;
    bool resuming;
    assert_int_equal(writer_attach(harness->model, harness_drive(harness, "vm1"),
                                   &(struct writer_attachment){.token = text_of("w")}, &writer,
                                   &sequence, &resuming, &harness->error),
                     0);
    mark_unsettled(harness, writer, 2 * MIB);
}

static void mark_anonymously(struct harness *harness)
{
    harness_fill(harness);
    struct writer *writer;
    assert_int_equal(
        writer_new(harness->model, harness_drive(harness, "vm1"), &writer, &harness->error), 0);
    mark_unsettled(harness, writer, 4 * MIB); /* dirty already: no record of its own */
}

static void crash_leaves_writers_unaccounted(void **state)
{
    (void)state;
    static void (*const bodies[])(struct harness * harness) = {attach_and_mark, mark_anonymously};
    static const uint64_t unsettled[] = {2 * MIB, 4 * MIB};

    for (size_t i = 0; i < 2; i++) {
        struct harness harness;
        harness_init(&harness);
        harness_crash_after(&harness, bodies[i]);
        harness_open(&harness);
        struct drive_bitmap *a = harness_bitmap(&harness, "vm1/a");
        assert_int_equal(a->validity, VALIDITY_EXACT);
        assert_true(harness_is_dirty(&harness, "vm1/a", unsettled[i]));
        /* The unsettled write may still come: nothing starts without it. */
        assert_int_equal(harness_bitmap_do(&harness, RECORD_BITMAP_CLEAR_ALL, "vm1/a"), 0);
        assert_true(harness_is_dirty(&harness, "vm1/a", unsettled[i]));
        assert_int_equal(a->validity, VALIDITY_SUPERSET);
        struct record fence = {.type = RECORD_FENCE, .drive = harness_drive(&harness, "vm1")->id};
        assert_int_equal(harness_commit(&harness, &fence), 0);
        assert_int_equal(harness_bitmap_do(&harness, RECORD_BITMAP_CLEAR_ALL, "vm1/a"), 0);
        assert_int_equal(a->validity, VALIDITY_EXACT);
        assert_int_equal(drive_bitmap_dirty_bytes(a), 0);
        harness_deinit(&harness);
    }
}

/* Writers come and go in every way, and then their drive. */
static void writers_and_their_drive_go(struct harness *harness)
{
    harness_fill(harness);
    for (int round = 0; round < 100; round++) {
        struct drive *drive = harness_drive(harness, "vm1");
        struct writer *one, *two, *three;
        uint64_t sequence;
        bool resuming;
        assert_int_equal(writer_new(harness->model, drive, &one, &harness->error), 0);
        assert_int_equal(writer_new(harness->model, drive, &two, &harness->error), 0);
        assert_int_equal(writer_attach(harness->model, drive,
                                       &(struct writer_attachment){.token = text_of("w")}, &three,
                                       &sequence, &resuming, &harness->error),
                         0);
        mark_unsettled(harness, one, 2 * MIB);
        mark_unsettled(harness, two, 2 * MIB);
        mark_unsettled(harness, three, 2 * MIB);
        writer_lost(harness->model, one);
        writer_lost(harness->model, two); /* one heap with the other */
        struct record fence = {
            .type = RECORD_FENCE, .drive = drive->id, .name = text_of(round % 2 ? "w" : "")};
        assert_int_equal(model_commit(harness->model, &fence, &harness->error), 0);
        writer_lost(harness->model, three);
        fence.name = text_of("");
        assert_int_equal(model_commit(harness->model, &fence, &harness->error), 0);
    }
    struct record remove = {
        .type = RECORD_DRIVE_REMOVE, .drive = harness_drive(harness, "vm1")->id, .force = true};
    assert_int_equal(harness_commit(harness, &remove), 0);
    harness_mark(harness, "vg0/lv1", 0, 1);
}

static void writers_are_replayed_whatever_they_did(void **state)
{
    (void)state;
    struct harness harness;
    harness_init(&harness);
    harness_crash_after(&harness, writers_and_their_drive_go);
    for (int i = 0; i < 2; i++) {
        harness_open(&harness);
        assert_null(model_drive_by_name(harness.model, text_of("vm1"), NULL));
        assert_int_equal(harness_bitmap(&harness, "vg0/lv1/b")->validity, VALIDITY_EXACT);
        assert_true(harness_is_dirty(&harness, "vg0/lv1/b", 0));
        assert_int_equal(harness_close(&harness), 0);
    }
    harness_deinit(&harness);
}

static void fill_and_disable(struct harness *harness)
{
    harness_fill(harness);
    harness_add_bitmap(harness, "vg0/lv1/off", 512, true);
    assert_int_equal(harness_wait(harness, model_sequence(harness->model), ACK_CONTAINER), 0);
}

static void a_lost_journal_is_a_verdict(void **state)
{
    (void)state;
    struct harness harness;
    harness_init(&harness);
    harness_crash_after(&harness, fill_and_disable);
    harness_lose_journal(&harness);
    harness_open(&harness);

    struct drive_bitmap *a = harness_bitmap(&harness, "vm1/a");
    assert_int_equal(a->validity, VALIDITY_UNKNOWN);
    assert_non_null(strstr(a->reason, "journal"));
    assert_true(harness_is_dirty(&harness, "vm1/a", 512));
    assert_int_equal(drive_bitmap_dirty_bytes(a), 8 * MIB + 1);
    /* A change to a disabled bitmap may be among what was lost. */
    assert_int_equal(harness_bitmap(&harness, "vg0/lv1/off")->validity, VALIDITY_UNKNOWN);

    /* The verdict is durable, and ends with a new history only. */
    assert_int_equal(harness_close(&harness), 0);
    harness_open(&harness);
    a = harness_bitmap(&harness, "vm1/a");
    assert_int_equal(a->validity, VALIDITY_UNKNOWN);
    assert_int_equal(harness_bitmap_do(&harness, RECORD_BITMAP_CLEAR_ALL, "vm1/a"), 0);
    assert_int_equal(a->validity, VALIDITY_EXACT);
    assert_int_equal(drive_bitmap_dirty_bytes(a), 0);
    /* After an orderly stop the journal is not needed. */
    assert_int_equal(harness_close(&harness), 0);
    harness_lose_journal(&harness);
    harness_open(&harness);
    assert_int_equal(harness_bitmap(&harness, "vm1/a")->validity, VALIDITY_EXACT);
    harness_deinit(&harness);
}

static void flush_fill_mark(struct harness *harness)
{
    fill_and_disable(harness);
    for (uint64_t i = 1; i <= 20; i++) {
        harness_mark(harness, "vm1", i * 1024, 1);
    }
}

/* A block of the journal is spoilt in turn: the bits are there, or the verdict is. */
static void a_damaged_journal_is_set_aside(void **state)
{
    (void)state;
    unsigned unknown = 0;
    for (unsigned block = 0; block < 24; block += 3) {
        struct harness harness;
        harness_init(&harness);
        harness_crash_after(&harness, flush_fill_mark);
        char command[400];
        (void)snprintf(command, sizeof command,
                       "printf damage | dd of=%s.0 bs=1 seek=%u conv=notrunc status=none",
                       harness.journal, block * 4096 + 60);
        assert_int_equal(system(command), 0);
        harness_open(&harness);
        struct drive_bitmap *a = harness_bitmap(&harness, "vm1/a");
        for (uint64_t i = 1; i <= 20; i++) {
            assert_true(harness_is_dirty(&harness, "vm1/a", i * 1024));
        }
        (void)snprintf(command, sizeof command,
                       "ls %s.0.damaged-* >/dev/null 2>&1 && rm %s.*.damaged-*", harness.journal,
                       harness.journal);
        assert_int_equal(system(command) == 0, a->validity == VALIDITY_UNKNOWN);
        unknown += a->validity == VALIDITY_UNKNOWN;
        harness_deinit(&harness);
    }
    assert_true(unknown > 0);
}

/* The last commit as if it had been made by another boot of the host. */
static void change_boot(struct harness *harness)
{
    struct file *file;
    struct container *container;
    struct container_txn *txn;
    struct container_info info;
    const void *state;
    size_t bytes;

    assert_int_equal(file_open_posix(harness->container, FILE_WRITE, &file, NULL, NULL), 0);
    assert_int_equal(container_open(file, CONTAINER_OPEN_WRITE, &container, NULL), 0);
    container_get_info(container, &info);
    container_state(container, &state, &bytes);
    void *copy = malloc(bytes);
    assert_non_null(copy);
    memcpy(copy, state, bytes);
    struct container_commit_options options = {.state = copy,
                                               .state_bytes = bytes,
                                               .applied_seq = info.applied_seq,
                                               .clean = info.clean,
                                               .commit_id = info.commit_id,
                                               .identity = info.identity};
    assert_int_equal(container_begin(container, &txn, NULL), 0);
    assert_int_equal(container_commit(txn, &options, NULL, NULL), 0);
    container_close(container);
    free(copy);
}

static void fill_both_levels(struct harness *harness)
{
    harness_fill(harness);
    struct record set = {.type = RECORD_DRIVE_SET,
                         .drive = harness_drive(harness, "vg0/lv1")->id,
                         .durability = DURABILITY_PROCESS_CRASH};
    assert_int_equal(harness_commit(harness, &set), 0);
    harness_mark(harness, "vg0/lv1", 0, 1);
}

static void process_crash_drives_do_not_outlive_a_reboot(void **state)
{
    (void)state;
    struct harness harness;
    harness_init(&harness);
    harness_crash_after(&harness, fill_both_levels);
    harness_open(&harness);
    assert_int_equal(harness_bitmap(&harness, "vg0/lv1/b")->validity, VALIDITY_EXACT);
    assert_true(harness_is_dirty(&harness, "vg0/lv1/b", 0));
    assert_int_equal(harness_close(&harness), 0);
    /* An orderly stop before the reboot is no reason to doubt. */
    change_boot(&harness);
    harness_open(&harness);
    assert_int_equal(harness_bitmap(&harness, "vg0/lv1/b")->validity, VALIDITY_EXACT);
    assert_int_equal(harness_close(&harness), 0);

    harness_crash_after(&harness, mark_more);
    change_boot(&harness);
    harness_open(&harness);
    assert_int_equal(harness_bitmap(&harness, "vg0/lv1/b")->validity, VALIDITY_UNKNOWN);
    assert_int_equal(harness_bitmap(&harness, "vm1/a")->validity, VALIDITY_EXACT);
    assert_true(harness_is_dirty(&harness, "vm1/a", 1024));
    harness_deinit(&harness);
}

static void a_journal_that_cannot_be_read_is_waited_for(void **state)
{
    (void)state;
    struct harness harness;
    char path[160], aside[160];
    harness_init(&harness);
    (void)snprintf(path, sizeof path, "%s.0", harness.journal);
    (void)snprintf(aside, sizeof aside, "%s.aside", harness.journal);
    harness_crash_after(&harness, harness_fill);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(rename(path, aside), 0);
        assert_int_equal(mkdir(path, 0700), 0);
        assert_int_equal(harness_try_open(&harness, 0), -EINVAL);
        assert_non_null(strstr(harness.error.text, "journal.0"));
        assert_non_null(strstr(harness.error.text, "--distrust"));
        if (round == 0) {
            /* It is there again, and so is everything. */
            assert_int_equal(rmdir(path), 0);
            assert_int_equal(rename(aside, path), 0);
            harness_open(&harness);
            harness_check_filled(&harness);
            assert_int_equal(harness_close(&harness), 0);
            harness_crash_after(&harness, mark_more);
        }
    }
    assert_int_equal(harness_try_open(&harness, MODEL_DISTRUST), 0);
    assert_int_equal(harness_bitmap(&harness, "vm1/a")->validity, VALIDITY_UNKNOWN);
    assert_int_equal(harness_close(&harness), 0);
    /* What was in the way was set aside, not deleted. */
    char command[400];
    (void)snprintf(command, sizeof command, "rmdir %s.0.damaged-* && rm -f %s.1.damaged-*",
                   harness.journal, harness.journal);
    assert_int_equal(system(command), 0);
    harness_deinit(&harness);
}

/* More than both segments hold: the container has to cover them on the way. */
static void mark_a_lot(struct harness *harness)
{
    harness_add_drive(harness, "big", UINT64_C(1) << 36);
    harness_add_bitmap(harness, "big/a", 65536, false);
    struct range *ranges = calloc(20000, sizeof *ranges);
    assert_non_null(ranges);
    uint64_t sequence = 0;
    for (uint64_t turn = 0; turn < 20; turn++) {
        for (uint64_t i = 0; i < 20000; i++) {
            ranges[i] = (struct range){(turn * 20000 + i) * 131072, 1};
        }
        assert_int_equal(drive_mark(harness->model, harness_drive(harness, "big"), ranges, 20000,
                                    &sequence, &harness->error),
                         0);
        if (turn % 3 == 0) {
            assert_int_equal(harness_wait(harness, sequence, ACK_DURABLE), 0);
        }
    }
    assert_int_equal(harness_wait(harness, sequence, ACK_DURABLE), 0);
    free(ranges);
}

static void a_full_journal_is_written_back(void **state)
{
    (void)state;
    struct harness harness;
    harness_init(&harness);
    harness_crash_after(&harness, mark_a_lot);
    harness_open(&harness);
    struct drive_bitmap *a = harness_bitmap(&harness, "big/a");
    assert_int_equal(a->validity, VALIDITY_EXACT);
    assert_int_equal(drive_bitmap_dirty_count(a), 400000);
    harness_deinit(&harness);
}

static int mark_many(struct harness *harness, uint64_t turn, uint64_t *ret_sequence)
{
    struct range *ranges = calloc(20000, sizeof *ranges);
    assert_non_null(ranges);
    for (uint64_t i = 0; i < 20000; i++) {
        ranges[i] = (struct range){(turn * 20000 + i) * 131072, 1};
    }
    int r = drive_mark(harness->model, harness_drive(harness, "big"), ranges, 20000, ret_sequence,
                       &harness->error);
    free(ranges);
    return r;
}

/* Neither journal nor container has room: changes are refused, nothing is lost, it recovers. */
static void no_room_anywhere(void **state)
{
    (void)state;
    struct harness harness;
    harness_init(&harness);
    harness_open(&harness);
    harness_add_drive(&harness, "big", UINT64_C(1) << 36);
    harness_add_bitmap(&harness, "big/a", 65536, false);
    assert_int_equal(harness_close(&harness), 0);
    struct stat st;
    assert_int_equal(stat(harness.container, &st), 0);
    harness.settings.container_bytes_max = (uint64_t)st.st_size;
    harness_open(&harness);

    uint64_t sequence, turn = 0;
    int r = 0;
    while (r == 0) {
        r = mark_many(&harness, turn, &sequence);
        if (r == 0) {
            turn++;
            r = harness_wait(&harness, sequence, ACK_DURABLE);
            assert_true(r == 0 || r == -EINPROGRESS);
            r = 0;
        }
        assert_true(turn < 30);
    }
    assert_int_equal(r, -ENOSPC);
    assert_non_null(strstr(harness.error.text, "no room"));
    assert_true(turn > 3);
    struct drive_bitmap *a = harness_bitmap(&harness, "big/a");
    assert_int_equal(drive_bitmap_dirty_count(a), turn * 20000);

    assert_int_equal(harness_close(&harness), -ENOSPC);
    harness.settings.container_bytes_max = 0;
    harness_open(&harness);
    a = harness_bitmap(&harness, "big/a");
    assert_int_equal(a->validity, VALIDITY_EXACT);
    /* All that was acknowledged; at most the last ones, which were told to be in doubt, are not. */
    assert_true(drive_bitmap_dirty_count(a) >= (turn - 1) * 20000);
    assert_int_equal(mark_many(&harness, turn, &sequence), 0);
    assert_int_equal(harness_wait(&harness, sequence, ACK_DURABLE), 0);
    harness_deinit(&harness);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crash_loses_nothing_acknowledged),
        cmocka_unit_test(crash_after_crash),
        cmocka_unit_test(every_kind_of_record_is_replayed),
        cmocka_unit_test(crash_leaves_writers_unaccounted),
        cmocka_unit_test(writers_are_replayed_whatever_they_did),
        cmocka_unit_test(a_lost_journal_is_a_verdict),
        cmocka_unit_test(a_damaged_journal_is_set_aside),
        cmocka_unit_test(a_journal_that_cannot_be_read_is_waited_for),
        cmocka_unit_test(process_crash_drives_do_not_outlive_a_reboot),
        cmocka_unit_test(a_full_journal_is_written_back),
        cmocka_unit_test(no_room_anywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
