/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * File I/O on the raw drive, kept apart from marking so that each can be read
 * alone.
 *
 * - One descriptor for all connections: fdatasync(2) reports a failed
 *   write-back once per open file description, and what is covered by it is
 *   then the same for every client.
 * - Nothing here uses the descriptor's position but lseek(2) for holes, whose
 *   answer depends on its arguments alone: no lock is needed.
 * - A range is zeroed by the best means the drive has.  Means that the kernel
 *   says are not there at all are not tried again; the flags for it are only
 *   ever set, so relaxed atomics do.
 */
#include "client/nbdkit/drive.h"

#include "proto/base/checked.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

/* Written where the drive cannot zero by itself. */
#define ZEROS_BYTES (256u << 10)
static const uint8_t zeros[ZEROS_BYTES];

struct drive {
    int fd;
    bool writable;
    bool block_device;
    uint64_t size_bytes;
    uint32_t align_bytes; /* of what fallocate(2) takes; a power of two */
    uint32_t preferred_bytes;
    atomic_bool cannot_punch;
    atomic_bool cannot_zero_range;
};

/* The size and block sizes of what is open at drive->fd. */
static int drive_measure(struct drive *drive, const char *path, struct error *error)
{
    struct stat st;
    if (fstat(drive->fd, &st) < 0) {
        return error_set_errno(error, -errno, "%s: fstat", path);
    }

    if (S_ISREG(st.st_mode)) {
        drive->size_bytes = (uint64_t)st.st_size;
        drive->align_bytes = 1;
        drive->preferred_bytes = 4096;
        return 0;
    }
    if (!S_ISBLK(st.st_mode)) {
        return error_set(error, -EINVAL, "%s: neither a regular file nor a block device", path);
    }

    int logical_bytes = 0;
    unsigned physical_bytes = 0;
    if (ioctl(drive->fd, BLKGETSIZE64, &drive->size_bytes) < 0 ||
        ioctl(drive->fd, BLKSSZGET, &logical_bytes) < 0 ||
        ioctl(drive->fd, BLKPBSZGET, &physical_bytes) < 0) {
        return error_set_errno(error, -errno, "%s: reading the block device's size", path);
    }
    if (logical_bytes <= 0 || !is_power_of_two((uint64_t)logical_bytes)) {
        return error_set(error, -EINVAL, "%s: the block device's sectors have %d bytes", path,
                         logical_bytes);
    }
    drive->block_device = true;
    drive->align_bytes = (uint32_t)logical_bytes;
    /* Writes go through the page cache: less than a page is read first. */
    drive->preferred_bytes =
        physical_bytes > 4096 && physical_bytes <= (32u << 20) && is_power_of_two(physical_bytes)
            ? physical_bytes
            : 4096;
    return 0;
}

int drive_open(const char *path, struct drive **ret_drive, struct error *error)
{
    CLEANUP(drive_closep) struct drive *drive = calloc(1, sizeof *drive);
    if (drive == NULL) {
        return error_set_errno(error, -ENOMEM, "%s", path);
    }
    drive->writable = true;
    drive->fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY);
    if (drive->fd < 0 && (errno == EACCES || errno == EPERM || errno == EROFS)) {
        drive->writable = false;
        drive->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    }
    if (drive->fd < 0) {
        return error_set_errno(error, -errno, "%s: open", path);
    }
    int r = drive_measure(drive, path, error);
    if (r < 0) {
        return r;
    }
    *ret_drive = STEAL(drive);
    return 0;
}

void drive_close(struct drive *drive)
{
    if (drive == NULL) {
        return;
    }
    if (drive->fd >= 0) {
        (void)close(drive->fd);
    }
    free(drive);
}

uint64_t drive_size_bytes(const struct drive *drive)
{
    return drive->size_bytes;
}

bool drive_is_writable(const struct drive *drive)
{
    return drive->writable;
}

uint32_t drive_preferred_bytes(const struct drive *drive)
{
    return drive->preferred_bytes;
}

int drive_read(struct drive *drive, void *data, size_t count_bytes, uint64_t offset_bytes)
{
    uint8_t *to = data;
    while (count_bytes > 0) {
        ssize_t n = pread(drive->fd, to, count_bytes, (off_t)offset_bytes);
        if (n < 0) {
            if (errno == EINTR) {
                continue;
            }
            return -errno;
        }
        if (n == 0) {
            return -EIO; /* the file is shorter than it was when it was opened */
        }
        to += n;
        count_bytes -= (size_t)n;
        offset_bytes += (uint64_t)n;
    }
    return 0;
}

int drive_write(struct drive *drive, const void *data, size_t count_bytes, uint64_t offset_bytes)
{
    const uint8_t *from = data;
    while (count_bytes > 0) {
        ssize_t n = pwrite(drive->fd, from, count_bytes, (off_t)offset_bytes);
        if (n < 0) {
            if (errno == EINTR) {
                continue;
            }
            return -errno;
        }
        if (n == 0) {
            return -EIO;
        }
        from += n;
        count_bytes -= (size_t)n;
        offset_bytes += (uint64_t)n;
    }
    return 0;
}

/*
 * fallocate(2) with @mode: 0, -EOPNOTSUPP when this drive cannot do it (then
 * *cannot is set) or not now, or another -errno.
 */
static int drive_fallocate(struct drive *drive, int mode, uint64_t count_bytes,
                           uint64_t offset_bytes, atomic_bool *cannot)
{
    if (atomic_load_explicit(cannot, memory_order_relaxed)) {
        return -EOPNOTSUPP;
    }
    while (fallocate(drive->fd, mode, (off_t)offset_bytes, (off_t)count_bytes) < 0) {
        switch (errno) {
        case EINTR:
            continue;
        case EOPNOTSUPP:
        case ENOSYS:
        case ENODEV:
            atomic_store_explicit(cannot, true, memory_order_relaxed);
            return -EOPNOTSUPP;
        case EBUSY: /* a block device whose page cache somebody else holds */
            return -EOPNOTSUPP;
        default:
            return -errno;
        }
    }
    return 0;
}

static int drive_write_zeros(struct drive *drive, uint64_t count_bytes, uint64_t offset_bytes)
{
    while (count_bytes > 0) {
        uint64_t n = min_u64(count_bytes, ZEROS_BYTES);
        int r = drive_write(drive, zeros, n, offset_bytes);
        if (r < 0) {
            return r;
        }
        count_bytes -= n;
        offset_bytes += n;
    }
    return 0;
}

/* On block devices the kernel may carry ZERO_RANGE out by writing zeros, which is not fast. */
static bool drive_may_zero_range(const struct drive *drive, unsigned flags)
{
    return !(drive->block_device && (flags & DRIVE_ZERO_FAST) != 0);
}

/* Zeroes a range that fallocate(2) can take. */
static int drive_zero_aligned(struct drive *drive, uint64_t count_bytes, uint64_t offset_bytes,
                              unsigned flags)
{
    int r = -EOPNOTSUPP;
    if ((flags & DRIVE_ZERO_MAY_PUNCH) != 0) {
        r = drive_fallocate(drive, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, count_bytes,
                            offset_bytes, &drive->cannot_punch);
    }
    if (r == -EOPNOTSUPP && drive_may_zero_range(drive, flags)) {
        r = drive_fallocate(drive, FALLOC_FL_ZERO_RANGE, count_bytes, offset_bytes,
                            &drive->cannot_zero_range);
    }
    if (r == -EOPNOTSUPP && (flags & DRIVE_ZERO_FAST) == 0) {
        r = drive_write_zeros(drive, count_bytes, offset_bytes);
    }
    return r;
}

/* The part of a range that fallocate(2) takes: [*ret_begin, *ret_end), empty when there is none. */
static void drive_align_inwards(const struct drive *drive, uint64_t count_bytes,
                                uint64_t offset_bytes, uint64_t *ret_begin, uint64_t *ret_end)
{
    uint64_t mask = drive->align_bytes - 1;
    uint64_t end = offset_bytes + count_bytes;
    *ret_begin = min_u64((offset_bytes + mask) & ~mask, end);
    *ret_end = max_u64(end & ~mask, *ret_begin);
}

int drive_zero(struct drive *drive, uint64_t count_bytes, uint64_t offset_bytes, unsigned flags)
{
    uint64_t begin, end;
    drive_align_inwards(drive, count_bytes, offset_bytes, &begin, &end);

    /* The middle first: it is what may not be possible. */
    int r = 0;
    if (end > begin) {
        r = drive_zero_aligned(drive, end - begin, begin, flags);
    }
    if (r == 0) {
        r = drive_write_zeros(drive, begin - offset_bytes, offset_bytes);
    }
    if (r == 0) {
        r = drive_write_zeros(drive, offset_bytes + count_bytes - end, end);
    }
    return r;
}

bool drive_zero_is_hopeless(struct drive *drive, unsigned flags)
{
    if ((flags & DRIVE_ZERO_FAST) == 0) {
        return false;
    }
    bool punch = (flags & DRIVE_ZERO_MAY_PUNCH) != 0 &&
                 !atomic_load_explicit(&drive->cannot_punch, memory_order_relaxed);
    bool zero_range = drive_may_zero_range(drive, flags) &&
                      !atomic_load_explicit(&drive->cannot_zero_range, memory_order_relaxed);
    return !punch && !zero_range;
}

int drive_trim(struct drive *drive, uint64_t count_bytes, uint64_t offset_bytes)
{
    uint64_t begin, end;
    drive_align_inwards(drive, count_bytes, offset_bytes, &begin, &end);
    if (begin == end) {
        return 0;
    }
    int r = drive_fallocate(drive, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, end - begin, begin,
                            &drive->cannot_punch);
    return r == -EOPNOTSUPP ? 0 : r; /* advice only */
}

int drive_sync(struct drive *drive)
{
    /* Not repeated after EINTR: a failure that was reported once is not reported again. */
    return fdatasync(drive->fd) < 0 ? -errno : 0;
}

bool drive_has_extents(struct drive *drive)
{
    return lseek(drive->fd, 0, SEEK_HOLE) >= 0;
}

int drive_extents(struct drive *drive, uint64_t count_bytes, uint64_t offset_bytes, bool one,
                  drive_extent *each, void *opaque)
{
    uint64_t end = offset_bytes + count_bytes;
    while (offset_bytes < end) {
        /* Others write meanwhile, so that each answer is only taken as far as it goes. */
        off_t data = lseek(drive->fd, (off_t)offset_bytes, SEEK_DATA);
        if (data < 0 && errno != ENXIO) {
            return -errno;
        }
        bool hole = data < 0 || (uint64_t)data > offset_bytes;
        uint64_t next = drive->size_bytes;
        if (hole && data >= 0) {
            next = (uint64_t)data;
        } else if (!hole) {
            off_t found = lseek(drive->fd, (off_t)offset_bytes, SEEK_HOLE);
            if (found < 0) {
                return -errno;
            }
            /* Punched since SEEK_DATA looked: call it data up to the range's end, which is
             * always true enough. */
            next = (uint64_t)found > offset_bytes ? (uint64_t)found : end;
        }
        next = min_u64(next, drive->size_bytes);
        int r = each(opaque, offset_bytes, next - offset_bytes, hole);
        if (r != 0 || one) {
            return r;
        }
        offset_bytes = next;
    }
    return 0;
}
