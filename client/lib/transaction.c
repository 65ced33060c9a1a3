/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Transactions: requests that are gathered instead of sent, as the operations
 * blob of one request (protocol.md, Transactions).
 *
 * What is gathered fits a frame at any time: an operation that would not is
 * taken back, so that nothing is found too large in the middle of a commit.
 */
#include "client/lib/bitmapd-transaction.h"
#include "client/lib/internal.h"
#include "proto/base/checkpoint_ref.h"
#include "proto/base/endian.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A frame's bytes beside the operations: header, request id, the blob's length. */
#define OVERHEAD_BYTES       (FRAME_HEADER_BYTES + 16u + 4u)
#define OPERATIONS_BYTES_MAX (FRAME_BYTES_MAX - OVERHEAD_BYTES)

static_assert(TRANSACTION_HEADER_BYTES <= FRAME_HEADER_BYTES,
              "one header makes room for the other");

struct bitmapd_transaction {
    struct wire_buffer operations;
    struct wire_buffer scratch;
    size_t count;
    struct error error;
    bool failed; /* the last commit, because of an operation */
    size_t failed_position;
};

bitmapd_transaction *bitmapd_transaction_new(void)
{
    return calloc(1, sizeof(bitmapd_transaction));
}

void bitmapd_transaction_free(bitmapd_transaction *transaction)
{
    if (transaction) {
        wire_buffer_deinit(&transaction->operations);
        wire_buffer_deinit(&transaction->scratch);
        free(transaction);
    }
}

size_t bitmapd_transaction_count(const bitmapd_transaction *transaction)
{
    return transaction->count;
}

const char *bitmapd_transaction_error(const bitmapd_transaction *transaction)
{
    return transaction->error.text;
}

bool bitmapd_transaction_failed(const bitmapd_transaction *transaction, size_t *ret_position)
{
    if (transaction->failed && ret_position) {
        *ret_position = transaction->failed_position;
    }
    return transaction->failed;
}

/* ---- Adding ---- */

static int check(struct bitmapd_transaction *transaction, const char *what, const char *text,
                 size_t max)
{
    transaction->error.text[0] = '\0';
    return text_check(what, text, max, &transaction->error);
}

static int add(struct bitmapd_transaction *transaction, uint16_t operation, enum message_type type,
               const void *message)
{
    struct wire_buffer *buffer = &transaction->operations;
    size_t before = buffer->bytes;

    if (transaction->count >= BITMAPD_TRANSACTION_OPERATIONS_MAX) {
        return error_set(&transaction->error, -EMSGSIZE, "a transaction has at most %u operations",
                         BITMAPD_TRANSACTION_OPERATIONS_MAX);
    }
    int r = message_encode(buffer, type, message, operation, 0, 0, 0);
    if (r < 0) {
        return error_set(&transaction->error, r, "%s: %s", operation_name(operation),
                         strerrordesc_np(-r));
    }
    /* The frame's header gives way to the operation's. */
    uint8_t *start = buffer->data + before;
    size_t payload_bytes = buffer->bytes - before - FRAME_HEADER_BYTES;
    store_le16(start, operation);
    store_le32(start + 2, (uint32_t)payload_bytes);
    memmove(start + TRANSACTION_HEADER_BYTES, start + FRAME_HEADER_BYTES, payload_bytes);
    buffer->bytes = before + TRANSACTION_HEADER_BYTES + payload_bytes;
    if (buffer->bytes > OPERATIONS_BYTES_MAX) {
        buffer->bytes = before;
        return error_set(&transaction->error, -EMSGSIZE,
                         "the transaction would be larger than a request can be");
    }
    transaction->count++;
    return 0;
}

int bitmapd_transaction_bitmap_create(bitmapd_transaction *transaction, const char *bitmap,
                                      uint32_t granularity, bool disabled)
{
    int r = check(transaction, "bitmap", bitmap, BITMAP_BYTES_MAX);
    if (r < 0) {
        return r;
    }
    struct message_bitmap_create message = {
        .bitmap = wire_string(bitmap),
        .granularity = granularity,
        .flags = disabled ? CHANGE_DISABLED : 0,
    };
    return add(transaction, OPERATION_BITMAP_CREATE, MESSAGE_BITMAP_CREATE, &message);
}

static int add_bitmap_change(struct bitmapd_transaction *transaction, uint16_t operation,
                             const char *bitmap, const char *argument)
{
    int r = check(transaction, "bitmap", bitmap, BITMAP_BYTES_MAX);
    if (r < 0) {
        return r;
    }
    struct message_bitmap_change message = {
        .bitmap = wire_string(bitmap),
        .argument = wire_string(argument),
    };
    return add(transaction, operation, MESSAGE_BITMAP_CHANGE, &message);
}

int bitmapd_transaction_bitmap_delete(bitmapd_transaction *transaction, const char *bitmap)
{
    return add_bitmap_change(transaction, OPERATION_BITMAP_DELETE, bitmap, NULL);
}

int bitmapd_transaction_bitmap_enable(bitmapd_transaction *transaction, const char *bitmap)
{
    return add_bitmap_change(transaction, OPERATION_BITMAP_ENABLE, bitmap, NULL);
}

int bitmapd_transaction_bitmap_disable(bitmapd_transaction *transaction, const char *bitmap)
{
    return add_bitmap_change(transaction, OPERATION_BITMAP_DISABLE, bitmap, NULL);
}

int bitmapd_transaction_bitmap_rename(bitmapd_transaction *transaction, const char *bitmap,
                                      const char *new_name)
{
    int r = check(transaction, "new name", new_name, NAME_BYTES_MAX);
    return r < 0 ? r : add_bitmap_change(transaction, OPERATION_BITMAP_RENAME, bitmap, new_name);
}

static int add_bitmap_range(struct bitmapd_transaction *transaction, uint16_t operation,
                            const char *bitmap, uint64_t offset, uint64_t length, uint8_t flags)
{
    int r = check(transaction, "bitmap", bitmap, BITMAP_BYTES_MAX);
    if (r < 0) {
        return r;
    }
    struct message_bitmap_range message = {
        .bitmap = wire_string(bitmap),
        .offset = offset,
        .length = length,
        .flags = flags,
    };
    return add(transaction, operation, MESSAGE_BITMAP_RANGE, &message);
}

int bitmapd_transaction_bitmap_set(bitmapd_transaction *transaction, const char *bitmap,
                                   uint64_t offset, uint64_t length)
{
    return add_bitmap_range(transaction, OPERATION_BITMAP_SET, bitmap, offset, length, 0);
}

int bitmapd_transaction_bitmap_clear(bitmapd_transaction *transaction, const char *bitmap,
                                     uint64_t offset, uint64_t length)
{
    return add_bitmap_range(transaction, OPERATION_BITMAP_CLEAR, bitmap, offset, length, 0);
}

int bitmapd_transaction_bitmap_clear_all(bitmapd_transaction *transaction, const char *bitmap)
{
    return add_bitmap_range(transaction, OPERATION_BITMAP_CLEAR, bitmap, 0, 0, CHANGE_ALL);
}

int bitmapd_transaction_bitmap_merge(bitmapd_transaction *transaction, const char *target,
                                     const char *const *sources, size_t count)
{
    struct message_bitmap_merge message = {0};

    int r = check(transaction, "bitmap", target, BITMAP_BYTES_MAX);
    if (r == 0) {
        r = text_encode_strings("a source of the merge", sources, count, BITMAP_BYTES_MAX,
                                &transaction->scratch, &message.sources, &transaction->error);
    }
    if (r < 0) {
        return r;
    }
    message.target = wire_string(target);
    return add(transaction, OPERATION_BITMAP_MERGE, MESSAGE_BITMAP_MERGE, &message);
}

int bitmapd_transaction_checkpoint_create(bitmapd_transaction *transaction, const char *name,
                                          const char *const *drives, size_t count)
{
    struct message_checkpoint_create message = {0};

    int r = check(transaction, "checkpoint name", name, NAME_BYTES_MAX);
    if (r == 0) {
        r = text_encode_strings("a drive of the checkpoint", drives, count, NAME_BYTES_MAX,
                                &transaction->scratch, &message.drives, &transaction->error);
    }
    if (r < 0) {
        return r;
    }
    message.name = wire_string(name);
    return add(transaction, OPERATION_CHECKPOINT_CREATE, MESSAGE_CHECKPOINT_CREATE, &message);
}

int bitmapd_transaction_checkpoint_delete(bitmapd_transaction *transaction, const char *drive,
                                          const char *checkpoint)
{
    int r = check(transaction, "drive name", drive, NAME_BYTES_MAX);
    if (r == 0) {
        r = check(transaction, "checkpoint", checkpoint, CHECKPOINT_REF_BYTES_MAX);
    }
    if (r < 0) {
        return r;
    }
    struct message_checkpoint_delete message = {
        .drive = wire_string(drive),
        .checkpoint = wire_string(checkpoint),
    };
    return add(transaction, OPERATION_CHECKPOINT_DELETE, MESSAGE_CHECKPOINT_DELETE, &message);
}

/* ---- Committing ---- */

static int transaction_reply(struct bitmapd *handle, struct request *request,
                             const struct frame *frame, struct error *error)
{
    struct message_transaction_reply reply;

    (void)handle;
    int r = message_decode(MESSAGE_TRANSACTION_REPLY, frame->payload, frame->payload_bytes, true,
                           &reply, error);
    if (r == 0) {
        *(uint64_t *)request->context = reply.sequence;
    }
    return r;
}

/* The position with which the daemon's words begin, "3: …" or "operation 3: …", if they do. */
static bool parse_position(const char *words, size_t count, size_t *ret)
{
    static const char prefix[] = "operation ";
    size_t position = 0;

    if (strncmp(words, prefix, sizeof prefix - 1) == 0) {
        words += sizeof prefix - 1;
    }
    const char *at = words;
    for (; *at >= '0' && *at <= '9' && position < count; at++) {
        position = position * 10 + (size_t)(*at - '0');
    }
    if (at == words || position >= count) {
        return false;
    }
    *ret = position;
    return true;
}

int bitmapd_transaction_commit(bitmapd *handle, bitmapd_transaction *transaction,
                               uint64_t *ret_sequence)
{
    uint64_t sequence = 0;

    client_clear_error(handle);
    transaction->failed = false;
    if (transaction->count == 0) {
        return client_fail(handle, -EINVAL, "a transaction without an operation");
    }
    if (handle->known && transaction->operations.bytes + OVERHEAD_BYTES > handle->frame_bytes_max) {
        return client_fail(handle, -EMSGSIZE,
                           "the transaction is larger than a request to this daemon can be");
    }
    struct message_transaction message = {
        .operations = {.data = transaction->operations.data,
                       .bytes = (uint32_t)transaction->operations.bytes},
    };
    int r = client_request_id(handle, &message.request);
    if (r < 0) {
        return r;
    }
    r = client_call(handle, REQUEST_ONCE, OPERATION_TRANSACTION, MESSAGE_TRANSACTION, &message,
                    false, transaction_reply, &sequence);
    if (r < 0) {
        /* Words of ours have no status. */
        transaction->failed =
            handle->status != STATUS_OK &&
            parse_position(handle->error.text, transaction->count, &transaction->failed_position);
        return r;
    }
    if (ret_sequence) {
        *ret_sequence = sequence;
    }
    return 0;
}
