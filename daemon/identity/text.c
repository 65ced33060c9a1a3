/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The texts of identities and evidence: made here and nowhere else, from
 * bytes that anybody may have chosen (a serial number is what a hypervisor's
 * configuration says).  What comes out is printable ASCII in which a value
 * cannot be taken for a key, at most IDENTITY_TEXT_BYTES_MAX long, and no two
 * things that differ have the same text but for a collision of CRC32C between
 * long ones that begin and end alike.
 */
#include "daemon/identity/internal.h"
#include "proto/base/crc32c.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static void append(struct builder *builder, const char *bytes, size_t length)
{
    if (builder->overflow || length >= sizeof builder->text - builder->length) {
        builder->overflow = true;
        return;
    }
    memcpy(builder->text + builder->length, bytes, length);
    builder->length += length;
    builder->text[builder->length] = '\0';
}

void builder_init(struct builder *builder, const char *kind)
{
    builder->length = 0;
    builder->overflow = false;
    append(builder, kind, strlen(kind));
}

static void append_key(struct builder *builder, const char *key)
{
    append(builder, " ", 1);
    append(builder, key, strlen(key));
    append(builder, "=", 1);
}

static bool plain(unsigned char c)
{
    return c > ' ' && c < 0x7f && c != '=' && c != '%' && c != '~';
}

void builder_value(struct builder *builder, const char *key, const char *value, size_t length)
{
    static const char digits[] = "0123456789ABCDEF";

    append_key(builder, key);
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)value[i];
        if (plain(c)) {
            append(builder, &value[i], 1);
        } else {
            char escaped[3] = {'%', digits[c >> 4], digits[c & 15]};
            append(builder, escaped, sizeof escaped);
        }
    }
}

void builder_string(struct builder *builder, const char *key, const char *value)
{
    builder_value(builder, key, value, strlen(value));
}

void builder_number(struct builder *builder, const char *key, uint64_t value)
{
    char text[24];

    (void)snprintf(text, sizeof text, "%" PRIu64, value);
    builder_string(builder, key, text);
}

void builder_time(struct builder *builder, const char *key, const struct statx_timestamp *time)
{
    char text[40];

    (void)snprintf(text, sizeof text, "%" PRId64 ".%09" PRIu32, (int64_t)time->tv_sec,
                   time->tv_nsec);
    builder_string(builder, key, text);
}

void builder_nested(struct builder *builder, const char *joint, const char *rest)
{
    append(builder, " ", 1);
    append(builder, joint, strlen(joint));
    append(builder, " ", 1);
    append(builder, rest, strlen(rest));
}

void builder_finish(const struct builder *builder, char *ret)
{
    enum {
        HASH = 10,
        HEAD = (IDENTITY_TEXT_BYTES_MAX - HASH) / 2,
        TAIL = IDENTITY_TEXT_BYTES_MAX - HASH - HEAD,
    };

    if (builder->overflow) {
        ret[0] = '\0';
    } else if (builder->length <= IDENTITY_TEXT_BYTES_MAX) {
        memcpy(ret, builder->text, builder->length + 1);
    } else {
        memcpy(ret, builder->text, HEAD);
        (void)snprintf(ret + HEAD, HASH + 1, "~%08" PRIx32 "~",
                       crc32c(0, builder->text, builder->length));
        memcpy(ret + HEAD + HASH, builder->text + builder->length - TAIL, TAIL + 1);
    }
}

/* ---- Words ---- */

void words_init(struct words *words, char *text, size_t size)
{
    *words = (struct words){.text = text, .size = size};
    if (size > 0) {
        text[0] = '\0';
    }
}

void words_add(struct words *words, const char *format, ...)
{
    va_list arguments;

    if (words->length + 1 >= words->size) {
        return;
    }
    size_t room = words->size - words->length;
    va_start(arguments, format);
    int n = vsnprintf(words->text + words->length, room, format, arguments);
    va_end(arguments);
    if (n > 0) {
        words->length += (size_t)n < room ? (size_t)n : room - 1;
    }
}

void words_add_time(struct words *words, int64_t seconds, uint32_t nanoseconds, int digits)
{
    time_t time = seconds;
    struct tm tm;
    char text[64];

    if (!gmtime_r(&time, &tm) || strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &tm) == 0) {
        words_add(words, "second %" PRId64, seconds); /* a year beyond int */
        return;
    }
    words_add(words, "%s", text);
    if (digits > 0) {
        (void)snprintf(text, sizeof text, "%09" PRIu32, nanoseconds);
        words_add(words, ".%.*s", digits, text);
    }
    words_add(words, " UTC");
}

bool parse_number(const char *text, size_t length, uint64_t *ret)
{
    uint64_t value = 0;

    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9' || __builtin_mul_overflow(value, 10U, &value) ||
            __builtin_add_overflow(value, (uint64_t)(text[i] - '0'), &value)) {
            return false;
        }
    }
    if (length > 0) {
        *ret = value;
    }
    return length > 0;
}

bool parse_time(const char *text, size_t length, int64_t *ret_seconds, uint32_t *ret_nanoseconds)
{
    const char *point = memchr(text, '.', length);
    bool negative = length > 0 && text[0] == '-';
    uint64_t seconds, nanoseconds;

    if (!point) {
        return false;
    }
    size_t whole = (size_t)(point - text);
    if (length - whole - 1 != 9 || !parse_number(text + negative, whole - negative, &seconds) ||
        !parse_number(point + 1, 9, &nanoseconds) || seconds > INT64_MAX) {
        return false;
    }
    *ret_seconds = negative ? -(int64_t)seconds : (int64_t)seconds;
    *ret_nanoseconds = (uint32_t)nanoseconds;
    return true;
}

/* ---- Identities in words ---- */

/* What each kind is called, and what stands before a value; " " where keys[] has no row. */
static const struct {
    const char *token, *words;
} kinds[] = {
    {"file", "file"},           {"fs", "file system"},      {"dm", "device-mapper"},
    {"loop", "loop device"},    {"partition", "partition"}, {"scsi", "SCSI disk"},
    {"nvme", "NVMe namespace"}, {"virtio", "virtio disk"},  {"rbd", "RBD image"},
    {"md", "RAID array"},       {"mmc", "MMC card"},
};

static const struct {
    const char *kind, *key, *before;
} keys[] = {
    {"file", "inode", ", inode "},
    {"fs", "fsid", " "},
    {"fs", "type", " of type "},
    {"loop", "offset", " from byte "},
    {"loop", "sizelimit", " of at most bytes "},
    {"partition", "number", " "},
    {"partition", "start", " at sector "},
    {"scsi", "serial", " serial "},
    {"nvme", "serial", " serial "},
    {"nvme", "nsid", " namespace "},
    {"virtio", "serial", " serial "},
    {"rbd", "pool", " in pool "},
    {"rbd", "namespace", " namespace "},
    {"rbd", "image", " id "},
    {"rbd", "image-name", " "},
    {"rbd", "cluster", " of cluster "},
    {"rbd", "snap", " at snapshot "},
    {"mmc", "area", " area "},
};

static int hex(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Escapes are undone where what they stand for can be shown. */
static void add_value(struct words *words, const char *value, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)value[i];
        int high = length - i > 2 ? hex(value[i + 1]) : -1;
        int low = length - i > 2 ? hex(value[i + 2]) : -1;
        if (c == '%' && high >= 2 && low >= 0 && high * 16 + low < 0x7f) {
            words_add(words, "%c", high * 16 + low);
            i += 2;
        } else {
            words_add(words, "%c", c >= ' ' && c < 0x7f ? c : '?');
        }
    }
}

static bool same(const char *token, size_t length, const char *word)
{
    return strlen(word) == length && memcmp(token, word, length) == 0;
}

static void add_pair(struct words *words, const char *kind, const char *key, size_t key_length,
                     const char *value, size_t value_length)
{
    const char *before = " ";
    int64_t seconds;
    uint32_t nanoseconds;

    if (strcmp(kind, "file") == 0 && same(key, key_length, "born")) {
        if (parse_time(value, value_length, &seconds, &nanoseconds)) {
            words_add(words, ", made ");
            words_add_time(words, seconds, nanoseconds, 3);
        } else {
            words_add(words, ", without a birth time");
        }
        return;
    }
    /* What is usual needs no words. */
    if ((strcmp(kind, "loop") == 0 && same(value, value_length, "0")) ||
        (strcmp(kind, "rbd") == 0 && same(key, key_length, "snap") &&
         same(value, value_length, "-")) ||
        (strcmp(kind, "mmc") == 0 && same(value, value_length, "main")) || value_length == 0) {
        return;
    }
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        if (strcmp(keys[i].kind, kind) == 0 && same(key, key_length, keys[i].key)) {
            before = keys[i].before;
        }
    }
    words_add(words, "%s", before);
    add_value(words, value, value_length);
}

/* Names the kind, or passes on what is none; never NULL. */
static const char *kind_of(const char *token, size_t length, struct words *words)
{
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (same(token, length, kinds[i].token)) {
            words_add(words, "%s", kinds[i].words);
            return kinds[i].token;
        }
    }
    add_value(words, token, length);
    return "";
}

void identity_words(const char *identity, char *ret_words, size_t words_bytes)
{
    struct words words;
    const char *kind = NULL;
    const char *p = identity;

    words_init(&words, ret_words, words_bytes);
    if (!*p) {
        words_add(&words, "unknown");
    }
    /* A kind, its pairs, then perhaps a joint ("on", "of", "over") and another kind. */
    while (*p) {
        size_t length = strcspn(p, " ");
        const char *equals = memchr(p, '=', length);
        if (equals && kind) {
            add_pair(&words, kind, p, (size_t)(equals - p), equals + 1,
                     length - (size_t)(equals - p) - 1);
        } else if (kind &&
                   (same(p, length, "on") || same(p, length, "of") || same(p, length, "over"))) {
            words_add(&words, "%s %.*s ", strcmp(kind, "file") == 0 ? "," : "", (int)length, p);
            kind = NULL;
        } else if (!kind) {
            kind = kind_of(p, length, &words);
        } else {
            words_add(&words, " ");
            add_value(&words, p, length);
        }
        p += length;
        p += *p == ' ';
    }
}
