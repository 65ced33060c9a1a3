/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Every place where the power, or the process, can be lost: in a workload that
 * wraps, and again and again in the starts that follow.
 */
#include "tests/journal/rig.h"

#include <stdio.h>

static uint64_t seed;
static uint64_t states, wraps;

/* Starts and works, with the power failing at changing call @stop, in every way. */
static bool stop_in_workload(uint64_t workload_seed, unsigned steps, uint64_t stop)
{
    struct rig rig;
    bool stopped;

    rig_init(&rig, workload_seed);
    /* So that the start has something to lose. */
    assert_int_equal(rig_start(&rig), 0);
    rig_run(&rig, 6);
    rig_crash(&rig, SIMDIR_KILL, workload_seed);

    simdir_stop_at(rig.dir, stop);
    if (rig_start(&rig) == 0) {
        rig_run(&rig, steps);
    }
    stopped = simdir_stopped(rig.dir);
    wraps += rig.wraps;
    for (enum simdir_fate fate = 0; fate < SIMDIR_FATES; fate++) {
        bool many = fate == SIMDIR_TEAR || fate == SIMDIR_DESTROY;
        for (unsigned i = 0; i < (many ? 3 : 1); i++) {
            rig_judge_crash(&rig, fate, workload_seed ^ (stop * 64 + fate * 8 + i));
            states++;
        }
    }
    rig_deinit(&rig);
    return stopped;
}

static void test_every_stop(void **state)
{
    uint64_t places = 0;

    (void)state;
    for (unsigned i = 0; i < test_rounds(2); i++) {
        uint64_t stop = 1 + (seed + i) % TEST_STRIDE;

        while (stop_in_workload(seed + i, 80, stop)) {
            stop += TEST_STRIDE;
            places++;
        }
        assert_true(stop > 30);
    }
    printf("%" PRIu64 " places to stop\n", places);
}

/* Crash after crash, most of them soon after the start, which reads what the last one left. */
static void test_chains(void **state)
{
    uint64_t random = seed + 1;

    (void)state;
    for (unsigned chain = 0; chain < test_rounds(14 / TEST_STRIDE); chain++) {
        struct rig rig;

        rig_init(&rig, simdisk_random(&random));
        for (unsigned crash = 0; crash < 10; crash++) {
            enum simdir_fate fate = simdisk_random(&random) % SIMDIR_FATES;
            unsigned steps = (unsigned)(simdisk_random(&random) % 100);

            rig.patient = simdisk_random(&random) % 2;
            simdir_stop_at(rig.dir, 1 + simdisk_random(&random) % 80);
            if (rig_start(&rig) == 0) {
                rig_run(&rig, steps);
            }
            rig_judge_crash(&rig, simdisk_random(&random) % SIMDIR_FATES, simdisk_random(&random));
            rig_crash(&rig, fate, simdisk_random(&random));
            states += 2;
            wraps += rig.wraps;
            rig.wraps = 0;
        }
        rig_deinit(&rig);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_stop),
        cmocka_unit_test(test_chains),
    };
    int r;

    seed = simdisk_seed();
    r = cmocka_run_group_tests(tests, NULL, NULL);
    printf("%" PRIu64 " states after a crash, %" PRIu64 " segments taken\n", states, wraps);
    return r;
}
