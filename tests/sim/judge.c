/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The promise, held against what a start makes of a crash:
 *
 *   - a mark that was acknowledged and not cleared since is dirty, or its
 *     bitmap is unknown;
 *   - a crash alone makes no bitmap of a power-loss drive unknown, and a kill none
 *     at all;
 *   - an exact bitmap has no bits that nobody asked for;
 *   - what was made and acknowledged is there, what was removed is not;
 *   - the container passes its check with leaks at most.
 *
 * The start itself may be cut short by another crash, and that by a third.
 */
#include "tests/sim/internal.h"

#include "daemon/container/container.h"
#include "daemon/drive/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH_MAX 3u

uint64_t world_states, world_unknown, world_refused;
unsigned world_again;

/* A start that is being judged. */
struct trial {
    const struct world *world;
    struct process process;
    uint64_t random;
    uint8_t outages; /* of power, since the workload */
    bool evicted;    /* caches were let go of after a failed sync */
    bool damaged;
    unsigned depth;
    const char *how; /* the last crash */
};

static const char *const fate_names[SIMDIR_FATES] = {
    [SIMDIR_DROP] = "unsynced lost",
    [SIMDIR_KEEP] = "unsynced kept",
    [SIMDIR_TEAR] = "torn",
    [SIMDIR_MASK] = "torn, enumerated",
    [SIMDIR_DESTROY] = "destroyed",
    [SIMDIR_KILL] = "killed",
    [SIMDIR_EVICT] = "killed, cache evicted",
};

static void broken(const struct trial *trial, unsigned d, unsigned b, const char *what,
                   unsigned spot)
{
    fail_msg("state %llu, %s, depth %u: %s/b%u: %s (spot %u); acknowledged %llu durable, %llu "
             "written, of %llu",
             (unsigned long long)world_states, trial->how, trial->depth, drive_names[d], b, what,
             spot, (unsigned long long)trial->world->acked_durable,
             (unsigned long long)trial->world->acked_written,
             (unsigned long long)trial->world->issued);
}

/* Up to which sequence everything has to be there. */
static uint64_t promised(const struct trial *trial)
{
    const struct world *world = trial->world;

    return trial->outages == 0 && world->acked_written > world->acked_durable
               ? world->acked_written
               : world->acked_durable;
}

static void judge_spot(const struct trial *trial, const struct spot *spot, unsigned d,
                       const struct drive_bitmap *bitmap, unsigned b, unsigned s, bool dirty)
{
    uint64_t upto = promised(trial);
    bool must = false, may = false;

    for (unsigned i = 0; i < spot->count; i++) {
        const struct spot_event *event = &spot->events[i];
        bool acked = event->acked && (d == 0 || trial->outages == 0);
        if (event->sequence <= upto || acked) {
            must = may = event->dirty;
        } else {
            must &= event->dirty;
            may |= event->dirty;
        }
    }
    if (must && !dirty) {
        broken(trial, d, b, "an acknowledged mark is missing", s);
    }
    if (dirty && !may && bitmap->validity == VALIDITY_EXACT && !trial->damaged) {
        broken(trial, d, b, "an exact bitmap is dirty without a mark", s);
    }
}

static void judge_bitmap(const struct trial *trial, unsigned d, unsigned b,
                         const struct drive_bitmap *bitmap)
{
    const struct shadow *shadow = &trial->world->shadows[d][b];
    uint64_t dirty_granules = 0;

    if (bitmap->validity == VALIDITY_UNKNOWN) {
        world_unknown++;
        /* A crash alone does this to process-crash drives only, and only with the power. */
        bool right = trial->damaged || (d == 1 && (trial->outages > 0 || trial->world->faults));
        if (!right) {
            broken(trial, d, b, bitmap->reason, 0);
        }
        return;
    }
    /* Between a failed sync and the verdict, written marks of process-crash drives hang on a cache
     * that need not have them; and so do the gaps that they make. */
    bool marks_promised = d == 0 || !simdir_sync_failed(trial->world->process.dir);
    if (marks_promised && shadow->gap && shadow->gap <= promised(trial) && !bitmap->gap &&
        !trial->damaged) {
        broken(trial, d, b, "the gap is forgotten", 0);
    }
    for (unsigned s = 0; s < SPOTS; s++) {
        bool dirty = bitmap_test_all(bitmap->bits, s * SPOT_STRIDE, 512);
        if (marks_promised) {
            judge_spot(trial, &shadow->spots[s], d, bitmap, b, s, dirty);
        }
        dirty_granules += dirty;
    }
    if (bitmap->validity == VALIDITY_EXACT && bitmap_count(bitmap->bits) != dirty_granules) {
        broken(trial, d, b, "there are stray bits", 0);
    }
}

static void judge_model(const struct trial *trial, struct model *model)
{
    uint64_t upto = promised(trial);

    for (unsigned d = 0; d < DRIVES; d++) {
        uint64_t added = trial->world->drive_added[d];
        if (!world_drive(model, d)) {
            if (added && added <= upto && !trial->damaged) {
                broken(trial, d, 0, "the drive is gone", 0);
            }
            continue;
        }
        for (unsigned b = 0; b < BITMAPS; b++) {
            const struct shadow *shadow = &trial->world->shadows[d][b];
            const struct drive_bitmap *bitmap = world_bitmap(model, d, b);
            if (bitmap) {
                if (!trial->damaged && (!shadow->made || (shadow->deleted > shadow->made &&
                                                          shadow->deleted <= upto))) {
                    broken(trial, d, b, "it should not be there", 0);
                }
                judge_bitmap(trial, d, b, bitmap);
            } else if (shadow_exists(shadow) && shadow->made <= upto && !trial->damaged) {
                broken(trial, d, b, "the bitmap is gone", 0);
            }
        }
    }
}

static void show(void *opaque, bool corruption, const char *text)
{
    (void)opaque;
    if (corruption) {
        printf("check: %s\n", text);
    }
}

static void check_container(const struct trial *trial, struct simdir *dir)
{
    struct container_check_report report;
    struct error error;
    struct file *file;

    if (simdir_open(dir, "c/c", false, &file) < 0) {
        return;
    }
    int r = container_check(file, show, NULL, &report, &error);
    file_close(file);
    if (r < 0 || report.corruptions > 0) {
        broken(trial, 0, 0, r < 0 ? error.text : "the container is corrupt", 0);
    }
}

static void judge(struct trial *trial, struct simdir *dir);

/* Another crash, in the middle of the start or after it. */
static void crash_again(struct trial *trial)
{
    struct trial next = {
        .world = trial->world,
        .random = simdisk_random(&trial->random),
        .damaged = trial->damaged,
        .depth = trial->depth + 1,
    };
    enum simdir_fate fate = simdisk_random(&trial->random) % SIMDIR_FATES;

    if (fate == SIMDIR_DESTROY && trial->world->process.settings.cluster_bits < 12) {
        fate = SIMDIR_TEAR;
    }
    next.outages = (uint8_t)(trial->outages + !simdir_fate_is_kill(fate));
    next.how = fate_names[fate];
    judge(&next, simdir_crash(trial->process.dir, fate, next.random));
}

static void at_call(struct process *process)
{
    struct trial *trial = (struct trial *)((char *)process - offsetof(struct trial, process));

    if (world_again && trial->depth < DEPTH_MAX &&
        simdisk_random(&trial->random) % world_again == 0) {
        crash_again(trial);
    }
}

static void judge(struct trial *trial, struct simdir *dir)
{
    struct error error = {""};

    world_states++;
    process_init(&trial->process, dir, trial->world->process.settings.cluster_bits, trial->random);
    memcpy(trial->process.settings.boot_id, trial->world->process.settings.boot_id, 16);
    trial->process.settings.boot_id[1] = trial->outages;
    trial->process.at_call = at_call;
    int r = process_start(&trial->process, &error);
    if (r < 0) {
        if (!trial->damaged) {
            broken(trial, 0, 0, error.text, 0);
        }
        assert_true(error.text[0] != '\0');
        world_refused++;
    } else {
        if (!trial->damaged && model_degraded_reason(trial->process.model)[0]) {
            broken(trial, 0, 0, model_degraded_reason(trial->process.model), 0);
        }
        judge_model(trial, trial->process.model);
        if (!trial->damaged) {
            trial->process.at_call = NULL;
            check_container(trial, dir);
        }
        /* What the start has found out is as good as acknowledged. */
        if (trial->depth < DEPTH_MAX && simdisk_random(&trial->random) % 8 == 0) {
            crash_again(trial);
        }
    }
    process_kill(&trial->process);
}

void world_judge(const struct world *world, struct simdir *after, enum simdir_fate fate,
                 uint64_t seed)
{
    struct trial trial = {
        .world = world,
        .random = seed,
        .outages = !simdir_fate_is_kill(fate),
        .depth = 1,
        .how = fate_names[fate],
    };
    judge(&trial, after);
}

void world_judge_damaged(const struct world *world, struct simdir *after, uint64_t seed)
{
    struct trial trial = {
        .world = world, .random = seed, .damaged = true, .depth = 1, .how = "damaged"};

    judge(&trial, after);
}

/* ---- Going on ---- */

/* What is there is what the client goes on from. */
static void adopt(struct world *world)
{
    uint64_t sequence = model_sequence(world->process.model);

    for (unsigned d = 0; d < DRIVES; d++) {
        world->drive_added[d] = world_drive(world->process.model, d) ? sequence : 0;
        for (unsigned b = 0; b < BITMAPS; b++) {
            const struct drive_bitmap *bitmap = world_bitmap(world->process.model, d, b);
            struct shadow *shadow = &world->shadows[d][b];
            *shadow = (struct shadow){0};
            if (!bitmap) {
                continue;
            }
            shadow->made = sequence;
            shadow->disabled = !bitmap->recording;
            shadow->gap = bitmap->gap ? sequence : 0;
            for (unsigned s = 0; s < SPOTS; s++) {
                spot_note(&shadow->spots[s], sequence,
                          bitmap_test_all(bitmap->bits, s * SPOT_STRIDE, 512));
            }
        }
    }
    world->acked_written = world->acked_durable = world->issued = sequence;
    world->writer = NULL;
    memset(world->unsettled, 0, sizeof world->unsettled);
    memset(world->lost, 0, sizeof world->lost);
    const struct drive *drive = world_drive(world->process.model, 0);
    world->unaccounted = drive && drive_has_unaccounted(drive);
}

void world_adopt(struct world *world, const struct process *process)
{
    memset(world, 0, sizeof *world);
    TAILQ_INIT(&world->ops);
    world->process = *process;
    simdir_watch(process->dir, process_at_call, &world->process);
    adopt(world);
}

void world_crash(struct world *world, enum simdir_fate fate, uint64_t seed)
{
    struct simdir *after = simdir_crash(world->process.dir, fate, seed);
    struct simdir *copy = simdir_crash(after, SIMDIR_KILL, seed);
    void (*hook)(struct process * process) = world->process.at_call;
    struct error error;

    world_judge(world, copy, fate, seed);
    uint8_t boot = (uint8_t)(world->process.settings.boot_id[2] + !simdir_fate_is_kill(fate));
    uint32_t cluster_bits = world->process.settings.cluster_bits;
    world_kill(world);
    process_init(&world->process, after, cluster_bits, seed);
    world->process.settings.boot_id[2] = boot;
    if (process_start(&world->process, &error) < 0) {
        fail_msg("start: %s", error.text);
    }
    adopt(world);
    for (unsigned d = 0; d < DRIVES; d++) {
        for (unsigned b = 0; b < BITMAPS; b++) {
            struct drive_bitmap *bitmap = world_bitmap(world->process.model, d, b);
            if (bitmap && bitmap->validity == VALIDITY_UNKNOWN) {
                struct record record = {.type = RECORD_BITMAP_CLEAR_ALL,
                                        .drive = bitmap->drive->id,
                                        .bitmap = bitmap->id};
                assert_int_equal(model_commit(world->process.model, &record, &error), 0);
                world_wait(world, record.sequence, ACK_DURABLE);
            }
        }
    }
    world_settle(world);
    adopt(world);
    world->process.at_call = hook;
}
