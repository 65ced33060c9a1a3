/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_CATALOG_CATALOG_H
#define BITMAPD_DAEMON_CATALOG_CATALOG_H

#include "proto/base/error.h"

#include <stdbool.h>
#include <stdint.h>

/*
 * The catalog: an sqlite3 database with the history of drives and bitmaps
 * (who did what, when) and of the daemon's own starts and write-backs.  It is
 * for people; no answer ever depends on it, and losing it loses history only.
 *
 * WAL mode, synchronous=NORMAL: events reach the disk in order, the last ones
 * may be lost with the power.  The schema's version is user_version, with one
 * migration per version.  A newer version, or another program's database, is
 * refused (-ENOTSUP) and left alone; a file that is not a database, fails its
 * quick_check or lacks our tables is renamed aside (PATH.damaged-TIME, with
 * its -wal and -shm) and made anew.
 *
 * Thread: catalog_open() to catalog_close() on one owning thread (a worker);
 * every call may block on the disk.
 */
struct catalog;

struct catalog_event {
    int64_t time_ns;    /* CLOCK_REALTIME */
    uint64_t sequence;  /* of the record, 0 for events that are none */
    const char *kind;   /* "drive-add", "bitmap-clear", "start", "unknown", … */
    const char *drive;  /* name at the time, or NULL */
    const char *bitmap; /* name, or NULL */
    const char *peer;   /* "uid=0 pid=17 bitmapctl 0.1", or NULL for the daemon itself */
    const char *detail; /* words, or NULL */
};

/*
 * Opens the catalog, making it (mode 0600) when it is not there.
 * @ret_set_aside gets the new path of a damaged file that was renamed, else
 * "".  -errno; -ENAMETOOLONG for a path that leaves no room for that name.
 */
int catalog_open(const char *path, uint32_t events_max, struct catalog **ret,
                 char ret_set_aside[4096], struct error *error);
void catalog_close(struct catalog *catalog); /* takes NULL */

/*
 * Appends events in one transaction, all or none, and deletes the oldest
 * beyond events_max in the same one.  After events_max was lowered the surplus
 * goes over many calls, so that none takes long.
 */
int catalog_append(struct catalog *catalog, const struct catalog_event *events, uint32_t count,
                   struct error *error);

/*
 * Calls @each for the latest @limit events, newest first, of @drive (NULL: of
 * all).  Strings are borrowed during the call, which must not use the catalog.
 */
int catalog_events(struct catalog *catalog, const char *drive, uint32_t limit,
                   void (*each)(void *opaque, const struct catalog_event *event), void *opaque,
                   struct error *error);

#endif
