/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What goes over the wire for a call, answers byte by byte and with fields
 * of the future, lists, and replies that break the rules.
 */
#include "tests/client/fake.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static const struct message_drive_info drive_info = {
    .id = FAKE_DRIVE,
    .name = {"vg0/a", 5},
    .path = {"/dev/vg0/a", 10},
    .size = FAKE_DRIVE_SIZE,
    .granularity = 65536,
    .durability = WIRE_DURABILITY_PROCESS_CRASH,
    .bitmaps = 3,
    .recording = 2,
    .writers = 1,
    .lost_writers = 4,
    .unsettled = 9,
    .checkpoints = 6,
    .identity = {"inode 5", 7},
    .untracked = {"rebooted", 8},
};

static const struct message_bitmap_info bitmap_info = {
    .id = 5,
    .bitmap = {"vg0/a/b", 7},
    .granularity = 4096,
    .size = FAKE_DRIVE_SIZE,
    .recording = 1,
    .gap = 1,
    .validity = 99, /* from a newer daemon */
    .reason = {"because", 7},
    .dirty_bytes = 8192,
    .dirty_count = 2,
    .untracked = {"no evidence", 11},
};

/* ---- What calls send ---- */

static void reply_drive(struct fake *fake, uint16_t operation, uint64_t cookie)
{
    fake_reply_as(fake, MESSAGE_DRIVE_INFO, &drive_info, operation, FRAME_REPLY, 0, cookie);
}

static void script_drives(struct fake *fake)
{
    struct message_drive_add add;
    struct message_drive_change change;
    struct message_drive_set set;
    struct message_drive_resize resize;
    struct message_drive_name name;
    static const uint8_t id[16] = {9, 8, 7};

    fake_hello(fake);
    uint64_t cookie = fake_expect(fake, OPERATION_DRIVE_ADD, &add);
    FAKE_CHECK(fake_string_is(add.name, "vg0/a") && fake_string_is(add.path, "/dev/vg0/a"));
    FAKE_CHECK(add.size == 0 && add.durability == 2 && add.granularity == 4096);
    FAKE_CHECK(memcmp(add.request.bytes, id, 16) == 0);
    reply_drive(fake, OPERATION_DRIVE_ADD, cookie);

    cookie = fake_expect(fake, OPERATION_DRIVE_SHOW, &name);
    FAKE_CHECK(fake_string_is(name.name, "vg0/a"));
    reply_drive(fake, OPERATION_DRIVE_SHOW, cookie);

    cookie = fake_expect(fake, OPERATION_DRIVE_SET, &set);
    FAKE_CHECK(set.durability == 1 && set.granularity == 512);
    FAKE_CHECK(memcmp(set.request.bytes, id, 16) != 0);
    fake_ok(fake, OPERATION_DRIVE_SET, cookie);

    cookie = fake_expect(fake, OPERATION_DRIVE_RENAME, &change);
    FAKE_CHECK(fake_string_is(change.name, "vg0/a") && fake_string_is(change.argument, "b"));
    fake_ok(fake, OPERATION_DRIVE_RENAME, cookie);
    cookie = fake_expect(fake, OPERATION_DRIVE_RESIZE, &resize);
    FAKE_CHECK(resize.size == 12345);
    fake_ok(fake, OPERATION_DRIVE_RESIZE, cookie);
    cookie = fake_expect(fake, OPERATION_DRIVE_FENCE, &change);
    FAKE_CHECK(change.argument.length == 0 && change.flags == 0);
    fake_ok(fake, OPERATION_DRIVE_FENCE, cookie);
    cookie = fake_expect(fake, OPERATION_DRIVE_ADOPT, &change);
    FAKE_CHECK(fake_string_is(change.name, "b") && change.argument.length == 0);
    FAKE_CHECK(change.flags == 0 && memcmp(change.request.bytes, id, 16) != 0);
    fake_ok(fake, OPERATION_DRIVE_ADOPT, cookie);
    cookie = fake_expect(fake, OPERATION_DRIVE_REMOVE, &change);
    FAKE_CHECK(change.flags == CHANGE_FORCE);
    fake_error(fake, OPERATION_DRIVE_REMOVE, cookie, STATUS_BUSY,
               "has a \x1b[31mwriter \xc2\x9b\xc3\x9f");
    fake_expect_end(fake);
}

static void test_drives(void **state)
{
    struct fake fake = {0};
    struct bitmapd_drive drive;
    static const uint8_t id[16] = {9, 8, 7};
    uint8_t used[16];

    (void)state;
    fake_start(&fake, script_drives);
    bitmapd *handle = fake_connect(&fake, 0);
    bitmapd_set_request_id(handle, id);
    assert_int_equal(bitmapd_drive_add(handle, "vg0/a", "/dev/vg0/a", 0,
                                       BITMAPD_DURABILITY_PROCESS_CRASH, 4096, &drive),
                     0);
    assert_int_equal(drive.id, FAKE_DRIVE);
    assert_string_equal(drive.name, "vg0/a");
    assert_string_equal(drive.path, "/dev/vg0/a");
    bitmapd_get_request_id(handle, used);
    assert_memory_equal(used, id, sizeof id);
    assert_int_equal(bitmapd_drive_show(handle, "vg0/a", &drive), 0);
    assert_true(drive.size == FAKE_DRIVE_SIZE && drive.granularity == 65536);
    assert_true(drive.bitmaps == 3 && drive.recording == 2 && drive.writers == 1);
    assert_true(drive.lost_writers == 4 && drive.unsettled == 9 && drive.checkpoints == 6);
    assert_string_equal(drive.identity, "inode 5");
    assert_string_equal(drive.untracked, "rebooted");
    assert_int_equal(drive.durability, BITMAPD_DURABILITY_PROCESS_CRASH);
    assert_int_equal(bitmapd_drive_set(handle, "vg0/a", BITMAPD_DURABILITY_POWER_LOSS, 512), 0);
    assert_int_equal(bitmapd_drive_rename(handle, "vg0/a", "b"), 0);
    assert_int_equal(bitmapd_drive_resize(handle, "b", 12345), 0);
    assert_int_equal(bitmapd_drive_fence(handle, "b", NULL), 0);
    assert_int_equal(bitmapd_drive_adopt(handle, "b"), 0);
    assert_int_equal(bitmapd_drive_adopt(handle, ""), -EINVAL);
    assert_int_equal(bitmapd_drive_remove(handle, "b", true), -EBUSY);
    assert_string_equal(bitmapd_error(handle), "has a ?[31mwriter ??\xc3\x9f");
    assert_int_equal(bitmapd_status_code(handle), STATUS_BUSY);

    /* Nothing of these is sent. */
    char longest[300];
    memset(longest, 'n', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    assert_int_equal(bitmapd_drive_show(handle, longest, &drive), -EINVAL);
    assert_int_equal(bitmapd_status_code(handle), 0);
    assert_int_equal(bitmapd_drive_show(handle, "", &drive), -EINVAL);
    assert_int_equal(bitmapd_drive_rename(handle, "a", longest), -EINVAL);
    assert_int_equal(bitmapd_drive_fence(handle, "a", ""), -EINVAL);
    assert_int_equal(bitmapd_drive_set(handle, "a", 256, 0), -EINVAL);
    assert_int_equal(bitmapd_drive_add(handle, "a", "", 0, 0, 0, NULL), -EINVAL);
    bitmapd_close(handle);
    fake_join(&fake);
}

static void script_bitmaps(struct fake *fake)
{
    struct message_bitmap_create create;
    struct message_bitmap_change change;
    struct message_bitmap_range range;
    struct message_bitmap_merge merge;
    uint64_t cookie;

    fake_hello(fake);
    cookie = fake_expect(fake, OPERATION_BITMAP_CREATE, &create);
    FAKE_CHECK(fake_string_is(create.bitmap, "vg0/a/b") && create.flags == CHANGE_DISABLED);
    fake_reply_as(fake, MESSAGE_BITMAP_INFO, &bitmap_info, OPERATION_BITMAP_CREATE, FRAME_REPLY, 0,
                  cookie);
    fake_ok(fake, OPERATION_BITMAP_ENABLE, fake_expect(fake, OPERATION_BITMAP_ENABLE, &change));
    FAKE_CHECK(change.argument.length == 0);
    fake_ok(fake, OPERATION_BITMAP_DISABLE, fake_expect(fake, OPERATION_BITMAP_DISABLE, NULL));
    cookie = fake_expect(fake, OPERATION_BITMAP_RENAME, &change);
    FAKE_CHECK(fake_string_is(change.argument, "c"));
    fake_ok(fake, OPERATION_BITMAP_RENAME, cookie);
    cookie = fake_expect(fake, OPERATION_BITMAP_SET, &range);
    FAKE_CHECK(range.offset == 1 && range.length == 2 && range.flags == 0);
    fake_ok(fake, OPERATION_BITMAP_SET, cookie);
    cookie = fake_expect(fake, OPERATION_BITMAP_CLEAR, &range);
    FAKE_CHECK(range.offset == 3 && range.length == 4 && range.flags == 0);
    fake_ok(fake, OPERATION_BITMAP_CLEAR, cookie);
    cookie = fake_expect(fake, OPERATION_BITMAP_CLEAR, &range);
    FAKE_CHECK(range.offset == 0 && range.length == 0 && range.flags == CHANGE_ALL);
    fake_ok(fake, OPERATION_BITMAP_CLEAR, cookie);
    cookie = fake_expect(fake, OPERATION_BITMAP_MERGE, &merge);
    FAKE_CHECK(merge.sources.count == 2);
    FAKE_CHECK(fake_string_is(wire_strings_next(&merge.sources), "vg0/a/x"));
    FAKE_CHECK(fake_string_is(wire_strings_next(&merge.sources), "vg0/a/long name"));
    fake_ok(fake, OPERATION_BITMAP_MERGE, cookie);
    fake_ok(fake, OPERATION_BITMAP_DELETE, fake_expect(fake, OPERATION_BITMAP_DELETE, NULL));
    fake_error(fake, OPERATION_BITMAP_SHOW, fake_expect(fake, OPERATION_BITMAP_SHOW, NULL),
               STATUS_NOT_FOUND, "no bitmap");
    fake_error(fake, OPERATION_RELOAD, fake_expect(fake, OPERATION_RELOAD, NULL),
               STATUS_UNKNOWN_OPERATION, "");
    fake_error(fake, OPERATION_FLUSH, fake_expect(fake, OPERATION_FLUSH, NULL), (enum status)200,
               "of the future");
}

static void test_bitmaps(void **state)
{
    struct fake fake = {0};
    struct bitmapd_bitmap bitmap;
    const char *sources[] = {"vg0/a/x", "vg0/a/long name"};

    static const char *many[40000];
    (void)state;
    fake_start(&fake, script_bitmaps);
    bitmapd *handle = fake_connect(&fake, 0);
    assert_int_equal(bitmapd_bitmap_create(handle, "vg0/a/b", 4096, true, &bitmap), 0);
    assert_string_equal(bitmap.name, "vg0/a/b");
    assert_string_equal(bitmap.reason, "because");
    assert_string_equal(bitmap.untracked, "no evidence");
    assert_true(bitmap.recording && bitmap.gap && bitmap.dirty_count == 2);
    assert_int_equal(bitmap.validity, BITMAPD_UNKNOWN);
    assert_int_equal(bitmapd_bitmap_enable(handle, "vg0/a/b"), 0);
    assert_int_equal(bitmapd_bitmap_disable(handle, "vg0/a/b"), 0);
    assert_int_equal(bitmapd_bitmap_rename(handle, "vg0/a/b", "c"), 0);
    assert_int_equal(bitmapd_bitmap_set(handle, "vg0/a/c", 1, 2), 0);
    assert_int_equal(bitmapd_bitmap_clear(handle, "vg0/a/c", 3, 4), 0);
    assert_int_equal(bitmapd_bitmap_clear_all(handle, "vg0/a/c"), 0);
    assert_int_equal(bitmapd_bitmap_merge(handle, "vg0/a/c", sources, 2), 0);
    assert_int_equal(bitmapd_bitmap_merge(handle, "vg0/a/c", sources, 0), -EINVAL);
    /* More bytes than a frame can have; nothing is sent. */
    for (size_t i = 0; i < sizeof many / sizeof many[0]; i++) {
        many[i] = "vg0/a/a bitmap with a long name";
    }
    assert_int_equal(bitmapd_bitmap_merge(handle, "vg0/a/c", many, sizeof many / sizeof many[0]),
                     -EMSGSIZE);
    assert_int_equal(bitmapd_bitmap_delete(handle, "vg0/a/c"), 0);
    assert_int_equal(bitmapd_bitmap_show(handle, "vg0/a/c", &bitmap), -ENOENT);
    assert_int_equal(bitmapd_reload(handle), -EOPNOTSUPP);
    assert_string_equal(bitmapd_error(handle), "The daemon does not know this operation");
    assert_int_equal(bitmapd_flush(handle), -EREMOTEIO);
    assert_int_equal(bitmapd_status_code(handle), 200);
    bitmapd_close(handle);
    fake_join(&fake);
}

static void script_status(struct fake *fake)
{
    struct message_status_reply reply = {
        .server = wire_string("bitmapd 9"),
        .container = {{1}},
        .instance = {{2}},
        .container_path = wire_string("/var/lib/bitmapd/bitmaps.qcow2"),
        .sequence = 100,
        .applied_seq = 90,
        .degraded = 1,
        .degraded_reason = wire_string("no space"),
        .degraded_since_ns = 77,
        .start_report = wire_string(""),
    };
    fake_hello(fake);
    fake->out.bytes = 0;
    uint64_t cookie = fake_expect(fake, OPERATION_STATUS, NULL);
    FAKE_CHECK(message_encode(&fake->out, MESSAGE_STATUS_REPLY, &reply, OPERATION_STATUS,
                              FRAME_REPLY, 0, cookie) == 0);
    /* A newer daemon's reply has more fields. */
    FAKE_CHECK(wire_buffer_reserve(&fake->out, 5) == 0);
    memset(fake->out.data + fake->out.bytes, 0xee, 5);
    fake->out.bytes += 5;
    fake->out.data[0] = (uint8_t)(fake->out.data[0] + 5);
    FAKE_CHECK(fake->out.bytes < 256);
    /* Byte by byte. */
    for (size_t i = 0; i < fake->out.bytes; i++) {
        fake_send(fake, fake->out.data + i, 1);
        usleep(50);
    }
}

static void test_status(void **state)
{
    struct fake fake = {0};
    struct bitmapd_daemon_status status;

    (void)state;
    fake_start(&fake, script_status);
    bitmapd *handle = fake_connect(&fake, 0);
    assert_int_equal(bitmapd_get_status(handle, &status), 0);
    assert_string_equal(status.server, "bitmapd 9");
    assert_string_equal(status.container_path, "/var/lib/bitmapd/bitmaps.qcow2");
    assert_string_equal(status.degraded_reason, "no space");
    assert_string_equal(status.start_report, "");
    assert_true(status.degraded && status.degraded_since_ns == 77);
    assert_true(status.sequence == 100 && status.applied_seq == 90);
    assert_true(status.container_uuid[0] == 1 && status.instance_uuid[0] == 2);
    bitmapd_close(handle);
    fake_join(&fake);
}

/* ---- Lists ---- */

static int listed;

static void count_drive(void *opaque, const struct bitmapd_drive *drive)
{
    (void)opaque;
    assert_string_equal(drive->name, "vg0/a");
    listed++;
}

static void count_bitmap(void *opaque, const struct bitmapd_bitmap *bitmap)
{
    (void)opaque;
    assert_string_equal(bitmap->name, "vg0/a/b");
    listed++;
}

static void list_items(struct fake *fake, uint16_t operation, uint64_t cookie, int items,
                       uint64_t end)
{
    struct message_list_end message = {end};
    for (int i = 0; i < items; i++) {
        if (operation == OPERATION_DRIVE_LIST) {
            fake_reply_as(fake, MESSAGE_DRIVE_INFO, &drive_info, operation,
                          FRAME_REPLY | FRAME_MORE, 0, cookie);
        } else {
            fake_reply_as(fake, MESSAGE_BITMAP_INFO, &bitmap_info, operation,
                          FRAME_REPLY | FRAME_MORE, 0, cookie);
        }
    }
    fake_reply_as(fake, MESSAGE_LIST_END, &message, operation, FRAME_REPLY, 0, cookie);
}

static void script_lists(struct fake *fake)
{
    struct message_drive_name name;

    fake_hello(fake);
    list_items(fake, OPERATION_DRIVE_LIST, fake_expect(fake, OPERATION_DRIVE_LIST, NULL), 300, 300);
    list_items(fake, OPERATION_DRIVE_LIST, fake_expect(fake, OPERATION_DRIVE_LIST, NULL), 0, 0);
    uint64_t cookie = fake_expect(fake, OPERATION_BITMAP_LIST, &name);
    FAKE_CHECK(name.name.length == 0);
    list_items(fake, OPERATION_BITMAP_LIST, cookie, 2, 2);
    cookie = fake_expect(fake, OPERATION_BITMAP_LIST, &name);
    FAKE_CHECK(fake_string_is(name.name, "vg0/a"));
    fake_error(fake, OPERATION_BITMAP_LIST, cookie, STATUS_NOT_FOUND, "no drive");
    /* One item less than was sent. */
    list_items(fake, OPERATION_BITMAP_LIST, fake_expect(fake, OPERATION_BITMAP_LIST, NULL), 2, 3);
}

static void test_lists(void **state)
{
    struct fake fake = {0};

    (void)state;
    fake_start(&fake, script_lists);
    bitmapd *handle = fake_connect(&fake, 0);
    listed = 0;
    assert_int_equal(bitmapd_drive_list(handle, count_drive, NULL), 0);
    assert_int_equal(listed, 300);
    assert_int_equal(bitmapd_drive_list(handle, count_drive, NULL), 0);
    assert_int_equal(listed, 300);
    assert_int_equal(bitmapd_bitmap_list(handle, NULL, count_bitmap, NULL), 0);
    assert_int_equal(listed, 302);
    assert_int_equal(bitmapd_bitmap_list(handle, "vg0/a", count_bitmap, NULL), -ENOENT);
    assert_int_equal(bitmapd_bitmap_list(handle, NULL, count_bitmap, NULL), -EPROTO);
    assert_non_null(strstr(bitmapd_error(handle), "expected 3 items, found 2"));
    assert_int_equal(bitmapd_flush(handle), -ENOTCONN);
    bitmapd_close(handle);
    fake_join(&fake);
}

/* ---- Other broken replies ---- */

enum reply_fault {
    REPLY_WRONG_COOKIE,
    REPLY_TWICE,
    REPLY_WRONG_OPERATION,
    REPLY_MORE,
    REPLY_CUT,
    REPLY_NUL,
    REPLY_FAULTS
};

static void script_bad_reply(struct fake *fake)
{
    struct message_drive_info info = drive_info;

    fake_hello(fake);
    uint64_t cookie = fake_expect(fake, OPERATION_DRIVE_SHOW, NULL);
    switch (*(enum reply_fault *)fake->opaque) {
    case REPLY_WRONG_COOKIE:
        reply_drive(fake, OPERATION_DRIVE_SHOW, cookie + 1);
        break;
    case REPLY_TWICE:
        reply_drive(fake, OPERATION_DRIVE_SHOW, cookie + (UINT64_C(1) << 16));
        break;
    case REPLY_WRONG_OPERATION:
        reply_drive(fake, OPERATION_DRIVE_ADD, cookie);
        break;
    case REPLY_MORE:
        fake_reply_as(fake, MESSAGE_DRIVE_INFO, &info, OPERATION_DRIVE_SHOW,
                      FRAME_REPLY | FRAME_MORE, 0, cookie);
        break;
    case REPLY_NUL:
        fake->out.bytes = 0;
        FAKE_CHECK(message_encode(&fake->out, MESSAGE_DRIVE_INFO, &info, OPERATION_DRIVE_SHOW,
                                  FRAME_REPLY, 0, cookie) == 0);
        fake->out.data[FRAME_HEADER_BYTES + 8 + 2 + 1] = 0;
        fake_send(fake, fake->out.data, fake->out.bytes);
        break;
    default:
        fake_ok(fake, OPERATION_DRIVE_SHOW, cookie);
    }
    fake_expect_end(fake);
}

static void test_bad_replies(void **state)
{
    (void)state;
    for (int fault = 0; fault < REPLY_FAULTS; fault++) {
        struct fake fake = {.opaque = &fault};
        struct bitmapd_drive drive;
        fake_start(&fake, script_bad_reply);
        bitmapd *handle = fake_connect(&fake, 5);
        if (bitmapd_drive_show(handle, "vg0/a", &drive) != -EPROTO) {
            fail_msg("fault %d: %s", fault, bitmapd_error(handle));
        }
        bitmapd_close(handle);
        fake_join(&fake);
    }
}

/* The daemon leaves with a reason that belongs to no request. */
static void script_farewell(struct fake *fake)
{
    fake_hello(fake);
    fake_expect(fake, OPERATION_FLUSH, NULL);
    fake_error(fake, 0, 0, STATUS_MALFORMED, "flags 0x80");
}

static void test_farewell(void **state)
{
    struct fake fake = {0};

    (void)state;
    fake_start(&fake, script_farewell);
    bitmapd *handle = fake_connect(&fake, 0);
    assert_int_equal(bitmapd_flush(handle), -ECONNABORTED);
    assert_int_equal(bitmapd_flush(handle), -ENOTCONN);
    assert_non_null(strstr(bitmapd_error(handle), "flags 0x80"));
    bitmapd_close(handle);
    fake_join(&fake);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_drives),      cmocka_unit_test(test_bitmaps),
        cmocka_unit_test(test_status),      cmocka_unit_test(test_lists),
        cmocka_unit_test(test_bad_replies), cmocka_unit_test(test_farewell),
    };
    alarm(60);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
