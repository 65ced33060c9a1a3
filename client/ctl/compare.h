/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_CLIENT_CTL_COMPARE_H
#define BITMAPD_CLIENT_CTL_COMPARE_H

#include "client/lib/bitmapd.h"
#include "proto/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Compares a drive with an earlier copy of it, granule by granule, as the
 * dirty runs of a map come in: what differs has to be dirty.
 *
 * Both sides are read once, in order, whole.  What lies past the copy's end
 * counts as different; what the copy has past the drive's end is not looked
 * at.  Memory is that of two buffers, whatever the map's size.
 */

/* A regular file or block device that is read. */
struct compare_side {
    const char *what; /* "the drive", for words */
    const char *path;
    int fd;
    uint64_t size; /* bytes */
    uint8_t *buffer;
};

/* Opens @path for reading; -errno with words.  Both sides must be deinitialised whatever happens.
 */
int compare_side_open(struct compare_side *side, const char *what, const char *path,
                      struct error *error);
void compare_side_deinit(struct compare_side *side);
/* Whether both are the same file or device. */
bool compare_sides_are_same(const struct compare_side *a, const struct compare_side *b);

struct compare_totals {
    uint64_t bytes;
    uint64_t granules;
};

struct compare {
    struct compare_side *drive;
    struct compare_side *copy;
    uint64_t size; /* bytes of the drive that are compared */
    uint64_t granularity;
    /* Each run of clean granules that differ, neighbours joined, in order. */
    void (*missed)(void *opaque, struct bitmapd_range run);
    /* Now and then, with what is done of @size; may be NULL. */
    void (*progress)(void *opaque, uint64_t done);
    void *opaque;

    struct compare_totals dirty;        /* so the map says */
    struct compare_totals changed;      /* of these: differ */
    struct compare_totals missed_total; /* differ, and are clean */

    uint64_t done;                     /* bytes of the drive that are compared */
    uint64_t loaded_start, loaded_end; /* what the buffers hold of both */
    uint64_t granule_bytes;            /* of the granule that @done is in, before @done */
    bool granule_differs;
    struct bitmapd_range pending; /* a missed run that the next granule may join */
};

/*
 * @size is the map's.  -EINVAL with words when the drive's side is smaller, or
 * the granularity is none.
 */
int compare_init(struct compare *compare, struct compare_side *drive, struct compare_side *copy,
                 uint64_t size, uint64_t granularity, struct error *error);
/* The next dirty run: beyond the last one and within the size.  -errno with words: a side failed.
 */
int compare_run(struct compare *compare, struct bitmapd_range run, struct error *error);
/* What is left is clean. */
int compare_finish(struct compare *compare, struct error *error);

#endif
