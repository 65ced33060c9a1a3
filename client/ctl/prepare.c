/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * `container create --internal`: a qcow2 image with a disk of its own gets room
 * for bitmaps.
 *
 * The image is the user's, not ours: it is locked as QEMU would lock it, and
 * whatever goes wrong, it is neither removed nor cut.
 */
#include "daemon/container/container.h"

#include "client/ctl/exit.h"
#include "client/ctl/text.h"
#include "client/ctl/verbs.h"
#include "proto/base/cleanup.h"

static int prepare(const char *path, struct container_info *ret, struct error *error)
{
    CLEANUP(file_closep) struct file *file = NULL;
    static const struct uuid no_boot;
    struct file_identity identity;
    int fd;

    int r = file_open_posix(path, FILE_WRITE, &file, &fd, error);
    if (r < 0) {
        return r;
    }
    r = container_lock(fd, true, error);
    if (r == 0) {
        r = file_identity(fd, &identity);
        if (r < 0) {
            (void)error_set_errno(error, r, "cannot tell the file's identity");
        }
    }
    if (r == 0) {
        r = container_adopt(file, &no_boot, &identity, ret, error);
    }
    return r < 0 ? error_prefix(error, r, "%s", path) : 0;
}

int image_prepare(const struct invocation *inv)
{
    const char *path = inv->operands[0];
    struct container_info info;
    struct error error = {.text = ""};
    char uuid[TEXT_UUID_BYTES];
    char size[TEXT_SIZE_BYTES];

    int r = prepare(path, &info, &error);
    if (r < 0) {
        output_diagnostic("container create: %s", error.text);
        return exit_from_file(r);
    }
    (void)text_uuid(info.uuid.bytes, uuid);
    if (inv->format == OUTPUT_HUMAN) {
        output_print("prepared image %s as a container: cluster size %s, UUID %s\n",
                     output_text(path), text_size(info.cluster_size, size), uuid);
    } else {
        json_object *object = output_json_new();
        output_json_add_string(object, "file", path);
        output_json_add_number(object, "cluster_size", info.cluster_size);
        output_json_add_string(object, "uuid", uuid);
        output_json_print(object);
    }
    return EXIT_DONE;
}
