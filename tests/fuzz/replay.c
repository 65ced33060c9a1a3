/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A fuzz target without a fuzzer, for any compiler: runs over the files it is
 * given, or all in the directories it is given, and over some mutations of
 * each.  So a finding stays found in every build, and mutator and target are
 * exercised where there is no clang.
 */
#include "tests/fuzz/input.h"
#include "tests/fuzz/target.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static uint64_t random_state;
static unsigned runs;

static uint64_t random_number(void)
{
    uint64_t z = (random_state += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    return z ^ (z >> 29);
}

/* In libFuzzer's place: a byte here, a byte there, sometimes another length. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size)
{
    if (size == 0) {
        return 0;
    }
    if (random_number() % 4 == 0 && size + 4 <= max_size) {
        memset(data + size, (int)(random_number() % 13), 4);
        size += 4;
    }
    for (unsigned i = 0; i <= random_number() % 3; i++) {
        data[random_number() % size] = (uint8_t)random_number();
    }
    return size;
}

static size_t read_all(const char *path, uint8_t *bytes, size_t room)
{
    FILE *f = fopen(path, "rb");

    if (!f) {
        perror(path);
        exit(1);
    }
    size_t n = fread(bytes, 1, room, f);
    (void)fclose(f);
    return n;
}

static void run_file(const char *path, unsigned mutations)
{
    static uint8_t original[INPUT_BYTES_MAX], bytes[INPUT_BYTES_MAX];
    size_t n = read_all(path, original, sizeof original);

    (void)LLVMFuzzerTestOneInput(original, n);
    runs++;
    memcpy(bytes, original, n);
    size_t now = n;
    for (unsigned i = 0; i < mutations; i++) {
        if (i % 8 == 0) {
            memcpy(bytes, original, n);
            now = n;
        }
        now = LLVMFuzzerCustomMutator(bytes, now, sizeof bytes, (unsigned)random_number());
        (void)LLVMFuzzerTestOneInput(bytes, now);
        runs++;
    }
}

static void run_path(const char *path, unsigned mutations)
{
    struct stat st;

    if (stat(path, &st) < 0) {
        perror(path);
        exit(1);
    }
    if (!S_ISDIR(st.st_mode)) {
        run_file(path, mutations);
        return;
    }
    struct dirent **names;
    int n = scandir(path, &names, NULL, alphasort);
    if (n < 0) {
        perror(path);
        exit(1);
    }
    for (int i = 0; i < n; i++) {
        char name[4096];
        (void)snprintf(name, sizeof name, "%s/%s", path, names[i]->d_name);
        if (names[i]->d_name[0] != '.') {
            run_path(name, mutations);
        }
        free(names[i]);
    }
    free(names);
}

int main(int argc, char **argv)
{
    const char *seed = getenv("BITMAPD_TEST_SEED");

    if (argc < 3) {
        (void)fprintf(stderr, "usage: %s MUTATIONS FILE-OR-DIRECTORY...\n", argv[0]);
        return 2;
    }
    random_state = seed ? strtoull(seed, NULL, 10) : 1;
    printf("BITMAPD_TEST_SEED=%" PRIu64 "\n", random_state);
    (void)fflush(stdout);
    for (int i = 2; i < argc; i++) {
        run_path(argv[i], (unsigned)strtoul(argv[1], NULL, 10));
    }
    printf("%u runs\n", runs);
    return runs > 0 ? 0 : 1;
}
