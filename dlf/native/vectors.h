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

INLINE Vector load(const void *from) {
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

/* A number in every lane. */
INLINE Vector repeat(float number) { return number - (Vector){0}; }

/* v where mask is -1, else 0. */
INLINE Vector where(Mask mask, Vector v) { return (Vector)(mask & (Mask)v); }

/* A bit for each lane where mask is -1. */
INLINE unsigned bits(Mask mask) {
#ifdef __AVX512F__
    return _mm512_movepi32_mask((__m512i)mask);
#else
    return (unsigned)_mm256_movemask_ps((__m256)mask);
#endif
}

/* The lanes whose bits are 1, one behind the other, and behind them anything. */
INLINE Vector squeezed(Vector v, unsigned bits) {
#ifdef __AVX512F__
    return (Vector)_mm512_maskz_compress_ps((__mmask16)bits, (__m512)v);
#else
    const uint64_t bytes = _pdep_u64(bits, 0x0101010101010101) * 0xff;
    const __m128i from = _mm_cvtsi64_si128((long long)_pext_u64(0x0706050403020100, bytes));
    return (Vector)_mm256_permutevar8x32_ps((__m256)v, _mm256_cvtepu8_epi32(from));
#endif
}

/* In each four lanes, numbers of two vectors take turns, pairs or single ones: the first half of them, or the second. */
INLINE Vector in_turns(Vector a, Vector b, const int pairs, const int half) {
    Mask from;
    for (int i = 0; i < LANES; i++) {
        const int of_b = pairs ? i % 4 / 2 : i % 2, number = pairs ? i % 2 : i % 4 / 2;
        from[i] = of_b * LANES + i / 4 * 4 + 2 * half + number;
    }
    return __builtin_shuffle(a, b, from);
}

/* In each four lanes of four vectors, rows become columns. */
INLINE void transpose_fours(Vector v[4]) {
    const Vector a = in_turns(v[0], v[1], 0, 0), b = in_turns(v[2], v[3], 0, 0);
    const Vector c = in_turns(v[0], v[1], 0, 1), d = in_turns(v[2], v[3], 0, 1);
    v[0] = in_turns(a, b, 1, 0), v[1] = in_turns(a, b, 1, 1);
    v[2] = in_turns(c, d, 1, 0), v[3] = in_turns(c, d, 1, 1);
}

/* Every other four lanes of one vector, then of the other. */
INLINE Vector every_other_four(Vector a, Vector b, const int odd) {
    Mask from;
    for (int i = 0; i < LANES; i++) from[i] = i / 4 * 8 + odd * 4 + i % 4;
    return __builtin_shuffle(a, b, from);
}

/* LANES vectors: rows become columns. */
INLINE void transpose(Vector v[LANES]) {
#pragma GCC unroll 4
    for (int i = 0; i < LANES; i += 4) transpose_fours(v + i);
#pragma GCC unroll 2
    for (int step = 4; step < LANES; step *= 2)
#pragma GCC unroll 8
        for (int i = 0; i < LANES / 2; i++) {
            Vector *one = v + i / step * 2 * step + i % step, *other = one + step;
            const Vector a = *one, b = *other;
            *one = every_other_four(a, b, 0), *other = every_other_four(a, b, 1);
        }
}

INLINE Vector root(Vector v) {
#ifdef __AVX512F__
    return (Vector)_mm512_sqrt_ps((__m512)v);
#else
    return (Vector)_mm256_sqrt_ps((__m256)v);
#endif
}

#endif
