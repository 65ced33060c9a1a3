/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_CLIENT_CTL_HELP_H
#define BITMAPD_CLIENT_CTL_HELP_H

#include "client/ctl/verbs.h"

/* Prints the help of @verb, or with @verb NULL of all verbs of @noun, or with both NULL of all. */
void help_print(const char *noun, const struct verb *verb);

#endif
