/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_TESTS_DRIVE_COLD_H
#define BITMAPD_TESTS_DRIVE_COLD_H

#include "tests/drive/past.h"

/*
 * Four checkpoints of drive "d" of 1 MiB, each with a pattern of bits of its own and one bit near
 * the end; with no cache, those that are sealed are in the container only.
 */
#define COLD_PATTERN_BYTES 16u

extern const char *const cold_names[4];

void cold_fill(struct harness *harness);
/* What the bits of the checkpoint with number @i begin with. */
void cold_pattern(unsigned i, uint8_t pattern[COLD_PATTERN_BYTES]);
/* Whether its bits are not in memory. */
bool cold_is(struct harness *harness, const char *name);

#endif
