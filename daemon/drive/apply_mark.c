/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Marks: the one record that is hot.
 *
 * A mark reaches every recording bitmap of its drive or none; since it may not
 * fail half way, a bitmap that is out of memory takes whole chunks, which need
 * none.  Bitmaps that do not record note that they have skipped something.
 */
#include "daemon/drive/apply.h"

#include "proto/base/checked.h"

#include <stdlib.h>

int prepare_mark(struct model *model, struct record *record, struct prepared *prepared,
                 struct error *error)
{
    int r = record_find_drive(model, record, prepared, error);
    return r < 0 ? r : record_check_ranges(prepared->drive, record, error);
}

/* Sets a range whatever happens: when memory is out the chunks become all dirty. */
static void mark_bits(struct drive_bitmap *bitmap, struct range range, uint64_t sequence)
{
    if (bitmap_set_quickly(bitmap->bits, range.offset, range.length, sequence)) {
        return;
    }
    if (bitmap_reserve(bitmap->bits, range.offset, range.length) < 0) {
        /* Whole chunks need no memory: the doubt resolves to dirty. */
        uint64_t span =
            (uint64_t)bitmap_chunk_bytes(bitmap->bits) * 8 * bitmap_granularity(bitmap->bits);
        uint64_t start = range.offset - range.offset % span;
        uint64_t end = div_round_up(range.offset + range.length, span) * span;
        range.offset = start;
        range.length = min_u64(end, bitmap->drive->size) - start;
        drive_bitmap_worsen(bitmap, VALIDITY_SUPERSET, "memory ran out, marks were widened");
        bitmap->changed = sequence;
    }
    bitmap_set(bitmap->bits, range.offset, range.length, sequence);
}

void apply_mark(struct model *model, const struct record *record, struct prepared *prepared)
{
    struct drive *drive = prepared->drive;
    struct drive_bitmap *bitmap;

    TAILQ_FOREACH (bitmap, &drive->recording, recording_entry) {
        for (uint32_t i = 0; i < record->ranges_count; i++) {
            mark_bits(bitmap, record->ranges[i], record->sequence);
        }
    }
    if (drive->ungapped > 0) {
        TAILQ_FOREACH (bitmap, &drive->all, of_drive) {
            if (!bitmap->recording && !bitmap->gap && !bitmap->checkpoint) {
                drive_bitmap_set_recording(bitmap, false, true);
                bitmap->changed = record->sequence;
            }
        }
    }
    if (drive->evidence) {
        /* Somebody writes who has not attached: the drive may differ, and with good reason. */
        free(drive->evidence);
        drive->evidence = NULL;
    }
    drive->marked = record->sequence;
    model->marks += record->ranges_count;
}

/*
 * Whether every range is dirty already wherever it would be recorded; by records up to *version
 * then.
 */
static bool mark_changes_nothing(const struct drive *drive, const struct range *ranges,
                                 uint32_t count, uint64_t *version)
{
    if (drive->ungapped > 0 || drive->evidence) {
        return false;
    }
    const struct drive_bitmap *bitmap;
    TAILQ_FOREACH (bitmap, &drive->recording, recording_entry) {
        for (uint32_t i = 0; i < count; i++) {
            if (!bitmap_test_all_version(bitmap->bits, ranges[i].offset, ranges[i].length,
                                         version)) {
                return false;
            }
        }
    }
    return true;
}

void drive_prefetch(const struct drive *drive, const struct range *ranges, uint32_t count)
{
    const struct drive_bitmap *bitmap;
    TAILQ_FOREACH (bitmap, &drive->recording, recording_entry) {
        for (uint32_t i = 0; i < count; i++) {
            if (ranges[i].offset < drive->size) {
                bitmap_prefetch(bitmap->bits, ranges[i].offset);
            }
        }
    }
}

enum ack_level drive_ack_level(const struct drive *drive)
{
    return drive->durability == DURABILITY_PROCESS_CRASH ? ACK_WRITTEN : ACK_DURABLE;
}

int drive_mark(struct model *model, struct drive *drive, const struct range *ranges, uint32_t count,
               uint64_t *ret_sequence, struct error *error)
{
    struct record record = {
        .type = RECORD_MARK, .drive = drive->id, .ranges = ranges, .ranges_count = count};

    int r = record_check_ranges(drive, &record, error);
    if (r < 0) {
        return r;
    }
    if (count > 1) {
        drive_prefetch(drive, ranges, count);
    }
    uint64_t version = 0;
    if (mark_changes_nothing(drive, ranges, count, &version)) {
        model->marks += count;
        /* No record; but what made it dirty may still be on its way. */
        *ret_sequence =
            version <= ack_watermark(model, drive_ack_level(drive)) ? 0 : model->sequence;
        return 0;
    }
    r = model_commit(model, &record, error);
    if (r < 0) {
        return r;
    }
    *ret_sequence = record.sequence;
    return 0;
}
