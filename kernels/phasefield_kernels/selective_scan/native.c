/* selective_scan: the time loop with the states of some vectors of channels in the cache; real A.
 *
 * A unit is one sequence and up to VECTORS vectors of channels of one group. Its states lie as [N][vectors], so
 * that the lanes are channels. The forward keeps the states at the start of every span of SPAN steps; the
 * backward computes a span's states again from there, then goes through it backward. What sums over channels
 * (the gradients to B and C) or over sequences (those to parameters) is written a unit each and added outside.
 *
 * The mathematics of the adjoint stands in blocked.py.
 */
#include "native_math.h"

#define SPAN 16
#define VECTORS 4

typedef struct {
    int64_t rows, length, width, groups, states, softplus;
    int64_t x_row, x_time, dt_row, dt_time, z_row, z_time, dy_row, dy_time;
    int64_t B_row, B_time, B_group, C_row, C_time, C_group;
} Sizes;

typedef struct {
    const float *x, *dt, *B, *C, *z, *A, *D, *dt_bias;
    const int64_t *offsets;     /* [rows + 1], or NULL: every row has the whole length */
    float *state;               /* [rows, D, N]: the initial states, then the final ones; or the gradients */
    float *starts;              /* [spans, N, D] */
    float *y;                   /* [B, T, D] */
    const float *dy;            /* the backward's from here */
    float *d_x, *d_dt, *d_z;    /* [B, T, D] */
    float *d_B, *d_C;           /* [blocks, B, T, G, N] */
    float *d_A, *d_D, *d_bias;  /* [rows, D, N], [rows, D] */
} Tensors;

typedef struct {
    int64_t row, place, begin, end, first_span, group, block, channel, channels;
} Unit;

/* Rows run fastest, so that neighbouring units are alike and any share of them is as much work. */
static Unit unit_of(const Sizes *s, const Tensors *t, int64_t number) {
    int64_t channels = s->width / s->groups, rest = number / s->rows;
    Unit u = {.row = number % s->rows, .end = s->length};
    u.group = rest % s->groups;
    u.block = rest / s->groups;
    u.channel = u.group * channels + u.block * VECTORS * LANES;
    u.channels = (u.group + 1) * channels - u.channel;
    if (u.channels > VECTORS * LANES) u.channels = VECTORS * LANES;
    if (t->offsets) {
        u.begin = t->offsets[u.row];
        u.end = t->offsets[u.row + 1];
        u.first_span = u.begin / SPAN + u.row; /* spans of rows do not overlap */
    } else {
        u.place = u.row;
        u.first_span = u.row * ((s->length + SPAN - 1) / SPAN);
    }
    return u;
}

/* [channels, N] of memory as [N][vectors], and back. */
static void gather(float *to, const float *from, int64_t channels, int64_t states, int vectors) {
    memset(to, 0, sizeof(vec) * states * vectors);
    for (int64_t c = 0; c < channels; c++)
        for (int64_t n = 0; n < states; n++) to[n * vectors * LANES + c] = from[c * states + n];
}

static void scatter(float *to, const float *from, int64_t channels, int64_t states, int vectors) {
    for (int64_t c = 0; c < channels; c++)
        for (int64_t n = 0; n < states; n++) to[c * states + n] = from[n * vectors * LANES + c];
}

/* Where a span's start states are kept. */
static float *start_of(const Sizes *s, const Tensors *t, const Unit *u, int64_t time) {
    int64_t span = u->first_span + (time - u->begin) / SPAN;
    return t->starts + span * s->states * s->width + u->channel;
}

static void keep(float *start, const vec *h, const Sizes *s, const Unit *u, int vectors) {
    for (int64_t n = 0; n < s->states; n++)
        EACH(v, vectors)
            store_some(start + n * s->width + v * LANES, h[n * vectors + v], u->channels - v * LANES);
}

static void recall(vec *h, const float *start, const Sizes *s, const Unit *u, int vectors) {
    for (int64_t n = 0; n < s->states; n++)
        EACH(v, vectors)
            h[n * vectors + v] = load_some(start + n * s->width + v * LANES, u->channels - v * LANES);
}

/* A log2(e), so that exp(Δ A) is 2^(Δ A'). */
static void decays(vec *A, const Sizes *s, const Tensors *t, const Unit *u, int vectors) {
    gather((float *)A, t->A + u->channel * s->states, u->channels, s->states, vectors);
    for (int64_t i = 0; i < s->states * vectors; i++) A[i] *= 1.44269504f;
}

INLINE vec delta_of(const Sizes *s, const Tensors *t, const float *dt, int64_t channel, int64_t count,
                    vec *raw) {
    *raw = load_some(dt, count);
    if (t->dt_bias) *raw += load_some(t->dt_bias + channel, count);
    return s->softplus ? softplus_of(*raw) : *raw;
}

INLINE void forward(const Sizes *s, const Tensors *t, int64_t number, vec *room, const int vectors) {
    const Unit u = unit_of(s, t, number);
    const int64_t N = s->states;
    vec *A = room, *h = room + N * vectors;
    float *state = t->state + (u.row * s->width + u.channel) * N;
    decays(A, s, t, &u, vectors);
    gather((float *)h, state, u.channels, N, vectors);
    for (int64_t time = u.begin; time < u.end; time++) {
        if ((time - u.begin) % SPAN == 0) keep(start_of(s, t, &u, time), h, s, &u, vectors);
        const float *B = t->B + u.place * s->B_row + time * s->B_time + u.group * s->B_group;
        const float *C = t->C + u.place * s->C_row + time * s->C_time + u.group * s->C_group;
        const float *x = t->x + u.place * s->x_row + time * s->x_time + u.channel;
        const float *dt = t->dt + u.place * s->dt_row + time * s->dt_time + u.channel;
        vec delta[VECTORS], driven[VECTORS], y[VECTORS], raw;
        EACH(v, vectors) {
            int64_t count = u.channels - v * LANES;
            vec x_v = load_some(x + v * LANES, count);
            delta[v] = delta_of(s, t, dt + v * LANES, u.channel + v * LANES, count, &raw);
            driven[v] = delta[v] * x_v;
            y[v] = t->D ? load_some(t->D + u.channel + v * LANES, count) * x_v : all(0);
        }
        for (int64_t n = 0; n < N; n++) {
            EACH(v, vectors) {
                vec *h_n = h + n * vectors + v;
                *h_n = exp2_of(delta[v] * A[n * vectors + v]) * *h_n + driven[v] * B[n];
                y[v] += *h_n * C[n];
            }
        }
        EACH(v, vectors) {
            int64_t count = u.channels - v * LANES;
            if (t->z) {
                vec z = load_some(t->z + u.place * s->z_row + time * s->z_time + u.channel + v * LANES, count);
                y[v] *= z * sigmoid_of(z);
            }
            store_some(t->y + (u.place * s->length + time) * s->width + u.channel + v * LANES, y[v], count);
        }
    }
    scatter(state, (float *)h, u.channels, N, vectors);
}

INLINE void backward(const Sizes *s, const Tensors *t, int64_t number, vec *room, const int vectors) {
    const Unit u = unit_of(s, t, number);
    const int64_t N = s->states, size = N * vectors;
    vec *A = room, *d_A = A + size, *carry = d_A + size, *a = carry + size, *h = a + SPAN * size;
    vec delta[SPAN][VECTORS], raw[SPAN][VECTORS], x[SPAN][VECTORS], read[SPAN][VECTORS];
    vec D[VECTORS], d_D[VECTORS], d_bias[VECTORS];
    float *state = t->state + (u.row * s->width + u.channel) * N;
    decays(A, s, t, &u, vectors);
    gather((float *)carry, state, u.channels, N, vectors);
    memset(d_A, 0, sizeof(vec) * size);
    EACH(v, vectors) {
        D[v] = t->D ? load_some(t->D + u.channel + v * LANES, u.channels - v * LANES) : all(0);
        d_D[v] = d_bias[v] = all(0);
    }
    int64_t spans = (u.end - u.begin + SPAN - 1) / SPAN;
    for (int64_t span = spans - 1; span >= 0; span--) {
        const int64_t begin = u.begin + span * SPAN;
        const int64_t steps = begin + SPAN < u.end ? SPAN : u.end - begin;
        recall(h, start_of(s, t, &u, begin), s, &u, vectors);
        for (int64_t step = 0; step < steps; step++) {
            const int64_t time = begin + step;
            const float *B = t->B + u.place * s->B_row + time * s->B_time + u.group * s->B_group;
            const float *C = t->C + u.place * s->C_row + time * s->C_time + u.group * s->C_group;
            const float *x_t = t->x + u.place * s->x_row + time * s->x_time + u.channel;
            const float *dt = t->dt + u.place * s->dt_row + time * s->dt_time + u.channel;
            const vec *before = h + step * size;
            vec *a_t = a + step * size, *h_t = h + (step + 1) * size;
            vec driven[VECTORS], y[VECTORS];
            EACH(v, vectors) {
                int64_t count = u.channels - v * LANES;
                x[step][v] = load_some(x_t + v * LANES, count);
                delta[step][v] =
                    delta_of(s, t, dt + v * LANES, u.channel + v * LANES, count, &raw[step][v]);
                driven[v] = delta[step][v] * x[step][v];
                y[v] = all(0);
            }
            for (int64_t n = 0; n < N; n++) {
                EACH(v, vectors) {
                    const int64_t i = n * vectors + v;
                    a_t[i] = exp2_of(delta[step][v] * A[i]);
                    h_t[i] = a_t[i] * before[i] + driven[v] * B[n];
                    y[v] += h_t[i] * C[n];
                }
            }
            EACH(v, vectors) read[step][v] = y[v] + D[v] * x[step][v];
        }
        for (int64_t step = steps - 1; step >= 0; step--) {
            const int64_t time = begin + step, place = u.place * s->length + time;
            const float *B = t->B + u.place * s->B_row + time * s->B_time + u.group * s->B_group;
            const float *C = t->C + u.place * s->C_row + time * s->C_time + u.group * s->C_group;
            const float *dy_t = t->dy + u.place * s->dy_row + time * s->dy_time + u.channel;
            const vec *before = h + step * size, *h_t = before + size, *a_t = a + step * size;
            const int64_t partial = (u.block * (t->offsets ? 1 : s->rows) * s->length + place) * s->groups + u.group;
            float *d_B = t->d_B + partial * N, *d_C = t->d_C + partial * N;
            vec dy[VECTORS], driven[VECTORS], w[VECTORS], d_delta[VECTORS];
            EACH(v, vectors) {
                int64_t count = u.channels - v * LANES;
                dy[v] = load_some(dy_t + v * LANES, count);
                if (t->z) {
                    const float *at = t->z + u.place * s->z_row + time * s->z_time + u.channel + v * LANES;
                    vec z = load_some(at, count), gate = sigmoid_of(z);
                    vec d_z = dy[v] * read[step][v] * gate * (1.0f + z * (1.0f - gate));
                    store_some(t->d_z + place * s->width + u.channel + v * LANES, d_z, count);
                    dy[v] *= z * gate;
                }
                driven[v] = delta[step][v] * x[step][v];
                w[v] = d_delta[v] = all(0);
            }
            for (int64_t n = 0; n < N; n++) {
                vec over_B = all(0), over_C = all(0);
                EACH(v, vectors) {
                    const int64_t i = n * vectors + v;
                    vec G = carry[i] + dy[v] * C[n];
                    over_C += dy[v] * h_t[i];
                    over_B += driven[v] * G;
                    w[v] += G * B[n];
                    carry[i] = a_t[i] * G;
                    vec Q = carry[i] * before[i];
                    d_A[i] += delta[step][v] * Q;
                    d_delta[v] += A[i] * Q;
                }
                d_B[n] = sum_lanes(over_B);
                d_C[n] = sum_lanes(over_C);
            }
            EACH(v, vectors) {
                int64_t count = u.channels - v * LANES, at = place * s->width + u.channel + v * LANES;
                vec d_raw = d_delta[v] * 0.693147181f + w[v] * x[step][v];
                if (s->softplus) d_raw *= sigmoid_of(raw[step][v]);
                store_some(t->d_dt + at, d_raw, count);
                store_some(t->d_x + at, w[v] * delta[step][v] + D[v] * dy[v], count);
                d_bias[v] += d_raw;
                d_D[v] += dy[v] * x[step][v];
            }
        }
    }
    scatter(state, (float *)carry, u.channels, N, vectors);
    scatter(t->d_A + (u.row * s->width + u.channel) * N, (float *)d_A, u.channels, N, vectors);
    EACH(v, vectors) {
        int64_t at = u.row * s->width + u.channel + v * LANES, count = u.channels - v * LANES;
        if (t->D) store_some(t->d_D + at, d_D[v], count);
        if (t->dt_bias) store_some(t->d_bias + at, d_bias[v], count);
    }
}

/* A copy for each number of vectors, whose loops over them are unrolled. */
#define FOR_EACH(work, rooms)                                                                         \
    vec *room = aligned_alloc(sizeof(vec), sizeof(vec) * VECTORS * (rooms) * (s->states + !s->states)); \
    if (!room) return 1;                                                                              \
    for (int64_t number = first; number < last; number++) {                                           \
        switch ((unit_of(s, t, number).channels + LANES - 1) / LANES) {                               \
            case 1: work(s, t, number, room, 1); break;                                               \
            case 2: work(s, t, number, room, 2); break;                                               \
            case 3: work(s, t, number, room, 3); break;                                               \
            default: work(s, t, number, room, VECTORS);                                               \
        }                                                                                             \
    }                                                                                                 \
    free(room);                                                                                       \
    return 0;

int selective_scan_forward(int64_t first, int64_t last, const Sizes *s, const Tensors *t) {
    FOR_EACH(forward, 2)
}

int selective_scan_backward(int64_t first, int64_t last, const Sizes *s, const Tensors *t) {
    FOR_EACH(backward, 3 + SPAN + SPAN + 1)
}

/* A decoding step, lanes along a channel's states: unit = sequence. */
int selective_scan_step(int64_t first, int64_t last, const Sizes *s, const Tensors *t) {
    const int64_t N = s->states, channels = s->width / s->groups;
    for (int64_t row = first; row < last; row++) {
        for (int64_t c = 0; c < s->width; c += LANES) {
            const int64_t some = s->width - c < LANES ? s->width - c : LANES;
            vec raw, x = load_some(t->x + row * s->x_row + c, some), y;
            vec delta = delta_of(s, t, t->dt + row * s->dt_row + c, c, some, &raw), driven = delta * x;
            y = t->D ? load_some(t->D + c, some) * x : all(0);
            for (int64_t i = 0; i < some; i++) {
                const int64_t group = (c + i) / channels;
                const float *B = t->B + row * s->B_row + group * s->B_group;
                const float *C = t->C + row * s->C_row + group * s->C_group;
                const float *A = t->A + (c + i) * N;
                float *state = t->state + (row * s->width + c + i) * N;
                vec sum = all(0);
                for (int64_t n = 0; n < N; n += LANES) {
                    vec h = exp_of(load_some(A + n, N - n) * delta[i]) * load_some(state + n, N - n);
                    h += load_some(B + n, N - n) * driven[i];
                    store_some(state + n, h, N - n);
                    sum += h * load_some(C + n, N - n);
                }
                y[i] += sum_lanes(sum);
            }
            if (t->z) {
                vec z = load_some(t->z + row * s->z_row + c, some);
                y *= z * sigmoid_of(z);
            }
            store_some(t->y + row * s->width + c, y, some);
        }
    }
    return 0;
}
