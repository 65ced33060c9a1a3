/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The fake's controls: what a test's threads set and ask.
 */
#include "tests/nbdkit/fake_bitmapd_private.h"

#include <stdint.h>
#include <string.h>
#include <unistd.h>

struct fake fake = {
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .gate = PTHREAD_COND_INITIALIZER,
};

void fake_lock(void)
{
    CHECK(pthread_mutex_lock(&fake.lock) == 0);
}

void fake_unlock(void)
{
    CHECK(pthread_mutex_unlock(&fake.lock) == 0);
}

void handle_wake(struct bitmapd *handle)
{
    uint64_t one = 1;
    if (handle != NULL) {
        CHECK(write(handle->fd, &one, sizeof one) == sizeof one);
    }
}

void fake_reset(void)
{
    fake_lock();
    CHECK(fake.handle == NULL);
    fake.gate_shut = fake.at_gate = fake.hold = false;
    fake.offline = fake.returning = fake.unreachable = fake.attach_resuming = false;
    fake.attach_result = fake.mark_result = 0;
    fake.size = FAKE_SIZE_BYTES;
    fake.unsettled_max = 1024;
    fake.lost_writer = fake.doubtful = false;
    fake.next_id = 1;
    memset(fake.marks, 0, sizeof fake.marks);
    memset(fake.over, 0, sizeof fake.over);
    fake.counts = (struct fake_counts){.connects = 0};
    fake.on_free_block = NULL;
    fake.on_back = NULL;
    fake_unlock();
}

struct fake_counts fake_counts(void)
{
    fake_lock();
    struct fake_counts counts = fake.counts;
    fake_unlock();
    return counts;
}

#define DEFINE_SET(name, type, member) \
    void name(type value)              \
    {                                  \
        fake_lock();                   \
        fake.member = value;           \
        handle_wake(fake.handle);      \
        fake_unlock();                 \
    }

DEFINE_SET(fake_set_unsettled_max, size_t, unsettled_max)
DEFINE_SET(fake_set_size, uint64_t, size)
DEFINE_SET(fake_set_mark_result, int, mark_result)
DEFINE_SET(fake_set_unreachable, bool, unreachable)
DEFINE_SET(fake_hold_replies, bool, hold)
DEFINE_SET(fake_set_offline, bool, offline)
DEFINE_SET(fake_set_returning, bool, returning)

void fake_set_attach(int result, bool resuming)
{
    fake_lock();
    fake.attach_result = result;
    fake.attach_resuming = resuming;
    fake_unlock();
}

void fake_set_on_free_block(void (*on_free_block)(unsigned block))
{
    fake_lock();
    fake.on_free_block = on_free_block;
    fake_unlock();
}

void fake_set_on_back(void (*on_back)(const unsigned over[FAKE_BLOCKS]))
{
    fake_lock();
    fake.on_back = on_back;
    fake_unlock();
}

void fake_shut_gate(bool shut)
{
    fake_lock();
    fake.gate_shut = shut;
    CHECK(pthread_cond_broadcast(&fake.gate) == 0);
    handle_wake(fake.handle);
    fake_unlock();
}

bool fake_is_at_gate(void)
{
    fake_lock();
    bool at_gate = fake.at_gate;
    fake_unlock();
    return at_gate;
}

void fake_break_connection(void)
{
    fake_lock();
    if (fake.handle != NULL) {
        fake.handle->lost = true;
        fake.doubtful |= fake.handle->continues;
        handle_wake(fake.handle);
    }
    fake_unlock();
}

void fake_fence(void)
{
    fake_lock();
    CHECK(fake.handle != NULL);
    fake.handle->fenced = true;
    handle_wake(fake.handle);
    fake_unlock();
}

void fake_fence_lost(void)
{
    fake_lock();
    CHECK(fake.handle == NULL && fake.lost_writer);
    fake.lost_writer = fake.doubtful = false;
    fake_unlock();
}

bool fake_is_doubtful(void)
{
    fake_lock();
    bool doubtful = fake.doubtful;
    fake_unlock();
    return doubtful;
}

unsigned fake_marks_over(uint64_t offset_bytes, uint64_t length_bytes)
{
    fake_lock();
    unsigned fewest = UINT32_MAX;
    for (uint64_t block = offset_bytes / FAKE_BLOCK_BYTES;
         block <= (offset_bytes + length_bytes - 1) / FAKE_BLOCK_BYTES; block++) {
        if (fake.over[block] < fewest) {
            fewest = fake.over[block];
        }
    }
    fake_unlock();
    return fewest;
}
