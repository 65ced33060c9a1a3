/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The history of events in sqlite3.
 *
 * Event ids grow by one and only the oldest events are ever deleted, so "more
 * than the limit" is a comparison of ids, and pruning costs what it deletes.
 *
 * Invariant: no transaction is open between calls.
 */
#include "daemon/catalog/catalog.h"

#include "daemon/catalog/database.h"

#include "proto/base/cleanup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Surplus events that one append deletes beside as many as it adds. */
#define PRUNE_EXTRA 1000

struct catalog {
    sqlite3 *db;
    char *path;
    uint32_t events_max;
    sqlite3_stmt *insert, *prune, *latest, *latest_of_drive;
};

DEFINE_CLEANUP(struct catalog *, catalog_close)

static const char sql_insert[] =
    "INSERT INTO events (time_ns, sequence, kind, drive, bitmap, peer, detail)"
    " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
static const char sql_prune[] = "DELETE FROM events"
                                " WHERE id <= (SELECT max(id) FROM events) - ?1"
                                " AND id < (SELECT min(id) FROM events) + ?2";
static const char sql_latest[] =
    "SELECT time_ns, sequence, kind, drive, bitmap, peer, detail FROM events"
    " ORDER BY id DESC LIMIT ?1";
static const char sql_latest_of_drive[] =
    "SELECT time_ns, sequence, kind, drive, bitmap, peer, detail FROM events"
    " WHERE drive = ?2 ORDER BY id DESC LIMIT ?1";

/* Readies a statement for its next use and lets go of what was bound. */
static void statement_resetp(sqlite3_stmt **statement)
{
    (void)sqlite3_reset(*statement);
    (void)sqlite3_clear_bindings(*statement);
}

static int statement_prepare(struct catalog *catalog, const char *sql, sqlite3_stmt **ret,
                             struct error *error)
{
    int result = sqlite3_prepare_v3(catalog->db, sql, -1, SQLITE_PREPARE_PERSISTENT, ret, NULL);

    if (result == SQLITE_OK) {
        return 0;
    }
    int r = database_error(catalog->db, result, catalog->path, "prepare", error);
    /* The statement is right, so it is the tables that are not. */
    return result == SQLITE_ERROR ? -EBADMSG : r;
}

static int open_once(const char *path, uint32_t events_max, struct catalog **ret,
                     struct error *error)
{
    CLEANUP(catalog_closep) struct catalog *catalog = calloc(1, sizeof *catalog);

    if (!catalog || !(catalog->path = strdup(path))) {
        return error_set_errno(error, -ENOMEM, "%s", path);
    }
    catalog->events_max = events_max;
    int r = database_open(path, &catalog->db, error);
    if (r == 0) {
        r = statement_prepare(catalog, sql_insert, &catalog->insert, error);
    }
    if (r == 0) {
        r = statement_prepare(catalog, sql_prune, &catalog->prune, error);
    }
    if (r == 0) {
        r = statement_prepare(catalog, sql_latest, &catalog->latest, error);
    }
    if (r == 0) {
        r = statement_prepare(catalog, sql_latest_of_drive, &catalog->latest_of_drive, error);
    }
    if (r < 0) {
        return r;
    }
    *ret = STEAL(catalog);
    return 0;
}

int catalog_open(const char *path, uint32_t events_max, struct catalog **ret,
                 char ret_set_aside[4096], struct error *error)
{
    char aside[4096] = "";

    int r = open_once(path, events_max, ret, error);
    if (r == -EBADMSG) {
        r = database_set_aside(path, aside, error);
        if (r == 0) {
            r = open_once(path, events_max, ret, error);
        }
    }
    if (r == 0) {
        strcpy(ret_set_aside, aside);
    }
    return r;
}

void catalog_close(struct catalog *catalog)
{
    if (!catalog) {
        return;
    }
    statement_finalize(catalog->insert);
    statement_finalize(catalog->prune);
    statement_finalize(catalog->latest);
    statement_finalize(catalog->latest_of_drive);
    database_close(catalog->db);
    free(catalog->path);
    free(catalog);
}

static int insert(struct catalog *catalog, const struct catalog_event *event, struct error *error)
{
    CLEANUP(statement_resetp) sqlite3_stmt *statement = catalog->insert;
    const char *const texts[] = {event->kind, event->drive, event->bitmap, event->peer,
                                 event->detail};

    int result = sqlite3_bind_int64(statement, 1, event->time_ns);
    if (result == SQLITE_OK) {
        /* The same 64 bits; sqlite has no unsigned numbers. */
        result = sqlite3_bind_int64(statement, 2, (int64_t)event->sequence);
    }
    for (int i = 0; i < 5 && result == SQLITE_OK; i++) {
        /* NULL binds as NULL; the strings outlive the statement's use. */
        result = sqlite3_bind_text(statement, 3 + i, texts[i], -1, SQLITE_STATIC);
    }
    if (result == SQLITE_OK) {
        result = sqlite3_step(statement);
    }
    if (result != SQLITE_DONE) {
        return database_error(catalog->db, result, catalog->path, "append", error);
    }
    return 0;
}

static int prune(struct catalog *catalog, uint32_t added, struct error *error)
{
    CLEANUP(statement_resetp) sqlite3_stmt *statement = catalog->prune;

    int result = sqlite3_bind_int64(statement, 1, catalog->events_max);
    if (result == SQLITE_OK) {
        result = sqlite3_bind_int64(statement, 2, (int64_t)added + PRUNE_EXTRA);
    }
    if (result == SQLITE_OK) {
        result = sqlite3_step(statement);
    }
    if (result != SQLITE_DONE) {
        return database_error(catalog->db, result, catalog->path, "prune", error);
    }
    return 0;
}

int catalog_append(struct catalog *catalog, const struct catalog_event *events, uint32_t count,
                   struct error *error)
{
    if (count == 0) {
        return 0;
    }
    int r = database_run(catalog->db, catalog->path, "begin", "BEGIN IMMEDIATE", error);
    for (uint32_t i = 0; i < count && r == 0; i++) {
        r = insert(catalog, &events[i], error);
    }
    if (r == 0) {
        r = prune(catalog, count, error);
    }
    if (r == 0) {
        r = database_run(catalog->db, catalog->path, "commit", "COMMIT", error);
    }
    /* Some failures have rolled back already. */
    if (r < 0 && !sqlite3_get_autocommit(catalog->db)) {
        (void)database_run(catalog->db, catalog->path, "rollback", "ROLLBACK", NULL);
    }
    return r;
}

static const char *column_text(sqlite3_stmt *statement, int column)
{
    return (const char *)sqlite3_column_text(statement, column);
}

int catalog_events(struct catalog *catalog, const char *drive, uint32_t limit,
                   void (*each)(void *opaque, const struct catalog_event *event), void *opaque,
                   struct error *error)
{
    CLEANUP(statement_resetp)
    sqlite3_stmt *statement = drive ? catalog->latest_of_drive : catalog->latest;

    int result = sqlite3_bind_int64(statement, 1, limit);
    if (result == SQLITE_OK && drive) {
        result = sqlite3_bind_text(statement, 2, drive, -1, SQLITE_STATIC);
    }
    if (result == SQLITE_OK) {
        while ((result = sqlite3_step(statement)) == SQLITE_ROW) {
            struct catalog_event event = {
                .time_ns = sqlite3_column_int64(statement, 0),
                .sequence = (uint64_t)sqlite3_column_int64(statement, 1),
                .kind = column_text(statement, 2),
                .drive = column_text(statement, 3),
                .bitmap = column_text(statement, 4),
                .peer = column_text(statement, 5),
                .detail = column_text(statement, 6),
            };
            if (!event.kind) { /* the column is NOT NULL, so it is memory that failed */
                result = SQLITE_NOMEM;
                break;
            }
            each(opaque, &event);
        }
    }
    if (result != SQLITE_DONE) {
        return database_error(catalog->db, result, catalog->path, "list events", error);
    }
    return 0;
}
