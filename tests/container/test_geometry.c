/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Every cluster size with every refcount width, and in each of them bitmaps of
 * every shape: from one sector to as many bits as a bitmap can have, ending in
 * the middle of a byte, a cluster, an L1 table's cluster.  Each container is
 * filled, changed, opened again, read and checked; once near the file's start,
 * on a simulated disk where that is small enough, and once past 4 GiB of a
 * sparse file.
 */
#include "tests/container/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define SIMULATED_MAX 14u /* cluster_bits */
#define FAR           (UINT64_C(5) << 30)
#define ORDERS        (CONTAINER_REFCOUNT_ORDER_MAX + 1u)
#define GENERATIONS   2u

#ifdef __SANITIZE_ADDRESS__
#define FAR_STEP                                                                     \
    3u /* refcount widths: 1, 8 and 64 bits are enough to find what is out of bounds \
        */
#else
#define FAR_STEP 1u
#endif

static uint64_t seed;

enum unit {
    BITS,     /* a number of granules */
    CLUSTERS, /* … of clusters full of bits */
    TABLES,   /* … of L1 tables' clusters full of clusters of bits */
    MOST,     /* as many as a bitmap can have */
};

/* @count units of bits and @more; of no use where that is more than a bitmap can have. */
static const struct shape {
    const char *name;
    enum unit unit;
    uint64_t count;
    int64_t more;
    uint32_t granularity;
    uint32_t short_by; /* sectors that the last granule has less */
} shapes[] = {
    {"d/one sector", BITS, 1, 0, 512, 0},
    {"d/a sector of a granule", BITS, 1, 0, 1024, 1},
    {"d/thirteen", BITS, 13, 0, 65536, 127},
    {"d/a byte", BITS, 8, 0, 4096, 0},
    {"d/a byte and a bit", BITS, 9, 0, 4096, 0},
    {"d/largest granules", BITS, 77, 0, CONTAINER_GRANULARITY_MAX, 4194303},
    {"d/a cluster but one", CLUSTERS, 1, -1, 512, 0},
    {"d/a cluster", CLUSTERS, 1, 0, 512, 0},
    {"d/a cluster and one", CLUSTERS, 1, 1, 4096, 7},
    {"d/three clusters", CLUSTERS, 3, -5, CONTAINER_GRANULARITY_MAX, 0},
    {"d/a table", TABLES, 1, 0, 512, 0},
    {"d/a table and one", TABLES, 1, 1, 2048, 0},
    {"d/three tables", TABLES, 3, -5, 512, 0},
    {"d/most", MOST, 1, 0, 512, 0},
    {"d/most, of the largest", MOST, 1, 0, CONTAINER_GRANULARITY_MAX, 0},
};

#define SHAPES (sizeof shapes / sizeof shapes[0])

/* A bitmap under test: its id is its shape's number and one. */
struct subject {
    uint64_t granules; /* 0: does not exist here */
    uint64_t sectors;
    uint32_t l1_entries;
    uint32_t at[6];         /* the clusters that get bits, … */
    uint32_t generation[6]; /* … and which; 0: none */
};

struct geometry {
    uint32_t cluster_bits, order;
    struct simdisk *disk; /* NULL: a real file */
    int fd;
    struct subject subjects[SHAPES];
    uint8_t *bits, *found;
};

static struct file *open_file(struct geometry *g)
{
    return g->disk ? simdisk_file(g->disk) : test_open_file(g->fd);
}

static struct container *open_container(struct geometry *g, unsigned flags)
{
    struct container *c;
    struct error error;

    OK(container_open(open_file(g), flags, &c, &error), error);
    return c;
}

static void subject_init(struct subject *s, const struct shape *shape, uint32_t cluster_bits)
{
    const uint64_t most = CONTAINER_BITMAP_BYTES_MAX * 8, cluster = UINT64_C(8) << cluster_bits;
    const uint64_t units[] = {
        [BITS] = 1,
        [CLUSTERS] = cluster,
        [TABLES] = cluster * ((UINT64_C(1) << cluster_bits) / L1_ENTRY_BYTES),
        [MOST] = most,
    };
    uint64_t granules = units[shape->unit] * shape->count + (uint64_t)shape->more;

    *s = (struct subject){0};
    if (granules > most) {
        return;
    }
    s->granules = granules;
    s->sectors = granules * (shape->granularity / 512) - shape->short_by;
    s->l1_entries = (uint32_t)((granules + cluster - 1) / cluster);
    const uint32_t last = s->l1_entries - 1;
    const uint32_t at[] = {0, last / 3, last / 2, last > 64 ? 63 : last, last > 64 ? 64 : 0, last};
    memcpy(s->at, at, sizeof at);
}

/* The whole cluster as it is to be found, its bits cut at the bitmap's end. */
static size_t make_bits(struct geometry *g, const struct subject *s, uint64_t id, uint32_t l1_index,
                        uint32_t generation, uint8_t *bits)
{
    uint64_t cluster = UINT64_C(8) << g->cluster_bits;
    uint64_t here = min_u64(s->granules - l1_index * cluster, cluster);
    size_t bytes = (size_t)((here + 7) / 8);

    memset(bits, 0, (size_t)(cluster / 8));
    /* All of a large cluster would cost more time than it can tell. */
    test_pattern(bits, bytes < 4096 ? bytes : 4096, id, l1_index, generation);
    bits[bytes - 1] |= 1;
    if (here % 8) {
        bits[bytes - 1] &= (uint8_t)((1u << (here % 8)) - 1);
        bits[bytes - 1] |= 1;
    }
    return bytes;
}

static void note(struct subject *s, uint32_t l1_index, uint32_t generation)
{
    for (size_t i = 0; i < 6; i++) { /* several may be the same cluster */
        if (s->at[i] == l1_index) {
            s->generation[i] = generation;
        }
    }
}

/* Bits for all bitmaps in the first generation; changes, and zeros, in the second. */
static void change(struct geometry *g, struct container *c, uint32_t generation)
{
    struct container_txn *t;
    struct error e;

    OK(container_begin(c, &t, &e), e);
    for (size_t i = 0; i < SHAPES; i++) {
        struct subject *s = &g->subjects[i];
        uint64_t id = i + 1;
        if (s->granules == 0) {
            continue;
        }
        if (generation == 1) {
            OK(container_txn_add(t, id, shapes[i].name, shapes[i].granularity, s->sectors, &e), e);
        }
        /* Large clusters are slow to copy, and no different: the first and the last of them. */
        for (size_t k = 0; k < 6; k += generation == 2 || g->cluster_bits > 16 ? 5 : 1) {
            size_t n = make_bits(g, s, id, s->at[k], generation, g->bits);
            OK(container_txn_write(t, id, s->at[k], g->bits, n, &e), e);
            note(s, s->at[k], generation);
        }
        if (generation == 2) {
            OK(container_txn_zero(t, id, s->at[2], &e), e);
            note(s, s->at[2], 0);
        }
    }
    OK(test_commit(t, "a payload", &e), e);
}

static void verify_cluster(struct geometry *g, struct container *c, uint32_t index, size_t shape,
                           uint32_t l1_index, uint32_t generation)
{
    enum container_cluster_kind kind;
    struct error error;

    OK(container_bitmap_read(c, index, l1_index, g->found, &kind, &error), error);
    assert_int_equal(kind, generation ? CONTAINER_DATA : CONTAINER_ZEROS);
    if (generation) {
        (void)make_bits(g, &g->subjects[shape], shape + 1, l1_index, generation, g->bits);
        assert_memory_equal(g->found, g->bits, (size_t)1 << g->cluster_bits);
    }
}

static void verify_bitmap(struct geometry *g, struct container *c, size_t shape)
{
    const struct subject *s = &g->subjects[shape];
    struct container_bitmap_info b;
    uint32_t index, allocated = 0;

    assert_int_equal(container_bitmap_find(c, shape + 1, &index), 0);
    container_bitmap_get(c, index, &b);
    assert_null(b.damage);
    assert_string_equal(b.name, shapes[shape].name);
    assert_int_equal(b.granularity, shapes[shape].granularity);
    assert_int_equal(b.sectors, s->sectors);
    assert_int_equal(b.l1_entries, s->l1_entries);
    for (size_t k = 0; k < 6; k++) {
        bool again = false;
        for (size_t before = 0; before < k; before++) {
            again |= s->at[before] == s->at[k];
        }
        if (!again) {
            verify_cluster(g, c, index, shape, s->at[k], s->generation[k]);
            allocated += s->generation[k] > 0;
        }
    }
    /* The others are zeros; of a million it is enough to ask some. */
    for (uint32_t i = 0; i < s->l1_entries; i += 1 + s->l1_entries / 4096) {
        bool known = false;
        for (size_t k = 0; k < 6; k++) {
            known |= s->at[k] == i;
        }
        if (!known) {
            verify_cluster(g, c, index, shape, i, 0);
        }
    }
    assert_int_equal(b.allocated_clusters, allocated);
}

static void verify(struct geometry *g, struct container *c)
{
    struct container_info info;
    uint32_t n = 0;

    container_get_info(c, &info);
    assert_int_equal(info.cluster_size, UINT32_C(1) << g->cluster_bits);
    assert_int_equal(info.refcount_bits, 1u << g->order);
    assert_string_equal(info.state_damage, "");
    for (size_t i = 0; i < SHAPES; i++) {
        if (g->subjects[i].granules > 0) {
            verify_bitmap(g, c, i);
            n++;
        }
    }
    assert_int_equal(info.bitmaps, n);
}

static void show(void *opaque, bool corruption, const char *text)
{
    const struct geometry *g = opaque;

    print_message("cluster_bits %u, refcount_order %u: %s: %s\n", g->cluster_bits, g->order,
                  corruption ? "corruption" : "leak", text);
}

static void check(struct geometry *g)
{
    struct container_check_report report;
    struct error error;
    struct file *file = open_file(g);

    OK(container_check(file, show, g, &report, &error), error);
    assert_int_equal(report.corruptions + report.leaks, 0);
    file_close(file);
}

/* Takes all clusters up to FAR, so that what is allocated lies past it. */
static struct run hold(struct container *c)
{
    struct run run = {.count = (FAR >> c->header.cluster_bits) - c->space.clusters};

    /* A file of that size, most of it a hole. */
    assert_int_equal(file_truncate(c->file, FAR), 0);
    run.start = c->space.clusters;
    uint64_t start;
    assert_int_equal(space_take(&c->space, run.count, &start), 0);
    space_ref(&c->space, 0, run.start); /* what is free below as well */
    assert_true(start <= run.start);
    run.start = start;
    return run;
}

static void release(struct container *c, const struct run *run, uint64_t below)
{
    struct error error;

    space_unref(&c->space, run->start, run->count);
    space_unref(&c->space, 0, below);
    refcounts_flag_run(&c->refcounts, run, REFCOUNT_LOWER);
    OK(test_commit_state(c, "released", &error), error);
}

/* Every structure of the commit lies past FAR; but for header, mirror and refcounts of old. */
static void assert_far(struct container *c)
{
    assert_true(c->header.table_offset >= FAR);
    assert_true(c->header.private.state_offset >= FAR);
    for (uint32_t i = 0; i < c->directory.n; i++) {
        const struct entry *e = c->directory.entries[i];
        assert_true(e->l1_offset >= FAR);
        for (uint32_t k = 0; e->slots && k < e->l1_entries; k++) {
            uint64_t cluster = e->slots[k].where & SLOT_CLUSTER;
            assert_true(cluster == 0 || cluster << c->header.cluster_bits >= FAR);
        }
    }
}

static void one_geometry(uint32_t cluster_bits, uint32_t order, bool far)
{
    struct geometry g = {.cluster_bits = cluster_bits, .order = order, .fd = -1};

    for (size_t i = 0; i < SHAPES; i++) {
        subject_init(&g.subjects[i], &shapes[i], cluster_bits);
    }
    g.bits = test_malloc((size_t)1 << cluster_bits);
    g.found = test_malloc((size_t)1 << cluster_bits);
    if (!far && cluster_bits <= SIMULATED_MAX) {
        g.disk = simdisk_new(seed);
    } else {
        g.fd = test_real_file();
    }
    struct file *file = open_file(&g);
    test_format(file, cluster_bits);
    test_set_refcount_order(file, order);
    file_close(file);

    struct container *c = open_container(&g, CONTAINER_OPEN_WRITE);
    uint64_t below = c->space.clusters;
    struct run held = {0};
    if (far) {
        held = hold(c);
    }
    for (uint32_t generation = 1; generation <= GENERATIONS; generation++) {
        change(&g, c, generation);
        verify(&g, c);
    }
    if (far) {
        assert_far(c);
        release(c, &held, below);
    }
    container_close(c);
    check(&g);
    c = open_container(&g, CONTAINER_OPEN_WRITE);
    verify(&g, c);
    change(&g, c, 2); /* into what is free now */
    container_close(c);
    check(&g);
    c = open_container(&g, 0);
    verify(&g, c);
    container_close(c);

    simdisk_free(g.disk);
    if (g.fd >= 0) {
        (void)close(g.fd);
    }
    test_free(g.bits);
    test_free(g.found);
}

static void every_geometry(void **state)
{
    (void)state;
    for (uint32_t bits = CONTAINER_CLUSTER_BITS_MIN; bits <= CONTAINER_CLUSTER_BITS_MAX; bits++) {
        for (uint32_t order = 0; order < ORDERS; order++) {
            one_geometry(bits, order, false);
        }
    }
}

static void every_geometry_past_4_gib(void **state)
{
    (void)state;
    for (uint32_t bits = CONTAINER_CLUSTER_BITS_MIN; bits <= CONTAINER_CLUSTER_BITS_MAX; bits++) {
        for (uint32_t order = 0; order < ORDERS; order += FAR_STEP) {
            one_geometry(bits, order, true);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_geometry),
        cmocka_unit_test(every_geometry_past_4_gib),
    };

    seed = simdisk_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
