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
};

/*
 * Each operation with its handler.  One that must not be done twice has its
 * record's type: its message begins with the request id, by which a repeat is
 * recognised before the handler runs.
 */
/* clang-format off */
static const struct route {
    request_handler *handler;
    bool once;
    enum record_type type;
    bool part; /* may be one of a transaction's */
} routes[] = {
    [OPERATION_HELLO] = {handle_hello, false, 0, false},
    [OPERATION_DRIVE_ADD] = {handle_drive_add, true, RECORD_DRIVE_ADD, false},
    [OPERATION_DRIVE_LIST] = {stream_drives, false, 0, false},
    [OPERATION_DRIVE_SHOW] = {handle_drive_show, false, 0, false},
    [OPERATION_DRIVE_SET] = {handle_drive_set, true, RECORD_DRIVE_SET, false},
    [OPERATION_DRIVE_RENAME] = {handle_drive_rename, true, RECORD_DRIVE_RENAME, false},
    [OPERATION_DRIVE_RESIZE] = {handle_drive_resize, true, RECORD_DRIVE_RESIZE, false},
    [OPERATION_DRIVE_REMOVE] = {handle_drive_remove, true, RECORD_DRIVE_REMOVE, false},
    [OPERATION_DRIVE_FENCE] = {handle_drive_fence, true, RECORD_FENCE, false},
    [OPERATION_DRIVE_ADOPT] = {handle_drive_adopt, true, RECORD_DRIVE_ADOPT, false},
    [OPERATION_BITMAP_CREATE] = {handle_bitmap_create, true, RECORD_BITMAP_CREATE, true},
    [OPERATION_BITMAP_LIST] = {stream_bitmaps, false, 0, false},
    [OPERATION_BITMAP_SHOW] = {handle_bitmap_show, false, 0, false},
    [OPERATION_BITMAP_DELETE] = {handle_bitmap_delete, true, RECORD_BITMAP_DELETE, true},
    [OPERATION_BITMAP_ENABLE] = {handle_bitmap_enable, true, RECORD_BITMAP_ENABLE, true},
    [OPERATION_BITMAP_DISABLE] = {handle_bitmap_disable, true, RECORD_BITMAP_DISABLE, true},
    [OPERATION_BITMAP_RENAME] = {handle_bitmap_rename, true, RECORD_BITMAP_RENAME, true},
    [OPERATION_BITMAP_SET] = {handle_bitmap_set, true, RECORD_BITMAP_SET, true},
    [OPERATION_BITMAP_CLEAR] = {handle_bitmap_clear, true, RECORD_BITMAP_CLEAR, true},
    [OPERATION_BITMAP_MERGE] = {handle_bitmap_merge, true, RECORD_BITMAP_MERGE, true},
    [OPERATION_MAP] = {stream_map, false, 0, false},
    [OPERATION_MARK] = {handle_mark, false, 0, false},
    [OPERATION_SETTLE] = {handle_settle, false, 0, false},
    [OPERATION_ATTACH] = {handle_attach, false, 0, false},
    [OPERATION_RESUME] = {handle_resume, false, 0, false},
    [OPERATION_DETACH] = {handle_detach, false, 0, false},
    [OPERATION_FLUSH] = {handle_flush, false, 0, false},
    [OPERATION_STATUS] = {handle_status, false, 0, false},
    [OPERATION_RELOAD] = {handle_reload, false, 0, false},
    [OPERATION_TRANSACTION] = {handle_transaction, true, RECORD_TRANSACTION, false},
    [OPERATION_CHECKPOINT_CREATE] = {handle_checkpoint_create, true, RECORD_TRANSACTION, true},
    [OPERATION_CHECKPOINT_LIST] = {stream_checkpoints, false, 0, false},
    [OPERATION_CHECKPOINT_DELETE] = {handle_checkpoint_delete, true, RECORD_CHECKPOINT_DELETE, true},
    [OPERATION_CHECKPOINT_MAP] = {handle_checkpoint_map, false, 0, false},
};
/* clang-format on */

static int handle(const struct route *route, const struct request *request, struct error *error)
{
    if (route->once) {
        struct request_id id;
        memcpy(id.bytes, request->message, sizeof id.bytes);
        const struct request_result *before = model_request_find(request->model, &id);
        if (before) {
            return request_repeat(request, before, route->type, error);
        }
    }
    model_want_nothing(request->model);
    int r = request_check(request, error);
    return r < 0 ? r : route->handler(request, error);
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
    return request->part ? route->handler(request, error) : handle(route, request, error);
}

int dispatch_check(const struct request *whole, uint16_t operation, const uint8_t *payload,
                   uint32_t payload_bytes, struct error *error)
{
    struct request request = *whole;
    union message message;

    if (operation == OPERATION_TRANSACTION || message_request_type(operation) == MESSAGE_TYPES ||
        message_decode(message_request_type(operation), payload, payload_bytes, 0, &message, NULL) <
            0) {
        return 0;
    }
    request.operation = operation;
    request.message = &message;
    return request_check(&request, error);
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
        int r = dispatch(session, &frame);
        if (r < 0) {
            return r;
        }
        taken += (size_t)n;
    }
    return (ssize_t)taken;
}
