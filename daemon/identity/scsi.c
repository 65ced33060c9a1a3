/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The designator of a SCSI logical unit out of vital product data page 0x83
 * (SPC-4, 7.8.6), for where sysfs has the page and not what the kernel makes
 * of it.  The choice among several, and the spelling, are those of the
 * kernel's scsi_vpd_lun_id(), so that a disk's identity does not hang on which
 * of the two attributes is there.
 *
 * The page is the disk's: every length in it is checked against what there is.
 */
#include "daemon/identity/internal.h"

#include <stdio.h>
#include <string.h>

enum {
    PAGE_HEADER = 4,
    DESIGNATOR_HEADER = 4,
    TYPE_T10 = 1,
    TYPE_EUI = 2,
    TYPE_NAA = 3,
    TYPE_NAME = 8,
};

/* The longer, the less likely is a clash; 0: says nothing of the logical unit. */
static int priority(const uint8_t *d)
{
    if ((d[1] & 0x30) != 0 || d[3] == 0) {
        return 0; /* of a port or the target; or empty */
    }
    switch (d[1] & 0xf) {
    case TYPE_NAME:
        return 9;
    case TYPE_EUI:
        return d[3] == 16 ? 7 : d[3] == 12 ? 6 : d[3] == 8 ? 3 : 0;
    case TYPE_NAA:
        switch (d[4] >> 4) {
        case 6:
            return d[3] == 16 ? 8 : 0;
        case 5:
            return d[3] == 8 ? 5 : 0;
        case 4:
            return d[3] == 8 ? 4 : 0;
        case 3: /* chosen locally */
            return d[3] == 8 ? 1 : 0;
        default:
            return 0;
        }
    case TYPE_T10:
        return 1;
    default:
        return 0;
    }
}

static bool spell(const uint8_t *d, struct sysfs_text *ret)
{
    size_t length = d[3];
    const char *prefix;
    struct sysfs_text made = {.length = 0};

    switch (d[1] & 0xf) {
    case TYPE_EUI:
    case TYPE_NAA:
        prefix = (d[1] & 0xf) == TYPE_EUI ? "eui." : "naa.";
        made.length = 4;
        memcpy(made.bytes, prefix, made.length);
        for (size_t i = 0; i < length; i++) {
            (void)snprintf(made.bytes + made.length, 3, "%02x", d[DESIGNATOR_HEADER + i]);
            made.length += 2;
        }
        break;
    default:
        prefix = (d[1] & 0xf) == TYPE_T10 ? "t10." : "";
        made.length = strlen(prefix);
        memcpy(made.bytes, prefix, made.length);
        while (length > 0 && (d[DESIGNATOR_HEADER + length - 1] == ' ' ||
                              d[DESIGNATOR_HEADER + length - 1] == '\0')) {
            length--;
        }
        if (length == 0) {
            return false;
        }
        memcpy(made.bytes + made.length, d + DESIGNATOR_HEADER, length);
        made.length += length;
    }
    made.bytes[made.length] = '\0';
    *ret = made;
    return true;
}

bool scsi_designator(const uint8_t *page, size_t length, struct sysfs_text *ret)
{
    const uint8_t *best = NULL;

    if (length < PAGE_HEADER || page[1] != 0x83) {
        return false;
    }
    size_t end = PAGE_HEADER + ((size_t)page[2] << 8 | page[3]);
    end = end < length ? end : length;
    for (size_t at = PAGE_HEADER; end - at >= DESIGNATOR_HEADER;) {
        const uint8_t *d = page + at;
        if (d[3] > end - at - DESIGNATOR_HEADER) {
            break;
        }
        int p = priority(d);
        /* Of equals the later one, but a name or T10 identifier only when it is no shorter. */
        bool text = (d[1] & 0xf) == TYPE_NAME || (d[1] & 0xf) == TYPE_T10;
        if (p > 0 &&
            (!best || p > priority(best) || (p == priority(best) && (!text || d[3] >= best[3])))) {
            best = d;
        }
        at += DESIGNATOR_HEADER + (size_t)d[3];
    }
    return best && spell(best, ret);
}
