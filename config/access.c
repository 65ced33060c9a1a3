/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rules of who may do what, from YAML's lists.
 *
 *     access:
 *       - group: libvirt
 *         rights: [track, read]
 *         drives: [vm-*]
 *
 * A rule is whole only when its mapping has ended, which the walk does not
 * say: what it lacks is noticed when the next one begins, or the document
 * ends.  Names become numbers here, once, so that a decision later needs no
 * look-up that could block or fail.
 */
#include "config/access.h"

#include "config/schema.h"

#include "proto/base/cleanup.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WHO_BYTES_MAX       255u
#define LOOKUP_BYTES_MIN    4096u
#define LOOKUP_BYTES_MAX    (UINT32_C(16) << 20) /* of one entry of the user or group database */
#define ADMIN_GROUP_DEFAULT "bitmapd"

enum rule_key {
    RULE_USER,
    RULE_GROUP,
    RULE_RIGHTS,
    RULE_DRIVES
};
static const char *const rule_keys[] = {"user", "group", "rights", "drives"};

static void rule_clear(struct access_rule *rule)
{
    for (uint32_t i = 0; i < rule->drives_count; i++) {
        free(rule->drives[i]);
    }
    free(rule->drives);
    free(rule->who);
    *rule = (struct access_rule){0};
}

void access_clear(struct config_access *access)
{
    for (uint32_t i = 0; i < access->rules_count; i++) {
        rule_clear(&access->rules[i]);
    }
    free(access->rules);
    *access = (struct config_access){0};
}

/* ---- Users and groups ---- */

/* 0, -ENOENT when there is none of that name, or -errno of the look-up. */
static int find_id(const char *name, bool group, uint32_t *ret)
{
    for (size_t room = LOOKUP_BYTES_MIN; room <= LOOKUP_BYTES_MAX; room *= 2) {
        CLEANUP_FREE char *buffer = malloc(room);
        struct passwd passwd, *user = NULL;
        struct group entry, *found = NULL;
        if (!buffer) {
            return -ENOMEM;
        }
        int r = group ? getgrnam_r(name, &entry, buffer, room, &found)
                      : getpwnam_r(name, &passwd, buffer, room, &user);
        if (r == ERANGE) {
            continue;
        }
        if (found || user) {
            *ret = group ? found->gr_gid : user->pw_uid;
            return 0;
        }
        /* getpwnam(3) lists what "not found" may look like. */
        return r == 0 || r == ENOENT || r == ESRCH || r == EBADF || r == EPERM ? -ENOENT : -r;
    }
    return -ERANGE;
}

/* A number as it stands; (uint32_t)-1 is nobody's. */
static int parse_id(const char *text, uint32_t *ret)
{
    char *end;
    if (text[0] < '0' || text[0] > '9') {
        return -EINVAL;
    }
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno != 0 || *end != '\0' || value >= UINT32_MAX) {
        return -EINVAL;
    }
    *ret = (uint32_t)value;
    return 0;
}

void access_default(struct config_access *access)
{
    access->has_default_group = find_id(ADMIN_GROUP_DEFAULT, true, &access->default_group) == 0;
}

/* ---- Reading ---- */

static struct access_rule *last_rule(const struct access_reading *reading)
{
    return &reading->access->rules[reading->access->rules_count - 1];
}

/* What the rule lacks, once it has ended. */
static int check_rule(const struct access_reading *reading, struct error *error)
{
    if (reading->access->rules_count == 0) {
        return 0;
    }
    const struct access_rule *rule = last_rule(reading);
    if (!rule->who) {
        return document_error(error, reading->name, reading->rule_place, "access",
                              "expected a rule with a user or a group, got one without");
    }
    if (reading->lines[RULE_RIGHTS] == 0) {
        return document_error(error, reading->name, reading->rule_place, "access",
                              "expected a rule with rights, got one without");
    }
    if (rule->rights == 0) {
        return document_error(error, reading->name, reading->rights_place, "access.rights",
                              "expected at least one right, got an empty list");
    }
    if (reading->lines[RULE_DRIVES] > 0 && rule->drives_count == 0) {
        return document_error(error, reading->name, reading->drives_place, "access.drives",
                              "expected at least one pattern, got an empty list");
    }
    return 0;
}

static int begin_rule(struct access_reading *reading, const struct document_node *node,
                      struct error *error)
{
    struct config_access *access = reading->access;
    char got[DOCUMENT_GOT_BYTES];

    int r = check_rule(reading, error);
    if (r < 0) {
        return r;
    }
    if (node->kind != DOCUMENT_MAPPING) {
        return document_error(error, reading->name, node->place, node->path,
                              "expected a mapping of user or group, rights and drives, got %s",
                              document_got(node, got));
    }
    if (access->rules_count == ACCESS_RULES_MAX) {
        return document_error(error, reading->name, node->place, node->path,
                              "expected at most %u rules, got more", ACCESS_RULES_MAX);
    }
    struct access_rule *grown =
        reallocarray(access->rules, access->rules_count + 1, sizeof *access->rules);
    if (!grown) {
        return error_set_errno(error, -ENOMEM, "%s", reading->name);
    }
    access->rules = grown;
    access->rules[access->rules_count++] = (struct access_rule){0};
    reading->rule_place = node->place;
    memset(reading->lines, 0, sizeof reading->lines);
    return 0;
}

/* A scalar's text without a NUL, of at most @max bytes; NULL for anything else. */
static const char *text_of(const struct document_node *node, size_t max)
{
    if (node->kind != DOCUMENT_SCALAR || node->text_bytes == 0 || node->text_bytes > max) {
        return NULL;
    }
    for (size_t i = 0, n; i < node->text_bytes; i += n) {
        n = document_printable(node->text + i, node->text_bytes - i);
        if (n == 0) {
            return NULL;
        }
    }
    return node->text;
}

static int take_who(struct access_reading *reading, const struct document_node *node, bool group,
                    struct error *error)
{
    struct access_rule *rule = last_rule(reading);
    const char *text = text_of(node, WHO_BYTES_MAX);
    char got[DOCUMENT_GOT_BYTES];

    if (rule->who) {
        return document_error(error, reading->name, node->key_place, node->path,
                              "expected a user or a group, got both");
    }
    int r = text ? parse_id(text, &rule->id) : -ENOENT;
    if (r == -EINVAL) {
        r = find_id(text, group, &rule->id);
    }
    if (r == -ENOENT) {
        return document_error(error, reading->name, node->place, node->path,
                              "expected a %s of this host or a number, got %s",
                              group ? "group" : "user", document_got(node, got));
    }
    if (r < 0) {
        return error_set_errno(error, r, "%s: %s: cannot look up '%s'", reading->name, node->path,
                               text);
    }
    rule->group = group;
    rule->who = strdup(text);
    return rule->who ? 0 : error_set_errno(error, -ENOMEM, "%s", reading->name);
}

static int take_right(struct access_reading *reading, const struct document_node *node,
                      struct error *error)
{
    struct access_rule *rule = last_rule(reading);
    char got[DOCUMENT_GOT_BYTES];

    for (uint32_t i = 0; node->kind == DOCUMENT_SCALAR && access_right_names[i]; i++) {
        if (strlen(access_right_names[i]) != node->text_bytes ||
            memcmp(access_right_names[i], node->text, node->text_bytes) != 0) {
            continue;
        }
        if (rule->rights & 1u << i) {
            return document_error(error, reading->name, node->place, node->path,
                                  "expected \"%s\" once, got it again", access_right_names[i]);
        }
        rule->rights |= 1u << i;
        return 0;
    }
    return document_error(error, reading->name, node->place, node->path,
                          "expected read, track, operate or admin, got %s",
                          document_got(node, got));
}

static int take_pattern(struct access_reading *reading, const struct document_node *node,
                        struct error *error)
{
    struct access_rule *rule = last_rule(reading);
    const char *text = text_of(node, ACCESS_PATTERN_BYTES_MAX);
    char got[DOCUMENT_GOT_BYTES];

    if (!text) {
        return document_error(error, reading->name, node->place, node->path,
                              "expected a pattern of at most %u printable bytes, got %s",
                              ACCESS_PATTERN_BYTES_MAX, document_got(node, got));
    }
    if (rule->drives_count == ACCESS_PATTERNS_MAX) {
        return document_error(error, reading->name, node->place, node->path,
                              "expected at most %u patterns, got more", ACCESS_PATTERNS_MAX);
    }
    char **grown = reallocarray(rule->drives, rule->drives_count + 1, sizeof *rule->drives);
    if (!grown) {
        return error_set_errno(error, -ENOMEM, "%s", reading->name);
    }
    rule->drives = grown;
    rule->drives[rule->drives_count] = strdup(text);
    if (!rule->drives[rule->drives_count]) {
        return error_set_errno(error, -ENOMEM, "%s", reading->name);
    }
    rule->drives_count++;
    return 0;
}

static int take_key(struct access_reading *reading, const struct document_node *node,
                    struct error *error)
{
    const char *key = node->path + strlen("access.");
    char got[DOCUMENT_GOT_BYTES];
    size_t i = 0;

    while (i < sizeof rule_keys / sizeof rule_keys[0] && strcmp(rule_keys[i], key) != 0) {
        i++;
    }
    if (i == sizeof rule_keys / sizeof rule_keys[0]) {
        return document_error(error, reading->name, node->key_place, node->path,
                              "expected user, group, rights or drives, got \"%s\"", node->key);
    }
    if (node->item) {
        return i == RULE_RIGHTS ? take_right(reading, node, error)
                                : take_pattern(reading, node, error);
    }
    if (reading->lines[i] > 0) {
        return document_error(error, reading->name, node->key_place, node->path,
                              "expected it once, got it again (first on line %zu)",
                              reading->lines[i]);
    }
    reading->lines[i] = node->key_place.line;
    if (i == RULE_USER || i == RULE_GROUP) {
        return take_who(reading, node, i == RULE_GROUP, error);
    }
    if (node->kind != DOCUMENT_LIST) {
        return document_error(error, reading->name, node->place, node->path,
                              "expected a list of %s, got %s",
                              i == RULE_RIGHTS ? "rights" : "patterns", document_got(node, got));
    }
    *(i == RULE_RIGHTS ? &reading->rights_place : &reading->drives_place) = node->place;
    return 0;
}

bool access_is_path(const char *path)
{
    size_t bytes = strlen("access");
    return strncmp(path, "access", bytes) == 0 && (path[bytes] == '\0' || path[bytes] == '.');
}

int access_visit(struct access_reading *reading, const struct document_node *node,
                 struct error *error)
{
    char got[DOCUMENT_GOT_BYTES];

    if (strchr(node->path, '.')) {
        return take_key(reading, node, error);
    }
    if (node->item) {
        return begin_rule(reading, node, error);
    }
    if (reading->line > 0) {
        return document_error(error, reading->name, node->key_place, node->path,
                              "expected it once, got it again (first on line %zu)", reading->line);
    }
    reading->line = node->key_place.line;
    /* Nothing: a list whose every line is a comment, which is as none. */
    if (node->kind != DOCUMENT_LIST && node->kind != DOCUMENT_NOTHING) {
        return document_error(error, reading->name, node->place, node->path,
                              "expected a list of rules, got %s", document_got(node, got));
    }
    reading->access->given = node->kind == DOCUMENT_LIST;
    return 0;
}

int access_finish(struct access_reading *reading, struct error *error)
{
    return check_rule(reading, error);
}

/* ---- Writing ---- */

void access_dump(const struct config_access *access, FILE *out)
{
    if (!access->given) {
        return;
    }
    fprintf(out, "\n# who may do what\naccess:%s\n", access->rules_count == 0 ? " []" : "");
    for (uint32_t i = 0; i < access->rules_count; i++) {
        const struct access_rule *rule = &access->rules[i];
        const char *separator = "";
        fprintf(out, "  - %s: ", rule->group ? "group" : "user");
        setting_print_text(rule->who, out);
        fputs("\n    rights: [", out);
        for (uint32_t bit = 0; bit < ACCESS_RIGHTS; bit++) {
            if (rule->rights & 1u << bit) {
                fprintf(out, "%s%s", separator, access_right_names[bit]);
                separator = ", ";
            }
        }
        fputs("]\n", out);
        separator = "    drives: [";
        for (uint32_t j = 0; j < rule->drives_count; j++) {
            fputs(separator, out);
            setting_print_text(rule->drives[j], out);
            separator = ", ";
        }
        fputs(rule->drives_count > 0 ? "]\n" : "", out);
    }
}
