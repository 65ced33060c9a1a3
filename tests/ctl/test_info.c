/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * `container info` beside a daemon that commits meanwhile: a scripted
 * container takes the real one's place (ld --wrap), and each reading meets
 * what the script says.
 */
#include "client/ctl/verbs.h"
#include "daemon/container/container.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* One opening: its result, and what is found then. */
struct opening {
    int result;
    uint8_t commit;
    bool damaged;
};

static const struct opening *script;
static size_t script_length;
static size_t openings; /* used up */
static int open_containers;
static unsigned reads;

struct container {
    struct opening opening;
};

int __wrap_file_open_posix(const char *path, enum file_mode mode, struct file **ret_file,
                           int *ret_fd, struct error *error);
int __wrap_container_lock(int fd, bool write, struct error *error);
int __wrap_container_open(struct file *file, unsigned flags, struct container **ret,
                          struct error *error);
void __wrap_container_closep(struct container **container);
void __wrap_container_get_info(const struct container *container, struct container_info *ret);
void __wrap_container_bitmap_get(const struct container *container, uint32_t index,
                                 struct container_bitmap_info *ret);
int __wrap_container_bitmap_read(struct container *container, uint32_t index, uint32_t l1_index,
                                 void *buffer, enum container_cluster_kind *ret_kind,
                                 struct error *error);

static void no_close(struct file *file)
{
    (void)file;
}

int __wrap_file_open_posix(const char *path, enum file_mode mode, struct file **ret_file,
                           int *ret_fd, struct error *error)
{
    static const struct file_ops ops = {.close = no_close};
    static struct file file = {.ops = &ops};

    (void)error;
    assert_string_equal(path, "c.qcow2");
    assert_int_equal(mode, FILE_READ);
    *ret_file = &file;
    *ret_fd = 99;
    return 0;
}

int __wrap_container_lock(int fd, bool write, struct error *error)
{
    (void)error;
    assert_int_equal(fd, 99);
    assert_false(write);
    return 0;
}

int __wrap_container_open(struct file *file, unsigned flags, struct container **ret,
                          struct error *error)
{
    (void)file;
    assert_int_equal(flags, 0);
    assert_true(openings < script_length);
    const struct opening *opening = &script[openings++];
    if (opening->result < 0) {
        return error_set(error, opening->result, "scripted");
    }
    *ret = calloc(1, sizeof **ret);
    assert_non_null(*ret);
    (*ret)->opening = *opening;
    open_containers++;
    return 0;
}

void __wrap_container_closep(struct container **container)
{
    if (*container) {
        open_containers--;
        free(*container);
    }
}

void __wrap_container_get_info(const struct container *container, struct container_info *ret)
{
    *ret = (struct container_info){
        .cluster_size = 512,
        .has_private = true,
        .commit_id = {.bytes = {container->opening.commit}},
        .bitmaps = 1,
    };
}

void __wrap_container_bitmap_get(const struct container *container, uint32_t index,
                                 struct container_bitmap_info *ret)
{
    (void)container;
    assert_int_equal(index, 0);
    *ret = (struct container_bitmap_info){
        .id = 1,
        .name = "d/n",
        .name_bytes = 3,
        .granularity = 512,
        .sectors = 3 * 4096,
        .l1_entries = 3,
        .allocated_clusters = 3,
    };
}

int __wrap_container_bitmap_read(struct container *container, uint32_t index, uint32_t l1_index,
                                 void *buffer, enum container_cluster_kind *ret_kind,
                                 struct error *error)
{
    (void)index;
    reads++;
    if (container->opening.damaged && l1_index == 1) {
        return error_set(error, -EBADMSG, "scripted damage");
    }
    memset(buffer, 0xff, 512);
    *ret_kind = CONTAINER_DATA;
    return 0;
}

/* Runs `container info` over the script; checks that all of it is used and nothing stays open. */
static int info(const struct opening *openings_now, size_t count, char *text, size_t text_bytes)
{
    const char *operands[] = {"c.qcow2"};
    const struct invocation inv = {
        .operands = operands,
        .operands_count = 1,
        .format = OUTPUT_JSON,
    };

    script = openings_now;
    script_length = count;
    openings = 0;
    reads = 0;
    /* The text goes to standard output, which is a file meanwhile. */
    FILE *file = tmpfile();
    assert_non_null(file);
    (void)fflush(stdout);
    int saved = dup(STDOUT_FILENO);
    assert_true(saved >= 0 && dup2(fileno(file), STDOUT_FILENO) >= 0);
    int code = image_info(&inv);
    (void)fflush(stdout);
    assert_true(dup2(saved, STDOUT_FILENO) >= 0);
    (void)close(saved);
    rewind(file);
    text[fread(text, 1, text_bytes - 1, file)] = '\0';
    (void)fclose(file);
    assert_int_equal(openings, count);
    assert_int_equal(open_containers, 0);
    return code;
}

#define INFO(text, ...)                                                                \
    info((const struct opening[]){__VA_ARGS__},                                        \
         sizeof((const struct opening[]){__VA_ARGS__}) / sizeof(struct opening), text, \
         sizeof text)

static void test_each_cluster_is_read_once(void **state)
{
    char text[4096];

    (void)state;
    assert_int_equal(INFO(text, {.commit = 1}), 0);
    assert_int_equal(reads, 3);
    assert_non_null(strstr(text, "\"dirty_bytes\":6291456"));
}

static void test_damage_is_told(void **state)
{
    char text[4096];

    (void)state;
    /* The second opening is for the commit id only. */
    assert_int_equal(INFO(text, {.commit = 1, .damaged = true}, {.commit = 1}), 0);
    assert_int_equal(reads, 2);
    assert_non_null(strstr(text, "\"dirty_bytes\":null"));
    assert_non_null(strstr(text, "scripted damage"));
}

static void test_commit_meanwhile_is_no_damage(void **state)
{
    char text[4096];

    (void)state;
    assert_int_equal(INFO(text, {.commit = 1, .damaged = true}, {.commit = 2}, {.commit = 2}), 0);
    assert_non_null(strstr(text, "\"dirty_bytes\":6291456"));
    assert_null(strstr(text, "scripted damage"));

    /* Twice in a row: the container is busy, and nothing is printed. */
    assert_int_equal(INFO(text, {.commit = 1, .damaged = true}, {.commit = 2},
                          {.commit = 2, .damaged = true}, {.commit = 3}),
                     5);
    assert_string_equal(text, "");

    /* Damage that stays when nothing moves is damage. */
    assert_int_equal(INFO(text, {.commit = 1, .damaged = true}, {.commit = 2},
                          {.commit = 2, .damaged = true}, {.commit = 2}),
                     0);
    assert_non_null(strstr(text, "scripted damage"));
}

static void test_open_that_fails(void **state)
{
    char text[4096];

    (void)state;
    assert_int_equal(INFO(text, {.result = -EBADMSG}, {.commit = 2}), 0);
    assert_int_equal(INFO(text, {.result = -EBADMSG}, {.result = -EBADMSG}), 1);
    assert_string_equal(text, "");
    assert_int_equal(INFO(text, {.result = -EIO}), 1);
    /* What cannot be opened any more has moved. */
    assert_int_equal(INFO(text, {.commit = 1, .damaged = true}, {.result = -EIO}, {.commit = 1}),
                     0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_cluster_is_read_once),
        cmocka_unit_test(test_damage_is_told),
        cmocka_unit_test(test_commit_meanwhile_is_no_damage),
        cmocka_unit_test(test_open_that_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
