/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the service manager is told, with sd_notify(3):
 *
 *     start             STATUS= of the recovery, EXTEND_TIMEOUT_USEC=      from a thread
 *     READY=1           STATUS= of what is tracked, WATCHDOG=1             from the loop
 *     a reload          RELOADING=1, then READY=1 whatever came of it
 *     a stop            STATUS= of the last write-back, EXTEND_TIMEOUT_USEC=, WATCHDOG=1
 *                                                                          from a thread
 *     STOPPING=1        all is written back, and nothing is left but to exit
 *
 * A start and an end can take long, and the loop does not run in the one and waits for threads in
 * the other; so a thread speaks there.  It asks for more time only as long as there is progress: a
 * disk that hangs runs into the unit's time-out, so that a host can go down.  Nothing is lost then,
 * the next start replays the journal.
 *
 * The watchdog is for ourselves, not for disks.  It is pinged while the loop turns and the threads
 * take jobs; a thread that is in a job is alive, however long its disk takes (worker_is_alive()). A
 * restart would only hang at the same disk again, and meanwhile nobody would answer reads.
 */
#include "daemon/app/app.h"

#include "daemon/base/log.h"
#include "daemon/base/progress.h"
#include "daemon/base/thread.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-daemon.h>
#include <time.h>

#define THREAD_PERIOD_S UINT64_C(2)
#define STATUS_MS       UINT64_C(5000)
#define EXTEND_US       UINT64_C(120000000) /* far more than the period: a slow sync is no progress */
#define STATUS_BYTES    320

/* ---- While the loop does not run ---- */

static void tell_progress(struct notifier *notifier)
{
    char words[STATUS_BYTES];
    uint64_t moves = progress_moves();

    progress_words(words, sizeof words);
    (void)sd_notifyf(0, "STATUS=%s%s", words, notifier->ending ? "\nWATCHDOG=1" : "");
    if (moves != notifier->moves) {
        (void)sd_notifyf(0, "EXTEND_TIMEOUT_USEC=%" PRIu64, EXTEND_US);
    }
    notifier->moves = moves;
}

static void *notifier_main(void *opaque)
{
    struct notifier *notifier = opaque;

    pthread_mutex_lock(&notifier->lock);
    while (!notifier->stop) {
        struct timespec until;
        (void)clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += (time_t)notifier->period_s;
        /* What is over at once needs no words. */
        if (pthread_cond_timedwait(&notifier->wake, &notifier->lock, &until) == ETIMEDOUT) {
            tell_progress(notifier);
        }
    }
    pthread_mutex_unlock(&notifier->lock);
    return NULL;
}

void notify_work_begins(struct app *app, const char *words, bool ending)
{
    struct notifier *notifier = &app->notifier;
    uint64_t watchdog_us = 0;

    progress_begin(words, 0);
    if (!getenv("NOTIFY_SOCKET") || notifier->running) {
        return;
    }
    *notifier = (struct notifier){.ending = ending, .period_s = THREAD_PERIOD_S};
    if (sd_watchdog_enabled(0, &watchdog_us) > 0 &&
        watchdog_us < 2 * THREAD_PERIOD_S * UINT64_C(1000000)) {
        notifier->period_s = 1;
    }
    if (ending) {
        (void)sd_notifyf(0, "STATUS=%s\nWATCHDOG=1", words);
    }
    (void)pthread_mutex_init(&notifier->lock, NULL);
    (void)pthread_cond_init(&notifier->wake, NULL);
    notifier->running = thread_start(&notifier->thread, "notifier", notifier_main, notifier) == 0;
    if (!notifier->running) {
        /* It can be done without: the unit's time-outs are long. */
        log_warning("cannot tell the service manager how far it is: no thread");
    }
}

void notify_work_ends(struct app *app)
{
    struct notifier *notifier = &app->notifier;

    if (!notifier->running) {
        return;
    }
    pthread_mutex_lock(&notifier->lock);
    notifier->stop = true;
    pthread_cond_signal(&notifier->wake);
    pthread_mutex_unlock(&notifier->lock);
    (void)pthread_join(notifier->thread, NULL);
    pthread_cond_destroy(&notifier->wake);
    pthread_mutex_destroy(&notifier->lock);
    notifier->running = false;
}

/* ---- While it runs ---- */

static void describe(struct app *app, char *words, size_t words_bytes)
{
    struct model_status status;

    model_get_status(app->model, &status);
    if (status.degraded_reason[0]) {
        (void)snprintf(words, words_bytes, "Degraded: %s", status.degraded_reason);
    } else {
        (void)snprintf(words, words_bytes, "Tracking: %u drives, %u bitmaps, %u of them unknown",
                       status.drives, status.bitmaps, status.unknown_bitmaps);
    }
}

static void beat(uv_timer_t *timer)
{
    struct app *app = timer->data;
    char words[STATUS_BYTES];

    if (model_is_alive(app->model)) {
        (void)sd_notify(0, "WATCHDOG=1");
    } else if (!app->dead) {
        app->dead = true;
        log_error("a thread does not take jobs any more; the watchdog gets no more pings");
    }
    describe(app, words, sizeof words);
    if (strcmp(words, app->status) != 0) {
        (void)snprintf(app->status, sizeof app->status, "%s", words);
        (void)sd_notifyf(0, "STATUS=%s", words);
    }
}

void notify_ready(struct app *app)
{
    uint64_t watchdog_us = 0, period_ms = STATUS_MS;

    if (!getenv("NOTIFY_SOCKET")) {
        return;
    }
    describe(app, app->status, sizeof app->status);
    (void)sd_notifyf(0, "READY=1\nSTATUS=%s", app->status);
    if (sd_watchdog_enabled(0, &watchdog_us) > 0 && watchdog_us / 2000 < period_ms) {
        period_ms = watchdog_us / 2000 > 0 ? watchdog_us / 2000 : 1;
    }
    (void)uv_timer_init(&app->loop, &app->beat);
    app->beat.data = app;
    (void)uv_timer_start(&app->beat, beat, period_ms, period_ms);
}

void notify_stops(struct app *app)
{
    if (app->beat.loop) {
        uv_close((uv_handle_t *)&app->beat, NULL);
        app->beat.loop = NULL;
    }
    notify_work_begins(app, "Ending connections", true);
}

void notify_reload_begins(struct app *app)
{
    struct timespec now;

    if (app->reloads++ == 0) {
        (void)clock_gettime(CLOCK_MONOTONIC, &now);
        (void)sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64,
                         (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000);
    }
}

void notify_reload_ends(struct app *app)
{
    if (--app->reloads == 0 && !app->stopping) {
        (void)sd_notify(0, "READY=1");
    }
}
