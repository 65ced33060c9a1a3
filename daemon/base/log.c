/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Log lines.  Texts quote names and paths that came from clients and disks, so
 * a line must not be able to end early, begin another, or steer a terminal:
 * every control character of the formatted text becomes '?'.
 *
 * A line is built on the stack and leaves in one write(2): lines of several
 * threads do not mix, nothing is allocated, and a message that is too long is
 * cut and says so.  A log that cannot be written is no reason to fail.
 */
#include "daemon/base/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LINE_BYTES_MAX 2048 /* with prefix and newline: journald's own LineMax is far above */

static const struct {
    const char *journal; /* sd-daemon(3) */
    const char *readable;
} prefixes[] = {
    [LOG_LEVEL_ERROR] = {"<3>", "bitmapd: error: "},
    [LOG_LEVEL_WARNING] = {"<4>", "bitmapd: warning: "},
    [LOG_LEVEL_NOTICE] = {"<5>", "bitmapd: notice: "},
    [LOG_LEVEL_INFO] = {"<6>", "bitmapd: info: "},
    [LOG_LEVEL_DEBUG] = {"<7>", "bitmapd: debug: "},
};

static atomic_int level_max = LOG_LEVEL_INFO;
static bool to_journal;
static pthread_once_t to_journal_once = PTHREAD_ONCE_INIT;

/*
 * $JOURNAL_STREAM ("DEVICE:INODE") is inherited by every child of a service,
 * so it tells something only as long as stderr still is that very stream.
 */
static void to_journal_find(void)
{
    const char *text = getenv("JOURNAL_STREAM");
    struct stat st;
    char found[64];

    if (text && fstat(STDERR_FILENO, &st) == 0) {
        (void)snprintf(found, sizeof found, "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
        to_journal = strcmp(text, found) == 0;
    }
}

/* C0 controls and DEL, and the C1 controls, which are two bytes in UTF-8. */
static void controls_replace(char *text, size_t length_bytes)
{
    unsigned char before = 0;

    for (size_t i = 0; i < length_bytes; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c < 0x20 || c == 0x7f) {
            text[i] = '?';
        } else if (before == 0xc2 && c >= 0x80 && c <= 0x9f) {
            text[i - 1] = '?';
            text[i] = '?';
        }
        before = c;
    }
}

/* Where a text of @length_bytes may be cut without splitting a UTF-8 sequence. */
static size_t cut_point(const char *text, size_t length_bytes)
{
    while (length_bytes > 0 && ((unsigned char)text[length_bytes] & 0xc0) == 0x80) {
        length_bytes--;
    }
    return length_bytes;
}

void log_set_level(enum log_level level)
{
    atomic_store_explicit(&level_max, (int)level, memory_order_relaxed);
}

void log_write(enum log_level level, const char *format, ...)
{
    static const char ellipsis[] = "...";
    int saved_errno = errno;
    char line[LINE_BYTES_MAX];

    if ((int)level > atomic_load_explicit(&level_max, memory_order_relaxed)) {
        return;
    }
    (void)pthread_once(&to_journal_once, to_journal_find);

    const char *prefix = to_journal ? prefixes[level].journal : prefixes[level].readable;
    size_t prefix_bytes = strlen(prefix);
    memcpy(line, prefix, prefix_bytes);

    char *text = line + prefix_bytes;
    size_t room = sizeof line - prefix_bytes; /* for text, its NUL or the newline in its place */
    va_list args;
    va_start(args, format);
    errno = saved_errno; /* for %m */
    int n = vsnprintf(text, room, format, args);
    va_end(args);
    if (n < 0) {
        /* An encoding error; the bare format still tells where it happened. */
        n = snprintf(text, room, "%s", format);
    }

    size_t length = (size_t)n;
    if (length >= room) {
        length = cut_point(text, room - sizeof ellipsis);
        memcpy(text + length, ellipsis, sizeof ellipsis - 1);
        length += sizeof ellipsis - 1;
    }
    controls_replace(text, length);
    text[length] = '\n';

    ssize_t written;
    do {
        written = write(STDERR_FILENO, line, prefix_bytes + length + 1);
    } while (written < 0 && errno == EINTR);
    errno = saved_errno;
}
