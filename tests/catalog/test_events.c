/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What goes into the catalog comes out again, newest first, across restarts,
 * and no more of it stays than the limit allows.
 */
#include "daemon/catalog/catalog.h"

#include "tests/catalog/scratch.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <errno.h>
#include <inttypes.h>

#define SEEN_MAX 4096

struct seen {
    uint32_t count;
    uint64_t sequences[SEEN_MAX];
    struct catalog_event last;
    char texts[5][64];
};

static void text_keep(char buffer[64], const char **ret, const char *text)
{
    *ret = text ? strcpy(buffer, text) : NULL;
}

static void see(void *opaque, const struct catalog_event *event)
{
    struct seen *seen = opaque;

    assert_true(seen->count < SEEN_MAX);
    seen->sequences[seen->count++] = event->sequence;
    seen->last = *event;
    text_keep(seen->texts[0], &seen->last.kind, event->kind);
    text_keep(seen->texts[1], &seen->last.drive, event->drive);
    text_keep(seen->texts[2], &seen->last.bitmap, event->bitmap);
    text_keep(seen->texts[3], &seen->last.peer, event->peer);
    text_keep(seen->texts[4], &seen->last.detail, event->detail);
}

static struct catalog *open_catalog(uint32_t events_max)
{
    struct catalog *catalog = NULL;
    struct error error = {{0}};
    char aside[4096];

    int r = catalog_open(scratch_path(""), events_max, &catalog, aside, &error);
    assert_string_equal(error.text, "");
    assert_int_equal(r, 0);
    assert_string_equal(aside, "");
    return catalog;
}

static struct seen *look(struct catalog *catalog, const char *drive, uint32_t limit)
{
    static struct seen seen;
    struct error error = {{0}};

    memset(&seen, 0, sizeof seen);
    int r = catalog_events(catalog, drive, limit, see, &seen, &error);
    assert_string_equal(error.text, "");
    assert_int_equal(r, 0);
    return &seen;
}

/* Appends @count events with sequences from @first, in one transaction. */
static void append_numbered(struct catalog *catalog, uint64_t first, uint32_t count)
{
    struct catalog_event *events = calloc(count, sizeof *events);
    struct error error = {{0}};

    assert_non_null(events);
    for (uint32_t i = 0; i < count; i++) {
        events[i] = (struct catalog_event){
            .sequence = first + i,
            .kind = "flush",
            .drive = (first + i) % 2 == 0 ? "even" : NULL,
        };
    }
    int r = catalog_append(catalog, events, count, &error);
    assert_string_equal(error.text, "");
    assert_int_equal(r, 0);
    free(events);
}

static void test_round_trip(void **state)
{
    static const struct catalog_event events[] = {
        {.time_ns = INT64_MIN, .sequence = 0, .kind = "start"},
        {.time_ns = 1700000000123456789,
         .sequence = UINT64_MAX,
         .kind = "bitmap-clear",
         .drive = "vg0/vm-101-disk-0",
         .bitmap = "d\xc3\xa9j\xc3\xa0",
         .peer = "uid=0 pid=17 bitmapctl 0.1",
         .detail = "'; DROP TABLE event; --"},
        {.time_ns = INT64_MAX, .sequence = 7, .kind = "", .drive = "", .detail = ""},
    };

    (void)state;
    struct catalog *catalog = open_catalog(100);
    assert_int_equal(look(catalog, NULL, 10)->count, 0);
    assert_int_equal(catalog_append(catalog, events, 0, NULL), 0);
    assert_int_equal(look(catalog, NULL, 10)->count, 0);
    assert_int_equal(catalog_append(catalog, events, 3, NULL), 0);

    /* Again after a restart. */
    for (int restart = 0; restart < 2; restart++) {
        struct seen *seen = look(catalog, NULL, 10);
        assert_int_equal(seen->count, 3);
        assert_true(seen->sequences[0] == 7);
        assert_true(seen->sequences[1] == UINT64_MAX);
        assert_true(seen->sequences[2] == 0);
        assert_true(seen->last.time_ns == INT64_MIN);
        assert_string_equal(seen->last.kind, "start");
        assert_null(seen->last.drive);
        assert_null(seen->last.bitmap);
        assert_null(seen->last.peer);
        assert_null(seen->last.detail);

        seen = look(catalog, NULL, 1);
        assert_int_equal(seen->count, 1);
        assert_true(seen->last.time_ns == INT64_MAX);
        assert_string_equal(seen->last.kind, "");
        assert_string_equal(seen->last.drive, "");
        assert_null(seen->last.bitmap);
        assert_string_equal(seen->last.detail, "");

        seen = look(catalog, "vg0/vm-101-disk-0", UINT32_MAX);
        assert_int_equal(seen->count, 1);
        assert_true(seen->last.time_ns == 1700000000123456789);
        assert_true(seen->last.sequence == UINT64_MAX);
        assert_string_equal(seen->last.kind, "bitmap-clear");
        assert_string_equal(seen->last.drive, "vg0/vm-101-disk-0");
        assert_string_equal(seen->last.bitmap, "d\xc3\xa9j\xc3\xa0");
        assert_string_equal(seen->last.peer, "uid=0 pid=17 bitmapctl 0.1");
        assert_string_equal(seen->last.detail, "'; DROP TABLE event; --");

        assert_int_equal(look(catalog, "vg0", 10)->count, 0);
        assert_int_equal(look(catalog, NULL, 0)->count, 0);

        catalog_close(catalog);
        catalog = open_catalog(100);
    }
    catalog_close(catalog);
}

/* Nobody but us has a business with who did what. */
static void test_private(void **state)
{
    struct stat status;

    (void)state;
    mode_t mask = umask(0);
    struct catalog *catalog = open_catalog(100);
    append_numbered(catalog, 1, 1);
    (void)umask(mask);
    assert_int_equal(stat(scratch_path(""), &status), 0);
    assert_int_equal(status.st_mode & 07777, 0600);
    assert_int_equal(stat(scratch_path("-wal"), &status), 0);
    assert_int_equal(status.st_mode & 07777, 0600);
    catalog_close(catalog);
    /* An orderly end leaves one file. */
    assert_int_equal(stat(scratch_path("-wal"), &status), -1);
}

static void test_prune(void **state)
{
    (void)state;
    struct catalog *catalog = open_catalog(100);
    append_numbered(catalog, 1, 100);
    assert_int_equal(look(catalog, NULL, 1000)->count, 100);
    for (uint64_t i = 101; i <= 350; i++) {
        append_numbered(catalog, i, 1);
        struct seen *seen = look(catalog, NULL, 1000);
        assert_int_equal(seen->count, 100);
        assert_true(seen->sequences[0] == i);
        assert_true(seen->sequences[99] == i - 99);
    }
    assert_int_equal(look(catalog, "even", 1000)->count, 50);
    assert_int_equal(look(catalog, "even", 7)->count, 7);

    /* More at once than may stay: the last ones do. */
    append_numbered(catalog, 1000, 1000);
    struct seen *seen = look(catalog, NULL, SEEN_MAX);
    assert_int_equal(seen->count, 100);
    assert_true(seen->sequences[0] == 1999);
    assert_true(seen->sequences[99] == 1900);
    catalog_close(catalog);
}

/* A lowered limit is reached in steps, the oldest first. */
static void test_lowered_limit(void **state)
{
    (void)state;
    struct catalog *catalog = open_catalog(10000);
    append_numbered(catalog, 1, 3500);
    catalog_close(catalog);

    catalog = open_catalog(10);
    assert_int_equal(look(catalog, NULL, SEEN_MAX)->count, 3500);
    uint32_t before = 3500, steps = 0;
    for (uint64_t sequence = 3501; before > 10; sequence++, steps++) {
        append_numbered(catalog, sequence, 1);
        struct seen *seen = look(catalog, NULL, SEEN_MAX);
        assert_true(seen->count < before);
        assert_true(before - seen->count <= 1000);
        assert_true(seen->sequences[0] == sequence);
        assert_true(seen->sequences[seen->count - 1] == sequence - seen->count + 1);
        before = seen->count;
    }
    assert_int_equal(before, 10);
    assert_int_equal(steps, 4);
    catalog_close(catalog);

    catalog = open_catalog(0);
    append_numbered(catalog, 1, 5);
    assert_int_equal(look(catalog, NULL, SEEN_MAX)->count, 0);
    catalog_close(catalog);
}

/* One bad event, here one without a kind, and none of its transaction is there. */
static void test_all_or_none(void **state)
{
    static const struct catalog_event events[] = {{.sequence = 1, .kind = "start"},
                                                  {.sequence = 2}};
    struct error error = {{0}};

    (void)state;
    struct catalog *catalog = open_catalog(100);
    assert_true(catalog_append(catalog, events, 2, &error) < 0);
    assert_non_null(strstr(error.text, "events.kind"));
    assert_int_equal(look(catalog, NULL, 10)->count, 0);
    append_numbered(catalog, 1, 1);
    assert_int_equal(look(catalog, NULL, 10)->count, 1);
    catalog_close(catalog);
}

static void test_close_nothing(void **state)
{
    (void)state;
    catalog_close(NULL);
}

#define SCRATCH_TEST(test) cmocka_unit_test_setup_teardown(test, scratch_make, scratch_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(test_round_trip),  SCRATCH_TEST(test_private),
        SCRATCH_TEST(test_prune),       SCRATCH_TEST(test_lowered_limit),
        SCRATCH_TEST(test_all_or_none), cmocka_unit_test(test_close_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
