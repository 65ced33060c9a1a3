/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One client's connection: bytes in, bytes out.
 *
 *     HELLO ──version agreed──▶ OPEN ──broken framing──▶ ENDING ──▶ CLOSED
 *       │                         │                                   ▲
 *       └── time out, error ──────┴──────── end of file, error ───────┘
 *
 * Each turn reads at most SESSION_READ_BYTES, so that a busy client cannot
 * starve the others, and handles the whole frames in them from the server's
 * shared buffer; only what is left over is kept by the session.
 *
 * Bounds: while too many requests are in flight or too many bytes unsent, the
 * session is paused: nothing is read, frames that are read already wait, and
 * no more of its maps and lists is made.  It goes on at half the bound.
 */
#include "daemon/server/internal.h"

#include "daemon/base/log.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

static void update_poll(struct session *session);

/* A client that never says HELLO, or does not read its last error. */
static void deadline_passed(uv_timer_t *timer)
{
    struct session *session = timer->data;
    if (session->state == SESSION_HELLO || session->state == SESSION_ENDING) {
        session_close(session);
    }
}

/* All of a user's connections together; what is held now goes on at half. */
static bool user_has_room(struct user *user, uint32_t limit)
{
    if (!user || user->exempt || user->in_flight < limit) {
        return true;
    }
    user->held = true;
    return false;
}

void session_request_begins(struct session *session)
{
    session->in_flight++;
    session->user->in_flight++;
}

void session_request_ends(struct session *session)
{
    struct user *user = session->user;
    struct session *other;

    session->in_flight--;
    user->in_flight--;
    if (user->held && user->in_flight <= session->server->settings.user_requests_max / 2) {
        user->held = false;
        TAILQ_FOREACH (other, &session->server->sessions, entry) {
            if (other->user == user && other->paused) {
                session_send_later(other);
            }
        }
    }
}

static size_t unsent_bytes(const struct session *session)
{
    return session->out.bytes - session->out_head;
}

bool session_at_bound(const struct session *session)
{
    const struct server_settings *settings = &session->server->settings;

    return session->deferral || session->in_flight >= settings->requests_max ||
           unsent_bytes(session) >= SESSION_OUT_HIGH ||
           !user_has_room(session->user, settings->user_requests_max);
}

static bool below_half(const struct session *session)
{
    const struct server_settings *settings = &session->server->settings;

    return !session->deferral && session->in_flight <= settings->requests_max / 2 &&
           unsent_bytes(session) <= SESSION_OUT_LOW &&
           user_has_room(session->user, settings->user_requests_max / 2 + 1);
}

/* ---- In ---- */

/* Keeps bytes that are not taken yet; false when memory is out. */
static bool keep_input(struct session *session, const uint8_t *data, size_t bytes)
{
    session->in_bytes = bytes;
    if (bytes == 0) {
        free(session->in);
        session->in = NULL;
        session->in_capacity = 0;
        return true;
    }
    if (bytes > session->in_capacity) {
        /* Then @data is not what is kept, since that would fit. */
        uint8_t *grown = realloc(session->in, bytes);
        if (!grown) {
            return false;
        }
        session->in = grown;
        session->in_capacity = bytes;
    }
    memmove(session->in, data, bytes);
    return true;
}

/* Handles what @data holds; the rest is kept.  False when the session has ended. */
static bool take_input(struct session *session, const uint8_t *data, size_t bytes)
{
    ssize_t taken = dispatch_frames(session, data, bytes);
    if (session->state == SESSION_CLOSED) {
        return false;
    }
    if (taken < 0) {
        session->state = SESSION_ENDING;
        streams_free(session);
        pending_abandon_maps(session);
        session_stop_reading(session);
        (void)uv_timer_start(&session->deadline, deadline_passed, SESSION_DEADLINE_MS, 0);
        session_send_later(session);
        return false;
    }
    session->paused = session_at_bound(session);
    if (!keep_input(session, data + taken, bytes - (size_t)taken)) {
        session_close(session);
        return false;
    }
    return true;
}

/*
 * Bytes to be read behind those that are kept: what the frame at their start
 * still needs, so that kept input stays within one frame; capacity grows with
 * what really arrives, never with what a header claims.
 */
static bool make_room(struct session *session, size_t *ret_room)
{
    struct frame frame;
    uint32_t needed = FRAME_HEADER_BYTES;
    if (frame_decode(session->in, session->in_bytes, FRAME_BYTES_MAX, &frame, &needed, NULL) != 0) {
        assert(false); /* whole frames are taken before more is read */
        return false;
    }

    size_t room = needed - session->in_bytes;
    if (room > session->in_bytes + 4096) {
        room = session->in_bytes + 4096;
    }
    if (session->in_capacity - session->in_bytes < room) {
        uint8_t *grown = realloc(session->in, session->in_bytes + room);
        if (!grown) {
            return false;
        }
        session->in = grown;
        session->in_capacity = session->in_bytes + room;
    }
    *ret_room = room;
    return true;
}

static void read_some(struct session *session)
{
    uint8_t *buffer = session->server->read_buffer;
    size_t room = SESSION_READ_BYTES;

    if (session->in_bytes > 0) {
        if (!make_room(session, &room)) {
            session_close(session);
            return;
        }
        buffer = session->in + session->in_bytes;
    }
    ssize_t n;
    do {
        n = recv(session->fd, buffer, room, MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n < 0) {
        if (errno != EAGAIN && errno != EWOULDBLOCK) {
            session_close(session);
        }
        return;
    }
    if (n == 0) {
        session_close(session);
        return;
    }
    if (session->in_bytes > 0) {
        session->in_bytes += (size_t)n;
        (void)take_input(session, session->in, session->in_bytes);
    } else {
        (void)take_input(session, buffer, (size_t)n);
    }
}

/* Goes on after a pause: first with frames that wait, then with the socket. */
static void resume(struct session *session)
{
    if (session->paused && below_half(session) && !session->server->closing &&
        (session->state == SESSION_HELLO || session->state == SESSION_OPEN)) {
        session->paused = false;
        if (session->in_bytes > 0) {
            (void)take_input(session, session->in, session->in_bytes);
        }
    }
}

/* ---- Out ---- */

void session_send_later(struct session *session)
{
    if (!session->in_unsent && !session->flushing && session->state != SESSION_CLOSED) {
        session->in_unsent = true;
        TAILQ_INSERT_TAIL(&session->server->unsent, session, unsent_entry);
    }
}

static void flush(struct session *session)
{
    streams_pump(session);
    if (session->out_of_memory) {
        session_close(session);
    }
    while (session->state != SESSION_CLOSED && unsent_bytes(session) > 0) {
        ssize_t n = send(session->fd, session->out.data + session->out_head, unsent_bytes(session),
                         MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            break;
        }
        if (n < 0) {
            session_close(session);
            return;
        }
        session->out_head += (size_t)n;
    }
    if (session->state == SESSION_CLOSED) {
        return;
    }
    if (unsent_bytes(session) == 0) {
        session->out.bytes = session->out_head = 0;
        if (session->out.capacity > SESSION_OUT_LOW) {
            /* An idle client keeps no large buffer. */
            wire_buffer_deinit(&session->out);
        }
        if (session->state == SESSION_ENDING && session->in_flight == 0) {
            session_close(session);
            return;
        }
    } else if (session->out_head >= SESSION_OUT_LOW) {
        memmove(session->out.data, session->out.data + session->out_head, unsent_bytes(session));
        session->out.bytes -= session->out_head;
        session->out_head = 0;
    }
    resume(session);
    if (session->out_of_memory) {
        session_close(session);
    }
    if (session->state != SESSION_CLOSED) {
        update_poll(session);
    }
}

void session_flush(struct session *session)
{
    session->flushing = true;
    flush(session);
    session->flushing = false;
}

/* ---- Turns ---- */

static void ready(uv_poll_t *poll, int status, int events)
{
    struct session *session = poll->data;

    if (status < 0) {
        session_close(session);
        return;
    }
    if (session->deferral && events & UV_DISCONNECT) {
        /* The last request is still done, as if it had not had to wait. */
        session->hung_up = true;
        session->events = 0;
        (void)uv_poll_stop(&session->poll);
        return;
    }
    if (events & (UV_READABLE | UV_DISCONNECT) &&
        (session->state == SESSION_HELLO || session->state == SESSION_OPEN) && !session->paused) {
        read_some(session);
    } else if (events & UV_DISCONNECT) {
        /* The peer is gone and nothing of what it sent is to be read. */
        session_close(session);
    }
    if (session->state != SESSION_CLOSED) {
        session_send_later(session);
    }
}

static void update_poll(struct session *session)
{
    int events = UV_DISCONNECT;

    if (session->hung_up && session->deferral) {
        return;
    }
    if ((session->state == SESSION_HELLO || session->state == SESSION_OPEN) && !session->paused &&
        !session->server->closing) {
        events |= UV_READABLE;
    }
    if (unsent_bytes(session) > 0 || !TAILQ_EMPTY(&session->streams)) {
        events |= UV_WRITABLE;
    }
    if (events != session->events) {
        session->events = events;
        (void)uv_poll_start(&session->poll, events, ready);
    }
}

void session_stop_reading(struct session *session)
{
    session->paused = true;
    update_poll(session);
}

/* ---- Life ---- */

static void handle_closed(uv_handle_t *handle)
{
    struct session *session = handle->data;
    struct server *server = session->server;

    if (--session->handles == 0) {
        free(session);
        server_session_freed(server);
    }
}

void session_accept(struct server *server, int fd, struct peer *peer, struct user *user)
{
    struct session *session = calloc(1, sizeof *session);
    if (!session) {
        (void)close(fd);
        peer_deinit(peer);
        server_user_leaves(server, user);
        return;
    }
    session->server = server;
    session->fd = fd;
    TAILQ_INIT(&session->pending);
    TAILQ_INIT(&session->streams);
    RB_INIT(&session->writers);
    int r = uv_poll_init(server->loop, &session->poll, fd);
    if (r < 0) {
        log_warning("cannot watch a connection: %s", uv_strerror(r));
        (void)close(fd);
        free(session);
        peer_deinit(peer);
        server_user_leaves(server, user);
        return;
    }
    session->peer = *peer;
    session->user = user;
    *peer = (struct peer){0};
    access_resolve(session);
    int n = snprintf(session->peer_words, sizeof session->peer_words, "uid=%u pid=%d",
                     session->peer.uid, session->peer.pid);
    session->peer_bytes = (size_t)n;
    (void)uv_timer_init(server->loop, &session->deadline);
    session->poll.data = session->deadline.data = session;
    session->handles = 2;
    TAILQ_INSERT_TAIL(&server->sessions, session, entry);
    server->sessions_count++;
    (void)uv_timer_start(&session->deadline, deadline_passed, SESSION_DEADLINE_MS, 0);
    update_poll(session);
}

void session_close(struct session *session)
{
    if (session->state == SESSION_CLOSED) {
        return;
    }
    session->state = SESSION_CLOSED;
    if (session->in_unsent) {
        session->in_unsent = false;
        TAILQ_REMOVE(&session->server->unsent, session, unsent_entry);
    }
    TAILQ_REMOVE(&session->server->sessions, session, entry);

    if (session->deferral) {
        deferral_free(session->deferral);
    }
    struct pending *pending;
    while ((pending = TAILQ_FIRST(&session->pending))) {
        pending_abandon(pending);
    }
    streams_free(session);
    session_writers_lost(session);
    free(session->in);
    session->in = NULL;
    wire_buffer_deinit(&session->out);
    peer_deinit(&session->peer);
    server_user_leaves(session->server, session->user);
    session->user = NULL;

    uv_close((uv_handle_t *)&session->poll, handle_closed);
    uv_close((uv_handle_t *)&session->deadline, handle_closed);
    (void)close(session->fd);
    session->fd = -1;
}
