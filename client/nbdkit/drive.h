/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_NBDKIT_DRIVE_H
#define BITMAPD_NBDKIT_DRIVE_H

#include "proto/base/cleanup.h"
#include "proto/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The raw drive: a regular file or a block device, open once for the whole
 * process, so that one drive_sync() covers every write that was made through
 * it.  All functions may be called by any number of threads at once.  Offsets
 * and counts are bytes within the drive's size.
 */
struct drive;

/*
 * Opens @path for reading and writing, or for reading only where writing is
 * not permitted.  -EINVAL for what is neither a file nor a block device.
 */
int drive_open(const char *path, struct drive **ret_drive, struct error *error);
void drive_close(struct drive *drive); /* takes NULL */
DEFINE_CLEANUP(struct drive *, drive_close)

uint64_t drive_size_bytes(const struct drive *drive); /* as it was when it was opened */
bool drive_is_writable(const struct drive *drive);
/* Reads and writes of less than this cost more than their size tells; a power of two. */
uint32_t drive_preferred_bytes(const struct drive *drive);

/* 0 when all of the bytes were moved, else -errno. */
int drive_read(struct drive *drive, void *data, size_t count_bytes, uint64_t offset_bytes);
int drive_write(struct drive *drive, const void *data, size_t count_bytes, uint64_t offset_bytes);

enum drive_zero_flags {
    DRIVE_ZERO_MAY_PUNCH = 1 << 0, /* the range may end up unallocated */
    DRIVE_ZERO_FAST = 1 << 1,      /* only if that is quicker than writing zeros */
};

/*
 * Makes the range read as zeros.  -EOPNOTSUPP only with DRIVE_ZERO_FAST.
 * After a failure any part of the range may have been zeroed.
 */
int drive_zero(struct drive *drive, uint64_t count_bytes, uint64_t offset_bytes, unsigned flags);
/* Whether drive_zero() with these flags is already known to fail with -EOPNOTSUPP. */
bool drive_zero_is_hopeless(struct drive *drive, unsigned flags);

/* Gives the range's storage back as far as the drive can; what cannot be given back stays. */
int drive_trim(struct drive *drive, uint64_t count_bytes, uint64_t offset_bytes);

/* Makes every write that returned before this call stable. */
int drive_sync(struct drive *drive);

/* Whether the drive can tell holes from data. */
bool drive_has_extents(struct drive *drive);
typedef int drive_extent(void *opaque, uint64_t offset_bytes, uint64_t length_bytes, bool hole);
/*
 * Calls @each for the extents from @offset_bytes in order until the range is
 * covered (the last extent may reach beyond it) or, with @one, after the
 * first.  A nonzero result of @each ends it and is returned.
 */
int drive_extents(struct drive *drive, uint64_t count_bytes, uint64_t offset_bytes, bool one,
                  drive_extent *each, void *opaque);

#endif
