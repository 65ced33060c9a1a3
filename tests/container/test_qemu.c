/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The real qemu-img and qemu-io beside our containers: every kind opens, the
 * refcounts are right but for clusters QEMU cannot know the use of, a write by
 * QEMU is noticed and survived, and the locks are the same.
 */
#include "tests/container/script.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static char directory[64];
static char path[96];

static int make_directory(void **state)
{
    (void)state;
    (void)snprintf(directory, sizeof directory, "/tmp/bitmapd-test-XXXXXX");
    assert_non_null(mkdtemp(directory));
    (void)snprintf(path, sizeof path, "%s/file.qcow2", directory);
    return 0;
}

static int remove_directory(void **state)
{
    (void)state;
    (void)unlink(path);
    return rmdir(directory);
}

/* Exit status; what it prints goes to @output. */
static int run(char *output, size_t output_bytes, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static int run(char *output, size_t output_bytes, const char *format, ...)
{
    char command[300];
    va_list args;

    va_start(args, format);
    int n = vsnprintf(command, sizeof command, format, args);
    va_end(args);
    assert_true(n > 0 && (size_t)n < sizeof command);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    size_t got = fread(output, 1, output_bytes - 1, pipe);
    output[got] = '\0';
    char rest[4096];
    while (fread(rest, 1, sizeof rest, pipe) > 0) {
    }
    int status = pclose(pipe);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void store(struct simdisk *disk)
{
    uint64_t size;
    const uint8_t *bytes = simdisk_bytes(disk, &size);
    FILE *f = fopen(path, "wb");

    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

static struct file *open_file(enum file_mode mode, int *ret_fd)
{
    struct file *file;
    struct error e;

    OK(file_open_posix(path, mode, &file, ret_fd, &e), e);
    return file;
}

/* Opens; leaks at most. */
static void qemu_likes_it(struct simdisk *disk, uint32_t cluster_bits)
{
    char text[8192], cluster_size[64];

    store(disk);
    if (run(text, sizeof text, "qemu-img info '%s' 2>&1", path) != 0) {
        fail_msg("qemu-img info: %s", text);
    }
    assert_non_null(strstr(text, "file format: qcow2"));
    assert_non_null(strstr(text, "virtual size: 0 B"));
    assert_non_null(strstr(text, "corrupt: false"));
    (void)snprintf(cluster_size, sizeof cluster_size, "cluster_size: %u\n", 1u << cluster_bits);
    assert_non_null(strstr(text, cluster_size));
    int r = run(text, sizeof text, "qemu-img check --output=json '%s' 2>/dev/null", path);
    if (r != 0 && r != 3) {
        fail_msg("qemu-img check: %d, %s", r, text);
    }
    assert_null(strstr(text, "\"corruptions\""));
    assert_non_null(strstr(text, "\"check-errors\": 0"));
}

static void every_cluster_size(void **state)
{
    struct container_txn *t;
    struct error e;

    (void)state;
    for (uint32_t bits = CONTAINER_CLUSTER_BITS_MIN; bits <= CONTAINER_CLUSTER_BITS_MAX; bits++) {
        struct simdisk *disk = test_container(bits, 1);
        qemu_likes_it(disk, bits);
        struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
        OK(container_begin(c, &t, &e), e);
        OK(container_txn_add(t, 1, "vm1/a", 65536, 1 << 20, &e), e);
        OK(container_txn_write(t, 1, 0, "x", 1, &e), e);
        OK(test_commit(t, "x", &e), e);
        container_close(c);
        qemu_likes_it(disk, bits);
        simdisk_free(disk);
    }
}

static void steps_and_refcount_widths(void **state)
{
    struct error e;

    (void)state;
    for (uint32_t order = 0; order <= 6; order += 2) {
        struct simdisk *disk = test_container(9, 1);
        test_set_refcount_order(simdisk_file(disk), order);
        struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
        for (unsigned step = 1; step <= SCRIPT_STEPS; step++) {
            OK(script_step(c, step, &e), e);
            if ((order == 4 && step % 2 == 0) || step == SCRIPT_STEPS) {
                qemu_likes_it(disk, 9);
            }
        }
        container_close(c);
        simdisk_free(disk);
    }
}

/* Two bitmaps, one with bits, whatever the cluster size. */
static void add_two(struct container *c)
{
    struct container_txn *t;
    struct error e;

    OK(container_begin(c, &t, &e), e);
    OK(container_txn_add(t, 1, "vm1/a", 65536, 1 << 20, &e), e);
    OK(container_txn_add(t, 2, "vm1/b", 65536, 1 << 20, &e), e);
    OK(container_txn_write(t, 1, 0, "bits", 4, &e), e);
    OK(test_commit(t, "x", &e), e);
}

/* A writing open by QEMU rewrites the header around our extension. */
static void a_write_by_qemu_is_noticed(void **state)
{
    struct simdisk *disk = test_container(16, 1);
    struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
    struct container_info info;
    struct container_check_report report;
    struct error e;
    char text[4096];
    int fd;

    (void)state;
    add_two(c);
    uint64_t digest = test_digest(c);
    container_close(c);
    store(disk);
    simdisk_free(disk);

    struct file *file = open_file(FILE_WRITE, &fd);
    OK(container_open(file, 0, &c, &e), e);
    container_get_info(c, &info);
    assert_false(info.foreign_write);
    container_close(c);
    assert_int_equal(run(text, sizeof text, "qemu-io -c 'flush' '%s' 2>&1", path), 0);

    file = open_file(FILE_WRITE, &fd);
    OK(container_open(file, CONTAINER_OPEN_WRITE, &c, &e), e);
    container_get_info(c, &info);
    assert_true(info.foreign_write);
    assert_true(info.fields_restored);
    assert_false(info.used_mirror);
    assert_string_equal(info.state_damage, "");
    assert_true(test_digest(c) == digest);
    container_close(c); /* looking is no verdict: the evidence stays */

    file = open_file(FILE_WRITE, &fd);
    OK(container_open(file, CONTAINER_OPEN_WRITE, &c, &e), e);
    container_get_info(c, &info);
    assert_true(info.foreign_write);
    OK(test_commit_state(c, "verdict", &e), e);
    container_close(c);

    file = open_file(FILE_READ, &fd);
    OK(container_check(file, NULL, NULL, &report, &e), e);
    assert_int_equal(report.corruptions + report.leaks, 0);
    OK(container_open(file, 0, &c, &e), e);
    container_get_info(c, &info);
    assert_false(info.foreign_write);
    assert_false(info.fields_restored);
    container_close(c);
    assert_int_equal(run(text, sizeof text, "qemu-img info '%s' 2>&1", path), 0);
}

/* `qemu-img check -r` frees all that is ours: nothing of it may be believed afterwards. */
static void a_repair_by_qemu_is_noticed(void **state)
{
    struct simdisk *disk = test_container(16, 1);
    struct container *c = test_open(disk, CONTAINER_OPEN_WRITE);
    struct container_info info;
    struct error e;
    char text[4096];
    int fd;

    (void)state;
    add_two(c);
    container_close(c);
    store(disk);
    simdisk_free(disk);
    (void)run(text, sizeof text, "qemu-img check -r all '%s' 2>&1", path);

    struct file *file = open_file(FILE_WRITE, &fd);
    OK(container_open(file, CONTAINER_OPEN_WRITE, &c, &e), e);
    container_get_info(c, &info);
    assert_true(info.foreign_write);
    assert_true(info.state_damage[0] != '\0');
    for (uint32_t i = 0; i < info.bitmaps; i++) {
        struct container_bitmap_info b;
        container_bitmap_get(c, i, &b);
        assert_non_null(b.damage);
    }
    container_close(c);
}

static void locks_are_the_same(void **state)
{
    struct simdisk *disk = test_container(16, 1);
    struct error e;
    char text[4096];
    int fd;

    (void)state;
    store(disk);
    simdisk_free(disk);
    struct file *file = open_file(FILE_WRITE, &fd);
    OK(container_lock(fd, true, &e), e);
    assert_int_not_equal(run(text, sizeof text, "qemu-io -c 'flush' '%s' 2>&1", path), 0);
    assert_non_null(strstr(text, "lock"));
    assert_int_equal(run(text, sizeof text, "qemu-img info -U '%s' 2>&1", path), 0);
    file_close(file);
    assert_int_equal(run(text, sizeof text, "qemu-io -r -c 'quit' '%s' 2>&1", path), 0);

    /* The other way round: QEMU writes, we stay out. */
    int to[2];
    assert_int_equal(pipe(to), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        int null = open("/dev/null", O_WRONLY);
        (void)dup2(to[0], 0);
        (void)dup2(null, 1);
        (void)dup2(null, 2);
        (void)close(to[1]);
        (void)execlp("qemu-io", "qemu-io", path, (char *)NULL);
        _exit(127);
    }
    (void)close(to[0]);
    file = open_file(FILE_WRITE, &fd);
    int r = 0;
    for (unsigned i = 0; i < 500 && r == 0; i++) { /* until QEMU has opened it */
        r = container_lock(fd, true, &e);
        if (r == 0) {
            file_close(file);
            (void)usleep(10000);
            file = open_file(FILE_WRITE, &fd);
        }
    }
    assert_int_equal(r, -EBUSY);
    file_close(file);
    (void)close(to[1]); /* the end of its input ends it */
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    file = open_file(FILE_WRITE, &fd);
    OK(container_lock(fd, true, &e), e);
    file_close(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_cluster_size),         cmocka_unit_test(steps_and_refcount_widths),
        cmocka_unit_test(a_write_by_qemu_is_noticed), cmocka_unit_test(a_repair_by_qemu_is_noticed),
        cmocka_unit_test(locks_are_the_same),
    };

    if (system("qemu-img --version >/dev/null 2>&1 && qemu-io --version >/dev/null 2>&1") != 0) {
        printf("skipped: no qemu-img and qemu-io here\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
