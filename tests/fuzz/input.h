/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_TESTS_FUZZ_INPUT_H
#define BITMAPD_TESTS_FUZZ_INPUT_H

#include "tests/fuzz/memory.h"

#include <stddef.h>

/*
 * What a fuzzer's input means: a file's sectors that are not zero, so that a
 * container of 2 MiB clusters is as small as one of 512-byte clusters, and a
 * script of what to do with it.  Little endian:
 *
 *     0  u32  size of the file in bytes, <= INPUT_FILE_MAX
 *     4  u16  length of the script, <= INPUT_SCRIPT_MAX
 *     6  u16  sectors
 *     8       script
 *             u16 each: number of the sector
 *             512 bytes each: the sector
 *
 * Every input means something: what is missing is zero, what is out of bounds
 * is brought inside.
 */
#define INPUT_FILE_MAX   (UINT32_C(32) << 20)
#define INPUT_SCRIPT_MAX 128u
#define INPUT_BYTES_MAX  (UINT32_C(96) << 10) /* the fuzzer's -max_len */

struct input {
    struct memory memory;
    uint8_t script[INPUT_SCRIPT_MAX];
    uint32_t script_bytes;
};

/* The file is open afterwards; memory_release() it. */
void input_decode(const uint8_t *data, size_t bytes, struct input *ret);

/* Bytes written to @data; 0 when they would be more than @room. */
size_t input_encode(const struct input *input, uint8_t *data, size_t room);

#endif
