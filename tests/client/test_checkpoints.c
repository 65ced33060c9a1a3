/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checkpoints: what the calls send and make of answers, maps between them,
 * and answers that would have a backup start from a base that is not its own.
 */
#include "tests/client/fake.h"

#include "proto/base/crc32c.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define UUID_TEXT "00010203-0405-0607-0809-0a0b0c0d0e0f"

static const struct wire_uuid uuid = {{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}};

static const struct message_checkpoint_info checkpoint_info = {
    .id = 5,
    .drive = {"vg0/a", 5},
    .name = {"daily", 5},
    .uuid = {{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}},
    .sequence = 60,
    .created_ns = 61,
    .granularity = 4096,
    .size = FAKE_DRIVE_SIZE,
    .recording = 1,
    .validity = 99, /* from a newer daemon */
    .reason = {"because", 7},
    .untracked = {"rebooted", 8},
    .dirty_bytes = 8192,
    .dirty_count = 2,
};

/* ---- Create, list, delete ---- */

static void reply_created(struct fake *fake, uint64_t cookie, uint32_t drives)
{
    struct message_checkpoint_created created = {uuid, 60, 61, drives};
    fake_reply_as(fake, MESSAGE_CHECKPOINT_CREATED, &created, OPERATION_CHECKPOINT_CREATE,
                  FRAME_REPLY, 0, cookie);
}

static void reply_list(struct fake *fake, uint64_t cookie, int items, uint64_t end)
{
    struct message_list_end message = {end};
    for (int i = 0; i < items; i++) {
        fake_reply_as(fake, MESSAGE_CHECKPOINT_INFO, &checkpoint_info, OPERATION_CHECKPOINT_LIST,
                      FRAME_REPLY | FRAME_MORE, 0, cookie);
    }
    fake_reply_as(fake, MESSAGE_LIST_END, &message, OPERATION_CHECKPOINT_LIST, FRAME_REPLY, 0,
                  cookie);
}

static void script_calls(struct fake *fake)
{
    struct message_checkpoint_create create;
    struct message_checkpoint_delete delete;
    struct message_drive_name name;
    static const uint8_t id[16] = {9, 8, 7};

    fake_hello(fake);
    uint64_t cookie = fake_expect(fake, OPERATION_CHECKPOINT_CREATE, &create);
    FAKE_CHECK(memcmp(create.request.bytes, id, 16) == 0);
    FAKE_CHECK(fake_string_is(create.name, "daily") && create.drives.count == 2);
    FAKE_CHECK(fake_string_is(wire_strings_next(&create.drives), "vg0/a"));
    FAKE_CHECK(fake_string_is(wire_strings_next(&create.drives), "b"));
    reply_created(fake, cookie, 2);
    cookie = fake_expect(fake, OPERATION_CHECKPOINT_CREATE, &create);
    FAKE_CHECK(memcmp(create.request.bytes, id, 16) != 0);
    fake_error(fake, OPERATION_CHECKPOINT_CREATE, cookie, STATUS_EXISTS, "vg0/a has one");

    cookie = fake_expect(fake, OPERATION_CHECKPOINT_LIST, &name);
    FAKE_CHECK(fake_string_is(name.name, "vg0/a"));
    reply_list(fake, cookie, 3, 3);
    cookie = fake_expect(fake, OPERATION_CHECKPOINT_LIST, &name);
    FAKE_CHECK(name.name.length == 0);
    reply_list(fake, cookie, 0, 0);

    cookie = fake_expect(fake, OPERATION_CHECKPOINT_DELETE, &delete);
    FAKE_CHECK(fake_string_is(delete.drive, "vg0/a"));
    FAKE_CHECK(fake_string_is(delete.checkpoint, "daily@" UUID_TEXT));
    fake_ok(fake, OPERATION_CHECKPOINT_DELETE, cookie);
    fake_error(fake, OPERATION_CHECKPOINT_DELETE,
               fake_expect(fake, OPERATION_CHECKPOINT_DELETE, NULL), STATUS_NOT_FOUND,
               "no such checkpoint");
    /* One item less than was sent. */
    reply_list(fake, fake_expect(fake, OPERATION_CHECKPOINT_LIST, NULL), 2, 3);
    fake_expect_end(fake);
}

static int listed;

static void each_checkpoint(void *opaque, const struct bitmapd_checkpoint *checkpoint)
{
    (void)opaque;
    assert_string_equal(checkpoint->drive, "vg0/a");
    assert_string_equal(checkpoint->name, "daily");
    assert_memory_equal(checkpoint->uuid, uuid.bytes, 16);
    assert_string_equal(checkpoint->reason, "because");
    assert_string_equal(checkpoint->untracked, "rebooted");
    assert_int_equal(checkpoint->validity, BITMAPD_UNKNOWN);
    assert_true(checkpoint->id == 5 && checkpoint->sequence == 60 && checkpoint->created_ns == 61);
    assert_true(checkpoint->granularity == 4096 && checkpoint->size == FAKE_DRIVE_SIZE);
    assert_true(checkpoint->recording && checkpoint->dirty_bytes == 8192);
    assert_int_equal(checkpoint->dirty_count, 2);
    listed++;
}

static void test_calls(void **state)
{
    static const uint8_t id[16] = {9, 8, 7};
    static const char *const drives[] = {"vg0/a", "b"};
    struct bitmapd_checkpoint_created created = {0};
    struct fake fake = {0};
    char longest[300];

    (void)state;
    fake_start(&fake, script_calls);
    bitmapd *handle = fake_connect(&fake, 0);
    bitmapd_set_request_id(handle, id);
    assert_int_equal(bitmapd_checkpoint_create(handle, "daily", drives, 2, &created), 0);
    assert_memory_equal(created.uuid, uuid.bytes, 16);
    assert_true(created.sequence == 60 && created.created_ns == 61 && created.drives == 2);
    assert_int_equal(bitmapd_checkpoint_create(handle, "daily", drives, 1, NULL), -EEXIST);
    listed = 0;
    assert_int_equal(bitmapd_checkpoint_list(handle, "vg0/a", each_checkpoint, NULL), 0);
    assert_int_equal(listed, 3);
    assert_int_equal(bitmapd_checkpoint_list(handle, NULL, each_checkpoint, NULL), 0);
    assert_int_equal(listed, 3);
    assert_int_equal(bitmapd_checkpoint_delete(handle, "vg0/a", "daily@" UUID_TEXT), 0);
    assert_int_equal(bitmapd_checkpoint_delete(handle, "vg0/a", "daily"), -ENOENT);
    assert_string_equal(bitmapd_error(handle), "no such checkpoint");

    /* Nothing of these is sent. */
    memset(longest, 'n', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    assert_int_equal(bitmapd_checkpoint_create(handle, "", drives, 1, NULL), -EINVAL);
    assert_int_equal(bitmapd_checkpoint_create(handle, longest, drives, 1, NULL), -EINVAL);
    assert_int_equal(bitmapd_checkpoint_create(handle, "c", drives, 0, NULL), -EINVAL);
    assert_int_equal(bitmapd_checkpoint_create(handle, "c", drives, 65536, NULL), -EINVAL);
    assert_int_equal(
        bitmapd_checkpoint_create(handle, "c", (const char *const[]){"a", longest}, 2, NULL),
        -EINVAL);
    assert_int_equal(bitmapd_checkpoint_list(handle, "", each_checkpoint, NULL), -EINVAL);
    assert_int_equal(bitmapd_checkpoint_delete(handle, "", "c"), -EINVAL);
    assert_int_equal(bitmapd_checkpoint_delete(handle, "a", ""), -EINVAL);
    assert_int_equal(bitmapd_checkpoint_delete(handle, "a", longest), -EINVAL);
    assert_int_equal(bitmapd_checkpoint_map(handle, "a", "", NULL, 0, NULL, NULL, NULL), -EINVAL);
    assert_int_equal(bitmapd_checkpoint_map(handle, "a", "c", "", 0, NULL, NULL, NULL), -EINVAL);
    assert_int_equal(bitmapd_status_code(handle), 0);

    assert_int_equal(bitmapd_checkpoint_list(handle, NULL, each_checkpoint, NULL), -EPROTO);
    bitmapd_close(handle);
    fake_join(&fake);
}

/* One that was made on other drives too is not what was asked for. */
static void script_created_on_others(struct fake *fake)
{
    fake_hello(fake);
    reply_created(fake, fake_expect(fake, OPERATION_CHECKPOINT_CREATE, NULL), 1);
    reply_created(fake, fake_expect(fake, OPERATION_CHECKPOINT_CREATE, NULL), 3);
    fake_expect_end(fake);
}

static void test_created_on_others(void **state)
{
    static const char *const drives[] = {"vg0/a", "b"};
    struct fake fake = {0};

    (void)state;
    fake_start(&fake, script_created_on_others);
    bitmapd *handle = fake_connect(&fake, 5);
    struct bitmapd_checkpoint_created created;
    assert_int_equal(bitmapd_checkpoint_create(handle, "daily", drives, 2, &created), 0);
    assert_int_equal(created.drives, 1); /* a repeat, after one was deleted */
    assert_int_equal(bitmapd_checkpoint_create(handle, "daily", drives, 2, NULL), -EPROTO);
    bitmapd_close(handle);
    fake_join(&fake);
}

/* ---- Maps ---- */

struct seen {
    int heads;
    size_t runs;
    bool has_target;
};

static void map_head(void *opaque, const struct bitmapd_map *map)
{
    struct seen *seen = opaque;
    static const uint8_t none[16];

    assert_string_equal(map->bitmap, "vg0/a");
    assert_string_equal(map->base, "daily");
    assert_memory_equal(map->base_uuid, uuid.bytes, 16);
    assert_int_equal(map->base_sequence, 60);
    assert_string_equal(map->untracked, "rebooted");
    assert_string_equal(map->target, seen->has_target ? "later" : "");
    assert_memory_equal(map->target_uuid, seen->has_target ? uuid.bytes : none, 16);
    assert_int_equal(map->target_sequence, seen->has_target ? 70 : 0);
    seen->heads++;
}

static void map_runs(void *opaque, const struct bitmapd_range *runs, size_t count)
{
    struct seen *seen = opaque;
    assert_true(count == 1 && runs[0].offset == 8192 && runs[0].length == 4096);
    seen->runs += count;
}

static const struct bitmapd_map_callbacks callbacks = {map_head, map_runs};

static void send_head(struct fake *fake, uint64_t cookie, const char *base, const char *target)
{
    struct message_map_head head = {
        .bitmap = wire_string("vg0/a"),
        .size = FAKE_DRIVE_SIZE,
        .granularity = 4096,
        .recording = 1,
        .untracked = wire_string("rebooted"),
        .base = wire_string(base),
        .base_uuid = uuid,
        .base_sequence = 60,
        .target = wire_string(target),
    };
    if (target) {
        head.target_uuid = uuid;
        head.target_sequence = 70;
    }
    fake_reply_as(fake, MESSAGE_MAP_HEAD, &head, OPERATION_CHECKPOINT_MAP, FRAME_REPLY | FRAME_MORE,
                  0, cookie);
}

static void send_page(struct fake *fake, uint64_t cookie)
{
    uint8_t pair[WIRE_RANGE_BYTES];
    struct message_map_page page = {{.data = pair, .count = 1}};

    wire_range_store(pair, (struct wire_range){8192, 4096});
    fake_reply_as(fake, MESSAGE_MAP_PAGE, &page, OPERATION_CHECKPOINT_MAP, FRAME_REPLY | FRAME_MORE,
                  0, cookie);
}

static void send_end(struct fake *fake, uint64_t cookie)
{
    uint8_t pair[WIRE_RANGE_BYTES];

    wire_range_store(pair, (struct wire_range){8192, 4096});
    struct message_map_end end = {1, 4096, crc32c(0, pair, sizeof pair)};
    fake_reply_as(fake, MESSAGE_MAP_END, &end, OPERATION_CHECKPOINT_MAP, FRAME_REPLY, 0, cookie);
}

static void script_maps(struct fake *fake)
{
    struct message_checkpoint_map map;

    fake_hello(fake);
    uint64_t cookie = fake_expect(fake, OPERATION_CHECKPOINT_MAP, &map);
    FAKE_CHECK(fake_string_is(map.drive, "vg0/a") && fake_string_is(map.since, "daily"));
    FAKE_CHECK(map.until.length == 0 && map.offset == 0);
    send_head(fake, cookie, "daily", NULL);
    send_page(fake, cookie);
    send_end(fake, cookie);

    cookie = fake_expect(fake, OPERATION_CHECKPOINT_MAP, &map);
    FAKE_CHECK(fake_string_is(map.since, "daily@" UUID_TEXT) && fake_string_is(map.until, "later"));
    FAKE_CHECK(map.offset == 8192);
    send_head(fake, cookie, "daily", "later");
    send_page(fake, cookie);
    send_end(fake, cookie);

    fake_error(fake, OPERATION_CHECKPOINT_MAP, fake_expect(fake, OPERATION_CHECKPOINT_MAP, NULL),
               STATUS_NOT_FOUND, "no such checkpoint");
}

static void test_maps(void **state)
{
    struct fake fake = {0};
    struct seen seen = {0};
    uint32_t crc = 0;

    (void)state;
    fake_start(&fake, script_maps);
    bitmapd *handle = fake_connect(&fake, 0);
    assert_int_equal(
        bitmapd_checkpoint_map(handle, "vg0/a", "daily", NULL, 0, &callbacks, &seen, &crc), 0);
    assert_true(seen.heads == 1 && seen.runs == 1 && crc != 0);
    seen = (struct seen){.has_target = true};
    assert_int_equal(bitmapd_checkpoint_map(handle, "vg0/a", "daily@" UUID_TEXT, "later", 8192,
                                            &callbacks, &seen, NULL),
                     0);
    assert_true(seen.heads == 1 && seen.runs == 1);
    assert_int_equal(
        bitmapd_checkpoint_map(handle, "vg0/a", "daily", NULL, 0, &callbacks, &seen, NULL),
        -ENOENT);
    assert_int_equal(seen.heads, 1);
    bitmapd_close(handle);
    fake_join(&fake);
}

/* Answers for other checkpoints than were asked for, or for none. */
static const struct bad_map {
    const char *since, *until; /* asked for; since NULL: a bitmap's map */
    const char *base, *target; /* answered */
} bad_maps[] = {
    {"daily", NULL, "", NULL},
    {"daily", NULL, "dail", NULL},
    {"daily", NULL, "dailyy", NULL},
    {"daily", NULL, "daily", "later"},
    {"daily@ffffffff-0405-0607-0809-0a0b0c0d0e0f", NULL, "daily", NULL},
    {"daily", "later", "daily", ""},
    {"daily", "later", "daily", "latter"},
    {"daily", "later@ffffffff-0405-0607-0809-0a0b0c0d0e0f", "daily", "later"},
    {"no/name", NULL, "no/name", NULL},
};

static void script_bad_map(struct fake *fake)
{
    const struct bad_map *bad = fake->opaque;

    fake_hello(fake);
    uint64_t cookie = fake_expect(fake, OPERATION_CHECKPOINT_MAP, NULL);
    send_head(fake, cookie, bad->base, bad->target);
    send_page(fake, cookie);
    send_end(fake, cookie);
    fake_expect_end(fake);
}

static void test_bad_maps(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad_maps / sizeof bad_maps[0]; i++) {
        struct bad_map bad = bad_maps[i];
        struct fake fake = {.opaque = &bad};
        struct seen seen = {0};
        fake_start(&fake, script_bad_map);
        bitmapd *handle = fake_connect(&fake, 5);
        int r = bitmapd_checkpoint_map(handle, "vg0/a", bad.since, bad.until, 0, &callbacks, &seen,
                                       NULL);
        if (r != -EPROTO || seen.heads != 0 || seen.runs != 0) {
            fail_msg("answer %zu: %d %s", i, r, bitmapd_error(handle));
        }
        bitmapd_close(handle);
        fake_join(&fake);
    }
}

/* A bitmap's map has no base. */
static void script_base_of_bitmap(struct fake *fake)
{
    struct message_map_head head = {
        .bitmap = wire_string("vg0/a/b"),
        .size = FAKE_DRIVE_SIZE,
        .granularity = 512,
        .base = wire_string("daily"),
    };
    fake_hello(fake);
    uint64_t cookie = fake_expect(fake, OPERATION_MAP, NULL);
    fake_reply_as(fake, MESSAGE_MAP_HEAD, &head, OPERATION_MAP, FRAME_REPLY | FRAME_MORE, 0,
                  cookie);
    fake_expect_end(fake);
}

static void test_base_of_bitmap(void **state)
{
    struct fake fake = {0};
    struct seen seen = {0};

    (void)state;
    fake_start(&fake, script_base_of_bitmap);
    bitmapd *handle = fake_connect(&fake, 5);
    assert_int_equal(bitmapd_map(handle, "vg0/a/b", 0, &callbacks, &seen, NULL), -EPROTO);
    assert_int_equal(seen.heads, 0);
    bitmapd_close(handle);
    fake_join(&fake);
}

/* ---- Lost connections ---- */

static void script_lost(struct fake *fake)
{
    fake_hello(fake);
    fake_expect(fake, OPERATION_CHECKPOINT_LIST, NULL);
    fake_hang_up(fake);
    fake_hello(fake);
    reply_list(fake, fake_expect(fake, OPERATION_CHECKPOINT_LIST, NULL), 1, 1);

    /* A map of which only the head has come begins again, */
    uint64_t cookie = fake_expect(fake, OPERATION_CHECKPOINT_MAP, NULL);
    send_head(fake, cookie, "daily", NULL);
    fake_hang_up(fake);
    fake_hello(fake);
    cookie = fake_expect(fake, OPERATION_CHECKPOINT_MAP, NULL);
    send_head(fake, cookie, "daily", NULL);
    send_page(fake, cookie);
    send_end(fake, cookie);

    /* one of which something was handed over does not, */
    cookie = fake_expect(fake, OPERATION_CHECKPOINT_MAP, NULL);
    send_head(fake, cookie, "daily", NULL);
    send_page(fake, cookie);
    fake_hang_up(fake);
    fake_hello(fake);

    /* and no change is made twice. */
    fake_expect(fake, OPERATION_CHECKPOINT_CREATE, NULL);
    fake_hang_up(fake);
    fake_hello(fake);
    fake_expect(fake, OPERATION_CHECKPOINT_DELETE, NULL);
    fake_hang_up(fake);
    fake_hello(fake);
    fake_expect(fake, OPERATION_DRIVE_ADOPT, NULL);
    fake_hang_up(fake);
}

static void test_lost(void **state)
{
    static const char *const drives[] = {"vg0/a"};
    struct fake fake = {0};
    struct seen seen = {0};

    (void)state;
    fake_start(&fake, script_lost);
    bitmapd *handle = fake_connect(&fake, 20);
    listed = 0;
    assert_int_equal(bitmapd_checkpoint_list(handle, "vg0/a", each_checkpoint, NULL), 0);
    assert_int_equal(listed, 1);
    assert_int_equal(
        bitmapd_checkpoint_map(handle, "vg0/a", "daily", NULL, 0, &callbacks, &seen, NULL), 0);
    assert_true(seen.heads == 1 && seen.runs == 1);
    assert_int_equal(
        bitmapd_checkpoint_map(handle, "vg0/a", "daily", NULL, 0, &callbacks, &seen, NULL),
        -ECONNABORTED);
    assert_int_equal(bitmapd_checkpoint_create(handle, "daily", drives, 1, NULL), -ECONNABORTED);
    assert_int_equal(bitmapd_checkpoint_delete(handle, "vg0/a", "daily"), -ECONNABORTED);
    assert_int_equal(bitmapd_drive_adopt(handle, "vg0/a"), -ECONNABORTED);
    bitmapd_close(handle);
    fake_join(&fake);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calls), cmocka_unit_test(test_created_on_others),
        cmocka_unit_test(test_maps),  cmocka_unit_test(test_bad_maps),
        cmocka_unit_test(test_lost),  cmocka_unit_test(test_base_of_bitmap),
    };
    alarm(60);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
