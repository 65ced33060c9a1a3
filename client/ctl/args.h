/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_CLIENT_CTL_ARGS_H
#define BITMAPD_CLIENT_CTL_ARGS_H

#include "client/ctl/verbs.h"
#include "proto/base/error.h"

enum args_result {
    ARGS_RUN,  /* the invocation is complete */
    ARGS_HELP, /* of the invocation's verb, or of @ret_noun, or of all */
    ARGS_VERSION,
    ARGS_USAGE, /* wrong: the error says what, and the invocation's verb is set if it is known */
};

/*
 * Parses the command line.  Options may stand anywhere before "--"; names are
 * taken in full, never abbreviated, so that a new option cannot break an old
 * script.  @ret_noun: the noun when it is known but no verb, else NULL.
 * Strings stay borrowed from @argv.  Free with invocation_deinit() whatever
 * the result.
 */
enum args_result args_parse(int argc, char *const *argv, struct invocation *ret,
                            const char **ret_noun, struct error *error);

void invocation_deinit(struct invocation *invocation);

#endif
