/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* For targets whose inputs have no structure of their own: the fuzzer's mutations alone. */
#include "tests/fuzz/target.h"

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
    (void)seed;
    return LLVMFuzzerMutate(data, size, max_size);
}
