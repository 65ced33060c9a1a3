/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_TESTS_BITMAP_ALLOC_FAULT_H
#define BITMAPD_TESTS_BITMAP_ALLOC_FAULT_H

#include <stdint.h>

/*
 * Heap allocations of the code under test, counted and made to fail.  The
 * program is linked with --wrap for malloc, calloc and realloc; the C library's
 * and cmocka's own allocations are not seen.
 */

/* The allocation number @n from now on (1: the next) and all after it fail; 0: none. */
void alloc_fail_from(uint64_t n);

/* Allocations asked for since the last call, failed ones included. */
uint64_t alloc_count(void);

#endif
