/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The verbs of drives.
 */
#include "client/ctl/bitmap.h"
#include "client/ctl/connection.h"
#include "client/ctl/exit.h"
#include "client/ctl/text.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char *durability_name(int durability)
{
    switch (durability) {
    case BITMAPD_DURABILITY_POWER_LOSS:
        return "power-loss";
    case BITMAPD_DURABILITY_PROCESS_CRASH:
        return "process-crash";
    default:
        return "other"; /* of a newer daemon */
    }
}

static json_object *drive_json(const struct bitmapd_drive *drive)
{
    json_object *object = output_json_new();

    output_json_add_number(object, "id", drive->id);
    output_json_add_string(object, "name", drive->name);
    output_json_add_string(object, "path", drive->path);
    output_json_add_number(object, "size", drive->size);
    output_json_add_number(object, "granularity", drive->granularity);
    output_json_add_string(object, "durability", durability_name(drive->durability));
    output_json_add_number(object, "bitmaps", drive->bitmaps);
    output_json_add_number(object, "recording", drive->recording);
    output_json_add_number(object, "writers", drive->writers);
    output_json_add_number(object, "lost_writers", drive->lost_writers);
    output_json_add_number(object, "unsettled", drive->unsettled);
    output_json_add_number(object, "checkpoints", drive->checkpoints);
    output_json_add_string(object, "identity", drive->identity);
    untracked_add_json(object, drive->untracked);
    return object;
}

/* The absolute form of @path, which need not exist; symbolic links stay as the user wrote them. */
static char *absolute_path(const char *path)
{
    CLEANUP_FREE char *directory = NULL;
    char *result = NULL;

    if (path[0] == '/') {
        result = strdup(path);
    } else {
        directory = getcwd(NULL, 0);
        if (!directory) {
            return NULL;
        }
        while (strncmp(path, "./", 2) == 0) {
            path += 2;
        }
        if (asprintf(&result, "%s%s%s", directory, strcmp(directory, "/") == 0 ? "" : "/", path) <
            0) {
            result = NULL;
        }
    }
    if (!result) {
        output_no_memory();
    }
    return result;
}

int drive_add(const struct invocation *inv)
{
    CLEANUP_CONNECTION bitmapd *handle = NULL;
    CLEANUP_FREE char *path = NULL;
    struct bitmapd_drive drive;
    char size[TEXT_SIZE_BYTES];

    if (inv->path) {
        path = absolute_path(inv->path);
        if (!path) {
            output_diagnostic("drive add: cannot tell the current directory: %s", strerror(errno));
            return EXIT_FAILED;
        }
    }
    int code = connection_open(inv, &handle);
    if (code != EXIT_DONE) {
        return code;
    }
    code = connection_result(handle, inv,
                             bitmapd_drive_add(handle, inv->operands[0], path, inv->size,
                                               inv->durability, inv->granularity, &drive));
    if (code != EXIT_DONE) {
        return code;
    }
    if (inv->format != OUTPUT_HUMAN) {
        output_json_print(drive_json(&drive));
    } else {
        output_print("added drive %s: %" PRIu64 " bytes, granularity %s, durability %s\n",
                     output_text(drive.name), drive.size, text_size(drive.granularity, size),
                     durability_name(drive.durability));
    }
    return EXIT_DONE;
}

static void list_drive(void *opaque, const struct bitmapd_drive *drive)
{
    struct output_list *list = opaque;
    char size[TEXT_SIZE_BYTES];
    char granularity[TEXT_SIZE_BYTES];
    char counts[5][16];

    if (output_list_is_json(list)) {
        output_list_add_object(list, drive_json(drive));
        return;
    }
    (void)snprintf(counts[0], sizeof counts[0], "%" PRIu32, drive->bitmaps);
    (void)snprintf(counts[1], sizeof counts[1], "%" PRIu32, drive->recording);
    (void)snprintf(counts[2], sizeof counts[2], "%" PRIu32, drive->writers);
    (void)snprintf(counts[3], sizeof counts[3], "%" PRIu32, drive->lost_writers);
    (void)snprintf(counts[4], sizeof counts[4], "%" PRIu32, drive->checkpoints);
    output_list_add_row(list, (const char *const[]){drive->name, text_size(drive->size, size),
                                                    text_size(drive->granularity, granularity),
                                                    durability_name(drive->durability), counts[0],
                                                    counts[1], counts[4], counts[2], counts[3],
                                                    drive->path});
}

int drive_list(const struct invocation *inv)
{
    static const struct output_column columns[] = {
        {"NAME", false},   {"SIZE", true},      {"GRANULARITY", true}, {"DURABILITY", false},
        {"BITMAPS", true}, {"RECORDING", true}, {"CHECKPOINTS", true}, {"WRITERS", true},
        {"LOST", true},    {"PATH", false},
    };
    CLEANUP_CONNECTION bitmapd *handle = NULL;

    int code = connection_open(inv, &handle);
    if (code != EXIT_DONE) {
        return code;
    }
    CLEANUP(output_list_freep)
    struct output_list *list =
        output_list_new(inv->format, "drives", columns, sizeof columns / sizeof columns[0]);
    code = connection_result(handle, inv, bitmapd_drive_list(handle, list_drive, list));
    if (code == EXIT_DONE) {
        output_list_print(STEAL(list));
    }
    return code;
}

int drive_show(const struct invocation *inv)
{
    CLEANUP_CONNECTION bitmapd *handle = NULL;
    struct bitmapd_drive drive;
    char size[TEXT_SIZE_BYTES];

    int code = connection_open(inv, &handle);
    if (code != EXIT_DONE) {
        return code;
    }
    code = connection_result(handle, inv, bitmapd_drive_show(handle, inv->operands[0], &drive));
    if (code != EXIT_DONE) {
        return code;
    }
    if (inv->format != OUTPUT_HUMAN) {
        output_json_print(drive_json(&drive));
        return EXIT_DONE;
    }
    output_print("drive:        %s\n", output_text(drive.name));
    output_print("path:         %s\n", drive.path[0] ? output_text(drive.path) : "-");
    output_print("size:         %" PRIu64 " (%s)\n", drive.size, text_size(drive.size, size));
    output_print("granularity:  %s\n", text_size(drive.granularity, size));
    output_print("durability:   %s\n", durability_name(drive.durability));
    output_print("bitmaps:      %" PRIu32 " (%" PRIu32 " recording)\n", drive.bitmaps,
                 drive.recording);
    output_print("writers:      %" PRIu32 " (%" PRIu32 " lost)\n", drive.writers,
                 drive.lost_writers);
    output_print("unsettled:    %" PRIu64 "\n", drive.unsettled);
    output_print("checkpoints:  %" PRIu32 "\n", drive.checkpoints);
    output_print("identity:     %s\n",
                 drive.identity[0] ? output_text(drive.identity) : "not known");
    output_print("untracked:    %s\n", output_text(untracked_words(drive.untracked)));
    return EXIT_DONE;
}

int drive_set(const struct invocation *inv)
{
    CLEANUP_CONNECTION bitmapd *handle = NULL;

    int code = connection_open(inv, &handle);
    return code != EXIT_DONE
               ? code
               : connection_done(handle, inv,
                                 bitmapd_drive_set(handle, inv->operands[0], inv->durability,
                                                   inv->granularity));
}

int drive_rename(const struct invocation *inv)
{
    CLEANUP_CONNECTION bitmapd *handle = NULL;

    int code = connection_open(inv, &handle);
    return code != EXIT_DONE
               ? code
               : connection_done(handle, inv,
                                 bitmapd_drive_rename(handle, inv->operands[0], inv->operands[1]));
}

int drive_resize(const struct invocation *inv)
{
    CLEANUP_CONNECTION bitmapd *handle = NULL;

    int code = connection_open(inv, &handle);
    return code != EXIT_DONE
               ? code
               : connection_done(handle, inv,
                                 bitmapd_drive_resize(handle, inv->operands[0], inv->size));
}

int drive_remove(const struct invocation *inv)
{
    CLEANUP_CONNECTION bitmapd *handle = NULL;

    int code = connection_open(inv, &handle);
    return code != EXIT_DONE ? code
                             : connection_done(handle, inv,
                                               bitmapd_drive_remove(handle, inv->operands[0],
                                                                    inv->given[OPTION_FORCE]));
}

int drive_fence(const struct invocation *inv)
{
    CLEANUP_CONNECTION bitmapd *handle = NULL;

    int code = connection_open(inv, &handle);
    return code != EXIT_DONE
               ? code
               : connection_done(handle, inv,
                                 bitmapd_drive_fence(handle, inv->operands[0], inv->writer));
}

int drive_adopt(const struct invocation *inv)
{
    CLEANUP_CONNECTION bitmapd *handle = NULL;

    int code = connection_open(inv, &handle);
    return code != EXIT_DONE
               ? code
               : connection_done(handle, inv, bitmapd_drive_adopt(handle, inv->operands[0]));
}
