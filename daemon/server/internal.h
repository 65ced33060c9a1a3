/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_SERVER_INTERNAL_H
#define BITMAPD_DAEMON_SERVER_INTERNAL_H

/* Shared by the files of daemon/server only. */

#include "daemon/server/server.h"
#include "proto/base/access.h"
#include "proto/base/cleanup.h"
#include "proto/frame.h"
#include "proto/message.h"
#include "proto/status.h"

#include <stdbool.h>
#include <sys/queue.h>

/* Limits that are not settings. */
#define SESSION_READ_BYTES  (UINT32_C(256) << 10)  /* at most, in one turn of one client */
#define SESSION_OUT_HIGH    (UINT32_C(1) << 20)    /* bytes unsent: nothing more is read or made */
#define SESSION_OUT_LOW     (SESSION_OUT_HIGH / 2) /* … until this few are left */
#define SESSION_DEADLINE_MS 10000u                 /* for HELLO, and for reading the last error */
#define SESSION_PEER_BYTES  400
#define MAP_PAGE_RUNS       4096u /* 64 KiB a page */
#define MAP_PART_RUNS       256u  /* found at once; a page has a multiple */
#define LIST_STEP_ITEMS     64u   /* looked at in one step of a list */
#define RANGES_MAX          (FRAME_BYTES_MAX / WIRE_RANGE_BYTES)
#define LISTEN_BACKLOG      128
#define ACCEPT_REST_MS      1000u  /* without descriptors for more clients */
#define DENIAL_USERS        256u   /* whose denials are counted apart */
#define ACCESS_MATCHES      16384u /* drives of which it is remembered what rules match them */

TAILQ_HEAD(session_list, session);
TAILQ_HEAD(pending_list, pending);
TAILQ_HEAD(stream_list, stream);
TAILQ_HEAD(probe_list, probe);
TAILQ_HEAD(user_list, user);
RB_HEAD(session_writers, session_writer); /* by drive: one connection may write to thousands */

/* What is told of denials, so that a flood of them cannot fill a log. */
struct denials {
    uint64_t counted_ms; /* uv_now() up to which room was made */
    uint32_t room;       /* that may be told at once */
    uint64_t untold;
};

/* The rules whose patterns match a drive's name, whoever they are for. */
struct matches {
    uint64_t drive;   /* id; 0: none */
    uint64_t version; /* of names and rules */
    uint64_t rules[ACCESS_RULES_MAX / 64];
};

struct server {
    uv_loop_t *loop;
    struct model *model;
    struct server_settings settings;
    struct server_hooks hooks;
    struct wire_uuid instance;
    uint64_t started_ns; /* CLOCK_MONOTONIC */

    int fd; /* listening, -1: not */
    uv_poll_t listener;
    bool listener_open;
    uv_timer_t rest; /* of the listener, while descriptors are out */
    char *path;      /* of a socket of our own making, or NULL */

    struct session_list sessions;
    uint32_t sessions_count;
    struct session_list unsent; /* sessions with something to send before the loop sleeps */
    uv_prepare_t before_sleep;

    struct user_list users;
    uint64_t map_bytes;                   /* of maps that are made and not yet sent */
    struct denials denials[DENIAL_USERS]; /* by uid; few share one, and can hide each other's */
    struct denials crowded;               /* of those who find all connections taken */
    struct matches *matches;  /* ACCESS_MATCHES, each of a drive whose id ends like its index */
    uint64_t matches_version; /* of those that count */

    uint8_t *read_buffer; /* SESSION_READ_BYTES, for whoever's turn it is */
    struct range *ranges; /* RANGES_MAX, likewise */
    struct pending_list spare_pending;
    uint32_t spare_count;

    char *look_at; /* owned: the path that a handler which returned -EAGAIN wants looked at */
    struct probe_list probes;
    uint32_t probes_running;

    int handles;                 /* of the server itself, not yet closed */
    struct pending_list orphans; /* whose session has ended, but not the work for them */
    bool closing;
    struct model_waiter last; /* for the answers that an orderly stop lets out */
    void (*closed)(void *opaque);
    void *opaque;
};

enum session_state {
    SESSION_HELLO, /* nothing but HELLO is taken, in small frames */
    SESSION_OPEN,
    SESSION_ENDING, /* nothing is read any more; ends when everything is sent */
    SESSION_CLOSED, /* only its handles are left */
};

/* Somebody who has connections, and what all of them take together. */
struct user {
    uid_t uid;
    bool exempt; /* root and the daemon's own: only the connection's limits apply */
    uint32_t connections;
    uint32_t in_flight; /* requests */
    uint64_t map_bytes; /* as server->map_bytes */
    bool held;          /* a session was paused since too many were in flight */
    TAILQ_ENTRY(user) entry;
};

/* Who a client is, by what the kernel says of the moment it connected, and what it may. */
struct peer {
    uid_t uid;
    gid_t gid;
    pid_t pid;
    gid_t *groups; /* owned */
    uint32_t groups_count;

    uint64_t rules[ACCESS_RULES_MAX / 64]; /* a bit for each that applies */
    bool administers;                      /* all drives and the daemon, whatever the rules */
    uint32_t anywhere;                     /* rights on some drive at least */
    uint32_t everywhere;                   /* rights on all drives */
    bool restricted;                       /* to one drive and these rights, for ever */
    uint64_t restricted_drive;             /* id */
    uint32_t restricted_rights;
};

/* A client's connection. */
struct session {
    struct server *server;
    enum session_state state;
    int fd;
    uv_poll_t poll;
    uv_timer_t deadline;
    int handles; /* not yet closed */
    int events;  /* that poll watches */
    bool paused; /* at a bound: frames wait in @in, or in the socket */
    bool in_unsent;
    bool hung_up; /* the peer has, while a request was put off */
    bool flushing;
    bool out_of_memory; /* a reply could not be queued: the connection ends at its next flush */

    uint8_t *in; /* bytes that are read but not yet taken */
    size_t in_bytes, in_capacity;
    struct wire_buffer out;
    size_t out_head; /* bytes of it that are sent */

    uint32_t in_flight;        /* requests not yet answered */
    struct deferral *deferral; /* of the request that holds up all others, or NULL */
    struct pending_list pending;
    struct stream_list streams; /* in turn */
    uint32_t streams_count;
    uint32_t maps_count; /* that are being made, before they are streams; the limit is on both */
    struct session_writers writers;

    struct peer peer;
    struct user *user;
    char peer_words[SESSION_PEER_BYTES]; /* for history and logs */
    size_t peer_bytes;                   /* of these, without what the client calls itself */
    TAILQ_ENTRY(session) entry;
    TAILQ_ENTRY(session) unsent_entry;
};

struct session_writer {
    uint64_t drive; /* id */
    bool attached;
    char token[NAME_BYTES_MAX + 1];
    struct writer *writer; /* owned by the model, ours to end */
    RB_ENTRY(session_writer) entry;
};

/* A request that is being handled. */
struct request {
    struct session *session;
    struct server *server;
    struct model *model;
    uint16_t operation;
    uint64_t cookie;
    const void *message;       /* the operation's structure */
    struct deferral *deferral; /* it was put off before, and has what it wanted; or NULL */
    bool part;                 /* of a transaction: it is committed and answered as a whole */
};

/*
 * A request whose answer waits for a watermark, or for work elsewhere.  A
 * session that ends lets go of it: @session is NULL then, and nothing is
 * answered.  So does a server: work that hangs must not hold up an orderly
 * stop.
 */
struct pending {
    struct model_waiter waiter; /* first */
    struct session *session;
    struct server *server; /* NULL once it is gone, as @session is */
    uint16_t operation;
    uint64_t cookie;
    uint64_t object;     /* id of the drive or bitmap the answer tells of */
    uint64_t sequence;   /* that it waits for */
    bool in_model;       /* stands in the model's queue */
    struct map_job *map; /* that is being made for it, or NULL */
    struct message_attach_reply attach;
    struct message_checkpoint_created created; /* sequence 0: to be looked up */
    TAILQ_ENTRY(pending) entry;
};

/* ---- session.c ---- */

/* Takes over @fd and what @peer holds; counts for @user. */
void session_accept(struct server *server, int fd, struct peer *peer, struct user *user);
/* Ends the connection at once: writers are lost, waiters cancelled. */
void session_close(struct session *session);
/* Sends what is waiting, before the loop sleeps. */
void session_send_later(struct session *session);
void session_flush(struct session *session);
/* Nothing more is read; what is answered is still sent. */
void session_stop_reading(struct session *session);
/* A request begins to be in flight, or its last reply is made. */
void session_request_begins(struct session *session);
void session_request_ends(struct session *session);
/* ---- server.c ---- */

/* A session's last handle is closed and its memory is freed. */
void server_session_freed(struct server *server);
/* A connection of the user's has ended. */
void server_user_leaves(struct server *server, struct user *user);

/* ---- access.c ---- */

/* What a request is about, and where its message says so. */
enum subject {
    SUBJECT_NONE = 1,      /* anyone who may do anything */
    SUBJECT_DAEMON,        /* the daemon, with all its drives */
    SUBJECT_SOME,          /* whatever drives there are that the peer has the right on */
    SUBJECT_DRIVE,         /* the drive of that name */
    SUBJECT_DRIVE_OR_SOME, /* likewise; SOME if it is empty */
    SUBJECT_BITMAP,        /* the drive of the bitmap of that name */
    SUBJECT_ID,            /* the drive of that id */
    SUBJECT_DRIVES,        /* the drives of those names */
    SUBJECT_RENAME,        /* a drive's old name and its new one */
    SUBJECT_MERGE,         /* the drives of target and sources */
};

struct access_need {
    uint32_t rights; /* enum access_right: any one of these is enough */
    enum subject subject;
    size_t offset; /* in the operation's structure */
};

/* -errno. */
int peer_init(struct peer *peer, int fd);
void peer_deinit(struct peer *peer);
/* root, or the daemon's own user. */
bool peer_is_exempt(const struct peer *peer);
/* Finds the rules that apply, for a new session and after a reload. */
void access_resolve(struct session *session);
/* Forgets which rules match: they are others, or a drive has another name. */
void access_forget(struct server *server);
/* Only this drive and these rights from now on; they are rights that it has. */
void access_restrict(struct session *session, uint64_t drive, uint32_t rights);
/* The rights on it, those included that others include. */
uint32_t access_on_drive(struct session *session, const struct drive *drive);
/* Whether the request is permitted; -EPERM, or -ENOENT for what may not be seen, with words. */
int access_check(const struct request *request, const struct access_need *need,
                 struct error *error);
/* Likewise, the answer that an earlier request with the same id had. */
int access_check_repeat(const struct request *request, const struct access_need *need,
                        const struct request_result *before, struct error *error);
/* Whether the log is to hear of one more that was refused: a flood is only counted. */
bool access_may_tell(struct server *server, uid_t uid);
bool access_may_tell_of(struct denials *denials, uint64_t now_ms);

/* ---- dispatch.c ---- */

/*
 * Takes whole frames from @data and handles them until bytes run out or a
 * bound is reached; returns the bytes taken, or -EPROTO when the connection
 * cannot go on (an error reply is queued).
 */
ssize_t dispatch_frames(struct session *session, const uint8_t *data, size_t bytes);
bool session_at_bound(const struct session *session);
/* Handles a request that was put off; -EAGAIN again, or what its handler says. */
int dispatch_again(struct session *session, const struct frame *frame, struct deferral *deferral,
                   struct error *error);
/* Rights and request_check() for one of a transaction's, if it can be understood. */
int dispatch_check(const struct request *whole, uint16_t operation, const uint8_t *payload,
                   uint32_t payload_bytes, struct error *error);
/* One of a transaction's. */
int dispatch_part(const struct request *whole, uint16_t operation, const uint8_t *payload,
                  uint32_t payload_bytes, struct error *error);

/* ---- reply.c ---- */

/* Queues a frame.  A session whose memory for that is out is ended. */
void reply(struct session *session, enum message_type type, const void *message, uint16_t operation,
           uint8_t flags, uint64_t cookie);
void reply_error(struct session *session, uint16_t operation, uint64_t cookie, enum status status,
                 const char *text);
/* Answers -errno from a layer below. */
void reply_errno(struct session *session, uint16_t operation, uint64_t cookie, int r,
                 const struct error *error);

struct pending *pending_new(const struct request *request); /* NULL: no memory */
void pending_free(struct pending *pending);
/* Answers when everything up to @sequence has reached @level. */
void pending_wait(struct pending *pending, enum ack_level level, uint64_t sequence,
                  uint64_t object);
/* Answers now: 0, or -errno with words. */
void pending_finish(struct pending *pending, int r, const struct error *error);
/* The session ends: nothing will be answered. */
void pending_abandon(struct pending *pending);
/* Nothing more is to be made for the session: abandons the maps that are being made. */
void pending_abandon_maps(struct session *session);

/*
 * What most changes come down to: commits @record and answers when it is
 * acknowledged.  0, or -errno with words to be answered.
 */
int request_commit(const struct request *request, const struct wire_uuid *id, struct record *record,
                   struct error *error);
/* Answers a request that was done before like the first time. */
int request_repeat(const struct request *request, const struct request_result *before,
                   enum record_type type, struct error *error);

static inline struct text text_from_wire(struct wire_string string)
{
    return (struct text){string.data, string.length};
}

struct drive_info_buffer {
    struct message_drive_info message;
    char identity[256];
};
void fill_drive_info(struct drive *drive, struct drive_info_buffer *ret);
struct bitmap_info_buffer {
    struct message_bitmap_info message;
    char name[2 * NAME_BYTES_MAX + 2];
};
void fill_bitmap_info(const struct drive_bitmap *bitmap, struct bitmap_info_buffer *ret);
void fill_checkpoint_created(struct model *model, const struct checkpoint *checkpoint,
                             struct message_checkpoint_created *ret);
void fill_checkpoint_info(const struct drive_bitmap *bitmap, struct message_checkpoint_info *ret);
/* NULL with words. */
struct drive *find_drive(const struct request *request, struct wire_string name,
                         struct error *error);

/* ---- defer.c ---- */

/*
 * Puts off a request whose handler returned -EAGAIN; it is handled again when what it wants is
 * there.  0, or -errno with words.
 */
int request_defer(const struct request *request, const struct frame *frame, struct error *error);
void deferral_free(struct deferral *deferral);
void probes_forget_server(struct server *server);

/* What was seen under a path.  Borrowed by the handler. */
struct sight {
    int r; /* why it could not be looked at; then nothing else is set but */
    const struct error *error;
    uint64_t size; /* bytes */
    struct drive_sight drive;
};

/* 0; -EAGAIN (to be returned) when it has to be looked at first; -ENOMEM. */
int request_look(const struct request *request, const char *path, struct sight *ret);

/* ---- prepare.c ---- */

/*
 * Looks at the drives that a request names and nobody watches, and asks for the bits that it will
 * need; -EAGAIN as a handler.
 */
int request_check(const struct request *request, struct error *error);

/* Does what @parts commits as one, and answers when that is acknowledged. */
int request_transact(const struct request *request, const struct wire_uuid *id,
                     int (*parts)(const struct request *request, struct error *error),
                     struct error *error);

/* ---- stream.c: answers of many frames ---- */

int stream_drives(const struct request *request, struct error *error);
int stream_bitmaps(const struct request *request, struct error *error);
int stream_checkpoints(const struct request *request, struct error *error);
int stream_map(const struct request *request, struct error *error);
/* What every map begins with; then @bits (taken over) from @offset on. */
struct map_answer {
    struct message_map_head head;
    struct bitmap *bits;
    uint64_t offset;
};
/* Whether the session may have one more of these; -EDQUOT with words. */
int stream_check_limit(const struct request *request, struct error *error);
int stream_map_start(const struct request *request, struct map_answer *answer, struct error *error);
/* A map cannot begin just anywhere. */
int check_map_offset(uint64_t offset, uint64_t size, uint32_t granularity, struct error *error);
/* Makes frames until the output is at its bound or nothing is left. */
void streams_pump(struct session *session);
void streams_free(struct session *session);

/* ---- handle_*.c: one function for each operation ---- */

/* Of handle_checkpoint.c: gives up a map that is being made.  Its pending stays. */
void map_job_cancel(struct map_job *job);

typedef int request_handler(const struct request *request, struct error *error);

request_handler handle_drive_add, handle_drive_show, handle_drive_set, handle_drive_rename,
    handle_drive_resize, handle_drive_remove, handle_drive_fence, handle_drive_adopt;
request_handler handle_bitmap_create, handle_bitmap_show, handle_bitmap_delete,
    handle_bitmap_enable, handle_bitmap_disable, handle_bitmap_rename, handle_bitmap_set,
    handle_bitmap_clear, handle_bitmap_merge;
request_handler handle_mark, handle_settle, handle_attach, handle_resume, handle_detach;
request_handler handle_checkpoint_create, handle_checkpoint_delete, handle_checkpoint_map;
request_handler handle_transaction;
request_handler handle_hello, handle_restrict, handle_flush, handle_status, handle_reload;

/* Whether the session writes to that drive. */
bool session_has_writer(struct session *session, uint64_t drive);
/* Whether it writes to others too. */
bool session_has_other_writers(struct session *session, uint64_t drive);
/* Ends all of a session's writers. */
void session_writers_lost(struct session *session);

#endif
