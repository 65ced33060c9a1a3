/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Identities and evidence of block devices, from the sysfs of hosts as there
 * are: what is stable is told, what is not is "", and nothing in sysfs can do
 * harm.
 */
#include "tests/identity/sysfs_tree.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define SDA     "pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda"
#define SDA_DEV "devices/" SDA "/device/"
#define NVME    "pci0000:00/0000:00:1d.0/0000:03:00.0/nvme/nvme0/nvme0n1"
#define VDA     "pci0000:00/0000:00:02.0/virtio1/block/vda"
#define DM      "virtual/block/dm-3"
#define LOOP    "virtual/block/loop5"

static void test_device_mapper(void **state)
{
    static const char *const uuids[] = {
        "LVM-Zx1fQ0k2lJrR8oYyq0nXn0V4cVbX8D2cQkT0bJx3J2p7o3oLrGmM9yK1s5d2Vv8a",
        "mpath-3600508b400105e210000900000490000",
        "CRYPT-LUKS2-0c8a7bd2b1f04bb1a2a7f1b3c4d5e6f7-data",
        "part1-mpath-3600508b400105e210000900000490000",
    };
    char expected[200];

    (void)state;
    tree_disk("253:3", DM);
    tree_text("devices/" DM "/dm/name", "vg-lv");
    for (size_t i = 0; i < sizeof uuids / sizeof uuids[0]; i++) {
        tree_text("devices/" DM "/dm/uuid", "%s", uuids[i]);
        (void)snprintf(expected, sizeof expected, "dm uuid=%s", uuids[i]);
        tree_expect("253:3", expected);
    }
    /* A name can be given to another. */
    tree_text("devices/" DM "/dm/uuid", "%s", "");
    tree_expect("253:3", "");
}

static void test_scsi(void **state)
{
    (void)state;
    tree_disk("8:0", SDA);
    tree_expect("8:0", "");
    tree_text(SDA_DEV "vendor", "ATA     ");
    tree_text(SDA_DEV "model", "Disk 860 EVO    ");
    tree_text(SDA_DEV "rev", "2B6Q");
    tree_expect("8:0", "");
    tree_bytes(SDA_DEV "vpd_pg80", "\0\x80\0\x0c  S3Z8NB0K12", 16);
    tree_expect("8:0", "scsi vendor=ATA model=Disk%20860%20EVO serial=S3Z8NB0K12");
    /* Firmware may be updated. */
    tree_text(SDA_DEV "rev", "3B6Q");
    tree_expect("8:0", "scsi vendor=ATA model=Disk%20860%20EVO serial=S3Z8NB0K12");
    tree_text(SDA_DEV "wwid", "naa.5002538e40a1b2c3");
    tree_expect("8:0", "scsi wwid=naa.5002538e40a1b2c3");
    tree_text(SDA_DEV "wwid",
              "t10.ATA     QEMU HARDDISK                           QM00001             ");
    tree_expect("8:0",
                "scsi wwid=t10.ATA%20%20%20%20%20QEMU%20HARDDISK%20%20%20%20%20%20%20%20%20%20"
                "%20%20%20%20%20%20%20%20%20%20%20%20%20%20%20%20%20QM00001");
    tree_text(SDA_DEV "wwid", "naa.0000000000000000");
    tree_expect("8:0", "scsi vendor=ATA model=Disk%20860%20EVO serial=S3Z8NB0K12");
}

struct designator {
    uint8_t set_and_type[2], length;
    const char *bytes;
};

/* A page of 0x83 in the tree, in place of a wwid. */
static void put_page(const struct designator *designators, size_t count)
{
    uint8_t page[512] = {0, 0x83};
    size_t length = 4;

    for (size_t i = 0; i < count; i++) {
        page[length] = designators[i].set_and_type[0];
        page[length + 1] = designators[i].set_and_type[1];
        page[length + 3] = designators[i].length;
        memcpy(page + length + 4, designators[i].bytes, designators[i].length);
        length += 4 + (size_t)designators[i].length;
    }
    page[2] = (uint8_t)((length - 4) >> 8);
    page[3] = (uint8_t)(length - 4);
    tree_bytes(SDA_DEV "vpd_pg83", page, length);
}

static void test_scsi_page(void **state)
{
    static const struct designator
        vendor = {{2, 0}, 5, "drive"},
        t10 = {{2, 1}, 16, "ACME    disk 42 "},
        eui = {{1, 2}, 8, "\x00\x25\x38\x01\x02\x03\x04\x05"},
        port = {{1, 0x13}, 8, "\x50\x02\x53\x8e\x40\xff\xff\xff"},
        naa = {{1, 3}, 8, "\x50\x02\x53\x8e\x40\xa1\xb2\xc3"},
        naa_long = {{1, 3}, 16, "\x60\x05\x08\xb4\0\x10\x5e\x21\0\0\x90\0\0\x49\0\0"},
        name = {{3, 8}, 24, "iqn.2003-01.org:target,L\0"},
        naa_short = {{1, 3}, 4, "\x50\x02\x53\x8e"};

    (void)state;
    tree_disk("8:0", SDA);
    put_page((const struct designator[]){vendor, port}, 2);
    tree_expect("8:0", "");
    put_page((const struct designator[]){vendor, t10, port}, 3);
    tree_expect("8:0", "scsi wwid=t10.ACME%20%20%20%20disk%2042");
    put_page((const struct designator[]){t10, eui}, 2);
    tree_expect("8:0", "scsi wwid=eui.0025380102030405");
    put_page((const struct designator[]){t10, naa, eui, port}, 4);
    tree_expect("8:0", "scsi wwid=naa.5002538e40a1b2c3");
    put_page((const struct designator[]){naa_long, naa, t10}, 3);
    tree_expect("8:0", "scsi wwid=naa.600508b400105e210000900000490000");
    put_page((const struct designator[]){name, naa_long}, 2);
    tree_expect("8:0", "scsi wwid=iqn.2003-01.org:target,L");
    put_page((const struct designator[]){naa_short, t10}, 2);
    tree_expect("8:0", "scsi wwid=t10.ACME%20%20%20%20disk%2042");

    /* Lengths that lead out of the page. */
    tree_bytes(SDA_DEV "vpd_pg83", "\0\x83\xff\xff\x01\x03\0\xffPPPPPPPP", 16);
    tree_expect("8:0", "");
    tree_bytes(SDA_DEV "vpd_pg83", "\0\x83\0\x0c\x01\x03\0\x08PPPPPPPP", 15);
    tree_expect("8:0", "");
    tree_bytes(SDA_DEV "vpd_pg83", "\0\x80\0\x0c\x01\x03\0\x08PPPPPPPP", 16);
    tree_expect("8:0", "");
    tree_bytes(SDA_DEV "vpd_pg83", "\0\x83\0", 3);
    tree_expect("8:0", "");
    tree_bytes(SDA_DEV "vpd_pg83", "\0\x83\0\x0c\x01\x03\0\x08PPPPPPPP", 16);
    tree_expect("8:0", "scsi wwid=naa.5050505050505050");
}

static void test_nvme(void **state)
{
    (void)state;
    tree_disk("259:0", NVME);
    tree_expect("259:0", "");
    tree_text("devices/" NVME "/nsid", "1");
    tree_text("devices/" NVME "/device/model", "ACME SSD 980                            ");
    tree_text("devices/" NVME "/device/serial", "S64DNX0R123456A     ");
    tree_text("devices/" NVME "/eui", "00 00 00 00 00 00 00 00 ");
    tree_expect("259:0", "nvme model=ACME%20SSD%20980 serial=S64DNX0R123456A nsid=1");
    /* As the kernel makes its wwid, so that it is the same with or without one. */
    tree_text("devices/" NVME "/eui", "00 25 38 da 11 40 0a 1b ");
    tree_expect("259:0", "nvme wwid=eui.002538da11400a1b");
    tree_text("devices/" NVME "/nguid", "36344430-5230-1234-0025-385300000001");
    tree_expect("259:0", "nvme wwid=eui.36344430523012340025385300000001");
    tree_text("devices/" NVME "/uuid", "a8b4f1de-0ee1-4dd1-a9b5-e2eb3b6c0f1d");
    tree_expect("259:0", "nvme wwid=uuid.a8b4f1de-0ee1-4dd1-a9b5-e2eb3b6c0f1d");
    tree_text("devices/" NVME "/wwid", "eui.002538da11400a1b");
    tree_expect("259:0", "nvme wwid=eui.002538da11400a1b");
}

static void test_virtio(void **state)
{
    (void)state;
    tree_disk("254:0", VDA);
    tree_expect("254:0", "");
    tree_bytes("devices/" VDA "/serial", "", 0);
    tree_expect("254:0", "");
    tree_bytes("devices/" VDA "/serial", "vol-0a1b2c3d4e5f6789", 20);
    tree_expect("254:0", "virtio serial=vol-0a1b2c3d4e5f6789");
    tree_text("devices/" VDA "/serial", "a=b %% ~\xc3\xa4\x01");
    tree_expect("254:0", "virtio serial=a%3Db%20%25%20%7E%C3%A4%01");
}

static void test_rbd(void **state)
{
    (void)state;
    tree_disk("252:16", "rbd/1/block/rbd1");
    tree_expect("252:16", "");
    tree_text("devices/rbd/1/pool", "vms");
    tree_text("devices/rbd/1/pool_id", "7");
    tree_text("devices/rbd/1/pool_ns", "%s", "");
    tree_text("devices/rbd/1/name", "vm-100-disk-0");
    tree_text("devices/rbd/1/current_snap", "-");
    tree_text("devices/rbd/1/image_id", "3e86b8b4567");
    tree_link("bus/rbd/devices/1", "../../../devices/rbd/1");
    tree_expect("252:16", ""); /* of which cluster? */
    tree_text("devices/rbd/1/cluster_fsid", "8d6c1a2b-9f2e-4c66-9a67-0a6a1e0b7c55");
    tree_expect("252:16", "rbd cluster=8d6c1a2b-9f2e-4c66-9a67-0a6a1e0b7c55 pool=7 "
                          "image=3e86b8b4567 snap=-");
    /* Names may change. */
    tree_text("devices/rbd/1/name", "renamed");
    tree_text("devices/rbd/1/pool_ns", "tenant");
    tree_expect("252:16", "rbd cluster=8d6c1a2b-9f2e-4c66-9a67-0a6a1e0b7c55 pool=7 "
                          "namespace=tenant image=3e86b8b4567 snap=-");
    tree_text("devices/rbd/1/image_id", "%s", "");
    tree_expect("252:16", "rbd cluster=8d6c1a2b-9f2e-4c66-9a67-0a6a1e0b7c55 pool=7 "
                          "namespace=tenant image-name=renamed snap=-");
    tree_disk("252:32", "rbd/x/block/rbd..");
    tree_expect("252:32", "");
}

static void test_md_and_mmc(void **state)
{
    (void)state;
    tree_disk("9:127", "virtual/block/md127");
    tree_text("devices/virtual/block/md127/md/array_state", "clean");
    tree_expect("9:127", "");
    tree_text("udev/data/b9:127",
              "S:md/data\nI:123\nE:MD_UUID=8c5d4dfb:1f2e3d4c:5b6a7988:00112233");
    tree_expect("9:127", "md uuid=8c5d4dfb1f2e3d4c5b6a798800112233");
    tree_text("devices/virtual/block/md127/md/uuid", "8c5d4dfb-1f2e-3d4c-5b6a-798800112233");
    tree_expect("9:127", "md uuid=8c5d4dfb1f2e3d4c5b6a798800112233");
    tree_remove("devices/virtual/block/md127/md/uuid");
    /* The number goes into a path. */
    tree_text("devices/virtual/block/md127/dev", "../b9:127");
    tree_expect("9:127", "");

    tree_disk("179:0", "platform/mmc/block/mmcblk0");
    tree_disk("179:8", "platform/mmc/block/mmcblk0boot0");
    tree_text("devices/platform/mmc/block/mmcblk0/device/cid", "150100424a4e42345207a1b2c3d4e5f6");
    tree_text("devices/platform/mmc/block/mmcblk0boot0/device/cid",
              "150100424a4e42345207a1b2c3d4e5f6");
    tree_expect("179:0", "mmc cid=150100424a4e42345207a1b2c3d4e5f6 area=main");
    tree_expect("179:8", "mmc cid=150100424a4e42345207a1b2c3d4e5f6 area=boot0");
}

/* Nothing that is only a name or a number. */
static void test_others(void **state)
{
    static const char *const names[] = {"zram0", "ram1", "nbd0", "sr0", "xvda", "ublkb0"};
    char path[200];

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        (void)snprintf(path, sizeof path, "virtual/block/%s", names[i]);
        tree_disk("250:0", path);
        (void)snprintf(path, sizeof path, "devices/virtual/block/%s/device/wwid", names[i]);
        tree_text(path, "naa.5002538e40a1b2c3");
        tree_expect("250:0", "");
    }
}

/* Loop devices of the tree are over real files. */
static void test_loop(void **state)
{
    char path[100], other[100];
    struct drive_probe a, b;

    (void)state;
    tree_disk("7:5", LOOP);
    tree_expect("7:5", "");
    tree_bytes("image", "x", 1);
    tree_bytes("other", "x", 1);
    (void)snprintf(path, sizeof path, "%s/image", tree_root());
    (void)snprintf(other, sizeof other, "%s/other", tree_root());
    tree_text("devices/" LOOP "/loop/backing_file", "%s", path);
    tree_text("devices/" LOOP "/loop/offset", "0");
    tree_expect("7:5", "");
    tree_text("devices/" LOOP "/loop/sizelimit", "0");
    a = tree_probe("7:5");
    if (!a.identity[0]) {
        print_message("neither birth times nor a file system's id here\n");
        skip();
    }
    assert_int_equal(strncmp(a.identity, "loop offset=0 sizelimit=0 over file inode=", 42), 0);
    assert_non_null(strstr(a.evidence, " backing-size=1 backing-mtime="));

    tree_partition("259:7", LOOP, "loop5p1", 1, 2048);
    b = tree_probe("259:7");
    assert_int_equal(strncmp(b.identity, "partition number=1 start=2048 of loop offset=0 ", 47), 0);
    assert_non_null(strstr(b.evidence, " backing-size=1 backing-mtime="));

    tree_text("devices/" LOOP "/loop/backing_file", "%s", other);
    b = tree_probe("7:5");
    assert_string_not_equal(a.identity, b.identity);
    assert_int_equal(rename(path, other), 0);
    b = tree_probe("7:5");
    assert_string_equal(a.identity, b.identity);
    tree_text("devices/" LOOP "/loop/offset", "4096");
    b = tree_probe("7:5");
    assert_string_not_equal(a.identity, b.identity);
    tree_text("devices/" LOOP "/loop/offset", "x");
    tree_expect("7:5", "");
    tree_text("devices/" LOOP "/loop/offset", "0");

    static const char *const names[] = {"/nonexistent/image", "image",           "", "/",
                                        "/dev/null",          "/tmp/x (deleted)"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        tree_text("devices/" LOOP "/loop/backing_file", "%s", names[i]);
        tree_expect("7:5", "");
    }
    char with_nul[110];
    int n = snprintf(with_nul, sizeof with_nul, "%s", other);
    (void)snprintf(with_nul + n + 1, 4, "x\n");
    tree_bytes("devices/" LOOP "/loop/backing_file", with_nul, (size_t)n + 3);
    tree_expect("7:5", "");
}

static void expect_none(const char *number, const char *why)
{
    struct drive_probe probe = tree_probe(number);

    assert_string_equal(probe.evidence, "");
    if (!strstr(probe.no_evidence, why)) {
        fail_msg("'%s' has no '%s'", probe.no_evidence, why);
    }
}

static void test_evidence(void **state)
{
    struct drive_probe probe;
    struct drive_probe_options options = *tree_options();

    (void)state;
    tree_disk("8:0", SDA);
    tree_partition("8:1", SDA, "sda1", 1, 2048);
    probe = tree_probe("8:0");
    assert_string_equal(probe.evidence, "block boot=" TREE_BOOT_ID
                                        " diskseq=9 written=2892235480 discarded=2756739144");
    probe = tree_probe("8:1");
    assert_string_equal(probe.evidence,
                        "partition boot=" TREE_BOOT_ID
                        " diskseq=9 written=7000 discarded=1400 disk-written=2892235480 "
                        "disk-discarded=2756739144");
    tree_text("devices/" SDA "/stat", " 1 2 3 4 5 6 7 8 9 10 11");
    probe = tree_probe("8:0");
    assert_string_equal(probe.evidence, "block boot=" TREE_BOOT_ID " diskseq=9 written=7");

    tree_text("devices/" SDA "/queue/iostats", "0");
    expect_none("8:0", "queue/iostats is 0");
    expect_none("8:1", "queue/iostats is 0");
    tree_remove("devices/" SDA "/queue/iostats");
    expect_none("8:0", "queue/iostats");
    tree_text("devices/" SDA "/queue/iostats", "1");
    tree_text("devices/" SDA "/queue/dax", "1");
    expect_none("8:0", "queue/dax");
    expect_none("8:1", "queue/dax");
    tree_text("devices/" SDA "/queue/dax", "0");
    tree_remove("devices/" SDA "/diskseq");
    expect_none("8:0", "diskseq");
    tree_text("devices/" SDA "/diskseq", "9");

    static const char *const stats[] = {"",
                                        "1 2 3 4 5 6",
                                        "a b c d e f g h",
                                        "1 2 3 4 5 6 -7",
                                        "1 2 3 4 5 6 99999999999999999999",
                                        "1\t2 3 4 5 6 7"};
    for (size_t i = 0; i < sizeof stats / sizeof stats[0]; i++) {
        tree_text("devices/" SDA "/stat", "%s", stats[i]);
        expect_none("8:0", "no count");
        expect_none("8:1", "no count");
    }
    expect_none("8:99", "sysfs does not tell of it");

    static const char *const boots[] = {
        NULL,
        "",
        "a b",
        "boot=1",
        "\xff",
        "00000000000000000000000000000000000000000000000000000000000"
        "0000000000"};
    tree_text("devices/" SDA "/stat", " 1 2 3 4 5 6 7 8 9 10 11");
    for (size_t i = 0; i < sizeof boots / sizeof boots[0]; i++) {
        options.boot_id = boots[i];
        assert_int_equal(drive_probe_block(8, 0, 1, &options, &probe, NULL), 0);
        assert_string_equal(probe.evidence, "");
        assert_non_null(strstr(probe.no_evidence, "boot"));
    }
}

/* Two that differ in what does not fit must differ. */
static void test_long_values(void **state)
{
    char a[1001], b[1001];
    struct drive_probe first, second;

    (void)state;
    memset(a, 'u', sizeof a);
    a[1000] = '\0';
    memcpy(b, a, sizeof b);
    b[500] = 'v';
    tree_disk("253:3", DM);
    tree_text("devices/" DM "/dm/uuid", "%s", a);
    first = tree_probe("253:3");
    assert_int_equal(strlen(first.identity), IDENTITY_TEXT_BYTES_MAX);
    tree_text("devices/" DM "/dm/uuid", "%s", b);
    second = tree_probe("253:3");
    assert_int_equal(strlen(second.identity), IDENTITY_TEXT_BYTES_MAX);
    assert_string_not_equal(first.identity, second.identity);
    /* What is not read whole is not read. */
    tree_text("devices/" DM "/dm/uuid", "%s%s", a, a);
    tree_expect("253:3", "");
    tree_text("devices/" DM "/dm/uuid", "%.392s", a);
    first = tree_probe("253:3");
    assert_int_equal(strlen(first.identity), 400);
    assert_null(strchr(first.identity, '~'));
}

/* What a root that is not the kernel's may have in it. */
static void test_broken(void **state)
{
    char path[200];
    struct drive_probe probe;
    struct error error = {""};
    struct drive_probe_options options = *tree_options();

    (void)state;
    tree_expect("8:0", "");
    tree_link("dev/block/8:0", "8:0");
    tree_expect("8:0", "");
    tree_link("dev/block/8:0", "../../devices/nothing");
    tree_expect("8:0", "");
    tree_bytes("devices/file", "x", 1);
    tree_link("dev/block/8:0", "../../devices/file");
    tree_expect("8:0", "");
    tree_link("dev/block/8:0", "/");
    tree_expect("8:0", "");
    /* A partition of nothing. */
    tree_text("devices/virtual/block/sdx1/partition", "1");
    tree_link("dev/block/8:0", "../../devices/virtual/block/sdx1");
    tree_expect("8:0", "");

    tree_disk("8:0", SDA);
    tree_link(SDA_DEV "wwid", "wwid");
    tree_expect("8:0", "");
    tree_link(SDA_DEV "wwid", "/dev/zero");
    tree_expect("8:0", "");
    tree_remove(SDA_DEV "wwid");
    (void)snprintf(path, sizeof path, "%s/%swwid", tree_root(), SDA_DEV);
    assert_int_equal(mkfifo(path, 0600), 0); /* would hang */
    tree_expect("8:0", "");
    tree_remove(SDA_DEV "wwid");
    assert_int_equal(mkdir(path, 0700), 0);
    tree_expect("8:0", "");
    tree_remove(SDA_DEV "wwid");
    assert_int_equal(symlink("/dev/null", path), 0);
    tree_expect("8:0", "");
    tree_remove(SDA_DEV "wwid");
    static char huge[1 << 20];
    memset(huge, 'x', sizeof huge);
    tree_bytes(SDA_DEV "wwid", huge, sizeof huge);
    tree_bytes(SDA_DEV "vpd_pg83", huge, sizeof huge);
    tree_bytes(SDA_DEV "vpd_pg80", huge, sizeof huge);
    tree_bytes("devices/" SDA "/uevent", huge, sizeof huge);
    tree_expect("8:0", "");
    tree_bytes(SDA_DEV "wwid", "a\0b\x1b[31m\n", 9);
    tree_expect("8:0", "scsi wwid=a%00b%1B[31m");

    options.sysfs = "/nonexistent";
    options.udev = NULL;
    assert_int_equal(drive_probe_block(8, 0, 1, &options, &probe, &error), 0);
    assert_string_equal(probe.identity, "");
    options.sysfs = NULL;
    assert_int_equal(drive_probe_block(8, 0, 1, &options, &probe, &error), 0);
    assert_string_equal(probe.identity, "");
    assert_int_equal(drive_probe_block(8, 3, 0, &options, &probe, &error), -EINVAL);
    assert_non_null(strstr(error.text, "8:3"));
}

/* Any bytes in any attribute: printable and bounded, or nothing. */
static void test_random_bytes(void **state)
{
    static const char *const attributes[] = {
        SDA_DEV "wwid",
        SDA_DEV "vpd_pg83",
        SDA_DEV "vpd_pg80",
        SDA_DEV "model",
        SDA_DEV "vendor",
        "devices/" SDA "/stat",
        "devices/" SDA "/diskseq",
        "devices/" SDA "/queue/iostats",
        "devices/" SDA "/sda1/uevent",
        "devices/" SDA "/sda1/start",
        "devices/" SDA "/sda1/partition",
        "udev/data/b8:1",
        "devices/" NVME "/nguid",
        "devices/" NVME "/eui",
        "devices/" VDA "/serial",
        "devices/" DM "/dm/uuid",
        "devices/rbd/1/image_id",
        "devices/rbd/1/name",
        "devices/rbd/1/current_snap",
        "devices/rbd/1/pool_id",
        "devices/rbd/1/cluster_fsid",
    };
    static const char *const numbers[] = {"8:0", "8:1", "259:0", "254:0", "253:3", "252:16"};
    const char *seed_text = getenv("BITMAPD_TEST_SEED");
    unsigned seed = seed_text ? (unsigned)strtoul(seed_text, NULL, 10) : (unsigned)time(NULL);
    uint8_t bytes[1500];

    (void)state;
    printf("BITMAPD_TEST_SEED=%u\n", seed);
    srandom(seed);
    tree_disk("8:0", SDA);
    tree_partition("8:1", SDA, "sda1", 1, 2048);
    tree_disk("259:0", NVME);
    tree_disk("254:0", VDA);
    tree_disk("253:3", DM);
    tree_disk("252:16", "rbd/1/block/rbd1");
    tree_link("bus/rbd/devices/1", "../../../devices/rbd/1");
    for (unsigned round = 0; round < 1000; round++) {
        const char *attribute =
            attributes[(size_t)random() % (sizeof attributes / sizeof attributes[0])];
        size_t length = (size_t)random() % (random() % 8 ? 40 : sizeof bytes);
        bool digits = random() % 4 == 0;
        for (size_t i = 0; i < length; i++) {
            bytes[i] = (uint8_t)(digits ? "0123456789 \n-"[random() % 13] : random());
        }
        if (strstr(attribute, "vpd") && length >= 8) {
            /* A header that leads on. */
            memcpy(bytes, strstr(attribute, "83") ? "\0\x83\0" : "\0\x80\0", 3);
            bytes[5] &= 0x0f;
            bytes[7] = (uint8_t)(random() % 20);
        }
        tree_bytes(attribute, bytes, length);
        for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
            struct drive_probe probe = tree_probe(numbers[i]); /* checks the texts */
            char words[300];
            identity_words(probe.identity, words, sizeof words);
            check_text(words);
        }
    }
}

int main(void)
{
#define TREE_TEST(test) cmocka_unit_test_setup_teardown(test, tree_setup, tree_teardown)
    const struct CMUnitTest tests[] = {
        TREE_TEST(test_device_mapper), TREE_TEST(test_scsi),         TREE_TEST(test_scsi_page),
        TREE_TEST(test_nvme),          TREE_TEST(test_virtio),       TREE_TEST(test_rbd),
        TREE_TEST(test_md_and_mmc),    TREE_TEST(test_others),

        TREE_TEST(test_loop),          TREE_TEST(test_evidence),     TREE_TEST(test_long_values),
        TREE_TEST(test_broken),        TREE_TEST(test_random_bytes),
    };
    return cmocka_run_group_tests_name("identity: sysfs", tests, NULL, NULL);
}
