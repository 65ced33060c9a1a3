/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_DRIVE_REPLAY_H
#define BITMAPD_DAEMON_DRIVE_REPLAY_H

#include "daemon/drive/internal.h"

/* What the journal had to say at the start. */
struct replay_report {
    uint64_t records;
    uint64_t marks;       /* ranges of those */
    uint64_t dirtied;     /* granules, of all bitmaps, that those made dirty */
    uint64_t highest_seq; /* seen in any batch, replayed or not */
    uint64_t elapsed_ns;
    bool stale;   /* the container is older than the journal beside it: put back from a copy */
    bool foreign; /* there are files of another container's journal */
    char memory_damage[256]; /* why marks that outlive a process only may be lost; "" */
    char damage[256]; /* why the journal cannot vouch for what was recorded; "" when it does */
};

/*
 * Applies the journal of the last instance to a model that was loaded from a container.  One that
 * was closed cleanly needs none; only @ret->stale is found out then.
 * < 0: out of memory, a journal of a newer version, or one that cannot be read now; the
 * container is as it was.  With @distrust such a journal is damage like any other.
 */
int replay_journal(struct model *model, const struct container_info *container, bool distrust,
                   struct replay_report *ret, struct error *error);

#endif
