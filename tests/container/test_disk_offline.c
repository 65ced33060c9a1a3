/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Compacting, and what else works on a file nobody has open, with images that
 * have a disk of their own.
 */
#include "tests/container/images.h"

#include <stdio.h>

static uint64_t seed;

/* Compacting moves what is ours, and nothing else. */
static void compacted(void **state)
{
    (void)state;
    for (size_t i = 0; i < images_count; i++) {
        struct simdisk *disk = image_disk(&images[i], seed);
        struct container_compact_report report;
        struct container_txn *t;
        struct error e;

        OK(image_adopt(disk, &e), e);
        struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
        for (uint64_t id = 1; id <= 4; id++) {
            char name[] = {'d', '/', (char)('a' + id), '\0'};
            OK(container_begin(c, &t, &e), e);
            OK(container_txn_add(t, id, name, 512, 4096 * 40, &e), e);
            for (uint32_t k = 0; k < c->space.clusters % 7 + 1; k++) {
                OK(container_txn_write(t, id, 0, &"abcdefgh"[k], 1, &e), e);
            }
            if (id > 2) {
                OK(container_txn_remove(t, id - 2, &e), e);
            }
            OK(test_commit(t, "the payload", &e), e);
        }
        uint64_t digest = test_digest(c);
        container_close(c);
        for (unsigned round = 0; round < 2; round++) {
            OK(container_compact(simdisk_file(disk), &report, &e), e);
            assert_true(report.size_after <= report.size_before);
        }
        image_check_disk(&images[i], disk);
        struct container_check_report found = test_check(disk, true);
        assert_int_equal(found.corruptions + found.leaks, 0);
        c = test_open(disk, CONTAINER_OPEN_WRITE);
        assert_int_equal(test_digest(c), digest);
        container_close(c);
        simdisk_free(disk);
    }
}

/* An image that was never prepared is nobody's container. */
static void unprepared(void **state)
{
    struct simdisk *disk = image_disk(image_named("plain"), seed);
    struct container_compact_report compact;
    struct container_repair_calls calls = {0};
    struct container_repair_report repair;
    struct error e;
    uint64_t size;

    (void)state;
    assert_int_equal(container_compact(simdisk_file(disk), &compact, &e), -ENOTSUP);
    assert_int_equal(container_repair(simdisk_file(disk), &calls, &repair, &e), -ENOTSUP);
    /* A longer header does not make it one. */
    uint8_t *b = simdisk_bytes(disk, &size);
    struct header h = {0};
    OK(header_read(simdisk_file(disk), size, 0, &h, &e), e);
    OK(header_build(&h, &e), e);
    memcpy(b, h.block, h.block_bytes);
    store_be32(b + HEADER_BYTES, 0x12345678); /* our extension is somebody else's */
    b[HEADER_AUTOCLEAR] = 0;
    refcount_set(b + load_be64(b + h.refcount_table_offset), 4, 1, 0);
    header_deinit(&h);
    assert_int_equal(container_compact(simdisk_file(disk), &compact, &e), -ENOTSUP);
    assert_int_equal(container_repair(simdisk_file(disk), &calls, &repair, &e), -ENOTSUP);
    assert_non_null(strstr(e.text, "create --internal"));
    assert_int_equal(simdisk_changes(disk), 0);
    simdisk_free(disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(compacted),
        cmocka_unit_test(unprepared),
    };

    if (!images_can_be_made()) {
        printf("skipped: no qemu-img and qemu-io here\n");
        return 77;
    }
    seed = simdisk_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
