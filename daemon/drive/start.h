/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_DRIVE_START_H
#define BITMAPD_DAEMON_DRIVE_START_H

/* Shared by start.c, load.c and judge.c. */

#include "daemon/drive/replay.h"

/* ---- load.c ---- */

/* Makes a bitmap unknown for this reason, unless it is already. */
void start_unknown(struct drive_bitmap *bitmap, uint64_t sequence, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void start_unknown_all(struct model *model, uint64_t sequence, const char *reason);
/*
 * Drives and bitmaps as the payload tells, or, when it is damaged, as far as the table tells;
 * @damage (as large as container_info.state_damage) gets the reason or "".
 */
int start_load_state(struct model *model, struct container *container,
                     const struct container_info *info, char damage[], struct error *error);
/* The bits of all bitmaps.  What is changed by a verdict gets @sequence. */
int start_load(struct model *model, struct container *container, const struct container_info *info,
               uint64_t sequence, struct error *error);
/* Entries to be replaced get new ids, after a replay that still knows the old ones. */
void start_rename_replaced(struct model *model);

/* ---- judge.c ---- */

bool start_identity_equal(const struct file_identity *a, const struct file_identity *b);
void start_judge(struct model *model, const struct container_info *info,
                 const struct replay_report *replayed, const struct file_identity *identity,
                 unsigned flags, uint64_t sequence);
/* Tells what the start has found, in the log, in `status` and in the history. */
void start_report(struct model *model, const struct container_info *info,
                  const struct replay_report *replayed, bool made);

#endif
