/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Answers of many frames: lists and maps.
 *
 * A stream makes one step at a time while the session's output has room, and
 * a session's streams take turns; so a client that reads slowly costs one
 * bounded buffer, and marks go on meanwhile.  A map reads a snapshot, which
 * shares its bits with the bitmap until they change.  A list walks by rising
 * id: what exists from its start to its end is in it exactly once.
 */
#include "daemon/server/internal.h"

#include "proto/base/crc32c.h"

#include <string.h>

struct stream {
    uint16_t operation;
    uint64_t cookie;
    bool (*step)(struct session *session, struct stream *stream); /* true: that was the end */
    TAILQ_ENTRY(stream) entry;

    /* Lists */
    uint64_t after; /* id of the last item looked at */
    uint64_t drive; /* BITMAP_LIST, CHECKPOINT_LIST: of this drive only; 0: of all */
    uint64_t count;

    /* Maps */
    struct bitmap *bits; /* snapshot, owned */
    uint64_t bytes;      /* that it counts for */
    uint64_t position;
    uint64_t dirty_bytes;
    uint32_t crc32c;
};

static void stream_free(struct session *session, struct stream *stream)
{
    session->server->map_bytes -= stream->bytes;
    session->user->map_bytes -= stream->bytes;
    bitmap_free(stream->bits);
    free(stream);
}

/*
 * Charges what a map holds until it is sent, shared or not.  One alone may be of any size; no user
 * can have more than half of what there is for all.
 */
static int charge_map(const struct request *request, uint64_t bytes, struct error *error)
{
    struct server *server = request->server;
    struct user *user = request->session->user;
    uint64_t limit = server->settings.map_bytes_max;
    bool passed = server->map_bytes > 0 && (bytes > limit || server->map_bytes > limit - bytes);

    limit /= 2;
    passed |=
        !user->exempt && user->map_bytes > 0 && (bytes > limit || user->map_bytes > limit - bytes);
    if (passed && server->settings.map_bytes_max > 0) {
        return error_set(error, -EDQUOT,
                         "limits.map_memory: maps of %llu bytes are not read yet, %llu of them "
                         "this user's",
                         (unsigned long long)server->map_bytes,
                         (unsigned long long)user->map_bytes);
    }
    server->map_bytes += bytes;
    user->map_bytes += bytes;
    return 0;
}

int stream_check_limit(const struct request *request, struct error *error)
{
    uint32_t count = request->session->streams_count + request->session->maps_count;

    return count < request->server->settings.streams_max
               ? 0
               : error_set(error, -EDQUOT,
                           "limits.maps_per_connection: %u maps and lists are in flight already",
                           count);
}

static int stream_new(const struct request *request,
                      bool (*step)(struct session *session, struct stream *stream),
                      struct stream **ret, struct error *error)
{
    int r = stream_check_limit(request, error);
    if (r < 0) {
        return r;
    }
    struct stream *stream = calloc(1, sizeof *stream);
    if (!stream) {
        return error_set(error, -ENOMEM, "out of memory for an answer");
    }
    stream->operation = request->operation;
    stream->cookie = request->cookie;
    stream->step = step;
    *ret = stream;
    return 0;
}

static void stream_start(const struct request *request, struct stream *stream)
{
    struct session *session = request->session;
    TAILQ_INSERT_TAIL(&session->streams, stream, entry);
    session->streams_count++;
    session_request_begins(session);
    session_send_later(session);
}

void streams_pump(struct session *session)
{
    struct stream *stream;

    while (session->state == SESSION_OPEN && !session->out_of_memory &&
           session->out.bytes - session->out_head < SESSION_READ_BYTES &&
           (stream = TAILQ_FIRST(&session->streams))) {
        TAILQ_REMOVE(&session->streams, stream, entry);
        if (stream->step(session, stream)) {
            session->streams_count--;
            session_request_ends(session);
            stream_free(session, stream);
        } else {
            TAILQ_INSERT_TAIL(&session->streams, stream, entry);
        }
    }
}

void streams_free(struct session *session)
{
    struct stream *stream;
    while ((stream = TAILQ_FIRST(&session->streams))) {
        TAILQ_REMOVE(&session->streams, stream, entry);
        session->streams_count--;
        session_request_ends(session);
        stream_free(session, stream);
    }
}

static bool list_end(struct session *session, const struct stream *stream)
{
    struct message_list_end end = {.count = stream->count};
    reply(session, MESSAGE_LIST_END, &end, stream->operation, 0, stream->cookie);
    return true;
}

static bool drives_step(struct session *session, struct stream *stream)
{
    for (uint32_t i = 0; i < LIST_STEP_ITEMS; i++) {
        struct drive *drive = model_drive_after(session->server->model, stream->after);
        if (!drive) {
            return list_end(session, stream);
        }
        stream->after = drive->id;
        if (access_on_drive(session, drive) == 0) {
            continue;
        }
        stream->count++;
        struct drive_info_buffer info;
        fill_drive_info(drive, &info);
        reply(session, MESSAGE_DRIVE_INFO, &info.message, stream->operation, FRAME_MORE,
              stream->cookie);
    }
    return false;
}

int stream_drives(const struct request *request, struct error *error)
{
    struct stream *stream;
    int r = stream_new(request, drives_step, &stream, error);
    if (r == 0) {
        stream_start(request, stream);
    }
    return r;
}

/* Bitmaps of the user's, or checkpoints. */
static bool bitmaps_step(struct session *session, struct stream *stream)
{
    bool checkpoints = stream->operation == OPERATION_CHECKPOINT_LIST;

    for (uint32_t i = 0; i < LIST_STEP_ITEMS; i++) {
        struct drive_bitmap *bitmap = model_bitmap_after(session->server->model, stream->after);
        if (!bitmap) {
            return list_end(session, stream);
        }
        stream->after = bitmap->id;
        if ((stream->drive != 0 && bitmap->drive->id != stream->drive) ||
            checkpoints != (bitmap->checkpoint != NULL) ||
            !(access_on_drive(session, bitmap->drive) & ACCESS_READ)) {
            continue;
        }
        stream->count++;
        if (checkpoints) {
            struct message_checkpoint_info checkpoint;
            fill_checkpoint_info(bitmap, &checkpoint);
            reply(session, MESSAGE_CHECKPOINT_INFO, &checkpoint, stream->operation, FRAME_MORE,
                  stream->cookie);
            continue;
        }
        struct bitmap_info_buffer info;
        fill_bitmap_info(bitmap, &info);
        reply(session, MESSAGE_BITMAP_INFO, &info.message, stream->operation, FRAME_MORE,
              stream->cookie);
    }
    return false;
}

int stream_checkpoints(const struct request *request, struct error *error)
{
    return stream_bitmaps(request, error);
}

int stream_bitmaps(const struct request *request, struct error *error)
{
    const struct message_drive_name *message = request->message;
    uint64_t drive_id = 0;

    if (message->name.length > 0) {
        struct drive *drive =
            model_drive_by_name(request->model, text_from_wire(message->name), error);
        if (!drive) {
            return -ENOENT;
        }
        drive_id = drive->id;
    }
    struct stream *stream;
    int r = stream_new(request, bitmaps_step, &stream, error);
    if (r == 0) {
        stream->drive = drive_id;
        stream_start(request, stream);
    }
    return r;
}

static bool map_step(struct session *session, struct stream *stream)
{
    uint8_t page[MAP_PAGE_RUNS * WIRE_RANGE_BYTES];
    struct bitmap_extent runs[MAP_PART_RUNS];
    uint32_t count = 0, found = MAP_PART_RUNS;

    for (; count < MAP_PAGE_RUNS && found == MAP_PART_RUNS; count += found) {
        found = bitmap_dirty_runs(stream->bits, stream->position, runs, MAP_PART_RUNS);
        for (uint32_t i = 0; i < found; i++) {
            wire_range_store(page + (count + i) * WIRE_RANGE_BYTES,
                             (struct wire_range){runs[i].offset, runs[i].length});
            stream->dirty_bytes += runs[i].length;
        }
        if (found > 0) {
            stream->position = runs[found - 1].offset + runs[found - 1].length;
        }
    }
    bool end = found < MAP_PART_RUNS;
    if (count > 0) {
        stream->count += count;
        stream->crc32c = crc32c(stream->crc32c, page, count * WIRE_RANGE_BYTES);
        struct message_map_page message = {.dirty = {.data = page, .count = count}};
        reply(session, MESSAGE_MAP_PAGE, &message, stream->operation, FRAME_MORE, stream->cookie);
    }
    if (end) {
        struct message_map_end message = {
            .runs = stream->count,
            .dirty_bytes = stream->dirty_bytes,
            .crc32c = stream->crc32c,
        };
        reply(session, MESSAGE_MAP_END, &message, stream->operation, 0, stream->cookie);
    }
    return end;
}

int check_map_offset(uint64_t offset, uint64_t size, uint32_t granularity, struct error *error)
{
    if (offset <= size && (offset % granularity == 0 || offset == size)) {
        return 0;
    }
    return error_set(error, -EINVAL,
                     "a map cannot begin at byte %llu: not on a granule of %u bytes, or past the "
                     "end at %llu",
                     (unsigned long long)offset, granularity, (unsigned long long)size);
}

int stream_map_start(const struct request *request, struct map_answer *answer, struct error *error)
{
    CLEANUP(bitmap_freep) struct bitmap *bits = STEAL(answer->bits);
    struct stream *stream;

    int r = stream_new(request, map_step, &stream, error);
    if (r < 0) {
        return r;
    }
    uint64_t bytes = bitmap_memory_bytes(bits);
    r = charge_map(request, bytes, error);
    if (r < 0) {
        stream_free(request->session, stream);
        return r;
    }
    stream->bytes = bytes;
    stream->bits = STEAL(bits);
    stream->position = answer->offset;
    reply(request->session, MESSAGE_MAP_HEAD, &answer->head, request->operation, FRAME_MORE,
          request->cookie);
    stream_start(request, stream);
    return 0;
}

int stream_map(const struct request *request, struct error *error)
{
    const struct message_map *message = request->message;
    struct drive_bitmap *bitmap =
        model_bitmap_by_name(request->model, text_from_wire(message->bitmap), error);
    if (!bitmap) {
        return -ENOENT;
    }
    int r = check_map_offset(message->offset, bitmap->drive->size, bitmap->granularity, error);
    if (r < 0) {
        return r;
    }
    struct bitmap_info_buffer info;
    fill_bitmap_info(bitmap, &info);
    struct map_answer answer = {
        .head =
            {
                .bitmap = info.message.bitmap,
                .size = bitmap->drive->size,
                .granularity = bitmap->granularity,
                .recording = info.message.recording,
                .validity = info.message.validity,
                .reason = info.message.reason,
                .sequence = model_sequence(request->model),
                .untracked = info.message.untracked,
            },
        .offset = message->offset,
    };
    if (drive_bitmap_map(bitmap, &answer.bits) < 0) {
        return error_set(error, -ENOMEM, "out of memory for a snapshot");
    }
    return stream_map_start(request, &answer, error);
}
