/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Attributes of devices.  Drivers fill them with what a disk, a hypervisor or
 * a fabric said, so they may hold any bytes, and a file may be anything at all
 * where the root is not the kernel's.  A read is bounded, never blocks on a
 * FIFO, and gives a value whole or not at all: half a serial number would
 * make two disks equal.
 */
#include "daemon/identity/internal.h"
#include "proto/base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* As a page, the most that an attribute of text has; udev's entries have less. */
#define FILE_BYTES_MAX 16384

int sysfs_read(int directory, const char *name, void *buffer, size_t size, size_t *ret_length)
{
    CLEANUP_CLOSE int fd = openat(directory, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat st;
    size_t length = 0;
    char more;

    if (fd < 0 || fstat(fd, &st) < 0) {
        return -errno;
    }
    if (!S_ISREG(st.st_mode)) {
        return -EINVAL;
    }
    for (;;) {
        ssize_t n =
            length < size ? read(fd, (char *)buffer + length, size - length) : read(fd, &more, 1);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return -errno;
        }
        if (n == 0) {
            break;
        }
        if (length == size) {
            return -EFBIG;
        }
        length += (size_t)n;
    }
    *ret_length = length;
    return 0;
}

static bool blank(char c)
{
    return c == '\0' || c == ' ' || (c >= '\t' && c <= '\r');
}

/* Fields are padded with blanks (SCSI) or NULs (virtio), on either side. */
bool sysfs_take(const char *bytes, size_t length, struct sysfs_text *ret)
{
    while (length > 0 && blank(bytes[length - 1])) {
        length--;
    }
    while (length > 0 && blank(bytes[0])) {
        bytes++;
        length--;
    }
    if (length == 0 || length > SYSFS_TEXT_BYTES_MAX) {
        return false;
    }
    memcpy(ret->bytes, bytes, length);
    ret->bytes[length] = '\0';
    ret->length = length;
    return true;
}

bool sysfs_read_text(int directory, const char *name, struct sysfs_text *ret)
{
    char buffer[SYSFS_TEXT_BYTES_MAX + 1];
    size_t length;

    return sysfs_read(directory, name, buffer, sizeof buffer, &length) == 0 &&
           sysfs_take(buffer, length, ret);
}

bool sysfs_read_number(int directory, const char *name, uint64_t *ret)
{
    struct sysfs_text text;

    return sysfs_read_text(directory, name, &text) && parse_number(text.bytes, text.length, ret);
}

bool sysfs_read_line(int directory, const char *name, const char *prefix, struct sysfs_text *ret)
{
    char buffer[FILE_BYTES_MAX];
    size_t length;
    size_t prefix_length = strlen(prefix);

    if (sysfs_read(directory, name, buffer, sizeof buffer, &length) < 0) {
        return false;
    }
    for (const char *line = buffer, *end = buffer + length; line < end;) {
        const char *newline = memchr(line, '\n', (size_t)(end - line));
        size_t line_length = (size_t)((newline ? newline : end) - line);
        if (line_length >= prefix_length && memcmp(line, prefix, prefix_length) == 0) {
            return sysfs_take(line + prefix_length, line_length - prefix_length, ret);
        }
        line += line_length + 1;
    }
    return false;
}

bool udev_read_line(struct probe_context *context, const char *number, const char *prefix,
                    struct sysfs_text *ret)
{
    char path[64];

    if (context->udev < 0) {
        return false;
    }
    (void)snprintf(path, sizeof path, "data/b%s", number);
    if (faccessat(context->udev, path, F_OK, 0) < 0) {
        /* Where no udev runs there is no directory, and nothing will ever be told. */
        context->early = context->early || faccessat(context->udev, "data", F_OK, 0) == 0;
        return false;
    }
    return sysfs_read_line(context->udev, path, prefix, ret);
}
