/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The promise, held against what a start makes of a crash:
 *
 *   - what is there is what was there at one moment, at which all that was acknowledged had been
 *     done (judge_facts.c); so a transaction is there as a whole or not at all;
 *   - a mark that was acknowledged and not cleared since is dirty, or its
 *     bitmap is unknown;
 *   - the same of every checkpoint's bitmap, from it until the next (judge_history.c);
 *   - a crash alone makes no bitmap of a power-loss drive unknown, and a kill none
 *     at all, but for a writer that goes on without us: that has to;
 *   - an exact bitmap has no bits that nobody asked for;
 *   - the container passes its check with leaks at most.
 *
 * The start itself may be cut short by another crash, and that by a third.
 */
#include "tests/sim/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH_MAX 3u

uint64_t world_states, world_unknown, world_refused;
unsigned world_again;

static const char *const fate_names[SIMDIR_FATES] = {
    [SIMDIR_DROP] = "unsynced lost",
    [SIMDIR_KEEP] = "unsynced kept",
    [SIMDIR_TEAR] = "torn",
    [SIMDIR_MASK] = "torn, enumerated",
    [SIMDIR_DESTROY] = "destroyed",
    [SIMDIR_KILL] = "killed",
    [SIMDIR_EVICT] = "killed, cache evicted",
};

void broken(const struct trial *trial, unsigned d, const char *name, const char *what,
            unsigned spot)
{
    fail_msg("state %llu, %s, depth %u: %s/%s: %s (spot %u); acknowledged %llu durable, %llu "
             "written, of %llu; found %llu to %llu",
             (unsigned long long)world_states, trial->how, trial->depth, drive_names[d], name, what,
             spot, (unsigned long long)trial->world->acked_durable,
             (unsigned long long)trial->world->acked_written,
             (unsigned long long)trial->world->issued, (unsigned long long)trial->prefix.low,
             (unsigned long long)trial->prefix.high);
}

/* ---- Bits ---- */

bool place_dirty(const struct bitmap *bits, unsigned s)
{
    if (s == TAIL) {
        return bitmap_size_bytes(bits) > DRIVE_BYTES &&
               bitmap_test_all(bits, DRIVE_BYTES, bitmap_size_bytes(bits) - DRIVE_BYTES);
    }
    return bitmap_test_all(bits, s * SPOT_STRIDE, 512);
}

bool has_stray_bits(const struct bitmap *bits)
{
    uint64_t size = bitmap_size_bytes(bits), known = 0;

    /* What a coarse bitmap has of a spot is no more than 4096 bytes in a finer one. */
    for (unsigned s = 0; s < SPOTS; s++) {
        known += bitmap_count_range(bits, s * SPOT_STRIDE, 4096);
    }
    if (place_dirty(bits, TAIL)) {
        known += bitmap_count_range(bits, DRIVE_BYTES, size - DRIVE_BYTES);
    }
    return bitmap_count(bits) != known;
}

void judge_place(const struct trial *trial, unsigned d, const char *name,
                 const struct drive_bitmap *bitmap, unsigned s, bool dirty, bool must, bool may)
{
    if (must && !dirty) {
        broken(trial, d, name, "an acknowledged mark is missing", s);
    }
    if (dirty && !may && bitmap->validity == VALIDITY_EXACT && !trial->damaged) {
        broken(trial, d, name, "an exact bitmap is dirty without a mark", s);
    }
}

/* ---- Bitmaps ---- */

void judge_validity(const struct trial *trial, unsigned d, const char *name,
                    const struct drive_bitmap *bitmap, const struct spot *unknown)
{
    bool must, may, must_now = false, may_now = false;

    if (trial->damaged) {
        return;
    }
    spot_look(unknown, &trial->prefix, &must, &may);
    if (d == 0 && bitmap->recording) {
        spot_look(&trial->world->continues, &trial->prefix, &must_now, &may_now);
    }
    /* A failing power, or a sync that failed, does this to process-crash drives: to what records,
     * which the next checkpoint may have sealed since. */
    may |= d == 1 && (trial->world->faults || (trial->outages > 0 && bitmap->recording));
    if (bitmap->validity == VALIDITY_UNKNOWN && !may && !may_now) {
        broken(trial, d, name, bitmap->reason, 0);
    }
    if (bitmap->validity != VALIDITY_UNKNOWN && (must || must_now)) {
        broken(trial, d, name, "it should be unknown", 0);
    }
}

static void judge_gap(const struct trial *trial, unsigned d, const char *name,
                      const struct shadow *shadow, const struct drive_bitmap *bitmap)
{
    bool must = false, may;

    if (d == 0 && !bitmap->recording) {
        spot_look(&trial->world->continues, &trial->prefix, &must, &may);
    }
    must |= shadow->gap && shadow->gap <= trial->prefix.low;
    if (must && !bitmap->gap && !trial->damaged) {
        broken(trial, d, name, "the gap is forgotten", 0);
    }
}

static void judge_bitmap(const struct trial *trial, unsigned d, unsigned b,
                         const struct drive_bitmap *bitmap)
{
    const struct shadow *shadow = &trial->world->shadows[d][b];

    judge_validity(trial, d, bitmap->name, bitmap, &shadow->unknown);
    if (bitmap->validity == VALIDITY_UNKNOWN) {
        world_unknown++;
        return;
    }
    /* Between a failed sync and the verdict, written marks of process-crash drives hang on a cache
     * that need not have them; and so do the gaps that they make. */
    bool marks_promised = d == 0 || !simdir_sync_failed(trial->world->process.dir);
    if (marks_promised) {
        judge_gap(trial, d, bitmap->name, shadow, bitmap);
    }
    for (unsigned s = 0; s < PLACES && marks_promised; s++) {
        bool must, may;
        if (s == TAIL && bitmap->drive->size == DRIVE_BYTES) {
            continue;
        }
        spot_look(&shadow->spots[s], &trial->prefix, &must, &may);
        judge_place(trial, d, bitmap->name, bitmap, s, place_dirty(bitmap->bits, s), must, may);
    }
    if (bitmap->validity == VALIDITY_EXACT && has_stray_bits(bitmap->bits)) {
        broken(trial, d, bitmap->name, "there are stray bits", 0);
    }
}

static void judge_model(struct trial *trial, struct model *model)
{
    judge_facts(trial, model);
    for (unsigned d = 0; d < DRIVES; d++) {
        if (!world_drive(model, d)) {
            continue;
        }
        if (trial->memory_damaged) {
            /* It had nothing that was acknowledged but marks of the other drive. */
            trial->prefix.low = d == 0 ? trial->world->acked_durable : trial->world->acked_written;
        }
        for (unsigned b = 0; b < BITMAPS; b++) {
            const struct drive_bitmap *bitmap = world_bitmap(model, d, b);
            if (bitmap) {
                judge_bitmap(trial, d, b, bitmap);
            }
        }
        judge_history(trial, model, d);
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
        broken(trial, 0, "", r < 0 ? error.text : "the container is corrupt", 0);
    }
}

/* ---- Starts ---- */

static void judge(struct trial *trial, struct simdir *dir);

/* Another crash, in the middle of the start or after it. */
static void crash_again(struct trial *trial)
{
    struct trial next = {
        .world = trial->world,
        .random = simdisk_random(&trial->random),
        .damaged = trial->damaged,
        .memory_damaged = trial->memory_damaged,
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
            broken(trial, 0, "", error.text, 0);
        }
        assert_true(error.text[0] != '\0');
        world_refused++;
    } else {
        if (!trial->damaged && model_degraded_reason(trial->process.model)[0]) {
            broken(trial, 0, "", model_degraded_reason(trial->process.model), 0);
        }
        trial->process.at_call = NULL;
        judge_model(trial, trial->process.model);
        if (!trial->damaged) {
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

void world_judge_damaged(const struct world *world, struct simdir *after, bool memory,
                         uint64_t seed)
{
    struct trial trial = {.world = world,
                          .random = seed,
                          .damaged = true,
                          .memory_damaged = memory,
                          .depth = 1,
                          .how = memory ? "memory damaged" : "damaged"};

    judge(&trial, after);
}
