/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_TESTS_DRIVE_PAST_H
#define BITMAPD_TESTS_DRIVE_PAST_H

/* Checkpoints, transactions and what else concerns a drive's past, on a harness's model. */

#include "tests/drive/harness.h"

/* Reads what the last commit was in want of, and holds it; the outcome of the fetch. */
int past_fetch(struct harness *harness, struct model_fetch *fetch);
/* Commits, fetches as long as that is wanted, … */
int past_commit_only(struct harness *harness, struct record *record);
/* … and waits.  -errno of any of these. */
int past_commit(struct harness *harness, struct record *record);

/* Creates a checkpoint, which must work; the record's sequence. */
uint64_t past_create(struct harness *harness, const char *drive, const char *name);
int past_try_create(struct harness *harness, const char *drive, const char *name);
int past_try_delete(struct harness *harness, const char *drive, const char *name);
void past_delete(struct harness *harness, const char *drive, const char *name); /* must work */
/* NULL when there is none. */
struct drive_bitmap *past_find(struct harness *harness, const char *drive, const char *name);

/*
 * The map from one checkpoint to another, or to now (@until NULL), waited for.  The caller frees
 * ret->bits.
 */
int past_union(struct harness *harness, const char *drive, const char *since, const char *until,
               struct model_union *ret);
/* Whether such a map has the byte dirty, and how many bytes are. */
bool past_is_dirty(struct harness *harness, const char *drive, const char *since, uint64_t offset);
uint64_t past_dirty_bytes(struct harness *harness, const char *drive, const char *since,
                          const char *until);
/* What the map since then is worth. */
enum validity past_validity(struct harness *harness, const char *drive, const char *since);

void past_flush(struct harness *harness);
void past_restart(struct harness *harness);
/*
 * As by kill -9 once everything is acknowledged, in two steps, so that the connections can be
 * ended between them: the files are copied; and the model is closed, its files replaced by the
 * copies, under the same inode of the container, and opened again.
 */
void past_crash_begin(struct harness *harness);
void past_crash_end(struct harness *harness);
void past_crash_take(struct harness *harness); /* of these the second, of a model that is closed */
void past_crash(struct harness *harness);      /* both */

/* Another boot of the host, from the next start on. */
void past_reboot(struct harness *harness);

struct writer *past_attach(struct harness *harness, const char *drive,
                           const struct writer_attachment *how);
void past_detach(struct harness *harness, struct writer *writer, const char *evidence);
void past_mark(struct harness *harness, struct writer *writer, uint64_t id, uint64_t offset,
               uint64_t length);
void past_fence(struct harness *harness, const char *drive, const char *token);

/*
 * The whole of the model as bytes: its state's encoding, then the bits of each bitmap that has
 * them, and what else must not differ after something was undone.  The caller frees it.
 */
struct past_image {
    uint8_t *bytes;
    size_t length;
};

void past_image_take(struct harness *harness, struct past_image *ret);
void past_image_free(struct past_image *image);
/* Fails the test where it is not as it is now. */
void past_image_check(struct harness *harness, const struct past_image *image);

/* Lists, counters and what is sealed agree with each other. */
void past_check_books(struct model *model);

#endif
