/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One batch, to and from bytes.
 *
 * The header has a CRC of its own, so that the length in it can be relied on
 * before the records are read.  Two kinds of bad batch are kept apart: one
 * whose CRC is wrong may be what a crash left and says nothing; one whose CRC
 * is right and whose contents break the rules cannot come from a crash.
 */
#include "daemon/journal/internal.h"

#include "proto/base/checked.h"
#include "proto/base/crc32c.h"
#include "proto/base/endian.h"

#include <assert.h>

uint32_t journal_batch_padded_bytes(uint32_t length)
{
    assert(length <= JOURNAL_BATCH_BYTES_MAX);
    return (BATCH_HEADER_BYTES + length + JOURNAL_BLOCK_BYTES - 1) & ~(JOURNAL_BLOCK_BYTES - 1);
}

bool journal_id_equal(const struct journal_id *a, const struct journal_id *b)
{
    return memcmp(a->bytes, b->bytes, sizeof a->bytes) == 0;
}

static uint32_t header_crc(const uint8_t header[BATCH_HEADER_BYTES])
{
    uint8_t copy[BATCH_HEADER_BYTES];

    memcpy(copy, header, sizeof copy);
    store_le32(copy + BATCH_CRC, 0);
    return crc32c(0, copy, sizeof copy);
}

void journal_batch_header_build(const struct journal_batch *batch,
                                const struct journal_id *container,
                                const struct journal_id *instance, uint8_t *bytes)
{
    memset(bytes, 0, BATCH_HEADER_BYTES);
    memcpy(bytes + BATCH_MAGIC, BATCH_MAGIC_VALUE, JOURNAL_MAGIC_BYTES);
    store_le32(bytes + BATCH_VERSION, JOURNAL_BATCH_VERSION);
    memcpy(bytes + BATCH_CONTAINER, container->bytes, sizeof container->bytes);
    memcpy(bytes + BATCH_INSTANCE, instance->bytes, sizeof instance->bytes);
    store_le64(bytes + BATCH_FIRST_SEQ, batch->first_seq);
    store_le32(bytes + BATCH_COUNT, batch->count);
    store_le32(bytes + BATCH_LENGTH, batch->length);
    store_le64(bytes + BATCH_WATERMARK, batch->watermark);
    store_le32(bytes + BATCH_RECORDS_CRC, batch->crc);
    store_le32(bytes + BATCH_CRC, header_crc(bytes));
}

static enum journal_batch_verdict malformed(struct error *error, const char *field, uint64_t found,
                                            const char *expected)
{
    error_set(error, -EBADMSG, "%s: found %" PRIu64 ", expected %s", field, found, expected);
    return JOURNAL_BATCH_MALFORMED;
}

enum journal_batch_verdict
journal_batch_header_parse(const uint8_t header[BATCH_HEADER_BYTES], uint64_t room,
                           const struct journal_id *container, const struct journal_id *instance,
                           struct journal_batch *ret, struct error *error)
{
    struct journal_batch batch;
    uint32_t version;

    if (memcmp(header + BATCH_MAGIC, BATCH_MAGIC_VALUE, JOURNAL_MAGIC_BYTES) != 0 ||
        memcmp(header + BATCH_CONTAINER, container->bytes, sizeof container->bytes) != 0 ||
        memcmp(header + BATCH_INSTANCE, instance->bytes, sizeof instance->bytes) != 0 ||
        load_le32(header + BATCH_CRC) != header_crc(header)) {
        return JOURNAL_BATCH_NONE;
    }
    version = load_le32(header + BATCH_VERSION);
    if (version > JOURNAL_BATCH_VERSION) {
        error_set(error, -ENOTSUP, "version: found %" PRIu32 ", expected at most %u", version,
                  JOURNAL_BATCH_VERSION);
        return JOURNAL_BATCH_NEWER;
    }
    if (version != JOURNAL_BATCH_VERSION) {
        return malformed(error, "version", version, "1");
    }

    batch.first_seq = load_le64(header + BATCH_FIRST_SEQ);
    batch.count = load_le32(header + BATCH_COUNT);
    batch.length = load_le32(header + BATCH_LENGTH);
    batch.watermark = load_le64(header + BATCH_WATERMARK);
    batch.crc = load_le32(header + BATCH_RECORDS_CRC);
    if (batch.first_seq == 0 || batch.first_seq > JOURNAL_SEQ_MAX) {
        return malformed(error, "first sequence", batch.first_seq, "1 to 2^63 - 1");
    }
    if (batch.length > JOURNAL_BATCH_BYTES_MAX) {
        return malformed(error, "length of the records", batch.length, "at most 4 MiB");
    }
    if (batch.count == 0 || batch.count > batch.length / RECORD_LENGTH_BYTES) {
        return malformed(error, "number of records", batch.count,
                         "at least 1 and no more than fit the length");
    }
    batch.last_seq = batch.first_seq + batch.count - 1; /* both far below 2^64 */
    if (batch.last_seq > JOURNAL_SEQ_MAX) {
        return malformed(error, "last sequence", batch.last_seq, "at most 2^63 - 1");
    }
    if (batch.watermark >= batch.first_seq) {
        return malformed(error, "watermark", batch.watermark, "less than the first sequence");
    }
    if (journal_batch_padded_bytes(batch.length) > room) {
        return malformed(error, "length of the records", batch.length, "an end within the segment");
    }
    *ret = batch;
    return JOURNAL_BATCH_COUNTS;
}

enum journal_batch_verdict journal_batch_records_check(const struct journal_batch *batch,
                                                       const uint8_t *records, struct error *error)
{
    uint32_t left = batch->length;

    if (crc32c(0, records, batch->length) != batch->crc) {
        return JOURNAL_BATCH_NONE;
    }
    for (uint32_t i = 0; i < batch->count; i++) {
        if (left < RECORD_LENGTH_BYTES) {
            return malformed(error, "bytes left for a record's length", left, "at least 4");
        }
        uint32_t length = load_le32(records);
        left -= RECORD_LENGTH_BYTES;
        if (length > left) {
            return malformed(error, "length of a record", length, "no more than the batch holds");
        }
        records += RECORD_LENGTH_BYTES + length;
        left -= length;
    }
    if (left != 0) {
        return malformed(error, "bytes behind the last record", left, "0");
    }
    return JOURNAL_BATCH_COUNTS;
}
