/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Errors in words, cut to their buffer without splitting a character.
 */
#include "proto/base/error.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define TEXT_MAX (sizeof(((struct error *)NULL)->text) - 1)

static void test_set(void **state)
{
    struct error error;

    (void)state;
    assert_int_equal(error_set(&error, -EBADMSG, "header at %d: %s", 104, "bad"), -EBADMSG);
    assert_string_equal(error.text, "header at 104: bad");
    assert_int_equal(error_prefix(&error, -EIO, "container %s", "x"), -EIO);
    assert_string_equal(error.text, "container x: header at 104: bad");
    assert_int_equal(error_prefix(&error, -EIO, "a"), -EIO);
    assert_string_equal(error.text, "a: container x: header at 104: bad");
    assert_int_equal(error_set_errno(&error, -ENOENT, "open %s", "/x"), -ENOENT);
    assert_string_equal(error.text, "open /x: No such file or directory");
    assert_int_equal(error_set(&error, -EINVAL, "%s", ""), -EINVAL);
    assert_string_equal(error.text, "");

    assert_int_equal(error_set(NULL, -1, "x"), -1);
    assert_int_equal(error_prefix(NULL, -2, "x"), -2);
    assert_int_equal(error_set_errno(NULL, -3, "x"), -3);
}

static void test_cut(void **state)
{
    char longer[2 * TEXT_MAX];
    struct error error;

    (void)state;
    memset(longer, 'x', sizeof longer);
    longer[sizeof longer - 1] = '\0';
    error_set(&error, -EINVAL, "%s", longer);
    assert_int_equal(strlen(error.text), TEXT_MAX);
    error_set_errno(&error, -ENOENT, "%s", longer);
    assert_int_equal(strlen(error.text), TEXT_MAX);
    error_prefix(&error, -EINVAL, "front");
    assert_int_equal(strlen(error.text), TEXT_MAX);
    assert_memory_equal(error.text, "front: xxx", 10);

    /* A prefix that leaves room for part of ": text", for none of it, and that fills all. */
    for (size_t length = TEXT_MAX - 4; length <= TEXT_MAX + 4; length++) {
        error_set(&error, -EINVAL, "old");
        error_prefix(&error, -EINVAL, "%.*s", (int)length, longer);
        size_t shown = strlen(error.text);
        assert_in_range(shown, length < TEXT_MAX ? length : TEXT_MAX, TEXT_MAX);
        assert_memory_equal(error.text, longer, length < TEXT_MAX ? length : TEXT_MAX);
        if (length == TEXT_MAX - 4) {
            assert_string_equal(error.text + length, ": ol");
        }
        if (length + 2 >= TEXT_MAX) {
            assert_true(shown == length || length > TEXT_MAX);
        }
    }
}

/* One of each length, at every distance from the cut. */
static void test_cut_keeps_characters(void **state)
{
    static const char *const characters[] = {"\xc3\xa4", "\xe2\x82\xac", "\xf0\x9f\x92\xbe"};
    char padding[TEXT_MAX + 1];
    struct error error;

    (void)state;
    memset(padding, 'x', sizeof padding);
    for (size_t i = 0; i < sizeof characters / sizeof characters[0]; i++) {
        size_t width = strlen(characters[i]);
        for (size_t before = TEXT_MAX - 6; before <= TEXT_MAX; before++) {
            size_t expected = before + width <= TEXT_MAX ? before + width : before;
            error_set(&error, -EINVAL, "%.*s%s%s", (int)before, padding, characters[i],
                      expected == before ? "y" : "");
            assert_int_equal(strlen(error.text), expected);

            /* The same as the text behind a prefix of "a: ". */
            error_set(&error, -EINVAL, "%.*s%s", (int)before - 3, padding, characters[i]);
            error_prefix(&error, -EINVAL, "a");
            assert_int_equal(strlen(error.text), expected);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_set),
        cmocka_unit_test(test_cut),
        cmocka_unit_test(test_cut_keeps_characters),
    };
    return cmocka_run_group_tests_name("base: errors", tests, NULL, NULL);
}
