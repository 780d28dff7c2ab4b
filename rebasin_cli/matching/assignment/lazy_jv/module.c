/* The Python face: arguments checked, the interpreter released while the numbers are worked on. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "lazy_jv.h"

#include <limits.h>
#include <string.h>

typedef struct {
    Py_buffer matrix, prices, columns;
    int held;
    Matrix a;
} Arguments;

static void release(Arguments *args) {
    Py_buffer *views[] = {&args->matrix, &args->prices, &args->columns};
    while (args->held > 0) PyBuffer_Release(views[--args->held]);
}

static int hold(Arguments *args, PyObject *object, Py_buffer *view, int flags) {
    if (PyObject_GetBuffer(object, view, flags | PyBUF_FORMAT) < 0) return 0;
    args->held++;
    return 1;
}

static int is_vector(const Py_buffer *view, const char *formats, Py_ssize_t n) {
    return view->ndim == 1 && view->shape[0] == n && view->itemsize == 8 && view->format[1] == 0 &&
           strchr(formats, view->format[0]) != NULL;
}

/* (matrix, prices, columns): float or double with contiguous rows; writable float64; writable int64. */
static int take(Arguments *args, PyObject *matrix, PyObject *prices, PyObject *columns) {
    memset(args, 0, sizeof *args);
    if (!hold(args, matrix, &args->matrix, PyBUF_STRIDES) ||
        !hold(args, prices, &args->prices, PyBUF_ND | PyBUF_WRITABLE) ||
        !hold(args, columns, &args->columns, PyBUF_ND | PyBUF_WRITABLE)) {
        release(args);
        return 0;
    }
    const Py_buffer *m = &args->matrix;
    int is_double = strcmp(m->format, "d") == 0;
    if (m->ndim != 2 || m->shape[0] != m->shape[1] || m->shape[0] < 2 || m->shape[0] > INT_MAX / 64 ||
        (!is_double && strcmp(m->format, "f") != 0) || m->strides[1] != m->itemsize || m->strides[0] % m->itemsize ||
        !is_vector(&args->prices, "d", m->shape[0]) || !is_vector(&args->columns, "lq", m->shape[0])) {
        release(args);
        PyErr_SetString(PyExc_TypeError, "needs an (n, n) float32 or float64 matrix with contiguous rows, n >= 2, "
                                         "(n,) float64 prices and (n,) int64 columns");
        return 0;
    }
    args->a = (Matrix){m->buf, is_double, m->strides[0] / m->itemsize, (int)m->shape[0]};
    return 1;
}

static PyObject *solve(PyObject *module, PyObject *tuple) {
    Arguments args;
    Counts counts;
    PyObject *matrix, *prices, *columns;
    int status;
    (void)module;
    if (!PyArg_ParseTuple(tuple, "OOO", &matrix, &prices, &columns) || !take(&args, matrix, prices, columns))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    status = lazy_jv_solve(&args.a, args.prices.buf, args.columns.buf, &counts);
    Py_END_ALLOW_THREADS;
    release(&args);
    if (status == LJV_NO_MEMORY) return PyErr_NoMemory();
    if (status == LJV_NOT_FINITE) return PyErr_Format(PyExc_ValueError, "an entry is not finite");
    if (status != LJV_OK) return PyErr_Format(PyExc_ArithmeticError, "no augmenting path was found");
    return Py_BuildValue("{s:L,s:L,s:L,s:L}", "dense_rows", (long long)counts.dense_rows, "bids",
                         (long long)counts.bids, "free_rows", (long long)counts.free_rows, "path_steps",
                         (long long)counts.path_steps);
}

static PyObject *gap(PyObject *module, PyObject *tuple) {
    Arguments args;
    PyObject *matrix, *prices, *assigned;
    double result = 0;
    (void)module;
    if (!PyArg_ParseTuple(tuple, "OOO", &matrix, &prices, &assigned) || !take(&args, matrix, prices, assigned))
        return NULL;
    const int64_t *columns = args.columns.buf;
    for (int i = 0; i < args.a.n; i++)
        if (columns[i] < 0 || columns[i] >= args.a.n) {
            release(&args);
            return PyErr_Format(PyExc_IndexError, "column of row %d is out of range", i);
        }
    Py_BEGIN_ALLOW_THREADS;
    result = duality_gap(&args.a, args.prices.buf, columns);
    Py_END_ALLOW_THREADS;
    release(&args);
    return PyFloat_FromDouble(result);
}

/* (matrices, prices, columns, gaps): (m, n, n) float or double with contiguous rows; (m, n), (m, n) and (m,) to fill. */
static PyObject *solve_all(PyObject *module, PyObject *tuple) {
    PyObject *objects[4];
    Py_buffer views[4];
    int held = 0, fits = 1, status = LJV_OK;
    (void)module;
    if (!PyArg_ParseTuple(tuple, "OOOO", &objects[0], &objects[1], &objects[2], &objects[3])) return NULL;
    for (; held < 4; held++)
        if (PyObject_GetBuffer(objects[held], &views[held],
                               PyBUF_FORMAT | (held ? PyBUF_ND | PyBUF_WRITABLE : PyBUF_STRIDES)) < 0)
            break;
    if (held == 4) {
        const Py_buffer *m = &views[0];
        int is_double = strcmp(m->format, "d") == 0;
        fits = m->ndim == 3 && m->shape[1] == m->shape[2] && m->shape[1] >= 1 && m->shape[1] <= INT_MAX / 64 &&
               (is_double || strcmp(m->format, "f") == 0) && m->strides[2] == m->itemsize &&
               m->strides[1] % m->itemsize == 0 && strchr("d", views[1].format[0]) && strchr("lq", views[2].format[0]) &&
               strchr("d", views[3].format[0]);
        for (int k = 1; fits && k < 4; k++)
            fits = views[k].itemsize == 8 && views[k].shape[0] == m->shape[0] && views[k].ndim == (k < 3 ? 2 : 1) &&
                   (k == 3 || views[k].shape[1] == m->shape[1]);
        if (fits) {
            Matrix first = {m->buf, is_double, m->strides[1] / m->itemsize, (int)m->shape[1]};
            Py_BEGIN_ALLOW_THREADS;
            status = solve_many(&first, m->shape[0], m->strides[0], views[1].buf, views[2].buf, views[3].buf);
            Py_END_ALLOW_THREADS;
        } else
            PyErr_SetString(PyExc_TypeError, "needs (m, n, n) float32 or float64 matrices with contiguous rows, "
                                             "(m, n) float64 prices, (m, n) int64 columns and (m,) float64 gaps");
    }
    for (int k = 0; k < held; k++) PyBuffer_Release(&views[k]);
    if (held < 4 || !fits) return NULL;
    if (status == LJV_NO_MEMORY) return PyErr_NoMemory();
    if (status == LJV_NOT_FINITE) return PyErr_Format(PyExc_ValueError, "an entry is not finite");
    if (status != LJV_OK) return PyErr_Format(PyExc_ArithmeticError, "no augmenting path was found");
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"solve", solve, METH_VARARGS,
     "solve(matrix, prices, columns) -> counts. Prices: the start in, the dual solution out; columns: out."},
    {"gap", gap, METH_VARARGS, "gap(matrix, prices, columns) -> the dual bound minus the value of the columns."},
    {"solve_all", solve_all, METH_VARARGS,
     "solve_all(matrices, prices, columns, gaps): each matrix by itself, from prices of zero; the rest is filled in."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_lazy_jv", "Exact linear assignment by a lazy Jonker-Volgenant method.", 0, methods, slots,
    NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__lazy_jv(void) { return PyModuleDef_Init(&definition); }
