/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Bytes to and from the socket, and the frames in them.
 *
 * All requests are encoded one behind the other into one buffer, so that any
 * number of them leaves with one system call; replies are taken apart where
 * recv(2) put them.  The receive buffer grows to what a frame needs and never
 * beyond FRAME_BYTES_MAX plus what one recv(2) may add, whatever the daemon
 * announces.
 *
 * Nothing here blocks, and nothing raises SIGPIPE.
 */
#include "client/lib/internal.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

/* So many full buffers are taken in one dispatch before others get their turn. */
#define RECEIVE_ROUNDS 16

static uint32_t frame_limit(const struct bitmapd *handle)
{
    return handle->state == CONNECTION_READY ? FRAME_BYTES_MAX : FRAME_BYTES_HELLO_MAX;
}

/* The daemon's words with which it leaves; the end of the connection follows. */
static void take_farewell(struct bitmapd *handle, const struct frame *frame)
{
    struct message_error message;
    if (message_decode(MESSAGE_ERROR, frame->payload, frame->payload_bytes, true, &message, NULL) <
            0 ||
        message.text.length == 0) {
        message.text = wire_string(status_text(frame->status));
    }
    client_copy_words(handle->farewell, sizeof handle->farewell, message.text);
}

/* Handles every whole frame.  Returns whether the connection still stands. */
static bool take_frames(struct bitmapd *handle)
{
    struct wire_buffer *buffer = &handle->receive;
    size_t at = 0;
    int fd = handle->fd;

    for (;;) {
        struct frame frame;
        struct error error;
        uint32_t needed = 0;

        int r = frame_decode(buffer->data + at, buffer->bytes - at, frame_limit(handle), &frame,
                             &needed, &error);
        if (r == 0) {
            buffer->bytes -= at;
            memmove(buffer->data, buffer->data + at, buffer->bytes);
            if (wire_buffer_reserve(buffer, needed - buffer->bytes) < 0) {
                connection_lost(handle, -ENOMEM, "no memory for a reply of %u bytes", needed);
                return false;
            }
            return true;
        }
        if (r > 0 && !(frame.flags & FRAME_REPLY)) {
            r = error_set(&error, -EPROTO, "expected replies, found a request (%s)",
                          operation_name(frame.operation));
        }
        if (r < 0) {
            connection_end(handle, r, "the daemon broke the protocol: %s", error.text);
            return false;
        }
        at += (size_t)r;

        if (handle->state == CONNECTION_HELLO) {
            r = connection_take_hello(handle, &frame);
            if (r < 0) {
                return false;
            }
        } else if (frame.cookie == 0 && frame.status != STATUS_OK) {
            take_farewell(handle, &frame);
        } else {
            r = queue_take_reply(handle, &frame, &error);
            if (r < 0) {
                connection_end(handle, r, "the daemon broke the protocol: %s", error.text);
                return false;
            }
        }
        if (handle->fd != fd) {
            return false;
        }
    }
}

void io_receive(struct bitmapd *handle)
{
    struct wire_buffer *buffer = &handle->receive;

    for (int i = 0; i < RECEIVE_ROUNDS; i++) {
        if (buffer->capacity < RECEIVE_BYTES_MIN &&
            wire_buffer_reserve(buffer, RECEIVE_BYTES_MIN) < 0) {
            connection_lost(handle, -ENOMEM, "no memory for replies");
            return;
        }
        size_t room = buffer->capacity - buffer->bytes;
        assert(room > 0);
        ssize_t n = recv(handle->fd, buffer->data + buffer->bytes, room, MSG_DONTWAIT);
        if (n < 0) {
            if (errno == EINTR) {
                continue;
            }
            if (errno != EAGAIN) {
                connection_lost(handle, -errno, "receiving: %s", strerrordesc_np(errno));
            }
            return;
        }
        if (n == 0) {
            connection_lost(handle, -ECONNRESET, "the daemon closed the connection%s%s",
                            handle->farewell[0] ? ": " : "", handle->farewell);
            return;
        }
        buffer->bytes += (size_t)n;
        if (!take_frames(handle) || (size_t)n < room) {
            return;
        }
    }
}

void io_send(struct bitmapd *handle)
{
    struct wire_buffer *buffer = &handle->send;

    while (handle->send_done < buffer->bytes) {
        ssize_t n = send(handle->fd, buffer->data + handle->send_done,
                         buffer->bytes - handle->send_done, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0) {
            if (errno == EINTR) {
                continue;
            }
            if (errno == EAGAIN) {
                break;
            }
            int r = -errno;
            int fd = handle->fd;
            /* What the daemon said before it closed may still be there, its reasons too. */
            io_receive(handle);
            if (handle->fd == fd) {
                connection_lost(handle, r, "sending: %s", strerrordesc_np(-r));
            }
            return;
        }
        handle->send_done += (size_t)n;
        handle->stream_sent += (uint64_t)n;
    }
    if (handle->send_done == buffer->bytes) {
        handle->send_done = 0;
        buffer->bytes = 0;
    } else if (handle->send_done > buffer->bytes / 2) {
        buffer->bytes -= handle->send_done;
        memmove(buffer->data, buffer->data + handle->send_done, buffer->bytes);
        handle->send_done = 0;
    }
}

void io_reset(struct bitmapd *handle)
{
    handle->send.bytes = 0;
    handle->send_done = 0;
    handle->stream_queued = 0;
    handle->stream_sent = 0;
    handle->receive.bytes = 0;
    handle->farewell[0] = '\0';
}
