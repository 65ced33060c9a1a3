/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * bitmapd: wiring.
 *
 * Start: options, configuration, model (which blocks, before the loop runs),
 * sockets, READY=1.  End, on SIGTERM or SIGINT: sessions end, the model writes
 * everything back and marks the container clean, STOPPING=1, every handle is
 * closed, the loop runs dry.
 */
#include "daemon/app/app.h"

#include "daemon/base/log.h"
#include "proto/base/cleanup.h"

#include <assert.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-id128.h>

static void model_closed(void *opaque, int r)
{
    struct app *app = opaque;
    notify_work_ends(app);
    (void)sd_notify(0, "STOPPING=1");
    if (r < 0) {
        log_error("the last write-back failed: the container is not marked clean");
        app->exit_status = EXIT_FAILURE;
    } else {
        log_info("stopped cleanly");
    }
    app->model = NULL;
}

static void server_closed(void *opaque)
{
    struct app *app = opaque;
    app->server = NULL;
    model_close(app->model, model_closed, app);
}

static void stop(struct app *app)
{
    if (app->stopping) {
        return;
    }
    app->stopping = true;
    notify_stops(app);
    for (size_t i = 0; i < sizeof app->signals / sizeof app->signals[0]; i++) {
        if (app->signals[i].loop) {
            uv_close((uv_handle_t *)&app->signals[i], NULL);
        }
    }
    server_close(app->server, server_closed, app);
}

static void hup_done(void *opaque, int r, const struct error *error)
{
    /* app_reload() has said it in the log. */
    (void)opaque;
    (void)r;
    (void)error;
}

static void signal_received(uv_signal_t *handle, int number)
{
    struct app *app = handle->data;

    if (number == SIGHUP) {
        app_reload(app, hup_done, NULL);
        return;
    }
    log_info("stopping on SIG%s", sigabbrev_np(number));
    stop(app);
}

static int watch_signals(struct app *app, struct error *error)
{
    static const int numbers[] = {SIGTERM, SIGINT, SIGHUP};

    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        (void)uv_signal_init(&app->loop, &app->signals[i]);
        app->signals[i].data = app;
        int r = uv_signal_start(&app->signals[i], signal_received, numbers[i]);
        if (r < 0) {
            return error_set(error, r, "cannot watch signals: %s", uv_strerror(r));
        }
    }
    return 0;
}

/* The service manager's sockets, or one of our own. */
static int listen_all(struct app *app, struct error *error)
{
    int count = sd_listen_fds(1);
    if (count < 0) {
        return error_set_errno(error, count, "cannot take the sockets passed in");
    }
    if (count > 1) {
        return error_set(error, -EINVAL, "expected one socket to be passed in, got %d", count);
    }
    if (count == 1) {
        if (sd_is_socket_unix(SD_LISTEN_FDS_START, SOCK_STREAM, 1, NULL, 0) <= 0) {
            return error_set(error, -EINVAL,
                             "the socket passed in is not a listening Unix stream socket");
        }
        log_notice("listening on the socket passed in; socket.path, socket.mode and socket.group "
                   "are ignored");
        return server_listen_fd(app->server, SD_LISTEN_FDS_START, error);
    }
    gid_t group;
    int r = settings_group(&app->config, &group, error);
    if (r < 0) {
        return r;
    }
    r = server_listen(app->server, app->config.socket.path, app->config.socket.mode, group, error);
    if (r == 0) {
        log_info("listening on %s", app->config.socket.path);
    }
    return r;
}

static int start(struct app *app, struct error *error)
{
    struct model_settings model_settings;
    struct server_settings server_settings;
    struct server_hooks hooks = {.reload = app_reload, .opaque = app};

    settings_for_model(&app->config, &model_settings);
    sd_id128_t boot_id;
    int r = sd_id128_get_boot(&boot_id);
    if (r < 0) {
        return error_set_errno(error, r, "cannot tell which boot of the host this is");
    }
    memcpy(model_settings.boot_id, boot_id.bytes, sizeof model_settings.boot_id);
    r = model_open(&app->loop, &model_settings, app->options.open_flags, &app->model, error);
    if (r < 0) {
        return r;
    }
    settings_for_server(&app->config, &server_settings);
    r = server_new(&app->loop, app->model, &server_settings, &hooks, &app->server);
    if (r < 0) {
        return error_set(error, r, "cannot make a server: %s", uv_strerror(r));
    }
    r = watch_signals(app, error);
    return r < 0 ? r : listen_all(app, error);
}

static int run(struct app *app)
{
    struct error error = {""};

    char threads[16];
    (void)snprintf(threads, sizeof threads, "%u", SERVER_POOL_THREADS);
    (void)setenv("UV_THREADPOOL_SIZE", threads, 0); /* libuv has no other way to be told */
    int r = uv_loop_init(&app->loop);
    if (r < 0) {
        log_error("cannot make an event loop: %s", uv_strerror(r));
        return EXIT_FAILURE;
    }
    notify_work_begins(app, "Loading bitmaps", false);
    r = start(app, &error);
    notify_work_ends(app);
    if (r < 0) {
        log_error("%s", error.text);
        /* Neither damage nor a newer format goes away by trying again. */
        bool not_understood = !app->model && (r == -EBADMSG || r == -ENOTSUP);
        app->exit_status = not_understood ? EXIT_CONTAINER : EXIT_FAILURE;
        if (app->server) {
            stop(app);
        } else if (app->model) {
            model_close(app->model, model_closed, app);
        }
    } else {
        notify_ready(app);
    }
    (void)uv_run(&app->loop, UV_RUN_DEFAULT);
    r = uv_loop_close(&app->loop);
    assert(r == 0);
    (void)r;
    return app->exit_status;
}

int main(int argc, char **argv)
{
    static struct app app;
    struct error error = {""};

    int status = options_parse(argc, argv, &app.options);
    if (status != 0 || app.options.action == ACTION_EXIT) {
        return status;
    }
    /* A client or a log reader that goes away must not end the daemon. */
    (void)signal(SIGPIPE, SIG_IGN);
    int r = options_read_config(&app.options, &app.config, &error);
    if (r < 0) {
        log_error("%s", error.text);
        return EXIT_CONFIG;
    }
    switch (app.options.action) {
    case ACTION_CHECK_CONFIG:
        break;
    case ACTION_DUMP_CONFIG:
        config_dump(&app.config, stdout);
        status = fflush(stdout) != 0 || ferror(stdout) ? EXIT_FAILURE : EXIT_SUCCESS;
        break;
    default:
        log_set_level((enum log_level)app.config.log.level);
        status = run(&app);
        break;
    }
    config_deinit(&app.config);
    return status;
}
