/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_DRIVE_BATCH_H
#define BITMAPD_DAEMON_DRIVE_BATCH_H

#include "daemon/drive/record.h"
#include "daemon/journal/journal.h"

#include <sys/queue.h>

/*
 * Encoded records on their way to the journal, in the order of their sequences.  It grows until it
 * is sealed, keeps its memory when it is emptied, and is the event loop's; of a sealed one the
 * journal's thread reads the records.
 */
struct batch {
    uint64_t first_seq;
    uint8_t *bytes;
    size_t used, capacity;
    struct journal_record *records; /* their bytes are placed by batch_place() */
    uint32_t count, records_capacity;
    bool sync;          /* somebody waits for durable */
    bool sealed;        /* the journal has seen it: the same bytes again, or nothing */
    uint32_t expressed; /* records that the memory journal has as well */
    size_t expressed_bytes;
    TAILQ_ENTRY(batch) entry;
};

void batch_free(struct batch *batch); /* takes NULL */
/* Room for one more record of @bytes; -ENOMEM. */
int batch_reserve(struct batch *batch, size_t bytes);
/* Encodes a record for which there is room; returns its bytes. */
uint32_t batch_add(struct batch *batch, const struct record *record);
/* What the memory journal does not have yet gets its bytes, until the batch grows. */
void batch_place_rest(struct batch *batch);
/* Nothing is added any more: all records have their bytes for good. */
void batch_seal(struct batch *batch);
void batch_clear(struct batch *batch);

#endif
