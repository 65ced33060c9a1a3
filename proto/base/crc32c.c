/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * CRC32C by the SSE 4.2 instruction where the processor has it, else by eight
 * tables of 256 entries that take eight bytes a step ("slicing by 8").
 */
#include "proto/base/crc32c.h"

#include "proto/base/endian.h"

#include <pthread.h>

#define POLYNOMIAL_REFLECTED 0x82f63b78u

static uint32_t table[8][256];
static pthread_once_t table_once = PTHREAD_ONCE_INIT;

static void table_fill(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc >> 1) ^ (crc & 1 ? POLYNOMIAL_REFLECTED : 0);
        }
        table[0][byte] = crc;
    }
    for (uint32_t byte = 0; byte < 256; byte++) {
        for (int slice = 1; slice < 8; slice++) {
            uint32_t crc = table[slice - 1][byte];
            table[slice][byte] = (crc >> 8) ^ table[0][crc & 0xff];
        }
    }
}

uint32_t crc32c_portable(uint32_t crc, const void *data, size_t length_bytes)
{
    const uint8_t *p = data;

    (void)pthread_once(&table_once, table_fill);
    crc = ~crc;
    for (; length_bytes >= 8; length_bytes -= 8, p += 8) {
        uint32_t low = load_le32(p) ^ crc;
        uint32_t high = load_le32(p + 4);
        crc = table[7][low & 0xff] ^ table[6][(low >> 8) & 0xff] ^ table[5][(low >> 16) & 0xff] ^
              table[4][low >> 24] ^ table[3][high & 0xff] ^ table[2][(high >> 8) & 0xff] ^
              table[1][(high >> 16) & 0xff] ^ table[0][high >> 24];
    }
    for (; length_bytes > 0; length_bytes--, p++) {
        crc = (crc >> 8) ^ table[0][(crc ^ *p) & 0xff];
    }
    return ~crc;
}

#if defined(__x86_64__)

__attribute__((target("sse4.2"))) static uint32_t crc32c_sse42(uint32_t crc, const void *data,
                                                               size_t length_bytes)
{
    const uint8_t *p = data;
    uint64_t wide = ~crc;

    for (; length_bytes >= 8; length_bytes -= 8, p += 8) {
        wide = __builtin_ia32_crc32di(wide, load_le64(p));
    }
    uint32_t narrow = (uint32_t)wide;
    for (; length_bytes > 0; length_bytes--, p++) {
        narrow = __builtin_ia32_crc32qi(narrow, *p);
    }
    return ~narrow;
}

uint32_t crc32c(uint32_t crc, const void *data, size_t length_bytes)
{
    /* A cached cpuid result: one load and a test. */
    if (__builtin_cpu_supports("sse4.2")) {
        return crc32c_sse42(crc, data, length_bytes);
    }
    return crc32c_portable(crc, data, length_bytes);
}

#else

uint32_t crc32c(uint32_t crc, const void *data, size_t length_bytes)
{
    return crc32c_portable(crc, data, length_bytes);
}

#endif
