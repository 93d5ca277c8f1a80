/* Products of small matrices that stay in the cache, real or complex.
 *
 * A matrix is rows of numbers, a complex number two floats side by side (parts is 2, else 1), rows padded to whole
 * vectors. In each product lanes are the right matrix's columns, and of the left one numbers are read one by one,
 * through strides, so that it may be transposed. Of a complex left number both parts are summed apart,
 *
 *   Σ a b = (Σ ar b) + i (Σ ai b),     conjugates: Σ a* b = (Σ ar b) − i (Σ ai b),  Σ a b* = (Σ a* b)*,
 *
 * so that a tile of them is a tile of twice as many real ones, which are joined at its end.
 *
 * Rows come in whole tiles: of TALL / parts numbers.
 */
#if LANES == 16 /* 32 registers */
#define TALL 8
#else
#define TALL 4
#endif
#define WIDE 2

/* A left matrix: number (i, k) is at[i row + k column], in floats. */
typedef struct {
    const float *at;
    int64_t row, column;
    int conjugate;
} Left;

/* A right matrix: its rows, `across` floats apart. */
typedef struct {
    const float *at;
    int64_t across;
    int conjugate;
} Right;

INLINE Left rows_of(int parts, const float *at, int64_t across) {
    return (Left){.at = at, .row = across, .column = parts};
}

INLINE Left adjoint_of(int parts, const float *at, int64_t across) {
    return (Left){.at = at, .row = parts, .column = across, .conjugate = 1};
}

INLINE Right right(const float *at, int64_t across) { return (Right){.at = at, .across = across}; }

INLINE Right conjugate(const float *at, int64_t across) {
    return (Right){.at = at, .across = across, .conjugate = 1};
}

/* A row of whole vectors, from a row that may end within one. */
INLINE void copy(float *to, const float *from, int64_t floats) {
    for (int64_t i = 0; i < floats; i += LANES) store(to + i, load_some(from + i, floats - i));
}

INLINE void scale(float *to, const float *from, float factor, int64_t floats) {
    for (int64_t i = 0; i < floats; i += LANES) store(to + i, load(from + i) * factor);
}

INLINE vec by_turns(float even, float odd) {
    vec v = {0};
    for (int i = 0; i < LANES; i++) v[i] = i % 2 ? odd : even;
    return v;
}

/* The sums of a left matrix's real parts and of its imaginary ones, joined. */
INLINE vec joined(vec real, vec imaginary, int left_conjugate, int right_conjugate) {
    const float left = left_conjugate ? -1.0f : 1.0f, right = right_conjugate ? -1.0f : 1.0f;
    vec turned = SHUFFLE(imaginary, imaginary, ACROSS(1));
    return real * by_turns(1.0f, right) + turned * by_turns(-left * right, left);
}

INLINE void product_tile(float *to, const float *from, const float *factor, const Left *left, const Right *right,
                         int64_t inner, const int parts, const int wide) {
    vec sum[TALL][WIDE];
    EACH(j, TALL) EACH(l, wide) sum[j][l] = all(0);
    const float *a = left->at, *b = right->at;
    for (int64_t k = 0; k < inner; k++, a += left->column, b += right->across) {
        vec b_k[WIDE];
        EACH(l, wide) b_k[l] = load(b + l * LANES);
        EACH(j, TALL) EACH(l, wide) sum[j][l] += a[j / parts * left->row + j % parts] * b_k[l];
    }
    EACH(j, TALL / parts) EACH(l, wide) {
        const int64_t place = j * right->across + l * LANES;
        vec value = sum[j * parts][l];
        if (parts == 2) value = joined(value, sum[j * parts + 1][l], left->conjugate, right->conjugate);
        store(to + place, from ? load(from + place) * factor[j] + value : value);
    }
}

INLINE void products(float *to, const float *from, const float *factor, Left left, Right right, int64_t rows,
                     int64_t inner, const int parts) {
    const int tall = TALL / parts;
    const float *first_left = left.at, *first_right = right.at;
    for (int64_t lane = 0; lane < right.across; lane += WIDE * LANES) {
        right.at = first_right + lane;
        for (int64_t i = 0; i < rows; i += tall) {
            const int64_t place = i * right.across + lane;
            left.at = first_left + i * left.row;
            const float *base = from ? from + place : NULL;
            if (lane + LANES < right.across) {
                product_tile(to + place, base, factor + i, &left, &right, inner, parts, WIDE);
            } else {
                product_tile(to + place, base, factor + i, &left, &right, inner, parts, 1);
            }
        }
    }
}

/* to ← factor from + left right, with a factor by row; from may be to, or NULL for 0. Rows are right's long. */
static __attribute__((noinline)) void product(int parts, float *to, const float *from, const float *factor,
                                              Left left, Right right, int64_t rows, int64_t inner) {
    if (parts == 2) {
        products(to, from, factor, left, right, rows, inner, 2);
    } else {
        products(to, from, factor, left, right, rows, inner, 1);
    }
}

/* Row i of x loses Σ_{j<i} left_ij of the rows before it. */
INLINE void solve_lanes(float *x, int64_t across, const Left *left, int64_t rows, const int parts, const int wide) {
    for (int64_t i = 1; i < rows; i++) {
        vec sum[2][4];
        EACH(part, parts) EACH(l, wide) sum[part][l] = all(0);
        const float *a = left->at + i * left->row;
        float *b = x;
        for (int64_t j = 0; j < i; j++, a += left->column, b += across)
            EACH(part, parts) EACH(l, wide) sum[part][l] += a[part] * load(b + l * LANES);
        EACH(l, wide) {
            vec value = sum[0][l];
            if (parts == 2) value = joined(value, sum[1][l], left->conjugate, 0);
            store(b + l * LANES, load(b + l * LANES) - value);
        }
    }
}

INLINE void solve_by_lanes(float *x, int64_t across, int64_t floats, const Left *left, int64_t rows, const int parts) {
    int64_t lane = 0;
    for (; lane + 4 * LANES <= floats; lane += 4 * LANES) solve_lanes(x + lane, across, left, rows, parts, 4);
    for (; lane + 2 * LANES <= floats; lane += 2 * LANES) solve_lanes(x + lane, across, left, rows, parts, 2);
    for (; lane < floats; lane += LANES) solve_lanes(x + lane, across, left, rows, parts, 1);
}

/* x ← (1 + left)⁻¹ x for a strictly lower left: what is elsewhere is not read. x's rows of `floats` are `across`
 * apart; from the last to the first, with left's numbers backward as well, an upper one is as good. */
static __attribute__((noinline, unused)) void solve(int parts, float *x, int64_t across, int64_t floats, Left left,
                                                    int64_t rows) {
    if (parts == 2) {
        solve_by_lanes(x, across, floats, &left, rows, 2);
    } else {
        solve_by_lanes(x, across, floats, &left, rows, 1);
    }
}

/* LANES rows of as many real numbers. Each round puts two rows' numbers by turns; after as many rounds as bits
 * number the lanes, rows are columns. */
INLINE void transpose_tile(float *to, int64_t to_across, const float *from, int64_t from_across) {
    vec rows[LANES], mixed[LANES];
    for (int i = 0; i < LANES; i++) rows[i] = load(from + i * from_across);
    for (int round = 1; round < LANES; round *= 2) {
        EACH(i, LANES / 2) {
            mixed[2 * i] = SHUFFLE(rows[i], rows[i + LANES / 2], LOW);
            mixed[2 * i + 1] = SHUFFLE(rows[i], rows[i + LANES / 2], HIGH);
        }
        for (int i = 0; i < LANES; i++) rows[i] = mixed[i];
    }
    for (int i = 0; i < LANES; i++) store(to + i * to_across, rows[i]);
}

/* to [columns, rows] ← from [rows, columns]ᵀ; no padding is read or written. */
static void transpose(int parts, float *to, int64_t to_across, const float *from, int64_t from_across, int64_t rows,
                      int64_t columns) {
    const int64_t whole_rows = parts == 1 ? rows / LANES * LANES : 0, whole = columns / LANES * LANES;
    for (int64_t i = 0; i < whole_rows; i += LANES)
        for (int64_t j = 0; j < whole; j += LANES)
            transpose_tile(to + j * to_across + i, to_across, from + i * from_across + j, from_across);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = i < whole_rows ? whole : 0; j < columns; j++)
            for (int part = 0; part < parts; part++)
                to[j * to_across + i * parts + part] = from[i * from_across + j * parts + part];
}
