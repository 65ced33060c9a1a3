/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Fuzz target: a stream of frames, as each side takes it from the other.
 *
 *   - a frame is found whole, or more bytes are asked for, or it is refused in
 *     words; nothing is read beyond the bytes that are there;
 *   - a payload that decodes as its operation's request encodes to the same
 *     bytes again: there is one way to say it;
 *   - the same payload as any reply is decoded or refused in words, whatever
 *     follows the last field.
 */
#include "tests/fuzz/target.h"

#include "proto/frame.h"
#include "proto/message.h"

#include <stdlib.h>
#include <string.h>

#define MUST(condition)     \
    do {                    \
        if (!(condition)) { \
            abort();        \
        }                   \
    } while (0)

/* Larger than any message, aligned for all of them. */
union message_room {
    uint64_t align;
    uint8_t bytes[4096];
};

static void check_request(enum message_type type, const struct frame *frame, const uint8_t *bytes,
                          size_t length)
{
    union message_room message;
    struct wire_buffer again = {0};
    struct error error = {""};

    if (message_decode(type, frame->payload, frame->payload_bytes, 0, &message, &error) < 0) {
        MUST(error.text[0] != '\0');
        return;
    }
    MUST(message_encode(&again, type, &message, frame->operation, frame->flags, frame->status,
                        frame->cookie) == 0);
    MUST(again.bytes == length && memcmp(again.data, bytes, length) == 0);
    wire_buffer_deinit(&again);
}

static void check_frame(const struct frame *frame, const uint8_t *bytes, size_t length)
{
    enum message_type request = message_request_type(frame->operation);

    if (request != MESSAGE_TYPES && !(frame->flags & FRAME_REPLY)) {
        check_request(request, frame, bytes, length);
    }
    for (enum message_type type = 0; type < MESSAGE_TYPES; type++) {
        union message_room message;
        struct error error = {""};
        int r = message_decode(type, frame->payload, frame->payload_bytes, 1, &message, &error);
        MUST(r == 0 || error.text[0] != '\0');
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t at = 0;

    while (at < size) {
        /* In memory of its own, so that a sanitizer sees who reads on. */
        size_t left = size - at;
        uint8_t *copy = malloc(left);
        struct frame frame;
        struct error error = {""};
        uint32_t needed = 0;
        MUST(copy);
        memcpy(copy, data + at, left);
        int n = frame_decode(copy, left, FRAME_BYTES_MAX, &frame, &needed, &error);
        if (n > 0) {
            MUST((size_t)n <= left && (size_t)n == FRAME_HEADER_BYTES + frame.payload_bytes);
            check_frame(&frame, copy, (size_t)n);
            at += (size_t)n;
        }
        free(copy);
        if (n <= 0) {
            MUST(n == 0 ? needed > left : error.text[0] != '\0');
            break;
        }
    }
    return 0;
}
