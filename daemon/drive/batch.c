/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Batches: what gathers while the one before is on its way.
 */
#include "daemon/drive/batch.h"

#include "daemon/drive/record_codec.h"

#include <errno.h>
#include <stdlib.h>

void batch_free(struct batch *batch)
{
    if (batch) {
        free(batch->bytes);
        free(batch->records);
        free(batch);
    }
}

int batch_reserve(struct batch *batch, size_t bytes)
{
    if (batch->capacity - batch->used < bytes) {
        size_t capacity = (batch->used + bytes) * 2;
        uint8_t *grown = realloc(batch->bytes, capacity);
        if (!grown) {
            return -ENOMEM;
        }
        batch->bytes = grown;
        batch->capacity = capacity;
    }
    if (batch->count == batch->records_capacity) {
        uint32_t capacity = batch->count ? batch->count * 2 : 64;
        struct journal_record *grown = reallocarray(batch->records, capacity, sizeof *grown);
        if (!grown) {
            return -ENOMEM;
        }
        batch->records = grown;
        batch->records_capacity = capacity;
    }
    return 0;
}

uint32_t batch_add(struct batch *batch, const struct record *record)
{
    uint32_t bytes = (uint32_t)record_encoded_bytes(record);

    if (batch->count == 0) {
        batch->first_seq = record->sequence;
    }
    record_encode(record, batch->bytes + batch->used);
    batch->records[batch->count++] = (struct journal_record){.length = bytes};
    batch->used += bytes;
    return bytes;
}

static void place(struct batch *batch, uint32_t first, const uint8_t *p)
{
    for (uint32_t i = first; i < batch->count; i++) {
        batch->records[i].bytes = p;
        p += batch->records[i].length;
    }
}

void batch_place_rest(struct batch *batch)
{
    if (!batch->sealed) {
        place(batch, batch->expressed, batch->bytes + batch->expressed_bytes);
    }
}

void batch_seal(struct batch *batch)
{
    if (!batch->sealed) {
        batch->sealed = true;
        place(batch, 0, batch->bytes);
    }
}

void batch_clear(struct batch *batch)
{
    batch->used = batch->expressed_bytes = 0;
    batch->count = batch->expressed = 0;
    batch->sync = batch->sealed = false;
}
