/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Transactions: the operations in a request are handled one after the other, each by its own
 * handler, and committed as a whole or taken back.
 */
#include "daemon/server/internal.h"

#include "proto/base/endian.h"

#include <string.h>

#define PARTS_MAX 1024u

int request_transact(const struct request *request, const struct wire_uuid *id,
                     request_handler *parts, struct error *error)
{
    struct model *model = request->model;
    struct request_id request_id;
    uint64_t sequence;

    struct pending *pending = pending_new(request);
    if (!pending) {
        return error_set(error, -ENOMEM, "out of memory for a request");
    }
    int r = model_transaction_begin(model, error);
    if (r < 0) {
        pending_free(pending);
        return r;
    }
    r = parts(request, error);
    if (r < 0) {
        model_transaction_abort(model);
        pending_free(pending);
        return r;
    }
    memcpy(request_id.bytes, id->bytes, sizeof request_id.bytes);
    uint64_t object = model_last_id(model);
    r = model_transaction_commit(model, &request_id, request->session->peer_words, &sequence,
                                 error);
    if (r < 0) {
        pending_free(pending);
        return r;
    }
    const struct drive_bitmap *made = model_bitmap_by_id(model, object);
    if (request->operation == OPERATION_CHECKPOINT_CREATE && made) {
        fill_checkpoint_created(model, made->checkpoint, &pending->created);
    }
    pending_wait(pending, ACK_DURABLE, sequence, object);
    model_enforce_retention(model);
    return 0;
}

static int handle_parts(const struct request *request, struct error *error)
{
    const struct message_transaction *message = request->message;
    const uint8_t *p = message->operations.data;
    size_t left = message->operations.bytes;
    uint32_t count = 0;

    while (left > 0) {
        if (left < TRANSACTION_HEADER_BYTES || load_le32(p + 2) > left - TRANSACTION_HEADER_BYTES) {
            return error_set(error, -EPROTO, "operation %u: it ends before it is whole", count);
        }
        if (count == PARTS_MAX) {
            return error_set(error, -EINVAL, "a transaction has %u operations at most", PARTS_MAX);
        }
        uint32_t bytes = load_le32(p + 2);
        int r = dispatch_part(request, load_le16(p), p + TRANSACTION_HEADER_BYTES, bytes, error);
        if (r < 0) {
            return error_prefix(error, r, "operation %u", count);
        }
        p += TRANSACTION_HEADER_BYTES + bytes;
        left -= TRANSACTION_HEADER_BYTES + bytes;
        count++;
    }
    return count > 0 ? 0 : error_set(error, -EINVAL, "a transaction of nothing");
}

int handle_transaction(const struct request *request, struct error *error)
{
    const struct message_transaction *message = request->message;

    return request_transact(request, &message->request, handle_parts, error);
}
