/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_PROTO_BASE_CLEANUP_H
#define BITMAPD_PROTO_BASE_CLEANUP_H

/*
 * Scope-exit cleanup with the compiler's cleanup attribute, as systemd and
 * libguestfs use it.  Declare with an initialiser, always:
 *
 *     CLEANUP_FREE char *name = NULL;
 *     CLEANUP_CLOSE int fd = -1;
 *     CLEANUP(thing_freep) struct thing *t = NULL;
 *
 * and hand ownership over with `*ret_t = STEAL(t)`.
 */

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define CLEANUP(function) __attribute__((cleanup(function)))
#define CLEANUP_FREE      CLEANUP(cleanup_free)
#define CLEANUP_CLOSE     CLEANUP(cleanup_close)

/* The value of a pointer variable, which is NULL afterwards. */
#define STEAL(pointer)                           \
    __extension__({                              \
        __typeof__(pointer) stolen_ = (pointer); \
        (pointer) = NULL;                        \
        stolen_;                                 \
    })

/* Defines thing_freep() for CLEANUP() from thing_free(struct thing *). */
#define DEFINE_CLEANUP(type, function)            \
    static inline void function##p(type *pointer) \
    {                                             \
        function(*pointer);                       \
    }

static inline void cleanup_free(void *pointer)
{
    free(*(void **)pointer);
}

/* Keeps errno, so that it may run between a failure and its report. */
static inline void cleanup_close(int *fd)
{
    if (*fd >= 0) {
        int saved = errno;
        (void)close(*fd);
        errno = saved;
    }
}

/* The descriptor in a variable, which is -1 afterwards. */
static inline int steal_fd(int *fd)
{
    int stolen = *fd;
    *fd = -1;
    return stolen;
}

#endif
