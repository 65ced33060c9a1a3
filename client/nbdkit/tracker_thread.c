/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The tracker's thread: the daemon's side of tracker.c, whose head has the
 * rules for both.
 *
 * One turn: take what callers have queued, settle and mark it, poll, let the
 * library send and receive.  A short loss of the connection is the library's
 * affair: it connects, attaches and marks again by itself, and callers wait.
 * When it gives up (or the writer was fenced) the tracker goes down: every
 * waiting and every new write fails, or goes on without a mark where that was
 * declared, while flushes go on; a connection is then sought from scratch
 * again and again (tracker_connect.c).
 */
#include "client/nbdkit/tracker_private.h"

#include "proto/base/checked.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Between attempts while down: twice as long each time. */
#define RETRY_NS_FIRST UINT64_C(10000000)
#define RETRY_NS_MAX   UINT64_C(1000000000)
#define NS_IN_A_MS     UINT64_C(1000000)
#define NS_IN_A_S      UINT64_C(1000000000)

static uint64_t clock_now_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_IN_A_S + (uint64_t)now.tv_nsec;
}

/* ---- Marks and settles ---- */

/* Whether a mark that ended so has not been refused but got no answer. */
static bool is_unanswered(int result)
{
    return result == -ENOTCONN || result == -ECONNABORTED || result == -ECANCELED;
}

/* Called by the library, without the lock. */
static void tracker_mark_done(void *opaque, int result)
{
    CLEANUP_FREE struct mark_batch *batch = opaque;
    struct tracker *tracker = batch->tracker;
    if (result == 0) {
        tracker->refusal_reported = false;
    } else if (is_unanswered(result) || result == -EOWNERDEAD) {
        if (tracker->lost == 0) {
            tracker->lost = result; /* goes down at the end of this turn */
        }
    } else if (!tracker->refusal_reported) {
        tracker->refusal_reported = true;
        tracker_report(tracker, "drive %s: bitmapd refuses marks, so writes fail: %s",
                       tracker->drive, bitmapd_error(tracker->handle));
    }

    tracker_lock(tracker);
    for (size_t i = 0; i < batch->count; i++) {
        struct tracker_mark *mark = batch->marks[i];
        if (result == 0) {
            mark->state = MARK_ACKED;
        } else if (is_unanswered(result) && tracker->settings.continues) {
            mark->state = MARK_QUEUED; /* for what becomes of all that wait */
            TAILQ_INSERT_TAIL(&tracker->to_send, mark, queue);
        } else {
            mark_refuse(tracker, mark);
        }
    }
    tracker_wake_callers(tracker);
    tracker_unlock(tracker);
}

/* Fails everything in to_send: it cannot be sent. */
static void tracker_refuse_unsent(struct tracker *tracker)
{
    tracker_lock(tracker);
    struct tracker_mark *mark;
    while ((mark = TAILQ_FIRST(&tracker->to_send)) != NULL) {
        TAILQ_REMOVE(&tracker->to_send, mark, queue);
        mark_refuse(tracker, mark);
    }
    tracker_wake_callers(tracker);
    tracker_unlock(tracker);
}

/* Sends the first @count marks of to_send as one request. */
static int tracker_send_batch(struct tracker *tracker, size_t count)
{
    CLEANUP_FREE struct mark_batch *batch = malloc(sizeof *batch + count * sizeof batch->marks[0]);
    CLEANUP_FREE struct bitmapd_range *ranges = calloc(count, sizeof *ranges);
    if (batch == NULL || ranges == NULL) {
        return -ENOMEM;
    }
    batch->tracker = tracker;
    batch->count = count;
    struct tracker_mark *mark = TAILQ_FIRST(&tracker->to_send);
    for (size_t i = 0; i < count; i++) {
        batch->marks[i] = mark;
        ranges[i] = mark->range;
        mark = TAILQ_NEXT(mark, queue);
    }

    uint64_t first_id = 0;
    int r = bitmapd_aio_mark(tracker->handle, tracker->drive_id, ranges, count, &first_id,
                             tracker_mark_done, batch);
    if (r < 0) {
        return r;
    }
    tracker_lock(tracker);
    for (size_t i = 0; i < count; i++) {
        TAILQ_REMOVE(&tracker->to_send, batch->marks[i], queue);
        batch->marks[i]->id = first_id + i;
        batch->marks[i]->state = MARK_SENT;
    }
    tracker_unlock(tracker);
    STEAL(batch);
    return 0;
}

static size_t mark_queue_length(const struct mark_queue *queue, size_t limit)
{
    size_t length = 0;
    const struct tracker_mark *mark;
    TAILQ_FOREACH (mark, queue, queue) {
        if (length == limit) {
            break;
        }
        length++;
    }
    return length;
}

/* Sends as much of to_send as the daemon's limit leaves room for; the rest waits for a turn. */
static void tracker_send(struct tracker *tracker)
{
    while (tracker->lost == 0 && !TAILQ_EMPTY(&tracker->to_send)) {
        size_t max = bitmapd_unsettled_max(tracker->handle);
        size_t unsettled = bitmapd_unsettled(tracker->handle, tracker->drive_id);
        size_t room = max > unsettled ? max - unsettled : 0;
        int r = -EDQUOT;
        if (room > 0) {
            size_t count = mark_queue_length(&tracker->to_send, min_u64(room, BITMAPD_RANGES_MAX));
            r = tracker_send_batch(tracker, count);
        }
        if (r == 0) {
            continue;
        }
        if (r == -EDQUOT && bitmapd_pending(tracker->handle) > 0) {
            break; /* what is on its way makes room */
        }
        if (r != -EDQUOT && r != -ENOMEM) {
            /* The library takes no marks any more: the writer was fenced, say. */
            tracker->lost = r;
            break;
        }
        if (!tracker->refusal_reported) {
            tracker->refusal_reported = true;
            tracker_report(tracker, "drive %s: cannot mark, so writes fail: %s", tracker->drive,
                           strerrordesc_np(-r));
        }
        tracker_refuse_unsent(tracker);
    }
}

static int compare_ids(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void tracker_settle_run(struct tracker *tracker, uint64_t first_id, uint64_t count)
{
    int r = bitmapd_settle(tracker->handle, tracker->drive_id, first_id, count);
    if (r == -ENOMEM) {
        /* They stay dirty, which is safe, and keep us from detaching, which is said then. */
        tracker_report(tracker, "drive %s: settling: %s", tracker->drive, strerrordesc_np(-r));
    } else if (r < 0 && tracker->lost == 0) {
        tracker->lost = r;
    }
}

/* As few runs of ids as there are. */
void tracker_settle(struct tracker *tracker, struct mark_queue *settled)
{
    size_t total = mark_queue_length(settled, SIZE_MAX);
    if (total == 0) {
        return;
    }
    if (total > tracker->ids_capacity) {
        uint64_t *ids = reallocarray(tracker->ids, total, sizeof *ids);
        if (ids != NULL) {
            tracker->ids = ids;
            tracker->ids_capacity = total;
        }
    }

    size_t count = 0;
    struct tracker_mark *mark;
    while ((mark = TAILQ_FIRST(settled)) != NULL) {
        TAILQ_REMOVE(settled, mark, queue);
        if (tracker->handle == NULL) {
            /* The connection that knew it is gone. */
        } else if (total <= tracker->ids_capacity) {
            tracker->ids[count++] = mark->id;
        } else {
            tracker_settle_run(tracker, mark->id, 1); /* memory is out */
        }
        free(mark);
    }
    if (count > 0) {
        qsort(tracker->ids, count, sizeof tracker->ids[0], compare_ids);
    }
    for (size_t begin = 0, i = 0; i < count; i++) {
        if (i + 1 == count || tracker->ids[i + 1] != tracker->ids[i] + 1) {
            tracker_settle_run(tracker, tracker->ids[begin], i + 1 - begin);
            begin = i + 1;
        }
    }

    tracker_lock(tracker);
    tracker->unsettled -= total;
    tracker_wake_callers(tracker);
    tracker_unlock(tracker);
}

/* Takes what callers have queued.  True when they will queue no more. */
static bool tracker_take(struct tracker *tracker)
{
    struct mark_queue settled = TAILQ_HEAD_INITIALIZER(settled);
    tracker_lock(tracker);
    TAILQ_CONCAT(&tracker->to_send, &tracker->queued, queue);
    TAILQ_CONCAT(&settled, &tracker->settled, queue);
    bool stopping = tracker->stopping;
    tracker_unlock(tracker);

    tracker_settle(tracker, &settled); /* first: it makes room */
    return stopping;
}

/* ---- Without a connection ---- */

/* Why the handle is of no more use; the library has no words for what came with a completion. */
static const char *tracker_lost_words(const struct tracker *tracker)
{
    const char *words = bitmapd_error(tracker->handle);
    return words[0] != '\0' ? words : strerrordesc_np(-tracker->lost);
}

/* The handle is of no more use. */
static void tracker_go_down(struct tracker *tracker)
{
    /* A writer that was given up is not held against the drive. */
    tracker->may_continue = tracker->settings.continues && tracker->lost != -EOWNERDEAD;
    (void)error_set(&tracker->lost_reason, tracker->lost, "%s",
                    tracker->lost == -EOWNERDEAD ? "the writer was given up"
                                                 : tracker_lost_words(tracker));
    if (!tracker->may_continue) {
        tracker_report(tracker,
                       "drive %s: no connection to bitmapd (%s): writes fail until it is back",
                       tracker->drive, tracker->lost_reason.text);
    }
    tracker_lock(tracker);
    tracker->state = tracker->may_continue ? TRACKER_AWAY : TRACKER_DOWN;
    TAILQ_CONCAT(&tracker->to_send, &tracker->queued, queue);
    tracker_unlock(tracker);

    bitmapd_close(tracker->handle); /* completes what was sent */
    tracker->handle = NULL;
    if (!tracker->may_continue) {
        tracker_refuse_unsent(tracker);
    }
    tracker->retry_delay_ns = RETRY_NS_FIRST;
    tracker->retry_at_ns = clock_now_ns() + tracker->retry_delay_ns;
    tracker->down_reason.text[0] = '\0';
    tracker->down_reason_reported = false;
}

/* Writes go on without marks, those that wait for one too. */
static void tracker_continue(struct tracker *tracker)
{
    if (!tracker->unmarked) {
        tracker_report(tracker,
                       "drive %s: no connection to bitmapd (%s): writes go on without marks, and "
                       "what is recorded of the drive is unknown until bitmapd is back and a new "
                       "checkpoint is made",
                       tracker->drive, tracker->lost_reason.text);
        tracker->unmarked = true;
    }
    tracker_lock(tracker);
    tracker->state = TRACKER_CONTINUING;
    TAILQ_CONCAT(&tracker->to_send, &tracker->queued, queue);
    struct tracker_mark *mark;
    while ((mark = TAILQ_FIRST(&tracker->to_send)) != NULL) {
        TAILQ_REMOVE(&tracker->to_send, mark, queue);
        mark->state = MARK_ACKED;
    }
    tracker_wake_callers(tracker);
    tracker_unlock(tracker);
}

static void tracker_retry(struct tracker *tracker)
{
    struct error error = {.text = ""};
    int r = tracker_connect(tracker, &error);
    tracker->retry_delay_ns = min_u64(2 * tracker->retry_delay_ns, RETRY_NS_MAX);
    tracker->retry_at_ns = clock_now_ns() + tracker->retry_delay_ns;
    if (r == 0) {
        tracker_report(tracker, "drive %s: connected to bitmapd again, writes go on",
                       tracker->drive);
        return;
    }
    /* Busy: the daemon has not seen yet that our old connection is gone.  Attached anew: it will
     * take a moment to see that this one is.  Until then it holds nothing against the drive. */
    if (tracker->may_continue && r != -EBUSY && !tracker->attached_anew) {
        tracker_continue(tracker);
    }
    if (tracker->reached) {
        /* It is back, and yet this does not end.  Said once, and not at the first time: the daemon
         * may take a moment to see that our old connection is gone. */
        bool again = strcmp(error.text, tracker->down_reason.text) == 0;
        if (again && !tracker->down_reason_reported) {
            tracker_report(tracker, "%s", error.text);
        }
        tracker->down_reason_reported = again;
        tracker->down_reason = error;
    }
}

/* ---- Thread ---- */

/* A connection is not enough: until the library has made the marks again they may be unknown. */
static void tracker_note_ready(struct tracker *tracker, bool online)
{
    size_t unsettled_max = bitmapd_unsettled_max(tracker->handle);
    enum tracker_state state = online ? TRACKER_ONLINE : TRACKER_AWAY;
    tracker_lock(tracker);
    if (tracker->state != state || tracker->unsettled_max != unsettled_max) {
        tracker->state = state;
        tracker->unsettled_max = unsettled_max;
        tracker_wake_callers(tracker);
    }
    tracker_unlock(tracker);
}

/* How long poll(2) may take while down. */
static int tracker_retry_timeout_ms(const struct tracker *tracker)
{
    uint64_t now_ns = clock_now_ns();
    if (now_ns >= tracker->retry_at_ns) {
        return 0;
    }
    return (int)div_round_up(tracker->retry_at_ns - now_ns, NS_IN_A_MS);
}

void *tracker_thread_main(void *opaque)
{
    struct tracker *tracker = opaque;
    for (;;) {
        bool stopping = tracker_take(tracker);
        if (stopping) {
            return NULL;
        }
        struct pollfd polled[2] = {{.fd = tracker->wake_fd, .events = POLLIN}, {.fd = -1}};
        int timeout_ms;
        if (tracker->handle != NULL) {
            tracker_send(tracker);
            polled[1].fd = bitmapd_fd(tracker->handle);
            polled[1].events = (short)bitmapd_events(tracker->handle);
            timeout_ms = tracker->lost != 0 ? 0 : bitmapd_timeout_ms(tracker->handle);
        } else {
            timeout_ms = tracker_retry_timeout_ms(tracker);
        }

        (void)poll(polled, 2, timeout_ms);
        uint64_t news;
        ssize_t n = read(tracker->wake_fd, &news, sizeof news); /* does not block */
        (void)n;

        if (tracker->handle != NULL) {
            int r = bitmapd_dispatch(tracker->handle, (unsigned)polled[1].revents);
            int ready = bitmapd_writer_ready(tracker->handle, tracker->drive_id);
            if (tracker->lost == 0) {
                tracker->lost = r < 0 ? r : ready < 0 ? ready : 0;
            }
            if (tracker->lost != 0) {
                tracker_go_down(tracker);
            } else {
                tracker_note_ready(tracker, ready > 0);
            }
        } else if (tracker_retry_timeout_ms(tracker) == 0) {
            tracker_retry(tracker);
        }
    }
}
