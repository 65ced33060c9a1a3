/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BITMAPD_DAEMON_CATALOG_DATABASE_H
#define BITMAPD_DAEMON_CATALOG_DATABASE_H

#include "proto/base/cleanup.h"
#include "proto/base/error.h"

#include <sqlite3.h>
#include <stdint.h>

#define DATABASE_VERSION UINT32_C(1) /* of the schema, in user_version */
/* "bmpc" in application_id, so that no other program's database is taken for ours. */
#define DATABASE_APPLICATION_ID UINT32_C(0x626d7063)

/*
 * Opens the database as far as the file goes: checked, in WAL mode, at
 * DATABASE_VERSION.  -EBADMSG when the file is damaged, -ENOTSUP when it is
 * not ours to touch, else -errno.
 */
int database_open(const char *path, sqlite3 **ret, struct error *error);

/* Renames the file, its -wal and its -shm; @ret is the file's new path. */
int database_set_aside(const char *path, char ret[4096], struct error *error);

/*
 * Words for a failed call ("PATH: WHAT: reason"), and its result as -errno.
 * @db may be NULL.
 */
int database_error(sqlite3 *db, int result, const char *path, const char *what,
                   struct error *error);

/* sqlite3_exec() without rows; @what stands for it in words. */
int database_run(sqlite3 *db, const char *path, const char *what, const char *sql,
                 struct error *error);

static inline void database_close(sqlite3 *db)
{
    (void)sqlite3_close(db);
}

static inline void statement_finalize(sqlite3_stmt *statement)
{
    (void)sqlite3_finalize(statement);
}

DEFINE_CLEANUP(sqlite3 *, database_close)
DEFINE_CLEANUP(sqlite3_stmt *, statement_finalize)

#endif
