/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Inputs to and from bytes (input.h).  Decoding never fails, so that no
 * mutation is wasted.
 */
#include "tests/fuzz/input.h"

#include "proto/base/endian.h"

#include <string.h>

#define SECTOR     512u
#define HEAD_BYTES 8u

struct bytes {
    const uint8_t *data;
    size_t left;
};

/* The next @bytes, zeros where there are none. */
static void take(struct bytes *from, void *to, size_t bytes)
{
    size_t n = bytes < from->left ? bytes : from->left;

    memset(to, 0, bytes);
    if (n > 0) {
        memcpy(to, from->data, n);
        from->data += n;
        from->left -= n;
    }
}

void input_decode(const uint8_t *data, size_t bytes, struct input *ret)
{
    struct bytes in = {.data = data, .left = bytes};
    uint8_t head[HEAD_BYTES], number[2], sector[SECTOR];

    take(&in, head, sizeof head);
    memory_open(&ret->memory, load_le32(head) % (INPUT_FILE_MAX + 1));
    ret->script_bytes = load_le16(head + 4) % (INPUT_SCRIPT_MAX + 1);
    take(&in, ret->script, ret->script_bytes);

    uint32_t sectors = load_le16(head + 6);
    struct bytes numbers = {.data = in.data, .left = in.left};
    size_t skip = 2 * (size_t)sectors < in.left ? 2 * (size_t)sectors : in.left;
    numbers.left = skip;
    in.data += skip;
    in.left -= skip;
    for (uint32_t i = 0; i < sectors && in.left > 0; i++) {
        take(&numbers, number, sizeof number);
        take(&in, sector, sizeof sector);
        uint64_t at = (uint64_t)load_le16(number) * SECTOR;
        if (at < ret->memory.size) {
            uint64_t room = ret->memory.size - at;
            memcpy(ret->memory.bytes + at, sector, room < SECTOR ? (size_t)room : SECTOR);
        }
    }
}

static int is_zero(const uint8_t *bytes, size_t n)
{
    return n == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, n - 1) == 0);
}

size_t input_encode(const struct input *input, uint8_t *data, size_t room)
{
    const struct memory *m = &input->memory;
    size_t at = HEAD_BYTES + input->script_bytes;
    uint32_t sectors = 0;

    /* Twice over the sectors: first their numbers, then what is in them. */
    for (uint32_t pass = 0; pass < 2; pass++) {
        for (uint64_t i = 0; i * SECTOR < m->size; i++) {
            uint64_t left = m->size - i * SECTOR;
            size_t n = left < SECTOR ? (size_t)left : SECTOR;
            if (is_zero(m->bytes + i * SECTOR, n)) {
                continue;
            }
            size_t needed = pass ? SECTOR : 2;
            if (at > room || room - at < needed) {
                return 0;
            }
            if (pass) {
                memset(data + at, 0, SECTOR);
                memcpy(data + at, m->bytes + i * SECTOR, n);
            } else {
                store_le16(data + at, (uint16_t)i);
                sectors++;
            }
            at += needed;
        }
    }
    if (at > room) {
        return 0;
    }
    store_le32(data, (uint32_t)m->size);
    store_le16(data + 4, (uint16_t)input->script_bytes);
    store_le16(data + 6, (uint16_t)sectors);
    memcpy(data + HEAD_BYTES, input->script, input->script_bytes);
    return at;
}
