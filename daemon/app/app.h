/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_APP_APP_H
#define BITMAPD_DAEMON_APP_APP_H

/* Shared by the files of daemon/app only. */

#include "config/config.h"
#include "daemon/drive/model.h"
#include "daemon/server/server.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#define CONFIG_PATH_DEFAULT "/etc/bitmapd/bitmapd.yaml"

/* Exit statuses beside 0 and 1; 65 and 78 are sysexits(3)'s EX_DATAERR and EX_CONFIG. */
#define EXIT_USAGE     2
#define EXIT_CONTAINER 65
#define EXIT_CONFIG    78

/* ---- options.c ---- */

enum options_action {
    ACTION_RUN,
    ACTION_CHECK_CONFIG,
    ACTION_DUMP_CONFIG,
    ACTION_EXIT, /* all is said: --help, --version */
};

struct options {
    enum options_action action;
    const char *state_dir;   /* or NULL */
    const char *config_path; /* or NULL: see options_read_config() */
    unsigned open_flags;     /* enum model_open_flags */
};

/* 0, or an exit status after a line on stderr. */
int options_parse(int argc, char **argv, struct options *ret);

/*
 * The settings that the options lead to: DIR's defaults, the named file, or
 * the system's file if it is there.  May block.  -errno with words.
 */
int options_read_config(const struct options *options, struct config *ret, struct error *error);

/* ---- settings.c: from the configuration to what each layer takes ---- */

void settings_for_model(const struct config *config, struct model_settings *ret);
void settings_for_server(const struct config *config, struct server_settings *ret);
/* The gid of socket.group; (gid_t)-1 when none is named.  -ENOENT with words. */
int settings_group(const struct config *config, gid_t *ret, struct error *error);

/* A thread that tells how far a start or an end has come; notify.c's. */
struct notifier {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool running;
    bool stop;   /* guarded by lock */
    bool ending; /* READY=1 was said: there may be a watchdog */
    uint64_t period_s;
    uint64_t moves; /* when it last told */
};

struct app {
    uv_loop_t loop;
    struct options options;
    struct config config;
    struct model *model;
    struct server *server;
    uv_signal_t signals[3]; /* TERM, INT, HUP */
    bool stopping;
    struct notifier notifier;
    uv_timer_t beat;  /* once ready, under a service manager */
    char status[320]; /* told last */
    unsigned reloads; /* under way */
    bool dead;        /* that a thread is was logged */
    int exit_status;
};

/* ---- notify.c: what the service manager is told; nothing where there is none ---- */

/* From here to the end a thread tells about progress, beginning with @words.  @ending: of a daemon
 * that was ready. */
void notify_work_begins(struct app *app, const char *words, bool ending);
void notify_work_ends(struct app *app);
/* READY=1; from here on the loop pings the watchdog and keeps the status true. */
void notify_ready(struct app *app);
/* The loop tells nothing any more; a thread does, until notify_work_ends(). */
void notify_stops(struct app *app);
void notify_reload_begins(struct app *app);
void notify_reload_ends(struct app *app);

/* ---- reload.c ---- */

/* Reads the configuration off the loop, and takes it as a whole or not at all. */
void app_reload(void *app, server_reload_done *done, void *done_opaque);

#endif
