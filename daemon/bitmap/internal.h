/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_BITMAP_INTERNAL_H
#define BITMAPD_DAEMON_BITMAP_INTERNAL_H

#include "daemon/bitmap/bitmap.h"
#include "daemon/bitmap/bits.h"

#include <assert.h>

/*
 * The bitmap's insides, for the files of this folder.
 *
 * Invariants between calls:
 *   - a chunk has a buffer if and only if some but not all of its granules are
 *     dirty; its kind follows from buffer and count and is stored nowhere;
 *   - chunk.dirty is the popcount of its bits, bitmap.dirty the sum over all;
 *   - bits of a buffer beyond the chunk's last granule are 0, up to the end of
 *     the last word;
 *   - a buffer with more than one reference is never written to.
 */

/* Bits of one dense chunk. */
struct buffer {
    union {
        uint32_t references;
        struct buffer *next; /* while it is a spare */
    };
    uint64_t words[];
};

struct chunk {
    struct buffer *buffer;
    uint64_t version;
    uint32_t dirty; /* granules */
};

/*
 * Buffers for changes that must not fail.  A last chunk that is shorter than
 * the others has a spare of its own size.
 */
struct spares {
    struct buffer *full;
    uint32_t full_count;
    struct buffer *tail;
    bool collect; /* buffers that chunks give up become spares, until spares_trim() */
};

struct bitmap {
    uint64_t size_bytes;
    uint64_t granules;
    uint64_t dirty; /* granules */
    struct spares spares;
    uint32_t chunk_bytes;
    uint32_t chunks;
    uint32_t tail_granules; /* in the last chunk */
    uint8_t granule_shift;  /* log2 of bytes in a granule */
    uint8_t chunk_shift;    /* log2 of granules in a chunk */
    struct chunk table[];
};

/* Part of one chunk: granules [from, to) of it, from < to. */
struct chunk_part {
    uint32_t chunk;
    uint32_t from;
    uint32_t to;
};

static inline uint32_t chunk_granules(const struct bitmap *bitmap, uint32_t chunk)
{
    return chunk + 1 < bitmap->chunks ? UINT32_C(1) << bitmap->chunk_shift : bitmap->tail_granules;
}

static inline uint32_t chunk_words(const struct bitmap *bitmap, uint32_t chunk)
{
    return bits_words(chunk_granules(bitmap, chunk));
}

/* Whether the chunk is a last one that is shorter than the others, even by the word. */
static inline bool chunk_is_short(const struct bitmap *bitmap, uint32_t chunk)
{
    return chunk_words(bitmap, chunk) != bits_words(UINT32_C(1) << bitmap->chunk_shift);
}

static inline enum bitmap_chunk_kind chunk_kind(const struct chunk *chunk)
{
    return chunk->buffer ? BITMAP_DENSE : chunk->dirty ? BITMAP_ONES : BITMAP_ZEROS;
}

static inline bool chunk_shared(const struct chunk *chunk)
{
    return chunk->buffer && chunk->buffer->references > 1;
}

static inline void assert_range(const struct bitmap *bitmap, uint64_t offset, uint64_t length)
{
    assert(length > 0);
    assert(length <= bitmap->size_bytes);
    assert(offset <= bitmap->size_bytes - length);
    (void)bitmap;
    (void)offset;
    (void)length;
}

/* The granules [*ret_first, *ret_end) that a range of bytes touches. */
static inline void granules_touched(const struct bitmap *bitmap, uint64_t offset, uint64_t length,
                                    uint64_t *ret_first, uint64_t *ret_end)
{
    assert_range(bitmap, offset, length);
    *ret_first = offset >> bitmap->granule_shift;
    *ret_end = ((offset + length - 1) >> bitmap->granule_shift) + 1;
}

/* The part of its chunk that [first, end) begins with; the next begins at part_end(). */
static inline struct chunk_part part_at(const struct bitmap *bitmap, uint64_t first, uint64_t end)
{
    uint32_t chunk = (uint32_t)(first >> bitmap->chunk_shift);
    uint64_t base = (uint64_t)chunk << bitmap->chunk_shift;
    uint32_t granules = UINT32_C(1) << bitmap->chunk_shift;

    return (struct chunk_part){
        .chunk = chunk,
        .from = (uint32_t)(first - base),
        .to = end - base < granules ? (uint32_t)(end - base) : granules,
    };
}

static inline uint64_t part_end(const struct bitmap *bitmap, const struct chunk_part *part)
{
    return ((uint64_t)part->chunk << bitmap->chunk_shift) + part->to;
}

static inline bool part_is_whole(const struct bitmap *bitmap, const struct chunk_part *part)
{
    return part->from == 0 && part->to == chunk_granules(bitmap, part->chunk);
}

/* The end of a granule in bytes of the drive: the drive's own for the last one. */
static inline uint64_t granules_to_bytes(const struct bitmap *bitmap, uint64_t granules)
{
    return granules == bitmap->granules ? bitmap->size_bytes : granules << bitmap->granule_shift;
}

/* A buffer for @chunk, with undefined bits and one reference; NULL when there is no memory. */
struct buffer *buffer_new(const struct bitmap *bitmap, uint32_t chunk);
/* The same of full size, even where no chunk is. */
struct buffer *buffer_new_full(const struct bitmap *bitmap);
void buffer_unref(struct buffer *buffer); /* takes NULL */

/* Has at least as many spares.  -ENOMEM leaves them as they were. */
int spares_ensure(struct bitmap *bitmap, const struct bitmap_need *need);
/* Collects no more, and frees spares above what bitmap_reserve() keeps. */
void spares_trim(struct bitmap *bitmap);
/* Adds the buffer that a change of @chunk would need; never more than there are chunks. */
void need_add(const struct bitmap *bitmap, uint32_t chunk, struct bitmap_need *need);
/* A buffer for @chunk from the spares, else from the heap; without memory it aborts. */
struct buffer *spares_take(struct bitmap *bitmap, uint32_t chunk);

/*
 * Gives the chunk its bits: @buffer (consumed) with @dirty bits set, or NULL
 * when that is none or all.  The old buffer is released unless it is the same.
 */
void chunk_replace(struct bitmap *bitmap, uint32_t chunk, struct buffer *buffer, uint32_t dirty,
                   uint64_t version);

/* Sets a part of a chunk.  Takes at most one spare. */
void chunk_set(struct bitmap *bitmap, const struct chunk_part *part, uint64_t version);

#endif
