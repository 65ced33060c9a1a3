/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Giving the blocks of free clusters back to the file system.
 *
 * A copy-on-write file frees in every commit what the one after it takes, so
 * what a commit frees is looked at only when the next one is through: what is
 * free even then has its hole punched, the rest is spared the way to the file
 * system and back.  That is also long after the commit that freed it has become
 * durable, and so no commit that could still be on the disk refers to it.
 *
 * Invariants: only clusters without a reference, neither reserved nor pinned,
 * are punched; only whole blocks of the file system, as a part of one would be
 * overwritten with zeros and give nothing back.  Nothing depends on success: a
 * file system that cannot punch is asked once.
 */
#include "daemon/container/internal.h"

#define BLOCK_BITS 12u /* of the file system, at least */

static uint32_t unit_bits(const struct container *c)
{
    return c->header.cluster_bits > BLOCK_BITS ? c->header.cluster_bits : BLOCK_BITS;
}

static bool unit_free(const struct container *c, uint64_t unit)
{
    uint64_t per_unit = UINT64_C(1) << (unit_bits(c) - c->header.cluster_bits);
    uint64_t first = unit * per_unit;

    if (per_unit > c->space.clusters || first > c->space.clusters - per_unit) {
        return false;
    }
    for (uint64_t i = first; i < first + per_unit; i++) {
        if (c->space.refs[i] != 0) {
            return false;
        }
    }
    return true;
}

/* Units @from … @to - 1. */
static uint64_t punch_units(struct container *c, uint64_t from, uint64_t to)
{
    uint64_t offset = from << unit_bits(c), length = (to - from) << unit_bits(c);

    if (from >= to || c->no_punch) {
        return 0;
    }
    int r = file_punch(c->file, offset, length);
    c->no_punch |= r == -EOPNOTSUPP;
    return r == 0 ? length : 0;
}

/* Units that have a cluster of the run, from @*next on; a hole that may go on is kept open. */
static uint64_t punch_run(struct container *c, const struct run *run, struct run *hole,
                          uint64_t *next)
{
    uint32_t shift = unit_bits(c) - c->header.cluster_bits;
    uint64_t end = min_u64(run->start + run->count, c->space.clusters), punched = 0;

    for (uint64_t unit = max_u64(run->start >> shift, *next); unit << shift < end; unit++) {
        *next = unit + 1;
        if (!unit_free(c, unit)) {
            continue;
        }
        if (hole->count > 0 && hole->start + hole->count == unit) {
            hole->count++;
            continue;
        }
        punched += punch_units(c, hole->start, hole->start + hole->count);
        *hole = (struct run){.start = unit, .count = 1};
    }
    return punched;
}

static int by_start(const void *a, const void *b)
{
    const struct run *x = a, *y = b;

    return (x->start > y->start) - (x->start < y->start);
}

uint64_t punch_runs(struct container *c, struct runs *runs)
{
    struct run hole = {0};
    uint64_t next = 0, punched = 0;

    if (runs->n > 0) {
        qsort(runs->items, runs->n, sizeof *runs->items, by_start);
    }
    for (size_t i = 0; i < runs->n && !c->no_punch; i++) {
        punched += punch_run(c, &runs->items[i], &hole, &next);
    }
    punched += punch_units(c, hole.start, hole.start + hole.count);
    runs->n = 0;
    return punched;
}

void punch_later(struct container *c, uint64_t start, uint64_t count)
{
    if (count > 0 && !c->no_punch) {
        /* Without memory to remember them they keep their blocks. */
        (void)runs_push(&c->freed, start, count);
    }
}

void punch_committed(struct container *c)
{
    struct runs looked_at = c->freed_before;

    (void)punch_runs(c, &looked_at);
    c->freed_before = c->freed;
    c->freed = looked_at; /* empty, with its memory */
}
