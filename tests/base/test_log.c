/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Log lines as they leave.  Whether stderr is the journal is found once per
 * process, so every case logs in a child whose stderr is a datagram socket:
 * one write(2) is one datagram, which shows that a line is one write.
 */
#include "daemon/base/log.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum stream {
    STREAM_NONE,    /* no $JOURNAL_STREAM */
    STREAM_STDERR,  /* it names stderr */
    STREAM_OTHER,   /* it names another inode: stderr was redirected since */
    STREAM_GARBAGE, /* it is no "DEVICE:INODE" */
};

/* Runs @body with its stderr caught.  Returns the lines one after the other. */
static void caught(enum stream stream, void (*body)(void), char *lines, size_t size)
{
    int sockets[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sockets), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct stat st;
        char text[64] = "1:2x";
        if (dup2(sockets[1], STDERR_FILENO) < 0 || fstat(STDERR_FILENO, &st) < 0) {
            _exit(1);
        }
        if (stream == STREAM_STDERR || stream == STREAM_OTHER) {
            (void)snprintf(text, sizeof text, "%ju:%ju", (uintmax_t)st.st_dev,
                           (uintmax_t)st.st_ino + (stream == STREAM_OTHER));
        }
        (void)unsetenv("JOURNAL_STREAM");
        if (stream != STREAM_NONE) {
            (void)setenv("JOURNAL_STREAM", text, 1);
        }
        body();
        _exit(0);
    }
    assert_int_equal(close(sockets[1]), 0);

    size_t used = 0;
    ssize_t n;
    while ((n = recv(sockets[0], lines + used, size - used - 1, 0)) > 0) {
        /* Each is one whole line. */
        assert_int_equal(lines[used + (size_t)n - 1], '\n');
        assert_ptr_equal(memchr(lines + used, '\n', (size_t)n), lines + used + n - 1);
        used += (size_t)n;
    }
    assert_int_equal(n, 0);
    lines[used] = '\0';

    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(close(sockets[0]), 0);
}

static void log_all_levels(void)
{
    log_set_level(LOG_LEVEL_DEBUG);
    log_error("disk %s fails", "x");
    log_warning("w %d", 2);
    log_notice("n");
    log_info("i");
    log_debug("d");
}

static void test_readable(void **state)
{
    static const enum stream streams[] = {STREAM_NONE, STREAM_OTHER, STREAM_GARBAGE};
    char lines[4096];

    (void)state;
    for (size_t i = 0; i < sizeof streams / sizeof streams[0]; i++) {
        caught(streams[i], log_all_levels, lines, sizeof lines);
        assert_string_equal(lines, "bitmapd: error: disk x fails\n"
                                   "bitmapd: warning: w 2\n"
                                   "bitmapd: notice: n\n"
                                   "bitmapd: info: i\n"
                                   "bitmapd: debug: d\n");
    }
}

static void log_events(void)
{
    log_event(LOG_LEVEL_WARNING, LOG_UNKNOWN, "d", "b", "bitmap %s: %s", "d/b", "lost\n");
    log_event(LOG_LEVEL_DEBUG, LOG_PRUNED, "d", NULL, "dropped");
    errno = ENOSPC;
    log_event(LOG_LEVEL_ERROR, LOG_DEGRADED, NULL, NULL, "%m");
    if (errno != ENOSPC) {
        log_error("errno");
    }
}

/* Where there is no journal they are lines like others. */
static void test_events(void **state)
{
    char lines[4096];

    (void)state;
    caught(STREAM_NONE, log_events, lines, sizeof lines);
    assert_string_equal(lines, "bitmapd: warning: bitmap d/b: lost?\n"
                               "bitmapd: error: No space left on device\n");
}

static void test_journal(void **state)
{
    char lines[4096];

    (void)state;
    caught(STREAM_STDERR, log_all_levels, lines, sizeof lines);
    assert_string_equal(lines, "<3>disk x fails\n<4>w 2\n<5>n\n<6>i\n<7>d\n");
}

static void log_at_levels(void)
{
    log_debug("dropped at first");
    log_info("kept at first");
    log_set_level(LOG_LEVEL_ERROR);
    log_warning("dropped");
    log_error("kept");
    log_set_level(LOG_LEVEL_DEBUG);
    log_debug("kept too");
}

static void test_levels(void **state)
{
    char lines[4096];

    (void)state;
    caught(STREAM_STDERR, log_at_levels, lines, sizeof lines);
    assert_string_equal(lines, "<6>kept at first\n<3>kept\n<7>kept too\n");
}

static void log_hostile(void)
{
    char controls[0x21];

    for (int i = 0; i < 0x20; i++) {
        controls[i] = (char)(i ? i : 1);
    }
    controls[0x20] = '\0';
    log_info("%s", controls);
    log_info("drive \"%s\"", "x\n<3>bitmapd: forged\r\x1b[2J\x7f");
    log_info("%s", "\xc2\x80\xc2\x9b\xc2\x9f|\xc2\xa0\xc3\x84\xe2\x82\xac\xc2");
    log_info("%s", "");
    log_info("%s", "%s%n");
    log_info("newline\n");
}

static void test_hostile_text(void **state)
{
    char lines[4096];

    (void)state;
    caught(STREAM_STDERR, log_hostile, lines, sizeof lines);
    assert_string_equal(lines, "<6>????????????????????????????????\n"
                               "<6>drive \"x?<3>bitmapd: forged??[2J?\"\n"
                               "<6>??????|\xc2\xa0\xc3\x84\xe2\x82\xac\xc2\n"
                               "<6>\n"
                               "<6>%s%n\n"
                               "<6>newline?\n");
}

#define LONGEST 2048 /* bytes of a line, newline included */
#define AROUND  12

/* Around the longest line, with a character of three bytes before and across every cut. */
static void log_long(void)
{
    char padding[LONGEST];

    memset(padding, 'x', sizeof padding);
    for (int tail = 0; tail <= AROUND; tail += AROUND) {
        for (int length = LONGEST - 2 * AROUND; length < LONGEST; length++) {
            log_info("%.*s\xe2\x82\xac%.*s", length, padding, tail, padding);
        }
    }
}

static void check_long(const char *line, size_t before, size_t tail)
{
    size_t prefix = strlen("<6>");
    size_t length = strlen(line);
    size_t whole = prefix + before + 3 + tail;
    const char *character = strchr(line, '\xe2');

    assert_memory_equal(line, "<6>xxx", 6);
    if (whole < LONGEST) {
        assert_int_equal(length, whole);
        assert_ptr_equal(character, line + prefix + before);
    } else {
        /* Cut no earlier than a character's length before the end. */
        assert_in_range(length, LONGEST - 4, LONGEST - 1);
        assert_string_equal(line + length - 3, "...");
    }
    /* It is there whole or not at all. */
    if (character) {
        assert_memory_equal(character, "\xe2\x82\xac", 3);
    }
    assert_int_equal(strchr(line, '\x82') != NULL, character != NULL);
}

static void test_long_text(void **state)
{
    static char lines[6 * AROUND * LONGEST];
    char *line = lines;

    (void)state;
    caught(STREAM_STDERR, log_long, lines, sizeof lines);
    for (size_t tail = 0; tail <= AROUND; tail += AROUND) {
        for (size_t before = LONGEST - 2 * AROUND; before < LONGEST; before++) {
            char *end = strchr(line, '\n');
            assert_non_null(end);
            *end = '\0';
            check_long(line, before, tail);
            line = end + 1;
        }
    }
    assert_string_equal(line, "");
}

static void log_with_errno(void)
{
    errno = ENOSPC;
    log_error("write: %m");
    if (errno != ENOSPC) {
        _exit(3);
    }
    log_debug("dropped");
    if (errno != ENOSPC) {
        _exit(4);
    }
    /* Nobody there to read it: not our problem, and no signal either. */
    if (close(STDERR_FILENO) < 0) {
        _exit(5);
    }
    log_error("lost");
    if (errno != ENOSPC) {
        _exit(6);
    }
}

static void test_errno_kept(void **state)
{
    char lines[4096];

    (void)state;
    caught(STREAM_STDERR, log_with_errno, lines, sizeof lines);
    assert_string_equal(lines, "<3>write: No space left on device\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_readable),     cmocka_unit_test(test_journal),
        cmocka_unit_test(test_events),       cmocka_unit_test(test_levels),
        cmocka_unit_test(test_hostile_text), cmocka_unit_test(test_long_text),
        cmocka_unit_test(test_errno_kept),
    };
    return cmocka_run_group_tests_name("base: log", tests, NULL, NULL);
}
