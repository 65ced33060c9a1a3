/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The container that hostile bytes are put into, and what every test of them
 * does with it.
 */
#include "tests/container/hostile.h"

#include <stdio.h>
#include <stdlib.h>

uint64_t seed;
uint8_t *image;
uint64_t image_bytes;
uint64_t digests[N];
uint64_t at_table, at_state, at_mirror, at_l1[N], at_bits;

uint64_t hostile_digest(struct container *c, uint32_t index, bool *ret_good)
{
    struct container_bitmap_info b;
    uint8_t bits[CLUSTER];
    uint64_t digest;

    container_bitmap_get(c, index, &b);
    digest = hash_name(b.name, b.name_bytes) ^ hash_id(b.id) ^ hash_id(b.granularity) ^
             hash_id(b.sectors);
    *ret_good = b.damage == NULL;
    for (uint32_t i = 0; *ret_good && i < b.l1_entries; i++) {
        enum container_cluster_kind kind;
        struct error e;
        memset(bits, 0, sizeof bits);
        if (container_bitmap_read(c, index, i, bits, &kind, &e) < 0) {
            assert_true(e.text[0] != '\0');
            container_bitmap_get(c, index, &b);
            assert_non_null(b.damage);
            *ret_good = false;
        }
        digest = hash_id(digest ^ crc32c(0, bits, sizeof bits));
    }
    return digest;
}

int hostile_make_image(void **state)
{
    struct simdisk *disk = test_container(9, 1);
    struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
    struct container_txn *t;
    struct error e;
    uint8_t bits[CLUSTER];

    (void)state;
    for (unsigned round = 0; round < 2; round++) {
        OK(container_begin(c, &t, &e), e);
        for (uint64_t id = 1; id <= N && round == 0; id++) {
            char name[] = {'d', '/', (char)('a' + id), '\0'};
            OK(container_txn_add(t, id, name, 512, 4096 * 70, &e), e);
        }
        for (uint64_t id = 1; id <= N; id++) {
            for (uint32_t i = 0; i < 70; i += 23 - round) {
                test_pattern(bits, sizeof bits, id, i, round);
                OK(container_txn_write(t, id, i, bits, sizeof bits, &e), e);
            }
        }
        OK(test_commit(t, "the payload", &e), e);
    }
    for (uint32_t i = 0; i < N; i++) {
        bool good;
        digests[i] = hostile_digest(c, i, &good);
        assert_true(good);
        at_l1[i] = c->directory.entries[i]->l1_offset;
    }
    at_bits = (uint64_t)c->directory.entries[1]->slots[0].where * CLUSTER;
    at_table = c->header.table_offset;
    at_state = c->header.private.state_offset;
    at_mirror = c->header.private.mirror_offset;
    container_close(c);
    struct container_check_report report = test_check(disk, true);
    assert_int_equal(report.corruptions + report.leaks, 0);
    const uint8_t *bytes = simdisk_bytes(disk, &image_bytes);
    image = malloc(image_bytes);
    assert_non_null(image);
    memcpy(image, bytes, image_bytes);
    simdisk_free(disk);
    return 0;
}

int hostile_free_image(void **state)
{
    (void)state;
    free(image);
    return 0;
}

static void show(void *opaque, bool corruption, const char *text)
{
    printf("%s: %s: %s\n", *(const char **)opaque, corruption ? "corruption" : "leak", text);
}

static void count_losses(void *opaque, const char *text)
{
    assert_true(text[0] != '\0');
    ++*(unsigned *)opaque;
}

bool hostile_repair(const uint8_t *bytes, uint64_t size, bool sealed, const char *what,
                    struct simdisk **ret)
{
    struct simdisk *disk = simdisk_from(bytes, size, seed);
    unsigned losses = 0;
    struct container_repair_calls calls = {.lost = count_losses, .opaque = &losses};
    struct container_repair_report report, again;
    struct container_check_report check;
    struct container_info info;
    struct error e = {{0}};

    int r = container_repair(simdisk_file(disk), &calls, &report, &e);
    if (r < 0) {
        assert_true(r == -EBADMSG || r == -ENOTSUP || r == -EFBIG);
        assert_true(e.text[0] != '\0');
        assert_int_equal(simdisk_changes(disk), 0);
        simdisk_free(disk);
        return false;
    }
    assert_int_equal(report.losses, losses);
    uint64_t changes = simdisk_changes(disk);
    assert_true(changes > 0 || report.repaired == 0);
    if (report.left.corruptions + report.left.leaks > 0) {
        (void)container_check(simdisk_file(disk), show, &what, &check, &e);
        fail_msg("%s: the repair leaves something", what);
    }
    OK(container_repair(simdisk_file(disk), &calls, &again, &e), e);
    assert_int_equal(simdisk_changes(disk), changes);
    assert_int_equal(again.repaired + again.losses, 0);

    struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
    container_get_info(c, &info);
    for (uint32_t i = 0; i < info.bitmaps; i++) {
        bool good;
        uint64_t digest = hostile_digest(c, i, &good);
        bool known = i < N && digest == digests[i];
        for (uint32_t k = 0; k < N; k++) {
            known |= digest == digests[k]; /* one before it may be gone */
        }
        if (!sealed && good && info.has_private && !known) {
            fail_msg("%s: bitmap %u is wrong after the repair, and passes for good", what, i);
        }
    }
    container_close(c);
    if (ret) {
        *ret = disk;
    } else {
        simdisk_free(disk);
    }
    return true;
}

void hostile_write_to_all(struct container *c)
{
    struct container_bitmap_info b;
    struct container_info info;
    struct container_txn *t;
    struct error e;

    container_get_info(c, &info);
    for (uint32_t i = 0; i < info.bitmaps && i < 8; i++) {
        for (unsigned what = 0; what < 4; what++) {
            OK(container_begin(c, &t, &e), e);
            container_bitmap_get(c, i, &b);
            if (b.id == 0) {
                (void)container_txn_remove_foreign(t, i, &e);
            } else if (what == 0) {
                (void)container_txn_write(t, b.id, 0, "x", 1, &e);
            } else if (what == 1) {
                (void)container_txn_zero(t, b.id, b.l1_entries - 1, &e);
            } else if (what == 2) {
                (void)container_txn_update(t, b.id, "new name", 12345, &e);
            } else {
                (void)container_txn_remove(t, b.id, &e);
            }
            container_abort(t);
        }
    }
}
