/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_BITMAP_BITS_H
#define BITMAPD_DAEMON_BITMAP_BITS_H

#include <endian.h>
#include <stdbool.h>
#include <stdint.h>

/*
 * Bits in an array of 64-bit words, stored little endian, so that the array's
 * bytes are what the container holds: bit n is bit n % 8 of byte n / 8.
 * Ranges are [from, to) with from < to.
 */

static inline uint32_t bits_words(uint32_t bits)
{
    return (bits + 63) / 64;
}

static inline uint64_t bits_word(const uint64_t *words, uint32_t index)
{
    return le64toh(words[index]);
}

/* Bits from % 64 … 63 of the first word, and 0 … (to - 1) % 64 of the last, that a range has. */
static inline uint64_t bits_first_mask(uint32_t from)
{
    return UINT64_MAX << (from % 64);
}

static inline uint64_t bits_last_mask(uint32_t to)
{
    return UINT64_MAX >> (-to % 64);
}

/* Sets one bit; whether it was 0. */
static inline bool bits_add(uint64_t *words, uint32_t bit)
{
    uint64_t mask = htole64(UINT64_C(1) << (bit % 64));
    bool added = !(words[bit / 64] & mask);

    words[bit / 64] |= mask;
    return added;
}

/* Bits that are 1. */
uint32_t bits_count(const uint64_t *words, uint32_t from, uint32_t to);

/* The first bit in the range that has @value; @to when there is none. */
uint32_t bits_find(const uint64_t *words, uint32_t from, uint32_t to, bool value);

void bits_set(uint64_t *words, uint32_t from, uint32_t to);
void bits_clear(uint64_t *words, uint32_t from, uint32_t to);

/* dst = a | b over whole words (@dst may be @a); returns the bits that are 1. */
uint32_t bits_or(uint64_t *dst, const uint64_t *a, const uint64_t *b, uint32_t words);

/* Whether @b has a bit that @a lacks. */
bool bits_lacks(const uint64_t *a, const uint64_t *b, uint32_t words);

#endif
