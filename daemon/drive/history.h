/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_DRIVE_HISTORY_H
#define BITMAPD_DAEMON_DRIVE_HISTORY_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

/*
 * Hands events to the catalog, which lives on a worker of its own.  History
 * is for people: when the catalog is slow or broken, events are dropped and
 * counted, and nothing else suffers.
 *
 * Thread: the event loop's.
 */
struct history;

#define HISTORY_QUEUE_MAX 8192 /* events that wait for the catalog */

/* @path NULL: no catalog, every event is dropped.  -errno. */
int history_new(uv_loop_t *loop, const char *path, uint32_t events_max, struct history **ret);

/* Copies everything; strings may be NULL. */
void history_note(struct history *history, uint64_t sequence, const char *kind, const char *drive,
                  const char *bitmap, const char *peer, const char *detail);

/* worker_is_alive() of its thread; takes NULL. */
bool history_is_alive(struct history *history);

/* Writes what is queued, closes, frees, then calls @closed.  Takes NULL (calls @closed at once). */
void history_close(struct history *history, void (*closed)(void *opaque), void *opaque);

#endif
