// A Team is the threads that share one sample (or one row of logits). Kernels in core/ are written once over it:
//   for_each(team, n, f)         f(i) for every i in [0, n)
//   sums<K, Acc>(team, n, f)     K sums in one pass: f(i, v) adds its terms to v[0..K); <K, Acc, Total> adds the
//                                partial sums up in another type
//   max_of(team, n, f)           the largest f(i); NaN is passed over
// SerialTeam is one CPU thread, with loops that vectorize and a summation order that is fixed, so that results do not
// depend on the width of the vector unit. The CUDA teams (cuda/team.cuh) provide rank, size, sum, max and sync.
#pragma once

#include "portable.h"

FASTAT_NAMESPACE_BEGIN

// Where f(i, terms) adds: terms[k] is the k-th accumulator of the lane at work.
template <class Acc, int stride>
struct Terms {
  Acc* first;
  FASTAT_HD Acc& operator[](int k) const { return first[k * stride]; }
};

template <class Total, int K>
struct Sums {
  Total v[K];
  FASTAT_HD Total operator[](int k) const { return v[k]; }
  FASTAT_HD Sums operator+(const Sums& other) const {
    Sums sum = *this;
    for (int k = 0; k < K; ++k) sum.v[k] += other.v[k];
    return sum;
  }
};

struct SerialTeam {
  static constexpr int lanes = 16;  // partial accumulators: one AVX-512 register of floats
  FASTAT_HD int rank() const { return 0; }
  FASTAT_HD void sync() const {}
};

template <class F>
FASTAT_HD void for_each(const SerialTeam&, int64_t n, F f) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) f(i);
}

template <int K, class Acc, class Total = Acc, class F>
FASTAT_HD Sums<Total, K> sums(const SerialTeam&, int64_t n, F f) {
  constexpr int lanes = SerialTeam::lanes;
  Acc acc[K * lanes] = {};
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
#pragma omp simd
    for (int lane = 0; lane < lanes; ++lane) f(i + lane, Terms<Acc, lanes>{acc + lane});
  }
  const int rest = static_cast<int>(n - i);
#pragma omp simd
  for (int lane = 0; lane < rest; ++lane) f(i + lane, Terms<Acc, lanes>{acc + lane});
  Sums<Total, K> total;
  for (int k = 0; k < K; ++k) {
    Total partial[lanes];
    for (int lane = 0; lane < lanes; ++lane) partial[lane] = static_cast<Total>(acc[k * lanes + lane]);
    for (int width = lanes / 2; width > 0; width /= 2)
      for (int lane = 0; lane < width; ++lane) partial[lane] += partial[lane + width];
    total.v[k] = partial[0];
  }
  return total;
}

template <class V, class F>
FASTAT_HD V max_of(const SerialTeam&, int64_t n, F f) {
  constexpr int lanes = SerialTeam::lanes;
  V best[lanes];
  for (int lane = 0; lane < lanes; ++lane) best[lane] = std::numeric_limits<V>::lowest();
  if constexpr (std::numeric_limits<V>::has_infinity)
    for (int lane = 0; lane < lanes; ++lane) best[lane] = -std::numeric_limits<V>::infinity();
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
#pragma omp simd
    for (int lane = 0; lane < lanes; ++lane) {
      const V v = f(i + lane);
      best[lane] = v > best[lane] ? v : best[lane];
    }
  }
  const int rest = static_cast<int>(n - i);
#pragma omp simd
  for (int lane = 0; lane < rest; ++lane) {
    const V v = f(i + lane);
    best[lane] = v > best[lane] ? v : best[lane];
  }
  for (int width = lanes / 2; width > 0; width /= 2)
    for (int lane = 0; lane < width; ++lane)
      best[lane] = best[lane + width] > best[lane] ? best[lane + width] : best[lane];
  return best[0];
}

// The same for a team of several threads.
template <class Team, class F>
FASTAT_HD void for_each(const Team& team, int64_t n, F f) {
  for (int64_t i = team.rank(); i < n; i += team.size()) f(i);
}

template <int K, class Acc, class Total = Acc, class Team, class F>
FASTAT_HD Sums<Total, K> sums(const Team& team, int64_t n, F f) {
  Acc acc[K] = {};
  for (int64_t i = team.rank(); i < n; i += team.size()) f(i, Terms<Acc, 1>{acc});
  Sums<Total, K> partial;
  for (int k = 0; k < K; ++k) partial.v[k] = static_cast<Total>(acc[k]);
  if constexpr (K == 1)
    return {{team.sum(partial.v[0])}};
  else
    return team.sum(partial);  // all K in one reduction
}

template <class V, class Team, class F>
FASTAT_HD V max_of(const Team& team, int64_t n, F f) {
  V best = std::numeric_limits<V>::lowest();
  if constexpr (std::numeric_limits<V>::has_infinity) best = -std::numeric_limits<V>::infinity();
  for (int64_t i = team.rank(); i < n; i += team.size()) {
    const V v = f(i);
    best = v > best ? v : best;
  }
  return team.max(best);
}

FASTAT_NAMESPACE_END
