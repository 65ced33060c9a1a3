/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_IDENTITY_INTERNAL_H
#define BITMAPD_DAEMON_IDENTITY_INTERNAL_H

#include "daemon/identity/identity.h"

#include <stdbool.h>
#include <sys/stat.h>

/* Files on loop devices over files on …: deeper than this nothing is told. */
#define IDENTITY_DEPTH_MAX 6

struct probe_context {
    int sysfs;           /* directory; -1: none */
    int udev;            /* directory; -1: none */
    const char *boot_id; /* "": not known */
    bool early;          /* udev does not know a device yet that it was asked about */
};

/* ---- text.c: texts are put together here, so that they are printable and bounded ---- */

/* More than any text has: values are at most SYSFS_TEXT_BYTES_MAX before they are escaped. */
#define BUILDER_BYTES 16384

struct builder {
    size_t length;
    bool overflow;
    char text[BUILDER_BYTES];
};

void builder_init(struct builder *builder, const char *kind);
void builder_value(struct builder *builder, const char *key, const char *value, size_t length);
void builder_string(struct builder *builder, const char *key, const char *value);
void builder_number(struct builder *builder, const char *key, uint64_t value);
void builder_time(struct builder *builder, const char *key, const struct statx_timestamp *time);
/* " JOINT REST", where @rest is the text of another builder. */
void builder_nested(struct builder *builder, const char *joint, const char *rest);
/* @ret: IDENTITY_TEXT_BYTES_MAX + 1 bytes; "" after an overflow. */
void builder_finish(const struct builder *builder, char *ret);

/* Words, one after the other, cut at the buffer's end, which is always terminated. */
struct words {
    char *text;
    size_t size, length;
};

void words_init(struct words *words, char *text, size_t size);
void words_add(struct words *words, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* UTC, with @digits of the second (0, 3, 9). */
void words_add_time(struct words *words, int64_t seconds, uint32_t nanoseconds, int digits);

/* All digits, no sign, no overflow. */
bool parse_number(const char *text, size_t length, uint64_t *ret);
/* As builder_time() writes it. */
bool parse_time(const char *text, size_t length, int64_t *ret_seconds, uint32_t *ret_nanoseconds);

/* ---- sysfs.c: bounded reads of attributes ---- */

#define SYSFS_TEXT_BYTES_MAX 1024

struct sysfs_text {
    size_t length;
    char bytes[SYSFS_TEXT_BYTES_MAX + 1]; /* NUL after it; may have others in it */
};

/* The whole file, which must be a regular one.  -EFBIG: it does not fit. */
int sysfs_read(int directory, const char *name, void *buffer, size_t size, size_t *ret_length);
/* False: not there, or sysfs_take() makes nothing of it. */
bool sysfs_read_text(int directory, const char *name, struct sysfs_text *ret);
bool sysfs_read_number(int directory, const char *name, uint64_t *ret);
/* White space and NULs around it are taken off; false: nothing is left, or more than fits. */
bool sysfs_take(const char *bytes, size_t length, struct sysfs_text *ret);
/* The rest of the line that begins with @prefix, as sysfs_take() takes it. */
bool sysfs_read_line(int directory, const char *name, const char *prefix, struct sysfs_text *ret);

/*
 * The same from udev's database, of the block device MAJOR:MINOR.  Where that has nothing of the
 * device yet, context->early is set: an identity that is told now may be another afterwards.
 */
bool udev_read_line(struct probe_context *context, const char *number, const char *prefix,
                    struct sysfs_text *ret);

/* ---- file.c ---- */

int identity_statx(int fd, struct statx *ret);
/* @fd may be O_PATH.  @ret as for builder_finish(). */
void identity_of_file(struct probe_context *context, int fd, const struct statx *stx,
                      unsigned depth, char *ret);

/* ---- block.c ---- */

/* @fd: of the device itself, to ask a loop device what it is attached to; -1: not at hand. */
void identity_of_block(struct probe_context *context, unsigned major, unsigned minor, int fd,
                       unsigned depth, char *ret);

/* ---- disk.c: @disk is the disk's directory in sysfs, @name its name there ---- */

void identity_of_disk(struct probe_context *context, int disk, const char *name, char *ret);

/* ---- scsi.c: false, or the text as sysfs' wwid would have it ---- */

bool scsi_designator(const uint8_t *page, size_t length, struct sysfs_text *ret);

/* ---- block_device.c: where a device is in sysfs ---- */

struct block_device {
    int directory;
    int disk; /* directory of the whole disk; the same number when it is one */
    bool partition;
    char number[24]; /* MAJOR:MINOR */
    char name[64];   /* of the whole disk: "sda" */
};

int block_device_open(const struct probe_context *context, unsigned major, unsigned minor,
                      struct block_device *ret);
void block_device_close(struct block_device *device);
bool block_device_is_loop(const struct block_device *device);
/* What the loop device is attached to: an O_PATH descriptor, or -errno. */
int block_device_backing(const struct block_device *device, int fd, struct statx *ret_stx);

/* ---- evidence.c ---- */

void evidence_of_file(const struct statx *stx, struct drive_probe *ret);
void evidence_of_block(const struct probe_context *context, unsigned major, unsigned minor, int fd,
                       struct drive_probe *ret);

/* ---- hidden.c ---- */

/*
 * The option of the service's unit that hides @path, which is absolute, according to @mount_table
 * (proc(5)'s mountinfo); NULL when none seems to.
 */
const char *identity_hidden(const char *mount_table, const char *path);

#endif
