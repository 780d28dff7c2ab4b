/* Candidate lists, and the question they answer: which two columns are best for a row today. */
#include "search.h"

#include <string.h>

/* ---- constant columns: a heap by price, free ones first, brought up to date when looked at ---- */

static int fixed_before(const FixedColumn *a, const FixedColumn *b) {
    return a->q < b->q || (a->q == b->q && a->taken < b->taken);
}

static FixedColumn fixed_today(const Search *s, int k) {
    int j = s->fixed[k].column;
    return (FixedColumn){s->q[j], s->y[j] >= 0, j};
}

/* Afterwards entry k is up to date and the least of its subtree. */
static void fixed_refresh(Search *s, int k) {
    while (k < s->fixed_count) {
        FixedColumn today = fixed_today(s, k);
        if (!fixed_before(&s->fixed[k], &today)) return;
        int at = k;
        for (;;) {
            int child = 2 * at + 1;
            if (child + 1 < s->fixed_count && fixed_before(&s->fixed[child + 1], &s->fixed[child])) child++;
            if (child >= s->fixed_count || !fixed_before(&s->fixed[child], &today)) break;
            s->fixed[at] = s->fixed[child];
            at = child;
        }
        s->fixed[at] = today;
    }
}

void clear_pairs(Search *s) {
    for (int k = 0; k < s->n; k++) s->x[k] = s->y[k] = -1;
    for (int k = 0; k < s->fixed_count; k++) s->fixed[k].q = -INFINITY; /* all out of date, hence in order */
    for (int k = s->fixed_count - 1; k >= 0; k--) fixed_refresh(s, k);
}

/* ---- lists ---- */

/* The value that exactly k others reach or exceed, ties aside; reorders x. */
static double nth_largest(double *x, int m, int k) {
    int low = 0, high = m - 1;
    while (low < high) {
        double pivot = x[low + (high - low) / 2];
        int i = low, j = high;
        while (i <= j) {
            while (x[i] > pivot) i++;
            while (x[j] < pivot) j--;
            if (i > j) break;
            double swapped = x[i];
            x[i++] = x[j];
            x[j--] = swapped;
        }
        if (k <= j)
            high = j;
        else if (k >= i)
            low = i;
        else
            break;
    }
    return x[k];
}

/* A value that more than `room` entries of the row reach, from the groups' maxima; -infinity if that cannot be told. */
static double list_threshold(Search *s, int groups) {
    int coarse = groups;
    while (coarse > 4 * s->room) coarse = (coarse + 1) / 2;
    if (coarse <= s->room) return -INFINITY;
    double *top = s->scratch;
    memcpy(top, s->groups, (size_t)coarse * sizeof *top);
    for (int start = coarse; start < groups; start += coarse)
        largest_of_both(top, s->groups + start, groups - start < coarse ? groups - start : coarse);
    return nth_largest(top, coarse, s->room);
}

void make_list(Search *s, int i) {
    int groups = group_count(s);
    double threshold = list_threshold(s, groups);
    int m = 0, start = (int)((int64_t)i * 7919 % groups); /* ties: other rows begin elsewhere */
    for (int t = 0; t < groups; t++) {
        int group = start + t < groups ? start + t : start + t - groups;
        if (s->groups[group] < threshold || s->groups[group] == -INFINITY) continue;
        int block = group / LANES * BLOCK, first = block + group % LANES, end = block_end(s, block);
        for (int j = first; j < end; j += LANES) {
            double value = s->v[j];
            if (value < threshold || value == -INFINITY || (value == threshold && m > 4 * s->room)) continue;
            s->picked[m++] = (Entry){value, j};
        }
    }
    int size = 0; /* the room + 1 largest by insertion: m is seldom far above room */
    for (int t = 0; t < m; t++) {
        Entry e = s->picked[t];
        if (size == s->room + 1 && e.key <= s->picked[s->room].key) continue;
        int k = size <= s->room ? size++ : s->room;
        for (; k > 0 && s->picked[k - 1].key < e.key; k--) s->picked[k] = s->picked[k - 1];
        s->picked[k] = e;
    }
    s->bound[i] = size > s->room ? s->picked[s->room].key : -INFINITY;
    if (size > s->room) size = s->room;
    Candidate *list = list_of(s, i);
    for (int t = 0; t < size; t++) {
        int j = s->picked[t].id;
        list[t] = (Candidate){matrix_at(s->a, i, j), s->picked[t].key, j};
    }
    s->list_size[i] = size;
}

void read_row(Search *s, int i) {
    row_values(s->a, i, s->p, s->v, s->groups);
    s->counts->dense_rows++;
}

static void offer(Bid *bid, double value, int column) {
    if (value > bid->first) {
        bid->second = bid->first;
        bid->runner_up = bid->column;
        bid->first = value;
        bid->column = column;
    } else if (value > bid->second) {
        bid->second = value;
        bid->runner_up = column;
    }
}

Bid best_two(Search *s, int i) {
    for (int fresh = 0;; fresh = 1) {
        Bid bid = {-INFINITY, -INFINITY, -1, -1};
        const Candidate *list = list_of(s, i);
        for (int t = 0; t < s->list_size[i] && list[t].then > bid.second; t++)
            offer(&bid, list[t].value - s->p[list[t].column], list[t].column);
        for (int k = 0; k < 3 && k < s->fixed_count; k++) { /* the two best are among the top three */
            fixed_refresh(s, k);
            offer(&bid, -s->fixed[k].q, s->fixed[k].column);
        }
        if (bid.second >= s->bound[i] || fresh) return bid;
        read_row(s, i);
        make_list(s, i);
    }
}
