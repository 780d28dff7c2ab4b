/* The lists at the prices of the start, kept for an auction that begins again from there. */
#include "search.h"

#include <stdlib.h>
#include <string.h>

/* Candidates a row keeps. Measured: short lists are made faster and serve small matrices; at 4096, 12 to 24 are equal. */
int list_room(int n) { return n < 2560 ? 6 + n / 256 : 16; }

/* Spread: the mean over rows of the largest value minus (nearly) the least. */
static int read_all(Search *s, double *spread) {
    double sum = 0;
    int rows = 0;
    for (int i = 0; i < s->n; i++) {
        if (!row_is_finite(s->a, i)) return LJV_NOT_FINITE;
        if (s->row_constant[i]) continue;
        read_row(s, i);
        make_list(s, i);
        if (s->list_size[i] == 0) continue;
        double least = INFINITY;
        for (int g = 0; g < group_count(s); g++)
            if (s->groups[g] > -INFINITY && s->groups[g] < least) least = s->groups[g];
        const Candidate *list = list_of(s, i);
        if (least == INFINITY) least = list[s->list_size[i] - 1].then;
        sum += list[0].then - least;
        rows++;
    }
    *spread = rows ? sum / rows : 0;
    return LJV_OK;
}

int first_lists(Search *s, First *first) {
    size_t n = (size_t)s->n, bytes = n * (size_t)s->room * sizeof *first->lists;
    int status = LJV_OK;
    first->lists = malloc(bytes);
    first->bound = malloc(n * sizeof *first->bound);
    first->list_size = malloc(n * sizeof *first->list_size);
    if (!first->lists || !first->bound || !first->list_size) return LJV_NO_MEMORY;
    status = read_all(s, &first->spread);
    memcpy(first->lists, s->lists, bytes);
    memcpy(first->bound, s->bound, n * sizeof *first->bound);
    memcpy(first->list_size, s->list_size, n * sizeof *first->list_size);
    return status;
}

void first_lists_again(Search *s, const First *first) {
    size_t n = (size_t)s->n;
    memcpy(s->lists, first->lists, n * (size_t)s->room * sizeof *first->lists);
    memcpy(s->bound, first->bound, n * sizeof *first->bound);
    memcpy(s->list_size, first->list_size, n * sizeof *first->list_size);
}

void release_first(First *first) {
    free(first->lists);
    free(first->bound);
    free(first->list_size);
}
