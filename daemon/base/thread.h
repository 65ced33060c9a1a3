/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_BASE_THREAD_H
#define BITMAPD_DAEMON_BASE_THREAD_H

#include <pthread.h>

/*
 * Starts a thread with all signals blocked: the loop's thread alone handles them.  @name: at most
 * 15 bytes, for debuggers.  0 or -errno; the caller joins it.
 */
int thread_start(pthread_t *ret_thread, const char *name, void *(*run)(void *opaque), void *opaque);

#endif
