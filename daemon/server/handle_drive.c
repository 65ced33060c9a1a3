/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Operations on drives.  Each finds its drive by name, makes one record of the
 * request, and leaves the answer to request_commit().
 */
#include "daemon/server/internal.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

void fill_drive_info(struct drive *drive, struct message_drive_info *ret)
{
    struct drive_status status;
    drive_get_status(drive, &status);
    *ret = (struct message_drive_info){
        .id = drive->id,
        .name = wire_string(drive->name),
        .path = wire_string(drive->path ? drive->path : ""),
        .size = drive->size,
        .granularity = drive->granularity,
        .durability = drive->durability,
        .bitmaps = drive->bitmaps_count,
        .recording = drive->recording_count,
        .writers = status.writers,
        .lost_writers = status.lost_writers,
        .unsettled = status.unsettled,
    };
}

static int find_drive(const struct request *request, struct wire_string name, struct drive **ret,
                      struct error *error)
{
    *ret = model_drive_by_name(request->model, text_from_wire(name), error);
    return *ret ? 0 : -ENOENT;
}

int handle_drive_show(const struct request *request, struct error *error)
{
    const struct message_drive_name *message = request->message;
    struct drive *drive;
    int r = find_drive(request, message->name, &drive, error);
    if (r < 0) {
        return r;
    }
    struct message_drive_info info;
    fill_drive_info(drive, &info);
    reply(request->session, MESSAGE_DRIVE_INFO, &info, request->operation, 0, request->cookie);
    return 0;
}

/* ---- Adding: a drive's size may have to be asked of its path, which may hang ---- */

/*
 * A path is opened on libuv's pool, never on the loop.  Strings are copied,
 * since the frame is gone when the answer comes.
 */
struct probe {
    uv_work_t work;
    struct pending *pending;
    struct wire_uuid id;
    char *name, *path;
    uint32_t granularity;
    enum durability durability;
    uint64_t size;
    int r;
    struct error error;
};

static void probe_free(struct probe *probe)
{
    if (probe) {
        free(probe->name);
        free(probe->path);
        free(probe);
    }
}

DEFINE_CLEANUP(struct probe *, probe_free)

static void probe_run(uv_work_t *work)
{
    struct probe *probe = work->data;
    CLEANUP_CLOSE int fd = open(probe->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0) {
        probe->r = error_set_errno(&probe->error, -errno, "cannot open '%s'", probe->path);
    } else if (S_ISREG(st.st_mode)) {
        probe->size = (uint64_t)st.st_size;
    } else if (!S_ISBLK(st.st_mode)) {
        probe->r = error_set(&probe->error, -EINVAL,
                             "'%s' is neither a regular file nor a block device", probe->path);
    } else if (ioctl(fd, BLKGETSIZE64, &probe->size) < 0) {
        probe->r =
            error_set_errno(&probe->error, -errno, "cannot get the size of '%s'", probe->path);
    }
    if (probe->r == 0 && probe->size == 0) {
        probe->r = error_set(&probe->error, -EINVAL, "'%s' is empty", probe->path);
    }
}

static void commit_add(struct pending *pending, struct record *record, const struct wire_uuid *id)
{
    struct error error = {""};

    memcpy(record->request.bytes, id->bytes, sizeof record->request.bytes);
    record->peer = pending->session->peer;
    /* While the path was looked at, the same request may have been done for another connection. */
    const struct request_result *before =
        model_request_find(pending->server->model, &record->request);
    if (before && before->type == record->type) {
        pending_wait(pending, ACK_DURABLE, before->sequence, before->object);
        return;
    }
    int r = model_commit(pending->server->model, record, &error);
    if (r < 0) {
        pending_finish(pending, r, &error);
    } else {
        pending_wait(pending, ACK_DURABLE, record->sequence, record->drive);
    }
}

static void probe_done(uv_work_t *work, int status)
{
    struct probe *probe = work->data;
    struct pending *pending = probe->pending;
    (void)status; /* never cancelled */

    if (!pending->session) {
        pending_free(pending);
    } else if (probe->r < 0) {
        pending_finish(pending, probe->r == -EINVAL ? -EINVAL : -EREMOTEIO, &probe->error);
    } else {
        struct record record = {
            .type = RECORD_DRIVE_ADD,
            .name = {probe->name, (uint32_t)strlen(probe->name)},
            .path = {probe->path, (uint32_t)strlen(probe->path)},
            .size = probe->size,
            .granularity = probe->granularity,
            .durability = probe->durability,
        };
        commit_add(pending, &record, &probe->id);
    }
    probe_free(probe);
}

static int probe_start(const struct request *request, const struct record *record,
                       const struct wire_uuid *id, struct error *error)
{
    CLEANUP(probe_freep) struct probe *probe = calloc(1, sizeof *probe);

    if (record->path.data[0] != '/' || memchr(record->path.data, '\0', record->path.bytes)) {
        return error_set(error, -EINVAL, "a drive's path must be absolute");
    }
    if (probe) {
        probe->name = strndup(record->name.data, record->name.bytes);
        probe->path = strndup(record->path.data, record->path.bytes);
    }
    struct pending *pending = pending_new(request);
    if (!probe || !probe->name || !probe->path || !pending) {
        if (pending) {
            pending_free(pending);
        }
        return error_set(error, -ENOMEM, "out of memory for a request");
    }
    probe->pending = pending;
    probe->id = *id;
    probe->granularity = record->granularity;
    probe->durability = record->durability;
    probe->work.data = probe;
    int r = uv_queue_work(request->server->loop, &probe->work, probe_run, probe_done);
    if (r < 0) {
        pending_free(pending);
        return error_set(error, r, "cannot look at the drive's path: %s", uv_strerror(r));
    }
    probe = NULL;
    return 0;
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
    if (message->size == 0) {
        int r = name_check(NAME_DRIVE, record.name.data, record.name.bytes, error);
        return r < 0 ? r : probe_start(request, &record, &message->request, error);
    }
    return request_commit(request, &message->request, &record, error);
}

/* ---- The others ---- */

int handle_drive_set(const struct request *request, struct error *error)
{
    const struct message_drive_set *message = request->message;
    struct drive *drive;
    int r = find_drive(request, message->name, &drive, error);
    if (r < 0) {
        return r;
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
    struct drive *drive;
    int r = find_drive(request, message->name, &drive, error);
    if (r < 0) {
        return r;
    }
    struct record record = {.type = RECORD_DRIVE_RESIZE, .drive = drive->id, .size = message->size};
    return request_commit(request, &message->request, &record, error);
}

static int change(const struct request *request, enum record_type type, uint8_t flags_allowed,
                  struct error *error)
{
    const struct message_drive_change *message = request->message;
    struct drive *drive;

    if (message->flags & ~flags_allowed) {
        return error_set(error, -EINVAL, "unknown flags 0x%x", message->flags);
    }
    int r = find_drive(request, message->name, &drive, error);
    if (r < 0) {
        return r;
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
