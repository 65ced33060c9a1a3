/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Gates that hold up threads of the model, so that a test can do something between two steps.
 */
#include "tests/drive/gate.h"

#include "daemon/drive/internal.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t moved = PTHREAD_COND_INITIALIZER;

static struct {
    bool closed;
    unsigned arrived, passed, allowed;
} gates[GATES];

static void pass(enum gate gate)
{
    pthread_mutex_lock(&lock);
    gates[gate].arrived++;
    while (gates[gate].closed && gates[gate].passed >= gates[gate].allowed) {
        pthread_cond_wait(&moved, &lock);
    }
    gates[gate].passed++;
    pthread_mutex_unlock(&lock);
}

int __real_sealed_read(struct container *container, uint64_t id, uint64_t size,
                       uint32_t granularity, uint32_t chunk_bytes, struct bitmap **ret,
                       struct error *error);
int __wrap_sealed_read(struct container *container, uint64_t id, uint64_t size,
                       uint32_t granularity, uint32_t chunk_bytes, struct bitmap **ret,
                       struct error *error);
int __real_bitmap_merge(struct bitmap *target, const struct bitmap *source, uint64_t version);
int __wrap_bitmap_merge(struct bitmap *target, const struct bitmap *source, uint64_t version);

int __wrap_sealed_read(struct container *container, uint64_t id, uint64_t size,
                       uint32_t granularity, uint32_t chunk_bytes, struct bitmap **ret,
                       struct error *error)
{
    pass(GATE_READ);
    return __real_sealed_read(container, id, size, granularity, chunk_bytes, ret, error);
}

/* Of those on the container's thread, which has a name, and on the loop nothing is held up. */
int __wrap_bitmap_merge(struct bitmap *target, const struct bitmap *source, uint64_t version)
{
    char name[16] = "";

    if (pthread_getname_np(pthread_self(), name, sizeof name) == 0 && gettid() != getpid() &&
        strcmp(name, "container") != 0) {
        pass(GATE_MERGE);
    }
    return __real_bitmap_merge(target, source, version);
}

void gates_open(void)
{
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < GATES; i++) {
        gates[i].closed = false;
        gates[i].arrived = gates[i].passed = gates[i].allowed = 0;
    }
    pthread_cond_broadcast(&moved);
    pthread_mutex_unlock(&lock);
}

void gate_close(enum gate gate)
{
    pthread_mutex_lock(&lock);
    gates[gate].closed = true;
    gates[gate].arrived = gates[gate].passed = gates[gate].allowed = 0;
    pthread_mutex_unlock(&lock);
}

void gate_let(enum gate gate, unsigned count)
{
    pthread_mutex_lock(&lock);
    gates[gate].allowed += count;
    pthread_cond_broadcast(&moved);
    pthread_mutex_unlock(&lock);
}

unsigned gate_arrived(enum gate gate)
{
    pthread_mutex_lock(&lock);
    unsigned arrived = gates[gate].arrived;
    pthread_mutex_unlock(&lock);
    return arrived;
}

void gate_await(struct harness *harness, enum gate gate, unsigned count)
{
    while (gate_arrived(gate) < count) {
        (void)uv_run(&harness->loop, UV_RUN_NOWAIT);
        (void)usleep(100);
    }
}
