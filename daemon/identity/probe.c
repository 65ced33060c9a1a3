/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A look at the path of a drive: how big it is, whose it is, and what would
 * tell of writing.  All three are of one descriptor, so that a path that is
 * renamed meanwhile does not mix two drives.
 *
 * The path is a client's, and we may be root: opening a watchdog or a tape has
 * effects.  So the descriptor is an O_PATH one, and what it leads to is opened
 * only when it is a block device, for its ioctls.  All that is asked of a file
 * can be asked of an O_PATH descriptor.
 *
 * What sysfs does not tell is no failure: a drive without an identity can be
 * tracked as well, with less to rule out.
 */
#include "daemon/identity/internal.h"
#include "proto/base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static void context_close(struct probe_context *context)
{
    cleanup_close(&context->sysfs);
    cleanup_close(&context->udev);
}

static int open_root(const char *path)
{
    return path ? open(path, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
}

static struct probe_context context_open(const struct drive_probe_options *options)
{
    return (struct probe_context){
        .sysfs = open_root(options->sysfs),
        .udev = open_root(options->udev),
        .boot_id = options->boot_id ? options->boot_id : "",
    };
}

/* Two texts for one drive would refuse it; without one it is taken as it is. */
static void drop_early(const struct probe_context *context, struct drive_probe *probe)
{
    if (context->early) {
        probe->identity[0] = '\0';
    }
}

static void probe_block(struct probe_context *context, unsigned major, unsigned minor, int fd,
                        struct drive_probe *ret)
{
    identity_of_block(context, major, minor, fd, 0, ret->identity);
    drop_early(context, ret);
    evidence_of_block(context, major, minor, fd, ret);
}

/* A path that only we do not see is a riddle: somebody else has just looked at it. */
static int not_found(const char *path, int r, struct error *error)
{
    const char *option =
        r == -ENOENT || r == -EACCES ? identity_hidden("/proc/self/mountinfo", path) : NULL;

    if (option) {
        return error_set(error, r,
                         "cannot look at '%s': %s (the service does not see what others see there: "
                         "%s in bitmapd.service)",
                         path, strerror(-r), option);
    }
    return error_set_errno(error, r, "cannot look at '%s'", path);
}

/* @path names it in errors.  The descriptor, which is not @place's but of the same device. */
static int open_block(int place, const char *path, uint64_t *ret_size, struct error *error)
{
    char link[32];

    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", place);
    CLEANUP_CLOSE int fd = open(link, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        int r = -errno;
        /* Root may open what it likes; EPERM comes from a control group. */
        return r == -EPERM
                   ? error_set(error, r,
                               "cannot open '%s': %s (a rule about devices, DeviceAllow= in "
                               "bitmapd.service or a container's, keeps the daemon from it)",
                               path, strerror(-r))
                   : error_set_errno(error, r, "cannot open '%s'", path);
    }
    if (ioctl(fd, BLKGETSIZE64, ret_size) < 0) {
        int r = -errno;
        return error_set_errno(error, r, "cannot get the size of '%s'", path);
    }
    return steal_fd(&fd);
}

int drive_probe(const char *path, const struct drive_probe_options *options,
                struct drive_probe *ret, struct error *error)
{
    CLEANUP(context_close) struct probe_context context = {.sysfs = -1, .udev = -1};
    CLEANUP_CLOSE int place = open(path, O_PATH | O_CLOEXEC);
    CLEANUP_CLOSE int block = -1;
    struct drive_probe probe = {0};
    struct statx stx;

    if (place < 0) {
        return not_found(path, -errno, error);
    }
    int r = identity_statx(place, &stx);
    if (r < 0) {
        return error_set_errno(error, r, "cannot look at '%s'", path);
    }
    if (S_ISBLK(stx.stx_mode)) {
        block = open_block(place, path, &probe.size, error);
        if (block < 0) {
            return block;
        }
    } else if (S_ISREG(stx.stx_mode)) {
        probe.size = stx.stx_size;
    } else {
        return error_set(error, -EINVAL, "'%s' is neither a regular file nor a block device", path);
    }
    if (probe.size == 0) {
        return error_set(error, -EINVAL, "'%s' is empty", path);
    }
    context = context_open(options);
    if (S_ISREG(stx.stx_mode)) {
        identity_of_file(&context, place, &stx, 0, probe.identity);
        drop_early(&context, &probe);
        evidence_of_file(&stx, &probe);
    } else {
        probe_block(&context, stx.stx_rdev_major, stx.stx_rdev_minor, block, &probe);
    }
    *ret = probe;
    return 0;
}

int drive_probe_block(unsigned major, unsigned minor, uint64_t size,
                      const struct drive_probe_options *options, struct drive_probe *ret,
                      struct error *error)
{
    struct drive_probe probe = {.size = size};

    if (size == 0) {
        return error_set(error, -EINVAL, "block device %u:%u is empty", major, minor);
    }
    CLEANUP(context_close) struct probe_context context = context_open(options);
    probe_block(&context, major, minor, -1, &probe);
    *ret = probe;
    return 0;
}
