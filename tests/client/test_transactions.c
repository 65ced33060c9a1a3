/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Transactions: golden bytes of every operation, limits, what is told of the
 * one that failed, and that nothing is ever sent in part.
 */
#include "client/lib/bitmapd-transaction.h"
#include "tests/client/fake.h"

#include "proto/base/endian.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static const char *const names[] = {"vg0/a", "b"};
static const char *const bitmaps[] = {"a/x", "a/y"};

/* One operation of a blob, decoded; moves on. */
static uint16_t take(struct wire_blob *blob, void *ret)
{
    struct error error;

    FAKE_CHECK(blob->bytes >= TRANSACTION_HEADER_BYTES);
    uint16_t operation = load_le16(blob->data);
    uint32_t bytes = load_le32(blob->data + 2);
    FAKE_CHECK(bytes <= blob->bytes - TRANSACTION_HEADER_BYTES);
    if (message_decode(message_request_type(operation), blob->data + TRANSACTION_HEADER_BYTES,
                       bytes, 0, ret, &error) < 0) {
        fake_fail(__FILE__, __LINE__, error.text);
    }
    blob->data += TRANSACTION_HEADER_BYTES + bytes;
    blob->bytes -= TRANSACTION_HEADER_BYTES + bytes;
    return operation;
}

static void reply_sequence(struct fake *fake, uint64_t cookie)
{
    struct message_transaction_reply reply = {77};
    fake_reply_as(fake, MESSAGE_TRANSACTION_REPLY, &reply, OPERATION_TRANSACTION, FRAME_REPLY, 0,
                  cookie);
}

static void script_every_operation(struct fake *fake)
{
    static const uint8_t id[16] = {9, 8, 7};
    static const uint16_t changes[] = {OPERATION_BITMAP_DELETE, OPERATION_BITMAP_ENABLE,
                                       OPERATION_BITMAP_DISABLE, OPERATION_BITMAP_RENAME};
    static const uint16_t ranges[] = {OPERATION_BITMAP_SET, OPERATION_BITMAP_CLEAR,
                                      OPERATION_BITMAP_CLEAR};
    struct message_transaction transaction;
    struct message_bitmap_create create;
    struct message_bitmap_change change;
    struct message_bitmap_range range;
    struct message_bitmap_merge merge;
    struct message_checkpoint_create checkpoint;
    struct message_checkpoint_delete delete;

    fake_hello(fake);
    uint64_t cookie = fake_expect(fake, OPERATION_TRANSACTION, &transaction);
    FAKE_CHECK(memcmp(transaction.request.bytes, id, 16) == 0);
    struct wire_blob *blob = &transaction.operations;
    FAKE_CHECK(take(blob, &create) == OPERATION_BITMAP_CREATE);
    FAKE_CHECK(fake_string_is(create.bitmap, "a/b") && create.granularity == 4096);
    FAKE_CHECK(create.flags == CHANGE_DISABLED);
    for (unsigned i = 0; i < 4; i++) {
        FAKE_CHECK(take(blob, &change) == changes[i] && fake_string_is(change.bitmap, "a/b"));
        FAKE_CHECK(fake_string_is(change.argument, i == 3 ? "c" : ""));
    }
    for (unsigned i = 0; i < 3; i++) {
        FAKE_CHECK(take(blob, &range) == ranges[i] && fake_string_is(range.bitmap, "a/b"));
        FAKE_CHECK(range.offset == (i < 2 ? 1 + i : 0) && range.length == (i < 2 ? 10 + i : 0));
        FAKE_CHECK(range.flags == (i < 2 ? 0 : CHANGE_ALL));
    }
    FAKE_CHECK(take(blob, &merge) == OPERATION_BITMAP_MERGE && merge.sources.count == 2);
    FAKE_CHECK(fake_string_is(merge.target, "a/t"));
    FAKE_CHECK(fake_string_is(wire_strings_next(&merge.sources), "a/x"));
    FAKE_CHECK(take(blob, &checkpoint) == OPERATION_CHECKPOINT_CREATE);
    FAKE_CHECK(fake_string_is(checkpoint.name, "daily") && checkpoint.drives.count == 2);
    FAKE_CHECK(fake_string_is(wire_strings_next(&checkpoint.drives), "vg0/a"));
    FAKE_CHECK(take(blob, &delete) == OPERATION_CHECKPOINT_DELETE);
    FAKE_CHECK(fake_string_is(delete.drive, "vg0/a"));
    FAKE_CHECK(fake_string_is(delete.checkpoint, "older"));
    FAKE_CHECK(blob->bytes == 0);
    reply_sequence(fake, cookie);

    /* The same again, under another id. */
    cookie = fake_expect(fake, OPERATION_TRANSACTION, &transaction);
    FAKE_CHECK(memcmp(transaction.request.bytes, id, 16) != 0);
    FAKE_CHECK(take(blob, &create) == OPERATION_BITMAP_CREATE);
    fake_error(fake, OPERATION_TRANSACTION, cookie, STATUS_EXISTS, "0: bitmap a/b exists");
    for (int i = 0; i < 4; i++) {
        static const char *const words[] = {"operation 10: no", "operation 11: no", "no",
                                            "184467440737095516160: no"};
        cookie = fake_expect(fake, OPERATION_TRANSACTION, NULL);
        fake_error(fake, OPERATION_TRANSACTION, cookie, STATUS_NOT_FOUND, words[i]);
    }
}

static bitmapd_transaction *every_operation(void)
{
    bitmapd_transaction *t = bitmapd_transaction_new();

    assert_non_null(t);
    assert_int_equal(bitmapd_transaction_bitmap_create(t, "a/b", 4096, true), 0);
    assert_int_equal(bitmapd_transaction_bitmap_delete(t, "a/b"), 0);
    assert_int_equal(bitmapd_transaction_bitmap_enable(t, "a/b"), 0);
    assert_int_equal(bitmapd_transaction_bitmap_disable(t, "a/b"), 0);
    assert_int_equal(bitmapd_transaction_bitmap_rename(t, "a/b", "c"), 0);
    assert_int_equal(bitmapd_transaction_bitmap_set(t, "a/b", 1, 10), 0);
    assert_int_equal(bitmapd_transaction_bitmap_clear(t, "a/b", 2, 11), 0);
    assert_int_equal(bitmapd_transaction_bitmap_clear_all(t, "a/b"), 0);
    assert_int_equal(bitmapd_transaction_bitmap_merge(t, "a/t", bitmaps, 2), 0);
    assert_int_equal(bitmapd_transaction_checkpoint_create(t, "daily", names, 2), 0);
    assert_int_equal(bitmapd_transaction_checkpoint_delete(t, "vg0/a", "older"), 0);
    assert_int_equal(bitmapd_transaction_count(t), 11);
    return t;
}

static void test_every_operation(void **state)
{
    static const uint8_t id[16] = {9, 8, 7};
    struct fake fake = {0};
    uint64_t sequence = 0;
    size_t position = 99;

    (void)state;
    fake_start(&fake, script_every_operation);
    bitmapd *handle = fake_connect(&fake, 0);
    bitmapd_transaction *t = every_operation();
    bitmapd_set_request_id(handle, id);
    assert_int_equal(bitmapd_transaction_commit(handle, t, &sequence), 0);
    assert_int_equal(sequence, 77);
    assert_false(bitmapd_transaction_failed(t, &position));

    assert_int_equal(bitmapd_transaction_commit(handle, t, &sequence), -EEXIST);
    assert_string_equal(bitmapd_error(handle), "0: bitmap a/b exists");
    assert_true(bitmapd_transaction_failed(t, &position));
    assert_int_equal(position, 0);
    assert_int_equal(bitmapd_transaction_commit(handle, t, NULL), -ENOENT);
    assert_true(bitmapd_transaction_failed(t, &position));
    assert_int_equal(position, 10);
    /* Positions that it does not have, and none at all. */
    for (int i = 0; i < 3; i++) {
        assert_int_equal(bitmapd_transaction_commit(handle, t, NULL), -ENOENT);
        assert_false(bitmapd_transaction_failed(t, &position));
    }
    /* Words of the library are about no operation. */
    int r = bitmapd_transaction_commit(handle, t, NULL);
    assert_true(r == -ECONNABORTED || r == -ENOTCONN); /* as soon as the fake is gone */
    assert_false(bitmapd_transaction_failed(t, NULL));
    bitmapd_transaction_free(t);
    bitmapd_transaction_free(NULL);
    bitmapd_close(handle);
    fake_join(&fake);
}

static void script_golden(struct fake *fake)
{
    /* BITMAP_DISABLE (37) of "a/b", then CHECKPOINT_DELETE (82) of "c" on "a". */
    static const uint8_t golden[] = "\x25\0\x17\0\0\0"
                                    "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\3\0a/b\0\0"
                                    "\x52\0\x16\0\0\0"
                                    "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1\0a\1\0c";
    struct message_transaction transaction;

    fake_hello(fake);
    uint64_t cookie = fake_expect(fake, OPERATION_TRANSACTION, &transaction);
    FAKE_CHECK(transaction.operations.bytes == sizeof golden - 1);
    FAKE_CHECK(memcmp(transaction.operations.data, golden, sizeof golden - 1) == 0);
    reply_sequence(fake, cookie);
}

static void test_golden(void **state)
{
    struct fake fake = {0};

    (void)state;
    fake_start(&fake, script_golden);
    bitmapd *handle = fake_connect(&fake, 0);
    bitmapd_transaction *t = bitmapd_transaction_new();
    assert_int_equal(bitmapd_transaction_bitmap_disable(t, "a/b"), 0);
    assert_int_equal(bitmapd_transaction_checkpoint_delete(t, "a", "c"), 0);
    assert_int_equal(bitmapd_transaction_commit(handle, t, NULL), 0);
    bitmapd_transaction_free(t);
    bitmapd_close(handle);
    fake_join(&fake);
}

/* What was refused leaves no trace. */
static void script_refused(struct fake *fake)
{
    struct message_transaction transaction;
    struct message_bitmap_change change;

    fake_hello(fake);
    uint64_t cookie = fake_expect(fake, OPERATION_TRANSACTION, &transaction);
    FAKE_CHECK(take(&transaction.operations, &change) == OPERATION_BITMAP_ENABLE);
    FAKE_CHECK(transaction.operations.bytes == 0);
    reply_sequence(fake, cookie);
}

static void test_refused(void **state)
{
    static char longest[600];
    struct fake fake = {0};

    (void)state;
    memset(longest, 'n', sizeof longest - 1);
    fake_start(&fake, script_refused);
    bitmapd *handle = fake_connect(&fake, 0);
    bitmapd_transaction *t = bitmapd_transaction_new();
    assert_int_equal(bitmapd_transaction_commit(handle, t, NULL), -EINVAL);
    assert_string_equal(bitmapd_transaction_error(t), "");
    assert_int_equal(bitmapd_transaction_bitmap_create(t, "", 0, false), -EINVAL);
    assert_string_equal(bitmapd_transaction_error(t), "bitmap is empty");
    assert_int_equal(bitmapd_transaction_bitmap_delete(t, longest), -EINVAL);
    assert_int_equal(bitmapd_transaction_bitmap_rename(t, "a/b", NULL), -EINVAL);
    assert_int_equal(bitmapd_transaction_bitmap_set(t, NULL, 0, 1), -EINVAL);
    assert_int_equal(bitmapd_transaction_bitmap_merge(t, "a/b", bitmaps, 0), -EINVAL);
    assert_int_equal(bitmapd_transaction_checkpoint_create(t, "c", names, 0), -EINVAL);
    assert_int_equal(bitmapd_transaction_checkpoint_create(t, longest, names, 1), -EINVAL);
    assert_int_equal(bitmapd_transaction_checkpoint_delete(t, "a", longest), -EINVAL);
    assert_int_equal(bitmapd_transaction_checkpoint_delete(t, longest, "a"), -EINVAL);
    assert_string_not_equal(bitmapd_transaction_error(t), "");
    assert_int_equal(bitmapd_transaction_count(t), 0);
    assert_int_equal(bitmapd_transaction_bitmap_enable(t, "a/b"), 0);
    assert_string_equal(bitmapd_transaction_error(t), "");
    assert_int_equal(bitmapd_transaction_commit(handle, t, NULL), 0);
    bitmapd_transaction_free(t);
    bitmapd_close(handle);
    fake_join(&fake);
}

static void script_limits(struct fake *fake)
{
    struct message_transaction transaction;
    struct message_bitmap_range range;

    fake->limits.frame_bytes_max = 4096;
    fake_hello(fake);
    /* The one that fits, and nothing of the others. */
    uint64_t cookie = fake_expect(fake, OPERATION_TRANSACTION, &transaction);
    FAKE_CHECK(take(&transaction.operations, &range) == OPERATION_BITMAP_SET);
    reply_sequence(fake, cookie);
    fake_expect_end(fake);
}

static void test_limits(void **state)
{
    struct fake fake = {0};
    int r;

    (void)state;
    fake_start(&fake, script_limits);
    bitmapd *handle = fake_connect(&fake, 0);
    /* By bytes: each is 6 + 16 + 5 + 8 + 8 + 1. */
    bitmapd_transaction *t = bitmapd_transaction_new();
    size_t count = 0;
    while ((r = bitmapd_transaction_bitmap_set(t, "a/b", 1, 2)) == 0) {
        count++;
    }
    assert_int_equal(r, -EMSGSIZE);
    assert_int_equal(count, (FRAME_BYTES_MAX - 36) / 44);
    assert_int_equal(bitmapd_transaction_count(t), count);
    assert_string_not_equal(bitmapd_transaction_error(t), "");
    /* More than this daemon takes. */
    assert_int_equal(bitmapd_transaction_commit(handle, t, NULL), -EMSGSIZE);
    assert_false(bitmapd_transaction_failed(t, NULL));
    bitmapd_transaction_free(t);

    /* One operation that no frame can have. */
    static const char *many[40000];
    for (size_t i = 0; i < sizeof many / sizeof many[0]; i++) {
        many[i] = "vg0/a/a bitmap with a long name";
    }
    t = bitmapd_transaction_new();
    assert_int_equal(bitmapd_transaction_bitmap_merge(t, "a/b", many, 40000), -EMSGSIZE);
    assert_int_equal(bitmapd_transaction_bitmap_set(t, "a/b", 1, 2), 0);
    assert_int_equal(bitmapd_transaction_commit(handle, t, NULL), 0);
    bitmapd_transaction_free(t);
    bitmapd_close(handle);
    fake_join(&fake);
}

/* An outcome that is not known is asked for under the same id, of the same transaction. */
static void script_lost(struct fake *fake)
{
    struct message_transaction first, second;

    fake_hello(fake);
    fake_expect(fake, OPERATION_TRANSACTION, &first);
    struct wire_uuid id = first.request;
    fake_hang_up(fake);
    fake_hello(fake);
    uint64_t cookie = fake_expect(fake, OPERATION_TRANSACTION, &second);
    FAKE_CHECK(memcmp(id.bytes, second.request.bytes, 16) == 0);
    reply_sequence(fake, cookie);
}

static void test_lost(void **state)
{
    struct fake fake = {0};
    uint64_t sequence = 0;
    uint8_t id[16];

    (void)state;
    fake_start(&fake, script_lost);
    bitmapd *handle = fake_connect(&fake, 20);
    bitmapd_transaction *t = every_operation();
    assert_int_equal(bitmapd_transaction_commit(handle, t, &sequence), -ECONNABORTED);
    assert_int_equal(sequence, 0);
    bitmapd_get_request_id(handle, id);
    bitmapd_set_request_id(handle, id);
    assert_int_equal(bitmapd_transaction_commit(handle, t, &sequence), 0);
    assert_int_equal(sequence, 77);
    bitmapd_transaction_free(t);
    bitmapd_close(handle);
    fake_join(&fake);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_operation),
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_lost),
    };
    alarm(60);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
