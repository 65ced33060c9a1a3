/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Threads as all of the daemon's are made, workers and those of a start.
 */
#include "daemon/base/thread.h"

#include <signal.h>

int thread_start(pthread_t *ret_thread, const char *name, void *(*run)(void *opaque), void *opaque)
{
    sigset_t all, before;
    pthread_t thread;

    /* A thread starts with its maker's mask. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = pthread_create(&thread, NULL, run, opaque);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r != 0) {
        return -r;
    }
    (void)pthread_setname_np(thread, name); /* it may have ended already */
    *ret_thread = thread;
    return 0;
}
