/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_SERVER_SERVER_H
#define BITMAPD_DAEMON_SERVER_SERVER_H

#include "daemon/drive/model.h"
#include "proto/base/access.h"
#include "proto/base/error.h"

#include <stdint.h>
#include <sys/types.h>
#include <uv.h>

/*
 * The server: listens on a Unix socket and speaks the protocol of
 * proto/protocol.md with every client, on behalf of one model.
 *
 * Thread: the event loop's.  Nothing here blocks.
 */
struct server;

/* What libuv's pool should have: paths that hang may take all but four of them. */
#define SERVER_POOL_THREADS 16u

struct server_settings {
    uint32_t connections_max;
    uint32_t user_connections_max; /* of one user; 0: half of all */
    uint32_t requests_max;         /* in flight on one connection */
    uint32_t user_requests_max;    /* in flight on all of a user's */
    uint32_t streams_max;          /* maps and lists in flight on one connection */
    uint64_t map_bytes_max;        /* of maps that are made and not yet sent; 0: no limit */
    uint32_t unsettled_max;        /* told to clients; the model enforces it */
    uint32_t drive_bitmaps_max;    /* of one drive, for who does not administer it to make more */

    /* Who may do what: borrowed until others are given. */
    const struct access_rule *rules;
    uint32_t rules_count; /* <= ACCESS_RULES_MAX */
    gid_t admin_group;    /* its members administer; (gid_t)-1: none */
};

/* Tells the outcome of a reload, once: 0, or -errno with words. */
typedef void server_reload_done(void *opaque, int r, const struct error *error);

struct server_hooks {
    /* RELOAD: reads the configuration anew, without blocking the loop. */
    void (*reload)(void *opaque, server_reload_done *done, void *done_opaque);
    void *opaque;
};

/* The caller owns *ret (server_close()); -ENOMEM, or libuv's errors. */
int server_new(uv_loop_t *loop, struct model *model, const struct server_settings *settings,
               const struct server_hooks *hooks, struct server **ret);

/*
 * Makes a Unix socket at @path and listens.  A socket that nobody listens on
 * any more is replaced, anything else under the name is refused (-EADDRINUSE,
 * -EEXIST).  @group: numeric, (gid_t)-1 to leave it.
 */
int server_listen(struct server *server, const char *path, mode_t mode, gid_t group,
                  struct error *error);
/* Listens on a socket that was made by the service manager; takes over @fd on success. */
int server_listen_fd(struct server *server, int fd, struct error *error);

/* Takes effect at once, for connections that are there as well. */
void server_configure(struct server *server, const struct server_settings *settings);

/*
 * Stops listening (a socket of our own making is unlinked), ends all
 * connections, closes every handle, frees the server, then calls @closed.
 */
void server_close(struct server *server, void (*closed)(void *opaque), void *opaque);

#endif
