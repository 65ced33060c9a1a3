/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The types of settings: how text becomes a value, and a value text.
 *
 * Invariants: a text is either taken exactly as written or refused, nothing is
 * clamped; and what setting_print() writes reads back as an equal value.
 */
#include "config/document.h"
#include "config/schema.h"

#include "proto/base/checked.h"
#include "proto/base/size.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static void *member(const struct setting *setting, struct config *config)
{
    return (char *)config + setting->offset;
}

static const void *const_member(const struct setting *setting, const struct config *config)
{
    return (const char *)config + setting->offset;
}

static bool is_text(const struct setting *setting)
{
    return setting->type == SETTING_PATH || setting->type == SETTING_GROUP;
}

static const char *text_value(const struct setting *setting, const struct config *config)
{
    return *(const char *const *)const_member(setting, config);
}

static uint64_t number_value(const struct setting *setting, const struct config *config)
{
    if (setting->bytes == sizeof(uint32_t)) {
        return *(const uint32_t *)const_member(setting, config);
    }
    assert(setting->bytes == sizeof(uint64_t));
    return *(const uint64_t *)const_member(setting, config);
}

static int text_parse(const struct setting *setting, const char *text, char **ret)
{
    char *copy = NULL;

    if (text) {
        size_t length = strlen(text);
        if (length < setting->min || length > setting->max) {
            return -EINVAL;
        }
        for (size_t i = 0, n; i < length; i += n) {
            n = document_printable(text + i, length - i);
            if (n == 0) {
                return -EINVAL;
            }
        }
        if (setting->type == SETTING_PATH && text[0] != '/') {
            return -EINVAL;
        }
        copy = strdup(text);
        if (!copy) {
            return -ENOMEM;
        }
    } else if (setting->type != SETTING_GROUP) {
        return -EINVAL;
    }
    *ret = copy;
    return 0;
}

/* Digits of the base and nothing else, unlike strtoull(), which takes signs and spaces. */
static int digits_parse(const char *text, int base, uint64_t *ret)
{
    const char *digits = base == 8 ? "01234567" : "0123456789";

    if (text[0] == '\0' || text[strspn(text, digits)] != '\0') {
        return -EINVAL;
    }
    errno = 0;
    *ret = strtoull(text, NULL, base);
    return errno == ERANGE ? -EINVAL : 0;
}

static int word_parse(const struct setting *setting, const char *text, uint64_t *ret)
{
    for (uint64_t i = 0; setting->words[i]; i++) {
        if (strcmp(setting->words[i], text) == 0) {
            *ret = i;
            return 0;
        }
    }
    return -EINVAL;
}

static int number_parse(const struct setting *setting, const char *text, uint64_t *ret)
{
    uint64_t value = 0;
    int r = -EINVAL;

    if (!text) {
        return -EINVAL;
    }
    switch (setting->type) {
    case SETTING_MODE:
        r = digits_parse(text, 8, &value);
        break;
    case SETTING_COUNT:
        r = digits_parse(text, 10, &value);
        break;
    case SETTING_SIZE:
        r = size_parse(text, &value);
        break;
    case SETTING_SPAN:
        r = span_parse(text, &value);
        break;
    case SETTING_WORD:
        r = word_parse(setting, text, &value);
        break;
    case SETTING_PATH:
    case SETTING_GROUP:
        break;
    }
    if (r < 0 || value < setting->min || value > setting->max ||
        (setting->power_of_two && !is_power_of_two(value))) {
        return -EINVAL;
    }
    *ret = value;
    return 0;
}

int setting_store(const struct setting *setting, struct config *config, const char *text)
{
    int r;

    if (is_text(setting)) {
        char *copy;
        r = text_parse(setting, text, &copy);
        if (r < 0) {
            return r;
        }
        setting_clear(setting, config);
        *(char **)member(setting, config) = copy;
        return 0;
    }
    uint64_t value;
    r = number_parse(setting, text, &value);
    if (r < 0) {
        return r;
    }
    if (setting->bytes == sizeof(uint32_t)) {
        *(uint32_t *)member(setting, config) = (uint32_t)value;
    } else {
        assert(setting->bytes == sizeof(uint64_t));
        *(uint64_t *)member(setting, config) = value;
    }
    return 0;
}

#define NUMBER_BYTES 32

/* The value in the largest unit that keeps it whole. */
static const char *number_format(const struct setting *setting, uint64_t value,
                                 char buffer[NUMBER_BYTES])
{
    static const struct unit {
        const char *name;
        uint64_t factor;
    } size_units[] = {{"P", UINT64_C(1) << 50}, {"T", UINT64_C(1) << 40}, {"G", UINT64_C(1) << 30},
                      {"M", UINT64_C(1) << 20}, {"K", UINT64_C(1) << 10}, {"", 1}},
      span_units[] = {{"d", UINT64_C(86400000000000)},
                      {"h", UINT64_C(3600000000000)},
                      {"min", UINT64_C(60000000000)},
                      {"s", UINT64_C(1000000000)},
                      {"ms", UINT64_C(1000000)}};
    const struct unit *units = setting->type == SETTING_SPAN ? span_units : size_units;
    size_t last = (setting->type == SETTING_SPAN ? sizeof span_units : sizeof size_units) /
                      sizeof size_units[0] -
                  1;

    if (setting->type == SETTING_COUNT) {
        snprintf(buffer, NUMBER_BYTES, "%" PRIu64, value);
    } else if (setting->type == SETTING_MODE) {
        snprintf(buffer, NUMBER_BYTES, "%04" PRIo64, value);
    } else {
        size_t i = 0;
        while (i < last && (value == 0 || value % units[i].factor != 0)) {
            i++;
        }
        snprintf(buffer, NUMBER_BYTES, "%" PRIu64 "%s", value / units[i].factor, units[i].name);
    }
    return buffer;
}

static void words_format(const struct setting *setting, char *buffer, size_t bytes)
{
    size_t used = 0;

    for (size_t i = 0; setting->words[i]; i++) {
        const char *separator = i == 0 ? "" : setting->words[i + 1] ? ", " : " or ";
        used += (size_t)snprintf(buffer + used, bytes - used, "%s%s", separator, setting->words[i]);
        assert(used < bytes);
    }
}

void setting_expected(const struct setting *setting, char buffer[SETTING_EXPECTED_BYTES])
{
    const char *what = setting->type == SETTING_MODE    ? "an octal mode"
                       : setting->type == SETTING_COUNT ? "a whole number"
                       : setting->type == SETTING_SPAN  ? "a time span (500ms, 5s, 2min)"
                       : setting->power_of_two          ? "a power of two"
                                                        : "a size (4096, 64K, 1G)";
    char min[NUMBER_BYTES], max[NUMBER_BYTES];

    switch (setting->type) {
    case SETTING_PATH:
        snprintf(buffer, SETTING_EXPECTED_BYTES,
                 "an absolute path of at most %" PRIu64 " printable bytes", setting->max);
        return;
    case SETTING_GROUP:
        snprintf(buffer, SETTING_EXPECTED_BYTES,
                 "a group of at most %" PRIu64 " printable bytes, or nothing", setting->max);
        return;
    case SETTING_WORD:
        words_format(setting, buffer, SETTING_EXPECTED_BYTES);
        return;
    case SETTING_MODE:
    case SETTING_SIZE:
    case SETTING_SPAN:
    case SETTING_COUNT:
        break;
    }
    number_format(setting, setting->min, min);
    number_format(setting, setting->max, max);
    if (setting->max == UINT64_MAX && setting->min == 0) {
        snprintf(buffer, SETTING_EXPECTED_BYTES, "%s", what);
    } else if (setting->max == UINT64_MAX) {
        snprintf(buffer, SETTING_EXPECTED_BYTES, "%s of at least %s", what, min);
    } else {
        snprintf(buffer, SETTING_EXPECTED_BYTES, "%s from %s to %s", what, min, max);
    }
}

/* Whether YAML takes the text as it stands, as a scalar that is neither nothing nor a comment. */
static bool needs_no_quotes(const char *text)
{
    return text[strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                             "/._+-")] == '\0' &&
           text[0] != '-' && text[0] != '.' && text[0] != '\0' && strcasecmp(text, "null") != 0;
}

void setting_print_text(const char *text, FILE *out)
{
    if (needs_no_quotes(text)) {
        fputs(text, out);
        return;
    }
    size_t length = strlen(text);
    putc('"', out);
    for (size_t i = 0; i < length;) {
        size_t n = document_printable(text + i, length - i);
        if (n == 0) { /* only from a state directory's name, which no file can hold */
            fprintf(out, "\\x%02x", (uint8_t)text[i]);
            n = 1;
        } else {
            if (text[i] == '"' || text[i] == '\\') {
                putc('\\', out);
            }
            fwrite(text + i, 1, n, out);
        }
        i += n;
    }
    putc('"', out);
}

void setting_print(const struct setting *setting, const struct config *config, FILE *out)
{
    const char *text = is_text(setting) ? text_value(setting, config) : NULL;

    if (is_text(setting) && !text) {
        return;
    }
    putc(' ', out);
    if (text) {
        setting_print_text(text, out);
    } else if (setting->type == SETTING_WORD) {
        fputs(setting->words[number_value(setting, config)], out);
    } else {
        char buffer[NUMBER_BYTES];
        fputs(number_format(setting, number_value(setting, config), buffer), out);
    }
}

bool setting_equal(const struct setting *setting, const struct config *a, const struct config *b)
{
    if (is_text(setting)) {
        const char *x = text_value(setting, a), *y = text_value(setting, b);
        return x && y ? strcmp(x, y) == 0 : x == y;
    }
    return number_value(setting, a) == number_value(setting, b);
}

int setting_copy(const struct setting *setting, struct config *to, const struct config *from)
{
    if (is_text(setting)) {
        const char *text = text_value(setting, from);
        char *copy = text ? strdup(text) : NULL;
        if (text && !copy) {
            return -ENOMEM;
        }
        setting_clear(setting, to);
        *(char **)member(setting, to) = copy;
        return 0;
    }
    memcpy(member(setting, to), const_member(setting, from), setting->bytes);
    return 0;
}

void setting_clear(const struct setting *setting, struct config *config)
{
    if (is_text(setting)) {
        char **text = member(setting, config);
        free(*text);
        *text = NULL;
    }
}
