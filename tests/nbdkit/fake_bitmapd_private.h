/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_TESTS_FAKE_BITMAPD_PRIVATE_H
#define BITMAPD_TESTS_FAKE_BITMAPD_PRIVATE_H

#include "client/lib/bitmapd.h"
#include "tests/nbdkit/fake_bitmapd.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

/*
 * What the imitated library (fake_bitmapd.c) and the test's controls
 * (fake_control.c) share.  Lock order: a handle's `busy`, then `fake.lock`.
 */
#define CHECK(condition)                                                                   \
    do {                                                                                   \
        if (!(condition)) {                                                                \
            fprintf(stderr, "%s:%d: fake bitmapd: %s does not hold\n", __FILE__, __LINE__, \
                    #condition);                                                           \
            abort();                                                                       \
        }                                                                                  \
    } while (0)

#define IDS_MAX  (1u << 20)
#define DRIVE_ID 7

struct request {
    struct request *next;
    uint64_t first_id;
    size_t count;
    bitmapd_completion *completion;
    void *opaque;
};

struct bitmapd {
    int fd; /* eventfd */
    atomic_bool busy;
    bool lost;
    bool fenced;
    bool attached;
    bool continues;
    bool resuming;
    unsigned timeout_s;
    struct request *requests; /* oldest first */
    size_t unsettled;
    uint64_t first_id; /* of this connection */
};

/* A mark, by its id. */
struct mark {
    uint32_t block;
    uint32_t blocks; /* 0: not given out, settled or given up */
};

struct fake {
    pthread_mutex_t lock;
    pthread_cond_t gate;
    bool gate_shut;
    bool at_gate;
    bool hold;
    bool offline;
    bool returning;
    bool unreachable;
    int attach_result;
    bool attach_resuming;
    int mark_result;
    uint64_t size;
    size_t unsettled_max;
    uint64_t next_id;
    bool lost_writer; /* its connection went without a detach */
    bool doubtful;    /* and it is one that continues */
    struct mark marks[IDS_MAX];
    unsigned over[FAKE_BLOCKS]; /* unsettled marks */
    struct fake_counts counts;
    struct bitmapd *handle; /* the one that is attached */
    void (*on_free_block)(unsigned block);
    void (*on_back)(const unsigned over[FAKE_BLOCKS]);
};

extern struct fake fake;

void fake_lock(void);
void fake_unlock(void);
/* Wakes whoever polls the handle, which may be NULL. */
void handle_wake(struct bitmapd *handle);

#endif
