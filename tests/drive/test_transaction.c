/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Transactions: every kind of part, what undoing leaves, and that a replay has all of it or none.
 */
#include "tests/drive/cold.h"

#include "daemon/drive/internal.h"
#include "daemon/drive/record_codec.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KIB UINT64_C(1024)
#define MIB (UINT64_C(1) << 20)

static const struct request_id no_request;

/* Bitmaps in every state, a history whose sealed bits are in memory, and another drive. */
static int setup(void **state)
{
    struct harness *harness = malloc(sizeof *harness);
    assert_non_null(harness);
    harness_init(harness);
    harness->settings.cache_max = MIB;
    harness_open(harness);
    harness_add_drive(harness, "d", MIB);
    harness_add_bitmap(harness, "d/on", 512, false);
    harness_add_bitmap(harness, "d/coarse", 4096, false);
    harness_add_bitmap(harness, "d/gap", 512, true);
    cold_fill(harness);
    harness_add_bitmap(harness, "d/off", 512, true);
    struct record distrust = {.type = RECORD_BITMAP_DISTRUST,
                              .drive = harness_drive(harness, "d")->id,
                              .bitmap = harness_bitmap(harness, "d/coarse")->id,
                              .name = text_of("for a test")};
    assert_int_equal(harness_commit(harness, &distrust), 0);
    harness_add_drive(harness, "e", 64 * KIB);
    past_create(harness, "e", "e0");
    *state = harness;
    return 0;
}

static int teardown(void **state)
{
    harness_deinit(*state);
    free(*state);
    return 0;
}

/* ---- Parts ---- */

static struct record on_bitmap(struct harness *harness, enum record_type type, const char *name)
{
    const struct drive_bitmap *bitmap = harness_bitmap(harness, name);
    return (struct record){.type = type, .drive = bitmap->drive->id, .bitmap = bitmap->id};
}

static struct record on_drive(struct harness *harness, enum record_type type, const char *drive,
                              const char *name)
{
    return (struct record){.type = type,
                           .drive = harness_drive(harness, drive)->id,
                           .name = text_of(name),
                           .uuid = {7, (uint8_t)name[0]},
                           .created_ns = 77};
}

static struct record of_checkpoint(struct harness *harness, const char *drive, const char *name)
{
    const struct drive_bitmap *bitmap = past_find(harness, drive, name);
    return (struct record){
        .type = RECORD_CHECKPOINT_DELETE, .drive = bitmap->drive->id, .bitmap = bitmap->id};
}

static int part(struct harness *harness, struct record record)
{
    int r = model_commit(harness->model, &record, &harness->error);
    return r;
}

static void must(struct harness *harness, struct record record)
{
    if (part(harness, record) < 0) {
        fail_msg("%s: %s", record_type_name(record.type), harness->error.text);
    }
}

static void begin(struct harness *harness)
{
    assert_int_equal(model_transaction_begin(harness->model, &harness->error), 0);
}

static int end(struct harness *harness, const struct request_id *request, uint64_t *ret_sequence)
{
    uint64_t sequence;
    int r = model_transaction_commit(harness->model, request, "peer", &sequence, &harness->error);
    assert_null(harness->model->transaction);
    if (r == 0) {
        assert_int_equal(sequence, model_sequence(harness->model));
        assert_int_equal(harness_wait(harness, sequence, ACK_DURABLE), 0);
    }
    if (r == 0 && ret_sequence) {
        *ret_sequence = sequence;
    }
    return r;
}

static struct range some = {100 * KIB, 5000}, more = {0, 700 * KIB};

/* Parts that a name is enough for. */
#define STEP(name, ...)                       \
    static void name(struct harness *harness) \
    {                                         \
        must(harness, __VA_ARGS__);           \
    }
STEP(do_create, on_drive(harness, RECORD_BITMAP_CREATE, "d", "new"))
STEP(do_delete, on_bitmap(harness, RECORD_BITMAP_DELETE, "d/coarse"))
STEP(do_delete_off, on_bitmap(harness, RECORD_BITMAP_DELETE, "d/gap"))
STEP(do_enable, on_bitmap(harness, RECORD_BITMAP_ENABLE, "d/off"))
STEP(do_enable_gap, on_bitmap(harness, RECORD_BITMAP_ENABLE, "d/gap"))
STEP(do_enable_enabled, on_bitmap(harness, RECORD_BITMAP_ENABLE, "d/on"))
STEP(do_disable, on_bitmap(harness, RECORD_BITMAP_DISABLE, "d/on"))
STEP(do_clear_all, on_bitmap(harness, RECORD_BITMAP_CLEAR_ALL, "d/coarse"))
STEP(do_clear_all_gap, on_bitmap(harness, RECORD_BITMAP_CLEAR_ALL, "d/gap"))
STEP(do_checkpoint, on_drive(harness, RECORD_CHECKPOINT_CREATE, "d", "new"))
STEP(do_delete_eldest, of_checkpoint(harness, "d", "c0"))
STEP(do_delete_middle, of_checkpoint(harness, "d", "c1"))
STEP(do_delete_newest, of_checkpoint(harness, "d", "c3"))
STEP(do_delete_only, of_checkpoint(harness, "e", "e0"))

static void do_create_disabled(struct harness *harness)
{
    struct record record = on_drive(harness, RECORD_BITMAP_CREATE, "d", "newoff");
    record.disabled = true;
    must(harness, record);
}

static void do_rename(struct harness *harness)
{
    struct record record = on_bitmap(harness, RECORD_BITMAP_RENAME, "d/coarse");
    record.name = text_of("aaa");
    must(harness, record);
}

static void do_set(struct harness *harness)
{
    struct record record = on_bitmap(harness, RECORD_BITMAP_SET, "d/on");
    record.ranges = &some;
    record.ranges_count = 1;
    must(harness, record);
}

static void do_clear(struct harness *harness)
{
    struct record record = on_bitmap(harness, RECORD_BITMAP_CLEAR, "d/on");
    record.ranges = &more;
    record.ranges_count = 1;
    must(harness, record);
}

static void do_merge(struct harness *harness)
{
    struct record record = on_bitmap(harness, RECORD_BITMAP_MERGE, "d/off");
    uint64_t sources[] = {harness_bitmap(harness, "d/on")->id,
                          harness_bitmap(harness, "d/coarse")->id};
    record.sources = sources;
    record.sources_count = 2;
    must(harness, record);
}

static void do_first_checkpoint(struct harness *harness)
{
    must(harness, of_checkpoint(harness, "e", "e0"));
    must(harness, on_drive(harness, RECORD_CHECKPOINT_CREATE, "e", "first"));
}

static void do_delete_all(struct harness *harness)
{
    must(harness, of_checkpoint(harness, "d", "c2"));
    must(harness, of_checkpoint(harness, "d", "c0"));
    must(harness, of_checkpoint(harness, "d", "c3"));
    must(harness, of_checkpoint(harness, "d", "c1"));
}

static void do_make_and_take(struct harness *harness)
{
    do_create(harness);
    struct record record = on_bitmap(harness, RECORD_BITMAP_MERGE, "d/new");
    uint64_t source = harness_bitmap(harness, "d/on")->id;
    record.sources = &source;
    record.sources_count = 1;
    must(harness, record);
    must(harness, on_bitmap(harness, RECORD_BITMAP_DELETE, "d/on"));
    record = on_bitmap(harness, RECORD_BITMAP_RENAME, "d/new");
    record.name = text_of("on");
    must(harness, record);
    do_set(harness);
    must(harness, on_bitmap(harness, RECORD_BITMAP_DELETE, "d/on"));
    do_checkpoint(harness);
    must(harness, of_checkpoint(harness, "d", "new"));
}

typedef void step(struct harness *harness);

static step *const steps[] = {
    do_create,        do_create_disabled, do_delete,     do_delete_off,    do_enable,
    do_enable_gap,    do_enable_enabled,  do_disable,    do_rename,        do_set,
    do_clear,         do_clear_all,       do_merge,      do_checkpoint,    do_first_checkpoint,
    do_delete_only,   do_clear_all_gap,   do_delete_all, do_delete_eldest, do_delete_middle,
    do_delete_newest, do_make_and_take,
};
#define STEPS (sizeof steps / sizeof steps[0])

/* ---- Undoing ---- */

static void each_kind_is_undone(void **state)
{
    struct harness *harness = *state;
    struct past_image image;

    for (int flushed = 0; flushed < 2; flushed++) {
        past_image_take(harness, &image);
        for (size_t i = 0; i < STEPS; i++) {
            begin(harness);
            steps[i](harness);
            model_transaction_abort(harness->model);
            past_image_check(harness, &image);
        }
        /* All that fit behind each other, and each of them twice where that works. */
        begin(harness);
        do_create(harness);
        do_create_disabled(harness);
        do_set(harness);
        do_set(harness);
        do_clear(harness);
        do_clear(harness);
        do_disable(harness);
        do_enable_gap(harness);
        do_merge(harness);
        do_merge(harness);
        do_clear_all(harness);
        do_clear_all(harness);
        do_rename(harness);
        do_checkpoint(harness);
        do_delete_newest(harness);
        do_delete_middle(harness);
        do_delete_eldest(harness);
        do_enable(harness);
        do_delete_off(harness);
        model_transaction_abort(harness->model);
        past_image_check(harness, &image);
        past_image_free(&image);
        past_flush(harness);
    }
    model_transaction_abort(harness->model); /* of none */
    past_restart(harness);
    assert_int_equal(past_validity(harness, "d", "c0"), VALIDITY_EXACT);
}

static void undoing_brings_dropped_writers_back(void **state)
{
    struct harness *harness = *state;
    static const char *const tokens[] = {"w0", "w1", "w2", "w3"};
    struct writer *writers[4];
    for (size_t i = 0; i < 4; i++) {
        writers[i] =
            past_attach(harness, "d", &(struct writer_attachment){.token = text_of(tokens[i])});
        past_mark(harness, writers[i], 1, i * 4096, 512);
    }
    past_reboot(harness);
    for (size_t i = 0; i < 4; i++) {
        writer_lost(harness->model, writers[i]);
    }
    past_restart(harness);
    struct writer *living =
        past_attach(harness, "d", &(struct writer_attachment){.token = text_of("w2")});
    assert_int_equal(past_try_delete(harness, "d", "c0"), 0); /* reads nothing */
    struct past_image image;
    past_image_take(harness, &image);
    begin(harness);
    do_checkpoint(harness);
    assert_int_equal(harness_drive(harness, "d")->writers_count, 1);
    do_set(harness);
    model_transaction_abort(harness->model);
    past_image_check(harness, &image);
    past_image_free(&image);
    begin(harness);
    do_checkpoint(harness);
    assert_int_equal(end(harness, &no_request, NULL), 0);
    assert_int_equal(harness_drive(harness, "d")->writers_count, 1);
    past_crash_begin(harness);
    writer_lost(harness->model, living);
    past_crash_end(harness);
    assert_int_equal(harness_drive(harness, "d")->writers_count, 1);
    assert_int_equal(past_find(harness, "d", "new")->validity, VALIDITY_SUPERSET);
}

static void a_last_part_that_fails(void **state)
{
    struct harness *harness = *state;
    struct past_image image;

    past_image_take(harness, &image);
    for (size_t i = 0; i < STEPS; i++) {
        begin(harness);
        steps[i](harness);
        struct record record = on_drive(harness, RECORD_BITMAP_CREATE, "d", "not/a/name");
        assert_int_equal(part(harness, record), -EINVAL);
        model_transaction_abort(harness->model);
        past_image_check(harness, &image);
    }
    /* Nothing is left of it for the next one either. */
    begin(harness);
    assert_int_equal(end(harness, &no_request, NULL), -EINVAL);
    past_image_check(harness, &image);
    past_image_free(&image);
}

/* ---- Committing ---- */

static void check_same_after(struct harness *harness, void (*how)(struct harness *harness))
{
    uint8_t *before, *after;
    size_t before_bytes, after_bytes;
    uint64_t sequence = model_sequence(harness->model);
    uint64_t map = past_find(harness, "d", "c0") ? past_dirty_bytes(harness, "d", "c0", NULL) : 0;

    assert_int_equal(state_encode(harness->model, &before, &before_bytes), 0);
    how(harness);
    assert_true(model_sequence(harness->model) >= sequence);
    assert_int_equal(state_encode(harness->model, &after, &after_bytes), 0);
    assert_int_equal(before_bytes, after_bytes);
    /* All but the instance of the journal. */
    memset(before + 12, 0, 16);
    memset(after + 12, 0, 16);
    assert_memory_equal(before, after, before_bytes);
    free(before);
    free(after);
    if (past_find(harness, "d", "c0")) {
        assert_int_equal(past_dirty_bytes(harness, "d", "c0", NULL), map);
    }
}

static void each_kind_outlives_a_crash(void **state)
{
    struct harness *harness = *state;
    (void)state;
    for (size_t i = 0; i < STEPS; i++) {
        uint64_t before = model_sequence(harness->model), sequence;
        begin(harness);
        steps[i](harness);
        assert_int_equal(model_sequence(harness->model), before);
        assert_int_equal(end(harness, &no_request, &sequence), 0);
        assert_int_equal(sequence, before + 1);
        check_same_after(harness, past_crash);
        check_same_after(harness, past_restart);
        /* From the beginning for the next one. */
        void *fresh = harness;
        assert_int_equal(teardown(&fresh), 0);
        assert_int_equal(setup(&fresh), 0);
        harness = fresh;
        *state = fresh;
    }
}

static void parts_see_those_before_them(void **state)
{
    struct harness *harness = *state;
    uint64_t dirty = drive_bitmap_dirty_bytes(harness_bitmap(harness, "d/on")), sequence;
    begin(harness);
    do_create_disabled(harness);
    struct record merge = on_bitmap(harness, RECORD_BITMAP_MERGE, "d/newoff");
    uint64_t source = harness_bitmap(harness, "d/on")->id;
    merge.sources = &source;
    merge.sources_count = 1;
    must(harness, merge);
    must(harness, on_bitmap(harness, RECORD_BITMAP_CLEAR_ALL, "d/on"));
    must(harness, merge); /* of nothing now */
    do_checkpoint(harness);
    do_delete_middle(harness);
    must(harness, on_drive(harness, RECORD_CHECKPOINT_CREATE, "e", "new"));
    assert_int_equal(end(harness, &no_request, &sequence), 0);

    for (int i = 0; i < 3; i++) {
        assert_int_equal(drive_bitmap_dirty_bytes(harness_bitmap(harness, "d/newoff")), dirty);
        assert_int_equal(drive_bitmap_dirty_bytes(harness_bitmap(harness, "d/on")), 0);
        assert_null(past_find(harness, "d", "c1"));
        /* One moment for all drives. */
        assert_int_equal(past_find(harness, "d", "new")->checkpoint->sequence, sequence);
        assert_int_equal(past_find(harness, "e", "new")->checkpoint->sequence, sequence);
        assert_int_equal(past_find(harness, "d", "new")->checkpoint->created_ns, 77);
        assert_int_equal(past_find(harness, "d", "new")->checkpoint->uuid[1], 'n');
        if (i == 0) {
            past_crash(harness);
        } else {
            past_restart(harness);
        }
    }
}

static void one_checkpoint_of_a_drive_in_each(void **state)
{
    struct harness *harness = *state;
    begin(harness);
    do_checkpoint(harness);
    assert_int_equal(part(harness, on_drive(harness, RECORD_CHECKPOINT_CREATE, "d", "another")),
                     -EINVAL);
    model_transaction_abort(harness->model);
    /* One that is gone again was none. */
    begin(harness);
    do_checkpoint(harness);
    must(harness, of_checkpoint(harness, "d", "new"));
    must(harness, on_drive(harness, RECORD_CHECKPOINT_CREATE, "d", "another"));
    assert_int_equal(end(harness, &no_request, NULL), 0);
    past_crash(harness);
    assert_null(past_find(harness, "d", "new"));
    assert_non_null(past_find(harness, "d", "another"));
    past_restart(harness);
    assert_non_null(past_find(harness, "d", "another"));
}

static void what_is_no_part(void **state)
{
    struct harness *harness = *state;
    struct past_image image;
    uint64_t sequence;

    past_image_take(harness, &image);
    begin(harness);
    do_set(harness);
    for (enum record_type type = 0; type < RECORD_TRANSACTION; type++) {
        bool allowed = (type >= RECORD_BITMAP_CREATE && type <= RECORD_BITMAP_MERGE) ||
                       type == RECORD_CHECKPOINT_CREATE || type == RECORD_CHECKPOINT_DELETE;
        if (!allowed) {
            struct record record = {.type = type,
                                    .drive = harness_drive(harness, "d")->id,
                                    .bitmap = harness_bitmap(harness, "d/on")->id,
                                    .name = text_of("x"),
                                    .size = MIB,
                                    .granularity = 512,
                                    .durability = DURABILITY_POWER_LOSS,
                                    .untracked = UNTRACKED_HIDDEN,
                                    .ranges = &some,
                                    .ranges_count = 1};
            assert_int_equal(part(harness, record), -EINVAL);
        }
    }
    assert_int_equal(drive_mark(harness->model, harness_drive(harness, "d"),
                                &(struct range){300 * KIB, 1}, 1, &sequence, &harness->error),
                     -EINVAL);
    model_transaction_abort(harness->model);
    past_image_check(harness, &image);
    past_image_free(&image);
}

/* More than fits into the journal at once. */
static void one_that_is_too_large(void **state)
{
    struct harness *harness = *state;
    static struct range ranges[4096];
    struct past_image image;

    for (size_t i = 0; i < 4096; i++) {
        ranges[i] = (struct range){i % 1024 * 1024, 512};
    }
    past_image_take(harness, &image);
    begin(harness);
    for (unsigned i = 0; i < 20; i++) {
        struct record record = on_bitmap(harness, RECORD_BITMAP_SET, "d/on");
        record.ranges = ranges;
        record.ranges_count = 4096;
        must(harness, record);
    }
    assert_int_equal(end(harness, &no_request, NULL), -EFBIG);
    past_image_check(harness, &image);
    past_image_free(&image);
    do_set(harness); /* alone, as ever */
}

static void a_request_is_remembered(void **state)
{
    struct harness *harness = *state;
    static const struct request_id request = {{9, 9}};
    uint64_t sequence;

    begin(harness);
    do_set(harness);
    assert_int_equal(part(harness, on_drive(harness, RECORD_BITMAP_CREATE, "d", "on")), -EEXIST);
    model_transaction_abort(harness->model);
    assert_null(model_request_find(harness->model, &request));
    begin(harness);
    do_create(harness);
    assert_int_equal(end(harness, &request, &sequence), 0);
    for (int i = 0; i < 3; i++) {
        const struct request_result *result = model_request_find(harness->model, &request);
        assert_non_null(result);
        assert_int_equal(result->type, RECORD_TRANSACTION);
        assert_int_equal(result->sequence, sequence);
        assert_int_equal(result->object, harness_bitmap(harness, "d/new")->id);
        if (i == 0) {
            past_crash(harness);
        } else {
            past_restart(harness);
        }
    }
}

/* What is cold is fetched, and the whole is tried again. */
static void parts_that_have_to_be_read(void **state)
{
    struct harness *harness = *state;
    harness->settings.cache_max = 0;
    past_restart(harness);
    uint64_t map = past_dirty_bytes(harness, "d", "c0", "c3");
    struct model_fetch fetch = {.model = NULL};
    struct past_image image;
    int r = -EAGAIN;

    past_image_take(harness, &image);
    for (unsigned tries = 0; r == -EAGAIN; tries++) {
        assert_true(tries < 3);
        begin(harness);
        do_set(harness);
        r = part(harness, of_checkpoint(harness, "d", "c1"));
        if (r == 0) {
            r = part(harness, of_checkpoint(harness, "d", "c2"));
        }
        if (r == 0) {
            break;
        }
        assert_int_equal(r, -EAGAIN);
        model_transaction_abort(harness->model);
        if (tries == 0) {
            past_image_check(harness, &image);
        }
        assert_int_equal(past_fetch(harness, &fetch), 0);
    }
    past_image_free(&image);
    assert_int_equal(end(harness, &no_request, NULL), 0);
    model_fetch_release(&fetch);
    assert_int_equal(past_dirty_bytes(harness, "d", "c0", "c3"), map);
    past_crash(harness); /* which reads them on its own */
    assert_int_equal(past_dirty_bytes(harness, "d", "c0", "c3"), map);
    past_restart(harness);
    assert_int_equal(past_dirty_bytes(harness, "d", "c0", "c3"), map);
    assert_int_equal(past_validity(harness, "d", "c0"), VALIDITY_EXACT);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(each_kind_is_undone),
        TEST(undoing_brings_dropped_writers_back),
        TEST(a_last_part_that_fails),
        TEST(each_kind_outlives_a_crash),
        TEST(parts_see_those_before_them),
        TEST(one_checkpoint_of_a_drive_in_each),
        TEST(what_is_no_part),
        TEST(one_that_is_too_large),
        TEST(a_request_is_remembered),
        TEST(parts_that_have_to_be_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
