/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Operations on bitmaps of the user's, and marks.
 */
#include "tests/sim/internal.h"

#include <stdio.h>
#include <string.h>

/* ---- What they did ---- */

void note_create(struct world *world, unsigned d, unsigned b, bool disabled, uint64_t sequence)
{
    struct shadow *shadow = &world->shadows[d][b];

    *shadow = (struct shadow){.made = sequence, .disabled = disabled};
    if (disabled && d == 0 && (world->unaccounted || world->doubtful)) {
        shadow->gap = sequence; /* instead of what is not known */
    }
    if (!disabled && d == 0 && world->doubtful) {
        spot_note(&shadow->unknown, sequence, true);
    }
    for (unsigned s = 0; s < SPOTS && !(disabled && d == 0 && world->unaccounted); s++) {
        if (is_carried(world, d, s)) {
            spot_note(&shadow->spots[s], sequence, true);
        }
    }
}

void note_delete(struct world *world, unsigned d, unsigned b, uint64_t sequence)
{
    world->shadows[d][b].deleted = sequence;
}

void note_clear(struct world *world, unsigned d, unsigned b, unsigned first, unsigned last,
                uint64_t sequence)
{
    struct shadow *shadow = &world->shadows[d][b];
    bool all = last < first;
    bool unaccounted = d == 0 && world->unaccounted, doubtful = d == 0 && world->doubtful;

    /* What has a gap, or gets one instead, keeps nothing for writers; a recorder whose writer is
     * unaccounted keeps everything. */
    bool dropped = shadow->disabled && (unaccounted || (shadow->gap && !all));
    bool gap = dropped || (shadow->disabled && doubtful);
    if (all || (gap && !shadow->gap)) {
        shadow->gap = gap ? sequence : 0;
    }
    if (!shadow->disabled && (all || doubtful)) {
        spot_note(&shadow->unknown, sequence, doubtful);
    }
    for (unsigned s = all ? 0 : first; s <= (all ? SPOTS - 1 : last); s++) {
        bool kept = unaccounted || is_carried(world, d, s);
        if (dropped || !kept) {
            spot_note(&shadow->spots[s], sequence, false);
        } else if (!unaccounted) {
            spot_note(&shadow->spots[s], sequence, true);
        }
    }
    if (all && (dropped || !unaccounted)) {
        spot_note(&shadow->spots[TAIL], sequence, false);
    }
}

/* The newest checkpoint's bitmap records too. */
static void note_history_mark(struct world *world, unsigned d, unsigned s, bool made_record,
                              bool kept)
{
    struct history_shadow *history = &world->histories[d];
    const struct checkpoint_shadow *newest = history_newest(history);
    struct spot *marks = &history->marks[s];

    if (!newest) {
        return;
    }
    if (made_record) {
        spot_note(marks, model_sequence(world->process.model), true);
    } else if (marks->count == 0 || marks->events[marks->count - 1].sequence < newest->made) {
        /* It is dirty with what was carried whole: from the beginning, or since one that was
         * carried so was folded in.  Now, at least. */
        spot_note(marks, model_sequence(world->process.model), true);
    }
    if (kept) {
        marks->events[marks->count - 1].acked = true;
    }
}

static void note_mark(struct world *world, unsigned d, const unsigned *spots, unsigned n,
                      uint64_t before, uint64_t sequence)
{
    bool made_record = model_sequence(world->process.model) != before;
    bool kept = !made_record && sequence == 0;

    for (unsigned b = 0; b < BITMAPS; b++) {
        struct shadow *shadow = &world->shadows[d][b];
        if (!shadow_exists(shadow)) {
            continue;
        }
        if (shadow->disabled) {
            shadow->gap = shadow->gap ? shadow->gap : model_sequence(world->process.model);
            continue;
        }
        for (unsigned i = 0; i < n; i++) {
            struct spot *spot = &shadow->spots[spots[i]];
            if (made_record) {
                spot_note(spot, model_sequence(world->process.model), true);
            } else if (kept && spot->count > 0) {
                spot->events[spot->count - 1].acked = true;
            }
        }
    }
    for (unsigned i = 0; i < n; i++) {
        note_history_mark(world, d, spots[i], made_record, kept);
    }
    if (d == 0 && made_record && spot_now(&world->evidence)) {
        spot_note(&world->evidence, model_sequence(world->process.model), false);
    }
}

/* ---- Operations ---- */

bool bitmap_can_be_made(const struct world *world, unsigned d, unsigned b)
{
    const struct shadow *shadow = &world->shadows[d][b];

    /* An older bitmap of the name has to be gone for good, or two would have to be told apart. */
    return world_drive(world->process.model, d) && !world_bitmap(world->process.model, d, b) &&
           !shadow_exists(shadow) && shadow->deleted <= world->acked_durable;
}

void bitmap_create_record(struct world *world, unsigned d, unsigned b, bool disabled, char name[8],
                          struct record *ret)
{
    (void)snprintf(name, 8, "b%u", b);
    *ret = (struct record){
        .type = RECORD_BITMAP_CREATE,
        .drive = world_drive(world->process.model, d)->id,
        .name = world_text(name),
        .granularity = b == 1 ? 4096 : 512,
        .disabled = disabled,
    };
}

void world_create_bitmap(struct world *world, unsigned d, unsigned b, bool disabled)
{
    struct record record;
    char name[8];

    if (bitmap_can_be_made(world, d, b)) {
        bitmap_create_record(world, d, b, disabled, name, &record);
        if (world_commit(world, &record)) {
            note_create(world, d, b, disabled, record.sequence);
        }
    }
}

static bool change_bitmap(struct world *world, unsigned d, unsigned b, struct record record)
{
    const struct drive_bitmap *bitmap = world_bitmap(world->process.model, d, b);

    if (!shadow_exists(&world->shadows[d][b])) {
        return false;
    }
    assert_non_null(bitmap);
    record.drive = bitmap->drive->id;
    record.bitmap = bitmap->id;
    return world_commit(world, &record);
}

void world_delete_bitmap(struct world *world, unsigned d, unsigned b)
{
    if (change_bitmap(world, d, b, (struct record){.type = RECORD_BITMAP_DELETE})) {
        note_delete(world, d, b, world->issued);
    }
}

void world_clear(struct world *world, unsigned d, unsigned b, unsigned first, unsigned last)
{
    struct range range = {first * SPOT_STRIDE, (last - first + 1) * SPOT_STRIDE};
    bool all = last < first;
    struct record record = {
        .type = all ? RECORD_BITMAP_CLEAR_ALL : RECORD_BITMAP_CLEAR,
        .ranges = &range,
        .ranges_count = !all,
    };

    if (change_bitmap(world, d, b, record)) {
        note_clear(world, d, b, first, last, world->issued);
    }
}

void world_mark_some(struct world *world, unsigned d, bool by_writer)
{
    struct model *model = world->process.model;
    struct drive *drive = world_drive(model, d);
    unsigned spots[4], n = 1 + (unsigned)world_below(world, 4);
    struct range ranges[4];
    uint64_t before = model_sequence(model), sequence;
    struct error error;
    int r;

    if (!drive) {
        return;
    }
    for (unsigned i = 0; i < n; i++) {
        spots[i] = (unsigned)world_below(world, SPOTS);
        ranges[i] = (struct range){spots[i] * SPOT_STRIDE + world_below(world, 512), 1};
    }
    if (by_writer) {
        r = writer_mark(model, world->writer, world->next_mark_id, ranges, n, &sequence, &error);
    } else {
        r = drive_mark(model, drive, ranges, n, &sequence, &error);
    }
    if (r < 0) {
        world_refuse(world, "mark", r, &error);
        return;
    }
    world->issued = model_sequence(model);
    note_mark(world, d, spots, n, before, sequence);
    for (unsigned i = 0; by_writer && i < n; i++) {
        world->unsettled[spots[i]] = true;
        world->mark_ids[spots[i]] = world->next_mark_id++;
        world->mark_sequences[spots[i]] = world->issued;
    }
    if (sequence != 0) {
        world_wait_for(world, sequence, drive_ack_level(drive), d == 0 ? ACK_DURABLE : ACK_WRITTEN);
    }
}

void world_mark(struct world *world, unsigned d)
{
    world_mark_some(world, d, false);
}

enum validity world_validity(struct world *world, unsigned d)
{
    return world_bitmap(world->process.model, d, 0)->validity;
}
