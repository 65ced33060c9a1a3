/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bytes of a container with three bitmaps of two drives, spelled out.
 * Nothing here uses the code under test to make what is expected, but for
 * CRC32C, whose own test has the published vectors.
 *
 * Each structure is a list of fields; every byte that no field names must be 0.
 */
#include "tests/container/support.h"

#include <stdio.h>
#include <stdlib.h>

#define CLUSTER 512u

struct field {
    unsigned at;
    unsigned bytes; /* 1, 2, 4, 8: a number; else text of that length */
    uint64_t value;
    const char *text;
};

/* Big endian. */
static void put_be(uint8_t *p, unsigned bytes, uint64_t value)
{
    for (unsigned i = 0; i < bytes; i++) {
        p[i] = (uint8_t)(value >> (8 * (bytes - 1 - i)));
    }
}

static void put_le(uint8_t *p, unsigned bytes, uint64_t value)
{
    for (unsigned i = 0; i < bytes; i++) {
        p[i] = (uint8_t)(value >> (8 * i));
    }
}

static void expect(const uint8_t *found, size_t length, const struct field *fields, size_t n,
                   void (*put)(uint8_t *p, unsigned bytes, uint64_t value))
{
    uint8_t expected[2 * CLUSTER] = {0};

    assert_true(length <= sizeof expected);
    for (size_t i = 0; i < n; i++) {
        if (fields[i].text) {
            memcpy(expected + fields[i].at, fields[i].text, fields[i].bytes);
        } else {
            put(expected + fields[i].at, fields[i].bytes, fields[i].value);
        }
    }
    for (size_t i = 0; i < length; i++) {
        if (found[i] != expected[i]) {
            fail_msg("byte %zu: found 0x%02x, expected 0x%02x", i, found[i], expected[i]);
        }
    }
}
#define EXPECT(found, length, fields, put) \
    expect(found, length, fields, sizeof(fields) / sizeof(fields)[0], put)

#define UUID_10 "\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f"
#define UUID_30 "\x30\x31\x32\x33\x34\x35\x36\x37\x38\x39\x3a\x3b\x3c\x3d\x3e\x3f"
#define UUID_50 "\x50\x51\x52\x53\x54\x55\x56\x57\x58\x59\x5a\x5b\x5c\x5d\x5e\x5f"

/* The header block: 120 + 8 + 128 + 8 bytes. */
#define BLOCK 264u

static uint32_t crc_without(const uint8_t *bytes, size_t length, size_t field)
{
    uint8_t copy[2 * CLUSTER];

    memcpy(copy, bytes, length);
    memset(copy + field, 0, 4);
    return crc32c(0, copy, length);
}

static void expect_header(const uint8_t *b, uint64_t state_cluster, uint64_t state_bytes,
                          uint32_t bitmaps, uint64_t table_cluster, const char *commit_id,
                          uint64_t applied_seq, uint32_t clean)
{
    uint8_t private[128];

    memcpy(private, b + 128, sizeof private);
    memset(private + 116, 0, 8);
    const struct field fields[] = {
        {0, 4, 0x514649fb, NULL},                      /* magic */
        {4, 4, 3, NULL},                               /* version */
        {20, 4, 9, NULL},                              /* cluster_bits */
        {48, 8, 512, NULL},                            /* refcount table */
        {56, 4, 1, NULL},                              /* … clusters */
        {88, 8, UINT64_C(0x8000000000000000), NULL},   /* autoclear: bit 63 */
        {96, 4, 4, NULL},                              /* refcount_order */
        {100, 4, 120, NULL},                           /* header_length */
        {104, 4, bitmaps, NULL},                       /* nb_dirty_bitmaps */
        {108, 8, table_cluster * CLUSTER, NULL},       /* dirty_bitmaps_offset */
        {120, 4, 0x424d4150, NULL},                    /* extension type */
        {124, 4, 128, NULL},                           /* … length */
        {128, 8, state_cluster * CLUSTER, NULL},       /* state blob */
        {136, 8, state_bytes, NULL},                   /* … length */
        {144, 8, UINT64_C(3) * CLUSTER, NULL},         /* mirror */
        {152, 4, 1, NULL},                             /* version */
        {156, 16, 0, UUID_10},                         /* container UUID */
        {172, 16, 0, commit_id},                       /* commit id */
        {188, 8, applied_seq, NULL},                   /* applied_seq */
        {196, 4, clean, NULL},                         /* clean */
        {200, 16, 0, UUID_30},                         /* boot id */
        {216, 8, 42, NULL},                            /* inode */
        {224, 8, UINT64_C(1700000000123456789), NULL}, /* birth time */
        {232, 4, bitmaps, NULL},                       /* copy of 104 … 107 */
        {236, 8, table_cluster * CLUSTER, NULL},       /* copy of 108 … 115 */
        {244, 4, load_be32(b + 244), NULL},            /* CRC of the block: below */
        {248, 4, crc32c(0, private, 128), NULL},       /* CRC of the extension */
    };
    EXPECT(b, CLUSTER, fields, put_be);
    assert_int_equal(load_be32(b + 244), crc_without(b, BLOCK, 244));
}

static void empty_container(void **state)
{
    struct simdisk *disk = test_container(9, 1);
    uint64_t size;
    const uint8_t *b = simdisk_bytes(disk, &size);

    (void)state;
    assert_int_equal(size, 5 * CLUSTER);
    expect_header(b, 4, 80, 0, 0, UUID_10, 0, 1);
    const struct field table[] = {{0, 8, UINT64_C(2) * CLUSTER, NULL}};
    EXPECT(b + CLUSTER, CLUSTER, table, put_be);
    const struct field counters[] = {
        {0, 2, 1, NULL}, {2, 2, 1, NULL}, {4, 2, 1, NULL}, {6, 2, 1, NULL}, {8, 2, 1, NULL},
    };
    EXPECT(b + UINT64_C(2) * CLUSTER, CLUSTER, counters, put_be);
    assert_memory_equal(b + UINT64_C(3) * CLUSTER, b, CLUSTER);
    const uint8_t *blob = b + UINT64_C(4) * CLUSTER;
    const struct field state_fields[] = {
        {0, 8, 0, "BMPSTATE"}, {8, 4, 1, NULL},      {12, 4, crc_without(blob, 80, 12), NULL},
        {16, 8, 80, NULL},     {24, 16, 0, UUID_10}, {40, 16, 0, UUID_10},
    };
    EXPECT(blob, CLUSTER, state_fields, put_le);
    simdisk_free(disk);
}

/*
 * vm1/a          3 clusters of bits of 512 bytes: cluster 0 written, 1 zeros, 2 written
 * vm1/b          1 cluster, zeros
 * vg0/lv1/backup 1 cluster, 10 granules, the last three dirty
 */
static void two_drives_three_bitmaps(void **unused)
{
    struct simdisk *disk = test_container(9, 1);
    struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
    struct container_txn *t;
    struct error e;
    uint8_t bits[CLUSTER];
    uint64_t size;

    (void)unused;
    memset(bits, 0xa5, sizeof bits);
    OK(container_begin(c, &t, &e), e);
    OK(container_txn_add(t, 1, "vm1/a", 65536, UINT64_C(3) * 4096 * 128, &e), e);
    OK(container_txn_add(t, 2, "vm1/b", 512, 4096, &e), e);
    OK(container_txn_add(t, 0x1122334455667788, "vg0/lv1/backup", 1u << 31,
                         9 * (UINT64_C(1) << 22) + 1, &e),
       e);
    OK(container_txn_write(t, 1, 0, bits, sizeof bits, &e), e);
    OK(container_txn_write(t, 1, 2, bits, 3, &e), e);
    OK(container_txn_write(t, 0x1122334455667788, 0, "\x80\x03", 2, &e), e);
    struct container_commit_options options = {
        .state = "payload!?",
        .state_bytes = 9,
        .applied_seq = UINT64_C(0x0102030405060708),
        .clean = false,
        .commit_id = test_uuid(0x50),
        .boot_id = test_uuid(0x30),
        .identity = {.inode = 42, .birth_time_ns = UINT64_C(1700000000123456789)},
    };
    struct container_commit_stats stats;
    OK(container_commit(t, &options, &stats, &e), e);
    assert_int_equal(stats.clusters_written, 3);
    container_close(c);

    /* Clusters: 5 6 7 bits in the order written, 8 9 10 L1 tables, 11 bitmap table, 12 blob; the
     * old blob in 4 is free again; behind it all lies the reserve. */
    const uint8_t *b = simdisk_bytes(disk, &size);
    expect_header(b, 12, 80 + 3 * 24 + 3 * 4 + 9, 3, 11, UUID_50, UINT64_C(0x0102030405060708), 0);
    const struct field table[] = {{0, 8, UINT64_C(2) * CLUSTER, NULL}};
    EXPECT(b + CLUSTER, CLUSTER, table, put_be);
    const struct field counters[] = {
        {0, 2, 1, NULL},  {2, 2, 1, NULL},  {4, 2, 1, NULL},  {6, 2, 1, NULL},
        {10, 2, 1, NULL}, {12, 2, 1, NULL}, {14, 2, 1, NULL}, {16, 2, 1, NULL},
        {18, 2, 1, NULL}, {20, 2, 1, NULL}, {22, 2, 1, NULL}, {24, 2, 1, NULL},
    };
    EXPECT(b + UINT64_C(2) * CLUSTER, CLUSTER, counters, put_be);
    assert_memory_equal(b + UINT64_C(3) * CLUSTER, b, CLUSTER);

    const uint8_t *first = b + UINT64_C(5) * CLUSTER, *second = b + UINT64_C(6) * CLUSTER,
                  *third = b + UINT64_C(7) * CLUSTER;
    assert_memory_equal(first, bits, CLUSTER);
    const struct field second_bits[] = {{0, 3, 0, "\xa5\xa5\xa5"}};
    EXPECT(second, CLUSTER, second_bits, put_be);
    const struct field third_bits[] = {{0, 1, 0x80, NULL}, {1, 1, 0x03, NULL}};
    EXPECT(third, CLUSTER, third_bits, put_be);

    const uint8_t *l1 = b + UINT64_C(8) * CLUSTER;
    const struct field l1_a[] = {{0, 8, UINT64_C(5) * CLUSTER, NULL},
                                 {16, 8, UINT64_C(6) * CLUSTER, NULL}};
    EXPECT(l1, CLUSTER, l1_a, put_be);
    const struct field l1_b[] = {{0, 8, 0, NULL}};
    EXPECT(l1 + CLUSTER, CLUSTER, l1_b, put_be);
    const struct field l1_backup[] = {{0, 8, UINT64_C(7) * CLUSTER, NULL}};
    EXPECT(l1 + UINT64_C(2) * CLUSTER, CLUSTER, l1_backup, put_be);

    /* 26 bytes and the name, padded to 8: 32, 32, 40. */
    const uint8_t *bitmaps = b + UINT64_C(11) * CLUSTER;
    const struct field entries[] = {
        {0, 8, UINT64_C(8) * CLUSTER, NULL},
        {8, 4, 3, NULL},
        {12, 4, 65536, NULL},
        {16, 8, UINT64_C(3) * 4096 * 128, NULL},
        {24, 2, 5, NULL},
        {26, 5, 0, "vm1/a"},
        {32 + 0, 8, UINT64_C(9) * CLUSTER, NULL},
        {32 + 8, 4, 1, NULL},
        {32 + 12, 4, 512, NULL},
        {32 + 16, 8, 4096, NULL},
        {32 + 24, 2, 5, NULL},
        {32 + 26, 5, 0, "vm1/b"},
        {64 + 0, 8, UINT64_C(10) * CLUSTER, NULL},
        {64 + 8, 4, 1, NULL},
        {64 + 12, 4, UINT64_C(1) << 31, NULL},
        {64 + 16, 8, 9 * (UINT64_C(1) << 22) + 1, NULL},
        {64 + 24, 2, 14, NULL},
        {64 + 26, 14, 0, "vg0/lv1/backup"},
    };
    EXPECT(bitmaps, CLUSTER, entries, put_be);

    const uint8_t *blob = b + UINT64_C(12) * CLUSTER;
    const unsigned at_a = 80, at_b = at_a + 24 + 8, at_backup = at_b + 24,
                   at_payload = at_backup + 24 + 4;
    const struct field state[] = {
        {0, 8, 0, "BMPSTATE"},
        {8, 4, 1, NULL},
        {12, 4, crc_without(blob, at_payload + 9, 12), NULL},
        {16, 8, at_payload + 9, NULL},
        {24, 16, 0, UUID_10},
        {40, 16, 0, UUID_50},
        {56, 8, 9, NULL},
        {64, 8, 104, NULL},
        {72, 4, 3, NULL},
        {76, 4, crc32c(0, bitmaps, 104), NULL},
        {at_a, 8, 1, NULL},
        {at_a + 12, 4, crc32c(0, l1, 24), NULL},
        {at_a + 16, 4, 2, NULL},
        {at_a + 24, 4, crc32c(0, first, CLUSTER), NULL},
        {at_a + 28, 4, crc32c(0, second, CLUSTER), NULL},
        {at_b, 8, 2, NULL},
        {at_b + 12, 4, crc32c(0, l1 + CLUSTER, 8), NULL},
        {at_backup, 8, UINT64_C(0x1122334455667788), NULL},
        {at_backup + 12, 4, crc32c(0, l1 + UINT64_C(2) * CLUSTER, 8), NULL},
        {at_backup + 16, 4, 1, NULL},
        {at_backup + 24, 4, crc32c(0, third, CLUSTER), NULL},
        {at_payload, 9, 0, "payload!?"},
    };
    EXPECT(blob, CLUSTER, state, put_le);
    for (uint64_t i = UINT64_C(13) * CLUSTER; i < size; i++) {
        assert_int_equal(b[i], 0);
    }
    simdisk_free(disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(empty_container),
        cmocka_unit_test(two_drives_three_bitmaps),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
