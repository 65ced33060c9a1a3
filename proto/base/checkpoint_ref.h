/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_PROTO_BASE_CHECKPOINT_REF_H
#define BITMAPD_PROTO_BASE_CHECKPOINT_REF_H

#include "proto/base/error.h"
#include "proto/base/name.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * How a checkpoint is addressed: "NAME", whichever has that name now, or
 * "NAME@UUID", that one only.  A name holds no '@', so the first one divides.
 */
#define CHECKPOINT_UUID_CHARACTERS 36u /* 8-4-4-4-12 hexadecimal digits */
#define CHECKPOINT_REF_BYTES_MAX   (NAME_BYTES_MAX + 1u + CHECKPOINT_UUID_CHARACTERS)

struct checkpoint_ref {
    size_t name_bytes; /* of the text: its name */
    bool has_uuid;
    uint8_t uuid[16]; /* zeros without one */
};

/* Parses @text, which needs no NUL: 0, or -EINVAL with words.  Digits may be of either case. */
int checkpoint_ref_parse(const char *text, size_t length_bytes, struct checkpoint_ref *ret,
                         struct error *error);

#endif
