/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Text from outside on its way to a terminal and into JSON, lines of `mark
 * --stdin`, and the exit codes.
 */
#include "client/ctl/exit.h"
#include "client/ctl/mark.h"
#include "client/ctl/text.h"
#include "proto/status.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void check_text(char *result, const char *expected)
{
    assert_non_null(result);
    assert_string_equal(result, expected);
    free(result);
}

static void test_terminal(void **state)
{
    static const struct {
        const char *text;
        const char *shown;
    } cases[] = {
        {"", ""},
        {"vg0/vm-101", "vg0/vm-101"},
        {"Größe/円/\xf0\x9f\x92\xbe", "Größe/円/\xf0\x9f\x92\xbe"},
        {"a\x1b[31mb\r\n\t\x7f", "a\\x1b[31mb\\x0d\\x0a\\x09\\x7f"},
        {"\xc2\x9b"
         "31m",
         "\\xc2\\x9b31m"}, /* CSI in one character */
        {"\xe2\x80\xae"
         "gpj",
         "\\xe2\\x80\\xaegpj"},                       /* right-to-left override */
        {"\xff\xfe", "\\xff\\xfe"},                   /* never in UTF-8 */
        {"\xc0\xaf", "\\xc0\\xaf"},                   /* overlong '/' */
        {"\xed\xa0\x80", "\\xed\\xa0\\x80"},          /* surrogate */
        {"\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80"}, /* above U+10FFFF */
        {"x\xe2\x82", "x\\xe2\\x82"},                 /* cut short */
        {"\xc3(", "\\xc3("},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        check_text(text_for_terminal(cases[i].text), cases[i].shown);
    }
}

static void test_json(void **state)
{
    (void)state;
    check_text(text_as_utf8("a\xff"
                            "b\xc3"),
               "a\xef\xbf\xbd"
               "b\xef\xbf\xbd");
    check_text(text_as_utf8("Größe"), "Größe");
    check_text(text_json_for_terminal("{\"a\":\"\x7f\xc2\x9b\xe2\x80\xaeö\"}\n"),
               "{\"a\":\"\\u007f\\u009b\\u202eö\"}\n");
}

static void test_sizes(void **state)
{
    static const struct {
        uint64_t bytes;
        const char *text;
    } cases[] = {
        {0, "0"},
        {1023, "1023"},
        {1024, "1K"},
        {1025, "1025"},
        {65536, "64K"},
        {UINT64_C(3) << 40, "3T"},
        {UINT64_C(1) << 63, "8192P"},
        {UINT64_MAX, "18446744073709551615"},
    };
    char buffer[TEXT_SIZE_BYTES];

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_string_equal(text_size(cases[i].bytes, buffer), cases[i].text);
    }
}

static void test_uuid(void **state)
{
    static const uint8_t uuid[16] = {0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef,
                                     0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77};
    char buffer[TEXT_UUID_BYTES];

    (void)state;
    assert_string_equal(text_uuid(uuid, buffer), "01234567-89ab-cdef-0011-223344556677");
}

static void test_mark_lines(void **state)
{
    static const struct {
        const char *line;
        uint64_t offset;
        uint64_t length;
    } good[] = {
        {"0 1", 0, 1},
        {"64K 1M", 65536, 1 << 20},
        {" \t 5\t \t6  ", 5, 6},
        {"18446744073709551615 18446744073709551615", UINT64_MAX, UINT64_MAX},
    };
    static const struct {
        const char *line;
        const char *words;
    } bad[] = {
        {"", "OFFSET is missing"},
        {"  ", "OFFSET is missing"},
        {"1", "LENGTH is missing"},
        {"1 ", "LENGTH is missing"},
        {"1 0", "LENGTH is 0"},
        {"1 2 3", "there is more than OFFSET LENGTH"},
        {"-1 2", "OFFSET '-1' is no size"},
        {"1 +2", "LENGTH '+2' is no size"},
        {"1 2\r", "LENGTH '2\r' is no size"},
        {"1,2", "OFFSET '1,2' is no size"},
        {"18446744073709551616 1", "OFFSET '18446744073709551616' does not fit 64 bits"},
        {"0 16384P", "LENGTH '16384P' does not fit 64 bits"},
        {"0x10 1", "OFFSET '0x10' is no size"},
        {"0000000000000000000000000000000000000000000000000000000000000000000001 1",
         "OFFSET is no size"},
    };
    struct bitmapd_range range;
    struct error error;

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_int_equal(mark_line_parse(good[i].line, strlen(good[i].line), &range, &error), 0);
        assert_true(range.offset == good[i].offset && range.length == good[i].length);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(mark_line_parse(bad[i].line, strlen(bad[i].line), &range, &error),
                         -EINVAL);
        assert_string_equal(error.text, bad[i].words);
    }
    /* A NUL does not end a line. */
    assert_int_equal(mark_line_parse("1 2\0"
                                     "3",
                                     5, &range, &error),
                     -EINVAL);
    /* Nothing behind the line is looked at. */
    assert_int_equal(mark_line_parse("1 23", 3, &range, &error), 0);
    assert_int_equal(range.length, 2);
}

static void test_exit_codes(void **state)
{
    static const struct {
        int r;
        int status;
        int request;
        int connect;
    } cases[] = {
        {0, 0, 0, 0},
        {-ENOENT, STATUS_NOT_FOUND, 4, 4},
        {-ENOENT, 0, 4, 3}, /* connecting: no such socket */
        {-ECONNREFUSED, 0, 3, 3},
        {-ENOTCONN, 0, 3, 3},
        {-ECONNRESET, 0, 1, 3},
        {-EEXIST, STATUS_EXISTS, 5, 5},
        {-EBUSY, STATUS_BUSY, 5, 5},
        {-EPERM, STATUS_PERMISSION, 7, 7},
        {-EACCES, 0, 7, 7},
        {-EINVAL, 0, 2, 2},
        {-EINVAL, STATUS_INVALID, 1, 1},
        {-ENAMETOOLONG, 0, 1, 2},
        {-ECONNABORTED, 0, 1, 3}, /* of a request: its outcome is unknown */
        {-EPROTO, 0, 1, 1},
        {-EIO, STATUS_IO, 1, 1},
        {-EINPROGRESS, STATUS_NOT_DURABLE, 1, 1},
        {-EOWNERDEAD, STATUS_FENCED, 1, 1},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(exit_from_request(cases[i].r, cases[i].status), cases[i].request);
        assert_int_equal(exit_from_connect(cases[i].r, cases[i].status), cases[i].connect);
    }
    assert_int_equal(exit_from_file(-ENOENT), 1);
    assert_int_equal(exit_from_file(-EEXIST), 5);
    assert_int_equal(exit_from_file(-EBUSY), 5);
    assert_int_equal(exit_from_file(-EACCES), 7);
    assert_int_equal(exit_from_file(-EBADMSG), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_terminal),   cmocka_unit_test(test_json),
        cmocka_unit_test(test_sizes),      cmocka_unit_test(test_uuid),
        cmocka_unit_test(test_mark_lines), cmocka_unit_test(test_exit_codes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
