/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Failures in words.  Everything is cut to the buffer rather than allocated:
 * an error must be reportable when memory is what ran out.
 */
#include "proto/base/error.h"

#include <stdio.h>
#include <string.h>

int error_set(struct error *error, int r, const char *format, ...)
{
    if (error) {
        va_list args;
        va_start(args, format);
        (void)vsnprintf(error->text, sizeof error->text, format, args);
        va_end(args);
    }
    return r;
}

int error_prefix(struct error *error, int r, const char *format, ...)
{
    if (error) {
        struct error old = *error;
        va_list args;
        va_start(args, format);
        int n = vsnprintf(error->text, sizeof error->text, format, args);
        va_end(args);
        if (n >= 0 && (size_t)n < sizeof error->text) {
            (void)snprintf(error->text + n, sizeof error->text - (size_t)n, ": %s", old.text);
        }
    }
    return r;
}

int error_set_errno(struct error *error, int r, const char *format, ...)
{
    if (error) {
        va_list args;
        va_start(args, format);
        int n = vsnprintf(error->text, sizeof error->text, format, args);
        va_end(args);
        if (n >= 0 && (size_t)n < sizeof error->text) {
            char buffer[128];
            (void)snprintf(error->text + n, sizeof error->text - (size_t)n, ": %s",
                           strerror_r(-r, buffer, sizeof buffer));
        }
    }
    return r;
}
