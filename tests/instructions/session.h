/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_TESTS_INSTRUCTIONS_SESSION_H
#define BITMAPD_TESTS_INSTRUCTIONS_SESSION_H

#include "daemon/drive/model.h"
#include "daemon/server/server.h"
#include "proto/message.h"

#include <stdbool.h>

/*
 * A daemon and its one client in one thread, with a real socket between them.
 * Only turns of the daemon's loop are counted: requests are encoded and sent before, and replies
 * taken after them.  Whatever fails ends the program.
 */
struct session_pair {
    char *container, *journal, *socket; /* paths */
    uv_loop_t loop;
    struct model *model;
    struct server *server;
    int fd; /* the client's end */
    uint64_t cookie;
    struct wire_buffer out; /* requests, not sent yet */
    uint32_t requests;      /* … and how many */
    uint8_t *in;
    size_t in_bytes;
    uint64_t drive; /* of the last ATTACH */
    uint64_t runs;  /* of the last MAP */
};

/* In a directory that may hold what an earlier daemon has left. */
void session_pair_init(struct session_pair *pair, const char *directory);
/* Starts the daemon's model; counted. */
void session_pair_start(struct session_pair *pair);
/* Makes the server, and connects. */
void session_pair_connect(struct session_pair *pair);

void session_pair_put(struct session_pair *pair, enum operation operation, const void *message);
/* Sends what was put, and lets the daemon run until all of it has got its answer. */
void session_pair_exchange(struct session_pair *pair, bool counted);

/* A step: what is counted in between is one dump of callgrind's, named after it. */
void step_begin(void);
void step_end(const char *name, uint64_t operations);

#endif
