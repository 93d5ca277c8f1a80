/* What native_delta.c works on: the op's tensors, a chunk's tokens and factors, a thread's matrices. */
#include "native_math.h"
#include "native_matrices.h"

#define CHUNK 16
#define SEGMENT 256 /* native_delta.py's _SEGMENT */
#define LARGEST 256 /* K */
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
    float between[CHUNK][2 * CHUNK]; /* G, a factor for each of a number's parts */
    float since[2 * CHUNK];          /* e^s, twice */
    float late[CHUNK];               /* e^{s_end − s} */
    float beta[CHUNK];
    float whole[LARGEST];            /* e^{s_end}, for each row of a state */
} Chunk;

/* A thread's matrices, as rows of whole vectors; V and K stand for as many numbers, padded with zeros. */
typedef struct {
    const Sizes *sizes;
    const Tensors *tensors;
    int parts;
    int64_t columns, width, steps;        /* floats of a row of K, V and CHUNK numbers */
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

/* A unit's place. */
typedef struct {
    int64_t row, head, place, begin, end;
    int64_t state; /* where its states are, in floats */
} Head;

INLINE Head head_of(const Sizes *s, const Tensors *t, int64_t unit) {
    Head h = {.row = unit / s->heads, .head = unit % s->heads, .end = s->length};
    if (t->offsets) {
        h.begin = t->offsets[h.row];
        h.end = t->offsets[h.row + 1];
    } else {
        h.place = h.row;
    }
    h.state = unit * s->width * s->columns * (1 + s->is_complex);
    return h;
}

INLINE int64_t at(const Strides *strides, const Head *h, int64_t time) {
    return h->place * strides->batch + time * strides->time + h->head * strides->head;
}

/* Where a token's number stands in what is by token and head alone. */
INLINE int64_t token(const Sizes *s, const Head *h, int64_t time) {
    return (h->place * s->length + time) * s->heads + h->head;
}

/* Where the state before a segment that is not the first is kept. No two sequences' segments overlap. */
static float *kept_at(const Sizes *s, const Tensors *t, const Head *h, int64_t time) {
    const int64_t first = t->offsets ? h->begin / SEGMENT : h->row * (s->length / SEGMENT);
    const int64_t segment = first + (time - h->begin) / SEGMENT - 1;
    return t->kept + (segment * s->heads + h->head) * s->columns * s->width * (1 + s->is_complex);
}

/* A chunk's tokens as rows of whole vectors. */
static void take(float *to, int64_t across, const float *from, const Strides *strides, const Head *h,
                 const Chunk *c, int64_t floats) {
    for (int64_t n = 0; n < c->steps; n++)
        copy(to + n * across, from + at(strides, h, c->begin + n), floats);
    memset(to + c->steps * across, 0, sizeof(float) * (size_t)((CHUNK - c->steps) * across));
}

static void take_factors(Work *w, const Head *h, Chunk *c) {
    const Sizes *s = w->sizes;
    const Tensors *t = w->tensors;
    double between[CHUNK] = {0}, since = 1.0;
    for (int64_t i = 0; i < CHUNK; i++) {
        const int64_t time = c->begin + i;
        const int real = i < c->steps;
        const double gamma = real && t->decay ? t->decay[at(&s->decay, h, time)] : 1.0;
        since *= gamma;
        for (int64_t j = 0; j < CHUNK; j++) between[j] *= gamma;
        between[i] = 1.0;
        for (int64_t j = 0; j < CHUNK; j++) c->late[j] = (float)between[j];
        if (w->parts == 1) memcpy(c->between[i], c->late, sizeof c->late);
        for (int64_t j = 0; w->parts == 2 && j < CHUNK; j++)
            c->between[i][2 * j] = c->between[i][2 * j + 1] = c->late[j];
        c->since[i] = c->since[CHUNK + i] = (float)since;
        c->beta[i] = real && t->beta ? t->beta[at(&s->beta, h, time)] : 1.0f;
    }
    /* Rounded so that the product over many chunks is γ's. */
    const double wanted = since * w->owed;
    const float whole = (float)wanted;
    w->owed = whole > 0 ? wanted / whole : 1.0;
    for (int64_t j = 0; j < w->rows; j++) c->whole[j] = whole;
}

/* Rows times G; the first CHUNK of them, K's, strictly lower. */
static void mask(const Work *w, float *overlaps, const Chunk *c) {
    for (int64_t i = 0; i < 2 * CHUNK; i++) {
        const int64_t n = i % CHUNK;
        float *row = overlaps + i * w->steps;
        for (int64_t l = 0; l < w->steps; l += LANES) store(row + l, load(row + l) * load(c->between[n] + l));
        for (int64_t part = 0; i < CHUNK && part < w->parts; part++) row[n * w->parts + part] = 0;
    }
}

/* A thread's matrices: their memory, which is the caller's to free, or NULL. */
static float *prepare(Work *w, const Sizes *s, const Tensors *t, int is_backward) {
    w->sizes = s;
    w->tensors = t;
    w->parts = 1 + s->is_complex;
    w->columns = padded(w->parts * s->columns, LANES);
    w->width = padded(w->parts * s->width, LANES);
    w->steps = w->parts * CHUNK;
    w->rows = w->columns / w->parts;
    w->size = w->rows * w->width;
    const int64_t chunks = is_backward ? CHUNKS : 1, across = w->width / w->parts;
    const struct {
        float **matrix;
        int64_t floats;
    } wanted[] = {
        {&w->states, (is_backward ? CHUNKS + 1 : 1) * w->size},
        {&w->written, chunks * CHUNK * w->width},
        {&w->overlaps, chunks * 2 * CHUNK * w->steps},
        {&w->tokens, 2 * CHUNK * w->columns},
        {&w->keys, w->rows * w->steps},
        {&w->read, 2 * CHUNK * w->width},
        {&w->grads, 2 * CHUNK * w->width},
        {&w->grad_state, is_backward * w->size},
        {&w->turned, is_backward * across * w->columns},
        {&w->turned_written, is_backward * across * w->steps},
        {&w->grad_overlaps, is_backward * 2 * CHUNK * w->steps},
        {&w->grad_tokens, is_backward * 2 * CHUNK * w->columns},
        {&w->grad_keys, is_backward * CHUNK * w->columns},
    };
    const int count = sizeof wanted / sizeof *wanted;
    int64_t floats = 0;
    for (int i = 0; i < count; i++) floats += wanted[i].floats;
    float *memory = aligned_alloc(64, (size_t)padded(sizeof(float) * floats, 64));
    if (!memory) return NULL;
    memset(memory, 0, sizeof(float) * (size_t)floats); /* which the padding stays */
    float *next = memory;
    for (int i = 0; i < count; next += wanted[i++].floats) *wanted[i].matrix = next;
    return memory;
}
