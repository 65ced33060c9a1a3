/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Failing calls: each one of a workload, once, some times, or for ever, also
 * while the power is lost afterwards.  A failed sync loses pages that can be
 * read until then.
 */
#include "tests/journal/rig.h"

#include <stdio.h>

static uint64_t seed;

/* The worst that can happen, and one of the others. */
static void judge(struct rig *rig, uint64_t salt)
{
    uint64_t random = salt;

    rig_judge_crash(rig, SIMDIR_DROP, salt);
    rig_judge_crash(rig, 1 + simdisk_random(&random) % (SIMDIR_FATES - 1), salt);
}

/* @count failures from call @call of the work on.  False: the work had no such call. */
static bool fail_in_work(uint64_t workload_seed, uint64_t call, uint64_t count, int error)
{
    struct error words;
    struct rig rig;
    bool failed;
    int r;

    rig_init(&rig, workload_seed);
    rig.number = 1; /* the next has long records */
    assert_int_equal(rig_start(&rig), 0);
    rig.patient = workload_seed % 2;
    simdir_fail_at(rig.dir, call, count, error);
    rig_run(&rig, 40);
    failed = simdir_failed(rig.dir);
    assert_int_equal(failed, rig.failures != 0);
    judge(&rig, workload_seed + call);

    if (count < 100) {
        /* It is over: everything gets durable, in the end with the container's help. */
        rig_run(&rig, 60);
        while ((r = journal_sync(rig.journal, &words)) < 0) {
            assert_true(r == -EAGAIN || simdir_failed(rig.dir));
            rig.applied = rig.next - 1;
            rig.again = 0;
            journal_covered(rig.journal, rig.applied);
        }
        assert_true(journal_durable(rig.journal) >= rig.next - 1 - rig.again);
        assert_int_equal(journal_durable(rig.journal), journal_written(rig.journal));
        rig.durable = rig.written = journal_durable(rig.journal);
        judge(&rig, workload_seed + call + 1000);
    }
    rig_deinit(&rig);
    return failed;
}

static void test_work(void **state)
{
    static const struct {
        uint64_t count;
        int error;
    } kinds[] = {{1, -EIO}, {1, -ENOSPC}, {2, -EIO}, {5, -EIO}, {UINT64_MAX, -EIO}};

    uint64_t calls = 0;

    (void)state;
    for (unsigned kind = 0; kind < sizeof kinds / sizeof kinds[0]; kind++) {
        uint64_t call = 1 + (seed + kind) % TEST_STRIDE;
        while (fail_in_work(seed + kind, call, kinds[kind].count, kinds[kind].error)) {
            call += TEST_STRIDE;
        }
        calls += call;
    }
    printf("%" PRIu64 " calls failed\n", calls);
    assert_true(calls > 50); /* a work of 40 steps may be a quiet one, but not all of them */
}

/* Any call of a start fails; the next start has all. */
static void test_start(void **state)
{
    bool failed = true;

    (void)state;
    for (uint64_t call = 1; failed; call++) {
        struct rig rig;

        rig_init(&rig, seed + 7);
        assert_int_equal(rig_start(&rig), 0);
        rig_run(&rig, 40);
        rig_crash(&rig, SIMDIR_DROP, seed);

        simdir_fail_at(rig.dir, call, 1, call % 2 ? -EIO : -ENOSPC);
        (void)rig_start(&rig);
        failed = simdir_failed(rig.dir);
        judge(&rig, seed + call);
        if (!rig.journal) {
            assert_int_equal(rig_start(&rig), 0);
        }
        rig_run(&rig, 10);
        judge(&rig, seed + call);
        rig_deinit(&rig);
        assert_true(call > 20 || failed);
    }
}

/* A sync fails and drops pages; they are written again elsewhere, and are there without power. */
static void test_lost_pages(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 16; i++) {
        CLEANUP(simdir_freep) struct simdir *dir = simdir_new(seed + i);
        CLEANUP(simdir_freep) struct simdir *after = NULL;
        struct journal_replay_report report;
        struct journal *journal = test_journal(dir, 1);
        struct error error;

        OK(test_append(journal, 1, 1, 20, &error), error);
        OK(journal_sync(journal, &error), error);
        OK(test_append(journal, 1, 21, 20, &error), error);
        OK(test_append(journal, 1, 41, 20, &error), error);
        assert_int_equal(journal_written(journal), 60);
        simdir_fail_at(dir, 1, 1, -EIO);
        assert_int_equal(journal_sync(journal, &error), -EIO);
        assert_int_equal(journal_durable(journal), 20);
        assert_int_equal(journal_written(journal), 20);
        assert_int_equal(journal_fill(journal), 500);
        OK(journal_sync(journal, &error), error);
        assert_int_equal(journal_durable(journal), 60);
        assert_int_equal(journal_written(journal), 60);

        after = simdir_crash(dir, SIMDIR_DROP, seed);
        OK(test_replay(after, 1, 0, &report, &error), error);
        assert_int_equal(report.last_seq, 60);
        assert_string_equal(report.damage, "");
        journal_close(journal);
    }
}

/* Both segments fail: no more until the container has it all, and then all goes on. */
static void test_both_fail(void **state)
{
    CLEANUP(simdir_freep) struct simdir *dir = simdir_new(seed);
    struct journal_replay_report report;
    struct journal *journal = test_journal(dir, 1);
    struct error error;

    (void)state;
    OK(test_append(journal, 1, 1, 5, &error), error);
    OK(journal_sync(journal, &error), error);
    simdir_fail_at(dir, 1, 2, -EIO);
    assert_int_equal(test_append(journal, 1, 6, 5, &error), -EIO);
    assert_int_equal(test_append(journal, 1, 6, 5, &error), -EIO);
    assert_int_equal(test_append(journal, 1, 6, 5, &error), -EAGAIN);
    assert_int_equal(journal_sync(journal, &error), -EAGAIN);
    assert_int_equal(journal_fill(journal), 1000);
    assert_int_equal(journal_durable(journal), 5);

    /* Only what had been durable: not enough for the one that failed second. */
    journal_covered(journal, 4);
    assert_int_equal(journal_sync(journal, &error), -EAGAIN);
    /* Segment 0 was tried with 6 to 10, so it is needed until these are covered. */
    journal_covered(journal, 9);
    assert_int_equal(journal_sync(journal, &error), -EAGAIN);
    journal_covered(journal, 10);
    assert_int_equal(journal_durable(journal), 10);
    assert_int_equal(journal_written(journal), 10);
    OK(test_append(journal, 1, 6, 5, &error), error);
    OK(test_append(journal, 1, 11, 5, &error), error);
    OK(journal_sync(journal, &error), error);
    journal_close(journal);
    OK(test_replay(dir, 1, 10, &report, &error), error);
    assert_int_equal(report.last_seq, 15);
    assert_string_equal(report.damage, "");
}

/* What was tried under a sequence stays: it may be on the disk. */
static void test_repetition(void **state)
{
    CLEANUP(simdir_freep) struct simdir *dir = simdir_new(seed);
    struct journal *journal = test_journal(dir, 1);
    struct error error;

    (void)state;
    OK(test_append(journal, 1, 1, 5, &error), error);
    assert_int_equal(test_append(journal, 1, 1, 5, &error), -EINVAL);
    simdir_fail_at(dir, 1, 1, -EIO);
    assert_int_equal(test_append(journal, 1, 6, 5, &error), -EIO);
    assert_int_equal(test_append(journal, 1, 6, 4, &error), -EINVAL);
    assert_int_equal(test_append(journal, 2, 6, 5, &error), -EINVAL);
    assert_int_equal(test_append(journal, 1, 7, 5, &error), -EINVAL);
    /* The sync makes it durable, and the repetition is told so. */
    OK(journal_sync(journal, &error), error);
    assert_int_equal(journal_durable(journal), 10);
    uint64_t changes = simdir_changes(dir);
    OK(test_append(journal, 1, 6, 5, &error), error);
    assert_int_equal(simdir_changes(dir), changes);
    assert_int_equal(test_append(journal, 1, 6, 5, &error), -EINVAL);
    OK(test_append(journal, 1, 11, 5, &error), error);
    journal_close(journal);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_work),       cmocka_unit_test(test_start),
        cmocka_unit_test(test_lost_pages), cmocka_unit_test(test_both_fail),
        cmocka_unit_test(test_repetition),
    };

    seed = simdisk_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
