/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_JOURNAL_INTERNAL_H
#define BITMAPD_DAEMON_JOURNAL_INTERNAL_H

#include "daemon/journal/format.h"
#include "daemon/journal/journal.h"

#include "proto/base/cleanup.h"

#include <inttypes.h>
#include <sys/queue.h>

#define JOURNAL_SEGMENTS 2u

/* ---- files.c: @name is one of JOURNAL_NAME_… ---- */

/* @create replaces what is there. */
int journal_files_open(const struct journal_files *files, const char *name, bool create,
                       struct file **ret, struct error *error);
/* … durably. */
int journal_files_rename(const struct journal_files *files, const char *from, const char *to,
                         struct error *error);
/* 0 also when there is none; not yet durable. */
int journal_files_unlink(const struct journal_files *files, const char *name, struct error *error);
int journal_files_sync(const struct journal_files *files, struct error *error);

/* ---- segment.c: segment headers ---- */

struct journal_segment_header {
    struct journal_id container, instance;
    uint64_t segment_bytes;
    uint32_t index;
    bool memory; /* there is a memory journal beside it */
};

void journal_segment_header_build(const struct journal_segment_header *header,
                                  uint8_t block[JOURNAL_BLOCK_BYTES]);

enum journal_segment_verdict {
    JOURNAL_SEGMENT_SOUND,
    JOURNAL_SEGMENT_FOREIGN, /* sound as far as can be told, and another container's */
    JOURNAL_SEGMENT_OTHER,   /* the same, and another instance's of this container */
    JOURNAL_SEGMENT_NEWER,   /* ours, of a version that we do not know; words in @error */
    JOURNAL_SEGMENT_BROKEN,  /* words in @error */
};

/* @ret is filled when the header is sound. */
enum journal_segment_verdict journal_segment_header_parse(const uint8_t block[JOURNAL_BLOCK_BYTES],
                                                          const struct journal_id *container,
                                                          const struct journal_id *instance,
                                                          struct journal_segment_header *ret,
                                                          struct error *error);

/* The names of segment @index, final or temporary. */
const char *journal_segment_name(unsigned index, bool temporary);

/* ---- batch.c: one batch, to and from bytes ---- */

struct journal_batch {
    uint64_t first_seq, last_seq; /* inclusive */
    uint64_t watermark;
    uint32_t count;
    uint32_t length; /* of the records with their framing */
    uint32_t crc;    /* of the same */
};

/* With header and padding; @length is at most JOURNAL_BATCH_BYTES_MAX. */
uint32_t journal_batch_padded_bytes(uint32_t length);

bool journal_id_equal(const struct journal_id *a, const struct journal_id *b);

/* @bytes, padded length, holds the framed records at BATCH_HEADER_BYTES already. */
void journal_batch_header_build(const struct journal_batch *batch,
                                const struct journal_id *container,
                                const struct journal_id *instance, uint8_t *bytes);

enum journal_batch_verdict {
    JOURNAL_BATCH_COUNTS,
    JOURNAL_BATCH_NONE,      /* nothing of ours, or torn */
    JOURNAL_BATCH_MALFORMED, /* words in @error */
    JOURNAL_BATCH_NEWER,     /* words in @error */
};

/*
 * The rules of the header alone, from which on @ret->length can be relied on.  @room: bytes from
 * the batch's beginning to the segment's end.
 */
enum journal_batch_verdict
journal_batch_header_parse(const uint8_t header[BATCH_HEADER_BYTES], uint64_t room,
                           const struct journal_id *container, const struct journal_id *instance,
                           struct journal_batch *ret, struct error *error);

/* The rules of the records, @batch->length bytes at @records. */
enum journal_batch_verdict journal_batch_records_check(const struct journal_batch *batch,
                                                       const uint8_t *records, struct error *error);

/* ---- scan.c: all batches that count ---- */

/* Where a batch that counts was found. */
struct journal_found {
    struct journal_batch batch;
    uint64_t offset;
    unsigned source; /* index into journal_scan.sources */
};

struct journal_source {
    const char *name;
    bool final;        /* not a temporary name */
    struct file *file; /* NULL: not there, or another instance's */
    uint64_t bytes;    /* that are scanned */
};

#define JOURNAL_SOURCES (2 * JOURNAL_SEGMENTS)

/* A part of a file in memory. */
struct journal_window {
    uint8_t *bytes;
    uint64_t capacity;
    struct file *file; /* NULL: nothing */
    uint64_t offset, length;
};

struct journal_scan {
    struct journal_source sources[JOURNAL_SOURCES];
    struct journal_found *found; /* sorted by first sequence */
    size_t count, capacity;
    struct journal_window window;
    unsigned sound;   /* bit per segment of which a sound header was found */
    bool memory;      /* … and one of them tells of a memory journal */
    bool other;       /* a final name has a segment of another instance of the container */
    bool foreign;     /* a name has a segment of another container */
    char damage[256]; /* the first that was met; "" if none */
};

/* @scan is all zero before, and to be deinited whatever comes back: the sources, and whose they
 * are; then their batches as well. */
int journal_scan_open(struct journal_scan *scan, const struct journal_files *files,
                      const struct journal_replay_options *options, struct error *error);
int journal_scan_run(struct journal_scan *scan, const struct journal_files *files,
                     const struct journal_replay_options *options, struct error *error);
void journal_scan_deinit(struct journal_scan *scan);

/* @length bytes of the source at @offset, which lie within its bytes; valid until the next call. */
int journal_scan_read(struct journal_scan *scan, const struct journal_source *source,
                      uint64_t offset, uint32_t length, const uint8_t **ret, struct error *error);

/* Keeps the first damage. */
void journal_scan_damage(struct journal_scan *scan, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* ---- write.c ---- */

/* A batch that is not durable yet. */
struct journal_pending {
    TAILQ_ENTRY(journal_pending) link;
    struct journal_batch batch;
    uint32_t bytes_length; /* padded */
    uint32_t capacity;
    uint8_t *bytes; /* JOURNAL_BLOCK_BYTES-aligned */
};

/* Kept for the batches to come, so that a stream of them allocates nothing. */
#define JOURNAL_SPARES      4u
#define JOURNAL_SPARE_BYTES (UINT32_C(256) << 10) /* of each, at most */

TAILQ_HEAD(journal_pending_list, journal_pending);

struct journal_segment {
    struct file *file;
    uint64_t position; /* where the next batch goes */
    uint64_t last_seq; /* highest of any batch that was tried to be written into it; 0: none */
    bool rename_tried, named;
};

/*
 *                    write or sync fails
 *     JOURNAL_GOOD ----------------------> JOURNAL_DOUBT
 *          ^                                    |
 *          +------------------------------------+
 *            all pending written into the other segment
 */
enum journal_state {
    JOURNAL_GOOD,
    JOURNAL_DOUBT, /* nothing pending is known to be where it was written */
};

struct journal {
    struct journal_files files;
    struct journal_id container, instance;
    uint64_t segment_bytes;
    struct journal_segment segments[JOURNAL_SEGMENTS];
    unsigned active;
    enum journal_state state;
    struct journal_pending_list pending; /* by sequence; all in the active segment */
    struct journal_pending_list spares;  /* used before, and to be used again */
    unsigned spares_count;
    uint64_t last_seq; /* of the last batch that was taken; 0: none yet */
    uint64_t written, durable, applied;
    bool sync_failed; /* which is why it is in doubt */
    /* The batch whose append failed after it had been taken, so that its repetition is known. */
    bool repeatable;
    struct journal_batch repeat;
};

void journal_pending_free(struct journal_pending *pending); /* takes NULL */
DEFINE_CLEANUP(struct journal_pending *, journal_pending_free)

#endif
