/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_PROTO_BASE_NAME_H
#define BITMAPD_PROTO_BASE_NAME_H

#include "proto/base/error.h"

#include <stddef.h>

#define NAME_BYTES_MAX 255 /* of a drive's, bitmap's or checkpoint's name, without a NUL */

enum name_kind {
    NAME_DRIVE,  /* may hold '/', but no empty part: "vg0/vm-101-disk-0" */
    NAME_BITMAP, /* bitmaps and checkpoints: no '/' */
};

/*
 * Checks a name: 1–255 bytes of well-formed UTF-8 without control characters
 * (C0, DEL, C1), spaces or '@', not beginning with '-'.  Returns 0 or -EINVAL
 * with the reason and the byte offset in words.  @name needs no NUL.
 */
int name_check(enum name_kind kind, const char *name, size_t length_bytes, struct error *error);

/*
 * Splits "DRIVE/NAME" at its last '/' and checks both parts.  Stores the
 * length of the drive's part; the bitmap's name begins one byte after it.
 */
int name_split(const char *full, size_t length_bytes, size_t *ret_drive_bytes, struct error *error);

#endif
