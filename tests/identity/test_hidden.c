/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which option of a unit hides a path, from mount tables as systemd 252 leaves them.
 */
#include "daemon/identity/internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static const char table[] =
    "500 499 254:0 / / ro,relatime - ext4 /dev/vda rw\n"
    "501 500 254:0 /tmp/systemd-private-5f-bitmapd.service-x/tmp /tmp rw - ext4 /dev/vda rw\n"
    "502 500 0:25 /systemd/inaccessible/dir /home ro - tmpfs tmpfs rw\n"
    "503 500 0:5 / /dev rw,nosuid - devtmpfs udev rw\n"
    "504 500 254:0 /tmp/namespace-dev-Ab12/dev /dev rw - tmpfs tmpfs rw\n"
    "505 500 254:3 / /srv/with\\040space rw - xfs /dev/vdb rw\n"
    "506 502 254:4 / /home/shown rw - xfs /dev/vdc rw\n"
    "cut";

static void test_hidden(void **state)
{
    char path[] = "/tmp/bitmapd-test-mounts-XXXXXX";
    int fd = mkstemp(path);

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(write(fd, table, sizeof table - 1), sizeof table - 1);
    assert_int_equal(close(fd), 0);
    assert_string_equal(identity_hidden(path, "/tmp/raw"), "PrivateTmp=");
    assert_string_equal(identity_hidden(path, "/home/user/raw"),
                        "ProtectHome= or InaccessiblePaths=");
    assert_string_equal(identity_hidden(path, "/dev/vg0/lv"), "PrivateDevices=");
    assert_null(identity_hidden(path, "/tmpfs/raw"));
    assert_null(identity_hidden(path, "/home/shown/raw"));
    assert_null(identity_hidden(path, "/srv/raw"));
    assert_int_equal(unlink(path), 0);
    assert_null(identity_hidden(path, "/tmp/raw"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_hidden)};
    return cmocka_run_group_tests_name("identity: hidden", tests, NULL, NULL);
}
