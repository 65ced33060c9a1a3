/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * File I/O through the kernel: whole transfers or an error that says why, no
 * offset that turns into another one, and nothing opened that could hang.
 */
#include "daemon/base/file.h"

#include "proto/base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char directory[] = "/tmp/bitmapd-test-file-XXXXXX";
static char path[sizeof directory + 8];

static int setup(void **state)
{
    (void)state;
    if (!mkdtemp(directory)) {
        return -1;
    }
    (void)snprintf(path, sizeof path, "%s/file", directory);
    return 0;
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path) < 0 && errno != ENOENT ? -1 : 0;
}

static int teardown(void **state)
{
    (void)state;
    return rmdir(directory);
}

static struct file *open_file(enum file_mode mode, int *ret_fd)
{
    struct error error = {.text = ""};
    struct file *file = NULL;

    if (file_open_posix(path, mode, &file, ret_fd, &error) < 0) {
        fail_msg("%s", error.text);
    }
    return file;
}

static uint64_t size_of(struct file *file)
{
    uint64_t size = UINT64_MAX;

    assert_int_equal(file_size(file, &size), 0);
    return size;
}

static void test_create(void **state)
{
    struct error error = {.text = ""};
    struct file *other = NULL;
    struct stat st;
    int fd = -1, other_fd = -1;

    (void)state;
    struct file *file = open_file(FILE_CREATE, &fd);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_mode & 0777 & ~0600, 0);
    assert_int_equal(size_of(file), 0);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);

    assert_int_equal(file_open_posix(path, FILE_CREATE, &other, &other_fd, &error), -EEXIST);
    assert_non_null(strstr(error.text, path));
    assert_null(other);
    assert_int_equal(other_fd, -1);
    file_close(file);
    assert_int_equal(fcntl(fd, F_GETFD), -1);
    assert_int_equal(errno, EBADF);
    file_close(NULL);
}

static void test_refused(void **state)
{
    struct error error = {.text = ""};
    struct file *file = NULL;

    (void)state;
    assert_int_equal(file_open_posix(path, FILE_READ, &file, NULL, &error), -ENOENT);
    assert_non_null(strstr(error.text, path));
    assert_int_equal(file_open_posix(path, FILE_WRITE, &file, NULL, &error), -ENOENT);
    assert_int_equal(file_open_posix(directory, FILE_READ, &file, NULL, &error), -EINVAL);
    assert_non_null(strstr(error.text, "not a regular file"));
    assert_int_equal(file_open_posix("/dev/null", FILE_WRITE, &file, NULL, &error), -EINVAL);
    /* Without a writer on its other end, a plain open of it would wait for ever. */
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(file_open_posix(path, FILE_READ, &file, NULL, &error), -EINVAL);
    assert_int_equal(file_open_posix(path, FILE_WRITE, &file, NULL, &error), -EINVAL);
    assert_int_equal(file_open_posix("/nonexistent/x", FILE_CREATE, &file, NULL, NULL), -ENOENT);
    assert_null(file);
}

static void test_transfers(void **state)
{
    struct file *file = open_file(FILE_CREATE, NULL);
    char buffer[16] = "untouched";

    (void)state;
    assert_int_equal(file_write(file, "0123456789", 10, 100), 0);
    assert_int_equal(size_of(file), 110);
    assert_int_equal(file_read(file, buffer, 10, 100), 0);
    assert_memory_equal(buffer, "0123456789", 10);
    assert_int_equal(file_read(file, buffer, 10, 0), 0);
    assert_memory_equal(buffer, "\0\0\0\0\0\0\0\0\0\0", 10);
    assert_int_equal(file_read(file, buffer, 10, 101), -ENODATA);
    assert_int_equal(file_read(file, buffer, 1, 110), -ENODATA);
    assert_int_equal(file_read(file, buffer, 0, 110), 0);
    assert_int_equal(file_datasync(file), 0);

    assert_int_equal(file_truncate(file, 105), 0);
    assert_int_equal(file_read(file, buffer, 5, 100), 0);
    assert_memory_equal(buffer, "01234", 5);
    assert_int_equal(file_read(file, buffer, 6, 100), -ENODATA);

    /* New bytes read as zeros, old ones stay. */
    assert_int_equal(file_allocate(file, 50, 150), 0);
    assert_int_equal(size_of(file), 200);
    assert_int_equal(file_read(file, buffer, 10, 100), 0);
    assert_memory_equal(buffer, "01234\0\0\0\0\0", 10);
    assert_int_equal(file_allocate(file, 0, 10), 0);
    assert_int_equal(file_allocate(file, 500, 0), 0);
    assert_int_equal(size_of(file), 200);
    file_close(file);

    /* A file opened for reading stays as it is. */
    file = open_file(FILE_READ, NULL);
    assert_int_equal(file_read(file, buffer, 5, 100), 0);
    assert_int_equal(file_write(file, "x", 1, 0), -EBADF);
    assert_true(file_truncate(file, 0) < 0);
    assert_int_equal(size_of(file), 200);
    file_close(file);
    file = open_file(FILE_WRITE, NULL);
    assert_int_equal(size_of(file), 200);
    file_close(file);
}

/* With and without direct I/O, which wants whole blocks; the two see each other's bytes. */
static void test_durable_writes(void **state)
{
    enum {
        BLOCK = 4096
    };
    static uint8_t found[4 * BLOCK], expected[sizeof found];
    CLEANUP_FREE uint8_t *block = aligned_alloc(BLOCK, BLOCK);
    struct file *file = open_file(FILE_CREATE, NULL);

    (void)state;
    assert_non_null(block);
    assert_int_equal(file_write(file, found, sizeof found, 0), 0);
    assert_int_equal(file_datasync(file), 0);
    for (unsigned i = 0; i < 20; i++) {
        uint64_t offset = i % 4 * BLOCK;
        memset(block, (int)i + 1, BLOCK);
        memcpy(expected + offset, block, BLOCK);
        assert_int_equal(i % 3 == 2 ? file_write(file, block, BLOCK, offset)
                                    : file_write_durably(file, block, BLOCK, offset),
                         0);
        assert_int_equal(file_read(file, found, sizeof found, 0), 0);
        assert_memory_equal(found, expected, sizeof found);
    }
    /* Nobody syncs what was written directly, so that has to do it. */
    for (int fd = 0; fd < 64; fd++) {
        int flags = fcntl(fd, F_GETFL);
        assert_true(flags < 0 || !(flags & O_DIRECT) || (flags & O_DSYNC) == O_DSYNC);
    }
    /* What it cannot take is written all the same, also from then on. */
    for (unsigned i = 0; i < 3; i++) {
        memset(expected + 100 + i, 0xee, 1000);
        assert_int_equal(file_write_durably(file, expected + 100 + i, 1000, 100 + i), 0);
        assert_int_equal(file_write_durably(file, expected, BLOCK, 0), 0);
        assert_int_equal(file_read(file, found, sizeof found, 0), 0);
        assert_memory_equal(found, expected, sizeof found);
    }
    assert_int_equal(file_write_durably(file, block, BLOCK, UINT64_MAX - 10), -EFBIG);
    assert_int_equal(size_of(file), sizeof found);
    file_close(file);

    file = open_file(FILE_READ, NULL);
    assert_int_equal(file_write_durably(file, block, BLOCK, 0), -EBADF);
    file_close(file);
}

/* Offsets from a damaged structure, which a cast would make small or negative. */
/* Blocks go, bytes become zeros, the size stays, neighbours too. */
static void test_punch(void **state)
{
    enum {
        BLOCK = 65536
    };
    static uint8_t bytes[3 * BLOCK], zeros[BLOCK];
    struct stat before, after;
    int fd = -1;

    (void)state;
    struct file *file = open_file(FILE_CREATE, &fd);
    memset(bytes, 0xa5, sizeof bytes);
    assert_int_equal(file_write(file, bytes, sizeof bytes, 0), 0);
    assert_int_equal(file_datasync(file), 0);
    assert_int_equal(fstat(fd, &before), 0);
    int r = file_punch(file, BLOCK, BLOCK);
    if (r == -EOPNOTSUPP) {
        file_close(file);
        skip();
    }
    assert_int_equal(r, 0);
    assert_int_equal(fstat(fd, &after), 0);
    assert_true(after.st_blocks < before.st_blocks);
    assert_int_equal(size_of(file), sizeof bytes);
    memset(bytes + BLOCK, 0, BLOCK);
    static uint8_t found[sizeof bytes];
    assert_int_equal(file_read(file, found, sizeof found, 0), 0);
    assert_memory_equal(found, bytes, sizeof bytes);

    assert_int_equal(file_punch(file, 100, 0), 0);
    assert_int_equal(file_punch(file, 10 * BLOCK, BLOCK), 0);
    assert_int_equal(size_of(file), sizeof bytes);
    assert_int_equal(file_punch(file, UINT64_MAX, 1), -EFBIG);
    assert_int_equal(file_punch(file, 1, UINT64_MAX), -EFBIG);
    assert_int_equal(file_read(file, found, BLOCK, BLOCK), 0);
    assert_memory_equal(found, zeros, BLOCK);
    file_close(file);
}

static void test_absurd_offsets(void **state)
{
    static const uint64_t offsets[] = {
        INT64_MAX, (uint64_t)INT64_MAX + 1, UINT64_MAX - 5, UINT64_MAX, UINT64_C(1) << 63,
    };
    struct file *file = open_file(FILE_CREATE, NULL);
    char buffer[10];

    (void)state;
    assert_int_equal(file_write(file, "0123456789", 10, 0), 0);
    for (size_t i = 0; i < sizeof offsets / sizeof offsets[0]; i++) {
        assert_int_equal(file_read(file, buffer, sizeof buffer, offsets[i]), -ENODATA);
        assert_int_equal(file_write(file, buffer, sizeof buffer, offsets[i]), -EFBIG);
        assert_int_equal(file_allocate(file, offsets[i], sizeof buffer), -EFBIG);
        assert_true(offsets[i] <= INT64_MAX || file_truncate(file, offsets[i]) == -EFBIG);
    }
    assert_int_equal(file_allocate(file, 10, UINT64_MAX), -EFBIG);
    assert_int_equal(size_of(file), 10);
    file_close(file);
}

static void test_identity(void **state)
{
    struct file_identity first, again;
    struct stat st;
    int fd;
    struct file *file = open_file(FILE_CREATE, &fd);

    (void)state;
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(file_identity(fd, &first), 0);
    assert_int_equal(first.inode, st.st_ino);
    file_close(file);

    char renamed[sizeof path + 4];
    (void)snprintf(renamed, sizeof renamed, "%s.new", path);
    assert_int_equal(rename(path, renamed), 0);
    assert_int_equal(rename(renamed, path), 0);
    file = open_file(FILE_WRITE, &fd);
    assert_int_equal(file_identity(fd, &again), 0);
    assert_int_equal(again.inode, first.inode);
    assert_int_equal(again.birth_time_ns, first.birth_time_ns);
    file_close(file);
    assert_int_equal(file_identity(-1, &again), -EBADF);
    assert_int_equal(again.inode, first.inode);
}

static void test_sync_directory(void **state)
{
    (void)state;
    assert_int_equal(file_sync_directory(path), 0); /* the file itself need not exist */
    assert_int_equal(file_sync_directory("name"), 0);
    assert_int_equal(file_sync_directory("/name"), 0);
    assert_int_equal(file_sync_directory("/nonexistent/name"), -ENOENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_create, remove_file),
        cmocka_unit_test_teardown(test_refused, remove_file),
        cmocka_unit_test_teardown(test_transfers, remove_file),
        cmocka_unit_test_teardown(test_durable_writes, remove_file),
        cmocka_unit_test_teardown(test_absurd_offsets, remove_file),
        cmocka_unit_test_teardown(test_punch, remove_file),
        cmocka_unit_test_teardown(test_identity, remove_file),
        cmocka_unit_test(test_sync_directory),
    };
    return cmocka_run_group_tests_name("base: files", tests, setup, teardown);
}
