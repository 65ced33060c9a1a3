/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which file it is: inode and birth time, and the file system they are of.
 *
 * A device number is no name for a file system: dm and NVMe numbers follow
 * the order of discovery, those of btrfs, NFS, FUSE the order of mounts.  So
 * it is named by the device below it, or by statfs(2)'s f_fsid where that is
 * more than the device's number in other clothes.
 */
#include "daemon/identity/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/vfs.h>

/* What open(2) would do and O_PATH does not: over a network, the server is asked. */
int identity_statx(int fd, struct statx *ret)
{
    return statx(fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_BASIC_STATS | STATX_BTIME,
                 ret) < 0
               ? -errno
               : 0;
}

/*
 * Where it is the same after another boot: false for 0, and for what XFS, f2fs and FAT make of the
 * device's number (the kernel's huge_encode_dev()).
 */
static bool stable_fsid(const struct statfs *fs, const struct statx *stx, uint64_t *ret)
{
    uint32_t fsid[2];
    uint32_t encoded = (stx->stx_dev_minor & 0xff) | stx->stx_dev_major << 8 |
                       (stx->stx_dev_minor & ~UINT32_C(0xff)) << 12;

    _Static_assert(sizeof fs->f_fsid == sizeof fsid, "two words");
    memcpy(fsid, &fs->f_fsid, sizeof fsid);
    *ret = (uint64_t)fsid[1] << 32 | fsid[0];
    return *ret != 0 && *ret != encoded;
}

/* False: it cannot be told from others of its type. */
static bool file_system(struct probe_context *context, int fd, const struct statx *stx,
                        unsigned depth, char *ret)
{
    struct statfs fs;
    uint64_t fsid;
    char text[24];
    struct builder builder;

    /* Major 0 is no device. */
    if (stx->stx_dev_major != 0) {
        identity_of_block(context, stx->stx_dev_major, stx->stx_dev_minor, -1, depth + 1, ret);
        if (*ret) {
            return true;
        }
    }
    builder_init(&builder, "fs");
    bool known = false;
    if (fstatfs(fd, &fs) == 0) {
        (void)snprintf(text, sizeof text, "%lx", (unsigned long)fs.f_type);
        builder_string(&builder, "type", text);
        known = stable_fsid(&fs, stx, &fsid);
        if (known) {
            (void)snprintf(text, sizeof text, "%016llx", (unsigned long long)fsid);
            builder_string(&builder, "fsid", text);
        }
    } else {
        builder_string(&builder, "type", "unknown");
    }
    builder_finish(&builder, ret);
    return known;
}

void identity_of_file(struct probe_context *context, int fd, const struct statx *stx,
                      unsigned depth, char *ret)
{
    char below[IDENTITY_TEXT_BYTES_MAX + 1];
    struct builder builder;
    /* Some file systems that keep none answer 0 for it. */
    bool born = (stx->stx_mask & STATX_BTIME) &&
                (stx->stx_btime.tv_sec != 0 || stx->stx_btime.tv_nsec != 0);

    ret[0] = '\0';
    if (depth > IDENTITY_DEPTH_MAX || !(stx->stx_mask & STATX_INO)) {
        return;
    }
    bool known = file_system(context, fd, stx, depth, below);
    if (!born && !known) {
        return; /* every mount has an inode of that number */
    }
    builder_init(&builder, "file");
    builder_number(&builder, "inode", stx->stx_ino);
    if (born) {
        builder_time(&builder, "born", &stx->stx_btime);
    } else {
        builder_string(&builder, "born", "none");
    }
    builder_nested(&builder, "on", below);
    builder_finish(&builder, ret);
}
