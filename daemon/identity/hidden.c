/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Why a path may not be there for us while others see it: the service has mounts of its own.
 *
 * systemd's sandbox leaves its traces in the mount table: a /tmp that is "private" is a bind mount
 * of a folder named systemd-private-…, what is "inaccessible" is one of an empty folder made for
 * that, and a /dev of the service's own is a tmpfs with next to nothing in it.  The mount that a
 * path would be on tells which.  This is for the words of an error, so what cannot be read says
 * nothing.
 */
#include "daemon/identity/internal.h"
#include "proto/base/cleanup.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Whether @path is on or below @mount_point. */
static bool is_below(const char *path, const char *mount_point)
{
    size_t length = strlen(mount_point);

    return strcmp(mount_point, "/") == 0 || (strncmp(path, mount_point, length) == 0 &&
                                             (path[length] == '/' || path[length] == '\0'));
}

static const char *judge(const char *root, const char *mount_point)
{
    if (strstr(root, "/systemd-private-")) {
        return "PrivateTmp=";
    }
    if (strstr(root, "/systemd/inaccessible/")) {
        return "ProtectHome= or InaccessiblePaths=";
    }
    if (strcmp(mount_point, "/dev") == 0 && strstr(root, "/namespace-dev-")) {
        return "PrivateDevices=";
    }
    return NULL;
}

const char *identity_hidden(const char *mount_table, const char *path)
{
    CLEANUP_FREE char *line = NULL;
    const char *found = NULL;
    size_t size = 0, longest = 0;
    FILE *file = fopen(mount_table, "re");

    if (!file) {
        return NULL;
    }
    while (getline(&line, &size, file) >= 0) {
        /* ID PARENT MAJOR:MINOR ROOT MOUNT-POINT …; spaces are \040, and no service hides such. */
        char *rest = line, *fields[5];
        unsigned count = 0;
        while (count < 5 && (fields[count] = strsep(&rest, " \n"))) {
            count++;
        }
        if (count < 5 || !is_below(path, fields[4]) || strlen(fields[4]) < longest) {
            continue;
        }
        /* A later mount in the same place is on top. */
        longest = strlen(fields[4]);
        found = judge(fields[3], fields[4]);
    }
    (void)fclose(file);
    return found;
}
