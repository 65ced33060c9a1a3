/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the batches that were found say together: which records follow
 * applied_seq without a gap, and whether one that had been durable is missing.
 *
 * Invariant: a record is handed out only after every one before it, once, from
 * bytes whose CRC was checked on the way out; a contradiction ends the replay
 * where it begins and is reported as damage.
 */
#include "daemon/journal/internal.h"

#include "proto/base/crc32c.h"
#include "proto/base/endian.h"

#include <string.h>

struct replay {
    struct journal_scan scan;
    uint64_t applied_seq;
    uint64_t last_seq;
    uint64_t records;
    int (*record)(void *opaque, uint64_t sequence, const uint8_t *bytes, size_t length,
                  struct error *error);
    void (*soon)(void *opaque, const uint8_t *bytes, size_t length);
    void *opaque;
};

/* So many records before it is handed out a record is announced. */
#define RECORDS_AHEAD 16u

static bool copies(const struct journal_batch *a, const struct journal_batch *b)
{
    return a->first_seq == b->first_seq && a->count == b->count && a->length == b->length &&
           a->crc == b->crc;
}

/* A place in the records of a batch. */
struct cursor {
    const uint8_t *bytes;
    uint32_t left; /* bytes of the batch from there on */
};

/* Steps over a record; false when the batch ends in it. */
static bool cursor_next(struct cursor *cursor, const uint8_t **ret_bytes, uint32_t *ret_length)
{
    if (cursor->left < RECORD_LENGTH_BYTES) {
        return false;
    }
    uint32_t length = load_le32(cursor->bytes);
    if (length > cursor->left - RECORD_LENGTH_BYTES) {
        return false;
    }
    *ret_bytes = cursor->bytes + RECORD_LENGTH_BYTES;
    *ret_length = length;
    cursor->bytes += RECORD_LENGTH_BYTES + length;
    cursor->left -= RECORD_LENGTH_BYTES + length;
    return true;
}

/* Read for the second time: the disk need not give the same again. */
static int other_bytes(const struct replay *replay, const struct journal_found *found,
                       struct error *error)
{
    return error_set(error, -EIO,
                     "journal segment %s, batch at offset %" PRIu64
                     ": reading it twice gave different bytes",
                     replay->scan.sources[found->source].name, found->offset);
}

/* Hands out the records of one batch that come after the last. */
static int replay_batch(struct replay *replay, const struct journal_found *found,
                        struct error *error)
{
    const struct journal_batch *batch = &found->batch;
    const uint8_t *bytes;
    uint32_t announced = 0, length;
    int r;

    r = journal_scan_read(&replay->scan, &replay->scan.sources[found->source], found->offset,
                          journal_batch_padded_bytes(batch->length), &bytes, error);
    if (r < 0) {
        return r;
    }
    struct cursor here = {bytes + BATCH_HEADER_BYTES, batch->length}, ahead = here;
    if (crc32c(0, here.bytes, here.left) != batch->crc) {
        return other_bytes(replay, found, error);
    }
    for (uint32_t i = 0; i < batch->count; i++) {
        for (; announced < batch->count && announced < i + RECORDS_AHEAD; announced++) {
            if (!cursor_next(&ahead, &bytes, &length)) {
                return other_bytes(replay, found, error);
            }
            if (replay->soon) {
                replay->soon(replay->opaque, bytes, length);
            }
        }
        uint64_t sequence = batch->first_seq + i;
        if (!cursor_next(&here, &bytes, &length)) {
            return other_bytes(replay, found, error);
        }
        if (sequence > replay->last_seq) {
            r = replay->record(replay->opaque, sequence, bytes, length, error);
            if (r < 0) {
                return r;
            }
            replay->last_seq = sequence;
            replay->records++;
        }
    }
    return 0;
}

/*
 * The next batch in order that is not a copy of batch @i; false when one overlaps batch @i and is
 * none.
 */
static bool skip_copies(struct journal_scan *scan, size_t i, size_t *ret_next)
{
    const struct journal_found *found = &scan->found[i];
    size_t next = i + 1;

    while (next < scan->count && scan->found[next].batch.first_seq <= found->batch.last_seq) {
        const struct journal_found *other = &scan->found[next];

        if (!copies(&found->batch, &other->batch)) {
            journal_scan_damage(
                scan,
                "journal segment %s, batch at offset %" PRIu64 ": found records %" PRIu64
                " to %" PRIu64 ", which segment %s has otherwise at offset %" PRIu64,
                scan->sources[other->source].name, other->offset, other->batch.first_seq,
                other->batch.last_seq, scan->sources[found->source].name, found->offset);
            return false;
        }
        next++;
    }
    *ret_next = next;
    return true;
}

/* All batches in the order of their sequences, up to the first gap or contradiction. */
static int replay_all(struct replay *replay, struct error *error)
{
    struct journal_scan *scan = &replay->scan;
    size_t next;
    int r;

    for (size_t i = 0; i < scan->count; i = next) {
        const struct journal_batch *batch = &scan->found[i].batch;

        if (batch->last_seq <= replay->applied_seq) {
            next = i + 1;
            continue;
        }
        if (batch->first_seq > replay->last_seq + 1 || !skip_copies(scan, i, &next)) {
            return 0;
        }
        r = replay_batch(replay, &scan->found[i], error);
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

static void judge(struct replay *replay, struct journal_replay_report *report)
{
    const struct journal_found *vouching = NULL;

    for (size_t i = 0; i < replay->scan.count; i++) {
        const struct journal_found *found = &replay->scan.found[i];

        if (found->batch.last_seq > report->highest_seq) {
            report->highest_seq = found->batch.last_seq;
        }
        if (found->batch.watermark > report->watermark) {
            report->watermark = found->batch.watermark;
            vouching = found;
        }
    }
    if (vouching && report->watermark > replay->last_seq) {
        journal_scan_damage(&replay->scan,
                            "journal records %" PRIu64 " to %" PRIu64
                            ": found none, expected them: segment %s says at offset %" PRIu64
                            " that they were on stable storage",
                            replay->last_seq + 1, report->watermark,
                            replay->scan.sources[vouching->source].name, vouching->offset);
    }
}

static struct journal_whose whose(const struct journal_scan *scan)
{
    return (struct journal_whose){
        .later = scan->sound == 0 && scan->other,
        .foreign = scan->foreign,
    };
}

static int replay_run(struct replay *replay, const struct journal_files *files,
                      const struct journal_replay_options *options,
                      struct journal_replay_report *ret, struct error *error)
{
    struct journal_replay_report report = {0};
    int r;

    r = journal_scan_run(&replay->scan, files, options, error);
    if (r < 0) {
        return r;
    }
    r = replay_all(replay, error);
    if (r < 0) {
        return r;
    }
    judge(replay, &report);
    report.found = replay->scan.sound != 0;
    report.memory = replay->scan.memory;
    report.whose = whose(&replay->scan);
    report.records = replay->records;
    report.last_seq = replay->last_seq;
    memcpy(report.damage, replay->scan.damage, sizeof report.damage);
    *ret = report;
    return 0;
}

int journal_replay(const struct journal_files *files, const struct journal_replay_options *options,
                   int (*record)(void *opaque, uint64_t sequence, const uint8_t *bytes,
                                 size_t length, struct error *error),
                   void *opaque, struct journal_replay_report *ret, struct error *error)
{
    struct replay replay = {
        .applied_seq = options->applied_seq,
        .last_seq = options->applied_seq,
        .record = record,
        .soon = options->soon,
        .opaque = opaque,
    };
    int r;

    r = replay_run(&replay, files, options, ret, error);
    journal_scan_deinit(&replay.scan);
    return r;
}

int journal_probe(const struct journal_files *files, const struct journal_id *container,
                  const struct journal_id *instance, struct journal_whose *ret, struct error *error)
{
    struct journal_replay_options options = {.container = *container, .instance = *instance};
    struct journal_scan scan = {0};
    int r = journal_scan_open(&scan, files, &options, error);

    if (r == 0) {
        *ret = whose(&scan);
    }
    journal_scan_deinit(&scan);
    return r;
}
