/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_TESTS_CONTAINER_SCRIPT_H
#define BITMAPD_TESTS_CONTAINER_SCRIPT_H

#include "tests/container/support.h"

/*
 * A workload of several commits that uses everything: adds, writes, zeroes,
 * renames, resizes, removals, enough clusters for new refcount blocks and, with
 * wide refcounts, for a new refcount table.  Step n's commit has the payload
 * "step n", so a container found after a crash says how far it came.
 */
#define SCRIPT_STEPS 8u

/* Does step @step (1 …) in a transaction of its own; aborts it on failure. */
int script_step(struct container *container, unsigned step, struct error *error);

/* The last step that the container has seen: 0 for none. */
unsigned script_seen(const struct container *container);

/* test_digest() of what each step leaves; [0] is the empty container's. */
void script_digests(struct simdisk *(*make)(uint64_t seed), uint64_t digests[SCRIPT_STEPS + 1]);

#endif
