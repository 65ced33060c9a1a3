/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Each limit that container.h names: what is at it works, and is there when the
 * container is opened again; what is one past it is refused with words, whether
 * it is asked for or found in a file, and nothing has changed.
 */
#include "tests/common/layout.h"
#include "tests/container/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static uint64_t seed;

/* A fresh container and a transaction in it. */
struct bench {
    struct simdisk *disk;
    struct container *c;
    struct container_txn *t;
};

static void bench_begin(struct bench *b, uint32_t cluster_bits)
{
    struct error e;

    b->disk = test_container(cluster_bits, seed);
    b->c = test_open(b->disk, CONTAINER_OPEN_WRITE);
    OK(container_begin(b->c, &b->t, &e), e);
}

/* Commits, and opens what was committed. */
static void bench_reopen(struct bench *b)
{
    struct error e;

    OK(test_commit(b->t, "x", &e), e);
    container_close(b->c);
    struct container_check_report report = test_check(b->disk, true);
    assert_int_equal(report.corruptions + report.leaks, 0);
    b->c = test_open(b->disk, CONTAINER_OPEN_WRITE);
}

/* The call was refused, with @words among others: its transaction cannot commit, and all is as
 * before. */
static void assert_refused(struct bench *b, int r, int expected, const struct error *e,
                           const char *words)
{
    struct error again;

    assert_int_equal(r, expected);
    if (!strstr(e->text, words)) {
        fail_msg("found \"%s\", expected \"%s\" in it", e->text, words);
    }
    assert_int_equal(test_commit(b->t, "y", &again), -EINVAL);
    container_abort(b->t);
    OK(container_begin(b->c, &b->t, &again), again);
}

static void bench_end(struct bench *b)
{
    container_close(b->c);
    simdisk_free(b->disk);
}

/* Found in a file: bitmap 0 is damaged by what the words say, and nothing else is. */
static void assert_damaged(struct bench *b, const char *words)
{
    struct container_bitmap_info info;
    uint64_t size;
    uint8_t *bytes = simdisk_bytes(b->disk, &size);

    layout_seal(bytes, size);
    struct container *c = test_open(b->disk, 0);
    container_bitmap_get(c, 0, &info);
    assert_non_null(info.damage);
    if (!strstr(info.damage, words)) {
        fail_msg("found \"%s\", expected \"%s\" in it", info.damage, words);
    }
    container_close(c);
}

static uint8_t *first_entry(struct bench *b)
{
    struct layout layout;
    uint64_t size;
    uint8_t *bytes = simdisk_bytes(b->disk, &size);

    layout_find(bytes, size, &layout);
    assert_true(layout.entries > 0);
    return bytes + layout.table.at;
}

static void refused_to_open(struct file *file, int expected, const char *words)
{
    struct container *c;
    struct error e = {{0}};

    assert_int_equal(container_open(file, CONTAINER_OPEN_WRITE, &c, &e), expected);
    if (!strstr(e.text, words)) {
        fail_msg("found \"%s\", expected \"%s\" in it", e.text, words);
    }
}

/* ---- header ---- */

/* At the limits: test_geometry.c. */
static void cluster_bits(void **state)
{
    const uint32_t past[] = {CONTAINER_CLUSTER_BITS_MIN - 1, CONTAINER_CLUSTER_BITS_MAX + 1, 32,
                             UINT32_MAX};
    uint64_t size;
    struct error e;

    (void)state;
    for (size_t i = 0; i < sizeof past / sizeof past[0]; i++) {
        const struct container_create_options options = {.cluster_bits = past[i]};
        struct simdisk *disk = simdisk_new(seed);
        assert_int_equal(container_format(simdisk_file(disk), &options, &e), -EINVAL);
        assert_non_null(strstr(e.text, "expected 9 to 21"));
        assert_int_equal(simdisk_changes(disk), 0);
        simdisk_free(disk);

        disk = test_container(12, seed);
        uint8_t *bytes = simdisk_bytes(disk, &size);
        memset(bytes + 3 * 4096, 0, 512); /* no mirror to fall back on */
        store_be32(bytes + HEADER_CLUSTER_BITS, past[i]);
        refused_to_open(simdisk_file(disk), -EBADMSG, "expected 9 to 21");
        simdisk_free(disk);
    }
}

static void refcount_order(void **state)
{
    struct simdisk *disk = test_container(12, seed);
    uint64_t size;
    uint8_t *bytes = simdisk_bytes(disk, &size);

    (void)state;
    memset(bytes + 3 * 4096, 0, 512);
    store_be32(bytes + HEADER_REFCOUNT_ORDER, CONTAINER_REFCOUNT_ORDER_MAX + 1);
    refused_to_open(simdisk_file(disk), -EBADMSG, "expected 0 to 6");
    simdisk_free(disk);
}

/* ---- bitmaps ---- */

static void bitmaps(void **state)
{
    struct bench b;
    struct error e;
    struct container_info info;
    char name[32];
    int r;

    (void)state;
    bench_begin(&b, 9);
    for (uint64_t id = 1; id <= CONTAINER_BITMAPS_MAX; id++) {
        (void)snprintf(name, sizeof name, "d/%u", (unsigned)id);
        OK(container_txn_add(b.t, id, name, 65536, 1, &e), e);
    }
    bench_reopen(&b);
    OK(container_begin(b.c, &b.t, &e), e);
    r = container_txn_add(b.t, 70000, "d/one more", 65536, 1, &e);
    assert_refused(&b, r, -ENOSPC, &e, "65535 bitmaps, as many as it can");
    /* One goes, one comes. */
    OK(container_txn_remove(b.t, 4711, &e), e);
    OK(container_txn_add(b.t, 70000, "d/one more", 65536, 1, &e), e);
    bench_reopen(&b);
    container_get_info(b.c, &info);
    assert_int_equal(info.bitmaps, CONTAINER_BITMAPS_MAX);
    uint32_t index;
    assert_int_equal(container_bitmap_find(b.c, 4711, &index), -ENOENT);
    assert_int_equal(container_bitmap_find(b.c, 70000, &index), 0);
    container_close(b.c);

    uint64_t size;
    uint8_t *bytes = simdisk_bytes(b.disk, &size);
    store_be32(bytes + HEADER_BYTES + 8 + PRIVATE_FIELDS, CONTAINER_BITMAPS_MAX + 1);
    layout_seal(bytes, size);
    refused_to_open(simdisk_file(b.disk), -EBADMSG, "found 65536, expected at most 65535");
    simdisk_free(b.disk);
}

static void names(void **state)
{
    char name[CONTAINER_NAME_BYTES_MAX + 2];
    struct bench b;
    struct error e;
    struct container_bitmap_info info;
    int r;

    (void)state;
    memset(name, 'n', sizeof name);
    name[CONTAINER_NAME_BYTES_MAX + 1] = '\0';
    bench_begin(&b, 9);
    r = container_txn_add(b.t, 1, name, 512, 1, &e);
    assert_refused(&b, r, -EINVAL, &e, "found 1024 bytes, expected 1 to 1023");
    r = container_txn_add(b.t, 1, "", 512, 1, &e);
    assert_refused(&b, r, -EINVAL, &e, "found 0 bytes, expected 1 to 1023");
    name[CONTAINER_NAME_BYTES_MAX] = '\0';
    for (unsigned i = 0; i < 1000; i++) {
        name[0] = (char)('a' + i % 26);
        name[1] = (char)('a' + i / 26 % 26);
        name[CONTAINER_NAME_BYTES_MAX - 1] = (char)('a' + i / 676);
        OK(container_txn_add(b.t, 1 + i, name, 512, 1, &e), e);
    }
    bench_reopen(&b);
    container_bitmap_get(b.c, 999, &info);
    assert_int_equal(info.name_bytes, CONTAINER_NAME_BYTES_MAX);
    assert_string_equal(info.name, name);
    OK(container_begin(b.c, &b.t, &e), e);
    name[CONTAINER_NAME_BYTES_MAX] = 'n';
    r = container_txn_update(b.t, 1, name, 0, &e);
    assert_refused(&b, r, -EINVAL, &e, "found 1024 bytes, expected 1 to 1023");
    container_close(b.c);
    store_be16(first_entry(&b) + TABLE_NAME_LENGTH, CONTAINER_NAME_BYTES_MAX + 1);
    assert_damaged(&b, "name length: found 1024, expected 1 to 1023");
    simdisk_free(b.disk);
}

static void granularity(void **state)
{
    const uint32_t past[] = {0, 1, CONTAINER_GRANULARITY_MIN / 2, 513, 1536, UINT32_MAX};
    struct bench b;
    struct error e;

    (void)state;
    bench_begin(&b, 9);
    for (size_t i = 0; i < sizeof past / sizeof past[0]; i++) {
        int r = container_txn_add(b.t, 1, "d/x", past[i], 1, &e);
        assert_refused(&b, r, -EINVAL, &e, "expected a power of two from 512 to 2 GiB");
    }
    OK(container_txn_add(b.t, 1, "d/least", CONTAINER_GRANULARITY_MIN, 1, &e), e);
    OK(container_txn_add(b.t, 2, "d/most", CONTAINER_GRANULARITY_MAX, 1, &e), e);
    bench_reopen(&b);
    container_close(b.c);
    for (size_t i = 0; i < sizeof past / sizeof past[0]; i++) {
        store_be32(first_entry(&b) + TABLE_GRANULARITY, past[i]);
        assert_damaged(&b, "expected a power of two from 512 to 2 GiB");
    }
    simdisk_free(b.disk);
}

static void bitmap_bytes(void **state)
{
    /* 2^32 granules, and one sector more. */
    const uint64_t most = CONTAINER_BITMAP_BYTES_MAX * 8;
    const uint64_t largest = most * (CONTAINER_GRANULARITY_MAX / 512);
    struct bench b;
    struct error e;
    int r;

    (void)state;
    bench_begin(&b, 16);
    r = container_txn_add(b.t, 1, "d/x", 512, 0, &e);
    assert_refused(&b, r, -EINVAL, &e, "found 0 sectors, expected at least 1");
    r = container_txn_add(b.t, 1, "d/x", 512, most + 1, &e);
    assert_refused(&b, r, -EINVAL, &e, "expected at most 536870912");
    r = container_txn_add(b.t, 1, "d/x", CONTAINER_GRANULARITY_MAX, largest + 1, &e);
    assert_refused(&b, r, -EINVAL, &e, "expected at most 536870912");
    r = container_txn_add(b.t, 1, "d/x", CONTAINER_GRANULARITY_MAX, UINT64_MAX, &e);
    assert_refused(&b, r, -EINVAL, &e, "expected at most 536870912");
    OK(container_txn_add(b.t, 1, "d/most", 512, most, &e), e);
    OK(container_txn_add(b.t, 2, "d/largest", CONTAINER_GRANULARITY_MAX, largest, &e), e);
    OK(container_txn_add(b.t, 3, "d/grows", 512, 1, &e), e);
    OK(container_txn_update(b.t, 3, NULL, most, &e), e);
    bench_reopen(&b);
    OK(container_begin(b.c, &b.t, &e), e);
    r = container_txn_update(b.t, 3, NULL, most + 1, &e);
    assert_refused(&b, r, -EINVAL, &e, "expected at most 536870912");
    container_close(b.c);
    store_be64(first_entry(&b) + TABLE_SECTORS, most + 1);
    assert_damaged(&b, "expected at most 536870912");
    store_be64(first_entry(&b) + TABLE_SECTORS, UINT64_MAX);
    assert_damaged(&b, "expected at most 536870912");
    simdisk_free(b.disk);
}

/* ---- state ---- */

static void state_bytes(void **state)
{
    struct container_commit_options options = {.applied_seq = 7,
                                               .state_bytes = CONTAINER_STATE_BYTES_MAX + 1};
    uint8_t *payload = test_calloc(1, CONTAINER_STATE_BYTES_MAX + 1);
    struct container_info info;
    const void *found;
    struct bench b;
    struct error e;
    size_t bytes;
    uint64_t size;

    (void)state;
    payload[CONTAINER_STATE_BYTES_MAX - 1] = 0x77;
    options.state = payload;
    bench_begin(&b, 16);
    int r = container_commit(b.t, &options, NULL, &e);
    assert_refused(&b, r, -EFBIG, &e, "found 268435457 bytes, expected at most 268435456");
    options.state_bytes--;
    OK(container_commit(b.t, &options, NULL, &e), e);
    container_close(b.c);
    b.c = test_open(b.disk, 0);
    container_state(b.c, &found, &bytes);
    assert_int_equal(bytes, CONTAINER_STATE_BYTES_MAX);
    assert_memory_equal(found, payload, bytes);
    container_close(b.c);

    uint8_t *image = simdisk_bytes(b.disk, &size);
    uint8_t *data = image + HEADER_BYTES + 8;
    uint8_t *blob = image + load_be64(data + PRIVATE_STATE_OFFSET);
    store_be64(data + PRIVATE_STATE_LENGTH, load_be64(data + PRIVATE_STATE_LENGTH) + 1);
    store_le64(blob + STATE_LENGTH, load_le64(blob + STATE_LENGTH) + 1);
    store_le64(blob + STATE_PAYLOAD_LENGTH, CONTAINER_STATE_BYTES_MAX + 1);
    layout_seal(image, size);
    b.c = test_open(b.disk, 0);
    container_get_info(b.c, &info);
    assert_non_null(strstr(info.state_damage, "found 268435457, expected at most 268435456"));
    bench_end(&b);
    test_free(payload);
}

/* ---- the file ---- */

/* A container of 512-byte clusters at the front of a sparse file. */
static struct container *open_sparse(int fd, uint32_t order, uint64_t file_bytes)
{
    struct container *c;
    struct error e;
    struct file *file = test_open_file(fd);

    test_format(file, 9);
    test_set_refcount_order(file, order);
    assert_int_equal(file_truncate(file, file_bytes), 0);
    OK(container_open(file, CONTAINER_OPEN_WRITE, &c, &e), e);
    return c;
}

/* All free clusters below @end are taken, whoever may have them. */
static void fill_up(struct container *c, uint64_t end)
{
    for (uint64_t i = c->space.lowest; i < end; i++) {
        if (c->space.refs[i] == 0) {
            space_ref(&c->space, i, 1);
        }
    }
}

/* A commit of so many clusters of bits. */
static int write_clusters(struct container *c, uint64_t id, uint32_t n, struct error *e)
{
    struct container_txn *t;
    char name[32];

    (void)snprintf(name, sizeof name, "d/%u", (unsigned)id);
    OK(container_begin(c, &t, e), *e);
    int r = container_txn_add(t, id, name, 512, UINT64_C(4096) * n, e);
    for (uint32_t i = 0; r == 0 && i < n; i++) {
        r = container_txn_write(t, id, i, "x", 1, e);
    }
    if (r == 0) {
        r = test_commit(t, "x", e);
    }
    if (r < 0) {
        container_abort(t);
    }
    return r;
}

/*
 * The refcount table is written anew, in one piece, whenever blocks are added.
 * So the last of them are added while there still is one: with it and them, a
 * commit takes all clusters before @end, as nearly as can be.
 */
static void cover_all(struct container *c, uint64_t id, uint64_t end)
{
    uint64_t start = end - CONTAINER_REFCOUNT_TABLE_BYTES_MAX / 512;
    struct error e;

    container_set_max_size(c, end * 512);
    fill_up(c, start);
    while (write_clusters(c, id, 1, &e) == -ENOSPC) {
        assert_true(end - start < 17000);
        start -= 10;
        space_unref(&c->space, start, 10);
    }
    container_set_max_size(c, 0);
}

static void clusters(void **state)
{
    int fd = test_real_file();
    struct error e;

    (void)state;
    struct container *c = open_sparse(fd, 4, CONTAINER_CLUSTERS_MAX * 512);
    fill_up(c, CONTAINER_CLUSTERS_MAX - 40000); /* the refcount table needs room, too */
    OK(write_clusters(c, 9, 1, &e), e);
    cover_all(c, 8, CONTAINER_CLUSTERS_MAX - 40);
    fill_up(c, CONTAINER_CLUSTERS_MAX - 40);
    OK(write_clusters(c, 1, 4, &e), e);
    uint64_t last = c->directory.entries[2]->slots[3].where & SLOT_CLUSTER;
    assert_true(last >= CONTAINER_CLUSTERS_MAX - 40);
    uint64_t digest = test_digest(c);
    assert_int_equal(write_clusters(c, 2, 40, &e), -ENOSPC);
    assert_non_null(strstr(e.text, "the container is full"));
    assert_int_equal(test_digest(c), digest);
    /* What was kept back for it: a commit that frees. */
    struct container_txn *t;
    OK(container_begin(c, &t, &e), e);
    OK(container_txn_zero(t, 1, 0, &e), e);
    OK(test_commit(t, "x", &e), e);
    container_close(c);

    struct file *file = test_open_file(fd);
    OK(container_open(file, CONTAINER_OPEN_WRITE, &c, &e), e);
    assert_null(c->directory.entries[2]->damage);
    container_close(c);
    file = test_open_file(fd);
    assert_int_equal(file_truncate(file, CONTAINER_CLUSTERS_MAX * 512 + 1), 0);
    refused_to_open(file, -EFBIG, "has 268435457 clusters, this program handles 268435456");
    file_close(file);
    (void)close(fd);
}

/* With the smallest clusters and the widest counters, the table is full long before the file. */
static void refcount_table_bytes(void **state)
{
    const uint64_t covered = CONTAINER_REFCOUNT_TABLE_BYTES_MAX / 8 * 64; /* clusters */
    int fd = test_real_file();
    struct error e;

    (void)state;
    struct container *c = open_sparse(fd, 6, covered * 512);
    /* The table grows to all that it can have. */
    fill_up(c, covered - 40000);
    OK(write_clusters(c, 1, 10, &e), e);
    assert_int_equal(c->refcounts.table_clusters << 9, CONTAINER_REFCOUNT_TABLE_BYTES_MAX);
    cover_all(c, 8, covered - 30);
    fill_up(c, covered - 30);
    OK(write_clusters(c, 2, 3, &e), e);
    uint64_t digest = test_digest(c);
    assert_int_equal(write_clusters(c, 3, 100, &e), -ENOSPC);
    assert_non_null(strstr(e.text,
                           "a refcount table of 8388608 bytes, the longest there is, counts "
                           "clusters up to byte 34359738368"));
    assert_int_equal(test_digest(c), digest);
    container_close(c);

    struct file *file = test_open_file(fd);
    OK(container_open(file, CONTAINER_OPEN_WRITE, &c, &e), e);
    assert_int_equal(test_digest(c), digest);
    container_close(c);
    file = test_open_file(fd);
    uint8_t block[512];
    assert_int_equal(file_read(file, block, sizeof block, 0), 0);
    store_be32(block + HEADER_REFCOUNT_TABLE_CLUSTERS, 16385);
    store_be64(block + HEADER_BYTES + 8 + PRIVATE_MIRROR_OFFSET, 0); /* it stays as it is */
    layout_seal(block, sizeof block);
    assert_int_equal(file_write(file, block, sizeof block, 0), 0);
    refused_to_open(file, -EBADMSG, "found 16385 clusters, expected 1 to 16384");
    file_close(file);
    (void)close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cluster_bits),
        cmocka_unit_test(refcount_order),
        cmocka_unit_test(bitmaps),
        cmocka_unit_test(names),
        cmocka_unit_test(granularity),
        cmocka_unit_test(bitmap_bytes),
        cmocka_unit_test(state_bytes),
        cmocka_unit_test(clusters),
        cmocka_unit_test(refcount_table_bytes),
    };

    seed = simdisk_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
