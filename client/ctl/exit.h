/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_CLIENT_CTL_EXIT_H
#define BITMAPD_CLIENT_CTL_EXIT_H

/* What scripts see.  `container check` has codes of its own: see container.c. */
enum exit_code {
    EXIT_DONE = 0,
    EXIT_FAILED = 1,
    EXIT_USAGE = 2,
    EXIT_UNREACHABLE = 3,
    EXIT_NOT_FOUND = 4,
    EXIT_BUSY = 5,    /* or exists */
    EXIT_UNKNOWN = 6, /* the validity: take a full backup */
    EXIT_NOT_PERMITTED = 7,
    EXIT_MISSED = 8, /* `verify` has found a change that is not dirty */
};

/*
 * The code for -errno @r of a request; @status is bitmapd_status_code(), which tells an argument
 * that the library refused (usage) from one that the daemon refused (failed).
 */
enum exit_code exit_from_request(int r, int status);

/* The code for -errno @r of bitmapd_connect(). */
enum exit_code exit_from_connect(int r, int status);

/* The code for -errno @r of something done with a local file. */
enum exit_code exit_from_file(int r);

#endif
