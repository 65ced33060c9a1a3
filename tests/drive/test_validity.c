/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the bitmaps of a history are worth: what makes them worse, what ends that, and what writers
 * that are away have to do with it.
 */
#include "tests/drive/past.h"

#include "daemon/drive/internal.h"

#include <stdlib.h>
#include <string.h>

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

static struct writer *attach(struct harness *harness, const char *token, bool continues)
{
    return past_attach(
        harness, "d", &(struct writer_attachment){.token = text_of(token), .continues = continues});
}

static void resume(struct harness *harness, struct writer *writer)
{
    uint64_t sequence;
    assert_int_equal(writer_resume(harness->model, writer, NULL, &sequence, &harness->error), 0);
    assert_int_equal(harness_wait(harness, sequence, ACK_DURABLE), 0);
}

static void distrust(struct harness *harness, const char *why)
{
    struct record record = {.type = RECORD_DRIVE_DISTRUST,
                            .drive = harness_drive(harness, "d")->id,
                            .name = text_of(why)};
    assert_int_equal(harness_commit(harness, &record), 0);
}

static void unknown_ends_with_the_next_checkpoint(void **state)
{
    struct harness *harness = *state;
    past_create(harness, "d", "c0");
    past_create(harness, "d", "c1");
    harness_mark(harness, "d", 0, 512);
    distrust(harness, "for a test");
    /* What was sealed before is as good as it was. */
    assert_int_equal(past_find(harness, "d", "c0")->validity, VALIDITY_EXACT);
    assert_int_equal(past_find(harness, "d", "c1")->validity, VALIDITY_UNKNOWN);
    assert_int_equal(past_dirty_bytes(harness, "d", "c0", "c1"), 0);
    assert_int_equal(past_validity(harness, "d", "c0"), VALIDITY_UNKNOWN);
    struct model_union map;
    assert_int_equal(past_union(harness, "d", "c0", NULL, &map), 0);
    assert_string_equal(map.reason, "for a test");
    bitmap_free(map.bits);

    past_create(harness, "d", "c2");
    for (int i = 0; i < 3; i++) {
        assert_int_equal(past_validity(harness, "d", "c2"), VALIDITY_EXACT);
        assert_int_equal(past_validity(harness, "d", "c1"), VALIDITY_UNKNOWN);
        assert_int_equal(past_validity(harness, "d", "c0"), VALIDITY_UNKNOWN);
        assert_int_equal(past_dirty_bytes(harness, "d", "c0", "c1"), 0);
        if (i == 0) {
            past_crash(harness);
        } else {
            past_restart(harness);
        }
    }
}

static void deleting_folds_the_worse_validity(void **state)
{
    struct harness *harness = *state;
    static const char *const names[] = {"c0", "c1", "c2", "c3"};
    for (size_t i = 0; i < 4; i++) {
        past_create(harness, "d", names[i]);
        harness_mark(harness, "d", i * 4096, 512);
        if (i == 1) {
            distrust(harness, "c1 is bad");
        }
    }
    /* An unknown one with an exact one behind it, … */
    past_delete(harness, "d", "c2");
    assert_int_equal(past_validity(harness, "d", "c3"), VALIDITY_EXACT);
    assert_string_equal(past_find(harness, "d", "c1")->reason, "c1 is bad");
    /* … and one before it. */
    past_delete(harness, "d", "c1");
    assert_int_equal(past_find(harness, "d", "c0")->validity, VALIDITY_UNKNOWN);
    assert_string_equal(past_find(harness, "d", "c0")->reason, "c1 is bad");
    past_crash(harness);
    assert_int_equal(past_find(harness, "d", "c0")->validity, VALIDITY_UNKNOWN);
    assert_string_equal(past_find(harness, "d", "c0")->reason, "c1 is bad");
    struct model_status status;
    model_get_status(harness->model, &status);
    assert_int_equal(status.unknown_bitmaps, 1);
    /* The eldest takes what it is worth with it. */
    past_delete(harness, "d", "c0");
    assert_int_equal(past_validity(harness, "d", "c3"), VALIDITY_EXACT);
    model_get_status(harness->model, &status);
    assert_int_equal(status.unknown_bitmaps, 0);
    assert_int_equal(past_dirty_bytes(harness, "d", "c3", NULL), 512);
}

static void the_newest_deleted_hands_on_what_it_is_worth(void **state)
{
    struct harness *harness = *state;
    past_create(harness, "d", "c0");
    past_create(harness, "d", "c1");
    distrust(harness, "bad");
    past_delete(harness, "d", "c1");
    assert_true(past_find(harness, "d", "c0")->recording);
    assert_int_equal(past_validity(harness, "d", "c0"), VALIDITY_UNKNOWN);
    /* And the other way round: an exact one behind an unknown one. */
    past_create(harness, "d", "c2");
    past_delete(harness, "d", "c2");
    assert_int_equal(past_validity(harness, "d", "c0"), VALIDITY_UNKNOWN);
}

/* Nobody knows what the writer has not settled: what was recorded is carried whole. */
static void a_writer_that_is_not_accounted_for(void **state)
{
    struct harness *harness = *state;
    past_create(harness, "d", "c0");
    struct writer *writer = attach(harness, "w", false);
    past_mark(harness, writer, 1, 4096, 512);
    past_mark(harness, writer, 2, 8192, 512);
    assert_int_equal(writer_settle(writer, 1, 2, &harness->error), 0);
    past_mark(harness, writer, 3, 16384, 512);
    past_crash_begin(harness);
    writer_lost(harness->model, writer);
    past_crash_end(harness);

    for (int i = 0; i < 2; i++) {
        past_create(harness, "d", i ? "c2" : "c1");
        assert_int_equal(past_validity(harness, "d", i ? "c2" : "c1"), VALIDITY_SUPERSET);
        assert_int_equal(past_dirty_bytes(harness, "d", i ? "c2" : "c1", NULL), 3 * 512);
    }
    writer = attach(harness, "w", false);
    past_create(harness, "d", "c3");
    assert_int_equal(past_validity(harness, "d", "c3"), VALIDITY_SUPERSET);
    resume(harness, writer);
    past_create(harness, "d", "c4");
    assert_int_equal(past_validity(harness, "d", "c4"), VALIDITY_EXACT);
    assert_int_equal(past_dirty_bytes(harness, "d", "c4", NULL), 0);
    past_detach(harness, writer, "");
}

static void fencing_ends_a_writer(void **state)
{
    struct harness *harness = *state;
    past_create(harness, "d", "c0");
    struct writer *writer = attach(harness, "w", false);
    past_mark(harness, writer, 1, 4096, 512);
    past_crash_begin(harness);
    writer_lost(harness->model, writer);
    past_crash_end(harness);
    past_fence(harness, "d", "w");
    past_create(harness, "d", "c1");
    assert_int_equal(past_validity(harness, "d", "c1"), VALIDITY_EXACT);
    assert_int_equal(past_dirty_bytes(harness, "d", "c1", NULL), 0);
    assert_int_equal(past_dirty_bytes(harness, "d", "c0", NULL), 512);
}

/* The host was down, so the writer is no more; what it had not settled is carried once. */
static void a_reboot_and_a_checkpoint_end_a_writer(void **state)
{
    struct harness *harness = *state;
    past_create(harness, "d", "c0");
    struct writer *gone = attach(harness, "gone", false);
    past_mark(harness, gone, 1, 4096, 512);
    writer_lost(harness->model, gone);
    past_create(harness, "d", "c1"); /* no reboot: it stays */
    assert_int_equal(harness_drive(harness, "d")->writers_count, 1);
    struct writer *back = attach(harness, "back", false);
    past_reboot(harness);
    past_crash_begin(harness);
    writer_lost(harness->model, back);
    past_crash_end(harness);
    assert_int_equal(harness_drive(harness, "d")->writers_count, 2);
    back = attach(harness, "back", false); /* one of the new boot, under the same token */
    resume(harness, back);

    past_create(harness, "d", "c2");
    assert_int_equal(past_validity(harness, "d", "c2"), VALIDITY_SUPERSET);
    assert_int_equal(harness_drive(harness, "d")->writers_count, 1);
    assert_null(drive_writer_by_token(harness_drive(harness, "d"), text_of("gone")));
    past_create(harness, "d", "c3");
    assert_int_equal(past_validity(harness, "d", "c3"), VALIDITY_EXACT);
    assert_int_equal(past_dirty_bytes(harness, "d", "c3", NULL), 0);
    /* The replay drops it as well. */
    past_crash_begin(harness);
    writer_lost(harness->model, back);
    past_crash_end(harness);
    assert_int_equal(harness_drive(harness, "d")->writers_count, 1);
    assert_non_null(drive_writer_by_token(harness_drive(harness, "d"), text_of("back")));
    assert_int_equal(past_validity(harness, "d", "c3"), VALIDITY_EXACT);
}

/* ---- Writers that go on without us ---- */

static void check_in_doubt(struct harness *harness, const char *name)
{
    past_create(harness, "d", name);
    assert_int_equal(past_validity(harness, "d", name), VALIDITY_UNKNOWN);
    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_CLEAR_ALL, "d/b"), 0);
    assert_int_equal(harness_bitmap(harness, "d/b")->validity, VALIDITY_UNKNOWN);
    assert_true(harness_is_dirty(harness, "d/b", MIB - 1));
}

static void check_over(struct harness *harness, const char *name)
{
    past_create(harness, "d", name);
    assert_int_equal(past_validity(harness, "d", name), VALIDITY_EXACT);
    assert_int_equal(past_dirty_bytes(harness, "d", name, NULL), 0);
    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_CLEAR_ALL, "d/b"), 0);
    assert_int_equal(harness_bitmap(harness, "d/b")->validity, VALIDITY_EXACT);
    assert_int_equal(drive_bitmap_dirty_bytes(harness_bitmap(harness, "d/b")), 0);
}

static void losing_one_that_goes_on_is_losing_track(void **state)
{
    struct harness *harness = *state;
    harness_add_bitmap(harness, "d/b", 512, false);
    harness_add_bitmap(harness, "d/off", 512, true);
    past_create(harness, "d", "c0");
    past_create(harness, "d", "c1");
    struct writer *writer = attach(harness, "w", true);
    assert_int_equal(past_validity(harness, "d", "c1"), VALIDITY_EXACT);
    writer_lost(harness->model, writer);
    assert_int_equal(past_find(harness, "d", "c0")->validity, VALIDITY_EXACT);
    assert_int_equal(past_validity(harness, "d", "c1"), VALIDITY_UNKNOWN);
    assert_int_equal(harness_bitmap(harness, "d/b")->validity, VALIDITY_UNKNOWN);
    assert_true(harness_bitmap(harness, "d/off")->gap);
    check_in_doubt(harness, "c2");
    /* What does not record begins with a gap. */
    harness_add_bitmap(harness, "d/off2", 512, true);
    assert_true(harness_bitmap(harness, "d/off2")->gap);
    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_ENABLE, "d/off2"), 0);
    assert_int_equal(harness_bitmap(harness, "d/off2")->validity, VALIDITY_UNKNOWN);
    past_restart(harness);
    check_in_doubt(harness, "c3");
    past_crash(harness);
    assert_int_equal(past_find(harness, "d", "c3")->validity, VALIDITY_UNKNOWN);
    check_in_doubt(harness, "c4");

    /* Back, but it has not said what it wrote. */
    writer = attach(harness, "w", false);
    check_in_doubt(harness, "c5");
    resume(harness, writer);
    check_over(harness, "c6");
    past_detach(harness, writer, "");
    check_over(harness, "c7");
    past_restart(harness);
    check_over(harness, "c8");
}

static void fencing_ends_the_doubt(void **state)
{
    struct harness *harness = *state;
    harness_add_bitmap(harness, "d/b", 512, false);
    past_create(harness, "d", "c0");
    writer_lost(harness->model, attach(harness, "w", true));
    check_in_doubt(harness, "c1");
    past_fence(harness, "d", "w");
    assert_int_equal(past_validity(harness, "d", "c1"), VALIDITY_UNKNOWN); /* of its time */
    check_over(harness, "c2");
}

static void detaching_keeps_track(void **state)
{
    struct harness *harness = *state;
    harness_add_bitmap(harness, "d/b", 512, false);
    past_create(harness, "d", "c0");
    past_detach(harness, attach(harness, "w", true), "");
    past_restart(harness);
    assert_int_equal(past_validity(harness, "d", "c0"), VALIDITY_EXACT);
    check_over(harness, "c1");
}

static void a_start_with_one_that_went_on(void **state)
{
    struct harness *harness = *state;
    harness_add_bitmap(harness, "d/b", 512, false);
    past_create(harness, "d", "c0");
    struct writer *writer = attach(harness, "w", true);
    past_flush(harness);
    assert_int_equal(past_validity(harness, "d", "c0"), VALIDITY_EXACT);
    past_crash_begin(harness);
    writer_lost(harness->model, writer);
    past_crash_end(harness);
    assert_int_equal(past_validity(harness, "d", "c0"), VALIDITY_UNKNOWN);
    assert_int_equal(harness_bitmap(harness, "d/b")->validity, VALIDITY_UNKNOWN);
    check_in_doubt(harness, "c1");

    /* The host's end was its own. */
    past_reboot(harness);
    past_restart(harness);
    assert_int_equal(past_find(harness, "d", "c0")->validity, VALIDITY_UNKNOWN);
    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_CLEAR_ALL, "d/b"), 0);
    assert_int_not_equal(harness_bitmap(harness, "d/b")->validity, VALIDITY_UNKNOWN);
    past_restart(harness); /* which says nothing new about it */
    assert_int_not_equal(harness_bitmap(harness, "d/b")->validity, VALIDITY_UNKNOWN);
    past_create(harness, "d", "c2");
    assert_int_not_equal(past_validity(harness, "d", "c2"), VALIDITY_UNKNOWN);
    assert_int_equal(harness_drive(harness, "d")->writers_count, 0);
    check_over(harness, "c3");
}

/* The journal takes no record of it: what is told now is told by the next start too. */
static void a_loss_that_cannot_be_recorded(void **state)
{
    struct harness *harness = *state;
    harness_add_bitmap(harness, "d/b", 512, false);
    past_create(harness, "d", "c0");
    struct writer *writer = attach(harness, "w", true);
    past_crash_begin(harness);
    /* As while changes are refused: this record is about a drive that is not there. */
    uint64_t id = writer->drive->id;
    writer->drive->id = 999;
    writer_lost(harness->model, writer);
    harness_drive(harness, "d")->id = id;
    assert_int_equal(past_validity(harness, "d", "c0"), VALIDITY_UNKNOWN);
    check_in_doubt(harness, "c1");
    past_restart(harness);
    assert_int_equal(past_find(harness, "d", "c0")->validity, VALIDITY_UNKNOWN);
    assert_int_equal(past_find(harness, "d", "c1")->validity, VALIDITY_UNKNOWN);
    past_crash_end(harness);
    assert_int_equal(past_find(harness, "d", "c0")->validity, VALIDITY_UNKNOWN);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(unknown_ends_with_the_next_checkpoint),
        TEST(deleting_folds_the_worse_validity),
        TEST(the_newest_deleted_hands_on_what_it_is_worth),
        TEST(a_writer_that_is_not_accounted_for),
        TEST(fencing_ends_a_writer),
        TEST(a_reboot_and_a_checkpoint_end_a_writer),
        TEST(losing_one_that_goes_on_is_losing_track),
        TEST(fencing_ends_the_doubt),
        TEST(detaching_keeps_track),
        TEST(a_start_with_one_that_went_on),
        TEST(a_loss_that_cannot_be_recorded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
