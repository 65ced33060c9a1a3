/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What all tests of the journal share: its files in a simulated directory, and
 * records whose contents can be told from their sequence.
 */
#include "tests/journal/support.h"

#include "proto/base/endian.h"

#include <stdlib.h>
#include <string.h>

unsigned test_rounds(unsigned rounds)
{
    const char *text = getenv("BITMAPD_TEST_ROUNDS");
    unsigned long factor = text ? strtoul(text, NULL, 10) : 1;

    return rounds * (unsigned)(factor > 0 ? factor : 1);
}

struct journal_files test_files(struct simdir *dir)
{
    return (struct journal_files){.system = simdir_files(dir), .path = "j"};
}

struct journal_id test_id(uint64_t number)
{
    struct journal_id id;

    for (size_t i = 0; i < sizeof id.bytes; i += 8) {
        store_le64(id.bytes + i, simdisk_random(&number));
    }
    return id;
}

/*
 * Mostly short, some of a kilobyte, few long ones; of journals with even numbers half are long, so
 * that segments fill soon.
 */
static uint32_t record_length(uint64_t number, uint64_t hash)
{
    uint32_t random = (uint32_t)(hash >> 32);

    switch (hash % 16) {
    case 0:
        return 0;
    case 1:
        return random % (TEST_RECORD_BYTES_MAX + 1);
    case 2:
    case 3:
        return random % 1024;
    default:
        return number % 2 == 0 && random % 2 ? random % (TEST_RECORD_BYTES_MAX + 1)
                                             : 1 + random % 40;
    }
}

uint32_t test_record(uint64_t number, uint64_t sequence, uint8_t bytes[TEST_RECORD_BYTES_MAX])
{
    uint64_t random = number * UINT64_C(0x100000001b3) ^ sequence;
    uint32_t length = record_length(number, simdisk_random(&random));

    for (uint32_t at = 0; at < length; at += 8) {
        uint8_t word[8];
        store_le64(word, simdisk_random(&random));
        memcpy(bytes + at, word, length - at < 8 ? length - at : 8);
    }
    return length;
}

void test_batch_fill(struct test_batch *batch, uint64_t number, uint64_t first_seq, uint32_t count)
{
    assert_true(count <= 64);
    for (uint32_t i = 0; i < count; i++) {
        batch->records[i].bytes = batch->bytes[i];
        batch->records[i].length = test_record(number, first_seq + i, batch->bytes[i]);
    }
}

int test_append(struct journal *journal, uint64_t number, uint64_t first_seq, uint32_t count,
                struct error *error)
{
    return test_append_as(journal, number, first_seq, count, false, error);
}

int test_append_as(struct journal *journal, uint64_t number, uint64_t first_seq, uint32_t count,
                   bool durable, struct error *error)
{
    static struct test_batch batch;

    test_batch_fill(&batch, number, first_seq, count);
    return journal_append(journal, first_seq, batch.records, count, durable, error);
}

struct expectation {
    uint64_t number, next;
};

static int expect_record(void *opaque, uint64_t sequence, const uint8_t *bytes, size_t length,
                         struct error *error)
{
    struct expectation *expectation = opaque;
    static uint8_t expected[TEST_RECORD_BYTES_MAX];

    (void)error;
    assert_int_equal(sequence, expectation->next);
    assert_int_equal(length, test_record(expectation->number, sequence, expected));
    assert_memory_equal(bytes, expected, length);
    expectation->next++;
    return 0;
}

int test_replay(struct simdir *dir, uint64_t number, uint64_t applied_seq,
                struct journal_replay_report *ret, struct error *error)
{
    struct journal_files files = test_files(dir);
    struct journal_replay_options options = {
        .container = test_id(TEST_CONTAINER),
        .instance = test_id(number),
        .applied_seq = applied_seq,
    };
    struct expectation expectation = {.number = number, .next = applied_seq + 1};
    int r = journal_replay(&files, &options, expect_record, &expectation, ret, error);

    if (r == 0) {
        assert_int_equal(ret->last_seq, expectation.next - 1);
        assert_int_equal(ret->records, ret->last_seq - applied_seq);
        assert_true(ret->records == 0 || ret->highest_seq >= ret->last_seq);
    }
    return r;
}

struct journal *test_journal(struct simdir *dir, uint64_t number)
{
    struct journal_files files = test_files(dir);
    struct journal_id container = test_id(TEST_CONTAINER), instance = test_id(number);
    struct journal *journal = NULL;
    struct error error;

    OK(journal_create(&files, &container, &instance, TEST_SEGMENT_BYTES, &journal, &error), error);
    OK(journal_activate(journal, &error), error);
    return journal;
}
