/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_TESTS_COMMON_LAYOUT_H
#define BITMAPD_TESTS_COMMON_LAYOUT_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Where the structures of a container are, as its bytes say, however wrong
 * they may be: everything found here lies inside the image, and what does not
 * has no bytes.  With it, damage can be made behind the checksums ("sealed"),
 * so that the checks after them are reached.
 *
 * It is written from format.h alone and shares no code with what it tests.
 */

struct place {
    uint64_t at;
    uint64_t bytes; /* 0: not in the image */
};

struct layout {
    uint32_t cluster_bits; /* 9 … 21, whatever the header says */
    uint32_t refcount_order;
    struct place header;   /* the block: up to the end of its extensions */
    uint64_t private_data; /* of our extension; 0: none */
    struct place refcount_table;
    struct place mirror; /* as long as the header */
    struct place state;
    struct place table; /* as far as its entries can be followed */
    uint32_t entries;   /* of the table, followed */
};

/* One bitmap, as table and state blob tell of it. */
struct layout_entry {
    uint32_t number; /* 1 for the first */
    struct place entry;
    struct place l1;
    struct place state; /* its part of the state blob, CRCs included */
};

/* @image is at least HEADER_BYTES_MIN long. */
void layout_find(const uint8_t *image, uint64_t size, struct layout *ret);

/* Walks the entries: *entry is all zero before the first; false after the last. */
bool layout_next(const uint8_t *image, uint64_t size, const struct layout *layout,
                 struct layout_entry *entry);

/* Makes the CRCs of header, extension, blob, table and L1 tables right, and the mirror a copy. */
void layout_seal(uint8_t *image, uint64_t size);
/* The CRCs of clusters of bits; before layout_seal(). */
void layout_seal_bits(uint8_t *image, uint64_t size);
/* Makes the counters what the references say, where there are blocks for them. */
void layout_count(uint8_t *image, uint64_t size);

#endif
