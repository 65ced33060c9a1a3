/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_DRIVE_REPLAY_H
#define BITMAPD_DAEMON_DRIVE_REPLAY_H

#include "daemon/drive/internal.h"

/* What the journal had to say at the start. */
struct replay_report {
    uint64_t records;
    uint64_t marks;
    uint64_t highest_seq; /* seen in any batch, replayed or not */
    uint64_t elapsed_ns;
    char damage[256]; /* why the journal cannot vouch for what was recorded; "" when it does */
};

/*
 * Applies the journal of the last instance to a model that was loaded from an
 * unclean container.  < 0: out of memory, or a journal of a newer version.
 */
int replay_journal(struct model *model, const struct journal_files *files,
                   const struct uuid *container, struct replay_report *ret, struct error *error);

#endif
