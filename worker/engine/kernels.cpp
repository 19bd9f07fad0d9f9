// What a decode step on a CPU spends its time on, for `kernels.py`, which documents every call.
//
// Knows nothing of Python, torch or models: addresses and sizes come in, numbers go out. Each row's
// sums are added in one fixed order, whatever runs beside it. Linear layers need AVX-512 with bf16
// (weights in bf16) or VNNI (in int8); all else runs anywhere.
//
// Names of sizes: tokens = rows of a step; num_in, num_out = features of a linear layer.

#include "kernels_attention.h"

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

  void reserve(int64_t tokens, int64_t num_in) {
    pairs.resize(tokens * num_in / 2);
    step.resize(tokens);
  }
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
#pragma omp for schedule(static) nowait
  for (int64_t panel = 0; panel < num_panels; panel++) {
    const char* weight = (const char*)linear.weight + panel * num_pairs * 2 * W::BYTES;
    for (int64_t tile = 0; tile < tiles.num; tile++) {
      const int64_t row = tiles.first(tile);
      multiply_tile<W>(tiles.rows(tile), input.pairs.data() + row * num_pairs, steps, weight, row,
                       panel, output);
    }
  }
}

void multiply_by_kind(const Input& input, const Tiles& tiles, const Output& output) {
  if (output.linear.scale) {
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
    multiply_all<Int8>(input, tiles, output);
#endif
  } else {
#if defined(__AVX512BF16__)
    multiply_all<Bf16>(input, tiles, output);
#endif
  }
}

void run(const Linear& linear, const bf16* rows, const Before& before, const bf16* plus, bf16* out,
         int64_t tokens, int threads) {
  if (!tokens) return;
  static thread_local Input input_of_thread;
  Input& shared = input_of_thread;  // the caller's
  shared.reserve(tokens, linear.num_in);
  const Tiles tiles{tokens};
  const Output output{linear, plus, out};
  const int64_t row_size = linear.num_in * (before.is_gated ? 2 : 1);
#pragma omp parallel num_threads(team(tokens* linear.num_in* linear.num_out, threads))
  {
    std::vector<float> made(round_up(linear.num_in));
    std::vector<uint16_t> halves(round_up(linear.num_in));
    if (tokens == 1) {
      // Each thread prepares the row for itself: waiting for another one takes longer.
      Input& own = input_of_thread;
      own.reserve(1, linear.num_in);
      prepare(rows, 0, tiles, linear, before, made.data(), halves.data(), own);
      multiply_by_kind(own, tiles, output);
    } else {
#pragma omp for schedule(static)
      for (int64_t row = 0; row < tokens; row++)
        prepare(rows + row * row_size, row, tiles, linear, before, made.data(), halves.data(),
                shared);
      multiply_by_kind(shared, tiles, output);
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
#pragma omp parallel for schedule(static) num_threads(tokens > 1 ? threads : 1)
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
