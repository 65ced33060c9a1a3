/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The rules of writers and their unsettled marks, one at a time. */
#include "tests/drive/past.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

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

static struct writer *attach(struct harness *harness, const char *token, bool *ret_resuming)
{
    struct writer *writer;
    uint64_t sequence;
    bool resuming;
    int r = writer_attach(harness->model, harness_drive(harness, "d"),
                          &(struct writer_attachment){.token = text_of(token)}, &writer, &sequence,
                          &resuming, &harness->error);
    if (r < 0) {
        fail_msg("attach: %s", harness->error.text);
    }
    assert_int_equal(harness_wait(harness, sequence, ACK_DURABLE), 0);
    if (ret_resuming) {
        *ret_resuming = resuming;
    }
    return writer;
}

static int mark(struct harness *harness, struct writer *writer, uint64_t id, uint64_t offset,
                uint64_t length)
{
    struct range range = {offset, length};
    uint64_t sequence;
    return writer_mark(harness->model, writer, id, &range, 1, &sequence, &harness->error);
}

static uint64_t unsettled(struct harness *harness)
{
    struct drive_status status;
    drive_get_status(harness_drive(harness, "d"), &status);
    return status.unsettled;
}

static void clears_and_creates_carry_unsettled_marks(void **state)
{
    struct harness *harness = *state;
    harness_add_bitmap(harness, "d/a", 512, false);
    struct writer *writer = attach(harness, "w", NULL);
    assert_int_equal(mark(harness, writer, 1, 0, 512), 0);
    assert_int_equal(mark(harness, writer, 2, 4096, 512), 0);
    assert_int_equal(mark(harness, writer, 3, 8192, 512), 0);
    assert_int_equal(mark(harness, writer, 3, 8192, 512), -EINVAL); /* ids rise */
    assert_int_equal(writer_settle(writer, 2, 1, &harness->error), 0);
    assert_int_equal(writer_settle(writer, 2, 1, &harness->error), 0); /* twice does no harm */
    assert_int_equal(unsettled(harness), 2);

    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_CLEAR_ALL, "d/a"), 0);
    harness_add_bitmap(harness, "d/b", 4096, false);
    harness_add_bitmap(harness, "d/off", 512, true);
    for (int i = 0; i < 2; i++) {
        const char *name = i ? "d/b" : "d/a";
        assert_true(harness_is_dirty(harness, name, 0));
        assert_false(harness_is_dirty(harness, name, 4096));
        assert_true(harness_is_dirty(harness, name, 8192));
        assert_int_equal(harness_bitmap(harness, name)->validity, VALIDITY_EXACT);
    }
    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_ENABLE, "d/off"), 0);
    assert_true(harness_is_dirty(harness, "d/off", 0));
    assert_int_equal(harness_clear(harness, "d/a", 0, MIB), 0);
    assert_true(harness_is_dirty(harness, "d/a", 0));

    assert_int_equal(writer_settle(writer, 1, 3, &harness->error), 0);
    assert_int_equal(unsettled(harness), 0);
    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_CLEAR_ALL, "d/a"), 0);
    assert_int_equal(drive_bitmap_dirty_bytes(harness_bitmap(harness, "d/a")), 0);
    uint64_t sequence;
    assert_int_equal(
        writer_detach(harness->model, writer, NULL, text_of(""), &sequence, &harness->error), 0);
}

/* A write that was marked before may happen while a bitmap is off, which notes no gap then. */
static void disabled_bitmaps_keep_unsettled_marks(void **state)
{
    struct harness *harness = *state;
    static const char *const names[] = {"d/all", "d/part", "d/new"};
    harness_add_bitmap(harness, "d/all", 512, false);
    harness_add_bitmap(harness, "d/part", 512, false);
    struct writer *writer = attach(harness, "w", NULL);
    assert_int_equal(mark(harness, writer, 1, 4096, 512), 0);
    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_DISABLE, "d/all"), 0);
    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_DISABLE, "d/part"), 0);
    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_CLEAR_ALL, "d/all"), 0);
    assert_int_equal(harness_clear(harness, "d/part", 0, MIB), 0);
    harness_add_bitmap(harness, "d/new", 512, true);
    assert_int_equal(writer_settle(writer, 1, 1, &harness->error), 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_ENABLE, names[i]), 0);
        assert_int_equal(harness_bitmap(harness, names[i])->validity, VALIDITY_EXACT);
        assert_true(harness_is_dirty(harness, names[i], 4096));
        assert_int_equal(drive_bitmap_dirty_bytes(harness_bitmap(harness, names[i])), 512);
    }

    /* Ranges that are not known any more are a gap. */
    assert_int_equal(mark(harness, writer, 2, 8192, 512), 0);
    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_DISABLE, "d/all"), 0);
    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_DISABLE, "d/part"), 0);
    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_DELETE, "d/new"), 0);
    writer_lost(harness->model, writer);
    assert_int_equal(harness_close(harness), 0);
    harness_open(harness);
    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_CLEAR_ALL, "d/all"), 0);
    assert_int_equal(harness_clear(harness, "d/part", 0, MIB), 0);
    harness_add_bitmap(harness, "d/new", 512, true);
    uint64_t sequence;
    bool resuming;
    writer = attach(harness, "w", &resuming);
    assert_true(resuming);
    assert_int_equal(writer_resume(harness->model, writer, NULL, &sequence, &harness->error), 0);
    assert_int_equal(
        writer_detach(harness->model, writer, NULL, text_of(""), &sequence, &harness->error), 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(drive_bitmap_dirty_bytes(harness_bitmap(harness, names[i])), 0);
        assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_ENABLE, names[i]), 0);
        assert_int_equal(harness_bitmap(harness, names[i])->validity, VALIDITY_UNKNOWN);
    }
}

static void a_detach_is_no_resume(void **state)
{
    struct harness *harness = *state;
    harness_add_bitmap(harness, "d/a", 512, false);
    struct writer *writer = attach(harness, "w", NULL);
    assert_int_equal(mark(harness, writer, 1, 4096, 512), 0);
    writer_lost(harness->model, writer);
    assert_int_equal(harness_close(harness), 0);
    harness_open(harness);
    writer = attach(harness, "w", NULL);
    uint64_t sequence;
    assert_int_equal(
        writer_detach(harness->model, writer, NULL, text_of(""), &sequence, &harness->error),
        -EBUSY);
    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_CLEAR_ALL, "d/a"), 0);
    assert_true(harness_is_dirty(harness, "d/a", 4096));
    assert_int_equal(writer_resume(harness->model, writer, NULL, &sequence, &harness->error), 0);
    assert_int_equal(
        writer_detach(harness->model, writer, NULL, text_of(""), &sequence, &harness->error), 0);
}

static void settles_of_any_ids_in_any_order(void **state)
{
    enum {
        IDS = 300
    };
    struct harness *harness = *state;
    const char *given = getenv("BITMAPD_TEST_SEED");
    unsigned seed = given ? (unsigned)strtoul(given, NULL, 10) : (unsigned)time(NULL);
    print_message("BITMAPD_TEST_SEED=%u\n", seed);
    harness_add_bitmap(harness, "d/a", 512, false);
    struct writer *writer = attach(harness, "w", NULL);
    bool expected[2 * IDS] = {false};
    uint64_t next = 1;

    for (int step = 0; step < 2000; step++) {
        if (next < 2 * IDS - 1 && rand_r(&seed) % 3 == 0) {
            next += (unsigned)rand_r(&seed) % 2; /* ids may be left out */
            assert_int_equal(mark(harness, writer, next, next * 512, 512), 0);
            expected[next++] = true;
        } else {
            uint64_t first = 1 + (unsigned)rand_r(&seed) % (2 * IDS);
            uint64_t count = 1 + (unsigned)rand_r(&seed) % (rand_r(&seed) % 20 ? 4 : IDS);
            assert_int_equal(writer_settle(writer, first, count, &harness->error), 0);
            for (uint64_t id = first; id < first + count && id < 2 * IDS; id++) {
                expected[id] = false;
            }
        }
        uint64_t count = 0;
        for (size_t id = 0; id < 2 * IDS; id++) {
            count += expected[id];
        }
        assert_int_equal(unsettled(harness), count);
    }
    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_CLEAR_ALL, "d/a"), 0);
    for (uint64_t id = 0; id < 2 * IDS; id++) {
        assert_int_equal(harness_is_dirty(harness, "d/a", id * 512), expected[id]);
    }
}

static void lost_writers_are_carried_until_they_resume(void **state)
{
    struct harness *harness = *state;
    harness_add_bitmap(harness, "d/a", 512, false);
    bool resuming;
    struct writer *writer = attach(harness, "w", &resuming);
    assert_false(resuming);
    assert_int_equal(mark(harness, writer, 1, 0, 512), 0);
    uint64_t sequence;
    assert_int_equal(
        writer_detach(harness->model, writer, NULL, text_of(""), &sequence, &harness->error),
        -EBUSY);
    writer_lost(harness->model, writer);
    assert_int_equal(unsettled(harness), 1);
    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_CLEAR_ALL, "d/a"), 0);
    assert_int_equal(drive_bitmap_dirty_bytes(harness_bitmap(harness, "d/a")), 512);

    writer = attach(harness, "w", &resuming);
    assert_true(resuming);
    assert_int_equal(mark(harness, writer, 1, 4096, 512), 0);
    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_CLEAR_ALL, "d/a"), 0);
    assert_int_equal(drive_bitmap_dirty_bytes(harness_bitmap(harness, "d/a")), 1024);
    assert_int_equal(writer_resume(harness->model, writer, NULL, &sequence, &harness->error), 0);
    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_CLEAR_ALL, "d/a"), 0);
    assert_false(harness_is_dirty(harness, "d/a", 0));
    assert_true(harness_is_dirty(harness, "d/a", 4096));
    writer_lost(harness->model, writer);

    /* After a restart nobody knows the ranges: whole recorders are carried. */
    harness_mark(harness, "d", 65536, 512);
    assert_int_equal(harness_close(harness), 0);
    harness_open(harness);
    struct drive_bitmap *a = harness_bitmap(harness, "d/a");
    assert_int_equal(a->validity, VALIDITY_EXACT);
    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_CLEAR_ALL, "d/a"), 0);
    assert_int_equal(a->validity, VALIDITY_SUPERSET);
    assert_true(harness_is_dirty(harness, "d/a", 4096));
    assert_true(harness_is_dirty(harness, "d/a", 65536));
    harness_add_bitmap(harness, "d/b", 512, false);
    assert_int_equal(harness_bitmap(harness, "d/b")->validity, VALIDITY_SUPERSET);
    assert_true(harness_is_dirty(harness, "d/b", 4096));

    struct record fence = {.type = RECORD_FENCE, .drive = harness_drive(harness, "d")->id};
    assert_int_equal(harness_commit(harness, &fence), 0);
    assert_true(harness_is_dirty(harness, "d/a", 4096)); /* a dead writer's marks stay */
    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_CLEAR_ALL, "d/a"), 0);
    assert_int_equal(a->validity, VALIDITY_EXACT);
    assert_int_equal(drive_bitmap_dirty_bytes(a), 0);
}

static void a_writer_that_owes_nothing_leaves_no_trace(void **state)
{
    struct harness *harness = *state;
    harness_add_bitmap(harness, "d/a", 512, false);
    struct writer *writer = attach(harness, "w", NULL);
    assert_int_equal(mark(harness, writer, 1, 0, 512), 0);
    assert_int_equal(writer_settle(writer, 1, 1, &harness->error), 0);
    writer_lost(harness->model, writer);
    assert_int_equal(harness_close(harness), 0);
    harness_open(harness);
    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_CLEAR_ALL, "d/a"), 0);
    assert_int_equal(harness_bitmap(harness, "d/a")->validity, VALIDITY_EXACT);
    assert_int_equal(drive_bitmap_dirty_bytes(harness_bitmap(harness, "d/a")), 0);
}

static void fenced_writers_are_refused(void **state)
{
    struct harness *harness = *state;
    struct writer *writer = attach(harness, "w", NULL), *other;
    uint64_t sequence;
    bool resuming;
    assert_int_equal(writer_attach(harness->model, harness_drive(harness, "d"),
                                   &(struct writer_attachment){.token = text_of("w")}, &other,
                                   &sequence, &resuming, &harness->error),
                     -EBUSY);
    struct record fence = {
        .type = RECORD_FENCE, .drive = harness_drive(harness, "d")->id, .name = text_of("w")};
    assert_int_equal(harness_commit(harness, &fence), 0);
    assert_int_equal(mark(harness, writer, 1, 0, 512), -EOWNERDEAD);
    assert_int_equal(writer_settle(writer, 1, 1, &harness->error), -EOWNERDEAD);
    assert_int_equal(writer_resume(harness->model, writer, NULL, &sequence, &harness->error),
                     -EOWNERDEAD);
    other = attach(harness, "w", NULL);
    writer_lost(harness->model, writer);
    assert_int_equal(mark(harness, other, 1, 0, 512), 0);
    writer_lost(harness->model, other);
    fence.name = text_of("nobody");
    assert_int_equal(model_commit(harness->model, &fence, &harness->error), -ENOENT);
}

static void unsettled_marks_are_bounded(void **state)
{
    struct harness *harness = *state;
    harness->settings.unsettled_max = 10;
    model_configure(harness->model, &harness->settings);
    harness_add_bitmap(harness, "d/a", 512, false);
    struct writer *writer;
    assert_int_equal(
        writer_new(harness->model, harness_drive(harness, "d"), &writer, &harness->error), 0);
    for (uint64_t id = 1; id <= 10; id++) {
        assert_int_equal(mark(harness, writer, id, id * 512, 512), 0);
    }
    assert_int_equal(mark(harness, writer, 11, 0, 512), -EDQUOT);
    assert_false(harness_is_dirty(harness, "d/a", 0));
    assert_int_equal(writer_settle(writer, 4, 3, &harness->error), 0);
    assert_int_equal(mark(harness, writer, 11, 0, 512), 0);

    /* What anonymous writers leave is one heap, which stays bounded too. */
    for (int i = 0; i < 200; i++) {
        writer_lost(harness->model, writer);
        assert_int_equal(
            writer_new(harness->model, harness_drive(harness, "d"), &writer, &harness->error), 0);
        assert_int_equal(mark(harness, writer, 1, 4096, 512), 0);
    }
    struct drive_status status;
    drive_get_status(harness_drive(harness, "d"), &status);
    assert_int_equal(status.lost_writers, 1);
    writer_lost(harness->model, writer);
    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_CLEAR_ALL, "d/a"), 0);
    assert_true(harness_is_dirty(harness, "d/a", 512));
    assert_int_equal(harness_bitmap(harness, "d/a")->validity, VALIDITY_SUPERSET);
}

static uint32_t lost_writers(struct harness *harness)
{
    struct drive_status status;
    drive_get_status(harness_drive(harness, "d"), &status);
    return status.lost_writers;
}

static void check_kept(struct harness *harness, enum validity validity, uint64_t bytes)
{
    struct drive_bitmap *a = harness_bitmap(harness, "d/a");
    assert_int_equal(a->validity, VALIDITY_EXACT);
    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_CLEAR_ALL, "d/a"), 0);
    assert_int_equal(a->validity, validity);
    assert_int_equal(drive_bitmap_dirty_bytes(a), bytes);
}

/* The container has the writers as they were then, the journal what became of them. */
static void anonymous_writers_over_a_write_back(void **state)
{
    struct harness *harness = *state;
    struct writer *one, *two;
    struct drive *drive = harness_drive(harness, "d");
    harness_add_bitmap(harness, "d/a", 512, false);

    /* One that leaves nothing, … */
    assert_int_equal(writer_new(harness->model, drive, &one, &harness->error), 0);
    assert_int_equal(mark(harness, one, 0, 0, 512), 0);
    past_flush(harness);
    writer_lost(harness->model, one);
    past_crash(harness);
    check_kept(harness, VALIDITY_EXACT, 0);
    /* … one that marks only afterwards, … */
    drive = harness_drive(harness, "d");
    assert_int_equal(writer_new(harness->model, drive, &one, &harness->error), 0);
    past_flush(harness);
    assert_int_equal(mark(harness, one, 1, 4096, 512), 0);
    past_crash_begin(harness);
    writer_lost(harness->model, one);
    past_crash_end(harness);
    check_kept(harness, VALIDITY_SUPERSET, 512);
    past_fence(harness, "d", "");
    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_CLEAR_ALL, "d/a"), 0);
    check_kept(harness, VALIDITY_EXACT, 0);
    /* … and two, of which the one that had nothing goes. */
    for (int first = 0; first < 2; first++) {
        drive = harness_drive(harness, "d");
        assert_int_equal(writer_new(harness->model, drive, &one, &harness->error), 0);
        assert_int_equal(writer_new(harness->model, drive, &two, &harness->error), 0);
        assert_int_equal(mark(harness, first ? two : one, 1, 8192, 512), 0);
        past_flush(harness);
        writer_lost(harness->model, first ? one : two);
        past_crash_begin(harness);
        writer_lost(harness->model, first ? two : one);
        past_crash_end(harness);
        check_kept(harness, VALIDITY_SUPERSET, 512);
        past_restart(harness);
        assert_int_equal(lost_writers(harness), 1);
        past_fence(harness, "d", "");
        assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_CLEAR_ALL, "d/a"), 0);
        check_kept(harness, VALIDITY_EXACT, 0);
    }
}

/* Those that are lost are fenced, and one was connected when the container was written. */
static void fencing_over_a_write_back(void **state)
{
    struct harness *harness = *state;
    harness_add_bitmap(harness, "d/a", 512, false);
    struct writer *stays = attach(harness, "stays", NULL), *goes = attach(harness, "goes", NULL);
    assert_int_equal(mark(harness, stays, 1, 0, 512), 0);
    writer_lost(harness->model, goes);
    past_flush(harness);
    past_fence(harness, "d", "");
    past_crash_begin(harness);
    writer_lost(harness->model, stays);
    past_crash_end(harness);
    assert_int_equal(lost_writers(harness), 1);
    check_kept(harness, VALIDITY_SUPERSET, 512);
    bool resuming;
    stays = attach(harness, "stays", &resuming);
    assert_true(resuming);
    writer_lost(harness->model, stays);
}

int main(void)
{
#define RULE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        RULE(clears_and_creates_carry_unsettled_marks),
        RULE(disabled_bitmaps_keep_unsettled_marks),
        RULE(a_detach_is_no_resume),
        RULE(settles_of_any_ids_in_any_order),
        RULE(lost_writers_are_carried_until_they_resume),
        RULE(a_writer_that_owes_nothing_leaves_no_trace),
        RULE(fenced_writers_are_refused),
        RULE(unsettled_marks_are_bounded),
        cmocka_unit_test_setup_teardown(anonymous_writers_over_a_write_back, setup, teardown),
        cmocka_unit_test_setup_teardown(fencing_over_a_write_back, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
