/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * CRC32C by the SSE 4.2 instruction where the processor has it, else by eight
 * tables of 256 entries that take eight bytes a step ("slicing by 8").
 *
 * The instruction takes three cycles, and one can begin in each.  So long data
 * is taken as three parts side by side, whose CRCs are brought together by a
 * carry-less multiplication where there is one (PCLMULQDQ).
 */
#include "proto/base/crc32c.h"

#include "proto/base/endian.h"

#include <pthread.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

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

/*
 * Three parts of @bytes.  That n zero bytes follow multiplies a CRC by x^(8n) modulo the
 * polynomial.  The factors are x^(8n - 33): of the rest the instruction multiplies by x^32 as it
 * reduces, and the product of two reflected numbers is one place further.
 */
struct stride {
    size_t bytes;
    uint32_t past_two; /* n = 2 * bytes */
    uint32_t past_one;
};

static const struct stride strides[] = {
    {1024, 0xa51b6135, 0x170076fa},
    {128, 0xb9e02b86, 0x0d3b6092},
};

#define THREE_BYTES_MIN 384u /* of the shortest */

__attribute__((target("sse4.2,pclmul"))) static uint64_t
join(uint64_t first, uint64_t second, uint64_t third, const struct stride *stride)
{
    __m128i a = _mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)first),
                                     _mm_cvtsi64_si128(stride->past_two), 0);
    __m128i b = _mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)second),
                                     _mm_cvtsi64_si128(stride->past_one), 0);
    return third ^ __builtin_ia32_crc32di(0, (uint64_t)_mm_cvtsi128_si64(_mm_xor_si128(a, b)));
}

/* As many bytes as make threes of parts; *crc is the register, not inverted. */
__attribute__((target("sse4.2,pclmul"))) static size_t
crc32c_three(uint64_t *crc, const uint8_t *data, size_t length_bytes)
{
    const uint8_t *p = data;

    for (size_t i = 0; i < sizeof strides / sizeof strides[0]; i++) {
        const struct stride *stride = &strides[i];
        size_t bytes = stride->bytes;

        for (; length_bytes >= 3 * bytes; length_bytes -= 3 * bytes, p += 3 * bytes) {
            uint64_t first = *crc, second = 0, third = 0;
            for (size_t at = 0; at < bytes; at += 8) {
                first = __builtin_ia32_crc32di(first, load_le64(p + at));
                second = __builtin_ia32_crc32di(second, load_le64(p + bytes + at));
                third = __builtin_ia32_crc32di(third, load_le64(p + 2 * bytes + at));
            }
            *crc = join(first, second, third, stride);
        }
    }
    return (size_t)(p - data);
}

__attribute__((target("sse4.2"))) static uint32_t crc32c_sse42(uint32_t crc, const void *data,
                                                               size_t length_bytes)
{
    const uint8_t *p = data;
    uint64_t wide = ~crc;

    if (length_bytes >= THREE_BYTES_MIN && __builtin_cpu_supports("pclmul")) {
        size_t taken = crc32c_three(&wide, p, length_bytes);
        p += taken;
        length_bytes -= taken;
    }
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
