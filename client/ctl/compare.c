/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The comparison of `bitmapctl verify`.
 *
 * The drive is cut at granules and at the ends of dirty runs, and each piece
 * is dirty or clean as a whole.  A granule goes over several buffers when it is
 * large, so whether it differs is carried from one to the next.
 *
 * A read that fails ends the comparison: what could not be read is not taken
 * for equal.
 */
#include "client/ctl/compare.h"

#include "proto/base/checked.h"
#include "proto/base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#define BUFFER_BYTES (UINT64_C(4) << 20)

/* ---- Sides ---- */

int compare_side_open(struct compare_side *side, const char *what, const char *path,
                      struct error *error)
{
    struct stat status;

    *side = (struct compare_side){.what = what, .path = path, .fd = -1};
    /* Not to wait for the writer of a FIFO, which is refused right after. */
    side->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (side->fd < 0 || fstat(side->fd, &status) < 0) {
        return error_set_errno(error, -errno, "cannot open %s %s", what, path);
    }
    if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode)) {
        return error_set(error, -EINVAL, "%s %s is neither a file nor a block device", what, path);
    }
    off_t end = lseek(side->fd, 0, SEEK_END);
    if (end < 0) {
        return error_set_errno(error, -errno, "cannot tell the size of %s %s", what, path);
    }
    side->size = (uint64_t)end;
    side->buffer = malloc(BUFFER_BYTES);
    if (!side->buffer) {
        return error_set(error, -ENOMEM, "out of memory");
    }
    (void)posix_fadvise(side->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    return 0;
}

void compare_side_deinit(struct compare_side *side)
{
    if (side->fd >= 0) {
        (void)close(side->fd);
    }
    free(side->buffer);
    side->fd = -1;
    side->buffer = NULL;
}

bool compare_sides_are_same(const struct compare_side *a, const struct compare_side *b)
{
    struct stat left, right;

    if (fstat(a->fd, &left) < 0 || fstat(b->fd, &right) < 0) {
        return false;
    }
    return S_ISBLK(left.st_mode) && S_ISBLK(right.st_mode)
               ? left.st_rdev == right.st_rdev
               : left.st_dev == right.st_dev && left.st_ino == right.st_ino;
}

/* Fills the buffer with @bytes from @offset on. */
static int read_side(struct compare_side *side, uint64_t offset, uint64_t bytes,
                     struct error *error)
{
    uint64_t done = 0;

    while (done < bytes) {
        ssize_t n = pread(side->fd, side->buffer + done, bytes - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return error_set_errno(error, -errno, "cannot read %s %s at byte %" PRIu64, side->what,
                                   side->path, offset + done);
        }
        if (n == 0) {
            return error_set(error, -EIO, "%s %s ends at byte %" PRIu64 ", it had %" PRIu64,
                             side->what, side->path, offset + done, side->size);
        }
        done += (uint64_t)n;
    }
    /* So that both sides' disks work while one is waited for. */
    (void)posix_fadvise(side->fd, (off_t)(offset + bytes), (off_t)BUFFER_BYTES,
                        POSIX_FADV_WILLNEED);
    return 0;
}

/* ---- Comparing ---- */

int compare_init(struct compare *compare, struct compare_side *drive, struct compare_side *copy,
                 uint64_t size, uint64_t granularity, struct error *error)
{
    if (granularity == 0) {
        return error_set(error, -EINVAL, "the map has no granularity");
    }
    if (drive->size < size) {
        return error_set(error, -EINVAL,
                         "%s %s has %" PRIu64 " bytes, the daemon knows it with %" PRIu64,
                         drive->what, drive->path, drive->size, size);
    }
    *compare = (struct compare){
        .drive = drive,
        .copy = copy,
        .size = size,
        .granularity = granularity,
    };
    return 0;
}

static int load(struct compare *compare, struct error *error)
{
    uint64_t start = compare->done - compare->done % BUFFER_BYTES;
    uint64_t bytes = min_u64(BUFFER_BYTES, compare->size - start);

    int r = read_side(compare->drive, start, bytes, error);
    if (r == 0 && start < compare->copy->size) {
        r = read_side(compare->copy, start, min_u64(bytes, compare->copy->size - start), error);
    }
    if (r < 0) {
        return r;
    }
    compare->loaded_start = start;
    compare->loaded_end = start + bytes;
    if (compare->progress) {
        compare->progress(compare->opaque, start);
    }
    return 0;
}

static void give_pending(struct compare *compare)
{
    if (compare->pending.length > 0) {
        compare->missed(compare->opaque, compare->pending);
        compare->pending.length = 0;
    }
}

static void count(struct compare_totals *totals, uint64_t bytes)
{
    totals->bytes += bytes;
    totals->granules++;
}

/* The granule, or what of it is in the run, ends at @done. */
static void end_granule(struct compare *compare, bool dirty)
{
    uint64_t bytes = compare->granule_bytes;
    uint64_t start = compare->done - bytes;

    if (dirty) {
        count(&compare->dirty, bytes);
    }
    if (compare->granule_differs && dirty) {
        count(&compare->changed, bytes);
    } else if (compare->granule_differs) {
        struct bitmapd_range *pending = &compare->pending;
        count(&compare->missed_total, bytes);
        if (pending->length > 0 && pending->offset + pending->length == start) {
            pending->length += bytes;
        } else {
            give_pending(compare);
            *pending = (struct bitmapd_range){start, bytes};
        }
    }
    compare->granule_bytes = 0;
    compare->granule_differs = false;
}

/* Of both buffers; within them, from @done on. */
static bool differs(const struct compare *compare, uint64_t bytes)
{
    uint64_t at = compare->done - compare->loaded_start;

    return compare->done + bytes > compare->copy->size ||
           memcmp(compare->drive->buffer + at, compare->copy->buffer + at, bytes) != 0;
}

/* Compares up to @end. */
static int advance(struct compare *compare, uint64_t end, bool dirty, struct error *error)
{
    while (compare->done < end) {
        if (compare->done >= compare->loaded_end) {
            int r = load(compare, error);
            if (r < 0) {
                return r;
            }
        }
        uint64_t left = compare->granularity - compare->done % compare->granularity;
        uint64_t bytes =
            min_u64(min_u64(left, end - compare->done), compare->loaded_end - compare->done);

        compare->granule_differs = compare->granule_differs || differs(compare, bytes);
        compare->granule_bytes += bytes;
        compare->done += bytes;
        if (bytes == left || compare->done == end) {
            end_granule(compare, dirty);
        }
    }
    return 0;
}

int compare_run(struct compare *compare, struct bitmapd_range run, struct error *error)
{
    int r = advance(compare, run.offset, false, error);
    return r < 0 ? r : advance(compare, run.offset + run.length, true, error);
}

int compare_finish(struct compare *compare, struct error *error)
{
    int r = advance(compare, compare->size, false, error);
    if (r == 0) {
        give_pending(compare);
    }
    return r;
}
