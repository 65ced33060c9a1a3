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
 * a sync follows within a second.  When a sync fails, those of them that were
 * acknowledged at "written" hang on a cache that proves nothing any more: until
 * they are written again a kill could lose them, so their drives are distrusted.
 */
#include "daemon/drive/journaling.h"

#include "daemon/base/log.h"
#include "daemon/drive/record_codec.h"

#include <stdio.h>
#include <string.h>

#define RETRY_MS    1000u
#define SYNC_MS     1000u /* for process-crash drives */
#define FILL_HIGH   500u  /* of 1000: the container is asked to cover */
#define REASON_SIZE 256

struct batch {
    uint64_t first_seq;
    uint8_t *bytes;
    size_t used, capacity;
    struct journal_record *records; /* offsets until the bytes have their place */
    uint32_t count, records_capacity;
    bool sync;   /* somebody waits for durable */
    bool sealed; /* the journal has seen it: the same bytes again, or nothing */
    TAILQ_ENTRY(batch) entry;
};

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
    bool degraded;
    char reason[REASON_SIZE];
    int64_t degraded_since_ns;
    uv_prepare_t before_sleep;
    uv_timer_t timer; /* retries, and syncs for process-crash drives */
    bool closing;
    int handles;
    void (*closed)(struct model *model);
};

static void batch_free(struct batch *batch)
{
    if (batch) {
        free(batch->bytes);
        free(batch->records);
        free(batch);
    }
}

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
    if (batch->capacity - batch->used < bytes) {
        size_t capacity = (batch->used + bytes) * 2;
        uint8_t *grown = realloc(batch->bytes, capacity);
        if (!grown) {
            return error_set(error, -ENOMEM, "out of memory");
        }
        batch->bytes = grown;
        batch->capacity = capacity;
    }
    if (batch->count == batch->records_capacity) {
        uint32_t capacity = batch->count ? batch->count * 2 : 64;
        struct journal_record *grown = reallocarray(batch->records, capacity, sizeof *grown);
        if (!grown) {
            return error_set(error, -ENOMEM, "out of memory");
        }
        batch->records = grown;
        batch->records_capacity = capacity;
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
    uint32_t bytes = (uint32_t)record_encoded_bytes(record);

    if (batch->count == 0) {
        batch->first_seq = record->sequence;
    }
    record_encode(record, batch->bytes + batch->used);
    batch->records[batch->count++] = (struct journal_record){.length = bytes};
    batch->used += bytes;
    batch->sync |= wants_sync(journaling, record);
    journaling->queued_bytes += bytes;
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
        const uint8_t *p = batch->bytes;
        for (uint32_t i = 0; i < batch->count; i++) {
            batch->records[i].bytes = p;
            p += batch->records[i].length;
        }
        visit->r = journal_append(journaling->journal, batch->first_seq, batch->records,
                                  batch->count, &visit->error);
        visit->appended = visit->r == 0;
    }
    if (visit->r == 0 && visit->sync) {
        visit->r = journal_sync(journaling->journal, &visit->error);
        visit->sync_failed = visit->r < 0 && visit->r != -EAGAIN;
    }
    visit->written = journal_written(journaling->journal);
    visit->durable = journal_durable(journaling->journal);
    visit->fill = journal_fill(journaling->journal);
}

static void visit_done(struct work *work);

static void submit(struct journaling *journaling)
{
    struct batch *batch = journaling->held ? NULL : TAILQ_FIRST(&journaling->queue);
    bool sync = batch ? batch->sync : journaling->unsynced && journaling->degraded;

    if (journaling->visiting || (batch && batch->count == 0) || (!batch && !sync)) {
        return;
    }
    journaling->visit = (struct visit){
        .work = {.run = visit_run, .done = visit_done},
        .journaling = journaling,
        .batch = batch,
        .sync = sync,
        .covered = journaling->covered,
    };
    journaling->visiting = true;
    if (batch) {
        batch->sealed = true;
    }
    worker_submit(&journaling->worker, &journaling->visit.work);
}

static void before_sleep(uv_prepare_t *prepare)
{
    struct journaling *journaling = prepare->data;
    if (!journaling->degraded) {
        submit(journaling);
    }
}

/* ---- What became of it ---- */

static void timer_fired(uv_timer_t *timer)
{
    struct journaling *journaling = timer->data;

    if (journaling->visiting) {
        return;
    }
    if (journaling->degraded) {
        journaling->held = false;
        submit(journaling);
    } else if (journaling->unsynced && TAILQ_EMPTY(&journaling->queue)) {
        journaling->visit = (struct visit){
            .work = {.run = visit_run, .done = visit_done},
            .journaling = journaling,
            .sync = true,
            .covered = journaling->covered,
        };
        journaling->visiting = true;
        worker_submit(&journaling->worker, &journaling->visit.work);
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
        log_error("journal: %s; changes are kept in memory, trying again", reason);
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
        log_notice("the journal works again");
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
        batch->used = 0;
        batch->count = 0;
        batch->sync = false;
        batch->sealed = false;
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

void journaling_install(struct journaling *journaling, struct journal *journal)
{
    journaling->journal = journal;
    journaling->batch_bytes_max = journal_batch_bytes_max(journal);
}

bool journaling_has_journal(const struct journaling *journaling)
{
    return journaling->journal != NULL;
}

void journaling_activate(struct journaling *journaling)
{
    struct error error;
    int r = journal_activate(journaling->journal, &error);
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
    free(journaling);
}

uint64_t journaling_written(const struct journaling *journaling)
{
    return journaling->written;
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
