/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_TESTS_IDENTITY_SYSFS_TREE_H
#define BITMAPD_TESTS_IDENTITY_SYSFS_TREE_H

#include "daemon/identity/identity.h"

#include <stdbool.h>
#include <stddef.h>

/*
 * A sysfs (and a udev database) of our own, in a directory under /tmp, in the
 * shape that the kernel gives it.  Paths are relative to its root.  Anything
 * that goes wrong fails the test.
 */
#define TREE_BOOT_ID "af016143-3abe-47a4-941c-10d6fe4bc646"

/* cmocka's setup and teardown of one test: an empty tree, and gone with all that is in it. */
int tree_setup(void **state);
int tree_teardown(void **state);

const char *tree_root(void);
const struct drive_probe_options *tree_options(void);

void tree_bytes(const char *path, const void *bytes, size_t length);
/* printf; a newline is put at the end, as sysfs does. */
void tree_text(const char *path, const char *format, ...) __attribute__((format(printf, 2, 3)));
void tree_link(const char *path, const char *target);
void tree_remove(const char *path);

/* A disk in "devices/PATH" with what every disk has: dev, diskseq, stat, queue/iostats, uevent. */
void tree_disk(const char *number, const char *path);
/* A partition of the disk in "devices/DISK". */
void tree_partition(const char *number, const char *disk, const char *name, unsigned index,
                    unsigned long long start);

/* drive_probe_block() of "MAJOR:MINOR" in the tree. */
struct drive_probe tree_probe(const char *number);
void tree_expect(const char *number, const char *identity);

/* Printable, bounded, as identity.h promises of all texts. */
void check_text(const char *text);

#endif
