/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Records about drives.
 */
#include "daemon/drive/apply.h"

#include "proto/base/checked.h"

#include <stdio.h>
#include <string.h>

/* A copy of what may be kept; "" is kept as NULL. */
static int take_identity_text(struct text text, char **ret, const char *what, struct error *error)
{
    if (text.bytes == 0) {
        return 0;
    }
    if (text.bytes > MODEL_IDENTITY_BYTES_MAX || memchr(text.data, '\0', text.bytes)) {
        return error_set(error, -EINVAL, "%s of %u bytes cannot be kept", what, text.bytes);
    }
    *ret = strndup(text.data, text.bytes);
    return *ret ? 0 : record_no_memory(error);
}

int record_take_identity(const struct record *record, struct prepared *prepared,
                         struct error *error)
{
    int r = take_identity_text(record->identity, &prepared->identity, "an identity", error);
    return r < 0 ? r : take_identity_text(record->evidence, &prepared->evidence, "evidence", error);
}

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
    r = record_take_identity(record, prepared, error);
    if (r < 0) {
        return r;
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
    drive->identity = STEAL(prepared->identity);
    drive->evidence = STEAL(prepared->evidence);
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
    TAILQ_FOREACH (bitmap, &prepared->drive->all, of_drive) {
        char full[BITMAP_FULL_NAME_BYTES], old[BITMAP_FULL_NAME_BYTES];
        drive_bitmap_full_name(bitmap, old);
        (void)snprintf(full, sizeof full, "%.*s%s", (int)record->name.bytes, record->name.data,
                       old + strlen(prepared->drive->name));
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
    TAILQ_FOREACH (bitmap, &drive->all, of_drive) {
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
    int wanting = 0;
    TAILQ_FOREACH (bitmap, &drive->all, of_drive) {
        r = record_check_geometry(record->size, bitmap->granularity, error);
        if (r < 0) {
            return error_prefix(error, r, "%s '%s'", bitmap->checkpoint ? "checkpoint" : "bitmap",
                                bitmap->name);
        }
        old_bytes += drive_bits_bytes(drive->size, bitmap->granularity);
        new_bytes += drive_bits_bytes(record->size, bitmap->granularity);
    }
    if (!model->replaying && model->settings.memory_max && new_bytes > old_bytes &&
        model->bits_bytes + new_bytes - old_bytes > model->settings.memory_max) {
        return error_set(error, -EDQUOT, "limits.memory: the larger bitmaps would pass %llu bytes",
                         (unsigned long long)model->settings.memory_max);
    }
    TAILQ_FOREACH (bitmap, &drive->all, of_drive) {
        r = sealed_need(model, bitmap, error);
        wanting = r < 0 ? r : wanting;
    }
    if (wanting < 0) {
        return wanting;
    }
    prepared->resized = calloc((size_t)drive->bitmaps_count + drive->checkpoints_count + 1,
                               sizeof *prepared->resized);
    if (!prepared->resized) {
        return record_no_memory(error);
    }
    TAILQ_FOREACH (bitmap, &drive->all, of_drive) {
        r = bitmap_resized(bitmap->bits, record->size, record->sequence,
                           &prepared->resized[prepared->resized_count]);
        if (r < 0) {
            return record_no_memory(error);
        }
        prepared->resized_count++;
    }
    return 0;
}

/* All of the drive's bitmaps get the bits that were prepared for another size. */
static void apply_size(struct model *model, const struct record *record, struct prepared *prepared)
{
    struct drive *drive = prepared->drive;
    uint32_t i = 0;
    struct drive_bitmap *bitmap;

    TAILQ_FOREACH (bitmap, &drive->all, of_drive) {
        if (!drive_bitmap_is_sealed(bitmap)) {
            model->bits_bytes -= drive_bits_bytes(drive->size, bitmap->granularity);
            model->bits_bytes += drive_bits_bytes(record->size, bitmap->granularity);
        }
    }
    drive->size = record->size;
    TAILQ_FOREACH (bitmap, &drive->all, of_drive) {
        prepared->resized[i] = drive_bitmap_swap_bits(bitmap, prepared->resized[i]);
        bitmap->changed = record->sequence;
        i++;
    }
}

void apply_drive_resize(struct model *model, const struct record *record, struct prepared *prepared)
{
    apply_size(model, record, prepared);
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
    if (drive->bitmaps_count + drive->checkpoints_count > 0 && !record->force) {
        return error_set(error, -EBUSY, "drive '%s' has %u bitmaps and %u checkpoints", drive->name,
                         drive->bitmaps_count, drive->checkpoints_count);
    }
    return 0;
}

void apply_drive_remove(struct model *model, const struct record *record, struct prepared *prepared)
{
    (void)record;
    struct drive *drive = prepared->drive;
    struct drive_bitmap *bitmap, *next;
    for (bitmap = TAILQ_FIRST(&drive->all); bitmap; bitmap = next) {
        next = TAILQ_NEXT(bitmap, of_drive);
        bitmap_free(remove_bitmap(model, bitmap));
    }
    struct writer *writer;
    while ((writer = TAILQ_FIRST(&drive->writers))) {
        drive_remove_writer(drive, writer);
        writer_free(writer);
    }
    model_unlink_drive(model, drive);
    drive_free(drive);
}

/* What a verdict about the time before it leaves for the time after. */
static void renew_evidence(struct prepared *prepared)
{
    if (prepared->evidence) {
        free(prepared->drive->evidence);
        prepared->drive->evidence = STEAL(prepared->evidence);
    }
}

int prepare_drive_distrust(struct model *model, struct record *record, struct prepared *prepared,
                           struct error *error)
{
    int r = record_find_drive(model, record, prepared, error);
    return r < 0 ? r : record_take_identity(record, prepared, error);
}

void apply_drive_distrust(struct model *model, const struct record *record,
                          struct prepared *prepared)
{
    (void)model;
    char reason[MODEL_REASON_BYTES_MAX + 1];
    struct drive_bitmap *bitmap;

    (void)snprintf(reason, sizeof reason, "%.*s", (int)record->name.bytes, record->name.data);
    TAILQ_FOREACH (bitmap, &prepared->drive->all, of_drive) {
        drive_bitmap_distrust(bitmap, record->sequence, reason);
    }
    renew_evidence(prepared);
}

int prepare_drive_unproven(struct model *model, struct record *record, struct prepared *prepared,
                           struct error *error)
{
    if (record->untracked == UNTRACKED_RULED_OUT) {
        return error_set(error, -EINVAL, "no reason is given");
    }
    return prepare_drive_distrust(model, record, prepared, error);
}

void apply_drive_unproven(struct model *model, const struct record *record,
                          struct prepared *prepared)
{
    (void)model;
    struct drive_bitmap *bitmap;

    TAILQ_FOREACH (bitmap, &prepared->drive->all, of_drive) {
        if (!drive_bitmap_is_sealed(bitmap) && bitmap->untracked < record->untracked) {
            bitmap->untracked = record->untracked;
            bitmap->changed = record->sequence;
        }
    }
    renew_evidence(prepared);
}

/*
 * Another drive takes this one's place: its history is the other's, and is forgotten, so that no
 * base of it is ever answered from; bitmaps of the user's are unknown until they are cleared.
 */
int prepare_drive_adopt(struct model *model, struct record *record, struct prepared *prepared,
                        struct error *error)
{
    int r = record_find_drive(model, record, prepared, error);
    if (r == 0) {
        r = record_check_size(record->size, error);
    }
    if (r == 0) {
        r = record_take_identity(record, prepared, error);
    }
    if (r < 0) {
        return r;
    }
    struct drive *drive = prepared->drive;
    if (drive->writers_count > 0 && !model->replaying) {
        return error_set(error, -EBUSY, "drive '%s' has %u writers (see drive fence)", drive->name,
                         drive->writers_count);
    }
    prepared->resized = calloc((size_t)drive->bitmaps_count + 1, sizeof *prepared->resized);
    if (!prepared->resized) {
        return record_no_memory(error);
    }
    struct drive_bitmap *bitmap;
    TAILQ_FOREACH (bitmap, &drive->all, of_drive) {
        if (bitmap->checkpoint) {
            continue;
        }
        r = record_check_geometry(record->size, bitmap->granularity, error);
        if (r < 0) {
            return error_prefix(error, r, "bitmap '%s'", bitmap->name);
        }
        struct bitmap **bits = &prepared->resized[prepared->resized_count];
        if (bitmap_new(record->size, bitmap->granularity,
                       UINT32_C(1) << model->settings.cluster_bits, bits) < 0) {
            return record_no_memory(error);
        }
        bitmap_set_all(*bits, record->sequence);
        prepared->resized_count++;
    }
    return 0;
}

void apply_drive_adopt(struct model *model, const struct record *record, struct prepared *prepared)
{
    struct drive *drive = prepared->drive;
    struct drive_bitmap *bitmap;

    while ((bitmap = TAILQ_FIRST(&drive->history))) {
        bitmap_free(remove_bitmap(model, bitmap));
    }
    apply_size(model, record, prepared);
    TAILQ_FOREACH (bitmap, &drive->all, of_drive) {
        drive_bitmap_set_validity(bitmap, VALIDITY_UNKNOWN, "another drive was adopted");
        bitmap->untracked = UNTRACKED_RULED_OUT;
    }
    free(drive->identity);
    free(drive->evidence);
    drive->identity = STEAL(prepared->identity);
    drive->evidence = STEAL(prepared->evidence);
}
