/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A drive's history after a crash: each checkpoint's bitmap has what was marked from there until
 * the next one that is left, whatever was deleted between.  Then so has every union of them; the
 * model's own way to make one is tried now and then.
 *
 * Bits of sealed bitmaps are read where they are, in the container.
 */
#include "tests/sim/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct bitmap *read_bits(struct process *process, struct drive_bitmap *bitmap, struct error *error)
{
    struct bitmap *bits = NULL;

    if (bitmap->bits) {
        assert_int_equal(bitmap_snapshot(bitmap->bits, &bits), 0);
        return bits;
    }
    world_deeds[DEED_READ]++;
    return sealed_read(writeback_container(process->model->writeback), bitmap->id,
                       bitmap->drive->size, bitmap->granularity,
                       UINT32_C(1) << process->settings.cluster_bits, &bits, error) == 0
               ? bits
               : NULL;
}

static bool has_kept_marks(const struct trial *trial, unsigned d)
{
    return d == 0 || !simdir_sync_failed(trial->world->process.dir);
}

static void judge_bits(const struct trial *trial, unsigned d, const struct drive_bitmap *bitmap,
                       const struct checkpoint_shadow *shadow, const struct bitmap *bits)
{
    const struct history_shadow *history = &trial->world->histories[d];
    const struct drive_bitmap *next = TAILQ_NEXT(bitmap, in_history);
    uint64_t first = bitmap->checkpoint->sequence;
    uint64_t end = next ? next->checkpoint->sequence : UINT64_MAX;

    for (unsigned s = 0; s < PLACES && has_kept_marks(trial, d); s++) {
        bool must, may;
        if (s == TAIL && bitmap->drive->size == DRIVE_BYTES) {
            continue;
        }
        if (s == TAIL) {
            spot_look(&shadow->tail, &trial->prefix, &must, &may);
        } else {
            marks_look(&history->marks[s], &trial->prefix, first, end, &must, &may);
        }
        judge_place(trial, d, bitmap->name, bitmap, s, place_dirty(bits, s), must, may);
    }
    if (bitmap->validity == VALIDITY_EXACT && has_stray_bits(bits)) {
        broken(trial, d, bitmap->name, "there are stray bits", 0);
    }
    if (!trial->damaged && drive_bitmap_dirty_count(bitmap) != bitmap_count(bits)) {
        broken(trial, d, bitmap->name, "its dirty granules are miscounted", 0);
    }
}

static void judge_checkpoint(struct trial *trial, unsigned d, struct drive_bitmap *bitmap)
{
    struct history_shadow *history =
        (struct history_shadow *)(uintptr_t)&trial->world->histories[d];
    const struct checkpoint_shadow *shadow = history_find(history, bitmap->checkpoint->uuid);
    CLEANUP(bitmap_freep) struct bitmap *bits = NULL;
    struct error error;

    if (!shadow) {
        return; /* damage has made it of something */
    }
    judge_validity(trial, d, bitmap->name, bitmap, &shadow->unknown);
    if (bitmap->validity == VALIDITY_UNKNOWN) {
        world_unknown++;
        return;
    }
    bits = read_bits(&trial->process, bitmap, &error);
    if (bits) {
        judge_bits(trial, d, bitmap, shadow, bits);
    } else if (!trial->damaged) {
        broken(trial, d, bitmap->name, error.text, 0);
    }
}

/* ---- Unions ---- */

struct waiting_union {
    struct model_union request; /* first */
    bool done;
    int r;
};

static void union_done(struct model_union *request, int r, const struct error *error)
{
    struct waiting_union *waiting = (struct waiting_union *)request;

    (void)error;
    waiting->done = true;
    waiting->r = r;
}

static void judge_union(struct trial *trial, unsigned d, struct drive_bitmap *since)
{
    struct waiting_union waiting = {.request.done = union_done};
    CLEANUP(bitmap_freep) struct bitmap *expected = NULL;
    struct error error;

    assert_int_equal(model_union(trial->process.model, since, NULL, &waiting.request, &error), 0);
    while (!waiting.done) {
        assert_true(sim_step(trial->process.sim));
    }
    CLEANUP(bitmap_freep) struct bitmap *bits = waiting.r == 0 ? waiting.request.bits : NULL;
    if (waiting.r < 0) {
        broken(trial, d, since->name, "its map cannot be made", 0);
        return;
    }
    assert_int_equal(bitmap_new(since->drive->size, waiting.request.granularity,
                                UINT32_C(1) << trial->process.settings.cluster_bits, &expected),
                     0);
    if (waiting.request.validity == VALIDITY_UNKNOWN) {
        bitmap_set_all(expected, 0);
    }
    for (struct drive_bitmap *part = since; part && waiting.request.validity != VALIDITY_UNKNOWN;
         part = TAILQ_NEXT(part, in_history)) {
        CLEANUP(bitmap_freep) struct bitmap *more = read_bits(&trial->process, part, &error);
        assert_non_null(more);
        assert_int_equal(bitmap_merge(expected, more, 0), 0);
    }
    /* Of equal number, one within the other. */
    uint64_t count = bitmap_count(expected);
    assert_int_equal(bitmap_merge(expected, bits, 0), 0);
    if (bitmap_count(bits) != count || bitmap_count(expected) != count) {
        broken(trial, d, since->name, "its map is not the union of the bitmaps", 0);
    }
}

/* NAME@UUID is it, and with another UUID it is not. */
static void judge_name(const struct trial *trial, unsigned d, struct drive *drive,
                       const struct drive_bitmap *bitmap)
{
    char name[64];
    int used = snprintf(name, sizeof name, "%s@", bitmap->name);

    for (unsigned i = 0; i < 16; i++) {
        used +=
            snprintf(name + used, sizeof name - (size_t)used, "%s%02" PRIx8,
                     i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", bitmap->checkpoint->uuid[i]);
    }
    if (model_checkpoint_by_name(drive, world_text(name), NULL) != bitmap) {
        broken(trial, d, name, "it is not found by its UUID", 0);
    }
    name[used - 1] = name[used - 1] == '0' ? '1' : '0';
    if (model_checkpoint_by_name(drive, world_text(name), NULL)) {
        broken(trial, d, name, "it is found by another UUID", 0);
    }
}

void judge_history(struct trial *trial, struct model *model, unsigned d)
{
    struct drive *drive = world_drive(model, d);
    uint64_t random = simdisk_random(&trial->random);
    struct drive_bitmap *bitmap;

    TAILQ_FOREACH (bitmap, &drive->history, in_history) {
        const struct drive_bitmap *next = TAILQ_NEXT(bitmap, in_history);
        if (bitmap->recording != !next ||
            (next && next->checkpoint->sequence <= bitmap->checkpoint->sequence)) {
            broken(trial, d, bitmap->name, "the history is out of order", 0);
        }
        judge_checkpoint(trial, d, bitmap);
        if (!trial->damaged && random % 16 == 0) {
            judge_name(trial, d, drive, bitmap);
            judge_union(trial, d, bitmap);
        }
        random /= 2;
    }
}
