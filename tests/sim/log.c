/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Thousands of starts have too much to say, but for whoever looks at one. */
#include "daemon/base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void log_set_level(enum log_level level)
{
    (void)level;
}

static void print(enum log_level level, const char *format, va_list args)
{
    static int verbose = -1;

    if (verbose < 0) {
        verbose = getenv("BITMAPD_TEST_VERBOSE") != NULL;
    }
    if (verbose) {
        (void)fprintf(stderr, "<%d> ", (int)level);
        (void)vfprintf(stderr, format, args);
        (void)fputc('\n', stderr);
    }
}

void log_write(enum log_level level, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    print(level, format, args);
    va_end(args);
}

void log_event(enum log_level level, enum log_event event, const char *drive, const char *bitmap,
               const char *format, ...)
{
    va_list args;

    (void)event;
    (void)drive;
    (void)bitmap;
    va_start(args, format);
    print(level, format, args);
    va_end(args);
}
