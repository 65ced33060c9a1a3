/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * `container check`: the load with a sink that hears of everything, then what
 * a load has no reason to look at: every cluster of bits, and the mirror.
 *
 * Losses that a repair or a commit has noted (STATE_ENTRY_LOST, PRIVATE_STATE_LOST)
 * are no findings: the container is as it should be, and tells them itself.
 *
 * A mirror that is torn or ahead of the header is what a crash between two
 * steps of a commit leaves, so it is told, but ranks with the leaks: the next
 * open for writing puts it right.
 */
#include "daemon/container/internal.h"

static int check_mirror(struct container *c, struct load_sink *sink, uint64_t file_bytes,
                        struct error *error)
{
    CLEANUP(header_deinit) struct header mirror = {0};
    uint64_t offset = c->header.private.mirror_offset;
    struct error why;
    int r;

    if (!c->header.has_private || c->used_mirror || c->mirror_lost) {
        return 0;
    }
    r = header_read(c->file, file_bytes, offset, &mirror, &why);
    if (r == -EBADMSG) {
        sink_report(sink, false, 1, "mirror at offset %" PRIu64 ": %s", offset, why.text);
        return 0;
    }
    if (r < 0) {
        return error_set(error, r, "%s", why.text);
    }
    if (!mirror.has_private || !mirror.crc_good) {
        sink_report(sink, false, 1, "mirror at offset %" PRIu64 ": its CRC is wrong", offset);
    } else if (mirror.block_bytes != c->header.block_bytes ||
               memcmp(mirror.block, c->header.block, mirror.block_bytes) != 0) {
        sink_report(sink, false, 1, "mirror at offset %" PRIu64 ": it differs from the header",
                    offset);
    }
    return 0;
}

static void check_bits(struct container *c, struct load_sink *sink, const struct entry *e,
                       uint8_t *buffer)
{
    for (uint32_t i = 0; e->slots && i < e->l1_entries; i++) {
        uint64_t offset = (uint64_t)(e->slots[i].where & SLOT_CLUSTER) << c->header.cluster_bits;
        if (offset == 0 || (e->slots[i].where & SLOT_ZERO)) {
            continue;
        }
        int r = file_read(c->file, buffer, cluster_bytes(c), offset);
        if (r < 0) {
            struct error why;
            (void)error_set_errno(&why, r, "it cannot be read");
            sink_report(sink, true, 1,
                        "bitmap \"%s\", cluster of bits %" PRIu32 " at offset %" PRIu64 ": %s",
                        e->name, i, offset, why.text);
            continue;
        }
        uint32_t crc = crc32c(0, buffer, cluster_bytes(c));
        if (e->has_crcs && crc != e->slots[i].crc) {
            sink_report(sink, true, 1,
                        "bitmap \"%s\", cluster of bits %" PRIu32 " at offset %" PRIu64
                        ": found CRC32C 0x%08" PRIx32 ", expected 0x%08" PRIx32,
                        e->name, i, offset, crc, e->slots[i].crc);
        }
        uint64_t exist = entry_bits_in_cluster(e, c->header.cluster_bits, i);
        if (!bits_clear_from(buffer, cluster_bytes(c), exist)) {
            sink_report(sink, true, 1,
                        "bitmap \"%s\", cluster of bits %" PRIu32 " at offset %" PRIu64
                        ": found bits set beyond the last granule, expected them clear",
                        e->name, i, offset);
        }
    }
}

/* What a load makes good without a word, or has no use for. */
static void check_header(struct container *c, struct load_sink *sink)
{
    const struct header *h = &c->header;
    const struct private_extension *p = &h->private;

    if (!h->has_private || c->used_mirror) {
        return; /* the mirror agrees with itself, or it would not have been used */
    }
    if (h->fields_restored) {
        sink_report(sink, true, 1,
                    "header at offset 0, nb_dirty_bitmaps and dirty_bitmaps_offset (bytes 104 to "
                    "115): found %" PRIu32 " and %" PRIu64 ", expected %" PRIu32 " and %" PRIu64
                    " as in our extension",
                    load_be32(h->fixed + HEADER_BITMAPS),
                    load_be64(h->fixed + HEADER_BITMAPS_OFFSET), p->bitmaps, p->table_offset);
    }
    if (h->snapshots == 0 && !(h->autoclear & AUTOCLEAR_OURS)) {
        sink_report(sink, false, 1,
                    "header at offset 0, autoclear features (byte %u): found bit 63 clear, "
                    "expected it set: another program has opened the container for writing",
                    HEADER_AUTOCLEAR);
    } else if (!h->crc_good) {
        sink_report(sink, false, 1,
                    "header at offset 0: its CRC is wrong: another program has written it");
    }
    if (p->flags & ~PRIVATE_STATE_LOST) {
        sink_report(sink, true, 1,
                    "header extension 0x%08x, flags (byte %u): found 0x%" PRIx32
                    ", expected reserved bits clear",
                    EXTENSION_PRIVATE, PRIVATE_FLAGS, p->flags);
    }
}

static void check_blob(struct container *c, struct load_sink *sink)
{
    size_t position = 0;

    for (uint32_t i = 0; c->blob.bytes && i < c->blob.table_entries; i++) {
        struct blob_entry b;
        blob_next(&c->blob, &position, &b);
        uint32_t zero = load_le32(b.crcs - STATE_ENTRY_BYTES + STATE_ENTRY_ZERO);
        if ((b.flags & ~STATE_ENTRY_LOST) || zero != 0) {
            sink_report(sink, true, 1,
                        "state blob, entry %" PRIu32 ": found 0x%" PRIx32 " and 0x%" PRIx32
                        " in its flags and its last field, expected reserved bits clear",
                        i, b.flags, zero);
        }
        if (b.id == 0 && b.n_crcs > 0) {
            sink_report(sink, true, 1,
                        "state blob, entry %" PRIu32 ": found %" PRIu32
                        " CRCs for a bitmap that is not ours, expected none",
                        i, b.n_crcs);
        }
    }
}

/* What the load has told nobody.  Losses known of old are none of the container's. */
static void check_name(struct container *c, struct load_sink *sink, const struct entry *e)
{
    if (directory_find_name(&c->directory, e->name, e->name_bytes) != e) {
        sink_report(sink, true, 1, "bitmap \"%s\": found the name twice, expected it once",
                    e->name);
    }
}

int check_all(struct file *file, struct load_sink *sink, struct error *error)
{
    CLEANUP(container_unloadp) struct container *c = NULL;
    CLEANUP_FREE uint8_t *buffer = NULL;
    uint64_t file_bytes;
    int r;

    r = file_size(file, &file_bytes);
    if (r < 0) {
        return error_set_errno(error, r, "cannot tell the container's size");
    }
    /* Everything but an unreadable header is a finding. */
    r = container_load(file, 0, sink, &c, error);
    if (r < 0) {
        return r;
    }
    buffer = malloc(cluster_bytes(c));
    r = buffer ? check_mirror(c, sink, file_bytes, error)
               : error_set_errno(error, -ENOMEM, "cannot check the container");
    if (r < 0) {
        return r;
    }
    check_header(c, sink);
    check_blob(c, sink);
    for (uint32_t i = 0; i < c->directory.n; i++) {
        check_name(c, sink, c->directory.entries[i]);
        check_bits(c, sink, c->directory.entries[i], buffer);
    }
    return 0;
}

int container_check(struct file *file,
                    void (*found)(void *opaque, bool corruption, const char *text), void *opaque,
                    struct container_check_report *ret, struct error *error)
{
    struct load_sink sink = {.found = found, .opaque = opaque};
    int r = check_all(file, &sink, error);

    if (r == 0) {
        *ret = (struct container_check_report){
            .corruptions = sink.corruptions,
            .leaks = sink.leaks,
        };
    }
    return r;
}
