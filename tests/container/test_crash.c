/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Power fails at every changing call of the script, and what was not synced is
 * lost, kept or torn.  What is found afterwards must be the last commit that
 * was reported done or the one that was under way, whole, with leaks at most;
 * and it must be possible to go on from there.
 */
#include "tests/container/script.h"

#include <stdio.h>
#include <stdlib.h>

/* Every stop point; with sanitizers, which are here for the memory, one of a few. */
#ifdef __SANITIZE_ADDRESS__
#define STRIDE 5u
#else
#define STRIDE 1u
#endif

static uint64_t seed;

static struct simdisk *narrow(uint64_t s)
{
    return test_container(9, s);
}

/* A header block whose changes lie in two sectors, so that it can be torn, and so can its mirror.
 */
static struct simdisk *long_header(uint64_t s)
{
    struct simdisk *disk = test_container(10, s);

    test_lengthen_header(disk, 480);
    return disk;
}

/* 64 counters a block, 64 blocks a table cluster: growth of the table is soon reached. */
static struct simdisk *wide(uint64_t s)
{
    struct simdisk *disk = test_container(9, s);

    test_set_refcount_order(simdisk_file(disk), 6);
    return disk;
}

static void after_crash(const struct simdisk *disk, enum simdisk_fate fate, uint64_t s,
                        unsigned done, const uint64_t digests[SCRIPT_STEPS + 1])
{
    struct simdisk *found = simdisk_crash(disk, fate, s);
    struct error error;

    if (fate != SIMDISK_DESTROY) { /* … may have hit a refcount block, which opening recounts */
        test_check_sound_but_header(found);
    }
    struct container *c = test_open(found, CONTAINER_OPEN_WRITE);
    unsigned seen = script_seen(c);
    if (seen != done && seen != done + 1) {
        fail_msg("found step %u, expected %u or the next", seen, done);
    }
    assert_int_equal(test_digest(c), digests[seen]);
    if (seen < SCRIPT_STEPS) {
        OK(script_step(c, seen + 1, &error), error);
        assert_int_equal(test_digest(c), digests[seen + 1]);
    }
    container_close(c);
    /* Leaks that the crash left are gone with the next commit. */
    struct container_check_report report = test_check(found, true);
    assert_int_equal(report.corruptions, 0);
    if (seen < SCRIPT_STEPS) {
        assert_int_equal(report.leaks, 0);
    }
    simdisk_free(found);
}

static void every_stop(struct simdisk *(*make)(uint64_t seed), unsigned steps)
{
    uint64_t digests[SCRIPT_STEPS + 1];
    bool stopped = true;
    uint64_t stop;

    script_digests(make, digests);
    for (stop = 1 + seed % STRIDE; stopped; stop += STRIDE) {
        struct simdisk *disk = make(seed + stop);
        struct container *c;
        struct error error;
        unsigned done = 0;

        simdisk_stop_at(disk, stop);
        if (container_open(simdisk_file(disk), CONTAINER_OPEN_WRITE, &c, &error) == 0) {
            while (done < steps && script_step(c, done + 1, &error) == 0) {
                done++;
            }
            container_close(c);
        }
        stopped = simdisk_stopped(disk);
        after_crash(disk, SIMDISK_DROP, seed, done, digests);
        after_crash(disk, SIMDISK_KEEP, seed, done, digests);
        after_crash(disk, SIMDISK_TEAR, seed + stop, done, digests);
        simdisk_free(disk);
    }
    printf("%u stop points, every one of %u\n", (unsigned)(stop - 1) / STRIDE, STRIDE);
}

/*
 * Blocks of 4096 bytes that were being written are destroyed: of the header, its
 * mirror, refcount blocks.  64 bits a refcount and a bitmap that fills most of
 * the first block, so that one is soon added.
 */
static struct simdisk *blocks(uint64_t s)
{
    struct simdisk *disk = test_container(12, s);
    struct container_txn *t;
    struct error e;

    test_set_refcount_order(simdisk_file(disk), 6);
    struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
    OK(container_begin(c, &t, &e), e);
    OK(container_txn_add(t, 9000, "ballast", 512, UINT64_C(8) * 4096 * 350, &e), e);
    for (uint32_t i = 0; i < 350; i++) {
        OK(container_txn_write(t, 9000, i, "x", 1, &e), e);
    }
    OK(test_commit(t, "step 0", &e), e);
    container_close(c);
    return disk;
}

static void crash_with_destroyed_blocks(void **state)
{
    uint64_t digests[SCRIPT_STEPS + 1];
    bool stopped = true, grown = false;

    (void)state;
    script_digests(blocks, digests);
    for (uint64_t stop = 1; stopped; stop++) {
        struct simdisk *disk = blocks(seed + stop);
        struct container *c;
        struct error error;
        unsigned done = 0;
        uint64_t table = 0;

        simdisk_stop_at(disk, stop);
        if (container_open(simdisk_file(disk), CONTAINER_OPEN_WRITE, &c, &error) == 0) {
            table = c->refcounts.table_offset;
            while (done < 5 && script_step(c, done + 1, &error) == 0) {
                done++;
                /* Most of step 4 writes bits, where there is not much to see. */
                if (done == 3) {
                    stop += STRIDE * 7;
                }
            }
            grown |= c->refcounts.table_offset != table;
            container_close(c);
        }
        stopped = simdisk_stopped(disk);
        for (uint64_t i = 0; i < 4; i++) {
            after_crash(disk, SIMDISK_DESTROY, seed + stop * 16 + i, done, digests);
        }
        simdisk_free(disk);
    }
    assert_true(grown);
}

/*
 * A start that puts the mirror right never has header and mirror at stake together, nor does it
 * leave the header to a mirror that is ahead: of a commit of which nothing else is on the media.
 */
static void crash_while_opening(void **state)
{
    bool stopped = true;

    (void)state;
    for (uint64_t stop = 1; stopped; stop++) {
        for (uint64_t s = 0; s < 40; s++) {
            struct simdisk *disk = blocks(seed);
            struct container *c;
            struct error error;
            uint64_t size;
            uint8_t *bytes = simdisk_bytes(disk, &size);
            if (s % 2) {
                memset(bytes + 3 * 4096 + 100, 0xee, 500); /* torn by a crash before */
            } else {
                struct simdisk *ahead = simdisk_from(bytes, size, seed);
                c = test_open(ahead, CONTAINER_OPEN_WRITE);
                OK(script_step(c, 1, &error), error);
                container_close(c);
                memcpy(bytes + 3 * 4096, simdisk_bytes(ahead, &size) + 3 * 4096, 4096);
                simdisk_free(ahead);
            }
            simdisk_stop_at(disk, stop);
            if (container_open(simdisk_file(disk), CONTAINER_OPEN_WRITE, &c, &error) == 0) {
                container_close(c);
            }
            stopped = simdisk_stopped(disk);
            struct simdisk *found = simdisk_crash(disk, SIMDISK_DESTROY, seed + s);
            c = test_open(found, CONTAINER_OPEN_WRITE);
            assert_int_equal(script_seen(c), 0);
            container_close(c);
            simdisk_free(found);
            simdisk_free(disk);
        }
    }
}

static void crash_anywhere(void **state)
{
    (void)state;
    every_stop(narrow, SCRIPT_STEPS);
}

static void crash_with_growing_refcount_table(void **state)
{
    (void)state;
    every_stop(wide, SCRIPT_STEPS);
}

static void crash_with_a_long_header(void **state)
{
    (void)state;
    every_stop(long_header, 3);
}

/*
 * A call fails, the step is tried again, and then the power fails.  A step that
 * was reported as failed may have come through; nothing older may be found.
 */
static void crash_after_failures(void **state)
{
    uint64_t digests[3][SCRIPT_STEPS + 1], random = seed;
    struct simdisk *(*const makers[])(uint64_t) = {narrow, wide, long_header};

    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        script_digests(makers[i], digests[i]);
    }
    for (unsigned round = 0; round < 240; round++) {
        unsigned steps = makers[round % 3] == long_header ? 3 : SCRIPT_STEPS;
        struct simdisk *disk = makers[round % 3](seed + round);
        struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
        struct error error;
        unsigned done = 0;

        simdisk_fail_at(disk, simdisk_random(&random) % (steps * 60),
                        1 + simdisk_random(&random) % 3, -EIO);
        simdisk_stop_at(disk, 1 + simdisk_random(&random) % (steps * 60));
        while (done < steps && !simdisk_stopped(disk)) {
            done += script_step(c, done + 1, &error) == 0;
        }
        container_close(c);
        after_crash(disk, SIMDISK_TEAR, seed + round, done, digests[round % 3]);
        simdisk_free(disk);
    }
}

/*
 * A call fails, the step is tried again and goes through, and at once the power
 * fails: all that the commit needs must be on the media by then, also what a
 * failed sync lost behind the cache's back.
 */
static void failed_then_done_then_crash(struct simdisk *(*make)(uint64_t seed), unsigned steps)
{
    uint64_t digests[SCRIPT_STEPS + 1];
    bool failed = true;

    script_digests(make, digests);
    for (uint64_t call = 1 + seed % STRIDE; failed; call += STRIDE) {
        struct simdisk *disk = make(seed + call);
        struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
        struct error error;
        unsigned done = 0;

        simdisk_fail_at(disk, call, 1, -EIO);
        do {
            done += script_step(c, done + 1, &error) == 0;
        } while (done < steps && !simdisk_failed(disk));
        failed = simdisk_failed(disk);
        if (script_seen(c) != done || (failed && done < steps)) {
            OK(script_step(c, done + 1, &error), error);
            done++;
        }
        container_close(c);
        struct simdisk *found = simdisk_crash(disk, SIMDISK_DROP, seed);
        test_check_sound(found);
        c = test_open(found, 0);
        assert_int_equal(script_seen(c), done);
        assert_int_equal(test_digest(c), digests[done]);
        container_close(c);
        simdisk_free(found);
        simdisk_free(disk);
    }
}

static void crash_after_a_retry(void **state)
{
    (void)state;
    failed_then_done_then_crash(narrow, 6);
    failed_then_done_then_crash(wide, 4);
}

/* The sync of the new header fails; whatever the next attempt does, one commit is whole. */
static void crash_after_header_in_doubt(void **state)
{
    uint64_t digests[SCRIPT_STEPS + 1];

    (void)state;
    script_digests(long_header, digests);
    unsigned doubts = 0;
    for (uint64_t call = 1;; call++) {
        for (uint64_t stop = 1; stop < 40; stop += STRIDE) {
            struct simdisk *disk = long_header(seed + call);
            struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
            struct error error;
            unsigned done = 1;

            OK(script_step(c, 1, &error), error);
            simdisk_fail_at(disk, call, 1, -EIO);
            bool came_through = script_step(c, 2, &error) == 0;
            if (!c->header_uncertain) {
                /* Not a call that matters here, or there are no more. */
                bool over = came_through && !simdisk_failed(disk);
                container_close(c);
                simdisk_free(disk);
                if (over) {
                    assert_int_equal(doubts, 2); /* the write and the sync of the header */
                    return;
                }
                break;
            }
            doubts += stop == 1;
            simdisk_stop_at(disk, stop);
            while (done < 3 && !simdisk_stopped(disk)) {
                done += script_step(c, done + 1, &error) == 0;
            }
            container_close(c);
            for (uint64_t tear = 0; tear < 8; tear++) {
                after_crash(disk, SIMDISK_TEAR, seed + stop + tear * 1000, done, digests);
            }
            simdisk_free(disk);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crash_anywhere),
        cmocka_unit_test(crash_with_growing_refcount_table),
        cmocka_unit_test(crash_with_a_long_header),
        cmocka_unit_test(crash_with_destroyed_blocks),
        cmocka_unit_test(crash_while_opening),
        cmocka_unit_test(crash_after_failures),
        cmocka_unit_test(crash_after_a_retry),
        cmocka_unit_test(crash_after_header_in_doubt),
    };

    seed = simdisk_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
