/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Every file is a thin one in front of its disk's: it counts, stops and fails
 * for the whole directory, and lets the disk do what happens then.
 *
 * The directory has two sets of entries, the one that is seen and the durable
 * one; a rename changes the first and its sync copies it to the second.
 */
#include "tests/common/simdir.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct node {
    struct simdisk *disk;
    struct node *next; /* of all, for the end */
};

struct entry {
    char name[32]; /* "" if free */
    struct node *node;
};

struct entries {
    struct entry entry[SIMDIR_FILES_MAX];
};

struct simdir {
    struct entries seen, durable;
    struct node *nodes;
    uint64_t random;
    uint64_t changes, calls;
    uint64_t stop_at;
    uint64_t fail_from, fail_to;
    int fail_error;
    bool stopped, failed;
};

struct handle {
    struct file file; /* first: the two pointers are the same */
    struct simdir *dir;
    struct simdisk *disk;
};

static void *must(void *memory)
{
    if (!memory) {
        abort();
    }
    return memory;
}

/* What becomes of a call. */
enum course {
    COURSE_DO,
    COURSE_FAIL, /* with dir->fail_error */
    COURSE_STOP, /* the power fails during it */
    COURSE_DEAD, /* it had failed before */
};

static enum course enter(struct simdir *dir, bool change)
{
    if (dir->stopped) {
        return COURSE_DEAD;
    }
    dir->calls++;
    dir->changes += change;
    if (dir->calls >= dir->fail_from && dir->calls < dir->fail_to) {
        dir->failed = true;
        return COURSE_FAIL;
    }
    if (change && dir->stop_at != 0 && dir->changes >= dir->stop_at) {
        dir->stopped = true;
        return COURSE_STOP;
    }
    return COURSE_DO;
}

/* Readies the disk for the call that follows; false: there is none to make. */
static bool prepare(struct handle *h, bool change)
{
    enum course course = enter(h->dir, change);

    if (course == COURSE_FAIL) {
        simdisk_fail_at(h->disk, 1, 1, h->dir->fail_error);
    } else if (course == COURSE_STOP) {
        simdisk_stop_at(h->disk, 1);
    }
    return course != COURSE_DEAD;
}

static int dir_read(struct file *file, void *buffer, size_t length, uint64_t offset)
{
    struct handle *h = (struct handle *)file;
    return prepare(h, false) ? file_read(simdisk_file(h->disk), buffer, length, offset) : -EIO;
}

static int dir_write(struct file *file, const void *buffer, size_t length, uint64_t offset)
{
    struct handle *h = (struct handle *)file;
    return prepare(h, true) ? file_write(simdisk_file(h->disk), buffer, length, offset) : -EIO;
}

static int dir_datasync(struct file *file)
{
    struct handle *h = (struct handle *)file;
    return prepare(h, true) ? file_datasync(simdisk_file(h->disk)) : -EIO;
}

static int dir_size(struct file *file, uint64_t *ret_size)
{
    struct handle *h = (struct handle *)file;
    return prepare(h, false) ? file_size(simdisk_file(h->disk), ret_size) : -EIO;
}

static int dir_truncate(struct file *file, uint64_t size)
{
    struct handle *h = (struct handle *)file;
    return prepare(h, true) ? file_truncate(simdisk_file(h->disk), size) : -EIO;
}

static int dir_allocate(struct file *file, uint64_t offset, uint64_t length)
{
    struct handle *h = (struct handle *)file;
    return prepare(h, true) ? file_allocate(simdisk_file(h->disk), offset, length) : -EIO;
}

static void dir_close(struct file *file)
{
    free(file);
}

static const struct file_ops dir_ops = {
    .read = dir_read,
    .write = dir_write,
    .datasync = dir_datasync,
    .size = dir_size,
    .truncate = dir_truncate,
    .allocate = dir_allocate,
    .close = dir_close,
};

static struct entry *find(struct entries *entries, const char *name)
{
    for (unsigned i = 0; i < SIMDIR_FILES_MAX; i++) {
        if (strcmp(entries->entry[i].name, name) == 0) {
            return &entries->entry[i];
        }
    }
    return NULL;
}

static struct entry *find_or_add(struct entries *entries, const char *name)
{
    struct entry *entry = find(entries, name);

    if (!entry) {
        entry = must(find(entries, ""));
        (void)snprintf(entry->name, sizeof entry->name, "%s", name);
    }
    return entry;
}

static struct node *node_new(struct simdir *dir, struct simdisk *disk)
{
    struct node *node = must(calloc(1, sizeof *node));

    node->disk = disk;
    node->next = dir->nodes;
    dir->nodes = node;
    return node;
}

struct simdir *simdir_new(uint64_t seed)
{
    struct simdir *dir = must(calloc(1, sizeof *dir));

    dir->random = seed;
    return dir;
}

void simdir_free(struct simdir *dir)
{
    if (!dir) {
        return;
    }
    while (dir->nodes) {
        struct node *node = dir->nodes;
        dir->nodes = node->next;
        simdisk_free(node->disk);
        free(node);
    }
    free(dir);
}

void simdir_freep(struct simdir **dir)
{
    simdir_free(*dir);
}

int simdir_open(struct simdir *dir, const char *name, bool create, struct file **ret)
{
    enum course course = enter(dir, create);
    struct handle *handle;
    struct entry *entry;

    if (course == COURSE_FAIL) {
        return dir->fail_error;
    }
    if (course == COURSE_DEAD || (course == COURSE_STOP && simdisk_random(&dir->random) % 2)) {
        return -EIO;
    }
    if (create) {
        entry = find_or_add(&dir->seen, name);
        entry->node = node_new(dir, simdisk_new(simdisk_random(&dir->random)));
        find_or_add(&dir->durable, name)->node = entry->node;
    }
    entry = find(&dir->seen, name);
    if (course == COURSE_STOP) {
        return -EIO;
    }
    if (!entry) {
        return -ENOENT;
    }
    handle = must(calloc(1, sizeof *handle));
    handle->file.ops = &dir_ops;
    handle->dir = dir;
    handle->disk = entry->node->disk;
    *ret = &handle->file;
    return 0;
}

static void forget(struct entries *entries, const char *name)
{
    struct entry *entry = find(entries, name);

    if (entry) {
        memset(entry, 0, sizeof *entry);
    }
}

int simdir_rename(struct simdir *dir, const char *from, const char *to)
{
    enum course course = enter(dir, true);
    struct entry *entry = find(&dir->seen, from);
    struct node *node;

    if (course == COURSE_DEAD) {
        return -EIO;
    }
    if (course == COURSE_FAIL && simdisk_random(&dir->random) % 2) {
        return dir->fail_error;
    }
    if (!entry) {
        return -ENOENT;
    }
    node = entry->node;
    forget(&dir->seen, from);
    find_or_add(&dir->seen, to)->node = node;
    if (course == COURSE_FAIL) {
        return dir->fail_error; /* of the sync */
    }
    if (course == COURSE_STOP) {
        return -EIO;
    }
    course = enter(dir, true);
    if (course == COURSE_FAIL) {
        return dir->fail_error;
    }
    if (course != COURSE_DO) {
        return -EIO;
    }
    dir->durable = dir->seen;
    return 0;
}

int simdir_unlink(struct simdir *dir, const char *name)
{
    if (!find(&dir->seen, name)) {
        return -ENOENT;
    }
    forget(&dir->seen, name);
    forget(&dir->durable, name);
    return 0;
}

struct simdisk *simdir_disk(struct simdir *dir, const char *name)
{
    struct entry *entry = find(&dir->seen, name);
    return entry ? entry->node->disk : NULL;
}

void simdir_cut(struct simdir *dir, const char *name, uint64_t size)
{
    struct entry *entry = must(find(&dir->seen, name));
    uint64_t had;
    const uint8_t *bytes = simdisk_bytes(entry->node->disk, &had);

    assert(size <= had);
    entry->node = node_new(dir, simdisk_from(bytes, size, 1));
    find_or_add(&dir->durable, name)->node = entry->node;
}

uint64_t simdir_changes(const struct simdir *dir)
{
    return dir->changes;
}

uint64_t simdir_calls(const struct simdir *dir)
{
    return dir->calls;
}

void simdir_stop_at(struct simdir *dir, uint64_t change)
{
    dir->stop_at = change ? dir->changes + change : 0;
}

bool simdir_stopped(const struct simdir *dir)
{
    return dir->stopped;
}

void simdir_fail_at(struct simdir *dir, uint64_t call, uint64_t count, int error)
{
    dir->fail_from = dir->calls + call;
    dir->fail_to = count > UINT64_MAX - dir->fail_from ? UINT64_MAX : dir->fail_from + count;
    dir->fail_error = error;
    dir->failed = false;
}

bool simdir_failed(const struct simdir *dir)
{
    return dir->failed;
}

/* What differs between nothing kept and all kept was in the cache. */
static struct simdisk *destroyed(const struct simdisk *disk, uint64_t *random)
{
    struct simdisk *old = simdisk_crash(disk, SIMDISK_DROP, 1);
    struct simdisk *new = simdisk_crash(disk, SIMDISK_KEEP, 1);
    uint64_t old_size, new_size;
    uint8_t *was = simdisk_bytes(old, &old_size), *is = simdisk_bytes(new, &new_size);

    for (uint64_t at = 0; at < new_size; at += 4096) {
        uint64_t length = new_size - at < 4096 ? new_size - at : 4096;
        uint64_t common = at >= old_size ? 0 : old_size - at < length ? old_size - at : length;

        if (common == length && memcmp(was + at, is + at, length) == 0) {
            continue;
        }
        switch (simdisk_random(random) % 3) {
        case 0:
            memset(is + at, 0, length);
            memcpy(is + at, was + at, common);
            break;
        case 1:
            break;
        default:
            for (uint64_t i = 0; i < length; i++) {
                is[at + i] = (uint8_t)simdisk_random(random);
            }
        }
    }
    struct simdisk *after = simdisk_from(is, new_size, 1);
    simdisk_free(old);
    simdisk_free(new);
    return after;
}

static struct simdisk *disk_after(struct simdisk *disk, enum simdir_fate fate, uint64_t *random)
{
    const uint8_t *bytes;
    uint64_t size;

    switch (fate) {
    case SIMDIR_KILL:
        bytes = simdisk_bytes(disk, &size);
        return simdisk_from(bytes, size, simdisk_random(random));
    case SIMDIR_DESTROY:
        return destroyed(disk, random);
    default:
        return simdisk_crash(disk, (enum simdisk_fate)fate, simdisk_random(random));
    }
}

struct simdir *simdir_crash(const struct simdir *dir, enum simdir_fate fate, uint64_t seed)
{
    struct simdir *after = simdir_new(seed);
    bool renames_kept = fate == SIMDIR_KEEP || fate == SIMDIR_KILL ||
                        (fate != SIMDIR_DROP && simdisk_random(&after->random) % 2);
    const struct entries *entries = renames_kept ? &dir->seen : &dir->durable;

    for (unsigned i = 0; i < SIMDIR_FILES_MAX; i++) {
        const struct entry *entry = &entries->entry[i];
        if (entry->name[0] == '\0') {
            continue;
        }
        struct node *node = node_new(after, disk_after(entry->node->disk, fate, &after->random));
        find_or_add(&after->seen, entry->name)->node = node;
        find_or_add(&after->durable, entry->name)->node = node;
    }
    return after;
}
