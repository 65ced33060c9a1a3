/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_CONTAINER_INTERNAL_H
#define BITMAPD_DAEMON_CONTAINER_INTERNAL_H

#include "daemon/container/container.h"
#include "daemon/container/format.h"
#include "proto/base/checked.h"
#include "proto/base/cleanup.h"
#include "proto/base/crc32c.h"
#include "proto/base/endian.h"

#include <inttypes.h>
#include <string.h>

/*
 * What the files of this folder share.  In here a cluster is named by its
 * number (offset >> cluster_bits).
 */

/* It bounds the memory of struct space, and a cluster's number and two flags fit 32 bits. */
_Static_assert(CONTAINER_CLUSTERS_MAX <= UINT64_C(1) << 30, "see SLOT_CLUSTER");
_Static_assert(CONTAINER_REFCOUNT_ORDER_MAX == HEADER_REFCOUNT_ORDER_MAX, "qcow2's own limit");

/* ---- lists of clusters (space.c) ---- */

struct run {
    uint64_t start;
    uint64_t count;
};

struct runs {
    struct run *items;
    size_t n;
    size_t capacity;
};

int runs_push(struct runs *runs, uint64_t start, uint64_t count); /* -ENOMEM */
void runs_deinit(struct runs *runs);

/* ---- which clusters are in use (space.c) ---- */

/* Values of space.refs; anything below is the number of references. */
#define REFS_RESERVED 254u /* kept back for a metadata-only commit; free to everybody else */
#define REFS_PINNED   255u /* in use by what we do not understand, or by too many to count */

struct space {
    uint8_t *refs;     /* per cluster: references from the committed state, the open transaction and
                        * what a failed sync left in doubt, all added up */
    uint64_t clusters; /* of the file, rounded up; grows with allocations */
    uint64_t capacity; /* of refs */
    uint64_t limit;    /* clusters that allocations may reach */
    uint64_t free;     /* clusters with no reference, below @clusters */
    uint64_t lowest;   /* no free cluster below */
    uint64_t cursor;   /* where the search for runs goes on */
    uint64_t too_long; /* no run of so many or more is free below the end; 0: not known */
};

int space_init(struct space *space, uint64_t clusters);
void space_deinit(struct space *space);
void space_ref(struct space *space, uint64_t start, uint64_t count);
void space_unref(struct space *space, uint64_t start, uint64_t count);
/* Sets clusters that are free to @value (REFS_RESERVED, REFS_PINNED), or reserved ones back to 0.
 */
void space_mark(struct space *space, uint64_t start, uint64_t count, uint8_t value);
/* Makes it at least as many clusters; the new ones are free.  -ENOSPC, -ENOMEM. */
int space_extend(struct space *space, uint64_t clusters);
/* A contiguous run of free clusters, each referenced once afterwards.  -ENOSPC, -ENOMEM. */
int space_take(struct space *space, uint64_t count, uint64_t *ret_start);

/* ---- header block (header.c) ---- */

struct extension {
    uint32_t type;
    uint32_t length; /* bytes */
    uint8_t *data;
};

struct private_extension {
    uint64_t state_offset;
    uint64_t state_bytes;
    uint64_t mirror_offset;
    struct uuid uuid;
    struct uuid commit_id;
    uint64_t applied_seq;
    bool clean;
    struct uuid boot_id;
    struct file_identity identity;
    uint32_t bitmaps;      /* of the copied header fields */
    uint64_t table_offset; /* likewise */
    uint32_t flags;        /* PRIVATE_STATE_LOST */
};

struct header {
    uint8_t *fixed; /* bytes 0 … length - 1 as read */
    uint32_t length;
    uint32_t cluster_bits;
    uint64_t backing_offset; /* as read; header_build() moves the name */
    uint32_t backing_bytes;  /* 0: none */
    uint8_t *backing_name;   /* no NUL ends it */
    uint64_t virtual_size;
    uint32_t crypt_method;
    uint32_t l1_entries;
    uint64_t l1_offset;
    uint64_t refcount_table_offset;
    uint32_t refcount_table_clusters;
    uint32_t snapshots;
    uint64_t snapshots_offset;
    uint64_t incompatible;
    uint64_t autoclear;
    uint32_t refcount_order;
    uint32_t bitmaps; /* 0 when the header is too short for the draft's fields */
    uint64_t table_offset;

    bool has_private;
    struct private_extension private;
    bool crc_good;         /* of the whole block */
    bool private_crc_good; /* of the extension alone */
    bool fields_restored;  /* bytes 104 … 115 differed from the extension's copy */

    struct extension *foreign; /* all but ours, in their order */
    size_t n_foreign, foreign_capacity;

    uint8_t *block; /* as read or as last built: block_bytes */
    size_t block_bytes;
};

/*
 * Parses the header block that stands at @offset of a file of @file_bytes.
 * -EBADMSG with words when it is no header block of version 3; a wrong CRC
 * alone is not an error here, nor is a header that is too short for the draft's
 * fields (@length < HEADER_BYTES_MIN).
 */
int header_read(struct file *file, uint64_t file_bytes, uint64_t offset, struct header *ret,
                struct error *error);

/* The header block to believe: at byte 0, or else its mirror. */
int header_find(struct file *file, uint64_t file_bytes, struct header *ret, bool *ret_used_mirror,
                struct error *error);

/*
 * Makes @header->block anew from the other members.  -EFBIG when it does not
 * fit a cluster; the old block is kept then.
 */
int header_build(struct header *header, struct error *error);
void header_deinit(struct header *header);

/* Why an image with this header, which is sound, is not for us to write; false: it is. */
bool header_refuses_writing(const struct header *header, struct error *error);
/* Whether it is more than a container: an internal one, or an image that may become one. */
bool header_has_disk(const struct header *header);
/* Autoclear bits as a commit writes them. */
uint64_t header_autoclear(const struct header *header);
/* The first foreign extension of that type, or NULL. */
const struct extension *header_extension(const struct header *header, uint32_t type);
/* Whether all clusters that the header leads to are known to us. */
bool header_fully_understood(const struct header *header);

/* ---- refcounts on disk (refcount.c) ---- */

enum refcount_block_flags {
    REFCOUNT_RAISE = 1 << 0,    /* step 1 must write it */
    REFCOUNT_REWRITE = 1 << 1,  /* … whole, since what was written may be lost */
    REFCOUNT_LOWER = 1 << 2,    /* step 3 should look at it */
    REFCOUNT_UNSYNCED = 1 << 3, /* written since the last good sync */
};

struct refcount_block {
    uint64_t offset; /* 0: none */
    uint8_t flags;
    bool pending; /* in refcounts.pending */
};

struct refcounts {
    uint64_t table_offset;
    uint64_t table_clusters;
    uint32_t cluster_bits;
    uint32_t order;
    struct refcount_block *blocks; /* one per table entry */
    uint32_t n_blocks;
    uint32_t *pending; /* indices of blocks with flags; room for n_blocks */
    uint32_t n_pending;
    bool uncovered; /* some referenced cluster had no block at open */
};

uint64_t refcount_get(const uint8_t *block, uint32_t order, uint64_t index);
void refcount_set(uint8_t *block, uint32_t order, uint64_t index, uint64_t value);

static inline uint64_t refcounts_per_block(uint32_t cluster_bits, uint32_t order)
{
    return (UINT64_C(8) << cluster_bits) >> order;
}

/*
 * How many counters of a block, from its first, have anything to tell when only
 * @clusters of the clusters it counts exist: the rest are 0, and should be.
 */
uint64_t refcounts_to_look_at(const uint8_t *counters, uint32_t order, uint64_t per_block,
                              uint64_t clusters);

void refcounts_deinit(struct refcounts *refcounts);
void refcounts_flag(struct refcounts *refcounts, uint64_t block, unsigned flags);
/* The same for all blocks that count clusters of the run. */
void refcounts_flag_run(struct refcounts *refcounts, const struct run *run, unsigned flags);
/* Counters of one block as step 1 (@raise) or 3 wants them; true when any changed. */
bool refcounts_adjust(uint8_t *counters, uint32_t order, uint64_t per_block, uint64_t first_cluster,
                      const struct space *space, bool raise, uint64_t *ret_low, uint64_t *ret_high);
int refcounts_write_pending(struct refcounts *refcounts, struct file *file,
                            const struct space *space, uint8_t *buffer, bool raise,
                            uint64_t *bytes_written);
/* What a sync did to all that was written before it. */
void refcounts_synced(struct refcounts *refcounts, bool good);

/* ---- bitmaps (entry.c) ---- */

/* A cluster of bits. */
struct slot {
    uint32_t where; /* SLOT_* below; 0: unallocated */
    uint32_t crc;
};

#define SLOT_ZERO    (UINT32_C(1) << 31) /* reads as zeros, allocated or not */
#define SLOT_FRESH   (UINT32_C(1) << 30) /* allocated by the open transaction */
#define SLOT_CLUSTER (SLOT_FRESH - 1)

struct edit;

struct entry {
    uint64_t id;
    char *name; /* NUL-terminated */
    uint32_t name_bytes;
    uint32_t granularity;
    uint64_t sectors;
    uint64_t l1_offset;
    uint32_t l1_entries;
    uint32_t l1_crc;
    struct slot *slots; /* NULL: all unallocated, or lost */
    uint32_t allocated; /* slots with a cluster */
    uint32_t data;      /* slots that are read from disk, hence have a CRC */
    bool l1_lost;       /* what the L1 table says cannot be used; it is kept as it stands */
    bool has_crcs;      /* slots[].crc are to be checked */
    char *damage;       /* NULL: none */
    bool unreadable;    /* the damage was found at open */
    bool lost_earlier;  /* the state blob said so */
    bool shared;        /* a cluster of it is in use by something else, too */
    struct runs claims; /* what a lost L1 table may refer to: counted, never read */
    uint32_t index;     /* in directory.entries */
    struct edit *edit;  /* of the open transaction */
};

void entry_free(struct entry *entry);
/* Sets the damage unless there is one.  Keeps quiet about lack of memory: a fixed text then. */
void entry_damage(struct entry *entry, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Whether the name is one that an entry may have; what was read may be another. */
bool entry_name_valid(const struct entry *entry);
/* L1 entries of a bitmap with this geometry; false when it is none of the draft's or our limits. */
bool entry_geometry(uint64_t sectors, uint32_t granularity, uint32_t cluster_bits,
                    uint64_t *ret_l1_entries, struct error *error);
/* Takes the damage back: what the entry says has been proved right. */
void entry_trust(struct entry *entry);
/* Bits of cluster @l1_index that stand for granules. */
uint64_t entry_bits_in_cluster(const struct entry *entry, uint32_t cluster_bits, uint32_t l1_index);
/* Whether all bits of @bytes bytes at @bits from bit @from on are 0. */
bool bits_clear_from(const uint8_t *bits, size_t bytes, uint64_t from);

/* The bitmap table in memory, with look-up. */
struct directory {
    struct entry **entries;
    uint32_t n;
    uint32_t *by_id;   /* open addressing: index + 1, 0 = empty */
    uint32_t *by_name; /* likewise */
    uint32_t mask;     /* slots - 1 of both */
};

/* Owns @entries after success.  -ENOMEM; -EEXIST: an id twice. */
int directory_init(struct directory *directory, struct entry **entries, uint32_t n);
void directory_deinit(struct directory *directory); /* not the entries */
struct entry *directory_find_id(const struct directory *directory, uint64_t id);
struct entry *directory_find_name(const struct directory *directory, const char *name,
                                  size_t name_bytes);
uint64_t hash_id(uint64_t id);
uint64_t hash_name(const char *name, size_t name_bytes);

/* Bytes of the table, and the table itself into a buffer of that many. */
uint64_t table_bytes(struct entry *const *entries, uint32_t n);
void table_build(struct entry *const *entries, uint32_t n, uint8_t *buffer);

/* ---- state blob (blob.c) ---- */

struct blob {
    uint8_t *bytes; /* NULL: none */
    size_t length;
    size_t payload_offset;
    uint64_t table_bytes;
    uint32_t table_entries;
    uint32_t table_crc;
};

struct blob_entry {
    uint64_t id;
    uint32_t flags;
    uint32_t l1_crc;
    uint32_t n_crcs;
    const uint8_t *crcs; /* u32 each, little endian */
};

void blob_deinit(struct blob *blob);
/* Checks everything that can be checked without the table.  Owns nothing on failure. */
int blob_parse(uint8_t *bytes, size_t length, const struct private_extension *private,
               struct blob *ret, struct error *error);
/* Iterates: @position is 0 at first.  Only after blob_parse(). */
void blob_next(const struct blob *blob, size_t *position, struct blob_entry *ret);
/* The buffer has @room bytes (at least the blob's length), zero behind the blob. */
int blob_build(struct entry *const *entries, uint32_t n, const struct private_extension *private,
               uint64_t table_length, uint32_t table_crc, const void *payload, size_t payload_bytes,
               uint64_t room, struct blob *ret);
/* Length of the blob that blob_build() makes. */
uint64_t blob_bytes(struct entry *const *entries, uint32_t n, size_t payload_bytes);

/* ---- the container ---- */

#define DISK_REFS_META      (UINT32_C(1) << 31) /* a structure that has the cluster to itself */
#define DISK_REFS_L2        (UINT32_C(1) << 30) /* an L2 table; may be in several L1 tables */
#define DISK_REFS_REFCOUNTS (UINT32_C(1) << 29) /* refcount table or block; not a reference */
#define DISK_REFS_COUNT     (DISK_REFS_REFCOUNTS - 1) /* stays there when there are more */

struct container {
    struct file *file;
    bool writable;
    struct header header;
    bool used_mirror;
    bool foreign_write;
    bool fields_restored;
    char state_damage[256];
    struct refcounts refcounts;
    struct space space;
    /* References from the structures of a disk of the image's own, per cluster, and DISK_REFS_*;
     * only while loading, NULL when it has none. */
    uint32_t *disk_refs;
    struct directory directory;
    struct blob blob;
    bool blob_claimed;     /* the blob's clusters are referenced, whatever is in them */
    bool table_shared;     /* the bitmap table's are something else's: not referenced for it */
    bool mirror_lost;      /* not to be written to, the next commit makes one */
    bool spread;           /* the next commit may write its header block's later sectors first */
    bool offline;          /* no reserve is kept: nobody goes on with the container */
    uint32_t lost_bitmaps; /* see container_info */
    uint64_t leaked_clusters;
    uint64_t low_clusters; /* refcount below the number of references, at open */
    uint64_t max_size;     /* bytes; 0: no limit of ours */

    struct run reserve_table; /* count 0: none */
    struct run reserve_blob;
    bool no_space; /* space ran out, and nothing has grown since: metadata goes to the reserve */

    /* The last header write may or may not have reached the disk. */
    bool header_uncertain;
    struct runs limbo; /* clusters of the commit it would have made */

    struct runs freed;        /* since the last commit began */
    struct runs freed_before; /* by the commit before it: those that are still free get punched */
    bool no_punch;            /* the file system cannot */

    struct container_txn *txn;
};

/* ---- transactions (edit.c, txn.c, plan.c, commit.c) ---- */

/* What a transaction does to one bitmap. */
struct edit {
    uint64_t id;
    struct entry *old; /* of the last commit; NULL: added by this transaction */
    struct entry *new; /* NULL: removed by it */
    uint8_t *touched;  /* bit per L1 entry: written or zeroed.  NULL: none */
    uint32_t n_touched;
    bool l1_dirty;
};

/* Edits by id or by new name; open addressing, rebuilt as it grows. */
struct edit_index {
    struct edit **slots;
    uint32_t mask;
    uint32_t n;
};

struct new_block {
    uint64_t index; /* in the refcount table */
    uint64_t cluster;
};

struct container_txn {
    struct container *container;
    struct edit **edits; /* in the order they were begun */
    size_t n_edits;
    size_t edits_capacity;
    struct edit_index by_id;
    struct edit_index by_name;
    uint32_t n_entries; /* of the bitmap table after the commit */
    bool state_lost;    /* the commit's payload is not the state, which nobody has */
    uint8_t *buffer;    /* one cluster */
    bool failed;

    struct runs fresh; /* clusters taken; unreferenced by abort */
    struct runs drop;  /* clusters that the last commit refers to and this one will not */
    uint32_t *spare;   /* among the fresh: single clusters to take before new ones */
    size_t n_spare;
    size_t spare_capacity;
    uint64_t taken;   /* clusters of bits and L1 tables */
    uint64_t dropped; /* likewise */

    /* Of the commit. */
    struct entry **entries;
    struct directory directory;
    struct header header; /* shares all but its block with the container's */
    struct blob blob;
    uint8_t *table;
    size_t table_bytes;
    struct run table_run;
    struct run blob_run;
    uint64_t new_mirror; /* cluster; 0: there is one already */
    bool used_reserve;
    struct run used_reserve_table;
    struct run used_reserve_blob;

    struct new_block *new_blocks;
    size_t n_new_blocks;
    size_t new_blocks_capacity;
    uint64_t *planned; /* by index: cluster of a new block, 0 = none */
    uint64_t n_planned;
    struct run new_refcount_table; /* count 0: no new blocks */
    struct refcounts grown;        /* what replaces the container's then */

    bool header_attempted;
    struct container_commit_stats stats;
};

/* edit.c */
void edit_free(struct edit *edit);
struct edit *edit_by_id(const struct container_txn *txn, uint64_t id);
bool edit_name_in_use(const struct container_txn *txn, const char *name, size_t name_bytes);
/* Appends an edit, which the transaction owns from then on; it is freed on failure.  -ENOMEM. */
int edit_push(struct container_txn *txn, struct edit *edit);
/* The edit of a bitmap that is there, perhaps a new one.  -ENOENT, -ENOMEM. */
int edit_begin(struct container_txn *txn, uint64_t id, struct edit **ret, struct error *error);
int edit_begin_foreign(struct container_txn *txn, uint32_t index, struct edit **ret,
                       struct error *error);
int edit_set_name(struct container_txn *txn, struct edit *edit, const char *name);

/* txn.c */
/* The bitmap gets a new L1 table; one that was lost, or has no CRCs, begins with nothing in it. */
int edit_dirty(struct container_txn *txn, struct edit *edit);
/* The same L1 table in another place.  It is not lost. */
int edit_move_l1(struct container_txn *txn, struct edit *edit);
/* The bitmap goes, with all that it refers to. */
int edit_remove(struct container_txn *txn, struct edit *edit);
/* Makes a slot unallocated. */
int slot_release(struct container_txn *txn, struct entry *entry, struct slot *slot);
/* Writes bits into a fresh cluster; the L1 table has to be dirty. */
int slot_write(struct container_txn *txn, struct edit *edit, struct slot *slot, const void *bits,
               size_t length_bytes, struct error *error);
/* Takes clusters for the transaction.  -ENOSPC with words. */
int txn_take(struct container_txn *txn, uint64_t count, uint64_t *ret_start, struct error *error);
int txn_drop(struct container_txn *txn, uint64_t start, uint64_t count);
/* Writes, counts the bytes, and puts the failure into words. */
int txn_io_write(struct container_txn *txn, const void *buffer, uint64_t bytes, uint64_t offset,
                 const char *what, struct error *error);
int txn_no_space(struct container_txn *txn, int r, uint64_t count, struct error *error);
/* The header block at @offset, and zeros up to the end of its last sector. */
int write_header_block(struct file *file, const struct header *header, uint64_t offset,
                       uint64_t *bytes_written);
/* Where the last commit has its bitmap table and its state blob. */
struct run container_table_run(const struct container *container);
struct run container_blob_run(const struct container *container);
/* Frees what the transaction holds, but gives back no clusters. */
void txn_free(struct container_txn *txn);

/* Everything a commit needs before it writes: clusters, reserve, refcount blocks, bytes. */
int commit_plan(struct container_txn *txn, const struct container_commit_options *options,
                struct error *error);
/* Puts the last good header back after a commit that failed in step 2. */
int commit_settle_header(struct container *container, uint64_t *bytes_written, struct error *error);
/* How the next commit lays out its header block, over one that is not ours (spread.c).  -ENOMEM. */
int spread_plan(struct container *container, struct error *error);
/* Bytes of a new header block, with so many bytes of padding data or 0 for none. */
uint64_t spread_block_bytes(const struct header *header, uint64_t padding);
/* container_commit() of what was there, with its state, ids and flags (for offline work). */
int commit_again(struct container_txn *txn, struct error *error);
/* Whatever must not be given to others even though no commit refers to it (reserve.c). */
int reserve_take(struct container_txn *txn, struct run *reserve, uint64_t count,
                 struct run *ret_used, uint64_t *ret_start);
int reserve_prepare(struct container_txn *txn, struct error *error);
void reserve_committed(struct container_txn *txn, const struct run *old_table,
                       const struct run *old_blob);
void reserve_aborted(struct container_txn *txn, bool restore);
/* Clusters that became free, to be punched when the next commit has not taken them (punch.c). */
void punch_later(struct container *container, uint64_t start, uint64_t count);
void punch_committed(struct container *container); /* a commit is durable */
/* Punches what is free in the runs, and empties the list; returns bytes. */
uint64_t punch_runs(struct container *container, struct runs *runs);
/* Refcount blocks for all clusters in use, and a table for them (cover.c). */
int cover_plan(struct container_txn *txn, struct error *error);
int cover_write(struct container_txn *txn, struct error *error);

static inline uint64_t cluster_bytes(const struct container *container)
{
    return UINT64_C(1) << container->header.cluster_bits;
}

static inline uint64_t clusters_for(uint64_t bytes, uint32_t cluster_bits)
{
    return (bytes >> cluster_bits) + ((bytes & ((UINT64_C(1) << cluster_bits) - 1)) != 0);
}

/*
 * Loading (load.c).  A sink hears of everything that is wrong, one line each;
 * without one, the first structure that is wrong ends the load with -EBADMSG
 * and its words.  With one, the load skips what is wrong and goes on as far
 * as it can, which is for container_check() only.
 */
struct load_sink {
    void (*found)(void *opaque, bool corruption, const char *text);
    void *opaque;
    uint64_t corruptions;
    uint64_t leaks;
    /* Found: the refcount table, or what it leads to, cannot be used; two structures in one
     * cluster, and which one is wrong is not known. */
    bool refcounts_broken, overlap;
    bool disk;        /* the image has a disk of its own, or QEMU's bitmaps … */
    bool disk_broken; /* … which cannot be followed */
    bool repairing;   /* what lies in a cluster of something else is read all the same */
    bool anew;        /* the refcounts are not looked at */
};

enum load_flags {
    LOAD_UNPREPARED = 1 << 0, /* an image without the draft's fields is fine */
};

int container_load(struct file *file, unsigned flags, struct load_sink *sink,
                   struct container **ret, struct error *error);
void container_unload(struct container *container); /* all but the file */
/* That the image is one that may be written to as a container: -ENOTSUP. */
int container_check_prepared(const struct container *container, struct error *error);
/* Step 2 of the start: the header block as read, written again and synced (container.c). */
int container_prepare_writing(struct container *container, struct error *error);
void sink_report(struct load_sink *sink, bool corruption, uint64_t count, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* The load and whatever else container_check() looks at (check.c). */
int check_all(struct file *file, struct load_sink *sink, struct error *error);
#define LOAD_BUFFER_BYTES (UINT32_C(128) << 10) /* more than the longest table entry */

/* The table and its entries on their way into the directory (load_bitmaps.c, load_l1.c). */
struct load {
    struct container *container;
    struct load_sink *sink;
    uint64_t file_bytes;
    struct entry **entries; /* room for header.bitmaps */
    uint32_t n;
    uint8_t *buffer; /* LOAD_BUFFER_BYTES */
    struct error *error;
};

/* Nothing that the bitmap's bits say can be believed. */
void load_damaged(struct load *load, struct entry *entry, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* < 0 with words: I/O and memory only. */
int load_l1_tables(struct load *load);
int load_bitmaps(struct container *container, struct load_sink *sink, uint64_t file_bytes,
                 struct error *error);
/* Whether a structure can have these clusters of the file to itself; why not.  The sink learns of
 * clusters that something else is in. */
bool load_claimable(const struct container *container, struct load_sink *sink, uint64_t file_bytes,
                    const char *what, uint64_t offset, uint64_t bytes, struct error *why);
void load_reference(struct container *container, uint64_t offset, uint64_t bytes);
void load_overlap(struct load_sink *sink); /* two structures are in one cluster */
void load_state_damaged(struct container *container, struct load_sink *sink, const char *why);
/* -EBADMSG, or 1 when the sink took it and the caller is to go on without what is wrong. */
int load_problem(struct load_sink *sink, struct error *error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Whether a structure of ours lies, if only in part, where the disk has something. */
bool load_in_disk(const struct container *container, uint64_t offset, uint64_t bytes);
/* References the clusters of the disk, if there is one that can be followed (disk.c). */
int disk_follow(struct container *container, struct load_sink *sink, uint64_t file_bytes,
                struct error *error);

DEFINE_CLEANUP(struct container *, container_unload)
DEFINE_CLEANUP(struct entry *, entry_free)

#endif
