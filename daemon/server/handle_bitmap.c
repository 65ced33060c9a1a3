/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Operations on bitmaps, which are addressed as "DRIVE/NAME".
 */
#include "daemon/server/internal.h"

#include <string.h>

void fill_bitmap_info(const struct drive_bitmap *bitmap, struct bitmap_info_buffer *ret)
{
    size_t drive_bytes = strlen(bitmap->drive->name);
    size_t name_bytes = strlen(bitmap->name);

    memcpy(ret->name, bitmap->drive->name, drive_bytes);
    ret->name[drive_bytes] = '/';
    memcpy(ret->name + drive_bytes + 1, bitmap->name, name_bytes + 1);
    ret->message = (struct message_bitmap_info){
        .id = bitmap->id,
        .bitmap = wire_string(ret->name),
        .granularity = bitmap->granularity,
        .size = bitmap->drive->size,
        .recording = bitmap->recording,
        .gap = bitmap->gap,
        .validity = (uint8_t)bitmap->validity,
        .reason = wire_string(bitmap->reason),
        .dirty_bytes = drive_bitmap_dirty_bytes(bitmap),
        .dirty_count = drive_bitmap_dirty_count(bitmap),
        .untracked = wire_string(untracked_words(drive_bitmap_untracked(bitmap))),
    };
}

static int find_bitmap(const struct request *request, struct wire_string name,
                       struct drive_bitmap **ret, struct error *error)
{
    *ret = model_bitmap_by_name(request->model, text_from_wire(name), error);
    return *ret ? 0 : -ENOENT;
}

int handle_bitmap_create(const struct request *request, struct error *error)
{
    const struct message_bitmap_create *message = request->message;
    size_t drive_bytes;

    if (message->flags & ~CHANGE_DISABLED) {
        return error_set(error, -EINVAL, "unknown flags 0x%x", message->flags);
    }
    int r = name_split(message->bitmap.data, message->bitmap.length, &drive_bytes, error);
    if (r < 0) {
        return r;
    }
    struct text drive_name = {message->bitmap.data, (uint32_t)drive_bytes};
    struct drive *drive = model_drive_by_name(request->model, drive_name, error);
    if (!drive) {
        return -ENOENT;
    }
    if (!(access_on_drive(request->session, drive) & ACCESS_ADMIN) &&
        drive->bitmaps_count >= request->server->settings.drive_bitmaps_max) {
        return error_set(error, -EDQUOT,
                         "limits.bitmaps_per_drive: drive '%s' has %u bitmaps already", drive->name,
                         drive->bitmaps_count);
    }
    struct record record = {
        .type = RECORD_BITMAP_CREATE,
        .drive = drive->id,
        .name = {message->bitmap.data + drive_bytes + 1,
                 (uint32_t)(message->bitmap.length - drive_bytes - 1)},
        .granularity = message->granularity,
        .disabled = message->flags & CHANGE_DISABLED,
    };
    return request_commit(request, &message->request, &record, error);
}

int handle_bitmap_show(const struct request *request, struct error *error)
{
    const struct message_bitmap_name *message = request->message;
    struct drive_bitmap *bitmap;
    int r = find_bitmap(request, message->bitmap, &bitmap, error);
    if (r < 0) {
        return r;
    }
    struct bitmap_info_buffer info;
    fill_bitmap_info(bitmap, &info);
    reply(request->session, MESSAGE_BITMAP_INFO, &info.message, request->operation, 0,
          request->cookie);
    return 0;
}

static int change(const struct request *request, enum record_type type, struct error *error)
{
    const struct message_bitmap_change *message = request->message;
    struct drive_bitmap *bitmap;
    int r = find_bitmap(request, message->bitmap, &bitmap, error);
    if (r < 0) {
        return r;
    }
    struct record record = {
        .type = type,
        .drive = bitmap->drive->id,
        .bitmap = bitmap->id,
        .name = text_from_wire(message->argument),
    };
    return request_commit(request, &message->request, &record, error);
}

int handle_bitmap_delete(const struct request *request, struct error *error)
{
    return change(request, RECORD_BITMAP_DELETE, error);
}

int handle_bitmap_enable(const struct request *request, struct error *error)
{
    return change(request, RECORD_BITMAP_ENABLE, error);
}

int handle_bitmap_disable(const struct request *request, struct error *error)
{
    return change(request, RECORD_BITMAP_DISABLE, error);
}

int handle_bitmap_rename(const struct request *request, struct error *error)
{
    return change(request, RECORD_BITMAP_RENAME, error);
}

static int change_range(const struct request *request, enum record_type type, struct error *error)
{
    const struct message_bitmap_range *message = request->message;
    struct range range = {message->offset, message->length};
    struct drive_bitmap *bitmap;
    int r = find_bitmap(request, message->bitmap, &bitmap, error);
    if (r < 0) {
        return r;
    }
    struct record record = {.type = type, .drive = bitmap->drive->id, .bitmap = bitmap->id};
    if (type != RECORD_BITMAP_CLEAR_ALL) {
        record.ranges = &range;
        record.ranges_count = 1;
    }
    return request_commit(request, &message->request, &record, error);
}

int handle_bitmap_set(const struct request *request, struct error *error)
{
    const struct message_bitmap_range *message = request->message;
    if (message->flags != 0) {
        return error_set(error, -EINVAL, "unknown flags 0x%x", message->flags);
    }
    return change_range(request, RECORD_BITMAP_SET, error);
}

int handle_bitmap_clear(const struct request *request, struct error *error)
{
    const struct message_bitmap_range *message = request->message;
    if (message->flags & ~CHANGE_ALL) {
        return error_set(error, -EINVAL, "unknown flags 0x%x", message->flags);
    }
    if (!(message->flags & CHANGE_ALL)) {
        return change_range(request, RECORD_BITMAP_CLEAR, error);
    }
    if (message->offset != 0 || message->length != 0) {
        return error_set(error, -EINVAL, "clearing everything takes no range");
    }
    return change_range(request, RECORD_BITMAP_CLEAR_ALL, error);
}

int handle_bitmap_merge(const struct request *request, struct error *error)
{
    const struct message_bitmap_merge *message = request->message;
    struct drive_bitmap *target;
    int r = find_bitmap(request, message->target, &target, error);
    if (r < 0) {
        return r;
    }
    CLEANUP_FREE uint64_t *sources = calloc((size_t)message->sources.count + 1, sizeof *sources);
    if (!sources) {
        return error_set(error, -ENOMEM, "out of memory for a request");
    }
    struct wire_strings names = message->sources;
    for (uint32_t i = 0; i < message->sources.count; i++) {
        struct drive_bitmap *source;
        r = find_bitmap(request, wire_strings_next(&names), &source, error);
        if (r < 0) {
            return r;
        }
        sources[i] = source->id;
    }
    struct record record = {
        .type = RECORD_BITMAP_MERGE,
        .drive = target->drive->id,
        .bitmap = target->id,
        .sources = sources,
        .sources_count = message->sources.count,
    };
    return request_commit(request, &message->request, &record, error);
}
