/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The sysfs of hosts that are not here: see sysfs_tree.h. */
#include "tests/identity/sysfs_tree.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char root[64], udev[80];
static struct drive_probe_options options = {.sysfs = root, .udev = udev, .boot_id = TREE_BOOT_ID};

int tree_setup(void **state)
{
    (void)state;
    (void)snprintf(root, sizeof root, "/tmp/bitmapd-test-sysfs-XXXXXX");
    if (!mkdtemp(root)) {
        return -1;
    }
    (void)snprintf(udev, sizeof udev, "%s/udev", root);
    return mkdir(udev, 0755);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

int tree_teardown(void **state)
{
    (void)state;
    return nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

const char *tree_root(void)
{
    return root;
}

const struct drive_probe_options *tree_options(void)
{
    return &options;
}

/* The path below the root, with its directories made. */
static const char *make_place(const char *path)
{
    static char full[PATH_MAX];

    (void)snprintf(full, sizeof full, "%s/%s", root, path);
    for (char *p = full + strlen(root) + 1; (p = strchr(p, '/')); p++) {
        *p = '\0';
        assert_true(mkdir(full, 0755) == 0 || errno == EEXIST);
        *p = '/';
    }
    return full;
}

void tree_bytes(const char *path, const void *bytes, size_t length)
{
    int fd = open(make_place(path), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, length), length);
    assert_int_equal(close(fd), 0);
}

void tree_text(const char *path, const char *format, ...)
{
    char text[8192];
    va_list arguments;

    va_start(arguments, format);
    int n = vsnprintf(text, sizeof text - 1, format, arguments);
    va_end(arguments);
    assert_true(n >= 0 && (size_t)n < sizeof text - 1);
    text[n] = '\n';
    tree_bytes(path, text, (size_t)n + 1);
}

void tree_link(const char *path, const char *target)
{
    const char *full = make_place(path);

    assert_true(unlink(full) == 0 || errno == ENOENT);
    assert_int_equal(symlink(target, full), 0);
}

void tree_remove(const char *path)
{
    char full[PATH_MAX];

    (void)snprintf(full, sizeof full, "%s/%s", root, path);
    assert_int_equal(remove(full), 0);
}

static void common(const char *number, const char *path, const char *stat, const char *uevent)
{
    char name[PATH_MAX], target[PATH_MAX];

    (void)snprintf(name, sizeof name, "dev/block/%s", number);
    (void)snprintf(target, sizeof target, "../../devices/%s", path);
    tree_link(name, target);
    (void)snprintf(name, sizeof name, "devices/%s/dev", path);
    tree_text(name, "%s", number);
    (void)snprintf(name, sizeof name, "devices/%s/stat", path);
    tree_text(name, "%s", stat);
    (void)snprintf(name, sizeof name, "devices/%s/uevent", path);
    tree_text(name, "%s", uevent);
}

void tree_disk(const char *number, const char *path)
{
    char name[PATH_MAX];

    common(number, path,
           "  156040    18505 11163634   133320 10690236   444562 2892235480  9401828        0  "
           "2044288 11474778  1803269      561 2756739144   941519  2716314   998110",
           "MAJOR=8\nMINOR=0\nDEVTYPE=disk");
    (void)snprintf(name, sizeof name, "devices/%s/diskseq", path);
    tree_text(name, "9");
    (void)snprintf(name, sizeof name, "devices/%s/queue/iostats", path);
    tree_text(name, "1");
}

void tree_partition(const char *number, const char *disk, const char *name, unsigned index,
                    unsigned long long start)
{
    char path[PATH_MAX], file[PATH_MAX + 32];

    (void)snprintf(path, sizeof path, "%s/%s", disk, name);
    common(number, path, "1 2 3 4 5 6 7000 8 9 10 11 12 13 1400 15 16 17",
           "MAJOR=8\nMINOR=1\nDEVTYPE=partition\nPARTN=1");
    (void)snprintf(file, sizeof file, "devices/%s/partition", path);
    tree_text(file, "%u", index);
    (void)snprintf(file, sizeof file, "devices/%s/start", path);
    tree_text(file, "%llu", start);
}

void check_text(const char *text)
{
    assert_true(strlen(text) <= IDENTITY_TEXT_BYTES_MAX);
    for (const char *p = text; *p; p++) {
        assert_in_range((unsigned char)*p, ' ', '~');
    }
}

struct drive_probe tree_probe(const char *number)
{
    struct drive_probe probe;
    struct error error = {""};
    unsigned major, minor;

    assert_int_equal(sscanf(number, "%u:%u", &major, &minor), 2);
    memset(&probe, 0xa5, sizeof probe);
    assert_int_equal(drive_probe_block(major, minor, 1 << 30, &options, &probe, &error), 0);
    assert_int_equal(probe.size, 1 << 30);
    check_text(probe.identity);
    check_text(probe.evidence);
    assert_true(!probe.evidence[0] != !probe.no_evidence[0]);
    return probe;
}

void tree_expect(const char *number, const char *identity)
{
    struct drive_probe probe = tree_probe(number);

    assert_string_equal(probe.identity, identity);
}
