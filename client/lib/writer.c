/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writers: attach, mark, settle, resume, detach.
 *
 * A mark is put into the writer's log first and sent out of it; it leaves the
 * log when it is settled, or when it failed (then nothing will be written
 * under it).  Ids come from one counter of the handle, so they rise on every
 * connection and for every drive whatever was attached in between.
 *
 * Settles are collected and go ahead of the next requests, joined to ranges
 * of ids.  They count as done for the limit of unsettled marks at once:
 * the daemon sees them before it sees the marks that take their room.
 */
#include "client/lib/internal.h"

#include "proto/base/checked.h"
#include "proto/base/cleanup.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Of a MARK's or SETTLE's frame, without its ranges: header, ids, count. */
#define MARK_FRAME_BYTES   (FRAME_HEADER_BYTES + 20u)
#define SETTLE_FRAME_BYTES (FRAME_HEADER_BYTES + 12u)

/* ---- The writer ---- */

static void writer_free_memory(struct writer *writer)
{
    if (writer) {
        free(writer->drive_name);
        free(writer->token);
        mark_log_deinit(&writer->log);
        id_ranges_deinit(&writer->settles);
        free(writer);
    }
}

DEFINE_CLEANUP(struct writer *, writer_free_memory)

static struct writer *writer_new(void)
{
    struct writer *writer = calloc(1, sizeof *writer);
    if (writer) {
        TAILQ_INIT(&writer->waiting);
        writer->backoff_ms = BACKOFF_MS_MIN;
    }
    return writer;
}

static void writer_insert(struct bitmapd *handle, struct writer *writer, uint64_t drive_id)
{
    writer->drive_id = drive_id;
    writer->state = handle->state == CONNECTION_READY ? WRITER_READY : WRITER_DOWN;
    TAILQ_INSERT_HEAD(&handle->writers, writer, entry);
}

void writer_free(struct bitmapd *handle, struct writer *writer)
{
    struct request *request;

    assert(TAILQ_EMPTY(&writer->waiting));
    /* Answers may still come, in any order: they mean nothing to anybody any more. */
    TAILQ_FOREACH (request, &handle->in_flight, entry) {
        if (request->writer == writer) {
            request->writer = NULL;
            if (request->internal) {
                handle->settles_in_flight -= request->operation == OPERATION_SETTLE;
                request->reply = NULL;
                request->finished = NULL;
            }
        }
    }
    handle->unsettled -= writer->log.live;
    TAILQ_REMOVE(&handle->writers, writer, entry);
    writer_free_memory(writer);
}

struct writer *writer_find(const struct bitmapd *handle, uint64_t drive_id)
{
    struct writer *writer;
    TAILQ_FOREACH (writer, &handle->writers, entry) {
        if (writer->drive_id == drive_id) {
            return writer;
        }
    }
    return NULL;
}

int bitmapd_writer_ready(const bitmapd *handle, uint64_t drive_id)
{
    const struct writer *writer = writer_find(handle, drive_id);
    if (!writer) {
        return -ENOENT;
    }
    return writer->state == WRITER_LOST ? writer->lost_result : writer->state == WRITER_READY;
}

int bitmapd_writer_unmarked(bitmapd *handle, uint64_t drive_id, bool unmarked)
{
    struct writer *writer = writer_find(handle, drive_id);

    client_clear_error(handle);
    if (!writer || !(writer->flags & BITMAPD_ATTACH_CONTINUES)) {
        return client_fail(handle, -ENOENT, "not attached to drive %llu as one that continues",
                           (unsigned long long)drive_id);
    }
    writer->unmarked = unmarked;
    writer->was_unmarked |= unmarked;
    return 0;
}

/* ---- Marks ---- */

int writer_encode_marks(struct bitmapd *handle, struct writer *writer, uint64_t first_id,
                        uint32_t count, uint64_t cookie)
{
    struct message_mark message = {
        .drive = writer->drive_id,
        .first_id = first_id,
        .ranges = mark_log_ranges(&writer->log, first_id, count),
    };
    if (count > (handle->frame_bytes_max - MARK_FRAME_BYTES) / WIRE_RANGE_BYTES) {
        return -EMSGSIZE; /* the daemon's limit has shrunk since the marks were taken */
    }
    return message_encode(&handle->send, MESSAGE_MARK, &message, OPERATION_MARK, 0, 0, cookie);
}

void writer_mark_finished(struct bitmapd *handle, struct writer *writer, struct request *request,
                          int result)
{
    if (result == 0) {
        mark_log_ack(&writer->log, request->first_id, request->count);
        return;
    }
    handle->unsettled -= mark_log_remove(&writer->log, request->first_id, request->count);
    if (result == -EOWNERDEAD) {
        writer_lose(handle, writer, result, "the writer was fenced");
    } else if (result == -EINPROGRESS) {
        /* In force all the same.  Nothing will be written under it; should memory be out, it
         * stays unsettled for the daemon, which is the safe side. */
        (void)id_ranges_add(&writer->settles, request->first_id, request->count);
    }
}

static int check_ranges(struct bitmapd *handle, const struct bitmapd_range *ranges, size_t count)
{
    uint64_t end;

    if (count == 0 || count > BITMAPD_RANGES_MAX ||
        count > (handle->frame_bytes_max - MARK_FRAME_BYTES) / WIRE_RANGE_BYTES) {
        return client_fail(
            handle, -EINVAL, "mark: %zu ranges are not between 1 and %u", count,
            (unsigned)min_u64(BITMAPD_RANGES_MAX,
                              (handle->frame_bytes_max - MARK_FRAME_BYTES) / WIRE_RANGE_BYTES));
    }
    for (size_t i = 0; i < count; i++) {
        if (ranges[i].length == 0 || !checked_add_u64(ranges[i].offset, ranges[i].length, &end)) {
            return client_fail(
                handle, -EINVAL, "mark: range %zu (offset %llu, length %llu) is empty or too long",
                i, (unsigned long long)ranges[i].offset, (unsigned long long)ranges[i].length);
        }
    }
    return 0;
}

/* Marks that stay unsettled: into the log. */
static int log_marks(struct bitmapd *handle, uint64_t drive_id, const struct bitmapd_range *ranges,
                     size_t count, struct writer **ret)
{
    struct writer *writer = writer_find(handle, drive_id);

    if (writer && writer->state == WRITER_LOST) {
        return client_fail(handle, writer->lost_result, "mark: the writer was fenced or refused");
    }
    if (count > handle->unsettled_max || handle->unsettled > handle->unsettled_max - count) {
        return client_fail(handle, -EDQUOT, "mark: %zu marks are unsettled, %zu more pass %u",
                           handle->unsettled, count, handle->unsettled_max);
    }
    CLEANUP(writer_free_memoryp) struct writer *fresh = writer ? NULL : writer_new();
    if ((!writer && !fresh) || mark_log_reserve(writer ? &writer->log : &fresh->log, count) < 0) {
        return client_fail(handle, -ENOMEM, "mark: out of memory");
    }
    if (!writer) {
        writer = STEAL(fresh);
        writer_insert(handle, writer, drive_id);
    }
    for (size_t i = 0; i < count; i++) {
        mark_log_append(&writer->log, handle->next_mark_id + i,
                        (struct wire_range){ranges[i].offset, ranges[i].length});
    }
    handle->unsettled += count;
    handle->next_mark_id += count;
    *ret = writer;
    return 0;
}

/* Marks that are settled at once: into a frame of their own. */
static int encode_settled_marks(struct bitmapd *handle, uint64_t drive_id,
                                const struct bitmapd_range *ranges, size_t count,
                                struct wire_buffer *frame)
{
    struct wire_buffer *scratch = &handle->scratch;

    scratch->bytes = 0;
    int r = wire_buffer_reserve(scratch, count * WIRE_RANGE_BYTES);
    if (r < 0) {
        return r;
    }
    for (size_t i = 0; i < count; i++) {
        wire_range_store(scratch->data + i * WIRE_RANGE_BYTES,
                         (struct wire_range){ranges[i].offset, ranges[i].length});
    }
    struct message_mark message = {
        .drive = drive_id,
        .ranges = {.data = scratch->data, .count = (uint32_t)count},
    };
    return message_encode(frame, MESSAGE_MARK, &message, OPERATION_MARK, 0, 0, 0);
}

int bitmapd_aio_mark(bitmapd *handle, uint64_t drive_id, const struct bitmapd_range *ranges,
                     size_t count, uint64_t *ret_first_id, bitmapd_completion *completion,
                     void *opaque)
{
    client_clear_error(handle);
    int r = client_check_usable(handle);
    if (r == 0) {
        r = check_ranges(handle, ranges, count);
    }
    if (r < 0) {
        return r;
    }
    struct request *request =
        request_new(handle, ret_first_id ? REQUEST_MARK : REQUEST_RESEND, OPERATION_MARK);
    if (!request) {
        return client_fail(handle, -ENOMEM, "mark: out of memory");
    }
    if (ret_first_id) {
        uint64_t first_id = handle->next_mark_id;
        r = log_marks(handle, drive_id, ranges, count, &request->writer);
        if (r < 0) {
            request_free(handle, request);
            return r;
        }
        request->first_id = first_id;
        request->count = (uint32_t)count;
        *ret_first_id = first_id;
    } else {
        r = encode_settled_marks(handle, drive_id, ranges, count, &request->frame);
        if (r < 0) {
            request_free(handle, request);
            return client_fail(handle, r, "mark: out of memory");
        }
    }
    request->completion = completion;
    request->opaque = opaque;
    request_queue(handle, request);
    return 0;
}

int bitmapd_mark(bitmapd *handle, uint64_t drive_id, const struct bitmapd_range *ranges,
                 size_t count, uint64_t *ret_first_id)
{
    struct call call = {.handle = handle};
    uint64_t first_id;

    client_clear_error(handle);
    if (handle->dispatching) {
        return client_fail(handle, -EDEADLK, "not from within a completion");
    }
    int r = bitmapd_aio_mark(handle, drive_id, ranges, count, ret_first_id ? &first_id : NULL,
                             call_completed, &call);
    if (r == 0) {
        r = call_wait(&call);
    }
    if (r == 0 && ret_first_id) {
        *ret_first_id = first_id;
    }
    return r;
}

/* ---- Settles ---- */

int bitmapd_settle(bitmapd *handle, uint64_t drive_id, uint64_t first_id, uint64_t count)
{
    struct writer *writer = writer_find(handle, drive_id);
    uint64_t end;

    client_clear_error(handle);
    if (!writer) {
        return client_fail(handle, -EINVAL, "settle: drive %llu has no marks here",
                           (unsigned long long)drive_id);
    }
    if (writer->state == WRITER_LOST) {
        return client_fail(handle, writer->lost_result, "settle: the writer was fenced or refused");
    }
    if (first_id == 0 || count == 0 || !checked_add_u64(first_id, count, &end) ||
        end > handle->next_mark_id) {
        return client_fail(handle, -EINVAL, "settle: ids %llu and %llu on were not given out",
                           (unsigned long long)first_id, (unsigned long long)count);
    }
    if (mark_log_unanswered(&writer->log, first_id, count)) {
        return client_fail(handle, -EINVAL, "settle: a mark among them is not complete yet");
    }
    /* Without a connection it is enough not to mark them again. */
    if (writer->state != WRITER_DOWN && id_ranges_add(&writer->settles, first_id, count) < 0) {
        return client_fail(handle, -ENOMEM, "settle: out of memory");
    }
    handle->unsettled -= mark_log_remove(&writer->log, first_id, count);
    return 0;
}

static void settle_finished(struct bitmapd *handle, struct request *request, int result,
                            const char *words)
{
    struct writer *writer = request->writer;

    handle->settles_in_flight--;
    if (result == -EOWNERDEAD) {
        writer_lose(handle, writer, result, words);
    } else if (result < 0 && result != -ECONNABORTED && result != -EINPROGRESS &&
               result != -ESHUTDOWN && handle->settle_result == 0) {
        handle->settle_result = result;
        client_copy_words(handle->settle_words, sizeof handle->settle_words,
                          wire_string(words ? words : "refused"));
    }
}

bool writer_issue_settles(struct bitmapd *handle, struct writer *writer)
{
    struct id_ranges *settles = &writer->settles;
    size_t max = (handle->frame_bytes_max - SETTLE_FRAME_BYTES) / WIRE_RANGE_BYTES;

    id_ranges_merge(settles);
    while (settles->count > 0) {
        if (!queue_has_room(handle)) {
            return false;
        }
        size_t count = min_u64(settles->count, max);
        struct wire_buffer *scratch = &handle->scratch;
        struct request *request = request_new(handle, REQUEST_DROP, OPERATION_SETTLE);
        scratch->bytes = 0;
        if (!request || wire_buffer_reserve(scratch, count * WIRE_RANGE_BYTES) < 0) {
            request_free(handle, request);
            return false; /* they stay unsettled until there is memory again */
        }
        for (size_t i = 0; i < count; i++) {
            wire_range_store(
                scratch->data + i * WIRE_RANGE_BYTES,
                (struct wire_range){settles->ranges[i].first_id, settles->ranges[i].count});
        }
        struct message_settle message = {
            .drive = writer->drive_id,
            .ids = {.data = scratch->data, .count = (uint32_t)count},
        };
        if (message_encode(&request->frame, MESSAGE_SETTLE, &message, OPERATION_SETTLE, 0, 0, 0) <
            0) {
            request_free(handle, request);
            return false;
        }
        id_ranges_drop(settles, count);
        request->internal = true;
        request->writer = writer;
        request->finished = settle_finished;
        handle->settles_in_flight++;
        request_issue(handle, request);
    }
    return true;
}

size_t bitmapd_unsettled(const bitmapd *handle, uint64_t drive_id)
{
    const struct writer *writer = writer_find(handle, drive_id);
    return writer ? writer->log.live : 0;
}

size_t bitmapd_unsettled_max(const bitmapd *handle)
{
    return handle->unsettled_max;
}

/* ---- Attach, resume, detach ---- */

/* What is left of an attached writer is one that is not. */
static void writer_unattach(struct writer *writer)
{
    free(writer->drive_name);
    free(writer->token);
    writer->drive_name = NULL;
    writer->token = NULL;
    writer->flags = 0;
    writer->caller_resumes = false;
    writer->resuming = false;
    writer->unmarked = false;
    writer->was_unmarked = false;
}

struct attach_call {
    struct writer *writer; /* ours until the daemon has answered */
    struct message_attach_reply reply;
};

/* From here on the way back after a lost connection includes this writer. */
static int attach_reply(struct bitmapd *handle, struct request *request, const struct frame *frame,
                        struct error *error)
{
    struct attach_call *call = request->context;
    int r = message_decode(MESSAGE_ATTACH_REPLY, frame->payload, frame->payload_bytes, true,
                           &call->reply, error);
    if (r < 0) {
        return r;
    }
    struct writer *fresh = STEAL(call->writer);
    struct writer *writer = writer_find(handle, call->reply.drive);
    if (writer) {
        /* One that was lost begins anew; marks without an attachment get one. */
        free(writer->drive_name);
        free(writer->token);
        writer->drive_name = STEAL(fresh->drive_name);
        writer->token = STEAL(fresh->token);
        writer->flags = fresh->flags;
        writer->unmarked = false;
        writer->was_unmarked = false;
        if (writer->state == WRITER_LOST) {
            writer->state = WRITER_READY;
        }
        writer_free_memory(fresh);
    } else {
        writer = fresh;
        writer_insert(handle, writer, call->reply.drive);
    }
    writer->caller_resumes = call->reply.resuming;
    return 0;
}

int bitmapd_attach(bitmapd *handle, const char *drive, const char *writer, unsigned flags,
                   uint64_t *ret_drive_id, uint64_t *ret_size, bool *ret_resuming)
{
    client_clear_error(handle);
    if (flags & ~(unsigned)BITMAPD_ATTACH_CONTINUES) {
        return client_fail(handle, -EINVAL, "attach: flags 0x%x are not all known", flags);
    }
    int r = client_check_text(handle, "drive name", drive, NAME_BYTES_MAX);
    if (r == 0) {
        r = client_check_text(handle, "writer token", writer, NAME_BYTES_MAX);
    }
    if (r < 0) {
        return r;
    }
    CLEANUP(writer_free_memoryp) struct writer *fresh = writer_new();
    if (fresh) {
        fresh->flags = flags;
        fresh->drive_name = strdup(drive);
        fresh->token = strdup(writer);
    }
    if (!fresh || !fresh->drive_name || !fresh->token) {
        return client_fail(handle, -ENOMEM, "attach: out of memory");
    }
    struct message_attach message = {
        .drive = wire_string(drive),
        .writer = wire_string(writer),
        .flags = (uint8_t)flags,
    };
    struct attach_call call = {.writer = STEAL(fresh)};
    r = client_call(handle, REQUEST_RESEND, OPERATION_ATTACH, MESSAGE_ATTACH, &message, false,
                    attach_reply, &call);
    fresh = call.writer; /* still ours when it failed */
    if (r < 0) {
        return r;
    }
    if (ret_drive_id) {
        *ret_drive_id = call.reply.drive;
    }
    if (ret_size) {
        *ret_size = call.reply.size;
    }
    if (ret_resuming) {
        *ret_resuming = call.reply.resuming;
    }
    return 0;
}

/* Finds an attached writer, and waits until it is not on its way back. */
static int attached_writer(struct bitmapd *handle, const char *what, uint64_t drive_id,
                           struct writer **ret)
{
    struct writer *writer = writer_find(handle, drive_id);

    if (handle->dispatching) {
        return client_fail(handle, -EDEADLK, "not from within a completion");
    }
    if (!writer || !writer->token) {
        return client_fail(handle, -ENOENT, "%s: not attached to drive %llu", what,
                           (unsigned long long)drive_id);
    }
    client_dispatch(handle, 0);
    while (handle->state != CONNECTION_NONE && writer->state != WRITER_READY &&
           writer->state != WRITER_LOST) {
        client_turn(handle);
    }
    *ret = writer;
    return 0;
}

static int lost_writer(struct bitmapd *handle, const char *what, const struct writer *writer)
{
    return client_fail(handle, writer->lost_result, "%s: the writer was fenced or refused", what);
}

int bitmapd_resume(bitmapd *handle, uint64_t drive_id)
{
    struct writer *writer;

    client_clear_error(handle);
    int r = attached_writer(handle, "resume", drive_id, &writer);
    if (r < 0) {
        return r;
    }
    if (writer->state == WRITER_LOST) {
        return lost_writer(handle, "resume", writer);
    }
    r = client_call_writer(handle, writer, OPERATION_RESUME);
    if (r == 0) {
        writer->caller_resumes = false;
    }
    return r;
}

int bitmapd_detach(bitmapd *handle, uint64_t drive_id)
{
    struct writer *writer;

    client_clear_error(handle);
    int r = attached_writer(handle, "detach", drive_id, &writer);
    if (r < 0) {
        return r;
    }
    if (writer->state == WRITER_LOST) {
        r = lost_writer(handle, "detach", writer);
    } else if (writer->log.live > 0) {
        return client_fail(handle, -EBUSY, "detach: %zu marks are not settled", writer->log.live);
    } else {
        r = client_call_writer(handle, writer, OPERATION_DETACH);
    }
    if (r < 0 && r != -EINPROGRESS && writer->state != WRITER_LOST) {
        return r;
    }
    if (writer->log.live > 0) {
        /* A completion has marked meanwhile: behind the detach, so without an attachment. */
        writer_unattach(writer);
    } else {
        writer_free(handle, writer);
    }
    return r;
}
