/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The load generator of the benchmarks: the same marks to redis, to the bare
 * reference server, or to bitmapd.
 *
 * Each of C clients sends P requests at once and waits for all P answers
 * before it sends the next P, as redis-benchmark -P does.  A request is one
 * bit of 2^28: SETBIT, 16 bytes for the reference, MARK for bitmapd, where one
 * frame may hold several.  The bits are a permutation, so that none comes
 * twice in a run and the next run can go on where this one ended (--first).
 *
 * One thread, so that on two processors the other one is the server's; what it
 * does per request is kept small, since it is measured too.
 *
 * Prints one line of JSON: how many, how long, and the latency of requests
 * from their write(2) to the read(2) that brought the answer.
 */
#include "proto/base/endian.h"
#include "proto/frame.h"
#include "proto/message.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define BITS_LOG2     28
#define GRANULE_BYTES UINT64_C(65536)
#define CLIENTS_MAX   4096
#define DEPTH_MAX     4096
#define REQUEST_BYTES 64u /* of one request, at most */
/* Latencies in buckets of an eighth of their power of two. */
#define BUCKETS (64 * 8)

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vfprintf(stderr, format, args);
    (void)fputc('\n', stderr);
    va_end(args);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

struct client;

/* How a peer is spoken to. */
struct protocol {
    const char *name;
    size_t reply_bytes;
    bool frames; /* several bits may share a request */
    /* Writes one request for @count bits; returns its length. */
    size_t (*encode)(uint8_t *p, const uint64_t *bits, uint32_t count);
    void (*check)(const uint8_t *reply);
    void (*connected)(int fd);
};

static struct options {
    const struct protocol *protocol;
    const char *socket;
    uint32_t clients, depth, ranges;
    uint64_t first, marks;
    uint64_t duration_ns;
    uint32_t bits_log2; /* of a drive, at most 28 */
    bool half;          /* only bits that have 64 set in their number */
    uint64_t window;    /* bits come from so many; they repeat after that */
    uint64_t drive;     /* id; the drives are this one and those after it */
    uint32_t drives;
    uint64_t gap_ns; /* between a client's requests */
} options = {
    .clients = 1, .depth = 1, .ranges = 1, .bits_log2 = BITS_LOG2, .drive = 1, .drives = 1};

/* A permutation of the numbers of all bits: each step can be undone. */
static uint64_t permute(uint64_t n)
{
    const uint64_t mask = (UINT64_C(1) << options.bits_log2) - 1;
    n &= mask;
    n = (n * UINT64_C(0x9e3779b1)) & mask;
    n ^= n >> 15;
    n = (n * UINT64_C(0x85ebca77)) & mask;
    n ^= n >> 13;
    return options.half ? (n & ~UINT64_C(63)) << 1 | 64 | (n & 63) : n;
}

/* ---- redis ---- */

static size_t redis_encode(uint8_t *p, const uint64_t *bits, uint32_t count)
{
    (void)count;
    static const char head[] = "*4\r\n$6\r\nSETBIT\r\n$4\r\nbits\r\n$";
    static const char tail[] = "\r\n$1\r\n1\r\n";
    char digits[20];
    size_t n = sizeof digits;
    uint64_t bit = bits[0];
    do {
        digits[--n] = (char)('0' + bit % 10);
        bit /= 10;
    } while (bit > 0);
    size_t length = sizeof digits - n;

    uint8_t *start = p;
    memcpy(p, head, sizeof head - 1);
    p += sizeof head - 1;
    *p++ = (uint8_t)('0' + length);
    *p++ = '\r';
    *p++ = '\n';
    memcpy(p, digits + n, length);
    p += length;
    memcpy(p, tail, sizeof tail - 1);
    return (size_t)(p - start) + sizeof tail - 1;
}

static void redis_check(const uint8_t *reply)
{
    if (reply[0] != ':') {
        fail("redis answers '%.4s…'", (const char *)reply);
    }
}

/* ---- The reference: u64 cookie, u64 bit; answered with the same ---- */

static size_t reference_encode(uint8_t *p, const uint64_t *bits, uint32_t count)
{
    (void)count;
    store_le64(p, 1);
    store_le64(p + 8, bits[0]);
    return 16;
}

static void reference_check(const uint8_t *reply)
{
    if (load_le64(reply) != 1) {
        fail("the reference server answers nonsense");
    }
}

/* ---- bitmapd ---- */

static size_t bitmapd_encode(uint8_t *p, const uint64_t *bits, uint32_t count)
{
    static uint64_t cookie;
    if (cookie == 0) {
        cookie = options.first / options.ranges; /* drives take turns across runs as well */
    }
    struct frame frame = {.operation = OPERATION_MARK,
                          .cookie = ++cookie,
                          .payload_bytes = 8 + 8 + 4 + count * WIRE_RANGE_BYTES};
    uint8_t *start = p;

    frame_encode_header(p, &frame);
    p += FRAME_HEADER_BYTES;
    store_le64(p, options.drive + (options.drives > 1 ? cookie % options.drives : 0));
    store_le64(p + 8, 0);
    store_le32(p + 16, count);
    p += 20;
    for (uint32_t i = 0; i < count; i++, p += WIRE_RANGE_BYTES) {
        store_le64(p, bits[i] * GRANULE_BYTES);
        store_le64(p + 8, 4096);
    }
    return (size_t)(p - start);
}

static void bitmapd_check(const uint8_t *reply)
{
    if (load_le32(reply) != FRAME_HEADER_BYTES || reply[6] != FRAME_REPLY || reply[7] != 0) {
        fail("bitmapd answers with status %u", reply[7]);
    }
}

static void read_all(int fd, void *buffer, size_t bytes)
{
    for (size_t got = 0; got < bytes;) {
        ssize_t n = read(fd, (char *)buffer + got, bytes - got);
        if (n <= 0) {
            fail("the connection ended during HELLO");
        }
        got += (size_t)n;
    }
}

static void bitmapd_connected(int fd)
{
    struct message_hello hello = {.magic = PROTOCOL_MAGIC,
                                  .version_min = PROTOCOL_VERSION_MIN,
                                  .version_max = PROTOCOL_VERSION_MAX,
                                  .client = {"bench", 5}};
    struct wire_buffer buffer = {0};
    if (message_encode(&buffer, MESSAGE_HELLO, &hello, OPERATION_HELLO, 0, 0, 1) < 0 ||
        write(fd, buffer.data, buffer.bytes) != (ssize_t)buffer.bytes) {
        fail("cannot say HELLO");
    }
    wire_buffer_deinit(&buffer);
    uint8_t reply[4096];
    read_all(fd, reply, FRAME_HEADER_BYTES);
    read_all(fd, reply + FRAME_HEADER_BYTES, load_le32(reply) - FRAME_HEADER_BYTES);
    if (reply[7] != 0) {
        fail("HELLO is refused with status %u", reply[7]);
    }
}

static const struct protocol protocols[] = {
    {"redis", 4, false, redis_encode, redis_check, NULL},
    {"reference", 16, false, reference_encode, reference_check, NULL},
    {"bitmapd", FRAME_HEADER_BYTES, true, bitmapd_encode, bitmapd_check, bitmapd_connected},
};

/* ---- Clients ---- */

struct client {
    int fd;
    uint32_t waiting; /* requests not answered */
    uint8_t *out;
    size_t out_bytes, out_sent;
    uint8_t partial[64]; /* of a reply */
    size_t partial_bytes;
    uint64_t sent_ns;
    bool writable; /* waits for room in the socket */
};

static uint64_t next_mark, marks_sent, marks_done;
static uint64_t histogram[BUCKETS], latency_max;
static bool finished;

static void record_latency(uint64_t ns, uint64_t count)
{
    uint32_t log2 = ns < 8 ? 3 : 63 - (uint32_t)__builtin_clzll(ns);
    uint32_t bucket = log2 * 8 + (uint32_t)((ns >> (log2 - 3)) & 7);
    histogram[bucket] += count;
    latency_max = ns > latency_max ? ns : latency_max;
}

static double percentile_us(double share)
{
    uint64_t total = 0, below = 0;
    for (uint32_t i = 0; i < BUCKETS; i++) {
        total += histogram[i];
    }
    for (uint32_t i = 0; i < BUCKETS; i++) {
        below += histogram[i];
        if (total > 0 && (double)below >= share * (double)total) {
            uint32_t log2 = i / 8;
            double low = (double)((UINT64_C(8) + i % 8) << (log2 - 3));
            return low * (1 + 1.0 / 16) / 1000;
        }
    }
    return 0;
}

static void watch(int epoll, struct client *client, bool writable)
{
    if (client->writable != writable) {
        struct epoll_event event = {.events = EPOLLIN | (writable ? EPOLLOUT : 0),
                                    .data.ptr = client};
        client->writable = writable;
        if (epoll_ctl(epoll, EPOLL_CTL_MOD, client->fd, &event) < 0) {
            fail("epoll_ctl: %s", strerror(errno));
        }
    }
}

static void push(int epoll, struct client *client)
{
    while (client->out_sent < client->out_bytes) {
        ssize_t n = send(client->fd, client->out + client->out_sent,
                         client->out_bytes - client->out_sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN) {
            break;
        }
        if (n < 0) {
            fail("send: %s", strerror(errno));
        }
        client->out_sent += (size_t)n;
    }
    watch(epoll, client, client->out_sent < client->out_bytes);
}

static void start(int epoll, struct client *client)
{
    uint64_t bits[DEPTH_MAX];
    const struct protocol *protocol = options.protocol;

    client->out_bytes = client->out_sent = 0;
    for (uint32_t i = 0; i < options.depth; i += options.ranges) {
        for (uint32_t j = 0; j < options.ranges; j++) {
            bits[j] = permute(next_mark++ % options.window);
        }
        client->out_bytes +=
            protocol->encode(client->out + client->out_bytes, bits, options.ranges);
        client->waiting++;
    }
    marks_sent += options.depth;
    client->sent_ns = now_ns();
    push(epoll, client);
}

static void take(struct client *client)
{
    const struct protocol *protocol = options.protocol;
    uint8_t buffer[65536];
    memcpy(buffer, client->partial, client->partial_bytes);
    ssize_t n =
        recv(client->fd, buffer + client->partial_bytes, sizeof buffer - client->partial_bytes, 0);
    if (n < 0 && errno == EAGAIN) {
        return;
    }
    if (n <= 0) {
        fail("the server has closed a connection");
    }
    size_t bytes = client->partial_bytes + (size_t)n, at = 0;
    uint32_t replies = 0;
    for (; bytes - at >= protocol->reply_bytes; at += protocol->reply_bytes) {
        protocol->check(buffer + at);
        replies++;
    }
    client->partial_bytes = bytes - at;
    memcpy(client->partial, buffer + at, bytes - at);
    client->waiting -= replies;
    marks_done += (uint64_t)replies * options.ranges;
    record_latency(now_ns() - client->sent_ns, (uint64_t)replies * options.ranges);
}

static int connect_one(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(options.socket) >= sizeof address.sun_path) {
        fail("the path of the socket is too long");
    }
    strcpy(address.sun_path, options.socket);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        fail("cannot connect to %s: %s", options.socket, strerror(errno));
    }
    if (options.protocol->connected) {
        options.protocol->connected(fd);
    }
    return fd;
}

static void run(void)
{
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct client *clients = calloc(options.clients, sizeof *clients);
    if (!clients || epoll < 0) {
        fail("out of memory");
    }
    next_mark = options.first;
    for (uint32_t i = 0; i < options.clients; i++) {
        struct client *client = &clients[i];
        client->fd = connect_one();
        client->out = malloc((size_t)options.depth * REQUEST_BYTES);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};
        if (!client->out || epoll_ctl(epoll, EPOLL_CTL_ADD, client->fd, &event) < 0) {
            fail("out of memory");
        }
    }

    uint64_t begin = now_ns(), end = begin + options.duration_ns;
    uint32_t busy = 0;
    for (uint32_t i = 0; i < options.clients; i++) {
        start(epoll, &clients[i]);
        busy++;
    }
    while (busy > 0) {
        struct epoll_event events[256];
        int n = epoll_wait(epoll, events, 256, 10000);
        if (n == 0) {
            fail("no answer within ten seconds");
        }
        for (int i = 0; i < n; i++) {
            struct client *client = events[i].data.ptr;
            if (events[i].events & EPOLLOUT) {
                push(epoll, client);
            }
            if (events[i].events & ~(uint32_t)EPOLLOUT) {
                take(client);
            }
            if (client->waiting == 0 && client->out_sent == client->out_bytes) {
                finished =
                    finished || (options.marks ? marks_sent >= options.marks : now_ns() >= end);
                if (finished) {
                    busy--;
                    (void)epoll_ctl(epoll, EPOLL_CTL_DEL, client->fd, NULL);
                } else {
                    if (options.gap_ns) {
                        struct timespec gap = {0, (long)options.gap_ns};
                        (void)nanosleep(&gap, NULL);
                    }
                    start(epoll, client);
                }
            }
        }
    }
    double seconds = (double)(now_ns() - begin) / 1e9;
    printf("{\"marks\":%" PRIu64 ",\"seconds\":%.6f,\"rate\":%.1f,\"next\":%" PRIu64
           ",\"p50_us\":%.1f,\"p99_us\":%.1f,\"p999_us\":%.1f,\"max_us\":%.1f}\n",
           marks_done, seconds, (double)marks_done / seconds, next_mark, percentile_us(0.5),
           percentile_us(0.99), percentile_us(0.999), (double)latency_max / 1000);
    for (uint32_t i = 0; i < options.clients; i++) {
        (void)close(clients[i].fd);
        free(clients[i].out);
    }
    free(clients);
    (void)close(epoll);
}

static uint64_t number(const char *text)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 0);
    if (errno != 0 || *end != '\0' || end == text) {
        fail("'%s' is no number", text);
    }
    return value;
}

int main(int argc, char **argv)
{
    static const struct option known[] = {
        {"protocol", required_argument, NULL, 'p'},
        {"socket", required_argument, NULL, 's'},
        {"clients", required_argument, NULL, 'c'},
        {"depth", required_argument, NULL, 'd'},
        {"ranges", required_argument, NULL, 'r'},
        {"first", required_argument, NULL, 'f'},
        {"marks", required_argument, NULL, 'm'},
        {"ms", required_argument, NULL, 't'},
        {"window", required_argument, NULL, 'w'},
        {"drive", required_argument, NULL, 'i'},
        {"drives", required_argument, NULL, 'n'},
        {"gap-us", required_argument, NULL, 'g'},
        {"bits-log2", required_argument, NULL, 'b'},
        {"half", no_argument, NULL, 'h'},
        {0},
    };
    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (c) {
        case 'p':
            for (size_t i = 0; i < sizeof protocols / sizeof protocols[0]; i++) {
                if (strcmp(protocols[i].name, optarg) == 0) {
                    options.protocol = &protocols[i];
                }
            }
            break;
        case 's':
            options.socket = optarg;
            break;
        case 'c':
            options.clients = (uint32_t)number(optarg);
            break;
        case 'd':
            options.depth = (uint32_t)number(optarg);
            break;
        case 'r':
            options.ranges = (uint32_t)number(optarg);
            break;
        case 'f':
            options.first = number(optarg);
            break;
        case 'm':
            options.marks = number(optarg);
            break;
        case 't':
            options.duration_ns = number(optarg) * 1000000;
            break;
        case 'w':
            options.window = number(optarg);
            break;
        case 'i':
            options.drive = number(optarg);
            break;
        case 'n':
            options.drives = (uint32_t)number(optarg);
            break;
        case 'g':
            options.gap_ns = number(optarg) * 1000;
            break;
        case 'b':
            options.bits_log2 = (uint32_t)number(optarg);
            break;
        case 'h':
            options.half = true;
            break;
        default:
            return 2;
        }
    }
    if (options.bits_log2 == 0 || options.bits_log2 > BITS_LOG2) {
        fail("a drive has 1 to %d bits, as a power of two", BITS_LOG2);
    }
    if (options.window == 0) {
        options.window = UINT64_C(1) << options.bits_log2;
    }
    if (!options.protocol || !options.socket || options.clients == 0 ||
        options.clients > CLIENTS_MAX || options.depth == 0 || options.depth > DEPTH_MAX ||
        options.ranges == 0 || options.depth % options.ranges != 0 ||
        (options.ranges > 1 && !options.protocol->frames) || options.drives == 0 ||
        (options.marks == 0 && options.duration_ns == 0)) {
        fail("usage: load --protocol redis|reference|bitmapd --socket PATH --ms N | --marks N\n"
             "  [--clients C] [--depth P] [--ranges N] [--first N] [--window N]\n"
             "  [--drive ID] [--drives N] [--gap-us N] [--bits-log2 N] [--half]");
    }
    run();
    return 0;
}
