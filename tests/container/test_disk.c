/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Hostile bytes in the structures of an internal container's disk, and disks
 * that have come to use clusters of ours, as after another program's repair.
 * The first end in a refusal with words and an untouched file; the second cost
 * what was in the clusters, and never a byte of the disk.
 */
#include "tests/container/images.h"

#include <stdio.h>
#include <stdlib.h>

static uint64_t seed;

enum outcome {
    REFUSED, /* -EBADMSG, nothing is written */
    SOUND,   /* all is well */
    COUNT,   /* a refcount of the disk is too low, which is for qemu-img to repair */
    STATE,   /* state_damage */
    MIRROR,  /* goes on, with a new mirror */
    DAMAGE,  /* the bitmap with bits is damaged, the other one is not */
};

/* Of the image that is damaged. */
static struct places {
    uint64_t header; /* 0 */
    uint64_t cluster;
    uint64_t l1, l2, l2_of_snapshot, snapshots, l1_of_snapshot;
    uint64_t refcount_table, refcount_block;
    uint64_t bitmaps_extension, directory, bitmap_table;
    uint64_t mirror, blob, table, our_l1, bits;
    uint64_t file;
    uint64_t free; /* a data cluster of the disk */
} at;

static struct simdisk *original;

/* An internal container with two bitmaps, one with bits; notes where things are. */
static struct simdisk *make(const char *name)
{
    struct simdisk *disk = image_disk(image_named(name), seed);
    struct container_txn *t;
    struct error e;
    uint64_t size;

    OK(image_adopt(disk, &e), e);
    struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
    OK(container_begin(c, &t, &e), e);
    OK(container_txn_add(t, 1, "d/a", 65536, 1 << 20, &e), e);
    OK(container_txn_add(t, 2, "d/b", 65536, 1 << 20, &e), e);
    OK(container_txn_write(t, 1, 0, "bits", 4, &e), e);
    OK(test_commit(t, "the payload", &e), e);

    const uint8_t *b = simdisk_bytes(disk, &size);
    memset(&at, 0, sizeof at);
    at.cluster = cluster_bytes(c);
    at.l1 = c->header.l1_offset;
    at.l2 = load_be64(b + at.l1) & DISK_OFFSET_MASK;
    for (uint64_t i = 0; at.free == 0; i += 8) {
        at.free = load_be64(b + at.l2 + i) & DISK_OFFSET_MASK;
    }
    at.snapshots = c->header.snapshots_offset;
    if (c->header.snapshots > 0) {
        at.l1_of_snapshot = load_be64(b + at.snapshots);
        at.l2_of_snapshot = load_be64(b + at.l1_of_snapshot) & DISK_OFFSET_MASK;
    }
    at.refcount_table = c->refcounts.table_offset;
    at.refcount_block = c->refcounts.blocks[0].offset;
    const struct extension *x = header_extension(&c->header, EXTENSION_BITMAPS);
    if (x) {
        at.directory = load_be64(x->data + BITMAPS_DIRECTORY_OFFSET);
        at.bitmap_table = load_be64(b + at.directory);
        for (uint64_t i = 120; at.bitmaps_extension == 0; i += 8) {
            at.bitmaps_extension = load_be32(b + i) == EXTENSION_BITMAPS ? i + 8 : 0;
        }
    }
    at.mirror = c->header.private.mirror_offset;
    at.blob = c->header.private.state_offset;
    at.table = c->header.table_offset;
    at.our_l1 = c->directory.entries[0]->l1_offset;
    at.bits = (uint64_t)c->directory.entries[0]->slots[0].where * at.cluster;
    at.file = size;
    container_close(c);
    return disk;
}

/* Makes the header's CRCs right, here and in the mirror. */
static void seal(struct simdisk *disk)
{
    uint64_t size;
    uint8_t *b = simdisk_bytes(disk, &size), *x = b + HEADER_BYTES + 8;
    CLEANUP(header_deinit) struct header h = {0};

    if (header_read(simdisk_file(disk), size, 0, &h, NULL) < 0) {
        return; /* refused before any CRC is looked at */
    }
    store_be32(x + PRIVATE_HEADER_CRC, 0);
    store_be32(x + PRIVATE_CRC, 0);
    store_be32(x + PRIVATE_CRC, crc32c(0, x, PRIVATE_BYTES));
    store_be32(x + PRIVATE_HEADER_CRC, crc32c(0, b, h.block_bytes));
    memcpy(b + at.mirror, b, h.block_bytes);
}

/* What was found is committed upon; the disk's clusters stay as they are. */
static void use(struct simdisk *disk, struct container *c)
{
    struct container_txn *t;
    struct error e;
    uint64_t size;
    uint8_t *now = simdisk_bytes(disk, &size), *before = test_malloc(size);
    uint64_t clusters = c->space.clusters;
    uint8_t *refs = test_malloc(clusters);

    memcpy(before, now, size);
    memcpy(refs, c->space.refs, clusters);
    for (unsigned round = 0; round < 3; round++) {
        OK(container_begin(c, &t, &e), e);
        OK(container_txn_add(t, 100 + round,
                             round == 0   ? "x"
                             : round == 1 ? "y"
                                          : "z",
                             512, 99, &e),
           e);
        OK(container_txn_write(t, 100 + round, 0, "bits", 4, &e), e);
        if (directory_find_id(&c->directory, 1) && round == 1) {
            OK(container_txn_write(t, 1, 0, "bite", 4, &e), e);
        }
        OK(test_commit(t, "the payload", &e), e);
    }
    now = simdisk_bytes(disk, &size);
    for (uint64_t i = 1; i < clusters; i++) {
        uint64_t n = min_u64(at.cluster, at.file - i * at.cluster);
        if (refs[i] == REFS_PINNED && i * at.cluster < at.file &&
            memcmp(now + i * at.cluster, before + i * at.cluster, n) != 0) {
            fail_msg("cluster %u of the disk was written to", (unsigned)i);
        }
    }
    test_free(before);
    test_free(refs);
}

struct corruption {
    const char *what;
    const uint64_t *base;
    unsigned offset, bytes;
    uint64_t value;
    const uint64_t *plus; /* added to the value, NULL: 0 */
    enum outcome outcome;
};

#define COPIED DISK_COPIED

static const struct corruption of_snapshots[] = {
    {"L1 entry misaligned", &at.l1, 0, 8, COPIED | 512, &at.l2, REFUSED},
    {"L1 entry: reserved bit", &at.l1, 0, 8, COPIED | 2, &at.l2, REFUSED},
    {"L1 entry far out", &at.l1, 0, 8, COPIED | UINT64_C(1) << 50, NULL, REFUSED},
    {"L1 entry: itself", &at.l1, 0, 8, COPIED, &at.l1, REFUSED},
    {"L1 entry: snapshot table", &at.l1, 0, 8, COPIED, &at.snapshots, REFUSED},
    {"L1 entry: refcount block", &at.l1, 0, 8, COPIED, &at.refcount_block, REFUSED},
    {"L1 entry: data", &at.l1, 0, 8, COPIED, &at.free, REFUSED},
    {"L2 entry misaligned", &at.l2, 8, 8, COPIED | 512, &at.free, REFUSED},
    {"L2 entry: reserved bit 1", &at.l2, 8, 8, COPIED | 2, &at.free, REFUSED},
    {"L2 entry: reserved bit 56", &at.l2, 8, 8, UINT64_C(1) << 56, &at.free, REFUSED},
    {"L2 entry far out", &at.l2, 8, 8, COPIED | UINT64_C(1) << 50, NULL, REFUSED},
    {"L2 entry at the file's end", &at.l2, 8, 8, COPIED, &at.file, REFUSED},
    {"L2 entry: itself", &at.l2, 8, 8, COPIED, &at.l2, REFUSED},
    {"L2 entry: an L1 table", &at.l2, 8, 8, COPIED, &at.l1_of_snapshot, REFUSED},
    {"L2 entry: snapshot table", &at.l2, 8, 8, COPIED, &at.snapshots, REFUSED},
    {"L2 entry: refcount block", &at.l2, 8, 8, COPIED, &at.refcount_block, REFUSED},
    {"L2 entry: compressed, far out", &at.l2, 8, 8, DISK_COMPRESSED | UINT64_C(1) << 40, NULL,
     REFUSED},
    {"L2 entry: compressed, in the header", &at.l2, 8, 8, DISK_COMPRESSED | 512, NULL, REFUSED},
    {"L2 entry: compressed and copied", &at.l2, 8, 8, COPIED | DISK_COMPRESSED, &at.free, REFUSED},
    {"L2 entry: compressed", &at.l2, 8, 8, DISK_COMPRESSED, &at.free, COUNT},
    {"L2 entry: a cluster twice", &at.l2, 8, 8, 0, &at.free, COUNT},
    {"L2 entry gone", &at.l2, 8, 8, 0, NULL, SOUND},
    {"L2 entry: zeros", &at.l2, 8, 8, 1, NULL, SOUND},
    {"L2 entry of a snapshot: the header", &at.l2_of_snapshot, 8, 8, 1, &at.header, SOUND},
    {"L2 entry of a snapshot far out", &at.l2_of_snapshot, 8, 8, UINT64_C(1) << 45, NULL, REFUSED},
    {"snapshot's L1 misaligned", &at.snapshots, 0, 8, 8, &at.l1_of_snapshot, REFUSED},
    {"snapshot's L1 far out", &at.snapshots, 0, 8, UINT64_C(1) << 60, NULL, REFUSED},
    {"snapshot's L1: the active one", &at.snapshots, 0, 8, 0, &at.l1, REFUSED},
    {"snapshot's L1: the snapshot table", &at.snapshots, 0, 8, 0, &at.snapshots, REFUSED},
    {"snapshot's L1 huge", &at.snapshots, 8, 4, 0xffffffff, NULL, REFUSED},
    {"snapshot's L1 longer than the file", &at.snapshots, 8, 4, 1 << 20, NULL, REFUSED},
    {"snapshot's L1 empty", &at.snapshots, 8, 4, 0, NULL, SOUND},
    {"snapshot's extra data huge", &at.snapshots, 36, 4, 0xffffffff, NULL, REFUSED},
    {"header: snapshot table misaligned", &at.header, 64, 8, 8, &at.snapshots, REFUSED},
    {"header: snapshot table far out", &at.header, 64, 8, ~UINT64_C(4095), NULL, REFUSED},
    {"header: snapshot table in the header", &at.header, 64, 8, 0, NULL, REFUSED},
    {"header: snapshots", &at.header, 60, 4, 65536, NULL, REFUSED},
    {"header: too many snapshots", &at.header, 60, 4, 0xffffffff, NULL, REFUSED},
    {"header: L1 misaligned", &at.header, 40, 8, 8, &at.l1, REFUSED},
    {"header: L1 far out", &at.header, 40, 8, ~UINT64_C(4095), NULL, REFUSED},
    {"header: L1 in the header", &at.header, 40, 8, 0, NULL, REFUSED},
    {"header: L1 in the mirror", &at.header, 40, 8, 0, &at.mirror, REFUSED},
    {"header: L1 too short", &at.header, 36, 4, 0, NULL, REFUSED},
    {"header: L1 huge", &at.header, 36, 4, 0xffffffff, NULL, REFUSED},
    {"header: L1 longer than the file", &at.header, 36, 4, 1 << 20, NULL, REFUSED},
    {"header: virtual size", &at.header, 24, 8, UINT64_MAX, NULL, REFUSED},

    {"L2 entry: our mirror", &at.l2, 8, 8, COPIED, &at.mirror, MIRROR},
    {"L2 entry: our state", &at.l2, 8, 8, COPIED, &at.blob, STATE},
    {"L2 entry: our table", &at.l2, 8, 8, COPIED, &at.table, STATE},
    {"L2 entry: our L1 table", &at.l2, 8, 8, COPIED, &at.our_l1, DAMAGE},
    {"L2 entry: our bits", &at.l2, 8, 8, COPIED, &at.bits, DAMAGE},
    {"L2 entry: compressed, our bits", &at.l2, 8, 8, DISK_COMPRESSED | 100, &at.bits, DAMAGE},
};

static const struct corruption of_bitmaps[] = {
    {"bitmaps: their number", &at.bitmaps_extension, 0, 4, 65536, NULL, REFUSED},
    {"bitmaps: one more", &at.bitmaps_extension, 0, 4, 3, NULL, REFUSED},
    {"bitmaps: directory huge", &at.bitmaps_extension, 8, 8, UINT64_MAX, NULL, REFUSED},
    {"bitmaps: directory short", &at.bitmaps_extension, 8, 8, 24, NULL, REFUSED},
    {"bitmaps: directory misaligned", &at.bitmaps_extension, 16, 8, 8, &at.directory, REFUSED},
    {"bitmaps: directory far out", &at.bitmaps_extension, 16, 8, UINT64_C(1) << 60, NULL, REFUSED},
    {"bitmaps: directory in L1", &at.bitmaps_extension, 16, 8, 0, &at.l1, REFUSED},
    {"bitmaps: table misaligned", &at.directory, 0, 8, 8, &at.bitmap_table, REFUSED},
    {"bitmaps: table far out", &at.directory, 0, 8, UINT64_C(1) << 60, NULL, REFUSED},
    {"bitmaps: table in its directory", &at.directory, 0, 8, 0, &at.directory, REFUSED},
    {"bitmaps: table huge", &at.directory, 8, 4, 0xffffffff, NULL, REFUSED},
    {"bitmaps: extra data huge", &at.directory, 20, 4, 0xffffffff, NULL, REFUSED},
    {"bitmaps: entry far out", &at.bitmap_table, 0, 8, UINT64_C(1) << 50, NULL, REFUSED},
    {"bitmaps: entry misaligned", &at.bitmap_table, 0, 8, 512, &at.free, REFUSED},
    {"bitmaps: entry reserved bit", &at.bitmap_table, 0, 8, 2, NULL, REFUSED},
    {"bitmaps: entry: its table", &at.bitmap_table, 0, 8, 0, &at.bitmap_table, REFUSED},
    {"bitmaps: entry: all ones", &at.bitmap_table, 0, 8, 1, NULL, SOUND},
    {"bitmaps: entry: our bits", &at.bitmap_table, 0, 8, 0, &at.bits, DAMAGE},
    {"bitmaps: out of date", &at.header, 88, 8, AUTOCLEAR_OURS, NULL, SOUND},
    {"bitmaps: out of date and wrong", &at.header, 88, 8, AUTOCLEAR_OURS, NULL, SOUND},
};

static void look(struct container *c, const char *what, enum outcome outcome)
{
    struct container_info info;

    container_get_info(c, &info);
    if ((info.state_damage[0] != '\0') != (outcome == STATE)) {
        fail_msg("%s: state damage: \"%s\"", what, info.state_damage);
    }
    assert_int_equal(c->mirror_lost, outcome == MIRROR);
    for (uint32_t i = 0; i < info.bitmaps; i++) {
        struct container_bitmap_info b;
        uint8_t *bits = test_malloc(at.cluster);
        enum container_cluster_kind kind;
        struct error e;
        int r = container_bitmap_read(c, i, 0, bits, &kind, &e);
        container_bitmap_get(c, i, &b);
        bool damaged = outcome == STATE || (outcome == DAMAGE && i == 0);
        if ((b.damage != NULL) != damaged || (r < 0) != damaged) {
            fail_msg("%s: bitmap %u: %s", what, i, b.damage ? b.damage : "no damage");
        }
        if (r == 0 && i == 0) {
            assert_int_equal(kind, CONTAINER_DATA);
            assert_memory_equal(bits, "bits", 4);
        }
        test_free(bits);
    }
}

static void show(void *opaque, bool corruption, const char *text)
{
    printf("%s: %s: %s\n", (const char *)opaque, corruption ? "corruption" : "leak", text);
}

static void count_losses(void *opaque, const char *text)
{
    (void)text;
    ++*(unsigned *)opaque;
}

/* Which clusters are the disk's, as an open finds them. */
static uint8_t *disk_map(struct simdisk *disk, uint64_t *ret_clusters)
{
    struct container *c = test_open(disk, 0);
    uint8_t *map = test_malloc(c->space.clusters);

    memcpy(map, c->space.refs, c->space.clusters);
    *ret_clusters = c->space.clusters;
    container_close(c);
    return map;
}

/* What is wrong with ours is put right (bits that are where the disk has come to be may
 * be whole), what is wrong with the disk is left to those who can; and
 * never is a byte of it, or a count, another one. */
static void one_repair(const struct corruption *k, const uint8_t *bytes, uint64_t size)
{
    struct simdisk *disk = simdisk_from(bytes, size, seed);
    struct container_repair_report report;
    unsigned losses = 0;
    struct container_repair_calls calls = {.lost = count_losses, .opaque = &losses};
    struct error e = {{0}};
    uint64_t clusters;

    int r = container_repair(simdisk_file(disk), &calls, &report, &e);
    if (k->outcome == REFUSED) {
        assert_true(r == -EBADMSG || r == -ENOTSUP);
        assert_true(r == -EBADMSG || strstr(e.text, "qemu-img check -r all"));
        assert_int_equal(simdisk_changes(disk), 0);
        simdisk_free(disk);
        return;
    }
    OK(r, e);
    if ((report.left.corruptions > 0) != (k->outcome == COUNT) ||
        (losses > 0 && k->outcome != DAMAGE) != (k->outcome == STATE)) {
        (void)container_check(simdisk_file(disk), show, (void *)(uintptr_t)k->what, &report.left,
                              &e);
        fail_msg("%s: the repair leaves %u corruptions and %u losses", k->what,
                 (unsigned)report.left.corruptions, losses);
    }
    uint8_t *map = disk_map(disk, &clusters);
    const uint8_t *now = simdisk_bytes(disk, &size);
    for (uint64_t i = 1; i < clusters && i * at.cluster < at.file; i++) {
        uint64_t n = min_u64(at.cluster, at.file - i * at.cluster);
        if (map[i] == REFS_PINNED &&
            (memcmp(now + i * at.cluster, bytes + i * at.cluster, n) != 0 ||
             refcount_get(now + at.refcount_block, 4, i) !=
                 refcount_get(bytes + at.refcount_block, 4, i))) {
            fail_msg("%s: cluster %u of the disk is not what it was", k->what, (unsigned)i);
        }
    }
    test_free(map);
    simdisk_free(disk);
}

static void one_corruption(const struct corruption *k)
{
    struct container_check_report report = {0};
    struct container *c;
    struct error e = {{0}};
    uint64_t size, value = k->value + (k->plus ? *k->plus : 0);
    uint8_t *b = simdisk_bytes(original, &size);
    struct simdisk *disk = simdisk_from(b, size, seed);

    b = simdisk_bytes(disk, &size);
    for (unsigned i = 0; i < k->bytes; i++) {
        b[*k->base + k->offset + i] = (uint8_t)(value >> (8 * (k->bytes - 1 - i)));
    }
    seal(disk);
    uint8_t *before = test_malloc(size);
    memcpy(before, b, size);
    one_repair(k, before, size);

    int r = container_check(simdisk_file(disk), NULL, NULL, &report, &e);
    if (r != (k->base == &at.header && r != 0 ? -EBADMSG : 0)) {
        fail_msg("%s: cannot check: %d, %s", k->what, r, e.text);
    }
    /* Without references to it, something may be leaked; that is no corruption. */
    if (r == 0 && (report.corruptions > 0) != (k->outcome != SOUND)) {
        fail_msg("%s: the check finds %u corruptions", k->what, (unsigned)report.corruptions);
    }
    for (unsigned flags = 0; flags <= CONTAINER_OPEN_WRITE; flags += CONTAINER_OPEN_WRITE) {
        e.text[0] = '\0';
        r = container_open(simdisk_file(disk), flags, &c, &e);
        if (r != (k->outcome == REFUSED ? -EBADMSG : 0)) {
            fail_msg("%s: opened with %d, %s", k->what, r, e.text);
        }
        if (r < 0) {
            assert_true(e.text[0] != '\0');
            assert_int_equal(simdisk_changes(disk), 0);
            assert_memory_equal(simdisk_bytes(disk, &size), before, size);
            continue;
        }
        look(c, k->what, k->outcome);
        if (flags & CONTAINER_OPEN_WRITE) {
            use(disk, c);
        }
        container_close(c);
    }
    if (k->outcome != REFUSED) {
        /* The overlap itself is gone when nothing of ours is there any more. */
        OK(container_check(simdisk_file(disk), NULL, NULL, &report, &e), e);
        if (k->outcome == MIRROR || k->outcome == SOUND) {
            assert_int_equal(report.corruptions, 0);
        }
        c = test_open(disk, 0);
        assert_false(c->mirror_lost);
        container_close(c);
    }
    test_free(before);
    simdisk_free(disk);
}

static void hostile_disk(void **state)
{
    (void)state;
    original = make("snapshots");
    for (size_t i = 0; i < sizeof of_snapshots / sizeof of_snapshots[0]; i++) {
        one_corruption(&of_snapshots[i]);
    }
    simdisk_free(original);
}

static void hostile_bitmaps(void **state)
{
    (void)state;
    original = make("bitmaps of QEMU's");
    for (size_t i = 0; i < sizeof of_bitmaps / sizeof of_bitmaps[0]; i++) {
        one_corruption(&of_bitmaps[i]);
    }
    simdisk_free(original);
}

/* Refcount structures of an image with a disk are never made from nothing.  Where they are, ours
 * has made way. */
static void broken_refcounts(void **state)
{
    static const struct corruption kinds[] = {
        {"table entry far out", &at.refcount_table, 8, 8, UINT64_C(1) << 50, NULL, REFUSED},
        {"table entry misaligned", &at.refcount_table, 8, 8, 1, NULL, REFUSED},
        {"table entry: the disk's data", &at.refcount_table, 8, 8, 0, &at.free, REFUSED},
        {"table entry: our bits", &at.refcount_table, 8, 8, 0, &at.bits, DAMAGE},
        {"table entry: our L1 table", &at.refcount_table, 8, 8, 0, &at.our_l1, DAMAGE},
        {"table entry: our state", &at.refcount_table, 8, 8, 0, &at.blob, STATE},
        {"table entry: the mirror", &at.refcount_table, 8, 8, 0, &at.mirror, MIRROR},
        {"header: no table", &at.header, 56, 4, 0, NULL, REFUSED},
    };

    (void)state;
    original = make("snapshots");
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        uint64_t size, value = kinds[i].value + (kinds[i].plus ? *kinds[i].plus : 0);
        uint8_t *b = simdisk_bytes(original, &size);
        struct simdisk *disk = simdisk_from(b, size, seed);
        b = simdisk_bytes(disk, &size);
        for (unsigned k = 0; k < kinds[i].bytes; k++) {
            b[*kinds[i].base + kinds[i].offset + k] =
                (uint8_t)(value >> (8 * (kinds[i].bytes - 1 - k)));
        }
        seal(disk);
        one_repair(&kinds[i], b, size);
        simdisk_free(disk);
    }
    simdisk_free(original);
}

/* Random bytes where the disk's structures are: a refusal, or a container that leaves them alone.
 */
static void random_bytes(void **state)
{
    static const char *const names[] = {"snapshots", "compressed", "bitmaps of QEMU's"};
    uint64_t random = seed;

    (void)state;
    for (size_t n = 0; n < 3; n++) {
        original = make(names[n]);
        unsigned refused = 0, used = 0;
        for (unsigned round = 0; round < 400; round++) {
            const uint64_t places[] = {at.l1,
                                       at.l2,
                                       at.l2,
                                       at.snapshots,
                                       at.l1_of_snapshot,
                                       at.l2_of_snapshot,
                                       at.directory,
                                       at.bitmap_table,
                                       0};
            uint64_t size;
            struct container *c;
            struct error e;
            uint8_t *b = simdisk_bytes(original, &size);
            struct simdisk *disk = simdisk_from(b, size, seed);
            b = simdisk_bytes(disk, &size);
            for (unsigned i = 0; i <= round % 3; i++) {
                uint64_t where = places[simdisk_random(&random) % 9] +
                                 simdisk_random(&random) % (round % 2 ? 64 : 256);
                if (where < 256) {
                    where = 24 + where % 48; /* the disk's fields */
                }
                b[where] = (uint8_t)simdisk_random(&random);
            }
            seal(disk);
            struct container_check_report report;
            (void)container_check(simdisk_file(disk), NULL, NULL, &report, NULL);
            if (container_open(simdisk_file(disk), CONTAINER_OPEN_WRITE, &c, &e) == 0) {
                if (c->header.cluster_bits == (uint32_t)__builtin_ctzll(at.cluster)) {
                    use(disk, c);
                    used++;
                }
                container_close(c);
            } else {
                assert_true(e.text[0] != '\0');
                assert_int_equal(simdisk_changes(disk), 0);
                refused++;
            }
            simdisk_free(disk);
        }
        printf("%s: %u refused, %u used\n", names[n], refused, used);
        simdisk_free(original);
    }
}

/* The header of an image with a disk is never replaced by one that was found somewhere. */
static void no_search(void **state)
{
    struct container *c;
    struct error e;
    uint64_t size;

    (void)state;
    struct simdisk *made = make("plain");
    uint8_t *b = simdisk_bytes(made, &size);
    struct simdisk *disk = simdisk_from(b, size, seed);
    simdisk_free(made);
    b = simdisk_bytes(disk, &size);
    b[HEADER_VERSION + 3] = 2;
    assert_int_equal(container_open(simdisk_file(disk), CONTAINER_OPEN_WRITE, &c, &e), -EBADMSG);
    b[HEADER_VERSION + 3] = 3;
    b[HEADER_BYTES + 8] ^= 1; /* the extension's own CRC */
    assert_int_equal(container_open(simdisk_file(disk), CONTAINER_OPEN_WRITE, &c, &e), -EBADMSG);
    memset(b, 0, 512); /* not even a trace of it: the mirror is there, but may be old */
    assert_int_equal(container_open(simdisk_file(disk), CONTAINER_OPEN_WRITE, &c, &e), -EBADMSG);
    assert_non_null(strstr(e.text, "mirror"));
    assert_int_equal(simdisk_changes(disk), 0);
    simdisk_free(disk);
}

/* A torn header of ours is another matter: nobody else has written since. */
static void torn_header(void **state)
{
    struct container *c;
    struct container_info info;
    struct error e;
    uint64_t size;

    (void)state;
    struct simdisk *disk = make("backing file");
    uint8_t *b = simdisk_bytes(disk, &size);
    uint8_t name[10];
    uint64_t name_at = load_be64(b + HEADER_BACKING_OFFSET);
    memcpy(name, b + name_at, sizeof name);
    assert_memory_equal(name, "base.qcow2", 10);
    memset(b + name_at, 'x', 4);
    OK(container_open(simdisk_file(disk), CONTAINER_OPEN_WRITE, &c, &e), e);
    container_get_info(c, &info);
    assert_true(info.used_mirror);
    container_close(c);
    assert_memory_equal(simdisk_bytes(disk, &size) + name_at, "base.qcow2", 10);

    /* The same without the bit, as in an image with snapshots; and what another program wrote. */
    struct simdisk *other = make("snapshots");
    b = simdisk_bytes(other, &size);
    assert_int_equal(load_be64(b + HEADER_AUTOCLEAR), 0);
    for (unsigned foreign = 0; foreign < 2; foreign++) {
        b = simdisk_bytes(other, &size);
        b[foreign ? HEADER_COMPATIBLE : 600] ^= 1;
        OK(container_open(simdisk_file(other), 0, &c, &e), e);
        container_get_info(c, &info);
        assert_int_equal(info.used_mirror, !foreign);
        assert_int_equal(info.foreign_write, foreign);
        container_close(c);
        b = simdisk_bytes(other, &size);
        b[foreign ? HEADER_COMPATIBLE : 600] ^= 1;
    }
    /* A refcount of ours that somebody has lowered. */
    refcount_set(b + at.refcount_block, 4, at.blob / at.cluster, 0);
    c = test_open(other, CONTAINER_OPEN_WRITE);
    container_get_info(c, &info);
    assert_true(info.foreign_write);
    container_close(c);
    simdisk_free(other);

    /* But one that says something else of the disk than its mirror is left to people. */
    b = simdisk_bytes(disk, &size);
    b[HEADER_VIRTUAL_SIZE + 5] ^= 1;
    assert_int_equal(container_open(simdisk_file(disk), CONTAINER_OPEN_WRITE, &c, &e), -EBADMSG);
    simdisk_free(disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hostile_disk),     cmocka_unit_test(hostile_bitmaps),
        cmocka_unit_test(broken_refcounts), cmocka_unit_test(random_bytes),
        cmocka_unit_test(no_search),        cmocka_unit_test(torn_header),
    };

    if (!images_can_be_made()) {
        printf("skipped: no qemu-img and qemu-io here\n");
        return 77;
    }
    seed = simdisk_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
