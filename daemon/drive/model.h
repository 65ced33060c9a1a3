/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_DRIVE_MODEL_H
#define BITMAPD_DAEMON_DRIVE_MODEL_H

#include "daemon/base/file.h"
#include "daemon/bitmap/bitmap.h"
#include "daemon/drive/record.h"
#include "proto/base/error.h"
#include "proto/base/name.h"

#include <bsd/sys/tree.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <uv.h>

/*
 * The model: drives, their bitmaps and writers, in memory; the truth that all
 * answers come from.  Changes go in through model_commit() as records,
 * acknowledgements leave through model_wait(), and write-back moves the whole
 * into the container now and then.
 *
 * Thread: everything here belongs to the event loop's thread, and nothing
 * here blocks on a disk, but for model_open(), which runs before the loop.
 */
struct model;
struct drive;

#define MODEL_REASON_BYTES_MAX   200
#define MODEL_REQUESTS_MAX       1024 /* results of requests that are remembered */
#define MODEL_WRITERS_MAX        64   /* of one drive, lost ones included */
#define MODEL_PATH_BYTES_MAX     4095
#define MODEL_CHECKPOINTS_MAX    256 /* of one drive */
#define MODEL_IDENTITY_BYTES_MAX 400 /* of an identity, and of evidence */

enum validity {
    VALIDITY_EXACT = 0,
    VALIDITY_SUPERSET = 1, /* safe, may hold extra */
    VALIDITY_UNKNOWN = 2,  /* may have missed a write; answers are all dirty */
};

/* A moment in a drive's history. */
struct checkpoint {
    uint8_t uuid[16];
    uint64_t sequence;   /* of the record that made it */
    uint64_t created_ns; /* CLOCK_REALTIME */
};

/*
 * A bitmap of a drive.  Read freely; only apply() functions write.
 *
 * It is one of the user's, or a checkpoint's, which records until the next checkpoint is made and
 * is sealed then.  The bits of a sealed one that the container has need not be in memory.
 */
struct drive_bitmap {
    uint64_t id;
    struct model *model; /* NULL while it is in none */
    struct drive *drive;
    char name[NAME_BYTES_MAX + 1]; /* the checkpoint's, if it has one */
    struct checkpoint *checkpoint; /* owned; NULL: a bitmap of the user's */
    uint32_t granularity;          /* bytes */
    struct bitmap *bits;           /* owned; NULL: sealed, and in the container only */
    uint64_t dirty_count;          /* granules, and */
    uint64_t dirty_bytes;          /* … bytes, as last counted while bits were there */
    bool recording;
    bool gap; /* not recording, and has skipped a mark since; never of a checkpoint's */
    enum validity validity;
    char reason[MODEL_REASON_BYTES_MAX + 1]; /* of a validity that is not exact */
    enum untracked untracked;

    uint64_t changed;   /* sequence of the last change to anything but bits */
    uint64_t committed; /* everything up to this sequence is in the container */
    bool stored;        /* the container has an entry for it */
    bool rewrite;       /* what the container has is damaged: all of it is to be written */

    TAILQ_ENTRY(drive_bitmap) recording_entry; /* drive->recording, while recording */
    TAILQ_ENTRY(drive_bitmap) of_drive;        /* drive->all */
    TAILQ_ENTRY(drive_bitmap) in_history;      /* drive->history, of a checkpoint's */
    TAILQ_ENTRY(drive_bitmap) in_cache;        /* model's, while sealed with bits */
    uint64_t cached_bytes;                     /* as counted for the cache's limit */
    RB_ENTRY(drive_bitmap) by_id;              /* model's tree */
    RB_ENTRY(drive_bitmap) by_name;            /* drive->bitmaps, of the user's */
};

/* Trees and lists are intrusive, so that entering one cannot fail. */
TAILQ_HEAD(drive_bitmap_list, drive_bitmap);
RB_HEAD(drive_bitmap_names, drive_bitmap);

struct writer;
TAILQ_HEAD(writer_list, writer);

struct drive {
    uint64_t id;
    char name[NAME_BYTES_MAX + 1];
    char *path;           /* owned, or NULL */
    uint64_t size;        /* bytes, >= 1 */
    uint32_t granularity; /* of new bitmaps, in bytes */
    enum durability durability;

    char *identity; /* owned: of what stands under the path; NULL: not known */
    char *evidence; /* owned: of writing, as of the last detach; NULL: none, or void */

    struct drive_bitmap_list all;       /* of both kinds */
    struct drive_bitmap_names bitmaps;  /* the user's, by name */
    struct drive_bitmap_list history;   /* the checkpoints', eldest first: only the last records */
    struct drive_bitmap_list recording; /* those that take marks */
    uint32_t bitmaps_count;             /* the user's */
    uint32_t checkpoints_count;
    uint32_t recording_count;
    uint64_t marked;   /* sequence of the last mark */
    bool unrecorded;   /* that it is distrusted: there was no room; it is the next record's turn */
    uint32_t ungapped; /* neither recording nor with a gap yet: the next mark makes one */
    struct writer_list writers;
    uint32_t writers_count;

    RB_ENTRY(drive) by_id; /* model's trees */
    RB_ENTRY(drive) by_name;
};

/* What the model takes from the configuration and from the host. */
struct model_settings {
    /* The next eight cannot change while running. */
    struct file_system *files; /* where container and journal are */
    uint8_t boot_id[16];       /* of this boot of the host */
    const char *container_path;
    uint32_t cluster_bits;
    const char *journal_path; /* of the segments PATH.0 and PATH.1 */
    const char *memory_path;  /* of the memory journal's; NULL: none.  Used only in a tmpfs(5) */
    uint64_t journal_segment_bytes;
    const char *catalog_path;
    uint32_t catalog_events;
    uint64_t container_bytes_max; /* 0: no limit */
    uint64_t flush_interval_ns;
    uint64_t flush_dirty_limit; /* bytes */
    uint32_t granularity;       /* of drives that name none */
    enum durability durability;
    uint32_t drives_max;
    uint32_t bitmaps_max;
    uint64_t memory_max;       /* bytes of dense chunks in the worst case; 0: no limit */
    uint64_t cache_max;        /* bytes of sealed bitmaps that the container has as well */
    uint32_t retention_count;  /* checkpoints of a drive; 0: no limit but MODEL_CHECKPOINTS_MAX */
    uint64_t retention_age_ns; /* of a checkpoint; 0: no limit */
    bool unproven_is_unknown;  /* identity.on_unproven */
    uint32_t unsettled_max;    /* of one writer */
};

/* What a mark of this drive waits for. */
enum ack_level drive_ack_level(const struct drive *drive);

enum model_open_flags {
    MODEL_ACCEPT_COPY = 1 << 0, /* the operator vouches for a container that was copied */
    MODEL_DISTRUST = 1 << 1,    /* start with every bitmap unknown */
};

/*
 * The start, up to where listening may begin; blocks.  Makes the container
 * when there is none.  -EBADMSG, -ENOTSUP: the container, or the journal that it needs,
 * is not understood (damaged, or of a newer version), and nothing has been written to either.
 * @settings is copied.
 */
int model_open(uv_loop_t *loop, const struct model_settings *settings, unsigned flags,
               struct model **ret, struct error *error);

const struct model_settings *model_get_settings(const struct model *model);
uint64_t model_sequence(const struct model *model);             /* of the last record */
const uint8_t *model_container_uuid(const struct model *model); /* 16 bytes */
/* Why the container cannot be written at the moment, "" when it can. */
const char *model_degraded_reason(const struct model *model);

/* Takes what may change while running. */
void model_configure(struct model *model, const struct model_settings *settings);

/*
 * The orderly end: writes everything back, marks the container clean, closes
 * all handles, frees the model, then calls @closed with 0 or -errno.  All
 * writers and waiters must be gone.  Unions are cancelled: the last write-back
 * waits for what is being read of one part at most.
 */
void model_close(struct model *model, void (*closed)(void *opaque, int r), void *opaque);

/* ---- Look-up ---- */

/* NULL with words when there is none; @error may be NULL. */
struct drive *model_drive_by_name(struct model *model, struct text name, struct error *error);
struct drive *model_drive_by_id(struct model *model, uint64_t id);
/* "DRIVE/NAME"; NULL with words when there is none. */
struct drive_bitmap *model_bitmap_by_name(struct model *model, struct text full,
                                          struct error *error);
struct drive_bitmap *model_bitmap_by_id(struct model *model, uint64_t id);
/* "NAME", or "NAME@UUID", which fits that one only; NULL with words when there is none. */
struct drive_bitmap *model_checkpoint_by_name(struct drive *drive, struct text name,
                                              struct error *error);
/* In the order of creation, which is that of ids: the first with an id above @after. */
struct drive *model_drive_after(struct model *model, uint64_t after);
struct drive_bitmap *model_bitmap_after(struct model *model, uint64_t after);

/* ---- Changes ---- */

/*
 * Validates, numbers and applies one record.  0, or -errno with words and
 * nothing changed: -EINVAL, -ENOENT, -EEXIST, -EBUSY, -EDQUOT (a limit),
 * -ENOMEM, -EROFS (changes are refused, see struct model_status.degraded_reason); -EAGAIN: bits of
 * sealed bitmaps have to be read first, see model_fetch().
 */
int model_commit(struct model *model, struct record *record, struct error *error);

/*
 * Records that are committed together: between begin and commit, model_commit() applies each at
 * once, but nothing of it is numbered or journaled; all of them become one record in the end, or
 * are undone.  Only records about bitmaps and checkpoints; others are -EINVAL.  The caller does not
 * return to the loop in between.
 */
int model_transaction_begin(struct model *model, struct error *error);
/* @request and @peer as in struct record.  Whatever the outcome, the transaction is over. */
int model_transaction_commit(struct model *model, const struct request_id *request,
                             const char *peer, uint64_t *ret_sequence, struct error *error);
void model_transaction_abort(struct model *model);
/* The id given last; ids are given in order. */
uint64_t model_last_id(const struct model *model);
/* Deletes the eldest checkpoints of drives that have too many, or too old ones. */
void model_enforce_retention(struct model *model);

/*
 * Notes what bits deleting @bitmap, a checkpoint's, will need: 0, or -EAGAIN.  For requests that
 * delete several, so that all is read at once; model_want_nothing() comes before the first.
 */
int model_want_deleted(struct model *model, struct drive_bitmap *bitmap, struct error *error);
void model_want_nothing(struct model *model);
/*
 * To be called at the end of a turn, before its answers are sent: acknowledges what need not wait
 * for a disk.  Waiters may be told before this returns.
 */
void model_express(struct model *model);

/*
 * Reads the bits that the last model_commit() with -EAGAIN was in want of, on the container's
 * thread.  While the fetch is held, they stay in memory.
 */
struct model_fetch {
    /* Loop's thread, once: 0, or -errno with words.  Not after model_fetch_release(). */
    void (*done)(struct model_fetch *fetch, int r, const struct error *error);
    struct fetch_work *work; /* NULL: none is under way */
    struct model *model;
};

int model_fetch(struct model *model, struct model_fetch *fetch, struct error *error);
/* Lets go of them; cancels what is under way. */
void model_fetch_release(struct model_fetch *fetch);

/* The remembered result of a request, if it was done before. */
struct request_result {
    struct request_id id;
    enum record_type type;
    uint64_t sequence;
    uint64_t object;                   /* id of the drive or bitmap that it made or changed;
                                        * of a transaction the one made last, or 0 */
    TAILQ_ENTRY(request_result) entry; /* oldest first */
    RB_ENTRY(request_result) by_id;
};

const struct request_result *model_request_find(struct model *model, const struct request_id *id);

/* ---- Acknowledgements ---- */

struct model_waiter {
    /* Once: 0, or -EINPROGRESS when the change is applied but could not be made durable (the
     * cause is model_status.degraded_reason). */
    void (*done)(struct model_waiter *waiter, int r);
    uint64_t sequence;
    enum ack_level level;
    TAILQ_ENTRY(model_waiter) entry;
};

/*
 * Calls done() when everything up to @sequence has reached @level: at once, or
 * later from the loop.  Starts a write-back when one is needed for that.
 */
void model_wait(struct model *model, uint64_t sequence, enum ack_level level,
                struct model_waiter *waiter);
void model_wait_cancel(struct model *model, struct model_waiter *waiter);

/* ---- Writers ---- */

/*
 * A writer is a connection's relation to one drive: attached under a token, or
 * anonymous (marks without an attach).  It keeps the marks that are not
 * settled.  A lost writer has no connection and is kept by the drive.
 */

/* What is known of the drive's path; texts as in struct record. */
struct drive_sight {
    bool seen;            /* it could be looked at */
    struct text identity; /* "": the path tells none */
    struct text evidence; /* "": it tells none */
};

struct writer_attachment {
    struct text token;
    const char *peer;
    bool continues; /* may go on without us: being lost makes the drive unknown */
    bool returning; /* the same process, which has written nothing without a mark since */
    const struct drive_sight *sight; /* NULL: the drive has no path */
};

/*
 * The writer of a new connection that attaches under its token; commits a record, and before it
 * what the evidence tells.  -EBUSY: in use by a connection; -EXDEV: another drive stands under the
 * path.  *ret_resuming: the token was lost before.
 */
int writer_attach(struct model *model, struct drive *drive, const struct writer_attachment *how,
                  struct writer **ret, uint64_t *ret_sequence, bool *ret_resuming,
                  struct error *error);
/* An anonymous writer. */
int writer_new(struct model *model, struct drive *drive, struct writer **ret, struct error *error);

/* Brings the first bit of each range near the processor: many marks are all over the bitmap, and
 * their cache lines come at once, not one by one.  Ranges beyond the drive's end are skipped. */
void drive_prefetch(const struct drive *drive, const struct range *ranges, uint32_t count);

/*
 * Marks ranges for a writer that settles at once, or for none: dirty in every
 * recording bitmap when it returns, in memory.  Stores the sequence that an
 * acknowledgement waits for; 0 when everything was dirty already.
 */
int drive_mark(struct model *model, struct drive *drive, const struct range *ranges, uint32_t count,
               uint64_t *ret_sequence, struct error *error);

/*
 * Marks ranges of the writer's drive: dirty in every recording bitmap when it
 * returns, in memory.  With @first_id they are unsettled until settled by id;
 * ids rise.  Stores the sequence that an acknowledgement waits for.
 * -EDQUOT: too many unsettled marks; -EOWNERDEAD: fenced.
 */
int writer_mark(struct model *model, struct writer *writer, uint64_t first_id,
                const struct range *ranges, uint32_t count, uint64_t *ret_sequence,
                struct error *error);
/* Ids that are not unsettled are passed over: a settle may be sent twice. */
int writer_settle(struct writer *writer, uint64_t first_id, uint64_t count, struct error *error);
int writer_resume(struct model *model, struct writer *writer, const char *peer,
                  uint64_t *ret_sequence, struct error *error);
/* -EBUSY while marks are unsettled.  Frees an attached writer.  @evidence: "" for none. */
int writer_detach(struct model *model, struct writer *writer, const char *peer,
                  struct text evidence, uint64_t *ret_sequence, struct error *error);
/* The connection ended: what is not settled stays, with the drive.  The pointer is dead. */
void writer_lost(struct model *model, struct writer *writer);

/* True once its token was taken away: every call refuses but writer_lost(). */
bool writer_is_fenced(const struct writer *writer);

/* Leaves an event that is no change in the history.  Strings may be NULL, and are copied. */
void model_note(struct model *model, const char *kind, const char *drive, const char *peer,
                const char *detail);

/* ---- What users read ---- */

struct drive_status {
    uint32_t writers; /* connected and attached */
    uint32_t lost_writers;
    uint64_t unsettled; /* marks of all */
};

void drive_get_status(const struct drive *drive, struct drive_status *ret);

/* In words; "" for UNTRACKED_RULED_OUT. */
const char *untracked_words(enum untracked untracked);
/* Whether a writer is connected to it. */
bool drive_is_watched(const struct drive *drive);
/* Of what would begin to record now. */
enum untracked drive_untracked(const struct drive *drive);
/* What an answer says: the bitmap's own, or worse while it records and nobody watches. */
enum untracked drive_bitmap_untracked(const struct drive_bitmap *bitmap);
/*
 * For a drive that is not watched: holds what is seen of it against the evidence kept; when that
 * differs or is missing, commits the verdict with new evidence.  @sight may be NULL if there are
 * lost writers, for which there is nothing to compare.
 */
int drive_compare_evidence(struct model *model, struct drive *drive,
                           const struct drive_sight *sight, struct error *error);

/* Dirty granules and bytes as answered: everything for an unknown bitmap. */
uint64_t drive_bitmap_dirty_count(const struct drive_bitmap *bitmap);
uint64_t drive_bitmap_dirty_bytes(const struct drive_bitmap *bitmap);

/*
 * A snapshot of what a map answers: the bits, or all dirty for an unknown
 * bitmap, which must be one of the user's.  The caller frees it (bitmap_free()).  -ENOMEM.
 */
int drive_bitmap_map(const struct drive_bitmap *bitmap, struct bitmap **ret);

/*
 * What was written after checkpoint @since, up to @until (younger) or, when that is NULL, up to
 * now: the union of their bitmaps, at the finest granularity among them.
 */
struct model_union {
    /* Loop's thread, once: 0 and @bits, or -errno with words. */
    void (*done)(struct model_union *work, int r, const struct error *error);
    struct bitmap *bits; /* owned by whoever made the request, from done() on */
    enum validity validity;
    char reason[MODEL_REASON_BYTES_MAX + 1];
    enum untracked untracked;
    bool recording;
    uint32_t granularity;
    uint64_t size;
    uint64_t sequence;
    struct union_work *work; /* NULL: none is under way */
};

/*
 * Begins, or waits for its turn: two are made at a time, at most one of which reads out of the
 * container.  Until done(), @ret says what it would answer now.  Answered is what was there when it
 * was begun, which is @sequence from done() on, and maybe marks of a later moment.  -EINVAL: @until
 * is not younger; -ENOMEM; then done() is not called, nor is it before this returns.  To done():
 * -ENOENT: one of the checkpoints is gone; -EBUSY: checkpoints are changed faster than they are
 * read, so try again; -ENOMEM and I/O errors.
 *
 * One that waits costs some KiB; how many may, is for the caller to limit.
 */
int model_union(struct model *model, const struct drive_bitmap *since,
                const struct drive_bitmap *until, struct model_union *ret, struct error *error);
/* done() is not called any more, and nothing refers to @work.  When none is under way: nothing. */
void model_union_cancel(struct model_union *work);

struct model_status {
    const uint8_t *container_uuid; /* 16 bytes */
    const char *container_path;
    uint64_t sequence;
    uint64_t applied_seq;
    uint32_t drives;
    uint32_t bitmaps;
    uint32_t unknown_bitmaps;
    uint64_t marks;
    uint64_t memory_bytes;
    uint64_t dirty_memory_bytes;
    uint64_t flushes;
    uint64_t container_bytes;
    const char *degraded_reason; /* "" when well */
    int64_t degraded_since_ns;   /* CLOCK_REALTIME */
    const char *start_report;
};

/* Strings are borrowed until the next change.  The two sums of memory may be 100 ms old. */
void model_get_status(struct model *model, struct model_status *ret);

/*
 * For a watchdog, some seconds apart: whether the threads of the container, the journal and the
 * catalog still take jobs (worker_is_alive()).  True also while a disk hangs.
 */
bool model_is_alive(struct model *model);

#endif
