/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which disk it is, by what its driver tells in sysfs.  The kind goes by the
 * kernel's name of the disk, since attributes of one name mean different
 * things: "device/wwid" of a CD drive is not the medium's.
 *
 * What changes with an update (firmware revision) or can be renamed (a pool,
 * a mapping) is left out where there is anything else.
 */
#include "daemon/identity/internal.h"
#include "proto/base/cleanup.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

static void add(struct builder *builder, const char *key, const struct sysfs_text *text)
{
    builder_value(builder, key, text->bytes, text->length);
}

/* As some drivers write that there is none. */
static bool zeros(const struct sysfs_text *text)
{
    return strspn(text->bytes, "0-:. ") == text->length;
}

/* Takes @characters out of the text. */
static void squeeze(struct sysfs_text *text, const char *characters)
{
    size_t length = 0;

    for (size_t i = 0; i < text->length; i++) {
        if (!text->bytes[i] || !strchr(characters, text->bytes[i])) {
            text->bytes[length++] = text->bytes[i];
        }
    }
    text->bytes[length] = '\0';
    text->length = length;
}

static bool dm_disk(struct probe_context *context, int disk, const char *name,
                    struct builder *builder)
{
    struct sysfs_text uuid;

    (void)context;
    (void)name;
    if (!sysfs_read_text(disk, "dm/uuid", &uuid)) {
        return false; /* its name is anybody's to change */
    }
    builder_init(builder, "dm");
    add(builder, "uuid", &uuid);
    return true;
}

/*
 * The kernel's spelling has dashes, mdadm's colons (in udev's database); a kernel that has no
 * md/uuid must not make another array of it.
 */
static bool md_disk(struct probe_context *context, int disk, const char *name,
                    struct builder *builder)
{
    struct sysfs_text number, uuid;
    bool found = sysfs_read_text(disk, "md/uuid", &uuid) && !zeros(&uuid);

    (void)name;
    if (!found && sysfs_read_text(disk, "dev", &number) &&
        strspn(number.bytes, "0123456789:") == number.length && number.length < 24) {
        found = udev_read_line(context, number.bytes, "E:MD_UUID=", &uuid) && !zeros(&uuid);
    }
    if (!found) {
        return false;
    }
    squeeze(&uuid, "-:");
    builder_init(builder, "md");
    add(builder, "uuid", &uuid);
    return true;
}

/* Of an rbd device bus/rbd/devices/N is the one that is N in "rbdN". */
static bool rbd_disk(struct probe_context *context, int disk, const char *name,
                     struct builder *builder)
{
    static const struct {
        const char *attribute, *key;
        bool needed;
    } fields[] = {
        {"cluster_fsid", "cluster", true}, {"pool_id", "pool", true},
        {"pool_ns", "namespace", false},   {"image_id", "image", false},
        {"current_snap", "snap", true},
    };
    struct sysfs_text text;
    char path[64];
    uint64_t number;

    (void)disk;
    if (!parse_number(name + 3, strlen(name + 3), &number)) {
        return false;
    }
    (void)snprintf(path, sizeof path, "bus/rbd/devices/%s", name + 3);
    CLEANUP_CLOSE int directory = openat(context->sysfs, path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0) {
        return false;
    }
    builder_init(builder, "rbd");
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        if (sysfs_read_text(directory, fields[i].attribute, &text)) {
            add(builder, fields[i].key, &text);
        } else if (fields[i].needed) {
            return false;
        } else if (strcmp(fields[i].key, "image") == 0) {
            /* Images of format 1 have no id. */
            if (!sysfs_read_text(directory, "name", &text)) {
                return false;
            }
            add(builder, "image-name", &text);
        }
    }
    return true;
}

static bool nvme_wwid(int disk, struct sysfs_text *ret)
{
    static const struct {
        const char *attribute, *prefix;
    } ways[] = {{"uuid", "uuid."}, {"nguid", "eui."}, {"eui", "eui."}};
    struct sysfs_text text;

    if (sysfs_read_text(disk, "wwid", ret) && !zeros(ret)) {
        return true;
    }
    /* What the kernel makes its wwid of, in its order and spelling. */
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        if (sysfs_read_text(disk, ways[i].attribute, &text) && !zeros(&text)) {
            if (i > 0) {
                squeeze(&text, "- ");
            }
            int n = snprintf(ret->bytes, sizeof ret->bytes, "%s%s", ways[i].prefix, text.bytes);
            ret->length = (size_t)n;
            return ret->length < sizeof ret->bytes && strlen(text.bytes) == text.length;
        }
    }
    return false;
}

static bool nvme_disk(struct probe_context *context, int disk, const char *name,
                      struct builder *builder)
{
    struct sysfs_text wwid, model, serial, nsid;

    (void)context;
    (void)name;
    builder_init(builder, "nvme");
    if (nvme_wwid(disk, &wwid)) {
        add(builder, "wwid", &wwid);
        return true;
    }
    if (!sysfs_read_text(disk, "device/model", &model) ||
        !sysfs_read_text(disk, "device/serial", &serial) || !sysfs_read_text(disk, "nsid", &nsid)) {
        return false;
    }
    add(builder, "model", &model);
    add(builder, "serial", &serial);
    add(builder, "nsid", &nsid);
    return true;
}

static bool virtio_disk(struct probe_context *context, int disk, const char *name,
                        struct builder *builder)
{
    struct sysfs_text serial;

    (void)context;
    (void)name;
    if (!sysfs_read_text(disk, "serial", &serial)) {
        return false;
    }
    builder_init(builder, "virtio");
    add(builder, "serial", &serial);
    return true;
}

/* Boot areas and the like are disks of their own, of one card. */
static bool mmc_disk(struct probe_context *context, int disk, const char *name,
                     struct builder *builder)
{
    struct sysfs_text cid;
    const char *area = name + strlen("mmcblk");

    (void)context;
    area += strspn(area, "0123456789");
    if (!sysfs_read_text(disk, "device/cid", &cid) || zeros(&cid)) {
        return false;
    }
    builder_init(builder, "mmc");
    add(builder, "cid", &cid);
    builder_string(builder, "area", *area ? area : "main");
    return true;
}

static bool scsi_wwid(int disk, struct sysfs_text *ret)
{
    uint8_t page[4096];
    size_t length;

    if (!sysfs_read_text(disk, "device/wwid", ret) &&
        (sysfs_read(disk, "device/vpd_pg83", page, sizeof page, &length) < 0 ||
         !scsi_designator(page, length, ret))) {
        return false;
    }
    return ret->length <= 4 || strspn(ret->bytes + 4, "0") != ret->length - 4;
}

/* Page 0x80, the unit's serial number: a header of 4 bytes with the length at its end. */
static bool scsi_serial(int disk, struct sysfs_text *ret)
{
    char page[512];
    size_t length;

    if (sysfs_read(disk, "device/vpd_pg80", page, sizeof page, &length) < 0 || length < 4 ||
        (uint8_t)page[1] != 0x80) {
        return false;
    }
    size_t told = (size_t)(uint8_t)page[2] << 8 | (uint8_t)page[3];
    return told <= length - 4 && sysfs_take(page + 4, told, ret);
}

static bool scsi_disk(struct probe_context *context, int disk, const char *name,
                      struct builder *builder)
{
    struct sysfs_text wwid, vendor, model, serial;

    (void)context;
    (void)name;
    builder_init(builder, "scsi");
    if (scsi_wwid(disk, &wwid)) {
        add(builder, "wwid", &wwid);
        return true;
    }
    /* Without a serial all disks of a model are one. */
    if (!sysfs_read_text(disk, "device/vendor", &vendor) ||
        !sysfs_read_text(disk, "device/model", &model) || !scsi_serial(disk, &serial) ||
        zeros(&serial)) {
        return false;
    }
    add(builder, "vendor", &vendor);
    add(builder, "model", &model);
    add(builder, "serial", &serial);
    return true;
}

void identity_of_disk(struct probe_context *context, int disk, const char *name, char *ret)
{
    static const struct {
        const char *prefix;
        bool (*tell)(struct probe_context *context, int disk, const char *name,
                     struct builder *builder);
    } drivers[] = {
        {"dm-", dm_disk},    {"md", md_disk},      {"rbd", rbd_disk}, {"nvme", nvme_disk},
        {"vd", virtio_disk}, {"mmcblk", mmc_disk}, {"sd", scsi_disk},
    };
    struct builder builder;

    ret[0] = '\0';
    for (size_t i = 0; i < sizeof drivers / sizeof drivers[0]; i++) {
        if (strncmp(name, drivers[i].prefix, strlen(drivers[i].prefix)) == 0) {
            if (drivers[i].tell(context, disk, name, &builder)) {
                builder_finish(&builder, ret);
            }
            return;
        }
    }
}
