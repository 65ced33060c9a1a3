/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The catalog's file: opening, judging and migrating it, and putting a damaged
 * one out of the way.
 *
 * Invariants: a file is written to only after it proved to be ours and not
 * newer than we are; nothing is ever deleted; and each migration is one
 * transaction that also moves user_version, so that a crash leaves one version
 * or the next.
 */
#include "daemon/catalog/database.h"

#include "daemon/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SET_ASIDE_BYTES 4096
#define FILE_BYTES_MIN  512  /* of a database that is not empty: one page of the smallest size */
#define BUSY_MS         1000 /* how long someone else's lock, such as a shell's, is waited for */

/* Step n makes version n + 1 out of version n. */
static const char *const migrations[] = {
    "CREATE TABLE events (\n"
    "    id       INTEGER PRIMARY KEY, -- in order of appending\n"
    "    time_ns  INTEGER NOT NULL,    -- since 1970-01-01 UTC\n"
    "    sequence INTEGER NOT NULL,    -- of the record; 0: none\n"
    "    kind     TEXT NOT NULL,\n"
    "    drive    TEXT,\n"
    "    bitmap   TEXT,\n"
    "    peer     TEXT,                -- NULL: the daemon itself\n"
    "    detail   TEXT\n"
    ") STRICT;\n"
    "CREATE INDEX events_by_drive ON events (drive, id) WHERE drive IS NOT NULL;\n",
};

_Static_assert(sizeof migrations / sizeof migrations[0] == DATABASE_VERSION,
               "one migration per version");

static int errno_from_result(sqlite3 *db, int result)
{
    int system = db ? sqlite3_system_errno(db) : 0;

    switch (result & 0xff) {
    case SQLITE_OK:
    case SQLITE_ROW:
    case SQLITE_DONE:
        return 0;
    case SQLITE_NOMEM:
        return -ENOMEM;
    case SQLITE_FULL:
        return -ENOSPC;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return -EBUSY;
    case SQLITE_READONLY:
        return -EROFS;
    case SQLITE_PERM:
    case SQLITE_AUTH:
        return -EACCES;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return -EBADMSG;
    case SQLITE_CANTOPEN:
    case SQLITE_IOERR:
        return system > 0 ? -system : -EIO;
    default:
        return -EIO;
    }
}

int database_error(sqlite3 *db, int result, const char *path, const char *what, struct error *error)
{
    int r = errno_from_result(db, result);

    if (r == 0) { /* a row where none belongs, or none where one does */
        return error_set(error, -EBADMSG, "%s: %s: unexpected answer", path, what);
    }
    return error_set(error, r, "%s: %s: %s", path, what,
                     db ? sqlite3_errmsg(db) : sqlite3_errstr(result));
}

int database_run(sqlite3 *db, const char *path, const char *what, const char *sql,
                 struct error *error)
{
    int result = sqlite3_exec(db, sql, NULL, NULL, NULL);

    return result == SQLITE_OK ? 0 : database_error(db, result, path, what, error);
}

/* Runs a query of one row and one number. */
static int query_number(sqlite3 *db, const char *path, const char *sql, int64_t *ret,
                        struct error *error)
{
    CLEANUP(statement_finalizep) sqlite3_stmt *statement = NULL;
    int result = sqlite3_prepare_v2(db, sql, -1, &statement, NULL);

    if (result == SQLITE_OK) {
        result = sqlite3_step(statement);
    }
    if (result != SQLITE_ROW) {
        return database_error(db, result, path, sql, error);
    }
    *ret = sqlite3_column_int64(statement, 0);
    return 0;
}

static int quick_check(sqlite3 *db, const char *path, struct error *error)
{
    static const char sql[] = "PRAGMA quick_check(1)";
    CLEANUP(statement_finalizep) sqlite3_stmt *statement = NULL;
    int result = sqlite3_prepare_v2(db, sql, -1, &statement, NULL);

    if (result == SQLITE_OK) {
        result = sqlite3_step(statement);
    }
    if (result != SQLITE_ROW) {
        return database_error(db, result, path, sql, error);
    }
    const char *verdict = (const char *)sqlite3_column_text(statement, 0);
    if (!verdict) {
        return database_error(db, SQLITE_NOMEM, path, sql, error);
    }
    if (strcmp(verdict, "ok") != 0) {
        return error_set(error, -EBADMSG, "%s: quick_check: %s", path, verdict);
    }
    return 0;
}

/* Version of our schema, 0 for an empty database; refuses what is not ours. */
static int judge(sqlite3 *db, const char *path, uint32_t *ret_version, struct error *error)
{
    int64_t application = 0, version = 0, objects = 0;
    int r = query_number(db, path, "PRAGMA application_id", &application, error);

    if (r == 0) {
        r = query_number(db, path, "PRAGMA user_version", &version, error);
    }
    if (r == 0) {
        r = query_number(db, path, "SELECT count(*) FROM sqlite_schema", &objects, error);
    }
    if (r < 0) {
        return r;
    }
    bool empty = application == 0 && version == 0 && objects == 0;
    if (!empty && application != DATABASE_APPLICATION_ID) {
        return error_set(error, -ENOTSUP,
                         "%s: a database of another program: expected application_id 0x%08" PRIx32
                         ", found 0x%08" PRIx32,
                         path, DATABASE_APPLICATION_ID, (uint32_t)application);
    }
    if (version > DATABASE_VERSION) {
        return error_set(error, -ENOTSUP,
                         "%s: catalog of version %" PRId64 ", this bitmapd knows versions up to "
                         "%" PRIu32,
                         path, version, DATABASE_VERSION);
    }
    if (!empty && version < 1) {
        return error_set(error, -EBADMSG,
                         "%s: user_version: expected 1 to %" PRIu32 ", found %" PRId64, path,
                         DATABASE_VERSION, version);
    }
    *ret_version = (uint32_t)version;
    return 0;
}

static int migrate(sqlite3 *db, const char *path, uint32_t version, struct error *error)
{
    for (; version < DATABASE_VERSION; version++) {
        char number[128];
        snprintf(number, sizeof number,
                 "PRAGMA application_id = %" PRIu32 "; PRAGMA user_version = %" PRIu32,
                 DATABASE_APPLICATION_ID, version + 1);
        int r = database_run(db, path, "begin", "BEGIN IMMEDIATE", error);
        if (r == 0) {
            r = database_run(db, path, "tables", migrations[version], error);
        }
        if (r == 0) {
            r = database_run(db, path, "version", number, error);
        }
        if (r == 0) {
            r = database_run(db, path, "commit", "COMMIT", error);
        }
        if (r < 0) {
            return error_prefix(error, r, "migration to version %" PRIu32, version + 1);
        }
    }
    return 0;
}

/* Makes the file when it is not there, private to us, and refuses what sqlite could hang on. */
static int file_prepare(const char *path, struct error *error)
{
    CLEANUP_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0600);
    struct stat status;

    if (fd < 0 || fstat(fd, &status) < 0) {
        return error_set_errno(error, -errno, "%s", path);
    }
    if (!S_ISREG(status.st_mode)) {
        return error_set(error, -EINVAL, "%s: expected a regular file", path);
    }
    /* sqlite takes anything this small for an empty database and would write over it. */
    if (status.st_size > 0 && status.st_size < FILE_BYTES_MIN) {
        return error_set(error, -EBADMSG, "%s: expected a database of at least %d bytes, found %jd",
                         path, FILE_BYTES_MIN, (intmax_t)status.st_size);
    }
    return 0;
}

static bool log_exists(const char *path)
{
    char log[SET_ASIDE_BYTES + 8];

    return snprintf(log, sizeof log, "%s-wal", path) < (int)sizeof log && access(log, F_OK) == 0;
}

int database_open(const char *path, sqlite3 **ret, struct error *error)
{
    CLEANUP(database_closep) sqlite3 *db = NULL;
    uint32_t version = 0;

    int r = file_prepare(path, error);
    if (r < 0) {
        return r;
    }
    int result = sqlite3_open_v2(
        path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, NULL);
    if (result != SQLITE_OK) {
        return database_error(db, result, path, "open", error);
    }
    (void)sqlite3_busy_timeout(db, BUSY_MS);
    /* The schema in the file is data: no function or view that it names may act. */
    (void)sqlite3_db_config(db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    (void)sqlite3_db_config(db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    /* Until the file is judged ours and sound, a log that was left beside it stays as it is. */
    (void)sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, log_exists(path), NULL);
    r = judge(db, path, &version, error);
    if (r == 0) {
        r = quick_check(db, path, error);
    }
    if (r == 0) {
        r = database_run(db, path, "journal_mode", "PRAGMA journal_mode = WAL", error);
    }
    if (r == 0) {
        r = database_run(db, path, "synchronous", "PRAGMA synchronous = NORMAL", error);
    }
    if (r == 0) {
        r = database_run(db, path, "journal_size_limit", "PRAGMA journal_size_limit = 4194304",
                         error);
    }
    if (r == 0) {
        r = migrate(db, path, version, error);
    }
    if (r < 0) {
        return r;
    }
    (void)sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL);
    *ret = STEAL(db);
    return 0;
}

/* "SUFFIX" moved with the file it belongs to; a part that is not there is fine. */
static int part_rename(const char *path, const char *aside, const char *suffix, struct error *error)
{
    char from[SET_ASIDE_BYTES + 8], to[SET_ASIDE_BYTES + 8];

    snprintf(from, sizeof from, "%s%s", path, suffix);
    snprintf(to, sizeof to, "%s%s", aside, suffix);
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) < 0 && errno != ENOENT) {
        return error_set_errno(error, -errno, "rename %s to %s", from, to);
    }
    return 0;
}

int database_set_aside(const char *path, char ret[SET_ASIDE_BYTES], struct error *error)
{
    char aside[SET_ASIDE_BYTES], stamp[32];
    time_t now = time(NULL);
    struct tm utc;

    (void)strftime(stamp, sizeof stamp, "%Y%m%dT%H%M%SZ", gmtime_r(&now, &utc));
    struct stat status;
    for (uint32_t i = 0;; i++) {
        char number[16] = "";
        if (i > 0) {
            snprintf(number, sizeof number, "-%" PRIu32, i);
        }
        int n = snprintf(aside, sizeof aside, "%s.damaged-%s%s", path, stamp, number);
        if (n < 0 || (size_t)n >= sizeof aside) {
            return error_set_errno(error, -ENAMETOOLONG, "%s", path);
        }
        if (lstat(aside, &status) < 0 && errno == ENOENT) {
            break;
        }
    }
    /* The log first: were it left behind by a crash in between, sqlite would replay it into the
     * database that is made anew. */
    static const char *const suffixes[] = {"-wal", "-shm", ""};
    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
        int r = part_rename(path, aside, suffixes[i], error);
        if (r < 0) {
            return r;
        }
    }
    int r = file_sync_directory(path);
    if (r < 0) {
        return error_set_errno(error, r, "%s: sync of its directory", path);
    }
    strcpy(ret, aside);
    return 0;
}
