/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_CONTAINER_CONTAINER_H
#define BITMAPD_DAEMON_CONTAINER_CONTAINER_H

#include "daemon/base/file.h"
#include "proto/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The container: a version 3 qcow2 file that holds dirty bitmaps in the layout
 * of the 2015 draft of the qcow2 specification.  An external one has virtual
 * size zero and nothing else in it; an internal one has a disk of its own,
 * which is QEMU's and not touched (format.h says what that means).  This
 * header is all that the rest of the daemon (and bitmapctl's offline verbs)
 * know of it; format.h describes the bytes.
 *
 * It knows bitmaps as (id, name, granularity, size in sectors, clusters of
 * bits) and one opaque state payload that the model above puts in; it knows
 * nothing of drives.  Every cluster that is written carries a CRC32C, kept in
 * the state blob and checked whenever it is read.
 *
 * Everything is copy-on-write: a commit writes only into free clusters, then
 * switches over by one header write.  A crash at any point leaves exactly the
 * old or exactly the new commit (commit.c lists the states).
 *
 * Thread: all calls block on I/O; one thread at a time.
 *
 * Errors: -errno with words.  -EBADMSG: the bytes are not what the format
 * allows (the text names the structure, its offset, what was found, what was
 * expected); such a file is never written to.  -ENOTSUP: a sound image that
 * this version does not write to (encrypted, not prepared, ...).
 * -EBUSY: another process holds the image locks.
 */
struct container;
struct container_info;
struct container_txn;

/*
 * Limits.  Past one of them a call fails with words and changes nothing.  They
 * are QEMU's where QEMU has one, but for the file: 2^28 clusters are 16 TiB of
 * 64 KiB each, and 512 TiB of 2 MiB.
 */
#define CONTAINER_CLUSTER_BITS_MIN         9
#define CONTAINER_CLUSTER_BITS_MAX         21
#define CONTAINER_CLUSTER_BITS_DEFAULT     16
#define CONTAINER_REFCOUNT_ORDER_MAX       6 /* read and kept; 4 when we create */
#define CONTAINER_REFCOUNT_TABLE_BYTES_MAX (UINT64_C(8) << 20)
#define CONTAINER_CLUSTERS_MAX             (UINT64_C(1) << 28) /* of the file */
#define CONTAINER_BITMAPS_MAX              65535u
#define CONTAINER_NAME_BYTES_MAX           1023u
#define CONTAINER_GRANULARITY_MIN          UINT32_C(512)
#define CONTAINER_GRANULARITY_MAX          (UINT32_C(1) << 31)
#define CONTAINER_BITMAP_BYTES_MAX         (UINT64_C(512) << 20) /* of one bitmap's bits */
#define CONTAINER_STATE_BYTES_MAX          (UINT64_C(256) << 20) /* of the opaque payload */

struct uuid {
    uint8_t bytes[16];
};

struct container_create_options {
    uint32_t cluster_bits;         /* CONTAINER_CLUSTER_BITS_MIN … _MAX */
    struct uuid uuid;              /* the container's own, random */
    struct uuid boot_id;           /* of this host's boot; zero when made offline */
    struct file_identity identity; /* of the file being made */
};

/*
 * Writes an empty container (no bitmaps, empty state, clean) into an empty
 * file and syncs it.  The file's directory entry is the caller's business.
 */
int container_format(struct file *file, const struct container_create_options *options,
                     struct error *error);

/*
 * Makes an internal container of a qcow2 image: one with a disk of its own,
 * which stays QEMU's in every byte but the header block, that grows, and keeps
 * what was in it.  The caller has locked the file for writing.
 *
 * A crash leaves the image as it was (with leaked clusters) or the container;
 * so does a failure, which leaks no clusters if it can be helped.
 *
 * -ENOTSUP: an image that cannot be one (encrypted, dirty, ...), with the
 * remedy where there is one.  -EBADMSG: a damaged image, or none.  -EEXIST: it
 * is a container already.  -EFBIG: no room in its first cluster.
 */
int container_adopt(struct file *file, const struct uuid *boot_id,
                    const struct file_identity *identity, struct container_info *ret,
                    struct error *error);

enum container_open_flags {
    CONTAINER_OPEN_WRITE = 1 << 0, /* step 2 of the start: rewrites the header block as read and
                                    * syncs it; without it the file is never written to */
};

/*
 * Opens, validates every structure, reads bitmap table, L1 tables and state
 * blob, checks their CRCs, recounts references.  Takes over @file on success
 * only.  What is broken inside one bitmap does not fail the open: see
 * container_bitmap_info.damage.  Time and memory are bounded by the file's
 * size.
 */
int container_open(struct file *file, unsigned flags, struct container **ret, struct error *error);

/* Closes without committing; the file is closed too.  Takes NULL. */
void container_close(struct container *container);
void container_closep(struct container **container);

/*
 * How large the file may grow, in bytes; 0, as at first, for no limit but the
 * format's.  What is beyond already stays.  Allocations that would go past
 * fail with -ENOSPC.
 */
void container_set_max_size(struct container *container, uint64_t max_size);

/* A random (version 4) UUID.  -errno when the kernel has no randomness to give. */
int container_new_uuid(struct uuid *ret);

struct container_info {
    uint32_t cluster_size; /* bytes */
    uint64_t virtual_size; /* bytes; 0 for external containers */
    uint32_t header_length;
    uint32_t refcount_bits; /* 1 << refcount_order */
    uint64_t file_size;     /* bytes */
    struct uuid uuid;
    struct uuid commit_id;
    uint64_t applied_seq; /* every record up to this one is in the container */
    bool clean;
    struct uuid boot_id;           /* of the boot that made the last commit */
    struct file_identity identity; /* as recorded by the last commit */
    bool has_private;   /* false: a plain draft container of a foreign tool, no CRCs to check */
    bool used_mirror;   /* the header block was bad and read from its mirror */
    bool foreign_write; /* another program opened it for writing (autoclear bit gone) */
    /* Header bytes 104 … 115 were not what the last commit wrote, as after a write by QEMU; its
     * copy was used.  This and the two above tell what was found at open. */
    bool fields_restored;
    /* Why nothing in the state payload can be believed (blob or bitmap table damaged or missing),
     * or empty.  The bitmaps that could be listed are, all with damage set. */
    char state_damage[256];
    uint32_t bitmaps; /* entries in the bitmap table */
    /* Entries that the header counts and a damaged bitmap table does not show any more: not even
     * their names are known.  Found at open. */
    uint32_t lost_bitmaps;
    uint64_t free_clusters;
    uint64_t leaked_clusters; /* refcount above the number of references, at open */
};

void container_get_info(const struct container *container, struct container_info *ret);

/* One entry of the bitmap table. */
struct container_bitmap_info {
    uint64_t id;      /* the model's; 0: an entry of a foreign tool, preserved, not served */
    const char *name; /* NUL-terminated here (a name with a NUL byte is damage);
                       * borrowed until the next commit or close */
    uint32_t name_bytes;
    uint32_t granularity; /* bytes */
    uint64_t sectors;     /* of 512 bytes: the drive's size rounded up */
    uint32_t l1_entries;
    uint32_t allocated_clusters; /* L1 entries with an offset */
    /* Why this bitmap's bits cannot be believed, or NULL.  Found at open (L1) or by
     * container_bitmap_read() (data).  Borrowed as the name. */
    const char *damage;
};

/* Entry @index < container_info.bitmaps, in table order. */
void container_bitmap_get(const struct container *container, uint32_t index,
                          struct container_bitmap_info *ret);

/* Index of the entry with model id @id; -ENOENT. */
int container_bitmap_find(const struct container *container, uint64_t id, uint32_t *ret_index);

enum container_cluster_kind {
    CONTAINER_ZEROS, /* unallocated, or the zero flag: nothing is read */
    CONTAINER_DATA,
};

/*
 * Reads the cluster of bits at @l1_index into @buffer (cluster_size bytes) and
 * checks its CRC.  For CONTAINER_ZEROS the buffer is untouched.  -EBADMSG with
 * words when the CRC disagrees, which becomes the bitmap's damage.  An I/O error as such: it may
 * be read another time, so nothing is lost yet.
 */
int container_bitmap_read(struct container *container, uint32_t index, uint32_t l1_index,
                          void *buffer, enum container_cluster_kind *ret_kind, struct error *error);

/*
 * The same for a second thread, while the first one is in container_bitmap_read() or in nothing:
 * false when there is anything wrong, of which nothing is noted; that call will tell.
 * container_can_try(): whether this file can be read by two threads.
 */
bool container_bitmap_try(const struct container *container, uint32_t index, uint32_t l1_index,
                          void *buffer, enum container_cluster_kind *ret_kind);
bool container_can_try(const struct container *container);

/* The opaque payload of the last commit; borrowed until the next commit or close. */
void container_state(const struct container *container, const void **ret_payload,
                     size_t *ret_bytes);

/*
 * A commit.  container_begin() … any number of the calls below …
 * container_commit().  Content is written to free clusters as it is given, so
 * memory stays bounded; nothing of the old commit is touched until
 * container_commit() switches over.  A failure of any call fails the whole
 * transaction: the caller must container_abort(), which leaves the container
 * as if it had never begun, and may begin anew.  One transaction at a time.
 *
 * The damage of a bitmap stays with it through commits, until one transaction
 * has written or zeroed every one of its clusters.
 */
int container_begin(struct container *container, struct container_txn **ret, struct error *error);

/* Adds an entry (all zeros) at the table's end.  -EEXIST: the id or the name is there. */
int container_txn_add(struct container_txn *txn, uint64_t id, const char *name,
                      uint32_t granularity, uint64_t sectors, struct error *error);

/*
 * Changes name or size of the entry @id (@name NULL, @sectors 0: kept).  With a new size the L1
 * table gets its new length: entries beyond are dropped, new ones are zeros; the caller then writes
 * the clusters whose bits changed.
 */
int container_txn_update(struct container_txn *txn, uint64_t id, const char *name, uint64_t sectors,
                         struct error *error);

/* Removes the entry @id and all its clusters.  The id may not be added again. */
int container_txn_remove(struct container_txn *txn, uint64_t id, struct error *error);

/*
 * The same for an entry without an id (foreign, or of a container whose state
 * was damaged), by its index in the last commit.
 */
int container_txn_remove_foreign(struct container_txn *txn, uint32_t index, struct error *error);

/* The cluster at @l1_index becomes zeros (no cluster is allocated for it). */
int container_txn_zero(struct container_txn *txn, uint64_t id, uint32_t l1_index,
                       struct error *error);

/*
 * The cluster at @l1_index becomes @bits, of @length_bytes <= cluster_size,
 * followed by zero bytes.  Bits beyond the bitmap's last granule must be 0.
 * A cluster of nothing but zeros is stored as container_txn_zero() does.
 */
int container_txn_write(struct container_txn *txn, uint64_t id, uint32_t l1_index, const void *bits,
                        size_t length_bytes, struct error *error);

struct container_commit_options {
    const void *state;     /* the new opaque payload */
    size_t state_bytes;    /* <= CONTAINER_STATE_BYTES_MAX */
    uint64_t applied_seq;  /* never less than before */
    bool clean;            /* the last act before exit */
    struct uuid commit_id; /* random */
    struct uuid boot_id;
    struct file_identity identity;
};

struct container_commit_stats {
    uint64_t clusters_written; /* of bits */
    uint64_t bytes_written;    /* all of it, metadata included */
};

/*
 * The numbered steps of the write-back.  0: durable, the transaction is gone.
 * < 0: the transaction must be aborted.  When the sync of the new header
 * failed, nobody knows which commit is on the disk: the container then keeps
 * the clusters of both until a later commit succeeds.
 */
int container_commit(struct container_txn *txn, const struct container_commit_options *options,
                     struct container_commit_stats *ret_stats, struct error *error);
void container_abort(struct container_txn *txn); /* takes NULL */

/* What `container check` finds. */
struct container_check_report {
    uint64_t corruptions;
    uint64_t leaks;
};

/*
 * Verifies every refcount against a recount both ways, every offset, overlap,
 * reserved bit, CRC, tail bits, names, header against mirror and the copy of its
 * draft fields.  Each finding is told to @found (may be NULL) as one line with
 * structure, offset, found and expected.  Of a disk of the image's own it verifies that all its
 * clusters can be found and have the right refcount, and that none is ours too; the rest is for
 * qemu-img.  -ENOTSUP: an image whose clusters this version cannot follow. Needs no container that
 * opens: takes the file itself, never writes. < 0: could not check; -EBADMSG when the header cannot
 * be understood at all.
 */
int container_check(struct file *file,
                    void (*found)(void *opaque, bool corruption, const char *text), void *opaque,
                    struct container_check_report *ret, struct error *error);

struct container_repair_calls {
    void (*found)(void *opaque, bool corruption, const char *text); /* as container_check() */
    void (*lost)(void *opaque, const char *text);                   /* one line for each loss */
    void *opaque;
};

struct container_repair_report {
    struct container_check_report left; /* after the repair */
    uint64_t repaired;                  /* findings that are no more */
    uint64_t losses;                    /* told to calls->lost */
};

/*
 * Checks, and puts right what it finds, as repair.c tells: refcounts by the
 * references, structures from what checksums prove, and what is beyond saving
 * is dropped, told, and marked so that the bitmaps concerned count as unknown.
 * Nothing is written to a file in which nothing is found.  UUID, commit id,
 * applied sequence and clean flag stay.
 *
 * A crash at any point leaves the container as it was found, or repaired.  The
 * caller has locked the file for writing and lets go of it afterwards.  < 0: as
 * container_check(), and what a commit can fail with; what was found is there.
 * -ENOTSUP also for an image whose own disk is damaged, or which is not prepared.
 */
int container_repair(struct file *file, const struct container_repair_calls *calls,
                     struct container_repair_report *ret, struct error *error);

struct container_compact_report {
    uint64_t size_before, size_after; /* of the file, bytes */
    uint64_t punched;                 /* bytes without blocks inside of it, at least */
    uint64_t moved;                   /* clusters */
};

/*
 * Moves what is behind to the front, cuts the file and punches holes where
 * nothing is in use.  A disk of the image's own stays as it is.  The container is the same
 * afterwards, and at any crash in between.  The caller has locked the file for writing and lets go
 * of it afterwards.  Errors as container_open(); -EBADMSG also for damage that a repair has to look
 * at first.
 */
int container_compact(struct file *file, struct container_compact_report *ret, struct error *error);

/*
 * QEMU's image locks (OFD locks on single bytes of the descriptor that does
 * the I/O): a writer takes and unshares WRITE and RESIZE, a reader takes
 * CONSISTENT_READ only and shares everything, so `info` works beside a running
 * daemon.  -EBUSY when another process, QEMU or bitmapd, conflicts.  Released
 * when the descriptor is closed.
 */
int container_lock(int fd, bool write, struct error *error);

#endif
