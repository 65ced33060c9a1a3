/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One thread, two queues.  A job stands at the head of `todo` while it runs
 * and moves to `ready` afterwards, in one step under the lock; so an empty
 * `todo` means that nothing is queued and nothing runs, and a job is always
 * in exactly one queue until its done() is called.
 *
 * The one condition variable tells the thread about new jobs and the stop, and
 * a closing loop about finished ones; both sides test their own condition, so
 * every change is broadcast.
 */
#include "daemon/base/worker.h"

#include "daemon/base/thread.h"

#include <assert.h>
#include <string.h>

static void *worker_main(void *opaque)
{
    struct worker *worker = opaque;

    pthread_mutex_lock(&worker->lock);
    for (;;) {
        worker->turns++;
        struct work *work = TAILQ_FIRST(&worker->todo);
        if (!work) {
            if (worker->stop) {
                break;
            }
            pthread_cond_wait(&worker->wake, &worker->lock);
            continue;
        }
        worker->busy = true;
        pthread_mutex_unlock(&worker->lock);
        work->run(work);
        pthread_mutex_lock(&worker->lock);
        worker->busy = false;
        TAILQ_REMOVE(&worker->todo, work, entry);
        TAILQ_INSERT_TAIL(&worker->ready, work, entry);
        pthread_cond_broadcast(&worker->wake);
        /* Cannot fail, and the handle is closed only after this thread was joined. */
        (void)uv_async_send(&worker->async);
    }
    worker->ended = true;
    pthread_mutex_unlock(&worker->lock);
    return NULL;
}

bool worker_is_alive(struct worker *worker)
{
    pthread_mutex_lock(&worker->lock);
    bool idle = !worker->busy && !TAILQ_EMPTY(&worker->todo);
    bool stalled = idle && worker->stalled && worker->turns == worker->turns_seen;
    worker->stalled = idle;
    worker->turns_seen = worker->turns;
    bool alive = !worker->ended && !stalled;
    pthread_mutex_unlock(&worker->lock);
    return alive;
}

/*
 * Reports one job.  They are taken one at a time, since done() may submit, or
 * even close the worker and thereby report the others.
 */
static bool ready_report_one(struct worker *worker)
{
    pthread_mutex_lock(&worker->lock);
    struct work *work = TAILQ_FIRST(&worker->ready);
    if (work) {
        TAILQ_REMOVE(&worker->ready, work, entry);
    }
    pthread_mutex_unlock(&worker->lock);
    if (!work) {
        return false;
    }
    work->done(work);
    return true;
}

/*
 * Reports what was ready when the loop came here.  What gets ready meanwhile
 * has sent the handle again: it waits for the next turn, so that a job which
 * submits itself anew cannot hold the loop.
 */
static void on_async(uv_async_t *async)
{
    struct worker *worker = async->data;
    struct work *work;
    size_t count = 0;

    pthread_mutex_lock(&worker->lock);
    TAILQ_FOREACH (work, &worker->ready, entry) {
        count++;
    }
    pthread_mutex_unlock(&worker->lock);
    while (count > 0 && ready_report_one(worker)) {
        count--;
    }
}

static void on_closed(uv_handle_t *handle)
{
    struct worker *worker = handle->data;

    pthread_cond_destroy(&worker->wake);
    pthread_mutex_destroy(&worker->lock);
    if (worker->closed) {
        worker->closed(worker);
    }
}

/* Has the thread finish what is queued, and waits for its end. */
static void thread_stop(struct worker *worker)
{
    pthread_mutex_lock(&worker->lock);
    worker->stop = true;
    pthread_cond_broadcast(&worker->wake);
    pthread_mutex_unlock(&worker->lock);
    int r = pthread_join(worker->thread, NULL);
    assert(r == 0);
    (void)r;
}

int worker_init(struct worker *worker, uv_loop_t *loop, const char *name)
{
    memset(worker, 0, sizeof *worker);
    TAILQ_INIT(&worker->todo);
    TAILQ_INIT(&worker->ready);
    int r = pthread_mutex_init(&worker->lock, NULL);
    if (r != 0) {
        return -r;
    }
    r = pthread_cond_init(&worker->wake, NULL);
    if (r != 0) {
        pthread_mutex_destroy(&worker->lock);
        return -r;
    }

    r = thread_start(&worker->thread, name, worker_main, worker);
    if (r < 0) {
        goto fail;
    }

    /* Last, because only the loop could undo it.  The thread sends it only after a job. */
    r = uv_async_init(loop, &worker->async, on_async);
    if (r < 0) {
        thread_stop(worker);
        goto fail;
    }
    worker->async.data = worker;
    return 0;

fail:
    pthread_cond_destroy(&worker->wake);
    pthread_mutex_destroy(&worker->lock);
    return r;
}

void worker_submit(struct worker *worker, struct work *work)
{
    pthread_mutex_lock(&worker->lock);
    assert(!worker->stop);
    TAILQ_INSERT_TAIL(&worker->todo, work, entry);
    pthread_mutex_unlock(&worker->lock);
    /* Behind the lock, or the thread wakes up only to wait for that. */
    pthread_cond_broadcast(&worker->wake);
}

void worker_close(struct worker *worker, void (*closed)(struct worker *worker))
{
    /* A done() may have submitted the next job of its chain: that one belongs to what was queued,
     * so go on until both queues are empty. */
    do {
        pthread_mutex_lock(&worker->lock);
        while (!TAILQ_EMPTY(&worker->todo)) {
            pthread_cond_wait(&worker->wake, &worker->lock);
        }
        pthread_mutex_unlock(&worker->lock);
    } while (ready_report_one(worker));

    thread_stop(worker);
    worker->closed = closed;
    uv_close((uv_handle_t *)&worker->async, on_closed);
}
