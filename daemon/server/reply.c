/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Answers, at once or when a watermark is reached.
 *
 * A request is in flight from its dispatch to its last frame; pending answers
 * and streams count for it.  Answers go into the session's output and leave
 * before the loop sleeps.
 */
#include "daemon/server/internal.h"

#include <string.h>

#define SPARE_PENDING_MAX 1024u

static void reply_frame(struct session *session, enum message_type type, const void *message,
                        uint16_t operation, uint8_t flags, enum status status, uint64_t cookie)
{
    if (session->state == SESSION_CLOSED) {
        return;
    }
    int r = message_encode(&session->out, type, message, operation, flags | FRAME_REPLY,
                           (uint8_t)status, cookie);
    if (r < 0) {
        /* An answer that is lost would leave the client waiting for ever. */
        session->out_of_memory = true;
    }
    session_send_later(session);
}

void reply(struct session *session, enum message_type type, const void *message, uint16_t operation,
           uint8_t flags, uint64_t cookie)
{
    reply_frame(session, type, message, operation, flags, STATUS_OK, cookie);
}

void reply_error(struct session *session, uint16_t operation, uint64_t cookie, enum status status,
                 const char *text)
{
    struct message_error message = {.text = wire_string(text)};
    reply_frame(session, MESSAGE_ERROR, &message, operation, 0, status, cookie);
}

void reply_errno(struct session *session, uint16_t operation, uint64_t cookie, int r,
                 const struct error *error)
{
    enum status status = status_from_errno(r);
    reply_error(session, operation, cookie, status,
                error && error->text[0] ? error->text : status_text(status));
}

/* ---- Pending answers ---- */

struct pending *pending_new(const struct request *request)
{
    struct server *server = request->server;
    struct pending *pending = TAILQ_FIRST(&server->spare_pending);

    if (pending) {
        TAILQ_REMOVE(&server->spare_pending, pending, entry);
        server->spare_count--;
        memset(pending, 0, sizeof *pending);
    } else {
        pending = calloc(1, sizeof *pending);
        if (!pending) {
            return NULL;
        }
    }
    pending->server = server;
    pending->session = request->session;
    pending->operation = request->operation;
    pending->cookie = request->cookie;
    TAILQ_INSERT_TAIL(&request->session->pending, pending, entry);
    session_request_begins(request->session);
    return pending;
}

void pending_free(struct pending *pending)
{
    struct server *server = pending->server;

    if (!pending->session) {
        if (server) {
            TAILQ_REMOVE(&server->orphans, pending, entry);
        }
        free(pending);
        return;
    }
    TAILQ_REMOVE(&pending->session->pending, pending, entry);
    session_request_ends(pending->session);
    session_send_later(pending->session);
    if (server->spare_count < SPARE_PENDING_MAX) {
        TAILQ_INSERT_HEAD(&server->spare_pending, pending, entry);
        server->spare_count++;
    } else {
        free(pending);
    }
}

void pending_abandon(struct pending *pending)
{
    if (pending->in_model) {
        model_wait_cancel(pending->server->model, &pending->waiter);
        pending_free(pending);
        return;
    }
    if (pending->map) {
        map_job_cancel(pending->map);
        pending_free(pending);
        return;
    }
    /* Somebody else still works for it, and frees it when done. */
    TAILQ_REMOVE(&pending->session->pending, pending, entry);
    session_request_ends(pending->session);
    pending->session = NULL;
    TAILQ_INSERT_TAIL(&pending->server->orphans, pending, entry);
}

void pending_abandon_maps(struct session *session)
{
    struct pending *pending, *next;

    for (pending = TAILQ_FIRST(&session->pending); pending; pending = next) {
        next = TAILQ_NEXT(pending, entry);
        if (pending->map) {
            pending_abandon(pending);
        }
    }
}

/* What a change answers when it succeeded: the object as it is now. */
static void reply_success(const struct pending *pending)
{
    struct session *session = pending->session;
    struct model *model = pending->server->model;

    switch (pending->operation) {
    case OPERATION_DRIVE_ADD: {
        struct drive *drive = model_drive_by_id(model, pending->object);
        if (!drive) {
            reply_error(session, pending->operation, pending->cookie, STATUS_NOT_FOUND,
                        "the drive was added, and removed again since");
            return;
        }
        struct drive_info_buffer info;
        fill_drive_info(drive, &info);
        reply(session, MESSAGE_DRIVE_INFO, &info.message, pending->operation, 0, pending->cookie);
        return;
    }
    case OPERATION_BITMAP_CREATE: {
        struct drive_bitmap *bitmap = model_bitmap_by_id(model, pending->object);
        if (!bitmap) {
            reply_error(session, pending->operation, pending->cookie, STATUS_NOT_FOUND,
                        "the bitmap was created, and deleted again since");
            return;
        }
        struct bitmap_info_buffer info;
        fill_bitmap_info(bitmap, &info);
        reply(session, MESSAGE_BITMAP_INFO, &info.message, pending->operation, 0, pending->cookie);
        return;
    }
    case OPERATION_CHECKPOINT_CREATE: {
        if (pending->created.sequence != 0) {
            reply(session, MESSAGE_CHECKPOINT_CREATED, &pending->created, pending->operation, 0,
                  pending->cookie);
            return;
        }
        struct drive_bitmap *bitmap = model_bitmap_by_id(model, pending->object);
        if (!bitmap || !bitmap->checkpoint) {
            reply_error(session, pending->operation, pending->cookie, STATUS_NOT_FOUND,
                        "the checkpoint was created, and deleted again since");
            return;
        }
        struct message_checkpoint_created created;
        fill_checkpoint_created(model, bitmap->checkpoint, &created);
        reply(session, MESSAGE_CHECKPOINT_CREATED, &created, pending->operation, 0,
              pending->cookie);
        return;
    }
    case OPERATION_TRANSACTION: {
        struct message_transaction_reply done = {.sequence = pending->sequence};
        reply(session, MESSAGE_TRANSACTION_REPLY, &done, pending->operation, 0, pending->cookie);
        return;
    }
    case OPERATION_ATTACH:
        reply(session, MESSAGE_ATTACH_REPLY, &pending->attach, pending->operation, 0,
              pending->cookie);
        return;
    case OPERATION_FLUSH: {
        struct message_flush_reply flushed = {.sequence = pending->object};
        reply(session, MESSAGE_FLUSH_REPLY, &flushed, pending->operation, 0, pending->cookie);
        return;
    }
    default:
        reply(session, MESSAGE_EMPTY, NULL, pending->operation, 0, pending->cookie);
    }
}

void pending_finish(struct pending *pending, int r, const struct error *error)
{
    if (pending->session) {
        if (r < 0) {
            reply_errno(pending->session, pending->operation, pending->cookie, r, error);
        } else {
            reply_success(pending);
        }
    }
    pending_free(pending);
}

static void waiter_done(struct model_waiter *waiter, int r)
{
    struct pending *pending = (struct pending *)waiter;
    struct error error = {""};

    pending->in_model = false;
    if (r < 0) {
        error_set(&error, r, "done, but not on stable storage yet, which will be tried again: %s",
                  model_degraded_reason(pending->server->model));
    }
    pending_finish(pending, r, &error);
}

void pending_wait(struct pending *pending, enum ack_level level, uint64_t sequence, uint64_t object)
{
    pending->object = object;
    pending->sequence = sequence;
    pending->waiter.done = waiter_done;
    pending->in_model = true;
    model_wait(pending->server->model, sequence, level, &pending->waiter);
}

int request_commit(const struct request *request, const struct wire_uuid *id, struct record *record,
                   struct error *error)
{
    if (request->part) {
        return model_commit(request->model, record, error);
    }
    memcpy(record->request.bytes, id->bytes, sizeof record->request.bytes);
    record->peer = request->session->peer_words;

    struct pending *pending = pending_new(request);
    if (!pending) {
        return error_set(error, -ENOMEM, "out of memory for a request");
    }
    int r = model_commit(request->model, record, error);
    if (r < 0) {
        pending_free(pending);
        return r;
    }
    pending_wait(pending, ACK_DURABLE, record->sequence,
                 record->bitmap ? record->bitmap : record->drive);
    return 0;
}

int request_repeat(const struct request *request, const struct request_result *before,
                   enum record_type type, struct error *error)
{
    if (before->type != type &&
        !(before->type == RECORD_BITMAP_CLEAR_ALL && type == RECORD_BITMAP_CLEAR)) {
        return error_set(error, -EINVAL, "this request id belongs to an earlier %s",
                         record_type_name(before->type));
    }
    struct pending *pending = pending_new(request);
    if (!pending) {
        return error_set(error, -ENOMEM, "out of memory for a request");
    }
    pending_wait(pending, ACK_DURABLE, before->sequence, before->object);
    return 0;
}
