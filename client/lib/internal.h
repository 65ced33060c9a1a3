/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_CLIENT_LIB_INTERNAL_H
#define BITMAPD_CLIENT_LIB_INTERNAL_H

#include "client/lib/bitmapd.h"
#include "client/lib/marks.h"
#include "proto/base/error.h"
#include "proto/base/name.h"
#include "proto/frame.h"
#include "proto/message.h"
#include "proto/status.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

/*
 * What the files of the library share.  Who does what:
 *
 *     handle.c     a handle's life, its errors, the calls of an event loop
 *     connect.c    one connection after the other: connect(2), HELLO, loss, backoff
 *     recover.c    a writer's way back after a reconnect
 *     io.c         bytes to and from the socket
 *     queue.c      requests: to issue, in flight, done
 *     sync.c       waiting, and the one way in which every synchronous call is made
 *     text.c       strings of requests and replies
 *     marks.c      the log of unsettled marks
 *     writer.c drive.c bitmap.c checkpoint.c map.c daemon.c     the operations
 *     transaction.c     several of them at once
 */

#define CLIENT_NAME_BYTES_MAX   255u
#define CONNECT_TIMEOUT_S       30u /* of bitmapd_connect() */
#define BACKOFF_MS_MIN          50u
#define BACKOFF_MS_MAX          1000u
#define SLOTS_MAX               65536u       /* in flight, whatever the daemon allows */
#define SEND_BACKLOG_BYTES_MAX  (256u << 10) /* unsent bytes at which nothing more is issued */
#define RECEIVE_BYTES_MIN       (64u << 10)
#define REQUESTS_RECYCLED_MAX   1024u
#define REQUEST_FRAME_BYTES_MAX 4096u /* larger frame buffers are not kept for the next request */

/* ---- Requests ---- */

/* What a lost connection means for a request. */
enum request_policy {
    REQUEST_RESEND, /* sent again, as long as none of its answer was used */
    REQUEST_ONCE,   /* fails once it was sent: its outcome is unknown */
    REQUEST_MARK,   /* its marks are in the writer's log and marked again with it */
    REQUEST_DROP,   /* the library's own: made anew from the writer's state */
};

struct request;
struct writer;

/*
 * One successful reply.  0, or -EPROTO with words in *error: the daemon broke
 * the protocol.  The last reply is the one without FRAME_MORE.
 */
typedef int request_reply(struct bitmapd *handle, struct request *request,
                          const struct frame *frame, struct error *error);
/* After the last reply, or a failure; for the library's own requests. */
typedef void request_finished(struct bitmapd *handle, struct request *request, int result,
                              const char *words);

struct request {
    TAILQ_ENTRY(request) entry; /* of the one queue it is on */
    enum request_policy policy;
    uint16_t operation;
    bool more;      /* FRAME_MORE is allowed */
    bool delivered; /* some of its answer was given to the caller */
    bool restarted; /* it is sent again: answers to it begin anew */
    bool internal;  /* not counted as pending */
    uint64_t cookie;
    uint64_t end_offset; /* in the connection's stream of sent bytes, where its frame ends */

    struct wire_buffer frame; /* the request as sent, for all but REQUEST_MARK */

    /* REQUEST_MARK, RESUME, DETACH and the library's own; NULL when it was detached. */
    struct writer *writer;
    uint64_t first_id;
    uint32_t count;

    request_reply *reply; /* NULL: the reply is empty */
    request_finished *finished;
    bitmapd_completion *completion;
    void *opaque;  /* of the completion */
    void *context; /* of reply */

    int result;
    uint8_t status;
    char *words; /* or NULL */
};

TAILQ_HEAD(request_queue, request);

/* ---- Writers ---- */

/*
 * A drive for which this handle has marks with ids, attached or not.
 *
 *                      connection lost
 *        READY ◀──────┬───────────────────▶ DOWN
 *          ▲          │ (from every state)    │ connected
 *          │          │                       ▼
 *          │          └──────────────── ATTACHING ◀──▶ BUSY (the daemon still knows our
 *          │                                  │               old connection: try again)
 *          │ all answered, nothing to resume  ▼
 *          ├───────────────────────────── MARKING
 *          │                                  │ all answered, resuming
 *          │ answered                         ▼
 *          └───────────────────────────── RESUMING
 *
 *     any ──fenced, or refused for good──▶ LOST
 *
 * A writer that is not attached goes from DOWN to MARKING.  READY is where
 * marks are issued, and RESUME and DETACH for the caller: ahead of the marks
 * that are made again they would have the daemon forget these.  Elsewhere they
 * wait.
 */
enum writer_state {
    WRITER_READY,
    WRITER_DOWN,
    WRITER_ATTACHING,
    WRITER_BUSY,
    WRITER_MARKING,
    WRITER_RESUMING,
    WRITER_LOST,
};

struct writer {
    TAILQ_ENTRY(writer) entry;
    uint64_t drive_id;
    char *drive_name; /* NULL when not attached */
    char *token;
    enum writer_state state;
    int lost_result;     /* -errno, LOST */
    unsigned flags;      /* enum bitmapd_attach_flags */
    bool caller_resumes; /* the caller owes bitmapd_resume(), we must not do it */
    bool resuming;       /* the daemon expects RESUME */
    bool unmarked;       /* the program says that it writes without marks */
    bool was_unmarked;   /* or has, since the daemon last heard of it */

    struct mark_log log;
    struct id_ranges settles; /* not issued yet */

    uint64_t again_id;       /* MARKING: marks below are issued again */
    uint32_t again_inflight; /* and so many of those requests are not answered */
    uint64_t retry_ns;       /* BUSY */
    unsigned backoff_ms;
    struct request_queue waiting; /* until READY */
};

TAILQ_HEAD(writer_list, writer);

/* ---- Handle ---- */

/* See connect.c for the drawing. */
enum connection_state {
    CONNECTION_NONE, /* never connected, or lost for good */
    CONNECTION_CONNECTING,
    CONNECTION_HELLO,
    CONNECTION_READY,
    CONNECTION_WAITING,
};

struct bitmapd {
    /* Connection */
    enum connection_state state;
    int fd;
    char *path;
    char client_name[CLIENT_NAME_BYTES_MAX + 1];
    unsigned reconnect_timeout_s;
    bool only_this;        /* no other connection than this one will do */
    bool first;            /* bitmapd_connect() waits: no reconnecting yet */
    bool known;            /* a container has been met: the next fields are set */
    int lost_result;       /* NONE: why, -errno; 0 before the first connect */
    char lost_words[256];  /* and in words */
    char farewell[256];    /* the daemon's last words on this connection, "" when none */
    uint64_t deadline_ns;  /* CLOCK_MONOTONIC; when reconnecting ends; 0: not begun */
    uint64_t retry_ns;     /* WAITING: next attempt */
    uint64_t recovered_ns; /* when all writers were ready again; 0: they are not */
    unsigned backoff_ms;

    /* From HELLO */
    struct wire_uuid container;
    uint32_t frame_bytes_max;
    uint32_t unsettled_max;

    /* Bytes */
    struct wire_buffer send; /* bytes [send_done, send.bytes) are not sent */
    size_t send_done;
    uint64_t stream_queued; /* bytes ever put in and taken out of send on this connection */
    uint64_t stream_sent;
    struct wire_buffer receive;

    /* Requests */
    struct request_queue to_issue;
    struct request_queue in_flight; /* in the order of issue */
    struct request_queue parked;    /* refused by a daemon on its way out, for the next one */
    struct request_queue done;
    struct request_queue recycled;
    unsigned recycled_count;
    size_t pending;         /* user requests that are not completed */
    struct request **slots; /* in flight, by the cookie's low bits */
    uint32_t *free_slots;   /* a stack */
    uint32_t slots_count;
    uint32_t free_slots_count;
    uint64_t generation; /* the cookie's high bits; rises with each issue */

    /* Writers */
    struct writer_list writers;
    uint64_t next_mark_id;
    size_t unsettled;         /* of all writers */
    size_t settles_in_flight; /* SETTLE requests */
    int settle_result;        /* the first failure of a SETTLE since the last drain */
    char settle_words[256];

    /* Calls */
    bool dispatching; /* completions may not dispatch */
    bool closing;
    bool request_id_set;
    struct wire_uuid request_id;
    struct wire_buffer text; /* strings of the last reply */
    struct wire_buffer scratch;
    struct error error;
    uint8_t status;
};

/* ---- handle.c ---- */

/* bitmapd_dispatch() without its words and its return value. */
void client_dispatch(struct bitmapd *handle, unsigned revents);

uint64_t client_now_ns(void);
/* Forgets the last failure; every public call begins with it. */
void client_clear_error(struct bitmapd *handle);
/* Stores the failure's words; returns @r. */
int client_fail(struct bitmapd *handle, int r, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* -ENOTCONN and so on, with words, when no request can be taken. */
int client_check_usable(struct bitmapd *handle);
/* Copies a decoded text with its control characters made harmless, cut to @size. */
void client_copy_words(char *to, size_t size, struct wire_string text);

/* ---- connect.c ---- */

/* The first frame of a connection. */
int connection_take_hello(struct bitmapd *handle, const struct frame *frame);
/* connect(2) has something to say. */
void connection_connected(struct bitmapd *handle);
/* What is due by time: retries and deadlines. */
void connection_timers(struct bitmapd *handle);
/* The earliest of what connection_timers() waits for, 0 for nothing. */
uint64_t connection_next_timer_ns(const struct bitmapd *handle);
/*
 * The connection is gone or of no use because of @r; looks for another one
 * where that is allowed, otherwise everything fails.
 */
void connection_lost(struct bitmapd *handle, int r, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The same without looking for another: everything fails with @r. */
void connection_end(struct bitmapd *handle, int r, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The daemon has answered a request of the caller's: it works. */
void connection_proven(struct bitmapd *handle);
/* A writer became ready or lost: perhaps all have. */
void connection_check_recovered(struct bitmapd *handle);
void connection_deinit(struct bitmapd *handle);

/* ---- recover.c ---- */

/* Takes the writers' ways back further, as far as there are free slots. */
void recover_issue(struct bitmapd *handle);
/* The connection is gone. */
void recover_connection_lost(struct bitmapd *handle);
/* A fenced or refused writer: its marks fail with @result. */
void writer_lose(struct bitmapd *handle, struct writer *writer, int result, const char *words);

/* ---- io.c ---- */

/* Sends what can be sent. */
void io_send(struct bitmapd *handle);
/* Receives and handles what has arrived. */
void io_receive(struct bitmapd *handle);
void io_reset(struct bitmapd *handle);

/* ---- queue.c ---- */

int queue_slots_init(struct bitmapd *handle, uint32_t count);
void queue_slots_deinit(struct bitmapd *handle);
/* Whether one more request may be issued now. */
bool queue_has_room(const struct bitmapd *handle);
/* NULL when memory is out.  Give it to request_queue() or request_free(). */
struct request *request_new(struct bitmapd *handle, enum request_policy policy, uint16_t operation);
void request_free(struct bitmapd *handle, struct request *request);
/* Puts it where it is to be issued from.  Takes the request. */
void request_queue(struct bitmapd *handle, struct request *request);
/* Issues now; there must be room.  Takes the request.  Failures finish it. */
void request_issue(struct bitmapd *handle, struct request *request);
/* Issues what slots, back-pressure and the order of settles allow. */
void queue_issue(struct bitmapd *handle);
/* Whether queue_issue() could do something. */
bool queue_can_issue(const struct bitmapd *handle);
/* A reply arrived.  0 or -EPROTO with words. */
int queue_take_reply(struct bitmapd *handle, const struct frame *frame, struct error *error);
/* Ends a request that is on no queue: words may be NULL.  The completion is called later. */
void request_finish(struct bitmapd *handle, struct request *request, int result, uint8_t status,
                    const char *words);
/* The connection is gone: applies the policies.  Nothing is in flight afterwards. */
void queue_connection_lost(struct bitmapd *handle);
/* Everything in flight fails, whatever its policy. */
void queue_fail_in_flight(struct bitmapd *handle, int result, const char *words);
/* All that is queued fails; nothing may be in flight. */
void queue_fail_all(struct bitmapd *handle, int result, const char *words);
/* Calls the completions that are due. */
void queue_complete(struct bitmapd *handle);
void queue_deinit(struct bitmapd *handle);

/* ---- sync.c ---- */

/* A synchronous call: where its result comes back to. */
struct call {
    struct bitmapd *handle;
    bool done;
    int result;
    uint8_t status;
    struct error error; /* other completions may fail after ours: kept here meanwhile */
};

void call_completed(void *opaque, int result); /* a bitmapd_completion on a struct call */
/* Waits until something happens, and handles it. */
void client_turn(struct bitmapd *handle);
/* Sends what is queued, and waits for the call's completion. */
int call_wait(struct call *call);
/*
 * The whole of a synchronous call: encodes @message, queues, waits.  @reply
 * gets @context in request->context; see struct request for the rest.
 */
int client_call(struct bitmapd *handle, enum request_policy policy, uint16_t operation,
                enum message_type type, const void *message, bool more, request_reply *reply,
                void *context);
/* The same for RESUME and DETACH: whenever it is sent, the writer is READY. */
int client_call_writer(struct bitmapd *handle, struct writer *writer, uint16_t operation);
/* The id for the next request that changes something. */
int client_request_id(struct bitmapd *handle, struct wire_uuid *ret);
/* Decodes what ends a list of @count items.  0 or -EPROTO with words. */
int client_check_list_end(const struct frame *frame, uint64_t count, struct error *error);
/* enum bitmapd_validity; a number that we do not know vouches for nothing. */
int client_validity(uint8_t validity);

/* ---- text.c ---- */

#define BITMAP_BYTES_MAX (2u * NAME_BYTES_MAX + 1u) /* "DRIVE/NAME" */

/* -EINVAL with words unless @text is 1 to @max bytes long. */
int text_check(const char *what, const char *text, size_t max, struct error *error);
int client_check_text(struct bitmapd *handle, const char *what, const char *text, size_t max);
/*
 * @texts as a message has them, in @scratch, which is overwritten.  Each is 1
 * to @max bytes long, and there is at least one; else -EINVAL with words.
 */
int text_encode_strings(const char *what, const char *const *texts, size_t count, size_t max,
                        struct wire_buffer *scratch, struct wire_strings *ret, struct error *error);

/*
 * Strings of a reply as C strings that live in handle->text until the next
 * call: reserve all of them first, then add one by one.
 */
int client_text_begin(struct bitmapd *handle, size_t bytes, unsigned strings);
const char *client_text_add(struct bitmapd *handle, struct wire_string string);

/* ---- writer.c ---- */

struct writer *writer_find(const struct bitmapd *handle, uint64_t drive_id);
void writer_free(struct bitmapd *handle, struct writer *writer);
/* A REQUEST_MARK is done: what that means for the log. */
void writer_mark_finished(struct bitmapd *handle, struct writer *writer, struct request *request,
                          int result);
/* Sends what was settled; false when there was no room for all of it. */
bool writer_issue_settles(struct bitmapd *handle, struct writer *writer);
/* Encodes the request's marks out of the log into the send buffer. */
int writer_encode_marks(struct bitmapd *handle, struct writer *writer, uint64_t first_id,
                        uint32_t count, uint64_t cookie);

#endif
