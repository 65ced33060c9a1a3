/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rules of who may do what: those that are taken, and those that are not, with
 * the whole of the message.
 */
#include "config/config.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A string literal that may hold NUL bytes. */
#define TEXT(literal) literal, sizeof(literal) - 1

static const struct {
    const char *text;
    size_t bytes;
    const char *error; /* after "t.yaml:" */
} bad_rules[] = {
    {TEXT("access: 1\n"), "1:9: access: expected a list of rules, got \"1\""},
    {TEXT("access: {user: 0}\n"), "1:9: access: expected a list of rules, got a mapping"},
    {TEXT("access: []\naccess: []\n"),
     "2:1: access: expected it once, got it again (first on line 1)"},
    {TEXT("access:\n  - root\n"),
     "2:5: access: expected a mapping of user or group, rights and drives, got \"root\""},
    {TEXT("access:\n  -\n"),
     "2:4: access: expected a mapping of user or group, rights and drives, got nothing"},
    {TEXT("access: [[{user: 0}]]\n"),
     "1:10: access: expected a mapping of user or group, rights and drives, got a list"},
    {TEXT("access:\n  - {user: 0, rigths: [read]}\n"),
     "2:15: access.rigths: expected user, group, rights or drives, got \"rigths\""},
    {TEXT("access:\n  - {user: 0, user: 1, rights: [read]}\n"),
     "2:15: access.user: expected it once, got it again (first on line 2)"},
    {TEXT("access:\n  - {user: 0, group: 0, rights: [read]}\n"),
     "2:15: access.group: expected a user or a group, got both"},
    {TEXT("access:\n  - {rights: [read]}\n  - {user: 0, rights: [read]}\n"),
     "2:5: access: expected a rule with a user or a group, got one without"},
    {TEXT("access:\n  - {user: 0}\nlog: {level: info}\n"),
     "2:5: access: expected a rule with rights, got one without"},
    {TEXT("access:\n  - {}\n"),
     "2:5: access: expected a rule with a user or a group, got one without"},
    {TEXT("access:\n  - {user: no-such-user, rights: [read]}\n"),
     "2:12: access.user: expected a user of this host or a number, got \"no-such-user\""},
    {TEXT("access:\n  - {group: no-such-group, rights: [read]}\n"),
     "2:13: access.group: expected a group of this host or a number, got \"no-such-group\""},
    {TEXT("access:\n  - {user: 4294967295, rights: [read]}\n"),
     "2:12: access.user: expected a user of this host or a number, got \"4294967295\""},
    {TEXT("access:\n  - {user: -1, rights: [read]}\n"),
     "2:12: access.user: expected a user of this host or a number, got \"-1\""},
    {TEXT("access:\n  - {user: [0], rights: [read]}\n"),
     "2:12: access.user: expected a user of this host or a number, got a list"},
    {TEXT("access:\n  - {user: \"root\\0x\", rights: [read]}\n"),
     "2:12: access.user: expected a user of this host or a number, got \"root\\x00x\""},
    {TEXT("access:\n  - {user: 0, rights: read}\n"),
     "2:23: access.rights: expected a list of rights, got \"read\""},
    {TEXT("access:\n  - {user: 0, rights: []}\n"),
     "2:23: access.rights: expected at least one right, got an empty list"},
    {TEXT("access:\n  - user: 0\n    rights: [read, write]\n"),
     "3:20: access.rights: expected read, track, operate or admin, got \"write\""},
    {TEXT("access:\n  - user: 0\n    rights: [read, [track]]\n"),
     "3:20: access.rights: expected read, track, operate or admin, got a list"},
    {TEXT("access:\n  - user: 0\n    rights: [read, read]\n"),
     "3:20: access.rights: expected \"read\" once, got it again"},
    {TEXT("access:\n  - user: 0\n    rights: [read]\n    drives: \"vm/*\"\n"),
     "4:13: access.drives: expected a list of patterns, got \"vm/*\""},
    {TEXT("access:\n  - user: 0\n    rights: [read]\n    drives: []\n"),
     "4:13: access.drives: expected at least one pattern, got an empty list"},
    {TEXT("access:\n  - user: 0\n    rights: [read]\n    drives: [a, \"\"]\n"),
     "4:17: access.drives: expected a pattern of at most 255 printable bytes, got \"\""},
    {TEXT("access:\n  - user: 0\n    rights: [read]\n    drives: [{a: b}]\n"),
     "4:14: access.drives: expected a pattern of at most 255 printable bytes, got a mapping"},
    {TEXT("access.user: 0\n"), "1:1: access.user: expected a known key, got \"access.user\""},
    {TEXT("access: [{user: &a 0}]\n"),
     "1:17: access.user: expected a plain value, got one with an anchor"},
};

static void test_bad_rules(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad_rules / sizeof bad_rules[0]; i++) {
        struct config config;
        struct error error = {{0}};
        char expected[sizeof error.text];

        assert_int_equal(config_init(&config, NULL), 0);
        snprintf(expected, sizeof expected, "t.yaml:%s", bad_rules[i].error);
        assert_int_equal(
            config_parse(&config, "t.yaml", bad_rules[i].text, bad_rules[i].bytes, &error),
            -EINVAL);
        assert_string_equal(error.text, expected);
        assert_int_equal(config.access.rules_count, 0);
        config_deinit(&config);
    }
}

static const struct access_rule *rules_of(struct config *config, const char *text)
{
    struct error error = {{0}};

    if (config_parse(config, "t", text, strlen(text), &error) < 0) {
        fail_msg("%s", error.text);
    }
    return config->access.rules;
}

static void test_rules(void **state)
{
    struct config config;

    (void)state;
    assert_int_equal(config_init(&config, NULL), 0);
    assert_false(config.access.given);
    const struct access_rule *rules = rules_of(&config, "access:\n"
                                                        "  - group: root\n"
                                                        "    rights: [track, read]\n"
                                                        "    drives: [\"vm/*\", 'a\"b']\n"
                                                        "  - {rights: [admin], user: 12}\n"
                                                        "log: {level: debug}\n");
    assert_true(config.access.given);
    assert_int_equal(config.access.rules_count, 2);
    assert_int_equal(config.log.level, 4);
    assert_true(rules[0].group && rules[0].id == 0);
    assert_int_equal(rules[0].rights, ACCESS_TRACK | ACCESS_READ);
    assert_int_equal(rules[0].drives_count, 2);
    assert_string_equal(rules[0].drives[0], "vm/*");
    assert_string_equal(rules[0].drives[1], "a\"b");
    assert_true(!rules[1].group && rules[1].id == 12 && rules[1].drives_count == 0);

    /* What is dumped reads back. */
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    assert_non_null(out);
    config_dump(&config, out);
    assert_int_equal(fclose(out), 0);
    struct config again;
    assert_int_equal(config_init(&again, NULL), 0);
    rules = rules_of(&again, text);
    assert_int_equal(again.access.rules_count, 2);
    assert_string_equal(rules[0].who, "root");
    assert_string_equal(rules[0].drives[1], "a\"b");
    assert_int_equal(rules[1].rights, ACCESS_ADMIN);
    config_deinit(&again);
    free(text);

    /* A file that is silent about rules leaves them; one that is not replaces them all. */
    rules_of(&config, "log: {level: info}\n");
    assert_int_equal(config.access.rules_count, 2);
    rules_of(&config, "access: []\n");
    assert_true(config.access.given && config.access.rules_count == 0);
    rules_of(&config, "access:\n");
    assert_false(config.access.given);
    config_deinit(&config);
}

/* One more than there may be of what a rule has, and of rules. */
static void test_rules_bounded(void **state)
{
    struct error error;
    struct config config;
    char *text = NULL;
    size_t bytes = 0;

    (void)state;
    for (unsigned more = 0; more < 2; more++) {
        for (unsigned what = 0; what < 2; what++) {
            FILE *out = open_memstream(&text, &bytes);
            assert_non_null(out);
            fputs(what ? "access: [{user: 0, rights: [read], drives: [" : "access: [", out);
            for (unsigned i = 0; i < (what ? ACCESS_PATTERNS_MAX : ACCESS_RULES_MAX) + more; i++) {
                fputs(what ? "a," : "{user: 0, rights: [read]},", out);
            }
            fputs(what ? "]}]" : "]", out);
            assert_int_equal(fclose(out), 0);
            assert_int_equal(config_init(&config, NULL), 0);
            assert_int_equal(config_parse(&config, "t", text, bytes, &error), more ? -EINVAL : 0);
            if (more) {
                assert_non_null(strstr(error.text, what ? "at most 64 patterns, got more"
                                                        : "at most 256 rules, got more"));
            }
            config_deinit(&config);
            free(text);
        }
    }
}

/* Sample and manual page have every key of a rule. */
static void test_documented(void **state)
{
    static const char *const words[][2] = {
        {"bitmapd.yaml", "\naccess:\n"},
        {"bitmapd.yaml", "group: "},
        {"bitmapd.yaml", "user: "},
        {"bitmapd.yaml", "rights: ["},
        {"bitmapd.yaml", "drives: ["},
        {"bitmapd.yaml.5", ".It Cm access : "},
        {"bitmapd.yaml.5", ".It Cm access.user : Ar user , Cm access.group : "},
        {"bitmapd.yaml.5", ".It Cm access.rights : "},
        {"bitmapd.yaml.5", ".It Cm access.drives : "},
    };
    const char *folder = getenv("BITMAPD_CONFIG_SOURCE_DIR");

    (void)state;
    if (!folder) {
        fail_msg("BITMAPD_CONFIG_SOURCE_DIR is not set: run this under ctest");
    }
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", folder, words[i][0]);
        FILE *file = fopen(path, "r");
        assert_non_null(file);
        char *text = calloc(1, CONFIG_BYTES_MAX);
        assert_non_null(text);
        assert_true(fread(text, 1, CONFIG_BYTES_MAX - 1, file) > 0);
        assert_int_equal(fclose(file), 0);
        if (!strstr(text, words[i][1])) {
            fail_msg("%s does not have \"%s\"", words[i][0], words[i][1]);
        }
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_rules),
        cmocka_unit_test(test_rules),
        cmocka_unit_test(test_rules_bounded),
        cmocka_unit_test(test_documented),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
