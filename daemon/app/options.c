/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The command line, and which configuration it leads to.
 */
#include "daemon/app/app.h"

#include "proto/base/cleanup.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static const char help[] =
    "Usage: bitmapd [OPTION]...\n"
    "Keep persistent dirty bitmaps of raw drives in a qcow2 container.\n"
    "\n"
    "  --state-dir DIR   keep everything in DIR: bitmapd.sock, bitmaps.qcow2,\n"
    "                    journal.0, journal.1, catalog.sqlite3; no config file is read\n"
    "  --config FILE     read FILE (default: " CONFIG_PATH_DEFAULT ", if present);\n"
    "                    with --state-dir too, that only supplies default paths\n"
    "  --check-config    check the configuration, then exit\n"
    "  --dump-config     print the configuration with all defaults, then exit\n"
    "  --accept-copy     trust a container that was copied or restored\n"
    "  --distrust        start with every bitmap unknown\n"
    "  --version         print the version, then exit\n"
    "  --help            print this, then exit\n"
    "\n"
    "Runs in the foreground and logs to standard error.  SIGTERM and SIGINT write\n"
    "everything back and exit; SIGHUP reads the configuration again.\n"
    "Exit status: 0, 1 failed while running, 2 usage, 65 container not understood,\n"
    "78 configuration.\n";

enum {
    OPTION_STATE_DIR = 256,
    OPTION_CONFIG,
    OPTION_CHECK_CONFIG,
    OPTION_DUMP_CONFIG,
    OPTION_ACCEPT_COPY,
    OPTION_DISTRUST,
    OPTION_VERSION,
    OPTION_HELP,
};

int options_parse(int argc, char **argv, struct options *ret)
{
    static const struct option long_options[] = {
        {"state-dir", required_argument, NULL, OPTION_STATE_DIR},
        {"config", required_argument, NULL, OPTION_CONFIG},
        {"check-config", no_argument, NULL, OPTION_CHECK_CONFIG},
        {"dump-config", no_argument, NULL, OPTION_DUMP_CONFIG},
        {"accept-copy", no_argument, NULL, OPTION_ACCEPT_COPY},
        {"distrust", no_argument, NULL, OPTION_DISTRUST},
        {"version", no_argument, NULL, OPTION_VERSION},
        {"help", no_argument, NULL, OPTION_HELP},
        {NULL, 0, NULL, 0},
    };
    struct options options = {.action = ACTION_RUN};
    int option;

    while ((option = getopt_long(argc, argv, "", long_options, NULL)) >= 0) {
        switch (option) {
        case OPTION_STATE_DIR:
            options.state_dir = optarg;
            break;
        case OPTION_CONFIG:
            options.config_path = optarg;
            break;
        case OPTION_CHECK_CONFIG:
            options.action = ACTION_CHECK_CONFIG;
            break;
        case OPTION_DUMP_CONFIG:
            options.action = ACTION_DUMP_CONFIG;
            break;
        case OPTION_ACCEPT_COPY:
            options.open_flags |= MODEL_ACCEPT_COPY;
            break;
        case OPTION_DISTRUST:
            options.open_flags |= MODEL_DISTRUST;
            break;
        case OPTION_VERSION:
            options.action = ACTION_EXIT;
            *ret = options;
            return puts("bitmapd " BITMAPD_VERSION) < 0 || fflush(stdout) != 0;
        case OPTION_HELP:
            options.action = ACTION_EXIT;
            *ret = options;
            return fputs(help, stdout) < 0 || fflush(stdout) != 0;
        default:
            (void)fputs("Try 'bitmapd --help'.\n", stderr);
            return EXIT_USAGE;
        }
    }
    if (optind < argc) {
        (void)fprintf(stderr, "bitmapd: unexpected argument '%s'\nTry 'bitmapd --help'.\n",
                      argv[optind]);
        return EXIT_USAGE;
    }
    if (options.state_dir && options.state_dir[0] == '\0') {
        (void)fputs("bitmapd: --state-dir needs a directory\n", stderr);
        return EXIT_USAGE;
    }
    *ret = options;
    return 0;
}

/* The directory as an absolute path, since the daemon may leave its working directory. */
static int resolve_state_dir(const char *state_dir, bool make, char **ret, struct error *error)
{
    if (make && mkdir(state_dir, 0700) < 0 && errno != EEXIST) {
        return error_set_errno(error, -errno, "cannot make the state directory '%s'", state_dir);
    }
    char *path = realpath(state_dir, NULL);
    struct stat st;
    if (!path || stat(path, &st) < 0) {
        int r = -errno;
        free(path);
        return error_set_errno(error, r, "state directory '%s'", state_dir);
    }
    if (!S_ISDIR(st.st_mode)) {
        free(path);
        return error_set(error, -ENOTDIR, "'%s' is not a directory", state_dir);
    }
    *ret = path;
    return 0;
}

/*
 * An instance's state directory is no tmpfs, but the runtime directory that the service manager
 * made for it is: there its memory journal is, unless the file says otherwise.
 */
static int use_runtime_directory(const struct options *options, struct config *config)
{
    const char *directory = getenv("RUNTIME_DIRECTORY");
    char *path;

    /* Several would be separated by colons. */
    if (!options->state_dir || !directory || directory[0] != '/' || strchr(directory, ':')) {
        return 0;
    }
    if (asprintf(&path, "%s/journal", directory) < 0) {
        return -ENOMEM;
    }
    free(config->journal.memory_path);
    config->journal.memory_path = path;
    return 0;
}

int options_read_config(const struct options *options, struct config *ret, struct error *error)
{
    CLEANUP_FREE char *state_dir = NULL;
    CLEANUP(config_deinit) struct config config = {0};
    const char *path = options->config_path;
    int r;

    if (options->state_dir) {
        r = resolve_state_dir(options->state_dir, options->action == ACTION_RUN, &state_dir, error);
        if (r < 0) {
            return r;
        }
    } else if (!path && access(CONFIG_PATH_DEFAULT, F_OK) == 0) {
        path = CONFIG_PATH_DEFAULT;
    }
    r = config_init(&config, state_dir);
    if (r < 0) {
        return error_set_errno(error, r, "cannot make a configuration");
    }
    r = use_runtime_directory(options, &config);
    if (r < 0) {
        return error_set_errno(error, r, "cannot make a configuration");
    }
    if (path) {
        r = config_read(&config, path, error);
        if (r < 0) {
            return r;
        }
    }
    *ret = config;
    memset(&config, 0, sizeof config);
    return 0;
}
