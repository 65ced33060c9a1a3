/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_TESTS_COMMON_SIMDISK_H
#define BITMAPD_TESTS_COMMON_SIMDISK_H

#include "daemon/base/file.h"

/*
 * A disk of lies: a file in memory behind the vtable of daemon/base/file.h,
 * with a volatile cache in front of durable media.
 *
 * Reads see the cache.  A sync moves it to the media.  Power can fail at any
 * changing call, and then each sector (512 bytes) that was written since the
 * last sync has reached the media or not.  Any call can be made to fail; a sync
 * that fails has moved some sectors, forgets that the others needed it, and
 * leaves them readable, as Linux does (or not: simdisk_forget()).
 *
 * The disk outlives the file: file_close() of its file only notes that it was
 * called.
 */
struct simdisk;

#define SIMDISK_SECTOR 512u

struct simdisk *simdisk_new(uint64_t seed);
/* A disk whose media hold @bytes. */
struct simdisk *simdisk_from(const void *bytes, uint64_t size, uint64_t seed);
void simdisk_free(struct simdisk *disk); /* takes NULL */
void simdisk_freep(struct simdisk **disk);

struct file *simdisk_file(struct simdisk *disk);
bool simdisk_closed(const struct simdisk *disk);

/* What reads see, for looking and for damaging; gone with the next change of size. */
uint8_t *simdisk_bytes(struct simdisk *disk, uint64_t *ret_size);

/* Calls made so far: those that change or sync, and all. */
uint64_t simdisk_changes(const struct simdisk *disk);
uint64_t simdisk_calls(const struct simdisk *disk);

/*
 * Power fails at changing call number @change (1 is the next one): it takes
 * effect in the cache or not at all, and it and every later call gets -EIO.
 * 0: never.
 */
void simdisk_stop_at(struct simdisk *disk, uint64_t change);
bool simdisk_stopped(const struct simdisk *disk);

/* @count calls of any kind from number @call on (1 is the next one) fail with @error (-EIO …). */
void simdisk_fail_at(struct simdisk *disk, uint64_t call, uint64_t count, int error);
bool simdisk_failed(const struct simdisk *disk); /* at least one did */

/* From now on a sync that fails lets some of what it lost be read as the media have it. */
void simdisk_forget(struct simdisk *disk);
bool simdisk_sync_failed(const struct simdisk *disk); /* ever */

/* Writes and allocations that would make the file larger fail with -ENOSPC.  0: no limit. */
void simdisk_limit(struct simdisk *disk, uint64_t size);

enum simdisk_fate {
    SIMDISK_DROP, /* nothing unsynced reached the media */
    SIMDISK_KEEP, /* all of it did */
    SIMDISK_TEAR, /* each sector for itself, at random */
    SIMDISK_MASK, /* each sector for itself: one bit of the seed each, in their order, lowest first;
                   * the file is as long as they demand */
};

/* Sectors that were written and not synced. */
unsigned simdisk_unsynced(const struct simdisk *disk);

/* The disk as it is found after the power is back; @disk itself is unchanged. */
struct simdisk *simdisk_crash(const struct simdisk *disk, enum simdisk_fate fate, uint64_t seed);
/*
 * The same disk, cache and all, as the next process finds it.  With @evict the cache has let
 * go of pages that it believed to be on the media, which after a failed sync they may not be.
 */
struct simdisk *simdisk_clone(const struct simdisk *disk, bool evict, uint64_t seed);

/* A write that was under way: so many bytes of it reach the cache.  Counts as no call. */
void simdisk_poke(struct simdisk *disk, const void *bytes, uint64_t length, uint64_t offset);

/* splitmix64: reproducible randomness for tests. */
uint64_t simdisk_random(uint64_t *state);
/* The environment's BITMAPD_TEST_SEED, or the time; printed, so that a failure can be repeated. */
uint64_t simdisk_seed(void);

#endif
