/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Retention: the eldest checkpoints of a drive go when they are too many or too old.
 *
 * Only ever the eldest, whose bitmap nobody can ask for once it is gone, so nothing is read or
 * folded; and never the two newest: one records, and the other is the base of whoever made it.
 * Each is an event, since whoever has a base there will have to take a full backup.
 */
#include "daemon/drive/internal.h"

#include "daemon/base/log.h"

#include <stdio.h>

#define LOOK_MS  60000u
#define KEPT_MIN 2u /* the newest, and the base that a map is asked since when it is made */

struct retention {
    struct model *model;
    uv_timer_t timer;
    void (*closed)(struct model *model);
};

/* Why the drive's eldest checkpoint has to go, or NULL. */
static const char *reason_to_prune(const struct model *model, const struct drive *drive,
                                   uint64_t now_ns)
{
    const struct model_settings *settings = &model->settings;
    const struct drive_bitmap *eldest = TAILQ_FIRST(&drive->history);

    if (drive->checkpoints_count <= KEPT_MIN) {
        return NULL;
    }
    if (settings->retention_count > 0 && drive->checkpoints_count > settings->retention_count) {
        return "retention.count";
    }
    uint64_t created_ns = eldest->checkpoint->created_ns;
    if (settings->retention_age_ns > 0 && now_ns > created_ns &&
        now_ns - created_ns > settings->retention_age_ns) {
        return "retention.age";
    }
    return NULL;
}

static bool prune_one(struct model *model, struct drive *drive, const char *why)
{
    const struct drive_bitmap *eldest = TAILQ_FIRST(&drive->history);
    struct record record = {
        .type = RECORD_CHECKPOINT_DELETE, .drive = drive->id, .bitmap = eldest->id};
    struct error error = {""};
    char name[NAME_BYTES_MAX + 1];

    (void)snprintf(name, sizeof name, "%s", eldest->name);
    if (model_commit(model, &record, &error) < 0) {
        log_warning("checkpoint %s of drive %s cannot be pruned now: %s", name, drive->name,
                    error.text);
        return false;
    }
    log_event(LOG_LEVEL_NOTICE, LOG_PRUNED, drive->name, name,
              "drive %s: checkpoint %s was pruned (%s)", drive->name, name, why);
    history_note(model->history, record.sequence, "pruned", drive->name, name, NULL, why);
    return true;
}

void model_enforce_retention(struct model *model)
{
    uint64_t now_ns = (uint64_t)model_wall_clock_ns();
    struct drive *drive;

    if (writeback_refuses(model->writeback)) {
        return;
    }
    RB_FOREACH (drive, drives_by_id, &model->drives) {
        const char *why;
        while ((why = reason_to_prune(model, drive, now_ns)) && prune_one(model, drive, why)) {
        }
    }
}

static void fired(uv_timer_t *timer)
{
    struct retention *retention = timer->data;
    model_enforce_retention(retention->model);
}

int retention_new(struct model *model, struct retention **ret)
{
    struct retention *retention = calloc(1, sizeof *retention);

    if (!retention) {
        return -ENOMEM;
    }
    retention->model = model;
    (void)uv_timer_init(model->loop, &retention->timer);
    retention->timer.data = retention;
    (void)uv_timer_start(&retention->timer, fired, LOOK_MS, LOOK_MS);
    uv_unref((uv_handle_t *)&retention->timer);
    *ret = retention;
    return 0;
}

static void timer_closed(uv_handle_t *handle)
{
    struct retention *retention = handle->data;
    struct model *model = retention->model;
    void (*closed)(struct model * model) = retention->closed;

    free(retention);
    closed(model);
}

void retention_close(struct retention *retention, void (*closed)(struct model *model))
{
    retention->closed = closed;
    uv_close((uv_handle_t *)&retention->timer, timer_closed);
}

static void abandoned(struct model *model)
{
    model->retention = NULL;
}

void retention_abandon(struct retention *retention)
{
    struct model *model = retention->model;

    retention_close(retention, abandoned);
    while (model->retention) {
        (void)uv_run(model->loop, UV_RUN_ONCE);
    }
}
