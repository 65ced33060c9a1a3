/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_CLIENT_LIB_MARKS_H
#define BITMAPD_CLIENT_LIB_MARKS_H

#include "proto/message.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The log of a drive's unsettled marks, in the order of their ids: what must
 * be marked again after a reconnect.  Ranges are kept as they go over the
 * wire, so that a request's marks are sent straight out of the log.
 */
struct mark {
    uint64_t id;
    bool live;  /* not settled */
    bool acked; /* the daemon has answered: it may be settled */
};

struct mark_log {
    struct mark *marks;
    uint8_t *ranges; /* WIRE_RANGE_BYTES each, parallel to marks */
    size_t count;    /* of both, settled ones included */
    size_t capacity;
    size_t live;
};

void mark_log_deinit(struct mark_log *log);
/* Room for @count more marks, so that mark_log_append() cannot fail.  -ENOMEM. */
int mark_log_reserve(struct mark_log *log, size_t count);
/* @id is above all before. */
void mark_log_append(struct mark_log *log, uint64_t id, struct wire_range range);
/* Index of the first mark with an id >= @id, settled or not; count when there is none. */
size_t mark_log_find(const struct mark_log *log, uint64_t id);
/* Marks [first_id, first_id + count) as answered. */
void mark_log_ack(struct mark_log *log, uint64_t first_id, uint64_t count);
/* Whether a mark in [first_id, first_id + count) waits for its answer. */
bool mark_log_unanswered(const struct mark_log *log, uint64_t first_id, uint64_t count);
/* Takes [first_id, first_id + count) out, those that are there; returns how many were. */
size_t mark_log_remove(struct mark_log *log, uint64_t first_id, uint64_t count);
/*
 * The next marks to send again: the first run of live marks with consecutive
 * ids from @from_id on, at most @max.  Returns their number, 0 at the end.
 */
uint32_t mark_log_run(const struct mark_log *log, uint64_t from_id, uint32_t max,
                      uint64_t *ret_first_id);
/* The ranges of live marks [first_id, first_id + count), all of which must be there. */
struct wire_ranges mark_log_ranges(const struct mark_log *log, uint64_t first_id, uint32_t count);

/* A growing set of ids as (first id, count). */
struct id_range {
    uint64_t first_id;
    uint64_t count;
};

struct id_ranges {
    struct id_range *ranges;
    size_t count;
    size_t capacity;
};

void id_ranges_deinit(struct id_ranges *ids);
int id_ranges_add(struct id_ranges *ids, uint64_t first_id, uint64_t count);
/* Sorts, and joins what touches. */
void id_ranges_merge(struct id_ranges *ids);
/* Takes the first @count ranges out. */
void id_ranges_drop(struct id_ranges *ids, size_t count);

#endif
