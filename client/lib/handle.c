/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A handle's life, its errors, and the calls of an event loop.
 *
 * bitmapd_dispatch() is the only place from which anything moves: what has
 * arrived is taken in, completions are called, and only then is sent what
 * they and others have queued, so that a loop of "complete, mark again" costs
 * one recv(2) and one send(2) a turn however many requests are in it.
 */
#include "client/lib/internal.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- Life ---- */

bitmapd *bitmapd_new(void)
{
    struct bitmapd *handle = calloc(1, sizeof *handle);
    if (!handle) {
        return NULL;
    }
    handle->fd = -1;
    handle->next_mark_id = 1;
    handle->backoff_ms = BACKOFF_MS_MIN;
    TAILQ_INIT(&handle->to_issue);
    TAILQ_INIT(&handle->in_flight);
    TAILQ_INIT(&handle->parked);
    TAILQ_INIT(&handle->done);
    TAILQ_INIT(&handle->recycled);
    TAILQ_INIT(&handle->writers);
    return handle;
}

void bitmapd_close(bitmapd *handle)
{
    struct writer *writer;

    if (!handle) {
        return;
    }
    handle->closing = true;
    connection_end(handle, -ECANCELED, "the handle was closed");
    handle->dispatching = true;
    queue_complete(handle);
    while ((writer = TAILQ_FIRST(&handle->writers))) {
        writer_free(handle, writer);
    }
    queue_deinit(handle);
    connection_deinit(handle);
    wire_buffer_deinit(&handle->send);
    wire_buffer_deinit(&handle->receive);
    wire_buffer_deinit(&handle->text);
    wire_buffer_deinit(&handle->scratch);
    free(handle);
}

/* ---- Errors ---- */

void client_clear_error(struct bitmapd *handle)
{
    handle->error.text[0] = '\0';
    handle->status = STATUS_OK;
}

int client_fail(struct bitmapd *handle, int r, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(handle->error.text, sizeof handle->error.text, format, args);
    va_end(args);
    return r;
}

int client_check_usable(struct bitmapd *handle)
{
    if (handle->closing) {
        return client_fail(handle, -ECANCELED, "the handle is being closed");
    }
    if (handle->state == CONNECTION_NONE) {
        return client_fail(handle, -ENOTCONN, "%s",
                           handle->lost_words[0] ? handle->lost_words : "not connected");
    }
    return 0;
}

void client_copy_words(char *to, size_t size, struct wire_string text)
{
    size_t length = text.length;

    if (length >= size) {
        length = size - 1;
        while (length > 0 && ((unsigned char)text.data[length] & 0xc0) == 0x80) {
            length--; /* not in the middle of a character */
        }
    }
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text.data[i];
        /* C0 and DEL; C1, which UTF-8 writes as 0xc2 and the code. */
        bool control = c < 0x20 || c == 0x7f ||
                       (c == 0xc2 && i + 1 < length && (unsigned char)text.data[i + 1] >= 0x80 &&
                        (unsigned char)text.data[i + 1] < 0xa0);
        to[i] = control ? '?' : text.data[i];
        if (control && c == 0xc2) {
            to[++i] = '?';
        }
    }
    to[length] = '\0';
}

const char *bitmapd_error(const bitmapd *handle)
{
    return handle->error.text;
}

int bitmapd_status_code(const bitmapd *handle)
{
    return handle->status;
}

/* ---- Event loop ---- */

uint64_t client_now_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int bitmapd_fd(const bitmapd *handle)
{
    return handle->fd;
}

unsigned bitmapd_events(const bitmapd *handle)
{
    bool unsent = handle->send_done < handle->send.bytes;

    switch (handle->state) {
    case CONNECTION_NONE:
    case CONNECTION_WAITING:
        return 0;
    case CONNECTION_CONNECTING:
        return POLLOUT;
    case CONNECTION_HELLO:
    case CONNECTION_READY:
        return POLLIN | (unsent || queue_can_issue(handle) ? POLLOUT : 0);
    }
    abort();
}

int bitmapd_timeout_ms(const bitmapd *handle)
{
    if (!TAILQ_EMPTY(&handle->done)) {
        return 0;
    }
    uint64_t next_ns = connection_next_timer_ns(handle);
    if (next_ns == 0) {
        return -1;
    }
    uint64_t now_ns = client_now_ns();
    if (next_ns <= now_ns) {
        return 0;
    }
    /* Rounded up, so that the timer is due when the time is over. */
    uint64_t ms = (next_ns - now_ns + 999999u) / 1000000u;
    return ms > 1000000u ? 1000000 : (int)ms;
}

void client_dispatch(bitmapd *handle, unsigned revents)
{
    handle->dispatching = true;
    connection_timers(handle);
    if (handle->state == CONNECTION_CONNECTING && (revents & (POLLOUT | POLLERR | POLLHUP))) {
        connection_connected(handle);
    } else if ((handle->state == CONNECTION_HELLO || handle->state == CONNECTION_READY) &&
               (revents & (POLLIN | POLLERR | POLLHUP))) {
        io_receive(handle);
    }
    queue_complete(handle);
    queue_issue(handle);
    if (handle->state == CONNECTION_HELLO || handle->state == CONNECTION_READY) {
        io_send(handle);
    }
    queue_complete(handle);
    handle->dispatching = false;
}

/* 0, or why there is no connection any more. */
static int check_lost(bitmapd *handle)
{
    if (handle->state == CONNECTION_NONE && handle->lost_result < 0) {
        return client_fail(handle, handle->lost_result, "%s", handle->lost_words);
    }
    return 0;
}

int bitmapd_dispatch(bitmapd *handle, unsigned revents)
{
    if (handle->dispatching) {
        return client_fail(handle, -EDEADLK, "not from within a completion");
    }
    client_dispatch(handle, revents);
    return check_lost(handle);
}

size_t bitmapd_pending(const bitmapd *handle)
{
    size_t pending = handle->pending + handle->settles_in_flight;
    const struct writer *writer;

    TAILQ_FOREACH (writer, &handle->writers, entry) {
        pending += writer->settles.count > 0;
    }
    return pending;
}

int bitmapd_drain(bitmapd *handle)
{
    client_clear_error(handle);
    if (handle->dispatching) {
        return client_fail(handle, -EDEADLK, "not from within a completion");
    }
    client_dispatch(handle, 0);
    while (bitmapd_pending(handle) > 0 && handle->state != CONNECTION_NONE) {
        client_turn(handle);
    }
    client_clear_error(handle);
    int lost = check_lost(handle);
    if (lost < 0) {
        return lost;
    }
    if (handle->settle_result < 0) {
        int r = handle->settle_result;
        handle->settle_result = 0;
        return client_fail(handle, r, "settle: %s", handle->settle_words);
    }
    return 0;
}
