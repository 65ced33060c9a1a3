/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What every message is made of, and which operation takes which.  What a
 * field's bytes look like follows from its C type (FIELD() picks the kind
 * with _Generic), so that table and structure cannot disagree about it; a
 * field that the table forgets is found by the golden bytes of the tests.
 */
#include "proto/layout.h"

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>

/* One row or field a line, as the structures have them. */
/* clang-format off */
#define FIELD(type, member)                                                                        \
    {                                                                                              \
        #member, offsetof(struct type, member),                                                    \
        _Generic(((struct type *)0)->member,                                                       \
                 uint8_t: FIELD_U8,                                                                \
                 uint16_t: FIELD_U16,                                                              \
                 uint32_t: FIELD_U32,                                                              \
                 uint64_t: FIELD_U64,                                                              \
                 struct wire_uuid: FIELD_UUID,                                                     \
                 struct wire_string: FIELD_STRING,                                                 \
                 struct wire_strings: FIELD_STRINGS,                                               \
                 struct wire_ranges: FIELD_RANGES,                                                 \
                 struct wire_blob: FIELD_BLOB)                                                     \
    }

/* The array of size -1 would be a structure that outgrew the decoder's scratch. */
#define LAYOUT(type, fields_)                                                                      \
    {                                                                                              \
        &#type[sizeof "message_" - 1], fields_, sizeof fields_ / sizeof fields_[0],                \
        sizeof(struct type) + 0 * sizeof(char[sizeof(struct type) <= STRUCT_BYTES_MAX ? 1 : -1])   \
    }

static const struct field error_fields[] = {
    FIELD(message_error, text),
};
static const struct field hello_fields[] = {
    FIELD(message_hello, magic),
    FIELD(message_hello, version_min),
    FIELD(message_hello, version_max),
    FIELD(message_hello, features),
    FIELD(message_hello, client),
};
static const struct field hello_reply_fields[] = {
    FIELD(message_hello_reply, version),
    FIELD(message_hello_reply, features),
    FIELD(message_hello_reply, frame_bytes_max),
    FIELD(message_hello_reply, requests_max),
    FIELD(message_hello_reply, unsettled_max),
    FIELD(message_hello_reply, container),
    FIELD(message_hello_reply, instance),
    FIELD(message_hello_reply, server),
};
static const struct field drive_add_fields[] = {
    FIELD(message_drive_add, request),
    FIELD(message_drive_add, name),
    FIELD(message_drive_add, path),
    FIELD(message_drive_add, size),
    FIELD(message_drive_add, durability),
    FIELD(message_drive_add, granularity),
};
static const struct field drive_name_fields[] = {
    FIELD(message_drive_name, name),
};
static const struct field drive_change_fields[] = {
    FIELD(message_drive_change, request),
    FIELD(message_drive_change, name),
    FIELD(message_drive_change, argument),
    FIELD(message_drive_change, flags),
};
static const struct field drive_set_fields[] = {
    FIELD(message_drive_set, request),
    FIELD(message_drive_set, name),
    FIELD(message_drive_set, durability),
    FIELD(message_drive_set, granularity),
};
static const struct field drive_resize_fields[] = {
    FIELD(message_drive_resize, request),
    FIELD(message_drive_resize, name),
    FIELD(message_drive_resize, size),
};
static const struct field drive_info_fields[] = {
    FIELD(message_drive_info, id),
    FIELD(message_drive_info, name),
    FIELD(message_drive_info, path),
    FIELD(message_drive_info, size),
    FIELD(message_drive_info, granularity),
    FIELD(message_drive_info, durability),
    FIELD(message_drive_info, bitmaps),
    FIELD(message_drive_info, recording),
    FIELD(message_drive_info, writers),
    FIELD(message_drive_info, lost_writers),
    FIELD(message_drive_info, unsettled),
    FIELD(message_drive_info, checkpoints),
    FIELD(message_drive_info, identity),
    FIELD(message_drive_info, untracked),
};
static const struct field bitmap_create_fields[] = {
    FIELD(message_bitmap_create, request),
    FIELD(message_bitmap_create, bitmap),
    FIELD(message_bitmap_create, granularity),
    FIELD(message_bitmap_create, flags),
};
static const struct field bitmap_name_fields[] = {
    FIELD(message_bitmap_name, bitmap),
};
static const struct field bitmap_change_fields[] = {
    FIELD(message_bitmap_change, request),
    FIELD(message_bitmap_change, bitmap),
    FIELD(message_bitmap_change, argument),
};
static const struct field bitmap_range_fields[] = {
    FIELD(message_bitmap_range, request),
    FIELD(message_bitmap_range, bitmap),
    FIELD(message_bitmap_range, offset),
    FIELD(message_bitmap_range, length),
    FIELD(message_bitmap_range, flags),
};
static const struct field bitmap_merge_fields[] = {
    FIELD(message_bitmap_merge, request),
    FIELD(message_bitmap_merge, target),
    FIELD(message_bitmap_merge, sources),
};
static const struct field bitmap_info_fields[] = {
    FIELD(message_bitmap_info, id),
    FIELD(message_bitmap_info, bitmap),
    FIELD(message_bitmap_info, granularity),
    FIELD(message_bitmap_info, size),
    FIELD(message_bitmap_info, recording),
    FIELD(message_bitmap_info, gap),
    FIELD(message_bitmap_info, validity),
    FIELD(message_bitmap_info, reason),
    FIELD(message_bitmap_info, dirty_bytes),
    FIELD(message_bitmap_info, dirty_count),
    FIELD(message_bitmap_info, untracked),
};
static const struct field list_end_fields[] = {
    FIELD(message_list_end, count),
};
static const struct field map_fields[] = {
    FIELD(message_map, bitmap),
    FIELD(message_map, offset),
};
static const struct field map_head_fields[] = {
    FIELD(message_map_head, bitmap),
    FIELD(message_map_head, size),
    FIELD(message_map_head, granularity),
    FIELD(message_map_head, recording),
    FIELD(message_map_head, validity),
    FIELD(message_map_head, reason),
    FIELD(message_map_head, sequence),
    FIELD(message_map_head, untracked),
    FIELD(message_map_head, base),
    FIELD(message_map_head, base_uuid),
    FIELD(message_map_head, base_sequence),
    FIELD(message_map_head, target),
    FIELD(message_map_head, target_uuid),
    FIELD(message_map_head, target_sequence),
};
static const struct field map_page_fields[] = {
    FIELD(message_map_page, dirty),
};
static const struct field map_end_fields[] = {
    FIELD(message_map_end, runs),
    FIELD(message_map_end, dirty_bytes),
    FIELD(message_map_end, crc32c),
};
static const struct field mark_fields[] = {
    FIELD(message_mark, drive),
    FIELD(message_mark, first_id),
    FIELD(message_mark, ranges),
};
static const struct field settle_fields[] = {
    FIELD(message_settle, drive),
    FIELD(message_settle, ids),
};
static const struct field attach_fields[] = {
    FIELD(message_attach, drive),
    FIELD(message_attach, writer),
    FIELD(message_attach, flags),
};
static const struct field attach_reply_fields[] = {
    FIELD(message_attach_reply, drive),
    FIELD(message_attach_reply, size),
    FIELD(message_attach_reply, resuming),
};
static const struct field drive_id_fields[] = {
    FIELD(message_drive_id, drive),
};
static const struct field flush_reply_fields[] = {
    FIELD(message_flush_reply, sequence),
};
static const struct field status_reply_fields[] = {
    FIELD(message_status_reply, server),
    FIELD(message_status_reply, container),
    FIELD(message_status_reply, instance),
    FIELD(message_status_reply, container_path),
    FIELD(message_status_reply, uptime_ns),
    FIELD(message_status_reply, sequence),
    FIELD(message_status_reply, applied_seq),
    FIELD(message_status_reply, drives),
    FIELD(message_status_reply, bitmaps),
    FIELD(message_status_reply, unknown_bitmaps),
    FIELD(message_status_reply, connections),
    FIELD(message_status_reply, marks),
    FIELD(message_status_reply, memory_bytes),
    FIELD(message_status_reply, dirty_memory_bytes),
    FIELD(message_status_reply, flushes),
    FIELD(message_status_reply, container_bytes),
    FIELD(message_status_reply, degraded),
    FIELD(message_status_reply, degraded_reason),
    FIELD(message_status_reply, degraded_since_ns),
    FIELD(message_status_reply, start_report),
};
static const struct field transaction_fields[] = {
    FIELD(message_transaction, request),
    FIELD(message_transaction, operations),
};
static const struct field transaction_reply_fields[] = {
    FIELD(message_transaction_reply, sequence),
};
static const struct field checkpoint_create_fields[] = {
    FIELD(message_checkpoint_create, request),
    FIELD(message_checkpoint_create, name),
    FIELD(message_checkpoint_create, drives),
};
static const struct field checkpoint_created_fields[] = {
    FIELD(message_checkpoint_created, uuid),
    FIELD(message_checkpoint_created, sequence),
    FIELD(message_checkpoint_created, created_ns),
    FIELD(message_checkpoint_created, drives),
};
static const struct field checkpoint_delete_fields[] = {
    FIELD(message_checkpoint_delete, request),
    FIELD(message_checkpoint_delete, drive),
    FIELD(message_checkpoint_delete, checkpoint),
};
static const struct field checkpoint_info_fields[] = {
    FIELD(message_checkpoint_info, id),
    FIELD(message_checkpoint_info, drive),
    FIELD(message_checkpoint_info, name),
    FIELD(message_checkpoint_info, uuid),
    FIELD(message_checkpoint_info, sequence),
    FIELD(message_checkpoint_info, created_ns),
    FIELD(message_checkpoint_info, granularity),
    FIELD(message_checkpoint_info, size),
    FIELD(message_checkpoint_info, recording),
    FIELD(message_checkpoint_info, validity),
    FIELD(message_checkpoint_info, reason),
    FIELD(message_checkpoint_info, untracked),
    FIELD(message_checkpoint_info, dirty_bytes),
    FIELD(message_checkpoint_info, dirty_count),
};
static const struct field checkpoint_map_fields[] = {
    FIELD(message_checkpoint_map, drive),
    FIELD(message_checkpoint_map, since),
    FIELD(message_checkpoint_map, until),
    FIELD(message_checkpoint_map, offset),
};

static const struct field restrict_fields[] = {
    FIELD(message_restrict, drive),
    FIELD(message_restrict, rights),
};

const struct layout message_layouts[MESSAGE_TYPES] = {
    [MESSAGE_EMPTY] = {"empty", NULL, 0, 0},
    [MESSAGE_ERROR] = LAYOUT(message_error, error_fields),
    [MESSAGE_HELLO] = LAYOUT(message_hello, hello_fields),
    [MESSAGE_HELLO_REPLY] = LAYOUT(message_hello_reply, hello_reply_fields),
    [MESSAGE_DRIVE_ADD] = LAYOUT(message_drive_add, drive_add_fields),
    [MESSAGE_DRIVE_NAME] = LAYOUT(message_drive_name, drive_name_fields),
    [MESSAGE_DRIVE_CHANGE] = LAYOUT(message_drive_change, drive_change_fields),
    [MESSAGE_DRIVE_SET] = LAYOUT(message_drive_set, drive_set_fields),
    [MESSAGE_DRIVE_RESIZE] = LAYOUT(message_drive_resize, drive_resize_fields),
    [MESSAGE_DRIVE_INFO] = LAYOUT(message_drive_info, drive_info_fields),
    [MESSAGE_BITMAP_CREATE] = LAYOUT(message_bitmap_create, bitmap_create_fields),
    [MESSAGE_BITMAP_NAME] = LAYOUT(message_bitmap_name, bitmap_name_fields),
    [MESSAGE_BITMAP_CHANGE] = LAYOUT(message_bitmap_change, bitmap_change_fields),
    [MESSAGE_BITMAP_RANGE] = LAYOUT(message_bitmap_range, bitmap_range_fields),
    [MESSAGE_BITMAP_MERGE] = LAYOUT(message_bitmap_merge, bitmap_merge_fields),
    [MESSAGE_BITMAP_INFO] = LAYOUT(message_bitmap_info, bitmap_info_fields),
    [MESSAGE_LIST_END] = LAYOUT(message_list_end, list_end_fields),
    [MESSAGE_MAP] = LAYOUT(message_map, map_fields),
    [MESSAGE_MAP_HEAD] = LAYOUT(message_map_head, map_head_fields),
    [MESSAGE_MAP_PAGE] = LAYOUT(message_map_page, map_page_fields),
    [MESSAGE_MAP_END] = LAYOUT(message_map_end, map_end_fields),
    [MESSAGE_MARK] = LAYOUT(message_mark, mark_fields),
    [MESSAGE_SETTLE] = LAYOUT(message_settle, settle_fields),
    [MESSAGE_ATTACH] = LAYOUT(message_attach, attach_fields),
    [MESSAGE_ATTACH_REPLY] = LAYOUT(message_attach_reply, attach_reply_fields),
    [MESSAGE_DRIVE_ID] = LAYOUT(message_drive_id, drive_id_fields),
    [MESSAGE_FLUSH_REPLY] = LAYOUT(message_flush_reply, flush_reply_fields),
    [MESSAGE_STATUS_REPLY] = LAYOUT(message_status_reply, status_reply_fields),
    [MESSAGE_TRANSACTION] = LAYOUT(message_transaction, transaction_fields),
    [MESSAGE_TRANSACTION_REPLY] = LAYOUT(message_transaction_reply, transaction_reply_fields),
    [MESSAGE_CHECKPOINT_CREATE] = LAYOUT(message_checkpoint_create, checkpoint_create_fields),
    [MESSAGE_CHECKPOINT_CREATED] = LAYOUT(message_checkpoint_created, checkpoint_created_fields),
    [MESSAGE_CHECKPOINT_DELETE] = LAYOUT(message_checkpoint_delete, checkpoint_delete_fields),
    [MESSAGE_CHECKPOINT_INFO] = LAYOUT(message_checkpoint_info, checkpoint_info_fields),
    [MESSAGE_CHECKPOINT_MAP] = LAYOUT(message_checkpoint_map, checkpoint_map_fields),
    [MESSAGE_RESTRICT] = LAYOUT(message_restrict, restrict_fields),
};

static const struct {
    const char *name; /* NULL: no such operation */
    enum message_type request;
} operations[] = {
    [OPERATION_HELLO] = {"hello", MESSAGE_HELLO},
    [OPERATION_RESTRICT] = {"restrict", MESSAGE_RESTRICT},
    [OPERATION_DRIVE_ADD] = {"drive-add", MESSAGE_DRIVE_ADD},
    [OPERATION_DRIVE_LIST] = {"drive-list", MESSAGE_EMPTY},
    [OPERATION_DRIVE_SHOW] = {"drive-show", MESSAGE_DRIVE_NAME},
    [OPERATION_DRIVE_SET] = {"drive-set", MESSAGE_DRIVE_SET},
    [OPERATION_DRIVE_RENAME] = {"drive-rename", MESSAGE_DRIVE_CHANGE},
    [OPERATION_DRIVE_RESIZE] = {"drive-resize", MESSAGE_DRIVE_RESIZE},
    [OPERATION_DRIVE_REMOVE] = {"drive-remove", MESSAGE_DRIVE_CHANGE},
    [OPERATION_DRIVE_FENCE] = {"drive-fence", MESSAGE_DRIVE_CHANGE},
    [OPERATION_DRIVE_ADOPT] = {"drive-adopt", MESSAGE_DRIVE_CHANGE},
    [OPERATION_BITMAP_CREATE] = {"bitmap-create", MESSAGE_BITMAP_CREATE},
    [OPERATION_BITMAP_LIST] = {"bitmap-list", MESSAGE_DRIVE_NAME},
    [OPERATION_BITMAP_SHOW] = {"bitmap-show", MESSAGE_BITMAP_NAME},
    [OPERATION_BITMAP_DELETE] = {"bitmap-delete", MESSAGE_BITMAP_CHANGE},
    [OPERATION_BITMAP_ENABLE] = {"bitmap-enable", MESSAGE_BITMAP_CHANGE},
    [OPERATION_BITMAP_DISABLE] = {"bitmap-disable", MESSAGE_BITMAP_CHANGE},
    [OPERATION_BITMAP_RENAME] = {"bitmap-rename", MESSAGE_BITMAP_CHANGE},
    [OPERATION_BITMAP_SET] = {"bitmap-set", MESSAGE_BITMAP_RANGE},
    [OPERATION_BITMAP_CLEAR] = {"bitmap-clear", MESSAGE_BITMAP_RANGE},
    [OPERATION_BITMAP_MERGE] = {"bitmap-merge", MESSAGE_BITMAP_MERGE},
    [OPERATION_MAP] = {"map", MESSAGE_MAP},
    [OPERATION_MARK] = {"mark", MESSAGE_MARK},
    [OPERATION_SETTLE] = {"settle", MESSAGE_SETTLE},
    [OPERATION_ATTACH] = {"attach", MESSAGE_ATTACH},
    [OPERATION_RESUME] = {"resume", MESSAGE_DRIVE_ID},
    [OPERATION_DETACH] = {"detach", MESSAGE_DRIVE_ID},
    [OPERATION_FLUSH] = {"flush", MESSAGE_EMPTY},
    [OPERATION_STATUS] = {"status", MESSAGE_EMPTY},
    [OPERATION_RELOAD] = {"reload", MESSAGE_EMPTY},
    [OPERATION_TRANSACTION] = {"transaction", MESSAGE_TRANSACTION},
    [OPERATION_CHECKPOINT_CREATE] = {"checkpoint-create", MESSAGE_CHECKPOINT_CREATE},
    [OPERATION_CHECKPOINT_LIST] = {"checkpoint-list", MESSAGE_DRIVE_NAME},
    [OPERATION_CHECKPOINT_DELETE] = {"checkpoint-delete", MESSAGE_CHECKPOINT_DELETE},
    [OPERATION_CHECKPOINT_MAP] = {"checkpoint-map", MESSAGE_CHECKPOINT_MAP},
};

/* clang-format on */

static bool operation_known(uint16_t operation)
{
    return operation < sizeof operations / sizeof operations[0] && operations[operation].name;
}

const char *operation_name(uint16_t operation)
{
    return operation_known(operation) ? operations[operation].name : "unknown";
}

enum message_type message_request_type(uint16_t operation)
{
    return operation_known(operation) ? operations[operation].request : MESSAGE_TYPES;
}
