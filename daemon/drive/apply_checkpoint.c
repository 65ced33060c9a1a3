/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Records about checkpoints.
 *
 * A drive's history is a row of bitmaps, eldest first; each holds what was written between its
 * checkpoint and the next, and the last one records:
 *
 *     C1 ──B1── C2 ──B2── C3 ──B3 (records)     since C2 = B2 ∪ B3, since C1 until C3 = B1 ∪ B2
 *
 * So a mark costs one bit whatever the number of checkpoints, and making one costs an empty bitmap
 * and what the drive's writers have not settled, whatever the drive's size and contents.  Deleting
 * one folds its bitmap, with its validity, into the elder one's: every union that does not begin or
 * end at it stays as it was, but for what the elder one's granularity rounds up to.
 */
#include "daemon/drive/apply.h"

#include <stdio.h>
#include <string.h>

static int check_name(struct model *model, struct drive *drive, const struct record *record,
                      struct error *error)
{
    char full[BITMAP_FULL_NAME_BYTES];
    int r = name_check(NAME_BITMAP, record->name.data, record->name.bytes, error);

    if (r < 0) {
        return r;
    }
    if (model_checkpoint_by_name(drive, record->name, NULL)) {
        return error_set(error, -EEXIST, "drive '%s' has a checkpoint '%.*s' already", drive->name,
                         (int)record->name.bytes, record->name.data);
    }
    (void)snprintf(full, sizeof full, "%s@%llu.%.*s", drive->name,
                   (unsigned long long)record->sequence, (int)record->name.bytes,
                   record->name.data);
    if (model_name_is_foreign(model, full)) {
        return error_set(error, -EEXIST,
                         "the container holds a bitmap '%s' that another program made", full);
    }
    return 0;
}

/* Lost writers that a reboot has ended, and that have been carried by a checkpoint now. */
static int list_dropped(struct prepared *prepared)
{
    struct writer *writer;
    uint32_t count = 0;

    TAILQ_FOREACH (writer, &prepared->drive->writers, entry) {
        count += writer->rebooted && !writer->connected;
    }
    if (count == 0) {
        return 0;
    }
    prepared->dropped = calloc(count, sizeof *prepared->dropped);
    return prepared->dropped ? 0 : -ENOMEM;
}

int prepare_checkpoint_create(struct model *model, struct record *record, struct prepared *prepared,
                              struct error *error)
{
    int r = record_find_drive(model, record, prepared, error);
    if (r == 0) {
        r = check_name(model, prepared->drive, record, error);
    }
    if (r < 0) {
        return r;
    }
    struct drive *drive = prepared->drive;
    struct drive_bitmap *youngest = TAILQ_LAST(&drive->history, drive_bitmap_list);
    if (youngest && youngest->checkpoint->sequence == record->sequence) {
        return error_set(error, -EINVAL,
                         "a transaction makes one checkpoint of a drive at most, '%s' is there",
                         youngest->name);
    }
    if (drive->checkpoints_count >= MODEL_CHECKPOINTS_MAX) {
        return error_set(error, -EDQUOT, "drive '%s' has %u checkpoints already", drive->name,
                         drive->checkpoints_count);
    }
    if (record->granularity == 0) {
        record->granularity = drive->granularity;
    }
    r = record_check_geometry(drive->size, record->granularity, error);
    if (r == 0) {
        r = record_check_room(model, drive->size, record->granularity, error);
    }
    if (r < 0) {
        return r;
    }
    r = bitmap_new(drive->size, record->granularity, UINT32_C(1) << model->settings.cluster_bits,
                   &prepared->bits);
    if (r < 0) {
        return record_no_memory(error);
    }
    r = carry_any(model, record, prepared, error);
    if (r < 0) {
        return r;
    }
    if (!model->replaying) {
        record->untracked = drive_untracked(drive);
    }
    record->bitmap = model->next_id;
    r = drive_bitmap_new(record->bitmap, record->name, record->granularity, prepared->bits,
                         &prepared->new_bitmap);
    if (r < 0) {
        return record_no_memory(error);
    }
    prepared->bits = NULL;
    prepared->new_bitmap->checkpoint = calloc(1, sizeof *prepared->new_bitmap->checkpoint);
    if (!prepared->new_bitmap->checkpoint || list_dropped(prepared) < 0) {
        return record_no_memory(error);
    }
    prepared->elder = youngest;
    return 0;
}

void apply_checkpoint_create(struct model *model, const struct record *record,
                             struct prepared *prepared)
{
    struct drive_bitmap *bitmap = STEAL(prepared->new_bitmap);

    if (prepared->elder) {
        drive_bitmap_set_recording(prepared->elder, false, false);
        prepared->elder->changed = record->sequence;
    }
    bitmap->checkpoint->sequence = record->sequence;
    bitmap->checkpoint->created_ns = record->created_ns;
    memcpy(bitmap->checkpoint->uuid, record->uuid, sizeof record->uuid);
    bitmap->recording = true;
    bitmap->changed = record->sequence;
    bitmap->untracked = record->untracked;
    drive_bitmap_set_validity(bitmap, prepared->validity, "%s", prepared->reason);
    model_link_bitmap(model, prepared->drive, bitmap);
    model->next_id = record->bitmap + 1;
    prepared->made = bitmap;

    struct writer *writer, *next;
    for (writer = TAILQ_FIRST(&prepared->drive->writers); prepared->dropped && writer;
         writer = next) {
        next = TAILQ_NEXT(writer, entry);
        if (writer->rebooted && !writer->connected) {
            drive_remove_writer(prepared->drive, writer);
            prepared->dropped[prepared->dropped_count++] = writer;
        }
    }
}

void undo_checkpoint_create(struct model *model, struct prepared *prepared)
{
    model_unlink_bitmap(model, prepared->made);
    drive_bitmap_free(prepared->made);
    if (prepared->elder) {
        bitmap_state_restore(prepared->elder, &prepared->before[1]);
    }
    while (prepared->dropped_count > 0) {
        /* Its successor, as it was when it was taken out, is in the list again. */
        struct writer *writer = prepared->dropped[--prepared->dropped_count];
        drive_restore_writer(prepared->drive, writer, TAILQ_NEXT(writer, entry));
    }
}

/* The elder one's bits with what the deleted one has, and what that is worth. */
static int fold(struct model *model, struct record *record, struct prepared *prepared,
                struct error *error)
{
    struct drive_bitmap *victim = prepared->bitmap, *elder = prepared->elder;
    int r = sealed_need(model, victim, error);
    int r_elder = sealed_need(model, elder, error);

    if (r < 0 || r_elder < 0) {
        return r < 0 ? r : r_elder;
    }
    r = record_begin_change(model, elder, true, prepared, error);
    if (r == 0) {
        r = record_merge(record, victim->bits, prepared, error);
    }
    if (r == 0) {
        r = record_reserve(prepared, error);
    }
    if (r < 0) {
        return r;
    }
    if (victim->validity > elder->validity) {
        prepared->validity = victim->validity;
        memcpy(prepared->reason, victim->reason, sizeof prepared->reason);
    }
    prepared->untracked = victim->untracked;
    return 0;
}

int prepare_checkpoint_delete(struct model *model, struct record *record, struct prepared *prepared,
                              struct error *error)
{
    int r = record_find_bitmap_of_any_kind(model, record, prepared, error);
    if (r < 0) {
        return r;
    }
    if (!prepared->bitmap->checkpoint) {
        return error_set(error, -EINVAL, "'%s/%s' is a bitmap, not a checkpoint",
                         prepared->drive->name, prepared->bitmap->name);
    }
    prepared->elder = TAILQ_PREV(prepared->bitmap, drive_bitmap_list, in_history);
    /* What the eldest one holds is of use to nobody once it cannot be asked for. */
    return prepared->elder ? fold(model, record, prepared, error) : 0;
}

void apply_checkpoint_delete(struct model *model, const struct record *record,
                             struct prepared *prepared)
{
    struct drive_bitmap *victim = prepared->bitmap, *elder = prepared->elder;
    bool recorded = victim->recording;

    prepared->removed_bits = remove_bitmap(model, victim);
    if (!elder) {
        return;
    }
    if (prepared->bits) {
        record_swap_bits(elder, prepared);
    } else {
        bitmap_merge_reserved(prepared->changing->bits, prepared->removed_bits, record->sequence);
        record_end_change(prepared);
    }
    drive_bitmap_worsen(elder, prepared->validity, "%s", prepared->reason);
    if (prepared->untracked > elder->untracked) {
        elder->untracked = prepared->untracked;
    }
    drive_bitmap_set_recording(elder, recorded, false);
    elder->changed = record->sequence;
}

void undo_checkpoint_delete(struct model *model, struct prepared *prepared)
{
    if (prepared->elder) {
        bitmap_state_restore(prepared->elder, &prepared->before[1]);
        record_swap_bits(prepared->elder, prepared);
    }
    restore_bitmap(model, prepared->drive, prepared->bitmap, STEAL(prepared->removed_bits));
}
