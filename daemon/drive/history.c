/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bridge between the event loop and the catalog's thread.
 *
 * Events are copied into a batch; one batch at a time is on the worker, and
 * the next one gathers meanwhile.  A batch waits a moment before it goes there:
 * what it tells of is about to be committed and answered, and processors may be
 * few.  The catalog is opened by the first batch, so that a slow disk does not
 * delay the start.  A catalog that fails is reported once and tried again with
 * the next batch.
 */
#include "daemon/drive/history.h"

#include "daemon/base/log.h"
#include "daemon/base/worker.h"
#include "daemon/catalog/catalog.h"
#include "proto/base/cleanup.h"

#include <string.h>
#include <time.h>

#define GATHER_MS 50u

struct batch {
    struct work work;
    struct history *history;
    struct catalog_event *events;
    uint32_t count, capacity;
    int r;
    struct error error;
    char set_aside[4096];
};

struct history {
    struct worker worker;
    uv_timer_t timer;
    char *path;
    uint32_t events_max;
    struct catalog *catalog; /* worker's thread */
    struct batch *gathering; /* NULL: none */
    struct batch *running;
    uint64_t dropped;
    bool failing;
    void (*closed)(void *opaque);
    void *opaque;
};

static void batch_free(struct batch *batch)
{
    if (!batch) {
        return;
    }
    for (uint32_t i = 0; i < batch->count; i++) {
        free((void *)(uintptr_t)batch->events[i].kind);
    }
    free(batch->events);
    free(batch);
}

int history_new(uv_loop_t *loop, const char *path, uint32_t events_max, struct history **ret)
{
    if (!path) {
        *ret = NULL;
        return 0;
    }
    CLEANUP_FREE struct history *history = calloc(1, sizeof *history);
    CLEANUP_FREE char *copy = strdup(path);
    if (!history || !copy) {
        return -ENOMEM;
    }
    history->events_max = events_max;
    int r = worker_init(&history->worker, loop, "catalog");
    if (r < 0) {
        return r;
    }
    (void)uv_timer_init(loop, &history->timer); /* cannot fail */
    history->timer.data = history;
    history->path = STEAL(copy);
    *ret = STEAL(history);
    return 0;
}

static void batch_run(struct work *work)
{
    struct batch *batch = (struct batch *)work;
    struct history *history = batch->history;

    if (!history->catalog) {
        batch->r = catalog_open(history->path, history->events_max, &history->catalog,
                                batch->set_aside, &batch->error);
        if (batch->r < 0) {
            return;
        }
    }
    batch->r = catalog_append(history->catalog, batch->events, batch->count, &batch->error);
    if (batch->r < 0) {
        catalog_close(history->catalog);
        history->catalog = NULL;
    }
}

static void batch_submit(struct history *history);

static void batch_done(struct work *work)
{
    struct batch *batch = (struct batch *)work;
    struct history *history = batch->history;

    if (batch->set_aside[0]) {
        log_warning("catalog %s was damaged: moved to %s, history begins anew", history->path,
                    batch->set_aside);
    }
    if (batch->r < 0) {
        history->dropped += batch->count;
        if (!history->failing) {
            log_warning("%s; history is not kept", batch->error.text);
        }
    } else if (history->failing) {
        log_notice("catalog %s works again; %llu events were dropped", history->path,
                   (unsigned long long)history->dropped);
        history->dropped = 0;
    }
    history->failing = batch->r < 0;
    history->running = NULL;
    batch_free(batch);
    if (!uv_is_active((uv_handle_t *)&history->timer)) {
        batch_submit(history);
    }
}

static void batch_submit(struct history *history)
{
    if (!history->running && history->gathering) {
        history->running = STEAL(history->gathering);
        history->running->work.run = batch_run;
        history->running->work.done = batch_done;
        worker_submit(&history->worker, &history->running->work);
    }
}

static void on_timer(uv_timer_t *timer)
{
    batch_submit(timer->data);
}

/* Copies @text behind @cursor; NULL stays NULL. */
static const char *pack(char **cursor, const char *text)
{
    if (!text) {
        return NULL;
    }
    char *start = *cursor;
    *cursor = stpcpy(start, text) + 1;
    return start;
}

static size_t packed_bytes(const char *text)
{
    return text ? strlen(text) + 1 : 0;
}

static int batch_add(struct batch *batch, const struct catalog_event *event)
{
    if (batch->count == batch->capacity) {
        uint32_t capacity = batch->capacity ? batch->capacity * 2 : 16;
        struct catalog_event *events = reallocarray(batch->events, capacity, sizeof *batch->events);
        if (!events) {
            return -ENOMEM;
        }
        batch->events = events;
        batch->capacity = capacity;
    }
    /* One allocation for all strings; it begins with the kind, which is never NULL. */
    char *cursor = malloc(packed_bytes(event->kind) + packed_bytes(event->drive) +
                          packed_bytes(event->bitmap) + packed_bytes(event->peer) +
                          packed_bytes(event->detail));
    if (!cursor) {
        return -ENOMEM;
    }
    struct catalog_event *copy = &batch->events[batch->count++];
    *copy = *event;
    copy->kind = pack(&cursor, event->kind);
    copy->drive = pack(&cursor, event->drive);
    copy->bitmap = pack(&cursor, event->bitmap);
    copy->peer = pack(&cursor, event->peer);
    copy->detail = pack(&cursor, event->detail);
    return 0;
}

void history_note(struct history *history, uint64_t sequence, const char *kind, const char *drive,
                  const char *bitmap, const char *peer, const char *detail)
{
    if (!history) {
        return;
    }
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    struct catalog_event event = {
        .time_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec,
        .sequence = sequence,
        .kind = kind,
        .drive = drive,
        .bitmap = bitmap,
        .peer = peer,
        .detail = detail,
    };
    if (!history->gathering) {
        history->gathering = calloc(1, sizeof *history->gathering);
        if (history->gathering) {
            history->gathering->history = history;
            (void)uv_timer_start(&history->timer, on_timer, GATHER_MS, 0);
        }
    }
    struct batch *batch = history->gathering;
    if (!batch || batch->count >= HISTORY_QUEUE_MAX || batch_add(batch, &event) < 0) {
        history->dropped++;
    } else if (batch->count == HISTORY_QUEUE_MAX / 2) {
        batch_submit(history);
    }
}

bool history_is_alive(struct history *history)
{
    return !history || history->closed || worker_is_alive(&history->worker);
}

static void worker_closed(struct worker *worker)
{
    struct history *history = (struct history *)worker;
    void (*closed)(void *opaque) = history->closed;
    void *opaque = history->opaque;

    /* The thread is gone, so its catalog is ours to close. */
    catalog_close(history->catalog);
    batch_free(history->gathering);
    free(history->path);
    free(history);
    closed(opaque);
}

static void on_timer_closed(uv_handle_t *timer)
{
    struct history *history = timer->data;

    batch_submit(history);
    worker_close(&history->worker, worker_closed);
}

void history_close(struct history *history, void (*closed)(void *opaque), void *opaque)
{
    if (!history) {
        closed(opaque);
        return;
    }
    history->closed = closed;
    history->opaque = opaque;
    uv_close((uv_handle_t *)&history->timer, on_timer_closed);
}
