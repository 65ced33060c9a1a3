/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The ceiling of the benchmarks: a server that does the least that can be
 * called marking.  Requests of 16 bytes (u64 cookie, u64 bit), one OR each,
 * the request as its answer.  No validation, no checksum, no recovery, and
 * clients that never stop reading.
 *
 * With --log FILE a turn's new bits are written and synced before their
 * answers leave; with --thread a second thread does that while the loop
 * gathers, with --uring the kernel.  With --direct, and always with --uring, it
 * is one write with O_DIRECT and O_DSYNC, else a write and fdatasync(2).
 */
#include "proto/base/endian.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define BITS        (UINT64_C(1) << 28)
#define LOG_BYTES   (UINT64_C(64) << 20)
#define BLOCK       4096u
#define CLIENTS_MAX 1024
#define READ_BYTES  65536u

struct client {
    int fd;
    uint8_t part[16];
    size_t part_bytes;
    uint8_t *out; /* answers of this group */
    size_t out_bytes, out_capacity;
    uint8_t *next; /* answers of the group that gathers, with --thread */
    size_t next_bytes, next_capacity;
};

static uint64_t bitmap[BITS / 64];
static struct client *clients[CLIENTS_MAX];
static int clients_count;
static int log_fd = -1;
static uint8_t *log_buffer; /* aligned */
static size_t log_bytes, log_capacity;
static uint64_t log_at;
static bool threaded; /* the log is written while the loop gathers */
static bool uring;
static bool direct;

static uint8_t *thread_buffer;
static size_t thread_bytes, thread_capacity;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static bool thread_has_work, thread_busy;
static int done_fd;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static uint8_t *room(uint8_t **buffer, size_t *capacity, size_t bytes, size_t more)
{
    if (*capacity < bytes + more) {
        size_t wanted = ((bytes + more) * 2 + BLOCK - 1) / BLOCK * BLOCK;
        uint8_t *grown = aligned_alloc(BLOCK, wanted);
        if (!grown) {
            die("memory");
        }
        if (bytes > 0) {
            memcpy(grown, *buffer, bytes);
        }
        free(*buffer);
        *buffer = grown;
        *capacity = wanted;
    }
    return *buffer + bytes;
}

static void store(uint8_t *buffer, size_t bytes)
{
    size_t padded = (bytes + BLOCK - 1) / BLOCK * BLOCK;
    if (log_at + padded > LOG_BYTES) {
        log_at = 0;
    }
    if (pwrite(log_fd, buffer, padded, (off_t)log_at) != (ssize_t)padded ||
        (!direct && fdatasync(log_fd) < 0)) {
        die("log");
    }
    log_at += padded;
}

/* ---- io_uring, by hand: one request at a time ---- */

static int ring_fd;
static struct io_uring_sqe *ring_sqe;
static uint32_t *ring_sq_tail, *ring_sq_array, *ring_cq_head;
static uint32_t ring_sq_mask, ring_cq_mask;
static const struct io_uring_cqe *ring_cqes;
static const uint32_t *ring_cq_tail;

static void *ring_map(size_t bytes, off_t what)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring_fd, what);
    if (p == MAP_FAILED) {
        die("io_uring");
    }
    return p;
}

static void ring_open(void)
{
    struct io_uring_params params = {0};
    ring_fd = (int)syscall(SYS_io_uring_setup, 4, &params);
    if (ring_fd < 0 ||
        syscall(SYS_io_uring_register, ring_fd, IORING_REGISTER_EVENTFD, &done_fd, 1) < 0) {
        die("io_uring");
    }
    uint8_t *sq =
        ring_map(params.sq_off.array + params.sq_entries * sizeof(uint32_t), IORING_OFF_SQ_RING);
    uint8_t *cq = ring_map(params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe),
                           IORING_OFF_CQ_RING);
    ring_sqe = ring_map(params.sq_entries * sizeof *ring_sqe, IORING_OFF_SQES);
    ring_sq_tail = (uint32_t *)(void *)(sq + params.sq_off.tail);
    ring_sq_array = (uint32_t *)(void *)(sq + params.sq_off.array);
    ring_sq_mask = *(uint32_t *)(void *)(sq + params.sq_off.ring_mask);
    ring_cq_head = (uint32_t *)(void *)(cq + params.cq_off.head);
    ring_cq_tail = (uint32_t *)(void *)(cq + params.cq_off.tail);
    ring_cq_mask = *(uint32_t *)(void *)(cq + params.cq_off.ring_mask);
    ring_cqes = (struct io_uring_cqe *)(void *)(cq + params.cq_off.cqes);
}

static void ring_write(const uint8_t *buffer, size_t bytes)
{
    size_t padded = (bytes + BLOCK - 1) / BLOCK * BLOCK;
    if (log_at + padded > LOG_BYTES) {
        log_at = 0;
    }
    uint32_t tail = *ring_sq_tail;
    ring_sqe[tail & ring_sq_mask] = (struct io_uring_sqe){.opcode = IORING_OP_WRITE,
                                                          .fd = log_fd,
                                                          .addr = (uintptr_t)buffer,
                                                          .len = (uint32_t)padded,
                                                          .off = log_at};
    ring_sq_array[tail & ring_sq_mask] = tail & ring_sq_mask;
    __atomic_store_n(ring_sq_tail, tail + 1, __ATOMIC_RELEASE);
    if (syscall(SYS_io_uring_enter, ring_fd, 1, 0, 0, NULL, 0) != 1) {
        die("io_uring");
    }
    log_at += padded;
}

static void ring_reap(void)
{
    uint32_t head = *ring_cq_head;
    for (; head != __atomic_load_n(ring_cq_tail, __ATOMIC_ACQUIRE); head++) {
        if (ring_cqes[head & ring_cq_mask].res <= 0) {
            errno = -ring_cqes[head & ring_cq_mask].res;
            die("log");
        }
    }
    __atomic_store_n(ring_cq_head, head, __ATOMIC_RELEASE);
}

/* ---- A thread ---- */

static void *thread_main(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (!thread_has_work) {
            pthread_cond_wait(&wake, &lock);
        }
        thread_has_work = false;
        pthread_mutex_unlock(&lock);
        store(thread_buffer, thread_bytes);
        uint64_t one = 1;
        if (write(done_fd, &one, sizeof one) < 0) {
            die("eventfd");
        }
        pthread_mutex_lock(&lock);
    }
    return NULL;
}

static void send_all(int fd, const uint8_t *data, size_t bytes)
{
    while (bytes > 0) {
        ssize_t n = send(fd, data, bytes, MSG_NOSIGNAL);
        if (n < 0) {
            return; /* the client is gone: its next read tells */
        }
        data += n;
        bytes -= (size_t)n;
    }
}

static void answer(void)
{
    for (int i = 0; i < clients_count; i++) {
        if (clients[i]->out_bytes > 0) {
            send_all(clients[i]->fd, clients[i]->out, clients[i]->out_bytes);
            clients[i]->out_bytes = 0;
        }
    }
}

static void mark(struct client *client, const uint8_t *request)
{
    uint64_t bit = load_le64(request + 8) % BITS, mask = UINT64_C(1) << (bit % 64);
    if (log_fd >= 0 && !(bitmap[bit / 64] & mask)) {
        store_le64(room(&log_buffer, &log_capacity, log_bytes, BLOCK), bit);
        log_bytes += 16;
    }
    bitmap[bit / 64] |= mask;
    if (threaded) {
        memcpy(room(&client->next, &client->next_capacity, client->next_bytes, 16), request, 16);
        client->next_bytes += 16;
    } else {
        memcpy(room(&client->out, &client->out_capacity, client->out_bytes, 16), request, 16);
        client->out_bytes += 16;
    }
}

static bool take(struct client *client)
{
    static uint8_t buffer[READ_BYTES + 16];
    memcpy(buffer, client->part, client->part_bytes);
    ssize_t n = recv(client->fd, buffer + client->part_bytes, READ_BYTES, 0);
    if (n <= 0) {
        return false;
    }
    size_t bytes = client->part_bytes + (size_t)n, at = 0;
    for (; bytes - at >= 16; at += 16) {
        mark(client, buffer + at);
    }
    client->part_bytes = bytes - at;
    memcpy(client->part, buffer + at, bytes - at);
    return true;
}

static void drop(int epoll, struct client *client)
{
    (void)epoll_ctl(epoll, EPOLL_CTL_DEL, client->fd, NULL);
    for (int i = 0; i < clients_count; i++) {
        if (clients[i] == client) {
            clients[i] = clients[--clients_count];
        }
    }
    (void)close(client->fd);
    free(client->out);
    free(client->next);
    free(client);
}

static void end_turn(void)
{
    if (!threaded) {
        if (log_bytes > 0) {
            store(log_buffer, log_bytes);
            log_bytes = 0;
        }
        answer();
        return;
    }
    if (thread_busy) {
        return;
    }
    for (int i = 0; i < clients_count; i++) {
        struct client *client = clients[i];
        uint8_t *out = client->out;
        size_t capacity = client->out_capacity;
        client->out = client->next;
        client->out_bytes = client->next_bytes;
        client->out_capacity = client->next_capacity;
        client->next = out;
        client->next_bytes = 0;
        client->next_capacity = capacity;
    }
    if (log_bytes == 0) {
        answer();
        return;
    }
    uint8_t *buffer = thread_buffer;
    size_t capacity = thread_capacity;
    thread_buffer = log_buffer;
    thread_bytes = log_bytes;
    thread_capacity = log_capacity;
    log_buffer = buffer;
    log_capacity = capacity;
    log_bytes = 0;
    thread_busy = true;
    if (uring) {
        ring_write(thread_buffer, thread_bytes);
        return;
    }
    pthread_mutex_lock(&lock);
    thread_has_work = true;
    pthread_cond_signal(&wake);
    pthread_mutex_unlock(&lock);
}

static void add(int epoll, int fd, void *what)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = what};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0) {
        die("epoll_ctl");
    }
}

static int listen_at(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (strlen(path) >= sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        die(path);
    }
    strcpy(address.sun_path, path);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(fd, 1024) < 0) {
        die(path);
    }
    return fd;
}

static void open_log(const char *path)
{
    uint8_t *zeros = calloc(1, 1 << 20);
    log_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (log_fd < 0 || !zeros) {
        die(path);
    }
    for (uint64_t at = 0; at < LOG_BYTES; at += 1 << 20) {
        if (pwrite(log_fd, zeros, 1 << 20, (off_t)at) != 1 << 20) {
            die(path);
        }
    }
    if (fsync(log_fd) < 0) {
        die(path);
    }
    free(zeros);
}

static void reopen_log(const char *path)
{
    (void)close(log_fd);
    log_fd = open(path, O_RDWR | O_DIRECT | O_DSYNC | O_CLOEXEC);
    if (log_fd < 0) {
        die(path);
    }
}

int main(int argc, char **argv)
{
    const char *path = NULL, *log = NULL;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--log") == 0 && i + 1 < argc) {
            log = argv[++i];
        } else if (strcmp(argv[i], "--thread") == 0) {
            threaded = true;
        } else if (strcmp(argv[i], "--direct") == 0) {
            direct = true;
        } else if (strcmp(argv[i], "--uring") == 0) {
            threaded = uring = direct = true;
        } else {
            path = argv[i];
        }
    }
    if (!path) {
        (void)fprintf(stderr,
                      "usage: reference [--log FILE [--direct] [--thread | --uring]] SOCKET\n");
        return 2;
    }
    if (log) {
        open_log(log);
    }
    if (log && direct) {
        reopen_log(log);
    }
    int epoll = epoll_create1(EPOLL_CLOEXEC), listener = listen_at(path);
    add(epoll, listener, &listener);
    if (threaded) {
        pthread_t thread;
        done_fd = eventfd(0, EFD_CLOEXEC);
        if (done_fd < 0 || (!uring && pthread_create(&thread, NULL, thread_main, NULL) != 0)) {
            die("thread");
        }
        if (uring) {
            ring_open();
        }
        add(epoll, done_fd, &done_fd);
    }
    for (;;) {
        struct epoll_event events[256];
        int n = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < n; i++) {
            void *what = events[i].data.ptr;
            if (what == &listener) {
                int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
                struct client *client = calloc(1, sizeof *client);
                if (fd < 0 || !client || clients_count == CLIENTS_MAX) {
                    die("accept");
                }
                client->fd = fd;
                clients[clients_count++] = client;
                add(epoll, fd, client);
            } else if (what == &done_fd) {
                uint64_t count;
                if (read(done_fd, &count, sizeof count) < 0) {
                    die("eventfd");
                }
                if (uring) {
                    ring_reap();
                }
                thread_busy = false;
                answer();
            } else if (!take(what)) {
                drop(epoll, what);
            }
        }
        end_turn();
    }
}
