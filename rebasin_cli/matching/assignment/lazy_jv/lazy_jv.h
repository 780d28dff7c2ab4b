/* Exact dense linear assignment (maximise) by a lazy Jonker-Volgenant method.
 *
 * Rows bid for columns. Column j has a price p_j, and row i sees the value v_ij = a_ij - p_j. Every row keeps a short
 * list of its best columns and one bound on all the others, both under the prices of the day the list was made.
 * Prices only rise, so values only fall, so both stay upper bounds for ever: most questions are answered from the
 * list, and a dense row is read again only when the bound cannot exclude it.
 *
 * Source of the scheme: Jonker and Volgenant, Computing 38 (1987); the scaling auction is Bertsekas (1988).
 * Everything is plain C99. Results do not depend on the instruction set: the dense passes only subtract and compare.
 */
#ifndef REBASIN_LAZY_JV_H
#define REBASIN_LAZY_JV_H

#include <stddef.h>
#include <stdint.h>

enum { LJV_OK = 0, LJV_NO_MEMORY = -1, LJV_NOT_FINITE = -2, LJV_STUCK = -3 };

/* A matrix of float or double whose rows are contiguous; `stride` counts items from row to row. */
typedef struct {
    const void *data;
    int is_double;
    ptrdiff_t stride;
    int n;
} Matrix;

double matrix_at(const Matrix *a, int row, int column);
int row_is_finite(const Matrix *a, int row);
int row_is_constant(const Matrix *a, int row);
/* Marks in `constant` (n flags) the columns whose entries are all equal; scratch: n ints. */
void constant_columns(const Matrix *a, unsigned char *constant, int *scratch);

/* Values of one row, and the largest of every group. A block is 512 columns; of block s, group 64 * s + l has columns
 * 512 * s + l, that + 64, that + 128 and so on. A group without columns has -infinity. */
enum { BLOCK = 512, LANES = 64 };
void row_values(const Matrix *a, int row, const double *prices, double *v, double *groups);

/* The first of the columns with the largest value of a finite row. */
int best_column(const Matrix *a, int row, const double *prices);

/* into[t] becomes the larger of both, t < n. */
void largest_of_both(double *into, const double *other, ptrdiff_t n);

/* Sum over rows of max_j (a_ij - p_j) minus the value of the assigned column: the duality gap. */
double duality_gap(const Matrix *a, const double *prices, const int64_t *columns);

typedef struct {
    int64_t dense_rows; /* rows read in full, the first reading of every row included */
    int64_t bids;       /* in the auction */
    int64_t free_rows;  /* left for the shortest paths */
    int64_t path_steps; /* columns settled by them */
} Counts;

/* prices: in, the start (any finite numbers); out, the dual solution. columns: out, the permutation. */
int lazy_jv_solve(const Matrix *a, double *prices, int64_t *columns, Counts *counts);

/* Up to this size lists and bounds cost more than they spare. */
enum { SMALL = 80 };

/* `count` matrices like `first`, `step` bytes apart, each from prices of zero. Out: prices and columns (count, n), and
 * the duality gap of each. */
int solve_many(const Matrix *first, ptrdiff_t count, ptrdiff_t step, double *prices, int64_t *columns, double *gaps);

#endif
