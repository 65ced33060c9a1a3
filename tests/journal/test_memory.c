/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Each allocation of a small life of a journal fails once: the call says so,
 * leaves nothing behind, and does its work when it is repeated.
 */
#include "tests/journal/support.h"

#include <stdio.h>

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
void *__real_reallocarray(void *old, size_t count, size_t bytes);
void *__real_aligned_alloc(size_t align, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *old, size_t bytes);
void *__wrap_reallocarray(void *old, size_t count, size_t bytes);
void *__wrap_aligned_alloc(size_t align, size_t bytes);

static uint64_t countdown; /* the allocation that fails; 0: none */

static bool fails(void)
{
    return countdown != 0 && --countdown == 0;
}

void *__wrap_malloc(size_t bytes)
{
    return fails() ? NULL : __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes)
{
    return fails() ? NULL : __real_calloc(count, bytes);
}

void *__wrap_realloc(void *old, size_t bytes)
{
    return fails() ? NULL : __real_realloc(old, bytes);
}

void *__wrap_reallocarray(void *old, size_t count, size_t bytes)
{
    return fails() ? NULL : __real_reallocarray(old, count, bytes);
}

void *__wrap_aligned_alloc(size_t align, size_t bytes)
{
    return fails() ? NULL : __real_aligned_alloc(align, bytes);
}

static int take_record(void *opaque, uint64_t sequence, const uint8_t *bytes, size_t length,
                       struct error *error)
{
    (void)opaque;
    (void)sequence;
    (void)bytes;
    (void)length;
    (void)error;
    return 0;
}

/* What the call gives, the second time if memory ran out the first. */
#define TWICE(call, error, ran_out)                    \
    do {                                               \
        int twice_ = (call);                           \
        if (twice_ == -ENOMEM) {                       \
            assert_string_not_equal((error).text, ""); \
            (ran_out)++;                               \
            twice_ = (call);                           \
        }                                              \
        if (twice_ != 0) {                             \
            fail_msg("%d, %s", twice_, (error).text);  \
        }                                              \
    } while (0)

static unsigned life(const char *path)
{
    struct journal_replay_options options = {
        .container = test_id(TEST_CONTAINER), .instance = test_id(2), .applied_seq = 0};
    struct journal_id container = test_id(TEST_CONTAINER), new = test_id(2);
    struct journal_replay_report report;
    struct journal_files files = {.system = &file_system_posix, .path = path};
    struct journal *journal = NULL;
    struct error error = {.text = ""};
    unsigned ran_out = 0;

    TWICE(journal_create(&files, &container, &new, TEST_SEGMENT_BYTES, &journal, &error), error,
          ran_out);
    TWICE(journal_activate(journal, &error), error, ran_out);
    for (uint64_t i = 0; i < 4; i++) {
        TWICE(test_append(journal, 2, 1 + 5 * i, 5, &error), error, ran_out);
        TWICE(journal_sync(journal, &error), error, ran_out);
        assert_int_equal(journal_durable(journal), 5 + 5 * i);
    }
    journal_close(journal);
    TWICE(journal_replay(&files, &options, take_record, NULL, &report, &error), error, ran_out);
    assert_int_equal(report.last_seq, 20);
    assert_string_equal(report.damage, "");
    return ran_out;
}

static void test_each_allocation(void **state)
{
    char directory[] = "/tmp/bitmapd-journal-XXXXXX";
    char path[64], name[80];
    unsigned ran_out;
    uint64_t n = 0;

    (void)state;
    assert_non_null(mkdtemp(directory));
    (void)snprintf(path, sizeof path, "%s/journal", directory);
    do {
        countdown = ++n;
        ran_out = life(path);
        assert_int_equal(ran_out, countdown == 0);
        assert_true(n < 1000);
    } while (ran_out != 0);
    countdown = 0;
    assert_true(n > 12);

    for (unsigned i = 0; i < 2; i++) {
        (void)snprintf(name, sizeof name, "%s.%u", path, i);
        assert_int_equal(unlink(name), 0);
    }
    assert_int_equal(rmdir(directory), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_allocation),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
