/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What has to be there before a request is handled, for all that it names.
 *
 * Drives that nobody watches are looked at before something is said or begun about them: a map, a
 * checkpoint, a bitmap that starts, stops or is merged, a mark.  So a write past the daemon is
 * found while the bitmaps that it is missing in still record, and what begins after it is not
 * blamed for it.
 *
 * Handlers need not care: this runs before them, for every drive that a request names, and the
 * request waits as long as it takes (defer.c).  A drive whose writer is connected, which is the
 * rule, costs a look at its list of writers.
 *
 * Bits of checkpoints that are to be deleted are asked for here too, so that a transaction of many
 * has them read at once.
 */
#include "daemon/server/internal.h"

#include "proto/base/endian.h"

#include <string.h>

static int check_drive(const struct request *request, struct drive *drive, struct error *error)
{
    struct sight sight;

    if (!drive || !drive->path || drive_is_watched(drive)) {
        return 0;
    }
    if (drive->writers_count > 0) {
        return drive_compare_evidence(request->model, drive, NULL, error);
    }
    int r = request_look(request, drive->path, &sight);
    return r < 0 ? r : drive_compare_evidence(request->model, drive, &sight.drive, error);
}

static int check_named(const struct request *request, struct wire_string name, struct error *error)
{
    return check_drive(request, model_drive_by_name(request->model, text_from_wire(name), NULL),
                       error);
}

/* "DRIVE/NAME" */
static int check_of_bitmap(const struct request *request, struct wire_string full,
                           struct error *error)
{
    size_t drive_bytes;

    if (name_split(full.data, full.length, &drive_bytes, NULL) < 0) {
        return 0;
    }
    return check_named(request, (struct wire_string){full.data, (uint16_t)drive_bytes}, error);
}

static int check_parts(const struct request *request, struct error *error)
{
    const struct message_transaction *message = request->message;
    const uint8_t *p = message->operations.data;
    size_t left = message->operations.bytes;
    int r = 0;

    /* What is wrong with the parts is for the handler to say; what is wanted, in one go. */
    bool wanting = false;
    uint32_t count = 0;
    while ((r == 0 || (r == -EAGAIN && !request->server->look_at)) &&
           left >= TRANSACTION_HEADER_BYTES &&
           load_le32(p + 2) <= left - TRANSACTION_HEADER_BYTES) {
        uint32_t bytes = load_le32(p + 2);
        r = dispatch_check(request, load_le16(p), p + TRANSACTION_HEADER_BYTES, bytes, error);
        wanting |= r == -EAGAIN;
        if (r == -EPERM) {
            return error_prefix(error, r, "operation %u", count);
        }
        count++;
        p += TRANSACTION_HEADER_BYTES + bytes;
        left -= TRANSACTION_HEADER_BYTES + bytes;
    }
    return r == 0 && wanting ? -EAGAIN : r;
}

static int check_deleted(const struct request *request, struct error *error)
{
    const struct message_checkpoint_delete *message = request->message;
    struct drive *drive = model_drive_by_name(request->model, text_from_wire(message->drive), NULL);
    struct drive_bitmap *bitmap =
        drive ? model_checkpoint_by_name(drive, text_from_wire(message->checkpoint), NULL) : NULL;

    return bitmap ? model_want_deleted(request->model, bitmap, error) : 0;
}

int request_check(const struct request *request, struct error *error)
{
    switch (request->operation) {
    case OPERATION_BITMAP_CREATE: {
        const struct message_bitmap_create *message = request->message;
        return check_of_bitmap(request, message->bitmap, error);
    }
    case OPERATION_BITMAP_ENABLE:
    case OPERATION_BITMAP_DISABLE: {
        const struct message_bitmap_change *message = request->message;
        return check_of_bitmap(request, message->bitmap, error);
    }
    case OPERATION_BITMAP_CLEAR: {
        const struct message_bitmap_range *message = request->message;
        return check_of_bitmap(request, message->bitmap, error);
    }
    case OPERATION_BITMAP_MERGE: {
        const struct message_bitmap_merge *message = request->message;
        return check_of_bitmap(request, message->target, error);
    }
    case OPERATION_MAP: {
        const struct message_map *message = request->message;
        return check_of_bitmap(request, message->bitmap, error);
    }
    case OPERATION_CHECKPOINT_MAP: {
        const struct message_checkpoint_map *message = request->message;
        return check_named(request, message->drive, error);
    }
    case OPERATION_CHECKPOINT_CREATE: {
        const struct message_checkpoint_create *message = request->message;
        struct wire_strings names = message->drives;
        int r = 0;
        for (uint32_t i = 0; r == 0 && i < message->drives.count; i++) {
            r = check_named(request, wire_strings_next(&names), error);
        }
        return r;
    }
    case OPERATION_MARK: {
        /* It voids the evidence: of what came before it is this the last time that one can tell. */
        const struct message_mark *message = request->message;
        struct drive *drive = model_drive_by_id(request->model, message->drive);
        return drive && drive->evidence ? check_drive(request, drive, error) : 0;
    }
    case OPERATION_CHECKPOINT_DELETE:
        return check_deleted(request, error);
    case OPERATION_TRANSACTION:
        return check_parts(request, error);
    default:
        return 0;
    }
}
