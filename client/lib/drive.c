/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Drives: one call per operation, each a request structure filled in.  What
 * names and sizes are right is the daemon's to judge; here is refused only
 * what cannot be put into a frame.
 */
#include "client/lib/internal.h"

#include <errno.h>
#include <string.h>

#define PATH_BYTES_MAX 4095u

/* ---- Replies ---- */

static int decode_drive(struct bitmapd *handle, const struct frame *frame,
                        struct bitmapd_drive *ret, struct error *error)
{
    struct message_drive_info info;
    int r = message_decode(MESSAGE_DRIVE_INFO, frame->payload, frame->payload_bytes, true, &info,
                           error);
    if (r < 0) {
        return r;
    }
    r = client_text_begin(handle,
                          (size_t)info.name.length + info.path.length + info.identity.length +
                              info.untracked.length,
                          4);
    if (r < 0) {
        return error_set(error, r, "out of memory");
    }
    *ret = (struct bitmapd_drive){
        .id = info.id,
        .name = client_text_add(handle, info.name),
        .path = client_text_add(handle, info.path),
        .size = info.size,
        .granularity = info.granularity,
        .durability = info.durability,
        .bitmaps = info.bitmaps,
        .recording = info.recording,
        .writers = info.writers,
        .lost_writers = info.lost_writers,
        .unsettled = info.unsettled,
        .checkpoints = info.checkpoints,
        .identity = client_text_add(handle, info.identity),
        .untracked = client_text_add(handle, info.untracked),
    };
    return 0;
}

static int drive_reply(struct bitmapd *handle, struct request *request, const struct frame *frame,
                       struct error *error)
{
    return decode_drive(handle, frame, request->context, error);
}

struct drive_list {
    void (*each)(void *opaque, const struct bitmapd_drive *drive);
    void *opaque;
    uint64_t count;
};

static int drive_list_reply(struct bitmapd *handle, struct request *request,
                            const struct frame *frame, struct error *error)
{
    struct drive_list *list = request->context;

    if (!(frame->flags & FRAME_MORE)) {
        return client_check_list_end(frame, list->count, error);
    }
    struct bitmapd_drive drive;
    int r = decode_drive(handle, frame, &drive, error);
    if (r < 0) {
        return r;
    }
    list->count++;
    request->delivered = true;
    list->each(list->opaque, &drive);
    return 0;
}

/* ---- Calls ---- */

int bitmapd_drive_add(bitmapd *handle, const char *name, const char *path, uint64_t size,
                      int durability, uint32_t granularity, struct bitmapd_drive *ret)
{
    struct bitmapd_drive drive;

    client_clear_error(handle);
    int r = client_check_text(handle, "drive name", name, NAME_BYTES_MAX);
    if (r == 0 && path) {
        r = client_check_text(handle, "path", path, PATH_BYTES_MAX);
    }
    if (r < 0) {
        return r;
    }
    if (durability < 0 || durability > UINT8_MAX) {
        return client_fail(handle, -EINVAL, "durability %d is none", durability);
    }
    struct message_drive_add message = {
        .name = wire_string(name),
        .path = wire_string(path),
        .size = size,
        .durability = (uint8_t)durability,
        .granularity = granularity,
    };
    r = client_request_id(handle, &message.request);
    if (r < 0) {
        return r;
    }
    r = client_call(handle, REQUEST_ONCE, OPERATION_DRIVE_ADD, MESSAGE_DRIVE_ADD, &message, false,
                    drive_reply, &drive);
    if (r == 0 && ret) {
        *ret = drive;
    }
    return r;
}

int bitmapd_drive_show(bitmapd *handle, const char *name, struct bitmapd_drive *ret)
{
    struct bitmapd_drive drive;

    client_clear_error(handle);
    int r = client_check_text(handle, "drive name", name, NAME_BYTES_MAX);
    if (r < 0) {
        return r;
    }
    struct message_drive_name message = {.name = wire_string(name)};
    r = client_call(handle, REQUEST_RESEND, OPERATION_DRIVE_SHOW, MESSAGE_DRIVE_NAME, &message,
                    false, drive_reply, &drive);
    if (r == 0) {
        *ret = drive;
    }
    return r;
}

int bitmapd_drive_list(bitmapd *handle,
                       void (*each)(void *opaque, const struct bitmapd_drive *drive), void *opaque)
{
    struct drive_list list = {.each = each, .opaque = opaque};

    client_clear_error(handle);
    return client_call(handle, REQUEST_RESEND, OPERATION_DRIVE_LIST, MESSAGE_EMPTY, NULL, true,
                       drive_list_reply, &list);
}

int bitmapd_drive_set(bitmapd *handle, const char *name, int durability, uint32_t granularity)
{
    client_clear_error(handle);
    int r = client_check_text(handle, "drive name", name, NAME_BYTES_MAX);
    if (r < 0) {
        return r;
    }
    if (durability < 0 || durability > UINT8_MAX) {
        return client_fail(handle, -EINVAL, "durability %d is none", durability);
    }
    struct message_drive_set message = {
        .name = wire_string(name),
        .durability = (uint8_t)durability,
        .granularity = granularity,
    };
    r = client_request_id(handle, &message.request);
    if (r < 0) {
        return r;
    }
    return client_call(handle, REQUEST_ONCE, OPERATION_DRIVE_SET, MESSAGE_DRIVE_SET, &message,
                       false, NULL, NULL);
}

int bitmapd_drive_resize(bitmapd *handle, const char *name, uint64_t size)
{
    client_clear_error(handle);
    int r = client_check_text(handle, "drive name", name, NAME_BYTES_MAX);
    if (r < 0) {
        return r;
    }
    struct message_drive_resize message = {.name = wire_string(name), .size = size};
    r = client_request_id(handle, &message.request);
    if (r < 0) {
        return r;
    }
    return client_call(handle, REQUEST_ONCE, OPERATION_DRIVE_RESIZE, MESSAGE_DRIVE_RESIZE, &message,
                       false, NULL, NULL);
}

static int change_drive(struct bitmapd *handle, uint16_t operation, const char *name,
                        const char *argument, uint8_t flags)
{
    int r = client_check_text(handle, "drive name", name, NAME_BYTES_MAX);
    if (r < 0) {
        return r;
    }
    struct message_drive_change message = {
        .name = wire_string(name),
        .argument = wire_string(argument),
        .flags = flags,
    };
    r = client_request_id(handle, &message.request);
    if (r < 0) {
        return r;
    }
    return client_call(handle, REQUEST_ONCE, operation, MESSAGE_DRIVE_CHANGE, &message, false, NULL,
                       NULL);
}

int bitmapd_drive_rename(bitmapd *handle, const char *name, const char *new_name)
{
    client_clear_error(handle);
    int r = client_check_text(handle, "new name", new_name, NAME_BYTES_MAX);
    if (r < 0) {
        return r;
    }
    return change_drive(handle, OPERATION_DRIVE_RENAME, name, new_name, 0);
}

int bitmapd_drive_remove(bitmapd *handle, const char *name, bool force)
{
    client_clear_error(handle);
    return change_drive(handle, OPERATION_DRIVE_REMOVE, name, NULL, force ? CHANGE_FORCE : 0);
}

int bitmapd_drive_fence(bitmapd *handle, const char *name, const char *writer)
{
    client_clear_error(handle);
    if (writer) {
        int r = client_check_text(handle, "writer token", writer, NAME_BYTES_MAX);
        if (r < 0) {
            return r;
        }
    }
    return change_drive(handle, OPERATION_DRIVE_FENCE, name, writer, 0);
}

int bitmapd_drive_adopt(bitmapd *handle, const char *name)
{
    client_clear_error(handle);
    return change_drive(handle, OPERATION_DRIVE_ADOPT, name, NULL, 0);
}
