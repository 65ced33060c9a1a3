/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_TESTS_CONTAINER_HOSTILE_H
#define BITMAPD_TESTS_CONTAINER_HOSTILE_H

#include "tests/common/layout.h"
#include "tests/container/support.h"

/*
 * A sound container to damage, and what its parts are.  Made once for all tests
 * of a program, as cmocka's group setup.
 */
#define CLUSTER 512u
#define N       3u /* bitmaps: ids 1 to 3, 70 clusters of bits each */

extern uint64_t seed;
extern uint8_t *image;
extern uint64_t image_bytes;
extern uint64_t digests[N]; /* of its bitmaps */

/* Where things are in it. */
extern uint64_t at_table, at_state, at_mirror, at_l1[N], at_bits;

int hostile_make_image(void **state);
int hostile_free_image(void **state);

/* A number for name, geometry and bits of one bitmap; says whether they can be believed. */
uint64_t hostile_digest(struct container *c, uint32_t index, bool *ret_good);

/*
 * Repairs a copy of the disk: false when that is refused, with nothing written.
 * Else the check finds nothing any more, a second repair has nothing to do, and
 * whatever the container then says without a reservation is what was written
 * (@sealed: not asked).  The disk is kept in *ret when it is not NULL.
 */
bool hostile_repair(const uint8_t *bytes, uint64_t size, bool sealed, const char *what,
                    struct simdisk **ret);

/* Writes to, and removes, whatever can be named: any refusal is fine, a crash is not. */
void hostile_write_to_all(struct container *c);

#endif
