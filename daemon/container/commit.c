/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The commit: from one state of the container to the next by one write of the
 * header.
 *
 *   step                                a crash afterwards leaves
 *   0  only if the last commit failed   the old commit (its header block is on the disk again),
 *      in step 2: write the old header  or the one that failed, whose clusters nobody has
 *      block again, sync                touched, by the header or, if that is torn, by the mirror
 *   -  clusters of bits are written as  the old commit; free clusters have new content
 *      the transaction goes on
 *   1a raise refcounts                  the old commit; counters too high: leaks
 *   1b write new refcount blocks, and   the old commit; nobody refers to them
 *      a whole new table for them
 *   1c write L1 tables, bitmap table,   the old commit
 *      state blob
 *   1d write the new header block to    the old commit; the mirror is torn, old or new, and is
 *      the mirror                       not looked at, for the header is whole
 *   1e over another program's header    the old image: its own header block does not reach there
 *      block: write the new one's
 *      sectors from the second on
 *      (spread.c)
 *   1f sync                             the old commit; the new one lacks nothing but the header
 *   2a write the header block           old or new commit; a torn header is found out by its CRC,
 *                                       and the mirror says new
 *   2b sync                             the new commit
 *   3  lower refcounts                  the new commit; counters too high: leaks
 *
 * A sync that fails proves nothing about what it covered, and a later one that
 * succeeds proves nothing about that either.  So whatever is still needed is
 * written again before the next sync: bits, L1 tables, table, blob and mirror
 * because each commit writes its own, refcounts by their flags (refcount.c),
 * the header by step 0.
 *
 * After step 2a has begun and 2b has not succeeded, either commit may be on the
 * disk.  The clusters of both stay in use: the old one's because memory still
 * refers to them, the new one's because they wait in limbo until a later commit
 * is through.
 */
#include "daemon/container/internal.h"

#define SECTOR 512u
#define PAGE   4096u

/* Metadata is written in whole pages, so that the kernel need not read any first, but not in whole
 * clusters, which may be much larger than what is in them. */
static uint64_t padded_bytes(uint64_t bytes, uint32_t cluster_bits)
{
    return min_u64((bytes + PAGE - 1) & ~(uint64_t)(PAGE - 1), clusters_for(bytes, cluster_bits)
                                                                   << cluster_bits);
}

struct run container_table_run(const struct container *c)
{
    uint64_t bytes = c->table_shared ? 0 : table_bytes(c->directory.entries, c->directory.n);

    return (struct run){
        .start = c->header.table_offset >> c->header.cluster_bits,
        .count = clusters_for(bytes, c->header.cluster_bits),
    };
}

struct run container_blob_run(const struct container *c)
{
    /* A blob that could not be read may still have had its clusters claimed. */
    return (struct run){
        .start = c->blob_claimed ? c->header.private.state_offset >> c->header.cluster_bits : 0,
        .count = c->blob_claimed
                     ? clusters_for(c->header.private.state_bytes, c->header.cluster_bits)
                     : 0,
    };
}

/* Up to the sector's end, so that nothing of an older block shows behind it. */
int write_header_block(struct file *file, const struct header *h, uint64_t offset,
                       uint64_t *bytes_written)
{
    size_t bytes = (h->block_bytes + SECTOR - 1) & ~(size_t)(SECTOR - 1);
    CLEANUP_FREE uint8_t *padded = calloc(1, bytes);

    if (!padded) {
        return -ENOMEM;
    }
    memcpy(padded, h->block, h->block_bytes);
    *bytes_written += bytes;
    return file_write(file, padded, bytes, offset);
}

/* Step 0. */
int commit_settle_header(struct container *c, uint64_t *bytes_written, struct error *error)
{
    int r = write_header_block(c->file, &c->header, 0, bytes_written);

    if (r == 0) {
        r = file_datasync(c->file);
        refcounts_synced(&c->refcounts, r == 0);
    }
    if (r < 0) {
        return error_set_errno(error, r, "cannot write the last good header again");
    }
    c->header_uncertain = false;
    return 0;
}

static int write_l1_table(struct container_txn *txn, struct entry *e, struct error *error)
{
    struct container *c = txn->container;
    uint32_t bits = c->header.cluster_bits;
    uint64_t bytes = (uint64_t)e->l1_entries * L1_ENTRY_BYTES;
    uint64_t padded = padded_bytes(bytes, bits);
    CLEANUP_FREE uint8_t *table = calloc(1, padded);

    if (!table) {
        return error_set_errno(error, -ENOMEM, "cannot write an L1 table");
    }
    for (uint32_t i = 0; e->slots && i < e->l1_entries; i++) {
        e->slots[i].where &= ~SLOT_FRESH;
        uint64_t offset = (uint64_t)(e->slots[i].where & SLOT_CLUSTER) << bits;
        store_be64(table + (size_t)i * L1_ENTRY_BYTES,
                   offset | (e->slots[i].where & SLOT_ZERO ? L1_ZERO_FLAG : 0));
    }
    e->l1_crc = crc32c(0, table, bytes);
    return txn_io_write(txn, table, padded, e->l1_offset, "an L1 table", error);
}

static int write_table_and_blob(struct container_txn *txn,
                                const struct container_commit_options *options, struct error *error)
{
    struct container *c = txn->container;
    uint32_t bits = c->header.cluster_bits;
    CLEANUP_FREE uint8_t *padded = NULL;
    int r;

    uint64_t table = padded_bytes(txn->table_bytes, bits);
    uint64_t blob =
        padded_bytes(blob_bytes(txn->entries, txn->n_entries, options->state_bytes), bits);
    padded = calloc(1, max_u64(table, 1));
    if (!padded) {
        return error_set_errno(error, -ENOMEM, "cannot write the bitmap table");
    }
    table_build(txn->entries, txn->n_entries, padded);
    uint32_t crc = crc32c(0, padded, txn->table_bytes);
    if (table > 0) {
        r = txn_io_write(txn, padded, table, txn->table_run.start << bits, "the bitmap table",
                         error);
        if (r < 0) {
            return r;
        }
    }
    r = blob_build(txn->entries, txn->n_entries, &txn->header.private, txn->table_bytes, crc,
                   options->state, options->state_bytes, blob, &txn->blob);
    if (r < 0) {
        return error_set_errno(error, r, "cannot write the state blob");
    }
    txn->header.private.state_bytes = txn->blob.length;
    return txn_io_write(txn, txn->blob.bytes, blob, txn->blob_run.start << bits, "the state blob",
                        error);
}

static int write_mirror(struct container_txn *txn, struct error *error)
{
    struct container *c = txn->container;
    uint64_t offset = txn->header.private.mirror_offset;
    int r;

    r = header_build(&txn->header, error);
    if (r < 0) {
        return r;
    }
    if (txn->new_mirror) {
        memset(txn->buffer, 0, cluster_bytes(c));
        r = txn_io_write(txn, txn->buffer, cluster_bytes(c), offset, "the header's mirror", error);
        if (r < 0) {
            return r;
        }
    }
    r = write_header_block(c->file, &txn->header, offset, &txn->stats.bytes_written);
    if (r < 0) {
        return error_set_errno(error, r, "cannot write the header's mirror at offset %" PRIu64,
                               offset);
    }
    return 0;
}

/*
 * Step 1e.  With these in place, step 2 changes nothing but the first sector,
 * which a disk writes whole: no power failure shows QEMU half a header.
 */
static int write_spread_sectors(struct container_txn *txn, struct error *error)
{
    const struct header *h = &txn->header;

    if (!txn->container->spread || h->block_bytes <= SECTOR) {
        return 0;
    }
    return txn_io_write(txn, h->block + SECTOR, h->block_bytes - SECTOR, SECTOR,
                        "the header's later sectors", error);
}

/* Step 1. */
static int write_content(struct container_txn *txn, const struct container_commit_options *options,
                         struct error *error)
{
    struct container *c = txn->container;
    int r;

    r = refcounts_write_pending(&c->refcounts, c->file, &c->space, txn->buffer, true,
                                &txn->stats.bytes_written);
    if (r < 0) {
        return error_set_errno(error, r, "cannot raise refcounts");
    }
    r = cover_write(txn, error);
    if (r < 0) {
        return r;
    }
    for (size_t i = 0; i < txn->n_edits; i++) {
        struct edit *edit = txn->edits[i];
        if (edit->new && edit->l1_dirty) {
            r = write_l1_table(txn, edit->new, error);
            if (r < 0) {
                return r;
            }
        }
    }
    r = write_table_and_blob(txn, options, error);
    if (r == 0) {
        r = write_mirror(txn, error);
    }
    if (r == 0) {
        r = write_spread_sectors(txn, error);
    }
    if (r < 0) {
        return r;
    }
    r = file_datasync(c->file);
    refcounts_synced(&c->refcounts, r == 0);
    if (r < 0) {
        c->no_space |= r == -ENOSPC;
        return error_set_errno(error, r, "cannot sync the container");
    }
    return 0;
}

/* Step 2. */
static int write_header(struct container_txn *txn, struct error *error)
{
    struct container *c = txn->container;
    int r;

    txn->header_attempted = true;
    c->header_uncertain = true;
    r = write_header_block(c->file, &txn->header, 0, &txn->stats.bytes_written);
    if (r < 0) {
        return error_set_errno(error, r, "cannot write the container's header");
    }
    r = file_datasync(c->file);
    refcounts_synced(&c->refcounts, r == 0);
    if (r < 0) {
        return error_set_errno(error, r, "cannot sync the container's header");
    }
    c->header_uncertain = false;
    return 0;
}

/* The table that moved, with its new blocks.  Nothing here can fail. */
static void adopt_refcount_table(struct container_txn *txn)
{
    struct refcounts *old = &txn->container->refcounts, *grown = &txn->grown;

    if (txn->new_refcount_table.count == 0) {
        return;
    }
    for (uint32_t i = 0; i < old->n_blocks && i < grown->n_blocks; i++) {
        grown->blocks[i] = old->blocks[i]; /* what is cut off had no block */
    }
    for (uint32_t i = 0; i < old->n_pending; i++) {
        grown->pending[i] = old->pending[i];
    }
    grown->n_pending = old->n_pending;
    for (size_t i = 0; i < txn->n_new_blocks; i++) {
        const struct new_block *b = &txn->new_blocks[i];
        grown->blocks[b->index].offset = b->cluster << grown->cluster_bits;
    }
    refcounts_deinit(old);
    *old = *grown;
    *grown = (struct refcounts){0};
}

static void release(struct container *c, const struct runs *runs)
{
    for (size_t i = 0; i < runs->n; i++) {
        space_unref(&c->space, runs->items[i].start, runs->items[i].count);
        refcounts_flag_run(&c->refcounts, &runs->items[i], REFCOUNT_LOWER);
        punch_later(c, runs->items[i].start, runs->items[i].count);
    }
}

/* The transaction's state becomes the container's.  Nothing here can fail. */
static void adopt(struct container_txn *txn)
{
    struct container *c = txn->container;
    struct run old_table = container_table_run(c), old_blob = container_blob_run(c);

    adopt_refcount_table(txn);
    c->refcounts.uncovered = false;
    release(c, &txn->drop);
    release(c, &c->limbo);
    c->limbo.n = 0;
    reserve_committed(txn, &old_table, &old_blob);

    for (size_t i = 0; i < txn->n_edits; i++) {
        struct edit *edit = txn->edits[i];
        entry_free(edit->old);
        edit->new = NULL; /* the directory's now */
    }
    directory_deinit(&c->directory);
    c->directory = txn->directory;
    txn->directory = (struct directory){0};
    txn->entries = NULL;
    for (uint32_t i = 0; i < c->directory.n; i++) {
        c->directory.entries[i]->index = i;
    }

    blob_deinit(&c->blob);
    c->blob = txn->blob;
    txn->blob = (struct blob){0};
    c->blob_claimed = true;
    c->table_shared = false;
    c->mirror_lost = false;
    c->state_damage[0] = '\0';
    c->lost_bitmaps = 0;
    c->spread = false;

    free(c->header.block);
    c->header = txn->header;
    txn->header.block = NULL;
    /* A commit that lived on the reserve has not shown that there is space. */
    c->no_space = c->no_space && txn->used_reserve;
}

int container_commit(struct container_txn *txn, const struct container_commit_options *options,
                     struct container_commit_stats *ret_stats, struct error *error)
{
    struct container *c = txn->container;
    int r = 0;

    if (txn->failed) {
        return error_set(error, -EINVAL, "the transaction has failed before and must be aborted");
    }
    txn->failed = true; /* until it is through */
    if (options->state_bytes > CONTAINER_STATE_BYTES_MAX) {
        return error_set(error, -EFBIG, "state payload: found %zu bytes, expected at most %" PRIu64,
                         options->state_bytes, CONTAINER_STATE_BYTES_MAX);
    }
    if (c->header.has_private && options->applied_seq < c->header.private.applied_seq) {
        return error_set(error, -EINVAL,
                         "applied sequence: found %" PRIu64 ", expected at least %" PRIu64,
                         options->applied_seq, c->header.private.applied_seq);
    }
    r = commit_plan(txn, options, error);
    if (r == 0 && c->header_uncertain) {
        r = commit_settle_header(c, &txn->stats.bytes_written, error);
    }
    if (r == 0) {
        r = write_content(txn, options, error);
    }
    if (r == 0) {
        r = write_header(txn, error);
    }
    if (r < 0) {
        return r;
    }
    adopt(txn);
    /* Step 3.  What cannot be written now keeps its flag for the next commit. */
    (void)refcounts_write_pending(&c->refcounts, c->file, &c->space, txn->buffer, false,
                                  &txn->stats.bytes_written);
    punch_committed(c);
    if (ret_stats) {
        *ret_stats = txn->stats;
    }
    txn_free(txn);
    return 0;
}

int commit_again(struct container_txn *txn, struct error *error)
{
    struct container *c = txn->container;
    const struct private_extension *p = &c->header.private;
    struct container_commit_options options = {
        .applied_seq = p->applied_seq,
        .clean = p->clean,
        .commit_id = p->commit_id,
        .boot_id = p->boot_id,
        .identity = p->identity,
    };
    int r = 0;

    container_state(c, &options.state, &options.state_bytes);
    txn->state_lost = c->state_damage[0] != '\0' || (p->flags & PRIVATE_STATE_LOST);
    if (!c->header.has_private) {
        /* A foreign tool's container becomes ours, and needs no journal. */
        options.clean = true;
        r = container_new_uuid(&options.commit_id);
        if (r == 0) {
            r = file_identity_of(c->file, &options.identity);
        }
    }
    return r < 0 ? error_set_errno(error, r, "cannot commit")
                 : container_commit(txn, &options, NULL, error);
}
