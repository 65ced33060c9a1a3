/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which clusters are in use, in memory: one byte per cluster of the file.
 *
 * The counts come from following every reference at open, not from the
 * refcounts on disk, which may err towards leaks.  A cluster with count 0 may
 * be written to at any time, so a count is taken down only when no commit that
 * could be on the disk refers to the cluster any more.
 *
 * Single clusters are taken from the low end, which keeps the file short; runs
 * by a cursor that moves on, so that a commit which takes many of them looks at
 * each cluster a bounded number of times.
 *
 * Invariants: free == clusters with count 0; none of them is below lowest; no
 * run of too_long or more free clusters exists below the file's end.
 */
#include "daemon/container/internal.h"

#define GROWTH_MIN 256u

int runs_push(struct runs *runs, uint64_t start, uint64_t count)
{
    if (runs->n > 0) {
        struct run *last = &runs->items[runs->n - 1];
        if (last->start + last->count == start) {
            last->count += count;
            return 0;
        }
    }
    if (runs->n == runs->capacity) {
        size_t capacity = runs->capacity ? runs->capacity * 2 : 16;
        struct run *items = reallocarray(runs->items, capacity, sizeof *items);
        if (!items) {
            return -ENOMEM;
        }
        runs->items = items;
        runs->capacity = capacity;
    }
    runs->items[runs->n++] = (struct run){.start = start, .count = count};
    return 0;
}

void runs_deinit(struct runs *runs)
{
    free(runs->items);
    *runs = (struct runs){0};
}

int space_init(struct space *space, uint64_t clusters)
{
    *space = (struct space){
        .clusters = clusters,
        .capacity = clusters + GROWTH_MIN,
        .limit = CONTAINER_CLUSTERS_MAX,
        .free = clusters,
    };
    space->refs = calloc(space->capacity, 1);
    return space->refs ? 0 : -ENOMEM;
}

void space_deinit(struct space *space)
{
    free(space->refs);
    *space = (struct space){0};
}

void space_ref(struct space *space, uint64_t start, uint64_t count)
{
    for (uint64_t c = start; c < start + count; c++) {
        uint8_t *refs = &space->refs[c];
        if (*refs == 0) {
            space->free--;
        }
        /* Too many to count: in use for as long as the container is open. */
        if (*refs != REFS_PINNED) {
            *refs = *refs + 1 >= (int)REFS_RESERVED ? REFS_PINNED : (uint8_t)(*refs + 1);
        }
    }
}

static void space_freed(struct space *space, uint64_t cluster)
{
    space->free++;
    if (cluster < space->lowest) {
        space->lowest = cluster;
    }
    space->too_long = 0;
}

void space_unref(struct space *space, uint64_t start, uint64_t count)
{
    for (uint64_t c = start; c < start + count; c++) {
        uint8_t *refs = &space->refs[c];
        if (*refs != REFS_PINNED && *refs != REFS_RESERVED && *refs > 0 && --*refs == 0) {
            space_freed(space, c);
        }
    }
}

void space_mark(struct space *space, uint64_t start, uint64_t count, uint8_t value)
{
    for (uint64_t c = start; c < start + count; c++) {
        if (space->refs[c] == 0 && value != 0) {
            space->free--;
        } else if (space->refs[c] != 0 && value == 0) {
            space_freed(space, c);
        }
        space->refs[c] = value;
    }
}

int space_extend(struct space *space, uint64_t clusters)
{
    if (clusters > space->limit) {
        return -ENOSPC;
    }
    if (clusters > space->capacity) {
        uint64_t capacity = min_u64(max_u64(clusters, space->capacity * 2), CONTAINER_CLUSTERS_MAX);
        uint8_t *refs = realloc(space->refs, capacity);
        if (!refs) {
            return -ENOMEM;
        }
        space->refs = refs;
        space->capacity = capacity;
    }
    memset(space->refs + space->clusters, 0, clusters - space->clusters);
    space->free += clusters - space->clusters;
    space->clusters = clusters;
    return 0;
}

/* First run of @count free clusters that lies in [from, to); @to when there is none. */
static uint64_t space_search(const struct space *space, uint64_t from, uint64_t to, uint64_t count)
{
    uint64_t start = from;

    while (to - start >= count) {
        const uint8_t *hit = memchr(space->refs + start, 0, to - start);
        if (!hit) {
            break;
        }
        start = (uint64_t)(hit - space->refs);
        uint64_t end = start;
        while (end < to && end - start < count && space->refs[end] == 0) {
            end++;
        }
        if (end - start == count) {
            return start;
        }
        start = end;
        if (start >= to) {
            break;
        }
    }
    return to;
}

/* Free clusters that end the file. */
static uint64_t space_tail(const struct space *space, uint64_t at_most)
{
    uint64_t tail = 0;
    while (tail < at_most && tail < space->clusters &&
           space->refs[space->clusters - tail - 1] == 0) {
        tail++;
    }
    return tail;
}

static bool space_find(struct space *space, uint64_t count, uint64_t *ret_start)
{
    uint64_t end = min_u64(space->clusters, space->limit);
    uint64_t start;

    if (space->free < count || space->lowest >= end) {
        return false;
    }
    if (count == 1) {
        start = space_search(space, space->lowest, end, 1);
        space->lowest = start;
        *ret_start = start;
        return start < end;
    }
    if (space->too_long != 0 && count >= space->too_long) {
        return false;
    }
    uint64_t cursor = min_u64(max_u64(space->cursor, space->lowest), end);
    start = space_search(space, cursor, end, count);
    if (start == end) {
        start = space_search(space, space->lowest, end, count);
    }
    if (start == end) {
        space->too_long = count;
        return false;
    }
    space->cursor = start + count;
    *ret_start = start;
    return true;
}

int space_take(struct space *space, uint64_t count, uint64_t *ret_start)
{
    uint64_t start;

    if (!space_find(space, count, &start)) {
        start = space->clusters - space_tail(space, count);
        if (start > space->limit || count > space->limit - start) {
            return -ENOSPC;
        }
        int r = space_extend(space, start + count);
        if (r < 0) {
            return r;
        }
    }
    space_ref(space, start, count);
    *ret_start = start;
    return 0;
}
