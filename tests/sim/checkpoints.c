/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Operations on a drive's history, and those that may have to read sealed bitmaps first: these are
 * done again when the bits are there, as the server does it.
 */
#include "tests/sim/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Again, when what was wanting has been read ---- */

#define TRIES_MAX 8u

struct client_fetch {
    struct model_fetch fetch; /* first */
    struct world *world;
    enum fetching_op op;
    unsigned d;
    uint64_t random;
    unsigned tries;
    TAILQ_ENTRY(client_fetch) entry;
};

static int try(struct world *world, enum fetching_op op, unsigned d, uint64_t random,
               struct error *error)
{
    static int (*const ops[FETCHING_OPS])(struct world * world, unsigned d, uint64_t random,
                                          struct error *error) = {
        [OP_CHECKPOINT_DELETE] = do_checkpoint_delete,
        [OP_TRANSACTION] = do_transaction,
        [OP_RESIZE] = do_resize,
    };
    return ops[op](world, d, random, error);
}

static void fetch_end(struct client_fetch *fetch)
{
    model_fetch_release(&fetch->fetch);
    fetch->world->outstanding--;
    TAILQ_REMOVE(&fetch->world->fetches, fetch, entry);
    free(fetch);
}

static void fetch_done(struct model_fetch *base, int r, const struct error *error)
{
    struct client_fetch *fetch = (struct client_fetch *)base;
    struct world *world = fetch->world;
    struct error why;

    if (r < 0) {
        /* It is an error, and that is all: nothing is lost. */
        assert_true(world->faults || simdir_stopped(world->process.dir));
        assert_true(error->text[0] != '\0');
        world_deeds[DEED_FAILED_READ]++;
        fetch_end(fetch);
        return;
    }
    r = try(world, fetch->op, fetch->d, fetch->random, &why);
    if (r == -EAGAIN) {
        /* Others are in want now. */
        assert_true(++fetch->tries < TRIES_MAX);
        assert_int_equal(model_fetch(world->process.model, &fetch->fetch, &why), 0);
        return;
    }
    fetch_end(fetch);
}

void world_do(struct world *world, enum fetching_op op, unsigned d, uint64_t random)
{
    struct error error;

    if (!world_drive(world->process.model, d) || try(world, op, d, random, &error) != -EAGAIN) {
        return;
    }
    struct client_fetch *fetch = calloc(1, sizeof *fetch);
    assert_non_null(fetch);
    *fetch = (struct client_fetch){
        .fetch.done = fetch_done, .world = world, .op = op, .d = d, .random = random};
    world->outstanding++;
    TAILQ_INSERT_TAIL(&world->fetches, fetch, entry);
    assert_int_equal(model_fetch(world->process.model, &fetch->fetch, &error), 0);
    world_deeds[DEED_FETCH]++;
}

void world_cancel_fetches(struct world *world)
{
    struct client_fetch *fetch;

    while ((fetch = TAILQ_FIRST(&world->fetches))) {
        fetch_end(fetch);
    }
}

/* ---- Making one ---- */

void checkpoint_record(struct world *world, unsigned d, uint64_t *random, char name[8],
                       struct record *ret)
{
    struct drive *drive = world_drive(world->process.model, d);

    (void)snprintf(name, 8, "c%u", world->next_name++ % 1000);
    *ret = (struct record){
        .type = RECORD_CHECKPOINT_CREATE,
        .drive = drive->id,
        .name = world_text(name),
        .granularity = simdisk_random(random) % 4 ? 0 : 4096,
        .created_ns = simdisk_random(random),
    };
    for (unsigned i = 0; i < sizeof ret->uuid; i++) {
        ret->uuid[i] = (uint8_t)simdisk_random(random);
    }
}

void note_checkpoint(struct world *world, unsigned d, const char *name, const uint8_t uuid[16],
                     uint64_t sequence)
{
    struct history_shadow *history = &world->histories[d];
    struct checkpoint_shadow *checkpoint = history_add(history, name, uuid, sequence);

    for (unsigned s = 0; s < SPOTS; s++) {
        if (is_carried(world, d, s)) {
            spot_note(&history->marks[s], sequence, true);
        }
    }
    if (d == 0 && world->doubtful) {
        spot_note(&checkpoint->unknown, sequence, true);
    }
    if (d == 0 && world->rebooted && !world->writer) {
        /* A reboot has ended it, and what it had not settled is carried now. */
        world->unaccounted = world->rebooted = world->doubtful = false;
        memset(world->haunting, 0, sizeof world->haunting);
        if (spot_now(&world->continues)) {
            spot_note(&world->continues, sequence, false);
        }
    }
    world_deeds[DEED_CHECKPOINT]++;
}

void world_notice(struct world *world)
{
    if (world->closing || !world->process.model) {
        return;
    }
    for (unsigned d = 0; d < DRIVES; d++) {
        struct history_shadow *history = &world->histories[d];
        struct drive *drive = world_drive(world->process.model, d);
        for (unsigned i = 0; drive && i < history->count; i++) {
            struct checkpoint_shadow *checkpoint = &history->checkpoints[i];
            if (!checkpoint->deleted &&
                !model_checkpoint_by_name(drive, world_text(checkpoint->name), NULL)) {
                assert_null(history_elder(history, checkpoint));
                checkpoint->deleted = model_sequence(world->process.model);
                world_deeds[DEED_PRUNE]++;
            }
        }
    }
    world->issued = model_sequence(world->process.model);
}

void world_checkpoint(struct world *world, unsigned d)
{
    uint64_t random = simdisk_random(&world->process.random);
    struct record record;
    char name[8];

    if (!world_drive(world->process.model, d) || world->histories[d].count >= CHECKPOINTS - 2) {
        return;
    }
    checkpoint_record(world, d, &random, name, &record);
    if (world_commit(world, &record)) {
        note_checkpoint(world, d, name, record.uuid, record.sequence);
        model_enforce_retention(world->process.model);
        world_notice(world);
    }
}

/* ---- Deleting one ---- */

struct drive_bitmap *pick_checkpoint(struct world *world, unsigned d, uint64_t *random)
{
    struct drive *drive = world_drive(world->process.model, d);
    struct drive_bitmap *bitmap = TAILQ_FIRST(&drive->history);
    uint64_t steps =
        drive->checkpoints_count ? simdisk_random(random) % drive->checkpoints_count : 0;

    switch (simdisk_random(random) % 4) {
    case 0:
        return bitmap;
    case 1:
        return TAILQ_LAST(&drive->history, drive_bitmap_list);
    default:
        while (steps-- > 0) {
            bitmap = TAILQ_NEXT(bitmap, in_history);
        }
        return bitmap;
    }
}

void note_checkpoint_deleted(struct world *world, unsigned d, const uint8_t uuid[16],
                             uint64_t sequence)
{
    struct history_shadow *history = &world->histories[d];
    struct checkpoint_shadow *checkpoint = history_find(history, uuid);

    assert_non_null(checkpoint);
    struct checkpoint_shadow *elder = history_elder(history, checkpoint);
    checkpoint->deleted = sequence;
    if (elder && spot_now(&checkpoint->unknown)) {
        spot_note(&elder->unknown, sequence, true);
    }
    world_deeds[DEED_DELETE]++;
}

int do_checkpoint_delete(struct world *world, unsigned d, uint64_t random, struct error *error)
{
    const struct drive_bitmap *victim = pick_checkpoint(world, d, &random);
    uint8_t uuid[16];

    if (!victim) {
        return 0;
    }
    struct record record = {
        .type = RECORD_CHECKPOINT_DELETE, .drive = victim->drive->id, .bitmap = victim->id};
    memcpy(uuid, victim->checkpoint->uuid, sizeof uuid);
    int r = model_commit(world->process.model, &record, error);
    if (r == -EAGAIN) {
        return r;
    }
    if (r < 0) {
        world_refuse(world, "checkpoint-delete", r, error);
        return r;
    }
    world->issued = record.sequence;
    note_checkpoint_deleted(world, d, uuid, record.sequence);
    world_wait(world, record.sequence, ACK_DURABLE);
    return 0;
}

/* ---- Another size ---- */

int do_resize(struct world *world, unsigned d, uint64_t random, struct error *error)
{
    struct drive *drive = world_drive(world->process.model, d);
    bool large = !spot_now(&world->large[d]);

    (void)random;
    if (!large && drive->writers_count > 0) {
        return 0;
    }
    struct record record = {.type = RECORD_DRIVE_RESIZE,
                            .drive = drive->id,
                            .size = DRIVE_BYTES + (large ? TAIL_BYTES : 0)};
    int r = model_commit(world->process.model, &record, error);
    if (r == -EAGAIN) {
        return r;
    }
    if (r < 0) {
        world_refuse(world, "resize", r, error);
        return r;
    }
    world->issued = record.sequence;
    spot_note(&world->large[d], record.sequence, large);
    note_tail(world, d, record.sequence, large);
    world_wait(world, record.sequence, ACK_DURABLE);
    world_deeds[DEED_RESIZE]++;
    return 0;
}
