/* hebbian_scan by the delta rule, real or complex: whole sequences, and their gradients.
 *
 * A unit is one head of one sequence, which goes through it in chunks of CHUNK steps, by the identities that
 * blocked.py states, but one chunk after the other: with its start S known, U is solved at once,
 *
 *   (1 + A) U = β (V − e^s K Sᵀ),     A = β (K Kᴴ ⊙ G), strictly lower,
 *
 * and W is not needed. Its gradients are those of blocked.py, where with X = dX
 *
 *   dS = e^{s_end} dS_end + (e^s dY)ᵀ conj(Q) − (β e^s X)ᵀ conj(K).
 *
 * States lie as Sᵀ, [K, V], lanes along V. A chunk that the sequence's end cuts is filled up with tokens of
 * zeros, which change nothing. What stands one above the other in a product is stored so: K over Q, X over dY.
 *
 * The forward keeps the states at every SEGMENT-th step; the backward computes a segment's states, U and A
 * again from there, then goes through it backward.
 */
#include "native_math.h"
#include "native_matrices.h"

#define CHUNK 16
#define SEGMENT 256 /* native_delta.py's _SEGMENT */
#define CHUNKS (SEGMENT / CHUNK)

typedef struct {
    int64_t batch, time, head; /* in numbers of the tensor */
} Strides;

typedef struct {
    int64_t rows, heads, length, width, columns, is_complex; /* V is the width, K the columns */
    Strides q, k, v, decay, beta, grad_y;
} Sizes;

typedef struct {
    const float *q, *k, *v;                 /* [B, T, H, K or V(, 2)] */
    const double *decay;                    /* γ [B, T, H], or NULL */
    const float *beta;                      /* [B, T, H], or NULL */
    const float *start;                     /* [rows, H, V, K(, 2)], or NULL */
    const int64_t *offsets;                 /* [rows + 1], or NULL */
    const float *grad_y;                    /* the backward's; strides of its own, as q */
    float *y, *last;                        /* the forward's: like v, contiguous; like start */
    float *kept;                            /* [.., H, K, V(, 2)]: states Sᵀ */
    const float *grad_last;                 /* the backward's from here; like start */
    float *grad_q, *grad_k, *grad_v;        /* contiguous */
    float *grad_decay, *grad_beta;          /* [B, T, H], or NULL */
    float *grad_start;                      /* like start */
} Tensors;

/* A chunk's factors; ones and zeros where there is no decay. */
typedef struct {
    int64_t begin, steps;
    float between[CHUNK][CHUNK]; /* G */
    float since[2 * CHUNK];      /* e^s, twice */
    float late[CHUNK];           /* e^{s_end − s} */
    float beta[CHUNK];
    float whole;                 /* e^{s_end} */
} Chunk;

/* A thread's matrices, as rows of whole vectors; V and K stand for as many numbers, padded with zeros. */
typedef struct {
    int64_t parts, columns, width, steps; /* floats of a row of K, V and CHUNK numbers */
    int64_t rows, size;                   /* K as rows of a state, and a state's floats */
    Chunk chunks[CHUNKS];
    double owed;                          /* what γ's product is to its rounded factors' */
    float *states;                        /* [CHUNKS + 1, K, V]: before each chunk, and at the end */
    float *written;                       /* [CHUNKS, CHUNK, V]: U */
    float *overlaps;                      /* [CHUNKS, 2 CHUNK, CHUNK]: A over Q Kᴴ ⊙ G */
    float *tokens, *keys;                 /* [2 CHUNK, K]: K over Q; [K, CHUNK]: Kᵀ */
    float *read;                          /* [2 CHUNK, V]: what is read with K, and with Q */
    float *grads;                         /* [2 CHUNK, V]: X over dY; the forward's late U */
    float *grad_state;                    /* [K, V] */
    float *turned;                        /* [V, K]: a state */
    float *turned_written;                /* [V, CHUNK] */
    float *grad_overlaps;                 /* [2 CHUNK, CHUNK] */
    float *grad_tokens, *grad_keys;       /* [2 CHUNK, K]: −κ over dQ; [CHUNK, K] */
} Work;

/* Its matrices as a product's left or right side. */
INLINE Left rows_of(const Work *w, const float *at, int64_t across) {
    return (Left){.at = at, .row = across, .column = w->parts};
}

INLINE Left adjoint_of(const Work *w, const float *at, int64_t across) {
    return (Left){.at = at, .row = w->parts, .column = across, .conjugate = 1};
}

INLINE Right right(const float *at, int64_t across) { return (Right){.at = at, .across = across}; }

INLINE Right conjugate(const float *at, int64_t across) {
    return (Right){.at = at, .across = across, .conjugate = 1};
}

INLINE void scale(float *row, const float *from, float factor, int64_t floats) {
    for (int64_t i = 0; i < floats; i += LANES)
        store_some(row + i, load_some(from + i, floats - i) * factor, floats - i);
}

/* A unit's place. */
typedef struct {
    int64_t row, head, place, begin, end;
} Head;

INLINE Head head_of(const Sizes *s, const Tensors *t, int64_t unit) {
    Head h = {.row = unit / s->heads, .head = unit % s->heads, .end = s->length};
    if (t->offsets) {
        h.begin = t->offsets[h.row];
        h.end = t->offsets[h.row + 1];
    } else {
        h.place = h.row;
    }
    return h;
}

INLINE int64_t at(const Strides *strides, const Head *h, int64_t time) {
    return h->place * strides->batch + time * strides->time + h->head * strides->head;
}

/* Where a token's number stands in what is by token and head alone. */
INLINE int64_t token(const Sizes *s, const Head *h, int64_t time) {
    return (h->place * s->length + time) * s->heads + h->head;
}

/* The state before a segment that is not the first. No two sequences' segments overlap. */
static float *kept_at(const Sizes *s, const Tensors *t, const Head *h, int64_t time) {
    const int64_t first = t->offsets ? h->begin / SEGMENT : h->row * (s->length / SEGMENT);
    const int64_t segment = first + (time - h->begin) / SEGMENT - 1;
    return t->kept + (segment * s->heads + h->head) * s->columns * s->width * (1 + s->is_complex);
}

static void take(float *to, int64_t across, const float *from, const Strides *strides, const Head *h,
                 const Chunk *c, int64_t floats) {
    for (int64_t n = 0; n < c->steps; n++)
        memcpy(to + n * across, from + at(strides, h, c->begin + n), sizeof(float) * (size_t)floats);
    memset(to + c->steps * across, 0, sizeof(float) * (size_t)((CHUNK - c->steps) * across));
}

static void take_factors(const Sizes *s, const Tensors *t, const Head *h, Work *w, Chunk *c) {
    double between[CHUNK] = {0}, since = 1.0;
    for (int64_t i = 0; i < CHUNK; i++) {
        const int64_t time = c->begin + i;
        const int real = i < c->steps;
        const double gamma = real && t->decay ? t->decay[at(&s->decay, h, time)] : 1.0;
        between[i] = 1.0;
        for (int64_t j = 0; j < i; j++) between[j] *= gamma;
        for (int64_t j = 0; j < CHUNK; j++) c->between[i][j] = (float)between[j];
        since *= gamma;
        c->since[i] = c->since[CHUNK + i] = (float)since;
        c->beta[i] = real && t->beta ? t->beta[at(&s->beta, h, time)] : 1.0f;
    }
    for (int64_t j = 0; j < CHUNK; j++) c->late[j] = (float)between[j];
    /* Rounded so that the product over many chunks is γ's. */
    const double wanted = since * w->owed;
    c->whole = (float)wanted;
    w->owed = c->whole > 0 ? wanted / c->whole : 1.0;
}

/* Rows times G, and strictly lower those of the first CHUNK, times β where that is given. */
static void mask(const Work *w, float *overlaps, const Chunk *c, const float *beta) {
    for (int64_t i = 0; i < 2 * CHUNK; i++) {
        const int64_t n = i % CHUNK, own = i == n ? 0 : 1;
        float *row = overlaps + i * w->steps;
        for (int64_t j = 0; j < CHUNK; j++) {
            float factor = j < n + own ? c->between[n][j] : 0.0f;
            if (beta && i == n) factor *= beta[n];
            for (int64_t part = 0; part < w->parts; part++) row[j * w->parts + part] *= factor;
        }
    }
}

/* state ← whole state + leftᴴ… tokens by tokens; all rows have the same factor. */
static void add_to_state(const Work *w, float *state, float whole, const float *tokens, const float *values,
                         int64_t count) {
    float factors[256];
    for (int64_t j = 0; j < w->rows; j++) factors[j] = whole;
    product((int)w->parts, state, factors, adjoint_of(w, tokens, w->columns), right(values, w->width), w->rows,
            count);
}

/* Chunk g from its state to the next: U, A and Q Kᴴ ⊙ G, and what the first `readers` of K over Q read. */
static void advance(const Sizes *s, const Tensors *t, const Head *h, Work *w, int64_t g, float *state,
                    float *next, int64_t readers) {
    const int parts = (int)w->parts;
    const int64_t columns = parts * s->columns, width = parts * s->width;
    Chunk *c = w->chunks + g;
    float *u = w->written + g * CHUNK * w->width, *overlaps = w->overlaps + g * 2 * CHUNK * w->steps;
    take_factors(s, t, h, w, c);
    take(w->tokens, w->columns, t->k, &s->k, h, c, columns);
    take(w->tokens + CHUNK * w->columns, w->columns, t->q, &s->q, h, c, columns);
    take(u, w->width, t->v, &s->v, h, c, width);
    transpose(parts, w->keys, w->steps, w->tokens, w->columns, CHUNK, s->columns);
    product(parts, overlaps, NULL, rows_of(w, w->tokens, w->columns), conjugate(w->keys, w->steps), 2 * CHUNK,
            s->columns);
    mask(w, overlaps, c, c->beta);
    product(parts, w->read, NULL, rows_of(w, w->tokens, w->columns), right(state, w->width), readers, s->columns);
    for (int64_t i = 0; i < CHUNK; i++) {
        float *row = u + i * w->width, *read = w->read + i * w->width;
        for (int64_t l = 0; l < w->width; l += LANES)
            store(row + l, (load(row + l) - load(read + l) * c->since[i]) * c->beta[i]);
    }
    solve(parts, u, w->width, w->width, rows_of(w, overlaps, w->steps), CHUNK);
    for (int64_t i = 0; i < CHUNK; i++)
        scale(w->grads + i * w->width, u + i * w->width, c->late[i], w->width);
    if (next != state) memcpy(next, state, sizeof(float) * (size_t)w->size);
    add_to_state(w, next, c->whole, w->tokens, w->grads, CHUNK);
}

static void forward(const Sizes *s, const Tensors *t, const Head *h, Work *w, int64_t unit) {
    const int parts = (int)w->parts;
    const int64_t width = parts * s->width, state = unit * width * s->columns;
    const float *scores = w->overlaps + CHUNK * w->steps;
    float *y = w->read + CHUNK * w->width;
    memset(w->states, 0, sizeof(float) * (size_t)w->size);
    if (t->start)
        transpose(parts, w->states, w->width, t->start + state, parts * s->columns, s->width, s->columns);
    w->owed = 1.0;
    for (int64_t time = h->begin; time < h->end; time += CHUNK) {
        Chunk *c = w->chunks;
        c->begin = time;
        c->steps = h->end - time < CHUNK ? h->end - time : CHUNK;
        if (time > h->begin && (time - h->begin) % SEGMENT == 0) {
            float *kept = kept_at(s, t, h, time);
            for (int64_t j = 0; j < s->columns; j++)
                memcpy(kept + j * width, w->states + j * w->width, sizeof(float) * (size_t)width);
        }
        advance(s, t, h, w, 0, w->states, w->states, 2 * CHUNK);
        product(parts, y, c->since, rows_of(w, scores, w->steps), right(w->written, w->width), CHUNK, CHUNK);
        for (int64_t n = 0; n < c->steps; n++)
            memcpy(t->y + token(s, h, time + n) * width, y + n * w->width, sizeof(float) * (size_t)width);
    }
    transpose(parts, t->last + state, parts * s->columns, w->states, w->width, s->columns, s->width);
}

/* One chunk backward: its gradients, and dS from after it to before it. */
static void retreat(const Sizes *s, const Tensors *t, const Head *h, Work *w, int64_t g) {
    const int parts = (int)w->parts;
    const int64_t columns = parts * s->columns, width = parts * s->width;
    const Chunk *c = w->chunks + g;
    const float *state = w->states + g * w->size, *end = state + w->size;
    const float *u = w->written + g * CHUNK * w->width, *overlaps = w->overlaps + g * 2 * CHUNK * w->steps;
    const float *scores = overlaps + CHUNK * w->steps, *q = w->tokens + CHUNK * w->columns;
    float *x = w->grads, *grad_y = x + CHUNK * w->width, *grad_q = w->grad_tokens + CHUNK * w->columns;
    take(w->tokens, w->columns, t->k, &s->k, h, c, columns);
    take(w->tokens + CHUNK * w->columns, w->columns, t->q, &s->q, h, c, columns);
    take(grad_y, w->width, t->grad_y, &s->grad_y, h, c, width);
    product(parts, x, NULL, rows_of(w, w->tokens, w->columns), right(w->grad_state, w->width), CHUNK, s->columns);
    product(parts, x, c->late, adjoint_of(w, scores, w->steps), right(grad_y, w->width), CHUNK, CHUNK);
    /* Aᴴ from its last number to its first. */
    const Left upper = {
        .at = overlaps + (CHUNK - 1) * (w->steps + parts), .row = -parts, .column = -w->steps, .conjugate = 1,
    };
    solve(parts, x + (CHUNK - 1) * w->width, -w->width, w->width, upper, CHUNK);

    transpose(parts, w->turned_written, w->steps, u, w->width, CHUNK, s->width);
    product(parts, w->grad_overlaps, NULL, rows_of(w, w->grads, w->width),
            conjugate(w->turned_written, w->steps), 2 * CHUNK, s->width);
    mask(w, w->grad_overlaps, c, NULL);
    transpose(parts, w->turned, w->columns, state, w->width, s->columns, s->width);
    product(parts, w->grad_tokens, NULL, rows_of(w, w->grads, w->width), conjugate(w->turned, w->columns),
            2 * CHUNK, s->width);
    product(parts, w->grad_tokens, c->since, rows_of(w, w->grad_overlaps, w->steps),
            right(w->tokens, w->columns), 2 * CHUNK, CHUNK);

    transpose(parts, w->turned, w->columns, w->grad_state, w->width, s->columns, s->width);
    product(parts, w->grad_keys, NULL, rows_of(w, u, w->width), conjugate(w->turned, w->columns), CHUNK, s->width);
    for (int64_t i = 0; i < CHUNK; i++) {
        float *row = w->grad_overlaps + i * w->steps;
        scale(row, row, -c->beta[i], w->steps);
    }
    product(parts, w->grad_keys, c->late, adjoint_of(w, w->grad_overlaps, w->steps),
            right(w->tokens, w->columns), CHUNK, 2 * CHUNK);

    double sum = t->grad_decay ? inner(w->grad_state, end, w->size) : 0.0;
    for (int64_t n = c->steps - 1; n >= 0; n--) {
        const int64_t here = token(s, h, c->begin + n);
        const float *k = w->tokens + n * w->columns, *kappa = w->grad_tokens + n * w->columns;
        const float *dq = grad_q + n * w->columns, *dk = w->grad_keys + n * w->columns;
        const float reading = -inner(k, kappa, w->columns);
        if (t->grad_beta)
            t->grad_beta[here] = inner(t->v + at(&s->v, h, c->begin + n), x + n * w->width, width) + reading;
        if (t->grad_decay) {
            sum += inner(q + n * w->columns, dq, w->columns) - inner(k, dk, w->columns) + c->beta[n] * reading;
            t->grad_decay[here] = (float)sum;
        }
        memcpy(t->grad_q + here * columns, dq, sizeof(float) * (size_t)columns);
        for (int64_t l = 0; l < columns; l += LANES)
            store_some(t->grad_k + here * columns + l, load(dk + l) - load(kappa + l) * c->beta[n], columns - l);
        scale(t->grad_v + here * width, x + n * w->width, c->beta[n], width);
    }
    for (int64_t i = 0; i < 2 * CHUNK; i++) {
        float *row = w->grads + i * w->width;
        scale(row, row, i < CHUNK ? -c->beta[i] * c->since[i] : c->since[i], w->width);
    }
    add_to_state(w, w->grad_state, c->whole, w->tokens, w->grads, 2 * CHUNK);
}

static void backward(const Sizes *s, const Tensors *t, const Head *h, Work *w, int64_t unit) {
    const int parts = (int)w->parts;
    const int64_t width = parts * s->width, state = unit * width * s->columns;
    transpose(parts, w->grad_state, w->width, t->grad_last + state, parts * s->columns, s->width, s->columns);
    for (int64_t n = (h->end - h->begin + SEGMENT - 1) / SEGMENT - 1; n >= 0; n--) {
        const int64_t begin = h->begin + n * SEGMENT;
        const int64_t steps = h->end - begin < SEGMENT ? h->end - begin : SEGMENT;
        const int64_t chunks = (steps + CHUNK - 1) / CHUNK;
        if (n > 0) {
            const float *kept = kept_at(s, t, h, begin);
            for (int64_t j = 0; j < s->columns; j++)
                memcpy(w->states + j * w->width, kept + j * width, sizeof(float) * (size_t)width);
        } else {
            memset(w->states, 0, sizeof(float) * (size_t)w->size);
            if (t->start)
                transpose(parts, w->states, w->width, t->start + state, parts * s->columns, s->width, s->columns);
        }
        w->owed = 1.0;
        for (int64_t g = 0; g < chunks; g++) {
            w->chunks[g].begin = begin + g * CHUNK;
            w->chunks[g].steps = steps - g * CHUNK < CHUNK ? steps - g * CHUNK : CHUNK;
            float *before = w->states + g * w->size;
            advance(s, t, h, w, g, before, before + w->size, CHUNK);
        }
        for (int64_t g = chunks - 1; g >= 0; g--) retreat(s, t, h, w, g);
    }
    transpose(parts, t->grad_start + state, parts * s->columns, w->grad_state, w->width, s->columns, s->width);
}

static int scan(int64_t first, int64_t last, const Sizes *s, const Tensors *t, int is_backward) {
    Work w = {.parts = 1 + s->is_complex};
    w.columns = padded(w.parts * s->columns, LANES);
    w.width = padded(w.parts * s->width, LANES);
    w.steps = w.parts * CHUNK;
    w.rows = w.columns / w.parts;
    w.size = w.rows * w.width;
    const int64_t chunks = is_backward ? CHUNKS : 1, across = w.width / w.parts;
    const struct {
        float **matrix;
        int64_t floats;
    } wanted[] = {
        {&w.states, (is_backward ? CHUNKS + 1 : 1) * w.size},
        {&w.written, chunks * CHUNK * w.width},
        {&w.overlaps, chunks * 2 * CHUNK * w.steps},
        {&w.tokens, 2 * CHUNK * w.columns},
        {&w.keys, w.rows * w.steps},
        {&w.read, 2 * CHUNK * w.width},
        {&w.grads, 2 * CHUNK * w.width},
        {&w.grad_state, is_backward * w.size},
        {&w.turned, is_backward * across * w.columns},
        {&w.turned_written, is_backward * across * w.steps},
        {&w.grad_overlaps, is_backward * 2 * CHUNK * w.steps},
        {&w.grad_tokens, is_backward * 2 * CHUNK * w.columns},
        {&w.grad_keys, is_backward * CHUNK * w.columns},
    };
    const int count = sizeof wanted / sizeof *wanted;
    int64_t floats = 0;
    for (int i = 0; i < count; i++) floats += wanted[i].floats;
    float *memory = aligned_alloc(64, (size_t)padded(sizeof(float) * floats, 64));
    if (!memory) return 1;
    memset(memory, 0, sizeof(float) * (size_t)floats); /* which the padding stays */
    float *next = memory;
    for (int i = 0; i < count; next += wanted[i++].floats) *wanted[i].matrix = next;
    for (int64_t unit = first; unit < last; unit++) {
        const Head h = head_of(s, t, unit);
        if (is_backward) {
            backward(s, t, &h, &w, unit);
        } else {
            forward(s, t, &h, &w, unit);
        }
    }
    free(memory);
    return 0;
}

int hebbian_delta_forward(int64_t first, int64_t last, const Sizes *s, const Tensors *t) {
    return scan(first, last, s, t, 0);
}

int hebbian_delta_backward(int64_t first, int64_t last, const Sizes *s, const Tensors *t) {
    return scan(first, last, s, t, 1);
}
