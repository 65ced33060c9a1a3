/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sizes and spans as users type them, and as nobody should.
 */
#include "proto/base/size.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

struct parse_case {
    const char *text;
    int r;
    uint64_t value;
};

static void check_cases(int (*parse)(const char *, uint64_t *), const struct parse_case *cases,
                        size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t value = 4711;
        int r = parse(cases[i].text, &value);
        uint64_t expected = cases[i].r == 0 ? cases[i].value : 4711;
        if (r != cases[i].r || value != expected) {
            fail_msg("\"%s\": got %d and %llu, expected %d and %llu", cases[i].text, r,
                     (unsigned long long)value, cases[i].r, (unsigned long long)expected);
        }
    }
}

static void test_size(void **state)
{
    static const struct parse_case cases[] = {
        {"0", 0, 0},
        {"1", 0, 1},
        {"000000000000000000000000000512", 0, 512},
        {"100000", 0, 100000},
        {"1k", 0, 1024},
        {"1K", 0, 1024},
        {"64KiB", 0, 65536},
        {"64kiB", 0, 65536},
        {"3M", 0, UINT64_C(3) << 20},
        {"3MiB", 0, UINT64_C(3) << 20},
        {"2G", 0, UINT64_C(2) << 30},
        {"16T", 0, UINT64_C(16) << 40},
        {"8P", 0, UINT64_C(8) << 50},
        {"8PiB", 0, UINT64_C(8) << 50},
        {"0P", 0, 0},
        {"18446744073709551615", 0, UINT64_MAX},
        {"18446744073709551616", -ERANGE, 0},
        {"99999999999999999999999999999999", -ERANGE, 0},
        {"18014398509481983K", 0, UINT64_MAX - 1023},
        {"18014398509481984K", -ERANGE, 0},
        {"16383P", 0, UINT64_C(16383) << 50},
        {"16384P", -ERANGE, 0},
        {"18446744073709551615P", -ERANGE, 0},
        {"", -EINVAL, 0},
        {" ", -EINVAL, 0},
        {"K", -EINVAL, 0},
        {"KiB", -EINVAL, 0},
        {"-1", -EINVAL, 0},
        {"+1", -EINVAL, 0},
        {" 1", -EINVAL, 0},
        {"\t1", -EINVAL, 0},
        {"1 ", -EINVAL, 0},
        {"1\n", -EINVAL, 0},
        {"1 K", -EINVAL, 0},
        {"1K ", -EINVAL, 0},
        {"1.5K", -EINVAL, 0},
        {"1,5", -EINVAL, 0},
        {"1,000", -EINVAL, 0},
        {"1e3", -EINVAL, 0},
        {"0x10", -EINVAL, 0},
        {"0b1", -EINVAL, 0},
        {"1m", -EINVAL, 0},
        {"1g", -EINVAL, 0},
        {"1E", -EINVAL, 0},
        {"1B", -EINVAL, 0},
        {"1iB", -EINVAL, 0},
        {"1KB", -EINVAL, 0},
        {"1Ki", -EINVAL, 0},
        {"1KIB", -EINVAL, 0},
        {"1Kib", -EINVAL, 0},
        {"1KiBs", -EINVAL, 0},
        {"1KK", -EINVAL, 0},
        {"1KM", -EINVAL, 0},
        {"1\xff", -EINVAL, 0},
        {"\xd9\xa1", -EINVAL, 0}, /* a digit, but not one of ours */
        {"1\xc2\xa0K", -EINVAL, 0},
        {"nan", -EINVAL, 0},
        {"%s%n", -EINVAL, 0},
    };

    (void)state;
    check_cases(size_parse, cases, sizeof cases / sizeof cases[0]);
}

static void test_span(void **state)
{
    static const struct parse_case cases[] = {
        {"0", 0, 0},
        {"5", 0, UINT64_C(5000000000)},
        {"5s", 0, UINT64_C(5000000000)},
        {"250ms", 0, UINT64_C(250000000)},
        {"2min", 0, UINT64_C(120000000000)},
        {"1h", 0, UINT64_C(3600000000000)},
        {"18446744073", 0, UINT64_C(18446744073000000000)},
        {"18446744074", -ERANGE, 0},
        {"18446744073709ms", 0, UINT64_C(18446744073709000000)},
        {"18446744073710ms", -ERANGE, 0},
        {"307445734min", 0, UINT64_C(307445734) * 60 * 1000000000},
        {"307445735min", -ERANGE, 0},
        {"5124095h", 0, UINT64_C(5124095) * 3600 * 1000000000},
        {"5124096h", -ERANGE, 0},
        {"18446744073709551616", -ERANGE, 0},
        {"", -EINVAL, 0},
        {"s", -EINVAL, 0},
        {"-1s", -EINVAL, 0},
        {"+1s", -EINVAL, 0},
        {" 1s", -EINVAL, 0},
        {"1 s", -EINVAL, 0},
        {"1s ", -EINVAL, 0},
        {"1.5s", -EINVAL, 0},
        {"1m", -EINVAL, 0},
        {"1us", -EINVAL, 0},
        {"1S", -EINVAL, 0},
        {"1sec", -EINVAL, 0},
        {"1d", 0, 86400 * UINT64_C(1000000000)},
        {"1w", -EINVAL, 0},
        {"1h30min", -EINVAL, 0},
        {"0x5", -EINVAL, 0},
    };

    (void)state;
    check_cases(span_parse, cases, sizeof cases / sizeof cases[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_size),
        cmocka_unit_test(test_span),
    };
    return cmocka_run_group_tests_name("base: sizes and spans", tests, NULL, NULL);
}
