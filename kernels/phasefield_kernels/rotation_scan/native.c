/* rotation_scan, gated or not: the time loop, states and factors that are constant in time in float64.
 *
 * In float64 an undamped rotation by a constant angle loses nothing that float32 could show, however long. A
 * factor is that of the channel (what is constant) times that of the token: e^(λ_t + iθ_t), 1 - σ(γ_t).
 *
 * The mathematics of the adjoint stands in blocked.py.
 */
#include "native_math.h"

typedef struct {
    int64_t rows, length, width, vectors;
    int64_t x_row, x_time, angle_row, angle_time, decay_row, decay_time, gate_row, gate_time;
    int64_t dh_row, dh_time;
    int64_t angle_kind; /* of the constant angle: 0 none, 1 float32, 2 float64, 3 int64 phases */
} Sizes;

typedef struct {
    const float *x;                     /* [B, T, D, 2] */
    const float *angle, *decay, *gate;  /* [B, T, D], NULL where they are constant or none */
    const void *constant_angle;         /* [D], or NULL */
    const float *constant_decay;        /* [D], or NULL */
    double *factor;                     /* [2, D]: real and imaginary parts of what is constant */
    const int64_t *offsets;
    float *state;                       /* [rows, D, 2]: initial, then final; or their gradients */
    float *h;                           /* [B, T, D, 2] */
    const float *dh, *start;            /* the backward's from here; initial states or NULL */
    float *d_x, *d_angle, *d_decay, *d_gate;
    double *sums;                       /* [rows, 2, D]: Σ Re w, Σ Im w */
} Tensors;

#include "native_pairs.h"
#include "native_rows.h"

/* What is constant in time, once for all sequences: exp(λ + iθ). */
int rotation_scan_factors(int64_t first, int64_t last, const Sizes *s, const Tensors *t) {
    for (int64_t d = first; d < last; d++) {
        double size = t->constant_decay ? exp(t->constant_decay[d]) : 1, angle = 0;
        if (s->angle_kind == 1) angle = ((const float *)t->constant_angle)[d];
        if (s->angle_kind == 2) angle = ((const double *)t->constant_angle)[d];
        /* 2^64 a turn */
        if (s->angle_kind == 3) angle = (double)((const int64_t *)t->constant_angle)[d] * 3.4061215800865545e-19;
        t->factor[d] = size * cos(angle);
        t->factor[s->width + d] = size * sin(angle);
    }
    return 0;
}

typedef struct {
    WidePairs a;
    vec opened; /* σ(γ) */
    vec closed; /* 1 - σ(γ) */
} Factor;

INLINE Factor factor_of(const Sizes *s, const Tensors *t, const Unit *u, int64_t time, int v, WidePairs constant) {
    const int64_t channel = u->channel + v * LANES, count = u->count - v * LANES;
    Factor f = {.a = constant};
    if (t->decay || t->gate) {
        vec size = all(1.0f);
        if (t->decay)
            size = exp_of(load_some(t->decay + u->place * s->decay_row + time * s->decay_time + channel, count));
        if (t->gate) {
            vec gate = load_some(t->gate + u->place * s->gate_row + time * s->gate_time + channel, count);
            f.opened = sigmoid_of(gate);
            f.closed = sigmoid_of(-gate);
            size *= f.closed;
        }
        Wide wide = widened(size);
        f.a = (WidePairs){times(f.a.re, wide), times(f.a.im, wide)};
    }
    if (t->angle) {
        vec sine, cosine;
        vec angle = load_some(t->angle + u->place * s->angle_row + time * s->angle_time + channel, count);
        sine_and_cosine_of_any(angle, &sine, &cosine);
        /* What is constant is real then. */
        f.a.im = times(f.a.re, widened(sine));
        f.a.re = times(f.a.re, widened(cosine));
    }
    return f;
}

INLINE WidePairs constant_of(const Sizes *s, const Tensors *t, const Unit *u, int v) {
    const double *at = t->factor + u->channel + v * LANES;
    return (WidePairs){load_wide(at, u->count - v * LANES), load_wide(at + s->width, u->count - v * LANES)};
}

int rotation_scan_forward(int64_t first, int64_t last, const Sizes *s, const Tensors *t) {
    for (int64_t number = first; number < last; number++) {
        const Unit u = unit_of(s, t, number);
        const int vectors = vectors_of(&u);
        WidePairs h[VECTORS], constant[VECTORS];
        float *state = t->state + 2 * (u.row * s->width + u.channel);
        for (int v = 0; v < vectors; v++) {
            h[v] = widened_pairs(load_pairs(state + 2 * v * LANES, u.count - v * LANES));
            constant[v] = constant_of(s, t, &u, v);
        }
        for (int64_t time = u.begin; time < u.end; time++) {
            const float *x_t = t->x + u.place * s->x_row + time * s->x_time + 2 * u.channel;
            float *h_t = t->h + 2 * ((u.place * s->length + time) * s->width + u.channel);
            for (int v = 0; v < vectors; v++) {
                const int64_t count = u.count - v * LANES;
                Factor f = factor_of(s, t, &u, time, v, constant[v]);
                Pairs x = load_pairs(x_t + 2 * v * LANES, count);
                if (t->gate) x = (Pairs){x.re * f.opened, x.im * f.opened};
                Wide re = minus(plus(widened(x.re), times(f.a.re, h[v].re)), times(f.a.im, h[v].im));
                h[v].im = plus(plus(widened(x.im), times(f.a.re, h[v].im)), times(f.a.im, h[v].re));
                h[v].re = re;
                store_pairs(h_t + 2 * v * LANES, narrowed_pairs(h[v]), count);
            }
        }
        for (int v = 0; v < vectors; v++)
            store_pairs(state + 2 * v * LANES, narrowed_pairs(h[v]), u.count - v * LANES);
    }
    return 0;
}

int rotation_scan_backward(int64_t first, int64_t last, const Sizes *s, const Tensors *t) {
    for (int64_t number = first; number < last; number++) {
        const Unit u = unit_of(s, t, number);
        const int vectors = vectors_of(&u);
        /* carry = conj(a_{t+1}) G_{t+1} */
        WidePairs carry[VECTORS], sum[VECTORS], constant[VECTORS];
        const int64_t at_state = 2 * (u.row * s->width + u.channel);
        for (int v = 0; v < vectors; v++) {
            carry[v] = widened_pairs(load_pairs(t->state + at_state + 2 * v * LANES, u.count - v * LANES));
            constant[v] = constant_of(s, t, &u, v);
            memset(&sum[v], 0, sizeof sum[v]);
        }
        for (int64_t time = u.end - 1; time >= u.begin; time--) {
            const int64_t place = (u.place * s->length + time) * s->width + u.channel;
            const float *dh = t->dh + u.place * s->dh_row + time * s->dh_time + 2 * u.channel;
            const float *before = time > u.begin ? t->h + 2 * (place - s->width) : t->start ? t->start + at_state : NULL;
            for (int v = 0; v < vectors; v++) {
                const int64_t count = u.count - v * LANES, lane = place + v * LANES;
                Factor f = factor_of(s, t, &u, time, v, constant[v]);
                WidePairs direct = widened_pairs(load_pairs(dh + 2 * v * LANES, count)), G, w = {0};
                G = (WidePairs){plus(direct.re, carry[v].re), plus(direct.im, carry[v].im)};
                carry[v].re = plus(times(f.a.re, G.re), times(f.a.im, G.im));
                carry[v].im = minus(times(f.a.re, G.im), times(f.a.im, G.re));
                Pairs d_x = narrowed_pairs(G);
                if (t->sums && before) {
                    /* w_t = conj(a_t) G_t conj(h_{t-1}) */
                    WidePairs old = widened_pairs(load_pairs(before + 2 * v * LANES, count));
                    w.re = plus(times(carry[v].re, old.re), times(carry[v].im, old.im));
                    w.im = minus(times(carry[v].im, old.re), times(carry[v].re, old.im));
                    sum[v].re = plus(sum[v].re, w.re);
                    sum[v].im = plus(sum[v].im, w.im);
                }
                if (t->d_decay) store_some(t->d_decay + lane, narrowed(w.re), count);
                if (t->d_angle) store_some(t->d_angle + lane, narrowed(w.im), count);
                if (t->d_gate) {
                    Pairs x = load_pairs(t->x + u.place * s->x_row + time * s->x_time + 2 * (u.channel + v * LANES), count);
                    vec along = d_x.re * x.re + d_x.im * x.im;
                    store_some(t->d_gate + lane, f.opened * (f.closed * along - narrowed(w.re)), count);
                }
                if (t->gate) d_x = (Pairs){d_x.re * f.opened, d_x.im * f.opened};
                store_pairs(t->d_x + 2 * lane, d_x, count);
            }
        }
        for (int v = 0; v < vectors; v++) {
            const int64_t count = u.count - v * LANES, at = 2 * u.row * s->width + u.channel + v * LANES;
            store_pairs(t->state + at_state + 2 * v * LANES, narrowed_pairs(carry[v]), count);
            if (t->sums) {
                store_wide(t->sums + at, sum[v].re, count);
                store_wide(t->sums + at + s->width, sum[v].im, count);
            }
        }
    }
    return 0;
}

/* Where time is one step, the factors are as much work as the scan. */
int rotation_scan_step(int64_t first, int64_t last, const Sizes *s, const Tensors *t) {
    return rotation_scan_factors(0, s->width, s, t) || rotation_scan_forward(first, last, s, t);
}
