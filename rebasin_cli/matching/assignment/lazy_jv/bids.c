/* Rows bid for columns: the quick part of the method, which pairs most rows. */
#include "search.h"

/* Measured: 8 rounds leave no row of most matrices, and 3 in 100 of the worst that need no auction. */
enum { REDUCTION_ROUNDS = 8, BIDS_PER_ROUND = 16 };

/* Increments of the auction, as shares of the spread; the last leaves few rows unpaired when it is dropped. */
static const double PHASES[] = {0.25, 0.06, 0.015, 0.004, 0.001, 0.00025};
enum { BIDS_PER_PHASE = 400 }; /* for each row: a limit for what never ends, as with ties and no room to rise */

/* A column as good as the best for row i, and free if the list or the constant columns have such a one. */
static int free_among_best(Search *s, int i, const Bid *bid) {
    if (s->y[bid->column] < 0) return bid->column;
    const Candidate *list = list_of(s, i);
    for (int t = 0; t < s->list_size[i] && list[t].then >= bid->first; t++)
        if (s->y[list[t].column] < 0 && list[t].value - s->p[list[t].column] == bid->first) return list[t].column;
    if (s->fixed_count && -s->fixed[0].q == bid->first) return s->fixed[0].column;
    return bid->column;
}

/* Every row asks for its best column, prices as they are. Lists the rows left without; returns how many. */
int greedy(Search *s, int *free_rows) {
    int left = 0;
    clear_pairs(s);
    for (int i = 0; i < s->n; i++) {
        if (s->row_constant[i]) continue;
        Bid bid = best_two(s, i);
        int choice = free_among_best(s, i, &bid);
        if (s->y[choice] < 0)
            pair(s, i, choice);
        else
            free_rows[left++] = i;
    }
    return left;
}

/* Augmenting row reduction (Jonker and Volgenant): a free row takes its best column from whoever has it, and raises the
 * price until the second best is as good. Returns how many rows are left. */
int reduce_rows(Search *s, int *free_rows, int left) {
    for (int round = 0; round < REDUCTION_ROUNDS && left > 0; round++) {
        int64_t budget = (int64_t)BIDS_PER_ROUND * s->n;
        int kept = 0;
        for (int t = 0; t < left; t++) {
            int i = free_rows[t];
            for (;;) {
                Bid bid = best_two(s, i);
                int j = bid.column, strict = bid.first > bid.second;
                if (strict)
                    raise_price(s, j, bid.first - bid.second);
                else if (s->y[j] >= 0) {
                    j = free_among_best(s, i, &bid);
                    if (s->y[j] >= 0) j = bid.runner_up;
                }
                int loser = s->y[j];
                pair(s, i, j);
                if (loser < 0) break;
                s->x[loser] = -1;
                if (strict && --budget > 0) {
                    i = loser;
                    continue;
                }
                free_rows[kept++] = loser; /* kept <= t: never ahead of the reading */
                break;
            }
        }
        left = kept;
    }
    return left;
}

/* A scaling auction (Bertsekas) for matrices where the reduction leaves too many rows. Only its prices count: pairs are
 * dropped at the end, for they are optimal up to the increments only. */
void auction(Search *s, int *queue, double spread) {
    for (size_t phase = 0; phase < sizeof PHASES / sizeof *PHASES; phase++) {
        double increment = PHASES[phase] * spread;
        int waiting = 0;
        int64_t bids = 0, most = (int64_t)BIDS_PER_PHASE * s->n;
        clear_pairs(s);
        for (int i = s->n - 1; i >= 0; i--)
            if (!s->row_constant[i]) queue[waiting++] = i;
        while (waiting > 0 && bids++ < most) {
            int i = queue[--waiting];
            Bid bid = best_two(s, i);
            double by = bid.second > -INFINITY ? bid.first - bid.second : 0;
            raise_price(s, bid.column, by + increment);
            if (s->y[bid.column] >= 0) queue[waiting++] = s->y[bid.column];
            s->y[bid.column] = i;
        }
        s->counts->bids += bids;
    }
}
