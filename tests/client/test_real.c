/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The library and the daemon itself: many marks in flight, the daemon killed
 * and stopped in the middle of them, and what every acknowledged mark must
 * still be afterwards.
 */
#include "client/lib/bitmapd.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

extern char **environ;

#define GRANULE  UINT64_C(65536)
#define GRANULES 4096u
#define MARKS    600u
#define WINDOW   64u
#define DRIVE    "vg0/disk"
#define BITMAP   DRIVE "/backup"

static char folder[] = "/tmp/bitmapd-real-XXXXXX";
static char socket_path[128];
static pid_t daemon_pid;

/* ---- The daemon ---- */

static void daemon_start(void)
{
    char *arguments[] = {"bitmapd", "--state-dir", folder, NULL};
    assert_int_equal(posix_spawn(&daemon_pid, BITMAPD_PROGRAM, NULL, NULL, arguments, environ), 0);
}

static void daemon_end(int signal)
{
    int status;
    assert_int_equal(kill(daemon_pid, signal), 0);
    assert_int_equal(waitpid(daemon_pid, &status, 0), daemon_pid);
    daemon_pid = 0;
    if (signal == SIGTERM) {
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
}

static bitmapd *connect_to_daemon(unsigned reconnect_timeout_s)
{
    bitmapd *handle = bitmapd_new();
    int r = -ENOENT;

    assert_non_null(handle);
    assert_int_equal(bitmapd_set_reconnect_timeout(handle, reconnect_timeout_s), 0);
    /* It has just been started. */
    for (int i = 0; i < 1000 && (r == -ENOENT || r == -ECONNREFUSED); i++) {
        r = bitmapd_connect(handle, socket_path);
        if (r < 0) {
            usleep(20000);
        }
    }
    if (r < 0) {
        fail_msg("connect: %s", bitmapd_error(handle));
    }
    return handle;
}

static int set_up(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/bitmapd-real-XXXXXX");
    assert_non_null(mkdtemp(folder));
    snprintf(socket_path, sizeof socket_path, "%s/bitmapd.sock", folder);
    daemon_start();
    return 0;
}

static int tear_down(void **state)
{
    char command[160];

    (void)state;
    if (daemon_pid) {
        kill(daemon_pid, SIGKILL);
        waitpid(daemon_pid, NULL, 0);
    }
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

#define CHECK(handle, call)                                                       \
    do {                                                                          \
        int check_result_ = (call);                                               \
        if (check_result_ < 0) {                                                  \
            fail_msg("%s: %s (%d)", #call, bitmapd_error(handle), check_result_); \
        }                                                                         \
    } while (0)

static bitmapd *prepared(void)
{
    bitmapd *handle = connect_to_daemon(30);
    struct bitmapd_drive drive;

    CHECK(handle, bitmapd_drive_add(handle, DRIVE, NULL, GRANULES * GRANULE,
                                    BITMAPD_DURABILITY_PROCESS_CRASH, GRANULE, &drive));
    assert_string_equal(drive.name, DRIVE);
    CHECK(handle, bitmapd_bitmap_create(handle, BITMAP, 0, false, NULL));
    return handle;
}

/* ---- Maps ---- */

struct seen {
    bool dirty[GRANULES];
    int validity;
};

static void see_head(void *opaque, const struct bitmapd_map *map)
{
    struct seen *seen = opaque;
    seen->validity = map->validity;
    assert_string_equal(map->bitmap, BITMAP);
    assert_int_equal(map->granularity, GRANULE);
}

static void see_runs(void *opaque, const struct bitmapd_range *runs, size_t count)
{
    struct seen *seen = opaque;
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(runs[i].offset % GRANULE, 0);
        for (uint64_t at = runs[i].offset; at < runs[i].offset + runs[i].length; at += GRANULE) {
            seen->dirty[at / GRANULE] = true;
        }
    }
}

static const struct bitmapd_map_callbacks see = {see_head, see_runs};

static void read_map(bitmapd *handle, struct seen *seen)
{
    memset(seen, 0, sizeof *seen);
    CHECK(handle, bitmapd_map(handle, BITMAP, 0, &see, seen, NULL));
}

/* ---- Marks ---- */

struct mark {
    uint64_t granule;
    uint64_t id;
    int done;
    int result;
};

static struct mark marks[MARKS];

static void mark_done(void *opaque, int result)
{
    struct mark *mark = opaque;
    mark->done++;
    mark->result = result;
}

static unsigned marks_done(void)
{
    unsigned done = 0;
    for (unsigned i = 0; i < MARKS; i++) {
        done += marks[i].done != 0;
    }
    return done;
}

static void turn(bitmapd *handle)
{
    struct pollfd poll_fd = {.fd = bitmapd_fd(handle), .events = (short)bitmapd_events(handle)};
    int n = poll(&poll_fd, 1, bitmapd_timeout_ms(handle));
    CHECK(handle, bitmapd_dispatch(handle, n > 0 ? (unsigned short)poll_fd.revents : 0));
}

/* All marks, a window of them in flight; the daemon is ended on the way and started again. */
static void mark_all(bitmapd *handle, uint64_t drive, int signal)
{
    memset(marks, 0, sizeof marks);
    for (unsigned next = 0, done = 0; done < MARKS; done = marks_done()) {
        while (next < MARKS && next < done + WINDOW) {
            struct mark *mark = &marks[next];
            mark->granule = (next * 7919u) % GRANULES;
            const struct bitmapd_range range = {mark->granule * GRANULE + 17, 1};
            CHECK(handle, bitmapd_aio_mark(handle, drive, &range, 1, &mark->id, mark_done, mark));
            next++;
        }
        if (signal && done >= MARKS / 3) {
            daemon_end(signal);
            daemon_start();
            signal = 0;
        }
        turn(handle);
    }
    for (unsigned i = 0; i < MARKS; i++) {
        assert_int_equal(marks[i].done, 1);
        assert_int_equal(marks[i].result, 0);
    }
}

static void check_marked(const struct seen *seen, bool exact)
{
    struct seen expected = {{false}, 0};
    for (unsigned i = 0; i < MARKS; i++) {
        expected.dirty[marks[i].granule] = true;
    }
    for (unsigned i = 0; i < GRANULES; i++) {
        assert_true(seen->dirty[i] || !expected.dirty[i]);
        assert_false(exact && seen->dirty[i] && !expected.dirty[i]);
    }
}

/* ---- Tests ---- */

static void test_marks(void **state)
{
    static struct seen seen;
    struct bitmapd_daemon_status status;
    struct bitmapd_drive info;
    uint64_t drive, size;
    bool resuming;

    (void)state;
    bitmapd *handle = prepared();
    CHECK(handle, bitmapd_attach(handle, DRIVE, "vm-1", 0, &drive, &size, &resuming));
    assert_true(size == GRANULES * GRANULE && !resuming);
    mark_all(handle, drive, 0);
    read_map(handle, &seen);
    assert_int_equal(seen.validity, BITMAPD_EXACT);
    check_marked(&seen, true);

    /* Unsettled marks outlive a clear. */
    CHECK(handle, bitmapd_bitmap_clear_all(handle, BITMAP));
    read_map(handle, &seen);
    check_marked(&seen, true);
    CHECK(handle, bitmapd_drive_show(handle, DRIVE, &info));
    assert_true(info.writers == 1 && info.lost_writers == 0 && info.unsettled == MARKS);
    assert_int_equal(bitmapd_detach(handle, drive), -EBUSY);

    bitmapd *other = connect_to_daemon(0);
    assert_int_equal(bitmapd_attach(other, DRIVE, "vm-1", 0, NULL, NULL, NULL), -EBUSY);
    bitmapd_close(other);

    CHECK(handle, bitmapd_settle(handle, drive, marks[0].id, MARKS));
    CHECK(handle, bitmapd_drain(handle));
    CHECK(handle, bitmapd_drive_show(handle, DRIVE, &info));
    assert_int_equal(info.unsettled, 0);
    CHECK(handle, bitmapd_bitmap_clear_all(handle, BITMAP));
    read_map(handle, &seen);
    for (unsigned i = 0; i < GRANULES; i++) {
        assert_false(seen.dirty[i]);
    }
    CHECK(handle, bitmapd_detach(handle, drive));
    CHECK(handle, bitmapd_flush(handle));
    CHECK(handle, bitmapd_get_status(handle, &status));
    assert_true(status.drives == 1 && status.bitmaps == 1 && !status.degraded);
    assert_true(status.sequence > 0 && status.applied_seq > 0);

    /* What the daemon refuses, in its words. */
    const struct bitmapd_range beyond = {GRANULES * GRANULE - 1, 2};
    assert_int_equal(bitmapd_mark(handle, drive, &beyond, 1, NULL), -EINVAL);
    assert_int_equal(bitmapd_mark(handle, drive + 1000, &beyond, 1, NULL), -ENOENT);
    assert_int_equal(bitmapd_bitmap_show(handle, DRIVE "/none", &(struct bitmapd_bitmap){0}),
                     -ENOENT);
    assert_string_not_equal(bitmapd_error(handle), "");
    assert_int_equal(bitmapd_bitmap_create(handle, BITMAP, 0, false, NULL), -EEXIST);
    bitmapd_close(handle);
    daemon_end(SIGTERM);
}

static void test_ended(int signal)
{
    static struct seen seen;
    struct bitmapd_drive info;
    uint64_t drive;

    bitmapd *handle = prepared();
    CHECK(handle, bitmapd_attach(handle, DRIVE, "vm-1", 0, &drive, NULL, NULL));
    mark_all(handle, drive, signal);
    read_map(handle, &seen);
    /* Whatever the daemon could keep of its earlier life: acknowledged is dirty. */
    check_marked(&seen, seen.validity == BITMAPD_EXACT);
    if (signal == SIGTERM) {
        assert_int_equal(seen.validity, BITMAPD_EXACT);
    }
    CHECK(handle, bitmapd_drive_show(handle, DRIVE, &info));
    assert_int_equal(info.writers, 1);
    assert_int_equal(info.lost_writers, 0);
    assert_int_equal(info.unsettled, MARKS);

    CHECK(handle, bitmapd_settle(handle, drive, marks[0].id, MARKS));
    CHECK(handle, bitmapd_drain(handle));
    CHECK(handle, bitmapd_drive_show(handle, DRIVE, &info));
    assert_int_equal(info.unsettled, 0);
    CHECK(handle, bitmapd_detach(handle, drive));
    CHECK(handle, bitmapd_drive_show(handle, DRIVE, &info));
    assert_int_equal(info.writers, 0);
    bitmapd_close(handle);
    daemon_end(SIGTERM);
}

static void test_killed(void **state)
{
    (void)state;
    test_ended(SIGKILL);
}

static void test_stopped(void **state)
{
    (void)state;
    test_ended(SIGTERM);
}

/* A writer that died; its successor vouches for its writes, or an operator gives it up. */
static void test_lost_writer(void **state)
{
    const struct bitmapd_range range = {3 * GRANULE, 1};
    static struct seen seen;
    struct bitmapd_drive info;
    uint64_t drive, id;
    bool resuming;

    (void)state;
    bitmapd *handle = prepared();
    bitmapd *writer = connect_to_daemon(0);
    CHECK(writer, bitmapd_attach(writer, DRIVE, "vm-1", 0, &drive, NULL, NULL));
    CHECK(writer, bitmapd_mark(writer, drive, &range, 1, &id));
    bitmapd_close(writer);
    CHECK(handle, bitmapd_bitmap_clear_all(handle, BITMAP));
    read_map(handle, &seen);
    assert_true(seen.dirty[3]);

    writer = connect_to_daemon(0);
    CHECK(writer, bitmapd_attach(writer, DRIVE, "vm-1", 0, &drive, NULL, &resuming));
    assert_true(resuming);
    CHECK(writer, bitmapd_resume(writer, drive));
    CHECK(writer, bitmapd_detach(writer, drive));
    CHECK(handle, bitmapd_bitmap_clear_all(handle, BITMAP));
    read_map(handle, &seen);
    assert_false(seen.dirty[3]);

    CHECK(writer, bitmapd_attach(writer, DRIVE, "vm-2", 0, &drive, NULL, &resuming));
    assert_false(resuming);
    CHECK(writer, bitmapd_mark(writer, drive, &range, 1, &id));
    bitmapd_close(writer);
    /* The daemon learns of the end in its own time. */
    do {
        CHECK(handle, bitmapd_drive_show(handle, DRIVE, &info));
    } while (info.lost_writers == 0);
    CHECK(handle, bitmapd_drive_fence(handle, DRIVE, "vm-2"));
    CHECK(handle, bitmapd_drive_show(handle, DRIVE, &info));
    assert_int_equal(info.lost_writers, 0);
    read_map(handle, &seen);
    assert_true(seen.dirty[3]);
    bitmapd_close(handle);
    daemon_end(SIGTERM);
}

/* The example program does what it says, twice, as it may have been cut off the first time. */
static void test_example(void **state)
{
    char offset[] = "196600"; /* its text reaches into the next granule */
    char *arguments[] = {"example", DRIVE, NULL, offset, "some text", BITMAP, NULL};
    static struct seen seen;
    struct bitmapd_drive info;
    uint64_t drive;
    char path[160];
    char text[16] = "";
    FILE *file;

    (void)state;
    bitmapd *handle = prepared();
    snprintf(path, sizeof path, "%s/raw", folder);
    arguments[2] = path;
    file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(setenv("BITMAPD_SOCKET", socket_path, 1), 0);

    bitmapd *predecessor = connect_to_daemon(0);
    CHECK(predecessor, bitmapd_attach(predecessor, DRIVE, "example", 0, &drive, NULL, NULL));
    bitmapd_close(predecessor);
    for (int i = 0; i < 2; i++) {
        pid_t pid;
        int status;
        assert_int_equal(posix_spawn(&pid, EXAMPLE_PROGRAM, NULL, NULL, arguments, environ), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    CHECK(handle, bitmapd_drive_show(handle, DRIVE, &info));
    assert_int_equal(info.writers + info.lost_writers, 0);
    assert_true(info.unsettled == 0);
    read_map(handle, &seen);
    for (unsigned i = 0; i < GRANULES; i++) {
        assert_int_equal(seen.dirty[i], i == 2 || i == 3);
    }
    file = fopen(path, "r");
    assert_non_null(file);
    assert_int_equal(fseek(file, 196600, SEEK_SET), 0);
    assert_int_equal(fread(text, 1, sizeof text, file), 9);
    assert_string_equal(text, "some text");
    assert_int_equal(fclose(file), 0);
    bitmapd_close(handle);
    daemon_end(SIGTERM);
}

/* A connection is restricted and handed on; nothing brings the old one back. */
static void test_restricted(void **state)
{
    struct bitmapd_range range = {0, GRANULE};
    struct bitmapd_drive drive;
    uint64_t id, mark;

    (void)state;
    bitmapd_close(prepared());
    bitmapd *handle = connect_to_daemon(30);
    assert_int_equal(bitmapd_restrict(handle, "none", BITMAPD_RIGHT_TRACK), -ENOENT);
    assert_int_equal(bitmapd_restrict(handle, DRIVE, 0), -EINVAL);
    CHECK(handle, bitmapd_restrict(handle, DRIVE, BITMAPD_RIGHT_TRACK));
    assert_int_equal(bitmapd_flush(handle), -EPERM);
    assert_int_equal(bitmapd_restrict(handle, DRIVE, BITMAPD_RIGHT_ADMIN), -EPERM);
    int fd = dup(bitmapd_fd(handle));
    assert_true(fd >= 0);
    bitmapd_close(handle);

    handle = bitmapd_new();
    assert_non_null(handle);
    assert_int_equal(bitmapd_connect_fd(handle, -1), -EBADF);
    CHECK(handle, bitmapd_set_reconnect_timeout(handle, 30));
    CHECK(handle, bitmapd_connect_fd(handle, fd));
    CHECK(handle, bitmapd_attach(handle, DRIVE, "w", 0, &id, NULL, NULL));
    CHECK(handle, bitmapd_mark(handle, id, &range, 1, &mark));
    CHECK(handle, bitmapd_settle(handle, id, mark, 1));
    CHECK(handle, bitmapd_detach(handle, id));
    CHECK(handle, bitmapd_drive_show(handle, DRIVE, &drive));
    assert_int_equal(bitmapd_bitmap_delete(handle, BITMAP), -EPERM);
    daemon_end(SIGTERM);
    assert_int_equal(bitmapd_drive_show(handle, DRIVE, &drive), -ENOTCONN);
    assert_int_equal(bitmapd_connect(handle, socket_path), -EPERM);
    assert_int_equal(bitmapd_connect_fd(handle, 0), -EPERM);
    bitmapd_close(handle);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_marks, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_killed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_stopped, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_lost_writer, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_example, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_restricted, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
