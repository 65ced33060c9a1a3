/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is counted: a fixed script of requests, step by step.
 *
 *     script requests DIRECTORY    marks, settles, sets, clears, maps, write-backs
 *     script crash DIRECTORY       leaves a journal behind, and counts nothing
 *     script start DIRECTORY       starts on it
 *
 * Prints each step's name and how many operations it was.  Nothing depends on time, chance or the
 * order of threads.  A mark goes to a granule that none went to before, but where it says so;
 * marks come as from a client that keeps BURST of them in flight, and are settled when they are
 * answered.
 */
#include "tests/instructions/session.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GRANULE_BYTES UINT64_C(65536)
#define CHUNK_BYTES   (GRANULE_BYTES * 65536 * 8) /* of a drive, for one cluster of bits */
#define CHUNKS        UINT64_C(128)
#define GRANULES      (CHUNKS * CHUNK_BYTES / GRANULE_BYTES)
/* The golden ratio of them, and odd: consecutive numbers are far apart, and none comes twice. */
#define STRIDE       UINT64_C(41475557)

#define BURST        16u
#define RANGES       64u /* of a frame with many */
#define SET_GRANULES 16u
#define MAP_RANGES   4096u /* of a frame, when a bitmap is filled for a map */
#define REPLAYED     4000u

static struct session_pair pair;
static uint64_t next_id = 1;

/* The @number-th of the large drive's granules. */
static struct wire_range granule(uint64_t number)
{
    return (struct wire_range){number * STRIDE % GRANULES * GRANULE_BYTES, 4096};
}

/* Ranges @number, @number + 1, … */
static void put_mark(uint64_t drive, uint64_t number, uint32_t count)
{
    static uint8_t encoded[RANGES * WIRE_RANGE_BYTES];
    struct message_mark mark = {
        .drive = drive, .first_id = next_id, .ranges = {.data = encoded, .count = count}};

    assert(count <= RANGES);
    for (uint32_t i = 0; i < count; i++) {
        wire_range_store(encoded + i * WIRE_RANGE_BYTES, granule(number + i));
    }
    next_id += count;
    session_pair_put(&pair, OPERATION_MARK, &mark);
}

static void put_settle(uint64_t drive, uint64_t first_id, uint64_t count)
{
    uint8_t encoded[WIRE_RANGE_BYTES];
    struct message_settle settle = {.drive = drive, .ids = {.data = encoded, .count = 1}};

    wire_range_store(encoded, (struct wire_range){first_id, count});
    session_pair_put(&pair, OPERATION_SETTLE, &settle);
}

/* @bursts of @frames each, which take effect before the next. */
static void mark(uint64_t drive, uint64_t number, uint32_t bursts, uint32_t frames, uint32_t ranges,
                 bool counted)
{
    for (uint32_t burst = 0; burst < bursts; burst++) {
        uint64_t first_id = next_id;
        for (uint32_t frame = 0; frame < frames; frame++) {
            put_mark(drive, number, ranges);
            number += ranges;
        }
        session_pair_exchange(&pair, counted);
        put_settle(drive, first_id, next_id - first_id);
        session_pair_exchange(&pair, false);
    }
}

static void settle(uint64_t drive, uint64_t number, uint32_t bursts)
{
    for (uint32_t burst = 0; burst < bursts; burst++) {
        uint64_t first_id = next_id;
        for (uint32_t frame = 0; frame < BURST; frame++) {
            put_mark(drive, number++, 1);
        }
        session_pair_exchange(&pair, false);
        for (uint32_t frame = 0; frame < BURST; frame++) {
            put_settle(drive, first_id++, 1);
        }
        session_pair_exchange(&pair, true);
    }
}

static struct wire_uuid request_id(void)
{
    static uint64_t last;
    struct wire_uuid id = {{0}};

    last++;
    memcpy(id.bytes, &last, sizeof last);
    return id;
}

/* Stretches of granules, for BITMAP_SET or BITMAP_CLEAR. */
static void change(enum operation operation, uint64_t number, uint32_t bursts)
{
    for (uint32_t burst = 0; burst < bursts; burst++) {
        for (uint32_t frame = 0; frame < BURST; frame++) {
            struct message_bitmap_range range = {
                .request = request_id(),
                .bitmap = wire_string("large/bits"),
                .offset = granule(number++).offset / (SET_GRANULES * GRANULE_BYTES) *
                          (SET_GRANULES * GRANULE_BYTES),
                .length = SET_GRANULES * GRANULE_BYTES,
            };
            session_pair_put(&pair, operation, &range);
        }
        session_pair_exchange(&pair, true);
    }
}

static void map(const char *name)
{
    struct message_map message = {.bitmap = wire_string(name)};

    session_pair_put(&pair, OPERATION_MAP, &message);
    session_pair_exchange(&pair, true);
}

/* Every other granule. */
static void fill(uint64_t drive, uint64_t size)
{
    static uint8_t encoded[MAP_RANGES * WIRE_RANGE_BYTES];
    struct message_mark message = {.drive = drive,
                                   .ranges = {.data = encoded, .count = MAP_RANGES}};

    for (uint64_t offset = 0; offset < size;) {
        for (uint32_t i = 0; i < MAP_RANGES; i++) {
            wire_range_store(encoded + i * WIRE_RANGE_BYTES, (struct wire_range){offset, 4096});
            offset += 2 * GRANULE_BYTES;
        }
        session_pair_put(&pair, OPERATION_MARK, &message);
        session_pair_exchange(&pair, false);
    }
}

/* Marks one clean granule in each of the first @chunks chunks, and writes them back. */
static void write_back(uint64_t drive, uint64_t chunks)
{
    static uint64_t round;

    round++;
    for (uint64_t chunk = 0; chunk < chunks; chunk++) {
        uint8_t encoded[WIRE_RANGE_BYTES];
        struct message_mark message = {.drive = drive, .ranges = {.data = encoded, .count = 1}};
        /* From the chunk's end: hardly any of the other steps' marks is there. */
        uint64_t end = (chunk + 1) * CHUNK_BYTES;
        wire_range_store(encoded, (struct wire_range){end - round * GRANULE_BYTES, 4096});
        session_pair_put(&pair, OPERATION_MARK, &message);
    }
    session_pair_exchange(&pair, false);
    session_pair_put(&pair, OPERATION_FLUSH, NULL);
    session_pair_exchange(&pair, true);
}

/* A drive with one bitmap that records, and with this client as its writer; the drive's id. */
static uint64_t add_drive(const char *name, const char *bitmap, uint64_t size)
{
    struct message_drive_add drive = {
        .request = request_id(), .name = wire_string(name), .size = size};
    struct message_bitmap_create create = {.request = request_id(), .bitmap = wire_string(bitmap)};
    struct message_attach attach = {.drive = wire_string(name),
                                    .writer = wire_string("instructions")};

    session_pair_put(&pair, OPERATION_DRIVE_ADD, &drive);
    session_pair_exchange(&pair, false);
    session_pair_put(&pair, OPERATION_BITMAP_CREATE, &create);
    session_pair_exchange(&pair, false);
    session_pair_put(&pair, OPERATION_ATTACH, &attach);
    session_pair_exchange(&pair, false);
    return pair.drive;
}

static void requests(void)
{
    session_pair_start(&pair);
    session_pair_connect(&pair);
    uint64_t small_bytes = UINT64_C(4) << 30;
    uint64_t large = add_drive("large", "large/bits", CHUNKS * CHUNK_BYTES);
    uint64_t small = add_drive("small", "small/bits", small_bytes);

    /* Each chunk has its memory, and the buffers their size. */
    mark(large, 0, 256 / BURST, BURST, 1, false);
    uint64_t number = 256;

    step_begin();
    mark(large, number, 125, BURST, 1, true);
    step_end("mark", 125 * BURST);

    step_begin();
    mark(large, number, 125, BURST, 1, true);
    step_end("mark-dirty", 125 * BURST);

    step_begin();
    settle(large, number, 125);
    step_end("settle", 125 * BURST);
    number += 125 * BURST;

    step_begin();
    mark(large, number, 500, 1, 1, true);
    step_end("mark-alone", 500);
    number += 500;

    step_begin();
    mark(large, number, 25, 4, RANGES, true);
    step_end("mark-ranges", 25 * 4 * RANGES);
    number += 25 * 4 * RANGES;

    step_begin();
    map("large/bits");
    step_end("map-sparse", pair.runs);

    step_begin();
    change(OPERATION_BITMAP_SET, number, 40);
    step_end("set", 40 * BURST);

    step_begin();
    change(OPERATION_BITMAP_CLEAR, number, 40);
    step_end("clear", 40 * BURST);

    fill(small, small_bytes);
    step_begin();
    map("small/bits");
    step_end("map", pair.runs);

    /* The first ones write everything, and make the container grow. */
    write_back(large, CHUNKS);
    write_back(large, CHUNKS);
    step_begin();
    for (unsigned i = 0; i < 4; i++) {
        write_back(large, CHUNKS);
    }
    step_end("write-back", 4 * CHUNKS);

    write_back(large, 1);
    step_begin();
    for (unsigned i = 0; i < 50; i++) {
        write_back(large, 1);
    }
    step_end("write-back-small", 50);
}

static void crash(void)
{
    session_pair_start(&pair);
    session_pair_connect(&pair);
    uint64_t large = add_drive("large", "large/bits", CHUNKS * CHUNK_BYTES);
    mark(large, 0, REPLAYED / BURST, BURST, 1, false);
}

static void start(void)
{
    step_begin();
    session_pair_start(&pair);
    step_end("replay", REPLAYED);
}

int main(int argc, char **argv)
{
    assert(argc == 3);
    session_pair_init(&pair, argv[2]);
    if (strcmp(argv[1], "requests") == 0) {
        requests();
    } else if (strcmp(argv[1], "crash") == 0) {
        crash();
    } else {
        assert(strcmp(argv[1], "start") == 0);
        start();
    }
    /* No orderly end: that would empty the journal. */
    int r = fflush(stdout);
    _exit(r == 0 ? EXIT_SUCCESS : EXIT_FAILURE);
}
