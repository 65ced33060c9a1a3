/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_CONFIG_ACCESS_H
#define BITMAPD_CONFIG_ACCESS_H

#include "config/config.h"
#include "config/document.h"

/*
 * The setting "access", the one that is a list: rules, each a mapping of user
 * or group, rights, and drives.  Users and groups are looked up when they are
 * read, which may block.
 */

/* One pass over it. */
struct access_reading {
    const char *name; /* of the file */
    struct config_access *access;
    size_t line; /* where the list stands; 0: nowhere yet */
    /* Of the rule that is being read. */
    struct document_place rule_place, rights_place, drives_place;
    size_t lines[4]; /* of user, group, rights, drives; 0: not given */
};

/* Whether a node belongs to it. */
bool access_is_path(const char *path);
/* Takes such a node.  As a document_visit. */
int access_visit(struct access_reading *reading, const struct document_node *node,
                 struct error *error);
/* The document has ended. */
int access_finish(struct access_reading *reading, struct error *error);

/* Without rules of its own: who administers. */
void access_default(struct config_access *access);
void access_clear(struct config_access *access);
/* As YAML that reads back the same; nothing when there is none. */
void access_dump(const struct config_access *access, FILE *out);

#endif
