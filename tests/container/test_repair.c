/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the check finds, each kind made on purpose, and what a repair makes of
 * it: what it keeps, what it says is lost, that it is done once, and that the
 * power may fail at any of its writes.  (test_hostile.c and test_fuzz.c repair
 * all that they damage, too.)
 */
#include "tests/container/hostile.h"

#include <stdio.h>
#include <stdlib.h>

/* All lines of a check or repair in one text. */
struct told {
    char text[65536];
    unsigned losses;
};

static void tell(void *opaque, bool corruption, const char *text)
{
    struct told *told = opaque;
    size_t n = strlen(told->text);

    (void)snprintf(told->text + n, sizeof told->text - n, "%s: %s\n",
                   corruption ? "corruption" : "leak", text);
}

static void tell_loss(void *opaque, const char *text)
{
    struct told *told = opaque;
    size_t n = strlen(told->text);

    (void)snprintf(told->text + n, sizeof told->text - n, "loss: %s\n", text);
    told->losses++;
}

static int run_repair(struct simdisk *disk, struct told *told,
                      struct container_repair_report *report, struct error *e)
{
    const struct container_repair_calls calls = {.found = tell, .lost = tell_loss, .opaque = told};

    *told = (struct told){.text = ""};
    return container_repair(simdisk_file(disk), &calls, report, e);
}

/* Where a case damages what, and what is said of it. */
static uint8_t *b; /* the bytes */

static uint64_t refcount_block(void)
{
    return load_be64(b + load_be64(b + HEADER_REFCOUNT_TABLE_OFFSET));
}

static void leak(void)
{
    refcount_set(b + refcount_block(), 4, image_bytes / CLUSTER + 3, 1);
}

static void low_refcount(void)
{
    refcount_set(b + refcount_block(), 4, at_bits / CLUSTER, 0);
}

static void high_refcount(void)
{
    refcount_set(b + refcount_block(), 4, at_bits / CLUSTER, 7);
}

static void refcount_block_destroyed(void)
{
    for (unsigned i = 0; i < CLUSTER; i++) {
        b[refcount_block() + i] = (uint8_t)(i * 37 + 1);
    }
}

static void refcount_table_destroyed(void)
{
    uint64_t table = load_be64(b + HEADER_REFCOUNT_TABLE_OFFSET);
    for (unsigned i = 0; i < CLUSTER; i++) {
        b[table + i] = (uint8_t)(i * 37 + 1);
    }
}

static void refcount_table_over_bits(void)
{
    store_be64(b + load_be64(b + HEADER_REFCOUNT_TABLE_OFFSET) + 16, at_bits);
}

static void refcount_table_over_l1(void)
{
    store_be64(b + load_be64(b + HEADER_REFCOUNT_TABLE_OFFSET) + 16, at_l1[2]);
}

static void refcount_table_out_of_file(void)
{
    store_be64(b + load_be64(b + HEADER_REFCOUNT_TABLE_OFFSET) + 8, UINT64_C(1) << 40);
}

static void header_fields(void)
{
    memset(b + HEADER_BITMAPS, 0, 8); /* as QEMU leaves them */
    b[HEADER_AUTOCLEAR] &= 0x7f;
}

static void header_destroyed(void)
{
    memset(b, 0xee, CLUSTER);
    /* Half a header before this must not look like an image with a disk, which is left alone. */
    memset(b + HEADER_VIRTUAL_SIZE, 0, 8);
    memset(b + HEADER_L1_ENTRIES, 0, 4);
}

static void mirror_torn(void)
{
    b[at_mirror + 300] ^= 1; /* behind the block: not part of it */
    b[at_mirror + 200] ^= 1;
}

static void mirror_older(void)
{
    struct header h = {0};
    struct error e;
    struct simdisk *disk = simdisk_from(b, image_bytes, seed);

    OK(header_read(simdisk_file(disk), image_bytes, 0, &h, &e), e);
    h.private.applied_seq--;
    OK(header_build(&h, &e), e);
    memcpy(b + at_mirror, h.block, h.block_bytes);
    header_deinit(&h);
    simdisk_free(disk);
}

static void mirror_in_a_bitmap(void)
{
    store_be64(b + HEADER_BYTES + 8 + PRIVATE_MIRROR_OFFSET, at_bits);
    layout_seal(b, image_bytes);
}

static void reserved_flags(void)
{
    b[HEADER_BYTES + 8 + PRIVATE_FLAGS] = 0x80;
    layout_seal(b, image_bytes);
}

static void bits_damaged(void)
{
    b[at_bits + 5] ^= 4;
}

static void tail_bits(void)
{
    /* One sector less than the bits say. */
    store_be64(b + at_table + TABLE_SECTORS, 4096 * 70 - 1);
    uint64_t cluster = load_be64(b + at_l1[0] + 69 * 8) & L1_OFFSET_MASK;
    b[cluster + CLUSTER - 1] |= 0x80;
    uint64_t at = at_state + STATE_HEADER_BYTES + STATE_ENTRY_BYTES;
    /* … of the last cluster that has any: its CRC is made right. */
    uint32_t n = load_le32(b + at_state + STATE_HEADER_BYTES + STATE_ENTRY_CRCS);
    store_le32(b + at + 4 * (n - 1), crc32c(0, b + cluster, CLUSTER));
    layout_seal(b, image_bytes);
}

static void l1_crc(void)
{
    b[at_l1[1] + 7] ^= 1;
}

static void l1_reserved(void)
{
    b[at_l1[1]] |= 0x40;
    layout_seal(b, image_bytes);
}

static void l1_misaligned(void)
{
    store_be64(b + at_table + TABLE_L1_OFFSET, at_l1[0] + 8);
    layout_seal(b, image_bytes);
}

static void l1_entries(void)
{
    store_be32(b + at_table + TABLE_L1_ENTRIES, 69);
    layout_seal(b, image_bytes);
}

static void impossible_size(void)
{
    store_be64(b + at_table + TABLE_SECTORS, UINT64_MAX);
    layout_seal(b, image_bytes);
}

static void granularity(void)
{
    store_be32(b + at_table + TABLE_GRANULARITY, 1000);
    layout_seal(b, image_bytes);
}

/* The first bitmap names a cluster of the second: CRCs tell whose it is. */
static void cluster_shared(void)
{
    memcpy(b + at_l1[0], b + at_l1[1], 8);
    layout_seal(b, image_bytes);
}

/* Both have the same bits there, so both are right. */
static void cluster_shared_alike(void)
{
    memcpy(b + at_l1[0], b + at_l1[1], 8);
    memcpy(b + at_state + STATE_HEADER_BYTES + STATE_ENTRY_BYTES,
           b + at_state + STATE_HEADER_BYTES + STATE_ENTRY_BYTES +
               (STATE_ENTRY_BYTES + 4u * load_le32(b + at_state + STATE_HEADER_BYTES + 16)),
           4);
    layout_seal(b, image_bytes);
}

static void cluster_in_l1(void)
{
    store_be64(b + at_l1[0], at_l1[1]);
    layout_seal(b, image_bytes);
}

static void name_twice(void)
{
    uint32_t entry = (TABLE_NAME + 3 + 7) & ~7u;
    b[at_table + entry + TABLE_NAME + 2] = b[at_table + TABLE_NAME + 2];
    layout_seal(b, image_bytes);
}

static void name_with_nul(void)
{
    b[at_table + TABLE_NAME + 1] = 0;
    layout_seal(b, image_bytes);
}

static void no_name(void)
{
    store_be16(b + at_table + TABLE_NAME_LENGTH, 0);
    layout_seal(b, image_bytes);
}

static void blob_destroyed(void)
{
    b[at_state + 100] ^= 1;
}

static void blob_out_of_file(void)
{
    store_be64(b + HEADER_BYTES + 8, UINT64_C(1) << 40);
    layout_seal(b, image_bytes);
}

static void table_destroyed(void)
{
    memset(b + at_table + 40, 0xaa, 40);
}

static const struct {
    const char *name;
    void (*damage)(void);
    const char *found; /* a part of what the check says */
    const char *lost;  /* of what the repair says is lost; NULL: nothing */
    unsigned good;     /* bit per bitmap: its digest is what it was */
    bool state;        /* is lost */
} cases[] = {
    {"leak", leak, "leak: refcount of clusters", NULL, 7, false},
    {"low refcount", low_refcount, "found 0, expected 1\n", NULL, 7, false},
    {"high refcount", high_refcount, "found 7, expected 1 (leaked)", NULL, 7, false},
    {"refcount block", refcount_block_destroyed, "leak: refcount of", NULL, 7, false},
    {"refcount table", refcount_table_destroyed, "corruption: refcount table entry", NULL, 7,
     false},
    {"refcount table over bits", refcount_table_over_bits, "use by something else", NULL, 7, false},
    {"refcount table over L1", refcount_table_over_l1, "in use by another structure", NULL, 7,
     false},
    {"refcount table far out", refcount_table_out_of_file, "within the file's", NULL, 7, false},
    {"header fields", header_fields, "nb_dirty_bitmaps and dirty_bitmaps_offset", NULL, 7, false},
    {"header", header_destroyed, "corruption: header at offset 0: it is damaged", NULL, 7, false},
    {"mirror torn", mirror_torn, "leak: mirror at offset", NULL, 7, false},
    {"mirror older", mirror_older, "it differs from the header", NULL, 7, false},
    {"mirror in a bitmap", mirror_in_a_bitmap, "in use by something else", "count as dirty", 5,
     false},
    {"reserved flags", reserved_flags, "expected reserved bits clear", NULL, 7, false},
    {"bits", bits_damaged, "cluster of bits 0 at offset", "1 clusters of bits were damaged", 5,
     false},
    {"tail bits", tail_bits, "bits set beyond the last granule", NULL, 6, false},
    {"L1 CRC", l1_crc, "L1 table at offset", "all of it counts as dirty", 5, false},
    {"L1 reserved bit", l1_reserved, "expected reserved bits clear", "counts as dirty", 5, false},
    {"L1 misaligned", l1_misaligned, "expected a multiple of 512", "counts as dirty", 6, false},
    {"L1 entries", l1_entries, "L1 entries: found 69, expected 70", "counts as dirty", 6, false},
    {"size", impossible_size, "bytes of bits, expected at most", "removed", 6, false},
    {"granularity", granularity, "granularity: found 1000", "removed", 6, false},
    {"cluster shared", cluster_shared, "in use by something else too", "1 clusters of bits", 6,
     false},
    {"cluster shared alike", cluster_shared_alike, "in use by something else too", NULL, 6, false},
    {"cluster in an L1", cluster_in_l1, "in use by something else too", "1 clusters of bits", 6,
     false},
    {"name twice", name_twice, "found the name twice", "it is called", 5, false},
    {"name with NUL", name_with_nul, "found a NUL byte", "it is called \"d?", 6, false},
    {"no name", no_name, "name length: found 0", "it is called \"unnamed\"", 6, false},
    {"blob", blob_destroyed, "state blob at offset", "the state: ", 0, true},
    {"blob far out", blob_out_of_file, "state blob: found offset", "the state: ", 0, true},
    {"bitmap table", table_destroyed, "bitmap table at offset", "the state: ", 0, true},
};

#define CASES (sizeof cases / sizeof cases[0])

static struct simdisk *damaged(size_t i)
{
    struct simdisk *disk = simdisk_from(image, image_bytes, seed);
    uint64_t size;

    b = simdisk_bytes(disk, &size);
    cases[i].damage();
    struct simdisk *synced = simdisk_from(b, size, seed);
    simdisk_free(disk);
    return synced;
}

/* Which bitmaps are what they were; with the state, all are unknown. */
static unsigned good_ones(struct container *c)
{
    unsigned good = 0;

    for (uint32_t i = 0; i < c->directory.n; i++) {
        bool vouched;
        uint64_t digest = hostile_digest(c, i, &vouched);
        for (unsigned k = 0; k < N && vouched; k++) {
            good |= digest == digests[k] ? 1u << k : 0;
        }
    }
    return good;
}

static void after_repair(size_t i, struct simdisk *disk)
{
    struct container *c = test_open(disk, 0);
    const struct private_extension *p = &c->header.private;
    struct header was = {0};
    struct error e;
    struct simdisk *before = simdisk_from(image, image_bytes, seed);

    OK(header_read(simdisk_file(before), image_bytes, 0, &was, &e), e);
    /* So that the journal beside it still fits. */
    assert_memory_equal(&p->uuid, &was.private.uuid, sizeof p->uuid);
    assert_memory_equal(&p->commit_id, &was.private.commit_id, sizeof p->commit_id);
    assert_int_equal(p->applied_seq, was.private.applied_seq);
    assert_int_equal(p->clean, was.private.clean);
    assert_int_equal(p->identity.inode, was.private.identity.inode);
    header_deinit(&was);
    simdisk_free(before);

    if ((c->state_damage[0] != '\0') != cases[i].state || good_ones(c) != cases[i].good) {
        fail_msg("%s: after the repair: state \"%s\", good bitmaps 0x%x", cases[i].name,
                 c->state_damage, good_ones(c));
    }
    const void *payload;
    size_t bytes;
    container_state(c, &payload, &bytes);
    assert_int_equal(bytes, cases[i].state ? 0 : 11);
    container_close(c);
}

static void every_kind(void **state)
{
    struct container_repair_report report;
    struct told told;
    struct error e;

    (void)state;
    for (size_t i = 0; i < CASES; i++) {
        struct simdisk *disk = damaged(i);
        struct container_check_report found;

        told = (struct told){.text = ""};
        OK(container_check(simdisk_file(disk), tell, &told, &found, &e), e);
        assert_int_equal(simdisk_changes(disk), 0);
        if (!strstr(told.text, cases[i].found)) {
            fail_msg("%s: the check says:\n%s", cases[i].name, told.text);
        }
        OK(run_repair(disk, &told, &report, &e), e);
        if (report.left.corruptions + report.left.leaks > 0 || report.repaired == 0 ||
            (report.losses > 0) != (cases[i].lost != NULL) || report.losses != told.losses ||
            (cases[i].lost && !strstr(told.text, cases[i].lost))) {
            fail_msg("%s: the repair says:\n%s", cases[i].name, told.text);
        }
        after_repair(i, disk);

        uint64_t changes = simdisk_changes(disk);
        OK(run_repair(disk, &told, &report, &e), e);
        assert_string_equal(told.text, "");
        assert_int_equal(report.repaired, 0);
        assert_int_equal(simdisk_changes(disk), changes);
        simdisk_free(disk);
    }
}

/* The power fails at any write of a repair: another one comes to the same. */
static void crash_anywhere(void **state)
{
    static const enum simdisk_fate fates[] = {SIMDISK_DROP, SIMDISK_KEEP, SIMDISK_TEAR,
                                              SIMDISK_TEAR};
    struct container_repair_report report;
    struct told told;
    struct error e;
    unsigned stops = 0;

    (void)state;
    for (size_t i = 0; i < CASES; i++) {
        bool stopped = true;
        for (uint64_t stop = 1; stopped; stop++, stops++) {
            struct simdisk *disk = damaged(i);
            simdisk_stop_at(disk, stop);
            (void)run_repair(disk, &told, &report, &e);
            stopped = simdisk_stopped(disk);
            for (size_t f = 0; f < sizeof fates / sizeof fates[0]; f++) {
                struct simdisk *found = simdisk_crash(disk, fates[f], seed + stop * 16 + f);
                int r = run_repair(found, &told, &report, &e);
                if (r < 0 || report.left.corruptions + report.left.leaks > 0) {
                    fail_msg("%s, stopped at %u: %s", cases[i].name, (unsigned)stop,
                             r < 0 ? e.text : told.text);
                }
                after_repair(i, found);
                simdisk_free(found);
            }
            simdisk_free(disk);
        }
    }
    printf("%u stop points\n", stops);
}

/* The same with destroyed blocks of 4096 bytes, of which header and mirror each have their own. */
static void crash_with_destroyed_blocks(void **state)
{
    struct simdisk *made = test_container(12, seed);
    struct container *c = test_open(made, CONTAINER_OPEN_WRITE);
    struct container_txn *t;
    struct container_repair_report report;
    struct told told;
    struct error e;
    uint64_t size;

    (void)state;
    OK(container_begin(c, &t, &e), e);
    OK(container_txn_add(t, 1, "a", 512, UINT64_C(8) * 4096 * 9, &e), e);
    for (uint32_t i = 0; i < 9; i++) {
        OK(container_txn_write(t, 1, i, "bits", 4, &e), e);
    }
    OK(test_commit(t, "the payload", &e), e);
    uint64_t digest = test_digest(c);
    container_close(c);
    const uint8_t *sound = simdisk_bytes(made, &size);
    for (unsigned i = 0; i < 3; i++) {
        bool stopped = true;
        for (uint64_t stop = 1; stopped; stop++) {
            for (uint64_t s = 0; s < 20; s++) {
                struct simdisk *disk = simdisk_from(sound, size, seed);
                b = simdisk_bytes(disk, &size);
                memset(b + i * 4096, 0xab, 4096); /* header, refcount table, refcount block */
                struct simdisk *synced = simdisk_from(b, size, seed);
                simdisk_free(disk);
                simdisk_stop_at(synced, stop);
                (void)run_repair(synced, &told, &report, &e);
                stopped = simdisk_stopped(synced);
                struct simdisk *found = simdisk_crash(synced, SIMDISK_DESTROY, seed + s);
                OK(run_repair(found, &told, &report, &e), e);
                assert_int_equal(report.left.corruptions + report.left.leaks, 0);
                assert_int_equal(report.losses, 0);
                c = test_open(found, 0);
                assert_int_equal(test_digest(c), digest);
                container_close(c);
                simdisk_free(found);
                simdisk_free(synced);
            }
        }
    }
    simdisk_free(made);
}

/* Any call fails: an error with words, and nothing is worse than before. */
static void calls_fail(void **state)
{
    struct container_repair_report report;
    struct told told;
    struct error e;

    (void)state;
    for (size_t i = 0; i < CASES; i++) {
        bool failed = true;
        for (uint64_t call = 1; failed; call++) {
            struct simdisk *disk = damaged(i);
            simdisk_fail_at(disk, call, 1, -EIO);
            e.text[0] = '\0';
            int r = run_repair(disk, &told, &report, &e);
            failed = simdisk_failed(disk);
            simdisk_fail_at(disk, 0, 0, 0);
            assert_true(r == 0 || (r == -EIO && e.text[0]));
            struct simdisk *found = simdisk_crash(disk, SIMDISK_TEAR, seed + call);
            OK(run_repair(found, &told, &report, &e), e);
            assert_int_equal(report.left.corruptions + report.left.leaks, 0);
            /* A cluster of bits that cannot be read is given up. */
            if (strstr(told.text, "clusters of bits") == NULL && r < 0) {
                after_repair(i, found);
            }
            simdisk_free(found);
            simdisk_free(disk);
        }
    }
}

/* Clusters that only refcounts speak for, since an extension is not known, stay. */
static void unknown_references_are_kept(void **state)
{
    struct simdisk *disk = simdisk_from(image, image_bytes, seed);
    struct header h = {0};
    struct container_repair_report report;
    struct told told;
    struct error e;
    uint64_t size, secret = image_bytes;
    uint8_t text[CLUSTER];

    (void)state;
    OK(header_read(simdisk_file(disk), image_bytes, 0, &h, &e), e);
    h.foreign = calloc(1, sizeof *h.foreign);
    h.n_foreign = 1;
    h.foreign[0] = (struct extension){.type = 0x12345678, .length = 8, .data = calloc(1, 8)};
    OK(header_build(&h, &e), e);
    b = simdisk_bytes(disk, &size);
    memcpy(b, h.block, h.block_bytes);
    memcpy(b + at_mirror, h.block, h.block_bytes);
    refcount_set(b + refcount_block(), 4, secret / CLUSTER, 1);
    memset(text, 's', sizeof text);
    assert_int_equal(file_write(simdisk_file(disk), text, sizeof text, secret), 0);
    b = simdisk_bytes(disk, &size);
    header_deinit(&h);

    refcount_table_destroyed();
    OK(run_repair(disk, &told, &report, &e), e);
    assert_int_equal(report.left.corruptions + report.left.leaks, 0);
    assert_int_equal(report.losses, 0);
    struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
    assert_int_equal(good_ones(c), 7);
    OK(test_commit_state(c, "the payload", &e), e);
    assert_true(c->space.refs[secret / CLUSTER] != 0);
    container_close(c);
    b = simdisk_bytes(disk, &size);
    assert_memory_equal(b + secret, text, sizeof text);
    simdisk_free(disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind),
        cmocka_unit_test(crash_anywhere),
        cmocka_unit_test(crash_with_destroyed_blocks),
        cmocka_unit_test(calls_fail),
        cmocka_unit_test(unknown_references_are_kept),
    };

    seed = simdisk_seed();
    return cmocka_run_group_tests(tests, hostile_make_image, hostile_free_image);
}
