/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The workload: a daemon's life, and a client that notes what it was told.
 */
#include "tests/sim/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OUTSTANDING_MAX 12u

const char *const drive_names[DRIVES] = {"power", "process"};

uint64_t world_below(struct world *world, uint64_t n)
{
    return simdisk_random(&world->process.random) % n;
}

/* ---- Spots ---- */

void spot_note(struct spot *spot, uint64_t sequence, bool dirty)
{
    if (spot->count == EVENTS_MAX) {
        /* The oldest was acknowledged long ago. */
        memmove(spot->events, spot->events + 1, (EVENTS_MAX - 1) * sizeof spot->events[0]);
        spot->count--;
    }
    spot->events[spot->count++] = (struct spot_event){.sequence = sequence, .dirty = dirty};
}

/* What was acknowledged is folded into one event, so that the list stays short. */
static void spot_fold(struct spot *spot, uint64_t acked)
{
    unsigned drop = 0;

    while (drop + 1 < spot->count && spot->events[drop + 1].sequence <= acked) {
        drop++;
    }
    memmove(spot->events, spot->events + drop, (spot->count - drop) * sizeof spot->events[0]);
    spot->count -= drop;
}

bool shadow_exists(const struct shadow *shadow)
{
    return shadow->made > shadow->deleted;
}

/* ---- Acknowledgements ---- */

struct client_op {
    struct model_waiter waiter;
    struct world *world;
    enum ack_level promise; /* what its reply tells the client */
    TAILQ_ENTRY(client_op) entry;
};

static void note_ack(struct world *world, uint64_t sequence, enum ack_level level)
{
    uint64_t *acked = level == ACK_WRITTEN ? &world->acked_written : &world->acked_durable;

    if (sequence > *acked) {
        *acked = sequence;
    }
}

static void op_done(struct model_waiter *waiter, int r)
{
    struct client_op *op = (struct client_op *)waiter;

    if (r == 0) {
        note_ack(op->world, waiter->sequence, op->promise);
    } else {
        assert_int_equal(r, -EINPROGRESS);
        assert_true(op->world->faults || simdir_stopped(op->world->process.dir));
    }
    op->world->outstanding--;
    TAILQ_REMOVE(&op->world->ops, op, entry);
    free(op);
}

/* @level: what the daemon waits for; @promise: what it has promised. */
static void wait_for(struct world *world, uint64_t sequence, enum ack_level level,
                     enum ack_level promise)
{
    struct client_op *op = calloc(1, sizeof *op);

    assert_non_null(op);
    op->world = world;
    op->promise = promise;
    op->waiter.done = op_done;
    world->outstanding++;
    TAILQ_INSERT_TAIL(&world->ops, op, entry);
    model_wait(world->process.model, sequence, level, &op->waiter);
}

void world_wait(struct world *world, uint64_t sequence, enum ack_level level)
{
    wait_for(world, sequence, level, level);
}

/* ---- Operations ---- */

struct text world_text(const char *string)
{
    return (struct text){string, (uint32_t)strlen(string)};
}

struct drive *world_drive(struct model *model, unsigned d)
{
    return model_drive_by_name(model, world_text(drive_names[d]), NULL);
}

struct drive_bitmap *world_bitmap(struct model *model, unsigned d, unsigned b)
{
    char name[32];
    (void)snprintf(name, sizeof name, "%s/b%u", drive_names[d], b);
    return model_bitmap_by_name(model, world_text(name), NULL);
}

static bool commit(struct world *world, struct record *record)
{
    struct error error;
    int r = model_commit(world->process.model, record, &error);

    if (r < 0) {
        if (!world->faults) {
            fail_msg("%s: %s", record_type_name(record->type), error.text);
        }
        world->refused++;
        return false;
    }
    world->issued = record->sequence;
    world_wait(world, record->sequence, ACK_DURABLE);
    return true;
}

static void add_drive(struct world *world, unsigned d)
{
    struct record record = {
        .type = RECORD_DRIVE_ADD,
        .name = world_text(drive_names[d]),
        .size = SPOTS * SPOT_STRIDE,
        .granularity = 512,
        .durability = d == 0 ? DURABILITY_POWER_LOSS : DURABILITY_PROCESS_CRASH,
    };
    if (commit(world, &record)) {
        world->drive_added[d] = record.sequence;
    }
}

/* Unsettled spots are a subset of whatever records. */
static void note_carried(struct world *world, unsigned d, struct shadow *shadow, uint64_t sequence)
{
    for (unsigned s = 0; d == 0 && s < SPOTS; s++) {
        if (world->unsettled[s] || world->lost[s]) {
            spot_note(&shadow->spots[s], sequence, true);
        }
    }
}

static void create_bitmap(struct world *world, unsigned d, unsigned b, bool disabled)
{
    struct shadow *shadow = &world->shadows[d][b];
    struct drive *drive = world_drive(world->process.model, d);
    char name[8];

    /* An older bitmap of the name has to be gone for good, or two would have to be told apart. */
    if (!drive || shadow_exists(shadow) || shadow->deleted > world->acked_durable) {
        return;
    }
    (void)snprintf(name, sizeof name, "b%u", b);
    struct record record = {
        .type = RECORD_BITMAP_CREATE,
        .drive = drive->id,
        .name = world_text(name),
        .granularity = b == 1 ? 4096 : 512,
        .disabled = disabled,
    };
    if (commit(world, &record)) {
        *shadow = (struct shadow){.made = record.sequence, .disabled = disabled};
        if (disabled && d == 0 && world->unaccounted) {
            shadow->gap = record.sequence; /* instead of what is not known */
        } else {
            note_carried(world, d, shadow, record.sequence);
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
    return commit(world, &record);
}

static void delete_bitmap(struct world *world, unsigned d, unsigned b)
{
    if (change_bitmap(world, d, b, (struct record){.type = RECORD_BITMAP_DELETE})) {
        world->shadows[d][b].deleted = world->issued;
    }
}

/* @last < @first: all. */
static void clear(struct world *world, unsigned d, unsigned b, unsigned first, unsigned last)
{
    struct range range = {first * SPOT_STRIDE, (last - first + 1) * SPOT_STRIDE};
    bool all = last < first;
    struct record record = {
        .type = all ? RECORD_BITMAP_CLEAR_ALL : RECORD_BITMAP_CLEAR,
        .ranges = &range,
        .ranges_count = !all,
    };
    struct shadow *shadow = &world->shadows[d][b];
    bool unaccounted = d == 0 && world->unaccounted;

    if (!change_bitmap(world, d, b, record)) {
        return;
    }
    /* What has a gap, or gets one, keeps nothing for writers; a recorder whose writer is
     * unaccounted keeps everything. */
    bool gap = shadow->disabled && (unaccounted || (shadow->gap && !all));
    if (all || (gap && !shadow->gap)) {
        shadow->gap = gap ? world->issued : 0;
    }
    for (unsigned s = all ? 0 : first; s <= (all ? SPOTS - 1 : last); s++) {
        bool kept = unaccounted || (d == 0 && (world->unsettled[s] || world->lost[s]));
        if (gap || !kept) {
            spot_note(&shadow->spots[s], world->issued, false);
        } else if (!unaccounted) {
            spot_note(&shadow->spots[s], world->issued, true);
        }
    }
}

static void note_mark(struct world *world, unsigned d, const unsigned *spots, unsigned n,
                      uint64_t before, uint64_t sequence)
{
    bool made_record = model_sequence(world->process.model) != before;

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
            } else if (sequence == 0 && spot->count > 0) {
                spot->events[spot->count - 1].acked = true;
            }
        }
    }
}

static void mark(struct world *world, unsigned d, bool by_writer)
{
    struct drive *drive = world_drive(world->process.model, d);
    unsigned spots[4], n = 1 + (unsigned)world_below(world, 4);
    struct range ranges[4];
    uint64_t before = model_sequence(world->process.model), sequence;
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
        r = writer_mark(world->process.model, world->writer, world->next_mark_id, ranges, n,
                        &sequence, &error);
    } else {
        r = drive_mark(world->process.model, drive, ranges, n, &sequence, &error);
    }
    if (r < 0) {
        assert_true(world->faults);
        world->refused++;
        return;
    }
    world->issued = model_sequence(world->process.model);
    note_mark(world, d, spots, n, before, sequence);
    for (unsigned i = 0; by_writer && i < n; i++) {
        world->unsettled[spots[i]] = true;
        world->mark_ids[spots[i]] = world->next_mark_id++;
    }
    if (sequence != 0) {
        wait_for(world, sequence, drive_ack_level(drive), d == 0 ? ACK_DURABLE : ACK_WRITTEN);
    }
}

void world_mark(struct world *world, unsigned d)
{
    mark(world, d, false);
}

enum validity world_validity(struct world *world, unsigned d)
{
    return world_bitmap(world->process.model, d, 0)->validity;
}

static void settle_spot(struct world *world, unsigned s)
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

static void connect_writer(struct world *world)
{
    struct drive *drive = world_drive(world->process.model, 0);
    uint64_t sequence;
    struct error error;
    bool resuming;

    if (!drive) {
        return;
    }
    if (world->writer) {
        if (world->unaccounted || world_below(world, 2)) {
            if (writer_resume(world->process.model, world->writer, NULL, &sequence, &error) == 0) {
                /* Nothing was marked again: nothing was unsettled, says the client. */
                world->issued = sequence;
                world->unaccounted = false;
                memset(world->lost, 0, sizeof world->lost);
            } else {
                assert_true(world->faults);
            }
        } else {
            writer_lost(world->process.model, world->writer);
            world->writer = NULL;
            for (unsigned s = 0; s < SPOTS; s++) {
                world->lost[s] |= world->unsettled[s];
            }
            memset(world->unsettled, 0, sizeof world->unsettled);
        }
        return;
    }
    if (writer_attach(world->process.model, drive, world_text("w"), NULL, &world->writer, &sequence,
                      &resuming, &error) < 0) {
        assert_true(world->faults);
        world->writer = NULL;
        return;
    }
    world->issued = sequence;
    world->next_mark_id = 1;
    world_wait(world, sequence, ACK_DURABLE);
}

void world_issue(struct world *world)
{
    unsigned d = (unsigned)world_below(world, DRIVES), b = (unsigned)world_below(world, BITMAPS);
    unsigned first = (unsigned)world_below(world, SPOTS);

    switch (world_below(world, 24)) {
    case 0:
        create_bitmap(world, d, b, b == 2 && world_below(world, 2));
        break;
    case 1:
        if (world_below(world, 3) == 0) {
            delete_bitmap(world, d, b);
        }
        break;
    case 2:
    case 3:
        clear(world, d, b, first, first + (unsigned)world_below(world, SPOTS - first));
        break;
    case 4:
        clear(world, d, b, 1, 0);
        break;
    case 5:
        world_wait(world, model_sequence(world->process.model), ACK_CONTAINER);
        break;
    case 6:
    case 7:
        settle_spot(world, first);
        break;
    case 8:
        connect_writer(world);
        break;
    case 9:
    case 10:
    case 11:
    case 12:
        if (world->writer) {
            mark(world, 0, true);
            break;
        }
        /* fallthrough */
    default:
        mark(world, d, false);
        break;
    }
    for (unsigned i = 0; i < SPOTS; i++) {
        spot_fold(&world->shadows[d][b].spots[i], world->acked_durable);
    }
}

void world_set_up(struct world *world)
{
    for (unsigned d = 0; d < DRIVES; d++) {
        add_drive(world, d);
        create_bitmap(world, d, 0, false);
    }
}

/* ---- Life ---- */

void world_settle(struct world *world)
{
    unsigned idle = 0;

    while (world->outstanding > 0 && !simdir_stopped(world->process.dir)) {
        if (!sim_step(world->process.sim)) {
            assert_true(sim_pass_time(world->process.sim));
            /* A disk that fails for good never acknowledges. */
            if (world->faults && ++idle > 200) {
                return;
            }
        }
    }
}

void world_recover(struct world *world)
{
    const char *reason;

    for (unsigned i = 0; i < 20; i++) {
        while (sim_step(world->process.sim)) {
        }
        if (!model_degraded_reason(world->process.model)[0]) {
            return;
        }
        (void)sim_pass_time(world->process.sim);
    }
    reason = model_degraded_reason(world->process.model);
    if (reason[0]) {
        fail_msg("still degraded: %s", reason);
    }
}

void world_run(struct world *world, unsigned operations)
{
    while (operations > 0) {
        if (world->outstanding < OUTSTANDING_MAX && world_below(world, 3) == 0) {
            world_issue(world);
            operations--;
        } else if (!sim_step(world->process.sim)) {
            /* Quiet: more work, or some time. */
            if (world->outstanding >= OUTSTANDING_MAX || world_below(world, 20) == 0) {
                (void)sim_pass_time(world->process.sim);
            } else {
                world_issue(world);
                operations--;
            }
        }
    }
}

void world_init(struct world *world, uint32_t cluster_bits, uint64_t seed)
{
    memset(world, 0, sizeof *world);
    TAILQ_INIT(&world->ops);
    process_init(&world->process, simdir_new(seed), cluster_bits, seed);
}

static void disconnect(struct world *world)
{
    if (world->writer) {
        writer_lost(world->process.model, world->writer);
        world->writer = NULL;
    }
}

int world_stop(struct world *world)
{
    disconnect(world);
    return process_stop(&world->process);
}

void world_kill(struct world *world)
{
    struct client_op *op;

    if (world->process.model) {
        disconnect(world);
    }
    while ((op = TAILQ_FIRST(&world->ops))) {
        model_wait_cancel(world->process.model, &op->waiter);
        TAILQ_REMOVE(&world->ops, op, entry);
        free(op);
        world->outstanding--;
    }
    process_kill(&world->process);
}
