/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Records: the one place where changes enter the model, and what their types
 * have in common.  apply.h tells how a type is prepared and applied.
 */
#include "daemon/drive/apply.h"
#include "daemon/drive/journaling.h"

#include "daemon/base/log.h"
#include "proto/base/checked.h"

#include <stdio.h>
#include <string.h>

void prepared_deinit(struct prepared *prepared)
{
    record_end_change(prepared);
    drive_free(prepared->new_drive);
    drive_bitmap_free(prepared->new_bitmap);
    writer_free(prepared->new_writer);
    bitmap_free(prepared->bits);
    bitmap_free(prepared->removed_bits);
    for (uint32_t i = 0; i < prepared->resized_count; i++) {
        bitmap_free(prepared->resized[i]);
    }
    free(prepared->resized);
    free(prepared->carried);
    free(prepared->request);
    for (uint32_t i = 0; i < prepared->dropped_count; i++) {
        writer_free(prepared->dropped[i]);
    }
    free(prepared->dropped);
    free(prepared->identity);
    free(prepared->evidence);
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

int record_find_bitmap_of_any_kind(struct model *model, struct record *record,
                                   struct prepared *prepared, struct error *error)
{
    prepared->bitmap = model_bitmap_by_id(model, record->bitmap);
    if (!prepared->bitmap) {
        return error_set(error, -ENOENT, "no bitmap with id %llu",
                         (unsigned long long)record->bitmap);
    }
    prepared->drive = prepared->bitmap->drive;
    return 0;
}

int record_find_bitmap(struct model *model, struct record *record, struct prepared *prepared,
                       struct error *error)
{
    int r = record_find_bitmap_of_any_kind(model, record, prepared, error);
    if (r == 0 && prepared->bitmap->checkpoint) {
        r = error_set(error, -EINVAL, "'%s' is a checkpoint of drive '%s', not a bitmap",
                      prepared->bitmap->name, prepared->drive->name);
    }
    return r;
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

struct bitmap *remove_bitmap(struct model *model, struct drive_bitmap *bitmap)
{
    struct bitmap *bits = bitmap->bits;

    model_unlink_bitmap(model, bitmap);
    bitmap->bits = NULL;
    TAILQ_INSERT_TAIL(&model->removed, bitmap, recording_entry);
    return bits;
}

void restore_bitmap(struct model *model, struct drive *drive, struct drive_bitmap *bitmap,
                    struct bitmap *bits)
{
    TAILQ_REMOVE(&model->removed, bitmap, recording_entry);
    bitmap->bits = bits;
    model_link_bitmap(model, drive, bitmap);
}

int record_begin_change(const struct model *model, struct drive_bitmap *bitmap, bool in_place,
                        struct prepared *prepared, struct error *error)
{
    if (in_place && !model->transaction) {
        prepared->changing = bitmap;
        return 0;
    }
    return bitmap_snapshot(bitmap->bits, &prepared->bits) < 0 ? record_no_memory(error) : 0;
}

int record_merge(const struct record *record, const struct bitmap *source,
                 struct prepared *prepared, struct error *error)
{
    if (!prepared->bits) {
        bitmap_need_merge(prepared->changing->bits, source, &prepared->need);
        return 0;
    }
    return bitmap_merge(prepared->bits, source, record->sequence) < 0 ? record_no_memory(error) : 0;
}

int record_reserve(struct prepared *prepared, struct error *error)
{
    if (prepared->changing && bitmap_reserve_need(prepared->changing->bits, &prepared->need) < 0) {
        return record_no_memory(error);
    }
    return 0;
}

void record_end_change(struct prepared *prepared)
{
    struct drive_bitmap *bitmap = STEAL(prepared->changing);

    if (bitmap) {
        bitmap_reserve_end(bitmap->bits);
        /* What it takes is in the cache's books. */
        (void)drive_bitmap_swap_bits(bitmap, bitmap->bits);
    }
}

void record_swap_bits(struct drive_bitmap *bitmap, struct prepared *prepared)
{
    prepared->bits = drive_bitmap_swap_bits(bitmap, prepared->bits);
}

void bitmap_state_save(const struct drive_bitmap *bitmap, struct bitmap_state *ret)
{
    ret->recording = bitmap->recording;
    ret->gap = bitmap->gap;
    ret->validity = bitmap->validity;
    ret->untracked = bitmap->untracked;
    ret->changed = bitmap->changed;
    memcpy(ret->name, bitmap->name, sizeof ret->name);
    memcpy(ret->reason, bitmap->reason, sizeof ret->reason);
}

void bitmap_state_restore(struct drive_bitmap *bitmap, const struct bitmap_state *state)
{
    drive_bitmap_set_recording(bitmap, state->recording, state->gap);
    drive_bitmap_set_validity(bitmap, state->validity, "%s", state->reason);
    bitmap->untracked = state->untracked;
    bitmap->changed = state->changed;
    if (!bitmap->checkpoint) {
        RB_REMOVE(drive_bitmap_names, &bitmap->drive->bitmaps, bitmap);
        memcpy(bitmap->name, state->name, sizeof bitmap->name);
        RB_INSERT(drive_bitmap_names, &bitmap->drive->bitmaps, bitmap);
    }
}

/* ---- The table, and the way in ---- */

/* One row a type. */
/* clang-format off */
static const struct record_kind {
    const char *name;
    record_prepare *prepare;
    record_apply *apply;
    record_undo *undo; /* NULL: not in a transaction */
    bool in_history;
} kinds[RECORD_TYPES] = {
    [RECORD_DRIVE_ADD] = {"drive-add", prepare_drive_add, apply_drive_add, NULL, true},
    [RECORD_DRIVE_SET] = {"drive-set", prepare_drive_set, apply_drive_set, NULL, true},
    [RECORD_DRIVE_RENAME] = {"drive-rename", prepare_drive_rename, apply_drive_rename, NULL, true},
    [RECORD_DRIVE_RESIZE] = {"drive-resize", prepare_drive_resize, apply_drive_resize, NULL, true},
    [RECORD_DRIVE_REMOVE] = {"drive-remove", prepare_drive_remove, apply_drive_remove, NULL, true},
    [RECORD_BITMAP_CREATE] = {"bitmap-create", prepare_bitmap_create, apply_bitmap_create,
                              undo_bitmap_create, true},
    [RECORD_BITMAP_DELETE] = {"bitmap-delete", record_find_bitmap, apply_bitmap_delete,
                              undo_bitmap_delete, true},
    [RECORD_BITMAP_ENABLE] = {"bitmap-enable", prepare_bitmap_enable, apply_bitmap_enable,
                              undo_bitmap_change, true},
    [RECORD_BITMAP_DISABLE] = {"bitmap-disable", record_find_bitmap, apply_bitmap_disable,
                               undo_bitmap_change, true},
    [RECORD_BITMAP_RENAME] = {"bitmap-rename", prepare_bitmap_rename, apply_bitmap_rename,
                              undo_bitmap_change, true},
    [RECORD_BITMAP_SET] = {"bitmap-set", prepare_bitmap_set, apply_bitmap_set, undo_bitmap_change,
                           true},
    [RECORD_BITMAP_CLEAR] = {"bitmap-clear", prepare_bitmap_clear, apply_bitmap_clear,
                             undo_bitmap_change, true},
    [RECORD_BITMAP_CLEAR_ALL] = {"bitmap-clear-all", prepare_bitmap_clear_all,
                                 apply_bitmap_clear_all, undo_bitmap_change, true},
    [RECORD_BITMAP_MERGE] = {"bitmap-merge", prepare_bitmap_merge, apply_bitmap_merge,
                             undo_bitmap_change, true},
    [RECORD_MARK] = {"mark", prepare_mark, apply_mark, NULL, false},
    [RECORD_ATTACH] = {"attach", prepare_attach, apply_attach, NULL, true},
    [RECORD_LOST] = {"lost", record_find_writer, apply_lost, NULL, true},
    [RECORD_RESUME] = {"resume", record_find_writer, apply_resume, NULL, true},
    [RECORD_DETACH] = {"detach", prepare_detach, apply_detach, NULL, true},
    [RECORD_FENCE] = {"fence", prepare_fence, apply_fence, NULL, true},
    [RECORD_DRIVE_DISTRUST] = {"drive-distrust", prepare_drive_distrust, apply_drive_distrust, NULL,
                               true},
    [RECORD_CHECKPOINT_CREATE] = {"checkpoint-create", prepare_checkpoint_create,
                                  apply_checkpoint_create, undo_checkpoint_create, true},
    [RECORD_CHECKPOINT_DELETE] = {"checkpoint-delete", prepare_checkpoint_delete,
                                  apply_checkpoint_delete, undo_checkpoint_delete, true},
    [RECORD_BITMAP_DISTRUST] = {"bitmap-distrust", prepare_bitmap_distrust, apply_bitmap_distrust,
                                NULL, true},
    [RECORD_DRIVE_UNPROVEN] = {"drive-unproven", prepare_drive_unproven, apply_drive_unproven,
                               NULL, true},
    [RECORD_DRIVE_ADOPT] = {"drive-adopt", prepare_drive_adopt, apply_drive_adopt, NULL, true},
    [RECORD_TRANSACTION] = {"transaction", prepare_transaction, apply_transaction, NULL, false},
};
/* clang-format on */

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
static void name_targets(const struct prepared *prepared, struct record_names *ret)
{
    const struct drive *drive = prepared->drive ? prepared->drive : prepared->new_drive;
    const struct drive_bitmap *bitmap = prepared->bitmap ? prepared->bitmap : prepared->new_bitmap;

    ret->drive[0] = ret->bitmap[0] = '\0';
    if (drive) {
        memcpy(ret->drive, drive->name, sizeof ret->drive);
    }
    if (bitmap) {
        memcpy(ret->bitmap, bitmap->name, sizeof ret->bitmap);
    }
}

/* What somebody should hear of who looks at the log only. */
static void log_notable(const struct record *record, const char *drive, const char *bitmap,
                        const char *detail)
{
    if (record->type == RECORD_DRIVE_DISTRUST) {
        log_event(LOG_LEVEL_WARNING, LOG_UNKNOWN, drive, NULL,
                  "drive %s: %s; its recording bitmaps are unknown", drive, detail);
    } else if (record->type == RECORD_BITMAP_DISTRUST) {
        log_event(LOG_LEVEL_WARNING, LOG_UNKNOWN, drive, bitmap, "drive %s: %s is unknown: %s",
                  drive, bitmap, detail);
    } else if (record->type == RECORD_FENCE) {
        log_event(LOG_LEVEL_NOTICE, LOG_FENCED, drive, NULL, "drive %s: %s%s was fenced", drive,
                  detail[0] ? "writer " : "every lost writer", detail);
    }
}

void record_note(struct model *model, const struct record *record, const struct record_names *names)
{
    char detail[2 * NAME_BYTES_MAX] = "";
    const char *drive = names->drive[0] ? names->drive : NULL;
    const char *bitmap = names->bitmap[0] ? names->bitmap : NULL;

    if (record->type == RECORD_DRIVE_UNPROVEN) {
        (void)snprintf(detail, sizeof detail, "%s", untracked_words(record->untracked));
    } else if (record->name.bytes) {
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
    log_notable(record, drive, bitmap, detail);
}

static int refuse(const struct model *model, struct error *error)
{
    return error_set(error, -EROFS, "changes are refused until the container can be written: %s",
                     writeback_refuses(model->writeback));
}

/*
 * A verdict for which there was no room goes before whatever comes next.  Otherwise a replay could
 * find what is built on it (a bitmap that was sealed meanwhile) without it.
 */
int record_verdicts(struct model *model, struct error *error)
{
    static const char reason[] =
        "writes to the drive may have been missed while the journal had no room";
    struct drive *drive;

    if (!model->unrecorded) {
        return 0;
    }
    model->unrecorded = false;
    RB_FOREACH (drive, drives_by_id, &model->drives) {
        struct record record = {
            .type = RECORD_DRIVE_DISTRUST, .drive = drive->id, .name = {reason, sizeof reason - 1}};
        int r = drive->unrecorded ? model_commit(model, &record, error) : 0;
        if (r < 0) {
            model->unrecorded = true;
            return r;
        }
        drive->unrecorded = false;
    }
    return 0;
}

/* Inside a transaction: applied, but neither numbered nor journaled yet. */
static int commit_part(struct model *model, struct record *record, struct error *error)
{
    const struct record_kind *kind = &kinds[record->type];
    CLEANUP(prepared_deinit) struct prepared prepared = {0};
    struct record_names names;

    if (!kind->undo) {
        return error_set(error, -EINVAL, "%s cannot be part of a transaction", kind->name);
    }
    record->sequence = model->sequence + 1;
    int r = kind->prepare(model, record, &prepared, error);
    if (r < 0) {
        return r;
    }
    name_targets(&prepared, &names);
    r = transaction_take(model, record, &names, &prepared, error);
    if (r < 0) {
        return r;
    }
    kind->apply(model, record, transaction_last(model));
    return 0;
}

void record_undo_part(struct model *model, enum record_type type, struct prepared *prepared)
{
    kinds[type].undo(model, prepared);
}

int record_replay_part(struct model *model, struct record *record, struct error *error)
{
    const struct record_kind *kind = &kinds[record->type];
    CLEANUP(prepared_deinit) struct prepared prepared = {0};

    if (!kind->undo) {
        return error_set(error, -EBADMSG, "%s cannot be part of a transaction", kind->name);
    }
    int r = kind->prepare(model, record, &prepared, error);
    if (r == 0) {
        kind->apply(model, record, &prepared);
    }
    return r;
}

static int commit(struct model *model, struct record *record, struct prepared *prepared,
                  struct error *error)
{
    const struct record_kind *kind = &kinds[record->type];

    if (!model->replaying && writeback_refuses(model->writeback)) {
        return refuse(model, error);
    }
    model->needed_count = 0;
    if (model->transaction && record->type != RECORD_TRANSACTION) {
        return commit_part(model, record, error);
    }
    int r = 0;
    if (!model->transaction) {
        r = record_verdicts(model, error);
        model->carried_left = DRIVE_CARRIED_MAX;
    }
    record->sequence = model->sequence + 1;
    if (r == 0) {
        r = kind->prepare(model, record, prepared, error);
    }
    if (r == 0 && !model->replaying) {
        r = journaling_reserve(model->journaling, record, error);
    }
    if (r < 0) {
        return r;
    }
    if (!request_is_none(&record->request)) {
        prepared->request = calloc(1, sizeof *prepared->request);
        if (!prepared->request) {
            return record_no_memory(error);
        }
    }

    struct record_names names;
    if (kind->in_history) {
        name_targets(prepared, &names);
    }
    model->sequence = record->sequence;
    if (!model->replaying) {
        journaling_add(model->journaling, record);
    }
    kind->apply(model, record, prepared);

    if (prepared->request) {
        struct request_result *result = STEAL(prepared->request);
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
        record_note(model, record, &names);
    }
    writeback_touch(model->writeback);
    return 0;
}

int model_commit(struct model *model, struct record *record, struct error *error)
{
    if (record->type == RECORD_MARK && request_is_none(&record->request)) {
        /* Of all that is in it a mark has the drive alone: zeroing and freeing the rest took longer
         * than the mark. */
        struct prepared prepared;
        prepared.request = NULL;
        return commit(model, record, &prepared, error);
    }
    CLEANUP(prepared_deinit) struct prepared prepared = {0};
    return commit(model, record, &prepared, error);
}
