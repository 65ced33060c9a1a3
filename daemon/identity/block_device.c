/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where a block device is in sysfs.  dev/block/MAJOR:MINOR is a link to its
 * directory; a partition's lies in its disk's.  Directories are held by O_PATH
 * descriptors, so that all attributes are of one device, whatever is detached
 * or attached meanwhile.
 */
#include "daemon/identity/internal.h"
#include "proto/base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/loop.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define DIRECTORY (O_PATH | O_DIRECTORY | O_CLOEXEC)

/* The link's last component but @up. */
static int component(char *link, unsigned up, char *ret, size_t size)
{
    char *slash;

    while ((slash = strrchr(link, '/')) && up > 0) {
        *slash = '\0';
        up--;
    }
    if (!slash || !slash[1] || strlen(slash + 1) >= size) {
        return -EINVAL;
    }
    memcpy(ret, slash + 1, strlen(slash + 1) + 1);
    return 0;
}

int block_device_open(const struct probe_context *context, unsigned major, unsigned minor,
                      struct block_device *ret)
{
    struct block_device found = {.directory = -1, .disk = -1};
    char path[64], link[PATH_MAX];

    (void)snprintf(found.number, sizeof found.number, "%u:%u", major, minor);
    (void)snprintf(path, sizeof path, "dev/block/%s", found.number);
    ssize_t length = readlinkat(context->sysfs, path, link, sizeof link - 1);
    if (length < 0 || (size_t)length >= sizeof link - 1) {
        return length < 0 ? -errno : -ENAMETOOLONG;
    }
    link[length] = '\0';
    CLEANUP_CLOSE int directory = openat(context->sysfs, path, DIRECTORY);
    if (directory < 0) {
        return -errno;
    }
    found.partition = faccessat(directory, "partition", F_OK, 0) == 0;
    CLEANUP_CLOSE int disk = found.partition ? openat(directory, "..", DIRECTORY) : -1;
    if (found.partition && (disk < 0 || faccessat(disk, "dev", F_OK, 0) < 0)) {
        return -errno;
    }
    int r = component(link, found.partition, found.name, sizeof found.name);
    if (r < 0) {
        return r;
    }
    found.directory = steal_fd(&directory);
    found.disk = found.partition ? steal_fd(&disk) : found.directory;
    *ret = found;
    return 0;
}

void block_device_close(struct block_device *device)
{
    if (device->disk >= 0 && device->disk != device->directory) {
        (void)close(device->disk);
    }
    if (device->directory >= 0) {
        (void)close(device->directory);
    }
}

bool block_device_is_loop(const struct block_device *device)
{
    return strncmp(device->name, "loop", 4) == 0;
}

/* As the kernel's huge_encode_dev() writes a device's number. */
static uint64_t encode(uint32_t major, uint32_t minor)
{
    return (minor & 0xff) | (uint64_t)major << 8 | (uint64_t)(minor & ~UINT32_C(0xff)) << 12;
}

int block_device_backing(const struct block_device *device, int fd, struct statx *ret_stx)
{
    char path[PATH_MAX + 1];
    size_t length;
    struct statx stx;
    struct loop_info64 info;

    int r = sysfs_read(device->disk, "loop/backing_file", path, sizeof path - 1, &length);
    if (r < 0) {
        return r;
    }
    /* A name may end with blanks; the newline is the attribute's. */
    if (length > 0 && path[length - 1] == '\n') {
        length--;
    }
    path[length] = '\0';
    if (path[0] != '/' || strlen(path) != length) {
        return -EINVAL;
    }
    CLEANUP_CLOSE int backing = open(path, O_PATH | O_CLOEXEC);
    if (backing < 0) {
        return -errno;
    }
    r = identity_statx(backing, &stx);
    if (r < 0) {
        return r;
    }
    /* Something else may be mounted there now, or here, in our mount namespace. */
    if (fd >= 0) {
        if (ioctl(fd, LOOP_GET_STATUS64, &info) < 0) {
            return -errno;
        }
        if (info.lo_inode != stx.stx_ino ||
            info.lo_device != encode(stx.stx_dev_major, stx.stx_dev_minor)) {
            return -ESTALE;
        }
    }
    *ret_stx = stx;
    return steal_fd(&backing);
}
