/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_BASE_FILE_H
#define BITMAPD_DAEMON_BASE_FILE_H

#include "proto/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * All file content that a promise depends on is read and written through this
 * vtable, so that a simulated disk can stand in for the kernel's.
 *
 * Calls block, so they are made on a worker's thread and never on the event
 * loop, but for files in memory.  One thread at a time may use a file, but that several may read
 * one that has a descriptor.  All offsets and lengths are in bytes.  Every call returns 0 or
 * -errno.
 */
struct file;

/* What identifies a file across renames: see statx(2).  All zero when the file system tells none.
 */
struct file_identity {
    uint64_t inode;
    uint64_t birth_time_ns; /* since the epoch; 0 where unknown */
};

struct file_ops {
    /* Reads exactly @length bytes; -ENODATA when the file ends before. */
    int (*read)(struct file *file, void *buffer, size_t length, uint64_t offset);
    /* Writes all of @length bytes, growing the file as needed; on failure any part may be
     * written. */
    int (*write)(struct file *file, const void *buffer, size_t length, uint64_t offset);
    /* The same, and on return 0 these bytes are durable, whatever was written before; in one I/O
     * where @buffer, @length and @offset are multiples of 4096, the file has the bytes already, and
     * the file system is known to do it (O_DIRECT and O_DSYNC of open(2)). */
    int (*write_durably)(struct file *file, const void *buffer, size_t length, uint64_t offset);
    /* fdatasync(2): on return 0 everything written before the call is durable.  After a failure
     * nothing may be concluded about any write since the last success: each may be on the disk or
     * not, and be seen by reads or not. */
    int (*datasync)(struct file *file);
    int (*size)(struct file *file, uint64_t *ret_size);
    int (*truncate)(struct file *file, uint64_t size);
    /* Makes sure that later writes into the range do not fail for want of space, growing the file
     * (posix_fallocate(3)); new bytes read as zeros, old ones are untouched. */
    int (*allocate)(struct file *file, uint64_t offset, uint64_t length);
    /* Gives the range's blocks back to the file system; it reads as zeros then, and the size stays
     * (fallocate(2), FALLOC_FL_PUNCH_HOLE).  In all else it is a write of zeros: durable with the
     * next sync, and on failure done in any part.  -EOPNOTSUPP: the file system cannot. */
    int (*punch)(struct file *file, uint64_t offset, uint64_t length);
    int (*identity)(struct file *file, struct file_identity *ret);
    /* The descriptor that does the I/O: borrowed, for locks; -1 when the kernel has no part in it.
     */
    int (*descriptor)(struct file *file);
    /* Releases everything; takes no errors since nothing may be unsynced by then. */
    void (*close)(struct file *file);
};

struct file {
    const struct file_ops *ops;
};

enum file_mode {
    FILE_READ,   /* must exist */
    FILE_WRITE,  /* must exist */
    FILE_CREATE, /* must not exist; mode 0600 */
};

/*
 * Where files are found, so that a simulated directory can stand in for the
 * kernel's.  Calls block and return 0 or -errno.  A new, renamed or removed
 * name is durable when sync_directory() of a path in the same directory has
 * returned 0, and perhaps before.
 */
struct file_system {
    int (*open)(struct file_system *files, const char *path, enum file_mode mode, struct file **ret,
                struct error *error);
    /* rename(2); with @replace false -EEXIST where @to is there, if the file system can tell. */
    int (*rename)(struct file_system *files, const char *from, const char *to, bool replace);
    int (*unlink)(struct file_system *files, const char *path);
    int (*sync_directory)(struct file_system *files, const char *path);
    /* Whether the directory of @path is in memory: calls on files in it never wait for a disk, and
     * they end with the host, not with a process (tmpfs(5)). */
    bool (*in_memory)(struct file_system *files, const char *path);
};

/* The kernel's. */
extern struct file_system file_system_posix;

/*
 * A new file in the place of whatever has the name, by removing that and never by truncating it:
 * whoever has it open keeps what was in it.  Its name is durable.
 */
int file_system_create(struct file_system *files, const char *path, struct file **ret,
                       struct error *error);
/* rename, and the directory synced. */
int file_system_rename(struct file_system *files, const char *from, const char *to, bool replace,
                       struct error *error);

/*
 * Opens a regular file through the kernel: O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
 * anything but a regular file is refused with -EINVAL, so that a FIFO or a
 * tty under the name cannot hang us.  The directory entry of a file that was created is
 * synced.  The caller owns *ret_file
 * (file_close()); *ret_fd, when not NULL, is the descriptor that does the
 * I/O: borrowed, for locks (fcntl F_OFD_*) and fstat only.
 */
int file_open_posix(const char *path, enum file_mode mode, struct file **ret_file, int *ret_fd,
                    struct error *error);

int file_identity(int fd, struct file_identity *ret);

/* The range is read before long: the kernel may begin with it (posix_fadvise(2)). */
void file_read_soon(struct file *file, uint64_t offset, uint64_t length);

/* fsync(2) of the directory that holds @path, after a create, rename or unlink. */
int file_sync_directory(const char *path);

static inline int file_read(struct file *file, void *buffer, size_t length, uint64_t offset)
{
    return file->ops->read(file, buffer, length, offset);
}

static inline int file_write(struct file *file, const void *buffer, size_t length, uint64_t offset)
{
    return file->ops->write(file, buffer, length, offset);
}

static inline int file_write_durably(struct file *file, const void *buffer, size_t length,
                                     uint64_t offset)
{
    return file->ops->write_durably(file, buffer, length, offset);
}

static inline int file_datasync(struct file *file)
{
    return file->ops->datasync(file);
}

static inline int file_size(struct file *file, uint64_t *ret_size)
{
    return file->ops->size(file, ret_size);
}

static inline int file_truncate(struct file *file, uint64_t size)
{
    return file->ops->truncate(file, size);
}

static inline int file_allocate(struct file *file, uint64_t offset, uint64_t length)
{
    return file->ops->allocate(file, offset, length);
}

static inline int file_punch(struct file *file, uint64_t offset, uint64_t length)
{
    return file->ops->punch(file, offset, length);
}

static inline int file_identity_of(struct file *file, struct file_identity *ret)
{
    return file->ops->identity(file, ret);
}

static inline int file_descriptor(struct file *file)
{
    return file->ops->descriptor(file);
}

/* Takes NULL. */
static inline void file_close(struct file *file)
{
    if (file) {
        file->ops->close(file);
    }
}

static inline void file_closep(struct file **file)
{
    file_close(*file);
}

#endif
