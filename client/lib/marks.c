/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Unsettled marks, and the ids of settled ones on their way to the daemon.
 *
 * Marks are appended with rising ids and settled in any order; a write that
 * failed is never settled, so one old mark may stay behind for good while
 * millions pass.  Settled marks are therefore only flagged, and squeezed out
 * when room is needed: that costs one pass for at least half of the capacity,
 * and memory stays within a small multiple of the most that was ever unsettled.
 *
 * Invariants: ids rise strictly; live counts the marks with live set; a mark
 * that has no answer yet is live, so the marks of one request stay together.
 */
#include "client/lib/marks.h"

#include "proto/base/checked.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOG_CAPACITY_MIN 64u

void mark_log_deinit(struct mark_log *log)
{
    free(log->marks);
    free(log->ranges);
    *log = (struct mark_log){0};
}

static void mark_log_squeeze(struct mark_log *log)
{
    size_t kept = 0;
    for (size_t i = 0; i < log->count; i++) {
        if (log->marks[i].live) {
            log->marks[kept] = log->marks[i];
            memmove(log->ranges + kept * WIRE_RANGE_BYTES, log->ranges + i * WIRE_RANGE_BYTES,
                    WIRE_RANGE_BYTES);
            kept++;
        }
    }
    log->count = kept;
}

int mark_log_reserve(struct mark_log *log, size_t count)
{
    if (count <= log->capacity - log->count) {
        return 0;
    }
    mark_log_squeeze(log);
    /* Half must be free afterwards, or every few marks would pay for a pass. */
    if (count <= log->capacity - log->count && log->count + count <= log->capacity / 2) {
        return 0;
    }

    size_t capacity = log->capacity < LOG_CAPACITY_MIN ? LOG_CAPACITY_MIN : log->capacity;
    while (capacity / 2 < log->count + count) {
        if (capacity > SIZE_MAX / 2 / sizeof(struct mark)) {
            return -ENOMEM;
        }
        capacity *= 2;
    }
    struct mark *marks = realloc(log->marks, capacity * sizeof *marks);
    if (!marks) {
        return -ENOMEM;
    }
    log->marks = marks;
    uint8_t *ranges = realloc(log->ranges, capacity * WIRE_RANGE_BYTES);
    if (!ranges) {
        return -ENOMEM; /* the larger array of marks does no harm */
    }
    log->ranges = ranges;
    log->capacity = capacity;
    return 0;
}

void mark_log_append(struct mark_log *log, uint64_t id, struct wire_range range)
{
    assert(log->count < log->capacity);
    assert(log->count == 0 || id > log->marks[log->count - 1].id);

    log->marks[log->count] = (struct mark){.id = id, .live = true};
    wire_range_store(log->ranges + log->count * WIRE_RANGE_BYTES, range);
    log->count++;
    log->live++;
}

size_t mark_log_find(const struct mark_log *log, uint64_t id)
{
    size_t low = 0, high = log->count;

    /* Where it is as long as no id was left out, which is the rule. */
    if (log->count > 0) {
        uint64_t from_end = log->marks[log->count - 1].id - id;
        if (from_end < log->count && log->marks[log->count - 1 - from_end].id == id) {
            return log->count - 1 - (size_t)from_end;
        }
    }
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (log->marks[middle].id < id) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* Whether mark @index is one of @count from @first_id on; no sum that could overflow. */
static bool within(const struct mark_log *log, size_t index, uint64_t first_id, uint64_t count)
{
    return index < log->count && log->marks[index].id - first_id < count;
}

void mark_log_ack(struct mark_log *log, uint64_t first_id, uint64_t count)
{
    for (size_t i = mark_log_find(log, first_id); within(log, i, first_id, count); i++) {
        log->marks[i].acked = true;
    }
}

bool mark_log_unanswered(const struct mark_log *log, uint64_t first_id, uint64_t count)
{
    for (size_t i = mark_log_find(log, first_id); within(log, i, first_id, count); i++) {
        if (log->marks[i].live && !log->marks[i].acked) {
            return true;
        }
    }
    return false;
}

size_t mark_log_remove(struct mark_log *log, uint64_t first_id, uint64_t count)
{
    size_t removed = 0;
    for (size_t i = mark_log_find(log, first_id); within(log, i, first_id, count); i++) {
        removed += log->marks[i].live;
        log->marks[i].live = false;
    }
    log->live -= removed;
    if (log->live == 0) {
        log->count = 0;
    }
    return removed;
}

uint32_t mark_log_run(const struct mark_log *log, uint64_t from_id, uint32_t max,
                      uint64_t *ret_first_id)
{
    size_t first = mark_log_find(log, from_id);
    while (first < log->count && !log->marks[first].live) {
        first++;
    }
    size_t end = first;
    while (end < log->count && end - first < max && log->marks[end].live &&
           log->marks[end].id - log->marks[first].id == end - first) {
        end++;
    }
    if (end > first) {
        *ret_first_id = log->marks[first].id;
    }
    return (uint32_t)(end - first);
}

struct wire_ranges mark_log_ranges(const struct mark_log *log, uint64_t first_id, uint32_t count)
{
    size_t first = mark_log_find(log, first_id);
    assert(count > 0 && log->count - first >= count);
    assert(log->marks[first].id == first_id);
    assert(log->marks[first + count - 1].id - first_id == count - 1);
    return (struct wire_ranges){
        .data = log->ranges + first * WIRE_RANGE_BYTES,
        .count = count,
    };
}

/* ---- Ids ---- */

void id_ranges_deinit(struct id_ranges *ids)
{
    free(ids->ranges);
    *ids = (struct id_ranges){0};
}

int id_ranges_add(struct id_ranges *ids, uint64_t first_id, uint64_t count)
{
    if (ids->count > 0) {
        struct id_range *last = &ids->ranges[ids->count - 1];
        if (first_id - last->first_id == last->count && count <= UINT64_MAX - last->count) {
            last->count += count;
            return 0;
        }
    }
    if (ids->count == ids->capacity) {
        size_t capacity = ids->capacity ? ids->capacity * 2 : 16;
        struct id_range *ranges = reallocarray(ids->ranges, capacity, sizeof *ranges);
        if (!ranges) {
            return -ENOMEM;
        }
        ids->ranges = ranges;
        ids->capacity = capacity;
    }
    ids->ranges[ids->count++] = (struct id_range){first_id, count};
    return 0;
}

static int id_range_compare(const void *a, const void *b)
{
    uint64_t left = ((const struct id_range *)a)->first_id;
    uint64_t right = ((const struct id_range *)b)->first_id;
    return (left > right) - (left < right);
}

void id_ranges_merge(struct id_ranges *ids)
{
    if (ids->count < 2) {
        return;
    }
    qsort(ids->ranges, ids->count, sizeof *ids->ranges, id_range_compare);
    size_t kept = 0;
    for (size_t i = 1; i < ids->count; i++) {
        struct id_range *last = &ids->ranges[kept];
        struct id_range next = ids->ranges[i];
        uint64_t distance = next.first_id - last->first_id;
        if (distance <= last->count) {
            last->count = max_u64(last->count, distance + next.count);
        } else {
            ids->ranges[++kept] = next;
        }
    }
    ids->count = kept + 1;
}

void id_ranges_drop(struct id_ranges *ids, size_t count)
{
    assert(count <= ids->count);
    if (count == 0) {
        return;
    }
    ids->count -= count;
    memmove(ids->ranges, ids->ranges + count, ids->count * sizeof *ids->ranges);
}
