/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading the configuration again, for SIGHUP and the RELOAD operation.  The
 * file is read on libuv's pool; what it says is taken as a whole or not at
 * all, on the loop.
 */
#include "daemon/app/app.h"

#include "daemon/base/log.h"
#include "daemon/base/pool.h"
#include "proto/base/cleanup.h"

struct reload {
    uv_work_t work;
    struct app *app;
    struct config config;
    int r;
    struct error error;
    server_reload_done *done;
    void *done_opaque;
};

static void reload_read(uv_work_t *work)
{
    struct reload *reload = work->data;
    reload->r = options_read_config(&reload->app->options, &reload->config, &reload->error);
}

static void take(struct app *app, struct config *config)
{
    struct model_settings model_settings;
    struct server_settings server_settings;

    /* What is borrowed of the old one is let go of below, before it is freed. */
    struct config old = app->config;
    app->config = *config;
    *config = old;
    log_set_level((enum log_level)app->config.log.level);
    settings_for_model(&app->config, &model_settings);
    model_configure(app->model, &model_settings);
    settings_for_server(&app->config, &server_settings);
    server_configure(app->server, &server_settings);
}

static void reload_done(uv_work_t *work, int status)
{
    struct reload *reload = work->data;
    struct app *app = reload->app;
    (void)status; /* never cancelled */

    if (app->stopping) {
        reload->r = error_set(&reload->error, -ESHUTDOWN, "bitmapd is stopping");
    }
    if (reload->r == 0) {
        reload->r = config_check_reload(&app->config, &reload->config, &reload->error);
    }
    if (reload->r == 0) {
        take(app, &reload->config);
        log_info("configuration reloaded");
    } else {
        log_error("reload: %s; the configuration stays as it is", reload->error.text);
    }
    notify_reload_ends(app);
    reload->done(reload->done_opaque, reload->r, &reload->error);
    config_deinit(&reload->config);
    free(reload);
}

void app_reload(void *opaque, server_reload_done *done, void *done_opaque)
{
    struct app *app = opaque;
    struct reload *reload = calloc(1, sizeof *reload);
    struct error error;

    if (!reload) {
        done(done_opaque, error_set(&error, -ENOMEM, "out of memory"), &error);
        return;
    }
    reload->app = app;
    reload->done = done;
    reload->done_opaque = done_opaque;
    reload->work.data = reload;
    int r = pool_submit(&app->loop, &reload->work, reload_read, reload_done);
    if (r == 0) {
        notify_reload_begins(app);
    } else {
        free(reload);
        done(done_opaque, error_set(&error, r, "cannot reload: %s", uv_strerror(r)), &error);
    }
}
