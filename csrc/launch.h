// From tensors to kernel arguments, and the registration of the ops, once for both backends. A Backend has static
// functions of the ops' names that take the structs of args.h and a device index.
//
// The checks here are internal: fastat/kernels/ops.py has already looked at what a user can get wrong and brought every
// tensor into the layout the kernels want.
#pragma once

#include <optional>
#include <tuple>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "args.h"
#include "core/attack_loss.h"

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

// Whether a tensor has numbers per element: of as many dimensions as x, of one sample for all or of each. A vector has
// one number per sample.
inline bool of_elements(const OptionalTensor& values) { return values && values->dim() > 1; }

inline Sizes sizes_of(double number, const OptionalTensor& values, const Tensor& x, const char* name) {
  if (!values) return {nullptr, 0, number};
  if (!of_elements(values)) {
    check_vector(*values, compute_scalar(x), x.size(0), x, name);
    return {values->const_data_ptr(), values->stride(0), number};
  }
  STD_TORCH_CHECK(values->dim() == x.dim() && values->scalar_type() == compute_scalar(x) &&
                      values->is_cuda() == x.is_cuda() && values->get_device_index() == x.get_device_index() &&
                      (values->size(0) == 1 || values->size(0) == x.size(0)),
                  "fastat: dimensions, dtype or device of ", name, " do not fit the data");
  for (int64_t d = 1; d < x.dim(); ++d)
    STD_TORCH_CHECK(values->size(d) == x.size(d) && (x.size(d) == 1 || values->stride(d) == x.stride(d)),
                    "fastat: sizes or strides of ", name, " differ from those of the data");
  check_samples(*values, name);
  return {values->const_data_ptr(), values->size(0) == 1 ? 0 : sample_size(x), number};
}

// Of norms whose radius and step are one number for a sample.
inline void check_size(int norm, const OptionalTensor& values, const char* name) {
  STD_TORCH_CHECK(norm == 0 || !of_elements(values), "fastat: ", name, " must be one number per sample");
}

inline const int64_t* labels_of(const Tensor& t, const Tensor& other, const char* name) {
  check_vector(t, ScalarType::Long, other.size(0), other, name);
  STD_TORCH_CHECK(t.numel() <= 1 || t.stride(0) == 1, "fastat: ", name, " must be contiguous");
  return static_cast<const int64_t*>(t.const_data_ptr());
}

template <class Backend>
struct Ops {
  static void step(int norm, Tensor& adv, const Tensor* grad, const Tensor& x, double step_size,
                   const OptionalTensor& step_sizes, double eps, const OptionalTensor& radii, double lower,
                   double upper, const OptionalTensor& lowers, const OptionalTensor& uppers, int64_t selected) {
    check_samples(adv, "x_adv");
    check_like(x, adv, "x");
    if (grad) check_like(*grad, adv, "grad");
    if (adv.numel() == 0) return;
    check_size(norm, step_sizes, "step_size");
    check_size(norm, radii, "eps");
    const SampleStepArgs args{element_type(adv),
                              norm,
                              adv.mutable_data_ptr(),
                              grad ? grad->const_data_ptr() : nullptr,
                              x.const_data_ptr(),
                              adv.size(0),
                              sample_size(adv),
                              sizes_of(step_size, step_sizes, x, "step_size"),
                              sizes_of(eps, radii, x, "eps"),
                              lower,
                              upper,
                              selected};
    Backend::step(
        {args, end_of(lowers, x, "lower"), end_of(uppers, x, "upper"), of_elements(step_sizes), of_elements(radii)},
        adv.get_device_index());
  }

  static Sizes end_of(const OptionalTensor& values, const Tensor& x, const char* name) {
    STD_TORCH_CHECK(!values || of_elements(values) || x.dim() == 1, "fastat: ", name,
                    " must be one number per element");
    return sizes_of(0.0, values, x, name);
  }

  static void linf_step_(Tensor adv, Tensor grad, Tensor x, double step_size, double eps, OptionalTensor step_sizes,
                         OptionalTensor radii, double lower, double upper, OptionalTensor lowers,
                         OptionalTensor uppers) {
    step(0, adv, &grad, x, step_size, step_sizes, eps, radii, lower, upper, lowers, uppers, 0);
  }
  static void l2_step_(Tensor adv, Tensor grad, Tensor x, double step_size, double eps, OptionalTensor step_sizes,
                       OptionalTensor radii, double lower, double upper, OptionalTensor lowers, OptionalTensor uppers) {
    step(1, adv, &grad, x, step_size, step_sizes, eps, radii, lower, upper, lowers, uppers, 0);
  }
  static void l1_step_(Tensor adv, Tensor grad, Tensor x, double step_size, double eps, OptionalTensor step_sizes,
                       OptionalTensor radii, double lower, double upper, OptionalTensor lowers, OptionalTensor uppers,
                       int64_t selected) {
    step(2, adv, &grad, x, step_size, step_sizes, eps, radii, lower, upper, lowers, uppers, selected);
  }
  static void project_(Tensor adv, Tensor x, double eps, OptionalTensor radii, int64_t norm, double lower, double upper,
                       OptionalTensor lowers, OptionalTensor uppers) {
    step(static_cast<int>(norm), adv, nullptr, x, 0.0, std::nullopt, eps, radii, lower, upper, lowers, uppers, 0);
  }

  static Tensor random_start(Tensor x, double eps, OptionalTensor radii, int64_t norm, Tensor seed,
                             OptionalTensor sample_ids, int64_t draw, double lower, double upper, OptionalTensor lowers,
                             OptionalTensor uppers) {
    check_samples(x, "x");
    check_size(static_cast<int>(norm), radii, "eps");
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
         channels, spatial, sizes_of(eps, radii, x, "eps"), static_cast<const int64_t*>(seed.const_data_ptr()),
         sample_ids ? labels_of(*sample_ids, x, "sample_ids") : nullptr, draw, lower, upper, end_of(lowers, x, "lower"),
         end_of(uppers, x, "upper"), of_elements(radii)},
        x.get_device_index());
    return out;
  }

  static std::tuple<Tensor, Tensor> attack_loss(Tensor logits, OptionalTensor labels, int64_t kind,
                                                OptionalTensor targets, OptionalTensor reference) {
    STD_TORCH_CHECK(logits.dim() == 2 && logits.is_contiguous(), "fastat: logits must be a contiguous matrix");
    if (reference) check_like(*reference, logits, "reference");
    const auto which = static_cast<LossKind>(kind);
    const bool matrix = which == LossKind::kl || which == LossKind::bce;
    STD_TORCH_CHECK(kind >= 0 && which <= LossKind::bce && reference.has_value() == matrix &&
                        labels.has_value() != matrix && targets.has_value() == (which == LossKind::dlr_targeted),
                    "fastat: attack_loss of kind ", kind, " takes other tensors than those given");
    const int64_t size[] = {logits.size(0)};
    Tensor loss = torch::stable::new_empty(logits, {size, 1}, compute_scalar(logits));
    Tensor grad = torch::stable::empty_like(logits);
    const int64_t* y = labels ? labels_of(*labels, logits, "y") : nullptr;
    const int64_t* t = targets ? labels_of(*targets, logits, "targets") : nullptr;
    if (logits.numel() != 0)
      Backend::attack_loss({element_type(logits), static_cast<int>(kind), logits.const_data_ptr(),
                            reference ? reference->const_data_ptr() : nullptr, y, t, loss.mutable_data_ptr(),
                            grad.mutable_data_ptr(), logits.size(0), logits.size(1), nullptr, 0.0},
                           logits.get_device_index());
    return {loss, grad};
  }

  static std::tuple<Tensor, Tensor, Tensor> benign_cross_entropy(Tensor logits, Tensor labels, double gamma) {
    STD_TORCH_CHECK(logits.dim() == 2 && logits.is_contiguous(), "fastat: logits must be a contiguous matrix");
    const int64_t size[] = {logits.size(0)};
    Tensor loss = torch::stable::new_empty(logits, {size, 1}, compute_scalar(logits));
    Tensor weights = torch::stable::empty_like(loss);
    Tensor grad = torch::stable::empty_like(logits);
    const int64_t* y = labels_of(labels, logits, "y");
    if (logits.numel() != 0)
      Backend::attack_loss(
          {element_type(logits), 0, logits.const_data_ptr(), nullptr, y, nullptr, loss.mutable_data_ptr(),
           grad.mutable_data_ptr(), logits.size(0), logits.size(1), weights.mutable_data_ptr(), gamma},
          logits.get_device_index());
    return {loss, grad, weights};
  }

  static Tensor scale_rows(Tensor rows, Tensor weights, Tensor scale) {
    STD_TORCH_CHECK(rows.dim() == 2 && rows.is_contiguous() && weights.is_contiguous(),
                    "fastat: rows and weights must be contiguous");
    check_vector(weights, compute_scalar(rows), rows.size(0), rows, "weights");
    STD_TORCH_CHECK(scale.numel() == 1 && scale.scalar_type() == compute_scalar(rows) &&
                        scale.is_cuda() == rows.is_cuda() && scale.get_device_index() == rows.get_device_index(),
                    "fastat: scale must be one number of the type of the weights, on their device");
    Tensor out = torch::stable::empty_like(rows);
    if (rows.numel() != 0)
      Backend::scale_rows({element_type(rows), rows.const_data_ptr(), weights.const_data_ptr(), scale.const_data_ptr(),
                           out.mutable_data_ptr(), rows.size(0), rows.size(1)},
                          rows.get_device_index());
    return out;
  }

  // What both directions of the discrimination loss have in common; the rest is filled in by them.
  static ContrastArgs contrast_args(const Tensor& products, void* data, const Tensor& labels, const Tensor& sums,
                                    int64_t first, double inverse_tau, bool inside) {
    const ElementType type = element_type(products);
    STD_TORCH_CHECK(products.dim() == 2 && products.is_contiguous() &&
                        (type == ElementType::f32 || type == ElementType::f64) && first >= 0 &&
                        first + products.size(0) <= products.size(1),
                    "fastat: products must be some rows of a square matrix of float32 or float64");
    check_vector(labels, type == ElementType::f64 ? ScalarType::Long : ScalarType::Int, products.size(1), products,
                 "labels");
    STD_TORCH_CHECK(labels.is_contiguous(), "fastat: labels must be contiguous");
    STD_TORCH_CHECK(sums.dim() == 2 && sums.size(0) == 4 && sums.is_contiguous() &&
                        sums.scalar_type() == products.scalar_type() && sums.is_cuda() == products.is_cuda() &&
                        sums.get_device_index() == products.get_device_index(),
                    "fastat: sums must be a contiguous matrix of four rows, like the products");
    return {type,
            data,
            labels.const_data_ptr(),
            products.size(0),
            products.size(1),
            first,
            inverse_tau,
            inside,
            nullptr,
            sums.size(1),
            nullptr,
            nullptr};
  }

  static void contrast_rows_(Tensor sums, Tensor products, Tensor labels, int64_t start, int64_t first,
                             double inverse_tau, bool inside) {
    ContrastArgs args =
        contrast_args(products, const_cast<void*>(products.const_data_ptr()), labels, sums, first, inverse_tau, inside);
    STD_TORCH_CHECK(start >= 0 && start + products.size(0) <= sums.size(1),
                    "fastat: the sums have no place for the rows");
    if (products.numel() == 0) return;
    args.sums_of_rows = static_cast<char*>(sums.mutable_data_ptr()) + start * (args.type == ElementType::f64 ? 8 : 4);
    Backend::contrast_rows(args, products.get_device_index());
  }

  static void contrast_gradient_(Tensor products, Tensor labels, Tensor sums, Tensor scale, int64_t first,
                                 double inverse_tau, bool inside) {
    ContrastArgs args = contrast_args(products, products.mutable_data_ptr(), labels, sums, first, inverse_tau, inside);
    STD_TORCH_CHECK(sums.size(1) == products.size(1), "fastat: the sums must be those of all samples");
    STD_TORCH_CHECK(scale.numel() == 1 && scale.scalar_type() == products.scalar_type() &&
                        scale.is_cuda() == products.is_cuda() &&
                        scale.get_device_index() == products.get_device_index(),
                    "fastat: scale must be one number of the type of the products, on their device");
    args.sums_of_all = sums.const_data_ptr();
    args.scale = scale.const_data_ptr();
    if (products.numel() != 0) Backend::contrast_gradient(args, products.get_device_index());
  }

  static const double* scalar_of(const OptionalTensor& t, const Tensor& other, const char* name) {
    if (!t) return nullptr;
    STD_TORCH_CHECK(t->numel() == 1 && t->scalar_type() == ScalarType::Double && t->is_cuda() == other.is_cuda() &&
                        t->get_device_index() == other.get_device_index(),
                    "fastat: ", name, " must be one float64 on the device of the data");
    return static_cast<const double*>(t->const_data_ptr());
  }

  static std::tuple<Tensor, Tensor> holistic(Tensor losses, double alpha, double r, OptionalTensor alpha_value,
                                             OptionalTensor r_value, int64_t order) {
    const ElementType type = element_type(losses);
    STD_TORCH_CHECK(losses.dim() == 1 && losses.is_contiguous() && losses.numel() > 0 &&
                        (type == ElementType::f32 || type == ElementType::f64),
                    "fastat: losses must be a contiguous vector of float32 or float64");
    Tensor weights = torch::stable::empty_like(losses);
    Tensor value = torch::stable::new_empty(losses, torch::headeronly::IntHeaderOnlyArrayRef{});
    Backend::holistic(
        {type, losses.const_data_ptr(), weights.mutable_data_ptr(), value.mutable_data_ptr(), losses.numel(), alpha, r,
         scalar_of(alpha_value, losses, "alpha"), scalar_of(r_value, losses, "r"), order == 1},
        losses.get_device_index());
    return {weights, value};
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
    m.impl("benign_cross_entropy", TORCH_BOX(&benign_cross_entropy));
    m.impl("scale_rows", TORCH_BOX(&scale_rows));
    m.impl("contrast_rows_", TORCH_BOX(&contrast_rows_));
    m.impl("contrast_gradient_", TORCH_BOX(&contrast_gradient_));
    m.impl("holistic", TORCH_BOX(&holistic));
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
