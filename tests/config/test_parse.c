/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Texts that are settings and texts that are not, each bad one with the whole
 * of its message: the place is what an administrator goes by.
 */
#include "config/config.h"
#include "config/document.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A string literal that may hold NUL bytes. */
#define TEXT(literal) literal, sizeof(literal) - 1

struct bad {
    const char *text;
    size_t bytes;
    const char *error; /* after "t.yaml:" */
};

#define SPAN_EXPECTED "expected a time span (500ms, 5s, 2min) from 100ms to 1d, got "
#define KEY_EXPECTED  "expected a key of at most 63 letters, digits, '_' or '-', got "

static const struct bad bad_texts[] = {
    /* Keys */
    {TEXT("socket:\n  pth: /x\n"),
     "2:3: socket.pth: expected a known key (nearest: socket.path), got \"pth\""},
    {TEXT("sokcet:\n  path: /x\n"),
     "1:1: sokcet: expected a known key (nearest: socket), got \"sokcet\""},
    {TEXT("metrics: {path: /x}\n"), "1:1: metrics: expected a known key, got \"metrics\""},
    {TEXT("level: debug\n"),
     "1:1: level: expected a known key (nearest: log.level), got \"level\""},
    {TEXT("log:\n  Level: debug\n"),
     "2:3: log.Level: expected a known key (nearest: log.level), got \"Level\""},
    {TEXT("log.level: debug\n"),
     "1:1: log.level: expected \"level\" in a mapping \"log\", got a key with a dot"},
    {TEXT("log:\n  level.x: debug\n"), "2:3: log.level.x: expected a known key, got \"level.x\""},
    {TEXT("log.: {level: debug}\n"), "1:1: log.: expected a known key, got \"log.\""},
    {TEXT("? log\n? flush\n: x\n"), "3:3: flush: expected a mapping of settings, got \"x\""},
    {TEXT("{? [a] : b}\n"), "1:4: " KEY_EXPECTED "a list"},
    {TEXT("{{a: b}: c}\n"), "1:2: " KEY_EXPECTED "a mapping"},
    {TEXT("log: {~: c}\n"), "1:7: log: " KEY_EXPECTED "nothing"},
    {TEXT("log: {\"\": c}\n"), "1:7: log: " KEY_EXPECTED "\"\""},
    {TEXT("log: {\"a\\0b\": c}\n"), "1:7: log: " KEY_EXPECTED "\"a\\x00b\""},
    {TEXT("l\xc3\xb6g: {}\n"), "1:1: " KEY_EXPECTED "\"l\xc3\xb6g\""},
    {TEXT("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa: b\n"),
     "1:1: " KEY_EXPECTED "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\""},

    /* Twice */
    {TEXT("limits:\n  drives: 1\n  memory: 0\n  drives: 1\n"),
     "4:3: limits.drives: expected it once, got it again (first on line 2)"},
    {TEXT("log: {level: info}\nflush:\nlog: {level: info}\n"),
     "3:1: log: expected it once, got it again (first on line 1)"},
    {TEXT("log:\nlog:\n"), "2:1: log: expected it once, got it again (first on line 1)"},

    /* Kinds */
    {TEXT("log: info\n"), "1:6: log: expected a mapping of settings, got \"info\""},
    {TEXT("log: ''\n"), "1:6: log: expected a mapping of settings, got \"\""},
    {TEXT("log: [level, info]\n"), "1:6: log: expected a mapping of settings, got a list"},
    {TEXT("log:\n- level: info\n"), "2:1: log: expected a mapping of settings, got a list"},
    {TEXT("- log\n"), "1:1: expected a mapping of settings, got a list"},
    {TEXT("just words\n"), "1:1: expected a mapping of settings, got \"just words\""},
    {TEXT("log: {level: {info: debug}}\n"),
     "1:14: log.level: expected error, warning, notice, info or debug, got a mapping"},
    {TEXT("log: {level: [info]}\n"),
     "1:14: log.level: expected error, warning, notice, info or debug, got a list"},
    {TEXT("log:\n  level:\n"),
     "2:9: log.level: expected error, warning, notice, info or debug, got nothing"},

    /* Words */
    {TEXT("log: {level: Info}"),
     "1:14: log.level: expected error, warning, notice, info or debug, got \"Info\""},
    {TEXT("log: {level: inf}"),
     "1:14: log.level: expected error, warning, notice, info or debug, got \"inf\""},
    {TEXT("log: {level: \"info\\0\"}"),
     "1:14: log.level: expected error, warning, notice, info or debug, got \"info\\x00\""},
    {TEXT("defaults: {durability: yes}"),
     "1:24: defaults.durability: expected power-loss or process-crash, got \"yes\""},

    /* Numbers */
    {TEXT("limits: {drives: 0}"),
     "1:18: limits.drives: expected a whole number from 1 to 1000000, got \"0\""},
    {TEXT("limits: {drives: 1000001}"),
     "1:18: limits.drives: expected a whole number from 1 to 1000000, got \"1000001\""},
    {TEXT("limits: {drives: 4294967297}"),
     "1:18: limits.drives: expected a whole number from 1 to 1000000, got \"4294967297\""},
    {TEXT("limits: {drives: 18446744073709551617}"),
     "1:18: limits.drives: expected a whole number from 1 to 1000000, got "
     "\"18446744073709551617\""},
    {TEXT("limits: {drives: +1}"),
     "1:18: limits.drives: expected a whole number from 1 to 1000000, got \"+1\""},
    {TEXT("limits: {drives: \" 1\"}"),
     "1:18: limits.drives: expected a whole number from 1 to 1000000, got \" 1\""},
    {TEXT("limits: {drives: 1.0}"),
     "1:18: limits.drives: expected a whole number from 1 to 1000000, got \"1.0\""},
    {TEXT("limits: {bitmaps: 65536}"),
     "1:19: limits.bitmaps: expected a whole number from 1 to 65535, got \"65536\""},

    /* Modes */
    {TEXT("socket: {mode: 0668}"),
     "1:16: socket.mode: expected an octal mode from 0000 to 0777, got \"0668\""},
    {TEXT("socket: {mode: 01777}"),
     "1:16: socket.mode: expected an octal mode from 0000 to 0777, got \"01777\""},
    {TEXT("socket: {mode: rw}"),
     "1:16: socket.mode: expected an octal mode from 0000 to 0777, got \"rw\""},

    /* Sizes */
    {TEXT("limits: {memory: -1}"),
     "1:18: limits.memory: expected a size (4096, 64K, 1G), got \"-1\""},
    {TEXT("limits: {memory: 16384P}"),
     "1:18: limits.memory: expected a size (4096, 64K, 1G), got \"16384P\""},
    {TEXT("flush: {dirty_limit: 1023K}"),
     "1:22: flush.dirty_limit: expected a size (4096, 64K, 1G) of at least 1M, got \"1023K\""},
    {TEXT("container: {cluster_size: 96K}"),
     "1:27: container.cluster_size: expected a power of two from 512 to 2M, got \"96K\""},
    {TEXT("container: {cluster_size: 4M}"),
     "1:27: container.cluster_size: expected a power of two from 512 to 2M, got \"4M\""},
    {TEXT("defaults: {granularity: 0}"),
     "1:25: defaults.granularity: expected a power of two from 512 to 2G, got \"0\""},
    {TEXT("defaults: {granularity: 4G}"),
     "1:25: defaults.granularity: expected a power of two from 512 to 2G, got \"4G\""},

    /* Spans */
    {TEXT("flush: {interval: 0}"), "1:19: flush.interval: " SPAN_EXPECTED "\"0\""},
    {TEXT("flush: {interval: 99ms}"), "1:19: flush.interval: " SPAN_EXPECTED "\"99ms\""},
    {TEXT("flush: {interval: 25h}"), "1:19: flush.interval: " SPAN_EXPECTED "\"25h\""},
    {TEXT("flush: {interval: 5 s}"), "1:19: flush.interval: " SPAN_EXPECTED "\"5 s\""},
    {TEXT("flush: {interval: 9999999999999h}"),
     "1:19: flush.interval: " SPAN_EXPECTED "\"9999999999999h\""},

    /* Paths and groups */
    {TEXT("catalog: {path: x}"),
     "1:17: catalog.path: expected an absolute path of at most 4095 printable bytes, got \"x\""},
    {TEXT("catalog: {path: /}"),
     "1:17: catalog.path: expected an absolute path of at most 4095 printable bytes, got \"/\""},
    {TEXT("catalog: {path: ~}"),
     "1:17: catalog.path: expected an absolute path of at most 4095 printable bytes, got nothing"},
    {TEXT("catalog: {path: \"/a\\0b\"}"),
     "1:17: catalog.path: expected an absolute path of at most 4095 printable bytes, got "
     "\"/a\\x00b\""},
    {TEXT("catalog: {path: \"/a\\nb\"}"),
     "1:17: catalog.path: expected an absolute path of at most 4095 printable bytes, got "
     "\"/a\\x0ab\""},
    {TEXT("catalog: {path: \"/a\\L\\uFFFE\\u0080\"}"),
     "1:17: catalog.path: expected an absolute path of at most 4095 printable bytes, got "
     "\"/a\\xe2\\x80\\xa8\\xef\\xbf\\xbe\\xc2\\x80\""},
    {TEXT(
         "socket: {path: /"
         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
         "aaaaaaaaaaaaaaaaaa}"),
     "1:16: socket.path: expected an absolute path of at most 107 printable bytes, got "
     "\"/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
     "aaaaaaaaaaaaaaaaaa\""},
    {TEXT("socket: {group: ''}"),
     "1:17: socket.group: expected a group of at most 255 printable bytes, or nothing, got \"\""},

    /* What YAML has and settings have not */
    {TEXT("log: &a {level: info}\n"), "1:6: log: expected a plain value, got one with an anchor"},
    {TEXT("log: {level: &a info}\n"),
     "1:14: log.level: expected a plain value, got one with an anchor"},
    {TEXT("log: *a\n"), "1:6: log: expected a plain value, got an alias"},
    {TEXT("*a : b\n"), "1:1: expected a plain value, got an alias"},
    {TEXT("<<: *a\n"), "1:1: " KEY_EXPECTED "\"<<\""},
    {TEXT("log: !!map {level: info}\n"), "1:6: log: expected a plain value, got one with a tag"},
    {TEXT("log: {level: !!str info}\n"),
     "1:14: log.level: expected a plain value, got one with a tag"},
    {TEXT("log: {level: ! info}\n"), "1:14: log.level: expected a plain value, got one with a tag"},
    {TEXT("log: !x [a]\n"), "1:6: log: expected a plain value, got one with a tag"},
    {TEXT("log:\n---\nlog:\n"), "2:1: expected one YAML document, got a second one"},
    {TEXT("---\n...\n---\n"), "3:1: expected one YAML document, got a second one"},

    /* Not YAML, not text */
    {TEXT("log:\n\tlevel: info\n"),
     "2:1: log: expected YAML, got a syntax error while scanning for the next token: found "
     "character that cannot start any token"},
    {TEXT("log: {level: info\n"),
     "2:1: log: expected YAML, got a syntax error while parsing a flow mapping: did not find "
     "expected ',' or '}'"},
    {TEXT("log: \"open\n"),
     "2:1: log: expected YAML, got a syntax error while scanning a quoted scalar: found "
     "unexpected end of stream"},
    {TEXT("%YAML 3.0\n---\n"),
     "1:1: expected YAML, got a syntax error: found incompatible YAML document"},
    {TEXT("log:\n  a\xffz: 1\n"),
     "2:4: expected printable UTF-8, got byte 0xff: invalid leading UTF-8 octet"},
    {TEXT("# \xc3\xa9 \xc3(\n"),
     "1:6: expected printable UTF-8, got byte 0x28: invalid trailing UTF-8 octet"},
    {TEXT("# \xed\xa0\x80\n"),
     "1:3: expected printable UTF-8, got byte 0xed: invalid Unicode character"},
    {TEXT("log:\n\0\n"), "2:1: expected printable UTF-8, got byte 0x00: control characters are "
                         "not allowed"},
    {TEXT("\xff\xfel\0o\0g\0"),
     "1:1: expected printable UTF-8, got byte 0xff: invalid leading UTF-8 octet"},
    {TEXT("\xc3"), "1:1: expected printable UTF-8, got byte 0xc3: incomplete UTF-8 octet sequence"},
};

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

static void test_bad(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad_texts / sizeof bad_texts[0]; i++) {
        const struct bad *bad = &bad_texts[i];
        struct config config;
        struct error error = {{0}};
        char expected[1024];

        assert_int_equal(config_init(&config, NULL), 0);
        char *before = dump(&config);
        assert_int_equal(config_parse(&config, "t.yaml", bad->text, bad->bytes, &error), -EINVAL);
        snprintf(expected, sizeof expected, "t.yaml:%s", bad->error);
        assert_string_equal(error.text, expected);
        assert_int_equal(config_parse(&config, "t.yaml", bad->text, bad->bytes, NULL), -EINVAL);
        char *after = dump(&config);
        assert_string_equal(after, before);
        free(before);
        free(after);
        config_deinit(&config);
    }
}

/* Every text after the first must mean the same as the first. */
static const struct {
    const char *text;
    size_t bytes;
} same_texts[] = {
    {TEXT("log:\n  level: debug\nflush:\n  interval: 120s\n  dirty_limit: 1048576\n")},
    {TEXT("flush: {dirty_limit: 1M, interval: 2min}\nlog: {level: debug}\n")},
    {TEXT("{log: {level: debug}, flush: {dirty_limit: 1MiB, interval: 120000ms}}")},
    {TEXT("'log':\n  \"level\": 'debug'\nflush: {'interval': '120', dirty_limit: \"1024k\"}\n")},
    {TEXT("\xef\xbb\xbflog: {level: debug}\r\nflush: {interval: 120, dirty_limit: 1M}\r\n")},
    {TEXT("%YAML 1.1\n---\n? log\n: ? level\n  : debug\nflush: {interval: 120, dirty_limit: 1M}\n"
          "...\n")},
    {TEXT("{\"log\":{\"level\":\"debug\"},\"flush\":{\"interval\":120,\"dirty_limit\":1048576}}")},
};

static void test_same(void **state)
{
    char *first = NULL;

    (void)state;
    for (size_t i = 0; i < sizeof same_texts / sizeof same_texts[0]; i++) {
        struct config config;
        struct error error = {{0}};

        assert_int_equal(config_init(&config, NULL), 0);
        int r = config_parse(&config, "t", same_texts[i].text, same_texts[i].bytes, &error);
        assert_string_equal(error.text, "");
        assert_int_equal(r, 0);
        assert_int_equal(config.log.level, 4);
        assert_true(config.flush.interval_ns == UINT64_C(120000000000));
        assert_true(config.flush.dirty_limit == UINT64_C(1) << 20);
        char *text = dump(&config);
        if (first) {
            assert_string_equal(text, first);
            free(text);
        } else {
            first = text;
        }
        config_deinit(&config);
    }
    free(first);
}

/* Values at the edges of what is taken, and how a dump writes them. */
static const struct {
    const char *text;
    const char *line; /* of the dump */
} good_values[] = {
    {"", "\n  level: info\n"},
    {"~", "\n  level: info\n"},
    {"# only words\n", "\n  level: info\n"},
    {"---\n# only words\n", "\n  level: info\n"},
    {"log:\n", "\n  level: info\n"},
    {"log: ~\nflush: null\n", "\n  level: info\n"},
    {"log: {}\n", "\n  level: info\n"},
    {"log: {level: error}", "\n  level: error\n"},
    {"defaults: {durability: process-crash}", "\n  durability: process-crash\n"},
    {"socket: {mode: 0}", "\n  mode: 0000\n"},
    {"socket: {mode: 777}", "\n  mode: 0777\n"},
    {"socket: {mode: 000600}", "\n  mode: 0600\n"},
    {"socket: {group: }", "\n  group:\n"},
    {"socket: {group: ~}", "\n  group:\n"},
    {"socket: {group: backup}", "\n  group: backup\n"},
    {"socket: {group: 'null'}", "\n  group: \"null\"\n"},
    {"socket: {group: '~'}", "\n  group: \"~\"\n"},
    {"socket: {group: 'a \"b\\'}", "\n  group: \"a \\\"b\\\\\"\n"},
    {"socket: {group: \"\\u00e9t\xc3\xa9\"}", "\n  group: \"\xc3\xa9t\xc3\xa9\"\n"},
    {"catalog: {path: /a}", "\n  path: /a\n"},
    {"catalog: {path: \"/a b #c: d\"}", "\n  path: \"/a b #c: d\"\n"},
    {"container: {cluster_size: 512}", "\n  cluster_size: 512\n"},
    {"container: {cluster_size: 2048K}", "\n  cluster_size: 2M\n"},
    {"defaults: {granularity: 2G}", "\n  granularity: 2G\n"},
    {"limits: {memory: 16383P}", "\n  memory: 16383P\n"},
    {"limits: {memory: 18446744073709551615}", "\n  memory: 18446744073709551615\n"},
    {"limits: {bitmaps: 65535}", "\n  bitmaps: 65535\n"},
    {"limits: {drives: 0001}", "\n  drives: 1\n"},
    {"flush: {interval: 100ms}", "\n  interval: 100ms\n"},
    {"flush: {interval: 1440min}", "\n  interval: 1d\n"},
    {"flush: {interval: 90}", "\n  interval: 90s\n"},
};

static void test_good(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof good_values / sizeof good_values[0]; i++) {
        struct config config, again;
        struct error error = {{0}};

        assert_int_equal(config_init(&config, NULL), 0);
        int r =
            config_parse(&config, "t", good_values[i].text, strlen(good_values[i].text), &error);
        assert_string_equal(error.text, "");
        assert_int_equal(r, 0);
        char *text = dump(&config);
        if (!strstr(text, good_values[i].line)) {
            fail_msg("%s gave %s", good_values[i].text, text);
        }
        /* And what was dumped reads back as the same. */
        assert_int_equal(config_init(&again, NULL), 0);
        assert_int_equal(config_parse(&again, "t", text, strlen(text), NULL), 0);
        char *text_again = dump(&again);
        assert_string_equal(text_again, text);
        free(text);
        free(text_again);
        config_deinit(&config);
        config_deinit(&again);
    }
}

/* What one file leaves out stays as an earlier one said it. */
static void test_over(void **state)
{
    static const char first[] = "flush: {interval: 7s}\nsocket: {group: backup}\n";
    static const char second[] = "flush: {dirty_limit: 2M}\n";
    struct config config;

    (void)state;
    assert_int_equal(config_init(&config, NULL), 0);
    assert_int_equal(config_parse(&config, "t", first, strlen(first), NULL), 0);
    assert_int_equal(config_parse(&config, "t", second, strlen(second), NULL), 0);
    assert_true(config.flush.interval_ns == UINT64_C(7000000000));
    assert_true(config.flush.dirty_limit == UINT64_C(2) << 20);
    assert_string_equal(config.socket.group, "backup");
    config_deinit(&config);
}

static void parse_repeated(const char *piece, size_t bytes, const char *expected)
{
    char *text = malloc(bytes);
    struct config config;
    struct error error = {{0}};

    assert_non_null(text);
    for (size_t i = 0, n = strlen(piece); i < bytes; i++) {
        text[i] = piece[i % n];
    }
    assert_int_equal(config_init(&config, NULL), 0);
    assert_int_equal(config_parse(&config, "t", text, bytes, &error), expected[0] ? -EINVAL : 0);
    assert_string_equal(error.text, expected);
    config_deinit(&config);
    free(text);
}

/* As much of something as fits; that each of these ends at all is part of the test. */
static void test_large(void **state)
{
    (void)state;
    parse_repeated("#", CONFIG_BYTES_MAX, "");
    parse_repeated("#", CONFIG_BYTES_MAX + 1, "t: expected at most 1048576 bytes, got more");
    parse_repeated("[", CONFIG_BYTES_MAX, "t:1:1: expected a mapping of settings, got a list");
    parse_repeated("{", CONFIG_BYTES_MAX, "t:1:2: " KEY_EXPECTED "a mapping");
    parse_repeated("? ", CONFIG_BYTES_MAX, "t:1:3: " KEY_EXPECTED "a mapping");
    parse_repeated("- ", CONFIG_BYTES_MAX, "t:1:1: expected a mapping of settings, got a list");
    parse_repeated(
        "a", CONFIG_BYTES_MAX,
        "t:1:1: expected a mapping of settings, got "
        "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…\"");
    parse_repeated("\n", CONFIG_BYTES_MAX, "");
    parse_repeated("log:\n", CONFIG_BYTES_MAX - 1,
                   "t:2:1: log: expected it once, got it again (first on line 1)");
}

struct nest {
    uint32_t depth_seen;
};

static int nest_visit(void *opaque, const struct document_node *node, struct error *error)
{
    struct nest *nest = opaque;

    (void)error;
    nest->depth_seen += node->kind == DOCUMENT_MAPPING;
    return 0;
}

/* The walk's own bound, which no key of the schema reaches. */
static void test_depth(void **state)
{
    static const char fits[] = "{a: {b: {c: d}}, a: {b: {c: d}}}";
    static const char deep[] = "{a: {b: {c: {d: e}}}}";
    struct nest nest = {0};
    struct error error = {{0}};

    (void)state;
    assert_int_equal(document_walk("t", fits, strlen(fits), nest_visit, &nest, &error), 0);
    assert_int_equal(nest.depth_seen, 5);
    assert_int_equal(document_walk("t", deep, strlen(deep), nest_visit, &nest, &error), -EINVAL);
    assert_string_equal(error.text,
                        "t:1:13: a.b.c: expected at most 3 mappings inside one another, got more");
}

static char scratch[] = "/tmp/bitmapd-test-config-XXXXXX";

static int scratch_make(void **state)
{
    (void)state;
    return mkdtemp(scratch) ? 0 : -1;
}

static int scratch_remove(void **state)
{
    (void)state;
    return rmdir(scratch);
}

static void file_write(const char *path, const char *text, size_t bytes)
{
    FILE *file = fopen(path, "w");

    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

static void test_file(void **state)
{
    char path[64], expected[256];
    struct config config;
    struct error error;

    (void)state;
    snprintf(path, sizeof path, "%s/t.yaml", scratch);
    assert_int_equal(config_init(&config, NULL), 0);

    assert_int_equal(config_read(&config, path, &error), -ENOENT);
    snprintf(expected, sizeof expected, "%s: No such file or directory", path);
    assert_string_equal(error.text, expected);

    assert_int_equal(config_read(&config, scratch, &error), -EINVAL);
    snprintf(expected, sizeof expected, "%s: expected a regular file", scratch);
    assert_string_equal(error.text, expected);

    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(config_read(&config, path, &error), -EINVAL);
    assert_int_equal(unlink(path), 0);

    static const char good[] = "flush:\n  interval: 1h\n";
    file_write(path, good, strlen(good));
    assert_int_equal(config_read(&config, path, &error), 0);
    assert_true(config.flush.interval_ns == UINT64_C(3600000000000));

    static const char bad[] = "flush:\n  interval: 2h\n  dirty_limit: 1\n";
    file_write(path, bad, strlen(bad));
    assert_int_equal(config_read(&config, path, &error), -EINVAL);
    snprintf(
        expected, sizeof expected,
        "%s:3:16: flush.dirty_limit: expected a size (4096, 64K, 1G) of at least 1M, got \"1\"",
        path);
    assert_string_equal(error.text, expected);
    assert_true(config.flush.interval_ns == UINT64_C(3600000000000));

    char *large = calloc(1, CONFIG_BYTES_MAX + 1);
    assert_non_null(large);
    memset(large, '\n', CONFIG_BYTES_MAX + 1);
    file_write(path, large, CONFIG_BYTES_MAX);
    assert_int_equal(config_read(&config, path, &error), 0);
    file_write(path, large, CONFIG_BYTES_MAX + 1);
    assert_int_equal(config_read(&config, path, &error), -EINVAL);
    snprintf(expected, sizeof expected, "%s: expected at most 1048576 bytes, got more", path);
    assert_string_equal(error.text, expected);
    free(large);

    assert_int_equal(unlink(path), 0);
    config_deinit(&config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad),
        cmocka_unit_test(test_same),
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_over),
        cmocka_unit_test(test_large),
        cmocka_unit_test(test_depth),
        cmocka_unit_test_setup_teardown(test_file, scratch_make, scratch_remove),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
