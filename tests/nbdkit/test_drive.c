/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * File I/O of the nbdkit plugin on files: in the build's file system, which
 * can do everything, and in /dev/shm, where ranges cannot be zeroed in place,
 * each compared with a copy in memory.  Block devices need root and are left
 * to the end-to-end tests.
 */
#include "client/nbdkit/drive.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define SIZE_BYTES ((1u << 20) + 100u) /* no whole block */

struct scratch {
    char directory[64];
    char path[96];
    struct drive *drive;
    uint8_t expected[SIZE_BYTES];
};

static const char *const places[] = {".", "/dev/shm"};

static void scratch_make(struct scratch *scratch, const char *place)
{
    (void)snprintf(scratch->directory, sizeof scratch->directory, "%s/test-drive-XXXXXX", place);
    assert_non_null(mkdtemp(scratch->directory));
    (void)snprintf(scratch->path, sizeof scratch->path, "%s/raw", scratch->directory);
    int fd = open(scratch->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, SIZE_BYTES), 0);
    assert_int_equal(close(fd), 0);
    memset(scratch->expected, 0, sizeof scratch->expected);
    struct error error;
    assert_int_equal(drive_open(scratch->path, &scratch->drive, &error), 0);
    assert_int_equal(drive_size_bytes(scratch->drive), SIZE_BYTES);
    assert_true(drive_is_writable(scratch->drive));
}

static void scratch_remove(struct scratch *scratch)
{
    drive_close(scratch->drive);
    assert_int_equal(unlink(scratch->path), 0);
    assert_int_equal(rmdir(scratch->directory), 0);
}

static void scratch_fill(struct scratch *scratch, size_t offset, size_t count)
{
    for (size_t i = offset; i < offset + count; i++) {
        scratch->expected[i] = (uint8_t)(i * 31 % 255 + 1); /* never 0 */
    }
    assert_int_equal(drive_write(scratch->drive, scratch->expected + offset, count, offset), 0);
}

static void scratch_check(struct scratch *scratch)
{
    static uint8_t found[SIZE_BYTES];
    assert_int_equal(drive_read(scratch->drive, found, SIZE_BYTES, 0), 0);
    assert_memory_equal(found, scratch->expected, SIZE_BYTES);
}

static uint64_t scratch_allocated_bytes(const struct scratch *scratch)
{
    struct stat st;
    assert_int_equal(stat(scratch->path, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

static void test_read_and_write(void **state)
{
    (void)state;
    struct scratch scratch;
    scratch_make(&scratch, ".");
    scratch_fill(&scratch, 1, 10);
    scratch_fill(&scratch, 65536, 65537);
    scratch_fill(&scratch, SIZE_BYTES - 1, 1);
    scratch_check(&scratch);
    assert_int_equal(drive_sync(scratch.drive), 0);
    scratch_remove(&scratch);
}

static void test_read_of_a_file_cut_short(void **state)
{
    (void)state;
    struct scratch scratch;
    uint8_t data[8192];
    scratch_make(&scratch, ".");
    assert_int_equal(truncate(scratch.path, 4096), 0);
    assert_int_equal(drive_read(scratch.drive, data, 4096, 0), 0);
    assert_int_equal(drive_read(scratch.drive, data, sizeof data, 0), -EIO);
    scratch_remove(&scratch);
}

static void test_zero(void **state)
{
    (void)state;
    static const unsigned all_flags[] = {0, DRIVE_ZERO_MAY_PUNCH};
    for (size_t place = 0; place < sizeof places / sizeof places[0]; place++) {
        for (size_t i = 0; i < sizeof all_flags / sizeof all_flags[0]; i++) {
            struct scratch scratch;
            scratch_make(&scratch, places[place]);
            scratch_fill(&scratch, 0, SIZE_BYTES);
            /* Longer than the block of zeros that is written at a time, and odd at both ends. */
            memset(scratch.expected + 4097, 0, 600001);
            assert_int_equal(drive_zero(scratch.drive, 600001, 4097, all_flags[i]), 0);
            scratch_check(&scratch);
            memset(scratch.expected + SIZE_BYTES - 150, 0, 150);
            assert_int_equal(drive_zero(scratch.drive, 150, SIZE_BYTES - 150, all_flags[i]), 0);
            scratch_check(&scratch);
            assert_int_equal(drive_size_bytes(scratch.drive), SIZE_BYTES);
            struct stat st;
            assert_int_equal(stat(scratch.path, &st), 0);
            assert_int_equal(st.st_size, SIZE_BYTES);
            scratch_remove(&scratch);
        }
    }
}

static void test_zero_that_may_not_punch_keeps_storage(void **state)
{
    (void)state;
    struct scratch scratch;
    scratch_make(&scratch, ".");
    scratch_fill(&scratch, 0, SIZE_BYTES);
    assert_int_equal(drive_sync(scratch.drive), 0);
    uint64_t before = scratch_allocated_bytes(&scratch);
    assert_int_equal(drive_zero(scratch.drive, 1u << 19, 0, 0), 0);
    assert_true(scratch_allocated_bytes(&scratch) >= before);
    scratch_remove(&scratch);
}

static void test_fast_zero(void **state)
{
    (void)state;
    for (size_t place = 0; place < sizeof places / sizeof places[0]; place++) {
        struct scratch scratch;
        scratch_make(&scratch, places[place]);
        scratch_fill(&scratch, 0, SIZE_BYTES);
        int r = drive_zero(scratch.drive, 8192, 4096, DRIVE_ZERO_FAST);
        if (r == 0) {
            memset(scratch.expected + 4096, 0, 8192);
            assert_false(drive_zero_is_hopeless(scratch.drive, DRIVE_ZERO_FAST));
        } else {
            assert_int_equal(r, -EOPNOTSUPP); /* nothing was changed, and it is remembered */
            assert_true(drive_zero_is_hopeless(scratch.drive, DRIVE_ZERO_FAST));
            assert_false(drive_zero_is_hopeless(scratch.drive, 0));
        }
        scratch_check(&scratch);
        scratch_remove(&scratch);
    }
}

static void test_trim(void **state)
{
    (void)state;
    struct scratch scratch;
    scratch_make(&scratch, ".");
    scratch_fill(&scratch, 0, SIZE_BYTES);
    assert_int_equal(drive_sync(scratch.drive), 0);
    uint64_t before = scratch_allocated_bytes(&scratch);
    memset(scratch.expected + 65536, 0, 1u << 19);
    assert_int_equal(drive_trim(scratch.drive, 1u << 19, 65536), 0);
    scratch_check(&scratch);
    assert_true(scratch_allocated_bytes(&scratch) < before);
    scratch_remove(&scratch);
}

/* ---- Extents ---- */

struct extents {
    unsigned count;
    struct {
        uint64_t offset, length;
        bool hole;
    } list[16];
};

static int collect_extent(void *opaque, uint64_t offset, uint64_t length, bool hole)
{
    struct extents *extents = opaque;
    assert_true(extents->count < 16);
    extents->list[extents->count].offset = offset;
    extents->list[extents->count].length = length;
    extents->list[extents->count].hole = hole;
    extents->count++;
    return 0;
}

static void assert_extent(const struct extents *extents, unsigned i, uint64_t offset,
                          uint64_t length, bool hole)
{
    assert_int_equal(extents->list[i].offset, offset);
    assert_int_equal(extents->list[i].length, length);
    assert_int_equal(extents->list[i].hole, hole);
}

static void test_extents(void **state)
{
    (void)state;
    struct scratch scratch;
    scratch_make(&scratch, ".");
    assert_true(drive_has_extents(scratch.drive));
    scratch_fill(&scratch, 131072, 65536);

    struct extents all = {.count = 0};
    assert_int_equal(drive_extents(scratch.drive, SIZE_BYTES, 0, false, collect_extent, &all), 0);
    assert_int_equal(all.count, 3);
    assert_extent(&all, 0, 0, 131072, true);
    assert_extent(&all, 1, 131072, 65536, false);
    assert_extent(&all, 2, 196608, SIZE_BYTES - 196608, true);

    struct extents one = {.count = 0};
    assert_int_equal(
        drive_extents(scratch.drive, SIZE_BYTES - 150000, 150000, true, collect_extent, &one), 0);
    assert_int_equal(one.count, 1);
    assert_extent(&one, 0, 150000, 196608 - 150000, false);

    struct extents tail = {.count = 0};
    assert_int_equal(drive_extents(scratch.drive, 1, SIZE_BYTES - 1, false, collect_extent, &tail),
                     0);
    assert_int_equal(tail.count, 1);
    assert_extent(&tail, 0, SIZE_BYTES - 1, 1, true);
    scratch_remove(&scratch);
}

static int stop_at_extent(void *opaque, uint64_t offset, uint64_t length, bool hole)
{
    (void)offset;
    (void)length;
    (void)hole;
    ++*(unsigned *)opaque;
    return 5;
}

static void test_extents_end_early(void **state)
{
    (void)state;
    struct scratch scratch;
    unsigned calls = 0;
    scratch_make(&scratch, ".");
    scratch_fill(&scratch, 131072, 65536);
    assert_int_equal(drive_extents(scratch.drive, SIZE_BYTES, 0, false, stop_at_extent, &calls), 5);
    assert_int_equal(calls, 1);
    scratch_remove(&scratch);
}

/* ---- Opening ---- */

static void test_open_what_is_no_drive(void **state)
{
    (void)state;
    struct drive *drive = NULL;
    struct error error;
    assert_int_equal(drive_open("/nonexistent/raw", &drive, &error), -ENOENT);
    assert_non_null(strstr(error.text, "/nonexistent/raw"));
    assert_int_equal(drive_open("/dev/null", &drive, &error), -EINVAL);
    assert_non_null(strstr(error.text, "neither"));
    assert_true(drive_open(".", &drive, &error) < 0);
    assert_null(drive);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read_and_write),
        cmocka_unit_test(test_read_of_a_file_cut_short),
        cmocka_unit_test(test_zero),
        cmocka_unit_test(test_zero_that_may_not_punch_keeps_storage),
        cmocka_unit_test(test_fast_zero),
        cmocka_unit_test(test_trim),
        cmocka_unit_test(test_extents),
        cmocka_unit_test(test_extents_end_early),
        cmocka_unit_test(test_open_what_is_no_drive),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
