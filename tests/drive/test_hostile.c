/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Bytes of the state's payload, and records in the journal, as nobody would write them: they are
 * refused, or do no harm.
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
        cmocka_unit_test(the_state_is_checked),
        cmocka_unit_test(replays_of_anything),
        cmocka_unit_test(garbage_in_the_journal_is_damage),
        cmocka_unit_test(too_many_checkpoints_in_the_journal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
