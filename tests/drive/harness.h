/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_TESTS_DRIVE_HARNESS_H
#define BITMAPD_TESTS_DRIVE_HARNESS_H

/* A model on a loop and in a directory of the test's own. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/drive/model.h"

struct harness {
    uv_loop_t loop;
    char directory[64];
    char container[128];
    char journal[128];
    char catalog[128];
    struct model_settings settings;
    struct model *model; /* NULL while closed */
    struct error error;  /* of the last call that failed */
};

/* Makes the directory; settings have 512-byte clusters and a long interval. */
void harness_init(struct harness *harness);
void harness_deinit(struct harness *harness); /* closes what is open; removes the directory */

int harness_try_open(struct harness *harness, unsigned flags);
void harness_open(struct harness *harness); /* … must work */
int harness_close(struct harness *harness); /* orderly; what model_close() told */

/* Waits for a watermark; the waiter's result. */
int harness_wait(struct harness *harness, uint64_t sequence, enum ack_level level);
/* Commits, and waits for what was committed.  -errno of either. */
int harness_commit(struct harness *harness, struct record *record);

struct text text_of(const char *string);
/* Each must work, and stores words on failure. */
uint64_t harness_add_drive(struct harness *harness, const char *name, uint64_t size);
uint64_t harness_add_bitmap(struct harness *harness, const char *full, uint32_t granularity,
                            bool disabled);
int harness_bitmap_do(struct harness *harness, enum record_type type, const char *full);
int harness_clear(struct harness *harness, const char *full, uint64_t offset, uint64_t length);
void harness_mark(struct harness *harness, const char *drive, uint64_t offset, uint64_t length);

struct drive *harness_drive(struct harness *harness, const char *name);
struct drive_bitmap *harness_bitmap(struct harness *harness, const char *full); /* must exist */
/* Whether a map answers that the byte is dirty. */
bool harness_is_dirty(struct harness *harness, const char *full, uint64_t offset);

/* Two drives with three bitmaps and some marks, all acknowledged; and whether they are there. */
void harness_fill(struct harness *harness);
void harness_check_filled(struct harness *harness);

/* Removes the journal's files. */
void harness_lose_journal(struct harness *harness);

/* Runs @body in a child process that then dies at once, as by kill -9. */
void harness_crash_after(struct harness *harness, void (*body)(struct harness *harness));

#endif
