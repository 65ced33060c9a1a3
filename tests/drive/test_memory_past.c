/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory runs out, at every allocation in turn, while checkpoints are made and deleted, in
 * transactions and alone, while sealed bits are fetched, and while maps are made.  What fails has
 * changed nothing and works when it is tried again.
 */
#include "tests/drive/alloc_fault.h"
#include "tests/drive/past.h"

#include "daemon/drive/internal.h"

#include <stdio.h>
#include <string.h>

#define MIB (UINT64_C(1) << 20)

static struct harness harness;
static struct writer *writer;

static int commit(struct record record)
{
    return model_commit(harness.model, &record, &harness.error);
}

static int fetching(struct record record)
{
    return past_commit_only(&harness, &record);
}

static struct record create_of(const char *drive, const char *name)
{
    return (struct record){.type = RECORD_CHECKPOINT_CREATE,
                           .drive = harness_drive(&harness, drive)->id,
                           .name = text_of(name)};
}

static struct record delete_of(const char *drive, const char *name)
{
    const struct drive_bitmap *bitmap = past_find(&harness, drive, name);
    assert_non_null(bitmap);
    return (struct record){
        .type = RECORD_CHECKPOINT_DELETE, .drive = bitmap->drive->id, .bitmap = bitmap->id};
}

static int mark(uint64_t id, uint64_t offset, uint64_t length)
{
    struct range range = {offset, length};
    uint64_t sequence;
    return writer_mark(harness.model, writer, id, &range, 1, &sequence, &harness.error);
}

static int attach(void)
{
    struct drive_sight sight = {
        .seen = true,
        .identity = text_of("scsi wwid=x"),
        .evidence = text_of("file size=1 mtime=2.000000000"),
    };
    struct writer_attachment how = {.token = text_of("w"), .sight = &sight, .continues = true};
    uint64_t sequence;
    bool resuming;
    return writer_attach(harness.model, harness_drive(&harness, "d"), &how, &writer, &sequence,
                         &resuming, &harness.error);
}

static int create_first(void)
{
    return commit(create_of("d", "c0"));
}

static int mark_some(void)
{
    return mark(1, 0, 5000);
}

static int create_second(void)
{
    return commit(create_of("d", "c1"));
}

static int mark_more(void)
{
    return mark(2, 100000, 300000);
}

static int create_in_transaction(void)
{
    uint64_t sequence;
    int r = model_transaction_begin(harness.model, &harness.error);
    if (r < 0) {
        return r;
    }
    r = commit(create_of("d", "c2"));
    if (r == 0) {
        r = commit(create_of("e", "e0"));
    }
    const struct drive_bitmap *b = harness_bitmap(&harness, "d/b");
    if (r == 0) {
        r = commit((struct record){
            .type = RECORD_BITMAP_CLEAR_ALL, .drive = b->drive->id, .bitmap = b->id});
    }
    if (r == 0) {
        r = commit((struct record){.type = RECORD_BITMAP_RENAME,
                                   .drive = b->drive->id,
                                   .bitmap = b->id,
                                   .name = text_of("a")});
    }
    if (r == 0) {
        r = commit((struct record){.type = RECORD_BITMAP_RENAME,
                                   .drive = b->drive->id,
                                   .bitmap = b->id,
                                   .name = text_of("b")});
    }
    if (r == 0) {
        r = commit((struct record){.type = RECORD_BITMAP_CREATE,
                                   .drive = b->drive->id,
                                   .name = text_of("t"),
                                   .granularity = 4096});
    }
    if (r == 0) {
        b = harness_bitmap(&harness, "d/t");
        r = commit(
            (struct record){.type = RECORD_BITMAP_DELETE, .drive = b->drive->id, .bitmap = b->id});
    }
    if (r < 0) {
        model_transaction_abort(harness.model);
        return r;
    }
    return model_transaction_commit(harness.model, &(struct request_id){{1}}, "peer", &sequence,
                                    &harness.error);
}

static int mark_again(void)
{
    return mark(3, 5000, 100);
}

static int create_third(void)
{
    return commit(create_of("d", "c3"));
}

static int flush(void)
{
    return harness_wait(&harness, model_sequence(harness.model), ACK_CONTAINER);
}

static int map(void)
{
    struct model_union map;
    int r = past_union(&harness, "d", "c0", NULL, &map);
    if (r == 0) {
        bitmap_free(map.bits);
    }
    return r;
}

static int delete_cold(void)
{
    return fetching(delete_of("d", "c1"));
}

static int delete_eldest(void)
{
    return commit(delete_of("d", "c0"));
}

static int delete_newest(void)
{
    return fetching(delete_of("d", "c3"));
}

static int grow(void)
{
    struct record record = {.type = RECORD_DRIVE_RESIZE,
                            .drive = harness_drive(&harness, "d")->id,
                            .size = 2 * MIB + 100};
    return fetching(record);
}

static int compare(void)
{
    struct drive_sight sight = {.seen = false};
    return drive_compare_evidence(harness.model, harness_drive(&harness, "e"), &sight,
                                  &harness.error);
}

static int adopt(void)
{
    return commit((struct record){.type = RECORD_DRIVE_ADOPT,
                                  .drive = harness_drive(&harness, "e")->id,
                                  .identity = text_of("scsi wwid=y"),
                                  .evidence = text_of("file size=1 mtime=2.000000001"),
                                  .size = MIB});
}

static int settle_and_detach(void)
{
    uint64_t sequence;
    (void)writer_settle(writer, 1, 3, &harness.error);
    return writer_detach(harness.model, writer, NULL, text_of("file size=1 mtime=3.000000000"),
                         &sequence, &harness.error);
}

static const struct step {
    int (*run)(void);
    bool steps; /* it has several, and when it fails, the first ones have been made */
} script[] = {
    {attach, false},
    {create_first, false},
    {mark_some, false},
    {create_second, false},
    {mark_more, false},
    {flush, true},
    {map, false},
    {create_in_transaction, false},
    {mark_again, false},
    {create_third, false},
    {flush, true},
    {map, false},
    {delete_cold, true},
    {map, false},
    {flush, true},
    {grow, true},
    {flush, true},
    {delete_eldest, false},
    {map, false},
    {delete_newest, true},
    {compare, false},
    {adopt, false},
    {settle_and_detach, true},
    {flush, true},
    {map, false},
};
#define STEPS (sizeof script / sizeof script[0])

static void begin(void)
{
    harness_init(&harness);
    harness.settings.catalog_path = NULL;
    harness_open(&harness);
    harness_add_drive(&harness, "e", MIB);
    struct record add = {.type = RECORD_DRIVE_ADD,
                         .name = text_of("d"),
                         .path = text_of("/dev/d"),
                         .size = MIB,
                         .granularity = 512,
                         .durability = DURABILITY_POWER_LOSS};
    assert_int_equal(harness_commit(&harness, &add), 0);
    harness_add_bitmap(&harness, "d/b", 512, false);
    writer = NULL;
}

static unsigned failures, runs;

static void take(size_t i)
{
    struct past_image image = {NULL, 0};

    /* Its eldest is gone by then. */
    if (script[i].run == map && !past_find(&harness, "d", "c0")) {
        return;
    }
    alloc_pause(true);
    past_image_take(&harness, &image);
    alloc_pause(false);
    int r = script[i].run();
    bool failed = alloc_was_hit();
    if (r < 0) {
        assert_true(failed);
        if (r != -ENOMEM && r != -EINPROGRESS) {
            fail_msg("step %zu: %d %s", i, r, harness.error.text);
        }
        failures++;
        if (script[i].steps) {
            past_check_books(harness.model);
        } else {
            past_image_check(&harness, &image);
        }
        r = script[i].run();
    }
    if (r < 0) {
        fail_msg("step %zu: %s", i, harness.error.text);
    }
    past_image_free(&image);
}

static struct expected {
    uint64_t bytes;
    enum validity validity;
} reference;

static void look(struct expected *ret)
{
    struct model_union map;
    assert_int_equal(past_union(&harness, "d", "c2", NULL, &map), 0);
    *ret = (struct expected){bitmap_dirty_bytes(map.bits), map.validity};
    bitmap_free(map.bits);
    assert_int_equal(harness_drive(&harness, "d")->checkpoints_count, 1);
    assert_int_equal(harness_drive(&harness, "e")->checkpoints_count, 0);
    past_check_books(harness.model);
}

static void changes_without_memory(void **state)
{
    (void)state;
    for (int all = 0; all < 2; all++) {
        bool past = false;
        for (unsigned n = 0; !past || n == 1; n += n > 0 && all ? 2 : 1) {
            struct expected found;
            begin();
            runs++;
            alloc_arm(n, all);
            for (size_t i = 0; i < STEPS; i++) {
                take(i);
            }
            past = !alloc_was_hit();
            alloc_arm(0, false);
            for (int i = 0; i < 2; i++) {
                look(n == 0 ? &reference : &found);
                if (n > 0) {
                    /* A mark that was widened is the one thing that may be more. */
                    assert_true(found.bytes >= reference.bytes);
                    assert_true(found.validity == VALIDITY_SUPERSET ||
                                found.bytes == reference.bytes);
                }
                past_restart(&harness);
            }
            harness_deinit(&harness);
        }
    }
    print_message("%u steps failed, %u runs\n", failures, runs);
    assert_true(failures > 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(changes_without_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
