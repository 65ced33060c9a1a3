/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The verbs of bitmaps.
 *
 * `show` and `list` tell a bitmap's validity and succeed whatever it is; only
 * `map` turns an unknown one into an exit code, because only there does
 * somebody act on the bits.
 */
#include "client/ctl/bitmap.h"

#include "client/ctl/connection.h"
#include "client/ctl/exit.h"
#include "client/ctl/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

const char *bitmap_validity_name(int validity)
{
    switch (validity) {
    case BITMAPD_EXACT:
        return "exact";
    case BITMAPD_SUPERSET:
        return "superset";
    default:
        return "unknown";
    }
}

const char *untracked_words(const char *untracked)
{
    static char *words;

    free(words);
    words = NULL;
    if (untracked[0] == '\0') {
        return "ruled out";
    }
    if (asprintf(&words, "not ruled out: %s", untracked) < 0) {
        words = NULL;
        output_no_memory();
    }
    return words;
}

void untracked_add_json(json_object *object, const char *untracked)
{
    output_json_add_string(object, "untracked",
                           untracked[0] == '\0' ? "ruled-out" : "not-ruled-out");
    if (untracked[0] != '\0') {
        output_json_add_string(object, "untracked_reason", untracked);
    }
}

const char *bitmap_name_split(const char *full, char **ret_drive)
{
    const char *slash = strrchr(full, '/');

    *ret_drive = strndup(full, slash ? (size_t)(slash - full) : 0);
    return slash ? slash + 1 : full;
}

static json_object *bitmap_json(const struct bitmapd_bitmap *bitmap)
{
    CLEANUP_FREE char *drive = NULL;
    const char *name = bitmap_name_split(bitmap->name, &drive);
    json_object *object = output_json_new();

    if (!drive) {
        output_no_memory();
    }
    output_json_add_number(object, "id", bitmap->id);
    output_json_add_string(object, "drive", drive);
    output_json_add_string(object, "name", name);
    output_json_add_number(object, "granularity", bitmap->granularity);
    output_json_add_number(object, "size", bitmap->size);
    output_json_add_bool(object, "recording", bitmap->recording);
    output_json_add_bool(object, "gap", bitmap->gap);
    output_json_add_string(object, "validity", bitmap_validity_name(bitmap->validity));
    output_json_add_string(object, "reason", bitmap->reason);
    untracked_add_json(object, bitmap->untracked);
    output_json_add_number(object, "dirty_bytes", bitmap->dirty_bytes);
    output_json_add_number(object, "dirty_count", bitmap->dirty_count);
    return object;
}

/* A bitmap that skipped a mark is still exact for its own time, so that is said apart. */
static const char *recording_name(const struct bitmapd_bitmap *bitmap)
{
    return bitmap->recording ? "yes" : bitmap->gap ? "no, has skipped marks" : "no";
}

int bitmap_create(const struct invocation *inv)
{
    CLEANUP_CONNECTION bitmapd *handle = NULL;
    struct bitmapd_bitmap bitmap;
    char size[TEXT_SIZE_BYTES];

    int code = connection_open(inv, &handle);
    if (code != EXIT_DONE) {
        return code;
    }
    code = connection_result(handle, inv,
                             bitmapd_bitmap_create(handle, inv->operands[0], inv->granularity,
                                                   inv->given[OPTION_DISABLED], &bitmap));
    if (code != EXIT_DONE) {
        return code;
    }
    if (inv->format != OUTPUT_HUMAN) {
        output_json_print(bitmap_json(&bitmap));
    } else {
        output_print("created bitmap %s: granularity %s, %s\n", output_text(bitmap.name),
                     text_size(bitmap.granularity, size),
                     bitmap.recording ? "recording" : "disabled");
    }
    return EXIT_DONE;
}

static void list_bitmap(void *opaque, const struct bitmapd_bitmap *bitmap)
{
    struct output_list *list = opaque;
    char granularity[TEXT_SIZE_BYTES];
    char dirty[TEXT_SIZE_BYTES];

    if (output_list_is_json(list)) {
        output_list_add_object(list, bitmap_json(bitmap));
        return;
    }
    output_list_add_row(
        list, (const char *const[]){bitmap->name, text_size(bitmap->granularity, granularity),
                                    recording_name(bitmap), text_size(bitmap->dirty_bytes, dirty),
                                    bitmap_validity_name(bitmap->validity), bitmap->reason,
                                    untracked_words(bitmap->untracked)});
}

int bitmap_list(const struct invocation *inv)
{
    static const struct output_column columns[] = {
        {"NAME", false},     {"GRANULARITY", true}, {"RECORDING", false}, {"DIRTY", true},
        {"VALIDITY", false}, {"REASON", false},     {"UNTRACKED", false},
    };
    CLEANUP_CONNECTION bitmapd *handle = NULL;

    int code = connection_open(inv, &handle);
    if (code != EXIT_DONE) {
        return code;
    }
    CLEANUP(output_list_freep)
    struct output_list *list =
        output_list_new(inv->format, "bitmaps", columns, sizeof columns / sizeof columns[0]);
    const char *drive = inv->operands_count > 0 ? inv->operands[0] : NULL;
    code = connection_result(handle, inv, bitmapd_bitmap_list(handle, drive, list_bitmap, list));
    if (code == EXIT_DONE) {
        output_list_print(STEAL(list));
    }
    return code;
}

int bitmap_show(const struct invocation *inv)
{
    CLEANUP_CONNECTION bitmapd *handle = NULL;
    struct bitmapd_bitmap bitmap;
    char size[TEXT_SIZE_BYTES];

    int code = connection_open(inv, &handle);
    if (code != EXIT_DONE) {
        return code;
    }
    code = connection_result(handle, inv, bitmapd_bitmap_show(handle, inv->operands[0], &bitmap));
    if (code != EXIT_DONE) {
        return code;
    }
    if (inv->format != OUTPUT_HUMAN) {
        output_json_print(bitmap_json(&bitmap));
        return EXIT_DONE;
    }
    output_print("bitmap:       %s\n", output_text(bitmap.name));
    output_print("granularity:  %s\n", text_size(bitmap.granularity, size));
    output_print("drive size:   %" PRIu64 " (%s)\n", bitmap.size, text_size(bitmap.size, size));
    output_print("recording:    %s\n", recording_name(&bitmap));
    output_print("validity:     %s%s%s\n", bitmap_validity_name(bitmap.validity),
                 bitmap.reason[0] ? ": " : "", output_text(bitmap.reason));
    output_print("untracked:    %s\n", output_text(untracked_words(bitmap.untracked)));
    output_print("dirty:        %" PRIu64 " bytes (%s) in %" PRIu64 " granules\n",
                 bitmap.dirty_bytes, text_size(bitmap.dirty_bytes, size), bitmap.dirty_count);
    return EXIT_DONE;
}

static int change(const struct invocation *inv, int (*request)(bitmapd *, const char *))
{
    CLEANUP_CONNECTION bitmapd *handle = NULL;

    int code = connection_open(inv, &handle);
    return code != EXIT_DONE ? code
                             : connection_done(handle, inv, request(handle, inv->operands[0]));
}

int bitmap_delete(const struct invocation *inv)
{
    return change(inv, bitmapd_bitmap_delete);
}

int bitmap_enable(const struct invocation *inv)
{
    return change(inv, bitmapd_bitmap_enable);
}

int bitmap_disable(const struct invocation *inv)
{
    return change(inv, bitmapd_bitmap_disable);
}

int bitmap_rename(const struct invocation *inv)
{
    CLEANUP_CONNECTION bitmapd *handle = NULL;

    int code = connection_open(inv, &handle);
    return code != EXIT_DONE
               ? code
               : connection_done(handle, inv,
                                 bitmapd_bitmap_rename(handle, inv->operands[0], inv->operands[1]));
}

static int change_range(const struct invocation *inv,
                        int (*request)(bitmapd *, const char *, uint64_t, uint64_t))
{
    CLEANUP_CONNECTION bitmapd *handle = NULL;

    int code = connection_range(inv);
    if (code == EXIT_DONE) {
        code = connection_open(inv, &handle);
    }
    return code != EXIT_DONE
               ? code
               : connection_done(handle, inv,
                                 request(handle, inv->operands[0], inv->offset, inv->length));
}

int bitmap_set(const struct invocation *inv)
{
    return change_range(inv, bitmapd_bitmap_set);
}

int bitmap_clear(const struct invocation *inv)
{
    return inv->given[OPTION_ALL] ? change(inv, bitmapd_bitmap_clear_all)
                                  : change_range(inv, bitmapd_bitmap_clear);
}

int bitmap_merge(const struct invocation *inv)
{
    CLEANUP_CONNECTION bitmapd *handle = NULL;

    int code = connection_open(inv, &handle);
    return code != EXIT_DONE
               ? code
               : connection_done(handle, inv,
                                 bitmapd_bitmap_merge(handle, inv->operands[0],
                                                      (const char *const *)inv->operands + 1,
                                                      inv->operands_count - 1));
}
