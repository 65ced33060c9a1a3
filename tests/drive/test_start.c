/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a start finds after an orderly stop, a crash, a copy, and damage. */
#include "tests/drive/harness.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

static void orderly_stop_keeps_everything(void **state)
{
    (void)state;
    struct harness harness;
    harness_init(&harness);
    harness_open(&harness);
    harness_fill(&harness);
    harness_check_filled(&harness);
    uint64_t sequence = model_sequence(harness.model);
    assert_int_equal(harness_close(&harness), 0);

    for (int i = 0; i < 3; i++) {
        harness_open(&harness);
        harness_check_filled(&harness);
        assert_true(model_sequence(harness.model) > sequence);
        assert_int_equal(harness_bitmap(&harness, "vm1/a")->validity, VALIDITY_EXACT);
        assert_true(harness_bitmap(&harness, "vm1/a")->recording);
        assert_false(harness_bitmap(&harness, "vm1/off")->recording);
        assert_true(harness_bitmap(&harness, "vm1/off")->gap);
        assert_int_equal(harness_drive(&harness, "vm1")->size, 8 * MIB + 1);
        assert_int_equal(harness_close(&harness), 0);
    }
    harness_deinit(&harness);
}

static void copy_container(struct harness *harness)
{
    char command[1024];
    (void)snprintf(command, sizeof command, "cp %s %s.copy && mv %s.copy %s", harness->container,
                   harness->container, harness->container, harness->container);
    assert_int_equal(system(command), 0);
}

static void copied_container_is_not_believed(void **state)
{
    (void)state;
    struct harness harness;
    harness_init(&harness);
    harness_open(&harness);
    harness_fill(&harness);
    struct writer *writer;
    uint64_t sequence;
    bool resuming;
    assert_int_equal(writer_attach(harness.model, harness_drive(&harness, "vm1"),
                                   &(struct writer_attachment){.token = text_of("w")}, &writer,
                                   &sequence, &resuming, &harness.error),
                     0);
    writer_lost(harness.model, writer);
    assert_int_equal(harness_close(&harness), 0);

    copy_container(&harness);
    assert_int_equal(harness_try_open(&harness, MODEL_ACCEPT_COPY), 0);
    harness_check_filled(&harness);
    assert_int_equal(harness_close(&harness), 0);

    harness_open(&harness); /* the copy is the container now */
    harness_check_filled(&harness);
    assert_int_equal(harness_close(&harness), 0);

    copy_container(&harness);
    harness_open(&harness);
    assert_int_equal(harness_bitmap(&harness, "vm1/a")->validity, VALIDITY_UNKNOWN);
    assert_int_equal(harness_bitmap(&harness, "vm1/off")->validity, VALIDITY_UNKNOWN);
    /* The writer may have marked since the copy was made. */
    assert_int_equal(harness_bitmap_do(&harness, RECORD_BITMAP_CLEAR_ALL, "vm1/a"), 0);
    assert_int_equal(harness_bitmap(&harness, "vm1/a")->validity, VALIDITY_SUPERSET);
    assert_true(harness_is_dirty(&harness, "vm1/a", 512));
    harness_deinit(&harness);
}

static uint64_t *lost_numbers; /* shared with the child: last id, last sequence */

static void number_things(struct harness *harness)
{
    harness_add_drive(harness, "kept", MIB);
    struct record add = {.type = RECORD_DRIVE_ADD,
                         .name = text_of("lost"),
                         .size = MIB,
                         .granularity = 512,
                         .durability = DURABILITY_POWER_LOSS};
    assert_int_equal(model_commit(harness->model, &add, &harness->error), 0);
    lost_numbers[0] = add.drive;
    lost_numbers[1] = add.sequence;
}

/* A client that remembers a drive which a crash undid must not meet another one in its place. */
static void numbers_are_not_used_again_after_a_loss(void **state)
{
    (void)state;
    struct harness harness;
    harness_init(&harness);
    lost_numbers = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(lost_numbers != MAP_FAILED);
    harness_crash_after(&harness, number_things);
    harness_lose_journal(&harness);
    harness_open(&harness);
    assert_null(model_drive_by_name(harness.model, text_of("lost"), NULL));
    assert_true(harness_add_drive(&harness, "other", MIB) > lost_numbers[0]);
    assert_null(model_drive_by_id(harness.model, lost_numbers[0]));
    assert_true(model_sequence(harness.model) > lost_numbers[1]);
    assert_int_equal(munmap(lost_numbers, 4096), 0);
    harness_deinit(&harness);
}

static void distrust_makes_all_unknown(void **state)
{
    (void)state;
    struct harness harness;
    harness_init(&harness);
    harness_open(&harness);
    harness_fill(&harness);
    assert_int_equal(harness_close(&harness), 0);
    assert_int_equal(harness_try_open(&harness, MODEL_DISTRUST), 0);
    assert_int_equal(harness_bitmap(&harness, "vm1/off")->validity, VALIDITY_UNKNOWN);
    assert_int_equal(harness_bitmap(&harness, "vg0/lv1/b")->validity, VALIDITY_UNKNOWN);
    harness_deinit(&harness);
}

static void second_daemon_is_refused(void **state)
{
    (void)state;
    struct harness harness, other;
    harness_init(&harness);
    harness_open(&harness);
    other = harness;
    assert_int_equal(harness_try_open(&other, 0), -EBUSY);
    harness_deinit(&harness);
}

static void write_bytes(const char *path, uint64_t offset, const void *bytes, size_t count)
{
    int fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, count, (off_t)offset), count);
    assert_int_equal(close(fd), 0);
}

static void not_a_container_is_not_touched(void **state)
{
    (void)state;
    struct harness harness;
    harness_init(&harness);
    int fd = open(harness.container, O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    char garbage[5000];
    memset(garbage, 'x', sizeof garbage);
    assert_int_equal(write(fd, garbage, sizeof garbage), sizeof garbage);
    struct stat before, after;
    assert_int_equal(fstat(fd, &before), 0);
    assert_int_equal(harness_try_open(&harness, 0), -EBADMSG);
    assert_non_null(strstr(harness.error.text, harness.container));
    assert_int_equal(fstat(fd, &after), 0);
    assert_int_equal(close(fd), 0);
    assert_int_equal(before.st_size, after.st_size);
    assert_int_equal(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
    harness_deinit(&harness);
}

/*
 * Every cluster of a container is spoilt in turn.  Whatever it was, the start
 * either refuses and leaves the file alone, or what must be dirty is dirty;
 * and a bitmap that is not unknown is exact.
 */
static void any_spoilt_cluster_is_noticed(void **state)
{
    (void)state;
    struct harness harness;
    harness_init(&harness);
    harness_open(&harness);
    harness_fill(&harness);
    assert_int_equal(harness_close(&harness), 0);

    char saved[160], command[512];
    (void)snprintf(saved, sizeof saved, "%s.saved", harness.container);
    (void)snprintf(command, sizeof command, "cp %s %s", harness.container, saved);
    assert_int_equal(system(command), 0);
    struct stat st;
    assert_int_equal(stat(saved, &st), 0);

    unsigned refused = 0, unknown = 0, exact = 0;
    for (uint64_t offset = 0; offset < (uint64_t)st.st_size; offset += 512) {
        (void)snprintf(command, sizeof command, "cat %s > %s", saved, harness.container);
        assert_int_equal(system(command), 0);
        uint8_t byte = 0x5a;
        write_bytes(harness.container, offset + 37, &byte, 1);

        int r = harness_try_open(&harness, 0);
        if (r < 0) {
            assert_int_equal(r, -EBADMSG);
            assert_true(strlen(harness.error.text) > 0);
            print_message("refused: %s\n", harness.error.text);
            refused++;
            continue;
        }
        struct drive_bitmap *a = harness_bitmap(&harness, "vm1/a");
        assert_true(harness_is_dirty(&harness, "vm1/a", 0));
        assert_true(harness_is_dirty(&harness, "vm1/a", 4 * MIB + 512));
        assert_true(harness_is_dirty(&harness, "vm1/a", 8 * MIB));
        if (a->validity == VALIDITY_UNKNOWN) {
            assert_true(strlen(a->reason) > 0);
            unknown++;
        } else {
            harness_check_filled(&harness);
            exact++;
        }
        /* A verdict lasts, a new history ends it for good, and the drives go on. */
        enum validity validity = a->validity;
        assert_int_equal(harness_close(&harness), 0);
        harness_open(&harness);
        assert_int_equal(harness_bitmap(&harness, "vm1/a")->validity, validity);
        assert_int_equal(harness_bitmap_do(&harness, RECORD_BITMAP_CLEAR_ALL, "vm1/a"), 0);
        harness_mark(&harness, "vm1", 1024, 1);
        assert_int_equal(harness_close(&harness), 0);
        harness_open(&harness);
        assert_int_equal(harness_bitmap(&harness, "vm1/a")->validity, VALIDITY_EXACT);
        assert_int_equal(drive_bitmap_dirty_bytes(harness_bitmap(&harness, "vm1/a")), 512);
        assert_int_equal(harness_close(&harness), 0);
    }
    print_message("spoilt clusters: %u refused, %u unknown, %u harmless\n", refused, unknown,
                  exact);
    assert_true(unknown > 0);
    assert_true(exact > 0);
    harness_deinit(&harness);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(orderly_stop_keeps_everything),
        cmocka_unit_test(numbers_are_not_used_again_after_a_loss),
        cmocka_unit_test(copied_container_is_not_believed),
        cmocka_unit_test(distrust_makes_all_unknown),
        cmocka_unit_test(second_daemon_is_refused),
        cmocka_unit_test(not_a_container_is_not_touched),
        cmocka_unit_test(any_spoilt_cluster_is_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
