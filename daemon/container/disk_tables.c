/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The tables of an internal container's own disk whose entries vary in length:
 * its snapshots, and QEMU's bitmaps (of this disk, in upstream's layout, which
 * is not the draft's).
 *
 * Their lengths follow from their entries, so they are claimed last, when it
 * is known how many clusters they take.  A number of entries is believed only
 * as far as the file goes.
 */
#include "daemon/container/disk.h"

#include <stdio.h>

/* Where a table of variable entries has got to. */
struct cursor {
    const char *table; /* its name, for words */
    uint64_t start;
    uint64_t end; /* of what it may take */
    uint64_t at;
    uint32_t index;
};

/* The fixed part of the next entry.  0, or as load_problem(). */
static int entry_head(struct disk *d, struct cursor *at, uint8_t *head, uint32_t bytes)
{
    if (at->at > at->end || at->end - at->at < bytes) {
        return load_problem(d->sink, d->error,
                            "%s at offset %" PRIu64
                            ": found its end or the file's in entry %" PRIu32 ", expected %" PRIu32
                            " bytes more",
                            at->table, at->start, at->index, bytes);
    }
    int r = file_read(d->container->file, head, bytes, at->at);
    return r < 0 ? error_set_errno(d->error, r, "cannot read the %s at offset %" PRIu64, at->table,
                                   at->at)
                 : 0;
}

/* On to the next entry. */
static int entry_end(struct disk *d, struct cursor *at, uint64_t bytes)
{
    uint64_t padded = (bytes + 7) & ~UINT64_C(7); /* of three lengths of 32 bits at most */

    if (at->end - at->at < bytes) {
        return load_problem(d->sink, d->error,
                            "%s at offset %" PRIu64 ", entry %" PRIu32 ": found length %" PRIu64
                            ", expected at most %" PRIu64,
                            at->table, at->start, at->index, bytes, at->end - at->at);
    }
    at->at += min_u64(padded, at->end - at->at);
    at->index++;
    return 0;
}

int disk_snapshots(struct disk *d)
{
    const struct header *h = &d->container->header;
    struct cursor at = {
        .table = "snapshot table",
        .start = h->snapshots_offset,
        .end = d->file_bytes,
        .at = h->snapshots_offset,
    };
    int r = 0;

    if (h->snapshots == 0) {
        return 0;
    }
    if (h->snapshots > SNAPSHOTS_MAX) {
        return load_problem(d->sink, d->error,
                            "header, snapshots (byte %u): found %" PRIu32 ", expected at most %u",
                            HEADER_SNAPSHOTS, h->snapshots, SNAPSHOTS_MAX);
    }
    if (at.start < d->file_bytes) {
        at.end = at.start + min_u64(d->file_bytes - at.start, SNAPSHOT_TABLE_BYTES_MAX);
    }
    while (at.index < h->snapshots && r == 0) {
        uint8_t head[SNAPSHOT_HEADER_BYTES];
        char what[48];
        r = entry_head(d, &at, head, sizeof head);
        if (r != 0) {
            return r;
        }
        uint32_t extra = load_be32(head + SNAPSHOT_EXTRA_LENGTH);
        if (extra > SNAPSHOT_EXTRA_MAX) {
            return load_problem(d->sink, d->error,
                                "snapshot table at offset %" PRIu64 ", entry %" PRIu32
                                ": found %" PRIu32 " bytes of extra data, expected at most %u",
                                at.start, at.index, extra, SNAPSHOT_EXTRA_MAX);
        }
        (void)snprintf(what, sizeof what, "L1 table of snapshot %" PRIu32, at.index);
        r = disk_l1_table(d, what, load_be64(head + SNAPSHOT_L1_OFFSET),
                          load_be32(head + SNAPSHOT_L1_ENTRIES));
        if (r >= 0) {
            r = entry_end(d, &at,
                          (uint64_t)SNAPSHOT_HEADER_BYTES + extra +
                              load_be16(head + SNAPSHOT_ID_LENGTH) +
                              load_be16(head + SNAPSHOT_NAME_LENGTH));
        }
    }
    return r == 0 ? disk_claim(d, "snapshot table", at.start, at.at - at.start) : r;
}

static int bitmap_entry(struct disk *d, const char *what, uint64_t at, uint64_t value)
{
    struct container *c = d->container;
    uint64_t data = value & DISK_OFFSET_MASK;

    if ((value & BITMAPS_TABLE_RESERVED) || (data & (cluster_bytes(c) - 1)) ||
        (data != 0 && ((value & 1) || data >= d->file_bytes))) {
        return load_problem(d->sink, d->error,
                            "%s, entry at offset %" PRIu64 ": found 0x%016" PRIx64
                            ", expected a cluster within the file, 0 or 1",
                            what, at, value);
    }
    return data != 0 ? disk_data(d, what, data >> c->header.cluster_bits, 1) : 0;
}

/* One bitmap's table and clusters of bits. */
static int bitmap_table(struct disk *d, uint32_t index, uint64_t offset, uint32_t entries)
{
    struct container *c = d->container;
    uint64_t bytes = (uint64_t)entries * DISK_ENTRY_BYTES;
    char what[64];
    int r;

    (void)snprintf(what, sizeof what, "table of QEMU's bitmap %" PRIu32, index);
    r = disk_claim(d, what, offset, bytes);
    if (r != 0) {
        return r < 0 ? r : 0;
    }
    for (uint64_t at = 0; at < bytes; at += DISK_CHUNK_BYTES) {
        size_t n = (size_t)min_u64(DISK_CHUNK_BYTES, bytes - at);
        r = file_read(c->file, d->chunk, n, offset + at);
        if (r < 0) {
            return error_set_errno(d->error, r, "cannot read the %s at offset %" PRIu64, what,
                                   offset);
        }
        for (size_t i = 0; i < n; i += DISK_ENTRY_BYTES) {
            r = bitmap_entry(d, what, offset + at + i, load_be64(d->chunk + i));
            if (r < 0) {
                return r;
            }
        }
    }
    return 0;
}

int disk_bitmaps(struct disk *d)
{
    const struct header *h = &d->container->header;
    const struct extension *x = header_extension(h, EXTENSION_BITMAPS);
    int r = 0;

    if (!x || !(h->autoclear & AUTOCLEAR_BITMAPS)) {
        return 0;
    }
    if (x->length != BITMAPS_BYTES) {
        return load_problem(d->sink, d->error,
                            "header extension 0x%08x: found length %" PRIu32 ", expected %u",
                            EXTENSION_BITMAPS, x->length, BITMAPS_BYTES);
    }
    uint32_t n = load_be32(x->data + BITMAPS_NUMBER);
    uint64_t length = load_be64(x->data + BITMAPS_DIRECTORY_LENGTH);
    uint64_t offset = load_be64(x->data + BITMAPS_DIRECTORY_OFFSET);
    if (n > BITMAPS_MAX || length > BITMAPS_DIRECTORY_BYTES_MAX) {
        return load_problem(d->sink, d->error,
                            "header extension 0x%08x: found %" PRIu32
                            " bitmaps in a directory of %" PRIu64
                            " bytes, expected at most %u in %" PRIu64,
                            EXTENSION_BITMAPS, n, length, BITMAPS_MAX, BITMAPS_DIRECTORY_BYTES_MAX);
    }
    r = disk_claim(d, "directory of QEMU's bitmaps", offset, length);
    if (r != 0) {
        return r;
    }
    struct cursor at = {
        .table = "directory of QEMU's bitmaps",
        .start = offset,
        .end = offset + length,
        .at = offset,
    };
    while (at.index < n && r == 0) {
        uint8_t head[BITMAPS_ENTRY_HEADER_BYTES];
        r = entry_head(d, &at, head, sizeof head);
        if (r != 0) {
            return r;
        }
        r = bitmap_table(d, at.index, load_be64(head + BITMAPS_ENTRY_TABLE_OFFSET),
                         load_be32(head + BITMAPS_ENTRY_TABLE_ENTRIES));
        if (r >= 0) {
            r = entry_end(d, &at,
                          (uint64_t)BITMAPS_ENTRY_HEADER_BYTES +
                              load_be32(head + BITMAPS_ENTRY_EXTRA_LENGTH) +
                              load_be16(head + BITMAPS_ENTRY_NAME_LENGTH));
        }
    }
    return r;
}
