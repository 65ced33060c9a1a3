/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What changes cost among many bitmaps, in calls and bytes, never in time:
 * creating one looks at no other, and a write-back touches what has changed.
 * The functions counted are wrapped (ld --wrap).
 */
#include "tests/drive/harness.h"

#include "daemon/bitmap/bitmap.h"
#include "daemon/container/container.h"
#include "daemon/drive/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct {
    uint64_t looks; /* at how dirty some bitmap is */
    uint64_t writes, zeros, adds, updates;
    struct container_commit_stats commit; /* of the last one */
} counts;

uint64_t __real_bitmap_dirty_bytes(const struct bitmap *bitmap);
uint64_t __wrap_bitmap_dirty_bytes(const struct bitmap *bitmap);
int __real_container_txn_write(struct container_txn *txn, uint64_t id, uint32_t l1_index,
                               const void *bits, size_t length_bytes, struct error *error);
int __wrap_container_txn_write(struct container_txn *txn, uint64_t id, uint32_t l1_index,
                               const void *bits, size_t length_bytes, struct error *error);
int __real_container_txn_zero(struct container_txn *txn, uint64_t id, uint32_t l1_index,
                              struct error *error);
int __wrap_container_txn_zero(struct container_txn *txn, uint64_t id, uint32_t l1_index,
                              struct error *error);
int __real_container_txn_add(struct container_txn *txn, uint64_t id, const char *name,
                             uint32_t granularity, uint64_t sectors, struct error *error);
int __wrap_container_txn_add(struct container_txn *txn, uint64_t id, const char *name,
                             uint32_t granularity, uint64_t sectors, struct error *error);
int __real_container_txn_update(struct container_txn *txn, uint64_t id, const char *name,
                                uint64_t sectors, struct error *error);
int __wrap_container_txn_update(struct container_txn *txn, uint64_t id, const char *name,
                                uint64_t sectors, struct error *error);
int __real_container_commit(struct container_txn *txn,
                            const struct container_commit_options *options,
                            struct container_commit_stats *ret_stats, struct error *error);
int __wrap_container_commit(struct container_txn *txn,
                            const struct container_commit_options *options,
                            struct container_commit_stats *ret_stats, struct error *error);

uint64_t __wrap_bitmap_dirty_bytes(const struct bitmap *bitmap)
{
    counts.looks++;
    return __real_bitmap_dirty_bytes(bitmap);
}

int __wrap_container_txn_write(struct container_txn *txn, uint64_t id, uint32_t l1_index,
                               const void *bits, size_t length_bytes, struct error *error)
{
    counts.writes++;
    return __real_container_txn_write(txn, id, l1_index, bits, length_bytes, error);
}

int __wrap_container_txn_zero(struct container_txn *txn, uint64_t id, uint32_t l1_index,
                              struct error *error)
{
    counts.zeros++;
    return __real_container_txn_zero(txn, id, l1_index, error);
}

int __wrap_container_txn_add(struct container_txn *txn, uint64_t id, const char *name,
                             uint32_t granularity, uint64_t sectors, struct error *error)
{
    counts.adds++;
    return __real_container_txn_add(txn, id, name, granularity, sectors, error);
}

int __wrap_container_txn_update(struct container_txn *txn, uint64_t id, const char *name,
                                uint64_t sectors, struct error *error)
{
    counts.updates++;
    return __real_container_txn_update(txn, id, name, sectors, error);
}

int __wrap_container_commit(struct container_txn *txn,
                            const struct container_commit_options *options,
                            struct container_commit_stats *ret_stats, struct error *error)
{
    int r = __real_container_commit(txn, options, ret_stats, error);

    if (r == 0) {
        counts.commit = *ret_stats;
    }
    return r;
}

#define BITMAPS 2000u
#define SIZE    (UINT64_C(64) << 20) /* of the drive: 32 chunks of 512 bytes for each bitmap */

static void flush(struct harness *h)
{
    assert_int_equal(harness_wait(h, model_sequence(h->model), ACK_CONTAINER), 0);
}

static void open_empty(struct harness *h)
{
    harness_init(h);
    h->settings.bitmaps_max = BITMAPS;
    harness_open(h);
    memset(&counts, 0, sizeof counts);
}

/* All of them record, or one. */
static void create_many(struct harness *h, bool all)
{
    uint64_t drive = harness_add_drive(h, "vm", SIZE);

    for (unsigned i = 0; i < BITMAPS; i++) {
        char name[16];
        int n = snprintf(name, sizeof name, "b%u", i);
        struct record record = {
            .type = RECORD_BITMAP_CREATE,
            .drive = drive,
            .name = {name, (uint32_t)n},
            .granularity = 512,
            .disabled = !all && i != 1234,
        };
        assert_int_equal(model_commit(h->model, &record, &h->error), 0);
    }
}

static void creation_looks_at_no_other(void **state)
{
    struct harness h = {0};

    (void)state;
    open_empty(&h);
    create_many(&h, true);
    assert_int_equal(counts.looks, 0);
    flush(&h);
    assert_int_equal(counts.adds, BITMAPS);
    assert_int_equal(counts.updates, 0);
    assert_int_equal(counts.writes, 0);
    assert_in_range(counts.zeros, 0, (uintmax_t)BITMAPS * 32);
    harness_deinit(&h);
}

static void write_back_takes_what_changed(void **state)
{
    struct harness h = {0};

    (void)state;
    open_empty(&h);
    create_many(&h, false);
    flush(&h);
    /* The first mark that they skip is noted by all of them, and nothing of it is in their entries.
     */
    memset(&counts, 0, sizeof counts);
    harness_mark(&h, "vm", SIZE - 512, 512);
    flush(&h);
    assert_int_equal(counts.writes + counts.zeros + counts.adds + counts.updates, 1);
    uint64_t at_rest = 0;
    for (unsigned chunks = 1; chunks <= 16; chunks *= 4) {
        memset(&counts, 0, sizeof counts);
        for (uint64_t i = 0; i < chunks; i++) {
            harness_mark(&h, "vm", i * 4096 * 512, 512 * chunks); /* others each time */
        }
        flush(&h);
        assert_int_equal(counts.writes, chunks);
        assert_int_equal(counts.commit.clusters_written, chunks);
        assert_int_equal(counts.zeros + counts.adds + counts.updates, 0);
        if (at_rest == 0) {
            at_rest = counts.commit.bytes_written - 512;
        }
        /* The rest is what any commit of so many bitmaps takes. */
        assert_in_range(counts.commit.bytes_written, at_rest,
                        at_rest + UINT64_C(512) * chunks + 8192);
    }
    harness_deinit(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(creation_looks_at_no_other),
        cmocka_unit_test(write_back_takes_what_changed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
