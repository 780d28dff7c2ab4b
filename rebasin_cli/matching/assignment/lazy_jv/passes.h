/* The inner loops over one row, included once for each type: ENTRY is float or double, NAME(x) adds a suffix.
 * Written for the compiler's vectoriser: fixed lanes, nothing whose result depends on the order, and indices as wide as
 * pointers (Python's own compiler flags let an int wrap, and a[k + l] is then no run of neighbours to the compiler). */

/* x - x is 0 for a finite x and NaN for every other. */
PER_MACHINE static int NAME(finite)(const ENTRY *restrict a, ptrdiff_t n) {
    ENTRY sum[LANES] = {0};
    ptrdiff_t j = 0;
    int good = 1;
    for (; j + LANES <= n; j += LANES)
        for (ptrdiff_t l = 0; l < LANES; l++) sum[l] += a[j + l] - a[j + l];
    for (; j < n; j++) sum[0] += a[j] - a[j];
    for (ptrdiff_t l = 0; l < LANES; l++) good &= sum[l] == 0;
    return good;
}

PER_MACHINE static void NAME(values)(const ENTRY *restrict a, const double *restrict p, double *restrict v,
                                     double *restrict groups, ptrdiff_t n) {
    for (ptrdiff_t s = 0; s < n; s += BLOCK, groups += LANES) {
        for (ptrdiff_t l = 0; l < LANES; l++) groups[l] = -INFINITY;
        ptrdiff_t end = n - s < BLOCK ? n : s + BLOCK, whole = s + (end - s) / LANES * LANES;
        for (ptrdiff_t k = s; k < whole; k += LANES)
            for (ptrdiff_t l = 0; l < LANES; l++) {
                double value = (double)a[k + l] - p[k + l];
                v[k + l] = value;
                groups[l] = value > groups[l] ? value : groups[l];
            }
        for (ptrdiff_t l = 0; l < end - whole; l++) {
            double value = (double)a[whole + l] - p[whole + l];
            v[whole + l] = value;
            groups[l] = value > groups[l] ? value : groups[l];
        }
    }
}

PER_MACHINE static double NAME(best)(const ENTRY *restrict a, const double *restrict p, ptrdiff_t n) {
    double top[LANES];
    ptrdiff_t j = 0;
    for (ptrdiff_t l = 0; l < LANES; l++) top[l] = -INFINITY;
    for (; j + LANES <= n; j += LANES)
        for (ptrdiff_t l = 0; l < LANES; l++) {
            double value = (double)a[j + l] - p[j + l];
            top[l] = value > top[l] ? value : top[l];
        }
    for (; j < n; j++) {
        double value = (double)a[j] - p[j];
        top[0] = value > top[0] ? value : top[0];
    }
    for (ptrdiff_t l = 1; l < LANES; l++) top[0] = top[l] > top[0] ? top[l] : top[0];
    return top[0];
}

/* The first column of a value. */
PER_MACHINE static int NAME(find)(const ENTRY *restrict a, const double *restrict p, double value, ptrdiff_t n) {
    ptrdiff_t j = 0;
    for (; j + LANES <= n; j += LANES) {
        int here = 0;
        for (ptrdiff_t l = 0; l < LANES; l++) here |= (double)a[j + l] - p[j + l] == value;
        if (here) break;
    }
    while (j < n && (double)a[j] - p[j] != value) j++;
    return (int)j;
}

static int NAME(constant)(const ENTRY *a, int n) {
    for (int j = 1; j < n; j++)
        if (a[j] != a[0]) return 0;
    return 1;
}

/* Keeps those of the columns listed that have the same entry in both rows; returns how many. */
static int NAME(keep_equal)(const ENTRY *restrict a, const ENTRY *restrict b, int *restrict columns, int count) {
    int kept = 0;
    for (int t = 0; t < count; t++) {
        int j = columns[t];
        columns[kept] = j;
        kept += a[j] == b[j];
    }
    return kept;
}
