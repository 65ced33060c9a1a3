/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who may do what.
 *
 * A peer is known by the credentials it had when it connected; the rules that
 * name it or a group of its are noted then, and again at a reload.  What a
 * request needs, and on which drive, is in the route table (dispatch.c), and
 * access_check() is the one place that decides, before anything is looked at.
 *
 * A right on a drive is decided by the drive's name alone, whether there is
 * such a drive or not, so a refusal reveals nothing.  Ids have no rules: one of
 * a drive that may not be seen is answered as one that does not exist.
 *
 * Marks come by id and must not cost a match of patterns, nor may a list of
 * thousands of drives: which rules match a drive is found once for all peers
 * and kept by its id, until rules change or a drive is renamed.  root and the
 * daemon's own user need not even that.
 */
#include "daemon/server/internal.h"

#include "daemon/base/log.h"
#include "proto/base/name.h"

#include <fnmatch.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Denials are told to the log and the history: of a user so many at once, then one a second. */
#define DENIALS_AT_ONCE 20u
#define DENIAL_EVERY_MS 1000u

/* ---- Peers ---- */

static bool is_member(const struct peer *peer, uint32_t group)
{
    for (uint32_t i = 0; i < peer->groups_count; i++) {
        if (peer->groups[i] == group) {
            return true;
        }
    }
    return peer->gid == group;
}

int peer_init(struct peer *peer, int fd)
{
    struct ucred credentials;
    socklen_t bytes = sizeof credentials;

    *peer = (struct peer){0};
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &bytes) < 0) {
        return -errno;
    }
    peer->uid = credentials.uid;
    peer->gid = credentials.gid;
    peer->pid = credentials.pid;
    bytes = 0;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, NULL, &bytes) == 0) {
        return 0; /* it is in none */
    }
    if (errno != ERANGE) {
        return -errno;
    }
    CLEANUP_FREE gid_t *groups = malloc(bytes);
    if (!groups) {
        return -ENOMEM;
    }
    if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &bytes) < 0) {
        return -errno;
    }
    peer->groups_count = (uint32_t)(bytes / sizeof *groups);
    peer->groups = STEAL(groups);
    return 0;
}

void peer_deinit(struct peer *peer)
{
    free(peer->groups);
    peer->groups = NULL;
    peer->groups_count = 0;
}

bool peer_is_exempt(const struct peer *peer)
{
    return peer->uid == 0 || peer->uid == geteuid();
}

void access_forget(struct server *server)
{
    server->matches_version++;
}

void access_resolve(struct session *session)
{
    const struct server_settings *settings = &session->server->settings;
    struct peer *peer = &session->peer;

    memset(peer->rules, 0, sizeof peer->rules);
    peer->administers = peer_is_exempt(peer) || (settings->admin_group != (gid_t)-1 &&
                                                 is_member(peer, settings->admin_group));
    peer->anywhere = peer->everywhere = 0;
    for (uint32_t i = 0; i < settings->rules_count; i++) {
        const struct access_rule *rule = &settings->rules[i];
        if (rule->group ? !is_member(peer, rule->id) : peer->uid != rule->id) {
            continue;
        }
        peer->rules[i / 64] |= UINT64_C(1) << i % 64;
        peer->anywhere |= rule->rights;
        bool all = rule->drives_count == 0;
        for (uint32_t j = 0; j < rule->drives_count; j++) {
            all |= strcmp(rule->drives[j], "*") == 0;
        }
        peer->everywhere |= all ? rule->rights : 0;
    }
    if (peer->administers) {
        peer->anywhere = peer->everywhere = ACCESS_ALL;
    }
    peer->anywhere = access_rights_with_included(peer->anywhere);
    peer->everywhere = access_rights_with_included(peer->everywhere);
    if (peer->restricted) {
        peer->anywhere &= peer->restricted_rights;
        peer->everywhere = 0;
    }
}

void access_restrict(struct session *session, uint64_t drive, uint32_t rights)
{
    session->peer.restricted = true;
    session->peer.restricted_drive = drive;
    session->peer.restricted_rights = rights;
    access_resolve(session);
}

/* ---- Rights ---- */

static bool rule_matches(const struct access_rule *rule, const char *name)
{
    bool matches = rule->drives_count == 0;

    for (uint32_t i = 0; i < rule->drives_count && !matches; i++) {
        matches = fnmatch(rule->drives[i], name, 0) == 0;
    }
    return matches;
}

/*
 * What the rules for @peer give on a drive, without regard to a restriction: by @name, or where the
 * rules that match it are known already, by @matching, a bit for each.
 */
static uint32_t rights_by_rules(const struct server_settings *settings, const struct peer *peer,
                                const char *name, const uint64_t *matching)
{
    uint32_t rights = 0;

    for (uint32_t word = 0; word < ACCESS_RULES_MAX / 64; word++) {
        uint64_t left = matching ? peer->rules[word] & matching[word] : peer->rules[word];
        for (; left != 0; left &= left - 1) {
            const struct access_rule *rule =
                &settings->rules[word * 64 + (uint32_t)__builtin_ctzll(left)];
            if ((rule->rights & ~rights) != 0 && (matching || rule_matches(rule, name))) {
                rights |= rule->rights;
            }
        }
    }
    return access_rights_with_included(rights);
}

/* Of a name, whether there is such a drive or not. */
static uint32_t rights_on(const struct session *session, const char *name)
{
    const struct peer *peer = &session->peer;
    uint32_t rights = peer->administers
                          ? ACCESS_ALL
                          : rights_by_rules(&session->server->settings, peer, name, NULL);

    if (peer->restricted) {
        const struct drive *drive =
            model_drive_by_id(session->server->model, peer->restricted_drive);
        rights &= drive && strcmp(drive->name, name) == 0 ? peer->restricted_rights : 0;
    }
    return rights;
}

static bool may_all(const struct peer *peer)
{
    return peer->administers && !peer->restricted;
}

/* The rules that match a drive, or NULL when that has to be found. */
static const uint64_t *known_matches(const struct server *server, uint64_t drive)
{
    const struct matches *matches = &server->matches[drive % ACCESS_MATCHES];
    return matches->drive == drive && matches->version == server->matches_version ? matches->rules
                                                                                  : NULL;
}

static const uint64_t *find_matches(struct server *server, const struct drive *drive)
{
    struct matches *matches = &server->matches[drive->id % ACCESS_MATCHES];

    *matches = (struct matches){drive->id, server->matches_version, {0}};
    for (uint32_t i = 0; i < server->settings.rules_count; i++) {
        if (rule_matches(&server->settings.rules[i], drive->name)) {
            matches->rules[i / 64] |= UINT64_C(1) << i % 64;
        }
    }
    return matches->rules;
}

static uint32_t rights_by_matches(const struct session *session, uint64_t drive,
                                  const uint64_t *matches)
{
    const struct peer *peer = &session->peer;
    uint32_t rights = peer->administers
                          ? ACCESS_ALL
                          : rights_by_rules(&session->server->settings, peer, NULL, matches);

    if (peer->restricted) {
        rights &= drive == peer->restricted_drive ? peer->restricted_rights : 0;
    }
    return rights;
}

uint32_t access_on_drive(struct session *session, const struct drive *drive)
{
    const uint64_t *known;

    if (may_all(&session->peer)) {
        return ACCESS_ALL;
    }
    known = known_matches(session->server, drive->id);
    return rights_by_matches(session, drive->id,
                             known ? known : find_matches(session->server, drive));
}

/* None on a drive that never was.  An id is not used again, so what is known of one that was
 * removed can give nothing but another error. */
static uint32_t access_on_id(struct session *session, uint64_t id)
{
    const uint64_t *known = known_matches(session->server, id);

    if (known && id != 0) {
        return rights_by_matches(session, id, known);
    }
    const struct drive *drive = model_drive_by_id(session->server->model, id);
    return drive ? access_on_drive(session, drive) : 0;
}

/* ---- Denials ---- */

bool access_may_tell_of(struct denials *denials, uint64_t now_ms)
{
    uint64_t more = (now_ms - denials->counted_ms) / DENIAL_EVERY_MS;

    denials->counted_ms += more * DENIAL_EVERY_MS;
    denials->room =
        more >= DENIALS_AT_ONCE - denials->room ? DENIALS_AT_ONCE : denials->room + (uint32_t)more;
    if (denials->room == 0) {
        denials->untold++;
        return false;
    }
    denials->room--;
    if (denials->untold > 0) {
        log_notice("%llu more were refused before the next", (unsigned long long)denials->untold);
        denials->untold = 0;
    }
    return true;
}

bool access_may_tell(struct server *server, uid_t uid)
{
    return access_may_tell_of(&server->denials[uid % DENIAL_USERS], uv_now(server->loop));
}

static void tell_denial(const struct request *request, const char *drive, const char *text)
{
    if (access_may_tell(request->server, request->session->peer.uid)) {
        log_event(LOG_LEVEL_NOTICE, LOG_DENIED, drive && drive[0] ? drive : NULL, NULL, "%s: %s",
                  request->session->peer_words, text);
        model_note(request->server->model, "denied", drive, request->session->peer_words, text);
    }
}

/* Of a drive by @name, of none in particular (NULL), or of all (""). */
static int deny(const struct request *request, const struct access_need *need, const char *name,
                struct error *error)
{
    char words[ACCESS_WORDS_BYTES];
    bool one = name && name[0];

    error_set(error, -EPERM, "not permitted: %s needs %s%s%s%s", operation_name(request->operation),
              access_rights_words(need->rights, words),
              one    ? " on drive '"
              : name ? " on all drives"
                     : "",
              one ? name : "", one ? "'" : "");
    tell_denial(request, one ? name : NULL, error->text);
    return -EPERM;
}

/* ---- What a request names ---- */

static int check_name(const struct request *request, const struct access_need *need,
                      const char *data, size_t bytes, struct error *error)
{
    char name[NAME_BYTES_MAX + 1];

    /* No drive has a name that is none: the handler will say so, and needs no look for it. */
    if (name_check(NAME_DRIVE, data, bytes, NULL) < 0) {
        return 0;
    }
    memcpy(name, data, bytes);
    name[bytes] = '\0';
    return rights_on(request->session, name) & need->rights ? 0 : deny(request, need, name, error);
}

static int check_drive(const struct request *request, const struct access_need *need,
                       struct wire_string name, struct error *error)
{
    return check_name(request, need, name.data, name.length, error);
}

/* "DRIVE/NAME" */
static int check_bitmap(const struct request *request, const struct access_need *need,
                        struct wire_string full, struct error *error)
{
    size_t drive_bytes;

    return name_split(full.data, full.length, &drive_bytes, NULL) < 0
               ? 0
               : check_name(request, need, full.data, drive_bytes, error);
}

static int check_all(const struct request *request, const struct access_need *need,
                     struct wire_strings names, struct error *error,
                     int (*check)(const struct request *request, const struct access_need *need,
                                  struct wire_string name, struct error *error))
{
    uint16_t count = names.count;
    int r = 0;

    for (uint16_t i = 0; i < count && r == 0; i++) {
        r = check(request, need, wire_strings_next(&names), error);
    }
    return r;
}

static int check_id(const struct request *request, const struct access_need *need, uint64_t id,
                    struct error *error)
{
    struct session *session = request->session;
    uint32_t rights = access_on_id(session, id);
    const struct drive *drive;

    if (rights & need->rights) {
        return 0;
    }
    drive = model_drive_by_id(request->model, id);
    if (rights != 0 || session_has_writer(session, id)) {
        return deny(request, need, drive ? drive->name : NULL, error);
    }
    if (drive) {
        /* The log may know what the peer may not. */
        (void)deny(request, need, drive->name, error);
    }
    if (request->operation == OPERATION_MARK) {
        return error_set(error, -ENOENT, "no drive with id %llu", (unsigned long long)id);
    }
    /* The others are about a writer that this connection has not, whether there is a drive or no.
     */
    *error = (struct error){""};
    return 0;
}

int access_check(const struct request *request, const struct access_need *need, struct error *error)
{
    const struct peer *peer = &request->session->peer;
    const void *at = (const char *)request->message + need->offset;

    if (may_all(peer)) {
        return 0;
    }
    if (peer->anywhere == 0) {
        error_set(error, -EPERM, "not permitted: user %u has no rights here", peer->uid);
        tell_denial(request, NULL, error->text);
        return -EPERM;
    }
    switch (need->subject) {
    case SUBJECT_NONE:
        return 0;
    case SUBJECT_DAEMON:
        return peer->everywhere & need->rights ? 0 : deny(request, need, "", error);
    case SUBJECT_SOME:
        return peer->anywhere & need->rights ? 0 : deny(request, need, NULL, error);
    case SUBJECT_DRIVE:
        return check_drive(request, need, *(const struct wire_string *)at, error);
    case SUBJECT_DRIVE_OR_SOME:
        if (((const struct wire_string *)at)->length == 0) {
            return peer->anywhere & need->rights ? 0 : deny(request, need, NULL, error);
        }
        return check_drive(request, need, *(const struct wire_string *)at, error);
    case SUBJECT_BITMAP:
        return check_bitmap(request, need, *(const struct wire_string *)at, error);
    case SUBJECT_ID:
        return peer->anywhere & need->rights ? check_id(request, need, *(const uint64_t *)at, error)
                                             : deny(request, need, NULL, error);
    case SUBJECT_DRIVES:
        return check_all(request, need, *(const struct wire_strings *)at, error, check_drive);
    case SUBJECT_RENAME: {
        /* Both names, or whoever may the one would learn of the other. */
        const struct message_drive_change *message = request->message;
        int r = check_drive(request, need, message->name, error);
        return r < 0 ? r : check_drive(request, need, message->argument, error);
    }
    case SUBJECT_MERGE: {
        const struct message_bitmap_merge *message = request->message;
        int r = check_bitmap(request, need, message->target, error);
        return r < 0 ? r : check_all(request, need, message->sources, error, check_bitmap);
    }
    }
    return deny(request, need, NULL, error); /* a row without a subject */
}

int access_check_repeat(const struct request *request, const struct access_need *need,
                        const struct request_result *before, struct error *error)
{
    const struct drive *drive = model_drive_by_id(request->model, before->object);
    const struct drive_bitmap *bitmap = model_bitmap_by_id(request->model, before->object);

    drive = bitmap ? bitmap->drive : drive;
    if (!drive || access_on_drive(request->session, drive) & need->rights) {
        return 0;
    }
    error_set(error, -EPERM, "not permitted: this request id is somebody else's");
    tell_denial(request, drive->name, error->text);
    return -EPERM;
}
