/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Group commit.
 *
 * Records are encoded into the batch that gathers.  Before the loop sleeps the
 * first batch of the queue goes to the journal's thread, one at a time; what
 * comes meanwhile gathers in the next.  So an idle disk does not wait, and a
 * busy one gathers.
 *
 * A batch whose append failed stays at the head of the queue and is submitted
 * again: when the container has covered a segment (-EAGAIN: no room), or a
 * second later.  The journal itself keeps what it has taken and not synced, and
 * writes it again elsewhere.  Meanwhile a write-back is asked for: whatever the
 * container has needs no journal.
 *
 * Batches of nothing but marks of process-crash drives are not synced each;
 * a sync follows within a second.  Where there is a memory journal (a second journal in a tmpfs),
 * such marks are written there by the loop itself, with all that is queued before them, and are
 * acknowledged at once; their batch lingers, so that the disk gets few large ones.  The memory
 * journal need keep only what the journal has not written yet: that outlives the process too.
 * When a sync fails, those of them that were
 * acknowledged at "written" hang on a cache that proves nothing any more: until
 * they are written again a kill could lose them, so their drives are distrusted.
 */
#include "daemon/drive/journaling.h"

#include "daemon/drive/batch.h"

#include "daemon/base/log.h"
#include "daemon/drive/record_codec.h"
#include "proto/base/checked.h"

#include <stdio.h>
#include <string.h>

#define RETRY_MS     1000u
#define SYNC_MS      1000u                 /* for process-crash drives */
#define FILL_HIGH    500u                  /* of 1000: the container is asked to cover */
#define LINGER_BYTES (UINT32_C(512) << 10) /* a batch that lingers grows to this */
/* Of 1000, of the memory journal: below, its other segment can be taken when this one is full. */
#define LINGER_FILL 500u
#define REASON_SIZE 256

TAILQ_HEAD(batch_queue, batch);

/* One visit to the journal's thread. */
struct visit {
    struct work work; /* first */
    struct journaling *journaling;
    struct batch *batch; /* NULL: only a sync */
    bool sync;
    uint64_t covered;
    bool ran;
    bool appended;
    bool sync_failed;
    int r;
    struct error error;
    uint64_t written, durable;
    uint32_t fill;
};

struct journaling {
    struct model *model;
    struct journal *journal; /* the visit's while one is under way */
    bool activated;          /* journal's thread */
    struct worker worker;
    struct visit visit;
    bool visiting;
    bool held;     /* the head of the queue waits for room or for a retry */
    bool no_room;  /* … for room: both segments wait to be covered */
    bool unsynced; /* something is written and not durable */
    struct batch_queue queue;
    uint32_t batch_bytes_max;
    uint64_t queued_bytes;
    struct batch *spare;
    uint64_t covered;
    uint64_t written, durable;
    struct journal *memory;  /* NULL: none, or it has failed */
    uint64_t memory_written; /* sequence */
    bool express;            /* marks are queued that need not wait for the disk */
    bool hurry;              /* nothing lingers, and the next visit syncs */
    bool degraded;
    char reason[REASON_SIZE];
    int64_t degraded_since_ns;
    uv_prepare_t before_sleep;
    uv_timer_t timer; /* retries, and syncs for process-crash drives */
    bool closing;
    int handles;
    void (*closed)(struct model *model);
};

/* ---- Gathering ---- */

/* The batch that takes the next record of @bytes; a new one when the last is full. */
static struct batch *gathering(struct journaling *journaling, size_t bytes)
{
    struct batch *batch = TAILQ_LAST(&journaling->queue, batch_queue);

    if (batch && !batch->sealed &&
        batch->used + bytes + (batch->count + 1) * JOURNAL_RECORD_FRAME_BYTES <=
            journaling->batch_bytes_max) {
        return batch;
    }
    batch = STEAL(journaling->spare);
    if (!batch) {
        batch = calloc(1, sizeof *batch);
    }
    if (batch) {
        TAILQ_INSERT_TAIL(&journaling->queue, batch, entry);
    }
    return batch;
}

int journaling_reserve(struct journaling *journaling, const struct record *record,
                       struct error *error)
{
    size_t bytes = record_encoded_bytes(record);

    if (bytes + JOURNAL_RECORD_FRAME_BYTES > journaling->batch_bytes_max) {
        return error_set(error, -EFBIG,
                         "a change of %zu bytes is too large for the journal: give fewer ranges at "
                         "once, or make journal.segment_size larger",
                         bytes);
    }
    if (journaling->no_room && writeback_degraded_reason(journaling->model->writeback)[0]) {
        return error_set(error, -ENOSPC,
                         "the journal has no room, and the container cannot be written: %s",
                         writeback_degraded_reason(journaling->model->writeback));
    }
    if (journaling->queued_bytes + bytes > JOURNALING_QUEUE_BYTES_MAX) {
        return error_set(error, -ENOSPC, "%llu bytes of changes wait for the journal: %s",
                         (unsigned long long)journaling->queued_bytes,
                         journaling->degraded ? journaling->reason : "it is slow");
    }
    struct batch *batch = gathering(journaling, bytes);
    if (!batch) {
        return error_set(error, -ENOMEM, "out of memory");
    }
    if (batch_reserve(batch, bytes) < 0) {
        return error_set(error, -ENOMEM, "out of memory");
    }
    return 0;
}

static bool wants_sync(const struct journaling *journaling, const struct record *record)
{
    if (record->type != RECORD_MARK) {
        return true;
    }
    const struct drive *drive = model_drive_by_id(journaling->model, record->drive);
    return !drive || drive->durability == DURABILITY_POWER_LOSS;
}

void journaling_add(struct journaling *journaling, const struct record *record)
{
    struct batch *batch = TAILQ_LAST(&journaling->queue, batch_queue);
    bool sync = wants_sync(journaling, record);
    batch->sync |= sync;
    journaling->express |= !sync;
    journaling->queued_bytes += batch_add(batch, record);
}

/* ---- A visit, on the journal's thread ---- */

static void visit_run(struct work *work)
{
    struct visit *visit = (struct visit *)work;
    struct journaling *journaling = visit->journaling;
    struct batch *batch = visit->batch;

    if (!journaling->activated) {
        visit->r = journal_activate(journaling->journal, &visit->error);
        if (visit->r < 0) {
            return;
        }
        journaling->activated = true;
    }
    visit->ran = true;
    journal_covered(journaling->journal, visit->covered);
    if (batch) {
        visit->r = journal_append(journaling->journal, batch->first_seq, batch->records,
                                  batch->count, visit->sync, &visit->error);
        visit->appended = visit->r == 0;
    }
    if (visit->r == 0 && visit->sync) {
        visit->r = journal_sync(journaling->journal, &visit->error);
    }
    visit->sync_failed =
        visit->r < 0 && visit->r != -EAGAIN && journal_sync_failed(journaling->journal);
    visit->written = journal_written(journaling->journal);
    visit->durable = journal_durable(journaling->journal);
    visit->fill = journal_fill(journaling->journal);
}

/* ---- Into the memory journal ---- */

/* What is queued and not in it yet.  -EAGAIN: it has no room until the disk has more. */
static int express_queue(struct journaling *journaling, struct error *error)
{
    struct batch *batch;

    TAILQ_FOREACH (batch, &journaling->queue, entry) {
        uint32_t count = batch->count - batch->expressed;
        if (count == 0) {
            continue;
        }
        batch_place_rest(batch);
        int r = journal_append(journaling->memory, batch->first_seq + batch->expressed,
                               batch->records + batch->expressed, count, false, error);
        if (r < 0) {
            return r;
        }
        batch->expressed = batch->count;
        batch->expressed_bytes = batch->used;
        journaling->memory_written = batch->first_seq + batch->count - 1;
    }
    return 0;
}

void journaling_express(struct journaling *journaling)
{
    struct error error;

    if (!journaling->express || !journaling->memory) {
        journaling->express = false;
        return;
    }
    journal_covered(journaling->memory, max_u64(journaling->written, journaling->covered));
    int r = express_queue(journaling, &error);
    if (r == -EAGAIN) {
        /* The disk is behind: what is queued waits for it, or for room here. */
        journaling->hurry = true;
    } else if (r < 0) {
        /* What it has acknowledged it has; the rest waits for the disk, as without one. */
        log_warning("memory journal: %s; marks wait for the disk from now on", error.text);
        journal_close(STEAL(journaling->memory));
        journaling->hurry = true;
    }
    journaling->express = r == -EAGAIN;
    ack_advance(journaling->model);
}

void journaling_hurry(struct journaling *journaling)
{
    journaling->hurry = true;
}

/* ---- Onto the disk ---- */

static void visit_done(struct work *work);
static void arm(struct journaling *journaling, uint64_t ms);

/* Whether a batch may wait for more: nobody waits for it, and the memory journal has room. */
static bool lingers(const struct journaling *journaling, const struct batch *batch)
{
    return journaling->memory && !batch->sync && batch->expressed == batch->count &&
           !batch->sealed && batch->used < LINGER_BYTES && !journaling->hurry &&
           journal_fill(journaling->memory) < LINGER_FILL;
}

static void submit(struct journaling *journaling)
{
    struct batch *batch = journaling->held ? NULL : TAILQ_FIRST(&journaling->queue);
    bool due = journaling->hurry || journaling->degraded;

    if (batch && batch->count == 0) {
        batch = NULL;
    }
    bool sync = batch ? batch->sync || journaling->hurry : journaling->unsynced && due;
    if (journaling->visiting || (!batch && !sync)) {
        return;
    }
    if (batch && lingers(journaling, batch)) {
        arm(journaling, SYNC_MS);
        return;
    }
    journaling->hurry = false;
    journaling->visit = (struct visit){
        .work = {.run = visit_run, .done = visit_done},
        .journaling = journaling,
        .batch = batch,
        .sync = sync,
        .covered = journaling->covered,
    };
    journaling->visiting = true;
    if (batch) {
        batch_seal(batch);
    }
    worker_submit(&journaling->worker, &journaling->visit.work);
}

static void before_sleep(uv_prepare_t *prepare)
{
    struct journaling *journaling = prepare->data;
    journaling_express(journaling);
    if (!journaling->degraded) {
        submit(journaling);
    }
}

/* ---- What became of it ---- */

static void timer_fired(uv_timer_t *timer)
{
    struct journaling *journaling = timer->data;

    if (journaling->degraded) {
        journaling->held &= journaling->visiting;
        submit(journaling);
    } else if (journaling->unsynced || !TAILQ_EMPTY(&journaling->queue)) {
        journaling->hurry = true;
        submit(journaling);
    }
}

static void arm(struct journaling *journaling, uint64_t ms)
{
    if (!journaling->closing && !uv_is_active((uv_handle_t *)&journaling->timer)) {
        (void)uv_timer_start(&journaling->timer, timer_fired, ms, 0);
    }
}

static void degrade(struct journaling *journaling, const char *reason)
{
    struct model *model = journaling->model;

    if (!journaling->degraded) {
        log_event(LOG_LEVEL_ERROR, LOG_DEGRADED, NULL, NULL,
                  "journal: %s; changes are kept in memory, trying again", reason);
        history_note(model->history, model->sequence, "degraded", NULL, NULL, NULL, reason);
        journaling->degraded_since_ns = model_wall_clock_ns();
    }
    journaling->degraded = true;
    (void)snprintf(journaling->reason, sizeof journaling->reason, "journal: %.240s", reason);
}

static bool drive_is_trusted(const struct drive *drive)
{
    const struct drive_bitmap *bitmap;

    TAILQ_FOREACH (bitmap, &drive->recording, recording_entry) {
        if (bitmap->validity != VALIDITY_UNKNOWN) {
            return true;
        }
    }
    return drive->ungapped > 0;
}

/* Written marks of process-crash drives were acknowledged, and may be lost. */
static void distrust_written(struct journaling *journaling)
{
    static const char reason[] = "a sync of the journal failed, and the drive's durability is "
                                 "process-crash";
    struct model *model = journaling->model;
    uint64_t durable = ack_watermark(model, ACK_DURABLE);
    struct drive *drive;

    RB_FOREACH (drive, drives_by_id, &model->drives) {
        if (drive->durability != DURABILITY_PROCESS_CRASH || drive->marked <= durable ||
            !drive_is_trusted(drive)) {
            continue;
        }
        struct record record = {
            .type = RECORD_DRIVE_DISTRUST, .drive = drive->id, .name = {reason, sizeof reason - 1}};
        struct error error;
        if (model_commit(model, &record, &error) < 0) {
            /* No room for the record now: it comes before any other. */
            struct drive_bitmap *bitmap;
            TAILQ_FOREACH (bitmap, &drive->all, of_drive) {
                drive_bitmap_distrust(bitmap, model->sequence, reason);
            }
            drive->unrecorded = model->unrecorded = true;
        }
    }
}

static void failed(struct journaling *journaling, const struct visit *visit)
{
    if (visit->ran) {
        journaling->written = visit->written;
        journaling->durable = visit->durable;
    }
    journaling->no_room = visit->r == -EAGAIN; /* the container has to cover a segment first */
    journaling->held = visit->batch && !visit->appended;
    if (!journaling->no_room) {
        degrade(journaling, visit->error.text);
    }
    if (visit->sync_failed) {
        distrust_written(journaling);
    }
    if (journaling->degraded) {
        arm(journaling, RETRY_MS);
    }
    writeback_start(journaling->model->writeback);
}

static void succeeded(struct journaling *journaling, const struct visit *visit)
{
    journaling->no_room = false;
    if (journaling->degraded) {
        log_event(LOG_LEVEL_NOTICE, LOG_RECOVERED, NULL, NULL, "the journal works again");
        history_note(journaling->model->history, journaling->model->sequence, "recovered", NULL,
                     NULL, NULL, "journal");
        journaling->degraded = false;
    }
    journaling->written = visit->written;
    journaling->durable = visit->durable;
    if (visit->fill >= FILL_HIGH) {
        writeback_start(journaling->model->writeback);
    }
    if (journaling->unsynced) {
        arm(journaling, SYNC_MS);
    }
}

static void try_close(struct journaling *journaling);

static void visit_done(struct work *work)
{
    struct visit visit = *(struct visit *)work;
    struct journaling *journaling = visit.journaling;
    struct batch *batch = visit.batch;

    journaling->visiting = false;
    if (batch && visit.appended) {
        TAILQ_REMOVE(&journaling->queue, batch, entry);
        journaling->queued_bytes -= batch->used;
        batch_clear(batch);
        if (journaling->spare) {
            batch_free(batch);
        } else {
            journaling->spare = batch;
        }
    }
    journaling->unsynced = visit.appended ? visit.r < 0 || !visit.sync
                                          : journaling->unsynced && (visit.r < 0 || !visit.sync);
    if (visit.r < 0) {
        failed(journaling, &visit);
    } else {
        succeeded(journaling, &visit);
    }
    ack_advance(journaling->model);
    try_close(journaling);
}

void journaling_covered(struct journaling *journaling, uint64_t applied_seq)
{
    journaling->covered = applied_seq;
    if (journaling->held && !journaling->degraded) {
        journaling->held = false;
    }
}

/* ---- Life ---- */

int journaling_new(struct model *model, struct journaling **ret)
{
    struct journaling *journaling = calloc(1, sizeof *journaling);
    if (!journaling) {
        return -ENOMEM;
    }
    journaling->model = model;
    TAILQ_INIT(&journaling->queue);
    int r = worker_init(&journaling->worker, model->loop, "journal");
    if (r < 0) {
        free(journaling);
        return r;
    }
    (void)uv_prepare_init(model->loop, &journaling->before_sleep);
    (void)uv_timer_init(model->loop, &journaling->timer);
    journaling->before_sleep.data = journaling->timer.data = journaling;
    (void)uv_prepare_start(&journaling->before_sleep, before_sleep);
    *ret = journaling;
    return 0;
}

void journaling_install(struct journaling *journaling, struct journal *journal,
                        struct journal *memory)
{
    journaling->journal = journal;
    journaling->memory = memory;
    journaling->batch_bytes_max = journal_batch_bytes_max(journal);
    if (memory) {
        journaling->batch_bytes_max =
            (uint32_t)min_u64(journaling->batch_bytes_max, journal_batch_bytes_max(memory));
    }
}

bool journaling_has_journal(const struct journaling *journaling)
{
    return journaling->journal != NULL;
}

void journaling_activate(struct journaling *journaling)
{
    struct error error;
    int r = journaling->memory ? journal_activate(journaling->memory, &error) : 0;
    if (r < 0) {
        log_warning("memory journal: %s; it is found all the same", error.text);
    }
    r = journal_activate(journaling->journal, &error);
    if (r < 0) {
        log_warning("journal: %s; trying again with the first change", error.text);
    }
    journaling->activated = r == 0;
}

static void handle_closed(struct journaling *journaling)
{
    if (--journaling->handles == 0) {
        journaling->closed(journaling->model);
    }
}

static void uv_closed(uv_handle_t *handle)
{
    handle_closed(handle->data);
}

static void worker_closed(struct worker *worker)
{
    handle_closed((struct journaling *)((char *)worker - offsetof(struct journaling, worker)));
}

static void try_close(struct journaling *journaling)
{
    if (!journaling->closing || journaling->visiting) {
        return;
    }
    journaling->handles = 3;
    uv_close((uv_handle_t *)&journaling->before_sleep, uv_closed);
    uv_close((uv_handle_t *)&journaling->timer, uv_closed);
    worker_close(&journaling->worker, worker_closed);
}

void journaling_close(struct journaling *journaling, void (*closed)(struct model *model))
{
    /* The container has everything by now; what is still queued is covered by it. */
    struct model *model = journaling->model;
    if (model->memory_files.path && model->close_r == 0) {
        (void)journal_remove(&model->memory_files, NULL); /* else the next start does */
    }
    journaling->closing = true;
    journaling->closed = closed;
    try_close(journaling);
}

void journaling_free(struct journaling *journaling)
{
    if (!journaling) {
        return;
    }
    struct batch *batch;
    while ((batch = TAILQ_FIRST(&journaling->queue))) {
        TAILQ_REMOVE(&journaling->queue, batch, entry);
        batch_free(batch);
    }
    batch_free(journaling->spare);
    journal_close(journaling->journal);
    journal_close(journaling->memory);
    free(journaling);
}

bool journaling_is_alive(struct journaling *journaling)
{
    return journaling->closing || worker_is_alive(&journaling->worker);
}

uint64_t journaling_written(const struct journaling *journaling)
{
    return max_u64(journaling->written, journaling->memory_written);
}

uint64_t journaling_durable(const struct journaling *journaling)
{
    return journaling->durable;
}

bool journaling_stuck(const struct journaling *journaling)
{
    return journaling->degraded || journaling->held;
}

const char *journaling_degraded_reason(const struct journaling *journaling)
{
    return journaling->degraded ? journaling->reason : "";
}

int64_t journaling_degraded_since_ns(const struct journaling *journaling)
{
    return journaling->degraded ? journaling->degraded_since_ns : 0;
}
