/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Names are checked where they enter the daemon, but paths, reasons and the
 * bitmaps of foreign containers are not: whoever made them must be able
 * neither to steer the reader's terminal nor to break the JSON that a script
 * parses.
 */
#include "client/ctl/text.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Bytes of the well-formed UTF-8 sequence (RFC 3629) at @p, 0 when there is none. */
static size_t utf8_next(const unsigned char *p, uint32_t *ret_character)
{
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    uint32_t c = p[0];
    size_t n = c < 0x80                ? 1
               : c >= 0xc2 && c < 0xe0 ? 2
               : c >= 0xe0 && c < 0xf0 ? 3
               : c >= 0xf0 && c < 0xf5 ? 4
                                       : 0;
    if (n > 1) {
        c &= 0x7fu >> n;
    }
    for (size_t i = 1; i < n; i++) {
        /* The terminating NUL is no continuation byte, so this stops there. */
        if ((p[i] & 0xc0) != 0x80) {
            return 0;
        }
        c = c << 6 | (p[i] & 0x3fu);
    }
    if (n == 0 || c < smallest[n] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)) {
        return 0;
    }
    *ret_character = c;
    return n;
}

static bool is_harmful(uint32_t c)
{
    return c < 0x20 || (c >= 0x7f && c <= 0x9f)        /* controls */
           || c == 0x61c || c == 0x200e || c == 0x200f /* direction marks */
           || (c >= 0x202a && c <= 0x202e)             /* embeddings, overrides */
           || (c >= 0x2066 && c <= 0x2069)             /* isolates */
           || c == 0x2028 || c == 0x2029;              /* line, paragraph separator */
}

char *text_for_terminal(const char *text)
{
    const unsigned char *p = (const unsigned char *)text;
    char *result = malloc(strlen(text) * 4 + 1);
    char *q = result;
    uint32_t c;

    if (!result) {
        return NULL;
    }
    while (*p) {
        size_t n = utf8_next(p, &c);
        if (n > 0 && !is_harmful(c)) {
            memcpy(q, p, n);
            q += n;
            p += n;
            continue;
        }
        for (size_t i = 0; i < (n ? n : 1); i++) {
            q += sprintf(q, "\\x%02x", *p++);
        }
    }
    *q = '\0';
    return result;
}

char *text_as_utf8(const char *text)
{
    const unsigned char *p = (const unsigned char *)text;
    char *result = malloc(strlen(text) * 3 + 1);
    char *q = result;
    uint32_t c;

    if (!result) {
        return NULL;
    }
    while (*p) {
        size_t n = utf8_next(p, &c);
        if (n > 0) {
            memcpy(q, p, n);
            q += n;
            p += n;
        } else {
            memcpy(q, "\xef\xbf\xbd", 3);
            q += 3;
            p++;
        }
    }
    *q = '\0';
    return result;
}

char *text_json_for_terminal(const char *json)
{
    const unsigned char *p = (const unsigned char *)json;
    /* A harmful character takes at least one byte and becomes six. */
    char *result = malloc(strlen(json) * 6 + 1);
    char *q = result;
    uint32_t c;

    if (!result) {
        return NULL;
    }
    while (*p) {
        size_t n = utf8_next(p, &c);
        if (n > 0 && is_harmful(c) && c != '\n') {
            q += sprintf(q, "\\u%04" PRIx32, c);
        } else {
            n = n ? n : 1;
            memcpy(q, p, n);
            q += n;
        }
        p += n;
    }
    *q = '\0';
    return result;
}

const char *text_size(uint64_t bytes, char buffer[TEXT_SIZE_BYTES])
{
    static const char units[] = "KMGTP";
    char unit[2] = "";

    for (size_t i = 0; units[i] && bytes >= 1024 && bytes % 1024 == 0; i++) {
        bytes /= 1024;
        unit[0] = units[i];
    }
    (void)snprintf(buffer, TEXT_SIZE_BYTES, "%" PRIu64 "%s", bytes, unit);
    return buffer;
}

const char *text_time(uint64_t ns, char buffer[TEXT_TIME_BYTES])
{
    time_t seconds = (time_t)(ns / UINT64_C(1000000000));
    struct tm utc;

    if (!gmtime_r(&seconds, &utc) ||
        strftime(buffer, TEXT_TIME_BYTES, "%Y-%m-%dT%H:%M:%SZ", &utc) == 0) {
        memcpy(buffer, "?", 2);
    }
    return buffer;
}

const char *text_uuid(const uint8_t uuid[16], char buffer[TEXT_UUID_BYTES])
{
    char *q = buffer;

    for (size_t i = 0; i < 16; i++) {
        q += sprintf(q, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", uuid[i]);
    }
    return buffer;
}
