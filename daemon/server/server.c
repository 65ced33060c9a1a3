/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Listening, and the set of sessions.
 *
 * Everything that a turn of the loop produces is sent once, right before the
 * loop sleeps, so that many small answers to one client share a system call.
 */
#include "daemon/server/internal.h"

#include "daemon/base/log.h"

#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

static void before_sleep(uv_prepare_t *prepare)
{
    struct server *server = prepare->data;
    struct session *session;

    /* A session that goes on after a pause may take more requests, which may be done at once. */
    model_express(server->model);
    while ((session = TAILQ_FIRST(&server->unsent))) {
        TAILQ_REMOVE(&server->unsent, session, unsent_entry);
        session->in_unsent = false;
        session_flush(session);
        if (TAILQ_EMPTY(&server->unsent)) {
            model_express(server->model);
        }
    }
}

int server_new(uv_loop_t *loop, struct model *model, const struct server_settings *settings,
               const struct server_hooks *hooks, struct server **ret)
{
    CLEANUP_FREE struct server *server = calloc(1, sizeof *server);
    CLEANUP_FREE uint8_t *read_buffer = malloc(SESSION_READ_BYTES);
    CLEANUP_FREE struct range *ranges = calloc(RANGES_MAX, sizeof *ranges);
    CLEANUP_FREE struct matches *matches = calloc(ACCESS_MATCHES, sizeof *matches);
    if (!server || !read_buffer || !ranges || !matches) {
        return -ENOMEM;
    }
    server->loop = loop;
    server->model = model;
    server->settings = *settings;
    server->hooks = *hooks;
    server->fd = -1;
    TAILQ_INIT(&server->sessions);
    TAILQ_INIT(&server->unsent);
    TAILQ_INIT(&server->spare_pending);
    TAILQ_INIT(&server->orphans);
    TAILQ_INIT(&server->probes);
    TAILQ_INIT(&server->users);
    if (getrandom(server->instance.bytes, sizeof server->instance.bytes, 0) !=
        (ssize_t)sizeof server->instance.bytes) {
        return -EIO;
    }
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    server->started_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    (void)uv_prepare_init(loop, &server->before_sleep);
    server->before_sleep.data = server;
    (void)uv_prepare_start(&server->before_sleep, before_sleep);
    (void)uv_timer_init(loop, &server->rest);
    server->rest.data = server;
    server->read_buffer = STEAL(read_buffer);
    server->ranges = STEAL(ranges);
    server->matches = STEAL(matches);
    *ret = STEAL(server);
    return 0;
}

void server_configure(struct server *server, const struct server_settings *settings)
{
    struct session *session;

    server->settings = *settings;
    access_forget(server);
    TAILQ_FOREACH (session, &server->sessions, entry) {
        access_resolve(session);
    }
}

/* ---- Accepting ---- */

/* The user of a new connection; NULL: no memory. */
static struct user *user_enters(struct server *server, const struct peer *peer)
{
    struct user *user;

    TAILQ_FOREACH (user, &server->users, entry) {
        if (user->uid == peer->uid) {
            break;
        }
    }
    if (!user) {
        user = calloc(1, sizeof *user);
        if (!user) {
            return NULL;
        }
        user->uid = peer->uid;
        user->exempt = peer_is_exempt(peer);
        TAILQ_INSERT_HEAD(&server->users, user, entry);
    }
    user->connections++;
    return user;
}

void server_user_leaves(struct server *server, struct user *user)
{
    if (--user->connections == 0) {
        TAILQ_REMOVE(&server->users, user, entry);
        free(user);
    }
}

/* Closes with the reason, for whoever has the time to read it. */
static void refuse(int fd, const char *reason)
{
    struct message_error message = {.text = wire_string(reason)};
    struct wire_buffer buffer = {0};

    if (message_encode(&buffer, MESSAGE_ERROR, &message, 0, FRAME_REPLY, STATUS_LIMIT, 0) == 0) {
        (void)send(fd, buffer.data, buffer.bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    wire_buffer_deinit(&buffer);
    (void)close(fd);
}

static void accept_one(struct server *server, int fd)
{
    const struct server_settings *settings = &server->settings;
    uint32_t limit = settings->user_connections_max > 0 ? settings->user_connections_max
                                                        : (settings->connections_max + 1) / 2;
    struct peer peer;
    int r = peer_init(&peer, fd);

    if (r < 0) {
        log_warning("cannot tell who connects: %s", strerror(-r));
        (void)close(fd);
        return;
    }
    struct user *user = user_enters(server, &peer);
    if (!user) {
        (void)close(fd);
        peer_deinit(&peer);
        return;
    }
    if (!user->exempt && user->connections > limit) {
        if (access_may_tell(server, peer.uid)) {
            log_warning(
                "limits.connections_per_user: user %u has %u connections, one more was refused",
                peer.uid, user->connections - 1);
        }
        refuse(fd, "limits.connections_per_user: this user has too many connections already");
        peer_deinit(&peer);
        server_user_leaves(server, user);
        return;
    }
    session_accept(server, fd, &peer, user);
}

static void accept_ready(uv_poll_t *poll, int status, int events);

static void accept_again(uv_timer_t *timer)
{
    struct server *server = timer->data;
    if (!server->closing && server->listener_open) {
        (void)uv_poll_start(&server->listener, UV_READABLE, accept_ready);
    }
}

static void accept_ready(uv_poll_t *poll, int status, int events)
{
    struct server *server = poll->data;
    (void)events;

    if (status < 0) {
        return;
    }
    /* Level-triggered: what is left waits for the next turn. */
    for (int i = 0; i < LISTEN_BACKLOG; i++) {
        int fd = accept4(server->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) {
            if (errno == EINTR || errno == ECONNABORTED) {
                continue;
            }
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
                /* Level-triggered: the loop would spin.  The lack may end without us. */
                log_warning("cannot accept a connection: %s", strerror(errno));
                (void)uv_poll_stop(&server->listener);
                (void)uv_timer_start(&server->rest, accept_again, ACCEPT_REST_MS, 0);
            }
            return;
        }
        if (server->sessions_count >= server->settings.connections_max) {
            if (access_may_tell_of(&server->crowded, uv_now(server->loop))) {
                log_warning("limits.connections: %u clients are connected, one more was refused",
                            server->sessions_count);
            }
            refuse(fd, "limits.connections: too many clients are connected already");
            continue;
        }
        accept_one(server, fd);
    }
}

static int listen_on(struct server *server, int fd)
{
    int r = uv_poll_init(server->loop, &server->listener, fd);
    if (r < 0) {
        return r;
    }
    server->listener.data = server;
    server->listener_open = true;
    server->fd = fd;
    return uv_poll_start(&server->listener, UV_READABLE, accept_ready);
}

/* Whether a socket file has nobody behind it; then it may be replaced. */
static bool is_stale(const struct sockaddr_un *address)
{
    CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return fd >= 0 && connect(fd, (const struct sockaddr *)address, sizeof *address) < 0 &&
           errno == ECONNREFUSED;
}

int server_listen(struct server *server, const char *path, mode_t mode, gid_t group,
                  struct error *error)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) {
        return error_set(error, -ENAMETOOLONG, "socket.path '%s' is longer than %zu bytes", path,
                         sizeof address.sun_path - 1);
    }
    memcpy(address.sun_path, path, strlen(path) + 1);

    CLEANUP_FREE char *copy = strdup(path);
    CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || !copy) {
        return error_set_errno(error, fd < 0 ? -errno : -ENOMEM, "cannot make a socket");
    }
    struct stat st;
    if (lstat(path, &st) == 0) {
        if (!S_ISSOCK(st.st_mode)) {
            return error_set(error, -EEXIST, "'%s' exists and is not a socket", path);
        }
        if (!is_stale(&address)) {
            return error_set(error, -EADDRINUSE, "another program listens on '%s'", path);
        }
        if (unlink(path) < 0) {
            return error_set_errno(error, -errno, "cannot remove the old socket '%s'", path);
        }
    }
    /* Nobody may connect before mode and group are right. */
    mode_t mask = umask(0777);
    int r = bind(fd, (const struct sockaddr *)&address, sizeof address) < 0 ? -errno : 0;
    (void)umask(mask);
    if (r < 0) {
        return error_set_errno(error, r, "cannot bind '%s'", path);
    }
    if (group != (gid_t)-1 && chown(path, (uid_t)-1, group) < 0) {
        r = error_set_errno(error, -errno, "cannot give '%s' its group", path);
    } else if (chmod(path, mode) < 0) {
        r = error_set_errno(error, -errno, "cannot give '%s' its mode", path);
    } else if (listen(fd, LISTEN_BACKLOG) < 0) {
        r = error_set_errno(error, -errno, "cannot listen on '%s'", path);
    } else if ((r = listen_on(server, fd)) < 0) {
        error_set(error, r, "cannot watch '%s': %s", path, uv_strerror(r));
    }
    if (r < 0) {
        (void)unlink(path);
        if (server->listener_open) {
            server->fd = -1;
        }
        return r;
    }
    server->path = STEAL(copy);
    (void)steal_fd(&fd);
    return 0;
}

int server_listen_fd(struct server *server, int fd, struct error *error)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
        return error_set_errno(error, -errno, "cannot use the socket that was passed in");
    }
    int r = listen_on(server, fd);
    if (r < 0) {
        return error_set(error, r, "cannot watch the socket that was passed in: %s",
                         uv_strerror(r));
    }
    return 0;
}

/* ---- Closing ---- */

static void finish_close(struct server *server)
{
    if (server->handles > 0 || server->sessions_count > 0) {
        return;
    }
    void (*closed)(void *opaque) = server->closed;
    void *opaque = server->opaque;
    struct pending *pending;
    while ((pending = TAILQ_FIRST(&server->orphans))) {
        /* Who works for it frees it. */
        TAILQ_REMOVE(&server->orphans, pending, entry);
        pending->server = NULL;
    }
    while ((pending = TAILQ_FIRST(&server->spare_pending))) {
        TAILQ_REMOVE(&server->spare_pending, pending, entry);
        free(pending);
    }
    probes_forget_server(server);
    free(server->look_at);
    free(server->path);
    free(server->read_buffer);
    free(server->ranges);
    free(server->matches);
    free(server);
    closed(opaque);
}

static void handle_closed(uv_handle_t *handle)
{
    struct server *server = handle->data;
    server->handles--;
    finish_close(server);
}

void server_session_freed(struct server *server)
{
    server->sessions_count--;
    if (server->closing) {
        finish_close(server);
    } else if (uv_is_active((uv_handle_t *)&server->rest)) {
        (void)uv_timer_stop(&server->rest);
        accept_again(&server->rest);
    }
}

static void close_handles(struct model_waiter *waiter, int r)
{
    struct server *server = (struct server *)((char *)waiter - offsetof(struct server, last));
    (void)r;

    if (server->listener_open) {
        uv_close((uv_handle_t *)&server->listener, handle_closed);
        (void)close(server->fd);
        server->fd = -1;
    }
    uv_close((uv_handle_t *)&server->before_sleep, handle_closed);
    uv_close((uv_handle_t *)&server->rest, handle_closed);

    struct session *session, *next;
    for (session = TAILQ_FIRST(&server->sessions); session; session = next) {
        next = TAILQ_NEXT(session, entry);
        /* What is ready goes out as far as the socket takes it. */
        session_flush(session);
    }
    while ((session = TAILQ_FIRST(&server->sessions))) {
        session_close(session);
    }
}

/*
 * Clients whose changes wait for the container get their answers first, so
 * that an orderly stop leaves nobody in doubt; nothing new is read meanwhile.
 */
void server_close(struct server *server, void (*closed)(void *opaque), void *opaque)
{
    server->closing = true;
    server->closed = closed;
    server->opaque = opaque;
    /* Counted from now on, so that a client which leaves meanwhile does not end the server. */
    server->handles = 2 + server->listener_open;

    if (server->listener_open) {
        (void)uv_poll_stop(&server->listener);
        if (server->path) {
            (void)unlink(server->path);
        }
    }
    struct session *session;
    TAILQ_FOREACH (session, &server->sessions, entry) {
        session_stop_reading(session);
    }
    server->last.done = close_handles;
    model_wait(server->model, model_sequence(server->model), ACK_DURABLE, &server->last);
}
