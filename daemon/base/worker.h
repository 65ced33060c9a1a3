/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_BASE_WORKER_H
#define BITMAPD_DAEMON_BASE_WORKER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <uv.h>

/*
 * A thread that runs jobs one after the other, in the order of submission,
 * and reports back to the event loop.  Each slow thing (the container's file,
 * the catalog) has a worker of its own, so that one hung disk stops only what
 * needs it; libuv's pool would share four threads among all.
 */
struct work {
    void (*run)(struct work *work);  /* on the worker's thread; may block */
    void (*done)(struct work *work); /* on the loop's thread, in order; may free the work */
    TAILQ_ENTRY(work) entry;
};

TAILQ_HEAD(work_queue, work);

struct worker {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct work_queue todo;  /* guarded by lock */
    struct work_queue ready; /* guarded by lock: ran, not yet done() */
    bool stop;               /* guarded by lock */
    bool busy, ended;        /* guarded by lock: runs a job; has left */
    uint64_t turns;          /* guarded by lock: how often it looked for a job */
    bool stalled;            /* loop's thread: at the last worker_is_alive() jobs waited, … */
    uint64_t turns_seen;     /* … and the thread had not taken one after so many turns */
    uv_async_t async;        /* loop's thread */
    void (*closed)(struct worker *worker);
};

/* Starts the thread, with all signals blocked.  -errno.  @name: at most 15 bytes, for debuggers. */
int worker_init(struct worker *worker, uv_loop_t *loop, const char *name);

/* Queues a job.  Loop's thread.  The work stays the caller's; it must live until done(). */
void worker_submit(struct worker *worker, struct work *work);

/*
 * For a watchdog, some seconds apart: false when the thread has left its loop, or has let a job
 * wait since the last call without running any.  One that is in a job is alive, however long that
 * takes: a disk that hangs is no reason to end the process, and would hang the next one too. Loop's
 * thread.
 */
bool worker_is_alive(struct worker *worker);

/*
 * Lets all queued jobs run and report (those that a done() submits meanwhile
 * too), joins the thread, closes the handle, then calls @closed (may be NULL)
 * on the loop's thread; the worker may then be freed.  Nothing may be
 * submitted after this call.  Loop's thread; blocks until the jobs have run.
 */
void worker_close(struct worker *worker, void (*closed)(struct worker *worker));

#endif
