/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * `container check`: the load with a sink that hears of everything, then what
 * a load has no reason to look at: every cluster of bits, and the mirror.
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

static int check_bits(struct container *c, struct load_sink *sink, struct entry *e, uint8_t *buffer,
                      struct error *error)
{
    for (uint32_t i = 0; e->slots && i < e->l1_entries; i++) {
        uint64_t offset = (uint64_t)(e->slots[i].where & SLOT_CLUSTER) << c->header.cluster_bits;
        if (offset == 0 || (e->slots[i].where & SLOT_ZERO)) {
            continue;
        }
        int r = file_read(c->file, buffer, cluster_bytes(c), offset);
        if (r < 0) {
            return error_set_errno(error, r, "cannot read a cluster of bits at offset %" PRIu64,
                                   offset);
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
    return 0;
}

/* What the load has told nobody: names that are there twice, losses known of old. */
static void check_entry(struct container *c, struct load_sink *sink, const struct entry *e)
{
    if (directory_find_name(&c->directory, e->name, e->name_bytes) != e) {
        sink_report(sink, true, 1, "bitmap \"%s\": found the name twice, expected it once",
                    e->name);
    }
    if (e->lost_earlier) {
        sink_report(sink, true, 1, "bitmap \"%s\": %s", e->name, e->damage);
    }
}

int container_check(struct file *file,
                    void (*found)(void *opaque, bool corruption, const char *text), void *opaque,
                    struct container_check_report *ret, struct error *error)
{
    CLEANUP(container_unloadp) struct container *c = NULL;
    CLEANUP_FREE uint8_t *buffer = NULL;
    struct load_sink sink = {.found = found, .opaque = opaque};
    uint64_t file_bytes;
    int r;

    r = file_size(file, &file_bytes);
    if (r < 0) {
        return error_set_errno(error, r, "cannot tell the container's size");
    }
    /* Everything but an unreadable header is a finding. */
    r = container_load(file, 0, &sink, &c, error);
    if (r < 0) {
        return r;
    }
    buffer = malloc(cluster_bytes(c));
    r = buffer ? check_mirror(c, &sink, file_bytes, error)
               : error_set_errno(error, -ENOMEM, "cannot check the container");
    for (uint32_t i = 0; i < c->directory.n && r == 0; i++) {
        check_entry(c, &sink, c->directory.entries[i]);
        r = check_bits(c, &sink, c->directory.entries[i], buffer, error);
    }
    if (r < 0) {
        return r;
    }
    *ret = (struct container_check_report){
        .corruptions = sink.corruptions,
        .leaks = sink.leaks,
    };
    return 0;
}
