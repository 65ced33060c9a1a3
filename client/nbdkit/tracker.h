/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_NBDKIT_TRACKER_H
#define BITMAPD_NBDKIT_TRACKER_H

#include "proto/base/cleanup.h"
#include "proto/base/error.h"

#include <stdbool.h>
#include <stdint.h>

/*
 * Tells bitmapd about the writes to one drive:
 *
 *     tracker_write_begin()    returns when the range is marked
 *     … the write …
 *     tracker_write_end()
 *     tracker_flush()          makes it stable, then settles the mark
 *
 * All of these may be called by any number of threads at once, between
 * tracker_start() and tracker_stop().  A tracker outlives neither a fork(2)
 * after tracker_start() nor the opaque pointer it was given.
 */
struct tracker;
struct tracker_mark;

struct tracker_settings {
    const char *socket_path; /* absolute; NULL: libbitmapd's default */
    const char *drive;
    const char *writer;      /* token */
    const char *client_name; /* for the daemon's log */
    uint64_t size_bytes;     /* of the drive: anything else at the daemon is refused */
    uint64_t align_bytes;    /* ranges are marked aligned out to this; a power of two */
    unsigned reconnect_timeout_s;
    bool continues; /* writes go on without marks when the daemon stays away, instead of failing */

    /* Makes every write that returned before the call stable; never called twice at a time. */
    int (*sync)(void *opaque);
    /* One line for the operator, from any thread. */
    void (*report)(void *opaque, const char *text);
    void *opaque;
};

/*
 * Connects, attaches the writer and, when it was lost before, makes its
 * earlier writes stable and resumes it.  The strings are copied.
 *
 *   -EXDEV   another drive stands under the path that the daemon has
 *   -EBUSY   another process has the writer's token
 *   -EINVAL  the daemon has the drive with another size
 *   and what bitmapd_connect() and bitmapd_attach() return
 */
int tracker_new(const struct tracker_settings *settings, struct tracker **ret_tracker,
                struct error *error);

/* Starts the thread that talks to the daemon. */
int tracker_start(struct tracker *tracker);

/*
 * A last flush, then detaches; no other call may be running or follow.  Says through report() when
 * the writer could not be detached, which the next start of a writer with this token puts right.
 * Takes NULL, and a tracker that was stopped or never started.
 */
void tracker_stop(struct tracker *tracker);
void tracker_free(struct tracker *tracker); /* stops first; takes NULL */
DEFINE_CLEANUP(struct tracker *, tracker_free)

/*
 * "I am about to write this range" (not empty, within the drive): waits until
 * it is dirty in every recording bitmap or, with settings.continues, until the
 * daemon has been away for longer than the reconnect timeout and knows, or will
 * at its start, that writes go on without marks.  Then the range may be
 * written, and tracker_write_end() must follow.
 *
 *   -EIO     the daemon has been away for longer than the reconnect timeout (but see above), or it
 *            refused the mark or gave the writer up, or too many writes are not stable and cannot
 *            become so; report() had the words
 *   -ENOMEM
 * Nothing may be written then.
 */
int tracker_write_begin(struct tracker *tracker, uint64_t offset_bytes, uint64_t length_bytes,
                        struct tracker_mark **ret_mark);

/* The write has returned.  @failed: its range stays dirty until a later process makes it stable. */
void tracker_write_end(struct tracker *tracker, struct tracker_mark *mark, bool failed);

/*
 * Makes every write that ended before this call stable and settles it.  Once
 * sync() has failed, this fails with the same -errno for good: what was then
 * lost from the page cache cannot be told.
 */
int tracker_flush(struct tracker *tracker);

#endif
