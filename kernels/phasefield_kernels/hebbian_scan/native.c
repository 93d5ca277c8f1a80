/* hebbian_scan, real or complex: one decoding step, in which the state is read and written once; and, below, whole
 * sequences by Hebb's rule.
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

/* The scan of whole sequences by Hebb's rule, and its gradients: for each head
 *
 *   S_t = γ_t S_{t-1} + a_t b_t*,     y_t = S_t c_t,     S [width, columns], real or complex
 *
 * which is forward (a, b, c) = (β v, k, q); the gradients are the same scan of other numbers (native.py).
 *
 * Lanes along a: sums over b and c meet in no vector. CHUNK steps at a time are packed, b and c padded with zeros
 * to whole tiles; a tile of the state, TALL columns by WIDE vectors, stays in registers for all of them. A lane
 * is a float, the real or imaginary part of a number; with b = br + i bi and c = cr + i ci
 *
 *   S += a br − (i a) bi,     y = (Σ S cr) + i (Σ S ci)
 *
 * so that a complex scan is the real one with two products in place of each.
 */
#define CHUNK 32
#if LANES == 16 /* 32 registers */
#define TALL 8
#define WIDE 2
#else
#define TALL 4
#define WIDE 1
#endif

typedef struct {
    int64_t batch, time, head; /* in numbers of the tensor */
} Strides;

typedef struct {
    int64_t rows, heads, length, width, columns, is_complex;
    int64_t reverse;    /* from the last step to the first: step t multiplies the state by γ_{t+1} */
    int64_t transposed; /* the states in memory are S*ᵀ, [columns, width] */
    int64_t segment;    /* steps from mark to mark, whole chunks */
    Strides a, b, c, decay, written;
} ScanSizes;

typedef struct {
    const float *a, *b, *c;    /* [B, T, H, width or columns(, 2)] */
    const double *decay;       /* γ [B, T, H], or NULL */
    const float *start;        /* [rows, H, width, columns(, 2)], or NULL */
    const int64_t *offsets;    /* [rows + 1], or NULL */
    float *y, *last;           /* [B, T, H, width(, 2)]; like start */
    float *marks;              /* [.., heads, columns, width(, 2)] or NULL: see below */
    const float *written, *grad_read; /* like a */
    float *grad_decay;         /* [B, T, H] */
} ScanTensors;

typedef struct {
    int64_t across, down;      /* floats of a row of a, and columns, both padded */
    float *state;              /* [down, across] */
    float *a, *y;              /* [parts, CHUNK, across]: a and −i a; y's two sums */
    float *b, *c;              /* [CHUNK, parts, down] */
    float factor[CHUNK];
    double owed;               /* what γ's product is to its rounded factors' */
} Packed;

/* TALL columns of WIDE vectors of the state through a chunk. */
INLINE void tile(const Packed *p, int64_t lane, int64_t column, int64_t steps, const int parts) {
    vec S[TALL][WIDE];
    float *state = p->state + column * p->across + lane;
    EACH(j, TALL) EACH(l, WIDE) S[j][l] = load(state + j * p->across + l * LANES);
    for (int64_t t = 0; t < steps; t++) {
        const float *b = p->b + t * parts * p->down + column, *c = p->c + t * parts * p->down + column;
        const int64_t at = t * p->across + lane, part = CHUNK * p->across;
        vec a[2][WIDE], y[2][WIDE];
        EACH(i, parts) EACH(l, WIDE) {
            a[i][l] = load(p->a + i * part + at + l * LANES);
            y[i][l] = load(p->y + i * part + at + l * LANES);
        }
        EACH(j, TALL) {
            EACH(l, WIDE) S[j][l] *= p->factor[t];
            EACH(i, parts) EACH(l, WIDE) S[j][l] += a[i][l] * b[i * p->down + j];
            EACH(i, parts) EACH(l, WIDE) y[i][l] += S[j][l] * c[i * p->down + j];
        }
        EACH(i, parts) EACH(l, WIDE) store(p->y + i * part + at + l * LANES, y[i][l]);
    }
    EACH(j, TALL) EACH(l, WIDE) store(state + j * p->across + l * LANES, S[j][l]);
}

/* A state's number (lane, column) in memory, and the sign of its imaginary part there. */
INLINE int64_t place_of(const ScanSizes *s, int64_t lane, int64_t column) {
    return s->transposed ? column * s->width + lane : lane * s->columns + column;
}

/* A head's steps. */
typedef struct {
    int64_t unit, head, place, begin, end;
    const float *a, *b, *c;
    const double *decay;
} Head;

INLINE Head head_of(const ScanSizes *s, const ScanTensors *t, int64_t unit) {
    const int64_t row = unit / s->heads, head = unit % s->heads, place = t->offsets ? 0 : row;
    return (Head){
        .unit = unit, .head = head, .place = place,
        .begin = t->offsets ? t->offsets[row] : 0, .end = t->offsets ? t->offsets[row + 1] : s->length,
        .a = t->a + place * s->a.batch + head * s->a.head, .b = t->b + place * s->b.batch + head * s->b.head,
        .c = t->c + place * s->c.batch + head * s->c.head,
        .decay = t->decay ? t->decay + place * s->decay.batch + head * s->decay.head : NULL,
    };
}

/* The decay that multiplies the state at a step: rounded so that the product over many steps is γ's. A constant
 * γ near 1, rounded the same way every time, would be off by 3e-8 a step, which memories of 10^4 steps add up. */
INLINE float factor_at(const ScanSizes *s, Packed *p, const Head *h, int64_t time) {
    if (!h->decay || time >= h->end) return 1.0f;
    const double wanted = h->decay[time * s->decay.time] * p->owed;
    const float factor = (float)wanted;
    p->owed = factor > 0 ? wanted / factor : 1.0;
    return factor;
}

INLINE void pack(const ScanSizes *s, Packed *p, const Head *h, int64_t n, int64_t time, const int parts) {
    const float *a = h->a + time * s->a.time, *b = h->b + time * s->b.time, *c = h->c + time * s->c.time;
    float *by_real = p->a + n * p->across, *by_imaginary = by_real + CHUNK * p->across;
    memcpy(by_real, a, sizeof(float) * (size_t)(parts * s->width));
    for (int64_t i = 0; parts == 2 && i < 2 * s->width; i += 2) {
        by_imaginary[i] = a[i + 1];
        by_imaginary[i + 1] = -a[i];
    }
    for (int64_t j = 0; j < s->columns; j++)
        EACH(i, parts) {
            p->b[(n * parts + i) * p->down + j] = b[j * parts + i];
            p->c[(n * parts + i) * p->down + j] = c[j * parts + i];
        }
    p->factor[n] = factor_at(s, p, h, time + s->reverse);
}

INLINE float *unpack(const ScanSizes *s, const ScanTensors *t, const Packed *p, const Head *h, int64_t n,
                     int64_t time, const int parts) {
    float *y = t->y + ((h->place * s->length + time) * s->heads + h->head) * parts * s->width;
    const float *by_real = p->y + n * p->across, *by_imaginary = by_real + CHUNK * p->across;
    if (parts == 1) memcpy(y, by_real, sizeof(float) * (size_t)s->width);
    for (int64_t i = 0; parts == 2 && i < 2 * s->width; i += 2) {
        y[i] = by_real[i] - by_imaginary[i + 1];
        y[i + 1] = by_real[i + 1] + by_imaginary[i];
    }
    return y;
}

/* The decay's gradient needs both states at once, S_{t-1} and dS_t, or their product at a later step:
 *
 *   d(log γ_t) = Re<γ_t dS_t, S_{t-1}> = d(log γ_{t+1}) + Re(q_t* dq_t − k_t* dk_t)
 *
 * a sum whose terms may cancel. So the scan that makes dq leaves its state at the marks, every `segment` steps,
 * and the one that makes dk, in reverse, starts the sum anew from there. */
INLINE float *mark_of(const ScanSizes *s, const ScanTensors *t, const Head *h, int64_t time, const int parts) {
    const int64_t row = h->unit / s->heads, each = (s->length + s->segment - 1) / s->segment;
    const int64_t first = t->offsets ? h->begin / s->segment + row : row * each; /* no two rows overlap */
    const int64_t mark = first + (time - h->begin) / s->segment;
    return t->marks + (mark * s->heads + h->head) * s->columns * parts * s->width;
}

INLINE void scan_head(const ScanSizes *s, const ScanTensors *t, Packed *p, const Head *h, const int parts) {
    const int64_t floats = parts * s->width, state = h->unit * floats * s->columns;
    const int64_t chunks = (h->end - h->begin + CHUNK - 1) / CHUNK;
    const float sign = s->transposed ? -1.0f : 1.0f;
    memset(p->state, 0, sizeof(float) * (size_t)(p->down * p->across));
    for (int64_t j = 0; t->start && j < s->columns; j++)
        for (int64_t i = 0; i < floats; i++)
            p->state[j * p->across + i] =
                (i % parts ? sign : 1.0f) * t->start[state + place_of(s, i / parts, j) * parts + i % parts];
    double sum = 0;
    p->owed = 1.0;
    for (int64_t done = 0; done < chunks; done++) {
        const int64_t begin = h->begin + CHUNK * (s->reverse ? chunks - 1 - done : done);
        const int64_t end = begin + CHUNK < h->end ? begin + CHUNK : h->end, steps = end - begin;
        const int marked = t->marks && (end == h->end || (end - h->begin) % s->segment == 0);
        float *mark = marked ? mark_of(s, t, h, begin, parts) : NULL;
        if (marked && s->reverse) {
            sum = 0;
            for (int64_t j = 0; j < s->columns; j++) sum += inner(p->state + j * p->across, mark + j * floats, floats);
            if (h->decay && end < h->end) sum *= h->decay[end * s->decay.time];
        }
        for (int64_t n = 0; n < steps; n++) pack(s, p, h, n, s->reverse ? end - 1 - n : begin + n, parts);
        memset(p->y, 0, sizeof(float) * (size_t)(parts * CHUNK * p->across));
        for (int64_t lane = 0; lane < p->across; lane += WIDE * LANES)
            for (int64_t column = 0; column < p->down; column += TALL) tile(p, lane, column, steps, parts);
        for (int64_t n = 0; n < steps; n++) {
            const int64_t time = s->reverse ? end - 1 - n : begin + n;
            const float *y = unpack(s, t, p, h, n, time, parts), *a = h->a + time * s->a.time;
            if (!t->grad_decay) continue;
            const int64_t place = (h->place * s->length + time) * s->heads + h->head;
            const float *grad_read = t->grad_read + place * floats;
            const float *written = t->written + h->place * s->written.batch + time * s->written.time +
                h->head * s->written.head;
            sum += (double)inner(a, grad_read, floats) - inner(written, y, floats);
            t->grad_decay[place] = (float)sum;
        }
        for (int64_t j = 0; marked && !s->reverse && j < s->columns; j++)
            memcpy(mark + j * floats, p->state + j * p->across, sizeof(float) * (size_t)floats);
    }
    const float whole = s->reverse ? factor_at(s, p, h, h->begin) : 1.0f;
    for (int64_t j = 0; j < s->columns; j++)
        for (int64_t i = 0; i < floats; i++)
            t->last[state + place_of(s, i / parts, j) * parts + i % parts] =
                (i % parts ? sign : 1.0f) * whole * p->state[j * p->across + i];
}

int hebbian_scan(int64_t first, int64_t last, const ScanSizes *s, const ScanTensors *t) {
    const int64_t parts = 1 + s->is_complex;
    Packed p = {.across = padded(parts * s->width, WIDE * LANES), .down = padded(s->columns, TALL)};
    const int64_t lanes_of = parts * CHUNK * p.across, columns_of = parts * CHUNK * p.down;
    const size_t bytes = sizeof(float) * (size_t)(p.down * p.across + 2 * lanes_of + 2 * columns_of);
    float *memory = aligned_alloc(64, (size_t)padded((int64_t)bytes, 64));
    if (!memory) return 1;
    memset(memory, 0, bytes); /* which the padding stays */
    p.state = memory;
    p.a = p.state + p.down * p.across;
    p.y = p.a + lanes_of;
    p.b = p.y + lanes_of;
    p.c = p.b + columns_of;
    for (int64_t unit = first; unit < last; unit++) {
        const Head h = head_of(s, t, unit);
        if (s->is_complex) {
            scan_head(s, t, &p, &h, 2);
        } else {
            scan_head(s, t, &p, &h, 1);
        }
    }
    free(memory);
    return 0;
}
