/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Bytes of records and of the state's payload: as they have always been, and as nobody would write
 * them.  Those are refused, or do no harm.
 */
#include "tests/drive/past.h"

#include "daemon/drive/internal.h"
#include "daemon/drive/record_codec.h"
#include "proto/base/endian.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MIB (UINT64_C(1) << 20)

/* ---- Records ---- */

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
        assert_int_equal(record_encoded_bytes(expected), golden[i].length);
        record_encode(expected, bytes);
        assert_memory_equal(bytes, golden[i].bytes, golden[i].length);
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

/* ---- The state ---- */

/* What model_open() begins with. */
static struct model *empty_model(uint64_t sequence)
{
    struct model *model = calloc(1, sizeof *model);
    assert_non_null(model);
    RB_INIT(&model->drives);
    RB_INIT(&model->drive_names);
    RB_INIT(&model->bitmaps);
    RB_INIT(&model->requests);
    TAILQ_INIT(&model->requests_order);
    TAILQ_INIT(&model->removed);
    TAILQ_INIT(&model->cache);
    model->settings.cluster_bits = 9;
    model->sequence = sequence;
    return model;
}

static void free_model(struct model *model)
{
    model_clear(model);
    free(model);
}

static void fill(struct harness *harness)
{
    struct record add = {.type = RECORD_DRIVE_ADD,
                         .name = text_of("d"),
                         .path = text_of("/dev/d"),
                         .identity = text_of("scsi wwid=x"),
                         .evidence = text_of("file size=1 mtime=1.000000000"),
                         .size = MIB,
                         .granularity = 4096,
                         .durability = DURABILITY_PROCESS_CRASH,
                         .request = {{1, 2, 3}}};
    assert_int_equal(harness_commit(harness, &add), 0);
    harness_add_drive(harness, "e", 5 * MIB + 1);
    harness_add_bitmap(harness, "d/b", 512, false);
    harness_add_bitmap(harness, "d/off", 512, true);
    past_create(harness, "d", "c0");
    harness_mark(harness, "d", 0, 100000);
    past_create(harness, "d", "c1");
    past_create(harness, "d", "c2");
    past_create(harness, "e", "only");
    static const char *const tokens[] = {"w0", "w1"};
    for (size_t i = 0; i < 2; i++) {
        struct writer_attachment how = {.token = text_of(tokens[i]), .continues = i == 1};
        struct writer *writer = past_attach(harness, "e", &how);
        past_mark(harness, writer, 1, 512, 512);
        writer_lost(harness->model, writer);
    }
    past_flush(harness);
}

static void the_state_is_checked(void **state)
{
    (void)state;
    struct harness harness;
    struct error error;
    uint8_t *payload, *again;
    size_t bytes, again_bytes;
    harness_init(&harness);
    harness_open(&harness);
    fill(&harness);
    assert_int_equal(state_encode(harness.model, &payload, &bytes), 0);
    uint64_t sequence = model_sequence(harness.model);
    harness_deinit(&harness);

    struct model *model = empty_model(sequence);
    assert_int_equal(state_decode(model, payload, bytes, &error), 0);
    /* Bits are no part of it, but how many there are of a checkpoint's. */
    struct drive *drive = model_drive_by_name(model, text_of("e"), NULL);
    bitmap_set(TAILQ_FIRST(&drive->history)->bits, 512, 512, 1);
    assert_int_equal(state_encode(model, &again, &again_bytes), 0);
    assert_int_equal(again_bytes, bytes);
    assert_memory_equal(again, payload, bytes);
    past_check_books(model);
    free(again);
    free_model(model);

    uint8_t *copy = malloc(bytes);
    assert_non_null(copy);
    for (size_t length = 0; length < bytes; length++) {
        uint8_t *cut = malloc(length ? length : 1);
        assert_non_null(cut);
        memcpy(cut, payload, length);
        model = empty_model(sequence);
        assert_int_equal(state_decode(model, cut, length, &error), -EBADMSG);
        free_model(model);
        free(cut);
    }
    unsigned taken = 0;
    for (size_t at = 0; at < bytes * 8; at++) {
        memcpy(copy, payload, bytes);
        copy[at / 8] ^= (uint8_t)(1u << at % 8);
        model = empty_model(sequence);
        int r = state_decode(model, copy, bytes, &error);
        assert_true(r == 0 || r == -EBADMSG || (r == -ENOTSUP && at < 32));
        if (r == 0) {
            taken++;
            past_check_books(model);
            assert_int_equal(state_encode(model, &again, &again_bytes), 0);
            free(again);
        }
        free_model(model);
    }
    print_message("%zu bytes, %u of %zu flipped bits are taken\n", bytes, taken, bytes * 8);
    free(copy);
    free(payload);
}

/* ---- Replays ---- */

static uint64_t seed;

static uint64_t below(uint64_t n)
{
    /* splitmix64 */
    uint64_t z = seed += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return (z ^ z >> 31) % n;
}

static size_t append_part(uint8_t *bytes, const struct record *record)
{
    uint32_t length = (uint32_t)record_encoded_bytes(record);
    store_le32(bytes, length);
    record_encode(record, bytes + 4);
    return 4 + length;
}

/* A record of any type that may well fit. */
static struct record random_record(struct model *model, bool part)
{
    static const char *const words[] = {"c0", "c1", "b", "x", "w", "d", ""};
    static struct range ranges[3];
    static uint64_t sources[2];
    struct record record = {
        .type = part ? RECORD_BITMAP_CREATE + (enum record_type)below(9)
                     : (enum record_type)below(RECORD_TYPES),
        .drive = 1 + below(model->next_id + 1),
        .bitmap = below(3) ? 1 + below(model->next_id + 1) : model->next_id,
        .name = text_of(words[below(7)]),
        .path = text_of("/p"),
        .identity = text_of(below(2) ? "i" : ""),
        .evidence = text_of(below(2) ? "e" : ""),
        .size = below(2) ? 1 + below(2 * MIB) : 4 * MIB,
        .untracked = (enum untracked)below(UNTRACKED_REASONS),
        .continues = below(2),
        .returning = below(2),
        .granularity = below(2) ? 512u << below(4) : 0,
        .durability = 1 + below(2),
        .force = below(2),
        .disabled = below(2),
        .ranges = ranges,
        .ranges_count = (uint32_t)below(3),
        .carried = ranges,
        .carried_count = (uint32_t)below(2),
        .carry_whole = below(4) == 0,
        .doubtful = below(4) == 0,
        .sources = sources,
        .sources_count = (uint32_t)below(3),
        .uuid = {(uint8_t)below(256)},
    };
    if (part && below(3) == 0) {
        record.type = below(2) ? RECORD_CHECKPOINT_CREATE : RECORD_CHECKPOINT_DELETE;
    }
    for (size_t i = 0; i < 3; i++) {
        ranges[i] = (struct range){below(MIB), 1 + below(MIB / 4)};
    }
    sources[0] = 1 + below(model->next_id);
    sources[1] = 1 + below(model->next_id);
    return record;
}

static void mutate(uint8_t *bytes, size_t length)
{
    for (uint64_t n = below(2); n > 0; n--) {
        bytes[below(length)] = (uint8_t)(below(2) ? below(256) : below(4));
    }
}

static int replay(struct model *model, const uint8_t *bytes, size_t length)
{
    uint8_t *copy = malloc(length);
    struct record_decoded decoded = {0};
    struct error error = {""};

    assert_non_null(copy);
    memcpy(copy, bytes, length);
    int r = record_decode(copy, length, &decoded, &error);
    if (r == 0) {
        model->replaying = true;
        model->loading = writeback_container(model->writeback);
        r = model_commit(model, &decoded.record, &error);
        model->loading = NULL;
        model->replaying = false;
    }
    assert_true(r == 0 || error.text[0] != '\0');
    record_decoded_deinit(&decoded);
    free(copy);
    return r;
}

static void replays_of_anything(void **state)
{
    (void)state;
    const char *given = getenv("BITMAPD_TEST_SEED");
    seed = given ? strtoull(given, NULL, 10) : (uint64_t)time(NULL);
    print_message("BITMAPD_TEST_SEED=%llu\n", (unsigned long long)seed);
    static uint8_t bytes[8192];
    unsigned applied = 0;
    for (unsigned round = 0; round < 8; round++) {
        struct harness harness;
        harness_init(&harness);
        harness_open(&harness);
        fill(&harness);
        past_restart(&harness); /* sealed bits are cold */
        for (unsigned i = 0; i < 500; i++) {
            struct record record = random_record(harness.model, false);
            uint8_t parts[4096];
            if (record.type == RECORD_TRANSACTION) {
                record.nested = parts;
                record.nested_bytes = 0;
                for (uint64_t n = 1 + below(4); n > 0; n--) {
                    struct record part = random_record(harness.model, below(8) > 0);
                    record.nested_bytes +=
                        (uint32_t)append_part(parts + record.nested_bytes, &part);
                }
                mutate(parts, record.nested_bytes);
            }
            size_t length = record_encoded_bytes(&record);
            assert_true(length <= sizeof bytes);
            record_encode(&record, bytes);
            mutate(bytes, length);
            applied += replay(harness.model, bytes, length) == 0;
            past_check_books(harness.model);
        }
        /* What has come of it can be written and read again. */
        past_restart(&harness);
        past_check_books(harness.model);
        harness_deinit(&harness);
    }
    print_message("%u were applied\n", applied);
    assert_true(applied > 100);
}

/* A transaction of these bytes in the journal; what a start makes of it. */
static void check_garbage(const void *parts, size_t length)
{
    struct harness harness;
    harness_init(&harness);
    harness_open(&harness);
    fill(&harness);
    struct record record = {
        .type = RECORD_TRANSACTION, .nested = parts, .nested_bytes = (uint32_t)length};
    assert_int_equal(harness_commit(&harness, &record), 0);
    harness_mark(&harness, "e", 4 * MIB, 512);
    past_crash(&harness);
    for (int i = 0; i < 2; i++) {
        struct model_status status;
        model_get_status(harness.model, &status);
        assert_int_equal(status.unknown_bitmaps, status.bitmaps);
        assert_string_equal(status.degraded_reason, "");
        past_check_books(harness.model);
        assert_int_equal(past_validity(&harness, "e", "only"), VALIDITY_UNKNOWN);
        past_restart(&harness);
    }
    past_create(&harness, "d", "next");
    assert_int_equal(past_validity(&harness, "d", "next"), VALIDITY_EXACT);
    harness_deinit(&harness);
}

static void garbage_in_the_journal_is_damage(void **state)
{
    (void)state;
    static uint8_t bytes[100000];
    struct range range = {0, 512};
    /* Ids as fill() gives them: drives 1 and 2, bitmaps from 3 on. */
    struct record set = {
        .type = RECORD_BITMAP_SET, .drive = 1, .bitmap = 3, .ranges = &range, .ranges_count = 1};
    struct record mark = {.type = RECORD_MARK, .drive = 1, .ranges = &range, .ranges_count = 1};
    struct record create = {.type = RECORD_CHECKPOINT_CREATE, .drive = 1, .bitmap = 9};
    struct record whole = {.type = RECORD_TRANSACTION, .nested = bytes};

    check_garbage("\1\0\0\0\0", 5);        /* too short to be a record */
    check_garbage("\0\0\0\0", 4);          /* of nothing */
    check_garbage("\1", 1);                /* not even a length */
    check_garbage("\377\377\377\377x", 5); /* longer than there is */
    size_t length = append_part(bytes, &set);
    memcpy(bytes + length, "\5\0\0\0abcde", 9);
    check_garbage(bytes, length + 9); /* one that can be applied comes before */
    check_garbage(bytes, length - 1);
    check_garbage(bytes, append_part(bytes, &mark)); /* what is no part */
    set.bitmap = 4711;
    check_garbage(bytes, append_part(bytes, &set)); /* about nothing */
    create.name = text_of("new");
    create.bitmap = 4711;
    check_garbage(bytes, append_part(bytes, &create)); /* making what it did not make */
    uint8_t inner[256];
    whole.nested = inner;
    set.bitmap = 3;
    whole.nested_bytes = (uint32_t)append_part(inner, &set);
    check_garbage(bytes, append_part(bytes, &whole)); /* another transaction */
    create.bitmap = 9;
    length = append_part(bytes, &create);
    create.bitmap = 10;
    create.name = text_of("newer");
    length += append_part(bytes + length, &create);
    check_garbage(bytes, length); /* two of one drive */
}

/* More checkpoints than there can be, which fits in no answer. */
static void too_many_checkpoints_in_the_journal(void **state)
{
    (void)state;
    struct harness harness;
    harness_init(&harness);
    harness_open(&harness);
    harness_add_drive(&harness, "d", MIB);
    uint64_t id = harness.model->next_id;
    for (unsigned i = 0; i < MODEL_CHECKPOINTS_MAX + 100; i++) {
        char name[16];
        uint8_t bytes[256];
        (void)snprintf(name, sizeof name, "c%u", i);
        struct record create = {
            .type = RECORD_CHECKPOINT_CREATE, .drive = 1, .bitmap = id++, .name = text_of(name)};
        struct record record = {.type = RECORD_TRANSACTION, .nested = bytes};
        record.nested_bytes = (uint32_t)append_part(bytes, &create);
        assert_int_equal(model_commit(harness.model, &record, &harness.error), 0);
    }
    past_crash(&harness);
    assert_true(harness_drive(&harness, "d")->checkpoints_count <= MODEL_CHECKPOINTS_MAX);
    assert_int_equal(past_validity(&harness, "d", "c0"), VALIDITY_UNKNOWN);
    harness_deinit(&harness);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_are_as_they_were),
        cmocka_unit_test(records_that_nobody_writes),
        cmocka_unit_test(the_state_is_checked),
        cmocka_unit_test(replays_of_anything),
        cmocka_unit_test(garbage_in_the_journal_is_damage),
        cmocka_unit_test(too_many_checkpoints_in_the_journal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
