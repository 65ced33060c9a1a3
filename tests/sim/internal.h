/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_TESTS_SIM_INTERNAL_H
#define BITMAPD_TESTS_SIM_INTERNAL_H

/* Shared by the files of the world and of its judge. */

#include "daemon/drive/internal.h"
#include "tests/sim/world.h"

/* Each drive's, and the second one. */
extern const char *const drive_names[DRIVES];

/* ---- shadow.c: what was true when ---- */

void spot_note(struct spot *spot, uint64_t sequence, bool dirty);
/* What was acknowledged is folded into one event, so that the list stays short. */
void spot_fold(struct spot *spot, uint64_t acked);
bool spot_now(const struct spot *spot);

/* A stretch of sequences, the last of which a crash has left. */
struct prefix {
    uint64_t low, high; /* it is one of these */
    bool acked;         /* what repeated marks were told counts too */
};
/* Whether it must be true then, and whether it may be. */
void spot_look(const struct spot *spot, const struct prefix *prefix, bool *ret_must, bool *ret_may);
/* The same of marks: whether one is among the events from @first up to before @end. */
void marks_look(const struct spot *spot, const struct prefix *prefix, uint64_t first, uint64_t end,
                bool *ret_must, bool *ret_may);

bool shadow_exists(const struct shadow *shadow); /* as last asked for */
/* The newest that is there, as last asked for; NULL: none. */
struct checkpoint_shadow *history_newest(struct history_shadow *history);
struct checkpoint_shadow *history_find(struct history_shadow *history, const uint8_t uuid[16]);
/* The one before; NULL: none. */
struct checkpoint_shadow *history_elder(struct history_shadow *history,
                                        const struct checkpoint_shadow *checkpoint);
struct checkpoint_shadow *history_add(struct history_shadow *history, const char *name,
                                      const uint8_t uuid[16], uint64_t sequence);
void history_fold(struct history_shadow *history, uint64_t acked);
/* One spot more is dirty in whatever bitmap of the drive there is, or is gone. */
void note_tail(struct world *world, unsigned d, uint64_t sequence, bool dirty);
/* What records is unknown from here on, and what does not has a gap. */
void note_lost_track(struct world *world, unsigned d, uint64_t sequence);
/* Unsettled spots are a subset of whatever records. */
bool is_carried(const struct world *world, unsigned d, unsigned s);

/* ---- world.c ---- */

uint64_t world_below(struct world *world, uint64_t n);
struct text world_text(const char *string);
struct drive *world_drive(struct model *model, unsigned d); /* NULL: none */
struct drive_bitmap *world_bitmap(struct model *model, unsigned d, unsigned b);
/* The client is told in time. */
void world_wait(struct world *world, uint64_t sequence, enum ack_level level);
/* @level: what the daemon waits for; @promise: what it has promised. */
void world_wait_for(struct world *world, uint64_t sequence, enum ack_level level,
                    enum ack_level promise);
/* Numbered and waited for; false: refused, as it may be since a disk failed. */
bool world_commit(struct world *world, struct record *record);
/* As container.max_size; 0: none. */
void world_limit_container(struct world *world, uint64_t bytes);
/* What a refusal means. */
void world_refuse(struct world *world, const char *what, int r, const struct error *error);

/* ---- bitmaps.c: operations; the note_ functions tell the shadow what was done ---- */

bool bitmap_can_be_made(const struct world *world, unsigned d, unsigned b);
void bitmap_create_record(struct world *world, unsigned d, unsigned b, bool disabled, char name[8],
                          struct record *ret);
void note_create(struct world *world, unsigned d, unsigned b, bool disabled, uint64_t sequence);
void note_delete(struct world *world, unsigned d, unsigned b, uint64_t sequence);
/* @last < @first: all. */
void note_clear(struct world *world, unsigned d, unsigned b, unsigned first, unsigned last,
                uint64_t sequence);
void world_create_bitmap(struct world *world, unsigned d, unsigned b, bool disabled);
void world_delete_bitmap(struct world *world, unsigned d, unsigned b);
void world_clear(struct world *world, unsigned d, unsigned b, unsigned first, unsigned last);
void world_mark_some(struct world *world, unsigned d, bool by_writer);

/* ---- writers.c ---- */

void world_settle_spot(struct world *world, unsigned s);
void world_connect(struct world *world);
void world_detach(struct world *world);
void world_go_on(struct world *world); /* attaches one that goes on without us */
void world_fence(struct world *world);
void world_disconnect(struct world *world); /* when the process ends */
/* Comes back and says that nothing is unsettled. */
void world_come_back(struct world *world);

/* ---- checkpoints.c, transactions.c: operations that may have to read first ---- */

enum fetching_op {
    OP_CHECKPOINT_DELETE,
    OP_TRANSACTION,
    OP_RESIZE,
    FETCHING_OPS
};
/* All choices follow from @random, so that it can be done again. */
void world_do(struct world *world, enum fetching_op op, unsigned d, uint64_t random);
int do_checkpoint_delete(struct world *world, unsigned d, uint64_t random, struct error *error);
int do_transaction(struct world *world, unsigned d, uint64_t random, struct error *error);
int do_resize(struct world *world, unsigned d, uint64_t random, struct error *error);
void world_cancel_fetches(struct world *world);

void world_checkpoint(struct world *world, unsigned d);
void checkpoint_record(struct world *world, unsigned d, uint64_t *random, char name[8],
                       struct record *ret);
void note_checkpoint(struct world *world, unsigned d, const char *name, const uint8_t uuid[16],
                     uint64_t sequence);
void note_checkpoint_deleted(struct world *world, unsigned d, const uint8_t uuid[16],
                             uint64_t sequence);
/* The drive's checkpoint to delete: the eldest, the newest, or one between; NULL: none. */
struct drive_bitmap *pick_checkpoint(struct world *world, unsigned d, uint64_t *random);
void world_rename(struct world *world, unsigned d);

/* ---- maps.c ---- */

void world_map(struct world *world, unsigned d);
void world_cancel_maps(struct world *world);

/* ---- process.c ---- */

int process_stop(struct process *process); /* its writers are gone; what model_close() told */
void process_at_call(void *process);       /* the directory's hook */

/* ---- judge.c, judge_facts.c, judge_history.c ---- */

/* A start that is being judged. */
struct trial {
    const struct world *world;
    struct process process;
    uint64_t random;
    uint8_t outages; /* of power, since the workload */
    bool damaged, memory_damaged;
    unsigned depth;
    const char *how; /* the last crash */
    struct prefix prefix;
};

void broken(const struct trial *trial, unsigned d, const char *name, const char *what,
            unsigned spot);
/* How far what is there reaches, from what is there and what is not. */
void judge_facts(struct trial *trial, struct model *model);
void judge_place(const struct trial *trial, unsigned d, const char *name,
                 const struct drive_bitmap *bitmap, unsigned s, bool dirty, bool must, bool may);
/* Whether it may be unknown, and has to be.  @unknown: that it has to be since before the crash. */
void judge_validity(const struct trial *trial, unsigned d, const char *name,
                    const struct drive_bitmap *bitmap, const struct spot *unknown);
void judge_history(struct trial *trial, struct model *model, unsigned d);
/* For the caller to free; of a sealed bitmap out of the container.  NULL: it cannot be read. */
struct bitmap *read_bits(struct process *process, struct drive_bitmap *bitmap, struct error *error);
bool place_dirty(const struct bitmap *bits, unsigned s); /* false for a tail that is not there */
/* Granules that no spot accounts for. */
bool has_stray_bits(const struct bitmap *bits);

#endif
