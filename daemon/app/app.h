/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_APP_APP_H
#define BITMAPD_DAEMON_APP_APP_H

/* Shared by the files of daemon/app only. */

#include "config/config.h"
#include "daemon/drive/model.h"
#include "daemon/server/server.h"

#include <stdbool.h>
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

/* ---- reload.c ---- */

struct app {
    uv_loop_t loop;
    struct options options;
    struct config config;
    struct model *model;
    struct server *server;
    uv_signal_t signals[3]; /* TERM, INT, HUP */
    bool stopping;
    int exit_status;
};

/* Reads the configuration off the loop, and takes it as a whole or not at all. */
void app_reload(void *app, server_reload_done *done, void *done_opaque);

#endif
