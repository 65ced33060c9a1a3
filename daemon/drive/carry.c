/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What starts or restarts recording (create, enable, clear, a checkpoint) begins with the unsettled
 * ranges of the drive's writers set: their writes may still happen.  Where the ranges are not all
 * known, a whole bitmap that has recorded them is carried in their place.
 *
 * A record says what it carried, so that a replay carries the same.
 */
#include "daemon/drive/apply.h"

#include <assert.h>
#include <stdio.h>

/* The recording bitmap that is carried whole when a writer is unaccounted: the emptiest. */
static const struct bitmap *pick_base(const struct drive *drive)
{
    const struct drive_bitmap *best = NULL;
    const struct drive_bitmap *bitmap;
    TAILQ_FOREACH (bitmap, &drive->recording, recording_entry) {
        if (bitmap->validity != VALIDITY_UNKNOWN &&
            (!best || bitmap_dirty_bytes(bitmap->bits) < bitmap_dirty_bytes(best->bits))) {
            best = bitmap;
        }
    }
    return best ? best->bits : NULL;
}

/* The unsettled ranges of the drive's writers into the record; a replay has them from then. */
int carry_collect(struct model *model, struct record *record, struct prepared *prepared,
                  struct error *error)
{
    if (model->replaying || prepared->carries) {
        prepared->carries = true;
        return 0;
    }
    int r = drive_collect_unsettled(prepared->drive, model->carried_left, &prepared->carried,
                                    &record->carried_count, &record->carry_whole);
    if (r < 0) {
        return record_no_memory(error);
    }
    model->carried_left -= record->carried_count;
    record->carried = prepared->carried;
    record->doubtful = drive_is_doubtful(prepared->drive);
    prepared->carries = true;
    return 0;
}

void carry_apply(const struct record *record, const struct prepared *prepared)
{
    for (uint32_t i = 0; prepared->carries && i < record->carried_count; i++) {
        struct range range = record->carried[i];
        bitmap_set(prepared->changing->bits, range.offset, range.length, record->sequence);
    }
}

/* Sets the ranges that the record carries in prepared->bits. */
static int carry_ranges(const struct record *record, struct prepared *prepared, struct error *error)
{
    for (uint32_t i = 0; i < record->carried_count; i++) {
        struct range range = record->carried[i];
        int r = record_check_range(prepared->drive, range, error);
        if (r < 0) {
            return r;
        }
        if (!prepared->bits) {
            bitmap_need_change(prepared->changing->bits, range.offset, range.length,
                               &prepared->need);
            continue;
        }
        r = bitmap_reserve(prepared->bits, range.offset, range.length);
        if (r < 0) {
            return record_no_memory(error);
        }
        bitmap_set(prepared->bits, range.offset, range.length, record->sequence);
    }
    return 0;
}

/* Carries what is unsettled into prepared->bits as far as its ranges are known. */
static int carry_known(struct model *model, struct record *record, struct prepared *prepared,
                       struct error *error)
{
    int r = carry_collect(model, record, prepared, error);
    return r == 0 ? carry_ranges(record, prepared, error) : r;
}

/*
 * Carries whole the bitmap @base, which has recorded so far, when the ranges
 * are not known, and tells the validity that results.  NULL when none vouches
 * for anything: then all is set.
 */
static int carry_whole(const struct record *record, const struct bitmap *base,
                       struct prepared *prepared, struct error *error)
{
    assert(prepared->bits);
    prepared->validity = VALIDITY_SUPERSET;
    (void)snprintf(prepared->reason, sizeof prepared->reason,
                   "a lost writer of the drive has not come back: older marks are kept");
    if (!base) {
        bitmap_set_all(prepared->bits, record->sequence);
        return 0;
    }
    return bitmap_merge(prepared->bits, base, record->sequence) < 0 ? record_no_memory(error) : 0;
}

/* What begins now is unknown at once while somebody writes to the drive without marks. */
static void carry_doubt(const struct record *record, struct prepared *prepared)
{
    if (record->doubtful) {
        prepared->validity = VALIDITY_UNKNOWN;
        (void)snprintf(prepared->reason, sizeof prepared->reason,
                       "a writer that goes on without bitmapd was lost and has not come back");
    }
}

/* Carries what is unsettled; what is not known as a bitmap that is given, … */
int carry_from(struct model *model, struct record *record, const struct bitmap *base,
               struct prepared *prepared, struct error *error)
{
    int r = carry_known(model, record, prepared, error);
    if (r == 0 && record->carry_whole) {
        r = carry_whole(record, base, prepared, error);
    }
    carry_doubt(record, prepared);
    return r;
}

/* … or as one that is looked for among all of the drive's only if there is need of it. */
int carry_any(struct model *model, struct record *record, struct prepared *prepared,
              struct error *error)
{
    int r = carry_known(model, record, prepared, error);
    if (r == 0 && record->carry_whole) {
        r = carry_whole(record, pick_base(prepared->drive), prepared, error);
    }
    carry_doubt(record, prepared);
    return r;
}

/*
 * The same for a bitmap that does not record.  What is not known is its gap
 * rather than carried whole: nothing is missed unless it is enabled.
 */
int carry_disabled(struct model *model, struct record *record, struct prepared *prepared,
                   struct error *error)
{
    int r = carry_known(model, record, prepared, error);
    prepared->gap = r == 0 && (record->carry_whole || record->doubtful);
    return r;
}
