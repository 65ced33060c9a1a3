/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_TESTS_SIM_WORLD_H
#define BITMAPD_TESTS_SIM_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/drive/model.h"
#include "tests/common/simdir.h"
#include "tests/sim/sim.h"

/*
 * A daemon in a simulated process on simulated disks, a client that notes what
 * was acknowledged to it, and what has to hold for whoever starts on what a
 * crash left.
 *
 * Two drives, one of each durability level, have a few bitmaps each, one of
 * them coarser, and a history of checkpoints.  Marks and clears go to SPOTS places that no two
 * granules share, so that what is dirty can be told spot by spot, and stray bits by their number.
 * While a drive is large it has one spot more, the tail, which only growing makes dirty.
 *
 * Changes take effect in the order of their records' sequences, and a crash
 * leaves a prefix of them that holds at least all that was acknowledged.  So
 * it is enough to note for each spot at which sequence it was marked or
 * cleared, and how far acknowledgements have come.
 */
#define DRIVES          2u /* "power", "process": see enum durability */
#define BITMAPS         3u /* of a drive: "b0" … */
#define SPOTS           48u
#define TAIL            SPOTS
#define PLACES          (SPOTS + 1u)
#define SPOT_STRIDE     UINT64_C(65536)
#define DRIVE_BYTES     (SPOTS * SPOT_STRIDE)
#define TAIL_BYTES      ((UINT64_C(2) << 20) + 700u)
#define EVENTS_MAX      64u
#define CHECKPOINTS     16u /* of a drive, with those whose deletion is not acknowledged yet */
#define OUTSTANDING_MAX 12u

struct spot_event {
    uint64_t sequence;
    bool dirty;
    bool acked; /* a repeated mark was told at once that this one is kept */
};

/* Something that is true or not, and since when. */
struct spot {
    struct spot_event events[EVENTS_MAX]; /* by sequence; the oldest are folded */
    unsigned count;
};

/* What has become of one bitmap's name; sequences, 0: never. */
struct shadow {
    uint64_t made, deleted; /* the later of them counts */
    uint64_t gap;           /* disabled, and skipped a mark for the first time */
    bool disabled;
    struct spot unknown; /* that it has to be */
    struct spot spots[PLACES];
};

struct checkpoint_shadow {
    char name[8];
    uint8_t uuid[16];
    uint64_t made, deleted;
    struct spot unknown; /* that its bitmap has to be */
    struct spot tail;
};

/*
 * A drive's history: when each spot was marked, or carried into a checkpoint.  What a checkpoint's
 * bitmap has to hold is what happened from there until the next one that is there.
 */
struct history_shadow {
    struct checkpoint_shadow checkpoints[CHECKPOINTS]; /* eldest first */
    unsigned count;
    struct spot marks[SPOTS];
};

struct client_op;
TAILQ_HEAD(client_ops, client_op);
struct client_map;
TAILQ_HEAD(client_maps, client_map);
struct client_fetch;
TAILQ_HEAD(client_fetches, client_fetch);

/* A daemon on a directory. */
struct process {
    uint64_t random;
    struct simdir *dir;
    struct sim *sim;
    struct model *model; /* NULL: not running */
    struct model_settings settings;
    void (*at_call)(struct process *process); /* before each disk call; may be NULL */
};

struct world {
    struct process process; /* first: the two pointers are the same */
    uint64_t drive_added[DRIVES];
    struct spot large[DRIVES];   /* whether the drive has a tail, */
    struct spot renamed[DRIVES]; /* … its second name, */
    struct spot evidence;        /* … and drive 0 what was left by its last writer */
    struct shadow shadows[DRIVES][BITMAPS];
    struct history_shadow histories[DRIVES];
    unsigned next_name; /* of checkpoints */

    struct writer *writer; /* of drive 0; NULL: not connected */
    uint64_t attached;     /* … sequence of that, in this life of the daemon */
    bool unaccounted;      /* … it may have unsettled marks from before a crash */
    bool rebooted;         /* … which was one of the host, and it has not come back */
    bool doubtful;         /* … it writes without marks */
    bool will_continue;    /* … what it said last, */
    bool may_continue;     /* … which is not the same in every world */
    struct spot continues; /* … that it goes on without us when it is lost */
    bool unsettled[SPOTS]; /* its marks */
    bool lost[SPOTS];      /* those of connections that were lost, */
    bool haunting[SPOTS];  /* … and before a crash, as far as they were acknowledged */
    uint64_t mark_ids[SPOTS];
    uint64_t mark_sequences[SPOTS];
    uint64_t next_mark_id;

    /* How far acknowledgements have come: those of each level cover all up to there. */
    uint64_t acked_written, acked_durable;
    uint64_t issued;      /* the last sequence */
    unsigned outstanding; /* operations that are not acknowledged: */
    struct client_ops ops;
    struct client_maps maps;
    struct client_fetches fetches;
    unsigned refused;  /* operations, since a disk failed, */
    char refusal[300]; /* … and why the last one was */
    bool faults;       /* calls may fail */
    bool closing;      /* the model is not to be looked at any more */
};

/* How often something happened, all worlds together. */
enum world_deed {
    DEED_CHECKPOINT,
    DEED_DELETE,
    DEED_PRUNE,
    DEED_TRANSACTION,
    DEED_UNDO,
    DEED_MAP,
    DEED_FETCH,
    DEED_RESIZE,
    DEED_RENAME,
    DEED_CONTINUE,
    DEED_EVIDENCE,
    DEED_READ, /* sealed bitmaps out of the container, while judging */
    DEED_FAILED_READ,
    DEEDS
};
extern uint64_t world_deeds[DEEDS];

extern uint64_t world_states;  /* judged so far */
extern uint64_t world_unknown; /* bitmaps found unknown in them */
extern uint64_t world_refused; /* damaged directories that were not started on */
/* While a start is judged the power may fail again: at one of so many disk calls; 0: never. */
extern unsigned world_again;

void world_init(struct world *world, uint32_t cluster_bits, uint64_t seed);
void world_kill(struct world *world); /* frees all that it has */

/* A daemon that is not running, with containers of so large clusters; takes over @dir. */
void process_init(struct process *process, struct simdir *dir, uint32_t cluster_bits,
                  uint64_t seed);
/* Starts the daemon on the process's directory.  0, or what model_open() said. */
int process_start(struct process *process, struct error *error);
/* As by kill -9; the directory is freed. */
void process_kill(struct process *process);
/* An orderly stop; what model_close() told. */
int world_stop(struct world *world);

/* Adds the drives and a bitmap each. */
void world_set_up(struct world *world);
/* Spots of drive @d, by nobody in particular. */
void world_mark(struct world *world, unsigned d);
/* Of the bitmap that world_set_up() made for drive @d. */
enum validity world_validity(struct world *world, unsigned d);
/* One operation, at random. */
void world_issue(struct world *world);
/* Lets everybody go on until all is acknowledged. */
void world_settle(struct world *world);
/* Lets time pass until the daemon is well, which it must be soon. */
void world_recover(struct world *world);
/* Operations at random, among everybody's steps. */
void world_run(struct world *world, unsigned operations);
/* All that was acknowledged is in the journal, too. */
bool world_is_journaled(const struct world *world);
/* Retention may have done something by itself. */
void world_notice(struct world *world);

/* Whether a start on @after, which is freed, keeps the promise; @fate is how it came about. */
void world_judge(const struct world *world, struct simdir *after, enum simdir_fate fate,
                 uint64_t seed);
/* The same where the directory was damaged besides: refusing to start is right too, and unknown. */
/* @memory: what is damaged is the memory journal, and nothing else. */
void world_judge_damaged(const struct world *world, struct simdir *after, bool memory,
                         uint64_t seed);

/* A client of a daemon that runs already: what is there counts as acknowledged. */
void world_adopt(struct world *world, const struct process *process);

/* Crashes, starts again and goes on: what is there then counts as acknowledged. */
void world_crash(struct world *world, enum simdir_fate fate, uint64_t seed);

#endif
