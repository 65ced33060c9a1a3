/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * QEMU's image locks, so that neither program opens an image which the other
 * one is changing.
 *
 * Each permission has two bytes of the file: one is read-locked by whoever
 * holds the permission, the other by whoever does not share it.  These are
 * open-file-description locks; nobody takes a write lock, one only asks whether
 * it could.  Locking first and asking afterwards means that of two programs
 * that start at once at least one sees the other.
 *
 * A reader of ours shares everything, since it can read beside a bitmapd that
 * writes.  Beside another writer it cannot: QEMU changes in place what it has
 * written.  So our writers also lock a byte that QEMU knows nothing of, before
 * the others, and a reader that finds a writer without it stays out.
 */
#include "daemon/container/internal.h"

#include <fcntl.h>

#define LOCK_HELD     100 /* + permission */
#define LOCK_UNSHARED 200 /* + permission */
#define LOCK_OURS     300 /* not QEMU's: the writer is a bitmapd */

enum permission {
    PERMISSION_CONSISTENT_READ = 0,
    PERMISSION_WRITE = 1,
    PERMISSION_WRITE_UNCHANGED = 2,
    PERMISSION_RESIZE = 3,
    PERMISSIONS,
};

static const char *const permission_names[PERMISSIONS] = {
    [PERMISSION_CONSISTENT_READ] = "consistent read",
    [PERMISSION_WRITE] = "write",
    [PERMISSION_WRITE_UNCHANGED] = "write unchanged",
    [PERMISSION_RESIZE] = "resize",
};

static int lock_byte(int fd, short type, off_t byte)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    int r;

    do {
        r = fcntl(fd, F_OFD_SETLK, &lock);
    } while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : 0;
}

/* 0, -EBUSY when somebody else has it locked, or why it cannot be told. */
static int test_byte(int fd, off_t byte)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

    if (fcntl(fd, F_OFD_GETLK, &lock) < 0) {
        return -errno;
    }
    return lock.l_type == F_UNLCK ? 0 : -EBUSY;
}

static int lock_all(int fd, unsigned held, unsigned unshared, struct error *error)
{
    for (int p = 0; p < PERMISSIONS; p++) {
        int r = held & (1u << p) ? lock_byte(fd, F_RDLCK, LOCK_HELD + p) : 0;
        if (r == 0 && (unshared & (1u << p))) {
            r = lock_byte(fd, F_RDLCK, LOCK_UNSHARED + p);
        }
        if (r == -EAGAIN || r == -EACCES) {
            return error_set(
                error, -EBUSY,
                "the image is in use: another process has locked it (permission \"%s\")",
                permission_names[p]);
        }
        if (r < 0) {
            return error_set_errno(error, r, "cannot lock the image");
        }
    }
    for (int p = 0; p < PERMISSIONS; p++) {
        int r = held & (1u << p) ? test_byte(fd, LOCK_UNSHARED + p) : 0;
        if (r == -EBUSY) {
            return error_set(
                error, r,
                "the image is in use: another process (QEMU, or a bitmapd) does not share "
                "permission \"%s\"",
                permission_names[p]);
        }
        if (r == 0 && (unshared & (1u << p))) {
            r = test_byte(fd, LOCK_HELD + p);
        }
        if (r == -EBUSY) {
            return error_set(
                error, r,
                "the image is in use: another process (QEMU, or a bitmapd) holds permission "
                "\"%s\"",
                permission_names[p]);
        }
        if (r < 0) {
            return error_set_errno(error, r, "cannot test the image's locks");
        }
    }
    return 0;
}

static int lock_for_writing(int fd, struct error *error)
{
    const unsigned writer = 1u << PERMISSION_WRITE | 1u << PERMISSION_RESIZE;
    int r = lock_byte(fd, F_RDLCK, LOCK_OURS);

    return r < 0 ? error_set_errno(error, r, "cannot lock the image")
                 : lock_all(fd, writer, writer, error);
}

static int lock_for_reading(int fd, struct error *error)
{
    int r = lock_all(fd, 1u << PERMISSION_CONSISTENT_READ, 0, error);

    /* In this order: a bitmapd that comes meanwhile has the second lock before the first. */
    if (r == 0 && test_byte(fd, LOCK_HELD + PERMISSION_WRITE) == -EBUSY &&
        test_byte(fd, LOCK_OURS) == 0) {
        r = error_set(
            error, -EBUSY,
            "the image is in use: a program that is no bitmapd (QEMU?) has it open for writing");
    }
    return r;
}

int container_lock(int fd, bool write, struct error *error)
{
    int r = write ? lock_for_writing(fd, error) : lock_for_reading(fd, error);

    if (r < 0) {
        /* So that a later attempt is not in the way of others meanwhile. */
        for (int p = 0; p < PERMISSIONS; p++) {
            (void)lock_byte(fd, F_UNLCK, LOCK_HELD + p);
            (void)lock_byte(fd, F_UNLCK, LOCK_UNSHARED + p);
        }
        (void)lock_byte(fd, F_UNLCK, LOCK_OURS);
    }
    return r;
}
