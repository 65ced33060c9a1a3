/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Calls that fail, and space that runs out.  A failed transaction is aborted
 * and leaves nothing behind; the same one tried again goes through; a container
 * that is full still takes a commit of its metadata.
 */
#include "tests/container/script.h"

#include <stdio.h>
#include <stdlib.h>

static uint64_t seed;

static struct simdisk *make(uint64_t s)
{
    return test_container(9, s);
}

static struct simdisk *make_wide(uint64_t s)
{
    struct simdisk *disk = test_container(9, s);

    test_set_refcount_order(simdisk_file(disk), 6);
    return disk;
}

/* The @call-th call of the script fails, @count times.  False when the script has fewer. */
static bool fail_once(struct simdisk *(*maker)(uint64_t), uint64_t call, uint64_t count, int error,
                      const uint64_t digests[SCRIPT_STEPS + 1])
{
    struct simdisk *disk = maker(seed + call);
    struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
    unsigned done = 0, attempts = 0;
    struct error e;

    simdisk_fail_at(disk, call, count, error);
    while (done < SCRIPT_STEPS) {
        e.text[0] = '\0';
        int r = script_step(c, done + 1, &e);
        if (r == 0) {
            done++;
        } else {
            assert_int_equal(r, error);
            assert_true(e.text[0] != '\0');
            assert_int_equal(script_seen(c), done);
            attempts++;
            assert_true(attempts <= count);
        }
    }
    bool failed = simdisk_failed(disk);
    simdisk_fail_at(disk, 0, 0, 0);
    assert_int_equal(test_digest(c), digests[SCRIPT_STEPS]);
    OK(test_commit_state(c, "step 8", &e), e);
    container_close(c);
    c = test_open(disk, CONTAINER_OPEN_WRITE);
    assert_int_equal(test_digest(c), digests[SCRIPT_STEPS]);
    container_close(c);
    test_check_sound(disk);
    simdisk_free(disk);
    return failed;
}

static void every_call_fails_once(void **state)
{
    uint64_t digests[SCRIPT_STEPS + 1];
    uint64_t call = 1;

    (void)state;
    script_digests(make, digests);
    while (fail_once(make, call, 1, -EIO, digests)) {
        call++;
    }
    printf("%u calls\n", (unsigned)call - 1);
    assert_true(call > 100);
}

static void every_call_fails_in_a_growing_table(void **state)
{
    uint64_t digests[SCRIPT_STEPS + 1];

    (void)state;
    script_digests(make_wide, digests);
    for (uint64_t call = 1; fail_once(make_wide, call, 3, -ENOSPC, digests); call++) {
    }
}

/* Nothing stays in use after an abort: the same room is enough, again and again. */
static void failures_leak_nothing(void **state)
{
    struct simdisk *disk = make(seed);
    struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
    struct container_info info;
    struct error e;
    uint64_t early = 0;

    (void)state;
    for (unsigned step = 1; step <= 6; step++) {
        OK(script_step(c, step, &e), e);
    }
    for (unsigned round = 0; round < 300; round++) {
        simdisk_fail_at(disk, 1 + round % 60, 1, -EIO);
        if (script_step(c, 6, &e) < 0) {
            OK(script_step(c, 6, &e), e);
        }
        if (round == 60) {
            container_get_info(c, &info);
            early = info.file_size;
        }
    }
    simdisk_fail_at(disk, 0, 0, 0);
    container_get_info(c, &info);
    assert_true(info.file_size <= early + 64 * 512);
    OK(script_step(c, 6, &e), e);
    uint64_t free_clusters;
    container_get_info(c, &info);
    free_clusters = info.free_clusters;
    container_close(c);
    c = test_open(disk, 0);
    container_get_info(c, &info);
    assert_int_equal(info.free_clusters, free_clusters);
    assert_int_equal(info.leaked_clusters, 0);
    container_close(c);
    simdisk_free(disk);
}

/* Adds bitmaps full of bits until the container takes no more. */
static unsigned fill(struct container *c, unsigned id, int *ret_r)
{
    struct container_txn *t;
    struct error e;
    uint8_t bits[512];
    char name[32];
    int r = 0;

    for (unsigned n = 0;; n++, id++) {
        OK(container_begin(c, &t, &e), e);
        (void)snprintf(name, sizeof name, "fill/%u", id);
        r = container_txn_add(t, id, name, 512, 4096 * 8, &e);
        for (uint32_t i = 0; r == 0 && i < 8; i++) {
            test_pattern(bits, sizeof bits, id, i, 0);
            r = container_txn_write(t, id, i, bits, sizeof bits, &e);
        }
        if (r == 0) {
            r = test_commit(t, "fill", &e);
        }
        if (r < 0) {
            assert_true(e.text[0] != '\0');
            container_abort(t);
            *ret_r = r;
            return n;
        }
    }
}

static void full(bool by_disk)
{
    struct simdisk *disk = make(seed);
    struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
    struct container_txn *t;
    struct container_info info;
    struct error e;
    const uint64_t limit = 200 * 512;
    int r;

    if (by_disk) {
        simdisk_limit(disk, limit);
    } else {
        container_set_max_size(c, limit);
    }
    unsigned n = fill(c, 1, &r);
    assert_int_equal(r, -ENOSPC);
    assert_true(n >= 10);
    container_get_info(c, &info);
    assert_true(info.file_size <= limit);
    assert_int_equal(info.bitmaps, n);

    /* Verdicts are always possible, more than once. */
    for (unsigned i = 0; i < 10; i++) {
        OK(test_commit_state(c, "unknown, since the disk was full", &e), e);
    }
    /* And so is making room, which can then be used. */
    OK(container_begin(c, &t, &e), e);
    OK(container_txn_remove(t, 1, &e), e);
    OK(container_txn_remove(t, 2, &e), e);
    OK(test_commit(t, "x", &e), e);
    unsigned again = fill(c, 1000, &r);
    assert_int_equal(r, -ENOSPC);
    assert_true(again >= 1);
    OK(test_commit_state(c, "still", &e), e);

    /* Room from outside counts as well. */
    simdisk_limit(disk, limit * 2);
    container_set_max_size(c, limit * 2);
    assert_true(fill(c, 2000, &r) >= 10);
    uint64_t digest = test_digest(c);
    container_close(c);
    test_check_sound(disk);
    c = test_open(disk, CONTAINER_OPEN_WRITE);
    assert_int_equal(test_digest(c), digest);
    container_set_max_size(c, limit * 2);
    OK(test_commit_state(c, "opened anew", &e), e);
    container_close(c);
    simdisk_free(disk);
}

static void full_by_max_size(void **state)
{
    (void)state;
    full(false);
}

static void full_by_disk(void **state)
{
    (void)state;
    full(true);
}

/* The sync of the header fails: no cluster of either commit is written to until one is through. */
static void doubt_protects_both_commits(void **state)
{
    uint64_t digests[SCRIPT_STEPS + 1];

    (void)state;
    script_digests(make, digests);
    for (uint64_t call = 1;; call++) {
        struct simdisk *disk = make(seed);
        struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
        struct error e;
        OK(script_step(c, 1, &e), e);
        simdisk_fail_at(disk, call, 1, -EIO);
        if (script_step(c, 2, &e) == 0) {
            bool failed = simdisk_failed(disk);
            container_close(c);
            simdisk_free(disk);
            if (!failed) {
                assert_true(call > 10);
                return;
            }
            continue;
        }
        if (c->header_uncertain) {
            assert_true(c->limbo.n > 0);
            for (size_t i = 0; i < c->limbo.n; i++) {
                const struct run *run = &c->limbo.items[i];
                for (uint64_t k = run->start; k < run->start + run->count; k++) {
                    assert_true(c->space.refs[k] != 0);
                }
            }
            OK(script_step(c, 2, &e), e);
            assert_int_equal(c->limbo.n, 0);
            assert_false(c->header_uncertain);
            assert_int_equal(test_digest(c), digests[2]);
        }
        container_close(c);
        simdisk_free(disk);
    }
}

/* Each call of an open fails: an error with words, and the next open is as if nothing had been. */
static void every_call_of_an_open_fails(void **state)
{
    struct simdisk *disk = make(seed);
    struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
    struct error e;

    (void)state;
    for (unsigned step = 1; step <= 3; step++) {
        OK(script_step(c, step, &e), e);
    }
    uint64_t digest = test_digest(c);
    container_close(c);
    for (unsigned flags = 0; flags <= CONTAINER_OPEN_WRITE; flags++) {
        for (uint64_t call = 1;; call++) {
            struct file *file = simdisk_file(disk);
            simdisk_fail_at(disk, call, 1, -EIO);
            e.text[0] = '\0';
            int r = container_open(file, flags, &c, &e);
            bool failed = simdisk_failed(disk);
            simdisk_fail_at(disk, 0, 0, 0);
            if (r == 0) {
                assert_false(failed);
                container_close(c);
                assert_true(call > 5);
                break;
            }
            assert_int_equal(r, -EIO);
            assert_true(e.text[0] != '\0');
            assert_false(simdisk_closed(disk)); /* still the caller's */
            c = test_open(disk, flags);
            assert_int_equal(test_digest(c), digest);
            container_close(c);
        }
    }
    test_check_sound(disk);
    simdisk_free(disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_call_fails_once),
        cmocka_unit_test(every_call_fails_in_a_growing_table),
        cmocka_unit_test(failures_leak_nothing),
        cmocka_unit_test(full_by_max_size),
        cmocka_unit_test(full_by_disk),
        cmocka_unit_test(doubt_protects_both_commits),
        cmocka_unit_test(every_call_of_an_open_fails),
    };

    seed = simdisk_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
