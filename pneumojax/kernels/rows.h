// Rows of activations: ReLU, dropout, and what max-pool chooses of each 2x2 window.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "products.h"
#include "threads.h"

namespace {

// The corner of a 2x2 window that max-pool chooses after the affine map whose scale has the sign `sign` (1, 0, -1): the
// first of the largest of sign * a. `extreme` is a there.
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

// Dropout; layers.py tells how the random bits come of two seeds a row and of the place in the row.
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
};

// A picture with a border of zeros, one pixel wide, copied row by row as it is needed, from the one above `first` on.
class Padded {
 public:
  Padded(int slot, const float* picture, int64_t height, int64_t width, int64_t channels, int64_t first = 0)
      : picture_(picture), height_(height), width_(width), channels_(channels),
        row_((width + 2) * channels), memory_(scratch(slot, (height + 2) * row_)),
        ready_(std::max<int64_t>(first - 1, 0)) {
    std::memset(memory_, 0, row_ * sizeof(float));
    std::memset(memory_ + (height + 1) * row_, 0, row_ * sizeof(float));
  }
  // The row above `row`: all rows to the one below it are there.
  const float* above(int64_t row) {
    for (const int64_t last = std::min(row + 1, height_ - 1); ready_ <= last; ++ready_) {
      float* to = memory_ + (ready_ + 1) * row_;
      std::memset(to, 0, channels_ * sizeof(float));
      std::memcpy(to + channels_, picture_ + ready_ * width_ * channels_, width_ * channels_ * sizeof(float));
      std::memset(to + (width_ + 1) * channels_, 0, channels_ * sizeof(float));
    }
    return memory_ + row * row_;
  }

 private:
  const float* picture_;
  int64_t height_, width_, channels_, row_;
  float* memory_;
  int64_t ready_;
};

// Two rows of a = dropout(relu(convolution)), for the channels from `c` on, at `to`, of which a pixel takes `stride`.
template <int NV>
void activate_rows(const Shape& s, Padded& x, int64_t picture, int64_t row, int64_t c, const float* packed,
                   const float* bias, const Dropout& dropout, float* to, int64_t stride) {
  for (int64_t h = row; h < std::min(row + 2, s.height); ++h, to += s.width * stride) {
    const float* kernel = packed + c * 9 * s.ci;
    if (!dropout.seeds) {
      convolve_row<NV>(x.above(h), s.width, s.ci, kernel, bias + c, [&](int64_t column, int v, Vector sum) {
        store(to + column * stride + v * kLanes, rectify(sum));
      });
      continue;
    }
    const uint32_t* seeds = dropout.seeds + 2 * (picture * s.height + h);
    convolve_row<NV>(x.above(h), s.width, s.ci, kernel, bias + c, [&](int64_t column, int v, Vector sum) {
      const int64_t place = column * s.co + c + v * kLanes;
      store(to + column * stride + v * kLanes, drop(rectify(sum), seeds, place, dropout));
    });
  }
}

// Calls body(column of the pool, window, its corners) over the windows of two rows of one vector of channels.
template <typename Body>
inline void windows(const float* rows, int64_t width, int64_t stride, bool two, Body body) {
  for (int64_t column = 0; column < width; column += 2) {
    const bool right = column + 1 < width;
    const float* at = rows + column * stride;
    const float* below = at + width * stride;
    const Vector window[4] = {load(at), right ? load(at + stride) : Vector{}, two ? load(below) : Vector{},
                              two && right ? load(below + stride) : Vector{}};
    body(column / 2, window, 1 | right << 1 | two << 2 | (two && right) << 3);
  }
}

}  // namespace
