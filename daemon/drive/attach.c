/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A writer attaches: whose drive it is, and whether it was written to meanwhile.
 *
 * What stands under the drive's path has an identity, and bears evidence of writing.  The evidence
 * is kept when the last writer detaches and is void as soon as one attaches; in between it says
 * whether somebody wrote past us.  A verdict is a record of its own, in front of the one that voids
 * the evidence it comes from, or renews it: what begins to record after the verdict is judged by
 * what there was to see then.  So whatever begins, seals or answers on a drive that nobody writes
 * to looks at the path before it does.  Evidence only ever lowers validity: that nothing differs
 * proves nothing, and is called "ruled out" for want of a better source.
 */
#include "daemon/drive/internal.h"

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
    [UNTRACKED_UNIDENTIFIED] = "what stands under the drive's path cannot be identified",
    [UNTRACKED_NO_PATH] = "the drive has no path that could be looked at",
};

const char *untracked_words(enum untracked untracked)
{
    return words[untracked];
}

bool drive_is_watched(const struct drive *drive)
{
    const struct writer *writer;

    TAILQ_FOREACH (writer, &drive->writers, entry) {
        if (writer->connected) {
            return true;
        }
    }
    return false;
}

enum untracked drive_untracked(const struct drive *drive)
{
    if (!drive->path) {
        return UNTRACKED_NO_PATH;
    }
    if (drive_is_watched(drive)) {
        return UNTRACKED_RULED_OUT;
    }
    return drive->writers_count > 0 ? UNTRACKED_LOST_WRITER
           : drive->evidence        ? UNTRACKED_RULED_OUT
                                    : UNTRACKED_NO_EVIDENCE;
}

enum untracked drive_bitmap_untracked(const struct drive_bitmap *bitmap)
{
    enum untracked now = bitmap->recording ? drive_untracked(bitmap->drive) : UNTRACKED_RULED_OUT;

    return now > bitmap->untracked ? now : bitmap->untracked;
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

/* The verdict is durable with its own evidence, so that what begins after it is held against that.
 */
static int commit_unknown(struct model *model, struct drive *drive, const char *reason,
                          struct text evidence, struct error *error)
{
    struct record record = {.type = RECORD_DRIVE_DISTRUST,
                            .drive = drive->id,
                            .name = {reason, (uint32_t)strlen(reason)},
                            .evidence = evidence};
    bool known = is_known(drive, UNTRACKED_RULED_OUT, true);

    if (known && evidence.bytes == 0) {
        return 0;
    }
    return model_commit(model, &record, error);
}

static int commit_unproven(struct model *model, struct drive *drive, enum untracked untracked,
                           struct text evidence, struct error *error)
{
    struct record record = {.type = RECORD_DRIVE_UNPROVEN,
                            .drive = drive->id,
                            .untracked = untracked,
                            .evidence = evidence};

    if (model->settings.unproven_is_unknown) {
        char reason[MODEL_REASON_BYTES_MAX + 1];
        (void)snprintf(reason, sizeof reason, "untracked writing cannot be ruled out: %s",
                       words[untracked]);
        return commit_unknown(model, drive, reason, evidence, error);
    }
    return is_known(drive, untracked, false) && evidence.bytes == 0
               ? 0
               : model_commit(model, &record, error);
}

static int compare(struct model *model, struct drive *drive, const struct drive_sight *sight,
                   bool renew, struct error *error)
{
    static const struct text none;
    static const char written[] = "it was written while no writer was attached: ";
    char then[MODEL_IDENTITY_BYTES_MAX + 1], now[MODEL_IDENTITY_BYTES_MAX + 1];
    char why[MODEL_REASON_BYTES_MAX + 2 - sizeof written], reason[MODEL_REASON_BYTES_MAX + 1];

    if (drive->writers_count > 0) {
        /* Lost ones: whatever they leave is told when they come back. */
        return model->settings.unproven_is_unknown
                   ? commit_unproven(model, drive, UNTRACKED_LOST_WRITER, none, error)
                   : 0;
    }
    struct text renewed = renew && sight->seen ? sight->evidence : none;
    if (!sight->seen) {
        return commit_unproven(model, drive, UNTRACKED_HIDDEN, none, error);
    }
    if (!drive->evidence) {
        int r = commit_unproven(model, drive, UNTRACKED_NO_EVIDENCE, renewed, error);
        /* While changes are refused nothing begins, and answers tell of it by themselves. */
        return r == -EROFS && !model->settings.unproven_is_unknown ? 0 : r;
    }
    (void)snprintf(then, sizeof then, "%s", drive->evidence);
    (void)snprintf(now, sizeof now, "%.*s", (int)sight->evidence.bytes,
                   sight->evidence.data ? sight->evidence.data : "");
    switch (evidence_compare(then, now, why, sizeof why)) {
    case EVIDENCE_EQUAL:
        return 0;
    case EVIDENCE_INCOMPARABLE:
        return commit_unproven(model, drive, UNTRACKED_INCOMPARABLE, renewed, error);
    case EVIDENCE_WRITTEN:
        break;
    }
    (void)snprintf(reason, sizeof reason, "%s%s", written, why);
    return commit_unknown(model, drive, reason, renewed, error);
}

int drive_compare_evidence(struct model *model, struct drive *drive,
                           const struct drive_sight *sight, struct error *error)
{
    return compare(model, drive, sight, true, error);
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

/* It was known, and what stands there now cannot be told from others. */
static bool is_unidentified(const struct drive *drive, const struct drive_sight *sight)
{
    return drive->identity && sight->seen && sight->identity.bytes == 0;
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
            r = compare(model, drive, how->sight, false, error); /* it is void in any case */
        } else if (r == 0 && !how->returning && !drive_is_watched(drive)) {
            r = commit_unproven(model, drive, UNTRACKED_LOST_WRITER, (struct text){NULL, 0}, error);
        }
        if (r == 0 && is_unidentified(drive, how->sight)) {
            r = commit_unproven(model, drive, UNTRACKED_UNIDENTIFIED, (struct text){NULL, 0},
                                error);
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
