// What a decode step on a CPU spends its time on, for `kernels.py`, which documents every call.
//
// Knows nothing of Python, torch or models: addresses and sizes come in, numbers go out. Each row's
// sums are added in one fixed order, whatever runs beside it. Linear layers need AVX-512 with bf16
// (weights in bf16) or VNNI (in int8); all else is written in vectors of 16 floats, which the
// compiler splits into what the processor has.
//
// Names of sizes: tokens = rows of a step; num_in, num_out = features of a linear layer.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

namespace {

// ---- vectors of 16 floats --------------------------------------------------------------------

constexpr int LANES = 16;
typedef float vf __attribute__((vector_size(64)));
typedef int32_t vi __attribute__((vector_size(64)));
typedef uint32_t vu __attribute__((vector_size(64)));
typedef uint16_t vh __attribute__((vector_size(32)));

struct bf16 {
  uint16_t bits;
};

INLINE vf fill(float x) { return x - vf{}; }

INLINE vf load(const float* from) {
  vf x;
  memcpy(&x, from, sizeof x);
  return x;
}

INLINE vf load(const bf16* from) {
  vh half;
  memcpy(&half, from, sizeof half);
#if defined(__AVX512F__)
  return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)half), 16);  // GCC splits the other
#else
  return (vf)(__builtin_convertvector(half, vu) << 16);
#endif
}

INLINE void store(float* to, vf x) { memcpy(to, &x, sizeof x); }

// To the nearest, ties to even; what is not a number stays so.
INLINE void store(bf16* to, vf x) {
  vu bits = (vu)x;
  vu rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  vh half = __builtin_convertvector(x == x ? rounded : vu{} + 0x7fc0, vh);
  memcpy(to, &half, sizeof half);
}

// The first `count` of 16; nothing beyond them is touched, and the other lanes are zero.
template <class T>
INLINE vf load(const T* from, int64_t count) {
  if (count >= LANES) return load(from);
  T some[LANES] = {};
  memcpy(some, from, count * sizeof(T));
  return load(some);
}

template <class T>
INLINE void store(T* to, vf x, int64_t count) {
  if (count >= LANES) return store(to, x);
  T some[LANES];
  store(some, x);
  memcpy(to, some, count * sizeof(T));
}

// The sums of four vectors, each added up as ((0 + 8) + (1 + 9)) + ((2 + 10) + (3 + 11)) + ...
INLINE void sum4(const vf* x, float* sums) {
#if defined(__AVX512DQ__)
  __m256 halves[4];
  for (int i = 0; i < 4; i++)
    halves[i] = _mm256_add_ps(_mm512_castps512_ps256((__m512)x[i]),
                              _mm512_extractf32x8_ps((__m512)x[i], 1));
  const __m256 fours = _mm256_hadd_ps(_mm256_hadd_ps(halves[0], halves[1]),
                                      _mm256_hadd_ps(halves[2], halves[3]));
  _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(fours), _mm256_extractf128_ps(fours, 1)));
#else
  for (int i = 0; i < 4; i++) {
    float lanes[LANES];
    store(lanes, x[i]);
    for (int lane = 0; lane < 8; lane++) lanes[lane] += lanes[lane + 8];
    sums[i] = ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) +
              ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
  }
#endif
}

INLINE float sum(vf x) {
  const vf all[4] = {x};
  float sums[4];
  sum4(all, sums);
  return sums[0];
}

// e^x to about an ulp, 0 below what a float holds; what is not a number stays so.
INLINE vf exp(vf x) {
  const vf most = fill(88.0f), least = fill(-87.0f), magic = fill(12582912.0f);
  vf clamped = x > most ? most : x;
  clamped = clamped < least ? least : clamped;
  vf shifted = clamped * 1.44269504f + magic;  // the whole part, in the lowest bits
  vf whole = shifted - magic;
  vf rest = clamped - whole * 0.693359375f + whole * 2.12194440e-4f;
  vf power = fill(1.9875691500e-4f);
  power = power * rest + 1.3981999507e-3f;
  power = power * rest + 8.3334519073e-3f;
  power = power * rest + 4.1665795894e-2f;
  power = power * rest + 1.6666665459e-1f;
  power = power * rest + 5.0000001201e-1f;
  power = power * rest * rest + rest + 1.0f;
  vf scale = (vf)((((vi)shifted) << 23) + 0x3f800000);
  return x < least ? vf{} : power * scale;
}

INLINE vf tanh(vf x) { return 1.0f - 2.0f / (exp(x + x) + 1.0f); }

int64_t round_up(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

// Threads for some work: all, or none beside this one where starting them would take longer.
constexpr int64_t LEAST_SHARED = 1 << 15;  // multiply-adds
int team(int64_t work, int threads) { return work < LEAST_SHARED ? 1 : threads; }

// ---- attention of one query a sequence -------------------------------------------------------

}  // namespace

extern "C" struct Attention {
  const void *query, *key, *value;  // of the step; strides in elements
  void *keys, *values, *out;        // the cache (slots, kv heads, context, size); (tokens, heads, size)
  const int64_t *slots, *rows, *lengths;  // of each sequence; its length with the new token
  const float* sinks;                     // a score a head, or null
  int64_t query_head, query_token, key_head, key_token, value_head, value_token;
  int64_t slot_keys, head_keys, slot_values, head_values;  // strides of the cache
  int64_t num_sequences, num_heads, num_kv_heads, size, value_size;
  int64_t window;  // 0: none
  float scaling, softcap;  // softcap 0: none
  int32_t is_bf16, threads;
};

namespace {

constexpr int64_t BLOCK = 64;  // keys weighed at once: they and their values stay in the L1 cache

// The state of G queries that share keys.
struct Weighing {
  float *query, *scores, *sums;  // (G, size padded), (G, BLOCK), (G, value size padded)
  float most[4], total[4];
};

// Ask for what is read soon: pages are small here, and the processor by itself stops at their ends.
template <class T>
INLINE void fetch(const T* from, int64_t count) {
  for (int64_t i = 0; i < count; i += 64 / (int64_t)sizeof(T)) __builtin_prefetch(from + i);
}

// The scores of up to four keys.
template <class T, int G, bool IS_WHOLE>
INLINE void score(const T* keys, int64_t count, int64_t size, const float* query, float scaling,
                  float* scores) {
  const int64_t padded = round_up(size);
  const T* rows[4];
  for (int n = 0; n < 4; n++) rows[n] = keys + std::min<int64_t>(n, count - 1) * size;
  vf sums[G][4] = {};
  for (int64_t d = 0; d < size; d += LANES) {
    vf key[4];
    for (int n = 0; n < 4; n++) key[n] = IS_WHOLE ? load(rows[n] + d) : load(rows[n] + d, size - d);
    for (int g = 0; g < G; g++) {
      const vf q = load(query + g * padded + d);
      for (int n = 0; n < 4; n++) sums[g][n] += key[n] * q;
    }
  }
  for (int g = 0; g < G; g++) {
    float some[4];
    sum4(sums[g], some);
    for (int n = 0; n < 4 && n < count; n++) scores[g * BLOCK + n] = some[n] * scaling;
  }
}

// Add the weighed values, N vectors of them from some column on, to what was summed before.
template <class T, int G, int N, bool IS_WHOLE>
INLINE void add_values(const T* values, int64_t stride, int64_t left, int64_t count,
                       const float* weights, const float* factors, float* sums, int64_t padded) {
  vf acc[G][N];
  for (int g = 0; g < G; g++)
    for (int n = 0; n < N; n++) acc[g][n] = load(sums + g * padded + n * LANES) * factors[g];
  for (int64_t j = 0; j < count; j++) {
    vf value[N];
    for (int n = 0; n < N; n++) {
      const T* from = values + j * stride + n * LANES;
      value[n] = IS_WHOLE ? load(from) : load(from, left);
    }
    for (int g = 0; g < G; g++) {
      const vf weight = fill(weights[g * BLOCK + j]);
      for (int n = 0; n < N; n++) acc[g][n] += weight * value[n];
    }
  }
  for (int g = 0; g < G; g++)
    for (int n = 0; n < N; n++) store(sums + g * padded + n * LANES, acc[g][n]);
}

// Turn scores into weights against the largest so far; what was summed shrinks by the factor.
INLINE float weigh(float* scores, int64_t count, float softcap, float& most, float& total) {
  const vf none = fill(-INFINITY);
  vf largest = none;
  for (int64_t j = count; j < round_up(count); j++) scores[j] = -INFINITY;
  for (int64_t j = 0; j < count; j += LANES) {
    vf x = load(scores + j);
    if (softcap != 0.0f) {
      // Infinity stays out of the lanes that count for nothing.
      x = x == none ? none : tanh(x / softcap) * softcap;
      store(scores + j, x);
    }
    largest = x > largest ? x : largest;
  }
  float before = most;
  for (int lane = 0; lane < LANES; lane++) most = largest[lane] > most ? largest[lane] : most;
  vf added = {};
  for (int64_t j = 0; j < count; j += LANES) {
    vf weight = exp(load(scores + j) - most);
    store(scores + j, weight);
    added += weight;
  }
  float factor = before == most ? 1.0f : exp(fill(before - most))[0];
  total = total * factor + sum(added);
  return factor;
}

// What one sequence has cached for one head: `count` tokens from the first that is seen.
template <class T>
struct Head {
  T *keys, *values;
  int64_t count, size, value_size;

  Head(const Attention& a, int64_t item) : size(a.size), value_size(a.value_size) {
    const int64_t sequence = item / a.num_kv_heads, head = item % a.num_kv_heads;
    const int64_t length = a.lengths[sequence], slot = a.slots[sequence];
    count = a.window && a.window < length ? a.window : length;
    keys = (T*)a.keys + slot * a.slot_keys + head * a.head_keys + (length - count) * size;
    values =
        (T*)a.values + slot * a.slot_values + head * a.head_values + (length - count) * value_size;
  }
  void fetch_keys(int64_t from) const {
    fetch(keys + from * size, std::min(BLOCK, count - from) * size);
  }
};

template <class T, int G>
void attend_queries(const Attention& a, Weighing& w, const T* query, const Head<T>& cached,
                    const Head<T>* next, const float* sinks, T* out) {
  const int64_t size = a.size, value_size = a.value_size;
  const int64_t padded = round_up(size), value_padded = round_up(value_size);
  for (int g = 0; g < G; g++) {
    for (int64_t d = 0; d < size; d += LANES)
      store(w.query + g * padded + d, load(query + g * a.query_head + d, size - d));
    w.most[g] = sinks ? sinks[g] : -INFINITY;
    w.total[g] = sinks ? 1.0f : 0.0f;
  }
  std::fill(w.sums, w.sums + G * value_padded, 0.0f);
  for (int64_t start = 0; start < cached.count; start += BLOCK) {
    const int64_t count = std::min(BLOCK, cached.count - start);
    const T *key = cached.keys + start * size, *value = cached.values + start * value_size;
    for (int64_t j = 0; j < count; j += 4) {
      const T* at = key + j * size;
      fetch(value + j * value_size, std::min<int64_t>(4, count - j) * value_size);
      if (size % LANES == 0)
        score<T, G, true>(at, count - j, size, w.query, a.scaling, w.scores + j);
      else
        score<T, G, false>(at, count - j, size, w.query, a.scaling, w.scores + j);
    }
    if (start + BLOCK < cached.count)
      cached.fetch_keys(start + BLOCK);
    else if (next)
      next->fetch_keys(0);
    float factors[G];
    for (int g = 0; g < G; g++)
      factors[g] = weigh(w.scores + g * BLOCK, count, a.softcap, w.most[g], w.total[g]);
    int64_t d = 0;
    for (; d + 4 * LANES <= value_size; d += 4 * LANES)
      add_values<T, G, 4, true>(value + d, value_size, LANES, count, w.scores, factors, w.sums + d,
                                value_padded);
    for (; d < value_size; d += LANES)
      add_values<T, G, 1, false>(value + d, value_size, value_size - d, count, w.scores, factors,
                                 w.sums + d, value_padded);
  }
  for (int g = 0; g < G; g++)
    for (int64_t d = 0; d < value_size; d += LANES)
      store(out + g * value_size + d, load(w.sums + g * value_padded + d) / w.total[g],
            value_size - d);
}

// Attend with all queries of one sequence that share a head; `next` is read after it, or null.
template <class T>
void attend_head(const Attention& a, Weighing& w, int64_t item, const Head<T>* next) {
  const int64_t row = a.rows[item / a.num_kv_heads], kv_head = item % a.num_kv_heads;
  const int64_t group = a.num_heads / a.num_kv_heads, head = kv_head * group;
  const Head<T> cached(a, item);
  memcpy(cached.keys + (cached.count - 1) * a.size,
         (const T*)a.key + kv_head * a.key_head + row * a.key_token, a.size * sizeof(T));
  memcpy(cached.values + (cached.count - 1) * a.value_size,
         (const T*)a.value + kv_head * a.value_head + row * a.value_token,
         a.value_size * sizeof(T));
  for (int64_t g = 0; g < group;) {
    const int64_t left = group - g;
    const T* query = (const T*)a.query + (head + g) * a.query_head + row * a.query_token;
    const float* sinks = a.sinks ? a.sinks + head + g : nullptr;
    T* out = (T*)a.out + (row * a.num_heads + head + g) * a.value_size;
    if (left >= 4) {
      attend_queries<T, 4>(a, w, query, cached, next, sinks, out), g += 4;
    } else if (left >= 2) {
      attend_queries<T, 2>(a, w, query, cached, next, sinks, out), g += 2;
    } else {
      attend_queries<T, 1>(a, w, query, cached, next, sinks, out), g += 1;
    }
  }
}

// Attend to one item after another, as the team's threads come for them.
template <class T>
void attend_items(const Attention& a, std::atomic<int64_t>& counter) {
  std::vector<float> memory(4 * (round_up(a.size) + BLOCK + round_up(a.value_size)));
  Weighing w;
  w.query = memory.data();
  w.scores = w.query + 4 * round_up(a.size);
  w.sums = w.scores + 4 * BLOCK;
  const int64_t num_items = a.num_sequences * a.num_kv_heads;
  for (int64_t item = counter++; item < num_items;) {
    const int64_t next = counter++;
    if (next < num_items) {
      const Head<T> head(a, next);
      attend_head<T>(a, w, item, &head);
    } else {
      attend_head<T>(a, w, item, nullptr);
    }
    item = next;
  }
}

}  // namespace

extern "C" void baton_attend(const Attention* a) {
  int64_t num_seen = 0;
  for (int64_t i = 0; i < a->num_sequences; i++) num_seen += a->lengths[i];
  std::atomic<int64_t> counter{0};
#pragma omp parallel num_threads(team(num_seen* a->num_heads*(a->size + a->value_size), a->threads))
  if (a->is_bf16)
    attend_items<bf16>(*a, counter);
  else
    attend_items<float>(*a, counter);
}

// ---- linear layers ---------------------------------------------------------------------------

extern "C" struct Linear {
  const void* weight;  // packed, see `pack`
  const float* scale;  // of each output, where the weight is int8; else null
  const float* bias;   // or null
  int64_t num_in, num_out;
};

namespace {

// A weight lies in panels of 32 outputs; in a panel, pair after pair of inputs, those of all 32.
constexpr int64_t PANEL = 2 * LANES;

template <class T>
void pack(const T* weight, T* packed, int64_t num_in, int64_t num_out, int threads) {
#pragma omp parallel for schedule(static, PANEL) num_threads(threads)
  for (int64_t out = 0; out < (num_out + PANEL - 1) / PANEL * PANEL; out++) {
    T* to = packed + out / PANEL * PANEL * num_in + out % PANEL * 2;
    for (int64_t in = 0; in < num_in; in++)
      to[in / 2 * 2 * PANEL + in % 2] = out < num_out ? weight[out * num_in + in] : T{};
  }
}

// Rows are worked on in tiles of 12, their sums in registers. A tile lies as the weight does: pair
// after pair of inputs, those of all its rows; a pair is two bf16, or two 16-bit steps.
constexpr int64_t TILE = 12;

struct Tiles {
  int64_t tokens, num = (tokens + TILE - 1) / TILE, size = tokens / num, extra = tokens % num;
  int64_t first(int64_t tile) const { return tile * size + std::min(tile, extra); }
  int64_t rows(int64_t tile) const { return size + (tile < extra); }
  int64_t of(int64_t row) const {
    const int64_t in_larger = extra * (size + 1);
    return row < in_larger ? row / (size + 1) : extra + (row - in_larger) / size;
  }
};

// What is done to a row before a layer reads it.
struct Before {
  const float* norm = nullptr;  // weight of an RMS norm, or null
  float eps = 0.0f;
  bool is_gated = false;  // the row is a gate and what it lets through: silu(gate) * other
};

void make_row(const bf16* row, int64_t size, const Before& before, float* made) {
  vf squares = {};
  for (int64_t i = 0; i < size; i += LANES) {
    vf x = load(row + i, size - i);
    if (before.is_gated) x = x / (1.0f + exp(-x)) * load(row + size + i, size - i);
    squares += x * x;
    store(made + i, x);
  }
  if (!before.norm) return;
  const float factor = 1.0f / std::sqrt(sum(squares) / (float)size + before.eps);
  for (int64_t i = 0; i < size; i += LANES)
    store(made + i, load(made + i) * factor * load(before.norm + i, size - i));
}

constexpr int64_t MOST_HEAD = 1024;  // numbers of a head

constexpr float STEPS = 32767.0f;  // of the largest number of a row, either side of zero

// Round a row to whole steps; returns the size of one.
float count_steps(const float* made, int64_t size, int16_t* steps) {
  vf largest = {}, nothing = {};
  for (int64_t i = 0; i < size; i += LANES) {
    vf x = load(made + i), positive = x < 0.0f ? -x : x;
    largest = positive > largest ? positive : largest;
    nothing += x * 0.0f;  // unless it is infinite, or not a number
  }
  float most = 1e-30f;
  for (int lane = 0; lane < LANES; lane++) most = std::max(most, largest[lane]);
  const vf magic = fill(12582912.0f);  // rounds to a whole number, which its lowest bits hold
  for (int64_t i = 0; i < size; i += LANES) {
    vi whole = (vi)(load(made + i) * (STEPS / most) + magic) - (vi)magic;
    typedef int16_t vs __attribute__((vector_size(32)));
    vs half = __builtin_convertvector(whole, vs);
    memcpy(steps + i, &half, sizeof half);
  }
  return sum(nothing) == 0.0f ? most / STEPS : NAN;
}

struct Input {
  std::vector<uint32_t> pairs;
  std::vector<float> step;  // of each row
};

// Lay one row where its tile wants it. `made` and `halves` have room for a padded row.
void prepare(const bf16* row, int64_t index, const Tiles& tiles, const Linear& linear,
             const Before& before, float* made, uint16_t* halves, Input& input) {
  make_row(row, linear.num_in, before, made);
  if (linear.scale) {
    input.step[index] = count_steps(made, linear.num_in, (int16_t*)halves);
  } else {
    for (int64_t i = 0; i < linear.num_in; i += LANES) store((bf16*)halves + i, load(made + i));
  }
  const int64_t num_pairs = linear.num_in / 2, tile = tiles.of(index), rows = tiles.rows(tile);
  const int64_t first = tiles.first(tile);
  uint32_t* to = input.pairs.data() + first * num_pairs + (index - first);
  if (rows == 1) {
    memcpy(to, halves, num_pairs * sizeof *to);
    return;
  }
  for (int64_t k = 0; k < num_pairs; k++) memcpy(to + k * rows, halves + 2 * k, sizeof *to);
}

// Rows of an output, and what is added to them.
struct Output {
  const Linear& linear;
  const bf16* plus;  // or null
  bf16* out;
  void put(int64_t row, int64_t column, vf x, const float* steps) const {
    const int64_t left = linear.num_out - column;
    if (left <= 0) return;
    if (linear.scale) x *= load(linear.scale + column, left) * steps[row];
    if (linear.bias) x += load(linear.bias + column, left);
    if (plus) x += load(plus + row * linear.num_out + column, left);
    store(out + row * linear.num_out + column, x, left);
  }
};

#if defined(__AVX512BF16__)
constexpr int HAS_BF16 = 1;

struct Bf16 {
  using Sum = __m512;
  static constexpr int64_t BYTES = 64;          // of 16 outputs and a pair of inputs
  static constexpr int64_t BLOCK = INT64_MAX;   // pairs that one sum holds
  INLINE __m512i weight(const char* at) { return _mm512_loadu_si512(at); }
  INLINE void add(Sum& sum, __m512i weight, __m512i pair) {
    sum = _mm512_dpbf16_ps(sum, (__m512bh)weight, (__m512bh)pair);
  }
  INLINE vf number(Sum sum) { return (vf)sum; }
};
#else
constexpr int HAS_BF16 = 0;
#endif

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
constexpr int HAS_INT8 = 2;

struct Int8 {
  using Sum = __m512i;
  static constexpr int64_t BYTES = 32;
  static constexpr int64_t BLOCK = 256;  // 2 * 256 * 127 * STEPS is still below 2^31
  INLINE __m512i weight(const char* at) {
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)at));
  }
  INLINE void add(Sum& sum, __m512i weight, __m512i pair) {
    sum = _mm512_dpwssd_epi32(sum, weight, pair);
  }
  INLINE vf number(Sum sum) { return __builtin_convertvector((vi)sum, vf); }
};
#else
constexpr int HAS_INT8 = 0;
#endif

#if defined(__AVX512BF16__) || defined(__AVX512VNNI__)

constexpr int64_t AHEAD = 4096;  // bytes; from so many rows on the weights come too late by themselves
constexpr int AHEAD_FROM = 7;

// R rows of a tile by N panels.
template <class W, int R, int N>
void multiply(const uint32_t* pairs, const float* steps, const char* weight, int64_t row,
              int64_t panel, const Output& output) {
  const int64_t num_pairs = output.linear.num_in / 2;
  vf numbers[R][2 * N] = {};
  for (int64_t start = 0; start < num_pairs;) {
    const int64_t end = num_pairs - start > W::BLOCK ? start + W::BLOCK : num_pairs;
    typename W::Sum sums[R][2 * N] = {};
    for (int64_t k = start; k < end; k++) {
      __m512i weights[2 * N];
      for (int n = 0; n < 2 * N; n++) {
        const char* at = weight + ((n / 2 * num_pairs + k) * 2 + n % 2) * W::BYTES;
        weights[n] = W::weight(at);
        if (R >= AHEAD_FROM) _mm_prefetch(at + AHEAD, _MM_HINT_T0);
      }
      for (int r = 0; r < R; r++) {
        const __m512i pair = _mm512_set1_epi32(pairs[k * R + r]);
        for (int n = 0; n < 2 * N; n++) W::add(sums[r][n], weights[n], pair);
      }
    }
    for (int r = 0; r < R; r++)
      for (int n = 0; n < 2 * N; n++) numbers[r][n] += W::number(sums[r][n]);
    start = end;
  }
  for (int r = 0; r < R; r++)
    for (int n = 0; n < 2 * N; n++)
      output.put(row + r, panel * PANEL + n * LANES, numbers[r][n], steps);
}

template <class W>
void multiply_tile(int64_t rows, const uint32_t* pairs, const float* steps, const char* weight,
                   int64_t row, int64_t panel, const Output& output) {
  switch (rows) {
#define ROWS(R) \
  case R: return multiply<W, R, 1>(pairs, steps, weight, row, panel, output);
    ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6)
    ROWS(7) ROWS(8) ROWS(9) ROWS(10) ROWS(11) ROWS(12)
#undef ROWS
  }
}

template <class W>
void multiply_all(const Input& input, const Tiles& tiles, const Output& output) {
  const Linear& linear = output.linear;
  const int64_t num_pairs = linear.num_in / 2, num_panels = (linear.num_out + PANEL - 1) / PANEL;
  const float* steps = input.step.data();
#pragma omp for schedule(static)
  for (int64_t panel = 0; panel < num_panels; panel++) {
    const char* weight = (const char*)linear.weight + panel * num_pairs * 2 * W::BYTES;
    for (int64_t tile = 0; tile < tiles.num; tile++) {
      const int64_t row = tiles.first(tile);
      multiply_tile<W>(tiles.rows(tile), input.pairs.data() + row * num_pairs, steps, weight, row,
                       panel, output);
    }
  }
}

void run(const Linear& linear, const bf16* rows, const Before& before, const bf16* plus, bf16* out,
         int64_t tokens, int threads) {
  if (!tokens) return;
  static thread_local Input input_of_caller;
  Input& input = input_of_caller;  // the team's threads have their own of that name
  input.pairs.resize(tokens * linear.num_in / 2);
  input.step.resize(tokens);
  const Tiles tiles{tokens};
  const Output output{linear, plus, out};
  const int64_t row_size = linear.num_in * (before.is_gated ? 2 : 1);
#pragma omp parallel num_threads(team(tokens* linear.num_in* linear.num_out, threads))
  {
    std::vector<float> made(round_up(linear.num_in));
    std::vector<uint16_t> halves(round_up(linear.num_in));
#pragma omp for schedule(static)
    for (int64_t row = 0; row < tokens; row++)
      prepare(rows + row * row_size, row, tiles, linear, before, made.data(), halves.data(), input);
    if (linear.scale) {
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
      multiply_all<Int8>(input, tiles, output);
#endif
    } else {
#if defined(__AVX512BF16__)
      multiply_all<Bf16>(input, tiles, output);
#endif
    }
  }
}
#else
void run(const Linear&, const bf16*, const Before&, const bf16*, bf16*, int64_t, int) {}
#endif

// ---- decoder layers --------------------------------------------------------------------------

// Norm the heads where there is a weight, and turn them by their position's angles, in place.
void turn(bf16* heads, int64_t num_heads, int64_t size, const float* norm, float eps,
          const bf16* cos, const bf16* sin) {
  float made[MOST_HEAD], turned[MOST_HEAD];
  for (int64_t head = 0; head < num_heads; head++, heads += size) {
    if (norm) {
      make_row(heads, size, {norm, eps}, made);
    } else {
      for (int64_t d = 0; d < size; d += LANES) store(made + d, load(heads + d, size - d));
    }
    const int64_t half = size / 2;
    for (int64_t d = 0; d < half; d++) turned[d] = -made[d + half], turned[d + half] = made[d];
    for (int64_t d = 0; d < size; d += LANES)
      store(heads + d,
            load(made + d) * load(cos + d, size - d) + load(turned + d) * load(sin + d, size - d),
            size - d);
  }
}

}  // namespace

extern "C" {

int32_t baton_features() { return HAS_BF16 | HAS_INT8; }

void baton_pack_bf16(const uint16_t* weight, uint16_t* packed, int64_t num_in, int64_t num_out,
                     int32_t threads) {
  pack(weight, packed, num_in, num_out, threads);
}

void baton_pack_int8(const int8_t* weight, int8_t* packed, int64_t num_in, int64_t num_out,
                     int32_t threads) {
  pack(weight, packed, num_in, num_out, threads);
}

void baton_linear(const Linear* linear, const bf16* rows, const bf16* plus, bf16* out,
                  int64_t tokens, int32_t threads) {
  run(*linear, rows, {}, plus, out, tokens, threads);
}

struct Layer {
  Linear qkv, out, gate_up, down;
  const float *norm_in, *norm_mlp, *norm_query, *norm_key;  // the heads' are null where none
  int64_t num_heads, num_kv_heads, head_size;
  float eps, head_eps;
};

void baton_layer_begin(const Layer* layer, const bf16* stream, const bf16* cos, const bf16* sin,
                       bf16* qkv, int64_t tokens, int32_t threads) {
  run(layer->qkv, stream, {layer->norm_in, layer->eps}, nullptr, qkv, tokens, threads);
  const int64_t size = layer->head_size, num_queries = layer->num_heads, num_out = layer->qkv.num_out;
#pragma omp parallel for schedule(static) num_threads(team(8 * tokens * num_out, threads))
  for (int64_t row = 0; row < tokens; row++) {
    bf16* heads = qkv + row * num_out;
    const bf16 *c = cos + row * size, *s = sin + row * size;
    turn(heads, num_queries, size, layer->norm_query, layer->head_eps, c, s);
    turn(heads + num_queries * size, layer->num_kv_heads, size, layer->norm_key, layer->head_eps, c,
         s);
  }
}

void baton_layer_end(const Layer* layer, const bf16* seen, const bf16* stream, bf16* between,
                     bf16* gate_up, bf16* out, int64_t tokens, int32_t threads) {
  run(layer->out, seen, {}, stream, between, tokens, threads);
  run(layer->gate_up, between, {layer->norm_mlp, layer->eps}, nullptr, gate_up, tokens, threads);
  Before gated;
  gated.is_gated = true;
  run(layer->down, gate_up, gated, between, out, tokens, threads);
}

}  // extern "C"
