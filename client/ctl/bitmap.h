/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_CLIENT_CTL_BITMAP_H
#define BITMAPD_CLIENT_CTL_BITMAP_H

/* "exact" and so on; a number that a newer daemon may send counts as "unknown". */
const char *bitmap_validity_name(int validity);

/*
 * The parts of "DRIVE/NAME": returns NAME, borrowed from @full, and stores a
 * malloc()ed DRIVE, NULL when memory is out.
 */
const char *bitmap_name_split(const char *full, char **ret_drive);

#endif
