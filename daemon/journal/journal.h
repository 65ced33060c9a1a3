/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_JOURNAL_JOURNAL_H
#define BITMAPD_DAEMON_JOURNAL_JOURNAL_H

#include "daemon/base/file.h"
#include "proto/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The intent journal: batches of records in two files ("segments"), written
 * before an acknowledgement and read again after a crash.  format.h describes
 * the bytes.
 *
 * A record is a sequence and opaque bytes; sequences rise by one without gaps
 * from batch to batch.  A batch is what is committed together.  It is
 * self-describing (container UUID, journal instance, first sequence, count,
 * length, CRC32C), padded to 4096 bytes, and carries the durable watermark of
 * its time: the sequence up to which everything was known to be on stable
 * storage when it was written.
 *
 * Two watermarks, each the end of a contiguous prefix: *written* (pwrite(2)
 * has returned: outlives the process) and *durable* (fdatasync(2) has:
 * outlives the power).
 *
 * Each start of the daemon makes two new segments under a new random instance
 * id: they are prepared under temporary names ("PATH.0.new"), the container
 * commits that id together with what was replayed, and only then are they
 * renamed over the old ones.  So an unclean container whose instance is found
 * nowhere has lost its journal.
 *
 * Thread: all calls block on I/O; one thread at a time.
 */
struct journal;

#define JOURNAL_BLOCK_BYTES       4096u
#define JOURNAL_SEGMENT_BYTES_MIN (UINT64_C(64) << 10)
#define JOURNAL_SEGMENT_BYTES_MAX (UINT64_C(1) << 30)
#define JOURNAL_BATCH_BYTES_MAX   (UINT32_C(4) << 20) /* of records with framing in one batch */

struct journal_id {
    uint8_t bytes[16];
};

/* The files PATH.0, PATH.1, PATH.0.new, PATH.1.new.  Both pointers must outlive the journal. */
struct journal_files {
    struct file_system *system;
    const char *path;
    bool
        memory; /* for journal_create(): a memory journal is beside it, and is replayed behind it */
};

#define JOURNAL_NAME_0     "0"
#define JOURNAL_NAME_1     "1"
#define JOURNAL_NAME_0_NEW "0.new"
#define JOURNAL_NAME_1_NEW "1.new"

/* ---- Reading, at the start ---- */

struct journal_replay_options {
    struct journal_id container; /* UUID */
    struct journal_id instance;  /* that the container names; batches of others are not ours */
    uint64_t applied_seq;        /* records up to it are in the container already */
    /* Called with a record some time before it is handed out, unless something fails before: for
     * what it will look at to be fetched from memory.  Gets the same opaque; NULL: not called. */
    void (*soon)(void *opaque, const uint8_t *bytes, size_t length);
};

/* Whose files were found, beside those of the instance that the container names. */
struct journal_whose {
    /* The final names have segments of this container and of another instance, and the one that
     * the container names is found nowhere.  No crash leaves that: an instance gets the final
     * names only after the container has committed it.  So the container was put back to an
     * earlier state. */
    bool later;
    bool foreign; /* another container's */
};

struct journal_replay_report {
    bool found;  /* at least one segment of the instance is there and sound */
    bool memory; /* … and says that a memory journal has what comes behind */
    struct journal_whose whose;
    uint64_t records;     /* replayed */
    uint64_t last_seq;    /* of the last one replayed; applied_seq if none */
    uint64_t highest_seq; /* seen in any valid batch of the instance, replayed or not */
    uint64_t watermark;   /* the highest durable watermark that any valid batch carries */
    /* Something that was durable is gone or wrong: a record at or below the watermark is missing
     * or broken, a segment of the instance is missing, short or without a sound header (so always
     * when not found), a batch breaks the format's rules.  The text says what and where; "" when
     * there is no damage.  A crash alone never leaves any. */
    char damage[256];
};

/*
 * Finds all valid batches of the instance in whichever of the four files
 * hold it, and calls @record for every record above applied_seq in
 * sequence, without gaps; stops at the first gap.  A batch that is torn or
 * missing above every watermark seen is an unacknowledged tail, below one it
 * is damage.  Files are never written to.  < 0: could not read, or @record's own
 * failure (which stops the replay).  A newer format version is refused by
 * number (-ENOTSUP).
 */
int journal_replay(const struct journal_files *files, const struct journal_replay_options *options,
                   int (*record)(void *opaque, uint64_t sequence, const uint8_t *bytes,
                                 size_t length, struct error *error),
                   void *opaque, struct journal_replay_report *ret, struct error *error);

/* Looks at the segments' headers alone. */
int journal_probe(const struct journal_files *files, const struct journal_id *container,
                  const struct journal_id *instance, struct journal_whose *ret,
                  struct error *error);

/* ---- Files that the container does not need any more ---- */

int journal_remove(const struct journal_files *files, struct error *error); /* durably */
/* Whatever there is becomes PATH.0.SUFFIX and so on. */
int journal_set_aside(const struct journal_files *files, const char *suffix, struct error *error);

/* ---- Writing ---- */

/*
 * Makes two new segments of @segment_bytes (a multiple of 4096) under the
 * temporary names: header blocks, zero-written to their whole length, synced.
 * -ENOSPC and so on.
 * Replaces what has these names: the container must not need a journal any more.
 */
int journal_create(const struct journal_files *files, const struct journal_id *container,
                   const struct journal_id *instance, uint64_t segment_bytes, struct journal **ret,
                   struct error *error);
/* After the container has committed the instance: the segments take their names.  May be called
 * again after a failure; until it succeeds the journal works, and is found, all the same. */
int journal_activate(struct journal *journal, struct error *error);
void journal_close(struct journal *journal); /* takes NULL */

/* One record of a batch. */
struct journal_record {
    const uint8_t *bytes;
    uint32_t length;
};

/* The framing that each record adds to what it takes of a batch. */
#define JOURNAL_RECORD_FRAME_BYTES 4u
/* The most that a batch takes, each record with its framing: JOURNAL_BATCH_BYTES_MAX, or less if
 * segments are small. */
uint32_t journal_batch_bytes_max(const struct journal *journal);

/*
 * Writes a batch whose first record has sequence @first_seq: one more than the
 * last of the batch before or than what is covered, whichever is more (any
 * number when there is neither).  On return 0 it is written (or in the container
 * already); journal_sync() makes it durable.  With @durable, to be followed by that, it may be so
 * at once: where all before it is, one I/O does both.
 *
 * After any failure the same call may be repeated with the same batch, and must
 * be, or be followed by journal_covered() for it, before a later batch is appended:
 *   -EAGAIN: neither segment has room, or a failure needs a fresh one: the
 *     container must cover one first (journal_covered()).
 *   -EMSGSIZE: more than journal_batch_bytes_max().  -EINVAL: no batch, or a wrong sequence.
 *   Any other: the batch is not written, and everything since the last successful
 *     sync is in doubt.  The journal keeps those batches in memory, this one as
 *     well, and journal_sync() or the next append writes them again, same
 *     sequences and bytes, into a fresh segment before anything else.
 */
int journal_append(struct journal *journal, uint64_t first_seq,
                   const struct journal_record *records, uint32_t count, bool durable,
                   struct error *error);

/*
 * fdatasync(2), if any batch needs it.  0: every batch appended so far is durable.  On failure none
 * of those since the last success may be taken for durable; they are written again elsewhere by the
 * next call.  -EAGAIN: that needs a segment that the container covers.
 */
int journal_sync(struct journal *journal, struct error *error);

/* The container has everything up to @applied_seq, durably: segments up to there may be reused,
 * and both watermarks are at least that. */
void journal_covered(struct journal *journal, uint64_t applied_seq);

/* Watermarks: sequences.  A failure takes *written* back to *durable*, until what was in doubt has
 * been written again. */
uint64_t journal_written(const struct journal *journal);
uint64_t journal_durable(const struct journal *journal); /* never falls */
/* Whether a sync has failed, be it one before a segment is left, and not all that it was for has
 * been written again: what counted as written before may not even outlive the process. */
bool journal_sync_failed(const struct journal *journal);
/* Share of the room that is used by batches not covered, in 1/1000; a segment that waits to be
 * covered is used as a whole. */
uint32_t journal_fill(const struct journal *journal);

#endif
