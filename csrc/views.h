// From the argument structs to what core/ works on: the element type, one sample, one row, one ball. Both backends'
// kernels begin here.
#pragma once

#include "args.h"
#include "core/attack_loss.h"
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

template <class C, class Args>
FASTAT_HD Ball<C> ball_at(const Args& a, int64_t sample) {
  return {at_sample<C>(a.eps, sample), static_cast<C>(a.lower), static_cast<C>(a.upper)};
}

template <class T>
FASTAT_HD Sample<T> step_sample_at(const StepArgs& a, int64_t sample) {
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
          a.targets ? a.targets[row] : -1};
}

FASTAT_NAMESPACE_END
