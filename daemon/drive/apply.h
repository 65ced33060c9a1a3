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
 * used; the rest is freed.
 *
 * Bits that change (set, clear, merge, a deleted checkpoint) do so where they are:
 * prepare() reserves the buffers for all the changes in @changing, and apply()
 * makes them.  In a transaction, which may have to be undone, or where bits are
 * carried whole that are to be cleared, the changes are made by prepare() in a
 * snapshot, @bits, and apply() swaps it in; so it is with enable and resize.  A
 * snapshot shares all dense chunks, each of which has to be copied when it changes.
 */
struct bitmap_state {
    char name[NAME_BYTES_MAX + 1];
    bool recording, gap;
    enum validity validity;
    char reason[MODEL_REASON_BYTES_MAX + 1];
    enum untracked untracked;
    uint64_t changed;
};

struct prepared {
    struct drive *drive; /* found, not owned */
    struct drive_bitmap *bitmap;
    struct drive_bitmap *elder; /* of a checkpoint's: the one before it */
    struct writer *writer;

    struct drive *new_drive; /* owned until apply() takes them */
    struct drive_bitmap *new_bitmap;
    struct writer *new_writer;
    struct bitmap *bits;
    struct drive_bitmap *changing; /* found: @need is, or will be, reserved in its bits */
    struct bitmap_need need;
    struct bitmap *removed_bits; /* of a deleted checkpoint */
    struct bitmap **resized;     /* in the order of drive->bitmaps */
    uint32_t resized_count;
    struct range *carried; /* that the record points to */
    char *identity, *evidence;
    struct request_result *request;

    bool carries;           /* the record says what */
    bool gap;               /* that a bitmap which does not record begins with */
    enum validity validity; /* that the new bits bring with them */
    char reason[MODEL_REASON_BYTES_MAX + 1];
    enum untracked untracked; /* likewise */

    /* What a transaction needs for undo(). */
    const struct bitmap_state *before; /* of bitmap and of elder */
    struct drive_bitmap *made;         /* by apply(); the model's */
    struct writer **dropped;           /* owned, with the writers */
    uint32_t dropped_count;
};

/*
 * In a transaction, undo() takes back what apply() did, in the reverse order; it cannot fail.  So
 * apply() leaves in struct prepared what it replaced, and model_commit() what the bitmaps were.
 */
typedef int record_prepare(struct model *model, struct record *record, struct prepared *prepared,
                           struct error *error);
typedef void record_apply(struct model *model, const struct record *record,
                          struct prepared *prepared);
typedef void record_undo(struct model *model, struct prepared *prepared);

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
record_prepare record_find_drive, record_find_bitmap, record_find_bitmap_of_any_kind,
    record_find_writer;
/* Takes a bitmap out of the model, and in time out of the container; hands over its bits. */
struct bitmap *remove_bitmap(struct model *model, struct drive_bitmap *bitmap);
/* … and in again. */
void restore_bitmap(struct model *model, struct drive *drive, struct drive_bitmap *bitmap,
                    struct bitmap *bits);
/*
 * Begins a change of the bits of @bitmap: in prepared->bits, which are a snapshot then, or, if that
 * will do, in place.  Then come changes of prepared->bits, or if there are none their needs, and
 * record_reserve().
 */
int record_begin_change(const struct model *model, struct drive_bitmap *bitmap, bool in_place,
                        struct prepared *prepared, struct error *error);
/* Merges, or adds the need of it. */
int record_merge(const struct record *record, const struct bitmap *source,
                 struct prepared *prepared, struct error *error);
int record_reserve(struct prepared *prepared, struct error *error);
/* The last act of a change in place, made or not. */
void record_end_change(struct prepared *prepared);
/* Swaps prepared->bits with those of @bitmap. */
void record_swap_bits(struct drive_bitmap *bitmap, struct prepared *prepared);
/* Everything but the bits, and not in which lists of checkpoints it stands. */
void bitmap_state_save(const struct drive_bitmap *bitmap, struct bitmap_state *ret);
void bitmap_state_restore(struct drive_bitmap *bitmap, const struct bitmap_state *state);

/* What the history calls a record's targets; "" for none. */
struct record_names {
    char drive[NAME_BYTES_MAX + 1];
    char bitmap[NAME_BYTES_MAX + 1];
};

void record_note(struct model *model, const struct record *record,
                 const struct record_names *names);
void prepared_deinit(struct prepared *prepared);
/* What could not be recorded before; -errno: nor can anything else be now. */
int record_verdicts(struct model *model, struct error *error);
/* Takes back what a part of a transaction did. */
void record_undo_part(struct model *model, enum record_type type, struct prepared *prepared);
/* Prepares and applies a part of a transaction under the transaction's sequence. */
int record_replay_part(struct model *model, struct record *record, struct error *error);

/* ---- transaction.c ---- */

/*
 * Takes over what was prepared for a part of the open transaction, encodes the record, and keeps
 * what undo() will need.  -ENOMEM, -EFBIG: nothing is taken.
 */
int transaction_take(struct model *model, const struct record *record,
                     const struct record_names *names, struct prepared *prepared,
                     struct error *error);
/* The part taken last. */
struct prepared *transaction_last(struct model *model);
record_prepare prepare_transaction;
record_apply apply_transaction;

/* ---- apply_drive.c ---- */

/* Copies the record's identity and evidence. */
int record_take_identity(const struct record *record, struct prepared *prepared,
                         struct error *error);

record_prepare prepare_drive_add, prepare_drive_set, prepare_drive_rename, prepare_drive_resize,
    prepare_drive_remove, prepare_drive_distrust, prepare_drive_unproven, prepare_drive_adopt;
record_apply apply_drive_add, apply_drive_set, apply_drive_rename, apply_drive_resize,
    apply_drive_remove, apply_drive_distrust, apply_drive_unproven, apply_drive_adopt;

/* ---- apply_bitmap.c ---- */

record_prepare prepare_bitmap_create, prepare_bitmap_enable, prepare_bitmap_rename,
    prepare_bitmap_set, prepare_bitmap_clear, prepare_bitmap_clear_all, prepare_bitmap_merge,
    prepare_bitmap_distrust;
record_apply apply_bitmap_create, apply_bitmap_delete, apply_bitmap_enable, apply_bitmap_disable,
    apply_bitmap_rename, apply_bitmap_set, apply_bitmap_clear, apply_bitmap_clear_all,
    apply_bitmap_merge, apply_bitmap_distrust;
record_undo undo_bitmap_create, undo_bitmap_delete, undo_bitmap_change;
/* Limits on one more bitmap that records. */
int record_check_room(const struct model *model, uint64_t size, uint32_t granularity,
                      struct error *error);

/*
 * ---- carry.c: they set in prepared->bits what the drive's writers have not settled ----
 *
 * Where prepared->bits are none, they add what carry_apply() needs in prepared->changing.
 */

/* First of all, if one needs to know whether record->carry_whole: the others do it themselves. */
record_prepare carry_collect;
/* Sets the ranges in prepared->changing, where they were reserved for. */
void carry_apply(const struct record *record, const struct prepared *prepared);

/*
 * Where its ranges are not all known, @base is carried whole (NULL: everything is set), and the
 * validity that results is in @prepared.
 */
int carry_from(struct model *model, struct record *record, const struct bitmap *base,
               struct prepared *prepared, struct error *error);
/* The same with the emptiest bitmap of the drive that records and vouches for what it has. */
record_prepare carry_any;
/* For bits that do not record: what is not known is their gap. */
record_prepare carry_disabled;

/* ---- apply_checkpoint.c ---- */

record_prepare prepare_checkpoint_create, prepare_checkpoint_delete;
record_apply apply_checkpoint_create, apply_checkpoint_delete;
record_undo undo_checkpoint_create, undo_checkpoint_delete;

/* ---- apply_mark.c ---- */

record_prepare prepare_mark;
record_apply apply_mark;

/* ---- apply_writer.c ---- */

record_prepare prepare_attach, prepare_detach, prepare_fence;
record_apply apply_attach, apply_lost, apply_resume, apply_detach, apply_fence;

#endif
