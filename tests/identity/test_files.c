/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Real files, and real loop devices over them (root; a kernel that has them),
 * with the kernel's own sysfs.  Loop devices are attached with AUTOCLEAR, so
 * that one that we have no longer open is gone, whatever becomes of the test.
 */
#include "daemon/identity/identity.h"
#include "proto/base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/blkpg.h>
#include <linux/loop.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

enum {
    IMAGE_BYTES = 8 << 20,
};

static char directory[] = "/tmp/bitmapd-test-identity-XXXXXX";
static char path[sizeof directory + 8], other[sizeof directory + 8];
static struct drive_probe_options options = {.sysfs = "/sys", .udev = "/run/udev"};
static char boot_id[64];
static int exit_status;

static int setup(void **state)
{
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");

    (void)state;
    if (!file || !fgets(boot_id, sizeof boot_id, file) || !mkdtemp(directory)) {
        return -1;
    }
    (void)fclose(file);
    boot_id[strcspn(boot_id, "\n")] = '\0';
    options.boot_id = boot_id;
    (void)snprintf(path, sizeof path, "%s/image", directory);
    (void)snprintf(other, sizeof other, "%s/other", directory);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    return rmdir(directory);
}

/* Long ago, so that whatever sets the time moves it. */
static void age(const char *name)
{
    const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1000000000}};

    assert_int_equal(utimensat(AT_FDCWD, name, times, 0), 0);
}

static void make_file(const char *name, off_t size)
{
    CLEANUP_CLOSE int fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, size), 0);
    age(name);
}

static int make_files(void **state)
{
    (void)state;
    make_file(path, IMAGE_BYTES);
    make_file(other, IMAGE_BYTES);
    return 0;
}

static int remove_files(void **state)
{
    (void)state;
    (void)unlink(path);
    (void)unlink(other);
    return 0;
}

static struct drive_probe probe(const char *name)
{
    struct drive_probe ret;
    struct error error = {""};

    if (drive_probe(name, &options, &ret, &error) < 0) {
        fail_msg("%s", error.text);
    }
    return ret;
}

static bool told(const struct drive_probe *probed)
{
    /* FUSE and the like: nothing tells one file from another. */
    return probed->identity[0] && !strstr(probed->identity, "born=none");
}

static enum evidence_verdict compare(const struct drive_probe *then, const struct drive_probe *now)
{
    char words[300];

    return evidence_compare(then->evidence, now->evidence, words, sizeof words);
}

static void test_identity(void **state)
{
    struct drive_probe before = probe(path), after, twin = probe(other);

    (void)state;
    print_message("%s\n%s\n", before.identity, before.evidence);
    assert_int_equal(before.size, IMAGE_BYTES);
    assert_string_equal(before.no_evidence, "");
    assert_int_equal(unlink(other), 0);
    assert_int_equal(rename(path, other), 0);
    after = probe(other);
    assert_string_equal(before.identity, after.identity);
    assert_int_equal(compare(&before, &after), EVIDENCE_EQUAL);
    assert_int_equal(link(other, path), 0);
    after = probe(path);
    assert_string_equal(before.identity, after.identity);
    if (!told(&before)) {
        print_message("no birth times here\n");
        skip();
    }
    assert_string_not_equal(before.identity, twin.identity);
    /* Made anew, perhaps with the inode of the one before, in another tick of the clock. */
    for (int i = 0; i < 5; i++) {
        before = probe(path);
        remove_files(NULL);
        assert_int_equal(usleep(20000), 0);
        make_file(path, IMAGE_BYTES);
        after = probe(path);
        assert_string_not_equal(before.identity, after.identity);
    }
}

static void test_evidence(void **state)
{
    const struct timespec read_now[2] = {{.tv_nsec = UTIME_NOW}, {.tv_nsec = UTIME_OMIT}};
    struct drive_probe before = probe(path), after;
    CLEANUP_CLOSE int fd = open(path, O_RDWR | O_CLOEXEC);
    char byte;

    (void)state;
    assert_int_equal(chmod(path, 0640), 0);
    assert_true(chown(path, geteuid() == 0 ? 65534 : geteuid(), (gid_t)-1) == 0);
    assert_int_equal(utimensat(AT_FDCWD, path, read_now, 0), 0);
    assert_int_equal(pread(fd, &byte, 1, 0), 1);
    after = probe(path);
    assert_int_equal(compare(&before, &after), EVIDENCE_EQUAL);

    assert_int_equal(pwrite(fd, "x", 1, 5), 1);
    after = probe(path);
    assert_int_equal(compare(&before, &after), EVIDENCE_WRITTEN);
    assert_string_equal(before.identity, after.identity);

    age(path);
    after = probe(path);
    assert_int_equal(compare(&before, &after), EVIDENCE_EQUAL); /* as identity.h says */
    assert_int_equal(ftruncate(fd, IMAGE_BYTES + 1), 0);
    age(path);
    after = probe(path);
    assert_int_equal(compare(&before, &after), EVIDENCE_WRITTEN);
    assert_string_equal(before.identity, after.identity);
    assert_int_equal(after.size, IMAGE_BYTES + 1);
}

/* Nor does root, who may open anything, open a file. */
static void test_closed_to_us(void **state)
{
    struct drive_probe before = probe(path), after;
    uid_t uid = geteuid();

    (void)state;
    assert_int_equal(chmod(directory, 0711), 0);
    assert_int_equal(chmod(path, 0), 0);
    assert_int_equal(seteuid(uid == 0 ? 65534 : uid), 0);
    assert_true(open(path, O_RDONLY | O_CLOEXEC) < 0 && errno == EACCES);
    after = probe(path);
    assert_int_equal(seteuid(uid), 0);
    assert_string_equal(before.identity, after.identity);
    assert_string_equal(before.evidence, after.evidence);
}

static void refused(const char *name, int r, const char *why)
{
    struct drive_probe untouched, ret;
    struct error error = {""};

    memset(&untouched, 0xa5, sizeof untouched);
    memset(&ret, 0xa5, sizeof ret);
    assert_int_equal(drive_probe(name, &options, &ret, &error), r);
    assert_non_null(strstr(error.text, name));
    assert_non_null(strstr(error.text, why));
    assert_memory_equal(&ret, &untouched, sizeof ret);
    assert_int_equal(drive_probe(name, &options, &ret, NULL), r);
}

static void test_refused(void **state)
{
    (void)state;
    refused("/nonexistent/drive", -ENOENT, "No such file");
    refused(directory, -EINVAL, "neither");
    refused("/dev/null", -EINVAL, "neither");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0); /* would hang */
    refused(path, -EINVAL, "neither");
    assert_int_equal(truncate(other, 0), 0);
    refused(other, -EINVAL, "empty");
    /* What cannot be opened is refused for what it is, so it was not tried. */
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    CLEANUP_CLOSE int socket_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(unlink(path), 0);
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    assert_int_equal(bind(socket_fd, (struct sockaddr *)&address, sizeof address), 0);
    refused(path, -EINVAL, "neither");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink(path, path), 0);
    refused(path, -ELOOP, "symbolic links");
}

/* ---- Loop devices ---- */

static void missing(const char *what)
{
    printf("SKIPPED: %s\n", what);
    exit_status = 77;
    skip();
}

/* The device's descriptor, and its name in @ret: another process may take a free one first. */
static int attach(const char *name, uint64_t offset, char *ret, size_t size)
{
    CLEANUP_CLOSE int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    CLEANUP_CLOSE int file = open(name, O_RDWR | O_CLOEXEC);

    assert_true(file >= 0);
    if (control < 0) {
        missing("loop devices, and root");
    }
    for (int i = 0; i < 50; i++) {
        struct loop_config config = {.fd = (uint32_t)file};
        config.info.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_PARTSCAN;
        config.info.lo_offset = offset;
        int number = ioctl(control, LOOP_CTL_GET_FREE);
        (void)snprintf(ret, size, "/dev/loop%d", number);
        CLEANUP_CLOSE int fd = open(ret, O_RDWR | O_CLOEXEC);
        if (number >= 0 && fd >= 0 && ioctl(fd, LOOP_CONFIGURE, &config) == 0) {
            return steal_fd(&fd);
        }
        if (errno != EBUSY) {
            missing("a kernel with loop devices, and root");
        }
    }
    fail_msg("no free loop device");
    return -1;
}

static void test_loop(void **state)
{
    char device[32];
    int fd = attach(path, 0, device, sizeof device);
    struct drive_probe first = probe(device), now, file = probe(path);

    (void)state;
    print_message("%s\n%s\n", first.identity, first.evidence);
    assert_int_equal(first.size, IMAGE_BYTES);
    assert_non_null(strstr(first.evidence, " backing-size=8388608 "));
    if (told(&file)) {
        assert_non_null(strstr(first.identity, file.identity));
    }
    now = probe(device);
    assert_int_equal(compare(&first, &now), EVIDENCE_EQUAL);

    assert_int_equal(pwrite(fd, "x", 1, 4096), 1);
    assert_int_equal(fsync(fd), 0);
    now = probe(device);
    assert_int_equal(compare(&first, &now), EVIDENCE_WRITTEN);
    assert_string_equal(first.identity, now.identity);

    /* A write to the file below it. */
    first = now;
    age(path);
    now = probe(device);
    assert_int_equal(compare(&first, &now), EVIDENCE_WRITTEN);

    /* Attached anew it is the same drive; over another file it is not, nor elsewhere in it. */
    assert_int_equal(close(fd), 0);
    fd = attach(path, 0, device, sizeof device);
    first = now;
    now = probe(device);
    assert_string_equal(first.identity, now.identity);
    assert_int_equal(compare(&first, &now), EVIDENCE_INCOMPARABLE);
    age(path);
    assert_int_equal(truncate(path, IMAGE_BYTES + 512), 0);
    now = probe(device);
    assert_int_equal(compare(&first, &now), EVIDENCE_WRITTEN);
    assert_int_equal(truncate(path, IMAGE_BYTES), 0);
    assert_int_equal(close(fd), 0);
    fd = attach(path, 4096, device, sizeof device);
    now = probe(device);
    assert_true(!told(&file) || strcmp(first.identity, now.identity) != 0);
    assert_int_equal(close(fd), 0);
    fd = attach(other, 0, device, sizeof device);
    now = probe(device);
    assert_true(!told(&file) || strcmp(first.identity, now.identity) != 0);

    /* Another file under the name of the one that it is attached to. */
    assert_int_equal(rename(path, other), 0);
    now = probe(device);
    assert_string_equal(now.identity, "");
    assert_null(strstr(now.evidence, "backing"));
    assert_int_equal(close(fd), 0);
}

static void add_partition(int fd, int number, long long start, long long length)
{
    struct blkpg_partition partition = {.start = start, .length = length, .pno = number};
    struct blkpg_ioctl_arg argument = {
        .op = BLKPG_ADD_PARTITION, .datalen = sizeof partition, .data = &partition};

    assert_int_equal(ioctl(fd, BLKPG, &argument), 0);
}

/* The kernel is told of partitions, so that no tool and no table's format is needed. */
static void test_partition(void **state)
{
    char device[32], first_name[40], second_name[40];
    int fd = attach(path, 0, device, sizeof device);
    struct drive_probe first, second, whole, now;

    (void)state;
    add_partition(fd, 1, 1 << 20, 1 << 20);
    add_partition(fd, 2, 4 << 20, 2 << 20);
    (void)snprintf(first_name, sizeof first_name, "%sp1", device);
    (void)snprintf(second_name, sizeof second_name, "%sp2", device);
    if (access(first_name, F_OK) < 0) {
        (void)close(fd);
        missing("a devtmpfs in /dev");
    }
    first = probe(first_name);
    second = probe(second_name);
    whole = probe(device);
    print_message("%s\n%s\n", first.identity, first.evidence);
    assert_int_equal(first.size, 1 << 20);
    assert_int_equal(second.size, 2 << 20);
    if (whole.identity[0]) {
        assert_non_null(strstr(first.identity, whole.identity));
        assert_string_not_equal(first.identity, second.identity);
    }
    now = probe(first_name);
    assert_int_equal(compare(&first, &now), EVIDENCE_EQUAL);

    CLEANUP_CLOSE int partition = open(first_name, O_RDWR | O_CLOEXEC);
    assert_int_equal(pwrite(partition, "x", 1, 0), 1);
    assert_int_equal(fsync(partition), 0);
    now = probe(first_name);
    assert_int_equal(compare(&first, &now), EVIDENCE_WRITTEN);
    assert_string_equal(first.identity, now.identity);
    /* What is written to the disk does not show in the partition's counter. */
    first = now;
    assert_int_equal(pwrite(fd, "x", 1, (1 << 20) + 4096), 1);
    assert_int_equal(fsync(fd), 0);
    now = probe(first_name);
    assert_int_equal(compare(&first, &now), EVIDENCE_INCOMPARABLE);
    assert_int_equal(close(steal_fd(&partition)), 0);
    assert_int_equal(close(fd), 0);
}

int main(void)
{
#define FILE_TEST(test) cmocka_unit_test_setup_teardown(test, make_files, remove_files)
    const struct CMUnitTest tests[] = {
        FILE_TEST(test_identity), FILE_TEST(test_evidence), FILE_TEST(test_closed_to_us),
        FILE_TEST(test_refused),  FILE_TEST(test_loop),     FILE_TEST(test_partition),
    };
    int failed = cmocka_run_group_tests_name("identity: files", tests, setup, teardown);

    return failed ? failed : exit_status;
}
