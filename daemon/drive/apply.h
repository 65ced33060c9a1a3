/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_DRIVE_APPLY_H
#define BITMAPD_DAEMON_DRIVE_APPLY_H

/* Shared by record.c and the apply_*.c files. */

#include "daemon/drive/internal.h"

/*
 * How one type of record is validated and prepared, and applied.
 *
 * prepare() may fail and then has changed nothing; it puts whatever apply()
 * needs into struct prepared.  apply() cannot fail and takes out what it
 * used; the rest is freed.  Bits that are replaced as a whole (set, clear,
 * merge, enable, resize) are built on a snapshot, which shares all unchanged
 * chunks, and swapped in.
 */
struct prepared {
    struct drive *drive; /* found, not owned */
    struct drive_bitmap *bitmap;
    struct writer *writer;

    struct drive *new_drive; /* owned until apply() takes them */
    struct drive_bitmap *new_bitmap;
    struct writer *new_writer;
    struct bitmap *bits;
    struct bitmap **resized; /* in the order of drive->bitmaps */
    uint32_t resized_count;
    struct range *carried; /* that the record points to */
    struct request_result *request;

    bool gap;               /* that a bitmap which does not record begins with */
    enum validity validity; /* that the new bits bring with them */
    char reason[MODEL_REASON_BYTES_MAX + 1];
};

typedef int record_prepare(struct model *model, struct record *record, struct prepared *prepared,
                           struct error *error);
typedef void record_apply(struct model *model, const struct record *record,
                          struct prepared *prepared);

/* ---- record.c: what several types check ---- */

int record_no_memory(struct error *error);
int record_check_range(const struct drive *drive, struct range range, struct error *error);
int record_check_ranges(const struct drive *drive, const struct record *record,
                        struct error *error);
int record_check_granularity(uint32_t granularity, struct error *error);
/* A size and a granularity that a bitmap can have. */
int record_check_geometry(uint64_t size, uint32_t granularity, struct error *error);
int record_check_size(uint64_t size, struct error *error);
int record_check_durability(enum durability durability, struct error *error);
/* A name for a bitmap of @drive that nothing else has. */
int record_check_bitmap_name(const struct model *model, struct drive *drive, struct text name,
                             struct error *error);
/* These find the record's target, and are all that some types prepare. */
record_prepare record_find_drive, record_find_bitmap, record_find_writer;
/* Takes a bitmap out of the model, and in time out of the container. */
void remove_bitmap(struct model *model, struct drive_bitmap *bitmap);

/* ---- apply_drive.c ---- */

record_prepare prepare_drive_add, prepare_drive_set, prepare_drive_rename, prepare_drive_resize,
    prepare_drive_remove;
record_apply apply_drive_add, apply_drive_set, apply_drive_rename, apply_drive_resize,
    apply_drive_remove, apply_drive_distrust;

/* ---- apply_bitmap.c ---- */

record_prepare prepare_bitmap_create, prepare_bitmap_enable, prepare_bitmap_rename,
    prepare_bitmap_set, prepare_bitmap_clear, prepare_bitmap_clear_all, prepare_bitmap_merge;
record_apply apply_bitmap_create, apply_bitmap_delete, apply_bitmap_enable, apply_bitmap_disable,
    apply_bitmap_rename, apply_bits, apply_bitmap_clear_all;

/* ---- apply_mark.c ---- */

record_prepare prepare_mark;
record_apply apply_mark;

/* ---- apply_writer.c ---- */

record_prepare prepare_attach, prepare_fence;
record_apply apply_attach, apply_lost, apply_resume, apply_detach, apply_fence;

#endif
