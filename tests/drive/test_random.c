/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Random operations on several drives, bitmaps and writers, with restarts in
 * between, against a naive model of the promise:
 *
 *   must   granules that have to be dirty: marked and not cleared since, or
 *          unsettled when the bitmap began or began anew
 *   may    granules that an exact bitmap can have dirty at all
 *
 * must ⊆ map holds always; map ⊆ may while the bitmap says that it is exact;
 * and unsettled ranges are a subset of the map of every bitmap that records or
 * has no gap.
 */
#include "tests/drive/shadow.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define STEPS 3000

static struct harness *const harness = &shadow_harness;
static unsigned seed;
static unsigned crashes, transactions, unknowns;

static uint64_t below(uint64_t n)
{
    return (uint64_t)rand_r(&seed) % n;
}

static struct range random_range(const struct shadow_drive *drive)
{
    uint64_t offset = below(drive->size);
    uint64_t length = below(4) ? 1 + below(8192) : 1 + below(drive->size);
    uint64_t left = drive->size - offset;
    return (struct range){offset, length < left ? length : left};
}

static void do_mark(struct shadow_drive *drive)
{
    struct range range = random_range(drive);
    struct shadow_writer *shadow = &drive->writers[below(WRITERS)];
    uint64_t sequence;

    size_t slot = 0;
    while (slot < MARKS && shadow->marks[slot].id) {
        slot++;
    }
    if (!shadow->writer || slot == MARKS || below(4) == 0) {
        harness_mark(harness, drive->name, range.offset, range.length);
    } else {
        shadow->next_id += 1 + below(3);
        int r = writer_mark(harness->model, shadow->writer, shadow->next_id, &range, 1, &sequence,
                            &harness->error);
        if (r < 0) {
            fail_msg("mark: %s", harness->error.text);
        }
        shadow->marks[slot].id = shadow->next_id;
        shadow->marks[slot].old = false;
        shadow->marks[slot].range = range;
    }
    shadow_mark(drive, range);
}

static void do_settle(struct shadow_drive *drive)
{
    struct shadow_writer *shadow = &drive->writers[below(WRITERS)];
    size_t slot = below(MARKS);

    if (shadow->writer && shadow->marks[slot].id && !shadow->marks[slot].old) {
        assert_int_equal(writer_settle(shadow->writer, shadow->marks[slot].id, 1, &harness->error),
                         0);
        shadow->marks[slot].id = 0;
    }
}

static void connection_ends(struct shadow_drive *drive, struct shadow_writer *shadow)
{
    writer_lost(harness->model, shadow->writer);
    shadow->writer = NULL;
    shadow->resuming = false;
    if (shadow->continues) {
        shadow_lose_track(drive);
        unknowns++;
    }
    for (size_t m = 0; m < MARKS; m++) {
        shadow->marks[m].old = true;
    }
}

static void forget_old(struct shadow_writer *shadow)
{
    for (size_t m = 0; m < MARKS; m++) {
        if (shadow->marks[m].old) {
            shadow->marks[m].id = 0;
        }
    }
    shadow->unaccounted = false;
}

static void do_writer(struct shadow_drive *drive)
{
    size_t w = below(WRITERS);
    struct shadow_writer *shadow = &drive->writers[w];
    struct drive *target = harness_drive(harness, drive->name);
    char token[8];
    (void)snprintf(token, sizeof token, "w%zu", w);
    uint64_t sequence;
    bool resuming;

    if (shadow->writer) {
        if (below(2)) {
            connection_ends(drive, shadow);
        } else if (w < WRITERS - 1) {
            assert_int_equal(
                writer_resume(harness->model, shadow->writer, NULL, &sequence, &harness->error), 0);
            forget_old(shadow);
            shadow->resuming = false;
        }
        return;
    }
    shadow->next_id = 0;
    if (w == WRITERS - 1) {
        assert_int_equal(writer_new(harness->model, target, &shadow->writer, &harness->error), 0);
        return;
    }
    if (shadow->attached && below(4) == 0) {
        struct record fence = {.type = RECORD_FENCE, .drive = target->id, .name = text_of(token)};
        assert_int_equal(model_commit(harness->model, &fence, &harness->error), 0);
        shadow->attached = false;
        if (shadow->continues) {
            shadow_lose_track(drive); /* it has gone on until now */
        }
        forget_old(shadow);
        return;
    }
    assert_int_equal(writer_attach(harness->model, target,
                                   &(struct writer_attachment){.token = text_of(token),
                                                               .continues = shadow->continues},
                                   &shadow->writer, &sequence, &resuming, &harness->error),
                     0);
    assert_int_equal(resuming, shadow->attached);
    shadow->resuming = resuming;
    shadow->attached = true;
}

static void do_bitmap(struct shadow_drive *drive)
{
    size_t b = below(BITMAPS);
    struct shadow_bitmap *shadow = &drive->bitmaps[b];
    char name[32];
    shadow_full_name(name, drive, b);

    if (!shadow->exists) {
        memset(shadow, 0, sizeof *shadow);
        shadow->exists = true;
        shadow->granularity = 512u << below(4);
        shadow->recording = below(4) > 0;
        harness_add_bitmap(harness, name, shadow->granularity, !shadow->recording);
        if (shadow->recording) {
            shadow_carry(drive, shadow);
        } else {
            shadow_carry_disabled(drive, shadow);
        }
        return;
    }
    struct range range = random_range(drive);
    switch (below(8)) {
    case 0:
        assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_DELETE, name), 0);
        shadow->exists = false;
        break;
    case 1:
        assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_ENABLE, name), 0);
        if (!shadow->recording) {
            shadow_carry(drive, shadow);
            shadow->unknown |= shadow->gap;
        }
        shadow->recording = true;
        shadow->gap = false;
        break;
    case 2:
        assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_DISABLE, name), 0);
        shadow->gap = shadow->recording ? false : shadow->gap;
        shadow->recording = false;
        break;
    case 3:
        assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_CLEAR_ALL, name), 0);
        shadow_clear_all(drive, shadow);
        break;
    case 4: {
        struct drive_bitmap *bitmap = harness_bitmap(harness, name);
        struct record set = {.type = RECORD_BITMAP_SET,
                             .drive = bitmap->drive->id,
                             .bitmap = bitmap->id,
                             .ranges = &range,
                             .ranges_count = 1};
        assert_int_equal(model_commit(harness->model, &set, &harness->error), 0);
        shadow_touch(shadow, shadow->must, range);
        shadow_touch(shadow, shadow->may, range);
        break;
    }
    case 5: {
        struct shadow_bitmap *source = &drive->bitmaps[(b + 1) % BITMAPS];
        if (!source->exists) {
            break;
        }
        char source_name[32];
        shadow_full_name(source_name, drive, (b + 1) % BITMAPS);
        uint64_t id = harness_bitmap(harness, source_name)->id;
        struct drive_bitmap *bitmap = harness_bitmap(harness, name);
        struct record merge = {.type = RECORD_BITMAP_MERGE,
                               .drive = bitmap->drive->id,
                               .bitmap = bitmap->id,
                               .sources = &id,
                               .sources_count = 1};
        assert_int_equal(model_commit(harness->model, &merge, &harness->error), 0);
        shadow_merge(drive, shadow, source);
        break;
    }
    default:
        assert_int_equal(harness_clear(harness, name, range.offset, range.length), 0);
        for (uint64_t i = 0; i * shadow->granularity < drive->size; i++) {
            uint64_t start = i * shadow->granularity, end = start + shadow->granularity;
            end = end < drive->size ? end : drive->size;
            if (start >= range.offset && end <= range.offset + range.length) {
                shadow->must[i] = shadow->may[i] = false;
            }
        }
        if (shadow->recording) {
            shadow_carry(drive, shadow);
        } else if (!shadow->gap) {
            shadow_carry_disabled(drive, shadow);
        }
        break;
    }
}

static void do_grow(struct shadow_drive *drive)
{
    uint64_t size = drive->size + below(100000);
    if (size == drive->size || size > SIZE_MAX_) {
        return;
    }
    struct record resize = {.type = RECORD_DRIVE_RESIZE,
                            .drive = harness_drive(harness, drive->name)->id,
                            .size = size};
    assert_int_equal(past_commit(harness, &resize), 0);
    shadow_grow(drive, size);
}

static void do_checkpoint(struct shadow_drive *drive)
{
    char name[16];

    if (drive->checkpoints == CHECKPOINTS || (drive->checkpoints > 0 && below(3) == 0)) {
        unsigned victim = (unsigned)below(drive->checkpoints);
        past_delete(harness, drive->name, drive->history[victim].name);
        shadow_checkpoint_delete(drive, victim);
        return;
    }
    (void)snprintf(name, sizeof name, "c%u", drive->created++);
    struct record record = {.type = RECORD_CHECKPOINT_CREATE,
                            .drive = harness_drive(harness, drive->name)->id,
                            .name = text_of(name),
                            .granularity = 512u << below(4)};
    assert_int_equal(model_commit(harness->model, &record, &harness->error), 0);
    shadow_checkpoint(drive, name, record.granularity);
}

/* One part, and what it does in the shadow, which is thrown away when the whole is. */
static int do_part(struct shadow_drive *drive, size_t b)
{
    struct shadow_bitmap *shadow = &drive->bitmaps[b];
    char name[32], checkpoint[16];

    shadow_full_name(name, drive, b);
    if (shadow->exists && below(2)) {
        const struct drive_bitmap *bitmap = harness_bitmap(harness, name);
        struct record clear = {
            .type = RECORD_BITMAP_CLEAR_ALL, .drive = bitmap->drive->id, .bitmap = bitmap->id};
        shadow_clear_all(drive, shadow);
        return model_commit(harness->model, &clear, &harness->error);
    }
    if (!shadow->exists) {
        *shadow = (struct shadow_bitmap){.exists = true, .recording = true, .granularity = 1024};
        shadow_carry(drive, shadow);
        struct record create = {.type = RECORD_BITMAP_CREATE,
                                .drive = harness_drive(harness, drive->name)->id,
                                .name = text_of(strrchr(name, '/') + 1),
                                .granularity = 1024};
        return model_commit(harness->model, &create, &harness->error);
    }
    if (drive->checkpoints == CHECKPOINTS) {
        const struct drive_bitmap *eldest = past_find(harness, drive->name, drive->history[0].name);
        struct record delete = {
            .type = RECORD_CHECKPOINT_DELETE, .drive = eldest->drive->id, .bitmap = eldest->id};
        shadow_checkpoint_delete(drive, 0);
        return model_commit(harness->model, &delete, &harness->error);
    }
    (void)snprintf(checkpoint, sizeof checkpoint, "c%u", drive->created++);
    struct record create = {.type = RECORD_CHECKPOINT_CREATE,
                            .drive = harness_drive(harness, drive->name)->id,
                            .name = text_of(checkpoint),
                            .granularity = 512};
    shadow_checkpoint(drive, checkpoint, 512);
    return model_commit(harness->model, &create, &harness->error);
}

/* Over all drives; sometimes the last part fails, or it is thought better of. */
static void do_transaction(void)
{
    static const struct request_id no_request;
    static struct shadow_drive before[DRIVES];
    uint64_t sequence;
    bool abort = below(2);
    int r = 0;

    memcpy(before, shadow_drives, sizeof before);
    assert_int_equal(model_transaction_begin(harness->model, &harness->error), 0);
    for (size_t part = 0; r == 0 && part < 2 + DRIVES; part++) {
        r = do_part(&shadow_drives[part % DRIVES], below(BITMAPS));
    }
    /* Two checkpoints of one drive. */
    assert_true(r == 0 || r == -EINVAL);
    if (r == 0 && !abort) {
        assert_int_equal(
            model_transaction_commit(harness->model, &no_request, NULL, &sequence, &harness->error),
            0);
        transactions++;
        return;
    }
    model_transaction_abort(harness->model);
    memcpy(shadow_drives, before, sizeof before);
    shadow_check();
}

/* Connections end with the process; what was not settled is forgotten. */
static void end_connections(void)
{
    for (size_t d = 0; d < DRIVES; d++) {
        for (size_t w = 0; w < WRITERS; w++) {
            if (shadow_drives[d].writers[w].writer) {
                connection_ends(&shadow_drives[d], &shadow_drives[d].writers[w]);
            }
            for (size_t m = 0; m < MARKS; m++) {
                shadow_drives[d].writers[w].unaccounted |=
                    shadow_drives[d].writers[w].marks[m].id != 0;
            }
        }
    }
}

/* Whoever goes on without the daemon has done so while it was away. */
static void judge_writers(void)
{
    for (size_t d = 0; d < DRIVES; d++) {
        for (size_t w = 0; w < WRITERS; w++) {
            const struct shadow_writer *shadow = &shadow_drives[d].writers[w];
            if (shadow->attached && shadow->continues) {
                shadow_lose_track(&shadow_drives[d]);
            }
        }
    }
}

static void do_restart(void)
{
    end_connections();
    past_restart(harness);
    judge_writers();
}

static void do_crash(void)
{
    past_crash_begin(harness);
    for (size_t d = 0; d < DRIVES; d++) {
        for (size_t w = 0; w < WRITERS; w++) {
            struct shadow_writer *shadow = &shadow_drives[d].writers[w];
            shadow->unaccounted |= shadow->writer || shadow->attached;
        }
    }
    end_connections(); /* of the one that did not crash: its files are thrown away */
    past_crash_end(harness);
    judge_writers();
    crashes++;
}

static void random_operations_keep_the_promise(void **state)
{
    (void)state;
    const char *given = getenv("BITMAPD_TEST_SEED");
    seed = given ? (unsigned)strtoul(given, NULL, 10) : (unsigned)time(NULL);
    print_message("BITMAPD_TEST_SEED=%u\n", seed);

    harness_init(harness);
    harness->settings.journal_segment_bytes = UINT64_C(4) << 20;
    harness_open(harness);
    for (size_t d = 0; d < DRIVES; d++) {
        (void)snprintf(shadow_drives[d].name, sizeof shadow_drives[d].name, "drive%zu", d);
        shadow_drives[d].size = 1 + below(3000000);
        shadow_drives[d].writers[1].continues = d == 1;
        harness_add_drive(harness, shadow_drives[d].name, shadow_drives[d].size);
    }
    for (int step = 0; step < STEPS; step++) {
        struct shadow_drive *drive = &shadow_drives[below(DRIVES)];
        switch (below(16)) {
        case 0:
        case 1:
        case 2:
            do_bitmap(drive);
            break;
        case 3:
        case 4:
            do_settle(drive);
            break;
        case 5:
            do_writer(drive);
            break;
        case 6:
            do_grow(drive);
            break;
        case 8:
            if (below(2)) {
                do_checkpoint(drive);
            } else if (below(3) == 0) {
                do_transaction();
            } else if (below(3) == 0) {
                past_flush(harness); /* sealed bits leave memory */
            }
            break;
        case 7:
            switch (below(16)) {
            case 0:
                do_restart();
                break;
            case 1:
                do_crash();
                shadow_check();
                break;
            default:
                break;
            }
            break;
        default:
            do_mark(drive);
            break;
        }
        if (below(20) == 0) {
            shadow_check();
        }
    }
    do_restart();
    shadow_check();
    do_crash();
    shadow_check();
    print_message("%u crashes, %u transactions, %u times out of track\n", crashes, transactions,
                  unknowns);
    harness_deinit(harness);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_operations_keep_the_promise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
