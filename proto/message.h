/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_PROTO_MESSAGE_H
#define BITMAPD_PROTO_MESSAGE_H

#include "proto/base/endian.h"
#include "proto/base/error.h"

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Every operation's request and replies as C structures, and one codec for
 * all of them, used by both sides.  A message is its fields in the order of
 * the structure, without padding, little endian:
 *
 *     u8 u16 u32 u64   as such
 *     uuid             16 bytes
 *     string           u16 length, bytes; none of them is NUL, and none is added
 *     strings          u16 count, then that many strings
 *     ranges           u32 count, then that many (u64, u64)
 *     blob             u32 length, bytes
 *
 * A field may only ever be added at a message's end.  A reader takes a longer
 * reply (unknown fields are skipped) and refuses a longer request.
 *
 * Decoded strings, ranges and blobs are borrowed from the payload.
 */

enum operation {
    OPERATION_HELLO = 1,
    OPERATION_RESTRICT = 3,

    OPERATION_DRIVE_ADD = 16,
    OPERATION_DRIVE_LIST = 17,
    OPERATION_DRIVE_SHOW = 18,
    OPERATION_DRIVE_SET = 19,
    OPERATION_DRIVE_RENAME = 20,
    OPERATION_DRIVE_RESIZE = 21,
    OPERATION_DRIVE_REMOVE = 22,
    OPERATION_DRIVE_FENCE = 23,
    OPERATION_DRIVE_ADOPT = 24,

    OPERATION_BITMAP_CREATE = 32,
    OPERATION_BITMAP_LIST = 33,
    OPERATION_BITMAP_SHOW = 34,
    OPERATION_BITMAP_DELETE = 35,
    OPERATION_BITMAP_ENABLE = 36,
    OPERATION_BITMAP_DISABLE = 37,
    OPERATION_BITMAP_RENAME = 38,
    OPERATION_BITMAP_SET = 39,
    OPERATION_BITMAP_CLEAR = 40,
    OPERATION_BITMAP_MERGE = 41,
    OPERATION_MAP = 42,

    OPERATION_MARK = 48,
    OPERATION_SETTLE = 49,
    OPERATION_ATTACH = 50,
    OPERATION_RESUME = 51,
    OPERATION_DETACH = 52,

    OPERATION_FLUSH = 64,
    OPERATION_STATUS = 65,
    OPERATION_RELOAD = 66,
    OPERATION_TRANSACTION = 67,

    OPERATION_CHECKPOINT_CREATE = 80,
    OPERATION_CHECKPOINT_LIST = 81,
    OPERATION_CHECKPOINT_DELETE = 82,
    OPERATION_CHECKPOINT_MAP = 83,
};

/* "drive-add" and so on; "unknown" for others. */
const char *operation_name(uint16_t operation);

#define PROTOCOL_MAGIC       UINT32_C(0x44504d42) /* "BMPD" as bytes on the wire */
#define PROTOCOL_VERSION_MIN 1
#define PROTOCOL_VERSION_MAX 1

struct wire_uuid {
    uint8_t bytes[16];
};

struct wire_string {
    const char *data; /* not NUL-terminated; NULL only with length 0 */
    uint16_t length;
};

/* Encoded strings, one after the other. */
struct wire_strings {
    const uint8_t *data;
    uint32_t bytes;
    uint16_t count;
};

/* Encoded pairs: (offset, length) in bytes of the drive, or (first id, count). */
struct wire_ranges {
    const uint8_t *data; /* 16 bytes a pair */
    uint32_t count;
};

struct wire_range {
    uint64_t offset;
    uint64_t length;
};

/* Bytes that another layout tells about. */
struct wire_blob {
    const uint8_t *data;
    uint32_t bytes;
};

#define WIRE_RANGE_BYTES 16u

/* Of a C string, or an empty one for NULL; longer than 65535 bytes: aborts. */
struct wire_string wire_string(const char *text);
/* Pair @index < count. */
static inline struct wire_range wire_ranges_get(const struct wire_ranges *ranges, uint32_t index)
{
    assert(index < ranges->count);
    const uint8_t *pair = ranges->data + (size_t)index * WIRE_RANGE_BYTES;
    return (struct wire_range){.offset = load_le64(pair), .length = load_le64(pair + 8)};
}

static inline void wire_range_store(uint8_t encoded[WIRE_RANGE_BYTES], struct wire_range range)
{
    store_le64(encoded, range.offset);
    store_le64(encoded + 8, range.length);
}

/* Takes the first of the remaining strings; call count times (decoding has checked them). */
struct wire_string wire_strings_next(struct wire_strings *strings);

enum wire_durability {
    WIRE_DURABILITY_DEFAULT = 0, /* in requests: the daemon's default, or "keep" */
    WIRE_DURABILITY_POWER_LOSS = 1,
    WIRE_DURABILITY_PROCESS_CRASH = 2,
};

enum wire_validity {
    WIRE_VALIDITY_EXACT = 0,
    WIRE_VALIDITY_SUPERSET = 1, /* safe, may hold extra */
    WIRE_VALIDITY_UNKNOWN = 2,  /* may have missed a write: answers are all dirty */
};

/*
 * "untracked", in the messages below: why writing past the daemon cannot be ruled out for the time
 * that the bits stand for, in words; empty: it is ruled out, as far as evidence goes.
 */

/* Layouts; the codec's tables in message.c have one row for each. */
enum message_type {
    MESSAGE_EMPTY, /* no fields; the structure is not looked at */
    MESSAGE_ERROR,
    MESSAGE_HELLO,
    MESSAGE_HELLO_REPLY,
    MESSAGE_DRIVE_ADD,
    MESSAGE_DRIVE_NAME,
    MESSAGE_DRIVE_CHANGE,
    MESSAGE_DRIVE_SET,
    MESSAGE_DRIVE_RESIZE,
    MESSAGE_DRIVE_INFO,
    MESSAGE_BITMAP_CREATE,
    MESSAGE_BITMAP_NAME,
    MESSAGE_BITMAP_CHANGE,
    MESSAGE_BITMAP_RANGE,
    MESSAGE_BITMAP_MERGE,
    MESSAGE_BITMAP_INFO,
    MESSAGE_LIST_END,
    MESSAGE_MAP,
    MESSAGE_MAP_HEAD,
    MESSAGE_MAP_PAGE,
    MESSAGE_MAP_END,
    MESSAGE_MARK,
    MESSAGE_SETTLE,
    MESSAGE_ATTACH,
    MESSAGE_ATTACH_REPLY,
    MESSAGE_DRIVE_ID,
    MESSAGE_FLUSH_REPLY,
    MESSAGE_STATUS_REPLY,
    MESSAGE_TRANSACTION,
    MESSAGE_TRANSACTION_REPLY,
    MESSAGE_CHECKPOINT_CREATE,
    MESSAGE_CHECKPOINT_CREATED,
    MESSAGE_CHECKPOINT_DELETE,
    MESSAGE_CHECKPOINT_INFO,
    MESSAGE_CHECKPOINT_MAP,
    MESSAGE_RESTRICT,
    MESSAGE_TYPES
};

struct message_error {
    struct wire_string text;
};

struct message_hello {
    uint32_t magic; /* PROTOCOL_MAGIC */
    uint16_t version_min;
    uint16_t version_max;
    uint64_t features;         /* bits that the client can use; unknown ones are ignored */
    struct wire_string client; /* free text for logs: "bitmapctl 0.1" */
};

struct message_hello_reply {
    uint16_t version;           /* spoken from here on */
    uint64_t features;          /* in common */
    uint32_t frame_bytes_max;   /* of a request */
    uint32_t requests_max;      /* in flight on this connection; more are not read */
    uint32_t unsettled_max;     /* unsettled marks on this connection */
    struct wire_uuid container; /* UUID of the container */
    struct wire_uuid instance;  /* random for each start of the daemon */
    struct wire_string server;  /* free text: "bitmapd 0.1.0" */
};

/*
 * @request: chosen at random by the client for each new request and the same
 * when it is sent again: a repeat is answered with the first result and not
 * done twice.  All zero: no such protection.
 */
struct message_drive_add {
    struct wire_uuid request;
    struct wire_string name;
    struct wire_string path; /* absolute, or empty */
    uint64_t size;           /* bytes; 0: ask the path */
    uint8_t durability;      /* enum wire_durability */
    uint32_t granularity;    /* default for its bitmaps, in bytes; 0: the daemon's default */
};

struct message_drive_name {
    struct wire_string name;
};

/* DRIVE_RENAME (argument: the new name), DRIVE_REMOVE, DRIVE_FENCE (argument: the writer's
 * token, or empty for every lost writer), DRIVE_ADOPT. */
struct message_drive_change {
    struct wire_uuid request;
    struct wire_string name;
    struct wire_string argument;
    uint8_t flags; /* enum change_flags */
};

enum change_flags {
    CHANGE_FORCE = 1 << 0,    /* DRIVE_REMOVE: with its bitmaps and checkpoints */
    CHANGE_DISABLED = 1 << 1, /* BITMAP_CREATE: not recording */
    CHANGE_ALL = 1 << 2,      /* BITMAP_CLEAR: everything; offset and length are 0 */
};

struct message_drive_set {
    struct wire_uuid request;
    struct wire_string name;
    uint8_t durability;   /* DEFAULT: keep */
    uint32_t granularity; /* 0: keep */
};

struct message_drive_resize {
    struct wire_uuid request;
    struct wire_string name;
    uint64_t size; /* bytes */
};

struct message_drive_info {
    uint64_t id; /* never reused */
    struct wire_string name;
    struct wire_string path; /* or empty */
    uint64_t size;           /* bytes, exact */
    uint32_t granularity;    /* default for new bitmaps */
    uint8_t durability;
    uint32_t bitmaps;
    uint32_t recording;    /* of those */
    uint32_t writers;      /* attached and connected */
    uint32_t lost_writers; /* attached, connection gone: see DRIVE_FENCE */
    uint64_t unsettled;    /* marks */
    uint32_t checkpoints;
    struct wire_string identity;  /* of the path, in words; empty: not known */
    struct wire_string untracked; /* of what is written from now on */
};

/* Bitmaps are addressed as "DRIVE/NAME". */
struct message_bitmap_create {
    struct wire_uuid request;
    struct wire_string bitmap;
    uint32_t granularity; /* bytes; 0: the drive's default */
    uint8_t flags;        /* CHANGE_DISABLED */
};

struct message_bitmap_name {
    struct wire_string bitmap;
};

/* DELETE, ENABLE, DISABLE, RENAME (argument: the new NAME, without the drive). */
struct message_bitmap_change {
    struct wire_uuid request;
    struct wire_string bitmap;
    struct wire_string argument;
};

/* SET, CLEAR */
struct message_bitmap_range {
    struct wire_uuid request;
    struct wire_string bitmap;
    uint64_t offset; /* bytes */
    uint64_t length; /* bytes, > 0 but for CHANGE_ALL */
    uint8_t flags;
};

struct message_bitmap_merge {
    struct wire_uuid request;
    struct wire_string target;   /* "DRIVE/NAME" */
    struct wire_strings sources; /* "DRIVE/NAME", of the same drive */
};

struct message_bitmap_info {
    uint64_t id;
    struct wire_string bitmap; /* "DRIVE/NAME" */
    uint32_t granularity;      /* bytes */
    uint64_t size;             /* of the drive in bytes */
    uint8_t recording;
    uint8_t gap;      /* disabled, and has skipped a mark since */
    uint8_t validity; /* enum wire_validity */
    struct wire_string reason;
    uint64_t dirty_bytes;
    uint64_t dirty_count; /* granules */
    struct wire_string untracked;
};

/* Ends DRIVE_LIST, BITMAP_LIST and CHECKPOINT_LIST. */
struct message_list_end {
    uint64_t count; /* items sent before */
};

struct message_map {
    struct wire_string bitmap;
    uint64_t offset; /* bytes; where to begin: 0, or the end of a run of an earlier map */
};

/* MAP and CHECKPOINT_MAP are answered by one head, pages, one end; all but the end have
 * FRAME_MORE. */
struct message_map_head {
    struct wire_string bitmap; /* "DRIVE/NAME"; of a CHECKPOINT_MAP just "DRIVE" */
    uint64_t size;             /* bytes of the drive */
    uint32_t granularity;      /* bytes */
    uint8_t recording;
    uint8_t validity; /* UNKNOWN: the pages say "all dirty" */
    struct wire_string reason;
    uint64_t sequence; /* the snapshot holds every change up to this one */
    struct wire_string untracked;
    struct wire_string base; /* CHECKPOINT_MAP: the name of `since`; else empty */
    struct wire_uuid base_uuid;
    uint64_t base_sequence;
    struct wire_string target; /* the name of `until`; empty: up to the snapshot */
    struct wire_uuid target_uuid;
    uint64_t target_sequence;
};

struct message_map_page {
    struct wire_ranges dirty; /* ordered, disjoint, never touching, within the drive */
};

struct message_map_end {
    uint64_t runs;
    uint64_t dirty_bytes;
    uint32_t crc32c; /* of all pages' encoded ranges, in order */
};

struct message_mark {
    uint64_t drive;    /* id */
    uint64_t first_id; /* range i has id first_id + i; ids rise on a connection and drive;
                        * 0: settled at once */
    struct wire_ranges ranges;
};

struct message_settle {
    uint64_t drive;
    struct wire_ranges ids; /* (first id, count) */
};

struct message_attach {
    struct wire_string drive;  /* name */
    struct wire_string writer; /* token: 1–255 bytes, as a drive's name */
    uint8_t flags;             /* enum attach_flags */
};

enum attach_flags {
    /* It may go on writing without marks when the daemon is lost: losing it makes the drive
     * unknown. */
    ATTACH_CONTINUES = 1 << 0,
    /* The same process had it attached on an earlier connection, and has not written without a
     * mark since. */
    ATTACH_RETURNING = 1 << 1,
};

struct message_attach_reply {
    uint64_t drive;   /* id, for MARK, SETTLE, RESUME, DETACH */
    uint64_t size;    /* bytes */
    uint8_t resuming; /* 1: the token was lost before; send RESUME when every mark that had not
                       * been settled has been marked again */
};

/* RESUME, DETACH */
struct message_drive_id {
    uint64_t drive;
};

struct message_flush_reply {
    uint64_t sequence; /* everything up to it is in the container */
};

struct message_status_reply {
    struct wire_string server;
    struct wire_uuid container;
    struct wire_uuid instance;
    struct wire_string container_path;
    uint64_t uptime_ns;
    uint64_t sequence;    /* of the last change */
    uint64_t applied_seq; /* of the last one in the container */
    uint32_t drives;
    uint32_t bitmaps;
    uint32_t unknown_bitmaps;
    uint32_t connections;
    uint64_t marks;              /* ranges marked since the start */
    uint64_t memory_bytes;       /* of bitmaps */
    uint64_t dirty_memory_bytes; /* of chunks not yet in the container */
    uint64_t flushes;            /* write-backs that succeeded since the start */
    uint64_t container_bytes;    /* of the file */
    uint8_t degraded;
    struct wire_string degraded_reason;
    uint64_t degraded_since_ns; /* CLOCK_REALTIME */
    struct wire_string start_report;
};

/*
 * Operations that are done together or not at all, each seeing the effect of those before it.  Each
 * is u16 operation, u32 length, and that many bytes: the payload of its request, whose request id
 * is ignored.  BITMAP_CREATE to BITMAP_MERGE without the reads, CHECKPOINT_CREATE and
 * CHECKPOINT_DELETE.
 */
struct message_transaction {
    struct wire_uuid request;
    struct wire_blob operations;
};

#define TRANSACTION_HEADER_BYTES 6u

struct message_transaction_reply {
    uint64_t sequence; /* of all its changes; that of each checkpoint that it made */
};

/* Of all the drives at the same moment. */
struct message_checkpoint_create {
    struct wire_uuid request;
    struct wire_string name;
    struct wire_strings drives; /* names, at least one, none twice */
};

struct message_checkpoint_created {
    struct wire_uuid uuid; /* on every drive */
    uint64_t sequence;     /* likewise */
    uint64_t created_ns;   /* CLOCK_REALTIME */
    uint32_t drives;
};

/* A checkpoint is addressed as "NAME", or as "NAME@UUID", which fits that one only. */
struct message_checkpoint_delete {
    struct wire_uuid request;
    struct wire_string drive;
    struct wire_string checkpoint;
};

/* What was written between a checkpoint and the next. */
struct message_checkpoint_info {
    uint64_t id; /* of its bitmap; never reused */
    struct wire_string drive;
    struct wire_string name;
    struct wire_uuid uuid;
    uint64_t sequence;
    uint64_t created_ns;  /* CLOCK_REALTIME */
    uint32_t granularity; /* bytes */
    uint64_t size;        /* of the drive in bytes */
    uint8_t recording;    /* the newest one does */
    uint8_t validity;     /* enum wire_validity */
    struct wire_string reason;
    struct wire_string untracked;
    uint64_t dirty_bytes;
    uint64_t dirty_count; /* granules */
};

struct message_checkpoint_map {
    struct wire_string drive;
    struct wire_string since;
    struct wire_string until; /* empty: everything up to now */
    uint64_t offset;          /* as in message_map */
};

struct message_restrict {
    struct wire_string drive;
    uint32_t rights; /* enum access_right, at least one */
};

/* A byte buffer that grows; the memory is the owner's to free. */
struct wire_buffer {
    uint8_t *data;
    size_t bytes;
    size_t capacity;
};

void wire_buffer_deinit(struct wire_buffer *buffer); /* frees, zeroes */
/* Room for @bytes more; -ENOMEM. */
int wire_buffer_reserve(struct wire_buffer *buffer, size_t bytes);

/*
 * Appends one whole frame: header with @operation, @flags, @status, @cookie,
 * then @message laid out as @type.  -ENOMEM; -EMSGSIZE when the frame would
 * pass FRAME_BYTES_MAX; -EINVAL when a string holds a NUL; the buffer keeps
 * what it had.
 */
int message_encode(struct wire_buffer *buffer, enum message_type type, const void *message,
                   uint16_t operation, uint8_t flags, uint8_t status, uint64_t cookie);

/*
 * What the frame that begins at @frame would mark first, for a guess of what will be needed soon:
 * true if it looks like a MARK with at least one range, and of that nothing has been checked.
 */
bool message_peek_mark(const uint8_t *frame, size_t bytes, uint64_t *ret_drive,
                       struct wire_range *ret_first);

/*
 * Decodes a payload into @ret_message (the structure of @type), whole or not
 * at all.  -EPROTO names the field and its byte offset.  @longer: whether
 * bytes after the last field are skipped (replies) or refused (requests).
 */
int message_decode(enum message_type type, const uint8_t *payload, size_t bytes, int longer,
                   void *ret_message, struct error *error);

/* The layout of an operation's request; MESSAGE_TYPES for an unknown operation. */
enum message_type message_request_type(uint16_t operation);

#endif
