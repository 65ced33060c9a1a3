/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_TESTS_DRIVE_SHADOW_H
#define BITMAPD_TESTS_DRIVE_SHADOW_H

#include "tests/drive/past.h"

/* The naive model of the promise that test_random.c tells of. */

#define DRIVES      2
#define BITMAPS     4 /* of a drive */
#define WRITERS     3 /* of a drive; the last is anonymous */
#define CHECKPOINTS 5 /* of a drive */
#define MARKS       40
#define SIZE_MAX_   (UINT64_C(5) << 20)
#define GRANULES    (SIZE_MAX_ / 512)

struct shadow_bitmap {
    bool exists, recording, gap, unknown;
    uint32_t granularity;
    char name[16]; /* of a checkpoint's */
    bool must[GRANULES], may[GRANULES];
};

struct shadow_writer {
    struct writer *writer; /* NULL: not connected */
    bool attached;         /* the daemon knows the token */
    bool unaccounted;      /* the daemon has forgotten what it had not settled */
    bool continues;        /* it goes on without the daemon */
    bool resuming;         /* attached again, and has not said that it has marked again */
    uint64_t next_id;
    struct {
        uint64_t id; /* 0: free */
        bool old;    /* of a connection that was lost */
        struct range range;
    } marks[MARKS];
};

struct shadow_drive {
    char name[16];
    uint64_t size;
    struct shadow_bitmap bitmaps[BITMAPS];
    struct shadow_bitmap history[CHECKPOINTS]; /* eldest first; the last one records */
    unsigned checkpoints, created;
    struct shadow_writer writers[WRITERS];
};

extern struct shadow_drive shadow_drives[DRIVES];
extern struct harness shadow_harness;

void shadow_full_name(char buffer[32], const struct shadow_drive *drive, size_t bitmap);
void shadow_touch(const struct shadow_bitmap *bitmap, bool *bits, struct range range);
/* What starts recording begins with unsettled ranges, and with whatever doubt there is. */
void shadow_carry(const struct shadow_drive *drive, struct shadow_bitmap *bitmap);
/* A disabled bitmap begins with them too, or, when they are not known, with a gap. */
void shadow_carry_disabled(const struct shadow_drive *drive, struct shadow_bitmap *bitmap);
void shadow_mark(struct shadow_drive *drive, struct range range);
/* Takes what one has into another, granule by granule. */
void shadow_merge(const struct shadow_drive *drive, struct shadow_bitmap *target,
                  const struct shadow_bitmap *source);
void shadow_clear_all(const struct shadow_drive *drive, struct shadow_bitmap *bitmap);
/* Marks may be missing from now on. */
void shadow_lose_track(struct shadow_drive *drive);
/* Whether somebody writes to the drive without marks, as far as anybody knows. */
bool shadow_in_doubt(const struct shadow_drive *drive);
void shadow_grow(struct shadow_drive *drive, uint64_t size);

/* A new one after all others, which is sealed with that; @name is copied. */
void shadow_checkpoint(struct shadow_drive *drive, const char *name, uint32_t granularity);
void shadow_checkpoint_delete(struct shadow_drive *drive, unsigned victim);

/* Fails the test unless the model says what it has to say. */
void shadow_check(void);

#endif
