/* phase_norm: a row at a time, twice through it while it is in the cache.
 *
 * A unit is ROWS rows of [rows, N, 2]. What is summed over rows is written a unit each and added outside.
 *
 * The mathematics of the adjoint stands in blocked.py.
 */
#include "native_math.h"
#include "native_pairs.h"

#define ROWS 32
#define EPSILON 1e-4f

typedef struct {
    int64_t rows, width, x_row, dy_row; /* the last two: floats from row to row */
} Sizes;

typedef struct {
    const float *x;              /* [rows, N, 2] */
    const float *weight;         /* [N] */
    const float *threshold;      /* [N] or NULL */
    const float *eps;            /* one */
    float *y;                    /* [rows, N, 2] */
    const float *dy;             /* [rows, N, 2]; the backward's from here */
    float *dx;                   /* [rows, N, 2] */
    float *d_weight, *d_threshold; /* [blocks, N] */
} Tensors;

/* r = (mean |x|² + eps)^-½. */
INLINE float inverse_length(const float *x, int64_t width, float eps) {
    vec sum = all(0);
    for (int64_t n = 0; n < 2 * width; n += LANES) {
        vec v = load_some(x + n, 2 * width - n);
        sum += v * v;
    }
    return 1.0f / sqrtf(sum_lanes(sum) / (float)width + eps);
}

int phase_norm_forward(int64_t first, int64_t last, const Sizes *s, const Tensors *t) {
    const int64_t end = last * ROWS < s->rows ? last * ROWS : s->rows;
    for (int64_t row = first * ROWS; row < end; row++) {
        const float *x = t->x + row * s->x_row;
        float *y = t->y + 2 * row * s->width;
        const float r = inverse_length(x, s->width, *t->eps);
        for (int64_t n = 0; n < s->width; n += LANES) {
            const int64_t count = s->width - n;
            const vec scale = load_some(t->weight + n, count) * r;
            Pairs z = load_pairs(x + 2 * n, count);
            z = (Pairs){z.re * scale, z.im * scale};
            if (t->threshold) {
                vec m = root_of(z.re * z.re + z.im * z.im + EPSILON * EPSILON);
                vec open = at_least(1.0f + load_some(t->threshold + n, count) / m, 0.0f);
                z = (Pairs){z.re * open, z.im * open};
            }
            store_pairs(y + 2 * n, z, count);
        }
    }
    return 0;
}

/* dz of the row's channels from n on, of dy; adds to the threshold's gradient. */
INLINE Pairs through_activation(const Tensors *t, Pairs x, Pairs g, vec scale, float *sums, int64_t n, int64_t count) {
    const vec threshold = load_some(t->threshold + n, count);
    const Pairs z = {x.re * scale, x.im * scale};
    const vec inverse = 1.0f / root_of(z.re * z.re + z.im * z.im + EPSILON * EPSILON);
    const vec open = at_least(1.0f + threshold * inverse, 0.0f);
    vec along = (z.re * g.re + z.im * g.im) * inverse;
    along = select(open > 0.0f, along, all(0));
    store_some(sums + n, load_some(sums + n, count) + along, count);
    along = along * inverse * inverse * threshold; /* from the left: -1e34 / m² would overflow */
    return (Pairs){g.re * open - along * z.re, g.im * open - along * z.im};
}

int phase_norm_backward(int64_t first, int64_t last, const Sizes *s, const Tensors *t) {
    const size_t bytes = (size_t)s->width * sizeof(float);
    for (int64_t block = first; block < last; block++) {
        const int64_t end = (block + 1) * ROWS < s->rows ? (block + 1) * ROWS : s->rows;
        float *d_weight = t->d_weight + block * s->width;
        float *d_threshold = t->threshold ? t->d_threshold + block * s->width : NULL;
        memset(d_weight, 0, bytes);
        if (d_threshold) memset(d_threshold, 0, bytes);
        for (int64_t row = block * ROWS; row < end; row++) {
            const float *x = t->x + row * s->x_row, *dy = t->dy + row * s->dy_row;
            float *dx = t->dx + 2 * row * s->width;
            const float r = inverse_length(x, s->width, *t->eps);
            vec mean = all(0);
            for (int64_t n = 0; n < s->width; n += LANES) {
                const int64_t count = s->width - n;
                const vec weight = load_some(t->weight + n, count);
                const Pairs v = load_pairs(x + 2 * n, count);
                Pairs dz = load_pairs(dy + 2 * n, count);
                if (d_threshold) dz = through_activation(t, v, dz, weight * r, d_threshold, n, count);
                const vec along = v.re * dz.re + v.im * dz.im;
                store_some(d_weight + n, load_some(d_weight + n, count) + along * r, count);
                mean += weight * along;
                store_pairs(dx + 2 * n, (Pairs){dz.re * weight, dz.im * weight}, count);
            }
            const float c = r * r * sum_lanes(mean) / (float)s->width;
            for (int64_t n = 0; n < 2 * s->width; n += LANES) {
                const int64_t count = 2 * s->width - n;
                store_some(dx + n, r * (load_some(dx + n, count) - c * load_some(x + n, count)), count);
            }
        }
    }
    return 0;
}
