/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What was written since a checkpoint: the union of the bitmaps of all checkpoints from there on.
 *
 * It is made elsewhere than on the loop, since it may be long, and in steps, since others must not
 * wait that long: one on libuv's pool for all the parts that are in memory, of which snapshots are
 * taken, then one on the container's thread for each part that is in the container only.  A step is
 * queued when the one before it has ended, so that write-backs get in between.
 *
 * There are two lanes, in each of which one union is worked on while the others wait in their
 * order: one for unions that read, and one for those that need not, which a sick disk does not hold
 * up.  A union that waits has neither snapshots nor bits; how many there are is for the caller to
 * limit.
 *
 *     QUEUED ──▶ pool ──▶ read ──▶ read ──▶ … ──▶ done()
 *       ▲ └──────▲ ▲        │ a part is not what it was
 *       └────────┘ └────────┘
 *     it has to read after all: to the end of the other lane, at most once
 *
 * What it answers is of the moment at which it was begun, or begun anew, for the last time: that of
 * @sequence.  All that was changed up to then is in it:
 *
 *   - A part in memory is in a snapshot of that moment.  Whatever becomes of it later (it is folded
 *     into its elder, it gets another size) is of a later moment.
 *   - A part in the container only is sealed: its bits change by records alone, a deletion that
 *     folds its younger one into it, another size, or a verdict, and each of them sets @changed to
 *     its own number.  As long as that is not above @sequence, the part's bits are what they were,
 *     and the container has them: they were let go of because it had, and what leaves them alone
 *     writes nothing of them.  A part is looked at right before its step is queued.  What changes
 *     it afterwards gets into the container by a write-back that is queued behind the step.
 *   - A fold moves a victim's bits into its elder.  A victim that is still to be read is gone then,
 *     so the union is begun anew, whether its elder was read before (without those bits) or not.
 *     A victim that was read, or was in memory, is in the union already; its elder has changed, so
 *     where that is still to be read, the union is begun anew too, and where it was read or was in
 *     memory, both are in the union as they were.  No bit is missed; one that came from both would
 *     be the same bit.
 *   - Validity is that of the same moment, of each part once: each beginning judges anew.
 *
 * A part that is unknown makes the whole unknown, and all of it dirty; then nothing is read.
 */
#include "daemon/drive/internal.h"

#include "daemon/base/log.h"
#include "daemon/base/pool.h"

#include <assert.h>
#include <stdatomic.h>
#include <string.h>

/* Each takes somebody who changes what is in the container only; there are not many such changes.
 */
#define RESTARTS_MAX 16u

/* begin(): it has to read, which is not done in its lane. */
#define UNION_READS 1

struct union_part {
    uint64_t id;
    uint32_t granularity;
};

struct union_work {
    struct work read_work; /* first: on the container's thread */
    uv_work_t pool_work;
    struct model *model;         /* NULL: gone */
    struct model_union *request; /* NULL: nobody waits any more */
    enum union_lane_kind lane;
    bool running;         /* in a step; else it waits in its lane's queue */
    atomic_bool given_up; /* for a step: nobody wants what comes of it */
    TAILQ_ENTRY(union_work) entry;

    uint64_t drive, since, until; /* ids; @until 0: up to now */
    char drive_name[NAME_BYTES_MAX + 1];
    char since_name[NAME_BYTES_MAX + 1], until_name[NAME_BYTES_MAX + 1];
    unsigned restarts;

    /* From its beginning on.  During a step, all of this is the step's. */
    struct container *container;
    uint32_t chunk_bytes;
    uint64_t size;
    struct bitmap **snapshots; /* until they are merged */
    uint32_t snapshots_count;
    struct union_part *parts; /* in the container only */
    uint32_t parts_count;
    uint32_t parts_read;
    struct bitmap *bits; /* the outcome */
    int r;
    struct error error;
};

static void drop_snapshots(struct union_work *work)
{
    for (uint32_t i = 0; i < work->snapshots_count; i++) {
        bitmap_free(work->snapshots[i]);
    }
    free(work->snapshots);
    work->snapshots = NULL;
    work->snapshots_count = 0;
}

/* As if it had not begun. */
static void drop_all(struct union_work *work)
{
    drop_snapshots(work);
    free(work->parts);
    work->parts = NULL;
    work->parts_count = work->parts_read = 0;
    bitmap_free(work->bits);
    work->bits = NULL;
}

static void union_free(struct union_work *work)
{
    if (work) {
        drop_all(work);
        free(work);
    }
}

DEFINE_CLEANUP(struct union_work *, union_free)

/* ---- Steps ---- */

static void step_done(struct union_work *work);

static void merge(struct union_work *work, const struct bitmap *bits)
{
    if (bitmap_merge(work->bits, bits, 0) < 0) {
        work->r = error_set(&work->error, -ENOMEM, "out of memory for a map");
    }
}

static void run_on_pool(uv_work_t *pool_work)
{
    struct union_work *work = pool_work->data;

    for (uint32_t i = 0; i < work->snapshots_count; i++) {
        if (work->r < 0 || atomic_load(&work->given_up)) {
            return;
        }
        merge(work, work->snapshots[i]);
    }
}

static void done_on_pool(uv_work_t *pool_work, int status)
{
    (void)status; /* never cancelled */
    step_done(pool_work->data);
}

static void run_read(struct work *base)
{
    struct union_work *work = (struct union_work *)base;
    const struct union_part *part = &work->parts[work->parts_read];
    CLEANUP(bitmap_freep) struct bitmap *bits = NULL;

    if (atomic_load(&work->given_up)) {
        return;
    }
    work->r = sealed_read(work->container, part->id, work->size, part->granularity,
                          work->chunk_bytes, &bits, &work->error);
    if (work->r == 0) {
        merge(work, bits);
    }
}

static void done_reading(struct work *base)
{
    step_done((struct union_work *)base);
}

static void submit_read(struct union_work *work)
{
    work->read_work.run = run_read;
    work->read_work.done = done_reading;
    writeback_run(work->model->writeback, &work->read_work);
}

static int submit_merge(struct union_work *work, struct error *error)
{
    work->pool_work.data = work;
    return pool_submit(work->model->loop, &work->pool_work, run_on_pool, done_on_pool) < 0
               ? error_set(error, -ENOMEM, "out of memory or threads for a map")
               : 0;
}

/* ---- What it is made of ---- */

/* Takes what a part says of itself into the answer. */
static void judge_part(struct model_union *ret, const struct drive_bitmap *part)
{
    if (part->validity > ret->validity) {
        ret->validity = part->validity;
        memcpy(ret->reason, part->reason, sizeof ret->reason);
    }
    enum untracked untracked = drive_bitmap_untracked(part);
    if (untracked > ret->untracked) {
        ret->untracked = untracked;
    }
    if (part->granularity < ret->granularity) {
        ret->granularity = part->granularity;
    }
    ret->recording |= part->recording;
}

/* All of the answer but bits; returns whether something has to be read for those. */
static bool judge(const struct model *model, const struct drive_bitmap *since,
                  const struct drive_bitmap *until, struct model_union *ret)
{
    const struct drive_bitmap *part;
    bool reads = false;

    ret->validity = VALIDITY_EXACT;
    ret->reason[0] = '\0';
    ret->untracked = UNTRACKED_RULED_OUT;
    ret->recording = false;
    ret->granularity = since->granularity;
    ret->size = since->drive->size;
    ret->sequence = model->sequence;
    for (part = since; part && part != until; part = TAILQ_NEXT(part, in_history)) {
        judge_part(ret, part);
        reads |= !part->bits;
    }
    return reads && ret->validity != VALIDITY_UNKNOWN;
}

static void set_unknown(struct model_union *request, const char *reason)
{
    request->validity = VALIDITY_UNKNOWN;
    memcpy(request->reason, reason, strnlen(reason, sizeof request->reason - 1) + 1);
    request->reason[sizeof request->reason - 1] = '\0';
}

/* A checkpoint that was asked for; NULL with the words of model_checkpoint_by_name(). */
static struct drive_bitmap *find_end(const struct union_work *work, uint64_t id, const char *name,
                                     struct error *error)
{
    struct drive_bitmap *bitmap = model_bitmap_by_id(work->model, id);
    struct drive *drive = model_drive_by_id(work->model, work->drive);

    if (bitmap) {
        return bitmap;
    }
    if (!drive) {
        /* Under its name there may be another by now. */
        struct text text = {work->drive_name, (uint32_t)strlen(work->drive_name)};
        drive = model_drive_by_name(work->model, text, error);
    }
    if (drive &&
        model_checkpoint_by_name(drive, (struct text){name, (uint32_t)strlen(name)}, error)) {
        error_set(error, -ENOENT, "checkpoint '%s' of drive '%s' is another one by now", name,
                  drive->name);
    }
    return NULL;
}

static int take_parts(struct union_work *work, const struct drive_bitmap *since,
                      const struct drive_bitmap *until)
{
    const struct drive_bitmap *part;
    uint32_t count = since->drive->checkpoints_count;

    work->snapshots = calloc(count, sizeof(struct bitmap *));
    work->parts = calloc(count, sizeof *work->parts);
    if (!work->snapshots || !work->parts) {
        return -ENOMEM;
    }
    for (part = since; part && part != until; part = TAILQ_NEXT(part, in_history)) {
        if (!part->bits) {
            work->parts[work->parts_count++] = (struct union_part){part->id, part->granularity};
        } else if (bitmap_snapshot(part->bits, &work->snapshots[work->snapshots_count]) < 0) {
            return -ENOMEM;
        } else {
            work->snapshots_count++;
        }
    }
    return 0;
}

/*
 * Begins, or begins anew: its first step is under way, which @r belongs to from here on.
 * UNION_READS, and -ENOENT and -ENOMEM with words, leave it without any.
 */
static int begin(struct union_work *work, struct error *error)
{
    struct model *model = work->model;
    struct model_union *request = work->request;
    const struct drive_bitmap *since = find_end(work, work->since, work->since_name, error);
    const struct drive_bitmap *until =
        since && work->until ? find_end(work, work->until, work->until_name, error) : NULL;

    drop_all(work);
    work->r = 0;
    if (!since || (work->until && !until)) {
        return -ENOENT;
    }
    if (judge(model, since, until, request) && work->lane != UNION_LANE_READS) {
        return UNION_READS;
    }
    work->container = writeback_container(model->writeback);
    work->chunk_bytes = UINT32_C(1) << model->settings.cluster_bits;
    work->size = request->size;
    int r = bitmap_new(work->size, request->granularity, work->chunk_bytes, &work->bits);
    if (r == 0 && request->validity == VALIDITY_UNKNOWN) {
        bitmap_set_all(work->bits, 0);
    } else if (r == 0) {
        r = take_parts(work, since, until);
    }
    if (r < 0) {
        drop_all(work);
        return error_set(error, -ENOMEM, "out of memory for a map");
    }
    if (work->snapshots_count == 0 && work->parts_count > 0) {
        submit_read(work);
    } else if (submit_merge(work, error) < 0) {
        drop_all(work);
        return -ENOMEM;
    }
    work->running = true;
    model->unions[work->lane].running = work;
    return 0;
}

/* ---- From step to step ---- */

/* NULL: it is not what it was when the union was begun. */
static struct drive_bitmap *find_part(const struct union_work *work, const struct union_part *part)
{
    struct drive_bitmap *bitmap = model_bitmap_by_id(work->model, part->id);

    return bitmap && bitmap->changed <= work->request->sequence ? bitmap : NULL;
}

static bool parts_are_as_they_were(const struct union_work *work)
{
    for (uint32_t i = work->parts_read; i < work->parts_count; i++) {
        if (!find_part(work, &work->parts[i])) {
            return false;
        }
    }
    return true;
}

/* Whether a step is under way again; else the outcome is in @r. */
static bool restart(struct union_work *work)
{
    int r = ++work->restarts > RESTARTS_MAX
                ? error_set(&work->error, -EBUSY,
                            "checkpoints of drive '%s' change again and again; try again later",
                            work->drive_name)
                : begin(work, &work->error);

    if (r < 0) {
        work->r = r;
    }
    return r == 0;
}

/* The part that was being read is damaged: it is no better for whoever asks next. */
static void distrust_part(struct union_work *work, struct drive_bitmap *bitmap)
{
    struct error error = {""};

    if (sealed_distrust(work->model, bitmap, work->error.text, &error) < 0) {
        log_error("the verdict cannot be recorded now: %s", error.text);
    }
    bitmap_set_all(work->bits, 0);
    set_unknown(work->request, work->error.text);
    work->r = 0;
}

/* A step has ended.  Whether another is under way; else the outcome is in @r. */
static bool go_on(struct union_work *work)
{
    bool merged = work->snapshots_count > 0;

    drop_snapshots(work);
    if (work->r == -EBADMSG) {
        struct drive_bitmap *bitmap = find_part(work, &work->parts[work->parts_read]);
        /* What somebody has read before it was damaged is still good. */
        if (bitmap && !bitmap->bits) {
            distrust_part(work, bitmap);
            return false;
        }
        return restart(work);
    }
    if (work->r < 0) {
        return false;
    }
    work->parts_read += !merged && work->parts_count > 0;
    if (work->parts_read == work->parts_count) {
        return false;
    }
    if (!parts_are_as_they_were(work)) {
        return restart(work);
    }
    submit_read(work);
    return true;
}

/* Tells the outcome.  Nothing of the union is left. */
static void finish(struct union_work *work)
{
    struct model_union *request = work->request;

    request->work = NULL;
    if (work->r == 0) {
        request->bits = STEAL(work->bits);
    }
    request->done(request, work->r, &work->error);
    union_free(work);
}

/* Begins what waits first, if nothing is worked on. */
static void lane_go_on(struct model *model, enum union_lane_kind kind)
{
    struct union_lane *lane = &model->unions[kind];
    struct union_work *work;

    while (!lane->running && (work = TAILQ_FIRST(&lane->queue))) {
        TAILQ_REMOVE(&lane->queue, work, entry);
        int r = begin(work, &work->error);
        if (r == UNION_READS) {
            work->lane = UNION_LANE_READS;
            TAILQ_INSERT_TAIL(&model->unions[UNION_LANE_READS].queue, work, entry);
            lane_go_on(model, UNION_LANE_READS);
        } else if (r < 0) {
            work->r = r;
            finish(work);
        }
    }
}

static void step_done(struct union_work *work)
{
    struct model *model = work->model;
    enum union_lane_kind lane = work->lane;

    if (!model) {
        union_free(work);
        return;
    }
    if (work->request && go_on(work)) {
        return;
    }
    model->unions[lane].running = NULL;
    if (work->request) {
        finish(work);
    } else {
        union_free(work);
    }
    lane_go_on(model, lane);
}

/* ---- Requests ---- */

static int check_order(const struct drive_bitmap *since, const struct drive_bitmap *until,
                       struct error *error)
{
    const struct drive_bitmap *part;

    for (part = TAILQ_NEXT(since, in_history); until && part != until;
         part = TAILQ_NEXT(part, in_history)) {
        if (!part) {
            return error_set(error, -EINVAL,
                             "checkpoint '%s' of drive '%s' is not younger than '%s'", until->name,
                             since->drive->name, since->name);
        }
    }
    return 0;
}

int model_union(struct model *model, const struct drive_bitmap *since,
                const struct drive_bitmap *until, struct model_union *ret, struct error *error)
{
    int r = check_order(since, until, error);
    if (r < 0) {
        return r;
    }
    CLEANUP(union_freep) struct union_work *work = calloc(1, sizeof *work);
    if (!work) {
        return error_set(error, -ENOMEM, "out of memory for a map");
    }
    ret->bits = NULL;
    work->model = model;
    work->request = ret;
    work->drive = since->drive->id;
    work->since = since->id;
    memcpy(work->drive_name, since->drive->name, sizeof work->drive_name);
    memcpy(work->since_name, since->name, sizeof work->since_name);
    if (until) {
        work->until = until->id;
        memcpy(work->until_name, until->name, sizeof work->until_name);
    }
    work->lane = judge(model, since, until, ret) ? UNION_LANE_READS : UNION_LANE_MEMORY;

    struct union_lane *lane = &model->unions[work->lane];
    if (lane->running || !TAILQ_EMPTY(&lane->queue)) {
        TAILQ_INSERT_TAIL(&lane->queue, work, entry);
    } else {
        r = begin(work, error);
        if (r < 0) {
            return r;
        }
        assert(r == 0); /* it is in the lane that fits, since nothing has happened meanwhile */
    }
    ret->work = STEAL(work);
    return 0;
}

void model_union_cancel(struct model_union *request)
{
    struct union_work *work = request->work;

    if (!work) {
        return;
    }
    request->work = NULL;
    work->request = NULL;
    if (work->running) {
        atomic_store(&work->given_up, true);
        return; /* step_done() frees it */
    }
    TAILQ_REMOVE(&work->model->unions[work->lane].queue, work, entry);
    union_free(work);
}

void unions_init(struct model *model)
{
    for (size_t i = 0; i < UNION_LANES; i++) {
        TAILQ_INIT(&model->unions[i].queue);
    }
}

void unions_close(struct model *model)
{
    for (size_t i = 0; i < UNION_LANES; i++) {
        struct union_work *work;
        while ((work = TAILQ_FIRST(&model->unions[i].queue))) {
            model_union_cancel(work->request);
        }
        work = model->unions[i].running;
        if (work && work->request) {
            model_union_cancel(work->request);
        }
        if (work) {
            /* It may end when the model is gone. */
            work->model = NULL;
            model->unions[i].running = NULL;
        }
    }
}
