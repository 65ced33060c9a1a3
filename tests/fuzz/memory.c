/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The file of memory.h: one mapping for the life of the process, so that an
 * image of many megabytes of which a few sectors are in use costs what those
 * cost.  Invariant: between two files all of its bytes are zero.
 */
#include "tests/fuzz/memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define SMALL (UINT64_C(256) << 10) /* up to here clearing is cheaper than new pages */

static uint8_t *mapping;

static int enter(struct memory *m, bool change)
{
    m->calls++;
    m->changes += change;
    if (m->calls == m->fail_call) {
        m->failed = true;
        return -EIO;
    }
    return 0;
}

static int grow(struct memory *m, uint64_t offset, uint64_t length)
{
    if (offset > m->limit || length > m->limit - offset) {
        return -ENOSPC;
    }
    if (offset + length > m->size) {
        m->size = offset + length;
    }
    return 0;
}

static int memory_read(struct file *file, void *buffer, size_t length, uint64_t offset)
{
    struct memory *m = (struct memory *)file;
    int r = enter(m, false);

    if (r < 0) {
        return r;
    }
    if (offset > m->size || length > m->size - offset) {
        return -ENODATA;
    }
    m->read_bytes += length;
    memcpy(buffer, m->bytes + offset, length);
    return 0;
}

static int memory_write(struct file *file, const void *buffer, size_t length, uint64_t offset)
{
    struct memory *m = (struct memory *)file;
    int r = enter(m, true);

    if (r == 0) {
        r = grow(m, offset, length);
    }
    if (r == 0) {
        memcpy(m->bytes + offset, buffer, length);
    }
    return r;
}

static int memory_datasync(struct file *file)
{
    return enter((struct memory *)file, true);
}

static int memory_size(struct file *file, uint64_t *ret_size)
{
    struct memory *m = (struct memory *)file;
    int r = enter(m, false);

    if (r == 0) {
        *ret_size = m->size;
    }
    return r;
}

static int memory_truncate(struct file *file, uint64_t size)
{
    struct memory *m = (struct memory *)file;
    int r = enter(m, true);

    if (r == 0 && size > m->limit) {
        r = -ENOSPC;
    }
    if (r == 0) {
        if (size < m->size) {
            memset(m->bytes + size, 0, m->size - size);
        }
        m->size = size;
    }
    return r;
}

static int memory_allocate(struct file *file, uint64_t offset, uint64_t length)
{
    struct memory *m = (struct memory *)file;
    int r = enter(m, true);

    return r < 0 ? r : grow(m, offset, length);
}

static int memory_punch(struct file *file, uint64_t offset, uint64_t length)
{
    struct memory *m = (struct memory *)file;
    int r = enter(m, true);

    if (r == 0 && offset < m->size) {
        memset(m->bytes + offset, 0, length < m->size - offset ? length : m->size - offset);
    }
    return r;
}

static int memory_identity(struct file *file, struct file_identity *ret)
{
    (void)file;
    *ret = (struct file_identity){.inode = 1};
    return 0;
}

static int memory_descriptor(struct file *file)
{
    (void)file;
    return -1;
}

static void memory_close(struct file *file)
{
    (void)file; /* memory_release() does it: the file is opened many times */
}

static const struct file_ops memory_ops = {
    .read = memory_read,
    .write = memory_write,
    .datasync = memory_datasync,
    .size = memory_size,
    .truncate = memory_truncate,
    .allocate = memory_allocate,
    .punch = memory_punch,
    .identity = memory_identity,
    .descriptor = memory_descriptor,
    .close = memory_close,
};

void memory_open(struct memory *memory, uint64_t size)
{
    if (!mapping) {
        mapping = mmap(NULL, MEMORY_BYTES_MAX, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (mapping == MAP_FAILED) {
            abort();
        }
    }
    *memory = (struct memory){
        .file = {.ops = &memory_ops},
        .bytes = mapping,
        .size = size,
        .limit = MEMORY_BYTES_MAX,
    };
}

void memory_release(struct memory *memory)
{
    if (memory->size <= SMALL) {
        memset(memory->bytes, 0, memory->size);
    } else if (madvise(mapping, MEMORY_BYTES_MAX, MADV_DONTNEED) < 0) {
        abort();
    }
    *memory = (struct memory){0};
}
