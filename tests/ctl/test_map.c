/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Maps as text.  Golden text for the shapes; for random runs the text is read
 * back and must describe the same bytes, whatever the cuts between calls.
 */
#include "client/ctl/map.h"
#include "proto/base/crc32c.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

struct text {
    char *data;
    size_t bytes;
    FILE *file;
};

static void text_write(void *opaque, const void *data, size_t bytes)
{
    struct text *text = opaque;
    assert_int_equal(fwrite(data, 1, bytes, text->file), bytes);
}

static struct map_writer writer;

static void begin(struct text *text, enum output_format format, uint64_t size)
{
    *text = (struct text){0};
    text->file = open_memstream(&text->data, &text->bytes);
    assert_non_null(text->file);
    map_writer_init(&writer, format, size, text_write, text);
}

static void finish(struct text *text)
{
    map_writer_finish(&writer);
    assert_int_equal(fclose(text->file), 0);
}

static void check(enum output_format format, uint64_t size, const struct bitmapd_range *runs,
                  size_t count, const char *expected)
{
    struct text text;

    begin(&text, format, size);
    assert_int_equal(map_writer_add(&writer, runs, count), 0);
    finish(&text);
    assert_string_equal(text.data, expected);
    free(text.data);
}

#define RUNS(...)                                \
    (const struct bitmapd_range[]){__VA_ARGS__}, \
        sizeof((const struct bitmapd_range[]){__VA_ARGS__}) / sizeof(struct bitmapd_range)

static void test_json(void **state)
{
    (void)state;
    check(OUTPUT_JSON, 1, NULL, 0,
          "[{\"offset\":0,\"length\":1,\"type\":0,\"description\":\"clean\"}]\n");
    check(OUTPUT_JSON, 1, RUNS({0, 1}),
          "[{\"offset\":0,\"length\":1,\"type\":1,\"description\":\"dirty\"}]\n");
    check(OUTPUT_JSON, 1000, RUNS({0, 512}),
          "[{\"offset\":0,\"length\":512,\"type\":1,\"description\":\"dirty\"},\n"
          "{\"offset\":512,\"length\":488,\"type\":0,\"description\":\"clean\"}]\n");
    check(OUTPUT_JSON, 1000, RUNS({512, 488}),
          "[{\"offset\":0,\"length\":512,\"type\":0,\"description\":\"clean\"},\n"
          "{\"offset\":512,\"length\":488,\"type\":1,\"description\":\"dirty\"}]\n");
    /* Neighbours are one extent. */
    check(OUTPUT_JSON, 10, RUNS({0, 2}, {2, 3}, {5, 1}, {7, 3}),
          "[{\"offset\":0,\"length\":6,\"type\":1,\"description\":\"dirty\"},\n"
          "{\"offset\":6,\"length\":1,\"type\":0,\"description\":\"clean\"},\n"
          "{\"offset\":7,\"length\":3,\"type\":1,\"description\":\"dirty\"}]\n");
    check(OUTPUT_JSON, UINT64_MAX, RUNS({UINT64_MAX - 1, 1}),
          "[{\"offset\":0,\"length\":18446744073709551614,\"type\":0,\"description\":\"clean\"},\n"
          "{\"offset\":18446744073709551614,\"length\":1,\"type\":1,\"description\":\"dirty\"}]\n");
}

static void test_human(void **state)
{
    (void)state;
    check(OUTPUT_HUMAN, 1000, RUNS({0, 512}),
          "   0   512  dirty\n"
          " 512   488  clean\n");
    check(OUTPUT_HUMAN, UINT64_MAX, RUNS({0, UINT64_MAX}),
          "                   0  18446744073709551615  dirty\n");
}

static void test_ndjson(void **state)
{
    /* (0, 512) and (1024, 1), little endian. */
    static const uint8_t encoded[32] = {[9] = 2, [17] = 4, [24] = 1};
    char expected[256];

    (void)state;
    check(OUTPUT_NDJSON, 2000, NULL, 0, "{\"complete\":true,\"tuples\":0,\"crc32c\":0}\n");
    (void)snprintf(expected, sizeof expected,
                   "{\"byte_offset\":0,\"size_bytes\":512}\n"
                   "{\"byte_offset\":1024,\"size_bytes\":1}\n"
                   "{\"complete\":true,\"tuples\":2,\"crc32c\":%" PRIu32 "}\n",
                   crc32c(0, encoded, sizeof encoded));
    check(OUTPUT_NDJSON, 2000, RUNS({0, 512}, {1024, 1}), expected);
}

static void test_bad_runs_are_refused(void **state)
{
    static const struct bitmapd_range bad[][2] = {
        {{10, 5}, {14, 1}},          /* overlaps */
        {{10, 5}, {0, 1}},           /* goes back */
        {{10, 5}, {20, 0}},          /* empty */
        {{10, 5}, {99, 2}},          /* past the end */
        {{10, 5}, {101, 1}},         /* begins past the end */
        {{10, 5}, {50, UINT64_MAX}}, /* wraps */
        {{10, 5}, {UINT64_MAX, UINT64_MAX}},
    };

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        for (size_t at_once = 1; at_once <= 2; at_once++) {
            struct text text;
            begin(&text, OUTPUT_JSON, 100);
            if (at_once == 1) {
                assert_int_equal(map_writer_add(&writer, &bad[i][0], 1), 0);
                assert_int_equal(map_writer_add(&writer, &bad[i][1], 1), -EPROTO);
            } else {
                assert_int_equal(map_writer_add(&writer, bad[i], 2), -EPROTO);
            }
            finish(&text);
            free(text.data);
        }
    }
}

static uint64_t random_below(uint64_t limit)
{
    return ((uint64_t)random() << 31 | (uint64_t)random()) % limit;
}

/* Reads the array back; checks that it covers the drive with alternating extents. */
static void check_array(const char *json, const uint8_t *dirty, uint64_t size)
{
    json_object *array = json_tokener_parse(json);
    uint64_t done = 0;
    int last = -1;

    assert_true(json_object_is_type(array, json_type_array));
    for (size_t i = 0; i < json_object_array_length(array); i++) {
        json_object *extent = json_object_array_get_idx(array, i);
        uint64_t offset = json_object_get_uint64(json_object_object_get(extent, "offset"));
        uint64_t length = json_object_get_uint64(json_object_object_get(extent, "length"));
        int type = json_object_get_int(json_object_object_get(extent, "type"));
        assert_int_equal(offset, done);
        assert_true(length > 0 && length <= size - done);
        assert_int_not_equal(type, last);
        assert_string_equal(json_object_get_string(json_object_object_get(extent, "description")),
                            type ? "dirty" : "clean");
        for (uint64_t at = offset; at < offset + length; at++) {
            assert_int_equal(dirty[at], type);
        }
        done = offset + length;
        last = type;
    }
    assert_int_equal(done, size);
    json_object_put(array);
}

static void test_random_runs(void **state)
{
    enum {
        SIZE = 20000
    };
    static uint8_t dirty[SIZE];

    (void)state;
    for (int round = 0; round < 30; round++) {
        struct text text;
        uint64_t limit = 1 + random_below(round % 3 ? 8 : 900);
        uint64_t at = random_below(limit);

        memset(dirty, 0, sizeof dirty);
        begin(&text, OUTPUT_JSON, SIZE);
        while (at < SIZE) {
            struct bitmapd_range run = {at, 1 + random_below(limit)};
            if (run.length > SIZE - at) {
                run.length = SIZE - at;
            }
            memset(dirty + at, 1, run.length);
            assert_int_equal(map_writer_add(&writer, &run, 1), 0);
            at += run.length + random_below(limit);
        }
        finish(&text);
        check_array(text.data, dirty, SIZE);
        free(text.data);
    }
}

/* The next number in the text at *@p, which is moved behind it. */
static uint64_t next_number(char **p)
{
    *p += strcspn(*p, "0123456789");
    return strtoull(*p, p, 10);
}

/* More text than the buffer holds, in every format: no byte is lost between its flushes. */
static void test_many_extents(void **state)
{
    enum {
        RUNS_EACH = 50000
    };
    static struct bitmapd_range runs[RUNS_EACH];

    (void)state;
    for (uint64_t i = 0; i < RUNS_EACH; i++) {
        runs[i] = (struct bitmapd_range){i * (UINT64_C(1) << 40) + 7, (UINT64_C(1) << 39) + i};
    }
    for (int format = 0; format < 3; format++) {
        struct text text;
        begin(&text, (enum output_format)format, UINT64_MAX);
        assert_int_equal(map_writer_add(&writer, runs, RUNS_EACH), 0);
        finish(&text);
        char *p = text.data;
        uint64_t done = 0;
        for (size_t i = 0; i < RUNS_EACH; i++) {
            if (format != OUTPUT_NDJSON) {
                assert_int_equal(next_number(&p), done);
                assert_int_equal(next_number(&p), runs[i].offset - done);
                assert_int_equal(format == OUTPUT_JSON ? next_number(&p) : 0, 0);
            }
            assert_int_equal(next_number(&p), runs[i].offset);
            assert_int_equal(next_number(&p), runs[i].length);
            assert_int_equal(format == OUTPUT_JSON ? next_number(&p) : 1, 1);
            done = runs[i].offset + runs[i].length;
        }
        free(text.data);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json),        cmocka_unit_test(test_human),
        cmocka_unit_test(test_ndjson),      cmocka_unit_test(test_bad_runs_are_refused),
        cmocka_unit_test(test_random_runs), cmocka_unit_test(test_many_extents),
    };
    const char *given = getenv("BITMAPD_TEST_SEED");
    unsigned seed = given ? (unsigned)strtoul(given, NULL, 0) : (unsigned)time(NULL);

    printf("BITMAPD_TEST_SEED=%u\n", seed);
    srandom(seed);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
