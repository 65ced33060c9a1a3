/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The settings as a whole: defaults, a file read over them, dump and reload.
 *
 * A file is read into a copy that replaces the caller's settings only when
 * every line of it was good, so a daemon that reloads a wrong file goes on
 * exactly as it was.
 */
#include "config/config.h"

#include "config/access.h"
#include "config/document.h"
#include "config/schema.h"

#include "proto/base/cleanup.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int config_init(struct config *config, const char *state_dir)
{
    *config = (struct config){0};
    for (size_t i = 0; i < config_settings_count; i++) {
        const struct setting *setting = &config_settings[i];
        int r;

        if (state_dir && setting->state_file) {
            assert(setting->type == SETTING_PATH);
            char **path = (char **)(void *)((char *)config + setting->offset);
            r = asprintf(path, "%s/%s", state_dir, setting->state_file) < 0 ? -ENOMEM : 0;
            if (r < 0) {
                *path = NULL; /* asprintf() leaves it undefined */
            }
        } else {
            r = setting_store(setting, config, setting->initial[0] ? setting->initial : NULL);
            assert(r == 0 || r == -ENOMEM);
        }
        if (r < 0) {
            return r;
        }
    }
    access_default(&config->access);
    return 0;
}

void config_deinit(struct config *config)
{
    for (size_t i = 0; i < config_settings_count; i++) {
        setting_clear(&config_settings[i], config);
    }
    access_clear(&config->access);
    *config = (struct config){0};
}

/* One pass over a file. */
struct reading {
    const char *name;
    struct config *config;
    size_t setting_lines[SETTINGS_MAX]; /* where each was given, 0 when it was not */
    size_t section_lines[SETTINGS_MAX]; /* the same for sections, by their first setting */
    struct access_reading access;
};

static int error_unknown_key(const struct reading *reading, const struct document_node *node,
                             struct error *error)
{
    char buffer[SETTING_KEY_BYTES];
    const char *meant = setting_nearest(node->path, buffer);
    const char *dot = strchr(node->key, '.');

    if (dot && setting_find(node->path)) {
        return document_error(error, reading->name, node->key_place, node->path,
                              "expected \"%s\" in a mapping \"%.*s\", got a key with a dot",
                              dot + 1, (int)(dot - node->key), node->key);
    }
    return document_error(error, reading->name, node->key_place, node->path,
                          "expected a known key%s%s%s, got \"%s\"", meant ? " (nearest: " : "",
                          meant ? meant : "", meant ? ")" : "", node->key);
}

/* Notes in @line that the node's key stands here; an error when it stood somewhere before. */
static int note_line(const struct reading *reading, const struct document_node *node, size_t *line,
                     struct error *error)
{
    if (*line > 0) {
        return document_error(error, reading->name, node->key_place, node->path,
                              "expected it once, got it again (first on line %zu)", *line);
    }
    *line = node->key_place.line;
    return 0;
}

static int visit_section(struct reading *reading, const struct document_node *node,
                         struct error *error)
{
    const struct setting *first = node->path[0] ? setting_find_section(node->path) : NULL;
    char got[DOCUMENT_GOT_BYTES];

    if (first) {
        int r = note_line(reading, node, &reading->section_lines[first - config_settings], error);
        if (r < 0) {
            return r;
        }
    }
    /* Nothing: a section, or a file, whose every line is a comment. */
    if (node->kind != DOCUMENT_MAPPING && node->kind != DOCUMENT_NOTHING) {
        return document_error(error, reading->name, node->place, node->path,
                              "expected a mapping of settings, got %s", document_got(node, got));
    }
    return 0;
}

static int visit_setting(struct reading *reading, const struct document_node *node,
                         const struct setting *setting, struct error *error)
{
    int r = note_line(reading, node, &reading->setting_lines[setting - config_settings], error);
    if (r < 0) {
        return r;
    }
    r = -EINVAL;
    if (node->kind == DOCUMENT_NOTHING) {
        r = setting_store(setting, reading->config, NULL);
    } else if (node->kind == DOCUMENT_SCALAR && !memchr(node->text, '\0', node->text_bytes)) {
        r = setting_store(setting, reading->config, node->text);
    }
    if (r == -EINVAL) {
        char expected[SETTING_EXPECTED_BYTES], got[DOCUMENT_GOT_BYTES];
        setting_expected(setting, expected);
        return document_error(error, reading->name, node->place, node->path, "expected %s, got %s",
                              expected, document_got(node, got));
    }
    return r < 0 ? error_set_errno(error, r, "%s", reading->name) : 0;
}

static int visit(void *opaque, const struct document_node *node, struct error *error)
{
    struct reading *reading = opaque;
    /* A key with a dot of its own would make a path that looks like a setting's. */
    bool dotted = strchr(node->key, '.') != NULL;
    const struct setting *setting = dotted ? NULL : setting_find(node->path);

    if (access_is_path(node->path) && !dotted) {
        return access_visit(&reading->access, node, error);
    }
    if (setting) {
        return visit_setting(reading, node, setting, error);
    }
    if (node->path[0] == '\0' || (!dotted && setting_find_section(node->path))) {
        return visit_section(reading, node, error);
    }
    return error_unknown_key(reading, node, error);
}

int config_parse(struct config *config, const char *name, const void *text, size_t bytes,
                 struct error *error)
{
    CLEANUP(config_deinit) struct config draft = {0};
    struct reading reading = {
        .name = name,
        .config = &draft,
        .access = {.name = name, .access = &draft.access},
    };

    if (bytes > CONFIG_BYTES_MAX) {
        return error_set(error, -EINVAL, "%s: expected at most %u bytes, got more", name,
                         CONFIG_BYTES_MAX);
    }
    for (size_t i = 0; i < config_settings_count; i++) {
        int r = setting_copy(&config_settings[i], &draft, config);
        if (r < 0) {
            return error_set_errno(error, r, "%s", name);
        }
    }
    int r = document_walk(name, text, bytes, visit, &reading, error);
    if (r == 0) {
        r = access_finish(&reading.access, error);
    }
    if (r < 0) {
        return r;
    }
    /* The rules are one value: those of the file, or what was there before. */
    draft.access.has_default_group = config->access.has_default_group;
    draft.access.default_group = config->access.default_group;
    if (reading.access.line == 0) {
        draft.access = config->access;
        config->access = (struct config_access){0};
    }
    struct config old = *config;
    *config = draft;
    draft = old;
    return 0;
}

int config_read(struct config *config, const char *path, struct error *error)
{
    /* O_NONBLOCK, so that a FIFO under the name cannot hang a reload. */
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    struct stat status;

    if (fd < 0 || fstat(fd, &status) < 0) {
        return error_set_errno(error, -errno, "%s", path);
    }
    if (!S_ISREG(status.st_mode)) {
        return error_set(error, -EINVAL, "%s: expected a regular file", path);
    }
    /* One byte more than may be there, so that growing files are caught too. */
    size_t room = CONFIG_BYTES_MAX + 1, bytes = 0;
    CLEANUP_FREE char *text = malloc(room);
    if (!text) {
        return error_set_errno(error, -ENOMEM, "%s", path);
    }
    while (bytes < room) {
        ssize_t n = read(fd, text + bytes, room - bytes);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return error_set_errno(error, -errno, "%s", path);
        }
        if (n == 0) {
            break;
        }
        bytes += (size_t)n;
    }
    return config_parse(config, path, text, bytes, error);
}

void config_dump(const struct config *config, FILE *out)
{
    const char *section = "";
    size_t section_bytes = 0;

    for (size_t i = 0; i < config_settings_count; i++) {
        const struct setting *setting = &config_settings[i];
        const char *dot = strchr(setting->key, '.');

        if (strncmp(section, setting->key, section_bytes + 1) != 0) {
            fprintf(out, "%s%.*s:\n", i > 0 ? "\n" : "", (int)(dot - setting->key), setting->key);
        }
        section = setting->key;
        section_bytes = (size_t)(dot - setting->key);
        fprintf(out, "  # %s\n  %s:", setting->description, dot + 1);
        setting_print(setting, config, out);
        putc('\n', out);
    }
    access_dump(&config->access, out);
}

int config_check_reload(const struct config *old, const struct config *new, struct error *error)
{
    for (size_t i = 0; i < config_settings_count; i++) {
        const struct setting *setting = &config_settings[i];
        if (!setting->reloadable && !setting_equal(setting, old, new)) {
            return error_set(error, -EINVAL, "%s: expected no change without a restart",
                             setting->key);
        }
    }
    return 0;
}
