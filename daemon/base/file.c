/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The kernel's side of file.h.
 *
 * Invariants:
 *   - a short read or write never surfaces: calls go on until all is done, the
 *     file ends, or an error says why not;
 *   - an error is reported once and never retried behind the caller's back
 *     (EINTR of the transfers aside, and EINVAL of a direct write, which is
 *     about its shape): a second fdatasync(2) after a failed one would succeed
 *     without having written anything;
 *   - offsets the kernel cannot express are refused before the call, so that no
 *     cast can turn them into others.
 */
#include "daemon/base/file.h"

#include "daemon/base/progress.h"
#include "proto/base/checked.h"
#include "proto/base/cleanup.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define DIRECT_NOT_TRIED (-1)
#define DIRECT_UNUSABLE  (-2)

struct posix_file {
    struct file file; /* first: the two pointers are the same */
    int fd;
    int direct; /* a second descriptor, with O_DIRECT and O_DSYNC; or one of the above */
};

static int descriptor(struct file *file)
{
    return ((struct posix_file *)file)->fd;
}

static bool expressible(uint64_t offset, uint64_t length)
{
    uint64_t end;
    return checked_add_u64(offset, length, &end) && end <= INT64_MAX;
}

static int posix_read(struct file *file, void *buffer, size_t length, uint64_t offset)
{
    uint8_t *p = buffer;

    if (!expressible(offset, length)) {
        return -ENODATA; /* no file reaches there */
    }
    while (length > 0) {
        ssize_t n = pread(descriptor(file), p, length, (off_t)offset);
        if (n < 0) {
            if (errno == EINTR) {
                continue;
            }
            return -errno;
        }
        if (n == 0) {
            return -ENODATA;
        }
        progress_move();
        p += n;
        length -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

static int write_to(int fd, const void *buffer, size_t length, uint64_t offset)
{
    const uint8_t *p = buffer;

    if (!expressible(offset, length)) {
        return -EFBIG;
    }
    while (length > 0) {
        ssize_t n = pwrite(fd, p, length, (off_t)offset);
        if (n < 0) {
            if (errno == EINTR) {
                continue;
            }
            return -errno;
        }
        if (n == 0) {
            return -EIO; /* no progress and no reason given: do not spin */
        }
        progress_move();
        p += n;
        length -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

static int posix_write(struct file *file, const void *buffer, size_t length, uint64_t offset)
{
    return write_to(descriptor(file), buffer, length, offset);
}

/*
 * After a failure the kernel counts the pages as written, and may show contents that the disk has
 * not got; worse, where an extent could not be allocated, ext4 (Linux 6.18) takes the same page
 * again, syncs it with success, and leaves the extent unwritten.  So the cache lets go of the
 * file: what is read from then on is what the disk has, and what is written begins anew.
 */
static int posix_datasync(struct file *file)
{
    int r = fdatasync(descriptor(file)) < 0 ? -errno : 0;

    progress_move();
    if (r < 0) {
        (void)posix_fadvise(descriptor(file), 0, 0, POSIX_FADV_DONTNEED);
    }
    return r;
}

/*
 * O_DSYNC is a promise of the file system.  These keep it for direct writes, down to the disk's
 * cache.  Others hand it on to somebody who may not: a FUSE server that asks for direct I/O gets
 * the flag and no FUSE_FSYNC, and writes when it likes.  There the sync is a call of its own.
 */
static bool syncs_direct_writes(int fd)
{
    struct statfs st;

    if (fstatfs(fd, &st) < 0) {
        return false;
    }
    switch ((uint32_t)st.f_type) {
    case EXT4_SUPER_MAGIC:
    case XFS_SUPER_MAGIC:
    case BTRFS_SUPER_MAGIC:
    case F2FS_SUPER_MAGIC:
        return true;
    default:
        return false;
    }
}

/* The flags belong to an open file, so it is opened once more. */
static int open_direct(const struct posix_file *file)
{
    char path[32];
    int flags = fcntl(file->fd, F_GETFL);

    if (!syncs_direct_writes(file->fd)) {
        return DIRECT_UNUSABLE;
    }
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", file->fd);
    int fd = open(path, (flags & O_ACCMODE) | O_DIRECT | O_DSYNC | O_CLOEXEC);
    return fd < 0 ? DIRECT_UNUSABLE : fd;
}

/*
 * Past the cache, in a file that is written through it as well: the kernel first writes back and
 * drops what it has of the range, and nobody else writes meanwhile.
 */
static int posix_write_durably(struct file *file, const void *buffer, size_t length,
                               uint64_t offset)
{
    struct posix_file *posix = (struct posix_file *)file;

    if (posix->direct == DIRECT_NOT_TRIED) {
        posix->direct = open_direct(posix);
    }
    if (posix->direct >= 0) {
        int r = write_to(posix->direct, buffer, length, offset);
        if (r != -EINVAL) {
            return r;
        }
        /* Not with these blocks: the file system or the device wants larger ones. */
        (void)close(posix->direct);
        posix->direct = DIRECT_UNUSABLE;
    }
    int r = posix_write(file, buffer, length, offset);
    return r < 0 ? r : posix_datasync(file);
}

static int posix_size(struct file *file, uint64_t *ret_size)
{
    struct stat st;

    if (fstat(descriptor(file), &st) < 0) {
        return -errno;
    }
    *ret_size = (uint64_t)st.st_size;
    return 0;
}

static int posix_truncate(struct file *file, uint64_t size)
{
    if (size > INT64_MAX) {
        return -EFBIG;
    }
    while (ftruncate(descriptor(file), (off_t)size) < 0) {
        if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

static int posix_allocate(struct file *file, uint64_t offset, uint64_t length)
{
    int r;

    if (length == 0) {
        return 0;
    }
    if (!expressible(offset, length)) {
        return -EFBIG;
    }
    do {
        r = posix_fallocate(descriptor(file), (off_t)offset, (off_t)length);
    } while (r == EINTR);
    return -r;
}

static int posix_punch(struct file *file, uint64_t offset, uint64_t length)
{
    if (length == 0) {
        return 0;
    }
    if (!expressible(offset, length)) {
        return -EFBIG;
    }
    while (fallocate(descriptor(file), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                     (off_t)length) < 0) {
        if (errno != EINTR) {
            return errno == ENOSYS ? -EOPNOTSUPP : -errno;
        }
    }
    return 0;
}

static int posix_identity(struct file *file, struct file_identity *ret)
{
    return file_identity(descriptor(file), ret);
}

static void posix_close(struct file *file)
{
    struct posix_file *posix = (struct posix_file *)file;

    if (posix->direct >= 0) {
        (void)close(posix->direct);
    }
    (void)close(posix->fd);
    free(posix);
}

static const struct file_ops posix_ops = {
    .read = posix_read,
    .write = posix_write,
    .write_durably = posix_write_durably,
    .datasync = posix_datasync,
    .size = posix_size,
    .truncate = posix_truncate,
    .allocate = posix_allocate,
    .punch = posix_punch,
    .identity = posix_identity,
    .descriptor = descriptor,
    .close = posix_close,
};

static int open_flags(enum file_mode mode)
{
    const int common = O_CLOEXEC | O_NOCTTY | O_NONBLOCK;

    switch (mode) {
    case FILE_READ:
        return common | O_RDONLY;
    case FILE_WRITE:
        return common | O_RDWR;
    case FILE_CREATE:
        return common | O_RDWR | O_CREAT | O_EXCL;
    }
    return -1;
}

/* Opens, and leaves the directory alone. */
static int open_only(const char *path, enum file_mode mode, struct file **ret, struct error *error)
{
    CLEANUP_CLOSE int fd = -1;
    CLEANUP_FREE struct posix_file *made = NULL;
    struct stat st;
    int flags = open_flags(mode);
    int r;

    if (flags < 0) {
        return error_set(error, -EINVAL, "cannot open %s: unknown mode %d", path, (int)mode);
    }
    /* Memory first: nothing may fail between creating a file and owning it. */
    made = calloc(1, sizeof *made);
    if (!made) {
        return error_set_errno(error, -ENOMEM, "cannot open %s", path);
    }
    fd = open(path, flags, 0600);
    if (fd < 0) {
        r = -errno;
        return error_set_errno(error, r, "cannot %s %s", mode == FILE_CREATE ? "create" : "open",
                               path);
    }
    if (fstat(fd, &st) < 0) {
        r = -errno;
        return error_set_errno(error, r, "cannot stat %s", path);
    }
    if (!S_ISREG(st.st_mode)) {
        return error_set(error, -EINVAL, "%s is not a regular file", path);
    }
    made->file.ops = &posix_ops;
    made->direct = DIRECT_NOT_TRIED;
    made->fd = steal_fd(&fd);
    *ret = &STEAL(made)->file;
    return 0;
}

int file_open_posix(const char *path, enum file_mode mode, struct file **ret_file, int *ret_fd,
                    struct error *error)
{
    CLEANUP(file_closep) struct file *file = NULL;
    int r = open_only(path, mode, &file, error);

    if (r < 0) {
        return r;
    }
    if (mode == FILE_CREATE) {
        r = file_sync_directory(path);
        if (r < 0) {
            (void)unlink(path);
            return error_set_errno(error, r, "cannot sync the directory of %s", path);
        }
    }
    if (ret_fd) {
        *ret_fd = descriptor(file);
    }
    *ret_file = STEAL(file);
    return 0;
}

void file_read_soon(struct file *file, uint64_t offset, uint64_t length)
{
    int fd = file_descriptor(file);

    if (fd >= 0 && expressible(offset, length)) {
        (void)posix_fadvise(fd, (off_t)offset, (off_t)length, POSIX_FADV_WILLNEED);
    }
}

int file_identity(int fd, struct file_identity *ret)
{
    struct statx stx;
    struct file_identity identity = {0};

    if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_SYNC_AS_STAT, STATX_INO | STATX_BTIME, &stx) < 0) {
        return -errno;
    }
    if (stx.stx_mask & STATX_INO) {
        identity.inode = stx.stx_ino;
    }
    if ((stx.stx_mask & STATX_BTIME) && stx.stx_btime.tv_sec >= 0) {
        uint64_t ns;
        if (checked_mul_u64((uint64_t)stx.stx_btime.tv_sec, UINT64_C(1000000000), &ns) &&
            checked_add_u64(ns, stx.stx_btime.tv_nsec, &ns)) {
            identity.birth_time_ns = ns;
        }
    }
    *ret = identity;
    return 0;
}

/* The directory that holds @path, or -errno. */
static int open_directory(const char *path)
{
    CLEANUP_FREE char *directory = NULL;
    const char *slash = strrchr(path, '/');

    /* "/name" lies in "/", "name" in ".". */
    if (slash) {
        directory = strndup(path, slash == path ? 1 : (size_t)(slash - path));
    } else {
        directory = strdup(".");
    }
    if (!directory) {
        return -ENOMEM;
    }
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int file_sync_directory(const char *path)
{
    CLEANUP_CLOSE int fd = open_directory(path);

    if (fd < 0) {
        return fd;
    }
    return fsync(fd) < 0 ? -errno : 0;
}

/* ---- The kernel's file system ---- */

static int posix_open(struct file_system *files, const char *path, enum file_mode mode,
                      struct file **ret, struct error *error)
{
    (void)files;
    return open_only(path, mode, ret, error);
}

static int posix_rename(struct file_system *files, const char *from, const char *to, bool replace)
{
    (void)files;
    if (!replace) {
        if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0) {
            return 0;
        }
        if (errno != EINVAL && errno != ENOSYS) {
            return -errno;
        }
        /* The file system cannot tell. */
    }
    return rename(from, to) < 0 ? -errno : 0;
}

static int posix_unlink(struct file_system *files, const char *path)
{
    (void)files;
    return unlink(path) < 0 ? -errno : 0;
}

static int posix_sync_directory(struct file_system *files, const char *path)
{
    (void)files;
    return file_sync_directory(path);
}

static bool posix_in_memory(struct file_system *files, const char *path)
{
    CLEANUP_CLOSE int fd = open_directory(path);
    struct statfs st;

    (void)files;
    return fd >= 0 && fstatfs(fd, &st) == 0 && st.f_type == TMPFS_MAGIC;
}

struct file_system file_system_posix = {
    .open = posix_open,
    .rename = posix_rename,
    .unlink = posix_unlink,
    .sync_directory = posix_sync_directory,
    .in_memory = posix_in_memory,
};

static int sync_directory(struct file_system *files, const char *path, struct error *error)
{
    int r = files->sync_directory(files, path);
    return r < 0 ? error_set_errno(error, r, "cannot sync the directory of %s", path) : 0;
}

int file_system_create(struct file_system *files, const char *path, struct file **ret,
                       struct error *error)
{
    CLEANUP(file_closep) struct file *file = NULL;
    int r = files->unlink(files, path);

    if (r < 0 && r != -ENOENT) {
        return error_set_errno(error, r, "cannot replace %s", path);
    }
    r = files->open(files, path, FILE_CREATE, &file, error);
    if (r == 0) {
        r = sync_directory(files, path, error);
    }
    if (r < 0) {
        return r;
    }
    *ret = STEAL(file);
    return 0;
}

int file_system_rename(struct file_system *files, const char *from, const char *to, bool replace,
                       struct error *error)
{
    int r = files->rename(files, from, to, replace);

    if (r < 0) {
        return error_set_errno(error, r, "cannot rename %s to %s", from, to);
    }
    return sync_directory(files, to, error);
}
