/* Shortest augmenting paths: places the rows that bidding left, one at a time and exactly.
 *
 * Distances are sums of u_i + p_j - a_ij >= 0. A row reached expands its list; what its list leaves out is excluded by
 * its bound for as long as that lies beyond the nearest unsettled column, and is read in full when it no longer does.
 * Nothing at or beyond `reach`, the nearest open column found so far, matters.
 */
#include "search.h"

#include <stdlib.h>

/* ---- heaps, least key first ---- */

static int heap_push(Heap *h, double key, int id) {
    if (h->size == h->room) {
        int room = h->room ? 2 * h->room : 1024;
        Entry *grown = realloc(h->entries, (size_t)room * sizeof *grown);
        if (!grown) return 0;
        h->entries = grown;
        h->room = room;
    }
    int k = h->size++;
    while (k > 0 && h->entries[(k - 1) / 2].key > key) {
        h->entries[k] = h->entries[(k - 1) / 2];
        k = (k - 1) / 2;
    }
    h->entries[k] = (Entry){key, id};
    return 1;
}

static void heap_pop(Heap *h) {
    Entry last = h->entries[--h->size];
    int k = 0;
    for (;;) {
        int child = 2 * k + 1;
        if (child >= h->size) break;
        if (child + 1 < h->size && h->entries[child + 1].key < h->entries[child].key) child++;
        if (h->entries[child].key >= last.key) break;
        h->entries[k] = h->entries[child];
        k = child;
    }
    if (h->size) h->entries[k] = last;
}

/* ---- expansion ---- */

/* u_i of an assigned row: the value of its column. */
static double utility(const Search *s, int i) {
    int j = s->x[i];
    return is_fixed(s, j) ? -s->q[j] : s->paired[i] - s->p[j];
}

static void close_column(Search *s, int j) {
    int last = s->open[--s->open_count];
    s->open[s->open_at[j]] = last;
    s->open_at[last] = s->open_at[j];
}

/* Column j can be had from row i at this distance. */
static void relax(Search *s, int i, int j, double distance, double least) {
    if (distance < least) distance = least; /* rounding only */
    if (!(distance < s->d[j]) || !(distance < s->reach)) return;
    if (s->d[j] == INFINITY) s->touched[s->touched_count++] = j;
    s->d[j] = distance;
    s->pred[j] = i;
    if (s->y[j] < 0) {
        s->reach = distance;
        s->goal = j;
    } else if (!heap_push(&s->columns, distance, j))
        s->failed = 1;
}

static void relax_fixed(Search *s, int i, double base, double least) {
    if (!(base < s->column_reach)) return;
    s->column_reach = base;
    for (int k = 0; k < s->fixed_count; k++) relax(s, i, s->fixed[k].column, base + s->q[s->fixed[k].column], least);
}

static void expand_constant(Search *s, int i, double base, double least) {
    base -= matrix_at(s->a, i, 0);
    if (!(base < s->row_reach)) return;
    s->row_reach = base;
    for (int k = 0; k < s->open_count; k++) { /* these first: they shorten the reach for the others */
        int j = s->open[k];
        relax(s, i, j, base + price(s, j), least);
    }
    for (int j = 0; j < s->n; j++) relax(s, i, j, base + price(s, j), least);
}

/* Row i is reached at distance `least`; u is its utility. */
static void expand(Search *s, int i, double u, double least) {
    double base = least + u;
    if (s->row_constant[i]) {
        expand_constant(s, i, base, least);
        return;
    }
    const Candidate *list = list_of(s, i);
    relax_fixed(s, i, base, least);
    for (int t = 0; t < s->list_size[i]; t++) {
        if (base - list[t].then >= s->reach) return; /* nor anything after it */
        relax(s, i, list[t].column, base - (list[t].value - s->p[list[t].column]), least);
    }
    double beyond = base - s->bound[i];
    if (beyond < least) beyond = least;
    if (beyond < s->reach) {
        s->base[i] = base;
        if (!heap_push(&s->rows, beyond, i)) s->failed = 1;
    }
}

/* The bound of row i no longer excludes a shorter way: read it all. */
static void expand_dense(Search *s, int i, double least) {
    double base = s->base[i];
    read_row(s, i);
    for (int k = 0; k < s->open_count; k++) relax(s, i, s->open[k], base - s->v[s->open[k]], least);
    int groups = group_count(s);
    for (int group = 0; group < groups; group++) {
        if (!(base - s->groups[group] < s->reach)) continue;
        int block = group / LANES * BLOCK, first = block + group % LANES, end = block_end(s, block);
        for (int j = first; j < end; j += LANES)
            if (base - s->v[j] < s->reach) relax(s, i, j, base - s->v[j], least);
    }
    make_list(s, i);
}

static double least_price(const Search *s) {
    double least = INFINITY;
    for (int j = 0; j < s->n; j++)
        if (price(s, j) < least) least = price(s, j);
    return least;
}

/* Pairs row `start`, and moves others to other columns as the shortest path says. */
int augment(Search *s, int start) {
    s->reach = s->row_reach = s->column_reach = INFINITY;
    s->columns.size = s->rows.size = s->touched_count = s->settled_count = 0;
    s->goal = -1;
    double u = s->row_constant[start] ? matrix_at(s->a, start, 0) - least_price(s) : best_two(s, start).first;
    expand(s, start, u, 0);
    for (;;) {
        if (s->failed) return LJV_NO_MEMORY;
        while (s->columns.size && s->columns.entries[0].key > s->d[s->columns.entries[0].id]) heap_pop(&s->columns);
        double next = s->columns.size ? s->columns.entries[0].key : INFINITY;
        if (s->rows.size && s->rows.entries[0].key < next && s->rows.entries[0].key < s->reach) {
            Entry top = s->rows.entries[0];
            heap_pop(&s->rows);
            expand_dense(s, top.id, top.key);
            continue;
        }
        if (next >= s->reach) break;
        if (next == INFINITY) return LJV_STUCK;
        int j = s->columns.entries[0].id;
        heap_pop(&s->columns);
        s->settled[s->settled_count++] = j;
        expand(s, s->y[j], utility(s, s->y[j]), next);
    }
    if (s->goal < 0) return LJV_STUCK;
    s->counts->path_steps += s->settled_count;
    for (int k = 0; k < s->settled_count; k++) raise_price(s, s->settled[k], s->reach - s->d[s->settled[k]]);
    for (int k = 0; k < s->touched_count; k++) s->d[s->touched[k]] = INFINITY;
    close_column(s, s->goal);
    for (int j = s->goal, i = -1; i != start;) {
        i = s->pred[j];
        int before = s->x[i];
        pair(s, i, j);
        j = before;
    }
    return LJV_OK;
}

/* Constant rows, after the others: any free column of least price, else a path. */
int place_constant_rows(Search *s) {
    double least = least_price(s);
    int status = LJV_OK, i = 0;
    for (int k = s->open_count - 1; k >= 0; k--) {
        int j = s->open[k];
        if (price(s, j) > least) continue;
        while (i < s->n && !s->row_constant[i]) i++;
        if (i == s->n) break;
        close_column(s, j); /* moves a column from behind k, already looked at, to k */
        pair(s, i++, j);
    }
    for (; i < s->n && status == LJV_OK; i++)
        if (s->row_constant[i]) status = augment(s, i);
    return status;
}
