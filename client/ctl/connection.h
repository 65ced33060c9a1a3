/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_CLIENT_CTL_CONNECTION_H
#define BITMAPD_CLIENT_CTL_CONNECTION_H

#include "client/ctl/verbs.h"
#include "client/lib/bitmapd.h"
#include "proto/base/cleanup.h"

DEFINE_CLEANUP(bitmapd *, bitmapd_close)
#define CLEANUP_CONNECTION CLEANUP(bitmapd_closep)

/*
 * Connects to the daemon.  Returns EXIT_DONE with the handle, which the
 * caller closes, or prints a diagnostic and returns the exit code.
 */
int connection_open(const struct invocation *invocation, bitmapd **ret);

/*
 * Turns the result of a request, 0 or -errno, into an exit code; for a
 * failure prints the handle's error as a diagnostic.
 */
int connection_result(bitmapd *handle, const struct invocation *invocation, int r);

/*
 * The same for a request that returns nothing: with success prints the empty
 * JSON object if JSON is asked for.
 */
int connection_done(bitmapd *handle, const struct invocation *invocation, int r);

/*
 * Checks that the invocation's range has an end in 64 bits; else it is past
 * the end of any drive, which is the refusal that the daemon would give.
 */
int connection_range(const struct invocation *invocation);

/* The words for -errno @r of the handle's last call; borrowed until the next. */
const char *connection_error(const bitmapd *handle, int r);

/* "drive add", "mark": how diagnostics begin; good until the next call. */
const char *connection_command(const struct invocation *invocation);

#endif
