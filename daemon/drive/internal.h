/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_DRIVE_INTERNAL_H
#define BITMAPD_DAEMON_DRIVE_INTERNAL_H

/* Shared by the files of daemon/drive only. */

#include "daemon/base/worker.h"
#include "daemon/container/container.h"
#include "daemon/drive/history.h"
#include "daemon/drive/model.h"
#include "daemon/journal/journal.h"
#include "proto/base/cleanup.h"

RB_HEAD(drives_by_id, drive);
RB_HEAD(drives_by_name, drive);
RB_HEAD(bitmaps_by_id, drive_bitmap);
RB_HEAD(requests_by_id, request_result);
TAILQ_HEAD(request_list, request_result);
TAILQ_HEAD(waiter_list, model_waiter);

RB_PROTOTYPE(drives_by_id, drive, by_id, drive_compare_id)
RB_PROTOTYPE(drives_by_name, drive, by_name, drive_compare_name)
RB_PROTOTYPE(bitmaps_by_id, drive_bitmap, by_id, drive_bitmap_compare_id)
RB_PROTOTYPE(drive_bitmap_names, drive_bitmap, by_name, drive_bitmap_compare_name)
RB_PROTOTYPE(requests_by_id, request_result, by_id, request_compare)

struct writeback;

/* Where unions are made (union.c); in each lane one is worked on. */
enum union_lane_kind {
    UNION_LANE_MEMORY,
    UNION_LANE_READS, /* out of the container */
    UNION_LANES,      /* so many are worked on at a time */
};

TAILQ_HEAD(union_list, union_work);

struct union_lane {
    struct union_work *running; /* a step of it is under way; or NULL */
    struct union_list queue;    /* in the order of requests */
};

/* An entry of the container that a damaged state left behind. */
struct replaced_entry {
    uint32_t index; /* in the table of the last commit */
    uint64_t id;    /* there; 0: none */
};

struct model {
    uv_loop_t *loop;
    struct model_settings settings;
    char *container_path; /* owned; settings.container_path points here */
    char *journal_path;   /* likewise */
    struct journal_files journal_files;
    /* … of the memory journal, which marks of process-crash drives need not wait for a disk with;
     * path NULL: there is none. */
    char *memory_path;
    struct journal_files memory_files;

    struct drives_by_id drives;
    struct drives_by_name drive_names;
    struct bitmaps_by_id bitmaps;
    uint32_t drives_count;
    uint32_t bitmaps_count;
    uint32_t unknown_count; /* of those */
    uint64_t bits_bytes;    /* of all bitmaps but sealed ones when every chunk is dense */
    uint64_t next_id;       /* of drives and bitmaps */
    uint64_t sequence;      /* of the last record */
    uint64_t marks;         /* ranges, since the start */

    struct requests_by_id requests;
    struct request_list requests_order;
    uint32_t requests_count;

    struct waiter_list waiters[ACK_LEVELS]; /* by rising sequence */

    struct drive_bitmap_list removed; /* gone, but their entries are still in the container */
    /* Entries of the container that the first commit replaces. */
    struct replaced_entry *replaced;
    uint32_t replaced_count;
    /* Names of container entries that are not ours, sorted: taken. */
    char **foreign_names;
    uint32_t foreign_count;

    struct drive_bitmap_list cache; /* sealed bitmaps with bits, those first that are to go first */
    uint64_t cache_bytes;
    uint32_t fetches; /* that are held: nothing leaves the cache */
    uint64_t *needed; /* ids: what the last -EAGAIN was in want of */
    uint32_t needed_count, needed_capacity;
    struct container *loading;       /* at the start: where sealed bits are read from */
    struct transaction *transaction; /* that is open */
    uint32_t carried_left;           /* ranges that the record or transaction may still carry */

    struct union_lane unions[UNION_LANES];
    struct retention *retention;
    struct writeback *writeback;
    struct journaling *journaling;
    struct journal_id instance; /* of the journal that the next commit names */
    bool unrecorded;            /* a verdict on a drive, see there */
    bool replaying;             /* records come from a journal: limits and unsettled marks rest */
    struct history *history;
    struct uuid boot_id;
    uint64_t memory_bytes, dirty_memory_bytes; /* as last summed up, good until: */
    uint64_t sums_until_ms;
    char start_report[4096];

    void (*closed)(void *opaque, int r); /* from model_close() on */
    void *closed_opaque;
    int close_r;
};

/* ---- model.c ---- */

/* An object of its own, not in any tree; -ENOMEM.  Freed by drive_free() / drive_bitmap_free(). */
int drive_new(uint64_t id, struct text name, struct text path, struct drive **ret);
void drive_free(struct drive *drive); /* takes NULL; its bitmaps and writers must be gone */
/* Takes over @bits on success; NULL: they are in the container only. */
int drive_bitmap_new(uint64_t id, struct text name, uint32_t granularity, struct bitmap *bits,
                     struct drive_bitmap **ret);
void drive_bitmap_free(struct drive_bitmap *bitmap); /* takes NULL */
DEFINE_CLEANUP(struct drive *, drive_free)
DEFINE_CLEANUP(struct drive_bitmap *, drive_bitmap_free)

/* Entering and leaving the trees and counters; cannot fail. */
void model_link_drive(struct model *model, struct drive *drive);
void model_unlink_drive(struct model *model, struct drive *drive);
void model_link_bitmap(struct model *model, struct drive *drive, struct drive_bitmap *bitmap);
void model_unlink_bitmap(struct model *model, struct drive_bitmap *bitmap);
/* Keeps recording list, counters and gap counter of the drive right. */
void drive_bitmap_set_recording(struct drive_bitmap *bitmap, bool recording, bool gap);
void drive_bitmap_set_validity(struct drive_bitmap *bitmap, enum validity validity,
                               const char *format, ...) __attribute__((format(printf, 3, 4)));
/* The worse of what it is and @validity, with the reason of whichever it is. */
void drive_bitmap_worsen(struct drive_bitmap *bitmap, enum validity validity, const char *format,
                         ...) __attribute__((format(printf, 3, 4)));
/* Marks of the drive may be lost: what records is unknown, what does not may have skipped one. */
void drive_bitmap_distrust(struct drive_bitmap *bitmap, uint64_t sequence, const char *reason);
/* False when the text cannot be any object's name. */
bool name_store(char name[NAME_BYTES_MAX + 1], struct text text);
struct drive_bitmap *drive_bitmap_by_name(struct drive *drive, struct text name);
/* The bitmap that the container calls so, or NULL. */
struct drive_bitmap *model_bitmap_by_entry(struct model *model, struct text full);
/*
 * "DRIVE@SEQUENCE.NAME": where the drive's name ends, the sequence, where the checkpoint's name
 * begins.  -EINVAL.
 */
int checkpoint_name_split(struct text full, uint32_t *ret_drive_bytes, uint64_t *ret_sequence,
                          uint32_t *ret_name_offset);
static inline bool drive_bitmap_is_sealed(const struct drive_bitmap *bitmap)
{
    return bitmap->checkpoint && !bitmap->recording;
}
/* Replaces the bits, and keeps the cache's books; returns the old ones.  NULL: drops them. */
struct bitmap *drive_bitmap_swap_bits(struct drive_bitmap *bitmap, struct bitmap *bits);
/* Bytes of bits when every chunk is dense. */
uint64_t drive_bits_bytes(uint64_t size, uint32_t granularity);
/* As the container names it into @buffer: "DRIVE/NAME", or "DRIVE@SEQUENCE.NAME". */
#define BITMAP_FULL_NAME_BYTES (2 * NAME_BYTES_MAX + 24)
void drive_bitmap_full_name(const struct drive_bitmap *bitmap, char buffer[BITMAP_FULL_NAME_BYTES]);
/* After the last foreign name is in, and before the first question. */
void model_sort_foreign_names(struct model *model);
/* Whether an entry of the container that is not ours has this name. */
bool model_name_is_foreign(const struct model *model, const char *full);
/* Remembers a request's result, forgetting the oldest beyond the limit; takes over @result. */
void model_request_add(struct model *model, struct request_result *result);
/* Forgets all drives, bitmaps, writers and requests. */
void model_clear(struct model *model);
void model_free(struct model *model); /* takes NULL; handles must be closed */
int64_t model_wall_clock_ns(void);    /* CLOCK_REALTIME */
DEFINE_CLEANUP(struct model *, model_free)

/* ---- writer.c ---- */

struct unsettled_mark {
    uint64_t id;
    struct range range; /* length 0: settled */
    uint32_t next;      /* of a settled one: all before this index are settled too */
};

struct writer {
    struct drive *drive;
    char token[NAME_BYTES_MAX + 1]; /* "" for an anonymous one */
    bool connected;
    bool resuming;      /* connected again, RESUME not yet seen */
    bool fenced;        /* its token was taken while connected */
    bool unaccounted;   /* it may have unsettled writes that nobody here knows */
    bool continues;     /* it may go on without us: to lose it is to lose track of the drive */
    bool will_continue; /* what it said when it attached, which counts when it has resumed */
    bool went_on;       /* resuming, and it has gone on while it was away */
    bool rebooted;      /* lost, and the host has been down since: it writes nothing any more */
    /* Marks of this connection by rising id; those before @head are settled. */
    struct unsettled_mark *marks;
    uint32_t head, count, capacity;
    uint32_t settled; /* of those in [head, count) */
    uint64_t last_id;
    /* Ranges of lost connections that were not settled, until RESUME or fencing. */
    struct range *carried;
    uint32_t carried_count;
    TAILQ_ENTRY(writer) entry; /* drive->writers */
};

/* Of several, which only anonymous ones can be, rather one that is connected. */
struct writer *drive_writer_by_token(struct drive *drive, struct text token);
/* A writer that is not connected, as read at the start. */
int writer_new_lost(struct drive *drive, struct text token, bool unaccounted, struct writer **ret);
void writer_free(struct writer *writer); /* takes NULL; not in a list */
DEFINE_CLEANUP(struct writer *, writer_free)
void drive_add_writer(struct drive *drive, struct writer *writer);
void drive_remove_writer(struct drive *drive, struct writer *writer);
/* In front of @next, or as the last. */
void drive_restore_writer(struct drive *drive, struct writer *writer, struct writer *next);
/* It was lost: if it goes on without us, it writes what nobody marks from here on. */
void writer_lose_track(struct drive *drive, const struct writer *writer, uint64_t sequence);
/* Drops what is carried for a writer. */
void writer_forget_carried(struct writer *writer);
bool drive_has_unaccounted(const struct drive *drive);
uint32_t writer_unsettled(const struct writer *writer);

/*
 * The unsettled ranges of all the drive's writers; or @ret_whole when they are
 * not all known, or more than @limit.  The caller frees *ret.  -ENOMEM.
 */
#define DRIVE_CARRIED_MAX 65536u
int drive_collect_unsettled(const struct drive *drive, uint32_t limit, struct range **ret,
                            uint32_t *ret_count, bool *ret_whole);
/* Whether a writer that goes on without us is lost, or has not resumed. */
bool drive_is_doubtful(const struct drive *drive);

/* ---- sealed.c: bits that are in the container only ---- */

/*
 * Has the bitmap's bits in memory: at once during a replay, else -EAGAIN, and model_fetch() is to
 * be called.  All that a record needs is to be asked for before -EAGAIN is returned.
 */
int sealed_need(struct model *model, struct drive_bitmap *bitmap, struct error *error);
/* Something is committed: lets go of what is over the cache's limit. */
void sealed_evict(struct model *model);
/* For the caller to free; -ENOMEM, -EBADMSG and I/O errors with words.  Any one thread. */
int sealed_read(struct container *container, uint64_t id, uint64_t size, uint32_t granularity,
                uint32_t chunk_bytes, struct bitmap **ret, struct error *error);

/* What the container has of a sealed bitmap is damaged: records that, with words in the log. */
int sealed_distrust(struct model *model, struct drive_bitmap *bitmap, const char *reason,
                    struct error *error);

/* ---- union.c ---- */

void unions_init(struct model *model);
/*
 * The end begins: all are cancelled.  Of those that are worked on the step under way goes on; on
 * libuv's pool it may end when the model is gone, of which it touches nothing.
 */
void unions_close(struct model *model);

/* ---- retention.c ---- */

int retention_new(struct model *model, struct retention **ret);
void retention_close(struct retention *retention, void (*closed)(struct model *model));
/* A start that fails; blocks. */
void retention_abandon(struct retention *retention);

/* ---- state.c: the payload of the container's state blob ---- */

int state_encode(struct model *model, uint8_t **ret_payload, size_t *ret_bytes);
/*
 * Rebuilds drives, bitmaps (all clean, not stored), writers and requests in an
 * empty model.  -EBADMSG, or -ENOTSUP for a newer version, with words leaves the model in a state
 * to be freed.
 */
int state_decode(struct model *model, const uint8_t *payload, size_t bytes, struct error *error);

/* ---- rebuild.c ---- */

/*
 * Makes drives and bitmaps from the names and sizes in the bitmap table, when
 * the state payload is lost.  -ENOMEM.
 */
int rebuild_from_table(struct model *model, struct container *container,
                       const struct container_info *info);

/* ---- writeback.c ---- */

/* Takes over @container on success. */
int writeback_new(struct model *model, struct container *container,
                  const struct file_identity *identity, struct writeback **ret);
void writeback_free(struct writeback *writeback); /* takes NULL; handles must be closed */
/*
 * Step 5 of the start, blocking, before the loop runs.  @set_aside: the old journal's files are
 * of interest to somebody, and are set aside.  Changes are refused until this has succeeded; what
 * fails is tried again from the loop.
 */
void writeback_begin(struct writeback *writeback, bool set_aside);
/* A start that fails: closes the handles, with nothing written. */
void writeback_abandon(struct writeback *writeback);
/* Runs on the container's thread, between write-backs; *@work is told which container. */
void writeback_run(struct writeback *writeback, struct work *work);
struct container *writeback_container(struct writeback *writeback); /* for such work only */
/* Something changed: arms the interval. */
void writeback_touch(struct writeback *writeback);
/* Begins as soon as the loop has gathered this turn's requests. */
void writeback_start(struct writeback *writeback);
void writeback_configure(struct writeback *writeback);
/* The last one, with the clean flag; then closes its handles and calls @closed. */
void writeback_close(struct writeback *writeback, void (*closed)(struct model *model, int r));
uint64_t writeback_applied_seq(const struct writeback *writeback);
/* Why changes are refused, or NULL. */
const char *writeback_refuses(const struct writeback *writeback);
const uint8_t *writeback_container_uuid(const struct writeback *writeback);
bool writeback_is_alive(struct writeback *writeback); /* worker_is_alive() of its thread */
const char *writeback_degraded_reason(const struct writeback *writeback); /* "" when well */
/* Bytes of chunks that the container does not have yet; looks at every bitmap. */
uint64_t writeback_changed_bytes(const struct writeback *writeback);
void writeback_get_status(const struct writeback *writeback, struct model_status *status);

/* ---- ack.c ---- */

uint64_t ack_watermark(const struct model *model, enum ack_level level);
/* Watermarks have moved: completes who waited for them. */
void ack_advance(struct model *model);
/* Tells those who wait for @level up to @sequence that it has failed for now. */
void ack_fail(struct model *model, enum ack_level level, uint64_t sequence);

#endif
