/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A client that goes on with what a start has found, be it after a crash.
 */
#include "tests/sim/internal.h"

#include <string.h>

static void adopt_bitmaps(struct world *world, unsigned d, uint64_t sequence)
{
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
        spot_note(&shadow->unknown, sequence, bitmap->validity == VALIDITY_UNKNOWN);
        for (unsigned s = 0; s < PLACES; s++) {
            spot_note(&shadow->spots[s], sequence, place_dirty(bitmap->bits, s));
        }
    }
}

static void adopt_history(struct world *world, unsigned d, struct drive *drive, uint64_t sequence)
{
    struct history_shadow *history = &world->histories[d];
    struct drive_bitmap *bitmap;
    struct error error;

    *history = (struct history_shadow){0};
    if (!drive) {
        return;
    }
    TAILQ_FOREACH (bitmap, &drive->history, in_history) {
        uint64_t made = bitmap->checkpoint->sequence;
        struct checkpoint_shadow *shadow =
            history_add(history, bitmap->name, bitmap->checkpoint->uuid, made);
        /* One that a failing call keeps from being read tells nothing. */
        CLEANUP(bitmap_freep) struct bitmap *bits = read_bits(&world->process, bitmap, &error);
        spot_note(&shadow->unknown, sequence, bitmap->validity == VALIDITY_UNKNOWN);
        spot_note(&shadow->tail, sequence, bits && place_dirty(bits, TAIL));
        for (unsigned s = 0; bits && s < SPOTS; s++) {
            if (place_dirty(bits, s)) {
                spot_note(&history->marks[s], made, true);
            }
        }
    }
}

/* What is there is what the client goes on from. */
static void adopt(struct world *world)
{
    uint64_t sequence = model_sequence(world->process.model);

    world->evidence.count = world->continues.count = 0;
    for (unsigned d = 0; d < DRIVES; d++) {
        struct drive *drive = world_drive(world->process.model, d);
        world->drive_added[d] = drive ? sequence : 0;
        world->large[d].count = world->renamed[d].count = 0;
        if (drive) {
            spot_note(&world->large[d], sequence, drive->size != DRIVE_BYTES);
            spot_note(&world->renamed[d], sequence, strcmp(drive->name, drive_names[d]) != 0);
        }
        adopt_bitmaps(world, d, sequence);
        adopt_history(world, d, drive, sequence);
    }
    world->acked_written = world->acked_durable = world->issued = sequence;
    world->writer = NULL;
    memset(world->unsettled, 0, sizeof world->unsettled);
    memset(world->lost, 0, sizeof world->lost);
    const struct drive *drive = world_drive(world->process.model, 0);
    world->unaccounted = drive && drive_has_unaccounted(drive);
    world->doubtful = drive && drive_is_doubtful(drive);
    if (drive) {
        spot_note(&world->continues, sequence, world->doubtful);
        spot_note(&world->evidence, sequence, drive->evidence != NULL);
    }
}

void world_adopt(struct world *world, const struct process *process)
{
    memset(world, 0, sizeof *world);
    TAILQ_INIT(&world->ops);
    TAILQ_INIT(&world->maps);
    TAILQ_INIT(&world->fetches);
    world->next_name = 500;
    world->process = *process;
    simdir_watch(process->dir, process_at_call, &world->process);
    adopt(world);
}

/* What was marked for sure and not settled may still be written. */
static void haunt(struct world *world)
{
    for (unsigned s = 0; s < SPOTS; s++) {
        world->haunting[s] |= (world->unsettled[s] || world->lost[s]) &&
                              world->mark_sequences[s] <= world->acked_durable;
    }
}

/* Bitmaps that are unknown begin anew. */
static void clear_unknown(struct world *world)
{
    struct error error;

    if (world->doubtful && world_below(world, 2)) {
        world_come_back(world);
    }
    for (unsigned d = 0; d < DRIVES; d++) {
        for (unsigned b = 0; b < BITMAPS; b++) {
            struct drive_bitmap *bitmap = world_bitmap(world->process.model, d, b);
            if (bitmap && bitmap->validity == VALIDITY_UNKNOWN) {
                struct record record = {.type = RECORD_BITMAP_CLEAR_ALL,
                                        .drive = bitmap->drive->id,
                                        .bitmap = bitmap->id};
                assert_int_equal(model_commit(world->process.model, &record, &error), 0);
                world_wait(world, record.sequence, ACK_DURABLE);
                note_clear(world, d, b, 1, 0, record.sequence);
            }
        }
    }
    world_settle(world);
}

/* Whether the writer was last seen before a reboot.  It need not have come back if nobody told it
 * so. */
static bool find_rebooted(const struct world *world, enum simdir_fate fate, bool came_back)
{
    const struct drive *drive = world_drive(world->process.model, 0);
    const struct writer *writer = drive ? TAILQ_FIRST(&drive->writers) : NULL;

    if (!writer) {
        return false;
    }
    assert_true(writer->rebooted || simdir_fate_is_kill(fate));
    assert_false(writer->rebooted && simdir_fate_is_kill(fate) && came_back);
    return writer->rebooted;
}

void world_crash(struct world *world, enum simdir_fate fate, uint64_t seed)
{
    struct simdir *after = simdir_crash(world->process.dir, fate, seed);
    struct simdir *copy = simdir_crash(after, SIMDIR_KILL, seed);
    void (*hook)(struct process * process) = world->process.at_call;
    bool came_back = world->attached > 0 && world->attached <= world->acked_durable;
    struct error error;

    world_notice(world);
    world_judge(world, copy, fate, seed);
    haunt(world);
    uint8_t boot = (uint8_t)(world->process.settings.boot_id[2] + !simdir_fate_is_kill(fate));
    uint32_t cluster_bits = world->process.settings.cluster_bits;
    world_kill(world);
    process_init(&world->process, after, cluster_bits, seed);
    world->process.settings.boot_id[2] = boot;
    if (process_start(&world->process, &error) < 0) {
        fail_msg("start: %s", error.text);
    }
    world->closing = false;
    world->attached = 0;
    adopt(world);
    if (!world->unaccounted) {
        memset(world->haunting, 0, sizeof world->haunting);
    }
    world->rebooted = find_rebooted(world, fate, came_back);
    clear_unknown(world);
    world->process.at_call = hook;
}
