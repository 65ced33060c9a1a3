/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The naive model: sets of granules as arrays, and no thought of how bits are kept.
 */
#include "tests/drive/shadow.h"

#include <stdio.h>
#include <string.h>

struct shadow_drive shadow_drives[DRIVES];
struct harness shadow_harness;

void shadow_full_name(char buffer[32], const struct shadow_drive *drive, size_t bitmap)
{
    (void)snprintf(buffer, 32, "%.15s/b%zu", drive->name, bitmap);
}

void shadow_touch(const struct shadow_bitmap *bitmap, bool *bits, struct range range)
{
    for (uint64_t i = range.offset / bitmap->granularity;
         i <= (range.offset + range.length - 1) / bitmap->granularity; i++) {
        bits[i] = true;
    }
}

bool shadow_in_doubt(const struct shadow_drive *drive)
{
    for (size_t w = 0; w < WRITERS; w++) {
        const struct shadow_writer *writer = &drive->writers[w];
        if (writer->attached && writer->continues && (!writer->writer || writer->resuming)) {
            return true;
        }
    }
    return false;
}

static void carry_ranges(const struct shadow_drive *drive, struct shadow_bitmap *bitmap)
{
    for (size_t w = 0; w < WRITERS; w++) {
        for (size_t m = 0; m < MARKS; m++) {
            if (drive->writers[w].marks[m].id) {
                shadow_touch(bitmap, bitmap->must, drive->writers[w].marks[m].range);
                shadow_touch(bitmap, bitmap->may, drive->writers[w].marks[m].range);
            }
        }
    }
}

void shadow_carry(const struct shadow_drive *drive, struct shadow_bitmap *bitmap)
{
    carry_ranges(drive, bitmap);
    bitmap->unknown |= shadow_in_doubt(drive);
}

void shadow_carry_disabled(const struct shadow_drive *drive, struct shadow_bitmap *bitmap)
{
    bool unaccounted = false;
    for (size_t w = 0; w < WRITERS; w++) {
        unaccounted |= drive->writers[w].unaccounted;
    }
    if (!unaccounted) {
        carry_ranges(drive, bitmap);
    }
    bitmap->gap = unaccounted || shadow_in_doubt(drive);
}

static struct shadow_bitmap *newest(struct shadow_drive *drive)
{
    return drive->checkpoints > 0 ? &drive->history[drive->checkpoints - 1] : NULL;
}

void shadow_mark(struct shadow_drive *drive, struct range range)
{
    struct shadow_bitmap *checkpoint = newest(drive);

    for (size_t b = 0; b < BITMAPS; b++) {
        struct shadow_bitmap *bitmap = &drive->bitmaps[b];
        if (bitmap->exists && bitmap->recording) {
            shadow_touch(bitmap, bitmap->must, range);
            shadow_touch(bitmap, bitmap->may, range);
        } else if (bitmap->exists) {
            bitmap->gap = true;
        }
    }
    if (checkpoint) {
        shadow_touch(checkpoint, checkpoint->must, range);
        shadow_touch(checkpoint, checkpoint->may, range);
    }
}

void shadow_merge(const struct shadow_drive *drive, struct shadow_bitmap *target,
                  const struct shadow_bitmap *source)
{
    target->unknown |= source->unknown;
    for (uint64_t i = 0; i * source->granularity < drive->size; i++) {
        uint64_t offset = i * source->granularity;
        uint64_t left = drive->size - offset;
        struct range granule = {offset, source->granularity < left ? source->granularity : left};
        if (source->must[i]) {
            shadow_touch(target, target->must, granule);
        }
        if (source->may[i]) {
            shadow_touch(target, target->may, granule);
        }
    }
}

void shadow_clear_all(const struct shadow_drive *drive, struct shadow_bitmap *bitmap)
{
    memset(bitmap->must, 0, sizeof bitmap->must);
    memset(bitmap->may, 0, sizeof bitmap->may);
    bitmap->unknown = bitmap->gap = false;
    if (bitmap->recording) {
        shadow_carry(drive, bitmap);
    } else {
        shadow_carry_disabled(drive, bitmap);
    }
}

void shadow_lose_track(struct shadow_drive *drive)
{
    for (size_t b = 0; b < BITMAPS; b++) {
        struct shadow_bitmap *bitmap = &drive->bitmaps[b];
        bitmap->unknown |= bitmap->exists && bitmap->recording;
        bitmap->gap |= bitmap->exists && !bitmap->recording;
    }
    if (newest(drive)) {
        newest(drive)->unknown = true;
    }
}

static void grow(struct shadow_bitmap *bitmap, uint64_t old, uint64_t size)
{
    /* From the granule that the old end cut, or the first new one. */
    for (uint64_t i = old / bitmap->granularity; i * bitmap->granularity < size; i++) {
        bitmap->must[i] = bitmap->may[i] = true;
    }
}

void shadow_grow(struct shadow_drive *drive, uint64_t size)
{
    for (size_t b = 0; b < BITMAPS; b++) {
        if (drive->bitmaps[b].exists) {
            grow(&drive->bitmaps[b], drive->size, size);
        }
    }
    for (unsigned c = 0; c < drive->checkpoints; c++) {
        grow(&drive->history[c], drive->size, size);
    }
    drive->size = size;
}

void shadow_checkpoint(struct shadow_drive *drive, const char *name, uint32_t granularity)
{
    struct shadow_bitmap *made = &drive->history[drive->checkpoints++];

    *made = (struct shadow_bitmap){.exists = true, .recording = true, .granularity = granularity};
    (void)snprintf(made->name, sizeof made->name, "%s", name);
    shadow_carry(drive, made);
}

void shadow_checkpoint_delete(struct shadow_drive *drive, unsigned victim)
{
    if (victim > 0) {
        shadow_merge(drive, &drive->history[victim - 1], &drive->history[victim]);
    }
    drive->checkpoints--;
    memmove(&drive->history[victim], &drive->history[victim + 1],
            (drive->checkpoints - victim) * sizeof drive->history[0]);
}

/* ---- Checking ---- */

static void check_map(const struct shadow_drive *drive, const struct shadow_bitmap *shadow,
                      const struct bitmap *map, enum validity validity, const char *name)
{
    uint64_t granules = bitmap_granules(map);

    assert_int_equal(validity == VALIDITY_UNKNOWN, shadow->unknown);
    for (uint64_t i = 0; i < granules; i++) {
        bool dirty = bitmap_test_all(map, i * shadow->granularity, 1);
        if (shadow->must[i] && !dirty) {
            fail_msg("%s/%s: granule %llu must be dirty and is clean", drive->name, name,
                     (unsigned long long)i);
        }
        if (validity == VALIDITY_EXACT && dirty && !shadow->may[i]) {
            fail_msg("%s/%s: granule %llu of an exact map is dirty without a mark", drive->name,
                     name, (unsigned long long)i);
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
}

static void check_bitmap(const struct shadow_drive *drive, size_t b)
{
    const struct shadow_bitmap *shadow = &drive->bitmaps[b];
    struct bitmap *map;
    char name[32];

    shadow_full_name(name, drive, b);
    if (!shadow->exists) {
        assert_null(model_bitmap_by_name(shadow_harness.model, text_of(name), NULL));
        return;
    }
    const struct drive_bitmap *bitmap = harness_bitmap(&shadow_harness, name);
    assert_int_equal(bitmap->recording, shadow->recording);
    assert_int_equal(bitmap->gap, shadow->gap);
    assert_int_equal(drive_bitmap_map(bitmap, &map), 0);
    check_map(drive, shadow, map, bitmap->validity, name);
    bitmap_free(map);
}

/* What was written since each of the checkpoints. */
static void check_history(const struct shadow_drive *drive)
{
    static struct shadow_bitmap since;

    assert_int_equal(harness_drive(&shadow_harness, drive->name)->checkpoints_count,
                     drive->checkpoints);
    for (unsigned c = 0; c < drive->checkpoints; c++) {
        struct model_union map;
        since = (struct shadow_bitmap){.granularity = UINT32_MAX};
        for (unsigned k = c; k < drive->checkpoints; k++) {
            if (drive->history[k].granularity < since.granularity) {
                since.granularity = drive->history[k].granularity;
            }
        }
        for (unsigned k = c; k < drive->checkpoints; k++) {
            shadow_merge(drive, &since, &drive->history[k]);
        }
        assert_int_equal(
            past_union(&shadow_harness, drive->name, drive->history[c].name, NULL, &map), 0);
        assert_int_equal(map.granularity, since.granularity);
        check_map(drive, &since, map.bits, map.validity, drive->history[c].name);
        bitmap_free(map.bits);
    }
}

void shadow_check(void)
{
    past_check_books(shadow_harness.model);
    for (size_t d = 0; d < DRIVES; d++) {
        for (size_t b = 0; b < BITMAPS; b++) {
            check_bitmap(&shadow_drives[d], b);
        }
        check_history(&shadow_drives[d]);
    }
}
