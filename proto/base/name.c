/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a drive, bitmap or checkpoint may be called.  Names end up in paths,
 * scripts, logs and the container's bitmap table, so whatever could be
 * mistaken there (controls, spaces, a leading dash, '@') is refused at the
 * door; bytes are checked before they are ever printed.
 */
#include "proto/base/name.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>

/* Length of the well-formed UTF-8 sequence at p (RFC 3629), 0 when it is not one. */
static size_t utf8_sequence(const uint8_t *p, size_t left, uint32_t *ret_codepoint)
{
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t n;
    uint32_t c;

    if (p[0] < 0x80) {
        *ret_codepoint = p[0];
        return 1;
    }
    if ((p[0] & 0xe0) == 0xc0) {
        n = 2;
        c = p[0] & 0x1f;
    } else if ((p[0] & 0xf0) == 0xe0) {
        n = 3;
        c = p[0] & 0x0f;
    } else if ((p[0] & 0xf8) == 0xf0) {
        n = 4;
        c = p[0] & 0x07;
    } else {
        return 0;
    }
    if (n > left) {
        return 0;
    }
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80) {
            return 0;
        }
        c = c << 6 | (p[i] & 0x3f);
    }
    if (c < smallest[n] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)) {
        return 0;
    }
    *ret_codepoint = c;
    return n;
}

int name_check(enum name_kind kind, const char *name, size_t length_bytes, struct error *error)
{
    const char *what = kind == NAME_DRIVE ? "drive name" : "name";

    if (length_bytes == 0) {
        return error_set(error, -EINVAL, "%s is empty", what);
    }
    if (length_bytes > NAME_BYTES_MAX) {
        return error_set(error, -EINVAL, "%s is %zu bytes long, more than %d", what, length_bytes,
                         NAME_BYTES_MAX);
    }
    if (name[0] == '-') {
        return error_set(error, -EINVAL, "%s begins with '-'", what);
    }
    for (size_t i = 0; i < length_bytes;) {
        uint32_t c;
        size_t n = utf8_sequence((const uint8_t *)name + i, length_bytes - i, &c);
        if (n == 0) {
            return error_set(error, -EINVAL, "%s is not UTF-8 at byte %zu", what, i);
        }
        if (c <= 0x20 || (c >= 0x7f && c <= 0x9f)) {
            return error_set(error, -EINVAL, "%s has a %s at byte %zu", what,
                             c == 0x20 ? "space" : "control character", i);
        }
        if (c == '@') {
            return error_set(error, -EINVAL, "%s has an '@' at byte %zu", what, i);
        }
        if (c == '/' && kind == NAME_BITMAP) {
            return error_set(error, -EINVAL, "%s has a '/' at byte %zu", what, i);
        }
        if (c == '/' && (i == 0 || i + 1 == length_bytes || name[i + 1] == '/')) {
            return error_set(error, -EINVAL, "%s has an empty part at byte %zu", what, i);
        }
        i += n;
    }
    return 0;
}

int name_split(const char *full, size_t length_bytes, size_t *ret_drive_bytes, struct error *error)
{
    const char *slash = length_bytes ? memrchr(full, '/', length_bytes) : NULL;
    if (!slash) {
        return error_set(error, -EINVAL, "expected DRIVE/NAME, got no '/'");
    }
    size_t drive_bytes = (size_t)(slash - full);
    int r = name_check(NAME_DRIVE, full, drive_bytes, error);
    if (r == 0) {
        r = name_check(NAME_BITMAP, slash + 1, length_bytes - drive_bytes - 1, error);
    }
    if (r < 0) {
        return r;
    }
    *ret_drive_bytes = drive_bytes;
    return 0;
}
