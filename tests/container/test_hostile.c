/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Bytes that no commit of ours has written.  Each one ends in an error with
 * words and an untouched file, or in damage of what it hits and nothing else.
 *
 * A corruption is made twice: as it is, for the CRCs to find, and "sealed",
 * with all CRCs made right again, for the checks behind them to find.
 */
#include "tests/container/hostile.h"

#include <stdio.h>
#include <stdlib.h>

enum outcome {
    SOUND,    /* nothing is wrong with what is found */
    REFUSED,  /* -EBADMSG */
    NO_WRITE, /* read, but -ENOTSUP for writing */
    MIRROR,   /* the header's mirror is used */
    STATE,    /* state_damage, all listed bitmaps damaged */
    DAMAGE_0, /* one bitmap; the others are what they were */
    LOST_0,   /* the same, and known of old */
    DAMAGE_1,
};

/* Writes @value, @bytes wide and big endian, at *@base + @offset. */
struct corruption {
    const char *what;
    const uint64_t *base; /* NULL: 0 */
    unsigned offset, bytes;
    uint64_t value;
    enum outcome raw, sealed;
};

static uint64_t at_private = HEADER_BYTES + 8;
static unsigned refused, repaired; /* by a repair, of what no open takes */

static const struct corruption corruptions[] = {
    {"magic", NULL, 0, 4, 0x514649fa, MIRROR, REFUSED},
    {"version 2", NULL, 4, 4, 2, MIRROR, REFUSED},
    {"version 4", NULL, 4, 4, 4, MIRROR, REFUSED},
    {"backing file in the header", NULL, 8, 8, 64, MIRROR, REFUSED},
    {"backing file behind the extensions", NULL, 8, 8, 300, MIRROR, SOUND},
    {"backing file's length", NULL, 16, 4, 300, MIRROR, SOUND},
    {"cluster_bits 8", NULL, 20, 4, 8, MIRROR, REFUSED},
    {"cluster_bits 22", NULL, 20, 4, 22, MIRROR, REFUSED},
    {"cluster_bits 0xffffffff", NULL, 20, 4, 0xffffffff, MIRROR, REFUSED},
    {"cluster_bits 12", NULL, 20, 4, 12, MIRROR, REFUSED},
    {"virtual size", NULL, 24, 8, 1 << 20, MIRROR, REFUSED},
    {"crypt method", NULL, 32, 4, 2, MIRROR, NO_WRITE},
    {"L1 of a disk", NULL, 36, 4, 1, MIRROR, REFUSED},
    {"refcount table misaligned", NULL, 48, 8, 513, MIRROR, REFUSED},
    {"refcount table far out", NULL, 48, 8, UINT64_C(1) << 62, MIRROR, REFUSED},
    {"refcount table at the end of numbers", NULL, 48, 8, ~UINT64_C(511), MIRROR, REFUSED},
    {"refcount table in the header", NULL, 48, 8, 0, MIRROR, REFUSED},
    {"refcount table in the mirror", NULL, 48, 8, 3 * CLUSTER, MIRROR, REFUSED},
    {"refcount table of no cluster", NULL, 56, 4, 0, MIRROR, REFUSED},
    {"refcount table of too many", NULL, 56, 4, 0xffffffff, MIRROR, REFUSED},
    {"refcount table over its block", NULL, 56, 4, 2, MIRROR, REFUSED},
    {"snapshots", NULL, 60, 4, 1, MIRROR, REFUSED},
    {"dirty bit", NULL, 72, 8, 1, MIRROR, NO_WRITE},
    {"corrupt bit", NULL, 72, 8, 2, MIRROR, NO_WRITE},
    {"external data", NULL, 72, 8, 4, MIRROR, NO_WRITE},
    {"compression type", NULL, 72, 8, 8, MIRROR, REFUSED},
    {"extended L2", NULL, 72, 8, 16, MIRROR, NO_WRITE},
    {"unknown incompatible bit", NULL, 72, 8, 32, MIRROR, REFUSED},
    {"unknown compatible bit", NULL, 80, 8, 32, MIRROR, SOUND},
    {"autoclear bit gone", NULL, 88, 8, 0, SOUND, SOUND},
    {"refcount_order 7", NULL, 96, 4, 7, MIRROR, REFUSED},
    {"header_length 112", NULL, 100, 4, 112, MIRROR, REFUSED},
    {"header_length 128", NULL, 100, 4, 128, MIRROR, MIRROR},
    {"header_length 4096", NULL, 100, 4, 4096, MIRROR, REFUSED},
    {"number of bitmaps", NULL, 104, 4, 2, MIRROR, SOUND},
    {"offset of bitmaps", NULL, 108, 8, 5, MIRROR, SOUND},
    {"extension type", NULL, 120, 4, 0x424d4151, MIRROR, MIRROR},
    {"extension length", NULL, 124, 4, 0xffffffff, MIRROR, REFUSED},
    {"extension length 120", NULL, 124, 4, 120, MIRROR, REFUSED},
    {"an empty extension where they ended", NULL, 256, 4, 7, MIRROR, SOUND},

    {"state misaligned", &at_private, 0, 8, 1, MIRROR, STATE},
    {"state far out", &at_private, 0, 8, UINT64_MAX & ~UINT64_C(511), MIRROR, STATE},
    {"state in the header", &at_private, 0, 8, 0, MIRROR, STATE},
    {"state in the mirror", &at_private, 0, 8, 3 * CLUSTER, MIRROR, STATE},
    {"state empty", &at_private, 8, 8, 0, MIRROR, STATE},
    {"state too long", &at_private, 8, 8, UINT64_MAX, MIRROR, STATE},
    {"state shorter", &at_private, 8, 8, 79, MIRROR, STATE},
    {"state in a refcount block", &at_private, 0, 8, 2 * CLUSTER, MIRROR, STATE},
    {"mirror misaligned", &at_private, 16, 8, 3 * CLUSTER + 8, MIRROR, REFUSED},
    {"mirror far out", &at_private, 16, 8, UINT64_C(1) << 40, MIRROR, REFUSED},
    {"mirror in the header", &at_private, 16, 8, 0, MIRROR, REFUSED},
    {"extension version", &at_private, 24, 4, 2, MIRROR, REFUSED},
    {"uuid", &at_private, 28, 1, 0x99, MIRROR, SOUND},
    {"commit id", &at_private, 44, 1, 0x99, MIRROR, SOUND},
    {"table misaligned", &at_private, 108, 8, 8, MIRROR, STATE},
    {"table far out", &at_private, 108, 8, UINT64_MAX & ~UINT64_C(511), MIRROR, STATE},
    {"no bitmaps", &at_private, 104, 4, 0, MIRROR, STATE},
    {"one bitmap less", &at_private, 104, 4, N - 1, MIRROR, STATE},
    {"many bitmaps", &at_private, 104, 4, 65535, MIRROR, STATE},
    {"too many bitmaps", &at_private, 104, 4, 65536, MIRROR, REFUSED},

    {"refcount table entry misaligned", NULL, CLUSTER, 8, 2 * CLUSTER + 1, REFUSED, REFUSED},
    {"refcount table entry far out", NULL, CLUSTER, 8, UINT64_C(1) << 50, REFUSED, REFUSED},
    {"refcount block in the header", NULL, CLUSTER + 8, 8, 0, SOUND, SOUND},
    {"refcount block twice", NULL, CLUSTER + 8, 8, 2 * CLUSTER, REFUSED, REFUSED},
    {"refcount block gone", NULL, CLUSTER, 8, 0, SOUND, SOUND},
    {"refcount too low", NULL, 2 * CLUSTER, 2, 0, SOUND, SOUND},
    {"refcount too high", NULL, 2 * CLUSTER, 2, 0xffff, SOUND, SOUND},

    {"entry's L1 misaligned", &at_table, 0, 8, 77, STATE, DAMAGE_0},
    {"entry's L1 far out", &at_table, 0, 8, UINT64_C(1) << 60, STATE, DAMAGE_0},
    {"entry's L1 in the header", &at_table, 0, 8, 0, STATE, DAMAGE_0},
    {"entry's L1 in a refcount block", &at_table, 0, 8, 2 * CLUSTER, STATE, DAMAGE_0},
    {"entry's L1 length", &at_table, 8, 4, 71, STATE, DAMAGE_0},
    {"entry's L1 length huge", &at_table, 8, 4, 0xffffffff, STATE, DAMAGE_0},
    {"entry's granularity 0", &at_table, 12, 4, 0, STATE, DAMAGE_0},
    {"entry's granularity odd", &at_table, 12, 4, 513, STATE, DAMAGE_0},
    {"entry's granularity other", &at_table, 12, 4, 1024, STATE, DAMAGE_0},
    {"entry's sectors huge", &at_table, 16, 8, UINT64_MAX, STATE, DAMAGE_0},
    {"entry's name length 0", &at_table, 24, 2, 0, STATE, DAMAGE_0},
    {"entry's name length 0xffff", &at_table, 24, 2, 0xffff, STATE, STATE},
    {"entry's name with a NUL", &at_table, 27, 1, 0, STATE, DAMAGE_0},
    {"L1 entry: reserved bit 63", &at_l1[1], 0, 8, UINT64_C(1) << 63, DAMAGE_1, DAMAGE_1},
    {"L1 entry: reserved bit 1", &at_l1[1], 0, 8, 2, DAMAGE_1, DAMAGE_1},
    {"L1 entry: reserved bit 56", &at_l1[1], 0, 8, UINT64_C(1) << 56, DAMAGE_1, DAMAGE_1},
    {"L1 entry far out", &at_l1[1], 0, 8, UINT64_C(1) << 55, DAMAGE_1, DAMAGE_1},
    {"L1 entry in the header's cluster 1", &at_l1[1], 0, 8, CLUSTER, DAMAGE_1, DAMAGE_1},
    {"L1 entry gone", &at_l1[1], 0, 8, 0, DAMAGE_1, DAMAGE_1},
    {"L1 entry zero flag", &at_l1[1], 0, 8, 1, DAMAGE_1, DAMAGE_1},
    {"bits", &at_bits, 100, 2, 0x1234, DAMAGE_1, DAMAGE_1},
    {"blob's magic", &at_state, 0, 1, 0, STATE, STATE},
    {"blob's version", &at_state, 8, 4, 0x02000000, STATE, STATE},
    {"blob's length", &at_state, 16, 1, 1, STATE, STATE},
    {"blob's payload length", &at_state, 56, 8, UINT64_MAX, STATE, STATE},
    {"blob's number of entries", &at_state, 72, 4, 0xffffffff, STATE, STATE},
    {"blob's id twice", &at_state, 80, 1, 2, STATE, STATE},
    {"blob's number of CRCs", &at_state, 80 + 16, 4, 0xffffffff, STATE, STATE},
    {"blob says lost", &at_state, 80 + 8, 1, 1, STATE, LOST_0},
    {"blob's flags", &at_state, 80 + 8, 1, 2, STATE, SOUND},
    {"blob's last field of an entry", &at_state, 80 + 20, 1, 1, STATE, SOUND},
    {"flags of the extension", &at_private, 124, 4, 2, MIRROR, SOUND},
    {"the extension says lost", &at_private, 124, 4, 1, MIRROR, STATE},
    {"blob's CRC of a cluster", &at_state, 80 + 24, 4, 0x11223344, STATE, DAMAGE_0},
    {"blob's payload", &at_state, 80 + N *(24 + 4 * 7), 1, 'T', STATE, SOUND},
};

static void check_outcome(struct container *c, const char *what, enum outcome expected)
{
    struct container_info info;
    const void *payload;
    size_t bytes;

    container_get_info(c, &info);
    container_state(c, &payload, &bytes);
    if (expected == STATE) {
        if (info.state_damage[0] == '\0') {
            fail_msg("%s: no damage of the state found", what);
        }
        assert_null(payload);
        for (uint32_t i = 0; i < info.bitmaps; i++) {
            bool good;
            (void)hostile_digest(c, i, &good);
            assert_false(good);
        }
        return;
    }
    if (info.state_damage[0]) {
        fail_msg("%s: unexpected damage: %s", what, info.state_damage);
    }
    assert_int_equal(bytes, 11);
    assert_int_equal(info.bitmaps, N);
    if (info.used_mirror != (expected == MIRROR)) {
        fail_msg("%s: used_mirror is %d", what, info.used_mirror);
    }
    for (uint32_t i = 0; i < N; i++) {
        bool good, damaged = ((expected == DAMAGE_0 || expected == LOST_0) && i == 0) ||
                             (expected == DAMAGE_1 && i == 1);
        uint64_t digest = hostile_digest(c, i, &good);
        if (good == damaged || (good && digest != digests[i])) {
            fail_msg("%s: bitmap %u is %s", what, i, good ? "good" : "damaged");
        }
    }
}

/* After a commit on top of what was found, the same must be found again. */
static void commit_and_reopen(struct simdisk *disk, struct container *c, const char *what,
                              enum outcome expected)
{
    struct error e;
    int r = test_commit_state(c, "the PAYLOAD", &e);

    if (r != 0) {
        fail_msg("%s: cannot commit: %s", what, e.text);
    }
    container_close(c);
    c = test_open(disk, CONTAINER_OPEN_WRITE);
    if (expected == STATE) {
        struct container_info info;
        container_get_info(c, &info);
        assert_string_equal(info.state_damage, "");
        for (uint32_t i = 0; i < info.bitmaps; i++) {
            bool good;
            (void)hostile_digest(c, i, &good);
            if (good) {
                fail_msg("%s: bitmap %u passes for good after a commit", what, i);
            }
        }
    } else {
        check_outcome(c, what, expected == MIRROR ? SOUND : expected);
    }
    OK(test_commit_state(c, "the PAYLOAD", &e), e);
    container_close(c);
}

/* What a repair makes of it: for what can be read, the same verdicts. */
static void repair_one(const uint8_t *bytes, uint64_t size, const char *what, enum outcome expected)
{
    struct simdisk *disk;

    if (!hostile_repair(bytes, size, false, what, &disk)) {
        if (expected != REFUSED && expected != NO_WRITE) {
            fail_msg("%s: not repaired", what);
        }
        refused++;
        return;
    }
    struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
    if (expected != REFUSED && expected != NO_WRITE) {
        bool removed = c->directory.n == N - 1 && expected == DAMAGE_0;
        if (!removed) {
            check_outcome(c, what, expected == MIRROR ? SOUND : expected);
        }
    }
    for (uint32_t i = 0; i < N && expected == REFUSED; i++) {
        /* Structures that lie in each other cost no bitmap that its CRCs prove. */
        bool good;
        if (c->state_damage[0] == '\0' && hostile_digest(c, i, &good) != digests[i]) {
            fail_msg("%s: bitmap %u is lost by the repair", what, i);
        }
    }
    repaired += expected == REFUSED;
    container_close(c);
    simdisk_free(disk);
}

static void one_corruption(const struct corruption *k, bool sealed)
{
    enum outcome expected = sealed ? k->sealed : k->raw;
    struct simdisk *disk = simdisk_from(image, image_bytes, seed);
    uint64_t size, at = (k->base ? *k->base : 0) + k->offset;
    uint8_t *bytes = simdisk_bytes(disk, &size);
    struct container *c;
    char what[120];
    struct error e = {{0}};

    (void)snprintf(what, sizeof what, "%s%s", k->what, sealed ? " (sealed)" : "");
    for (unsigned i = 0; i < k->bytes; i++) {
        bytes[at + i] = (uint8_t)(k->value >> (8 * (k->bytes - 1 - i)));
    }
    if (sealed) {
        layout_seal(bytes, size);
    }
    uint8_t *before = test_malloc(size);
    memcpy(before, bytes, size);
    repair_one(before, size, what, expected);

    /* The check finds it too, unless it is nobody's fault. */
    struct container_check_report report = {0};
    int r = container_check(simdisk_file(disk), NULL, NULL, &report, &e);
    if (r != 0 && r != -ENOTSUP && r != -EBADMSG) {
        fail_msg("%s: cannot check: %s", what, e.text);
    }
    bool harmless = expected == SOUND || expected == NO_WRITE || expected == LOST_0 ||
                    (expected == STATE && k->base == &at_private && k->offset == 124);
    if (harmless && r == -EBADMSG) {
        fail_msg("%s: refused by the check: %s", what, e.text);
    }
    if (r == 0 && !harmless && report.corruptions == 0) {
        fail_msg("%s: the check finds nothing", what);
    }

    r = container_open(simdisk_file(disk), 0, &c, &e);
    if (r != (expected == REFUSED ? -EBADMSG : 0)) {
        fail_msg("%s: opened with %d, %s", what, r, e.text);
    }
    if (r == 0 && expected != NO_WRITE) {
        check_outcome(c, what, expected);
    }
    if (r == 0) {
        container_close(c);
    }
    e.text[0] = '\0';
    r = container_open(simdisk_file(disk), CONTAINER_OPEN_WRITE, &c, &e);
    if (expected == REFUSED || expected == NO_WRITE) {
        assert_int_equal(r, expected == REFUSED ? -EBADMSG : -ENOTSUP);
        assert_true(e.text[0] != '\0');
        assert_int_equal(simdisk_changes(disk), 0);
        assert_memory_equal(simdisk_bytes(disk, &size), before, size);
    } else {
        if (r != 0) {
            fail_msg("%s: cannot open for writing: %s", what, e.text);
        }
        hostile_write_to_all(c);
        commit_and_reopen(disk, c, what, expected);
    }
    test_free(before);
    simdisk_free(disk);
}

static void corruption_table(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof corruptions / sizeof corruptions[0]; i++) {
        one_corruption(&corruptions[i], false);
        one_corruption(&corruptions[i], true);
    }
    printf("%u that are refused were repaired, %u not\n", repaired, refused);
    assert_true(repaired >= 14);
}

/* Two L1 tables that name the same cluster, and CRCs that do not mind: neither is believed. */
static void shared_clusters(void **state)
{
    struct simdisk *disk = simdisk_from(image, image_bytes, seed);
    uint64_t size;
    uint8_t *bytes = simdisk_bytes(disk, &size);
    struct error e;
    bool good;

    (void)state;
    memcpy(bytes + at_l1[0] + 22 * 8, bytes + at_l1[1] + 22 * 8, 8);
    layout_seal(bytes, size);
    assert_true(test_check(disk, false).corruptions >= 2);
    struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
    (void)hostile_digest(c, 0, &good);
    assert_false(good);
    (void)hostile_digest(c, 1, &good);
    assert_false(good);
    assert_true(hostile_digest(c, 2, &good) == digests[2]);
    assert_true(good);

    /* One goes, the other is written anew: all is well again. */
    struct container_txn *t;
    uint8_t bits[CLUSTER];
    OK(container_begin(c, &t, &e), e);
    OK(container_txn_remove(t, 1, &e), e);
    for (uint32_t i = 0; i < 70; i++) {
        test_pattern(bits, sizeof bits, 2, i, 99);
        OK(container_txn_write(t, 2, i, bits, sizeof bits, &e), e);
    }
    OK(test_commit(t, "x", &e), e);
    container_close(c);
    struct container_check_report report = test_check(disk, true);
    assert_int_equal(report.corruptions + report.leaks, 0);
    c = test_open(disk, 0);
    (void)hostile_digest(c, 0, &good);
    assert_true(good);
    container_close(c);
    simdisk_free(disk);
}

/* Damage ends when one transaction has replaced every cluster, not before. */
static void damage_heals(void **state)
{
    static const unsigned ways = 2;
    struct error e;
    bool good;

    (void)state;
    for (unsigned way = 0; way < ways; way++) {
        struct simdisk *disk = simdisk_from(image, image_bytes, seed);
        uint64_t size;
        uint8_t *bytes = simdisk_bytes(disk, &size), bits[CLUSTER];
        struct container_txn *t;
        bytes[way == 0 ? at_bits : at_l1[1] + 5] ^= 1;
        struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
        (void)hostile_digest(c, 1, &good);
        assert_false(good);
        test_pattern(bits, sizeof bits, 2, 0, 99);
        OK(container_begin(c, &t, &e), e);
        for (uint32_t i = 0; i < 69; i++) {
            OK(container_txn_write(t, 2, i, bits, sizeof bits, &e), e);
        }
        OK(test_commit(t, "x", &e), e);
        (void)hostile_digest(c, 1, &good);
        assert_false(good);
        container_close(c);
        c = test_open(disk, CONTAINER_OPEN_WRITE);
        (void)hostile_digest(c, 1, &good);
        assert_false(good);
        /* A new name changes nothing. */
        OK(container_begin(c, &t, &e), e);
        OK(container_txn_update(t, 2, "d/new", 0, &e), e);
        OK(test_commit(t, "x", &e), e);
        (void)hostile_digest(c, 1, &good);
        assert_false(good);
        OK(container_begin(c, &t, &e), e);
        for (uint32_t i = 0; i < 70; i++) {
            OK(i == 3 ? container_txn_zero(t, 2, i, &e)
                      : container_txn_write(t, 2, i, bits, sizeof bits, &e),
               e);
        }
        OK(test_commit(t, "x", &e), e);
        (void)hostile_digest(c, 1, &good);
        assert_true(good);
        container_close(c);
        struct container_check_report report = test_check(disk, true);
        assert_int_equal(report.corruptions + report.leaks, 0);
        simdisk_free(disk);
    }
}

/* An entry that says it has no bits has none to replace, but is not sound for that. */
static void renaming_heals_nothing(void **state)
{
    struct simdisk *disk = simdisk_from(image, image_bytes, seed);
    struct container_txn *t;
    struct error e;
    uint64_t size;
    uint8_t *bytes = simdisk_bytes(disk, &size);
    bool good;

    (void)state;
    store_be32(bytes + at_table + TABLE_L1_ENTRIES, 0);
    layout_seal(bytes, size);
    struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
    (void)hostile_digest(c, 0, &good);
    assert_false(good);
    OK(container_begin(c, &t, &e), e);
    OK(container_txn_update(t, 1, "d/new", 0, &e), e);
    OK(test_commit(t, "x", &e), e);
    (void)hostile_digest(c, 0, &good);
    assert_false(good);
    container_close(c);
    c = test_open(disk, 0);
    (void)hostile_digest(c, 0, &good);
    assert_false(good);
    container_close(c);
    simdisk_free(disk);
}

/* New bits under a name that no bitmap can have are damaged until it has another. */
static void a_bad_name_is_healed_by_a_good_one(void **state)
{
    struct simdisk *disk = simdisk_from(image, image_bytes, seed);
    struct container_bitmap_info b;
    struct container_txn *t;
    struct error e;
    uint64_t size;
    uint8_t *bytes = simdisk_bytes(disk, &size);

    (void)state;
    bytes[at_table + TABLE_NAME + 1] = '\0';
    layout_seal(bytes, size);
    for (unsigned round = 0; round < 2; round++) {
        struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
        container_bitmap_get(c, 0, &b);
        assert_non_null(b.damage);
        OK(container_begin(c, &t, &e), e);
        OK(container_txn_update(t, 1, round ? "d/new" : NULL, 0, &e), e);
        for (uint32_t i = 0; i < 70; i++) {
            OK(container_txn_zero(t, 1, i, &e), e);
        }
        OK(test_commit(t, "x", &e), e);
        container_bitmap_get(c, 0, &b);
        assert_int_equal(b.damage != NULL, round == 0);
        container_close(c);
    }
    struct container_check_report report = test_check(disk, true);
    assert_int_equal(report.corruptions + report.leaks, 0);
    simdisk_free(disk);
}

/* What was lost once may name clusters that others have had since. */
static void lost_tables_spoil_nobody(void **state)
{
    struct simdisk *disk = simdisk_from(image, image_bytes, seed);
    uint64_t size;
    uint8_t *bytes = simdisk_bytes(disk, &size);

    (void)state;
    store_le32(bytes + at_state + STATE_HEADER_BYTES + STATE_ENTRY_FLAGS, STATE_ENTRY_LOST);
    store_be64(bytes + at_l1[0], at_bits); /* of bitmap 1 */
    store_be64(bytes + at_l1[0] + 8, at_l1[2]);
    layout_seal(bytes, size);
    for (unsigned round = 0; round < 2; round++) {
        struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
        struct error e;
        for (uint32_t i = 0; i < N; i++) {
            bool good;
            uint64_t digest = hostile_digest(c, i, &good);
            assert_int_equal(good, i > 0);
            assert_true(i == 0 || digest == digests[i]);
        }
        OK(test_commit_state(c, "the payload", &e), e);
        container_close(c);
    }
    simdisk_free(disk);
}

/* The table's offset leads to where the blob is, and there is something like an entry. */
static void a_table_in_the_blob(void **state)
{
    struct simdisk *disk = simdisk_from(image, image_bytes, seed);
    struct container_info info;
    uint64_t size;
    uint8_t *bytes = simdisk_bytes(disk, &size);

    (void)state;
    bytes[at_private + PRIVATE_UUID] = 0; /* copied into the blob: the length of the name, … */
    bytes[at_private + PRIVATE_UUID + 1] = 5;
    memset(bytes + at_private + PRIVATE_UUID + 2, 'n', 5); /* … and the name */
    store_be64(bytes + at_private + PRIVATE_FIELDS + 4, at_state);
    layout_seal(bytes, size);
    assert_true(test_check(disk, false).corruptions > 0);
    for (unsigned round = 0; round < 2; round++) {
        struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
        struct error e;
        container_get_info(c, &info);
        assert_int_equal(info.state_damage[0] != '\0', round == 0);
        assert_int_equal(info.bitmaps, 0);
        OK(test_commit_state(c, "x", &e), e);
        container_close(c);
    }
    simdisk_free(disk);
}

/* Bits that look like a mirror do not make the search believe them. */
static void forged_mirror(void **state)
{
    struct simdisk *disk = simdisk_from(image, image_bytes, seed);
    uint64_t size;
    uint8_t *bytes = simdisk_bytes(disk, &size);
    struct container *c;
    struct error e;

    (void)state;
    /* A whole header block that names its own place, in a cluster of bits. */
    memcpy(bytes + at_bits, image, CLUSTER);
    uint8_t *x = bytes + at_bits + at_private;
    store_be64(x + PRIVATE_MIRROR_OFFSET, at_bits);
    store_be32(x + PRIVATE_HEADER_CRC, 0);
    store_be32(x + PRIVATE_CRC, 0);
    store_be32(x + PRIVATE_CRC, crc32c(0, x, PRIVATE_BYTES));
    store_be32(x + PRIVATE_HEADER_CRC, crc32c(0, bytes + at_bits, 264));
    memset(bytes, 0, CLUSTER);
    assert_int_equal(container_open(simdisk_file(disk), CONTAINER_OPEN_WRITE, &c, &e), -EBADMSG);
    assert_int_equal(simdisk_changes(disk), 0);
    simdisk_free(disk);
}

/* Files of other kinds. */
static void strangers(void **state)
{
    static const char *const texts[] = {"", "x", "QFI\xfb", "SQLite format 3"};
    struct container *c;
    struct error e;

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct simdisk *disk = simdisk_from(texts[i], strlen(texts[i]), seed);
        assert_int_equal(container_open(simdisk_file(disk), CONTAINER_OPEN_WRITE, &c, &e),
                         -EBADMSG);
        assert_true(test_check(disk, false).corruptions > 0);
        simdisk_free(disk);
    }
    uint8_t *noise = test_malloc(100000);
    for (unsigned i = 0; i < 20; i++) {
        test_pattern(noise, 100000, i, 0, 0);
        struct simdisk *disk = simdisk_from(noise, 100000, seed);
        assert_int_equal(container_open(simdisk_file(disk), CONTAINER_OPEN_WRITE, &c, &e),
                         -EBADMSG);
        assert_int_equal(simdisk_changes(disk), 0);
        struct container_create_options options = {.cluster_bits = 16};
        assert_int_equal(container_format(simdisk_file(disk), &options, &e), -EEXIST);
        assert_int_equal(simdisk_changes(disk), 0);
        simdisk_free(disk);
    }
    test_free(noise);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(corruption_table),
        cmocka_unit_test(shared_clusters),
        cmocka_unit_test(damage_heals),
        cmocka_unit_test(renaming_heals_nothing),
        cmocka_unit_test(a_bad_name_is_healed_by_a_good_one),
        cmocka_unit_test(lost_tables_spoil_nobody),
        cmocka_unit_test(a_table_in_the_blob),
        cmocka_unit_test(forged_mirror),
        cmocka_unit_test(strangers),
    };

    seed = simdisk_seed();
    return cmocka_run_group_tests(tests, hostile_make_image, hostile_free_image);
}
