/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_CONFIG_SCHEMA_H
#define BITMAPD_CONFIG_SCHEMA_H

#include "config/config.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum setting_type {
    SETTING_PATH,  /* char *: absolute; min and max bound its bytes */
    SETTING_GROUP, /* char *, or NULL for nothing; min and max bound its bytes */
    SETTING_MODE,  /* octal */
    SETTING_SIZE,  /* bytes */
    SETTING_SPAN,  /* nanoseconds */
    SETTING_COUNT, /* whole number */
    SETTING_WORD,  /* int: index into words */
};

/* One key.  All that the daemon knows about it is in its line of the table. */
struct setting {
    const char *key; /* "section.name" */
    enum setting_type type;
    const char *initial;    /* default, as a user would write it; "" is nothing */
    const char *state_file; /* of a path: its default's name under --state-dir */
    uint64_t min, max;      /* inclusive */
    bool power_of_two;
    bool reloadable;
    const char *const *words; /* of a SETTING_WORD; ends with NULL */
    size_t offset, bytes;     /* of its member of struct config */
    const char *description;  /* one line */
};

#define SETTINGS_MAX      64 /* entries; for arrays beside the table */
#define SETTING_KEY_BYTES 64 /* of a key, with its NUL */

extern const struct setting config_settings[];
extern const size_t config_settings_count;

/* The setting of that key, or NULL. */
const struct setting *setting_find(const char *key);
/* The first setting whose key begins with "@section.", or NULL. */
const struct setting *setting_find_section(const char *section);
/* What was probably meant by @key, a key or section; NULL when nothing is close. */
const char *setting_nearest(const char *key, char buffer[SETTING_KEY_BYTES]);

/*
 * Stores what @text (no NUL inside) says; NULL is nothing.  -EINVAL when it is
 * not what the setting takes, -ENOMEM; the old value then stays.
 */
int setting_store(const struct setting *setting, struct config *config, const char *text);
/* What it takes, for "expected …". */
#define SETTING_EXPECTED_BYTES 160
void setting_expected(const struct setting *setting, char buffer[SETTING_EXPECTED_BYTES]);

/* Writes " VALUE" as YAML that reads back as the same value; for nothing, nothing. */
void setting_print(const struct setting *setting, const struct config *config, FILE *out);
/* Writes a text as a YAML scalar, quoted where it has to be. */
void setting_print_text(const char *text, FILE *out);
bool setting_equal(const struct setting *setting, const struct config *a, const struct config *b);
/* Copies the value; -ENOMEM. */
int setting_copy(const struct setting *setting, struct config *to, const struct config *from);
/* Frees what the value holds. */
void setting_clear(const struct setting *setting, struct config *config);

#endif
