// The products: all three convolutions (forward, to dx, to dw) are one loop, `multiply_add`, in which P rows times NV
// vectors of sums are kept in registers while K products are added to each.

#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kRegisters = 32;
#elif defined(__AVX__)
constexpr int kLanes = 8, kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kLanes = 4, kRegisters = 32;
#else
constexpr int kLanes = 4, kRegisters = 16;
#endif
// What the vectors of a product and its factors leave for sums.
constexpr int kSums = kRegisters == 32 ? 24 : 12;

typedef float Vector __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef int32_t Mask __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef uint32_t Words __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

inline Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline void store(float* to, Vector value) { *reinterpret_cast<Vector*>(to) = value; }

// sums[p][v] += sum over k < K of a[p * a_row + k * a_step] * b[k * b_step + v]
template <int NV, int P>
inline __attribute__((always_inline)) void multiply_add(Vector (&sums)[P][NV], const float* a, int64_t a_row,
                                                        int64_t a_step, const float* b, int64_t b_step, int64_t K) {
  for (int64_t k = 0; k < K; ++k, a += a_step, b += b_step) {
    Vector factors[NV];
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) factors[v] = load(b + v * kLanes);
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
      const float factor = a[p * a_row];
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) sums[p][v] += factor * factors[v];
    }
  }
}

// Calls body(integral_constant P, first) so that the Ps, each at most `Most`, nearly equal, add up to `length`.
template <int Most, typename Body>
inline void in_tiles(int64_t length, Body body) {
  const int64_t tiles = (length + Most - 1) / Most;
  int64_t first = 0;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t size = (length - first + tiles - tile - 1) / (tiles - tile);
    switch (size) {
#define PNEUMOJAX_TILE(P) \
  case P:                 \
    if constexpr (P <= Most) body(std::integral_constant<int, P>(), first); \
    break;
      PNEUMOJAX_TILE(1)
      PNEUMOJAX_TILE(2)
      PNEUMOJAX_TILE(3)
      PNEUMOJAX_TILE(4)
      PNEUMOJAX_TILE(5)
      PNEUMOJAX_TILE(6)
      PNEUMOJAX_TILE(7)
      PNEUMOJAX_TILE(8)
      PNEUMOJAX_TILE(9)
      PNEUMOJAX_TILE(10)
      PNEUMOJAX_TILE(11)
      PNEUMOJAX_TILE(12)
#undef PNEUMOJAX_TILE
    }
    first += size;
  }
}

// One row of a 3x3 convolution for NV vectors of channels: finish(column, vector, sum) receives each sum.
// `padded` is the row above, with one pixel more on either side; `kernel` is packed as (9 * ci, NV * kLanes).
template <int NV, typename Finish>
inline void convolve_row(const float* padded, int64_t width, int64_t ci, const float* kernel, const float* bias,
                         Finish finish) {
  const int64_t row = (width + 2) * ci;
  in_tiles<kSums / NV>(width, [&](auto tile, int64_t first) {
    constexpr int P = decltype(tile)::value;
    Vector sums[P][NV];
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) sums[p][v] = bias ? load(bias + v * kLanes) : Vector{};
    for (int r = 0; r < 3; ++r)
      multiply_add<NV, P>(sums, padded + r * row + first * ci, ci, 1, kernel + r * 3 * ci * NV * kLanes, NV * kLanes,
                          3 * ci);
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) finish(first + p, v, sums[p][v]);
  });
}

// dw of a row of three taps and NV vectors of co, packed as (3 * ci, NV * kLanes), from `rows` rows: += x times dz.
template <int NV>
inline void correlate(float* dw, const float* x, int64_t x_row, int64_t ci, const float* dz, int64_t dz_row,
                      int64_t co, int64_t rows, int64_t width) {
  in_tiles<kSums / NV>(3 * ci, [&](auto tile, int64_t first) {
    constexpr int P = decltype(tile)::value;
    Vector sums[P][NV];
    float* to = dw + first * NV * kLanes;
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) sums[p][v] = load(to + (p * NV + v) * kLanes);
    for (int64_t r = 0; r < rows; ++r)
      multiply_add<NV, P>(sums, x + r * x_row + first, 1, ci, dz + r * dz_row, co, width);
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) store(to + (p * NV + v) * kLanes, sums[p][v]);
  });
}

// (9, ci, co) -> (co / tile, 9, ci, tile)
std::vector<float> pack(const float* kernel, int64_t ci, int64_t co, int64_t tile) {
  std::vector<float> packed(9 * ci * co);
  float* to = packed.data();
  for (int64_t c = 0; c < co; c += tile)
    for (int64_t k = 0; k < 9 * ci; ++k, to += tile) std::memcpy(to, kernel + k * co + c, tile * sizeof(float));
  return packed;
}

// (9, ci, co) -> (ci / tile, 9 turned round, co, tile): the kernel of the gradient that goes to x.
std::vector<float> pack_turned(const float* kernel, int64_t ci, int64_t co, int64_t tile) {
  std::vector<float> packed(9 * ci * co);
  float* to = packed.data();
  for (int64_t c = 0; c < ci; c += tile)
    for (int64_t tap = 8; tap >= 0; --tap)
      for (int64_t o = 0; o < co; ++o, to += tile)
        for (int64_t i = 0; i < tile; ++i) to[i] = kernel[(tap * ci + c + i) * co + o];
  return packed;
}

// Vectors of channels that are worked on together.
constexpr int kWide = kRegisters == 32 ? 4 : 2;
template <typename Body>
void with_tile(int64_t channels, Body body) {
  if (channels % (kWide * kLanes) == 0)
    body(std::integral_constant<int, kWide>());
  else
    body(std::integral_constant<int, 2>());
}

}  // namespace
