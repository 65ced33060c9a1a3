/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The table of statuses: every number has a name and a text, numbers and
 * errnos map there and back, and whatever is not in it is "failed".
 */
#include "proto/status.h"

#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void test_names(void **state)
{
    (void)state;
    for (int i = 0; i < STATUS_END; i++) {
        assert_non_null(status_name((uint8_t)i));
        assert_non_null(status_text((uint8_t)i));
        assert_string_not_equal(status_name((uint8_t)i), "unknown");
        for (int j = 0; j < i; j++) {
            assert_string_not_equal(status_name((uint8_t)i), status_name((uint8_t)j));
            assert_int_not_equal(status_to_errno((uint8_t)i), status_to_errno((uint8_t)j));
        }
    }
    assert_string_equal(status_name(STATUS_NOT_FOUND), "not-found");
    assert_string_equal(status_name(STATUS_OTHER_DRIVE), "other-drive");
    assert_int_equal(STATUS_OTHER_DRIVE, 16);
    assert_string_equal(status_name(STATUS_END), "unknown");
    assert_string_equal(status_name(255), "unknown");
    assert_non_null(status_text(255));
}

static void test_there_and_back(void **state)
{
    (void)state;
    assert_int_equal(status_from_errno(0), STATUS_OK);
    assert_int_equal(status_to_errno(STATUS_OK), 0);
    for (int i = 0; i < STATUS_END; i++) {
        assert_int_equal(status_from_errno(status_to_errno((uint8_t)i)), i);
    }
    assert_int_equal(status_to_errno(STATUS_END), -EREMOTEIO);
    assert_int_equal(status_to_errno(255), -EREMOTEIO);
}

static void test_errnos(void **state)
{
    static const struct {
        int r;
        enum status status;
    } rows[] = {
        {-ENOENT, STATUS_NOT_FOUND},
        {-EEXIST, STATUS_EXISTS},
        {-EBUSY, STATUS_BUSY},
        {-EINVAL, STATUS_INVALID},
        {-ERANGE, STATUS_INVALID},
        {-EPERM, STATUS_PERMISSION},
        {-EACCES, STATUS_PERMISSION},
        {-EDQUOT, STATUS_LIMIT},
        {-ENOMEM, STATUS_NO_MEMORY},
        {-EIO, STATUS_IO},
        {-ENOSPC, STATUS_IO},
        {-EROFS, STATUS_IO},
        {-EFBIG, STATUS_IO},
        {-EINPROGRESS, STATUS_NOT_DURABLE},
        {-ESHUTDOWN, STATUS_SHUTTING_DOWN},
        {-EOWNERDEAD, STATUS_FENCED},
        {-EXDEV, STATUS_OTHER_DRIVE},
        {-EOPNOTSUPP, STATUS_UNKNOWN_OPERATION},
        {-EPROTO, STATUS_MALFORMED},
        {-EPIPE, STATUS_FAILED},
        {-ENOSYS, STATUS_FAILED},
        {-1000000, STATUS_FAILED},
        {1, STATUS_FAILED},
        {INT_MIN, STATUS_FAILED},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_int_equal(status_from_errno(rows[i].r), rows[i].status);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_there_and_back),
        cmocka_unit_test(test_errnos),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
