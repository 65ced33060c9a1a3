/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How unions are made: step by step, in turn, and what comes between two steps.
 */
#include "tests/drive/gate.h"

#include "daemon/drive/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB   (UINT64_C(1) << 20)
#define COUNT 6u /* checkpoints of "d": all but the last are in the container only */

static const char *const names[COUNT] = {"c0", "c1", "c2", "c3", "c4", "c5"};

/* Checkpoint @i is followed by marks of its own granule and of one that all have. */
static void fill(struct harness *harness, const char *drive)
{
    harness_add_drive(harness, drive, MIB);
    for (unsigned i = 0; i < COUNT; i++) {
        past_create(harness, drive, names[i]);
        harness_mark(harness, drive, i * 4096, 512);
        harness_mark(harness, drive, MIB / 2, 512);
    }
}

static int setup(void **state)
{
    struct harness *harness = malloc(sizeof *harness);
    assert_non_null(harness);
    gates_open();
    harness_init(harness);
    harness_open(harness);
    fill(harness, "d");
    past_flush(harness);
    for (unsigned i = 0; i < COUNT; i++) {
        assert_int_equal(past_find(harness, "d", names[i])->bits == NULL, i + 1 < COUNT);
    }
    *state = harness;
    return 0;
}

static int teardown(void **state)
{
    gates_open();
    harness_deinit(*state);
    free(*state);
    return 0;
}

struct asked {
    struct model_union request; /* first */
    unsigned number;            /* of its end among those of all; 0: not done */
    int r;
    struct error error;
};

static unsigned ends;

static void asked_done(struct model_union *request, int r, const struct error *error)
{
    struct asked *asked = (struct asked *)request;

    assert_int_equal(asked->number, 0);
    assert_null(request->work);
    asked->number = ++ends;
    asked->r = r;
    asked->error = *error;
    assert_int_equal(r == 0, request->bits != NULL);
}

static void never_done(struct model_union *request, int r, const struct error *error)
{
    (void)request;
    (void)r;
    (void)error;
    fail();
}

static void ask_drive(struct harness *harness, struct asked *asked, const char *drive,
                      const char *since, const char *until)
{
    *asked = (struct asked){.request = {.done = asked_done}};
    if (model_union(harness->model, past_find(harness, drive, since),
                    until ? past_find(harness, drive, until) : NULL, &asked->request,
                    &harness->error) < 0) {
        fail_msg("union: %s", harness->error.text);
    }
    assert_non_null(asked->request.work);
    assert_int_equal(asked->number, 0);
}

static void ask(struct harness *harness, struct asked *asked, const char *since, const char *until)
{
    ask_drive(harness, asked, "d", since, until);
}

static void await(struct harness *harness, struct asked *asked)
{
    while (asked->number == 0) {
        (void)uv_run(&harness->loop, UV_RUN_ONCE);
    }
}

static void turns(struct harness *harness, unsigned count)
{
    while (count-- > 0) {
        (void)uv_run(&harness->loop, UV_RUN_NOWAIT);
    }
}

/* The answer is that of checkpoints [@first, @end), and is let go of. */
static void check(struct asked *asked, unsigned first, unsigned end)
{
    if (asked->r < 0) {
        fail_msg("union: %s", asked->error.text);
    }
    assert_int_equal(asked->request.validity, VALIDITY_EXACT);
    for (unsigned i = 0; i < COUNT; i++) {
        assert_int_equal(bitmap_test_all(asked->request.bits, i * 4096, 512),
                         i >= first && i < end);
    }
    assert_int_equal(bitmap_count_range(asked->request.bits, 0, MIB), end - first + 1);
    bitmap_free(asked->request.bits);
}

static void one_part_after_the_other(void **state)
{
    struct harness *harness = *state;
    struct asked asked;

    gate_close(GATE_READ);
    ask(harness, &asked, "c1", NULL);
    assert_int_equal(asked.request.sequence, model_sequence(harness->model));
    for (unsigned i = 1; i + 1 < COUNT; i++) {
        gate_await(harness, GATE_READ, i);
        turns(harness, 10);
        assert_int_equal(gate_arrived(GATE_READ), i);
        assert_int_equal(asked.number, 0);
        gate_let(GATE_READ, 1);
    }
    await(harness, &asked);
    check(&asked, 1, COUNT);
    assert_int_equal(gate_arrived(GATE_READ), COUNT - 2);
    assert_int_equal(harness->model->cache_bytes, 0);
}

struct flushed {
    struct model_waiter waiter; /* first */
    bool done;
};

static void flush_done(struct model_waiter *waiter, int r)
{
    assert_int_equal(r, 0);
    ((struct flushed *)waiter)->done = true;
}

static void write_backs_get_in_between(void **state)
{
    struct harness *harness = *state;
    struct asked asked[3];

    gate_close(GATE_READ);
    for (size_t i = 0; i < 3; i++) {
        ask(harness, &asked[i], "c0", NULL);
    }
    for (unsigned i = 1; i <= 3 * (COUNT - 1); i++) {
        gate_await(harness, GATE_READ, i);
        harness_mark(harness, "d", 600 * 1024 + i * 512, 512);
        struct flushed flushed = {.waiter = {.done = flush_done}};
        model_wait(harness->model, model_sequence(harness->model), ACK_CONTAINER, &flushed.waiter);
        turns(harness, 5);
        assert_false(flushed.done);
        /* It is queued behind this step, and no other one is in front of it. */
        gate_let(GATE_READ, 1);
        while (!flushed.done) {
            (void)uv_run(&harness->loop, UV_RUN_ONCE);
        }
        assert_true(gate_arrived(GATE_READ) <= i + 1);
    }
    for (size_t i = 0; i < 3; i++) {
        await(harness, &asked[i]);
        assert_true(i == 0 || asked[i].number > asked[i - 1].number);
        /* The marks up to when it was begun. */
        assert_int_equal(bitmap_count_range(asked[i].request.bits, 0, 600 * 1024), COUNT + 1);
        assert_int_equal(bitmap_count_range(asked[i].request.bits, 600 * 1024, 100 * 1024),
                         i * (COUNT - 1));
        bitmap_free(asked[i].request.bits);
    }
}

/* ---- Turns ---- */

static void they_take_turns(void **state)
{
    struct harness *harness = *state;
    struct asked reading[4], others[4], cancelled[2];

    fill(harness, "e"); /* all of it in memory: nothing is flushed */
    past_delete(harness, "d", "c5");
    past_create(harness, "d", "c5");
    ends = 0;
    gate_close(GATE_READ);
    for (unsigned i = 0; i < 4; i++) {
        ask(harness, &reading[i], names[i], "c4");
        ask_drive(harness, &others[i], "e", names[i], NULL);
        if (i == 1) {
            ask(harness, &cancelled[0], "c0", NULL);
            ask_drive(harness, &cancelled[1], "e", "c0", NULL);
            cancelled[0].request.done = cancelled[1].request.done = never_done;
        }
    }
    /* One that waits is gone at once. */
    model_union_cancel(&cancelled[0].request);
    model_union_cancel(&cancelled[1].request);
    assert_null(cancelled[0].request.work);
    model_union_cancel(&cancelled[0].request);
    /* What need not read does not wait for what does. */
    for (unsigned i = 0; i < 4; i++) {
        await(harness, &others[i]);
        assert_int_equal(others[i].number, i + 1);
        check(&others[i], i, COUNT);
    }
    gate_await(harness, GATE_READ, 1);
    turns(harness, 10);
    assert_int_equal(gate_arrived(GATE_READ), 1);
    gate_let(GATE_READ, 100);
    for (unsigned i = 0; i < 4; i++) {
        await(harness, &reading[i]);
        assert_int_equal(reading[i].number, 4 + i + 1);
        check(&reading[i], i, 4);
    }
    assert_int_equal(gate_arrived(GATE_READ), 4 + 3 + 2 + 1);
    assert_null(harness->model->unions[UNION_LANE_READS].running);
    assert_null(harness->model->unions[UNION_LANE_MEMORY].running);
}

/* Its bits were in memory when it was asked for, and are not when its turn comes. */
static void what_is_let_go_of_meanwhile_is_read(void **state)
{
    struct harness *harness = *state;
    struct asked first, moved, last;

    fill(harness, "e");
    gate_close(GATE_MERGE);
    ask_drive(harness, &first, "e", "c0", NULL);
    ask_drive(harness, &moved, "e", "c1", "c4");
    ask_drive(harness, &last, "e", "c5", NULL);
    gate_await(harness, GATE_MERGE, 1);
    past_flush(harness);
    assert_null(past_find(harness, "e", "c1")->bits);
    gate_close(GATE_READ);
    gate_let(GATE_MERGE, 100);
    await(harness, &first);
    check(&first, 0, COUNT);
    await(harness, &last);
    check(&last, 5, COUNT);
    gate_let(GATE_READ, 100);
    await(harness, &moved);
    check(&moved, 1, 4);
    assert_int_equal(gate_arrived(GATE_READ), 3);
}

/* ---- What changes meanwhile ---- */

struct change {
    struct model_fetch fetch; /* first */
    struct harness *harness;
    struct record record;
    bool done;
};

static void change_commit(struct change *change)
{
    struct harness *harness = change->harness;
    int r = model_commit(harness->model, &change->record, &harness->error);

    if (r == -EAGAIN && !change->fetch.model) {
        assert_int_equal(model_fetch(harness->model, &change->fetch, &harness->error), 0);
        return;
    }
    if (r < 0) {
        fail_msg("change: %s", harness->error.text);
    }
    model_fetch_release(&change->fetch);
    change->done = true;
}

static void change_fetched(struct model_fetch *fetch, int r, const struct error *error)
{
    (void)error;
    assert_int_equal(r, 0);
    change_commit((struct change *)fetch);
}

static void change_begin(struct harness *harness, struct change *change, struct record record)
{
    *change =
        (struct change){.fetch = {.done = change_fetched}, .harness = harness, .record = record};
    change_commit(change);
}

static struct record delete_of(struct harness *harness, const char *name)
{
    const struct drive_bitmap *bitmap = past_find(harness, "d", name);
    return (struct record){
        .type = RECORD_CHECKPOINT_DELETE, .drive = bitmap->drive->id, .bitmap = bitmap->id};
}

/*
 * While part number @step (from 1 on) is being read, @record is asked for; what it has to read is
 * read before the next part.  The number of parts that were read in all.
 */
static unsigned change_at(struct harness *harness, struct asked *asked, unsigned step,
                          struct record record)
{
    struct change change;

    gate_let(GATE_READ, step - 1);
    gate_await(harness, GATE_READ, step);
    change_begin(harness, &change, record);
    gate_let(GATE_READ, 1);
    while (!change.done) {
        (void)uv_run(&harness->loop, UV_RUN_ONCE);
    }
    gate_let(GATE_READ, 1000);
    await(harness, asked);
    unsigned reads = gate_arrived(GATE_READ);
    gates_open();
    return reads;
}

static void a_part_is_deleted(void **state)
{
    struct harness *harness = *state;
    struct asked asked;

    for (unsigned i = 4; i >= 1; i--) {
        gate_close(GATE_READ);
        ask(harness, &asked, "c0", NULL);
        unsigned reads = change_at(harness, &asked, 1, delete_of(harness, names[i]));
        check(&asked, 0, COUNT);
        /* Two parts were read before that is seen, unless no more were to be read. */
        assert_int_equal(reads, 2 + (i - 1));
        if (i > 1) {
            assert_int_equal(asked.request.sequence, model_sequence(harness->model));
        }
        past_flush(harness);
    }
    gate_close(GATE_READ);
    ask(harness, &asked, "c0", "c5");
    /* Of all of them one is left. */
    gate_let(GATE_READ, 1);
    await(harness, &asked);
    check(&asked, 0, 5);
}

static void an_end_is_deleted(void **state)
{
    struct harness *harness = *state;
    struct asked asked, queued[3];

    gate_close(GATE_READ);
    ask(harness, &asked, "c0", "c4");
    ask(harness, &queued[0], "c0", NULL);
    ask(harness, &queued[1], "c1", "c4");
    ask(harness, &queued[2], "c1", NULL);
    (void)change_at(harness, &asked, 1, delete_of(harness, "c4"));
    assert_int_equal(asked.r, -ENOENT);
    assert_string_equal(asked.error.text, "drive 'd' has no checkpoint named 'c4'");
    await(harness, &queued[0]);
    check(&queued[0], 0, COUNT);
    await(harness, &queued[1]);
    assert_int_equal(queued[1].r, -ENOENT);
    await(harness, &queued[2]);
    check(&queued[2], 1, COUNT);

    /* The eldest: what was begun has it, what waits has not. */
    past_flush(harness);
    gate_close(GATE_READ);
    ask(harness, &asked, "c0", NULL);
    ask(harness, &queued[0], "c0", NULL);
    ask(harness, &queued[1], "c1", NULL);
    (void)change_at(harness, &asked, 1, delete_of(harness, "c0"));
    check(&asked, 0, COUNT);
    await(harness, &queued[0]);
    assert_int_equal(queued[0].r, -ENOENT);
    await(harness, &queued[1]);
    check(&queued[1], 1, COUNT);

    /* Another one of the name is not the same; nor is a drive's. */
    past_flush(harness);
    gate_close(GATE_READ);
    ask(harness, &asked, "c1", NULL);
    gate_await(harness, GATE_READ, 1);
    ask(harness, &queued[0], "c1", NULL);
    struct record record = delete_of(harness, "c1");
    assert_int_equal(model_commit(harness->model, &record, &harness->error), 0);
    past_create(harness, "d", "c1");
    gates_open();
    await(harness, &queued[0]);
    assert_int_equal(queued[0].r, -ENOENT);
    assert_string_equal(queued[0].error.text, "checkpoint 'c1' of drive 'd' is another one by now");
    check(&asked, 1, COUNT);
    past_flush(harness);
    gate_close(GATE_READ);
    ask(harness, &asked, "c2", NULL);
    struct record removal = {
        .type = RECORD_DRIVE_REMOVE, .drive = harness_drive(harness, "d")->id, .force = true};
    (void)change_at(harness, &asked, 1, removal);
    assert_int_equal(asked.r, -ENOENT);
    assert_string_equal(asked.error.text, "no drive named 'd'");
}

static void the_size_changes(void **state)
{
    struct harness *harness = *state;
    const uint64_t sizes[] = {2 * MIB, MIB / 4, 4 * MIB};

    for (size_t i = 0; i < 3; i++) {
        struct asked asked;
        gate_close(GATE_READ);
        ask(harness, &asked, "c0", NULL);
        struct record resize = {.type = RECORD_DRIVE_RESIZE,
                                .drive = harness_drive(harness, "d")->id,
                                .size = sizes[i]};
        (void)change_at(harness, &asked, 2, resize);
        assert_int_equal(asked.r, 0);
        assert_int_equal(asked.request.size, sizes[i]);
        assert_int_equal(asked.request.sequence, model_sequence(harness->model));
        assert_int_equal(bitmap_size_bytes(asked.request.bits), sizes[i]);
        assert_int_equal(bitmap_count_range(asked.request.bits, 0, MIB / 4), COUNT);
        if (i != 1) {
            assert_true(bitmap_test_all(asked.request.bits, sizes[i] / 2, sizes[i] / 2));
        }
        bitmap_free(asked.request.bits);
        past_flush(harness);
    }
}

/* Whatever changes them, it comes to an end. */
static void they_change_again_and_again(void **state)
{
    struct harness *harness = *state;
    struct asked asked;
    unsigned renames = 0;

    gate_close(GATE_READ);
    ask(harness, &asked, "c0", NULL);
    while (asked.number == 0) {
        gate_await(harness, GATE_READ, renames + 1);
        struct record rename = {
            .type = RECORD_DRIVE_RENAME,
            .drive = past_find(harness, renames % 2 ? "other" : "d", "c0")->drive->id,
            .name = text_of(renames % 2 ? "d" : "other")};
        assert_int_equal(model_commit(harness->model, &rename, &harness->error), 0);
        renames++;
        gate_let(GATE_READ, 1);
        while (asked.number == 0 && gate_arrived(GATE_READ) == renames) {
            turns(harness, 1);
        }
    }
    assert_int_equal(asked.r, -EBUSY);
    assert_non_null(strstr(asked.error.text, "try again"));
    assert_true(renames > 8 && renames < 100);
    gates_open();
    ask_drive(harness, &asked, renames % 2 ? "other" : "d", "c0", NULL);
    await(harness, &asked);
    check(&asked, 0, COUNT);
}

/* ---- Nobody waits any more ---- */

static void cancelled_at_every_step(void **state)
{
    struct harness *harness = *state;

    for (unsigned step = 0; step < COUNT; step++) {
        struct asked cancelled, next;
        gate_close(GATE_READ);
        ask(harness, &cancelled, "c0", NULL);
        cancelled.request.done = never_done;
        ask(harness, &next, "c1", NULL);
        gate_let(GATE_READ, step > 0 ? step - 1 : 0);
        gate_await(harness, GATE_READ, step);
        model_union_cancel(&cancelled.request);
        assert_null(cancelled.request.work);
        memset(&cancelled, 0xee, sizeof cancelled);
        gate_let(GATE_READ, 100);
        await(harness, &next);
        check(&next, 1, COUNT);
        /* Not one step more was made for it. */
        assert_int_equal(gate_arrived(GATE_READ), step + COUNT - 2);
    }
}

static void closed(void *opaque, int r)
{
    *(int *)opaque = r;
}

/* Returns when the model is gone, which the last write-back is before. */
static void close_now(struct harness *harness, enum gate gate)
{
    int result = 1;

    model_close(harness->model, closed, &result);
    harness->model = NULL;
    turns(harness, 5);
    if (gate == GATE_READ) {
        assert_int_equal(result, 1);
        gate_let(GATE_READ, 1);
    }
    while (result == 1) {
        (void)uv_run(&harness->loop, UV_RUN_NOWAIT);
    }
    assert_int_equal(result, 0);
    /* What is on the pool ends afterwards. */
    gates_open();
    (void)uv_run(&harness->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&harness->loop), 0);
}

static void the_end_comes(void **state)
{
    struct harness *harness = *state;
    struct asked asked[4];

    for (int turn = 0; turn < 4; turn++) {
        bool reads = turn < 2, cancelled = turn % 2;
        enum gate gate = reads ? GATE_READ : GATE_MERGE;
        gate_close(gate);
        for (size_t i = 0; i < 4; i++) {
            ask(harness, &asked[i], reads ? "c0" : "c5", NULL);
            asked[i].request.done = never_done;
        }
        gate_await(harness, gate, 1);
        for (size_t i = 0; i < 4 && cancelled; i++) {
            model_union_cancel(&asked[i].request);
        }
        harness_mark(harness, "d", 3 * 4096, 512);
        close_now(harness, gate);
        for (size_t i = 0; i < 4; i++) {
            assert_null(asked[i].request.work);
            model_union_cancel(&asked[i].request);
        }
        harness_open(harness);
        assert_true(past_is_dirty(harness, "d", "c5", 3 * 4096));
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(one_part_after_the_other), TEST(write_backs_get_in_between),
        TEST(they_take_turns),          TEST(what_is_let_go_of_meanwhile_is_read),
        TEST(a_part_is_deleted),        TEST(an_end_is_deleted),
        TEST(the_size_changes),         TEST(they_change_again_and_again),
        TEST(cancelled_at_every_step),  TEST(the_end_comes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
