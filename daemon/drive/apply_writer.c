/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Records about writers; writer.c has the states.
 */
#include "daemon/drive/apply.h"

#include "proto/base/name.h"

int prepare_attach(struct model *model, struct record *record, struct prepared *prepared,
                   struct error *error)
{
    int r = record_find_drive(model, record, prepared, error);
    if (r == 0 && record->name.bytes > 0) {
        r = name_check(NAME_DRIVE, record->name.data, record->name.bytes, error);
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

void apply_attach(struct model *model, const struct record *record, struct prepared *prepared)
{
    (void)model;
    (void)record;
    struct writer *writer = prepared->writer;
    if (writer) {
        writer->resuming = true;
    } else {
        writer = STEAL(prepared->new_writer);
        drive_add_writer(prepared->drive, writer);
    }
    writer->connected = true;
}

void apply_lost(struct model *model, const struct record *record, struct prepared *prepared)
{
    (void)model;
    (void)record;
    prepared->writer->connected = false;
    prepared->writer->resuming = false;
}

void apply_resume(struct model *model, const struct record *record, struct prepared *prepared)
{
    (void)model;
    (void)record;
    prepared->writer->resuming = false;
    writer_forget_carried(prepared->writer);
}

void apply_detach(struct model *model, const struct record *record, struct prepared *prepared)
{
    (void)model;
    (void)record;
    drive_remove_writer(prepared->drive, prepared->writer);
    writer_free(prepared->writer);
}

int prepare_fence(struct model *model, struct record *record, struct prepared *prepared,
                  struct error *error)
{
    return record->name.bytes ? record_find_writer(model, record, prepared, error)
                              : record_find_drive(model, record, prepared, error);
}

static void fence(const struct model *model, struct drive *drive, struct writer *writer)
{
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
    (void)record;
    if (prepared->writer) {
        fence(model, prepared->drive, prepared->writer);
        return;
    }
    struct writer *writer, *next;
    for (writer = TAILQ_FIRST(&prepared->drive->writers); writer; writer = next) {
        next = TAILQ_NEXT(writer, entry);
        if (!writer->connected) {
            fence(model, prepared->drive, writer);
        }
    }
}
