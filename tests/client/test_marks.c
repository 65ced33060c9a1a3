/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The log of marks and the set of ids against naive models, by random
 * operations.
 */
#include "client/lib/marks.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define IDS 20000u

static uint64_t random_state;

static uint32_t random_below(uint32_t limit)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((random_state >> 33) % limit);
}

/* The naive log: one entry for each id that was ever given out. */
static struct {
    bool live, acked;
    struct wire_range range;
} model[IDS + 64];

static void check_same(const struct mark_log *log)
{
    size_t live = 0;
    uint64_t from = 0, first;
    uint32_t count;

    while ((count = mark_log_run(log, from, 7, &first)) > 0) {
        for (uint64_t id = from; id < first; id++) {
            assert_false(id < IDS + 64 && model[id].live);
        }
        struct wire_ranges ranges = mark_log_ranges(log, first, count);
        assert_int_equal(ranges.count, count);
        for (uint32_t i = 0; i < count; i++) {
            struct wire_range range = wire_ranges_get(&ranges, i);
            assert_true(model[first + i].live);
            assert_true(range.offset == model[first + i].range.offset);
            assert_true(range.length == model[first + i].range.length);
        }
        live += count;
        from = first + count;
    }
    assert_int_equal(log->live, live);
}

static void test_log(void **state)
{
    struct mark_log log = {0};
    uint64_t next = 1;
    size_t live = 0, most = 0;

    (void)state;
    memset(model, 0, sizeof model);
    while (next < IDS) {
        uint32_t count = 1 + random_below(5);
        uint64_t first = 1 + random_below((uint32_t)next);
        switch (random_below(5)) {
        case 0:
        case 1:
            next += random_below(3); /* gaps: other drives' ids */
            assert_int_equal(mark_log_reserve(&log, count), 0);
            for (uint32_t i = 0; i < count; i++, next++) {
                model[next].live = true;
                model[next].acked = false;
                model[next].range = (struct wire_range){random_below(1000), 1 + next};
                mark_log_append(&log, next, model[next].range);
                live++;
            }
            break;
        case 2:
            mark_log_ack(&log, first, count);
            for (uint64_t id = first; id < first + count; id++) {
                model[id].acked = true;
            }
            break;
        default: {
            /* Mostly near the end, as writes settle. */
            if (random_below(8) && next > 40) {
                first = next - random_below(40);
            }
            bool unanswered = false;
            size_t expected = 0;
            for (uint64_t id = first; id < first + count; id++) {
                unanswered |= model[id].live && !model[id].acked;
                expected += model[id].live;
            }
            assert_int_equal(mark_log_unanswered(&log, first, count), unanswered);
            assert_int_equal(mark_log_remove(&log, first, count), expected);
            for (uint64_t id = first; id < first + count; id++) {
                model[id].live = false;
            }
            live -= expected;
            break;
        }
        }
        most = live > most ? live : most;
        assert_int_equal(log.live, live);
        if (random_below(200) == 0) {
            check_same(&log);
        }
    }
    check_same(&log);
    assert_true(log.capacity <= 8 * (most + 64));
    mark_log_deinit(&log);
}

/* A mark that is never settled must not keep the log growing. */
static void test_one_stays(void **state)
{
    struct mark_log log = {0};

    (void)state;
    assert_int_equal(mark_log_reserve(&log, 1), 0);
    mark_log_append(&log, 1, (struct wire_range){0, 1});
    for (uint64_t id = 2; id < 100000; id++) {
        assert_int_equal(mark_log_reserve(&log, 1), 0);
        mark_log_append(&log, id, (struct wire_range){id, 1});
        assert_int_equal(mark_log_remove(&log, id, 1), 1);
    }
    assert_int_equal(log.live, 1);
    assert_true(log.capacity <= 64);
    mark_log_deinit(&log);
}

static void test_id_ranges(void **state)
{
    (void)state;
    for (int round = 0; round < 500; round++) {
        struct id_ranges ids = {0};
        bool set[200] = {false};
        for (int i = 0; i < 40; i++) {
            uint32_t first = random_below(180), count = 1 + random_below(6);
            assert_int_equal(id_ranges_add(&ids, first, count), 0);
            memset(set + first, true, count);
        }
        id_ranges_merge(&ids);
        bool merged[200] = {false};
        for (size_t i = 0; i < ids.count; i++) {
            assert_true(i == 0 || ids.ranges[i - 1].first_id + ids.ranges[i - 1].count <
                                      ids.ranges[i].first_id);
            memset(merged + ids.ranges[i].first_id, true, ids.ranges[i].count);
        }
        assert_memory_equal(set, merged, sizeof set);
        size_t count = ids.count;
        uint64_t second = count > 1 ? ids.ranges[1].first_id : 0;
        id_ranges_drop(&ids, 1);
        assert_int_equal(ids.count, count - 1);
        assert_true(count == 1 || ids.ranges[0].first_id == second);
        id_ranges_deinit(&ids);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_log),
        cmocka_unit_test(test_one_stays),
        cmocka_unit_test(test_id_ranges),
    };
    const char *seed = getenv("BITMAPD_TEST_SEED");

    random_state = seed ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL);
    printf("BITMAPD_TEST_SEED=%llu\n", (unsigned long long)random_state);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
