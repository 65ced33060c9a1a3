/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Names: how drives, bitmaps and checkpoints are found by them, and what the container calls them.
 *
 * A bitmap of the user's is DRIVE/NAME there, a checkpoint's DRIVE@SEQUENCE.NAME; since no name
 * holds an '@', neither is ever mistaken for the other.
 */
#include "daemon/drive/internal.h"

#include "proto/base/checked.h"
#include "proto/base/checkpoint_ref.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct drive_bitmap *drive_bitmap_by_name(struct drive *drive, struct text name)
{
    struct drive_bitmap key;
    return name_store(key.name, name) ? RB_FIND(drive_bitmap_names, &drive->bitmaps, &key) : NULL;
}

void drive_bitmap_full_name(const struct drive_bitmap *bitmap, char buffer[BITMAP_FULL_NAME_BYTES])
{
    if (bitmap->checkpoint) {
        (void)snprintf(buffer, BITMAP_FULL_NAME_BYTES, "%s@%" PRIu64 ".%s", bitmap->drive->name,
                       bitmap->checkpoint->sequence, bitmap->name);
    } else {
        (void)snprintf(buffer, BITMAP_FULL_NAME_BYTES, "%s/%s", bitmap->drive->name, bitmap->name);
    }
}

int checkpoint_name_split(struct text full, uint32_t *ret_drive_bytes, uint64_t *ret_sequence,
                          uint32_t *ret_name_offset)
{
    const char *at = full.bytes ? memchr(full.data, '@', full.bytes) : NULL;
    uint64_t sequence = 0;

    if (!at) {
        return -EINVAL;
    }
    const char *p = at + 1, *end = full.data + full.bytes;
    for (; p < end && *p >= '0' && *p <= '9'; p++) {
        if (!checked_mul_u64(sequence, 10, &sequence) ||
            !checked_add_u64(sequence, (uint64_t)(*p - '0'), &sequence)) {
            return -EINVAL;
        }
    }
    if (p == at + 1 || p == end || *p != '.' ||
        name_check(NAME_DRIVE, full.data, (size_t)(at - full.data), NULL) < 0 ||
        name_check(NAME_BITMAP, p + 1, (size_t)(end - p - 1), NULL) < 0) {
        return -EINVAL;
    }
    *ret_drive_bytes = (uint32_t)(at - full.data);
    *ret_sequence = sequence;
    *ret_name_offset = (uint32_t)(p + 1 - full.data);
    return 0;
}

struct drive_bitmap *model_bitmap_by_entry(struct model *model, struct text full)
{
    uint32_t drive_bytes, name_offset;
    uint64_t sequence;

    if (checkpoint_name_split(full, &drive_bytes, &sequence, &name_offset) < 0) {
        return model_bitmap_by_name(model, full, NULL);
    }
    struct drive *drive = model_drive_by_name(model, (struct text){full.data, drive_bytes}, NULL);
    struct text name = {full.data + name_offset, full.bytes - name_offset};
    struct drive_bitmap *bitmap = drive ? model_checkpoint_by_name(drive, name, NULL) : NULL;
    return bitmap && bitmap->checkpoint->sequence == sequence ? bitmap : NULL;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

void model_sort_foreign_names(struct model *model)
{
    if (model->foreign_count > 0) {
        qsort(model->foreign_names, model->foreign_count, sizeof *model->foreign_names,
              compare_names);
    }
}

bool model_name_is_foreign(const struct model *model, const char *full)
{
    return model->foreign_count > 0 && bsearch(&full, model->foreign_names, model->foreign_count,
                                               sizeof *model->foreign_names, compare_names) != NULL;
}

struct drive *model_drive_by_name(struct model *model, struct text name, struct error *error)
{
    struct error why = {""};
    struct drive key;

    /* Only a sound name is repeated in an error's text. */
    if (name_check(NAME_DRIVE, name.data, name.bytes, &why) < 0) {
        error_set(error, -ENOENT, "no such drive: %s", why.text);
        return NULL;
    }
    (void)name_store(key.name, name);
    struct drive *drive = RB_FIND(drives_by_name, &model->drive_names, &key);
    if (!drive) {
        error_set(error, -ENOENT, "no drive named '%s'", key.name);
    }
    return drive;
}

struct drive *model_drive_by_id(struct model *model, uint64_t id)
{
    struct drive key; /* much larger than what is looked at */
    key.id = id;
    return RB_FIND(drives_by_id, &model->drives, &key);
}

struct drive_bitmap *model_bitmap_by_id(struct model *model, uint64_t id)
{
    struct drive_bitmap key;
    key.id = id;
    return RB_FIND(bitmaps_by_id, &model->bitmaps, &key);
}

struct drive_bitmap *model_bitmap_by_name(struct model *model, struct text full,
                                          struct error *error)
{
    size_t drive_bytes;

    if (name_split(full.data, full.bytes, &drive_bytes, error) < 0) {
        return NULL;
    }
    struct text drive_name = {full.data, (uint32_t)drive_bytes};
    struct text name = {full.data + drive_bytes + 1, full.bytes - (uint32_t)drive_bytes - 1};
    struct drive *drive = model_drive_by_name(model, drive_name, error);
    if (!drive) {
        return NULL;
    }
    struct drive_bitmap *bitmap = drive_bitmap_by_name(drive, name);
    if (!bitmap) {
        error_set(error, -ENOENT, "drive '%s' has no bitmap named '%.*s'", drive->name,
                  (int)name.bytes, name.data);
    }
    return bitmap;
}

struct drive_bitmap *model_checkpoint_by_name(struct drive *drive, struct text name,
                                              struct error *error)
{
    struct checkpoint_ref ref;
    struct error why = {""};

    if (checkpoint_ref_parse(name.data, name.bytes, &ref, &why) < 0) {
        error_set(error, -ENOENT, "no such checkpoint: %s", why.text);
        return NULL;
    }
    size_t bytes = ref.name_bytes;
    struct drive_bitmap *bitmap;
    TAILQ_FOREACH (bitmap, &drive->history, in_history) {
        if (strlen(bitmap->name) == bytes && memcmp(bitmap->name, name.data, bytes) == 0) {
            break;
        }
    }
    if (!bitmap) {
        error_set(error, -ENOENT, "drive '%s' has no checkpoint named '%.*s'", drive->name,
                  (int)bytes, name.data);
    } else if (ref.has_uuid && memcmp(bitmap->checkpoint->uuid, ref.uuid, sizeof ref.uuid) != 0) {
        error_set(error, -ENOENT, "checkpoint '%s' of drive '%s' is another one by now than '%.*s'",
                  bitmap->name, drive->name, (int)name.bytes, name.data);
        return NULL;
    }
    return bitmap;
}
