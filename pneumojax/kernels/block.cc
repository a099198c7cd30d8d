// The block (convolution 3x3 -> ReLU -> dropout -> batch normalization -> max-pool 2x2) on a CPU, float32.
//
// XLA calls four functions: Infer, Forward, Backward and Saliency. layers.py says what each computes, by computing the same in
// JAX. Arrays are (n, height, width, channels); `ci` and `co` are the channels that come in and go out. A picture is
// worked on by one thread, in rows that stay in its cache:
//
//   Forward   rows of x -> convolution -> ReLU and dropout -> a; of each window, the extreme that max-pool will choose
//   Backward  gradient of the pool -> dz, the convolution's -> dx and dw, band of rows by band of rows
//   Saliency  the same, for dx alone

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "rows.h"
#include "xla/ffi/api/ffi.h"

namespace {

using Array = ffi::Buffer<ffi::F32>;
using Seeds = ffi::Buffer<ffi::U32>;
using Result = ffi::Result<Array>;

Shape shape_of(const Array& x, const Array& kernel) {
  const auto d = x.dimensions();
  return {d[0], d[1], d[2], d[3], kernel.dimensions()[3]};
}

// Into how many bands of rows a picture is divided: several where there are fewer pictures than threads.
int64_t bands_of(const Shape& s, const ffi::ThreadPool& pool) {
  return s.n ? std::min(s.rows(), (pool.num_threads() + s.n - 1) / s.n) : 0;
}

ffi::Error Infer(ffi::ThreadPool pool, Array x, Array kernel, Array bias, Array scale, Array shift, Result y) {
  const Shape s = shape_of(x, kernel);
  with_tile(s.co, [&](auto nv) {
    constexpr int NV = decltype(nv)::value;
    constexpr int tile = NV * kLanes;
    const std::vector<float> packed = pack(kernel.typed_data(), s.ci, s.co, tile);
    const int64_t bands = bands_of(s, pool);
    in_parallel(pool, s.n * bands, [&](int64_t task) {
      const int64_t n = task / bands, first = task % bands * s.rows() / bands;
      const int64_t last = (task % bands + 1) * s.rows() / bands;
      Padded picture(0, x.typed_data() + n * s.height * s.width * s.ci, s.height, s.width, s.ci, 2 * first);
      float* rows = scratch(1, 2 * s.width * tile);
      for (int64_t c = 0; c < s.co; c += tile)
        for (int64_t r = first; r < last; ++r) {
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
  const bool keep = s.ci > 1;  // else it is computed anew on the way back
  with_tile(s.co, [&](auto nv) {
    constexpr int NV = decltype(nv)::value;
    constexpr int tile = NV * kLanes;
    const std::vector<float> packed = pack(kernel.typed_data(), s.ci, s.co, tile);
    const int64_t bands = bands_of(s, pool);
    std::vector<float> totals(s.n * bands * 2 * s.co);
    in_parallel(pool, s.n * bands, [&](int64_t task) {
      const int64_t n = task / bands, first = task % bands * s.rows() / bands;
      const int64_t last = (task % bands + 1) * s.rows() / bands;
      Padded picture(0, x.typed_data() + n * s.height * s.width * s.ci, s.height, s.width, s.ci, 2 * first);
      float* total = totals.data() + task * 2 * s.co;
      for (int64_t c = 0; c < s.co; c += tile)
        for (int64_t r = first; r < last; ++r) {
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
    float* to = sums->typed_data();
    std::fill(to, to + s.n * 2 * s.co, 0.f);
    for (int64_t task = 0; task < s.n * bands; ++task)
      for (int64_t i = 0; i < 2 * s.co; ++i) to[task / bands * 2 * s.co + i] += totals[task * 2 * s.co + i];
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

// What a backward call works on. `a` is null where activations were not kept; `dx` where it is not wanted.
struct Back {
  Shape s;
  const float *x, *bias, *a, *gradient;
  const Array& slopes;
  Dropout dropout;
  std::vector<float> packed, turned;
  float* dx;

  int64_t x_row() const { return (s.width + 2) * s.ci; }
  int64_t dz_row() const { return (s.width + 2) * s.co; }
  // Rows worked on together: an even number, enough that loading and storing sums is a small part.
  int64_t band() const { return 2 * std::max<int64_t>(1, 75 / s.width); }
};

// dz, with its border, of the rows from `first` up to `last`; their sum is added to db.
template <int NV>
void gate_band(const Back& back, Padded& picture, int64_t n, int64_t first, int64_t last, float* dz, float* db) {
  const Shape& s = back.s;
  constexpr int tile = NV * kLanes;
  const int64_t stride = back.a ? s.co : tile;
  float* anew = scratch(1, 2 * s.width * tile);
  for (int64_t row = first; row < last; row += 2)
    for (int64_t c = 0; c < s.co; c += tile) {
      const float* rows = back.a + (n * s.height + row) * s.width * s.co + c;
      if (!back.a) {
        activate_rows<NV>(s, picture, n, row, c, back.packed.data(), back.bias, back.dropout, anew, stride);
        rows = anew;
      }
      for (int v = 0; v < NV; ++v) {
        const int64_t channel = c + v * kLanes;
        const float* gradient = back.gradient + (n * s.rows() + row / 2) * s.columns() * s.co + channel;
        float* to = dz + (row + 1) * back.dz_row() + s.co + channel;
        Vector total{};
        gate(rows + v * kLanes, stride, gradient, s.co, slope_at(back.slopes, s.co, channel), back.dropout.gain,
             s.width, row + 1 < s.height, to, back.dz_row(), s.co, total);
        store(db + channel, load(db + channel) + total);
      }
    }
}

// dw of the rows from `first` up to `last`, packed as (co / tile, 9 * ci, tile), is added to `dw`.
template <int NV>
void correlate_band(const Back& back, Padded& picture, int64_t first, int64_t last, const float* dz, float* dw) {
  const Shape& s = back.s;
  constexpr int tile = NV * kLanes;
  picture.above(last - 1);
  const float* x = picture.above(first);
  for (int64_t c = 0; c < s.co; c += tile)
    for (int r = 0; r < 3; ++r)
      correlate<NV>(dw + (9 * c + 3 * r * tile) * s.ci, x + r * back.x_row(), back.x_row(), s.ci,
                    dz + (first + 1) * back.dz_row() + s.co + c, back.dz_row(), s.co, last - first, s.width);
}

// dx of the rows from `first` up to `last`.
template <int NX>
void convolve_back(const Back& back, int64_t n, int64_t first, int64_t last, const float* dz) {
  const Shape& s = back.s;
  for (int64_t row = first; row < last; ++row)
    for (int64_t c = 0; c < s.ci; c += NX * kLanes) {
      float* to = back.dx + (n * s.height + row) * s.width * s.ci + c;
      convolve_row<NX>(
          dz + row * back.dz_row(), s.width, s.co, back.turned.data() + c * 9 * s.co, nullptr,
          [&](int64_t column, int v, Vector sum) { store(to + column * s.ci + v * kLanes, sum); });
    }
}

// The same with one channel that comes in: `kernel` is (9, co), as it was given.
void convolve_back_to_one(const Back& back, int64_t n, const float* dz, const float* kernel) {
  const Shape& s = back.s;
  for (int64_t row = 0; row < s.height; ++row)
    for (int64_t column = 0; column < s.width; ++column) {
      Vector sum{};
      for (int tap = 0; tap < 9; ++tap) {
        const float* from = dz + (row + tap / 3) * back.dz_row() + (column + tap % 3) * s.co;
        const float* weights = kernel + (8 - tap) * s.co;
        for (int64_t c = 0; c < s.co; c += kLanes) sum += load(from + c) * load(weights + c);
      }
      float total = 0.f;
      for (int lane = 0; lane < kLanes; ++lane) total += sum[lane];
      back.dx[(n * s.height + row) * s.width + column] = total;
    }
}

template <int NV, int NX>
void backward_picture(const Back& back, int64_t n, float* dz, float* dw, float* db) {
  const Shape& s = back.s;
  Padded picture(0, back.x + n * s.height * s.width * s.ci, s.height, s.width, s.ci);
  int64_t done = 0;  // rows of dx, which need the row of dz below them
  for (int64_t first = 0; first < s.height; first += back.band()) {
    const int64_t last = std::min(first + back.band(), s.height);
    gate_band<NV>(back, picture, n, first, last, dz, db);
    correlate_band<NV>(back, picture, first, last, dz, dw);
    if (!back.dx) continue;
    const int64_t ready = last == s.height ? last : last - 1;
    convolve_back<NX>(back, n, done, ready, dz);
    done = ready;
  }
}

// dw and db summed over groups of pictures, in the same order on any number of threads.
constexpr int64_t kGroups = 16;

void add_groups(ffi::ThreadPool& pool, const std::vector<float>& sums, int64_t groups, int64_t tile, const Shape& s,
                float* dw, float* db) {
  const int64_t rows = 9 * s.ci, size = (rows + 1) * s.co;
  in_parallel(pool, s.co / tile, [&](int64_t t) {
    for (int64_t k = 0; k <= rows; ++k) {
      float* to = k < rows ? dw + k * s.co + t * tile : db + t * tile;
      const float* from = sums.data() + (k < rows ? (t * rows + k) * tile : rows * s.co + t * tile);
      std::fill(to, to + tile, 0.f);
      for (int64_t group = 0; group < groups; ++group)
        for (int64_t i = 0; i < tile; ++i) to[i] += from[group * size + i];
    }
  });
}

// With x of one channel `a` is empty: it is computed anew; dx is then not computed either.
ffi::Error Backward(ffi::ThreadPool pool, Array x, Array kernel, Array bias, Seeds seeds, Array a, Array gradient,
                    Array slopes, Result dx, Result dw, Result db, uint32_t threshold, float gain) {
  const Shape s = shape_of(x, kernel);
  const bool kept = s.ci > 1;
  const int64_t groups = std::min(s.n, kGroups), size = (9 * s.ci + 1) * s.co;
  std::vector<float> sums(groups * size);
  with_tile(s.co, [&](auto nv) {
    with_tile(kept ? s.ci : 2 * kLanes, [&](auto nx) {
      constexpr int NV = decltype(nv)::value, NX = decltype(nx)::value, tile = NV * kLanes;
      const float* weights = kernel.typed_data();
      const Back back{s, x.typed_data(), bias.typed_data(), kept ? a.typed_data() : nullptr, gradient.typed_data(),
                      slopes, {threshold ? seeds.typed_data() : nullptr, threshold, gain},
                      kept ? std::vector<float>() : pack(weights, s.ci, s.co, tile),
                      kept ? pack_turned(weights, s.ci, s.co, NX * kLanes) : std::vector<float>(),
                      kept ? dx->typed_data() : nullptr};
      in_parallel(pool, groups, [&](int64_t group) {
        float* own = sums.data() + group * size;
        float* dz = scratch(2, (s.height + 2) * back.dz_row());
        std::memset(dz, 0, (s.height + 2) * back.dz_row() * sizeof(float));  // its border stays so
        for (int64_t n = group * s.n / groups; n < (group + 1) * s.n / groups; ++n)
          backward_picture<NV, NX>(back, n, dz, own, own + 9 * s.ci * s.co);
      });
      add_groups(pool, sums, groups, tile, s, dw->typed_data(), db->typed_data());
    });
  });
  return ffi::Error::Success();
}

// dx alone, of a block without dropout.
ffi::Error Saliency(ffi::ThreadPool pool, Array x, Array kernel, Array bias, Array a, Array gradient, Array slopes,
                    Result dx) {
  const Shape s = shape_of(x, kernel);
  const bool kept = s.ci > 1;
  with_tile(s.co, [&](auto nv) {
    with_tile(kept ? s.ci : 2 * kLanes, [&](auto nx) {
      constexpr int NV = decltype(nv)::value, NX = decltype(nx)::value;
      const float* weights = kernel.typed_data();
      const Back back{s, x.typed_data(), bias.typed_data(), kept ? a.typed_data() : nullptr, gradient.typed_data(),
                      slopes, {nullptr, 0, 1.f},
                      kept ? std::vector<float>() : pack(weights, s.ci, s.co, NV * kLanes),
                      kept ? pack_turned(weights, s.ci, s.co, NX * kLanes) : std::vector<float>(), dx->typed_data()};
      in_parallel(pool, s.n, [&](int64_t n) {
        float* dz = scratch(2, (s.height + 2) * back.dz_row());
        std::memset(dz, 0, (s.height + 2) * back.dz_row() * sizeof(float));
        std::vector<float> db(s.co);
        Padded picture(0, back.x + n * s.height * s.width * s.ci, s.height, s.width, s.ci);
        gate_band<NV>(back, picture, n, 0, s.height, dz, db.data());
        if (kept)
          convolve_back<NX>(back, n, 0, s.height, dz);
        else
          convolve_back_to_one(back, n, dz, weights);
      });
    });
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

XLA_FFI_DEFINE_HANDLER_SYMBOL(PneumojaxSaliency, Saliency,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Ret<Array>());
