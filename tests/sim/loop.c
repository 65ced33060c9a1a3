/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The part of libuv that the model uses, with a clock that moves when it is
 * told to.  A turn calls due timers, prepare handles, and what was closed, in libuv's order.
 * Work for the pool makes no disk calls, so one step does it; what it did is told in a later turn.
 */
#include "tests/sim/sim.h"

#include "tests/common/simdisk.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define HANDLES_MAX 16u
#define LATER_MAX   16u
#define POOL_MAX    16u

#define ACTIVE      1u /* in handle->flags */

struct later {
    void (*fn)(void *opaque);
    void *opaque;
};

struct sim {
    uv_loop_t loop; /* first: the two pointers are the same */
    uint64_t random;
    uint64_t now_ms;
    uv_timer_t *timers[HANDLES_MAX];
    uv_prepare_t *prepares[HANDLES_MAX];
    struct later later[LATER_MAX];
    unsigned n_later;
    uv_work_t *pool[POOL_MAX]; /* to be done */
    uv_work_t *done[POOL_MAX]; /* to be told */
    unsigned n_pool, n_done;
    struct sim_workers *workers;
};

/* One clock for all: uv_hrtime() knows no loop. */
static uint64_t clock_ms = 1000000;

struct sim *sim_new(uint64_t seed)
{
    struct sim *sim = calloc(1, sizeof *sim);

    if (!sim) {
        abort();
    }
    sim->random = seed;
    sim->now_ms = clock_ms;
    sim->workers = sim_workers_new(sim);
    return sim;
}

void sim_free(struct sim *sim)
{
    assert(sim->n_later == 0 && sim->n_pool == 0 && sim->n_done == 0);
    for (unsigned i = 0; i < HANDLES_MAX; i++) {
        assert(!sim->timers[i] && !sim->prepares[i]);
    }
    sim_workers_free(sim->workers);
    free(sim);
}

uv_loop_t *sim_loop(struct sim *sim)
{
    return &sim->loop;
}

struct sim *sim_of(const uv_loop_t *loop)
{
    return (struct sim *)(uintptr_t)loop;
}

struct sim_workers *sim_get_workers(struct sim *sim)
{
    return sim->workers;
}

uint64_t sim_random(struct sim *sim)
{
    return simdisk_random(&sim->random);
}

void sim_later(struct sim *sim, void (*fn)(void *opaque), void *opaque)
{
    assert(sim->n_later < LATER_MAX);
    sim->later[sim->n_later++] = (struct later){fn, opaque};
}

static bool due(const struct sim *sim, const uv_timer_t *timer)
{
    return timer && (timer->flags & ACTIVE) && timer->timeout <= sim->now_ms;
}

/* Takes out one of @works, any of them: there are several threads. */
static uv_work_t *take_work(struct sim *sim, uv_work_t *works[], unsigned *count)
{
    unsigned i = (unsigned)(sim_random(sim) % *count);
    uv_work_t *work = works[i];

    works[i] = works[--*count];
    return work;
}

static bool report_pool(struct sim *sim)
{
    bool any = sim->n_done > 0;

    if (any) {
        uv_work_t *work = take_work(sim, sim->done, &sim->n_done);
        work->after_work_cb(work, 0);
    }
    return any;
}

static void pool_step(struct sim *sim)
{
    uv_work_t *work = take_work(sim, sim->pool, &sim->n_pool);

    work->work_cb(work);
    sim->done[sim->n_done++] = work;
}

static bool turn(struct sim *sim)
{
    bool done = false;

    for (unsigned i = 0; i < HANDLES_MAX; i++) {
        uv_timer_t *timer = sim->timers[i];
        if (due(sim, timer)) {
            if (timer->repeat) {
                timer->timeout = sim->now_ms + timer->repeat;
            } else {
                timer->flags &= ~ACTIVE;
            }
            timer->timer_cb(timer);
            done = true;
        }
    }
    for (unsigned i = 0; i < HANDLES_MAX; i++) {
        if (sim->prepares[i] && (sim->prepares[i]->flags & ACTIVE)) {
            sim->prepares[i]->prepare_cb(sim->prepares[i]);
        }
    }
    done |= sim_workers_report(sim);
    done |= report_pool(sim);
    unsigned n = sim->n_later;
    for (unsigned i = 0; i < n; i++) {
        sim->later[i].fn(sim->later[i].opaque);
        done = true;
    }
    sim->n_later -= n;
    memmove(sim->later, sim->later + n, sim->n_later * sizeof sim->later[0]);
    return done;
}

bool sim_step(struct sim *sim)
{
    unsigned workers = sim_workers_ready(sim), ready = workers + (sim->n_pool > 0);
    unsigned choice = (unsigned)(sim_random(sim) % (ready + 1));

    if (choice < workers) {
        sim_worker_step(sim, choice);
        return true;
    }
    if (choice < ready) {
        pool_step(sim);
        return true;
    }
    return turn(sim) || ready > 0 || sim_workers_ready(sim) > 0 || sim->n_pool > 0;
}

bool sim_pass_time(struct sim *sim)
{
    uint64_t next = UINT64_MAX;

    for (unsigned i = 0; i < HANDLES_MAX; i++) {
        if (sim->timers[i] && (sim->timers[i]->flags & ACTIVE) && sim->timers[i]->timeout < next) {
            next = sim->timers[i]->timeout;
        }
    }
    if (next == UINT64_MAX) {
        return false;
    }
    if (next > sim->now_ms) {
        clock_ms += next - sim->now_ms;
        sim->now_ms = next;
    }
    return true;
}

/* ---- libuv ---- */

static void add(void **handles, void *handle)
{
    for (unsigned i = 0; i < HANDLES_MAX; i++) {
        if (!handles[i]) {
            handles[i] = handle;
            return;
        }
    }
    abort();
}

static void drop(void **handles, void *handle)
{
    for (unsigned i = 0; i < HANDLES_MAX; i++) {
        if (handles[i] == handle) {
            handles[i] = NULL;
        }
    }
}

int uv_timer_init(uv_loop_t *loop, uv_timer_t *timer)
{
    memset(timer, 0, sizeof *timer);
    timer->loop = loop;
    timer->type = UV_TIMER;
    add((void **)sim_of(loop)->timers, timer);
    return 0;
}

int uv_timer_start(uv_timer_t *timer, uv_timer_cb cb, uint64_t timeout, uint64_t repeat)
{
    timer->timer_cb = cb;
    timer->timeout = sim_of(timer->loop)->now_ms + timeout;
    timer->repeat = repeat;
    timer->flags |= ACTIVE;
    return 0;
}

int uv_timer_stop(uv_timer_t *timer)
{
    timer->flags &= ~ACTIVE;
    return 0;
}

int uv_prepare_init(uv_loop_t *loop, uv_prepare_t *prepare)
{
    memset(prepare, 0, sizeof *prepare);
    prepare->loop = loop;
    prepare->type = UV_PREPARE;
    add((void **)sim_of(loop)->prepares, prepare);
    return 0;
}

int uv_prepare_start(uv_prepare_t *prepare, uv_prepare_cb cb)
{
    prepare->prepare_cb = cb;
    prepare->flags |= ACTIVE;
    return 0;
}

int uv_is_active(const uv_handle_t *handle)
{
    return handle->flags & ACTIVE;
}

/* What keeps a loop running is of no interest: nobody waits for its end. */
void uv_unref(uv_handle_t *handle)
{
    (void)handle;
}

int uv_queue_work(uv_loop_t *loop, uv_work_t *work, uv_work_cb run, uv_after_work_cb done)
{
    struct sim *sim = sim_of(loop);

    assert(sim->n_pool + sim->n_done < POOL_MAX);
    work->loop = loop;
    work->work_cb = run;
    work->after_work_cb = done;
    sim->pool[sim->n_pool++] = work;
    return 0;
}

static void closed(void *opaque)
{
    uv_handle_t *handle = opaque;
    handle->close_cb(handle);
}

void uv_close(uv_handle_t *handle, uv_close_cb cb)
{
    struct sim *sim = sim_of(handle->loop);

    handle->flags &= ~ACTIVE;
    handle->close_cb = cb;
    drop((void **)sim->timers, handle);
    drop((void **)sim->prepares, handle);
    sim_later(sim, closed, handle);
}

/* For a start that fails: only what is being closed is left. */
int uv_run(uv_loop_t *loop, uv_run_mode mode)
{
    (void)mode;
    return sim_step(sim_of(loop));
}

uint64_t uv_hrtime(void)
{
    return clock_ms * UINT64_C(1000000);
}
