/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checked arithmetic at the ends of its range, and the byte orders.
 */
#include "proto/base/checked.h"
#include "proto/base/endian.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void test_add_and_multiply(void **state)
{
    uint64_t result = 77;

    (void)state;
    assert_false(checked_add_u64(UINT64_MAX, 1, &result));
    assert_false(checked_add_u64(UINT64_C(1) << 63, UINT64_C(1) << 63, &result));
    assert_false(checked_mul_u64(UINT64_C(1) << 32, UINT64_C(1) << 32, &result));
    assert_false(checked_mul_u64(UINT64_MAX, 2, &result));
    assert_int_equal(result, 77);
    assert_true(checked_add_u64(UINT64_MAX - 1, 1, &result));
    assert_int_equal(result, UINT64_MAX);
    assert_true(checked_mul_u64(UINT64_C(0xffffffff), UINT64_C(0x100000001), &result));
    assert_int_equal(result, UINT64_MAX);
    assert_true(checked_mul_u64(UINT64_MAX, 0, &result));
    assert_int_equal(result, 0);
}

static void test_rounding(void **state)
{
    uint64_t result = 77;

    (void)state;
    assert_int_equal(div_round_up(0, 512), 0);
    assert_int_equal(div_round_up(1, 512), 1);
    assert_int_equal(div_round_up(512, 512), 1);
    assert_int_equal(div_round_up(513, 512), 2);
    assert_int_equal(div_round_up(UINT64_MAX, 2), UINT64_C(1) << 63);
    assert_int_equal(div_round_up(UINT64_MAX, UINT64_MAX), 1);

    assert_false(checked_align_up(UINT64_MAX, 2, &result));
    assert_false(checked_align_up(UINT64_MAX - 510, 512, &result));
    assert_int_equal(result, 77);
    assert_true(checked_align_up(UINT64_MAX - 511, 512, &result));
    assert_int_equal(result, UINT64_MAX - 511);
    assert_true(checked_align_up(0, 4096, &result));
    assert_int_equal(result, 0);
    assert_true(checked_align_up(1, 4096, &result));
    assert_int_equal(result, 4096);
    assert_true(checked_align_up(UINT64_MAX, 1, &result));
    assert_int_equal(result, UINT64_MAX);
}

static void test_powers_and_order(void **state)
{
    (void)state;
    assert_false(is_power_of_two(0));
    assert_true(is_power_of_two(1));
    assert_true(is_power_of_two(UINT64_C(1) << 63));
    assert_false(is_power_of_two(3));
    assert_false(is_power_of_two(UINT64_MAX));
    assert_int_equal(min_u64(1, UINT64_MAX), 1);
    assert_int_equal(max_u64(1, UINT64_MAX), UINT64_MAX);
}

/* At an odd address, as fields of a packed structure may be. */
static void test_endian(void **state)
{
    static const uint8_t bytes[] = {0, 0x81, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x88, 0};
    uint8_t written[sizeof bytes];

    (void)state;
    assert_int_equal(load_be16(bytes + 1), 0x8102);
    assert_int_equal(load_be32(bytes + 1), 0x81020304);
    assert_int_equal(load_be64(bytes + 1), UINT64_C(0x8102030405060788));
    assert_int_equal(load_le16(bytes + 1), 0x0281);
    assert_int_equal(load_le32(bytes + 1), 0x04030281);
    assert_int_equal(load_le64(bytes + 1), UINT64_C(0x8807060504030281));

#define CHECK_STORE(order, bits)                                         \
    do {                                                                 \
        memset(written, 0, sizeof written);                              \
        store_##order##bits(written + 1, load_##order##bits(bytes + 1)); \
        assert_memory_equal(written, bytes, 1 + bits / 8);               \
        assert_int_equal(written[1 + bits / 8], 0);                      \
    } while (0)
    CHECK_STORE(be, 16);
    CHECK_STORE(be, 32);
    CHECK_STORE(be, 64);
    CHECK_STORE(le, 16);
    CHECK_STORE(le, 32);
    CHECK_STORE(le, 64);
#undef CHECK_STORE
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_add_and_multiply),
        cmocka_unit_test(test_rounding),
        cmocka_unit_test(test_powers_and_order),
        cmocka_unit_test(test_endian),
    };
    return cmocka_run_group_tests_name("base: arithmetic", tests, NULL, NULL);
}
