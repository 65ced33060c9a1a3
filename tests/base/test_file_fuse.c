/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A durable write to a file system in user space that caches: its server, a thread here, is told
 * to sync after the write, also where it takes all I/O directly.  As root, with /dev/fuse.
 */
#include "daemon/base/file.h"

#include "proto/base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cmocka.h>

enum {
    BLOCK = 4096,
    SKIP = 77,
    REQUEST_BYTES = 1 << 18
};

static char directory[] = "/tmp/bitmapd-test-fuse-XXXXXX";

/* Of the one file; the server's until it has been joined, but for what replies order. */
static struct {
    int fd;
    uint32_t open_flags;
    unsigned written, synced; /* of @written, what a sync came after */
} served;

static struct fuse_attr attributes(uint64_t node)
{
    return (struct fuse_attr){.ino = node,
                              .size = 16 * BLOCK,
                              .mode = node == FUSE_ROOT_ID ? S_IFDIR | 0700 : S_IFREG | 0600,
                              .nlink = 1,
                              .blksize = BLOCK};
}

static void answer(uint64_t unique, int error, void *body, size_t bytes)
{
    struct fuse_out_header header = {
        .len = (uint32_t)(sizeof header + bytes), .error = -error, .unique = unique};
    struct iovec parts[] = {{&header, sizeof header}, {body, bytes}};

    (void)!writev(served.fd, parts, 2);
}

#define ANSWER(type, ...) answer(header->unique, 0, &(type){__VA_ARGS__}, sizeof(type))

static void serve(const struct fuse_in_header *header)
{
    const void *body = header + 1;

    switch (header->opcode) {
    case FUSE_INIT:
        ANSWER(struct fuse_init_out, .major = FUSE_KERNEL_VERSION,
               .minor = FUSE_KERNEL_MINOR_VERSION, .max_write = 16 * BLOCK);
        break;
    case FUSE_LOOKUP:
        ANSWER(struct fuse_entry_out, .nodeid = 2, .attr = attributes(2));
        break;
    case FUSE_GETATTR:
        ANSWER(struct fuse_attr_out, .attr = attributes(header->nodeid));
        break;
    case FUSE_OPEN:
        ANSWER(struct fuse_open_out, .open_flags = served.open_flags);
        break;
    case FUSE_WRITE:
        served.written++;
        ANSWER(struct fuse_write_out, .size = ((const struct fuse_write_in *)body)->size);
        break;
    case FUSE_FSYNC:
        served.synced = served.written;
        answer(header->unique, 0, NULL, 0);
        break;
    case FUSE_STATFS:
        ANSWER(struct fuse_statfs_out, .st = {.bsize = BLOCK});
        break;
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_INTERRUPT:
        break;
    case FUSE_RELEASE:
        answer(header->unique, 0, NULL, 0);
        break;
    default:
        answer(header->unique, ENOSYS, NULL, 0);
    }
}

static void *server(void *opaque)
{
    char *request = opaque;

    /* Until it is unmounted. */
    while (read(served.fd, request, REQUEST_BYTES) > 0 || errno == EINTR) {
        serve((const struct fuse_in_header *)request);
    }
    return NULL;
}

static void write_durably(uint32_t open_flags)
{
    CLEANUP_FREE void *block = aligned_alloc(BLOCK, BLOCK);
    CLEANUP_FREE void *request = malloc(REQUEST_BYTES);
    char path[sizeof directory + 8], options[100];
    struct file *file = NULL;
    struct error error;
    pthread_t thread;
    int results[3], opened;

    assert_true(block && request);
    memset(block, 1, BLOCK);
    served.open_flags = open_flags;
    served.written = served.synced = 0;
    served.fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    assert_true(served.fd >= 0);
    (void)snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0", served.fd);
    assert_int_equal(mount("test", directory, "fuse", 0, options), 0);
    assert_int_equal(pthread_create(&thread, NULL, server, request), 0);
    (void)snprintf(path, sizeof path, "%s/file", directory);
    opened = file_open_posix(path, FILE_WRITE, &file, NULL, &error);
    for (unsigned i = 0; i < 3; i++) {
        results[i] = opened < 0 ? opened : file_write_durably(file, block, BLOCK, BLOCK);
        if (results[i] == 0 && served.synced != i + 1) {
            results[i] = -EAGAIN; /* it is not told yet */
        }
    }
    file_close(file);
    (void)umount2(directory, MNT_DETACH);
    (void)pthread_join(thread, NULL);
    (void)close(served.fd);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(results[i], 0);
    }
}

static void test_cached(void **state)
{
    (void)state;
    write_durably(0);
}

static void test_direct(void **state)
{
    (void)state;
    write_durably(FOPEN_DIRECT_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cached),
        cmocka_unit_test(test_direct),
    };

    if (geteuid() != 0 || access("/dev/fuse", R_OK | W_OK) < 0) {
        if (getenv("CI") && strcmp(getenv("CI"), "true") == 0) {
            return 1;
        }
        printf("not root, or no /dev/fuse: skipped\n");
        return SKIP;
    }
    if (!mkdtemp(directory)) {
        return 1;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    (void)rmdir(directory);
    return failed;
}
