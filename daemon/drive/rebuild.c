/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Drives and bitmaps from the container's bitmap table alone.
 *
 * When the state payload is lost, the table still has names, granularities and
 * sizes in sectors.  That is enough to go on recording: each bitmap is made
 * anew as recording, and the caller makes it unknown.  Checkpoints come back in
 * their order, under new UUIDs.  What the table does not know is gone: drives
 * without bitmaps, exact sizes (they are rounded up to sectors, which a
 * `drive resize` mends), paths, writers, requests.
 */
#include "daemon/drive/internal.h"

#include "proto/base/checked.h"

#include <string.h>
#include <sys/random.h>
#include <time.h>

/* The drive of a table entry, made when it is new. */
static int find_or_make_drive(struct model *model, struct text name, uint64_t size,
                              struct drive **ret)
{
    struct drive *drive = model_drive_by_name(model, name, NULL);

    if (!drive) {
        int r = drive_new(model->next_id, name, (struct text){NULL, 0}, &drive);
        if (r < 0) {
            return r;
        }
        drive->size = size;
        drive->granularity = model->settings.granularity;
        drive->durability = model->settings.durability;
        model_link_drive(model, drive);
        model->next_id++;
    }
    *ret = drive;
    return 0;
}

/* What a name in the table says. */
struct entry_name {
    struct text drive, name;
    uint64_t sequence; /* of a checkpoint, else 0 */
    bool checkpoint;
};

static bool parse_name(const struct container_bitmap_info *entry, struct entry_name *ret)
{
    struct text full = {entry->name, entry->name_bytes};
    uint32_t drive_bytes, name_offset;
    size_t split;

    *ret = (struct entry_name){0};
    if (checkpoint_name_split(full, &drive_bytes, &ret->sequence, &name_offset) == 0) {
        ret->checkpoint = true;
    } else if (name_split(full.data, full.bytes, &split, NULL) == 0) {
        drive_bytes = (uint32_t)split;
        name_offset = drive_bytes + 1;
    } else {
        return false;
    }
    ret->drive = (struct text){full.data, drive_bytes};
    ret->name = (struct text){full.data + name_offset, full.bytes - name_offset};
    return true;
}

/* A new UUID: whoever remembers the old one gets no answer rather than a wrong one. */
static struct checkpoint *make_checkpoint(uint64_t sequence)
{
    struct checkpoint *checkpoint = calloc(1, sizeof *checkpoint);

    if (checkpoint) {
        checkpoint->sequence = sequence;
        checkpoint->created_ns = (uint64_t)model_wall_clock_ns();
        if (getrandom(checkpoint->uuid, sizeof checkpoint->uuid, 0) !=
            (ssize_t)sizeof checkpoint->uuid) {
            free(checkpoint);
            return NULL;
        }
    }
    return checkpoint;
}

static bool is_taken(struct drive *drive, const struct entry_name *name)
{
    const struct drive_bitmap *bitmap;

    if (!name->checkpoint) {
        return drive_bitmap_by_name(drive, name->name) != NULL;
    }
    TAILQ_FOREACH (bitmap, &drive->history, in_history) {
        if (bitmap->checkpoint->sequence == name->sequence) {
            return true;
        }
    }
    return model_checkpoint_by_name(drive, name->name, NULL) ||
           drive->checkpoints_count >= MODEL_CHECKPOINTS_MAX;
}

static int rebuild_bitmap(struct model *model, const struct container_bitmap_info *entry)
{
    struct entry_name name;
    uint64_t size;

    if (!parse_name(entry, &name) || !checked_mul_u64(entry->sectors, 512, &size) || size == 0 ||
        size > INT64_MAX || !bitmap_geometry_valid(size, entry->granularity) ||
        name.sequence > model->sequence) {
        return 0; /* not an entry of ours */
    }
    struct drive *drive;
    int r = find_or_make_drive(model, name.drive, size, &drive);
    if (r < 0 || is_taken(drive, &name) ||
        !bitmap_geometry_valid(drive->size, entry->granularity)) {
        return r;
    }
    CLEANUP(bitmap_freep) struct bitmap *bits = NULL;
    CLEANUP(drive_bitmap_freep) struct drive_bitmap *bitmap = NULL;
    r = bitmap_new(drive->size, entry->granularity, UINT32_C(1) << model->settings.cluster_bits,
                   &bits);
    if (r == 0) {
        r = drive_bitmap_new(model->next_id, name.name, entry->granularity, bits, &bitmap);
    }
    if (r < 0) {
        return r;
    }
    bits = NULL;
    if (name.checkpoint) {
        bitmap->checkpoint = make_checkpoint(name.sequence);
        if (!bitmap->checkpoint) {
            return -ENOMEM;
        }
    }
    bitmap->recording = !name.checkpoint;
    model_link_bitmap(model, drive, STEAL(bitmap));
    model->next_id++;
    return 0;
}

/* Of each drive's history the youngest records. */
static void start_recorders(struct model *model)
{
    struct drive *drive;

    RB_FOREACH (drive, drives_by_id, &model->drives) {
        struct drive_bitmap *youngest = TAILQ_LAST(&drive->history, drive_bitmap_list);
        if (youngest) {
            drive_bitmap_set_recording(youngest, true, false);
        }
    }
}

int rebuild_from_table(struct model *model, struct container *container,
                       const struct container_info *info)
{
    /* Ids are never reused, and the counter is lost: nanoseconds are ahead of any count. */
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    model->next_id = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;

    for (uint32_t i = 0; i < info->bitmaps; i++) {
        struct container_bitmap_info entry;
        container_bitmap_get(container, i, &entry);
        int r = rebuild_bitmap(model, &entry);
        if (r < 0) {
            return r;
        }
    }
    start_recorders(model);
    return 0;
}
