/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * `bitmapctl mark`: one range, or as many as standard input gives.
 *
 * Lines are gathered into frames, but never waited for: whatever one read(2)
 * returns is sent at once, so a slow producer's line goes out alone and a fast
 * one's by the thousand.  Frames in flight are bounded; at the bound standard
 * input is not read.
 *
 * Whatever ends the run early (a line that is none, a range past the drive's
 * end, a refusal), all marks sent before it are answered before we exit.
 *
 * Marks without ids are settled by the daemon at once; with --hold they get
 * ids and stay unsettled.
 */
#include "client/ctl/mark.h"

#include "client/ctl/connection.h"
#include "client/ctl/exit.h"
#include "proto/base/size.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#define INPUT_BYTES          (256u << 10) /* read at once */
#define LINE_BYTES_MAX       1024u
#define NUMBER_BYTES_MAX     64u
#define FRAME_RANGES_MAX     8192u
#define FRAMES_IN_FLIGHT_MAX 64u

_Static_assert(FRAME_RANGES_MAX <= BITMAPD_RANGES_MAX, "the library takes a frame");

static const char *skip_blanks(const char *p, const char *end)
{
    while (p < end && (*p == ' ' || *p == '\t')) {
        p++;
    }
    return p;
}

/* Parses the size at *@p and moves *@p behind it and the blanks after it. */
static int parse_field(const char *what, const char **p, const char *end, uint64_t *ret,
                       struct error *error)
{
    const char *start = *p;
    const char *stop = start;
    char field[NUMBER_BYTES_MAX];

    while (stop < end && *stop != ' ' && *stop != '\t') {
        stop++;
    }
    size_t bytes = (size_t)(stop - start);
    if (bytes == 0) {
        return error_set(error, -EINVAL, "%s is missing", what);
    }
    if (bytes >= sizeof field || memchr(start, '\0', bytes)) {
        return error_set(error, -EINVAL, "%s is no size", what);
    }
    memcpy(field, start, bytes);
    field[bytes] = '\0';
    int r = size_parse(field, ret);
    if (r < 0) {
        return error_set(error, -EINVAL, "%s '%s' %s", what, field,
                         r == -ERANGE ? "does not fit 64 bits" : "is no size");
    }
    *p = skip_blanks(stop, end);
    return 0;
}

int mark_line_parse(const char *line, size_t bytes, struct bitmapd_range *ret, struct error *error)
{
    const char *end = line + bytes;
    const char *p = skip_blanks(line, end);
    struct bitmapd_range range;

    int r = parse_field("OFFSET", &p, end, &range.offset, error);
    if (r == 0) {
        r = parse_field("LENGTH", &p, end, &range.length, error);
    }
    if (r < 0) {
        return r;
    }
    if (p < end) {
        return error_set(error, -EINVAL, "there is more than OFFSET LENGTH");
    }
    if (range.length == 0) {
        return error_set(error, -EINVAL, "LENGTH is 0");
    }
    *ret = range;
    return 0;
}

struct mark_job {
    bitmapd *handle;
    uint64_t drive_id;
    uint64_t drive_size;
    bool hold;

    char *input; /* what is read and not yet parsed: a line's beginning */
    size_t input_bytes;
    uint64_t line; /* number of the last one parsed */
    bool input_ended;

    struct bitmapd_range *ranges; /* gathered, not yet sent */
    size_t count;
    size_t frames; /* in flight */
    uint64_t marked;

    /* Why we stop reading.  A line's fault is told last, when everything before it is answered,
     * and only if nothing worse happened to that. */
    int code;
    int line_code;
    struct error line_error;
};

struct frame_in_flight {
    struct mark_job *job;
    uint64_t first_line;
    uint64_t last_line;
    size_t count;
};

static void frame_failed(const struct frame_in_flight *frame, int r)
{
    struct mark_job *job = frame->job;

    if (job->code != EXIT_DONE) {
        return;
    }
    job->code = exit_from_request(r, bitmapd_status_code(job->handle));
    const char *text = connection_error(job->handle, r);
    if (frame->first_line == frame->last_line) {
        output_diagnostic("mark: line %" PRIu64 ": %s", frame->first_line, text);
    } else {
        output_diagnostic("mark: lines %" PRIu64 " to %" PRIu64 ": %s", frame->first_line,
                          frame->last_line, text);
    }
}

static void frame_done(void *opaque, int result)
{
    CLEANUP_FREE struct frame_in_flight *frame = opaque;

    frame->job->frames--;
    if (result < 0) {
        frame_failed(frame, result);
    } else {
        frame->job->marked += frame->count;
    }
}

static void send_gathered(struct mark_job *job)
{
    uint64_t first_id;

    if (job->count == 0 || job->code != EXIT_DONE) {
        return;
    }
    CLEANUP_FREE struct frame_in_flight *frame = malloc(sizeof *frame);
    if (!frame) {
        output_no_memory();
    }
    /* Every line gave one range. */
    *frame = (struct frame_in_flight){
        .job = job,
        .first_line = job->line - job->count + 1,
        .last_line = job->line,
        .count = job->count,
    };
    int r = bitmapd_aio_mark(job->handle, job->drive_id, job->ranges, job->count,
                             job->hold ? &first_id : NULL, frame_done, frame);
    if (r < 0) {
        frame_failed(frame, r);
        return;
    }
    (void)STEAL(frame);
    job->frames++;
    job->count = 0;
}

static void take_line(struct mark_job *job, const char *line, size_t bytes)
{
    struct bitmapd_range range;

    int r = bytes > LINE_BYTES_MAX
                ? error_set(&job->line_error, -EINVAL, "more than %u bytes", LINE_BYTES_MAX)
                : mark_line_parse(line, bytes, &range, &job->line_error);
    if (r < 0) {
        job->line_code = EXIT_USAGE;
    } else if (range.offset > job->drive_size || range.length > job->drive_size - range.offset) {
        job->line_code = EXIT_FAILED;
        (void)error_set(&job->line_error, -EINVAL,
                        "the range reaches past the drive's end at %" PRIu64, job->drive_size);
    }
    if (job->line_code != EXIT_DONE) {
        send_gathered(job);
        job->line++;
        return;
    }
    job->line++;
    job->ranges[job->count++] = range;
    if (job->count == FRAME_RANGES_MAX) {
        send_gathered(job);
    }
}

/* Parses the whole lines in the input and sends them; keeps the rest for later. */
static void take_input(struct mark_job *job)
{
    char *p = job->input;
    char *end = p + job->input_bytes;

    while (p < end && job->code == EXIT_DONE && job->line_code == EXIT_DONE) {
        char *newline = memchr(p, '\n', (size_t)(end - p));
        if (!newline && !job->input_ended && (size_t)(end - p) <= LINE_BYTES_MAX) {
            break;
        }
        take_line(job, p, (size_t)((newline ? newline : end) - p));
        p = newline ? newline + 1 : end;
    }
    job->input_bytes = (size_t)(end - p);
    memmove(job->input, p, job->input_bytes);
    send_gathered(job);
}

static void read_input(struct mark_job *job)
{
    ssize_t n = read(STDIN_FILENO, job->input + job->input_bytes, INPUT_BYTES - job->input_bytes);

    if (n < 0 && errno != EAGAIN && errno != EINTR) {
        output_diagnostic("mark: cannot read standard input: %s", strerror(errno));
        job->code = EXIT_FAILED;
    } else if (n >= 0) {
        job->input_ended = n == 0;
        job->input_bytes += (size_t)n;
        take_input(job);
    }
}

static bool wants_input(const struct mark_job *job)
{
    return !job->input_ended && job->code == EXIT_DONE && job->line_code == EXIT_DONE;
}

/* Until standard input ends or something stops us, and every frame is answered. */
static void run_stream(struct mark_job *job, const struct invocation *inv)
{
    while (wants_input(job) || job->frames > 0) {
        struct pollfd fds[2] = {
            {.fd = bitmapd_fd(job->handle), .events = (short)bitmapd_events(job->handle)},
            {.fd = STDIN_FILENO, .events = POLLIN},
        };
        if (!wants_input(job) || job->frames >= FRAMES_IN_FLIGHT_MAX) {
            fds[1].fd = -1;
        }
        int n = poll(fds, 2, bitmapd_timeout_ms(job->handle));
        if (n < 0 && errno != EINTR) {
            output_diagnostic("mark: poll: %s", strerror(errno));
            job->code = EXIT_FAILED;
            return;
        }
        if (n < 0) {
            continue;
        }
        if (n == 0 || fds[0].revents != 0) {
            int r = bitmapd_dispatch(job->handle, (unsigned)fds[0].revents);
            if (r < 0) {
                /* A frame that was in flight may have said so already. */
                if (job->code == EXIT_DONE) {
                    job->code = connection_result(job->handle, inv, r);
                }
                return;
            }
        }
        if (fds[1].revents != 0) {
            read_input(job);
        }
    }
}

static int mark_stdin(struct mark_job *job, const struct invocation *inv)
{
    CLEANUP_FREE char *input = malloc(INPUT_BYTES);
    CLEANUP_FREE struct bitmapd_range *ranges = calloc(FRAME_RANGES_MAX, sizeof *ranges);

    if (!input || !ranges) {
        output_no_memory();
    }
    job->input = input;
    job->ranges = ranges;
    run_stream(job, inv);
    if (job->code == EXIT_DONE && job->line_code != EXIT_DONE) {
        output_diagnostic("mark: line %" PRIu64 ": %s", job->line, job->line_error.text);
        job->code = job->line_code;
    }
    return job->code;
}

static int mark_one(struct mark_job *job, const struct invocation *inv)
{
    struct bitmapd_range range = {inv->offset, inv->length};

    int code = connection_result(job->handle, inv,
                                 bitmapd_mark(job->handle, job->drive_id, &range, 1, NULL));
    if (code == EXIT_DONE) {
        job->marked = 1;
    }
    return code;
}

int mark(const struct invocation *inv)
{
    CLEANUP_CONNECTION bitmapd *handle = NULL;
    struct mark_job job = {.hold = inv->given[OPTION_HOLD]};
    struct bitmapd_drive drive;

    int code = connection_range(inv);
    if (code == EXIT_DONE) {
        code = connection_open(inv, &handle);
    }
    if (code != EXIT_DONE) {
        return code;
    }
    code = connection_result(handle, inv, bitmapd_drive_show(handle, inv->operands[0], &drive));
    if (code != EXIT_DONE) {
        return code;
    }
    job.handle = handle;
    job.drive_id = drive.id;
    job.drive_size = drive.size;
    code = inv->given[OPTION_STDIN] ? mark_stdin(&job, inv) : mark_one(&job, inv);
    /* Frames that never got an answer report to the job: they must end before it does. */
    bitmapd_close(STEAL(handle));
    if (code == EXIT_DONE && inv->format != OUTPUT_HUMAN) {
        json_object *object = output_json_new();
        output_json_add_number(object, "marked", job.marked);
        output_json_print(object);
    }
    return code;
}
