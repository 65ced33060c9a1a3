/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One codec for every message, driven by tables: a layout is the list of a
 * structure's fields in their order on the wire (layout.c), and sizing,
 * encoding and decoding are three walks over the same list.
 *
 * Decoding keeps two promises that everything above leans on: the caller's
 * structure is written whole or not at all, and every count and length in it
 * has been checked against the payload, so that walking a decoded string or
 * list needs no further check.
 */
#include "proto/message.h"

#include "proto/base/endian.h"
#include "proto/frame.h"
#include "proto/layout.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* ---- Strings and ranges ---- */

struct wire_string wire_string(const char *text)
{
    size_t length = text ? strlen(text) : 0;
    if (length > UINT16_MAX) {
        abort();
    }
    return (struct wire_string){.data = length ? text : NULL, .length = (uint16_t)length};
}

struct wire_string wire_strings_next(struct wire_strings *strings)
{
    assert(strings->count > 0 && strings->bytes >= 2);
    uint16_t length = load_le16(strings->data);
    assert(length <= strings->bytes - 2);

    struct wire_string next = {
        .data = length ? (const char *)strings->data + 2 : NULL,
        .length = length,
    };
    strings->data += 2 + length;
    strings->bytes -= 2u + length;
    strings->count--;
    return next;
}

/* ---- Buffer ---- */

#define BUFFER_BYTES_MIN 512u

void wire_buffer_deinit(struct wire_buffer *buffer)
{
    free(buffer->data);
    *buffer = (struct wire_buffer){0};
}

int wire_buffer_reserve(struct wire_buffer *buffer, size_t bytes)
{
    if (bytes <= buffer->capacity - buffer->bytes) {
        return 0;
    }
    size_t needed;
    if (__builtin_add_overflow(buffer->bytes, bytes, &needed)) {
        return -ENOMEM;
    }
    size_t capacity = buffer->capacity < BUFFER_BYTES_MIN ? BUFFER_BYTES_MIN : buffer->capacity;
    while (capacity < needed) {
        if (__builtin_mul_overflow(capacity, (size_t)2, &capacity)) {
            return -ENOMEM;
        }
    }
    uint8_t *data = realloc(buffer->data, capacity);
    if (!data) {
        return -ENOMEM;
    }
    buffer->data = data;
    buffer->capacity = capacity;
    return 0;
}

/* ---- Encoding ---- */

static bool string_has_nul(const char *data, size_t length)
{
    return length > 0 && memchr(data, '\0', length) != NULL;
}

/* Bytes that the field takes on the wire; the caller's strings without NULs, or -EINVAL. */
static int field_size(const struct field *field, const uint8_t *value, size_t *ret_bytes)
{
    switch ((enum field_kind)field->kind) {
    case FIELD_U8:
        *ret_bytes = 1;
        return 0;
    case FIELD_U16:
        *ret_bytes = 2;
        return 0;
    case FIELD_U32:
        *ret_bytes = 4;
        return 0;
    case FIELD_U64:
        *ret_bytes = 8;
        return 0;
    case FIELD_UUID:
        *ret_bytes = 16;
        return 0;
    case FIELD_STRING: {
        const struct wire_string *string = (const void *)value;
        *ret_bytes = 2u + (size_t)string->length;
        return string_has_nul(string->data, string->length) ? -EINVAL : 0;
    }
    case FIELD_STRINGS: {
        const struct wire_strings *strings = (const void *)value;
        *ret_bytes = 2u + (size_t)strings->bytes;
        return 0;
    }
    case FIELD_RANGES: {
        const struct wire_ranges *ranges = (const void *)value;
        *ret_bytes = 4u + (size_t)ranges->count * WIRE_RANGE_BYTES;
        return 0;
    }
    case FIELD_BLOB: {
        const struct wire_blob *blob = (const void *)value;
        *ret_bytes = 4u + (size_t)blob->bytes;
        return 0;
    }
    }
    abort();
}

static uint8_t *put_bytes(uint8_t *out, const void *data, size_t bytes)
{
    if (bytes > 0) {
        memcpy(out, data, bytes);
    }
    return out + bytes;
}

/* Writes the field and returns where the next one goes. */
static uint8_t *field_encode(const struct field *field, const uint8_t *value, uint8_t *out)
{
    switch ((enum field_kind)field->kind) {
    case FIELD_U8:
        *out = *value;
        return out + 1;
    case FIELD_U16:
        store_le16(out, *(const uint16_t *)(const void *)value);
        return out + 2;
    case FIELD_U32:
        store_le32(out, *(const uint32_t *)(const void *)value);
        return out + 4;
    case FIELD_U64:
        store_le64(out, *(const uint64_t *)(const void *)value);
        return out + 8;
    case FIELD_UUID:
        return put_bytes(out, value, sizeof(struct wire_uuid));
    case FIELD_STRING: {
        const struct wire_string *string = (const void *)value;
        store_le16(out, string->length);
        return put_bytes(out + 2, string->data, string->length);
    }
    case FIELD_STRINGS: {
        const struct wire_strings *strings = (const void *)value;
        store_le16(out, strings->count);
        return put_bytes(out + 2, strings->data, strings->bytes);
    }
    case FIELD_RANGES: {
        const struct wire_ranges *ranges = (const void *)value;
        store_le32(out, ranges->count);
        return put_bytes(out + 4, ranges->data, (size_t)ranges->count * WIRE_RANGE_BYTES);
    }
    case FIELD_BLOB: {
        const struct wire_blob *blob = (const void *)value;
        store_le32(out, blob->bytes);
        return put_bytes(out + 4, blob->data, blob->bytes);
    }
    }
    abort();
}

int message_encode(struct wire_buffer *buffer, enum message_type type, const void *message,
                   uint16_t operation, uint8_t flags, uint8_t status, uint64_t cookie)
{
    assert((unsigned)type < MESSAGE_TYPES);
    const struct layout *layout = &message_layouts[type];
    size_t payload_bytes = 0;

    for (unsigned i = 0; i < layout->count; i++) {
        const struct field *field = &layout->fields[i];
        size_t bytes;
        int r = field_size(field, (const uint8_t *)message + field->offset_bytes, &bytes);
        if (r < 0) {
            return r;
        }
        payload_bytes += bytes;
    }
    if (payload_bytes > FRAME_BYTES_MAX - FRAME_HEADER_BYTES) {
        return -EMSGSIZE;
    }
    int r = wire_buffer_reserve(buffer, FRAME_HEADER_BYTES + payload_bytes);
    if (r < 0) {
        return r;
    }

    uint8_t *out = buffer->data + buffer->bytes;
    frame_encode_header(out, &(struct frame){
                                 .operation = operation,
                                 .flags = flags,
                                 .status = status,
                                 .cookie = cookie,
                                 .payload_bytes = (uint32_t)payload_bytes,
                             });
    out += FRAME_HEADER_BYTES;
    for (unsigned i = 0; i < layout->count; i++) {
        const struct field *field = &layout->fields[i];
        out = field_encode(field, (const uint8_t *)message + field->offset_bytes, out);
    }
    buffer->bytes += FRAME_HEADER_BYTES + payload_bytes;
    assert(out == buffer->data + buffer->bytes);
    return 0;
}

/* ---- Decoding ---- */

/* What is left of a payload, and where we are in it. */
struct cursor {
    const char *message;
    const char *field;
    const uint8_t *start;
    const uint8_t *at;
    size_t left_bytes;
};

/* Takes @bytes from the payload; NULL, with words in @error, when it ends before. */
static const uint8_t *cursor_take(struct cursor *cursor, size_t bytes, struct error *error)
{
    if (bytes > cursor->left_bytes) {
        (void)error_set(error, -EPROTO, "%s: %s at byte %td: expected %zu bytes, found %zu",
                        cursor->message, cursor->field, cursor->at - cursor->start, bytes,
                        cursor->left_bytes);
        return NULL;
    }
    const uint8_t *taken = cursor->at;
    cursor->at += bytes;
    cursor->left_bytes -= bytes;
    return taken;
}

static int cursor_take_string(struct cursor *cursor, struct wire_string *ret, struct error *error)
{
    const uint8_t *prefix = cursor_take(cursor, 2, error);
    if (!prefix) {
        return -EPROTO;
    }
    uint16_t length = load_le16(prefix);
    const char *data = (const char *)cursor_take(cursor, length, error);
    if (!data) {
        return -EPROTO;
    }
    if (string_has_nul(data, length)) {
        return error_set(error, -EPROTO, "%s: %s at byte %td holds a NUL", cursor->message,
                         cursor->field, prefix - cursor->start);
    }
    *ret = (struct wire_string){.data = length ? data : NULL, .length = length};
    return 0;
}

static int cursor_take_strings(struct cursor *cursor, struct wire_strings *ret, struct error *error)
{
    const uint8_t *prefix = cursor_take(cursor, 2, error);
    if (!prefix) {
        return -EPROTO;
    }
    uint16_t count = load_le16(prefix);
    const uint8_t *data = cursor->at;
    for (unsigned i = 0; i < count; i++) {
        struct wire_string ignored;
        int r = cursor_take_string(cursor, &ignored, error);
        if (r < 0) {
            return r;
        }
    }
    *ret = (struct wire_strings){
        .data = count ? data : NULL,
        .bytes = (uint32_t)(cursor->at - data),
        .count = count,
    };
    return 0;
}

static int cursor_take_ranges(struct cursor *cursor, struct wire_ranges *ret, struct error *error)
{
    const uint8_t *prefix = cursor_take(cursor, 4, error);
    if (!prefix) {
        return -EPROTO;
    }
    uint32_t count = load_le32(prefix);
    if (count > cursor->left_bytes / WIRE_RANGE_BYTES) {
        return error_set(error, -EPROTO,
                         "%s: %s at byte %td: expected %u ranges, found bytes for %zu",
                         cursor->message, cursor->field, prefix - cursor->start, count,
                         cursor->left_bytes / WIRE_RANGE_BYTES);
    }
    const uint8_t *data = cursor_take(cursor, (size_t)count * WIRE_RANGE_BYTES, error);
    *ret = (struct wire_ranges){.data = count ? data : NULL, .count = count};
    return 0;
}

static int cursor_take_blob(struct cursor *cursor, struct wire_blob *ret, struct error *error)
{
    const uint8_t *prefix = cursor_take(cursor, 4, error);
    if (!prefix) {
        return -EPROTO;
    }
    uint32_t bytes = load_le32(prefix);
    const uint8_t *data = cursor_take(cursor, bytes, error);
    if (!data) {
        return -EPROTO;
    }
    *ret = (struct wire_blob){.data = bytes ? data : NULL, .bytes = bytes};
    return 0;
}

static int field_decode(const struct field *field, struct cursor *cursor, uint8_t *value,
                        struct error *error)
{
    const uint8_t *in;

    switch ((enum field_kind)field->kind) {
    case FIELD_U8:
        in = cursor_take(cursor, 1, error);
        if (in) {
            *value = *in;
        }
        return in ? 0 : -EPROTO;
    case FIELD_U16:
        in = cursor_take(cursor, 2, error);
        if (in) {
            *(uint16_t *)(void *)value = load_le16(in);
        }
        return in ? 0 : -EPROTO;
    case FIELD_U32:
        in = cursor_take(cursor, 4, error);
        if (in) {
            *(uint32_t *)(void *)value = load_le32(in);
        }
        return in ? 0 : -EPROTO;
    case FIELD_U64:
        in = cursor_take(cursor, 8, error);
        if (in) {
            *(uint64_t *)(void *)value = load_le64(in);
        }
        return in ? 0 : -EPROTO;
    case FIELD_UUID:
        in = cursor_take(cursor, sizeof(struct wire_uuid), error);
        if (in) {
            memcpy(value, in, sizeof(struct wire_uuid));
        }
        return in ? 0 : -EPROTO;
    case FIELD_STRING:
        return cursor_take_string(cursor, (struct wire_string *)(void *)value, error);
    case FIELD_STRINGS:
        return cursor_take_strings(cursor, (struct wire_strings *)(void *)value, error);
    case FIELD_RANGES:
        return cursor_take_ranges(cursor, (struct wire_ranges *)(void *)value, error);
    case FIELD_BLOB:
        return cursor_take_blob(cursor, (struct wire_blob *)(void *)value, error);
    }
    abort();
}

int message_decode(enum message_type type, const uint8_t *payload, size_t bytes, int longer,
                   void *ret_message, struct error *error)
{
    assert((unsigned)type < MESSAGE_TYPES);
    const struct layout *layout = &message_layouts[type];
    _Alignas(max_align_t) uint8_t scratch[STRUCT_BYTES_MAX];
    struct cursor cursor = {
        .message = layout->name,
        .start = payload,
        .at = payload,
        .left_bytes = bytes,
    };

    /* Padding too, so that nothing of our stack leaves in the caller's structure. */
    memset(scratch, 0, layout->struct_bytes);
    for (unsigned i = 0; i < layout->count; i++) {
        const struct field *field = &layout->fields[i];
        cursor.field = field->name;
        int r = field_decode(field, &cursor, scratch + field->offset_bytes, error);
        if (r < 0) {
            return r;
        }
    }
    if (cursor.left_bytes > 0 && !longer) {
        return error_set(error, -EPROTO, "%s: expected %zu bytes, found %zu", layout->name,
                         bytes - cursor.left_bytes, bytes);
    }
    if (layout->struct_bytes > 0) {
        memcpy(ret_message, scratch, layout->struct_bytes);
    }
    return 0;
}

/* Where the fields of a MARK are: drive, first_id, and the ranges' count. */
#define PEEK_DRIVE  FRAME_HEADER_BYTES
#define PEEK_COUNT  (PEEK_DRIVE + 16)
#define PEEK_RANGES (PEEK_COUNT + 4)

bool message_peek_mark(const uint8_t *frame, size_t bytes, uint64_t *ret_drive,
                       struct wire_range *ret_first)
{
    if (bytes < PEEK_RANGES + WIRE_RANGE_BYTES || load_le16(frame + 4) != OPERATION_MARK ||
        load_le32(frame + PEEK_COUNT) == 0) {
        return false;
    }
    const struct wire_ranges ranges = {.data = frame + PEEK_RANGES, .count = 1};
    *ret_drive = load_le64(frame + PEEK_DRIVE);
    *ret_first = wire_ranges_get(&ranges, 0);
    return true;
}
