/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The table of all settings, and the look-ups in it.
 *
 * Whoever adds a setting adds its member to struct config, one entry here, and
 * its words to bitmapd.yaml and bitmapd.yaml.5; a test finds what is missing.
 *
 * Invariants, checked by that test: sections are contiguous, ranges fit the
 * member, and every default is accepted by its own setting.  A setting is
 * reloadable only if the daemon really goes over to the new value.
 */
#include "config/schema.h"

#include <string.h>
#include <strings.h>
#include <sys/un.h>

#define MEMBER(member) \
    .offset = offsetof(struct config, member), .bytes = sizeof(((struct config *)0)->member)

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)
#define MS  UINT64_C(1000000)
#define DAY (86400 * 1000 * MS)

/* In the order of enum config_unproven. */
static const char *const unproven_words[] = {"trust", "unknown", NULL};

#define PATH_BYTES_MAX   4095
#define GROUP_BYTES_MAX  255
#define SOCKET_BYTES_MAX (sizeof(((struct sockaddr_un *)0)->sun_path) - 1)

/* In the order of enum config_durability. */
static const char *const durability_words[] = {"power-loss", "process-crash", NULL};
/* In the order of the daemon's log levels. */
static const char *const level_words[] = {"error", "warning", "notice", "info", "debug", NULL};

const struct setting config_settings[] = {
    {
        .key = "socket.path",
        .type = SETTING_PATH,
        MEMBER(socket.path),
        .initial = "/run/bitmapd/bitmapd.sock",
        .state_file = "bitmapd.sock",
        .min = 2,
        .max = SOCKET_BYTES_MAX,
        .description = "where clients connect",
    },
    {
        .key = "socket.mode",
        .type = SETTING_MODE,
        MEMBER(socket.mode),
        .initial = "0660",
        .max = 0777,
        .description = "permission bits of the socket, in octal",
    },
    {
        .key = "socket.group",
        .type = SETTING_GROUP,
        MEMBER(socket.group),
        .initial = "",
        .min = 1,
        .max = GROUP_BYTES_MAX,
        .description = "group that owns the socket; nothing: the daemon's own",
    },
    {
        .key = "container.path",
        .type = SETTING_PATH,
        MEMBER(container.path),
        .initial = "/var/lib/bitmapd/bitmaps.qcow2",
        .state_file = "bitmaps.qcow2",
        .min = 2,
        .max = PATH_BYTES_MAX,
        .description = "the qcow2 file that keeps the bitmaps",
    },
    {
        .key = "container.cluster_size",
        .type = SETTING_SIZE,
        MEMBER(container.cluster_size),
        .initial = "64K",
        .min = 512,
        .max = 2 * MIB,
        .power_of_two = true,
        .description = "cluster size of a container that is made anew",
    },
    {
        .key = "container.max_size",
        .type = SETTING_SIZE,
        MEMBER(container.max_size),
        .initial = "0",
        .max = UINT64_MAX,
        .description = "size that the container may grow to; 0: no limit",
    },
    {
        .key = "journal.path",
        .type = SETTING_PATH,
        MEMBER(journal.path),
        .initial = "/var/lib/bitmapd/journal",
        .state_file = "journal",
        .min = 2,
        .max = PATH_BYTES_MAX - 64,
        .description = "the intent journal's segments, with .0 and .1 added",
    },
    {
        .key = "journal.memory_path",
        .type = SETTING_PATH,
        MEMBER(journal.memory_path),
        .initial = "/run/bitmapd/journal",
        .state_file = "memory",
        .min = 2,
        .max = PATH_BYTES_MAX - 64,
        .description =
            "the memory journal's segments, with .0 and .1 added; not used where this is "
            "no tmpfs",
    },
    {
        .key = "journal.segment_size",
        .type = SETTING_SIZE,
        MEMBER(journal.segment_bytes),
        .initial = "16M",
        .min = 8 * MIB,
        .max = GIB,
        .power_of_two = true,
        .description = "size of each of the journal's two segments",
    },
    {
        .key = "catalog.path",
        .type = SETTING_PATH,
        MEMBER(catalog.path),
        .initial = "/var/lib/bitmapd/catalog.sqlite3",
        .state_file = "catalog.sqlite3",
        .min = 2,
        .max = PATH_BYTES_MAX,
        .description = "the database with the history of events",
    },
    {
        .key = "flush.interval",
        .type = SETTING_SPAN,
        MEMBER(flush.interval_ns),
        .initial = "60s",
        .min = 100 * MS,
        .max = DAY,
        .reloadable = true,
        .description = "time between write-backs into the container",
    },
    {
        .key = "flush.dirty_limit",
        .type = SETTING_SIZE,
        MEMBER(flush.dirty_limit),
        .initial = "64M",
        .min = MIB,
        .max = UINT64_MAX,
        .reloadable = true,
        .description = "changed bitmap memory that starts a write-back early",
    },
    {
        .key = "defaults.granularity",
        .type = SETTING_SIZE,
        MEMBER(defaults.granularity),
        .initial = "64K",
        .min = 512,
        .max = 2 * GIB,
        .power_of_two = true,
        .reloadable = true,
        .description = "bytes of a drive per bit, for drives that are added without a choice",
    },
    {
        .key = "defaults.durability",
        .type = SETTING_WORD,
        MEMBER(defaults.durability),
        .initial = "power-loss",
        .max = CONFIG_PROCESS_CRASH,
        .words = durability_words,
        .reloadable = true,
        .description = "what an acknowledged mark outlives, for drives that are added without a "
                       "choice",
    },
    {
        .key = "identity.on_unproven",
        .type = SETTING_WORD,
        MEMBER(identity.on_unproven),
        .initial = "trust",
        .max = CONFIG_UNKNOWN,
        .words = unproven_words,
        .reloadable = true,
        .description = "what bitmaps are when untracked writing cannot be ruled out",
    },
    {
        .key = "retention.count",
        .type = SETTING_COUNT,
        MEMBER(retention.count),
        .initial = "0",
        .max = 255,
        .reloadable = true,
        .description = "checkpoints of a drive, beyond which the eldest are deleted; 0: no limit",
    },
    {
        .key = "retention.age",
        .type = SETTING_SPAN,
        MEMBER(retention.age_ns),
        .initial = "0s",
        .max = 36500 * DAY,
        .reloadable = true,
        .description = "age beyond which a drive's eldest checkpoints are deleted; 0s: no limit",
    },
    {
        .key = "limits.connections",
        .type = SETTING_COUNT,
        MEMBER(limits.connections),
        .initial = "1024",
        .min = 1,
        .max = 1000000,
        .reloadable = true,
        .description = "connections at once",
    },
    {
        .key = "limits.connections_per_user",
        .type = SETTING_COUNT,
        MEMBER(limits.connections_per_user),
        .initial = "0",
        .max = 1000000,
        .reloadable = true,
        .description = "connections of one user at once; 0: half of all",
    },
    {
        .key = "limits.requests_per_connection",
        .type = SETTING_COUNT,
        MEMBER(limits.requests_per_connection),
        .initial = "1024",
        .min = 1,
        .max = 65536,
        .reloadable = true,
        .description = "requests of one connection in flight",
    },
    {
        .key = "limits.requests_per_user",
        .type = SETTING_COUNT,
        MEMBER(limits.requests_per_user),
        .initial = "16384",
        .min = 1,
        .max = 1000000000,
        .reloadable = true,
        .description = "requests of one user in flight",
    },
    {
        .key = "limits.maps_per_connection",
        .type = SETTING_COUNT,
        MEMBER(limits.maps_per_connection),
        .initial = "8",
        .min = 1,
        .max = 1024,
        .reloadable = true,
        .description = "map requests of one connection in flight",
    },
    {
        .key = "limits.map_memory",
        .type = SETTING_SIZE,
        MEMBER(limits.map_memory),
        .initial = "256M",
        .max = UINT64_MAX,
        .reloadable = true,
        .description = "memory for maps that clients have not read to their end; 0: no limit",
    },
    {
        .key = "limits.unsettled_per_writer",
        .type = SETTING_COUNT,
        MEMBER(limits.unsettled_per_writer),
        .initial = "65536",
        .min = 1,
        .max = 16777216,
        .reloadable = true,
        .description = "marks of one writer that are not settled",
    },
    {
        .key = "limits.drives",
        .type = SETTING_COUNT,
        MEMBER(limits.drives),
        .initial = "10000",
        .min = 1,
        .max = 1000000,
        .reloadable = true,
        .description = "drives",
    },
    {
        .key = "limits.bitmaps",
        .type = SETTING_COUNT,
        MEMBER(limits.bitmaps),
        .initial = "65535",
        .min = 1,
        .max = 65535,
        .reloadable = true,
        .description = "bitmaps of all drives together",
    },
    {
        .key = "limits.bitmaps_per_drive",
        .type = SETTING_COUNT,
        MEMBER(limits.bitmaps_per_drive),
        .initial = "256",
        .max = 65535,
        .reloadable = true,
        .description = "bitmaps of a drive beyond which only its administrators create more",
    },
    {
        .key = "limits.memory",
        .type = SETTING_SIZE,
        MEMBER(limits.memory),
        .initial = "0",
        .max = UINT64_MAX,
        .reloadable = true,
        .description = "memory that all bitmaps may need in the worst case; 0: no limit",
    },
    {
        .key = "limits.sealed_memory",
        .type = SETTING_SIZE,
        MEMBER(limits.sealed_memory),
        .initial = "64M",
        .max = UINT64_MAX,
        .reloadable = true,
        .description = "memory for bits of sealed checkpoints that the container has as well",
    },
    {
        .key = "limits.catalog_events",
        .type = SETTING_COUNT,
        MEMBER(limits.catalog_events),
        .initial = "100000",
        .min = 1,
        .max = 100000000,
        .description = "events that the catalog keeps",
    },
    {
        .key = "log.level",
        .type = SETTING_WORD,
        MEMBER(log.level),
        .initial = "info",
        .max = 4,
        .words = level_words,
        .reloadable = true,
        .description = "least important messages that are still logged",
    },
};

const size_t config_settings_count = sizeof config_settings / sizeof config_settings[0];

_Static_assert(sizeof config_settings / sizeof config_settings[0] <= SETTINGS_MAX,
               "raise SETTINGS_MAX");

const struct setting *setting_find(const char *key)
{
    for (size_t i = 0; i < config_settings_count; i++) {
        if (strcmp(config_settings[i].key, key) == 0) {
            return &config_settings[i];
        }
    }
    return NULL;
}

const struct setting *setting_find_section(const char *section)
{
    size_t length = strlen(section);

    for (size_t i = 0; i < config_settings_count; i++) {
        if (strncmp(config_settings[i].key, section, length) == 0 &&
            config_settings[i].key[length] == '.') {
            return &config_settings[i];
        }
    }
    return NULL;
}

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

/*
 * Single-byte edits (insert, delete, replace) that make @a into @b, without
 * regard to case; @b is shorter than SETTING_KEY_BYTES.
 */
static size_t edit_distance(const char *a, const char *b)
{
    size_t row[SETTING_KEY_BYTES]; /* distance of a's first i bytes to b's first j */
    size_t length = strlen(b);

    for (size_t j = 0; j <= length; j++) {
        row[j] = j;
    }
    for (size_t i = 1; a[i - 1] != '\0'; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= length; j++) {
            size_t replace = diagonal + (strncasecmp(&a[i - 1], &b[j - 1], 1) != 0);
            diagonal = row[j];
            row[j] = min_size(replace, min_size(row[j], row[j - 1]) + 1);
        }
    }
    return row[length];
}

/* The last part of a dotted key. */
static const char *leaf(const char *key)
{
    const char *dot = strrchr(key, '.');
    return dot ? dot + 1 : key;
}

const char *setting_nearest(const char *key, char buffer[SETTING_KEY_BYTES])
{
    bool section = !strchr(key, '.');
    size_t best = strlen(leaf(key)) / 3 + 1; /* with more than a third wrong it is another word */
    const char *found = NULL;

    for (size_t i = 0; i < config_settings_count; i++) {
        const char *full = config_settings[i].key;
        size_t length = section ? strcspn(full, ".") : strlen(full);
        char candidate[SETTING_KEY_BYTES];
        *(char *)mempcpy(candidate, full, length) = '\0';
        size_t distance = edit_distance(key, candidate);
        if (distance < best) {
            best = distance;
            found = strcpy(buffer, candidate);
        }
    }
    /* Right name, but in the wrong section or in none. */
    for (size_t i = 0; i < config_settings_count && !found; i++) {
        if (strcasecmp(leaf(config_settings[i].key), leaf(key)) == 0) {
            found = strcpy(buffer, config_settings[i].key);
        }
    }
    return found;
}
