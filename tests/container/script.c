/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The workload of script.h, step by step.
 */
#include "tests/container/script.h"

#include <stdio.h>
#include <stdlib.h>

#define TRY(call)          \
    do {                   \
        int try_ = (call); \
        if (try_ < 0) {    \
            return try_;   \
        }                  \
    } while (0)

static int write_one(struct container_txn *txn, uint64_t id, uint32_t l1_index, uint32_t generation,
                     struct error *error)
{
    uint8_t bytes[512];

    test_pattern(bytes, sizeof bytes, id, l1_index, generation);
    return container_txn_write(txn, id, l1_index, bytes, sizeof bytes, error);
}

/* @scale: clusters are so many times 512 bytes, and so the bitmaps must be larger. */
static int step_body(struct container_txn *t, unsigned step, uint64_t scale, struct error *e)
{
    switch (step) {
    case 1:
        TRY(container_txn_add(t, 1, "vm1/a", 512, 100 * 4096 * scale, e));
        TRY(container_txn_add(t, 2, "vm1/b", 4096, UINT64_C(8) * 4096 * 3 * scale, e));
        TRY(container_txn_add(t, 3, "vg0/lv1/backup", 65536, 1000, e));
        TRY(write_one(t, 1, 0, 1, e));
        TRY(write_one(t, 1, 99, 1, e));
        return 0;
    case 2:
        TRY(write_one(t, 1, 0, 2, e));
        TRY(write_one(t, 1, 5, 2, e));
        TRY(container_txn_zero(t, 1, 5, e));
        TRY(write_one(t, 2, 1, 2, e));
        return write_one(t, 1, 99, 2, e);
    case 3: /* two names change places; a bitmap shrinks, another grows */
        TRY(container_txn_update(t, 1, "tmp", 0, e));
        TRY(container_txn_update(t, 2, "vm1/a", 0, e));
        TRY(container_txn_update(t, 1, "vm1/b", 50 * 4096 * scale, e));
        TRY(container_txn_update(t, 2, NULL, UINT64_C(8) * 4096 * 90 * scale, e));
        return write_one(t, 2, 80, 3, e);
    case 4: /* more clusters than one refcount block of any width counts */
        for (uint64_t id = 10; id < 10 + 150; id++) {
            char name[32];
            (void)snprintf(name, sizeof name, "many/%u", (unsigned)id);
            TRY(container_txn_add(t, id, name, 512, 4096 * scale, e));
            TRY(write_one(t, id, 0, 4, e));
        }
        return 0;
    case 5:
        TRY(container_txn_remove(t, 3, e));
        for (uint64_t id = 10; id < 10 + 140; id++) {
            TRY(container_txn_remove(t, id, e));
        }
        return write_one(t, 1, 1, 5, e);
    case 6: /* into what step 5 freed */
        for (uint32_t i = 0; i < 50; i++) {
            TRY(write_one(t, 1, i, 6, e));
        }
        return 0;
    case 7: /* nothing but metadata */
        return 0;
    case 8:
        TRY(container_txn_zero(t, 1, 3, e));
        TRY(container_txn_add(t, 500, "last", 512, 4096 * 3 * scale, e));
        return write_one(t, 500, 2, 8, e);
    default:
        abort();
    }
}

int script_step(struct container *container, unsigned step, struct error *error)
{
    struct container_txn *txn;
    char state[32];
    int r = container_begin(container, &txn, error);

    if (r < 0) {
        return r;
    }
    (void)snprintf(state, sizeof state, "step %u", step);
    struct container_info info;
    container_get_info(container, &info);
    r = step_body(txn, step, info.cluster_size / 512, error);
    if (r == 0) {
        r = test_commit(txn, state, error);
    }
    if (r < 0) {
        container_abort(txn);
    }
    return r;
}

unsigned script_seen(const struct container *container)
{
    const void *payload;
    size_t bytes;
    char text[32] = {0};
    unsigned step = 0;

    container_state(container, &payload, &bytes);
    if (bytes > 0 && bytes < sizeof text) {
        memcpy(text, payload, bytes);
        assert_int_equal(sscanf(text, "step %u", &step), 1);
    }
    return step;
}

void script_digests(struct simdisk *(*make)(uint64_t seed), uint64_t digests[SCRIPT_STEPS + 1])
{
    struct simdisk *disk = make(1);
    struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
    struct error error;

    digests[0] = test_digest(c);
    for (unsigned step = 1; step <= SCRIPT_STEPS; step++) {
        OK(script_step(c, step, &error), error);
        assert_int_equal(script_seen(c), step);
        digests[step] = test_digest(c);
    }
    container_close(c);
    simdisk_free(disk);
}
