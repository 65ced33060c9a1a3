/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a commit needs before it writes anything: the new bitmap table, where
 * every L1 table, the table, the blob and perhaps a mirror go, the reserve, the
 * refcount blocks.  All that can fail for want of memory or space fails here.
 */
#include "daemon/container/internal.h"

/*
 * A bitmap stays damaged until one transaction has replaced all of its bits,
 * and its name if that was the matter.  Where nothing was replaced nothing is
 * healed, not even when a damaged entry says that there is nothing to replace.
 */
static bool is_healed(const struct edit *edit)
{
    return edit->l1_dirty && edit->n_touched >= edit->new->l1_entries &&entry_name_valid(edit->new);
}

static void inherit_damage(const struct edit *edit)
{
    const struct entry *old = edit->old;

    if (old && old->damage && !is_healed(edit)) {
        entry_damage(edit->new, "%s", old->damage);
        edit->new->unreadable = old->unreadable;
    }
}

static int plan_entries(struct container_txn *txn, struct error *error)
{
    struct container *c = txn->container;
    uint32_t n = 0;

    txn->entries = calloc((size_t)txn->n_entries + 1, sizeof *txn->entries);
    if (!txn->entries) {
        return error_set_errno(error, -ENOMEM, "cannot build the bitmap table");
    }
    for (uint32_t i = 0; i < c->directory.n; i++) {
        struct entry *e = c->directory.entries[i];
        struct entry *now = e->edit ? e->edit->new : e;
        if (now) {
            txn->entries[n++] = now;
        }
    }
    for (size_t i = 0; i < txn->n_edits; i++) {
        if (!txn->edits[i]->old && txn->edits[i]->new) {
            txn->entries[n++] = txn->edits[i]->new;
        }
    }
    return 0;
}

static int plan_l1_tables(struct container_txn *txn, struct error *error)
{
    uint32_t bits = txn->container->header.cluster_bits;

    for (size_t i = 0; i < txn->n_edits; i++) {
        struct edit *edit = txn->edits[i];
        uint64_t start;
        if (!edit->new) {
            continue;
        }
        inherit_damage(edit);
        if (!edit->l1_dirty) {
            continue;
        }
        uint64_t count = clusters_for((uint64_t)edit->new->l1_entries *L1_ENTRY_BYTES, bits);
        int r = txn_take(txn, count, &start, error);
        if (r < 0) {
            return r;
        }
        txn->taken += count;
        edit->new->l1_offset = start << bits;
    }
    return 0;
}

/* A run for table or blob, from the reserve when nothing else is left. */
static int plan_metadata(struct container_txn *txn, uint64_t bytes, struct run *reserve,
                         struct run *ret_used, struct run *ret_run, struct error *error)
{
    struct container *c = txn->container;
    struct run run = {.count = clusters_for(bytes, c->header.cluster_bits)};
    bool growing = txn->taken > txn->dropped;
    int r;

    if (run.count == 0) {
        *ret_run = run;
        return 0;
    }
    if (c->no_space && !growing &&
        reserve_take(txn, reserve, run.count, ret_used, &run.start) == 0) {
        *ret_run = run;
        return 0;
    }
    r = txn_take(txn, run.count, &run.start, NULL);
    if (r == -ENOSPC) {
        r = reserve_take(txn, reserve, run.count, ret_used, &run.start);
    }
    if (r < 0) {
        return txn_no_space(txn, r, run.count, error);
    }
    *ret_run = run;
    return 0;
}

/* The old commit's clusters that no edit accounts for, and what was taken for nothing. */
static int plan_drops(struct container_txn *txn, const struct run *old_table,
                      const struct run *old_blob)
{
    int r = txn_drop(txn, old_table->start, old_table->count);

    if (r == 0) {
        r = txn_drop(txn, old_blob->start, old_blob->count);
    }
    for (size_t i = 0; i < txn->n_spare && r == 0; i++) {
        r = txn_drop(txn, txn->spare[i], 1);
    }
    txn->n_spare = 0;
    return r;
}

static int plan_header(struct container_txn *txn, const struct container_commit_options *options,
                       struct error *error)
{
    struct container *c = txn->container;
    struct header *h = &txn->header;
    uint64_t mirror;
    int r;

    *h = c->header;
    h->block = NULL;
    h->block_bytes = 0;
    if (!h->has_private) {
        /* A foreign tool's container becomes ours, or an image one. */
        h->has_private = true;
        h->private = (struct private_extension){0};
        r = container_new_uuid(&h->private.uuid);
        if (r < 0) {
            return error_set_errno(error, r, "cannot make a UUID");
        }
    }
    if (h->private.mirror_offset == 0 || c->mirror_lost) {
        r = txn_take(txn, 1, &mirror, error);
        if (r < 0) {
            return r;
        }
        txn->new_mirror = mirror;
        h->private.mirror_offset = mirror << h->cluster_bits;
    }
    h->crc_good = true;
    h->private_crc_good = true;
    h->private.commit_id = options->commit_id;
    h->private.applied_seq = options->applied_seq;
    h->private.clean = options->clean;
    h->private.boot_id = options->boot_id;
    h->private.identity = options->identity;
    h->private.flags = txn->state_lost ? PRIVATE_STATE_LOST : 0;
    return 0;
}

static int plan_bytes(struct container_txn *txn, const struct container_commit_options *options,
                      struct error *error)
{
    struct container *c = txn->container;
    struct header *h = &txn->header;
    int r;

    txn->table_bytes = (size_t)table_bytes(txn->entries, txn->n_entries);
    r = plan_metadata(txn, txn->table_bytes, &c->reserve_table, &txn->used_reserve_table,
                      &txn->table_run, error);
    if (r == 0) {
        uint64_t bytes = blob_bytes(txn->entries, txn->n_entries, options->state_bytes);
        r = plan_metadata(txn, bytes, &c->reserve_blob, &txn->used_reserve_blob, &txn->blob_run,
                          error);
    }
    if (r < 0) {
        return r;
    }
    h->bitmaps = txn->n_entries;
    h->table_offset = txn->table_run.start << h->cluster_bits;
    h->private.state_offset = txn->blob_run.start << h->cluster_bits;
    h->private.bitmaps = h->bitmaps;
    h->private.table_offset = h->table_offset;
    h->fields_restored = false;
    h->autoclear = header_autoclear(h);

    r = directory_init(&txn->directory, txn->entries, txn->n_entries);
    if (r < 0) {
        return error_set_errno(error, r, "cannot build the bitmap table");
    }
    return 0;
}

int commit_plan(struct container_txn *txn, const struct container_commit_options *options,
                struct error *error)
{
    struct container *c = txn->container;
    int r;

    r = plan_entries(txn, error);
    if (r == 0) {
        r = plan_l1_tables(txn, error);
    }
    if (r == 0) {
        r = plan_header(txn, options, error);
    }
    if (r == 0) {
        r = plan_bytes(txn, options, error);
    }
    if (r < 0) {
        return r;
    }
    struct run old_table = container_table_run(c), old_blob = container_blob_run(c);
    r = plan_drops(txn, &old_table, &old_blob);
    if (r < 0) {
        return error_set_errno(error, r, "cannot commit");
    }
    r = reserve_prepare(txn, error);
    if (r == 0) {
        r = cover_plan(txn, error);
    }
    if (r < 0) {
        return r;
    }
    for (size_t i = 0; i < txn->fresh.n; i++) {
        refcounts_flag_run(&c->refcounts, &txn->fresh.items[i], REFCOUNT_RAISE);
    }
    for (size_t i = 0; i < txn->n_new_blocks; i++) {
        const struct run run = {.start = txn->new_blocks[i].cluster, .count = 1};
        refcounts_flag_run(&c->refcounts, &run, REFCOUNT_RAISE);
    }
    if (txn->new_refcount_table.count > 0) {
        txn->header.refcount_table_offset = txn->grown.table_offset;
        txn->header.refcount_table_clusters = (uint32_t)txn->grown.table_clusters;
    }
    return 0;
}
