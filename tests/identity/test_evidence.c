/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Evidence compared, and texts put into words: what is concluded from two
 * records, and that nothing is from what is none.
 */
#include "tests/identity/sysfs_tree.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define BOOT "boot=" TREE_BOOT_ID
#define LATE "boot=11111111-3abe-47a4-941c-10d6fe4bc646"
#define PART "partition " BOOT " diskseq=5 "
#define OTHERS                                                                                 \
    "its disk was written to, and writes to other partitions of the disk cannot be told from " \
    "writes past the partition"
#define BACK " backing-size=100 backing-mtime=1795543201.000000000"

static void test_compare(void **state)
{
    static const struct {
        const char *then, *now;
        enum evidence_verdict verdict;
        const char *words;
    } rows[] = {
        {"file size=100 mtime=1795600801.123456789", "file size=100 mtime=1795600801.123456789",
         EVIDENCE_EQUAL, ""},
        {"file size=100 mtime=1795600801.123456789", "file size=100 mtime=1795600862.5",
         EVIDENCE_INCOMPARABLE, "what is known of it now is not understood"},
        {"file size=100 mtime=1795600801.123456789", "file size=100 mtime=1795600862.500000000",
         EVIDENCE_WRITTEN,
         "its modification time moved from 2026-11-25 10:00:01.123 UTC to "
         "2026-11-25 10:01:02.500 UTC"},
        {"file size=100 mtime=1795600801.123456789", "file size=100 mtime=1795600801.123456790",
         EVIDENCE_WRITTEN,
         "its modification time moved from 2026-11-25 10:00:01.123456789 UTC to "
         "2026-11-25 10:00:01.123456790 UTC"},
        /* Set back is moved as well. */
        {"file size=1 mtime=0.000000000", "file size=1 mtime=-1.000000000", EVIDENCE_WRITTEN,
         "its modification time moved from 1970-01-01 00:00:00.000 UTC to "
         "1969-12-31 23:59:59.000 UTC"},
        {"file size=1 mtime=0.000000000", "file size=1 mtime=9223372036854775807.000000000",
         EVIDENCE_WRITTEN,
         "its modification time moved from 1970-01-01 00:00:00.000 UTC to "
         "second 9223372036854775807"},
        {"file size=100 mtime=1.000000000", "file size=200 mtime=1.000000000", EVIDENCE_WRITTEN,
         "its size went from 100 to 200 bytes"},
        {"block " BOOT " diskseq=5 written=1000", "block " BOOT " diskseq=5 written=1000",
         EVIDENCE_EQUAL, ""},
        {"block " BOOT " diskseq=5 written=1000", "block " BOOT " diskseq=5 written=124456",
         EVIDENCE_WRITTEN, "123456 sectors were written"},
        {"block " BOOT " diskseq=5 written=1000 discarded=0",
         "block " BOOT " diskseq=5 written=1001 discarded=8", EVIDENCE_WRITTEN,
         "1 sector was written; 8 sectors were discarded"},
        {"block " BOOT " diskseq=5 written=1000", "block " BOOT " diskseq=5 written=0",
         EVIDENCE_WRITTEN, "the count of sectors written went back from 1000 to 0"},
        {"block " BOOT " diskseq=5 written=1000", "block " BOOT " diskseq=7 written=3",
         EVIDENCE_INCOMPARABLE,
         "it was attached anew since, and counters of writes begin anew with that"},
        {PART "written=1 disk-written=10",
         "partition " BOOT " diskseq=6 written=0 discarded=0 disk-written=0", EVIDENCE_INCOMPARABLE,
         "it was attached anew since, and counters of writes begin anew with that"},
        {"block " BOOT " diskseq=5 written=1000", "block " LATE " diskseq=7 written=3",
         EVIDENCE_INCOMPARABLE,
         "the host was booted since, and counters of writes begin anew with it"},
        {"block " BOOT " diskseq=5 written=1000", "block " LATE " diskseq=5 written=1000",
         EVIDENCE_INCOMPARABLE,
         "the host was booted since, and counters of writes begin anew with it"},
        {PART "written=1 disk-written=10", PART "written=1 disk-written=10", EVIDENCE_EQUAL, ""},
        {PART "written=1 disk-written=10", PART "written=3 disk-written=12", EVIDENCE_WRITTEN,
         "2 sectors were written"},
        {PART "written=1 disk-written=10", PART "written=1 disk-written=12", EVIDENCE_INCOMPARABLE,
         OTHERS},
        {PART "written=1 discarded=5 disk-written=10 disk-discarded=5",
         PART "written=1 discarded=5 disk-written=10 disk-discarded=6", EVIDENCE_INCOMPARABLE,
         OTHERS},
        {PART "written=1 discarded=5 disk-written=10 disk-discarded=5",
         PART "written=1 discarded=6 disk-written=11 disk-discarded=7", EVIDENCE_WRITTEN,
         "1 sector was discarded"},
        {PART "written=1 disk-written=10", PART "written=1 disk-written=9", EVIDENCE_INCOMPARABLE,
         OTHERS},
        /* Of a loop device's partition the disk's writes move the file's time, not its size. */
        {PART "written=1 disk-written=10" BACK,
         PART "written=1 disk-written=12 backing-size=100 backing-mtime=1795543203.000000000",
         EVIDENCE_INCOMPARABLE, OTHERS},
        {PART "written=1 disk-written=10" BACK,
         PART "written=1 disk-written=12 backing-size=99 backing-mtime=1795543203.000000000",
         EVIDENCE_WRITTEN, "the size of the file below it went from 100 to 99 bytes"},
        {PART "written=1 disk-written=10" BACK,
         PART "written=1 disk-written=10 backing-size=100 backing-mtime=1795543203.000000000",
         EVIDENCE_WRITTEN,
         "the modification time of the file below it moved from 2026-11-24 18:00:01.000 UTC to "
         "2026-11-24 18:00:03.000 UTC"},
        {"block " BOOT " diskseq=5 written=1 disk-written=10", PART "written=1 disk-written=12",
         EVIDENCE_INCOMPARABLE, "what was recorded of it is not understood"},
        {"block " BOOT " diskseq=5 written=1", PART "written=1 disk-written=10",
         EVIDENCE_INCOMPARABLE, "what was recorded of it is of another kind of drive"},
        {"file size=1 mtime=0.000000000", "block " BOOT " diskseq=5 written=1",
         EVIDENCE_INCOMPARABLE, "what was recorded of it is of another kind of drive"},
        {"block " BOOT " diskseq=5 written=1", "block " BOOT " diskseq=5 written=1 discarded=0",
         EVIDENCE_INCOMPARABLE, "other things of it are known now than were recorded"},
        {"block " BOOT " diskseq=5 written=1" BACK, "block " BOOT " diskseq=5 written=1",
         EVIDENCE_INCOMPARABLE, "other things of it are known now than were recorded"},
        /* The file below a loop device tells across boots and attachments. */
        {"block " BOOT " diskseq=5 written=1" BACK, "block " BOOT " diskseq=6 written=0" BACK,
         EVIDENCE_INCOMPARABLE,
         "it was attached anew since, and counters of writes begin anew with that"},
        {"block " BOOT " diskseq=5 written=1" BACK,
         "block " BOOT " diskseq=6 written=0 backing-size=100 backing-mtime=1795543203.000000000",
         EVIDENCE_WRITTEN,
         "the modification time of the file below it moved from 2026-11-24 18:00:01.000 UTC to "
         "2026-11-24 18:00:03.000 UTC"},
        {"block " BOOT " diskseq=5 written=1" BACK,
         "block " BOOT " diskseq=6 written=0 backing-size=99 backing-mtime=1795543201.000000000",
         EVIDENCE_WRITTEN, "the size of the file below it went from 100 to 99 bytes"},
        {"block " BOOT " diskseq=5 written=1" BACK,
         "block " LATE " diskseq=1 written=0 backing-size=100 backing-mtime=1795543203.000000000",
         EVIDENCE_WRITTEN,
         "the modification time of the file below it moved from 2026-11-24 18:00:01.000 UTC to "
         "2026-11-24 18:00:03.000 UTC"},
        {"block " BOOT " diskseq=5 written=1" BACK, "block " LATE " diskseq=1 written=0" BACK,
         EVIDENCE_INCOMPARABLE,
         "the host was booted since, and counters of writes begin anew with it"},
        {"", "file size=1 mtime=0.000000000", EVIDENCE_INCOMPARABLE, "nothing was recorded of it"},
        {"file size=1 mtime=0.000000000", "", EVIDENCE_INCOMPARABLE, "nothing is known of it now"},
        {"", "", EVIDENCE_INCOMPARABLE, "nothing was recorded of it"},
    };
    char words[300];

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        memset(words, 'x', sizeof words);
        enum evidence_verdict verdict =
            evidence_compare(rows[i].then, rows[i].now, words, sizeof words);
        if (verdict != rows[i].verdict || strcmp(words, rows[i].words) != 0) {
            fail_msg("row %zu: verdict %d, '%s'", i, (int)verdict, words);
        }
        /* Words that are cut change no verdict. */
        char few[8] = "1234567";
        assert_int_equal(evidence_compare(rows[i].then, rows[i].now, few, 4), verdict);
        assert_int_equal(strlen(few), strlen(rows[i].words) < 3 ? strlen(rows[i].words) : 3);
        assert_memory_equal(few + 4, "567", 4);
        assert_int_equal(evidence_compare(rows[i].then, rows[i].now, NULL, 0), verdict);
    }
}

/* Not even against itself. */
static void test_hostile(void **state)
{
    static const char *const texts[] = {
        "file",
        "file ",
        "files size=1 mtime=0.000000000",
        " file size=1 mtime=0.000000000",
        "file size=1",
        "file mtime=0.000000000",
        "file size=1 mtime=0.000000000 ",
        "file size=1  mtime=0.000000000",
        "file size=1 size=1 mtime=0.000000000",
        "file size=1 mtime=0.000000000 colour=red",
        "file size= mtime=0.000000000",
        "file size=-1 mtime=0.000000000",
        "file size=+1 mtime=0.000000000",
        "file size=0x1 mtime=0.000000000",
        "file size=18446744073709551616 mtime=0.000000000",
        "file size=1 mtime=.000000000",
        "file size=1 mtime=-.000000000",
        "file size=1 mtime=0",
        "file size=1 mtime=0.0000000000",
        "file size=1 mtime=0.00000000x",
        "file size=1 mtime=9223372036854775808.000000000",
        "file size=1 mtime=--1.000000000",
        "file =1 mtime=0.000000000",
        "file size mtime=0.000000000",
        "block diskseq=5 written=1",
        "block boot= diskseq=5 written=1",
        "block " BOOT " diskseq=5",
        "block " BOOT " written=1",
        "block " BOOT " diskseq=5 written=1 size=1",
        "partition " BOOT " diskseq=5 written=1",
        "block " BOOT " diskseq=5 written=1 discarded=%31",
        "\xff\xfe\x01",
        "file\tsize=1",
        "disk size=1 mtime=0.000000000",
        "block boot=00000000000000000000000000000000000000000000000000000000000000000 "
        "diskseq=5 written=1",
    };
    static const char good[] = "file size=1 mtime=0.000000000";
    char words[300], longer[IDENTITY_TEXT_BYTES_MAX + 100];

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        if (evidence_compare(texts[i], texts[i], words, sizeof words) != EVIDENCE_INCOMPARABLE) {
            fail_msg("taken for evidence: '%s'", texts[i]);
        }
        check_text(words);
        assert_int_equal(evidence_compare(good, texts[i], words, sizeof words),
                         EVIDENCE_INCOMPARABLE);
        assert_int_equal(evidence_compare(texts[i], good, words, sizeof words),
                         EVIDENCE_INCOMPARABLE);
    }
    (void)snprintf(longer, sizeof longer, "file size=%0400d mtime=0.000000000", 1);
    assert_int_equal(evidence_compare(longer, longer, words, sizeof words), EVIDENCE_INCOMPARABLE);
}

static void test_random(void **state)
{
    static const char *const bases[] = {
        "file size=100 mtime=1795543201.123456789",
        "block " BOOT " diskseq=5 written=1000 discarded=8" BACK,
        PART "written=1 discarded=2 disk-written=10 disk-discarded=3",
        "file inode=12 born=1795543201.123456789 on partition number=2 start=8 of scsi wwid=naa.5",
        "loop offset=0 sizelimit=5 over file inode=12 born=none on fs type=ef53 fsid=1",
    };
    static const char likely[] = "0123456789.-= %~abfile\n\x80\xff";
    const char *seed_text = getenv("BITMAPD_TEST_SEED");
    unsigned seed = seed_text ? (unsigned)strtoul(seed_text, NULL, 10) : (unsigned)time(NULL);

    (void)state;
    printf("BITMAPD_TEST_SEED=%u\n", seed);
    srandom(seed);
    for (unsigned round = 0; round < 100000; round++) {
        char text[500], words[200];
        size_t base = (size_t)random() % (sizeof bases / sizeof bases[0]);
        size_t length = strlen(bases[base]);
        memcpy(text, bases[base], length + 1);
        for (long n = random() % 6; n > 0 && length > 0; n--) {
            char c = random() % 3 ? likely[(size_t)random() % (sizeof likely - 1)]
                                  : (char)(1 + random() % 255);
            text[(size_t)random() % length] = c;
        }
        if (random() % 4 == 0) {
            text[(size_t)random() % length] = '\0';
        }
        size_t room = (size_t)random() % sizeof words;
        memset(words, '\x7f', sizeof words);
        enum evidence_verdict verdict = evidence_compare(bases[base], text, words, room);
        assert_true(room == 0 || strlen(words) < room);
        assert_int_equal(words[room], '\x7f');
        /* Only what is the same evidence is equal; only leading zeros are two spellings. */
        assert_true(verdict != EVIDENCE_EQUAL || strcmp(text, bases[base]) == 0);
        memset(words, '\x7f', sizeof words);
        identity_words(text, words, room);
        assert_true(room == 0 || strlen(words) < room);
        assert_int_equal(words[room], '\x7f');
        if (room > 0) {
            check_text(words);
        }
    }
}

static void test_words(void **state)
{
    static const struct {
        const char *identity, *words;
    } rows[] = {
        {"", "unknown"},
        {"dm uuid=LVM-abc", "device-mapper LVM-abc"},
        {"scsi wwid=naa.5000c500a1b2c3d4", "SCSI disk naa.5000c500a1b2c3d4"},
        {"scsi vendor=ATA model=Disk%20860%20EVO serial=S3Z8",
         "SCSI disk ATA Disk 860 EVO serial S3Z8"},
        {"nvme wwid=eui.0025", "NVMe namespace eui.0025"},
        {"nvme model=X serial=S nsid=1", "NVMe namespace X serial S namespace 1"},
        {"virtio serial=vol-1", "virtio disk serial vol-1"},
        {"virtio serial=a%0A%C3%A4%25%", "virtio disk serial a%0A%C3%A4%%"},
        {"partition uuid=8f1c", "partition 8f1c"},
        {"partition number=2 start=2048 of scsi wwid=naa.5",
         "partition 2 at sector 2048 of SCSI disk naa.5"},
        {"file inode=1234 born=1795600801.123456789 on dm uuid=LVM-abc",
         "file, inode 1234, made 2026-11-25 10:00:01.123 UTC, on device-mapper LVM-abc"},
        {"file inode=1234 born=none on fs type=ef53 fsid=00aa",
         "file, inode 1234, without a birth time, on file system of type ef53 00aa"},
        {"loop offset=0 sizelimit=0 over file inode=1 born=none on virtio serial=x",
         "loop device over file, inode 1, without a birth time, on virtio disk serial x"},
        {"loop offset=4096 sizelimit=512 over dm uuid=x",
         "loop device from byte 4096 of at most bytes 512 over device-mapper x"},
        {"rbd cluster=8d6c pool=7 image=3e86 snap=-",
         "RBD image of cluster 8d6c in pool 7 id 3e86"},
        {"rbd cluster=8d6c pool=7 namespace=t image-name=i snap=s1",
         "RBD image of cluster 8d6c in pool 7 namespace t i at snapshot s1"},
        {"md uuid=8c5d", "RAID array 8c5d"},
        {"mmc cid=15 area=main", "MMC card 15"},
        {"mmc cid=15 area=boot0", "MMC card 15 area boot0"},
        {"tape serial=5", "tape 5"},
        {"x\x1b[31m\xc3", "x?[31m?"},
    };
    char words[300];

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        identity_words(rows[i].identity, words, sizeof words);
        assert_string_equal(words, rows[i].words);
        check_text(words);
    }
    identity_words(rows[1].identity, words, 5);
    assert_string_equal(words, "devi");
    identity_words(rows[1].identity, NULL, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_compare),
        cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_words),
    };
    return cmocka_run_group_tests_name("identity: evidence", tests, NULL, NULL);
}
