/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Growth of the refcount structures: every cluster that a commit refers to
 * needs a refcount block, every block an entry in the refcount table.
 *
 * New blocks are counted by blocks too, perhaps by themselves, and so is the
 * table, so planning goes on until nothing new turns up.
 *
 * The table is never written in place: a block of 4096 bytes that the power
 * failure destroys would take the way to every refcount block with it.  Each
 * commit that adds blocks writes the whole table anew, elsewhere, and its header
 * switches over; until then nobody refers to it or to the new blocks.  That is
 * rare: a cluster of 64 KiB has room for blocks that count 16 TiB.
 */
#include "daemon/container/internal.h"

static bool has_block(const struct container_txn *txn, uint64_t index)
{
    const struct refcounts *rc = &txn->container->refcounts;

    return (index < rc->n_blocks && rc->blocks[index].offset != 0) ||
           (index < txn->n_planned && txn->planned[index] != 0);
}

static int plan_block(struct container_txn *txn, uint64_t index)
{
    struct container *c = txn->container;
    uint64_t cluster;
    int r;

    if (index >= txn->n_planned) {
        uint64_t n = max_u64(index + 1, txn->n_planned * 2);
        uint64_t *planned = reallocarray(txn->planned, n, sizeof *planned);
        if (!planned) {
            return -ENOMEM;
        }
        memset(planned + txn->n_planned, 0, (n - txn->n_planned) * sizeof *planned);
        txn->planned = planned;
        txn->n_planned = n;
    }
    if (txn->n_new_blocks == txn->new_blocks_capacity) {
        size_t capacity = txn->new_blocks_capacity ? txn->new_blocks_capacity * 2 : 16;
        struct new_block *blocks = reallocarray(txn->new_blocks, capacity, sizeof *blocks);
        if (!blocks) {
            return -ENOMEM;
        }
        txn->new_blocks = blocks;
        txn->new_blocks_capacity = capacity;
    }
    r = space_take(&c->space, 1, &cluster);
    if (r < 0) {
        return r;
    }
    txn->new_blocks[txn->n_new_blocks++] = (struct new_block){.index = index, .cluster = cluster};
    txn->planned[index] = cluster;
    return 0;
}

/* Blocks for a run.  The run may be one that planning itself took. */
static int plan_run(struct container_txn *txn, uint64_t start, uint64_t count)
{
    const struct header *h = &txn->container->header;
    uint64_t per_block = refcounts_per_block(h->cluster_bits, h->refcount_order);

    for (uint64_t i = start / per_block; count > 0 && i <= (start + count - 1) / per_block; i++) {
        if (!has_block(txn, i)) {
            int r = plan_block(txn, i);
            if (r < 0) {
                return r;
            }
        }
    }
    return 0;
}

/* All that is referenced: after an open that found clusters which no block counts. */
static int plan_everything(struct container_txn *txn)
{
    struct space *space = &txn->container->space;

    for (uint64_t c = 0; c < space->clusters; c++) {
        if (space->refs[c] != 0 && space->refs[c] != REFS_RESERVED) {
            int r = plan_run(txn, c, 1);
            if (r < 0) {
                return r;
            }
        }
    }
    return 0;
}

/* Blocks for what was planned since @done; planning goes on in the same list. */
static int plan_blocks(struct container_txn *txn, size_t *done)
{
    for (; *done < txn->n_new_blocks; (*done)++) {
        int r = plan_run(txn, txn->new_blocks[*done].cluster, 1);
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

/* Of the table, with the blocks that are and those that will be. */
static uint64_t entries_needed(const struct container_txn *txn)
{
    const struct refcounts *rc = &txn->container->refcounts;
    uint64_t needed = rc->n_blocks;

    while (needed > 0 && rc->blocks[needed - 1].offset == 0) {
        needed--;
    }
    for (size_t i = 0; i < txn->n_new_blocks; i++) {
        needed = max_u64(needed, txn->new_blocks[i].index + 1);
    }
    return needed;
}

/* Nothing past the last cluster that the longest table can count. */
static int table_is_full(struct container_txn *txn, uint64_t limit, struct error *error)
{
    const struct header *h = &txn->container->header;
    uint64_t entries = (limit << h->cluster_bits) / REFCOUNT_TABLE_ENTRY_BYTES;
    uint64_t clusters = entries * refcounts_per_block(h->cluster_bits, h->refcount_order);

    txn->container->no_space = true;
    return error_set(error, -ENOSPC,
                     "the container is full: a refcount table of %" PRIu64
                     " bytes, the longest there is, counts clusters up to byte %" PRIu64
                     " of the file with refcounts of %u bits",
                     limit << h->cluster_bits, clusters << h->cluster_bits,
                     1u << h->refcount_order);
}

/* A new table with room for all blocks, those that count itself included. */
static int plan_table(struct container_txn *txn, size_t *done, struct error *error)
{
    struct container *c = txn->container;
    uint32_t bits = c->header.cluster_bits;
    uint64_t per_cluster = cluster_bytes(c) / REFCOUNT_TABLE_ENTRY_BYTES;
    uint64_t limit = max_u64(CONTAINER_REFCOUNT_TABLE_BYTES_MAX >> bits, 1);
    struct run run = {0};

    while (txn->n_new_blocks > 0 && entries_needed(txn) > run.count * per_cluster) {
        uint64_t need = div_round_up(entries_needed(txn), per_cluster);
        /* The run before was too short; its clusters come back with the transaction. */
        int r = run.count ? txn_drop(txn, run.start, run.count) : 0;
        if (need > limit) {
            return table_is_full(txn, limit, error);
        }
        /* Some more, so that growth is rare, but for one that is made from nothing. */
        run.count = c->refcounts.table_clusters == 0      ? need
                    : need <= c->refcounts.table_clusters ? c->refcounts.table_clusters
                                                          : min_u64(need + need / 2 + 1, limit);
        if (r == 0) {
            r = space_take(&c->space, run.count, &run.start);
        }
        if (r == 0) {
            r = runs_push(&txn->fresh, run.start, run.count);
            if (r < 0) {
                space_unref(&c->space, run.start, run.count);
            }
        }
        if (r == 0) {
            r = plan_run(txn, run.start, run.count);
        }
        if (r == 0) {
            r = plan_blocks(txn, done);
        }
        if (r < 0) {
            return txn_no_space(txn, r, run.count, error);
        }
    }
    txn->new_refcount_table = run;
    return 0;
}

/* What the container will have in memory once the table has moved. */
static int prepare_grown(struct container_txn *txn)
{
    const struct refcounts *rc = &txn->container->refcounts;
    const struct run *run = &txn->new_refcount_table;
    struct refcounts *grown = &txn->grown;

    *grown = (struct refcounts){
        .table_offset = run->start << rc->cluster_bits,
        .table_clusters = run->count,
        .cluster_bits = rc->cluster_bits,
        .order = rc->order,
        .n_blocks = (uint32_t)((run->count << rc->cluster_bits) / REFCOUNT_TABLE_ENTRY_BYTES),
    };
    grown->blocks = calloc(grown->n_blocks, sizeof *grown->blocks);
    grown->pending = calloc(grown->n_blocks, sizeof *grown->pending);
    return grown->blocks && grown->pending ? 0 : -ENOMEM;
}

int cover_plan(struct container_txn *txn, struct error *error)
{
    struct container *c = txn->container;
    size_t done = 0;
    int r = 0;

    for (size_t i = 0; i < txn->fresh.n && r == 0; i++) {
        r = plan_run(txn, txn->fresh.items[i].start, txn->fresh.items[i].count);
    }
    if (r == 0) {
        r = plan_run(txn, c->reserve_table.start, c->reserve_table.count);
    }
    if (r == 0) {
        r = plan_run(txn, c->reserve_blob.start, c->reserve_blob.count);
    }
    if (r == 0 && c->refcounts.uncovered) {
        r = plan_everything(txn);
    }
    if (r == 0) {
        r = plan_blocks(txn, &done);
    }
    if (r < 0) {
        return txn_no_space(txn, r, 1, error);
    }
    r = plan_table(txn, &done, error);
    if (r < 0) {
        return r;
    }
    if (txn->new_refcount_table.count > 0) {
        /* The old table goes with the old commit. */
        r = txn_drop(txn, c->refcounts.table_offset >> c->header.cluster_bits,
                     c->refcounts.table_clusters);
        if (r == 0) {
            r = prepare_grown(txn);
        }
    }
    return r < 0 ? error_set_errno(error, r, "cannot cover the clusters with refcounts") : 0;
}

static int write_new_blocks(struct container_txn *txn, struct error *error)
{
    struct container *c = txn->container;
    uint64_t per_block = refcounts_per_block(c->header.cluster_bits, c->header.refcount_order);

    for (size_t i = 0; i < txn->n_new_blocks; i++) {
        const struct new_block *b = &txn->new_blocks[i];
        uint64_t low, high;
        memset(txn->buffer, 0, cluster_bytes(c));
        (void)refcounts_adjust(txn->buffer, c->header.refcount_order, per_block,
                               b->index * per_block, &c->space, true, &low, &high);
        int r = txn_io_write(txn, txn->buffer, cluster_bytes(c),
                             b->cluster << c->header.cluster_bits, "a refcount block", error);
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

int cover_write(struct container_txn *txn, struct error *error)
{
    const struct refcounts *rc = &txn->container->refcounts;
    const struct run *run = &txn->new_refcount_table;
    uint64_t bytes = run->count << rc->cluster_bits;
    CLEANUP_FREE uint8_t *table = NULL;
    int r;

    if (run->count == 0) {
        return 0;
    }
    r = write_new_blocks(txn, error);
    if (r < 0) {
        return r;
    }
    table = calloc(1, bytes);
    if (!table) {
        return error_set_errno(error, -ENOMEM, "cannot write the refcount table");
    }
    for (uint32_t i = 0; i < rc->n_blocks; i++) {
        if (rc->blocks[i].offset != 0) {
            store_be64(table + (size_t)i * REFCOUNT_TABLE_ENTRY_BYTES, rc->blocks[i].offset);
        }
    }
    for (size_t i = 0; i < txn->n_new_blocks; i++) {
        const struct new_block *b = &txn->new_blocks[i];
        store_be64(table + b->index * REFCOUNT_TABLE_ENTRY_BYTES, b->cluster << rc->cluster_bits);
    }
    return txn_io_write(txn, table, bytes, run->start << rc->cluster_bits, "the refcount table",
                        error);
}
