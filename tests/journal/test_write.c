/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Appending without faults: what comes back, over many wraps and for batches
 * of every size, and what is refused.
 */
#include "tests/journal/rig.h"

#include <stdio.h>
#include <string.h>

static uint64_t seed;

/* The rig knows what it was promised; here nothing fails, and segments are taken often. */
static void test_wraps(void **state)
{
    struct rig rig;

    (void)state;
    rig_init(&rig, seed);
    rig.number = 1; /* the next has long records */
    assert_int_equal(rig_start(&rig), 0);
    for (unsigned i = 0; i < 40; i++) {
        rig.patient = i % 2;
        rig_run(&rig, 50);
        rig_judge_crash(&rig, SIMDIR_KILL, seed);
        rig_judge_crash(&rig, SIMDIR_DROP, seed);
    }
    assert_int_equal(rig.failures, 0);
    assert_true(rig.wraps > 10);
    rig_deinit(&rig);
}

static struct journal_record block_of(uint32_t length)
{
    static uint8_t *bytes;

    if (!bytes) {
        bytes = calloc(1, JOURNAL_BATCH_BYTES_MAX); /* kept for the whole test */
        assert_non_null(bytes);
        for (uint32_t i = 0; i < JOURNAL_BATCH_BYTES_MAX; i++) {
            bytes[i] = (uint8_t)(i * 7 + i / 4096);
        }
    }
    return (struct journal_record){bytes, length};
}

struct sum {
    uint64_t records, bytes;
};

static int sum_up(void *opaque, uint64_t sequence, const uint8_t *bytes, size_t length,
                  struct error *error)
{
    struct sum *sum = opaque;
    (void)error;
    (void)sequence;
    assert_memory_equal(bytes, block_of(0).bytes, length);
    sum->records++;
    sum->bytes += length;
    return 0;
}

static void replay_sum(struct simdir *dir, uint64_t applied, struct sum *ret)
{
    struct journal_files files = test_files(dir);
    struct journal_replay_options options = {
        .container = test_id(TEST_CONTAINER), .instance = test_id(1), .applied_seq = applied};
    struct journal_replay_report report;
    struct error error;

    *ret = (struct sum){0};
    OK(journal_replay(&files, &options, sum_up, ret, &report, &error), error);
    assert_string_equal(report.damage, "");
    assert_int_equal(report.records, ret->records);
}

/* Around every border of blocks, up to the largest batch of a segment of the smallest size. */
static void test_sizes(void **state)
{
    CLEANUP(simdir_freep) struct simdir *dir = simdir_new(seed);
    struct journal *journal = test_journal(dir, 1);
    uint32_t most = journal_batch_bytes_max(journal) - JOURNAL_RECORD_FRAME_BYTES;
    struct journal_record record;
    struct error error;
    uint64_t next = 1, bytes = 0;
    struct sum sum;

    (void)state;
    assert_int_equal(most, TEST_SEGMENT_BYTES - 4096 - 80 - 4);
    for (uint32_t blocks = 1; blocks < 8; blocks++) {
        for (uint32_t more = 0; more < 3; more++) {
            record = block_of(blocks * 4096 - 80 - 4 - 1 + more);
            OK(journal_append(journal, next++, &record, 1, false, &error), error);
            bytes += record.length;
        }
    }
    OK(journal_sync(journal, &error), error);
    replay_sum(dir, 0, &sum);
    assert_int_equal(sum.records, next - 1);
    assert_int_equal(sum.bytes, bytes);

    record = block_of(most + 1);
    assert_int_equal(journal_append(journal, next, &record, 1, false, &error), -EMSGSIZE);
    record = block_of(most);
    OK(journal_append(journal, next, &record, 1, false, &error), error);
    assert_int_equal(journal_append(journal, next + 1, &record, 1, false, &error), -EAGAIN);
    journal_covered(journal, next - 2);
    assert_int_equal(journal_append(journal, next + 1, &record, 1, false, &error), -EAGAIN);
    assert_int_equal(journal_fill(journal), 1000);
    journal_covered(journal, next - 1);
    assert_int_equal(journal_fill(journal), 500);
    OK(journal_append(journal, next + 1, &record, 1, false, &error), error);
    /* The segment that was left was synced. */
    assert_int_equal(journal_durable(journal), next);
    assert_int_equal(journal_written(journal), next + 1);
    journal_close(journal);
    replay_sum(dir, next - 1, &sum);
    assert_int_equal(sum.records, 2);
    assert_int_equal(sum.bytes, 2 * (uint64_t)most);
}

static void test_largest(void **state)
{
    CLEANUP(simdir_freep) struct simdir *dir = simdir_new(seed);
    struct journal_files files = test_files(dir);
    struct journal_id container = test_id(TEST_CONTAINER), instance = test_id(1);
    struct journal_record record;
    struct journal *journal = NULL;
    struct error error;
    struct sum sum;

    (void)state;
    OK(journal_create(&files, &container, &instance, UINT64_C(12) << 20, &journal, &error), error);
    OK(journal_activate(journal, &error), error);
    assert_int_equal(journal_batch_bytes_max(journal), JOURNAL_BATCH_BYTES_MAX);
    record = block_of(JOURNAL_BATCH_BYTES_MAX - JOURNAL_RECORD_FRAME_BYTES);
    for (uint64_t i = 1; i <= 3; i++) {
        OK(journal_append(journal, i, &record, 1, false, &error), error);
    }
    record.length++;
    assert_int_equal(journal_append(journal, 4, &record, 1, false, &error), -EMSGSIZE);
    journal_close(journal);
    replay_sum(dir, 0, &sum);
    assert_int_equal(sum.records, 3);
}

static void test_refusals(void **state)
{
    static const uint64_t lengths[] = {0,
                                       4096,
                                       JOURNAL_SEGMENT_BYTES_MIN - 4096,
                                       JOURNAL_SEGMENT_BYTES_MIN + 1,
                                       JOURNAL_SEGMENT_BYTES_MAX + 4096,
                                       UINT64_MAX};
    CLEANUP(simdir_freep) struct simdir *dir = simdir_new(seed);
    struct journal_files files = test_files(dir);
    struct journal_id container = test_id(TEST_CONTAINER), instance = test_id(1);
    struct journal *journal = NULL;
    struct journal_record record = block_of(1);
    struct error error;

    (void)state;
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        assert_int_equal(
            journal_create(&files, &container, &instance, lengths[i], &journal, &error), -EINVAL);
        assert_null(journal);
    }
    assert_int_equal(simdir_calls(dir), 0);

    journal = test_journal(dir, 1);
    assert_int_equal(journal_written(journal), 0);
    assert_int_equal(journal_durable(journal), 0);
    assert_int_equal(journal_fill(journal), 0);
    OK(journal_sync(journal, &error), error);
    assert_int_equal(journal_append(journal, 0, &record, 1, false, &error), -EINVAL);
    assert_int_equal(journal_append(journal, 1, &record, 0, false, &error), -EINVAL);
    assert_int_equal(journal_append(journal, UINT64_C(1) << 63, &record, 1, false, &error),
                     -EINVAL);
    assert_int_equal(journal_append(journal, (UINT64_C(1) << 63) - 1,
                                    (struct journal_record[]){record, record}, 2, false, &error),
                     -EINVAL);
    OK(journal_append(journal, 100, &record, 1, false, &error), error);
    assert_int_equal(journal_append(journal, 100, &record, 1, false, &error), -EINVAL);
    assert_int_equal(journal_append(journal, 99, &record, 1, false, &error), -EINVAL);
    assert_int_equal(journal_append(journal, 102, &record, 1, false, &error), -EINVAL);
    OK(journal_append(journal, 101, &record, 1, false, &error), error);
    /* What the container has makes a gap harmless, and no longer needs to be written. */
    journal_covered(journal, 200);
    assert_int_equal(journal_durable(journal), 200);
    assert_int_equal(journal_fill(journal), 0);
    assert_int_equal(journal_append(journal, 202, &record, 1, false, &error), -EINVAL);
    uint64_t changes = simdir_changes(dir);
    OK(journal_append(journal, 150, &record, 1, false, &error), error);
    assert_int_equal(simdir_changes(dir), changes);
    OK(journal_append(journal, 201, &record, 1, false, &error), error);
    assert_int_equal(simdir_changes(dir), changes + 1);
    OK(journal_sync(journal, &error), error);
    assert_int_equal(journal_durable(journal), 201);
    changes = simdir_changes(dir);
    OK(journal_sync(journal, &error), error);
    assert_int_equal(simdir_changes(dir), changes);
    journal_covered(journal, 3); /* never goes back */
    assert_int_equal(journal_durable(journal), 201);
    /* Nor does it need to be synced. */
    OK(journal_append(journal, 202, &record, 1, false, &error), error);
    changes = simdir_changes(dir);
    journal_covered(journal, 202);
    OK(journal_sync(journal, &error), error);
    assert_int_equal(simdir_changes(dir), changes);
    journal_close(journal);
}

/* A start that ends between its commit and its renames. */
static void test_unfinished_activation(void **state)
{
    (void)state;
    for (unsigned renames = 0; renames < 2; renames++) {
        CLEANUP(simdir_freep) struct simdir *dir = simdir_new(seed);
        struct journal_files files = test_files(dir);
        struct journal_id container = test_id(TEST_CONTAINER), second = test_id(2);
        struct journal_replay_report report;
        struct journal_whose whose;
        struct journal *journal;
        struct error error;

        journal = test_journal(dir, 1);
        journal_close(journal);
        OK(journal_create(&files, &container, &second, TEST_SEGMENT_BYTES, &journal, &error),
           error);
        /* The container commits 2; records go in before the files have their names. */
        OK(test_append(journal, 2, 1, 4, &error), error);
        OK(journal_sync(journal, &error), error);
        if (renames > 0) {
            assert_int_equal(simdir_rename(dir, "j.0.new", "j.0"), 0);
        }
        journal_close(journal);
        OK(test_replay(dir, 2, 0, &report, &error), error);
        assert_true(report.found);
        assert_false(report.whose.later || report.whose.foreign);
        assert_string_equal(report.damage, "");
        assert_int_equal(report.last_seq, 4);

        /* Whoever names another instance, found nowhere, is behind; or another container's. */
        struct journal_id third = test_id(3), other = test_id(4);
        OK(journal_probe(&files, &container, &second, &whose, &error), error);
        assert_false(whose.later || whose.foreign);
        OK(journal_probe(&files, &container, &third, &whose, &error), error);
        assert_true(whose.later && !whose.foreign);
        OK(journal_probe(&files, &other, &second, &whose, &error), error);
        assert_true(!whose.later && whose.foreign);

        OK(journal_set_aside(&files, "aside", &error), error);
        assert_null(simdir_disk(dir, "j.0"));
        assert_non_null(simdir_disk(dir, "j.1.aside"));
        OK(journal_probe(&files, &container, &third, &whose, &error), error);
        assert_false(whose.later || whose.foreign);
    }
}

/* Whatever a crash leaves of a removal, it does not look as if the container was behind. */
static void test_remove(void **state)
{
    (void)state;
    for (uint64_t stop = 1; stop < 9; stop++) {
        for (uint64_t i = 0; i < 16; i++) {
            CLEANUP(simdir_freep) struct simdir *dir = simdir_new(seed + i), *after = NULL;
            struct journal_files files = test_files(dir);
            struct journal_id container = test_id(TEST_CONTAINER), second = test_id(2);
            struct journal_whose whose;
            struct journal *journal;
            struct error error;

            journal_close(test_journal(dir, 1));
            OK(journal_create(&files, &container, &second, TEST_SEGMENT_BYTES, &journal, &error),
               error);
            journal_close(journal);
            simdir_stop_at(dir, stop);
            int r = journal_remove(&files, &error);
            assert_int_equal(r < 0, simdir_stopped(dir));
            after = simdir_crash(dir, SIMDIR_TEAR, seed + i);
            files = test_files(after);
            OK(journal_probe(&files, &container, &second, &whose, &error), error);
            assert_false(whose.later);
            if (r == 0) {
                assert_null(simdir_name(after, 0));
            }
        }
    }
}

static int refuse_third(void *opaque, uint64_t sequence, const uint8_t *bytes, size_t length,
                        struct error *error)
{
    (void)opaque;
    (void)bytes;
    (void)length;
    return sequence == 3 ? error_set(error, -EPROTO, "no") : 0;
}

static void test_record_fails(void **state)
{
    CLEANUP(simdir_freep) struct simdir *dir = simdir_new(seed);
    struct journal_files files = test_files(dir);
    struct journal_replay_options options = {
        .container = test_id(TEST_CONTAINER), .instance = test_id(1), .applied_seq = 0};
    struct journal_replay_report report = {.records = 77};
    struct journal *journal = test_journal(dir, 1);
    struct error error;

    (void)state;
    OK(test_append(journal, 1, 1, 5, &error), error);
    journal_close(journal);
    assert_int_equal(journal_replay(&files, &options, refuse_third, NULL, &report, &error),
                     -EPROTO);
    assert_string_equal(error.text, "no");
    assert_int_equal(report.records, 77);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wraps),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_largest),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_unfinished_activation),
        cmocka_unit_test(test_remove),
        cmocka_unit_test(test_record_fails),
    };

    seed = simdisk_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
