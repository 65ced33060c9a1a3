/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Names: what is allowed, what is refused, and that the refusal tells where
 * without repeating the bytes.
 */
#include "proto/base/name.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define BOTH        "", ""
#define BYTES(text) (text), sizeof(text) - 1

/* @drive, @bitmap: what the refusal must say, "" for none. */
struct name_case {
    const char *name;
    size_t length_bytes;
    const char *drive;
    const char *bitmap;
};

static void check_name(enum name_kind kind, const struct name_case *c, const char *expected)
{
    struct error error = {.text = "untouched"};
    /* Exactly as long as the name: a byte read too many is a heap overflow. */
    char *exact = malloc(c->length_bytes ? c->length_bytes : 1);
    assert_non_null(exact);
    memcpy(exact, c->name, c->length_bytes);

    int r = name_check(kind, exact, c->length_bytes, &error);
    if (r != (*expected ? -EINVAL : 0)) {
        fail_msg("\"%s\": got %d (%s)", c->name, r, error.text);
    }
    if (*expected) {
        if (!strstr(error.text, expected)) {
            fail_msg("\"%s\": got \"%s\", expected \"%s\"", c->name, error.text, expected);
        }
        for (const char *p = error.text; *p; p++) {
            assert_true(*p >= 0x20 && *p < 0x7f);
        }
    } else {
        assert_string_equal(error.text, "untouched");
    }
    assert_int_equal(name_check(kind, exact, c->length_bytes, NULL), r);
    free(exact);
}

static void test_check(void **state)
{
    static const struct name_case cases[] = {
        {BYTES("a"), BOTH},
        {BYTES("0"), BOTH},
        {BYTES("."), BOTH},
        {BYTES("daily-2024"), BOTH},
        {BYTES("a-"), BOTH},
        {BYTES("\xc3\xa4\xe2\x82\xac\xf0\x9f\x92\xbe"), BOTH},
        {BYTES("\xef\xbf\xbd"), BOTH},
        {BYTES("\xf4\x8f\xbf\xbf"), BOTH}, /* the last code point */
        {BYTES("\xc2\xa1"), BOTH},         /* the first after C1 */
        {BYTES("\xed\x9f\xbf"), BOTH},     /* the last before the surrogates */
        {BYTES("vg0/vm-101-disk-0"), "", "'/' at byte 3"},
        {BYTES("a/b/c"), "", "'/' at byte 1"},
        {BYTES("a/-b"), "", "'/' at byte 1"},
        {BYTES(""), "empty", "empty"},
        {BYTES("-"), "begins with '-'", "begins with '-'"},
        {BYTES("--help"), "begins with '-'", "begins with '-'"},
        {BYTES("/"), "empty part at byte 0", "'/' at byte 0"},
        {BYTES("/a"), "empty part at byte 0", "'/' at byte 0"},
        {BYTES("a/"), "empty part at byte 1", "'/' at byte 1"},
        {BYTES("a//b"), "empty part at byte 1", "'/' at byte 1"},
        {BYTES("a b"), "space at byte 1", "space at byte 1"},
        {BYTES(" "), "space at byte 0", "space at byte 0"},
        {BYTES("a@b"), "'@' at byte 1", "'@' at byte 1"},
        {BYTES("ab\0c"), "control character at byte 2", "control character at byte 2"},
        {BYTES("a\n"), "control character at byte 1", "control character at byte 1"},
        {BYTES("a\x1b[2J"), "control character at byte 1", "control character at byte 1"},
        {BYTES("a\x1f"), "control character at byte 1", "control character at byte 1"},
        {BYTES("a\x7f"), "control character at byte 1", "control character at byte 1"},
        {BYTES("\xc2\x80"), "control character at byte 0", "control character at byte 0"},
        {BYTES("a\xc2\x9f"), "control character at byte 1", "control character at byte 1"},
        /* Not UTF-8: lone continuation, cut sequences, overlong, surrogates, too large, 5 bytes. */
        {BYTES("a\x80"), "not UTF-8 at byte 1", "not UTF-8 at byte 1"},
        {BYTES("a\xbf"), "not UTF-8 at byte 1", "not UTF-8 at byte 1"},
        {BYTES("a\xc3"), "not UTF-8 at byte 1", "not UTF-8 at byte 1"},
        {BYTES("a\xe2\x82"), "not UTF-8 at byte 1", "not UTF-8 at byte 1"},
        {BYTES("a\xf0\x9f\x92"), "not UTF-8 at byte 1", "not UTF-8 at byte 1"},
        {BYTES("\xc3(b"), "not UTF-8 at byte 0", "not UTF-8 at byte 0"},
        {BYTES("\xe2\x82("), "not UTF-8 at byte 0", "not UTF-8 at byte 0"},
        {BYTES("\xc0\x80"), "not UTF-8 at byte 0", "not UTF-8 at byte 0"},
        {BYTES("\xc0\xaf"), "not UTF-8 at byte 0", "not UTF-8 at byte 0"},
        {BYTES("\xc1\xbf"), "not UTF-8 at byte 0", "not UTF-8 at byte 0"},
        {BYTES("\xe0\x9f\xbf"), "not UTF-8 at byte 0", "not UTF-8 at byte 0"},
        {BYTES("\xf0\x8f\xbf\xbf"), "not UTF-8 at byte 0", "not UTF-8 at byte 0"},
        {BYTES("\xed\xa0\x80"), "not UTF-8 at byte 0", "not UTF-8 at byte 0"},
        {BYTES("\xed\xbf\xbf"), "not UTF-8 at byte 0", "not UTF-8 at byte 0"},
        {BYTES("\xf4\x90\x80\x80"), "not UTF-8 at byte 0", "not UTF-8 at byte 0"},
        {BYTES("\xf7\xbf\xbf\xbf"), "not UTF-8 at byte 0", "not UTF-8 at byte 0"},
        {BYTES("\xf8\x88\x80\x80\x80"), "not UTF-8 at byte 0", "not UTF-8 at byte 0"},
        {BYTES("\xfe"), "not UTF-8 at byte 0", "not UTF-8 at byte 0"},
        {BYTES("\xff"), "not UTF-8 at byte 0", "not UTF-8 at byte 0"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        check_name(NAME_DRIVE, &cases[i], cases[i].drive);
        check_name(NAME_BITMAP, &cases[i], cases[i].bitmap);
    }
}

static void test_length(void **state)
{
    char name[NAME_BYTES_MAX + 1];
    struct error error;

    (void)state;
    memset(name, 'x', sizeof name);
    assert_int_equal(name_check(NAME_BITMAP, name, NAME_BYTES_MAX, &error), 0);
    assert_int_equal(name_check(NAME_DRIVE, name, NAME_BYTES_MAX, &error), 0);
    assert_int_equal(name_check(NAME_BITMAP, name, NAME_BYTES_MAX + 1, &error), -EINVAL);
    assert_string_equal(error.text, "name is 256 bytes long, more than 255");
    assert_int_equal(name_check(NAME_DRIVE, name, NAME_BYTES_MAX + 1, &error), -EINVAL);
    assert_string_equal(error.text, "drive name is 256 bytes long, more than 255");
}

static void test_split(void **state)
{
    static const struct {
        const char *full;
        size_t length_bytes;
        int r;
        size_t drive_bytes;
        const char *text;
    } cases[] = {
        {BYTES("d/b"), 0, 1, ""},
        {BYTES("vg0/vm/b"), 0, 6, ""},
        {BYTES("\xc3\xa4/\xc3\xb6"), 0, 2, ""},
        {BYTES(""), -EINVAL, 0, "no '/'"},
        {BYTES("d"), -EINVAL, 0, "no '/'"},
        {BYTES("/"), -EINVAL, 0, "drive name is empty"},
        {BYTES("/b"), -EINVAL, 0, "drive name is empty"},
        {BYTES("d/"), -EINVAL, 0, "name is empty"},
        {BYTES("d//b"), -EINVAL, 0, "drive name has an empty part at byte 1"},
        {BYTES("/d/b"), -EINVAL, 0, "drive name has an empty part at byte 0"},
        {BYTES("-d/b"), -EINVAL, 0, "drive name begins with '-'"},
        {BYTES("d/-b"), -EINVAL, 0, "name begins with '-'"},
        {BYTES("d@1/b"), -EINVAL, 0, "drive name has an '@' at byte 1"},
        {BYTES("d/b@1"), -EINVAL, 0, "name has an '@' at byte 1"},
        {BYTES("d/b\0"), -EINVAL, 0, "name has a control character at byte 1"},
        {BYTES("d\xc3/\xa4"), -EINVAL, 0, "drive name is not UTF-8 at byte 1"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct error error = {.text = ""};
        size_t drive_bytes = 4711;
        int r = name_split(cases[i].full, cases[i].length_bytes, &drive_bytes, &error);
        assert_int_equal(r, cases[i].r);
        assert_int_equal(drive_bytes, r == 0 ? cases[i].drive_bytes : 4711);
        if (*cases[i].text) {
            assert_non_null(strstr(error.text, cases[i].text));
        } else {
            assert_string_equal(error.text, "");
        }
    }
}

static void test_split_longest(void **state)
{
    char full[NAME_BYTES_MAX + 1 + NAME_BYTES_MAX + 1];
    struct error error;
    size_t drive_bytes = 0;

    (void)state;
    memset(full, 'x', sizeof full);
    full[NAME_BYTES_MAX] = '/';
    assert_int_equal(name_split(full, sizeof full - 1, &drive_bytes, &error), 0);
    assert_int_equal(drive_bytes, NAME_BYTES_MAX);
    assert_int_equal(name_split(full, sizeof full, &drive_bytes, &error), -EINVAL);
    assert_string_equal(error.text, "name is 256 bytes long, more than 255");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_check),
        cmocka_unit_test(test_length),
        cmocka_unit_test(test_split),
        cmocka_unit_test(test_split_longest),
    };
    return cmocka_run_group_tests_name("base: names", tests, NULL, NULL);
}
