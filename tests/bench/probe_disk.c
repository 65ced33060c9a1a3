/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the disk can do by itself, and how long a daemon takes to start.
 *
 * Both are measured from a small program, since Python's own start and its
 * fork would be a part of what is measured otherwise.
 */
#include "tests/bench/probe.h"

#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* A new one is written with zeros, so that nothing is allocated later. */
static int open_written(const char *path, uint64_t bytes)
{
    static const char zeros[1 << 20];
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    struct stat status;

    if (fd < 0 || fstat(fd, &status) < 0) {
        fail("cannot open %s", path);
    }
    for (uint64_t at = (uint64_t)status.st_size; at < bytes; at += sizeof zeros) {
        if (pwrite(fd, zeros, sizeof zeros, (off_t)at) != sizeof zeros) {
            fail("cannot write %s", path);
        }
    }
    if (fdatasync(fd) < 0) {
        fail("cannot sync %s", path);
    }
    return fd;
}

/* sync FILE FILE-BYTES BLOCK-BYTES BLOCKS ROUNDS: blocks at random places, then fdatasync(2). */
void verb_sync(char **arguments)
{
    uint64_t bytes = number(arguments[1]), block = number(arguments[2]);
    uint64_t blocks = number(arguments[3]), rounds = number(arguments[4]);
    uint64_t seed = now_ns();
    int fd = open_written(arguments[0], bytes);
    char *buffer = malloc(block);
    uint64_t *times = calloc(rounds, sizeof *times);

    if (!buffer || !times) {
        fail("out of memory");
    }
    memset(buffer, 0x5a, block);
    for (uint64_t i = 0; i < rounds; i++) {
        uint64_t begin = now_ns();
        for (uint64_t j = 0; j < blocks; j++) {
            uint64_t at = random_next(&seed) % (bytes / block) * block;
            if (pwrite(fd, buffer, block, (off_t)at) != (ssize_t)block) {
                fail("cannot write %s", arguments[0]);
            }
        }
        if (fdatasync(fd) < 0) {
            fail("cannot sync %s", arguments[0]);
        }
        times[i] = now_ns() - begin;
    }
    printf("{\"ms\":%.4f}\n", median_ms(times, rounds));
    free(times);
    free(buffer);
    (void)close(fd);
}

/*
 * start SOCKET COMMAND …: from fork(2) until it says READY=1 on @SOCKET, which
 * is made for that, and from SIGTERM to its end.
 */
void verb_start(char **arguments)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(arguments[0]) >= sizeof address.sun_path) {
        fail("the path of the socket is too long");
    }
    strcpy(address.sun_path, arguments[0]);
    (void)unlink(arguments[0]);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 ||
        setenv("NOTIFY_SOCKET", arguments[0], 1) < 0) {
        fail("cannot bind %s", arguments[0]);
    }

    uint64_t begin = now_ns();
    pid_t child = fork();
    if (child == 0) {
        (void)execvp(arguments[1], arguments + 1);
        _exit(127);
    }
    if (child < 0) {
        fail("cannot fork");
    }
    struct timeval patience = {.tv_sec = 60};
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    char text[4096] = "";
    do {
        ssize_t n = recv(fd, text, sizeof text - 1, 0);
        if (n < 0) {
            (void)kill(child, SIGKILL);
            fail("%s is not ready within a minute", arguments[1]);
        }
        text[n] = '\0';
    } while (!strstr(text, "READY=1"));
    uint64_t ready = now_ns();
    int status;
    if (kill(child, SIGTERM) < 0 || waitpid(child, &status, 0) != child || status != 0) {
        fail("%s does not end well", arguments[1]);
    }
    printf("{\"ready_ms\":%.4f,\"stop_ms\":%.4f}\n", (double)(ready - begin) / 1e6,
           (double)(now_ns() - ready) / 1e6);
    (void)unlink(arguments[0]);
    (void)close(fd);
}
