/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The daemon itself, and this connection to it: flush, reload, status, restrict.
 */
#include "client/lib/internal.h"

#include <errno.h>
#include <string.h>

static int flush_reply(struct bitmapd *handle, struct request *request, const struct frame *frame,
                       struct error *error)
{
    struct message_flush_reply reply;

    (void)handle;
    (void)request;
    return message_decode(MESSAGE_FLUSH_REPLY, frame->payload, frame->payload_bytes, true, &reply,
                          error);
}

int bitmapd_flush(bitmapd *handle)
{
    client_clear_error(handle);
    return client_call(handle, REQUEST_ONCE, OPERATION_FLUSH, MESSAGE_EMPTY, NULL, false,
                       flush_reply, NULL);
}

int bitmapd_restrict(bitmapd *handle, const char *drive, unsigned rights)
{
    client_clear_error(handle);
    int r = client_check_text(handle, "drive", drive, NAME_BYTES_MAX);
    if (r < 0) {
        return r;
    }
    struct message_restrict message = {.drive = wire_string(drive), .rights = rights};
    /* Another connection would not be restricted: none is sought, whatever the answer. */
    handle->only_this = true;
    return client_call(handle, REQUEST_ONCE, OPERATION_RESTRICT, MESSAGE_RESTRICT, &message, false,
                       NULL, NULL);
}

int bitmapd_reload(bitmapd *handle)
{
    client_clear_error(handle);
    return client_call(handle, REQUEST_ONCE, OPERATION_RELOAD, MESSAGE_EMPTY, NULL, false, NULL,
                       NULL);
}

static int status_reply(struct bitmapd *handle, struct request *request, const struct frame *frame,
                        struct error *error)
{
    struct bitmapd_daemon_status *status = request->context;
    struct message_status_reply reply;

    int r = message_decode(MESSAGE_STATUS_REPLY, frame->payload, frame->payload_bytes, true, &reply,
                           error);
    if (r < 0) {
        return r;
    }
    r = client_text_begin(handle,
                          (size_t)reply.server.length + reply.container_path.length +
                              reply.degraded_reason.length + reply.start_report.length,
                          4);
    if (r < 0) {
        return error_set(error, r, "out of memory");
    }
    *status = (struct bitmapd_daemon_status){
        .server = client_text_add(handle, reply.server),
        .container_path = client_text_add(handle, reply.container_path),
        .uptime_ns = reply.uptime_ns,
        .sequence = reply.sequence,
        .applied_seq = reply.applied_seq,
        .drives = reply.drives,
        .bitmaps = reply.bitmaps,
        .unknown_bitmaps = reply.unknown_bitmaps,
        .connections = reply.connections,
        .marks = reply.marks,
        .memory_bytes = reply.memory_bytes,
        .dirty_memory_bytes = reply.dirty_memory_bytes,
        .flushes = reply.flushes,
        .container_bytes = reply.container_bytes,
        .degraded = reply.degraded,
        .degraded_reason = client_text_add(handle, reply.degraded_reason),
        .degraded_since_ns = reply.degraded_since_ns,
        .start_report = client_text_add(handle, reply.start_report),
    };
    memcpy(status->container_uuid, reply.container.bytes, sizeof status->container_uuid);
    memcpy(status->instance_uuid, reply.instance.bytes, sizeof status->instance_uuid);
    return 0;
}

int bitmapd_get_status(bitmapd *handle, struct bitmapd_daemon_status *ret)
{
    struct bitmapd_daemon_status status;

    client_clear_error(handle);
    int r = client_call(handle, REQUEST_RESEND, OPERATION_STATUS, MESSAGE_EMPTY, NULL, false,
                        status_reply, &status);
    if (r == 0) {
        *ret = status;
    }
    return r;
}
