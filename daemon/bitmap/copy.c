/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Bitmaps made from others.  Copies share dense buffers; whoever changes such a
 * chunk first takes a buffer of its own (change.c), so a copy costs its table
 * only.
 */
#include "daemon/bitmap/internal.h"

#include "proto/base/checked.h"
#include "proto/base/cleanup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Chunk @chunk of both has the same granules: @to gets the bits of @from, sharing the buffer. */
static void chunk_share(struct bitmap *to, const struct bitmap *from, uint32_t chunk)
{
    const struct chunk *c = &from->table[chunk];

    if (c->buffer) {
        c->buffer->references++;
    }
    chunk_replace(to, chunk, c->buffer, c->dirty, c->version);
}

int bitmap_snapshot(struct bitmap *bitmap, struct bitmap **ret)
{
    struct bitmap *copy;
    int r = bitmap_new(bitmap->size_bytes, bitmap_granularity(bitmap), bitmap->chunk_bytes, &copy);
    if (r < 0) {
        return r;
    }
    for (uint32_t i = 0; i < bitmap->chunks; i++) {
        chunk_share(copy, bitmap, i);
    }
    *ret = copy;
    return 0;
}

/* The chunk's bits become the first @granules of @words (in a new buffer if need be), then 0. */
static int chunk_assign(struct bitmap *bitmap, uint32_t chunk, const uint64_t *words,
                        uint32_t granules, uint64_t version)
{
    uint32_t dirty = bits_count(words, 0, granules);
    struct buffer *buffer = NULL;

    if (dirty > 0 && dirty < chunk_granules(bitmap, chunk)) {
        buffer = buffer_new(bitmap, chunk);
        if (!buffer) {
            return -ENOMEM;
        }
        uint32_t length = chunk_words(bitmap, chunk);
        uint32_t copied = bits_words(granules);
        memcpy(buffer->words, words, copied * sizeof words[0]);
        buffer->words[copied - 1] &= htole64(bits_last_mask(granules));
        memset(buffer->words + copied, 0, (length - copied) * sizeof words[0]);
    }
    chunk_replace(bitmap, chunk, buffer, dirty, version);
    return 0;
}

/* Chunk @chunk exists in both, but one of them ends in it: @to gets the granules both have. */
static int chunk_copy_common(struct bitmap *to, const struct bitmap *from, uint32_t chunk)
{
    const struct chunk *c = &from->table[chunk];
    uint32_t to_granules = chunk_granules(to, chunk);
    uint32_t granules = chunk_granules(from, chunk);
    if (granules > to_granules) {
        granules = to_granules;
    }

    switch (chunk_kind(c)) {
    case BITMAP_DENSE:
        return chunk_assign(to, chunk, c->buffer->words, granules, 0);
    case BITMAP_ONES: {
        struct chunk_part part = {.chunk = chunk, .from = 0, .to = granules};
        struct bitmap_need need = {0};
        if (granules < to_granules) {
            need_add(to, chunk, &need);
        }
        int r = spares_ensure(to, &need);
        if (r < 0) {
            return r;
        }
        chunk_set(to, &part, 0);
        return 0;
    }
    case BITMAP_ZEROS:
        break;
    }
    return 0;
}

int bitmap_resized(const struct bitmap *bitmap, uint64_t size_bytes, uint64_t version,
                   struct bitmap **ret)
{
    CLEANUP(bitmap_freep) struct bitmap *resized = NULL;
    int r = bitmap_new(size_bytes, bitmap_granularity(bitmap), bitmap->chunk_bytes, &resized);
    if (r < 0) {
        return r;
    }

    uint32_t common = bitmap->chunks < resized->chunks ? bitmap->chunks : resized->chunks;
    for (uint32_t i = 0; i < common; i++) {
        if (chunk_granules(bitmap, i) == chunk_granules(resized, i)) {
            chunk_share(resized, bitmap, i);
            continue;
        }
        r = chunk_copy_common(resized, bitmap, i);
        if (r < 0) {
            return r;
        }
    }

    if (size_bytes > bitmap->size_bytes) {
        /* From the old end on, which sets the granule that it cut as well. */
        uint64_t grown_bytes = size_bytes - bitmap->size_bytes;
        r = bitmap_reserve(resized, bitmap->size_bytes, grown_bytes);
        if (r < 0) {
            return r;
        }
        bitmap_set(resized, bitmap->size_bytes, grown_bytes, version);
    }
    for (uint32_t i = 0; i < resized->chunks; i++) {
        resized->table[i].version = version;
    }
    *ret = STEAL(resized);
    return 0;
}
