/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a writer says of itself when it attaches: whether it goes on without
 * the daemon, and, when it is back, whether nothing was written unmarked.  A
 * claim too much here hides a write.
 */
#include "tests/client/fake.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>

static void attach_with(struct fake *fake, bool resuming, uint8_t flags)
{
    fake_attach(fake, "vm-1", resuming);
    FAKE_CHECK(fake->attach_flags == flags);
    if (resuming) {
        fake_ok(fake, OPERATION_RESUME, fake_expect(fake, OPERATION_RESUME, NULL));
    }
}

static void wait_for_return(bitmapd *handle)
{
    TURN_UNTIL(handle, bitmapd_writer_ready(handle, FAKE_DRIVE) == 0);
    TURN_UNTIL(handle, bitmapd_writer_ready(handle, FAKE_DRIVE) != 0);
    assert_int_equal(bitmapd_writer_ready(handle, FAKE_DRIVE), 1);
}

static void script_returning(struct fake *fake)
{
    fake_hello(fake);
    attach_with(fake, false, 0);
    for (int i = 0; i < 2; i++) {
        fake_hang_up(fake);
        fake_hello(fake);
        attach_with(fake, true, ATTACH_RETURNING);
    }
    /* Detached and attached anew: nobody vouches for what was in between. */
    fake_ok(fake, OPERATION_DETACH, fake_expect(fake, OPERATION_DETACH, NULL));
    attach_with(fake, false, 0);
}

static void test_returning(void **state)
{
    struct fake fake = {0};

    (void)state;
    bitmapd *handle = fake_attached(&fake, script_returning, 20);
    wait_for_return(handle);
    wait_for_return(handle);
    /* Not a writer that continues. */
    assert_int_equal(bitmapd_writer_unmarked(handle, FAKE_DRIVE, true), -ENOENT);
    assert_int_equal(bitmapd_detach(handle, FAKE_DRIVE), 0);
    assert_int_equal(bitmapd_attach(handle, "vg0/a", "vm-1", 0, NULL, NULL, NULL), 0);
    bitmapd_close(handle);
    fake_join(&fake);
}

static void script_continues(struct fake *fake)
{
    static const uint8_t flags[] = {
        ATTACH_CONTINUES | ATTACH_RETURNING, /* nothing said */
        ATTACH_CONTINUES,                    /* wrote unmarked, and still does */
        ATTACH_CONTINUES,                    /* wrote unmarked, and no more */
        ATTACH_CONTINUES | ATTACH_RETURNING, /* nothing since */
        ATTACH_CONTINUES,                    /* wrote unmarked for a moment */
        ATTACH_CONTINUES | ATTACH_RETURNING,
    };

    fake_hello(fake);
    attach_with(fake, false, ATTACH_CONTINUES);
    for (unsigned i = 0; i < sizeof flags; i++) {
        /* The test says when. */
        fake_ok(fake, OPERATION_RELOAD, fake_expect(fake, OPERATION_RELOAD, NULL));
        fake_hang_up(fake);
        fake_hello(fake);
        attach_with(fake, true, flags[i]);
    }
}

static void lose_and_return(bitmapd *handle)
{
    assert_int_equal(bitmapd_reload(handle), 0);
    wait_for_return(handle);
}

static void test_continues(void **state)
{
    struct fake fake = {0};

    (void)state;
    fake_start(&fake, script_continues);
    bitmapd *handle = fake_connect(&fake, 20);
    assert_int_equal(bitmapd_writer_unmarked(handle, FAKE_DRIVE, true), -ENOENT);
    assert_int_equal(bitmapd_attach(handle, "vg0/a", "vm-1", 2, NULL, NULL, NULL), -EINVAL);
    assert_int_equal(
        bitmapd_attach(handle, "vg0/a", "vm-1", BITMAPD_ATTACH_CONTINUES, NULL, NULL, NULL), 0);
    lose_and_return(handle);
    assert_int_equal(bitmapd_writer_unmarked(handle, FAKE_DRIVE, true), 0);
    lose_and_return(handle);
    assert_int_equal(bitmapd_writer_unmarked(handle, FAKE_DRIVE, false), 0);
    lose_and_return(handle);
    lose_and_return(handle);
    assert_int_equal(bitmapd_writer_unmarked(handle, FAKE_DRIVE, true), 0);
    assert_int_equal(bitmapd_writer_unmarked(handle, FAKE_DRIVE, false), 0);
    lose_and_return(handle);
    lose_and_return(handle);
    bitmapd_close(handle);
    fake_join(&fake);
}

/* Another drive stands under the path: at once, and on the way back. */
static void script_other_drive(struct fake *fake)
{
    fake_hello(fake);
    fake_error(fake, OPERATION_ATTACH, fake_expect(fake, OPERATION_ATTACH, NULL),
               STATUS_OTHER_DRIVE, "/dev/sdb is another disk");
    attach_with(fake, false, 0);
    fake_hang_up(fake);
    fake_hello(fake);
    fake_error(fake, OPERATION_ATTACH, fake_expect(fake, OPERATION_ATTACH, NULL),
               STATUS_OTHER_DRIVE, "/dev/sdb is another disk");
    fake_expect_end(fake);
}

static void test_other_drive(void **state)
{
    struct fake fake = {0};
    struct outcome outcome = {0};

    (void)state;
    fake_start(&fake, script_other_drive);
    bitmapd *handle = fake_connect(&fake, 20);
    assert_int_equal(bitmapd_attach(handle, "vg0/a", "vm-1", 0, NULL, NULL, NULL), -EXDEV);
    assert_string_equal(bitmapd_error(handle), "/dev/sdb is another disk");
    assert_int_equal(bitmapd_attach(handle, "vg0/a", "vm-1", 0, NULL, NULL, NULL), 0);
    TURN_UNTIL(handle, bitmapd_writer_ready(handle, FAKE_DRIVE) < 0);
    assert_int_equal(bitmapd_writer_ready(handle, FAKE_DRIVE), -EXDEV);
    const struct bitmapd_range range = {0, 512};
    uint64_t id;
    assert_int_equal(
        bitmapd_aio_mark(handle, FAKE_DRIVE, &range, 1, &id, outcome_completion, &outcome), -EXDEV);
    bitmapd_close(handle);
    fake_join(&fake);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_returning),
        cmocka_unit_test(test_continues),
        cmocka_unit_test(test_other_drive),
    };
    alarm(60);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
