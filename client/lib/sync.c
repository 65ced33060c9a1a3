/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Waiting.  Every synchronous call is an asynchronous request, and turns of a
 * poll(2) loop until its completion has been called; the loop is made of the
 * same calls that an application's own loop would make.
 *
 * A synchronous call always gets its completion, because a connection that is
 * lost for good completes everything; so a call's state may live on its stack.
 */
#include "client/lib/internal.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/random.h>

void call_completed(void *opaque, int result)
{
    struct call *call = opaque;
    call->result = result;
    call->done = true;
    if (result < 0) {
        call->error = call->handle->error;
        call->status = call->handle->status;
    }
}

void client_turn(struct bitmapd *handle)
{
    struct pollfd poll_fd = {
        .fd = bitmapd_fd(handle),
        .events = (short)bitmapd_events(handle),
    };
    int n = poll(&poll_fd, 1, bitmapd_timeout_ms(handle));
    client_dispatch(handle, n > 0 ? (unsigned short)poll_fd.revents : 0);
}

int call_wait(struct call *call)
{
    struct bitmapd *handle = call->handle;

    /* Most requests go out whole at once, without asking poll(2) whether they may. */
    client_dispatch(handle, 0);
    while (!call->done) {
        client_turn(handle);
    }
    client_clear_error(handle);
    if (call->result < 0) {
        handle->error = call->error;
        handle->status = call->status;
    }
    return call->result;
}

static int call(struct bitmapd *handle, struct writer *writer, enum request_policy policy,
                uint16_t operation, enum message_type type, const void *message, bool more,
                request_reply *reply, void *context)
{
    if (handle->dispatching) {
        return client_fail(handle, -EDEADLK, "not from within a completion");
    }
    int r = client_check_usable(handle);
    if (r < 0) {
        return r;
    }
    struct request *request = request_new(handle, policy, operation);
    r = request ? message_encode(&request->frame, type, message, operation, 0, 0, 0) : -ENOMEM;
    if (r < 0) {
        request_free(handle, request);
        return client_fail(handle, r, "%s: %s", operation_name(operation), strerrordesc_np(-r));
    }
    struct call call = {.handle = handle};
    request->writer = writer;
    request->more = more;
    request->reply = reply;
    request->context = context;
    request->completion = call_completed;
    request->opaque = &call;
    request_queue(handle, request);
    return call_wait(&call);
}

int client_call(struct bitmapd *handle, enum request_policy policy, uint16_t operation,
                enum message_type type, const void *message, bool more, request_reply *reply,
                void *context)
{
    return call(handle, NULL, policy, operation, type, message, more, reply, context);
}

int client_call_writer(struct bitmapd *handle, struct writer *writer, uint16_t operation)
{
    struct message_drive_id message = {.drive = writer->drive_id};
    return call(handle, writer, REQUEST_ONCE, operation, MESSAGE_DRIVE_ID, &message, false, NULL,
                NULL);
}

int client_check_list_end(const struct frame *frame, uint64_t count, struct error *error)
{
    struct message_list_end end;
    int r =
        message_decode(MESSAGE_LIST_END, frame->payload, frame->payload_bytes, true, &end, error);
    if (r == 0 && end.count != count) {
        r = error_set(error, -EPROTO, "list's end: expected %llu items, found %llu",
                      (unsigned long long)end.count, (unsigned long long)count);
    }
    return r;
}

int client_validity(uint8_t validity)
{
    return validity == WIRE_VALIDITY_EXACT      ? BITMAPD_EXACT
           : validity == WIRE_VALIDITY_SUPERSET ? BITMAPD_SUPERSET
                                                : BITMAPD_UNKNOWN;
}

/* ---- Request ids ---- */

int client_request_id(struct bitmapd *handle, struct wire_uuid *ret)
{
    if (!handle->request_id_set) {
        ssize_t n = getrandom(&handle->request_id, sizeof handle->request_id, 0);
        if (n != (ssize_t)sizeof handle->request_id) {
            return client_fail(handle, n < 0 ? -errno : -EIO, "no random numbers for a request id");
        }
    }
    handle->request_id_set = false;
    *ret = handle->request_id;
    return 0;
}

void bitmapd_set_request_id(bitmapd *handle, const uint8_t id[16])
{
    memcpy(handle->request_id.bytes, id, sizeof handle->request_id.bytes);
    handle->request_id_set = true;
}

void bitmapd_get_request_id(const bitmapd *handle, uint8_t ret_id[16])
{
    memcpy(ret_id, handle->request_id.bytes, sizeof handle->request_id.bytes);
}
