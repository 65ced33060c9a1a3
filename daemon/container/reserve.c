/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Room for one more metadata-only commit, always: a verdict ("this bitmap is
 * unknown") must be writable when the disk is full, and so must the commit
 * that makes the container smaller.
 *
 * Two runs, one for a bitmap table and one for a state blob, are kept back:
 * space.refs marks them REFS_RESERVED, the file system has blocks for them, and
 * the refcount blocks that would count them exist; on the disk they are free.
 * A commit draws on them only when it cannot get its clusters otherwise, or
 * when the attempt before it found the disk full.  The clusters of the table
 * and blob that it replaces then become the reserve, so there is one again.
 *
 * A commit that makes the container grow fails when it cannot leave a reserve
 * behind; one that does not may.
 */
#include "daemon/container/internal.h"

/* Some more than needed, so that small growth does not move the reserve at every commit. */
static uint64_t with_slack(uint64_t clusters)
{
    return clusters + clusters / 4 + 1;
}

int reserve_take(struct container_txn *txn, struct run *reserve, uint64_t count,
                 struct run *ret_used, uint64_t *ret_start)
{
    struct container *c = txn->container;
    int r;

    if (count == 0 || count > reserve->count) {
        return -ENOSPC;
    }
    r = runs_push(&txn->fresh, reserve->start, count);
    if (r < 0) {
        return r;
    }
    space_mark(&c->space, reserve->start, count, 0);
    space_ref(&c->space, reserve->start, count);
    txn->used_reserve = true;
    *ret_start = reserve->start;
    *ret_used = *reserve;
    *reserve = (struct run){0};
    return 0;
}

/* Replaces a reserve that is too small.  -ENOSPC leaves it. */
static int reserve_grow(struct container *c, struct run *reserve, uint64_t need)
{
    struct run run = {.count = with_slack(need)};
    int r;

    if (reserve->count >= need) {
        return 0;
    }
    r = space_take(&c->space, run.count, &run.start);
    if (r == -ENOSPC) {
        run.count = need;
        r = space_take(&c->space, run.count, &run.start);
    }
    if (r < 0) {
        return r;
    }
    r = file_allocate(c->file, run.start << c->header.cluster_bits,
                      run.count << c->header.cluster_bits);
    space_unref(&c->space, run.start, run.count);
    if (r < 0) {
        return r;
    }
    space_mark(&c->space, run.start, run.count, REFS_RESERVED);
    space_mark(&c->space, reserve->start, reserve->count, 0);
    punch_later(c, reserve->start, reserve->count);
    *reserve = run;
    return 0;
}

int reserve_prepare(struct container_txn *txn, struct error *error)
{
    struct container *c = txn->container;
    bool growing = txn->taken > txn->dropped;
    int r = 0, s = 0;

    if (c->offline) {
        return 0;
    }
    /* What was used up comes back from the old commit's table and blob. */
    if (txn->used_reserve_table.count == 0) {
        r = reserve_grow(c, &c->reserve_table, txn->table_run.count + 1);
    }
    if (txn->used_reserve_blob.count == 0) {
        s = reserve_grow(c, &c->reserve_blob, txn->blob_run.count + 1);
    }
    if (growing && (r < 0 || s < 0 || txn->used_reserve)) {
        r = r < 0 ? r : s < 0 ? s : -ENOSPC;
        if (r == -ENOSPC) {
            return txn_no_space(txn, r, txn->table_run.count + txn->blob_run.count, error);
        }
        return error_set_errno(error, r, "cannot reserve clusters");
    }
    return 0;
}

/* A run that was used in part becomes free, but for what was used. */
static void release_rest(struct space *space, const struct run *used, uint64_t taken)
{
    if (used->count > taken) {
        space_mark(space, used->start + taken, used->count - taken, 0);
    }
}

static void replenish(struct space *space, struct run *reserve, const struct run *old)
{
    for (uint64_t i = 0; i < old->count; i++) {
        if (space->refs[old->start + i] != 0) {
            return; /* still in use by something else */
        }
    }
    if (reserve->count == 0 && old->count > 0) {
        space_mark(space, old->start, old->count, REFS_RESERVED);
        *reserve = *old;
    }
}

void reserve_committed(struct container_txn *txn, const struct run *old_table,
                       const struct run *old_blob)
{
    struct container *c = txn->container;

    release_rest(&c->space, &txn->used_reserve_table, txn->table_run.count);
    release_rest(&c->space, &txn->used_reserve_blob, txn->blob_run.count);
    if (c->offline) {
        return;
    }
    replenish(&c->space, &c->reserve_table, old_table);
    replenish(&c->space, &c->reserve_blob, old_blob);
}

/* @restore: the clusters used were given back already; they are reserved again. */
static void abort_one(struct space *space, struct run *reserve, const struct run *used,
                      uint64_t taken, bool restore)
{
    if (used->count == 0) {
        return;
    }
    if (!restore) {
        release_rest(space, used, taken);
    } else if (reserve->count == 0) {
        space_mark(space, used->start, used->count, REFS_RESERVED);
        *reserve = *used;
    } else {
        release_rest(space, used, taken);
    }
}

void reserve_aborted(struct container_txn *txn, bool restore)
{
    struct container *c = txn->container;

    abort_one(&c->space, &c->reserve_table, &txn->used_reserve_table, txn->table_run.count,
              restore);
    abort_one(&c->space, &c->reserve_blob, &txn->used_reserve_blob, txn->blob_run.count, restore);
}
