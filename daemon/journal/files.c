/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The journal's files by their short names: "0", "1", "0.new", "1.new".
 */
#include "daemon/journal/internal.h"

#include <stdio.h>
#include <string.h>

static char *full_path(const struct journal_files *files, const char *name, struct error *error)
{
    char *path = NULL;

    if (asprintf(&path, "%s.%s", files->path, name) < 0) {
        error_set_errno(error, -ENOMEM, "cannot name journal segment %s", name);
        return NULL;
    }
    return path;
}

int journal_files_open(const struct journal_files *files, const char *name, bool create,
                       struct file **ret, struct error *error)
{
    CLEANUP_FREE char *path = full_path(files, name, error);

    if (!path) {
        return -ENOMEM;
    }
    return create ? file_system_create(files->system, path, ret, error)
                  : files->system->open(files->system, path, FILE_READ, ret, error);
}

int journal_files_rename(const struct journal_files *files, const char *from, const char *to,
                         struct error *error)
{
    CLEANUP_FREE char *path_from = full_path(files, from, error);
    CLEANUP_FREE char *path_to = full_path(files, to, error);

    return path_from && path_to ? file_system_rename(files->system, path_from, path_to, true, error)
                                : -ENOMEM;
}

int journal_files_unlink(const struct journal_files *files, const char *name, struct error *error)
{
    CLEANUP_FREE char *path = full_path(files, name, error);
    int r = path ? files->system->unlink(files->system, path) : -ENOMEM;

    return r < 0 && r != -ENOENT ? error_set_errno(error, r, "cannot remove %s", path) : 0;
}

int journal_files_sync(const struct journal_files *files, struct error *error)
{
    int r = files->system->sync_directory(files->system, files->path);

    return r < 0 ? error_set_errno(error, r, "cannot sync the directory of %s", files->path) : 0;
}
