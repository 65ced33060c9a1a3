/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_DRIVE_RECORD_H
#define BITMAPD_DAEMON_DRIVE_RECORD_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Records: every change of the model is one, numbered by a sequence that
 * rises by one and is never reused.  A record names its targets by ids that
 * are never reused either, so it means the same whenever it is applied.
 *
 * record.c has one row for each type: prepare() validates the whole record and
 * takes all memory (it may fail, and then nothing has changed), apply()
 * changes memory and cannot fail.  model_commit() is the only caller of both.
 */
enum record_type {
    RECORD_DRIVE_ADD,
    RECORD_DRIVE_SET,
    RECORD_DRIVE_RENAME,
    RECORD_DRIVE_RESIZE,
    RECORD_DRIVE_REMOVE,
    RECORD_BITMAP_CREATE,
    RECORD_BITMAP_DELETE,
    RECORD_BITMAP_ENABLE,
    RECORD_BITMAP_DISABLE,
    RECORD_BITMAP_RENAME,
    RECORD_BITMAP_SET,
    RECORD_BITMAP_CLEAR,
    RECORD_BITMAP_CLEAR_ALL,
    RECORD_BITMAP_MERGE,
    RECORD_MARK,
    RECORD_ATTACH,
    RECORD_LOST,   /* a writer's connection ended without a detach */
    RECORD_RESUME, /* a lost writer has marked again whatever it had not settled */
    RECORD_DETACH,
    RECORD_FENCE,
    RECORD_DRIVE_DISTRUST, /* writes to the drive may have been missed; name: why */
    RECORD_CHECKPOINT_CREATE,
    RECORD_CHECKPOINT_DELETE,
    RECORD_BITMAP_DISTRUST, /* what the container has of a sealed bitmap is damaged; name: why */
    RECORD_DRIVE_UNPROVEN,  /* untracked: why untracked writing cannot be ruled out up to now */
    RECORD_DRIVE_ADOPT,     /* what stands under the path is the drive from now on */
    RECORD_TRANSACTION,     /* several others, under one sequence: all or none */
    RECORD_TYPES
};

/*
 * Why writing past the daemon cannot be ruled out for the time that a bitmap stands for, from
 * "least" to "worst".  Numbers are stored.
 */
enum untracked {
    UNTRACKED_RULED_OUT = 0,    /* as far as evidence goes */
    UNTRACKED_LOST_WRITER = 1,  /* a writer was lost for a while */
    UNTRACKED_NO_EVIDENCE = 2,  /* none was kept when the last writer went */
    UNTRACKED_INCOMPARABLE = 3, /* evidence_compare() could not say */
    UNTRACKED_HIDDEN = 4,       /* the path could not be looked at */
    UNTRACKED_UNIDENTIFIED = 5, /* the path tells no identity any more */
    UNTRACKED_NO_PATH = 6,      /* there is none */
    UNTRACKED_REASONS
};

enum durability {
    DURABILITY_POWER_LOSS = 1,
    DURABILITY_PROCESS_CRASH = 2,
};

struct range {
    uint64_t offset; /* bytes of the drive */
    uint64_t length; /* bytes, > 0 */
};

/* Identifies a client's request across repeats; all zero: none. */
struct request_id {
    uint8_t bytes[16];
};

/* A byte string that is not NUL-terminated. */
struct text {
    const char *data;
    uint32_t bytes;
};

/* Everything is borrowed for the call of model_commit(). */
struct record {
    enum record_type type;
    uint64_t sequence; /* set by model_commit() */
    uint64_t drive;    /* id; for DRIVE_ADD set by model_commit() */
    uint64_t bitmap;   /* id; for BITMAP_CREATE set by model_commit() */

    struct text name; /* new name, a writer's token, or a reason */
    struct text path; /* DRIVE_ADD */
    uint64_t size;    /* bytes: DRIVE_ADD, DRIVE_RESIZE, DRIVE_ADOPT */
    /* Of what stands under the path: DRIVE_ADD, DRIVE_ADOPT; ATTACH of a drive that had none;
     * DETACH, DRIVE_DISTRUST, DRIVE_UNPROVEN (evidence).  "" when there is none. */
    struct text identity, evidence;
    uint8_t uuid[16];         /* CHECKPOINT_CREATE */
    uint64_t created_ns;      /* CHECKPOINT_CREATE: CLOCK_REALTIME */
    enum untracked untracked; /* DRIVE_UNPROVEN; of what begins to record: set by prepare() */
    bool continues;           /* ATTACH, RESUME: it may go on without us */
    bool returning;           /* ATTACH: it was not away, only its connection */
    uint32_t granularity;
    enum durability durability; /* 0: keep (DRIVE_SET) */
    bool force;                 /* DRIVE_REMOVE */
    bool disabled;              /* BITMAP_CREATE */
    const struct range *ranges; /* MARK, BITMAP_SET, BITMAP_CLEAR */
    uint32_t ranges_count;
    const uint64_t *sources; /* BITMAP_MERGE: ids */
    uint32_t sources_count;

    /*
     * What starts or restarts recording (BITMAP_CREATE, _ENABLE, _CLEAR,
     * _CLEAR_ALL, CHECKPOINT_CREATE) sets these as well: the unsettled ranges of the drive's
     * writers, or, when they are not known, all that was recorded.  Found out
     * by model_commit(); a replay takes them as they are.
     */
    const struct range *carried;
    uint32_t carried_count;
    bool carry_whole;
    bool doubtful; /* … and is unknown: somebody writes to the drive without marks */

    /* TRANSACTION: its records, each u32 length and bytes; made by model_transaction_commit(). */
    const uint8_t *nested;
    uint32_t nested_bytes;

    struct writer *writer; /* LOST, DETACH of a living one: who, when tokens do not tell */

    struct request_id request; /* remembered with the result */
    const char *peer;          /* for the history; NULL: the daemon itself */
};

/* What an acknowledgement waits for. */
enum ack_level {
    ACK_WRITTEN,   /* outlives the process: marks of process-crash drives */
    ACK_DURABLE,   /* outlives the power: marks of power-loss drives, and all else */
    ACK_CONTAINER, /* in the container: flush */
    ACK_LEVELS
};

const char *record_type_name(enum record_type type); /* "drive-add", for history and logs */

#endif
