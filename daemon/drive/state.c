/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The model's payload in the container's state blob: all that answers depend
 * on and the draft's bitmap table has no field for.  The container guards it
 * with a CRC32C and hands it back as it was given.
 *
 * Little endian; a string is u16 length and bytes.
 *
 *     u32 version (2; version 1 is read: what is marked + is not in it)
 *     u64 next_id
 *     16 bytes instance of the journal that belongs to this commit
 *     u32 drives, then for each:
 *         u64 id, string name, string path, u64 size in bytes,
 *         u32 granularity, u8 durability, + string identity, + string evidence
 *         u32 writers, then for each:
 *             string token, u8 flags (bit 0: it may have unsettled writes, bit 1: it goes on
 *             without us, bit 2: the host was down since it was lost, bit 3: it is connected)
 *         u32 bitmaps, then for each:
 *             u64 id, string name, u32 granularity,
 *             u8 flags (bit 0: recording, bit 1: gap), u8 validity, string reason, + u8 untracked
 *         + u32 checkpoints, eldest first, then for each what a bitmap has (only the last records),
 *             then 16 bytes UUID, u64 sequence, u64 created (ns), u64 dirty granules, u64 dirty
 *             bytes
 *     u32 requests, oldest first, then for each:
 *         16 bytes id, u16 record type, u64 sequence, u64 object
 *
 * Writers without a token are stored one by one, since a journal tells of each that goes.  Who is
 * connected matters to a replay only; after that, nobody is.
 * Nothing in here is believed unchecked; a payload that breaks a rule is
 * refused as a whole.
 */
#include "daemon/drive/internal.h"

#include "proto/base/checked.h"
#include "proto/base/endian.h"

#include <string.h>

#define STATE_VERSION        2u
#define STATE_VERSION_ABSURD 65536u

#define WRITER_UNACCOUNTED   (1u << 0)
#define WRITER_CONTINUES     (1u << 1)
#define WRITER_REBOOTED      (1u << 2)
#define WRITER_CONNECTED     (1u << 3)
#define WRITER_FLAGS         (WRITER_UNACCOUNTED | WRITER_CONTINUES | WRITER_REBOOTED | WRITER_CONNECTED)
#define BITMAP_RECORDING     (1u << 0)
#define BITMAP_GAP           (1u << 1)

/* ---- Encoding ---- */

struct encoder {
    uint8_t *data;
    size_t bytes, capacity;
    bool failed; /* out of memory; what follows is ignored */
};

static void put(struct encoder *encoder, const void *data, size_t bytes)
{
    if (encoder->capacity - encoder->bytes < bytes && !encoder->failed) {
        size_t capacity = (encoder->bytes + bytes) * 2 + 256;
        uint8_t *grown = realloc(encoder->data, capacity);
        if (!grown) {
            encoder->failed = true;
        } else {
            encoder->data = grown;
            encoder->capacity = capacity;
        }
    }
    if (!encoder->failed && bytes > 0) {
        memcpy(encoder->data + encoder->bytes, data, bytes);
        encoder->bytes += bytes;
    }
}

static void put_u8(struct encoder *encoder, uint32_t value)
{
    uint8_t byte = (uint8_t)value;
    put(encoder, &byte, 1);
}

static void put_u16(struct encoder *encoder, uint32_t value)
{
    uint8_t bytes[2];
    store_le16(bytes, (uint16_t)value);
    put(encoder, bytes, sizeof bytes);
}

static void put_u32(struct encoder *encoder, uint32_t value)
{
    uint8_t bytes[4];
    store_le32(bytes, value);
    put(encoder, bytes, sizeof bytes);
}

static void put_u64(struct encoder *encoder, uint64_t value)
{
    uint8_t bytes[8];
    store_le64(bytes, value);
    put(encoder, bytes, sizeof bytes);
}

static void put_string(struct encoder *encoder, const char *text)
{
    size_t bytes = text ? strlen(text) : 0;
    put_u16(encoder, (uint32_t)bytes);
    put(encoder, text, bytes);
}

static void encode_bitmap(struct encoder *encoder, const struct drive_bitmap *bitmap)
{
    put_u64(encoder, bitmap->id);
    put_string(encoder, bitmap->name);
    put_u32(encoder, bitmap->granularity);
    put_u8(encoder, (bitmap->recording ? BITMAP_RECORDING : 0) | (bitmap->gap ? BITMAP_GAP : 0));
    put_u8(encoder, bitmap->validity);
    put_string(encoder, bitmap->reason);
    put_u8(encoder, bitmap->untracked);
}

static void encode_checkpoint(struct encoder *encoder, const struct drive_bitmap *bitmap)
{
    const struct checkpoint *checkpoint = bitmap->checkpoint;

    encode_bitmap(encoder, bitmap);
    put(encoder, checkpoint->uuid, sizeof checkpoint->uuid);
    put_u64(encoder, checkpoint->sequence);
    put_u64(encoder, checkpoint->created_ns);
    put_u64(encoder, bitmap->bits ? bitmap_count(bitmap->bits) : bitmap->dirty_count);
    put_u64(encoder, bitmap->bits ? bitmap_dirty_bytes(bitmap->bits) : bitmap->dirty_bytes);
}

static void encode_drive(struct encoder *encoder, struct drive *drive)
{
    put_u64(encoder, drive->id);
    put_string(encoder, drive->name);
    put_string(encoder, drive->path);
    put_u64(encoder, drive->size);
    put_u32(encoder, drive->granularity);
    put_u8(encoder, drive->durability);
    put_string(encoder, drive->identity);
    put_string(encoder, drive->evidence);

    put_u32(encoder, drive->writers_count);
    const struct writer *writer;
    TAILQ_FOREACH (writer, &drive->writers, entry) {
        bool unsettled = writer->unaccounted || writer_unsettled(writer) > 0;
        put_string(encoder, writer->token);
        put_u8(encoder, (unsettled ? WRITER_UNACCOUNTED : 0) |
                            (writer->continues ? WRITER_CONTINUES : 0) |
                            (writer->rebooted ? WRITER_REBOOTED : 0) |
                            (writer->connected ? WRITER_CONNECTED : 0));
    }

    put_u32(encoder, drive->bitmaps_count);
    struct drive_bitmap *bitmap;
    RB_FOREACH (bitmap, drive_bitmap_names, &drive->bitmaps) {
        encode_bitmap(encoder, bitmap);
    }
    put_u32(encoder, drive->checkpoints_count);
    TAILQ_FOREACH (bitmap, &drive->history, in_history) {
        encode_checkpoint(encoder, bitmap);
    }
}

int state_encode(struct model *model, uint8_t **ret_payload, size_t *ret_bytes)
{
    struct encoder encoder = {0};

    put_u32(&encoder, STATE_VERSION);
    put_u64(&encoder, model->next_id);
    put(&encoder, model->instance.bytes, sizeof model->instance.bytes);
    put_u32(&encoder, model->drives_count);
    struct drive *drive;
    RB_FOREACH (drive, drives_by_id, &model->drives) {
        encode_drive(&encoder, drive);
    }
    put_u32(&encoder, model->requests_count);
    const struct request_result *result;
    TAILQ_FOREACH (result, &model->requests_order, entry) {
        put(&encoder, result->id.bytes, sizeof result->id.bytes);
        put_u16(&encoder, result->type);
        put_u64(&encoder, result->sequence);
        put_u64(&encoder, result->object);
    }
    if (encoder.failed) {
        free(encoder.data);
        return -ENOMEM;
    }
    *ret_payload = encoder.data;
    *ret_bytes = encoder.bytes;
    return 0;
}

/* ---- Decoding ---- */

struct decoder {
    const uint8_t *data;
    size_t bytes, position;
    uint32_t version;
    bool failed; /* ran past the end; everything after reads as zero */
};

static const uint8_t *get(struct decoder *decoder, size_t bytes)
{
    static const uint8_t zeros[16];
    if (decoder->failed || decoder->bytes - decoder->position < bytes) {
        decoder->failed = true;
        return bytes <= sizeof zeros ? zeros : NULL;
    }
    const uint8_t *p = decoder->data + decoder->position;
    decoder->position += bytes;
    return p;
}

static uint8_t get_u8(struct decoder *decoder)
{
    return *get(decoder, 1);
}

static uint16_t get_u16(struct decoder *decoder)
{
    return load_le16(get(decoder, 2));
}

static uint32_t get_u32(struct decoder *decoder)
{
    return load_le32(get(decoder, 4));
}

static uint64_t get_u64(struct decoder *decoder)
{
    return load_le64(get(decoder, 8));
}

static struct text get_string(struct decoder *decoder)
{
    uint16_t bytes = get_u16(decoder);
    const uint8_t *data = get(decoder, bytes);
    return decoder->failed ? (struct text){"", 0} : (struct text){(const char *)data, bytes};
}

static int broken(const struct decoder *decoder, struct error *error, const char *what)
{
    return decoder->failed
               ? error_set(error, -EBADMSG, "state payload ends at byte %zu inside %s",
                           decoder->bytes, what)
               : error_set(error, -EBADMSG, "state payload is wrong before byte %zu: %s",
                           decoder->position, what);
}

static int decode_writers(struct decoder *decoder, struct drive *drive, struct error *error)
{
    uint32_t count = get_u32(decoder);

    if (count > MODEL_WRITERS_MAX + 1) {
        return broken(decoder, error, "a count of writers");
    }
    for (uint32_t i = 0; i < count; i++) {
        struct text token = get_string(decoder);
        uint8_t flags = get_u8(decoder);
        if (decoder->failed || flags & ~WRITER_FLAGS ||
            (token.bytes && name_check(NAME_DRIVE, token.data, token.bytes, NULL) < 0)) {
            return broken(decoder, error, "a writer");
        }
        if (token.bytes && drive_writer_by_token(drive, token)) {
            return broken(decoder, error, "a writer that is there twice");
        }
        struct writer *writer;
        int r = writer_new_lost(drive, token, flags & WRITER_UNACCOUNTED, &writer);
        if (r < 0) {
            return error_set(error, r, "out of memory");
        }
        writer->continues = flags & WRITER_CONTINUES;
        writer->rebooted = flags & WRITER_REBOOTED;
        writer->connected = flags & WRITER_CONNECTED;
        drive_add_writer(drive, writer);
    }
    return 0;
}

/* Makes a bitmap in no tree yet.  Sealed ones get no bits: those are in the container. */
static int decode_bitmap_fields(struct decoder *decoder, struct model *model, struct drive *drive,
                                bool checkpoint, struct drive_bitmap **ret, struct error *error)
{
    uint64_t id = get_u64(decoder);
    struct text name = get_string(decoder);
    uint32_t granularity = get_u32(decoder);
    uint8_t flags = get_u8(decoder);
    uint8_t validity = get_u8(decoder);
    struct text reason = get_string(decoder);
    uint8_t untracked = decoder->version >= 2 ? get_u8(decoder)
                        : drive->path         ? UNTRACKED_NO_EVIDENCE
                                              : UNTRACKED_NO_PATH;
    bool recording = flags & BITMAP_RECORDING;

    if (decoder->failed || id == 0 || id >= model->next_id || model_bitmap_by_id(model, id) ||
        flags & ~(BITMAP_RECORDING | (checkpoint ? 0 : BITMAP_GAP)) ||
        validity > VALIDITY_UNKNOWN || untracked >= UNTRACKED_REASONS ||
        name_check(NAME_BITMAP, name.data, name.bytes, NULL) < 0 ||
        (checkpoint ? model_checkpoint_by_name(drive, name, NULL) != NULL
                    : drive_bitmap_by_name(drive, name) != NULL) ||
        !bitmap_geometry_valid(drive->size, granularity)) {
        return broken(decoder, error, checkpoint ? "a checkpoint" : "a bitmap");
    }
    struct bitmap *bits = NULL;
    struct drive_bitmap *bitmap;
    int r = checkpoint && !recording
                ? 0
                : bitmap_new(drive->size, granularity, UINT32_C(1) << model->settings.cluster_bits,
                             &bits);
    if (r == 0) {
        r = drive_bitmap_new(id, name, granularity, bits, &bitmap);
    }
    if (r < 0) {
        bitmap_free(bits);
        return error_set(error, r, "out of memory");
    }
    bitmap->recording = recording;
    bitmap->gap = flags & BITMAP_GAP;
    bitmap->untracked = untracked;
    drive_bitmap_set_validity(bitmap, validity, "%.*s", (int)reason.bytes, reason.data);
    *ret = bitmap;
    return 0;
}

static int decode_bitmap(struct decoder *decoder, struct model *model, struct drive *drive,
                         struct error *error)
{
    struct drive_bitmap *bitmap;
    int r = decode_bitmap_fields(decoder, model, drive, false, &bitmap, error);

    if (r == 0) {
        model_link_bitmap(model, drive, bitmap);
    }
    return r;
}

/* @last: the only one that may record, and does. */
static int decode_checkpoint(struct decoder *decoder, struct model *model, struct drive *drive,
                             bool last, struct error *error)
{
    CLEANUP(drive_bitmap_freep) struct drive_bitmap *bitmap = NULL;
    const struct drive_bitmap *elder = TAILQ_LAST(&drive->history, drive_bitmap_list);

    int r = decode_bitmap_fields(decoder, model, drive, true, &bitmap, error);
    if (r < 0) {
        return r;
    }
    bitmap->checkpoint = calloc(1, sizeof *bitmap->checkpoint);
    if (!bitmap->checkpoint) {
        return error_set(error, -ENOMEM, "out of memory");
    }
    memcpy(bitmap->checkpoint->uuid, get(decoder, sizeof bitmap->checkpoint->uuid),
           sizeof bitmap->checkpoint->uuid);
    bitmap->checkpoint->sequence = get_u64(decoder);
    bitmap->checkpoint->created_ns = get_u64(decoder);
    bitmap->dirty_count = get_u64(decoder);
    bitmap->dirty_bytes = get_u64(decoder);
    if (decoder->failed || bitmap->recording != last ||
        bitmap->checkpoint->sequence > model->sequence ||
        (elder && elder->checkpoint->sequence >= bitmap->checkpoint->sequence) ||
        bitmap->dirty_count > div_round_up(drive->size, bitmap->granularity) ||
        bitmap->dirty_bytes > drive->size) {
        return broken(decoder, error, "a checkpoint's place in the history");
    }
    model_link_bitmap(model, drive, STEAL(bitmap));
    return 0;
}

static int decode_history(struct decoder *decoder, struct model *model, struct drive *drive,
                          struct error *error)
{
    uint32_t count = get_u32(decoder);

    if (count > MODEL_CHECKPOINTS_MAX) {
        return broken(decoder, error, "a count of checkpoints");
    }
    for (uint32_t i = 0; i < count; i++) {
        int r = decode_checkpoint(decoder, model, drive, i + 1 == count, error);
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

static int decode_identity(struct decoder *decoder, char **ret, struct error *error)
{
    struct text text = get_string(decoder);

    if (decoder->failed || text.bytes > MODEL_IDENTITY_BYTES_MAX ||
        (text.bytes && memchr(text.data, '\0', text.bytes))) {
        return broken(decoder, error, "a drive's identity");
    }
    if (text.bytes > 0) {
        *ret = strndup(text.data, text.bytes);
        if (!*ret) {
            return error_set(error, -ENOMEM, "out of memory");
        }
    }
    return 0;
}

static int decode_drive(struct decoder *decoder, struct model *model, struct error *error)
{
    uint64_t id = get_u64(decoder);
    struct text name = get_string(decoder);
    struct text path = get_string(decoder);
    uint64_t size = get_u64(decoder);
    uint32_t granularity = get_u32(decoder);
    uint8_t durability = get_u8(decoder);

    if (decoder->failed || id == 0 || id >= model->next_id || model_drive_by_id(model, id) ||
        name_check(NAME_DRIVE, name.data, name.bytes, NULL) < 0 ||
        model_drive_by_name(model, name, NULL) || path.bytes > MODEL_PATH_BYTES_MAX || size == 0 ||
        size > INT64_MAX || !is_power_of_two(granularity) || granularity < BITMAP_GRANULARITY_MIN ||
        granularity > BITMAP_GRANULARITY_MAX ||
        (durability != DURABILITY_POWER_LOSS && durability != DURABILITY_PROCESS_CRASH)) {
        return broken(decoder, error, "a drive");
    }
    struct drive *drive;
    int r = drive_new(id, name, path, &drive);
    if (r < 0) {
        return error_set(error, r, "out of memory");
    }
    drive->size = size;
    drive->granularity = granularity;
    drive->durability = durability;
    model_link_drive(model, drive);

    r = decoder->version >= 2 ? decode_identity(decoder, &drive->identity, error) : 0;
    if (r == 0 && decoder->version >= 2) {
        r = decode_identity(decoder, &drive->evidence, error);
    }
    if (r == 0) {
        r = decode_writers(decoder, drive, error);
    }
    uint32_t count = r == 0 ? get_u32(decoder) : 0;
    for (uint32_t i = 0; r == 0 && i < count; i++) {
        r = decode_bitmap(decoder, model, drive, error);
    }
    return r == 0 && decoder->version >= 2 ? decode_history(decoder, model, drive, error) : r;
}

static int decode_request(struct decoder *decoder, struct model *model, struct error *error)
{
    struct request_id id;
    memcpy(id.bytes, get(decoder, sizeof id.bytes), sizeof id.bytes);
    uint16_t type = get_u16(decoder);
    uint64_t sequence = get_u64(decoder);
    uint64_t object = get_u64(decoder);

    if (decoder->failed || type >= RECORD_TYPES || sequence > model->sequence ||
        model_request_find(model, &id)) {
        return broken(decoder, error, "a request");
    }
    struct request_result *result = calloc(1, sizeof *result);
    if (!result) {
        return error_set(error, -ENOMEM, "out of memory");
    }
    result->id = id;
    result->type = type;
    result->sequence = sequence;
    result->object = object;
    model_request_add(model, result);
    return 0;
}

int state_decode(struct model *model, const uint8_t *payload, size_t bytes, struct error *error)
{
    struct decoder decoder = {.data = payload, .bytes = bytes};

    decoder.version = get_u32(&decoder);
    if (decoder.version == 0 || decoder.version > STATE_VERSION) {
        /* One of a newer bitmapd is no damage; but none will ever have counted so far. */
        bool newer = decoder.version > STATE_VERSION && decoder.version < STATE_VERSION_ABSURD;
        return error_set(error, newer ? -ENOTSUP : -EBADMSG,
                         "state payload has version %u, expected 1 to %u", decoder.version,
                         STATE_VERSION);
    }
    model->next_id = get_u64(&decoder);
    if (model->next_id == 0 || model->next_id >= UINT64_MAX / 2) {
        return broken(&decoder, error, "the next id is out of range");
    }
    memcpy(model->instance.bytes, get(&decoder, sizeof model->instance.bytes),
           sizeof model->instance.bytes);
    int r = 0;
    uint32_t drives = get_u32(&decoder);
    for (uint32_t i = 0; r == 0 && i < drives; i++) {
        r = decode_drive(&decoder, model, error);
    }
    if (r < 0) {
        return r;
    }
    uint32_t requests = get_u32(&decoder);
    for (uint32_t i = 0; r == 0 && i < requests; i++) {
        r = decode_request(&decoder, model, error);
    }
    if (r == 0 && (decoder.failed || decoder.position != decoder.bytes)) {
        r = broken(&decoder, error, "the end");
    }
    return r;
}
