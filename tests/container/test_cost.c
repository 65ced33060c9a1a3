/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a commit costs: bytes written and calls made, counted below the
 * container, never time.  A commit writes the clusters of bits that changed,
 * the L1 tables they belong to, and metadata whose size is known: bitmap table
 * and state blob, two header blocks, the sectors of refcounts that change.
 * Creating n bitmaps costs n times what one does.
 *
 * With arguments: prints the figures for so many bitmaps, for people.
 */
#include "tests/container/support.h"

#include <stdio.h>
#include <stdlib.h>

#define PAGE UINT64_C(4096)

static uint64_t seed;

/* A simulated disk's file, counted. */
struct meter {
    struct file file;
    struct file *below;
    uint64_t written_bytes;
    uint64_t read_bytes;
    uint64_t writes, reads, syncs, punches;
};

static int meter_read(struct file *file, void *buffer, size_t length, uint64_t offset)
{
    struct meter *m = (struct meter *)file;

    m->reads++;
    m->read_bytes += length;
    return file_read(m->below, buffer, length, offset);
}

static int meter_write(struct file *file, const void *buffer, size_t length, uint64_t offset)
{
    struct meter *m = (struct meter *)file;

    m->writes++;
    m->written_bytes += length;
    return file_write(m->below, buffer, length, offset);
}

static int meter_datasync(struct file *file)
{
    struct meter *m = (struct meter *)file;

    m->syncs++;
    return file_datasync(m->below);
}

static int meter_size(struct file *file, uint64_t *ret_size)
{
    return file_size(((struct meter *)file)->below, ret_size);
}

static int meter_truncate(struct file *file, uint64_t size)
{
    return file_truncate(((struct meter *)file)->below, size);
}

static int meter_allocate(struct file *file, uint64_t offset, uint64_t length)
{
    return file_allocate(((struct meter *)file)->below, offset, length);
}

static int meter_punch(struct file *file, uint64_t offset, uint64_t length)
{
    struct meter *m = (struct meter *)file;

    m->punches++;
    return file_punch(m->below, offset, length);
}

static int meter_identity(struct file *file, struct file_identity *ret)
{
    return file_identity_of(((struct meter *)file)->below, ret);
}

static int meter_descriptor(struct file *file)
{
    return file_descriptor(((struct meter *)file)->below);
}

static void meter_close(struct file *file)
{
    file_close(((struct meter *)file)->below);
}

static const struct file_ops meter_ops = {
    .read = meter_read,
    .write = meter_write,
    .datasync = meter_datasync,
    .size = meter_size,
    .truncate = meter_truncate,
    .allocate = meter_allocate,
    .punch = meter_punch,
    .identity = meter_identity,
    .descriptor = meter_descriptor,
    .close = meter_close,
};

/* A container whose calls are counted. */
struct bench {
    struct meter meter;
    struct simdisk *disk;
    struct container *c;
    struct container_commit_stats stats; /* of the last commit */
};

static void reset(struct bench *b)
{
    b->meter = (struct meter){.file = b->meter.file, .below = b->meter.below};
}

static void bench_open(struct bench *b, uint32_t cluster_bits)
{
    struct error e;

    *b = (struct bench){.meter = {.file = {.ops = &meter_ops}}};
    b->disk = test_container(cluster_bits, seed);
    b->meter.below = simdisk_file(b->disk);
    OK(container_open(&b->meter.file, CONTAINER_OPEN_WRITE, &b->c, &e), e);
}

static void bench_close(struct bench *b)
{
    container_close(b->c);
    simdisk_free(b->disk);
}

static void commit(struct bench *b, struct container_txn *t, const void *state, size_t state_bytes)
{
    static uint64_t commits;
    struct container_commit_options options = {
        .state = state, .state_bytes = state_bytes, .applied_seq = 7};
    struct error e;

    commits++;
    memcpy(options.commit_id.bytes, &commits, sizeof commits);
    OK(container_commit(t, &options, &b->stats, &e), e);
    /* Not a byte more than it says. */
    assert_int_equal(b->stats.bytes_written, b->meter.written_bytes);
}

/* Bitmaps @first … of one chunk each, in one commit; a payload as long as the model's would be. */
static void create(struct bench *b, uint64_t first, uint64_t n, uint64_t sectors)
{
    uint8_t *state = test_calloc(first + n, 48);
    struct container_txn *t;
    struct error e;
    char name[48];

    reset(b);
    OK(container_begin(b->c, &t, &e), e);
    for (uint64_t id = first; id < first + n; id++) {
        (void)snprintf(name, sizeof name, "drive-%u/backup", (unsigned)id);
        OK(container_txn_add(t, id, name, 65536, sectors, &e), e);
    }
    commit(b, t, state, (first + n) * 48);
    test_free(state);
}

/* One byte in each of @n clusters of bits, starting with bitmap @id. */
static void dirty(struct bench *b, uint64_t id, uint32_t l1_entries, uint32_t n, size_t state_bytes)
{
    uint8_t *state = test_calloc(1, state_bytes);
    struct container_txn *t;
    struct error e;
    static uint8_t bits[1];

    bits[0]++;
    bits[0] |= 1;
    reset(b);
    OK(container_begin(b->c, &t, &e), e);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t l1_index = (uint32_t)((uint64_t)i * l1_entries / n);
        OK(container_txn_write(t, id, l1_index, bits, 1, &e), e);
    }
    commit(b, t, state, state_bytes);
    assert_int_equal(b->stats.clusters_written, n);
    test_free(state);
}

static uint64_t pages(uint64_t bytes, uint64_t cluster)
{
    return min_u64((bytes + PAGE - 1) / PAGE * PAGE, (bytes + cluster - 1) / cluster * cluster);
}

/* What a commit has to write but for the bits: L1 tables aside. */
static uint64_t metadata(const struct container *c, size_t state_bytes)
{
    const struct directory *d = &c->directory;

    return pages(table_bytes(d->entries, d->n), cluster_bytes(c)) +
           pages(blob_bytes(d->entries, d->n, state_bytes), cluster_bytes(c)) +
           UINT64_C(2) * 512; /* header and mirror */
}

/* Each change of refcounts touches whole sectors, twice: raised, lowered. */
#define REFCOUNT_SECTORS (UINT64_C(8) * 512)

static void bits_cost_what_changed(void **state)
{
    const uint64_t cluster = UINT64_C(1) << 16;
    const uint32_t l1_entries = 8192; /* 512 MiB of bits */
    struct bench b;

    (void)state;
    bench_open(&b, 16);
    create(&b, 1, 1, UINT64_C(8) * 65536 * l1_entries * 128);
    dirty(&b, 1, l1_entries, 512, 48);
    for (uint32_t n = 1; n <= 512; n *= 8) {
        dirty(&b, 1, l1_entries, n, 48);
        uint64_t bits = n * cluster, tables = pages(8 * l1_entries, cluster);
        uint64_t most = bits + tables + metadata(b.c, 48) + REFCOUNT_SECTORS;
        assert_in_range(b.meter.written_bytes, bits, most);
        assert_int_equal(b.meter.syncs, 2);
        /* Clusters of bits, and few other calls. */
        assert_in_range(b.meter.writes, n, n + 12);
        assert_in_range(b.meter.reads, 0, 4);
    }
    bench_close(&b);
}

/* One chunk of one bitmap among many: its cluster, its table, and what is written at every commit.
 */
static void one_of_many(void **state)
{
    const uint64_t cluster = UINT64_C(1) << 16;
    struct bench b;

    (void)state;
    bench_open(&b, 16);
    create(&b, 1, 1000, 2048);
    dirty(&b, 500, 1, 1, 48000);
    assert_in_range(b.meter.written_bytes, cluster,
                    cluster + PAGE + metadata(b.c, 48000) + REFCOUNT_SECTORS);
    assert_in_range(b.meter.writes, 1, 12);
    assert_in_range(b.meter.reads, 0, 4);
    bench_close(&b);
}

static struct meter create_in_one(uint64_t n, uint32_t cluster_bits)
{
    struct bench b;

    bench_open(&b, cluster_bits);
    create(&b, 1, n, 2048);
    struct meter meter = b.meter;
    bench_close(&b);
    return meter;
}

/* Ten times as many cost ten times as much, and a bit less. */
static void creation_is_linear(void **state)
{
    (void)state;
    struct meter few = create_in_one(1000, 9), many = create_in_one(10000, 9);
    assert_in_range(many.written_bytes, 0, few.written_bytes * 10 + 65536);
    assert_in_range(many.writes, 0, few.writes * 10 + 64);
    assert_in_range(many.reads, 0, few.reads * 10 + 64);
    assert_in_range(many.syncs, 2, 3); /* one for the new refcount blocks */
}

/* Opening reads each structure once. */
static void opening_is_linear(void **state)
{
    (void)state;
    for (uint64_t n = 100; n <= 10000; n *= 10) {
        struct bench b;
        struct error e;
        uint64_t size;
        bench_open(&b, 9);
        create(&b, 1, n, 2048);
        container_close(b.c);
        reset(&b);
        b.meter.below = simdisk_file(b.disk);
        OK(container_open(&b.meter.file, 0, &b.c, &e), e);
        (void)simdisk_bytes(b.disk, &size);
        assert_in_range(b.meter.read_bytes, 0, size + 65536);
        assert_in_range(b.meter.reads, n, n + n / 8 + 64);
        bench_close(&b);
    }
}

static void print_figures(uint64_t n)
{
    struct bench b;

    bench_open(&b, 16);
    create(&b, 1, n, 2048);
    printf("%llu bitmaps at once: %llu writes, %llu bytes\n", (unsigned long long)n,
           (unsigned long long)b.meter.writes, (unsigned long long)b.meter.written_bytes);
    for (uint32_t chunks = 0; chunks <= 1; chunks++) {
        if (chunks > 0) {
            dirty(&b, 1, 1, chunks, n * 48);
        } else {
            create(&b, n + 1, 1, 2048);
        }
        printf("%s among them: %llu writes, %llu bytes, of these %llu of metadata\n",
               chunks ? "one changed chunk" : "one more", (unsigned long long)b.meter.writes,
               (unsigned long long)b.meter.written_bytes,
               (unsigned long long)metadata(b.c, n * 48));
    }
    bench_close(&b);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bits_cost_what_changed),
        cmocka_unit_test(one_of_many),
        cmocka_unit_test(creation_is_linear),
        cmocka_unit_test(opening_is_linear),
    };

    seed = simdisk_seed();
    for (int i = 1; i < argc; i++) {
        print_figures(strtoull(argv[i], NULL, 10));
    }
    return argc > 1 ? 0 : cmocka_run_group_tests(tests, NULL, NULL);
}
