/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_TESTS_DRIVE_ALLOC_FAULT_H
#define BITMAPD_TESTS_DRIVE_ALLOC_FAULT_H

#include <stdbool.h>

/*
 * Allocations of the code under test, in all threads, made to fail.  The
 * program is linked with --wrap for them; libraries' own are not seen.
 * Nothing is synced to the disk either, since nothing crashes in such a test.
 */

/* The allocation number @n from now on (1: the next) fails, with @all those after it too; 0: none.
 */
void alloc_arm(unsigned n, bool all);

/* The test's own allocations: they are not counted, and none fails. */
void alloc_pause(bool pause);

/* Whether something has failed since.  Memory is back if it has. */
bool alloc_was_hit(void);

#endif
