/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * `container compact`.  What it gains is what the file system says: the blocks
 * that the file has no more.
 */
#include "client/ctl/image.h"

#include "client/ctl/exit.h"
#include "client/ctl/text.h"
#include "proto/base/cleanup.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/stat.h>

#define STAT_BLOCK_BYTES 512u

static int disk_usage(int fd, uint64_t *ret, struct error *error)
{
    struct stat st;

    if (fstat(fd, &st) < 0) {
        return error_set_errno(error, -errno, "cannot tell how much room the file takes");
    }
    *ret = (uint64_t)st.st_blocks * STAT_BLOCK_BYTES;
    return 0;
}

struct outcome {
    struct container_compact_report report;
    uint64_t usage_before, usage_after; /* bytes */
};

static int compact(const char *path, struct outcome *ret, struct error *error)
{
    CLEANUP(file_closep) struct file *file = NULL;
    int fd;

    int r = image_open_locked(path, FILE_WRITE, true, &file, &fd, error);
    if (r < 0) {
        return r;
    }
    r = disk_usage(fd, &ret->usage_before, error);
    if (r == 0) {
        r = container_compact(file, &ret->report, error);
    }
    if (r == 0) {
        r = disk_usage(fd, &ret->usage_after, error);
    }
    return r < 0 ? error_prefix(error, r, "%s", path) : 0;
}

int image_compact(const struct invocation *inv)
{
    const char *path = inv->operands[0];
    struct outcome o = {0};
    struct error error = {.text = ""};

    int r = compact(path, &o, &error);
    if (r < 0) {
        return image_report("compact", r, &error);
    }
    uint64_t gained = o.usage_before > o.usage_after ? o.usage_before - o.usage_after : 0;
    if (inv->format == OUTPUT_HUMAN) {
        char text[TEXT_SIZE_BYTES];
        output_print("file size:      %" PRIu64 ", was %" PRIu64 "\n", o.report.size_after,
                     o.report.size_before);
        output_print("disk usage:     %" PRIu64 ", was %" PRIu64 "\n", o.usage_after,
                     o.usage_before);
        output_print("gained:         %" PRIu64 " (%s)\n", gained, text_size(gained, text));
    } else {
        json_object *object = output_json_new();
        output_json_add_string(object, "file", path);
        output_json_add_number(object, "file_size_before", o.report.size_before);
        output_json_add_number(object, "file_size", o.report.size_after);
        output_json_add_number(object, "disk_usage_before", o.usage_before);
        output_json_add_number(object, "disk_usage", o.usage_after);
        output_json_add_number(object, "gained", gained);
        output_json_print(object);
    }
    return EXIT_DONE;
}
