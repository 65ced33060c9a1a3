/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading the L1 tables.
 *
 * Order matters, for one bitmap's damage must not reach another:
 *   1. L1 tables claim their clusters in table order; one that claims a cluster
 *      of anything before it is lost;
 *   2. L1 tables that hold what they should reference their data clusters;
 *   3. of these, all that share a cluster are damaged;
 *   4. L1 tables that were lost before, as the state blob says, do the same for
 *      themselves; what they name may have been beyond the file's end then,
 *      hence free, and be another's by now;
 *   5. lost L1 tables reference whatever they seem to name, too late to spoil
 *      another's claim, but in time to keep it from being overwritten.
 */
#include "daemon/container/internal.h"

#include <stdarg.h>
#include <stdio.h>

static void __attribute__((format(printf, 3, 4)))
lost(struct load *l, struct entry *e, const char *format, ...)
{
    char text[512];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    load_damaged(l, e, "%s", text);
    e->l1_lost = true;
    e->has_crcs = false;
}

static struct run l1_run(const struct container *c, const struct entry *e)
{
    uint64_t bytes = (uint64_t)e->l1_entries * L1_ENTRY_BYTES;

    return (struct run){
        .start = e->l1_offset >> c->header.cluster_bits,
        .count = clusters_for(bytes, c->header.cluster_bits),
    };
}

/* May this L1 table be read?  Clusters that two of them claim are read for the first only, or time
 * would not be bounded by the file's size. */
static bool l1_claimable(const struct load *l, const struct entry *e, struct error *why)
{
    const struct container *c = l->container;
    uint64_t bytes = (uint64_t)e->l1_entries * L1_ENTRY_BYTES;
    uint64_t expected;

    if (!entry_geometry(e->sectors, e->granularity, c->header.cluster_bits, &expected, why)) {
        return false;
    }
    if (e->l1_entries != expected) {
        (void)error_set(why, -EBADMSG, "L1 entries: found %" PRIu32 ", expected %" PRIu64,
                        e->l1_entries, expected);
        return false;
    }
    return load_claimable(c, l->sink, l->file_bytes, "L1 table", e->l1_offset, bytes, why);
}

/* Step 1, or for a table that was lost before step 4. */
static void entry_claim_l1(struct load *l, struct entry *e)
{
    struct run run = l1_run(l->container, e);
    struct error why;

    if (l1_claimable(l, e, &why)) {
        space_ref(&l->container->space, run.start, run.count);
    } else {
        lost(l, e, "%s", why.text);
    }
}

/* One descriptor.  False with @text filled when it is none the draft allows. */
static bool slot_parse(const struct load *l, uint64_t value, uint32_t *ret_where, char *text,
                       size_t text_bytes)
{
    const struct container *c = l->container;
    uint64_t offset = value & L1_OFFSET_MASK;

    if (value & ~(L1_OFFSET_MASK | L1_ZERO_FLAG)) {
        (void)snprintf(text, text_bytes, "found 0x%016" PRIx64 ", expected reserved bits clear",
                       value);
        return false;
    }
    if (offset & (cluster_bytes(c) - 1)) {
        (void)snprintf(text, text_bytes,
                       "found offset %" PRIu64 ", expected a multiple of %" PRIu64, offset,
                       cluster_bytes(c));
        return false;
    }
    if (offset > l->file_bytes || (offset && cluster_bytes(c) > l->file_bytes - offset)) {
        (void)snprintf(text, text_bytes,
                       "found offset %" PRIu64 ", expected a cluster within the file's %" PRIu64
                       " bytes",
                       offset, l->file_bytes);
        return false;
    }
    *ret_where =
        (uint32_t)(offset >> c->header.cluster_bits) | (value & L1_ZERO_FLAG ? SLOT_ZERO : 0);
    return true;
}

/* The descriptors of a table.  Those that are none make the table lost. */
static int l1_read(struct load *l, struct entry *e, struct slot **ret_slots, uint32_t *ret_crc)
{
    uint64_t bytes = (uint64_t)e->l1_entries * L1_ENTRY_BYTES;
    CLEANUP_FREE struct slot *slots = NULL;
    uint32_t crc = 0, n = 0;
    char text[160];

    for (uint64_t at = 0; at < bytes; at += LOAD_BUFFER_BYTES) {
        size_t length = (size_t)min_u64(LOAD_BUFFER_BYTES, bytes - at);
        int r = file_read(l->container->file, l->buffer, length, e->l1_offset + at);
        if (r < 0) {
            return r;
        }
        crc = crc32c(crc, l->buffer, length);
        for (size_t i = 0; i < length; i += L1_ENTRY_BYTES, n++) {
            uint64_t value = load_be64(l->buffer + i);
            uint32_t where;
            if (value == 0) {
                continue;
            }
            if (!slot_parse(l, value, &where, text, sizeof text)) {
                lost(l, e, "L1 entry %" PRIu32 " at offset %" PRIu64 ": %s", n,
                     e->l1_offset + at + i, text);
                continue;
            }
            if (!slots) {
                slots = calloc(e->l1_entries, sizeof *slots);
                if (!slots) {
                    return -ENOMEM;
                }
            }
            slots[n].where = where;
        }
    }
    *ret_slots = STEAL(slots);
    *ret_crc = crc;
    return 0;
}

/* Notes what a lost table names, its own clusters included, for step 5. */
static int l1_note_claims(const struct container *c, struct entry *e, const struct slot *slots)
{
    struct run run = l1_run(c, e);
    int r = run.count ? runs_push(&e->claims, run.start, run.count) : 0;

    for (uint32_t i = 0; r == 0 && slots && i < e->l1_entries; i++) {
        if (slots[i].where & SLOT_CLUSTER) {
            r = runs_push(&e->claims, slots[i].where & SLOT_CLUSTER, 1);
        }
    }
    return r;
}

/* Step 2 or 4.  < 0: I/O and memory only. */
static int entry_read_l1(struct load *l, struct entry *e, const struct blob_entry *expected)
{
    struct container *c = l->container;
    CLEANUP_FREE struct slot *slots = NULL;
    uint32_t crc, allocated = 0, data = 0;

    int r = l1_read(l, e, &slots, &crc);
    if (r < 0) {
        return r;
    }
    if (expected && crc != expected->l1_crc) {
        lost(l, e,
             "L1 table at offset %" PRIu64 ": found CRC32C 0x%08" PRIx32 ", expected 0x%08" PRIx32,
             e->l1_offset, crc, expected->l1_crc);
    }
    /* What the blob expects stays expected: a lost table must not pass for good next time. */
    e->l1_crc = expected ? expected->l1_crc : crc;

    for (uint32_t i = 0; slots && i < e->l1_entries; i++) {
        if (slots[i].where & SLOT_CLUSTER) {
            allocated++;
            data += !(slots[i].where & SLOT_ZERO);
        }
    }
    if (!e->l1_lost && e->has_crcs && expected->n_crcs != data) {
        lost(l, e, "state blob: found %" PRIu32 " data cluster CRCs, expected %" PRIu32,
             expected->n_crcs, data);
    }
    if (e->l1_lost) {
        struct run run = l1_run(c, e);
        space_unref(&c->space, run.start, run.count);
        return l1_note_claims(c, e, slots);
    }
    const uint8_t *crcs = expected ? expected->crcs : NULL;
    for (uint32_t i = 0; allocated > 0 && i < e->l1_entries; i++) {
        if (!(slots[i].where & SLOT_CLUSTER)) {
            continue;
        }
        space_ref(&c->space, slots[i].where & SLOT_CLUSTER, 1);
        if (e->has_crcs && !(slots[i].where & SLOT_ZERO)) {
            slots[i].crc = load_le32(crcs);
            crcs += 4;
        }
    }
    e->allocated = allocated;
    e->data = data;
    e->slots = STEAL(slots);
    return 0;
}

/* Step 3 or 4. */
static void entry_check_overlap(struct load *l, struct entry *e)
{
    struct container *c = l->container;
    struct run run = l1_run(c, e);

    for (uint64_t i = run.start; i < run.start + run.count; i++) {
        if (c->space.refs[i] > 1) {
            e->shared = true;
            load_overlap(l->sink);
            load_damaged(l, e,
                         "L1 table at offset %" PRIu64 ": found cluster %" PRIu64
                         " in use by something else too",
                         e->l1_offset, i);
            return;
        }
    }
    for (uint32_t i = 0; e->slots && i < e->l1_entries; i++) {
        uint32_t cluster = e->slots[i].where & SLOT_CLUSTER;
        if (cluster && c->space.refs[cluster] > 1) {
            e->shared = true;
            load_overlap(l->sink);
            load_damaged(l, e,
                         "L1 entry %" PRIu32 " at offset %" PRIu64 ": found cluster %" PRIu32
                         " in use by something else too",
                         i, e->l1_offset + (uint64_t)i * L1_ENTRY_BYTES, cluster);
            return;
        }
    }
}

/* What the state blob says of an entry; its bits are to be believed with it only. */
static void entry_vouch(struct entry *e, const struct blob_entry *expected)
{
    e->id = expected->id;
    e->l1_crc = expected->l1_crc;
    e->has_crcs = e->id != 0;
    if (expected->flags & STATE_ENTRY_LOST) {
        entry_damage(e, "%s", "its bits were lost earlier (state blob)");
        e->unreadable = true;
        e->lost_earlier = true;
        /* Whose CRCs are gone has lost its L1 table, too. */
        e->has_crcs = e->has_crcs && expected->n_crcs > 0;
    }
}

/* Steps 2 and 3, or 4. */
static int read_tables(struct load *l, bool vouched, bool lost_earlier)
{
    struct blob_entry expected;
    size_t position = 0;

    for (uint32_t i = 0; i < l->n; i++) {
        struct entry *e = l->entries[i];
        if (vouched) {
            blob_next(&l->container->blob, &position, &expected);
        }
        if (e->lost_earlier != lost_earlier) {
            continue;
        }
        if (lost_earlier) {
            entry_claim_l1(l, e);
        }
        int r = e->l1_lost ? 0 : entry_read_l1(l, e, vouched ? &expected : NULL);
        if (r < 0) {
            return error_set_errno(l->error, r, "cannot read the L1 table at offset %" PRIu64,
                                   e->l1_offset);
        }
    }
    for (uint32_t i = 0; i < l->n; i++) {
        struct entry *e = l->entries[i];
        if (e->lost_earlier == lost_earlier && !e->l1_lost) {
            entry_check_overlap(l, e);
        }
    }
    return 0;
}

int load_l1_tables(struct load *l)
{
    struct container *c = l->container;
    bool vouched = c->blob.bytes && c->state_damage[0] == '\0';
    struct blob_entry expected;
    size_t position = 0;
    int r;

    for (uint32_t i = 0; i < l->n; i++) {
        struct entry *e = l->entries[i];
        if (vouched) {
            blob_next(&c->blob, &position, &expected);
            entry_vouch(e, &expected);
        } else if (c->state_damage[0]) {
            entry_damage(e, "%s", c->state_damage);
            e->unreadable = true;
        }
        if (!e->lost_earlier) {
            entry_claim_l1(l, e);
        }
    }
    r = read_tables(l, vouched, false);
    if (r == 0) {
        r = read_tables(l, vouched, true);
    }
    for (uint32_t i = 0; i < l->n && r == 0; i++) {
        const struct runs *claims = &l->entries[i]->claims;
        for (size_t k = 0; k < claims->n; k++) {
            space_ref(&c->space, claims->items[k].start, claims->items[k].count);
        }
    }
    return r;
}
