/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Loops over words of bits.  All work a word at a time with the two ends
 * masked.  Counting has a second body compiled for the popcnt instruction,
 * which the baseline of x86-64 lacks: without it a count is a table walk per
 * word, and counts are what the merge of large bitmaps spends its time on.  A
 * third one takes eight words at a time, as fast as memory gives them.
 */
#include "daemon/bitmap/bits.h"

#include <stddef.h>

#if defined(__x86_64__)
#define HAVE_POPCNT_VARIANT 1
#define TARGET_POPCNT       __attribute__((target("popcnt")))
#define TARGET_WIDE         __attribute__((target("avx512f,avx512vpopcntdq,popcnt")))
#include <immintrin.h>
#else
#define HAVE_POPCNT_VARIANT 0
#endif
#define ALWAYS_INLINE static inline __attribute__((always_inline))

ALWAYS_INLINE uint32_t word_count(uint64_t word)
{
    return (uint32_t)__builtin_popcountll(word);
}

ALWAYS_INLINE uint32_t count_body(const uint64_t *words, uint32_t from, uint32_t to)
{
    uint32_t first = from / 64;
    uint32_t last = (to - 1) / 64;

    /* Byte order does not matter to the words that count whole. */
    if (first == last) {
        return word_count(bits_word(words, first) & bits_first_mask(from) & bits_last_mask(to));
    }
    uint32_t count = word_count(bits_word(words, first) & bits_first_mask(from));
    for (uint32_t i = first + 1; i < last; i++) {
        count += word_count(words[i]);
    }
    return count + word_count(bits_word(words, last) & bits_last_mask(to));
}

ALWAYS_INLINE uint32_t or_body(uint64_t *dst, const uint64_t *a, const uint64_t *b, uint32_t words)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < words; i++) {
        uint64_t word = a[i] | b[i];
        dst[i] = word;
        count += word_count(word);
    }
    return count;
}

#if HAVE_POPCNT_VARIANT

TARGET_POPCNT static uint32_t count_popcnt(const uint64_t *words, uint32_t from, uint32_t to)
{
    return count_body(words, from, to);
}

TARGET_POPCNT static uint32_t or_popcnt(uint64_t *dst, const uint64_t *a, const uint64_t *b,
                                        uint32_t words)
{
    return or_body(dst, a, b, words);
}

#define WIDE_WORDS 8u

static bool have_wide(void)
{
    return __builtin_cpu_supports("avx512vpopcntdq");
}

TARGET_WIDE static uint32_t count_wide(const uint64_t *words, uint32_t n)
{
    __m512i counts = _mm512_setzero_si512();
    uint32_t i = 0;

    for (; i + WIDE_WORDS <= n; i += WIDE_WORDS) {
        counts = _mm512_add_epi64(counts, _mm512_popcnt_epi64(_mm512_loadu_si512(words + i)));
    }
    uint32_t count = (uint32_t)_mm512_reduce_add_epi64(counts);
    for (; i < n; i++) {
        count += word_count(words[i]);
    }
    return count;
}

TARGET_WIDE static uint32_t or_wide(uint64_t *dst, const uint64_t *a, const uint64_t *b, uint32_t n)
{
    __m512i counts = _mm512_setzero_si512();
    uint32_t i = 0;

    for (; i + WIDE_WORDS <= n; i += WIDE_WORDS) {
        __m512i words = _mm512_or_si512(_mm512_loadu_si512(a + i), _mm512_loadu_si512(b + i));
        _mm512_storeu_si512(dst + i, words);
        counts = _mm512_add_epi64(counts, _mm512_popcnt_epi64(words));
    }
    return (uint32_t)_mm512_reduce_add_epi64(counts) + or_body(dst + i, a + i, b + i, n - i);
}

#endif

uint32_t bits_count(const uint64_t *words, uint32_t from, uint32_t to)
{
#if HAVE_POPCNT_VARIANT
    if (from == 0 && to % 64 == 0 && to >= 64 * WIDE_WORDS && have_wide()) {
        return count_wide(words, to / 64);
    }
    if (__builtin_cpu_supports("popcnt")) {
        return count_popcnt(words, from, to);
    }
#endif
    return count_body(words, from, to);
}

uint32_t bits_or(uint64_t *dst, const uint64_t *a, const uint64_t *b, uint32_t words)
{
#if HAVE_POPCNT_VARIANT
    if (words >= WIDE_WORDS && have_wide()) {
        return or_wide(dst, a, b, words);
    }
    if (__builtin_cpu_supports("popcnt")) {
        return or_popcnt(dst, a, b, words);
    }
#endif
    return or_body(dst, a, b, words);
}

bool bits_lacks(const uint64_t *a, const uint64_t *b, uint32_t words)
{
    for (uint32_t i = 0; i < words; i++) {
        if (b[i] & ~a[i]) {
            return true;
        }
    }
    return false;
}

uint32_t bits_find(const uint64_t *words, uint32_t from, uint32_t to, bool value)
{
    uint64_t flip = value ? 0 : UINT64_MAX;
    uint32_t last = (to - 1) / 64;
    uint32_t i = from / 64;
    uint64_t word = (bits_word(words, i) ^ flip) & bits_first_mask(from);

    while (word == 0) {
        if (i == last) {
            return to;
        }
        i++;
        word = bits_word(words, i) ^ flip;
    }
    uint32_t found = i * 64 + (uint32_t)__builtin_ctzll(word);
    return found < to ? found : to;
}

void bits_set(uint64_t *words, uint32_t from, uint32_t to)
{
    uint32_t first = from / 64;
    uint32_t last = (to - 1) / 64;

    if (first == last) {
        words[first] |= htole64(bits_first_mask(from) & bits_last_mask(to));
        return;
    }
    words[first] |= htole64(bits_first_mask(from));
    for (uint32_t i = first + 1; i < last; i++) {
        words[i] = UINT64_MAX;
    }
    words[last] |= htole64(bits_last_mask(to));
}

void bits_clear(uint64_t *words, uint32_t from, uint32_t to)
{
    uint32_t first = from / 64;
    uint32_t last = (to - 1) / 64;

    if (first == last) {
        words[first] &= ~htole64(bits_first_mask(from) & bits_last_mask(to));
        return;
    }
    words[first] &= ~htole64(bits_first_mask(from));
    for (uint32_t i = first + 1; i < last; i++) {
        words[i] = 0;
    }
    words[last] &= ~htole64(bits_last_mask(to));
}
