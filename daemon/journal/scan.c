/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Finds every batch of an instance that counts, in whichever files it stands.
 *
 * Nothing is concluded from where a batch stands or from what stands before it:
 * writes reach the disk in any order, a torn batch may precede a whole one, and
 * a reused segment still holds older ones.  So each block is looked at, but for
 * those inside a batch that counts.
 *
 * Invariant: what is listed has passed every rule of format.h, CRC of the
 * records included; damage only ever adds to the verdict and never hides a batch.
 */
#include "daemon/journal/internal.h"

#include "daemon/base/thread.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Read at once; whole batches may be larger. */
#define WINDOW_BYTES (UINT64_C(128) << 10)

void journal_scan_damage(struct journal_scan *scan, const char *format, ...)
{
    va_list args;

    if (scan->damage[0] != '\0') {
        return;
    }
    va_start(args, format);
    (void)vsnprintf(scan->damage, sizeof scan->damage, format, args);
    va_end(args);
}

/* To @bytes at least; what is in it stays. */
static int window_grow(struct journal_window *window, uint64_t bytes, struct error *error)
{
    if (bytes > window->capacity) {
        uint8_t *grown = realloc(window->bytes, (size_t)bytes);
        if (!grown) {
            return error_set_errno(error, -ENOMEM, "cannot read the journal");
        }
        window->bytes = grown;
        window->capacity = bytes;
    }
    return 0;
}

int journal_scan_read(struct journal_scan *scan, const struct journal_source *source,
                      uint64_t offset, uint32_t length, const uint8_t **ret, struct error *error)
{
    struct journal_window *w = &scan->window;
    int r;

    assert(offset <= source->bytes && length <= source->bytes - offset);
    assert(length <= JOURNAL_BATCH_BYTES_MAX + JOURNAL_BLOCK_BYTES);
    if (w->file != source->file || offset < w->offset || offset - w->offset > w->length ||
        length > w->length - (offset - w->offset)) {
        uint64_t wanted = length > WINDOW_BYTES ? length : WINDOW_BYTES;
        if (wanted > source->bytes - offset) {
            wanted = source->bytes - offset;
        }
        /* A batch whose beginning was read to see its header. */
        uint64_t have = w->file == source->file && w->offset == offset ? w->length : 0;
        w->file = NULL;
        r = window_grow(w, wanted, error);
        if (r < 0) {
            return r;
        }
        r = file_read(source->file, w->bytes + have, (size_t)(wanted - have), offset + have);
        if (r < 0) {
            return error_set_errno(error, r,
                                   "cannot read %" PRIu64 " bytes of journal segment %s at offset "
                                   "%" PRIu64,
                                   wanted - have, source->name, offset + have);
        }
        w->file = source->file;
        w->offset = offset;
        w->length = wanted;
    }
    *ret = w->bytes + (offset - w->offset);
    return 0;
}

static int found_add(struct journal_scan *scan, const struct journal_found *found,
                     struct error *error)
{
    if (scan->count == scan->capacity) {
        size_t capacity = scan->capacity ? 2 * scan->capacity : 1024;
        struct journal_found *grown = reallocarray(scan->found, capacity, sizeof *grown);

        if (!grown) {
            return error_set_errno(error, -ENOMEM, "cannot list the batches of the journal");
        }
        scan->found = grown;
        scan->capacity = capacity;
    }
    scan->found[scan->count++] = *found;
    return 0;
}

/* One block, and if a batch that counts begins there, all of it.  *ret_bytes: how far to go on. */
static int scan_block(struct journal_scan *scan, unsigned index,
                      const struct journal_replay_options *options, uint64_t offset,
                      uint64_t *ret_bytes, struct error *error)
{
    const struct journal_source *source = &scan->sources[index];
    struct journal_found found = {.offset = offset, .source = index};
    enum journal_batch_verdict verdict;
    const uint8_t *bytes;
    struct error words;
    int r;

    *ret_bytes = JOURNAL_BLOCK_BYTES;
    r = journal_scan_read(scan, source, offset, JOURNAL_BLOCK_BYTES, &bytes, error);
    if (r < 0) {
        return r;
    }
    verdict = journal_batch_header_parse(bytes, source->bytes - offset, &options->container,
                                         &options->instance, &found.batch, &words);
    if (verdict == JOURNAL_BATCH_COUNTS) {
        r = journal_scan_read(scan, source, offset, journal_batch_padded_bytes(found.batch.length),
                              &bytes, error);
        if (r < 0) {
            return r;
        }
        verdict = journal_batch_records_check(&found.batch, bytes + BATCH_HEADER_BYTES, &words);
    }
    switch (verdict) {
    case JOURNAL_BATCH_COUNTS:
        *ret_bytes = journal_batch_padded_bytes(found.batch.length);
        return found_add(scan, &found, error);
    case JOURNAL_BATCH_NONE:
        return 0;
    case JOURNAL_BATCH_MALFORMED:
        journal_scan_damage(scan, "journal segment %s, batch at offset %" PRIu64 ", %.120s",
                            source->name, offset, words.text);
        return 0;
    case JOURNAL_BATCH_NEWER:
        return error_set(error, -ENOTSUP, "journal segment %s, batch at offset %" PRIu64 ", %s",
                         source->name, offset, words.text);
    }
    return 0;
}

/* Opens one of the four names and finds out whether and how far to scan it. */
static int source_open(struct journal_scan *scan, struct journal_source *source,
                       const struct journal_files *files,
                       const struct journal_replay_options *options, struct error *error)
{
    CLEANUP(file_closep) struct file *file = NULL;
    struct journal_segment_header header;
    uint8_t block[JOURNAL_BLOCK_BYTES];
    struct error words;
    uint64_t size;
    int r;

    r = journal_files_open(files, source->name, false, &file, &words);
    if (r == -ENOENT) {
        return 0;
    }
    if (r < 0) {
        return error_set(error, r, "%s", words.text);
    }
    r = file_size(file, &size);
    if (r < 0) {
        return error_set_errno(error, r, "cannot tell the size of journal segment %s",
                               source->name);
    }
    if (size < JOURNAL_BLOCK_BYTES) {
        return 0; /* one that was being made, or nothing is left of it: then it will be missed */
    }
    r = file_read(file, block, sizeof block, 0);
    if (r < 0) {
        return error_set_errno(error, r, "cannot read the header of journal segment %s",
                               source->name);
    }
    switch (journal_segment_header_parse(block, &options->container, &options->instance, &header,
                                         &words)) {
    case JOURNAL_SEGMENT_SOUND:
        scan->sound |= 1u << header.index;
        scan->memory |= header.memory;
        if (size < header.segment_bytes) {
            journal_scan_damage(scan,
                                "journal segment %s: found %" PRIu64 " bytes, expected %" PRIu64,
                                source->name, size, header.segment_bytes);
        } else {
            size = header.segment_bytes;
        }
        break;
    case JOURNAL_SEGMENT_OTHER:
        scan->other |= source->final;
        return 0;
    case JOURNAL_SEGMENT_FOREIGN:
        scan->foreign = true;
        return 0;
    case JOURNAL_SEGMENT_NEWER:
        return error_set(error, -ENOTSUP, "journal segment %s: %s", source->name, words.text);
    case JOURNAL_SEGMENT_BROKEN:
        /* Whose it is cannot be told, but its batches tell whose they are.  No damage as long as
         * both our segments are found elsewhere. */
        if (size > JOURNAL_SEGMENT_BYTES_MAX) {
            size = JOURNAL_SEGMENT_BYTES_MAX;
        }
        break;
    }
    source->bytes = size - size % JOURNAL_BLOCK_BYTES;
    source->file = STEAL(file);
    return 0;
}

static int by_sequence(const void *left, const void *right)
{
    const struct journal_found *a = left, *b = right;

    if (a->batch.first_seq != b->batch.first_seq) {
        return a->batch.first_seq < b->batch.first_seq ? -1 : 1;
    }
    if (a->source != b->source) {
        return a->source < b->source ? -1 : 1;
    }
    return (a->offset > b->offset) - (a->offset < b->offset);
}

int journal_scan_open(struct journal_scan *scan, const struct journal_files *files,
                      const struct journal_replay_options *options, struct error *error)
{
    for (unsigned i = 0; i < JOURNAL_SOURCES; i++) {
        bool temporary = i >= JOURNAL_SEGMENTS;

        scan->sources[i].name = journal_segment_name(i % JOURNAL_SEGMENTS, temporary);
        scan->sources[i].final = !temporary;
        int r = source_open(scan, &scan->sources[i], files, options, error);
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

/* The batches of one source, found by themselves. */
struct part {
    struct journal_scan scan; /* has one source, which is another's */
    unsigned index;
    const struct journal_replay_options *options;
    bool threaded;
    pthread_t thread;
    int r;
    struct error error;
};

static void *part_run(void *opaque)
{
    struct part *part = opaque;
    uint64_t bytes;

    for (uint64_t at = JOURNAL_BLOCK_BYTES;
         part->r == 0 && at < part->scan.sources[part->index].bytes; at += bytes) {
        part->r = scan_block(&part->scan, part->index, part->options, at, &bytes, &part->error);
    }
    return NULL;
}

/* Adds what the part has found to what those before it have. */
static int part_join(struct journal_scan *scan, const struct part *part, struct error *error)
{
    const struct journal_scan *found = &part->scan;

    if (part->r < 0) {
        return error_set(error, part->r, "%s", part->error.text);
    }
    if (found->damage[0]) {
        journal_scan_damage(scan, "%s", found->damage);
    }
    for (size_t i = 0; i < found->count; i++) {
        int r = found_add(scan, &found->found[i], error);
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

/*
 * All sources side by side, since most of the time goes into copying them from the page cache: the
 * first here, each other one on a thread.  What comes of it is as if they had been taken in turn.
 * Files that the kernel has no part in are taken in turn.
 */
static int scan_sources(struct journal_scan *scan, const struct journal_replay_options *options,
                        struct error *error)
{
    struct part parts[JOURNAL_SOURCES];
    bool first = true;
    int r = 0;

    for (unsigned i = 0; i < JOURNAL_SOURCES; i++) {
        parts[i] = (struct part){.index = i, .options = options};
        parts[i].scan.sources[i] = scan->sources[i];
        if (scan->sources[i].file) {
            /* What was written directly is in no cache. */
            file_read_soon(scan->sources[i].file, 0, scan->sources[i].bytes);
        }
    }
    for (unsigned i = 0; i < JOURNAL_SOURCES; i++) {
        if (scan->sources[i].file) {
            parts[i].threaded = !first && file_descriptor(scan->sources[i].file) >= 0 &&
                                thread_start(&parts[i].thread, "scan", part_run, &parts[i]) == 0;
            first = false;
        }
    }
    for (unsigned i = 0; i < JOURNAL_SOURCES; i++) {
        if (parts[i].threaded) {
            (void)pthread_join(parts[i].thread, NULL);
        } else if (r == 0) {
            (void)part_run(&parts[i]);
        }
        if (r == 0) {
            r = part_join(scan, &parts[i], error);
        }
        free(parts[i].scan.found);
        free(parts[i].scan.window.bytes);
    }
    return r;
}

int journal_scan_run(struct journal_scan *scan, const struct journal_files *files,
                     const struct journal_replay_options *options, struct error *error)
{
    int r = journal_scan_open(scan, files, options, error);

    if (r < 0) {
        return r;
    }
    for (unsigned i = 0; i < JOURNAL_SEGMENTS; i++) {
        if (!(scan->sound & 1u << i)) {
            journal_scan_damage(scan,
                                "journal segment %u of the instance that the container names: "
                                "found none with a sound header, expected one",
                                i);
        }
    }
    r = scan_sources(scan, options, error);
    if (r < 0) {
        return r;
    }
    if (scan->count > 0) {
        qsort(scan->found, scan->count, sizeof *scan->found, by_sequence);
    }
    return 0;
}

void journal_scan_deinit(struct journal_scan *scan)
{
    for (unsigned i = 0; i < JOURNAL_SOURCES; i++) {
        file_close(scan->sources[i].file);
    }
    free(scan->found);
    free(scan->window.bytes);
}
