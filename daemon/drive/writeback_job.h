/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_DRIVE_WRITEBACK_JOB_H
#define BITMAPD_DAEMON_DRIVE_WRITEBACK_JOB_H

#include "daemon/drive/internal.h"

struct job_bitmap {
    uint64_t id;
    char *name;
    uint32_t granularity;
    uint64_t sectors;
    uint64_t committed;
    bool stored;
    bool rewrite;
    bool renamed, resized;   /* against what is stored; told on the container's thread */
    struct bitmap *snapshot; /* NULL: sealed, and no bit has changed */
};

/* What a job does about the journal's files, beside the commit. */
enum job_journal {
    JOB_JOURNAL_KEEP,
    JOB_JOURNAL_MAKE,      /* before the commit, which names its instance */
    JOB_JOURNAL_REMOVE,    /* after the commit, which needs none */
    JOB_JOURNAL_SET_ASIDE, /* likewise, but whoever wants to know can look at them */
};

struct writeback_job {
    struct work work;
    struct writeback *writeback; /* these are set by whoever submits it */
    struct container *container;
    uint64_t sequence;
    struct job_bitmap *bitmaps;
    uint32_t count;
    uint64_t *removed;
    uint32_t removed_count;
    const struct replaced_entry *replaced; /* borrowed */
    uint32_t replaced_count;
    uint8_t *state;
    size_t state_bytes;
    struct container_commit_options options;
    enum job_journal journal_duty;
    struct journal_files journal_files, memory_files;
    struct journal_id instance; /* that the commit names */
    uint64_t journal_segment_bytes;
    /* Made; owned until somebody takes it.  @memory is NULL where there is none. */
    struct journal *journal, *memory;
    int r;
    struct error error;
    struct error journal_error; /* files that could not be removed or set aside; "" */
    struct container_commit_stats stats;
    struct container_info info;
};

/*
 * Takes everything that the container does not have yet: snapshots of changed
 * bitmaps, ids of removed ones, the encoded state.  -ENOMEM.
 */
int writeback_job_new(struct model *model, bool clean, struct writeback_job **ret);
void writeback_job_free(struct writeback_job *job); /* takes NULL; loop's thread */
DEFINE_CLEANUP(struct writeback_job *, writeback_job_free)

/* work.run: commits the job; the outcome is in it.  Any one thread; blocks. */
void writeback_job_run(struct work *work);

#endif
