/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_PROTO_BASE_ERROR_H
#define BITMAPD_PROTO_BASE_ERROR_H

#include <stdarg.h>

/*
 * A failure that a user will read.  Functions return 0 for success and
 * -errno for failure; those whose failures need words take a `struct error *`
 * as well, which may be NULL and is written only on failure.
 */
struct error {
    char text[512]; /* one line of UTF-8, NUL-terminated, no full stop at its end */
};

/*
 * Stores the formatted text (cut at the buffer's end) and returns @r, so that
 * a failing function may end with `return error_set(error, -EINVAL, …)`.
 */
int error_set(struct error *error, int r, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "CONTEXT: " in front of the text that is there, and returns @r. */
int error_prefix(struct error *error, int r, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* error_set() with ": " and the text of errno value -@r at the end. */
int error_set_errno(struct error *error, int r, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
