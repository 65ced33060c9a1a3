/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Without room for its threads libuv's pool is an error, not the end of the process; once there
 * is room it works, and needs no more.
 */
#include "daemon/base/pool.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static unsigned room; /* for so many more threads of ours */

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *),
                          void *opaque);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *),
                          void *opaque);

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *),
                          void *opaque)
{
    if (room == 0) {
        return EAGAIN;
    }
    room--;
    return __real_pthread_create(thread, attr, start, opaque);
}

static void run(uv_work_t *work)
{
    *(int *)work->data += 1;
}

static void done(uv_work_t *work, int status)
{
    assert_int_equal(status, 0);
    *(int *)work->data += 10;
}

static void test_no_threads(void **state)
{
    uv_loop_t loop;
    int count = 0;
    uv_work_t work = {.data = &count};

    (void)state;
    assert_int_equal(setenv("UV_THREADPOOL_SIZE", "3", 1), 0);
    assert_int_equal(uv_loop_init(&loop), 0);
    for (unsigned i = 0; i < 3; i++) {
        room = i;
        assert_int_equal(pool_submit(&loop, &work, run, done), -EAGAIN);
        assert_int_equal(uv_run(&loop, UV_RUN_DEFAULT), 0);
        assert_int_equal(count, 0);
    }
    room = 3;
    for (int i = 1; i <= 2; i++) {
        assert_int_equal(pool_submit(&loop, &work, run, done), 0);
        assert_int_equal(uv_run(&loop, UV_RUN_DEFAULT), 0);
        assert_int_equal(count, i * 11);
    }
    assert_int_equal(uv_loop_close(&loop), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
