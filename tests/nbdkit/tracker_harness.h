/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_TESTS_TRACKER_HARNESS_H
#define BITMAPD_TESTS_TRACKER_HARNESS_H

#include "client/nbdkit/tracker.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * What the tracker's tests drive it with: a sync that can be held or made to
 * fail, a report() that counts, and threads that write or flush.
 */
struct harness {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool hold_sync;
    bool sync_held;
    int sync_result;
    unsigned syncs;
    unsigned reports;
    char last_report[1024];
    bool continues; /* of the trackers that are made */
    /* Called instead of the sync above, when set. */
    int (*sync)(void);
};

extern struct harness harness;

int harness_setup(void **state); /* of each test: resets this and the fake */

int harness_new(uint64_t align_bytes, struct tracker **ret_tracker, struct error *error);
struct tracker *harness_start(uint64_t align_bytes); /* new and start */
void harness_stop(struct tracker *tracker);          /* stop and free */

void harness_fail_sync(int result); /* of syncs from now on */
void harness_hold_sync(bool hold);
bool harness_sync_is_held(void);
unsigned harness_syncs(void);

/* What the tracker thinks. */
size_t harness_unsettled(struct tracker *tracker);
unsigned harness_writers(struct tracker *tracker, uint64_t offset_bytes, uint64_t length_bytes);
bool harness_online(struct tracker *tracker);
bool harness_continuing(struct tracker *tracker);

/* A whole write that succeeds. */
void harness_write(struct tracker *tracker, uint64_t offset_bytes, uint64_t length_bytes);

/* Time for what must not happen to happen. */
void harness_pause(void);
/* Aborts when @condition does not come true in many seconds. */
#define harness_wait(condition)                                        \
    do {                                                               \
        for (unsigned tries_ = 0; !(condition); tries_++) {            \
            harness_try_again(tries_, #condition, __FILE__, __LINE__); \
        }                                                              \
    } while (0)
void harness_try_again(unsigned tries, const char *condition, const char *file, int line);

/* A thread within tracker_write_begin(). */
struct writer;
struct writer *writer_begin(struct tracker *tracker, uint64_t offset_bytes, uint64_t length_bytes);
bool writer_is_done(struct writer *writer);
int writer_wait(struct writer *writer); /* what it returned */
/* Then exactly one of these, by whether it returned 0. */
void writer_end(struct writer *writer, bool failed);
void writer_drop(struct writer *writer);

/* A thread within tracker_flush(). */
struct flusher;
struct flusher *flusher_begin(struct tracker *tracker);
int flusher_wait(struct flusher *flusher); /* what it returned; frees */

#endif
