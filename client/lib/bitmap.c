/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Bitmaps, addressed as "DRIVE/NAME": one call per operation.
 */
#include "client/lib/internal.h"

#include <errno.h>
#include <string.h>

/* ---- Replies ---- */

static int decode_bitmap(struct bitmapd *handle, const struct frame *frame,
                         struct bitmapd_bitmap *ret, struct error *error)
{
    struct message_bitmap_info info;
    int r = message_decode(MESSAGE_BITMAP_INFO, frame->payload, frame->payload_bytes, true, &info,
                           error);
    if (r < 0) {
        return r;
    }
    r = client_text_begin(
        handle, (size_t)info.bitmap.length + info.reason.length + info.untracked.length, 3);
    if (r < 0) {
        return error_set(error, r, "out of memory");
    }
    *ret = (struct bitmapd_bitmap){
        .id = info.id,
        .name = client_text_add(handle, info.bitmap),
        .granularity = info.granularity,
        .size = info.size,
        .recording = info.recording,
        .gap = info.gap,
        .validity = client_validity(info.validity),
        .reason = client_text_add(handle, info.reason),
        .dirty_bytes = info.dirty_bytes,
        .dirty_count = info.dirty_count,
        .untracked = client_text_add(handle, info.untracked),
    };
    return 0;
}

static int bitmap_reply(struct bitmapd *handle, struct request *request, const struct frame *frame,
                        struct error *error)
{
    return decode_bitmap(handle, frame, request->context, error);
}

struct bitmap_list {
    void (*each)(void *opaque, const struct bitmapd_bitmap *bitmap);
    void *opaque;
    uint64_t count;
};

static int bitmap_list_reply(struct bitmapd *handle, struct request *request,
                             const struct frame *frame, struct error *error)
{
    struct bitmap_list *list = request->context;

    if (!(frame->flags & FRAME_MORE)) {
        return client_check_list_end(frame, list->count, error);
    }
    struct bitmapd_bitmap bitmap;
    int r = decode_bitmap(handle, frame, &bitmap, error);
    if (r < 0) {
        return r;
    }
    list->count++;
    request->delivered = true;
    list->each(list->opaque, &bitmap);
    return 0;
}

/* ---- Calls ---- */

int bitmapd_bitmap_create(bitmapd *handle, const char *bitmap, uint32_t granularity, bool disabled,
                          struct bitmapd_bitmap *ret)
{
    struct bitmapd_bitmap made;

    client_clear_error(handle);
    int r = client_check_text(handle, "bitmap", bitmap, BITMAP_BYTES_MAX);
    if (r < 0) {
        return r;
    }
    struct message_bitmap_create message = {
        .bitmap = wire_string(bitmap),
        .granularity = granularity,
        .flags = disabled ? CHANGE_DISABLED : 0,
    };
    r = client_request_id(handle, &message.request);
    if (r < 0) {
        return r;
    }
    r = client_call(handle, REQUEST_ONCE, OPERATION_BITMAP_CREATE, MESSAGE_BITMAP_CREATE, &message,
                    false, bitmap_reply, &made);
    if (r == 0 && ret) {
        *ret = made;
    }
    return r;
}

int bitmapd_bitmap_show(bitmapd *handle, const char *bitmap, struct bitmapd_bitmap *ret)
{
    struct bitmapd_bitmap found;

    client_clear_error(handle);
    int r = client_check_text(handle, "bitmap", bitmap, BITMAP_BYTES_MAX);
    if (r < 0) {
        return r;
    }
    struct message_bitmap_name message = {.bitmap = wire_string(bitmap)};
    r = client_call(handle, REQUEST_RESEND, OPERATION_BITMAP_SHOW, MESSAGE_BITMAP_NAME, &message,
                    false, bitmap_reply, &found);
    if (r == 0) {
        *ret = found;
    }
    return r;
}

int bitmapd_bitmap_list(bitmapd *handle, const char *drive,
                        void (*each)(void *opaque, const struct bitmapd_bitmap *bitmap),
                        void *opaque)
{
    struct bitmap_list list = {.each = each, .opaque = opaque};

    client_clear_error(handle);
    if (drive) {
        int r = client_check_text(handle, "drive name", drive, NAME_BYTES_MAX);
        if (r < 0) {
            return r;
        }
    }
    struct message_drive_name message = {.name = wire_string(drive)};
    return client_call(handle, REQUEST_RESEND, OPERATION_BITMAP_LIST, MESSAGE_DRIVE_NAME, &message,
                       true, bitmap_list_reply, &list);
}

static int change_bitmap(struct bitmapd *handle, uint16_t operation, const char *bitmap,
                         const char *argument)
{
    int r = client_check_text(handle, "bitmap", bitmap, BITMAP_BYTES_MAX);
    if (r < 0) {
        return r;
    }
    struct message_bitmap_change message = {
        .bitmap = wire_string(bitmap),
        .argument = wire_string(argument),
    };
    r = client_request_id(handle, &message.request);
    if (r < 0) {
        return r;
    }
    return client_call(handle, REQUEST_ONCE, operation, MESSAGE_BITMAP_CHANGE, &message, false,
                       NULL, NULL);
}

int bitmapd_bitmap_delete(bitmapd *handle, const char *bitmap)
{
    client_clear_error(handle);
    return change_bitmap(handle, OPERATION_BITMAP_DELETE, bitmap, NULL);
}

int bitmapd_bitmap_enable(bitmapd *handle, const char *bitmap)
{
    client_clear_error(handle);
    return change_bitmap(handle, OPERATION_BITMAP_ENABLE, bitmap, NULL);
}

int bitmapd_bitmap_disable(bitmapd *handle, const char *bitmap)
{
    client_clear_error(handle);
    return change_bitmap(handle, OPERATION_BITMAP_DISABLE, bitmap, NULL);
}

int bitmapd_bitmap_rename(bitmapd *handle, const char *bitmap, const char *new_name)
{
    client_clear_error(handle);
    int r = client_check_text(handle, "new name", new_name, NAME_BYTES_MAX);
    if (r < 0) {
        return r;
    }
    return change_bitmap(handle, OPERATION_BITMAP_RENAME, bitmap, new_name);
}

static int change_range(struct bitmapd *handle, uint16_t operation, const char *bitmap,
                        uint64_t offset, uint64_t length, uint8_t flags)
{
    int r = client_check_text(handle, "bitmap", bitmap, BITMAP_BYTES_MAX);
    if (r < 0) {
        return r;
    }
    struct message_bitmap_range message = {
        .bitmap = wire_string(bitmap),
        .offset = offset,
        .length = length,
        .flags = flags,
    };
    r = client_request_id(handle, &message.request);
    if (r < 0) {
        return r;
    }
    return client_call(handle, REQUEST_ONCE, operation, MESSAGE_BITMAP_RANGE, &message, false, NULL,
                       NULL);
}

int bitmapd_bitmap_set(bitmapd *handle, const char *bitmap, uint64_t offset, uint64_t length)
{
    client_clear_error(handle);
    return change_range(handle, OPERATION_BITMAP_SET, bitmap, offset, length, 0);
}

int bitmapd_bitmap_clear(bitmapd *handle, const char *bitmap, uint64_t offset, uint64_t length)
{
    client_clear_error(handle);
    return change_range(handle, OPERATION_BITMAP_CLEAR, bitmap, offset, length, 0);
}

int bitmapd_bitmap_clear_all(bitmapd *handle, const char *bitmap)
{
    client_clear_error(handle);
    return change_range(handle, OPERATION_BITMAP_CLEAR, bitmap, 0, 0, CHANGE_ALL);
}

int bitmapd_bitmap_merge(bitmapd *handle, const char *target, const char *const *sources,
                         size_t count)
{
    struct message_bitmap_merge message = {0};

    client_clear_error(handle);
    int r = client_check_text(handle, "bitmap", target, BITMAP_BYTES_MAX);
    if (r == 0) {
        r = text_encode_strings("a source of the merge", sources, count, BITMAP_BYTES_MAX,
                                &handle->scratch, &message.sources, &handle->error);
    }
    if (r == 0) {
        r = client_request_id(handle, &message.request);
    }
    if (r < 0) {
        return r;
    }
    message.target = wire_string(target);
    return client_call(handle, REQUEST_ONCE, OPERATION_BITMAP_MERGE, MESSAGE_BITMAP_MERGE, &message,
                       false, NULL, NULL);
}
