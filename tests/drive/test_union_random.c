/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Unions that are made while anything changes, against a naive model: what was marked, and when.
 *
 * A map since C until D that is of sequence S has every granule that was marked after C was made,
 * and before D was and no later than S; and none that was not marked between C and D.  Deleting
 * checkpoints in between changes nothing in that.  What a drive has grown by is dirty in all that
 * there were then.
 */
#include "tests/drive/past.h"

#include "daemon/drive/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define STEPS       4000u /* at least */
#define ANSWERS     250u  /* likewise */
#define UNIONS      8u
#define CHANGES     3u
#define GRANULE     UINT64_C(512)
#define GRANULES    8192u /* at most */
#define CHECKPOINTS 24u

static struct harness harness;
static unsigned seed;
static uint64_t size_bytes; /* of the drive, by the naive model */
static struct {
    uint64_t granule, sequence;
} marks[STEPS * 4];
static unsigned marks_count;
static struct {
    uint64_t from, sequence;
} growth[GRANULES];
static unsigned growth_count;
static unsigned answers, gone, busy, cancelled_ones, later;

static unsigned below(unsigned n)
{
    return (unsigned)rand_r(&seed) % n;
}

struct asked {
    struct model_union request; /* first */
    bool used;
    uint64_t since, until; /* sequences */
    uint64_t since_id, until_id;
    uint64_t begun;
};

static struct asked asked[UNIONS];

static void check(const struct asked *one)
{
    static bool must[GRANULES], may[GRANULES];
    const struct model_union *map = &one->request;
    uint64_t size = bitmap_size_bytes(map->bits);

    assert_int_equal(map->validity, VALIDITY_EXACT);
    memset(must, 0, sizeof must);
    memset(may, 0, sizeof may);
    for (unsigned i = 0; i < marks_count; i++) {
        bool in = marks[i].sequence > one->since && (!one->until || marks[i].sequence < one->until);
        may[marks[i].granule] |= in;
        must[marks[i].granule] |= in && marks[i].sequence <= map->sequence;
    }
    for (unsigned i = 0; i < growth_count; i++) {
        for (uint64_t g = growth[i].from; g < size / GRANULE; g++) {
            may[g] |= growth[i].sequence > one->since;
            must[g] |= growth[i].sequence > one->since && growth[i].sequence <= map->sequence;
        }
    }
    for (uint64_t g = 0; g < size / GRANULE; g++) {
        bool dirty = bitmap_test_all(map->bits, g * GRANULE, 1);
        if ((must[g] && !dirty) || (dirty && !may[g])) {
            fail_msg("granule %u is %s", (unsigned)g, dirty ? "dirty" : "clean");
        }
    }
}

static void asked_done(struct model_union *request, int r, const struct error *error)
{
    struct asked *one = (struct asked *)request;

    one->used = false;
    if (r == -ENOENT) {
        assert_true(!model_bitmap_by_id(harness.model, one->since_id) ||
                    (one->until && !model_bitmap_by_id(harness.model, one->until_id)));
        gone++;
    } else if (r == -EBUSY) {
        busy++;
    } else if (r < 0) {
        fail_msg("union: %s", error->text);
    } else {
        answers++;
        later += request->sequence > one->begun;
        check(one);
        bitmap_free(request->bits);
    }
}

static struct drive_bitmap *any_checkpoint(void)
{
    struct drive *drive = harness_drive(&harness, "d");
    struct drive_bitmap *bitmap = TAILQ_FIRST(&drive->history);

    for (unsigned i = below(drive->checkpoints_count); i > 0; i--) {
        bitmap = TAILQ_NEXT(bitmap, in_history);
    }
    return bitmap;
}

static void ask(void)
{
    struct asked *one = &asked[below(UNIONS)];
    struct drive_bitmap *since = any_checkpoint();
    struct drive_bitmap *until = below(3) ? NULL : any_checkpoint();

    if (one->used) {
        if (below(16) == 0) {
            model_union_cancel(&one->request);
            one->used = false;
            cancelled_ones++;
        }
        return;
    }
    if (until && until->checkpoint->sequence <= since->checkpoint->sequence) {
        until = NULL;
    }
    *one = (struct asked){.request = {.done = asked_done},
                          .used = true,
                          .since = since->checkpoint->sequence,
                          .since_id = since->id,
                          .until = until ? until->checkpoint->sequence : 0,
                          .until_id = until ? until->id : 0,
                          .begun = model_sequence(harness.model)};
    assert_int_equal(model_union(harness.model, since, until, &one->request, &harness.error), 0);
}

/* ---- Changes ---- */

static struct change {
    struct model_fetch fetch; /* first */
    struct record record;
    bool used;
    unsigned rounds;
} changes[CHANGES];

static void change_commit(struct change *change)
{
    int r = model_commit(harness.model, &change->record, &harness.error);

    if (r == -EAGAIN && change->rounds++ < 10) {
        assert_int_equal(model_fetch(harness.model, &change->fetch, &harness.error), 0);
        return;
    }
    if (r == 0 && change->record.type == RECORD_DRIVE_RESIZE) {
        growth[growth_count].from = size_bytes / GRANULE;
        growth[growth_count++].sequence = change->record.sequence;
        size_bytes = change->record.size;
    }
    model_fetch_release(&change->fetch);
    change->used = false;
}

static void change_fetched(struct model_fetch *fetch, int r, const struct error *error)
{
    (void)error;
    assert_int_equal(r, 0);
    change_commit((struct change *)fetch);
}

static void change(bool resize)
{
    struct change *one = &changes[below(CHANGES)];
    const struct drive_bitmap *bitmap = any_checkpoint();

    if (one->used) {
        return;
    }
    *one = (struct change){.fetch = {.done = change_fetched}, .used = true};
    one->record = (struct record){.type = resize ? RECORD_DRIVE_RESIZE : RECORD_CHECKPOINT_DELETE,
                                  .drive = bitmap->drive->id};
    if (resize) {
        one->record.size = size_bytes + GRANULE * (1 + below(64));
        for (size_t i = 0; i < CHANGES; i++) {
            resize &= &changes[i] == one || !changes[i].used ||
                      changes[i].record.type != RECORD_DRIVE_RESIZE;
        }
    } else {
        one->record.bitmap = bitmap->id;
    }
    if ((one->record.type == RECORD_DRIVE_RESIZE && !resize) ||
        one->record.size > GRANULES * GRANULE) {
        one->used = false;
        return;
    }
    change_commit(one);
}

static void create(void)
{
    char name[16];
    static unsigned count;

    (void)snprintf(name, sizeof name, "c%u", count++);
    struct record record = {.type = RECORD_CHECKPOINT_CREATE,
                            .drive = harness_drive(&harness, "d")->id,
                            .name = text_of(name)};
    assert_int_equal(model_commit(harness.model, &record, &harness.error), 0);
}

static void mark(void)
{
    struct range range = {GRANULE * below((unsigned)(size_bytes / GRANULE)), 1};
    uint64_t sequence;

    assert_int_equal(drive_mark(harness.model, harness_drive(&harness, "d"), &range, 1, &sequence,
                                &harness.error),
                     0);
    if (sequence == model_sequence(harness.model)) {
        marks[marks_count].granule = range.offset / GRANULE;
        marks[marks_count++].sequence = sequence;
    }
}

static void unions_are_right_whatever_happens(void **state)
{
    (void)state;
    harness_init(&harness);
    harness.settings.cache_max = 4096;
    harness_open(&harness);
    size_bytes = GRANULE * 4096;
    harness_add_drive(&harness, "d", size_bytes);
    create();
    for (unsigned step = 0; step < STEPS || answers < ANSWERS; step++) {
        unsigned what = below(100);
        const struct drive *drive = harness_drive(&harness, "d");
        if (what < 30 && marks_count < STEPS * 4) {
            mark();
        } else if (what < 50) {
            ask();
        } else if (what < 60 && drive->checkpoints_count < CHECKPOINTS) {
            create();
        } else if (what < 64 && drive->checkpoints_count > CHECKPOINTS / 2) {
            change(false);
        } else if (what < 65) {
            change(below(4) == 0 && drive->checkpoints_count > 1);
        } else if (what < 67) {
            writeback_start(harness.model->writeback);
        } else if (what < 80) {
            (void)uv_run(&harness.loop, UV_RUN_NOWAIT);
        } else if (harness.model->unions[UNION_LANE_READS].running) {
            (void)uv_run(&harness.loop, UV_RUN_ONCE);
        }
        if (drive->checkpoints_count == 0) {
            create();
        }
    }
    for (size_t i = 0; i < UNIONS + CHANGES; i++) {
        while (i < UNIONS ? asked[i].used : changes[i - UNIONS].used) {
            (void)uv_run(&harness.loop, UV_RUN_ONCE);
        }
    }
    print_message("%u answers (%u of a later moment), %u gone, %u busy, %u cancelled, %u grown\n",
                  answers, later, gone, busy, cancelled_ones, growth_count);
    assert_true(cancelled_ones > 0 && later > 0);
    harness_deinit(&harness);
}

int main(void)
{
    const char *given = getenv("BITMAPD_TEST_SEED");
    seed = given ? (unsigned)strtoul(given, NULL, 10) : (unsigned)time(NULL);
    print_message("BITMAPD_TEST_SEED=%u\n", seed);
    const struct CMUnitTest tests[] = {cmocka_unit_test(unions_are_right_whatever_happens)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
