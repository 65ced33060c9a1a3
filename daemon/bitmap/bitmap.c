/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A bitmap's lifetime: geometry, the table of chunks, the buffers behind them
 * and the spares.  What the bits mean is in change.c (writing), query.c
 * (reading), copy.c (snapshots, resizing), load.c and merge.c.
 *
 * Bitmap and table are one allocation of 24 bytes a chunk, so an empty bitmap
 * costs next to nothing and a dense one little more than its bits.
 */
#include "daemon/bitmap/internal.h"

#include "proto/base/checked.h"

#include <errno.h>
#include <stdlib.h>

#define SPARES_KEPT 2u /* of full size: a range cuts its first and its last chunk at most */

static uint8_t log2_exact(uint64_t power_of_two)
{
    return (uint8_t)__builtin_ctzll(power_of_two);
}

bool bitmap_geometry_valid(uint64_t size_bytes, uint64_t granularity)
{
    return size_bytes > 0 && is_power_of_two(granularity) &&
           granularity >= BITMAP_GRANULARITY_MIN && granularity <= BITMAP_GRANULARITY_MAX &&
           div_round_up(size_bytes, granularity) <= BITMAP_BYTES_MAX * 8;
}

int bitmap_new(uint64_t size_bytes, uint32_t granularity, uint32_t chunk_bytes, struct bitmap **ret)
{
    if (!bitmap_geometry_valid(size_bytes, granularity) || !is_power_of_two(chunk_bytes) ||
        chunk_bytes < BITMAP_CHUNK_BYTES_MIN || chunk_bytes > BITMAP_CHUNK_BYTES_MAX) {
        return -EINVAL;
    }
    uint64_t granules = div_round_up(size_bytes, granularity);
    uint8_t chunk_shift = (uint8_t)(log2_exact(chunk_bytes) + 3);
    /* At most 2^20: BITMAP_BYTES_MAX in the smallest chunks. */
    uint32_t chunks = (uint32_t)div_round_up(granules, UINT64_C(1) << chunk_shift);

    struct bitmap *bitmap = calloc(1, sizeof *bitmap + chunks * sizeof bitmap->table[0]);
    if (!bitmap) {
        return -ENOMEM;
    }
    bitmap->size_bytes = size_bytes;
    bitmap->granules = granules;
    bitmap->chunk_bytes = chunk_bytes;
    bitmap->chunks = chunks;
    bitmap->tail_granules = (uint32_t)(granules - ((uint64_t)(chunks - 1) << chunk_shift));
    bitmap->granule_shift = log2_exact(granularity);
    bitmap->chunk_shift = chunk_shift;
    *ret = bitmap;
    return 0;
}

static void spares_free(struct bitmap *bitmap, uint32_t full_kept)
{
    while (bitmap->spares.full_count > full_kept) {
        struct buffer *spare = bitmap->spares.full;
        bitmap->spares.full = spare->next;
        bitmap->spares.full_count--;
        free(spare);
    }
}

void bitmap_free(struct bitmap *bitmap)
{
    if (!bitmap) {
        return;
    }
    for (uint32_t i = 0; i < bitmap->chunks; i++) {
        buffer_unref(bitmap->table[i].buffer);
    }
    spares_free(bitmap, 0);
    free(bitmap->spares.tail);
    free(bitmap);
}

void bitmap_freep(struct bitmap **bitmap)
{
    bitmap_free(*bitmap);
}

uint64_t bitmap_size_bytes(const struct bitmap *bitmap)
{
    return bitmap->size_bytes;
}

uint32_t bitmap_granularity(const struct bitmap *bitmap)
{
    return UINT32_C(1) << bitmap->granule_shift;
}

uint32_t bitmap_chunk_bytes(const struct bitmap *bitmap)
{
    return bitmap->chunk_bytes;
}

uint64_t bitmap_granules(const struct bitmap *bitmap)
{
    return bitmap->granules;
}

uint32_t bitmap_chunks(const struct bitmap *bitmap)
{
    return bitmap->chunks;
}

static size_t buffer_bytes(const struct bitmap *bitmap, uint32_t chunk)
{
    return sizeof(struct buffer) + (size_t)chunk_words(bitmap, chunk) * sizeof(uint64_t);
}

uint64_t bitmap_memory_bytes(const struct bitmap *bitmap)
{
    uint64_t bytes = sizeof *bitmap + (uint64_t)bitmap->chunks * sizeof bitmap->table[0];

    for (uint32_t i = 0; i < bitmap->chunks; i++) {
        if (bitmap->table[i].buffer) {
            bytes += buffer_bytes(bitmap, i);
        }
    }
    if (bitmap->spares.tail) {
        bytes += buffer_bytes(bitmap, bitmap->chunks - 1);
    }
    /* With spares of full size there is a chunk of full size, and it is the first. */
    return bytes + bitmap->spares.full_count * buffer_bytes(bitmap, 0);
}

static struct buffer *buffer_alloc(size_t bytes)
{
    struct buffer *buffer = malloc(bytes);
    if (buffer) {
        buffer->references = 1;
    }
    return buffer;
}

struct buffer *buffer_new(const struct bitmap *bitmap, uint32_t chunk)
{
    return buffer_alloc(buffer_bytes(bitmap, chunk));
}

struct buffer *buffer_new_full(const struct bitmap *bitmap)
{
    return buffer_alloc(sizeof(struct buffer) + bitmap->chunk_bytes);
}

void buffer_unref(struct buffer *buffer)
{
    if (buffer && --buffer->references == 0) {
        free(buffer);
    }
}

void need_add(const struct bitmap *bitmap, uint32_t chunk, struct bitmap_need *need)
{
    if (chunk_is_short(bitmap, chunk)) {
        need->tail = 1;
    } else if (need->full < bitmap->chunks) {
        need->full++;
    }
}

int spares_ensure(struct bitmap *bitmap, const struct bitmap_need *need)
{
    uint32_t full_before = bitmap->spares.full_count;

    while (bitmap->spares.full_count < need->full) {
        struct buffer *spare = buffer_new(bitmap, 0);
        if (!spare) {
            spares_free(bitmap, full_before);
            return -ENOMEM;
        }
        spare->next = bitmap->spares.full;
        bitmap->spares.full = spare;
        bitmap->spares.full_count++;
    }
    if (need->tail > 0 && !bitmap->spares.tail) {
        bitmap->spares.tail = buffer_new(bitmap, bitmap->chunks - 1);
        if (!bitmap->spares.tail) {
            spares_free(bitmap, full_before);
            return -ENOMEM;
        }
    }
    return 0;
}

void spares_trim(struct bitmap *bitmap)
{
    bitmap->spares.collect = false;
    spares_free(bitmap, SPARES_KEPT);
}

struct buffer *spares_take(struct bitmap *bitmap, uint32_t chunk)
{
    struct buffer *buffer;

    if (chunk_is_short(bitmap, chunk)) {
        buffer = bitmap->spares.tail;
        bitmap->spares.tail = NULL;
    } else {
        buffer = bitmap->spares.full;
        if (buffer) {
            bitmap->spares.full = buffer->next;
            bitmap->spares.full_count--;
        }
    }
    if (buffer) {
        buffer->references = 1;
        return buffer;
    }
    buffer = buffer_new(bitmap, chunk);
    if (!buffer) {
        /* Nobody reserved.  A bit that is not recorded must never be taken for clean. */
        abort();
    }
    return buffer;
}

/* A chunk gives up its buffer. */
static void buffer_release(struct bitmap *bitmap, uint32_t chunk, struct buffer *buffer)
{
    struct spares *spares = &bitmap->spares;

    if (!buffer || !spares->collect || buffer->references > 1) {
        buffer_unref(buffer);
    } else if (!chunk_is_short(bitmap, chunk)) {
        buffer->next = spares->full;
        spares->full = buffer;
        spares->full_count++;
    } else if (!spares->tail) {
        spares->tail = buffer;
    } else {
        free(buffer);
    }
}

void chunk_replace(struct bitmap *bitmap, uint32_t chunk, struct buffer *buffer, uint32_t dirty,
                   uint64_t version)
{
    struct chunk *c = &bitmap->table[chunk];

    assert((buffer != NULL) == (dirty > 0 && dirty < chunk_granules(bitmap, chunk)));
    if (c->buffer != buffer) {
        buffer_release(bitmap, chunk, c->buffer);
        c->buffer = buffer;
    }
    bitmap->dirty += (uint64_t)dirty - c->dirty;
    c->dirty = dirty;
    c->version = version;
}
