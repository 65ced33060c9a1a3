/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opens, drives and closes a model the way the daemon does, without a server.
 */
#include "tests/drive/harness.h"

#include <assert.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

void harness_init(struct harness *harness)
{
    memset(harness, 0, sizeof *harness);
    (void)snprintf(harness->directory, sizeof harness->directory, "/tmp/bitmapd-drive-XXXXXX");
    assert_non_null(mkdtemp(harness->directory));
    (void)snprintf(harness->container, sizeof harness->container, "%s/bitmaps.qcow2",
                   harness->directory);
    (void)snprintf(harness->journal, sizeof harness->journal, "%s/journal", harness->directory);
    (void)snprintf(harness->catalog, sizeof harness->catalog, "%s/catalog.sqlite3",
                   harness->directory);
    harness->settings = (struct model_settings){
        .files = &file_system_posix,
        .boot_id = {1},
        .container_path = harness->container,
        .cluster_bits = 9,
        .journal_path = harness->journal,
        .journal_segment_bytes = UINT64_C(1) << 20,
        .catalog_path = harness->catalog,
        .catalog_events = 1000,
        .flush_interval_ns = UINT64_C(3600000000000),
        .flush_dirty_limit = UINT64_MAX,
        .granularity = 512,
        .durability = DURABILITY_POWER_LOSS,
        .drives_max = 100,
        .bitmaps_max = 1000,
        .unsettled_max = 1000,
    };
}

void harness_deinit(struct harness *harness)
{
    if (harness->model) {
        (void)harness_close(harness);
    }
    DIR *directory = opendir(harness->directory);
    assert_non_null(directory);
    const struct dirent *entry;
    while ((entry = readdir(directory))) {
        if (entry->d_name[0] != '.') {
            assert_int_equal(unlinkat(dirfd(directory), entry->d_name, 0), 0);
        }
    }
    (void)closedir(directory);
    assert_int_equal(rmdir(harness->directory), 0);
}

int harness_try_open(struct harness *harness, unsigned flags)
{
    assert_int_equal(uv_loop_init(&harness->loop), 0);
    int r = model_open(&harness->loop, &harness->settings, flags, &harness->model, &harness->error);
    if (r < 0) {
        harness->model = NULL;
        /* A start that fails leaves no handle behind. */
        assert_int_equal(uv_loop_close(&harness->loop), 0);
    }
    return r;
}

void harness_open(struct harness *harness)
{
    int r = harness_try_open(harness, 0);
    if (r < 0) {
        fail_msg("open: %s", harness->error.text);
    }
}

static void closed(void *opaque, int r)
{
    *(int *)opaque = r;
}

int harness_close(struct harness *harness)
{
    int result = 1;
    model_close(harness->model, closed, &result);
    harness->model = NULL;
    (void)uv_run(&harness->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&harness->loop), 0);
    assert_int_not_equal(result, 1);
    return result;
}

struct wait {
    struct model_waiter waiter;
    bool done;
    int r;
};

static void wait_done(struct model_waiter *waiter, int r)
{
    struct wait *wait = (struct wait *)waiter;
    assert_false(wait->done);
    wait->done = true;
    wait->r = r;
}

int harness_wait(struct harness *harness, uint64_t sequence, enum ack_level level)
{
    struct wait wait = {.waiter.done = wait_done};
    model_wait(harness->model, sequence, level, &wait.waiter);
    /* A job that cannot even be taken is told before the loop sleeps. */
    (void)uv_run(&harness->loop, UV_RUN_NOWAIT);
    while (!wait.done) {
        (void)uv_run(&harness->loop, UV_RUN_ONCE);
    }
    return wait.r;
}

int harness_commit(struct harness *harness, struct record *record)
{
    int r = model_commit(harness->model, record, &harness->error);
    return r < 0 ? r : harness_wait(harness, record->sequence, ACK_DURABLE);
}

struct text text_of(const char *string)
{
    return (struct text){string, (uint32_t)strlen(string)};
}

uint64_t harness_add_drive(struct harness *harness, const char *name, uint64_t size)
{
    struct record record = {
        .type = RECORD_DRIVE_ADD,
        .name = text_of(name),
        .size = size,
        .granularity = 512,
        .durability = DURABILITY_POWER_LOSS,
    };
    if (harness_commit(harness, &record) < 0) {
        fail_msg("drive add: %s", harness->error.text);
    }
    return record.drive;
}

uint64_t harness_add_bitmap(struct harness *harness, const char *full, uint32_t granularity,
                            bool disabled)
{
    char drive[NAME_BYTES_MAX + 1];
    const char *slash = strrchr(full, '/');
    (void)snprintf(drive, sizeof drive, "%.*s", (int)(slash - full), full);
    struct record record = {
        .type = RECORD_BITMAP_CREATE,
        .drive = harness_drive(harness, drive)->id,
        .name = text_of(slash + 1),
        .granularity = granularity,
        .disabled = disabled,
    };
    if (harness_commit(harness, &record) < 0) {
        fail_msg("bitmap create: %s", harness->error.text);
    }
    return record.bitmap;
}

int harness_bitmap_do(struct harness *harness, enum record_type type, const char *full)
{
    struct drive_bitmap *bitmap = harness_bitmap(harness, full);
    struct record record = {.type = type, .drive = bitmap->drive->id, .bitmap = bitmap->id};
    return harness_commit(harness, &record);
}

int harness_clear(struct harness *harness, const char *full, uint64_t offset, uint64_t length)
{
    struct drive_bitmap *bitmap = harness_bitmap(harness, full);
    struct range range = {offset, length};
    struct record record = {.type = RECORD_BITMAP_CLEAR,
                            .drive = bitmap->drive->id,
                            .bitmap = bitmap->id,
                            .ranges = &range,
                            .ranges_count = 1};
    return harness_commit(harness, &record);
}

void harness_mark(struct harness *harness, const char *drive, uint64_t offset, uint64_t length)
{
    struct range range = {offset, length};
    uint64_t sequence;
    if (drive_mark(harness->model, harness_drive(harness, drive), &range, 1, &sequence,
                   &harness->error) < 0) {
        fail_msg("mark: %s", harness->error.text);
    }
    assert_int_equal(
        harness_wait(harness, sequence, drive_ack_level(harness_drive(harness, drive))), 0);
}

struct drive *harness_drive(struct harness *harness, const char *name)
{
    struct drive *drive = model_drive_by_name(harness->model, text_of(name), NULL);
    assert_non_null(drive);
    return drive;
}

struct drive_bitmap *harness_bitmap(struct harness *harness, const char *full)
{
    struct drive_bitmap *bitmap =
        model_bitmap_by_name(harness->model, text_of(full), &harness->error);
    if (!bitmap) {
        fail_msg("%s", harness->error.text);
    }
    return bitmap;
}

bool harness_is_dirty(struct harness *harness, const char *full, uint64_t offset)
{
    struct bitmap *bits;
    assert_int_equal(drive_bitmap_map(harness_bitmap(harness, full), &bits), 0);
    bool dirty = bitmap_test_all(bits, offset, 1);
    bitmap_free(bits);
    return dirty;
}

void harness_crash_after(struct harness *harness, void (*body)(struct harness *harness))
{
    assert_null(harness->model);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        harness_open(harness);
        body(harness);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

#define MIB (UINT64_C(1) << 20)

void harness_fill(struct harness *harness)
{
    harness_add_drive(harness, "vm1", 8 * MIB + 1);
    harness_add_drive(harness, "vg0/lv1", 100000);
    harness_add_bitmap(harness, "vm1/a", 512, false);
    harness_add_bitmap(harness, "vm1/off", 4096, true);
    harness_add_bitmap(harness, "vg0/lv1/b", 65536, false);
    harness_mark(harness, "vm1", 0, 1);
    harness_mark(harness, "vm1", 4 * MIB, MIB);
    harness_mark(harness, "vm1", 8 * MIB, 1);
}

void harness_check_filled(struct harness *harness)
{
    assert_true(harness_is_dirty(harness, "vm1/a", 0));
    assert_false(harness_is_dirty(harness, "vm1/a", 512));
    assert_true(harness_is_dirty(harness, "vm1/a", 4 * MIB));
    assert_true(harness_is_dirty(harness, "vm1/a", 5 * MIB - 1));
    assert_false(harness_is_dirty(harness, "vm1/a", 5 * MIB));
    assert_true(harness_is_dirty(harness, "vm1/a", 8 * MIB));
    assert_int_equal(drive_bitmap_dirty_bytes(harness_bitmap(harness, "vm1/a")), 512 + MIB + 1);
    assert_int_equal(drive_bitmap_dirty_count(harness_bitmap(harness, "vg0/lv1/b")), 0);
}

void harness_lose_journal(struct harness *harness)
{
    static const char *const names[] = {"0", "1", "0.new", "1.new"};
    unsigned lost = 0;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[160];
        (void)snprintf(path, sizeof path, "%s.%s", harness->journal, names[i]);
        lost += unlink(path) == 0;
    }
    assert_true(lost > 0);
}
