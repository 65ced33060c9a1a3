/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The refcounts on disk.
 *
 * They follow struct space, which is the truth: a commit raises what it needs
 * before its header is written and lowers what it freed afterwards, so that at
 * every moment each counter is at least the number of references from the
 * commit on the disk.  Blocks are rewritten in place, which is no breach of
 * copy-on-write: raising harms nobody, a sector holds whole counters, and
 * opening recounts anyway.
 *
 * A block stays with the table for good.  Between its flags:
 *
 *     RAISE     -> written in step 1 -> UNSYNCED -> good sync -> no flag
 *     LOWER     -> written in step 3 -> UNSYNCED
 *     UNSYNCED  -> failed sync       -> RAISE | REWRITE | LOWER, since its pages may now pass for
 *                                       clean without having reached the disk
 */
#include "daemon/container/internal.h"

uint64_t refcount_get(const uint8_t *block, uint32_t order, uint64_t index)
{
    switch (order) {
    case 3:
        return block[index];
    case 4:
        return load_be16(block + index * 2);
    case 5:
        return load_be32(block + index * 4);
    case 6:
        return load_be64(block + index * 8);
    default: {
        uint64_t bit = index << order;
        unsigned mask = (1u << (1u << order)) - 1;
        return ((unsigned)block[bit / 8] >> (bit % 8)) & mask;
    }
    }
}

void refcount_set(uint8_t *block, uint32_t order, uint64_t index, uint64_t value)
{
    switch (order) {
    case 3:
        block[index] = (uint8_t)value;
        break;
    case 4:
        store_be16(block + index * 2, (uint16_t)value);
        break;
    case 5:
        store_be32(block + index * 4, (uint32_t)value);
        break;
    case 6:
        store_be64(block + index * 8, value);
        break;
    default: {
        uint64_t bit = index << order;
        unsigned mask = (1u << (1u << order)) - 1;
        uint8_t *byte = &block[bit / 8];
        *byte = (uint8_t)((*byte & ~(mask << (bit % 8))) | (((unsigned)value & mask) << (bit % 8)));
        break;
    }
    }
}

void refcounts_deinit(struct refcounts *refcounts)
{
    free(refcounts->blocks);
    free(refcounts->pending);
    *refcounts = (struct refcounts){0};
}

void refcounts_flag(struct refcounts *refcounts, uint64_t block, unsigned flags)
{
    /* Without a block there is nothing to write yet: the commit makes one. */
    if (block >= refcounts->n_blocks || refcounts->blocks[block].offset == 0) {
        return;
    }
    struct refcount_block *b = &refcounts->blocks[block];
    b->flags |= (uint8_t)flags;
    if (!b->pending) {
        b->pending = true;
        refcounts->pending[refcounts->n_pending++] = (uint32_t)block;
    }
}

void refcounts_flag_run(struct refcounts *refcounts, const struct run *run, unsigned flags)
{
    uint64_t per_block = refcounts_per_block(refcounts->cluster_bits, refcounts->order);

    if (run->count == 0) {
        return;
    }
    for (uint64_t b = run->start / per_block; b <= (run->start + run->count - 1) / per_block; b++) {
        refcounts_flag(refcounts, b, flags);
    }
}

uint64_t refcounts_to_look_at(const uint8_t *counters, uint32_t order, uint64_t per_block,
                              uint64_t clusters)
{
    /* A block of 2 MiB can count 16 million clusters of a file that has ten. */
    if (clusters < per_block &&
        bits_clear_from(counters, (size_t)((per_block << order) / 8), clusters << order)) {
        return clusters;
    }
    return per_block;
}

bool refcounts_adjust(uint8_t *counters, uint32_t order, uint64_t per_block, uint64_t first_cluster,
                      const struct space *space, bool raise, uint64_t *ret_low, uint64_t *ret_high)
{
    uint64_t max = order == 6 ? UINT64_MAX : (UINT64_C(1) << (1u << order)) - 1;
    uint64_t inside = space->clusters > first_cluster ? space->clusters - first_cluster : 0;
    uint64_t n = refcounts_to_look_at(counters, order, per_block, inside);
    bool changed = false;

    for (uint64_t i = 0; i < n; i++) {
        uint64_t cluster = first_cluster + i;
        uint64_t want = cluster < space->clusters ? space->refs[cluster] : 0;
        uint64_t have = refcount_get(counters, order, i);
        if (want == REFS_RESERVED) {
            want = 0;
        }
        if (want == REFS_PINNED) {
            /* Not ours to count: only make sure that nobody takes it for free. */
            want = have ? have : 1;
        }
        want = min_u64(want, max);
        if (raise ? have >= want : have <= want) {
            continue;
        }
        refcount_set(counters, order, i, want);
        if (!changed) {
            *ret_low = i;
        }
        *ret_high = i;
        changed = true;
    }
    return changed;
}

static int refcounts_write_block(struct refcounts *refcounts, uint32_t index, struct file *file,
                                 const struct space *space, uint8_t *buffer, bool raise,
                                 uint64_t *bytes_written)
{
    struct refcount_block *b = &refcounts->blocks[index];
    uint64_t block_bytes = UINT64_C(1) << refcounts->cluster_bits;
    uint64_t per_block = refcounts_per_block(refcounts->cluster_bits, refcounts->order);
    uint64_t low = 0, high = 0, begin = 0, end = block_bytes;
    bool whole = raise && (b->flags & REFCOUNT_REWRITE);
    int r;

    r = file_read(file, buffer, block_bytes, b->offset);
    if (r < 0) {
        return r;
    }
    if (refcounts_adjust(buffer, refcounts->order, per_block, index * per_block, space, raise, &low,
                         &high) ||
        whole) {
        if (!whole) {
            /* Whole sectors, so that none is torn inside. */
            begin = ((low << refcounts->order) / 8) & ~UINT64_C(511);
            end = (((high << refcounts->order) / 8) | 511) + 1;
        }
        b->flags |= REFCOUNT_UNSYNCED;
        r = file_write(file, buffer + begin, end - begin, b->offset + begin);
        if (r < 0) {
            return r;
        }
        *bytes_written += end - begin;
    }
    b->flags &= (uint8_t) ~(raise ? REFCOUNT_RAISE | REFCOUNT_REWRITE : REFCOUNT_LOWER);
    return 0;
}

int refcounts_write_pending(struct refcounts *refcounts, struct file *file,
                            const struct space *space, uint8_t *buffer, bool raise,
                            uint64_t *bytes_written)
{
    unsigned which = raise ? REFCOUNT_RAISE : REFCOUNT_LOWER;

    for (uint32_t i = 0; i < refcounts->n_pending; i++) {
        uint32_t index = refcounts->pending[i];
        if (refcounts->blocks[index].flags & which) {
            int r =
                refcounts_write_block(refcounts, index, file, space, buffer, raise, bytes_written);
            if (r < 0) {
                return r;
            }
        }
    }
    return 0;
}

void refcounts_synced(struct refcounts *refcounts, bool good)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < refcounts->n_pending; i++) {
        uint32_t index = refcounts->pending[i];
        struct refcount_block *b = &refcounts->blocks[index];
        if (b->flags & REFCOUNT_UNSYNCED) {
            b->flags &= (uint8_t)~REFCOUNT_UNSYNCED;
            if (!good) {
                b->flags |= REFCOUNT_RAISE | REFCOUNT_REWRITE | REFCOUNT_LOWER;
            }
        }
        if (b->flags) {
            refcounts->pending[kept++] = index;
        } else {
            b->pending = false;
        }
    }
    refcounts->n_pending = kept;
}
