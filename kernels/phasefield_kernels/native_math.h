/* What the native kernels share: vectors of LANES floats and functions of them.
 *
 * The vectors are the generic ones of GCC and Clang, as wide as the machine's: one source for AVX-512, AVX2,
 * SSE2 and NEON. A lane is a channel wherever that can be, so that lanes do not meet; load_some and store_some
 * read and write what a row has left at its end. No -ffast-math: a NaN stays one, infinities are limits.
 *
 * Errors, in units of 2^-24, relative but for sine and cosine (tests/kernels/test_native.py measures them):
 * exp 3, sigmoid 4, softplus 4, tanh 4, inverse root 5, sine and cosine 3 (absolute, within 8,000 rad).
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#define ACROSS(k) \
    0 ^ k, 1 ^ k, 2 ^ k, 3 ^ k, 4 ^ k, 5 ^ k, 6 ^ k, 7 ^ k, 8 ^ k, 9 ^ k, 10 ^ k, 11 ^ k, 12 ^ k, 13 ^ k, \
        14 ^ k, 15 ^ k
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define ODD 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#define LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif defined(__AVX2__)
#define LANES 8
#define ACROSS(k) 0 ^ k, 1 ^ k, 2 ^ k, 3 ^ k, 4 ^ k, 5 ^ k, 6 ^ k, 7 ^ k
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14
#define ODD 1, 3, 5, 7, 9, 11, 13, 15
#define LOW 0, 8, 1, 9, 2, 10, 3, 11
#define HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define LANES 4
#define ACROSS(k) 0 ^ k, 1 ^ k, 2 ^ k, 3 ^ k
#define EVEN 0, 2, 4, 6
#define ODD 1, 3, 5, 7
#define LOW 0, 4, 1, 5
#define HIGH 2, 6, 3, 7
#endif

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));

#define INLINE static inline __attribute__((always_inline))

/* Of a few vectors, whose number is a constant where this is inlined: they stay in registers. */
#define EACH(v, vectors) _Pragma("GCC unroll 8") for (int v = 0; v < (vectors); v++)

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (ivec){__VA_ARGS__})
#endif

/* For those who allocate. */
__attribute__((weak)) const int64_t lanes = LANES; /* weak: once, of a library of several files */

INLINE vec all(float x) { return x - (vec){0}; }

INLINE vec load(const float *from) {
    vec v;
    memcpy(&v, from, sizeof v);
    return v;
}

INLINE void store(float *to, vec v) { memcpy(to, &v, sizeof v); }

/* Out of line: rare, and large. */
static __attribute__((noinline, unused)) vec load_few(const float *from, int64_t count) {
    vec v = {0};
    for (int64_t i = 0; i < count; i++) v[i] = from[i];
    return v;
}

static __attribute__((noinline, unused)) void store_few(float *to, vec v, int64_t count) {
    for (int64_t i = 0; i < count; i++) to[i] = v[i];
}

/* The first `count` lanes; the others are 0. */
INLINE vec load_some(const float *from, int64_t count) {
    return count >= LANES ? load(from) : load_few(from, count);
}

INLINE void store_some(float *to, vec v, int64_t count) {
    if (count >= LANES) {
        store(to, v);
    } else {
        store_few(to, v, count);
    }
}

/* Where the mask is set, lane by lane. */
INLINE vec select(ivec mask, vec yes, vec no) { return (vec)((mask & (ivec)yes) | (~mask & (ivec)no)); }

INLINE vec magnitude(vec v) { return (vec)((ivec)v & INT32_MAX); }

/* A lane of v that is NaN stays NaN. */
INLINE vec at_least(vec v, float bound) {
#if defined(__AVX512F__)
    return (vec)_mm512_max_ps((__m512)all(bound), (__m512)v);
#elif defined(__AVX2__)
    return (vec)_mm256_max_ps((__m256)all(bound), (__m256)v);
#else
    return select(v < bound, all(bound), v);
#endif
}

INLINE vec at_most(vec v, float bound) {
#if defined(__AVX512F__)
    return (vec)_mm512_min_ps((__m512)all(bound), (__m512)v);
#elif defined(__AVX2__)
    return (vec)_mm256_min_ps((__m256)all(bound), (__m256)v);
#else
    return select(v > bound, all(bound), v);
#endif
}

INLINE vec root_of(vec v) {
#if defined(__AVX512F__)
    return (vec)_mm512_sqrt_ps((__m512)v);
#elif defined(__AVX2__)
    return (vec)_mm256_sqrt_ps((__m256)v);
#else
    for (int i = 0; i < LANES; i++) v[i] = sqrtf(v[i]);
    return v;
#endif
}

/* 1/√v by an estimate and a step of Newton's method, for normal numbers. */
INLINE vec inverse_root_of(vec v) {
#if defined(__AVX512F__)
    vec y = (vec)_mm512_rsqrt14_ps((__m512)v);
#elif defined(__AVX2__)
    vec y = (vec)_mm256_rsqrt_ps((__m256)v);
#else
    return 1.0f / root_of(v);
#endif
#if defined(__AVX2__)
    return y + 0.5f * y * (1.0f - v * y * y);
#endif
}

INLINE float sum_lanes(vec v) {
#if LANES > 8
    v += SHUFFLE(v, v, ACROSS(8));
#endif
#if LANES > 4
    v += SHUFFLE(v, v, ACROSS(4));
#endif
    v += SHUFFLE(v, v, ACROSS(2));
    v += SHUFFLE(v, v, ACROSS(1));
    return v[0];
}

/* Σ x y */
INLINE float inner(const float *x, const float *y, int64_t count) {
    vec sum[4] = {all(0), all(0), all(0), all(0)};
    int64_t i = 0;
    for (; i + 4 * LANES <= count; i += 4 * LANES)
        EACH(l, 4) sum[l] += load(x + i + l * LANES) * load(y + i + l * LANES);
    for (; i < count; i += LANES) sum[0] += load_some(x + i, count - i) * load_some(y + i, count - i);
    return sum_lanes((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

/* The smallest multiple of `to` that is not less. */
INLINE int64_t padded(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

/* The nearest integer, for |v| < 2^22: adding 1.5 · 2^23 rounds away all bits behind the point. */
#define ROUNDER 12582912.0f

INLINE vec nearest(vec v) { return (v + ROUNDER) - ROUNDER; }

/* 2^r for |r| ≤ 1/2. */
INLINE vec exp2_near_zero(vec r) {
    vec p = r * 1.535336192e-4f + 1.339887441e-3f;
    p = p * r + 9.618437358e-3f;
    p = p * r + 5.550332471e-2f;
    p = p * r + 2.402264791e-1f;
    p = p * r + 6.931472029e-1f;
    return p * r + 1.0f;
}

/* p 2^n for integers n from -150 to 128. */
INLINE vec scaled(vec p, vec n) {
#if defined(__AVX512F__)
    return (vec)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
    /* n stands in the lowest bits of n + ROUNDER. An exponent of 0 makes 0 of what is under 2^-126. */
    ivec exponent = (ivec)(at_least(n, -127.0f) + ROUNDER) << 23;
    return p * (vec)(exponent + 0x3f800000);
#endif
}

/* 0 from -150 down (without AVX-512 from -126.5), infinity from 127.5 up. */
INLINE vec exp2_of(vec v) {
    v = at_most(at_least(v, -150.0f), 128.0f);
    vec n = nearest(v);
    return scaled(exp2_near_zero(v - n), n);
}

INLINE vec exp_of(vec v) {
    v = at_most(at_least(v, -104.0f), 88.8f);
    vec n = nearest(v * 1.44269504f);
    /* ln 2 in two parts: n times the first is exact. */
    vec r = (v - n * 0.693359375f) + n * 2.12194440e-4f;
    return scaled(exp2_near_zero(r * 1.44269504f), n);
}

INLINE vec sigmoid_of(vec v) { return 1.0f / (1.0f + exp_of(-v)); }

/* log(1 + e^v) = max(v, 0) + 2 artanh(s), s = e/(2 + e), e = e^-|v|. */
INLINE vec softplus_of(vec v) {
    vec e = exp_of(-magnitude(v)), s = e / (2.0f + e), z = s * s;
    vec p = z * 1.089619710e-1f + 8.573925273e-2f;
    p = p * z + 1.115075012e-1f;
    p = p * z + 1.428419804e-1f;
    p = p * z + 2.000002650e-1f;
    p = p * z + 3.333333318e-1f;
    return at_least(v, 0.0f) + 2.0f * (s + s * z * p);
}

/* Near 0 a polynomial, beyond it 1 - 2/(e^(2|v|) + 1). */
INLINE vec tanh_of(vec v) {
    vec z = v * v, size = magnitude(v);
    vec p = z * 2.231063943e-3f - 8.267090698e-3f;
    p = p * z + 2.173443967e-2f;
    p = p * z - 5.395247556e-2f;
    p = p * z + 1.333324779e-1f;
    p = p * z - 3.333333178e-1f;
    vec far = 1.0f - 2.0f / (exp_of(2.0f * size) + 1.0f);
    far = (vec)((ivec)far | ((ivec)v & INT32_MIN));
    return select(size < 0.6f, v + v * z * p, far);
}

/* Turned by multiples of π/2, in three parts whose products are exact, to within π/4 of 0. */
INLINE void sine_and_cosine(vec v, vec *sine, vec *cosine) {
    vec n = nearest(v * 0.636619772f);
    ivec quarter = (ivec)(n + ROUNDER);
    vec r = ((v - n * 1.5703125f) - n * 4.837512969970703125e-4f) - n * 7.549789954891882e-8f;
    vec z = r * r;
    vec p = (z * 2.718311654e-6f - 1.983933485e-4f) * z + 8.333329386e-3f;
    vec s = r + r * z * (p * z - 1.666666664e-1f);
    vec q = (z * 2.443845156e-5f - 1.388736752e-3f) * z + 4.166664687e-2f;
    vec c = (1.0f - 0.5f * z) + z * z * q;
    ivec odd = (quarter & 1) != 0;
    *sine = (vec)((ivec)select(odd, c, s) ^ ((quarter & 2) << 30));
    *cosine = (vec)((ivec)select(odd, s, c) ^ (((quarter + 1) & 2) << 30));
}
