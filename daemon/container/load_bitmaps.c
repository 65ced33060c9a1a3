/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading the bitmap table, and putting together the directory of what it and
 * the L1 tables (load_l1.c) say.
 */
#include "daemon/container/internal.h"

#include <stdarg.h>
#include <stdio.h>

void load_damaged(struct load *l, struct entry *e, const char *format, ...)
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
        size_t n = (size_t)min_u64(LOAD_BUFFER_BYTES - t->end, l->file_bytes - t->offset);
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
        load_damaged(t->load, e,
                     "bitmap table entry at offset %" PRIu64 ", name length: found %" PRIu32
                     ", expected 1 to %u",
                     offset, e->name_bytes, CONTAINER_NAME_BYTES_MAX);
    } else if (memchr(e->name, '\0', e->name_bytes)) {
        load_damaged(t->load, e,
                     "bitmap table entry at offset %" PRIu64
                     ", name: found a NUL byte, expected none",
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

/* Of a table in clusters that are not ours any more, nothing is kept, above all not the clusters.
 */
static void drop_all(struct load *l)
{
    while (l->n > 0) {
        entry_free(l->entries[--l->n]);
    }
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
    c->lost_bitmaps = c->header.bitmaps - l->n;
    if (bytes == 0) {
        return 0;
    }
    if (load_claimable(c, l->sink, l->file_bytes, "bitmap table", c->header.table_offset, bytes,
                       &why)) {
        load_reference(c, c->header.table_offset, bytes);
        return 0;
    }
    if (!c->header.has_private && !l->sink) {
        return error_set(l->error, -EBADMSG, "%s", why.text);
    }
    if (l->sink && l->sink->repairing && c->state_damage[0] == '\0' &&
        !load_in_disk(c, c->header.table_offset, bytes)) {
        c->table_shared = true; /* it is whole, and gets a place of its own */
        return 0;
    }
    /* What looked like entries belongs to something else. */
    load_state_damaged(c, l->sink, why.text);
    drop_all(l);
    c->lost_bitmaps = c->header.bitmaps;
    return 0;
}

static int load_all(struct load *l)
{
    struct container *c = l->container;
    int r;

    r = load_table(l);
    if (r == 0) {
        r = load_l1_tables(l);
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
            l->entries[i]->has_crcs = false;
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
    l.buffer = malloc(LOAD_BUFFER_BYTES);
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
