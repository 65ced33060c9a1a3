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
#include "tests/drive/harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define DRIVES    2
#define BITMAPS   4 /* of a drive */
#define WRITERS   3 /* of a drive; the last is anonymous */
#define MARKS     40
#define STEPS     3000
#define SIZE_MAX_ (UINT64_C(5) << 20)
#define GRANULES  (SIZE_MAX_ / 512)

struct shadow_bitmap {
    bool exists, recording, gap, unknown;
    uint32_t granularity;
    bool must[GRANULES], may[GRANULES];
};

struct shadow_writer {
    struct writer *writer; /* NULL: not connected */
    bool attached;         /* the daemon knows the token */
    bool unaccounted;      /* the daemon has forgotten what it had not settled */
    uint64_t next_id;
    struct {
        uint64_t id; /* 0: free */
        bool old;    /* of a connection that was lost */
        struct range range;
    } marks[MARKS];
};

struct shadow_drive {
    char name[16];
    uint64_t size;
    struct shadow_bitmap bitmaps[BITMAPS];
    struct shadow_writer writers[WRITERS];
};

static struct shadow_drive drives[DRIVES];
static struct harness harness;
static unsigned seed;
static unsigned crashes;

static uint64_t below(uint64_t n)
{
    return (uint64_t)rand_r(&seed) % n;
}

static void full_name(char buffer[32], const struct shadow_drive *drive, size_t bitmap)
{
    (void)snprintf(buffer, 32, "%.15s/b%zu", drive->name, bitmap);
}

static struct range random_range(const struct shadow_drive *drive)
{
    uint64_t offset = below(drive->size);
    uint64_t length = below(4) ? 1 + below(8192) : 1 + below(drive->size);
    uint64_t left = drive->size - offset;
    return (struct range){offset, length < left ? length : left};
}

static void touch(const struct shadow_bitmap *bitmap, bool *bits, struct range range)
{
    for (uint64_t i = range.offset / bitmap->granularity;
         i <= (range.offset + range.length - 1) / bitmap->granularity; i++) {
        bits[i] = true;
    }
}

/* What starts recording begins with unsettled ranges. */
static void carry(const struct shadow_drive *drive, struct shadow_bitmap *bitmap)
{
    for (size_t w = 0; w < WRITERS; w++) {
        for (size_t m = 0; m < MARKS; m++) {
            if (drive->writers[w].marks[m].id) {
                touch(bitmap, bitmap->must, drive->writers[w].marks[m].range);
                touch(bitmap, bitmap->may, drive->writers[w].marks[m].range);
            }
        }
    }
}

/* A disabled bitmap begins with them too, or, when they are not known, with a gap. */
static void carry_disabled(const struct shadow_drive *drive, struct shadow_bitmap *bitmap)
{
    bool unaccounted = false;
    for (size_t w = 0; w < WRITERS; w++) {
        unaccounted |= drive->writers[w].unaccounted;
    }
    if (unaccounted) {
        bitmap->gap = true;
    } else {
        carry(drive, bitmap);
    }
}

static void shadow_mark(struct shadow_drive *drive, struct range range)
{
    for (size_t b = 0; b < BITMAPS; b++) {
        struct shadow_bitmap *bitmap = &drive->bitmaps[b];
        if (bitmap->exists && bitmap->recording) {
            touch(bitmap, bitmap->must, range);
            touch(bitmap, bitmap->may, range);
        } else if (bitmap->exists) {
            bitmap->gap = true;
        }
    }
}

static void check(void)
{
    for (size_t d = 0; d < DRIVES; d++) {
        struct shadow_drive *drive = &drives[d];
        for (size_t b = 0; b < BITMAPS; b++) {
            struct shadow_bitmap *shadow = &drive->bitmaps[b];
            char name[32];
            full_name(name, drive, b);
            if (!shadow->exists) {
                assert_null(model_bitmap_by_name(harness.model, text_of(name), NULL));
                continue;
            }
            struct drive_bitmap *bitmap = harness_bitmap(&harness, name);
            assert_int_equal(bitmap->recording, shadow->recording);
            assert_int_equal(bitmap->validity == VALIDITY_UNKNOWN, shadow->unknown);
            assert_int_equal(bitmap->gap, shadow->gap);
            struct bitmap *map;
            assert_int_equal(drive_bitmap_map(bitmap, &map), 0);
            uint64_t granules = bitmap_granules(map);
            for (uint64_t i = 0; i < granules; i++) {
                bool dirty = bitmap_test_all(map, i * shadow->granularity, 1);
                if (shadow->must[i] && !dirty) {
                    fail_msg("%s: granule %llu must be dirty and is clean", name,
                             (unsigned long long)i);
                }
                if (bitmap->validity == VALIDITY_EXACT && dirty && !shadow->may[i]) {
                    fail_msg("%s: granule %llu of an exact bitmap is dirty without a mark", name,
                             (unsigned long long)i);
                }
            }
            for (size_t w = 0; !shadow->gap && w < WRITERS; w++) {
                for (size_t m = 0; m < MARKS; m++) {
                    struct range range = drive->writers[w].marks[m].range;
                    if (drive->writers[w].marks[m].id) {
                        assert_true(bitmap_test_all(map, range.offset, range.length));
                    }
                }
            }
            bitmap_free(map);
        }
    }
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
        harness_mark(&harness, drive->name, range.offset, range.length);
    } else {
        shadow->next_id += 1 + below(3);
        int r = writer_mark(harness.model, shadow->writer, shadow->next_id, &range, 1, &sequence,
                            &harness.error);
        if (r < 0) {
            fail_msg("mark: %s", harness.error.text);
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
        assert_int_equal(writer_settle(shadow->writer, shadow->marks[slot].id, 1, &harness.error),
                         0);
        shadow->marks[slot].id = 0;
    }
}

static void connection_ends(struct shadow_writer *shadow)
{
    writer_lost(harness.model, shadow->writer);
    shadow->writer = NULL;
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
    struct drive *target = harness_drive(&harness, drive->name);
    char token[8];
    (void)snprintf(token, sizeof token, "w%zu", w);
    uint64_t sequence;
    bool resuming;

    if (shadow->writer) {
        if (below(2)) {
            connection_ends(shadow);
        } else if (w < WRITERS - 1) {
            assert_int_equal(
                writer_resume(harness.model, shadow->writer, NULL, &sequence, &harness.error), 0);
            forget_old(shadow);
        }
        return;
    }
    shadow->next_id = 0;
    if (w == WRITERS - 1) {
        assert_int_equal(writer_new(harness.model, target, &shadow->writer, &harness.error), 0);
        return;
    }
    if (shadow->attached && below(4) == 0) {
        struct record fence = {.type = RECORD_FENCE, .drive = target->id, .name = text_of(token)};
        assert_int_equal(model_commit(harness.model, &fence, &harness.error), 0);
        shadow->attached = false;
        forget_old(shadow);
        return;
    }
    assert_int_equal(writer_attach(harness.model, target,
                                   &(struct writer_attachment){.token = text_of(token)},
                                   &shadow->writer, &sequence, &resuming, &harness.error),
                     0);
    assert_int_equal(resuming, shadow->attached);
    shadow->attached = true;
}

static void do_bitmap(struct shadow_drive *drive)
{
    size_t b = below(BITMAPS);
    struct shadow_bitmap *shadow = &drive->bitmaps[b];
    char name[32];
    full_name(name, drive, b);

    if (!shadow->exists) {
        memset(shadow, 0, sizeof *shadow);
        shadow->exists = true;
        shadow->granularity = 512u << below(4);
        shadow->recording = below(4) > 0;
        harness_add_bitmap(&harness, name, shadow->granularity, !shadow->recording);
        if (shadow->recording) {
            carry(drive, shadow);
        } else {
            carry_disabled(drive, shadow);
        }
        return;
    }
    struct range range = random_range(drive);
    switch (below(8)) {
    case 0:
        assert_int_equal(harness_bitmap_do(&harness, RECORD_BITMAP_DELETE, name), 0);
        shadow->exists = false;
        break;
    case 1:
        assert_int_equal(harness_bitmap_do(&harness, RECORD_BITMAP_ENABLE, name), 0);
        if (!shadow->recording) {
            carry(drive, shadow);
            shadow->unknown |= shadow->gap;
        }
        shadow->recording = true;
        shadow->gap = false;
        break;
    case 2:
        assert_int_equal(harness_bitmap_do(&harness, RECORD_BITMAP_DISABLE, name), 0);
        shadow->gap = shadow->recording ? false : shadow->gap;
        shadow->recording = false;
        break;
    case 3:
        assert_int_equal(harness_bitmap_do(&harness, RECORD_BITMAP_CLEAR_ALL, name), 0);
        memset(shadow->must, 0, sizeof shadow->must);
        memset(shadow->may, 0, sizeof shadow->may);
        shadow->unknown = shadow->gap = false;
        if (shadow->recording) {
            carry(drive, shadow);
        } else {
            carry_disabled(drive, shadow);
        }
        break;
    case 4: {
        struct drive_bitmap *bitmap = harness_bitmap(&harness, name);
        struct record set = {.type = RECORD_BITMAP_SET,
                             .drive = bitmap->drive->id,
                             .bitmap = bitmap->id,
                             .ranges = &range,
                             .ranges_count = 1};
        assert_int_equal(model_commit(harness.model, &set, &harness.error), 0);
        touch(shadow, shadow->must, range);
        touch(shadow, shadow->may, range);
        break;
    }
    case 5: {
        struct shadow_bitmap *source = &drive->bitmaps[(b + 1) % BITMAPS];
        if (!source->exists) {
            break;
        }
        char source_name[32];
        full_name(source_name, drive, (b + 1) % BITMAPS);
        uint64_t id = harness_bitmap(&harness, source_name)->id;
        struct drive_bitmap *bitmap = harness_bitmap(&harness, name);
        struct record merge = {.type = RECORD_BITMAP_MERGE,
                               .drive = bitmap->drive->id,
                               .bitmap = bitmap->id,
                               .sources = &id,
                               .sources_count = 1};
        assert_int_equal(model_commit(harness.model, &merge, &harness.error), 0);
        shadow->unknown |= source->unknown;
        for (uint64_t i = 0; i * source->granularity < drive->size; i++) {
            uint64_t offset = i * source->granularity;
            uint64_t left = drive->size - offset;
            struct range granule = {offset,
                                    source->granularity < left ? source->granularity : left};
            if (source->must[i]) {
                touch(shadow, shadow->must, granule);
            }
            if (source->may[i]) {
                touch(shadow, shadow->may, granule);
            }
        }
        break;
    }
    default:
        assert_int_equal(harness_clear(&harness, name, range.offset, range.length), 0);
        for (uint64_t i = 0; i * shadow->granularity < drive->size; i++) {
            uint64_t start = i * shadow->granularity, end = start + shadow->granularity;
            end = end < drive->size ? end : drive->size;
            if (start >= range.offset && end <= range.offset + range.length) {
                shadow->must[i] = shadow->may[i] = false;
            }
        }
        if (shadow->recording) {
            carry(drive, shadow);
        } else if (!shadow->gap) {
            carry_disabled(drive, shadow);
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
                            .drive = harness_drive(&harness, drive->name)->id,
                            .size = size};
    assert_int_equal(model_commit(harness.model, &resize, &harness.error), 0);
    for (size_t b = 0; b < BITMAPS; b++) {
        struct shadow_bitmap *shadow = &drive->bitmaps[b];
        if (!shadow->exists) {
            continue;
        }
        /* From the granule that the old end cut, or the first new one. */
        for (uint64_t i = drive->size / shadow->granularity; i * shadow->granularity < size; i++) {
            shadow->must[i] = shadow->may[i] = true;
        }
    }
    drive->size = size;
}

static void do_restart(void)
{
    for (size_t d = 0; d < DRIVES; d++) {
        for (size_t w = 0; w < WRITERS; w++) {
            if (drives[d].writers[w].writer) {
                connection_ends(&drives[d].writers[w]);
            }
            for (size_t m = 0; m < MARKS; m++) {
                drives[d].writers[w].unaccounted |= drives[d].writers[w].marks[m].id != 0;
            }
        }
    }
    assert_int_equal(harness_close(&harness), 0);
    harness_open(&harness);
}

/*
 * As by kill -9 once everything is acknowledged: the files as they are at that
 * moment, which is what the journal and the last commit hold.
 */
static void do_crash(void)
{
    assert_int_equal(harness_wait(&harness, model_sequence(harness.model), ACK_DURABLE), 0);
    char command[512];
    (void)snprintf(command, sizeof command, "cp -r %s %s.crashed", harness.directory,
                   harness.directory);
    assert_int_equal(system(command), 0);
    for (size_t d = 0; d < DRIVES; d++) {
        for (size_t w = 0; w < WRITERS; w++) {
            struct shadow_writer *shadow = &drives[d].writers[w];
            shadow->unaccounted |= shadow->writer || shadow->attached;
        }
    }
    do_restart(); /* of the one that did not crash: its files are thrown away */
    assert_int_equal(harness_close(&harness), 0);
    (void)snprintf(command, sizeof command, "rm -r %s && mv %s.crashed %s", harness.directory,
                   harness.directory, harness.directory);
    assert_int_equal(system(command), 0);
    assert_int_equal(harness_try_open(&harness, MODEL_ACCEPT_COPY), 0);
    crashes++;
}

static void random_operations_keep_the_promise(void **state)
{
    (void)state;
    const char *given = getenv("BITMAPD_TEST_SEED");
    seed = given ? (unsigned)strtoul(given, NULL, 10) : (unsigned)time(NULL);
    print_message("BITMAPD_TEST_SEED=%u\n", seed);

    harness_init(&harness);
    harness_open(&harness);
    for (size_t d = 0; d < DRIVES; d++) {
        (void)snprintf(drives[d].name, sizeof drives[d].name, "drive%zu", d);
        drives[d].size = 1 + below(3000000);
        harness_add_drive(&harness, drives[d].name, drives[d].size);
    }
    for (int step = 0; step < STEPS; step++) {
        struct shadow_drive *drive = &drives[below(DRIVES)];
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
        case 7:
            switch (below(16)) {
            case 0:
                do_restart();
                break;
            case 1:
                do_crash();
                check();
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
            check();
        }
    }
    do_restart();
    check();
    do_crash();
    check();
    print_message("%u crashes\n", crashes);
    harness_deinit(&harness);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_operations_keep_the_promise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
