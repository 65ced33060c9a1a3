/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_CLIENT_CTL_MAP_H
#define BITMAPD_CLIENT_CTL_MAP_H

#include "client/ctl/output.h"
#include "client/lib/bitmapd.h"

/*
 * Turns the dirty runs of a drive into text, whole or run by run.
 *
 * OUTPUT_HUMAN: a line "OFFSET LENGTH dirty|clean" for each extent of the drive.
 * OUTPUT_JSON: one array of {"offset","length","type","description"} with the same extents.
 * OUTPUT_NDJSON: a line {"byte_offset","size_bytes"} for each dirty run, then the end record
 * {"complete":true,"tuples":N,"crc32c":C}; C is over the runs as pairs of little-endian 64-bit
 * numbers, as on the wire.
 *
 * Touching runs are merged.  Nothing that finishes the text is written before
 * map_writer_finish(), so text that was cut short can be told.
 */
struct map_writer {
    enum output_format format;
    void (*write)(void *opaque, const void *text, size_t bytes);
    void *opaque;

    uint64_t size;                /* of the drive in bytes */
    uint64_t done;                /* bytes of the drive that are printed */
    struct bitmapd_range pending; /* a dirty run that the next may touch; length 0: none */
    uint64_t extents;             /* printed; for NDJSON the tuples */
    uint32_t crc;
    unsigned width; /* of the human columns */

    size_t used;
    char buffer[1 << 16];
};

void map_writer_init(struct map_writer *writer, enum output_format format, uint64_t size,
                     void (*write)(void *opaque, const void *text, size_t bytes), void *opaque);

/* -EPROTO when a run is empty, before the end of the one before it, or past the drive's end. */
int map_writer_add(struct map_writer *writer, const struct bitmapd_range *runs, size_t count);

void map_writer_finish(struct map_writer *writer);

/* {"name","uuid","sequence"} of a checkpoint, NULL (JSON's null) when @name is "". */
json_object *map_checkpoint_json(const char *name, const uint8_t uuid[16], uint64_t sequence);

#endif
