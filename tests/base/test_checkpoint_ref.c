/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * "NAME" and "NAME@UUID": the whole of a UUID or none, nothing cut or
 * completed.
 */
#include "proto/base/checkpoint_ref.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define UUID "00010203-0405-0607-0809-0a0b0c0d0e0f"

/* From an allocation of exactly its size. */
static int parse(const char *text, struct checkpoint_ref *ret, struct error *error)
{
    size_t bytes = strlen(text);
    char *exact = malloc(bytes ? bytes : 1);
    assert_non_null(exact);
    memcpy(exact, text, bytes);
    int r = checkpoint_ref_parse(exact, bytes, ret, error);
    free(exact);
    return r;
}

static void test_good(void **state)
{
    struct checkpoint_ref ref;

    (void)state;
    assert_int_equal(parse("größe", &ref, NULL), 0);
    assert_int_equal(ref.name_bytes, 7);
    assert_false(ref.has_uuid);
    assert_int_equal(parse("daily@" UUID, &ref, NULL), 0);
    assert_int_equal(ref.name_bytes, 5);
    assert_true(ref.has_uuid);
    for (uint8_t i = 0; i < 16; i++) {
        assert_int_equal(ref.uuid[i], i);
    }
    assert_int_equal(parse("d@FFFEfdfc-0000-0000-0000-00000000aBcD", &ref, NULL), 0);
    assert_true(ref.uuid[0] == 0xff && ref.uuid[3] == 0xfc && ref.uuid[15] == 0xcd);
}

static void test_bad(void **state)
{
    static const char *const bad[] = {
        "",
        "@",
        "@" UUID,
        "a@",
        "a/b",
        "-a",
        "a b",
        "a@" UUID "0",
        "a@" UUID "@",
        "a@@" UUID,
        "a@0001020304050607080900a0b0c0d0e0f000",
        "a@00010203-0405-0607-0809-0a0b0c0d0e0",
        "a@00010203-0405-0607-08090-a0b0c0d0e0f",
        "a@g0010203-0405-0607-0809-0a0b0c0d0e0f",
        "a@00010203-0405-0607-0809-0a0b0c0d0e0g",
        "a@ 0010203-0405-0607-0809-0a0b0c0d0e0f",
    };

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct checkpoint_ref ref = {.name_bytes = 77};
        struct error error = {{0}};
        if (parse(bad[i], &ref, &error) != -EINVAL || error.text[0] == '\0') {
            fail_msg("\"%s\" was taken", bad[i]);
        }
        assert_int_equal(ref.name_bytes, 77);
        assert_int_equal(parse(bad[i], &ref, NULL), -EINVAL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_bad),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
