/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Records about writers; writer.c has the states.
 */
#include "daemon/drive/apply.h"

#include "proto/base/name.h"

#include <stdio.h>

int prepare_attach(struct model *model, struct record *record, struct prepared *prepared,
                   struct error *error)
{
    int r = record_find_drive(model, record, prepared, error);
    if (r == 0 && record->name.bytes > 0) {
        r = name_check(NAME_DRIVE, record->name.data, record->name.bytes, error);
    }
    if (r == 0) {
        r = record_take_identity(record, prepared, error);
    }
    if (r < 0) {
        return error_prefix(error, r, "writer");
    }
    struct drive *drive = prepared->drive;
    if (record->name.bytes > 0) {
        prepared->writer = drive_writer_by_token(drive, record->name);
    }
    if (prepared->writer) {
        return prepared->writer->connected && !model->replaying
                   ? error_set(error, -EBUSY, "writer '%s' is attached to drive '%s' already",
                               prepared->writer->token, drive->name)
                   : 0;
    }
    if (!model->replaying && drive->writers_count >= MODEL_WRITERS_MAX) {
        return error_set(error, -EDQUOT, "drive '%s' has %u writers already", drive->name,
                         drive->writers_count);
    }
    r = writer_new_lost(drive, record->name, false, &prepared->new_writer);
    return r < 0 ? record_no_memory(error) : 0;
}

void writer_lose_track(struct drive *drive, const struct writer *writer, uint64_t sequence)
{
    char reason[MODEL_REASON_BYTES_MAX + 1];
    struct drive_bitmap *bitmap;

    if (!writer->continues) {
        return;
    }
    (void)snprintf(reason, sizeof reason, "writer '%.80s' was lost, and goes on without bitmapd",
                   writer->token);
    TAILQ_FOREACH (bitmap, &drive->all, of_drive) {
        drive_bitmap_distrust(bitmap, sequence, reason);
    }
}

void apply_attach(struct model *model, const struct record *record, struct prepared *prepared)
{
    (void)model;
    struct drive *drive = prepared->drive;
    struct writer *writer = prepared->writer;
    if (writer) {
        writer->resuming = true;
        writer->went_on = writer->continues && !writer->rebooted;
        writer->rebooted = false;
    } else {
        writer = STEAL(prepared->new_writer);
        drive_add_writer(drive, writer);
    }
    writer->connected = true;
    writer->will_continue = record->continues;
    /* What it wrote while it was away may still be on its way until it resumes. */
    writer->continues = record->continues || writer->went_on;
    /* It has been held against what is there; from now on it would prove nothing. */
    free(drive->evidence);
    drive->evidence = NULL;
    if (prepared->identity && !drive->identity) {
        drive->identity = STEAL(prepared->identity);
    }
}

void apply_lost(struct model *model, const struct record *record, struct prepared *prepared)
{
    (void)model;
    struct writer *writer = prepared->writer;

    writer->connected = false;
    writer->resuming = false;
    writer_lose_track(prepared->drive, writer, record->sequence);
}

void apply_resume(struct model *model, const struct record *record, struct prepared *prepared)
{
    (void)model;
    prepared->writer->resuming = false;
    prepared->writer->went_on = false;
    prepared->writer->continues = record->continues;
    writer_forget_carried(prepared->writer);
}

int prepare_detach(struct model *model, struct record *record, struct prepared *prepared,
                   struct error *error)
{
    int r = record_find_writer(model, record, prepared, error);
    return r < 0 ? r : record_take_identity(record, prepared, error);
}

void apply_detach(struct model *model, const struct record *record, struct prepared *prepared)
{
    (void)model;
    (void)record;
    struct drive *drive = prepared->drive;

    drive_remove_writer(drive, prepared->writer);
    writer_free(prepared->writer);
    if (drive->writers_count == 0 && prepared->evidence) {
        free(drive->evidence);
        drive->evidence = STEAL(prepared->evidence);
    }
}

int prepare_fence(struct model *model, struct record *record, struct prepared *prepared,
                  struct error *error)
{
    return record->name.bytes ? record_find_writer(model, record, prepared, error)
                              : record_find_drive(model, record, prepared, error);
}

static void fence(const struct model *model, struct drive *drive, struct writer *writer,
                  uint64_t sequence)
{
    /* What a connected one writes from here on nobody marks. */
    if (!writer->rebooted || writer->connected) {
        writer_lose_track(drive, writer, sequence);
    }
    drive_remove_writer(drive, writer);
    if (writer->connected && !model->replaying) {
        /* Its connection finds out at its next request, and frees it. */
        writer->fenced = true;
        writer->drive = NULL;
    } else {
        writer_free(writer);
    }
}

void apply_fence(struct model *model, const struct record *record, struct prepared *prepared)
{
    if (prepared->writer) {
        fence(model, prepared->drive, prepared->writer, record->sequence);
        return;
    }
    struct writer *writer, *next;
    for (writer = TAILQ_FIRST(&prepared->drive->writers); writer; writer = next) {
        next = TAILQ_NEXT(writer, entry);
        if (!writer->connected) {
            fence(model, prepared->drive, writer, record->sequence);
        }
    }
}
