/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A writer's way back after a reconnect: ATTACH with its token, MARK again
 * whatever was not settled, RESUME.  internal.h has the states drawn.
 *
 * The log of marks is the truth.  Everything that is unsettled, answered or
 * not, is marked again in the order of ids; requests that were waiting for
 * an answer are complete when that is done, because their marks were among
 * it.  So nothing depends on how far the old connection had come.
 *
 * What the daemon refuses for good (the token was fenced, the drive is gone)
 * loses the writer, and its marks fail; there is no fighting for a token.
 * What may pass (storage trouble, a daemon on its way out) ends this
 * connection, and the next attempt begins anew until the time is over.
 */
#include "client/lib/internal.h"

#include "proto/base/checked.h"

#include <errno.h>
#include <stdlib.h>

static bool is_passing(int result)
{
    return result == -EINPROGRESS || result == -EIO || result == -ENOMEM || result == -ESHUTDOWN;
}

static void fail_requests(struct bitmapd *handle, struct request_queue *queue,
                          struct writer *writer, const char *words)
{
    struct request *request, *next;
    for (request = TAILQ_FIRST(queue); request; request = next) {
        next = TAILQ_NEXT(request, entry);
        if (request->writer == writer) {
            TAILQ_REMOVE(queue, request, entry);
            request_finish(handle, request, writer->lost_result, STATUS_OK, words);
        }
    }
}

void writer_lose(struct bitmapd *handle, struct writer *writer, int result, const char *words)
{
    if (writer->state == WRITER_LOST) {
        return;
    }
    writer->state = WRITER_LOST;
    writer->lost_result = result;
    fail_requests(handle, &writer->waiting, writer, words);
    fail_requests(handle, &handle->to_issue, writer, words);
    fail_requests(handle, &handle->parked, writer, words);
    handle->unsettled -= writer->log.live;
    mark_log_deinit(&writer->log);
    id_ranges_deinit(&writer->settles);
    connection_check_recovered(handle);
}

/* A step of the way back has failed. */
static void step_failed(struct bitmapd *handle, struct writer *writer, int result,
                        const char *words)
{
    if (result == -ECONNABORTED) {
        return; /* the connection is gone, and with it this attempt */
    }
    if (!words) {
        words = "refused";
    }
    if (is_passing(result)) {
        connection_lost(handle, result, "taking up writer %s of drive %s again: %s",
                        writer->token ? writer->token : "(anonymous)",
                        writer->drive_name ? writer->drive_name : "(by id)", words);
    } else {
        writer_lose(handle, writer, result, words);
    }
}

/* ---- The steps, last to first ---- */

static void writer_ready(struct bitmapd *handle, struct writer *writer)
{
    struct request *request;

    writer->state = WRITER_READY;
    writer->backoff_ms = BACKOFF_MS_MIN;
    while ((request = TAILQ_FIRST(&writer->waiting))) {
        TAILQ_REMOVE(&writer->waiting, request, entry);
        if (request->policy == REQUEST_MARK && request->first_id < writer->again_id) {
            request_finish(handle, request, 0, STATUS_OK, NULL);
        } else {
            TAILQ_INSERT_TAIL(&handle->to_issue, request, entry);
        }
    }
    connection_check_recovered(handle);
}

/* Issues one of the library's own requests. */
static void issue_own(struct bitmapd *handle, struct writer *writer, uint16_t operation,
                      enum message_type type, const void *message, request_reply *reply,
                      request_finished *finished)
{
    struct request *request = request_new(handle, REQUEST_DROP, operation);
    int r = request ? message_encode(&request->frame, type, message, operation, 0, 0, 0) : -ENOMEM;

    if (r < 0) {
        request_free(handle, request);
        step_failed(handle, writer, -ENOMEM, "out of memory");
        return;
    }
    request->internal = true;
    request->writer = writer;
    request->reply = reply;
    request->finished = finished;
    request_issue(handle, request);
}

static void resume_finished(struct bitmapd *handle, struct request *request, int result,
                            const char *words)
{
    if (result < 0) {
        step_failed(handle, request->writer, result, words);
    } else {
        writer_ready(handle, request->writer);
    }
}

static void marking_finished(struct bitmapd *handle, struct writer *writer)
{
    if (writer->resuming && !writer->caller_resumes) {
        struct message_drive_id message = {.drive = writer->drive_id};
        writer->state = WRITER_RESUMING;
        issue_own(handle, writer, OPERATION_RESUME, MESSAGE_DRIVE_ID, &message, NULL,
                  resume_finished);
    } else {
        writer_ready(handle, writer);
    }
}

static void mark_again_finished(struct bitmapd *handle, struct request *request, int result,
                                const char *words)
{
    struct writer *writer = request->writer;

    if (result < 0) {
        step_failed(handle, writer, result, words);
    } else if (writer->state == WRITER_MARKING) {
        mark_log_ack(&writer->log, request->first_id, request->count);
        writer->again_inflight--;
    }
}

static void mark_again(struct bitmapd *handle, struct writer *writer)
{
    uint32_t max = (handle->frame_bytes_max - FRAME_HEADER_BYTES - 20) / WIRE_RANGE_BYTES;
    uint32_t count = 0;
    uint64_t first_id;

    /* Marked again here and settled since: the marks behind them need the room. */
    if (!writer_issue_settles(handle, writer)) {
        return;
    }
    while (queue_has_room(handle) && writer->state == WRITER_MARKING &&
           (count = mark_log_run(&writer->log, writer->again_id, max, &first_id)) > 0) {
        struct message_mark message = {
            .drive = writer->drive_id,
            .first_id = first_id,
            .ranges = mark_log_ranges(&writer->log, first_id, count),
        };
        struct request *request = request_new(handle, REQUEST_DROP, OPERATION_MARK);
        int r = request ? message_encode(&request->frame, MESSAGE_MARK, &message, OPERATION_MARK, 0,
                                         0, 0)
                        : -ENOMEM;
        if (r < 0) {
            request_free(handle, request);
            step_failed(handle, writer, -ENOMEM, "out of memory");
            return;
        }
        request->internal = true;
        request->writer = writer;
        request->first_id = first_id;
        request->count = count;
        request->finished = mark_again_finished;
        writer->again_id = first_id + count;
        writer->again_inflight++;
        request_issue(handle, request);
    }
    if (writer->state == WRITER_MARKING && writer->again_inflight == 0 && queue_has_room(handle)) {
        marking_finished(handle, writer);
    }
}

static int attach_reply(struct bitmapd *handle, struct request *request, const struct frame *frame,
                        struct error *error)
{
    struct message_attach_reply reply;
    struct writer *writer = request->writer;

    (void)handle;
    int r = message_decode(MESSAGE_ATTACH_REPLY, frame->payload, frame->payload_bytes, true, &reply,
                           error);
    if (r < 0) {
        return r;
    }
    if (reply.drive != writer->drive_id) {
        /* Told to attach_finished(), where the writer can be lost. */
        request->first_id = reply.drive;
        request->count = 1;
    }
    writer->resuming = reply.resuming;
    writer->was_unmarked = writer->unmarked;
    return 0;
}

static void attach_finished(struct bitmapd *handle, struct request *request, int result,
                            const char *words)
{
    struct writer *writer = request->writer;

    if (result == -EBUSY && handle->deadline_ns != 0) {
        writer->state = WRITER_BUSY;
        writer->retry_ns = client_now_ns() + writer->backoff_ms * UINT64_C(1000000);
        writer->backoff_ms = (unsigned)min_u64(writer->backoff_ms * 2u, BACKOFF_MS_MAX);
    } else if (result == -EBUSY) {
        writer_lose(handle, writer, -EOWNERDEAD, words);
    } else if (result < 0) {
        step_failed(handle, writer, result, words);
    } else if (request->count) {
        writer_lose(handle, writer, -ENOENT, "the drive is gone, and another one has its name");
    } else {
        writer->state = WRITER_MARKING;
    }
}

static void attach_again(struct bitmapd *handle, struct writer *writer)
{
    if (!writer->token) {
        writer->state = WRITER_MARKING;
        return;
    }
    struct message_attach message = {
        .drive = wire_string(writer->drive_name),
        .writer = wire_string(writer->token),
        .flags = (uint8_t)(writer->flags | (writer->was_unmarked ? 0 : ATTACH_RETURNING)),
    };
    writer->state = WRITER_ATTACHING;
    issue_own(handle, writer, OPERATION_ATTACH, MESSAGE_ATTACH, &message, attach_reply,
              attach_finished);
}

void recover_issue(struct bitmapd *handle)
{
    struct writer *writer;

    if (handle->recovered_ns) {
        return;
    }
    TAILQ_FOREACH (writer, &handle->writers, entry) {
        if (!queue_has_room(handle)) {
            return;
        }
        if (writer->state == WRITER_DOWN ||
            (writer->state == WRITER_BUSY && client_now_ns() >= writer->retry_ns)) {
            attach_again(handle, writer);
        }
        if (writer->state == WRITER_MARKING) {
            mark_again(handle, writer);
        }
    }
}

void recover_connection_lost(struct bitmapd *handle)
{
    struct writer *writer;

    TAILQ_FOREACH (writer, &handle->writers, entry) {
        if (writer->state == WRITER_LOST) {
            fail_requests(handle, &writer->waiting, writer, "the writer was fenced or refused");
            continue;
        }
        writer->state = WRITER_DOWN;
        writer->resuming = false;
        writer->again_id = 0;
        writer->again_inflight = 0;
        /* They are not marked again, and that says the same. */
        writer->settles.count = 0;
    }
}
