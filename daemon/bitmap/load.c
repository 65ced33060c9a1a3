/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Chunks made from bytes that are read into the very buffers that will hold
 * them.  Only a last chunk that is shorter than the others is copied, since what
 * is read is never shorter.
 */
#include "daemon/bitmap/internal.h"

#include "proto/base/cleanup.h"

#include <errno.h>
#include <string.h>

void bitmap_loader_deinit(struct bitmap_loader *loader)
{
    buffer_unref(loader->space);
}

void *bitmap_loader_space(struct bitmap_loader *loader)
{
    if (!loader->space) {
        loader->space = buffer_new_full(loader->bitmap);
    }
    return loader->space ? loader->space->words : NULL;
}

/* Whether the last byte of a chunk's bits has any beyond its last granule. */
static bool has_spare_bits(const uint8_t *bits, uint32_t length_bytes, uint32_t granules)
{
    uint32_t used = granules % 8;

    return used != 0 && bits[length_bytes - 1] >> used != 0;
}

int bitmap_loader_take(struct bitmap_loader *loader, uint32_t chunk, uint64_t version)
{
    struct bitmap *bitmap = loader->bitmap;
    struct buffer *buffer = loader->space;

    assert(buffer && chunk < bitmap->chunks);
    uint32_t granules = chunk_granules(bitmap, chunk);
    uint32_t length_bytes = (granules + 7) / 8;
    uint32_t words_bytes = chunk_words(bitmap, chunk) * (uint32_t)sizeof buffer->words[0];
    uint8_t *bits = (uint8_t *)buffer->words;

    if (has_spare_bits(bits, length_bytes, granules)) {
        return -EINVAL;
    }
    memset(bits + length_bytes, 0, words_bytes - length_bytes);
    uint32_t dirty = bits_count(buffer->words, 0, granules);
    if (dirty == 0 || dirty == granules) {
        chunk_replace(bitmap, chunk, NULL, dirty, version);
        return 0;
    }
    if (chunk_is_short(bitmap, chunk)) {
        buffer = buffer_new(bitmap, chunk);
        if (!buffer) {
            return -ENOMEM;
        }
        memcpy(buffer->words, bits, words_bytes);
    } else {
        loader->space = NULL;
    }
    chunk_replace(bitmap, chunk, buffer, dirty, version);
    return 0;
}

void bitmap_move_chunks(struct bitmap *target, struct bitmap *source, uint32_t from, uint32_t to)
{
    assert(target->granules == source->granules && target->chunk_shift == source->chunk_shift);
    assert(from <= to && to <= target->chunks);

    for (uint32_t i = from; i < to; i++) {
        struct chunk moved = source->table[i];
        if (moved.buffer) {
            moved.buffer->references++;
        }
        chunk_replace(source, i, NULL, 0, 0);
        chunk_replace(target, i, moved.buffer, moved.dirty, moved.version);
    }
}
