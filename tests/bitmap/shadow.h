/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_TESTS_BITMAP_SHADOW_H
#define BITMAPD_TESTS_BITMAP_SHADOW_H

#include "daemon/bitmap/bitmap.h"

#include <stdbool.h>
#include <stdint.h>

/*
 * What a bitmap should be, in the most naive form: a bool per granule and a
 * version per chunk, every operation a loop over granules in bytes of the
 * drive.  It shares no arithmetic with the code under test.
 */
struct shadow {
    uint64_t size_bytes;
    uint64_t granularity;
    uint64_t chunk_granules;
    uint64_t granules;
    uint64_t chunks;
    bool *dirty;
    uint64_t *versions;
};

struct shadow *shadow_new(uint64_t size_bytes, uint64_t granularity, uint64_t chunk_bytes);
struct shadow *shadow_copy(const struct shadow *shadow);
void shadow_free(struct shadow *shadow); /* takes NULL */

void shadow_set(struct shadow *shadow, uint64_t offset, uint64_t length, uint64_t version);
void shadow_clear(struct shadow *shadow, uint64_t offset, uint64_t length, uint64_t version);
void shadow_merge(struct shadow *target, const struct shadow *source, uint64_t version);
struct shadow *shadow_resized(const struct shadow *shadow, uint64_t size_bytes, uint64_t version);
/* @dirty: of the chunk's granules. */
void shadow_load_chunk(struct shadow *shadow, uint64_t chunk, const bool *dirty, uint64_t version);

bool shadow_test_all(const struct shadow *shadow, uint64_t offset, uint64_t length);
bool shadow_test_all_since(const struct shadow *shadow, uint64_t offset, uint64_t length,
                           uint64_t version);
uint64_t shadow_count_range(const struct shadow *shadow, uint64_t offset, uint64_t length);

/* Fails the test unless everything that can be asked of @bitmap agrees with @shadow. */
void shadow_check(const struct shadow *shadow, const struct bitmap *bitmap);

/* Random numbers; the seed is $BITMAPD_TEST_SEED or the time, and printed. */
void random_init(void);
uint64_t random_u64(void);
uint64_t random_below(uint64_t limit); /* 0 … limit - 1 */

/* Whether the range is dirty in versions up to @version. */
static inline bool test_all_since(const struct bitmap *bitmap, uint64_t offset, uint64_t length,
                                  uint64_t version)
{
    uint64_t found = 0;
    return bitmap_test_all_version(bitmap, offset, length, &found) && found <= version;
}

#endif
