/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Random damage to a sound container: bytes, sectors, its end.  Whatever the
 * container then says without a reservation must be what was written.  With all
 * CRCs made right again ("sealed") that cannot be asked; then nothing may crash
 * and no refused file be written to.
 */
#include "tests/container/hostile.h"

#include <stdio.h>
#include <stdlib.h>

/*
 * What the container says of this disk is right, or it says that it does not
 * know.  Then it is written to, and that is still so.
 */
static void right_or_damaged(struct simdisk *disk, bool sealed, const char *what)
{
    struct container_check_report report;
    struct container *c;
    struct error e = {{0}};
    bool written = false;
    uint64_t size;

    uint8_t *bytes = simdisk_bytes(disk, &size);
    uint8_t *before = test_malloc(size + 1);
    if (size > 0) {
        memcpy(before, bytes, size);
    }
    (void)hostile_repair(before, size, sealed, what, NULL);
    (void)container_check(simdisk_file(disk), NULL, NULL, &report, &e);
    for (unsigned round = 0; round < 3; round++) {
        int r = container_open(simdisk_file(disk), round ? CONTAINER_OPEN_WRITE : 0, &c, &e);
        if (r < 0) {
            assert_false(written);
            assert_true(r == -EBADMSG || r == -ENOTSUP || r == -EFBIG);
            assert_true(e.text[0] != '\0');
            assert_memory_equal(simdisk_bytes(disk, &size), before, size);
            assert_int_equal(simdisk_changes(disk), 0);
            continue;
        }
        written |= round == 1;
        struct container_info info;
        container_get_info(c, &info);
        const void *payload;
        size_t payload_bytes;
        container_state(c, &payload, &payload_bytes);
        if (!sealed && round < 2 && info.has_private && info.state_damage[0] == '\0') {
            assert_int_equal(payload_bytes, 11);
            assert_memory_equal(payload, "the payload", 11);
            assert_int_equal(info.bitmaps, N);
        }
        for (uint32_t i = 0; i < info.bitmaps; i++) {
            bool good;
            uint64_t digest = hostile_digest(c, i, &good);
            if (!sealed && good && info.has_private && (i >= N || digest != digests[i])) {
                fail_msg("%s: bitmap %u is wrong and passes for good", what, i);
            }
        }
        if (round == 1) {
            hostile_write_to_all(c);
            if (test_commit_state(c, "the payload", &e) < 0) {
                assert_true(e.text[0] != '\0');
            }
        }
        container_close(c);
        if (r == 0 && round == 1) {
            (void)container_check(simdisk_file(disk), NULL, NULL, &report, &e);
        }
    }
    test_free(before);
}

static void random_bytes(void **state)
{
    uint64_t random = seed;

    (void)state;
    for (unsigned round = 0; round < 3000; round++) {
        struct simdisk *disk = simdisk_from(image, image_bytes, seed);
        uint64_t size, at = simdisk_random(&random) % image_bytes;
        uint8_t *bytes = simdisk_bytes(disk, &size);
        char what[80];
        /* Metadata is small: look there half of the time. */
        const uint64_t places[] = {0, CLUSTER, at_table, at_state, at_l1[0], at_l1[1], at_mirror};
        if (simdisk_random(&random) % 2) {
            at = places[simdisk_random(&random) % 7] + simdisk_random(&random) % 300;
        }
        (void)snprintf(what, sizeof what, "round %u, byte %u", round, (unsigned)at);
        bytes[at] ^= (uint8_t)(1 + simdisk_random(&random) % 255);
        bool sealed = round % 3 == 0;
        if (sealed) {
            at = places[simdisk_random(&random) % 7] + simdisk_random(&random) % 128;
            bytes[at] = (uint8_t)simdisk_random(&random);
            layout_seal(bytes, size);
        }
        right_or_damaged(disk, sealed, what);
        simdisk_free(disk);
    }
}

static void random_sectors(void **state)
{
    uint64_t random = seed;

    (void)state;
    for (unsigned round = 0; round < 600; round++) {
        struct simdisk *disk = simdisk_from(image, image_bytes, seed);
        uint64_t size, sectors = image_bytes / CLUSTER;
        uint8_t *bytes = simdisk_bytes(disk, &size);
        char what[80];
        for (unsigned i = 0; i <= round % 3; i++) {
            uint64_t to = simdisk_random(&random) % (round % 2 ? sectors : 12) * CLUSTER;
            if (round % 5 == 0) {
                memset(bytes + to, 0, CLUSTER); /* as after check -r of another program */
            } else if (round % 5 == 1) {
                test_pattern(bytes + to, CLUSTER, round, i, 0);
            } else { /* a write that went astray */
                memcpy(bytes + to, image + simdisk_random(&random) % sectors * CLUSTER, CLUSTER);
            }
        }
        (void)snprintf(what, sizeof what, "round %u", round);
        right_or_damaged(disk, false, what);
        simdisk_free(disk);
    }
}

static void truncated(void **state)
{
    uint64_t random = seed;

    (void)state;
    for (uint64_t length = 0; length < image_bytes; length += 1 + simdisk_random(&random) % 300) {
        struct simdisk *disk = simdisk_from(image, length, seed);
        char what[80];
        (void)snprintf(what, sizeof what, "cut at %u", (unsigned)length);
        right_or_damaged(disk, false, what);
        simdisk_free(disk);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_bytes),
        cmocka_unit_test(random_sectors),
        cmocka_unit_test(truncated),
    };

    seed = simdisk_seed();
    return cmocka_run_group_tests(tests, hostile_make_image, hostile_free_image);
}
