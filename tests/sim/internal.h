/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_TESTS_SIM_INTERNAL_H
#define BITMAPD_TESTS_SIM_INTERNAL_H

/* Shared by world.c, process.c and judge.c. */

#include "tests/sim/world.h"

extern const char *const drive_names[DRIVES];

uint64_t world_below(struct world *world, uint64_t n);
struct text world_text(const char *string);
struct drive *world_drive(struct model *model, unsigned d); /* NULL: none */
struct drive_bitmap *world_bitmap(struct model *model, unsigned d, unsigned b);
void spot_note(struct spot *spot, uint64_t sequence, bool dirty);
bool shadow_exists(const struct shadow *shadow); /* as last asked for */
int process_stop(struct process *process);       /* its writers are gone; what model_close() told */
void process_at_call(void *process);             /* the directory's hook */
/* The client is told in time. */
void world_wait(struct world *world, uint64_t sequence, enum ack_level level);

#endif
