/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The rules of checkpoints, one at a time. */
#include "tests/drive/past.h"

#include "daemon/drive/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KIB UINT64_C(1024)
#define MIB (UINT64_C(1) << 20)

static int setup(void **state)
{
    struct harness *harness = malloc(sizeof *harness);
    assert_non_null(harness);
    harness_init(harness);
    harness_open(harness);
    harness_add_drive(harness, "d", MIB);
    *state = harness;
    return 0;
}

static int teardown(void **state)
{
    harness_deinit(*state);
    free(*state);
    return 0;
}

static void a_checkpoint_seals_the_one_before(void **state)
{
    struct harness *harness = *state;
    struct drive *drive = harness_drive(harness, "d");

    harness_mark(harness, "d", 0, 512); /* before any: nobody asked */
    assert_int_equal(drive->recording_count, 0);
    past_create(harness, "d", "one");
    assert_int_equal(drive->recording_count, 1);
    harness_mark(harness, "d", 4096, 512);
    struct drive_bitmap *one = past_find(harness, "d", "one");
    assert_int_equal(one->validity, VALIDITY_EXACT);
    assert_int_equal(drive_bitmap_dirty_bytes(one), 512);

    past_create(harness, "d", "two");
    struct drive_bitmap *two = past_find(harness, "d", "two");
    assert_false(one->recording);
    assert_true(two->recording);
    assert_int_equal(drive_bitmap_dirty_bytes(two), 0);
    harness_mark(harness, "d", 8192, 512);
    assert_int_equal(drive_bitmap_dirty_bytes(one), 512);
    assert_int_equal(drive_bitmap_dirty_bytes(two), 512);
    /* A sealed one skips nothing. */
    assert_false(one->gap);
    assert_int_equal(drive->ungapped, 0);
    assert_true(one->checkpoint->sequence < two->checkpoint->sequence);
}

static void maps_are_unions(void **state)
{
    struct harness *harness = *state;
    static const char *const names[] = {"c0", "c1", "c2", "c3"};
    struct model_union map;

    for (size_t i = 0; i < 4; i++) {
        past_create(harness, "d", names[i]);
        harness_mark(harness, "d", i * 4096, 512);
        harness_mark(harness, "d", 64 * KIB, 512); /* in all of them */
    }
    for (size_t since = 0; since < 4; since++) {
        for (size_t until = since + 1; until <= 4; until++) {
            const char *end = until < 4 ? names[until] : NULL;
            assert_int_equal(past_union(harness, "d", names[since], end, &map), 0);
            assert_int_equal(map.validity, VALIDITY_EXACT);
            assert_int_equal(map.recording, until == 4);
            assert_int_equal(map.sequence, model_sequence(harness->model));
            for (size_t i = 0; i < 4; i++) {
                assert_int_equal(bitmap_test_all(map.bits, i * 4096, 512), i >= since && i < until);
            }
            assert_int_equal(bitmap_dirty_bytes(map.bits), (until - since + 1) * 512);
            bitmap_free(map.bits);
        }
        for (size_t until = 0; until <= since; until++) {
            assert_int_equal(past_union(harness, "d", names[since], names[until], &map), -EINVAL);
        }
    }
    /* Whoever asks changes nothing for others. */
    assert_int_equal(past_dirty_bytes(harness, "d", "c0", NULL), 5 * 512);
    harness_add_drive(harness, "e", MIB);
    past_create(harness, "e", "other");
    struct model_union of_another = {.work = NULL};
    assert_int_equal(model_union(harness->model, past_find(harness, "d", "c0"),
                                 past_find(harness, "e", "other"), &of_another, &harness->error),
                     -EINVAL);
}

/* What is asked for is what was then, whatever comes before the answer. */
static void never_done(struct model_union *request, int r, const struct error *error)
{
    (void)request;
    (void)r;
    (void)error;
    fail();
}

struct late {
    struct model_union request; /* first */
    bool done;
};

static void late_done(struct model_union *request, int r, const struct error *error)
{
    (void)error;
    assert_int_equal(r, 0);
    ((struct late *)request)->done = true;
}

static void a_map_is_of_its_moment(void **state)
{
    struct harness *harness = *state;
    past_create(harness, "d", "one");
    harness_mark(harness, "d", 0, 512);
    past_create(harness, "d", "two");
    past_flush(harness);

    for (int cold = 0; cold < 2; cold++) {
        if (cold) {
            past_restart(harness); /* sealed bits are in the container only */
        }
        struct late late = {.request = {.done = late_done}};
        struct model_union cancelled = {.done = never_done};
        assert_int_equal(model_union(harness->model, past_find(harness, "d", "one"), NULL,
                                     &late.request, &harness->error),
                         0);
        assert_int_equal(model_union(harness->model, past_find(harness, "d", "one"), NULL,
                                     &cancelled, &harness->error),
                         0);
        uint64_t before = late.request.sequence;
        struct range range = {4096 << cold, 512};
        uint64_t sequence;
        assert_int_equal(drive_mark(harness->model, harness_drive(harness, "d"), &range, 1,
                                    &sequence, &harness->error),
                         0);
        model_union_cancel(&cancelled);
        assert_null(cancelled.work);
        while (!late.done) {
            (void)uv_run(&harness->loop, UV_RUN_ONCE);
        }
        assert_true(sequence > before);
        assert_true(bitmap_test_all(late.request.bits, 0, 512));
        assert_false(bitmap_test_all(late.request.bits, range.offset, 512));
        bitmap_free(late.request.bits);
        assert_true(past_is_dirty(harness, "d", "one", range.offset));
    }
    /* One that nobody waits for outlives the model's end. */
    struct model_union cancelled = {.done = never_done};
    assert_int_equal(model_union(harness->model, past_find(harness, "d", "one"), NULL, &cancelled,
                                 &harness->error),
                     0);
    model_union_cancel(&cancelled);
    past_restart(harness);
}

static void deletes_fold_into_the_elder(void **state)
{
    struct harness *harness = *state;
    static const char *const names[] = {"c0", "c1", "c2", "c3"};

    for (size_t i = 0; i < 4; i++) {
        past_create(harness, "d", names[i]);
        harness_mark(harness, "d", i * 4096, 512);
    }
    past_delete(harness, "d", "c2");
    assert_int_equal(past_dirty_bytes(harness, "d", "c1", NULL), 3 * 512);
    assert_int_equal(past_dirty_bytes(harness, "d", "c1", "c3"), 2 * 512);
    assert_int_equal(past_dirty_bytes(harness, "d", "c3", NULL), 512);
    /* The newest gone, the elder one records again. */
    past_delete(harness, "d", "c3");
    assert_true(past_find(harness, "d", "c1")->recording);
    harness_mark(harness, "d", 64 * KIB, 512);
    assert_int_equal(past_dirty_bytes(harness, "d", "c1", NULL), 4 * 512);
    past_delete(harness, "d", "c0");
    assert_int_equal(past_dirty_bytes(harness, "d", "c1", NULL), 4 * 512);
    past_restart(harness);
    assert_int_equal(past_dirty_bytes(harness, "d", "c1", NULL), 4 * 512);
    past_delete(harness, "d", "c1");
    assert_int_equal(harness_drive(harness, "d")->recording_count, 0);
    assert_int_equal(harness_drive(harness, "d")->checkpoints_count, 0);
    harness_mark(harness, "d", 0, MIB);
    past_create(harness, "d", "c0");
    assert_int_equal(past_dirty_bytes(harness, "d", "c0", NULL), 0);
}

static void the_eldest_goes_without_being_read(void **state)
{
    struct harness *harness = *state;
    harness->settings.cache_max = 0;
    model_configure(harness->model, &harness->settings);
    past_create(harness, "d", "one");
    harness_mark(harness, "d", 0, 512);
    past_create(harness, "d", "two");
    past_create(harness, "d", "three");
    past_flush(harness);
    assert_null(past_find(harness, "d", "one")->bits);

    struct drive_bitmap *two = past_find(harness, "d", "two");
    struct record of_two = {
        .type = RECORD_CHECKPOINT_DELETE, .drive = two->drive->id, .bitmap = two->id};
    assert_int_equal(model_commit(harness->model, &of_two, &harness->error), -EAGAIN);
    struct record of_one = {.type = RECORD_CHECKPOINT_DELETE,
                            .drive = two->drive->id,
                            .bitmap = past_find(harness, "d", "one")->id};
    assert_int_equal(harness_commit(harness, &of_one), 0);
    assert_int_equal(harness_commit(harness, &of_two), 0); /* is the eldest now */
    assert_int_equal(past_dirty_bytes(harness, "d", "three", NULL), 0);
}

static void uuid_text(const struct drive_bitmap *bitmap, char text[37])
{
    const uint8_t *u = bitmap->checkpoint->uuid;
    (void)snprintf(text, 37, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
                   u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12],
                   u[13], u[14], u[15]);
}

static void a_name_made_anew_is_another(void **state)
{
    struct harness *harness = *state;
    char uuid[37], full[64];
    past_create(harness, "d", "base");
    uuid_text(past_find(harness, "d", "base"), uuid);
    (void)snprintf(full, sizeof full, "base@%s", uuid);
    assert_non_null(past_find(harness, "d", full));
    assert_ptr_equal(past_find(harness, "d", full), past_find(harness, "d", "base"));
    past_restart(harness);
    assert_non_null(past_find(harness, "d", full));

    assert_int_equal(past_try_create(harness, "d", "base"), -EEXIST);
    past_delete(harness, "d", "base");
    past_create(harness, "d", "base");
    assert_null(past_find(harness, "d", full));
    assert_non_null(strstr(harness->error.text, "another one"));
    assert_non_null(past_find(harness, "d", "base"));

    static const char *const wrong[] = {"base@",
                                        "base@x",
                                        "@",
                                        "",
                                        "bas",
                                        "base ",
                                        "base@c4000000-0000-0000-0000-00000000000",
                                        "base@00",
                                        "base@c40000000000000000000000000000000000"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_null(past_find(harness, "d", wrong[i]));
        assert_true(harness->error.text[0] != '\0');
    }
    static const char *const bad[] = {"", "a/b", "a@b", "-a", "a b"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(past_try_create(harness, "d", bad[i]), -EINVAL);
    }
}

static void verbs_keep_to_their_kind(void **state)
{
    struct harness *harness = *state;
    past_create(harness, "d", "x");
    harness_add_bitmap(harness, "d/x", 512, false); /* the same name, and no relation */
    harness_add_bitmap(harness, "d/y", 512, false);
    harness_mark(harness, "d", 0, 512);
    struct drive_bitmap *checkpoint = past_find(harness, "d", "x");
    struct drive_bitmap *bitmap = harness_bitmap(harness, "d/x");
    assert_ptr_not_equal(checkpoint, bitmap);

    static const enum record_type types[] = {
        RECORD_BITMAP_DELETE, RECORD_BITMAP_ENABLE, RECORD_BITMAP_DISABLE, RECORD_BITMAP_RENAME,
        RECORD_BITMAP_SET,    RECORD_BITMAP_CLEAR,  RECORD_BITMAP_MERGE,   RECORD_BITMAP_CLEAR_ALL,
    };
    struct range range = {0, 512};
    uint64_t source = checkpoint->id;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        struct record record = {.type = types[i],
                                .drive = bitmap->drive->id,
                                .bitmap = checkpoint->id,
                                .name = text_of("z"),
                                .ranges = &range,
                                .ranges_count = 1,
                                .sources = &bitmap->id,
                                .sources_count = 1};
        assert_int_equal(model_commit(harness->model, &record, &harness->error), -EINVAL);
    }
    struct record merge = {.type = RECORD_BITMAP_MERGE,
                           .drive = bitmap->drive->id,
                           .bitmap = bitmap->id,
                           .sources = &source,
                           .sources_count = 1};
    assert_int_equal(model_commit(harness->model, &merge, &harness->error), -EINVAL);
    struct record delete = {
        .type = RECORD_CHECKPOINT_DELETE, .drive = bitmap->drive->id, .bitmap = bitmap->id};
    assert_int_equal(model_commit(harness->model, &delete, &harness->error), -EINVAL);
    delete.bitmap = 12345;
    assert_int_equal(model_commit(harness->model, &delete, &harness->error), -ENOENT);

    assert_int_equal(harness_bitmap_do(harness, RECORD_BITMAP_CLEAR_ALL, "d/x"), 0);
    past_create(harness, "d", "next");
    assert_int_equal(past_dirty_bytes(harness, "d", "x", NULL), 512);
    assert_int_equal(drive_bitmap_dirty_bytes(harness_bitmap(harness, "d/y")), 512);
}

static void what_a_checkpoint_is_outlives_all(void **state)
{
    struct harness *harness = *state;
    uint64_t sequences[3];
    uint8_t uuids[3][16];
    uint64_t times[3];
    static const char *const names[] = {"a", "b", "c"};

    for (size_t i = 0; i < 3; i++) {
        sequences[i] = past_create(harness, "d", names[i]);
        const struct checkpoint *checkpoint = past_find(harness, "d", names[i])->checkpoint;
        assert_int_equal(checkpoint->sequence, sequences[i]);
        memcpy(uuids[i], checkpoint->uuid, sizeof uuids[i]);
        times[i] = checkpoint->created_ns;
        harness_mark(harness, "d", i * 4096, 512);
        if (i == 1) {
            past_flush(harness); /* the last one is in the journal only */
        }
    }
    for (int i = 0; i < 3; i++) {
        if (i == 0) {
            past_crash(harness);
        } else {
            past_restart(harness);
        }
        const struct drive_bitmap *bitmap = TAILQ_FIRST(&harness_drive(harness, "d")->history);
        for (size_t k = 0; k < 3; k++) {
            assert_string_equal(bitmap->name, names[k]);
            assert_int_equal(bitmap->checkpoint->sequence, sequences[k]);
            assert_int_equal(bitmap->checkpoint->created_ns, times[k]);
            assert_memory_equal(bitmap->checkpoint->uuid, uuids[k], sizeof uuids[k]);
            assert_int_equal(bitmap->validity, VALIDITY_EXACT);
            assert_int_equal(bitmap->recording, k == 2);
            assert_int_equal(drive_bitmap_dirty_bytes(bitmap), 512);
            assert_int_equal(drive_bitmap_dirty_count(bitmap), 1);
            bitmap = TAILQ_NEXT(bitmap, in_history);
        }
        assert_null(bitmap);
        assert_int_equal(past_dirty_bytes(harness, "d", "a", NULL), 3 * 512);
    }
}

static void limits(void **state)
{
    struct harness *harness = *state;
    char name[16];

    harness->settings.bitmaps_max = 3;
    model_configure(harness->model, &harness->settings);
    for (unsigned i = 0; i < 3; i++) {
        (void)snprintf(name, sizeof name, "c%u", i);
        past_create(harness, "d", name);
    }
    assert_int_equal(past_try_create(harness, "d", "more"), -EDQUOT);
    harness->settings.bitmaps_max = 1000;
    harness->settings.memory_max = 300; /* one needs 256, … */
    harness->settings.cache_max = 100000;
    model_configure(harness->model, &harness->settings);
    assert_int_equal(past_try_create(harness, "d", "more"), -EDQUOT);
    harness->settings.memory_max = 512; /* … the new one and the sealed one for a moment */
    model_configure(harness->model, &harness->settings);
    past_create(harness, "d", "c3");
    /* Sealed bits that wait for the container count as well. */
    harness->settings.memory_max = 600;
    harness->settings.cache_max = 0;
    model_configure(harness->model, &harness->settings);
    assert_int_equal(past_try_create(harness, "d", "more"), -EDQUOT);
    past_flush(harness);
    past_create(harness, "d", "c4");
    harness->settings.memory_max = 0;
    model_configure(harness->model, &harness->settings);
    for (unsigned i = 5; i < MODEL_CHECKPOINTS_MAX; i++) {
        (void)snprintf(name, sizeof name, "c%u", i);
        past_create(harness, "d", name);
    }
    uint64_t before = model_sequence(harness->model);
    assert_int_equal(past_try_create(harness, "d", "more"), -EDQUOT);
    assert_int_equal(model_sequence(harness->model), before);
    harness_mark(harness, "d", 0, 1);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(past_dirty_bytes(harness, "d", "c0", NULL), 512);
        assert_int_equal(past_try_create(harness, "d", "more"), -EDQUOT);
        past_restart(harness);
    }
    past_delete(harness, "d", "c100");
    past_create(harness, "d", "more");
    struct record create = {.type = RECORD_CHECKPOINT_CREATE, .drive = 999, .name = text_of("x")};
    assert_int_equal(model_commit(harness->model, &create, &harness->error), -ENOENT);
}

static void granularity_is_the_drives_of_the_moment(void **state)
{
    struct harness *harness = *state;
    static const uint32_t granularities[] = {65536, 512, 4096};
    struct model_union map;
    char name[8];

    for (unsigned i = 0; i < 3; i++) {
        struct record set = {.type = RECORD_DRIVE_SET,
                             .drive = harness_drive(harness, "d")->id,
                             .granularity = granularities[i]};
        assert_int_equal(harness_commit(harness, &set), 0);
        (void)snprintf(name, sizeof name, "c%u", i);
        past_create(harness, "d", name);
        harness_mark(harness, "d", i * 64 * KIB, 1);
    }
    assert_int_equal(past_union(harness, "d", "c0", NULL, &map), 0);
    assert_int_equal(map.granularity, 512);
    assert_int_equal(bitmap_dirty_bytes(map.bits), 65536 + 512 + 4096);
    bitmap_free(map.bits);
    /* A finer one folded into a coarser one is rounded up, a coarser one into a finer one is not.
     */
    past_delete(harness, "d", "c2");
    assert_int_equal(past_dirty_bytes(harness, "d", "c0", NULL), 65536 + 512 + 4096);
    past_delete(harness, "d", "c1");
    assert_int_equal(past_dirty_bytes(harness, "d", "c0", NULL), 3 * 65536);
    assert_int_equal(past_validity(harness, "d", "c0"), VALIDITY_EXACT);
    /* A record may name one of its own. */
    struct record create = {.type = RECORD_CHECKPOINT_CREATE,
                            .drive = harness_drive(harness, "d")->id,
                            .name = text_of("own"),
                            .granularity = 1000};
    assert_int_equal(model_commit(harness->model, &create, &harness->error), -EINVAL);
    create.granularity = 8192;
    assert_int_equal(harness_commit(harness, &create), 0);
    assert_int_equal(past_find(harness, "d", "own")->granularity, 8192);
}

static void checkpoints_carry_what_is_unsettled(void **state)
{
    struct harness *harness = *state;
    past_create(harness, "d", "one");
    struct writer *writer =
        past_attach(harness, "d", &(struct writer_attachment){.token = text_of("w")});
    past_mark(harness, writer, 1, 0, 512);
    past_mark(harness, writer, 2, 4096, 512);
    assert_int_equal(writer_settle(writer, 1, 1, &harness->error), 0);

    past_create(harness, "d", "two");
    assert_int_equal(past_validity(harness, "d", "two"), VALIDITY_EXACT);
    assert_int_equal(past_dirty_bytes(harness, "d", "two", NULL), 512);
    assert_true(past_is_dirty(harness, "d", "two", 4096));
    past_crash_begin(harness);
    writer_lost(harness->model, writer);
    past_crash_end(harness);
    assert_int_equal(past_dirty_bytes(harness, "d", "two", NULL), 512);
    assert_true(past_is_dirty(harness, "d", "two", 4096));
}

static void drives_know_their_checkpoints(void **state)
{
    struct harness *harness = *state;
    past_create(harness, "d", "one");
    harness_mark(harness, "d", 0, 512);
    past_create(harness, "d", "two");
    struct record remove = {.type = RECORD_DRIVE_REMOVE, .drive = harness_drive(harness, "d")->id};
    assert_int_equal(model_commit(harness->model, &remove, &harness->error), -EBUSY);

    struct record rename = {
        .type = RECORD_DRIVE_RENAME, .drive = remove.drive, .name = text_of("new")};
    assert_int_equal(harness_commit(harness, &rename), 0);
    assert_int_equal(past_dirty_bytes(harness, "new", "one", NULL), 512);
    past_crash(harness);
    assert_int_equal(past_dirty_bytes(harness, "new", "one", NULL), 512);
    past_restart(harness);
    assert_int_equal(past_dirty_bytes(harness, "new", "one", NULL), 512);
    /* The old name is free, also in the container. */
    harness_add_drive(harness, "d", MIB);
    past_create(harness, "d", "one");
    past_restart(harness);
    assert_int_equal(past_dirty_bytes(harness, "d", "one", NULL), 0);

    remove.force = true;
    assert_int_equal(harness_commit(harness, &remove), 0);
    past_crash(harness);
    assert_null(model_drive_by_name(harness->model, text_of("new"), NULL));
    past_restart(harness);
    struct model_status status;
    model_get_status(harness->model, &status);
    assert_int_equal(status.bitmaps, 1);
    assert_int_equal(status.unknown_bitmaps, 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_checkpoint_seals_the_one_before),
        TEST(maps_are_unions),
        TEST(a_map_is_of_its_moment),
        TEST(deletes_fold_into_the_elder),
        TEST(the_eldest_goes_without_being_read),
        TEST(a_name_made_anew_is_another),
        TEST(verbs_keep_to_their_kind),
        TEST(what_a_checkpoint_is_outlives_all),
        TEST(limits),
        TEST(granularity_is_the_drives_of_the_moment),
        TEST(checkpoints_carry_what_is_unsettled),
        TEST(drives_know_their_checkpoints),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
