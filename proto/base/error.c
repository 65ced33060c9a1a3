/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Failures in words.  Everything is cut to the buffer rather than allocated:
 * an error must be reportable when memory is what ran out.  The cut never
 * splits a UTF-8 sequence of a name that was quoted.
 */
#include "proto/base/error.h"

#include <stdio.h>
#include <string.h>

/* @length_bytes of a cut text, less the UTF-8 sequence that the cut left incomplete, if any. */
static size_t utf8_whole(const char *text, size_t length_bytes)
{
    for (size_t back = 1; back <= 3 && back <= length_bytes; back++) {
        unsigned char c = (unsigned char)text[length_bytes - back];
        if ((c & 0xc0) != 0x80) {
            size_t needs = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;
            return needs > back ? length_bytes - back : length_bytes;
        }
    }
    return length_bytes;
}

/* Ends the text that @n = vsnprintf() left in the buffer, and returns its length. */
static size_t text_settle(struct error *error, int n)
{
    size_t length = n < 0 ? 0 : (size_t)n;

    if (length >= sizeof error->text) {
        length = utf8_whole(error->text, sizeof error->text - 1);
    }
    error->text[length] = '\0';
    return length;
}

/* Adds ": @more" to a text of @length_bytes. */
static void text_append(struct error *error, size_t length_bytes, const char *more)
{
    size_t room = sizeof error->text - 1 - length_bytes;
    size_t more_bytes = strlen(more);

    if (room <= 2) {
        return;
    }
    memcpy(error->text + length_bytes, ": ", 2);
    length_bytes += 2;
    room -= 2;
    if (more_bytes > room) {
        more_bytes = utf8_whole(more, room);
    }
    memcpy(error->text + length_bytes, more, more_bytes);
    error->text[length_bytes + more_bytes] = '\0';
}

int error_set(struct error *error, int r, const char *format, ...)
{
    if (error) {
        va_list args;
        va_start(args, format);
        (void)text_settle(error, vsnprintf(error->text, sizeof error->text, format, args));
        va_end(args);
    }
    return r;
}

int error_prefix(struct error *error, int r, const char *format, ...)
{
    if (error) {
        struct error old = *error;
        va_list args;
        va_start(args, format);
        size_t length =
            text_settle(error, vsnprintf(error->text, sizeof error->text, format, args));
        va_end(args);
        text_append(error, length, old.text);
    }
    return r;
}

int error_set_errno(struct error *error, int r, const char *format, ...)
{
    if (error) {
        char buffer[128];
        va_list args;
        va_start(args, format);
        size_t length =
            text_settle(error, vsnprintf(error->text, sizeof error->text, format, args));
        va_end(args);
        text_append(error, length, strerror_r(-r, buffer, sizeof buffer));
    }
    return r;
}
