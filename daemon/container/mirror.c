/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which header block to believe.
 *
 *   the block at byte 0 …                          … and then
 *   has our extension and a good CRC               is believed
 *   has our extension with its own CRC good, and   was rewritten by another program, which had to
 *     the autoclear bit is gone                    clear the bit: believed, draft fields from the
 *                                                  extension's copy; the caller sees the bit.  But
 *                                                  torn, if the mirror has the same first sector
 *   has neither our extension nor our bit          is a foreign tool's: believed
 *   is anything else                               is damaged: the mirror is believed
 *
 * The mirror is at the offset the extension names if that can be believed.
 * Otherwise it is searched for, at every place a cluster could start: a block
 * with good CRCs that names its own offset as the mirror's.  Bits that a client
 * may write could be made to look like one, so two are as good as none.  The
 * search ends early in a file that is too large to be read through just because
 * somebody named the wrong one; where we make containers, the mirror is near
 * the front.
 *
 * An image with a disk of its own is never searched: its guest writes into it
 * what it likes, and a mirror that is older than the disk would cost the disk.
 * Where the extension names it, the mirror of such an image has to agree with
 * the header about the disk.
 */
#include "daemon/container/internal.h"

#define SEARCH_STEP  512u /* the smallest cluster */
#define SEARCH_BYTES (UINT32_C(1) << 20)
#define SEARCH_LIMIT (UINT64_C(1) << 30)

/*
 * Whether a header at @offset of the file can be a mirror, by its first bytes.
 * Its cluster, which is to be read next, begins there; else the clusters of
 * headers close together, which overlap, would make the search read much more
 * than the file has.
 */
static bool mirror_possible(const uint8_t *bytes, uint64_t offset)
{
    uint32_t bits = load_be32(bytes + HEADER_CLUSTER_BITS);

    return offset != 0 && load_be32(bytes + HEADER_MAGIC) == HEADER_MAGIC_VALUE &&
           bits <= CONTAINER_CLUSTER_BITS_MAX && (offset & ((UINT64_C(1) << bits) - 1)) == 0;
}

/* A header block at @offset that may stand in for the one at byte 0. */
static int mirror_read(struct file *file, uint64_t file_bytes, uint64_t offset,
                       const struct uuid *uuid, struct header *ret, struct error *error)
{
    CLEANUP(header_deinit) struct header h = {0};
    int r;

    r = header_read(file, file_bytes, offset, &h, error);
    if (r < 0) {
        return r;
    }
    if (!h.has_private || !h.crc_good) {
        return error_set(error, -EBADMSG, "mirror at offset %" PRIu64 ": its CRC is wrong", offset);
    }
    if (h.private.mirror_offset != offset || (offset & ((UINT64_C(1) << h.cluster_bits) - 1))) {
        return error_set(error, -EBADMSG,
                         "mirror at offset %" PRIu64 ": found offset %" PRIu64
                         " for itself, expected the same",
                         offset, h.private.mirror_offset);
    }
    if (uuid && memcmp(uuid, &h.private.uuid, sizeof *uuid) != 0) {
        return error_set(error, -EBADMSG,
                         "mirror at offset %" PRIu64 ": it belongs to another container", offset);
    }
    *ret = h;
    h = (struct header){0};
    return 0;
}

/* 0 and the mirror; -ENOENT when there is none or they disagree; other errors are of I/O. */
static int mirror_search(struct file *file, uint64_t file_bytes, struct header *ret)
{
    CLEANUP(header_deinit) struct header found = {0};
    CLEANUP_FREE uint8_t *buffer = malloc(SEARCH_BYTES);
    bool any = false;

    if (!buffer) {
        return -ENOMEM;
    }
    uint64_t end = min_u64(file_bytes, SEARCH_LIMIT);
    for (uint64_t at = 0; at < end; at += SEARCH_BYTES) {
        size_t n = (size_t)min_u64(SEARCH_BYTES, end - at);
        int r = file_read(file, buffer, n, at);
        if (r < 0) {
            return r;
        }
        for (size_t i = 0; i + HEADER_BYTES_MIN <= n; i += SEARCH_STEP) {
            CLEANUP(header_deinit) struct header candidate = {0};
            if (!mirror_possible(buffer + i, at + i)) {
                continue;
            }
            r = mirror_read(file, file_bytes, at + i, NULL, &candidate, NULL);
            if (r == -EBADMSG) {
                continue;
            }
            if (r < 0) {
                return r;
            }
            if (any) {
                return -ENOENT;
            }
            any = true;
            found = candidate;
            candidate = (struct header){0};
        }
    }
    if (!any) {
        return -ENOENT;
    }
    *ret = found;
    found = (struct header){0};
    return 0;
}

/*
 * Whether what stands at byte 0, damaged or not for us, is the header of an
 * image with a disk.  One without an L1 table, or with one longer than there can
 * be, leads to no disk: it is what is left of something else.
 */
static bool heads_a_disk(struct file *file, uint64_t file_bytes)
{
    uint8_t bytes[HEADER_BYTES_QCOW2];

    if (file_bytes < sizeof bytes || file_read(file, bytes, sizeof bytes, 0) < 0) {
        return false;
    }
    uint32_t l1_entries = load_be32(bytes + HEADER_L1_ENTRIES);
    return load_be32(bytes + HEADER_MAGIC) == HEADER_MAGIC_VALUE && l1_entries != 0 &&
           l1_entries <= DISK_L1_BYTES_MAX / DISK_ENTRY_BYTES;
}

static bool same_disk(const struct header *a, const struct header *b)
{
    return a->virtual_size == b->virtual_size && a->l1_entries == b->l1_entries &&
           a->l1_offset == b->l1_offset && a->snapshots == b->snapshots &&
           a->snapshots_offset == b->snapshots_offset;
}

/*
 * In an image with snapshots there is no bit to tell a header that another
 * program wrote from one of ours that was torn.  Another program changes the
 * first sector, which in ours is the one that cannot be torn.
 */
static bool is_torn(struct file *file, uint64_t file_bytes, const struct header *h)
{
    CLEANUP(header_deinit) struct header mirror = {0};

    if (!h->has_private || !h->private_crc_good || h->crc_good ||
        mirror_read(file, file_bytes, h->private.mirror_offset, &h->private.uuid, &mirror, NULL) <
            0) {
        return false;
    }
    size_t bytes = min_u64(SECTOR_BYTES, min_u64(h->block_bytes, mirror.block_bytes));
    return memcmp(h->block, mirror.block, bytes) == 0;
}

int header_find(struct file *file, uint64_t file_bytes, struct header *ret, bool *ret_used_mirror,
                struct error *error)
{
    CLEANUP(header_deinit) struct header h = {0};
    CLEANUP(header_deinit) struct header mirror = {0};
    struct error why = {{0}};
    int r;

    r = header_read(file, file_bytes, 0, &h, &why);
    if (r < 0 && r != -EBADMSG) {
        if (error) {
            *error = why;
        }
        return r;
    }
    if (r == 0) {
        bool bit = h.autoclear & AUTOCLEAR_OURS;
        bool believed = h.has_private ? h.crc_good || (h.private_crc_good && !bit) : !bit;
        if (believed && !is_torn(file, file_bytes, &h)) {
            *ret = h;
            h = (struct header){0};
            *ret_used_mirror = false;
            return 0;
        }
        (void)error_set(&why, -EBADMSG, "header at offset 0: %s",
                        h.has_private ? "its CRC is wrong"
                                      : "our autoclear bit is set, but our extension is missing");
    }

    bool pointer_good = r == 0 && h.has_private && h.private_crc_good;
    if (pointer_good) {
        struct error second = {{0}};
        r = mirror_read(file, file_bytes, h.private.mirror_offset, &h.private.uuid, &mirror,
                        &second);
        if (r == -EBADMSG) {
            return error_set(error, r, "%s, and %s", why.text, second.text);
        }
    } else {
        r = heads_a_disk(file, file_bytes) ? -ENOENT : mirror_search(file, file_bytes, &mirror);
        if (r == -ENOENT) {
            return error_set(error, -EBADMSG, "%s", why.text);
        }
    }
    if (r < 0) {
        return error_set_errno(error, r, "%s, and its mirror cannot be read", why.text);
    }
    if (header_has_disk(&mirror) && !(pointer_good && same_disk(&h, &mirror))) {
        return error_set(error, -EBADMSG,
                         "%s, and its mirror at offset %" PRIu64
                         " may be older than the image's disk",
                         why.text, mirror.private.mirror_offset);
    }
    *ret = mirror;
    mirror = (struct header){0};
    *ret_used_mirror = true;
    return 0;
}
