/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The clusters of an internal container's own disk: which ones QEMU's
 * structures lead to, and how often.  Nothing of this is ever written to; it
 * is followed so that no cluster of the disk is taken for free, and so that
 * the check can tell a wrong refcount.
 *
 * A data cluster's refcount is the number of L2 entries that name it, each
 * counted once per L1 entry that leads to its L2 table.  So L1 tables come
 * first and count the L2 tables; then each L2 table is read once, however many
 * snapshots share it, and its entries count as often as the table does.
 *
 * Invariants:
 *   - the clusters of L1 tables, snapshot table and the like belong to one
 *     structure each: one that is claimed twice is damage.  Hence every table
 *     is read once, and what is read is no more than the file holds, whatever
 *     its fields claim and wherever they point, at themselves too;
 *   - all clusters of the disk are REFS_PINNED in struct space.  What is ours is
 *     claimed afterwards and sees the overlap, if there is one.
 */
#include "daemon/container/disk.h"

#include <stdio.h>

/* Clusters that end at @end: of the file, or the one behind, into which compressed data may reach.
 */
static int reach(struct disk *d, uint64_t cluster)
{
    struct space *space = &d->container->space;

    return cluster < space->clusters ? 0 : space_extend(space, cluster + 1);
}

static void count(struct disk *d, uint64_t cluster, uint32_t times)
{
    uint32_t *refs = &d->container->disk_refs[cluster];
    uint32_t left = DISK_REFS_COUNT - (*refs & DISK_REFS_COUNT);

    if (d->container->space.refs[cluster] == 0) {
        space_mark(&d->container->space, cluster, 1, REFS_PINNED);
    }
    *refs += times < left ? times : left;
}

int disk_claim(struct disk *d, const char *what, uint64_t offset, uint64_t bytes)
{
    struct container *c = d->container;
    uint64_t size = cluster_bytes(c);

    if (offset & (size - 1)) {
        return load_problem(d->sink, d->error,
                            "%s: found offset %" PRIu64 ", expected a multiple of %" PRIu64, what,
                            offset, size);
    }
    if (offset > d->file_bytes || bytes > d->file_bytes - offset) {
        return load_problem(d->sink, d->error,
                            "%s: found offset %" PRIu64 " and length %" PRIu64
                            ", expected both within the file's %" PRIu64 " bytes",
                            what, offset, bytes, d->file_bytes);
    }
    uint64_t start = offset >> c->header.cluster_bits;
    uint64_t n = clusters_for(bytes, c->header.cluster_bits);
    for (uint64_t i = start; i < start + n; i++) {
        if (c->space.refs[i] != 0) {
            return load_problem(d->sink, d->error,
                                "%s at offset %" PRIu64 ": found cluster %" PRIu64
                                " in use by another structure, expected it free",
                                what, offset, i);
        }
    }
    for (uint64_t i = start; i < start + n; i++) {
        count(d, i, 1);
        c->disk_refs[i] |= DISK_REFS_META;
    }
    return 0;
}

int disk_data(struct disk *d, const char *where, uint64_t cluster, uint32_t times)
{
    struct container *c = d->container;
    int r = reach(d, cluster);

    if (r < 0) {
        return error_set_errno(d->error, r, "cannot follow the disk's clusters");
    }
    uint8_t refs = c->space.refs[cluster];
    if (refs != 0 && (refs != REFS_PINNED || (c->disk_refs[cluster] & DISK_REFS_META))) {
        return load_problem(d->sink, d->error,
                            "%s: found cluster %" PRIu64
                            ", which holds another structure, expected data",
                            where, cluster);
    }
    count(d, cluster, times);
    return 0;
}

/* One entry of an L1 table. */
static int l1_entry(struct disk *d, const char *what, uint64_t at, uint64_t value)
{
    struct container *c = d->container;
    uint64_t offset = value & DISK_OFFSET_MASK;

    if ((value & DISK_L1_RESERVED) || (offset & (cluster_bytes(c) - 1))) {
        return load_problem(d->sink, d->error,
                            "%s, entry at offset %" PRIu64 ": found 0x%016" PRIx64
                            ", expected reserved bits clear and a multiple of %" PRIu64,
                            what, at, value, cluster_bytes(c));
    }
    if (offset == 0) {
        return 0;
    }
    /* The last cluster of a file need not be there to its end. */
    if (offset >= d->file_bytes) {
        return load_problem(d->sink, d->error,
                            "%s, entry at offset %" PRIu64 ": found an L2 table at %" PRIu64
                            ", expected it within the file's %" PRIu64 " bytes",
                            what, at, offset, d->file_bytes);
    }
    uint64_t cluster = offset >> c->header.cluster_bits;
    if (!(c->disk_refs[cluster] & DISK_REFS_L2)) {
        if (c->space.refs[cluster] != 0) {
            return load_problem(d->sink, d->error,
                                "%s, entry at offset %" PRIu64 ": found cluster %" PRIu64
                                ", which holds another structure, expected an L2 table",
                                what, at, cluster);
        }
        c->disk_refs[cluster] = DISK_REFS_META | DISK_REFS_L2;
    }
    count(d, cluster, 1);
    return 0;
}

int disk_l1_table(struct disk *d, const char *what, uint64_t offset, uint64_t entries)
{
    uint64_t bytes = entries * DISK_ENTRY_BYTES;
    int r;

    if (entries == 0) {
        return 0;
    }
    if (bytes > DISK_L1_BYTES_MAX) {
        return load_problem(d->sink, d->error, "%s: found %" PRIu64 " entries, expected at most %u",
                            what, entries, (unsigned)(DISK_L1_BYTES_MAX / DISK_ENTRY_BYTES));
    }
    r = disk_claim(d, what, offset, bytes);
    if (r != 0) {
        return r < 0 ? r : 0;
    }
    for (uint64_t at = 0; at < bytes; at += DISK_CHUNK_BYTES) {
        size_t n = (size_t)min_u64(DISK_CHUNK_BYTES, bytes - at);
        r = file_read(d->container->file, d->chunk, n, offset + at);
        if (r < 0) {
            return error_set_errno(d->error, r, "cannot read %s at offset %" PRIu64, what, offset);
        }
        for (size_t i = 0; i < n; i += DISK_ENTRY_BYTES) {
            uint64_t value = load_be64(d->chunk + i);
            r = value != 0 ? l1_entry(d, what, offset + at + i, value) : 0;
            if (r < 0) {
                return r;
            }
        }
    }
    return 0;
}

static int compressed_entry(struct disk *d, const char *where, uint64_t value, uint32_t times)
{
    uint32_t bits = d->container->header.cluster_bits;
    unsigned offset_bits = 62 - (bits - 8);
    uint64_t offset = value & ((UINT64_C(1) << offset_bits) - 1);
    uint64_t sectors = ((value & (DISK_COMPRESSED - 1)) >> offset_bits) + 1;
    uint64_t end = (offset & ~UINT64_C(511)) + sectors * 512;

    if (value & DISK_COPIED) {
        return load_problem(d->sink, d->error,
                            "%s: found 0x%016" PRIx64 ", expected bit 63 clear in a compressed one",
                            where, value);
    }
    if (offset >= d->file_bytes ||
        (end > d->file_bytes && end - d->file_bytes >= UINT64_C(1) << bits)) {
        return load_problem(d->sink, d->error,
                            "%s: found compressed data from offset %" PRIu64 " to %" PRIu64
                            ", expected them within the file's %" PRIu64 " bytes",
                            where, offset, end, d->file_bytes);
    }
    for (uint64_t i = offset >> bits; i <= (end - 1) >> bits; i++) {
        int r = disk_data(d, where, i, times);
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

static int l2_entry(struct disk *d, uint64_t at, uint64_t value, uint32_t times)
{
    struct container *c = d->container;
    uint64_t offset = value & DISK_OFFSET_MASK;
    uint64_t cluster = offset >> c->header.cluster_bits;
    char where[64];

    /* The common case first, without words for what will not be said. */
    if (!(value & (DISK_COMPRESSED | DISK_L2_RESERVED)) && !(offset & (cluster_bytes(c) - 1)) &&
        offset < d->file_bytes) {
        uint8_t refs = c->space.refs[cluster];
        if (offset == 0) {
            return 0;
        }
        if (refs == 0 || (refs == REFS_PINNED && !(c->disk_refs[cluster] & DISK_REFS_META))) {
            count(d, cluster, times);
            return 0;
        }
    }
    (void)snprintf(where, sizeof where, "L2 entry at offset %" PRIu64, at);
    if (value & DISK_COMPRESSED) {
        return compressed_entry(d, where, value, times);
    }
    if ((value & DISK_L2_RESERVED) || (offset & (cluster_bytes(c) - 1))) {
        return load_problem(d->sink, d->error,
                            "%s: found 0x%016" PRIx64
                            ", expected reserved bits clear and a multiple of %" PRIu64,
                            where, value, cluster_bytes(c));
    }
    if (offset >= d->file_bytes) {
        return load_problem(d->sink, d->error,
                            "%s: found a data cluster at %" PRIu64
                            ", expected it within the file's %" PRIu64 " bytes",
                            where, offset, d->file_bytes);
    }
    return disk_data(d, where, cluster, times);
}

/* All L2 tables, in the file's order. */
static int l2_tables(struct disk *d)
{
    struct container *c = d->container;
    uint64_t size = cluster_bytes(c);
    CLEANUP_FREE uint8_t *table = malloc(size);

    if (!table) {
        return error_set_errno(d->error, -ENOMEM, "cannot follow the disk's clusters");
    }
    for (uint64_t i = 0; i << c->header.cluster_bits < d->file_bytes; i++) {
        uint64_t offset = i << c->header.cluster_bits;
        if (!(c->disk_refs[i] & DISK_REFS_L2)) {
            continue;
        }
        size_t n = (size_t)min_u64(size, d->file_bytes - offset);
        uint32_t times = c->disk_refs[i] & DISK_REFS_COUNT;
        int r = file_read(c->file, table, n, offset);
        if (r < 0) {
            return error_set_errno(d->error, r, "cannot read the L2 table at offset %" PRIu64,
                                   offset);
        }
        for (size_t at = 0; at + DISK_ENTRY_BYTES <= n; at += DISK_ENTRY_BYTES) {
            uint64_t value = load_be64(table + at);
            r = value != 0 ? l2_entry(d, offset + at, value, times) : 0;
            if (r < 0) {
                return r;
            }
        }
    }
    return 0;
}

/* QEMU opens no image whose L1 table is too short for its disk. */
static int check_size(struct disk *d)
{
    const struct header *h = &d->container->header;
    unsigned l1_bits = h->cluster_bits + h->cluster_bits - 3; /* bytes of disk per entry */
    uint64_t needed =
        (h->virtual_size >> l1_bits) + ((h->virtual_size & ((UINT64_C(1) << l1_bits) - 1)) != 0);

    if (h->l1_entries < needed) {
        return load_problem(d->sink, d->error,
                            "header, L1 entries (byte %u): found %" PRIu32
                            ", expected at least %" PRIu64 " for a disk of %" PRIu64 " bytes",
                            HEADER_L1_ENTRIES, h->l1_entries, needed, h->virtual_size);
    }
    return 0;
}

/* For load_in_disk(): what of ours is in one of these has made way for it. */
static void mark_refcounts(struct container *c)
{
    const struct refcounts *rc = &c->refcounts;
    uint64_t table = rc->table_offset >> rc->cluster_bits;

    for (uint64_t i = table; i < table + rc->table_clusters && i < c->space.clusters; i++) {
        c->disk_refs[i] |= DISK_REFS_REFCOUNTS;
    }
    for (uint32_t i = 0; i < rc->n_blocks; i++) {
        if (rc->blocks[i].offset != 0) {
            c->disk_refs[rc->blocks[i].offset >> rc->cluster_bits] |= DISK_REFS_REFCOUNTS;
        }
    }
}

static int follow(struct disk *d)
{
    const struct header *h = &d->container->header;
    int r;

    r = check_size(d);
    if (r >= 0) {
        r = disk_l1_table(d, "active L1 table", h->l1_offset, h->l1_entries);
    }
    if (r >= 0) {
        r = disk_snapshots(d);
    }
    if (r >= 0) {
        r = disk_bitmaps(d);
    }
    if (r >= 0) {
        r = l2_tables(d);
    }
    return r;
}

int disk_follow(struct container *c, struct load_sink *sink, uint64_t file_bytes,
                struct error *error)
{
    CLEANUP_FREE uint8_t *chunk = NULL;
    struct disk d = {.container = c, .sink = sink, .file_bytes = file_bytes, .error = error};
    uint64_t before = sink ? sink->corruptions : 0;
    int r;

    if (header_refuses_writing(&c->header, NULL) ||
        (!header_has_disk(&c->header) && !header_extension(&c->header, EXTENSION_BITMAPS))) {
        return 0;
    }
    /* One more than the file has: compressed data may reach into it. */
    c->disk_refs = calloc(c->space.clusters + 1, sizeof *c->disk_refs);
    d.chunk = chunk = malloc(DISK_CHUNK_BYTES);
    if (!c->disk_refs || !chunk) {
        return error_set_errno(error, -ENOMEM, "cannot follow the disk's clusters");
    }
    mark_refcounts(c);
    r = follow(&d);
    if (sink) {
        sink->disk = header_has_disk(&c->header) || (c->header.autoclear & AUTOCLEAR_BITMAPS);
        sink->disk_broken = sink->corruptions > before;
    }
    return r < 0 ? r : 0;
}
