/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_TESTS_COMMON_SIMDIR_H
#define BITMAPD_TESTS_COMMON_SIMDIR_H

#include "tests/common/simdisk.h"

#include <string.h>

/*
 * A directory of simulated disks, one per file, that lose power together:
 * behind the vtables of daemon/base/file.h.
 *
 * Calls are counted over all files and names, so that one number says where
 * the power fails or which call does.  Names that were made, renamed or removed are
 * durable with the next sync of their directory (what stands before the last slash); when the
 * power fails before, each of these changes is kept or lost, renames as a whole.
 */
struct simdir;

#define SIMDIR_FILES_MAX 16u

/* Names that begin like this are in memory: they go when the power does. */
#define SIMDIR_MEMORY "m/"
static inline bool simdir_is_memory(const char *name)
{
    return strncmp(name, SIMDIR_MEMORY, sizeof SIMDIR_MEMORY - 1) == 0;
}

struct simdir *simdir_new(uint64_t seed);
void simdir_free(struct simdir *dir); /* takes NULL; the files opened from it must be closed */
void simdir_freep(struct simdir **dir);

/* Valid as long as the directory. */
struct file_system *simdir_files(struct simdir *dir);

/* For tests: @create durably replaces what is there. -ENOENT, -EIO … */
int simdir_open(struct simdir *dir, const char *name, bool create, struct file **ret);
int simdir_rename(struct simdir *dir, const char *from, const char *to); /* and syncs */
int simdir_unlink(struct simdir *dir, const char *name);                 /* durably; not counted */
/* The disk under a name, for looking and for damaging; NULL if none. */
struct simdisk *simdir_disk(struct simdir *dir, const char *name);
/* The @index-th name in use, NULL beyond. */
const char *simdir_name(const struct simdir *dir, unsigned index);
/* The file is as if it had been cut at @size, durably. */
void simdir_cut(struct simdir *dir, const char *name, uint64_t size);
/* Puts a copy of the file under a name of @from, as it is seen there; durably, the same inode. */
void simdir_put_back(struct simdir *dir, struct simdir *from, const char *name);

uint64_t simdir_changes(const struct simdir *dir); /* changing or syncing calls so far */
uint64_t simdir_calls(const struct simdir *dir);   /* all */

/* As simdisk_stop_at() and simdisk_fail_at(), counted over the directory.  A rename that fails
 * is done or not. */
void simdir_stop_at(struct simdir *dir, uint64_t change);
void simdir_kill(struct simdir *dir); /* every later call gets -EIO */
bool simdir_stopped(const struct simdir *dir);
void simdir_fail_at(struct simdir *dir, uint64_t call, uint64_t count, int error);
bool simdir_failed(const struct simdir *dir);

/* simdisk_forget() for each file that is made from now on; and whether a sync of any failed. */
void simdir_forget(struct simdir *dir);
bool simdir_sync_failed(const struct simdir *dir);

/* Is told before each call; a write that is about to be made is under way then, for
 * simdir_crash(), which may find any part of it in the cache. */
void simdir_watch(struct simdir *dir, void (*before)(void *opaque), void *opaque);

enum simdir_fate {
    SIMDIR_DROP = SIMDISK_DROP,
    SIMDIR_KEEP = SIMDISK_KEEP,
    SIMDIR_TEAR = SIMDISK_TEAR,
    SIMDIR_MASK = SIMDISK_MASK, /* the seed's bits: names first, then sectors, file by file */
    SIMDIR_DESTROY =
        SIMDISK_DESTROY, /* each 4096-byte block that was written: old, new, or garbage */
    SIMDIR_KILL,         /* the process alone: what reads saw is there, caches go on */
    SIMDIR_EVICT,        /* the same, and the cache has let go of what a failed sync left */
    SIMDIR_FATES
};

static inline bool simdir_fate_is_kill(enum simdir_fate fate)
{
    return fate == SIMDIR_KILL || fate == SIMDIR_EVICT;
}

/* Changes of names and sectors that are not synced: the bits that SIMDIR_MASK looks at. */
unsigned simdir_unsynced(const struct simdir *dir);

/* The directory as it is found afterwards; @dir itself is unchanged. */
struct simdir *simdir_crash(const struct simdir *dir, enum simdir_fate fate, uint64_t seed);

#endif
