/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where one frame ends and the next begins.  This is the only code that looks
 * at bytes whose extent is not known yet, so what it lets through is small:
 * a header that could not start a frame ends the connection, because nothing
 * after it can be trusted to start one either.
 *
 * Bytes in, bytes out: no I/O, no allocation, no state between calls.
 */
#include "proto/frame.h"

#include "proto/base/endian.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>

enum header_offset {
    HEADER_LENGTH = 0,
    HEADER_OPERATION = 4,
    HEADER_FLAGS = 6,
    HEADER_STATUS = 7,
    HEADER_COOKIE = 8,
};

static_assert(FRAME_BYTES_MAX <= INT_MAX, "frame_decode() returns a frame's length as an int");
static_assert(HEADER_COOKIE + sizeof(uint64_t) == FRAME_HEADER_BYTES, "the cookie ends the header");

int frame_decode(const uint8_t *buffer, size_t bytes, uint32_t limit, struct frame *ret,
                 uint32_t *ret_needed, struct error *error)
{
    assert(limit >= FRAME_HEADER_BYTES && limit <= FRAME_BYTES_MAX);

    if (bytes < FRAME_HEADER_BYTES) {
        *ret_needed = FRAME_HEADER_BYTES;
        return 0;
    }
    uint32_t length = load_le32(buffer + HEADER_LENGTH);
    uint8_t flags = buffer[HEADER_FLAGS];
    uint8_t status = buffer[HEADER_STATUS];

    if (length < FRAME_HEADER_BYTES || length > limit) {
        return error_set(error, -EPROTO, "frame: expected a length of %u to %u bytes, found %u",
                         FRAME_HEADER_BYTES, limit, length);
    }
    if (flags & ~(FRAME_REPLY | FRAME_MORE)) {
        return error_set(error, -EPROTO, "frame: unknown flags 0x%02x", flags);
    }
    if (!(flags & FRAME_REPLY) && (flags != 0 || status != 0)) {
        return error_set(error, -EPROTO,
                         "frame: expected flags 0 and status 0 in a request, found 0x%02x and %u",
                         flags, status);
    }
    if (bytes < length) {
        *ret_needed = length;
        return 0;
    }
    *ret = (struct frame){
        .operation = load_le16(buffer + HEADER_OPERATION),
        .flags = flags,
        .status = status,
        .cookie = load_le64(buffer + HEADER_COOKIE),
        .payload = buffer + FRAME_HEADER_BYTES,
        .payload_bytes = length - FRAME_HEADER_BYTES,
    };
    return (int)length;
}

void frame_encode_header(uint8_t header[FRAME_HEADER_BYTES], const struct frame *frame)
{
    assert(frame->payload_bytes <= FRAME_BYTES_MAX - FRAME_HEADER_BYTES);

    store_le32(header + HEADER_LENGTH, FRAME_HEADER_BYTES + frame->payload_bytes);
    store_le16(header + HEADER_OPERATION, frame->operation);
    header[HEADER_FLAGS] = frame->flags;
    header[HEADER_STATUS] = frame->status;
    store_le64(header + HEADER_COOKIE, frame->cookie);
}

void frame_set_cookie(uint8_t header[FRAME_HEADER_BYTES], uint64_t cookie)
{
    store_le64(header + HEADER_COOKIE, cookie);
}
