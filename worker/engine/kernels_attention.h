// Attention of sequences with one new token each, over a cache in slots; and the vectors of 16 floats
// that all kernels are written in, which the compiler splits into what the processor has.
//
// A part of `kernels.cpp`.

#pragma once

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

// Cache the new keys and values, and put what each sequence's token sees into its row of `out`.
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
