/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_H
#define BITMAPD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

/*
 * libbitmapd: talks to bitmapd, which keeps dirty bitmaps of raw drives.
 * <bitmapd-transaction.h> has what does several changes at once.
 *
 * The library has no threads, signals or event loop of its own.  A handle is
 * one connection; it may be used by one thread at a time, and different
 * handles by different threads.  Nothing here raises SIGPIPE.
 *
 *     bitmapd *handle = bitmapd_new();
 *     struct bitmapd_range range = {offset, length};
 *     uint64_t drive, mark;
 *
 *     bitmapd_set_reconnect_timeout(handle, 25);
 *     bitmapd_connect(handle, NULL);
 *     bitmapd_attach(handle, "vg0/vm-101-disk-0", "vm-101", 0, &drive, NULL, NULL);
 *     bitmapd_mark(handle, drive, &range, 1, &mark);
 *     … pwrite(2), fdatasync(2) …
 *     bitmapd_settle(handle, drive, mark, 1);
 *     bitmapd_detach(handle, drive);
 *     bitmapd_close(handle);
 *
 * (Results have to be looked at: client/lib/example.c is the whole program.)
 *
 * Structures that the library fills in or reads have the sizes of this header:
 * they grow only together with the library's soname.
 *
 * Asynchronous use: bitmapd_aio_*() queues a request and returns at once; put
 * bitmapd_fd() with bitmapd_events() into your event loop, wait no longer
 * than bitmapd_timeout_ms(), then call bitmapd_dispatch(), which sends,
 * receives and calls the completions.  The descriptor changes at a reconnect
 * and is -1 in between: ask again after every dispatch, and after every call
 * below that queues something, for its events.
 *
 * Synchronous use: every bitmapd_NOUN_VERB() is the asynchronous one plus a
 * poll(2) loop; completions of other requests are called meanwhile.  Within a
 * completion or another callback no synchronous call is possible: -EDEADLK.
 *
 * Errors: functions return 0 (or a count or id) or -errno;
 * bitmapd_error(handle) then has one line in words, until the next call, and bitmapd_status_code()
 * the daemon's status code.
 *   -EINVAL        an argument is wrong; nothing was sent
 *   -ENOENT        no such drive, bitmap or checkpoint
 *   -EEXIST, -EBUSY
 *   -EPERM         not permitted
 *   -ENOTCONN      no connection, and none could be made in time
 *   -ECONNABORTED  the connection broke after the request was sent: its outcome is unknown.
 *                  Only marks, settles and reads are sent again by the library.  To find out,
 *                  send the same request under its request id (bitmapd_set_request_id()).
 *   -EOWNERDEAD    this writer was fenced or its token is in use elsewhere
 *   -EXDEV         another drive stands under the drive's path than the one that it was: nothing
 *                  may be written to it as if it were ours.  See bitmapd_drive_adopt().
 *   -EINPROGRESS   applied, but not yet on stable storage; the daemon retries
 *   -EPROTO        the daemon sent what the protocol does not allow; the connection is over
 *   -ESTALE        after a reconnect: another container is served there now, in which ids of
 *                  drives mean nothing; the connection is over
 *   -EDQUOT        a limit of the daemon, or of unsettled marks
 *   -EMSGSIZE      the request is larger than a frame can be (a merge of thousands of sources, a
 *                  transaction of thousands of operations)
 *   -EDEADLK       a synchronous call from within a completion
 *   -ECANCELED     the handle was closed
 *   -EIO, -ENOMEM, -ESHUTDOWN, -EOPNOTSUPP, -EREMOTEIO    as the daemon said (protocol.md)
 */
typedef struct bitmapd bitmapd;

#define BITMAPD_SOCKET_DEFAULT "/run/bitmapd/bitmapd.sock"

/* ---- Handle and connection ---- */

/* A handle without a connection; NULL when memory is out.  Free with bitmapd_close(). */
bitmapd *bitmapd_new(void);

/*
 * Drops the connection and frees the handle.  Requests that are not done
 * complete with -ECANCELED first; what they queue is refused.  A writer that
 * is attached is lost to the daemon (see bitmapd_detach()).  Takes NULL.  Not
 * from within a completion.
 */
void bitmapd_close(bitmapd *handle);

/* Name of the program in the daemon's log, 1–255 bytes, else -EINVAL.  Before bitmapd_connect(). */
int bitmapd_set_client_name(bitmapd *handle, const char *name);

/*
 * How long a lost connection is sought again before requests fail with
 * -ENOTCONN; 0 (the default): not at all.  While it lasts, marks, settles,
 * attachments and reads wait and are sent again, attempts being 50 ms to 1 s
 * apart; other requests wait when nothing of them was sent yet, or when a
 * daemon that shuts down did not take them, and complete with -ECONNABORTED
 * otherwise.  A list or map of which something was handed
 * over completes with -ECONNABORTED too.  The time begins with the loss, and
 * anew when a connection has answered a request.
 */
int bitmapd_set_reconnect_timeout(bitmapd *handle, unsigned seconds);

/*
 * Connects to the Unix socket @path (NULL: $BITMAPD_SOCKET, else
 * BITMAPD_SOCKET_DEFAULT) and says HELLO; waits for the answer, at most 30 s
 * (-ETIMEDOUT).  -ENOENT, -ECONNREFUSED and so on as connect(2), -EACCES when
 * permission is refused, -ENAMETOOLONG for a path that no socket can have,
 * -EPROTONOSUPPORT without a protocol version in common, -ESTALE when the
 * handle was connected before, to another container.  This first connect is
 * tried once, whatever the reconnect timeout.
 *
 * May be called again when the connection was lost for good: writers that are
 * attached are taken up again as after a reconnect.  -EISCONN while there is
 * a connection or one is sought.
 */
int bitmapd_connect(bitmapd *handle, const char *path);

/*
 * Takes over a connection that another program has made, restricted
 * (bitmapd_restrict()) and handed on, and says HELLO on it.  When it is lost
 * it is not sought again, and neither this nor bitmapd_connect() can be called
 * any more.  Returns as bitmapd_connect(); @fd is the handle's unless -EISCONN,
 * -EPERM, -EDEADLK, -EBADF or -ENOMEM is returned.
 */
int bitmapd_connect_fd(bitmapd *handle, int fd);

/*
 * The last failure of a call on this handle in words, one line without
 * control characters, "" if none; within a completion, of its request.
 * Borrowed until the next call.
 */
const char *bitmapd_error(const bitmapd *handle);
/* The status code of that failure (protocol.md) when the daemon answered with one, else 0. */
int bitmapd_status_code(const bitmapd *handle);

/* ---- Event loop ---- */

int bitmapd_fd(const bitmapd *handle);          /* -1: none at the moment; not yours to close */
unsigned bitmapd_events(const bitmapd *handle); /* POLLIN and POLLOUT as poll(2) */
int bitmapd_timeout_ms(const bitmapd *handle);  /* as poll(2): -1 for none */
/*
 * Does what @revents (as poll(2) returned them; 0 after a timeout) allow,
 * calls completions, and sends what is queued as far as the socket takes it.
 * Never blocks.  0, or -errno when the connection is lost for good: then
 * nothing is pending any more.  -EDEADLK from within a completion.
 */
int bitmapd_dispatch(bitmapd *handle, unsigned revents);
/* Requests that are queued or in flight, settles included. */
size_t bitmapd_pending(const bitmapd *handle);
/*
 * Waits until nothing is pending.  0; -errno when the connection is lost for
 * good, or when the daemon refused a settle since the last drain.
 */
int bitmapd_drain(bitmapd *handle);

/*
 * Called once for each request that was queued, from bitmapd_dispatch(), a
 * synchronous call or bitmapd_close(), never from the call that queues it.
 * @result is 0 or -errno (bitmapd_error() has the words).  It may queue new
 * requests and settle.
 */
typedef void bitmapd_completion(void *opaque, int result);

/* ---- Request ids ---- */

/*
 * Requests that change drives or bitmaps carry a random id of 16 bytes, by
 * which the daemon answers a repeat with the first result.  This sets the id
 * of the next such request on the handle; the last one used is there to be
 * kept.  After -ECONNABORTED:
 *
 *     bitmapd_get_request_id(handle, id);
 *     bitmapd_connect(handle, NULL);
 *     bitmapd_set_request_id(handle, id);
 *     bitmapd_bitmap_create(handle, …the same as before…);
 */
void bitmapd_set_request_id(bitmapd *handle, const uint8_t id[16]);
void bitmapd_get_request_id(const bitmapd *handle, uint8_t ret_id[16]);

/* ---- Drives ---- */

enum bitmapd_durability {
    BITMAPD_DURABILITY_DEFAULT = 0, /* the daemon's default; in a set: keep */
    BITMAPD_DURABILITY_POWER_LOSS = 1,
    BITMAPD_DURABILITY_PROCESS_CRASH = 2,
};

/*
 * Strings, here and below, are NUL-terminated and borrowed: until the callback
 * returns, or until the next call.  They are as the daemon sent them, which
 * checks names but not paths: escape them before they reach a terminal.
 */
struct bitmapd_drive {
    uint64_t id;
    const char *name;
    const char *path;     /* "" when none */
    uint64_t size;        /* bytes */
    uint32_t granularity; /* bytes */
    int durability;       /* enum bitmapd_durability */
    uint32_t bitmaps;
    uint32_t recording;    /* of those */
    uint32_t writers;      /* attached and connected */
    uint32_t lost_writers; /* whose connection is gone: see bitmapd_drive_fence() */
    uint64_t unsettled;    /* marks of all writers */
    uint32_t checkpoints;
    const char *identity;  /* of what its path led to when it was last looked at, in words; "" when
                            * not known */
    const char *untracked; /* see bitmapd_bitmap: of what is written from now on */
};

/*
 * Makes a drive.  @path is absolute; it may be NULL when @size is given, and
 * @size 0 when @path is: then it is that of the path.  @granularity in bytes
 * is for its bitmaps, 0: the daemon's default.  @ret may be NULL.  -EEXIST,
 * -EINVAL, -EDQUOT.
 */
int bitmapd_drive_add(bitmapd *handle, const char *name, const char *path, uint64_t size,
                      int durability, uint32_t granularity, struct bitmapd_drive *ret);
/* -ENOENT: no such drive; so for all that take a name. */
int bitmapd_drive_show(bitmapd *handle, const char *name, struct bitmapd_drive *ret);
/*
 * Calls @each for every drive, in the order of their ids.  When it does not
 * return 0 the list was not complete, whatever was handed over.
 */
int bitmapd_drive_list(bitmapd *handle,
                       void (*each)(void *opaque, const struct bitmapd_drive *drive), void *opaque);
/* DEFAULT and 0 keep what there is.  The granularity is for bitmaps made later. */
int bitmapd_drive_set(bitmapd *handle, const char *name, int durability, uint32_t granularity);
/* Its id, bitmaps and writers stay. */
int bitmapd_drive_rename(bitmapd *handle, const char *name, const char *new_name);
/* To @size bytes.  What a larger size adds is dirty.  -EBUSY: shrinking under a writer. */
int bitmapd_drive_resize(bitmapd *handle, const char *name, uint64_t size);
/* -EBUSY while it has bitmaps or checkpoints (unless @force, which deletes them) or writers. */
int bitmapd_drive_remove(bitmapd *handle, const char *name, bool force);
/* Gives up lost writers: @writer, or all of the drive's when NULL.  Their marks stay dirty. */
int bitmapd_drive_fence(bitmapd *handle, const char *name, const char *writer);
/*
 * Takes what stands under the drive's path now as the drive from here on, where
 * bitmapd_attach() was -EXDEV because it is not what it was: a restored image,
 * a disk that was exchanged.  Its size becomes the drive's; the checkpoints are
 * forgotten, for they are the other drive's, and the bitmaps become unknown.  -EBUSY while the
 * drive has writers, -EINVAL for a drive without a path.
 */
int bitmapd_drive_adopt(bitmapd *handle, const char *name);

/* ---- Bitmaps, as "DRIVE/NAME" ---- */

enum bitmapd_validity {
    BITMAPD_EXACT = 0,
    BITMAPD_SUPERSET = 1, /* safe, may hold extra */
    BITMAPD_UNKNOWN = 2,  /* may have missed a write: maps say that all is dirty */
};

struct bitmapd_bitmap {
    uint64_t id;
    const char *name; /* "DRIVE/NAME" */
    uint32_t granularity;
    uint64_t size; /* of the drive */
    bool recording;
    bool gap; /* disabled, and has skipped a mark since */
    int validity;
    const char *reason; /* "" when exact */
    uint64_t dirty_bytes;
    uint64_t dirty_count; /* granules */
    /*
     * Why writes past the daemon cannot be ruled out for the time that the bits
     * stand for, one line in words; "" when they are, as far as evidence goes.
     */
    const char *untracked;
};

/*
 * Makes a bitmap that records from now on, unless @disabled.  @granularity: a
 * power of two from 512 to 2^31 bytes; 0: the drive's.  @ret may be NULL.
 */
int bitmapd_bitmap_create(bitmapd *handle, const char *bitmap, uint32_t granularity, bool disabled,
                          struct bitmapd_bitmap *ret);
int bitmapd_bitmap_show(bitmapd *handle, const char *bitmap, struct bitmapd_bitmap *ret);
/* As bitmapd_drive_list().  @drive NULL: of all drives. */
int bitmapd_bitmap_list(bitmapd *handle, const char *drive,
                        void (*each)(void *opaque, const struct bitmapd_bitmap *bitmap),
                        void *opaque);
int bitmapd_bitmap_delete(bitmapd *handle, const char *bitmap);
/* Starts recording.  A bitmap that missed a mark while disabled becomes unknown. */
int bitmapd_bitmap_enable(bitmapd *handle, const char *bitmap);
/* Stops recording; the bitmap keeps what it has. */
int bitmapd_bitmap_disable(bitmapd *handle, const char *bitmap);
/* @new_name without the drive. */
int bitmapd_bitmap_rename(bitmapd *handle, const char *bitmap, const char *new_name);
/* Dirty: every granule that bytes [offset, offset + length) touch.  length > 0. */
int bitmapd_bitmap_set(bitmapd *handle, const char *bitmap, uint64_t offset, uint64_t length);
/* Clean: every granule that they cover whole, but for unsettled marks.  length > 0. */
int bitmapd_bitmap_clear(bitmapd *handle, const char *bitmap, uint64_t offset, uint64_t length);
/* All clean but unsettled marks, and exact from now on. */
int bitmapd_bitmap_clear_all(bitmapd *handle, const char *bitmap);
/* Adds to @target what is dirty in @count >= 1 sources, "DRIVE/NAME" of the same drive. */
int bitmapd_bitmap_merge(bitmapd *handle, const char *target, const char *const *sources,
                         size_t count);

struct bitmapd_range {
    uint64_t offset; /* bytes */
    uint64_t length; /* bytes */
};

struct bitmapd_map {
    const char *bitmap;   /* "DRIVE/NAME"; bitmapd_checkpoint_map(): "DRIVE" */
    uint64_t size;        /* bytes of the drive */
    uint32_t granularity; /* bytes */
    bool recording;
    int validity;          /* UNKNOWN: all is dirty */
    const char *reason;    /* "" when exact */
    uint64_t sequence;     /* every change up to this one is in it, no later one */
    const char *untracked; /* as in bitmapd_bitmap */

    /* bitmapd_checkpoint_map(): between which checkpoints.  For a bitmap "" and zeros. */
    const char *base; /* the name of the one it begins at */
    uint8_t base_uuid[16];
    uint64_t base_sequence;
    const char *target; /* and of the one it ends at; "" with zeros: the snapshot, now */
    uint8_t target_uuid[16];
    uint64_t target_sequence;
};

/* Either may be NULL. */
struct bitmapd_map_callbacks {
    /* Once, before any run. */
    void (*head)(void *opaque, const struct bitmapd_map *map);
    /* Dirty runs in order; disjoint, never touching. */
    void (*runs)(void *opaque, const struct bitmapd_range *runs, size_t count);
};

/*
 * Reads the dirty runs of a bitmap from byte @offset to the drive's end, all
 * from one snapshot.  @offset is 0, a multiple of the granularity, or the size.
 * Returns 0 only when the daemon's end record was received and its count and
 * checksum agree; otherwise what was handed over is no answer.  @ret_crc32c
 * (may be NULL) gets the checksum of the runs as protocol.md has it.
 */
int bitmapd_map(bitmapd *handle, const char *bitmap, uint64_t offset,
                const struct bitmapd_map_callbacks *callbacks, void *opaque, uint32_t *ret_crc32c);

/* ---- Checkpoints ---- */

/*
 * A checkpoint is a moment in a drive's history.  What is written between it
 * and the next one is recorded in a bitmap of its own, apart from those above:
 * neither's calls touch the other's.
 *
 * Its name is as a bitmap's.  Where one is asked for by @checkpoint, @since or
 * @until, that is "NAME" for whichever has the name now, or "NAME@UUID" for
 * that one only (its 36 characters); -ENOENT when it is gone or the name stands
 * for another one by now.  There is no nearest one instead: take a full backup.
 */
struct bitmapd_checkpoint {
    uint64_t id; /* of its bitmap; never reused */
    const char *drive;
    const char *name;
    uint8_t uuid[16];
    uint64_t sequence;
    uint64_t created_ns;   /* CLOCK_REALTIME */
    uint32_t granularity;  /* bytes */
    uint64_t size;         /* bytes of the drive */
    bool recording;        /* the newest of a drive does */
    int validity;          /* enum bitmapd_validity of what follows */
    const char *reason;    /* "" when exact */
    const char *untracked; /* as in bitmapd_bitmap */
    uint64_t dirty_bytes;  /* between it and the next, or now */
    uint64_t dirty_count;  /* granules */
};

/* What a checkpoint got on every one of its drives. */
struct bitmapd_checkpoint_created {
    uint8_t uuid[16];
    uint64_t sequence;
    uint64_t created_ns; /* CLOCK_REALTIME */
    uint32_t drives;     /* how many have it: all, unless this is the answer to a repeat and it was
                          * deleted on some since */
};

/*
 * Makes a checkpoint @name on all @count >= 1 drives at the same moment, or on
 * none of them.  @ret may be NULL.  -EEXIST when one of the drives has one of
 * that name, -EINVAL when a drive is there twice, -EDQUOT.
 *
 * For a backup that reads a snapshot: first the checkpoint D, then the
 * snapshot, then the map since the last backup's checkpoint without an @until;
 * D is the next one's base.  What is written between D and the snapshot is in
 * both maps.
 */
int bitmapd_checkpoint_create(bitmapd *handle, const char *name, const char *const *drives,
                              size_t count, struct bitmapd_checkpoint_created *ret);
/*
 * Calls @each for every checkpoint of @drive, eldest first; NULL: of all
 * drives.  When it does not return 0 the list was not complete, whatever was
 * handed over.
 */
int bitmapd_checkpoint_list(bitmapd *handle, const char *drive,
                            void (*each)(void *opaque, const struct bitmapd_checkpoint *checkpoint),
                            void *opaque);
/*
 * Takes a checkpoint of one drive away.  Maps between others stay as they
 * were: what it had recorded goes into the next elder one, with its validity
 * when that is worse.  The eldest one's is forgotten.
 */
int bitmapd_checkpoint_delete(bitmapd *handle, const char *drive, const char *checkpoint);
/*
 * What was written to @drive after checkpoint @since, up to checkpoint @until,
 * or up to now when that is NULL.  Everything else is as for bitmapd_map().
 * The head's validity is the worst of all checkpoints in between, and it names
 * the ones that were taken with their UUIDs; a daemon that answers for others
 * than were asked for breaks the protocol.  -EINVAL when @until is not younger
 * than @since; -EIO when the container, out of which old bitmaps are read,
 * cannot be.
 */
int bitmapd_checkpoint_map(bitmapd *handle, const char *drive, const char *since, const char *until,
                           uint64_t offset, const struct bitmapd_map_callbacks *callbacks,
                           void *opaque, uint32_t *ret_crc32c);

/* ---- Writers ---- */

enum bitmapd_attach_flags {
    /*
     * The program may go on writing without marks when it has lost the daemon.  Losing such a
     * writer without a detach makes all that is recorded of the drive unknown, until the writer
     * has come back and a history was begun anew.  See bitmapd_writer_unmarked().
     */
    BITMAPD_ATTACH_CONTINUES = 1 << 0,
};

/*
 * Attaches to a drive under a token of the caller's choosing (1–255 bytes, as
 * a drive's name), durably.  @flags are of enum bitmapd_attach_flags.  Stores the drive's id for
 * the calls below, and its size; each @ret may be NULL.  After a reconnect the library attaches
 * again, marks again whatever was not settled, and resumes; marks wait for
 * that.  Should the token have been fenced meanwhile, be in use elsewhere
 * until the reconnect timeout is over, or the drive be gone or too small, this
 * writer is lost: its marks fail with -EOWNERDEAD, -ENOENT or what the daemon
 * said, and so does every call for it until bitmapd_detach() or another
 * bitmapd_attach().  -EBUSY when the token is in use by a live connection, and
 * when this handle already writes to the drive.  After -EINPROGRESS the daemon
 * has the writer and the handle does not: close it and connect anew.  -EXDEV:
 * see bitmapd_drive_adopt().
 *
 * After a reconnect the library tells the daemon that the same process is back
 * and has not written without a mark in between, which is what every program
 * promises that follows the rule of bitmapd_mark(); one that continues says
 * otherwise by bitmapd_writer_unmarked().
 *
 * When the daemon knew the token as lost (an earlier process died), the caller
 * must make the earlier writes stable first (fdatasync(2) of the drive) and
 * then call bitmapd_resume(); *ret_resuming tells.
 */
int bitmapd_attach(bitmapd *handle, const char *drive, const char *writer, unsigned flags,
                   uint64_t *ret_drive_id, uint64_t *ret_size, bool *ret_resuming);
int bitmapd_resume(bitmapd *handle, uint64_t drive_id);
/*
 * Whether the marks of this handle's writer for the drive stand at the daemon:
 * 1 while they do; 0 while there is no connection or the writer is on its way
 * back; when it is lost -errno, with which its marks fail; -ENOENT without a
 * writer.  May change with every call that dispatches.  A program that begins
 * writes under a mark that was complete earlier asks this first: the library
 * marks again by itself, but until it has, the mark may be unknown to the
 * daemon, and a lost writer's marks are.
 */
int bitmapd_writer_ready(const bitmapd *handle, uint64_t drive_id);
/*
 * For a writer that attached with BITMAPD_ATTACH_CONTINUES, else -ENOENT: true
 * before the first write whose mark is not complete, false when no such write
 * will be made any more.  Says nothing to the daemon by itself; when the
 * library attaches again after a time in which this was true, it does not
 * vouch for the program.
 */
int bitmapd_writer_unmarked(bitmapd *handle, uint64_t drive_id, bool unmarked);
/*
 * Ends the writer in good order: without it the daemon takes the writer for
 * lost, and keeps its unsettled marks dirty.  Every mark must be settled, or
 * -EBUSY.  A lost writer is forgotten, with its -errno; so is one whose detach
 * is -EINPROGRESS.  Marks that completions queue meanwhile come after it, as
 * those of a writer that is not attached.
 */
int bitmapd_detach(bitmapd *handle, uint64_t drive_id);

/*
 * "I am about to write these ranges."  Complete when every granule they touch
 * is dirty in all recording bitmaps of the drive, at the drive's durability
 * level; only then write.  @ret_first_id (may be NULL: settled at once) gets
 * the id of the first range; range i has id *ret_first_id + i.  Ids rise over
 * the handle's life and are never 0.  The ranges are copied.  Ranges: > 0
 * bytes each, within the drive; at most BITMAPD_RANGES_MAX a call; all are
 * refused when one is wrong.  @completion may be NULL.
 *
 * A mark needs no attachment; without one there is no coming back after the
 * program ended.  A mark that failed needs no settle: nothing may be written
 * under it, and the library settles it where the daemon has it (-EINPROGRESS).
 *
 * Returns 0 when queued, -errno when not.  -EDQUOT: too many marks are
 * unsettled (bitmapd_unsettled_max()).
 */
#define BITMAPD_RANGES_MAX 32768u
int bitmapd_aio_mark(bitmapd *handle, uint64_t drive_id, const struct bitmapd_range *ranges,
                     size_t count, uint64_t *ret_first_id, bitmapd_completion *completion,
                     void *opaque);
int bitmapd_mark(bitmapd *handle, uint64_t drive_id, const struct bitmapd_range *ranges,
                 size_t count, uint64_t *ret_first_id);

/*
 * "The writes of these marks are stable on the drive": completed, and covered
 * by FUA or by a flush that began after they completed.  A failed write is
 * not settled.  Settles are joined and sent by the next dispatch or
 * synchronous call, ahead of what is queued, and need no answer to be waited
 * for; bitmapd_drain() does.
 *
 * Ids in [first_id, first_id + count) that failed or are settled already are
 * passed over.  -EINVAL, and nothing is settled, when one was never given out
 * or is not complete.
 */
int bitmapd_settle(bitmapd *handle, uint64_t drive_id, uint64_t first_id, uint64_t count);
/* Marks of this handle for the drive, complete or not, that are not settled. */
size_t bitmapd_unsettled(const bitmapd *handle, uint64_t drive_id);
/* So many may be, for all drives together; 0 before the first connect. */
size_t bitmapd_unsettled_max(const bitmapd *handle);

/* ---- Daemon ---- */

/* Everything up to this point is in the container when it returns. */
int bitmapd_flush(bitmapd *handle);
/* bitmapd(8) says under ACCESS what each right permits. */
enum bitmapd_rights {
    BITMAPD_RIGHT_READ = 1 << 0,
    BITMAPD_RIGHT_TRACK = 1 << 1,
    BITMAPD_RIGHT_OPERATE = 1 << 2, /* and what READ permits */
    BITMAPD_RIGHT_ADMIN = 1 << 3,   /* everything */
};

/*
 * Leaves the connection one drive and these rights on it (enum bitmapd_rights),
 * which it must have, else -EPERM; for ever.  -EBUSY while requests are in
 * flight, or while it writes to other drives.  From then on the connection
 * stands for these rights, whoever uses it: bitmapd_fd() may be passed to
 * another program, which takes it over with bitmapd_connect_fd(), and this
 * handle is closed.  It is not sought again when it is lost, since
 * another connection would not be restricted.
 */
int bitmapd_restrict(bitmapd *handle, const char *drive, unsigned rights);
/* The daemon reads its configuration again: -EINVAL, in words, when it is wrong and kept as it was.
 */
int bitmapd_reload(bitmapd *handle);

struct bitmapd_daemon_status {
    const char *server;
    uint8_t container_uuid[16];
    uint8_t instance_uuid[16];
    const char *container_path;
    uint64_t uptime_ns;
    uint64_t sequence;    /* of the last change */
    uint64_t applied_seq; /* of the last one in the container */
    uint32_t drives;
    uint32_t bitmaps;
    uint32_t unknown_bitmaps; /* of those */
    uint32_t connections;
    uint64_t marks;              /* ranges marked since the start */
    uint64_t memory_bytes;       /* of bitmaps */
    uint64_t dirty_memory_bytes; /* of what is not yet in the container */
    uint64_t flushes;            /* write-backs that succeeded since the start */
    uint64_t container_bytes;    /* of the file */
    bool degraded;               /* its storage fails; it retries */
    const char *degraded_reason; /* "" when not */
    uint64_t degraded_since_ns;  /* CLOCK_REALTIME */
    const char *start_report;    /* what the start found; may be "" */
};

int bitmapd_get_status(bitmapd *handle, struct bitmapd_daemon_status *ret);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif
