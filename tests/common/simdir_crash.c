/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What becomes of a directory when its process is killed or the power fails.
 */
#include "tests/common/simdir_internal.h"

#include <stdlib.h>
#include <string.h>

static struct simdisk *disk_after(struct simdisk *disk, enum simdir_fate fate, uint64_t *random)
{
    if (simdir_fate_is_kill(fate)) {
        return simdisk_clone(disk, fate == SIMDIR_EVICT, simdisk_random(random));
    }
    if (fate == SIMDIR_MASK) {
        struct simdisk *after = simdisk_crash(disk, SIMDISK_MASK, *random);
        unsigned used = simdisk_unsynced(disk);
        *random = used < 64 ? *random >> used : 0;
        return after;
    }
    return simdisk_crash(disk, (enum simdisk_fate)fate, simdisk_random(random));
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
        bool lost = !simdir_fate_is_kill(fate) && simdir_is_memory(from->entry[i].name);
        if (from->entry[i].name[0] && !lost) {
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
