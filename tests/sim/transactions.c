/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Transactions: several operations on bitmaps and checkpoints of both drives, which are done
 * together, or fail at the end and are undone together.  What is undone leaves no trace, which is
 * looked at bit by bit.
 */
#include "tests/sim/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PARTS_MAX 6u

enum part_kind {
    PART_CHECKPOINT,
    PART_CHECKPOINT_DELETE,
    PART_CREATE,
    PART_DELETE,
    PART_CLEAR,
    PART_CLEAR_ALL,
    PART_KINDS
};

struct part {
    enum part_kind kind;
    unsigned d, b, first, last;
    bool disabled;
    char name[8];
    uint8_t uuid[16];
};

/* ---- Whether nothing has changed ---- */

static uint64_t mix(uint64_t sum, const void *data, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        sum = (sum ^ ((const uint8_t *)data)[i]) * UINT64_C(1099511628211);
    }
    return sum;
}

static uint64_t sum_bitmap(uint64_t sum, const struct drive_bitmap *bitmap)
{
    const uint64_t numbers[] = {bitmap->id,     bitmap->changed, bitmap->committed,
                                bitmap->stored, bitmap->rewrite, bitmap->bits != NULL};

    sum = mix(sum, numbers, sizeof numbers);
    for (uint32_t i = 0; bitmap->bits && i < bitmap_chunks(bitmap->bits); i++) {
        struct bitmap_chunk_view view;
        bitmap_chunk(bitmap->bits, i, &view);
        sum = mix(sum, &view.version, sizeof view.version);
        sum = mix(sum, &view.dirty, sizeof view.dirty);
        sum = view.bits ? mix(sum, view.bits, view.length_bytes) : sum;
    }
    return sum;
}

/* Of everything that answers and the container depend on. */
static uint64_t sum_up(struct model *model)
{
    const uint64_t numbers[] = {model->sequence,     model->next_id,       model->bits_bytes,
                                model->cache_bytes,  model->unknown_count, model->bitmaps_count,
                                model->drives_count, model->requests_count};
    uint64_t sum = mix(UINT64_C(14695981039346656037), numbers, sizeof numbers);
    struct drive_bitmap *bitmap;
    uint8_t *state;
    size_t bytes;

    assert_int_equal(state_encode(model, &state, &bytes), 0);
    sum = mix(sum, state, bytes);
    free(state);
    RB_FOREACH (bitmap, bitmaps_by_id, &model->bitmaps) {
        sum = sum_bitmap(sum, bitmap);
    }
    TAILQ_FOREACH (bitmap, &model->removed, recording_entry) {
        sum = mix(sum, &bitmap->id, sizeof bitmap->id);
    }
    for (unsigned d = 0; d < DRIVES; d++) {
        const struct drive *drive = world_drive(model, d);
        const uint64_t counts[] = {drive->ungapped, drive->recording_count, drive->bitmaps_count,
                                   drive->checkpoints_count, drive->writers_count};
        sum = mix(sum, counts, sizeof counts);
    }
    return sum;
}

/* ---- Parts ---- */

/* 0: the part cannot be asked for now; 1: @record. */
static bool part_record(struct world *world, struct part *part, uint64_t *random,
                        struct range *range, struct record *record)
{
    struct drive_bitmap *bitmap = world_bitmap(world->process.model, part->d, part->b);

    if (part->kind == PART_CHECKPOINT) {
        if (world->histories[part->d].count >= CHECKPOINTS - PARTS_MAX) {
            return false;
        }
        checkpoint_record(world, part->d, random, part->name, record);
        memcpy(part->uuid, record->uuid, sizeof part->uuid);
        return true;
    }
    if (part->kind == PART_CREATE) {
        if (!bitmap_can_be_made(world, part->d, part->b)) {
            return false;
        }
        bitmap_create_record(world, part->d, part->b, part->disabled, part->name, record);
        return true;
    }
    if (part->kind == PART_CHECKPOINT_DELETE) {
        bitmap = pick_checkpoint(world, part->d, random);
    }
    if (!bitmap) {
        return false;
    }
    *record = (struct record){.drive = bitmap->drive->id, .bitmap = bitmap->id};
    switch (part->kind) {
    case PART_CHECKPOINT_DELETE:
        record->type = RECORD_CHECKPOINT_DELETE;
        memcpy(part->uuid, bitmap->checkpoint->uuid, sizeof part->uuid);
        break;
    case PART_DELETE:
        record->type = RECORD_BITMAP_DELETE;
        break;
    case PART_CLEAR:
        record->type = RECORD_BITMAP_CLEAR;
        *range =
            (struct range){part->first * SPOT_STRIDE, (part->last - part->first + 1) * SPOT_STRIDE};
        record->ranges = range;
        record->ranges_count = 1;
        break;
    default:
        part->first = 1;
        part->last = 0;
        record->type = RECORD_BITMAP_CLEAR_ALL;
        break;
    }
    return true;
}

static void note_part(struct world *world, const struct part *part, uint64_t sequence)
{
    switch (part->kind) {
    case PART_CHECKPOINT:
        note_checkpoint(world, part->d, part->name, part->uuid, sequence);
        break;
    case PART_CHECKPOINT_DELETE:
        note_checkpoint_deleted(world, part->d, part->uuid, sequence);
        break;
    case PART_CREATE:
        note_create(world, part->d, part->b, part->disabled, sequence);
        break;
    case PART_DELETE:
        note_delete(world, part->d, part->b, sequence);
        break;
    default:
        note_clear(world, part->d, part->b, part->first, part->last, sequence);
        break;
    }
}

/* The usual one makes a checkpoint of each drive; the others are of anything. */
static void choose(struct part *part, unsigned i, bool usual, uint64_t *random)
{
    *part = (struct part){
        .kind = usual && i < DRIVES ? PART_CHECKPOINT : simdisk_random(random) % PART_KINDS,
        .d = usual && i < DRIVES ? i : (unsigned)(simdisk_random(random) % DRIVES),
        .b = (unsigned)(simdisk_random(random) % BITMAPS),
        .first = (unsigned)(simdisk_random(random) % SPOTS),
        .disabled = simdisk_random(random) % 4 == 0,
    };
    part->last = part->first + (unsigned)(simdisk_random(random) % (SPOTS - part->first));
}

/* What can be no part of it, or not after the others. */
static void fail_a_part(struct world *world, unsigned d, uint64_t *random)
{
    struct drive *drive = world_drive(world->process.model, d);
    struct error error;
    struct record record = {.type = RECORD_CHECKPOINT_DELETE, .bitmap = UINT64_MAX / 4};

    switch (simdisk_random(random) % 3) {
    case 0:
        record = (struct record){
            .type = RECORD_DRIVE_RENAME, .drive = drive->id, .name = world_text("x")};
        assert_int_equal(model_commit(world->process.model, &record, &error), -EINVAL);
        break;
    case 1:
        record = (struct record){.type = RECORD_BITMAP_CREATE,
                                 .drive = drive->id,
                                 .name = world_text("@"),
                                 .granularity = 512};
        assert_int_equal(model_commit(world->process.model, &record, &error), -EINVAL);
        break;
    default:
        assert_int_equal(model_commit(world->process.model, &record, &error), -ENOENT);
        break;
    }
}

int do_transaction(struct world *world, unsigned d, uint64_t random, struct error *error)
{
    static const struct request_id none;
    struct model *model = world->process.model;
    bool usual = simdisk_random(&random) % 2, undone = simdisk_random(&random) % 3 == 0;
    unsigned n = (usual ? 2u : 1u) + (unsigned)(simdisk_random(&random) % (PARTS_MAX - 2));
    bool made[DRIVES] = {false};
    struct part parts[PARTS_MAX];
    unsigned count = 0;
    uint64_t sequence, before;
    int r = 0;

    if (!world_drive(model, 0) || !world_drive(model, 1)) {
        return 0;
    }
    r = model_transaction_begin(model, error);
    if (r < 0) {
        world_refuse(world, "transaction", r, error);
        return r;
    }
    before = sum_up(model);
    for (unsigned i = 0; r == 0 && i < n; i++) {
        struct part *part = &parts[count];
        struct record record;
        struct range range;
        choose(part, i, usual, &random);
        if ((part->kind == PART_CHECKPOINT && made[part->d]) ||
            !part_record(world, part, &random, &range, &record)) {
            continue;
        }
        made[part->d] |= part->kind == PART_CHECKPOINT;
        r = model_commit(model, &record, error);
        count += r == 0;
    }
    if (r == 0 && undone) {
        fail_a_part(world, d, &random);
    }
    if (r < 0 || undone || count == 0) {
        model_transaction_abort(model);
    } else {
        r = model_transaction_commit(model, &none, NULL, &sequence, error);
    }
    if (r < 0 || undone || count == 0) {
        assert_int_equal(sum_up(model), before);
        world_deeds[DEED_UNDO] += r < 0 || undone;
        if (r < 0 && r != -EAGAIN) {
            world_refuse(world, "transaction", r, error);
        }
        return r;
    }
    world->issued = sequence;
    for (unsigned i = 0; i < count; i++) {
        note_part(world, &parts[i], sequence);
    }
    world_wait(world, sequence, ACK_DURABLE);
    model_enforce_retention(model);
    world_notice(world);
    world_deeds[DEED_TRANSACTION]++;
    return 0;
}
