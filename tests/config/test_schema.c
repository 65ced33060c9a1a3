/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The table of settings against itself, against the sample and the manual
 * page, and what is derived from it: defaults, dump, comparison at reload.
 */
#include "config/schema.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *dump(const struct config *config)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);

    assert_non_null(out);
    config_dump(config, out);
    assert_int_equal(fclose(out), 0);
    return text;
}

static char *source_read(const char *name)
{
    const char *folder = getenv("BITMAPD_CONFIG_SOURCE_DIR");
    char path[4096];

    if (!folder) {
        fail_msg("BITMAPD_CONFIG_SOURCE_DIR is not set: run this under ctest");
    }
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    char *text = calloc(1, CONFIG_BYTES_MAX);
    assert_non_null(text);
    assert_true(fread(text, 1, CONFIG_BYTES_MAX - 1, file) > 0);
    assert_int_equal(fclose(file), 0);
    return text;
}

/* A value that the setting takes and that is not its default. */
static const char *other_value(const struct setting *setting)
{
    switch (setting->type) {
    case SETTING_PATH:
        return "/elsewhere/file";
    case SETTING_GROUP:
        return "backup";
    case SETTING_MODE:
        return "0600";
    case SETTING_SIZE:
        return setting->min > 2 << 20 ? "32M" : "2M";
    case SETTING_SPAN:
        return "777ms";
    case SETTING_COUNT:
        return "77";
    case SETTING_WORD:
        return setting->words[strcmp(setting->words[0], setting->initial) == 0];
    }
    return NULL;
}

/* Settings of which every one differs from its default. */
static void config_init_other(struct config *config)
{
    struct config initial;

    assert_int_equal(config_init(config, NULL), 0);
    assert_int_equal(config_init(&initial, NULL), 0);
    for (size_t i = 0; i < config_settings_count; i++) {
        const struct setting *setting = &config_settings[i];
        assert_int_equal(setting_store(setting, config, other_value(setting)), 0);
        assert_false(setting_equal(setting, config, &initial));
    }
    config_deinit(&initial);
}

static void test_table(void **state)
{
    const char *section = "";
    size_t section_bytes = 0;

    (void)state;
    for (size_t i = 0; i < config_settings_count; i++) {
        const struct setting *setting = &config_settings[i];
        const char *dot = strchr(setting->key, '.');

        assert_non_null(dot);
        assert_null(strchr(dot + 1, '.'));
        assert_true(strlen(setting->key) < SETTING_KEY_BYTES);
        assert_ptr_equal(setting_find(setting->key), setting);
        assert_non_null(setting->description);
        assert_null(strchr(setting->description, '\n'));
        assert_true(setting->min <= setting->max);
        bool text = setting->type == SETTING_PATH || setting->type == SETTING_GROUP;
        if (text) {
            assert_int_equal(setting->bytes, sizeof(char *));
        } else {
            assert_true(setting->bytes == 8 || setting->max <= UINT32_MAX);
        }
        /* Words and range are two ways to say the same. */
        assert_int_equal(setting->words != NULL, setting->type == SETTING_WORD);
        if (setting->words) {
            assert_null(setting->words[setting->max + 1]);
            for (uint64_t word = 0; word <= setting->max; word++) {
                assert_non_null(setting->words[word]);
            }
        }
        /* A section that was left does not come again: a dump would write it twice. */
        size_t bytes = (size_t)(dot - setting->key) + 1;
        if (bytes != section_bytes || strncmp(section, setting->key, bytes) != 0) {
            char name[SETTING_KEY_BYTES] = "";
            memcpy(name, setting->key, bytes - 1);
            assert_ptr_equal(setting_find_section(name), setting);
        }
        section = setting->key;
        section_bytes = bytes;

        /* Its member is its own. */
        for (size_t j = 0; j < i; j++) {
            const struct setting *before = &config_settings[j];
            assert_true(before->offset + before->bytes <= setting->offset ||
                        setting->offset + setting->bytes <= before->offset);
        }
    }
    assert_null(setting_find("socket"));
    assert_null(setting_find_section("socket.path"));
    assert_null(setting_find_section("sock"));
}

static void test_nearest(void **state)
{
    static const struct {
        const char *key, *nearest;
    } cases[] = {
        {"sockets", "socket"},
        {"SOCKET", "socket"},
        {"flush.intervall", "flush.interval"},
        {"flush.interval_ms", "flush.interval"},
        {"container.clustersize", "container.cluster_size"},
        {"cluster_size", "container.cluster_size"},
        {"socket.level", "log.level"},
        {"x", NULL},
        {"", NULL},
        {"access", NULL},
        {"identities.on_unproven", "identity.on_unproven"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char buffer[SETTING_KEY_BYTES];
        const char *nearest = setting_nearest(cases[i].key, buffer);
        if (cases[i].nearest) {
            assert_non_null(nearest);
            assert_string_equal(nearest, cases[i].nearest);
        } else {
            assert_null(nearest);
        }
    }
}

static void test_defaults(void **state)
{
    struct config config;

    (void)state;
    assert_int_equal(config_init(&config, NULL), 0);
    assert_string_equal(config.socket.path, "/run/bitmapd/bitmapd.sock");
    assert_int_equal(config.socket.mode, 0660);
    assert_null(config.socket.group);
    assert_string_equal(config.container.path, "/var/lib/bitmapd/bitmaps.qcow2");
    assert_int_equal(config.container.cluster_size, 65536);
    assert_true(config.container.max_size == 0);
    assert_string_equal(config.journal.path, "/var/lib/bitmapd/journal");
    assert_true(config.journal.segment_bytes == UINT64_C(16) << 20);
    assert_string_equal(config.catalog.path, "/var/lib/bitmapd/catalog.sqlite3");
    assert_true(config.flush.interval_ns == UINT64_C(60000000000));
    assert_true(config.flush.dirty_limit == UINT64_C(64) << 20);
    assert_int_equal(config.defaults.granularity, 65536);
    assert_int_equal(config.defaults.durability, CONFIG_POWER_LOSS);
    assert_int_equal(config.limits.connections, 1024);
    assert_int_equal(config.limits.requests_per_connection, 1024);
    assert_int_equal(config.limits.maps_per_connection, 8);
    assert_int_equal(config.limits.unsettled_per_writer, 65536);
    assert_int_equal(config.limits.drives, 10000);
    assert_int_equal(config.limits.bitmaps, 65535);
    assert_int_equal(config.limits.bitmaps_per_drive, 256);
    assert_true(config.limits.memory == 0);
    assert_int_equal(config.limits.catalog_events, 100000);
    assert_int_equal(config.log.level, 3);
    config_deinit(&config);
    config_deinit(&config);

    assert_int_equal(config_init(&config, "some/where"), 0);
    assert_string_equal(config.socket.path, "some/where/bitmapd.sock");
    assert_string_equal(config.container.path, "some/where/bitmaps.qcow2");
    assert_string_equal(config.catalog.path, "some/where/catalog.sqlite3");
    assert_int_equal(config.socket.mode, 0660);
    config_deinit(&config);
}

/* Read over settings that all differ, the sample brings every default back: it has every key. */
static void test_sample(void **state)
{
    struct config initial, config;
    struct error error = {{0}};
    char *sample = source_read("bitmapd.yaml");

    (void)state;
    assert_int_equal(config_init(&initial, NULL), 0);
    config_init_other(&config);
    assert_int_equal(config_parse(&config, "bitmapd.yaml", sample, strlen(sample), &error), 0);
    for (size_t i = 0; i < config_settings_count; i++) {
        if (!setting_equal(&config_settings[i], &config, &initial)) {
            fail_msg("%s is not in bitmapd.yaml at its default", config_settings[i].key);
        }
    }
    char *from_sample = dump(&config), *from_initial = dump(&initial);
    assert_string_equal(from_sample, from_initial);
    free(from_sample);
    free(from_initial);
    free(sample);
    config_deinit(&config);
    config_deinit(&initial);
}

static void test_manual(void **state)
{
    char *page = source_read("bitmapd.yaml.5");

    (void)state;
    for (size_t i = 0; i < config_settings_count; i++) {
        const struct setting *setting = &config_settings[i];
        char item[128];
        snprintf(item, sizeof item, "\n.It Cm %s : ", setting->key);
        char *entry = strstr(page, item);
        if (!entry) {
            fail_msg("%s is not in bitmapd.yaml.5", setting->key);
            return; /* never; for the compiler */
        }
        char *end = strstr(entry + 1, "\n.It ");
        if (!end || strstr(entry, "\n.El") < end) {
            end = strstr(entry, "\n.El");
        }
        assert_non_null(end);
        char saved = *end;
        *end = '\0';
        if (!strstr(entry, setting->initial) || !strstr(entry, "\nDefault:")) {
            fail_msg("%s: its default is not in bitmapd.yaml.5", setting->key);
        }
        if ((strstr(entry, "(restart)") != NULL) == setting->reloadable) {
            fail_msg("%s: \"restart\" is wrong in bitmapd.yaml.5", setting->key);
        }
        *end = saved;
    }
    free(page);
}

/* Every setting at another value survives being dumped and read; twice gives the same text. */
static void test_dump(void **state)
{
    struct config config, again;
    struct error error = {{0}};

    (void)state;
    config_init_other(&config);
    char *text = dump(&config);
    assert_int_equal(config_init(&again, NULL), 0);
    assert_int_equal(config_parse(&again, "dump", text, strlen(text), &error), 0);
    for (size_t i = 0; i < config_settings_count; i++) {
        assert_true(setting_equal(&config_settings[i], &config, &again));
    }
    char *text_again = dump(&again);
    assert_string_equal(text_again, text);
    free(text);
    free(text_again);
    config_deinit(&config);
    config_deinit(&again);
}

/* A state directory may be called anything; its dump is still YAML. */
static void test_dump_strange_directory(void **state)
{
    struct config config, again;
    char *line;

    (void)state;
    assert_int_equal(config_init(&config, "/a \"\\\n\xff\xc3\xa9"), 0);
    char *text = dump(&config);
    line = strstr(text, "/a ");
    assert_non_null(line);
    static const char expected[] = "/a \\\"\\\\\\x0a\\xff\xc3\xa9/bitmapd.sock\"\n";
    assert_memory_equal(line, expected, strlen(expected));
    assert_int_equal(config_init(&again, NULL), 0);
    struct error error;
    assert_int_equal(config_parse(&again, "dump", text, strlen(text), &error), -EINVAL);
    assert_non_null(strstr(error.text, "socket.path: expected an absolute path"));
    free(text);
    config_deinit(&config);
    config_deinit(&again);
}

static void test_reload(void **state)
{
    struct config old, new;
    struct error error;

    (void)state;
    for (size_t i = 0; i < config_settings_count; i++) {
        const struct setting *setting = &config_settings[i];
        assert_int_equal(config_init(&old, NULL), 0);
        assert_int_equal(config_init(&new, NULL), 0);
        assert_int_equal(config_check_reload(&old, &new, &error), 0);
        assert_int_equal(setting_store(setting, &new, other_value(setting)), 0);
        int r = config_check_reload(&old, &new, &error);
        if (setting->reloadable) {
            assert_int_equal(r, 0);
        } else {
            char expected[128];
            snprintf(expected, sizeof expected, "%s: expected no change without a restart",
                     setting->key);
            assert_int_equal(r, -EINVAL);
            assert_string_equal(error.text, expected);
        }
        config_deinit(&old);
        config_deinit(&new);
    }
    assert_false(setting_find("socket.path")->reloadable);
    assert_false(setting_find("container.path")->reloadable);
    assert_false(setting_find("container.cluster_size")->reloadable);
    assert_false(setting_find("catalog.path")->reloadable);
    assert_true(setting_find("flush.interval")->reloadable);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),    cmocka_unit_test(test_nearest),
        cmocka_unit_test(test_defaults), cmocka_unit_test(test_sample),
        cmocka_unit_test(test_manual),   cmocka_unit_test(test_dump),
        cmocka_unit_test(test_reload),   cmocka_unit_test(test_dump_strange_directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
