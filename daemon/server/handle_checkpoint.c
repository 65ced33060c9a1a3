/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checkpoints, and maps of what was written between them.
 */
#include "daemon/server/internal.h"

#include <string.h>
#include <sys/random.h>
#include <time.h>

void fill_checkpoint_info(const struct drive_bitmap *bitmap, struct message_checkpoint_info *ret)
{
    const struct checkpoint *checkpoint = bitmap->checkpoint;

    *ret = (struct message_checkpoint_info){
        .id = bitmap->id,
        .drive = wire_string(bitmap->drive->name),
        .name = wire_string(bitmap->name),
        .sequence = checkpoint->sequence,
        .created_ns = checkpoint->created_ns,
        .granularity = bitmap->granularity,
        .size = bitmap->drive->size,
        .recording = bitmap->recording,
        .validity = (uint8_t)bitmap->validity,
        .reason = wire_string(bitmap->reason),
        .untracked = wire_string(untracked_words(drive_bitmap_untracked(bitmap))),
        .dirty_bytes = drive_bitmap_dirty_bytes(bitmap),
        .dirty_count = drive_bitmap_dirty_count(bitmap),
    };
    memcpy(ret->uuid.bytes, checkpoint->uuid, sizeof ret->uuid.bytes);
}

/* Of all drives that it was made of, and that still have it. */
void fill_checkpoint_created(struct model *model, const struct checkpoint *checkpoint,
                             struct message_checkpoint_created *ret)
{
    struct drive *drive;
    uint64_t after = 0;

    *ret = (struct message_checkpoint_created){
        .sequence = checkpoint->sequence,
        .created_ns = checkpoint->created_ns,
    };
    memcpy(ret->uuid.bytes, checkpoint->uuid, sizeof ret->uuid.bytes);
    while ((drive = model_drive_after(model, after))) {
        after = drive->id;
        const struct drive_bitmap *bitmap;
        TAILQ_FOREACH_REVERSE(bitmap, &drive->history, drive_bitmap_list, in_history)
        {
            if (bitmap->checkpoint->sequence <= checkpoint->sequence) {
                ret->drives += bitmap->checkpoint->sequence == checkpoint->sequence &&
                               memcmp(bitmap->checkpoint->uuid, checkpoint->uuid, 16) == 0;
                break;
            }
        }
    }
}

/* ---- Creating and deleting ---- */

/* A random one (RFC 9562, version 4). */
static int make_uuid(uint8_t ret[16], struct error *error)
{
    if (getrandom(ret, 16, 0) != 16) {
        return error_set(error, -EREMOTEIO, "no random bytes for a UUID");
    }
    ret[6] = (uint8_t)((ret[6] & 0x0f) | 0x40);
    ret[8] = (uint8_t)((ret[8] & 0x3f) | 0x80);
    return 0;
}

static int create_on_all(const struct request *request, struct error *error)
{
    const struct message_checkpoint_create *message = request->message;
    struct wire_strings names = message->drives;
    struct timespec now;
    uint8_t uuid[16];

    int r = make_uuid(uuid, error);
    if (r < 0) {
        return r;
    }
    (void)clock_gettime(CLOCK_REALTIME, &now);
    for (uint32_t i = 0; i < message->drives.count; i++) {
        struct drive *drive = find_drive(request, wire_strings_next(&names), error);
        if (!drive) {
            return -ENOENT;
        }
        struct record record = {
            .type = RECORD_CHECKPOINT_CREATE,
            .drive = drive->id,
            .name = text_from_wire(message->name),
            .created_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec,
        };
        memcpy(record.uuid, uuid, sizeof record.uuid);
        r = model_commit(request->model, &record, error);
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

int handle_checkpoint_create(const struct request *request, struct error *error)
{
    const struct message_checkpoint_create *message = request->message;

    if (message->drives.count == 0) {
        return error_set(error, -EINVAL, "a checkpoint of no drive");
    }
    return request->part ? create_on_all(request, error)
                         : request_transact(request, &message->request, create_on_all, error);
}

int handle_checkpoint_delete(const struct request *request, struct error *error)
{
    const struct message_checkpoint_delete *message = request->message;
    struct drive *drive = find_drive(request, message->drive, error);

    if (!drive) {
        return -ENOENT;
    }
    struct drive_bitmap *bitmap =
        model_checkpoint_by_name(drive, text_from_wire(message->checkpoint), error);
    if (!bitmap) {
        return -ENOENT;
    }
    struct record record = {
        .type = RECORD_CHECKPOINT_DELETE, .drive = drive->id, .bitmap = bitmap->id};
    return request_commit(request, &message->request, &record, error);
}

/* ---- Maps ---- */

/*
 * A map that is being made.  Its names are kept, since checkpoints and drive may be gone when it
 * is there.  It belongs to its pending, and goes with it when the session ends.
 */
struct map_job {
    struct model_union whole; /* first */
    struct pending *pending;
    uint64_t offset;
    char drive[NAME_BYTES_MAX + 1], base[NAME_BYTES_MAX + 1], target[NAME_BYTES_MAX + 1];
    struct checkpoint base_checkpoint, target_checkpoint;
};

static void map_job_free(struct map_job *job)
{
    job->pending->map = NULL;
    job->pending->session->maps_count--;
    bitmap_free(job->whole.bits);
    free(job);
}

void map_job_cancel(struct map_job *job)
{
    model_union_cancel(&job->whole);
    map_job_free(job);
}

static int map_start(const struct request *request, struct map_job *job, struct error *error)
{
    struct model_union *whole = &job->whole;
    struct map_answer answer = {
        .head =
            {
                .bitmap = wire_string(job->drive),
                .size = whole->size,
                .granularity = whole->granularity,
                .recording = whole->recording,
                .validity = (uint8_t)whole->validity,
                .reason = wire_string(whole->reason),
                .sequence = whole->sequence,
                .untracked = wire_string(untracked_words(whole->untracked)),
                .base = wire_string(job->base),
                .base_sequence = job->base_checkpoint.sequence,
                .target = wire_string(job->target),
                .target_sequence = job->target_checkpoint.sequence,
            },
        .offset = job->offset,
    };
    /* Once more: the drive may have got another size while the union waited. */
    int r = check_map_offset(job->offset, whole->size, whole->granularity, error);

    if (r < 0) {
        return r;
    }
    memcpy(answer.head.base_uuid.bytes, job->base_checkpoint.uuid, 16);
    memcpy(answer.head.target_uuid.bytes, job->target_checkpoint.uuid, 16);
    answer.bits = STEAL(whole->bits);
    return stream_map_start(request, &answer, error);
}

static void union_done(struct model_union *whole, int r, const struct error *error)
{
    struct map_job *job = (struct map_job *)whole;
    struct pending *pending = job->pending;
    struct session *session = pending->session;
    struct request request = {.session = session,
                              .server = pending->server,
                              .model = pending->server->model,
                              .operation = pending->operation,
                              .cookie = pending->cookie};
    struct error why = {""};

    if (r == 0) {
        /* From here on it counts as a stream. */
        session->maps_count--;
        r = map_start(&request, job, &why);
        session->maps_count++;
        error = &why;
    }
    if (r < 0) {
        reply_errno(session, pending->operation, pending->cookie, r, error);
    }
    map_job_free(job);
    pending_free(pending);
}

/* For the pending, which has none yet; NULL: no memory. */
static struct map_job *map_job_new(struct pending *pending, const struct drive_bitmap *since,
                                   const struct drive_bitmap *until)
{
    struct map_job *job = calloc(1, sizeof *job);

    if (!job) {
        return NULL;
    }
    job->whole.done = union_done;
    job->pending = pending;
    job->base_checkpoint = *since->checkpoint;
    memcpy(job->drive, since->drive->name, sizeof job->drive);
    memcpy(job->base, since->name, sizeof job->base);
    if (until) {
        job->target_checkpoint = *until->checkpoint;
        memcpy(job->target, until->name, sizeof job->target);
    }
    pending->map = job;
    pending->session->maps_count++;
    return job;
}

int handle_checkpoint_map(const struct request *request, struct error *error)
{
    const struct message_checkpoint_map *message = request->message;
    struct drive *drive = find_drive(request, message->drive, error);
    struct drive_bitmap *since = NULL, *until = NULL;

    if (drive) {
        since = model_checkpoint_by_name(drive, text_from_wire(message->since), error);
    }
    if (since && message->until.length > 0) {
        until = model_checkpoint_by_name(drive, text_from_wire(message->until), error);
    }
    if (!since || (message->until.length > 0 && !until)) {
        return -ENOENT;
    }
    int r = stream_check_limit(request, error);
    if (r < 0) {
        return r;
    }
    struct pending *pending = pending_new(request);
    if (!pending) {
        return error_set(error, -ENOMEM, "out of memory for a map");
    }
    struct map_job *job = map_job_new(pending, since, until);
    if (!job) {
        pending_free(pending);
        return error_set(error, -ENOMEM, "out of memory for a map");
    }
    job->offset = message->offset;
    r = model_union(request->model, since, until, &job->whole, error);
    if (r == 0) {
        r = check_map_offset(message->offset, job->whole.size, job->whole.granularity, error);
    }
    if (r < 0) {
        map_job_cancel(job);
        pending_free(pending);
    }
    return r;
}
