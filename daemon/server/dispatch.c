/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From frames to handlers.
 *
 * A request is decoded whole and checked whole before its handler runs, and
 * the handler either answers, or leaves a pending answer or a stream behind,
 * or returns an error that is answered here.  A payload that is not what the
 * operation takes is an error reply; only framing that cannot be followed any
 * further ends the connection.
 */
#include "daemon/server/internal.h"

#include <stddef.h>
#include <string.h>

union message {
    struct message_hello hello;
    struct message_drive_add drive_add;
    struct message_drive_name drive_name;
    struct message_drive_change drive_change;
    struct message_drive_set drive_set;
    struct message_drive_resize drive_resize;
    struct message_bitmap_create bitmap_create;
    struct message_bitmap_name bitmap_name;
    struct message_bitmap_change bitmap_change;
    struct message_bitmap_range bitmap_range;
    struct message_bitmap_merge bitmap_merge;
    struct message_map map;
    struct message_mark mark;
    struct message_settle settle;
    struct message_attach attach;
    struct message_drive_id drive_id;
    struct message_transaction transaction;
    struct message_checkpoint_create checkpoint_create;
    struct message_checkpoint_delete checkpoint_delete;
    struct message_checkpoint_map checkpoint_map;
    struct message_restrict restrict_to;
};

/* Where a message says what it is about. */
#define ABOUT(subject, type, member) SUBJECT_##subject, offsetof(struct type, member)
#define ABOUT_ALONE(subject)         SUBJECT_##subject, 0
#define MAY_ANY                      (ACCESS_READ | ACCESS_TRACK | ACCESS_OPERATE | ACCESS_ADMIN)

/*
 * Each operation with its handler, the right that it needs and what on.  One
 * that must not be done twice has its record's type: its message begins with
 * the request id, by which a repeat is recognised before the handler runs.
 */
/* clang-format off */
static const struct route {
    request_handler *handler;
    struct access_need need;
    bool once;
    enum record_type type;
    bool part; /* may be one of a transaction's */
} routes[] = {
    [OPERATION_HELLO] = {handle_hello, {MAY_ANY, ABOUT_ALONE(NONE)}},
    [OPERATION_RESTRICT] = {handle_restrict, {MAY_ANY, ABOUT(DRIVE, message_restrict, drive)}},
    [OPERATION_DRIVE_ADD] = {handle_drive_add, {ACCESS_ADMIN, ABOUT(DRIVE, message_drive_add, name)}, true, RECORD_DRIVE_ADD},
    [OPERATION_DRIVE_LIST] = {stream_drives, {MAY_ANY, ABOUT_ALONE(SOME)}},
    [OPERATION_DRIVE_SHOW] = {handle_drive_show, {MAY_ANY, ABOUT(DRIVE, message_drive_name, name)}},
    [OPERATION_DRIVE_SET] = {handle_drive_set, {ACCESS_ADMIN, ABOUT(DRIVE, message_drive_set, name)}, true, RECORD_DRIVE_SET},
    [OPERATION_DRIVE_RENAME] = {handle_drive_rename, {ACCESS_ADMIN, ABOUT_ALONE(RENAME)}, true, RECORD_DRIVE_RENAME},
    [OPERATION_DRIVE_RESIZE] = {handle_drive_resize, {ACCESS_ADMIN, ABOUT(DRIVE, message_drive_resize, name)}, true, RECORD_DRIVE_RESIZE},
    [OPERATION_DRIVE_REMOVE] = {handle_drive_remove, {ACCESS_ADMIN, ABOUT(DRIVE, message_drive_change, name)}, true, RECORD_DRIVE_REMOVE},
    [OPERATION_DRIVE_FENCE] = {handle_drive_fence, {ACCESS_ADMIN, ABOUT(DRIVE, message_drive_change, name)}, true, RECORD_FENCE},
    [OPERATION_DRIVE_ADOPT] = {handle_drive_adopt, {ACCESS_ADMIN, ABOUT(DRIVE, message_drive_change, name)}, true, RECORD_DRIVE_ADOPT},
    [OPERATION_BITMAP_CREATE] = {handle_bitmap_create, {ACCESS_OPERATE, ABOUT(BITMAP, message_bitmap_create, bitmap)}, true, RECORD_BITMAP_CREATE, true},
    [OPERATION_BITMAP_LIST] = {stream_bitmaps, {ACCESS_READ, ABOUT(DRIVE_OR_SOME, message_drive_name, name)}},
    [OPERATION_BITMAP_SHOW] = {handle_bitmap_show, {ACCESS_READ, ABOUT(BITMAP, message_bitmap_name, bitmap)}},
    [OPERATION_BITMAP_DELETE] = {handle_bitmap_delete, {ACCESS_OPERATE, ABOUT(BITMAP, message_bitmap_change, bitmap)}, true, RECORD_BITMAP_DELETE, true},
    [OPERATION_BITMAP_ENABLE] = {handle_bitmap_enable, {ACCESS_OPERATE, ABOUT(BITMAP, message_bitmap_change, bitmap)}, true, RECORD_BITMAP_ENABLE, true},
    [OPERATION_BITMAP_DISABLE] = {handle_bitmap_disable, {ACCESS_OPERATE, ABOUT(BITMAP, message_bitmap_change, bitmap)}, true, RECORD_BITMAP_DISABLE, true},
    [OPERATION_BITMAP_RENAME] = {handle_bitmap_rename, {ACCESS_OPERATE, ABOUT(BITMAP, message_bitmap_change, bitmap)}, true, RECORD_BITMAP_RENAME, true},
    [OPERATION_BITMAP_SET] = {handle_bitmap_set, {ACCESS_OPERATE, ABOUT(BITMAP, message_bitmap_range, bitmap)}, true, RECORD_BITMAP_SET, true},
    [OPERATION_BITMAP_CLEAR] = {handle_bitmap_clear, {ACCESS_OPERATE, ABOUT(BITMAP, message_bitmap_range, bitmap)}, true, RECORD_BITMAP_CLEAR, true},
    [OPERATION_BITMAP_MERGE] = {handle_bitmap_merge, {ACCESS_OPERATE, ABOUT_ALONE(MERGE)}, true, RECORD_BITMAP_MERGE, true},
    [OPERATION_MAP] = {stream_map, {ACCESS_READ, ABOUT(BITMAP, message_map, bitmap)}},
    [OPERATION_MARK] = {handle_mark, {ACCESS_TRACK, ABOUT(ID, message_mark, drive)}},
    [OPERATION_SETTLE] = {handle_settle, {ACCESS_TRACK, ABOUT(ID, message_settle, drive)}},
    [OPERATION_ATTACH] = {handle_attach, {ACCESS_TRACK, ABOUT(DRIVE, message_attach, drive)}},
    [OPERATION_RESUME] = {handle_resume, {ACCESS_TRACK, ABOUT(ID, message_drive_id, drive)}},
    [OPERATION_DETACH] = {handle_detach, {ACCESS_TRACK, ABOUT(ID, message_drive_id, drive)}},
    [OPERATION_FLUSH] = {handle_flush, {ACCESS_ADMIN, ABOUT_ALONE(DAEMON)}},
    [OPERATION_STATUS] = {handle_status, {MAY_ANY, ABOUT_ALONE(SOME)}},
    [OPERATION_RELOAD] = {handle_reload, {ACCESS_ADMIN, ABOUT_ALONE(DAEMON)}},
    [OPERATION_TRANSACTION] = {handle_transaction, {ACCESS_OPERATE, ABOUT_ALONE(SOME)}, true, RECORD_TRANSACTION},
    [OPERATION_CHECKPOINT_CREATE] = {handle_checkpoint_create, {ACCESS_OPERATE, ABOUT(DRIVES, message_checkpoint_create, drives)}, true, RECORD_TRANSACTION, true},
    [OPERATION_CHECKPOINT_LIST] = {stream_checkpoints, {ACCESS_READ, ABOUT(DRIVE_OR_SOME, message_drive_name, name)}},
    [OPERATION_CHECKPOINT_DELETE] = {handle_checkpoint_delete, {ACCESS_OPERATE, ABOUT(DRIVE, message_checkpoint_delete, drive)}, true, RECORD_CHECKPOINT_DELETE, true},
    [OPERATION_CHECKPOINT_MAP] = {handle_checkpoint_map, {ACCESS_READ, ABOUT(DRIVE, message_checkpoint_map, drive)}},
};
/* clang-format on */

static int handle(const struct route *route, const struct request *request, struct error *error)
{
    if (route->once) {
        struct request_id id;
        memcpy(id.bytes, request->message, sizeof id.bytes);
        const struct request_result *before = model_request_find(request->model, &id);
        if (before) {
            int r = access_check_repeat(request, &route->need, before, error);
            return r < 0 ? r : request_repeat(request, before, route->type, error);
        }
    }
    model_want_nothing(request->model);
    int r = request_check(request, error);
    if (r == 0) {
        r = route->handler(request, error);
    }
    if (r == 0 && request->operation == OPERATION_DRIVE_RENAME) {
        access_forget(request->server);
    }
    return r;
}

/* The route of an operation, or NULL with words. */
static const struct route *find_route(uint16_t operation, struct error *error)
{
    const struct route *route =
        operation < sizeof routes / sizeof routes[0] ? &routes[operation] : NULL;

    if (message_request_type(operation) == MESSAGE_TYPES || !route || !route->handler) {
        error_set(error, -EOPNOTSUPP, "there is no operation %u", operation);
        return NULL;
    }
    return route;
}

/* Decodes a request and hands it to its handler. */
static int take(struct request *request, const struct frame *frame, struct error *error)
{
    union message message;
    const struct route *route = find_route(frame->operation, error);

    if (!route) {
        return -EOPNOTSUPP;
    }
    int r = message_decode(message_request_type(frame->operation), frame->payload,
                           frame->payload_bytes, 0, &message, error);
    if (r < 0) {
        return r;
    }
    request->server = request->session->server;
    request->model = request->server->model;
    request->operation = frame->operation;
    request->cookie = frame->cookie;
    request->message = &message;
    r = access_check(request, &route->need, error);
    if (r < 0) {
        return r;
    }
    return request->part ? route->handler(request, error) : handle(route, request, error);
}

int dispatch_check(const struct request *whole, uint16_t operation, const uint8_t *payload,
                   uint32_t payload_bytes, struct error *error)
{
    struct request request = *whole;
    union message message;
    const struct route *route = find_route(operation, NULL);

    if (!route || !route->part ||
        message_decode(message_request_type(operation), payload, payload_bytes, 0, &message, NULL) <
            0) {
        return 0;
    }
    request.operation = operation;
    request.message = &message;
    int r = access_check(&request, &route->need, error);
    return r < 0 ? r : request_check(&request, error);
}

/* 0, or -EPROTO when the connection must end. */
static int dispatch(struct session *session, const struct frame *frame)
{
    struct request request = {.session = session};
    struct error error = {""};

    if (frame->flags != 0 || frame->status != 0) {
        reply_error(session, frame->operation, frame->cookie, STATUS_MALFORMED,
                    "flags and status of a request must be 0");
        return -EPROTO;
    }
    if (session->state == SESSION_HELLO && frame->operation != OPERATION_HELLO) {
        reply_error(session, frame->operation, frame->cookie, STATUS_MALFORMED,
                    "the first request must be HELLO");
        return -EPROTO;
    }
    int r = take(&request, frame, &error);
    if (r == -EAGAIN) {
        r = request_defer(&request, frame, &error);
    }
    if (r < 0) {
        reply_errno(session, frame->operation, frame->cookie, r, &error);
    }
    return session->state == SESSION_HELLO ? -EPROTO : 0;
}

int dispatch_again(struct session *session, const struct frame *frame, struct deferral *deferral,
                   struct error *error)
{
    struct request request = {.session = session, .deferral = deferral};

    return take(&request, frame, error);
}

int dispatch_part(const struct request *whole, uint16_t operation, const uint8_t *payload,
                  uint32_t payload_bytes, struct error *error)
{
    struct request request = {.session = whole->session, .deferral = whole->deferral, .part = true};
    struct frame frame = {.operation = operation,
                          .cookie = whole->cookie,
                          .payload = payload,
                          .payload_bytes = payload_bytes};
    const struct route *route = find_route(operation, error);

    if (route && !route->part) {
        return error_set(error, -EINVAL, "%s cannot be part of a transaction",
                         operation_name(operation));
    }
    return take(&request, &frame, error);
}

/*
 * The words of bitmaps that the next frame will mark are fetched from memory while this one is
 * worked on: at random places that is the larger part of a mark.
 */
static void look_ahead(const struct session *session, const uint8_t *data, size_t bytes)
{
    struct wire_range first;
    uint64_t id;

    if (message_peek_mark(data, bytes, &id, &first)) {
        const struct drive *drive = model_drive_by_id(session->server->model, id);
        if (drive) {
            drive_prefetch(drive, &(struct range){first.offset, first.length}, 1);
        }
    }
}

ssize_t dispatch_frames(struct session *session, const uint8_t *data, size_t bytes)
{
    size_t taken = 0;

    while (!session_at_bound(session) && !session->out_of_memory) {
        uint32_t limit = session->state == SESSION_HELLO ? FRAME_BYTES_HELLO_MAX : FRAME_BYTES_MAX;
        struct frame frame;
        struct error error;
        uint32_t needed;
        int n = frame_decode(data + taken, bytes - taken, limit, &frame, &needed, &error);
        if (n < 0) {
            reply_error(session, 0, 0, STATUS_MALFORMED, error.text);
            return -EPROTO;
        }
        if (n == 0) {
            break;
        }
        look_ahead(session, data + taken + n, bytes - taken - (size_t)n);
        int r = dispatch(session, &frame);
        if (r < 0) {
            return r;
        }
        taken += (size_t)n;
    }
    return (ssize_t)taken;
}
