/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The worker thread with a real loop: order, threads, closing at every moment,
 * and a start that fails half way.  Every test ends with a loop that closes
 * cleanly.  Nothing waits for a time: what must happen before what is said
 * with semaphores, and a wait that never ends is the failure.
 */
#include "daemon/base/worker.h"

#include <errno.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define JOBS 1000

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *),
                          void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *),
                          void *arg);
int __real_uv_async_init(uv_loop_t *loop, uv_async_t *async, uv_async_cb callback);
int __wrap_uv_async_init(uv_loop_t *loop, uv_async_t *async, uv_async_cb callback);

static int thread_fails;
static int async_fails;

/* Threads that were started and have not returned. */
static atomic_int threads;

struct thread_start {
    void *(*start)(void *);
    void *arg;
};

static void *thread_counted(void *opaque)
{
    struct thread_start call = *(struct thread_start *)opaque;

    free(opaque);
    void *result = call.start(call.arg);
    atomic_fetch_sub(&threads, 1);
    return result;
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *),
                          void *arg)
{
    if (thread_fails) {
        return thread_fails;
    }
    struct thread_start *call = malloc(sizeof *call);
    assert_non_null(call);
    *call = (struct thread_start){.start = start, .arg = arg};
    atomic_fetch_add(&threads, 1);
    int r = __real_pthread_create(thread, attr, thread_counted, call);
    assert_int_equal(r, 0);
    return r;
}

int __wrap_uv_async_init(uv_loop_t *loop, uv_async_t *async, uv_async_cb callback)
{
    return async_fails ? async_fails : __real_uv_async_init(loop, async, callback);
}

/* A job that notes when and where its two halves ran. */
struct job {
    struct work work; /* first */
    struct scene *scene;
    unsigned ran_as;
    unsigned done_as;
    pthread_t ran_on;  /* not the scene's: the next job may run before this one's done() */
    sem_t *gate;       /* run() waits for it, when not NULL */
    unsigned resubmit; /* times that done() submits it again */
    bool closes;       /* done() closes the worker */
};

struct scene {
    uv_loop_t loop;
    struct worker worker;
    pthread_t loop_thread;
    unsigned ran;  /* worker's thread */
    unsigned done; /* loop's thread */
    unsigned closed;
    unsigned close_after; /* jobs done, 0: never by itself */
    struct job jobs[JOBS];
};

static void on_closed(struct worker *worker)
{
    struct scene *scene = (struct scene *)((char *)worker - offsetof(struct scene, worker));

    assert_true(pthread_equal(pthread_self(), scene->loop_thread));
    scene->closed++;
    memset(worker, 0xaa, sizeof *worker); /* it is ours again */
}

static void job_run(struct work *work)
{
    struct job *job = (struct job *)work;

    if (job->gate) {
        while (sem_wait(job->gate) < 0) {
            assert_int_equal(errno, EINTR);
        }
    }
    job->ran_on = pthread_self();
    job->ran_as = job->scene->ran++;
}

static void job_done(struct work *work)
{
    struct job *job = (struct job *)work;
    struct scene *scene = job->scene;

    assert_true(pthread_equal(pthread_self(), scene->loop_thread));
    assert_false(pthread_equal(job->ran_on, scene->loop_thread));
    assert_int_equal(scene->closed, 0);
    job->done_as = scene->done++;
    if (job->resubmit > 0) {
        job->resubmit--;
        worker_submit(&scene->worker, &job->work);
    }
    if (job->closes || scene->done == scene->close_after) {
        worker_close(&scene->worker, on_closed);
    }
}

static struct job *submit(struct scene *scene, unsigned index, sem_t *gate)
{
    struct job *job = &scene->jobs[index];

    *job = (struct job){
        .work = {.run = job_run, .done = job_done},
        .scene = scene,
        .ran_as = UINT32_MAX,
        .done_as = UINT32_MAX,
        .ran_on = scene->loop_thread,
        .gate = gate,
    };
    worker_submit(&scene->worker, &job->work);
    return job;
}

static struct scene *scene_new(void)
{
    struct scene *scene = test_calloc(1, sizeof *scene);

    assert_non_null(scene);
    scene->loop_thread = pthread_self();
    assert_int_equal(uv_loop_init(&scene->loop), 0);
    assert_int_equal(worker_init(&scene->worker, &scene->loop, "test-worker"), 0);
    return scene;
}

/* Runs the loop to its end, where nothing may be left. */
static void scene_finish(struct scene *scene, unsigned jobs_done)
{
    assert_int_equal(uv_run(&scene->loop, UV_RUN_DEFAULT), 0);
    assert_int_equal(scene->closed, 1);
    assert_int_equal(atomic_load(&threads), 0);
    assert_int_equal(scene->ran, jobs_done);
    assert_int_equal(scene->done, jobs_done);
    assert_int_equal(uv_loop_close(&scene->loop), 0);
    test_free(scene);
}

static void test_order(void **state)
{
    struct scene *scene = scene_new();

    (void)state;
    scene->close_after = JOBS;
    for (unsigned i = 0; i < JOBS; i++) {
        submit(scene, i, NULL);
    }
    assert_int_equal(uv_run(&scene->loop, UV_RUN_DEFAULT), 0);
    for (unsigned i = 0; i < JOBS; i++) {
        assert_int_equal(scene->jobs[i].ran_as, i);
        assert_int_equal(scene->jobs[i].done_as, i);
    }
    scene_finish(scene, JOBS);
}

static void test_close_without_jobs(void **state)
{
    struct scene *scene = scene_new();

    (void)state;
    worker_close(&scene->worker, on_closed);
    assert_int_equal(scene->closed, 0); /* not before the loop has let go of the handle */
    scene_finish(scene, 0);

    scene = scene_new();
    worker_close(&scene->worker, NULL);
    scene->closed = 1;
    scene_finish(scene, 0);
}

/* The loop never ran, and everything that was queued has run and reported when close returns. */
static void test_close_drains(void **state)
{
    struct scene *scene = scene_new();
    sem_t gate;

    (void)state;
    assert_int_equal(sem_init(&gate, 0, 0), 0);
    submit(scene, 0, &gate);
    for (unsigned i = 1; i < 50; i++) {
        submit(scene, i, NULL);
    }
    assert_int_equal(sem_post(&gate), 0);
    worker_close(&scene->worker, on_closed);
    assert_int_equal(scene->done, 50);
    assert_int_equal(scene->closed, 0);
    for (unsigned i = 0; i < 50; i++) {
        assert_int_equal(scene->jobs[i].done_as, i);
    }
    scene_finish(scene, 50);
    assert_int_equal(sem_destroy(&gate), 0);
}

/* A chain of jobs, each submitted by the one before, belongs to what was queued. */
static void test_close_follows_chains(void **state)
{
    struct scene *scene = scene_new();

    (void)state;
    submit(scene, 0, NULL)->resubmit = 20;
    worker_close(&scene->worker, on_closed);
    assert_int_equal(scene->done, 21);
    scene_finish(scene, 21);
}

/* done() closes the worker while others have run already and are not reported yet. */
static void test_close_from_done(void **state)
{
    struct scene *scene = scene_new();
    sem_t gate;

    (void)state;
    assert_int_equal(sem_init(&gate, 0, 0), 0);
    submit(scene, 0, &gate);
    submit(scene, 1, NULL)->closes = true;
    for (unsigned i = 2; i < 10; i++) {
        submit(scene, i, NULL);
    }
    assert_int_equal(sem_post(&gate), 0);
    assert_int_equal(uv_run(&scene->loop, UV_RUN_DEFAULT), 0);
    for (unsigned i = 0; i < 10; i++) {
        assert_int_equal(scene->jobs[i].done_as, i);
    }
    scene_finish(scene, 10);
    assert_int_equal(sem_destroy(&gate), 0);
}

static void on_timer(uv_timer_t *timer)
{
    uv_close((uv_handle_t *)timer, NULL);
}

/* One that hangs stops neither the loop nor another worker. */
static void test_independent(void **state)
{
    struct scene *hung = scene_new();
    struct worker other;
    struct job job = {.work = {.run = job_run, .done = job_done}};
    uv_timer_t timer;
    sem_t gate;

    (void)state;
    assert_int_equal(sem_init(&gate, 0, 0), 0);
    submit(hung, 0, &gate);

    struct scene *free_one = test_calloc(1, sizeof *free_one);
    assert_non_null(free_one);
    free_one->loop_thread = pthread_self();
    job.scene = free_one;
    assert_int_equal(worker_init(&other, &hung->loop, "other"), 0);
    assert_int_equal(uv_timer_init(&hung->loop, &timer), 0);
    assert_int_equal(uv_timer_start(&timer, on_timer, 1, 0), 0);
    worker_submit(&other, &job.work);
    while (free_one->done == 0 || !uv_is_closing((uv_handle_t *)&timer)) {
        assert_true(uv_run(&hung->loop, UV_RUN_ONCE) != 0);
    }
    assert_int_equal(hung->done, 0);
    worker_close(&other, NULL);
    assert_int_equal(sem_post(&gate), 0);
    worker_close(&hung->worker, on_closed);
    scene_finish(hung, 1);
    test_free(free_one);
    assert_int_equal(sem_destroy(&gate), 0);
}

struct thread_facts {
    struct work work; /* first */
    char name[16];
    bool all_blocked;
    bool reported;
};

static void facts_run(struct work *work)
{
    struct thread_facts *facts = (struct thread_facts *)work;
    sigset_t blocked;

    (void)pthread_getname_np(pthread_self(), facts->name, sizeof facts->name);
    (void)pthread_sigmask(SIG_SETMASK, NULL, &blocked);
    facts->all_blocked = sigismember(&blocked, SIGTERM) && sigismember(&blocked, SIGINT) &&
                         sigismember(&blocked, SIGHUP) && sigismember(&blocked, SIGCHLD) &&
                         sigismember(&blocked, SIGUSR1) && sigismember(&blocked, SIGPIPE);
}

static void facts_done(struct work *work)
{
    ((struct thread_facts *)work)->reported = true;
}

static void test_thread(void **state)
{
    struct thread_facts facts = {.work = {.run = facts_run, .done = facts_done}};
    struct scene *scene = scene_new();
    sigset_t blocked;

    (void)state;
    worker_submit(&scene->worker, &facts.work);
    worker_close(&scene->worker, on_closed);
    assert_true(facts.reported);
    assert_string_equal(facts.name, "test-worker");
    assert_true(facts.all_blocked);
    assert_int_equal(pthread_sigmask(SIG_SETMASK, NULL, &blocked), 0);
    assert_false(sigismember(&blocked, SIGTERM)); /* ours is as it was */
    scene_finish(scene, 0);
}

/* A thread that left its loop, which it never should. */
static void job_ends_thread(struct work *work)
{
    struct worker *worker = &((struct job *)work)->scene->worker;

    job_run(work);
    pthread_mutex_lock(&worker->lock);
    worker->stop = true; /* as if it had been told */
    pthread_mutex_unlock(&worker->lock);
}

static bool is_busy(struct worker *worker)
{
    pthread_mutex_lock(&worker->lock);
    bool busy = worker->busy;
    pthread_mutex_unlock(&worker->lock);
    return busy;
}

static void test_alive(void **state)
{
    struct scene *scene = scene_new();
    sem_t gate;

    (void)state;
    assert_int_equal(sem_init(&gate, 0, 0), 0);
    assert_true(worker_is_alive(&scene->worker));
    assert_true(worker_is_alive(&scene->worker));
    /* In a job that does not end, with another behind it. */
    (void)submit(scene, 0, &gate);
    (void)submit(scene, 1, NULL);
    while (!is_busy(&scene->worker)) {
        (void)sched_yield();
    }
    for (int i = 0; i < 1000; i++) {
        assert_true(worker_is_alive(&scene->worker));
    }
    assert_int_equal(sem_post(&gate), 0);
    while (scene->done < 2) {
        (void)uv_run(&scene->loop, UV_RUN_ONCE);
    }
    assert_true(worker_is_alive(&scene->worker));
    scene->jobs[2] =
        (struct job){.work = {.run = job_ends_thread, .done = job_done}, .scene = scene};
    worker_submit(&scene->worker, &scene->jobs[2].work);
    while (scene->done < 3) {
        (void)uv_run(&scene->loop, UV_RUN_ONCE);
    }
    while (worker_is_alive(&scene->worker)) {
        (void)sched_yield();
    }
    worker_close(&scene->worker, on_closed);
    scene_finish(scene, 3);
    assert_int_equal(sem_destroy(&gate), 0);
}

static void test_init_fails(void **state)
{
    struct worker worker;
    uv_loop_t loop;

    (void)state;
    assert_int_equal(uv_loop_init(&loop), 0);
    thread_fails = EAGAIN;
    assert_int_equal(worker_init(&worker, &loop, "no-thread"), -EAGAIN);
    thread_fails = 0;
    async_fails = UV_EMFILE;
    assert_int_equal(worker_init(&worker, &loop, "no-handle"), -EMFILE);
    assert_int_equal(atomic_load(&threads), 0); /* joined, before its lock was destroyed */
    async_fails = 0;
    assert_int_equal(uv_run(&loop, UV_RUN_DEFAULT), 0);
    assert_int_equal(uv_loop_close(&loop), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),           cmocka_unit_test(test_close_without_jobs),
        cmocka_unit_test(test_close_drains),    cmocka_unit_test(test_close_follows_chains),
        cmocka_unit_test(test_close_from_done), cmocka_unit_test(test_independent),
        cmocka_unit_test(test_thread),          cmocka_unit_test(test_alive),
        cmocka_unit_test(test_init_fails),
    };
    return cmocka_run_group_tests_name("base: worker", tests, NULL, NULL);
}
