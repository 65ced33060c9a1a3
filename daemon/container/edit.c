/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Edits: the copies of bitmap entries that a transaction works on, found by id
 * and by name.
 *
 * Both look-ups are hash tables that only grow.  A name given up by a rename
 * leaves its slot behind, which then no longer matches the edit it points to;
 * so names can be swapped around within a transaction.
 */
#include "daemon/container/internal.h"

static void index_insert(struct edit_index *index, uint64_t hash, struct edit *edit)
{
    while (index->slots[hash & index->mask]) {
        hash++;
    }
    index->slots[hash & index->mask] = edit;
    index->n++;
}

static uint64_t edit_hash(const struct edit *edit, bool by_name)
{
    return by_name ? hash_name(edit->new->name, edit->new->name_bytes) : hash_id(edit->id);
}

/* Room for one more.  Rebuilding also forgets names that are no longer in use. */
static int index_reserve(struct container_txn *txn, struct edit_index *index, bool by_name)
{
    struct edit_index grown = {0};

    if (index->slots && index->n < index->mask / 2) {
        return 0;
    }
    grown.mask = index->slots ? index->mask * 2 + 1 : 15;
    grown.slots = calloc((size_t)grown.mask + 1, sizeof *grown.slots);
    if (!grown.slots) {
        return -ENOMEM;
    }
    for (size_t i = 0; i < txn->n_edits; i++) {
        struct edit *e = txn->edits[i];
        if (by_name ? e->new != NULL : e->id != 0) {
            index_insert(&grown, edit_hash(e, by_name), e);
        }
    }
    free(index->slots);
    *index = grown;
    return 0;
}

struct edit *edit_by_id(const struct container_txn *txn, uint64_t id)
{
    const struct edit_index *index = &txn->by_id;

    for (uint64_t slot = hash_id(id); index->slots; slot++) {
        struct edit *e = index->slots[slot & index->mask];
        if (!e || e->id == id) {
            return e;
        }
    }
    return NULL;
}

bool edit_name_in_use(const struct container_txn *txn, const char *name, size_t name_bytes)
{
    const struct edit_index *index = &txn->by_name;
    const struct entry *holder = directory_find_name(&txn->container->directory, name, name_bytes);

    if (holder && !holder->edit) {
        return true;
    }
    for (uint64_t slot = hash_name(name, name_bytes); index->slots; slot++) {
        const struct edit *e = index->slots[slot & index->mask];
        if (!e) {
            break;
        }
        if (e->new && e->new->name_bytes == name_bytes &&
            memcmp(e->new->name, name, name_bytes) == 0) {
            return true;
        }
    }
    return false;
}

void edit_free(struct edit *edit)
{
    if (edit) {
        entry_free(edit->new);
        free(edit->touched);
        free(edit);
    }
}

/* Appends an edit, which the transaction owns from now on; *edit is freed on failure. */
int edit_push(struct container_txn *txn, struct edit *edit)
{
    int r = 0;

    if (txn->n_edits == txn->edits_capacity) {
        size_t capacity = txn->edits_capacity ? txn->edits_capacity * 2 : 16;
        struct edit **edits = reallocarray(txn->edits, capacity, sizeof *edits);
        if (edits) {
            txn->edits = edits;
            txn->edits_capacity = capacity;
        } else {
            r = -ENOMEM;
        }
    }
    if (r == 0) {
        r = index_reserve(txn, &txn->by_id, false);
    }
    if (r == 0) {
        r = index_reserve(txn, &txn->by_name, true);
    }
    if (r < 0) {
        edit_free(edit);
        return r;
    }
    txn->edits[txn->n_edits++] = edit;
    if (edit->id != 0) {
        index_insert(&txn->by_id, edit_hash(edit, false), edit);
    }
    if (edit->new) {
        index_insert(&txn->by_name, edit_hash(edit, true), edit);
    }
    if (edit->old) {
        edit->old->edit = edit;
    }
    return 0;
}

static int entry_clone(const struct entry *old, struct entry **ret)
{
    CLEANUP(entry_freep) struct entry *e = malloc(sizeof *e);

    if (!e) {
        return -ENOMEM;
    }
    *e = *old;
    e->name = NULL;
    e->slots = NULL;
    e->damage = NULL; /* the commit decides whether it is over */
    e->unreadable = false;
    e->lost_earlier = false;
    e->claims = (struct runs){0};
    e->edit = NULL;
    e->name = malloc((size_t)old->name_bytes + 1);
    if (!e->name) {
        return -ENOMEM;
    }
    memcpy(e->name, old->name, (size_t)old->name_bytes + 1);
    if (old->slots) {
        e->slots = malloc(old->l1_entries * sizeof *e->slots);
        if (!e->slots) {
            return -ENOMEM;
        }
        memcpy(e->slots, old->slots, old->l1_entries * sizeof *e->slots);
    }
    for (size_t i = 0; i < old->claims.n; i++) {
        if (runs_push(&e->claims, old->claims.items[i].start, old->claims.items[i].count) < 0) {
            return -ENOMEM;
        }
    }
    *ret = STEAL(e);
    return 0;
}

/* An edit of a committed entry. */
static int edit_of(struct container_txn *txn, struct entry *old, struct edit **ret)
{
    struct edit *edit = calloc(1, sizeof *edit);
    int r;

    r = edit ? entry_clone(old, &edit->new) : -ENOMEM;
    if (r < 0) {
        edit_free(edit);
        return r;
    }
    edit->id = old->id;
    edit->old = old;
    r = edit_push(txn, edit);
    if (r == 0) {
        *ret = edit;
    }
    return r;
}

int edit_begin(struct container_txn *txn, uint64_t id, struct edit **ret, struct error *error)
{
    struct edit *edit = edit_by_id(txn, id);
    int r;

    if (edit && !edit->new) {
        return error_set(error, -ENOENT, "bitmap %" PRIu64 " was removed by this transaction", id);
    }
    if (!edit) {
        struct entry *old = directory_find_id(&txn->container->directory, id);
        if (!old) {
            return error_set(error, -ENOENT, "no bitmap has the id %" PRIu64, id);
        }
        r = edit_of(txn, old, &edit);
        if (r < 0) {
            return error_set_errno(error, r, "cannot change a bitmap");
        }
    }
    *ret = edit;
    return 0;
}

int edit_begin_foreign(struct container_txn *txn, uint32_t index, struct edit **ret,
                       struct error *error)
{
    const struct directory *d = &txn->container->directory;
    int r;

    if (index >= d->n || d->entries[index]->id != 0 || d->entries[index]->edit) {
        return error_set(error, -ENOENT, "no foreign bitmap has the index %" PRIu32, index);
    }
    r = edit_of(txn, d->entries[index], ret);
    return r < 0 ? error_set_errno(error, r, "cannot change a bitmap") : 0;
}

int edit_set_name(struct container_txn *txn, struct edit *edit, const char *name)
{
    char *copy = strdup(name);

    if (!copy || index_reserve(txn, &txn->by_name, true) < 0) {
        free(copy);
        return -ENOMEM;
    }
    free(edit->new->name);
    edit->new->name = copy;
    edit->new->name_bytes = (uint32_t)strlen(copy);
    index_insert(&txn->by_name, edit_hash(edit, true), edit);
    return 0;
}
