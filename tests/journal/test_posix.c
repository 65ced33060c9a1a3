/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The same through the kernel: names, replacement, what is refused.
 */
#include "tests/journal/support.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static char directory[] = "/tmp/bitmapd-journal-XXXXXX";
static char path[64];

static const char *full(const char *name)
{
    static char text[80];
    (void)snprintf(text, sizeof text, "%s.%s", path, name);
    return text;
}

static int set_up(void **state)
{
    (void)state;
    if (!mkdtemp(directory)) {
        return -1;
    }
    (void)snprintf(path, sizeof path, "%s/journal", directory);
    return 0;
}

static int tear_down(void **state)
{
    static const char *const names[] = {"0", "1", "0.new", "1.new"};

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        (void)unlink(full(names[i]));
    }
    return rmdir(directory);
}

static int count_record(void *opaque, uint64_t sequence, const uint8_t *bytes, size_t length,
                        struct error *error)
{
    (void)sequence;
    (void)bytes;
    (void)length;
    (void)error;
    ++*(uint64_t *)opaque;
    return 0;
}

static struct journal_replay_report replay(uint64_t number, uint64_t applied)
{
    struct journal_replay_options options = {
        .container = test_id(TEST_CONTAINER), .instance = test_id(number), .applied_seq = applied};
    struct journal_replay_report report;
    struct journal_files files = {.system = &file_system_posix, .path = path};
    struct error error;
    uint64_t records = 0;

    OK(journal_replay(&files, &options, count_record, &records, &report, &error), error);
    assert_int_equal(records, report.records);
    return report;
}

static void test_starts(void **state)
{
    struct journal_id container = test_id(TEST_CONTAINER);
    struct journal_replay_report report;
    struct journal_files files = {.system = &file_system_posix, .path = path};
    struct journal *journal = NULL;
    struct error error;
    struct stat st;

    (void)state;
    report = replay(1, 5);
    assert_false(report.found);
    assert_string_not_equal(report.damage, "");
    assert_int_equal(report.last_seq, 5);

    for (uint64_t number = 1; number < 4; number++) {
        struct journal_id instance = test_id(number);

        OK(journal_create(&files, &container, &instance, TEST_SEGMENT_BYTES, &journal, &error),
           error);
        assert_int_equal(stat(full("0.new"), &st), 0);
        assert_int_equal(st.st_size, TEST_SEGMENT_BYTES);
        assert_int_equal(st.st_mode & 07777, 0600);
        assert_true((uint64_t)st.st_blocks * 512 >= TEST_SEGMENT_BYTES);
        OK(journal_activate(journal, &error), error);
        assert_int_equal(stat(full("0.new"), &st), -1);
        assert_int_equal(stat(full("1.new"), &st), -1);
        for (uint64_t i = 0; i < 10; i++) {
            OK(test_append_as(journal, number, 1 + i * 3, 3, i % 2 == 1, &error), error);
            assert_int_equal(journal_durable(journal), i % 2 ? 3 + i * 3 : i * 3);
            OK(journal_sync(journal, &error), error);
        }
        assert_int_equal(journal_durable(journal), 30);
        journal_close(journal);

        report = replay(number, 10);
        assert_true(report.found);
        assert_string_equal(report.damage, "");
        assert_int_equal(report.last_seq, 30);
        assert_int_equal(report.watermark, 27);
        assert_false(replay(number - 1, 0).found);
    }

    assert_int_equal(unlink(full("1")), 0);
    report = replay(3, 0);
    assert_true(report.found);
    assert_int_equal(report.last_seq, 30);
    assert_non_null(strstr(report.damage, "segment 1"));
}

/* A FIFO or a directory under a name neither hangs nor gets replaced by accident. */
static void test_strange_files(void **state)
{
    struct journal_replay_options options = {
        .container = test_id(TEST_CONTAINER), .instance = test_id(1), .applied_seq = 0};
    struct journal_id container = test_id(TEST_CONTAINER), instance = test_id(9);
    struct journal_replay_report report;
    struct journal_files files = {.system = &file_system_posix, .path = path};
    struct journal *journal = NULL;
    uint64_t records = 0;
    struct error error;

    (void)state;
    assert_int_equal(mkfifo(full("1.new"), 0600), 0);
    assert_int_equal(journal_replay(&files, &options, count_record, &records, &report, &error),
                     -EINVAL);
    assert_non_null(strstr(error.text, "journal.1.new"));
    assert_int_equal(unlink(full("1.new")), 0);

    assert_int_equal(mkdir(full("1.new"), 0700), 0);
    assert_true(
        journal_create(&files, &container, &instance, TEST_SEGMENT_BYTES, &journal, &error) < 0);
    assert_null(journal);
    assert_non_null(strstr(error.text, "journal.1.new"));
    assert_int_equal(rmdir(full("1.new")), 0);
}

#define LARGE_BYTES  60000u
#define LARGE_PADDED 61440u /* of a batch with one such record */
#define LARGE_COUNT  10u

/* As the first record is handed out, the last one's bytes become others. */
static int spoil_last(void *opaque, uint64_t sequence, const uint8_t *bytes, size_t length,
                      struct error *error)
{
    (void)error;
    ++*(uint64_t *)opaque;
    assert_int_equal(length, LARGE_BYTES);
    assert_int_equal(bytes[0], sequence);
    if (sequence == 1) {
        int fd = open(full("0"), O_WRONLY | O_CLOEXEC);
        assert_true(fd >= 0);
        assert_int_equal(pwrite(fd, "?", 1, 4096 + (LARGE_COUNT - 1) * LARGE_PADDED + 5000), 1);
        assert_int_equal(close(fd), 0);
    }
    return 0;
}

/* Batches are read twice; what a disk gives the second time is not believed either. */
static void test_other_bytes(void **state)
{
    struct journal_replay_options options = {.container = test_id(TEST_CONTAINER),
                                             .instance = test_id(1)};
    struct journal_files files = {.system = &file_system_posix, .path = path};
    static uint8_t bytes[LARGE_BYTES];
    struct journal_replay_report report;
    struct journal *journal = NULL;
    uint64_t records = 0;
    struct error error;

    (void)state;
    OK(journal_create(&files, &options.container, &options.instance, TEST_SEGMENT_BYTES, &journal,
                      &error),
       error);
    OK(journal_activate(journal, &error), error);
    for (uint64_t sequence = 1; sequence <= LARGE_COUNT; sequence++) {
        struct journal_record record = {.bytes = bytes, .length = LARGE_BYTES};
        bytes[0] = (uint8_t)sequence;
        OK(journal_append(journal, sequence, &record, 1, false, &error), error);
    }
    OK(journal_sync(journal, &error), error);
    journal_close(journal);

    assert_int_equal(journal_replay(&files, &options, spoil_last, &records, &report, &error), -EIO);
    assert_non_null(strstr(error.text, "twice"));
    assert_int_equal(records, LARGE_COUNT - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_starts),
        cmocka_unit_test(test_other_bytes),
        cmocka_unit_test(test_strange_files),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
