/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_CLIENT_CTL_VERBS_H
#define BITMAPD_CLIENT_CTL_VERBS_H

#include "client/ctl/output.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The verbs of bitmapctl in one table, from which come parsing (args.c), help
 * (help.c) and dispatch (main.c).  A verb that is not in the table does not
 * exist.
 */

enum operand_kind {
    OPERAND_DRIVE,      /* a drive's name */
    OPERAND_BITMAP,     /* DRIVE/NAME */
    OPERAND_MAPPED,     /* DRIVE/NAME, or with --since a drive's name */
    OPERAND_NAME,       /* a bitmap's name without its drive, or a new checkpoint's */
    OPERAND_CHECKPOINT, /* NAME or NAME@UUID */
    OPERAND_OFFSET,     /* bytes */
    OPERAND_LENGTH,     /* bytes, > 0 */
    OPERAND_FILE,       /* any path but "" */
};

struct operand {
    enum operand_kind kind;
    const char *name; /* in help and complaints: "DRIVE/NAME" */
};

enum option_id {
    OPTION_NONE,
    OPTION_SOCKET,
    OPTION_OUTPUT,
    OPTION_HELP,
    OPTION_VERSION,
    OPTION_AGAINST,
    OPTION_ALL,
    OPTION_CLUSTER_SIZE,
    OPTION_DISABLED,
    OPTION_DRIVE_PATH,
    OPTION_DURABILITY,
    OPTION_FORCE,
    OPTION_GRANULARITY,
    OPTION_HOLD,
    OPTION_INTERNAL,
    OPTION_PATH,
    OPTION_REPAIR,
    OPTION_SINCE,
    OPTION_SIZE,
    OPTION_STDIN,
    OPTION_UNTIL,
    OPTION_WRITER,
    OPTIONS
};

#define OPTION_FIRST_OF_VERBS OPTION_AGAINST /* those before it are good everywhere */

struct option_entry {
    const char *name;     /* long, without dashes */
    char letter;          /* or '\0' */
    const char *argument; /* "SIZE", or NULL for a flag */
    const char *help;
};

extern const struct option_entry options[OPTIONS]; /* OPTION_NONE is empty */

#define OPERANDS_MAX       3
#define VERB_OPTIONS_MAX   4
#define OPERANDS_UNBOUNDED 65535u /* what the protocol can count */

struct invocation;

struct verb {
    const char *noun;
    const char *verb;     /* NULL: the noun alone is the command */
    const char *synopsis; /* what follows the words */
    const char *summary;  /* one line without a full stop */
    const char *details;  /* more for the verb's own help, lines of at most 78, or NULL */
    struct operand operands[OPERANDS_MAX]; /* the last one may be repeated */
    unsigned operands_min;
    unsigned operands_max;
    enum option_id options[VERB_OPTIONS_MAX];
    int usage_code; /* exit code of usage errors, 0 for EXIT_USAGE */
    int (*run)(const struct invocation *invocation);
};

extern const struct verb verbs[];
extern const size_t verbs_count;

/* Whether @verb takes option @id itself; not for options that are good everywhere. */
bool verb_has_option(const struct verb *verb, enum option_id id);

/* What the user typed, checked: names are names, sizes and offsets are in their ranges. */
struct invocation {
    const struct verb *verb;
    const char *socket; /* NULL: the default */
    enum output_format format;

    const char **operands; /* as typed */
    size_t operands_count;
    uint64_t offset; /* of OPERAND_OFFSET */
    uint64_t length; /* of OPERAND_LENGTH */

    bool given[OPTIONS];
    const char *path; /* --path, or --drive-path */
    const char *against;
    const char *since; /* a checkpoint: NAME or NAME@UUID; NULL when not given */
    const char *until; /* likewise */
    const char *writer;
    uint64_t size;         /* bytes, >= 1 when given */
    uint32_t granularity;  /* bytes, 0 when not given */
    uint32_t cluster_size; /* bytes, 0 when not given */
    int durability;        /* enum bitmapd_durability */
};

/*
 * Each runs its verb, prints its result or its diagnostics, and returns the
 * exit code.
 */
int drive_add(const struct invocation *invocation);
int drive_list(const struct invocation *invocation);
int drive_show(const struct invocation *invocation);
int drive_set(const struct invocation *invocation);
int drive_rename(const struct invocation *invocation);
int drive_resize(const struct invocation *invocation);
int drive_remove(const struct invocation *invocation);
int drive_fence(const struct invocation *invocation);
int drive_adopt(const struct invocation *invocation);
int bitmap_create(const struct invocation *invocation);
int bitmap_list(const struct invocation *invocation);
int bitmap_show(const struct invocation *invocation);
int bitmap_delete(const struct invocation *invocation);
int bitmap_enable(const struct invocation *invocation);
int bitmap_disable(const struct invocation *invocation);
int bitmap_rename(const struct invocation *invocation);
int bitmap_set(const struct invocation *invocation);
int bitmap_clear(const struct invocation *invocation);
int bitmap_merge(const struct invocation *invocation);
int checkpoint_create(const struct invocation *invocation);
int checkpoint_list(const struct invocation *invocation);
int checkpoint_delete(const struct invocation *invocation);
int mark(const struct invocation *invocation);
int map(const struct invocation *invocation);
int verify(const struct invocation *invocation);
int transaction(const struct invocation *invocation);
int daemon_flush(const struct invocation *invocation);
int daemon_status(const struct invocation *invocation);
int daemon_reload(const struct invocation *invocation);
int image_create(const struct invocation *invocation);
int image_prepare(const struct invocation *invocation); /* image_create() with --internal */
int image_info(const struct invocation *invocation);
int image_check(const struct invocation *invocation);
int image_compact(const struct invocation *invocation);

#endif
