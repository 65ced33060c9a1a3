/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_TESTS_CLIENT_FAKE_H
#define BITMAPD_TESTS_CLIENT_FAKE_H

#include "client/lib/bitmapd.h"
#include "proto/frame.h"
#include "proto/message.h"
#include "proto/status.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/*
 * A daemon that does what a test's script says, on a thread and a socket of
 * its own, speaking through the same codec.  What the library under test
 * sends must be what the script expects next; anything else ends the program
 * with both said (cmocka cannot fail a test from another thread).
 */
struct fake {
    char folder[64];
    char path[96];
    int listen_fd;
    int fd;
    pthread_t thread;
    void (*script)(struct fake *fake);
    void *opaque; /* for the script */

    struct message_hello_reply limits; /* what fake_hello() answers */
    struct wire_buffer in;
    size_t in_done; /* bytes of in that the last frame took */
    struct wire_buffer out;
    uint64_t cookie;      /* of the last request */
    uint8_t attach_flags; /* of the last fake_attach() */
};

#define FAKE_CHECK(condition) ((condition) ? (void)0 : fake_fail(__FILE__, __LINE__, #condition))

_Noreturn void fake_fail(const char *file, int line, const char *what);

/* Listens, and runs @script on a thread. */
void fake_start(struct fake *fake, void (*script)(struct fake *fake));
/* Waits for the script's end, cleans up. */
void fake_join(struct fake *fake);

/* ---- For scripts ---- */

void fake_accept(struct fake *fake);
void fake_hang_up(struct fake *fake);
/* The next frame, whatever it is. */
struct frame fake_receive(struct fake *fake);
/* The next frame must be @operation; decodes it into @ret unless that is NULL; its cookie. */
uint64_t fake_expect(struct fake *fake, uint16_t operation, void *ret);
/* The client must close without another word. */
void fake_expect_end(struct fake *fake);
/* Accepts, and answers HELLO. */
void fake_hello(struct fake *fake);
void fake_send(struct fake *fake, const void *data, size_t bytes);
void fake_reply_as(struct fake *fake, enum message_type type, const void *message,
                   uint16_t operation, uint8_t flags, uint8_t status, uint64_t cookie);
/* Success with no fields. */
void fake_ok(struct fake *fake, uint16_t operation, uint64_t cookie);
void fake_error(struct fake *fake, uint16_t operation, uint64_t cookie, enum status status,
                const char *text);
/* ATTACH under @token; answers with drive 7 of 1 GiB. */
void fake_attach(struct fake *fake, const char *token, bool resuming);
/* A MARK with ids for drive 7; its first range is stored.  Not answered. */
uint64_t fake_expect_mark(struct fake *fake, uint64_t first_id, uint32_t count,
                          struct wire_range *ret_first);
void fake_expect_settle(struct fake *fake, uint64_t first_id, uint64_t count);
/* One page with one run; MORE. */
void fake_map_page(struct fake *fake, uint64_t cookie, uint64_t offset, uint64_t length);
void fake_map_head(struct fake *fake, uint64_t cookie, uint64_t size);
bool fake_string_is(struct wire_string string, const char *text);

#define FAKE_DRIVE      7u
#define FAKE_DRIVE_SIZE (UINT64_C(1) << 30)

/* ---- For tests ---- */

/* A handle that is connected to the fake. */
bitmapd *fake_connect(struct fake *fake, unsigned reconnect_timeout_s);
/* Counts, and keeps the last result: a completion's opaque. */
struct outcome {
    int done;
    int result;
};
void outcome_completion(void *opaque, int result);
/* Starts the fake; a handle that is connected and attached as fake_attach() has it. */
bitmapd *fake_attached(struct fake *fake, void (*script)(struct fake *), unsigned timeout_s);
/* Queues a mark of 512 bytes for FAKE_DRIVE; its id. */
uint64_t fake_aio_mark(bitmapd *handle, uint64_t offset, struct outcome *outcome);
/* Turns of a poll loop until @condition holds. */
#define TURN_UNTIL(handle, condition) \
    do {                              \
        while (!(condition)) {        \
            fake_turn(handle);        \
        }                             \
    } while (0)
void fake_turn(bitmapd *handle);

#endif
