/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_PROTO_BASE_ACCESS_H
#define BITMAPD_PROTO_BASE_ACCESS_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Who may do what, as the configuration says it, the daemon decides by it and
 * RESTRICT names it on the wire.
 */
enum access_right {
    ACCESS_READ = 1 << 0,    /* what is there, and maps */
    ACCESS_TRACK = 1 << 1,   /* write to the drive: marks, attachments */
    ACCESS_OPERATE = 1 << 2, /* bitmaps and checkpoints */
    ACCESS_ADMIN = 1 << 3,   /* drives, and the daemon itself */
};

#define ACCESS_ALL    0xfu
#define ACCESS_RIGHTS 4u /* how many there are */

/* In the order of their bits; ends with NULL. */
extern const char *const access_right_names[ACCESS_RIGHTS + 1];

/* With what a right includes: operate has read, admin has all; track has no other. */
uint32_t access_rights_with_included(uint32_t rights);

/* "read or track"; @rights holds at least one. */
#define ACCESS_WORDS_BYTES 48
const char *access_rights_words(uint32_t rights, char buffer[ACCESS_WORDS_BYTES]);

/* Gives rights on drives to one user, or to a group's members. */
struct access_rule {
    bool group;      /* @id is a group's */
    uint32_t id;     /* uid or gid */
    char *who;       /* as it was written */
    uint32_t rights; /* enum access_right, as they were written */
    char **drives;   /* fnmatch(3) patterns of names; none: all drives */
    uint32_t drives_count;
};

#define ACCESS_RULES_MAX         256u
#define ACCESS_PATTERNS_MAX      64u /* of a rule */
#define ACCESS_PATTERN_BYTES_MAX 255u

#endif
