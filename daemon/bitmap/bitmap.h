/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_BITMAP_BITMAP_H
#define BITMAPD_DAEMON_BITMAP_BITMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Dirty bitmaps in memory.
 *
 * A bitmap of a drive of @size_bytes (>= 1) has one bit per granule of
 * @granularity bytes (a power of two from 512 to 2 GiB); the last granule may
 * be cut by the drive's end.  Bit n is bit n % 8 (least significant first) of
 * byte n / 8, as the container stores it.
 *
 * Bits are kept in chunks of @chunk_bytes, which is the container's cluster
 * size, so that one chunk is one data cluster.  A chunk is
 *   - zeros: no memory,
 *   - ones: no memory (every granule that exists in it is dirty),
 *   - dense: a buffer with its popcount.
 * A dense chunk whose count reaches none or all becomes zeros or ones again,
 * so the kinds are canonical and equality of kinds is equality of contents.
 *
 * Dense buffers are reference-counted and copied on write: a snapshot
 * (bitmap_snapshot()) shares them, costs a table of 24 bytes per chunk, and
 * stays as it was whatever happens to the bitmap.
 *
 * Every change names the sequence of the record that makes it; a chunk keeps
 * the last such sequence (its "version"), by which write-back finds what
 * changed and the model finds what is already durable.  A change that finds
 * every bit of a chunk as it wants it leaves that chunk's version alone.
 *
 * Ranges are in bytes of the drive: [offset, offset + length), length > 0 and
 * within the drive; anything else is a programming error (assert), since the
 * model has validated the request before.
 *
 * Thread: one at a time for a bitmap and all that shares its buffers, which is
 * its snapshots and what was resized from it.  The exception is struct
 * bitmap_chunk_view of a snapshot, whose bytes another thread may read while
 * the snapshot is held.
 */

#define BITMAP_GRANULARITY_MIN UINT32_C(512)
#define BITMAP_GRANULARITY_MAX (UINT32_C(1) << 31)
#define BITMAP_BYTES_MAX       (UINT64_C(512) << 20) /* of bits, as QEMU's BME_MAX_PHYS_SIZE */
#define BITMAP_CHUNK_BYTES_MIN UINT32_C(512)
#define BITMAP_CHUNK_BYTES_MAX (UINT32_C(2) << 20)

struct bitmap;

enum bitmap_chunk_kind {
    BITMAP_ZEROS,
    BITMAP_ONES,
    BITMAP_DENSE,
};

/* Bytes of one chunk, for reading only. */
struct bitmap_chunk_view {
    enum bitmap_chunk_kind kind;
    const uint8_t *bits;   /* for DENSE: @length_bytes bytes; else NULL */
    uint32_t length_bytes; /* of bits that exist: chunk_bytes, less in the last chunk
                            * (rounded up to whole bytes; the tail's spare bits are 0) */
    uint32_t dirty;        /* dirty granules in the chunk */
    uint32_t granules;     /* granules in the chunk */
    uint64_t version;      /* sequence of the last change, 0 for none */
};

/* Whether a drive of this size can have a bitmap of this granularity (BITMAP_BYTES_MAX). */
bool bitmap_geometry_valid(uint64_t size_bytes, uint64_t granularity);

/*
 * A new bitmap, all clean.  -ENOMEM; -EINVAL for a geometry that
 * bitmap_geometry_valid() refuses or a chunk size that is no power of two in
 * its range.  The caller owns *ret.
 */
int bitmap_new(uint64_t size_bytes, uint32_t granularity, uint32_t chunk_bytes,
               struct bitmap **ret);
void bitmap_free(struct bitmap *bitmap); /* takes NULL */
void bitmap_freep(struct bitmap **bitmap);

uint64_t bitmap_size_bytes(const struct bitmap *bitmap);
uint32_t bitmap_granularity(const struct bitmap *bitmap);
uint32_t bitmap_chunk_bytes(const struct bitmap *bitmap);
uint64_t bitmap_granules(const struct bitmap *bitmap); /* ceil(size / granularity) */
uint32_t bitmap_chunks(const struct bitmap *bitmap);   /* chunks, >= 1 */

/*
 * Memory for dense buffers that a change of [offset, offset + length) may need
 * is taken beforehand, so that applying a record cannot fail half way:
 * bitmap_reserve() makes the next bitmap_set() or bitmap_clear() of the same
 * range succeed, whatever the kinds of its chunks.  Nothing else may come in
 * between, not even a snapshot, and reserves do not add up: reserve, change,
 * reserve, change.  -ENOMEM leaves the bitmap as it was.  An unused reserve is
 * kept for later: at most two buffers, since a range can only cut its first and
 * its last chunk, and one of the last chunk's length where that is shorter.
 */
int bitmap_reserve(struct bitmap *bitmap, uint64_t offset, uint64_t length);

/*
 * The same for several changes: what each of them may need is added up, then taken in one go. Until
 * bitmap_reserve_end() those changes succeed, in whatever order.  Nothing else may come in between.
 */
struct bitmap_need {
    uint32_t full, tail; /* buffers */
};

/* Adds the need of a bitmap_set() or bitmap_clear(). */
void bitmap_need_change(const struct bitmap *bitmap, uint64_t offset, uint64_t length,
                        struct bitmap_need *need);
/* Adds the need of a bitmap_merge_reserved(). */
void bitmap_need_merge(const struct bitmap *target, const struct bitmap *source,
                       struct bitmap_need *need);
/* -ENOMEM leaves the bitmap as it was. */
int bitmap_reserve_need(struct bitmap *bitmap, const struct bitmap_need *need);
/* Frees what was not needed. */
void bitmap_reserve_end(struct bitmap *bitmap);

/*
 * Sets every granule that the range touches.  Cannot fail after
 * bitmap_reserve(); without it, here and in bitmap_clear(), running out of
 * memory ends the process: there is no other way not to lose the bit silently.
 */
void bitmap_set(struct bitmap *bitmap, uint64_t offset, uint64_t length, uint64_t version);

/*
 * bitmap_set() of a range within one granule, if that changes one bit of a buffer of the chunk's
 * own, or nothing.  False: nothing was done, and it takes bitmap_reserve() and bitmap_set().  What
 * most marks come down to, in a tenth of the instructions.
 */
bool bitmap_set_quickly(struct bitmap *bitmap, uint64_t offset, uint64_t length, uint64_t version);

/* Brings the bit of byte @offset of the drive near the processor, for who looks at it soon. */
void bitmap_prefetch(const struct bitmap *bitmap, uint64_t offset);

/*
 * Clears every granule that the range covers whole; a last granule cut by the
 * drive's end counts as whole when the range reaches that end.  Cannot fail
 * after bitmap_reserve().
 */
void bitmap_clear(struct bitmap *bitmap, uint64_t offset, uint64_t length, uint64_t version);

/* All granules at once; never allocate, never fail. */
void bitmap_set_all(struct bitmap *bitmap, uint64_t version);
void bitmap_clear_all(struct bitmap *bitmap, uint64_t version);

/* Whether every granule that the range touches is dirty. */
bool bitmap_test_all(const struct bitmap *bitmap, uint64_t offset, uint64_t length);

/*
 * The same; raises *version to the highest of the chunks that were looked at.  A range that is
 * dirty in a version which a watermark covers is so wherever that watermark holds.
 */
bool bitmap_test_all_version(const struct bitmap *bitmap, uint64_t offset, uint64_t length,
                             uint64_t *version);

/* Dirty granules in all, from the cached counts: O(1). */
uint64_t bitmap_count(const struct bitmap *bitmap);
/* Dirty granules among those that the range touches. */
uint64_t bitmap_count_range(const struct bitmap *bitmap, uint64_t offset, uint64_t length);
/* Dirty bytes: granules times granularity, the cut last granule by its real length. */
uint64_t bitmap_dirty_bytes(const struct bitmap *bitmap);

/*
 * Iterates over maximal runs of equal granules, in bytes of the drive and
 * ordered; whole zeros and ones chunks are skipped at once.  The state is
 * just the position, so an iteration may stop and be resumed at any byte
 * offset that an earlier run ended at.
 *
 * Finds the run that begins at @offset (a multiple of the granularity, below
 * the size).  Stores whether it is dirty and its end (exclusive; the drive's
 * size for the last).  Looks no further than @limit (rounded up to a
 * granule): a run that goes on beyond may be reported cut there, never before
 * its true end otherwise.  A run has one granule at least, whatever the limit.
 * Pass UINT64_MAX for no limit.
 */
void bitmap_run(const struct bitmap *bitmap, uint64_t offset, uint64_t limit, bool *ret_dirty,
                uint64_t *ret_end);

/*
 * Finds the first dirty run at or after @offset (a multiple of the
 * granularity, or the drive's size).  False when there is none.  A run that
 * began before @offset is reported from there.
 */
bool bitmap_next_dirty(const struct bitmap *bitmap, uint64_t offset, uint64_t *ret_offset,
                       uint64_t *ret_end);

/* Part of a drive, in bytes. */
struct bitmap_extent {
    uint64_t offset, length;
};

/*
 * The same for up to @max (at least 1) runs at once.  Returns how many there were; when fewer than
 * @max, there are no others.  The next ones are found from the end of the last.
 */
uint32_t bitmap_dirty_runs(const struct bitmap *bitmap, uint64_t offset, struct bitmap_extent *ret,
                           uint32_t max);

/*
 * Ors @source into @target: every granule of @target that overlaps a dirty
 * granule of @source becomes dirty.  Both must be of the same size in bytes;
 * granularity and chunk size may differ.  Chunks that do not change keep
 * their version.  On -ENOMEM @target is untouched.
 */
int bitmap_merge(struct bitmap *target, const struct bitmap *source, uint64_t version);

/* The same after bitmap_reserve_need(): cannot fail. */
void bitmap_merge_reserved(struct bitmap *target, const struct bitmap *source, uint64_t version);

/* A copy that shares dense buffers, to be read.  -ENOMEM.  The caller owns it (bitmap_free()). */
int bitmap_snapshot(struct bitmap *bitmap, struct bitmap **ret);

/*
 * A bitmap for the same drive with a new size: kept granules keep their bits;
 * when it grows, all new granules and the one that the old end cut are dirty.
 * -ENOMEM, -EINVAL as bitmap_new(); @bitmap itself is untouched.  All chunks
 * get @version.
 */
int bitmap_resized(const struct bitmap *bitmap, uint64_t size_bytes, uint64_t version,
                   struct bitmap **ret);

/* The chunk with index @chunk < bitmap_chunks(). */
void bitmap_chunk(const struct bitmap *bitmap, uint32_t chunk, struct bitmap_chunk_view *ret);

/*
 * Chunks as read from the container, each in two steps: the bytes go to bitmap_loader_space(), then
 * bitmap_loader_take() makes a chunk of them.
 */
struct bitmap_loader {
    struct bitmap *bitmap;
    struct buffer *space; /* not taken yet; NULL at first */
};

void bitmap_loader_deinit(struct bitmap_loader *loader); /* the chunks stay */

/* bitmap_chunk_bytes() bytes, undefined at first; the same until they are taken.  NULL when there
 * is no memory. */
void *bitmap_loader_space(struct bitmap_loader *loader);

/*
 * Chunk @chunk becomes what is in the space.  Bytes there beyond bitmap_chunk_view.length_bytes are
 * ignored.  -EINVAL for bits beyond the last granule that are not 0, -ENOMEM; both leave the
 * chunk as it was.  Its version becomes @version.
 */
int bitmap_loader_take(struct bitmap_loader *loader, uint32_t chunk, uint64_t version);

/*
 * Chunks [@from, @to) of @source, a bitmap of the same shape, become those of @target, and zeros
 * there.  So two threads can load a bitmap, each into one of its own.
 */
void bitmap_move_chunks(struct bitmap *target, struct bitmap *source, uint32_t from, uint32_t to);

/* The highest version of any chunk: whether anything changed since.  Looks at every chunk. */
uint64_t bitmap_version(const struct bitmap *bitmap);

/*
 * Bytes of heap that this bitmap holds (shared buffers and spare ones counted
 * in full), for status and limits.  Looks at every chunk.
 */
uint64_t bitmap_memory_bytes(const struct bitmap *bitmap);

#endif
