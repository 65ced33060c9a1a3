/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_TESTS_DRIVE_GATE_H
#define BITMAPD_TESTS_DRIVE_GATE_H

#include "tests/drive/past.h"

/*
 * Gates in front of the steps of a union, which wait there until they are let through: what reads a
 * part on the container's thread, and what merges parts on libuv's pool.  Link with
 * --wrap=sealed_read,--wrap=bitmap_merge.
 */
enum gate {
    GATE_READ,
    GATE_MERGE,
    GATES,
};

void gates_open(void); /* all, for good; counts begin at 0 */
void gate_close(enum gate gate);
void gate_let(enum gate gate, unsigned count); /* so many more may pass */
unsigned gate_arrived(enum gate gate);         /* that pass or wait */
/* Runs the loop until so many have arrived. */
void gate_await(struct harness *harness, enum gate gate, unsigned count);

#endif
