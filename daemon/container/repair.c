/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * `container check --repair`: what the check finds, put right by one commit.
 *
 * The container is loaded as the check does it, passing over what is wrong, and
 * then committed again: with its UUID, commit id, sequence and clean flag, so
 * that the journal beside it still fits.  Copy-on-write makes that safe: up to
 * the write of the header the disk holds what was found, damage included, and a
 * second attempt starts from there; after it, the result.
 *
 * References are the truth.  Refcounts follow them, by the recount that every
 * load makes; when the refcount table is broken, or two structures are in one
 * cluster, the refcounts are made from nothing, and the old ones are not even
 * looked at, for a wrong entry among them would claim what belongs to a bitmap.
 *
 * An image with a disk of its own is repaired only where nothing of that is in
 * doubt.  Its clusters stay where they are, with the counts that QEMU gave them:
 * how often a cluster of a disk is in use, only its own structures tell, so the
 * refcounts of such an image are never made from nothing.
 *
 * Of the bitmaps nothing is given up that a checksum proves:
 *
 *     two structures in one cluster           whoever's CRC agrees gets a copy of its own
 *     bits set beyond the last granule        are cleared
 *     a cluster of bits that is wrong         counts as dirty
 *     an L1 table that is wrong               all counts as dirty; or, where that would take more
 *                                             room than the file has, the bitmap is removed
 *     size or granularity that cannot be      the bitmap is removed
 *     a name that cannot be, or is taken      another one
 *
 * A bitmap of which bits were lost keeps its damage (STATE_ENTRY_LOST), from
 * which the model learns that it is unknown, as it does when it misses one that
 * was removed.  If the state itself is lost, the extension says so.
 */
#include "daemon/container/internal.h"

#include <stdarg.h>
#include <stdio.h>

#define PASSES_MAX     2u
#define FILL_BYTES_MIN (UINT64_C(16) << 20) /* dirty bits made for lost ones, at least */

struct repair {
    struct container *container;
    struct container_txn *txn;
    uint8_t *buffer;    /* one cluster */
    uint64_t fill_room; /* clusters that may yet be filled */
    void (*lost)(void *opaque, const char *text);
    void *opaque;
    uint64_t losses;
    struct error *error;
};

static void __attribute__((format(printf, 2, 3))) lose(struct repair *r, const char *format, ...)
{
    char text[1600];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    for (char *p = text; *p; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7f) {
            *p = '?';
        }
    }
    r->losses++;
    if (r->lost) {
        r->lost(r->opaque, text);
    }
}

/* The edit of an entry, begun once: @edit is NULL at first. */
static int begin(struct repair *r, const struct entry *e, struct edit **edit)
{
    if (*edit) {
        return 0;
    }
    return e->id ? edit_begin(r->txn, e->id, edit, r->error)
                 : edit_begin_foreign(r->txn, e->index, edit, r->error);
}

static bool in_use_twice(const struct container *c, uint64_t cluster)
{
    return c->space.refs[cluster] > 1;
}

/* Bits that stand for no granule, cleared. */
static void clear_tail(uint8_t *bits, size_t bytes, uint64_t exist)
{
    size_t at = (size_t)(exist / 8);

    if (at < bytes && exist % 8 != 0) {
        bits[at] &= (uint8_t)((1u << (exist % 8)) - 1);
        at++;
    }
    if (at < bytes) {
        memset(bits + at, 0, bytes - at);
    }
}

/* ---- a bitmap whose L1 table can be used ---- */

/* One cluster of bits; counts it when it is lost. */
static int repair_slot(struct repair *r, struct entry *e, uint32_t index, struct edit **edit,
                       uint32_t *lost)
{
    struct container *c = r->container;
    const struct slot slot = e->slots[index];
    uint64_t cluster = slot.where & SLOT_CLUSTER, size = cluster_bytes(c);
    uint64_t exist = entry_bits_in_cluster(e, c->header.cluster_bits, index);
    bool zero = slot.where & SLOT_ZERO, shared, wrong;

    if (cluster == 0) {
        return 0;
    }
    shared = in_use_twice(c, cluster);
    if (!zero) {
        int s = file_read(c->file, r->buffer, size, cluster << c->header.cluster_bits);
        wrong = s < 0 || (e->has_crcs && crc32c(0, r->buffer, size) != slot.crc);
        if (s == -ENOMEM) {
            return error_set_errno(r->error, s, "cannot read a cluster of bits");
        }
        if (wrong) {
            memset(r->buffer, 0xff, size);
            ++*lost;
        }
        if (!wrong && !shared && bits_clear_from(r->buffer, size, exist)) {
            return 0;
        }
        clear_tail(r->buffer, size, exist);
    } else if (!shared) {
        return 0;
    }

    int s = begin(r, e, edit);
    if (s < 0) {
        return s;
    }
    struct slot *new = &(*edit)->new->slots[index];
    s = edit_move_l1(r->txn, *edit);
    if (s == 0 && (zero || bits_clear_from(r->buffer, size, 0))) {
        s = slot_release(r->txn, (*edit)->new, new);
    } else if (s == 0) {
        return slot_write(r->txn, *edit, new, r->buffer, size, r->error);
    }
    return s < 0 ? error_set_errno(r->error, s, "cannot move a cluster of bits") : 0;
}

static int repair_bits(struct repair *r, struct entry *e, struct edit **edit)
{
    struct container *c = r->container;
    uint32_t bits = c->header.cluster_bits, lost = 0;
    uint64_t start = e->l1_offset >> bits;
    uint64_t count = clusters_for((uint64_t)e->l1_entries * L1_ENTRY_BYTES, bits);
    bool proved = e->has_crcs && e->shared && entry_name_valid(e) && !e->lost_earlier;
    int s = 0;

    for (uint32_t i = 0; e->slots && i < e->l1_entries && s == 0; i++) {
        s = repair_slot(r, e, i, edit, &lost);
    }
    for (uint64_t i = start; i < start + count && s == 0; i++) {
        if (in_use_twice(c, i)) {
            s = begin(r, e, edit);
            if (s == 0 && (s = edit_move_l1(r->txn, *edit)) < 0) {
                (void)error_set_errno(r->error, s, "cannot move an L1 table");
            }
            break;
        }
    }
    if (s < 0) {
        return s;
    }
    if (lost > 0) {
        entry_damage(e, "%" PRIu32 " of its clusters of bits were damaged", lost);
        lose(r,
             "bitmap \"%s\": %" PRIu32 " clusters of bits were damaged and count as dirty; the "
             "bitmap is unknown",
             e->name, lost);
    } else if (proved) {
        entry_trust(e);
    } else if (e->shared) {
        lose(r, "bitmap \"%s\": whose its clusters are cannot be told; the bitmap is unknown",
             e->name);
    }
    return 0;
}

/* ---- one whose L1 table cannot ---- */

static int fill(struct repair *r, struct edit *edit, uint32_t l1_entries)
{
    struct container *c = r->container;
    struct entry *new = edit->new;
    uint64_t size = cluster_bytes(c);
    int s = edit_dirty(r->txn, edit);

    if (s == 0 && l1_entries > 0) {
        new->slots = calloc(l1_entries, sizeof *new->slots);
        s = new->slots ? 0 : -ENOMEM;
    }
    if (s < 0) {
        return error_set_errno(r->error, s, "cannot make a bitmap's bits anew");
    }
    new->l1_entries = l1_entries;
    new->has_crcs = new->id != 0; /* of bitmaps that are not ours there are none */
    for (uint32_t i = 0; i < l1_entries; i++) {
        memset(r->buffer, 0xff, size);
        clear_tail(r->buffer, size, entry_bits_in_cluster(new, c->header.cluster_bits, i));
        s = slot_write(r->txn, edit, &new->slots[i], r->buffer, size, r->error);
        if (s < 0) {
            return s;
        }
    }
    return 0;
}

/* Returns with *edit NULL when the bitmap is gone. */
static int replace_lost(struct repair *r, struct entry *e, struct edit **edit)
{
    uint32_t bits = r->container->header.cluster_bits;
    uint64_t l1_entries = 0;
    int s = begin(r, e, edit);

    if (s < 0) {
        return s;
    }
    bool possible = entry_geometry(e->sectors, e->granularity, bits, &l1_entries, NULL);
    if (possible && l1_entries <= r->fill_room) {
        r->fill_room -= l1_entries;
        lose(r, "bitmap \"%s\": all of it counts as dirty, and it is unknown; %s", e->name,
             e->damage);
        return fill(r, *edit, (uint32_t)l1_entries);
    }
    lose(r, "bitmap \"%s\": removed; %s", e->name, e->damage);
    s = edit_remove(r->txn, *edit);
    *edit = NULL;
    return s < 0 ? error_set_errno(r->error, s, "cannot remove a bitmap") : 0;
}

/* ---- names ---- */

/* Whatever the name was, without what cannot be in one; made unique by a number. */
static int rename_entry(struct repair *r, const struct entry *e, struct edit *edit)
{
    char name[CONTAINER_NAME_BYTES_MAX + 1], suffix[16] = "";
    size_t bytes = min_u64(e->name_bytes, CONTAINER_NAME_BYTES_MAX - sizeof suffix);
    int s;

    for (uint32_t n = 1;; n++) {
        (void)snprintf(name, sizeof name, "%s", e->name_bytes ? "" : "unnamed");
        for (size_t i = 0; i < bytes; i++) {
            name[i] = '?';
            if (e->name[i]) {
                name[i] = e->name[i];
            }
            name[i + 1] = '\0';
        }
        (void)strcat(name, suffix);
        if (!edit_name_in_use(r->txn, name, strlen(name))) {
            break;
        }
        (void)snprintf(suffix, sizeof suffix, "~%" PRIu32, n);
    }
    s = edit_set_name(r->txn, edit, name);
    if (s < 0) {
        return error_set_errno(r->error, s, "cannot rename a bitmap");
    }
    lose(r, "bitmap \"%s\": its name cannot be or is another's; it is called \"%s\" now", e->name,
         name);
    return 0;
}

static int repair_entry(struct repair *r, struct entry *e)
{
    const struct directory *d = &r->container->directory;
    bool rename = !entry_name_valid(e) || directory_find_name(d, e->name, e->name_bytes) != e;
    struct edit *edit = NULL;
    bool gone = false;
    int s;

    if (e->l1_lost) {
        s = replace_lost(r, e, &edit);
        gone = s == 0 && !edit;
    } else {
        s = repair_bits(r, e, &edit);
    }
    if (s == 0 && rename && !gone) {
        s = begin(r, e, &edit);
        if (s == 0) {
            s = rename_entry(r, e, edit);
        }
    }
    return s;
}

/* ---- all of it ---- */

static int repair_run(struct repair *r)
{
    struct container *c = r->container;
    int s;

    s = container_prepare_writing(c, r->error);
    if (s == 0) {
        s = container_begin(c, &r->txn, r->error);
    }
    if (s < 0) {
        return s;
    }
    if (c->state_damage[0] && !(c->header.private.flags & PRIVATE_STATE_LOST)) {
        lose(r,
             "the state: drives and bitmaps are made anew from the bitmap table, and all are "
             "unknown; %s",
             c->state_damage);
        if (c->directory.n < c->header.bitmaps) {
            lose(r, "%" PRIu32 " bitmaps that the bitmap table does not show any more",
                 c->header.bitmaps - c->directory.n);
        }
    }
    for (uint32_t i = 0; i < c->directory.n && s == 0; i++) {
        s = repair_entry(r, c->directory.entries[i]);
    }
    if (s == 0) {
        s = commit_again(r->txn, r->error);
    }
    if (s < 0) {
        container_abort(r->txn);
        return s;
    }
    /* The refcounts that were lowered. */
    s = file_datasync(c->file);
    return s < 0 ? error_set_errno(r->error, s, "cannot sync the container") : 0;
}

/* What only a refcount speaks for stays in use, when nobody knows what it is. */
static void pin_unknown(struct container *c)
{
    for (uint64_t i = 0; i < c->space.clusters; i++) {
        if (c->space.refs[i] == 0) {
            space_mark(&c->space, i, 1, REFS_PINNED);
        }
    }
}

static int repair_file(struct file *file, bool anew, struct repair *r)
{
    CLEANUP(container_unloadp) struct container *c = NULL;
    CLEANUP_FREE uint8_t *buffer = NULL;
    struct load_sink sink = {.repairing = true, .anew = anew};
    int s;

    s = container_load(file, 0, &sink, &c, r->error);
    if (s == 0) {
        s = container_check_prepared(c, r->error);
    }
    if (s < 0) {
        return s;
    }
    buffer = malloc(cluster_bytes(c));
    if (!buffer) {
        return error_set_errno(r->error, -ENOMEM, "cannot repair the container");
    }
    if (anew && !header_fully_understood(&c->header)) {
        pin_unknown(c);
    }
    c->offline = true;
    r->container = c;
    r->buffer = buffer;
    r->fill_room = max_u64(c->space.clusters, FILL_BYTES_MIN >> c->header.cluster_bits);
    return repair_run(r);
}

/* What QEMU made for the image's own disk is not for us to put right. */
static int check_disk(const struct load_sink *found, struct error *error)
{
    const char *what =
        found->disk_broken ? "the tables that lead to its data" : "its refcount structures";

    if (!found->disk || (!found->disk_broken && !found->refcounts_broken)) {
        return 0;
    }
    return error_set(
        error, -ENOTSUP,
        "the image has a disk of its own, and %s are damaged: what can be repaired of that, "
        "'qemu-img check -r all FILE' repairs; it frees all clusters of our bitmaps, which count "
        "as unknown then",
        what);
}

int container_repair(struct file *file, const struct container_repair_calls *calls,
                     struct container_repair_report *ret, struct error *error)
{
    struct load_sink found = {.found = calls->found, .opaque = calls->opaque};
    struct load_sink left;
    struct repair repair = {.lost = calls->lost, .opaque = calls->opaque, .error = error};
    int r;

    r = check_all(file, &found, error);
    if (r == 0) {
        r = check_disk(&found, error);
    }
    if (r < 0) {
        return r;
    }
    left = found;
    /* What is new may have come where a counter stood that counted nothing. */
    for (unsigned pass = 0; pass < PASSES_MAX && left.corruptions + left.leaks > 0; pass++) {
        r = repair_file(file, !left.disk && (left.refcounts_broken || left.overlap), &repair);
        left = (struct load_sink){0};
        if (r == 0) {
            r = check_all(file, &left, error);
        }
        if (r < 0) {
            return r;
        }
    }
    uint64_t before = found.corruptions + found.leaks, after = left.corruptions + left.leaks;
    *ret = (struct container_repair_report){
        .left = {.corruptions = left.corruptions, .leaks = left.leaks},
        .repaired = before > after ? before - after : 0,
        .losses = repair.losses,
    };
    return 0;
}
