/* The whole solve, and what is done about dead units. Terms as in lazy_jv.h.
 *
 * A constant column (a dead unit of B) has value d_j - p_j for every row, so it never enters a list: its offset price
 * q_j = p_j - d_j lives in a heap of its own, and in the dense passes its price is infinite. A constant row (a dead
 * unit of A) has no list either, and is placed last.
 *
 * Why constant rows may come last, and exactly: the others, R, are placed first by the same method, which keeps
 * u_i + p_j >= a_ij for i in R and all j, with equality on the pairs made. Then a constant row f with entries c enters
 * like any other row, with u_f = c - min_j p_j, by a shortest augmenting path. It ends at once at an unassigned column
 * of least price, where there is one; and if the prices of the unassigned columns never rose above a common least
 * start, every one of them is such a column: the leftovers may be handed out in any order. Where they did rise (an
 * auction, a warm start) the path corrects it. Either way all n rows end up assigned under feasible duals with
 * equality on every pair, which is optimality (complementary slackness); nothing is assumed about the prices' start.
 *
 * Within one search all constant rows see the columns at a common offset, and every row sees all constant columns at a
 * common offset. So a row can only improve them if it is reached by a shorter way than any before it (`row_reach`,
 * `column_reach`), and thousands of dead units cost one pass and not thousands.
 */
#include "search.h"

#include <stdlib.h>
#include <string.h>

/* The auction runs if more than n / 16 rows stay free, and a few: from there on, paths cost more than starting over. */
enum { AUCTION_SHARE = 16, FEW_ROWS = 8 };

/* Constant columns are set apart here: their entries d_j are taken off their prices. */
static void start_prices(Search *s, const double *prices, const unsigned char *constant) {
    s->fixed_count = 0;
    for (int j = 0; j < s->n; j++) {
        s->p[j] = prices[j];
        if (!constant[j]) continue;
        s->offset[j] = matrix_at(s->a, 0, j);
        s->q[j] = prices[j] - s->offset[j];
        s->p[j] = INFINITY;
        s->fixed[s->fixed_count++] = (FixedColumn){-INFINITY, 0, j};
    }
    clear_pairs(s);
}

/* Pairs every row that is not constant, as far as bidding goes; lists the rows left and returns how many. */
static int place_by_bids(Search *s, const double *prices, const unsigned char *constant, int *free_rows) {
    First first = {0};
    start_prices(s, prices, constant);
    int left = first_lists(s, &first);
    if (left == LJV_OK) {
        left = reduce_rows(s, free_rows, greedy(s, free_rows));
        if (left > s->n / AUCTION_SHARE + FEW_ROWS && first.spread > 0) {
            start_prices(s, prices, constant);
            first_lists_again(s, &first);
            auction(s, free_rows, first.spread);
            left = reduce_rows(s, free_rows, greedy(s, free_rows));
        }
    }
    release_first(&first);
    return left;
}

/* Whether no two rows want the same column: then each may have its own, and the prices of the start prove it. Found out
 * in one pass; where it is not so, the first rows tell (of n columns wanted at random two are the same within some
 * square root of n). */
static int all_have_their_best(const Matrix *a, const double *prices, int64_t *columns, unsigned char *taken) {
    memset(taken, 0, (size_t)a->n);
    for (int i = 0; i < a->n; i++) {
        if (!row_is_finite(a, i)) return LJV_NOT_FINITE;
        int j = best_column(a, i, prices);
        if (taken[j]) return 0;
        taken[j] = 1;
        columns[i] = j;
    }
    return 1;
}

static int place_all(Search *s, const double *prices, const unsigned char *constant, int *free_rows) {
    int left = place_by_bids(s, prices, constant, free_rows), status = LJV_OK;
    if (left < 0) return left;
    s->open_count = 0;
    for (int j = 0; j < s->n; j++) {
        s->d[j] = INFINITY;
        if (s->y[j] >= 0) continue;
        s->open_at[j] = s->open_count;
        s->open[s->open_count++] = j;
    }
    s->counts->free_rows = left;
    for (int t = 0; t < left && status == LJV_OK; t++) status = augment(s, free_rows[t]);
    return status == LJV_OK ? place_constant_rows(s) : status;
}

/* All memory but the heaps of the paths, which grow: some 24 n numbers and the lists. */
typedef struct {
    double *reals;
    int *ints;
    unsigned char *flags;
} Memory;

static int allocate(Search *s, Memory *memory) {
    double **reals[] = {&s->p, &s->q, &s->offset, &s->paired, &s->bound, &s->v, &s->groups,
                        &s->scratch, &s->d, &s->base};
    int **ints[] = {&s->x, &s->y, &s->list_size, &s->open, &s->open_at, &s->pred, &s->touched, &s->settled};
    enum { REALS = sizeof reals / sizeof *reals, INTS = sizeof ints / sizeof *ints };
    size_t n = (size_t)s->n, padded = (n + BLOCK - 1) / BLOCK * BLOCK, room = (size_t)s->room;
    memory->reals = calloc(REALS * padded, sizeof(double));
    memory->ints = calloc(INTS * n, sizeof(int));
    memory->flags = malloc(n);
    s->row_constant = memory->flags;
    s->fixed = malloc(n * sizeof *s->fixed);
    s->lists = malloc(n * room * sizeof *s->lists);
    s->picked = malloc((padded + room) * sizeof *s->picked);
    if (!memory->reals || !memory->ints || !memory->flags || !s->fixed || !s->lists || !s->picked) return 0;
    for (size_t k = 0; k < REALS; k++) *reals[k] = memory->reals + k * padded;
    for (size_t k = 0; k < INTS; k++) *ints[k] = memory->ints + k * n;
    return 1;
}

static void release(Search *s, Memory *memory) {
    free(memory->reals);
    free(memory->ints);
    free(memory->flags);
    free(s->fixed);
    free(s->lists);
    free(s->picked);
    free(s->columns.entries);
    free(s->rows.entries);
}

static int solve_in_full(const Matrix *a, double *prices, int64_t *columns, Counts *counts) {
    Search s = {.a = a, .n = a->n, .counts = counts, .room = list_room(a->n)};
    Memory memory;
    unsigned char *constant = malloc((size_t)a->n);
    int *scratch = malloc((size_t)a->n * sizeof *scratch);
    int status = LJV_NO_MEMORY;
    if (allocate(&s, &memory) && constant && scratch) {
        for (int i = 0; i < a->n; i++) s.row_constant[i] = (unsigned char)row_is_constant(a, i);
        constant_columns(a, constant, scratch);
        status = place_all(&s, prices, constant, scratch);
    }
    for (int i = 0; status == LJV_OK && i < a->n; i++) {
        columns[i] = s.x[i];
        prices[i] = price(&s, i);
    }
    release(&s, &memory);
    free(constant);
    free(scratch);
    return status;
}

int lazy_jv_solve(const Matrix *a, double *prices, int64_t *columns, Counts *counts) {
    unsigned char *taken = malloc((size_t)a->n);
    memset(counts, 0, sizeof *counts);
    if (!taken) return LJV_NO_MEMORY;
    int found = all_have_their_best(a, prices, columns, taken);
    free(taken);
    if (found != 0) return found < 0 ? found : LJV_OK;
    return solve_in_full(a, prices, columns, counts);
}
