/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading a container into memory, for container_open() and container_check():
 * header block, refcount structures, mirror, state blob; disk.c follows the
 * image's own disk, load_bitmaps.c does the rest.  Nothing is written here.
 *
 * What is damaged decides how far the damage reaches:
 *
 *     header, refcount table or blocks, mirror's place,      -EBADMSG: nothing can be believed,
 *       two of them in one cluster, the tables of a            above all not which cluster is free
 *       disk of the image's own
 *     state blob, bitmap table, their places                 state_damage: every bitmap
 *     one bitmap's L1 table or clusters                      that bitmap
 *     any of ours where the disk has something               as if it were damaged
 *
 * Memory: proportional to the file's size, since each structure must lie in
 * the file, and clusters that two structures claim are read for the first only.
 */
#include "daemon/container/internal.h"

#include <stdarg.h>
#include <stdio.h>

void sink_report(struct load_sink *sink, bool corruption, uint64_t count, const char *format, ...)
{
    char text[512];
    va_list args;

    if (!sink) {
        return;
    }
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    /* Names come from the file and the text goes to a terminal. */
    for (char *p = text; *p; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7f) {
            *p = '?';
        }
    }
    *(corruption ? &sink->corruptions : &sink->leaks) += count;
    if (sink->found) {
        sink->found(sink->opaque, corruption, text);
    }
}

int load_problem(struct load_sink *sink, struct error *error, const char *format, ...)
{
    struct error what;
    va_list args;

    va_start(args, format);
    (void)vsnprintf(what.text, sizeof what.text, format, args);
    va_end(args);
    if (!sink) {
        return error_set(error, -EBADMSG, "%s", what.text);
    }
    sink_report(sink, true, 1, "%s", what.text);
    return 1;
}

void load_overlap(struct load_sink *sink)
{
    if (sink) {
        sink->overlap = true;
    }
}

/* Whether a structure can be there at all. */
static bool load_placed(const struct container *c, uint64_t file_bytes, const char *what,
                        uint64_t offset, uint64_t bytes, struct error *why)
{
    uint64_t size = cluster_bytes(c);

    if (offset & (size - 1)) {
        (void)error_set(why, -EBADMSG,
                        "%s: found offset %" PRIu64 ", expected a multiple of %" PRIu64, what,
                        offset, size);
        return false;
    }
    /* What has no bytes is nowhere, and its file may have been cut off there. */
    if (bytes > 0 && (offset > file_bytes || bytes > file_bytes - offset)) {
        (void)error_set(why, -EBADMSG,
                        "%s: found offset %" PRIu64 " and length %" PRIu64
                        ", expected both within the file's %" PRIu64 " bytes",
                        what, offset, bytes, file_bytes);
        return false;
    }
    return true;
}

/* Refcounts of an image with a disk are QEMU's too: it may have made them anew, where ours was.
 * So early in a load, only clusters of the disk are pinned. */
static bool of_disk(const struct container *c, uint64_t cluster)
{
    return c->disk_refs &&
           (c->space.refs[cluster] == REFS_PINNED || (c->disk_refs[cluster] & DISK_REFS_REFCOUNTS));
}

bool load_claimable(const struct container *c, struct load_sink *sink, uint64_t file_bytes,
                    const char *what, uint64_t offset, uint64_t bytes, struct error *why)
{
    if (!load_placed(c, file_bytes, what, offset, bytes, why)) {
        return false;
    }
    uint64_t start = offset >> c->header.cluster_bits;
    uint64_t count = clusters_for(bytes, c->header.cluster_bits);
    for (uint64_t i = start; i < start + count; i++) {
        if (c->space.refs[i] != 0) {
            load_overlap(sink);
            (void)error_set(why, -EBADMSG,
                            "%s at offset %" PRIu64 ": found cluster %" PRIu64
                            " in use by %s, expected it free",
                            what, offset, i,
                            of_disk(c, i) ? "the image's disk" : "another structure");
            return false;
        }
    }
    return true;
}

void load_reference(struct container *c, uint64_t offset, uint64_t bytes)
{
    space_ref(&c->space, offset >> c->header.cluster_bits,
              clusters_for(bytes, c->header.cluster_bits));
}

/* Of a structure without which nothing can be believed.  Returns 0, or as load_problem(). */
static int load_claim(struct container *c, struct load_sink *sink, uint64_t file_bytes,
                      const char *what, uint64_t offset, uint64_t bytes, struct error *error)
{
    struct error why;

    if (!load_claimable(c, sink, file_bytes, what, offset, bytes, &why)) {
        return load_problem(sink, error, "%s", why.text);
    }
    load_reference(c, offset, bytes);
    return 0;
}

bool load_in_disk(const struct container *c, uint64_t offset, uint64_t bytes)
{
    uint64_t start = offset >> c->header.cluster_bits;
    uint64_t count = clusters_for(bytes, c->header.cluster_bits);

    for (uint64_t i = start; i < c->space.clusters && i - start < count; i++) {
        if (of_disk(c, i)) {
            return true;
        }
    }
    return false;
}

/* Returns what the problem came to. */
static int refcounts_broken(struct load_sink *sink, int r)
{
    if (r > 0) {
        sink->refcounts_broken = true;
    }
    return r;
}

static int load_refcount_table(struct container *c, struct load_sink *sink, uint64_t file_bytes,
                               struct error *error)
{
    struct refcounts *rc = &c->refcounts;
    CLEANUP_FREE uint8_t *table = NULL;
    uint64_t bytes, size = cluster_bytes(c);
    int r;

    rc->cluster_bits = c->header.cluster_bits;
    rc->order = c->header.refcount_order;
    if (sink && sink->anew) {
        return 0;
    }
    rc->table_offset = c->header.refcount_table_offset;
    rc->table_clusters = c->header.refcount_table_clusters;
    bytes = rc->table_clusters << rc->cluster_bits;
    if (rc->table_clusters == 0 || bytes > max_u64(CONTAINER_REFCOUNT_TABLE_BYTES_MAX, size)) {
        r = load_problem(sink, error,
                         "refcount table (header byte %u): found %" PRIu64
                         " clusters, expected 1 to %" PRIu64,
                         HEADER_REFCOUNT_TABLE_CLUSTERS, rc->table_clusters,
                         max_u64(CONTAINER_REFCOUNT_TABLE_BYTES_MAX >> rc->cluster_bits, 1));
        return refcounts_broken(sink, r);
    }
    r = load_claim(c, sink, file_bytes, "refcount table", rc->table_offset, bytes, error);
    if (r != 0) {
        return refcounts_broken(sink, r);
    }
    table = malloc(bytes);
    rc->n_blocks = (uint32_t)(bytes / REFCOUNT_TABLE_ENTRY_BYTES);
    rc->blocks = calloc(rc->n_blocks, sizeof *rc->blocks);
    rc->pending = calloc(rc->n_blocks, sizeof *rc->pending);
    if (!table || !rc->blocks || !rc->pending) {
        return error_set_errno(error, -ENOMEM, "cannot read the refcount table");
    }
    r = file_read(c->file, table, bytes, rc->table_offset);
    if (r < 0) {
        return error_set_errno(error, r, "cannot read the refcount table at offset %" PRIu64,
                               rc->table_offset);
    }
    for (uint32_t i = 0; i < rc->n_blocks; i++) {
        uint64_t value = load_be64(table + (size_t)i * REFCOUNT_TABLE_ENTRY_BYTES);
        char what[80];
        if (value == 0) {
            continue;
        }
        (void)snprintf(what, sizeof what, "refcount table entry %" PRIu32 " at offset %" PRIu64, i,
                       rc->table_offset + (uint64_t)i * REFCOUNT_TABLE_ENTRY_BYTES);
        r = value & REFCOUNT_TABLE_RESERVED
                ? load_problem(sink, error, "%s: found 0x%" PRIx64 ", expected bits 0 to 8 clear",
                               what, value)
                : load_claim(c, sink, file_bytes, what, value, size, error);
        if (refcounts_broken(sink, r) < 0) {
            return r;
        }
        if (r == 0) {
            rc->blocks[i].offset = value;
        }
    }
    return 0;
}

/* Of differences between counters so many are told one by one: a block of one-bit counters can have
 * millions, and who asked may keep them all. */
#define DIFFERENCES_TOLD 1000u

/* How the counters of one stretch of clusters differ, gathered into one line. */
struct difference {
    uint64_t first, last, found, expected;
    bool any, disk;
    uint64_t told, untold; /* stretches so far */
};

static void difference_flush(struct difference *d, struct load_sink *sink)
{
    if (d->any && d->told == DIFFERENCES_TOLD && sink) {
        *(d->found < d->expected ? &sink->corruptions : &sink->leaks) += d->last - d->first + 1;
        d->untold++;
    } else if (d->any) {
        d->told++;
        sink_report(sink, d->found < d->expected, d->last - d->first + 1,
                    "refcount of clusters %" PRIu64 " to %" PRIu64 ": found %" PRIu64
                    ", expected %" PRIu64 "%s",
                    d->first, d->last, d->found, d->expected,
                    d->disk                  ? " (the image's disk's: for 'qemu-img check -r')"
                    : d->found < d->expected ? ""
                                             : " (leaked)");
    }
    d->any = false;
}

static void difference_add(struct difference *d, struct load_sink *sink, uint64_t cluster,
                           uint64_t found, uint64_t expected, bool disk)
{
    if (d->any && d->last + 1 == cluster && d->found == found && d->expected == expected &&
        d->disk == disk) {
        d->last = cluster;
        return;
    }
    difference_flush(d, sink);
    d->first = d->last = cluster;
    d->found = found;
    d->expected = expected;
    d->any = true;
    d->disk = disk;
}

static void difference_end(struct difference *d, struct load_sink *sink)
{
    difference_flush(d, sink);
    if (d->untold > 0) {
        sink_report(sink, false, 0,
                    "refcounts: %" PRIu64
                    " more stretches of clusters differ, counted and not listed",
                    d->untold);
    }
}

static int load_compare_refcounts(struct container *c, struct load_sink *sink, struct error *error)
{
    struct refcounts *rc = &c->refcounts;
    uint64_t size = cluster_bytes(c);
    uint64_t per_block = refcounts_per_block(rc->cluster_bits, rc->order);
    uint64_t max = rc->order == 6 ? UINT64_MAX : (UINT64_C(1) << (1u << rc->order)) - 1;
    /* What we do not follow may be what a counter stands for. */
    bool unknown = !header_fully_understood(&c->header);
    bool others = unknown || c->state_damage[0];
    CLEANUP_FREE uint8_t *counters = malloc(size);
    struct difference d = {0};

    if (!counters) {
        return error_set_errno(error, -ENOMEM, "cannot compare refcounts");
    }
    uint64_t blocks = max_u64(rc->n_blocks, div_round_up(c->space.clusters, per_block));
    for (uint64_t b = 0; b < blocks; b++) {
        bool exists = b < rc->n_blocks && rc->blocks[b].offset != 0;
        uint64_t first = b * per_block;
        uint64_t clusters = first < c->space.clusters ? c->space.clusters - first : 0;
        if (exists) {
            int r = file_read(c->file, counters, size, rc->blocks[b].offset);
            if (r < 0) {
                return error_set_errno(error, r,
                                       "cannot read the refcount block at offset %" PRIu64,
                                       rc->blocks[b].offset);
            }
        } else if (clusters == 0 ||
                   bits_clear_from(c->space.refs + first, min_u64(clusters, per_block), 0)) {
            continue; /* nothing to count, as in a hole of the file */
        } else {
            memset(counters, 0, size);
        }
        uint64_t n = refcounts_to_look_at(counters, rc->order, per_block, clusters);
        for (uint64_t i = 0; i < n; i++) {
            uint64_t cluster = first + i;
            bool inside = cluster < c->space.clusters;
            uint64_t have = refcount_get(counters, rc->order, i);
            uint32_t disk = inside && c->disk_refs && c->space.refs[cluster] == REFS_PINNED
                                ? c->disk_refs[cluster] & DISK_REFS_COUNT
                                : 0;
            uint64_t want = inside ? min_u64(disk ? disk : c->space.refs[cluster], max) : 0;
            if (have == want) {
                continue;
            }
            c->low_clusters += have < want;
            if (disk) {
                /* QEMU's business, but that nobody may take a cluster in use for free. */
                if (have == 0) {
                    rc->uncovered |= !exists;
                    refcounts_flag(rc, b, REFCOUNT_RAISE);
                }
                difference_add(&d, sink, cluster, have, want, disk != 0);
            } else if (have < want) {
                /* We raise before we refer; whoever lowers is somebody else. */
                c->foreign_write |= c->header.has_private && have == 0;
                rc->uncovered |= !exists;
                refcounts_flag(rc, b, REFCOUNT_RAISE);
                difference_add(&d, sink, cluster, have, want, disk != 0);
            } else if (others && want == 0 && inside) {
                space_mark(&c->space, cluster, 1, REFS_PINNED);
            } else if (unknown && want == 0) {
                /* It may be there without having been written to. */
            } else {
                c->leaked_clusters++;
                refcounts_flag(rc, b, REFCOUNT_LOWER);
                difference_add(&d, sink, cluster, have, want, disk != 0);
            }
        }
    }
    difference_end(&d, sink);
    return 0;
}

void load_state_damaged(struct container *c, struct load_sink *sink, const char *why)
{
    if (c->state_damage[0] == '\0') {
        (void)snprintf(c->state_damage, sizeof c->state_damage, "%.255s", why);
    }
    sink_report(sink, true, 1, "%s", why);
}

static int load_blob(struct container *c, struct load_sink *sink, uint64_t file_bytes,
                     struct error *error)
{
    const struct private_extension *p = &c->header.private;
    CLEANUP_FREE uint8_t *bytes = NULL;
    struct error why;
    int r;

    uint64_t longest = STATE_HEADER_BYTES + CONTAINER_STATE_BYTES_MAX +
                       (uint64_t)STATE_ENTRY_BYTES * CONTAINER_BITMAPS_MAX + 4 * c->space.clusters;
    if (p->state_bytes > longest) {
        (void)error_set(&why, -EBADMSG,
                        "state blob at offset %" PRIu64 ": found length %" PRIu64
                        ", expected at most %" PRIu64,
                        p->state_offset, p->state_bytes, longest);
        load_state_damaged(c, sink, why.text);
        return 0;
    }
    if (!load_placed(c, file_bytes, "state blob", p->state_offset, p->state_bytes, &why)) {
        load_state_damaged(c, sink, why.text);
        return 0;
    }
    /* Not to be believed where it lies wrong: in a file that was cut off, what once was there may
     * have made way for a refcount block of a commit that was not finished.  But a repair gives it
     * a place of its own, if it is whole. */
    c->blob_claimed =
        load_claimable(c, sink, file_bytes, "state blob", p->state_offset, p->state_bytes, &why);
    if (c->blob_claimed) {
        load_reference(c, p->state_offset, p->state_bytes);
    } else if (!sink || !sink->repairing || load_in_disk(c, p->state_offset, p->state_bytes)) {
        load_state_damaged(c, sink, why.text);
        return 0;
    }
    bytes = malloc(p->state_bytes ? p->state_bytes : 1);
    if (!bytes) {
        return error_set_errno(error, -ENOMEM, "cannot read the state blob");
    }
    r = p->state_bytes ? file_read(c->file, bytes, p->state_bytes, p->state_offset) : 0;
    if (r < 0) {
        return error_set_errno(error, r, "cannot read the state blob at offset %" PRIu64,
                               p->state_offset);
    }
    r = blob_parse(bytes, p->state_bytes, p, &c->blob, &why);
    if (r < 0) {
        load_state_damaged(c, sink, why.text);
        return 0;
    }
    bytes = NULL; /* the blob's now */
    if (p->flags & PRIVATE_STATE_LOST) {
        load_state_damaged(c, NULL, "the state was lost earlier");
    }
    return 0;
}

/*
 * A program that freed our clusters may have given them to the disk since.
 * That costs what was in them, but the container goes on: so for the mirror
 * here, for the blob above, for table and L1 tables in load_bitmaps.c.
 */
static int load_mirror(struct container *c, struct load_sink *sink, uint64_t file_bytes,
                       struct error *error)
{
    uint64_t offset = c->header.private.mirror_offset;

    if (load_in_disk(c, offset, cluster_bytes(c))) {
        c->mirror_lost = true;
        sink_report(sink, true, 1,
                    "mirror at offset %" PRIu64 ": found its cluster in use by the image's disk",
                    offset);
        return 0;
    }
    int r = load_claim(c, sink, file_bytes, "mirror", offset, cluster_bytes(c), error);
    c->mirror_lost = r > 0;
    return r;
}

/* Whether a short header is fine, for whom. */
static int load_check_prepared(const struct header *h, unsigned flags, struct error *error)
{
    if (h->length >= HEADER_BYTES_MIN || (flags & LOAD_UNPREPARED)) {
        return 0;
    }
    if (h->has_private) {
        return error_set(error, -EBADMSG,
                         "header at offset 0, header_length (byte %u): found %" PRIu32
                         ", expected at least %u",
                         HEADER_LENGTH, h->length, HEADER_BYTES_MIN);
    }
    return error_set(error, -ENOTSUP,
                     "a qcow2 image without room for bitmaps in its header; 'bitmapctl container "
                     "create --internal FILE' prepares it");
}

/* After the structures, so that their clusters are known. */
static int load_checked(struct container *c, struct load_sink *sink, uint64_t file_bytes,
                        struct error *error)
{
    int r;

    space_ref(&c->space, 0, 1);
    r = load_refcount_table(c, sink, file_bytes, error);
    if (r >= 0) {
        r = disk_follow(c, sink, file_bytes, error);
    }
    if (r < 0) {
        return r;
    }
    if (c->header.has_private) {
        r = load_mirror(c, sink, file_bytes, error);
        if (r >= 0) {
            r = load_blob(c, sink, file_bytes, error);
        }
        if (r < 0) {
            return r;
        }
    }
    r = load_bitmaps(c, sink, file_bytes, error);
    if (r < 0) {
        return r;
    }
    return load_compare_refcounts(c, sink, error);
}

int container_load(struct file *file, unsigned flags, struct load_sink *sink,
                   struct container **ret, struct error *error)
{
    CLEANUP(container_unloadp) struct container *c = calloc(1, sizeof *c);
    uint64_t file_bytes, clusters;
    int r;

    if (!c) {
        return error_set_errno(error, -ENOMEM, "cannot open the container");
    }
    c->file = file;
    r = file_size(file, &file_bytes);
    if (r < 0) {
        return error_set_errno(error, r, "cannot tell the container's size");
    }
    /* What is not a container yet has no mirror; a guest may have made something look like one. */
    r = flags & LOAD_UNPREPARED ? header_read(file, file_bytes, 0, &c->header, error)
                                : header_find(file, file_bytes, &c->header, &c->used_mirror, error);
    if (r == 0) {
        r = load_check_prepared(&c->header, flags, error);
    }
    if (r < 0) {
        return r;
    }
    if (sink && header_refuses_writing(&c->header, error)) {
        return -ENOTSUP; /* a check that knows half of the references would cry wolf */
    }
    c->fields_restored = c->header.fields_restored;
    c->foreign_write = c->header.has_private &&
                       (!c->header.crc_good ||
                        (c->header.snapshots == 0 && !(c->header.autoclear & AUTOCLEAR_OURS)));
    if (c->header.bitmaps > CONTAINER_BITMAPS_MAX) {
        return error_set(error, -EBADMSG,
                         "header, nb_dirty_bitmaps (byte %u): found %" PRIu32
                         ", expected at most %u",
                         HEADER_BITMAPS, c->header.bitmaps, CONTAINER_BITMAPS_MAX);
    }
    clusters = clusters_for(file_bytes, c->header.cluster_bits);
    if (clusters > CONTAINER_CLUSTERS_MAX) {
        return error_set(error, -EFBIG,
                         "the file has %" PRIu64 " clusters, this program handles %" PRIu64,
                         clusters, CONTAINER_CLUSTERS_MAX);
    }
    r = space_init(&c->space, clusters);
    if (r < 0) {
        return error_set_errno(error, r, "cannot open the container");
    }
    if (sink && c->used_mirror) {
        sink_report(sink, true, 1,
                    "header at offset 0: it is damaged; its mirror at offset %" PRIu64 " is whole",
                    c->header.private.mirror_offset);
    }
    r = load_checked(c, sink, file_bytes, error);
    free(STEAL(c->disk_refs));
    if (r < 0) {
        return r;
    }
    *ret = STEAL(c);
    return 0;
}

void container_unload(struct container *c)
{
    if (!c) {
        return;
    }
    for (uint32_t i = 0; i < c->directory.n; i++) {
        entry_free(c->directory.entries[i]);
    }
    directory_deinit(&c->directory);
    blob_deinit(&c->blob);
    refcounts_deinit(&c->refcounts);
    space_deinit(&c->space);
    free(c->disk_refs);
    runs_deinit(&c->limbo);
    runs_deinit(&c->freed);
    runs_deinit(&c->freed_before);
    header_deinit(&c->header);
    free(c);
}
