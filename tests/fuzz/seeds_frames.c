/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Seeds for the frames: of each operation the shortest request of nothing but
 * zeros that its message allows, alone, and all of them in a row.
 */
#include "proto/frame.h"
#include "proto/message.h"

#include <stdio.h>
#include <stdlib.h>

#define OPERATIONS_MAX    256u
#define PAYLOAD_BYTES_MAX 256u

static void put(const char *path, const char *mode, const void *bytes, size_t length)
{
    FILE *file = fopen(path, mode);

    if (!file || fwrite(bytes, 1, length, file) != length || fclose(file) != 0) {
        perror(path);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    static const uint8_t zeros[PAYLOAD_BYTES_MAX];
    union {
        uint64_t align;
        uint8_t bytes[4096];
    } message;
    char all[4096], one[4096];

    if (argc != 2) {
        (void)fprintf(stderr, "usage: %s DIRECTORY\n", argv[0]);
        return 2;
    }
    (void)snprintf(all, sizeof all, "%s/all", argv[1]);
    for (uint16_t operation = 0; operation < OPERATIONS_MAX; operation++) {
        enum message_type type = message_request_type(operation);
        for (uint32_t bytes = 0; type != MESSAGE_TYPES && bytes <= PAYLOAD_BYTES_MAX; bytes++) {
            if (message_decode(type, zeros, bytes, 0, &message, NULL) < 0) {
                continue;
            }
            struct frame frame = {.operation = operation, .cookie = 1, .payload_bytes = bytes};
            uint8_t buffer[FRAME_HEADER_BYTES + PAYLOAD_BYTES_MAX] = {0};
            frame_encode_header(buffer, &frame);
            (void)snprintf(one, sizeof one, "%s/operation-%u", argv[1], operation);
            put(one, "wb", buffer, FRAME_HEADER_BYTES + bytes);
            put(all, "ab", buffer, FRAME_HEADER_BYTES + bytes);
            break;
        }
    }
    return 0;
}
