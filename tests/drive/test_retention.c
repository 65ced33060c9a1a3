/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Checkpoints that go by themselves, and checkpoints that come back from a damaged state. */
#include "tests/drive/past.h"

#include "daemon/container/container.h"
#include "daemon/drive/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB    (UINT64_C(1) << 20)
#define SECOND UINT64_C(1000000000)

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

static void create_many(struct harness *harness, const char *drive, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "c%u", i);
        past_create(harness, drive, name);
        harness_mark(harness, drive, i * 4096, 512);
    }
}

static void enforce(struct harness *harness)
{
    model_configure(harness->model, &harness->settings);
    model_enforce_retention(harness->model);
    assert_int_equal(harness_wait(harness, model_sequence(harness->model), ACK_DURABLE), 0);
}

static void the_eldest_are_too_many(void **state)
{
    struct harness *harness = *state;
    harness_add_drive(harness, "e", MIB);
    create_many(harness, "d", 6);
    create_many(harness, "e", 2);
    enforce(harness); /* no limit */
    assert_int_equal(harness_drive(harness, "d")->checkpoints_count, 6);
    past_flush(harness); /* nothing of what goes has to be read */
    harness->settings.retention_count = 4;
    enforce(harness);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(harness_drive(harness, "d")->checkpoints_count, 4);
        assert_int_equal(harness_drive(harness, "e")->checkpoints_count, 2);
        assert_null(past_find(harness, "d", "c1"));
        assert_int_equal(past_dirty_bytes(harness, "d", "c2", NULL), 4 * 512);
        assert_int_equal(past_validity(harness, "d", "c2"), VALIDITY_EXACT);
        if (i == 0) {
            past_crash(harness);
        } else {
            past_restart(harness);
        }
    }
    /* Never the two newest. */
    harness->settings.retention_count = 1;
    enforce(harness);
    assert_int_equal(harness_drive(harness, "d")->checkpoints_count, 2);
    assert_true(past_find(harness, "d", "c5")->recording);
    enforce(harness);
    assert_int_equal(past_dirty_bytes(harness, "d", "c4", NULL), 2 * 512);
}

static void made_at(struct harness *harness, const char *name, uint64_t created_ns)
{
    struct record record = {.type = RECORD_CHECKPOINT_CREATE,
                            .drive = harness_drive(harness, "d")->id,
                            .name = text_of(name),
                            .created_ns = created_ns};
    assert_int_equal(harness_commit(harness, &record), 0);
}

static void the_eldest_are_too_old(void **state)
{
    struct harness *harness = *state;
    uint64_t now = (uint64_t)model_wall_clock_ns();
    made_at(harness, "old", now - 1000 * SECOND);
    made_at(harness, "older", now - 2000 * SECOND); /* the clock was set back */
    made_at(harness, "young", now - 10 * SECOND);
    made_at(harness, "ahead", now + 1000 * SECOND);
    made_at(harness, "old2", now - 1000 * SECOND);
    harness->settings.retention_age_ns = 500 * SECOND;
    enforce(harness);
    assert_null(past_find(harness, "d", "old"));
    assert_null(past_find(harness, "d", "older"));
    assert_non_null(past_find(harness, "d", "young"));
    assert_int_equal(harness_drive(harness, "d")->checkpoints_count, 3);
    harness->settings.retention_age_ns = SECOND;
    enforce(harness);
    /* The one from the future stands in front. */
    assert_int_equal(harness_drive(harness, "d")->checkpoints_count, 2);
    past_delete(harness, "d", "ahead");
    enforce(harness);
    assert_true(past_find(harness, "d", "old2")->recording);
}

/* ---- The bitmap table alone ---- */

/* Cuts the payload of the state blob to nothing that anybody understands. */
static void lose_state(struct harness *harness)
{
    struct container *container;
    struct container_txn *txn;
    struct container_info info;
    struct container_commit_stats stats;
    struct file *file;

    assert_int_equal(file_system_posix.open(&file_system_posix, harness->container, FILE_WRITE,
                                            &file, &harness->error),
                     0);
    assert_int_equal(container_open(file, CONTAINER_OPEN_WRITE, &container, &harness->error), 0);
    container_get_info(container, &info);
    assert_int_equal(container_begin(container, &txn, &harness->error), 0);
    struct container_commit_options options = {.state = "what",
                                               .state_bytes = 4,
                                               .applied_seq = info.applied_seq,
                                               .clean = true,
                                               .commit_id = {{1}},
                                               .boot_id = info.boot_id,
                                               .identity = info.identity};
    assert_int_equal(container_commit(txn, &options, &stats, &harness->error), 0);
    container_close(container);
}

static void a_history_from_the_table(void **state)
{
    struct harness *harness = *state;
    uint8_t uuids[4][16];
    uint64_t sequences[4];
    char name[16];
    create_many(harness, "d", 4);
    harness_add_bitmap(harness, "d/c1", 4096, false); /* named as a checkpoint is */
    harness_add_drive(harness, "vg0/lv1", 100000);
    create_many(harness, "vg0/lv1", 1);
    for (unsigned i = 0; i < 4; i++) {
        (void)snprintf(name, sizeof name, "c%u", i);
        const struct checkpoint *checkpoint = past_find(harness, "d", name)->checkpoint;
        memcpy(uuids[i], checkpoint->uuid, sizeof uuids[i]);
        sequences[i] = checkpoint->sequence;
    }
    assert_int_equal(harness_close(harness), 0);
    lose_state(harness);
    harness_open(harness);
    for (int life = 0; life < 3; life++) {
        assert_int_equal(harness_drive(harness, "d")->checkpoints_count, 4);
        assert_int_equal(harness_drive(harness, "d")->bitmaps_count, 1);
        assert_int_equal(harness_drive(harness, "vg0/lv1")->checkpoints_count, 1);
        for (unsigned i = 0; i < 4; i++) {
            (void)snprintf(name, sizeof name, "c%u", i);
            const struct drive_bitmap *bitmap = past_find(harness, "d", name);
            assert_non_null(bitmap);
            assert_int_equal(bitmap->checkpoint->sequence, sequences[i]);
            /* Whoever remembers it gets no answer rather than a wrong one. */
            assert_memory_not_equal(bitmap->checkpoint->uuid, uuids[i], 16);
            assert_int_equal(bitmap->recording, i == 3);
            assert_int_equal(past_validity(harness, "d", name), VALIDITY_UNKNOWN);
        }
        past_check_books(harness->model);
        if (life == 0) {
            past_crash(harness);
        } else {
            past_restart(harness);
        }
    }
    past_create(harness, "d", "next");
    harness_mark(harness, "d", 0, 512);
    assert_int_equal(past_validity(harness, "d", "next"), VALIDITY_EXACT);
    past_delete(harness, "d", "c2");
    past_delete(harness, "d", "c0");
    past_delete(harness, "d", "c3");
    past_delete(harness, "d", "c1");
    past_restart(harness);
    assert_int_equal(past_dirty_bytes(harness, "d", "next", NULL), 512);
    assert_int_equal(past_validity(harness, "d", "next"), VALIDITY_EXACT);
    assert_int_equal(harness_bitmap(harness, "d/c1")->validity, VALIDITY_UNKNOWN);
}

/* Names as no history has them, and those that are just not ours. */
static void a_table_that_is_odd(void **state)
{
    struct harness *harness = *state;
    static const struct {
        const char *name;
        uint64_t sectors;
    } odd[] = {
        {"d@1.twice", 2048},
        {"d@1.same", 2048},                    /* the sequence is taken */
        {"d@2.twice", 2048},                   /* the name is */
        {"d@99999999.future", 2048},           /* nothing had that number yet */
        {"d@18446744073709551616.much", 2048}, /* no number at all */
        {"d@.none", 2048},
        {"d@3.", 2048},
        {"d@3", 2048},
        {"d@-1.x", 2048},
        {"d@4.other", 4096}, /* of another size */
        {"@5.x", 2048},
        {"a/b@6.x/y", 2048},
        {"d/e@7.x", 2048}, /* a drive of its own */
    };
    struct container *container;
    struct container_txn *txn;
    struct container_info info;
    struct container_commit_stats stats;
    struct file *file;

    for (unsigned i = 0; i < 10; i++) {
        harness_mark(harness, "d", 0, 512);
        past_restart(harness);
    }
    assert_int_equal(harness_close(harness), 0);
    assert_int_equal(file_system_posix.open(&file_system_posix, harness->container, FILE_WRITE,
                                            &file, &harness->error),
                     0);
    assert_int_equal(container_open(file, CONTAINER_OPEN_WRITE, &container, &harness->error), 0);
    container_get_info(container, &info);
    assert_int_equal(container_begin(container, &txn, &harness->error), 0);
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        assert_int_equal(
            container_txn_add(txn, 100 + i, odd[i].name, 512, odd[i].sectors, &harness->error), 0);
    }
    struct container_commit_options options = {.state = "what",
                                               .state_bytes = 4,
                                               .applied_seq = info.applied_seq,
                                               .clean = true,
                                               .commit_id = {{1}},
                                               .boot_id = info.boot_id,
                                               .identity = info.identity};
    assert_int_equal(container_commit(txn, &options, &stats, &harness->error), 0);
    container_close(container);

    harness_open(harness);
    for (int life = 0; life < 2; life++) {
        const struct drive *drive = harness_drive(harness, "d");
        assert_non_null(past_find(harness, "d", "twice"));
        assert_int_equal(past_find(harness, "d", "twice")->checkpoint->sequence, 1);
        assert_non_null(past_find(harness, "d", "other"));
        assert_int_equal(drive->checkpoints_count, 2);
        assert_int_equal(harness_drive(harness, "d/e")->checkpoints_count, 1);
        past_check_books(harness->model);
        struct model_status status;
        model_get_status(harness->model, &status);
        assert_int_equal(status.bitmaps, status.unknown_bitmaps);
        past_restart(harness);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(the_eldest_are_too_many),
        TEST(the_eldest_are_too_old),
        TEST(a_history_from_the_table),
        TEST(a_table_that_is_odd),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
