/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The journal's files through the kernel: PATH.0, PATH.1 and their temporary
 * names.
 *
 * A file is replaced by removing it and making another, never by truncating it:
 * whoever still has the old one open keeps what was in it.
 */
#include "daemon/journal/internal.h"

#include <stdio.h>
#include <string.h>

static char *full_path(void *opaque, const char *name)
{
    char *path = NULL;

    return asprintf(&path, "%s.%s", (const char *)opaque, name) < 0 ? NULL : path;
}

static int posix_open(void *opaque, const char *name, bool create, struct file **ret,
                      struct error *error)
{
    CLEANUP_FREE char *path = full_path(opaque, name);
    int r;

    if (!path) {
        return error_set_errno(error, -ENOMEM, "cannot open journal segment %s", name);
    }
    if (create && unlink(path) < 0 && errno != ENOENT) {
        r = -errno;
        return error_set_errno(error, r, "cannot replace %s", path);
    }
    return file_open_posix(path, create ? FILE_CREATE : FILE_READ, ret, NULL, error);
}

static int posix_rename(void *opaque, const char *from, const char *to, struct error *error)
{
    CLEANUP_FREE char *path_from = full_path(opaque, from);
    CLEANUP_FREE char *path_to = full_path(opaque, to);
    int r;

    if (!path_from || !path_to) {
        return error_set_errno(error, -ENOMEM, "cannot rename journal segment %s", from);
    }
    if (rename(path_from, path_to) < 0) {
        r = -errno;
        return error_set_errno(error, r, "cannot rename %s to %s", path_from, path_to);
    }
    r = file_sync_directory(path_to);
    if (r < 0) {
        return error_set_errno(error, r, "cannot sync the directory of %s", path_to);
    }
    return 0;
}

void journal_files_posix(const char *path, struct journal_files *ret)
{
    ret->open = posix_open;
    ret->rename = posix_rename;
    ret->opaque = (void *)(uintptr_t)path; /* only ever read */
}
