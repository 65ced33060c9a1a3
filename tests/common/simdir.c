/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Every file is a thin one in front of its disk's: it counts, stops and fails
 * for the whole directory, and lets the disk do what happens then.
 *
 * The directory has two sets of entries, the one that is seen and the durable
 * one, and the changes that lead from the second to the first; a sync makes them equal.
 */
#include "tests/common/simdir_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct handle {
    struct file file; /* first: the two pointers are the same */
    struct simdir *dir;
    struct simdisk *disk;
    uint64_t inode;
};

void *simdir_must(void *memory)
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
    if (dir->before) {
        dir->before(dir->before_opaque);
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

static bool prepare_write(struct handle *h, const void *bytes, uint64_t length, uint64_t offset)
{
    h->dir->write_disk = h->disk;
    h->dir->write_bytes = bytes;
    h->dir->write_length = length;
    h->dir->write_offset = offset;
    bool going = prepare(h, true);
    h->dir->write_disk = NULL;
    return going;
}

static int dir_write(struct file *file, const void *buffer, size_t length, uint64_t offset)
{
    struct handle *h = (struct handle *)file;

    return prepare_write(h, buffer, length, offset)
               ? file_write(simdisk_file(h->disk), buffer, length, offset)
               : -EIO;
}

static int dir_write_durably(struct file *file, const void *buffer, size_t length, uint64_t offset)
{
    struct handle *h = (struct handle *)file;

    return prepare_write(h, buffer, length, offset)
               ? file_write_durably(simdisk_file(h->disk), buffer, length, offset)
               : -EIO;
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

static int dir_punch(struct file *file, uint64_t offset, uint64_t length)
{
    struct handle *h = (struct handle *)file;
    return prepare(h, true) ? file_punch(simdisk_file(h->disk), offset, length) : -EIO;
}

static int dir_identity(struct file *file, struct file_identity *ret)
{
    *ret = (struct file_identity){.inode = ((struct handle *)file)->inode};
    return 0;
}

static int dir_descriptor(struct file *file)
{
    (void)file;
    return -1;
}

static void dir_close(struct file *file)
{
    free(file);
}

static const struct file_ops dir_ops = {
    .read = dir_read,
    .write = dir_write,
    .write_durably = dir_write_durably,
    .datasync = dir_datasync,
    .size = dir_size,
    .truncate = dir_truncate,
    .allocate = dir_allocate,
    .punch = dir_punch,
    .identity = dir_identity,
    .descriptor = dir_descriptor,
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
        entry = simdir_must(find(entries, ""));
        (void)snprintf(entry->name, sizeof entry->name, "%s", name);
    }
    return entry;
}

struct node *simdir_node_new(struct simdir *dir, struct simdisk *disk, uint64_t inode)
{
    struct node *node = simdir_must(calloc(1, sizeof *node));

    node->disk = disk;
    node->inode = inode ? inode : ++dir->inodes;
    node->next = dir->nodes;
    dir->nodes = node;
    if (dir->forgets) {
        simdisk_forget(disk);
    }
    return node;
}

static void forget(struct entries *entries, const char *name)
{
    struct entry *entry = find(entries, name);

    if (entry) {
        memset(entry, 0, sizeof *entry);
    }
}

void simdir_apply(struct entries *entries, const struct change *change)
{
    struct entry *entry = change->from[0] ? find(entries, change->from) : NULL;
    struct node *node = entry ? entry->node : change->node;

    if (change->from[0] && !entry) {
        return; /* lost before */
    }
    forget(entries, change->from[0] ? change->from : change->to);
    if (change->to[0]) {
        find_or_add(entries, change->to)->node = node;
    }
}

static void pend(struct simdir *dir, const char *from, const char *to, struct node *node)
{
    struct change *change = &dir->pending[dir->n_pending++];

    assert(dir->n_pending <= CHANGES_MAX);
    *change = (struct change){.node = node};
    (void)snprintf(change->from, sizeof change->from, "%s", from);
    (void)snprintf(change->to, sizeof change->to, "%s", to);
    simdir_apply(&dir->seen, change);
}

void simdir_make_durable(struct simdir *dir)
{
    dir->durable = dir->seen;
    dir->n_pending = 0;
}

static size_t directory_bytes(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) : 0;
}

/* The changes of names in the directory that holds @path. */
static void make_names_durable(struct simdir *dir, const char *path)
{
    size_t bytes = directory_bytes(path);
    unsigned kept = 0;

    for (unsigned i = 0; i < dir->n_pending; i++) {
        const struct change *change = &dir->pending[i];
        const char *name = change->to[0] ? change->to : change->from;
        if (directory_bytes(name) == bytes && strncmp(name, path, bytes) == 0) {
            simdir_apply(&dir->durable, change);
        } else {
            dir->pending[kept++] = *change;
        }
    }
    dir->n_pending = kept;
}

/* ---- The file system ---- */

static int fs_open(struct file_system *files, const char *path, enum file_mode mode,
                   struct file **ret, struct error *error)
{
    struct simdir *dir = (struct simdir *)files;
    enum course course = enter(dir, mode == FILE_CREATE);
    struct entry *entry = find(&dir->seen, path);
    struct handle *handle;

    if (course == COURSE_FAIL || course == COURSE_DEAD) {
        int r = course == COURSE_FAIL ? dir->fail_error : -EIO;
        return error_set_errno(error, r, "cannot open %s", path);
    }
    if (mode == FILE_CREATE && entry) {
        return error_set_errno(error, -EEXIST, "cannot create %s", path);
    }
    if (mode == FILE_CREATE && (course == COURSE_DO || simdisk_random(&dir->random) % 2)) {
        pend(dir, "", path, simdir_node_new(dir, simdisk_new(simdisk_random(&dir->random)), 0));
        entry = find(&dir->seen, path);
    }
    if (course == COURSE_STOP || !entry) {
        return error_set_errno(error, course == COURSE_STOP ? -EIO : -ENOENT, "cannot open %s",
                               path);
    }
    handle = simdir_must(calloc(1, sizeof *handle));
    handle->file.ops = &dir_ops;
    handle->dir = dir;
    handle->disk = entry->node->disk;
    handle->inode = entry->node->inode;
    *ret = &handle->file;
    return 0;
}

/* What a change of names comes to: true, and it is made, whatever is returned. */
static bool name_change(struct simdir *dir, int *ret)
{
    enum course course = enter(dir, true);

    *ret = course == COURSE_DO ? 0 : course == COURSE_FAIL ? dir->fail_error : -EIO;
    return course != COURSE_DEAD && (course == COURSE_DO || simdisk_random(&dir->random) % 2);
}

static int fs_rename(struct file_system *files, const char *from, const char *to, bool replace)
{
    struct simdir *dir = (struct simdir *)files;
    int r;

    bool made = name_change(dir, &r);
    if (r == 0 && !find(&dir->seen, from)) {
        return -ENOENT;
    }
    if (r == 0 && !replace && find(&dir->seen, to)) {
        return -EEXIST;
    }
    if (made && find(&dir->seen, from)) {
        pend(dir, from, to, NULL);
    }
    return r;
}

static int fs_unlink(struct file_system *files, const char *path)
{
    struct simdir *dir = (struct simdir *)files;
    int r;

    bool made = name_change(dir, &r);
    if (r == 0 && !find(&dir->seen, path)) {
        return -ENOENT;
    }
    if (made && find(&dir->seen, path)) {
        pend(dir, path, "", NULL);
    }
    return r;
}

static int fs_sync_directory(struct file_system *files, const char *path)
{
    struct simdir *dir = (struct simdir *)files;
    enum course course = enter(dir, true);

    if (course == COURSE_DO) {
        make_names_durable(dir, path);
    }
    return course == COURSE_DO ? 0 : course == COURSE_FAIL ? dir->fail_error : -EIO;
}

static bool fs_in_memory(struct file_system *files, const char *path)
{
    (void)files;
    return simdir_is_memory(path);
}

struct simdir *simdir_new(uint64_t seed)
{
    struct simdir *dir = simdir_must(calloc(1, sizeof *dir));

    dir->random = seed;
    dir->files = (struct file_system){
        .open = fs_open,
        .rename = fs_rename,
        .unlink = fs_unlink,
        .sync_directory = fs_sync_directory,
        .in_memory = fs_in_memory,
    };
    return dir;
}

struct file_system *simdir_files(struct simdir *dir)
{
    return &dir->files;
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
    return create ? file_system_create(&dir->files, name, ret, NULL)
                  : dir->files.open(&dir->files, name, FILE_WRITE, ret, NULL);
}

int simdir_rename(struct simdir *dir, const char *from, const char *to)
{
    return file_system_rename(&dir->files, from, to, true, NULL);
}

int simdir_unlink(struct simdir *dir, const char *name)
{
    if (!find(&dir->seen, name)) {
        return -ENOENT;
    }
    forget(&dir->seen, name);
    simdir_make_durable(dir);
    return 0;
}

struct simdisk *simdir_disk(struct simdir *dir, const char *name)
{
    struct entry *entry = find(&dir->seen, name);
    return entry ? entry->node->disk : NULL;
}

const char *simdir_name(const struct simdir *dir, unsigned index)
{
    for (unsigned i = 0; i < SIMDIR_FILES_MAX; i++) {
        if (dir->seen.entry[i].name[0] && index-- == 0) {
            return dir->seen.entry[i].name;
        }
    }
    return NULL;
}

void simdir_cut(struct simdir *dir, const char *name, uint64_t size)
{
    struct entry *entry = simdir_must(find(&dir->seen, name));
    uint64_t had;
    const uint8_t *bytes = simdisk_bytes(entry->node->disk, &had);

    assert(size <= had);
    entry->node = simdir_node_new(dir, simdisk_from(bytes, size, 1), entry->node->inode);
    simdir_make_durable(dir);
}

void simdir_put_back(struct simdir *dir, struct simdir *from, const char *name)
{
    struct entry *entry = simdir_must(find(&dir->seen, name));
    uint64_t size;
    const uint8_t *bytes = simdisk_bytes(simdir_disk(from, name), &size);

    entry->node = simdir_node_new(dir, simdisk_from(bytes, size, 1), entry->node->inode);
    simdir_make_durable(dir);
}

void simdir_forget(struct simdir *dir)
{
    dir->forgets = true;
}

bool simdir_sync_failed(const struct simdir *dir)
{
    for (const struct node *node = dir->nodes; node; node = node->next) {
        if (simdisk_sync_failed(node->disk)) {
            return true;
        }
    }
    return false;
}

void simdir_watch(struct simdir *dir, void (*before)(void *opaque), void *opaque)
{
    dir->before = before;
    dir->before_opaque = opaque;
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

void simdir_kill(struct simdir *dir)
{
    dir->stopped = true;
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
