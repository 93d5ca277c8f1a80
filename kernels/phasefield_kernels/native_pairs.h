/* Pairs (real, imaginary) as two vectors, and numbers in float64 for what adds up over time. */

typedef float half __attribute__((vector_size(2 * LANES)));
typedef double dvec __attribute__((vector_size(4 * LANES)));

typedef struct {
    vec re, im;
} Pairs;

/* A vector's two halves. */
typedef struct {
    dvec part[2];
} Wide;

typedef struct {
    Wide re, im;
} WidePairs;

INLINE Pairs load_pairs(const float *from, int64_t count) {
    vec a = load_some(from, 2 * count), b = load_some(from + LANES, 2 * count - LANES);
    return (Pairs){SHUFFLE(a, b, EVEN), SHUFFLE(a, b, ODD)};
}

INLINE void store_pairs(float *to, Pairs p, int64_t count) {
    store_some(to, SHUFFLE(p.re, p.im, LOW), 2 * count);
    store_some(to + LANES, SHUFFLE(p.re, p.im, HIGH), 2 * count - LANES);
}

/* GCC 12 converts generic vectors in quarters, and joins halves through memory. */
INLINE Wide widened(vec v) {
#if defined(__AVX512F__)
    __m256 low = _mm512_castps512_ps256((__m512)v);
    __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd((__m512d)v, 1));
    return (Wide){{(dvec)_mm512_cvtps_pd(low), (dvec)_mm512_cvtps_pd(high)}};
#elif defined(__AVX2__)
    __m128 low = _mm256_castps256_ps128((__m256)v), high = _mm256_extractf128_ps((__m256)v, 1);
    return (Wide){{(dvec)_mm256_cvtps_pd(low), (dvec)_mm256_cvtps_pd(high)}};
#else
    half parts[2];
    memcpy(parts, &v, sizeof v);
    return (Wide){{__builtin_convertvector(parts[0], dvec), __builtin_convertvector(parts[1], dvec)}};
#endif
}

INLINE vec narrowed(Wide w) {
#if defined(__AVX512F__)
    __m256d low = _mm256_castps_pd(_mm512_cvtpd_ps((__m512d)w.part[0]));
    __m256d high = _mm256_castps_pd(_mm512_cvtpd_ps((__m512d)w.part[1]));
    return (vec)_mm512_insertf64x4(_mm512_castpd256_pd512(low), high, 1);
#elif defined(__AVX2__)
    return (vec)_mm256_set_m128(_mm256_cvtpd_ps((__m256d)w.part[1]), _mm256_cvtpd_ps((__m256d)w.part[0]));
#else
    half parts[2] = {__builtin_convertvector(w.part[0], half), __builtin_convertvector(w.part[1], half)};
    vec v;
    memcpy(&v, parts, sizeof v);
    return v;
#endif
}

INLINE WidePairs widened_pairs(Pairs p) { return (WidePairs){widened(p.re), widened(p.im)}; }

INLINE Pairs narrowed_pairs(WidePairs w) { return (Pairs){narrowed(w.re), narrowed(w.im)}; }

/* Of a channel's float64 numbers. */
INLINE Wide load_wide(const double *from, int64_t count) {
    double values[LANES] = {0};
    memcpy(values, from, sizeof(double) * (size_t)(count < LANES ? count : LANES));
    Wide w;
    memcpy(&w, values, sizeof w);
    return w;
}

INLINE void store_wide(double *to, Wide w, int64_t count) {
    double values[LANES];
    memcpy(values, &w, sizeof w);
    memcpy(to, values, sizeof(double) * (size_t)(count < LANES ? count : LANES));
}

INLINE Wide times(Wide a, Wide b) { return (Wide){{a.part[0] * b.part[0], a.part[1] * b.part[1]}}; }

INLINE Wide plus(Wide a, Wide b) { return (Wide){{a.part[0] + b.part[0], a.part[1] + b.part[1]}}; }

INLINE Wide minus(Wide a, Wide b) { return (Wide){{a.part[0] - b.part[0], a.part[1] - b.part[1]}}; }

/* The angles may be large: they are reduced in float64, where 10^6 rad still have 10 digits of their phase. */
INLINE void sine_and_cosine_of_any(vec v, vec *sine, vec *cosine) {
    const double rounder = 6755399441055744.0; /* 1.5 · 2^52: see ROUNDER */
    Wide w = widened(v), r;
    for (int i = 0; i < 2; i++) {
        dvec turns = (w.part[i] * 0.15915494309189535 + rounder) - rounder;
        r.part[i] = (w.part[i] - turns * 6.283185307179586) - turns * 2.4492935982947064e-16;
    }
    sine_and_cosine(narrowed(r), sine, cosine);
}
