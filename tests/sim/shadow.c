/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the client knows: of each spot, bitmap and checkpoint what became of it, and when.
 */
#include "tests/sim/internal.h"

#include <stdio.h>
#include <string.h>

void spot_note(struct spot *spot, uint64_t sequence, bool dirty)
{
    if (spot->count == EVENTS_MAX) {
        /* The oldest was acknowledged long ago. */
        memmove(spot->events, spot->events + 1, (EVENTS_MAX - 1) * sizeof spot->events[0]);
        spot->count--;
    }
    spot->events[spot->count++] = (struct spot_event){.sequence = sequence, .dirty = dirty};
}

static void spot_drop(struct spot *spot, unsigned count)
{
    memmove(spot->events, spot->events + count, (spot->count - count) * sizeof spot->events[0]);
    spot->count -= count;
}

void spot_fold(struct spot *spot, uint64_t acked)
{
    unsigned drop = 0;

    while (drop + 1 < spot->count && spot->events[drop + 1].sequence <= acked) {
        drop++;
    }
    spot_drop(spot, drop);
}

bool spot_now(const struct spot *spot)
{
    return spot->count > 0 && spot->events[spot->count - 1].dirty;
}

void spot_look(const struct spot *spot, const struct prefix *prefix, bool *ret_must, bool *ret_may)
{
    *ret_must = *ret_may = false;
    for (unsigned i = 0; i < spot->count && spot->events[i].sequence <= prefix->high; i++) {
        const struct spot_event *event = &spot->events[i];
        if (event->sequence <= prefix->low || (event->acked && prefix->acked)) {
            *ret_must = *ret_may = event->dirty;
        } else {
            *ret_must &= event->dirty;
            *ret_may |= event->dirty;
        }
    }
}

void marks_look(const struct spot *spot, const struct prefix *prefix, uint64_t first, uint64_t end,
                bool *ret_must, bool *ret_may)
{
    *ret_must = *ret_may = false;
    for (unsigned i = 0; i < spot->count && spot->events[i].sequence < end; i++) {
        const struct spot_event *event = &spot->events[i];
        if (event->sequence >= first && event->sequence <= prefix->high) {
            *ret_may = true;
            *ret_must |= event->sequence <= prefix->low || (event->acked && prefix->acked);
        }
    }
}

bool shadow_exists(const struct shadow *shadow)
{
    return shadow->made > shadow->deleted;
}

/* ---- Histories ---- */

struct checkpoint_shadow *history_newest(struct history_shadow *history)
{
    for (unsigned i = history->count; i-- > 0;) {
        if (!history->checkpoints[i].deleted) {
            return &history->checkpoints[i];
        }
    }
    return NULL;
}

struct checkpoint_shadow *history_find(struct history_shadow *history, const uint8_t uuid[16])
{
    for (unsigned i = 0; i < history->count; i++) {
        if (memcmp(history->checkpoints[i].uuid, uuid, 16) == 0) {
            return &history->checkpoints[i];
        }
    }
    return NULL;
}

struct checkpoint_shadow *history_elder(struct history_shadow *history,
                                        const struct checkpoint_shadow *checkpoint)
{
    while (checkpoint-- > history->checkpoints) {
        if (!checkpoint->deleted) {
            return &history->checkpoints[checkpoint - history->checkpoints];
        }
    }
    return NULL;
}

struct checkpoint_shadow *history_add(struct history_shadow *history, const char *name,
                                      const uint8_t uuid[16], uint64_t sequence)
{
    assert_true(history->count < CHECKPOINTS);
    struct checkpoint_shadow *checkpoint = &history->checkpoints[history->count++];
    *checkpoint = (struct checkpoint_shadow){.made = sequence};
    (void)snprintf(checkpoint->name, sizeof checkpoint->name, "%s", name);
    memcpy(checkpoint->uuid, uuid, sizeof checkpoint->uuid);
    return checkpoint;
}

/* Between the two no checkpoint was made, whose bitmap one of them would be in. */
static bool same_stretch(const struct history_shadow *history, uint64_t a, uint64_t b)
{
    for (unsigned i = 0; i < history->count; i++) {
        uint64_t made = history->checkpoints[i].made;
        if (made > a && made <= b) {
            return false;
        }
    }
    return true;
}

static void fold_marks(struct history_shadow *history, struct spot *marks, uint64_t acked)
{
    unsigned kept = 0, old = 0;

    for (unsigned i = 0; i < marks->count; i++) {
        const struct spot_event event = marks->events[i];
        if (kept == 0 || event.sequence > acked ||
            !same_stretch(history, marks->events[kept - 1].sequence, event.sequence)) {
            marks->events[kept++] = event;
        }
    }
    marks->count = kept;
    /* And those from before there was a history. */
    uint64_t eldest = history->count > 0 ? history->checkpoints[0].made : UINT64_MAX;
    while (old < marks->count && marks->events[old].sequence < eldest) {
        old++;
    }
    spot_drop(marks, old);
}

void history_fold(struct history_shadow *history, uint64_t acked)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < history->count; i++) {
        struct checkpoint_shadow *checkpoint = &history->checkpoints[i];
        if (checkpoint->deleted && checkpoint->deleted <= acked) {
            continue;
        }
        spot_fold(&checkpoint->unknown, acked);
        spot_fold(&checkpoint->tail, acked);
        if (kept != i) {
            history->checkpoints[kept] = *checkpoint;
        }
        kept++;
    }
    history->count = kept;
    for (unsigned s = 0; s < SPOTS; s++) {
        fold_marks(history, &history->marks[s], acked);
    }
}

/* ---- What concerns all of a drive's bitmaps ---- */

void note_tail(struct world *world, unsigned d, uint64_t sequence, bool dirty)
{
    struct history_shadow *history = &world->histories[d];

    for (unsigned b = 0; b < BITMAPS; b++) {
        spot_note(&world->shadows[d][b].spots[TAIL], sequence, dirty);
    }
    for (unsigned i = 0; i < history->count; i++) {
        spot_note(&history->checkpoints[i].tail, sequence, dirty);
    }
}

void note_lost_track(struct world *world, unsigned d, uint64_t sequence)
{
    struct checkpoint_shadow *newest = history_newest(&world->histories[d]);

    for (unsigned b = 0; b < BITMAPS; b++) {
        struct shadow *shadow = &world->shadows[d][b];
        if (shadow->disabled) {
            shadow->gap = shadow->gap ? shadow->gap : sequence;
        } else {
            spot_note(&shadow->unknown, sequence, true);
        }
    }
    if (newest) {
        spot_note(&newest->unknown, sequence, true);
    }
}

bool is_carried(const struct world *world, unsigned d, unsigned s)
{
    return d == 0 && (world->unsettled[s] || world->lost[s] || world->haunting[s]);
}
