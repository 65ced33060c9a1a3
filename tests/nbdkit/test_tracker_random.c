/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Many threads write, rewrite and flush at random while the connection comes
 * and goes, against a drive that knows of each block how often it was written
 * and up to which write it is stable:
 *
 * - no block is written without an unsettled mark over it, nor loses its last
 *   mark before every write to it has returned and is stable: checked at
 *   every settle and at every resume of a writer;
 * - the same where writes go on without marks, but that it is while the daemon
 *   holds it against the drive, and that it is checked when it ceases to;
 * - a flush that succeeds leaves what its caller wrote stable;
 * - in the end nothing is unsettled, unless writes or syncs failed.
 *
 * Threads take their choices from generators seeded one by one, so that a
 * seed repeats the choices, if not their interleaving.
 * BITMAPD_TEST_SEED sets it.
 */
#include "tests/nbdkit/fake_bitmapd.h"
#include "tests/nbdkit/tracker_harness.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define CHECK(condition)                                                                       \
    do {                                                                                       \
        if (!(condition)) {                                                                    \
            fprintf(stderr, "%s:%d: seed %" PRIu64 ": %s does not hold\n", __FILE__, __LINE__, \
                    seed, #condition);                                                         \
            abort();                                                                           \
        }                                                                                      \
    } while (0)

#define THREADS          8u
#define STEPS_PER_THREAD 300u
#define BLOCKS_PER_WRITE 6u

static uint64_t seed;

static uint64_t random_next(uint64_t *generator)
{
    /* splitmix64 */
    uint64_t z = (*generator += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static unsigned random_below(uint64_t *generator, unsigned limit)
{
    return (unsigned)(random_next(generator) % limit);
}

/* ---- The drive ---- */

struct block {
    unsigned under_way; /* writes */
    unsigned written;   /* writes that have returned */
    unsigned stable;    /* of those */
};

static struct {
    pthread_mutex_t lock;
    struct block blocks[FAKE_BLOCKS];
    unsigned syncs_running;
    bool sync_failed;
    unsigned fail_sync_at; /* the how-manieth; 0: none */
    unsigned syncs;
} model = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void model_lock(void)
{
    CHECK(pthread_mutex_lock(&model.lock) == 0);
}

static void model_unlock(void)
{
    CHECK(pthread_mutex_unlock(&model.lock) == 0);
}

/* Called by the fake when the last mark over a block has gone. */
static void model_on_free_block(unsigned block)
{
    model_lock();
    CHECK(model.blocks[block].under_way == 0);
    CHECK(model.blocks[block].stable == model.blocks[block].written);
    model_unlock();
}

/* Called by the fake when a writer resumes. */
static void model_on_back(const unsigned over[FAKE_BLOCKS])
{
    model_lock();
    for (unsigned i = 0; i < FAKE_BLOCKS; i++) {
        CHECK(over[i] > 0 || model.blocks[i].under_way == 0);
        CHECK(over[i] > 0 || model.blocks[i].stable == model.blocks[i].written);
    }
    model_unlock();
}

static int model_sync(void)
{
    static unsigned written[FAKE_BLOCKS]; /* one at a time, as is checked */
    model_lock();
    CHECK(model.syncs_running++ == 0);
    CHECK(!model.sync_failed); /* after a failure there is no trying again */
    for (unsigned i = 0; i < FAKE_BLOCKS; i++) {
        written[i] = model.blocks[i].written;
    }
    bool fail = ++model.syncs == model.fail_sync_at;
    model_unlock();

    (void)nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);

    model_lock();
    model.syncs_running--;
    model.sync_failed = fail;
    for (unsigned i = 0; i < FAKE_BLOCKS && !fail; i++) {
        model.blocks[i].stable = written[i];
    }
    model_unlock();
    return fail ? -EIO : 0;
}

/* ---- Threads ---- */

struct worker {
    pthread_t thread;
    struct tracker *tracker;
    uint64_t generator;
    bool may_fail; /* its writes */
    unsigned failed_writes;
    unsigned refused_writes;
    unsigned unmarked_writes;
    unsigned flushes;
    unsigned last_first; /* its last write that succeeded, to be stable after its next flush */
    unsigned last_count; /* 0: none */
};

static void worker_write(struct worker *worker)
{
    unsigned count = 1 + random_below(&worker->generator, BLOCKS_PER_WRITE);
    /* Often the same few places, so that marks are shared. */
    unsigned span = random_below(&worker->generator, 2) == 0 ? 32 : FAKE_BLOCKS - BLOCKS_PER_WRITE;
    unsigned first = random_below(&worker->generator, span);
    uint64_t offset_bytes = (uint64_t)first * FAKE_BLOCK_BYTES;
    uint64_t length_bytes = (uint64_t)count * FAKE_BLOCK_BYTES;
    if (offset_bytes + length_bytes > FAKE_SIZE_BYTES) {
        length_bytes = FAKE_SIZE_BYTES - offset_bytes;
    }

    struct tracker_mark *mark = NULL;
    int r = tracker_write_begin(worker->tracker, offset_bytes, length_bytes, &mark);
    if (r < 0) {
        CHECK(r == -EIO);
        worker->refused_writes++;
        (void)nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
        return;
    }

    model_lock();
    for (unsigned i = first; i < first + count; i++) {
        model.blocks[i].under_way++;
    }
    model_unlock();
    if (fake_marks_over(offset_bytes, length_bytes) == 0) {
        CHECK(fake_is_doubtful());
        worker->unmarked_writes++;
        (void)nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL); /* live to see its end */
    }
    if (random_below(&worker->generator, 4) == 0) {
        (void)nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
    } else {
        (void)sched_yield();
    }
    bool failed = worker->may_fail && random_below(&worker->generator, 50) == 0;
    model_lock();
    for (unsigned i = first; i < first + count; i++) {
        model.blocks[i].under_way--;
        model.blocks[i].written++;
    }
    model_unlock();
    worker->failed_writes += failed;
    tracker_write_end(worker->tracker, mark, failed);
    if (!failed) {
        worker->last_first = first;
        worker->last_count = count;
    }
}

static void worker_flush(struct worker *worker)
{
    static _Thread_local unsigned before[BLOCKS_PER_WRITE];
    model_lock();
    for (unsigned i = 0; i < worker->last_count; i++) {
        before[i] = model.blocks[worker->last_first + i].written;
    }
    model_unlock();
    int r = tracker_flush(worker->tracker);
    model_lock();
    CHECK(r == 0 || (r == -EIO && model.sync_failed));
    for (unsigned i = 0; i < worker->last_count && r == 0; i++) {
        CHECK(model.blocks[worker->last_first + i].stable >= before[i]);
    }
    model_unlock();
    worker->flushes++;
}

static void *worker_main(void *opaque)
{
    struct worker *worker = opaque;
    for (unsigned step = 0; step < STEPS_PER_THREAD; step++) {
        if (random_below(&worker->generator, 20) == 0) {
            worker_flush(worker);
        } else {
            worker_write(worker);
        }
    }
    return NULL;
}

/* ---- Runs ---- */

struct run {
    uint64_t align_bytes;
    size_t unsettled_max;
    bool outages;
    bool continues;
    bool failing_writes;
    unsigned fail_sync_at;
};

static atomic_bool workers_done;

static void *trouble_main(void *opaque)
{
    struct tracker *tracker = opaque;
    uint64_t generator = seed ^ 0xabcdef;
    while (!atomic_load(&workers_done)) {
        (void)nanosleep(&(struct timespec){.tv_nsec = 3000000}, NULL);
        if (random_below(&generator, 2) == 0) {
            fake_set_offline(true);
            (void)nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
            fake_set_offline(false);
        } else {
            unsigned attaches = fake_counts().attaches;
            fake_set_unreachable(harness.continues);
            fake_break_connection();
            if (harness.continues) {
                (void)nanosleep(&(struct timespec){.tv_nsec = 12000000}, NULL);
                fake_set_unreachable(false);
            }
            harness_wait(fake_counts().attaches > attaches && harness_online(tracker));
        }
    }
    return NULL;
}

static void run(const struct run *run)
{
    CHECK(harness_setup(NULL) == 0);
    memset(model.blocks, 0, sizeof model.blocks);
    model.sync_failed = false;
    model.fail_sync_at = run->fail_sync_at;
    model.syncs = 0;
    harness.sync = model_sync;
    harness.continues = run->continues;
    fake_set_on_free_block(model_on_free_block);
    fake_set_on_back(model_on_back);
    fake_set_unsettled_max(run->unsettled_max);
    atomic_store(&workers_done, false);

    struct tracker *tracker = harness_start(run->align_bytes);
    pthread_t trouble;
    if (run->outages) {
        CHECK(pthread_create(&trouble, NULL, trouble_main, tracker) == 0);
    }
    static struct worker workers[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){
            .tracker = tracker,
            .generator = seed + i * 1000003,
            .may_fail = run->failing_writes,
        };
        CHECK(pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]) == 0);
    }
    unsigned failed = 0, refused = 0, unmarked = 0, flushes = 0;
    for (unsigned i = 0; i < THREADS; i++) {
        CHECK(pthread_join(workers[i].thread, NULL) == 0);
        failed += workers[i].failed_writes;
        refused += workers[i].refused_writes;
        unmarked += workers[i].unmarked_writes;
        flushes += workers[i].flushes;
    }
    atomic_store(&workers_done, true);
    if (run->outages) {
        CHECK(pthread_join(trouble, NULL) == 0);
        harness_wait(harness_online(tracker));
    }
    harness_stop(tracker);

    struct fake_counts counts = fake_counts();
    print_message("align %" PRIu64 " limit %zu: %u marks in %u requests (at most %u at once, %u "
                  "unsettled), %u settled, %u flushes by %u syncs, %u writes failed, %u refused, "
                  "%u without a mark, %u attaches\n",
                  run->align_bytes, run->unsettled_max, counts.marks, counts.mark_calls,
                  counts.ranges_most, counts.unsettled_most, counts.settled, flushes, model.syncs,
                  failed, refused, unmarked, counts.attaches);
    CHECK(counts.unsettled_most <= run->unsettled_max);
    CHECK((run->outages && !run->continues) || run->fail_sync_at > 0 || refused == 0);
    CHECK(run->continues || unmarked == 0);
    CHECK((counts.unsettled == 0) == (failed == 0 && !model.sync_failed));
    CHECK((counts.detaches == 1) == (counts.unsettled == 0));
    CHECK(run->outages == (counts.attaches > 1));
}

static void test_calm(void **state)
{
    (void)state;
    run(&(struct run){.align_bytes = 1, .unsettled_max = 65536});
}

static void test_aligned(void **state)
{
    (void)state;
    run(&(struct run){.align_bytes = 8192, .unsettled_max = 65536});
}

static void test_narrow_limit(void **state)
{
    (void)state;
    run(&(struct run){.align_bytes = 1, .unsettled_max = 5});
}

static void test_failing_writes(void **state)
{
    (void)state;
    run(&(struct run){.align_bytes = 1, .unsettled_max = 1024, .failing_writes = true});
}

static void test_failing_sync(void **state)
{
    (void)state;
    run(&(struct run){.align_bytes = 1, .unsettled_max = 256, .fail_sync_at = 10});
}

static void test_outages(void **state)
{
    (void)state;
    run(&(struct run){.align_bytes = 1, .unsettled_max = 1024, .outages = true});
}

static void test_outages_and_failing_writes(void **state)
{
    (void)state;
    run(&(struct run){
        .align_bytes = 4096, .unsettled_max = 512, .outages = true, .failing_writes = true});
}

static void test_continues(void **state)
{
    (void)state;
    run(&(struct run){.align_bytes = 1, .unsettled_max = 1024, .outages = true, .continues = true});
}

static void test_continues_with_failing_writes(void **state)
{
    (void)state;
    run(&(struct run){.align_bytes = 4096,
                      .unsettled_max = 512,
                      .outages = true,
                      .continues = true,
                      .failing_writes = true});
}

int main(void)
{
    const char *text = getenv("BITMAPD_TEST_SEED");
    seed = text != NULL ? strtoull(text, NULL, 0) : (uint64_t)time(NULL);
    print_message("BITMAPD_TEST_SEED=%" PRIu64 "\n", seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calm),
        cmocka_unit_test(test_aligned),
        cmocka_unit_test(test_narrow_limit),
        cmocka_unit_test(test_failing_writes),
        cmocka_unit_test(test_failing_sync),
        cmocka_unit_test(test_outages),
        cmocka_unit_test(test_outages_and_failing_writes),
        cmocka_unit_test(test_continues),
        cmocka_unit_test(test_continues_with_failing_writes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
