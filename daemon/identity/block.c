/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which block device it is: a partition by its place on its disk; a loop
 * device by what it is attached to; any other by what its driver tells
 * (disk.c).  A text is stable or it is "": names (sda), numbers (8:0)
 * and positions on a bus are others after the next boot.
 */
#include "daemon/identity/internal.h"
#include "proto/base/cleanup.h"

#include <string.h>

static void identity_of_loop(struct probe_context *context, const struct block_device *device,
                             int fd, unsigned depth, char *ret)
{
    struct statx stx;
    struct builder builder;
    char below[IDENTITY_TEXT_BYTES_MAX + 1] = "";
    uint64_t offset, limit;
    CLEANUP_CLOSE int backing = block_device_backing(device, fd, &stx);

    if (backing < 0 || !sysfs_read_number(device->disk, "loop/offset", &offset) ||
        !sysfs_read_number(device->disk, "loop/sizelimit", &limit)) {
        return;
    }
    if (S_ISREG(stx.stx_mode)) {
        identity_of_file(context, backing, &stx, depth + 1, below);
    } else if (S_ISBLK(stx.stx_mode)) {
        identity_of_block(context, stx.stx_rdev_major, stx.stx_rdev_minor, -1, depth + 1, below);
    }
    if (!*below) {
        return;
    }
    builder_init(&builder, "loop");
    builder_number(&builder, "offset", offset);
    builder_number(&builder, "sizelimit", limit);
    builder_nested(&builder, "over", below);
    builder_finish(&builder, ret);
}

/* Without a table's UUID there are 0s before the last dash: of GPT, or of an MBR without signature.
 */
static bool told(const struct sysfs_text *uuid)
{
    const char *dash = strrchr(uuid->bytes, '-');
    size_t zeros = strspn(uuid->bytes, "0-");

    return strlen(uuid->bytes) == uuid->length && dash && zeros < (size_t)(dash - uuid->bytes);
}

/* Newer kernels tell it; udev has it from blkid, in the same spelling. */
static bool partition_uuid(struct probe_context *context, const struct block_device *device,
                           struct sysfs_text *ret)
{
    return (sysfs_read_line(device->directory, "uevent", "PARTUUID=", ret) && told(ret)) ||
           (udev_read_line(context, device->number, "E:ID_PART_ENTRY_UUID=", ret) && told(ret));
}

/*
 * Its place on its disk, which the kernel always tells; a table's UUIDs are those of every copy of
 * the disk, too, and some kernels leave them to udev, which comes later.  Only where nothing is
 * known of the disk (a virtio disk without a serial) the UUID has to do.
 */
static void identity_of_partition(struct probe_context *context, const struct block_device *device,
                                  const char *disk, char *ret)
{
    struct sysfs_text uuid;
    struct builder builder;
    uint64_t number, start;

    builder_init(&builder, "partition");
    if (*disk) {
        if (!sysfs_read_number(device->directory, "partition", &number) ||
            !sysfs_read_number(device->directory, "start", &start)) {
            return;
        }
        builder_number(&builder, "number", number);
        builder_number(&builder, "start", start);
        builder_nested(&builder, "of", disk);
    } else if (partition_uuid(context, device, &uuid)) {
        builder_value(&builder, "uuid", uuid.bytes, uuid.length);
    } else {
        return;
    }
    builder_finish(&builder, ret);
}

void identity_of_block(struct probe_context *context, unsigned major, unsigned minor, int fd,
                       unsigned depth, char *ret)
{
    CLEANUP(block_device_close) struct block_device device = {.directory = -1, .disk = -1};
    char disk[IDENTITY_TEXT_BYTES_MAX + 1] = "";

    ret[0] = '\0';
    if (depth > IDENTITY_DEPTH_MAX || block_device_open(context, major, minor, &device) < 0) {
        return;
    }
    if (block_device_is_loop(&device)) {
        identity_of_loop(context, &device, fd, depth, disk);
    } else {
        identity_of_disk(context, device.disk, device.name, disk);
    }
    if (device.partition) {
        identity_of_partition(context, &device, disk, ret);
    } else {
        memcpy(ret, disk, strlen(disk) + 1);
    }
}
