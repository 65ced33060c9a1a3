/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading the bitmap table and the L1 tables.
 *
 * Order matters, for one bitmap's damage must not reach another:
 *   1. L1 tables claim their clusters in table order; one that claims a cluster
 *      of anything before it is lost;
 *   2. L1 tables that hold what they should reference their data clusters;
 *   3. of these, all that share a cluster are damaged;
 *   4. lost L1 tables reference whatever they seem to name, too late to spoil
 *      another's claim, but in time to keep it from being overwritten.
 */
#include "daemon/container/internal.h"

#include <stdarg.h>
#include <stdio.h>

#define READER_BYTES    (UINT32_C(128) << 10) /* more than the longest table entry */
#define NAME_LENGTH_MAX 65535u                /* what the field can hold */

struct load {
    struct container *container;
    struct load_sink *sink;
    uint64_t file_bytes;
    struct entry **entries; /* room for header.bitmaps */
    uint32_t n;
    uint8_t *buffer; /* READER_BYTES */
    struct error *error;
};

static void __attribute__((format(printf, 3, 4)))
damaged(struct load *l, struct entry *e, const char *format, ...)
{
    char text[512];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    sink_report(l->sink, true, 1, "bitmap \"%s\": %s", e->name, text);
    entry_damage(e, "%s", text);
    e->unreadable = true;
}

static void __attribute__((format(printf, 3, 4)))
lost(struct load *l, struct entry *e, const char *format, ...)
{
    char text[512];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    damaged(l, e, "%s", text);
    e->l1_lost = true;
    e->has_crcs = false;
}

/* ---- the bitmap table ---- */

struct table_reader {
    struct load *load;
    uint64_t offset; /* in the file, of what follows the buffer's content */
    size_t begin, end;
    uint32_t crc;
    uint64_t consumed;
};

/* The next @bytes bytes in one piece; -ENODATA when the file ends before. */
static int table_take(struct table_reader *t, size_t bytes, const uint8_t **ret)
{
    struct load *l = t->load;

    if (t->end - t->begin < bytes) {
        memmove(l->buffer, l->buffer + t->begin, t->end - t->begin);
        t->end -= t->begin;
        t->begin = 0;
        size_t n = (size_t)min_u64(READER_BYTES - t->end, l->file_bytes - t->offset);
        if (t->end + n < bytes) {
            return -ENODATA;
        }
        int r = file_read(l->container->file, l->buffer + t->end, n, t->offset);
        if (r < 0) {
            return r;
        }
        t->end += n;
        t->offset += n;
    }
    *ret = l->buffer + t->begin;
    t->begin += bytes;
    t->crc = crc32c(t->crc, *ret, bytes);
    t->consumed += bytes;
    return 0;
}

static int table_entry(struct table_reader *t, struct entry **ret)
{
    CLEANUP(entry_freep) struct entry *e = calloc(1, sizeof *e);
    uint64_t offset = t->load->container->header.table_offset + t->consumed;
    const uint8_t *p;
    int r;

    if (!e) {
        return -ENOMEM;
    }
    r = table_take(t, TABLE_NAME, &p);
    if (r < 0) {
        return r;
    }
    e->l1_offset = load_be64(p + TABLE_L1_OFFSET);
    e->l1_entries = load_be32(p + TABLE_L1_ENTRIES);
    e->granularity = load_be32(p + TABLE_GRANULARITY);
    e->sectors = load_be64(p + TABLE_SECTORS);
    e->name_bytes = load_be16(p + TABLE_NAME_LENGTH);
    /* Name and padding: 26 + padded is a multiple of 8. */
    size_t padded = ((TABLE_NAME + (size_t)e->name_bytes + 7) & ~(size_t)7) - TABLE_NAME;
    r = table_take(t, padded, &p);
    if (r < 0) {
        return r;
    }
    e->name = malloc((size_t)e->name_bytes + 1);
    if (!e->name) {
        return -ENOMEM;
    }
    memcpy(e->name, p, e->name_bytes);
    e->name[e->name_bytes] = '\0';
    if (e->name_bytes == 0 || e->name_bytes > CONTAINER_NAME_BYTES_MAX) {
        damaged(t->load, e,
                "bitmap table entry at offset %" PRIu64 ", name length: found %" PRIu32
                ", expected 1 to %u",
                offset, e->name_bytes, CONTAINER_NAME_BYTES_MAX);
    } else if (memchr(e->name, '\0', e->name_bytes)) {
        damaged(t->load, e,
                "bitmap table entry at offset %" PRIu64 ", name: found a NUL byte, expected none",
                offset);
    }
    *ret = STEAL(e);
    return 0;
}

/*
 * The table into l->entries, as far as it can be parsed.  -EBADMSG with words
 * when it is not whole.
 */
static int table_parse(struct load *l, const struct blob *blob, struct error *why)
{
    struct container *c = l->container;
    struct table_reader t = {.load = l, .offset = c->header.table_offset};
    uint32_t bitmaps = c->header.bitmaps;

    if (bitmaps == 0) {
        return 0;
    }
    if (c->header.table_offset & (cluster_bytes(c) - 1)) {
        return error_set(why, -EBADMSG,
                         "bitmap table: found offset %" PRIu64 ", expected a multiple of %" PRIu64,
                         c->header.table_offset, cluster_bytes(c));
    }
    if (c->header.table_offset > l->file_bytes ||
        bitmaps > (l->file_bytes - c->header.table_offset) / TABLE_ENTRY_BYTES_MIN) {
        return error_set(why, -EBADMSG,
                         "bitmap table: found %" PRIu32 " entries at offset %" PRIu64
                         ", expected room for them within the file's %" PRIu64 " bytes",
                         bitmaps, c->header.table_offset, l->file_bytes);
    }
    for (; l->n < bitmaps; l->n++) {
        int r = table_entry(&t, &l->entries[l->n]);
        if (r == -ENODATA) {
            return error_set(why, -EBADMSG,
                             "bitmap table at offset %" PRIu64 ": found the file's end in entry "
                             "%" PRIu32 ", expected %" PRIu32 " entries",
                             c->header.table_offset, l->n, bitmaps);
        }
        if (r < 0) {
            return error_set_errno(why, r, "cannot read the bitmap table at offset %" PRIu64,
                                   c->header.table_offset);
        }
    }
    if (blob->bytes && (t.consumed != blob->table_bytes || t.crc != blob->table_crc)) {
        return error_set(
            why, -EBADMSG,
            "bitmap table at offset %" PRIu64 ": found %" PRIu64 " bytes with CRC32C 0x%08" PRIx32
            ", expected %" PRIu64 " with 0x%08" PRIx32,
            c->header.table_offset, t.consumed, t.crc, blob->table_bytes, blob->table_crc);
    }
    return 0;
}

/* Of a table that is not what was written, only what looks like an entry is listed, and kept. */
static void drop_unlistable(struct load *l)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < l->n; i++) {
        if (entry_name_valid(l->entries[i])) {
            l->entries[kept++] = l->entries[i];
        } else {
            entry_free(l->entries[i]);
        }
    }
    l->n = kept;
}

static int load_table(struct load *l)
{
    struct container *c = l->container;
    struct error why;
    int r;

    r = table_parse(l, &c->blob, &why);
    if (r == 0 && c->blob.bytes && c->blob.table_entries != c->header.bitmaps) {
        r = error_set(&why, -EBADMSG,
                      "state blob at offset %" PRIu64 ", entries: found %" PRIu32
                      ", expected %" PRIu32,
                      c->header.private.state_offset, c->blob.table_entries, c->header.bitmaps);
    }
    if (r == -EBADMSG && !c->header.has_private && !l->sink) {
        return error_set(l->error, r, "%s", why.text);
    }
    if (r == -EBADMSG) {
        load_state_damaged(c, l->sink, why.text);
    } else if (r < 0) {
        return error_set(l->error, r, "%s", why.text);
    }
    if (c->header.has_private && c->state_damage[0]) {
        drop_unlistable(l);
    }
    uint64_t bytes = table_bytes(l->entries, l->n);
    if (bytes == 0) {
        return 0;
    }
    if (load_claimable(c, l->file_bytes, "bitmap table", c->header.table_offset, bytes, &why)) {
        load_reference(c, c->header.table_offset, bytes);
        return 0;
    }
    if (!c->header.has_private && !l->sink) {
        return error_set(l->error, -EBADMSG, "%s", why.text);
    }
    /* What looked like entries belongs to something else. */
    load_state_damaged(c, l->sink, why.text);
    while (l->n > 0) {
        entry_free(l->entries[--l->n]);
    }
    return 0;
}

/* ---- L1 tables ---- */

/* Step 1: may this L1 table be read? */
static void entry_claim_l1(struct load *l, struct entry *e)
{
    struct container *c = l->container;
    uint64_t size = cluster_bytes(c), bytes = (uint64_t)e->l1_entries * L1_ENTRY_BYTES;
    uint64_t expected;
    struct error why;

    if (!entry_geometry(e->sectors, e->granularity, c->header.cluster_bits, &expected, &why)) {
        lost(l, e, "%s", why.text);
        return;
    }
    if (e->l1_entries != expected) {
        lost(l, e, "L1 entries: found %" PRIu32 ", expected %" PRIu64, e->l1_entries, expected);
        return;
    }
    if (e->l1_offset & (size - 1)) {
        lost(l, e, "L1 table: found offset %" PRIu64 ", expected a multiple of %" PRIu64,
             e->l1_offset, size);
        return;
    }
    if (e->l1_offset > l->file_bytes || bytes > l->file_bytes - e->l1_offset) {
        lost(l, e,
             "L1 table: found offset %" PRIu64 " and length %" PRIu64
             ", expected both within the file's %" PRIu64 " bytes",
             e->l1_offset, bytes, l->file_bytes);
        return;
    }
    uint64_t start = e->l1_offset >> c->header.cluster_bits;
    uint64_t count = clusters_for(bytes, c->header.cluster_bits);
    for (uint64_t i = start; i < start + count; i++) {
        if (c->space.refs[i] != 0) {
            lost(l, e,
                 "L1 table at offset %" PRIu64 ": found cluster %" PRIu64 " in use by "
                 "something else, expected it free",
                 e->l1_offset, i);
            return;
        }
    }
    space_ref(&c->space, start, count);
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

/* Step 2.  < 0: I/O and memory only. */
static int entry_read_l1(struct load *l, struct entry *e, const struct blob_entry *expected)
{
    struct container *c = l->container;
    uint64_t bytes = (uint64_t)e->l1_entries * L1_ENTRY_BYTES;
    CLEANUP_FREE struct slot *slots = NULL;
    uint32_t crc = 0, n = 0;
    char text[160];
    bool bad = false;

    for (uint64_t at = 0; at < bytes; at += READER_BYTES) {
        size_t length = (size_t)min_u64(READER_BYTES, bytes - at);
        int r = file_read(c->file, l->buffer, length, e->l1_offset + at);
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
                bad = true;
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
    if (expected && crc != expected->l1_crc) {
        lost(l, e,
             "L1 table at offset %" PRIu64 ": found CRC32C 0x%08" PRIx32 ", expected 0x%08" PRIx32,
             e->l1_offset, crc, expected->l1_crc);
        bad = true;
    }
    /* What the blob expects stays expected: a lost table must not pass for good next time. */
    e->l1_crc = expected ? expected->l1_crc : crc;

    uint32_t allocated = 0, data = 0;
    for (uint32_t i = 0; slots && i < e->l1_entries; i++) {
        if (slots[i].where & SLOT_CLUSTER) {
            allocated++;
            data += !(slots[i].where & SLOT_ZERO);
        }
    }
    if (!bad && expected && e->has_crcs && expected->n_crcs != data) {
        lost(l, e, "state blob: found %" PRIu32 " data cluster CRCs, expected %" PRIu32,
             expected->n_crcs, data);
        bad = true;
    }
    if (bad) {
        /* Back to nobody's; step 4 takes them all. */
        uint64_t start = e->l1_offset >> c->header.cluster_bits;
        uint64_t count = clusters_for(bytes, c->header.cluster_bits);
        int r = count ? runs_push(&e->claims, start, count) : 0;
        space_unref(&c->space, start, count);
        for (uint32_t i = 0; r == 0 && slots && i < e->l1_entries; i++) {
            if (slots[i].where & SLOT_CLUSTER) {
                r = runs_push(&e->claims, slots[i].where & SLOT_CLUSTER, 1);
            }
        }
        return r;
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

/* Step 3. */
static void entry_check_overlap(struct load *l, struct entry *e)
{
    struct container *c = l->container;
    uint64_t start = e->l1_offset >> c->header.cluster_bits;
    uint64_t count = clusters_for((uint64_t)e->l1_entries * L1_ENTRY_BYTES, c->header.cluster_bits);

    for (uint64_t i = start; i < start + count; i++) {
        if (c->space.refs[i] > 1) {
            damaged(l, e,
                    "L1 table at offset %" PRIu64 ": found cluster %" PRIu64
                    " in use by something else too",
                    e->l1_offset, i);
            return;
        }
    }
    for (uint32_t i = 0; e->slots && i < e->l1_entries; i++) {
        uint32_t cluster = e->slots[i].where & SLOT_CLUSTER;
        if (cluster && c->space.refs[cluster] > 1) {
            damaged(l, e,
                    "L1 entry %" PRIu32 " at offset %" PRIu64 ": found cluster %" PRIu32
                    " in use by something else too",
                    i, e->l1_offset + (uint64_t)i * L1_ENTRY_BYTES, cluster);
            return;
        }
    }
}

static int load_entries(struct load *l)
{
    struct container *c = l->container;
    bool vouched = c->blob.bytes && c->state_damage[0] == '\0';
    size_t position = 0;

    for (uint32_t i = 0; i < l->n; i++) {
        struct entry *e = l->entries[i];
        entry_claim_l1(l, e);
    }
    for (uint32_t i = 0; i < l->n; i++) {
        struct entry *e = l->entries[i];
        struct blob_entry expected;
        if (vouched) {
            blob_next(&c->blob, &position, &expected);
            e->id = expected.id;
            e->l1_crc = expected.l1_crc;
            e->has_crcs = e->id != 0 && !e->l1_lost;
            if (expected.flags & STATE_ENTRY_LOST) {
                entry_damage(e, "%s", "its bits were lost earlier (state blob)");
                e->unreadable = true;
                e->lost_earlier = true;
                /* Whose CRCs are gone has lost its L1 table, too. */
                e->has_crcs = e->has_crcs && expected.n_crcs > 0;
            }
        } else if (c->state_damage[0]) {
            entry_damage(e, "%s", c->state_damage);
            e->unreadable = true;
        }
        if (e->l1_lost) {
            continue;
        }
        int r = entry_read_l1(l, e, vouched ? &expected : NULL);
        if (r < 0) {
            return error_set_errno(l->error, r, "cannot read the L1 table at offset %" PRIu64,
                                   e->l1_offset);
        }
    }
    for (uint32_t i = 0; i < l->n; i++) {
        if (!l->entries[i]->l1_lost) {
            entry_check_overlap(l, l->entries[i]);
        }
    }
    for (uint32_t i = 0; i < l->n; i++) {
        const struct runs *claims = &l->entries[i]->claims;
        for (size_t k = 0; k < claims->n; k++) {
            space_ref(&c->space, claims->items[k].start, claims->items[k].count);
        }
    }
    return 0;
}

static int load_all(struct load *l)
{
    struct container *c = l->container;
    int r;

    r = load_table(l);
    if (r == 0) {
        r = load_entries(l);
    }
    if (r < 0) {
        return r;
    }
    for (;;) {
        r = directory_init(&c->directory, l->entries, l->n);
        if (r == 0) {
            for (uint32_t i = 0; i < l->n; i++) {
                l->entries[i]->index = i;
            }
            l->entries = NULL;
            return 0;
        }
        if (r != -EEXIST) {
            return error_set_errno(l->error, r, "cannot open the container");
        }
        /* The blob's CRC is right, so whoever wrote it was wrong: none of it counts. */
        load_state_damaged(c, l->sink, "state blob: found an id twice, expected each once");
        for (uint32_t i = 0; i < l->n; i++) {
            l->entries[i]->id = 0;
            entry_damage(l->entries[i], "%s", c->state_damage);
            l->entries[i]->unreadable = true;
        }
    }
}

int load_bitmaps(struct container *container, struct load_sink *sink, uint64_t file_bytes,
                 struct error *error)
{
    struct load l = {
        .container = container, .sink = sink, .file_bytes = file_bytes, .error = error};
    int r;

    /* More than fit the file are never read. */
    uint64_t room = min_u64(container->header.bitmaps, file_bytes / TABLE_ENTRY_BYTES_MIN);
    l.entries = calloc(room + 1, sizeof *l.entries);
    l.buffer = malloc(READER_BYTES);
    if (!l.entries || !l.buffer) {
        r = error_set_errno(error, -ENOMEM, "cannot open the container");
    } else {
        r = load_all(&l);
    }
    for (uint32_t i = 0; l.entries && i < l.n; i++) {
        entry_free(l.entries[i]);
    }
    free(l.entries);
    free(l.buffer);
    return r;
}
