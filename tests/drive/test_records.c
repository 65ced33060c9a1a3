/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Bytes of records: as they have always been, and as nobody would write them.  Those are refused.
 */
#include "tests/drive/harness.h"

#include "daemon/drive/record_codec.h"

#include <stdlib.h>
#include <string.h>

static const uint8_t golden_checkpoint[] = {
    21,   0x44, 0,    6,                         /* type, carried whole and doubtful, untracked */
    0,    2,    0,    0,                         /* granularity */
    1,    0,    0,    0,    0,    0,    0,    0, /* drive */
    2,    0,    0,    0,    0,    0,    0,    0, /* bitmap */
    0,    0,    0,    0,    0,    0,    0,    0, /* size */
    2,    0,    'c',  '1',                       /* name */
    0,    0,                                     /* path */
    0,    0,    0,    0,                         /* ranges */
    1,    0,    0,    0,                         /* carried */
    0,    16,   0,    0,    0,    0,    0,    0,    1, 0, 0,  0,  0,  0,  0,  0,
    0,    0,    0,    0,                                                          /* sources */
    0xa0, 1,    2,    3,    4,    5,    6,    7,    8, 9, 10, 11, 12, 13, 14, 15, /* UUID */
    0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,                               /* created */
};

static const uint8_t golden_attach[] = {
    15,   0xb8, 0,   0,                 /* type; request, continues, returning, identity */
    0,    0,    0,   0,                 /* granularity */
    9,    0,    0,   0,   0,   0, 0, 0, /* drive */
    0,    0,    0,   0,   0,   0, 0, 0, /* bitmap */
    0,    0,    0,   0,   0,   0, 0, 0, /* size */
    0xee, 0,    0,   0,   0,   0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, /* request */
    1,    0,    'w', 0,   0,                                       /* name, path */
    3,    0,    'i', 'd', '1',                                     /* identity */
    2,    0,    'e', 'v',                                          /* evidence */
    0,    0,    0,   0,   0,   0, 0, 0, 0, 0, 0, 0,                /* ranges, carried, sources */
};

static const uint8_t golden_transaction[] = {
    26,   0,    0,    0,                            /* type */
    0,    0,    0,    0,                            /* granularity */
    0,    0,    0,    0,    0, 0, 0, 0,             /* drive */
    4,    0,    0,    0,    0, 0, 0, 0,             /* bitmap */
    0,    0,    0,    0,    0, 0, 0, 0,             /* size */
    0,    0,    0,    0,                            /* name, path */
    0,    0,    0,    0,    0, 0, 0, 0, 0, 0, 0, 0, /* ranges, carried, sources */
    0xde, 0xad, 0xbe, 0xef, 1,                      /* its records */
};

/* Marks of whole sectors are short; one of a single byte is not. */
static const uint8_t golden_mark[] = {
    14,   0,    0x80, 0,                            /* type, short */
    2,    0,    0,    0,                            /* ranges */
    3,    0,    0,    0,    0,    0,    0,    0,    /* drive */
    0x02, 0,    0x80, 0,    0,    0,    0,    0,    /* sector 8, 2 of them */
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, /* the last that fits, the most */
};
static const struct range sector_ranges[] = {
    {4096, 1024}, {((UINT64_C(1) << 44) - 1) * 512, ((UINT64_C(1) << 20) - 1) * 512}};

/* The same as journals of version 2 have it. */
static const uint8_t golden_mark_packed[] = {
    14,   0,    0,    0,                            /* type */
    0,    2,    0,    0,                            /* granularity: packed */
    3,    0,    0,    0,    0,    0,    0,    0,    /* drive */
    0,    0,    0,    0,    0,    0,    0,    0,    /* bitmap */
    0,    0,    0,    0,    0,    0,    0,    0,    /* size */
    0,    0,    0,    0,                            /* name, path */
    2,    0,    0,    0,                            /* ranges */
    0x02, 0,    0x80, 0,    0,    0,    0,    0,    /* sector 8, 2 of them */
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, /* the last that fits, the most */
    0,    0,    0,    0,    0,    0,    0,    0,    /* carried, sources */
};

static const uint8_t golden_mark_of_bytes[] = {
    14, 0,    0, 0,             /* type */
    0,  0,    0, 0,             /* granularity */
    3,  0,    0, 0, 0, 0, 0, 0, /* drive */
    0,  0,    0, 0, 0, 0, 0, 0, /* bitmap */
    0,  0,    0, 0, 0, 0, 0, 0, /* size */
    0,  0,    0, 0,             /* name, path */
    1,  0,    0, 0,             /* ranges */
    0,  0x10, 0, 0, 0, 0, 0, 0, /* offset */
    1,  0,    0, 0, 0, 0, 0, 0, /* length */
    0,  0,    0, 0, 0, 0, 0, 0, /* carried, sources */
};

static const struct range one_range = {4096, 1};
static const uint8_t nested[] = {0xde, 0xad, 0xbe, 0xef, 1};

static const struct golden {
    const uint8_t *bytes;
    size_t length;
    struct record record;
} golden[] = {
    {golden_checkpoint,
     sizeof golden_checkpoint,
     {.type = RECORD_CHECKPOINT_CREATE,
      .drive = 1,
      .bitmap = 2,
      .name = {"c1", 2},
      .granularity = 512,
      .untracked = UNTRACKED_NO_PATH,
      .carry_whole = true,
      .doubtful = true,
      .carried = &one_range,
      .carried_count = 1,
      .created_ns = UINT64_C(0x1122334455667788),
      .uuid = {0xa0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}}},
    {golden_attach,
     sizeof golden_attach,
     {.type = RECORD_ATTACH,
      .drive = 9,
      .name = {"w", 1},
      .identity = {"id1", 3},
      .evidence = {"ev", 2},
      .continues = true,
      .returning = true,
      .request = {{0xee, [15] = 0xff}}}},
    {golden_mark,
     sizeof golden_mark,
     {.type = RECORD_MARK, .drive = 3, .ranges = sector_ranges, .ranges_count = 2}},
    {golden_mark_packed,
     sizeof golden_mark_packed,
     {.type = RECORD_MARK, .drive = 3, .ranges = sector_ranges, .ranges_count = 2}},
    {golden_mark_of_bytes,
     sizeof golden_mark_of_bytes,
     {.type = RECORD_MARK, .drive = 3, .ranges = &one_range, .ranges_count = 1}},
    {golden_transaction,
     sizeof golden_transaction,
     {.type = RECORD_TRANSACTION, .bitmap = 4, .nested = nested, .nested_bytes = sizeof nested}},
};

static void check_text(struct text found, struct text expected)
{
    assert_int_equal(found.bytes, expected.bytes);
    if (expected.bytes) {
        assert_memory_equal(found.data, expected.data, expected.bytes);
    }
}

static void records_are_as_they_were(void **state)
{
    (void)state;
    struct error error;
    for (size_t i = 0; i < sizeof golden / sizeof golden[0]; i++) {
        const struct record *expected = &golden[i].record;
        uint8_t bytes[256];
        if (golden[i].bytes != golden_mark_packed) {
            assert_int_equal(record_encoded_bytes(expected), golden[i].length);
            record_encode(expected, bytes);
            assert_memory_equal(bytes, golden[i].bytes, golden[i].length);
        }
        struct record_decoded decoded = {0};
        assert_int_equal(record_decode(golden[i].bytes, golden[i].length, &decoded, &error), 0);
        const struct record *found = &decoded.record;
        assert_int_equal(found->type, expected->type);
        assert_int_equal(found->drive, expected->drive);
        assert_int_equal(found->bitmap, expected->bitmap);
        assert_int_equal(found->granularity, expected->granularity);
        assert_int_equal(found->untracked, expected->untracked);
        assert_int_equal(found->continues, expected->continues);
        assert_int_equal(found->returning, expected->returning);
        assert_int_equal(found->doubtful, expected->doubtful);
        assert_int_equal(found->carry_whole, expected->carry_whole);
        assert_int_equal(found->ranges_count, expected->ranges_count);
        for (uint32_t k = 0; k < expected->ranges_count; k++) {
            assert_int_equal(found->ranges[k].offset, expected->ranges[k].offset);
            assert_int_equal(found->ranges[k].length, expected->ranges[k].length);
        }
        assert_int_equal(found->carried_count, expected->carried_count);
        assert_int_equal(found->created_ns, expected->created_ns);
        assert_memory_equal(found->uuid, expected->uuid, sizeof found->uuid);
        assert_memory_equal(&found->request, &expected->request, sizeof found->request);
        check_text(found->name, expected->name);
        check_text(found->identity, expected->identity);
        check_text(found->evidence, expected->evidence);
        check_text((struct text){(const char *)found->nested, found->nested_bytes},
                   (struct text){(const char *)expected->nested, expected->nested_bytes});
        record_decoded_deinit(&decoded);
    }
}

/* In memory of just that size, so that a sanitizer sees who reads on. */
static int decode_exactly(const uint8_t *bytes, size_t length)
{
    uint8_t *copy = malloc(length ? length : 1);
    struct record_decoded decoded = {0};
    struct error error = {""};

    assert_non_null(copy);
    memcpy(copy, bytes, length);
    int r = record_decode(copy, length, &decoded, &error);
    struct range ranges[2];
    uint64_t drive = 0;
    uint32_t count = record_decode_mark(copy, length, &drive, ranges, 2);
    if (count > 0) {
        assert_int_equal(r, 0);
        assert_int_equal(decoded.record.type, RECORD_MARK);
        assert_int_equal(decoded.record.drive, drive);
        assert_int_equal(decoded.record.ranges_count, count);
        assert_memory_equal(decoded.record.ranges, ranges, count * sizeof ranges[0]);
    }
    if (r == 0) {
        size_t again = record_encoded_bytes(&decoded.record);
        uint8_t *encoded = malloc(again);
        assert_non_null(encoded);
        record_encode(&decoded.record, encoded);
        free(encoded);
    } else {
        assert_int_equal(r, -EBADMSG);
        assert_true(error.text[0] != '\0');
    }
    record_decoded_deinit(&decoded);
    free(copy);
    return r;
}

static void records_that_nobody_writes(void **state)
{
    (void)state;
    uint8_t bytes[256];
    for (size_t i = 0; i < sizeof golden / sizeof golden[0]; i++) {
        size_t whole = golden[i].length;
        bool transaction = golden[i].record.type == RECORD_TRANSACTION;
        for (size_t length = 0; length < whole; length++) {
            int r = decode_exactly(golden[i].bytes, length);
            /* Of a transaction, all behind its head is its records'. */
            assert_int_equal(r, transaction && length >= whole - sizeof nested ? 0 : -EBADMSG);
        }
        for (size_t at = 0; at < whole * 8; at++) {
            memcpy(bytes, golden[i].bytes, whole);
            bytes[at / 8] ^= (uint8_t)(1u << at % 8);
            (void)decode_exactly(bytes, whole);
        }
        memcpy(bytes, golden[i].bytes, whole);
        bytes[whole] = 0;
        assert_int_equal(decode_exactly(bytes, whole + 1), transaction ? 0 : -EBADMSG);
        memcpy(bytes, golden[i].bytes, whole);
        bytes[0] = RECORD_TYPES;
        assert_int_equal(decode_exactly(bytes, whole), -EBADMSG);
        bytes[0] = golden[i].bytes[0];
        bytes[3] = UNTRACKED_REASONS;
        assert_int_equal(decode_exactly(bytes, whole), -EBADMSG);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_are_as_they_were),
        cmocka_unit_test(records_that_nobody_writes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
