/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Merging: target |= source.
 *
 * It is all or nothing, so it goes over the source twice: first to learn how
 * many buffers the target will need, which are then made spares of it, and
 * then to set bits, which now cannot fail.  The need is an upper bound; what
 * remains of it is freed at the end.
 *
 * Bitmaps of the same shape are merged chunk by chunk and word by word.
 * Others by the source's dirty runs, each of which is a set in the target,
 * rounded outwards to the target's granules.
 *
 * Buffers are not shared between source and target although they could be:
 * they may live on different threads, and references are plain integers.
 */
#include "daemon/bitmap/internal.h"

#include <errno.h>
#include <string.h>

static bool same_shape(const struct bitmap *a, const struct bitmap *b)
{
    return a->granule_shift == b->granule_shift && a->chunk_shift == b->chunk_shift;
}

/* Whether merging dense chunk @s changes a bit of @t, which has a buffer too. */
static bool dense_changes(const struct chunk *t, const struct chunk *s, uint32_t words)
{
    return t->buffer != s->buffer && bits_lacks(t->buffer->words, s->buffer->words, words);
}

static void chunks_need(const struct bitmap *target, const struct bitmap *source,
                        struct bitmap_need *need)
{
    for (uint32_t i = 0; i < target->chunks; i++) {
        const struct chunk *t = &target->table[i];
        const struct chunk *s = &source->table[i];
        if (!s->buffer || chunk_kind(t) == BITMAP_ONES) {
            continue; /* stays, or becomes ones */
        }
        if (!t->buffer || (chunk_shared(t) && dense_changes(t, s, chunk_words(target, i)))) {
            need_add(target, i, need);
        }
    }
}

/* Both chunks are dense. */
static void dense_merge(struct bitmap *target, uint32_t chunk, const struct chunk *s,
                        uint64_t version)
{
    struct chunk *t = &target->table[chunk];
    uint32_t words = chunk_words(target, chunk);
    struct buffer *buffer = t->buffer;

    if (chunk_shared(t)) {
        if (!dense_changes(t, s, words)) {
            return;
        }
        buffer = spares_take(target, chunk);
    }
    uint32_t dirty = bits_or(buffer->words, t->buffer->words, s->buffer->words, words);
    if (dirty == t->dirty) {
        return; /* in place, and every bit was there: a shared one would have changed */
    }
    if (dirty == chunk_granules(target, chunk)) {
        if (buffer != t->buffer) {
            buffer_unref(buffer);
        }
        buffer = NULL;
    }
    chunk_replace(target, chunk, buffer, dirty, version);
}

static void chunks_merge(struct bitmap *target, const struct bitmap *source, uint64_t version)
{
    for (uint32_t i = 0; i < target->chunks; i++) {
        const struct chunk *t = &target->table[i];
        const struct chunk *s = &source->table[i];
        if (chunk_kind(s) == BITMAP_ZEROS || chunk_kind(t) == BITMAP_ONES) {
            continue;
        }
        if (chunk_kind(s) == BITMAP_ONES) {
            chunk_replace(target, i, NULL, s->dirty, version);
        } else if (t->buffer) {
            dense_merge(target, i, s, version);
        } else {
            struct buffer *copy = spares_take(target, i);
            memcpy(copy->words, s->buffer->words, chunk_words(target, i) * sizeof copy->words[0]);
            chunk_replace(target, i, copy, s->dirty, version);
        }
    }
}

/*
 * Setting a run changes single bits of its first and its last chunk only.  Runs
 * come in order, so a chunk that several of them want was counted just before.
 */
static void runs_need(const struct bitmap *target, const struct bitmap *source,
                      struct bitmap_need *need)
{
    uint64_t counted = UINT64_MAX; /* the last chunk counted; none yet */
    uint64_t offset, end = 0;

    while (bitmap_next_dirty(source, end, &offset, &end)) {
        uint64_t first_granule, end_granule;
        granules_touched(target, offset, end - offset, &first_granule, &end_granule);
        uint64_t last_chunk = (end_granule - 1) >> target->chunk_shift;
        struct chunk_part part = part_at(target, first_granule, end_granule);
        for (;;) {
            const struct chunk *c = &target->table[part.chunk];
            bool own = c->buffer && !chunk_shared(c);
            if (part.chunk != counted && !own && chunk_kind(c) != BITMAP_ONES &&
                !part_is_whole(target, &part) &&
                (!c->buffer || bits_find(c->buffer->words, part.from, part.to, false) < part.to)) {
                need_add(target, part.chunk, need);
                counted = part.chunk;
            }
            if (part.chunk == last_chunk) {
                break;
            }
            part = part_at(target, last_chunk << target->chunk_shift, end_granule);
        }
    }
}

static void runs_merge(struct bitmap *target, const struct bitmap *source, uint64_t version)
{
    uint64_t offset, end = 0;

    while (bitmap_next_dirty(source, end, &offset, &end)) {
        bitmap_set(target, offset, end - offset, version);
    }
}

void bitmap_need_merge(const struct bitmap *target, const struct bitmap *source,
                       struct bitmap_need *need)
{
    assert(target->size_bytes == source->size_bytes);
    if (target == source) {
        return;
    }
    if (same_shape(target, source)) {
        chunks_need(target, source, need);
    } else {
        runs_need(target, source, need);
    }
}

void bitmap_merge_reserved(struct bitmap *target, const struct bitmap *source, uint64_t version)
{
    assert(target->size_bytes == source->size_bytes);
    if (target == source) {
        return;
    }
    if (same_shape(target, source)) {
        chunks_merge(target, source, version);
    } else {
        runs_merge(target, source, version);
    }
}

int bitmap_merge(struct bitmap *target, const struct bitmap *source, uint64_t version)
{
    struct bitmap_need need = {0};

    bitmap_need_merge(target, source, &need);
    int r = bitmap_reserve_need(target, &need);
    if (r == 0) {
        bitmap_merge_reserved(target, source, version);
        bitmap_reserve_end(target);
    }
    return r;
}
