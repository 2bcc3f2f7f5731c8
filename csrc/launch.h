// From tensors to kernel arguments, and the registration of the ops, once for both backends. A Backend has static
// functions step, random_start, attack_loss and best that take the structs of args.h and a device index.
//
// The checks here are internal: fastat/ops.py has already looked at what a user can get wrong and brought every tensor
// into the layout the kernels want.
#pragma once

#include <optional>
#include <tuple>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "args.h"

namespace fastat {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

inline ElementType element_type(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Double: return ElementType::f64;
    case ScalarType::Float: return ElementType::f32;
    case ScalarType::Half: return ElementType::f16;
    case ScalarType::BFloat16: return ElementType::bf16;
    default: STD_TORCH_CHECK(false, "fastat: expected a floating-point tensor");
  }
}

inline ScalarType compute_scalar(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline int64_t sample_size(const Tensor& t) { return t.size(0) == 0 ? 0 : t.numel() / t.size(0); }

// Samples one after the other, each dense: the order inside a sample is free.
inline void check_samples(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.dim() >= 1, "fastat: ", name, " needs a batch dimension");
  if (t.numel() == 0) return;
  int64_t extent = 1;
  for (int64_t d = 1; d < t.dim(); ++d) extent += (t.size(d) - 1) * t.stride(d);
  STD_TORCH_CHECK(extent == sample_size(t) && (t.size(0) == 1 || t.stride(0) == extent), "fastat: the samples of ",
                  name, " are not dense");
}

inline void check_like(const Tensor& t, const Tensor& other, const char* name) {
  STD_TORCH_CHECK(t.dim() == other.dim() && t.scalar_type() == other.scalar_type() && t.is_cuda() == other.is_cuda() &&
                      t.get_device_index() == other.get_device_index(),
                  "fastat: dimensions, dtype or device of ", name, " differ");
  for (int64_t d = 0; d < t.dim(); ++d)
    STD_TORCH_CHECK(t.size(d) == other.size(d) && (t.size(d) <= 1 || t.numel() == 0 || t.stride(d) == other.stride(d)),
                    "fastat: sizes or strides of ", name, " differ");
}

inline void check_vector(const Tensor& t, ScalarType type, int64_t size, const Tensor& other, const char* name) {
  STD_TORCH_CHECK(t.dim() == 1 && t.size(0) == size && t.scalar_type() == type && t.is_cuda() == other.is_cuda() &&
                      t.get_device_index() == other.get_device_index(),
                  "fastat: ", name, " must be a vector with one entry per sample, on the device of the data");
}

inline PerSample per_sample(double number, const OptionalTensor& values, const Tensor& x, const char* name) {
  if (!values) return {nullptr, 0, number};
  check_vector(*values, compute_scalar(x), x.size(0), x, name);
  return {values->const_data_ptr(), values->stride(0), number};
}

inline const int64_t* labels_of(const Tensor& t, const Tensor& other, const char* name) {
  check_vector(t, ScalarType::Long, other.size(0), other, name);
  STD_TORCH_CHECK(t.numel() <= 1 || t.stride(0) == 1, "fastat: ", name, " must be contiguous");
  return static_cast<const int64_t*>(t.const_data_ptr());
}

template <class Backend>
struct Ops {
  static void step(int norm, Tensor& adv, const Tensor* grad, const Tensor& x, PerSample step, PerSample eps,
                   double lower, double upper, int64_t selected) {
    check_samples(adv, "x_adv");
    check_like(x, adv, "x");
    if (grad) check_like(*grad, adv, "grad");
    if (adv.numel() == 0) return;
    Backend::step({element_type(adv), norm, adv.mutable_data_ptr(), grad ? grad->const_data_ptr() : nullptr,
                   x.const_data_ptr(), adv.size(0), sample_size(adv), step, eps, lower, upper, selected},
                  adv.get_device_index());
  }

  static void linf_step_(Tensor adv, Tensor grad, Tensor x, double step_size, double eps, OptionalTensor step_sizes,
                         OptionalTensor radii, double lower, double upper) {
    step(0, adv, &grad, x, per_sample(step_size, step_sizes, x, "step_size"), per_sample(eps, radii, x, "eps"), lower,
         upper, 0);
  }
  static void l2_step_(Tensor adv, Tensor grad, Tensor x, double step_size, double eps, OptionalTensor step_sizes,
                       OptionalTensor radii, double lower, double upper) {
    step(1, adv, &grad, x, per_sample(step_size, step_sizes, x, "step_size"), per_sample(eps, radii, x, "eps"), lower,
         upper, 0);
  }
  static void l1_step_(Tensor adv, Tensor grad, Tensor x, double step_size, double eps, OptionalTensor step_sizes,
                       OptionalTensor radii, double lower, double upper, int64_t selected) {
    step(2, adv, &grad, x, per_sample(step_size, step_sizes, x, "step_size"), per_sample(eps, radii, x, "eps"), lower,
         upper, selected);
  }
  static void project_(Tensor adv, Tensor x, double eps, OptionalTensor radii, int64_t norm, double lower,
                       double upper) {
    step(static_cast<int>(norm), adv, nullptr, x, {nullptr, 0, 0.0}, per_sample(eps, radii, x, "eps"), lower, upper, 0);
  }

  static Tensor random_start(Tensor x, double eps, OptionalTensor radii, int64_t norm, Tensor seed,
                             OptionalTensor sample_ids, int64_t draw, double lower, double upper) {
    check_samples(x, "x");
    STD_TORCH_CHECK(seed.scalar_type() == ScalarType::Long && seed.numel() == 1 && seed.is_cuda() == x.is_cuda() &&
                        seed.get_device_index() == x.get_device_index(),
                    "fastat: seed must be one int64 on the device of x");
    Tensor out = torch::stable::empty_like(x);
    check_like(out, x, "the result");
    if (x.numel() == 0) return out;
    int64_t channels = 1, spatial = sample_size(x);
    if (!row_major(x)) {
      channels = x.size(1);
      spatial /= channels;
      STD_TORCH_CHECK(channels_last(x), "fastat: x must be row-major or channels last");
    }
    Backend::random_start(
        {element_type(x), static_cast<int>(norm), out.mutable_data_ptr(), x.const_data_ptr(), x.size(0), sample_size(x),
         channels, spatial, per_sample(eps, radii, x, "eps"), static_cast<const int64_t*>(seed.const_data_ptr()),
         sample_ids ? labels_of(*sample_ids, x, "sample_ids") : nullptr, draw, lower, upper},
        x.get_device_index());
    return out;
  }

  static std::tuple<Tensor, Tensor> attack_loss(Tensor logits, OptionalTensor labels, int64_t kind,
                                                OptionalTensor targets, OptionalTensor reference) {
    STD_TORCH_CHECK(logits.dim() == 2 && logits.is_contiguous(), "fastat: logits must be a contiguous matrix");
    if (reference) check_like(*reference, logits, "reference");
    const int64_t size[] = {logits.size(0)};
    Tensor loss = torch::stable::new_empty(logits, {size, 1}, compute_scalar(logits));
    Tensor grad = torch::stable::empty_like(logits);
    const int64_t* y = labels ? labels_of(*labels, logits, "y") : nullptr;
    const int64_t* t = targets ? labels_of(*targets, logits, "targets") : nullptr;
    if (logits.numel() != 0)
      Backend::attack_loss({element_type(logits), static_cast<int>(kind), logits.const_data_ptr(),
                            reference ? reference->const_data_ptr() : nullptr, y, t, loss.mutable_data_ptr(),
                            grad.mutable_data_ptr(), logits.size(0), logits.size(1)},
                           logits.get_device_index());
    return {loss, grad};
  }

  static void best_(Tensor best_x, Tensor best_loss, Tensor adv, Tensor loss) {
    check_samples(best_x, "best_x");
    check_like(adv, best_x, "x_adv");
    check_like(loss, best_loss, "loss");
    STD_TORCH_CHECK(best_loss.is_contiguous() && loss.is_contiguous() && best_loss.dim() == 1 &&
                        best_loss.size(0) == best_x.size(0),
                    "fastat: losses must be contiguous vectors with one entry per sample");
    if (best_x.size(0) == 0) return;
    const ElementType type = element_type(best_x);
    const int64_t width = type == ElementType::f64 ? 8 : type == ElementType::f32 ? 4 : 2;
    Backend::best({best_x.mutable_data_ptr(), best_loss.mutable_data_ptr(), adv.const_data_ptr(), loss.const_data_ptr(),
                   element_type(loss) == ElementType::f64, best_x.size(0), sample_size(best_x) * width},
                  best_x.get_device_index());
  }

  static void implement(torch::stable::detail::StableLibrary& m) {
    m.impl("linf_step_", TORCH_BOX(&linf_step_));
    m.impl("l2_step_", TORCH_BOX(&l2_step_));
    m.impl("l1_step_", TORCH_BOX(&l1_step_));
    m.impl("project_", TORCH_BOX(&project_));
    m.impl("random_start", TORCH_BOX(&random_start));
    m.impl("attack_loss", TORCH_BOX(&attack_loss));
    m.impl("best_", TORCH_BOX(&best_));
  }

 private:
  static bool row_major(const Tensor& x) {
    int64_t expected = 1;
    for (int64_t d = x.dim() - 1; d >= 1; --d) {
      if (x.size(d) != 1 && x.stride(d) != expected) return false;
      expected *= x.size(d);
    }
    return true;
  }
  static bool channels_last(const Tensor& x) {
    if (x.dim() < 3 || x.stride(1) != 1) return false;
    int64_t expected = x.size(1);
    for (int64_t d = x.dim() - 1; d >= 2; --d) {
      if (x.size(d) != 1 && x.stride(d) != expected) return false;
      expected *= x.size(d);
    }
    return true;
  }
};

}  // namespace fastat
