/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Golden bytes: one example of every message, its payload spelled out by hand
 * from protocol.md.  Whoever changes these changes what released clients and
 * daemons say to each other.
 */
#include "proto/frame.h"
#include "proto/message.h"

#include <ctype.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define UUID_A                                                                                  \
    {                                                                                           \
        {                                                                                       \
            0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, \
                0x0e, 0x0f                                                                      \
        }                                                                                       \
    }
#define UUID_A_HEX "000102030405060708090a0b0c0d0e0f "
#define UUID_B                                                                                  \
    {                                                                                           \
        {                                                                                       \
            0xf0, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0xfa, 0xfb, 0xfc, 0xfd, \
                0xfe, 0xff                                                                      \
        }                                                                                       \
    }
#define UUID_B_HEX "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff "

#define STRING(text)                               \
    {                                              \
        .data = (text), .length = sizeof(text) - 1 \
    }

/* (4096, 8192) and (2^40, 1) */
#define RANGES                                        \
    {                                                 \
        .data = (const uint8_t *)"\0\x10\0\0\0\0\0\0" \
                                 "\0\x20\0\0\0\0\0\0" \
                                 "\0\0\0\0\0\1\0\0"   \
                                 "\1\0\0\0\0\0\0\0",  \
        .count = 2                                    \
    }
#define RANGES_HEX "02000000 0010000000000000 0020000000000000 0000000000010000 0100000000000000 "

/* clang-format off */
static const struct message_error error_message = {STRING("no drive vg0/a")};
static const struct message_hello hello = {
    .magic = PROTOCOL_MAGIC, .version_min = 1, .version_max = 0x0203,
    .features = UINT64_C(0x1122334455667788), .client = STRING("ctl"),
};
static const struct message_hello_reply hello_reply = {
    .version = 1, .features = 5, .frame_bytes_max = 0x100000, .requests_max = 256,
    .unsettled_max = 65536, .container = UUID_A, .instance = UUID_B, .server = STRING("bitmapd"),
};
static const struct message_drive_add drive_add = {
    .request = UUID_A, .name = STRING("a"), .path = STRING("/dev/x"), .size = 100000,
    .durability = WIRE_DURABILITY_PROCESS_CRASH, .granularity = 65536,
};
static const struct message_drive_name drive_name = {STRING("vg0/a")};
static const struct message_drive_change drive_change = {
    .request = UUID_B, .name = STRING("a"), .argument = STRING("bc"), .flags = CHANGE_FORCE,
};
static const struct message_drive_set drive_set = {
    .request = UUID_A, .name = STRING("a"), .durability = WIRE_DURABILITY_POWER_LOSS,
    .granularity = 512,
};
static const struct message_drive_resize drive_resize = {
    .request = UUID_A, .name = STRING("a"), .size = UINT64_C(0x0102030405060708),
};
static const struct message_drive_info drive_info = {
    .id = 1, .name = STRING("a"), .path = STRING(""), .size = 2, .granularity = 3,
    .durability = 1, .bitmaps = 4, .recording = 5, .writers = 6, .lost_writers = 7,
    .unsettled = 8, .checkpoints = 9, .identity = STRING("inode 5"), .untracked = STRING("u"),
};
static const struct message_bitmap_create bitmap_create = {
    .request = UUID_A, .bitmap = STRING("a/b"), .granularity = 4096, .flags = CHANGE_DISABLED,
};
static const struct message_bitmap_name bitmap_name = {STRING("a/b")};
static const struct message_bitmap_change bitmap_change = {
    .request = UUID_A, .bitmap = STRING("a/b"), .argument = STRING("c"),
};
static const struct message_bitmap_range bitmap_range = {
    .request = UUID_A, .bitmap = STRING("a/b"), .offset = 4096, .length = 512, .flags = 4,
};
static const struct message_bitmap_merge bitmap_merge = {
    .request = UUID_A, .target = STRING("a/t"),
    .sources = {.data = (const uint8_t *)"\3\0a/x\0\0", .bytes = 7, .count = 2},
};
static const struct message_bitmap_info bitmap_info = {
    .id = 9, .bitmap = STRING("a/b"), .granularity = 65536, .size = 100000, .recording = 1,
    .gap = 0, .validity = WIRE_VALIDITY_UNKNOWN, .reason = STRING("why"), .dirty_bytes = 100000,
    .dirty_count = 2, .untracked = STRING("no"),
};
static const struct message_list_end list_end = {3};
static const struct message_map map = {STRING("a/b"), 65536};
static const struct message_map_head map_head = {
    .bitmap = STRING("a/b"), .size = 100000, .granularity = 512, .recording = 1, .validity = 0,
    .reason = STRING(""), .sequence = 77, .untracked = STRING("u"), .base = STRING("c1"),
    .base_uuid = UUID_A, .base_sequence = 60, .target = STRING("c2"), .target_uuid = UUID_B,
    .target_sequence = 70,
};
static const struct message_map_page map_page = {RANGES};
static const struct message_map_end map_end = {.runs = 2, .dirty_bytes = 8193,
                                               .crc32c = 0xdeadbeef};
static const struct message_mark mark = {.drive = 7, .first_id = 8, .ranges = RANGES};
static const struct message_settle settle = {.drive = 7, .ids = RANGES};
static const struct message_attach attach = {STRING("a"), STRING("vm-1"), ATTACH_RETURNING};
static const struct message_attach_reply attach_reply = {.drive = 7, .size = 100000,
                                                         .resuming = 1};
static const struct message_drive_id drive_id = {7};
static const struct message_flush_reply flush_reply = {0x0100};
static const struct message_status_reply status_reply = {
    .server = STRING("s"), .container = UUID_A, .instance = UUID_B, .container_path = STRING("/c"),
    .uptime_ns = 1, .sequence = 2, .applied_seq = 3, .drives = 4, .bitmaps = 5,
    .unknown_bitmaps = 6, .connections = 7, .marks = 8, .memory_bytes = 9,
    .dirty_memory_bytes = 10, .flushes = 11, .container_bytes = 12, .degraded = 1,
    .degraded_reason = STRING("r"), .degraded_since_ns = 13, .start_report = STRING("ok"),
};
/* One operation: CHECKPOINT_DELETE (82) with a payload of 2 bytes. */
static const struct message_transaction transaction = {
    .request = UUID_A,
    .operations = {.data = (const uint8_t *)"\x52\0\2\0\0\0\xaa\0", .bytes = 8},
};
static const struct message_transaction_reply transaction_reply = {0x0200};
static const struct message_checkpoint_create checkpoint_create = {
    .request = UUID_A, .name = STRING("daily"),
    .drives = {.data = (const uint8_t *)"\1\0a\5\0vg0/b", .bytes = 10, .count = 2},
};
static const struct message_checkpoint_created checkpoint_created = {
    .uuid = UUID_B, .sequence = 78, .created_ns = UINT64_C(0x0102030405060708), .drives = 2,
};
static const struct message_checkpoint_delete checkpoint_delete = {
    .request = UUID_B, .drive = STRING("vg0/b"), .checkpoint = STRING("daily"),
};
static const struct message_checkpoint_info checkpoint_info = {
    .id = 9, .drive = STRING("a"), .name = STRING("c1"), .uuid = UUID_A, .sequence = 60,
    .created_ns = 61, .granularity = 65536, .size = 100000, .recording = 1,
    .validity = WIRE_VALIDITY_SUPERSET, .reason = STRING("why"), .untracked = STRING("u"),
    .dirty_bytes = 4096, .dirty_count = 2,
};
static const struct message_checkpoint_map checkpoint_map = {
    .drive = STRING("a"), .since = STRING("c1"), .until = STRING(""), .offset = 65536,
};
static const struct message_restrict restrict_to = {.drive = STRING("vg0/b"), .rights = 3};

static const struct {
    enum message_type type;
    const void *message;
    const char *hex;
} rows[] = {
    {MESSAGE_EMPTY, NULL, ""},
    {MESSAGE_ERROR, &error_message, "0e00 6e6f206472697665207667302f61"},
    {MESSAGE_HELLO, &hello, "424d5044 0100 0302 8877665544332211 0300 63746c"},
    {MESSAGE_HELLO_REPLY, &hello_reply,
     "0100 0500000000000000 00001000 00010000 00000100 " UUID_A_HEX UUID_B_HEX
     "0700 6269746d617064"},
    {MESSAGE_DRIVE_ADD, &drive_add,
     UUID_A_HEX "0100 61 0600 2f6465762f78 a086010000000000 02 00000100"},
    {MESSAGE_DRIVE_NAME, &drive_name, "0500 7667302f61"},
    {MESSAGE_DRIVE_CHANGE, &drive_change, UUID_B_HEX "0100 61 0200 6263 01"},
    {MESSAGE_DRIVE_SET, &drive_set, UUID_A_HEX "0100 61 01 00020000"},
    {MESSAGE_DRIVE_RESIZE, &drive_resize, UUID_A_HEX "0100 61 0807060504030201"},
    {MESSAGE_DRIVE_INFO, &drive_info,
     "0100000000000000 0100 61 0000 0200000000000000 03000000 01 04000000 05000000 06000000 "
     "07000000 0800000000000000 09000000 0700 696e6f64652035 0100 75"},
    {MESSAGE_BITMAP_CREATE, &bitmap_create, UUID_A_HEX "0300 612f62 00100000 02"},
    {MESSAGE_BITMAP_NAME, &bitmap_name, "0300 612f62"},
    {MESSAGE_BITMAP_CHANGE, &bitmap_change, UUID_A_HEX "0300 612f62 0100 63"},
    {MESSAGE_BITMAP_RANGE, &bitmap_range,
     UUID_A_HEX "0300 612f62 0010000000000000 0002000000000000 04"},
    {MESSAGE_BITMAP_MERGE, &bitmap_merge,
     UUID_A_HEX "0300 612f74 0200 0300 612f78 0000"},
    {MESSAGE_BITMAP_INFO, &bitmap_info,
     "0900000000000000 0300 612f62 00000100 a086010000000000 01 00 02 0300 776879 "
     "a086010000000000 0200000000000000 0200 6e6f"},
    {MESSAGE_LIST_END, &list_end, "0300000000000000"},
    {MESSAGE_MAP, &map, "0300 612f62 0000010000000000"},
    {MESSAGE_MAP_HEAD, &map_head,
     "0300 612f62 a086010000000000 00020000 01 00 0000 4d00000000000000 0100 75 "
     "0200 6331 " UUID_A_HEX "3c00000000000000 0200 6332 " UUID_B_HEX "4600000000000000"},
    {MESSAGE_MAP_PAGE, &map_page, RANGES_HEX},
    {MESSAGE_MAP_END, &map_end, "0200000000000000 0120000000000000 efbeadde"},
    {MESSAGE_MARK, &mark, "0700000000000000 0800000000000000 " RANGES_HEX},
    {MESSAGE_SETTLE, &settle, "0700000000000000 " RANGES_HEX},
    {MESSAGE_ATTACH, &attach, "0100 61 0400 766d2d31 02"},
    {MESSAGE_ATTACH_REPLY, &attach_reply, "0700000000000000 a086010000000000 01"},
    {MESSAGE_DRIVE_ID, &drive_id, "0700000000000000"},
    {MESSAGE_FLUSH_REPLY, &flush_reply, "0001000000000000"},
    {MESSAGE_STATUS_REPLY, &status_reply,
     "0100 73 " UUID_A_HEX UUID_B_HEX "0200 2f63 0100000000000000 0200000000000000 "
     "0300000000000000 04000000 05000000 06000000 07000000 0800000000000000 0900000000000000 "
     "0a00000000000000 0b00000000000000 0c00000000000000 01 0100 72 0d00000000000000 0200 6f6b"},
    {MESSAGE_TRANSACTION, &transaction, UUID_A_HEX "08000000 5200 02000000 aa00"},
    {MESSAGE_TRANSACTION_REPLY, &transaction_reply, "0002000000000000"},
    {MESSAGE_CHECKPOINT_CREATE, &checkpoint_create,
     UUID_A_HEX "0500 6461696c79 0200 0100 61 0500 7667302f62"},
    {MESSAGE_CHECKPOINT_CREATED, &checkpoint_created,
     UUID_B_HEX "4e00000000000000 0807060504030201 02000000"},
    {MESSAGE_CHECKPOINT_DELETE, &checkpoint_delete, UUID_B_HEX "0500 7667302f62 0500 6461696c79"},
    {MESSAGE_CHECKPOINT_INFO, &checkpoint_info,
     "0900000000000000 0100 61 0200 6331 " UUID_A_HEX "3c00000000000000 3d00000000000000 "
     "00000100 a086010000000000 01 01 0300 776879 0100 75 0010000000000000 0200000000000000"},
    {MESSAGE_CHECKPOINT_MAP, &checkpoint_map, "0100 61 0200 6331 0000 0000010000000000"},
    {MESSAGE_RESTRICT, &restrict_to, "0500 7667302f62 03000000"},
};
/* clang-format on */

static size_t from_hex(const char *hex, uint8_t *out, size_t size)
{
    size_t bytes = 0;
    while (*hex) {
        if (isspace((unsigned char)*hex)) {
            hex++;
            continue;
        }
        unsigned value;
        assert_int_equal(sscanf(hex, "%2x", &value), 1);
        assert_true(bytes < size);
        out[bytes++] = (uint8_t)value;
        hex += 2;
    }
    return bytes;
}

static void test_golden(void **state)
{
    bool seen[MESSAGE_TYPES] = {false};

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        uint8_t expected[512];
        struct wire_buffer buffer = {0};
        size_t bytes = from_hex(rows[i].hex, expected, sizeof expected);

        assert_int_equal(
            message_encode(&buffer, rows[i].type, rows[i].message, 0x1122, FRAME_REPLY, 5, 0x99),
            0);
        print_message("message %d\n", rows[i].type);
        assert_int_equal(buffer.bytes, FRAME_HEADER_BYTES + bytes);
        assert_memory_equal(buffer.data + FRAME_HEADER_BYTES, expected, bytes);
        assert_int_equal(buffer.data[0], FRAME_HEADER_BYTES + bytes);
        assert_memory_equal(buffer.data + 4, "\x22\x11\x01\x05\x99\0\0\0\0\0\0\0", 12);
        wire_buffer_deinit(&buffer);
        seen[rows[i].type] = true;
    }
    for (int type = 0; type < MESSAGE_TYPES; type++) {
        assert_true(seen[type]);
    }
}

/* Decoding the bytes gives what the structures say, tried where C can compare it in a line. */
static void test_golden_decoded(void **state)
{
    struct message_mark decoded;
    struct message_bitmap_merge merge;
    uint8_t payload[128];

    (void)state;
    size_t bytes =
        from_hex("0700000000000000 0800000000000000 " RANGES_HEX, payload, sizeof payload);
    assert_int_equal(message_decode(MESSAGE_MARK, payload, bytes, 0, &decoded, NULL), 0);
    assert_true(decoded.drive == 7 && decoded.first_id == 8 && decoded.ranges.count == 2);
    struct wire_range range = wire_ranges_get(&decoded.ranges, 1);
    assert_true(range.offset == UINT64_C(1) << 40 && range.length == 1);

    bytes = from_hex(UUID_A_HEX "0300 612f74 0200 0300 612f78 0000", payload, sizeof payload);
    assert_int_equal(message_decode(MESSAGE_BITMAP_MERGE, payload, bytes, 0, &merge, NULL), 0);
    assert_int_equal(merge.sources.count, 2);
    struct wire_string first = wire_strings_next(&merge.sources);
    assert_int_equal(first.length, 3);
    assert_memory_equal(first.data, "a/x", 3);
    assert_int_equal(wire_strings_next(&merge.sources).length, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_golden_decoded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
