/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * `container compact`: the file becomes as short as it can be, and has no
 * blocks where nothing is in use.
 *
 * Whatever lies behind the place where the file could end goes to free clusters
 * in front, by commits like any other (but under the old commit id, so that the
 * journal beside it still fits).  A commit needs room for its table and blob
 * beside the old ones, and the refcount structures are made anew to count no
 * more than there is, so it takes a few rounds until the end comes to rest.
 * Only then, with the last commit and the refcounts that it lowered on the disk,
 * is the file cut and are holes punched, in what no commit on the disk refers to.
 *
 * What is damaged stays where it is, and so does everything that only refcounts
 * speak for, and what belongs to a disk of the image's own.
 */
#include "daemon/container/internal.h"

#define ROUNDS_MAX      8u
#define REFCOUNT_ROUNDS 2u /* make the refcounts anew: out of the way, and back to the front */

static bool free_below(const struct space *space, uint64_t cluster)
{
    return space->lowest < cluster &&
           memchr(space->refs + space->lowest, 0, cluster - space->lowest) != NULL;
}

/* The cluster behind the last one in use. */
static uint64_t end_of_use(const struct container *c)
{
    uint64_t end = c->space.clusters;

    while (end > 0 && c->space.refs[end - 1] == 0) {
        end--;
    }
    return end;
}

/* Whether nothing but references of ours keeps clusters in use. */
static bool all_ours(const struct container *c)
{
    return header_fully_understood(&c->header) &&
           !memchr(c->space.refs, REFS_PINNED, c->space.clusters);
}

/* The next commit makes refcount table and blocks anew.  After a failure of this the container
 * cannot be committed any more. */
static int refcounts_anew(struct container_txn *txn)
{
    struct container *c = txn->container;
    struct refcounts *rc = &c->refcounts;
    int r = txn_drop(txn, rc->table_offset >> rc->cluster_bits, rc->table_clusters);

    for (uint32_t i = 0; i < rc->n_blocks && r == 0; i++) {
        if (rc->blocks[i].offset != 0) {
            r = txn_drop(txn, rc->blocks[i].offset >> rc->cluster_bits, 1);
            rc->blocks[i] = (struct refcount_block){0};
        }
    }
    rc->n_pending = 0;
    rc->table_clusters = 0;
    rc->uncovered = true;
    return r;
}

/* Bits that do not agree with their CRC must not get a new one. */
static int move_slot(struct container_txn *txn, struct edit *edit, uint32_t index, uint8_t *buffer,
                     struct error *error)
{
    struct container *c = txn->container;
    struct slot *slot = &edit->new->slots[index];
    uint64_t offset = (uint64_t)(slot->where & SLOT_CLUSTER) << c->header.cluster_bits;
    int r;

    if (slot->where & SLOT_ZERO) {
        r = slot_release(txn, edit->new, slot);
        return r < 0 ? error_set_errno(error, r, "cannot move a cluster of bits") : 0;
    }
    r = file_read(c->file, buffer, cluster_bytes(c), offset);
    if (r < 0) {
        return error_set_errno(error, r, "cannot read a cluster of bits at offset %" PRIu64,
                               offset);
    }
    uint32_t crc = crc32c(0, buffer, cluster_bytes(c));
    if (edit->new->has_crcs && crc != slot->crc) {
        return error_set(error, -EBADMSG,
                         "bitmap \"%s\", cluster of bits %" PRIu32 " at offset %" PRIu64
                         ": found CRC32C 0x%08" PRIx32 ", expected 0x%08" PRIx32
                         "; check and repair come first",
                         edit->new->name, index, offset, crc, slot->crc);
    }
    return slot_write(txn, edit, slot, buffer, cluster_bytes(c), error);
}

static int move_entry(struct container_txn *txn, const struct entry *e, uint64_t boundary,
                      uint8_t *buffer, uint64_t *moved, struct error *error)
{
    struct container *c = txn->container;
    uint32_t bits = c->header.cluster_bits;
    uint64_t count = clusters_for((uint64_t)e->l1_entries * L1_ENTRY_BYTES, bits);
    bool l1_behind = (e->l1_offset >> bits) + count > boundary;
    struct edit *edit = NULL;
    int r = 0;

    if (e->damage) {
        return 0;
    }
    for (uint32_t i = 0; r == 0 && e->l1_entries > 0 && i < e->l1_entries; i++) {
        uint64_t cluster = e->slots ? e->slots[i].where & SLOT_CLUSTER : 0;
        bool behind = cluster >= boundary && free_below(&c->space, cluster);
        if (!behind && !(i == 0 && l1_behind)) {
            continue;
        }
        if (!edit) {
            r = e->id ? edit_begin(txn, e->id, &edit, error)
                      : edit_begin_foreign(txn, e->index, &edit, error);
            if (r == 0 && (r = edit_move_l1(txn, edit)) < 0) {
                (void)error_set_errno(error, r, "cannot move an L1 table");
            }
            *moved += r == 0 ? count : 0;
        }
        if (r == 0 && behind) {
            r = move_slot(txn, edit, i, buffer, error);
            ++*moved;
        }
    }
    return r;
}

static int compact_round(struct container *c, uint8_t *buffer, bool refcounts, uint64_t *moved,
                         struct error *error)
{
    uint64_t boundary = c->space.clusters - c->space.free;
    struct container_txn *txn;
    int r;

    r = container_begin(c, &txn, error);
    if (r < 0) {
        return r;
    }
    for (uint32_t i = 0; i < c->directory.n && r == 0; i++) {
        r = move_entry(txn, c->directory.entries[i], boundary, buffer, moved, error);
    }
    if (r == 0 && refcounts && all_ours(c) && (r = refcounts_anew(txn)) < 0) {
        (void)error_set_errno(error, r, "cannot make the refcounts anew");
    }
    if (r == 0) {
        r = commit_again(txn, error);
    }
    if (r < 0) {
        container_abort(txn);
    }
    return r;
}

/* The file has nothing to lose any more behind the last cluster in use, nor in free ones. */
static int cut_and_punch(struct container *c, uint64_t *punched, struct error *error)
{
    uint64_t end = end_of_use(c), bytes;
    CLEANUP(runs_deinit) struct runs all = {0};
    int r;

    r = file_datasync(c->file);
    if (r == 0) {
        r = file_size(c->file, &bytes);
    }
    if (r == 0 && bytes > end << c->header.cluster_bits) {
        r = file_truncate(c->file, end << c->header.cluster_bits);
    }
    if (r == 0) {
        r = runs_push(&all, 0, end);
    }
    if (r == 0) {
        *punched = punch_runs(c, &all);
        r = file_datasync(c->file);
    }
    return r < 0 ? error_set_errno(error, r, "cannot cut the container") : 0;
}

static int compact_loaded(struct container *c, struct container_compact_report *report,
                          struct error *error)
{
    CLEANUP_FREE uint8_t *buffer = malloc(cluster_bytes(c));
    uint64_t shortest = UINT64_MAX, end;
    int r = 0;

    if (!buffer) {
        return error_set_errno(error, -ENOMEM, "cannot compact the container");
    }
    /* Until there are no holes, or nothing is gained.  A round that finds too few of them for what
     * it writes anew makes the file longer, and the one after it shorter again. */
    for (unsigned round = 0; round < ROUNDS_MAX; round++) {
        r = compact_round(c, buffer, round < REFCOUNT_ROUNDS, &report->moved, error);
        end = end_of_use(c);
        if (r < 0 || end == shortest || !free_below(&c->space, end)) {
            break;
        }
        shortest = min_u64(shortest, end);
    }
    return r < 0 ? r : cut_and_punch(c, &report->punched, error);
}

int container_compact(struct file *file, struct container_compact_report *ret, struct error *error)
{
    CLEANUP(container_unloadp) struct container *c = NULL;
    struct container_compact_report report = {0};
    int r;

    r = container_load(file, 0, NULL, &c, error);
    if (r == 0) {
        r = container_check_prepared(c, error);
    }
    if (r < 0) {
        return r;
    }
    if (c->state_damage[0] && !(c->header.private.flags & PRIVATE_STATE_LOST)) {
        return error_set(error, -EBADMSG, "%s; check and repair come first", c->state_damage);
    }
    r = file_size(file, &report.size_before);
    if (r < 0) {
        return error_set_errno(error, r, "cannot tell the container's size");
    }
    r = container_prepare_writing(c, error);
    if (r < 0) {
        return r;
    }
    c->offline = true;
    r = compact_loaded(c, &report, error);
    if (r < 0) {
        return r;
    }
    r = file_size(file, &report.size_after);
    if (r < 0) {
        return error_set_errno(error, r, "cannot tell the container's size");
    }
    *ret = report;
    return 0;
}
