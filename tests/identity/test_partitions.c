/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Partitions, and what udev alone may know: one text for a drive, whatever is
 * told beside it and whenever one asks.
 */
#include "tests/identity/sysfs_tree.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#define SDA     "pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda"
#define SDA_DEV "devices/" SDA "/device/"
#define NVME    "pci0000:00/0000:00:1d.0/0000:03:00.0/nvme/nvme0/nvme0n1"
#define VDA     "pci0000:00/0000:00:02.0/virtio1/block/vda"

static void test_partitions(void **state)
{
    static const char *const disks[] = {SDA, NVME, VDA, "rbd/1/block/rbd1", "virtual/block/md127"};

    (void)state;
    for (size_t i = 0; i < sizeof disks / sizeof disks[0]; i++) {
        tree_disk("8:0", disks[i]);
        tree_partition("8:1", disks[i], "p1", 1, 2048);
        tree_expect("8:1", "");
    }
    char path[300];
    (void)snprintf(path, sizeof path, "devices/%s/p1/uevent", VDA);
    tree_disk("8:0", VDA);
    tree_partition("8:1", VDA, "p1", 1, 2048);
    /* Of a disk that has no identity the table's UUID is all there is. */
    tree_text(path, "PARTN=1\nPARTUUID=8f1c2d3e-0001-4a5b-8c9d-0123456789ab\nPARTNAME=x");
    tree_expect("8:1", "partition uuid=8f1c2d3e-0001-4a5b-8c9d-0123456789ab");
    tree_text(path, "PARTN=1");
    tree_text("udev/data/b8:1",
              "N:vda1\nE:ID_PART_ENTRY_UUID=8f1c2d3e-0001-4a5b-8c9d-0123456789ab");
    tree_expect("8:1", "partition uuid=8f1c2d3e-0001-4a5b-8c9d-0123456789ab");
    /* A table without an identifier. */
    tree_text("udev/data/b8:1", "E:ID_PART_ENTRY_UUID=00000000-01");
    tree_expect("8:1", "");
    tree_text("udev/data/b8:1", "E:ID_PART_ENTRY_UUID=9a3b1c2d-01");
    tree_expect("8:1", "partition uuid=9a3b1c2d-01");
    /* Of a disk that has one it is the place, whatever else is known, and when. */
    tree_bytes("devices/" VDA "/serial", "vol-1", 5);
    tree_expect("8:1", "partition number=1 start=2048 of virtio serial=vol-1");
    tree_text(path, "PARTN=1\nPARTUUID=8f1c2d3e-0001-4a5b-8c9d-0123456789ab\nPARTNAME=x");
    tree_expect("8:1", "partition number=1 start=2048 of virtio serial=vol-1");
    tree_text(path, "PARTN=1");
    tree_remove("udev/data/b8:1");
    tree_expect("8:1", "partition number=1 start=2048 of virtio serial=vol-1");
    /* The whole disk is another drive. */
    tree_expect("8:0", "virtio serial=vol-1");

    tree_disk("8:0", SDA);
    tree_partition("8:1", SDA, "sda1", 1, 4096);
    tree_text(SDA_DEV "wwid", "naa.5002538e40a1b2c3");
    tree_text("udev/data/b8:1", "E:ID_PART_ENTRY_UUID=");
    tree_expect("8:1", "partition number=1 start=4096 of scsi wwid=naa.5002538e40a1b2c3");
    tree_text("devices/" SDA "/sda1/start", "-1");
    tree_expect("8:1", "");
}

/* A device that udev has not seen yet has no identity, nor has anything on it. */
static void test_before_udev(void **state)
{
    static const char md[] = "virtual/block/md127";

    (void)state;
    tree_disk("9:127", md);
    tree_partition("259:9", md, "md127p1", 1, 2048);
    tree_text("devices/virtual/block/md127/md127p1/uevent", "PARTN=1\nPARTUUID=9a3b1c2d-01");
    /* No udev runs here. */
    tree_expect("259:9", "partition uuid=9a3b1c2d-01");
    tree_text("udev/data/b8:0", "E:DEVTYPE=disk");
    tree_expect("9:127", "");
    tree_expect("259:9", "");
    tree_text("udev/data/b9:127", "E:MD_UUID=8c5d4dfb:1f2e3d4c:5b6a7988:00112233");
    tree_expect("9:127", "md uuid=8c5d4dfb1f2e3d4c5b6a798800112233");
    tree_expect("259:9",
                "partition number=1 start=2048 of md uuid=8c5d4dfb1f2e3d4c5b6a798800112233");
    /* What udev knows and does not tell it never will. */
    tree_text("udev/data/b9:127", "E:DEVTYPE=disk");
    tree_expect("9:127", "");
    tree_expect("259:9", "partition uuid=9a3b1c2d-01");
}

/* A file on such a device: its file system's id must not stand in for a while. */
static void test_file_before_udev(void **state)
{
    char path[100], number[24], name[100];
    struct statx stx;
    struct drive_probe probe;

    (void)state;
    tree_bytes("image", "x", 1);
    (void)snprintf(path, sizeof path, "%s/image", tree_root());
    assert_int_equal(statx(AT_FDCWD, path, 0, STATX_BASIC_STATS, &stx), 0);
    assert_int_equal(drive_probe(path, tree_options(), &probe, NULL), 0);
    if (stx.stx_dev_major == 0 || !probe.identity[0]) {
        print_message("no file system on a device here\n");
        skip();
    }
    (void)snprintf(number, sizeof number, "%u:%u", stx.stx_dev_major, stx.stx_dev_minor);
    tree_disk(number, "virtual/block/md127");
    assert_int_equal(drive_probe(path, tree_options(), &probe, NULL), 0);
    assert_non_null(strstr(probe.identity, " on fs type="));
    tree_text("udev/data/b8:0", "E:DEVTYPE=disk");
    assert_int_equal(drive_probe(path, tree_options(), &probe, NULL), 0);
    assert_string_equal(probe.identity, "");
    assert_int_equal(strncmp(probe.evidence, "file size=1 ", 12), 0);
    (void)snprintf(name, sizeof name, "udev/data/b%s", number);
    tree_text(name, "E:MD_UUID=8c5d4dfb:1f2e3d4c:5b6a7988:00112233");
    assert_int_equal(drive_probe(path, tree_options(), &probe, NULL), 0);
    assert_non_null(strstr(probe.identity, " on md uuid=8c5d4dfb1f2e3d4c5b6a798800112233"));
}

int main(void)
{
#define TREE_TEST(test) cmocka_unit_test_setup_teardown(test, tree_setup, tree_teardown)
    const struct CMUnitTest tests[] = {
        TREE_TEST(test_partitions),
        TREE_TEST(test_before_udev),
        TREE_TEST(test_file_before_udev),
    };
    return cmocka_run_group_tests_name("identity: partitions", tests, NULL, NULL);
}
