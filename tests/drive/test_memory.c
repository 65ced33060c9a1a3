/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory runs out, at every allocation in turn, while a script of all kinds of
 * changes runs, and while a model starts and stops.  What fails has changed
 * nothing and works when it is tried again; what does not fail keeps the
 * promise.  With sanitizers it also shows that nothing is leaked.
 */
#include "tests/drive/alloc_fault.h"
#include "tests/drive/harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB      (UINT64_C(1) << 20)
#define GRANULES 4096 /* of a drive of 2 MiB, in the finest bitmap */

/* ---- What has to be ---- */

struct shadow {
    const char *name; /* NULL: does not exist */
    uint32_t granularity;
    bool recording;
    bool must[GRANULES];
};

enum {
    A,
    B,
    OFF,
    NEW,
    SHADOWS
};

static struct scene {
    struct harness harness;
    struct writer *writer;
    uint64_t size;
    struct range unsettled; /* length 0: none */
    struct shadow shadows[SHADOWS];
} scene;

static void touch(struct shadow *shadow, struct range range)
{
    for (uint64_t i = range.offset / shadow->granularity;
         range.length && i <= (range.offset + range.length - 1) / shadow->granularity; i++) {
        shadow->must[i] = true;
    }
}

static void touch_recording(struct range range)
{
    for (size_t i = 0; i < SHADOWS; i++) {
        if (scene.shadows[i].name && scene.shadows[i].recording) {
            touch(&scene.shadows[i], range);
        }
    }
}

static void untouch(struct shadow *shadow, struct range range)
{
    for (uint64_t i = 0; i * shadow->granularity < scene.size; i++) {
        uint64_t end = (i + 1) * shadow->granularity;
        if (i * shadow->granularity >= range.offset && end <= range.offset + range.length) {
            shadow->must[i] = false;
        }
    }
    touch(shadow, scene.unsettled);
}

static void merge(struct shadow *target, const struct shadow *source)
{
    for (uint64_t i = 0; i * source->granularity < scene.size; i++) {
        if (source->must[i]) {
            uint64_t left = scene.size - i * source->granularity;
            touch(target, (struct range){i * source->granularity,
                                         source->granularity < left ? source->granularity : left});
        }
    }
}

static void check(void)
{
    for (size_t s = 0; s < SHADOWS; s++) {
        const struct shadow *shadow = &scene.shadows[s];
        if (!shadow->name) {
            continue;
        }
        struct drive_bitmap *bitmap = harness_bitmap(&scene.harness, shadow->name);
        assert_int_equal(bitmap->recording, shadow->recording);
        assert_int_equal(bitmap_size_bytes(bitmap->bits), scene.size);
        for (uint64_t i = 0; i * shadow->granularity < scene.size; i++) {
            bool dirty = bitmap_test_all(bitmap->bits, i * shadow->granularity, 1);
            if (shadow->must[i] && !dirty && bitmap->validity != VALIDITY_UNKNOWN) {
                fail_msg("%s: granule %llu must be dirty and is clean", shadow->name,
                         (unsigned long long)i);
            }
            if (dirty && !shadow->must[i] && bitmap->validity == VALIDITY_EXACT) {
                fail_msg("%s: granule %llu is dirty without a mark", shadow->name,
                         (unsigned long long)i);
            }
        }
    }
}

/* ---- The script ---- */

static int commit(struct record *record)
{
    return model_commit(scene.harness.model, record, &scene.harness.error);
}

static int change_bitmap(enum record_type type, size_t s, struct record record)
{
    struct drive_bitmap *bitmap = harness_bitmap(&scene.harness, scene.shadows[s].name);
    record.type = type;
    record.drive = bitmap->drive->id;
    record.bitmap = bitmap->id;
    return commit(&record);
}

static int mark(uint64_t first_id, struct range range)
{
    struct drive *drive = harness_drive(&scene.harness, "d");
    uint64_t sequence;
    int r = first_id ? writer_mark(scene.harness.model, scene.writer, first_id, &range, 1,
                                   &sequence, &scene.harness.error)
                     : drive_mark(scene.harness.model, drive, &range, 1, &sequence,
                                  &scene.harness.error);
    if (r == 0) {
        touch_recording(range);
    }
    return r;
}

static int mark_here_and_there(void)
{
    return mark(0, (struct range){1000, 5000});
}

static int mark_across_chunks(void)
{
    return mark(0, (struct range){3000, 900000});
}

static int mark_far(void)
{
    return mark(0, (struct range){scene.size - 700, 600});
}

static int mark_unsettled(void)
{
    struct range range = {100000, 512};
    int r = mark(7, range);
    if (r == 0) {
        scene.unsettled = range;
    }
    return r;
}

static int attach(void)
{
    uint64_t sequence;
    bool resuming;
    return writer_attach(scene.harness.model, harness_drive(&scene.harness, "d"),
                         &(struct writer_attachment){.token = text_of("w"), .peer = "peer"},
                         &scene.writer, &sequence, &resuming, &scene.harness.error);
}

static int lose(void)
{
    writer_lost(scene.harness.model, scene.writer);
    scene.writer = NULL;
    return 0;
}

static int resume(void)
{
    uint64_t sequence;
    int r = writer_resume(scene.harness.model, scene.writer, NULL, &sequence, &scene.harness.error);
    if (r == 0) {
        scene.unsettled.length = 0;
    }
    return r;
}

static int detach(void)
{
    uint64_t sequence;
    return writer_detach(scene.harness.model, scene.writer, NULL, text_of(""), &sequence,
                         &scene.harness.error);
}

static int set(void)
{
    struct range range = {200000, 4096};
    int r =
        change_bitmap(RECORD_BITMAP_SET, B, (struct record){.ranges = &range, .ranges_count = 1});
    if (r == 0) {
        touch(&scene.shadows[B], range);
    }
    return r;
}

static int clear(void)
{
    struct range range = {0, 300000};
    int r =
        change_bitmap(RECORD_BITMAP_CLEAR, A, (struct record){.ranges = &range, .ranges_count = 1});
    if (r == 0) {
        untouch(&scene.shadows[A], range);
    }
    return r;
}

static int clear_all(void)
{
    int r = change_bitmap(RECORD_BITMAP_CLEAR_ALL, A, (struct record){0});
    if (r == 0) {
        memset(scene.shadows[A].must, 0, sizeof scene.shadows[A].must);
        touch(&scene.shadows[A], scene.unsettled);
    }
    return r;
}

static int merge_two(void)
{
    uint64_t sources[] = {harness_bitmap(&scene.harness, scene.shadows[A].name)->id,
                          harness_bitmap(&scene.harness, scene.shadows[B].name)->id};
    int r = change_bitmap(RECORD_BITMAP_MERGE, OFF,
                          (struct record){.sources = sources, .sources_count = 2});
    if (r == 0) {
        merge(&scene.shadows[OFF], &scene.shadows[A]);
        merge(&scene.shadows[OFF], &scene.shadows[B]);
    }
    return r;
}

static int resize_to(uint64_t size)
{
    struct record record = {
        .type = RECORD_DRIVE_RESIZE, .drive = harness_drive(&scene.harness, "d")->id, .size = size};
    int r = commit(&record);
    if (r < 0) {
        return r;
    }
    for (size_t s = 0; s < SHADOWS; s++) {
        struct shadow *shadow = &scene.shadows[s];
        for (uint64_t i = size > scene.size ? scene.size / shadow->granularity
                                            : (size - 1) / shadow->granularity + 1;
             shadow->name && i < GRANULES; i++) {
            shadow->must[i] = i * shadow->granularity < size;
        }
    }
    scene.size = size;
    return 0;
}

static int grow(void)
{
    return resize_to(2 * MIB - 100);
}

static int shrink(void)
{
    return resize_to(MIB + MIB / 2 + 77);
}

static int create(void)
{
    struct record record = {.type = RECORD_BITMAP_CREATE,
                            .drive = harness_drive(&scene.harness, "d")->id,
                            .name = text_of("new"),
                            .granularity = 1024,
                            .disabled = true,
                            .request = {.bytes = {1}}};
    int r = commit(&record);
    assert_int_equal(model_request_find(scene.harness.model, &record.request) != NULL, r == 0);
    if (r == 0) {
        scene.shadows[NEW] = (struct shadow){.name = "d/new", .granularity = 1024};
        touch(&scene.shadows[NEW], scene.unsettled);
    }
    return r;
}

static int enable(void)
{
    int r = change_bitmap(RECORD_BITMAP_ENABLE, NEW, (struct record){0});
    scene.shadows[NEW].recording |= r == 0;
    return r;
}

static int disable(void)
{
    int r = change_bitmap(RECORD_BITMAP_DISABLE, NEW, (struct record){0});
    scene.shadows[NEW].recording &= r < 0;
    return r;
}

static int rename_bitmap(void)
{
    int r = change_bitmap(RECORD_BITMAP_RENAME, B, (struct record){.name = text_of("other")});
    if (r == 0) {
        scene.shadows[B].name = "d/other";
    }
    return r;
}

static int delete (void)
{
    int r = change_bitmap(RECORD_BITMAP_DELETE, NEW, (struct record){0});
    if (r == 0) {
        scene.shadows[NEW].name = NULL;
    }
    return r;
}

static int add_drive(void)
{
    struct record record = {.type = RECORD_DRIVE_ADD,
                            .name = text_of("second"),
                            .path = text_of("/dev/second"),
                            .size = 1,
                            .granularity = 512,
                            .durability = DURABILITY_POWER_LOSS};
    return commit(&record);
}

static int flush(void)
{
    return harness_wait(&scene.harness, model_sequence(scene.harness.model), ACK_CONTAINER);
}

static int map(void)
{
    struct bitmap *bits;
    int r = drive_bitmap_map(harness_bitmap(&scene.harness, scene.shadows[A].name), &bits);
    if (r == 0) {
        bitmap_free(bits);
    }
    return r;
}

typedef int step(void);

static step *const script[] = {mark_here_and_there,
                               attach,
                               mark_unsettled,
                               set,
                               flush,
                               mark_across_chunks,
                               clear,
                               map,
                               merge_two,
                               create,
                               grow,
                               flush,
                               mark_far,
                               flush,
                               lose,
                               enable,
                               flush,
                               clear_all,
                               rename_bitmap,
                               flush,
                               disable,
                               add_drive,
                               attach,
                               mark_here_and_there,
                               resume,
                               clear,
                               merge_two,
                               detach,
                               delete,
                               flush,
                               shrink,
                               flush,
                               mark_far,
                               flush,
                               clear_all};

static void scene_begin(bool history)
{
    memset(&scene, 0, sizeof scene);
    scene.size = MIB;
    harness_init(&scene.harness);
    if (!history) {
        scene.harness.settings.catalog_path = NULL;
    }
    harness_open(&scene.harness);
    harness_add_drive(&scene.harness, "d", MIB);
    scene.shadows[A] = (struct shadow){.name = "d/a", .granularity = 512, .recording = true};
    scene.shadows[B] = (struct shadow){.name = "d/b", .granularity = 4096, .recording = true};
    scene.shadows[OFF] = (struct shadow){.name = "d/off", .granularity = 512};
    for (size_t s = 0; s < NEW; s++) {
        harness_add_bitmap(&scene.harness, scene.shadows[s].name, scene.shadows[s].granularity,
                           !scene.shadows[s].recording);
    }
}

/* One step, again if memory ran out in it. */
static void take(step *function)
{
    uint64_t before = model_sequence(scene.harness.model);
    int r = function();
    bool failed = alloc_was_hit();
    if (r < 0) {
        assert_true(failed);
        assert_true(r == -ENOMEM || r == -EINPROGRESS);
        assert_int_equal(model_sequence(scene.harness.model), before);
        check();
        r = function();
    }
    if (r < 0) {
        fail_msg("%s", scene.harness.error.text);
    }
    check();
}

static void changes_without_memory(void **state)
{
    (void)state;
    unsigned faults = 0;
    for (int all = 0; all < 2; all++) {
        bool past = false;
        for (unsigned n = 1; !past; n++) {
            scene_begin(false);
            alloc_arm(n, all);
            for (size_t i = 0; i < sizeof script / sizeof script[0]; i++) {
                take(script[i]);
            }
            past = !alloc_was_hit();
            alloc_arm(0, false);
            faults += !past;
            assert_int_equal(harness_close(&scene.harness), 0);
            harness_open(&scene.harness);
            check();
            harness_deinit(&scene.harness);
        }
    }
    print_message("%u allocations failed\n", faults);
    assert_true(faults > 100);
}

static void stops_without_memory(void **state)
{
    (void)state;
    bool past = false;
    for (unsigned n = 1; !past; n++) {
        scene_begin(true);
        take(mark_across_chunks);
        assert_int_equal(
            harness_wait(&scene.harness, model_sequence(scene.harness.model), ACK_DURABLE), 0);
        alloc_arm(n, true);
        int r = harness_close(&scene.harness);
        past = !alloc_was_hit();
        alloc_arm(0, false);
        assert_true(r == 0 || !past);
        harness_open(&scene.harness);
        check();
        harness_deinit(&scene.harness);
    }
}

static void starts_without_memory(void **state)
{
    (void)state;
    scene_begin(true);
    take(mark_across_chunks);
    take(attach);
    take(mark_unsettled);
    take(lose);
    assert_int_equal(harness_close(&scene.harness), 0);
    unsigned refused = 0, degraded = 0, faults = 0;
    for (int all = 0; all < 2; all++) {
        bool past = false;
        for (unsigned n = 1; !past; n++) {
            alloc_arm(n, all);
            int r = harness_try_open(&scene.harness, 0);
            past = !alloc_was_hit();
            alloc_arm(0, false);
            faults += !past;
            if (r < 0) {
                assert_int_equal(r, -ENOMEM);
                refused++;
                continue;
            }
            check();
            if (model_degraded_reason(scene.harness.model)[0]) {
                /* Nothing can be changed before the verdicts are on the disk. */
                assert_int_equal(set(), -EROFS);
                take(flush);
                degraded++;
            }
            take(set);
            assert_string_equal(model_degraded_reason(scene.harness.model), "");
            assert_int_equal(harness_close(&scene.harness), 0);
        }
    }
    print_message("%u allocations failed: %u starts refused, %u degraded\n", faults, refused,
                  degraded);
    assert_true(refused > 0);
    assert_true(degraded > 0);
    harness_deinit(&scene.harness);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(changes_without_memory),
        cmocka_unit_test(stops_without_memory),
        cmocka_unit_test(starts_without_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
