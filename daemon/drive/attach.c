/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A writer attaches: whose drive it is, and whether it was written to meanwhile.
 *
 * What stands under the drive's path has an identity, and bears evidence of writing.  The evidence
 * is kept when the last writer detaches and is void as soon as one attaches; in between it says
 * whether somebody wrote past us.  A verdict is a record of its own, in front of the one that voids
 * the evidence it comes from.  Evidence only ever lowers validity: that nothing differs proves
 * nothing, and is called "ruled out" for want of a better source.
 */
#include "daemon/drive/internal.h"

#include "daemon/base/log.h"
#include "daemon/identity/identity.h"

#include <stdio.h>
#include <string.h>

static const char *const words[UNTRACKED_REASONS] = {
    [UNTRACKED_RULED_OUT] = "",
    [UNTRACKED_LOST_WRITER] = "a writer was lost for a while",
    [UNTRACKED_NO_EVIDENCE] = "no evidence was kept when it was last written to",
    [UNTRACKED_INCOMPARABLE] = "the evidence kept is of another boot, attachment or kind, or other "
                               "partitions were written",
    [UNTRACKED_HIDDEN] = "the drive's path could not be looked at",
    [UNTRACKED_NO_PATH] = "the drive has no path that could be looked at",
};

const char *untracked_words(enum untracked untracked)
{
    return words[untracked];
}

enum untracked drive_untracked(const struct drive *drive)
{
    if (!drive->path) {
        return UNTRACKED_NO_PATH;
    }
    return drive->writers_count > 0 || drive->evidence ? UNTRACKED_RULED_OUT
                                                       : UNTRACKED_NO_EVIDENCE;
}

/* Every recording bitmap, and every disabled one that would have to tell of it, tells already. */
static bool is_known(const struct drive *drive, enum untracked untracked, bool unknown)
{
    const struct drive_bitmap *bitmap;

    TAILQ_FOREACH (bitmap, &drive->all, of_drive) {
        if (drive_bitmap_is_sealed(bitmap)) {
            continue;
        }
        if (unknown ? !(bitmap->recording ? bitmap->validity == VALIDITY_UNKNOWN : bitmap->gap)
                    : bitmap->untracked < untracked) {
            return false;
        }
    }
    return true;
}

static int commit_unknown(struct model *model, struct drive *drive, const char *reason,
                          struct error *error)
{
    struct record record = {.type = RECORD_DRIVE_DISTRUST,
                            .drive = drive->id,
                            .name = {reason, (uint32_t)strlen(reason)}};

    if (is_known(drive, UNTRACKED_RULED_OUT, true)) {
        return 0;
    }
    log_warning("drive %s: %s; its recording bitmaps are unknown", drive->name, reason);
    return model_commit(model, &record, error);
}

static int commit_unproven(struct model *model, struct drive *drive, enum untracked untracked,
                           struct error *error)
{
    struct record record = {
        .type = RECORD_DRIVE_UNPROVEN, .drive = drive->id, .untracked = untracked};

    if (model->settings.unproven_is_unknown) {
        char reason[MODEL_REASON_BYTES_MAX + 1];
        (void)snprintf(reason, sizeof reason, "untracked writing cannot be ruled out: %s",
                       words[untracked]);
        return commit_unknown(model, drive, reason, error);
    }
    return is_known(drive, untracked, false) ? 0 : model_commit(model, &record, error);
}

int drive_compare_evidence(struct model *model, struct drive *drive,
                           const struct drive_sight *sight, struct error *error)
{
    char then[MODEL_IDENTITY_BYTES_MAX + 1], now[MODEL_IDENTITY_BYTES_MAX + 1];
    char why[120], reason[MODEL_REASON_BYTES_MAX + 1];

    if (!sight->seen) {
        return commit_unproven(model, drive, UNTRACKED_HIDDEN, error);
    }
    if (!drive->evidence) {
        return commit_unproven(model, drive, UNTRACKED_NO_EVIDENCE, error);
    }
    (void)snprintf(then, sizeof then, "%s", drive->evidence);
    (void)snprintf(now, sizeof now, "%.*s", (int)sight->evidence.bytes,
                   sight->evidence.data ? sight->evidence.data : "");
    switch (evidence_compare(then, now, why, sizeof why)) {
    case EVIDENCE_EQUAL:
        return 0;
    case EVIDENCE_INCOMPARABLE:
        return commit_unproven(model, drive, UNTRACKED_INCOMPARABLE, error);
    case EVIDENCE_WRITTEN:
        break;
    }
    (void)snprintf(reason, sizeof reason, "it was written while no writer was attached: %s", why);
    return commit_unknown(model, drive, reason, error);
}

static int check_identity(const struct drive *drive, const struct drive_sight *sight,
                          struct error *error)
{
    char found[120], expected[120], text[MODEL_IDENTITY_BYTES_MAX + 1];

    if (!drive->identity || !sight->seen || sight->identity.bytes == 0 ||
        (strlen(drive->identity) == sight->identity.bytes &&
         memcmp(drive->identity, sight->identity.data, sight->identity.bytes) == 0)) {
        return 0;
    }
    (void)snprintf(text, sizeof text, "%.*s", (int)sight->identity.bytes, sight->identity.data);
    identity_words(text, found, sizeof found);
    identity_words(drive->identity, expected, sizeof expected);
    return error_set(error, -EXDEV,
                     "another drive stands under '%.60s': %s; '%.60s' was %s (see drive adopt)",
                     drive->path, found, drive->name, expected);
}

static bool has_connected(const struct drive *drive)
{
    const struct writer *writer;

    TAILQ_FOREACH (writer, &drive->writers, entry) {
        if (writer->connected) {
            return true;
        }
    }
    return false;
}

int writer_attach(struct model *model, struct drive *drive, const struct writer_attachment *how,
                  struct writer **ret, uint64_t *ret_sequence, bool *ret_resuming,
                  struct error *error)
{
    struct record record = {.type = RECORD_ATTACH,
                            .drive = drive->id,
                            .name = how->token,
                            .continues = how->continues,
                            .returning = how->returning,
                            .peer = how->peer};

    /* Records without a token are about anonymous writers. */
    if (how->token.bytes == 0) {
        return error_set(error, -EINVAL, "a writer's token is empty");
    }
    const struct writer *before = drive_writer_by_token(drive, how->token);
    if (before && before->connected) {
        return error_set(error, -EBUSY, "writer '%s' is attached to drive '%s' already",
                         before->token, drive->name);
    }
    int r = 0;
    if (how->sight) {
        r = check_identity(drive, how->sight, error);
        if (r == 0 && drive->writers_count == 0) {
            r = drive_compare_evidence(model, drive, how->sight, error);
        } else if (r == 0 && !how->returning && !has_connected(drive)) {
            r = commit_unproven(model, drive, UNTRACKED_LOST_WRITER, error);
        }
        record.identity = drive->identity ? (struct text){NULL, 0} : how->sight->identity;
    }
    if (r == 0) {
        r = model_commit(model, &record, error);
    }
    if (r < 0) {
        return r;
    }
    struct writer *writer = drive_writer_by_token(drive, how->token);
    *ret = writer;
    *ret_sequence = record.sequence;
    *ret_resuming = writer->resuming;
    return 0;
}
