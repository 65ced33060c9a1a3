/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Workers as coroutines: a job runs until it makes a disk call, where it lets
 * others go first (sim_yield()), and goes on when it is chosen again.
 */
#include "daemon/base/worker.h"
#include "tests/sim/sim.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#define ASAN_STARTS(save, stack, bytes) __sanitizer_start_switch_fiber(save, stack, bytes)
#define ASAN_ENDS(save, stack, bytes)   __sanitizer_finish_switch_fiber(save, stack, bytes)
#else
#define ASAN_STARTS(save, stack, bytes) ((void)(save), (void)(stack), (void)(bytes))
#define ASAN_ENDS(save, stack, bytes)   ((void)(save), (void)(stack), (void)(bytes))
#endif

#define WORKERS_MAX 4u
#define STACK_BYTES ((size_t)2 << 20)

struct coroutine {
    struct worker *worker; /* NULL: free */
    ucontext_t context;
    void *stack;
    bool running; /* the first job of worker->todo is under way */
    void *fake;   /* the address sanitizer's */
};

struct sim_workers {
    struct sim *sim;
    struct coroutine all[WORKERS_MAX];
    struct coroutine *current; /* NULL: nobody's turn */
    ucontext_t scheduler;
    void *scheduler_fake; /* these three are the address sanitizer's */
    const void *scheduler_stack;
    size_t scheduler_stack_bytes;
};

/* Stacks are kept: thousands of processes come and go. */
static void *free_stacks[64];
static unsigned n_free_stacks;

static void *stack_get(void)
{
    if (n_free_stacks > 0) {
        return free_stacks[--n_free_stacks];
    }
    void *stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (stack == MAP_FAILED) {
        abort();
    }
    return stack;
}

static void stack_put(void *stack)
{
    if (stack && n_free_stacks < sizeof free_stacks / sizeof free_stacks[0]) {
        free_stacks[n_free_stacks++] = stack;
    } else if (stack) {
        (void)munmap(stack, STACK_BYTES);
    }
}

struct sim_workers *sim_workers_new(struct sim *sim)
{
    struct sim_workers *workers = calloc(1, sizeof *workers);

    if (!workers) {
        abort();
    }
    workers->sim = sim;
    return workers;
}

void sim_workers_free(struct sim_workers *workers)
{
    for (unsigned i = 0; i < WORKERS_MAX; i++) {
        assert(!workers->all[i].worker);
        stack_put(workers->all[i].stack);
    }
    free(workers);
}

/* ---- Turns ---- */

static void leave(struct sim_workers *workers, struct coroutine *coroutine, bool for_good)
{
    ASAN_STARTS(for_good ? NULL : &coroutine->fake, workers->scheduler_stack,
                workers->scheduler_stack_bytes);
    (void)swapcontext(&coroutine->context, &workers->scheduler);
    ASAN_ENDS(coroutine->fake, &workers->scheduler_stack, &workers->scheduler_stack_bytes);
}

static void coroutine_main(unsigned low, unsigned high)
{
    struct sim_workers *workers = (struct sim_workers *)((uintptr_t)low | (uintptr_t)high << 32);
    struct coroutine *coroutine = workers->current;

    ASAN_ENDS(NULL, &workers->scheduler_stack, &workers->scheduler_stack_bytes);
    struct work *work = TAILQ_FIRST(&coroutine->worker->todo);
    work->run(work);
    TAILQ_REMOVE(&coroutine->worker->todo, work, entry);
    TAILQ_INSERT_TAIL(&coroutine->worker->ready, work, entry);
    coroutine->running = false;
    leave(workers, coroutine, true);
}

static void resume(struct sim_workers *workers, struct coroutine *coroutine)
{
    if (!coroutine->running) {
        if (!coroutine->stack) {
            coroutine->stack = stack_get();
        }
        (void)getcontext(&coroutine->context);
        coroutine->context.uc_stack.ss_sp = coroutine->stack;
        coroutine->context.uc_stack.ss_size = STACK_BYTES;
        makecontext(&coroutine->context, (void (*)(void))coroutine_main, 2,
                    (unsigned)(uintptr_t)workers, (unsigned)((uintptr_t)workers >> 32));
        coroutine->running = true;
    }
    workers->current = coroutine;
    ASAN_STARTS(&workers->scheduler_fake, coroutine->stack, STACK_BYTES);
    (void)swapcontext(&workers->scheduler, &coroutine->context);
    ASAN_ENDS(workers->scheduler_fake, NULL, NULL);
    workers->current = NULL;
}

void sim_yield(struct sim *sim)
{
    struct sim_workers *workers = sim_get_workers(sim);
    struct coroutine *coroutine = workers->current;

    if (coroutine) {
        leave(workers, coroutine, false);
        workers->current = coroutine;
    }
}

static bool has_work(const struct coroutine *coroutine)
{
    return coroutine->worker && !TAILQ_EMPTY(&coroutine->worker->todo);
}

unsigned sim_workers_ready(struct sim *sim)
{
    const struct sim_workers *workers = sim_get_workers(sim);
    unsigned ready = 0;

    for (unsigned i = 0; i < WORKERS_MAX; i++) {
        ready += has_work(&workers->all[i]);
    }
    return ready;
}

void sim_worker_step(struct sim *sim, unsigned ready)
{
    struct sim_workers *workers = sim_get_workers(sim);

    for (unsigned i = 0; i < WORKERS_MAX; i++) {
        if (has_work(&workers->all[i]) && ready-- == 0) {
            resume(workers, &workers->all[i]);
            return;
        }
    }
}

static bool report_one(struct worker *worker)
{
    struct work *work = TAILQ_FIRST(&worker->ready);

    if (work) {
        TAILQ_REMOVE(&worker->ready, work, entry);
        work->done(work);
    }
    return work != NULL;
}

bool sim_workers_report(struct sim *sim)
{
    struct sim_workers *workers = sim_get_workers(sim);
    bool any = false;

    for (unsigned i = 0; i < WORKERS_MAX; i++) {
        /* done() may close the worker. */
        any |= workers->all[i].worker && report_one(workers->all[i].worker);
    }
    return any;
}

/* ---- daemon/base/worker.h ---- */

int worker_init(struct worker *worker, uv_loop_t *loop, const char *name)
{
    struct sim_workers *workers = sim_get_workers(sim_of(loop));

    (void)name;
    memset(worker, 0, sizeof *worker);
    TAILQ_INIT(&worker->todo);
    TAILQ_INIT(&worker->ready);
    worker->async.loop = loop;
    for (unsigned i = 0; i < WORKERS_MAX; i++) {
        if (!workers->all[i].worker) {
            workers->all[i].worker = worker;
            return 0;
        }
    }
    abort();
}

bool worker_is_alive(struct worker *worker)
{
    (void)worker;
    return true;
}

void worker_submit(struct worker *worker, struct work *work)
{
    TAILQ_INSERT_TAIL(&worker->todo, work, entry);
}

static void closed(void *opaque)
{
    struct worker *worker = opaque;

    if (worker->closed) {
        worker->closed(worker);
    }
}

void worker_close(struct worker *worker, void (*on_closed)(struct worker *worker))
{
    struct sim *sim = sim_of(worker->async.loop);
    struct sim_workers *workers = sim_get_workers(sim);
    struct coroutine *coroutine = workers->all;

    while (coroutine->worker != worker) {
        coroutine++;
    }
    do {
        while (!TAILQ_EMPTY(&worker->todo)) {
            resume(workers, coroutine);
        }
    } while (report_one(worker));
    coroutine->worker = NULL;
    worker->closed = on_closed;
    sim_later(sim, closed, worker);
}
