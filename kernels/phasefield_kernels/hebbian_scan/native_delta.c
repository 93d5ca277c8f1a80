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
#include "native_delta_chunk.h"

/* A state from memory, [V, K], or zeros where there is none. */
static void take_state(const Work *w, float *to, const float *from) {
    const Sizes *s = w->sizes;
    memset(to, 0, sizeof(float) * (size_t)w->size);
    if (from) transpose(w->parts, to, w->width, from, w->parts * s->columns, s->width, s->columns);
}

static void put_state(const Work *w, float *to, const float *from) {
    const Sizes *s = w->sizes;
    transpose(w->parts, to, w->parts * s->columns, from, w->width, s->columns, s->width);
}

/* to ← e^{s_end} from + values by the first `count` of K over Q. */
static void add_to_state(const Work *w, float *to, const float *from, const Chunk *c, const float *values,
                         int64_t count) {
    product(w->parts, to, from, c->whole, adjoint_of(w->parts, w->tokens, w->columns), right(values, w->width),
            w->rows, count);
}

/* Chunk g from its state to the next: U, A and Q Kᴴ ⊙ G, and what the first `readers` of K over Q read. */
static void advance(Work *w, const Head *h, int64_t g, const float *state, float *next, int64_t readers) {
    const Sizes *s = w->sizes;
    const Tensors *t = w->tensors;
    const int64_t columns = w->parts * s->columns, width = w->parts * s->width;
    const Left tokens = rows_of(w->parts, w->tokens, w->columns);
    Chunk *c = w->chunks + g;
    float *u = w->written + g * CHUNK * w->width, *overlaps = w->overlaps + g * 2 * CHUNK * w->steps;
    take_factors(w, h, c);
    take(w->tokens, w->columns, t->k, &s->k, h, c, columns);
    take(w->tokens + CHUNK * w->columns, w->columns, t->q, &s->q, h, c, columns);
    take(u, w->width, t->v, &s->v, h, c, width);
    transpose(w->parts, w->keys, w->steps, w->tokens, w->columns, CHUNK, s->columns);
    product(w->parts, overlaps, NULL, NULL, tokens, conjugate(w->keys, w->steps), 2 * CHUNK, s->columns);
    mask(w, overlaps, c);
    product(w->parts, w->read, NULL, NULL, tokens, right(state, w->width), readers, s->columns);
    for (int64_t i = 0; i < CHUNK; i++) {
        float *row = u + i * w->width, *read = w->read + i * w->width, *overlap = overlaps + i * w->steps;
        scale(overlap, overlap, c->beta[i], w->steps);
        for (int64_t l = 0; l < w->width; l += LANES)
            store(row + l, (load(row + l) - load(read + l) * c->since[i]) * c->beta[i]);
    }
    solve(w->parts, u, w->width, w->width, rows_of(w->parts, overlaps, w->steps), CHUNK);
    for (int64_t i = 0; i < CHUNK; i++)
        scale(w->grads + i * w->width, u + i * w->width, c->late[i], w->width);
    add_to_state(w, next, state, c, w->grads, CHUNK);
}

static void forward(Work *w, const Head *h) {
    const Sizes *s = w->sizes;
    const Tensors *t = w->tensors;
    const int64_t width = w->parts * s->width;
    const float *scores = w->overlaps + CHUNK * w->steps;
    float *y = w->read + CHUNK * w->width;
    take_state(w, w->states, t->start ? t->start + h->state : NULL);
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
        advance(w, h, 0, w->states, w->states, 2 * CHUNK);
        product(w->parts, y, y, c->since, rows_of(w->parts, scores, w->steps), right(w->written, w->width), CHUNK,
                CHUNK);
        for (int64_t n = 0; n < c->steps; n++)
            memcpy(t->y + token(s, h, time + n) * width, y + n * w->width, sizeof(float) * (size_t)width);
    }
    put_state(w, t->last + h->state, w->states);
}

/* One chunk backward: its gradients, and dS from after it to before it. */
static void retreat(Work *w, const Head *h, int64_t g) {
    const Sizes *s = w->sizes;
    const Tensors *t = w->tensors;
    const int64_t columns = w->parts * s->columns, width = w->parts * s->width;
    const Chunk *c = w->chunks + g;
    const float *state = w->states + g * w->size, *end = state + w->size;
    const float *u = w->written + g * CHUNK * w->width, *overlaps = w->overlaps + g * 2 * CHUNK * w->steps;
    const float *scores = overlaps + CHUNK * w->steps, *q = w->tokens + CHUNK * w->columns;
    float *x = w->grads, *grad_y = x + CHUNK * w->width, *grad_q = w->grad_tokens + CHUNK * w->columns;
    const Left grads = rows_of(w->parts, w->grads, w->width);
    const Right tokens = right(w->tokens, w->columns), turned = conjugate(w->turned, w->columns);
    take(w->tokens, w->columns, t->k, &s->k, h, c, columns);
    take(w->tokens + CHUNK * w->columns, w->columns, t->q, &s->q, h, c, columns);
    take(grad_y, w->width, t->grad_y, &s->grad_y, h, c, width);

    /* dU, and from it X: Aᴴ from its last number to its first. */
    product(w->parts, x, NULL, NULL, rows_of(w->parts, w->tokens, w->columns), right(w->grad_state, w->width), CHUNK,
            s->columns);
    product(w->parts, x, x, c->late, adjoint_of(w->parts, scores, w->steps), right(grad_y, w->width), CHUNK, CHUNK);
    const Left backward = {
        .at = overlaps + (CHUNK - 1) * (w->steps + w->parts),
        .row = -w->parts, .column = -w->steps, .conjugate = 1,
    };
    solve(w->parts, x + (CHUNK - 1) * w->width, -w->width, w->width, backward, CHUNK);

    /* −κ over dQ. */
    transpose(w->parts, w->turned_written, w->steps, u, w->width, CHUNK, s->width);
    product(w->parts, w->grad_overlaps, NULL, NULL, grads, conjugate(w->turned_written, w->steps), 2 * CHUNK,
            s->width);
    mask(w, w->grad_overlaps, c);
    transpose(w->parts, w->turned, w->columns, state, w->width, s->columns, s->width);
    product(w->parts, w->grad_tokens, NULL, NULL, grads, turned, 2 * CHUNK, s->width);
    product(w->parts, w->grad_tokens, w->grad_tokens, c->since, rows_of(w->parts, w->grad_overlaps, w->steps), tokens,
            2 * CHUNK, CHUNK);

    /* dK, without βκ. */
    transpose(w->parts, w->turned, w->columns, w->grad_state, w->width, s->columns, s->width);
    product(w->parts, w->grad_keys, NULL, NULL, rows_of(w->parts, u, w->width), turned, CHUNK, s->width);
    for (int64_t i = 0; i < CHUNK; i++) {
        float *row = w->grad_overlaps + i * w->steps;
        scale(row, row, -c->beta[i], w->steps);
    }
    product(w->parts, w->grad_keys, w->grad_keys, c->late, adjoint_of(w->parts, w->grad_overlaps, w->steps), tokens,
            CHUNK, 2 * CHUNK);

    /* dγ, dβ, and out. */
    double sum = t->grad_decay ? inner(w->grad_state, end, w->size) : 0.0;
    for (int64_t n = c->steps - 1; n >= 0; n--) {
        const int64_t here = token(s, h, c->begin + n), row = n * w->columns;
        const float strength = inner(t->v + at(&s->v, h, c->begin + n), x + n * w->width, width);
        vec reading = all(0), writing = all(0);
        for (int64_t l = 0; l < columns; l += LANES) {
            vec k = load(w->tokens + row + l), minus_kappa = load(w->grad_tokens + row + l);
            vec dq = load(grad_q + row + l), dk = load(w->grad_keys + row + l);
            reading -= k * minus_kappa;
            writing += load(q + row + l) * dq - k * dk;
            store_some(t->grad_q + here * columns + l, dq, columns - l);
            store_some(t->grad_k + here * columns + l, dk - minus_kappa * c->beta[n], columns - l);
        }
        for (int64_t l = 0; l < width; l += LANES)
            store_some(t->grad_v + here * width + l, load(x + n * w->width + l) * c->beta[n], width - l);
        if (t->grad_beta) t->grad_beta[here] = strength + sum_lanes(reading);
        if (t->grad_decay) {
            sum += sum_lanes(writing + reading * c->beta[n]);
            t->grad_decay[here] = (float)sum;
        }
    }
    for (int64_t i = 0; i < 2 * CHUNK; i++) {
        float *row = w->grads + i * w->width;
        scale(row, row, i < CHUNK ? -c->beta[i] * c->since[i] : c->since[i], w->width);
    }
    add_to_state(w, w->grad_state, w->grad_state, c, w->grads, 2 * CHUNK);
}

static void backward(Work *w, const Head *h) {
    const Sizes *s = w->sizes;
    const Tensors *t = w->tensors;
    const int64_t width = w->parts * s->width;
    take_state(w, w->grad_state, t->grad_last + h->state);
    for (int64_t n = (h->end - h->begin + SEGMENT - 1) / SEGMENT - 1; n >= 0; n--) {
        const int64_t begin = h->begin + n * SEGMENT;
        const int64_t steps = h->end - begin < SEGMENT ? h->end - begin : SEGMENT;
        const int64_t chunks = (steps + CHUNK - 1) / CHUNK;
        if (n > 0) {
            const float *kept = kept_at(s, t, h, begin);
            for (int64_t j = 0; j < s->columns; j++)
                memcpy(w->states + j * w->width, kept + j * width, sizeof(float) * (size_t)width);
        } else {
            take_state(w, w->states, t->start ? t->start + h->state : NULL);
        }
        w->owed = 1.0;
        for (int64_t g = 0; g < chunks; g++) {
            w->chunks[g].begin = begin + g * CHUNK;
            w->chunks[g].steps = steps - g * CHUNK < CHUNK ? steps - g * CHUNK : CHUNK;
            float *before = w->states + g * w->size;
            advance(w, h, g, before, before + w->size, CHUNK);
        }
        for (int64_t g = chunks - 1; g >= 0; g--) retreat(w, h, g);
    }
    put_state(w, t->grad_start + h->state, w->grad_state);
}

static int scan(int64_t first, int64_t last, const Sizes *s, const Tensors *t, int is_backward) {
    Work w;
    float *memory = prepare(&w, s, t, is_backward);
    if (!memory) return 1;
    for (int64_t unit = first; unit < last; unit++) {
        const Head h = head_of(s, t, unit);
        if (is_backward) {
            backward(&w, &h);
        } else {
            forward(&w, &h);
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
