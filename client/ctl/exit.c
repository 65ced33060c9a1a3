/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The one place that turns failures into exit codes.  Scripts branch on these
 * numbers (take a full backup, retry later, give up), so the same cause must
 * give the same number whichever verb meets it.
 */
#include "client/ctl/exit.h"

#include <errno.h>

enum exit_code exit_from_request(int r, int status)
{
    switch (-r) {
    case 0:
        return EXIT_DONE;
    case EINVAL:
        return status == 0 ? EXIT_USAGE : EXIT_FAILED;
    case ENOTCONN:
    case ECONNREFUSED:
    case ESHUTDOWN:
        return EXIT_UNREACHABLE;
    case ENOENT:
        return EXIT_NOT_FOUND;
    case EEXIST:
    case EBUSY:
        return EXIT_BUSY;
    case EPERM:
    case EACCES:
        return EXIT_NOT_PERMITTED;
    default:
        return EXIT_FAILED;
    }
}

enum exit_code exit_from_connect(int r, int status)
{
    /* The daemon answered, and said no. */
    if (status != 0) {
        return exit_from_request(r, status);
    }
    switch (-r) {
    case 0:
        return EXIT_DONE;
    case EPERM:
    case EACCES:
        return EXIT_NOT_PERMITTED;
    /* The socket's path cannot be one. */
    case EINVAL:
    case ENAMETOOLONG:
        return EXIT_USAGE;
    case EPROTO:
    case ENOMEM:
    case EMFILE:
    case ENFILE:
        return EXIT_FAILED;
    default:
        return EXIT_UNREACHABLE;
    }
}

enum exit_code exit_from_file(int r)
{
    switch (-r) {
    case 0:
        return EXIT_DONE;
    case EEXIST:
    case EBUSY:
        return EXIT_BUSY;
    case EPERM:
    case EACCES:
        return EXIT_NOT_PERMITTED;
    default:
        return EXIT_FAILED;
    }
}
