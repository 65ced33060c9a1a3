/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_TESTS_COMMON_SIMDIR_H
#define BITMAPD_TESTS_COMMON_SIMDIR_H

#include "tests/common/simdisk.h"

/*
 * A directory of simulated disks, one per file, that lose power together.
 *
 * Calls are counted over all files and renames, so that one number says where
 * the power fails or which call does.  A file that was created is in the directory
 * durably when the open returns; a rename is durable with the directory's next
 * sync, which simdir_rename() ends with; when the power fails in between, the
 * rename is kept or lost.
 */
struct simdir;

#define SIMDIR_FILES_MAX 8u

struct simdir *simdir_new(uint64_t seed);
void simdir_free(struct simdir *dir); /* takes NULL; the files opened from it must be closed */
void simdir_freep(struct simdir **dir);

/* @create replaces what is there; whoever has the old file open keeps it. -ENOENT, -EIO … */
int simdir_open(struct simdir *dir, const char *name, bool create, struct file **ret);
int simdir_rename(struct simdir *dir, const char *from, const char *to);
int simdir_unlink(struct simdir *dir, const char *name); /* durably; for tests, not counted */
/* The disk under a name, for looking and for damaging; NULL if none. */
struct simdisk *simdir_disk(struct simdir *dir, const char *name);
/* The file is as if it had been cut at @size, durably. */
void simdir_cut(struct simdir *dir, const char *name, uint64_t size);

uint64_t simdir_changes(const struct simdir *dir); /* changing or syncing calls so far */
uint64_t simdir_calls(const struct simdir *dir);   /* all */

/* As simdisk_stop_at() and simdisk_fail_at(), counted over the directory.  A rename that fails
 * is done or not. */
void simdir_stop_at(struct simdir *dir, uint64_t change);
bool simdir_stopped(const struct simdir *dir);
void simdir_fail_at(struct simdir *dir, uint64_t call, uint64_t count, int error);
bool simdir_failed(const struct simdir *dir);

enum simdir_fate {
    SIMDIR_DROP = SIMDISK_DROP,
    SIMDIR_KEEP = SIMDISK_KEEP,
    SIMDIR_TEAR = SIMDISK_TEAR,
    SIMDIR_DESTROY, /* each 4096-byte block that was written: old, new, or garbage */
    SIMDIR_KILL,    /* the process alone: what reads saw is there */
    SIMDIR_FATES
};

/* The directory as it is found afterwards; @dir itself is unchanged. */
struct simdir *simdir_crash(const struct simdir *dir, enum simdir_fate fate, uint64_t seed);

#endif
