/* The passes over dense rows: all that touches n * n numbers, and nothing else. */
#include "lazy_jv.h"

#include <math.h>
#include <stdlib.h>

/* Where the loader can choose a function by the machine it runs on, each pass is compiled for three of them. */
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__)
#define PER_MACHINE __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define PER_MACHINE
#endif

static const float *row_f32(const Matrix *a, int row) { return (const float *)a->data + (ptrdiff_t)row * a->stride; }
static const double *row_f64(const Matrix *a, int row) { return (const double *)a->data + (ptrdiff_t)row * a->stride; }

double matrix_at(const Matrix *a, int row, int column) {
    return a->is_double ? row_f64(a, row)[column] : (double)row_f32(a, row)[column];
}

#define ENTRY float
#define NAME(x) x##_f32
#include "passes.h"
#undef ENTRY
#undef NAME
#define ENTRY double
#define NAME(x) x##_f64
#include "passes.h"

int row_is_finite(const Matrix *a, int row) {
    return a->is_double ? finite_f64(row_f64(a, row), a->n) : finite_f32(row_f32(a, row), a->n);
}

void row_values(const Matrix *a, int row, const double *prices, double *v, double *groups) {
    if (a->is_double)
        values_f64(row_f64(a, row), prices, v, groups, a->n);
    else
        values_f32(row_f32(a, row), prices, v, groups, a->n);
}

int best_column(const Matrix *a, int row, const double *prices) {
    if (a->is_double) {
        const double *entries = row_f64(a, row);
        return find_f64(entries, prices, best_f64(entries, prices, a->n), a->n);
    }
    const float *entries = row_f32(a, row);
    return find_f32(entries, prices, best_f32(entries, prices, a->n), a->n);
}

PER_MACHINE void largest_of_both(double *restrict into, const double *restrict other, ptrdiff_t n) {
    for (ptrdiff_t t = 0; t < n; t++) into[t] = other[t] > into[t] ? other[t] : into[t];
}

int row_is_constant(const Matrix *a, int row) {
    return a->is_double ? constant_f64(row_f64(a, row), a->n) : constant_f32(row_f32(a, row), a->n);
}

void constant_columns(const Matrix *a, unsigned char *constant, int *scratch) {
    int count = a->n;
    for (int j = 0; j < a->n; j++) scratch[j] = j;
    for (int i = 1; i < a->n && count > 0; i++) /* few columns outlive the first rows */
        count = a->is_double ? keep_equal_f64(row_f64(a, 0), row_f64(a, i), scratch, count)
                             : keep_equal_f32(row_f32(a, 0), row_f32(a, i), scratch, count);
    for (int j = 0; j < a->n; j++) constant[j] = 0;
    for (int t = 0; t < count; t++) constant[scratch[t]] = 1;
}

double duality_gap(const Matrix *a, const double *prices, const int64_t *columns) {
    double gap = 0;
    for (int i = 0; i < a->n; i++) {
        double best = a->is_double ? best_f64(row_f64(a, i), prices, a->n) : best_f32(row_f32(a, i), prices, a->n);
        gap += best - (matrix_at(a, i, (int)columns[i]) - prices[columns[i]]);
    }
    return gap;
}
