/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Records about bitmaps.
 *
 * Whatever starts or restarts recording (create, enable, clear) begins with
 * the unsettled ranges of the drive's writers set: they stay a subset of every
 * recording bitmap.  They are also a subset of every disabled one without a
 * gap, since that one vouches, once it is enabled, for the time it was off:
 * a write may happen then whose mark came before.  Validity only ever gets
 * worse here, but for clearing everything, which restarts an exact history.
 */
#include "daemon/drive/apply.h"

#include <stdio.h>
#include <string.h>

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
static int collect(struct model *model, struct record *record, struct prepared *prepared,
                   struct error *error)
{
    if (model->replaying) {
        return 0;
    }
    int r = drive_collect_unsettled(prepared->drive, &prepared->carried, &record->carried_count,
                                    &record->carry_whole);
    if (r < 0) {
        return record_no_memory(error);
    }
    record->carried = prepared->carried;
    return 0;
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
    int r = collect(model, record, prepared, error);
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
    prepared->validity = VALIDITY_SUPERSET;
    (void)snprintf(prepared->reason, sizeof prepared->reason,
                   "a lost writer of the drive has not come back: older marks are kept");
    if (!base) {
        bitmap_set_all(prepared->bits, record->sequence);
        return 0;
    }
    return bitmap_merge(prepared->bits, base, record->sequence) < 0 ? record_no_memory(error) : 0;
}

/* Carries what is unsettled; what is not known as a bitmap that is given, … */
static int carry(struct model *model, struct record *record, const struct bitmap *base,
                 struct prepared *prepared, struct error *error)
{
    int r = carry_known(model, record, prepared, error);
    return r == 0 && record->carry_whole ? carry_whole(record, base, prepared, error) : r;
}

/* … or as one that is looked for among all of the drive's only if there is need of it. */
static int carry_any(struct model *model, struct record *record, struct prepared *prepared,
                     struct error *error)
{
    int r = carry_known(model, record, prepared, error);
    return r == 0 && record->carry_whole
               ? carry_whole(record, pick_base(prepared->drive), prepared, error)
               : r;
}

/*
 * The same for a bitmap that does not record.  What is not known is its gap
 * rather than carried whole: nothing is missed unless it is enabled.
 */
static int carry_disabled(struct model *model, struct record *record, struct prepared *prepared,
                          struct error *error)
{
    int r = carry_known(model, record, prepared, error);
    prepared->gap = r == 0 && record->carry_whole;
    return r;
}

int prepare_bitmap_create(struct model *model, struct record *record, struct prepared *prepared,
                          struct error *error)
{
    int r = record_find_drive(model, record, prepared, error);
    if (r == 0) {
        r = record_check_bitmap_name(model, prepared->drive, record->name, error);
    }
    if (r < 0) {
        return r;
    }
    struct drive *drive = prepared->drive;
    if (record->granularity == 0) {
        record->granularity = drive->granularity;
    }
    r = record_check_geometry(drive->size, record->granularity, error);
    if (r < 0) {
        return r;
    }
    if (!model->replaying &&
        model->bitmaps_count + model->foreign_count >= model->settings.bitmaps_max) {
        return error_set(error, -EDQUOT, "limits.bitmaps: there are %u bitmaps already",
                         model->bitmaps_count + model->foreign_count);
    }
    if (!model->replaying && model->settings.memory_max &&
        model->bits_bytes + drive_bits_bytes(drive->size, record->granularity) >
            model->settings.memory_max) {
        return error_set(error, -EDQUOT, "limits.memory: one more bitmap would pass %llu bytes",
                         (unsigned long long)model->settings.memory_max);
    }
    r = bitmap_new(drive->size, record->granularity, UINT32_C(1) << model->settings.cluster_bits,
                   &prepared->bits);
    if (r < 0) {
        return record_no_memory(error);
    }
    r = record->disabled ? carry_disabled(model, record, prepared, error)
                         : carry_any(model, record, prepared, error);
    if (r < 0) {
        return r;
    }
    record->bitmap = model->next_id;
    r = drive_bitmap_new(record->bitmap, record->name, prepared->bits, &prepared->new_bitmap);
    if (r < 0) {
        return record_no_memory(error);
    }
    prepared->bits = NULL;
    return 0;
}

void apply_bitmap_create(struct model *model, const struct record *record,
                         struct prepared *prepared)
{
    struct drive_bitmap *bitmap = STEAL(prepared->new_bitmap);
    bitmap->recording = !record->disabled;
    bitmap->gap = prepared->gap;
    bitmap->changed = record->sequence;
    drive_bitmap_set_validity(bitmap, prepared->validity, "%s", prepared->reason);
    model_link_bitmap(model, prepared->drive, bitmap);
    model->next_id = record->bitmap + 1;
}

void apply_bitmap_delete(struct model *model, const struct record *record,
                         struct prepared *prepared)
{
    (void)record;
    remove_bitmap(model, prepared->bitmap);
}

/* A copy of the target's bits to be changed and swapped in. */
static int copy_bits(struct prepared *prepared, struct error *error)
{
    return bitmap_snapshot(prepared->bitmap->bits, &prepared->bits) < 0 ? record_no_memory(error)
                                                                        : 0;
}

static void swap_bits(struct prepared *prepared)
{
    struct bitmap *old = prepared->bitmap->bits;
    prepared->bitmap->bits = prepared->bits;
    prepared->bits = old;
}

int prepare_bitmap_enable(struct model *model, struct record *record, struct prepared *prepared,
                          struct error *error)
{
    int r = record_find_bitmap(model, record, prepared, error);
    if (r < 0 || prepared->bitmap->recording) {
        return r;
    }
    r = copy_bits(prepared, error);
    return r < 0 ? r : carry_any(model, record, prepared, error);
}

void apply_bitmap_enable(struct model *model, const struct record *record,
                         struct prepared *prepared)
{
    (void)model;
    struct drive_bitmap *bitmap = prepared->bitmap;
    if (bitmap->recording) {
        return;
    }
    swap_bits(prepared);
    if (bitmap->gap) {
        drive_bitmap_set_validity(bitmap, VALIDITY_UNKNOWN,
                                  "it was disabled while the drive was written");
    } else {
        drive_bitmap_worsen(bitmap, prepared->validity, "%s", prepared->reason);
    }
    drive_bitmap_set_recording(bitmap, true, false);
    bitmap->changed = record->sequence;
}

void apply_bitmap_disable(struct model *model, const struct record *record,
                          struct prepared *prepared)
{
    (void)model;
    if (prepared->bitmap->recording) {
        drive_bitmap_set_recording(prepared->bitmap, false, false);
        prepared->bitmap->changed = record->sequence;
    }
}

int prepare_bitmap_rename(struct model *model, struct record *record, struct prepared *prepared,
                          struct error *error)
{
    int r = record_find_bitmap(model, record, prepared, error);
    return r < 0 ? r : record_check_bitmap_name(model, prepared->drive, record->name, error);
}

void apply_bitmap_rename(struct model *model, const struct record *record,
                         struct prepared *prepared)
{
    (void)model;
    struct drive_bitmap *bitmap = prepared->bitmap;
    RB_REMOVE(drive_bitmap_names, &prepared->drive->bitmaps, bitmap);
    memcpy(bitmap->name, record->name.data, record->name.bytes);
    bitmap->name[record->name.bytes] = '\0';
    RB_INSERT(drive_bitmap_names, &prepared->drive->bitmaps, bitmap);
    bitmap->changed = record->sequence;
}

/* Changes the record's ranges in a copy of the bitmap's bits. */
static int change_ranges(struct model *model, struct record *record, struct prepared *prepared,
                         void (*change)(struct bitmap *bits, uint64_t offset, uint64_t length,
                                        uint64_t version),
                         struct error *error)
{
    int r = record_find_bitmap(model, record, prepared, error);
    if (r == 0) {
        r = record_check_ranges(prepared->drive, record, error);
    }
    if (r == 0) {
        r = copy_bits(prepared, error);
    }
    for (uint32_t i = 0; r == 0 && i < record->ranges_count; i++) {
        struct range range = record->ranges[i];
        r = bitmap_reserve(prepared->bits, range.offset, range.length);
        if (r < 0) {
            return record_no_memory(error);
        }
        change(prepared->bits, range.offset, range.length, record->sequence);
    }
    return r;
}

int prepare_bitmap_set(struct model *model, struct record *record, struct prepared *prepared,
                       struct error *error)
{
    return change_ranges(model, record, prepared, bitmap_set, error);
}

void apply_bits(struct model *model, const struct record *record, struct prepared *prepared)
{
    (void)model;
    swap_bits(prepared);
    if (prepared->validity > prepared->bitmap->validity) {
        drive_bitmap_set_validity(prepared->bitmap, prepared->validity, "%s", prepared->reason);
        prepared->bitmap->changed = record->sequence;
    }
    if (prepared->gap) {
        drive_bitmap_set_recording(prepared->bitmap, false, true);
        prepared->bitmap->changed = record->sequence;
    }
}

int prepare_bitmap_clear(struct model *model, struct record *record, struct prepared *prepared,
                         struct error *error)
{
    int r = change_ranges(model, record, prepared, bitmap_clear, error);
    if (r < 0) {
        return r;
    }
    if (prepared->bitmap->recording) {
        return carry(model, record, prepared->bitmap->bits, prepared, error);
    }
    return prepared->bitmap->gap ? 0 : carry_disabled(model, record, prepared, error);
}

int prepare_bitmap_clear_all(struct model *model, struct record *record, struct prepared *prepared,
                             struct error *error)
{
    int r = record_find_bitmap(model, record, prepared, error);
    if (r == 0) {
        r = copy_bits(prepared, error);
    }
    if (r < 0) {
        return r;
    }
    bitmap_clear_all(prepared->bits, record->sequence);
    if (!prepared->bitmap->recording) {
        return carry_disabled(model, record, prepared, error);
    }
    /* The bits of an unknown bitmap vouch for nothing: carrying them whole is carrying all. */
    const struct bitmap *base =
        prepared->bitmap->validity == VALIDITY_UNKNOWN ? NULL : prepared->bitmap->bits;
    return carry(model, record, base, prepared, error);
}

void apply_bitmap_clear_all(struct model *model, const struct record *record,
                            struct prepared *prepared)
{
    (void)model;
    struct drive_bitmap *bitmap = prepared->bitmap;
    swap_bits(prepared);
    drive_bitmap_set_validity(bitmap, prepared->validity, "%s", prepared->reason);
    drive_bitmap_set_recording(bitmap, bitmap->recording, prepared->gap);
    bitmap->changed = record->sequence;
}

int prepare_bitmap_merge(struct model *model, struct record *record, struct prepared *prepared,
                         struct error *error)
{
    int r = record_find_bitmap(model, record, prepared, error);
    if (r < 0) {
        return r;
    }
    if (record->sources_count == 0) {
        return error_set(error, -EINVAL, "no source is given");
    }
    if (record->sources_count > prepared->drive->bitmaps_count) {
        /* Each costs a pass over its bits. */
        return error_set(error, -EINVAL, "%u sources are given, drive '%s' has %u bitmaps",
                         record->sources_count, prepared->drive->name,
                         prepared->drive->bitmaps_count);
    }
    r = copy_bits(prepared, error);
    for (uint32_t i = 0; r == 0 && i < record->sources_count; i++) {
        struct drive_bitmap *source = model_bitmap_by_id(model, record->sources[i]);
        if (!source) {
            return error_set(error, -ENOENT, "no bitmap with id %llu",
                             (unsigned long long)record->sources[i]);
        }
        if (source->drive != prepared->drive) {
            return error_set(error, -EINVAL, "bitmap '%s/%s' belongs to another drive than '%s/%s'",
                             source->drive->name, source->name, prepared->drive->name,
                             prepared->bitmap->name);
        }
        if (source->validity > prepared->validity) {
            prepared->validity = source->validity;
            (void)snprintf(prepared->reason, sizeof prepared->reason, "merged from '%.60s': %.100s",
                           source->name, source->reason);
        }
        r = bitmap_merge(prepared->bits, source->bits, record->sequence);
        if (r < 0) {
            return record_no_memory(error);
        }
    }
    return r;
}
