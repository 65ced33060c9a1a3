/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Several records that are one: all of them under one sequence, in one piece in the journal.
 *
 * Each part is prepared and applied when it comes, so that the next one sees its effect, and its
 * encoding is kept.  In the end all encodings together are one record of the journal.  When
 * something fails before that, the parts are undone, the last one first.  Nothing else happens to
 * the model in between, since the loop does not run; so undoing leads back to exactly what was.
 */
#include "daemon/drive/apply.h"
#include "daemon/drive/record_codec.h"

#include "proto/base/checked.h"
#include "proto/base/endian.h"

#include <assert.h>
#include <string.h>

struct part {
    enum record_type type;
    struct record record; /* for the history: texts of its own are in detail */
    struct record_names names;
    char detail[NAME_BYTES_MAX];
    struct range first; /* of its ranges, likewise */
    struct prepared prepared;
    struct bitmap_state before[2];
};

struct transaction {
    struct part **parts;
    uint32_t count, capacity;
    uint8_t *bytes;
    size_t used, bytes_capacity;
    uint64_t next_id; /* as it was */
    uint64_t work;    /* bytes of bits that were merged, or are kept for undoing */
};

/* The loop does nothing else meanwhile. */
#define TRANSACTION_WORK_MAX (UINT64_C(256) << 20)

/* What a part costs: its bits are copied as far as they change, and merges go over all of them. */
static uint64_t part_work(const struct record *record, const struct prepared *prepared)
{
    if (!prepared->bits) {
        return 0;
    }
    uint64_t all = drive_bits_bytes(prepared->drive->size, bitmap_granularity(prepared->bits));
    uint64_t merges = record->type == RECORD_BITMAP_MERGE        ? record->sources_count
                      : record->type == RECORD_CHECKPOINT_DELETE ? 1
                                                                 : 0;
    return min_u64(all, 2 * (uint64_t)bitmap_chunk_bytes(prepared->bits)) + merges * all;
}

static void transaction_free(struct transaction *transaction)
{
    for (uint32_t i = 0; i < transaction->count; i++) {
        prepared_deinit(&transaction->parts[i]->prepared);
        free(transaction->parts[i]);
    }
    free(transaction->parts);
    free(transaction->bytes);
    free(transaction);
}

int model_transaction_begin(struct model *model, struct error *error)
{
    assert(!model->transaction);
    int r = record_verdicts(model, error);
    if (r < 0) {
        return r;
    }
    model->transaction = calloc(1, sizeof *model->transaction);
    if (!model->transaction) {
        return record_no_memory(error);
    }
    model->transaction->next_id = model->next_id;
    model->carried_left = DRIVE_CARRIED_MAX;
    return 0;
}

static int reserve_part(struct transaction *transaction, size_t bytes)
{
    if (transaction->count == transaction->capacity) {
        uint32_t capacity = transaction->capacity ? transaction->capacity * 2 : 16;
        struct part **grown = reallocarray(transaction->parts, capacity, sizeof *grown);
        if (!grown) {
            return -ENOMEM;
        }
        transaction->parts = grown;
        transaction->capacity = capacity;
    }
    if (transaction->bytes_capacity - transaction->used < bytes) {
        size_t capacity = (transaction->used + bytes) * 2;
        uint8_t *grown = realloc(transaction->bytes, capacity);
        if (!grown) {
            return -ENOMEM;
        }
        transaction->bytes = grown;
        transaction->bytes_capacity = capacity;
    }
    return 0;
}

/* What the history will tell; the rest of the record is borrowed from the caller. */
static void keep_for_history(struct part *part, const struct record *record)
{
    part->record = (struct record){
        .type = record->type,
        .sequence = record->sequence,
        .size = record->size,
        .ranges_count = record->ranges_count ? 1 : 0,
        .ranges = &part->first,
        .name = {part->detail, record->name.bytes < sizeof part->detail ? record->name.bytes
                                                                        : sizeof part->detail},
    };
    if (record->ranges_count) {
        part->first = record->ranges[0];
    }
    if (part->record.name.bytes) {
        memcpy(part->detail, record->name.data, part->record.name.bytes);
    }
}

int transaction_take(struct model *model, const struct record *record,
                     const struct record_names *names, struct prepared *prepared,
                     struct error *error)
{
    struct transaction *transaction = model->transaction;
    size_t bytes = record_encoded_bytes(record);
    uint64_t work = part_work(record, prepared);

    if (transaction->work + work > TRANSACTION_WORK_MAX) {
        return error_set(error, -EDQUOT,
                         "the transaction would merge or copy more than %llu bytes of bits",
                         (unsigned long long)TRANSACTION_WORK_MAX);
    }
    struct part *part = calloc(1, sizeof *part);

    if (!part || reserve_part(transaction, 4 + bytes) < 0) {
        free(part);
        return record_no_memory(error);
    }
    store_le32(transaction->bytes + transaction->used, (uint32_t)bytes);
    record_encode(record, transaction->bytes + transaction->used + 4);
    transaction->used += 4 + bytes;

    transaction->work += work;
    part->type = record->type;
    part->names = *names;
    keep_for_history(part, record);
    part->prepared = *prepared;
    *prepared = (struct prepared){0};
    prepared = &part->prepared;
    if (prepared->bitmap) {
        bitmap_state_save(prepared->bitmap, &part->before[0]);
    }
    if (prepared->elder) {
        bitmap_state_save(prepared->elder, &part->before[1]);
    }
    prepared->before = part->before;
    transaction->parts[transaction->count++] = part;
    return 0;
}

struct prepared *transaction_last(struct model *model)
{
    return &model->transaction->parts[model->transaction->count - 1]->prepared;
}

static void undo(struct model *model)
{
    struct transaction *transaction = model->transaction;

    for (uint32_t i = transaction->count; i-- > 0;) {
        struct part *part = transaction->parts[i];
        record_undo_part(model, part->type, &part->prepared);
    }
    model->next_id = transaction->next_id;
}

static void end(struct model *model)
{
    struct transaction *transaction = model->transaction;

    model->transaction = NULL;
    transaction_free(transaction);
}

void model_transaction_abort(struct model *model)
{
    if (model->transaction) {
        undo(model);
        end(model);
    }
}

int model_transaction_commit(struct model *model, const struct request_id *request,
                             const char *peer, uint64_t *ret_sequence, struct error *error)
{
    struct transaction *transaction = model->transaction;
    struct record record = {
        .type = RECORD_TRANSACTION,
        .request = *request,
        /* What was made last, for whoever asks again. */
        .bitmap = model->next_id > transaction->next_id ? model->next_id - 1 : 0,
        .nested = transaction->bytes,
        .nested_bytes = (uint32_t)transaction->used,
        .peer = peer,
    };
    int r = transaction->used > UINT32_MAX / 2
                ? error_set(error, -EFBIG, "the transaction is too large")
                : model_commit(model, &record, error);

    if (r < 0) {
        model_transaction_abort(model);
        return r;
    }
    for (uint32_t i = 0; i < transaction->count; i++) {
        transaction->parts[i]->record.peer = peer;
        record_note(model, &transaction->parts[i]->record, &transaction->parts[i]->names);
    }
    end(model);
    *ret_sequence = record.sequence;
    return 0;
}

/* ---- The whole as a record ---- */

/* When it was made its parts are applied already; a replay does it here, since it may fail. */
int prepare_transaction(struct model *model, struct record *record, struct prepared *prepared,
                        struct error *error)
{
    const uint8_t *p = record->nested;
    size_t left = record->nested_bytes;

    (void)prepared;
    if (left == 0) {
        return error_set(error, -EINVAL, "a transaction of nothing");
    }
    while (model->replaying && left > 0) {
        CLEANUP(record_decoded_deinit) struct record_decoded decoded = {0};
        if (left < 4 || load_le32(p) > left - 4) {
            return error_set(error, -EBADMSG, "a transaction ends inside a record");
        }
        uint32_t bytes = load_le32(p);
        int r = record_decode(p + 4, bytes, &decoded, error);
        if (r < 0) {
            return r;
        }
        uint64_t bitmap = decoded.record.bitmap;
        decoded.record.sequence = record->sequence;
        r = record_replay_part(model, &decoded.record, error);
        if (r == 0 && decoded.record.bitmap != bitmap) {
            r = error_set(error, -EBADMSG, "it made another id than before");
        }
        if (r < 0) {
            return error_prefix(error, r == -ENOMEM ? r : -EBADMSG, "in a transaction: %s",
                                record_type_name(decoded.record.type));
        }
        p += 4 + bytes;
        left -= 4 + bytes;
    }
    return 0;
}

void apply_transaction(struct model *model, const struct record *record, struct prepared *prepared)
{
    (void)model;
    (void)record;
    (void)prepared;
}
