/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An image with a disk of its own becomes an internal container.
 *
 * It is a commit like any other, from an image without bitmaps to one with an
 * empty bitmap table: everything new goes into free clusters, then the header
 * block is written, which grows by the draft's fields and our extension.  What
 * follows moves towards the end of cluster 0 (spread.c says how).
 *
 * Nothing is written before it is known that the image can be one.
 */
#include "daemon/container/internal.h"

static int refuse(struct error *error, const char *why)
{
    return error_set(error, -ENOTSUP, "cannot become an internal container: %s", why);
}

/* Bytes 104 … 115, whose meaning is the draft's for us, must not have another one already. */
static int check_fields(const struct container *c, struct error *error)
{
    const struct header *h = &c->header;

    for (uint32_t i = HEADER_FIELDS_OFFSET; i < h->length && h->length < HEADER_BYTES_MIN; i++) {
        if (h->fixed[i] != 0) {
            return error_set(error, -ENOTSUP,
                             "cannot become an internal container: header byte %" PRIu32
                             ": found 0x%02x, expected 0: another program's field stands where "
                             "the draft has its own",
                             i, h->fixed[i]);
        }
    }
    for (uint32_t i = 0; i < c->directory.n; i++) {
        const struct entry *e = c->directory.entries[i];
        if (e->damage) {
            return error_set(error, -EBADMSG,
                             "header bytes 104 to 115 lead to no sound bitmaps: bitmap \"%s\": %s",
                             e->name, e->damage);
        }
    }
    return 0;
}

static int check_image(const struct container *c, struct error *error)
{
    const struct header *h = &c->header;
    struct error why;

    if (h->has_private) {
        return error_set(error, -EEXIST, "it is a container already");
    }
    if (header_refuses_writing(h, &why)) {
        return error_set(error, -ENOTSUP, "%s", why.text);
    }
    if (h->autoclear & AUTOCLEAR_OURS) {
        return refuse(error,
                      "autoclear feature bit 63 is set, but our header extension is missing");
    }
    if (c->low_clusters > 0) {
        return error_set(error, -EBADMSG,
                         "%" PRIu64 " clusters have a lower refcount than references; 'qemu-img "
                         "check -r all FILE' repairs that",
                         c->low_clusters);
    }
    return check_fields(c, error);
}

static int check_room(const struct container *c, struct error *error)
{
    const struct header *h = &c->header;
    uint64_t cluster = cluster_bytes(c), needed = spread_block_bytes(h, 0);

    if (needed <= cluster) {
        return 0;
    }
    return error_set(error, -EFBIG,
                     "no room for bitmaps in the image's first cluster: its header, extensions "
                     "and backing file name would take %" PRIu64 " bytes, it has %" PRIu64
                     "; %s'qemu-img convert -O qcow2 -o cluster_size=64K' makes a copy with "
                     "larger clusters",
                     needed, cluster,
                     h->backing_bytes > 0 && needed - h->backing_bytes < cluster
                         ? "'qemu-img rebase -u -b' can give it a shorter backing file name, and "
                         : "");
}

/* Puts back what can be put back: the header block if it was touched, refcounts. */
static void undo(struct container *c, struct container_txn *txn)
{
    CLEANUP_FREE uint8_t *buffer = malloc(cluster_bytes(c));
    uint64_t written = 0;

    if (c->header_uncertain && commit_settle_header(c, &written, NULL) == 0) {
        txn->header_attempted = false;
    }
    container_abort(txn);
    if (buffer && !c->header_uncertain) {
        (void)refcounts_write_pending(&c->refcounts, c->file, &c->space, buffer, false, &written);
    }
}

int container_adopt(struct file *file, const struct uuid *boot_id,
                    const struct file_identity *identity, struct container_info *ret,
                    struct error *error)
{
    CLEANUP(container_unloadp) struct container *c = NULL;
    struct container_commit_options options = {
        .clean = true, .boot_id = *boot_id, .identity = *identity};
    struct container_txn *txn;
    int r;

    r = container_load(file, LOAD_UNPREPARED, NULL, &c, error);
    if (r == 0) {
        r = check_image(c, error);
    }
    if (r == 0) {
        r = check_room(c, error);
    }
    if (r < 0) {
        return r;
    }
    r = container_new_uuid(&options.commit_id);
    if (r < 0) {
        return error_set_errno(error, r, "cannot make a commit id");
    }
    r = container_prepare_writing(c, error);
    if (r == 0) {
        r = container_begin(c, &txn, error);
    }
    if (r < 0) {
        return r;
    }
    r = container_commit(txn, &options, NULL, error);
    if (r < 0) {
        undo(c, txn);
        return r;
    }
    container_get_info(c, ret);
    return 0;
}
