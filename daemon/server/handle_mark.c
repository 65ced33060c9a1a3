/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Operations of those who write to drives: marks, settles, attachments.
 *
 * A session has at most one writer for each drive: the one it attached, or an
 * anonymous one, made by its first mark with an id.
 */
#include "daemon/server/internal.h"

#include "daemon/base/log.h"

#include <poll.h>
#include <string.h>

static int compare(const struct session_writer *a, const struct session_writer *b)
{
    return a->drive < b->drive ? -1 : a->drive > b->drive;
}

RB_PROTOTYPE(session_writers, session_writer, entry, compare)
RB_GENERATE(session_writers, session_writer, entry, compare)

static struct session_writer *find_writer(struct session *session, uint64_t drive)
{
    /* Not RB_FIND(): it wants a whole entry to compare with. */
    struct session_writer *entry = RB_ROOT(&session->writers);
    while (entry && entry->drive != drive) {
        entry = drive < entry->drive ? RB_LEFT(entry, entry) : RB_RIGHT(entry, entry);
    }
    return entry;
}

static int add_writer(struct session *session, uint64_t drive, struct session_writer **ret,
                      struct error *error)
{
    struct session_writer *entry = calloc(1, sizeof *entry);
    if (!entry) {
        return error_set(error, -ENOMEM, "out of memory for a writer");
    }
    entry->drive = drive;
    RB_INSERT(session_writers, &session->writers, entry);
    *ret = entry;
    return 0;
}

static void remove_writer(struct session *session, struct session_writer *entry)
{
    RB_REMOVE(session_writers, &session->writers, entry);
    free(entry);
}

bool session_has_writer(struct session *session, uint64_t drive)
{
    return find_writer(session, drive);
}

bool session_has_other_writers(struct session *session, uint64_t drive)
{
    const struct session_writer *least = RB_MIN(session_writers, &session->writers);
    const struct session_writer *greatest = RB_MAX(session_writers, &session->writers);
    return least && (least->drive != drive || greatest->drive != drive);
}

void session_writers_lost(struct session *session)
{
    struct session_writer *entry;
    while ((entry = RB_ROOT(&session->writers))) {
        writer_lost(session->server->model, entry->writer);
        remove_writer(session, entry);
    }
}

static int find_drive_id(const struct request *request, uint64_t id, struct drive **ret,
                         struct error *error)
{
    *ret = model_drive_by_id(request->model, id);
    return *ret ? 0 : error_set(error, -ENOENT, "no drive with id %llu", (unsigned long long)id);
}

/* Marks with ids, for which an anonymous writer is made when the session has none. */
static int mark_tracked(const struct request *request, struct session_writer *entry, uint32_t count,
                        uint64_t *ret_sequence, struct error *error)
{
    const struct message_mark *message = request->message;
    bool made = !entry;
    int r;

    if (made) {
        struct drive *drive;
        r = find_drive_id(request, message->drive, &drive, error);
        if (r < 0) {
            return r;
        }
        r = add_writer(request->session, message->drive, &entry, error);
        if (r < 0) {
            return r;
        }
        r = writer_new(request->model, drive, &entry->writer, error);
        if (r < 0) {
            remove_writer(request->session, entry);
            return r;
        }
    }
    r = writer_mark(request->model, entry->writer, message->first_id, request->server->ranges,
                    count, ret_sequence, error);
    if (r < 0 && made) {
        writer_lost(request->model, entry->writer);
        remove_writer(request->session, entry);
    }
    return r;
}

int handle_mark(const struct request *request, struct error *error)
{
    const struct message_mark *message = request->message;
    struct session_writer *entry = find_writer(request->session, message->drive);
    struct range *ranges = request->server->ranges;
    uint32_t count = message->ranges.count;
    uint64_t sequence;
    int r;

    for (uint32_t i = 0; i < count; i++) {
        struct wire_range range = wire_ranges_get(&message->ranges, i);
        ranges[i] = (struct range){range.offset, range.length};
    }
    struct pending *pending = pending_new(request);
    if (!pending) {
        return error_set(error, -ENOMEM, "out of memory for a request");
    }
    if (entry || message->first_id != 0) {
        r = mark_tracked(request, entry, count, &sequence, error);
    } else {
        struct drive *found;
        r = find_drive_id(request, message->drive, &found, error);
        if (r == 0) {
            r = drive_mark(request->model, found, ranges, count, &sequence, error);
        }
    }
    if (r < 0) {
        pending_free(pending);
        return r;
    }
    /* It succeeded, so the drive is there. */
    const struct drive *drive = model_drive_by_id(request->model, message->drive);
    pending_wait(pending, drive_ack_level(drive), sequence, 0);
    return 0;
}

int handle_settle(const struct request *request, struct error *error)
{
    const struct message_settle *message = request->message;
    struct session_writer *entry = find_writer(request->session, message->drive);

    /* Checked whole before anything is settled. */
    for (uint32_t i = 0; i < message->ids.count; i++) {
        struct wire_range ids = wire_ranges_get(&message->ids, i);
        if (ids.offset == 0 || ids.length == 0 || ids.offset > UINT64_MAX - (ids.length - 1)) {
            return error_set(error, -EINVAL, "no marks can have %llu ids from %llu",
                             (unsigned long long)ids.length, (unsigned long long)ids.offset);
        }
    }
    for (uint32_t i = 0; entry && i < message->ids.count; i++) {
        struct wire_range ids = wire_ranges_get(&message->ids, i);
        int r = writer_settle(entry->writer, ids.offset, ids.length, error);
        if (r < 0) {
            return r;
        }
    }
    reply(request->session, MESSAGE_EMPTY, NULL, request->operation, 0, request->cookie);
    return 0;
}

/*
 * A client that reconnects may be faster than the news of its old
 * connection's end: whoever holds the token and has hung up is ended now.
 */
static bool reap_holder(struct server *server, uint64_t drive, const char *token)
{
    struct session *session;
    TAILQ_FOREACH (session, &server->sessions, entry) {
        const struct session_writer *entry = find_writer(session, drive);
        if (entry && entry->attached && !writer_is_fenced(entry->writer) &&
            strcmp(entry->token, token) == 0) {
            struct pollfd pollfd = {.fd = session->fd, .events = POLLRDHUP};
            if (poll(&pollfd, 1, 0) == 1 && (pollfd.revents & (POLLRDHUP | POLLHUP | POLLERR))) {
                session_close(session);
                return true;
            }
            return false;
        }
    }
    return false;
}

int handle_attach(const struct request *request, struct error *error)
{
    const struct message_attach *message = request->message;
    struct session *session = request->session;
    struct text token = text_from_wire(message->writer);
    struct drive *drive = find_drive(request, message->drive, error);
    struct writer_attachment how = {
        .token = token,
        .peer = session->peer_words,
        .continues = message->flags & ATTACH_CONTINUES,
        .returning = message->flags & ATTACH_RETURNING,
    };
    bool resuming;
    uint64_t sequence;

    if (!drive) {
        return -ENOENT;
    }
    if (message->flags & ~(ATTACH_CONTINUES | ATTACH_RETURNING)) {
        return error_set(error, -EINVAL, "unknown flags 0x%x", message->flags);
    }
    struct sight sight;
    if (drive->path) {
        int r = request_look(request, drive->path, &sight);
        if (r < 0) {
            return r;
        }
        if (sight.r < 0) {
            log_warning("drive %s: %s", drive->name, sight.error->text);
        }
        how.sight = &sight.drive;
    }
    struct session_writer *entry = find_writer(session, drive->id);
    if (entry && writer_is_fenced(entry->writer)) {
        writer_lost(request->model, entry->writer);
        remove_writer(session, entry);
    } else if (entry) {
        return error_set(error, -EBUSY, "this connection writes to drive '%s' already",
                         drive->name);
    }
    struct pending *pending = pending_new(request);
    if (!pending) {
        return error_set(error, -ENOMEM, "out of memory for a request");
    }
    int r = add_writer(session, drive->id, &entry, error);
    if (r < 0) {
        pending_free(pending);
        return r;
    }
    r = writer_attach(request->model, drive, &how, &entry->writer, &sequence, &resuming, error);
    if (r == -EBUSY) {
        memcpy(entry->token, token.data, token.bytes); /* it is known, so its length is right */
        if (reap_holder(request->server, drive->id, entry->token)) {
            r = writer_attach(request->model, drive, &how, &entry->writer, &sequence, &resuming,
                              error);
        }
    }
    if (r < 0) {
        pending_free(pending);
        remove_writer(session, entry);
        return r;
    }
    memcpy(entry->token, token.data, token.bytes);
    entry->attached = true;
    pending->attach = (struct message_attach_reply){
        .drive = drive->id, .size = drive->size, .resuming = resuming};
    pending_wait(pending, ACK_DURABLE, sequence, drive->id);
    return 0;
}

/* NULL with words. */
static struct session_writer *find_attached(const struct request *request, struct error *error)
{
    const struct message_drive_id *message = request->message;
    struct session_writer *entry = find_writer(request->session, message->drive);
    if (!entry || !entry->attached) {
        error_set(error, -ENOENT, "this connection is not attached to a drive with id %llu",
                  (unsigned long long)message->drive);
        return NULL;
    }
    return entry;
}

int handle_resume(const struct request *request, struct error *error)
{
    struct session_writer *entry = find_attached(request, error);
    if (!entry) {
        return -ENOENT;
    }
    struct pending *pending = pending_new(request);
    if (!pending) {
        return error_set(error, -ENOMEM, "out of memory for a request");
    }
    uint64_t sequence;
    int r = writer_resume(request->model, entry->writer, request->session->peer_words, &sequence,
                          error);
    if (r < 0) {
        pending_free(pending);
        return r;
    }
    pending_wait(pending, ACK_DURABLE, sequence, 0);
    return 0;
}

/* What the drive's path tells now is kept when the last writer goes. */
int handle_detach(const struct request *request, struct error *error)
{
    const struct message_drive_id *message = request->message;
    struct session_writer *entry = find_attached(request, error);
    const struct drive *drive = model_drive_by_id(request->model, message->drive);
    struct sight sight = {.r = -ENOENT};

    if (!entry) {
        return -ENOENT;
    }
    if (drive && drive->path && drive->writers_count == 1 && !writer_is_fenced(entry->writer)) {
        int r = request_look(request, drive->path, &sight);
        if (r < 0) {
            return r;
        }
    }
    struct pending *pending = pending_new(request);
    if (!pending) {
        return error_set(error, -ENOMEM, "out of memory for a request");
    }
    uint64_t sequence;
    int r = writer_detach(request->model, entry->writer, request->session->peer_words,
                          sight.drive.evidence, &sequence, error);
    if (r < 0) {
        pending_free(pending);
        return r;
    }
    remove_writer(request->session, entry);
    pending_wait(pending, ACK_DURABLE, sequence, 0);
    return 0;
}
