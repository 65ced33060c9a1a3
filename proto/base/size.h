/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_PROTO_BASE_SIZE_H
#define BITMAPD_PROTO_BASE_SIZE_H

#include <stdint.h>

/*
 * Parses a size as users type it: decimal digits, then nothing or one of
 * k K M G T P (powers of 1024), optionally followed by "iB" ("64K", "64KiB").
 * Stores bytes and returns 0; -EINVAL for anything else (signs, spaces,
 * fractions, empty text), -ERANGE when it does not fit 64 bits.
 */
int size_parse(const char *text, uint64_t *ret_bytes);

/*
 * Parses a time span: decimal digits, then nothing or "s" for seconds, "ms",
 * "min", "h" or "d".  Stores nanoseconds; the same errors as size_parse().
 */
int span_parse(const char *text, uint64_t *ret_ns);

#endif
