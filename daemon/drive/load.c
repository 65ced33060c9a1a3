/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Step 3 of the start: drives, bitmaps and their bits out of the container.
 *
 * Nobody is served yet, so large bitmaps are read by two threads.  What cannot be read is dirty,
 * and its bitmap unknown with the reason; a bitmap whose entry cannot be used at all gets a new
 * one.
 */
#include "daemon/drive/start.h"

#include "daemon/base/log.h"
#include "daemon/base/progress.h"
#include "daemon/base/thread.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* From so many on, two threads read a bitmap.  To make one takes as long as to read one of them. */
#define CLUSTERS_HALVED 64u

void start_unknown(struct drive_bitmap *bitmap, uint64_t sequence, const char *format, ...)
{
    char reason[MODEL_REASON_BYTES_MAX + 1];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(reason, sizeof reason, format, args);
    va_end(args);
    drive_bitmap_worsen(bitmap, VALIDITY_UNKNOWN, "%s", reason);
    bitmap->changed = sequence;
}

void start_unknown_all(struct model *model, uint64_t sequence, const char *reason)
{
    struct drive_bitmap *bitmap;
    RB_FOREACH (bitmap, bitmaps_by_id, &model->bitmaps) {
        start_unknown(bitmap, sequence, "%s", reason);
    }
}

/* Reads chunks [from, to) of one bitmap; what cannot be read is dirty, and the bitmap unknown. */
static int load_chunks(struct container *container, uint32_t index, struct drive_bitmap *bitmap,
                       struct bitmap_loader *loader, uint32_t from, uint32_t to, uint64_t sequence)
{
    for (uint32_t i = from; i < to; i++) {
        enum container_cluster_kind kind;
        struct error error;

        void *space = bitmap_loader_space(loader);
        if (!space) {
            return -ENOMEM;
        }
        int r = container_bitmap_read(container, index, i, space, &kind, &error);
        if (r == 0 && kind == CONTAINER_DATA) {
            r = bitmap_loader_take(loader, i, 0);
            if (r == -ENOMEM) {
                return r;
            }
            if (r < 0) {
                error_set(&error, r, "cluster %u has bits beyond the drive's end", i);
            }
        }
        if (r < 0) {
            log_warning("bitmap %s/%s: %s", bitmap->drive->name, bitmap->name, error.text);
            bitmap->rewrite = true;
            start_unknown(bitmap, sequence, "damaged in the container: %s", error.text);
            uint64_t span =
                (uint64_t)bitmap_chunk_bytes(bitmap->bits) * 8 * bitmap_granularity(bitmap->bits);
            uint64_t offset = i * span;
            uint64_t left = bitmap->drive->size - offset;
            bitmap_set(bitmap->bits, offset, left < span ? left : span, sequence);
        }
    }
    return 0;
}

/*
 * The upper half of a large bitmap, which a second thread reads into a bitmap of its own, up to the
 * first thing that is wrong: from there on, and so whatever there is to be said of it, it is the
 * first thread's.
 */
struct half {
    const struct container *container;
    uint32_t index;
    uint32_t from, to; /* chunks */
    uint32_t done;     /* up to here */
    struct bitmap *bits;
    pthread_t thread;
};

static void *half_run(void *opaque)
{
    struct half *half = opaque;
    CLEANUP(bitmap_loader_deinit) struct bitmap_loader loader = {.bitmap = half->bits};

    for (; half->done < half->to; half->done++) {
        enum container_cluster_kind kind;
        void *space = bitmap_loader_space(&loader);
        if (!space ||
            !container_bitmap_try(half->container, half->index, half->done, space, &kind) ||
            (kind == CONTAINER_DATA && bitmap_loader_take(&loader, half->done, 0) < 0)) {
            break;
        }
    }
    return NULL;
}

/* Whether there is a second thread now. */
static bool half_begin(struct half *half, const struct drive_bitmap *bitmap, uint32_t clusters)
{
    if (clusters < CLUSTERS_HALVED || !container_can_try(half->container) ||
        bitmap_new(bitmap->drive->size, bitmap->granularity, bitmap_chunk_bytes(bitmap->bits),
                   &half->bits) < 0) {
        return false;
    }
    if (thread_start(&half->thread, "load", half_run, half) < 0) {
        bitmap_free(half->bits);
        return false;
    }
    return true;
}

static void half_end(struct half *half, struct drive_bitmap *bitmap)
{
    (void)pthread_join(half->thread, NULL);
    bitmap_move_chunks(bitmap->bits, half->bits, half->from, half->done);
    bitmap_free(half->bits);
}

static int load_bits(struct container *container, uint32_t index, struct drive_bitmap *bitmap,
                     uint32_t clusters, uint64_t sequence)
{
    uint32_t chunks = bitmap_chunks(bitmap->bits), middle = chunks / 2;
    struct half half = {
        .container = container, .index = index, .from = middle, .to = chunks, .done = middle};
    CLEANUP(bitmap_loader_deinit) struct bitmap_loader loader = {.bitmap = bitmap->bits};

    bool halved = half_begin(&half, bitmap, clusters);
    int r = load_chunks(container, index, bitmap, &loader, 0, middle, sequence);
    if (halved) {
        half_end(&half, bitmap);
    }
    return r < 0 ? r : load_chunks(container, index, bitmap, &loader, half.done, chunks, sequence);
}

/* A sealed bitmap has none yet, and needs some that say that all is dirty. */
static int ensure_bits(struct model *model, struct drive_bitmap *bitmap)
{
    struct bitmap *bits;

    if (bitmap->bits) {
        return 0;
    }
    int r = bitmap_new(bitmap->drive->size, bitmap->granularity,
                       UINT32_C(1) << model->settings.cluster_bits, &bits);
    if (r == 0) {
        (void)drive_bitmap_swap_bits(bitmap, bits);
    }
    return r;
}

/*
 * A bitmap whose entry cannot be used as a whole gets a new entry; the first
 * commit removes the old one.
 */
static void replace_entry(struct model *model, struct drive_bitmap *bitmap, uint32_t index,
                          uint64_t sequence)
{
    model->replaced[model->replaced_count++] =
        (struct replaced_entry){.index = index, .id = bitmap->id};
    bitmap_set_all(bitmap->bits, sequence);
}

/* The new entries get new ids, after a replay that still knows the bitmaps by their old ones. */
void start_rename_replaced(struct model *model)
{
    for (uint32_t i = 0; i < model->replaced_count; i++) {
        struct drive_bitmap *bitmap = model_bitmap_by_id(model, model->replaced[i].id);
        if (bitmap) {
            struct drive *drive = bitmap->drive;
            model_unlink_bitmap(model, bitmap);
            bitmap->id = model->next_id++;
            model_link_bitmap(model, drive, bitmap);
        }
    }
}

static int load_bitmap(struct model *model, struct container *container,
                       struct drive_bitmap *bitmap, uint64_t sequence)
{
    struct container_bitmap_info entry;
    char name[BITMAP_FULL_NAME_BYTES];
    uint32_t index;

    if (container_bitmap_find(container, bitmap->id, &index) < 0) {
        if (ensure_bits(model, bitmap) < 0) {
            return -ENOMEM;
        }
        bitmap_set_all(bitmap->bits, sequence);
        start_unknown(bitmap, sequence, "the container has no entry for it");
        return 0;
    }
    container_bitmap_get(container, index, &entry);
    drive_bitmap_full_name(bitmap, name);
    bool fits = strcmp(entry.name, name) == 0 && entry.granularity == bitmap->granularity &&
                entry.sectors == (bitmap->drive->size + 511) / 512;
    if ((entry.damage || !fits) && ensure_bits(model, bitmap) < 0) {
        return -ENOMEM;
    }
    if (entry.damage) {
        log_warning("bitmap %s: %s", name, entry.damage);
        start_unknown(bitmap, sequence, "damaged in the container: %s", entry.damage);
        replace_entry(model, bitmap, index, sequence);
        return 0;
    }
    if (!fits) {
        start_unknown(bitmap, sequence,
                      "its entry in the container's table does not fit its state");
        replace_entry(model, bitmap, index, sequence);
        return 0;
    }
    bitmap->stored = true;
    bitmap->committed = sequence - 1;
    if (!bitmap->bits) {
        return 0; /* sealed: read when somebody asks */
    }
    return load_bits(container, index, bitmap, entry.allocated_clusters, sequence);
}

/*
 * Entries that the model does not know by their ids.  One under a name of ours
 * is what a damaged state left of that bitmap: the first commit replaces it.
 * The others belong to somebody else; their names are taken.
 */
static int sort_entries(struct model *model, struct container *container,
                        const struct container_info *info)
{
    model->foreign_names = calloc((size_t)info->bitmaps + 1, sizeof *model->foreign_names);
    model->replaced = calloc((size_t)info->bitmaps + 1, sizeof *model->replaced);
    if (!model->foreign_names || !model->replaced) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < info->bitmaps; i++) {
        struct container_bitmap_info entry;
        container_bitmap_get(container, i, &entry);
        if (entry.id != 0 && model_bitmap_by_id(model, entry.id)) {
            continue;
        }
        if (model_bitmap_by_entry(model, (struct text){entry.name, entry.name_bytes})) {
            model->replaced[model->replaced_count++] =
                (struct replaced_entry){.index = i, .id = entry.id};
            continue;
        }
        char *name = strdup(entry.name);
        if (!name) {
            return -ENOMEM;
        }
        model->foreign_names[model->foreign_count++] = name;
    }
    model_sort_foreign_names(model);
    return 0;
}

int start_load(struct model *model, struct container *container, const struct container_info *info,
               uint64_t sequence, struct error *error)
{
    int r = sort_entries(model, container, info);

    struct drive_bitmap *bitmap;
    RB_FOREACH (bitmap, bitmaps_by_id, &model->bitmaps) {
        if (r == 0) {
            progress_pieces(1);
            r = load_bitmap(model, container, bitmap, sequence);
        }
    }
    return r < 0 ? error_set_errno(error, r, "cannot load the bitmaps") : 0;
}

/* Drives and bitmaps as the payload tells, or, when it is damaged, as far as the table tells. */
int start_load_state(struct model *model, struct container *container,
                     const struct container_info *info, char damage[], struct error *error)
{
    const void *payload;
    size_t payload_bytes;
    struct error why = {""};

    memcpy(damage, info->state_damage, sizeof info->state_damage);
    container_state(container, &payload, &payload_bytes);
    int r = payload_bytes ? state_decode(model, payload, payload_bytes, &why) : 0;
    if (r == -ENOMEM || r == -ENOTSUP) {
        return error_set(error, r, "%s", why.text);
    }
    if (r < 0) {
        (void)snprintf(damage, sizeof info->state_damage, "%.255s", why.text);
    }
    if (r < 0 || (payload_bytes == 0 && damage[0])) {
        log_error("container %s: %s; drives and bitmaps are made anew from the bitmap table, "
                  "drives without bitmaps are lost, all others are unknown and may need a resize",
                  model->container_path, damage);
        model_clear(model);
        r = rebuild_from_table(model, container, info);
        if (r < 0) {
            return error_set_errno(error, r, "cannot make the drives anew");
        }
    } else if (damage[0]) {
        log_error("container %s: %s; all bitmaps are unknown", model->container_path, damage);
    }
    return 0;
}
