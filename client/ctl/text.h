/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_CLIENT_CTL_TEXT_H
#define BITMAPD_CLIENT_CTL_TEXT_H

#include <stddef.h>
#include <stdint.h>

/*
 * Text from outside (names, paths, reasons) made fit to be shown.  The
 * results are malloc()ed; NULL when memory is out.
 */

/*
 * For a terminal: well-formed UTF-8 stays; bytes that are not, controls (C0,
 * DEL, C1) and characters that turn the writing direction become \xHH, byte
 * by byte.
 */
char *text_for_terminal(const char *text);

/* Well-formed UTF-8: every byte that is not becomes U+FFFD. */
char *text_as_utf8(const char *text);

/*
 * JSON text in which the characters that text_for_terminal() would not let
 * through are written as \uXXXX.  Takes JSON that is well-formed UTF-8 and
 * whose C0 controls are escaped already; newlines between values stay.
 */
char *text_json_for_terminal(const char *json);

/* "64K" when @bytes is a whole number of that unit, else the plain number. */
#define TEXT_SIZE_BYTES 24
const char *text_size(uint64_t bytes, char buffer[TEXT_SIZE_BYTES]);

/* "2026-11-25T01:02:03Z" of CLOCK_REALTIME, or "?" */
#define TEXT_TIME_BYTES 32
const char *text_time(uint64_t ns, char buffer[TEXT_TIME_BYTES]);

/* "01234567-89ab-cdef-0123-456789abcdef" */
#define TEXT_UUID_BYTES 37
const char *text_uuid(const uint8_t uuid[16], char buffer[TEXT_UUID_BYTES]);

#endif
