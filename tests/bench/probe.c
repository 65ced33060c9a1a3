/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What benchmarks do with a daemon that is too quick, or too much, for Python:
 * each verb does one thing through libbitmapd, as a client program would, and
 * prints one line of JSON.  Connecting is not in any of the times.
 */
#include "tests/bench/probe.h"

#include "client/lib/bitmapd.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define RANGES_PER_MARK 8192u
#define MARKS_PENDING   4u

static bitmapd *handle; /* of the verbs that need a daemon */

void fail(const char *format, ...)
{
    int error = errno;
    va_list args;
    va_start(args, format);
    (void)vfprintf(stderr, format, args);
    va_end(args);
    (void)fprintf(stderr, ": %s\n", handle ? bitmapd_error(handle) : strerror(error));
    exit(1);
}

uint64_t number(const char *text)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 0);
    if (errno != 0 || *end != '\0' || end == text) {
        fail("'%s' is no number", text);
    }
    return value;
}

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

double median_ms(uint64_t *ns, uint64_t count)
{
    qsort(ns, count, sizeof *ns, compare_u64);
    return (double)ns[count / 2] / 1e6;
}

static void check(int result, const char *what)
{
    if (result < 0) {
        fail("%s: %d", what, result);
    }
}

static void print_ms(uint64_t begin)
{
    printf("{\"ms\":%.4f}\n", (double)(now_ns() - begin) / 1e6);
}

/* ---- Making things ---- */

/* drives PREFIX COUNT SIZE GRANULARITY DURABILITY BITMAP: ids in a row; no bitmap when "". */
static void verb_drives(char **arguments)
{
    uint64_t count = number(arguments[1]), first = 0;
    char name[512];

    for (uint64_t i = 0; i < count; i++) {
        struct bitmapd_drive drive;
        (void)snprintf(name, sizeof name, "%s%" PRIu64, arguments[0], i);
        check(bitmapd_drive_add(handle, name, NULL, number(arguments[2]),
                                strcmp(arguments[4], "power-loss") == 0
                                    ? BITMAPD_DURABILITY_POWER_LOSS
                                    : BITMAPD_DURABILITY_PROCESS_CRASH,
                                (uint32_t)number(arguments[3]), &drive),
              "drive");
        first = i == 0 ? drive.id : first;
        if (drive.id != first + i) {
            fail("ids are not in a row");
        }
    }
    for (uint64_t i = 0; i < count && arguments[5][0]; i++) {
        (void)snprintf(name, sizeof name, "%s%" PRIu64 "/%s", arguments[0], i, arguments[5]);
        check(bitmapd_bitmap_create(handle, name, 0, false, NULL), "bitmap");
    }
    printf("{\"first\":%" PRIu64 "}\n", first);
}

/* bitmaps DRIVE PREFIX COUNT: disabled ones. */
static void verb_bitmaps(char **arguments)
{
    char name[512];

    for (uint64_t i = 0; i < number(arguments[2]); i++) {
        (void)snprintf(name, sizeof name, "%s/%s%" PRIu64, arguments[0], arguments[1], i);
        check(bitmapd_bitmap_create(handle, name, 0, true, NULL), "bitmap");
    }
    printf("{}\n");
}

/* checkpoints DRIVE PREFIX COUNT: the time of each. */
static void verb_checkpoints(char **arguments)
{
    uint64_t count = number(arguments[2]);
    uint64_t *times = calloc(count, sizeof *times);
    const char *drives[] = {arguments[0]};
    char name[512];

    for (uint64_t i = 0; times && i < count; i++) {
        (void)snprintf(name, sizeof name, "%s%" PRIu64, arguments[1], i);
        uint64_t begin = now_ns();
        check(bitmapd_checkpoint_create(handle, name, drives, 1, NULL), "checkpoint");
        times[i] = now_ns() - begin;
    }
    printf("{\"ms\":%.4f}\n", times ? median_ms(times, count) : 0);
    free(times);
}

/* ---- Marks ---- */

static struct {
    struct bitmapd_range ranges[RANGES_PER_MARK];
    size_t count, per_mark;
    uint64_t drive;
    size_t pending;
    int result;
} marks = {.per_mark = RANGES_PER_MARK};

static void marked(void *opaque, int result)
{
    (void)opaque;
    marks.pending--;
    marks.result = result < 0 ? result : marks.result;
}

static void wait_for_marks(size_t pending)
{
    while (marks.pending > pending) {
        struct pollfd wait = {.fd = bitmapd_fd(handle), .events = (short)bitmapd_events(handle)};
        (void)poll(&wait, 1, bitmapd_timeout_ms(handle));
        check(bitmapd_dispatch(handle, (unsigned)wait.revents), "marks");
    }
    check(marks.result, "marks");
}

static void send_marks(void)
{
    if (marks.count > 0) {
        check(bitmapd_aio_mark(handle, marks.drive, marks.ranges, marks.count, NULL, marked, NULL),
              "marks");
        marks.pending++;
        marks.count = 0;
        wait_for_marks(marks.per_mark == 1 ? 64 : MARKS_PENDING);
    }
}

static void add_mark(uint64_t offset, uint64_t length)
{
    marks.ranges[marks.count++] = (struct bitmapd_range){offset, length};
    if (marks.count == marks.per_mark) {
        send_marks();
    }
}

/* stripes DRIVE-ID DRIVES FIRST STRIDE LENGTH COUNT: bytes; in each of the drives. */
static void verb_stripes(char **arguments)
{
    uint64_t first = number(arguments[2]), stride = number(arguments[3]);
    uint64_t length = number(arguments[4]), count = number(arguments[5]);
    uint64_t begin = now_ns();

    for (uint64_t drive = 0; drive < number(arguments[1]); drive++) {
        marks.drive = number(arguments[0]) + drive;
        for (uint64_t i = 0; i < count; i++) {
            add_mark(first + i * stride, length);
        }
        send_marks();
    }
    wait_for_marks(0);
    print_ms(begin);
}

/*
 * scatter DRIVE-ID DRIVES GRANULES LENGTH COUNT RANGES SEED: of drives of so
 * many granules of 64 KiB, COUNT times LENGTH granules, RANGES in each frame.
 */
static void verb_scatter(char **arguments)
{
    uint64_t granules = number(arguments[2]), length = number(arguments[3]);
    uint64_t count = number(arguments[4]), seed = number(arguments[6]);
    uint64_t begin = now_ns();

    marks.per_mark = number(arguments[5]);
    if (marks.per_mark == 0 || marks.per_mark > RANGES_PER_MARK) {
        fail("too many ranges");
    }
    for (uint64_t drive = 0; drive < number(arguments[1]); drive++) {
        marks.drive = number(arguments[0]) + drive;
        for (uint64_t i = 0; i < count; i++) {
            add_mark(random_next(&seed) % (granules - length + 1) << 16, length << 16);
        }
        send_marks();
    }
    wait_for_marks(0);
    print_ms(begin);
}

/* mark BITMAP DRIVE-ID LENGTH ROUNDS: one mark into a bitmap that is cleared each time. */
static void verb_mark(char **arguments)
{
    uint64_t rounds = number(arguments[3]);
    struct bitmapd_range range = {0, number(arguments[2])};
    uint64_t *times = calloc(rounds, sizeof *times);

    for (uint64_t i = 0; times && i < rounds; i++) {
        check(bitmapd_bitmap_clear_all(handle, arguments[0]), "clear");
        uint64_t begin = now_ns();
        check(bitmapd_mark(handle, number(arguments[1]), &range, 1, NULL), "mark");
        times[i] = now_ns() - begin;
    }
    printf("{\"ms\":%.4f}\n", times ? median_ms(times, rounds) : 0);
    free(times);
}

/* ---- Whole bitmaps ---- */

static void verb_flush(char **arguments)
{
    (void)arguments;
    uint64_t begin = now_ns();
    check(bitmapd_flush(handle), "flush");
    print_ms(begin);
}

/* flushes GAP-MS: one after the other, until killed. */
static void verb_flushes(char **arguments)
{
    for (;;) {
        check(bitmapd_flush(handle), "flush");
        (void)usleep((useconds_t)number(arguments[0]) * 1000);
    }
}

static void count_runs(void *opaque, const struct bitmapd_range *runs, size_t count)
{
    (void)runs;
    *(uint64_t *)opaque += count;
}

/* map BITMAP: all of it, as runs in memory. */
static void verb_map(char **arguments)
{
    struct bitmapd_map_callbacks callbacks = {.runs = count_runs};
    uint64_t runs = 0, begin = now_ns();

    check(bitmapd_map(handle, arguments[0], 0, &callbacks, &runs, NULL), "map");
    uint64_t end = now_ns();
    struct rusage usage;
    (void)getrusage(RUSAGE_SELF, &usage);
    printf("{\"ms\":%.4f,\"runs\":%" PRIu64 ",\"rss_bytes\":%" PRIu64 "}\n",
           (double)(end - begin) / 1e6, runs, (uint64_t)usage.ru_maxrss * 1024);
}

/*
 * merge DRIVE SOURCE STRIDE COUNT: into a bitmap that is made for it and gets a
 * bit each STRIDE bytes, so that each chunk of it is as dense as the source's.
 */
static void verb_merge(char **arguments)
{
    char target[512], source[512];
    const char *sources[] = {source};

    (void)snprintf(target, sizeof target, "%s/merge-target", arguments[0]);
    (void)snprintf(source, sizeof source, "%s/%s", arguments[0], arguments[1]);
    check(bitmapd_bitmap_create(handle, target, 0, false, NULL), "bitmap");
    for (uint64_t i = 0; i < number(arguments[3]); i++) {
        check(bitmapd_bitmap_set(handle, target, i * number(arguments[2]) + 65536, 1), "set");
    }
    uint64_t begin = now_ns();
    check(bitmapd_bitmap_merge(handle, target, sources, 1), "merge");
    print_ms(begin);
    check(bitmapd_bitmap_delete(handle, target), "delete");
}

/* connections COUNT: so many more, which do nothing, until killed. */
static void verb_connections(char **arguments)
{
    for (uint64_t i = 0; i < number(arguments[0]); i++) {
        bitmapd *idle = bitmapd_new();
        if (!idle || bitmapd_connect(idle, NULL) < 0) {
            fail("connection %" PRIu64, i);
        }
    }
    printf("{}\n");
    (void)fflush(stdout);
    for (;;) {
        (void)pause();
    }
}

static const struct {
    const char *name;
    int arguments;
    bool connects;
    void (*run)(char **arguments);
} verbs[] = {
    {"drives", 6, true, verb_drives},
    {"bitmaps", 3, true, verb_bitmaps},
    {"checkpoints", 3, true, verb_checkpoints},
    {"stripes", 6, true, verb_stripes},
    {"scatter", 7, true, verb_scatter},
    {"mark", 4, true, verb_mark},
    {"flush", 0, true, verb_flush},
    {"flushes", 1, true, verb_flushes},
    {"map", 1, true, verb_map},
    {"merge", 4, true, verb_merge},
    {"connections", 1, true, verb_connections},
    {"sync", 5, false, verb_sync},
    {"start", 2, false, verb_start},
};

int main(int argc, char **argv)
{
    for (size_t i = 0; argc > 1 && i < sizeof verbs / sizeof verbs[0]; i++) {
        if (strcmp(verbs[i].name, argv[1]) == 0 && argc - 2 >= verbs[i].arguments) {
            if (verbs[i].connects) {
                handle = bitmapd_new();
                check(handle ? bitmapd_connect(handle, NULL) : -ENOMEM, "connect");
            }
            verbs[i].run(argv + 2);
            bitmapd_close(handle);
            return 0;
        }
    }
    (void)fprintf(stderr, "usage: BITMAPD_SOCKET=… bench_probe VERB ARGUMENTS; see probe.c\n");
    return 2;
}
