/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images made by real QEMU become internal containers: all of them can be
 * owned and used, their disks stay what they were, and whatever happens in
 * between, what is found is the old image or the new container.
 */
#include "tests/container/images.h"
#include "tests/container/script.h"

#include <stdio.h>
#include <stdlib.h>

/* With sanitizers, which are here for the memory, less of the same. */
#ifdef __SANITIZE_ADDRESS__
#define TEARS  1u
#define STRIDE 23u
#define CALLS  3u
#else
#define TEARS  2u
#define STRIDE 7u
#define CALLS  1u
#endif

static uint64_t seed;

/* No corruption, no leaks: also of the disk's own clusters. */
static void check_clean(const struct image *image, struct simdisk *disk)
{
    struct container_check_report report = test_check(disk, true);

    if (report.corruptions != 0 || report.leaks != 0) {
        fail_msg("image \"%s\": %u corruptions, %u leaks", image->name,
                 (unsigned)report.corruptions, (unsigned)report.leaks);
    }
    image_check_disk(image, disk);
}

/* The whole block of the image at @disk; what is in it follows. */
static void read_header(struct simdisk *disk, struct header *ret)
{
    struct error e;
    uint64_t size;

    (void)simdisk_bytes(disk, &size);
    OK(header_read(simdisk_file(disk), size, 0, ret, &e), e);
}

/* Fields of the disk, foreign extensions and backing file name are what they were. */
static void check_header(const struct image *image, struct simdisk *disk)
{
    CLEANUP(header_deinit) struct header old = {0};
    CLEANUP(header_deinit) struct header new = {0};
    struct simdisk *before = image_disk(image, 1);

    read_header(before, &old);
    read_header(disk, &new);
    simdisk_free(before);
    assert_true(new.has_private &&new.crc_good);
    assert_int_equal(new.length, 120);
    size_t padding = new.n_foreign > 0 && new.foreign[0].type == EXTENSION_PADDING;
    assert_int_equal(new.n_foreign, old.n_foreign + padding);
    for (size_t i = 0; i < old.n_foreign; i++) {
        const struct extension *x = &new.foreign[i + padding];
        assert_int_equal(x->type, old.foreign[i].type);
        assert_int_equal(x->length, old.foreign[i].length);
        assert_memory_equal(x->data, old.foreign[i].data, x->length);
    }
    assert_int_equal(new.backing_bytes, old.backing_bytes);
    if (old.backing_bytes > 0) {
        assert_memory_equal(new.backing_name, old.backing_name, old.backing_bytes);
    }
    /* All but the backing file name's place, the refcount table, autoclear bits, and our fields. */
    assert_memory_equal(new.fixed, old.fixed, 8);
    assert_memory_equal(new.fixed + 16, old.fixed + 16, 32);
    assert_memory_equal(new.fixed + 60, old.fixed + 60, 28);
    /* Where there are snapshots, QEMU must not have a bit to clear (format.h). */
    assert_int_equal(new.autoclear, old.autoclear | (old.snapshots ? 0 : AUTOCLEAR_OURS));
    assert_int_equal(new.refcount_order, old.refcount_order);
}

static void every_image(void **state)
{
    struct error e;

    (void)state;
    for (size_t i = 0; i < images_count; i++) {
        struct simdisk *disk = image_disk(&images[i], seed);
        printf("%s\n", images[i].name);
        OK(image_adopt(disk, &e), e);
        check_clean(&images[i], disk);
        check_header(&images[i], disk);
        assert_int_equal(image_adopt(disk, &e), -EEXIST);

        struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
        struct container_info info;
        container_get_info(c, &info);
        assert_true(info.clean && info.has_private);
        assert_int_equal(info.leaked_clusters, 0);
        /* Step 4 has hundreds of clusters: not of those that are megabytes. */
        unsigned steps = cluster_bytes(c) > 16384 ? 3 : SCRIPT_STEPS;
        for (unsigned step = 1; step <= steps; step++) {
            OK(script_step(c, step, &e), e);
            image_check_disk(&images[i], disk);
        }
        uint64_t digest = test_digest(c);
        container_close(c);
        check_clean(&images[i], disk);
        check_header(&images[i], disk);
        c = test_open(disk, 0);
        assert_true(test_digest(c) == digest);
        container_close(c);
        simdisk_free(disk);
    }
}

/* Old, byte for byte where QEMU looks, or new and whole. */
static bool old_or_new(const struct image *image, struct simdisk *disk)
{
    CLEANUP(header_deinit) struct header h = {0};
    uint64_t size;
    const uint8_t *before = image_bytes_of(image, &size);

    read_header(disk, &h);
    if (!h.has_private) {
        assert_memory_equal(h.block, before, h.block_bytes);
        return false;
    }
    assert_true(h.crc_good);
    return true;
}

static void after_crash(const struct image *image, struct simdisk *disk, enum simdisk_fate fate,
                        uint64_t s, bool done)
{
    struct simdisk *found = simdisk_crash(disk, fate, s);
    struct error e;

    image_check_disk(image, found);
    bool is_new = old_or_new(image, found);
    assert_true(is_new || !done);
    if (is_new) {
        test_check_sound(found);
    } else {
        OK(image_adopt(found, &e), e);
    }
    struct container *c = test_open(found, CONTAINER_OPEN_WRITE);
    OK(script_step(c, 1, &e), e);
    container_close(c);
    check_clean(image, found);
    simdisk_free(found);
}

static void crash_anywhere(void **state)
{
    struct error e;

    (void)state;
    for (size_t i = 0; i < images_count; i++) {
        bool stopped = !images[i].once;
        uint64_t stop;
        for (stop = 1; stopped; stop++) {
            struct simdisk *disk = image_disk(&images[i], seed + stop);
            simdisk_stop_at(disk, stop);
            bool done = image_adopt(disk, &e) == 0;
            stopped = simdisk_stopped(disk);
            after_crash(&images[i], disk, SIMDISK_DROP, seed, done);
            after_crash(&images[i], disk, SIMDISK_KEEP, seed, done);
            for (uint64_t tear = 0; tear < TEARS && images[i].spread; tear++) {
                after_crash(&images[i], disk, SIMDISK_TEAR, seed + stop * 100 + tear, done);
            }
            simdisk_free(disk);
        }
        printf("%s: %u stop points\n", images[i].name, (unsigned)stop - 1);
    }
}

/* Any call fails, once: the image is as it was, but for leaks perhaps. */
static void failures(void **state)
{
    struct error e = {{0}};

    (void)state;
    for (size_t i = 0; i < images_count; i++) {
        bool failed = !images[i].once;
        for (uint64_t call = 1 + seed % CALLS; failed; call += CALLS) {
            struct simdisk *disk = image_disk(&images[i], seed + call);
            simdisk_fail_at(disk, call, 1, call % 2 ? -EIO : -ENOSPC);
            int r = image_adopt(disk, &e);
            failed = simdisk_failed(disk);
            simdisk_fail_at(disk, 1, 0, 0);
            assert_true(r == 0 || (failed && e.text[0] != '\0'));
            image_check_disk(&images[i], disk);
            bool is_new = old_or_new(&images[i], disk);
            assert_int_equal(is_new, r == 0);
            if (!is_new) {
                OK(image_adopt(disk, &e), e);
            }
            struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
            OK(script_step(c, 1, &e), e);
            container_close(c);
            check_clean(&images[i], disk);
            simdisk_free(disk);
        }
    }
}

static void disk_full(void **state)
{
    struct error e;
    uint64_t size;

    (void)state;
    for (size_t i = 0; i < images_count; i++) {
        const uint8_t *before = image_bytes_of(&images[i], &size);
        struct simdisk *disk = image_disk(&images[i], seed);
        simdisk_limit(disk, size);
        int r = image_adopt(disk, &e);
        if (r == 0) { /* it had free clusters enough */
            check_clean(&images[i], disk);
        } else {
            assert_int_equal(r, -ENOSPC);
            assert_false(old_or_new(&images[i], disk));
            uint64_t now;
            assert_memory_equal(simdisk_bytes(disk, &now), before, size);
        }
        simdisk_free(disk);
    }
}

/* Commits of an internal container, interrupted anywhere. */
static void crash_at_work(void **state)
{
    const struct image *image = image_named("snapshots");
    struct error e;
    bool stopped = true;

    (void)state;
    for (uint64_t stop = 1 + seed % STRIDE; stopped; stop += STRIDE) {
        struct simdisk *disk = image_disk(image, seed + stop);
        unsigned done = 0;
        OK(image_adopt(disk, &e), e);
        struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
        simdisk_stop_at(disk, stop);
        while (done < SCRIPT_STEPS && script_step(c, done + 1, &e) == 0) {
            done++;
        }
        container_close(c);
        stopped = simdisk_stopped(disk);
        struct simdisk *found = simdisk_crash(disk, SIMDISK_TEAR, seed + stop);
        image_check_disk(image, found);
        test_check_sound_but_header(found);
        c = test_open(found, CONTAINER_OPEN_WRITE);
        unsigned seen = script_seen(c);
        assert_true(seen == done || seen == done + 1);
        OK(test_commit_state(c, "step 8", &e), e);
        container_close(c);
        check_clean(image, found);
        simdisk_free(found);
        simdisk_free(disk);
    }
}

/*
 * Another program of the draft's has put bitmaps into the image, and knows
 * nothing of our extension: they are kept, and listed, but not ours.
 */
static void foreign_bitmaps(void **state)
{
    struct error e;
    uint64_t size;

    (void)state;
    for (unsigned bad = 0; bad < 3; bad++) {
        const struct image *image = image_named("snapshots");
        struct simdisk *ours = image_disk(image, seed);
        struct container_txn *t;
        OK(image_adopt(ours, &e), e);
        struct container *c = test_open(ours, CONTAINER_OPEN_WRITE);
        OK(container_begin(c, &t, &e), e);
        OK(container_txn_add(t, 1, "its own", 512, 12345, &e), e);
        OK(container_txn_write(t, 1, 0, "bits", 4, &e), e);
        OK(test_commit(t, "x", &e), e);
        uint64_t l1 = c->directory.entries[0]->l1_offset, table = c->header.table_offset;
        container_close(c);

        uint8_t *b = simdisk_bytes(ours, &size);
        store_be32(b + HEADER_BYTES, 0x12345678); /* what the program calls its extension */
        store_be64(b + HEADER_AUTOCLEAR, 0);
        if (bad == 1) {
            store_be64(b + l1, 7);
        } else if (bad == 2) {
            store_be64(b + HEADER_BITMAPS_OFFSET, table + 8);
        }
        struct simdisk *disk = simdisk_from(b, size, seed);
        simdisk_free(ours);

        int r = image_adopt(disk, &e);
        assert_int_equal(r, bad ? -EBADMSG : 0);
        if (bad) {
            assert_int_equal(simdisk_changes(disk), 0);
            simdisk_free(disk);
            continue;
        }
        check_clean(image, disk);
        c = test_open(disk, CONTAINER_OPEN_WRITE);
        for (unsigned step = 1; step <= SCRIPT_STEPS; step++) {
            OK(script_step(c, step, &e), e);
        }
        struct container_bitmap_info info;
        container_bitmap_get(c, 0, &info);
        assert_string_equal(info.name, "its own");
        assert_int_equal(info.id, 0);
        assert_null(info.damage);
        uint8_t *bits = test_malloc(cluster_bytes(c));
        enum container_cluster_kind kind;
        OK(container_bitmap_read(c, 0, 0, bits, &kind, &e), e);
        assert_memory_equal(bits, "bits", 4);
        test_free(bits);
        container_close(c);
        check_clean(image, disk);
        simdisk_free(disk);
    }
}

/* Writes the header as QEMU does when it has a bit to clear: its own extensions first, ours behind,
 * byte 104 and those after it zero. */
static void rewrite_as_qemu(struct simdisk *disk)
{
    CLEANUP(header_deinit) struct header h = {0};
    uint64_t size, at = HEADER_BYTES;
    uint8_t *b = simdisk_bytes(disk, &size);

    read_header(disk, &h);
    uint8_t *block = test_calloc(1, UINT64_C(1) << h.cluster_bits);
    memcpy(block, h.fixed, HEADER_BYTES);
    memset(block + HEADER_BITMAPS, 0, 8);
    store_be64(block + HEADER_AUTOCLEAR, 0);
    store_be32(block + at, EXTENSION_FEATURE_NAMES);
    store_be32(block + at + 4, 384);
    at += 8 + 384;
    memcpy(block + at, h.block + HEADER_BYTES, 8 + PRIVATE_BYTES);
    at += 8 + PRIVATE_BYTES + 8;
    memcpy(block + at, "backing", 7);
    store_be64(block + HEADER_BACKING_OFFSET, at);
    store_be32(block + HEADER_BACKING_LENGTH, 7);
    memcpy(b, block, at + 7);
    test_free(block);
}

/* The first commit over such a header is as safe as any other. */
static void crash_after_qemu(void **state)
{
    struct error e;
    bool stopped = true;

    (void)state;
    for (uint64_t stop = 1; stopped; stop++) {
        struct simdisk *made = test_container(13, seed), *disk;
        uint64_t size;
        struct container *c = test_open(made, CONTAINER_OPEN_WRITE);
        OK(script_step(c, 1, &e), e);
        uint64_t digest = test_digest(c);
        container_close(c);
        rewrite_as_qemu(made);
        uint8_t *b = simdisk_bytes(made, &size);
        disk = simdisk_from(b, size, seed + stop);
        simdisk_free(made);

        simdisk_stop_at(disk, stop);
        bool done = false;
        if (container_open(simdisk_file(disk), CONTAINER_OPEN_WRITE, &c, &e) == 0) {
            done = script_step(c, 2, &e) == 0;
            container_close(c);
        }
        stopped = simdisk_stopped(disk);
        for (unsigned tear = 0; tear < 8; tear++) {
            CLEANUP(header_deinit) struct header h = {0};
            struct simdisk *found = simdisk_crash(disk, SIMDISK_TEAR, seed + stop * 100 + tear);
            read_header(found, &h);
            assert_true(h.has_private && h.private_crc_good);
            assert_int_equal(h.backing_bytes, 7);
            assert_memory_equal(h.backing_name, "backing", 7);
            c = test_open(found, CONTAINER_OPEN_WRITE);
            unsigned seen = script_seen(c);
            assert_true(seen == 2 || (seen == 1 && !done));
            assert_true(seen == 2 || test_digest(c) == digest);
            if (seen == 1) {
                OK(script_step(c, 2, &e), e);
            }
            container_close(c);
            struct container_check_report report = test_check(found, true);
            assert_int_equal(report.corruptions, 0);
            simdisk_free(found);
        }
        simdisk_free(disk);
    }
}

/* Rewritten again and again, the header leaves QEMU its room. */
static void headers_do_not_grow(void **state)
{
    struct error e;
    uint64_t size, longest = 0;

    (void)state;
    struct simdisk *disk = test_container(13, seed);
    for (unsigned round = 0; round < 40; round++) {
        struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
        OK(test_commit_state(c, "x", &e), e);
        assert_true(c->header.block_bytes <= cluster_bytes(c) / 2);
        longest = max_u64(longest, c->header.block_bytes);
        container_close(c);
        /* What QEMU keeps of it, padding and all: the same, with a bit cleared. */
        uint8_t *b = simdisk_bytes(disk, &size);
        if (round == 0) {
            rewrite_as_qemu(disk);
        } else {
            memset(b + HEADER_BITMAPS, 0, 8);
            store_be64(b + HEADER_AUTOCLEAR, 0);
        }
    }
    assert_true(longest > 1024);
    simdisk_free(disk);
}

/* An image that QEMU alone has had is not written to by accident. */
static void unprepared(void **state)
{
    struct container *c;
    struct error e;

    (void)state;
    for (size_t i = 0; i < images_count; i++) {
        struct simdisk *disk = image_disk(&images[i], seed);
        assert_int_equal(container_open(simdisk_file(disk), CONTAINER_OPEN_WRITE, &c, &e),
                         -ENOTSUP);
        assert_non_null(strstr(e.text, "bitmapctl container create --internal"));
        assert_int_equal(container_open(simdisk_file(disk), 0, &c, &e), -ENOTSUP);
        assert_int_equal(simdisk_changes(disk), 0);
        simdisk_free(disk);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_image),
        cmocka_unit_test(crash_anywhere),
        cmocka_unit_test(failures),
        cmocka_unit_test(disk_full),
        cmocka_unit_test(unprepared),
        cmocka_unit_test(crash_at_work),
        cmocka_unit_test(foreign_bitmaps),
        cmocka_unit_test(crash_after_qemu),
        cmocka_unit_test(headers_do_not_grow),
    };

    if (!images_can_be_made()) {
        printf("skipped: no qemu-img and qemu-io here\n");
        return 77;
    }
    seed = simdisk_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
