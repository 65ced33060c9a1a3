/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_TESTS_JOURNAL_SUPPORT_H
#define BITMAPD_TESTS_JOURNAL_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/journal/internal.h"
#include "tests/common/simdir.h"

/* Asserts success of a call that fills an error, and shows its words otherwise. */
#define OK(call, error)                                       \
    do {                                                      \
        int ok_ = (call);                                     \
        if (ok_ != 0) {                                       \
            fail_msg("%s: %d, %s", #call, ok_, (error).text); \
        }                                                     \
    } while (0)

/* Sanitized programs are slow with many large disks: they try few of the places. */
#ifdef __SANITIZE_ADDRESS__
#define TEST_STRIDE 7u
#else
#define TEST_STRIDE 1u
#endif
/* @rounds times the environment's BITMAPD_TEST_ROUNDS, for long runs. */
unsigned test_rounds(unsigned rounds);

#define TEST_SEGMENT_BYTES (UINT64_C(1) << 20)

/* The journal's files in a simulated directory: "j.0" … */
struct journal_files test_files(struct simdir *dir);

struct journal_id test_id(uint64_t number);
#define TEST_CONTAINER 0xc0

/*
 * Records have contents that follow from the journal's number and their
 * sequence, so that what is replayed can be judged without keeping it.
 */
#define TEST_RECORD_BYTES_MAX 12288u

/* Up to 64 such records. */
struct test_batch {
    struct journal_record records[64];
    uint8_t bytes[64][TEST_RECORD_BYTES_MAX];
};

uint32_t test_record(uint64_t number, uint64_t sequence, uint8_t bytes[TEST_RECORD_BYTES_MAX]);
void test_batch_fill(struct test_batch *batch, uint64_t number, uint64_t first_seq, uint32_t count);

int test_append(struct journal *journal, uint64_t number, uint64_t first_seq, uint32_t count,
                struct error *error);
/* … for journal_append() with @durable. */
int test_append_as(struct journal *journal, uint64_t number, uint64_t first_seq, uint32_t count,
                   bool durable, struct error *error);

/* Replays, and fails the test unless records come in order from @applied_seq + 1 on with the
 * contents that they were given. */
int test_replay(struct simdir *dir, uint64_t number, uint64_t applied_seq,
                struct journal_replay_report *ret, struct error *error);

/* A new journal, activated; the instance is test_id(@number). */
struct journal *test_journal(struct simdir *dir, uint64_t number);

#endif
