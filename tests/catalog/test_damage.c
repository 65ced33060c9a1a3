/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files that are not a catalog, directories that cannot hold one, disks that
 * are full: what is damaged is set aside whole and made anew, what is not ours
 * stays as it is, and a failure leaves nothing half done.
 */
#include "daemon/catalog/catalog.h"
#include "daemon/catalog/database.h"

#include "tests/catalog/scratch.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/mount.h>
#include <sys/wait.h>

static void count_event(void *opaque, const struct catalog_event *event)
{
    (void)event;
    ++*(uint32_t *)opaque;
}

static uint32_t count_events(struct catalog *catalog)
{
    uint32_t count = 0;

    assert_int_equal(catalog_events(catalog, NULL, UINT32_MAX, count_event, &count, NULL), 0);
    return count;
}

static int append_some(struct catalog *catalog, uint32_t count, struct error *error)
{
    struct catalog_event events[100];

    assert_true(count <= 100);
    for (uint32_t i = 0; i < count; i++) {
        events[i] = (struct catalog_event){
            .sequence = i, .kind = "flush", .drive = "drive", .detail = "some words to fill pages"};
    }
    return catalog_append(catalog, events, count, error);
}

/* A catalog with @count * 100 events, closed. */
static void make_catalog(uint32_t hundreds)
{
    struct catalog *catalog = NULL;
    char aside[4096];

    assert_int_equal(catalog_open(scratch_path(""), 1000000, &catalog, aside, NULL), 0);
    for (uint32_t i = 0; i < hundreds; i++) {
        assert_int_equal(append_some(catalog, 100, NULL), 0);
    }
    catalog_close(catalog);
}

static void file_write(const char *path, const void *data, size_t bytes)
{
    FILE *file = fopen(path, "w");

    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

static char *file_read(const char *path, size_t *ret_bytes)
{
    FILE *file = fopen(path, "r");
    char *data = calloc(1, 1 << 20);

    assert_non_null(file);
    assert_non_null(data);
    *ret_bytes = fread(data, 1, 1 << 20, file);
    assert_int_equal(fclose(file), 0);
    return data;
}

static uint32_t files_in_scratch(void)
{
    uint32_t count = 0;
    DIR *directory = opendir(scratch);

    assert_non_null(directory);
    for (struct dirent *entry; (entry = readdir(directory));) {
        count += entry->d_name[0] != '.';
    }
    closedir(directory);
    return count;
}

/* The file at the path is damaged: it is kept whole elsewhere, and an empty catalog is there. */
static void expect_set_aside(void)
{
    size_t before_bytes, after_bytes;
    char *before = file_read(scratch_path(""), &before_bytes);
    struct catalog *catalog = NULL;
    struct error error = {{0}};
    char aside[4096];

    int r = catalog_open(scratch_path(""), 100, &catalog, aside, &error);
    assert_int_equal(r, 0);
    assert_memory_equal(aside, scratch_path(".damaged-"), strlen(scratch_path(".damaged-")));
    char *after = file_read(aside, &after_bytes);
    assert_int_equal(after_bytes, before_bytes);
    assert_memory_equal(after, before, before_bytes);
    assert_int_equal(count_events(catalog), 0);
    assert_int_equal(append_some(catalog, 1, NULL), 0);
    catalog_close(catalog);

    /* And the new one stays. */
    assert_int_equal(catalog_open(scratch_path(""), 100, &catalog, aside, NULL), 0);
    assert_string_equal(aside, "");
    assert_int_equal(count_events(catalog), 1);
    catalog_close(catalog);
    free(before);
    free(after);
}

static void test_garbage(void **state)
{
    char garbage[8192];

    (void)state;
    for (size_t i = 0; i < sizeof garbage; i++) {
        garbage[i] = (char)(i * 31 + 7);
    }
    file_write(scratch_path(""), garbage, sizeof garbage);
    expect_set_aside();
    /* Twice in one second: the names must not meet. */
    file_write(scratch_path(""), garbage, 1);
    expect_set_aside();
    file_write(scratch_path(""), garbage, 100);
    expect_set_aside();
    assert_int_equal(files_in_scratch(), 4);
}

/* An empty file is what a crash right after its making leaves. */
static void test_empty(void **state)
{
    struct catalog *catalog = NULL;
    char aside[4096] = "?";

    (void)state;
    file_write(scratch_path(""), "", 0);
    assert_int_equal(catalog_open(scratch_path(""), 100, &catalog, aside, NULL), 0);
    assert_string_equal(aside, "");
    catalog_close(catalog);
}

static void test_truncated(void **state)
{
    struct stat status;

    (void)state;
    make_catalog(10);
    assert_int_equal(stat(scratch_path(""), &status), 0);
    assert_true(status.st_size > 40000);
    assert_int_equal(truncate(scratch_path(""), status.st_size / 2), 0);
    expect_set_aside();

    static const off_t sizes[] = {1, 99, 100, 512, 4096, 4097};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        assert_int_equal(unlink(scratch_path("")), 0);
        make_catalog(10);
        assert_int_equal(truncate(scratch_path(""), sizes[i]), 0);
        expect_set_aside();
    }
}

/* Pages in the middle overwritten: opening finds it, not some later append. */
static void test_bad_page(void **state)
{
    char page[4096];

    (void)state;
    make_catalog(10);
    memset(page, 0xa5, sizeof page);
    int fd = open(scratch_path(""), O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, page, sizeof page, 5 * 4096), sizeof page);
    assert_int_equal(close(fd), 0);
    expect_set_aside();
}

static void run_sql(const char *sql)
{
    sqlite3 *db = NULL;

    assert_int_equal(sqlite3_open(scratch_path(""), &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

/* Ours by its marks, but not by its tables. */
static void test_wrong_tables(void **state)
{
    (void)state;
    make_catalog(1);
    run_sql("DROP TABLE events");
    expect_set_aside();
    run_sql("ALTER TABLE events RENAME COLUMN peer TO pear");
    expect_set_aside();
    run_sql("PRAGMA user_version = -1");
    expect_set_aside();
    run_sql("PRAGMA user_version = 0");
    expect_set_aside();
}

/* A damaged database's log goes with it, or its pages would turn up in the new one. */
static void test_log_goes_along(void **state)
{
    static char log[100000];
    struct catalog *catalog = NULL;
    char aside[4096];
    struct stat status;

    (void)state;
    file_write(scratch_path(""), "garbage", 7);
    memset(log, 'w', sizeof log);
    file_write(scratch_path("-wal"), log, sizeof log);
    file_write(scratch_path("-shm"), log, 32768);
    assert_int_equal(catalog_open(scratch_path(""), 100, &catalog, aside, NULL), 0);
    strcat(aside, "-wal");
    assert_int_equal(stat(aside, &status), 0);
    assert_int_equal(status.st_size, sizeof log);
    assert_int_equal(count_events(catalog), 0);
    catalog_close(catalog);
}

/* What is not ours to judge: refused, and not a byte of it changed. */
static void expect_refused(const char *words)
{
    size_t before_bytes, after_bytes;
    char *before = file_read(scratch_path(""), &before_bytes);
    struct catalog *catalog = NULL;
    struct error error = {{0}};
    char aside[4096] = "untouched", expected[512];

    assert_int_equal(catalog_open(scratch_path(""), 100, &catalog, aside, &error), -ENOTSUP);
    snprintf(expected, sizeof expected, "%s: %s", scratch_path(""), words);
    assert_string_equal(error.text, expected);
    assert_null(catalog);
    assert_string_equal(aside, "untouched");
    char *after = file_read(scratch_path(""), &after_bytes);
    assert_int_equal(after_bytes, before_bytes);
    assert_memory_equal(after, before, before_bytes);
    assert_int_equal(files_in_scratch(), 1);
    free(before);
    free(after);
}

static void test_newer(void **state)
{
    (void)state;
    make_catalog(1);
    run_sql("PRAGMA user_version = 2");
    expect_refused("catalog of version 2, this bitmapd knows versions up to 1");
    run_sql("PRAGMA user_version = 2147483647; DROP TABLE events");
    expect_refused("catalog of version 2147483647, this bitmapd knows versions up to 1");
}

static void test_foreign(void **state)
{
    (void)state;
    run_sql("CREATE TABLE events (x)");
    expect_refused("a database of another program: expected application_id 0x626d7063, found "
                   "0x00000000");
    run_sql("PRAGMA application_id = 0x0f055112; PRAGMA user_version = 1");
    expect_refused("a database of another program: expected application_id 0x626d7063, found "
                   "0x0f055112");
}

/* Version 0, an empty database in any journal mode, becomes the newest version. */
static void test_migration(void **state)
{
    struct catalog *catalog = NULL;
    char aside[4096];

    (void)state;
    run_sql("PRAGMA journal_mode = PERSIST; CREATE TABLE t (x); DROP TABLE t; VACUUM");
    assert_int_equal(catalog_open(scratch_path(""), 100, &catalog, aside, NULL), 0);
    assert_string_equal(aside, "");
    assert_int_equal(append_some(catalog, 3, NULL), 0);
    catalog_close(catalog);

    sqlite3 *db = NULL;
    sqlite3_stmt *statement = NULL;
    assert_int_equal(sqlite3_open(scratch_path(""), &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db,
                                        "SELECT user_version, application_id, journal_mode, n FROM"
                                        " pragma_user_version, pragma_application_id,"
                                        " pragma_journal_mode,"
                                        " (SELECT count(*) AS n FROM events)",
                                        -1, &statement, NULL),
                     SQLITE_OK);
    assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
    assert_int_equal(sqlite3_column_int(statement, 0), 1);
    assert_int_equal(sqlite3_column_int(statement, 1), 0x626d7063);
    assert_string_equal((const char *)sqlite3_column_text(statement, 2), "wal");
    assert_int_equal(sqlite3_column_int(statement, 3), 3);
    assert_int_equal(sqlite3_finalize(statement), SQLITE_OK);

    /* The history of one drive is found without going through that of all. */
    assert_int_equal(sqlite3_prepare_v2(db,
                                        "EXPLAIN QUERY PLAN SELECT kind FROM events WHERE drive = ?"
                                        " ORDER BY id DESC LIMIT ?",
                                        -1, &statement, NULL),
                     SQLITE_OK);
    assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
    assert_string_equal((const char *)sqlite3_column_text(statement, 3),
                        "SEARCH events USING INDEX events_by_drive (drive=?)");
    assert_int_equal(sqlite3_step(statement), SQLITE_DONE);
    assert_int_equal(sqlite3_finalize(statement), SQLITE_OK);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

static void test_not_a_file(void **state)
{
    struct catalog *catalog = NULL;
    struct error error;
    char aside[4096], expected[512];

    (void)state;
    assert_int_equal(mkfifo(scratch_path(""), 0600), 0);
    assert_int_equal(catalog_open(scratch_path(""), 100, &catalog, aside, &error), -EINVAL);
    snprintf(expected, sizeof expected, "%s: expected a regular file", scratch_path(""));
    assert_string_equal(error.text, expected);

    assert_int_equal(catalog_open(scratch, 100, &catalog, aside, &error), -EISDIR);
    snprintf(expected, sizeof expected, "%s/nowhere/catalog.sqlite3", scratch);
    assert_int_equal(catalog_open(expected, 100, &catalog, aside, &error), -ENOENT);
    strcat(expected, ": No such file or directory");
    assert_string_equal(error.text, expected);
    assert_null(catalog);
}

static void test_long_path(void **state)
{
    struct catalog *catalog = NULL;
    struct error error;
    char aside[4096], path[5000];

    (void)state;
    memset(path, '/', sizeof path);
    memcpy(path + 4090, "x", 2);
    /* Long as it is, this is a file in the scratch directory; but its other name has no room. */
    memcpy(path, scratch, strlen(scratch));
    file_write(path, "garbage", 7);
    assert_int_equal(catalog_open(path, 100, &catalog, aside, &error), -ENAMETOOLONG);
    assert_null(catalog);
    assert_int_equal(access(path, F_OK), 0);
    memset(path, 'x', sizeof path - 1);
    path[sizeof path - 1] = '\0';
    assert_int_equal(catalog_open(path, 100, &catalog, aside, &error), -ENAMETOOLONG);
}

/* Someone's shell holds a write lock for longer than we wait. */
static void test_locked(void **state)
{
    struct catalog *catalog = NULL;
    struct error error;
    char aside[4096];
    sqlite3 *db = NULL;

    (void)state;
    assert_int_equal(catalog_open(scratch_path(""), 100, &catalog, aside, NULL), 0);
    assert_int_equal(sqlite3_open(scratch_path(""), &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(append_some(catalog, 1, &error), -EBUSY);
    assert_non_null(strstr(error.text, "database is locked"));
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    assert_int_equal(append_some(catalog, 1, &error), 0);
    assert_int_equal(count_events(catalog), 1);
    catalog_close(catalog);
}

/* Runs @body in a child, which may become somebody else; its assertions exit with 1. */
static void in_child(void (*body)(void), bool *ret_possible)
{
    pid_t pid = fork();
    int status;

    assert_true(pid >= 0);
    if (pid == 0) {
        body();
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    *ret_possible = WEXITSTATUS(status) != 77;
    if (*ret_possible) {
        assert_int_equal(WEXITSTATUS(status), 0);
    }
}

static void child_expect(bool good, const char *what, const struct error *error)
{
    if (!good) {
        fprintf(stderr, "%s: %s\n", what, error ? error->text : "");
        _exit(1);
    }
}

/* Ends as a crash does: with everything in the log and nothing closed. */
static void crash_body(void)
{
    struct catalog *catalog = NULL;
    struct error error = {{0}};
    char aside[4096];

    int r = catalog_open(scratch_path(""), 1000, &catalog, aside, &error);
    child_expect(r == 0, "open", &error);
    r = append_some(catalog, 42, &error);
    child_expect(r == 0, "append", &error);
}

static void test_crash(void **state)
{
    struct catalog *catalog = NULL;
    char aside[4096];
    bool possible;
    size_t before_bytes, after_bytes;

    (void)state;
    in_child(crash_body, &possible);
    assert_int_equal(catalog_open(scratch_path(""), 1000, &catalog, aside, NULL), 0);
    assert_string_equal(aside, "");
    assert_int_equal(count_events(catalog), 42);
    catalog_close(catalog);

    /* The same beside a file that turned out to be newer: the log is not ours to apply. */
    run_sql("PRAGMA user_version = 2");
    char *file = file_read(scratch_path(""), &before_bytes);
    run_sql("PRAGMA user_version = 1");
    in_child(crash_body, &possible);
    file_write(scratch_path(""), file, before_bytes);
    free(file);
    char *before = file_read(scratch_path("-wal"), &before_bytes);
    assert_true(before_bytes > 4096);
    file = file_read(scratch_path(""), &after_bytes);
    assert_int_equal(truncate(scratch_path("-wal"), 4096), 0);
    assert_int_equal(catalog_open(scratch_path(""), 1000, &catalog, aside, NULL), -ENOTSUP);
    char *after = file_read(scratch_path(""), &before_bytes);
    assert_int_equal(after_bytes, before_bytes);
    assert_memory_equal(after, file, after_bytes);
    free(after);
    after = file_read(scratch_path("-wal"), &after_bytes);
    assert_int_equal(after_bytes, 4096);
    assert_memory_equal(after, before, after_bytes);
    free(after);
    free(before);
    free(file);
}

static void read_only_body(void)
{
    struct catalog *catalog = NULL;
    struct error error = {{0}};
    char aside[4096];

    if (geteuid() == 0 && (setegid(65534) < 0 || seteuid(65534) < 0)) {
        _exit(77);
    }
    int r = catalog_open(scratch_path(""), 100, &catalog, aside, &error);
    child_expect(r == -EACCES && !catalog, "open", &error);
    child_expect(strstr(error.text, "Permission denied") != NULL, "words", &error);
    r = catalog_open(scratch_path(".new"), 100, &catalog, aside, &error);
    child_expect(r == -EACCES && !catalog, "make", &error);
}

/* A file that is ours to write in a directory that is not: no log can be made beside it. */
static void read_only_directory_body(void)
{
    struct catalog *catalog = NULL;
    struct error error = {{0}};
    char aside[4096];

    if (geteuid() == 0 && (setegid(65534) < 0 || seteuid(65534) < 0)) {
        _exit(77);
    }
    int r = catalog_open(scratch_path(""), 100, &catalog, aside, &error);
    child_expect(r < 0 && r != -EBADMSG && !catalog, "open", &error);
}

static void read_only_garbage_body(void)
{
    struct catalog *catalog = NULL;
    struct error error = {{0}};
    char aside[4096];

    if (geteuid() == 0 && (setegid(65534) < 0 || seteuid(65534) < 0)) {
        _exit(77);
    }
    int r = catalog_open(scratch_path(""), 100, &catalog, aside, &error);
    child_expect(r == -EACCES && !catalog, "set aside", &error);
    child_expect(strstr(error.text, "rename") != NULL, "words", &error);
}

static void test_read_only(void **state)
{
    bool possible;

    (void)state;
    make_catalog(1);
    assert_int_equal(chmod(scratch, 0555), 0);
    assert_int_equal(chmod(scratch_path(""), 0444), 0);
    in_child(read_only_body, &possible);
    if (!possible) {
        print_message("cannot become another user: read-only places were not tried\n");
    }
    assert_int_equal(chmod(scratch_path(""), 0666), 0);
    in_child(read_only_directory_body, &possible);
    file_write(scratch_path(""), "garbage", 7);
    in_child(read_only_garbage_body, &possible);
    assert_int_equal(chmod(scratch, 0755), 0);
}

/* On a disk of 512 KiB: appends until it is full, then goes on when there is room again. */
static void full_disk_body(void)
{
    struct catalog *catalog = NULL;
    struct error error = {{0}};
    char aside[4096], ballast[128];
    uint32_t appended = 0;
    int r = 0;

    /* A mount name space of our own: nothing stays behind. */
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("tmpfs", scratch, "tmpfs", 0, "size=512k") < 0) {
        _exit(77);
    }
    snprintf(ballast, sizeof ballast, "%s/ballast", scratch);
    int fd = open(ballast, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    child_expect(fd >= 0 && posix_fallocate(fd, 0, 256 << 10) == 0, "ballast", NULL);

    r = catalog_open(scratch_path(""), 1000000, &catalog, aside, &error);
    child_expect(r == 0, "open", &error);
    while (appended < 100000 && (r = append_some(catalog, 100, &error)) == 0) {
        appended += 100;
    }
    child_expect(r == -ENOSPC, "full", &error);
    child_expect(strstr(error.text, "full") != NULL, "words", &error);
    child_expect(append_some(catalog, 100, &error) == -ENOSPC, "still full", &error);
    child_expect(unlink(ballast) == 0 && close(fd) == 0, "ballast gone", NULL);
    r = append_some(catalog, 50, &error);
    child_expect(r == 0, "room again", &error);
    child_expect(count_events(catalog) == appended + 50, "count", NULL);
    catalog_close(catalog);

    r = catalog_open(scratch_path(""), 1000000, &catalog, aside, &error);
    child_expect(r == 0 && aside[0] == '\0', "open again", &error);
    child_expect(count_events(catalog) == appended + 50, "count again", NULL);
    catalog_close(catalog);
}

static void test_full_disk(void **state)
{
    bool possible;

    (void)state;
    in_child(full_disk_body, &possible);
    if (!possible) {
        print_message("cannot mount a tmpfs: the full disk was not tried\n");
    }
}

#define SCRATCH_TEST(test) cmocka_unit_test_setup_teardown(test, scratch_make, scratch_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(test_garbage),      SCRATCH_TEST(test_empty),
        SCRATCH_TEST(test_truncated),    SCRATCH_TEST(test_bad_page),
        SCRATCH_TEST(test_wrong_tables), SCRATCH_TEST(test_log_goes_along),
        SCRATCH_TEST(test_newer),        SCRATCH_TEST(test_foreign),
        SCRATCH_TEST(test_migration),    SCRATCH_TEST(test_not_a_file),
        SCRATCH_TEST(test_long_path),    SCRATCH_TEST(test_locked),
        SCRATCH_TEST(test_crash),        SCRATCH_TEST(test_read_only),
        SCRATCH_TEST(test_full_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
