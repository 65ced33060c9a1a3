/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_CONFIG_DOCUMENT_H
#define BITMAPD_CONFIG_DOCUMENT_H

#include "proto/base/error.h"

#include <stdbool.h>
#include <stddef.h>

/*
 * YAML text as a walk over nested mappings and lists: every value is visited
 * once, in the text's order, with the dotted path of its keys; items of a list
 * have the list's path.  What YAML has and
 * settings have no use for (aliases, anchors, tags, keys that are no words,
 * several documents) is refused here.
 */
#define DOCUMENT_DEPTH_MAX     3  /* mappings inside one another */
#define DOCUMENT_LISTS_MAX     2  /* lists inside one another, or in what is in one */
#define DOCUMENT_KEY_BYTES_MAX 63 /* of one key, without a NUL */

enum document_kind {
    DOCUMENT_NOTHING, /* an empty plain scalar, "~" or "null" */
    DOCUMENT_SCALAR,
    DOCUMENT_MAPPING, /* its values are visited next */
    DOCUMENT_LIST,    /* so are its items */
};

struct document_place {
    size_t line;   /* from 1 */
    size_t column; /* from 1, in characters */
};

struct document_node {
    const char *path; /* "socket.path"; "" for the document itself */
    const char *key;  /* last key of the path; may hold '.' */
    struct document_place key_place;
    bool item; /* of a list */
    enum document_kind kind;
    const char *text; /* of a scalar, NUL-terminated at @text_bytes; may hold NUL bytes before */
    size_t text_bytes;
    struct document_place place; /* of the value */
};

/*
 * Gets one node, borrowed during the call; anything but 0 ends the walk and
 * becomes its result.
 */
typedef int (*document_visit)(void *opaque, const struct document_node *node, struct error *error);

/* Walks the text.  -EINVAL "NAME:LINE:COLUMN: …", -ENOMEM, or what @visit returned. */
int document_walk(const char *name, const void *text, size_t bytes, document_visit visit,
                  void *opaque, struct error *error);

/* Sets "NAME:LINE:COLUMN: PATH: …" and returns -EINVAL; @path "" leaves that part out. */
int document_error(struct error *error, const char *name, struct document_place place,
                   const char *path, const char *format, ...) __attribute__((format(printf, 5, 6)));

/*
 * What a value is, for "got …": "nothing", "a mapping", "a list", or the
 * text in quotes, cut and with everything unprintable escaped.
 */
#define DOCUMENT_GOT_BYTES 160
const char *document_got(const struct document_node *node, char buffer[DOCUMENT_GOT_BYTES]);

/*
 * Length of the UTF-8 sequence at @text when it is a character that can be
 * shown on a line (no control, separator, byte order mark or non-character),
 * else 0.  @bytes are left, at least 1.
 */
size_t document_printable(const char *text, size_t bytes);

#endif
