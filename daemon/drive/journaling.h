/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_DRIVE_JOURNALING_H
#define BITMAPD_DAEMON_DRIVE_JOURNALING_H

#include "daemon/drive/internal.h"
#include "daemon/journal/journal.h"

/*
 * The journal beside the event loop: gathers the records of a turn into a
 * batch, lets the journal's thread write and sync it, and moves the watermarks
 * that acknowledgements wait for.
 *
 * Thread: the event loop's.
 */
struct journaling;

/* Of the memory journal; smaller if the journal's own are. */
#define MEMORY_SEGMENT_BYTES (UINT64_C(8) << 20)

/* Records queued in memory while the journal cannot take them; beyond, changes are refused. */
#define JOURNALING_QUEUE_BYTES_MAX (UINT64_C(64) << 20)

/* Without a journal, and until it has one it takes no records. */
int journaling_new(struct model *model, struct journaling **ret);
/* Takes over a journal that was created and not yet activated, and a memory journal or NULL. */
void journaling_install(struct journaling *journaling, struct journal *journal,
                        struct journal *memory);
bool journaling_has_journal(const struct journaling *journaling);

/*
 * Before the loop runs, when the container has committed the journal's instance: the segments get
 * their names.  If that fails, or is not called, the first batch does it.
 */
void journaling_activate(struct journaling *journaling);

/*
 * Room for a record, before it is applied: -ENOMEM, or -ENOSPC with the cause
 * when the queue is full because the journal fails.
 */
int journaling_reserve(struct journaling *journaling, const struct record *record,
                       struct error *error);
/* Queues a record for which room was reserved; cannot fail. */
void journaling_add(struct journaling *journaling, const struct record *record);

/*
 * Before the loop sleeps, and before answers are sent: what only has to outlive the process is
 * written into the memory journal, and acknowledged.
 */
void journaling_express(struct journaling *journaling);
/* Somebody waits for what is queued to be durable: it does not linger. */
void journaling_hurry(struct journaling *journaling);

/* The container has everything up to @applied_seq. */
void journaling_covered(struct journaling *journaling, uint64_t applied_seq);

uint64_t journaling_written(const struct journaling *journaling); /* watermarks */
uint64_t journaling_durable(const struct journaling *journaling);
bool journaling_is_alive(struct journaling *journaling); /* worker_is_alive() of its thread */
/* It cannot take anything at the moment: it fails, or has no room. */
bool journaling_stuck(const struct journaling *journaling);
/* "" when well. */
const char *journaling_degraded_reason(const struct journaling *journaling);
int64_t journaling_degraded_since_ns(const struct journaling *journaling); /* CLOCK_REALTIME */

/* Lets what is queued be written, closes the handles, then calls @closed. */
void journaling_close(struct journaling *journaling, void (*closed)(struct model *model));
void journaling_free(struct journaling *journaling); /* takes NULL; handles must be closed */

#endif
