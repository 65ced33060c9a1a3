/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Records about bitmaps.
 *
 * Whatever starts or restarts recording (create, enable, clear) begins with
 * the unsettled ranges of the drive's writers set (carry.c): they stay a subset
 * of every recording bitmap.  They are also a subset of every disabled one without a
 * gap, since that one vouches, once it is enabled, for the time it was off:
 * a write may happen then whose mark came before.  Validity only ever gets
 * worse here, but for clearing everything, which restarts an exact history.
 */
#include "daemon/drive/apply.h"

#include <stdio.h>
#include <string.h>

int record_check_room(const struct model *model, uint64_t size, uint32_t granularity,
                      struct error *error)
{
    if (model->replaying) {
        return 0;
    }
    if (model->bitmaps_count + model->foreign_count >= model->settings.bitmaps_max) {
        return error_set(error, -EDQUOT, "limits.bitmaps: there are %u bitmaps already",
                         model->bitmaps_count + model->foreign_count);
    }
    /* What the cache is over its limit waits for the container. */
    uint64_t waiting = model->cache_bytes > model->settings.cache_max
                           ? model->cache_bytes - model->settings.cache_max
                           : 0;
    if (model->settings.memory_max &&
        model->bits_bytes + waiting + drive_bits_bytes(size, granularity) >
            model->settings.memory_max) {
        return error_set(error, -EDQUOT, "limits.memory: one more bitmap would pass %llu bytes",
                         (unsigned long long)model->settings.memory_max);
    }
    return 0;
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
    r = record_check_room(model, drive->size, record->granularity, error);
    if (r < 0) {
        return r;
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
    if (!model->replaying) {
        record->untracked = drive_untracked(drive);
    }
    r = drive_bitmap_new(record->bitmap, record->name, record->granularity, prepared->bits,
                         &prepared->new_bitmap);
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
    bitmap->untracked = record->untracked;
    drive_bitmap_set_validity(bitmap, prepared->validity, "%s", prepared->reason);
    model_link_bitmap(model, prepared->drive, bitmap);
    model->next_id = record->bitmap + 1;
    prepared->made = bitmap;
}

void undo_bitmap_create(struct model *model, struct prepared *prepared)
{
    model_unlink_bitmap(model, prepared->made);
    drive_bitmap_free(prepared->made);
}

void apply_bitmap_delete(struct model *model, const struct record *record,
                         struct prepared *prepared)
{
    (void)record;
    prepared->bits = remove_bitmap(model, prepared->bitmap);
}

void undo_bitmap_delete(struct model *model, struct prepared *prepared)
{
    restore_bitmap(model, prepared->drive, prepared->bitmap, STEAL(prepared->bits));
}

/* Of what changes one bitmap: apply() has left its former bits, if it changed them. */
void undo_bitmap_change(struct model *model, struct prepared *prepared)
{
    (void)model;
    if (prepared->bits) {
        record_swap_bits(prepared->bitmap, prepared);
    }
    bitmap_state_restore(prepared->bitmap, &prepared->before[0]);
}

int prepare_bitmap_enable(struct model *model, struct record *record, struct prepared *prepared,
                          struct error *error)
{
    int r = record_find_bitmap(model, record, prepared, error);
    if (r < 0 || prepared->bitmap->recording) {
        return r;
    }
    r = record_begin_change(model, prepared->bitmap, false, prepared, error);
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
    record_swap_bits(prepared->bitmap, prepared);
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

typedef void change_range(struct bitmap *bits, uint64_t offset, uint64_t length, uint64_t version);

static int find_for_ranges(struct model *model, struct record *record, struct prepared *prepared,
                           struct error *error)
{
    int r = record_find_bitmap(model, record, prepared, error);
    return r < 0 ? r : record_check_ranges(prepared->drive, record, error);
}

/* Changes the record's ranges in prepared->bits, or adds the need of it. */
static int prepare_ranges(const struct record *record, struct prepared *prepared,
                          change_range *change, struct error *error)
{
    for (uint32_t i = 0; i < record->ranges_count; i++) {
        struct range range = record->ranges[i];
        if (!prepared->bits) {
            bitmap_need_change(prepared->changing->bits, range.offset, range.length,
                               &prepared->need);
            continue;
        }
        if (bitmap_reserve(prepared->bits, range.offset, range.length) < 0) {
            return record_no_memory(error);
        }
        change(prepared->bits, range.offset, range.length, record->sequence);
    }
    return 0;
}

static void apply_ranges(const struct record *record, struct bitmap *bits, change_range *change)
{
    for (uint32_t i = 0; i < record->ranges_count; i++) {
        change(bits, record->ranges[i].offset, record->ranges[i].length, record->sequence);
    }
}

int prepare_bitmap_set(struct model *model, struct record *record, struct prepared *prepared,
                       struct error *error)
{
    int r = find_for_ranges(model, record, prepared, error);
    if (r == 0) {
        r = record_begin_change(model, prepared->bitmap, true, prepared, error);
    }
    if (r == 0) {
        r = prepare_ranges(record, prepared, bitmap_set, error);
    }
    return r < 0 ? r : record_reserve(prepared, error);
}

void apply_bitmap_set(struct model *model, const struct record *record, struct prepared *prepared)
{
    (void)model;
    if (prepared->bits) {
        record_swap_bits(prepared->bitmap, prepared);
    } else {
        apply_ranges(record, prepared->changing->bits, bitmap_set);
        record_end_change(prepared);
    }
}

/*
 * What a clear must not lose is its bits of now, when they are carried whole: then it is a snapshot
 * that is cleared.
 */
static int begin_clear(struct model *model, struct record *record, struct prepared *prepared,
                       struct error *error)
{
    struct drive_bitmap *bitmap = prepared->bitmap;
    int r = bitmap->recording ? carry_collect(model, record, prepared, error) : 0;
    if (r < 0) {
        return r;
    }
    bool whole = bitmap->recording && record->carry_whole;
    return record_begin_change(model, bitmap, !whole, prepared, error);
}

int prepare_bitmap_clear(struct model *model, struct record *record, struct prepared *prepared,
                         struct error *error)
{
    int r = find_for_ranges(model, record, prepared, error);
    if (r == 0) {
        r = begin_clear(model, record, prepared, error);
    }
    if (r == 0) {
        r = prepare_ranges(record, prepared, bitmap_clear, error);
    }
    if (r == 0 && prepared->bitmap->recording) {
        r = carry_from(model, record, prepared->bitmap->bits, prepared, error);
    } else if (r == 0 && !prepared->bitmap->gap) {
        r = carry_disabled(model, record, prepared, error);
    }
    return r < 0 ? r : record_reserve(prepared, error);
}

/* The new bits are worth no more than what they were made of. */
static void take_worth(const struct record *record, const struct prepared *prepared)
{
    struct drive_bitmap *bitmap = prepared->bitmap;

    if (prepared->validity > bitmap->validity) {
        drive_bitmap_set_validity(bitmap, prepared->validity, "%s", prepared->reason);
        bitmap->changed = record->sequence;
    }
    if (prepared->untracked > bitmap->untracked) {
        bitmap->untracked = prepared->untracked;
        bitmap->changed = record->sequence;
    }
    if (prepared->gap) {
        drive_bitmap_set_recording(bitmap, false, true);
        bitmap->changed = record->sequence;
    }
}

void apply_bitmap_clear(struct model *model, const struct record *record, struct prepared *prepared)
{
    (void)model;
    if (prepared->bits) {
        record_swap_bits(prepared->bitmap, prepared);
    } else {
        apply_ranges(record, prepared->changing->bits, bitmap_clear);
        carry_apply(record, prepared);
        record_end_change(prepared);
    }
    take_worth(record, prepared);
}

int prepare_bitmap_clear_all(struct model *model, struct record *record, struct prepared *prepared,
                             struct error *error)
{
    int r = record_find_bitmap(model, record, prepared, error);
    if (r == 0) {
        r = begin_clear(model, record, prepared, error);
    }
    if (r < 0) {
        return r;
    }
    if (prepared->bits) {
        bitmap_clear_all(prepared->bits, record->sequence);
    }
    if (!model->replaying) {
        record->untracked = drive_untracked(prepared->drive);
    }
    if (prepared->bitmap->recording) {
        /* The bits of an unknown bitmap vouch for nothing: carrying them whole is carrying all. */
        const struct bitmap *base =
            prepared->bitmap->validity == VALIDITY_UNKNOWN ? NULL : prepared->bitmap->bits;
        r = carry_from(model, record, base, prepared, error);
    } else {
        r = carry_disabled(model, record, prepared, error);
    }
    return r < 0 ? r : record_reserve(prepared, error);
}

void apply_bitmap_clear_all(struct model *model, const struct record *record,
                            struct prepared *prepared)
{
    (void)model;
    struct drive_bitmap *bitmap = prepared->bitmap;
    if (prepared->bits) {
        record_swap_bits(bitmap, prepared);
    } else {
        bitmap_clear_all(prepared->changing->bits, record->sequence);
        carry_apply(record, prepared);
        record_end_change(prepared);
    }
    drive_bitmap_set_validity(bitmap, prepared->validity, "%s", prepared->reason);
    drive_bitmap_set_recording(bitmap, bitmap->recording, prepared->gap);
    bitmap->untracked = record->untracked;
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
    r = record_begin_change(model, prepared->bitmap, true, prepared, error);
    for (uint32_t i = 0; r == 0 && i < record->sources_count; i++) {
        struct drive_bitmap *source = model_bitmap_by_id(model, record->sources[i]);
        if (!source) {
            return error_set(error, -ENOENT, "no bitmap with id %llu",
                             (unsigned long long)record->sources[i]);
        }
        if (source->checkpoint) {
            return error_set(error, -EINVAL, "'%s' is a checkpoint, not a bitmap", source->name);
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
        if (source->untracked > prepared->untracked) {
            prepared->untracked = source->untracked;
        }
        r = record_merge(record, source->bits, prepared, error);
    }
    return r < 0 ? r : record_reserve(prepared, error);
}

void apply_bitmap_merge(struct model *model, const struct record *record, struct prepared *prepared)
{
    if (prepared->bits) {
        record_swap_bits(prepared->bitmap, prepared);
    } else {
        for (uint32_t i = 0; i < record->sources_count; i++) {
            const struct drive_bitmap *source = model_bitmap_by_id(model, record->sources[i]);
            bitmap_merge_reserved(prepared->changing->bits, source->bits, record->sequence);
        }
        record_end_change(prepared);
    }
    take_worth(record, prepared);
}

/* A sealed bitmap whose bits cannot be read out of the container any more. */
int prepare_bitmap_distrust(struct model *model, struct record *record, struct prepared *prepared,
                            struct error *error)
{
    int r = record_find_bitmap_of_any_kind(model, record, prepared, error);
    if (r < 0 || prepared->bitmap->bits) {
        return r;
    }
    r = bitmap_new(prepared->drive->size, prepared->bitmap->granularity,
                   UINT32_C(1) << model->settings.cluster_bits, &prepared->bits);
    if (r < 0) {
        return record_no_memory(error);
    }
    bitmap_set_all(prepared->bits, record->sequence);
    return 0;
}

void apply_bitmap_distrust(struct model *model, const struct record *record,
                           struct prepared *prepared)
{
    (void)model;
    struct drive_bitmap *bitmap = prepared->bitmap;

    if (prepared->bits) {
        record_swap_bits(bitmap, prepared);
        bitmap->rewrite = true;
    }
    drive_bitmap_worsen(bitmap, VALIDITY_UNKNOWN, "%.*s", (int)record->name.bytes,
                        record->name.data);
    bitmap->changed = record->sequence;
}
