/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The wrappers behind alloc_fault.h.
 */
#include "tests/bitmap/alloc_fault.h"

#include <stdbool.h>
#include <stddef.h>

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *old, size_t bytes);

static uint64_t fail_from;
static uint64_t since_armed;
static uint64_t counted;

void alloc_fail_from(uint64_t n)
{
    fail_from = n;
    since_armed = 0;
}

uint64_t alloc_count(void)
{
    uint64_t count = counted;
    counted = 0;
    return count;
}

static bool fails(void)
{
    counted++;
    since_armed++;
    return fail_from != 0 && since_armed >= fail_from;
}

void *__wrap_malloc(size_t bytes)
{
    return fails() ? NULL : __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes)
{
    return fails() ? NULL : __real_calloc(count, bytes);
}

void *__wrap_realloc(void *old, size_t bytes)
{
    return fails() ? NULL : __real_realloc(old, bytes);
}
