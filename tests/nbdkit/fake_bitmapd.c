/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An imitation of libbitmapd and its daemon, for tests of what is built on
 * them.  Ids are unique for the whole run, so that one that outlived its
 * connection is found out.
 */
#include "tests/nbdkit/fake_bitmapd_private.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static void handle_enter(struct bitmapd *handle)
{
    CHECK(!atomic_exchange(&handle->busy, true));
}

static void handle_leave(struct bitmapd *handle)
{
    CHECK(atomic_exchange(&handle->busy, false));
}

/* ---- The daemon; with the lock ---- */

static void daemon_mark(uint64_t id, const struct bitmapd_range *range)
{
    CHECK(range->length > 0 && range->offset < FAKE_SIZE_BYTES &&
          range->length <= FAKE_SIZE_BYTES - range->offset);
    uint64_t first = range->offset / FAKE_BLOCK_BYTES;
    uint64_t last = (range->offset + range->length - 1) / FAKE_BLOCK_BYTES;
    CHECK(id < IDS_MAX);
    fake.marks[id] =
        (struct mark){.block = (uint32_t)first, .blocks = (uint32_t)(last - first + 1)};
    for (uint64_t block = first; block <= last; block++) {
        fake.over[block]++;
    }
    fake.counts.last_offset_bytes = range->offset;
    fake.counts.last_length_bytes = range->length;
}

static void daemon_unmark(uint64_t id)
{
    struct mark *mark = &fake.marks[id];
    CHECK(mark->blocks > 0);
    for (uint32_t i = 0; i < mark->blocks; i++) {
        uint32_t block = mark->block + i;
        CHECK(fake.over[block] > 0);
        if (--fake.over[block] == 0 && fake.on_free_block != NULL) {
            fake.on_free_block(block);
        }
    }
    mark->blocks = 0;
}

/* Gives up what is left of the marks [begin, end). */
static void daemon_forget(uint64_t begin, uint64_t end)
{
    for (uint64_t id = begin; id < end; id++) {
        if (fake.marks[id].blocks > 0) {
            daemon_unmark(id);
        }
    }
}

static uint64_t handle_take_ranges(struct bitmapd *handle, const struct bitmapd_range *ranges,
                                   size_t count)
{
    uint64_t first_id = fake.next_id;
    fake.next_id += count;
    for (size_t i = 0; i < count; i++) {
        daemon_mark(first_id + i, &ranges[i]);
    }
    handle->unsettled += count;
    CHECK(handle->unsettled <= fake.unsettled_max);
    fake.counts.mark_calls++;
    fake.counts.marks += (unsigned)count;
    fake.counts.unsettled = (unsigned)handle->unsettled;
    if (fake.counts.unsettled > fake.counts.unsettled_most) {
        fake.counts.unsettled_most = fake.counts.unsettled;
    }
    if (count > fake.counts.ranges_most) {
        fake.counts.ranges_most = (unsigned)count;
    }
    return first_id;
}

/* A refused request leaves no marks. */
static void handle_drop_marks(struct bitmapd *handle, const struct request *request)
{
    for (size_t i = 0; i < request->count; i++) {
        daemon_unmark(request->first_id + i);
    }
    handle->unsettled -= request->count;
    fake.counts.unsettled = (unsigned)handle->unsettled;
}

/* ---- libbitmapd ---- */

bitmapd *bitmapd_new(void)
{
    struct bitmapd *handle = calloc(1, sizeof *handle);
    CHECK(handle != NULL);
    handle->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    CHECK(handle->fd >= 0);
    return handle;
}

/* Completes every request with @result, which is not 0. */
static void handle_fail_all(struct bitmapd *handle, int result)
{
    struct request *request;
    while ((request = handle->requests) != NULL) {
        handle->requests = request->next;
        request->completion(request->opaque, result);
        free(request);
    }
}

void bitmapd_close(bitmapd *handle)
{
    if (handle == NULL) {
        return;
    }
    handle_enter(handle);
    handle_fail_all(handle, -ECANCELED);
    fake_lock();
    if (fake.handle == handle) {
        fake.handle = NULL;
        fake.lost_writer = !handle->fenced;
        fake.doubtful = fake.lost_writer && (fake.doubtful || handle->continues);
        daemon_forget(handle->fenced ? handle->first_id : fake.next_id, fake.next_id);
    }
    fake_unlock();
    handle_leave(handle);
    (void)close(handle->fd);
    free(handle);
}

int bitmapd_set_client_name(bitmapd *handle, const char *name)
{
    (void)handle;
    CHECK(name[0] != '\0');
    return 0;
}

int bitmapd_set_reconnect_timeout(bitmapd *handle, unsigned seconds)
{
    handle->timeout_s = seconds;
    return 0;
}

int bitmapd_connect(bitmapd *handle, const char *path)
{
    (void)handle;
    CHECK(path == NULL || path[0] == '/');
    fake_lock();
    fake.counts.connects++;
    int r = fake.unreachable ? -ECONNREFUSED : 0;
    fake_unlock();
    return r;
}

const char *bitmapd_error(const bitmapd *handle)
{
    CHECK(handle != NULL);
    return "words of the fake";
}

int bitmapd_fd(const bitmapd *handle)
{
    fake_lock();
    int fd = fake.offline || handle->lost ? -1 : handle->fd;
    fake_unlock();
    return fd;
}

int bitmapd_writer_ready(const bitmapd *handle, uint64_t drive_id)
{
    CHECK(drive_id == DRIVE_ID);
    fake_lock();
    bool back = !fake.offline && !fake.returning && !handle->lost;
    int ready = handle->fenced ? -EOWNERDEAD : back;
    fake_unlock();
    return ready;
}

unsigned bitmapd_events(const bitmapd *handle)
{
    (void)handle;
    return POLLIN;
}

int bitmapd_timeout_ms(const bitmapd *handle)
{
    fake_lock();
    int timeout_ms = fake.offline || handle->lost ? 1 : -1;
    fake_unlock();
    return timeout_ms;
}

static void dispatch_gate(void)
{
    fake.at_gate = fake.gate_shut;
    while (fake.gate_shut) {
        CHECK(pthread_cond_wait(&fake.gate, &fake.lock) == 0);
    }
    fake.at_gate = false;
}

/* The oldest request if it is time for its reply, with what that says. */
static struct request *dispatch_next(struct bitmapd *handle, int *ret_result)
{
    fake_lock();
    struct request *request = NULL;
    if (!fake.hold && !fake.offline && !fake.returning && !handle->lost &&
        handle->requests != NULL) {
        request = handle->requests;
        handle->requests = request->next;
        *ret_result = fake.mark_result;
        if (*ret_result < 0) {
            handle_drop_marks(handle, request);
        }
    }
    fake_unlock();
    return request;
}

int bitmapd_dispatch(bitmapd *handle, unsigned revents)
{
    (void)revents;
    handle_enter(handle);
    uint64_t news;
    ssize_t n = read(handle->fd, &news, sizeof news);
    (void)n;
    fake_lock();
    dispatch_gate();
    fake.counts.dispatches++;
    bool lost = handle->lost;
    fake_unlock();

    struct request *request;
    int result;
    while ((request = dispatch_next(handle, &result)) != NULL) {
        request->completion(request->opaque, result);
        free(request);
    }
    if (lost) {
        handle_fail_all(handle, -ENOTCONN);
    }
    handle_leave(handle);
    return lost ? -ENOTCONN : 0;
}

size_t bitmapd_pending(const bitmapd *handle)
{
    size_t pending = 0;
    for (const struct request *request = handle->requests; request != NULL;
         request = request->next) {
        pending++;
    }
    return pending;
}

int bitmapd_drain(bitmapd *handle)
{
    CHECK(handle->requests == NULL);
    return handle->lost || fake.offline ? -ENOTCONN : 0;
}

int bitmapd_attach(bitmapd *handle, const char *drive, const char *writer, unsigned flags,
                   uint64_t *ret_drive_id, uint64_t *ret_size, bool *ret_resuming)
{
    handle_enter(handle);
    CHECK(strcmp(drive, "vm1") == 0 && strcmp(writer, "nbdkit-vm1") == 0);
    CHECK((flags & ~(unsigned)BITMAPD_ATTACH_CONTINUES) == 0);
    fake_lock();
    CHECK(fake.handle == NULL);
    int r = fake.attach_result;
    if (r == 0) {
        fake.counts.attaches++;
        fake.counts.unsettled = 0;
        *ret_drive_id = DRIVE_ID;
        *ret_size = fake.size;
        *ret_resuming = fake.attach_resuming || fake.lost_writer;
        fake.handle = handle;
        handle->attached = true;
        handle->continues = flags != 0;
        handle->resuming = *ret_resuming;
        handle->first_id = fake.next_id;
    }
    fake_unlock();
    handle_leave(handle);
    return r;
}

int bitmapd_resume(bitmapd *handle, uint64_t drive_id)
{
    handle_enter(handle);
    CHECK(handle->attached && handle->resuming && drive_id == DRIVE_ID);
    handle->resuming = false;
    fake_lock();
    fake.counts.resumes++;
    daemon_forget(1, handle->first_id);
    if (fake.on_back != NULL) {
        fake.on_back(fake.over);
    }
    fake.lost_writer = fake.doubtful = false;
    fake.attach_resuming = false;
    fake_unlock();
    handle_leave(handle);
    return 0;
}

int bitmapd_detach(bitmapd *handle, uint64_t drive_id)
{
    handle_enter(handle);
    CHECK(handle->attached && drive_id == DRIVE_ID);
    int r = -EBUSY;
    if (handle->unsettled == 0) {
        fake_lock();
        fake.counts.detaches++;
        fake.handle = NULL;
        fake_unlock();
        handle->attached = false;
        r = 0;
    }
    handle_leave(handle);
    return r;
}

int bitmapd_aio_mark(bitmapd *handle, uint64_t drive_id, const struct bitmapd_range *ranges,
                     size_t count, uint64_t *ret_first_id, bitmapd_completion *completion,
                     void *opaque)
{
    handle_enter(handle);
    CHECK(handle->attached && drive_id == DRIVE_ID && count > 0 && count <= BITMAPD_RANGES_MAX);
    if (bitmapd_writer_ready(handle, DRIVE_ID) < 0) {
        handle_leave(handle);
        return -EOWNERDEAD;
    }
    struct request *request = calloc(1, sizeof *request);
    CHECK(request != NULL);
    fake_lock();
    *request = (struct request){
        .first_id = handle_take_ranges(handle, ranges, count),
        .count = count,
        .completion = completion,
        .opaque = opaque,
    };
    fake_unlock();
    *ret_first_id = request->first_id;
    struct request **end = &handle->requests;
    while (*end != NULL) {
        end = &(*end)->next;
    }
    *end = request;
    handle_wake(handle);
    handle_leave(handle);
    return 0;
}

int bitmapd_mark(bitmapd *handle, uint64_t drive_id, const struct bitmapd_range *ranges,
                 size_t count, uint64_t *ret_first_id)
{
    handle_enter(handle);
    CHECK(handle->attached && drive_id == DRIVE_ID && count > 0 && count <= BITMAPD_RANGES_MAX);
    fake_lock();
    if (ret_first_id != NULL) {
        *ret_first_id = handle_take_ranges(handle, ranges, count);
    } else {
        fake.counts.settled_marks += (unsigned)count;
        fake.counts.last_offset_bytes = ranges[count - 1].offset;
        fake.counts.last_length_bytes = ranges[count - 1].length;
    }
    fake_unlock();
    handle_leave(handle);
    return 0;
}

int bitmapd_settle(bitmapd *handle, uint64_t drive_id, uint64_t first_id, uint64_t count)
{
    handle_enter(handle);
    CHECK(handle->attached && drive_id == DRIVE_ID && count > 0);
    CHECK(first_id >= handle->first_id);
    if (bitmapd_writer_ready(handle, DRIVE_ID) < 0) {
        handle_leave(handle);
        return -EOWNERDEAD;
    }
    fake_lock();
    for (uint64_t i = 0; i < count; i++) {
        daemon_unmark(first_id + i);
    }
    handle->unsettled -= count;
    fake.counts.settled += (unsigned)count;
    fake.counts.unsettled = (unsigned)handle->unsettled;
    fake_unlock();
    handle_leave(handle);
    return 0;
}

size_t bitmapd_unsettled(const bitmapd *handle, uint64_t drive_id)
{
    CHECK(drive_id == DRIVE_ID);
    return handle->unsettled;
}

size_t bitmapd_unsettled_max(const bitmapd *handle)
{
    (void)handle;
    fake_lock();
    size_t max = fake.unsettled_max;
    fake_unlock();
    return max;
}
