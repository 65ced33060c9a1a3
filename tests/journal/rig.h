/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_TESTS_JOURNAL_RIG_H
#define BITMAPD_TESTS_JOURNAL_RIG_H

#include "tests/journal/support.h"

/*
 * A daemon in small: it appends, syncs and covers at random, repeats what
 * failed, and notes what the journal promised it; the container is two numbers
 * that are always durable.  After a crash it says whether the promises hold.
 */
struct rig {
    struct simdir *dir;
    struct journal *journal; /* NULL: not running */
    uint64_t random;

    /* The container. */
    uint64_t named; /* number of the instance; 0: none yet */
    uint64_t applied;

    uint64_t number;   /* of the running journal's instance */
    uint64_t next;     /* the sequence for the next batch: all below it are in memory */
    uint32_t again;    /* records of the batch that has to be repeated; 0: none */
    uint64_t written;  /* promised */
    uint64_t durable;  /* promised */
    uint64_t failures; /* calls that failed, -EAGAIN apart */
    uint64_t wraps;    /* segments that were taken */
    bool patient;      /* covers only what it has to */
};

void rig_init(struct rig *rig, uint64_t seed);
void rig_deinit(struct rig *rig);

/*
 * A start: replay, judge, create, commit, activate.  0, or what failed; the rig may be started
 * again then.  Fails the test where a promise is broken or damage reported.
 */
int rig_start(struct rig *rig);
/* @steps random things; ends early when the power fails.  Failures are repeated in later steps. */
void rig_run(struct rig *rig, unsigned steps);
/* The process is gone, and with @fate the power; the rig goes on with what is left. */
void rig_crash(struct rig *rig, enum simdir_fate fate, uint64_t seed);
/* The same for a copy, which is judged by a replay and then forgotten. */
void rig_judge_crash(struct rig *rig, enum simdir_fate fate, uint64_t seed);

#endif
