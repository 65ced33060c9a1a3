/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Random histories of several drives against a naive model: each checkpoint has a set of units of
 * 512 bytes, rounded to its granules.  Maps between any two are compared bit by bit, after deletes
 * in any order, other granularities, sizes and names, restarts, crashes, and with sealed bits that
 * are let go of at every occasion.
 */
#include "tests/drive/past.h"

#include "daemon/drive/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define DRIVES      3
#define CHECKPOINTS 9 /* of a drive */
#define STEPS       1500
#define UNIT        512u
#define SIZE_MAX_   (UINT64_C(3) << 20)
#define UNITS       (SIZE_MAX_ / UNIT)

struct shadow {
    char name[16];
    uint8_t uuid[16];
    uint64_t sequence;
    uint32_t granularity;
    bool units[UNITS];
};

static struct shadow_drive {
    char name[24];
    uint64_t size;
    uint32_t granularity; /* of new checkpoints */
    struct shadow *checkpoints[CHECKPOINTS];
    unsigned count, names, created;
} drives[DRIVES];

static struct harness harness;
static unsigned seed;
static unsigned compared, fetched, deleted, crashed;

static uint64_t below(uint64_t n)
{
    return (uint64_t)rand_r(&seed) % n;
}

static void set(struct shadow *shadow, uint64_t size, uint64_t from, uint64_t end)
{
    from -= from % shadow->granularity;
    end += (shadow->granularity - end % shadow->granularity) % shadow->granularity;
    for (uint64_t i = from / UNIT; i * UNIT < size && i * UNIT < end; i++) {
        shadow->units[i] = true;
    }
}

static void fold(struct shadow *elder, const struct shadow *victim, uint64_t size)
{
    for (uint64_t i = 0; i * UNIT < size; i++) {
        if (victim->units[i]) {
            set(elder, size, i * UNIT, i * UNIT + 1);
        }
    }
}

/* ---- Comparing ---- */

static void compare(struct shadow_drive *drive, unsigned since, unsigned until)
{
    static bool expected[UNITS];
    struct model_union map;
    uint32_t granularity = UINT32_MAX;
    memset(expected, 0, sizeof expected);
    for (unsigned c = since; c < until; c++) {
        const struct shadow *shadow = drive->checkpoints[c];
        granularity = shadow->granularity < granularity ? shadow->granularity : granularity;
        for (uint64_t i = 0; i * UNIT < drive->size; i++) {
            expected[i] |= shadow->units[i];
        }
    }
    const char *end = until < drive->count ? drive->checkpoints[until]->name : NULL;
    assert_int_equal(past_union(&harness, drive->name, drive->checkpoints[since]->name, end, &map),
                     0);
    assert_int_equal(map.size, drive->size);
    assert_int_equal(map.granularity, granularity);
    assert_int_equal(map.validity, VALIDITY_EXACT);
    assert_int_equal(map.recording, until == drive->count);
    for (uint64_t i = 0; i * UNIT < drive->size; i++) {
        if (bitmap_test_all(map.bits, i * UNIT, 1) != expected[i]) {
            fail_msg("%s: since %s until %s: unit %llu is %s", drive->name,
                     drive->checkpoints[since]->name, end ? end : "now", (unsigned long long)i,
                     expected[i] ? "clean" : "dirty");
        }
    }
    bitmap_free(map.bits);
    compared++;
}

static void check(struct shadow_drive *drive)
{
    const struct drive *found = harness_drive(&harness, drive->name);
    const struct drive_bitmap *bitmap = TAILQ_FIRST(&found->history);

    assert_int_equal(found->checkpoints_count, drive->count);
    for (unsigned c = 0; c < drive->count; c++, bitmap = TAILQ_NEXT(bitmap, in_history)) {
        const struct shadow *shadow = drive->checkpoints[c];
        assert_string_equal(bitmap->name, shadow->name);
        assert_int_equal(bitmap->checkpoint->sequence, shadow->sequence);
        assert_memory_equal(bitmap->checkpoint->uuid, shadow->uuid, sizeof shadow->uuid);
        assert_int_equal(bitmap->granularity, shadow->granularity);
        assert_int_equal(bitmap->recording, c + 1 == drive->count);
    }
    past_check_books(harness.model);
    for (unsigned n = 0; drive->count > 0 && n < 3; n++) {
        unsigned since = (unsigned)below(drive->count);
        compare(drive, since, since + 1 + (unsigned)below(drive->count - since));
    }
}

static void check_all(void)
{
    for (size_t d = 0; d < DRIVES; d++) {
        for (unsigned since = 0; since < drives[d].count; since++) {
            for (unsigned until = since + 1; until <= drives[d].count; until++) {
                compare(&drives[d], since, until);
            }
        }
    }
}

/* ---- Changing ---- */

static void made(struct shadow_drive *drive, const char *name)
{
    const struct drive_bitmap *bitmap = past_find(&harness, drive->name, name);
    struct shadow *shadow = calloc(1, sizeof *shadow);
    assert_non_null(shadow);
    (void)snprintf(shadow->name, sizeof shadow->name, "%s", name);
    memcpy(shadow->uuid, bitmap->checkpoint->uuid, sizeof shadow->uuid);
    shadow->sequence = bitmap->checkpoint->sequence;
    shadow->granularity = drive->granularity;
    drive->checkpoints[drive->count++] = shadow;
}

static void do_create(struct shadow_drive *drive)
{
    char name[16];
    if (drive->count < CHECKPOINTS) {
        (void)snprintf(name, sizeof name, "c%u", drive->created++);
        past_create(&harness, drive->name, name);
        made(drive, name);
    }
}

/* Of all drives in one transaction, with a bitmap made and gone. */
static void do_create_everywhere(void)
{
    static const struct request_id no_request;
    char names[DRIVES][16];
    uint64_t sequence;

    for (size_t d = 0; d < DRIVES; d++) {
        if (drives[d].count == CHECKPOINTS) {
            return;
        }
    }
    bool abort = below(3) == 0;
    assert_int_equal(model_transaction_begin(harness.model, &harness.error), 0);
    for (size_t d = 0; d < DRIVES; d++) {
        (void)snprintf(names[d], sizeof names[d], "c%u", drives[d].created++);
        struct record record = {.type = RECORD_CHECKPOINT_CREATE,
                                .drive = harness_drive(&harness, drives[d].name)->id,
                                .name = text_of(names[d]),
                                .uuid = {1, (uint8_t)d, (uint8_t)drives[d].created},
                                .created_ns = 1};
        assert_int_equal(model_commit(harness.model, &record, &harness.error), 0);
    }
    if (abort) {
        model_transaction_abort(harness.model);
        return;
    }
    assert_int_equal(
        model_transaction_commit(harness.model, &no_request, NULL, &sequence, &harness.error), 0);
    for (size_t d = 0; d < DRIVES; d++) {
        made(&drives[d], names[d]);
        assert_int_equal(drives[d].checkpoints[drives[d].count - 1]->sequence, sequence);
    }
}

static void do_delete(struct shadow_drive *drive)
{
    if (drive->count == 0) {
        return;
    }
    unsigned victim = (unsigned)below(drive->count);
    const struct drive_bitmap *bitmap =
        past_find(&harness, drive->name, drive->checkpoints[victim]->name);
    fetched += victim > 0 && !bitmap->bits;
    past_delete(&harness, drive->name, drive->checkpoints[victim]->name);
    if (victim > 0) {
        fold(drive->checkpoints[victim - 1], drive->checkpoints[victim], drive->size);
    }
    free(drive->checkpoints[victim]);
    drive->count--;
    memmove(&drive->checkpoints[victim], &drive->checkpoints[victim + 1],
            (drive->count - victim) * sizeof drive->checkpoints[0]);
    deleted++;
}

static void do_mark(struct shadow_drive *drive)
{
    uint64_t offset = below(drive->size);
    uint64_t length = below(6) ? 1 + below(20000) : 1 + below(drive->size);
    length = length < drive->size - offset ? length : drive->size - offset;
    struct range range = {offset, length};
    uint64_t sequence;
    assert_int_equal(drive_mark(harness.model, harness_drive(&harness, drive->name), &range, 1,
                                &sequence, &harness.error),
                     0);
    if (drive->count > 0) {
        set(drive->checkpoints[drive->count - 1], drive->size, offset, offset + length);
    }
}

static void do_resize(struct shadow_drive *drive)
{
    uint64_t size = 1 + below(SIZE_MAX_), old = drive->size;
    struct record resize = {.type = RECORD_DRIVE_RESIZE,
                            .drive = harness_drive(&harness, drive->name)->id,
                            .size = size};
    if (past_commit(&harness, &resize) < 0) {
        fail_msg("resize: %s", harness.error.text);
    }
    drive->size = size;
    for (unsigned c = 0; c < drive->count; c++) {
        struct shadow *shadow = drive->checkpoints[c];
        for (uint64_t i = 0; i < UNITS; i++) {
            shadow->units[i] &= i * UNIT < size;
        }
        if (size > old) {
            set(shadow, size, old, size);
        }
    }
}

static void do_settings(struct shadow_drive *drive)
{
    drive->granularity = 512u << below(8);
    struct record change = {.type = RECORD_DRIVE_SET,
                            .drive = harness_drive(&harness, drive->name)->id,
                            .granularity = drive->granularity};
    assert_int_equal(model_commit(harness.model, &change, &harness.error), 0);
    if (below(2)) {
        char name[24];
        (void)snprintf(name, sizeof name, "drive%zu-%u", (size_t)(drive - drives), ++drive->names);
        struct record rename = {
            .type = RECORD_DRIVE_RENAME, .drive = change.drive, .name = text_of(name)};
        assert_int_equal(model_commit(harness.model, &rename, &harness.error), 0);
        memcpy(drive->name, name, sizeof name);
    }
}

static void step(struct shadow_drive *drive)
{
    switch (below(24)) {
    case 0:
    case 1:
    case 2:
        do_create(drive);
        break;
    case 3:
        do_create_everywhere();
        break;
    case 4:
    case 5:
        do_delete(drive);
        break;
    case 6:
        do_settings(drive);
        break;
    case 7:
        if (below(2)) {
            do_resize(drive);
        }
        break;
    case 8:
    case 9:
        past_flush(&harness);
        break;
    case 10:
        if (below(6) == 0) {
            past_restart(&harness);
        } else if (below(4) == 0) {
            past_crash(&harness);
            crashed++;
        }
        break;
    default:
        do_mark(drive);
        break;
    }
}

static void random_histories(void **state)
{
    (void)state;
    const char *given = getenv("BITMAPD_TEST_SEED");
    seed = given ? (unsigned)strtoul(given, NULL, 10) : (unsigned)time(NULL);
    print_message("BITMAPD_TEST_SEED=%u\n", seed);

    harness_init(&harness);
    harness.settings.journal_segment_bytes = UINT64_C(4)
                                             << 20; /* nothing is written back unasked */
    harness_open(&harness);
    for (size_t d = 0; d < DRIVES; d++) {
        (void)snprintf(drives[d].name, sizeof drives[d].name, "drive%zu", d);
        drives[d].size = 1 + below(SIZE_MAX_);
        drives[d].granularity = 512;
        harness_add_drive(&harness, drives[d].name, drives[d].size);
    }
    for (unsigned i = 0; i < STEPS; i++) {
        struct shadow_drive *drive = &drives[below(DRIVES)];
        step(drive);
        if (i % 100 == 0) {
            harness.settings.cache_max = below(2) ? 0 : 2000;
            model_configure(harness.model, &harness.settings);
        }
        if (below(4) == 0) {
            check(drive);
        }
    }
    check_all();
    past_crash(&harness);
    check_all();
    past_restart(&harness);
    check_all();
    for (size_t d = 0; d < DRIVES; d++) {
        while (drives[d].count > 0) {
            do_delete(&drives[d]);
            check(&drives[d]);
        }
    }
    print_message("%u maps, %u deletes, %u of bits that had to be read, %u crashes\n", compared,
                  deleted, fetched, crashed);
    assert_true(fetched > 0 && crashed > 0);
    harness_deinit(&harness);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_histories),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
