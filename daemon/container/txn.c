/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Transactions up to the commit: which bitmaps change, and their clusters of
 * bits.
 *
 * A transaction works on copies ("edits") of the entries it changes and takes
 * clusters that nobody refers to, so that abort is nothing but giving them
 * back.  A cluster that it took and needs no more (a chunk written and then
 * zeroed) is its spare, for its own next write: only the end of the
 * transaction tells whether the list of the fresh is given back or kept.
 */
#include "daemon/container/internal.h"

/* ---- clusters ---- */

int txn_no_space(struct container_txn *txn, int r, uint64_t count, struct error *error)
{
    struct container *c = txn->container;

    if (r != -ENOSPC) {
        return error_set_errno(error, r, "cannot take clusters");
    }
    c->no_space = true;
    return error_set(error, r,
                     "the container is full: %" PRIu64 " of at most %" PRIu64
                     " bytes in use, %" PRIu64 " more needed in one piece",
                     (c->space.clusters - c->space.free) << c->header.cluster_bits,
                     c->space.limit << c->header.cluster_bits, count << c->header.cluster_bits);
}

int txn_take(struct container_txn *txn, uint64_t count, uint64_t *ret_start, struct error *error)
{
    struct container *c = txn->container;
    uint64_t start;
    int r;

    if (count == 1 && txn->n_spare > 0) {
        *ret_start = txn->spare[--txn->n_spare];
        return 0;
    }
    r = space_take(&c->space, count, &start);
    if (r < 0) {
        return txn_no_space(txn, r, count, error);
    }
    r = runs_push(&txn->fresh, start, count);
    if (r < 0) {
        space_unref(&c->space, start, count);
        return error_set_errno(error, r, "cannot take clusters");
    }
    *ret_start = start;
    return 0;
}

int txn_drop(struct container_txn *txn, uint64_t start, uint64_t count)
{
    return count ? runs_push(&txn->drop, start, count) : 0;
}

static int txn_spare(struct container_txn *txn, uint32_t cluster)
{
    if (txn->n_spare == txn->spare_capacity) {
        size_t capacity = txn->spare_capacity ? txn->spare_capacity * 2 : 64;
        uint32_t *spare = reallocarray(txn->spare, capacity, sizeof *spare);
        if (!spare) {
            return -ENOMEM;
        }
        txn->spare = spare;
        txn->spare_capacity = capacity;
    }
    txn->spare[txn->n_spare++] = cluster;
    txn->taken--;
    return 0;
}

int txn_io_write(struct container_txn *txn, const void *buffer, uint64_t bytes, uint64_t offset,
                 const char *what, struct error *error)
{
    int r = file_write(txn->container->file, buffer, (size_t)bytes, offset);
    if (r < 0) {
        txn->container->no_space |= r == -ENOSPC;
        return error_set_errno(error, r, "cannot write %s at offset %" PRIu64, what, offset);
    }
    txn->stats.bytes_written += bytes;
    return 0;
}

int slot_release(struct container_txn *txn, struct entry *e, struct slot *slot)
{
    uint32_t cluster = slot->where & SLOT_CLUSTER;
    int r = 0;

    if (cluster) {
        if (slot->where & SLOT_FRESH) {
            r = txn_spare(txn, cluster);
        } else {
            r = txn_drop(txn, cluster, 1);
            txn->dropped++;
        }
        if (r < 0) {
            return r;
        }
        e->allocated--;
        e->data -= !(slot->where & SLOT_ZERO);
    }
    *slot = (struct slot){0};
    return 0;
}

/* Gives up all that the bitmap refers to, but for its L1 table. */
static int entry_release(struct container_txn *txn, struct entry *e)
{
    for (size_t i = 0; i < e->claims.n; i++) {
        int r = txn_drop(txn, e->claims.items[i].start, e->claims.items[i].count);
        if (r < 0) {
            return r;
        }
    }
    runs_deinit(&e->claims);
    for (uint32_t i = 0; e->slots && i < e->l1_entries; i++) {
        int r = slot_release(txn, e, &e->slots[i]);
        if (r < 0) {
            return r;
        }
    }
    free(e->slots);
    e->slots = NULL;
    return 0;
}

/* The clusters of the committed L1 table, which is not lost. */
static int entry_drop_l1(struct container_txn *txn, const struct entry *old)
{
    uint32_t bits = txn->container->header.cluster_bits;
    uint64_t count = clusters_for((uint64_t)old->l1_entries * L1_ENTRY_BYTES, bits);

    txn->dropped += count;
    return txn_drop(txn, old->l1_offset >> bits, count);
}

int edit_dirty(struct container_txn *txn, struct edit *edit)
{
    struct entry *e = edit->new;
    int r;

    if (edit->l1_dirty) {
        return 0;
    }
    if (e->l1_lost) {
        r = entry_release(txn, e);
        e->l1_lost = false;
    } else {
        /* Clusters without CRCs cannot stand beside those that have them. */
        r = e->has_crcs ? 0 : entry_release(txn, e);
        if (r == 0 && edit->old) {
            r = entry_drop_l1(txn, edit->old);
        }
    }
    if (r < 0) {
        return r;
    }
    e->has_crcs = true;
    edit->l1_dirty = true;
    return 0;
}

int edit_move_l1(struct container_txn *txn, struct edit *edit)
{
    int r = edit->l1_dirty ? 0 : entry_drop_l1(txn, edit->old);
    edit->l1_dirty |= r == 0;
    return r;
}

/* ---- calls ---- */

static int fail(struct container_txn *txn, int r)
{
    txn->failed = true;
    return r;
}

int container_begin(struct container *c, struct container_txn **ret, struct error *error)
{
    CLEANUP_FREE struct container_txn *txn = NULL;

    if (!c->writable) {
        return error_set(error, -EROFS, "the container was opened for reading only");
    }
    if (c->txn) {
        return error_set(error, -EINVAL, "the container has an open transaction");
    }
    txn = calloc(1, sizeof *txn);
    if (!txn || !(txn->buffer = malloc(cluster_bytes(c)))) {
        return error_set_errno(error, -ENOMEM, "cannot begin a transaction");
    }
    txn->container = c;
    txn->n_entries = c->directory.n;
    c->txn = txn;
    *ret = STEAL(txn);
    return 0;
}

static int check_name(const struct container_txn *txn, const char *name, struct error *error)
{
    size_t bytes = strlen(name);

    if (bytes == 0 || bytes > CONTAINER_NAME_BYTES_MAX) {
        return error_set(error, -EINVAL, "name: found %zu bytes, expected 1 to %u", bytes,
                         CONTAINER_NAME_BYTES_MAX);
    }
    if (edit_name_in_use(txn, name, bytes)) {
        return error_set(error, -EEXIST, "the container has a bitmap \"%s\" already", name);
    }
    return 0;
}

static int check_geometry(const struct container_txn *txn, uint64_t sectors, uint32_t granularity,
                          uint32_t *ret_l1_entries, struct error *error)
{
    uint64_t l1_entries;

    if (sectors == 0) {
        return error_set(error, -EINVAL, "size: found 0 sectors, expected at least 1");
    }
    if (!entry_geometry(sectors, granularity, txn->container->header.cluster_bits, &l1_entries,
                        error)) {
        return -EINVAL;
    }
    *ret_l1_entries = (uint32_t)l1_entries;
    return 0;
}

int container_txn_add(struct container_txn *txn, uint64_t id, const char *name,
                      uint32_t granularity, uint64_t sectors, struct error *error)
{
    struct edit *edit;
    uint32_t l1_entries = 0;
    int r;

    if (id == 0 || edit_by_id(txn, id) || directory_find_id(&txn->container->directory, id)) {
        return fail(txn, error_set(error, id ? -EEXIST : -EINVAL,
                                   "the id %" PRIu64 " is not free for a new bitmap", id));
    }
    if (txn->n_entries >= CONTAINER_BITMAPS_MAX) {
        return fail(txn,
                    error_set(error, -ENOSPC, "the container has %u bitmaps, as many as it can",
                              CONTAINER_BITMAPS_MAX));
    }
    r = check_name(txn, name, error);
    if (r == 0) {
        r = check_geometry(txn, sectors, granularity, &l1_entries, error);
    }
    if (r < 0) {
        return fail(txn, r);
    }
    edit = calloc(1, sizeof *edit);
    if (!edit || !(edit->new = calloc(1, sizeof *edit->new)) || !(edit->new->name = strdup(name))) {
        edit_free(edit);
        return fail(txn, error_set_errno(error, -ENOMEM, "cannot add a bitmap"));
    }
    edit->id = id;
    edit->l1_dirty = true;
    edit->new->id = id;
    edit->new->name_bytes = (uint32_t)strlen(name);
    edit->new->granularity = granularity;
    edit->new->sectors = sectors;
    edit->new->l1_entries = l1_entries;
    edit->new->has_crcs = true;
    r = edit_push(txn, edit);
    if (r < 0) {
        return fail(txn, error_set_errno(error, r, "cannot add a bitmap"));
    }
    txn->n_entries++;
    return 0;
}

static int edit_rename(struct container_txn *txn, struct edit *edit, const char *name,
                       struct error *error)
{
    size_t bytes = strlen(name);
    int r;

    if (edit->new->name_bytes == bytes && memcmp(edit->new->name, name, bytes) == 0) {
        return 0;
    }
    r = check_name(txn, name, error);
    if (r < 0) {
        return r;
    }
    r = edit_set_name(txn, edit, name);
    return r < 0 ? error_set_errno(error, r, "cannot rename a bitmap") : 0;
}

static int edit_resize(struct container_txn *txn, struct edit *edit, uint64_t sectors,
                       struct error *error)
{
    struct entry *e = edit->new;
    uint32_t l1_entries = 0;
    int r;

    if (sectors == e->sectors) {
        return 0;
    }
    r = check_geometry(txn, sectors, e->granularity, &l1_entries, error);
    if (r < 0) {
        return r;
    }
    /* The old table's clusters are given up by its own length: before it changes. */
    r = edit_dirty(txn, edit);
    for (uint32_t i = l1_entries; r == 0 && e->slots && i < e->l1_entries; i++) {
        r = slot_release(txn, e, &e->slots[i]);
    }
    if (r == 0 && e->slots && l1_entries > e->l1_entries) {
        struct slot *slots = reallocarray(e->slots, l1_entries, sizeof *slots);
        if (slots) {
            memset(slots + e->l1_entries, 0, (l1_entries - e->l1_entries) * sizeof *slots);
            e->slots = slots;
        } else {
            r = -ENOMEM;
        }
    }
    if (r < 0) {
        return error_set_errno(error, r, "cannot resize a bitmap");
    }
    e->sectors = sectors;
    e->l1_entries = l1_entries;
    free(edit->touched);
    edit->touched = NULL;
    edit->n_touched = 0;
    return 0;
}

int container_txn_update(struct container_txn *txn, uint64_t id, const char *name, uint64_t sectors,
                         struct error *error)
{
    struct edit *edit;
    int r;

    r = edit_begin(txn, id, &edit, error);
    if (r == 0 && name) {
        r = edit_rename(txn, edit, name, error);
    }
    if (r == 0 && sectors != 0) {
        r = edit_resize(txn, edit, sectors, error);
    }
    return r < 0 ? fail(txn, r) : 0;
}

int edit_remove(struct container_txn *txn, struct edit *edit)
{
    struct entry *e = edit->new;
    int r = 0;

    if (edit->old && !edit->l1_dirty && !e->l1_lost) {
        r = entry_drop_l1(txn, edit->old);
    }
    if (r == 0) {
        r = entry_release(txn, e);
    }
    if (r < 0) {
        return r;
    }
    entry_free(e);
    edit->new = NULL;
    txn->n_entries--;
    return 0;
}

int container_txn_remove(struct container_txn *txn, uint64_t id, struct error *error)
{
    struct edit *edit;
    int r;

    r = edit_begin(txn, id, &edit, error);
    if (r == 0) {
        r = edit_remove(txn, edit);
        if (r < 0) {
            (void)error_set_errno(error, r, "cannot remove a bitmap");
        }
    }
    return r < 0 ? fail(txn, r) : 0;
}

int container_txn_remove_foreign(struct container_txn *txn, uint32_t index, struct error *error)
{
    struct edit *edit;
    int r;

    r = edit_begin_foreign(txn, index, &edit, error);
    if (r == 0) {
        r = edit_remove(txn, edit);
        if (r < 0) {
            (void)error_set_errno(error, r, "cannot remove a bitmap");
        }
    }
    return r < 0 ? fail(txn, r) : 0;
}

/* The slot that is about to change, its L1 table made dirty and the entry marked as touched. */
static int edit_slot(struct container_txn *txn, uint64_t id, uint32_t l1_index, bool allocate,
                     struct edit **ret_edit, struct slot **ret_slot, struct error *error)
{
    struct edit *edit;
    int r;

    r = edit_begin(txn, id, &edit, error);
    if (r < 0) {
        return r;
    }
    struct entry *e = edit->new;
    if (l1_index >= e->l1_entries) {
        return error_set(error, -EINVAL,
                         "bitmap \"%s\": found L1 index %" PRIu32 ", expected less than %" PRIu32,
                         e->name, l1_index, e->l1_entries);
    }
    if (!edit->old || edit->old->l1_lost) {
        /* What a damaged table says of the geometry is not to be multiplied with. */
        uint32_t l1_entries = 0;
        r = check_geometry(txn, e->sectors, e->granularity, &l1_entries, error);
        if (r < 0 || l1_entries != e->l1_entries) {
            return error_set(error, -EBADMSG,
                             "bitmap \"%s\" cannot be written: its entry in the bitmap table is "
                             "damaged",
                             e->name);
        }
    }
    r = edit_dirty(txn, edit);
    if (r == 0 && !edit->touched) {
        edit->touched = calloc(((size_t)e->l1_entries + 7) / 8, 1);
        r = edit->touched ? 0 : -ENOMEM;
    }
    if (r == 0 && allocate && !e->slots) {
        e->slots = calloc(e->l1_entries, sizeof *e->slots);
        r = e->slots ? 0 : -ENOMEM;
    }
    if (r < 0) {
        return error_set_errno(error, r, "cannot change a bitmap");
    }
    uint8_t mask = (uint8_t)(1u << (l1_index % 8));
    edit->n_touched += !(edit->touched[l1_index / 8] & mask);
    edit->touched[l1_index / 8] |= mask;
    *ret_edit = edit;
    *ret_slot = e->slots ? &e->slots[l1_index] : NULL;
    return 0;
}

int container_txn_zero(struct container_txn *txn, uint64_t id, uint32_t l1_index,
                       struct error *error)
{
    struct edit *edit;
    struct slot *slot;
    int r;

    r = edit_slot(txn, id, l1_index, false, &edit, &slot, error);
    if (r == 0 && slot) {
        r = slot_release(txn, edit->new, slot);
        if (r < 0) {
            (void)error_set_errno(error, r, "cannot change a bitmap");
        }
    }
    return r < 0 ? fail(txn, r) : 0;
}

int slot_write(struct container_txn *txn, struct edit *edit, struct slot *slot, const void *bits,
               size_t length_bytes, struct error *error)
{
    struct container *c = txn->container;
    uint64_t cluster;
    int r;

    if (slot->where & SLOT_FRESH) {
        cluster = slot->where & SLOT_CLUSTER;
    } else {
        r = txn_take(txn, 1, &cluster, error);
        if (r < 0) {
            return r;
        }
        txn->taken++;
        r = slot_release(txn, edit->new, slot);
        if (r < 0) {
            return error_set_errno(error, r, "cannot change a bitmap");
        }
        slot->where = (uint32_t)cluster | SLOT_FRESH;
        edit->new->allocated++;
        edit->new->data++;
    }
    memcpy(txn->buffer, bits, length_bytes);
    memset(txn->buffer + length_bytes, 0, cluster_bytes(c) - length_bytes);
    slot->crc = crc32c(0, txn->buffer, cluster_bytes(c));
    r = txn_io_write(txn, txn->buffer, cluster_bytes(c), cluster << c->header.cluster_bits,
                     "a cluster of bits", error);
    if (r < 0) {
        return r;
    }
    txn->stats.clusters_written++;
    return 0;
}

int container_txn_write(struct container_txn *txn, uint64_t id, uint32_t l1_index, const void *bits,
                        size_t length_bytes, struct error *error)
{
    struct container *c = txn->container;
    struct edit *edit;
    struct slot *slot;
    int r;

    if (length_bytes > cluster_bytes(c)) {
        return fail(txn,
                    error_set(error, -EINVAL, "found %zu bytes of bits, expected at most %" PRIu64,
                              length_bytes, cluster_bytes(c)));
    }
    if (bits_clear_from(bits, length_bytes, 0)) {
        return container_txn_zero(txn, id, l1_index, error);
    }
    r = edit_slot(txn, id, l1_index, true, &edit, &slot, error);
    if (r < 0) {
        return fail(txn, r);
    }
    uint64_t exist = entry_bits_in_cluster(edit->new, c->header.cluster_bits, l1_index);
    if (!bits_clear_from(bits, length_bytes, exist)) {
        return fail(txn, error_set(error, -EINVAL,
                                   "bitmap \"%s\", L1 index %" PRIu32
                                   ": found bits set beyond the last granule, expected them clear",
                                   edit->new->name, l1_index));
    }
    r = slot_write(txn, edit, slot, bits, length_bytes, error);
    return r < 0 ? fail(txn, r) : 0;
}

/* ---- the end ---- */

void txn_free(struct container_txn *txn)
{
    for (size_t i = 0; i < txn->n_edits; i++) {
        edit_free(txn->edits[i]);
    }
    free(txn->edits);
    free(txn->by_id.slots);
    free(txn->by_name.slots);
    free(txn->buffer);
    free(txn->spare);
    runs_deinit(&txn->fresh);
    runs_deinit(&txn->drop);
    if (txn->directory.entries != txn->entries) {
        free(txn->entries);
    }
    directory_deinit(&txn->directory);
    free(txn->header.block);
    blob_deinit(&txn->blob);
    free(txn->table);
    free(txn->new_blocks);
    free(txn->planned);
    refcounts_deinit(&txn->grown);
    txn->container->txn = NULL;
    free(txn);
}

static void give_back(struct container *c, bool in_doubt, uint64_t start, uint64_t count)
{
    const struct run run = {.start = start, .count = count};

    if (!in_doubt) {
        space_unref(&c->space, start, count);
        refcounts_flag_run(&c->refcounts, &run, REFCOUNT_LOWER);
        punch_later(c, start, count);
    } else {
        /* Without memory to remember them they stay in use until the container is opened again. */
        (void)runs_push(&c->limbo, start, count);
    }
}

void container_abort(struct container_txn *txn)
{
    if (!txn) {
        return;
    }
    struct container *c = txn->container;
    bool in_doubt = txn->header_attempted;

    for (size_t i = 0; i < txn->fresh.n; i++) {
        give_back(c, in_doubt, txn->fresh.items[i].start, txn->fresh.items[i].count);
    }
    for (size_t i = 0; i < txn->n_new_blocks; i++) {
        give_back(c, in_doubt, txn->new_blocks[i].cluster, 1);
    }
    reserve_aborted(txn, !in_doubt);
    for (size_t i = 0; i < txn->n_edits; i++) {
        if (txn->edits[i]->old) {
            txn->edits[i]->old->edit = NULL;
        }
    }
    txn_free(txn);
}
