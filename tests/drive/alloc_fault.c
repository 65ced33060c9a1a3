/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The wrappers behind alloc_fault.h.
 */
#include "tests/drive/alloc_fault.h"

#include <stdatomic.h>
#include <stddef.h>

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
void *__real_reallocarray(void *old, size_t count, size_t bytes);
char *__real_strdup(const char *text);
char *__real_strndup(const char *text, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *old, size_t bytes);
void *__wrap_reallocarray(void *old, size_t count, size_t bytes);
char *__wrap_strdup(const char *text);
char *__wrap_strndup(const char *text, size_t bytes);

int __wrap_fdatasync(int fd);
int __wrap_fsync(int fd);

static atomic_uint countdown; /* 0: nothing fails */
static atomic_bool lasting;   /* all that follow fail too */
static atomic_bool hit;
static atomic_bool paused;

static bool fails(void)
{
    unsigned left = atomic_load(&paused) ? 0 : atomic_load(&countdown);
    while (left > 0) {
        unsigned next = left > 1 ? left - 1 : atomic_load(&lasting);
        if (atomic_compare_exchange_weak(&countdown, &left, next)) {
            if (left == 1) {
                atomic_store(&hit, true);
            }
            return left == 1;
        }
    }
    return false;
}

void alloc_arm(unsigned n, bool all)
{
    atomic_store(&hit, false);
    atomic_store(&lasting, all);
    atomic_store(&countdown, n);
}

void alloc_pause(bool pause)
{
    atomic_store(&paused, pause);
}

bool alloc_was_hit(void)
{
    if (!atomic_load(&hit)) {
        return false;
    }
    atomic_store(&countdown, 0);
    return true;
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

void *__wrap_reallocarray(void *old, size_t count, size_t bytes)
{
    return fails() ? NULL : __real_reallocarray(old, count, bytes);
}

char *__wrap_strdup(const char *text)
{
    return fails() ? NULL : __real_strdup(text);
}

char *__wrap_strndup(const char *text, size_t bytes)
{
    return fails() ? NULL : __real_strndup(text, bytes);
}

int __wrap_fdatasync(int fd)
{
    (void)fd;
    return 0;
}

int __wrap_fsync(int fd)
{
    (void)fd;
    return 0;
}
