// The block (convolution 3x3 -> ReLU -> dropout -> batch normalization -> max-pool 2x2) on a CPU, float32.
//
// XLA calls four functions: Infer, Forward, Backward and Saliency. block_operations.py defines each by computing the
// same in JAX. Arrays are (n, height, width, channels); `ci` and `co` are the input and output channels. One thread
// works on a picture, on a band of its rows, or on some of its channels, so that its part stays in its cache. It works
// by windows of 2x2 pixels: max-pool chooses among them, and Winograd's convolution (winograd.h) computes them
// together. The order of additions does not depend on the number of threads.
//
//   Infer     x -> convolution -> ReLU -> the extreme of each window, which max-pool will choose -> affine map
//   Forward   x -> convolution -> ReLU and dropout -> a; and the extreme of each window, which max-pool will choose
//   Backward  gradient of the pool -> dz, that of the convolution -> dx and dw, one band of rows after another
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

// Divide each picture into bands of rows of windows, so that each thread has one, and call body(n, first, last).
template <typename Body>
void in_bands(ffi::ThreadPool& pool, const Shape& s, Body body) {
  const int64_t bands = s.n ? std::min(s.rows(), std::max<int64_t>(1, (pool.num_threads() + s.n - 1) / s.n)) : 0;
  in_parallel(pool, s.n * bands, [&](int64_t task) {
    const int64_t band = task % bands;
    body(task / bands, band * s.rows() / bands, (band + 1) * s.rows() / bands);
  });
}

ffi::Error Infer(ffi::ThreadPool pool, Array x, Array kernel, Array bias, Array scale, Array shift, Result y) {
  const Shape s = shape_of(x, kernel);
  with_tile(s.co, [&](auto nv) {
    constexpr int NV = decltype(nv)::value, tile = NV * kLanes;
    const auto infer = [&](int64_t n, int64_t first, int64_t last, Channels channels, const float* packed) {
      Padded picture(s, x.typed_data(), n, first);
      activate_rows<NV>(s, picture, n, first, last, channels, packed, bias.typed_data(), {},
                        [&](int64_t row, int64_t column, int64_t channel, const Vector(&window)[4]) {
                          const Vector a = load(scale.typed_data() + channel), b = load(shift.typed_data() + channel);
                          const Vector extreme = choose(window, s.corners(row, column), sign_of(a)).extreme;
                          store(y->typed_data() + ((n * s.rows() + row) * s.columns() + column) * s.co + channel,
                                extreme * a + b);
                        });
    };
    const float* weights = kernel.typed_data();
    // Where a picture is alone and has few windows, packing takes most of the time: each thread packs its own channels.
    if (s.n == 1 && s.ci > 1 && s.rows() * s.columns() < s.co && s.co / tile >= pool.num_threads())
      return in_parallel(pool, s.co / tile, [&](int64_t task) {
        const Channels channels{task * tile, (task + 1) * tile};
        float* packed = scratch(2, 16 * s.ci * tile);
        pack(weights, s.ci, s.co, channels, tile, packed);
        infer(0, 0, s.rows(), channels, packed);
      });
    const std::vector<float> packed = pack(pool, weights, s.ci, s.co, tile);
    in_bands(pool, s, [&](int64_t n, int64_t first, int64_t last) { infer(n, first, last, {0, s.co}, packed.data()); });
  });
  return ffi::Error::Success();
}

ffi::Error Forward(ffi::ThreadPool pool, Array x, Array kernel, Array bias, Array sign, Seeds seeds, Result a,
                   Result extremes, Result sums, uint32_t threshold, float gain) {
  const Shape s = shape_of(x, kernel);
  const Dropout dropout{threshold ? seeds.typed_data() : nullptr, threshold, gain};
  const bool keep = s.ci > 1;  // otherwise Backward computes it again
  with_tile(s.co, [&](auto nv) {
    constexpr int NV = decltype(nv)::value;
    const std::vector<float> packed = pack(pool, kernel.typed_data(), s.ci, s.co, NV * kLanes);
    // Sums of a and its square over each row of windows: adding these sums rounds less than adding all values.
    std::vector<float> of_rows(s.n * s.rows() * 2 * s.co);
    in_bands(pool, s, [&](int64_t n, int64_t first, int64_t last) {
      Padded picture(s, x.typed_data(), n, first);
      activate_rows<NV>(
          s, picture, n, first, last, {0, s.co}, packed.data(), bias.typed_data(), dropout,
          [&](int64_t row, int64_t column, int64_t channel, const Vector(&window)[4]) {
            const int corners = s.corners(row, column);
            float* of_row = of_rows.data() + (n * s.rows() + row) * 2 * s.co + channel;
            Vector sum = load(of_row), squares = load(of_row + s.co);
#pragma GCC unroll 4
            for (int corner = 0; corner < 4; ++corner) {
              sum += window[corner];
              squares += window[corner] * window[corner];
              const int64_t h = 2 * row + corner / 2, w = 2 * column + corner % 2;
              if (keep && corners >> corner & 1)
                store(a->typed_data() + ((n * s.height + h) * s.width + w) * s.co + channel, window[corner]);
            }
            store(of_row, sum);
            store(of_row + s.co, squares);
            store(extremes->typed_data() + ((n * s.rows() + row) * s.columns() + column) * s.co + channel,
                  choose(window, corners, load(sign.typed_data() + channel)).extreme);
          });
    });
    float* to = sums->typed_data();
    std::fill(to, to + s.n * 2 * s.co, 0.f);
    for (int64_t row = 0; row < s.n * s.rows(); ++row)
      for (int64_t i = 0; i < 2 * s.co; ++i) to[row / s.rows() * 2 * s.co + i] += of_rows[row * 2 * s.co + i];
  });
  return ffi::Error::Success();
}

// The gradient of a, for one vector of channels: scale * (gradient of the pool, where chosen) + constant + linear * a.
struct Slope {
  Vector sign, scale, constant, linear;
};

inline Slope slope_at(const Array& slopes, int64_t co, int64_t c) {
  const float* from = slopes.typed_data() + c;
  return {load(from), load(from + co), load(from + 2 * co), load(from + 3 * co)};
}

// The data of a backward call. `a` is null where activations were not kept; `dx` is null where it is not computed.
struct Back {
  Shape s;
  const float *x, *bias, *a, *gradient;
  const Array& slopes;
  Dropout dropout;
  std::vector<float> packed, turned;
  float* dx;

  int64_t dz_row() const { return s.padded_row(s.co); }
};

// Write dz of a window for one vector of channels into the bordered array, and add its sum to db.
inline void gate(const Back& back, int64_t n, int64_t row, int64_t column, int64_t channel, const Vector (&window)[4],
                 float* dz, float* db) {
  const Shape& s = back.s;
  const int corners = s.corners(row, column);
  const Slope slope = slope_at(back.slopes, s.co, channel);
  const Mask chosen = choose(window, corners, slope.sign).corner;
  const float* gradient = back.gradient + ((n * s.rows() + row) * s.columns() + column) * s.co + channel;
  const Vector through = slope.scale * load(gradient);
  float* to = dz + (2 * row + 1) * back.dz_row() + (2 * column + 1) * s.co + channel;
  Vector bias = load(db + channel);
#pragma GCC unroll 4
  for (int corner = 0; corner < 4; ++corner) {
    if (!(corners >> corner & 1)) continue;
    Vector da = slope.constant + slope.linear * window[corner] + (chosen == corner ? through : Vector{});
    da = window[corner] == 0.f ? Vector{} : da * back.dropout.gain;  // ReLU or dropout passed nothing on
    bias += da;
    store(to + corner / 2 * back.dz_row() + corner % 2 * s.co, da);
  }
  store(db + channel, bias);
}

// Write dz of the rows of windows from `first` up to, but not including, `last`.
template <int NV>
void gate_rows(const Back& back, Padded& picture, int64_t n, int64_t first, int64_t last, float* dz, float* db) {
  const Shape& s = back.s;
  if (!back.a)
    return activate_rows<NV>(s, picture, n, first, last, {0, s.co}, back.packed.data(), back.bias, back.dropout,
                             [&](int64_t row, int64_t column, int64_t channel, const Vector(&window)[4]) {
                               gate(back, n, row, column, channel, window, dz, db);
                             });
  for (int64_t row = first; row < last; ++row)
    for (int64_t column = 0; column < s.columns(); ++column) {
      const int corners = s.corners(row, column);
      const float* at = back.a + ((n * s.height + 2 * row) * s.width + 2 * column) * s.co;
      for (int64_t c = 0; c < s.co; c += kLanes) {
        Vector window[4] = {};
#pragma GCC unroll 4
        for (int corner = 0; corner < 4; ++corner)
          if (corners >> corner & 1) window[corner] = load(at + (corner / 2 * s.width + corner % 2) * s.co + c);
        gate(back, n, row, column, c, window, dz, db);
      }
    }
}

// Add the packed kernel's gradient over the rows of windows from `first` up to `last` to `du`.
template <int NV>
void correlate_rows(const Back& back, Padded& picture, int64_t first, int64_t last, const float* dz, float* du) {
  const Shape& s = back.s;
  const float* x = picture.before(last);
  if (s.ci == 1) {
    for (int64_t c = 0; c < s.co; c += NV * kLanes)
      for (int r = 0; r < 3; ++r)
        correlate<NV>(du + 9 * c + 3 * r * NV * kLanes, 3, x + (2 * first + r) * s.padded_row(1), s.padded_row(1), 1,
                      dz + (2 * first + 1) * back.dz_row() + s.co + c, back.dz_row(), s.co, 2 * (last - first),
                      s.width);
    return;
  }
  const float* v = spread_rows(1, s, s.ci, first, last, x, spread_row);
  const float* w = spread_rows(3, s, s.co, first, last, dz + back.dz_row() + s.co, spread_gradient_row);
  correlate_windows<NV>(du, v, s.ci, w, s.co, (last - first) * s.columns());
}

// Write dx of the rows of windows from `first` up to `last`.
template <int NX>
void convolve_back(const Back& back, int64_t n, int64_t first, int64_t last, const float* dz) {
  const Shape& s = back.s;
  convolve_rows<NX>(3, s, s.co, {0, s.ci}, dz, first, last, back.turned.data(),
                    [&](int64_t row, int64_t column, int64_t channel, const Vector(&z)[4]) {
                      const int corners = s.corners(row, column);
                      float* to = back.dx + ((n * s.height + 2 * row) * s.width + 2 * column) * s.ci + channel;
                      for (int corner = 0; corner < 4; ++corner)
                        if (corners >> corner & 1) store(to + (corner / 2 * s.width + corner % 2) * s.ci, z[corner]);
                    });
}

// Write dx of a picture with one input channel. `kernel` is (9, co), not packed.
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
void backward_picture(const Back& back, int64_t n, float* dz, float* du, float* db) {
  const Shape& s = back.s;
  Padded picture(s, back.x, n);
  int64_t done = 0;  // rows of dx that are finished; each needs the row of dz below it
  for (int64_t first = 0; first < s.rows(); first += rows_together(s)) {
    const int64_t last = std::min(first + rows_together(s), s.rows());
    gate_rows<NV>(back, picture, n, first, last, dz, db);
    correlate_rows<NV>(back, picture, first, last, dz, du);
    if (!back.dx) continue;
    const int64_t ready = last == s.rows() ? last : last - 1;
    convolve_back<NX>(back, n, done, ready, dz);
    done = ready;
  }
}

// Pictures are summed in at most this many groups, and dw and db over the groups.
constexpr int64_t kGroups = 16;

void add_groups(ffi::ThreadPool& pool, const std::vector<float>& sums, int64_t groups, int64_t tile, const Shape& s,
                float* dw, float* db) {
  const int64_t planes = s.planes(), elements = planes * s.ci * s.co, size = elements + s.co;
  in_parallel(pool, s.co / kLanes, [&](int64_t task) {
    const int64_t c = task * kLanes;
    const auto total = [&](int64_t at) {
      Vector sum{};
      for (int64_t group = 0; group < groups; ++group) sum += load(sums.data() + group * size + at);
      return sum;
    };
    store(db + c, total(elements + c));
    for (int64_t i = 0; i < s.ci; ++i) {
      Vector du[16];
      for (int64_t element = 0; element < planes; ++element)
        du[element] = total(((c / tile * planes + element) * s.ci + i) * tile + c % tile);
      if (s.ci > 1)
        gather_kernel(du, dw + i * s.co + c, s.ci * s.co);
      else
        for (int tap = 0; tap < 9; ++tap) store(dw + tap * s.co + c, du[tap]);
    }
  });
}

// With one input channel, `a` is empty and is computed again, and dx is not computed.
ffi::Error Backward(ffi::ThreadPool pool, Array x, Array kernel, Array bias, Seeds seeds, Array a, Array gradient,
                    Array slopes, Result dx, Result dw, Result db, uint32_t threshold, float gain) {
  const Shape s = shape_of(x, kernel);
  const bool kept = s.ci > 1;
  const int64_t groups = std::min(s.n, kGroups), size = (s.planes() * s.ci + 1) * s.co;
  std::vector<float> sums(groups * size);
  with_tile(s.co, [&](auto nv) {
    with_tile(kept ? s.ci : 2 * kLanes, [&](auto nx) {
      constexpr int NV = decltype(nv)::value, NX = decltype(nx)::value, tile = NV * kLanes;
      const float* weights = kernel.typed_data();
      const Back back{s, x.typed_data(), bias.typed_data(), kept ? a.typed_data() : nullptr, gradient.typed_data(),
                      slopes, {threshold ? seeds.typed_data() : nullptr, threshold, gain},
                      kept ? std::vector<float>() : pack(pool, weights, s.ci, s.co, tile),
                      kept ? pack_turned(weights, s.ci, s.co, NX * kLanes) : std::vector<float>(),
                      kept ? dx->typed_data() : nullptr};
      in_parallel(pool, groups, [&](int64_t group) {
        float* own = sums.data() + group * size;
        float* dz = scratch(2, s.padded_rows() * back.dz_row());
        std::memset(dz, 0, s.padded_rows() * back.dz_row() * sizeof(float));  // the border stays zero
        for (int64_t n = group * s.n / groups; n < (group + 1) * s.n / groups; ++n)
          backward_picture<NV, NX>(back, n, dz, own, own + size - s.co);
      });
      add_groups(pool, sums, groups, tile, s, dw->typed_data(), db->typed_data());
    });
  });
  return ffi::Error::Success();
}

// Compute dx alone, of a block without dropout.
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
                      kept ? std::vector<float>() : pack(pool, weights, s.ci, s.co, NV * kLanes),
                      kept ? pack_turned(weights, s.ci, s.co, NX * kLanes) : std::vector<float>(), dx->typed_data()};
      in_parallel(pool, s.n, [&](int64_t n) {
        float* dz = scratch(2, s.padded_rows() * back.dz_row());
        std::memset(dz, 0, s.padded_rows() * back.dz_row() * sizeof(float));
        std::vector<float> db(s.co);
        Padded picture(s, back.x, n);
        gate_rows<NV>(back, picture, n, 0, s.rows(), dz, db.data());
        if (kept)
          convolve_back<NX>(back, n, 0, s.rows(), dz);
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
