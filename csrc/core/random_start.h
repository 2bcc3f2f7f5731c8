// A point drawn uniformly from the eps-ball around x, then clipped to the box, for one sample.
//
//   linf   x + eps u, u uniform on the cube
//   l2     x + eps g / sqrt(sum g^2 + 2 E), g standard normal, E standard exponential
//   l1     x + eps e / (sum |e| + E), e standard Laplace
//
// The last two are the uniform law of the ball itself (Barthe, Guedon, Mendelson, Naor, "A probabilistic approach to
// the geometry of the l_p^n-ball", 2005): no power of a uniform is needed for the radius. Element i of the sample,
// counted in row-major order whatever the memory format, uses word i % 4 of Philox block i / 4. For l2 and l1 a GPU
// draws twice, once for the norm and once to write, which moves 8 bytes per element; a CPU draws once and keeps the
// numbers in its cache.
#pragma once

#include "elementary.h"
#include "philox.h"
#include "projection.h"

FASTAT_NAMESPACE_BEGIN

enum class Norm : int { linf, l2, l1 };

// Where row-major element i of a sample lies: row-major itself (channels == 1) or channels last.
struct ElementOrder {
  int64_t channels, spatial;
  FASTAT_HD int64_t offset(int64_t i) const { return channels == 1 ? i : (i % spatial) * channels + i / spatial; }
};

template <class T>
struct StartSample {
  T* out;
  const T* x;
  ElementOrder order;
};

struct Noise4 {
  float v[4];
};

template <Norm norm>
FASTAT_HD Noise4 noise4(const RandomKey& key, int64_t block) {
  const Words4 words = philox(key, static_cast<uint32_t>(block));
  Noise4 noise;
  if constexpr (norm == Norm::linf) {
    unrolled<4>([&](auto k) { noise.v[k] = symmetric_uniform(words.w[k]); });
  } else if constexpr (norm == Norm::l2) {
    unrolled<2>([&](auto pair) {  // Box-Muller
      constexpr int k = 2 * decltype(pair)::value;
      const float radius = sqrtf(-2.0f * log_of(positive_uniform(words.w[k])));
      float cosine, sine;
      cos_sin_turns(unit_uniform(words.w[k + 1]), cosine, sine);
      noise.v[k] = radius * cosine;
      noise.v[k + 1] = radius * sine;
    });
  } else {
    unrolled<4>([&](auto k) {  // the low byte is not in the uniform: its first bit is the sign
      const float magnitude = -log_of(positive_uniform(words.w[k]));
      noise.v[k] = words.w[k] & 1u ? -magnitude : magnitude;
    });
  }
  return noise;
}

// What the noise is multiplied by to be uniform in the ball. keep(i, v) is called with every element's noise. Elements
// that the box pins, its ends being one, are no dimension of the ball.
template <Norm norm, class Team, class T, class Balls, class Keep, class C = compute_t<T>>
FASTAT_HD C ball_scale(const Team& team, const RandomKey& key, int64_t n, const StartSample<T>& s, const Balls& balls,
                       Keep keep) {
  const auto size = [=](int64_t i, float v) {
    const Ball<C> ball = balls.at(s.order.offset(i));
    const double one = norm == Norm::l2 ? static_cast<double>(v) * v : static_cast<double>(abs_of(v));
    return ball.lower < ball.upper ? one : 0.0;
  };
  const auto total = sums<1, double>(team, n / 4, [=](int64_t block, auto v) {
    const Noise4 noise = noise4<norm>(key, block);
    const int64_t first = 4 * block;
    v[0] += (size(first, noise.v[0]) + size(first + 1, noise.v[1])) +
            (size(first + 2, noise.v[2]) + size(first + 3, noise.v[3]));
    unrolled<4>([&](auto k) { keep(first + k, noise.v[k]); });
  });
  double sum = total[0];
  const Noise4 last = noise4<norm>(key, n / 4);
  for (int k = 0; k < static_cast<int>(n % 4); ++k) {
    sum += size(n - n % 4 + k, last.v[k]);
    keep(n - n % 4 + k, last.v[k]);
  }
  const double exponential = -log_of(static_cast<double>(positive_uniform(philox(key, extra_block).w[0])));
  return static_cast<C>(balls.radius() / (norm == Norm::l2 ? sqrt(sum + 2.0 * exponential) : sum + exponential));
}

// `scale` is what l2 and l1 multiply the noise by.
template <class T, class Balls, class C = compute_t<T>>
FASTAT_HD void start_element(const StartSample<T>& s, int64_t i, float noise, C scale, const Balls& balls, bool linf) {
  const int64_t at = s.order.offset(i);
  const Ball<C> ball = balls.at(at);
  const C x = load(s.x[at]);
  const C point = clamp(x + static_cast<C>(noise) * (linf ? ball.eps : scale), ball.lower, ball.upper);
  store_inside(s.out[at], point, x, linf ? ball.eps : abs_of(point - x), ball.lower, ball.upper);
}

FASTAT_NAMESPACE_END
