/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The workload: a daemon's life, and a client that notes what it was told.
 */
#include "tests/sim/internal.h"

#include "daemon/drive/journaling.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const second_names[DRIVES] = {"power.2", "process.2"};
const char *const drive_names[DRIVES] = {"power", "process"};

uint64_t world_deeds[DEEDS];

uint64_t world_below(struct world *world, uint64_t n)
{
    return simdisk_random(&world->process.random) % n;
}

struct text world_text(const char *string)
{
    return (struct text){string, (uint32_t)strlen(string)};
}

struct drive *world_drive(struct model *model, unsigned d)
{
    struct drive *drive = model_drive_by_name(model, world_text(drive_names[d]), NULL);
    return drive ? drive : model_drive_by_name(model, world_text(second_names[d]), NULL);
}

struct drive_bitmap *world_bitmap(struct model *model, unsigned d, unsigned b)
{
    struct drive *drive = world_drive(model, d);
    char name[8];

    (void)snprintf(name, sizeof name, "b%u", b);
    return drive ? drive_bitmap_by_name(drive, world_text(name)) : NULL;
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

void world_wait_for(struct world *world, uint64_t sequence, enum ack_level level,
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
    world_wait_for(world, sequence, level, level);
}

void world_limit_container(struct world *world, uint64_t bytes)
{
    container_set_max_size(writeback_container(world->process.model->writeback), bytes);
}

void world_refuse(struct world *world, const char *what, int r, const struct error *error)
{
    if (!world->faults) {
        fail_msg("%s: %s (%d)", what, error->text, r);
    }
    (void)snprintf(world->refusal, sizeof world->refusal, "%.40s: %.250s", what, error->text);
    world->refused++;
}

bool world_commit(struct world *world, struct record *record)
{
    struct error error;
    int r = model_commit(world->process.model, record, &error);

    if (r < 0) {
        world_refuse(world, record_type_name(record->type), r, &error);
        return false;
    }
    world->issued = record->sequence;
    world_wait(world, record->sequence, ACK_DURABLE);
    return true;
}

/* ---- Operations ---- */

static void add_drive(struct world *world, unsigned d)
{
    struct record record = {
        .type = RECORD_DRIVE_ADD,
        .name = world_text(drive_names[d]),
        .size = DRIVE_BYTES,
        .granularity = 512,
        .durability = d == 0 ? DURABILITY_POWER_LOSS : DURABILITY_PROCESS_CRASH,
    };
    if (world_commit(world, &record)) {
        world->drive_added[d] = record.sequence;
    }
}

void world_rename(struct world *world, unsigned d)
{
    struct drive *drive = world_drive(world->process.model, d);
    bool second = !spot_now(&world->renamed[d]);

    if (!drive) {
        return;
    }
    assert_string_equal(drive->name, second ? drive_names[d] : second_names[d]);
    struct record record = {.type = RECORD_DRIVE_RENAME,
                            .drive = drive->id,
                            .name = world_text(second ? second_names[d] : drive_names[d])};
    if (world_commit(world, &record)) {
        spot_note(&world->renamed[d], record.sequence, second);
        world_deeds[DEED_RENAME]++;
    }
}

static void fold(struct world *world, unsigned d, unsigned b)
{
    spot_fold(&world->shadows[d][b].unknown, world->acked_durable);
    for (unsigned s = 0; s < PLACES; s++) {
        spot_fold(&world->shadows[d][b].spots[s], world->acked_durable);
    }
    history_fold(&world->histories[d], world->acked_durable);
    spot_fold(&world->large[d], world->acked_durable);
    spot_fold(&world->renamed[d], world->acked_durable);
    spot_fold(&world->evidence, world->acked_durable);
    spot_fold(&world->continues, world->acked_durable);
}

static void issue_writers(struct world *world, unsigned first)
{
    switch (world_below(world, 8)) {
    case 0:
    case 1:
        world_detach(world);
        if (world_below(world, 2) && !world->writer) {
            world_connect(world); /* before anybody else has written */
        }
        break;
    case 2:
        world_fence(world);
        break;
    case 3:
    case 4:
        world_connect(world);
        break;
    default:
        world_settle_spot(world, first);
        break;
    }
}

static void issue_history(struct world *world, unsigned d)
{
    uint64_t random = simdisk_random(&world->process.random);

    switch (world_below(world, 11)) {
    case 0:
    case 1:
    case 2:
        world_checkpoint(world, d);
        break;
    case 3:
    case 4:
        world_do(world, OP_CHECKPOINT_DELETE, d, random);
        break;
    case 5:
    case 6:
    case 7:
        world_do(world, OP_TRANSACTION, d, random);
        break;
    case 8:
    case 9:
        world_map(world, d);
        break;
    default:
        if (world_below(world, 2)) {
            world_rename(world, d);
        } else {
            world_do(world, OP_RESIZE, d, random);
        }
        break;
    }
}

void world_issue(struct world *world)
{
    unsigned d = (unsigned)world_below(world, DRIVES), b = (unsigned)world_below(world, BITMAPS);
    unsigned first = (unsigned)world_below(world, SPOTS);

    world_notice(world);
    switch (world_below(world, 33)) {
    case 0:
        world_create_bitmap(world, d, b, b == 2 && world_below(world, 2));
        break;
    case 1:
        if (world_below(world, 3) == 0) {
            world_delete_bitmap(world, d, b);
        }
        break;
    case 2:
    case 3:
        if (spot_now(&world->shadows[d][b].unknown)) {
            world_clear(world, d, b, 1, 0);
            break;
        }
        world_clear(world, d, b, first, first + (unsigned)world_below(world, SPOTS - first));
        break;
    case 4:
        world_clear(world, d, b, 1, 0);
        break;
    case 5:
        world_wait(world, model_sequence(world->process.model), ACK_CONTAINER);
        break;
    case 6:
    case 7:
    case 8:
    case 9:
        issue_writers(world, first);
        break;
    case 10:
    case 11:
    case 12:
    case 13:
    case 14:
    case 15:
    case 16:
    case 17:
        issue_history(world, d);
        break;
    case 18:
    case 19:
    case 20:
    case 21:
        if (world->writer) {
            world_mark_some(world, 0, true);
            break;
        }
        /* fallthrough */
    default:
        world_mark_some(world, d, false);
        break;
    }
    fold(world, d, b);
}

void world_set_up(struct world *world)
{
    for (unsigned d = 0; d < DRIVES; d++) {
        add_drive(world, d);
        world_create_bitmap(world, d, 0, false);
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

bool world_is_journaled(const struct world *world)
{
    uint64_t acked =
        world->acked_durable > world->acked_written ? world->acked_durable : world->acked_written;

    /* What is beyond the container was acknowledged by the journal, which has it in one piece with
     * all before it, or shows a gap. */
    return writeback_applied_seq(world->process.model->writeback) < acked;
}

void world_init(struct world *world, uint32_t cluster_bits, uint64_t seed)
{
    memset(world, 0, sizeof *world);
    TAILQ_INIT(&world->ops);
    TAILQ_INIT(&world->maps);
    TAILQ_INIT(&world->fetches);
    process_init(&world->process, simdir_new(seed), cluster_bits, seed);
    if (seed % 3 == 0) {
        /* Whoever starts after it has one. */
        world->process.settings.memory_path = NULL;
    }
    world->may_continue = world_below(world, 4) == 0;
}

static void leave(struct world *world)
{
    world->closing = true;
    if (world->process.model) {
        world_cancel_maps(world);
        world_cancel_fetches(world);
        world_disconnect(world);
    }
}

int world_stop(struct world *world)
{
    leave(world);
    int r = process_stop(&world->process);
    world->closing = false;
    return r;
}

void world_kill(struct world *world)
{
    struct client_op *op;

    leave(world);
    while ((op = TAILQ_FIRST(&world->ops))) {
        model_wait_cancel(world->process.model, &op->waiter);
        TAILQ_REMOVE(&world->ops, op, entry);
        free(op);
        world->outstanding--;
    }
    process_kill(&world->process);
}
