/* phase_linear's passes around its products: bias, modReLU and residual, and back through them.
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
    int64_t rows, units;
} Sizes;

typedef struct {
    float *z;              /* [rows, N, 2]: the product; the pre-activations after the forward */
    const float *bias;     /* [N, 2] or NULL */
    const float *threshold; /* [N] or NULL */
    const float *residual; /* [rows, N, 2] or NULL */
    float *y;              /* [rows, N, 2]; z itself where there is no threshold */
    const float *dy;       /* the backward's from here */
    float *dz;             /* [rows, N, 2] */
    float *d_bias, *d_threshold; /* [blocks, N, 2], [blocks, N] */
} Tensors;

int phase_linear_forward(int64_t first, int64_t last, const Sizes *s, const Tensors *t) {
    const int64_t end = last * ROWS < s->rows ? last * ROWS : s->rows;
    for (int64_t row = first * ROWS; row < end; row++) {
        for (int64_t n = 0; n < s->units; n += LANES) {
            const int64_t count = s->units - n, at = 2 * (row * s->units + n);
            Pairs z = load_pairs(t->z + at, count), y;
            if (t->bias) {
                Pairs bias = load_pairs(t->bias + 2 * n, count);
                z = (Pairs){z.re + bias.re, z.im + bias.im};
            }
            y = z;
            if (t->threshold) {
                if (t->bias) store_pairs(t->z + at, z, count);
                vec m = root_of(z.re * z.re + z.im * z.im + EPSILON * EPSILON);
                vec scale = at_least(1.0f + load_some(t->threshold + n, count) / m, 0.0f);
                y = (Pairs){z.re * scale, z.im * scale};
            }
            if (t->residual) {
                Pairs residual = load_pairs(t->residual + at, count);
                y = (Pairs){y.re + residual.re, y.im + residual.im};
            }
            store_pairs(t->y + at, y, count);
        }
    }
    return 0;
}

int phase_linear_backward(int64_t first, int64_t last, const Sizes *s, const Tensors *t) {
    for (int64_t block = first; block < last; block++) {
        const int64_t end = (block + 1) * ROWS < s->rows ? (block + 1) * ROWS : s->rows;
        /* All rows of some units: the sums stay in registers. */
        for (int64_t n = 0; n < s->units; n += LANES) {
            const int64_t count = s->units - n;
            const vec threshold = load_some(t->threshold + n, count);
            vec d_threshold = all(0);
            Pairs d_bias = {all(0), all(0)};
            for (int64_t row = block * ROWS; row < end; row++) {
                const int64_t at = 2 * (row * s->units + n);
                Pairs z = load_pairs(t->z + at, count), g = load_pairs(t->dy + at, count), dz;
                vec inverse = 1.0f / root_of(z.re * z.re + z.im * z.im + EPSILON * EPSILON);
                vec scale = at_least(1.0f + threshold * inverse, 0.0f);
                vec along = (z.re * g.re + z.im * g.im) * inverse;
                along = select(scale > 0.0f, along, all(0));
                d_threshold += along;
                along = along * inverse * inverse * threshold; /* from the left: -1e34 / m² would overflow */
                dz = (Pairs){g.re * scale - along * z.re, g.im * scale - along * z.im};
                store_pairs(t->dz + at, dz, count);
                d_bias = (Pairs){d_bias.re + dz.re, d_bias.im + dz.im};
            }
            store_pairs(t->d_bias + 2 * (block * s->units + n), d_bias, count);
            store_some(t->d_threshold + block * s->units + n, d_threshold, count);
        }
    }
    return 0;
}
