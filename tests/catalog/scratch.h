/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_TESTS_CATALOG_SCRATCH_H
#define BITMAPD_TESTS_CATALOG_SCRATCH_H

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A directory for each test, with everything in it gone afterwards. */
static char scratch[64];

/* "SCRATCH/catalog.sqlite3" with the suffix behind it; valid until the next four calls. */
static inline const char *scratch_path(const char *suffix)
{
    static char paths[4][256];
    static unsigned int next;
    char *path = paths[next++ % 4];

    snprintf(path, sizeof paths[0], "%s/catalog.sqlite3%s", scratch, suffix);
    return path;
}

static inline int scratch_make(void **state)
{
    (void)state;
    strcpy(scratch, "/tmp/bitmapd-test-catalog-XXXXXX");
    return mkdtemp(scratch) ? 0 : -1;
}

static inline int scratch_remove_one(const char *path, const struct stat *status, int type,
                                     struct FTW *walk)
{
    (void)status;
    (void)type;
    (void)walk;
    return remove(path);
}

static inline int scratch_remove(void **state)
{
    (void)state;
    return nftw(scratch, scratch_remove_one, 8, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

#endif
