/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The life of a request: to issue, in flight, done.
 *
 *     request_queue() ─▶ to_issue ─▶ in_flight ─▶ done ─▶ completion, recycled
 *             │             ▲   ▲        │  lost    ▲
 *             ▼             │   └────────┘          │ any failure
 *      writer->waiting ─────┘ READY
 *
 * A request is on exactly one of these queues, and only a request in flight
 * has a slot.  What a daemon on its way out refuses is parked until it has
 * closed the connection, when a new one may be looked for: it was not done, so
 * it may be sent again whatever it is.  Replies find theirs by the cookie: its low bits are the
 * slot, its high bits rise with every issue, so that a late, repeated or invented cookie is told
 * from a live one without a search.
 *
 * Completions are called from the done queue only, when nothing is being
 * parsed or sent: they may queue new requests.  Replies that stream (lists,
 * maps) are handed over at once, so nothing of them is ever collected.
 */
#include "client/lib/internal.h"

#include "proto/base/cleanup.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define SLOT_BITS 16
static_assert(SLOTS_MAX <= 1u << SLOT_BITS, "a slot's number fits its part of the cookie");

/* ---- Slots ---- */

int queue_slots_init(struct bitmapd *handle, uint32_t count)
{
    assert(handle->free_slots_count == handle->slots_count);

    if (count > SLOTS_MAX) {
        count = SLOTS_MAX;
    }
    if (count != handle->slots_count) {
        CLEANUP_FREE struct request **slots = calloc(count, sizeof *slots);
        CLEANUP_FREE uint32_t *free_slots = calloc(count, sizeof *free_slots);
        if (!slots || !free_slots) {
            return -ENOMEM;
        }
        queue_slots_deinit(handle);
        handle->slots = STEAL(slots);
        handle->free_slots = STEAL(free_slots);
        handle->slots_count = count;
        handle->free_slots_count = count;
    }
    for (uint32_t i = 0; i < count; i++) {
        handle->free_slots[i] = count - 1 - i;
    }
    return 0;
}

void queue_slots_deinit(struct bitmapd *handle)
{
    free(handle->slots);
    free(handle->free_slots);
    handle->slots = NULL;
    handle->free_slots = NULL;
    handle->slots_count = 0;
    handle->free_slots_count = 0;
}

static void slot_take(struct bitmapd *handle, struct request *request)
{
    uint32_t slot = handle->free_slots[--handle->free_slots_count];
    assert(!handle->slots[slot]);
    handle->slots[slot] = request;
    request->cookie = ++handle->generation << SLOT_BITS | slot;
}

static void slot_release(struct bitmapd *handle, struct request *request)
{
    uint32_t slot = request->cookie & ((1u << SLOT_BITS) - 1);
    assert(handle->slots[slot] == request);
    handle->slots[slot] = NULL;
    handle->free_slots[handle->free_slots_count++] = slot;
    request->cookie = 0;
}

static struct request *slot_find(const struct bitmapd *handle, uint64_t cookie)
{
    uint32_t slot = cookie & ((1u << SLOT_BITS) - 1);
    struct request *request = slot < handle->slots_count ? handle->slots[slot] : NULL;
    return request && request->cookie == cookie ? request : NULL;
}

/* ---- Requests ---- */

struct request *request_new(struct bitmapd *handle, enum request_policy policy, uint16_t operation)
{
    struct request *request = TAILQ_FIRST(&handle->recycled);
    if (request) {
        TAILQ_REMOVE(&handle->recycled, request, entry);
        handle->recycled_count--;
    } else {
        request = calloc(1, sizeof *request);
        if (!request) {
            return NULL;
        }
    }
    request->policy = policy;
    request->operation = operation;
    return request;
}

void request_free(struct bitmapd *handle, struct request *request)
{
    if (!request) {
        return;
    }
    free(request->words);
    if (handle->recycled_count >= REQUESTS_RECYCLED_MAX) {
        wire_buffer_deinit(&request->frame);
        free(request);
        return;
    }
    if (request->frame.capacity > REQUEST_FRAME_BYTES_MAX) {
        wire_buffer_deinit(&request->frame);
    }
    struct wire_buffer frame = request->frame;
    frame.bytes = 0;
    *request = (struct request){.frame = frame};
    TAILQ_INSERT_HEAD(&handle->recycled, request, entry);
    handle->recycled_count++;
}

void request_finish(struct bitmapd *handle, struct request *request, int result, uint8_t status,
                    const char *words)
{
    if (request->policy == REQUEST_MARK && request->writer) {
        writer_mark_finished(handle, request->writer, request, result);
    }
    if (request->finished) {
        request->finished(handle, request, result, words);
    }
    if (request->internal) {
        request_free(handle, request);
        return;
    }
    request->result = result;
    request->status = status;
    if (result < 0 && words) {
        request->words = strdup(words); /* without memory the status' own text has to do */
    }
    TAILQ_INSERT_TAIL(&handle->done, request, entry);
}

void request_queue(struct bitmapd *handle, struct request *request)
{
    handle->pending += !request->internal;
    if (request->writer && request->writer->state != WRITER_READY) {
        TAILQ_INSERT_TAIL(&request->writer->waiting, request, entry);
    } else {
        TAILQ_INSERT_TAIL(&handle->to_issue, request, entry);
    }
}

/* ---- Issuing ---- */

static int request_encode(struct bitmapd *handle, struct request *request)
{
    if (request->policy == REQUEST_MARK) {
        return writer_encode_marks(handle, request->writer, request->first_id, request->count,
                                   request->cookie);
    }
    struct wire_buffer *frame = &request->frame;
    if (frame->bytes > handle->frame_bytes_max) {
        return -EMSGSIZE;
    }
    int r = wire_buffer_reserve(&handle->send, frame->bytes);
    if (r < 0) {
        return r;
    }
    frame_set_cookie(frame->data, request->cookie);
    memcpy(handle->send.data + handle->send.bytes, frame->data, frame->bytes);
    handle->send.bytes += frame->bytes;
    return 0;
}

void request_issue(struct bitmapd *handle, struct request *request)
{
    size_t before = handle->send.bytes;

    slot_take(handle, request);
    int r = request_encode(handle, request);
    if (r < 0) {
        struct error error;
        slot_release(handle, request);
        (void)error_set_errno(&error, r, "%s", operation_name(request->operation));
        request_finish(handle, request, r, STATUS_OK, error.text);
        return;
    }
    handle->stream_queued += handle->send.bytes - before;
    request->end_offset = handle->stream_queued;
    TAILQ_INSERT_TAIL(&handle->in_flight, request, entry);
}

bool queue_has_room(const struct bitmapd *handle)
{
    return handle->state == CONNECTION_READY && handle->free_slots_count > 0 &&
           handle->send.bytes - handle->send_done < SEND_BACKLOG_BYTES_MAX;
}

/*
 * Settles go first: the daemon takes requests in order, so that the marks
 * behind them find the room that the settled ones leave.
 */
void queue_issue(struct bitmapd *handle)
{
    struct writer *writer;

    recover_issue(handle);
    TAILQ_FOREACH (writer, &handle->writers, entry) {
        if (writer->settles.count > 0 && writer->state == WRITER_READY &&
            !writer_issue_settles(handle, writer)) {
            return;
        }
    }
    struct request *request;
    while ((request = TAILQ_FIRST(&handle->to_issue)) && queue_has_room(handle)) {
        TAILQ_REMOVE(&handle->to_issue, request, entry);
        request_issue(handle, request);
    }
}

bool queue_can_issue(const struct bitmapd *handle)
{
    if (!queue_has_room(handle)) {
        return false;
    }
    if (!TAILQ_EMPTY(&handle->to_issue)) {
        return true;
    }
    const struct writer *writer;
    TAILQ_FOREACH (writer, &handle->writers, entry) {
        if (writer->settles.count > 0 && writer->state == WRITER_READY) {
            return true;
        }
    }
    return false;
}

/* ---- Replies ---- */

static void take_failure(struct bitmapd *handle, struct request *request, const struct frame *frame)
{
    struct message_error message = {0};
    char text[400];
    struct error error;

    /* A status we know with a text that we cannot read still says what happened. */
    if (message_decode(MESSAGE_ERROR, frame->payload, frame->payload_bytes, true, &message, NULL) <
            0 ||
        message.text.length == 0) {
        message.text = wire_string(status_text(frame->status));
    }
    client_copy_words(text, sizeof text, message.text);
    int r = error_set(&error, status_to_errno(frame->status), "%s", text);
    request_finish(handle, request, r, frame->status, error.text);
}

int queue_take_reply(struct bitmapd *handle, const struct frame *frame, struct error *error)
{
    const char *name = operation_name(frame->operation);
    struct request *request = slot_find(handle, frame->cookie);
    bool more = frame->flags & FRAME_MORE;

    if (!request) {
        return error_set(error, -EPROTO, "reply to %s with cookie 0x%llx, which nothing waits for",
                         name, (unsigned long long)frame->cookie);
    }
    if (frame->operation != request->operation) {
        return error_set(error, -EPROTO, "reply to a %s: expected its operation, found %s (%u)",
                         operation_name(request->operation), name, frame->operation);
    }
    if (more && (!request->more || frame->status != STATUS_OK)) {
        return error_set(error, -EPROTO, "reply to %s: more replies announced, where one is all",
                         name);
    }
    if (frame->status == STATUS_OK && request->reply && request->result == 0) {
        int r = request->reply(handle, request, frame, error);
        if (r == -EPROTO) {
            return error_prefix(error, r, "reply to %s", name);
        }
        request->result = r; /* no memory for it: what is left of the answer is skipped */
    }
    if (!request->internal && frame->status != STATUS_SHUTTING_DOWN) {
        connection_proven(handle);
    }
    if (more) {
        return 0;
    }
    TAILQ_REMOVE(&handle->in_flight, request, entry);
    slot_release(handle, request);
    if (frame->status == STATUS_SHUTTING_DOWN && handle->reconnect_timeout_s > 0 &&
        !request->internal && !request->delivered &&
        (request->policy != REQUEST_MARK || request->writer)) {
        TAILQ_INSERT_TAIL(&handle->parked, request, entry);
        return 0;
    }
    if (frame->status == STATUS_OK) {
        request_finish(handle, request, request->result, STATUS_OK,
                       request->result < 0 ? "out of memory" : NULL);
    } else {
        take_failure(handle, request, frame);
    }
    return 0;
}

/* ---- Loss ---- */

void queue_connection_lost(struct bitmapd *handle)
{
    struct request_queue again = TAILQ_HEAD_INITIALIZER(again);
    struct request *request;

    while ((request = TAILQ_FIRST(&handle->in_flight))) {
        TAILQ_REMOVE(&handle->in_flight, request, entry);
        slot_release(handle, request);
        /* A frame that did not leave whole was not seen, whatever it asks for. */
        bool sent = request->end_offset <= handle->stream_sent;

        switch (request->policy) {
        case REQUEST_DROP:
            request_finish(handle, request, -ECONNABORTED, STATUS_OK, NULL);
            break;
        case REQUEST_MARK:
            if (request->writer) {
                TAILQ_INSERT_TAIL(&request->writer->waiting, request, entry);
            } else {
                request_finish(handle, request, -EOWNERDEAD, STATUS_OK, "the writer is gone");
            }
            break;
        case REQUEST_RESEND:
        case REQUEST_ONCE:
            if (request->delivered || (sent && request->policy == REQUEST_ONCE)) {
                struct error error;
                (void)error_set(&error, 0,
                                request->delivered
                                    ? "the connection broke in the middle of the answer to %s"
                                    : "the connection broke after %s was sent: its outcome is "
                                      "unknown",
                                operation_name(request->operation));
                request_finish(handle, request, -ECONNABORTED, STATUS_OK, error.text);
            } else {
                request->restarted = true;
                request->result = 0;
                TAILQ_INSERT_TAIL(&again, request, entry);
            }
            break;
        }
    }

    TAILQ_CONCAT(&again, &handle->parked, entry);
    TAILQ_CONCAT(&again, &handle->to_issue, entry);
    struct request *next;
    for (request = TAILQ_FIRST(&again); request; request = next) {
        next = TAILQ_NEXT(request, entry);
        if (request->writer) {
            TAILQ_REMOVE(&again, request, entry);
            TAILQ_INSERT_TAIL(&request->writer->waiting, request, entry);
        }
    }
    TAILQ_CONCAT(&handle->to_issue, &again, entry);
}

void queue_fail_in_flight(struct bitmapd *handle, int result, const char *words)
{
    struct request *request;
    while ((request = TAILQ_FIRST(&handle->in_flight))) {
        TAILQ_REMOVE(&handle->in_flight, request, entry);
        slot_release(handle, request);
        request_finish(handle, request, request->policy == REQUEST_DROP ? -ECONNABORTED : result,
                       STATUS_OK, words);
    }
}

static void fail_queue(struct bitmapd *handle, struct request_queue *queue, int result,
                       const char *words)
{
    struct request *request;
    while ((request = TAILQ_FIRST(queue))) {
        TAILQ_REMOVE(queue, request, entry);
        request_finish(handle, request, result, STATUS_OK, words);
    }
}

void queue_fail_all(struct bitmapd *handle, int result, const char *words)
{
    struct writer *writer;

    assert(TAILQ_EMPTY(&handle->in_flight));
    assert(TAILQ_EMPTY(&handle->parked));
    fail_queue(handle, &handle->to_issue, result, words);
    TAILQ_FOREACH (writer, &handle->writers, entry) {
        fail_queue(handle, &writer->waiting, result, words);
    }
}

/* ---- Completions ---- */

void queue_complete(struct bitmapd *handle)
{
    struct request *request;

    while ((request = TAILQ_FIRST(&handle->done))) {
        TAILQ_REMOVE(&handle->done, request, entry);
        bitmapd_completion *completion = request->completion;
        void *opaque = request->opaque;
        int result = request->result;

        client_clear_error(handle);
        if (result < 0) {
            (void)client_fail(handle, result, "%s",
                              request->words ? request->words : status_text(request->status));
            handle->status = request->status;
        }
        handle->pending--;
        /* First recycled, so that the completion's own request finds it. */
        request_free(handle, request);
        if (completion) {
            completion(opaque, result);
        }
    }
}

void queue_deinit(struct bitmapd *handle)
{
    struct request *request;

    while ((request = TAILQ_FIRST(&handle->recycled))) {
        TAILQ_REMOVE(&handle->recycled, request, entry);
        wire_buffer_deinit(&request->frame);
        free(request);
    }
    queue_slots_deinit(handle);
}
