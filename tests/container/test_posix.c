/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The kernel behind the file vtable, and the image locks on real descriptors.
 */
#include "tests/container/support.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char directory[64];
static char path[96];

static int make_directory(void **state)
{
    (void)state;
    (void)snprintf(directory, sizeof directory, "/tmp/bitmapd-test-XXXXXX");
    assert_non_null(mkdtemp(directory));
    (void)snprintf(path, sizeof path, "%s/file", directory);
    return 0;
}

static int remove_directory(void **state)
{
    (void)state;
    (void)unlink(path);
    return rmdir(directory);
}

static void file_calls(void **state)
{
    struct file *file;
    struct error e;
    struct stat st;
    uint64_t size;
    uint8_t b[8192];
    int fd;

    (void)state;
    (void)unlink(path);
    OK(file_open_posix(path, FILE_CREATE, &file, &fd, &e), e);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    struct file *again;
    assert_int_equal(file_open_posix(path, FILE_CREATE, &again, NULL, &e), -EEXIST);
    assert_non_null(strstr(e.text, path));

    assert_int_equal(file_write(file, "0123456789", 10, 5000), 0);
    assert_int_equal(file_datasync(file), 0);
    assert_int_equal(file_size(file, &size), 0);
    assert_int_equal(size, 5010);
    assert_int_equal(file_read(file, b, 10, 5000), 0);
    assert_memory_equal(b, "0123456789", 10);
    assert_int_equal(file_read(file, b, 11, 5000), -ENODATA);
    assert_int_equal(file_read(file, b, 0, 5000), 0);
    assert_int_equal(file_read(file, b, 1, 1 << 20), -ENODATA);
    assert_int_equal(file_read(file, b, 1, UINT64_MAX), -ENODATA);
    assert_int_equal(file_read(file, b, 1, INT64_MAX), -ENODATA);
    assert_int_equal(file_write(file, b, 1, UINT64_MAX), -EFBIG);
    assert_int_equal(file_write(file, b, 2, INT64_MAX), -EFBIG);
    assert_int_equal(file_truncate(file, UINT64_MAX), -EFBIG);
    assert_int_equal(file_allocate(file, UINT64_MAX, 2), -EFBIG);

    assert_int_equal(file_allocate(file, 5000, 5000), 0);
    assert_int_equal(file_size(file, &size), 0);
    assert_int_equal(size, 10000);
    assert_int_equal(file_read(file, b, 5000, 5000), 0);
    assert_memory_equal(b, "0123456789\0\0\0", 13);
    assert_int_equal(file_truncate(file, 5002), 0);
    assert_int_equal(file_read(file, b, 3, 5000), -ENODATA);

    struct file_identity one, two;
    assert_int_equal(file_identity(fd, &one), 0);
    assert_true(one.inode == st.st_ino);
    assert_int_equal(file_identity(-1, &two), -EBADF);
    file_close(file);

    OK(file_open_posix(path, FILE_READ, &file, &fd, &e), e);
    assert_int_equal(file_write(file, b, 1, 0), -EBADF);
    assert_int_equal(file_identity(fd, &two), 0);
    assert_memory_equal(&one, &two, sizeof one);
    file_close(file);
    file_close(NULL);
}

static void only_regular_files(void **state)
{
    struct file *file;
    struct error e;

    (void)state;
    (void)unlink(path);
    assert_int_equal(file_open_posix(path, FILE_READ, &file, NULL, &e), -ENOENT);
    assert_int_equal(file_open_posix(path, FILE_WRITE, &file, NULL, &e), -ENOENT);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(file_open_posix(path, FILE_READ, &file, NULL, &e), -EINVAL);
    assert_int_equal(file_open_posix(path, FILE_WRITE, &file, NULL, &e), -EINVAL);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(file_open_posix(directory, FILE_READ, &file, NULL, &e), -EINVAL);
    assert_int_equal(file_open_posix("/dev/null", FILE_WRITE, &file, NULL, &e), -EINVAL);
    assert_int_equal(file_sync_directory(path), 0);
    assert_int_equal(file_sync_directory("name"), 0);
    assert_int_equal(file_sync_directory("/name"), 0);
    assert_int_equal(file_sync_directory("/nowhere/at/all"), -ENOENT);
}

struct holder {
    struct file *file;
    int fd;
};

static struct holder hold(enum file_mode mode)
{
    struct holder h;
    struct error e;

    OK(file_open_posix(path, mode, &h.file, &h.fd, &e), e);
    return h;
}

static void locks(void **state)
{
    struct error e;

    (void)state;
    (void)unlink(path);
    struct holder writer = hold(FILE_CREATE), second = hold(FILE_WRITE), reader = hold(FILE_READ);
    OK(container_lock(writer.fd, true, &e), e);
    assert_int_equal(container_lock(second.fd, true, &e), -EBUSY);
    assert_true(e.text[0] != '\0');
    OK(container_lock(reader.fd, false, &e), e); /* info beside a daemon */
    file_close(writer.file);
    OK(container_lock(second.fd, true, &e), e); /* a failed attempt left nothing, nor a dead one */
    file_close(second.file);
    file_close(reader.file);

    /* Readers do not keep a writer away. */
    reader = hold(FILE_READ);
    writer = hold(FILE_WRITE);
    OK(container_lock(reader.fd, false, &e), e);
    OK(container_lock(writer.fd, true, &e), e);
    file_close(reader.file);
    file_close(writer.file);
}

static void whole_container(void **state)
{
    struct container_create_options options = {.cluster_bits = 16};
    struct container *c;
    struct container_txn *t;
    struct error e;
    uint8_t bits[100] = {1, 2, 3}, *found = test_malloc(65536);
    enum container_cluster_kind kind;

    (void)state;
    (void)unlink(path);
    assert_int_equal(container_new_uuid(&options.uuid), 0);
    assert_int_equal(options.uuid.bytes[6] >> 4, 4);
    assert_int_equal(options.uuid.bytes[8] >> 6, 2);
    struct holder h = hold(FILE_CREATE);
    OK(container_lock(h.fd, true, &e), e);
    OK(container_format(h.file, &options, &e), e);
    OK(container_open(h.file, CONTAINER_OPEN_WRITE, &c, &e), e);
    OK(container_begin(c, &t, &e), e);
    OK(container_txn_add(t, 1, "vm/a", 65536, 1 << 20, &e), e);
    OK(container_txn_write(t, 1, 0, bits, sizeof bits, &e), e);
    OK(test_commit(t, "x", &e), e);
    container_close(c);
    h = hold(FILE_READ);
    OK(container_open(h.file, 0, &c, &e), e);
    OK(container_bitmap_read(c, 0, 0, found, &kind, &e), e);
    assert_int_equal(kind, CONTAINER_DATA);
    assert_memory_equal(found, bits, sizeof bits);
    container_close(c);
    test_free(found);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(file_calls),
        cmocka_unit_test(only_regular_files),
        cmocka_unit_test(locks),
        cmocka_unit_test(whole_container),
    };

    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
