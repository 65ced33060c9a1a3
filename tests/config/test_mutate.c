/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The sample with bytes changed, dropped, doubled and spliced at random: each
 * result is either refused with a message that begins with the file's name and
 * changes nothing, or it is taken and then dumps to something that reads back
 * as the same.  The sanitizer's preset makes memory errors fail too.
 *
 * BITMAPD_TEST_SEED repeats a run.
 */
#include "config/config.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ROUNDS 6000

static uint64_t random_state;

/* xorshift64*, Vigna 2016. */
static uint64_t random_u64(void)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return random_state * UINT64_C(0x2545f4914f6cdd1d);
}

static size_t random_below(size_t bound)
{
    return (size_t)(random_u64() % bound);
}

/* Pieces that mean something to YAML or to the schema. */
static const char *const pieces[] = {
    "&a ",
    "*a",
    "!!str ",
    "---\n",
    "...\n",
    "? ",
    ": ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    ",",
    "|\n",
    ">-\n",
    "\"",
    "'",
    "\\x00",
    "\\L",
    "#",
    "\t",
    "\xff",
    "\xc3",
    "\r",
    "~",
    "null",
    "0",
    "-1",
    "16P",
    "9999999999",
    "5min",
    "socket:",
    "log:",
    "  path: ",
    "%YAML 1.1\n",
    "<<: ",
    "\xef\xbb\xbf",
    "\xe2\x80\xa8",
};

/* One random change of the text, which has room for @room bytes; the new length. */
static size_t mutate(char *text, size_t bytes, size_t room)
{
    size_t at = random_below(bytes + 1);
    size_t left = bytes - at;

    switch (random_below(5)) {
    case 0: /* another byte */
        if (left > 0) {
            text[at] = (char)random_below(256);
        }
        return bytes;
    case 1: /* a hole */
    {
        size_t n = random_below(left < 40 ? left + 1 : 40);
        memmove(text + at, text + at + n, left - n);
        return bytes - n;
    }
    case 2: /* a piece put in */
    {
        const char *piece = pieces[random_below(sizeof pieces / sizeof pieces[0])];
        size_t n = strlen(piece);
        if (bytes + n > room) {
            return bytes;
        }
        memmove(text + at + n, text + at, left);
        memcpy(text + at, piece, n);
        return bytes + n;
    }
    case 3: /* a part of the text itself put in */
    {
        size_t n = random_below(left < 200 ? left + 1 : 200);
        if (bytes + n > room) {
            return bytes;
        }
        memmove(text + at + n, text + at, left);
        return bytes + n;
    }
    default: /* the end cut off */
        return random_below(10) == 0 && at > 0 ? at : bytes;
    }
}

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

/* Returns whether the text was taken. */
static bool check(const char *initial, const char *text, size_t bytes)
{
    struct config config;
    struct error error = {{0}};

    assert_int_equal(config_init(&config, NULL), 0);
    int r = config_parse(&config, "t.yaml", text, bytes, &error);
    char *dumped = dump(&config);
    if (r < 0) {
        assert_int_equal(r, -EINVAL);
        assert_memory_equal(error.text, "t.yaml:", 7);
        /* One line, with nothing in it that a terminal would act on. */
        for (const char *p = error.text; *p; p++) {
            assert_true((unsigned char)*p >= 0x20 && *p != 0x7f);
        }
        assert_string_equal(dumped, initial);
    } else {
        struct config again;
        assert_int_equal(config_init(&again, NULL), 0);
        assert_int_equal(config_parse(&again, "dump", dumped, strlen(dumped), &error), 0);
        char *dumped_again = dump(&again);
        assert_string_equal(dumped_again, dumped);
        free(dumped_again);
        config_deinit(&again);
    }
    free(dumped);
    config_deinit(&config);
    return r == 0;
}

static void test_mutations(void **state)
{
    const char *seed = getenv("BITMAPD_TEST_SEED");
    const char *folder = getenv("BITMAPD_CONFIG_SOURCE_DIR");
    char path[4096];
    static char sample[8192], text[16384];
    struct config initial;
    uint32_t taken = 0;

    (void)state;
    random_state = seed ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL);
    random_state += random_state == 0;
    print_message("BITMAPD_TEST_SEED=%" PRIu64 "\n", random_state);

    if (!folder) {
        fail_msg("BITMAPD_CONFIG_SOURCE_DIR is not set: run this under ctest");
    }
    snprintf(path, sizeof path, "%s/bitmapd.yaml", folder);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    size_t sample_bytes = fread(sample, 1, sizeof sample, file);
    assert_in_range(sample_bytes, 500, sizeof sample - 1);
    assert_int_equal(fclose(file), 0);

    assert_int_equal(config_init(&initial, NULL), 0);
    char *initial_text = dump(&initial);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        memcpy(text, sample, sample_bytes);
        size_t bytes = sample_bytes;
        for (size_t changes = 1 + random_below(4); changes > 0; changes--) {
            bytes = mutate(text, bytes, sizeof text);
        }
        /* In a block of exactly its size, so that reading beyond shows. */
        char *exact = malloc(bytes + (bytes == 0));
        assert_non_null(exact);
        memcpy(exact, text, bytes);
        taken += check(initial_text, exact, bytes);
        free(exact);
    }
    print_message("%" PRIu32 " of %d were taken\n", taken, ROUNDS);
    /* Changes within comments are harmless, most others are not: both ways must have been gone. */
    assert_in_range(taken, ROUNDS / 50, ROUNDS - ROUNDS / 50);
    free(initial_text);
    config_deinit(&initial);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_mutations)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
