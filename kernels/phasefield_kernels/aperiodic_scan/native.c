/* aperiodic_scan: the time loop, lanes along the channels.
 *
 * The mathematics of the adjoint stands in blocked.py.
 */
#include "native_math.h"

typedef struct {
    int64_t rows, length, width, vectors;
    int64_t u_row, u_time, dh_row, dh_time;
    int64_t phase_kind;        /* 1 float32, 2 float64, 3 int64 phases */
} Sizes;

typedef struct {
    const float *u;            /* [B, T, D] */
    const float *scale;        /* [D] */
    const void *phase;         /* [D] */
    float *turn;               /* [D]: the phases within [-π, π] */
    const int64_t *offsets;
    float *state;              /* [rows, D]: initial, then final; or their gradients */
    float *h;                  /* [B, T, D] */
    const float *dh, *start;   /* the backward's from here; initial states or NULL */
    float *d_u, *d_scale;      /* [B, T, D], [rows, D] */
} Tensors;

#include "native_pairs.h"
#include "native_rows.h"

/* Reduced in float64, so that large phases lose nothing to their size. */
int aperiodic_scan_turns(int64_t first, int64_t last, const Sizes *s, const Tensors *t) {
    for (int64_t d = first; d < last; d++) {
        double phase;
        if (s->phase_kind == 1) {
            phase = ((const float *)t->phase)[d];
        } else if (s->phase_kind == 2) {
            phase = ((const double *)t->phase)[d];
        } else {
            phase = (double)((const int64_t *)t->phase)[d] * 3.4061215800865545e-19; /* 2^64 a turn */
        }
        t->turn[d] = (float)(phase - 6.283185307179586 * rint(phase / 6.283185307179586));
    }
    return 0;
}

/* Only a state that was given can be far from [-1, 1]. */
INLINE void turned(vec phase, vec h, int given, vec *sine, vec *cosine) {
    if (given) {
        sine_and_cosine_of_any(phase + h, sine, cosine);
    } else {
        sine_and_cosine(phase + h, sine, cosine);
    }
}

int aperiodic_scan_forward(int64_t first, int64_t last, const Sizes *s, const Tensors *t) {
    for (int64_t number = first; number < last; number++) {
        const Unit u = unit_of(s, t, number);
        const int vectors = vectors_of(&u);
        vec h[VECTORS], scale[VECTORS], phase[VECTORS];
        float *state = t->state + u.row * s->width + u.channel;
        for (int v = 0; v < vectors; v++) {
            h[v] = load_some(state + v * LANES, u.count - v * LANES);
            scale[v] = load_some(t->scale + u.channel + v * LANES, u.count - v * LANES);
            phase[v] = load_some(t->turn + u.channel + v * LANES, u.count - v * LANES);
        }
        for (int64_t time = u.begin; time < u.end; time++) {
            const float *u_t = t->u + u.place * s->u_row + time * s->u_time + u.channel;
            float *h_t = t->h + (u.place * s->length + time) * s->width + u.channel;
            for (int v = 0; v < vectors; v++) {
                vec sine, cosine;
                turned(phase[v], h[v], time == u.begin, &sine, &cosine);
                h[v] = tanh_of(load_some(u_t + v * LANES, u.count - v * LANES) + scale[v] * (cosine * h[v]));
                store_some(h_t + v * LANES, h[v], u.count - v * LANES);
            }
        }
        for (int v = 0; v < vectors; v++) store_some(state + v * LANES, h[v], u.count - v * LANES);
    }
    return 0;
}

int aperiodic_scan_backward(int64_t first, int64_t last, const Sizes *s, const Tensors *t) {
    for (int64_t number = first; number < last; number++) {
        const Unit u = unit_of(s, t, number);
        const int vectors = vectors_of(&u);
        vec carry[VECTORS], sum[VECTORS], scale[VECTORS], phase[VECTORS];
        const int64_t at_state = u.row * s->width + u.channel;
        for (int v = 0; v < vectors; v++) {
            carry[v] = load_some(t->state + at_state + v * LANES, u.count - v * LANES);
            scale[v] = load_some(t->scale + u.channel + v * LANES, u.count - v * LANES);
            phase[v] = load_some(t->turn + u.channel + v * LANES, u.count - v * LANES);
            sum[v] = all(0);
        }
        for (int64_t time = u.end - 1; time >= u.begin; time--) {
            const int64_t place = (u.place * s->length + time) * s->width + u.channel;
            const float *dh = t->dh + u.place * s->dh_row + time * s->dh_time + u.channel;
            const float *before = time > u.begin ? t->h + place - s->width : t->start ? t->start + at_state : NULL;
            for (int v = 0; v < vectors; v++) {
                const int64_t count = u.count - v * LANES;
                vec h = load_some(t->h + place + v * LANES, count), sine, cosine;
                vec old = before ? load_some(before + v * LANES, count) : all(0);
                turned(phase[v], old, time == u.begin, &sine, &cosine);
                vec d = (load_some(dh + v * LANES, count) + carry[v]) * (1.0f - h * h);
                store_some(t->d_u + place + v * LANES, d, count);
                sum[v] += d * (old * cosine);
                carry[v] = d * (scale[v] * (cosine - old * sine));
            }
        }
        for (int v = 0; v < vectors; v++) {
            store_some(t->state + at_state + v * LANES, carry[v], u.count - v * LANES);
            store_some(t->d_scale + at_state + v * LANES, sum[v], u.count - v * LANES);
        }
    }
    return 0;
}

/* Where time is one step, the turns are as much work as the scan. */
int aperiodic_scan_step(int64_t first, int64_t last, const Sizes *s, const Tensors *t) {
    return aperiodic_scan_turns(0, s->width, s, t) || aperiodic_scan_forward(first, last, s, t);
}
