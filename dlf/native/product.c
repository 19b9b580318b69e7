/* C = (A + shift) B of float32 matrices, with what a linear layer needs around it: see Product.

   A tile of C, ROWS x COLUMNS, stays in registers while the factors stream past it. For that both lie packed: A in groups
   of ROWS rows, B in panels of COLUMNS columns, so that what a turn of the innermost loop reads lies side by side.
   Whoever packs also transposes, rounds to bfloat16 and applies the gate: none of it costs a pass of its own. The groups
   of A are packed once, by all threads; a panel by the thread that multiplies by it next, into its cache.
   Goto, van de Geijn, 2008: Anatomy of High-Performance Matrix Multiplication.

   Where a group has only zeros, it is not packed, and so not multiplied: each group lists what it has. Images are empty at
   their borders, and of what relu lets through, or of the gradient behind it, half and more is 0. ROWS is small for that:
   the fewer rows, the more often all of them are 0.

   An entry's sum has the same order whatever thread computes it, so the bits of C do not depend on the threads. */
#include "pool.h"
#include "vectors.h"

#include <stdlib.h>

#ifdef BFLOAT16
typedef uint16_t Number; /* as it is multiplied */
#else
typedef float Number;
#endif

enum {
    AT_ONCE = sizeof(float) / sizeof(Number), /* products that one instruction sums */
    ROWS = 4,
    VECTORS = LANES / 4,   /* ROWS * VECTORS sums: half of the registers, and more than an addition takes cycles */
    COLUMNS = VECTORS * LANES,
    DEPTH = (1 << 17) / (COLUMNS * sizeof(Number)), /* of a panel: 128 KiB, which the second cache holds beside the rest */
    SPARE = LANES * AT_ONCE, /* of a list, which is written by whole vectors */
    ROOM = DEPTH + SPARE,
    TASKS_A_THREAD = 4,    /* so that a thread that is late does not keep the others waiting */
    LEAST_GROUPS = 16,     /* groups that a packed panel serves at least */
    FEW = 1 << 15,         /* multiply-adds: fewer are over before another thread has heard of them */
};

/* A matrix in memory: `along_depth` from one number of a sum to the next, `across` from one row of A, or column of B, to
   the next; one of them is 1. Where `gate`, laid out alike, is not above 0 (nor NaN), the number counts as 0. */
typedef struct {
    const float *data, *gate;
    size_t along_depth, across;
} Factor;

/* C (rows, columns) = (A (rows, depth) + shift) B (depth, columns) + bias (columns, or NULL), negative sums replaced by 0
   with relu. C lies row by row or, `transposed`, column by column. `sums` (columns, or NULL) becomes the sum of each
   column of B. */
typedef struct {
    size_t rows, columns, depth;
    Factor a, b;
    float *c;
    const float *bias;
    float *sums;
    double shift;
    size_t relu, transposed;
} Product;

/* A's lists, one for each block of the depth of each group: list `group * blocks + block` has counts[list] numbers of each
   of its rows, which begin at packed[list * room * ROWS], AT_ONCE of a row side by side; indices[list * room + n] is where
   in the block the n-th of them stood. */
typedef struct {
    const Product *product;
    Number *packed;
    uint32_t *indices, *counts;
    size_t blocks, room, panels, rows_a_task;
} Plan;

/* --- numbers as they are multiplied ------------------------------------------------------------------------------ */

#ifdef BFLOAT16

/* The next numbers of a row as they are packed, those that are multiplied at once side by side. */
INLINE Vector packed(const float *list) {
    return (Vector)_mm512_cvtne2ps_pbh((__m512)load(list + LANES), (__m512)load(list));
}

/* Two vectors of columns as a row of a panel: four of the one and four of the other take turns. */
INLINE void put_row(Number *to, Vector one, Vector other) {
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)other, (__m512)one);
    store(to, (Vector)_mm512_permutexvar_epi64(_mm512_set_epi64(7, 3, 6, 2, 5, 1, 4, 0), both));
}

/* Two rows of a panel, number by number side by side: two vectors of columns. */
INLINE void get_rows(const Number *panel, const uint32_t *index, Vector *one, Vector *other) {
    const __m512i first = (__m512i)load(panel + index[0]), second = (__m512i)load(panel + index[1]);
    *one = (Vector)_mm512_unpacklo_epi16(first, second);
    *other = (Vector)_mm512_unpackhi_epi16(first, second);
}

INLINE Vector repeated(const Number *a) {
    int32_t both;
    memcpy(&both, a, sizeof both);
    return (Vector)_mm512_set1_epi32(both);
}

INLINE Vector multiply_add(Vector sum, Vector a, Vector b) { /* takes subnormal numbers as 0 */
    return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}

#else

INLINE Vector packed(const float *list) { return load(list); }

INLINE void put_row(Number *to, Vector one, Vector other) { store(to, one), store(to + LANES, other); }

INLINE void get_rows(const Number *panel, const uint32_t *index, Vector *one, Vector *other) {
    *one = load(panel + index[0]), *other = load(panel + index[0] + LANES);
}

INLINE Vector repeated(const Number *a) { return repeat(*a); }

INLINE Vector multiply_add(Vector sum, Vector a, Vector b) { return sum + a * b; } /* one rounding: -ffp-contract=fast */

#endif

/* --- packing ----------------------------------------------------------------------------------------------------- */

/* `vectors` vectors of `count` numbers, `step` from one to the next; 0 where there are none. */
APART void read_some(const Factor *f, size_t at, size_t step, size_t vectors, size_t count, Vector block[LANES]) {
    for (size_t i = 0; i < LANES; i++, at += step) {
        block[i] = i < vectors ? load_part(f->data + at, count) : (Vector){0};
        if (f->gate && i < vectors) block[i] = where(~(load_part(f->gate + at, count) <= 0), block[i]);
    }
}

/* Of `count` <= LANES rows of A, or columns of B, from `start` on: LANES numbers from `from` of the depth on, or the `left`
   ones, 0 where there are none. A vector holds numbers of one row or, `across`, one number of each row. */
INLINE void read_block(const Factor *f, size_t start, size_t count, size_t from, size_t left, const int across,
                       Vector block[LANES]) {
    const size_t at = start * f->across + from * f->along_depth;
    const int by_row = f->along_depth == 1;
    const size_t step = by_row ? f->across : f->along_depth;
    if (least(count, left) < LANES || f->gate)
        read_some(f, at, step, by_row ? count : left, by_row ? left : count, block);
    else
#pragma GCC unroll 16
        for (size_t i = 0; i < LANES; i++) block[i] = load(f->data + at + i * step);
    if (by_row == across) transpose(block);
}

/* Each thread's own, and behind it a row of zeros. Not inlined: the compiler would look for it in the innermost loop. */
APART Number *own_panel(void) {
    static __thread Number panel[(DEPTH + 1) * COLUMNS] __attribute__((aligned(64)));
    __asm__("");
    return panel;
}

/* The list of a group, from what it has of its rows, which begin every ROOM numbers. */
INLINE size_t pack_list(Number *to, uint32_t *indices, float *rows, size_t count) {
    for (; count % AT_ONCE; count++) { /* 0 times the row of zeros */
        for (int i = 0; i < ROWS; i++) memset(rows + i * ROOM + count, 0, sizeof *rows);
        indices[count] = DEPTH * COLUMNS;
    }
    for (size_t at = 0; at < count; at += LANES * AT_ONCE) {
        Vector some[ROWS];
#pragma GCC unroll 4
        for (int i = 0; i < ROWS; i++) some[i] = packed(rows + i * ROOM + at);
        transpose_fours(some);
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
            memcpy(to + (at + i * AT_ONCE) * ROWS, (float *)&some[i % 4] + i / 4 * 4, 4 * sizeof(float));
    }
    return count;
}

/* The lists of LANES / ROWS groups. What their rows have is gathered where a panel is later. */
static void pack_groups(const void *job, size_t task) {
    enum { GROUPS = LANES / ROWS };
    _Static_assert(LANES * ROOM * sizeof(float) <= DEPTH * COLUMNS * sizeof(Number), "the rows fit into a panel");
    const Plan *plan = job;
    const Product *p = plan->product;
    const size_t start = task * LANES, count = least(p->rows - start, LANES);
    float *const rows = (float *)own_panel();
    for (size_t block = 0; block < plan->blocks; block++) {
        const size_t from = block * DEPTH, depth = least(p->depth - from, DEPTH);
        size_t lists[GROUPS], counts[GROUPS] = {0};
        for (size_t g = 0; g < GROUPS; g++) lists[g] = (start / ROWS + g) * plan->blocks + block;
        for (size_t at = 0; at < depth; at += LANES) {
            Vector read[LANES];
            Mask places;
            for (int i = 0; i < LANES; i++) places[i] = (int32_t)(at + i) * COLUMNS;
            read_block(&p->a, start, count, from + at, depth - at, 0, read);
#pragma GCC unroll 4
            for (size_t g = 0; g < GROUPS; g++) {
                const Vector *r = read + g * ROWS;
                const unsigned there = bits((r[0] != 0) | (r[1] != 0) | (r[2] != 0) | (r[3] != 0));
                float *to = rows + g * ROWS * ROOM + counts[g];
#pragma GCC unroll 4
                for (size_t i = 0; i < ROWS; i++) store(to + i * ROOM, squeezed(r[i], there));
                store(plan->indices + lists[g] * plan->room + counts[g], squeezed((Vector)places, there));
                counts[g] += (size_t)__builtin_popcount(there);
            }
        }
        for (size_t g = 0; g < GROUPS; g++) {
            const size_t to = lists[g] * plan->room;
            plan->counts[lists[g]] = (uint32_t)pack_list(plan->packed + to * ROWS, plan->indices + to,
                                                         rows + g * ROWS * ROOM, counts[g]);
        }
    }
}

/* A panel of `vectors` vectors of columns, and the sums of these columns. */
APART void pack_panel(const Product *p, size_t column, int vectors, size_t from, size_t depth, Number *panel,
                      Vector sums[VECTORS]) {
    for (size_t at = 0; at < depth; at += LANES) {
        const size_t left = least(depth - at, LANES);
        for (int v = 0; v < vectors; v += 2) {
            const size_t here = column + v * LANES, count = p->columns - here, others = count > LANES ? count - LANES : 0;
            Vector one[LANES], other[LANES], sum_of_one = {0}, sum_of_other = {0};
            read_block(&p->b, here, least(count, LANES), from + at, left, 1, one);
            read_block(&p->b, others ? here + LANES : here, least(others, LANES), from + at, left, 1, other);
            for (size_t i = 0; i < left; i++) {
                put_row(panel + (at + i) * COLUMNS + v * LANES, one[i], other[i]);
                sum_of_one += one[i], sum_of_other += other[i];
            }
            sums[v] += sum_of_one, sums[v + 1] += sum_of_other;
        }
    }
}

/* --- multiplying ------------------------------------------------------------------------------------------------- */

/* A part of C's sums, from `row` and `column` on, those over the `first` or the `last` block of the depth or in between;
   `added` is what the last one's columns are completed with. */
typedef struct {
    const Product *product;
    size_t row, column;
    int first, last;
    Vector added[VECTORS];
} Part;

INLINE Vector completed(const Part *part, Vector sum, Vector added) {
    if (!part->last) return sum;
    sum += added;
    return part->product->relu ? where(~(sum < 0), sum) : sum;
}

INLINE void put_rows(const int vectors, const Part *part, Vector sums[ROWS][VECTORS]) {
    const Product *p = part->product;
#pragma GCC unroll 4
    for (size_t i = 0; i < ROWS; i++) {
        if (part->row + i >= p->rows) break;
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            const size_t column = part->column + v * LANES, count = p->columns - column;
            float *c = p->c + (part->row + i) * p->columns + column;
            const Vector sum = part->first ? sums[i][v] : load_part(c, count) + sums[i][v];
            store_part(c, completed(part, sum, part->added[v]), count);
        }
    }
}

/* LANES rows at once, so that a column's numbers fill a line of the cache: many columns may share a place in it. */
APART void put_columns(const Part *part, Vector sums[LANES][VECTORS]) {
    const Product *p = part->product;
    const size_t count = p->rows - part->row;
    for (int v = 0; v < VECTORS && part->column + v * LANES < p->columns; v++) {
        const size_t column = part->column + v * LANES;
        Vector block[LANES];
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) block[i] = sums[i][v];
        transpose(block);
        for (size_t i = 0; i < least(p->columns - column, LANES); i++) {
            float *c = p->c + (column + i) * p->rows + part->row;
            const Vector sum = part->first ? block[i] : load_part(c, count) + block[i];
            store_part(c, completed(part, sum, repeat(part->added[v][i])), count);
        }
    }
}

/* The sums of ROWS rows and of `vectors` vectors of columns over a block. */
INLINE void multiply_list(const int vectors, const Plan *plan, size_t list, const Number *panel,
                          Vector sums[ROWS][VECTORS]) {
    const Number *a = plan->packed + list * plan->room * ROWS;
    const uint32_t *index = plan->indices + list * plan->room, *end = index + plan->counts[list];
#pragma GCC unroll 4
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sums[i][v] = (Vector){0};
    for (; index < end; index += AT_ONCE, a += ROWS * AT_ONCE) {
        Vector b[VECTORS];
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v += 2) get_rows(panel + v * LANES, index, &b[v], &b[v + 1]);
#pragma GCC unroll 4
        for (int i = 0; i < ROWS; i++) {
            const Vector factor = repeated(a + i * AT_ONCE);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) sums[i][v] = multiply_add(sums[i][v], factor, b[v]);
        }
    }
}

/* A tile of C or, for LANES rows, what put_columns takes. */
INLINE void tile(const int vectors, const Plan *plan, size_t list, const Number *panel, const Part *part,
                 Vector kept[ROWS][VECTORS]) {
    Vector sums[ROWS][VECTORS];
    const Product *p = plan->product;
    if (!p->transposed)
        for (size_t i = 0; i < ROWS; i++)
            for (int v = 0; v < vectors; v++)
                __builtin_prefetch(p->c + (part->row + i) * p->columns + part->column + v * LANES, 1);
    multiply_list(vectors, plan, list, panel, sums);
    if (!p->transposed)
        put_rows(vectors, part, sums);
    else
#pragma GCC unroll 4
        for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) kept[i][v] = sums[i][v];
}

/* With the number of vectors known to the compiler, all sums are registers. */
APART void any_tile(int vectors, const Plan *plan, size_t list, const Number *panel, const Part *part,
                    Vector kept[ROWS][VECTORS]) {
    switch (vectors) {
        case 1: tile(1, plan, list, panel, part, kept); break;
        case 2: tile(2, plan, list, panel, part, kept); break;
#ifdef __AVX512F__
        case 3: tile(3, plan, list, panel, part, kept); break;
        case 4: tile(4, plan, list, panel, part, kept); break;
#endif
    }
}

static void multiply(const void *job, size_t task) {
    const Plan *plan = job;
    const Product *p = plan->product;
    Number *const panel = own_panel();
    Part part = {.product = p, .column = task % plan->panels * COLUMNS};
    const size_t start = task / plan->panels * plan->rows_a_task, end = least(start + plan->rows_a_task, p->rows);
    const int vectors = (int)parts(least(p->columns - part.column, COLUMNS), LANES);
    Vector sums[VECTORS] = {0}, kept[LANES][VECTORS];
    for (size_t block = 0; block < plan->blocks; block++) {
        const size_t from = block * DEPTH, depth = least(p->depth - from, DEPTH);
        part.first = block == 0, part.last = block == plan->blocks - 1;
        pack_panel(p, part.column, vectors, from, depth, panel, sums);
        for (int v = 0; part.last && v < vectors; v++) {
            const size_t column = part.column + v * LANES, count = p->columns - column;
            part.added[v] = p->shift != 0 ? sums[v] * repeat((float)p->shift) : (Vector){0};
            if (p->bias) part.added[v] += load_part(p->bias + column, count);
            if (p->sums && start == 0) store_part(p->sums + column, sums[v], count);
        }
        for (size_t row = start; row < end; row += ROWS) {
            const size_t in_block = row % LANES;
            part.row = row;
            any_tile(vectors, plan, row / ROWS * plan->blocks + block, panel, &part, kept + in_block);
            if (!p->transposed || (in_block + ROWS < LANES && row + ROWS < end)) continue;
            part.row -= in_block;
            put_columns(&part, kept);
        }
    }
}

/* --- the whole --------------------------------------------------------------------------------------------------- */

/* Memory for A's lists, kept from call to call. */
static void *space_for(size_t bytes) {
    static void *space;
    static size_t room;
    if (bytes > room) {
        free(space);
        space = aligned_alloc(64, parts(bytes, 64) * 64);
        room = space ? bytes : 0;
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

/* 0, or -1 without memory for A's lists. One caller at a time. */
EXPORTED int NAMED(dlf_product, LEVEL)(const Product *p) {
    const size_t groups = parts(p->rows, LANES) * (LANES / ROWS), panels = parts(p->columns, COLUMNS);
    Plan plan = {.product = p, .blocks = parts(p->depth, DEPTH), .panels = panels};
    plan.room = least(p->depth, DEPTH) + SPARE;
    const size_t lists = groups * plan.blocks, numbers = lists * plan.room;
    plan.indices = space_for(numbers * (ROWS * sizeof(Number) + sizeof(uint32_t)) + lists * sizeof(uint32_t));
    if (!plan.indices) return -1;
    plan.counts = plan.indices + numbers;
    plan.packed = (Number *)(plan.counts + lists);
    const size_t cuts = parts(TASKS_A_THREAD * dlf_threads(), panels); /* of the rows */
    plan.rows_a_task = parts(parts(p->rows, ROWS * cuts), LEAST_GROUPS) * LEAST_GROUPS * ROWS;
    run(pack_groups, &plan, groups / (LANES / ROWS));
    run(multiply, &plan, panels * parts(p->rows, plan.rows_a_task));
    return 0;
}
