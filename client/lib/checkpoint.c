/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checkpoints: one call per operation; map.c has the map between two of them.
 */
#include "client/lib/internal.h"

#include "proto/base/checkpoint_ref.h"

#include <errno.h>
#include <string.h>

/* ---- Replies ---- */

static int decode_checkpoint(struct bitmapd *handle, const struct frame *frame,
                             struct bitmapd_checkpoint *ret, struct error *error)
{
    struct message_checkpoint_info info;
    int r = message_decode(MESSAGE_CHECKPOINT_INFO, frame->payload, frame->payload_bytes, true,
                           &info, error);
    if (r < 0) {
        return r;
    }
    r = client_text_begin(handle,
                          (size_t)info.drive.length + info.name.length + info.reason.length +
                              info.untracked.length,
                          4);
    if (r < 0) {
        return error_set(error, r, "out of memory");
    }
    *ret = (struct bitmapd_checkpoint){
        .id = info.id,
        .drive = client_text_add(handle, info.drive),
        .name = client_text_add(handle, info.name),
        .sequence = info.sequence,
        .created_ns = info.created_ns,
        .granularity = info.granularity,
        .size = info.size,
        .recording = info.recording,
        .validity = client_validity(info.validity),
        .reason = client_text_add(handle, info.reason),
        .untracked = client_text_add(handle, info.untracked),
        .dirty_bytes = info.dirty_bytes,
        .dirty_count = info.dirty_count,
    };
    memcpy(ret->uuid, info.uuid.bytes, sizeof ret->uuid);
    return 0;
}

struct checkpoint_list {
    void (*each)(void *opaque, const struct bitmapd_checkpoint *checkpoint);
    void *opaque;
    uint64_t count;
};

static int checkpoint_list_reply(struct bitmapd *handle, struct request *request,
                                 const struct frame *frame, struct error *error)
{
    struct checkpoint_list *list = request->context;

    if (!(frame->flags & FRAME_MORE)) {
        return client_check_list_end(frame, list->count, error);
    }
    struct bitmapd_checkpoint checkpoint;
    int r = decode_checkpoint(handle, frame, &checkpoint, error);
    if (r < 0) {
        return r;
    }
    list->count++;
    request->delivered = true;
    list->each(list->opaque, &checkpoint);
    return 0;
}

struct created {
    size_t drives; /* asked for */
    struct bitmapd_checkpoint_created result;
};

static int created_reply(struct bitmapd *handle, struct request *request, const struct frame *frame,
                         struct error *error)
{
    struct created *created = request->context;
    struct message_checkpoint_created reply;

    (void)handle;
    int r = message_decode(MESSAGE_CHECKPOINT_CREATED, frame->payload, frame->payload_bytes, true,
                           &reply, error);
    if (r < 0) {
        return r;
    }
    /* Fewer are the answer to a repeat, when it was deleted on some of them meanwhile. */
    if (reply.drives > created->drives) {
        return error_set(error, -EPROTO, "checkpoint of %zu drives was made on %u", created->drives,
                         reply.drives);
    }
    created->result = (struct bitmapd_checkpoint_created){
        .sequence = reply.sequence,
        .created_ns = reply.created_ns,
        .drives = reply.drives,
    };
    memcpy(created->result.uuid, reply.uuid.bytes, sizeof created->result.uuid);
    return 0;
}

/* ---- Calls ---- */

int bitmapd_checkpoint_create(bitmapd *handle, const char *name, const char *const *drives,
                              size_t count, struct bitmapd_checkpoint_created *ret)
{
    struct message_checkpoint_create message = {0};
    struct created created = {.drives = count};

    client_clear_error(handle);
    int r = client_check_text(handle, "checkpoint name", name, NAME_BYTES_MAX);
    if (r == 0) {
        r = text_encode_strings("a drive of the checkpoint", drives, count, NAME_BYTES_MAX,
                                &handle->scratch, &message.drives, &handle->error);
    }
    if (r == 0) {
        r = client_request_id(handle, &message.request);
    }
    if (r < 0) {
        return r;
    }
    message.name = wire_string(name);
    r = client_call(handle, REQUEST_ONCE, OPERATION_CHECKPOINT_CREATE, MESSAGE_CHECKPOINT_CREATE,
                    &message, false, created_reply, &created);
    if (r == 0 && ret) {
        *ret = created.result;
    }
    return r;
}

int bitmapd_checkpoint_list(bitmapd *handle, const char *drive,
                            void (*each)(void *opaque, const struct bitmapd_checkpoint *checkpoint),
                            void *opaque)
{
    struct checkpoint_list list = {.each = each, .opaque = opaque};

    client_clear_error(handle);
    if (drive) {
        int r = client_check_text(handle, "drive name", drive, NAME_BYTES_MAX);
        if (r < 0) {
            return r;
        }
    }
    struct message_drive_name message = {.name = wire_string(drive)};
    return client_call(handle, REQUEST_RESEND, OPERATION_CHECKPOINT_LIST, MESSAGE_DRIVE_NAME,
                       &message, true, checkpoint_list_reply, &list);
}

int bitmapd_checkpoint_delete(bitmapd *handle, const char *drive, const char *checkpoint)
{
    client_clear_error(handle);
    int r = client_check_text(handle, "drive name", drive, NAME_BYTES_MAX);
    if (r == 0) {
        r = client_check_text(handle, "checkpoint", checkpoint, CHECKPOINT_REF_BYTES_MAX);
    }
    if (r < 0) {
        return r;
    }
    struct message_checkpoint_delete message = {
        .drive = wire_string(drive),
        .checkpoint = wire_string(checkpoint),
    };
    r = client_request_id(handle, &message.request);
    if (r < 0) {
        return r;
    }
    return client_call(handle, REQUEST_ONCE, OPERATION_CHECKPOINT_DELETE, MESSAGE_CHECKPOINT_DELETE,
                       &message, false, NULL, NULL);
}
