/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is there and what is not tells of which moment it is.
 *
 * Each fact (a checkpoint is there; a bitmap is not; the drive is large) excludes stretches of
 * sequences.  One has to remain that holds all that was acknowledged, or else something is there
 * without what came before it, or a part of a transaction without the rest.  And what is left of
 * them tells more than the acknowledgements do, so marks are judged by that.
 */
#include "tests/sim/internal.h"

#include <stdio.h>
#include <string.h>

#define STRETCHES_MAX 512u

struct stretch {
    uint64_t first, last; /* it is none of these */
    unsigned d;
    const char *name, *what;
};

struct facts {
    struct stretch stretches[STRETCHES_MAX];
    unsigned count;
};

static void exclude(struct facts *facts, uint64_t first, uint64_t last, unsigned d,
                    const char *name, const char *what)
{
    if (first <= last) {
        assert_true(facts->count < STRETCHES_MAX);
        facts->stretches[facts->count++] = (struct stretch){first, last, d, name, what};
    }
}

static void exclude_existence(struct facts *facts, bool there, uint64_t made, uint64_t deleted,
                              unsigned d, const char *name)
{
    if (there) {
        exclude(facts, 0, made - 1, d, name, "it should not be there yet");
        if (deleted >= made) {
            exclude(facts, deleted, UINT64_MAX, d, name, "it should not be there any more");
        }
    } else if (made > 0 && deleted != made) {
        exclude(facts, made, deleted > made ? deleted - 1 : UINT64_MAX, d, name, "it is gone");
    }
}

/* @spot is true exactly when @now is. */
static void exclude_times(struct facts *facts, const struct spot *spot, bool now, unsigned d,
                          const char *what)
{
    uint64_t first = 0;
    bool was = false;

    for (unsigned i = 0; i <= spot->count; i++) {
        uint64_t next = i < spot->count ? spot->events[i].sequence : UINT64_MAX;
        if (was != now && next > 0) {
            exclude(facts, first, next == UINT64_MAX ? next : next - 1, d, "", what);
        }
        if (i < spot->count) {
            first = next;
            was = spot->events[i].dirty;
        }
    }
}

/* ---- What there is ---- */

static void look_at_checkpoints(const struct trial *trial, struct facts *facts, unsigned d,
                                struct drive *drive)
{
    const struct history_shadow *history = &trial->world->histories[d];
    bool there[CHECKPOINTS] = {false};
    const struct drive_bitmap *bitmap;

    TAILQ_FOREACH (bitmap, &drive->history, in_history) {
        const struct checkpoint_shadow *shadow =
            history_find((struct history_shadow *)(uintptr_t)history, bitmap->checkpoint->uuid);
        if (!shadow) {
            broken(trial, d, bitmap->name, "nobody has made this checkpoint", 0);
            return;
        }
        if (strcmp(shadow->name, bitmap->name) != 0 ||
            shadow->made != bitmap->checkpoint->sequence) {
            broken(trial, d, bitmap->name, "it has another name or sequence", 0);
        }
        there[shadow - history->checkpoints] = true;
    }
    for (unsigned i = 0; i < history->count; i++) {
        const struct checkpoint_shadow *shadow = &history->checkpoints[i];
        exclude_existence(facts, there[i], shadow->made, shadow->deleted, d, shadow->name);
    }
}

static void look_at_drive(const struct trial *trial, struct facts *facts, struct model *model,
                          unsigned d)
{
    static const char *const names[BITMAPS] = {"b0", "b1", "b2"};
    const struct world *world = trial->world;
    struct drive *drive = world_drive(model, d);

    exclude_existence(facts, drive != NULL, world->drive_added[d], 0, d, "");
    if (!drive) {
        return;
    }
    exclude_times(facts, &world->renamed[d], strcmp(drive->name, drive_names[d]) != 0, d,
                  "the drive's name is wrong");
    exclude_times(facts, &world->large[d], drive->size != DRIVE_BYTES, d,
                  "the drive's size is wrong");
    if (d == 0) {
        exclude_times(facts, &world->evidence, drive->evidence != NULL, d,
                      "the evidence of the last writer is wrong");
    }
    for (unsigned b = 0; b < BITMAPS; b++) {
        const struct shadow *shadow = &world->shadows[d][b];
        bool there = world_bitmap(model, d, b) != NULL;
        if (there && !shadow->made) {
            broken(trial, d, names[b], "nobody has made this bitmap", 0);
            return;
        }
        exclude_existence(facts, there, shadow->made, shadow->deleted, d, names[b]);
    }
    look_at_checkpoints(trial, facts, d, drive);
}

static const struct stretch *squeeze(const struct facts *facts, struct prefix *prefix)
{
    const struct stretch *why = NULL;
    bool moved = true;

    while (moved && prefix->low <= prefix->high) {
        moved = false;
        for (unsigned i = 0; i < facts->count && prefix->low <= prefix->high; i++) {
            const struct stretch *stretch = &facts->stretches[i];
            if (prefix->low >= stretch->first && prefix->low <= stretch->last) {
                prefix->low = stretch->last == UINT64_MAX ? UINT64_MAX : stretch->last + 1;
                prefix->high = stretch->last == UINT64_MAX ? 0 : prefix->high;
                why = stretch;
                moved = true;
            } else if (prefix->high >= stretch->first && prefix->high <= stretch->last) {
                prefix->low = stretch->first == 0 ? UINT64_MAX : prefix->low;
                prefix->high = stretch->first == 0 ? 0 : stretch->first - 1;
                why = stretch;
                moved = true;
            }
        }
    }
    return why;
}

void judge_facts(struct trial *trial, struct model *model)
{
    const struct world *world = trial->world;
    /* What was written and not synced when a sync failed may be gone with the cache. */
    bool kept = trial->outages == 0 && !simdir_sync_failed(world->process.dir);
    uint64_t acked = kept && world->acked_written > world->acked_durable ? world->acked_written
                                                                         : world->acked_durable;
    static struct facts facts;

    trial->prefix = (struct prefix){.low = acked, .high = UINT64_MAX - 1};
    if (trial->damaged) {
        return;
    }
    facts.count = 0;
    for (unsigned d = 0; d < DRIVES; d++) {
        look_at_drive(trial, &facts, model, d);
    }
    const struct stretch *why = squeeze(&facts, &trial->prefix);
    if (trial->prefix.low > trial->prefix.high) {
        broken(trial, why->d, why->name, why->what, 0);
    }
}
