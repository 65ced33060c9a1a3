/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The crash proof, of container and journal together: at every disk call of a
 * workload the power fails or the process dies, in every way, and again while
 * the next daemon starts; what it finds keeps the promise.
 *
 * Small sets of unsynced sectors are exhausted; of large ones, samples are
 * drawn.  BITMAPD_TEST_ROUNDS makes it longer.
 */
#include "tests/sim/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#ifdef __SANITIZE_ADDRESS__
#define SHARE 16u /* with sanitizers, which are here for the memory, so much less */
#else
#define SHARE 1u
#endif

#define EXHAUSTIVE_MAX 7u /* unsynced sectors: 128 states */

static uint64_t seed;
static uint64_t calls, exhausted;
static unsigned sample; /* judge the states of one call of so many */
static unsigned torn;   /* samples of torn states a call */

static unsigned rounds(unsigned n)
{
    const char *text = getenv("BITMAPD_TEST_ROUNDS");
    unsigned long factor = text ? strtoul(text, NULL, 10) : 1;
    unsigned all = n * (unsigned)(factor ? factor : 1) / SHARE;

    return all ? all : 1;
}

static void judge_fate(const struct world *world, enum simdir_fate fate, uint64_t random)
{
    world_judge(world, simdir_crash(world->process.dir, fate, random), fate, random);
}

/* All that can have become of the directory at this moment. */
static void every_fate(struct process *process)
{
    struct world *world = (struct world *)process;
    uint64_t random = simdisk_random(&process->random);
    unsigned unsynced = simdir_unsynced(process->dir);

    world_notice(world);
    calls++;
    if (calls % sample != 0) {
        return;
    }
    judge_fate(world, SIMDIR_DROP, random);
    judge_fate(world, SIMDIR_KEEP, random + 1);
    judge_fate(world, SIMDIR_KILL, random + 2);
    judge_fate(world, SIMDIR_EVICT, random + 3);
    if (process->settings.cluster_bits >= 12) {
        judge_fate(world, SIMDIR_DESTROY, random + 4);
        judge_fate(world, SIMDIR_DESTROY, random + 5);
    }
    if (unsynced <= EXHAUSTIVE_MAX) {
        for (uint64_t mask = 0; mask < UINT64_C(1) << unsynced; mask++) {
            judge_fate(world, SIMDIR_MASK, mask);
        }
        exhausted++;
    } else {
        for (unsigned i = 0; i < torn; i++) {
            judge_fate(world, SIMDIR_TEAR, random + 16 + i);
        }
    }
}

static void live(uint32_t cluster_bits, uint64_t workload_seed, unsigned operations)
{
    struct world world;
    struct error error;

    world_init(&world, cluster_bits, workload_seed);
    world.process.at_call = every_fate;
    assert_int_equal(process_start(&world.process, &error), 0);
    world_set_up(&world);
    world_run(&world, operations);
    world_settle(&world);
    assert_int_equal(world_stop(&world), 0);
    every_fate(&world.process);
    /* And once more, from what an orderly stop leaves. */
    assert_int_equal(process_start(&world.process, &error), 0);
    every_fate(&world.process);
    world_kill(&world);
}

static void crash_at_every_call(void **state)
{
    (void)state;
    sample = SHARE / 2 + 1;
    torn = 12;
    world_again = 40;
    for (unsigned i = 0; i < rounds(2); i++) {
        live(i % 2 ? 12 : 9, seed + i, 60);
    }
    printf("%llu calls, after %llu of them everything unsynced was enumerated\n",
           (unsigned long long)calls, (unsigned long long)exhausted);
}

/* Long enough for the journal's segments to be reused many times. */
static int show_states(void **state)
{
    (void)state;
    printf("%llu states so far\n", (unsigned long long)world_states);
    return 0;
}

static void crash_in_long_lives(void **state)
{
    (void)state;
    sample = 6 * (SHARE / 2 + 1);
    torn = 6;
    world_again = 100;
    for (unsigned i = 0; i < rounds(2); i++) {
        live(i % 2 ? 12 : 9, seed + 100 + i, 600);
    }
}

/* Crash after crash; the client goes on each time with what is there. */
static void crash_after_crash(void **state)
{
    (void)state;
    uint64_t random = seed + 200;

    sample = 10;
    torn = 3;
    world_again = 60;
    for (unsigned i = 0; i < rounds(8); i++) {
        struct world world;
        struct error error;

        world_init(&world, i % 2 ? 12 : 9, simdisk_random(&random));
        world.process.at_call = every_fate;
        assert_int_equal(process_start(&world.process, &error), 0);
        world_set_up(&world);
        for (unsigned crash = 0; crash < 10; crash++) {
            enum simdir_fate fate = simdisk_random(&random) % SIMDIR_FATES;
            if (fate == SIMDIR_DESTROY && i % 2 == 0) {
                fate = SIMDIR_TEAR;
            }
            world_run(&world, (unsigned)(simdisk_random(&random) % 40));
            world_crash(&world, fate, simdisk_random(&random));
        }
        world_kill(&world);
    }
}

/*
 * Every call fails in turn, once or for a while; the daemon lives with that,
 * recovers by itself, and crashes at any time before, meanwhile and after.
 */
static bool live_with_faults(uint64_t workload_seed, uint64_t call, uint64_t count,
                             int error_number)
{
    struct world world;
    struct error error;

    world_init(&world, call % 2 ? 12 : 9, workload_seed);
    world.process.settings.cache_max = 0; /* so that there is something to read */
    assert_int_equal(process_start(&world.process, &error), 0);
    world_set_up(&world);
    world_settle(&world);
    world.faults = true;
    world.process.at_call = every_fate;
    simdir_fail_at(world.process.dir, call, count, error_number);
    world_run(&world, 150);
    bool failed = simdir_failed(world.process.dir);
    simdir_fail_at(world.process.dir, UINT64_MAX / 2, 1, -EIO);
    /* All is well again: whatever was asked for is acknowledged in the end, but for what waited for
     * a read and comes before the journal has room. */
    world_settle(&world);
    world_recover(&world);
    unsigned refused = world.refused;
    world_run(&world, 20);
    if (world.refused != refused) {
        fail_msg("refused, though all is well: %s", world.refusal);
    }
    world_settle(&world);
    every_fate(&world.process);
    world_kill(&world);
    return failed;
}

static void crash_with_failing_calls(void **state)
{
    static const int errors[] = {-EIO, -ENOSPC, -EROFS};
    uint64_t trials = 0;

    (void)state;
    sample = 85;
    torn = 2;
    world_again = 60;
    for (unsigned i = 0; i < rounds(1); i++) {
        for (unsigned count = 1; count < 40; count += 19) {
            uint64_t call = 1 + (seed + i) % SHARE;
            while (live_with_faults(seed + 300 + i, call, count, errors[call % 3])) {
                call += SHARE;
                trials++;
            }
        }
    }
    printf("%llu calls failed\n", (unsigned long long)trials);
    assert_true(trials > 50 / SHARE);
}

/* What no crash does: files that were cut, removed, spoilt or put back. */
static void damage_is_a_verdict(void **state)
{
    uint64_t random = seed + 400;

    (void)state;
    world_again = 0;
    for (unsigned i = 0; i < rounds(12); i++) {
        struct world world;
        struct error error;
        struct simdir *earlier = NULL;

        world_init(&world, i % 2 ? 12 : 9, simdisk_random(&random));
        assert_int_equal(process_start(&world.process, &error), 0);
        world_set_up(&world);
        for (unsigned turn = 0; turn < 60; turn++) {
            world_run(&world, 8);
            struct simdir *after = simdir_crash(world.process.dir, SIMDIR_KILL, turn);
            unsigned names = 0;
            while (simdir_name(after, names)) {
                names++;
            }
            const char *name = simdir_name(after, (unsigned)(simdisk_random(&random) % names));
            bool memory = simdir_is_memory(name);
            uint64_t size;
            uint8_t *bytes = simdisk_bytes(simdir_disk(after, name), &size);
            switch (simdisk_random(&random) % (memory ? 2 : 4)) {
            case 0:
                simdir_cut(after, name, simdisk_random(&random) % size);
                break;
            case 1:
                (void)simdir_unlink(after, name);
                break;
            case 2:
                /* Not the journal: what spoils its last batch looks like a torn one. */
                bytes = simdisk_bytes(simdir_disk(after, "c/c"), &size);
                for (unsigned k = 0; k < 16; k++) {
                    bytes[simdisk_random(&random) % size] ^= (uint8_t)simdisk_random(&random);
                }
                break;
            case 3:
                /* What was acknowledged because the container has it, it alone may have. */
                if (earlier && world_is_journaled(&world)) {
                    simdir_put_back(after, earlier, "c/c");
                }
                break;
            }
            world_judge_damaged(&world, after, memory, simdisk_random(&random));
            if (turn % 8 == 0) {
                simdir_free(earlier);
                earlier = simdir_crash(world.process.dir, SIMDIR_KILL, turn);
            }
        }
        simdir_free(earlier);
        world_kill(&world);
    }
}

/* An orderly stop's container comes back under the same inode, after another life has begun. */
static void a_container_put_back_is_a_verdict(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 16; i++) {
        struct world world, later;
        struct error error;

        world_init(&world, i % 2 ? 12 : 9, seed + 600 + i);
        assert_int_equal(process_start(&world.process, &error), 0);
        world_set_up(&world);
        world_run(&world, 30);
        world_settle(&world);
        assert_int_equal(world_stop(&world), 0);
        struct simdir *earlier = simdir_crash(world.process.dir, SIMDIR_KILL, i);

        assert_int_equal(process_start(&world.process, &error), 0);
        world_adopt(&later, &world.process);
        world_run(&later, 60);
        world_settle(&later);
        if (i % 4 > 1) {
            assert_int_equal(world_stop(&later), 0);
        }
        struct simdir *after = simdir_crash(later.process.dir, SIMDIR_KILL, i);
        simdir_put_back(after, earlier, "c/c");
        world_judge_damaged(&later, after, false, seed + i);
        simdir_free(earlier);
        world_kill(&later);
    }
}

/*
 * Every call of a start fails in turn, once or for good until the daemon has
 * started.  It refuses with words and leaves everything as it was, or it serves
 * what there is, takes no changes while it has no journal, and recovers by itself.
 */
static bool start_with_faults(const struct world *before, uint64_t call, uint64_t count, int code,
                              unsigned *refused, unsigned *degraded)
{
    struct process process;
    struct error error = {""};
    struct world after;

    process_init(&process, simdir_crash(before->process.dir, SIMDIR_KILL, call),
                 before->process.settings.cluster_bits, seed + call);
    simdir_fail_at(process.dir, call, count, code);
    int r = process_start(&process, &error);
    bool failed = simdir_failed(process.dir);
    assert_true(r == 0 || (failed && error.text[0]));
    *refused += r < 0;
    if (r == 0) {
        world_adopt(&after, &process);
        after.faults = true;
        if (model_degraded_reason(process.model)[0]) {
            struct record record = {.type = RECORD_DRIVE_ADD,
                                    .name = {"new", 3},
                                    .size = 512,
                                    .granularity = 512,
                                    .durability = DURABILITY_POWER_LOSS};
            *degraded += 1;
            assert_int_equal(model_commit(process.model, &record, &error), -EROFS);
        }
        simdir_fail_at(process.dir, UINT64_MAX / 2, 1, -EIO);
        world_recover(&after);
        world_mark(&after, 0);
        assert_int_equal(after.refused, 0);
        world_settle(&after);
        /* What could not be read is unknown. */
        world_judge_damaged(&after, simdir_crash(after.process.dir, SIMDIR_DROP, call), false,
                            call);
        process = after.process;
    }
    simdir_fail_at(process.dir, UINT64_MAX / 2, 1, -EIO);
    world_judge_damaged(before, simdir_crash(process.dir, SIMDIR_KILL, call), false, call);
    if (r == 0) {
        after.process = process;
        world_kill(&after);
    } else {
        process_kill(&process);
    }
    return failed;
}

static void starts_with_failing_calls(void **state)
{
    static const int codes[] = {-EIO, -ENOSPC, -EROFS};
    unsigned refused = 0, degraded = 0;

    (void)state;
    world_again = 0;
    for (unsigned i = 0; i < 4; i++) {
        struct world world;
        struct error error;

        world_init(&world, i % 2 ? 12 : 9, seed + 500 + i);
        assert_int_equal(process_start(&world.process, &error), 0);
        world_set_up(&world);
        world_run(&world, 60);
        if (i < 2) {
            world_settle(&world);
            assert_int_equal(world_stop(&world), 0);
        }
        for (unsigned forever = 0; forever < 2; forever++) {
            uint64_t call = 1 + seed % SHARE;
            while (start_with_faults(&world, call, forever ? 1000000 : 1, codes[call % 3], &refused,
                                     &degraded)) {
                call += SHARE;
            }
        }
        world_kill(&world);
    }
    printf("%u starts refused, %u degraded\n", refused, degraded);
    assert_true(SHARE > 1 || (refused > 0 && degraded > 0)); /* a thin sample may miss either */
}

/*
 * A sync of the journal fails while marks of a process-crash drive wait for it
 * that were acknowledged already: the drive is not trusted any more, also by
 * whoever starts later; nothing else suffers, and a new history ends it.
 */
static void a_failed_sync_is_a_verdict(void **state)
{
    unsigned verdicts = 0;

    (void)state;
    for (uint64_t call = 1; call < 24; call++) {
        struct world world;
        struct error error;

        world_init(&world, 9, seed + call);
        world.process.settings.memory_path = NULL;
        assert_int_equal(process_start(&world.process, &error), 0);
        world_set_up(&world);
        world_settle(&world);
        world.faults = true;
        simdir_fail_at(world.process.dir, call, 1, -EIO);
        for (unsigned i = 0; i < 6; i++) {
            world_mark(&world, i % 3 == 0 ? 0 : 1);
            while (sim_step(world.process.sim)) {
            }
            (void)sim_pass_time(world.process.sim);
        }
        world_settle(&world);
        world_recover(&world);
        assert_int_equal(world_validity(&world, 0), VALIDITY_EXACT);
        if (world_validity(&world, 1) == VALIDITY_UNKNOWN) {
            verdicts++;
            assert_int_equal(world_stop(&world), 0);
            assert_int_equal(process_start(&world.process, &error), 0);
            assert_int_equal(world_validity(&world, 1), VALIDITY_UNKNOWN);
            assert_int_equal(world_validity(&world, 0), VALIDITY_EXACT);
        }
        world_kill(&world);
    }
    assert_true(verdicts > 0);
}

/* The same of the sync that the journal does by itself, before it takes its other segment. */
static void a_failed_sync_of_a_full_segment_is_a_verdict(void **state)
{
    unsigned verdicts = 0;

    (void)state;
    for (uint64_t call = 1; call < 200; call++) {
        struct world world;
        struct error error;

        world_init(&world, 9, seed + 1000);
        world.process.settings.memory_path = NULL;
        assert_int_equal(process_start(&world.process, &error), 0);
        world_set_up(&world);
        world_settle(&world);
        world.faults = true;
        world_limit_container(&world, 1);
        simdir_fail_at(world.process.dir, 1 + call / 2, 1, -EIO);
        for (unsigned i = 0; i < 20 && !simdir_failed(world.process.dir); i++) {
            if (i > 0 || call % 2 == 0) {
                world_mark(&world, 1);
                while (sim_step(world.process.sim)) {
                }
            }
            if (!simdir_failed(world.process.dir)) {
                world_clear(&world, 1, 0, 1, 0);
            }
            while (sim_step(world.process.sim)) {
            }
        }
        if (simdisk_sync_failed(simdir_disk(world.process.dir, "j/j.0"))) {
            assert_int_equal(world_validity(&world, 1), VALIDITY_UNKNOWN);
            verdicts++;
        }
        world_kill(&world);
    }
    assert_true(verdicts > 0);
}

/*
 * The container cannot grow and the journal is full, so that there is no room for the record that a
 * writer was lost which goes on without us.  Room comes with a commit that was taken before; what
 * is built on it then, a checkpoint that seals what is unknown, never stands without the verdict.
 */
static void a_verdict_without_room(void **state)
{
    unsigned unrecorded = 0;

    (void)state;
    sample = SHARE / 2 + 1;
    torn = 1;
    world_again = 0;
    for (unsigned steps = 0; steps < 24; steps++) {
        struct world world;
        struct error error;

        world_init(&world, 9, seed + 700);
        assert_int_equal(process_start(&world.process, &error), 0);
        world_set_up(&world);
        world_go_on(&world);
        world_checkpoint(&world, 0);
        world_settle(&world);
        world.faults = true;
        world_limit_container(&world, 1);
        for (unsigned i = 0; world.refused == 0; i++) {
            assert_true(i < 1000);
            world_clear(&world, 0, 0, 1, 0);
            world_mark(&world, 0);
            while (sim_step(world.process.sim)) {
            }
            (void)sim_pass_time(world.process.sim);
        }
        world_limit_container(&world, 0);
        for (unsigned i = 0; i < steps; i++) {
            if (!sim_step(world.process.sim)) {
                (void)sim_pass_time(world.process.sim);
            }
        }
        uint64_t before = model_sequence(world.process.model);
        world_disconnect(&world);
        unrecorded += model_sequence(world.process.model) == before;
        world.process.at_call = every_fate;
        for (unsigned i = 0; i < 200 && history_newest(&world.histories[0])->made <= before; i++) {
            world_checkpoint(&world, 0);
            if (!sim_step(world.process.sim)) {
                (void)sim_pass_time(world.process.sim);
            }
        }
        world_settle(&world);
        world_kill(&world);
    }
    assert_true(unrecorded > 0);
}

static void show_deeds(void)
{
    static const char *const names[DEEDS] = {
        [DEED_CHECKPOINT] = "checkpoints",
        [DEED_DELETE] = "deleted",
        [DEED_PRUNE] = "pruned",
        [DEED_TRANSACTION] = "transactions",
        [DEED_UNDO] = "undone",
        [DEED_MAP] = "maps",
        [DEED_FETCH] = "fetches",
        [DEED_RESIZE] = "sizes",
        [DEED_RENAME] = "names",
        [DEED_CONTINUE] = "writers that go on",
        [DEED_EVIDENCE] = "pieces of evidence",
        [DEED_READ] = "sealed bitmaps read",
        [DEED_FAILED_READ] = "reads failed",
    };

    for (unsigned i = 0; i < DEEDS; i++) {
        printf("%s%llu %s", i ? ", " : "", (unsigned long long)world_deeds[i], names[i]);
    }
    printf("\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(crash_at_every_call, show_states),
        cmocka_unit_test_teardown(crash_in_long_lives, show_states),
        cmocka_unit_test_teardown(crash_after_crash, show_states),
        cmocka_unit_test_teardown(crash_with_failing_calls, show_states),
        cmocka_unit_test_teardown(damage_is_a_verdict, show_states),
        cmocka_unit_test(a_container_put_back_is_a_verdict),
        cmocka_unit_test_teardown(starts_with_failing_calls, show_states),
        cmocka_unit_test(a_failed_sync_is_a_verdict),
        cmocka_unit_test(a_failed_sync_of_a_full_segment_is_a_verdict),
        cmocka_unit_test_teardown(a_verdict_without_room, show_states),
    };

    seed = simdisk_seed();
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    printf("%llu states after a crash, %llu bitmaps unknown in them, %llu damaged ones refused\n",
           (unsigned long long)world_states, (unsigned long long)world_unknown,
           (unsigned long long)world_refused);
    show_deeds();
    return r;
}
