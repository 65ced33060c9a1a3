/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Setting and clearing.  A change walks the chunks of its range; of each it
 * becomes one of
 *   - nothing, when all the bits are that way already: the version stays, for
 *     the change that made them so is the one that counts;
 *   - zeros or ones, when the range covers the chunk or completes it: the
 *     buffer is released, nothing is needed;
 *   - a change of single bits, which needs a buffer of one's own when the chunk
 *     has none or shares it with a snapshot.
 *
 * Only the last may allocate, and only in the first and the last chunk of the
 * range, the others being covered.  That is what makes a reserve of two
 * buffers enough for any change.
 *
 * Several changes that are reserved for together need one buffer for each chunk
 * that any of them cuts and that has none of its own, because a buffer which an
 * earlier change takes from a chunk is a spare for a later one.
 */
#include "daemon/bitmap/internal.h"

#include <errno.h>
#include <string.h>

/*
 * Whether a change of [offset, offset + length) may change single bits of the
 * chunk while it has no buffer of its own.  A range that covers the chunk's
 * bytes covers all of its granules, for a set and for a clear alike.
 */
static bool needs_buffer(const struct bitmap *bitmap, uint32_t chunk, uint64_t offset,
                         uint64_t length)
{
    const struct chunk *c = &bitmap->table[chunk];

    if (c->buffer && c->buffer->references == 1) {
        return false;
    }
    uint64_t begin = (uint64_t)chunk << bitmap->chunk_shift;
    uint64_t end = begin + chunk_granules(bitmap, chunk);
    return offset > begin << bitmap->granule_shift ||
           offset + length < granules_to_bytes(bitmap, end);
}

void bitmap_need_change(const struct bitmap *bitmap, uint64_t offset, uint64_t length,
                        struct bitmap_need *need)
{
    uint64_t first, end;
    granules_touched(bitmap, offset, length, &first, &end);

    uint32_t first_chunk = (uint32_t)(first >> bitmap->chunk_shift);
    uint32_t last_chunk = (uint32_t)((end - 1) >> bitmap->chunk_shift);

    /*
     * A clear touches fewer granules than a set of the same range, but if that
     * makes it begin or end in another chunk, then at that chunk's edge: it
     * cuts no chunk that the set does not have as its first or last.
     */
    if (needs_buffer(bitmap, first_chunk, offset, length)) {
        need_add(bitmap, first_chunk, need);
    }
    if (last_chunk != first_chunk && needs_buffer(bitmap, last_chunk, offset, length)) {
        need_add(bitmap, last_chunk, need);
    }
}

int bitmap_reserve(struct bitmap *bitmap, uint64_t offset, uint64_t length)
{
    struct bitmap_need need = {0};

    bitmap_need_change(bitmap, offset, length, &need);
    return need.full + need.tail > 0 ? spares_ensure(bitmap, &need) : 0;
}

int bitmap_reserve_need(struct bitmap *bitmap, const struct bitmap_need *need)
{
    int r = spares_ensure(bitmap, need);

    bitmap->spares.collect = r == 0;
    return r;
}

void bitmap_reserve_end(struct bitmap *bitmap)
{
    spares_trim(bitmap);
}

/* The words of a chunk with bits changed singly, in a buffer that nobody else sees. */
static uint64_t *chunk_words_own(struct bitmap *bitmap, uint32_t chunk)
{
    struct chunk *c = &bitmap->table[chunk];

    if (c->buffer && c->buffer->references == 1) {
        return c->buffer->words;
    }
    struct buffer *own = spares_take(bitmap, chunk);
    uint32_t words = chunk_words(bitmap, chunk);
    switch (chunk_kind(c)) {
    case BITMAP_ZEROS:
        memset(own->words, 0, words * sizeof own->words[0]);
        break;
    case BITMAP_ONES:
        /* The last word may have bits beyond the last granule, which stay 0. */
        memset(own->words, 0, words * sizeof own->words[0]);
        bits_set(own->words, 0, chunk_granules(bitmap, chunk));
        break;
    case BITMAP_DENSE:
        memcpy(own->words, c->buffer->words, words * sizeof own->words[0]);
        break;
    }
    buffer_unref(c->buffer);
    c->buffer = own;
    return own->words;
}

/* What a change finds where it would change single bits; whole chunks need no look. */
static bool part_has(const struct chunk *c, const struct chunk_part *part, bool value)
{
    return bits_find(c->buffer->words, part->from, part->to, value) < part->to;
}

void chunk_set(struct bitmap *bitmap, const struct chunk_part *part, uint64_t version)
{
    struct chunk *c = &bitmap->table[part->chunk];
    uint32_t granules = chunk_granules(bitmap, part->chunk);
    uint32_t added = part->to - part->from;

    if (c->dirty == granules) {
        return;
    }
    if (added == granules) {
        chunk_replace(bitmap, part->chunk, NULL, granules, version);
        return;
    }
    if (c->buffer) {
        if (!part_has(c, part, false)) {
            return;
        }
        added -= bits_count(c->buffer->words, part->from, part->to);
    }
    if (c->dirty + added == granules) {
        chunk_replace(bitmap, part->chunk, NULL, granules, version);
        return;
    }
    bits_set(chunk_words_own(bitmap, part->chunk), part->from, part->to);
    chunk_replace(bitmap, part->chunk, c->buffer, c->dirty + added, version);
}

static void chunk_clear(struct bitmap *bitmap, const struct chunk_part *part, uint64_t version)
{
    struct chunk *c = &bitmap->table[part->chunk];
    uint32_t removed = part->to - part->from;

    if (c->dirty == 0) {
        return;
    }
    if (part_is_whole(bitmap, part)) {
        chunk_replace(bitmap, part->chunk, NULL, 0, version);
        return;
    }
    if (c->buffer) {
        if (!part_has(c, part, true)) {
            return;
        }
        removed = bits_count(c->buffer->words, part->from, part->to);
    }
    if (c->dirty == removed) {
        chunk_replace(bitmap, part->chunk, NULL, 0, version);
        return;
    }
    bits_clear(chunk_words_own(bitmap, part->chunk), part->from, part->to);
    chunk_replace(bitmap, part->chunk, c->buffer, c->dirty - removed, version);
}

void bitmap_set(struct bitmap *bitmap, uint64_t offset, uint64_t length, uint64_t version)
{
    uint64_t first, end;
    granules_touched(bitmap, offset, length, &first, &end);

    while (first < end) {
        struct chunk_part part = part_at(bitmap, first, end);
        chunk_set(bitmap, &part, version);
        first = part_end(bitmap, &part);
    }
}

bool bitmap_set_quickly(struct bitmap *bitmap, uint64_t offset, uint64_t length, uint64_t version)
{
    assert_range(bitmap, offset, length);

    uint64_t granule = offset >> bitmap->granule_shift;
    uint32_t index = (uint32_t)(granule >> bitmap->chunk_shift);
    struct chunk *c = &bitmap->table[index];
    if ((offset + length - 1) >> bitmap->granule_shift != granule || !c->buffer ||
        c->buffer->references != 1 || c->dirty + 1 >= chunk_granules(bitmap, index)) {
        return false;
    }
    uint32_t bit = (uint32_t)granule & ((UINT32_C(1) << bitmap->chunk_shift) - 1);
    if (bits_add(c->buffer->words, bit)) {
        c->dirty++;
        c->version = version;
        bitmap->dirty++;
    }
    return true;
}

void bitmap_prefetch(const struct bitmap *bitmap, uint64_t offset)
{
    assert_range(bitmap, offset, 1);

    uint64_t granule = offset >> bitmap->granule_shift;
    const struct chunk *c = &bitmap->table[granule >> bitmap->chunk_shift];
    uint32_t bit = (uint32_t)granule & ((UINT32_C(1) << bitmap->chunk_shift) - 1);
    if (c->buffer) {
        __builtin_prefetch(&c->buffer->words[bit / 64], 1);
    }
}

void bitmap_clear(struct bitmap *bitmap, uint64_t offset, uint64_t length, uint64_t version)
{
    assert_range(bitmap, offset, length);

    uint64_t granule_mask = (UINT64_C(1) << bitmap->granule_shift) - 1;
    uint64_t first = (offset >> bitmap->granule_shift) + ((offset & granule_mask) != 0);
    uint64_t end = offset + length == bitmap->size_bytes
                       ? bitmap->granules
                       : (offset + length) >> bitmap->granule_shift;

    while (first < end) {
        struct chunk_part part = part_at(bitmap, first, end);
        chunk_clear(bitmap, &part, version);
        first = part_end(bitmap, &part);
    }
}

void bitmap_set_all(struct bitmap *bitmap, uint64_t version)
{
    bitmap_set(bitmap, 0, bitmap->size_bytes, version);
}

void bitmap_clear_all(struct bitmap *bitmap, uint64_t version)
{
    bitmap_clear(bitmap, 0, bitmap->size_bytes, version);
}
