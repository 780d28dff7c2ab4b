/* The inner loops over one row, included once for each type: ENTRY is float or double, NAME(x) adds a suffix.
 * Written for the compiler's vectoriser: fixed lanes, and nothing whose result depends on the order. */

/* x - x is 0 for a finite x and NaN for every other. */
PER_MACHINE static int NAME(finite)(const ENTRY *restrict a, int n) {
    ENTRY sum[BLOCK] = {0};
    int j = 0, good = 1;
    for (; j + BLOCK <= n; j += BLOCK)
        for (int l = 0; l < BLOCK; l++) sum[l] += a[j + l] - a[j + l];
    for (; j < n; j++) sum[0] += a[j] - a[j];
    for (int l = 0; l < BLOCK; l++) good &= sum[l] == 0;
    return good;
}

PER_MACHINE static void NAME(values)(const ENTRY *restrict a, const double *restrict p, double *restrict v,
                                     double *restrict groups, int n) {
    int s = 0;
    for (; s + BLOCK <= n; s += BLOCK) {
        double top[LANES];
        for (int l = 0; l < LANES; l++) top[l] = v[s + l] = (double)a[s + l] - p[s + l];
        for (int k = LANES; k < BLOCK; k += LANES)
            for (int l = 0; l < LANES; l++) {
                double value = (double)a[s + k + l] - p[s + k + l];
                v[s + k + l] = value;
                top[l] = value > top[l] ? value : top[l];
            }
        for (int l = 0; l < LANES; l++) groups[s / BLOCK * LANES + l] = top[l];
    }
    if (s < n) {
        double *tail = groups + s / BLOCK * LANES;
        for (int l = 0; l < LANES; l++) tail[l] = -INFINITY;
        for (int j = s; j < s + BLOCK; j++) {
            v[j] = j < n ? (double)a[j] - p[j] : -INFINITY;
            if (v[j] > tail[j % LANES]) tail[j % LANES] = v[j];
        }
    }
}

PER_MACHINE static double NAME(best)(const ENTRY *restrict a, const double *restrict p, int n) {
    enum { WIDTH = 32 };
    double top[WIDTH];
    int j = 0;
    for (int l = 0; l < WIDTH; l++) top[l] = -INFINITY;
    for (; j + WIDTH <= n; j += WIDTH)
        for (int l = 0; l < WIDTH; l++) {
            double value = (double)a[j + l] - p[j + l];
            top[l] = value > top[l] ? value : top[l];
        }
    for (; j < n; j++) {
        double value = (double)a[j] - p[j];
        top[0] = value > top[0] ? value : top[0];
    }
    for (int l = 1; l < WIDTH; l++) top[0] = top[l] > top[0] ? top[l] : top[0];
    return top[0];
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
