/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_PROTO_FRAME_H
#define BITMAPD_PROTO_FRAME_H

#include "proto/base/error.h"

#include <stddef.h>
#include <stdint.h>

/*
 * The frame: 16 bytes of header, little endian, then the payload.
 *
 *     0  u32 length     of the whole frame in bytes, header included
 *     4  u16 operation  enum operation; a reply repeats its request's
 *     6  u8  flags      FRAME_REPLY, FRAME_MORE; others must be 0
 *     7  u8  status     enum status; 0 in requests
 *     8  u64 cookie     chosen by the client, repeated in every reply
 *
 * See protocol.md, which is normative.
 */
#define FRAME_HEADER_BYTES    16u
#define FRAME_BYTES_HELLO_MAX 4096u               /* of any frame before HELLO is answered */
#define FRAME_BYTES_MAX       (UINT32_C(1) << 20) /* of any frame */

enum frame_flags {
    FRAME_REPLY = 1 << 0,
    FRAME_MORE = 1 << 1, /* further replies to the same cookie follow */
};

struct frame {
    uint16_t operation;
    uint8_t flags;
    uint8_t status;
    uint64_t cookie;
    const uint8_t *payload; /* borrowed from the buffer it was decoded from */
    uint32_t payload_bytes;
};

/*
 * Finds the frame at the start of @buffer.  Returns the bytes it takes; 0
 * when more bytes are needed, with *ret_needed the length of the whole frame
 * (or of a header while that is incomplete); -EPROTO with words when no frame
 * can begin like this (length below the header's or above @limit, unknown
 * flags, a request with a status or FRAME_MORE): the connection cannot go on.
 * @limit: FRAME_HEADER_BYTES to FRAME_BYTES_MAX.
 */
int frame_decode(const uint8_t *buffer, size_t bytes, uint32_t limit, struct frame *ret,
                 uint32_t *ret_needed, struct error *error);

/* Writes the 16 bytes of a header for @payload_bytes of payload. */
void frame_encode_header(uint8_t header[FRAME_HEADER_BYTES], const struct frame *frame);

/* Gives an encoded frame another cookie. */
void frame_set_cookie(uint8_t header[FRAME_HEADER_BYTES], uint64_t cookie);

#endif
