/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Drives and bitmaps from the container's bitmap table alone.
 *
 * When the state payload is lost, the table still has names, granularities and
 * sizes in sectors.  That is enough to go on recording: each bitmap is made
 * anew as recording, and the caller makes it unknown.  What the table does not
 * know is gone: drives without bitmaps, exact sizes (they are rounded up to
 * sectors, which a `drive resize` mends), paths, writers, requests.
 */
#include "daemon/drive/internal.h"

#include "proto/base/checked.h"

#include <string.h>
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

static int rebuild_bitmap(struct model *model, const struct container_bitmap_info *entry)
{
    size_t drive_bytes;
    uint64_t size;

    if (name_split(entry->name, entry->name_bytes, &drive_bytes, NULL) < 0 ||
        !checked_mul_u64(entry->sectors, 512, &size) || size == 0 || size > INT64_MAX ||
        !bitmap_geometry_valid(size, entry->granularity)) {
        return 0; /* not an entry of ours */
    }
    struct text drive_name = {entry->name, (uint32_t)drive_bytes};
    struct text name = {entry->name + drive_bytes + 1,
                        entry->name_bytes - (uint32_t)drive_bytes - 1};
    struct drive *drive;
    int r = find_or_make_drive(model, drive_name, size, &drive);
    if (r < 0 || drive_bitmap_by_name(drive, name) ||
        !bitmap_geometry_valid(drive->size, entry->granularity)) {
        return r;
    }
    struct bitmap *bits;
    r = bitmap_new(drive->size, entry->granularity, UINT32_C(1) << model->settings.cluster_bits,
                   &bits);
    if (r < 0) {
        return r;
    }
    struct drive_bitmap *bitmap;
    r = drive_bitmap_new(model->next_id, name, bits, &bitmap);
    if (r < 0) {
        bitmap_free(bits);
        return r;
    }
    bitmap->recording = true;
    model_link_bitmap(model, drive, bitmap);
    model->next_id++;
    return 0;
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
    return 0;
}
