/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The promise behind writers, under random trouble: from the completion of a
 * mark to its settle the daemon has it as unsettled, whatever happens to
 * connections in between; and when all is settled it has nothing left.
 *
 * The daemon here is a model of a writer's marks that answers in random order
 * and hangs up at random places: before or after it took a frame, with answers
 * still unsent, in the middle of one.
 */
#include "tests/client/fake.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define MARKS       6000u
#define RANGES_MAX  4u
#define IDS         (MARKS * RANGES_MAX + 1)
#define WINDOW      24u
#define ANSWERS_MAX 64u
#define HANG_UPS    24u

struct random {
    uint64_t state;
};

static uint32_t random_below(struct random *random, uint32_t limit)
{
    random->state = random->state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((random->state >> 33) % limit);
}

/* ---- The daemon's side ---- */

/* What it knows of each id: 0, or the range's offset + 1. */
static struct {
    pthread_mutex_t lock;
    uint64_t current[IDS]; /* marked on this connection */
    uint64_t carried[IDS]; /* left by earlier ones */
    bool attached;
    uint64_t last_id; /* on this connection */
    unsigned resumes;
} model = {.lock = PTHREAD_MUTEX_INITIALIZER};

static struct random daemon_random;

struct pending_answer {
    uint16_t operation;
    uint64_t cookie;
    bool resuming;
};

static void take_mark(const struct message_mark *mark)
{
    if (mark->first_id == 0) {
        return;
    }
    FAKE_CHECK(model.attached && mark->drive == FAKE_DRIVE);
    FAKE_CHECK(mark->first_id > model.last_id && mark->first_id + mark->ranges.count <= IDS);
    for (uint32_t i = 0; i < mark->ranges.count; i++) {
        model.current[mark->first_id + i] = wire_ranges_get(&mark->ranges, i).offset + 1;
    }
    model.last_id = mark->first_id + mark->ranges.count - 1;
}

static void take_settle(const struct message_settle *settle)
{
    FAKE_CHECK(model.attached);
    for (uint32_t i = 0; i < settle->ids.count; i++) {
        struct wire_range ids = wire_ranges_get(&settle->ids, i);
        FAKE_CHECK(ids.offset > 0 && ids.length > 0 && ids.offset + ids.length <= IDS);
        memset(&model.current[ids.offset], 0, ids.length * sizeof model.current[0]);
    }
}

static bool take_attach(void)
{
    bool resuming = model.attached;
    for (size_t i = 0; i < IDS; i++) {
        model.carried[i] = model.current[i] ? model.current[i] : model.carried[i];
        model.current[i] = 0;
    }
    model.attached = true;
    model.last_id = 0;
    return resuming;
}

static bool nothing_left(void)
{
    for (size_t i = 0; i < IDS; i++) {
        if (model.current[i] || model.carried[i]) {
            return false;
        }
    }
    return true;
}

static struct pending_answer take(struct fake *fake)
{
    struct frame frame = fake_receive(fake);
    struct pending_answer answer = {frame.operation, frame.cookie, false};
    union {
        struct message_mark mark;
        struct message_settle settle;
        struct message_attach attach;
        struct message_drive_id drive;
        struct message_hello hello;
    } message;

    FAKE_CHECK(message_decode(message_request_type(frame.operation), frame.payload,
                              frame.payload_bytes, 0, &message, NULL) == 0);
    pthread_mutex_lock(&model.lock);
    switch (frame.operation) {
    case OPERATION_MARK:
        take_mark(&message.mark);
        break;
    case OPERATION_SETTLE:
        take_settle(&message.settle);
        break;
    case OPERATION_ATTACH:
        answer.resuming = take_attach();
        break;
    case OPERATION_RESUME:
        memset(model.carried, 0, sizeof model.carried);
        model.resumes++;
        break;
    case OPERATION_DETACH:
        FAKE_CHECK(nothing_left());
        model.attached = false;
        break;
    default:
        FAKE_CHECK(frame.operation == OPERATION_HELLO);
    }
    pthread_mutex_unlock(&model.lock);
    return answer;
}

static void give(struct fake *fake, const struct pending_answer *answer)
{
    struct message_attach_reply attached = {FAKE_DRIVE, FAKE_DRIVE_SIZE, answer->resuming};

    if (answer->operation == OPERATION_HELLO) {
        fake_reply_as(fake, MESSAGE_HELLO_REPLY, &fake->limits, OPERATION_HELLO, FRAME_REPLY, 0,
                      answer->cookie);
    } else if (answer->operation == OPERATION_ATTACH) {
        fake_reply_as(fake, MESSAGE_ATTACH_REPLY, &attached, OPERATION_ATTACH, FRAME_REPLY, 0,
                      answer->cookie);
    } else {
        fake_ok(fake, answer->operation, answer->cookie);
    }
}

/* One connection, to its end from either side; whether we hung up. */
static bool serve(struct fake *fake, bool may_hang_up)
{
    struct pending_answer answers[ANSWERS_MAX];
    uint32_t count = 0;

    for (;;) {
        bool idle = fake->in_done == fake->in.bytes;
        char byte;
        if (idle && count > 0) {
            struct pollfd poll_fd = {.fd = fake->fd, .events = POLLIN};
            idle = poll(&poll_fd, 1, 0) == 0;
        } else if (idle) {
            if (recv(fake->fd, &byte, 1, MSG_PEEK) <= 0) {
                return false;
            }
            idle = false;
        }
        if (may_hang_up && random_below(&daemon_random, 500) == 0) {
            if (count > 0 && random_below(&daemon_random, 2)) {
                fake_send(fake, "\x10\0\0\0\x30\0\1", 7); /* half an answer */
            }
            return true;
        }
        if (count < ANSWERS_MAX && !idle && (count == 0 || random_below(&daemon_random, 3))) {
            if (recv(fake->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0 &&
                fake->in_done == fake->in.bytes) {
                return false;
            }
            answers[count++] = take(fake);
        } else {
            uint32_t i = random_below(&daemon_random, count);
            give(fake, &answers[i]);
            answers[i] = answers[--count];
        }
    }
}

static void script_random(struct fake *fake)
{
    unsigned hang_ups = 0;
    for (;;) {
        fake->fd = accept(fake->listen_fd, NULL, NULL);
        if (fake->fd < 0) {
            return;
        }
        fake->in.bytes = fake->in_done = 0;
        hang_ups += serve(fake, hang_ups < HANG_UPS);
        fake_hang_up(fake);
    }
}

/* ---- The client's side ---- */

struct mark {
    uint64_t first_id;
    uint32_t count;
    uint64_t offsets[RANGES_MAX];
    bool complete;
    bool settled;
};

static struct mark marks[MARKS];
static unsigned completed;

static void check_kept(const struct mark *mark)
{
    for (uint32_t i = 0; i < mark->count; i++) {
        uint64_t id = mark->first_id + i;
        if (model.current[id] != mark->offsets[i] + 1 &&
            model.carried[id] != mark->offsets[i] + 1) {
            fail_msg("mark %llu is complete and not settled, and the daemon does not have it",
                     (unsigned long long)id);
        }
    }
}

static void mark_done(void *opaque, int result)
{
    struct mark *mark = opaque;

    assert_int_equal(result, 0);
    assert_false(mark->complete);
    mark->complete = true;
    completed++;
    pthread_mutex_lock(&model.lock);
    check_kept(mark);
    pthread_mutex_unlock(&model.lock);
}

static void check_all_kept(unsigned started)
{
    pthread_mutex_lock(&model.lock);
    for (unsigned i = 0; i < started; i++) {
        if (marks[i].complete && !marks[i].settled) {
            check_kept(&marks[i]);
        }
    }
    pthread_mutex_unlock(&model.lock);
}

static void settle(bitmapd *handle, struct mark *mark)
{
    if (mark->complete && !mark->settled) {
        mark->settled = true; /* from here on the daemon may forget it */
        assert_int_equal(bitmapd_settle(handle, FAKE_DRIVE, mark->first_id, mark->count), 0);
    }
}

static void start(bitmapd *handle, struct random *random, struct mark *mark)
{
    struct bitmapd_range ranges[RANGES_MAX];

    mark->count = 1 + random_below(random, RANGES_MAX);
    for (uint32_t i = 0; i < mark->count; i++) {
        mark->offsets[i] = random_below(random, 1u << 20);
        ranges[i] = (struct bitmapd_range){mark->offsets[i], 1};
    }
    assert_int_equal(
        bitmapd_aio_mark(handle, FAKE_DRIVE, ranges, mark->count, &mark->first_id, mark_done, mark),
        0);
}

static struct random client_random;

static void test_random(void **state)
{
    struct fake fake = {0};
    unsigned started = 0;

    (void)state;
    fake.limits = (struct message_hello_reply){
        .version = 1,
        .frame_bytes_max = FRAME_BYTES_HELLO_MAX, /* the way back needs several frames */
        .requests_max = 16,
        .unsettled_max = IDS,
    };
    fake_start(&fake, script_random);
    /* The very first connection has no second try. */
    bitmapd *handle = bitmapd_new();
    assert_int_equal(bitmapd_set_reconnect_timeout(handle, 50), 0);
    while (bitmapd_connect(handle, fake.path) < 0) {
    }
    assert_int_equal(bitmapd_attach(handle, "vg0/a", "vm-1", 0, NULL, NULL, NULL), 0);
    (void)bitmapd_resume(handle, FAKE_DRIVE); /* expected when the first answer was lost */
    while (completed < MARKS) {
        /* A window of marks in flight; now and then one more, also while none can complete. */
        while (started < MARKS && (started == completed || random_below(&client_random, 4)) &&
               started < completed + (random_below(&client_random, 2) ? WINDOW : 20 * WINDOW)) {
            start(handle, &client_random, &marks[started++]);
        }
        fake_turn(handle);
        /* Some soon, some late, some not before the end. */
        for (int i = 0; i < 12 && started; i++) {
            uint32_t back =
                random_below(&client_random, random_below(&client_random, 8) ? 64 : 2000);
            unsigned which = started - 1 - (back < started ? back : 0);
            if (which % 50) {
                settle(handle, &marks[which]);
            }
        }
        if (random_below(&client_random, 100) == 0) {
            check_all_kept(started);
        }
    }
    check_all_kept(started);
    for (unsigned i = 0; i < MARKS; i++) {
        settle(handle, &marks[i]);
    }
    assert_int_equal(bitmapd_drain(handle), 0);
    assert_int_equal(bitmapd_unsettled(handle, FAKE_DRIVE), 0);
    int r = bitmapd_detach(handle, FAKE_DRIVE);
    assert_true(r == 0 || r == -ECONNABORTED);
    print_message("%u times resumed\n", model.resumes);
    assert_true(model.resumes > HANG_UPS / 4);
    bitmapd_close(handle);
    assert_int_equal(shutdown(fake.listen_fd, SHUT_RDWR), 0);
    fake_join(&fake);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
    };
    const char *seed = getenv("BITMAPD_TEST_SEED");

    client_random.state = seed ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL);
    daemon_random.state = ~client_random.state;
    printf("BITMAPD_TEST_SEED=%llu\n", (unsigned long long)client_random.state);
    fflush(stdout);
    alarm(60);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
