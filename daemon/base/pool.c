/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libuv's pool, where it can be had.
 *
 * Before the first work as many threads as the pool will have are made, all there at once, and
 * ended: where that fails the pool is not touched, and the next work tries again.  Somebody else
 * may take the room in the moment between; nothing can be done about that.
 */
#include "daemon/base/pool.h"

#include "daemon/base/thread.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

/* As libuv reads it. */
#define THREADS_DEFAULT 4ul
#define THREADS_MAX     1024ul

static void *wait_for_end(void *opaque)
{
    pthread_mutex_t *end = opaque;

    (void)pthread_mutex_lock(end);
    (void)pthread_mutex_unlock(end);
    return NULL;
}

static unsigned long pool_threads(void)
{
    const char *text = getenv("UV_THREADPOOL_SIZE");
    unsigned long threads = text ? strtoul(text, NULL, 10) : THREADS_DEFAULT;

    return threads == 0 ? 1 : threads > THREADS_MAX ? THREADS_MAX : threads;
}

static bool threads_can_be_made(void)
{
    static pthread_t threads[THREADS_MAX];
    pthread_mutex_t end = PTHREAD_MUTEX_INITIALIZER;
    unsigned long wanted = pool_threads(), made = 0;

    (void)pthread_mutex_lock(&end);
    while (made < wanted && thread_start(&threads[made], "pool", wait_for_end, &end) == 0) {
        made++;
    }
    (void)pthread_mutex_unlock(&end);
    for (unsigned long i = 0; i < made; i++) {
        (void)pthread_join(threads[i], NULL);
    }
    return made == wanted;
}

int pool_submit(uv_loop_t *loop, uv_work_t *work, uv_work_cb run, uv_after_work_cb done)
{
    static bool begun;

    if (!begun && !threads_can_be_made()) {
        return -EAGAIN;
    }
    begun = true;
    return uv_queue_work(loop, work, run, done);
}
