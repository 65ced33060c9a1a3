/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Write-back: moves the state up to some sequence into the container, as one
 * commit, while requests go on.
 *
 * The loop takes a job: snapshots of the bitmaps that changed (which share
 * all dense chunks), the encoded state, the sequence.  The container's thread
 * writes the job; nobody else touches the container.  Back on the loop, what
 * the job held counts as committed up to its sequence; whatever changed
 * meanwhile has a higher one and is taken by the next job.  A job that failed
 * changes nothing here: the next one takes the same things again.
 *
 *               touch                  tick: interval or dirty limit,
 *              ───────▶ timer runs ──▶ or a waiter, or flush
 *       idle                                │
 *        ▲                                  ▼
 *        └──────── done: nothing new ─── job runs (one at a time)
 *
 * A start has two commits of its own before changes are taken:
 *
 *     SETTLING ─▶ BEGINNING ─▶ RUNNING
 *
 *   - settling puts whatever the start found out into the container, marked
 *     clean: no journal is needed then, and the old one goes;
 *   - beginning makes the new journal and names it in the container, not clean.
 *
 * The last commit of all is marked clean too, and leads back to BEGINNING: behind
 * it nothing may be acknowledged.
 */
#include "daemon/drive/journaling.h"
#include "daemon/drive/writeback_job.h"

#include "daemon/base/log.h"
#include "proto/base/checked.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#define TICK_MS     UINT64_C(500) /* how often the dirty limit is looked at */
#define RETRY_NS    UINT64_C(1000000000)
#define REASON_SIZE 256

enum phase {
    SETTLING,
    BEGINNING,
    RUNNING,
};

struct writeback {
    struct model *model;
    struct container *container; /* the job's while one runs */
    struct file_identity identity;
    struct worker worker;
    bool worker_started;
    struct writeback_job *job;
    enum phase phase;
    bool set_aside; /* SETTLING: the old journal is */
    bool wanted;    /* start another as soon as possible */
    bool closing;
    uint64_t applied_seq;
    uint64_t dirty_since_ns; /* uv_hrtime() of the first change that is not applied */
    uint64_t retry_at_ns;    /* no tick starts a job before */
    uint64_t flushes;
    uint64_t container_bytes;
    struct uuid uuid;
    bool degraded;
    char degraded_reason[REASON_SIZE];
    int64_t degraded_since_ns;
    uv_timer_t tick; /* runs while something is not applied */
    uv_timer_t kick; /* once, after this turn of the loop */
    int handles;     /* not yet closed */
    void (*closed)(struct model *model, int r);
    int close_r; /* of the last job */
};

/* ---- What became of it ---- */

static void degrade(struct writeback *writeback, const char *reason)
{
    if (!writeback->degraded) {
        writeback->degraded_since_ns = model_wall_clock_ns();
        log_event(LOG_LEVEL_ERROR, LOG_DEGRADED, NULL, NULL,
                  "write-back failed: %s; everything is kept in memory, trying again", reason);
        history_note(writeback->model->history, writeback->model->sequence, "degraded", NULL, NULL,
                     NULL, reason);
    }
    writeback->degraded = true;
    (void)snprintf(writeback->degraded_reason, sizeof writeback->degraded_reason, "%s", reason);
    writeback->retry_at_ns = uv_hrtime() + RETRY_NS;
}

static void recover(struct writeback *writeback)
{
    if (writeback->degraded) {
        writeback->degraded = false;
        log_event(LOG_LEVEL_NOTICE, LOG_RECOVERED, NULL, NULL, "write-back works again");
        history_note(writeback->model->history, writeback->model->sequence, "recovered", NULL, NULL,
                     NULL, NULL);
    }
    writeback->retry_at_ns = 0;
}

static void job_succeeded(struct writeback *writeback, struct writeback_job *job)
{
    struct model *model = writeback->model;

    if (job->journal_error.text[0]) {
        log_warning("journal: %s", job->journal_error.text);
    }
    for (uint32_t i = 0; i < job->count; i++) {
        struct drive_bitmap *bitmap = model_bitmap_by_id(model, job->bitmaps[i].id);
        if (bitmap) {
            bitmap->committed = job->sequence;
            bitmap->stored = true;
            bitmap->rewrite = false;
        }
    }
    for (uint32_t i = 0; i < job->removed_count; i++) {
        /* Those that the job took stand first, in its order. */
        struct drive_bitmap *bitmap = TAILQ_FIRST(&model->removed);
        assert(bitmap->id == job->removed[i]);
        TAILQ_REMOVE(&model->removed, bitmap, recording_entry);
        drive_bitmap_free(bitmap);
    }
    model->replaced_count = 0;
    writeback->applied_seq = job->sequence;
    writeback->container_bytes = job->info.file_size;
    writeback->flushes++;
    writeback->phase = job->options.clean ? BEGINNING : RUNNING;
    journaling_covered(model->journaling, job->sequence);
    sealed_evict(model);
    if (writeback->phase == RUNNING || writeback->closing) {
        recover(writeback);
    }
}

static void tick_arm(struct writeback *writeback)
{
    struct model *model = writeback->model;

    if (writeback->closing || (writeback->phase == RUNNING && !writeback->degraded &&
                               writeback->applied_seq == model->sequence)) {
        (void)uv_timer_stop(&writeback->tick);
    } else if (!uv_is_active((uv_handle_t *)&writeback->tick)) {
        uint64_t interval_ms = model->settings.flush_interval_ns / 1000000;
        uint64_t period = min_u64(max_u64(interval_ms, 1), TICK_MS);
        writeback->dirty_since_ns = uv_hrtime();
        (void)uv_timer_start(&writeback->tick, writeback->tick.timer_cb, period, period);
    }
}

static void take_job(struct writeback *writeback);

/* A job that could not even be taken, or whose commit failed. */
static void job_failed(struct writeback *writeback, uint64_t sequence, const struct error *error)
{
    struct model *model = writeback->model;

    degrade(writeback, error->text);
    /* Who waits for the journal goes on waiting for it, unless it is stuck too. */
    ack_fail(model, ACK_CONTAINER, sequence);
    if (!journaling_has_journal(model->journaling)) {
        sequence = model->sequence; /* the start's own change, for which a stop must not wait */
    } else if (!journaling_stuck(model->journaling)) {
        return;
    }
    ack_fail(model, ACK_DURABLE, sequence);
    ack_fail(model, ACK_WRITTEN, sequence);
}

/* What a job has made stays made, also when its commit failed. */
static void take_journal(struct writeback *writeback, struct writeback_job *job)
{
    if (job->journal) {
        journaling_install(writeback->model->journaling, STEAL(job->journal), STEAL(job->memory));
    }
}

static void finish_close(struct writeback *writeback);

static void job_done(struct work *work)
{
    struct writeback_job *job = (struct writeback_job *)work;
    struct writeback *writeback = job->writeback;
    bool last = writeback->closing && job->options.clean;
    bool begin = job->r == 0 && writeback->phase == SETTLING;

    writeback->job = NULL;
    writeback->close_r = job->r;
    take_journal(writeback, job);
    if (job->r < 0) {
        job_failed(writeback, job->sequence, &job->error);
    } else {
        job_succeeded(writeback, job);
        ack_advance(writeback->model);
    }
    writeback_job_free(job);

    if (last) {
        finish_close(writeback);
        return;
    }
    (void)uv_timer_stop(&writeback->tick);
    tick_arm(writeback);
    if (writeback->wanted || writeback->closing || begin) {
        take_job(writeback);
    }
}

static int new_instance(struct model *model)
{
    struct journal_id id;
    if (getrandom(id.bytes, sizeof id.bytes, 0) != (ssize_t)sizeof id.bytes) {
        return -EIO;
    }
    model->instance = id;
    return 0;
}

static enum job_journal journal_duty(const struct writeback *writeback)
{
    switch (writeback->phase) {
    case SETTLING:
        return writeback->set_aside ? JOB_JOURNAL_SET_ASIDE : JOB_JOURNAL_REMOVE;
    case BEGINNING:
        return writeback->closing || journaling_has_journal(writeback->model->journaling)
                   ? JOB_JOURNAL_KEEP
                   : JOB_JOURNAL_MAKE;
    case RUNNING:
        break;
    }
    return JOB_JOURNAL_KEEP;
}

static int take(struct writeback *writeback, struct writeback_job **ret)
{
    enum job_journal duty = journal_duty(writeback);
    struct writeback_job *job;
    int r = duty == JOB_JOURNAL_MAKE ? new_instance(writeback->model) : 0;

    if (r == 0) {
        r = writeback_job_new(writeback->model, writeback->closing || writeback->phase == SETTLING,
                              &job);
    }
    if (r < 0) {
        return r;
    }
    job->journal_duty = duty;
    if (writeback->phase == SETTLING) {
        /* The last number is for the commit that begins: who waits for the container waits for
         * that one. */
        job->sequence--;
        job->options.applied_seq--;
    }
    job->writeback = writeback;
    job->container = writeback->container;
    job->options.identity = writeback->identity;
    job->replaced = writeback->model->replaced;
    job->replaced_count = writeback->model->replaced_count;
    job->work.done = job_done;
    *ret = job;
    return 0;
}

static void take_job(struct writeback *writeback)
{
    if (writeback->job) {
        writeback->wanted = true;
        return;
    }
    writeback->wanted = false;
    int r = take(writeback, &writeback->job);
    if (r < 0) {
        struct error error;
        error_set_errno(&error, r, "cannot prepare a write-back");
        job_failed(writeback, writeback->model->sequence, &error);
        if (writeback->closing) {
            writeback->close_r = r;
            finish_close(writeback);
        }
        return;
    }
    worker_submit(&writeback->worker, &writeback->job->work);
}

/* ---- When ---- */

uint64_t writeback_changed_bytes(const struct writeback *writeback)
{
    uint64_t bytes = 0;
    struct drive_bitmap *bitmap;
    RB_FOREACH (bitmap, bitmaps_by_id, &writeback->model->bitmaps) {
        if (!bitmap->bits || bitmap_version(bitmap->bits) <= bitmap->committed) {
            continue;
        }
        uint32_t chunks = bitmap_chunks(bitmap->bits);
        for (uint32_t i = 0; i < chunks; i++) {
            struct bitmap_chunk_view view;
            bitmap_chunk(bitmap->bits, i, &view);
            if (view.version > bitmap->committed && view.kind != BITMAP_ZEROS) {
                bytes += view.length_bytes;
            }
        }
    }
    return bytes;
}

static void tick_fired(uv_timer_t *timer)
{
    struct writeback *writeback = timer->data;
    const struct model_settings *settings = &writeback->model->settings;
    uint64_t now = uv_hrtime();

    if (now < writeback->retry_at_ns || writeback->job) {
        return;
    }
    if (writeback->degraded || writeback->phase != RUNNING ||
        now - writeback->dirty_since_ns >= settings->flush_interval_ns ||
        writeback_changed_bytes(writeback) >= settings->flush_dirty_limit) {
        take_job(writeback);
    }
}

static void kick_fired(uv_timer_t *timer)
{
    take_job(timer->data);
}

void writeback_touch(struct writeback *writeback)
{
    tick_arm(writeback);
}

void writeback_start(struct writeback *writeback)
{
    if (!writeback->closing && !uv_is_active((uv_handle_t *)&writeback->kick)) {
        (void)uv_timer_start(&writeback->kick, kick_fired, 0, 0);
    }
}

void writeback_configure(struct writeback *writeback)
{
    if (uv_is_active((uv_handle_t *)&writeback->tick)) {
        (void)uv_timer_stop(&writeback->tick);
        tick_arm(writeback);
    }
}

/* ---- Life ---- */

int writeback_new(struct model *model, struct container *container,
                  const struct file_identity *identity, struct writeback **ret)
{
    struct writeback *writeback = calloc(1, sizeof *writeback);
    if (!writeback) {
        return -ENOMEM;
    }
    struct container_info info;
    container_get_info(container, &info);
    writeback->model = model;
    writeback->identity = *identity;
    writeback->uuid = info.uuid;
    writeback->applied_seq = info.applied_seq;
    writeback->container_bytes = info.file_size;
    int r = worker_init(&writeback->worker, model->loop, "container");
    if (r < 0) {
        free(writeback);
        return r;
    }
    writeback->container = container;
    (void)uv_timer_init(model->loop, &writeback->tick);
    (void)uv_timer_init(model->loop, &writeback->kick);
    writeback->tick.data = writeback->kick.data = writeback;
    writeback->tick.timer_cb = tick_fired;
    *ret = writeback;
    return 0;
}

/* A job on this thread, before the loop runs. */
static int run_now(struct writeback *writeback)
{
    CLEANUP(writeback_job_freep) struct writeback_job *job = NULL;
    struct error error;

    int r = take(writeback, &job);
    if (r < 0) {
        error_set_errno(&error, r, "cannot prepare a write-back");
    } else {
        writeback_job_run(&job->work);
        r = job->r;
        error = job->error;
        take_journal(writeback, job);
    }
    if (r < 0) {
        degrade(writeback, error.text);
        tick_arm(writeback);
        return r;
    }
    job_succeeded(writeback, job);
    return 0;
}

void writeback_begin(struct writeback *writeback, bool set_aside)
{
    writeback->set_aside = set_aside;
    writeback->model->sequence++;
    if (run_now(writeback) == 0 && run_now(writeback) == 0) {
        journaling_activate(writeback->model->journaling);
    }
}

static void handle_closed(struct writeback *writeback)
{
    if (--writeback->handles == 0) {
        writeback->closed(writeback->model, writeback->close_r);
    }
}

static void timer_closed(uv_handle_t *handle)
{
    handle_closed(handle->data);
}

static void worker_closed(struct worker *worker)
{
    struct writeback *writeback =
        (struct writeback *)((char *)worker - offsetof(struct writeback, worker));
    handle_closed(writeback);
}

static void finish_close(struct writeback *writeback)
{
    writeback->handles = 3;
    uv_close((uv_handle_t *)&writeback->tick, timer_closed);
    uv_close((uv_handle_t *)&writeback->kick, timer_closed);
    worker_close(&writeback->worker, worker_closed);
}

void writeback_close(struct writeback *writeback, void (*closed)(struct model *model, int r))
{
    writeback->closed = closed;
    writeback->closing = true;
    (void)uv_timer_stop(&writeback->tick);
    (void)uv_timer_stop(&writeback->kick);
    if (!writeback->job) {
        take_job(writeback);
    }
}

static void abandoned(struct model *model, int r)
{
    (void)model;
    (void)r;
}

void writeback_abandon(struct writeback *writeback)
{
    writeback->closed = abandoned;
    writeback->closing = true;
    finish_close(writeback);
    while (writeback->handles > 0) {
        (void)uv_run(writeback->model->loop, UV_RUN_ONCE);
    }
}

void writeback_free(struct writeback *writeback)
{
    if (!writeback) {
        return;
    }
    container_close(writeback->container);
    free(writeback);
}

/* ---- Others on the container's thread ---- */

void writeback_run(struct writeback *writeback, struct work *work)
{
    worker_submit(&writeback->worker, work);
}

struct container *writeback_container(struct writeback *writeback)
{
    return writeback->container;
}

/* ---- Questions ---- */

bool writeback_is_alive(struct writeback *writeback)
{
    return writeback->closing || worker_is_alive(&writeback->worker);
}

uint64_t writeback_applied_seq(const struct writeback *writeback)
{
    return writeback->applied_seq;
}

const char *writeback_refuses(const struct writeback *writeback)
{
    return writeback->phase == RUNNING ? NULL : writeback->degraded_reason;
}

const uint8_t *writeback_container_uuid(const struct writeback *writeback)
{
    return writeback->uuid.bytes;
}

const char *writeback_degraded_reason(const struct writeback *writeback)
{
    return writeback->degraded ? writeback->degraded_reason : "";
}

void writeback_get_status(const struct writeback *writeback, struct model_status *status)
{
    status->applied_seq = writeback->applied_seq;
    status->flushes = writeback->flushes;
    status->container_bytes = writeback->container_bytes;
    status->degraded_since_ns = writeback->degraded ? writeback->degraded_since_ns : 0;
}
