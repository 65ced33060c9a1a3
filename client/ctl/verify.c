/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * `bitmapctl verify`: the map since a checkpoint against the drive as it is
 * and a copy of it as it was then (compare.c).
 *
 * The map is not kept: each run is compared when it arrives, and the daemon
 * waits meanwhile.  So a missed change is printed before the map is known to
 * be whole; as for `map`, text without its end is no answer.
 *
 * The map is taken before the drive is read, and the drive may be written
 * meanwhile.  So what differs and is clean is only suspected; a second map, taken
 * after it was read, has every write that was marked by then, and what is clean
 * in that one too was missed.
 */
#include "client/ctl/bitmap.h"
#include "client/ctl/compare.h"
#include "client/ctl/connection.h"
#include "client/ctl/exit.h"
#include "client/ctl/map.h"
#include "client/ctl/text.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define PROGRESS_NS     UINT64_C(500000000) /* between two lines */
#define SUSPECTS_MAX    65536u              /* runs that one more map is taken for */
#define PROGRESS_COLUMN 40

struct verify_job {
    const struct invocation *inv;
    struct compare_side drive;
    char *drive_path;
    struct compare_side copy;
    struct compare compare;
    bool has_head;
    bool unknown;
    char *reason;
    struct bitmapd_range *suspects; /* owned; runs in order */
    size_t suspects_count;
    size_t suspect;   /* the one that the second map has come to, and … */
    uint64_t decided; /* … up to where */
    bitmapd *second;  /* connection for maps in between, made when there is need of it */
    int second_code;  /* exit code of what failed with it or with a second map */
    uint64_t missed_runs;
    struct compare_totals missed;
    int result; /* 0, or what a callback has found */
    struct error error;

    bool shows_progress;
    bool progress_shown;
    uint64_t progress_ns; /* when the last was shown */
};

/* ---- Progress: for people, at a terminal ---- */

static uint64_t now_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

static void hide_progress(struct verify_job *job)
{
    if (job->progress_shown) {
        (void)fprintf(stderr, "\r%*s\r", PROGRESS_COLUMN + 20, "");
        job->progress_shown = false;
    }
}

static void show_progress(void *opaque, uint64_t done)
{
    struct verify_job *job = opaque;
    uint64_t now = now_ns();
    char bar[PROGRESS_COLUMN + 1];

    if (!job->shows_progress || now - job->progress_ns < PROGRESS_NS) {
        return;
    }
    double share = (double)done / (double)job->compare.size;
    int filled = (int)(share * PROGRESS_COLUMN);
    memset(bar, ' ', PROGRESS_COLUMN);
    memset(bar, '#', (size_t)filled);
    bar[PROGRESS_COLUMN] = '\0';
    (void)fprintf(stderr, "\rverify: [%s] %3d%%", bar, (int)(share * 100));
    job->progress_shown = true;
    job->progress_ns = now;
}

/* ---- Output: what is missed as it is found, then the rest ---- */

static void print_string(const char *text)
{
    CLEANUP_FREE char *utf8 = text_as_utf8(text);
    json_object *value = utf8 ? json_object_new_string(utf8) : NULL;

    if (!value) {
        output_no_memory();
    }
    output_json_write(value);
}

/* The head's members, all but their braces: with JSON the array of what is missed follows. */
static void print_head(const struct verify_job *job, const struct bitmapd_map *head)
{
    output_print("\"schema_version\":1,\"drive\":");
    print_string(head->bitmap);
    output_print(",\"size\":%" PRIu64 ",\"granularity\":%" PRIu32 ",\"copy_size\":%" PRIu64
                 ",\"validity\":\"%s\",\"reason\":",
                 head->size, head->granularity, job->copy.size,
                 bitmap_validity_name(head->validity));
    print_string(head->reason);
    output_print(",\"base\":");
    output_json_write(map_checkpoint_json(head->base, head->base_uuid, head->base_sequence));
}

static void print_missed(struct verify_job *job, struct bitmapd_range run)
{
    if (run.length == 0) {
        return;
    }
    uint64_t granularity = job->compare.granularity;
    job->missed.bytes += run.length;
    job->missed.granules += run.length / granularity + (run.length % granularity != 0);
    switch (job->inv->format) {
    case OUTPUT_HUMAN:
        hide_progress(job);
        output_print("%20" PRIu64 "  %20" PRIu64 "  missed\n", run.offset, run.length);
        break;
    case OUTPUT_JSON:
        output_print("%s{\"offset\":%" PRIu64 ",\"length\":%" PRIu64 "}",
                     job->missed_runs ? ",\n" : "", run.offset, run.length);
        break;
    case OUTPUT_NDJSON:
        output_print("{\"offset\":%" PRIu64 ",\"length\":%" PRIu64 "}\n", run.offset, run.length);
        break;
    }
    job->missed_runs++;
}

static void print_totals_json(const struct verify_job *job)
{
    const struct compare *compare = &job->compare;
    char precision[32] = "null";

    if (compare->dirty.bytes > 0) {
        (void)snprintf(precision, sizeof precision, "%.6f",
                       (double)compare->changed.bytes / (double)compare->dirty.bytes);
    }
    output_print("%s\"missed_bytes\":%" PRIu64 ",\"missed_count\":%" PRIu64
                 ",\"dirty_bytes\":%" PRIu64 ",\"dirty_count\":%" PRIu64
                 ",\"changed_bytes\":%" PRIu64 ",\"changed_count\":%" PRIu64 ",\"precision\":%s}\n",
                 job->inv->format == OUTPUT_JSON ? "]," : "{\"complete\":true,", job->missed.bytes,
                 job->missed.granules, compare->dirty.bytes, compare->dirty.granules,
                 compare->changed.bytes, compare->changed.granules, precision);
}

static void print_totals(const struct verify_job *job)
{
    const struct compare *compare = &job->compare;
    char size[TEXT_SIZE_BYTES];

    output_print("compared:  %" PRIu64 " bytes (%s)\n", compare->size,
                 text_size(compare->size, size));
    output_print("dirty:     %" PRIu64 " bytes (%s) in %" PRIu64 " granules\n",
                 compare->dirty.bytes, text_size(compare->dirty.bytes, size),
                 compare->dirty.granules);
    output_print("changed:   %" PRIu64 " bytes (%s) in %" PRIu64 " granules of these",
                 compare->changed.bytes, text_size(compare->changed.bytes, size),
                 compare->changed.granules);
    if (compare->dirty.bytes > 0) {
        output_print(": precision %.1f%%",
                     100 * (double)compare->changed.bytes / (double)compare->dirty.bytes);
    }
    output_print("\nmissed:    %" PRIu64 " bytes (%s) in %" PRIu64 " granules\n", job->missed.bytes,
                 text_size(job->missed.bytes, size), job->missed.granules);
}

/* ---- Suspects: they differ, and were clean before they were read ---- */

/* Of the suspects up to @end all is decided: it is missed but for what is dirty from @dirty on. */
static void decide(struct verify_job *job, uint64_t dirty, uint64_t end)
{
    while (job->suspect < job->suspects_count) {
        struct bitmapd_range run = job->suspects[job->suspect];
        uint64_t run_end = run.offset + run.length;
        uint64_t from = run.offset > job->decided ? run.offset : job->decided;

        if (from < dirty && from < run_end) {
            uint64_t to = run_end < dirty ? run_end : dirty;
            print_missed(job, (struct bitmapd_range){from, to - from});
        }
        if (run_end > end) {
            break;
        }
        job->suspect++;
    }
    job->decided = end;
}

static void take_second_head(void *opaque, const struct bitmapd_map *head)
{
    struct verify_job *job = opaque;

    job->unknown |= head->validity != BITMAPD_EXACT && head->validity != BITMAPD_SUPERSET;
}

static void take_second_runs(void *opaque, const struct bitmapd_range *runs, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        decide(opaque, runs[i].offset, runs[i].offset + runs[i].length);
    }
}

/* What is clean in a map that is taken now, over @handle, was missed. */
static void settle_suspects(struct verify_job *job, bitmapd *handle)
{
    static const struct bitmapd_map_callbacks callbacks = {.head = take_second_head,
                                                           .runs = take_second_runs};
    const struct invocation *inv = job->inv;

    if (job->suspects_count == 0) {
        return;
    }
    job->suspect = 0;
    job->decided = 0;
    hide_progress(job);
    int r = bitmapd_checkpoint_map(handle, inv->operands[0], inv->since, NULL, 0, &callbacks, job,
                                   NULL);
    job->second_code = connection_result(handle, inv, r);
    if (job->second_code == EXIT_DONE) {
        decide(job, UINT64_MAX, UINT64_MAX);
    }
    job->suspects_count = 0;
}

static void suspect(void *opaque, struct bitmapd_range run)
{
    struct verify_job *job = opaque;

    if (job->suspects_count == SUSPECTS_MAX && !job->second) {
        /* The first connection is in the middle of its map. */
        job->second_code = connection_open(job->inv, &job->second);
    }
    if (job->suspects_count == SUSPECTS_MAX && job->second_code == EXIT_DONE) {
        settle_suspects(job, job->second);
    }
    if (job->second_code != EXIT_DONE) {
        return; /* it has been said why */
    }
    job->suspects[job->suspects_count++] = run;
}

/* ---- The map ---- */

static void take_head(void *opaque, const struct bitmapd_map *head)
{
    struct verify_job *job = opaque;

    job->has_head = true;
    job->unknown = head->validity != BITMAPD_EXACT && head->validity != BITMAPD_SUPERSET;
    job->reason = strdup(head->reason);
    if (!job->reason) {
        output_no_memory();
    }
    job->result = compare_init(&job->compare, &job->drive, &job->copy, head->size,
                               head->granularity, &job->error);
    if (job->result < 0) {
        return;
    }
    job->compare.missed = suspect;
    job->compare.progress = show_progress;
    job->compare.opaque = job;
    if (job->inv->format == OUTPUT_JSON) {
        output_print("{");
        print_head(job, head);
        output_print(",\"missed\":[");
    } else if (job->inv->format == OUTPUT_NDJSON) {
        output_print("{");
        print_head(job, head);
        output_print("}\n");
    }
}

static void take_runs(void *opaque, const struct bitmapd_range *runs, size_t count)
{
    struct verify_job *job = opaque;

    for (size_t i = 0; i < count && job->result == 0 && job->second_code == EXIT_DONE; i++) {
        job->result = compare_run(&job->compare, runs[i], &job->error);
    }
}

/* ---- The verb ---- */

static int open_sides(struct verify_job *job, bitmapd *handle)
{
    const struct invocation *inv = job->inv;
    struct bitmapd_drive drive = {.path = ""};

    int code = connection_result(handle, inv, bitmapd_drive_show(handle, inv->operands[0], &drive));
    if (code != EXIT_DONE) {
        return code;
    }
    if (!inv->path && drive.path[0] == '\0') {
        output_diagnostic("verify: drive %s has no path: --drive-path tells where to read it",
                          inv->operands[0]);
        return EXIT_FAILED;
    }
    int r = compare_side_open(&job->copy, "the copy", inv->against, &job->error);
    if (r == 0) {
        /* The library's string goes with its next call. */
        job->drive_path = strdup(inv->path ? inv->path : drive.path);
        if (!job->drive_path) {
            output_no_memory();
        }
        r = compare_side_open(&job->drive, "the drive", job->drive_path, &job->error);
    }
    if (r == 0 && compare_sides_are_same(&job->drive, &job->copy)) {
        r = error_set(&job->error, -EINVAL, "the copy %s is the drive itself", inv->against);
    }
    if (r < 0) {
        output_diagnostic("verify: %s", job->error.text);
    }
    return r == 0 ? EXIT_DONE : r == -EINVAL ? EXIT_FAILED : (int)exit_from_file(r);
}

static int run(struct verify_job *job, bitmapd *handle)
{
    static const struct bitmapd_map_callbacks callbacks = {.head = take_head, .runs = take_runs};
    const struct invocation *inv = job->inv;

    int code = open_sides(job, handle);
    if (code != EXIT_DONE) {
        return code;
    }
    int r = bitmapd_checkpoint_map(handle, inv->operands[0], inv->since, NULL, 0, &callbacks, job,
                                   NULL);
    if (r == 0 && job->result == 0 && job->second_code == EXIT_DONE && job->has_head) {
        job->result = compare_finish(&job->compare, &job->error);
    }
    if (r == 0 && job->result == 0 && job->second_code == EXIT_DONE) {
        settle_suspects(job, handle);
    }
    hide_progress(job);
    if (job->second_code != EXIT_DONE) {
        return job->second_code;
    }
    if (job->result < 0) {
        output_diagnostic("verify: %s", job->error.text);
        return EXIT_FAILED;
    }
    code = connection_result(handle, inv, r);
    if (code != EXIT_DONE) {
        return code;
    }
    if (inv->format == OUTPUT_HUMAN) {
        print_totals(job);
    } else {
        print_totals_json(job);
    }
    if (job->missed_runs > 0) {
        output_diagnostic("verify: %" PRIu64 " bytes differ from the copy and are clean since %s",
                          job->missed.bytes, inv->since);
        return EXIT_MISSED;
    }
    if (job->unknown) {
        output_diagnostic("verify: the validity of %s since %s is unknown, all of it counts as "
                          "dirty: %s",
                          inv->operands[0], inv->since, job->reason);
        return EXIT_UNKNOWN;
    }
    return EXIT_DONE;
}

int verify(const struct invocation *inv)
{
    CLEANUP_CONNECTION bitmapd *handle = NULL;
    struct verify_job job = {
        .inv = inv,
        .drive.fd = -1,
        .copy.fd = -1,
        .shows_progress = inv->format == OUTPUT_HUMAN && isatty(STDERR_FILENO),
        .progress_ns = now_ns(),
        .suspects = calloc(SUSPECTS_MAX, sizeof *job.suspects),
    };

    if (!job.suspects) {
        output_no_memory();
    }

    int code = connection_open(inv, &handle);
    if (code == EXIT_DONE) {
        code = run(&job, handle);
    }
    compare_side_deinit(&job.drive);
    compare_side_deinit(&job.copy);
    bitmapd_close(job.second);
    free(job.suspects);
    free(job.drive_path);
    free(job.reason);
    return code;
}
