/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_TESTS_FUZZ_VIEW_H
#define BITMAPD_TESTS_FUZZ_VIEW_H

#include "daemon/container/container.h"

#include <stdio.h>
#include <stdlib.h>

/* What a fuzz target promises; the fuzzer takes the abort for a finding. */
#define MUST(condition)                                                                   \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            (void)fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                      \
        }                                                                                 \
    } while (0)

/* All that a container answers, boiled down. */
struct view_bitmap {
    uint64_t id;
    uint64_t shape; /* of name, granularity, size */
    uint64_t bits;
    bool good;  /* not damaged */
    bool noted; /* damaged, as a commit or a repair has noted, which is no finding */
};

struct view {
    struct container_info info;
    uint64_t payload;
    struct view_bitmap *bitmaps; /* info.bitmaps of them */
};

/* Reads every cluster. */
void view_take(struct container *container, struct view *ret);
void view_release(struct view *view);
const struct view_bitmap *view_find(const struct view *view, uint64_t id);
/* Whether there is any that is not noted. */
bool view_has_damage(const struct view *view);

/* An expected way to refuse a file: it has words, and is none of ours to debug. */
void view_check_refusal(int r, const struct error *error);

/* container_check(), whose findings must have words that a terminal can take. */
int view_check(struct file *file, struct container_check_report *ret);

/* The file is opened for reading.  NULL: refused. */
struct container *view_open(struct file *file, unsigned flags);

#endif
