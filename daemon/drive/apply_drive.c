/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Records about drives.
 */
#include "daemon/drive/apply.h"

#include "proto/base/checked.h"

#include <stdio.h>
#include <string.h>

int prepare_drive_add(struct model *model, struct record *record, struct prepared *prepared,
                      struct error *error)
{
    int r = name_check(NAME_DRIVE, record->name.data, record->name.bytes, error);
    if (r == 0) {
        r = record_check_size(record->size, error);
    }
    if (r == 0) {
        r = record_check_granularity(record->granularity, error);
    }
    if (r == 0) {
        r = record_check_durability(record->durability, error);
    }
    if (r < 0) {
        return r;
    }
    if (record->path.bytes > MODEL_PATH_BYTES_MAX ||
        (record->path.bytes &&
         (record->path.data[0] != '/' || memchr(record->path.data, '\0', record->path.bytes)))) {
        return error_set(error, -EINVAL, "a drive's path must be absolute, at most %d bytes",
                         MODEL_PATH_BYTES_MAX);
    }
    if (model_drive_by_name(model, record->name, NULL)) {
        return error_set(error, -EEXIST, "drive '%.*s' exists", (int)record->name.bytes,
                         record->name.data);
    }
    if (!model->replaying && model->drives_count >= model->settings.drives_max) {
        return error_set(error, -EDQUOT, "limits.drives: there are %u drives already",
                         model->drives_count);
    }
    record->drive = model->next_id;
    r = drive_new(record->drive, record->name, record->path, &prepared->new_drive);
    return r < 0 ? record_no_memory(error) : 0;
}

void apply_drive_add(struct model *model, const struct record *record, struct prepared *prepared)
{
    struct drive *drive = STEAL(prepared->new_drive);
    drive->size = record->size;
    drive->granularity = record->granularity;
    drive->durability = record->durability;
    model_link_drive(model, drive);
    model->next_id = record->drive + 1;
}

int prepare_drive_set(struct model *model, struct record *record, struct prepared *prepared,
                      struct error *error)
{
    int r = record_find_drive(model, record, prepared, error);
    if (r == 0 && record->granularity != 0) {
        r = record_check_granularity(record->granularity, error);
    }
    if (r == 0 && record->durability != 0) {
        r = record_check_durability(record->durability, error);
    }
    return r;
}

void apply_drive_set(struct model *model, const struct record *record, struct prepared *prepared)
{
    (void)model;
    if (record->granularity != 0) {
        prepared->drive->granularity = record->granularity;
    }
    if (record->durability != 0) {
        prepared->drive->durability = record->durability;
    }
}

int prepare_drive_rename(struct model *model, struct record *record, struct prepared *prepared,
                         struct error *error)
{
    int r = record_find_drive(model, record, prepared, error);
    if (r == 0) {
        r = name_check(NAME_DRIVE, record->name.data, record->name.bytes, error);
    }
    if (r < 0) {
        return r;
    }
    if (model_drive_by_name(model, record->name, NULL)) {
        return error_set(error, -EEXIST, "drive '%.*s' exists", (int)record->name.bytes,
                         record->name.data);
    }
    struct drive_bitmap *bitmap;
    RB_FOREACH (bitmap, drive_bitmap_names, &prepared->drive->bitmaps) {
        char full[BITMAP_FULL_NAME_BYTES];
        (void)snprintf(full, sizeof full, "%.*s/%s", (int)record->name.bytes, record->name.data,
                       bitmap->name);
        if (model_name_is_foreign(model, full)) {
            return error_set(error, -EEXIST,
                             "the container holds a bitmap '%s' that another program made", full);
        }
    }
    return 0;
}

void apply_drive_rename(struct model *model, const struct record *record, struct prepared *prepared)
{
    struct drive *drive = prepared->drive;
    model_unlink_drive(model, drive);
    memcpy(drive->name, record->name.data, record->name.bytes);
    drive->name[record->name.bytes] = '\0';
    model_link_drive(model, drive);
    struct drive_bitmap *bitmap;
    RB_FOREACH (bitmap, drive_bitmap_names, &drive->bitmaps) {
        bitmap->changed = record->sequence;
    }
}

int prepare_drive_resize(struct model *model, struct record *record, struct prepared *prepared,
                         struct error *error)
{
    int r = record_find_drive(model, record, prepared, error);
    if (r == 0) {
        r = record_check_size(record->size, error);
    }
    if (r < 0) {
        return r;
    }
    struct drive *drive = prepared->drive;
    if (record->size < drive->size && drive->writers_count > 0 && !model->replaying) {
        return error_set(error, -EBUSY, "drive '%s' has writers: it can grow but not shrink",
                         drive->name);
    }
    uint64_t old_bytes = 0, new_bytes = 0;
    struct drive_bitmap *bitmap;
    RB_FOREACH (bitmap, drive_bitmap_names, &drive->bitmaps) {
        r = record_check_geometry(record->size, bitmap_granularity(bitmap->bits), error);
        if (r < 0) {
            return error_prefix(error, r, "bitmap '%s'", bitmap->name);
        }
        old_bytes += drive_bits_bytes(drive->size, bitmap_granularity(bitmap->bits));
        new_bytes += drive_bits_bytes(record->size, bitmap_granularity(bitmap->bits));
    }
    if (!model->replaying && model->settings.memory_max && new_bytes > old_bytes &&
        model->bits_bytes - old_bytes + new_bytes > model->settings.memory_max) {
        return error_set(error, -EDQUOT, "limits.memory: the larger bitmaps would pass %llu bytes",
                         (unsigned long long)model->settings.memory_max);
    }
    prepared->resized = calloc((size_t)drive->bitmaps_count + 1, sizeof *prepared->resized);
    if (!prepared->resized) {
        return record_no_memory(error);
    }
    RB_FOREACH (bitmap, drive_bitmap_names, &drive->bitmaps) {
        r = bitmap_resized(bitmap->bits, record->size, record->sequence,
                           &prepared->resized[prepared->resized_count]);
        if (r < 0) {
            return record_no_memory(error);
        }
        prepared->resized_count++;
    }
    return 0;
}

void apply_drive_resize(struct model *model, const struct record *record, struct prepared *prepared)
{
    struct drive *drive = prepared->drive;
    uint32_t i = 0;
    struct drive_bitmap *bitmap;
    RB_FOREACH (bitmap, drive_bitmap_names, &drive->bitmaps) {
        uint32_t granularity = bitmap_granularity(bitmap->bits);
        model->bits_bytes -= drive_bits_bytes(drive->size, granularity);
        model->bits_bytes += drive_bits_bytes(record->size, granularity);
        struct bitmap *old = bitmap->bits;
        bitmap->bits = prepared->resized[i];
        prepared->resized[i] = old;
        bitmap->changed = record->sequence;
        i++;
    }
    drive->size = record->size;
}

int prepare_drive_remove(struct model *model, struct record *record, struct prepared *prepared,
                         struct error *error)
{
    int r = record_find_drive(model, record, prepared, error);
    if (r < 0) {
        return r;
    }
    struct drive *drive = prepared->drive;
    /* A replay may still have writers that were gone: how they went was not recorded each. */
    if (drive->writers_count > 0 && !model->replaying) {
        return error_set(error, -EBUSY, "drive '%s' has %u writers (see drive fence)", drive->name,
                         drive->writers_count);
    }
    if (drive->bitmaps_count > 0 && !record->force) {
        return error_set(error, -EBUSY, "drive '%s' has %u bitmaps", drive->name,
                         drive->bitmaps_count);
    }
    return 0;
}

void apply_drive_remove(struct model *model, const struct record *record, struct prepared *prepared)
{
    (void)record;
    struct drive *drive = prepared->drive;
    struct drive_bitmap *bitmap, *next;
    RB_FOREACH_SAFE (bitmap, drive_bitmap_names, &drive->bitmaps, next) {
        remove_bitmap(model, bitmap);
    }
    struct writer *writer;
    while ((writer = TAILQ_FIRST(&drive->writers))) {
        drive_remove_writer(drive, writer);
        writer_free(writer);
    }
    model_unlink_drive(model, drive);
    drive_free(drive);
}

void apply_drive_distrust(struct model *model, const struct record *record,
                          struct prepared *prepared)
{
    (void)model;
    char reason[MODEL_REASON_BYTES_MAX + 1];
    struct drive_bitmap *bitmap;

    (void)snprintf(reason, sizeof reason, "%.*s", (int)record->name.bytes, record->name.data);
    RB_FOREACH (bitmap, drive_bitmap_names, &prepared->drive->bitmaps) {
        drive_bitmap_distrust(bitmap, record->sequence, reason);
    }
}
