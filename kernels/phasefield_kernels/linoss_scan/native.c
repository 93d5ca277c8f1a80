/* linoss_scan: the recurrence of position q and velocity v as it stands, in float64.
 *
 *   v ← S (v + dt (u − A q)),     q ← q + dt v
 *
 * What forbids it in float32, an error that grows where eigenvalues meet, starts here from 1e-16. Lanes along
 * the channels. The forward keeps the states before every SPAN steps, from which the backward computes the
 * others again: to write and read them all would be most of the work. The adjoint, backward in time, with Q = dL/dq_t, V = dL/dv_t (whole, v_t's way to q_t not yet
 * in V) and P = V + dt Q:
 *
 *   du_t = S dt P,     dL/dv_{t-1} = S P,     dL/dq_{t-1} = Q − S dt A P + (direct)
 *   dA = −Σ dt S q̂_t P,     ddt = Σ S (u_t − A q̂_t) P + v_t r_t
 *
 * where q̂_t = q_t and r_t = S (Q − dt A V) (implicit), or q̂_t = q_{t-1} and r_t = Q (implicit-explicit).
 */
#include "native_math.h"

#define SPAN 16

typedef struct {
    int64_t rows, length, width, vectors, implicit;
    int64_t u_row, u_time, dq_row, dq_time;
} Sizes;

typedef struct {
    const float *u;                  /* [B, T, D] */
    const double *A, *dt;            /* [D] */
    const int64_t *offsets;
    float *state;                    /* [rows, D, 2]: initial, then final; or their gradients */
    float *starts;                   /* [spans, D, 2]: position and velocity before each span, or NULL */
    float *q;                        /* [B, T, D] */
    const float *dq;                 /* the backward's from here */
    float *d_u;                      /* [B, T, D] */
    double *d_A, *d_dt;              /* [rows, D] */
} Tensors;

#include "native_pairs.h"
#include "native_rows.h"

typedef struct {
    Wide A, dt, S;
} Channels;

INLINE Channels channels_of(const Sizes *s, const Tensors *t, const Unit *u, int v) {
    const int64_t at = u->channel + v * LANES, count = u->count - v * LANES;
    Channels c = {.A = load_wide(t->A + at, count), .dt = load_wide(t->dt + at, count)};
    for (int i = 0; i < 2; i++) {
        c.S.part[i] = c.A.part[i] * c.dt.part[i] * c.dt.part[i] * (double)s->implicit + 1.0;
        c.S.part[i] = 1.0 / c.S.part[i];
    }
    return c;
}

INLINE void step(WidePairs *h, const Channels *c, Wide u) {
    h->im = times(c->S, plus(h->im, times(c->dt, minus(u, times(c->A, h->re)))));
    h->re = plus(h->re, times(c->dt, h->im));
}

/* Of packed sequences, too, no two have a span in common. */
INLINE float *start_of(const Sizes *s, const Tensors *t, const Unit *u, int64_t time) {
    int64_t span = (time - u->begin) / SPAN;
    span += t->offsets ? u->begin / SPAN + u->row : u->row * ((s->length + SPAN - 1) / SPAN);
    return t->starts + 2 * (span * s->width + u->channel);
}

int linoss_scan_forward(int64_t first, int64_t last, const Sizes *s, const Tensors *t) {
    for (int64_t number = first; number < last; number++) {
        const Unit u = unit_of(s, t, number);
        const int vectors = vectors_of(&u);
        Channels c[VECTORS];
        WidePairs h[VECTORS]; /* re: position, im: velocity */
        float *state = t->state + 2 * (u.row * s->width + u.channel);
        for (int v = 0; v < vectors; v++) {
            c[v] = channels_of(s, t, &u, v);
            h[v] = widened_pairs(load_pairs(state + 2 * v * LANES, u.count - v * LANES));
        }
        for (int64_t time = u.begin; time < u.end; time++) {
            const float *u_t = t->u + u.place * s->u_row + time * s->u_time + u.channel;
            float *q_t = t->q + (u.place * s->length + time) * s->width + u.channel;
            float *start = t->starts && (time - u.begin) % SPAN == 0 ? start_of(s, t, &u, time) : NULL;
            for (int v = 0; v < vectors; v++) {
                const int64_t count = u.count - v * LANES;
                if (start) store_pairs(start + 2 * v * LANES, narrowed_pairs(h[v]), count);
                step(&h[v], &c[v], widened(load_some(u_t + v * LANES, count)));
                store_some(q_t + v * LANES, narrowed(h[v].re), count);
            }
        }
        for (int v = 0; v < vectors; v++)
            store_pairs(state + 2 * v * LANES, narrowed_pairs(h[v]), u.count - v * LANES);
    }
    return 0;
}

int linoss_scan_backward(int64_t first, int64_t last, const Sizes *s, const Tensors *t) {
    WidePairs *room = aligned_alloc(sizeof(vec), sizeof(WidePairs) * (SPAN + 1) * VECTORS);
    if (!room) return 1;
    for (int64_t number = first; number < last; number++) {
        const Unit u = unit_of(s, t, number);
        const int vectors = vectors_of(&u);
        Channels c[VECTORS];
        WidePairs carry[VECTORS]; /* re: dL/dq, im: dL/dv */
        Wide d_A[VECTORS], d_dt[VECTORS];
        const int64_t at_state = 2 * (u.row * s->width + u.channel);
        for (int v = 0; v < vectors; v++) {
            c[v] = channels_of(s, t, &u, v);
            carry[v] = widened_pairs(load_pairs(t->state + at_state + 2 * v * LANES, u.count - v * LANES));
            memset(&d_A[v], 0, sizeof d_A[v]);
            memset(&d_dt[v], 0, sizeof d_dt[v]);
        }
        const int64_t spans = (u.end - u.begin + SPAN - 1) / SPAN;
        for (int64_t begin = u.begin + (spans - 1) * SPAN; begin >= u.begin; begin -= SPAN) {
            const int64_t steps = begin + SPAN < u.end ? SPAN : u.end - begin;
            const float *start = start_of(s, t, &u, begin);
            const float *u_t = t->u + u.place * s->u_row + begin * s->u_time + u.channel;
            for (int v = 0; v < vectors; v++)
                room[v] = widened_pairs(load_pairs(start + 2 * v * LANES, u.count - v * LANES));
            for (int64_t i = 0; i < steps; i++, u_t += s->u_time) {
                WidePairs *now = room + (i + 1) * VECTORS;
                for (int v = 0; v < vectors; v++) {
                    now[v] = now[v - VECTORS];
                    step(&now[v], &c[v], widened(load_some(u_t + v * LANES, u.count - v * LANES)));
                }
            }
            for (int64_t i = steps - 1; i >= 0; i--) {
                const int64_t time = begin + i, place = (u.place * s->length + time) * s->width + u.channel;
                const float *dq_t = t->dq + u.place * s->dq_row + time * s->dq_time + u.channel;
                const WidePairs *now = room + (i + 1) * VECTORS;
                u_t -= s->u_time;
                for (int v = 0; v < vectors; v++) {
                    const int64_t count = u.count - v * LANES;
                    const Wide A = c[v].A, dt = c[v].dt, S = c[v].S;
                    Wide Q = plus(carry[v].re, widened(load_some(dq_t + v * LANES, count))), V = carry[v].im;
                    Wide SP = times(S, plus(V, times(dt, Q)));
                    Wide pull = now[v - VECTORS].re, rest = Q;
                    if (s->implicit) {
                        pull = now[v].re;
                        rest = times(S, minus(Q, times(dt, times(A, V))));
                    }
                    Wide force = minus(widened(load_some(u_t + v * LANES, count)), times(A, pull));
                    d_A[v] = minus(d_A[v], times(dt, times(pull, SP)));
                    d_dt[v] = plus(d_dt[v], plus(times(force, SP), times(now[v].im, rest)));
                    store_some(t->d_u + place + v * LANES, narrowed(times(dt, SP)), count);
                    carry[v] = (WidePairs){minus(Q, times(dt, times(A, SP))), SP};
                }
            }
        }
        for (int v = 0; v < vectors; v++) {
            const int64_t count = u.count - v * LANES, at = u.row * s->width + u.channel + v * LANES;
            store_pairs(t->state + at_state + 2 * v * LANES, narrowed_pairs(carry[v]), count);
            store_wide(t->d_A + at, d_A[v], count);
            store_wide(t->d_dt + at, d_dt[v], count);
        }
    }
    free(room);
    return 0;
}
