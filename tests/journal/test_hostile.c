/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Bytes that nobody wrote: flipped bits, cut and missing files, versions from
 * the future, absurd numbers under a right CRC.  Never a wrong record (the
 * replay of the tests looks at each), never a crash, and damage wherever something
 * durable is gone and a later batch tells.
 */
#include "tests/journal/support.h"

#include "proto/base/crc32c.h"
#include "proto/base/endian.h"

#include <stdio.h>
#include <string.h>

static uint64_t seed;

/* Batches of segment 0 and, written there after a failed sync, of segment 1. */
static struct {
    const char *name;
    uint64_t first, last;
    bool again;      /* has a copy */
    uint64_t offset; /* found by locate() */
} batches[] = {
    {"j.0", 1, 3, false, 0},   {"j.0", 4, 4, false, 0},   {"j.0", 5, 9, true, 0},
    {"j.1", 5, 9, true, 0},    {"j.1", 10, 12, false, 0}, {"j.1", 13, 13, false, 0},
    {"j.1", 14, 15, false, 0},
};
#define BATCHES (sizeof batches / sizeof batches[0])
#define LAST    15u
/* Indices of some. */
#define COPY   2 /* of 5 to 9, in segment 0 */
#define TARGET 4 /* 10 to 12 */

/* All durable; the last watermark says so of those up to 13. */
static struct simdir *small_journal(void)
{
    CLEANUP(simdir_freep) struct simdir *dir = simdir_new(7);
    struct journal *journal = test_journal(dir, 1);
    struct simdir *after;
    struct error error;

    OK(test_append(journal, 1, 1, 3, &error), error);
    OK(journal_sync(journal, &error), error);
    OK(test_append(journal, 1, 4, 1, &error), error);
    OK(journal_sync(journal, &error), error);
    OK(test_append(journal, 1, 5, 5, &error), error);
    simdir_fail_at(dir, 1, 1, -EIO);
    assert_int_equal(journal_sync(journal, &error), -EIO);
    OK(test_append(journal, 1, 10, 3, &error), error);
    OK(journal_sync(journal, &error), error);
    OK(test_append(journal, 1, 13, 1, &error), error);
    OK(journal_sync(journal, &error), error);
    OK(test_append(journal, 1, 14, 2, &error), error);
    OK(journal_sync(journal, &error), error);
    journal_close(journal);
    after = simdir_crash(dir, SIMDIR_KILL, 1);
    return after;
}

static uint8_t *bytes_of(struct simdir *dir, const char *name)
{
    uint64_t size;
    return simdisk_bytes(simdir_disk(dir, name), &size);
}

static uint8_t *batch_at(struct simdir *dir, size_t i)
{
    return bytes_of(dir, batches[i].name) + batches[i].offset;
}

/* What batch @i takes, without padding. */
static uint32_t covered_bytes(struct simdir *dir, size_t i)
{
    return BATCH_HEADER_BYTES + load_le32(batch_at(dir, i) + BATCH_LENGTH);
}

static int locate(void **state)
{
    CLEANUP(simdir_freep) struct simdir *dir = small_journal();
    uint64_t offset = 0;

    (void)state;
    for (size_t i = 0; i < BATCHES; i++) {
        offset = i == 0 || strcmp(batches[i].name, batches[i - 1].name) != 0
                     ? JOURNAL_BLOCK_BYTES
                     : offset + journal_batch_padded_bytes(covered_bytes(dir, i - 1) -
                                                           BATCH_HEADER_BYTES);
        batches[i].offset = offset;
        assert_memory_equal(batch_at(dir, i), BATCH_MAGIC_VALUE, JOURNAL_MAGIC_BYTES);
        assert_int_equal(load_le64(batch_at(dir, i) + BATCH_FIRST_SEQ), batches[i].first);
    }
    return 0;
}

static struct journal_replay_report replay(struct simdir *dir, uint64_t applied)
{
    struct journal_replay_report report;
    struct error error;

    OK(test_replay(dir, 1, applied, &report, &error), error);
    return report;
}

static void check_untouched(struct simdir *dir)
{
    struct journal_replay_report report = replay(dir, 0);

    assert_true(report.found);
    assert_string_equal(report.damage, "");
    assert_int_equal(report.last_seq, LAST);
    assert_int_equal(report.watermark, 13);
}

static void test_sound(void **state)
{
    CLEANUP(simdir_freep) struct simdir *dir = small_journal();
    struct journal_replay_report report;

    (void)state;
    check_untouched(dir);
    for (uint64_t applied = 0; applied <= 20; applied++) {
        report = replay(dir, applied);
        assert_string_equal(report.damage, "");
        assert_int_equal(report.last_seq, applied > LAST ? applied : LAST);
        assert_int_equal(report.highest_seq, LAST);
    }
}

static void check_batch_gone(struct simdir *dir, size_t i)
{
    struct journal_replay_report report = replay(dir, 0);
    bool last = i == BATCHES - 1;

    assert_true(report.found);
    if (batches[i].again) {
        assert_string_equal(report.damage, "");
        assert_int_equal(report.last_seq, LAST);
        return;
    }
    assert_int_equal(report.last_seq, batches[i].first - 1);
    /* Nothing comes after the last to say that it was durable. */
    assert_int_equal(report.damage[0] == '\0', last);
    /* To a container that has it, it is no loss. */
    assert_string_equal(replay(dir, batches[i].last).damage, "");
}

static void test_flips_in_batches(void **state)
{
    CLEANUP(simdir_freep) struct simdir *dir = small_journal();
    uint64_t random = seed;

    (void)state;
    for (size_t i = 0; i < BATCHES; i++) {
        uint8_t *at = batch_at(dir, i);
        uint32_t covered = covered_bytes(dir, i);

        for (uint32_t byte = 0; byte < covered; byte += byte < 256 ? 1 : 29) {
            uint8_t bit = (uint8_t)(1u << simdisk_random(&random) % 8);
            at[byte] ^= bit;
            check_batch_gone(dir, i);
            at[byte] ^= bit;
        }
        for (uint32_t byte = covered; byte % 4096 != 0; byte += 512 - byte % 512) {
            at[byte] ^= 0x80;
            check_untouched(dir);
            at[byte] ^= 0x80;
        }
    }
    check_untouched(dir);
}

static void test_flips_in_headers(void **state)
{
    CLEANUP(simdir_freep) struct simdir *dir = small_journal();
    uint64_t random = seed;

    (void)state;
    for (unsigned index = 0; index < 2; index++) {
        uint8_t *at = bytes_of(dir, index ? "j.1" : "j.0");

        for (uint32_t byte = 0; byte < 4096; byte += byte < 64 ? 1 : 61) {
            struct journal_replay_report report;
            uint8_t bit = (uint8_t)(1u << simdisk_random(&random) % 8);

            at[byte] ^= bit;
            report = replay(dir, 0);
            at[byte] ^= bit;
            /* The other one is sound, and all batches are still found. */
            assert_true(report.found);
            assert_string_not_equal(report.damage, "");
            assert_int_equal(report.last_seq, LAST);
        }
    }
    check_untouched(dir);
}

static void test_missing(void **state)
{
    static const char *const names[] = {"j.0", "j.1"};

    (void)state;
    for (unsigned gone = 1; gone < 4; gone++) {
        CLEANUP(simdir_freep) struct simdir *dir = small_journal();
        struct journal_replay_report report;

        for (unsigned i = 0; i < 2; i++) {
            if (gone & 1u << i) {
                assert_int_equal(simdir_unlink(dir, names[i]), 0);
            }
        }
        report = replay(dir, 0);
        assert_int_equal(report.found, gone != 3);
        assert_string_not_equal(report.damage, "");
        assert_int_equal(report.last_seq, gone == 2 ? 9 : 0);
    }
}

static void test_cut(void **state)
{
    static const uint64_t sizes[] = {0,
                                     1,
                                     4095,
                                     4096,
                                     4097,
                                     8191,
                                     8192,
                                     12288,
                                     20480,
                                     TEST_SEGMENT_BYTES - 4096,
                                     TEST_SEGMENT_BYTES - 1};

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        for (unsigned index = 0; index < 2; index++) {
            CLEANUP(simdir_freep) struct simdir *dir = small_journal();
            struct journal_replay_report report;

            simdir_cut(dir, index ? "j.1" : "j.0", sizes[i]);
            report = replay(dir, 0);
            assert_true(report.found);
            assert_string_not_equal(report.damage, "");
            if (sizes[i] >= 1 << 17) {
                assert_int_equal(report.last_seq, LAST);
            }
        }
    }
}

static void test_others(void **state)
{
    CLEANUP(simdir_freep) struct simdir *dir = small_journal();
    struct journal_files files = test_files(dir);
    struct journal_replay_options options = {
        .container = test_id(TEST_CONTAINER + 1), .instance = test_id(1), .applied_seq = 0};
    struct journal_replay_report report;
    struct error error;

    (void)state;
    OK(journal_replay(&files, &options, NULL, NULL, &report, &error), error);
    assert_false(report.found);
    assert_int_equal(report.highest_seq, 0);
    options = (struct journal_replay_options){
        .container = test_id(TEST_CONTAINER), .instance = test_id(2), .applied_seq = 0};
    OK(journal_replay(&files, &options, NULL, NULL, &report, &error), error);
    assert_false(report.found);
    assert_int_equal(report.highest_seq, 0);
}

static void seal_segment(uint8_t *block)
{
    store_le32(block + SEGMENT_CRC, 0);
    store_le32(block + SEGMENT_CRC, crc32c(0, block, 4096));
}

static void seal_batch(uint8_t *batch)
{
    store_le32(batch + BATCH_CRC, 0);
    store_le32(batch + BATCH_CRC, crc32c(0, batch, BATCH_HEADER_BYTES));
}

static void test_versions(void **state)
{
    CLEANUP(simdir_freep) struct simdir *dir = small_journal();
    struct journal_id new = test_id(2);
    struct journal_replay_report report;
    struct error error;
    uint8_t *block = bytes_of(dir, "j.1"), saved[4096];

    (void)state;
    memcpy(saved, block, sizeof saved);
    store_le32(block + SEGMENT_VERSION, 4);
    seal_segment(block);
    assert_int_equal(test_replay(dir, 1, 0, &report, &error), -ENOTSUP);
    assert_non_null(strstr(error.text, "found 4, expected at most 3"));
    store_le32(block + SEGMENT_VERSION, 0);
    seal_segment(block);
    assert_string_not_equal(replay(dir, 0).damage, "");
    /* Flags and their version go together. */
    static const struct {
        uint32_t version, flags;
        bool sound;
    } flagged[] = {{1, 0, true}, {2, 1, true},  {1, 1, false}, {3, 1, true},
                   {2, 0, true}, {2, 2, false}, {2, 3, false}, {3, 2, false}};
    for (size_t i = 0; i < sizeof flagged / sizeof flagged[0]; i++) {
        store_le32(block + SEGMENT_VERSION, flagged[i].version);
        store_le32(block + SEGMENT_FLAGS, flagged[i].flags);
        seal_segment(block);
        report = replay(dir, 0);
        assert_int_equal(report.damage[0] == '\0', flagged[i].sound);
        assert_int_equal(report.memory, flagged[i].sound && flagged[i].flags == 1);
    }
    /* Of an instance that the container does not name: nobody's. */
    store_le32(block + SEGMENT_VERSION, 4);
    store_le32(block + SEGMENT_FLAGS, 0);
    memcpy(block + SEGMENT_INSTANCE, new.bytes, sizeof new.bytes);
    seal_segment(block);
    assert_non_null(strstr(replay(dir, 0).damage, "segment 1"));
    memcpy(block, saved, sizeof saved);

    block = batch_at(dir, 1);
    store_le32(block + BATCH_VERSION, 77);
    seal_batch(block);
    assert_int_equal(test_replay(dir, 1, 0, &report, &error), -ENOTSUP);
    assert_non_null(strstr(error.text, "found 77, expected at most 1"));
    store_le32(block + BATCH_VERSION, 0);
    seal_batch(block);
    assert_string_not_equal(replay(dir, 0).damage, "");
}

/* Numbers that no daemon writes, in a header whose CRC is right. */
static void test_absurd_batches(void **state)
{
    static const struct {
        uint32_t field;
        uint32_t bits;
        uint64_t value;
    } absurd[] = {
        {BATCH_FIRST_SEQ, 64, 0},
        {BATCH_FIRST_SEQ, 64, UINT64_MAX},
        {BATCH_FIRST_SEQ, 64, UINT64_C(1) << 63},
        {BATCH_FIRST_SEQ, 64, (UINT64_C(1) << 63) - 1},
        {BATCH_COUNT, 32, 0},
        {BATCH_COUNT, 32, UINT32_MAX},
        {BATCH_COUNT, 32, 2},
        {BATCH_COUNT, 32, 4},
        {BATCH_LENGTH, 32, UINT32_MAX},
        {BATCH_LENGTH, 32, (4u << 20) + 1},
        {BATCH_LENGTH, 32, 4u << 20}, /* over the segment's end */
        {BATCH_LENGTH, 32, 0},
        {BATCH_WATERMARK, 64, UINT64_MAX},
        {BATCH_WATERMARK, 64, 10},
    };

    (void)state;
    for (size_t i = 0; i < sizeof absurd / sizeof absurd[0]; i++) {
        CLEANUP(simdir_freep) struct simdir *dir = small_journal();
        uint8_t *batch = batch_at(dir, TARGET);
        struct journal_replay_report report;
        char where[64];

        if (absurd[i].bits == 64) {
            store_le64(batch + absurd[i].field, absurd[i].value);
        } else {
            store_le32(batch + absurd[i].field, (uint32_t)absurd[i].value);
        }
        seal_batch(batch);
        report = replay(dir, 0);
        (void)snprintf(where, sizeof where, "segment 1, batch at offset %" PRIu64,
                       batches[TARGET].offset);
        assert_non_null(strstr(report.damage, where));
        assert_int_equal(report.last_seq, 9);
        assert_int_equal(report.highest_seq, LAST);
        assert_int_equal(report.watermark, 13);
    }
}

static void test_absurd_segments(void **state)
{
    static const uint64_t lengths[] = {
        0, 4096, TEST_SEGMENT_BYTES + 1, UINT64_C(1) << 62, UINT64_MAX, TEST_SEGMENT_BYTES + 4096};

    (void)state;
    for (size_t i = 0; i <= sizeof lengths / sizeof lengths[0]; i++) {
        CLEANUP(simdir_freep) struct simdir *dir = small_journal();
        uint8_t *block = bytes_of(dir, "j.0");
        struct journal_replay_report report;

        if (i < sizeof lengths / sizeof lengths[0]) {
            store_le64(block + SEGMENT_LENGTH, lengths[i]);
        } else {
            store_le32(block + SEGMENT_INDEX, 2);
        }
        seal_segment(block);
        report = replay(dir, 0);
        assert_string_not_equal(report.damage, "");
        assert_int_equal(report.last_seq, LAST);
    }
}

/* Records whose framing does not add up under a right CRC. */
static void test_framing(void **state)
{
    static const uint32_t lengths[] = {UINT32_MAX, UINT32_MAX - 3, 1u << 20, 0x80000000u};

    (void)state;
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        CLEANUP(simdir_freep) struct simdir *dir = small_journal();
        uint8_t *batch = batch_at(dir, TARGET);

        store_le32(batch + BATCH_HEADER_BYTES, lengths[i]);
        store_le32(batch + BATCH_RECORDS_CRC,
                   crc32c(0, batch + BATCH_HEADER_BYTES, load_le32(batch + BATCH_LENGTH)));
        seal_batch(batch);
        assert_non_null(strstr(replay(dir, 0).damage, "length of a record"));
        assert_int_equal(replay(dir, 0).last_seq, 9);
    }
}

/* Two batches that claim the same sequences with different contents, or overlap. */
static void test_contradictions(void **state)
{
    (void)state;
    for (unsigned kind = 0; kind < 3; kind++) {
        CLEANUP(simdir_freep) struct simdir *dir = small_journal();
        uint8_t *copy = batch_at(dir, COPY);
        struct journal_replay_report report;

        if (kind == 0) {
            copy[BATCH_HEADER_BYTES + load_le32(copy + BATCH_LENGTH) - 1] ^= 1;
            store_le32(copy + BATCH_RECORDS_CRC,
                       crc32c(0, copy + BATCH_HEADER_BYTES, load_le32(copy + BATCH_LENGTH)));
        } else {
            store_le64(copy + BATCH_FIRST_SEQ, kind == 1 ? 7 : 8);
        }
        seal_batch(copy);
        report = replay(dir, 0);
        assert_int_equal(report.last_seq, 4);
        assert_non_null(strstr(report.damage, "otherwise"));
        /* Below what the container has it does not matter. */
        report = replay(dir, 12);
        assert_string_equal(report.damage, "");
        assert_int_equal(report.last_seq, LAST);
    }
}

/* Copies of the files under the temporary names change nothing, and neither does rubbish there. */
static void test_rubbish_beside(void **state)
{
    CLEANUP(simdir_freep) struct simdir *dir = small_journal();
    struct file *file = NULL;
    uint8_t *bytes;
    uint64_t size, random = seed;

    (void)state;
    bytes = simdisk_bytes(simdir_disk(dir, "j.1"), &size);
    assert_int_equal(simdir_open(dir, "j.0.new", true, &file), 0);
    assert_int_equal(file_write(file, bytes, size, 0), 0);
    file_close(file);
    check_untouched(dir);
    assert_int_equal(simdir_open(dir, "j.1.new", true, &file), 0);
    for (uint64_t at = 0; at < 65536; at += 8) {
        uint64_t word = simdisk_random(&random);
        assert_int_equal(file_write(file, &word, 8, at), 0);
    }
    file_close(file);
    check_untouched(dir);
}

/* A file whose header is lost, so that only its batches tell that they are another journal's. */
static void test_strangers_batches(void **state)
{
    (void)state;
    for (unsigned kind = 0; kind < 2; kind++) {
        CLEANUP(simdir_freep) struct simdir *dir = small_journal();
        CLEANUP(simdir_freep) struct simdir *other = simdir_new(8);
        struct journal_files files = test_files(other);
        struct journal_id container = test_id(TEST_CONTAINER + kind), instance = test_id(2 - kind);
        struct journal *journal = NULL;
        struct file *file = NULL;
        struct error error;
        uint64_t size;
        uint8_t *bytes;

        OK(journal_create(&files, &container, &instance, TEST_SEGMENT_BYTES, &journal, &error),
           error);
        OK(test_append(journal, 3, 5, 40, &error), error);
        journal_close(journal);
        bytes = simdisk_bytes(simdir_disk(other, "j.0.new"), &size);
        memset(bytes, 0, 4096);
        assert_int_equal(simdir_open(dir, "j.0.new", true, &file), 0);
        assert_int_equal(file_write(file, bytes, size, 0), 0);
        file_close(file);
        check_untouched(dir);
    }
}

static void test_read_fails(void **state)
{
    CLEANUP(simdir_freep) struct simdir *dir = small_journal();
    bool failed = true;

    (void)state;
    for (uint64_t call = 1; failed; call++) {
        struct journal_replay_report report = {.records = 77};
        struct error error = {.text = ""};
        int r;

        simdir_fail_at(dir, call, 1, -EIO);
        r = test_replay(dir, 1, 0, &report, &error);
        failed = simdir_failed(dir);
        assert_int_equal(r, failed ? -EIO : 0);
        if (failed) {
            assert_int_equal(report.records, 77);
            assert_string_not_equal(error.text, "");
        }
        assert_true(failed || call > 8);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sound),
        cmocka_unit_test(test_flips_in_batches),
        cmocka_unit_test(test_flips_in_headers),
        cmocka_unit_test(test_missing),
        cmocka_unit_test(test_cut),
        cmocka_unit_test(test_others),
        cmocka_unit_test(test_versions),
        cmocka_unit_test(test_absurd_batches),
        cmocka_unit_test(test_absurd_segments),
        cmocka_unit_test(test_framing),
        cmocka_unit_test(test_contradictions),
        cmocka_unit_test(test_rubbish_beside),
        cmocka_unit_test(test_strangers_batches),
        cmocka_unit_test(test_read_fails),
    };

    seed = simdisk_seed();
    return cmocka_run_group_tests(tests, locate, NULL);
}
