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
        }
        return;
    }
    for (size_t first = 0; first < count; first += 8) {
        const size_t last = first + 8 < count ? first + 8 : count;
        struct writer to = {out + first / 8 * channels, 0, 0};
        for (size_t p = first; p < last; p++)
            for (size_t c = 0; c < channels; c += 32)
                put(&to, words[c / 32][p], channels - c < 32 ? (unsigned)(channels - c) : 32);
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

/* residual levels: values -> their digits -> planes, a byte of each value for eight levels -> words of a field's bits */

#if LEVEL == 4

static inline __m512 NAME(floats)(const void *x, enum format format, size_t k)
{
    if (format == F32)
        return _mm512_loadu_ps((const float *)x + k);
    const __m256i half = _mm256_loadu_si256((const __m256i *)((const uint16_t *)x + k));
    return format == F16 ? _mm512_cvtph_ps(half)
                         : _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

/* As digits_of; what is below -1, and NaN, is converted to the lowest integer. */
static inline __m512i NAME(digits_of)(__m512 x)
{
    const __m512 one = _mm512_set1_ps(1);
    const __mmask16 above = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GT_OQ);
    const __m512 rest = _mm512_mask_sub_ps(_mm512_add_ps(x, one), above, x, one);
    __m512i left = _mm512_cvttps_epi32(_mm512_mul_ps(_mm512_min_ps(one, rest), _mm512_set1_ps(0x1p30f)));
    left = _mm512_max_epi32(_mm512_add_epi32(left, _mm512_set1_epi32(0x3FFFFFFF)), _mm512_setzero_si512());
    return _mm512_mask_or_epi32(left, above, left, _mm512_set1_epi32(INT32_MIN));
}

#elif LEVEL == 2

static inline __m256 NAME(floats)(const void *x, enum format format, size_t k)
{
    if (format == F32)
        return _mm256_loadu_ps((const float *)x + k);
    const __m128i half = _mm_loadu_si128((const __m128i *)((const uint16_t *)x + k));
    return format == F16 ? _mm256_cvtph_ps(half)
                         : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

/* As digits_of; what is below -1, and NaN, is converted to the lowest integer. */
static inline __m256i NAME(digits_of)(__m256 x)
{
    const __m256 one = _mm256_set1_ps(1);
    const __m256 above = _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_GT_OQ);
    const __m256 rest = _mm256_sub_ps(x, _mm256_blendv_ps(_mm256_set1_ps(-1), one, above));
    __m256i left = _mm256_cvttps_epi32(_mm256_mul_ps(_mm256_min_ps(one, rest), _mm256_set1_ps(0x1p30f)));
    left = _mm256_max_epi32(_mm256_add_epi32(left, _mm256_set1_epi32(0x3FFFFFFF)), _mm256_setzero_si256());
    return _mm256_or_si256(left, _mm256_slli_epi32(_mm256_castps_si256(above), 31));
}

#endif

/* Stored values [count] -> digits, the last value first. Returns whether one is NaN. */
static inline __attribute__((always_inline)) int NAME(digits_as)(const void *x, enum format format, size_t count,
                                                                 uint32_t *digits)
{
    uint32_t wrong = 0;
    size_t k = 0;
#if LEVEL == 4
    const __m512i backwards = _mm512_set_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (; k + 16 <= count; k += 16) {
        const __m512 v = NAME(floats)(x, format, k);
        wrong |= _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
        _mm512_storeu_si512(digits + count - 16 - k, _mm512_permutexvar_epi32(backwards, NAME(digits_of)(v)));
    }
#elif LEVEL == 2
    const __m256i backwards = _mm256_set_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256 nan = _mm256_setzero_ps();
    for (; k + 8 <= count; k += 8) {
        const __m256 v = NAME(floats)(x, format, k);
        nan = _mm256_or_ps(nan, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
        _mm256_storeu_si256((__m256i *)(digits + count - 8 - k), _mm256_permutevar8x32_epi32(NAME(digits_of)(v), backwards));
    }
    wrong = (uint32_t)_mm256_movemask_ps(nan);
#endif
    uint32_t patterns[RESIDUAL_VALUES];
    for (size_t j = k; j < count; j++) /* in a loop of its own, which gcc vectorises */
        patterns[j] = pattern_of(x, format, j);
    for (; k < count; k++) {
        wrong |= (patterns[k] & 0x7FFFFFFF) > 0x7F800000;
        digits[count - 1 - k] = digits_of(patterns[k]);
    }
    return wrong != 0;
}

static int NAME(digits)(const void *x, enum format format, size_t count, uint32_t *digits)
{
    return format == F32    ? NAME(digits_as)(x, F32, count, digits)
           : format == BF16 ? NAME(digits_as)(x, BF16, count, digits)
                            : NAME(digits_as)(x, F16, count, digits);
}

/* Digits [count] -> the byte of each for the levels from 8 * plane on, `step` bytes apart. */
static void NAME(plane)(const uint32_t *digits, size_t count, size_t plane, uint8_t *out, size_t step)
{
    if (plane >= 4)
        for (size_t k = 0; k < count; k++)
            out[k * step] = (uint8_t)-(digits[k] & 1);
    else if (step == 1)
        for (size_t k = 0; k < count; k++)
            out[k] = (uint8_t)(digits[k] >> (24 - 8 * plane));
    else
        for (size_t k = 0; k < count; k++)
            out[k * step] = (uint8_t)(digits[k] >> (24 - 8 * plane));
}

/* A plane's bytes [depth] of a field, the last value first -> a word for each of the 8 levels. May read 64 bytes. */
static inline __attribute__((always_inline)) void NAME(by_level)(const uint8_t *bytes, size_t depth, uint64_t *words)
{
    const uint64_t used = (uint64_t)-1 >> (64 - depth);
#if LEVEL == 4
    if (depth <= 32) {
        __m256i v = _mm256_maskz_loadu_epi8((__mmask32)used, bytes);
        for (int level = 0; level < 8; level++, v = _mm256_add_epi8(v, v))
            words[level] = (uint32_t)_mm256_movemask_epi8(v);
    } else {
        __m512i v = _mm512_maskz_loadu_epi8(used, bytes);
        for (int level = 0; level < 8; level++, v = _mm512_add_epi8(v, v))
            words[level] = _mm512_movepi8_mask(v);
    }
#elif LEVEL == 2
    __m256i low = _mm256_loadu_si256((const __m256i *)bytes), high = _mm256_loadu_si256((const __m256i *)(bytes + 32));
    if (depth <= 32)
        for (int level = 0; level < 8; level++, low = _mm256_add_epi8(low, low))
            words[level] = (uint32_t)_mm256_movemask_epi8(low) & used;
    else
        for (int level = 0; level < 8; level++, low = _mm256_add_epi8(low, low), high = _mm256_add_epi8(high, high))
            words[level] = ((uint32_t)_mm256_movemask_epi8(low) | (uint64_t)(uint32_t)_mm256_movemask_epi8(high) << 32) & used;
#else
    memset(words, 0, 8 * sizeof *words);
    for (size_t first = 0; first < depth; first += 8) {
        uint64_t eight;
        memcpy(&eight, bytes + first, 8);
        eight = transposed(eight);
        for (int level = 0; level < 8; level++)
            words[level] |= (eight >> (56 - 8 * level) & 0xFF) << first;
    }
    for (int level = 0; level < 8; level++)
        words[level] &= used;
#endif
}

/* planes, each of [fields, depth] values with the last one first -> the bits of all levels of each field as a stream that
 * begins at a byte; `out` needs 8 bytes to spare. `run`: a constant, the number of levels that are put at a time. */
static inline __attribute__((always_inline)) void NAME(put_runs)(uint8_t (*planes)[PLANE], size_t fields,
                                                                 size_t depth, size_t levels, size_t run, uint8_t *out)
{
    struct writer to = {out, 0, 0};
    for (size_t field = fields; field-- > 0;)
        for (size_t first = 0; first < levels; first += 8) {
            uint64_t words[8];
            NAME(by_level)(planes[first / 8] + field * depth, depth, words);
            if (levels - first < 8) {
                for (size_t level = 0; level < levels - first; level++)
                    put(&to, words[level], (unsigned)depth);
                break;
            }
            for (size_t level = 0; level < 8; level += run) {
                uint64_t word = words[level];
                for (size_t k = 1; k < run; k++)
                    word = word << depth | words[level + k];
                put(&to, word, (unsigned)(run * depth));
            }
        }
}

/* Not inlined: the loops need all registers. */
static __attribute__((noinline)) void NAME(put_levels)(uint8_t (*planes)[PLANE], size_t fields, size_t depth,
                                                       size_t levels, uint8_t *out)
{
    if (depth <= 7)
        NAME(put_runs)(planes, fields, depth, levels, 8, out);
    else if (depth <= 14)
        NAME(put_runs)(planes, fields, depth, levels, 4, out);
    else if (depth <= 28)
        NAME(put_runs)(planes, fields, depth, levels, 2, out);
    else
        NAME(put_runs)(planes, fields, depth, levels, 1, out);
}

static int NAME(residual)(const struct block *b, const void *x, enum format format, size_t depth, size_t levels,
                          uint8_t *out)
{
    uint32_t digits[RESIDUAL_VALUES];
    uint8_t planes[MOST_LEVELS / 8][PLANE], stream[RESIDUAL_VALUES / 8 * MOST_LEVELS + 8];
    const size_t channels = b->channels, per_vector = channels / depth, itemsize = format == F32 ? 4 : 2;
    const size_t most = RESIDUAL_VALUES / channels / 8 * 8; /* vectors at a time: whole bytes */
    int nan = 0;
    for (size_t plane = 0; 8 * plane < levels; plane++)
        memset(planes[plane], 0, PLANE); /* what lies behind the last field is read with it, and not used */
    for (size_t item = 0; item < (b->inner == 1 ? 1 : b->outer); item++) {
        const size_t positions = b->inner == 1 ? b->outer : b->inner;
        for (size_t first = 0; first < positions; first += most) {
            const size_t count = positions - first < most ? positions - first : most, values = count * channels;
            const size_t rows = b->inner == 1 ? 1 : channels, row = values / rows;
            const char *start = (const char *)x + (item * channels * b->inner + first * (b->inner == 1 ? channels : 1)) * itemsize;
            for (size_t c = 0; c < rows; c++) {
                nan |= NAME(digits)(start + c * b->inner * itemsize, format, row, digits);
                for (size_t plane = 0; 8 * plane < levels; plane++)
                    NAME(plane)(digits, row, plane, planes[plane] + rows - 1 - c, rows);
            }
            NAME(put_levels)(planes, count * per_vector, depth, levels, stream);
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

/* Up to TILE codes -> those from `least` to least + number - 1; returns how many. `out` has room for TILE + 16. */
static inline size_t NAME(codes_within)(const uint32_t *codes, size_t n, uint32_t least, uint32_t number, uint32_t *out)
{
    size_t kept = 0, k = 0;
#if LEVEL == 4
    for (; k + 16 <= n; k += 16) {
        const __m512i v = _mm512_loadu_si512(codes + k);
        const __mmask16 within = _mm512_cmplt_epu32_mask(_mm512_sub_epi32(v, _mm512_set1_epi32((int)least)),
                                                         _mm512_set1_epi32((int)number));
        _mm512_storeu_si512(out + kept, _mm512_maskz_compress_epi32(within, v));
        kept += (size_t)__builtin_popcount(within);
    }
#endif
    for (; k < n; k++) {
        out[kept] = codes[k]; /* overwritten by the next one if it is not within */
        kept += codes[k] - least < number;
    }
    return kept;
}

/* Counts fields of at most 25 bits in a table of all codes; of these only `number`, from `least` on. */
static void NAME(count)(const struct fields *f, size_t count, void *table, int itemsize, uint32_t least, uint32_t number)
{
    uint32_t all[TILE], within[TILE + 16];
    const int some = least > 0 || number < 1u << f->width;
    for (size_t first = 0; first < count; first += TILE) {
        size_t n = count - first < TILE ? count - first : TILE;
        const uint32_t *codes = some ? within : all;
        NAME(read_narrow)(f, first, n, all);
        if (some)
            n = NAME(codes_within)(all, n, least, number, within);
        if (f->width > (itemsize == 4 ? 18 : 16)) /* larger than the cache: fetch all entries of a tile at once */
            for (size_t k = 0; k < n; k++)
                __builtin_prefetch((char *)table + codes[k] * (size_t)itemsize, 1);
        if (itemsize == 4)
            for (size_t k = 0; k < n; k++)
                ((uint32_t *)table)[codes[k]]++;
        else
            for (size_t k = 0; k < n; k++)
                ((int64_t *)table)[codes[k]]++;
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
