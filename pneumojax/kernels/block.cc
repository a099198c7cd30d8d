// The block (convolution 3x3 -> ReLU -> dropout -> batch normalization -> max-pool 2x2) on a CPU, float32.
//
// XLA calls three functions: Infer, Forward and Backward. layers.py says what each computes, by computing the same in
// JAX. Arrays are (n, height, width, channels); `ci` and `co` are the channels that come in and go out. A picture is
// worked on by one thread, in rows that stay in its cache:
//
//   Forward   rows of x -> convolution -> ReLU and dropout -> a; of each window, the extreme that max-pool will choose
//   Backward  gradient of the pool -> dz, the convolution's -> dx and dw, band of rows by band of rows
//
// All three convolutions (forward, to dx, to dw) are one loop, `multiply_add`: P rows times NV vectors of sums are kept
// in registers while K products are added to each.

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

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

// ---------------------------------------------------------------------------------------------------------- threads

// Calls task(i) for each i below `count` on XLA's threads and on this one. Whoever is free takes the next number, so
// that it ends even where every other thread is busy elsewhere.
template <typename Task>
void in_parallel(ffi::ThreadPool& pool, int64_t count, Task task) {
  struct Shared {
    std::atomic<int64_t> next{0};
    std::mutex mutex;
    std::condition_variable done;
    int64_t finished = 0;
  };
  auto shared = std::make_shared<Shared>();
  auto work = [shared, count](Task& task) {
    for (int64_t i; (i = shared->next.fetch_add(1)) < count;) {
      task(i);
      std::lock_guard<std::mutex> lock(shared->mutex);
      if (++shared->finished == count) shared->done.notify_all();
    }
  };
  const int64_t helpers = std::min<int64_t>(count, pool.num_threads()) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule([work, task]() mutable { work(task); });
  work(task);
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->done.wait(lock, [&] { return shared->finished == count; });
}

// Memory that a thread keeps from call to call: fresh pages would cost as much as filling them.
float* scratch(int slot, size_t size) {
  struct Free {
    void operator()(float* memory) const { std::free(memory); }
  };
  thread_local std::unique_ptr<float, Free> memory[4];
  thread_local size_t capacity[4] = {};
  if (capacity[slot] < size) {
    const size_t bytes = (size * sizeof(float) + 63) / 64 * 64;
    memory[slot].reset(static_cast<float*>(std::aligned_alloc(64, bytes)));
    capacity[slot] = size;
  }
  return memory[slot].get();
}

// --------------------------------------------------------------------------------------------------------- products

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

// ---------------------------------------------------------------------------------------------------------- windows

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
  int64_t padded() const { return (height + 2) * (width + 2); }
};

// A picture with a border of zeros, one pixel wide, copied row by row as it is needed.
class Padded {
 public:
  Padded(int slot, const float* picture, int64_t height, int64_t width, int64_t channels)
      : picture_(picture), height_(height), width_(width), channels_(channels),
        row_((width + 2) * channels), memory_(scratch(slot, (height + 2) * row_)) {
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
  int64_t ready_ = 0;
};

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

// ------------------------------------------------------------------------------------------------------------ calls

using Array = ffi::Buffer<ffi::F32>;
using Seeds = ffi::Buffer<ffi::U32>;
using Result = ffi::Result<Array>;

Shape shape_of(const Array& x, const Array& kernel) {
  const auto d = x.dimensions();
  return {d[0], d[1], d[2], d[3], kernel.dimensions()[3]};
}

ffi::Error Infer(ffi::ThreadPool pool, Array x, Array kernel, Array bias, Array scale, Array shift, Result y) {
  const Shape s = shape_of(x, kernel);
  with_tile(s.co, [&](auto nv) {
    constexpr int NV = decltype(nv)::value;
    constexpr int tile = NV * kLanes;
    const std::vector<float> packed = pack(kernel.typed_data(), s.ci, s.co, tile);
    in_parallel(pool, s.n, [&](int64_t n) {
      Padded picture(0, x.typed_data() + n * s.height * s.width * s.ci, s.height, s.width, s.ci);
      float* rows = scratch(1, 2 * s.width * tile);
      for (int64_t c = 0; c < s.co; c += tile)
        for (int64_t r = 0; r < s.rows(); ++r) {
          activate_rows<NV>(s, picture, n, 2 * r, c, packed.data(), bias.typed_data(), {}, rows, tile);
          float* to = y->typed_data() + (n * s.rows() + r) * s.columns() * s.co + c;
          for (int v = 0; v < NV; ++v) {
            const Vector a = load(scale.typed_data() + c + v * kLanes), b = load(shift.typed_data() + c + v * kLanes);
            const Vector sign = sign_of(a);
            windows(rows + v * kLanes, s.width, tile, 2 * r + 1 < s.height,
                    [&](int64_t column, const Vector(&window)[4], int corners) {
                      store(to + column * s.co + v * kLanes, choose(window, corners, sign).extreme * a + b);
                    });
          }
        }
    });
  });
  return ffi::Error::Success();
}

ffi::Error Forward(ffi::ThreadPool pool, Array x, Array kernel, Array bias, Array sign, Seeds seeds, Result a,
                   Result extremes, Result sums, uint32_t threshold, float gain) {
  const Shape s = shape_of(x, kernel);
  const Dropout dropout{threshold ? seeds.typed_data() : nullptr, threshold, gain};
  const bool keep = a->element_count();  // else it is computed anew on the way back
  with_tile(s.co, [&](auto nv) {
    constexpr int NV = decltype(nv)::value;
    constexpr int tile = NV * kLanes;
    const std::vector<float> packed = pack(kernel.typed_data(), s.ci, s.co, tile);
    in_parallel(pool, s.n, [&](int64_t n) {
      Padded picture(0, x.typed_data() + n * s.height * s.width * s.ci, s.height, s.width, s.ci);
      float* total = sums->typed_data() + n * 2 * s.co;
      std::memset(total, 0, 2 * s.co * sizeof(float));
      for (int64_t c = 0; c < s.co; c += tile)
        for (int64_t r = 0; r < s.rows(); ++r) {
          const int64_t stride = keep ? s.co : tile;
          float* rows = keep ? a->typed_data() + (n * s.height + 2 * r) * s.width * s.co + c
                             : scratch(1, 2 * s.width * tile);
          activate_rows<NV>(s, picture, n, 2 * r, c, packed.data(), bias.typed_data(), dropout, rows, stride);
          float* to = extremes->typed_data() + (n * s.rows() + r) * s.columns() * s.co + c;
          for (int v = 0; v < NV; ++v) {
            const Vector direction = load(sign.typed_data() + c + v * kLanes);
            Vector sum{}, squares{};
            windows(rows + v * kLanes, s.width, stride, 2 * r + 1 < s.height,
                    [&](int64_t column, const Vector(&window)[4], int corners) {
                      for (int corner = 0; corner < 4; ++corner) {
                        sum += window[corner];  // zero beyond an odd side
                        squares += window[corner] * window[corner];
                      }
                      store(to + column * s.co + v * kLanes, choose(window, corners, direction).extreme);
                    });
            float* at = total + c + v * kLanes;
            store(at, load(at) + sum);
            store(at + s.co, load(at + s.co) + squares);
          }
        }
    });
  });
  return ffi::Error::Success();
}

// dz of two rows at `to`, one vector of channels, from a and the gradient that reaches the pool's output.
struct Slope {
  Vector sign, scale, constant, linear;  // the gradient of a: scale * (that of the pool, where chosen) + constant + linear * a
};

inline void gate(const float* a, int64_t a_stride, const float* gradient, int64_t gradient_stride, const Slope& slope,
                 float gain, int64_t width, bool two, float* to, int64_t to_row, int64_t to_stride, Vector& bias) {
  windows(a, width, a_stride, two, [&](int64_t column, const Vector(&window)[4], int corners) {
    const Mask chosen = choose(window, corners, slope.sign).corner;
    const Vector through = slope.scale * load(gradient + column * gradient_stride);
#pragma GCC unroll 4
    for (int corner = 0; corner < 4; ++corner) {
      if (!(corners >> corner & 1)) continue;
      Vector da = slope.constant + slope.linear * window[corner] + (chosen == corner ? through : Vector{});
      da = window[corner] == 0.f ? Vector{} : da * gain;  // closed by ReLU or by dropout
      bias += da;
      store(to + (corner / 2) * to_row + (2 * column + corner % 2) * to_stride, da);
    }
  });
}

inline Slope slope_at(const Array& slopes, int64_t co, int64_t c) {
  const float* from = slopes.typed_data() + c;
  return {load(from), load(from + co), load(from + 2 * co), load(from + 3 * co)};
}

// Sums over groups of pictures, added up in the same order on any number of threads.
constexpr int64_t kGroups = 16;

void add_groups(ffi::ThreadPool& pool, const std::vector<float>& groups, int64_t count, int64_t size,
                const int64_t tile, const Shape& s, float* dw, float* db) {
  const int64_t rows = 9 * s.ci;
  in_parallel(pool, s.co / tile, [&](int64_t t) {
    for (int64_t k = 0; k <= rows; ++k) {
      float* to = k < rows ? dw + k * s.co + t * tile : db + t * tile;
      const float* from = groups.data() + (k < rows ? (t * rows + k) * tile : rows * s.co + t * tile);
      for (int64_t i = 0; i < tile; ++i) to[i] = from[i];
      for (int64_t group = 1; group < count; ++group)
        for (int64_t i = 0; i < tile; ++i) to[i] += from[group * size + i];
    }
  });
}

// With x of one channel `a` is empty: it is computed anew; dx is then not computed either.
ffi::Error Backward(ffi::ThreadPool pool, Array x, Array kernel, Array bias, Seeds seeds, Array a, Array gradient,
                    Array slopes, Result dx, Result dw, Result db, uint32_t threshold, float gain) {
  const Shape s = shape_of(x, kernel);
  const Dropout dropout{threshold ? seeds.typed_data() : nullptr, threshold, gain};
  const bool kept = a.element_count(), to_x = dx->element_count();
  const int64_t groups = std::min(s.n, kGroups), size = 9 * s.ci * s.co + s.co;
  std::vector<float> partial(groups * size);
  with_tile(s.co, [&](auto nv) {
    constexpr int NV = decltype(nv)::value;
    constexpr int tile = NV * kLanes;
    const std::vector<float> packed = kept ? std::vector<float>() : pack(kernel.typed_data(), s.ci, s.co, tile);
    with_tile(to_x ? s.ci : 2 * kLanes, [&](auto nx) {
      constexpr int NX = decltype(nx)::value;
      const std::vector<float> turned =
          to_x ? pack_turned(kernel.typed_data(), s.ci, s.co, NX * kLanes) : std::vector<float>();
      const int64_t x_row = (s.width + 2) * s.ci, dz_row = (s.width + 2) * s.co;
      // Bands of an even number of rows, long enough that loading and storing sums is a small part.
      const int64_t band = 2 * std::max<int64_t>(1, 75 / s.width);
      in_parallel(pool, groups, [&](int64_t group) {
        float* sums = partial.data() + group * size;
        float* dz = scratch(2, s.padded() * s.co);
        std::memset(dz, 0, s.padded() * s.co * sizeof(float));
        for (int64_t n = group * s.n / groups; n < (group + 1) * s.n / groups; ++n) {
          Padded picture(0, x.typed_data() + n * s.height * s.width * s.ci, s.height, s.width, s.ci);
          int64_t done = 0;  // rows of dx
          for (int64_t first = 0; first < s.height; first += band) {
            const int64_t last = std::min(first + band, s.height);
            for (int64_t row = first; row < last; row += 2)
              for (int64_t c = 0; c < s.co; c += tile) {
                const int64_t stride = kept ? s.co : tile;
                const float* rows = a.typed_data() + (n * s.height + row) * s.width * s.co + c;
                if (!kept) {
                  float* anew = scratch(1, 2 * s.width * tile);
                  activate_rows<NV>(s, picture, n, row, c, packed.data(), bias.typed_data(), dropout, anew, stride);
                  rows = anew;
                }
                for (int v = 0; v < NV; ++v) {
                  const int64_t channel = c + v * kLanes;
                  Vector total{};
                  gate(rows + v * kLanes, stride,
                       gradient.typed_data() + (n * s.rows() + row / 2) * s.columns() * s.co + channel, s.co,
                       slope_at(slopes, s.co, channel), gain, s.width, row + 1 < s.height,
                       dz + (row + 1) * dz_row + s.co + channel, dz_row, s.co, total);
                  float* at = sums + 9 * s.ci * s.co + channel;
                  store(at, load(at) + total);
                }
              }
            picture.above(last - 1);
            for (int64_t c = 0; c < s.co; c += tile)
              for (int r = 0; r < 3; ++r)
                correlate<NV>(sums + (9 * c + 3 * r * tile) * s.ci, picture.above(first) + r * x_row, x_row, s.ci,
                              dz + (first + 1) * dz_row + s.co + c, dz_row, s.co, last - first, s.width);
            if (!to_x) continue;
            for (const int64_t ready = last == s.height ? last : last - 1; done < ready; ++done)
              for (int64_t c = 0; c < s.ci; c += NX * kLanes) {
                float* to = dx->typed_data() + (n * s.height + done) * s.width * s.ci + c;
                convolve_row<NX>(dz + done * dz_row, s.width, s.co, turned.data() + c * 9 * s.co, nullptr,
                                 [&](int64_t column, int v, Vector sum) {
                                   store(to + column * s.ci + v * kLanes, sum);
                                 });
              }
          }
        }
      });
    });
    add_groups(pool, partial, groups, size, tile, s, dw->typed_data(), db->typed_data());
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(PneumojaxInfer, Infer,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Ret<Array>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(PneumojaxForward, Forward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Seeds>()
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Attr<uint32_t>("threshold")
                                  .Attr<float>("gain"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(PneumojaxBackward, Backward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Seeds>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Attr<uint32_t>("threshold")
                                  .Attr<float>("gain"));
