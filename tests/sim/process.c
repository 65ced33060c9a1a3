/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One daemon: how it starts on a directory, stops, and is killed.
 */
#include "tests/sim/internal.h"

#define SEGMENT_BYTES (UINT64_C(64) << 10) /* small, so that they are reused often */

void process_at_call(void *opaque)
{
    struct process *process = opaque;

    if (process->at_call) {
        process->at_call(process);
    }
    sim_yield(process->sim);
}

void process_init(struct process *process, struct simdir *dir, uint32_t cluster_bits, uint64_t seed)
{
    uint64_t random = seed;
    uint64_t cache = simdisk_random(&random) % 3, retention = simdisk_random(&random) % 3;

    simdir_forget(dir);
    *process = (struct process){
        .random = seed,
        .dir = dir,
        .settings =
            {
                .files = simdir_files(dir),
                .boot_id = {1},
                .container_path = "c/c",
                .cluster_bits = cluster_bits,
                .journal_path = "j/j",
                .memory_path = SIMDIR_MEMORY "m",
                .journal_segment_bytes = SEGMENT_BYTES,
                .flush_interval_ns = UINT64_C(5000000000),
                .flush_dirty_limit = UINT64_MAX,
                .granularity = 512,
                .durability = DURABILITY_POWER_LOSS,
                .drives_max = 10,
                .bitmaps_max = 100,
                /* Nothing, a bitmap or two, everything. */
                .cache_max = cache == 0   ? 0
                             : cache == 1 ? 1500
                                          : 1 << 20,
                .retention_count = retention == 0 ? 4 : 0,
                .unsettled_max = 1000,
            },
    };
}

int process_start(struct process *process, struct error *error)
{
    process->sim = sim_new(simdisk_random(&process->random));
    simdir_watch(process->dir, process_at_call, process);
    int r = model_open(sim_loop(process->sim), &process->settings, 0, &process->model, error);
    if (r < 0) {
        process->model = NULL;
        sim_free(process->sim);
        process->sim = NULL;
    }
    return r;
}

static void closed(void *opaque, int r)
{
    *(int *)opaque = r;
}

int process_stop(struct process *process)
{
    int result = 1;

    if (!process->model) {
        return 0;
    }
    model_close(process->model, closed, &result);
    while (result == 1) {
        if (!sim_step(process->sim)) {
            assert_true(sim_pass_time(process->sim));
        }
    }
    while (sim_step(process->sim)) {
    }
    sim_free(process->sim);
    process->sim = NULL;
    process->model = NULL;
    return result;
}

/* The memory of a process that is gone has to be freed all the same, and writes nothing any more.
 */
void process_kill(struct process *process)
{
    process->at_call = NULL;
    simdir_kill(process->dir);
    (void)process_stop(process);
    simdir_free(process->dir);
}
