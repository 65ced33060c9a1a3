/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs the daemon's loop turn by turn, and is the client between the turns.
 *
 * Callgrind starts without collecting, and collects in turns of the loop only.  Without valgrind
 * its requests do nothing.
 */
#include "tests/instructions/session.h"

#include "daemon/base/log.h"
#include "proto/frame.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#if __has_include(<valgrind/callgrind.h>)
#include <valgrind/callgrind.h>
#else
#define CALLGRIND_ZERO_STATS          (void)0
#define CALLGRIND_TOGGLE_COLLECT      (void)0
#define CALLGRIND_DUMP_STATS_AT(name) (void)(name)
#endif

#define IN_BYTES (2 * FRAME_BYTES_MAX)

static void check(int r, const struct error *error, const char *what)
{
    if (r < 0) {
        (void)fprintf(stderr, "%s: %s: %s\n", what, strerror(-r), error ? error->text : "");
        exit(EXIT_FAILURE);
    }
}

/* ---- Steps ---- */

void step_begin(void)
{
    CALLGRIND_ZERO_STATS;
}

void step_end(const char *name, uint64_t operations)
{
    CALLGRIND_DUMP_STATS_AT(name);
    (void)printf("%s %llu\n", name, (unsigned long long)operations);
}

/* ---- The daemon ---- */

static char *join(const char *directory, const char *name)
{
    char *path = NULL;
    int bytes = asprintf(&path, "%s/%s", directory, name);
    assert(bytes > 0);
    return path;
}

void session_pair_init(struct session_pair *pair, const char *directory)
{
    memset(pair, 0, sizeof *pair);
    pair->container = join(directory, "bitmaps.qcow2");
    pair->journal = join(directory, "journal");
    pair->socket = join(directory, "socket");
    pair->in = malloc(IN_BYTES);
    assert(pair->in);
    log_set_level(LOG_LEVEL_WARNING);
    check(uv_loop_init(&pair->loop), NULL, "loop");
}

void session_pair_start(struct session_pair *pair)
{
    /* As config/bitmapd.yaml has them; but nothing happens that no request asks for. */
    struct model_settings settings = {
        .files = &file_system_posix,
        .boot_id = {1},
        .container_path = pair->container,
        .cluster_bits = 16,
        .journal_path = pair->journal,
        .journal_segment_bytes = UINT64_C(16) << 20,
        .flush_interval_ns = UINT64_C(3600000000000),
        .flush_dirty_limit = UINT64_MAX,
        .granularity = 65536,
        .durability = DURABILITY_POWER_LOSS,
        .drives_max = 100,
        .bitmaps_max = 1000,
        .unsettled_max = 65536,
    };
    struct error error = {""};

    CALLGRIND_TOGGLE_COLLECT;
    int r = model_open(&pair->loop, &settings, 0, &pair->model, &error);
    CALLGRIND_TOGGLE_COLLECT;
    check(r, &error, "start");
}

static void no_reload(void *opaque, server_reload_done *done, void *done_opaque)
{
    (void)opaque;
    done(done_opaque, 0, NULL);
}

void session_pair_connect(struct session_pair *pair)
{
    struct server_settings settings = {
        .connections_max = 10,
        .requests_max = 1024,
        .streams_max = 8,
        .unsettled_max = 65536,
    };
    struct server_hooks hooks = {.reload = no_reload};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct error error = {""};

    check(server_new(&pair->loop, pair->model, &settings, &hooks, &pair->server), NULL, "server");
    check(server_listen(pair->server, pair->socket, 0600, (gid_t)-1, &error), &error, "listen");
    assert(strlen(pair->socket) < sizeof address.sun_path);
    memcpy(address.sun_path, pair->socket, strlen(pair->socket) + 1);
    pair->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert(pair->fd >= 0);
    int r = connect(pair->fd, (const struct sockaddr *)&address, sizeof address);
    check(r < 0 ? -errno : 0, NULL, "connect");

    struct message_hello hello = {
        .magic = PROTOCOL_MAGIC,
        .version_min = PROTOCOL_VERSION_MIN,
        .version_max = PROTOCOL_VERSION_MAX,
        .client = wire_string("instructions"),
    };
    session_pair_put(pair, OPERATION_HELLO, &hello);
    session_pair_exchange(pair, false);
}

/* ---- The client ---- */

void session_pair_put(struct session_pair *pair, enum operation operation, const void *message)
{
    int r = message_encode(&pair->out, message_request_type(operation), message, operation, 0, 0,
                           ++pair->cookie);
    check(r, NULL, operation_name(operation));
    pair->requests++;
}

static void take_reply(struct session_pair *pair, const struct frame *frame)
{
    struct error error = {""};

    if (frame->status != 0) {
        struct message_error message = {{NULL, 0}};
        (void)message_decode(MESSAGE_ERROR, frame->payload, frame->payload_bytes, 1, &message,
                             NULL);
        (void)fprintf(stderr, "%s: status %u: %.*s\n", operation_name(frame->operation),
                      frame->status, message.text.length, message.text.data);
        exit(EXIT_FAILURE);
    }
    if (frame->flags & FRAME_MORE) {
        return;
    }
    if (frame->operation == OPERATION_ATTACH) {
        struct message_attach_reply message;
        check(message_decode(MESSAGE_ATTACH_REPLY, frame->payload, frame->payload_bytes, 1,
                             &message, &error),
              &error, "attach");
        pair->drive = message.drive;
    } else if (frame->operation == OPERATION_MAP) {
        struct message_map_end message;
        check(message_decode(MESSAGE_MAP_END, frame->payload, frame->payload_bytes, 1, &message,
                             &error),
              &error, "map");
        pair->runs = message.runs;
    }
    assert(pair->requests > 0);
    pair->requests--;
}

static void take_replies(struct session_pair *pair)
{
    struct error error = {""};

    for (;;) {
        ssize_t n =
            recv(pair->fd, pair->in + pair->in_bytes, IN_BYTES - pair->in_bytes, MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN) {
            return;
        }
        check(n > 0 ? 0 : -ECONNRESET, NULL, "the daemon's answer");
        pair->in_bytes += (size_t)n;
        size_t taken = 0;
        for (;;) {
            struct frame frame;
            uint32_t needed;
            int r = frame_decode(pair->in + taken, pair->in_bytes - taken, FRAME_BYTES_MAX, &frame,
                                 &needed, &error);
            check(r, &error, "the daemon's answer");
            if (r == 0) {
                break;
            }
            take_reply(pair, &frame);
            taken += (size_t)r;
        }
        pair->in_bytes -= taken;
        memmove(pair->in, pair->in + taken, pair->in_bytes);
    }
}

void session_pair_exchange(struct session_pair *pair, bool counted)
{
    /* All at once and before the daemon runs; it has room in the socket. */
    ssize_t n = send(pair->fd, pair->out.data, pair->out.bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
    assert(n == (ssize_t)pair->out.bytes);
    pair->out.bytes = 0;

    while (pair->requests > 0) {
        if (counted) {
            CALLGRIND_TOGGLE_COLLECT;
        }
        /* Answers are sent before the loop would sleep: so it must not. */
        (void)uv_run(&pair->loop, UV_RUN_NOWAIT);
        if (counted) {
            CALLGRIND_TOGGLE_COLLECT;
        }
        take_replies(pair);
    }
}
