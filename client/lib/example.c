/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A whole writer: marks a range of a drive, writes it, makes it stable and
 * settles the mark; then prints what is dirty in a bitmap.
 *
 *     bitmapd-example DRIVE FILE OFFSET TEXT BITMAP
 *
 * An installed library is used the same way, with <bitmapd.h> and -lbitmapd.
 */
#include "client/lib/bitmapd.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int fail(bitmapd *handle, const char *what)
{
    fprintf(stderr, "bitmapd-example: %s: %s\n", what, bitmapd_error(handle));
    return -1;
}

static int sync_file(int fd)
{
    if (fdatasync(fd) < 0) {
        perror("bitmapd-example: fdatasync");
        return -1;
    }
    return 0;
}

/* The order is everything: mark, write, make stable, settle. */
static int write_marked(bitmapd *handle, uint64_t drive, int fd, uint64_t offset, const char *text)
{
    const struct bitmapd_range range = {.offset = offset, .length = strlen(text)};
    uint64_t mark;

    if (bitmapd_mark(handle, drive, &range, 1, &mark) < 0) {
        return fail(handle, "mark"); /* and nothing may be written */
    }
    /* From here on a failure leaves the mark unsettled: what is on the drive is not known. */
    if (pwrite(fd, text, range.length, (off_t)offset) != (ssize_t)range.length) {
        perror("bitmapd-example: pwrite");
        return -1;
    }
    if (sync_file(fd) < 0) {
        return -1;
    }
    return bitmapd_settle(handle, drive, mark, 1) < 0 ? fail(handle, "settle") : 0;
}

static int write_attached(bitmapd *handle, const char *name, int fd, uint64_t offset,
                          const char *text)
{
    uint64_t drive;
    bool resuming;

    if (bitmapd_attach(handle, name, "example", 0, &drive, NULL, &resuming) < 0) {
        return fail(handle, "attach");
    }
    if (resuming) {
        /* An earlier run was cut off.  Its writes are vouched for before they are forgotten. */
        if (sync_file(fd) < 0) {
            return -1;
        }
        if (bitmapd_resume(handle, drive) < 0) {
            return fail(handle, "resume");
        }
    }
    if (write_marked(handle, drive, fd, offset, text) < 0) {
        return -1;
    }
    /* Sends the settle first. */
    return bitmapd_detach(handle, drive) < 0 ? fail(handle, "detach") : 0;
}

static void print_head(void *opaque, const struct bitmapd_map *map)
{
    (void)opaque;
    printf("%s\n",
           map->validity == BITMAPD_UNKNOWN ? "unknown: all counts as dirty" : "dirty ranges:");
}

static void print_runs(void *opaque, const struct bitmapd_range *runs, size_t count)
{
    (void)opaque;
    for (size_t i = 0; i < count; i++) {
        printf("%" PRIu64 " %" PRIu64 "\n", runs[i].offset, runs[i].length);
    }
}

int main(int argc, char **argv)
{
    static const struct bitmapd_map_callbacks callbacks = {.head = print_head, .runs = print_runs};

    if (argc != 6) {
        fprintf(stderr, "usage: bitmapd-example DRIVE FILE OFFSET TEXT BITMAP\n");
        return 2;
    }
    int fd = open(argv[2], O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
        perror(argv[2]);
        return 1;
    }
    bitmapd *handle = bitmapd_new();
    if (handle == NULL) {
        perror("bitmapd-example");
        close(fd);
        return 1;
    }
    int r = bitmapd_set_reconnect_timeout(handle, 25);
    r = r < 0 ? r : bitmapd_connect(handle, NULL);
    if (r < 0) {
        (void)fail(handle, "connect");
    } else {
        r = write_attached(handle, argv[1], fd, strtoull(argv[3], NULL, 10), argv[4]);
    }
    /* What was printed counts only when this succeeds. */
    if (r == 0 && bitmapd_map(handle, argv[5], 0, &callbacks, NULL, NULL) < 0) {
        r = fail(handle, "map");
    }
    bitmapd_close(handle);
    close(fd);
    return r < 0 || fflush(stdout) != 0;
}
