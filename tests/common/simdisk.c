/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The cache is the view, the media are a second copy; a flag per sector says
 * that the view's is newer.  A size that was changed is durable when the next
 * sync succeeds; after a crash the file is as long as it was, or as long as it
 * had become, or as long as the sectors that were kept demand.
 */
#include "tests/common/simdisk.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct simdisk {
    struct file file; /* first: the two pointers are the same */
    uint8_t *view;
    uint64_t size;
    uint8_t *media; /* zero beyond media_size */
    uint64_t media_size;
    uint8_t *dirty;    /* per sector */
    uint64_t capacity; /* of view and media, whole sectors */
    uint64_t changes, calls;
    uint64_t stop_at;
    uint64_t fail_from, fail_to;
    int fail_error;
    uint64_t limit;
    uint64_t random;
    uint64_t punched;
    bool stopped, failed, closed, no_punch;
    bool forgets, sync_failed;
};

uint64_t simdisk_random(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint64_t simdisk_seed(void)
{
    const char *text = getenv("BITMAPD_TEST_SEED");
    uint64_t seed = text ? strtoull(text, NULL, 0) : (uint64_t)time(NULL);

    printf("BITMAPD_TEST_SEED=%" PRIu64 "\n", seed);
    /* Thousands of disks come and go: keep their memory instead of mapping it anew each time. */
    (void)mallopt(M_MMAP_THRESHOLD, 1 << 25);
    (void)mallopt(M_TRIM_THRESHOLD, 1 << 29);
    return seed;
}

static void *must(void *memory)
{
    if (!memory) {
        abort();
    }
    return memory;
}

static void grow(struct simdisk *d, uint64_t size)
{
    if (size > d->capacity) {
        uint64_t capacity = d->capacity ? d->capacity : 64 * SIMDISK_SECTOR;
        while (capacity < size) {
            capacity *= 2;
        }
        d->view = must(realloc(d->view, capacity));
        d->media = must(realloc(d->media, capacity));
        d->dirty = must(realloc(d->dirty, capacity / SIMDISK_SECTOR));
        memset(d->view + d->capacity, 0, capacity - d->capacity);
        memset(d->media + d->capacity, 0, capacity - d->capacity);
        memset(d->dirty + d->capacity / SIMDISK_SECTOR, 0,
               (capacity - d->capacity) / SIMDISK_SECTOR);
        d->capacity = capacity;
    }
    if (size > d->size) {
        d->size = size;
    }
}

/* Counts a call; 0, or what it fails with. */
static int enter(struct simdisk *d, bool change)
{
    assert(!d->closed);
    if (d->stopped) {
        return -EIO;
    }
    d->calls++;
    d->changes += change;
    if (d->calls >= d->fail_from && d->calls < d->fail_to) {
        d->failed = true;
        return d->fail_error;
    }
    return 0;
}

static bool stops(struct simdisk *d)
{
    if (d->stop_at != 0 && d->changes >= d->stop_at) {
        d->stopped = true;
    }
    return d->stopped;
}

static int sim_read(struct file *file, void *buffer, size_t length, uint64_t offset)
{
    struct simdisk *d = (struct simdisk *)file;
    int r = enter(d, false);

    if (r < 0) {
        return r;
    }
    if (offset > d->size || length > d->size - offset) {
        return -ENODATA;
    }
    if (length > 0) {
        memcpy(buffer, d->view + offset, length);
    }
    return 0;
}

static void put(struct simdisk *d, const uint8_t *bytes, uint64_t length, uint64_t offset)
{
    if (length == 0) {
        return;
    }
    grow(d, offset + length);
    memcpy(d->view + offset, bytes, length);
    for (uint64_t s = offset / SIMDISK_SECTOR; s <= (offset + length - 1) / SIMDISK_SECTOR; s++) {
        d->dirty[s] = 1;
    }
}

static int sim_write(struct file *file, const void *buffer, size_t length, uint64_t offset)
{
    struct simdisk *d = (struct simdisk *)file;
    int r = enter(d, true);

    if (r < 0) {
        if (!d->stopped) {
            put(d, buffer, simdisk_random(&d->random) % (length + 1), offset);
        }
        return r;
    }
    if (d->limit && offset + length > d->limit && offset + length > d->size) {
        return -ENOSPC;
    }
    put(d, buffer, length, offset);
    return stops(d) ? -EIO : 0;
}

static int sim_datasync(struct file *file)
{
    struct simdisk *d = (struct simdisk *)file;
    int r = enter(d, true);

    if (d->stopped || (r == 0 && stops(d))) {
        return -EIO;
    }
    d->sync_failed |= r < 0;
    for (uint64_t s = 0; s * SIMDISK_SECTOR < d->size; s++) {
        if (d->dirty[s] && (r == 0 || simdisk_random(&d->random) % 2)) {
            memcpy(d->media + s * SIMDISK_SECTOR, d->view + s * SIMDISK_SECTOR, SIMDISK_SECTOR);
            if (d->media_size < (s + 1) * SIMDISK_SECTOR) {
                d->media_size = (s + 1) * SIMDISK_SECTOR;
            }
        }
        if (r < 0 && d->forgets && d->dirty[s] && simdisk_random(&d->random) % 2) {
            memcpy(d->view + s * SIMDISK_SECTOR, d->media + s * SIMDISK_SECTOR, SIMDISK_SECTOR);
        }
        d->dirty[s] = 0;
    }
    if (r == 0 || d->media_size > d->size) {
        d->media_size = d->size;
    }
    return r;
}

/* Through the cache; what else was written stays where it was. */
static int sim_write_durably(struct file *file, const void *buffer, size_t length, uint64_t offset)
{
    struct simdisk *d = (struct simdisk *)file;
    int r = sim_write(file, buffer, length, offset);

    assert(offset % SIMDISK_SECTOR == 0 && length % SIMDISK_SECTOR == 0);
    if (r == 0) {
        memcpy(d->media + offset, buffer, length);
        memset(d->dirty + offset / SIMDISK_SECTOR, 0, length / SIMDISK_SECTOR);
        if (d->media_size < offset + length) {
            d->media_size = offset + length;
        }
    }
    return r;
}

static int sim_size(struct file *file, uint64_t *ret_size)
{
    struct simdisk *d = (struct simdisk *)file;
    int r = enter(d, false);

    if (r == 0) {
        *ret_size = d->size;
    }
    return r;
}

static int sim_truncate(struct file *file, uint64_t size)
{
    struct simdisk *d = (struct simdisk *)file;
    int r = enter(d, true);

    if (r < 0) {
        return r;
    }
    if (size < d->size) {
        memset(d->view + size, 0, d->size - size);
        for (uint64_t s = size / SIMDISK_SECTOR; s * SIMDISK_SECTOR < d->size; s++) {
            d->dirty[s] = 1;
        }
        d->size = size;
    }
    grow(d, size);
    return stops(d) ? -EIO : 0;
}

static int sim_allocate(struct file *file, uint64_t offset, uint64_t length)
{
    struct simdisk *d = (struct simdisk *)file;
    int r = enter(d, true);

    if (r < 0) {
        return r;
    }
    if (d->limit && offset + length > d->limit && offset + length > d->size) {
        return -ENOSPC;
    }
    grow(d, offset + length);
    return stops(d) ? -EIO : 0;
}

static void zero(struct simdisk *d, uint64_t length, uint64_t offset)
{
    uint64_t end = offset > d->size            ? offset
                   : length > d->size - offset ? d->size
                                               : offset + length;

    if (end > offset) {
        memset(d->view + offset, 0, end - offset);
        for (uint64_t s = offset / SIMDISK_SECTOR; s <= (end - 1) / SIMDISK_SECTOR; s++) {
            d->dirty[s] = 1;
        }
    }
}

static int sim_punch(struct file *file, uint64_t offset, uint64_t length)
{
    struct simdisk *d = (struct simdisk *)file;
    int r = d->no_punch ? -EOPNOTSUPP : enter(d, true);

    if (r < 0) {
        if (!d->stopped && !d->no_punch) {
            zero(d, simdisk_random(&d->random) % (length + 1), offset);
        }
        return r;
    }
    zero(d, length, offset);
    d->punched += length;
    return stops(d) ? -EIO : 0;
}

/* All disks are one file to those who ask; a directory of them tells them apart. */
static int sim_identity(struct file *file, struct file_identity *ret)
{
    (void)file;
    *ret = (struct file_identity){.inode = 1};
    return 0;
}

static int sim_descriptor(struct file *file)
{
    (void)file;
    return -1;
}

static void sim_close(struct file *file)
{
    ((struct simdisk *)file)->closed = true;
}

static const struct file_ops sim_ops = {
    .read = sim_read,
    .write = sim_write,
    .write_durably = sim_write_durably,
    .datasync = sim_datasync,
    .size = sim_size,
    .truncate = sim_truncate,
    .allocate = sim_allocate,
    .punch = sim_punch,
    .identity = sim_identity,
    .descriptor = sim_descriptor,
    .close = sim_close,
};

struct simdisk *simdisk_new(uint64_t seed)
{
    struct simdisk *d = must(calloc(1, sizeof *d));

    d->file.ops = &sim_ops;
    d->random = seed;
    grow(d, 0);
    return d;
}

struct simdisk *simdisk_from(const void *bytes, uint64_t size, uint64_t seed)
{
    struct simdisk *d = simdisk_new(seed);

    grow(d, size);
    if (size > 0) {
        memcpy(d->view, bytes, size);
        memcpy(d->media, bytes, size);
    }
    d->media_size = size;
    return d;
}

void simdisk_free(struct simdisk *d)
{
    if (d) {
        free(d->view);
        free(d->media);
        free(d->dirty);
        free(d);
    }
}

void simdisk_freep(struct simdisk **disk)
{
    simdisk_free(*disk);
}

struct file *simdisk_file(struct simdisk *d)
{
    d->closed = false;
    return &d->file;
}

bool simdisk_closed(const struct simdisk *d)
{
    return d->closed;
}

uint8_t *simdisk_bytes(struct simdisk *d, uint64_t *ret_size)
{
    *ret_size = d->size;
    return d->view;
}

uint64_t simdisk_changes(const struct simdisk *d)
{
    return d->changes;
}

uint64_t simdisk_calls(const struct simdisk *d)
{
    return d->calls;
}

void simdisk_stop_at(struct simdisk *d, uint64_t change)
{
    d->stop_at = change ? d->changes + change : 0;
}

bool simdisk_stopped(const struct simdisk *d)
{
    return d->stopped;
}

void simdisk_fail_at(struct simdisk *d, uint64_t call, uint64_t count, int error)
{
    d->fail_from = d->calls + call;
    d->fail_to = d->fail_from + count;
    d->fail_error = error;
    d->failed = false;
}

bool simdisk_failed(const struct simdisk *d)
{
    return d->failed;
}

void simdisk_limit(struct simdisk *d, uint64_t size)
{
    d->limit = size;
}

void simdisk_no_punch(struct simdisk *d)
{
    d->no_punch = true;
}

uint64_t simdisk_punched(const struct simdisk *d)
{
    return d->punched;
}

#define PAGE_SECTORS (4096u / SIMDISK_SECTOR)

/* A block of 4096 bytes that was being written: as it was, as it was to be, or garbage. */
static void destroy_page(struct simdisk *after, const struct simdisk *d, uint64_t first,
                         uint64_t *random)
{
    uint64_t end = first + PAGE_SECTORS, bytes = PAGE_SECTORS * SIMDISK_SECTOR;
    bool dirty = false;

    for (uint64_t s = first; s < end && s * SIMDISK_SECTOR < d->size; s++) {
        dirty |= d->dirty[s];
    }
    if (!dirty) {
        return;
    }
    grow(after, end * SIMDISK_SECTOR);
    switch (simdisk_random(random) % 3) {
    case 0:
        return;
    case 1:
        memcpy(after->view + first * SIMDISK_SECTOR, d->view + first * SIMDISK_SECTOR,
               end * SIMDISK_SECTOR <= d->capacity ? bytes : d->capacity - first * SIMDISK_SECTOR);
        break;
    default:
        for (uint64_t i = 0; i < bytes; i++) {
            after->view[first * SIMDISK_SECTOR + i] = (uint8_t)simdisk_random(random);
        }
    }
    memcpy(after->media + first * SIMDISK_SECTOR, after->view + first * SIMDISK_SECTOR, bytes);
}

struct simdisk *simdisk_crash(const struct simdisk *d, enum simdisk_fate fate, uint64_t seed)
{
    struct simdisk *after = simdisk_from(d->media, d->media_size, seed);
    uint64_t random = seed, size = d->media_size;

    if (fate == SIMDISK_KEEP || fate == SIMDISK_DESTROY ||
        (fate == SIMDISK_TEAR && simdisk_random(&random) % 2)) {
        size = d->size;
    }
    grow(after, d->size);
    for (uint64_t s = 0; fate == SIMDISK_DESTROY && s * SIMDISK_SECTOR < d->size;
         s += PAGE_SECTORS) {
        destroy_page(after, d, s, &random);
    }
    for (uint64_t s = 0; fate != SIMDISK_DESTROY && s * SIMDISK_SECTOR < d->size; s++) {
        bool kept = fate == SIMDISK_KEEP;
        if (!d->dirty[s]) {
            continue;
        }
        if (fate == SIMDISK_TEAR) {
            kept = simdisk_random(&random) % 2;
        } else if (fate == SIMDISK_MASK) {
            kept = random & 1;
            random >>= 1;
        }
        if (!kept) {
            continue;
        }
        memcpy(after->view + s * SIMDISK_SECTOR, d->view + s * SIMDISK_SECTOR, SIMDISK_SECTOR);
        memcpy(after->media + s * SIMDISK_SECTOR, d->view + s * SIMDISK_SECTOR, SIMDISK_SECTOR);
        uint64_t end = (s + 1) * SIMDISK_SECTOR < d->size ? (s + 1) * SIMDISK_SECTOR : d->size;
        size = size < end ? end : size;
    }
    after->size = size;
    after->media_size = size;
    if (after->capacity > size) {
        memset(after->view + size, 0, after->capacity - size);
        memset(after->media + size, 0, after->capacity - size);
    }
    return after;
}

/* The page as the media have it, if nothing in it is waiting to be written. */
static void evict_page(struct simdisk *d, uint64_t page)
{
    uint64_t first = page * PAGE_SECTORS, end = first + PAGE_SECTORS;

    if (end * SIMDISK_SECTOR > d->capacity) {
        return;
    }
    for (uint64_t s = first; s < end; s++) {
        if (d->dirty[s]) {
            return;
        }
    }
    memcpy(d->view + page * 4096, d->media + page * 4096, 4096);
}

struct simdisk *simdisk_clone(const struct simdisk *d, bool evict, uint64_t seed)
{
    struct simdisk *after = simdisk_new(seed);
    uint64_t random = seed;

    grow(after, d->capacity);
    if (d->capacity > 0) {
        memcpy(after->view, d->view, d->capacity);
        memcpy(after->media, d->media, d->capacity);
        memcpy(after->dirty, d->dirty, d->capacity / SIMDISK_SECTOR);
    }
    after->size = d->size;
    after->media_size = d->media_size;
    for (uint64_t page = 0; evict && page * 4096 < d->size; page++) {
        if (simdisk_random(&random) % 2) {
            evict_page(after, page);
        }
    }
    return after;
}

void simdisk_poke(struct simdisk *d, const void *bytes, uint64_t length, uint64_t offset)
{
    put(d, bytes, length, offset);
}

unsigned simdisk_unsynced(const struct simdisk *d)
{
    unsigned count = 0;

    for (uint64_t s = 0; s * SIMDISK_SECTOR < d->size; s++) {
        count += d->dirty[s];
    }
    return count;
}

void simdisk_forget(struct simdisk *d)
{
    d->forgets = true;
}

bool simdisk_sync_failed(const struct simdisk *d)
{
    return d->sync_failed;
}
