/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_CLIENT_CTL_MARK_H
#define BITMAPD_CLIENT_CTL_MARK_H

#include "client/lib/bitmapd.h"
#include "proto/base/error.h"

#include <stddef.h>

/*
 * Parses a line "OFFSET LENGTH" of `mark --stdin`: two sizes, blanks around
 * them.  @line has @bytes bytes, without the line's end.  -EINVAL with words.
 */
int mark_line_parse(const char *line, size_t bytes, struct bitmapd_range *ret, struct error *error);

#endif
