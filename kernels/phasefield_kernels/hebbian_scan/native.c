/* One decoding step of hebbian_scan, real or complex: the state is read and written once.
 *
 * A unit is one head's state S [V, K], complex numbers as pairs (real, imaginary). A row of it is
 *
 *   S ← γ S + u k*,     y = S q,     u = β v,  or for the delta rule  u = β (v − γ S k)
 *
 * Lanes along K; a complex row is read as the 2K floats that it is, against k and q prepared as two such rows
 * each: the real and the imaginary part of Σ S z are its products with (zr, −zi, …) and (zi, zr, …).
 */
#include "native_math.h"

#define LONGEST 512 /* floats of a row: 256 complex numbers */

typedef struct {
    int64_t heads, rows, columns, is_complex, delta;
} Sizes;

typedef struct {
    const float *q, *k, *v;       /* [heads, K(, 2)], v [heads, V(, 2)] */
    const float *log_decay, *beta; /* [heads], or NULL */
    float *state;                 /* [heads, V, K(, 2)] */
    float *y;                     /* [heads, V(, 2)] */
} Tensors;

/* z as the two rows whose products with a complex row of the state are the parts of S z. */
static void prepared(float *real, float *imaginary, const float *z, int64_t columns) {
    for (int64_t i = 0; i < columns; i++) {
        real[2 * i] = z[2 * i];
        real[2 * i + 1] = -z[2 * i + 1];
        imaginary[2 * i] = z[2 * i + 1];
        imaginary[2 * i + 1] = z[2 * i];
    }
}

INLINE void step(const Sizes *s, const Tensors *t, int64_t head, const int parts) {
    const int64_t floats = parts * s->columns;
    /* [0] the real part's, [1] the imaginary one's; padded with zeros to whole vectors. */
    float q[2][LONGEST + LANES], k[2][LONGEST + LANES];
    memset(q, 0, sizeof q);
    memset(k, 0, sizeof k);
    if (parts == 2) {
        prepared(q[0], q[1], t->q + head * floats, s->columns);
        prepared(k[0], k[1], t->k + head * floats, s->columns);
    } else {
        memcpy(q[0], t->q + head * floats, sizeof(float) * (size_t)floats);
        memcpy(k[0], t->k + head * floats, sizeof(float) * (size_t)floats);
    }
    const float decay = t->log_decay ? expf(t->log_decay[head]) : 1.0f;
    const float beta = t->beta ? t->beta[head] : 1.0f;
    for (int64_t row = 0; row < s->rows; row++) {
        float *S = t->state + (head * s->rows + row) * floats;
        const float *v = t->v + (head * s->rows + row) * parts;
        float u[2] = {v[0], parts == 2 ? v[1] : 0.0f};
        if (s->delta) {
            vec sum[2] = {all(0), all(0)};
            for (int64_t i = 0; i < floats; i += LANES) {
                vec S_i = load_some(S + i, floats - i);
                EACH(part, parts) sum[part] += S_i * load(k[part] + i);
            }
            EACH(part, parts) u[part] -= decay * sum_lanes(sum[part]);
        }
        EACH(part, parts) u[part] *= beta;
        vec sum[2] = {all(0), all(0)};
        for (int64_t i = 0; i < floats; i += LANES) {
            /* u k* = ur (kr, −ki) + ui (ki, kr) */
            vec S_i = load_some(S + i, floats - i) * decay + load(k[0] + i) * u[0];
            if (parts == 2) S_i += load(k[1] + i) * u[1];
            store_some(S + i, S_i, floats - i);
            EACH(part, parts) sum[part] += S_i * load(q[part] + i);
        }
        EACH(part, parts) t->y[(head * s->rows + row) * parts + part] = sum_lanes(sum[part]);
    }
}

int hebbian_scan_step(int64_t first, int64_t last, const Sizes *s, const Tensors *t) {
    for (int64_t head = first; head < last; head++) {
        if (s->is_complex) {
            step(s, t, head, 2);
        } else {
            step(s, t, head, 1);
        }
    }
    return 0;
}
