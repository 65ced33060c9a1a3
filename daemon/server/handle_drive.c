/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Operations on drives.  Each finds its drive by name, makes one record of the
 * request, and leaves the answer to request_commit().
 */
#include "daemon/server/internal.h"

#include "daemon/identity/identity.h"

#include <string.h>

void fill_drive_info(struct drive *drive, struct drive_info_buffer *ret)
{
    struct drive_status status;
    drive_get_status(drive, &status);
    ret->identity[0] = '\0';
    if (drive->identity) {
        identity_words(drive->identity, ret->identity, sizeof ret->identity);
    }
    ret->message = (struct message_drive_info){
        .id = drive->id,
        .name = wire_string(drive->name),
        .path = wire_string(drive->path ? drive->path : ""),
        .size = drive->size,
        .granularity = drive->granularity,
        .durability = drive->durability,
        .bitmaps = drive->bitmaps_count,
        /* The newest checkpoint's, which records too, is not one of these. */
        .recording = drive->recording_count - (drive->checkpoints_count > 0),
        .writers = status.writers,
        .lost_writers = status.lost_writers,
        .unsettled = status.unsettled,
        .checkpoints = drive->checkpoints_count,
        .identity = wire_string(ret->identity),
        .untracked = wire_string(untracked_words(drive_untracked(drive))),
    };
}

struct drive *find_drive(const struct request *request, struct wire_string name,
                         struct error *error)
{
    return model_drive_by_name(request->model, text_from_wire(name), error);
}

int handle_drive_show(const struct request *request, struct error *error)
{
    const struct message_drive_name *message = request->message;
    struct drive *drive = find_drive(request, message->name, error);
    if (!drive) {
        return -ENOENT;
    }
    struct drive_info_buffer info;
    fill_drive_info(drive, &info);
    reply(request->session, MESSAGE_DRIVE_INFO, &info.message, request->operation, 0,
          request->cookie);
    return 0;
}

/* A path must be there only if it is to tell the size. */
static int look_at_new(const struct request *request, const struct message_drive_add *message,
                       struct sight *ret, struct error *error)
{
    CLEANUP_FREE char *path = strndup(message->path.data, message->path.length);

    if (!path) {
        return error_set(error, -ENOMEM, "out of memory for a request");
    }
    if (path[0] != '/' || message->path.length > MODEL_PATH_BYTES_MAX) {
        return error_set(error, -EINVAL, "a drive's path must be absolute, at most %d bytes",
                         MODEL_PATH_BYTES_MAX);
    }
    int r = request_look(request, path, ret);
    if (r == 0 && ret->r < 0 && message->size == 0) {
        r = error_set(error, ret->r == -EINVAL ? -EINVAL : -EREMOTEIO, "%s", ret->error->text);
    }
    return r;
}

int handle_drive_add(const struct request *request, struct error *error)
{
    const struct message_drive_add *message = request->message;
    const struct model_settings *settings = model_get_settings(request->model);
    struct record record = {
        .type = RECORD_DRIVE_ADD,
        .name = text_from_wire(message->name),
        .path = text_from_wire(message->path),
        .size = message->size,
        .granularity = message->granularity ? message->granularity : settings->granularity,
        .durability = message->durability ? message->durability : settings->durability,
    };
    if (message->size == 0 && message->path.length == 0) {
        return error_set(error, -EINVAL, "a drive needs a size or a path");
    }
    struct sight sight;
    int r = name_check(NAME_DRIVE, record.name.data, record.name.bytes, error);
    if (r == 0 && message->path.length > 0) {
        r = look_at_new(request, message, &sight, error);
        record.identity = r == 0 ? sight.drive.identity : record.identity;
        record.evidence = r == 0 ? sight.drive.evidence : record.evidence;
        record.size = r == 0 && message->size == 0 ? sight.size : message->size;
    }
    return r < 0 ? r : request_commit(request, &message->request, &record, error);
}

/*
 * What stands under the path is the drive from now on, also when it is the same: then its writes
 * have been lost sight of.
 */
int handle_drive_adopt(const struct request *request, struct error *error)
{
    const struct message_drive_change *message = request->message;
    struct drive *drive = find_drive(request, message->name, error);
    struct sight sight;

    if (!drive) {
        return -ENOENT;
    }
    if (message->flags != 0 || message->argument.length > 0) {
        return error_set(error, -EINVAL, "adopting takes neither flags nor an argument");
    }
    if (!drive->path) {
        return error_set(error, -EINVAL, "drive '%s' has no path that something could stand under",
                         drive->name);
    }
    int r = request_look(request, drive->path, &sight);
    if (r < 0) {
        return r;
    }
    if (sight.r < 0) {
        return error_set(error, sight.r == -EINVAL ? -EINVAL : -EREMOTEIO, "%s", sight.error->text);
    }
    struct record record = {
        .type = RECORD_DRIVE_ADOPT,
        .drive = drive->id,
        .size = sight.size,
        .identity = sight.drive.identity,
        .evidence = sight.drive.evidence,
    };
    return request_commit(request, &message->request, &record, error);
}

/* ---- The others ---- */

int handle_drive_set(const struct request *request, struct error *error)
{
    const struct message_drive_set *message = request->message;
    struct drive *drive = find_drive(request, message->name, error);
    if (!drive) {
        return -ENOENT;
    }
    struct record record = {
        .type = RECORD_DRIVE_SET,
        .drive = drive->id,
        .granularity = message->granularity,
        .durability = message->durability,
    };
    return request_commit(request, &message->request, &record, error);
}

int handle_drive_resize(const struct request *request, struct error *error)
{
    const struct message_drive_resize *message = request->message;
    struct drive *drive = find_drive(request, message->name, error);
    if (!drive) {
        return -ENOENT;
    }
    struct record record = {.type = RECORD_DRIVE_RESIZE, .drive = drive->id, .size = message->size};
    return request_commit(request, &message->request, &record, error);
}

static int change(const struct request *request, enum record_type type, uint8_t flags_allowed,
                  struct error *error)
{
    const struct message_drive_change *message = request->message;

    if (message->flags & ~flags_allowed) {
        return error_set(error, -EINVAL, "unknown flags 0x%x", message->flags);
    }
    struct drive *drive = find_drive(request, message->name, error);
    if (!drive) {
        return -ENOENT;
    }
    struct record record = {
        .type = type,
        .drive = drive->id,
        .name = text_from_wire(message->argument),
        .force = message->flags & CHANGE_FORCE,
    };
    return request_commit(request, &message->request, &record, error);
}

int handle_drive_rename(const struct request *request, struct error *error)
{
    return change(request, RECORD_DRIVE_RENAME, 0, error);
}

int handle_drive_remove(const struct request *request, struct error *error)
{
    return change(request, RECORD_DRIVE_REMOVE, CHANGE_FORCE, error);
}

int handle_drive_fence(const struct request *request, struct error *error)
{
    return change(request, RECORD_FENCE, 0, error);
}
