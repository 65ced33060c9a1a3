/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is written is read back: steps of all kinds in every refcount width,
 * growth of everything that grows, names, sizes, foreign entries and extensions,
 * and what is refused.  test_geometry.c has the shapes, test_limits.c the limits.
 */
#include "tests/container/script.h"

#include <stdio.h>
#include <stdlib.h>

static uint64_t seed;

static void every_refcount_width(void **state)
{
    (void)state;
    for (uint32_t order = 0; order <= 6; order++) {
        struct simdisk *disk = test_container(9, seed);
        struct error error;
        test_set_refcount_order(simdisk_file(disk), order);
        struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
        struct container_info info;
        container_get_info(c, &info);
        assert_int_equal(info.refcount_bits, 1u << order);
        assert_int_equal(info.leaked_clusters, 0);
        for (unsigned step = 1; step <= SCRIPT_STEPS; step++) {
            OK(script_step(c, step, &error), error);
            struct container_check_report report = test_check(disk, true);
            assert_int_equal(report.corruptions + report.leaks, 0);
        }
        uint64_t digest = test_digest(c);
        container_close(c);
        c = test_open(disk, 0);
        assert_int_equal(test_digest(c), digest);
        container_close(c);
        simdisk_free(disk);
    }
}

static void grows_past_a_refcount_table_cluster(void **state)
{
    struct simdisk *disk = test_container(9, seed);
    struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
    struct error error;
    uint8_t bits[512];
    uint64_t size;

    (void)state;
    for (unsigned round = 0; round < 6; round++) {
        struct container_txn *txn;
        OK(container_begin(c, &txn, &error), error);
        for (uint64_t id = 1 + round * 100; id <= 100 + round * 100; id++) {
            char name[32];
            (void)snprintf(name, sizeof name, "drive/%u", (unsigned)id);
            OK(container_txn_add(txn, id, name, 512, 4096 * 32, &error), error);
            for (uint32_t i = 0; i < 32; i++) {
                test_pattern(bits, sizeof bits, id, i, 0);
                OK(container_txn_write(txn, id, i, bits, sizeof bits, &error), error);
            }
        }
        OK(test_commit(txn, "x", &error), error);
    }
    uint8_t *bytes = simdisk_bytes(disk, &size);
    assert_true(load_be32(bytes + HEADER_REFCOUNT_TABLE_CLUSTERS) > 1);
    uint64_t digest = test_digest(c);
    container_close(c);
    struct container_check_report report = test_check(disk, true);
    assert_int_equal(report.corruptions + report.leaks, 0);
    c = test_open(disk, 0);
    assert_int_equal(test_digest(c), digest);
    container_close(c);
    simdisk_free(disk);
}

static void freed_clusters_are_used_again(void **state)
{
    struct simdisk *disk = test_container(9, seed);
    struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
    uint64_t random = seed, early = 0, size;
    struct error error;
    uint8_t bits[512];

    (void)state;
    for (unsigned commit = 0; commit < 1000; commit++) {
        struct container_txn *txn;
        OK(container_begin(c, &txn, &error), error);
        if (commit == 0) {
            OK(container_txn_add(txn, 1, "drive/name", 512, 4096 * 64, &error), error);
        }
        for (unsigned i = 0; i < 8; i++) {
            uint32_t at = (uint32_t)(simdisk_random(&random) % 64);
            test_pattern(bits, sizeof bits, 1, at, commit);
            OK(container_txn_write(txn, 1, at, bits, sizeof bits, &error), error);
        }
        OK(test_commit(txn, "x", &error), error);
        (void)simdisk_bytes(disk, &size);
        if (commit == 100) {
            early = size;
        }
    }
    assert_true(size <= early + 16 * 512);
    container_close(c);
    simdisk_free(disk);
}

static void ten_thousand_bitmaps_at_once(void **state)
{
    struct simdisk *disk = test_container(9, seed);
    struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
    struct container_txn *txn;
    struct error error;
    char name[32];

    (void)state;
    OK(container_begin(c, &txn, &error), error);
    for (uint64_t id = 1; id <= 10000; id++) {
        (void)snprintf(name, sizeof name, "drive/%u", (unsigned)id);
        OK(container_txn_add(txn, id, name, 65536, 2048, &error), error);
    }
    OK(test_commit(txn, "x", &error), error);
    container_close(c);
    c = test_open(disk, CONTAINER_OPEN_WRITE);
    struct container_info info;
    container_get_info(c, &info);
    assert_int_equal(info.bitmaps, 10000);
    for (uint64_t id = 1; id <= 10000; id++) {
        struct container_bitmap_info b;
        uint32_t index;
        assert_int_equal(container_bitmap_find(c, id, &index), 0);
        container_bitmap_get(c, index, &b);
        assert_int_equal(b.id, id);
    }
    OK(container_begin(c, &txn, &error), error);
    for (uint64_t id = 1; id <= 10000; id++) {
        OK(container_txn_remove(txn, id, &error), error);
    }
    OK(test_commit(txn, "x", &error), error);
    container_close(c);
    struct container_check_report report = test_check(disk, true);
    assert_int_equal(report.corruptions + report.leaks, 0);
    simdisk_free(disk);
}

static int begin_and(struct container *c, struct container_txn **txn)
{
    struct error error;
    return container_begin(c, txn, &error);
}

/* Each refusal ends the transaction; nothing of it stays. */
static void refusals(void **state)
{
    struct simdisk *disk = test_container(9, seed);
    struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
    struct container_txn *t;
    struct error e;
    uint8_t bits[1024] = {0xff, 0xff};

    (void)state;
    OK(container_begin(c, &t, &e), e);
    OK(container_txn_add(t, 1, "a/b", 512, 10, &e), e);
    OK(container_txn_add(t, 2, "a/c", 512, 10, &e), e);
    OK(container_txn_add(t, 3, "a/e", 512, 10, &e), e);
    OK(test_commit(t, "x", &e), e);
    uint64_t digest = test_digest(c);

#define REFUSED(r, call)                                    \
    do {                                                    \
        assert_int_equal(begin_and(c, &t), 0);              \
        e.text[0] = '\0';                                   \
        assert_int_equal(call, r);                          \
        assert_true(e.text[0] != '\0');                     \
        assert_int_equal(test_commit(t, "y", &e), -EINVAL); \
        container_abort(t);                                 \
        assert_int_equal(test_digest(c), digest);           \
    } while (0)
    REFUSED(-EEXIST, container_txn_add(t, 1, "a/d", 512, 10, &e));
    REFUSED(-EEXIST, container_txn_add(t, 9, "a/b", 512, 10, &e));
    REFUSED(-EINVAL, container_txn_add(t, 0, "a/d", 512, 10, &e));
    REFUSED(-EINVAL, container_txn_add(t, 9, "", 512, 10, &e));
    REFUSED(-EINVAL, container_txn_add(t, 9, "a/d", 511, 10, &e));
    REFUSED(-EINVAL, container_txn_add(t, 9, "a/d", 512, 0, &e));
    REFUSED(-EINVAL, container_txn_add(t, 9, "a/d", 512, UINT64_MAX, &e));
    REFUSED(-EEXIST, container_txn_update(t, 1, "a/c", 0, &e));
    REFUSED(-ENOENT, container_txn_update(t, 4, "a/d", 0, &e));
    REFUSED(-EINVAL, container_txn_update(t, 1, NULL, UINT64_MAX, &e));
    REFUSED(-ENOENT, container_txn_remove(t, 4, &e));
    REFUSED(-ENOENT, container_txn_remove_foreign(t, 0, &e));
    REFUSED(-ENOENT, container_txn_remove_foreign(t, 3, &e));
    REFUSED(-ENOENT, container_txn_zero(t, 4, 0, &e));
    REFUSED(-EINVAL, container_txn_zero(t, 1, 1, &e));
    REFUSED(-EINVAL, container_txn_write(t, 1, 1, bits, 1, &e));
    REFUSED(-EINVAL, container_txn_write(t, 1, 0, bits, 2, &e)); /* granule 10 does not exist */
    REFUSED(-EINVAL, container_txn_write(t, 1, 0, bits, 513, &e));
#undef REFUSED

    /* Two at a time, a sequence that goes back, a reader. */
    struct container_txn *second;
    OK(container_begin(c, &t, &e), e);
    assert_int_equal(container_begin(c, &second, &e), -EINVAL);
    struct container_commit_options options = {.applied_seq = 6};
    assert_int_equal(container_commit(t, &options, NULL, &e), -EINVAL);
    container_close(c); /* with a transaction open */
    c = test_open(disk, 0);
    assert_int_equal(test_digest(c), digest);
    assert_int_equal(container_begin(c, &t, &e), -EROFS);
    container_close(c);
    simdisk_free(disk);
}

/* Our own container, as a tool that knows only the draft would have left it. */
static void strip_private(struct simdisk *disk)
{
    uint64_t size;
    uint8_t *bytes = simdisk_bytes(disk, &size);

    memset(bytes + HEADER_BYTES, 0, 512 - HEADER_BYTES);
    store_be64(bytes + HEADER_AUTOCLEAR, 0);
    /* Or else it would be found and believed to be the header of a damaged file. */
    memset(bytes + 3 * 512, 0, 512);
}

static void foreign_bitmaps_are_kept(void **state)
{
    struct simdisk *disk = test_container(9, seed);
    struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
    struct container_txn *t;
    struct error e;
    struct container_info info;
    struct container_bitmap_info b;
    enum container_cluster_kind kind;
    uint8_t bits[512], found[512];
    uint32_t index;

    (void)state;
    test_pattern(bits, sizeof bits, 1, 0, 0);
    OK(container_begin(c, &t, &e), e);
    OK(container_txn_add(t, 1, "foreign one", 512, 4096 * 3, &e), e);
    OK(container_txn_add(t, 2, "foreign two", 512, 4096, &e), e);
    OK(container_txn_write(t, 1, 2, bits, sizeof bits, &e), e);
    OK(test_commit(t, "x", &e), e);
    container_close(c);
    strip_private(disk);

    c = test_open(disk, CONTAINER_OPEN_WRITE);
    container_get_info(c, &info);
    assert_false(info.has_private);
    assert_int_equal(info.bitmaps, 2);
    assert_true(info.leaked_clusters >= 2); /* blob and mirror */
    container_bitmap_get(c, 0, &b);
    assert_int_equal(b.id, 0);
    assert_int_equal(b.allocated_clusters, 1);
    OK(container_bitmap_read(c, 0, 2, found, &kind, &e), e);
    assert_memory_equal(found, bits, sizeof bits);

    OK(container_begin(c, &t, &e), e);
    assert_int_equal(container_txn_add(t, 5, "foreign one", 512, 4096, &e), -EEXIST);
    container_abort(t);
    for (unsigned round = 0; round < 5; round++) { /* over what would be theirs if it were free */
        OK(container_begin(c, &t, &e), e);
        OK(container_txn_add(t, 5 + round, &"abcdefg"[round], 512, 4096 * 20, &e), e);
        for (uint32_t i = 0; i < 20; i++) {
            OK(container_txn_write(t, 5 + round, i, bits, sizeof bits, &e), e);
        }
        OK(test_commit(t, "y", &e), e);
    }
    container_close(c);
    c = test_open(disk, CONTAINER_OPEN_WRITE);
    container_get_info(c, &info);
    assert_true(info.has_private);
    assert_int_equal(info.bitmaps, 7);
    container_bitmap_get(c, 0, &b);
    assert_int_equal(b.id, 0);
    assert_string_equal(b.name, "foreign one");
    assert_null(b.damage);
    OK(container_bitmap_read(c, 0, 2, found, &kind, &e), e);
    assert_int_equal(kind, CONTAINER_DATA);
    assert_memory_equal(found, bits, sizeof bits);
    assert_int_equal(container_bitmap_find(c, 0, &index), -ENOENT);

    OK(container_begin(c, &t, &e), e);
    OK(container_txn_remove_foreign(t, 1, &e), e);
    assert_int_equal(container_txn_remove_foreign(t, 1, &e), -ENOENT);
    container_abort(t);
    OK(container_begin(c, &t, &e), e);
    OK(container_txn_remove_foreign(t, 1, &e), e);
    OK(test_commit(t, "z", &e), e);
    container_get_info(c, &info);
    assert_int_equal(info.bitmaps, 6);
    container_close(c);
    struct container_check_report report = test_check(disk, true);
    assert_int_equal(report.corruptions + report.leaks, 0);
    simdisk_free(disk);
}

/* Foreign header extensions and longer headers survive a commit, ours first. */
static void foreign_extensions_are_kept(void **state)
{
    struct simdisk *disk = test_container(12, seed);
    struct error e;
    uint64_t size;
    uint8_t *bytes = simdisk_bytes(disk, &size);
    uint8_t ours[PRIVATE_BYTES + 8];

    (void)state;
    /* A header of 128 bytes with something in its last 8, a foreign extension in front of ours,
     * one behind; as QEMU leaves it, with the autoclear bit gone and 104 … 111 zeroed. */
    memcpy(ours, bytes + HEADER_BYTES, sizeof ours);
    memset(bytes + HEADER_BYTES, 0, 4096 - HEADER_BYTES);
    store_be32(bytes + HEADER_LENGTH, 128);
    memcpy(bytes + 120, "unknown!", 8);
    size_t at = 128;
    store_be32(bytes + at, EXTENSION_FEATURE_NAMES);
    store_be32(bytes + at + 4, 48);
    memcpy(bytes + at + 8, "feature", 7);
    at += 8 + 48;
    memcpy(bytes + at, ours, sizeof ours);
    at += sizeof ours;
    store_be32(bytes + at, 0x12345678);
    store_be32(bytes + at + 4, 3);
    memcpy(bytes + at + 8, "abc", 3);
    store_be64(bytes + HEADER_AUTOCLEAR, 1);
    memset(bytes + 104, 0, 8);
    test_check(disk, false);

    struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
    struct container_info info;
    container_get_info(c, &info);
    assert_true(info.foreign_write);
    assert_false(info.used_mirror);
    assert_int_equal(info.header_length, 128);
    OK(test_commit_state(c, "x", &e), e);
    container_close(c);

    bytes = simdisk_bytes(disk, &size);
    assert_int_equal(load_be32(bytes + HEADER_LENGTH), 128);
    assert_memory_equal(bytes + 120, "unknown!", 8);
    assert_true(load_be64(bytes + HEADER_AUTOCLEAR) == (AUTOCLEAR_OURS | 1));
    assert_int_equal(load_be32(bytes + 128), EXTENSION_PRIVATE);
    at = 128 + sizeof ours;
    assert_int_equal(load_be32(bytes + at), EXTENSION_FEATURE_NAMES);
    assert_memory_equal(bytes + at + 8, "feature", 7);
    at += 8 + 48;
    assert_int_equal(load_be32(bytes + at), 0x12345678);
    assert_int_equal(load_be32(bytes + at + 4), 3);
    assert_memory_equal(bytes + at + 8, "abc\0\0\0\0\0", 8);
    assert_int_equal(load_be64(bytes + at + 16), 0);
    c = test_open(disk, 0);
    container_get_info(c, &info);
    assert_false(info.foreign_write);
    assert_false(info.fields_restored);
    container_close(c);
    simdisk_free(disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_refcount_width),
        cmocka_unit_test(grows_past_a_refcount_table_cluster),
        cmocka_unit_test(freed_clusters_are_used_again),
        cmocka_unit_test(ten_thousand_bitmaps_at_once),
        cmocka_unit_test(refusals),
        cmocka_unit_test(foreign_bitmaps_are_kept),
        cmocka_unit_test(foreign_extensions_are_kept),
    };

    seed = simdisk_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
