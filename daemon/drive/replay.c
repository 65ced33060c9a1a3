/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Replay: the records that the last commit does not have, applied again through
 * the same table as when they were made.
 *
 * Records name ids, and ids are given in the order of records, so a record
 * that makes something has to get the id that it got then; if it does not, or
 * if it is refused, container and journal do not belong together, and nothing
 * that was recorded can be vouched for.
 *
 * Connections are gone: at the end every writer is lost, and may have unsettled
 * writes that nobody knows; what anonymous ones left is one heap.
 */
#include "daemon/drive/replay.h"

#include "daemon/base/progress.h"
#include "daemon/drive/record_codec.h"
#include "proto/base/checked.h"

#include <stdio.h>
#include <string.h>

/* Marks of more ranges are rare, and decoded as other records are. */
#define RANGES_MAX 64u

/* Marks.  Each telling is an atomic instruction, which waits for all memory that is on its way. */
#define TOLD_AT_ONCE 256u

struct replay {
    struct model *model;
    struct replay_report *report;
    struct record mark; /* the one that is replayed, if it is a plain one */
    struct range ranges[RANGES_MAX];
    /* While marks of one drive follow each other. */
    struct drive *marked; /* NULL: the last record was none, or of no drive */
    uint64_t marked_from; /* count_dirty() before them */
    uint32_t untold;      /* records that progress_pieces() does not know of */
};

/* Granules, in all bitmaps that a mark of the drive reaches. */
static uint64_t count_dirty(const struct drive *drive)
{
    const struct drive_bitmap *bitmap;
    uint64_t count = 0;

    TAILQ_FOREACH (bitmap, &drive->recording, recording_entry) {
        count += bitmap_count(bitmap->bits);
    }
    return count;
}

static void marks_end(struct replay *replay)
{
    if (replay->marked) {
        replay->report->dirtied += count_dirty(replay->marked) - replay->marked_from;
        replay->marked = NULL;
    }
}

static void marks_begin(struct replay *replay, uint64_t drive_id)
{
    marks_end(replay);
    replay->marked = model_drive_by_id(replay->model, drive_id);
    replay->marked_from = replay->marked ? count_dirty(replay->marked) : 0;
}

/* A mark that comes soon, if it is of the drive that is marked now. */
static void replay_soon(void *opaque, const uint8_t *bytes, size_t length)
{
    const struct replay *replay = opaque;
    struct range ranges[RANGES_MAX];
    uint64_t drive;

    if (!replay->marked) {
        return;
    }
    uint32_t count = record_decode_mark(bytes, length, &drive, ranges, RANGES_MAX);
    if (count > 0 && drive == replay->marked->id) {
        drive_prefetch(replay->marked, ranges, count);
    }
}

static int replay_decoded(struct replay *replay, uint64_t sequence, struct record *record,
                          struct error *error)
{
    bool mark = record->type == RECORD_MARK;
    uint64_t drive = record->drive, bitmap = record->bitmap;

    if (sequence != replay->model->sequence + 1) {
        return error_set(error, -EBADMSG, "found record %llu, expected %llu",
                         (unsigned long long)sequence,
                         (unsigned long long)replay->model->sequence + 1);
    }
    if (!mark) {
        marks_end(replay);
    } else if (!replay->marked || replay->marked->id != drive) {
        marks_begin(replay, drive);
    }
    int r = model_commit(replay->model, record, error);
    if (r == 0 && (record->drive != drive || record->bitmap != bitmap)) {
        r = error_set(error, -EBADMSG, "record %llu made another id than before",
                      (unsigned long long)sequence);
    }
    if (r < 0) {
        return error_prefix(error, r == -ENOMEM ? r : -EBADMSG, "record %llu (%s)",
                            (unsigned long long)sequence, record_type_name(record->type));
    }
    replay->report->records++;
    if (mark) {
        replay->report->marks += record->ranges_count;
    }
    if (++replay->untold == TOLD_AT_ONCE || !mark) {
        progress_pieces(replay->untold);
        replay->untold = 0;
    }
    return 0;
}

static int replay_record(void *opaque, uint64_t sequence, const uint8_t *bytes, size_t length,
                         struct error *error)
{
    struct replay *replay = opaque;
    struct record *mark = &replay->mark;

    mark->ranges_count =
        record_decode_mark(bytes, length, &mark->drive, replay->ranges, RANGES_MAX);
    if (mark->ranges_count > 0) {
        return replay_decoded(replay, sequence, mark, error);
    }
    CLEANUP(record_decoded_deinit) struct record_decoded decoded = {0};
    int r = record_decode(bytes, length, &decoded, error);
    return r < 0 ? r : replay_decoded(replay, sequence, &decoded.record, error);
}

/* @unaccounted: they may have marked since what was loaded. */
static void lose_writers(struct model *model, bool unaccounted)
{
    struct drive *drive;
    RB_FOREACH (drive, drives_by_id, &model->drives) {
        struct writer *heap = NULL;
        struct writer *writer, *next;
        for (writer = TAILQ_FIRST(&drive->writers); writer; writer = next) {
            next = TAILQ_NEXT(writer, entry);
            writer->connected = false;
            writer->resuming = false;
            writer->unaccounted |= unaccounted;
            if (writer->token[0] == '\0' && heap) {
                heap->unaccounted |= writer->unaccounted;
                heap->rebooted &= writer->rebooted;
                drive_remove_writer(drive, writer);
                writer_free(writer);
            } else if (writer->token[0] == '\0') {
                heap = writer;
            }
        }
    }
}

/*
 * What comes behind the journal.  A memory journal that is missing or damaged has had nothing but
 * acknowledged marks of process-crash drives; one that does not fit is the whole journal's damage.
 */
static int replay_memory(struct replay *replay, const struct journal_replay_options *of_journal,
                         struct journal_replay_report *journal, struct error *error)
{
    struct model *model = replay->model;
    struct replay_report *report = replay->report;
    struct journal_replay_options options = *of_journal;
    struct journal_replay_report found = {0};

    options.applied_seq = model->sequence;
    int r = model->memory_files.path ? journal_replay(&model->memory_files, &options, replay_record,
                                                      replay, &found, error)
                                     : 0;
    if (r < 0) {
        return error_prefix(error, r, "memory journal");
    }
    journal->highest_seq = max_u64(journal->highest_seq, found.highest_seq);
    if (!found.found) {
        (void)snprintf(report->memory_damage, sizeof report->memory_damage,
                       "the memory journal is missing");
    } else if (found.damage[0]) {
        (void)snprintf(report->memory_damage, sizeof report->memory_damage,
                       "memory journal: %.200s", found.damage);
    }
    return 0;
}

int replay_journal(struct model *model, const struct container_info *container, bool distrust,
                   struct replay_report *ret, struct error *error)
{
    struct replay replay = {.model = model, .report = ret, .mark.type = RECORD_MARK};
    struct journal_replay_options options = {
        .instance = model->instance, .applied_seq = model->sequence, .soon = replay_soon};
    struct journal_replay_report found = {0};
    struct error why = {""};
    uint64_t started = uv_hrtime();

    replay.mark.ranges = replay.ranges;
    *ret = (struct replay_report){.highest_seq = model->sequence};
    memcpy(options.container.bytes, container->uuid.bytes, sizeof options.container.bytes);
    if (container->clean) {
        /* What cannot be read says nothing, and nothing is needed of it. */
        (void)journal_probe(&model->journal_files, &options.container, &options.instance,
                            &found.whose, &why);
        ret->stale = found.whose.later;
        ret->foreign = found.whose.foreign;
        lose_writers(model, false);
        return 0;
    }
    model->replaying = true;
    progress_begin("Replaying the journal", 0);
    int r = journal_replay(&model->journal_files, &options, replay_record, &replay, &found, &why);
    if (r == 0 && found.memory && !found.damage[0]) {
        r = replay_memory(&replay, &options, &found, &why);
    }
    marks_end(&replay);
    model->replaying = false;
    lose_writers(model, true);
    ret->elapsed_ns = uv_hrtime() - started;
    ret->highest_seq = found.highest_seq;
    if (r < 0 && r != -EBADMSG && !distrust) {
        /* It may be read another time, so nothing is lost yet. */
        return error_set(error, r, "%s (should it never be readable again: --distrust)", why.text);
    }
    ret->stale = found.whose.later;
    ret->foreign = found.whose.foreign;
    if (r < 0) {
        (void)snprintf(ret->damage, sizeof ret->damage, "journal: %.200s", why.text);
    } else if (!found.found) {
        (void)snprintf(ret->damage, sizeof ret->damage, "the journal is missing");
    } else if (found.damage[0]) {
        (void)snprintf(ret->damage, sizeof ret->damage, "journal: %.200s", found.damage);
    }
    return 0;
}
