/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * daemon/base/worker.h without a thread: a job runs in the turn of the loop after the one that
 * submitted it, and reports at once.  So what gathers meanwhile, and with it every count, is the
 * same in each run.
 */
#include "daemon/base/worker.h"

#include <stdlib.h>
#include <string.h>

static void run_all(uv_async_t *async)
{
    struct worker *worker = async->data;
    struct work_queue batch = TAILQ_HEAD_INITIALIZER(batch);
    struct work *work;

    /* What a done() submits is for the next turn. */
    TAILQ_CONCAT(&batch, &worker->todo, entry);
    while ((work = TAILQ_FIRST(&batch))) {
        TAILQ_REMOVE(&batch, work, entry);
        work->run(work);
        work->done(work);
    }
}

int worker_init(struct worker *worker, uv_loop_t *loop, const char *name)
{
    (void)name;
    memset(worker, 0, sizeof *worker);
    TAILQ_INIT(&worker->todo);
    int r = uv_async_init(loop, &worker->async, run_all);
    worker->async.data = worker;
    return r;
}

bool worker_is_alive(struct worker *worker)
{
    (void)worker;
    return true;
}

void worker_submit(struct worker *worker, struct work *work)
{
    TAILQ_INSERT_TAIL(&worker->todo, work, entry);
    (void)uv_async_send(&worker->async);
}

/* The script ends without an orderly end, as after a crash. */
void worker_close(struct worker *worker, void (*closed)(struct worker *worker))
{
    (void)worker;
    (void)closed;
    abort();
}
