/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Marks before writes and settles after flushes, for many threads over one
 * connection: the callers' side.
 *
 * Two sides meet under one mutex.  Callers (nbdkit's workers) queue marks, do
 * their writes and run the syncs.  The tracker's own thread is the only one
 * that touches the libbitmapd handle: it takes everything that is queued and
 * sends it as one request, so that marks of concurrent writers share a round
 * trip, and calls the library without the mutex.
 *
 *     QUEUED --thread--> SENT --reply--> ACKED --covering sync--> settled, freed
 *        \                 \
 *         '-----------------'--> REFUSED, freed by the last of its waiters
 *
 * Rules:
 *
 * - A write begins only under a mark that is ACKED, and while the daemon has
 *   it as far as we know: not between the loss of a connection and the end of
 *   the library's way back, nor when the writer has been given up meanwhile.
 * - There is one mark for a range.  While it is not settled the range stays
 *   dirty whatever happens at the daemon, so that further writes to it need
 *   no new mark; this is what makes coarse alignment save waits, and what
 *   keeps a write that is tried again and again from using up marks.
 * - Syncs are numbered and run one at a time.  A write that returns while N
 *   have begun is covered by sync N + 1 at the earliest: sync N may have
 *   passed its pages already.  A mark is settled when no write is under it
 *   and the sync that covers the last one has succeeded.
 * - A failed write's mark is never settled.  After a failed sync none is any
 *   more: the kernel has told of the loss once, and a later success proves
 *   nothing about the pages it dropped.
 * - Marks are freed by the thread (but refused ones, which it never sees
 *   again), so that it may look at them without the mutex.  It alone uses
 *   their ids, which change when the connection is made anew.
 *
 * The daemon and we, as far as it decides about writes (tracker->state):
 *
 *                .---connection lost---.
 *                v                     |
 *     start --> AWAY --marks are back--> ONLINE
 *                |                     |
 *                | given up by the library, or the writer was
 *                v                     v
 *               DOWN  writes fail until an attempt succeeds: ONLINE
 *
 *     with settings.continues, and unless the writer was given up:
 *
 *               AWAY --first attempt has failed--> CONTINUING --attached--> AWAY
 *
 * - A writer that continues has said so when it attached, durably, so that the
 *   daemon makes the drive unknown when it loses it and until it resumes.  No
 *   write begins without a mark before the daemon must have lost it: its own
 *   side of the connection may outlive ours by a moment, but then the first
 *   attempt to come back finds the token busy and does not count.
 * - What is written then is in the table as ever, and settled by syncs, so that
 *   what is not stable when the daemon is back is marked before RESUME; new
 *   writes wait for their marks from ATTACH on, and RESUME for the end of those
 *   that began before, and for a sync that covers them.
 */
#include "client/nbdkit/tracker_private.h"

#include "proto/base/checked.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#define REPORT_BYTES_MAX 1024u

/* The daemon may take a moment to see that our predecessor has died. */
#define BUSY_TRIES   10u
#define BUSY_WAIT_MS 50

void tracker_report(struct tracker *tracker, const char *format, ...)
{
    char text[REPORT_BYTES_MAX];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    tracker->settings.report(tracker->settings.opaque, text);
}

void tracker_lock(struct tracker *tracker)
{
    int r = pthread_mutex_lock(&tracker->lock);
    assert(r == 0);
    (void)r;
}

void tracker_unlock(struct tracker *tracker)
{
    int r = pthread_mutex_unlock(&tracker->lock);
    assert(r == 0);
    (void)r;
}

static void tracker_wait(struct tracker *tracker)
{
    (void)pthread_cond_wait(&tracker->changed, &tracker->lock);
}

void tracker_wake_callers(struct tracker *tracker)
{
    (void)pthread_cond_broadcast(&tracker->changed);
}

void tracker_wake_thread(struct tracker *tracker)
{
    uint64_t one = 1;
    /* Fails only when the counter is full, and then it is awake. */
    ssize_t n = write(tracker->wake_fd, &one, sizeof one);
    (void)n;
}

/* ---- Marks by range; the caller holds the lock ---- */

static struct mark_bucket *tracker_bucket(struct tracker *tracker,
                                          const struct bitmapd_range *range)
{
    uint64_t hash = (range->offset + range->length * 31) * UINT64_C(0x9e3779b97f4a7c15);
    return &tracker->buckets[(hash >> 32) & (TRACKER_BUCKETS - 1)];
}

static struct tracker_mark *tracker_find(struct tracker *tracker, const struct bitmapd_range *range)
{
    struct tracker_mark *mark;
    LIST_FOREACH (mark, tracker_bucket(tracker, range), bucket) {
        if (mark->range.offset == range->offset && mark->range.length == range->length) {
            return mark;
        }
    }
    return NULL;
}

void mark_refuse(struct tracker *tracker, struct tracker_mark *mark)
{
    assert(mark->state == MARK_QUEUED || mark->state == MARK_SENT);
    assert(mark->writers > 0);
    mark->state = MARK_REFUSED;
    LIST_REMOVE(mark, bucket);
    tracker->unsettled--;
}

/* A write under the mark has ended, or will not take place. */
static void mark_release(struct tracker *tracker, struct tracker_mark *mark)
{
    assert(mark->writers > 0);
    if (--mark->writers > 0) {
        return;
    }
    if (mark->state == MARK_REFUSED) {
        free(mark);
        return;
    }
    assert(mark->state == MARK_ACKED);
    if (!mark->failed) {
        mark->covering_sync = tracker->syncs_begun + 1;
        TAILQ_INSERT_TAIL(&tracker->idle, mark, queue);
    }
    if (tracker->room_waiters > 0) {
        tracker_wake_callers(tracker);
    }
}

/* ---- Syncs; the caller holds the lock, which is dropped meanwhile ---- */

static void tracker_settle_covered(struct tracker *tracker, uint64_t sync)
{
    bool any = false;
    struct tracker_mark *mark = TAILQ_FIRST(&tracker->idle);
    /* Marks came to the list in the order of the syncs that cover them. */
    while (mark != NULL && mark->covering_sync <= sync) {
        struct tracker_mark *next = TAILQ_NEXT(mark, queue);
        TAILQ_REMOVE(&tracker->idle, mark, queue);
        LIST_REMOVE(mark, bucket);
        TAILQ_INSERT_TAIL(&tracker->settled, mark, queue);
        mark = next;
        any = true;
    }
    if (any) {
        tracker_wake_thread(tracker);
    }
}

static void tracker_run_sync(struct tracker *tracker)
{
    assert(!tracker->sync_running);
    tracker->sync_running = true;
    uint64_t number = ++tracker->syncs_begun;

    tracker_unlock(tracker);
    int r = tracker->settings.sync(tracker->settings.opaque);
    if (r < 0) {
        tracker_report(tracker,
                       "drive %s: making writes stable failed: %s; they stay marked, and every "
                       "later flush fails until nbdkit is started again",
                       tracker->drive, strerrordesc_np(-r));
    }
    tracker_lock(tracker);

    tracker->sync_running = false;
    tracker->syncs_ended = number;
    if (r < 0) {
        tracker->sync_error = r;
    } else {
        tracker_settle_covered(tracker, number);
    }
    tracker_wake_callers(tracker);
}

/* Waits for a sync that begins from now on: one serves all who wait for it. */
static int tracker_flush_locked(struct tracker *tracker)
{
    uint64_t needed = tracker->syncs_begun + 1;
    while (tracker->sync_error == 0 && tracker->syncs_ended < needed) {
        if (tracker->sync_running) {
            tracker_wait(tracker);
        } else {
            tracker_run_sync(tracker);
        }
    }
    return tracker->sync_error;
}

int tracker_flush(struct tracker *tracker)
{
    tracker_lock(tracker);
    int r = tracker_flush_locked(tracker);
    tracker_unlock(tracker);
    return r;
}

/* ---- Writes ---- */

/*
 * Keeps the number of unsettled marks below the daemon's limit.  From half of
 * it on, one caller at a time makes a sync of our own; at the limit all wait.
 * The lock may be dropped meanwhile.
 */
static int tracker_make_room(struct tracker *tracker)
{
    for (;;) {
        size_t half = tracker->unsettled_max / 2;
        if (tracker->state == TRACKER_DOWN) {
            return -EIO;
        }
        if (tracker->unsettled < half) {
            return 0;
        }
        if (!TAILQ_EMPTY(&tracker->idle) && !tracker->sync_running && tracker->sync_error == 0) {
            (void)tracker_flush_locked(tracker); /* a failure shows in sync_error */
            continue;
        }
        if (tracker->unsettled < tracker->unsettled_max) {
            return 0;
        }
        if (tracker->sync_error != 0 || tracker->failed >= tracker->unsettled_max) {
            if (!tracker->room_reported) {
                tracker->room_reported = true;
                tracker_report(tracker,
                               "drive %s: %zu marks belong to writes that failed or could not be "
                               "made stable, and bitmapd takes no more: writes elsewhere fail "
                               "until nbdkit is started again",
                               tracker->drive, tracker->unsettled);
            }
            return -EIO;
        }
        /* Somebody writes, or a sync runs, or settled marks are on their way. */
        tracker->room_waiters++;
        tracker_wait(tracker);
        tracker->room_waiters--;
    }
}

/* A new mark for a range that has none, without writers; queued, unless nobody is to be asked. */
static int tracker_add_mark(struct tracker *tracker, const struct bitmapd_range *range,
                            struct tracker_mark **ret_mark)
{
    struct tracker_mark *mark = calloc(1, sizeof *mark);
    if (mark == NULL) {
        return -ENOMEM;
    }
    mark->range = *range;
    LIST_INSERT_HEAD(tracker_bucket(tracker, range), mark, bucket);
    tracker->unsettled++;
    *ret_mark = mark;
    if (tracker->state == TRACKER_CONTINUING) {
        mark->state = MARK_ACKED;
        return 0;
    }
    mark->state = MARK_QUEUED;
    bool first = TAILQ_EMPTY(&tracker->queued);
    TAILQ_INSERT_TAIL(&tracker->queued, mark, queue);
    if (first) {
        tracker_wake_thread(tracker);
    }
    return 0;
}

static struct bitmapd_range tracker_align(const struct tracker *tracker, uint64_t offset_bytes,
                                          uint64_t length_bytes)
{
    uint64_t mask = tracker->settings.align_bytes - 1;
    uint64_t size = tracker->settings.size_bytes;
    assert(length_bytes > 0 && offset_bytes < size && length_bytes <= size - offset_bytes);

    uint64_t begin = offset_bytes & ~mask;
    uint64_t end;
    if (!checked_align_up(offset_bytes + length_bytes, mask + 1, &end)) {
        end = size;
    }
    return (struct bitmapd_range){.offset = begin, .length = min_u64(end, size) - begin};
}

static int tracker_write_begin_locked(struct tracker *tracker, const struct bitmapd_range *range,
                                      struct tracker_mark **ret_mark)
{
    struct tracker_mark *mark = tracker_find(tracker, range);
    if (mark == NULL) {
        int r = tracker_make_room(tracker);
        if (r < 0) {
            return r;
        }
        mark = tracker_find(tracker, range); /* the lock may have been dropped */
    }
    if (tracker->state == TRACKER_DOWN) {
        return -EIO;
    }
    if (mark == NULL) {
        int r = tracker_add_mark(tracker, range, &mark);
        if (r < 0) {
            return r;
        }
    } else if (mark->writers == 0 && !mark->failed) {
        TAILQ_REMOVE(&tracker->idle, mark, queue);
    }
    mark->writers++;

    while (mark->state == MARK_QUEUED || mark->state == MARK_SENT ||
           (mark->state == MARK_ACKED && tracker->state == TRACKER_AWAY)) {
        tracker_wait(tracker);
    }
    if (mark->state == MARK_REFUSED || tracker->state == TRACKER_DOWN) {
        mark_release(tracker, mark);
        return -EIO;
    }
    tracker->writing++;
    *ret_mark = mark;
    return 0;
}

int tracker_write_begin(struct tracker *tracker, uint64_t offset_bytes, uint64_t length_bytes,
                        struct tracker_mark **ret_mark)
{
    struct bitmapd_range range = tracker_align(tracker, offset_bytes, length_bytes);
    tracker_lock(tracker);
    int r = tracker_write_begin_locked(tracker, &range, ret_mark);
    tracker_unlock(tracker);
    return r;
}

void tracker_write_end(struct tracker *tracker, struct tracker_mark *mark, bool failed)
{
    tracker_lock(tracker);
    if (failed && !mark->failed) {
        mark->failed = true;
        tracker->failed++;
    }
    tracker->writing--;
    if (tracker->writing == 0 && tracker->state == TRACKER_AWAY) {
        tracker_wake_callers(tracker); /* the thread among them, before RESUME */
    }
    mark_release(tracker, mark);
    tracker_unlock(tracker);
}

/* ---- Life ---- */

static int tracker_copy_string(const char *from, char **ret_copy)
{
    if (from != NULL) {
        *ret_copy = strdup(from);
        return *ret_copy == NULL ? -ENOMEM : 0;
    }
    return 0;
}

static int tracker_copy_strings(struct tracker *tracker, const struct tracker_settings *settings)
{
    int r = tracker_copy_string(settings->socket_path, &tracker->socket_path);
    if (r == 0) {
        r = tracker_copy_string(settings->drive, &tracker->drive);
    }
    if (r == 0) {
        r = tracker_copy_string(settings->writer, &tracker->writer);
    }
    if (r == 0) {
        r = tracker_copy_string(settings->client_name, &tracker->client_name);
    }
    return r;
}

int tracker_new(const struct tracker_settings *settings, struct tracker **ret_tracker,
                struct error *error)
{
    assert(is_power_of_two(settings->align_bytes) && settings->size_bytes > 0);
    CLEANUP(tracker_freep) struct tracker *tracker = calloc(1, sizeof *tracker);
    if (tracker == NULL) {
        return error_set_errno(error, -ENOMEM, "drive %s", settings->drive);
    }
    (void)pthread_mutex_init(&tracker->lock, NULL);
    (void)pthread_cond_init(&tracker->changed, NULL);
    for (size_t i = 0; i < TRACKER_BUCKETS; i++) {
        LIST_INIT(&tracker->buckets[i]);
    }
    TAILQ_INIT(&tracker->queued);
    TAILQ_INIT(&tracker->idle);
    TAILQ_INIT(&tracker->settled);
    TAILQ_INIT(&tracker->to_send);
    tracker->settings = *settings;
    tracker->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (tracker->wake_fd < 0) {
        return error_set_errno(error, -errno, "drive %s: eventfd", settings->drive);
    }
    int r = tracker_copy_strings(tracker, settings);
    if (r < 0) {
        return error_set_errno(error, r, "drive %s", settings->drive);
    }
    for (unsigned i = 0; i < BUSY_TRIES; i++) {
        r = tracker_connect(tracker, error);
        if (r != -EBUSY) {
            break;
        }
        (void)poll(NULL, 0, BUSY_WAIT_MS);
    }
    if (r < 0) {
        return r;
    }
    *ret_tracker = STEAL(tracker);
    return 0;
}

int tracker_start(struct tracker *tracker)
{
    /* Signals are for nbdkit's own threads. */
    sigset_t all, saved;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &saved);
    int r = pthread_create(&tracker->thread, NULL, tracker_thread_main, tracker);
    (void)pthread_sigmask(SIG_SETMASK, &saved, NULL);
    if (r != 0) {
        return -r;
    }
    tracker->started = true;
    return 0;
}

void tracker_stop(struct tracker *tracker)
{
    if (tracker == NULL || tracker->stopped) {
        return;
    }
    tracker->stopped = true;
    if (tracker->started) {
        (void)tracker_flush(tracker); /* has reported its failure */
        tracker_lock(tracker);
        tracker->stopping = true;
        tracker_unlock(tracker);
        tracker_wake_thread(tracker);
        (void)pthread_join(tracker->thread, NULL);
    }
    tracker_disconnect(tracker);
}

void tracker_free(struct tracker *tracker)
{
    if (tracker == NULL) {
        return;
    }
    tracker_stop(tracker);
    for (size_t i = 0; i < TRACKER_BUCKETS; i++) {
        struct tracker_mark *mark;
        while ((mark = LIST_FIRST(&tracker->buckets[i])) != NULL) {
            LIST_REMOVE(mark, bucket);
            free(mark);
        }
    }
    if (tracker->wake_fd >= 0) {
        (void)close(tracker->wake_fd);
    }
    (void)pthread_cond_destroy(&tracker->changed);
    (void)pthread_mutex_destroy(&tracker->lock);
    free(tracker->ids);
    free(tracker->client_name);
    free(tracker->writer);
    free(tracker->drive);
    free(tracker->socket_path);
    free(tracker);
}
