/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_CLIENT_CTL_BITMAP_H
#define BITMAPD_CLIENT_CTL_BITMAP_H

#include <json-c/json_object.h>

/* "exact" and so on; a number that a newer daemon may send counts as "unknown". */
const char *bitmap_validity_name(int validity);

/*
 * Whether writing past the daemon is ruled out, which @untracked (of the
 * library) says why it is not: "ruled out" or "not ruled out: WHY", with WHY
 * as it came, good until the next call; and the same for JSON, as "untracked"
 * and, where there is one, "untracked_reason".
 */
const char *untracked_words(const char *untracked);
void untracked_add_json(json_object *object, const char *untracked);

/*
 * The parts of "DRIVE/NAME": returns NAME, borrowed from @full, and stores a
 * malloc()ed DRIVE, NULL when memory is out.
 */
const char *bitmap_name_split(const char *full, char **ret_drive);

#endif
