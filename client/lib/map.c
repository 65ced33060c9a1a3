/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Maps of bitmaps and between checkpoints.  A backup copies what a map calls dirty and nothing
 * else, so a map that lost a page must never look like a clean drive: every page is checked as it
 * passes (order, bounds, no touching neighbours), and the call succeeds only when the daemon's end
 * record agrees on count, sum and checksum.
 *
 *     HEAD ──map-head──▶ PAGES ──map-page──▶ PAGES ──map-end──▶ done
 *
 * The head is given to the caller with the first page or the end, not before:
 * until then the map can be asked for again on another connection.
 */
#include "client/lib/internal.h"

#include "proto/base/checked.h"
#include "proto/base/checkpoint_ref.h"
#include "proto/base/crc32c.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define RUNS_BATCH 512u /* given to the caller at once */

struct map_state {
    const struct bitmapd_map_callbacks *callbacks;
    void *opaque;
    const char *since; /* of a checkpoint map what was asked for, else NULL */
    const char *until; /* or NULL */
    bool have_head;
    bool head_given;
    struct bitmapd_map head; /* its strings are in the handle's text */
    uint64_t start;          /* where the map begins */
    uint64_t end;            /* of the last run */
    uint64_t runs;
    uint64_t dirty_bytes;
    uint32_t crc;
};

/* Whether @name, with @uuid, is what @ref ("NAME" or "NAME@UUID"; NULL: none) asks for. */
static bool is_checkpoint(const char *ref, struct wire_string name, const struct wire_uuid *uuid)
{
    struct checkpoint_ref parsed;

    if (!ref) {
        return name.length == 0;
    }
    if (checkpoint_ref_parse(ref, strlen(ref), &parsed, NULL) < 0) {
        return false; /* a daemon that has such a one is none */
    }
    return name.length == parsed.name_bytes && memcmp(name.data, ref, name.length) == 0 &&
           (!parsed.has_uuid || memcmp(uuid->bytes, parsed.uuid, sizeof parsed.uuid) == 0);
}

/* An answer for another base would be a backup with holes. */
static int check_checkpoints(const struct map_state *state, const struct message_map_head *head,
                             struct error *error)
{
    if (!is_checkpoint(state->since, head->base, &head->base_uuid)) {
        return error_set(error, -EPROTO, "map since another checkpoint than %s",
                         state->since ? state->since : "none");
    }
    if (!is_checkpoint(state->until, head->target, &head->target_uuid)) {
        return error_set(error, -EPROTO, "map until another checkpoint than %s",
                         state->until ? state->until : "none");
    }
    return 0;
}

static int take_head(struct bitmapd *handle, struct map_state *state, const struct frame *frame,
                     struct error *error)
{
    struct message_map_head head;
    int r =
        message_decode(MESSAGE_MAP_HEAD, frame->payload, frame->payload_bytes, true, &head, error);
    if (r < 0) {
        return r;
    }
    if (state->start > head.size) {
        return error_set(error, -EPROTO,
                         "map from byte %" PRIu64 " of a drive of %" PRIu64 " bytes", state->start,
                         head.size);
    }
    r = check_checkpoints(state, &head, error);
    if (r < 0) {
        return r;
    }
    r = client_text_begin(handle,
                          (size_t)head.bitmap.length + head.reason.length + head.untracked.length +
                              head.base.length + head.target.length,
                          5);
    if (r < 0) {
        return error_set(error, r, "out of memory");
    }
    state->head = (struct bitmapd_map){
        .bitmap = client_text_add(handle, head.bitmap),
        .size = head.size,
        .granularity = head.granularity,
        .recording = head.recording,
        .validity = client_validity(head.validity),
        .reason = client_text_add(handle, head.reason),
        .sequence = head.sequence,
        .untracked = client_text_add(handle, head.untracked),
        .base = client_text_add(handle, head.base),
        .base_sequence = head.base_sequence,
        .target = client_text_add(handle, head.target),
        .target_sequence = head.target_sequence,
    };
    memcpy(state->head.base_uuid, head.base_uuid.bytes, sizeof state->head.base_uuid);
    memcpy(state->head.target_uuid, head.target_uuid.bytes, sizeof state->head.target_uuid);
    state->have_head = true;
    return 0;
}

static void give_head(struct request *request, struct map_state *state)
{
    if (!state->head_given) {
        state->head_given = true;
        request->delivered = true;
        if (state->callbacks->head) {
            state->callbacks->head(state->opaque, &state->head);
        }
    }
}

/* One run of a page; @end, the end of the last one, moves on. */
static int check_run(const struct map_state *state, struct wire_range run, uint64_t *end,
                     bool first, struct error *error)
{
    uint64_t run_end;

    if (run.length == 0 || !checked_add_u64(run.offset, run.length, &run_end) ||
        run_end > state->head.size) {
        return error_set(error, -EPROTO,
                         "run (offset %" PRIu64 ", length %" PRIu64
                         ") is empty or leaves the drive of %" PRIu64 " bytes",
                         run.offset, run.length, state->head.size);
    }
    if (first ? run.offset < state->start : run.offset <= *end) {
        return error_set(error, -EPROTO, "run at %" PRIu64 ": expected one beyond %" PRIu64,
                         run.offset, *end);
    }
    *end = run_end;
    return 0;
}

static int take_page(struct request *request, struct map_state *state, const struct frame *frame,
                     struct error *error)
{
    struct message_map_page page;
    struct bitmapd_range batch[RUNS_BATCH];

    int r =
        message_decode(MESSAGE_MAP_PAGE, frame->payload, frame->payload_bytes, true, &page, error);
    if (r < 0) {
        return r;
    }
    /* The whole page first: the caller sees nothing of a wrong one. */
    uint64_t end = state->end;
    uint64_t dirty_bytes = 0;
    for (uint32_t i = 0; i < page.dirty.count; i++) {
        struct wire_range run = wire_ranges_get(&page.dirty, i);
        r = check_run(state, run, &end, state->runs == 0 && i == 0, error);
        if (r < 0) {
            return r;
        }
        dirty_bytes += run.length;
    }
    state->end = end;
    state->runs += page.dirty.count;
    state->dirty_bytes += dirty_bytes; /* disjoint and within the drive: no overflow */
    state->crc = crc32c(state->crc, page.dirty.data, (size_t)page.dirty.count * WIRE_RANGE_BYTES);

    give_head(request, state);
    for (uint32_t i = 0; i < page.dirty.count;) {
        uint32_t count = 0;
        for (; count < RUNS_BATCH && i < page.dirty.count; count++, i++) {
            struct wire_range run = wire_ranges_get(&page.dirty, i);
            batch[count] = (struct bitmapd_range){run.offset, run.length};
        }
        if (state->callbacks->runs) {
            state->callbacks->runs(state->opaque, batch, count);
        }
    }
    return 0;
}

static int take_end(struct request *request, struct map_state *state, const struct frame *frame,
                    struct error *error)
{
    struct message_map_end end;
    int r =
        message_decode(MESSAGE_MAP_END, frame->payload, frame->payload_bytes, true, &end, error);
    if (r < 0) {
        return r;
    }
    if (end.runs != state->runs || end.dirty_bytes != state->dirty_bytes ||
        end.crc32c != state->crc) {
        return error_set(error, -EPROTO,
                         "map's end: expected %" PRIu64 " runs of %" PRIu64
                         " bytes with CRC32C 0x%08x, found %" PRIu64 " of %" PRIu64 " with 0x%08x",
                         end.runs, end.dirty_bytes, end.crc32c, state->runs, state->dirty_bytes,
                         state->crc);
    }
    give_head(request, state);
    return 0;
}

static int map_reply(struct bitmapd *handle, struct request *request, const struct frame *frame,
                     struct error *error)
{
    struct map_state *state = request->context;
    bool more = frame->flags & FRAME_MORE;

    /* Delivered nothing and a head again: a new answer after a reconnect. */
    if (request->restarted) {
        request->restarted = false;
        state->have_head = false;
    }
    if (!state->have_head) {
        return more ? take_head(handle, state, frame, error)
                    : error_set(error, -EPROTO, "map without a head");
    }
    return more ? take_page(request, state, frame, error) : take_end(request, state, frame, error);
}

static int call_map(struct bitmapd *handle, struct map_state *state, uint16_t operation,
                    enum message_type type, const void *message, uint32_t *ret_crc32c)
{
    int r = client_call(handle, REQUEST_RESEND, operation, type, message, true, map_reply, state);
    if (r == 0 && ret_crc32c) {
        *ret_crc32c = state->crc;
    }
    return r;
}

int bitmapd_map(bitmapd *handle, const char *bitmap, uint64_t offset,
                const struct bitmapd_map_callbacks *callbacks, void *opaque, uint32_t *ret_crc32c)
{
    struct map_state state = {.callbacks = callbacks, .opaque = opaque, .start = offset};

    client_clear_error(handle);
    int r = client_check_text(handle, "bitmap", bitmap, BITMAP_BYTES_MAX);
    if (r < 0) {
        return r;
    }
    struct message_map message = {.bitmap = wire_string(bitmap), .offset = offset};
    return call_map(handle, &state, OPERATION_MAP, MESSAGE_MAP, &message, ret_crc32c);
}

int bitmapd_checkpoint_map(bitmapd *handle, const char *drive, const char *since, const char *until,
                           uint64_t offset, const struct bitmapd_map_callbacks *callbacks,
                           void *opaque, uint32_t *ret_crc32c)
{
    struct map_state state = {
        .callbacks = callbacks,
        .opaque = opaque,
        .since = since,
        .until = until,
        .start = offset,
    };

    client_clear_error(handle);
    int r = client_check_text(handle, "drive name", drive, NAME_BYTES_MAX);
    if (r == 0) {
        r = client_check_text(handle, "checkpoint", since, CHECKPOINT_REF_BYTES_MAX);
    }
    if (r == 0 && until) {
        r = client_check_text(handle, "checkpoint", until, CHECKPOINT_REF_BYTES_MAX);
    }
    if (r < 0) {
        return r;
    }
    struct message_checkpoint_map message = {
        .drive = wire_string(drive),
        .since = wire_string(since),
        .until = wire_string(until),
        .offset = offset,
    };
    return call_map(handle, &state, OPERATION_CHECKPOINT_MAP, MESSAGE_CHECKPOINT_MAP, &message,
                    ret_crc32c);
}
