/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory for many buffers in one piece.
 *
 * Memory that is fresh from the kernel costs a fault for each page, and with
 * pages of 4 KiB that takes longer than to read a large bitmap and to check it.
 * So its buffers come from a mapping of huge pages, where the kernel has any.
 * Only whole huge pages are asked for: there is no more memory in use than that
 * of the buffers.
 *
 * A buffer is taken once from a slab and never again.  Its pages go back to the
 * kernel as it is freed, and the mapping with the last one.
 */
#include "daemon/bitmap/internal.h"

#include <sys/mman.h>
#include <unistd.h>

#define HUGE_BYTES ((size_t)2 << 20)

/* Of smaller chunks, freed buffers would share their pages with others. */
#define CHUNK_BYTES_MIN (UINT32_C(64) << 10)

struct slab {
    void *mapping;
    size_t mapped_bytes;
    size_t buffer_bytes;
    uint32_t buffers, taken;
    uint32_t references; /* buffers in use, and who takes them */
};

struct slab *slab_new(const struct bitmap *bitmap, uint32_t buffers)
{
    size_t buffer_bytes = sizeof(struct buffer) + bitmap->chunk_bytes;
    size_t bytes = sizeof(struct slab) + buffers * buffer_bytes;

    if (bitmap->chunk_bytes < CHUNK_BYTES_MIN || bytes < HUGE_BYTES) {
        return NULL;
    }
    size_t mapped_bytes = bytes + HUGE_BYTES; /* a huge page has an address of its multiples */
    uint8_t *mapping =
        mmap(NULL, mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED) {
        return NULL;
    }
    uint8_t *start = mapping + (-(uintptr_t)mapping & (HUGE_BYTES - 1));
    (void)madvise(start, bytes & ~(HUGE_BYTES - 1), MADV_HUGEPAGE);

    struct slab *slab = (struct slab *)(void *)start;
    *slab = (struct slab){.mapping = mapping,
                          .mapped_bytes = mapped_bytes,
                          .buffer_bytes = buffer_bytes,
                          .buffers = buffers,
                          .references = 1};
    return slab;
}

void slab_unref(struct slab *slab)
{
    if (slab && --slab->references == 0) {
        (void)munmap(slab->mapping, slab->mapped_bytes);
    }
}

struct buffer *slab_take(struct slab *slab)
{
    if (!slab || slab->taken == slab->buffers) {
        return NULL;
    }
    uint8_t *at = (uint8_t *)(slab + 1) + slab->taken++ * slab->buffer_bytes;
    struct buffer *buffer = (struct buffer *)(void *)at;

    slab->references++;
    buffer->references = 1;
    buffer->slab = slab;
    return buffer;
}

void slab_give(struct buffer *buffer)
{
    struct slab *slab = buffer->slab;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = ((uintptr_t)buffer + page - 1) & ~(page - 1);
    uintptr_t end = ((uintptr_t)buffer + slab->buffer_bytes) & ~(page - 1);

    if (end > begin) {
        (void)madvise((void *)begin, end - begin, MADV_DONTNEED);
    }
    slab_unref(slab);
}
