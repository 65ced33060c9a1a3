/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * "NAME@UUID".  A base that is taken for another one is a corrupt backup, so
 * a UUID is all of its 36 characters or none: nothing is completed or ignored.
 */
#include "proto/base/checkpoint_ref.h"

#include <errno.h>
#include <string.h>

static int digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

static bool parse_uuid(const char *text, size_t length_bytes, uint8_t ret[16])
{
    if (length_bytes != CHECKPOINT_UUID_CHARACTERS) {
        return false;
    }
    for (size_t i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) {
            if (*text++ != '-') {
                return false;
            }
        }
        int high = digit(text[0]);
        int low = digit(text[1]);
        if (high < 0 || low < 0) {
            return false;
        }
        ret[i] = (uint8_t)(high << 4 | low);
        text += 2;
    }
    return true;
}

int checkpoint_ref_parse(const char *text, size_t length_bytes, struct checkpoint_ref *ret,
                         struct error *error)
{
    const char *at = length_bytes > 0 ? memchr(text, '@', length_bytes) : NULL;
    struct checkpoint_ref ref = {.name_bytes = at ? (size_t)(at - text) : length_bytes};

    int r = name_check(NAME_BITMAP, text, ref.name_bytes, error);
    if (r < 0) {
        return r;
    }
    if (at) {
        if (!parse_uuid(at + 1, length_bytes - ref.name_bytes - 1, ref.uuid)) {
            return error_set(error, -EINVAL, "what follows the '@' at byte %zu is no UUID",
                             ref.name_bytes);
        }
        ref.has_uuid = true;
    }
    *ret = ref;
    return 0;
}
