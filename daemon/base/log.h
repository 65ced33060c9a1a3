/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_BASE_LOG_H
#define BITMAPD_DAEMON_BASE_LOG_H

/*
 * The daemon's log: one line a call, to stderr, with sd-daemon(3)'s "<N>"
 * priority prefix when stderr is the journal's stream, and a readable one
 * otherwise.  Only daemon/drive, daemon/server and daemon/app log; the layers below return
 * errors.  Thread-safe.
 */
enum log_level {
    LOG_LEVEL_ERROR,
    LOG_LEVEL_WARNING,
    LOG_LEVEL_NOTICE,
    LOG_LEVEL_INFO,
    LOG_LEVEL_DEBUG,
};

/* Lines above this level are dropped; INFO at first. */
void log_set_level(enum log_level level);

void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/*
 * What monitoring may wait for.  Under the journal such a line is an entry with a MESSAGE_ID= of
 * its own that never changes (bitmapd(8) lists them), and BITMAPD_EVENT=, BITMAPD_DRIVE=,
 * BITMAPD_BITMAP=.
 */
enum log_event {
    LOG_UNKNOWN,   /* a bitmap, or all that record of a drive, may have missed a write */
    LOG_DEGRADED,  /* the container or the journal cannot be written */
    LOG_RECOVERED, /* … or can again */
    LOG_PRUNED,    /* retention has deleted a checkpoint */
    LOG_DENIED,    /* somebody was refused for want of a right */
    LOG_FENCED,    /* an operator has given up a writer */
    LOG_EVENTS,
};

/* @drive, @bitmap: NULL for none. */
void log_event(enum log_level level, enum log_event event, const char *drive, const char *bitmap,
               const char *format, ...) __attribute__((format(printf, 5, 6)));

#define log_error(...)   log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_notice(...)  log_write(LOG_LEVEL_NOTICE, __VA_ARGS__)
#define log_info(...)    log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)   log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
