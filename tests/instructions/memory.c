/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The C library's functions for memory, word by word: so what is copied, filled or compared counts
 * by its size, and the same on each processor.  The library's own have a variant for each, and are
 * not counted.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef uint64_t __attribute__((may_alias, aligned(1))) word;

void *memcpy(void *restrict to, const void *restrict from, size_t bytes)
{
    uint8_t *t = to;
    const uint8_t *f = from;

    for (; bytes >= sizeof(word); bytes -= sizeof(word)) {
        *(word *)t = *(const word *)f;
        t += sizeof(word);
        f += sizeof(word);
    }
    while (bytes-- > 0) {
        *t++ = *f++;
    }
    return to;
}

void *memmove(void *to, const void *from, size_t bytes)
{
    uint8_t *t = to;
    const uint8_t *f = from;

    if ((uintptr_t)t - (uintptr_t)f >= bytes) {
        return memcpy(to, from, bytes);
    }
    for (; bytes >= sizeof(word); bytes -= sizeof(word)) {
        *(word *)(t + bytes - sizeof(word)) = *(const word *)(f + bytes - sizeof(word));
    }
    while (bytes-- > 0) {
        t[bytes] = f[bytes];
    }
    return to;
}

void *memset(void *to, int byte, size_t bytes)
{
    uint8_t *t = to;
    uint64_t all = UINT64_C(0x0101010101010101) * (uint8_t)byte;

    for (; bytes >= sizeof(word); bytes -= sizeof(word)) {
        *(word *)t = all;
        t += sizeof(word);
    }
    while (bytes-- > 0) {
        *t++ = (uint8_t)byte;
    }
    return to;
}

int memcmp(const void *a, const void *b, size_t bytes)
{
    const uint8_t *x = a, *y = b;

    for (; bytes >= sizeof(word) && *(const word *)x == *(const word *)y; bytes -= sizeof(word)) {
        x += sizeof(word);
        y += sizeof(word);
    }
    for (; bytes > 0; bytes--, x++, y++) {
        if (*x != *y) {
            return *x < *y ? -1 : 1;
        }
    }
    return 0;
}
