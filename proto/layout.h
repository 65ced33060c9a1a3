/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_PROTO_LAYOUT_H
#define BITMAPD_PROTO_LAYOUT_H

#include "proto/message.h"

#include <stdint.h>

/*
 * The tables that drive the codec: for each message the fields of its
 * structure, in their order on the wire.  Private to message.c and the tests.
 */
enum field_kind {
    FIELD_U8,
    FIELD_U16,
    FIELD_U32,
    FIELD_U64,
    FIELD_UUID,
    FIELD_STRING,
    FIELD_STRINGS,
    FIELD_RANGES,
    FIELD_BLOB,
};

struct field {
    const char *name;
    uint16_t offset_bytes; /* in the structure */
    uint8_t kind;          /* enum field_kind */
};

struct layout {
    const char *name;
    const struct field *fields;
    uint16_t count;
    uint16_t struct_bytes;
};

/* Of the largest structure; message_decode() builds into a scratch of this size. */
#define STRUCT_BYTES_MAX 256

extern const struct layout message_layouts[MESSAGE_TYPES];

#endif
