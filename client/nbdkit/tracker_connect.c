/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How the tracker comes to the daemon, at the start or after a loss, and takes
 * leave of it: attach, mark again, resume; detach.
 *
 * A connection counts only when the unsettled marks of this process, which the
 * daemon may have been told to give up, were made again.  Where writes went on
 * without marks (tracker.c), the order is: a sync, which they need not wait
 * for; ATTACH; no write without a mark begins any more; those that have begun
 * end; a sync; the marks that are unsettled all the same, of writes that failed;
 * RESUME.  So nothing that was written while the daemon was away gets lost.
 */
#include "client/nbdkit/tracker_private.h"

#include "proto/base/checked.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

DEFINE_CLEANUP(bitmapd *, bitmapd_close)

static int tracker_attach(struct tracker *tracker, bitmapd *handle, uint64_t *ret_drive_id,
                          bool *ret_resuming, struct error *error)
{
    uint64_t size_bytes = 0;
    unsigned flags = tracker->settings.continues ? BITMAPD_ATTACH_CONTINUES : 0;
    int r = bitmapd_attach(handle, tracker->drive, tracker->writer, flags, ret_drive_id,
                           &size_bytes, ret_resuming);
    if (r == -EBUSY) {
        return error_set(error, r,
                         "drive %s: writer %s is attached already, by another nbdkit perhaps: %s",
                         tracker->drive, tracker->writer, bitmapd_error(handle));
    }
    if (r == -EXDEV) {
        return error_set(error, r, "drive %s: %s; if it is right: bitmapctl drive adopt %s",
                         tracker->drive, bitmapd_error(handle), tracker->drive);
    }
    if (r < 0) {
        return error_set(error, r, "drive %s: attaching to bitmapd: %s", tracker->drive,
                         bitmapd_error(handle));
    }
    tracker->attached_anew = !*ret_resuming;
    if (size_bytes != tracker->settings.size_bytes) {
        if (!*ret_resuming && !tracker->started) {
            (void)bitmapd_detach(handle, *ret_drive_id); /* leave no lost writer behind */
        }
        return error_set(error, -EINVAL,
                         "drive %s: bitmapd has it with %" PRIu64 " bytes, the file has %" PRIu64
                         " bytes; if the file is right: bitmapctl drive resize %s --size %" PRIu64,
                         tracker->drive, size_bytes, tracker->settings.size_bytes, tracker->drive,
                         tracker->settings.size_bytes);
    }
    if (bitmapd_unsettled_max(handle) == 0) {
        return error_set(error, -EINVAL, "drive %s: bitmapd's limit of unsettled marks is 0",
                         tracker->drive);
    }
    return 0;
}

/*
 * The marks that a new connection does not know; the thread keeps those that
 * get settled meanwhile from being freed.
 */
static int tracker_collect_marks(struct tracker *tracker, struct tracker_mark ***ret_marks,
                                 size_t *ret_count)
{
    struct mark_queue settled = TAILQ_HEAD_INITIALIZER(settled);
    tracker_lock(tracker);
    TAILQ_CONCAT(&settled, &tracker->settled, queue);
    size_t count = 0;
    struct tracker_mark **marks = calloc(tracker->unsettled + 1, sizeof *marks);
    for (size_t i = 0; marks != NULL && i < TRACKER_BUCKETS; i++) {
        struct tracker_mark *mark;
        LIST_FOREACH (mark, &tracker->buckets[i], bucket) {
            assert(mark->state != MARK_SENT);
            if (mark->state == MARK_ACKED) { /* others are sent in their turn */
                marks[count++] = mark;
            }
        }
    }
    tracker_unlock(tracker);
    tracker_settle(tracker, &settled);
    if (marks == NULL) {
        return -ENOMEM;
    }
    *ret_marks = marks;
    *ret_count = count;
    return 0;
}

static int tracker_mark_again(struct tracker *tracker, bitmapd *handle, uint64_t drive_id,
                              struct error *error)
{
    CLEANUP_FREE struct tracker_mark **marks = NULL;
    size_t count = 0;
    int r = tracker_collect_marks(tracker, &marks, &count);
    if (r < 0) {
        return error_set_errno(error, r, "drive %s", tracker->drive);
    }
    CLEANUP_FREE struct bitmapd_range *ranges = calloc(count + 1, sizeof *ranges);
    if (ranges == NULL) {
        return error_set_errno(error, -ENOMEM, "drive %s", tracker->drive);
    }
    for (size_t i = 0; i < count; i++) {
        ranges[i] = marks[i]->range;
    }
    for (size_t i = 0; i < count;) {
        size_t n = min_u64(count - i, BITMAPD_RANGES_MAX);
        uint64_t first_id = 0;
        r = bitmapd_mark(handle, drive_id, ranges + i, n, &first_id);
        if (r < 0) {
            return error_set(error, r, "drive %s: marking %zu unsettled writes again: %s",
                             tracker->drive, count, bitmapd_error(handle));
        }
        for (size_t j = 0; j < n; j++) {
            marks[i + j]->id = first_id + j;
        }
        i += n;
    }
    return 0;
}

/*
 * The end of a time without marks: no write begins any more without one, and those that have begun
 * end before this returns.
 */
static void tracker_end_unmarked(struct tracker *tracker)
{
    tracker_lock(tracker);
    tracker->state = TRACKER_AWAY;
    while (tracker->writing > 0) {
        (void)pthread_cond_wait(&tracker->changed, &tracker->lock);
    }
    tracker_unlock(tracker);
}

/*
 * The daemon does not remember the writer that went on without it: it was given up meanwhile, and
 * nothing is held against the drive.  So what was written is made dirty as a whole.
 */
static int tracker_mark_all(struct tracker *tracker, bitmapd *handle, uint64_t drive_id,
                            struct error *error)
{
    struct bitmapd_range all = {.offset = 0, .length = tracker->settings.size_bytes};
    int r = bitmapd_mark(handle, drive_id, &all, 1, NULL);
    if (r < 0) {
        return error_set(error, r, "drive %s: marking it as a whole: %s", tracker->drive,
                         bitmapd_error(handle));
    }
    tracker_report(tracker,
                   "drive %s: writer %s was given up while it wrote without marks: the whole drive "
                   "is marked",
                   tracker->drive, tracker->writer);
    return 0;
}

static int tracker_flush_earlier(struct tracker *tracker, struct error *error)
{
    int r = tracker_flush(tracker);
    return r < 0 ? error_set_errno(error, r, "drive %s: making earlier writes of writer %s stable",
                                   tracker->drive, tracker->writer)
                 : 0;
}

int tracker_connect(struct tracker *tracker, struct error *error)
{
    assert(tracker->handle == NULL);
    CLEANUP(bitmapd_closep) bitmapd *handle = bitmapd_new();
    if (handle == NULL) {
        return error_set_errno(error, -ENOMEM, "drive %s", tracker->drive);
    }
    tracker->reached = tracker->attached_anew = false;
    int r = bitmapd_set_client_name(handle, tracker->client_name);
    if (r == 0) {
        r = bitmapd_connect(handle, tracker->socket_path);
    }
    if (r < 0) {
        return error_set(error, r, "drive %s: connecting to bitmapd: %s", tracker->drive,
                         bitmapd_error(handle));
    }
    tracker->reached = true;

    /* Once already, while writes go on: so they have to wait less for the one that counts. */
    r = tracker->unmarked ? tracker_flush_earlier(tracker, error) : 0;
    if (r < 0) {
        return r;
    }
    uint64_t drive_id = 0;
    bool resuming = false;
    r = tracker_attach(tracker, handle, &drive_id, &resuming, error);
    if (r < 0) {
        return r;
    }
    if (tracker->unmarked) {
        tracker_end_unmarked(tracker);
        r = resuming ? 0 : tracker_mark_all(tracker, handle, drive_id, error);
        if (r < 0) {
            return r;
        }
    }
    if (resuming || tracker->unmarked) {
        /* What this token's writer wrote and nobody marks again must be stable. */
        r = tracker_flush_earlier(tracker, error);
        if (r < 0) {
            return r;
        }
    }
    r = tracker_mark_again(tracker, handle, drive_id, error);
    if (r < 0) {
        return r;
    }
    if (resuming) {
        r = bitmapd_resume(handle, drive_id);
    }
    if (r == 0) {
        r = bitmapd_set_reconnect_timeout(handle, tracker->settings.reconnect_timeout_s);
    }
    if (r < 0) {
        return error_set(error, r, "drive %s: resuming writer %s: %s", tracker->drive,
                         tracker->writer, bitmapd_error(handle));
    }

    tracker->drive_id = drive_id;
    tracker->lost = 0;
    tracker->unmarked = false;
    tracker_lock(tracker);
    tracker->unsettled_max = bitmapd_unsettled_max(handle);
    tracker->state = TRACKER_ONLINE;
    tracker_wake_callers(tracker);
    tracker_unlock(tracker);
    tracker->handle = STEAL(handle);
    return 0;
}

void tracker_disconnect(struct tracker *tracker)
{
    bitmapd *handle = STEAL(tracker->handle);
    if (handle == NULL) {
        if (tracker->started) {
            tracker_report(tracker, "drive %s: writer %s could not be detached: bitmapd is away",
                           tracker->drive, tracker->writer);
        }
        return;
    }
    /* Nobody waits for a daemon that is away just to take leave. */
    int r = bitmapd_fd(handle) < 0 ? -ENOTCONN : bitmapd_set_reconnect_timeout(handle, 0);
    if (r == 0) {
        r = bitmapd_drain(handle);
    }
    if (r == 0) {
        r = bitmapd_detach(handle, tracker->drive_id);
    }
    if (r < 0) {
        tracker_report(tracker,
                       "drive %s: writer %s could not be detached (%zu writes not known to be "
                       "stable): %s",
                       tracker->drive, tracker->writer, tracker->unsettled,
                       r == -EBUSY      ? "they stay marked"
                       : r == -ENOTCONN ? "bitmapd is away"
                                        : bitmapd_error(handle));
    }
    bitmapd_close(handle);
}
