/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One connection after the other.
 *
 *                bitmapd_connect()
 *     NONE ─────────────────────────────▶ CONNECTING ◀──────────┐
 *      ▲                                   │      │             │ retry_ns
 *      │                         connected │      │ refused     │
 *      │                                   ▼      ├─────────▶ WAITING
 *      │                                 HELLO ───┤             ▲
 *      │                                   │ lost │             │
 *      │                          answered │      │             │
 *      │                                   ▼      │             │
 *      │                                 READY ───┴─────────────┘
 *      │
 *      └── every state, when: no reconnect timeout is set, deadline_ns has
 *          passed, the daemon broke the protocol, refused us, or is another one
 *
 * deadline_ns begins with the loss of a connection that worked, and is kept
 * until a new one has proved that it works by answering a request: a daemon
 * that dies of what we send again is not sought for ever.  It binds while a
 * connection is being made and until every writer has found its way back.
 */
#include "client/lib/internal.h"

#include "proto/base/checked.h"
#include "proto/base/cleanup.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define NS_PER_S  UINT64_C(1000000000)
#define NS_PER_MS UINT64_C(1000000)

static const char default_client_name[] = "libbitmapd " BITMAPD_VERSION;

/* What is left of a connection when it is over; requests are the caller's to see to. */
static void connection_drop(struct bitmapd *handle)
{
    if (handle->fd >= 0) {
        (void)close(handle->fd);
        handle->fd = -1;
    }
    queue_connection_lost(handle);
    recover_connection_lost(handle);
    io_reset(handle);
    handle->recovered_ns = 0;
}

static void store_reason(struct bitmapd *handle, int r, const char *format, va_list args)
{
    handle->lost_result = r;
    (void)vsnprintf(handle->lost_words, sizeof handle->lost_words, format, args);
}

/* Everything fails with @r, in the words of lost_words. */
static void give_up(struct bitmapd *handle, int r)
{
    handle->state = CONNECTION_NONE;
    handle->lost_result = r;
    handle->deadline_ns = 0;
    if (r != -ENOTCONN) {
        /* There is a better reason than a broken connection. */
        queue_fail_in_flight(handle, r, handle->lost_words);
    }
    connection_drop(handle);
    queue_fail_all(handle, r, handle->lost_words);
}

void connection_end(struct bitmapd *handle, int r, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    store_reason(handle, r, format, args);
    va_end(args);
    give_up(handle, r);
}

static void wait_for_retry(struct bitmapd *handle, uint64_t now_ns)
{
    handle->state = CONNECTION_WAITING;
    handle->retry_ns = min_u64(now_ns + handle->backoff_ms * NS_PER_MS, handle->deadline_ns);
    handle->backoff_ms = (unsigned)min_u64(handle->backoff_ms * 2u, BACKOFF_MS_MAX);
}

void connection_lost(struct bitmapd *handle, int r, const char *format, ...)
{
    uint64_t now_ns = client_now_ns();
    uint64_t timeout_ns = handle->reconnect_timeout_s * NS_PER_S;
    va_list args;

    va_start(args, format);
    store_reason(handle, r, format, args);
    va_end(args);

    if (handle->first) {
        give_up(handle, r);
        return;
    }
    if (timeout_ns == 0 || handle->only_this) {
        give_up(handle, -ENOTCONN);
        return;
    }
    bool lasted = handle->recovered_ns && now_ns - handle->recovered_ns > timeout_ns;
    if (handle->deadline_ns == 0 || lasted) {
        handle->deadline_ns = now_ns + timeout_ns;
        handle->backoff_ms = BACKOFF_MS_MIN;
    }
    connection_drop(handle);
    if (now_ns >= handle->deadline_ns) {
        give_up(handle, -ENOTCONN);
        return;
    }
    wait_for_retry(handle, now_ns);
}

void connection_proven(struct bitmapd *handle)
{
    if (handle->recovered_ns) {
        handle->deadline_ns = 0;
    }
}

void connection_check_recovered(struct bitmapd *handle)
{
    struct writer *writer;

    if (handle->state != CONNECTION_READY || handle->recovered_ns) {
        return;
    }
    TAILQ_FOREACH (writer, &handle->writers, entry) {
        if (writer->state != WRITER_READY && writer->state != WRITER_LOST) {
            return;
        }
    }
    handle->recovered_ns = client_now_ns();
    if (handle->pending == 0) {
        connection_proven(handle);
    }
}

/* ---- connect(2) and HELLO ---- */

static void say_hello(struct bitmapd *handle)
{
    struct message_hello hello = {
        .magic = PROTOCOL_MAGIC,
        .version_min = PROTOCOL_VERSION_MIN,
        .version_max = PROTOCOL_VERSION_MAX,
        .client = wire_string(handle->client_name[0] ? handle->client_name : default_client_name),
    };
    int r = message_encode(&handle->send, MESSAGE_HELLO, &hello, OPERATION_HELLO, 0, 0, 1);
    if (r < 0) {
        connection_lost(handle, r, "no memory for the first frame");
        return;
    }
    handle->state = CONNECTION_HELLO;
}

static void connection_start(struct bitmapd *handle)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(handle->path);

    assert(handle->fd < 0 && length < sizeof address.sun_path);
    memcpy(address.sun_path, handle->path, length);

    handle->state = CONNECTION_CONNECTING;
    handle->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (handle->fd < 0) {
        connection_lost(handle, -errno, "socket: %s", strerrordesc_np(errno));
        return;
    }
    int r = connect(handle->fd, (const struct sockaddr *)&address, sizeof address);
    if (r == 0) {
        say_hello(handle);
    } else if (errno == EAGAIN) {
        /* The listener's queue is full.  poll(2) cannot wait for it. */
        connection_drop(handle);
        wait_for_retry(handle, client_now_ns());
    } else if (errno != EINPROGRESS) {
        r = -errno;
        connection_lost(handle, r, "connect to %s: %s", handle->path, strerrordesc_np(-r));
    }
}

void connection_connected(struct bitmapd *handle)
{
    int failure = 0;
    socklen_t size = sizeof failure;

    if (getsockopt(handle->fd, SOL_SOCKET, SO_ERROR, &failure, &size) < 0) {
        failure = errno;
    }
    if (failure) {
        connection_lost(handle, -failure, "connect to %s: %s", handle->path,
                        strerrordesc_np(failure));
        return;
    }
    say_hello(handle);
}

/* A status that another attempt may not meet. */
static bool is_passing(uint8_t status)
{
    return status == STATUS_SHUTTING_DOWN || status == STATUS_BUSY || status == STATUS_LIMIT ||
           status == STATUS_NO_MEMORY || status == STATUS_IO;
}

static int hello_refused(struct bitmapd *handle, const struct frame *frame)
{
    struct message_error message;
    char words[200];

    if (message_decode(MESSAGE_ERROR, frame->payload, frame->payload_bytes, true, &message, NULL) <
            0 ||
        message.text.length == 0) {
        message.text = wire_string(status_text(frame->status));
    }
    client_copy_words(words, sizeof words, message.text);
    int r = status_to_errno(frame->status);
    if (is_passing(frame->status)) {
        connection_lost(handle, r, "the daemon refused the connection: %s", words);
    } else {
        connection_end(handle, r, "the daemon refused the connection: %s", words);
    }
    handle->status = frame->status;
    return r;
}

static int hello_broken(struct bitmapd *handle, const char *words)
{
    connection_end(handle, -EPROTO, "the daemon broke the protocol: %s", words);
    return -EPROTO;
}

int connection_take_hello(struct bitmapd *handle, const struct frame *frame)
{
    struct message_hello_reply reply;
    struct error error;

    if (frame->status != STATUS_OK && (frame->cookie == 0 || frame->cookie == 1)) {
        return hello_refused(handle, frame);
    }
    if (frame->operation != OPERATION_HELLO || frame->cookie != 1 || (frame->flags & FRAME_MORE)) {
        return hello_broken(handle, "the first reply does not answer the first request");
    }
    if (message_decode(MESSAGE_HELLO_REPLY, frame->payload, frame->payload_bytes, true, &reply,
                       &error) < 0) {
        return hello_broken(handle, error.text);
    }
    if (reply.version < PROTOCOL_VERSION_MIN || reply.version > PROTOCOL_VERSION_MAX) {
        return hello_broken(handle, "it chose a version that was not offered");
    }
    if (reply.frame_bytes_max < FRAME_BYTES_HELLO_MAX || reply.requests_max == 0) {
        return hello_broken(handle, "its limits leave no room for requests");
    }
    if (handle->known &&
        memcmp(&handle->container, &reply.container, sizeof reply.container) != 0) {
        /* Ids of drives mean nothing there: marks would go to the wrong drive. */
        connection_end(handle, -ESTALE, "%s is now served for another container", handle->path);
        return -ESTALE;
    }
    int r = queue_slots_init(handle, reply.requests_max);
    if (r < 0) {
        connection_lost(handle, r, "no memory for %u requests in flight", reply.requests_max);
        return r;
    }
    handle->known = true;
    handle->container = reply.container;
    handle->frame_bytes_max = (uint32_t)min_u64(reply.frame_bytes_max, FRAME_BYTES_MAX);
    handle->unsettled_max = reply.unsettled_max;
    if (handle->first) {
        /* From here on it is the writers' way back that may take so long. */
        handle->first = false;
        handle->deadline_ns = handle->reconnect_timeout_s && !TAILQ_EMPTY(&handle->writers)
                                  ? client_now_ns() + handle->reconnect_timeout_s * NS_PER_S
                                  : 0;
    }
    handle->state = CONNECTION_READY;
    connection_check_recovered(handle);
    return 0;
}

/* ---- Time ---- */

static bool deadline_binds(const struct bitmapd *handle)
{
    return handle->deadline_ns != 0 && handle->state != CONNECTION_NONE && !handle->recovered_ns;
}

uint64_t connection_next_timer_ns(const struct bitmapd *handle)
{
    uint64_t next_ns = deadline_binds(handle) ? handle->deadline_ns : UINT64_MAX;

    if (handle->state == CONNECTION_WAITING) {
        next_ns = min_u64(next_ns, handle->retry_ns);
    }
    if (handle->state == CONNECTION_READY) {
        const struct writer *writer;
        TAILQ_FOREACH (writer, &handle->writers, entry) {
            if (writer->state == WRITER_BUSY) {
                next_ns = min_u64(next_ns, writer->retry_ns);
            }
        }
    }
    return next_ns == UINT64_MAX ? 0 : next_ns;
}

void connection_timers(struct bitmapd *handle)
{
    if (connection_next_timer_ns(handle) == 0) {
        return;
    }
    uint64_t now_ns = client_now_ns();
    if (deadline_binds(handle) && now_ns >= handle->deadline_ns) {
        if (handle->first) {
            connection_end(handle, -ETIMEDOUT, "connect to %s: no answer within %u s", handle->path,
                           CONNECT_TIMEOUT_S);
            return;
        }
        struct writer *writer;
        bool only_busy = handle->state == CONNECTION_READY;
        TAILQ_FOREACH (writer, &handle->writers, entry) {
            only_busy &= writer->state == WRITER_READY || writer->state == WRITER_LOST ||
                         writer->state == WRITER_BUSY;
        }
        if (!only_busy) {
            /* lost_words still say what went wrong last. */
            give_up(handle, -ENOTCONN);
            return;
        }
        TAILQ_FOREACH (writer, &handle->writers, entry) {
            if (writer->state == WRITER_BUSY) {
                writer_lose(handle, writer, -EOWNERDEAD,
                            "the writer's token is in use by another connection");
            }
        }
        return;
    }
    if (handle->state == CONNECTION_WAITING && now_ns >= handle->retry_ns) {
        connection_start(handle);
    }
}

/* ---- Public ---- */

int bitmapd_set_client_name(bitmapd *handle, const char *name)
{
    client_clear_error(handle);
    int r = client_check_text(handle, "client name", name, CLIENT_NAME_BYTES_MAX);
    if (r < 0) {
        return r;
    }
    memcpy(handle->client_name, name, strlen(name) + 1);
    return 0;
}

int bitmapd_set_reconnect_timeout(bitmapd *handle, unsigned seconds)
{
    client_clear_error(handle);
    handle->reconnect_timeout_s = seconds;
    return 0;
}

static int check_connect(struct bitmapd *handle)
{
    client_clear_error(handle);
    if (handle->dispatching || handle->closing) {
        return client_fail(handle, -EDEADLK, "not from within a completion");
    }
    if (handle->state != CONNECTION_NONE) {
        return client_fail(handle, -EISCONN, "connected already");
    }
    if (handle->only_this) {
        return client_fail(handle, -EPERM, "the handle was bound to a connection that is gone");
    }
    return 0;
}

/* Begins to connect to @path (taken over), or with a descriptor that is connected, and waits. */
static int connect_and_wait(struct bitmapd *handle, char *path, int fd)
{
    free(handle->path);
    handle->path = path;
    handle->first = true;
    handle->backoff_ms = BACKOFF_MS_MIN;
    handle->deadline_ns = client_now_ns() + CONNECT_TIMEOUT_S * NS_PER_S;
    handle->lost_result = 0;
    handle->lost_words[0] = '\0';
    if (fd >= 0) {
        handle->fd = fd;
        say_hello(handle);
    } else {
        connection_start(handle);
    }
    while (handle->first && handle->state != CONNECTION_NONE) {
        client_turn(handle);
    }
    handle->first = false;
    if (handle->state == CONNECTION_NONE) {
        uint8_t status = handle->status;
        (void)client_fail(handle, handle->lost_result, "%s", handle->lost_words);
        handle->status = status;
        return handle->lost_result;
    }
    return 0;
}

int bitmapd_connect_fd(bitmapd *handle, int fd)
{
    int r = check_connect(handle);
    if (r < 0) {
        return r;
    }
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
        fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
        return client_fail(handle, -errno, "the descriptor: %s", strerrordesc_np(errno));
    }
    char *name = strdup("the connection that was handed over");
    if (!name) {
        return client_fail(handle, -ENOMEM, "out of memory");
    }
    handle->only_this = true;
    return connect_and_wait(handle, name, fd);
}

int bitmapd_connect(bitmapd *handle, const char *path)
{
    int r = check_connect(handle);
    if (r < 0) {
        return r;
    }
    if (!path) {
        path = secure_getenv("BITMAPD_SOCKET");
    }
    if (!path || path[0] == '\0') {
        path = BITMAPD_SOCKET_DEFAULT;
    }
    size_t length_max = sizeof(struct sockaddr_un) - offsetof(struct sockaddr_un, sun_path) - 1;
    if (strlen(path) > length_max) {
        return client_fail(handle, -ENAMETOOLONG, "socket path has %zu bytes, more than %zu",
                           strlen(path), length_max);
    }
    char *copy = strdup(path);
    if (!copy) {
        return client_fail(handle, -ENOMEM, "out of memory");
    }
    return connect_and_wait(handle, copy, -1);
}

void connection_deinit(struct bitmapd *handle)
{
    if (handle->fd >= 0) {
        (void)close(handle->fd);
    }
    free(handle->path);
}
