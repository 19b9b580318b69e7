/* Vectors of float32 as wide as the processor's, by the compiler's own arithmetic on them. Each file that includes this
   is compiled once for every instruction set; LEVEL is that set's name and ends the names of its functions. */
#ifndef DLF_VECTORS_H
#define DLF_VECTORS_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __AVX512F__
enum { LANES = 16 };
#else
enum { LANES = 8 };
#endif

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef int32_t Mask __attribute__((vector_size(4 * LANES))); /* -1 where a comparison holds, else 0 */

#define JOIN(name, level) name##_##level
#define NAMED(name, level) JOIN(name, level)
#define INLINE static inline __attribute__((always_inline))
#define APART static __attribute__((noinline, unused))

INLINE size_t least(size_t a, size_t b) { return a < b ? a : b; }
INLINE size_t parts(size_t whole, size_t part) { return (whole + part - 1) / part; }

INLINE Vector load(const float *from) {
    Vector v;
    memcpy(&v, from, sizeof v);
    return v;
}

INLINE void store(void *to, Vector v) { memcpy(to, &v, sizeof v); }

/* Ends of rows: rare, and short code where they are rare is worth more than their speed. */
APART Vector load_end(const float *from, size_t count) {
    float lanes[LANES] = {0};
    memcpy(lanes, from, count * sizeof *from);
    return load(lanes);
}

APART void store_end(float *to, Vector v, size_t count) {
    memcpy(to, &v, count * sizeof *to);
}

/* The first `count` lanes from memory, the others 0; and to memory. */
INLINE Vector load_part(const float *from, size_t count) { return count < LANES ? load_end(from, count) : load(from); }

INLINE void store_part(float *to, Vector v, size_t count) {
    if (count < LANES)
        store_end(to, v, count);
    else
        store(to, v);
}

/* v where mask is -1, else 0. */
INLINE Vector where(Mask mask, Vector v) { return (Vector)(mask & (Mask)v); }

INLINE Vector root(Vector v) {
#ifdef __AVX512F__
    return (Vector)_mm512_sqrt_ps((__m512)v);
#else
    return (Vector)_mm256_sqrt_ps((__m256)v);
#endif
}

#endif
