/* Small matrices, thousands at a time: heads, groups, channels of a group. Lists and bounds do not pay there, so this
 * is Jonker and Volgenant's method (Computing 38, 1987) on a dense copy: greedy pairs, augmenting row reduction, and a
 * shortest augmenting path for every row that is left. Prices and distances as in paths.c. */
#include "lazy_jv.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { REDUCTIONS = 3, BIDS = 8 }; /* rounds, and bids a row in each: ties would bid for ever */

typedef struct {
    int n;
    double *w, *p, *d; /* (n, n) entries; prices; distances of one search */
    int *x, *y, *pred, *queue, *open;
} Small;

static const double *row_of(const Small *s, int i) { return s->w + (ptrdiff_t)i * s->n; }

/* The best column of row i, what it is worth there, and the best of the others. */
static int best_of(const Small *s, int i, double *first, double *second) {
    const double *w = row_of(s, i);
    int best = 0;
    double one = w[0] - s->p[0], two = -INFINITY;
    for (int j = 1; j < s->n; j++) {
        double value = w[j] - s->p[j];
        if (value > one) {
            two = one;
            one = value;
            best = j;
        } else if (value > two)
            two = value;
    }
    *first = one;
    *second = two;
    return best;
}

static int greedy_pairs(Small *s) {
    int left = 0;
    double first, second;
    for (int k = 0; k < s->n; k++) s->x[k] = s->y[k] = -1;
    for (int i = 0; i < s->n; i++) {
        int j = best_of(s, i, &first, &second);
        if (s->y[j] < 0) {
            s->x[i] = j;
            s->y[j] = i;
        } else
            s->queue[left++] = i;
    }
    return left;
}

/* A row takes its best column and raises the price until the second best is as good; whoever loses it waits. */
static int reduce(Small *s, int left) {
    for (int round = 0; round < REDUCTIONS && left > 0; round++) {
        int kept = 0, budget = BIDS * s->n;
        for (int t = 0; t < left; t++) {
            int i = s->queue[t];
            while (i >= 0) {
                double first, second;
                int j = best_of(s, i, &first, &second), loser = s->y[j];
                if (loser >= 0 && (!(first > second) || --budget < 0)) break;
                s->p[j] += first - second;
                s->x[i] = j;
                s->y[j] = i;
                if (loser >= 0) s->x[loser] = -1;
                i = loser;
            }
            if (i >= 0) s->queue[kept++] = i;
        }
        left = kept;
    }
    return left;
}

/* Pairs row `start` along the shortest path to a column that no row has. Settled columns stand first in `open`. */
static void shortest_path(Small *s, int start) {
    double first, second;
    best_of(s, start, &first, &second);
    int settled = 0, goal = -1, i = start;
    double base = first, least = 0;
    for (int j = 0; j < s->n; j++) {
        s->open[j] = j;
        s->d[j] = INFINITY;
    }
    for (;;) {
        const double *w = row_of(s, i);
        int next = settled;
        for (int t = settled; t < s->n; t++) {
            int j = s->open[t];
            double distance = base - (w[j] - s->p[j]);
            if (distance < least) distance = least; /* rounding only */
            if (distance < s->d[j]) {
                s->d[j] = distance;
                s->pred[j] = i;
            }
            double beyond = s->d[j] - s->d[s->open[next]];
            if (beyond < 0 || (beyond == 0 && s->y[j] < 0)) next = t;
        }
        int j = s->open[next];
        s->open[next] = s->open[settled];
        s->open[settled] = j;
        least = s->d[j];
        if (s->y[j] < 0) {
            goal = j;
            break;
        }
        settled++;
        i = s->y[j];
        base = least + row_of(s, i)[j] - s->p[j];
    }
    for (int t = 0; t < settled; t++) s->p[s->open[t]] += least - s->d[s->open[t]];
    for (int j = goal, row = -1; row != start;) {
        row = s->pred[j];
        int before = s->x[row];
        s->x[row] = j;
        s->y[j] = row;
        j = before;
    }
}

static void solve_one(Small *s, const Matrix *a, double *prices, int64_t *columns) {
    s->p = prices;
    for (int i = 0; i < s->n; i++) {
        prices[i] = 0;
        for (int j = 0; j < s->n; j++) s->w[(ptrdiff_t)i * s->n + j] = matrix_at(a, i, j);
    }
    int left = reduce(s, greedy_pairs(s));
    for (int t = 0; t < left; t++) shortest_path(s, s->queue[t]);
    for (int i = 0; i < s->n; i++) columns[i] = s->x[i];
}

int solve_many(const Matrix *first, ptrdiff_t count, ptrdiff_t step, double *prices, int64_t *columns, double *gaps) {
    int n = first->n, small = n <= SMALL, status = LJV_OK;
    Small s = {.n = n};
    double *reals = small ? malloc(((size_t)n + 1) * (size_t)n * sizeof *reals) : NULL;
    int *ints = small ? malloc(5 * (size_t)n * sizeof *ints) : NULL;
    if (small && (!reals || !ints)) status = LJV_NO_MEMORY;
    if (small && status == LJV_OK) {
        int **each[] = {&s.x, &s.y, &s.pred, &s.queue, &s.open};
        s.w = reals;
        s.d = reals + (ptrdiff_t)n * n;
        for (int k = 0; k < 5; k++) *each[k] = ints + (ptrdiff_t)k * n;
    }
    for (ptrdiff_t m = 0; m < count && status == LJV_OK; m++, prices += n, columns += n) {
        Counts counts;
        Matrix a = *first;
        a.data = (const char *)first->data + m * step;
        for (int i = 0; i < n && status == LJV_OK; i++)
            if (!row_is_finite(&a, i)) status = LJV_NOT_FINITE;
        if (status != LJV_OK) break;
        if (small)
            solve_one(&s, &a, prices, columns);
        else {
            memset(prices, 0, (size_t)n * sizeof *prices);
            status = lazy_jv_solve(&a, prices, columns, &counts);
        }
        gaps[m] = status == LJV_OK ? duality_gap(&a, prices, columns) : 0;
    }
    free(reals);
    free(ints);
    return status;
}
