/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A vtable around the kernel's: all calls go there, but for reads that are to fail.
 */
#include "tests/drive/faulty.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static atomic_int read_error; /* -errno, or 0 */
static uint8_t victim[64];    /* what such a read begins with */
static size_t victim_length;

struct faulty {
    struct file file; /* first */
    struct file *inner;
};

static struct file *inner_of(struct file *file)
{
    return ((struct faulty *)file)->inner;
}

static int faulty_read(struct file *file, void *buffer, size_t length, uint64_t offset)
{
    int r = file_read(inner_of(file), buffer, length, offset);
    int failure = atomic_load(&read_error);

    return failure < 0 && length >= victim_length && memcmp(buffer, victim, victim_length) == 0
               ? failure
               : r;
}

static int faulty_write(struct file *file, const void *buffer, size_t length, uint64_t offset)
{
    return file_write(inner_of(file), buffer, length, offset);
}

static int faulty_write_durably(struct file *file, const void *buffer, size_t length,
                                uint64_t offset)
{
    return file_write_durably(inner_of(file), buffer, length, offset);
}

static int faulty_datasync(struct file *file)
{
    return file_datasync(inner_of(file));
}

static int faulty_size(struct file *file, uint64_t *ret_size)
{
    return file_size(inner_of(file), ret_size);
}

static int faulty_truncate(struct file *file, uint64_t size)
{
    return file_truncate(inner_of(file), size);
}

static int faulty_allocate(struct file *file, uint64_t offset, uint64_t length)
{
    return file_allocate(inner_of(file), offset, length);
}

static int faulty_punch(struct file *file, uint64_t offset, uint64_t length)
{
    return file_punch(inner_of(file), offset, length);
}

static int faulty_identity(struct file *file, struct file_identity *ret)
{
    return file_identity_of(inner_of(file), ret);
}

static int faulty_descriptor(struct file *file)
{
    return file_descriptor(inner_of(file));
}

static void faulty_close(struct file *file)
{
    file_close(inner_of(file));
    free(file);
}

static const struct file_ops ops = {
    .read = faulty_read,
    .write = faulty_write,
    .write_durably = faulty_write_durably,
    .datasync = faulty_datasync,
    .size = faulty_size,
    .truncate = faulty_truncate,
    .allocate = faulty_allocate,
    .punch = faulty_punch,
    .identity = faulty_identity,
    .descriptor = faulty_descriptor,
    .close = faulty_close,
};

static int faulty_open(struct file_system *files, const char *path, enum file_mode mode,
                       struct file **ret, struct error *error)
{
    struct faulty *faulty = calloc(1, sizeof *faulty);
    (void)files;

    assert_non_null(faulty);
    faulty->file.ops = &ops;
    int r = file_system_posix.open(&file_system_posix, path, mode, &faulty->inner, error);
    if (r < 0) {
        free(faulty);
        return r;
    }
    *ret = &faulty->file;
    return 0;
}

static int faulty_rename(struct file_system *files, const char *from, const char *to, bool replace)
{
    (void)files;
    return file_system_posix.rename(&file_system_posix, from, to, replace);
}

static int faulty_unlink(struct file_system *files, const char *path)
{
    (void)files;
    return file_system_posix.unlink(&file_system_posix, path);
}

static int faulty_sync_directory(struct file_system *files, const char *path)
{
    (void)files;
    return file_system_posix.sync_directory(&file_system_posix, path);
}

static bool faulty_in_memory(struct file_system *files, const char *path)
{
    (void)files;
    return file_system_posix.in_memory(&file_system_posix, path);
}

struct file_system faulty_files = {
    .open = faulty_open,
    .rename = faulty_rename,
    .unlink = faulty_unlink,
    .sync_directory = faulty_sync_directory,
    .in_memory = faulty_in_memory,
};

void faulty_reads_fail_of(int error, const void *bytes, size_t length)
{
    assert_true(length <= sizeof victim);
    atomic_store(&read_error, 0);
    memcpy(victim, bytes, length);
    victim_length = length;
    atomic_store(&read_error, error);
}

void faulty_reads_fail(int error)
{
    faulty_reads_fail_of(error, "", 0);
}

void faulty_damage(const char *path, const void *bytes, size_t length)
{
    struct file *file;
    struct error error;
    uint64_t size, found = 0;
    unsigned places = 0;

    assert_int_equal(file_system_posix.open(&file_system_posix, path, FILE_WRITE, &file, &error),
                     0);
    assert_int_equal(file_size(file, &size), 0);
    uint8_t *content = malloc(size);
    assert_non_null(content);
    assert_int_equal(file_read(file, content, size, 0), 0);
    for (uint64_t i = 0; i + length <= size; i += 512) {
        if (memcmp(content + i, bytes, length) == 0) {
            found = i;
            places++;
        }
    }
    assert_int_equal(places, 1);
    content[found] ^= 0x10;
    assert_int_equal(file_write(file, content + found, 1, found), 0);
    free(content);
    file_close(file);
}
