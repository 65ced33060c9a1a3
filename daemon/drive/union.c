/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What was written since a checkpoint: the union of the bitmaps of all checkpoints from there on.
 *
 * It is made elsewhere than on the loop, since it may be long: parts that are in memory are taken
 * as snapshots, the others are read out of the container one after the other.  So it costs one
 * bitmap of memory, and one more while it reads, however many parts there are.  Without anything to
 * read it is made on libuv's pool, which does not wait for a sick disk.
 *
 * A part that is unknown makes the whole unknown, and all of it dirty; then nothing is read.
 */
#include "daemon/drive/internal.h"

#include "daemon/base/log.h"
#include "proto/base/checked.h"

#include <assert.h>
#include <string.h>

struct union_part {
    uint64_t id;
    uint32_t granularity;
    struct bitmap *snapshot; /* NULL: in the container */
};

struct union_work {
    struct work work;    /* on the container's thread, or … */
    uv_work_t pool_work; /* … on the pool */
    struct model *model;
    struct model_union *request; /* NULL: nobody waits any more */
    struct container *container;
    uint32_t chunk_bytes;
    uint64_t size;
    struct union_part *parts;
    uint32_t count;
    struct bitmap *bits; /* the outcome */
    uint64_t failed;     /* id of the part that could not be read */
    int r;
    struct error error;
};

static void union_free(struct union_work *work)
{
    for (uint32_t i = 0; i < work->count; i++) {
        bitmap_free(work->parts[i].snapshot);
    }
    free(work->parts);
    bitmap_free(work->bits);
    free(work);
}

static void add_part(struct union_work *work, const struct union_part *part)
{
    CLEANUP(bitmap_freep) struct bitmap *read = NULL;
    const struct bitmap *bits = part->snapshot;

    if (!bits) {
        work->r = sealed_read(work->container, part->id, work->size, part->granularity,
                              work->chunk_bytes, &read, &work->error);
        bits = read;
        work->failed = part->id;
    }
    if (work->r == 0 && bitmap_merge(work->bits, bits, 0) < 0) {
        work->r = error_set(&work->error, -ENOMEM, "out of memory");
    }
}

static void make_union(struct union_work *work)
{
    for (uint32_t i = 0; work->r == 0 && i < work->count; i++) {
        add_part(work, &work->parts[i]);
    }
}

static void set_unknown(struct model_union *request, const char *reason)
{
    request->validity = VALIDITY_UNKNOWN;
    memcpy(request->reason, reason, strnlen(reason, sizeof request->reason - 1) + 1);
    request->reason[sizeof request->reason - 1] = '\0';
}

static void union_done(struct union_work *work)
{
    struct model_union *request = work->request;
    /* The model may be gone when nobody waits any more. */
    struct drive_bitmap *failed = request ? model_bitmap_by_id(work->model, work->failed) : NULL;
    struct error error = {""};

    if (work->r == -EBADMSG && failed && failed->validity != VALIDITY_UNKNOWN) {
        /* It is no better for whoever asks next. */
        struct record record = {
            .type = RECORD_BITMAP_DISTRUST,
            .drive = failed->drive->id,
            .bitmap = failed->id,
            .name = {work->error.text,
                     (uint32_t)strnlen(work->error.text, MODEL_REASON_BYTES_MAX)}};
        log_error("checkpoint %s of drive %s: %s", failed->name, failed->drive->name,
                  work->error.text);
        if (model_commit(work->model, &record, &error) < 0) {
            log_error("the verdict cannot be recorded now: %s", error.text);
        }
    }
    if (request) {
        request->work = NULL;
        if (work->r == -EBADMSG) {
            bitmap_set_all(work->bits, 0);
            set_unknown(request, work->error.text);
            work->r = 0;
        }
        if (work->r == 0) {
            request->bits = STEAL(work->bits);
        }
        request->done(request, work->r, &work->error);
    }
    union_free(work);
}

static void run_on_worker(struct work *base)
{
    make_union((struct union_work *)base);
}

static void done_on_worker(struct work *base)
{
    union_done((struct union_work *)base);
}

static void run_on_pool(uv_work_t *pool_work)
{
    make_union(pool_work->data);
}

static void done_on_pool(uv_work_t *pool_work, int status)
{
    (void)status; /* never cancelled */
    union_done(pool_work->data);
}

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

static int take_parts(struct union_work *work, const struct drive_bitmap *since,
                      const struct drive_bitmap *until, bool *ret_reads)
{
    const struct drive_bitmap *part;

    *ret_reads = false;
    for (part = since; part && part != until; part = TAILQ_NEXT(part, in_history)) {
        struct union_part *taken = &work->parts[work->count];
        *taken = (struct union_part){.id = part->id, .granularity = part->granularity};
        if (part->bits && bitmap_snapshot(part->bits, &taken->snapshot) < 0) {
            return -ENOMEM;
        }
        *ret_reads |= !part->bits;
        work->count++;
    }
    return 0;
}

int model_union(struct model *model, const struct drive_bitmap *since,
                const struct drive_bitmap *until, struct model_union *ret, struct error *error)
{
    const struct drive *drive = since->drive;
    const struct drive_bitmap *part;
    bool reads = false;

    for (part = TAILQ_NEXT(since, in_history); until && part != until;
         part = TAILQ_NEXT(part, in_history)) {
        if (!part) {
            return error_set(error, -EINVAL,
                             "checkpoint '%s' of drive '%s' is not younger than '%s'", until->name,
                             drive->name, since->name);
        }
    }
    ret->validity = VALIDITY_EXACT;
    ret->reason[0] = '\0';
    ret->untracked = UNTRACKED_RULED_OUT;
    ret->recording = false;
    ret->granularity = since->granularity;
    ret->size = drive->size;
    ret->sequence = model->sequence;
    ret->bits = NULL;
    for (part = since; part && part != until; part = TAILQ_NEXT(part, in_history)) {
        judge_part(ret, part);
    }

    struct union_work *work = calloc(1, sizeof *work);
    if (!work) {
        return error_set(error, -ENOMEM, "out of memory for a map");
    }
    work->model = model;
    work->request = ret;
    work->container = writeback_container(model->writeback);
    work->size = drive->size;
    work->chunk_bytes = UINT32_C(1) << model->settings.cluster_bits;
    work->parts = calloc(MODEL_CHECKPOINTS_MAX + 1, sizeof *work->parts);
    int r = !work->parts
                ? -ENOMEM
                : bitmap_new(drive->size, ret->granularity, work->chunk_bytes, &work->bits);
    if (r == 0 && ret->validity == VALIDITY_UNKNOWN) {
        bitmap_set_all(work->bits, 0);
    } else if (r == 0) {
        r = take_parts(work, since, until, &reads);
    }
    if (r == 0 && !reads) {
        work->pool_work.data = work;
        r = uv_queue_work(model->loop, &work->pool_work, run_on_pool, done_on_pool);
    } else if (r == 0) {
        work->work.run = run_on_worker;
        work->work.done = done_on_worker;
        writeback_run(model->writeback, &work->work);
    }
    if (r < 0) {
        union_free(work);
        return error_set(error, -ENOMEM, "out of memory for a map");
    }
    ret->work = work;
    return 0;
}

void model_union_cancel(struct model_union *request)
{
    if (request->work) {
        request->work->request = NULL;
        request->work = NULL;
    }
}
