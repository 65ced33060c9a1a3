/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Operations on the connection and on the daemon itself.
 */
#include "daemon/server/internal.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define SERVER_NAME "bitmapd " BITMAPD_VERSION

int handle_hello(const struct request *request, struct error *error)
{
    const struct message_hello *message = request->message;
    struct session *session = request->session;

    /* Who was given a restricted connection begins as on a new one. */
    if (session->state != SESSION_HELLO && (!session->peer.restricted || session->in_flight > 0)) {
        return error_set(error, -EINVAL, "HELLO was said already");
    }
    if (message->magic != PROTOCOL_MAGIC) {
        return error_set(error, -EPROTO, "HELLO: magic: found 0x%08x, expected 0x%08x",
                         message->magic, PROTOCOL_MAGIC);
    }
    if (message->version_min > message->version_max ||
        message->version_min > PROTOCOL_VERSION_MAX ||
        message->version_max < PROTOCOL_VERSION_MIN) {
        char text[128];
        (void)snprintf(text, sizeof text, "client speaks versions %u to %u, the daemon %u to %u",
                       message->version_min, message->version_max, PROTOCOL_VERSION_MIN,
                       PROTOCOL_VERSION_MAX);
        reply_error(session, request->operation, request->cookie, STATUS_VERSION, text);
        return 0;
    }
    session->state = SESSION_OPEN;
    (void)uv_timer_stop(&session->deadline);

    /* What a client calls itself is shown to people: no controls, and not too much of it. */
    size_t used = session->peer_bytes;
    int n = snprintf(session->peer_words + used, sizeof session->peer_words - used, " %.*s",
                     message->client.length < 128 ? message->client.length : 128,
                     message->client.length ? message->client.data : "");
    for (int i = 0; i < n && session->peer_words[used + (size_t)i]; i++) {
        unsigned char c = (unsigned char)session->peer_words[used + (size_t)i];
        if (c < 0x20 || c >= 0x7f) {
            session->peer_words[used + (size_t)i] = '?';
        }
    }

    struct message_hello_reply answer = {
        .version = message->version_max < PROTOCOL_VERSION_MAX ? message->version_max
                                                               : PROTOCOL_VERSION_MAX,
        .features = 0,
        .frame_bytes_max = FRAME_BYTES_MAX,
        .requests_max = request->server->settings.requests_max,
        .unsettled_max = request->server->settings.unsettled_max,
        .instance = request->server->instance,
        .server = wire_string(SERVER_NAME),
    };
    memcpy(answer.container.bytes, model_container_uuid(request->model),
           sizeof answer.container.bytes);
    reply(session, MESSAGE_HELLO_REPLY, &answer, request->operation, 0, request->cookie);
    return 0;
}

int handle_restrict(const struct request *request, struct error *error)
{
    const struct message_restrict *message = request->message;
    struct session *session = request->session;
    struct drive *drive = find_drive(request, message->drive, error);

    if (!drive) {
        return -ENOENT;
    }
    if (message->rights == 0 || message->rights & ~ACCESS_ALL) {
        return error_set(error, -EINVAL, "no rights are 0x%x", message->rights);
    }
    uint32_t rights = access_rights_with_included(message->rights);
    if (rights & ~access_on_drive(session, drive)) {
        return error_set(error, -EPERM,
                         "not permitted: this connection has not all of these rights on drive '%s'",
                         drive->name);
    }
    /* What is answered later was asked under other rights. */
    if (session->in_flight > 0) {
        return error_set(error, -EBUSY, "%u requests of this connection are unanswered",
                         session->in_flight);
    }
    if (session_has_other_writers(session, drive->id)) {
        return error_set(error, -EBUSY, "this connection writes to other drives too");
    }
    access_restrict(session, drive->id, rights);
    reply(session, MESSAGE_EMPTY, NULL, request->operation, 0, request->cookie);
    return 0;
}

int handle_flush(const struct request *request, struct error *error)
{
    struct pending *pending = pending_new(request);
    uint64_t sequence = model_sequence(request->model);

    if (!pending) {
        return error_set(error, -ENOMEM, "out of memory for a request");
    }
    pending_wait(pending, ACK_CONTAINER, sequence, sequence);
    return 0;
}

/* What a peer is told that may not read all drives: of those that it may, and of the storage. */
static void leave_only_visible(struct session *session, struct message_status_reply *answer)
{
    struct model *model = session->server->model;
    struct message_status_reply whole = *answer;
    struct drive *drive = NULL;

    *answer = (struct message_status_reply){
        .server = whole.server,
        .container = whole.container,
        .instance = whole.instance,
        .container_path = wire_string(""),
        .uptime_ns = whole.uptime_ns,
        .degraded = whole.degraded,
        .degraded_reason = wire_string(whole.degraded ? "the daemon's storage fails" : ""),
        .degraded_since_ns = whole.degraded_since_ns,
        .start_report = wire_string(""),
    };
    while ((drive = model_drive_after(model, drive ? drive->id : 0))) {
        uint32_t rights = access_on_drive(session, drive);
        const struct drive_bitmap *bitmap;
        answer->drives += rights != 0;
        if (!(rights & ACCESS_READ)) {
            continue;
        }
        answer->bitmaps += drive->bitmaps_count + drive->checkpoints_count;
        TAILQ_FOREACH (bitmap, &drive->all, of_drive) {
            answer->unknown_bitmaps += bitmap->validity == VALIDITY_UNKNOWN;
        }
    }
}

int handle_status(const struct request *request, struct error *error)
{
    (void)error;
    struct server *server = request->server;
    struct model_status status;
    struct timespec now;

    model_get_status(request->model, &status);
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    struct message_status_reply answer = {
        .server = wire_string(SERVER_NAME),
        .instance = server->instance,
        .container_path = wire_string(status.container_path),
        .uptime_ns =
            (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec - server->started_ns,
        .sequence = status.sequence,
        .applied_seq = status.applied_seq,
        .drives = status.drives,
        .bitmaps = status.bitmaps,
        .unknown_bitmaps = status.unknown_bitmaps,
        .connections = server->sessions_count,
        .marks = status.marks,
        .memory_bytes = status.memory_bytes,
        .dirty_memory_bytes = status.dirty_memory_bytes,
        .flushes = status.flushes,
        .container_bytes = status.container_bytes,
        .degraded = status.degraded_reason[0] != '\0',
        .degraded_reason = wire_string(status.degraded_reason),
        .degraded_since_ns = (uint64_t)status.degraded_since_ns,
        .start_report = wire_string(status.start_report),
    };
    memcpy(answer.container.bytes, status.container_uuid, sizeof answer.container.bytes);
    if (!(request->session->peer.everywhere & ACCESS_READ)) {
        leave_only_visible(request->session, &answer);
    }
    reply(request->session, MESSAGE_STATUS_REPLY, &answer, request->operation, 0, request->cookie);
    return 0;
}

static void reload_done(void *opaque, int r, const struct error *error)
{
    pending_finish(opaque, r, error);
}

int handle_reload(const struct request *request, struct error *error)
{
    struct pending *pending = pending_new(request);

    if (!pending) {
        return error_set(error, -ENOMEM, "out of memory for a request");
    }
    request->server->hooks.reload(request->server->hooks.opaque, reload_done, pending);
    return 0;
}
