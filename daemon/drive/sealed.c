/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Bits of sealed bitmaps, which the container has and memory need not.
 *
 * They stay in memory as long as the cache's limit allows, and at least until the container has
 * them.  What needs them again reads them on the container's thread, between write-backs: a record
 * that changes them (a deleted checkpoint, another size) waits for that and is committed then; a
 * map of several does not keep them, but makes their union over there.
 *
 * A sealed bitmap that cannot be read because it is damaged is unknown from then on (a record); one
 * that cannot be read for other reasons is an error, and nothing is lost.
 */
#include "daemon/drive/internal.h"

#include "daemon/base/log.h"
#include "proto/base/checked.h"

#include <stdio.h>
#include <string.h>

int sealed_read(struct container *container, uint64_t id, uint64_t size, uint32_t granularity,
                uint32_t chunk_bytes, struct bitmap **ret, struct error *error)
{
    CLEANUP(bitmap_freep) struct bitmap *bits = NULL;
    CLEANUP(bitmap_loader_deinit) struct bitmap_loader loader = {0};
    struct container_bitmap_info entry;
    uint32_t index;

    if (bitmap_new(size, granularity, chunk_bytes, &bits) < 0) {
        return error_set(error, -ENOMEM, "out of memory");
    }
    if (container_bitmap_find(container, id, &index) < 0) {
        return error_set(error, -EBADMSG, "the container has no entry for it");
    }
    container_bitmap_get(container, index, &entry);
    if (entry.damage) {
        return error_set(error, -EBADMSG, "damaged in the container: %s", entry.damage);
    }
    if (entry.granularity != granularity || entry.sectors != div_round_up(size, 512)) {
        return error_set(error, -EBADMSG, "its entry in the container's table does not fit");
    }
    loader.bitmap = bits;
    for (uint32_t i = 0; i < bitmap_chunks(bits); i++) {
        enum container_cluster_kind kind;
        void *space = bitmap_loader_space(&loader);
        if (!space) {
            return error_set(error, -ENOMEM, "out of memory");
        }
        int r = container_bitmap_read(container, index, i, space, &kind, error);
        if (r < 0) {
            return error_prefix(error, r, "the container");
        }
        if (kind == CONTAINER_ZEROS) {
            continue;
        }
        r = bitmap_loader_take(&loader, i, 0);
        if (r < 0) {
            return error_set(error, r == -ENOMEM ? r : -EBADMSG,
                             "cluster %u cannot be taken: it has bits beyond the drive's end", i);
        }
    }
    *ret = STEAL(bits);
    return 0;
}

/* ---- Who needs what ---- */

static int note_needed(struct model *model, uint64_t id)
{
    if (model->needed_count == model->needed_capacity) {
        uint32_t capacity = model->needed_capacity ? model->needed_capacity * 2 : 16;
        uint64_t *grown = reallocarray(model->needed, capacity, sizeof *grown);
        if (!grown) {
            return -ENOMEM;
        }
        model->needed = grown;
        model->needed_capacity = capacity;
    }
    model->needed[model->needed_count++] = id;
    return 0;
}

/*
 * At the start: what cannot be read is dirty, as in load.c, and the verdict goes with the first
 * commit.  It is this bitmap's; as a failure of the replay it would be everybody's.
 */
static int load_now(struct model *model, struct drive_bitmap *bitmap, struct error *error)
{
    uint32_t chunk_bytes = UINT32_C(1) << model->settings.cluster_bits;
    struct bitmap *bits;
    int r = sealed_read(model->loading, bitmap->id, bitmap->drive->size, bitmap->granularity,
                        chunk_bytes, &bits, error);

    if (r < 0 && r != -ENOMEM) {
        log_warning("checkpoint %s of drive %s: %s", bitmap->name, bitmap->drive->name,
                    error->text);
        if (bitmap_new(bitmap->drive->size, bitmap->granularity, chunk_bytes, &bits) < 0) {
            return error_set(error, -ENOMEM, "out of memory");
        }
        bitmap_set_all(bits, model->sequence + 1);
        bitmap->rewrite = true;
        drive_bitmap_worsen(bitmap, VALIDITY_UNKNOWN, "%s", error->text);
        bitmap->changed = model->sequence + 1;
        r = 0;
    }
    if (r == 0) {
        (void)drive_bitmap_swap_bits(bitmap, bits);
    }
    return r;
}

int sealed_need(struct model *model, struct drive_bitmap *bitmap, struct error *error)
{
    if (bitmap->bits) {
        return 0;
    }
    if (model->replaying) {
        return load_now(model, bitmap, error);
    }
    if (note_needed(model, bitmap->id) < 0) {
        return error_set(error, -ENOMEM, "out of memory");
    }
    return error_set(error, -EAGAIN, "checkpoint '%s' of drive '%s' has to be read first",
                     bitmap->name, bitmap->drive->name);
}

void model_want_nothing(struct model *model)
{
    model->needed_count = 0;
}

int model_want_deleted(struct model *model, struct drive_bitmap *bitmap, struct error *error)
{
    struct drive_bitmap *elder = TAILQ_PREV(bitmap, drive_bitmap_list, in_history);

    if (!elder) {
        return 0;
    }
    int r = sealed_need(model, bitmap, error);
    int r_elder = sealed_need(model, elder, error);
    return r < 0 ? r : r_elder;
}

/* ---- The cache ---- */

static bool is_in_container(const struct drive_bitmap *bitmap)
{
    return bitmap->stored && !bitmap->rewrite && bitmap->changed <= bitmap->committed &&
           bitmap_version(bitmap->bits) <= bitmap->committed;
}

void sealed_evict(struct model *model)
{
    struct drive_bitmap *bitmap, *next;

    if (model->fetches > 0 || model->transaction) {
        return;
    }
    for (bitmap = TAILQ_FIRST(&model->cache);
         bitmap && model->cache_bytes > model->settings.cache_max; bitmap = next) {
        next = TAILQ_NEXT(bitmap, in_cache);
        if (is_in_container(bitmap)) {
            bitmap_free(drive_bitmap_swap_bits(bitmap, NULL));
        }
    }
}

/* ---- Fetching ---- */

struct fetched {
    uint64_t id;
    uint64_t size;
    uint32_t granularity;
    struct bitmap *bits;
    int r;
    struct error error;
};

struct fetch_work {
    struct work work; /* first */
    struct model *model;
    struct model_fetch *fetch; /* NULL: nobody waits any more */
    struct container *container;
    uint32_t chunk_bytes;
    struct fetched *items;
    uint32_t count;
};

static void fetch_free(struct fetch_work *work)
{
    for (uint32_t i = 0; i < work->count; i++) {
        bitmap_free(work->items[i].bits);
    }
    free(work->items);
    free(work);
}

static void fetch_run(struct work *base)
{
    struct fetch_work *work = (struct fetch_work *)base;

    for (uint32_t i = 0; i < work->count; i++) {
        struct fetched *item = &work->items[i];
        item->r = sealed_read(work->container, item->id, item->size, item->granularity,
                              work->chunk_bytes, &item->bits, &item->error);
    }
}

int sealed_distrust(struct model *model, struct drive_bitmap *bitmap, const char *reason,
                    struct error *error)
{
    struct record record = {.type = RECORD_BITMAP_DISTRUST,
                            .drive = bitmap->drive->id,
                            .bitmap = bitmap->id,
                            .name = {reason, (uint32_t)strlen(reason)}};

    if (record.name.bytes > MODEL_REASON_BYTES_MAX) {
        record.name.bytes = MODEL_REASON_BYTES_MAX;
    }
    return model_commit(model, &record, error);
}

/* Whether an id still stands for what was read; the bits of another size would be nonsense. */
static struct drive_bitmap *find_unread(struct model *model, const struct fetched *item)
{
    struct drive_bitmap *bitmap = model_bitmap_by_id(model, item->id);

    return bitmap && !bitmap->bits && bitmap->drive->size == item->size ? bitmap : NULL;
}

static void fetch_done(struct work *base)
{
    struct fetch_work *work = (struct fetch_work *)base;
    struct model_fetch *fetch = work->fetch;
    struct error error = {""};
    int r = 0;

    for (uint32_t i = 0; fetch && i < work->count; i++) {
        struct fetched *item = &work->items[i];
        struct drive_bitmap *bitmap = find_unread(work->model, item);
        if (!bitmap) {
            continue;
        }
        if (item->r == 0) {
            (void)drive_bitmap_swap_bits(bitmap, STEAL(item->bits));
        } else if (item->r == -EBADMSG) {
            int failed = sealed_distrust(work->model, bitmap, item->error.text, &error);
            r = failed < 0 ? failed : r;
        } else {
            r = item->r;
            error = item->error;
        }
    }
    fetch_free(work);
    if (fetch) {
        fetch->work = NULL;
        fetch->done(fetch, r, &error);
    }
}

int model_fetch(struct model *model, struct model_fetch *fetch, struct error *error)
{
    struct fetch_work *work = calloc(1, sizeof *work);

    if (work) {
        work->items = calloc((size_t)model->needed_count + 1, sizeof *work->items);
    }
    if (!work || !work->items) {
        free(work);
        return error_set(error, -ENOMEM, "out of memory");
    }
    work->work.run = fetch_run;
    work->work.done = fetch_done;
    work->model = model;
    work->fetch = fetch;
    work->container = writeback_container(model->writeback);
    work->chunk_bytes = UINT32_C(1) << model->settings.cluster_bits;
    for (uint32_t i = 0; i < model->needed_count; i++) {
        const struct drive_bitmap *bitmap = model_bitmap_by_id(model, model->needed[i]);
        if (bitmap) {
            work->items[work->count++] = (struct fetched){
                .id = bitmap->id, .size = bitmap->drive->size, .granularity = bitmap->granularity};
        }
    }
    fetch->work = work;
    if (!fetch->model) {
        fetch->model = model;
        model->fetches++;
    }
    writeback_run(model->writeback, &work->work);
    return 0;
}

void model_fetch_release(struct model_fetch *fetch)
{
    if (fetch->work) {
        fetch->work->fetch = NULL;
        fetch->work = NULL;
    }
    if (fetch->model) {
        fetch->model->fetches--;
        sealed_evict(fetch->model);
        fetch->model = NULL;
    }
}
