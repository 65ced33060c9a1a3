/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Space that is given back: by write-backs as they go, and by compacting.
 * Nothing of the container changes by it, wherever the power fails.
 */
#include "tests/container/script.h"

#include <stdio.h>
#include <stdlib.h>

#ifdef __SANITIZE_ADDRESS__
#define STRIDE 5u
#else
#define STRIDE 1u
#endif

static uint64_t seed;

/* A container with holes in it: the script up to the step that removes most. */
static struct simdisk *worn(uint32_t cluster_bits, uint32_t order, uint64_t *ret_digest)
{
    struct simdisk *disk = test_container(cluster_bits, seed);
    struct error e;

    if (order != HEADER_REFCOUNT_ORDER_DEFAULT) {
        test_set_refcount_order(simdisk_file(disk), order);
    }
    struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
    for (unsigned step = 1; step <= 5; step++) {
        OK(script_step(c, step, &e), e);
    }
    *ret_digest = test_digest(c);
    container_close(c);
    return disk;
}

static void assert_same(struct simdisk *disk, uint64_t digest)
{
    struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);

    assert_int_equal(script_seen(c), 5);
    assert_int_equal(test_digest(c), digest);
    container_close(c);
}

/* Clusters that nobody took back are punched, one commit later, and no others. */
static void write_backs_punch(void **state)
{
    struct simdisk *disk = test_container(12, seed);
    struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
    struct container_txn *t;
    struct error e;
    uint8_t bits[4096];

    (void)state;
    OK(container_begin(c, &t, &e), e);
    for (uint64_t id = 1; id <= 2; id++) {
        char name[] = {(char)('a' + id), '\0'};
        OK(container_txn_add(t, id, name, 512, UINT64_C(8) * 4096 * 100, &e), e);
        for (uint32_t i = 0; i < 100; i++) {
            test_pattern(bits, sizeof bits, id, i, 0);
            OK(container_txn_write(t, id, i, bits, sizeof bits, &e), e);
        }
    }
    OK(test_commit(t, "x", &e), e);
    OK(container_begin(c, &t, &e), e);
    OK(container_txn_remove(t, 1, &e), e);
    OK(test_commit(t, "x", &e), e);
    assert_true(simdisk_punched(disk) < 10 * 4096);
    OK(test_commit_state(c, "x", &e), e);
    uint64_t punched = simdisk_punched(disk);
    assert_true(punched >= 90 * 4096);
    uint64_t digest = test_digest(c);

    /* Steady work takes what it freed before, and bothers nobody. */
    for (unsigned round = 0; round < 50; round++) {
        OK(test_commit_state(c, "x", &e), e);
    }
    assert_true(simdisk_punched(disk) < punched + 40 * 4096);
    assert_int_equal(test_digest(c), digest);
    container_close(c);
    simdisk_free(disk);
}

static void file_systems_that_cannot(void **state)
{
    uint64_t digest;
    struct simdisk *disk = worn(12, 4, &digest);
    struct container_compact_report report;
    struct error e;

    (void)state;
    simdisk_no_punch(disk);
    uint64_t before = simdisk_punched(disk);
    struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
    OK(script_step(c, 6, &e), e);
    OK(script_step(c, 7, &e), e);
    assert_true(c->no_punch);
    OK(script_step(c, 8, &e), e);
    digest = test_digest(c);
    container_close(c);
    OK(container_compact(simdisk_file(disk), &report, &e), e);
    assert_int_equal(report.punched, 0);
    assert_int_equal(simdisk_punched(disk), before);
    c = test_open(disk, 0);
    assert_int_equal(test_digest(c), digest);
    container_close(c);
    simdisk_free(disk);
}

static void compacting(void **state)
{
    static const struct {
        uint32_t cluster_bits, order;
    } kinds[] = {{9, 4}, {9, 6}, {9, 0}, {12, 4}, {13, 6}};

    (void)state;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        uint64_t digest, size;
        struct simdisk *disk = worn(kinds[i].cluster_bits, kinds[i].order, &digest);
        struct container_compact_report report, again;
        struct container_info info;
        struct error e;

        struct container *c = test_open(disk, 0);
        container_get_info(c, &info);
        struct uuid commit_id = info.commit_id;
        container_close(c);
        OK(container_compact(simdisk_file(disk), &report, &e), e);
        (void)simdisk_bytes(disk, &size);
        assert_int_equal(report.size_after, size);
        assert_true(report.size_after < report.size_before / 2);
        assert_true(report.moved > 0);
        struct container_check_report found = test_check(disk, true);
        assert_int_equal(found.corruptions + found.leaks, 0);
        assert_same(disk, digest);
        c = test_open(disk, 0);
        container_get_info(c, &info);
        assert_memory_equal(&info.commit_id, &commit_id, sizeof commit_id);
        assert_true(info.clean == false);
        /* What a commit needs beside what there is, and not much more. */
        assert_true(info.free_clusters < 16);
        container_close(c);

        OK(container_compact(simdisk_file(disk), &again, &e), e);
        assert_true(again.size_after <= report.size_after);
        assert_same(disk, digest);
        /* And it goes on from there. */
        c = test_open(disk, CONTAINER_OPEN_WRITE);
        OK(script_step(c, 6, &e), e);
        container_close(c);
        found = test_check(disk, true);
        assert_int_equal(found.corruptions + found.leaks, 0);
        simdisk_free(disk);
    }
}

static void crash_anywhere(void **state)
{
    static const uint32_t bits[] = {9, 12};
    unsigned stops = 0;

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        uint64_t digest, size;
        struct simdisk *made = worn(bits[i], i ? 6 : 4, &digest);
        const uint8_t *bytes = simdisk_bytes(made, &size);
        bool stopped = true;

        for (uint64_t stop = 1 + seed % STRIDE; stopped; stop += STRIDE, stops++) {
            struct simdisk *disk = simdisk_from(bytes, size, seed + stop);
            struct container_compact_report report;
            struct error e;
            simdisk_stop_at(disk, stop);
            int r = container_compact(simdisk_file(disk), &report, &e);
            stopped = simdisk_stopped(disk);
            assert_true(stopped || r == 0);
            for (unsigned f = 0; f < 5; f++) {
                enum simdisk_fate fate = f == 0              ? SIMDISK_DROP
                                         : f == 1            ? SIMDISK_KEEP
                                         : f == 2            ? SIMDISK_TEAR
                                         : i == 1 /* 4096 */ ? SIMDISK_DESTROY
                                                             : SIMDISK_TEAR;
                struct simdisk *found = simdisk_crash(disk, fate, seed + stop * 8 + f);
                if (fate != SIMDISK_DESTROY) {
                    test_check_sound_but_header(found);
                }
                assert_same(found, digest);
                OK(container_compact(simdisk_file(found), &report, &e), e);
                assert_same(found, digest);
                struct container_check_report sound = test_check(found, false);
                assert_int_equal(sound.corruptions + sound.leaks, 0);
                simdisk_free(found);
            }
            simdisk_free(disk);
        }
        simdisk_free(made);
    }
    printf("%u stop points\n", stops);
}

static void calls_fail(void **state)
{
    uint64_t digest, size;
    struct simdisk *made = worn(9, 4, &digest);
    const uint8_t *bytes = simdisk_bytes(made, &size);
    bool failed = true;

    (void)state;
    for (uint64_t call = 1; failed; call += STRIDE) {
        struct simdisk *disk = simdisk_from(bytes, size, seed + call);
        struct container_compact_report report;
        struct error e = {{0}};
        simdisk_fail_at(disk, call, 1, -EIO);
        int r = container_compact(simdisk_file(disk), &report, &e);
        failed = simdisk_failed(disk);
        simdisk_fail_at(disk, 0, 0, 0);
        assert_true(r == 0 || (r == -EIO && e.text[0]));
        struct simdisk *found = simdisk_crash(disk, SIMDISK_TEAR, seed + call);
        assert_same(found, digest);
        simdisk_free(found);
        simdisk_free(disk);
    }
    simdisk_free(made);
}

/* Bits that are wrong do not become right by being moved. */
static void damage_is_kept(void **state)
{
    uint64_t digest, size;
    struct simdisk *disk = worn(9, 4, &digest);
    struct container_compact_report report;
    struct error e;

    (void)state;
    struct container *c = test_open(disk, 0);
    const struct entry *e0 = directory_find_id(&c->directory, 1);
    uint64_t last = 0;
    for (uint32_t i = 0; i < e0->l1_entries; i++) {
        last = max_u64(last, e0->slots[i].where & SLOT_CLUSTER);
    }
    container_close(c);
    uint8_t *bytes = simdisk_bytes(disk, &size);
    bytes[last * 512 + 7] ^= 1;
    int r = container_compact(simdisk_file(disk), &report, &e);
    assert_true(r == 0 || r == -EBADMSG); /* if it did not have to move, or did */
    assert_true(test_check(disk, false).corruptions > 0);
    simdisk_free(disk);
}

/* That the state was lost, and is to be told, survives as well. */
static void lost_state_is_kept(void **state)
{
    uint64_t digest, size;
    struct simdisk *disk = worn(9, 4, &digest);
    const struct container_repair_calls calls = {0};
    struct container_repair_report repaired;
    struct container_compact_report report;
    struct container_info info;
    struct error e;

    (void)state;
    struct container *c = test_open(disk, 0);
    uint64_t at = c->header.private.state_offset;
    container_close(c);
    simdisk_bytes(disk, &size)[at + 90] ^= 1;
    uint64_t changes = simdisk_changes(disk);
    assert_int_equal(container_compact(simdisk_file(disk), &report, &e), -EBADMSG);
    assert_int_equal(simdisk_changes(disk), changes);
    OK(container_repair(simdisk_file(disk), &calls, &repaired, &e), e);
    assert_int_equal(repaired.losses, 1);
    OK(container_compact(simdisk_file(disk), &report, &e), e);
    c = test_open(disk, 0);
    container_get_info(c, &info);
    assert_string_equal(info.state_damage, "the state was lost earlier");
    assert_true(info.bitmaps > 0);
    container_close(c);
    struct container_check_report found = test_check(disk, true);
    assert_int_equal(found.corruptions + found.leaks, 0);
    simdisk_free(disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(write_backs_punch),  cmocka_unit_test(file_systems_that_cannot),
        cmocka_unit_test(compacting),         cmocka_unit_test(crash_anywhere),
        cmocka_unit_test(calls_fail),         cmocka_unit_test(damage_is_kept),
        cmocka_unit_test(lost_state_is_kept),
    };

    seed = simdisk_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
