/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading: tests, counts and runs.  Nothing here allocates or changes
 * anything.  Chunks of zeros and ones answer whole; dense ones are looked
 * through a word at a time, and only in the part that is asked for.
 */
#include "daemon/bitmap/internal.h"

#include "proto/base/checked.h"

/* The first granule of the part that is @dirty, part->to when there is none. */
static uint32_t part_find(const struct bitmap *bitmap, const struct chunk_part *part, bool dirty)
{
    const struct chunk *c = &bitmap->table[part->chunk];

    if (c->buffer) {
        return bits_find(c->buffer->words, part->from, part->to, dirty);
    }
    return (c->dirty > 0) == dirty ? part->from : part->to;
}

/* The first granule in [first, end) that is @dirty, @end when there is none. */
static uint64_t granules_find(const struct bitmap *bitmap, uint64_t first, uint64_t end, bool dirty)
{
    while (first < end) {
        struct chunk_part part = part_at(bitmap, first, end);
        uint32_t found = part_find(bitmap, &part, dirty);
        if (found < part.to) {
            return first + (found - part.from);
        }
        first = part_end(bitmap, &part);
    }
    return end;
}

bool bitmap_test_all(const struct bitmap *bitmap, uint64_t offset, uint64_t length)
{
    uint64_t first, end;
    granules_touched(bitmap, offset, length, &first, &end);

    return granules_find(bitmap, first, end, false) == end;
}

bool bitmap_test_all_version(const struct bitmap *bitmap, uint64_t offset, uint64_t length,
                             uint64_t *version)
{
    uint64_t first, end;
    granules_touched(bitmap, offset, length, &first, &end);

    while (first < end) {
        struct chunk_part part = part_at(bitmap, first, end);
        *version = max_u64(*version, bitmap->table[part.chunk].version);
        if (part_find(bitmap, &part, false) < part.to) {
            return false;
        }
        first = part_end(bitmap, &part);
    }
    return true;
}

uint64_t bitmap_count(const struct bitmap *bitmap)
{
    return bitmap->dirty;
}

uint64_t bitmap_count_range(const struct bitmap *bitmap, uint64_t offset, uint64_t length)
{
    uint64_t first, end, count = 0;
    granules_touched(bitmap, offset, length, &first, &end);

    while (first < end) {
        struct chunk_part part = part_at(bitmap, first, end);
        const struct chunk *c = &bitmap->table[part.chunk];
        if (part_is_whole(bitmap, &part)) {
            count += c->dirty;
        } else if (c->buffer) {
            count += bits_count(c->buffer->words, part.from, part.to);
        } else if (c->dirty > 0) {
            count += part.to - part.from;
        }
        first = part_end(bitmap, &part);
    }
    return count;
}

uint64_t bitmap_dirty_bytes(const struct bitmap *bitmap)
{
    uint64_t bytes = bitmap->dirty << bitmap->granule_shift;
    uint64_t cut = (bitmap->granules << bitmap->granule_shift) - bitmap->size_bytes;

    if (cut > 0 && bitmap_test_all(bitmap, bitmap->size_bytes - 1, 1)) {
        bytes -= cut;
    }
    return bytes;
}

static uint64_t granule_of(const struct bitmap *bitmap, uint64_t offset)
{
    assert((offset & ((UINT64_C(1) << bitmap->granule_shift) - 1)) == 0);
    return offset >> bitmap->granule_shift;
}

void bitmap_run(const struct bitmap *bitmap, uint64_t offset, uint64_t limit, bool *ret_dirty,
                uint64_t *ret_end)
{
    assert(offset < bitmap->size_bytes);
    uint64_t first = granule_of(bitmap, offset);
    uint64_t end = limit < bitmap->size_bytes
                       ? div_round_up(limit, UINT64_C(1) << bitmap->granule_shift)
                       : bitmap->granules;

    /* A run has a granule at least, or an iteration would stand still. */
    end = max_u64(end, first + 1);
    bool dirty = granules_find(bitmap, first, first + 1, true) == first;
    *ret_dirty = dirty;
    *ret_end = granules_to_bytes(bitmap, granules_find(bitmap, first, end, !dirty));
}

bool bitmap_next_dirty(const struct bitmap *bitmap, uint64_t offset, uint64_t *ret_offset,
                       uint64_t *ret_end)
{
    assert(offset <= bitmap->size_bytes);
    if (offset == bitmap->size_bytes) {
        return false;
    }
    uint64_t first = granules_find(bitmap, granule_of(bitmap, offset), bitmap->granules, true);
    if (first == bitmap->granules) {
        return false;
    }
    uint64_t end = granules_find(bitmap, first, bitmap->granules, false);
    *ret_offset = first << bitmap->granule_shift;
    *ret_end = granules_to_bytes(bitmap, end);
    return true;
}

/* Runs that are found, the last of which may be open: its end is not found yet. */
struct finding {
    struct bitmap_extent *runs;
    uint32_t count, max;
    bool open;
    uint64_t first; /* granule, of the open one */
};

/* A run begins at @granule if none is open, else the open one ends there. */
static inline void finding_edge(struct finding *finding, const struct bitmap *bitmap,
                                uint64_t granule)
{
    if (finding->open) {
        uint64_t offset = finding->first << bitmap->granule_shift;
        finding->runs[finding->count++] = (struct bitmap_extent){
            .offset = offset, .length = granules_to_bytes(bitmap, granule) - offset};
    }
    finding->first = granule;
    finding->open = !finding->open;
}

/* The runs of a dense chunk, from granule @from of it up to its end; bits beyond that are 0. */
static void find_in_words(const struct bitmap *bitmap, const struct chunk_part *part,
                          struct finding *finding)
{
    const uint64_t *words = bitmap->table[part->chunk].buffer->words;
    uint64_t base = (uint64_t)part->chunk << bitmap->chunk_shift;
    uint64_t mask = bits_first_mask(part->from);
    uint32_t end = bits_words(part->to);

    for (uint32_t i = part->from / 64; i < end;) {
        uint64_t word = bits_word(words, i) & mask;
        /* Bits that differ from the one before. */
        uint64_t edges = word ^ (word << 1 | finding->open);
        for (; edges != 0; edges &= edges - 1) {
            finding_edge(finding, bitmap, base + i * 64 + (uint32_t)__builtin_ctzll(edges));
            if (finding->count == finding->max) {
                return;
            }
        }
        mask = UINT64_MAX;
        /* On to a word that has edges. */
        uint64_t none = finding->open ? UINT64_MAX : 0;
        do {
            i++;
        } while (i < end && words[i] == none);
    }
}

uint32_t bitmap_dirty_runs(const struct bitmap *bitmap, uint64_t offset, struct bitmap_extent *ret,
                           uint32_t max)
{
    assert(offset <= bitmap->size_bytes && max > 0);
    struct finding finding = {.runs = ret, .max = max};
    uint64_t first = offset == bitmap->size_bytes ? bitmap->granules : granule_of(bitmap, offset);

    while (first < bitmap->granules && finding.count < max) {
        struct chunk_part part = part_at(bitmap, first, bitmap->granules);
        const struct chunk *c = &bitmap->table[part.chunk];
        if (c->buffer) {
            find_in_words(bitmap, &part, &finding);
        } else if ((c->dirty > 0) != finding.open) {
            finding_edge(&finding, bitmap, first);
        }
        first = part_end(bitmap, &part);
    }
    if (finding.open) {
        finding_edge(&finding, bitmap, bitmap->granules);
    }
    return finding.count;
}

void bitmap_chunk(const struct bitmap *bitmap, uint32_t chunk, struct bitmap_chunk_view *ret)
{
    assert(chunk < bitmap->chunks);
    const struct chunk *c = &bitmap->table[chunk];
    uint32_t granules = chunk_granules(bitmap, chunk);

    *ret = (struct bitmap_chunk_view){
        .kind = chunk_kind(c),
        .bits = c->buffer ? (const uint8_t *)c->buffer->words : NULL,
        .length_bytes = (granules + 7) / 8,
        .dirty = c->dirty,
        .granules = granules,
        .version = c->version,
    };
}

uint64_t bitmap_version(const struct bitmap *bitmap)
{
    uint64_t version = 0;

    for (uint32_t i = 0; i < bitmap->chunks; i++) {
        version = max_u64(version, bitmap->table[i].version);
    }
    return version;
}
