/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Waits for fetches and unions as a server does, and takes images of a model.
 */
#include "tests/drive/past.h"

#include "daemon/drive/internal.h"

#include <stdio.h>
#include <string.h>

struct fetching {
    struct model_fetch fetch; /* first */
    bool done;
    int r;
    struct error error;
};

static void fetched(struct model_fetch *fetch, int r, const struct error *error)
{
    struct fetching *fetching = (struct fetching *)fetch;

    assert_false(fetching->done);
    assert_null(fetch->work);
    fetching->done = true;
    fetching->r = r;
    fetching->error = *error;
}

static int fetch_once(struct harness *harness, struct fetching *fetching)
{
    fetching->fetch.done = fetched;
    fetching->done = false;
    int r = model_fetch(harness->model, &fetching->fetch, &harness->error);
    if (r < 0) {
        return r;
    }
    while (!fetching->done) {
        (void)uv_run(&harness->loop, UV_RUN_ONCE);
    }
    if (fetching->r < 0) {
        harness->error = fetching->error;
    }
    return fetching->r;
}

int past_fetch(struct harness *harness, struct model_fetch *fetch)
{
    struct fetching fetching = {.fetch = *fetch};
    int r = fetch_once(harness, &fetching);

    *fetch = fetching.fetch;
    return r;
}

int past_commit_only(struct harness *harness, struct record *record)
{
    struct fetching fetching = {.r = 0};
    int r = model_commit(harness->model, record, &harness->error);

    for (unsigned i = 0; r == -EAGAIN && i < 2; i++) {
        r = fetch_once(harness, &fetching);
        if (r == 0) {
            r = model_commit(harness->model, record, &harness->error);
        }
    }
    model_fetch_release(&fetching.fetch);
    return r;
}

int past_commit(struct harness *harness, struct record *record)
{
    int r = past_commit_only(harness, record);
    return r < 0 ? r : harness_wait(harness, record->sequence, ACK_DURABLE);
}

int past_try_create(struct harness *harness, const char *drive, const char *name)
{
    static uint32_t count;
    struct record record = {.type = RECORD_CHECKPOINT_CREATE,
                            .drive = harness_drive(harness, drive)->id,
                            .name = text_of(name),
                            .uuid = {0xc4},
                            .created_ns = (uint64_t)model_wall_clock_ns()};

    count++;
    memcpy(record.uuid + 1, &count, sizeof count);
    return past_commit(harness, &record);
}

uint64_t past_create(struct harness *harness, const char *drive, const char *name)
{
    if (past_try_create(harness, drive, name) < 0) {
        fail_msg("checkpoint create: %s", harness->error.text);
    }
    return model_sequence(harness->model);
}

int past_try_delete(struct harness *harness, const char *drive, const char *name)
{
    const struct drive_bitmap *bitmap = past_find(harness, drive, name);
    assert_non_null(bitmap);
    struct record record = {
        .type = RECORD_CHECKPOINT_DELETE, .drive = bitmap->drive->id, .bitmap = bitmap->id};
    return past_commit(harness, &record);
}

void past_delete(struct harness *harness, const char *drive, const char *name)
{
    if (past_try_delete(harness, drive, name) < 0) {
        fail_msg("checkpoint delete: %s", harness->error.text);
    }
    assert_null(past_find(harness, drive, name));
}

struct drive_bitmap *past_find(struct harness *harness, const char *drive, const char *name)
{
    return model_checkpoint_by_name(harness_drive(harness, drive), text_of(name), &harness->error);
}

struct uniting {
    struct model_union request; /* first */
    bool done;
    int r;
    struct error error;
};

static void united(struct model_union *request, int r, const struct error *error)
{
    struct uniting *uniting = (struct uniting *)request;

    assert_false(uniting->done);
    assert_null(request->work);
    uniting->done = true;
    uniting->r = r;
    uniting->error = *error;
}

int past_union(struct harness *harness, const char *drive, const char *since, const char *until,
               struct model_union *ret)
{
    struct uniting uniting = {.request = {.done = united}};
    const struct drive_bitmap *first = past_find(harness, drive, since);
    const struct drive_bitmap *end = until ? past_find(harness, drive, until) : NULL;

    assert_non_null(first);
    assert_true(!until || end);
    int r = model_union(harness->model, first, end, &uniting.request, &harness->error);
    if (r < 0) {
        return r;
    }
    while (!uniting.done) {
        (void)uv_run(&harness->loop, UV_RUN_ONCE);
    }
    if (uniting.r < 0) {
        harness->error = uniting.error;
        return uniting.r;
    }
    assert_int_equal(bitmap_granularity(uniting.request.bits), uniting.request.granularity);
    assert_int_equal(bitmap_size_bytes(uniting.request.bits), uniting.request.size);
    *ret = uniting.request;
    return 0;
}

static void must_union(struct harness *harness, const char *drive, const char *since,
                       const char *until, struct model_union *ret)
{
    if (past_union(harness, drive, since, until, ret) < 0) {
        fail_msg("union: %s", harness->error.text);
    }
}

bool past_is_dirty(struct harness *harness, const char *drive, const char *since, uint64_t offset)
{
    struct model_union map;
    must_union(harness, drive, since, NULL, &map);
    bool dirty = bitmap_test_all(map.bits, offset, 1);
    bitmap_free(map.bits);
    return dirty;
}

uint64_t past_dirty_bytes(struct harness *harness, const char *drive, const char *since,
                          const char *until)
{
    struct model_union map;
    must_union(harness, drive, since, until, &map);
    uint64_t bytes = bitmap_dirty_bytes(map.bits);
    bitmap_free(map.bits);
    return bytes;
}

enum validity past_validity(struct harness *harness, const char *drive, const char *since)
{
    struct model_union map;
    must_union(harness, drive, since, NULL, &map);
    assert_int_equal(map.validity == VALIDITY_EXACT, map.reason[0] == '\0');
    if (map.validity == VALIDITY_UNKNOWN) {
        assert_int_equal(bitmap_dirty_bytes(map.bits), map.size);
    }
    bitmap_free(map.bits);
    return map.validity;
}

void past_flush(struct harness *harness)
{
    assert_int_equal(harness_wait(harness, model_sequence(harness->model), ACK_CONTAINER), 0);
}

void past_restart(struct harness *harness)
{
    assert_int_equal(harness_close(harness), 0);
    harness_open(harness);
}

static void shell(const char *format, const char *directory)
{
    char command[1024];
    const char *d = directory;

    assert_true((size_t)snprintf(command, sizeof command, format, d, d, d, d, d, d, d) <
                sizeof command);
    assert_int_equal(system(command), 0);
}

void past_crash_begin(struct harness *harness)
{
    assert_int_equal(harness_wait(harness, model_sequence(harness->model), ACK_DURABLE), 0);
    /* Not the catalog: that is another thread's, and no answer depends on it. */
    shell("mkdir %s.crashed && cp %s/bitmaps.qcow2 %s/journal.* %s.crashed", harness->directory);
}

void past_crash_take(struct harness *harness)
{
    shell("cat %s.crashed/bitmaps.qcow2 > %s/bitmaps.qcow2 && rm -f %s/journal.* && "
          "cp %s.crashed/journal.* %s && rm -r %s.crashed",
          harness->directory);
}

void past_crash_end(struct harness *harness)
{
    assert_int_equal(harness_close(harness), 0);
    past_crash_take(harness);
    harness_open(harness);
}

void past_crash(struct harness *harness)
{
    past_crash_begin(harness);
    past_crash_end(harness);
}

void past_reboot(struct harness *harness)
{
    harness->settings.boot_id[1]++;
}

struct writer *past_attach(struct harness *harness, const char *drive,
                           const struct writer_attachment *how)
{
    struct writer *writer;
    uint64_t sequence;
    bool resuming;

    if (writer_attach(harness->model, harness_drive(harness, drive), how, &writer, &sequence,
                      &resuming, &harness->error) < 0) {
        fail_msg("attach: %s", harness->error.text);
    }
    assert_int_equal(harness_wait(harness, sequence, ACK_DURABLE), 0);
    return writer;
}

void past_detach(struct harness *harness, struct writer *writer, const char *evidence)
{
    uint64_t sequence;
    if (writer_detach(harness->model, writer, NULL, text_of(evidence), &sequence, &harness->error) <
        0) {
        fail_msg("detach: %s", harness->error.text);
    }
    assert_int_equal(harness_wait(harness, sequence, ACK_DURABLE), 0);
}

void past_mark(struct harness *harness, struct writer *writer, uint64_t id, uint64_t offset,
               uint64_t length)
{
    struct range range = {offset, length};
    uint64_t sequence;
    if (writer_mark(harness->model, writer, id, &range, 1, &sequence, &harness->error) < 0) {
        fail_msg("mark: %s", harness->error.text);
    }
    assert_int_equal(harness_wait(harness, sequence, ACK_DURABLE), 0);
}

void past_fence(struct harness *harness, const char *drive, const char *token)
{
    struct record record = {
        .type = RECORD_FENCE, .drive = harness_drive(harness, drive)->id, .name = text_of(token)};
    assert_int_equal(harness_commit(harness, &record), 0);
}

/* ---- Images ---- */

static void append(struct past_image *image, const void *bytes, size_t length)
{
    image->bytes = realloc(image->bytes, image->length + length + 1);
    assert_non_null(image->bytes);
    if (length > 0) {
        memcpy(image->bytes + image->length, bytes, length);
    }
    image->length += length;
}

static void append_number(struct past_image *image, uint64_t number)
{
    append(image, &number, sizeof number);
}

static void append_bits(struct past_image *image, const struct bitmap *bits)
{
    for (uint32_t i = 0; i < bitmap_chunks(bits); i++) {
        struct bitmap_chunk_view view;
        bitmap_chunk(bits, i, &view);
        append_number(image, view.kind);
        append_number(image, view.version);
        if (view.kind == BITMAP_DENSE) {
            append(image, view.bits, view.length_bytes);
        }
    }
}

void past_image_take(struct harness *harness, struct past_image *ret)
{
    struct model *model = harness->model;
    struct drive_bitmap *bitmap;
    struct drive *drive;

    *ret = (struct past_image){0};
    assert_int_equal(state_encode(model, &ret->bytes, &ret->length), 0);
    append_number(ret, model->sequence);
    append_number(ret, model->next_id);
    append_number(ret, model->bitmaps_count);
    append_number(ret, model->unknown_count);
    append_number(ret, model->bits_bytes);
    append_number(ret, model->cache_bytes);
    append_number(ret, model->requests_count);
    TAILQ_FOREACH (bitmap, &model->removed, recording_entry) {
        append_number(ret, bitmap->id);
    }
    RB_FOREACH (drive, drives_by_id, &model->drives) {
        append_number(ret, drive->bitmaps_count);
        append_number(ret, drive->checkpoints_count);
        append_number(ret, drive->recording_count);
        append_number(ret, drive->ungapped);
        append_number(ret, drive->writers_count);
    }
    RB_FOREACH (bitmap, bitmaps_by_id, &model->bitmaps) {
        append_number(ret, bitmap->changed);
        append_number(ret, bitmap->committed);
        append_number(ret, bitmap->stored);
        append_number(ret, bitmap->rewrite);
        append_number(ret, bitmap->bits != NULL);
        if (bitmap->bits) {
            append_bits(ret, bitmap->bits);
        }
    }
}

void past_image_free(struct past_image *image)
{
    free(image->bytes);
    *image = (struct past_image){0};
}

void past_check_books(struct model *model)
{
    struct drive *drive;

    RB_FOREACH (drive, drives_by_id, &model->drives) {
        uint32_t all = 0, recording = 0, history = 0;
        const struct drive_bitmap *bitmap;
        TAILQ_FOREACH (bitmap, &drive->all, of_drive) {
            assert_ptr_equal(bitmap->drive, drive);
            all++;
        }
        TAILQ_FOREACH (bitmap, &drive->recording, recording_entry) {
            assert_true(bitmap->recording && bitmap->drive == drive);
            recording++;
        }
        TAILQ_FOREACH (bitmap, &drive->history, in_history) {
            assert_int_equal(bitmap->recording, !TAILQ_NEXT(bitmap, in_history));
            history++;
        }
        assert_int_equal(all, drive->bitmaps_count + drive->checkpoints_count);
        assert_int_equal(recording, drive->recording_count);
        assert_int_equal(history, drive->checkpoints_count);
    }
    uint64_t cached = 0;
    const struct drive_bitmap *bitmap;
    TAILQ_FOREACH (bitmap, &model->cache, in_cache) {
        assert_true(drive_bitmap_is_sealed(bitmap) && bitmap->bits);
        cached += bitmap->cached_bytes;
    }
    assert_int_equal(cached, model->cache_bytes);
}

void past_image_check(struct harness *harness, const struct past_image *image)
{
    struct past_image now;

    past_check_books(harness->model);
    past_image_take(harness, &now);
    assert_int_equal(now.length, image->length);
    assert_memory_equal(now.bytes, image->bytes, image->length);
    past_image_free(&now);
}
