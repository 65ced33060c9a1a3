/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The comparison where real files do not go: reads that fail, that give less
 * than was asked for, that are interrupted; files that shrink meanwhile.
 */
#include "client/ctl/compare.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define SIZE (9u << 20)

static char folder[] = "/tmp/bitmapctl-compare-XXXXXX";
static char drive_path[64];
static char copy_path[64];
static struct compare_side drive, copy;
static struct compare compare;
static uint64_t missed_bytes;

/* ---- pread(2), whose name is this with 64-bit offsets, as a bad disk has it ---- */

static int fail_fd = -1;
static uint64_t fail_at;
static bool stutters;
static unsigned reads;

ssize_t __real_pread64(int fd, void *buffer, size_t bytes, off_t offset);
ssize_t __wrap_pread64(int fd, void *buffer, size_t bytes, off_t offset);

ssize_t __wrap_pread64(int fd, void *buffer, size_t bytes, off_t offset)
{
    if (stutters && ++reads % 3 == 0) {
        errno = EINTR;
        return -1;
    }
    if (stutters && bytes > 1000) {
        bytes = 1000 + bytes / 2;
    }
    if (fd == fail_fd && (uint64_t)offset + bytes > fail_at) {
        if ((uint64_t)offset >= fail_at) {
            errno = EIO;
            return -1;
        }
        bytes = fail_at - (uint64_t)offset; /* what is before the bad sector */
    }
    return __real_pread64(fd, buffer, bytes, offset);
}

/* ---- Files ---- */

static void make(const char *path, uint64_t size)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    assert_int_equal(close(fd), 0);
}

static void add_missed(void *opaque, struct bitmapd_range run)
{
    (void)opaque;
    missed_bytes += run.length;
}

static int setup(void **state)
{
    (void)state;
    fail_fd = -1;
    stutters = false;
    missed_bytes = 0;
    make(drive_path, SIZE);
    make(copy_path, SIZE);
    assert_int_equal(compare_side_open(&drive, "the drive", drive_path, NULL), 0);
    assert_int_equal(compare_side_open(&copy, "the copy", copy_path, NULL), 0);
    assert_int_equal(compare_init(&compare, &drive, &copy, SIZE, 65536, NULL), 0);
    compare.missed = add_missed;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    compare_side_deinit(&drive);
    compare_side_deinit(&copy);
    return 0;
}

/* ---- Tests ---- */

static void test_failing_reads(void **state)
{
    static const uint64_t offsets[] = {0, 512, 4u << 20, (8u << 20) + 512};

    (void)state;
    for (size_t i = 0; i < 2 * sizeof offsets / sizeof offsets[0]; i++) {
        struct error error = {{0}};
        char expected[200];
        const struct compare_side *side = i % 2 ? &copy : &drive;

        fail_fd = side->fd;
        fail_at = offsets[i / 2];
        assert_int_equal(compare_init(&compare, &drive, &copy, SIZE, 65536, &error), 0);
        compare.missed = add_missed;
        int r = compare_run(&compare, (struct bitmapd_range){65536, 65536}, &error);
        if (r == 0) {
            r = compare_finish(&compare, &error);
        }
        assert_int_equal(r, -EIO);
        (void)snprintf(expected, sizeof expected, "cannot read %s %s at byte %llu: %s", side->what,
                       side->path, (unsigned long long)fail_at, strerror(EIO));
        assert_string_equal(error.text, expected);
    }
}

static void test_stuttering_reads(void **state)
{
    struct error error = {{0}};
    int fd = open(drive_path, O_WRONLY | O_CLOEXEC);

    (void)state;
    assert_int_equal(pwrite(fd, "x", 1, SIZE - 1), 1);
    assert_int_equal(close(fd), 0);
    stutters = true;
    assert_int_equal(compare_run(&compare, (struct bitmapd_range){65536, 131072}, &error), 0);
    assert_int_equal(compare_finish(&compare, &error), 0);
    assert_true(compare.dirty.bytes == 131072 && compare.changed.bytes == 0);
    assert_true(compare.missed_total.bytes == 65536 && missed_bytes == 65536);
}

static void test_shrinking_files(void **state)
{
    struct error error = {{0}};

    (void)state;
    assert_int_equal(truncate(copy_path, 5u << 20), 0);
    assert_int_equal(compare_finish(&compare, &error), -EIO);
    assert_non_null(strstr(error.text, "the copy"));
    assert_non_null(strstr(error.text, "ends at byte 5242880"));
}

static void test_sizes_that_cannot_be(void **state)
{
    struct error error = {{0}};

    (void)state;
    assert_int_equal(compare_init(&compare, &drive, &copy, SIZE + 1, 65536, &error), -EINVAL);
    assert_string_not_equal(error.text, "");
    assert_int_equal(compare_init(&compare, &drive, &copy, SIZE, 0, &error), -EINVAL);
    assert_int_equal(compare_init(&compare, &drive, &copy, UINT64_MAX, 512, NULL), -EINVAL);
}

/* Runs that are no multiples of the granularity are compared as they are. */
static void test_odd_runs(void **state)
{
    struct error error;

    (void)state;
    assert_int_equal(compare_run(&compare, (struct bitmapd_range){1, 2}, &error), 0);
    assert_int_equal(compare_run(&compare, (struct bitmapd_range){65535, 2}, &error), 0);
    assert_int_equal(compare_finish(&compare, &error), 0);
    assert_true(compare.dirty.bytes == 4 && compare.dirty.granules == 3 && compare.done == SIZE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_failing_reads, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stuttering_reads, setup, teardown),
        cmocka_unit_test_setup_teardown(test_shrinking_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sizes_that_cannot_be, setup, teardown),
        cmocka_unit_test_setup_teardown(test_odd_runs, setup, teardown),
    };
    if (!mkdtemp(folder)) {
        return 1;
    }
    (void)snprintf(drive_path, sizeof drive_path, "%s/drive", folder);
    (void)snprintf(copy_path, sizeof copy_path, "%s/copy", folder);
    int failures = cmocka_run_group_tests(tests, NULL, NULL);
    (void)unlink(drive_path);
    (void)unlink(copy_path);
    (void)rmdir(folder);
    return failures;
}
