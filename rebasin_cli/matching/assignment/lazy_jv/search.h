/* What the parts of the search share. Terms as in lazy_jv.h. */
#ifndef REBASIN_SEARCH_H
#define REBASIN_SEARCH_H

#include "lazy_jv.h"

#include <math.h>

typedef struct {
    double value; /* a_ij */
    double then;  /* a_ij - p_j when the list was made: never below the value of today */
    int column;
} Candidate;

typedef struct {
    double key;
    int id;
} Entry;

typedef struct {
    Entry *entries;
    int size, room;
} Heap;

/* A constant column: its offset price and whether a row has it, as they were when last looked at. Both only rise. */
typedef struct {
    double q;
    int taken, column;
} FixedColumn;

typedef struct {
    const Matrix *a;
    Counts *counts;
    int n, failed;

    double *p; /* prices; infinite for constant columns */
    int *x, *y; /* column of a row, row of a column, or -1 */
    double *paired; /* a_ij of a row's column */

    unsigned char *row_constant;
    double *q, *offset; /* constant columns: p_j - d_j, and d_j */
    FixedColumn *fixed; /* the same as a heap, least first */
    int fixed_count;

    int room; /* candidates a row keeps */
    Candidate *lists; /* sorted by `then`, largest first */
    int *list_size;
    double *bound; /* on the values of all columns outside the list */
    double *v, *groups, *scratch; /* one dense row */
    Entry *picked;

    int *open, *open_at, open_count; /* columns that no row has, and where each stands among them */
    double *d; /* of one search: distance of a column */
    double *base; /* distance of a row, plus its utility */
    int *pred, *touched, touched_count, *settled, settled_count;
    Heap columns, rows;
    double reach; /* distance of the nearest open column found, `goal` */
    double row_reach, column_reach; /* least base from which constant rows, constant columns were reached */
    int goal;
} Search;

typedef struct {
    double first, second;
    int column, runner_up;
} Bid;

static inline int is_fixed(const Search *s, int j) { return s->p[j] == INFINITY; }
static inline double price(const Search *s, int j) { return is_fixed(s, j) ? s->q[j] + s->offset[j] : s->p[j]; }
static inline int group_count(const Search *s) { return (s->n + BLOCK - 1) / BLOCK * LANES; }
static inline int block_end(const Search *s, int block) { return block + BLOCK < s->n ? block + BLOCK : s->n; }
static inline Candidate *list_of(const Search *s, int i) { return s->lists + (ptrdiff_t)i * s->room; }

static inline void raise_price(Search *s, int j, double by) {
    if (is_fixed(s, j))
        s->q[j] += by;
    else
        s->p[j] += by;
}

static inline void pair(Search *s, int i, int j) {
    s->x[i] = j;
    s->y[j] = i;
    s->paired[i] = matrix_at(s->a, i, j);
}

/* lists.c */
void read_row(Search *s, int i);  /* into v and groups, at the prices of today */
void make_list(Search *s, int i); /* from v and groups */
Bid best_two(Search *s, int i);   /* the two best columns of row i today */
void clear_pairs(Search *s);

/* first.c */
typedef struct {
    Candidate *lists;
    int *list_size;
    double *bound, spread;
} First; /* the lists as they were at the start; begins as zeros, and has to be released */

int list_room(int n); /* candidates that a row of n keeps */
int first_lists(Search *s, First *first);
void first_lists_again(Search *s, const First *first);
void release_first(First *first);

/* bids.c */
int greedy(Search *s, int *free_rows);
int reduce_rows(Search *s, int *free_rows, int left);
void auction(Search *s, int *queue, double spread);

/* paths.c */
int augment(Search *s, int start);
int place_constant_rows(Search *s);

#endif
