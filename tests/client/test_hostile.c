/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A daemon that has lost its mind: replies to real requests with random bytes
 * changed, frames cut, repeated or invented.  The library may fail everything;
 * it may not crash, hang, or keep more memory than frames can ask for.
 */
#include "client/lib/bitmapd-transaction.h"
#include "tests/client/fake.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define ROUNDS 300

static uint64_t random_state;

static uint32_t random_below(uint32_t limit)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((random_state >> 33) % limit);
}

/* Encodes a proper answer into fake->out. */
static void encode(struct fake *fake, enum message_type type, const void *message,
                   uint16_t operation, uint8_t flags, uint64_t cookie)
{
    FAKE_CHECK(message_encode(&fake->out, type, message, operation, flags, 0, cookie) == 0);
}

static void encode_answer(struct fake *fake, const struct frame *frame)
{
    const uint8_t pairs[32] = {[1] = 2, [9] = 2, [17] = 8, [25] = 2};
    struct message_drive_info drive = {.id = 1, .name = wire_string("a"), .size = 1};
    struct message_attach_reply attached = {FAKE_DRIVE, FAKE_DRIVE_SIZE, 0};
    struct message_map_head head = {.bitmap = wire_string("a/b"), .size = 1 << 20};
    struct message_map_page page = {{.data = pairs, .count = 2}};
    struct message_map_end map_end = {2, 1024, 0};
    struct message_list_end list_end = {2};
    struct message_checkpoint_info checkpoint = {.drive = wire_string("a"),
                                                 .name = wire_string("c")};
    struct message_checkpoint_created created = {.drives = 1};
    struct message_transaction_reply sequence = {1};
    struct message_status_reply status = {.server = wire_string("x")};
    uint16_t operation = frame->operation;
    uint64_t cookie = frame->cookie;

    fake->out.bytes = 0;
    switch (operation) {
    case OPERATION_HELLO:
        encode(fake, MESSAGE_HELLO_REPLY, &fake->limits, operation, FRAME_REPLY, cookie);
        break;
    case OPERATION_ATTACH:
        encode(fake, MESSAGE_ATTACH_REPLY, &attached, operation, FRAME_REPLY, cookie);
        break;
    case OPERATION_CHECKPOINT_LIST:
        encode(fake, MESSAGE_CHECKPOINT_INFO, &checkpoint, operation, FRAME_REPLY | FRAME_MORE,
               cookie);
        encode(fake, MESSAGE_CHECKPOINT_INFO, &checkpoint, operation, FRAME_REPLY | FRAME_MORE,
               cookie);
        encode(fake, MESSAGE_LIST_END, &list_end, operation, FRAME_REPLY, cookie);
        break;
    case OPERATION_CHECKPOINT_CREATE:
        encode(fake, MESSAGE_CHECKPOINT_CREATED, &created, operation, FRAME_REPLY, cookie);
        break;
    case OPERATION_TRANSACTION:
        encode(fake, MESSAGE_TRANSACTION_REPLY, &sequence, operation, FRAME_REPLY, cookie);
        break;
    case OPERATION_CHECKPOINT_MAP:
        head.base = wire_string("c");
        head.untracked = wire_string("no evidence");
        /* fall through */
    case OPERATION_MAP:
        encode(fake, MESSAGE_MAP_HEAD, &head, operation, FRAME_REPLY | FRAME_MORE, cookie);
        encode(fake, MESSAGE_MAP_PAGE, &page, operation, FRAME_REPLY | FRAME_MORE, cookie);
        encode(fake, MESSAGE_MAP_END, &map_end, operation, FRAME_REPLY, cookie);
        break;
    case OPERATION_DRIVE_LIST:
        encode(fake, MESSAGE_DRIVE_INFO, &drive, operation, FRAME_REPLY | FRAME_MORE, cookie);
        encode(fake, MESSAGE_DRIVE_INFO, &drive, operation, FRAME_REPLY | FRAME_MORE, cookie);
        encode(fake, MESSAGE_LIST_END, &list_end, operation, FRAME_REPLY, cookie);
        break;
    case OPERATION_DRIVE_SHOW:
        encode(fake, MESSAGE_DRIVE_INFO, &drive, operation, FRAME_REPLY, cookie);
        break;
    case OPERATION_STATUS:
        encode(fake, MESSAGE_STATUS_REPLY, &status, operation, FRAME_REPLY, cookie);
        break;
    default:
        encode(fake, MESSAGE_EMPTY, NULL, operation, FRAME_REPLY, cookie);
    }
}

static void spoil(struct fake *fake)
{
    struct wire_buffer *out = &fake->out;

    switch (random_below(12)) {
    case 0: /* cut, and whatever comes next is read as its rest */
        out->bytes -= 1 + random_below((uint32_t)out->bytes - 1);
        break;
    case 1: /* twice */
        FAKE_CHECK(wire_buffer_reserve(out, out->bytes) == 0);
        memcpy(out->data + out->bytes, out->data, out->bytes);
        out->bytes *= 2;
        break;
    case 2: /* noise behind */
        FAKE_CHECK(wire_buffer_reserve(out, 40) == 0);
        for (int i = 0; i < 40; i++) {
            out->data[out->bytes++] = (uint8_t)random_below(256);
        }
        break;
    case 3:
    case 4:
    case 5: /* some bytes changed, those of headers first */
        for (uint32_t n = 1 + random_below(3); n > 0; n--) {
            uint32_t at =
                random_below(random_below(2) && out->bytes > 24 ? 24 : (uint32_t)out->bytes);
            out->data[at] ^= (uint8_t)(1u << random_below(8));
        }
        break;
    default:
        break;
    }
}

static void script_hostile(struct fake *fake)
{
    for (;;) {
        char byte;
        if (fake->fd < 0) {
            fake->fd = accept(fake->listen_fd, NULL, NULL);
            if (fake->fd < 0) {
                return;
            }
            fake->in.bytes = fake->in_done = 0;
        }
        /* A client that waits for the rest of a frame may: then this is the end of it. */
        struct pollfd poll_fd = {.fd = fake->fd, .events = POLLIN};
        if (fake->in_done == fake->in.bytes &&
            (poll(&poll_fd, 1, 5) == 0 || recv(fake->fd, &byte, 1, MSG_PEEK) <= 0)) {
            fake_hang_up(fake);
            continue;
        }
        struct frame frame = fake_receive(fake);
        encode_answer(fake, &frame);
        spoil(fake);
        fake_send(fake, fake->out.data, fake->out.bytes);
        if (random_below(20) == 0) {
            fake_hang_up(fake);
        }
    }
}

static void map_head(void *opaque, const struct bitmapd_map *map)
{
    (void)opaque;
    assert_true(strlen(map->bitmap) < 70000 && map->validity >= 0 && map->validity <= 2);
    assert_true(strlen(map->base) < 2 && strlen(map->target) == 0);
    assert_true(strlen(map->untracked) < 70000);
}

static void map_runs(void *opaque, const struct bitmapd_range *runs, size_t count)
{
    uint64_t *end = opaque;
    for (size_t i = 0; i < count; i++) {
        assert_true(*end == 0 || runs[i].offset > *end);
        *end = runs[i].offset + runs[i].length;
        assert_true(*end > runs[i].offset);
    }
}

static void each_checkpoint(void *opaque, const struct bitmapd_checkpoint *checkpoint)
{
    (void)opaque;
    assert_true(strlen(checkpoint->drive) < 70000 && strlen(checkpoint->name) < 70000);
    assert_true(strlen(checkpoint->reason) < 70000 && strlen(checkpoint->untracked) < 70000);
    assert_true(checkpoint->validity >= 0 && checkpoint->validity <= 2);
}

static void each_drive(void *opaque, const struct bitmapd_drive *drive)
{
    (void)opaque;
    assert_true(strlen(drive->name) < 70000 && strlen(drive->path) < 70000);
}

static void use(bitmapd *handle)
{
    const struct bitmapd_map_callbacks callbacks = {map_head, map_runs};
    const struct bitmapd_range range = {0, 512};
    struct bitmapd_daemon_status status;
    struct bitmapd_drive drive;
    struct bitmapd_checkpoint_created created;
    bitmapd_transaction *transaction = bitmapd_transaction_new();
    struct outcome outcome = {0};
    uint64_t id, drive_id = 0, end = 0;
    int queued = 0;

    assert_non_null(transaction);
    assert_int_equal(bitmapd_transaction_bitmap_delete(transaction, "a/b"), 0);
    for (int i = 0; i < 8; i++) {
        end = 0;
        if (bitmapd_attach(handle, "vg0/a", "vm-1", 0, &drive_id, NULL, NULL) == 0) {
            for (int j = 0; j < 3; j++) {
                queued += bitmapd_aio_mark(handle, drive_id, &range, 1, j ? &id : NULL,
                                           outcome_completion, &outcome) == 0;
            }
        }
        (void)bitmapd_map(handle, "a/b", 0, &callbacks, &end, NULL);
        end = 0;
        (void)bitmapd_checkpoint_map(handle, "a", "c", NULL, 0, &callbacks, &end, NULL);
        (void)bitmapd_checkpoint_list(handle, "a", each_checkpoint, NULL);
        (void)bitmapd_checkpoint_create(handle, "c", (const char *const[]){"a"}, 1, &created);
        (void)bitmapd_transaction_commit(handle, transaction, &id);
        (void)bitmapd_drive_list(handle, each_drive, NULL);
        if (bitmapd_drive_show(handle, "a", &drive) == 0) {
            assert_true(strlen(drive.name) < 70000);
        }
        (void)bitmapd_get_status(handle, &status);
        (void)bitmapd_settle(handle, drive_id, 1, 1);
    }
    bitmapd_close(handle);
    bitmapd_transaction_free(transaction);
    assert_int_equal(outcome.done, queued);
}

static void test_hostile(void **state)
{
    struct fake fake = {0};
    int connected = 0;

    (void)state;
    fake_start(&fake, script_hostile);
    for (int round = 0; round < ROUNDS; round++) {
        bitmapd *handle = bitmapd_new();
        assert_non_null(handle);
        int r = bitmapd_connect(handle, fake.path);
        if (r == 0) {
            connected++;
            use(handle);
        } else {
            assert_string_not_equal(bitmapd_error(handle), "");
            bitmapd_close(handle);
        }
    }
    assert_true(connected > ROUNDS / 10);
    assert_int_equal(shutdown(fake.listen_fd, SHUT_RDWR), 0);
    fake_join(&fake);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hostile),
    };
    const char *seed = getenv("BITMAPD_TEST_SEED");

    random_state = seed ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL);
    printf("BITMAPD_TEST_SEED=%llu\n", (unsigned long long)random_state);
    fflush(stdout);
    alarm(60);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
