/* Units of a scan's work, as native kernels of time loops cut it: one sequence and some vectors of channels.
 *
 * Needs Sizes with rows, length, width and vectors (at most VECTORS), and Tensors with offsets (NULL: every row
 * has the whole length). The more vectors, the longer the stretches of memory that are read and written; the
 * fewer, the more threads have something to do. Lanes do not meet, so that it changes no bit.
 */

#define VECTORS 32

typedef struct {
    int64_t row;            /* the sequence, of those that have a state */
    int64_t place;          /* where it is in memory: its index there, and its steps begin … end - 1 */
    int64_t begin, end;
    int64_t channel, count; /* its first channel, and how many */
} Unit;

/* Sequences run fastest, so that any share of the units is as much work. */
INLINE Unit unit_of(const Sizes *s, const Tensors *t, int64_t number) {
    Unit u = {.row = number % s->rows, .end = s->length};
    u.channel = number / s->rows * s->vectors * LANES;
    u.count = s->width - u.channel;
    if (u.count > s->vectors * LANES) u.count = s->vectors * LANES;
    if (t->offsets) {
        u.begin = t->offsets[u.row];
        u.end = t->offsets[u.row + 1];
    } else {
        u.place = u.row;
    }
    return u;
}

INLINE int vectors_of(const Unit *u) { return (int)((u->count + LANES - 1) / LANES); }
