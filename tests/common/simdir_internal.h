/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_TESTS_COMMON_SIMDIR_INTERNAL_H
#define BITMAPD_TESTS_COMMON_SIMDIR_INTERNAL_H

/* Shared by simdir.c and simdir_crash.c. */

#include "tests/common/simdir.h"

struct node {
    struct simdisk *disk;
    uint64_t inode;
    struct node *copy; /* while a directory is being copied */
    struct node *next; /* of all, for the end */
};

struct entry {
    char name[32]; /* "" if free */
    struct node *node;
};

struct entries {
    struct entry entry[SIMDIR_FILES_MAX];
};

/* A change of names that is not durable. */
struct change {
    char from[32], to[32]; /* "" from: a new file; "" to: removed */
    struct node *node;     /* of a new file */
};

#define CHANGES_MAX 64u

struct simdir {
    struct file_system files; /* first: the two pointers are the same */
    struct entries seen, durable;
    struct change pending[CHANGES_MAX];
    unsigned n_pending;
    struct node *nodes;
    uint64_t inodes;
    bool forgets;
    void (*before)(void *opaque);
    void *before_opaque;
    /* A write that is under way. */
    struct simdisk *write_disk;
    const void *write_bytes;
    uint64_t write_length, write_offset;
    uint64_t random;
    uint64_t changes, calls;
    uint64_t stop_at;
    uint64_t fail_from, fail_to;
    int fail_error;
    bool stopped, failed;
};

void *simdir_must(void *memory); /* aborts without */
/* Takes over @disk; @inode 0: a new one. */
struct node *simdir_node_new(struct simdir *dir, struct simdisk *disk, uint64_t inode);
void simdir_apply(struct entries *entries, const struct change *change);
void simdir_make_durable(struct simdir *dir); /* all names */

#endif
