/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_PROTO_STATUS_H
#define BITMAPD_PROTO_STATUS_H

#include <stdint.h>

/*
 * What became of a request.  Numbers are never reused; protocol.md has the
 * same table.  A reply whose status is not STATUS_OK carries struct
 * message_error instead of the operation's reply, and never FRAME_MORE.
 */
enum status {
    STATUS_OK = 0,
    STATUS_MALFORMED = 1,         /* payload is not what the operation takes */
    STATUS_UNKNOWN_OPERATION = 2, /* the connection goes on */
    STATUS_VERSION = 3,           /* no protocol version in common; the connection ends */
    STATUS_INVALID = 4,           /* an argument is out of its range; nothing changed */
    STATUS_NOT_FOUND = 5,         /* no such drive, bitmap or checkpoint */
    STATUS_EXISTS = 6,
    STATUS_BUSY = 7,
    STATUS_PERMISSION = 8,
    STATUS_LIMIT = 9,        /* a limit of the daemon would be passed; nothing changed */
    STATUS_NO_MEMORY = 10,   /* nothing changed */
    STATUS_IO = 11,          /* the daemon's storage fails; nothing changed */
    STATUS_NOT_DURABLE = 12, /* applied, but not yet on stable storage: it will be retried */
    STATUS_SHUTTING_DOWN = 13,
    STATUS_FENCED = 14,      /* this writer's token has been taken away */
    STATUS_FAILED = 15,      /* any other failure, in words */
    STATUS_OTHER_DRIVE = 16, /* another drive stands under the path (see DRIVE_ADOPT) */
    STATUS_END
};

/* Short stable name ("not-found"), or "unknown" for a number that is not in the table. */
const char *status_name(uint8_t status);
/* One line of English for people. */
const char *status_text(uint8_t status);
/* -errno of the daemon's layers into a status: the only place that maps them. */
enum status status_from_errno(int r);
/* And back, for libraries: 0 or -errno. */
int status_to_errno(uint8_t status);

#endif
