/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Segments: their header, and how they come to be and take their names.
 *
 * The files are written with zeros to their whole length, so that no later
 * write has to allocate (no -ENOSPC, no metadata behind an fdatasync), and are
 * synced before anyone relies on them.
 *
 * What each step of a start leaves for the next one, should it end there:
 *   1. The container is committed so that it needs no journal; whatever is there
 *      is removed (journal_remove()).
 *   2. journal_create() makes the new segments under the temporary names.
 *   3. The container commits the new instance.  Both its segments are there,
 *      under temporary names.
 *   4. journal_activate() renames them.  Under either name they are found.
 */
#include "daemon/journal/internal.h"

#include "proto/base/crc32c.h"
#include "proto/base/endian.h"

#include <assert.h>
#include <stdio.h>

#define ZEROS_BYTES (UINT64_C(1) << 20)

const char *journal_segment_name(unsigned index, bool temporary)
{
    static const char *const names[JOURNAL_SEGMENTS][2] = {
        {JOURNAL_NAME_0, JOURNAL_NAME_0_NEW},
        {JOURNAL_NAME_1, JOURNAL_NAME_1_NEW},
    };
    return names[index][temporary];
}

static uint32_t header_crc(const uint8_t block[JOURNAL_BLOCK_BYTES])
{
    const uint8_t zero[4] = {0};
    uint32_t crc = crc32c(0, block, SEGMENT_CRC);

    crc = crc32c(crc, zero, sizeof zero);
    return crc32c(crc, block + SEGMENT_CRC + 4, JOURNAL_BLOCK_BYTES - SEGMENT_CRC - 4);
}

void journal_segment_header_build(const struct journal_segment_header *header,
                                  uint8_t block[JOURNAL_BLOCK_BYTES])
{
    memset(block, 0, JOURNAL_BLOCK_BYTES);
    memcpy(block + SEGMENT_MAGIC, SEGMENT_MAGIC_VALUE, JOURNAL_MAGIC_BYTES);
    store_le32(block + SEGMENT_VERSION, JOURNAL_SEGMENT_VERSION);
    store_le32(block + SEGMENT_FLAGS, header->memory ? SEGMENT_FLAG_MEMORY : 0);
    memcpy(block + SEGMENT_CONTAINER, header->container.bytes, sizeof header->container.bytes);
    memcpy(block + SEGMENT_INSTANCE, header->instance.bytes, sizeof header->instance.bytes);
    store_le64(block + SEGMENT_LENGTH, header->segment_bytes);
    store_le32(block + SEGMENT_INDEX, header->index);
    store_le32(block + SEGMENT_CRC, header_crc(block));
}

static bool segment_bytes_good(uint64_t bytes)
{
    return bytes >= JOURNAL_SEGMENT_BYTES_MIN && bytes <= JOURNAL_SEGMENT_BYTES_MAX &&
           bytes % JOURNAL_BLOCK_BYTES == 0;
}

static enum journal_segment_verdict broken(struct error *error, const char *field, uint64_t found,
                                           const char *expected)
{
    error_set(error, -EBADMSG, "header, %s: found %" PRIu64 ", expected %s", field, found,
              expected);
    return JOURNAL_SEGMENT_BROKEN;
}

enum journal_segment_verdict journal_segment_header_parse(const uint8_t block[JOURNAL_BLOCK_BYTES],
                                                          const struct journal_id *container,
                                                          const struct journal_id *instance,
                                                          struct journal_segment_header *ret,
                                                          struct error *error)
{
    struct journal_segment_header header;
    uint32_t version, flags, crc;

    if (memcmp(block + SEGMENT_MAGIC, SEGMENT_MAGIC_VALUE, JOURNAL_MAGIC_BYTES) != 0) {
        error_set(error, -EBADMSG, "header, magic: found other bytes, expected \"%s\"",
                  SEGMENT_MAGIC_VALUE);
        return JOURNAL_SEGMENT_BROKEN;
    }
    crc = header_crc(block);
    if (load_le32(block + SEGMENT_CRC) != crc) {
        error_set(error, -EBADMSG, "header, CRC: found 0x%08" PRIx32 ", expected 0x%08" PRIx32,
                  load_le32(block + SEGMENT_CRC), crc);
        return JOURNAL_SEGMENT_BROKEN;
    }
    memcpy(header.container.bytes, block + SEGMENT_CONTAINER, sizeof header.container.bytes);
    memcpy(header.instance.bytes, block + SEGMENT_INSTANCE, sizeof header.instance.bytes);
    if (!journal_id_equal(&header.container, container)) {
        return JOURNAL_SEGMENT_FOREIGN;
    }
    if (!journal_id_equal(&header.instance, instance)) {
        return JOURNAL_SEGMENT_OTHER;
    }
    version = load_le32(block + SEGMENT_VERSION);
    if (version > JOURNAL_SEGMENT_VERSION) {
        error_set(error, -ENOTSUP, "header, version: found %" PRIu32 ", expected at most %u",
                  version, JOURNAL_SEGMENT_VERSION);
        return JOURNAL_SEGMENT_NEWER;
    }
    if (version == 0) {
        return broken(error, "version", version, "1 to 3");
    }
    flags = load_le32(block + SEGMENT_FLAGS);
    if (flags & ~SEGMENT_FLAG_MEMORY || (flags && version < 2)) {
        return broken(error, "flags", flags, version < 2 ? "0" : "0 or 1");
    }
    header.memory = flags & SEGMENT_FLAG_MEMORY;
    header.segment_bytes = load_le64(block + SEGMENT_LENGTH);
    header.index = load_le32(block + SEGMENT_INDEX);
    if (!segment_bytes_good(header.segment_bytes)) {
        return broken(error, "length", header.segment_bytes,
                      "a multiple of 4096 from 64 KiB to 1 GiB");
    }
    if (header.index >= JOURNAL_SEGMENTS) {
        return broken(error, "index", header.index, "0 or 1");
    }
    *ret = header;
    return JOURNAL_SEGMENT_SOUND;
}

static int segment_create(struct journal *journal, unsigned index, const uint8_t *zeros,
                          struct error *error)
{
    const struct journal_files *files = &journal->files;
    const char *name = journal_segment_name(index, true);
    struct journal_segment *segment = &journal->segments[index];
    uint8_t block[JOURNAL_BLOCK_BYTES];
    int r;

    r = journal_files_open(files, name, true, &segment->file, error);
    if (r < 0) {
        return r;
    }
    for (uint64_t at = 0; at < journal->segment_bytes; at += ZEROS_BYTES) {
        uint64_t left = journal->segment_bytes - at;
        size_t length = (size_t)(left < ZEROS_BYTES ? left : ZEROS_BYTES);

        r = file_write(segment->file, zeros, length, at);
        if (r < 0) {
            return error_set_errno(error, r, "cannot write zeros to journal segment %s", name);
        }
    }
    journal_segment_header_build(
        &(struct journal_segment_header){
            .container = journal->container,
            .instance = journal->instance,
            .segment_bytes = journal->segment_bytes,
            .index = index,
            .memory = journal->files.memory,
        },
        block);
    r = file_write(segment->file, block, sizeof block, 0);
    if (r < 0) {
        return error_set_errno(error, r, "cannot write the header of journal segment %s", name);
    }
    r = file_datasync(segment->file);
    if (r < 0) {
        return error_set_errno(error, r, "cannot sync journal segment %s", name);
    }
    segment->position = JOURNAL_BLOCK_BYTES;
    return 0;
}

/*
 * Final names go first, so that a crash in between does not leave segments under them that are
 * older than those in force.
 */
int journal_remove(const struct journal_files *files, struct error *error)
{
    for (unsigned temporary = 0; temporary < 2; temporary++) {
        for (unsigned i = 0; i < JOURNAL_SEGMENTS; i++) {
            int r = journal_files_unlink(files, journal_segment_name(i, temporary), error);
            if (r < 0) {
                return r;
            }
        }
        int r = journal_files_sync(files, error);
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

int journal_set_aside(const struct journal_files *files, const char *suffix, struct error *error)
{
    for (unsigned i = 0; i < 2 * JOURNAL_SEGMENTS; i++) {
        const char *name = journal_segment_name(i % JOURNAL_SEGMENTS, i < JOURNAL_SEGMENTS);
        CLEANUP_FREE char *to = NULL;

        if (asprintf(&to, "%s.%s", name, suffix) < 0) {
            to = NULL;
            return error_set_errno(error, -ENOMEM, "cannot set journal segment %s aside", name);
        }
        struct error words;
        int r = journal_files_rename(files, name, to, &words);
        if (r < 0 && r != -ENOENT) {
            return error_set(error, r, "%s", words.text);
        }
    }
    return 0;
}

DEFINE_CLEANUP(struct journal *, journal_close)

int journal_create(const struct journal_files *files, const struct journal_id *container,
                   const struct journal_id *instance, uint64_t segment_bytes, struct journal **ret,
                   struct error *error)
{
    CLEANUP(journal_closep) struct journal *journal = NULL;
    CLEANUP_FREE uint8_t *zeros = NULL;
    int r;

    if (!segment_bytes_good(segment_bytes)) {
        return error_set(error, -EINVAL,
                         "length of a journal segment: found %" PRIu64
                         ", expected a multiple of 4096 from 64 KiB to 1 GiB",
                         segment_bytes);
    }
    journal = calloc(1, sizeof *journal);
    zeros = calloc(1, ZEROS_BYTES);
    if (!journal || !zeros) {
        return error_set_errno(error, -ENOMEM, "cannot create the journal");
    }
    journal->files = *files;
    journal->container = *container;
    journal->instance = *instance;
    journal->segment_bytes = segment_bytes;
    journal->state = JOURNAL_GOOD;
    TAILQ_INIT(&journal->pending);
    TAILQ_INIT(&journal->spares);

    for (unsigned i = 0; i < JOURNAL_SEGMENTS; i++) {
        r = segment_create(journal, i, zeros, error);
        if (r < 0) {
            return r;
        }
    }
    *ret = STEAL(journal);
    return 0;
}

int journal_activate(struct journal *journal, struct error *error)
{
    for (unsigned i = 0; i < JOURNAL_SEGMENTS; i++) {
        struct journal_segment *segment = &journal->segments[i];
        struct error words;
        int r;

        if (segment->named) {
            continue;
        }
        r = journal_files_rename(&journal->files, journal_segment_name(i, true),
                                 journal_segment_name(i, false), &words);
        /* A rename that failed may have been done: only the sync behind it was missing, and
         * nothing depends on that. */
        if (r < 0 && !(r == -ENOENT && segment->rename_tried)) {
            segment->rename_tried = true;
            return error_set(error, r, "%s", words.text);
        }
        segment->named = true;
    }
    return 0;
}

void journal_close(struct journal *journal)
{
    if (!journal) {
        return;
    }
    TAILQ_CONCAT(&journal->pending, &journal->spares, link);
    while (!TAILQ_EMPTY(&journal->pending)) {
        struct journal_pending *pending = TAILQ_FIRST(&journal->pending);
        TAILQ_REMOVE(&journal->pending, pending, link);
        journal_pending_free(pending);
    }
    for (unsigned i = 0; i < JOURNAL_SEGMENTS; i++) {
        file_close(journal->segments[i].file);
    }
    free(journal);
}
