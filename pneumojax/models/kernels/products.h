// All convolutions (forward, to dx, to dw) use one loop, `multiply_add`: it keeps P rows of NV vectors of sums in
// registers while it adds K products to each.

#pragma once

#include <cstdint>
#include <type_traits>

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
// Registers left for sums; the others hold the factors and products.
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

// Call body(integral_constant P, first) for nearly equal tiles of P <= `Most` that together cover `length`.
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

// to[i][v] += sum over rows r and k < K of x[r * x_row + k * x_step + i] * y[r * y_row + k * y_step + v], for i < count
template <int NV>
inline void correlate(float* to, int64_t count, const float* x, int64_t x_row, int64_t x_step, const float* y,
                      int64_t y_row, int64_t y_step, int64_t rows, int64_t K) {
  in_tiles<kSums / NV>(count, [&](auto tile, int64_t first) {
    constexpr int P = decltype(tile)::value;
    Vector sums[P][NV];
    float* at = to + first * NV * kLanes;
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) sums[p][v] = load(at + (p * NV + v) * kLanes);
    for (int64_t r = 0; r < rows; ++r)
      multiply_add<NV, P>(sums, x + r * x_row + first, 1, x_step, y + r * y_row, y_step, K);
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) store(at + (p * NV + v) * kLanes, sums[p][v]);
  });
}

// The number of vectors of channels that are computed together.
constexpr int kWide = kRegisters == 32 ? 4 : 2;
template <typename Body>
void with_tile(int64_t channels, Body body) {
  if (channels % (kWide * kLanes) == 0)
    body(std::integral_constant<int, kWide>());
  else
    body(std::integral_constant<int, 2>());
}

}  // namespace
