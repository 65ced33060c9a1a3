/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The writer of drive 0: it attaches, is lost, comes back, or goes for good.
 *
 * Now and then it is one that goes on without us: to lose it is to lose track of the drive, and so
 * it is when the daemon dies while it is attached.
 */
#include "tests/sim/internal.h"

#include <string.h>

void world_settle_spot(struct world *world, unsigned s)
{
    struct error error;

    /* A spot that was marked again has another id; the older one is settled with it. */
    if (world->writer && world->unsettled[s]) {
        uint64_t last = world->mark_ids[s];
        assert_int_equal(writer_settle(world->writer, 1, last, &error), 0);
        for (unsigned i = 0; i < SPOTS; i++) {
            if (world->mark_ids[i] <= last) {
                world->unsettled[i] = false;
            }
        }
    }
}

static void note_continues(struct world *world, uint64_t sequence, bool continues)
{
    if (spot_now(&world->continues) != continues) {
        spot_note(&world->continues, sequence, continues);
    }
}

static void resume(struct world *world)
{
    uint64_t sequence;
    struct error error;
    int r = writer_resume(world->process.model, world->writer, NULL, &sequence, &error);

    if (r < 0) {
        world_refuse(world, "resume", r, &error);
        return;
    }
    /* Nothing was marked again: nothing was unsettled, says the client. */
    world->issued = sequence;
    world->unaccounted = world->doubtful = false;
    note_continues(world, sequence, world->will_continue);
    memset(world->lost, 0, sizeof world->lost);
    memset(world->haunting, 0, sizeof world->haunting);
}

static void lose(struct world *world)
{
    /* The record may be refused, by a disk that fails; whoever starts comes to the same. */
    writer_lost(world->process.model, world->writer);
    world->writer = NULL;
    world->issued = model_sequence(world->process.model);
    for (unsigned s = 0; s < SPOTS; s++) {
        world->lost[s] |= world->unsettled[s];
    }
    memset(world->unsettled, 0, sizeof world->unsettled);
    if (spot_now(&world->continues)) {
        world->doubtful = true;
        note_lost_track(world, 0, world->issued);
    }
}

static void attach(struct world *world, bool continues)
{
    struct drive *drive = world_drive(world->process.model, 0);
    struct writer_attachment how = {
        .token = world_text("w"),
        .continues = continues,
        .returning = world_below(world, 2),
    };
    uint64_t sequence;
    struct error error;
    bool resuming;

    if (!drive) {
        return;
    }
    int r = writer_attach(world->process.model, drive, &how, &world->writer, &sequence, &resuming,
                          &error);
    if (r < 0) {
        world_refuse(world, "attach", r, &error);
        world->writer = NULL;
        return;
    }
    world->issued = sequence;
    world->next_mark_id = 1;
    world->rebooted = false;
    world->attached = sequence;
    world->will_continue = how.continues;
    world_deeds[DEED_CONTINUE] += how.continues;
    note_continues(world, sequence, how.continues || world->doubtful);
    if (spot_now(&world->evidence)) {
        spot_note(&world->evidence, sequence, false);
    }
    world_wait(world, sequence, ACK_DURABLE);
}

void world_go_on(struct world *world)
{
    attach(world, true);
}

void world_connect(struct world *world)
{
    if (!world->writer) {
        attach(world, world->may_continue && world_below(world, 2));
    } else if (world->unaccounted || world->doubtful || world_below(world, 2)) {
        resume(world);
    } else {
        lose(world);
    }
}

void world_come_back(struct world *world)
{
    if (!world->writer) {
        attach(world, false);
    }
    if (world->writer) {
        resume(world);
    }
}

static bool any(const bool spots[SPOTS])
{
    return memchr(spots, true, SPOTS) != NULL;
}

/* Nobody has anything unsettled any more. */
static void forget(struct world *world, uint64_t sequence)
{
    world->issued = sequence;
    world->writer = NULL;
    world->unaccounted = world->rebooted = world->doubtful = false;
    memset(world->unsettled, 0, sizeof world->unsettled);
    memset(world->lost, 0, sizeof world->lost);
    memset(world->haunting, 0, sizeof world->haunting);
    note_continues(world, sequence, false);
}

void world_detach(struct world *world)
{
    bool evidence = world_below(world, 2);
    uint64_t sequence;
    struct error error;

    if (!world->writer) {
        return;
    }
    for (unsigned s = 0; s < SPOTS; s++) {
        world_settle_spot(world, s);
    }
    int r = writer_detach(world->process.model, world->writer, NULL,
                          world_text(evidence ? "file:1:2" : ""), &sequence, &error);
    if (r == -EBUSY) {
        assert_true(world->unaccounted || any(world->lost));
        return;
    }
    if (r < 0) {
        world_refuse(world, "detach", r, &error);
        return;
    }
    forget(world, sequence);
    if (evidence) {
        spot_note(&world->evidence, sequence, true);
        world_deeds[DEED_EVIDENCE]++;
    }
    world_wait(world, sequence, ACK_DURABLE);
}

void world_fence(struct world *world)
{
    struct drive *drive = world_drive(world->process.model, 0);

    if (drive && !world->writer && drive->writers_count > 0) {
        struct record record = {.type = RECORD_FENCE, .drive = drive->id};
        if (world_commit(world, &record)) {
            if (spot_now(&world->continues)) {
                note_lost_track(world, 0, record.sequence);
            }
            forget(world, record.sequence);
        }
    }
}

void world_disconnect(struct world *world)
{
    if (world->writer) {
        lose(world);
    }
}
