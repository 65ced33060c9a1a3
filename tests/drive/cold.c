/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A history whose sealed bitmaps can be told apart in the container's bytes.
 */
#include "tests/drive/cold.h"

#define MIB (UINT64_C(1) << 20)

void cold_pattern(unsigned i, uint8_t pattern[COLD_PATTERN_BYTES])
{
    for (unsigned k = 0; k < COLD_PATTERN_BYTES; k++) {
        pattern[k] = (uint8_t)(0x11u * (i + 1) + (k << i));
    }
}

static void mark_pattern(struct harness *harness, unsigned i)
{
    uint8_t pattern[COLD_PATTERN_BYTES];

    cold_pattern(i, pattern);
    for (unsigned bit = 0; bit < COLD_PATTERN_BYTES * 8; bit++) {
        if (pattern[bit / 8] >> bit % 8 & 1u) {
            struct range range = {bit * 512, 1};
            uint64_t sequence;
            assert_int_equal(drive_mark(harness->model, harness_drive(harness, "d"), &range, 1,
                                        &sequence, &harness->error),
                             0);
        }
    }
}

const char *const cold_names[4] = {"c0", "c1", "c2", "c3"};

void cold_fill(struct harness *harness)
{
    for (unsigned i = 0; i < 4; i++) {
        past_create(harness, "d", cold_names[i]);
        mark_pattern(harness, i);
        harness_mark(harness, "d", MIB - 512 * (i + 1), 512);
    }
    past_flush(harness);
}

bool cold_is(struct harness *harness, const char *name)
{
    return past_find(harness, "d", name)->bits == NULL;
}
