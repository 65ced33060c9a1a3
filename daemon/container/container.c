/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The life of an open container, and what it tells about itself.
 *
 * Opening for writing loads first and writes last, so that a file that is
 * refused has not been touched.  What it then writes is the header block just
 * as it was read: the sync that follows proves that what we are about to build
 * on is on the disk and not only in a cache that an earlier process could not
 * write back.
 */
#include "daemon/container/internal.h"

#include <sys/random.h>

#define PEEK_BYTES    512u
#define LOAD_ATTEMPTS 5u

/*
 * The mirror, when it is not the header's copy: a crash may have left it torn,
 * or ahead, of a commit that is not complete.  It has to be durable before the
 * header is written again, which a power failure may destroy.  That is more than
 * to be the same: a process that was killed may have begun to write it, and a
 * block that is on its way to the disk may be destroyed, too.
 */
static int refresh_mirror(struct container *c, struct error *error)
{
    uint64_t offset = c->header.private.mirror_offset;
    size_t bytes = c->header.block_bytes;
    uint64_t written = 0;
    CLEANUP_FREE uint8_t *now = malloc(bytes);
    int r;

    if (!now) {
        return error_set_errno(error, -ENOMEM, "cannot read the header's mirror");
    }
    r = file_read(c->file, now, bytes, offset);
    if (r == 0 && memcmp(now, c->header.block, bytes) != 0) {
        r = write_header_block(c->file, &c->header, offset, &written);
    }
    if (r == 0) {
        r = file_datasync(c->file);
    }
    if (r < 0) {
        return error_set_errno(error, r, "cannot refresh the header's mirror at offset %" PRIu64,
                               offset);
    }
    return 0;
}

int container_check_prepared(const struct container *c, struct error *error)
{
    if (c->header.has_private || !header_has_disk(&c->header)) {
        return 0;
    }
    return error_set(error, -ENOTSUP,
                     "the image has a disk of its own and is not prepared; 'bitmapctl container "
                     "create --internal FILE' does that");
}

int container_prepare_writing(struct container *c, struct error *error)
{
    int r;

    if (header_refuses_writing(&c->header, error)) {
        return -ENOTSUP;
    }
    if (!c->header.has_private || !c->header.crc_good) {
        r = spread_plan(c, error);
        if (r < 0) {
            return r;
        }
    }
    /* Beside a block that another program rewrote, the mirror is the older truth: it stays until
     * the next commit. */
    if (c->header.has_private && c->header.crc_good && !c->used_mirror && !c->mirror_lost) {
        r = refresh_mirror(c, error);
        if (r < 0) {
            return r;
        }
    }
    r = file_write(c->file, c->header.block, c->header.block_bytes, 0);
    if (r < 0) {
        return error_set_errno(error, r, "cannot write the header");
    }
    r = file_datasync(c->file);
    if (r < 0) {
        return error_set_errno(error, r, "cannot sync the header");
    }
    c->writable = true;
    return 0;
}

/* The first sector, in which each commit changes the commit id; less when the file is shorter. */
static int peek(struct file *file, uint8_t sector[static PEEK_BYTES])
{
    uint64_t bytes;
    int r = file_size(file, &bytes);

    memset(sector, 0, PEEK_BYTES);
    return r < 0 ? r : file_read(file, sector, (size_t)min_u64(bytes, PEEK_BYTES), 0);
}

/*
 * Readers work beside a daemon that commits.  What they read while the header
 * changed is neither the old commit nor the new one, so they begin again.
 */
static int load_stable(struct file *file, struct container **ret, struct error *error)
{
    uint8_t before[PEEK_BYTES], after[PEEK_BYTES];
    int r;

    for (unsigned attempt = 1;; attempt++) {
        CLEANUP(container_unloadp) struct container *c = NULL;
        r = peek(file, before);
        if (r < 0) {
            return error_set_errno(error, r, "cannot read the header");
        }
        int loaded = container_load(file, 0, NULL, &c, error);
        r = peek(file, after);
        if (r < 0) {
            return error_set_errno(error, r, "cannot read the header");
        }
        if (memcmp(before, after, PEEK_BYTES) == 0 || attempt == LOAD_ATTEMPTS) {
            *ret = STEAL(c);
            return loaded;
        }
    }
}

int container_open(struct file *file, unsigned flags, struct container **ret, struct error *error)
{
    CLEANUP(container_unloadp) struct container *c = NULL;
    int r;

    if (flags & CONTAINER_OPEN_WRITE) {
        r = container_load(file, 0, NULL, &c, error);
        if (r == 0) {
            r = container_check_prepared(c, error);
        }
        if (r == 0) {
            r = container_prepare_writing(c, error);
        }
    } else {
        r = load_stable(file, &c, error);
    }
    if (r < 0) {
        return r;
    }
    *ret = STEAL(c);
    return 0;
}

void container_close(struct container *c)
{
    if (!c) {
        return;
    }
    container_abort(c->txn);
    file_close(c->file);
    container_unload(c);
}

void container_closep(struct container **container)
{
    container_close(*container);
}

void container_set_max_size(struct container *c, uint64_t max_size)
{
    uint64_t clusters = max_size >> c->header.cluster_bits;

    c->space.limit =
        max_size == 0 ? CONTAINER_CLUSTERS_MAX : min_u64(clusters, CONTAINER_CLUSTERS_MAX);
}

int container_new_uuid(struct uuid *ret)
{
    struct uuid uuid;
    size_t got = 0;

    while (got < sizeof uuid.bytes) {
        ssize_t n = getrandom(uuid.bytes + got, sizeof uuid.bytes - got, 0);
        if (n < 0) {
            if (errno == EINTR) {
                continue;
            }
            return -errno;
        }
        got += (size_t)n;
    }
    uuid.bytes[6] = (uint8_t)((uuid.bytes[6] & 0x0f) | 0x40);
    uuid.bytes[8] = (uint8_t)((uuid.bytes[8] & 0x3f) | 0x80);
    *ret = uuid;
    return 0;
}

void container_get_info(const struct container *c, struct container_info *ret)
{
    const struct header *h = &c->header;
    uint64_t file_bytes = 0, reserved = c->reserve_table.count + c->reserve_blob.count;

    (void)file_size(c->file, &file_bytes);
    *ret = (struct container_info){
        .cluster_size = (uint32_t)cluster_bytes(c),
        .virtual_size = h->virtual_size,
        .header_length = load_be32(h->block + HEADER_LENGTH),
        .refcount_bits = UINT32_C(1) << h->refcount_order,
        .file_size = file_bytes,
        .has_private = h->has_private,
        .used_mirror = c->used_mirror,
        .foreign_write = c->foreign_write,
        .fields_restored = c->fields_restored,
        .bitmaps = c->directory.n,
        .lost_bitmaps = c->lost_bitmaps,
        .free_clusters = c->space.free + reserved,
        .leaked_clusters = c->leaked_clusters,
    };
    if (h->has_private) {
        ret->uuid = h->private.uuid;
        ret->commit_id = h->private.commit_id;
        ret->applied_seq = h->private.applied_seq;
        ret->clean = h->private.clean;
        ret->boot_id = h->private.boot_id;
        ret->identity = h->private.identity;
    }
    memcpy(ret->state_damage, c->state_damage, sizeof ret->state_damage);
}

void container_bitmap_get(const struct container *c, uint32_t index,
                          struct container_bitmap_info *ret)
{
    const struct entry *e = c->directory.entries[index];

    *ret = (struct container_bitmap_info){
        .id = e->id,
        .name = e->name,
        .name_bytes = e->name_bytes,
        .granularity = e->granularity,
        .sectors = e->sectors,
        .l1_entries = e->l1_entries,
        .allocated_clusters = e->allocated,
        .damage = e->damage,
    };
}

int container_bitmap_find(const struct container *c, uint64_t id, uint32_t *ret_index)
{
    const struct entry *e = directory_find_id(&c->directory, id);

    if (!e) {
        return -ENOENT;
    }
    *ret_index = e->index;
    return 0;
}

/*
 * Reads a cluster and its CRC, but notes nothing.  0, positive when the CRC is not that of the
 * slot, or what the file says.
 */
static int cluster_read(const struct container *c, const struct entry *e, uint32_t l1_index,
                        void *buffer, enum container_cluster_kind *ret_kind, uint32_t *ret_crc)
{
    struct slot slot = e->slots ? e->slots[l1_index] : (struct slot){0};
    uint32_t cluster = slot.where & SLOT_CLUSTER;

    if (cluster == 0 || (slot.where & SLOT_ZERO)) {
        *ret_kind = CONTAINER_ZEROS;
        return 0;
    }
    uint64_t offset = (uint64_t)cluster << c->header.cluster_bits;
    int r = file_read(c->file, buffer, cluster_bytes(c), offset);
    if (r < 0) {
        return r;
    }
    *ret_crc = e->has_crcs ? crc32c(0, buffer, cluster_bytes(c)) : slot.crc;
    if (*ret_crc != slot.crc) {
        return 1;
    }
    *ret_kind = CONTAINER_DATA;
    return 0;
}

bool container_bitmap_try(const struct container *c, uint32_t index, uint32_t l1_index,
                          void *buffer, enum container_cluster_kind *ret_kind)
{
    uint32_t crc;

    if (index >= c->directory.n || l1_index >= c->directory.entries[index]->l1_entries ||
        c->directory.entries[index]->unreadable) {
        return false;
    }
    return cluster_read(c, c->directory.entries[index], l1_index, buffer, ret_kind, &crc) == 0;
}

bool container_can_try(const struct container *c)
{
    return file_descriptor(c->file) >= 0;
}

int container_bitmap_read(struct container *c, uint32_t index, uint32_t l1_index, void *buffer,
                          enum container_cluster_kind *ret_kind, struct error *error)
{
    uint32_t crc;

    if (index >= c->directory.n || l1_index >= c->directory.entries[index]->l1_entries) {
        return error_set(error, -EINVAL, "no L1 index %" PRIu32 " in bitmap %" PRIu32, l1_index,
                         index);
    }
    struct entry *e = c->directory.entries[index];
    if (e->unreadable) {
        return error_set(error, -EBADMSG, "bitmap \"%s\": %s", e->name, e->damage);
    }
    int r = cluster_read(c, e, l1_index, buffer, ret_kind, &crc);
    if (r == 0) {
        return 0;
    }
    struct slot slot = e->slots[l1_index];
    uint64_t offset = (uint64_t)(slot.where & SLOT_CLUSTER) << c->header.cluster_bits;
    if (r < 0) {
        return error_set_errno(
            error, r, "bitmap \"%s\": cannot read its cluster %" PRIu32 " at offset %" PRIu64,
            e->name, l1_index, offset);
    }
    entry_damage(e,
                 "cluster of bits %" PRIu32 " at offset %" PRIu64 ": found CRC32C 0x%08" PRIx32
                 ", expected 0x%08" PRIx32,
                 l1_index, offset, crc, slot.crc);
    return error_set(error, -EBADMSG,
                     "bitmap \"%s\", cluster of bits %" PRIu32 " at offset %" PRIu64
                     ": found CRC32C 0x%08" PRIx32 ", expected 0x%08" PRIx32,
                     e->name, l1_index, offset, crc, slot.crc);
}

void container_state(const struct container *c, const void **ret_payload, size_t *ret_bytes)
{
    bool believed = c->blob.bytes && c->state_damage[0] == '\0';

    *ret_payload = believed ? c->blob.bytes + c->blob.payload_offset : NULL;
    *ret_bytes = believed ? c->blob.length - c->blob.payload_offset : 0;
}
