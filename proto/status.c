/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The one table that ties status numbers, their names and the errnos of both
 * sides together.  The daemon's layers speak -errno, the wire speaks status,
 * the library speaks -errno again; whoever adds a failure adds it here.
 */
#include "proto/status.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>

struct status_row {
    const char *name;
    const char *text;
    int to_errno;
};

static const struct status_row rows[] = {
    [STATUS_OK] = {"ok", "Done", 0},
    [STATUS_MALFORMED] = {"malformed", "The request is not laid out as its operation demands",
                          -EPROTO},
    [STATUS_UNKNOWN_OPERATION] = {"unknown-operation", "The daemon does not know this operation",
                                  -EOPNOTSUPP},
    [STATUS_VERSION] = {"version", "Client and daemon have no protocol version in common",
                        -EPROTONOSUPPORT},
    [STATUS_INVALID] = {"invalid", "An argument is out of its range", -EINVAL},
    [STATUS_NOT_FOUND] = {"not-found", "No such drive, bitmap or checkpoint", -ENOENT},
    [STATUS_EXISTS] = {"exists", "The name is taken", -EEXIST},
    [STATUS_BUSY] = {"busy", "The object is in use", -EBUSY},
    [STATUS_PERMISSION] = {"permission", "Not permitted", -EPERM},
    [STATUS_LIMIT] = {"limit", "A limit of the daemon would be passed", -EDQUOT},
    [STATUS_NO_MEMORY] = {"no-memory", "The daemon is out of memory", -ENOMEM},
    [STATUS_IO] = {"io", "The daemon's storage fails", -EIO},
    [STATUS_NOT_DURABLE] = {"not-durable", "Applied, but not yet on stable storage", -EINPROGRESS},
    [STATUS_SHUTTING_DOWN] = {"shutting-down", "The daemon is shutting down", -ESHUTDOWN},
    [STATUS_FENCED] = {"fenced", "This writer's token has been taken away", -EOWNERDEAD},
    [STATUS_FAILED] = {"failed", "The request failed", -EREMOTEIO},
    [STATUS_OTHER_DRIVE] = {"other-drive", "Another drive stands under the path", -EXDEV},
};

static_assert(sizeof rows / sizeof rows[0] == STATUS_END, "every status has a row");

/* Errnos beyond those that the rows above give back. */
static const struct {
    int r;
    enum status status;
} synonyms[] = {
    {-ERANGE, STATUS_INVALID}, {-EACCES, STATUS_PERMISSION}, {-ENOSPC, STATUS_IO},
    {-EROFS, STATUS_IO},       {-EFBIG, STATUS_IO},
};

const char *status_name(uint8_t status)
{
    return status < STATUS_END ? rows[status].name : "unknown";
}

const char *status_text(uint8_t status)
{
    return status < STATUS_END ? rows[status].text : "Unknown status";
}

enum status status_from_errno(int r)
{
    for (int i = 0; i < STATUS_END; i++) {
        if (rows[i].to_errno == r) {
            return (enum status)i;
        }
    }
    for (size_t i = 0; i < sizeof synonyms / sizeof synonyms[0]; i++) {
        if (synonyms[i].r == r) {
            return synonyms[i].status;
        }
    }
    return STATUS_FAILED;
}

int status_to_errno(uint8_t status)
{
    return status < STATUS_END ? rows[status].to_errno : -EREMOTEIO;
}
