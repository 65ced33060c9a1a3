/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_NBDKIT_TRACKER_PRIVATE_H
#define BITMAPD_NBDKIT_TRACKER_PRIVATE_H

#include "client/lib/bitmapd.h"
#include "client/nbdkit/tracker.h"

#include <pthread.h>
#include <stddef.h>
#include <sys/queue.h>

/* What the callers' side (tracker.c) and the daemon's side (tracker_thread.c) share. */

#define TRACKER_BUCKETS 4096u /* of marks by range; a power of two */

/* tracker.c has the transitions. */
enum tracker_state {
    TRACKER_AWAY,       /* the daemon may not have our marks at the moment: writes wait */
    TRACKER_ONLINE,     /* it has them, as far as we know */
    TRACKER_DOWN,       /* it could not be reached in time: writes fail */
    TRACKER_CONTINUING, /* the same, and writes go on without marks */
};

enum mark_state {
    MARK_QUEUED, /* waits for the thread */
    MARK_SENT,   /* waits for the daemon */
    MARK_ACKED, /* the range is dirty until the mark is settled; while CONTINUING and for marks made
                 * then: it will be marked if it is not settled when the daemon is back */
    MARK_REFUSED, /* no mark: out of the table, waited for by those who asked */
};

struct tracker_mark {
    struct bitmapd_range range; /* aligned */
    enum mark_state state;
    unsigned writers;       /* writes that have begun, or wait to, under it */
    bool failed;            /* one of its writes has failed */
    uint64_t covering_sync; /* number of the first sync that covers all its writes */
    uint64_t id;            /* the thread's; once SENT */
    LIST_ENTRY(tracker_mark) bucket;
    /* In queued or to_send while QUEUED, in idle while ACKED without writers or failures, in
     * settled at last; else in none. */
    TAILQ_ENTRY(tracker_mark) queue;
};

TAILQ_HEAD(mark_queue, tracker_mark);
LIST_HEAD(mark_bucket, tracker_mark);

/* The marks of one request, until its reply. */
struct mark_batch {
    struct tracker *tracker;
    size_t count;
    struct tracker_mark *marks[];
};

struct tracker {
    /* Fixed from the start. */
    struct tracker_settings settings;
    char *socket_path; /* or NULL */
    char *drive;
    char *writer;
    char *client_name;
    int wake_fd; /* eventfd: queued, settled or stopping has news */

    pthread_mutex_t lock;
    pthread_cond_t changed; /* any of what follows that somebody may wait for */

    struct mark_bucket buckets[TRACKER_BUCKETS];
    struct mark_queue queued;  /* for the thread to mark */
    struct mark_queue idle;    /* for a sync to cover */
    struct mark_queue settled; /* for the thread to settle and free */
    size_t unsettled;          /* marks in the table or in settled */
    size_t unsettled_max;
    size_t failed;  /* marks that will not be settled */
    size_t writing; /* writes that have begun and not ended */
    unsigned room_waiters;
    bool room_reported;

    uint64_t syncs_begun;
    uint64_t syncs_ended;
    bool sync_running;
    int sync_error; /* of the first sync that failed, for good */

    enum tracker_state state;
    bool stopping;

    /* The thread's, or the owner's while there is none. */
    pthread_t thread;
    bool started;
    bool stopped;
    bitmapd *handle; /* NULL while down */
    uint64_t drive_id;
    struct mark_queue to_send; /* taken from queued */
    int lost;                  /* -errno: this handle is of no more use */
    struct error lost_reason;  /* the same in words */
    bool may_continue;         /* without a handle: its writer may go on without marks */
    bool unmarked;             /* it has, since it was last attached */
    bool refusal_reported;
    bool reached;         /* by the last attempt to connect */
    bool attached_anew;   /* in it, as a writer that the daemon did not take for a lost one */
    uint64_t retry_at_ns; /* CLOCK_MONOTONIC; while down */
    uint64_t retry_delay_ns;
    struct error down_reason; /* the last one of a daemon that is there, or "" */
    bool down_reason_reported;
    uint64_t *ids; /* scratch */
    size_t ids_capacity;
};

/* ---- For both sides, in tracker.c ---- */

void tracker_report(struct tracker *tracker, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void tracker_lock(struct tracker *tracker);
void tracker_unlock(struct tracker *tracker);
void tracker_wake_callers(struct tracker *tracker); /* with the lock */
void tracker_wake_thread(struct tracker *tracker);
/* Ends a mark that waits for the daemon: its waiters fail.  With the lock; the thread must have
 * let go of it. */
void mark_refuse(struct tracker *tracker, struct tracker_mark *mark);

/* ---- The daemon's side, in tracker_thread.c and tracker_connect.c ---- */

/* Connects, attaches, marks again what is not settled, resumes.  Without the lock.  When it fails
 * the state may have become AWAY, which is for the caller to end. */
int tracker_connect(struct tracker *tracker, struct error *error);
/* Detaches if it can, says so if it cannot, and drops the connection.  There is no thread. */
void tracker_disconnect(struct tracker *tracker);
/* Settles and frees the marks of @settled. */
void tracker_settle(struct tracker *tracker, struct mark_queue *settled);
void *tracker_thread_main(void *tracker);

#endif
