/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * See tracker_harness.h.  Failures in threads other than cmocka's abort, as
 * its assertions may only leave their own.
 */
#include "tests/nbdkit/tracker_harness.h"

#include "client/nbdkit/tracker_private.h"
#include "tests/nbdkit/fake_bitmapd.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TRY_NS    1000000L /* between looks at a condition */
#define TRIES_MAX 30000u

struct harness harness = {
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .changed = PTHREAD_COND_INITIALIZER,
};

static void check(bool condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "harness: %s\n", what);
        abort();
    }
}

static void harness_lock(void)
{
    check(pthread_mutex_lock(&harness.lock) == 0, "lock");
}

static void harness_unlock(void)
{
    check(pthread_mutex_unlock(&harness.lock) == 0, "unlock");
}

static int harness_sync(void *opaque)
{
    check(opaque == &harness, "the opaque pointer is another");
    if (harness.sync != NULL) {
        return harness.sync();
    }
    harness_lock();
    harness.syncs++;
    harness.sync_held = harness.hold_sync;
    while (harness.hold_sync) {
        check(pthread_cond_wait(&harness.changed, &harness.lock) == 0, "wait");
    }
    harness.sync_held = false;
    int r = harness.sync_result;
    harness_unlock();
    return r;
}

static void harness_report(void *opaque, const char *text)
{
    check(opaque == &harness, "the opaque pointer is another");
    harness_lock();
    harness.reports++;
    (void)snprintf(harness.last_report, sizeof harness.last_report, "%s", text);
    harness_unlock();
}

int harness_setup(void **state)
{
    (void)state;
    fake_reset();
    harness.hold_sync = harness.sync_held = harness.continues = false;
    harness.sync_result = 0;
    harness.syncs = harness.reports = 0;
    harness.last_report[0] = '\0';
    harness.sync = NULL;
    return 0;
}

int harness_new(uint64_t align_bytes, struct tracker **ret_tracker, struct error *error)
{
    struct tracker_settings settings = {
        .socket_path = "/socket",
        .drive = "vm1",
        .writer = "nbdkit-vm1",
        .client_name = "test",
        .size_bytes = FAKE_SIZE_BYTES,
        .align_bytes = align_bytes,
        .reconnect_timeout_s = 25,
        .continues = harness.continues,
        .sync = harness_sync,
        .report = harness_report,
        .opaque = &harness,
    };
    return tracker_new(&settings, ret_tracker, error);
}

struct tracker *harness_start(uint64_t align_bytes)
{
    struct error error = {.text = ""};
    struct tracker *tracker = NULL;
    check(harness_new(align_bytes, &tracker, &error) == 0, error.text);
    check(tracker_start(tracker) == 0, "tracker_start()");
    return tracker;
}

void harness_stop(struct tracker *tracker)
{
    tracker_stop(tracker);
    tracker_free(tracker);
}

void harness_fail_sync(int result)
{
    harness_lock();
    harness.sync_result = result;
    harness_unlock();
}

void harness_hold_sync(bool hold)
{
    harness_lock();
    harness.hold_sync = hold;
    check(pthread_cond_broadcast(&harness.changed) == 0, "broadcast");
    harness_unlock();
}

bool harness_sync_is_held(void)
{
    harness_lock();
    bool held = harness.sync_held;
    harness_unlock();
    return held;
}

unsigned harness_syncs(void)
{
    harness_lock();
    unsigned syncs = harness.syncs;
    harness_unlock();
    return syncs;
}

size_t harness_unsettled(struct tracker *tracker)
{
    tracker_lock(tracker);
    size_t unsettled = tracker->unsettled;
    tracker_unlock(tracker);
    return unsettled;
}

unsigned harness_writers(struct tracker *tracker, uint64_t offset_bytes, uint64_t length_bytes)
{
    unsigned writers = 0;
    tracker_lock(tracker);
    for (size_t i = 0; i < TRACKER_BUCKETS; i++) {
        struct tracker_mark *mark;
        LIST_FOREACH (mark, &tracker->buckets[i], bucket) {
            if (mark->range.offset == offset_bytes && mark->range.length == length_bytes) {
                writers = mark->writers;
            }
        }
    }
    tracker_unlock(tracker);
    return writers;
}

bool harness_online(struct tracker *tracker)
{
    tracker_lock(tracker);
    bool online = tracker->state == TRACKER_ONLINE;
    tracker_unlock(tracker);
    return online;
}

bool harness_continuing(struct tracker *tracker)
{
    tracker_lock(tracker);
    bool continuing = tracker->state == TRACKER_CONTINUING;
    tracker_unlock(tracker);
    return continuing;
}

void harness_write(struct tracker *tracker, uint64_t offset_bytes, uint64_t length_bytes)
{
    struct tracker_mark *mark = NULL;
    check(tracker_write_begin(tracker, offset_bytes, length_bytes, &mark) == 0,
          "a write could not begin");
    check(fake_marks_over(offset_bytes, length_bytes) > 0 || fake_is_doubtful(),
          "a write began without a mark");
    tracker_write_end(tracker, mark, false);
}

void harness_pause(void)
{
    (void)nanosleep(&(struct timespec){.tv_nsec = 20 * TRY_NS}, NULL);
}

void harness_try_again(unsigned tries, const char *condition, const char *file, int line)
{
    if (tries == TRIES_MAX) {
        fprintf(stderr, "%s:%d: waited in vain for: %s\n", file, line, condition);
        abort();
    }
    (void)nanosleep(&(struct timespec){.tv_nsec = TRY_NS}, NULL);
}

/* ---- Threads ---- */

struct writer {
    pthread_t thread;
    struct tracker *tracker;
    uint64_t offset_bytes;
    uint64_t length_bytes;
    atomic_bool done;
    int result;
    struct tracker_mark *mark;
};

static void *writer_main(void *opaque)
{
    struct writer *writer = opaque;
    writer->result = tracker_write_begin(writer->tracker, writer->offset_bytes,
                                         writer->length_bytes, &writer->mark);
    atomic_store(&writer->done, true);
    return NULL;
}

struct writer *writer_begin(struct tracker *tracker, uint64_t offset_bytes, uint64_t length_bytes)
{
    struct writer *writer = calloc(1, sizeof *writer);
    check(writer != NULL, "memory");
    writer->tracker = tracker;
    writer->offset_bytes = offset_bytes;
    writer->length_bytes = length_bytes;
    check(pthread_create(&writer->thread, NULL, writer_main, writer) == 0, "pthread_create()");
    return writer;
}

bool writer_is_done(struct writer *writer)
{
    return atomic_load(&writer->done);
}

int writer_wait(struct writer *writer)
{
    check(pthread_join(writer->thread, NULL) == 0, "pthread_join()");
    return writer->result;
}

void writer_end(struct writer *writer, bool failed)
{
    check(writer->result == 0, "a write that did not begin ends");
    tracker_write_end(writer->tracker, writer->mark, failed);
    free(writer);
}

void writer_drop(struct writer *writer)
{
    check(writer->result < 0, "a write is forgotten");
    free(writer);
}

struct flusher {
    pthread_t thread;
    struct tracker *tracker;
    int result;
};

static void *flusher_main(void *opaque)
{
    struct flusher *flusher = opaque;
    flusher->result = tracker_flush(flusher->tracker);
    return NULL;
}

struct flusher *flusher_begin(struct tracker *tracker)
{
    struct flusher *flusher = calloc(1, sizeof *flusher);
    check(flusher != NULL, "memory");
    flusher->tracker = tracker;
    check(pthread_create(&flusher->thread, NULL, flusher_main, flusher) == 0, "pthread_create()");
    return flusher;
}

int flusher_wait(struct flusher *flusher)
{
    check(pthread_join(flusher->thread, NULL) == 0, "pthread_join()");
    int r = flusher->result;
    free(flusher);
    return r;
}
