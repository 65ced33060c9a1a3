/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Batches into segments, and what happens when that fails.
 *
 * A batch stays in memory until it is durable.  When a write or a sync fails,
 * the kernel may have dropped any page written since the last good sync and
 * may still show it to readers, so all of those batches are written again, byte for
 * byte, into the other segment; nothing is tried twice in the same place.
 *
 * A batch that has to be durable, and before which all is, gets there by one write that waits for
 * stable storage (file_write_durably()); any other by a write, and the fdatasync(2) that comes.
 *
 * Invariants:
 *   - Only the active segment has batches that are not durable: it is synced
 *     before the other one is taken.  So one fdatasync(2) makes everything
 *     durable, and what is kept in memory is bounded by one segment and a batch.
 *   - A batch counts as durable only when each before it does, since its successors'
 *     watermark says so of all.
 *   - A segment is taken (written from its beginning) only when every batch that was
 *     ever tried to be written into it is in the container, durably.
 *   - A sequence is never given to other bytes once it has been tried to be
 *     written: the write may have reached the disk though it failed.
 *   - durable <= written; written falls back to durable in state DOUBT.
 */
#include "daemon/journal/internal.h"

#include "proto/base/checked.h"
#include "proto/base/crc32c.h"
#include "proto/base/endian.h"

#include <assert.h>
#include <string.h>

void journal_pending_free(struct journal_pending *pending)
{
    if (pending) {
        free(pending->bytes);
        free(pending);
    }
}

static void pending_put_back(struct journal *journal, struct journal_pending *pending)
{
    if (journal->spares_count == JOURNAL_SPARES || pending->capacity > JOURNAL_SPARE_BYTES) {
        journal_pending_free(pending);
        return;
    }
    TAILQ_INSERT_HEAD(&journal->spares, pending, link);
    journal->spares_count++;
}

/* One with room for @length bytes; the batch is the caller's to fill.  NULL: no memory. */
static struct journal_pending *pending_get(struct journal *journal, uint32_t length)
{
    struct journal_pending *pending = TAILQ_FIRST(&journal->spares);

    if (pending) {
        TAILQ_REMOVE(&journal->spares, pending, link);
        journal->spares_count--;
    } else {
        pending = calloc(1, sizeof *pending);
    }
    if (pending && pending->capacity < length) {
        free(pending->bytes);
        pending->capacity = length;
        pending->bytes = aligned_alloc(JOURNAL_BLOCK_BYTES, length);
        if (!pending->bytes) {
            free(pending);
            return NULL;
        }
    }
    return pending;
}

/* Forgets the batches up to @sequence: they are safe elsewhere. */
static void pending_drop(struct journal *journal, uint64_t sequence)
{
    struct journal_pending *pending;

    while ((pending = TAILQ_FIRST(&journal->pending)) && pending->batch.last_seq <= sequence) {
        TAILQ_REMOVE(&journal->pending, pending, link);
        pending_put_back(journal, pending);
    }
}

static void doubt(struct journal *journal)
{
    journal->state = JOURNAL_DOUBT;
    journal->written = journal->durable;
}

static bool covered(const struct journal *journal, const struct journal_segment *segment)
{
    return segment->last_seq <= journal->applied;
}

static unsigned other_segment(const struct journal *journal)
{
    return 1 - journal->active;
}

static int segment_take(struct journal *journal, struct error *error)
{
    struct journal_segment *other = &journal->segments[other_segment(journal)];

    if (!covered(journal, other)) {
        return error_set(error, -EAGAIN,
                         "the journal is full: segment %u is needed up to sequence %" PRIu64
                         ", and the container has them up to %" PRIu64,
                         other_segment(journal), other->last_seq, journal->applied);
    }
    journal->active = other_segment(journal);
    other->position = JOURNAL_BLOCK_BYTES;
    other->last_seq = 0;
    return 0;
}

/* Everything up to @sequence is on stable storage. */
static void settle(struct journal *journal, uint64_t sequence)
{
    journal->durable = max_u64(journal->durable, sequence);
    pending_drop(journal, journal->durable);
}

/* The batch into the active segment, which has room. */
static int pending_write(struct journal *journal, const struct journal_pending *pending,
                         bool durable, struct error *error)
{
    struct journal_segment *segment = &journal->segments[journal->active];
    uint64_t offset = segment->position;
    int r;

    assert(pending->bytes_length <= journal->segment_bytes - offset);
    segment->position += pending->bytes_length;
    segment->last_seq = max_u64(segment->last_seq, pending->batch.last_seq);
    r = durable ? file_write_durably(segment->file, pending->bytes, pending->bytes_length, offset)
                : file_write(segment->file, pending->bytes, pending->bytes_length, offset);
    if (r < 0) {
        doubt(journal);
        return error_set_errno(error, r,
                               "cannot write %" PRIu32 " bytes to journal segment %u at offset "
                               "%" PRIu64,
                               pending->bytes_length, journal->active, offset);
    }
    journal->written = max_u64(journal->written, pending->batch.last_seq);
    return 0;
}

/* From DOUBT to GOOD, or nothing is gained. */
static int recover(struct journal *journal, struct error *error)
{
    struct journal_pending *pending;
    int r;

    if (journal->state == JOURNAL_GOOD) {
        return 0;
    }
    r = segment_take(journal, error);
    if (r < 0) {
        return error_prefix(error, r, "after a failed write or sync");
    }
    TAILQ_FOREACH (pending, &journal->pending, link) {
        r = pending_write(journal, pending, false, error);
        if (r < 0) {
            return r;
        }
    }
    journal->state = JOURNAL_GOOD;
    journal->sync_failed = false;
    return 0;
}

static int sync_active(struct journal *journal, struct error *error)
{
    const struct journal_pending *last = TAILQ_LAST(&journal->pending, journal_pending_list);
    int r;

    if (!last) {
        return 0;
    }
    r = file_datasync(journal->segments[journal->active].file);
    journal->sync_failed = r < 0;
    if (r < 0) {
        doubt(journal);
        return error_set_errno(error, r, "cannot sync journal segment %u", journal->active);
    }
    settle(journal, last->batch.last_seq);
    return 0;
}

uint32_t journal_batch_bytes_max(const struct journal *journal)
{
    uint64_t room = journal->segment_bytes - JOURNAL_BLOCK_BYTES - BATCH_HEADER_BYTES;

    return (uint32_t)min_u64(room, JOURNAL_BATCH_BYTES_MAX);
}

static int records_measure(const struct journal *journal, const struct journal_record *records,
                           uint32_t count, uint32_t *ret_length, struct error *error)
{
    uint32_t max = journal_batch_bytes_max(journal);
    uint64_t length = 0;

    if (count == 0) {
        return error_set(error, -EINVAL, "a batch without records");
    }
    for (uint32_t i = 0; i < count; i++) {
        length += RECORD_LENGTH_BYTES + (uint64_t)records[i].length;
        if (length > max) {
            return error_set(error, -EMSGSIZE,
                             "a batch of %" PRIu32 " records: found more than %" PRIu32
                             " bytes, expected no more",
                             count, max);
        }
    }
    *ret_length = (uint32_t)length;
    return 0;
}

static int pending_new(struct journal *journal, uint64_t first_seq,
                       const struct journal_record *records, uint32_t count,
                       struct journal_pending **ret, struct error *error)
{
    CLEANUP(journal_pending_freep) struct journal_pending *pending = NULL;
    uint8_t *at;
    uint32_t length = 0;
    int r;

    r = records_measure(journal, records, count, &length, error);
    if (r < 0) {
        return r;
    }
    pending = pending_get(journal, journal_batch_padded_bytes(length));
    if (!pending) {
        return error_set_errno(error, -ENOMEM, "cannot make a batch of %" PRIu32 " bytes", length);
    }
    pending->bytes_length = journal_batch_padded_bytes(length);
    at = pending->bytes + BATCH_HEADER_BYTES;
    for (uint32_t i = 0; i < count; i++) {
        store_le32(at, records[i].length);
        at += RECORD_LENGTH_BYTES;
        if (records[i].length > 0) {
            memcpy(at, records[i].bytes, records[i].length);
        }
        at += records[i].length;
    }
    memset(at, 0, (size_t)(pending->bytes + pending->bytes_length - at));
    pending->batch = (struct journal_batch){
        .first_seq = first_seq,
        .last_seq = first_seq + count - 1,
        /* What is above it is no statement about the past. */
        .watermark = min_u64(journal->durable, first_seq - 1),
        .count = count,
        .length = length,
        .crc = crc32c(0, pending->bytes + BATCH_HEADER_BYTES, length),
    };
    journal_batch_header_build(&pending->batch, &journal->container, &journal->instance,
                               pending->bytes);
    *ret = STEAL(pending);
    return 0;
}

static bool is_repetition(const struct journal *journal, const struct journal_batch *batch)
{
    return journal->repeatable && batch->first_seq == journal->repeat.first_seq &&
           batch->count == journal->repeat.count && batch->length == journal->repeat.length &&
           batch->crc == journal->repeat.crc;
}

static int check_sequence(const struct journal *journal, uint64_t first_seq, uint32_t count,
                          struct error *error)
{
    uint64_t next = max_u64(journal->last_seq, journal->applied) + 1;

    if (first_seq == 0 || first_seq > JOURNAL_SEQ_MAX ||
        (count > 0 && count - 1 > JOURNAL_SEQ_MAX - first_seq)) {
        return error_set(error, -EINVAL, "first sequence of a batch: found %" PRIu64, first_seq);
    }
    if (next == 1) {
        return 0; /* the first one, and nothing is known of what came before */
    }
    if (first_seq > next || (first_seq <= journal->last_seq &&
                             !(journal->repeatable && first_seq == journal->repeat.first_seq))) {
        return error_set(error, -EINVAL,
                         "first sequence of a batch: found %" PRIu64 ", expected %" PRIu64
                         " to %" PRIu64,
                         first_seq, journal->last_seq + 1, next);
    }
    return 0;
}

/* Room for @length bytes in the active segment, if need be after taking the other. */
static int make_room(struct journal *journal, uint32_t length, struct error *error)
{
    int r;

    if (length <= journal->segment_bytes - journal->segments[journal->active].position) {
        return 0;
    }
    if (covered(journal, &journal->segments[other_segment(journal)])) {
        r = sync_active(journal, error);
        if (r < 0) {
            return r;
        }
    }
    return segment_take(journal, error);
}

int journal_append(struct journal *journal, uint64_t first_seq,
                   const struct journal_record *records, uint32_t count, bool durable,
                   struct error *error)
{
    CLEANUP(journal_pending_freep) struct journal_pending *made = NULL;
    struct journal_pending *pending;
    int r;

    r = check_sequence(journal, first_seq, count, error);
    if (r < 0) {
        return r;
    }
    r = pending_new(journal, first_seq, records, count, &made, error);
    if (r < 0) {
        return r;
    }
    if (first_seq <= journal->last_seq && !is_repetition(journal, &made->batch)) {
        return error_set(error, -EINVAL,
                         "batch from sequence %" PRIu64 " on: found other records than when it "
                         "was tried before",
                         first_seq);
    }
    if (made->batch.last_seq <= journal->applied) {
        /* The container has been faster. */
        journal->last_seq = max_u64(journal->last_seq, made->batch.last_seq);
        journal->repeatable = false;
        return 0;
    }
    r = recover(journal, error);
    if (r < 0) {
        return r;
    }
    if (is_repetition(journal, &made->batch)) {
        journal->repeatable = false;
        return 0;
    }
    r = make_room(journal, made->bytes_length, error);
    if (r < 0) {
        return r;
    }

    durable &= TAILQ_EMPTY(&journal->pending);
    pending = STEAL(made);
    TAILQ_INSERT_TAIL(&journal->pending, pending, link);
    journal->last_seq = pending->batch.last_seq;
    r = pending_write(journal, pending, durable, error);
    journal->repeatable = r < 0;
    journal->repeat = pending->batch;
    if (r == 0 && durable) {
        settle(journal, pending->batch.last_seq);
    }
    return r;
}

int journal_sync(struct journal *journal, struct error *error)
{
    int r = recover(journal, error);

    return r < 0 ? r : sync_active(journal, error);
}

void journal_covered(struct journal *journal, uint64_t applied_seq)
{
    journal->applied = max_u64(journal->applied, applied_seq);
    journal->durable = max_u64(journal->durable, journal->applied);
    journal->written = max_u64(journal->written, journal->durable);
    pending_drop(journal, journal->applied);
}

uint64_t journal_written(const struct journal *journal)
{
    return journal->written;
}

uint64_t journal_durable(const struct journal *journal)
{
    return journal->durable;
}

bool journal_sync_failed(const struct journal *journal)
{
    return journal->sync_failed;
}

uint32_t journal_fill(const struct journal *journal)
{
    uint64_t room = journal->segment_bytes - JOURNAL_BLOCK_BYTES;
    uint64_t used = 0;

    for (unsigned i = 0; i < JOURNAL_SEGMENTS; i++) {
        const struct journal_segment *segment = &journal->segments[i];

        if (covered(journal, segment)) {
            continue;
        }
        /* Only the active segment takes more, and it does not while in doubt. */
        if (i == journal->active && journal->state == JOURNAL_GOOD) {
            used += segment->position - JOURNAL_BLOCK_BYTES;
        } else {
            used += room;
        }
    }
    return (uint32_t)(used * 1000 / (JOURNAL_SEGMENTS * room));
}
