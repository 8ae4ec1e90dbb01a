/* Loops of lfq_cli that take numpy several passes, as functions over buffers. _compiled.pyi describes them.
 *
 * Built if there is a C compiler (setup.py); without one lfq_cli uses the numpy code that these functions are tested
 * against. The sizes of all arguments are checked here, since a wrong one would read or write outside a buffer.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define X86 1
#include <cpuid.h>
#include <immintrin.h>
#else
#define X86 0
#endif

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "little-endian machines only"
#endif

enum { VERSION = 2 };            /* of the interface to Python; kernels/__init__.py expects this number */
enum { TILE = 256 };             /* positions or fields at a time: intermediate results stay in the L1 cache */
enum { MOST_CHANNELS = 512 };    /* of a channel-first block */
enum { MOST_LEVELS = 64, RESIDUAL_VALUES = 2048 };
enum { PLANE = RESIDUAL_VALUES + 64 }; /* bytes: one for each value, and what is read with the last ones */
enum { SMALL = 1 << 14 };        /* values: below this, releasing the interpreter lock is not worth it */

enum format { F32, F16, BF16 };

/* [outer, channels, inner] */
struct block {
    size_t outer, channels, inner;
};

/* Field k of a stream is the `width` bits that begin at bit first + k * stride. */
struct fields {
    const uint8_t *stream;
    size_t size; /* readable bytes */
    uint64_t first, stride;
    unsigned width;
    int lsb; /* whether a field's first bit is the least significant */
};

struct kernels {
    int (*signs)(const struct block *, const void *x, int itemsize, uint32_t largest, uint8_t *out);
    int (*residual)(const struct block *, const void *x, enum format, size_t depth, size_t levels, uint8_t *out);
    void (*unpack)(const struct fields *, size_t count, void *out, int itemsize, size_t step);
    void (*count)(const struct fields *, size_t count, void *table, int itemsize, uint32_t least, uint32_t number);
    void (*decode)(const struct block *, struct fields, void *out, int itemsize, const void *minus, const void *plus);
};

static inline uint64_t load_be64(const uint8_t *at)
{
    uint64_t word;
    memcpy(&word, at, 8);
    return __builtin_bswap64(word);
}

static inline void store_be64(uint8_t *at, uint64_t word)
{
    word = __builtin_bswap64(word);
    memcpy(at, &word, 8);
}

static inline void store_le64(uint8_t *at, uint64_t word)
{
    memcpy(at, &word, 8);
}

/* Reverses the bits of every byte. */
static inline uint64_t reversed_in_bytes(uint64_t w)
{
    w = (w >> 1 & 0x5555555555555555u) | (w & 0x5555555555555555u) << 1;
    w = (w >> 2 & 0x3333333333333333u) | (w & 0x3333333333333333u) << 2;
    return (w >> 4 & 0x0F0F0F0F0F0F0F0Fu) | (w & 0x0F0F0F0F0F0F0F0Fu) << 4;
}

static inline uint64_t reversed(uint64_t w)
{
    return __builtin_bswap64(reversed_in_bytes(w));
}

/* 64 bytes of 0 or 1 -> a word; bit k is byte k */
static inline uint64_t word_of(const uint8_t *bools)
{
    uint64_t word = 0;
    for (int k = 0; k < 8; k++) {
        uint64_t eight;
        memcpy(&eight, bools + 8 * k, 8);
        word |= (eight * 0x0102040810204080u >> 56) << 8 * k; /* byte j of eight goes to bit 56 + j */
    }
    return word;
}

/* Writes fields one after the other. Each `put` writes 8 bytes; those beyond the end so far are overwritten later. */
struct writer {
    uint8_t *out;
    uint64_t last; /* the bits written last, the very last one lowest */
    size_t count;  /* of bits written */
};

/* value: below 2^width, width at most 57 */
static inline void put(struct writer *to, uint64_t value, unsigned width)
{
    to->last = to->last << width | value;
    store_be64(to->out + to->count / 8, to->last << (64 - width - to->count % 8));
    to->count += width;
}

/* Puts `count` bits of a stream at bit `position` of `out`, whose first byte there may already have bits. */
static void put_at(uint8_t *out, uint64_t position, const uint8_t *stream, size_t count)
{
    const unsigned skip = position % 8;
    out += position / 8;
    if (!count)
        return;
    if (!skip) {
        memcpy(out, stream, (count + 7) / 8);
        return;
    }
    const size_t size = (count + 7) / 8, all = (skip + count + 7) / 8;
    out[0] |= stream[0] >> skip;
    for (size_t k = 1; k < size; k++)
        out[k] = (uint8_t)(stream[k - 1] << (8 - skip) | stream[k] >> skip);
    if (all > size)
        out[size] = (uint8_t)(stream[size - 1] << (8 - skip));
}

static uint64_t read_field(const struct fields *f, size_t k)
{
    const uint64_t bit = f->first + k * f->stride;
    const size_t at = bit / 8;
    const unsigned skip = bit % 8;
    uint8_t near[9] = {0}; /* for the last fields: nothing beyond the stream is read */
    const uint8_t *from = f->stream + at;
    if (at + 9 > f->size) {
        memcpy(near, from, f->size - at);
        from = near;
    }
    uint64_t word = load_be64(from) << skip;
    if (skip)
        word |= from[8] >> (8 - skip);
    return f->lsb ? reversed(word) & (uint64_t)-1 >> (64 - f->width) : word >> (64 - f->width);
}

/* The float32 pattern of a float16: exact, however the processor treats subnormals. */
static inline uint32_t pattern_of_half(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = (uint32_t)(half & 0x7FFF) << 13;
    const uint32_t exponent = rest & 0x0F800000;
    uint32_t pattern = rest + 0x38000000; /* 112 << 23: the difference of the biases */
    if (exponent == 0x0F800000)
        pattern += 0x38000000; /* infinity and NaN */
    if (exponent == 0) {
        const uint32_t hidden = 0x38800000; /* 2^-14, subtracted again */
        float value, offset;
        pattern = rest | hidden;
        memcpy(&value, &pattern, 4);
        memcpy(&offset, &hidden, 4);
        value -= offset;
        memcpy(&pattern, &value, 4);
    }
    return pattern | sign;
}

static inline __attribute__((always_inline)) uint32_t pattern_of(const void *x, enum format format, size_t k)
{
    return format == F32    ? ((const uint32_t *)x)[k]
           : format == BF16 ? (uint32_t)((const uint16_t *)x)[k] << 16
                            : pattern_of_half(((const uint16_t *)x)[k]);
}

/* The bits of a value (a float32 pattern) at all residual levels: bit 31 is that of level 0, bit 0 that of level 31 and of
 * every further one.
 *
 * Level q takes the sign of the residual and subtracts its code, +-2^-q. Only the first subtraction rounds: its result is
 * a multiple of 2^-24, or beyond +-1, from where every further bit is the same. So those bits are the digits of one number
 * (lfq_cli/numerics.py). One is subtracted from it since the bit of a residual of 0 is 0. NaN has the bits of the lowest
 * value. */
static inline uint32_t digits_of(uint32_t pattern)
{
    float x;
    memcpy(&x, &pattern, sizeof x);
    float rest = x - (x > 0 ? 1.0f : -1.0f);
    rest = rest > -1 ? rest : -1;
    rest = rest < 1 ? rest : 1;
    const int32_t left = (int32_t)(rest * 0x1p30f) + (1 << 30) - 1; /* -1 to 2^31 - 1 */
    return (uint32_t)(x > 0) << 31 | (uint32_t)(left > 0 ? left : 0);
}

/* Bit j of byte i -> bit i of byte j. Source: Hacker's Delight, section 7-3. */
static inline uint64_t transposed(uint64_t w)
{
    uint64_t t = (w ^ w >> 7) & 0x00AA00AA00AA00AA;
    w ^= t ^ t << 7;
    t = (w ^ w >> 14) & 0x0000CCCC0000CCCC;
    w ^= t ^ t << 14;
    t = (w ^ w >> 28) & 0x00000000F0F0F0F0;
    return w ^ t ^ t << 28;
}

#define LEVEL 0
#define NAME(name) name##_portable
#include "body.h"
#undef LEVEL
#undef NAME

#if X86
#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,lzcnt,popcnt,f16c,fma")
#define LEVEL 2
#define NAME(name) name##_avx2
#include "body.h"
#undef LEVEL
#undef NAME
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,lzcnt,popcnt,f16c,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512cd")
#define LEVEL 4
#define NAME(name) name##_avx512
#include "body.h"
#undef LEVEL
#undef NAME
#pragma GCC pop_options
#endif

static const struct {
    const char *name;
    const struct kernels *kernels;
} sets[] = {
#if X86
    {"avx512", &kernels_avx512},
    {"avx2", &kernels_avx2},
#endif
    {"portable", &kernels_portable},
};

static const struct kernels *chosen = &kernels_portable;

#if X86
/* gcc before version 11 does not know the name for __builtin_cpu_supports */
static int has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

static int is_supported(const char *name)
{
#if X86
    if (!strcmp(name, "avx512"))
        return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")
               && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd")
               && __builtin_cpu_supports("bmi2");
    if (!strcmp(name, "avx2"))
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("fma")
               && has_f16c();
#endif
    return !strcmp(name, "portable");
}

/* arguments */

static PyObject *refuse(const char *what)
{
    PyErr_SetString(PyExc_ValueError, what);
    return NULL;
}

/* Sizes are products of the caller's numbers; an overflow is an error, like a size that does not fit. */
static int product(size_t *out, size_t a, size_t b)
{
    return !__builtin_mul_overflow(a, b, out);
}

static int values_of(const struct block *b, size_t *out)
{
    return b->channels > 0 && b->inner > 0 && product(out, b->outer, b->channels) && product(out, *out, b->inner);
}

static int fits(const Py_buffer *buffer, size_t count, size_t itemsize)
{
    size_t size;
    return product(&size, count, itemsize) && size == (size_t)buffer->len && (uintptr_t)buffer->buf % itemsize == 0;
}

/* Whether `count` fields are inside the stream. */
static int are_inside(const struct fields *f, size_t count)
{
    uint64_t end;
    return f->width >= 1 && f->width <= 64 && (count == 0 || (!__builtin_mul_overflow(f->stride, count - 1, &end)
           && !__builtin_add_overflow(end, f->first, &end) && !__builtin_add_overflow(end, f->width, &end)
           && end <= 8 * (uint64_t)f->size)) && f->stride >= 1 && f->stride < 1 << 24;
}

#define WORK(values, statement)                                                      \
    do {                                                                             \
        PyThreadState *state = (values) > SMALL ? PyEval_SaveThread() : NULL;        \
        statement;                                                                   \
        if (state)                                                                   \
            PyEval_RestoreThread(state);                                             \
    } while (0)

static PyObject *py_signs(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer raw, out;
    struct block b;
    unsigned int largest;
    int itemsize, nan = 0;
    size_t values = 0;
    if (!PyArg_ParseTuple(args, "y*iInnnw*", &raw, &itemsize, &largest, &b.outer, &b.channels, &b.inner, &out))
        return NULL;
    const int right = (itemsize == 2 || itemsize == 4) && values_of(&b, &values) && fits(&raw, values, (size_t)itemsize)
                      && (size_t)out.len == (values + 7) / 8 && (b.inner == 1 || b.channels <= MOST_CHANNELS);
    if (right)
        WORK(values, nan = chosen->signs(&b, raw.buf, itemsize, largest, out.buf));
    PyBuffer_Release(&raw);
    PyBuffer_Release(&out);
    return right ? PyBool_FromLong(nan) : refuse("signs: sizes do not match");
}

static PyObject *py_residual(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer raw, out;
    struct block b;
    int format, nan = 0;
    size_t depth, levels, values = 0, bits = 0;
    if (!PyArg_ParseTuple(args, "y*innnnnw*", &raw, &format, &b.outer, &b.channels, &b.inner, &depth, &levels, &out))
        return NULL;
    const int right = format >= F32 && format <= BF16 && values_of(&b, &values) && fits(&raw, values, format ? 2 : 4)
                      && b.channels <= MOST_CHANNELS / 2 && depth >= 1 && depth <= 57 && b.channels % depth == 0
                      && levels >= 1 && levels <= MOST_LEVELS && product(&bits, values, levels)
                      && (size_t)out.len == (bits + 7) / 8;
    if (right)
        WORK(values, nan = chosen->residual(&b, raw.buf, (enum format)format, depth, levels, out.buf));
    PyBuffer_Release(&raw);
    PyBuffer_Release(&out);
    return right ? PyBool_FromLong(nan) : refuse("residual: sizes do not match");
}

static PyObject *py_unpack(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer stream, out;
    struct fields f;
    size_t count, column, columns, items = 0;
    int itemsize;
    if (!PyArg_ParseTuple(args, "y*KKIpnw*inn", &stream, &f.first, &f.stride, &f.width, &f.lsb, &count, &out, &itemsize,
                          &column, &columns))
        return NULL;
    f.stream = stream.buf;
    f.size = (size_t)stream.len;
    const int right = are_inside(&f, count) && column < columns && product(&items, count, columns)
                      && (itemsize == 1 || itemsize == 2 || itemsize == 4 || itemsize == 8)
                      && f.width <= 8 * (unsigned)itemsize && fits(&out, items, (size_t)itemsize);
    if (right)
        WORK(count, chosen->unpack(&f, count, (char *)out.buf + column * (size_t)itemsize, itemsize, columns));
    PyBuffer_Release(&stream);
    PyBuffer_Release(&out);
    if (!right)
        return refuse("unpack: sizes do not match");
    Py_RETURN_NONE;
}

static PyObject *py_count(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer stream, table;
    struct fields f;
    size_t count;
    unsigned int least, number;
    int itemsize;
    if (!PyArg_ParseTuple(args, "y*KKIpnw*iII", &stream, &f.first, &f.stride, &f.width, &f.lsb, &count, &table, &itemsize,
                          &least, &number))
        return NULL;
    f.stream = stream.buf;
    f.size = (size_t)stream.len;
    const int right = are_inside(&f, count) && f.width <= 25 && (itemsize == 4 || itemsize == 8)
                      && fits(&table, (size_t)1 << f.width, (size_t)itemsize);
    if (right)
        WORK(count, chosen->count(&f, count, table.buf, itemsize, least, number));
    PyBuffer_Release(&stream);
    PyBuffer_Release(&table);
    if (!right)
        return refuse("count: sizes do not match");
    Py_RETURN_NONE;
}

static PyObject *py_decode(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer stream, out, minus, plus;
    struct block b;
    struct fields f = {0};
    size_t values = 0;
    if (!PyArg_ParseTuple(args, "y*nnnw*y*y*", &stream, &b.outer, &b.channels, &b.inner, &out, &minus, &plus))
        return NULL;
    f.stream = stream.buf;
    f.size = (size_t)stream.len;
    const Py_ssize_t itemsize = plus.len;
    const int right = (itemsize == 2 || itemsize == 4 || itemsize == 8) && minus.len == itemsize && values_of(&b, &values)
                      && b.channels < 1 << 24 && f.size == (values + 7) / 8 && fits(&out, values, (size_t)itemsize);
    if (right)
        WORK(values, chosen->decode(&b, f, out.buf, (int)itemsize, minus.buf, plus.buf));
    PyBuffer_Release(&stream);
    PyBuffer_Release(&out);
    PyBuffer_Release(&minus);
    PyBuffer_Release(&plus);
    if (!right)
        return refuse("decode: sizes do not match");
    Py_RETURN_NONE;
}

static PyObject *py_read_rows(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer positions, out;
    int descriptor;
    size_t nbytes, done = 0;
    if (!PyArg_ParseTuple(args, "iy*nw*", &descriptor, &positions, &nbytes, &out))
        return NULL;
    const size_t rows = (size_t)positions.len / sizeof(int64_t);
    const int right = fits(&positions, rows, sizeof(int64_t)) && fits(&out, rows * nbytes, 1) && nbytes < SSIZE_MAX
                      && (rows == 0 || nbytes == 0 || rows * nbytes / rows == nbytes);
    if (right) {
        PyThreadState *state = PyEval_SaveThread();
        for (; done < rows; done++)
            if (pread(descriptor, (char *)out.buf + done * nbytes, nbytes, ((const int64_t *)positions.buf)[done])
                != (ssize_t)nbytes)
                break;
        PyEval_RestoreThread(state);
    }
    PyBuffer_Release(&positions);
    PyBuffer_Release(&out);
    return right ? PyLong_FromSize_t(done) : refuse("read_rows: sizes do not match");
}

static PyObject *py_sets(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    PyObject *found = PyList_New(0);
    for (size_t k = 0; found && k < sizeof sets / sizeof *sets; k++) {
        PyObject *name = is_supported(sets[k].name) ? PyUnicode_FromString(sets[k].name) : NULL;
        if (name && PyList_Append(found, name) < 0)
            Py_CLEAR(found);
        Py_XDECREF(name);
    }
    return found;
}

static PyObject *py_use(PyObject *Py_UNUSED(module), PyObject *args)
{
    const char *name;
    if (!PyArg_ParseTuple(args, "s", &name))
        return NULL;
    for (size_t k = 0; k < sizeof sets / sizeof *sets; k++)
        if (!strcmp(sets[k].name, name) && is_supported(name)) {
            chosen = sets[k].kernels;
            Py_RETURN_NONE;
        }
    return refuse("use: unknown or unsupported instruction set");
}

static PyMethodDef functions[] = {
    {"signs", py_signs, METH_VARARGS, NULL},   {"residual", py_residual, METH_VARARGS, NULL},
    {"unpack", py_unpack, METH_VARARGS, NULL}, {"count", py_count, METH_VARARGS, NULL},
    {"decode", py_decode, METH_VARARGS, NULL}, {"read_rows", py_read_rows, METH_VARARGS, NULL},
    {"sets", py_sets, METH_NOARGS, NULL},
    {"use", py_use, METH_VARARGS, NULL},       {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_compiled", NULL, -1, functions, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__compiled(void)
{
    for (size_t k = 0; k < sizeof sets / sizeof *sets; k++)
        if (is_supported(sets[k].name)) {
            chosen = sets[k].kernels;
            break;
        }
    PyObject *made = PyModule_Create(&module);
    if (made && PyModule_AddIntConstant(made, "version", VERSION) < 0)
        Py_CLEAR(made);
    return made;
}
