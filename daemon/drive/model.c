/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The model's objects and the trees they stand in.
 *
 * Invariants: every drive is in both drive trees, every bitmap in the model's
 * tree by id and in its drive's by name, and in its drive's recording list
 * exactly while it records; the counters agree with the trees.  Entering and
 * leaving never allocates, so that applying a record cannot fail.
 */
#include "daemon/drive/journaling.h"

#include "proto/base/checked.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define SUMS_MS 100u

static int compare_u64(uint64_t a, uint64_t b)
{
    return a < b ? -1 : a > b;
}

static int drive_compare_id(const struct drive *a, const struct drive *b)
{
    return compare_u64(a->id, b->id);
}

static int drive_compare_name(const struct drive *a, const struct drive *b)
{
    return strcmp(a->name, b->name);
}

static int drive_bitmap_compare_id(const struct drive_bitmap *a, const struct drive_bitmap *b)
{
    return compare_u64(a->id, b->id);
}

static int drive_bitmap_compare_name(const struct drive_bitmap *a, const struct drive_bitmap *b)
{
    return strcmp(a->name, b->name);
}

static int request_compare(const struct request_result *a, const struct request_result *b)
{
    return memcmp(a->id.bytes, b->id.bytes, sizeof a->id.bytes);
}

RB_GENERATE(drives_by_id, drive, by_id, drive_compare_id)
RB_GENERATE(drives_by_name, drive, by_name, drive_compare_name)
RB_GENERATE(bitmaps_by_id, drive_bitmap, by_id, drive_bitmap_compare_id)
RB_GENERATE(drive_bitmap_names, drive_bitmap, by_name, drive_bitmap_compare_name)
RB_GENERATE(requests_by_id, request_result, by_id, request_compare)

bool name_store(char name[NAME_BYTES_MAX + 1], struct text text)
{
    if (text.bytes > NAME_BYTES_MAX || (text.bytes && memchr(text.data, '\0', text.bytes))) {
        return false;
    }
    if (text.bytes) {
        memcpy(name, text.data, text.bytes);
    }
    name[text.bytes] = '\0';
    return true;
}

int drive_new(uint64_t id, struct text name, struct text path, struct drive **ret)
{
    CLEANUP(drive_freep) struct drive *drive = calloc(1, sizeof *drive);
    if (!drive) {
        return -ENOMEM;
    }
    RB_INIT(&drive->bitmaps);
    TAILQ_INIT(&drive->all);
    TAILQ_INIT(&drive->history);
    TAILQ_INIT(&drive->recording);
    TAILQ_INIT(&drive->writers);
    drive->id = id;
    if (!name_store(drive->name, name)) {
        return -EINVAL;
    }
    if (path.bytes) {
        drive->path = strndup(path.data, path.bytes);
        if (!drive->path) {
            return -ENOMEM;
        }
    }
    *ret = STEAL(drive);
    return 0;
}

void drive_free(struct drive *drive)
{
    if (drive) {
        free(drive->path);
        free(drive->identity);
        free(drive->evidence);
        free(drive);
    }
}

int drive_bitmap_new(uint64_t id, struct text name, uint32_t granularity, struct bitmap *bits,
                     struct drive_bitmap **ret)
{
    CLEANUP_FREE struct drive_bitmap *bitmap = calloc(1, sizeof *bitmap);
    if (!bitmap) {
        return -ENOMEM;
    }
    bitmap->id = id;
    if (!name_store(bitmap->name, name)) {
        return -EINVAL;
    }
    bitmap->granularity = granularity;
    bitmap->bits = bits;
    *ret = STEAL(bitmap);
    return 0;
}

void drive_bitmap_free(struct drive_bitmap *bitmap)
{
    if (bitmap) {
        bitmap_free(bitmap->bits);
        free(bitmap->checkpoint);
        free(bitmap);
    }
}

/* Of @gap being false: the next mark makes one. */
static bool is_ungapped(const struct drive_bitmap *bitmap)
{
    return !bitmap->recording && !bitmap->gap && !bitmap->checkpoint;
}

/*
 * A bitmap comes into the books or goes out of them: those of its drive's recording ones, of the
 * bits that are in memory for good, and of the cache.
 */
static void book(struct model *model, struct drive *drive, struct drive_bitmap *bitmap, bool in)
{
    drive->ungapped += is_ungapped(bitmap) ? (in ? 1 : -1u) : 0;
    if (bitmap->recording && in) {
        TAILQ_INSERT_TAIL(&drive->recording, bitmap, recording_entry);
        drive->recording_count++;
    } else if (bitmap->recording) {
        TAILQ_REMOVE(&drive->recording, bitmap, recording_entry);
        drive->recording_count--;
    }
    if (!drive_bitmap_is_sealed(bitmap)) {
        uint64_t bytes = drive_bits_bytes(drive->size, bitmap->granularity);
        model->bits_bytes += in ? bytes : -bytes;
    } else if (bitmap->bits && in) {
        bitmap->cached_bytes = bitmap_memory_bytes(bitmap->bits);
        model->cache_bytes += bitmap->cached_bytes;
        TAILQ_INSERT_TAIL(&model->cache, bitmap, in_cache);
    } else if (bitmap->bits) {
        model->cache_bytes -= bitmap->cached_bytes;
        TAILQ_REMOVE(&model->cache, bitmap, in_cache);
    }
}

void model_link_drive(struct model *model, struct drive *drive)
{
    RB_INSERT(drives_by_id, &model->drives, drive);
    RB_INSERT(drives_by_name, &model->drive_names, drive);
    model->drives_count++;
}

void model_unlink_drive(struct model *model, struct drive *drive)
{
    RB_REMOVE(drives_by_id, &model->drives, drive);
    RB_REMOVE(drives_by_name, &model->drive_names, drive);
    model->drives_count--;
}

void model_link_bitmap(struct model *model, struct drive *drive, struct drive_bitmap *bitmap)
{
    bitmap->model = model;
    bitmap->drive = drive;
    model->unknown_count += bitmap->validity == VALIDITY_UNKNOWN;
    RB_INSERT(bitmaps_by_id, &model->bitmaps, bitmap);
    TAILQ_INSERT_TAIL(&drive->all, bitmap, of_drive);
    model->bitmaps_count++;
    if (bitmap->checkpoint) {
        /* By sequence; nearly always the youngest. */
        struct drive_bitmap *elder = TAILQ_LAST(&drive->history, drive_bitmap_list);
        while (elder && elder->checkpoint->sequence > bitmap->checkpoint->sequence) {
            elder = TAILQ_PREV(elder, drive_bitmap_list, in_history);
        }
        if (elder) {
            TAILQ_INSERT_AFTER(&drive->history, elder, bitmap, in_history);
        } else {
            TAILQ_INSERT_HEAD(&drive->history, bitmap, in_history);
        }
        drive->checkpoints_count++;
    } else {
        RB_INSERT(drive_bitmap_names, &drive->bitmaps, bitmap);
        drive->bitmaps_count++;
    }
    book(model, drive, bitmap, true);
}

void model_unlink_bitmap(struct model *model, struct drive_bitmap *bitmap)
{
    struct drive *drive = bitmap->drive;

    book(model, drive, bitmap, false);
    model->unknown_count -= bitmap->validity == VALIDITY_UNKNOWN;
    bitmap->model = NULL;
    model->bitmaps_count--;
    RB_REMOVE(bitmaps_by_id, &model->bitmaps, bitmap);
    TAILQ_REMOVE(&drive->all, bitmap, of_drive);
    if (bitmap->checkpoint) {
        TAILQ_REMOVE(&drive->history, bitmap, in_history);
        drive->checkpoints_count--;
    } else {
        RB_REMOVE(drive_bitmap_names, &drive->bitmaps, bitmap);
        drive->bitmaps_count--;
    }
}

void drive_bitmap_set_recording(struct drive_bitmap *bitmap, bool recording, bool gap)
{
    book(bitmap->model, bitmap->drive, bitmap, false);
    bitmap->recording = recording;
    bitmap->gap = gap;
    book(bitmap->model, bitmap->drive, bitmap, true);
}

struct bitmap *drive_bitmap_swap_bits(struct drive_bitmap *bitmap, struct bitmap *bits)
{
    struct bitmap *old = bitmap->bits;

    book(bitmap->model, bitmap->drive, bitmap, false);
    if (old && !bits) {
        bitmap->dirty_count = bitmap_count(old);
        bitmap->dirty_bytes = bitmap_dirty_bytes(old);
    }
    bitmap->bits = bits;
    book(bitmap->model, bitmap->drive, bitmap, true);
    return old;
}

static void set_validity(struct drive_bitmap *bitmap, enum validity validity, const char *format,
                         va_list args)
{
    if (bitmap->model) {
        bitmap->model->unknown_count -= bitmap->validity == VALIDITY_UNKNOWN;
        bitmap->model->unknown_count += validity == VALIDITY_UNKNOWN;
    }
    bitmap->validity = validity;
    bitmap->reason[0] = '\0';
    if (validity != VALIDITY_EXACT) {
        (void)vsnprintf(bitmap->reason, sizeof bitmap->reason, format, args);
    }
}

void drive_bitmap_set_validity(struct drive_bitmap *bitmap, enum validity validity,
                               const char *format, ...)
{
    va_list args;
    va_start(args, format);
    set_validity(bitmap, validity, format, args);
    va_end(args);
}

void drive_bitmap_worsen(struct drive_bitmap *bitmap, enum validity validity, const char *format,
                         ...)
{
    if (validity > bitmap->validity) {
        va_list args;
        va_start(args, format);
        set_validity(bitmap, validity, format, args);
        va_end(args);
    }
}

void drive_bitmap_distrust(struct drive_bitmap *bitmap, uint64_t sequence, const char *reason)
{
    if (bitmap->recording) {
        drive_bitmap_worsen(bitmap, VALIDITY_UNKNOWN, "%s", reason);
    } else if (bitmap->checkpoint) {
        return; /* it was sealed before whatever is in doubt */
    } else if (!bitmap->gap) {
        drive_bitmap_set_recording(bitmap, false, true);
    }
    bitmap->changed = sequence;
}

uint64_t drive_bits_bytes(uint64_t size, uint32_t granularity)
{
    return div_round_up(div_round_up(size, granularity), 8);
}

struct drive *model_drive_after(struct model *model, uint64_t after)
{
    struct drive key = {.id = after + 1};
    return after == UINT64_MAX ? NULL : RB_NFIND(drives_by_id, &model->drives, &key);
}

struct drive_bitmap *model_bitmap_after(struct model *model, uint64_t after)
{
    struct drive_bitmap key;
    key.id = after + 1;
    return after == UINT64_MAX ? NULL : RB_NFIND(bitmaps_by_id, &model->bitmaps, &key);
}

const struct request_result *model_request_find(struct model *model, const struct request_id *id)
{
    struct request_result key = {.id = *id};
    return RB_FIND(requests_by_id, &model->requests, &key);
}

void model_request_add(struct model *model, struct request_result *result)
{
    if (RB_INSERT(requests_by_id, &model->requests, result)) {
        free(result);
        return;
    }
    TAILQ_INSERT_TAIL(&model->requests_order, result, entry);
    model->requests_count++;
    if (model->requests_count > MODEL_REQUESTS_MAX) {
        struct request_result *oldest = TAILQ_FIRST(&model->requests_order);
        RB_REMOVE(requests_by_id, &model->requests, oldest);
        TAILQ_REMOVE(&model->requests_order, oldest, entry);
        model->requests_count--;
        free(oldest);
    }
}

uint64_t drive_bitmap_dirty_count(const struct drive_bitmap *bitmap)
{
    if (bitmap->validity == VALIDITY_UNKNOWN) {
        return div_round_up(bitmap->drive->size, bitmap->granularity);
    }
    return bitmap->bits ? bitmap_count(bitmap->bits) : bitmap->dirty_count;
}

uint64_t drive_bitmap_dirty_bytes(const struct drive_bitmap *bitmap)
{
    if (bitmap->validity == VALIDITY_UNKNOWN) {
        return bitmap->drive->size;
    }
    return bitmap->bits ? bitmap_dirty_bytes(bitmap->bits) : bitmap->dirty_bytes;
}

int drive_bitmap_map(const struct drive_bitmap *bitmap, struct bitmap **ret)
{
    if (bitmap->validity != VALIDITY_UNKNOWN) {
        return bitmap_snapshot(bitmap->bits, ret);
    }
    struct bitmap *all;
    int r = bitmap_new(bitmap_size_bytes(bitmap->bits), bitmap_granularity(bitmap->bits),
                       bitmap_chunk_bytes(bitmap->bits), &all);
    if (r < 0) {
        return r;
    }
    bitmap_set_all(all, 0);
    *ret = all;
    return 0;
}

const struct model_settings *model_get_settings(const struct model *model)
{
    return &model->settings;
}

uint64_t model_sequence(const struct model *model)
{
    return model->sequence;
}

void model_note(struct model *model, const char *kind, const char *drive, const char *peer,
                const char *detail)
{
    history_note(model->history, 0, kind, drive, NULL, peer, detail);
}

uint64_t model_last_id(const struct model *model)
{
    return model->next_id - 1;
}

const uint8_t *model_container_uuid(const struct model *model)
{
    return writeback_container_uuid(model->writeback);
}

void model_express(struct model *model)
{
    journaling_express(model->journaling);
}

const char *model_degraded_reason(const struct model *model)
{
    const char *reason = writeback_degraded_reason(model->writeback);
    return reason[0] ? reason : journaling_degraded_reason(model->journaling);
}

int64_t model_wall_clock_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * INT64_C(1000000000) + (int64_t)now.tv_nsec;
}

/* The sums look at every chunk, so they are not made anew for each who asks. */
static void sum_up(struct model *model)
{
    uint64_t now_ms = uv_hrtime() / 1000000;
    if (now_ms < model->sums_until_ms) {
        return;
    }
    model->sums_until_ms = now_ms + SUMS_MS;
    model->dirty_memory_bytes = writeback_changed_bytes(model->writeback);
    model->memory_bytes = 0;
    struct drive_bitmap *bitmap;
    RB_FOREACH (bitmap, bitmaps_by_id, &model->bitmaps) {
        model->memory_bytes += bitmap->bits ? bitmap_memory_bytes(bitmap->bits) : 0;
    }
}

void model_get_status(struct model *model, struct model_status *ret)
{
    sum_up(model);
    *ret = (struct model_status){
        .container_path = model->container_path,
        .sequence = model->sequence,
        .drives = model->drives_count,
        .bitmaps = model->bitmaps_count,
        .marks = model->marks,
        .container_uuid = model_container_uuid(model),
        .degraded_reason = model_degraded_reason(model),
        .start_report = model->start_report,
        .unknown_bitmaps = model->unknown_count,
        .memory_bytes = model->memory_bytes,
        .dirty_memory_bytes = model->dirty_memory_bytes,
    };
    writeback_get_status(model->writeback, ret);
    if (ret->degraded_since_ns == 0) {
        ret->degraded_since_ns = journaling_degraded_since_ns(model->journaling);
    }
}

bool model_is_alive(struct model *model)
{
    bool container = writeback_is_alive(model->writeback);
    bool journal = journaling_is_alive(model->journaling);
    return history_is_alive(model->history) && container && journal;
}

void model_clear(struct model *model)
{
    struct drive_bitmap *bitmap, *next_bitmap;
    RB_FOREACH_SAFE (bitmap, bitmaps_by_id, &model->bitmaps, next_bitmap) {
        model_unlink_bitmap(model, bitmap);
        drive_bitmap_free(bitmap);
    }
    struct drive *drive, *next_drive;
    RB_FOREACH_SAFE (drive, drives_by_id, &model->drives, next_drive) {
        struct writer *writer;
        while ((writer = TAILQ_FIRST(&drive->writers))) {
            drive_remove_writer(drive, writer);
            writer_free(writer);
        }
        model_unlink_drive(model, drive);
        drive_free(drive);
    }
    struct request_result *result;
    while ((result = TAILQ_FIRST(&model->requests_order))) {
        RB_REMOVE(requests_by_id, &model->requests, result);
        TAILQ_REMOVE(&model->requests_order, result, entry);
        free(result);
    }
    model->requests_count = 0;
    while ((bitmap = TAILQ_FIRST(&model->removed))) {
        TAILQ_REMOVE(&model->removed, bitmap, recording_entry);
        drive_bitmap_free(bitmap);
    }
}

void model_free(struct model *model)
{
    if (!model) {
        return;
    }
    model_clear(model);
    for (uint32_t i = 0; i < model->foreign_count; i++) {
        free(model->foreign_names[i]);
    }
    free(model->foreign_names);
    free(model->replaced);
    free(model->needed);
    writeback_free(model->writeback);
    journaling_free(model->journaling);
    free(model->container_path);
    free(model->journal_path);
    free(model->memory_path);
    free(model);
}
