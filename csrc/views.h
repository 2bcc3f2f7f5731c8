// From the argument structs to what core/ works on: the element type, one sample, one row, one ball. Both backends'
// kernels begin here.
#pragma once

#include "args.h"
#include "core/attack_loss.h"
#include "core/benign.h"
#include "core/holistic.h"
#include "core/projection.h"
#include "core/random_start.h"

FASTAT_NAMESPACE_BEGIN

template <class F>
auto with_element_type(ElementType type, F f) {
  switch (type) {
    case ElementType::f32: return f(float{});
    case ElementType::f16: return f(half16{});
    case ElementType::bf16: return f(bfloat16{});
    default: return f(double{});
  }
}

// For ops that take float32 and float64 alone.
template <class F>
auto with_real_type(ElementType type, F f) {
  return type == ElementType::f64 ? f(double{}) : f(float{});
}

template <class C>
FASTAT_HD C at_sample(const Sizes& s, int64_t sample) {
  return s.values == nullptr ? static_cast<C>(s.number) : static_cast<const C*>(s.values)[sample * s.stride];
}

// The length of a step. An infinite one goes as far as there are numbers: times a gradient of zero it would be NaN.
template <class C>
FASTAT_HD C step_at(const SampleStepArgs& a, int64_t sample) {
  return within_range(at_sample<C>(a.step, sample));
}

template <class C, class Args>
FASTAT_HD Ball<C> ball_at(const Args& a, int64_t sample) {
  return {at_sample<C>(a.eps, sample), static_cast<C>(a.lower), static_cast<C>(a.upper)};
}

// `differ`: from element to element.
template <class C>
FASTAT_HD SizeOfElements<C> sizes_at(const Sizes& s, bool differ, int64_t sample) {
  if (!differ) return {nullptr, at_sample<C>(s, sample)};
  return {static_cast<const C*>(s.values) + sample * s.stride, C(0)};
}

template <class C, class Args>
FASTAT_HD BallOfElements<C> balls_at(const Args& a, int64_t sample) {
  const auto end = [=](const Sizes& given, double number) {
    return given.values ? sizes_at<C>(given, true, sample) : SizeOfElements<C>{nullptr, static_cast<C>(number)};
  };
  return {sizes_at<C>(a.eps, a.radii_differ, sample), end(a.lowers, a.lower), end(a.uppers, a.upper)};
}

// Whether anything differs from element to element.
inline bool by_element(const StepArgs& a) {
  return a.steps_differ || a.radii_differ || a.lowers.values || a.uppers.values;
}
inline bool by_element(const StartArgs& a) { return a.radii_differ || a.lowers.values || a.uppers.values; }

// The arguments of a kernel of either kind.
template <bool by_element>
using step_args_t = std::conditional_t<by_element, StepArgs, SampleStepArgs>;

template <class T>
FASTAT_HD Sample<T> step_sample_at(const SampleStepArgs& a, int64_t sample) {
  const int64_t offset = sample * a.n;
  return {static_cast<T*>(a.adv) + offset, a.grad ? static_cast<const T*>(a.grad) + offset : nullptr,
          static_cast<const T*>(a.x) + offset};
}

template <class T>
FASTAT_HD StartSample<T> start_sample_at(const StartArgs& a, int64_t sample) {
  const int64_t offset = sample * a.n;
  return {static_cast<T*>(a.out) + offset, static_cast<const T*>(a.x) + offset, {a.channels, a.spatial}};
}

FASTAT_HD RandomKey key_at(const StartArgs& a, int64_t sample) {
  return {static_cast<uint64_t>(*a.seed), static_cast<uint64_t>(a.sample_ids ? a.sample_ids[sample] : sample),
          static_cast<uint32_t>(a.draw)};
}

template <class T>
FASTAT_HD LossRow<T> row_at(const LossArgs& a, int64_t row) {
  const int64_t offset = row * a.classes;
  return {static_cast<const T*>(a.logits) + offset,
          a.reference ? static_cast<const T*>(a.reference) + offset : nullptr,
          static_cast<T*>(a.grad) + offset,
          static_cast<compute_t<T>*>(a.loss) + row,
          a.classes,
          a.labels ? a.labels[row] : -1,
          a.targets ? a.targets[row] : -1,
          a.weights ? static_cast<compute_t<T>*>(a.weights) + row : nullptr,
          a.gamma};
}

template <class T>
FASTAT_HD void scale_element(const ScaleArgs& a, int64_t row, int64_t column) {
  using C = compute_t<T>;
  const C factor = static_cast<const C*>(a.weights)[row] * *static_cast<const C*>(a.scale);
  const int64_t i = row * a.length + column;
  store_nearest(static_cast<T*>(a.out)[i], load(static_cast<const T*>(a.rows)[i]) * factor);
}

template <class C>
FASTAT_HD ContrastRow<C> contrast_row_at(const ContrastArgs& a, int64_t row) {
  return {static_cast<const C*>(a.products) + row * a.n, static_cast<const typename FloatFormat<C>::Int*>(a.labels),
          a.n, a.first + row, static_cast<C>(a.inverse_tau)};
}

template <class C, class Team>
FASTAT_HD void contrast_row_of(const Team& team, const ContrastArgs& a, int64_t row) {
  const ContrastSums<C> found = contrast_row(team, contrast_row_at<C>(a, row), a.inside);
  if (team.rank() != 0) return;
  C* to = static_cast<C*>(a.sums_of_rows) + row;
  to[0] = found.log_sum;
  to[a.length] = found.positive;
  to[2 * a.length] = found.count;
  to[3 * a.length] = found.count > C(0) ? found.log_sum - found.positive : C(0);
}

// Overwrites product k of the row with its coefficient.
template <bool inside, class C>
FASTAT_HD void contrast_element(const ContrastArgs& a, const ContrastRow<C>& row, C* to, int64_t k) {
  const C* sums = static_cast<const C*>(a.sums_of_all);
  const ContrastColumns<C> all{sums, sums + a.n, sums + 2 * a.n};
  to[k] = contrast_coefficient<inside>(row, all, *static_cast<const C*>(a.scale), k);
}

template <class T>
FASTAT_HD HolisticBatch<T> batch_of(const HolisticArgs& a) {
  return {static_cast<const T*>(a.losses),
          static_cast<T*>(a.weights),
          static_cast<T*>(a.value),
          a.n,
          a.alpha_value ? *a.alpha_value : a.alpha,
          a.r_value ? *a.r_value : a.r,
          a.hr};
}

FASTAT_NAMESPACE_END
