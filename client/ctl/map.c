/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * `bitmapctl map`: the dirty runs of a bitmap, or since a checkpoint, as the
 * extents of the drive.
 *
 * A map can have millions of extents, so numbers are formatted here, into a
 * large buffer, and nothing is kept: extents are printed as the pages arrive.
 * The JSON array's end, or the end record, comes only after the library has
 * verified the daemon's count and checksum; a map without it is no map.
 *
 * A wrong map is a corrupt backup.  The gaps between runs are printed as
 * clean, so runs out of order are refused rather than printed somehow.
 */
#include "client/ctl/map.h"

#include "client/ctl/bitmap.h"
#include "client/ctl/connection.h"
#include "client/ctl/exit.h"
#include "client/ctl/text.h"
#include "proto/base/crc32c.h"
#include "proto/base/endian.h"

#include <errno.h>
#include <string.h>

#define DIGITS_MAX       20  /* of 2^64 - 1 */
#define EXTENT_BYTES_MAX 128 /* of one extent's text in any format */

static void flush(struct map_writer *writer)
{
    writer->write(writer->opaque, writer->buffer, writer->used);
    writer->used = 0;
}

static void put(struct map_writer *writer, const char *text, size_t bytes)
{
    memcpy(writer->buffer + writer->used, text, bytes);
    writer->used += bytes;
}

#define PUT(writer, literal) put(writer, literal, sizeof(literal) - 1)

/* Right-aligned in @width columns. */
static void put_number(struct map_writer *writer, uint64_t number, unsigned width)
{
    char digits[DIGITS_MAX];
    unsigned at = DIGITS_MAX;

    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number != 0);
    while (DIGITS_MAX - at < width) {
        digits[--at] = ' ';
    }
    put(writer, digits + at, DIGITS_MAX - at);
}

static unsigned count_digits(uint64_t number)
{
    unsigned n = 1;

    while (number >= 10) {
        number /= 10;
        n++;
    }
    return n;
}

static void put_extent(struct map_writer *writer, struct bitmapd_range range, bool dirty)
{
    if (range.length == 0) {
        return;
    }
    if (sizeof writer->buffer - writer->used < EXTENT_BYTES_MAX) {
        flush(writer);
    }
    if (writer->format == OUTPUT_HUMAN) {
        put_number(writer, range.offset, writer->width);
        PUT(writer, "  ");
        put_number(writer, range.length, writer->width);
        if (dirty) {
            PUT(writer, "  dirty\n");
        } else {
            PUT(writer, "  clean\n");
        }
    } else {
        if (writer->extents == 0) {
            PUT(writer, "[{\"offset\":");
        } else {
            PUT(writer, ",\n{\"offset\":");
        }
        put_number(writer, range.offset, 0);
        PUT(writer, ",\"length\":");
        put_number(writer, range.length, 0);
        if (dirty) {
            PUT(writer, ",\"type\":1,\"description\":\"dirty\"}");
        } else {
            PUT(writer, ",\"type\":0,\"description\":\"clean\"}");
        }
    }
    writer->extents++;
}

static void put_tuple(struct map_writer *writer, struct bitmapd_range range)
{
    uint8_t encoded[16];

    store_le64(encoded, range.offset);
    store_le64(encoded + 8, range.length);
    writer->crc = crc32c(writer->crc, encoded, sizeof encoded);
    if (sizeof writer->buffer - writer->used < EXTENT_BYTES_MAX) {
        flush(writer);
    }
    PUT(writer, "{\"byte_offset\":");
    put_number(writer, range.offset, 0);
    PUT(writer, ",\"size_bytes\":");
    put_number(writer, range.length, 0);
    PUT(writer, "}\n");
    writer->extents++;
}

/* Prints the pending run, and what is clean before it. */
static void put_pending(struct map_writer *writer)
{
    struct bitmapd_range dirty = writer->pending;

    if (dirty.length == 0) {
        return;
    }
    if (writer->format == OUTPUT_NDJSON) {
        put_tuple(writer, dirty);
    } else {
        struct bitmapd_range clean = {writer->done, dirty.offset - writer->done};
        put_extent(writer, clean, false);
        put_extent(writer, dirty, true);
    }
    writer->done = dirty.offset + dirty.length;
    writer->pending.length = 0;
}

void map_writer_init(struct map_writer *writer, enum output_format format, uint64_t size,
                     void (*write)(void *opaque, const void *text, size_t bytes), void *opaque)
{
    writer->format = format;
    writer->write = write;
    writer->opaque = opaque;
    writer->size = size;
    writer->done = 0;
    writer->pending = (struct bitmapd_range){0};
    writer->extents = 0;
    writer->crc = 0;
    writer->width = count_digits(size);
    writer->used = 0;
}

int map_writer_add(struct map_writer *writer, const struct bitmapd_range *runs, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct bitmapd_range run = runs[i];
        struct bitmapd_range *pending = &writer->pending;
        uint64_t end = pending->length ? pending->offset + pending->length : writer->done;

        if (run.length == 0 || run.offset < end || run.offset > writer->size ||
            run.length > writer->size - run.offset) {
            return -EPROTO;
        }
        if (pending->length && run.offset == end) {
            pending->length += run.length;
        } else {
            put_pending(writer);
            *pending = run;
        }
    }
    return 0;
}

void map_writer_finish(struct map_writer *writer)
{
    put_pending(writer);
    if (writer->format != OUTPUT_NDJSON) {
        struct bitmapd_range clean = {writer->done, writer->size - writer->done};
        put_extent(writer, clean, false);
        writer->done = writer->size;
    }
    if (sizeof writer->buffer - writer->used < EXTENT_BYTES_MAX) {
        flush(writer);
    }
    if (writer->format == OUTPUT_JSON && writer->extents == 0) {
        PUT(writer, "[]\n");
    } else if (writer->format == OUTPUT_JSON) {
        PUT(writer, "]\n");
    } else if (writer->format == OUTPUT_NDJSON) {
        PUT(writer, "{\"complete\":true,\"tuples\":");
        put_number(writer, writer->extents, 0);
        PUT(writer, ",\"crc32c\":");
        put_number(writer, writer->crc, 0);
        PUT(writer, "}\n");
    }
    flush(writer);
}

struct map_job {
    struct map_writer writer;
    enum output_format format;
    bool since; /* a checkpoint, so that the map is a drive's */
    bool has_head;
    bool unknown;
    char *reason;
    int result; /* 0 or what a callback has found */
};

static void write_output(void *opaque, const void *text, size_t bytes)
{
    (void)opaque;
    output_write(text, bytes);
}

json_object *map_checkpoint_json(const char *name, const uint8_t uuid[16], uint64_t sequence)
{
    char text[TEXT_UUID_BYTES];

    if (name[0] == '\0') {
        return NULL;
    }
    json_object *object = json_object_new_object();
    if (!object) {
        output_no_memory();
    }
    output_json_add_string(object, "name", name);
    output_json_add_string(object, "uuid", text_uuid(uuid, text));
    output_json_add_number(object, "sequence", sequence);
    return object;
}

/* A drive's name may hold a '/', so what is one is known from what was asked for. */
static void add_names(json_object *object, const struct bitmapd_map *map_head, bool since)
{
    CLEANUP_FREE char *drive = NULL;

    if (since) {
        output_json_add_string(object, "drive", map_head->bitmap);
        output_json_add(object, "name", NULL);
        return;
    }
    const char *name = bitmap_name_split(map_head->bitmap, &drive);
    if (!drive) {
        output_no_memory();
    }
    output_json_add_string(object, "drive", drive);
    output_json_add_string(object, "name", name);
}

/* A reader learns from the first line what the rest is worth. */
static void print_head(const struct bitmapd_map *map_head, bool since)
{
    json_object *object = output_json_new();

    add_names(object, map_head, since);
    output_json_add_number(object, "size", map_head->size);
    output_json_add_number(object, "granularity", map_head->granularity);
    output_json_add_bool(object, "recording", map_head->recording);
    output_json_add_string(object, "validity", bitmap_validity_name(map_head->validity));
    output_json_add_string(object, "reason", map_head->reason);
    untracked_add_json(object, map_head->untracked);
    output_json_add_number(object, "sequence", map_head->sequence);
    output_json_add(
        object, "base",
        map_checkpoint_json(map_head->base, map_head->base_uuid, map_head->base_sequence));
    output_json_add(
        object, "target",
        map_checkpoint_json(map_head->target, map_head->target_uuid, map_head->target_sequence));
    output_json_print(object);
}

static void take_head(void *opaque, const struct bitmapd_map *map_head)
{
    struct map_job *job = opaque;

    job->has_head = true;
    /* A validity that this version does not know is no better than unknown. */
    job->unknown = map_head->validity != BITMAPD_EXACT && map_head->validity != BITMAPD_SUPERSET;
    job->reason = strdup(map_head->reason);
    if (!job->reason) {
        output_no_memory();
    }
    if (job->format == OUTPUT_NDJSON) {
        print_head(map_head, job->since);
    }
    map_writer_init(&job->writer, job->format, map_head->size, write_output, NULL);
}

static void take_runs(void *opaque, const struct bitmapd_range *runs, size_t count)
{
    struct map_job *job = opaque;

    if (job->result == 0) {
        job->result = job->has_head ? map_writer_add(&job->writer, runs, count) : -EPROTO;
    }
}

int map(const struct invocation *inv)
{
    static const struct bitmapd_map_callbacks callbacks = {.head = take_head, .runs = take_runs};
    CLEANUP_CONNECTION bitmapd *handle = NULL;
    struct map_job job = {.format = inv->format, .since = inv->since != NULL};

    int code = connection_open(inv, &handle);
    if (code != EXIT_DONE) {
        return code;
    }
    const char *operand = inv->operands[0];
    int r = inv->since ? bitmapd_checkpoint_map(handle, operand, inv->since, inv->until, 0,
                                                &callbacks, &job, NULL)
                       : bitmapd_map(handle, operand, 0, &callbacks, &job, NULL);
    CLEANUP_FREE char *reason = job.reason;
    code = connection_result(handle, inv, r);
    if (code != EXIT_DONE) {
        return code;
    }
    if (job.result < 0 || !job.has_head) {
        output_diagnostic(
            "map: the daemon sent runs that are out of order or past the drive's end");
        return EXIT_FAILED;
    }
    map_writer_finish(&job.writer);
    if (job.unknown) {
        output_diagnostic("map: the validity of %s%s%s is unknown, all of it counts as dirty: %s",
                          operand, inv->since ? " since " : "", inv->since ? inv->since : "",
                          reason);
        return EXIT_UNKNOWN;
    }
    return EXIT_DONE;
}
