/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What becomes of a directory when its process is killed or the power fails.
 */
#include "tests/common/simdir_internal.h"

#include <stdlib.h>
#include <string.h>

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
    switch (fate) {
    case SIMDIR_KILL:
    case SIMDIR_EVICT:
        return simdisk_clone(disk, fate == SIMDIR_EVICT, simdisk_random(random));
    case SIMDIR_DESTROY:
        return destroyed(disk, random);
    case SIMDIR_MASK: {
        struct simdisk *after = simdisk_crash(disk, SIMDISK_MASK, *random);
        unsigned used = simdisk_unsynced(disk);
        *random = used < 64 ? *random >> used : 0;
        return after;
    }
    default:
        return simdisk_crash(disk, (enum simdisk_fate)fate, simdisk_random(random));
    }
}

/* As the last write left it that was under way. */
static struct simdisk *with_write(const struct simdir *dir, const struct simdisk *disk,
                                  uint64_t *random)
{
    struct simdisk *copy = simdisk_clone(disk, false, 1);
    uint64_t done = dir->write_length / 512 + 1;

    done = simdisk_random(random) % done * 512;
    simdisk_poke(copy, dir->write_bytes, done, dir->write_offset);
    return copy;
}

static struct node *copy_node(struct simdir *after, const struct simdir *dir, struct node *node,
                              enum simdir_fate fate)
{
    struct simdisk *disk = node->disk, *copy = NULL;

    if (!node->copy) {
        if (dir->write_disk == disk && fate != SIMDIR_MASK) {
            disk = copy = with_write(dir, disk, &after->random);
        }
        node->copy = simdir_node_new(after, disk_after(disk, fate, &after->random), node->inode);
        simdisk_free(copy);
    }
    return node->copy;
}

static void copy_entries(struct simdir *after, struct entries *to, const struct simdir *dir,
                         const struct entries *from, enum simdir_fate fate)
{
    for (unsigned i = 0; i < SIMDIR_FILES_MAX; i++) {
        if (from->entry[i].name[0]) {
            to->entry[i] = from->entry[i];
            to->entry[i].node = copy_node(after, dir, from->entry[i].node, fate);
        }
    }
}

struct simdir *simdir_crash(const struct simdir *dir, enum simdir_fate fate, uint64_t seed)
{
    struct simdir *after = simdir_new(seed);
    struct entries entries = dir->durable;

    for (struct node *node = dir->nodes; node; node = node->next) {
        node->copy = NULL;
    }
    after->inodes = dir->inodes;
    after->forgets = dir->forgets;
    if (simdir_fate_is_kill(fate)) {
        copy_entries(after, &after->seen, dir, &dir->seen, fate);
        copy_entries(after, &after->durable, dir, &dir->durable, fate);
        for (unsigned i = 0; i < dir->n_pending; i++) {
            after->pending[i] = dir->pending[i];
            if (dir->pending[i].node) {
                after->pending[i].node = copy_node(after, dir, dir->pending[i].node, fate);
            }
        }
        after->n_pending = dir->n_pending;
        return after;
    }
    for (unsigned i = 0; i < dir->n_pending; i++) {
        bool kept = fate == SIMDIR_KEEP;
        if (fate == SIMDIR_MASK) {
            kept = after->random & 1;
            after->random >>= 1;
        } else if (fate != SIMDIR_DROP && fate != SIMDIR_KEEP) {
            kept = simdisk_random(&after->random) % 2;
        }
        if (kept) {
            simdir_apply(&entries, &dir->pending[i]);
        }
    }
    copy_entries(after, &after->seen, dir, &entries, fate);
    simdir_make_durable(after);
    return after;
}

unsigned simdir_unsynced(const struct simdir *dir)
{
    unsigned count = dir->n_pending;

    for (unsigned i = 0; i < SIMDIR_FILES_MAX; i++) {
        if (dir->seen.entry[i].name[0]) {
            count += simdisk_unsynced(dir->seen.entry[i].node->disk);
        }
    }
    return count;
}
