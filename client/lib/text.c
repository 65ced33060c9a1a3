/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Strings on their way out and in.  What names are right is the daemon's to
 * judge; here is refused only what cannot be put into a frame.
 */
#include "client/lib/internal.h"

#include "proto/base/endian.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

/* ---- Of requests ---- */

int text_check(const char *what, const char *text, size_t max, struct error *error)
{
    if (!text || text[0] == '\0') {
        return error_set(error, -EINVAL, "%s is empty", what);
    }
    if (strnlen(text, max + 1) > max) {
        return error_set(error, -EINVAL, "%s is longer than %zu bytes", what, max);
    }
    return 0;
}

int client_check_text(struct bitmapd *handle, const char *what, const char *text, size_t max)
{
    return text_check(what, text, max, &handle->error);
}

int text_encode_strings(const char *what, const char *const *texts, size_t count, size_t max,
                        struct wire_buffer *scratch, struct wire_strings *ret, struct error *error)
{
    if (count == 0 || count > UINT16_MAX) {
        return error_set(error, -EINVAL, "%s: %zu of them are not between 1 and %u", what, count,
                         UINT16_MAX);
    }
    scratch->bytes = 0;
    for (size_t i = 0; i < count; i++) {
        int r = text_check(what, texts[i], max, error);
        if (r < 0) {
            return r;
        }
        uint16_t length = (uint16_t)strlen(texts[i]);
        r = wire_buffer_reserve(scratch, 2u + length);
        if (r < 0) {
            return error_set(error, r, "%s: out of memory", what);
        }
        store_le16(scratch->data + scratch->bytes, length);
        memcpy(scratch->data + scratch->bytes + 2, texts[i], length);
        scratch->bytes += 2u + length;
    }
    *ret = (struct wire_strings){
        .data = scratch->data,
        .bytes = (uint32_t)scratch->bytes,
        .count = (uint16_t)count,
    };
    return 0;
}

/* ---- Of replies ---- */

int client_text_begin(struct bitmapd *handle, size_t bytes, unsigned strings)
{
    handle->text.bytes = 0;
    return wire_buffer_reserve(&handle->text, bytes + strings);
}

const char *client_text_add(struct bitmapd *handle, struct wire_string string)
{
    struct wire_buffer *text = &handle->text;
    char *start = (char *)text->data + text->bytes;

    assert(string.length < text->capacity - text->bytes);
    if (string.length > 0) {
        memcpy(start, string.data, string.length);
    }
    start[string.length] = '\0';
    text->bytes += string.length + 1u;
    return start;
}
