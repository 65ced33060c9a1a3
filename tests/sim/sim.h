/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_TESTS_SIM_SIM_H
#define BITMAPD_TESTS_SIM_SIM_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

/*
 * A process in which nothing happens by itself: an event loop with a clock of
 * its own, and workers that are coroutines.  Whose turn it is, one random number decides,
 * so that a seed repeats a run, interleavings of the threads' disk calls included.
 *
 * loop.c and worker.c define the functions of libuv and of daemon/base/worker.h
 * that the model uses; a program that links them has no others.  Processes
 * may be nested: one can be run to its end in the middle of another's disk call.
 */
struct sim;

struct sim *sim_new(uint64_t seed);
void sim_free(struct sim *sim); /* all handles are closed */
uv_loop_t *sim_loop(struct sim *sim);

/* One turn of the loop, or one step of a worker up to its next disk call.  False: nobody has
 * anything to do before some time has passed. */
bool sim_step(struct sim *sim);
/* To the next timer.  False: there is none. */
bool sim_pass_time(struct sim *sim);
/* For the directory's hook: a worker of @sim that makes a disk call lets others go first. */
void sim_yield(struct sim *sim);

/* ---- Between loop.c and worker.c ---- */

uint64_t sim_random(struct sim *sim);
struct sim *sim_of(const uv_loop_t *loop);
/* Whether a worker has something to do, by number; and a step of it. */
unsigned sim_workers_ready(struct sim *sim);
void sim_worker_step(struct sim *sim, unsigned ready);
/* Calls done() of what has run; whether there was any. */
bool sim_workers_report(struct sim *sim);
struct sim_workers *sim_get_workers(struct sim *sim);
/* Calls @fn in a turn of the loop. */
void sim_later(struct sim *sim, void (*fn)(void *opaque), void *opaque);

struct sim_workers *sim_workers_new(struct sim *sim);
void sim_workers_free(struct sim_workers *workers);

#endif
