/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whose drive it is, and whether it was written to past the daemon: evidence is void from attach to
 * detach, and in between it only ever makes answers worse.
 */
#include "tests/drive/past.h"

#include "daemon/drive/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB      (UINT64_C(1) << 20)

#define EVIDENCE "file size=1048576 mtime=100.000000001"
#define WRITTEN  "file size=1048576 mtime=100.000000002"
#define FOREIGN  "block boot=1 diskseq=1 written=5"
#define IDENTITY "scsi wwid=naa.5000c500a1b2c3d4"
#define ANOTHER  "scsi wwid=naa.5000c500a1b2ffff"

static uint64_t add_drive(struct harness *harness, const char *name, const char *path,
                          const char *identity, const char *evidence)
{
    struct record record = {.type = RECORD_DRIVE_ADD,
                            .name = text_of(name),
                            .path = text_of(path),
                            .identity = text_of(identity),
                            .evidence = text_of(evidence),
                            .size = MIB,
                            .granularity = 512,
                            .durability = DURABILITY_POWER_LOSS};
    assert_int_equal(harness_commit(harness, &record), 0);
    return record.drive;
}

static int setup(void **state)
{
    struct harness *harness = malloc(sizeof *harness);
    assert_non_null(harness);
    harness_init(harness);
    harness_open(harness);
    add_drive(harness, "d", "/dev/d", IDENTITY, EVIDENCE);
    past_create(harness, "d", "c0");
    past_create(harness, "d", "c1");
    harness_add_bitmap(harness, "d/on", 512, false);
    harness_add_bitmap(harness, "d/off", 512, true);
    *state = harness;
    return 0;
}

static int teardown(void **state)
{
    harness_deinit(*state);
    free(*state);
    return 0;
}

static struct drive_sight sight_of(const char *identity, const char *evidence)
{
    return (struct drive_sight){
        .seen = evidence != NULL,
        .identity = text_of(identity),
        .evidence = text_of(evidence ? evidence : ""),
    };
}

/* Attaches "w"; NULL evidence: the path could not be looked at. */
static struct writer *attach(struct harness *harness, const char *evidence)
{
    struct drive_sight sight = sight_of(evidence ? IDENTITY : "", evidence);
    return past_attach(harness, "d",
                       &(struct writer_attachment){.token = text_of("w"), .sight = &sight});
}

static const char *evidence(struct harness *harness)
{
    return harness_drive(harness, "d")->evidence;
}

/* As it is, after a crash, and after an orderly restart. */
#define IN_EVERY_LIFE(harness, check)          \
    do {                                       \
        for (int life = 0; life < 3; life++) { \
            if (life == 1) {                   \
                past_crash(harness);           \
            } else if (life == 2) {            \
                past_restart(harness);         \
            }                                  \
            check;                             \
        }                                      \
    } while (0)

static void check_untracked(struct harness *harness, enum untracked untracked)
{
    struct model_union map;

    /* What was sealed before is not concerned. */
    assert_int_equal(past_find(harness, "d", "c0")->untracked, UNTRACKED_RULED_OUT);
    assert_int_equal(past_find(harness, "d", "c1")->untracked, untracked);
    assert_int_equal(harness_bitmap(harness, "d/on")->untracked, untracked);
    assert_int_equal(harness_bitmap(harness, "d/off")->untracked, untracked);
    assert_int_equal(past_union(harness, "d", "c0", "c1", &map), 0);
    assert_int_equal(map.untracked, UNTRACKED_RULED_OUT);
    bitmap_free(map.bits);
    assert_int_equal(past_union(harness, "d", "c0", NULL, &map), 0);
    assert_int_equal(map.untracked, untracked);
    bitmap_free(map.bits);
}

static void check_exact(struct harness *harness)
{
    assert_int_equal(past_validity(harness, "d", "c0"), VALIDITY_EXACT);
    assert_int_equal(harness_bitmap(harness, "d/on")->validity, VALIDITY_EXACT);
    assert_false(harness_bitmap(harness, "d/off")->gap);
}

static void check_unknown(struct harness *harness, const char *word)
{
    assert_int_equal(past_find(harness, "d", "c0")->validity, VALIDITY_EXACT);
    assert_int_equal(past_validity(harness, "d", "c1"), VALIDITY_UNKNOWN);
    assert_int_equal(harness_bitmap(harness, "d/on")->validity, VALIDITY_UNKNOWN);
    assert_true(harness_bitmap(harness, "d/off")->gap);
    if (!strstr(past_find(harness, "d", "c1")->reason, word)) {
        fail_msg("'%s' is not in '%s'", word, past_find(harness, "d", "c1")->reason);
    }
}

static void evidence_is_void_while_writers_are_there(void **state)
{
    struct harness *harness = *state;
    assert_string_equal(evidence(harness), EVIDENCE);
    struct writer *writer = attach(harness, EVIDENCE);
    assert_null(evidence(harness));
    check_untracked(harness, UNTRACKED_RULED_OUT);
    check_exact(harness);
    past_crash_begin(harness);
    writer_lost(harness->model, writer);
    past_crash_end(harness);
    assert_null(evidence(harness));
    past_restart(harness);
    assert_null(evidence(harness));
    past_fence(harness, "d", "w");
    assert_null(evidence(harness));

    writer = attach(harness, EVIDENCE);
    struct writer *other =
        past_attach(harness, "d", &(struct writer_attachment){.token = text_of("other")});
    past_detach(harness, writer, WRITTEN);
    assert_null(evidence(harness)); /* the other one may be writing */
    past_detach(harness, other, WRITTEN);
    IN_EVERY_LIFE(harness, assert_string_equal(evidence(harness), WRITTEN));
    past_detach(harness, attach(harness, WRITTEN), "");
    IN_EVERY_LIFE(harness, assert_null(evidence(harness)));
}

static void evidence_that_differs_is_a_verdict(void **state)
{
    struct harness *harness = *state;
    uint64_t before = model_sequence(harness->model);
    struct writer *writer = attach(harness, WRITTEN);
    assert_int_equal(model_sequence(harness->model), before + 2); /* the verdict, the attach */
    check_unknown(harness, "written while no writer was attached: its modification time");
    past_detach(harness, writer, WRITTEN);
    IN_EVERY_LIFE(harness, check_unknown(harness, "its modification time"));
    /* Once it is known, it is not told again. */
    before = model_sequence(harness->model);
    past_detach(harness, attach(harness, EVIDENCE), EVIDENCE);
    assert_int_equal(model_sequence(harness->model), before + 2);
    past_create(harness, "d", "c2");
    assert_int_equal(past_validity(harness, "d", "c2"), VALIDITY_EXACT);
}

static void evidence_that_is_equal(void **state)
{
    struct harness *harness = *state;
    past_detach(harness, attach(harness, EVIDENCE), EVIDENCE);
    past_detach(harness, attach(harness, EVIDENCE), EVIDENCE);
    IN_EVERY_LIFE(harness, check_untracked(harness, UNTRACKED_RULED_OUT));
    check_exact(harness);
}

static void evidence_that_proves_nothing(void **state)
{
    struct harness *harness = *state;
    struct writer *writer = attach(harness, FOREIGN);
    check_untracked(harness, UNTRACKED_INCOMPARABLE);
    past_detach(harness, writer, "");
    check_exact(harness);
    IN_EVERY_LIFE(harness, check_untracked(harness, UNTRACKED_INCOMPARABLE));
    /* A lesser reason does not hide a worse one, a worse one does. */
    past_detach(harness, attach(harness, EVIDENCE), "");
    check_untracked(harness, UNTRACKED_INCOMPARABLE);
    past_detach(harness, attach(harness, NULL), EVIDENCE);
    IN_EVERY_LIFE(harness, check_untracked(harness, UNTRACKED_HIDDEN));
    check_exact(harness);
    /* What begins anew begins anew in this, too. */
    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_CLEAR_ALL, "d/on"), 0);
    past_create(harness, "d", "c2");
    for (int i = 0; i < 2; i++) {
        assert_int_equal(harness_bitmap(harness, "d/on")->untracked, UNTRACKED_RULED_OUT);
        assert_int_equal(past_find(harness, "d", "c2")->untracked, UNTRACKED_RULED_OUT);
        assert_int_equal(past_find(harness, "d", "c1")->untracked, UNTRACKED_HIDDEN);
        past_crash(harness);
    }
    /* Merged or folded, the worse one stays. */
    uint64_t source = harness_bitmap(harness, "d/off")->id;
    struct record merge = {.type = RECORD_BITMAP_MERGE,
                           .drive = harness_drive(harness, "d")->id,
                           .bitmap = harness_bitmap(harness, "d/on")->id,
                           .sources = &source,
                           .sources_count = 1};
    assert_int_equal(harness_commit(harness, &merge), 0);
    past_delete(harness, "d", "c1");
    IN_EVERY_LIFE(harness, {
        assert_int_equal(harness_bitmap(harness, "d/on")->untracked, UNTRACKED_HIDDEN);
        assert_int_equal(past_find(harness, "d", "c0")->untracked, UNTRACKED_HIDDEN);
        assert_int_equal(past_find(harness, "d", "c2")->untracked, UNTRACKED_RULED_OUT);
    });
}

static void without_evidence(void **state)
{
    struct harness *harness = *state;
    past_detach(harness, attach(harness, EVIDENCE), "");
    /* Until somebody attaches nothing that has begun is concerned; what begins now is. */
    check_untracked(harness, UNTRACKED_RULED_OUT);
    assert_int_equal(drive_untracked(harness_drive(harness, "d")), UNTRACKED_NO_EVIDENCE);
    past_detach(harness, attach(harness, EVIDENCE), "");
    IN_EVERY_LIFE(harness, check_untracked(harness, UNTRACKED_NO_EVIDENCE));
    past_create(harness, "d", "c2");
    assert_int_equal(past_find(harness, "d", "c2")->untracked, UNTRACKED_NO_EVIDENCE);
    struct writer *writer = attach(harness, EVIDENCE);
    past_create(harness, "d", "c3");
    assert_int_equal(past_find(harness, "d", "c3")->untracked, UNTRACKED_RULED_OUT);
    past_detach(harness, writer, EVIDENCE);
}

static void unproven_may_be_unknown(void **state)
{
    struct harness *harness = *state;
    harness->settings.unproven_is_unknown = true;
    model_configure(harness->model, &harness->settings);
    past_detach(harness, attach(harness, EVIDENCE), EVIDENCE);
    check_exact(harness);
    past_detach(harness, attach(harness, NULL), EVIDENCE);
    IN_EVERY_LIFE(harness, check_unknown(harness, "the drive's path could not be looked at"));
    past_create(harness, "d", "c2");
    past_detach(harness, attach(harness, EVIDENCE), "");
    assert_int_equal(past_validity(harness, "d", "c2"), VALIDITY_EXACT);
    past_detach(harness, attach(harness, EVIDENCE), "");
    assert_int_equal(past_validity(harness, "d", "c2"), VALIDITY_UNKNOWN);
}

static void writers_that_were_lost(void **state)
{
    struct harness *harness = *state;
    struct drive_sight sight = sight_of(IDENTITY, EVIDENCE);
    struct writer *writer = attach(harness, EVIDENCE);

    /* A connection that breaks is no absence, … */
    writer_lost(harness->model, writer);
    struct writer_attachment back = {.token = text_of("w"), .sight = &sight, .returning = true};
    writer = past_attach(harness, "d", &back);
    check_untracked(harness, UNTRACKED_RULED_OUT);
    /* … nor is another one where one is there, … */
    struct writer_attachment second = {.token = text_of("second"), .sight = &sight};
    struct writer *other = past_attach(harness, "d", &second);
    writer_lost(harness->model, other);
    other = past_attach(harness, "d", &second);
    check_untracked(harness, UNTRACKED_RULED_OUT);
    /* … but a new process where none is. */
    writer_lost(harness->model, other);
    writer_lost(harness->model, writer);
    writer_lost(harness->model, past_attach(harness, "d", &second));
    IN_EVERY_LIFE(harness, check_untracked(harness, UNTRACKED_LOST_WRITER));
    check_exact(harness);
}

static void marks_without_a_writer_void_evidence(void **state)
{
    struct harness *harness = *state;
    harness_mark(harness, "d", 0, 512);
    assert_null(evidence(harness));
    IN_EVERY_LIFE(harness, assert_null(evidence(harness)));
    past_detach(harness, attach(harness, EVIDENCE), EVIDENCE);
    /* Also those that change no bit. */
    harness_mark(harness, "d", 0, 512);
    assert_null(evidence(harness));
    past_detach(harness, attach(harness, EVIDENCE), EVIDENCE);
    struct writer *writer;
    assert_int_equal(
        writer_new(harness->model, harness_drive(harness, "d"), &writer, &harness->error), 0);
    assert_null(evidence(harness));
    writer_lost(harness->model, writer);
    IN_EVERY_LIFE(harness, assert_null(evidence(harness)));
}

/* Asked before an answer is given, with nobody attached. */
static void evidence_is_held_against_what_is_seen(void **state)
{
    struct harness *harness = *state;
    struct drive *drive = harness_drive(harness, "d");
    struct drive_sight same = sight_of(IDENTITY, EVIDENCE), other = sight_of(IDENTITY, WRITTEN);
    uint64_t before = model_sequence(harness->model);

    assert_int_equal(drive_compare_evidence(harness->model, drive, &same, &harness->error), 0);
    assert_int_equal(model_sequence(harness->model), before);
    assert_string_equal(evidence(harness), EVIDENCE);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(drive_compare_evidence(harness->model, drive, &other, &harness->error), 0);
        assert_int_equal(model_sequence(harness->model), before + 1);
    }
    assert_int_equal(harness_wait(harness, before + 1, ACK_DURABLE), 0);
    IN_EVERY_LIFE(harness, check_unknown(harness, "its modification time"));
}

static void another_drive_is_refused(void **state)
{
    struct harness *harness = *state;
    struct drive_sight sight = sight_of(ANOTHER, EVIDENCE);
    struct writer_attachment how = {.token = text_of("w"), .sight = &sight};
    struct writer *writer;
    uint64_t sequence;
    bool resuming;
    struct past_image image;

    past_image_take(harness, &image);
    assert_int_equal(writer_attach(harness->model, harness_drive(harness, "d"), &how, &writer,
                                   &sequence, &resuming, &harness->error),
                     -EXDEV);
    assert_non_null(strstr(harness->error.text, "naa.5000c500a1b2ffff"));
    assert_non_null(strstr(harness->error.text, "naa.5000c500a1b2c3d4"));
    past_image_check(harness, &image);
    past_image_free(&image);
    /* What tells nothing contradicts nothing. */
    sight = sight_of("", EVIDENCE);
    past_detach(harness, past_attach(harness, "d", &how), EVIDENCE);
    IN_EVERY_LIFE(harness, assert_string_equal(harness_drive(harness, "d")->identity, IDENTITY));

    /* A drive that had none gets that of its first writer. */
    add_drive(harness, "e", "/dev/e", "", "");
    assert_null(harness_drive(harness, "e")->identity);
    sight = sight_of(IDENTITY, EVIDENCE);
    past_detach(harness, past_attach(harness, "e", &how), "");
    IN_EVERY_LIFE(harness, assert_string_equal(harness_drive(harness, "e")->identity, IDENTITY));
    sight = sight_of(ANOTHER, EVIDENCE);
    assert_int_equal(writer_attach(harness->model, harness_drive(harness, "e"), &how, &writer,
                                   &sequence, &resuming, &harness->error),
                     -EXDEV);
}

static void without_a_path(void **state)
{
    struct harness *harness = *state;
    harness_add_drive(harness, "p", MIB);
    past_create(harness, "p", "c0");
    harness_add_bitmap(harness, "p/b", 512, false);
    struct writer *writer =
        past_attach(harness, "p", &(struct writer_attachment){.token = text_of("w")});
    past_create(harness, "p", "c1");
    past_detach(harness, writer, "");
    IN_EVERY_LIFE(harness, {
        assert_int_equal(past_find(harness, "p", "c0")->untracked, UNTRACKED_NO_PATH);
        assert_int_equal(past_find(harness, "p", "c1")->untracked, UNTRACKED_NO_PATH);
        assert_int_equal(harness_bitmap(harness, "p/b")->untracked, UNTRACKED_NO_PATH);
    });
}

static void check_adopted(struct harness *harness)
{
    struct drive *drive = harness_drive(harness, "d");
    assert_string_equal(drive->identity, ANOTHER);
    assert_string_equal(drive->evidence, WRITTEN);
    assert_int_equal(drive->size, 3 * MIB);
    assert_int_equal(drive->checkpoints_count, 0);
    assert_null(past_find(harness, "d", "c1"));
    assert_int_equal(harness_bitmap(harness, "d/on")->validity, VALIDITY_UNKNOWN);
    assert_int_equal(harness_bitmap(harness, "d/off")->validity, VALIDITY_UNKNOWN);
    assert_int_equal(drive_bitmap_dirty_bytes(harness_bitmap(harness, "d/on")), 3 * MIB);
}

static void adopting_forgets_the_history(void **state)
{
    struct harness *harness = *state;
    struct record adopt = {.type = RECORD_DRIVE_ADOPT,
                           .drive = harness_drive(harness, "d")->id,
                           .identity = text_of(ANOTHER),
                           .evidence = text_of(WRITTEN),
                           .size = 3 * MIB};
    struct writer *writer = attach(harness, EVIDENCE);
    assert_int_equal(model_commit(harness->model, &adopt, &harness->error), -EBUSY);
    past_mark(harness, writer, 0, 4096, 512);
    past_detach(harness, writer, EVIDENCE);
    past_flush(harness);
    adopt.size = 0;
    assert_int_equal(model_commit(harness->model, &adopt, &harness->error), -EINVAL);
    adopt.size = 3 * MIB;
    assert_int_equal(harness_commit(harness, &adopt), 0);
    IN_EVERY_LIFE(harness, check_adopted(harness));
    /* And it begins anew. */
    struct drive_sight sight = sight_of(ANOTHER, WRITTEN);
    writer = past_attach(harness, "d",
                         &(struct writer_attachment){.token = text_of("w"), .sight = &sight});
    past_create(harness, "d", "c1");
    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_CLEAR_ALL, "d/on"), 0);
    past_mark(harness, writer, 0, 2 * MIB, 512);
    past_detach(harness, writer, WRITTEN);
    IN_EVERY_LIFE(harness, {
        assert_int_equal(past_dirty_bytes(harness, "d", "c1", NULL), 512);
        assert_int_equal(past_validity(harness, "d", "c1"), VALIDITY_EXACT);
        assert_int_equal(harness_bitmap(harness, "d/on")->validity, VALIDITY_EXACT);
        assert_int_equal(drive_bitmap_dirty_bytes(harness_bitmap(harness, "d/on")), 512);
    });
    /* To nothing that tells of itself, and smaller. */
    adopt = (struct record){.type = RECORD_DRIVE_ADOPT, .drive = adopt.drive, .size = 100};
    assert_int_equal(harness_commit(harness, &adopt), 0);
    IN_EVERY_LIFE(harness, {
        assert_null(harness_drive(harness, "d")->identity);
        assert_null(evidence(harness));
        assert_int_equal(drive_bitmap_dirty_bytes(harness_bitmap(harness, "d/on")), 100);
    });
}

static void texts_are_checked(void **state)
{
    struct harness *harness = *state;
    char text[MODEL_IDENTITY_BYTES_MAX + 2];
    memset(text, 'x', sizeof text);
    struct record adopt = {.type = RECORD_DRIVE_ADOPT,
                           .drive = harness_drive(harness, "d")->id,
                           .identity = {text, MODEL_IDENTITY_BYTES_MAX + 1},
                           .size = MIB};
    assert_int_equal(model_commit(harness->model, &adopt, &harness->error), -EINVAL);
    adopt.identity = (struct text){"a\0b", 3};
    assert_int_equal(model_commit(harness->model, &adopt, &harness->error), -EINVAL);
    adopt.identity = (struct text){text, MODEL_IDENTITY_BYTES_MAX};
    adopt.evidence = (struct text){text, MODEL_IDENTITY_BYTES_MAX};
    assert_int_equal(harness_commit(harness, &adopt), 0);
    IN_EVERY_LIFE(harness, {
        assert_int_equal(strlen(harness_drive(harness, "d")->identity), MODEL_IDENTITY_BYTES_MAX);
        assert_int_equal(strlen(evidence(harness)), MODEL_IDENTITY_BYTES_MAX);
    });
    struct writer *writer =
        past_attach(harness, "d", &(struct writer_attachment){.token = text_of("w")});
    uint64_t sequence;
    assert_int_equal(writer_detach(harness->model, writer, NULL, (struct text){"a\0b", 3},
                                   &sequence, &harness->error),
                     -EINVAL);
    past_detach(harness, writer, "");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(evidence_is_void_while_writers_are_there),
        TEST(evidence_that_differs_is_a_verdict),
        TEST(evidence_that_is_equal),
        TEST(evidence_that_proves_nothing),
        TEST(without_evidence),
        TEST(unproven_may_be_unknown),
        TEST(writers_that_were_lost),
        TEST(marks_without_a_writer_void_evidence),
        TEST(evidence_is_held_against_what_is_seen),
        TEST(another_drive_is_refused),
        TEST(without_a_path),
        TEST(adopting_forgets_the_history),
        TEST(texts_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
