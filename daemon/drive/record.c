/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Records: the one place where changes enter the model, and what their types
 * have in common.  apply.h tells how a type is prepared and applied.
 */
#include "daemon/drive/apply.h"
#include "daemon/drive/journaling.h"

#include "proto/base/checked.h"

#include <stdio.h>
#include <string.h>

static void prepared_deinit(struct prepared *prepared)
{
    drive_free(prepared->new_drive);
    drive_bitmap_free(prepared->new_bitmap);
    writer_free(prepared->new_writer);
    bitmap_free(prepared->bits);
    for (uint32_t i = 0; i < prepared->resized_count; i++) {
        bitmap_free(prepared->resized[i]);
    }
    free(prepared->resized);
    free(prepared->carried);
    free(prepared->request);
}

int record_no_memory(struct error *error)
{
    return error_set(error, -ENOMEM, "out of memory");
}

/* ---- Checks ---- */

int record_check_range(const struct drive *drive, struct range range, struct error *error)
{
    if (range.length == 0) {
        return error_set(error, -EINVAL, "at byte %llu: it has no length",
                         (unsigned long long)range.offset);
    }
    if (range.offset >= drive->size || range.length > drive->size - range.offset) {
        return error_set(error, -ERANGE,
                         "%llu bytes at byte %llu: passes the end of drive '%s' at %llu",
                         (unsigned long long)range.length, (unsigned long long)range.offset,
                         drive->name, (unsigned long long)drive->size);
    }
    return 0;
}

int record_check_ranges(const struct drive *drive, const struct record *record, struct error *error)
{
    if (record->ranges_count == 0) {
        return error_set(error, -EINVAL, "no range is given");
    }
    for (uint32_t i = 0; i < record->ranges_count; i++) {
        int r = record_check_range(drive, record->ranges[i], error);
        if (r < 0) {
            return error_prefix(error, r, "range %u", i);
        }
    }
    return 0;
}

int record_check_granularity(uint32_t granularity, struct error *error)
{
    if (!is_power_of_two(granularity) || granularity < BITMAP_GRANULARITY_MIN ||
        granularity > BITMAP_GRANULARITY_MAX) {
        return error_set(error, -EINVAL,
                         "granularity must be a power of two from 512 to 2147483648, got %u",
                         granularity);
    }
    return 0;
}

int record_check_geometry(uint64_t size, uint32_t granularity, struct error *error)
{
    int r = record_check_granularity(granularity, error);
    if (r == 0 && !bitmap_geometry_valid(size, granularity)) {
        r = error_set(error, -EINVAL,
                      "a bitmap of %llu bytes at granularity %u would need more than %llu bytes "
                      "of bits: choose a larger granularity",
                      (unsigned long long)size, granularity, (unsigned long long)BITMAP_BYTES_MAX);
    }
    return r;
}

int record_check_size(uint64_t size, struct error *error)
{
    if (size == 0 || size > INT64_MAX) {
        return error_set(error, -EINVAL, "a drive's size must be from 1 byte to %lld, got %llu",
                         (long long)INT64_MAX, (unsigned long long)size);
    }
    return 0;
}

int record_check_durability(enum durability durability, struct error *error)
{
    if (durability != DURABILITY_POWER_LOSS && durability != DURABILITY_PROCESS_CRASH) {
        return error_set(error, -EINVAL, "no such durability: %d", (int)durability);
    }
    return 0;
}

/* A name for a bitmap of @drive that nothing else has. */
int record_check_bitmap_name(const struct model *model, struct drive *drive, struct text name,
                             struct error *error)
{
    int r = name_check(NAME_BITMAP, name.data, name.bytes, error);
    if (r < 0) {
        return r;
    }
    char full[BITMAP_FULL_NAME_BYTES];
    (void)snprintf(full, sizeof full, "%s/%.*s", drive->name, (int)name.bytes, name.data);
    if (drive_bitmap_by_name(drive, name)) {
        return error_set(error, -EEXIST, "bitmap '%s' exists", full);
    }
    if (model_name_is_foreign(model, full)) {
        return error_set(error, -EEXIST,
                         "the container holds a bitmap '%s' that another program made", full);
    }
    return 0;
}

int record_find_drive(struct model *model, struct record *record, struct prepared *prepared,
                      struct error *error)
{
    prepared->drive = model_drive_by_id(model, record->drive);
    return prepared->drive ? 0
                           : error_set(error, -ENOENT, "no drive with id %llu",
                                       (unsigned long long)record->drive);
}

int record_find_bitmap(struct model *model, struct record *record, struct prepared *prepared,
                       struct error *error)
{
    prepared->bitmap = model_bitmap_by_id(model, record->bitmap);
    if (!prepared->bitmap) {
        return error_set(error, -ENOENT, "no bitmap with id %llu",
                         (unsigned long long)record->bitmap);
    }
    prepared->drive = prepared->bitmap->drive;
    return 0;
}

int record_find_writer(struct model *model, struct record *record, struct prepared *prepared,
                       struct error *error)
{
    int r = record_find_drive(model, record, prepared, error);
    if (r < 0) {
        return r;
    }
    prepared->writer =
        record->writer ? record->writer : drive_writer_by_token(prepared->drive, record->name);
    return prepared->writer
               ? 0
               : error_set(error, -ENOENT, "drive '%s' has no writer '%.*s'", prepared->drive->name,
                           (int)record->name.bytes, record->name.data);
}

void remove_bitmap(struct model *model, struct drive_bitmap *bitmap)
{
    model_unlink_bitmap(model, bitmap);
    bitmap_free(bitmap->bits);
    bitmap->bits = NULL;
    TAILQ_INSERT_TAIL(&model->removed, bitmap, recording_entry);
}

/* ---- The table, and the way in ---- */

static const struct record_kind {
    const char *name;
    record_prepare *prepare;
    record_apply *apply;
    bool in_history;
} kinds[RECORD_TYPES] = {
    [RECORD_DRIVE_ADD] = {"drive-add", prepare_drive_add, apply_drive_add, true},
    [RECORD_DRIVE_SET] = {"drive-set", prepare_drive_set, apply_drive_set, true},
    [RECORD_DRIVE_RENAME] = {"drive-rename", prepare_drive_rename, apply_drive_rename, true},
    [RECORD_DRIVE_RESIZE] = {"drive-resize", prepare_drive_resize, apply_drive_resize, true},
    [RECORD_DRIVE_REMOVE] = {"drive-remove", prepare_drive_remove, apply_drive_remove, true},
    [RECORD_BITMAP_CREATE] = {"bitmap-create", prepare_bitmap_create, apply_bitmap_create, true},
    [RECORD_BITMAP_DELETE] = {"bitmap-delete", record_find_bitmap, apply_bitmap_delete, true},
    [RECORD_BITMAP_ENABLE] = {"bitmap-enable", prepare_bitmap_enable, apply_bitmap_enable, true},
    [RECORD_BITMAP_DISABLE] = {"bitmap-disable", record_find_bitmap, apply_bitmap_disable, true},
    [RECORD_BITMAP_RENAME] = {"bitmap-rename", prepare_bitmap_rename, apply_bitmap_rename, true},
    [RECORD_BITMAP_SET] = {"bitmap-set", prepare_bitmap_set, apply_bits, true},
    [RECORD_BITMAP_CLEAR] = {"bitmap-clear", prepare_bitmap_clear, apply_bits, true},
    [RECORD_BITMAP_CLEAR_ALL] = {"bitmap-clear-all", prepare_bitmap_clear_all,
                                 apply_bitmap_clear_all, true},
    [RECORD_BITMAP_MERGE] = {"bitmap-merge", prepare_bitmap_merge, apply_bits, true},
    [RECORD_MARK] = {"mark", prepare_mark, apply_mark, false},
    [RECORD_ATTACH] = {"attach", prepare_attach, apply_attach, true},
    [RECORD_LOST] = {"lost", record_find_writer, apply_lost, true},
    [RECORD_RESUME] = {"resume", record_find_writer, apply_resume, true},
    [RECORD_DETACH] = {"detach", record_find_writer, apply_detach, true},
    [RECORD_FENCE] = {"fence", prepare_fence, apply_fence, true},
    [RECORD_DRIVE_DISTRUST] = {"drive-distrust", record_find_drive, apply_drive_distrust, true},
};

const char *record_type_name(enum record_type type)
{
    return kinds[type].name;
}

static bool request_is_none(const struct request_id *id)
{
    static const struct request_id none;
    return memcmp(id, &none, sizeof none) == 0;
}

/* Names for the history are taken before apply() may free their owners. */
static void note(struct model *model, const struct record *record, const char *drive,
                 const char *bitmap)
{
    char detail[2 * NAME_BYTES_MAX] = "";

    if (record->name.bytes) {
        (void)snprintf(detail, sizeof detail, "%.*s", (int)record->name.bytes, record->name.data);
    } else if (record->ranges_count) {
        (void)snprintf(detail, sizeof detail, "%llu+%llu",
                       (unsigned long long)record->ranges[0].offset,
                       (unsigned long long)record->ranges[0].length);
    } else if (record->size) {
        (void)snprintf(detail, sizeof detail, "%llu bytes", (unsigned long long)record->size);
    }
    history_note(model->history, record->sequence, kinds[record->type].name, drive, bitmap,
                 record->peer, detail[0] ? detail : NULL);
}

int model_commit(struct model *model, struct record *record, struct error *error)
{
    const struct record_kind *kind = &kinds[record->type];
    CLEANUP(prepared_deinit) struct prepared prepared = {0};

    if (!model->replaying && writeback_refuses(model->writeback)) {
        return error_set(error, -EROFS,
                         "changes are refused until the container can be written: %s",
                         writeback_refuses(model->writeback));
    }
    record->sequence = model->sequence + 1;
    int r = kind->prepare(model, record, &prepared, error);
    if (r == 0 && !model->replaying) {
        r = journaling_reserve(model->journaling, record, error);
    }
    if (r < 0) {
        return r;
    }
    if (!request_is_none(&record->request)) {
        prepared.request = calloc(1, sizeof *prepared.request);
        if (!prepared.request) {
            return record_no_memory(error);
        }
    }

    char drive_name[NAME_BYTES_MAX + 1] = "", bitmap_name[NAME_BYTES_MAX + 1] = "";
    if (kind->in_history) {
        const struct drive *drive = prepared.drive ? prepared.drive : prepared.new_drive;
        const struct drive_bitmap *bitmap = prepared.bitmap ? prepared.bitmap : prepared.new_bitmap;
        if (drive) {
            memcpy(drive_name, drive->name, sizeof drive_name);
        }
        if (bitmap) {
            memcpy(bitmap_name, bitmap->name, sizeof bitmap_name);
        }
    }

    model->sequence = record->sequence;
    if (!model->replaying) {
        journaling_add(model->journaling, record);
    }
    kind->apply(model, record, &prepared);

    if (prepared.request) {
        struct request_result *result = STEAL(prepared.request);
        result->id = record->request;
        result->type = record->type;
        result->sequence = record->sequence;
        result->object = record->bitmap ? record->bitmap : record->drive;
        model_request_add(model, result);
    }
    if (model->replaying) {
        return 0;
    }
    if (kind->in_history) {
        note(model, record, drive_name[0] ? drive_name : NULL, bitmap_name[0] ? bitmap_name : NULL);
    }
    writeback_touch(model->writeback);
    return 0;
}
