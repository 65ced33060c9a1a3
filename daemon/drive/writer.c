/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writers and their unsettled marks.
 *
 * A mark is unsettled from the moment it is made until its writer says that
 * the write is stable on the drive.  Until then the write may still happen,
 * or vanish in a power failure, so whatever starts or restarts recording must
 * begin with it set: unsettled ranges are a subset of every recording bitmap.
 *
 *      writer_attach()            connection ends
 *     ───────────────▶ connected ────────────────▶ lost ──fence──▶ gone
 *                        ▲   │                      │
 *                        │   └──detach──▶ gone      │ writer_attach(), same token
 *                 RESUME │                          ▼
 *                        └────────────────────── resuming
 *
 * While lost or resuming, the ranges it had not settled are carried.  When
 * they are not known (the daemon restarted, or memory ran out) the writer is
 * unaccounted, and whole recorders are carried in their place.
 */
#include "daemon/drive/internal.h"

#include <string.h>

void writer_free(struct writer *writer)
{
    if (writer) {
        free(writer->marks);
        free(writer->carried);
        free(writer);
    }
}

void drive_add_writer(struct drive *drive, struct writer *writer)
{
    TAILQ_INSERT_TAIL(&drive->writers, writer, entry);
    drive->writers_count++;
}

void drive_remove_writer(struct drive *drive, struct writer *writer)
{
    TAILQ_REMOVE(&drive->writers, writer, entry);
    drive->writers_count--;
}

void drive_restore_writer(struct drive *drive, struct writer *writer, struct writer *next)
{
    if (next) {
        TAILQ_INSERT_BEFORE(next, writer, entry);
    } else {
        TAILQ_INSERT_TAIL(&drive->writers, writer, entry);
    }
    drive->writers_count++;
}

bool writer_is_fenced(const struct writer *writer)
{
    return writer->fenced;
}

struct writer *drive_writer_by_token(struct drive *drive, struct text token)
{
    struct writer *writer;
    TAILQ_FOREACH (writer, &drive->writers, entry) {
        if (strlen(writer->token) == token.bytes &&
            memcmp(writer->token, token.data, token.bytes) == 0) {
            return writer;
        }
    }
    return NULL;
}

int writer_new_lost(struct drive *drive, struct text token, bool unaccounted, struct writer **ret)
{
    if (token.bytes > NAME_BYTES_MAX) {
        return -EINVAL;
    }
    struct writer *writer = calloc(1, sizeof *writer);
    if (!writer) {
        return -ENOMEM;
    }
    writer->drive = drive;
    if (token.bytes) {
        memcpy(writer->token, token.data, token.bytes);
    }
    writer->unaccounted = unaccounted;
    *ret = writer;
    return 0;
}

uint32_t writer_unsettled(const struct writer *writer)
{
    return writer->count - writer->head - writer->settled + writer->carried_count;
}

bool drive_is_doubtful(const struct drive *drive)
{
    const struct writer *writer;
    TAILQ_FOREACH (writer, &drive->writers, entry) {
        /* The host's end was the writer's. */
        if (writer->connected ? writer->went_on : writer->continues && !writer->rebooted) {
            return true;
        }
    }
    return false;
}

bool drive_has_unaccounted(const struct drive *drive)
{
    struct writer *writer;
    TAILQ_FOREACH (writer, &drive->writers, entry) {
        if (writer->unaccounted) {
            return true;
        }
    }
    return false;
}

void drive_get_status(const struct drive *drive, struct drive_status *ret)
{
    *ret = (struct drive_status){0};
    struct writer *writer;
    TAILQ_FOREACH (writer, &drive->writers, entry) {
        ret->writers += writer->connected && writer->token[0];
        ret->lost_writers += !writer->connected;
        ret->unsettled += writer_unsettled(writer);
    }
}

int writer_new(struct model *model, struct drive *drive, struct writer **ret, struct error *error)
{
    struct record record = {.type = RECORD_ATTACH, .drive = drive->id};
    int r = model_commit(model, &record, error);
    if (r == 0) {
        *ret = TAILQ_LAST(&drive->writers, writer_list);
    }
    return r;
}

static const struct text nothing;

/* Commits a record about an attached writer. */
static int commit_about(struct model *model, enum record_type type, struct writer *writer,
                        const char *peer, struct text evidence, uint64_t *ret_sequence,
                        struct error *error)
{
    struct record record = {.type = type,
                            .drive = writer->drive->id,
                            .writer = writer,
                            .name = {writer->token, (uint32_t)strlen(writer->token)},
                            .evidence = evidence,
                            .continues = type == RECORD_RESUME && writer->will_continue,
                            .peer = peer};

    int r = model_commit(model, &record, error);
    if (r < 0) {
        return r;
    }
    if (ret_sequence) {
        *ret_sequence = record.sequence;
    }
    return 0;
}

static int check_fenced(const struct writer *writer, struct error *error)
{
    return writer->fenced ? error_set(error, -EOWNERDEAD, "writer '%s' was fenced", writer->token)
                          : 0;
}

int writer_resume(struct model *model, struct writer *writer, const char *peer,
                  uint64_t *ret_sequence, struct error *error)
{
    int r = check_fenced(writer, error);
    return r < 0 ? r
                 : commit_about(model, RECORD_RESUME, writer, peer, nothing, ret_sequence, error);
}

int writer_detach(struct model *model, struct writer *writer, const char *peer,
                  struct text evidence, uint64_t *ret_sequence, struct error *error)
{
    int r = check_fenced(writer, error);
    if (r < 0) {
        return r;
    }
    uint32_t unsettled = writer_unsettled(writer);
    if (unsettled > 0) {
        return error_set(error, -EBUSY, "writer '%s' of drive '%s' has %u unsettled marks",
                         writer->token, writer->drive->name, unsettled);
    }
    if (writer->unaccounted) {
        return error_set(error, -EBUSY,
                         "writer '%s' of drive '%s' may have unsettled marks from before it was "
                         "lost, and has not resumed",
                         writer->token, writer->drive->name);
    }
    return commit_about(model, RECORD_DETACH, writer, peer, evidence, ret_sequence, error);
}

void writer_forget_carried(struct writer *writer)
{
    free(writer->carried);
    writer->carried = NULL;
    writer->carried_count = 0;
    writer->unaccounted = false;
}

/* Adds ranges to what is carried for a writer; beyond memory or @limit it becomes unaccounted. */
static void carry_add(struct writer *writer, const struct range *ranges, uint32_t count,
                      uint32_t limit)
{
    if (count == 0 || writer->unaccounted) {
        return;
    }
    struct range *carried = NULL;
    if (count <= limit && writer->carried_count <= limit - count) {
        carried =
            reallocarray(writer->carried, (size_t)writer->carried_count + count, sizeof *carried);
    }
    if (!carried) {
        writer_forget_carried(writer);
        writer->unaccounted = true;
        return;
    }
    memcpy(carried + writer->carried_count, ranges, count * sizeof *ranges);
    writer->carried = carried;
    writer->carried_count += count;
}

/* The connection's marks that are not settled become carried ranges. */
static void carry_marks(struct writer *writer, uint32_t limit)
{
    for (uint32_t i = writer->head; i < writer->count; i++) {
        if (writer->marks[i].range.length != 0) {
            carry_add(writer, &writer->marks[i].range, 1, limit);
        }
    }
    free(writer->marks);
    writer->marks = NULL;
    writer->head = writer->count = writer->capacity = writer->settled = 0;
    writer->last_id = 0;
}

static struct writer *find_lost_anonymous(struct drive *drive)
{
    struct writer *writer;
    TAILQ_FOREACH (writer, &drive->writers, entry) {
        if (!writer->connected && writer->token[0] == '\0') {
            return writer;
        }
    }
    return NULL;
}

void writer_lost(struct model *model, struct writer *writer)
{
    struct drive *drive = writer->drive;

    if (writer->fenced) {
        /* The drive has let go of it; only the connection held it. */
        writer_free(writer);
        return;
    }
    carry_marks(writer, model->settings.unsettled_max);
    if (writer->token[0] == '\0' && writer->carried_count == 0 && !writer->unaccounted) {
        if (commit_about(model, RECORD_DETACH, writer, NULL, nothing, NULL, NULL) == 0) {
            return;
        }
    } else if (writer->token[0] == '\0') {
        /* Nobody can come back as an anonymous writer, so what they leave is one heap. */
        struct writer *heap = find_lost_anonymous(drive);
        if (heap) {
            carry_add(heap, writer->carried, writer->carried_count, model->settings.unsettled_max);
            heap->unaccounted |= writer->unaccounted;
            heap->rebooted = false; /* this one's writes may still happen */
            drive_remove_writer(drive, writer);
            writer_free(writer);
            return;
        }
    }
    if (commit_about(model, RECORD_LOST, writer, NULL, nothing, NULL, NULL) < 0) {
        /* No room for the record; a crash makes it a lost writer too. */
        writer->connected = false;
        writer->resuming = false;
        if (writer->continues) {
            writer_lose_track(drive, writer, model->sequence);
            drive->unrecorded = model->unrecorded = true;
        }
    }
}

/*
 * Room for @count more marks.  Settled ones at the front are dropped first,
 * then, when they are many, those in between.
 */
static int reserve_marks(struct writer *writer, uint32_t count, uint32_t limit)
{
    uint32_t live = writer->count - writer->head - writer->settled;
    if (count > limit || live > limit - count) {
        return -EDQUOT;
    }
    if (writer->capacity - writer->count >= count) {
        return 0;
    }
    /* Compacting costs a pass over the marks, which the drop of at least as many pays for. */
    if (writer->head + writer->settled >= writer->count / 2) {
        uint32_t kept = 0;
        for (uint32_t i = writer->head; i < writer->count; i++) {
            if (writer->marks[i].range.length != 0) {
                writer->marks[kept++] = writer->marks[i];
            }
        }
        writer->head = 0;
        writer->count = kept;
        writer->settled = 0;
        if (writer->capacity - writer->count >= count) {
            return 0;
        }
    }
    uint64_t wanted = (uint64_t)writer->count + count;
    uint64_t capacity = wanted < 64 ? 64 : wanted + wanted / 2;
    struct unsettled_mark *marks = reallocarray(writer->marks, (size_t)capacity, sizeof *marks);
    if (!marks) {
        return -ENOMEM;
    }
    writer->marks = marks;
    writer->capacity = (uint32_t)capacity;
    return 0;
}

int writer_mark(struct model *model, struct writer *writer, uint64_t first_id,
                const struct range *ranges, uint32_t count, uint64_t *ret_sequence,
                struct error *error)
{
    int r = check_fenced(writer, error);
    if (r < 0) {
        return r;
    }
    if (first_id != 0) {
        if (first_id <= writer->last_id || first_id > UINT64_MAX - count) {
            return error_set(error, -EINVAL, "mark id %llu does not rise: the last one was %llu",
                             (unsigned long long)first_id, (unsigned long long)writer->last_id);
        }
        r = reserve_marks(writer, count, model->settings.unsettled_max);
        if (r == -EDQUOT) {
            return error_set(error, r, "%u marks are unsettled, and %u more would pass %u",
                             writer_unsettled(writer), count, model->settings.unsettled_max);
        }
        if (r < 0) {
            return error_set(error, r, "out of memory for unsettled marks");
        }
    }

    r = drive_mark(model, writer->drive, ranges, count, ret_sequence, error);
    if (r < 0) {
        return r;
    }
    if (first_id != 0) {
        for (uint32_t i = 0; i < count; i++) {
            writer->marks[writer->count++] =
                (struct unsettled_mark){.id = first_id + i, .range = ranges[i]};
        }
        writer->last_id = first_id + count - 1;
    }
    return 0;
}

/* Index of the first mark whose id is at least @id. */
static uint32_t find_mark(const struct writer *writer, uint64_t id)
{
    uint32_t low = writer->head, high = writer->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (writer->marks[middle].id < id) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

int writer_settle(struct writer *writer, uint64_t first_id, uint64_t count, struct error *error)
{
    int r = check_fenced(writer, error);
    if (r < 0) {
        return r;
    }
    if (first_id == 0 || count == 0 || first_id > UINT64_MAX - (count - 1)) {
        return error_set(error, -EINVAL, "no marks can have %llu ids from %llu",
                         (unsigned long long)count, (unsigned long long)first_id);
    }
    uint64_t last_id = first_id + (count - 1);
    struct unsettled_mark *marks = writer->marks;
    uint32_t first = find_mark(writer, first_id), end = first;
    while (end < writer->count && marks[end].id <= last_id) {
        if (marks[end].range.length != 0) {
            marks[end].range.length = 0;
            marks[end].next = end + 1;
            writer->settled++;
        }
        end = marks[end].next;
    }
    /* Whoever settles the same again gets over it in one step. */
    for (uint32_t i = first, next; i < end; i = next) {
        next = marks[i].next;
        marks[i].next = end;
    }
    while (writer->head < writer->count && writer->marks[writer->head].range.length == 0) {
        writer->head++;
        writer->settled--;
    }
    if (writer->head == writer->count) {
        writer->head = writer->count = 0;
    }
    return 0;
}

/* Ranges in all: living marks and carried ones. */
static uint64_t count_unsettled(const struct drive *drive)
{
    uint64_t count = 0;
    const struct writer *writer;
    TAILQ_FOREACH (writer, &drive->writers, entry) {
        count += writer_unsettled(writer);
    }
    return count;
}

int drive_collect_unsettled(const struct drive *drive, uint32_t limit, struct range **ret,
                            uint32_t *ret_count, bool *ret_whole)
{
    uint64_t count = count_unsettled(drive);
    struct range *ranges = NULL;
    uint32_t n = 0;

    if (drive_has_unaccounted(drive) || count > limit) {
        *ret = NULL;
        *ret_count = 0;
        *ret_whole = true;
        return 0;
    }
    if (count > 0) {
        ranges = calloc((size_t)count, sizeof *ranges);
        if (!ranges) {
            return -ENOMEM;
        }
    }
    const struct writer *writer;
    TAILQ_FOREACH (writer, &drive->writers, entry) {
        for (uint32_t i = 0; i < writer->carried_count; i++) {
            ranges[n++] = writer->carried[i];
        }
        for (uint32_t i = writer->head; i < writer->count; i++) {
            if (writer->marks[i].range.length != 0) {
                ranges[n++] = writer->marks[i].range;
            }
        }
    }
    *ret = ranges;
    *ret_count = n;
    *ret_whole = false;
    return 0;
}
