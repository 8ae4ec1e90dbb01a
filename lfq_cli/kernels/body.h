/* The kernels, compiled once for each instruction set: _compiled.c includes this file with NAME and LEVEL defined.
 *
 * LEVEL 0 is portable C, 2 may use AVX2, 4 may use AVX-512 (BW, VL, DQ). Loops without intrinsics are written so that
 * gcc vectorises them. Stored floats are compared as integers, since positive floats have the order of their bit
 * patterns. So nothing here depends on how the processor treats subnormals.
 *
 * `largest` is the pattern of infinity; patterns of larger magnitude are NaN (lfq_cli/floats.py).
 * Streams: bit k is bit 7 - k % 8 of byte k / 8 (lfq_cli/bits.py).
 */

/* 64 values -> a word; bit k is (value k > 0). `nan` becomes nonzero if one is NaN. */

#if LEVEL == 4

static inline uint64_t NAME(above_16)(const uint16_t *x, uint16_t largest, uint64_t *nan)
{
    const __m512i one = _mm512_set1_epi16(1), most = _mm512_set1_epi16((short)largest);
    const __m512i magnitude = _mm512_set1_epi16(0x7FFF);
    const __m512i a = _mm512_loadu_si512(x), b = _mm512_loadu_si512(x + 32);
    *nan |= _mm512_cmpgt_epu16_mask(_mm512_and_si512(a, magnitude), most)
            | _mm512_cmpgt_epu16_mask(_mm512_and_si512(b, magnitude), most);
    return _mm512_cmplt_epu16_mask(_mm512_sub_epi16(a, one), most)
           | (uint64_t)_mm512_cmplt_epu16_mask(_mm512_sub_epi16(b, one), most) << 32;
}

static inline uint64_t NAME(above_32)(const uint32_t *x, uint32_t largest, uint64_t *nan)
{
    const __m512i one = _mm512_set1_epi32(1), most = _mm512_set1_epi32((int)largest);
    const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF);
    uint64_t above = 0;
    for (int k = 0; k < 4; k++) {
        const __m512i v = _mm512_loadu_si512(x + 16 * k);
        *nan |= _mm512_cmpgt_epu32_mask(_mm512_and_si512(v, magnitude), most);
        above |= (uint64_t)_mm512_cmplt_epu32_mask(_mm512_sub_epi32(v, one), most) << 16 * k;
    }
    return above;
}

#elif LEVEL == 2

static inline uint64_t NAME(above_16)(const uint16_t *x, uint16_t largest, uint64_t *nan)
{
    const __m256i most = _mm256_set1_epi16((short)largest), magnitude = _mm256_set1_epi16(0x7FFF);
    const __m256i zero = _mm256_setzero_si256();
    __m256i wrong = zero;
    uint64_t above = 0;
    for (int k = 0; k < 2; k++) {
        const __m256i a = _mm256_loadu_si256((const __m256i *)(x + 32 * k));
        const __m256i b = _mm256_loadu_si256((const __m256i *)(x + 32 * k + 16));
        const __m256i above_a = _mm256_andnot_si256(_mm256_cmpgt_epi16(a, most), _mm256_cmpgt_epi16(a, zero));
        const __m256i above_b = _mm256_andnot_si256(_mm256_cmpgt_epi16(b, most), _mm256_cmpgt_epi16(b, zero));
        const __m256i both = _mm256_permute4x64_epi64(_mm256_packs_epi16(above_a, above_b), 0xD8);
        wrong = _mm256_or_si256(wrong, _mm256_cmpgt_epi16(_mm256_and_si256(a, magnitude), most));
        wrong = _mm256_or_si256(wrong, _mm256_cmpgt_epi16(_mm256_and_si256(b, magnitude), most));
        above |= (uint64_t)(uint32_t)_mm256_movemask_epi8(both) << 32 * k;
    }
    *nan |= (uint32_t)_mm256_movemask_epi8(wrong);
    return above;
}

static inline uint64_t NAME(above_32)(const uint32_t *x, uint32_t largest, uint64_t *nan)
{
    const __m256i most = _mm256_set1_epi32((int)largest), magnitude = _mm256_set1_epi32(0x7FFFFFFF);
    const __m256i zero = _mm256_setzero_si256();
    __m256i wrong = zero;
    uint64_t above = 0;
    for (int k = 0; k < 8; k++) {
        const __m256i v = _mm256_loadu_si256((const __m256i *)(x + 8 * k));
        const __m256i is = _mm256_andnot_si256(_mm256_cmpgt_epi32(v, most), _mm256_cmpgt_epi32(v, zero));
        wrong = _mm256_or_si256(wrong, _mm256_cmpgt_epi32(_mm256_and_si256(v, magnitude), most));
        above |= (uint64_t)(uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(is)) << 8 * k;
    }
    *nan |= (uint32_t)_mm256_movemask_epi8(wrong);
    return above;
}

#else

#define ABOVE(bits)                                                                                        \
    static inline uint64_t NAME(above_##bits)(const uint##bits##_t *x, uint##bits##_t largest, uint64_t *nan) \
    {                                                                                                      \
        uint8_t bools[64];                                                                                 \
        uint##bits##_t wrong = 0;                                                                          \
        for (int k = 0; k < 64; k++) {                                                                     \
            bools[k] = (uint##bits##_t)(x[k] - 1) < largest;                                               \
            wrong |= (x[k] & ((uint##bits##_t)-1 >> 1)) > largest;                                         \
        }                                                                                                  \
        *nan |= wrong;                                                                                     \
        return word_of(bools);                                                                             \
    }
ABOVE(16)
ABOVE(32)
#undef ABOVE

#endif

/* Contiguous values -> their bits as a stream; returns whether one is NaN. */
#define PACK(bits)                                                                                            \
    static int NAME(pack_##bits)(const uint##bits##_t *x, size_t count, uint##bits##_t largest, uint8_t *out) \
    {                                                                                                         \
        uint64_t nan = 0;                                                                                     \
        size_t k = 0;                                                                                         \
        for (; k + 64 <= count; k += 64)                                                                      \
            store_le64(out + k / 8, reversed_in_bytes(NAME(above_##bits)(x + k, largest, &nan)));             \
        if (k < count) {                                                                                      \
            uint##bits##_t rest[64] = {0};                                                                    \
            uint8_t last[8];                                                                                  \
            memcpy(rest, x + k, (count - k) * sizeof *x);                                                     \
            store_le64(last, reversed_in_bytes(NAME(above_##bits)(rest, largest, &nan)));                     \
            memcpy(out + k / 8, last, (count - k + 7) / 8);                                                   \
        }                                                                                                     \
        return nan != 0;                                                                                      \
    }
PACK(16)
PACK(32)
#undef PACK

/* x [channels, count], rows `stride` values apart -> words [channels / 32, TILE]: the bits of each position, 32
 * channels in a word, the first channel in the highest bit used. Returns whether one is NaN. */
#define GATHER(bits)                                                                                   \
    static int NAME(gather_##bits)(const uint##bits##_t *x, size_t channels, size_t stride, size_t count, \
                                   uint##bits##_t largest, uint32_t (*words)[TILE])                    \
    {                                                                                                  \
        uint##bits##_t wrong = 0;                                                                      \
        for (size_t c = 0; c < channels; c++) {                                                        \
            uint32_t *restrict word = words[c / 32];                                                   \
            const uint##bits##_t *restrict row = x + c * stride;                                       \
            if (c % 32 == 0)                                                                           \
                memset(word, 0, count * sizeof *word);                                                 \
            for (size_t p = 0; p < count; p++) {                                                       \
                word[p] = word[p] << 1 | ((uint##bits##_t)(row[p] - 1) < largest);                     \
                wrong |= (row[p] & ((uint##bits##_t)-1 >> 1)) > largest;                               \
            }                                                                                          \
        }                                                                                              \
        return wrong != 0;                                                                             \
    }
GATHER(16)
GATHER(32)
#undef GATHER

/* words [channels / 32, TILE] of `count` positions -> their vectors as a stream that begins at a byte; `out` needs 8
 * bytes to spare. Every eighth vector begins at a byte again, so the processor can work on several groups of eight. */
static void NAME(put_words)(uint32_t (*words)[TILE], size_t channels, size_t count, uint8_t *out)
{
    if (channels <= 28 && count % 2 == 0) { /* two at a time: half the work */
        for (size_t first = 0; first < count; first += 16) {
            const size_t last = first + 16 < count ? first + 16 : count;
            struct writer to = {out + first / 8 * channels, 0, 0};
            for (size_t p = first; p < last; p += 2)
                put(&to, (uint64_t)words[0][p] << channels | words[0][p + 1], 2 * (unsigned)channels);
            finish(&to);
        }
        return;
    }
    for (size_t first = 0; first < count; first += 8) {
        const size_t last = first + 8 < count ? first + 8 : count;
        struct writer to = {out + first / 8 * channels, 0, 0};
        for (size_t p = first; p < last; p++)
            for (size_t c = 0; c < channels; c += 32)
                put(&to, words[c / 32][p], channels - c < 32 ? (unsigned)(channels - c) : 32);
        finish(&to);
    }
}

static int NAME(signs)(const struct block *b, const void *x, int itemsize, uint32_t largest, uint8_t *out)
{
    if (b->inner == 1) {
        const size_t count = b->outer * b->channels;
        return itemsize == 2 ? NAME(pack_16)(x, count, (uint16_t)largest, out) : NAME(pack_32)(x, count, largest, out);
    }
    int nan = 0;
    uint32_t words[MOST_CHANNELS / 32][TILE];
    uint8_t stream[MOST_CHANNELS * TILE / 8 + 8];
    for (size_t item = 0; item < b->outer; item++)
        for (size_t first = 0; first < b->inner; first += TILE) {
            const size_t count = b->inner - first < TILE ? b->inner - first : TILE;
            const size_t start = item * b->channels * b->inner + first;
            nan |= itemsize == 2
                       ? NAME(gather_16)((const uint16_t *)x + start, b->channels, b->inner, count, (uint16_t)largest, words)
                       : NAME(gather_32)((const uint32_t *)x + start, b->channels, b->inner, count, largest, words);
            NAME(put_words)(words, b->channels, count, stream);
            put_at(out, (item * b->inner + first) * b->channels, stream, count * b->channels);
        }
    return nan;
}

/* residual levels */

/* Stored values [count] -> float32. Value k goes to place (begin + k * step) ^ 63, so the first of 64 values comes last
 * and gives the highest bit of their word. Returns whether one is NaN. */
static inline __attribute__((always_inline)) int NAME(widen)(const void *x, enum format format, size_t count, float *out,
                                                             size_t begin, size_t step)
{
    uint32_t wrong = 0;
    for (size_t k = 0; k < count; k++) {
        uint32_t pattern = format == F32    ? ((const uint32_t *)x)[k]
                           : format == BF16 ? (uint32_t)((const uint16_t *)x)[k] << 16
                                            : pattern_of_half(((const uint16_t *)x)[k]);
        wrong |= (pattern & 0x7FFFFFFF) > 0x7F800000;
        memcpy(out + ((begin + k * step) ^ 63), &pattern, sizeof pattern);
    }
    return wrong != 0;
}

/* Like `widen` with begin 0 and step 1; runs of 64 are vectorised. */
static inline __attribute__((always_inline)) int NAME(widen_64s)(const void *x, enum format format, size_t count,
                                                                 float *out)
{
    const size_t itemsize = format == F32 ? 4 : 2;
    uint32_t wrong = 0;
    size_t first = 0;
    for (; first + 64 <= count; first += 64)
        for (size_t k = 0; k < 64; k++) {
            const size_t from = first + 63 - k;
            uint32_t pattern = format == F32    ? ((const uint32_t *)x)[from]
                               : format == BF16 ? (uint32_t)((const uint16_t *)x)[from] << 16
                                                : pattern_of_half(((const uint16_t *)x)[from]);
            wrong |= (pattern & 0x7FFFFFFF) > 0x7F800000;
            memcpy(out + first + k, &pattern, sizeof pattern);
        }
    return (wrong != 0) | NAME(widen)((const char *)x + first * itemsize, format, count - first, out + first, 0, 1);
}

static int NAME(widen_run)(const void *x, enum format format, size_t count, float *out)
{
    return format == F32    ? NAME(widen_64s)(x, F32, count, out)
           : format == BF16 ? NAME(widen_64s)(x, BF16, count, out)
                            : NAME(widen_64s)(x, F16, count, out);
}

/* 64 floats -> a word of their signs for each level: bit k is that of value k. After a level the residual is the value
 * minus its code, +-2^-level: the float32 operations of numerics.py, in the same order. */
static inline void NAME(levels_of_64)(const float *x, size_t levels, uint64_t *words)
{
    float scale = 1;
#if LEVEL == 4
    __m512 rest[4];
    for (int k = 0; k < 4; k++)
        rest[k] = _mm512_loadu_ps(x + 16 * k);
    for (size_t level = 0; level < levels; level++, scale *= 0.5f) {
        const __m512 code = _mm512_set1_ps(scale);
        uint64_t word = 0;
        for (int k = 0; k < 4; k++) {
            const __mmask16 above = _mm512_cmp_ps_mask(rest[k], _mm512_setzero_ps(), _CMP_GT_OQ);
            rest[k] = _mm512_mask_sub_ps(_mm512_add_ps(rest[k], code), above, rest[k], code);
            word |= (uint64_t)above << 16 * k;
        }
        words[level] = word;
    }
#elif LEVEL == 2
    __m256 rest[8];
    for (int k = 0; k < 8; k++)
        rest[k] = _mm256_loadu_ps(x + 8 * k);
    for (size_t level = 0; level < levels; level++, scale *= 0.5f) {
        const __m256 plus = _mm256_set1_ps(scale), minus = _mm256_set1_ps(-scale);
        uint64_t word = 0;
        for (int k = 0; k < 8; k++) {
            const __m256 above = _mm256_cmp_ps(rest[k], _mm256_setzero_ps(), _CMP_GT_OQ);
            rest[k] = _mm256_sub_ps(rest[k], _mm256_blendv_ps(minus, plus, above));
            word |= (uint64_t)(uint32_t)_mm256_movemask_ps(above) << 8 * k;
        }
        words[level] = word;
    }
#else
    float rest[64];
    uint8_t above[64];
    memcpy(rest, x, sizeof rest);
    for (size_t level = 0; level < levels; level++, scale *= 0.5f) {
        for (int k = 0; k < 64; k++) {
            above[k] = rest[k] > 0;
            rest[k] = rest[k] - (above[k] ? scale : -scale);
        }
        words[level] = word_of(above);
    }
#endif
}

/* rest [fields, depth], in the order of `widen` -> the bits of all levels of each field as a stream that begins at a
 * byte; `out` needs 8 bytes to spare. */
static void NAME(levels)(const float *rest, size_t fields, size_t depth, size_t levels, uint8_t *out)
{
    uint64_t words[(RESIDUAL_VALUES / 64 + 1) * MOST_LEVELS], bits[MOST_LEVELS]; /* words: by word, then by level */
    const size_t count = (fields * depth + 63) / 64;
    for (size_t k = 0; k < count; k++)
        NAME(levels_of_64)(rest + 64 * k, levels, words + k * levels);
    memset(words + count * levels, 0, levels * sizeof *words); /* read with the last field, and shifted out */
    const size_t together = 57 / depth;                        /* levels per `put` */
    for (size_t first = 0; first < fields; first += 8) {
        const size_t last = first + 8 < fields ? first + 8 : fields;
        struct writer to = {out + first / 8 * levels * depth, 0, 0};
        for (size_t field = first; field < last; field++) {
            const uint64_t *near = words + field * depth / 64 * levels, *next = near + levels;
            const unsigned skip = field * depth % 64;
            for (size_t level = 0; level < levels; level++)
                bits[level] = (near[level] << skip | next[level] >> 1 >> (63 - skip)) >> (64 - depth);
            for (size_t level = 0; level < levels;) {
                const size_t end = level + together < levels ? level + together : levels;
                const unsigned width = (unsigned)((end - level) * depth);
                uint64_t word = 0;
                for (; level < end; level++)
                    word = word << depth | bits[level];
                put(&to, word, width);
            }
        }
        finish(&to);
    }
}

static int NAME(residual)(const struct block *b, const void *x, enum format format, size_t depth, size_t levels,
                          uint8_t *out)
{
    float rest[RESIDUAL_VALUES] = {0};
    uint8_t stream[RESIDUAL_VALUES / 8 * MOST_LEVELS + 8];
    const size_t channels = b->channels, per_vector = channels / depth, itemsize = format == F32 ? 4 : 2;
    const size_t most = RESIDUAL_VALUES / channels / 8 * 8; /* vectors at a time: whole bytes */
    int nan = 0;
    for (size_t item = 0; item < (b->inner == 1 ? 1 : b->outer); item++) {
        const size_t positions = b->inner == 1 ? b->outer : b->inner;
        for (size_t first = 0; first < positions; first += most) {
            const size_t count = positions - first < most ? positions - first : most, values = count * channels;
            const char *start = (const char *)x + (item * channels * b->inner + first * (b->inner == 1 ? channels : 1)) * itemsize;
            if (b->inner == 1)
                nan |= NAME(widen_run)(start, format, values, rest);
            else
                for (size_t c = 0; c < channels; c++)
                    nan |= NAME(widen)(start + c * b->inner * itemsize, format, count, rest, c, channels);
            NAME(levels)(rest, count * per_vector, depth, levels, stream);
            put_at(out, (item * positions + first) * channels * levels, stream, values * levels);
        }
    }
    return nan;
}

/* fields of a stream */

/* Up to TILE fields of at most 25 bits -> integers. */
static void NAME(read_narrow)(const struct fields *f, size_t from, size_t count, uint32_t *out)
{
    size_t k = 0;
#if LEVEL >= 2
    int32_t at[8], skip[8];
    const uint64_t begin = f->first + from * f->stride, base = begin / 8;
    for (size_t j = 0; j < 8; j++) {
        const uint64_t bit = begin % 8 + j * f->stride;
        at[j] = (int32_t)(bit / 8);
        skip[j] = (int32_t)(bit % 8);
    }
    const __m256i offsets = _mm256_loadu_si256((const __m256i *)at), skips = _mm256_loadu_si256((const __m256i *)skip);
    const __m256i swap = _mm256_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10,
                                         11, 4, 5, 6, 7, 0, 1, 2, 3);
    const __m128i drop = _mm_cvtsi32_si128(32 - (int)f->width);
    const __m256i low = _mm256_set1_epi8(15), keep = _mm256_set1_epi32((int)((1u << f->width) - 1));
    const __m256i flipped = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15));
    for (; k + 8 <= count && base + k * f->stride / 8 + (uint64_t)at[7] + 4 <= f->size; k += 8) {
        __m256i v = _mm256_i32gather_epi32((const int *)(f->stream + base + k * f->stride / 8), offsets, 1);
        if (f->lsb) {
            const __m256i high = _mm256_shuffle_epi8(flipped, _mm256_and_si256(_mm256_srli_epi16(v, 4), low));
            v = _mm256_or_si256(_mm256_slli_epi16(_mm256_shuffle_epi8(flipped, _mm256_and_si256(v, low)), 4), high);
            v = _mm256_and_si256(_mm256_srlv_epi32(v, skips), keep);
        } else {
            v = _mm256_srl_epi32(_mm256_sllv_epi32(_mm256_shuffle_epi8(v, swap), skips), drop);
        }
        _mm256_storeu_si256((__m256i *)(out + k), v);
    }
#endif
    for (; k < count; k++)
        out[k] = (uint32_t)read_field(f, from + k);
}

#define STORE(type, source)                        \
    for (size_t k = 0; k < n; k++)                 \
        ((type *)out)[(first + k) * step] = (type)source[k]; \
    break

/* Fields -> integers of `itemsize` bytes, `step` items apart. */
static void NAME(unpack)(const struct fields *f, size_t count, void *out, int itemsize, size_t step)
{
    uint32_t narrow[TILE];
    uint64_t wide[TILE];
    for (size_t first = 0; first < count; first += TILE) {
        const size_t n = count - first < TILE ? count - first : TILE;
        if (f->width <= 25) {
            NAME(read_narrow)(f, first, n, narrow);
            switch (itemsize) {
            case 1: STORE(uint8_t, narrow);
            case 2: STORE(uint16_t, narrow);
            case 4: STORE(uint32_t, narrow);
            default: STORE(uint64_t, narrow);
            }
        } else {
            for (size_t k = 0; k < n; k++)
                wide[k] = read_field(f, first + k);
            switch (itemsize) {
            case 4: STORE(uint32_t, wide);
            default: STORE(uint64_t, wide);
            }
        }
    }
}
#undef STORE

/* Counts fields of at most 25 bits in a table of all codes. */
static void NAME(count)(const struct fields *f, size_t count, void *table, int itemsize)
{
    uint32_t codes[TILE];
    for (size_t first = 0; first < count; first += TILE) {
        const size_t n = count - first < TILE ? count - first : TILE;
        NAME(read_narrow)(f, first, n, codes);
        if (itemsize == 4) {
            for (size_t k = 0; k < n; k++)
                ((uint32_t *)table)[codes[k]]++;
        } else {
            if (f->width > 16) /* larger than the cache: fetch all entries of a tile at once */
                for (size_t k = 0; k < n; k++)
                    __builtin_prefetch((int64_t *)table + codes[k], 1);
            for (size_t k = 0; k < n; k++)
                ((int64_t *)table)[codes[k]]++;
        }
    }
}

/* decode, channel-first */

#define SPREAD(bits)                                                                                          \
    static void NAME(spread_##bits)(const uint32_t *codes, size_t count, unsigned width, uint##bits##_t minus, \
                                    uint##bits##_t plus, uint##bits##_t *out, size_t stride)                  \
    {                                                                                                         \
        for (unsigned c = 0; c < width; c++)                                                                  \
            for (size_t p = 0; p < count; p++)                                                                \
                out[c * stride + p] = codes[p] >> (width - 1 - c) & 1 ? plus : minus;                         \
    }
SPREAD(16)
SPREAD(32)
SPREAD(64)
#undef SPREAD

static void NAME(decode)(const struct block *b, struct fields f, void *out, int itemsize, const void *minus,
                         const void *plus)
{
    uint32_t codes[TILE];
    f.stride = b->channels;
    f.lsb = 0;
    for (size_t item = 0; item < b->outer; item++)
        for (size_t first = 0; first < b->inner; first += TILE)
            for (size_t channel = 0; channel < b->channels; channel += 25) {
                const size_t count = b->inner - first < TILE ? b->inner - first : TILE;
                const size_t start = (item * b->channels + channel) * b->inner + first;
                f.width = b->channels - channel < 25 ? (unsigned)(b->channels - channel) : 25;
                f.first = (item * b->inner + first) * b->channels + channel;
                NAME(read_narrow)(&f, 0, count, codes);
                if (itemsize == 2)
                    NAME(spread_16)(codes, count, f.width, *(const uint16_t *)minus, *(const uint16_t *)plus,
                                    (uint16_t *)out + start, b->inner);
                else if (itemsize == 4)
                    NAME(spread_32)(codes, count, f.width, *(const uint32_t *)minus, *(const uint32_t *)plus,
                                    (uint32_t *)out + start, b->inner);
                else
                    NAME(spread_64)(codes, count, f.width, *(const uint64_t *)minus, *(const uint64_t *)plus,
                                    (uint64_t *)out + start, b->inner);
            }
}

static const struct kernels NAME(kernels) = {
    NAME(signs), NAME(residual), NAME(unpack), NAME(count), NAME(decode),
};
