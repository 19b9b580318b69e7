/* C = A B of float32 matrices, with what a linear layer needs around it: see Product.

   A tile of C, ROWS x COLUMNS, stays in registers while the factors stream past it. For that both lie packed: A in groups
   of ROWS rows, B in panels of COLUMNS columns, so that what a turn of the innermost loop reads lies side by side.
   Whoever packs also transposes, rounds to bfloat16 and applies the gate: none of it costs a pass of its own. The groups
   of A are packed once, by all threads; a panel by the thread that multiplies by it next, into its cache.
   Goto, van de Geijn, 2008: Anatomy of High-Performance Matrix Multiplication.

   What is multiplied are units: one float32, or with BFLOAT16 a pair of bfloat16 that follow each other in depth, whose
   two products one instruction sums in float32. That instruction takes subnormal numbers as 0.

   An entry's sum has the same order whatever thread computes it, so the bits of C do not depend on the threads. */
#include "pool.h"
#include "vectors.h"

#include <stdlib.h>

#ifdef BFLOAT16
#include <immintrin.h>
typedef uint32_t Unit;
enum { WIDTH = 2 };
#else
typedef float Unit;
enum { WIDTH = 1 };
#endif

enum {
    ROWS = LANES / 2,       /* with two vectors a row LANES sums, half of the registers and more than an addition takes */
    COLUMNS = 2 * LANES,
    DEPTH = 512,            /* units of a panel: 64 KiB, which the second cache holds beside the rest */
    TASKS_A_THREAD = 4,     /* so that a thread that is late does not keep the others waiting */
    LEAST_GROUPS = 8,       /* groups that a packed panel serves at least */
    FEW = 1 << 15,          /* multiply-adds: fewer are over before another thread has heard of them */
};

/* A matrix in memory: `along_depth` from one number of a sum to the next, `across` from one row of A, or column of B, to
   the next; one of them is 1. Where `gate`, laid out alike, is not above 0 (nor NaN), the number counts as 0. */
typedef struct {
    const float *data, *gate;
    size_t along_depth, across;
} Factor;

/* C (rows, columns), row by row, = A (rows, depth) B (depth, columns) + bias (columns, or NULL), negative sums replaced
   by 0 with relu. `sums` (rows, or NULL) becomes the sum of each row of A, whose rows then lie side by side. */
typedef struct {
    size_t rows, columns, depth;
    Factor a, b;
    float *c;
    const float *bias;
    float *sums;
    size_t relu;
} Product;

typedef struct {
    const Product *product;
    Unit *packed; /* A: unit `u` of row `r` at (r / ROWS * units + u) * ROWS + r % ROWS */
    size_t units, panels, rows_a_task;
} Plan;

/* --- units ------------------------------------------------------------------------------------------------------- */

INLINE Vector numbers(const Factor *f, size_t at, size_t count) {
    Vector v = load_part(f->data + at, count);
    return f->gate ? where(~(load_part(f->gate + at, count) <= 0), v) : v;
}

#ifdef BFLOAT16

/* The next LANES units of one row; `left` numbers are left of it. */
INLINE Vector units_of_row(const Factor *f, size_t at, size_t left) {
    Vector first = numbers(f, at, left), second = {0};
    if (left > LANES) second = numbers(f, at + LANES, left - LANES);
    return (Vector)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
}

/* One unit each of `count` rows side by side; `left` numbers are left in depth. */
INLINE Vector units_of_rows(const Factor *f, size_t at, size_t count, size_t left) {
    Vector first = numbers(f, at, count), second = {0};
    if (left > 1) second = numbers(f, at + f->along_depth, count);
    __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)first));
    __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)second));
    return (Vector)_mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

INLINE Vector multiply_add(Vector sum, Unit a, Vector b) {
    return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32((int)a), (__m512bh)b);
}

#else

INLINE Vector units_of_row(const Factor *f, size_t at, size_t left) { return numbers(f, at, left); }

INLINE Vector units_of_rows(const Factor *f, size_t at, size_t count, size_t left) {
    (void)left;
    return numbers(f, at, count);
}

INLINE Vector multiply_add(Vector sum, Unit a, Vector b) { return sum + a * b; } /* one rounding: -ffp-contract=fast */

#endif

/* LANES vectors of LANES units: rows become columns, by exchanging halves, quarters and so on. */
INLINE void transpose(Vector block[LANES]) {
#pragma GCC unroll 4
    for (int size = 1; size < LANES; size *= 2) {
        Mask low, high;
        for (int i = 0; i < LANES; i++) {
            low[i] = i & size ? LANES + i - size : i;
            high[i] = i & size ? LANES + i : i + size;
        }
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) {
            if (i & size) continue;
            Vector a = block[i], b = block[i + size];
            block[i] = __builtin_shuffle(a, b, low);
            block[i + size] = __builtin_shuffle(a, b, high);
        }
    }
}

/* Half of a vector's units to one place, the other half `second` units further. */
INLINE void put(Unit *to, size_t second, Vector units) {
    memcpy(to, &units, sizeof units / 2);
    memcpy(to + second, (const char *)&units + sizeof units / 2, sizeof units / 2);
}

/* `count` <= LANES rows of A, or columns of B, from `start` on, and `depth` numbers from `from` on: unit u of each, one
   behind the other, at to + u * stride, their second half at `second` from there. Without rows, lanes hold 0. */
APART void pack(const Factor *f, size_t start, size_t count, size_t from, size_t depth, Unit *to, size_t stride,
                 size_t second) {
    const size_t at = start * f->across + from * f->along_depth, units = parts(depth, WIDTH);
    if (f->along_depth != 1) {
        for (size_t u = 0; u < units; u++) {
            const size_t k = u * WIDTH;
            put(to + u * stride, second, units_of_rows(f, at + k * f->along_depth, count, depth - k));
        }
        return;
    }
    for (size_t u = 0; u < units; u += LANES) {
        const size_t left = depth - u * WIDTH;
        Vector block[LANES];
#pragma GCC unroll 16
        for (size_t row = 0; row < LANES; row++)
            block[row] = row < count ? units_of_row(f, at + row * f->across + u * WIDTH, left) : (Vector){0};
        transpose(block);
#pragma GCC unroll 16
        for (size_t i = 0; i < LANES; i++)
            if (u + i < units) put(to + (u + i) * stride, second, block[i]);
    }
}

/* --- the two phases ---------------------------------------------------------------------------------------------- */

/* The sums of `count` rows side by side, in parts of 64 numbers: so roundings grow with the number of parts only. */
INLINE void sum_rows(const Factor *f, size_t start, size_t count, size_t depth, float *to) {
    Vector total = {0};
    for (size_t from = 0; from < depth; from += 64) {
        Vector part = {0};
        for (size_t k = from; k < least(from + 64, depth); k++)
            part += numbers(f, start * f->across + k * f->along_depth, count);
        total += part;
    }
    store_part(to + start, total, count);
}

static void pack_groups(const void *job, size_t task) { /* two of them */
    const Plan *plan = job;
    const Product *p = plan->product;
    const size_t start = task * LANES, count = least(p->rows - start, LANES);
    pack(&p->a, start, count, 0, p->depth, plan->packed + start * plan->units, ROWS, ROWS * plan->units);
    if (p->sums) sum_rows(&p->a, start, count, p->depth, p->sums);
}

INLINE void finish(const Product *p, size_t row, size_t column, Vector sum, int first, int last) {
    float *c = p->c + row * p->columns + column;
    const size_t count = p->columns - column;
    if (!first) sum += load_part(c, count);
    if (last && p->bias) sum += load_part(p->bias + column, count);
    if (last && p->relu) sum = where(~(sum < 0), sum);
    store_part(c, sum, count);
}

/* `rows` x (one or two vectors) of C: the sums over these units, added to what is there unless they are the first. */
INLINE void tile(const int rows, const int both, const Product *p, size_t row, size_t column, const Unit *a,
                 const Unit *b, size_t units, int first, int last) {
    Vector left[ROWS] = {0}, right[ROWS] = {0};
    for (size_t u = 0; u < units; u++) {
        const Vector b_left = load((const float *)(b + u * COLUMNS));
        const Vector b_right = both ? load((const float *)(b + u * COLUMNS + LANES)) : b_left;
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            left[i] = multiply_add(left[i], a[u * ROWS + i], b_left);
            if (both) right[i] = multiply_add(right[i], a[u * ROWS + i], b_right);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++) {
        finish(p, row + i, column, left[i], first, last);
        if (both) finish(p, row + i, column + LANES, right[i], first, last);
    }
}

/* With the number of rows known to the compiler, all sums are registers. */
APART void any_tile(size_t rows, int both, const Product *p, size_t row, size_t column, const Unit *a, const Unit *b,
                     size_t units, int first, int last) {
#define CASE(n)                                                                         \
    case n:                                                                             \
        if (both)                                                                       \
            tile(n, 1, p, row, column, a, b, units, first, last);                       \
        else                                                                            \
            tile(n, 0, p, row, column, a, b, units, first, last);                       \
        break;
    switch (rows) {
        CASE(1) CASE(2) CASE(3) CASE(4)
#ifdef __AVX512F__
        CASE(5) CASE(6) CASE(7) CASE(8)
#endif
    }
#undef CASE
}

static void multiply(const void *job, size_t task) {
    static __thread Unit panel[DEPTH * COLUMNS] __attribute__((aligned(64)));
    const Plan *plan = job;
    const Product *p = plan->product;
    const size_t column = task % plan->panels * COLUMNS, columns = least(p->columns - column, COLUMNS);
    const size_t start = task / plan->panels * plan->rows_a_task, end = least(start + plan->rows_a_task, p->rows);
    for (size_t from = 0; from < p->depth; from += DEPTH * WIDTH) {
        const size_t depth = least(p->depth - from, DEPTH * WIDTH), units = parts(depth, WIDTH);
        const int both = columns > LANES, first = from == 0, last = from + depth == p->depth;
        pack(&p->b, column, least(columns, LANES), from, depth, panel, COLUMNS, ROWS);
        if (both) pack(&p->b, column + LANES, columns - LANES, from, depth, panel + LANES, COLUMNS, ROWS);
        for (size_t row = start; row < end; row += ROWS)
            any_tile(least(end - row, ROWS), both, p, row, column, plan->packed + row * plan->units + from / WIDTH * ROWS,
                     panel, units, first, last);
    }
}

/* --- the whole --------------------------------------------------------------------------------------------------- */

/* Memory for A's units, kept from call to call. */
static Unit *space_for(size_t units) {
    static Unit *space;
    static size_t room;
    if (units > room) {
        free(space);
        space = aligned_alloc(64, parts(units * sizeof(Unit), 64) * 64);
        room = space ? units : 0;
    }
    return space;
}

static void run(Work *work, const Plan *plan, size_t tasks) {
    const Product *p = plan->product;
    if (p->rows * p->columns * p->depth > FEW)
        dlf_share(work, plan, tasks);
    else
        for (size_t task = 0; task < tasks; task++) work(plan, task);
}

/* 0, or -1 without memory for A's units. One caller at a time. */
EXPORTED int NAMED(dlf_product, LEVEL)(const Product *p) {
    const size_t groups = parts(p->rows, ROWS), panels = parts(p->columns, COLUMNS), units = parts(p->depth, WIDTH);
    Plan plan = {.product = p, .packed = space_for(parts(groups, 2) * LANES * units), .units = units, .panels = panels};
    if (!plan.packed) return -1;
    const size_t cuts = parts(TASKS_A_THREAD * dlf_threads(), panels); /* of the rows */
    const size_t groups_a_task = parts(parts(groups, cuts), LEAST_GROUPS) * LEAST_GROUPS;
    plan.rows_a_task = groups_a_task * ROWS;
    run(pack_groups, &plan, parts(groups, 2));
    run(multiply, &plan, panels * parts(groups, groups_a_task));
    return 0;
}
