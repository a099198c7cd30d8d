// 3x3 convolutions by Winograd's F(2x2, 3x3) (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks").
// Each window of 2x2 pixels takes 16 products instead of 36. With d the 4x4 pixels around the window, g the kernel and
// z the window of sums:
//
//   V = B d B',  U = G g G',  M = U V summed over channels, element by element,  z = A M A'
//
// and for the gradients, with dz that of the window:
//
//   W = A' dz A,  dU = V W summed over windows,  dg = G' dU G
//
// Each of the 16 elements has its own plane, (windows, channels), so that the sums are matrix products.

#pragma once

#include <cstdint>
#include <vector>

#include "products.h"
#include "threads.h"

namespace {

// Compute V of `windows` windows side by side. The 4x4 pixels of the first start at x, and those of each next one two
// pixels further.
inline void spread_row(const float* x, int64_t x_row, int64_t windows, int64_t channels, float* to, int64_t plane) {
  for (int64_t window = 0; window < windows; ++window)
    for (int64_t c = 0; c < channels; c += kLanes) {
      Vector half[4][4];
      for (int column = 0; column < 4; ++column) {
        const float* from = x + (2 * window + column) * channels + c;
        Vector d[4];
        for (int row = 0; row < 4; ++row) d[row] = load(from + row * x_row);
        half[0][column] = d[0] - d[2];
        half[1][column] = d[1] + d[2];
        half[2][column] = d[2] - d[1];
        half[3][column] = d[1] - d[3];
      }
      float* at = to + window * channels + c;
      for (int row = 0; row < 4; ++row, at += 4 * plane) {
        const Vector* h = half[row];
        store(at, h[0] - h[2]);
        store(at + plane, h[1] + h[2]);
        store(at + 2 * plane, h[2] - h[1]);
        store(at + 3 * plane, h[1] - h[3]);
      }
    }
}

// Compute W of `windows` windows side by side, the first of which starts at dz.
inline void spread_gradient_row(const float* dz, int64_t dz_row, int64_t windows, int64_t channels, float* to,
                                int64_t plane) {
  for (int64_t window = 0; window < windows; ++window)
    for (int64_t c = 0; c < channels; c += kLanes) {
      const float* from = dz + 2 * window * channels + c;
      Vector half[4][2];
      for (int column = 0; column < 2; ++column) {
        const Vector above = load(from + column * channels), below = load(from + dz_row + column * channels);
        half[0][column] = above;
        half[1][column] = above + below;
        half[2][column] = above - below;
        half[3][column] = -below;
      }
      float* at = to + window * channels + c;
      for (int row = 0; row < 4; ++row, at += 4 * plane) {
        const Vector left = half[row][0], right = half[row][1];
        store(at, left);
        store(at + plane, left + right);
        store(at + 2 * plane, left - right);
        store(at + 3 * plane, -right);
      }
    }
}

// finish(window, vector, z) receives each window's sums of NV vectors of channels, the upper left pixel first.
// V's elements are `plane` apart; `u` is packed as (16, ci, NV * kLanes).
template <int NV, typename Finish>
inline void convolve(const float* v, int64_t plane, int64_t windows, int64_t ci, const float* u, Finish finish) {
  in_tiles<kSums / NV>(windows, [&](auto tile, int64_t first) {
    constexpr int P = decltype(tile)::value;
    Vector m[16][P][NV];
    for (int element = 0; element < 16; ++element) {
      Vector sums[P][NV] = {};
      multiply_add<NV, P>(sums, v + element * plane + first * ci, ci, 1, u + element * ci * NV * kLanes, NV * kLanes,
                          ci);
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p)
#pragma GCC unroll 8
        for (int vector = 0; vector < NV; ++vector) m[element][p][vector] = sums[p][vector];
    }
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 8
      for (int vector = 0; vector < NV; ++vector) {
        Vector half[2][4];
#pragma GCC unroll 4
        for (int column = 0; column < 4; ++column) {
          const Vector middle = m[4 + column][p][vector], next = m[8 + column][p][vector];
          half[0][column] = m[column][p][vector] + middle + next;
          half[1][column] = middle - next - m[12 + column][p][vector];
        }
        Vector z[4];
#pragma GCC unroll 2
        for (int row = 0; row < 2; ++row) {
          const Vector* h = half[row];
          z[2 * row] = h[0] + h[1] + h[2];
          z[2 * row + 1] = h[1] - h[2] - h[3];
        }
        finish(first + p, vector, z);
      }
  });
}

// Add V times W, summed over the windows, to dU, which is packed as (co / tile, 16, ci, tile).
template <int NV>
inline void correlate_windows(float* du, const float* v, int64_t ci, const float* w, int64_t co,
                              int64_t windows) {
  constexpr int tile = NV * kLanes;
  for (int64_t c = 0; c < co; c += tile)
    for (int element = 0; element < 16; ++element)
      correlate<NV>(du + (16 * c + element * tile) * ci, ci, v + element * windows * ci, 0, ci,
                    w + element * windows * co + c, 0, co, 1, windows);
}

// Compute U of one vector of output channels. `kernel` is (3, 3, ...) with its taps `tap` floats apart; the elements of
// U are `element` floats apart.
inline void spread_kernel(const float* kernel, int64_t tap, float* u, int64_t element) {
  Vector half[4][3];
  for (int column = 0; column < 3; ++column) {
    const Vector first = load(kernel + column * tap), last = load(kernel + (6 + column) * tap);
    const Vector middle = load(kernel + (3 + column) * tap);
    half[0][column] = first;
    half[1][column] = 0.5f * (first + middle + last);
    half[2][column] = 0.5f * (first - middle + last);
    half[3][column] = last;
  }
  for (int row = 0; row < 4; ++row, u += 4 * element) {
    const Vector* h = half[row];
    store(u, h[0]);
    store(u + element, 0.5f * (h[0] + h[1] + h[2]));
    store(u + 2 * element, 0.5f * (h[0] - h[1] + h[2]));
    store(u + 3 * element, h[2]);
  }
}

// Compute dg from dU, of one vector of output channels.
inline void gather_kernel(const Vector (&du)[16], float* kernel, int64_t tap) {
  Vector half[3][4];
  for (int column = 0; column < 4; ++column) {
    const Vector sum = 0.5f * (du[4 + column] + du[8 + column]);
    const Vector difference = 0.5f * (du[4 + column] - du[8 + column]);
    half[0][column] = du[column] + sum;
    half[1][column] = difference;
    half[2][column] = sum + du[12 + column];
  }
  for (int row = 0; row < 3; ++row, kernel += 3 * tap) {
    const Vector sum = 0.5f * (half[row][1] + half[row][2]);
    store(kernel, half[row][0] + sum);
    store(kernel + tap, 0.5f * (half[row][1] - half[row][2]));
    store(kernel + 2 * tap, sum + half[row][3]);
  }
}

// The channels from `first` up to, but not including, `last`.
struct Channels {
  int64_t first, last;
};

// Pack some channels of a kernel (9, ci, co) as U, (channels / tile, 16, ci, tile).
inline void pack(const float* kernel, int64_t ci, int64_t co, Channels channels, int64_t tile, float* packed) {
  for (int64_t c = channels.first; c < channels.last; c += tile, packed += 16 * ci * tile)
    for (int64_t v = 0; v < tile; v += kLanes)
      for (int64_t i = 0; i < ci; ++i)
        spread_kernel(kernel + i * co + c + v, ci * co, packed + i * tile + v, ci * tile);
}

// Pack all channels, in parallel. With one input channel, the kernel stays as it is.
std::vector<float> pack(ffi::ThreadPool& pool, const float* kernel, int64_t ci, int64_t co, int64_t tile) {
  if (ci == 1) return std::vector<float>(kernel, kernel + 9 * co);
  std::vector<float> packed(16 * ci * co);
  in_parallel(pool, co / tile, [&](int64_t task) {
    pack(kernel, ci, co, {task * tile, (task + 1) * tile}, tile, packed.data() + task * 16 * ci * tile);
  });
  return packed;
}

// Pack the kernel of the gradient of x as U, (ci / tile, 16, co, tile): that of (9, ci, co) with its taps reversed.
std::vector<float> pack_turned(const float* kernel, int64_t ci, int64_t co, int64_t tile) {
  std::vector<float> packed(16 * ci * co), u(16 * kLanes);
  constexpr int turned[4] = {3, 1, 2, 0};  // the row of U that each becomes when the taps are reversed
  for (int64_t i = 0; i < ci; ++i)
    for (int64_t c = 0; c < co; c += kLanes) {
      spread_kernel(kernel + i * co + c, ci * co, u.data(), kLanes);
      for (int element = 0; element < 16; ++element) {
        const float* from = u.data() + (4 * turned[element / 4] + turned[element % 4]) * kLanes;
        float* to = packed.data() + ((i / tile * 16 + element) * co + c) * tile + i % tile;
        for (int lane = 0; lane < kLanes; ++lane) to[lane * tile] = from[lane];
      }
    }
  return packed;
}

}  // namespace
