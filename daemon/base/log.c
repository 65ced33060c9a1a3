/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Log lines.  Texts quote names and paths that came from clients and disks, so
 * a line must not be able to end early, begin another, or steer a terminal:
 * every control character of the formatted text becomes '?'.
 *
 * A line is built on the stack and leaves in one write(2): lines of several
 * threads do not mix, nothing is allocated, and a message that is too long is
 * cut and says so.  A log that cannot be written is no reason to fail.
 *
 * What is notable goes to the journal as an entry with fields (log_event()); where stderr is
 * anything else, or the journal does not take it, it is a line like the others.
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
#include <sys/uio.h>
#include <systemd/sd-journal.h>
#include <unistd.h>

#define FIELD_BYTES_MAX 512  /* a name has at most 255 bytes */
#define LINE_BYTES_MAX  2048 /* with prefix and newline: journald's own LineMax is far above */

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

/* Kept for ever: people write rules with them. */
static const struct {
    const char *name;
    const char *id;
} events[LOG_EVENTS] = {
    [LOG_UNKNOWN] = {"unknown", "241533cf915e46bfaaa214fa87471b7f"},
    [LOG_DEGRADED] = {"degraded", "739dcdc3ff3a447f8838ba962037ba8e"},
    [LOG_RECOVERED] = {"recovered", "3b9f2d2876724e69be2ee8c6cd2ba4ce"},
    [LOG_PRUNED] = {"pruned", "a888160b89154ef6834c3e8ec37d09b3"},
    [LOG_DENIED] = {"denied", "5c94d53e918e4b3a8b070d166798fb01"},
    [LOG_FENCED] = {"fenced", "808035c0dd22405e9884fe6c3f28921e"},
};

static const char ellipsis[] = "...";
static atomic_int level_max = LOG_LEVEL_INFO;
static bool to_journal, takes_entries;
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
        /* sd_journal_sendv(3) calls it a success when there is none. */
        takes_entries = to_journal && access("/run/systemd/journal/socket", W_OK) == 0;
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

/* Into @text of @room bytes, ended by a NUL; the length. */
static size_t format_text(char *text, size_t room, const char *format, va_list args)
{
    int n = vsnprintf(text, room, format, args);
    if (n < 0) {
        /* An encoding error; the bare format still tells where it happened. */
        n = snprintf(text, room, "%s", format);
    }
    size_t length = (size_t)n;
    if (length >= room) {
        length = cut_point(text, room - sizeof ellipsis);
        memcpy(text + length, ellipsis, sizeof ellipsis);
        length += sizeof ellipsis - 1;
    }
    controls_replace(text, length);
    return length;
}

static void write_line(enum log_level level, const char *format, va_list args)
{
    char line[LINE_BYTES_MAX];
    const char *prefix = to_journal ? prefixes[level].journal : prefixes[level].readable;
    size_t prefix_bytes = strlen(prefix);

    memcpy(line, prefix, prefix_bytes);
    size_t length =
        prefix_bytes + format_text(line + prefix_bytes, sizeof line - prefix_bytes, format, args);
    line[length] = '\n'; /* in the NUL's place */

    ssize_t written;
    do {
        written = write(STDERR_FILENO, line, length + 1);
    } while (written < 0 && errno == EINTR);
}

/* Whether a line of that level is wanted. */
static bool passes(enum log_level level)
{
    (void)pthread_once(&to_journal_once, to_journal_find);
    return (int)level <= atomic_load_explicit(&level_max, memory_order_relaxed);
}

void log_write(enum log_level level, const char *format, ...)
{
    int saved_errno = errno;
    va_list args;

    if (passes(level)) {
        va_start(args, format);
        errno = saved_errno; /* for %m */
        write_line(level, format, args);
        va_end(args);
    }
    errno = saved_errno;
}

/* "NAME=VALUE"; false when there is no value. */
static bool field(struct iovec *ret, char *buffer, const char *name, const char *value)
{
    if (!value) {
        return false;
    }
    int n = snprintf(buffer, FIELD_BYTES_MAX, "%s=%s", name, value);
    size_t length = n < FIELD_BYTES_MAX ? (size_t)n : FIELD_BYTES_MAX - 1;
    *ret = (struct iovec){buffer, length};
    return true;
}

/* false: the journal did not take it. */
static bool send_entry(enum log_level level, enum log_event event, const char *drive,
                       const char *bitmap, const char *format, va_list args)
{
    static const char message[] = "MESSAGE=", priorities[] = "34567";
    char line[LINE_BYTES_MAX], fields[5][FIELD_BYTES_MAX];
    const char priority[2] = {priorities[level], '\0'};
    struct iovec entry[6];
    int count = 1;

    memcpy(line, message, sizeof message);
    size_t used = sizeof message - 1;
    used += format_text(line + used, sizeof line - used, format, args);
    entry[0] = (struct iovec){line, used};
    count += field(&entry[count], fields[0], "PRIORITY", priority);
    count += field(&entry[count], fields[1], "MESSAGE_ID", events[event].id);
    count += field(&entry[count], fields[2], "BITMAPD_EVENT", events[event].name);
    count += field(&entry[count], fields[3], "BITMAPD_DRIVE", drive);
    count += field(&entry[count], fields[4], "BITMAPD_BITMAP", bitmap);
    return sd_journal_sendv(entry, count) == 0;
}

void log_event(enum log_level level, enum log_event event, const char *drive, const char *bitmap,
               const char *format, ...)
{
    int saved_errno = errno;
    bool sent = false;
    va_list args;

    if (!passes(level)) {
        return;
    }
    if (takes_entries) {
        va_start(args, format);
        sent = send_entry(level, event, drive, bitmap, format, args);
        va_end(args);
    }
    if (!sent) {
        va_start(args, format);
        errno = saved_errno; /* for %m */
        write_line(level, format, args);
        va_end(args);
    }
    errno = saved_errno;
}
