/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One job of write-back: what it takes from the model, and how it is written.
 *
 * A job is taken on the loop and holds everything it needs; the container's
 * thread then works on nothing but the job and the container.
 */
#include "daemon/drive/writeback_job.h"
#include "daemon/drive/journaling.h"

#include "daemon/base/progress.h"
#include "proto/base/checked.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

/* ---- The job, on the container's thread ---- */

static void fill_ones(uint8_t *buffer, const struct bitmap_chunk_view *view)
{
    memset(buffer, 0xff, view->length_bytes);
    if (view->granules % 8 != 0) {
        buffer[view->granules / 8] = (uint8_t)((1u << view->granules % 8) - 1);
    }
}

static int write_chunks(struct container_txn *txn, const struct job_bitmap *bitmap, uint8_t *ones,
                        struct error *error)
{
    uint32_t chunks = bitmap->snapshot ? bitmap_chunks(bitmap->snapshot) : 0;

    for (uint32_t i = 0; i < chunks; i++) {
        struct bitmap_chunk_view view;
        bitmap_chunk(bitmap->snapshot, i, &view);
        if (view.version <= bitmap->committed && !bitmap->rewrite) {
            continue;
        }
        int r;
        if (view.kind == BITMAP_ZEROS) {
            r = container_txn_zero(txn, bitmap->id, i, error);
        } else if (view.kind == BITMAP_ONES) {
            fill_ones(ones, &view);
            r = container_txn_write(txn, bitmap->id, i, ones, view.length_bytes, error);
        } else {
            r = container_txn_write(txn, bitmap->id, i, view.bits, view.length_bytes, error);
        }
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

/* Whether the entry is to get another name or size; most that changed did not change in that. */
static void compare_entry(const struct container *container, struct job_bitmap *bitmap)
{
    struct container_bitmap_info entry;
    uint32_t index;

    bitmap->renamed = bitmap->resized = true;
    if (container_bitmap_find(container, bitmap->id, &index) == 0) {
        container_bitmap_get(container, index, &entry);
        bitmap->renamed = strcmp(entry.name, bitmap->name) != 0;
        bitmap->resized = entry.sectors != bitmap->sectors;
    }
}

static int write_entry(struct container_txn *txn, const struct job_bitmap *bitmap,
                       struct error *error)
{
    if (!bitmap->stored) {
        return container_txn_add(txn, bitmap->id, bitmap->name, bitmap->granularity,
                                 bitmap->sectors, error);
    }
    return bitmap->renamed || bitmap->resized
               ? container_txn_update(txn, bitmap->id, bitmap->name, bitmap->sectors, error)
               : 0;
}

static int job_write(struct writeback_job *job, struct container_txn *txn, struct error *error)
{
    struct container *container = job->container;
    struct container_info info;
    container_get_info(container, &info);
    CLEANUP_FREE uint8_t *ones = malloc(info.cluster_size);
    if (!ones) {
        return error_set(error, -ENOMEM, "out of memory");
    }

    for (uint32_t i = 0; i < job->replaced_count; i++) {
        const struct replaced_entry *entry = &job->replaced[i];
        int r = entry->id ? container_txn_remove(txn, entry->id, error)
                          : container_txn_remove_foreign(txn, entry->index, error);
        if (r < 0) {
            return r;
        }
    }
    for (uint32_t i = 0; i < job->removed_count; i++) {
        uint32_t index;
        if (container_bitmap_find(container, job->removed[i], &index) == 0) {
            int r = container_txn_remove(txn, job->removed[i], error);
            if (r < 0) {
                return r;
            }
        }
    }
    /* Names move in two steps, so that bitmaps may exchange theirs. */
    for (uint32_t i = 0; i < job->count; i++) {
        char aside[32];
        (void)snprintf(aside, sizeof aside, "@%" PRIu64, job->bitmaps[i].id);
        compare_entry(container, &job->bitmaps[i]);
        if (job->bitmaps[i].stored && job->bitmaps[i].renamed) {
            int r = container_txn_update(txn, job->bitmaps[i].id, aside, 0, error);
            if (r < 0) {
                return r;
            }
        }
    }
    progress_begin("Writing back bitmaps", job->count);
    for (uint32_t i = 0; i < job->count; i++) {
        struct job_bitmap *bitmap = &job->bitmaps[i];
        progress_pieces(1);
        int r = write_entry(txn, bitmap, error);
        if (r == 0) {
            r = write_chunks(txn, bitmap, ones, error);
        }
        if (r < 0) {
            return r;
        }
    }
    progress_begin("Committing to the container", 0);
    return container_commit(txn, &job->options, &job->stats, error);
}

static int make_journal(struct writeback_job *job)
{
    struct container_info info;
    struct journal_id container;

    container_get_info(job->container, &info);
    memcpy(container.bytes, info.uuid.bytes, sizeof container.bytes);
    if (job->memory_files.path &&
        journal_create(&job->memory_files, &container, &job->instance,
                       min_u64(job->journal_segment_bytes, MEMORY_SEGMENT_BYTES), &job->memory,
                       &job->journal_error) < 0) {
        /* Nothing depends on it until the journal's headers tell of it. */
        (void)journal_remove(&job->memory_files, NULL);
    }
    job->journal_files.memory = job->memory != NULL;
    return journal_create(&job->journal_files, &container, &job->instance,
                          job->journal_segment_bytes, &job->journal, &job->error);
}

/* The commit is durable and everything is in it: the journal's files have served. */
static void end_journal(struct writeback_job *job)
{
    char suffix[48];

    bool served =
        job->journal_duty == JOB_JOURNAL_REMOVE || job->journal_duty == JOB_JOURNAL_SET_ASIDE;
    if (served && job->memory_files.path) {
        (void)journal_remove(&job->memory_files, NULL); /* or the next one takes their place */
    }
    if (job->journal_duty == JOB_JOURNAL_REMOVE) {
        (void)journal_remove(&job->journal_files, &job->journal_error);
    } else if (job->journal_duty == JOB_JOURNAL_SET_ASIDE) {
        (void)snprintf(suffix, sizeof suffix, "damaged-%lld", (long long)time(NULL));
        (void)journal_set_aside(&job->journal_files, suffix, &job->journal_error);
    }
}

static int commit(struct writeback_job *job)
{
    struct container_txn *txn = NULL;
    int r = container_begin(job->container, &txn, &job->error);

    if (r < 0) {
        return r;
    }
    r = job_write(job, txn, &job->error);
    if (r < 0) {
        container_abort(txn);
    }
    return r;
}

void writeback_job_run(struct work *work)
{
    struct writeback_job *job = (struct writeback_job *)work;

    job->r = job->journal_duty == JOB_JOURNAL_MAKE ? make_journal(job) : 0;
    if (job->r == 0) {
        job->r = commit(job);
    }
    if (job->r == 0) {
        end_journal(job);
    }
    container_get_info(job->container, &job->info);
}

/* ---- Taking a job, on the loop ---- */

void writeback_job_free(struct writeback_job *job)
{
    if (!job) {
        return;
    }
    for (uint32_t i = 0; i < job->count; i++) {
        free(job->bitmaps[i].name);
        bitmap_free(job->bitmaps[i].snapshot);
    }
    free(job->bitmaps);
    free(job->removed);
    free(job->state);
    journal_close(job->journal);
    journal_close(job->memory);
    free(job);
}

static bool has_changed(const struct drive_bitmap *bitmap)
{
    return !bitmap->stored || bitmap->rewrite || bitmap->changed > bitmap->committed ||
           (bitmap->bits && bitmap_version(bitmap->bits) > bitmap->committed);
}

static int job_add(struct writeback_job *job, struct drive_bitmap *bitmap)
{
    char name[BITMAP_FULL_NAME_BYTES];
    drive_bitmap_full_name(bitmap, name);

    struct job_bitmap *entry = &job->bitmaps[job->count];
    *entry = (struct job_bitmap){
        .id = bitmap->id,
        .granularity = bitmap->granularity,
        .sectors = div_round_up(bitmap->drive->size, 512),
        .committed = bitmap->committed,
        .stored = bitmap->stored,
        .rewrite = bitmap->rewrite,
        .name = strdup(name),
    };
    job->count++;
    if (!entry->name) {
        return -ENOMEM;
    }
    return bitmap->bits ? bitmap_snapshot(bitmap->bits, &entry->snapshot) : 0;
}

int writeback_job_new(struct model *model, bool clean, struct writeback_job **ret)
{
    CLEANUP(writeback_job_freep) struct writeback_job *job = calloc(1, sizeof *job);
    if (!job) {
        return -ENOMEM;
    }
    job->sequence = model->sequence;
    job->work.run = writeback_job_run;

    job->bitmaps = calloc((size_t)model->bitmaps_count + 1, sizeof *job->bitmaps);
    if (!job->bitmaps) {
        return -ENOMEM;
    }
    struct drive_bitmap *bitmap;
    RB_FOREACH (bitmap, bitmaps_by_id, &model->bitmaps) {
        if (has_changed(bitmap)) {
            int r = job_add(job, bitmap);
            if (r < 0) {
                return r;
            }
        }
    }
    TAILQ_FOREACH (bitmap, &model->removed, recording_entry) {
        job->removed_count++;
    }
    job->removed = calloc((size_t)job->removed_count + 1, sizeof *job->removed);
    if (!job->removed) {
        return -ENOMEM;
    }
    uint32_t i = 0;
    TAILQ_FOREACH (bitmap, &model->removed, recording_entry) {
        job->removed[i++] = bitmap->id;
    }
    job->journal_files = model->journal_files;
    job->memory_files = model->memory_files;
    job->journal_segment_bytes = model->settings.journal_segment_bytes;
    job->instance = model->instance;
    int r = state_encode(model, &job->state, &job->state_bytes);
    if (r < 0) {
        return r;
    }
    job->options = (struct container_commit_options){
        .state = job->state,
        .state_bytes = job->state_bytes,
        .applied_seq = job->sequence,
        .clean = clean,
        .boot_id = model->boot_id,
    };
    struct uuid *commit_id = &job->options.commit_id;
    if (getrandom(commit_id->bytes, sizeof commit_id->bytes, 0) != sizeof commit_id->bytes) {
        return -EIO;
    }
    *ret = STEAL(job);
    return 0;
}
