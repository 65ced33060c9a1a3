/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What all tests of the container share (support.h).
 */
#include "tests/container/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct uuid test_uuid(uint8_t first)
{
    struct uuid uuid;

    for (size_t i = 0; i < sizeof uuid.bytes; i++) {
        uuid.bytes[i] = (uint8_t)(first + i);
    }
    return uuid;
}

void test_format(struct file *file, uint32_t cluster_bits)
{
    struct container_create_options options = {
        .cluster_bits = cluster_bits,
        .uuid = test_uuid(0x10),
        .boot_id = test_uuid(0x30),
        .identity = {.inode = 42, .birth_time_ns = UINT64_C(1700000000123456789)},
    };
    struct error error;

    OK(container_format(file, &options, &error), error);
}

struct simdisk *test_container(uint32_t cluster_bits, uint64_t seed)
{
    struct simdisk *disk = simdisk_new(seed);

    test_format(simdisk_file(disk), cluster_bits);
    return disk;
}

static int no_sync(struct file *file)
{
    (void)file;
    return 0;
}

int test_real_file(void)
{
    char path[] = "/tmp/bitmapd-test-XXXXXX";
    int fd = mkstemp(path);

    assert_true(fd >= 0);
    assert_int_equal(unlink(path), 0);
    return fd;
}

struct file *test_open_file(int fd)
{
    static struct file_ops ops;
    struct file *file;
    struct error error;
    char path[64];

    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    OK(file_open_posix(path, FILE_WRITE, &file, NULL, &error), error);
    ops = *file->ops;
    ops.datasync = no_sync;
    file->ops = &ops;
    return file;
}

void test_set_refcount_order(struct file *file, uint32_t order)
{
    struct header h = {0};
    struct error error;
    uint64_t size, entry;

    assert_int_equal(file_size(file, &size), 0);
    OK(header_read(file, size, 0, &h, &error), error);
    store_be32(h.fixed + HEADER_REFCOUNT_ORDER, order);
    OK(header_build(&h, &error), error);
    uint64_t cluster = UINT64_C(1) << h.cluster_bits;
    uint8_t *block = test_calloc(1, cluster);
    for (uint64_t i = 0; i < size / cluster; i++) {
        refcount_set(block, order, i, 1);
    }
    assert_int_equal(file_read(file, &entry, sizeof entry, h.refcount_table_offset), 0);
    assert_int_equal(file_write(file, block, cluster, load_be64(&entry)), 0);
    assert_int_equal(file_write(file, h.block, h.block_bytes, h.private.mirror_offset), 0);
    assert_int_equal(file_write(file, h.block, h.block_bytes, 0), 0);
    assert_int_equal(file_datasync(file), 0);
    test_free(block);
    header_deinit(&h);
}

void test_lengthen_header(struct simdisk *disk, uint32_t length)
{
    struct header h = {0};
    struct error error;
    uint64_t size;
    uint8_t *image = simdisk_bytes(disk, &size);

    OK(header_read(simdisk_file(disk), size, 0, &h, &error), error);
    h.fixed = realloc(h.fixed, length);
    assert_non_null(h.fixed);
    memset(h.fixed + h.length, 0xcc, length - h.length);
    h.length = length;
    OK(header_build(&h, &error), error);
    memcpy(image, h.block, h.block_bytes);
    memcpy(image + h.private.mirror_offset, h.block, h.block_bytes);
    assert_int_equal(file_write(simdisk_file(disk), image, size, 0), 0);
    assert_int_equal(file_datasync(simdisk_file(disk)), 0);
    header_deinit(&h);
}

struct container *test_open(struct simdisk *disk, unsigned flags)
{
    struct container *container;
    struct error error;

    OK(container_open(simdisk_file(disk), flags, &container, &error), error);
    return container;
}

int test_commit(struct container_txn *txn, const char *state, struct error *error)
{
    struct container_commit_options options = {
        .state = state,
        .state_bytes = strlen(state),
        .applied_seq = 7,
        .boot_id = test_uuid(0x30),
        .identity = {.inode = 42, .birth_time_ns = 43},
    };
    static uint64_t commits;

    commits++;
    memcpy(options.commit_id.bytes, &commits, sizeof commits);
    return container_commit(txn, &options, NULL, error);
}

int test_commit_state(struct container *container, const char *state, struct error *error)
{
    struct container_txn *txn;
    int r = container_begin(container, &txn, error);

    if (r == 0) {
        r = test_commit(txn, state, error);
        if (r < 0) {
            container_abort(txn);
        }
    }
    return r;
}

uint64_t test_digest(struct container *container)
{
    struct container_info info;
    uint64_t digest = 0;
    const void *payload;
    size_t bytes;

    container_get_info(container, &info);
    assert_string_equal(info.state_damage, "");
    container_state(container, &payload, &bytes);
    digest = hash_id(digest ^ crc32c(0, payload, bytes) ^ ((uint64_t)bytes << 32));
    uint8_t *buffer = test_malloc(info.cluster_size);
    for (uint32_t i = 0; i < info.bitmaps; i++) {
        struct container_bitmap_info b;
        container_bitmap_get(container, i, &b);
        assert_null(b.damage);
        digest = hash_id(digest ^ b.id);
        digest = hash_id(digest ^ b.sectors);
        digest = hash_id(digest ^ b.granularity);
        digest = hash_id(digest ^ hash_name(b.name, b.name_bytes));
        for (uint32_t k = 0; k < b.l1_entries; k++) {
            enum container_cluster_kind kind;
            struct error error;
            OK(container_bitmap_read(container, i, k, buffer, &kind, &error), error);
            if (kind == CONTAINER_DATA) {
                digest =
                    hash_id(digest ^ ((uint64_t)k << 32) ^ crc32c(0, buffer, info.cluster_size));
            }
        }
    }
    test_free(buffer);
    return digest;
}

void test_pattern(uint8_t *bytes, size_t length, uint64_t id, uint32_t l1_index,
                  uint32_t generation)
{
    uint64_t state = id * 1000003 + (uint64_t)l1_index * 10007 + generation;

    for (size_t i = 0; i < length; i++) {
        bytes[i] = (uint8_t)simdisk_random(&state);
    }
    if (length > 0) {
        bytes[0] |= 1;
    }
}

static void show_finding(void *opaque, bool corruption, const char *text)
{
    if (*(bool *)opaque || corruption) {
        printf("%s: %s\n", corruption ? "corruption" : "leak", text);
    }
}

struct container_check_report test_check(struct simdisk *disk, bool show)
{
    struct container_check_report report = {0};
    struct error error;
    uint64_t changes = simdisk_changes(disk);

    int r = container_check(simdisk_file(disk), show_finding, &show, &report, &error);
    if (r == -EBADMSG) {
        /* A header that cannot be read leaves nothing to count. */
        report.corruptions = 1;
    } else {
        OK(r, error);
    }
    assert_int_equal(simdisk_changes(disk), changes);
    return report;
}

void test_check_sound(struct simdisk *disk)
{
    assert_int_equal(test_check(disk, false).corruptions, 0);
}

static void count_but_header(void *opaque, bool corruption, const char *text)
{
    if (corruption && strncmp(text, "header at offset 0: it is damaged; its mirror", 45) != 0) {
        printf("%s\n", text);
        ++*(unsigned *)opaque;
    }
}

void test_check_sound_but_header(struct simdisk *disk)
{
    struct container_check_report report;
    struct error error;
    unsigned corruptions = 0;

    OK(container_check(simdisk_file(disk), count_but_header, &corruptions, &report, &error), error);
    assert_int_equal(corruptions, 0);
}
