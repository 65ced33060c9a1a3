/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A container's structures, followed without believing any of them (layout.h).
 *
 * Invariant: every place returned lies inside the image, so that whoever uses
 * one needs no check of its own.
 */
#include "tests/common/layout.h"

#include "daemon/container/format.h"
#include "proto/base/crc32c.h"
#include "proto/base/endian.h"

#include <stdlib.h>
#include <string.h>

#define CLUSTER_BITS_MIN 9u
#define CLUSTER_BITS_MAX 21u

static struct place place(uint64_t at, uint64_t bytes, uint64_t size)
{
    if (at > size || bytes > size - at) {
        return (struct place){0};
    }
    return (struct place){.at = at, .bytes = bytes};
}

static uint64_t cluster_of(const struct layout *layout)
{
    return UINT64_C(1) << layout->cluster_bits;
}

/* The header block and our extension in it. */
static void find_header(const uint8_t *image, uint64_t size, struct layout *layout)
{
    uint64_t limit = cluster_of(layout) < size ? cluster_of(layout) : size;
    uint64_t at = load_be32(image + HEADER_LENGTH);

    while (at <= limit && limit - at >= EXTENSION_HEADER_BYTES) {
        uint32_t type = load_be32(image + at);
        uint64_t padded = ((uint64_t)load_be32(image + at + 4) + 7) & ~UINT64_C(7);
        at += EXTENSION_HEADER_BYTES;
        if (type == EXTENSION_END) {
            layout->header = place(0, at, size);
            return;
        }
        if (padded > limit - at) {
            break;
        }
        if (type == EXTENSION_PRIVATE && limit - at >= PRIVATE_BYTES) {
            layout->private_data = at; /* whatever its length claims */
        }
        at += padded;
    }
    /* No end: then it is what we would have written, so that the damage can still be sealed. */
    uint64_t ours = HEADER_BYTES + EXTENSION_HEADER_BYTES;
    layout->header = place(0, ours + PRIVATE_BYTES + EXTENSION_HEADER_BYTES, size);
    layout->private_data =
        layout->header.bytes > 0 && load_be32(image + HEADER_BYTES) == EXTENSION_PRIVATE ? ours : 0;
}

void layout_find(const uint8_t *image, uint64_t size, struct layout *ret)
{
    struct layout layout = {
        .cluster_bits = load_be32(image + HEADER_CLUSTER_BITS),
        .refcount_order = load_be32(image + HEADER_REFCOUNT_ORDER),
    };
    uint64_t clusters = load_be32(image + HEADER_REFCOUNT_TABLE_CLUSTERS);

    if (layout.cluster_bits < CLUSTER_BITS_MIN || layout.cluster_bits > CLUSTER_BITS_MAX) {
        layout.cluster_bits = CLUSTER_BITS_MIN;
    }
    if (layout.refcount_order > HEADER_REFCOUNT_ORDER_MAX) {
        layout.refcount_order = HEADER_REFCOUNT_ORDER_DEFAULT;
    }
    find_header(image, size, &layout);
    layout.refcount_table = place(load_be64(image + HEADER_REFCOUNT_TABLE_OFFSET),
                                  clusters << layout.cluster_bits, size);
    uint32_t bitmaps = load_be32(image + HEADER_BITMAPS);
    uint64_t table = load_be64(image + HEADER_BITMAPS_OFFSET);
    if (layout.private_data) {
        const uint8_t *data = image + layout.private_data;
        layout.mirror = place(load_be64(data + PRIVATE_MIRROR_OFFSET), layout.header.bytes, size);
        if (layout.mirror.at < layout.header.bytes) {
            layout.mirror = (struct place){0};
        }
        layout.state = place(load_be64(data + PRIVATE_STATE_OFFSET),
                             load_be64(data + PRIVATE_STATE_LENGTH), size);
        if (layout.state.bytes < STATE_HEADER_BYTES) {
            layout.state = (struct place){0};
        }
        bitmaps = load_be32(data + PRIVATE_FIELDS);
        table = load_be64(data + PRIVATE_FIELDS + 4);
    }

    struct layout_entry entry = {0};
    layout.entries = bitmaps;
    layout.table.at = table;
    while (layout_next(image, size, &layout, &entry)) {
        layout.table.bytes = entry.entry.at + entry.entry.bytes - table;
    }
    layout.entries = entry.number;
    if (layout.entries == 0) {
        layout.table = (struct place){0};
    }
    *ret = layout;
}

/* The blob's part for the entry after @before. */
static struct place next_state(const uint8_t *image, const struct layout *layout,
                               const struct place *before)
{
    uint64_t at =
        before->bytes ? before->at + before->bytes : layout->state.at + STATE_HEADER_BYTES;
    uint64_t end = layout->state.at + layout->state.bytes;

    if (layout->state.bytes == 0 || at > end || end - at < STATE_ENTRY_BYTES) {
        return (struct place){0};
    }
    uint64_t bytes = STATE_ENTRY_BYTES + 4 * (uint64_t)load_le32(image + at + STATE_ENTRY_CRCS);
    return bytes <= end - at ? (struct place){.at = at, .bytes = bytes} : (struct place){0};
}

bool layout_next(const uint8_t *image, uint64_t size, const struct layout *layout,
                 struct layout_entry *entry)
{
    bool first = entry->number == 0;
    uint64_t at = first ? layout->table.at : entry->entry.at + entry->entry.bytes;

    if (entry->number >= layout->entries || place(at, TABLE_ENTRY_BYTES_MIN, size).bytes == 0) {
        return false;
    }
    const uint8_t *p = image + at;
    uint64_t bytes = ((uint64_t)TABLE_NAME + load_be16(p + TABLE_NAME_LENGTH) + 7) & ~UINT64_C(7);
    struct layout_entry next = {.number = entry->number + 1, .entry = place(at, bytes, size)};
    if (next.entry.bytes == 0) {
        return false;
    }
    next.l1 = place(load_be64(p + TABLE_L1_OFFSET),
                    (uint64_t)L1_ENTRY_BYTES * load_be32(p + TABLE_L1_ENTRIES), size);
    if (first || entry->state.bytes > 0) {
        next.state = next_state(image, layout, &entry->state);
    }
    *entry = next;
    return true;
}

/* ---- checksums ---- */

static uint32_t crc_of(const uint8_t *image, const struct place *what)
{
    return crc32c(0, image + what->at, (size_t)what->bytes);
}

static void seal_blob(uint8_t *image, uint64_t size, const struct layout *layout)
{
    uint8_t *blob = image + layout->state.at;
    struct layout_entry e = {0};

    memcpy(blob + STATE_UUID, image + layout->private_data + PRIVATE_UUID, 32);
    while (layout_next(image, size, layout, &e)) {
        if (e.state.bytes > 0 && e.l1.bytes > 0) {
            store_le32(image + e.state.at + STATE_ENTRY_L1_CRC, crc_of(image, &e.l1));
        }
    }
    store_le64(blob + STATE_TABLE_LENGTH, layout->table.bytes);
    store_le32(blob + STATE_TABLE_CRC, crc_of(image, &layout->table));
    store_le32(blob + STATE_CRC, 0);
    store_le32(blob + STATE_CRC, crc_of(image, &layout->state));
}

void layout_seal(uint8_t *image, uint64_t size)
{
    struct layout layout;

    layout_find(image, size, &layout);
    if (layout.private_data == 0 || layout.header.bytes == 0) {
        return;
    }
    if (layout.state.bytes > 0 && layout.state.at >= layout.header.bytes) {
        seal_blob(image, size, &layout);
    }
    uint8_t *data = image + layout.private_data;
    store_be32(data + PRIVATE_HEADER_CRC, 0);
    store_be32(data + PRIVATE_CRC, 0);
    store_be32(data + PRIVATE_CRC, crc32c(0, data, PRIVATE_BYTES));
    store_be32(data + PRIVATE_HEADER_CRC, crc_of(image, &layout.header));
    if (layout.mirror.bytes > 0) {
        memcpy(image + layout.mirror.at, image, (size_t)layout.mirror.bytes);
    }
}

void layout_seal_bits(uint8_t *image, uint64_t size)
{
    struct layout layout;
    struct layout_entry e = {0};

    layout_find(image, size, &layout);
    while (layout_next(image, size, &layout, &e)) {
        uint64_t crc = e.state.at + STATE_ENTRY_BYTES, crcs_end = e.state.at + e.state.bytes;
        for (uint64_t i = 0; e.state.bytes > 0 && i < e.l1.bytes && crc < crcs_end;
             i += L1_ENTRY_BYTES) {
            uint64_t value = load_be64(image + e.l1.at + i);
            struct place bits = place(value & L1_OFFSET_MASK, cluster_of(&layout), size);
            if ((value & L1_OFFSET_MASK) == 0 || (value & L1_ZERO_FLAG)) {
                continue;
            }
            if (bits.bytes > 0) {
                store_le32(image + crc, crc_of(image, &bits));
            }
            crc += 4;
        }
    }
}

/* ---- refcounts ---- */

struct counts {
    uint64_t *refs;
    uint64_t clusters;
    uint32_t bits;
};

static void count(struct counts *counts, uint64_t at, uint64_t bytes)
{
    uint64_t last = bytes ? (at + bytes - 1) >> counts->bits : 0;

    for (uint64_t i = at >> counts->bits; bytes > 0 && i <= last && i < counts->clusters; i++) {
        counts->refs[i]++;
    }
}

static void count_bitmaps(struct counts *counts, const uint8_t *image, uint64_t size,
                          const struct layout *layout)
{
    struct layout_entry e = {0};

    while (layout_next(image, size, layout, &e)) {
        count(counts, e.l1.at, e.l1.bytes);
        for (uint64_t i = 0; i < e.l1.bytes; i += L1_ENTRY_BYTES) {
            uint64_t offset = load_be64(image + e.l1.at + i) & L1_OFFSET_MASK;
            if (offset > 0 && offset < size) {
                count(counts, offset, 1);
            }
        }
    }
}

/* Counter @index of a block, from its low bits up where several share a byte. */
static void store_counter(uint8_t *block, uint32_t order, uint64_t index, uint64_t value)
{
    uint32_t width = 1u << order;

    for (uint32_t bit = 0; bit < width && width < 8; bit++) {
        uint64_t at = index * width + bit;
        uint8_t mask = (uint8_t)(1u << at % 8);
        bool set = value >> width ? true : value >> bit & 1;
        block[at / 8] = (uint8_t)(set ? block[at / 8] | mask : block[at / 8] & ~mask);
    }
    for (uint32_t byte = 0; byte < width / 8; byte++) {
        block[index * (width / 8) + byte] = (uint8_t)(value >> 8 * (width / 8 - 1 - byte));
    }
}

static void store_counts(uint8_t *image, uint64_t size, const struct layout *layout,
                         const struct counts *counts)
{
    uint64_t per_block = (cluster_of(layout) * 8) >> layout->refcount_order;

    for (uint64_t i = 0; i < layout->refcount_table.bytes / REFCOUNT_TABLE_ENTRY_BYTES; i++) {
        uint64_t offset =
            load_be64(image + layout->refcount_table.at + i * REFCOUNT_TABLE_ENTRY_BYTES);
        struct place block = place(offset & ~REFCOUNT_TABLE_RESERVED, cluster_of(layout), size);
        /* Over the header or the table itself it would destroy what it counts. */
        if (block.at < cluster_of(layout) || block.at == layout->refcount_table.at) {
            continue;
        }
        for (uint64_t k = 0; k < per_block && i * per_block + k < counts->clusters; k++) {
            store_counter(image + block.at, layout->refcount_order, k,
                          counts->refs[i * per_block + k]);
        }
    }
}

void layout_count(uint8_t *image, uint64_t size)
{
    struct layout layout;

    layout_find(image, size, &layout);
    struct counts counts = {.bits = layout.cluster_bits,
                            .clusters = (size + cluster_of(&layout) - 1) >> layout.cluster_bits};
    counts.refs = calloc(counts.clusters + 1, sizeof *counts.refs);
    if (!counts.refs) {
        abort();
    }
    count(&counts, 0, 1);
    count(&counts, layout.refcount_table.at, layout.refcount_table.bytes);
    for (uint64_t i = 0; i < layout.refcount_table.bytes; i += REFCOUNT_TABLE_ENTRY_BYTES) {
        uint64_t offset = load_be64(image + layout.refcount_table.at + i);
        if (offset > 0 && offset < size) {
            count(&counts, offset, 1);
        }
    }
    count(&counts, layout.mirror.at, layout.mirror.bytes);
    count(&counts, layout.state.at, layout.state.bytes);
    count(&counts, layout.table.at, layout.table.bytes);
    count_bitmaps(&counts, image, size, &layout);
    store_counts(image, size, &layout, &counts);
    free(counts.refs);
}
