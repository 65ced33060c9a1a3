/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The verbs of checkpoints.
 *
 * Whoever takes a backup keeps the UUID that `create` prints, and asks for the
 * next one's base by it: a name alone may stand for another checkpoint then.
 */
#include "client/ctl/bitmap.h"
#include "client/ctl/connection.h"
#include "client/ctl/exit.h"
#include "client/ctl/text.h"

static void print_created(const struct invocation *inv,
                          const struct bitmapd_checkpoint_created *created)
{
    char uuid[TEXT_UUID_BYTES];

    (void)text_uuid(created->uuid, uuid);
    if (inv->format == OUTPUT_HUMAN) {
        output_print("created checkpoint %s@%s on %zu drive%s\n", output_text(inv->operands[0]),
                     uuid, inv->operands_count - 1, inv->operands_count > 2 ? "s" : "");
        return;
    }
    json_object *object = output_json_new();
    output_json_add_string(object, "name", inv->operands[0]);
    output_json_add_string(object, "uuid", uuid);
    output_json_add_number(object, "sequence", created->sequence);
    output_json_add_number(object, "created_ns", created->created_ns);
    json_object *drives = json_object_new_array();
    if (!drives) {
        output_no_memory();
    }
    for (size_t i = 1; i < inv->operands_count; i++) {
        json_object *name = json_object_new_string(inv->operands[i]);
        if (!name) {
            output_no_memory();
        }
        output_json_append(drives, name);
    }
    output_json_add(object, "drives", drives);
    output_json_print(object);
}

int checkpoint_create(const struct invocation *inv)
{
    CLEANUP_CONNECTION bitmapd *handle = NULL;
    struct bitmapd_checkpoint_created created;

    int code = connection_open(inv, &handle);
    if (code != EXIT_DONE) {
        return code;
    }
    code = connection_result(handle, inv,
                             bitmapd_checkpoint_create(handle, inv->operands[0],
                                                       (const char *const *)inv->operands + 1,
                                                       inv->operands_count - 1, &created));
    if (code == EXIT_DONE) {
        print_created(inv, &created);
    }
    return code;
}

static json_object *checkpoint_json(const struct bitmapd_checkpoint *checkpoint)
{
    char uuid[TEXT_UUID_BYTES];
    json_object *object = output_json_new();

    output_json_add_string(object, "drive", checkpoint->drive);
    output_json_add_string(object, "name", checkpoint->name);
    output_json_add_string(object, "uuid", text_uuid(checkpoint->uuid, uuid));
    output_json_add_number(object, "sequence", checkpoint->sequence);
    output_json_add_number(object, "created_ns", checkpoint->created_ns);
    output_json_add_number(object, "granularity", checkpoint->granularity);
    output_json_add_number(object, "size", checkpoint->size);
    output_json_add_bool(object, "recording", checkpoint->recording);
    output_json_add_string(object, "validity", bitmap_validity_name(checkpoint->validity));
    output_json_add_string(object, "reason", checkpoint->reason);
    untracked_add_json(object, checkpoint->untracked);
    output_json_add_number(object, "dirty_bytes", checkpoint->dirty_bytes);
    output_json_add_number(object, "dirty_count", checkpoint->dirty_count);
    return object;
}

static void list_checkpoint(void *opaque, const struct bitmapd_checkpoint *checkpoint)
{
    struct output_list *list = opaque;
    char created[TEXT_TIME_BYTES];
    char dirty[TEXT_SIZE_BYTES];
    char uuid[TEXT_UUID_BYTES];

    if (output_list_is_json(list)) {
        output_list_add_object(list, checkpoint_json(checkpoint));
        return;
    }
    output_list_add_row(
        list,
        (const char *const[]){
            checkpoint->drive, checkpoint->name, text_uuid(checkpoint->uuid, uuid),
            text_time(checkpoint->created_ns, created), checkpoint->recording ? "yes" : "no",
            text_size(checkpoint->dirty_bytes, dirty), bitmap_validity_name(checkpoint->validity),
            checkpoint->reason, untracked_words(checkpoint->untracked)});
}

int checkpoint_list(const struct invocation *inv)
{
    static const struct output_column columns[] = {
        {"DRIVE", false},    {"NAME", false},      {"UUID", false},
        {"CREATED", false},  {"RECORDING", false}, {"DIRTY", true},
        {"VALIDITY", false}, {"REASON", false},    {"UNTRACKED", false},
    };
    CLEANUP_CONNECTION bitmapd *handle = NULL;

    int code = connection_open(inv, &handle);
    if (code != EXIT_DONE) {
        return code;
    }
    CLEANUP(output_list_freep)
    struct output_list *list =
        output_list_new(inv->format, "checkpoints", columns, sizeof columns / sizeof columns[0]);
    const char *drive = inv->operands_count > 0 ? inv->operands[0] : NULL;
    code = connection_result(handle, inv,
                             bitmapd_checkpoint_list(handle, drive, list_checkpoint, list));
    if (code == EXIT_DONE) {
        output_list_print(STEAL(list));
    }
    return code;
}

int checkpoint_delete(const struct invocation *inv)
{
    CLEANUP_CONNECTION bitmapd *handle = NULL;

    int code = connection_open(inv, &handle);
    return code != EXIT_DONE ? code
                             : connection_done(handle, inv,
                                               bitmapd_checkpoint_delete(handle, inv->operands[0],
                                                                         inv->operands[1]));
}
