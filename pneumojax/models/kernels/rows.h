// Rows of activations: ReLU, dropout, and the choice of max-pool in each 2x2 window.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "products.h"
#include "threads.h"
#include "winograd.h"

namespace {

// The corner of a 2x2 window that max-pool chooses after an affine map whose scale has the sign `sign` (1, 0, -1).
// It is the first of the largest of sign * a; `extreme` is the value of a there.
struct Choice {
  Vector best, extreme;
  Mask corner;
};

inline Choice choose(const Vector (&window)[4], int corners, Vector sign) {
  Choice chosen{sign * window[0], window[0], Mask{}};
  for (int corner = 1; corner < 4; ++corner) {
    if (!(corners >> corner & 1)) continue;  // beyond an odd side
    const Vector candidate = sign * window[corner];
    const Mask better = (candidate > chosen.best) | (candidate != candidate);  // a NaN is passed on
    chosen.best = better ? candidate : chosen.best;
    chosen.extreme = better ? window[corner] : chosen.extreme;
    chosen.corner = better ? Mask{} + corner : chosen.corner;
  }
  return chosen;
}

inline Vector sign_of(Vector value) {
  return value > 0.f ? Vector{} + 1.f : (value < 0.f ? Vector{} - 1.f : Vector{});
}

inline Vector rectify(Vector z) { return z < 0.f ? Vector{} : z; }  // a NaN stays

// Dropout. block_reference.py explains how two seeds per row and the place in the row make the random bits.
struct Dropout {
  const uint32_t* seeds;  // null: nothing is dropped
  uint32_t threshold;
  float gain;
};

inline Vector drop(Vector a, const uint32_t* seeds, uint32_t place, const Dropout& dropout) {
  Words bits;
  for (int lane = 0; lane < kLanes; ++lane) bits[lane] = lane;
  bits = (bits + place) * 0x9e3779b9u + seeds[0];
  bits = (bits ^ bits >> 16) * 0x7feb352du ^ seeds[1];
  bits = (bits ^ bits >> 15) * 0x846ca68bu;
  bits ^= bits >> 16;
  return bits >= dropout.threshold ? a * dropout.gain : Vector{};
}

struct Shape {
  int64_t n, height, width, ci, co;
  int64_t rows() const { return (height + 1) / 2; }
  int64_t columns() const { return (width + 1) / 2; }
  // The corners of a window that are within the picture, one bit each.
  int corners(int64_t row, int64_t column) const {
    const int right = 2 * column + 1 < width, below = 2 * row + 1 < height;
    return 1 | right << 1 | below << 2 | (right & below) << 3;
  }
  // Floats per row, and rows, with a border of zeros: one pixel wide, two beyond an odd side.
  int64_t padded_row(int64_t channels) const { return (2 * columns() + 2) * channels; }
  int64_t padded_rows() const { return 2 * rows() + 2; }
  // Planes of the packed kernel: Winograd's elements, or the taps.
  int64_t planes() const { return ci > 1 ? 16 : 9; }
};

// x of one picture with a border of zeros. Rows are copied when they are needed.
class Padded {
 public:
  // Copying starts at the row above the row of windows `first`.
  Padded(const Shape& s, const float* pictures, int64_t n, int64_t first = 0)
      : s_(s), picture_(pictures + n * s.height * s.width * s.ci), row_(s.padded_row(s.ci)),
        memory_(scratch(0, s.padded_rows() * row_)), ready_(std::max<int64_t>(2 * first - 1, 0)) {
    std::memset(memory_, 0, row_ * sizeof(float));
    std::memset(memory_ + (s.height + 1) * row_, 0, (s.padded_rows() - s.height - 1) * row_ * sizeof(float));
  }
  // Copy the rows that windows before row `last` and the pixels around them need, and return the start of the array.
  const float* before(int64_t last) {
    const int64_t length = s_.width * s_.ci;
    for (const int64_t end = std::min(2 * last + 1, s_.height); ready_ < end; ++ready_) {
      float* to = memory_ + (ready_ + 1) * row_;
      std::memset(to, 0, s_.ci * sizeof(float));
      std::memcpy(to + s_.ci, picture_ + ready_ * length, length * sizeof(float));
      std::memset(to + s_.ci + length, 0, (row_ - s_.ci - length) * sizeof(float));
    }
    return memory_;
  }

 private:
  const Shape s_;
  const float* picture_;
  int64_t row_;
  float* memory_;
  int64_t ready_;
};

// Compute V or W (winograd.h) of the rows of windows from `first` up to, but not including, `last`.
template <typename SpreadRow>
const float* spread_rows(int slot, const Shape& s, int64_t channels, int64_t first, int64_t last, const float* padded,
                         SpreadRow spread_row) {
  const int64_t length = s.columns() * channels, plane = (last - first) * length, row = s.padded_row(channels);
  float* to = scratch(slot, 16 * plane);
  for (int64_t r = first; r < last; ++r)
    spread_row(padded + 2 * r * row, row, s.columns(), channels, to + (r - first) * length, plane);
  return to;
}

// The number of rows of windows that are computed together: enough that reading the kernel takes little of the time.
int64_t rows_together(const Shape& s) { return std::max<int64_t>(1, 64 / s.columns()); }

// Call finish(row, column, channel, z) for each window of the rows from `first` up to `last` and each vector of
// `channels`. z is the result of the convolution without bias, `packed` the result of `pack` for these channels.
template <int NV, typename Finish>
void convolve_rows(int slot, const Shape& s, int64_t ci, Channels channels, const float* padded, int64_t first,
                   int64_t last, const float* packed, Finish finish) {
  constexpr int tile = NV * kLanes;
  const int64_t length = s.columns() * ci;
  for (int64_t band = first; band < last; band += rows_together(s)) {
    const int64_t end = std::min(band + rows_together(s), last);
    const float* v = spread_rows(slot, s, ci, band, end, padded, spread_row);
    for (int64_t c = channels.first; c < channels.last; c += tile)
      for (int64_t row = band; row < end; ++row)
        convolve<NV>(v + (row - band) * length, (end - band) * length, s.columns(), ci,
                     packed + (c - channels.first) * 16 * ci,
                     [&](int64_t column, int vector, const Vector(&z)[4]) {
                       finish(row, column, c + vector * kLanes, z);
                     });
  }
}

// The same with one input channel, where Winograd's algorithm saves nothing. `kernel` is (9, co), not packed.
template <int NV, typename Finish>
void convolve_rows_of_one(const Shape& s, Channels channels, const float* padded, int64_t first, int64_t last,
                          const float* kernel, Finish finish) {
  const int64_t x_row = s.padded_row(1);
  for (int64_t row = first; row < last; ++row)
    for (int64_t c = channels.first; c < channels.last; c += NV * kLanes)
      for (int64_t column = 0; column < s.columns(); ++column) {
        const float* x = padded + 2 * row * x_row + 2 * column;
        Vector z[NV][4] = {};
#pragma GCC unroll 9
        for (int tap = 0; tap < 9; ++tap)
#pragma GCC unroll 4
          for (int corner = 0; corner < 4; ++corner) {
            const float factor = x[(corner / 2 + tap / 3) * x_row + corner % 2 + tap % 3];
#pragma GCC unroll 8
            for (int v = 0; v < NV; ++v) z[v][corner] += factor * load(kernel + tap * s.co + c + v * kLanes);
          }
#pragma GCC unroll 8
        for (int v = 0; v < NV; ++v) finish(row, column, c + v * kLanes, z[v]);
      }
}

// Call finish(row, column, channel, a) with a = dropout(relu(convolution)), which is zero beyond an odd side.
template <int NV, typename Finish>
void activate_rows(const Shape& s, Padded& x, int64_t n, int64_t first, int64_t last, Channels channels,
                   const float* packed, const float* bias, const Dropout& dropout, Finish finish) {
  const auto activate = [&](int64_t row, int64_t column, int64_t channel,
                            const Vector(&z)[4]) __attribute__((always_inline)) {
    const int corners = s.corners(row, column);
    const Vector b = load(bias + channel);
    Vector a[4];
#pragma GCC unroll 4
    for (int corner = 0; corner < 4; ++corner) a[corner] = corners >> corner & 1 ? rectify(z[corner] + b) : Vector{};
    if (dropout.seeds) {
      const uint32_t* seeds = dropout.seeds + 2 * (n * s.height + 2 * row);
      const uint32_t place = 2 * column * s.co + channel;
#pragma GCC unroll 4
      for (int corner = 0; corner < 4; ++corner)
        if (corners >> corner & 1)
          a[corner] = drop(a[corner], seeds + corner / 2 * 2, place + corner % 2 * s.co, dropout);
    }
    finish(row, column, channel, a);
  };
  const float* padded = x.before(last);
  if (s.ci == 1)
    convolve_rows_of_one<NV>(s, channels, padded, first, last, packed, activate);
  else
    convolve_rows<NV>(1, s, s.ci, channels, padded, first, last, packed, activate);
}

}  // namespace
