/* gravity_field: tiles of pairs and the products around them, as blocked.py has them, of which no tile leaves the
 * cache and none that the past does not reach is computed.
 *
 * A unit is one sequence's points in every `shards`-th block of POINTS, against the sources in blocks of SOURCES.
 * Lanes of a tile are sources. Near pairs are found once a tile and formed one by one where they are found.
 *
 * What sums over points (the gradients to sources and masses) is written a shard each and added outside: how many
 * shards there are hangs on the batch alone, not on threads.
 */
#include "native_math.h"
#include "native_matrices.h"

#define POINTS 32
#define SOURCES 64
#define FAR 3e38f /* ρ^{-3/2} is 0 */

typedef struct {
    int64_t rows, shards, length, count, width;
    int64_t causal, before, window; /* point i stands `before` tokens after the first source */
    int64_t backward, for_points, for_sources;
} Sizes;

typedef struct {
    const float *x, *source, *mass; /* [B, T, D], [B, S, D], [B, S] or NULL for ones */
    const double *numbers;          /* strength, softening, NEAR */
    const float *grad;              /* [B, T, D], of the backward */
    float *y;                       /* [B, T, D]: forces, or the gradients to points */
    float *at_sources;              /* [shards, B, S, D]: Σ_i w G + c x */
    float *c_sums, *work;           /* [shards, B, S]: Σ_i c, Σ_i 3 w a */
} Tensors;

/* A thread's matrices, rows padded with zeros to whole vectors, points and sources to whole blocks. */
typedef struct {
    const Sizes *sizes;
    const Tensors *tensors;
    int64_t row, across;               /* the sequence; floats of a row of D numbers */
    float strength, softening, near;   /* softening squared */
    float *columns;                    /* [blocks, D, SOURCES]: each block's sources as columns */
    float *weighed, *mass, *norms;     /* [S, D]: m s; [S]; [S]: |s|² */
    float *points, *grads;             /* [POINTS, D], one below the other: x and G */
    float *c, *weights;                /* [POINTS, SOURCES], one below the other; ρ stands where c will */
    float *total;                      /* [POINTS, D]: Σ_j w m s, or Σ_j c m s */
    float *at_sources, *c_sums, *work; /* [S, D], [S], [S] */
    vec pull[POINTS], c_masses[POINTS]; /* Σ_j w m and Σ_j c m, lane by lane */
    float point_norms[POINTS], along[POINTS], ones[SOURCES]; /* |x|², G·x */
} Work;

/* A near pair by its difference d: q = w G − c d and 3 w a for the backward. */
static void one_by_one(Work *w, int64_t i, int64_t j) {
    const Sizes *s = w->sizes;
    const Tensors *t = w->tensors;
    const float *source = t->source + (w->row * s->count + j) * s->width;
    const float *x = w->points + i * w->across, *g = w->grads + i * w->across;
    float *total = w->total + i * w->across, *at_source = w->at_sources + j * w->across;
    vec squares = all(0), products = all(0);
    for (int64_t l = 0; l < w->across; l += LANES) {
        vec d = load_some(source + l, s->width - l) - load(x + l);
        squares += d * d;
        if (s->backward) products += d * load(g + l);
    }
    const float rho = sum_lanes(squares) + w->softening, weight = 1.0f / (rho * sqrtf(rho));
    const float wa = 3.0f * weight * sum_lanes(products), mass = w->mass[j];
    for (int64_t l = 0; l < w->across; l += LANES) {
        vec d = load_some(source + l, s->width - l) - load(x + l);
        if (s->backward) {
            vec q = load(g + l) * weight - d * (wa / rho);
            store(total + l, load(total + l) - q * mass);
            store(at_source + l, load(at_source + l) + q);
        } else {
            store(total + l, load(total + l) + d * (weight * mass));
        }
    }
    if (s->backward) w->work[j] += wa;
}

/* ρ of a tile, FAR where there is no pair; near ones are dealt with, and FAR after it. */
static void distances(Work *w, int64_t first, int64_t source) {
    const Sizes *s = w->sizes;
    product(1, w->c, NULL, NULL, rows_of(1, w->points, w->across), right(w->columns + source * s->width, SOURCES),
            POINTS, s->width);
    const int64_t nearest = first + s->before - (source + SOURCES - 1);
    const int64_t farthest = first + POINTS - 1 + s->before - source;
    const int edge = (nearest <= 0 && (s->causal || farthest >= 0)) || farthest > s->window || -nearest > s->window;
    const int32_t window = s->window < INT32_MAX ? (int32_t)s->window : INT32_MAX;
    ivec lane = {0}, near = {0};
    for (int i = 0; i < LANES; i++) lane[i] = i;
    for (int64_t i = 0; i < POINTS; i++)
        for (int64_t l = 0; l < SOURCES; l += LANES) {
            float *place = w->c + i * SOURCES + l;
            vec norms = w->point_norms[i] + load(w->norms + source + l);
            vec rho = at_most(at_least((norms - 2.0f * load(place)) + w->softening, w->softening), FAR);
            if (edge) {
                ivec ago = (int32_t)(first + i + s->before - source - l) - lane;
                ivec absent = (s->causal ? ago <= 0 : ago == 0) | (ago > window) | (-ago > window);
                rho = select(absent, all(FAR), rho);
            }
            near |= rho < w->near * norms;
            store(place, rho);
        }
    int any = 0;
    for (int i = 0; i < LANES; i++) any |= near[i];
    for (int64_t i = 0; any && i < POINTS; i++)
        for (int64_t j = 0; j < SOURCES; j++) {
            float *rho = w->c + i * SOURCES + j;
            if (*rho >= w->near * (w->point_norms[i] + w->norms[source + j])) continue;
            one_by_one(w, i, source + j);
            *rho = FAR;
        }
}

static void pull(Work *w, int64_t source) {
    for (int64_t i = 0; i < POINTS; i++)
        for (int64_t l = 0; l < SOURCES; l += LANES) {
            vec root = inverse_root_of(load(w->c + i * SOURCES + l)), weight = root * root * root;
            store(w->weights + i * SOURCES + l, weight);
            w->pull[i] += weight * load(w->mass + source + l);
        }
    product(1, w->total, w->total, w->ones, rows_of(1, w->weights, SOURCES),
            right(w->weighed + source * w->across, w->across), POINTS, SOURCES);
}

/* The adjoint stands in blocked.py. */
static void pull_back(Work *w, int64_t source) {
    const Sizes *s = w->sizes;
    /* G·s, where the weights will be. */
    product(1, w->weights, NULL, NULL, rows_of(1, w->grads, w->across),
            right(w->columns + source * s->width, SOURCES), POINTS, s->width);
    for (int64_t l = 0; l < SOURCES; l += LANES) {
        vec mass = load(w->mass + source + l), work = all(0), c_sum = all(0);
        for (int64_t i = 0; i < POINTS; i++) {
            float *c_place = w->c + i * SOURCES + l, *place = w->weights + i * SOURCES + l;
            vec root = inverse_root_of(load(c_place)), square = root * root, weight = root * square;
            vec wa = 3.0f * (load(place) - w->along[i]) * weight, c = wa * square;
            work += wa;
            c_sum += c;
            store(c_place, c);
            store(place, weight);
            w->pull[i] += weight * mass;
            w->c_masses[i] += c * mass;
        }
        store(w->work + source + l, load(w->work + source + l) + work);
        store(w->c_sums + source + l, load(w->c_sums + source + l) + c_sum);
    }
    if (s->for_points)
        product(1, w->total, w->total, w->ones, rows_of(1, w->c, SOURCES),
                right(w->weighed + source * w->across, w->across), POINTS, SOURCES);
    float *at_sources = w->at_sources + source * w->across;
    if (s->for_sources)
        product(1, at_sources, at_sources, w->ones, (Left){.at = w->c, .row = 1, .column = SOURCES},
                right(w->points, w->across), SOURCES, 2 * POINTS);
}

/* A sequence's sources, in all the ways they are read. */
static void take_sources(Work *w) {
    const Sizes *s = w->sizes;
    const Tensors *t = w->tensors;
    for (int64_t j = 0; j < s->count; j++) {
        const float *row = t->source + (w->row * s->count + j) * s->width;
        w->mass[j] = t->mass ? t->mass[w->row * s->count + j] : 1.0f;
        w->norms[j] = inner(row, row, s->width);
        float *weighed = w->weighed + j * w->across;
        copy(weighed, row, s->width);
        scale(weighed, weighed, w->mass[j], w->across);
    }
    for (int64_t j = 0; j < s->count; j += SOURCES)
        transpose(1, w->columns + j * s->width, SOURCES, t->source + (w->row * s->count + j) * s->width, s->width,
                  s->count - j < SOURCES ? s->count - j : SOURCES, s->width);
}

static void take_points(Work *w, int64_t first, int64_t steps) {
    const Sizes *s = w->sizes;
    const Tensors *t = w->tensors;
    memset(w->points, 0, sizeof(float) * (size_t)(2 * POINTS * w->across));
    memset(w->total, 0, sizeof(float) * (size_t)(POINTS * w->across));
    for (int64_t i = 0; i < POINTS; i++) {
        float *x = w->points + i * w->across, *g = w->grads + i * w->across;
        const int64_t place = (w->row * s->length + first + i) * s->width;
        if (i < steps) copy(x, t->x + place, s->width);
        if (i < steps && s->backward) copy(g, t->grad + place, s->width);
        w->point_norms[i] = inner(x, x, w->across);
        w->along[i] = inner(g, x, w->across);
        w->pull[i] = w->c_masses[i] = all(0);
    }
}

static void put_points(const Work *w, int64_t first, int64_t steps) {
    const Sizes *s = w->sizes;
    for (int64_t i = 0; i < steps; i++) {
        const float pull = sum_lanes(w->pull[i]), c_mass = sum_lanes(w->c_masses[i]);
        float *y = w->tensors->y + (w->row * s->length + first + i) * s->width;
        for (int64_t l = 0; l < s->width; l += LANES) {
            const int64_t place = i * w->across + l;
            vec x = load(w->points + place), sum = load(w->total + place);
            sum -= s->backward ? x * c_mass + load(w->grads + place) * pull : x * pull;
            store_some(y + l, sum * w->strength, s->width - l);
        }
    }
}

static void go(Work *w, int64_t shard) {
    const Sizes *s = w->sizes;
    const Tensors *t = w->tensors;
    take_sources(w);
    const int64_t padded_count = padded(s->count, SOURCES);
    if (s->backward) memset(w->at_sources, 0, sizeof(float) * (size_t)(padded_count * (w->across + 2)));
    for (int64_t first = shard * POINTS; first < s->length; first += s->shards * POINTS) {
        const int64_t end = first + POINTS < s->length ? first + POINTS : s->length;
        const int64_t low = first + s->before - s->window;
        const int64_t high = end + s->before + (s->causal ? -1 : s->window);
        take_points(w, first, end - first);
        for (int64_t j = low > 0 ? low / SOURCES * SOURCES : 0; j < s->count && j < high; j += SOURCES) {
            distances(w, first, j);
            if (s->backward) {
                pull_back(w, j);
            } else {
                pull(w, j);
            }
        }
        if (s->for_points) put_points(w, first, end - first);
    }
    for (int64_t j = 0; s->backward && j < s->count; j++) {
        const int64_t place = (shard * s->rows + w->row) * s->count + j;
        t->c_sums[place] = w->c_sums[j];
        t->work[place] = w->work[j];
        for (int64_t l = 0; s->for_sources && l < s->width; l += LANES)
            store_some(t->at_sources + place * s->width + l, load(w->at_sources + j * w->across + l), s->width - l);
    }
}

int gravity_field(int64_t first, int64_t last, const Sizes *s, const Tensors *t) {
    const int64_t across = padded(s->width, LANES), count = padded(s->count, SOURCES);
    const int64_t floats = count * (s->width + 2 * across + 4) + POINTS * (3 * across + 2 * SOURCES);
    float *memory = aligned_alloc(64, (size_t)padded((int64_t)sizeof(Work) + 4 * floats, 64));
    if (!memory) return 1;
    Work *w = (Work *)memory;
    *w = (Work){
        .sizes = s, .tensors = t, .across = across,
        .strength = (float)t->numbers[0], .softening = (float)(t->numbers[1] * t->numbers[1]),
        .near = (float)t->numbers[2],
    };
    for (int i = 0; i < SOURCES; i++) w->ones[i] = 1.0f;
    w->points = memory + sizeof(Work) / sizeof(float);
    w->grads = w->points + POINTS * across;
    w->total = w->grads + POINTS * across;
    w->c = w->total + POINTS * across;
    w->weights = w->c + POINTS * SOURCES;
    w->columns = w->weights + POINTS * SOURCES;
    w->weighed = w->columns + count * s->width;
    w->at_sources = w->weighed + count * across;
    w->c_sums = w->at_sources + count * across;
    w->work = w->c_sums + count;
    w->mass = w->work + count;
    w->norms = w->mass + count;
    memset(w->points, 0, sizeof(float) * (size_t)floats); /* which the padding stays */
    for (int64_t unit = first; unit < last; unit++) {
        w->row = unit / s->shards;
        go(w, unit % s->shards);
    }
    free(memory);
    return 0;
}
