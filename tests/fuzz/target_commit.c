/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Fuzz target: a hostile file is opened for writing, and a script of
 * transactions is run over it, with limits and failing calls in between.
 *
 *   - a file that is refused is not touched;
 *   - a commit is what a second open then finds, and what it did not touch is
 *     what it was;
 *   - an abort leaves what was there before;
 *   - a file that the check called sound is sound after every commit.
 *
 * The script is a string of operations of four bytes: what, and three numbers.
 */
#include "tests/fuzz/input.h"
#include "tests/fuzz/target.h"
#include "tests/fuzz/view.h"

#include "daemon/container/internal.h"

#define WRITES_MAX 64u
#define OPERATION  4u

enum operation {
    OP_ADD,
    OP_WRITE,
    OP_WRITE_ALL,
    OP_ZERO,
    OP_RENAME,
    OP_RESIZE,
    OP_REMOVE,
    OP_COMMIT,
    OP_ABORT,
    OP_REOPEN,
    OP_LIMIT,
    OP_FAIL,
    OPERATIONS,
};

/* A cluster that the open transaction has written; fill 0: zeroed. */
struct written {
    uint64_t id;
    uint32_t l1_index;
    uint8_t fill;
    bool whole; /* or the first byte only */
};

struct session {
    struct memory *memory;
    struct container *c;
    struct container_txn *t;
    struct view view; /* of the last commit */
    bool sound;       /* the check found nothing before */
    bool in_doubt;    /* a commit has failed: the next open may find it */
    uint64_t touched[WRITES_MAX];
    size_t n_touched;
    struct written writes[WRITES_MAX];
    size_t n_writes;
    uint64_t commits;
};

static void forget_writes(struct session *run, uint64_t id)
{
    size_t kept = 0;

    for (size_t i = 0; i < run->n_writes; i++) {
        if (run->writes[i].id != id) {
            run->writes[kept++] = run->writes[i];
        }
    }
    run->n_writes = kept;
}

static void note_write(struct session *run, const struct written *write)
{
    for (size_t i = 0; i < run->n_writes; i++) {
        if (run->writes[i].id == write->id && run->writes[i].l1_index == write->l1_index) {
            run->writes[i] = *write;
            return;
        }
    }
    if (run->n_writes < WRITES_MAX) {
        run->writes[run->n_writes++] = *write;
    }
}

static bool is_touched(const struct session *run, uint64_t id)
{
    for (size_t i = 0; i < run->n_touched; i++) {
        if (run->touched[i] == id) {
            return true;
        }
    }
    return false;
}

/* False when there is no room to remember it; then it had better not be done. */
static bool touch(struct session *run, uint64_t id)
{
    if (is_touched(run, id)) {
        return true;
    }
    if (run->n_touched == WRITES_MAX) {
        return false;
    }
    run->touched[run->n_touched++] = id;
    return true;
}

static void compare_views(const struct view *a, const struct view *b)
{
    MUST(a->info.bitmaps == b->info.bitmaps);
    MUST(a->payload == b->payload);
    for (uint32_t i = 0; i < a->info.bitmaps; i++) {
        const struct view_bitmap *x = &a->bitmaps[i], *y = &b->bitmaps[i];
        MUST(x->id == y->id && x->shape == y->shape);
        MUST(x->good == y->good && (!x->good || x->bits == y->bits));
    }
}

/* What the transaction did not touch. */
static void compare_untouched(const struct session *run, const struct view *now)
{
    for (uint32_t i = 0; i < run->view.info.bitmaps; i++) {
        const struct view_bitmap *before = &run->view.bitmaps[i];
        if (before->id == 0 || is_touched(run, before->id)) {
            continue;
        }
        const struct view_bitmap *after = view_find(now, before->id);
        MUST(after && after->shape == before->shape);
        MUST(!before->good || (after->good && after->bits == before->bits));
    }
}

static void compare_writes(struct session *run)
{
    uint64_t size = cluster_bytes(run->c);
    uint8_t *bits = malloc(size);
    struct error error;

    MUST(bits);
    for (size_t i = 0; i < run->n_writes; i++) {
        const struct written *w = &run->writes[i];
        enum container_cluster_kind kind;
        uint32_t index;
        MUST(container_bitmap_find(run->c, w->id, &index) == 0);
        memset(bits, 0, size);
        if (container_bitmap_read(run->c, index, w->l1_index, bits, &kind, &error) < 0) {
            continue; /* damaged before, and not written whole */
        }
        MUST(kind == (w->fill ? CONTAINER_DATA : CONTAINER_ZEROS));
        MUST(bits[0] == w->fill);
        MUST(bits[size - 1] == (w->whole ? w->fill : 0));
    }
    free(bits);
}

static void check_file(struct session *run)
{
    struct container_check_report report;
    uint64_t changes = run->memory->changes;

    int r = view_check(&run->memory->file, &report);
    MUST(run->memory->changes == changes);
    if (run->sound) {
        MUST(r == 0 && report.corruptions == 0);
    }
}

/* The end of a transaction, good or bad. */
static void settle(struct session *run, bool committed)
{
    struct view now, again;

    run->t = NULL;
    run->memory->fail_call = 0;
    view_take(run->c, &now);
    if (committed) {
        compare_untouched(run, &now);
        compare_writes(run);
        struct container *c = view_open(&run->memory->file, 0);
        MUST(c);
        view_take(c, &again);
        compare_views(&now, &again);
        view_release(&again);
        container_close(c);
        check_file(run);
        run->in_doubt = false;
    } else {
        compare_views(&now, &run->view);
    }
    view_release(&run->view);
    run->view = now;
    run->n_touched = 0;
    run->n_writes = 0;
}

static void give_up(struct session *run)
{
    container_abort(run->t);
    settle(run, false);
}

static void commit(struct session *run, uint8_t a)
{
    struct container_commit_options options = {
        .state = "the state of a fuzzed container",
        .state_bytes = a % 32,
        .applied_seq = run->view.info.applied_seq,
        .clean = a & 1,
    };
    struct error error = {{0}};

    run->commits++;
    memcpy(options.commit_id.bytes, &run->commits, sizeof run->commits);
    if (container_commit(run->t, &options, NULL, &error) < 0) {
        MUST(error.text[0] != '\0');
        run->in_doubt = true;
        give_up(run);
    } else {
        settle(run, true);
    }
}

/* The second open is for writing as well: it may find a commit in doubt. */
static void reopen(struct session *run)
{
    container_abort(run->t);
    run->t = NULL;
    container_close(run->c);
    run->memory->fail_call = 0;
    run->memory->limit = MEMORY_BYTES_MAX;
    run->c = view_open(&run->memory->file, CONTAINER_OPEN_WRITE);
    MUST(run->c);
    struct view now;
    view_take(run->c, &now);
    if (!run->in_doubt) {
        compare_views(&run->view, &now);
    }
    check_file(run);
    view_release(&run->view);
    run->view = now;
    run->in_doubt = false;
    run->n_touched = 0;
    run->n_writes = 0;
}

static int resize(struct session *run, uint64_t id, uint32_t granularity, uint64_t sectors,
                  struct error *error)
{
    uint64_t l1_entries;
    int r = container_txn_update(run->t, id, NULL, sectors, error);

    /* Bits beyond the new end are the caller's to clear. */
    if (r == 0 &&
        entry_geometry(sectors, granularity, run->c->header.cluster_bits, &l1_entries, error)) {
        r = container_txn_zero(run->t, id, (uint32_t)l1_entries - 1, error);
    }
    forget_writes(run, id);
    return r;
}

static int add(struct session *run, const uint8_t *p, struct error *error)
{
    char name[] = {'n', (char)('a' + p[1] % 26), (char)('a' + p[2] % 3), '\0'};
    uint64_t id = 1 + (uint64_t)p[1] % 40;

    forget_writes(run, id);
    return touch(run, id) ? container_txn_add(run->t, id, name, UINT32_C(512) << p[2] % 23,
                                              UINT64_C(1) << p[3] % 24, error)
                          : 0;
}

/* An operation on bitmap number p[1] of the last commit, or on one added since. */
static int change(struct session *run, const uint8_t *p, struct error *error)
{
    uint64_t size = cluster_bytes(run->c);
    uint64_t id = 1 + (uint64_t)p[1] % 40;
    uint32_t granularity = 512;
    struct container_bitmap_info b = {0};
    int r = 0;

    if (p[1] & 128 && run->view.info.bitmaps > 0) {
        container_bitmap_get(run->c, p[1] % run->view.info.bitmaps, &b);
        if (b.id == 0) {
            return container_txn_remove_foreign(run->t, p[1] % run->view.info.bitmaps, error);
        }
        id = b.id;
        granularity = b.granularity;
    }
    if (!touch(run, id)) {
        return 0;
    }
    char name[] = {'n', (char)('a' + p[2] % 26), '\0'};
    struct written w = {.id = id, .l1_index = p[2], .fill = 1};
    switch (p[0] % OPERATIONS) {
    case OP_WRITE:
        r = container_txn_write(run->t, id, w.l1_index, &w.fill, 1, error);
        note_write(run, &w);
        return r;
    case OP_WRITE_ALL: {
        uint8_t *bits = malloc(size);
        MUST(bits);
        memset(bits, 0xff, size);
        w.fill = 0xff;
        w.whole = true;
        r = container_txn_write(run->t, id, w.l1_index, bits, size, error);
        free(bits);
        note_write(run, &w);
        return r;
    }
    case OP_ZERO:
        w.fill = 0;
        r = container_txn_zero(run->t, id, w.l1_index, error);
        note_write(run, &w);
        return r;
    case OP_RENAME:
        return container_txn_update(run->t, id, name, 0, error);
    case OP_RESIZE:
        return resize(run, id, granularity, UINT64_C(1) << p[2] % 20, error);
    default:
        forget_writes(run, id);
        return container_txn_remove(run->t, id, error);
    }
}

static void step(struct session *run, const uint8_t *p)
{
    enum operation operation = p[0] % OPERATIONS;
    struct error error = {{0}};

    switch (operation) {
    case OP_REOPEN:
        reopen(run);
        return;
    case OP_LIMIT:
        run->memory->limit = p[1] & 1 ? MEMORY_BYTES_MAX : run->memory->size + p[2] * UINT64_C(512);
        container_set_max_size(run->c, p[3] ? run->memory->size + p[3] * UINT64_C(512) : 0);
        return;
    case OP_FAIL:
        run->memory->fail_call = run->memory->calls + 1 + p[1] % 40;
        return;
    default:
        break;
    }
    if (!run->t) {
        int r = container_begin(run->c, &run->t, &error);
        MUST(r == 0);
    }
    if (operation == OP_COMMIT) {
        commit(run, p[1]);
    } else if (operation == OP_ABORT) {
        give_up(run);
    } else {
        int r = operation == OP_ADD ? add(run, p, &error) : change(run, p, &error);
        if (r < 0) {
            MUST(error.text[0] != '\0');
            give_up(run);
        }
    }
}

static bool starts_sound(struct memory *m)
{
    struct container_check_report report = {0};

    return view_check(&m->file, &report) == 0 && report.corruptions == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input;

    input_decode(data, size, &input);
    struct session run = {.memory = &input.memory, .sound = starts_sound(&input.memory)};
    run.c = view_open(&input.memory.file, CONTAINER_OPEN_WRITE);
    if (run.c) {
        view_take(run.c, &run.view);
        for (uint32_t i = 0; i + OPERATION <= input.script_bytes; i += OPERATION) {
            step(&run, input.script + i);
        }
        reopen(&run);
        container_close(run.c);
        view_release(&run.view);
    } else {
        MUST(input.memory.changes == 0);
    }
    memory_release(&input.memory);
    return 0;
}
