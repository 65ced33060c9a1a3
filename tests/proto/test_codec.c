/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The codec from outside: random messages of every type come back as they
 * went in; payloads cut at every length, with a byte more, and with every
 * byte changed are taken whole or refused whole.  Payloads are decoded from
 * allocations of exactly their size, so that a sanitizer sees one byte too far.
 */
#include "proto/frame.h"
#include "proto/layout.h"
#include "proto/message.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define ROUNDS 40

static uint64_t random_state;

/* splitmix64 */
static uint64_t random_u64(void)
{
    uint64_t z = (random_state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static uint32_t random_below(uint32_t limit)
{
    return (uint32_t)(random_u64() % limit);
}

/* One structure's worth of memory, aligned for all. */
union any_message {
    max_align_t align;
    uint8_t bytes[STRUCT_BYTES_MAX];
};

/* What the random strings and lists of one message point to. */
struct arena {
    uint8_t bytes[16384];
    size_t used;
};

static uint8_t *arena_take(struct arena *arena, size_t bytes)
{
    assert_true(bytes <= sizeof arena->bytes - arena->used);
    uint8_t *taken = arena->bytes + arena->used;
    arena->used += bytes;
    return taken;
}

static struct wire_string random_string(struct arena *arena)
{
    uint16_t length = (uint16_t)random_below(random_below(4) ? 12 : 300);
    uint8_t *data = arena_take(arena, length);
    for (unsigned i = 0; i < length; i++) {
        data[i] = (uint8_t)(1 + random_below(255));
    }
    return (struct wire_string){.data = length ? (char *)data : NULL, .length = length};
}

static void random_field(struct arena *arena, const struct field *field, uint8_t *value)
{
    switch ((enum field_kind)field->kind) {
    case FIELD_U8:
        *value = (uint8_t)random_u64();
        return;
    case FIELD_U16:
        *(uint16_t *)(void *)value = (uint16_t)random_u64();
        return;
    case FIELD_U32:
        *(uint32_t *)(void *)value = (uint32_t)random_u64();
        return;
    case FIELD_U64:
        *(uint64_t *)(void *)value = random_u64();
        return;
    case FIELD_UUID:
        for (unsigned i = 0; i < 16; i++) {
            value[i] = (uint8_t)random_u64();
        }
        return;
    case FIELD_STRING:
        *(struct wire_string *)(void *)value = random_string(arena);
        return;
    case FIELD_STRINGS: {
        struct wire_strings *strings = (void *)value;
        strings->count = (uint16_t)random_below(5);
        strings->data = arena->bytes + arena->used;
        for (unsigned i = 0; i < strings->count; i++) {
            uint8_t *prefix = arena_take(arena, 2);
            struct wire_string string = random_string(arena);
            prefix[0] = (uint8_t)string.length;
            prefix[1] = (uint8_t)(string.length >> 8);
        }
        strings->bytes = (uint32_t)(arena->bytes + arena->used - strings->data);
        return;
    }
    case FIELD_RANGES: {
        struct wire_ranges *ranges = (void *)value;
        ranges->count = random_below(20);
        uint8_t *data = arena_take(arena, ranges->count * WIRE_RANGE_BYTES);
        ranges->data = data;
        for (uint32_t i = 0; i < ranges->count; i++) {
            wire_range_store(data + i * WIRE_RANGE_BYTES,
                             (struct wire_range){random_u64(), random_u64()});
        }
        return;
    }
    case FIELD_BLOB: {
        struct wire_blob *blob = (void *)value;
        blob->bytes = random_below(300);
        uint8_t *data = arena_take(arena, blob->bytes);
        blob->data = data;
        for (uint32_t i = 0; i < blob->bytes; i++) {
            data[i] = (uint8_t)random_u64(); /* NULs too */
        }
        return;
    }
    }
    abort();
}

static void random_message(struct arena *arena, enum message_type type, union any_message *message)
{
    const struct layout *layout = &message_layouts[type];
    memset(message, 0, sizeof *message);
    arena->used = 0;
    for (unsigned i = 0; i < layout->count; i++) {
        random_field(arena, &layout->fields[i], message->bytes + layout->fields[i].offset_bytes);
    }
}

static void check_string(struct wire_string a, struct wire_string b)
{
    assert_int_equal(a.length, b.length);
    if (a.length) {
        assert_memory_equal(a.data, b.data, a.length);
    }
}

static void check_field(const struct field *field, const uint8_t *a, const uint8_t *b)
{
    static const size_t plain_bytes[] = {
        [FIELD_U8] = 1, [FIELD_U16] = 2, [FIELD_U32] = 4, [FIELD_U64] = 8, [FIELD_UUID] = 16,
    };

    switch ((enum field_kind)field->kind) {
    case FIELD_STRING:
        check_string(*(const struct wire_string *)(const void *)a,
                     *(const struct wire_string *)(const void *)b);
        return;
    case FIELD_STRINGS: {
        struct wire_strings left = *(const struct wire_strings *)(const void *)a;
        struct wire_strings right = *(const struct wire_strings *)(const void *)b;
        assert_int_equal(left.count, right.count);
        for (unsigned n = left.count; n > 0; n--) {
            check_string(wire_strings_next(&left), wire_strings_next(&right));
        }
        assert_int_equal(right.bytes, 0);
        return;
    }
    case FIELD_RANGES: {
        const struct wire_ranges *left = (const void *)a, *right = (const void *)b;
        assert_int_equal(left->count, right->count);
        for (uint32_t i = 0; i < left->count; i++) {
            struct wire_range x = wire_ranges_get(left, i), y = wire_ranges_get(right, i);
            assert_true(x.offset == y.offset && x.length == y.length);
        }
        return;
    }
    case FIELD_BLOB: {
        const struct wire_blob *left = (const void *)a, *right = (const void *)b;
        assert_int_equal(left->bytes, right->bytes);
        if (left->bytes) {
            assert_memory_equal(left->data, right->data, left->bytes);
        }
        return;
    }
    default:
        assert_memory_equal(a, b, plain_bytes[field->kind]);
    }
}

/* Touches everything that a decoded message gives access to. */
static void walk(enum message_type type, const union any_message *message)
{
    const struct layout *layout = &message_layouts[type];
    for (unsigned i = 0; i < layout->count; i++) {
        const uint8_t *value = message->bytes + layout->fields[i].offset_bytes;
        check_field(&layout->fields[i], value, value);
    }
}

static uint8_t *copy_exactly(const uint8_t *data, size_t bytes)
{
    uint8_t *copy = malloc(bytes ? bytes : 1);
    assert_non_null(copy);
    memcpy(copy, data, bytes);
    return copy;
}

static void check_refused(enum message_type type, const uint8_t *payload, size_t bytes, int longer)
{
    union any_message message, before;
    struct error error = {{0}};

    memset(&message, 0xa5, sizeof message);
    before = message;
    assert_int_equal(message_decode(type, payload, bytes, longer, &message, &error), -EPROTO);
    assert_memory_equal(&message, &before, sizeof message);
    assert_true(strstr(error.text, message_layouts[type].name) == error.text);
}

static void check_mutations(enum message_type type, uint8_t *payload, size_t bytes)
{
    static const uint8_t masks[] = {0x01, 0x80, 0xff, 0x10};

    for (size_t i = 0; i < bytes; i++) {
        for (size_t m = 0; m < sizeof masks; m++) {
            union any_message message;
            payload[i] ^= masks[m];
            int r = message_decode(type, payload, bytes, 0, &message, NULL);
            if (r == 0) {
                walk(type, &message);
            } else {
                assert_int_equal(r, -EPROTO);
            }
            payload[i] ^= masks[m];
        }
    }
}

static void check_type(enum message_type type)
{
    static struct arena arena;
    const struct layout *layout = &message_layouts[type];
    struct wire_buffer buffer = {0};
    union any_message message, decoded;
    struct frame frame;
    struct error error;
    uint32_t needed;

    random_message(&arena, type, &message);
    assert_int_equal(message_encode(&buffer, type, &message, 7, FRAME_REPLY, 3, 9), 0);
    assert_int_equal(
        frame_decode(buffer.data, buffer.bytes, FRAME_BYTES_MAX, &frame, &needed, &error),
        buffer.bytes);
    size_t bytes = frame.payload_bytes;
    uint8_t *payload = copy_exactly(frame.payload, bytes);

    memset(&decoded, 0xa5, sizeof decoded);
    assert_int_equal(message_decode(type, payload, bytes, 0, &decoded, &error), 0);
    for (unsigned i = 0; i < layout->count; i++) {
        size_t at = layout->fields[i].offset_bytes;
        check_field(&layout->fields[i], message.bytes + at, decoded.bytes + at);
    }
    for (size_t cut = 0; cut < bytes; cut++) {
        uint8_t *part = copy_exactly(payload, cut);
        check_refused(type, part, cut, 0);
        check_refused(type, part, cut, 1);
        free(part);
    }
    check_mutations(type, payload, bytes);

    uint8_t *longer = malloc(bytes + 3);
    assert_non_null(longer);
    memcpy(longer, payload, bytes);
    memset(longer + bytes, 0x77, 3);
    check_refused(type, longer, bytes + 3, 0);
    assert_int_equal(message_decode(type, longer, bytes + 3, 1, &decoded, &error), 0);
    walk(type, &decoded);

    free(longer);
    free(payload);
    wire_buffer_deinit(&buffer);
}

static void test_every_type(void **state)
{
    (void)state;
    for (int round = 0; round < ROUNDS; round++) {
        for (int type = 0; type < MESSAGE_TYPES; type++) {
            check_type((enum message_type)type);
        }
    }
}

/* Noise as payload of every type. */
static void test_noise(void **state)
{
    (void)state;
    for (int round = 0; round < 20000; round++) {
        enum message_type type = (enum message_type)random_below(MESSAGE_TYPES);
        size_t bytes = random_below(64);
        uint8_t noise[64];
        union any_message message;
        for (size_t i = 0; i < bytes; i++) {
            noise[i] = random_below(3) ? (uint8_t)random_below(4) : (uint8_t)random_u64();
        }
        uint8_t *payload = copy_exactly(noise, bytes);
        if (message_decode(type, payload, bytes, 1, &message, NULL) == 0) {
            walk(type, &message);
        }
        free(payload);
    }
}

static void test_nul_in_strings(void **state)
{
    static const uint8_t payload[] = {4, 0, 'v', 'g', 0, '0'};
    struct message_drive_name message;
    struct error error;
    struct wire_buffer buffer = {0};

    (void)state;
    assert_int_equal(
        message_decode(MESSAGE_DRIVE_NAME, payload, sizeof payload, 0, &message, &error), -EPROTO);
    assert_non_null(strstr(error.text, "name at byte 0 holds a NUL"));
    message.name = (struct wire_string){.data = "vg\0"
                                                "0",
                                        .length = 4};
    assert_int_equal(message_encode(&buffer, MESSAGE_DRIVE_NAME, &message, 1, 0, 0, 0), -EINVAL);
    assert_int_equal(buffer.bytes, 0);
    wire_buffer_deinit(&buffer);
}

static void test_words(void **state)
{
    static const uint8_t cut[] = {1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 9};
    struct message_mark mark;
    struct error error;

    (void)state;
    assert_int_equal(message_decode(MESSAGE_MARK, cut, 12, 0, &mark, &error), -EPROTO);
    assert_string_equal(error.text, "mark: first_id at byte 8: expected 8 bytes, found 4");
    assert_int_equal(message_decode(MESSAGE_MARK, cut, sizeof cut, 0, &mark, &error), -EPROTO);
    assert_string_equal(error.text,
                        "mark: ranges at byte 16: expected 5 ranges, found bytes for 0");
}

/* A blob's length is checked against what is there; NULs in it are bytes as others. */
static void test_blob(void **state)
{
    static const uint8_t golden[] = {[16] = 3, 0, 0, 0, 7, 0, 9};
    struct message_transaction message;
    struct error error;
    uint8_t payload[sizeof golden];

    (void)state;
    assert_int_equal(
        message_decode(MESSAGE_TRANSACTION, golden, sizeof golden, 0, &message, &error), 0);
    assert_int_equal(message.operations.bytes, 3);
    assert_memory_equal(message.operations.data, "\7\0\11", 3);

    assert_int_equal(message_decode(MESSAGE_TRANSACTION, golden, 18, 1, &message, &error), -EPROTO);
    assert_string_equal(error.text,
                        "transaction: operations at byte 16: expected 4 bytes, found 2");
    memcpy(payload, golden, sizeof payload);
    for (unsigned byte = 0; byte < 4; byte++) {
        payload[16 + byte] ^= 0x80; /* longer than what follows, up to 2 GiB */
        check_refused(MESSAGE_TRANSACTION, payload, sizeof payload, 1);
        payload[16 + byte] ^= 0x80;
    }
    memset(payload + 16, 0xff, 4);
    assert_int_equal(
        message_decode(MESSAGE_TRANSACTION, payload, sizeof payload, 1, &message, &error), -EPROTO);
    assert_string_equal(error.text,
                        "transaction: operations at byte 20: expected 4294967295 bytes, found 3");
    memset(payload + 16, 0, 4);
    check_refused(MESSAGE_TRANSACTION, payload, sizeof payload, 0); /* bytes behind it */
    assert_int_equal(message_decode(MESSAGE_TRANSACTION, payload, 20, 0, &message, &error), 0);
    assert_null(message.operations.data);
    assert_int_equal(message.operations.bytes, 0);
}

/* The largest TRANSACTION that fits: header 16, request 16, length 4. */
static void test_blob_limit(void **state)
{
    uint32_t bytes = FRAME_BYTES_MAX - 36;
    uint8_t *data = calloc(bytes + 1, 1);
    struct message_transaction message = {.operations = {.data = data, .bytes = bytes + 1}};
    struct wire_buffer buffer = {0};

    (void)state;
    assert_non_null(data);
    assert_int_equal(message_encode(&buffer, MESSAGE_TRANSACTION, &message, 1, 0, 0, 0), -EMSGSIZE);
    message.operations.bytes = UINT32_MAX;
    assert_int_equal(message_encode(&buffer, MESSAGE_TRANSACTION, &message, 1, 0, 0, 0), -EMSGSIZE);
    assert_int_equal(buffer.bytes, 0);
    message.operations.bytes = bytes;
    assert_int_equal(message_encode(&buffer, MESSAGE_TRANSACTION, &message, 1, 0, 0, 0), 0);
    assert_int_equal(buffer.bytes, FRAME_BYTES_MAX);
    wire_buffer_deinit(&buffer);
    free(data);
}

static void test_size_limit(void **state)
{
    /* The largest MARK that fits: header 16, drive 8, first_id 8, count 4. */
    uint32_t count = (FRAME_BYTES_MAX - 36) / WIRE_RANGE_BYTES;
    uint8_t *data = calloc(count + 1, WIRE_RANGE_BYTES);
    struct message_mark mark = {.ranges = {.data = data, .count = count + 1}};
    struct wire_buffer buffer = {0};

    (void)state;
    assert_non_null(data);
    assert_int_equal(
        message_encode(&buffer, MESSAGE_SETTLE, &(struct message_settle){0}, 1, 0, 0, 0), 0);
    size_t before = buffer.bytes;
    assert_int_equal(message_encode(&buffer, MESSAGE_MARK, &mark, 1, 0, 0, 0), -EMSGSIZE);
    assert_int_equal(buffer.bytes, before);
    mark.ranges.count = UINT32_MAX;
    assert_int_equal(message_encode(&buffer, MESSAGE_MARK, &mark, 1, 0, 0, 0), -EMSGSIZE);
    mark.ranges.count = count;
    assert_int_equal(message_encode(&buffer, MESSAGE_MARK, &mark, 1, 0, 0, 0), 0);
    assert_true(buffer.bytes - before <= FRAME_BYTES_MAX);
    wire_buffer_deinit(&buffer);
    assert_null(buffer.data);
    free(data);
}

/* The look at a frame finds what decoding it finds, and nothing in what is no mark. */
static void test_peek(void **state)
{
    uint8_t data[2 * WIRE_RANGE_BYTES];
    struct wire_buffer buffer = {0};
    struct wire_range first;
    uint64_t drive;

    (void)state;
    for (size_t i = 0; i < sizeof data; i++) {
        data[i] = (uint8_t)(i + 1);
    }
    struct message_mark mark = {.drive = 77, .first_id = 88, .ranges = {.data = data, .count = 2}};
    assert_int_equal(message_encode(&buffer, MESSAGE_MARK, &mark, OPERATION_MARK, 0, 0, 99), 0);
    assert_true(message_peek_mark(buffer.data, buffer.bytes, &drive, &first));
    assert_int_equal(drive, 77);
    struct wire_range expected = wire_ranges_get(&mark.ranges, 0);
    assert_int_equal(first.offset, expected.offset);
    assert_int_equal(first.length, expected.length);
    /* Whatever is cut off: nothing behind it is looked at (the sanitizer would tell). */
    for (size_t bytes = 0; bytes < FRAME_HEADER_BYTES + 20 + WIRE_RANGE_BYTES; bytes++) {
        uint8_t *cut = malloc(bytes + 1);
        assert_non_null(cut);
        memcpy(cut + 1, buffer.data, bytes);
        assert_false(message_peek_mark(cut + 1, bytes, &drive, &first));
        free(cut);
    }
    buffer.bytes = 0;
    mark.ranges.count = 0;
    assert_int_equal(message_encode(&buffer, MESSAGE_MARK, &mark, OPERATION_MARK, 0, 0, 99), 0);
    assert_int_equal(message_encode(&buffer, MESSAGE_MARK, &mark, OPERATION_MARK, 0, 0, 99), 0);
    assert_false(message_peek_mark(buffer.data, buffer.bytes, &drive, &first));
    buffer.bytes = 0;
    mark.ranges.count = 2;
    assert_int_equal(message_encode(&buffer, MESSAGE_MARK, &mark, OPERATION_MARK + 1, 0, 0, 0), 0);
    assert_false(message_peek_mark(buffer.data, buffer.bytes, &drive, &first));
    wire_buffer_deinit(&buffer);
}

static void test_buffer_overflow(void **state)
{
    struct wire_buffer buffer = {0};

    (void)state;
    assert_int_equal(wire_buffer_reserve(&buffer, 10), 0);
    buffer.bytes = 10;
    assert_int_equal(wire_buffer_reserve(&buffer, SIZE_MAX), -ENOMEM);
    assert_int_equal(wire_buffer_reserve(&buffer, SIZE_MAX - 10), -ENOMEM);
    assert_int_equal(buffer.bytes, 10);
    wire_buffer_deinit(&buffer);
}

static void test_operations(void **state)
{
    (void)state;
    assert_string_equal(operation_name(OPERATION_DRIVE_ADD), "drive-add");
    assert_string_equal(operation_name(OPERATION_RELOAD), "reload");
    assert_int_equal(message_request_type(OPERATION_MARK), MESSAGE_MARK);
    assert_int_equal(message_request_type(OPERATION_DRIVE_LIST), MESSAGE_EMPTY);
    assert_string_equal(operation_name(OPERATION_CHECKPOINT_MAP), "checkpoint-map");
    assert_int_equal(message_request_type(OPERATION_DRIVE_ADOPT), MESSAGE_DRIVE_CHANGE);
    assert_int_equal(message_request_type(OPERATION_TRANSACTION), MESSAGE_TRANSACTION);
    assert_int_equal(message_request_type(OPERATION_CHECKPOINT_LIST), MESSAGE_DRIVE_NAME);
    for (uint32_t i = 0; i <= UINT16_MAX; i++) {
        bool known = message_request_type((uint16_t)i) != MESSAGE_TYPES;
        assert_int_equal(known, strcmp(operation_name((uint16_t)i), "unknown") != 0);
        assert_false(known && (i == 0 || i > OPERATION_CHECKPOINT_MAP));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_type),      cmocka_unit_test(test_noise),
        cmocka_unit_test(test_nul_in_strings),  cmocka_unit_test(test_words),
        cmocka_unit_test(test_size_limit),      cmocka_unit_test(test_peek),
        cmocka_unit_test(test_buffer_overflow), cmocka_unit_test(test_blob),
        cmocka_unit_test(test_blob_limit),      cmocka_unit_test(test_operations),
    };
    const char *seed = getenv("BITMAPD_TEST_SEED");

    random_state = seed ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL);
    printf("BITMAPD_TEST_SEED=%llu\n", (unsigned long long)random_state);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
