/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Records to and from the bytes that the journal keeps.  What a record says is
 * validated by its prepare(); here only the framing is, since the bytes come
 * from a file.
 */
#include "daemon/drive/record_codec.h"

#include "proto/base/cleanup.h"
#include "proto/base/endian.h"

#include <string.h>

#define FLAG_FORCE       (1u << 0)
#define FLAG_DISABLED    (1u << 1)
#define FLAG_CARRY_WHOLE (1u << 2)
#define FLAG_REQUEST     (1u << 3)
#define FLAG_CONTINUES   (1u << 4)
#define FLAG_RETURNING   (1u << 5)
#define FLAG_DOUBTFUL    (1u << 6)
#define FLAG_IDENTITY    (1u << 7) /* identity and evidence follow the path */
#define CHECKPOINT_BYTES 24u       /* UUID and time, of a CHECKPOINT_CREATE, at the end */

#define FIXED_BYTES      32u
#define RANGE_BYTES      16u

/*
 * Marks, of which there are many and which say nothing but a drive and ranges, are short where all
 * ranges fit 8 bytes: the first sector of 512 bytes in 44 bits (8 PiB), then their number in 20
 * (512 MiB).
 *
 *     0  u8   type       RECORD_MARK
 *     1  u8   0
 *     2  u8   SHORT      where others have a durability
 *     3  u8   0
 *     4  u32  number of ranges
 *     8  u64  drive
 *    16       ranges
 *
 * Journals of version 2 have marks that are as long as other records, with such ranges and
 * PACKED_GRANULARITY where no mark has a granularity.  They are read, and not written.
 */
#define SHORT              0x80u
#define SHORT_BYTES        16u
#define SHORT_HEAD(type)   ((uint32_t)(type) | SHORT << 16) /* the first four bytes */
#define SECTOR_BYTES       512u
#define PACKED_BYTES       8u
#define PACKED_COUNT_BITS  20
#define PACKED_FIRST_MAX   ((UINT64_C(1) << (64 - PACKED_COUNT_BITS)) - 1)
#define PACKED_COUNT_MAX   ((UINT64_C(1) << PACKED_COUNT_BITS) - 1)
#define PACKED_GRANULARITY SECTOR_BYTES

static bool is_short(const struct record *record)
{
    if (record->type != RECORD_MARK) {
        return false;
    }
    for (uint32_t i = 0; i < record->ranges_count; i++) {
        struct range range = record->ranges[i];
        if ((range.offset | range.length) % SECTOR_BYTES != 0 ||
            range.offset / SECTOR_BYTES > PACKED_FIRST_MAX ||
            range.length / SECTOR_BYTES > PACKED_COUNT_MAX) {
            return false;
        }
    }
    return true;
}

static bool has_request(const struct record *record)
{
    static const struct request_id none;
    return memcmp(&record->request, &none, sizeof none) != 0;
}

static bool has_identity(const struct record *record)
{
    return record->identity.bytes > 0 || record->evidence.bytes > 0;
}

/* What types of their own have at the end. */
static size_t tail_bytes(const struct record *record)
{
    return record->type == RECORD_CHECKPOINT_CREATE ? CHECKPOINT_BYTES
           : record->type == RECORD_TRANSACTION     ? record->nested_bytes
                                                    : 0;
}

size_t record_encoded_bytes(const struct record *record)
{
    if (is_short(record)) {
        return SHORT_BYTES + (size_t)record->ranges_count * PACKED_BYTES;
    }
    return FIXED_BYTES + tail_bytes(record) +
           (has_identity(record) ? 4 + record->identity.bytes + record->evidence.bytes : 0) +
           (has_request(record) ? sizeof record->request.bytes : 0) + 2 + record->name.bytes + 2 +
           record->path.bytes + 4 + (size_t)record->ranges_count * RANGE_BYTES + 4 +
           (size_t)record->carried_count * RANGE_BYTES + 4 + (size_t)record->sources_count * 8;
}

static uint8_t *put_text(uint8_t *p, struct text text)
{
    store_le16(p, (uint16_t)text.bytes);
    if (text.bytes > 0) {
        memcpy(p + 2, text.data, text.bytes);
    }
    return p + 2 + text.bytes;
}

static uint8_t *put_ranges(uint8_t *p, const struct range *ranges, uint32_t count)
{
    store_le32(p, count);
    p += 4;
    for (uint32_t i = 0; i < count; i++, p += RANGE_BYTES) {
        store_le64(p, ranges[i].offset);
        store_le64(p + 8, ranges[i].length);
    }
    return p;
}

static void put_short(uint8_t *p, const struct record *record)
{
    store_le32(p, SHORT_HEAD(RECORD_MARK));
    store_le32(p + 4, record->ranges_count);
    store_le64(p + 8, record->drive);
    p += SHORT_BYTES;
    for (uint32_t i = 0; i < record->ranges_count; i++, p += PACKED_BYTES) {
        store_le64(p, record->ranges[i].offset / SECTOR_BYTES << PACKED_COUNT_BITS |
                          record->ranges[i].length / SECTOR_BYTES);
    }
}

void record_encode(const struct record *record, uint8_t *buffer)
{
    if (is_short(record)) {
        put_short(buffer, record);
        return;
    }
    bool request = has_request(record);
    uint8_t *p = buffer;

    p[0] = (uint8_t)record->type;
    p[1] = (uint8_t)((record->force ? FLAG_FORCE : 0) | (record->disabled ? FLAG_DISABLED : 0) |
                     (record->carry_whole ? FLAG_CARRY_WHOLE : 0) | (request ? FLAG_REQUEST : 0) |
                     (record->continues ? FLAG_CONTINUES : 0) |
                     (record->returning ? FLAG_RETURNING : 0) |
                     (record->doubtful ? FLAG_DOUBTFUL : 0) |
                     (has_identity(record) ? FLAG_IDENTITY : 0));
    p[2] = (uint8_t)record->durability;
    p[3] = (uint8_t)record->untracked;
    store_le32(p + 4, record->granularity);
    store_le64(p + 8, record->drive);
    store_le64(p + 16, record->bitmap);
    store_le64(p + 24, record->size);
    p += FIXED_BYTES;
    if (request) {
        memcpy(p, record->request.bytes, sizeof record->request.bytes);
        p += sizeof record->request.bytes;
    }
    p = put_text(p, record->name);
    p = put_text(p, record->path);
    if (has_identity(record)) {
        p = put_text(p, record->identity);
        p = put_text(p, record->evidence);
    }
    p = put_ranges(p, record->ranges, record->ranges_count);
    p = put_ranges(p, record->carried, record->carried_count);
    store_le32(p, record->sources_count);
    p += 4;
    for (uint32_t i = 0; i < record->sources_count; i++, p += 8) {
        store_le64(p, record->sources[i]);
    }
    if (record->type == RECORD_CHECKPOINT_CREATE) {
        memcpy(p, record->uuid, sizeof record->uuid);
        store_le64(p + sizeof record->uuid, record->created_ns);
    } else if (record->type == RECORD_TRANSACTION && record->nested_bytes > 0) {
        memcpy(p, record->nested, record->nested_bytes);
    }
}

struct reader {
    const uint8_t *p;
    size_t left;
};

static const uint8_t *take(struct reader *reader, size_t bytes)
{
    if (reader->left < bytes) {
        return NULL;
    }
    const uint8_t *p = reader->p;
    reader->p += bytes;
    reader->left -= bytes;
    return p;
}

static bool take_text(struct reader *reader, struct text *ret)
{
    const uint8_t *p = take(reader, 2);
    if (!p) {
        return false;
    }
    ret->bytes = load_le16(p);
    ret->data = (const char *)take(reader, ret->bytes);
    return ret->data != NULL;
}

/* Count and elements; the count is checked against what is left before anything is allocated. */
static int take_count(struct reader *reader, size_t element_bytes, uint32_t *ret_count)
{
    const uint8_t *p = take(reader, 4);
    if (!p || load_le32(p) > reader->left / element_bytes) {
        return -EBADMSG;
    }
    *ret_count = load_le32(p);
    return 0;
}

static struct range unpacked(const uint8_t *p)
{
    uint64_t word = load_le64(p);
    return (struct range){(word >> PACKED_COUNT_BITS) * SECTOR_BYTES,
                          (word & PACKED_COUNT_MAX) * SECTOR_BYTES};
}

static int take_ranges(struct reader *reader, bool packed, struct range **ret, uint32_t *ret_count)
{
    uint32_t count;
    int r = take_count(reader, packed ? PACKED_BYTES : RANGE_BYTES, &count);
    if (r < 0 || count == 0) {
        return r;
    }
    struct range *ranges = calloc(count, sizeof *ranges);
    if (!ranges) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (packed) {
            ranges[i] = unpacked(take(reader, PACKED_BYTES));
            continue;
        }
        const uint8_t *p = take(reader, RANGE_BYTES);
        ranges[i] = (struct range){load_le64(p), load_le64(p + 8)};
    }
    *ret = ranges;
    *ret_count = count;
    return 0;
}

static int take_sources(struct reader *reader, uint64_t **ret, uint32_t *ret_count)
{
    uint32_t count;
    int r = take_count(reader, 8, &count);
    if (r < 0 || count == 0) {
        return r;
    }
    uint64_t *sources = calloc(count, sizeof *sources);
    if (!sources) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < count; i++) {
        sources[i] = load_le64(take(reader, 8));
    }
    *ret = sources;
    *ret_count = count;
    return 0;
}

void record_decoded_deinit(struct record_decoded *decoded)
{
    free(decoded->ranges);
    free(decoded->carried);
    free(decoded->sources);
    *decoded = (struct record_decoded){0};
}

static bool says_short(const uint8_t *bytes, size_t length)
{
    return length >= 4 && load_le32(bytes) == SHORT_HEAD(RECORD_MARK);
}

static bool short_is_whole(const uint8_t *bytes, size_t length)
{
    return length >= SHORT_BYTES && (length - SHORT_BYTES) % PACKED_BYTES == 0 &&
           (length - SHORT_BYTES) / PACKED_BYTES == load_le32(bytes + 4);
}

/* Of a short record that is whole. */
static void short_ranges(const uint8_t *bytes, struct range *ret_ranges, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        ret_ranges[i] = unpacked(bytes + SHORT_BYTES + (size_t)i * PACKED_BYTES);
    }
}

static int decode_short(const uint8_t *bytes, size_t length, struct record_decoded *ret,
                        struct error *error)
{
    if (!short_is_whole(bytes, length)) {
        return error_set(error, -EBADMSG, "a mark's ranges do not fit its %zu bytes", length);
    }
    uint32_t count = load_le32(bytes + 4);
    struct range *ranges = count > 0 ? calloc(count, sizeof *ranges) : NULL;

    if (count > 0 && !ranges) {
        return error_set(error, -ENOMEM, "out of memory");
    }
    short_ranges(bytes, ranges, count);
    *ret = (struct record_decoded){.record = {.type = RECORD_MARK,
                                              .drive = load_le64(bytes + 8),
                                              .ranges = ranges,
                                              .ranges_count = count},
                                   .ranges = ranges};
    return 0;
}

int record_decode(const uint8_t *bytes, size_t length, struct record_decoded *ret,
                  struct error *error)
{
    if (says_short(bytes, length)) {
        return decode_short(bytes, length, ret, error);
    }
    CLEANUP(record_decoded_deinit) struct record_decoded decoded = {0};
    struct record *record = &decoded.record;
    struct reader reader = {bytes, length};

    const uint8_t *p = take(&reader, FIXED_BYTES);
    if (!p) {
        return error_set(error, -EBADMSG, "a record of %zu bytes is too short", length);
    }
    if (p[0] >= RECORD_TYPES || p[3] >= UNTRACKED_REASONS) {
        return error_set(error, -EBADMSG, "a record's type %u or reason %u is unknown", p[0], p[3]);
    }
    record->type = p[0];
    record->force = p[1] & FLAG_FORCE;
    record->disabled = p[1] & FLAG_DISABLED;
    record->carry_whole = p[1] & FLAG_CARRY_WHOLE;
    record->continues = p[1] & FLAG_CONTINUES;
    record->returning = p[1] & FLAG_RETURNING;
    record->doubtful = p[1] & FLAG_DOUBTFUL;
    record->untracked = p[3];
    bool request = p[1] & FLAG_REQUEST, identity = p[1] & FLAG_IDENTITY;
    record->durability = p[2];
    record->granularity = load_le32(p + 4);
    record->drive = load_le64(p + 8);
    record->bitmap = load_le64(p + 16);
    record->size = load_le64(p + 24);
    if (request) {
        p = take(&reader, sizeof record->request.bytes);
        if (!p) {
            return error_set(error, -EBADMSG, "a record ends inside its request id");
        }
        memcpy(record->request.bytes, p, sizeof record->request.bytes);
    }
    if (!take_text(&reader, &record->name) || !take_text(&reader, &record->path) ||
        (identity &&
         (!take_text(&reader, &record->identity) || !take_text(&reader, &record->evidence)))) {
        return error_set(error, -EBADMSG, "a record ends inside its names");
    }
    bool packed = record->type == RECORD_MARK && record->granularity == PACKED_GRANULARITY;
    if (packed) {
        record->granularity = 0;
    }
    int r = take_ranges(&reader, packed, &decoded.ranges, &record->ranges_count);
    if (r == 0) {
        r = take_ranges(&reader, false, &decoded.carried, &record->carried_count);
    }
    if (r == 0) {
        r = take_sources(&reader, &decoded.sources, &record->sources_count);
    }
    if (r == 0 && record->type == RECORD_CHECKPOINT_CREATE) {
        p = take(&reader, CHECKPOINT_BYTES);
        if (p) {
            memcpy(record->uuid, p, sizeof record->uuid);
            record->created_ns = load_le64(p + sizeof record->uuid);
        } else {
            r = -EBADMSG;
        }
    } else if (r == 0 && record->type == RECORD_TRANSACTION) {
        record->nested_bytes = (uint32_t)reader.left;
        record->nested = take(&reader, reader.left);
    }
    if (r == 0 && reader.left > 0) {
        r = -EBADMSG;
    }
    if (r < 0) {
        return error_set(error, r,
                         r == -ENOMEM ? "out of memory" : "a record's lists do not fit its length");
    }
    record->ranges = decoded.ranges;
    record->carried = decoded.carried;
    record->sources = decoded.sources;
    *ret = decoded;
    memset(&decoded, 0, sizeof decoded);
    return 0;
}

uint32_t record_decode_mark(const uint8_t *bytes, size_t length, uint64_t *ret_drive,
                            struct range *ret_ranges, uint32_t ranges_max)
{
    if (!says_short(bytes, length) || !short_is_whole(bytes, length) ||
        load_le32(bytes + 4) > ranges_max) {
        return 0;
    }
    uint32_t count = load_le32(bytes + 4);
    short_ranges(bytes, ret_ranges, count);
    *ret_drive = load_le64(bytes + 8);
    return count;
}
