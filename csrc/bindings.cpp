// The module fastat.kernels._C: the schemas of every op, the CPU kernels behind them, and what is not a torch op.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "cpu/backend.h"
#include "launch.h"

#define FASTAT_STRING_(x) #x
#define FASTAT_STRING(x) FASTAT_STRING_(x)

STABLE_TORCH_LIBRARY(fastat, m) {
  // step_sizes and radii, where given, hold one number per sample (linf: or per element, as tensors of the dimensions
  // of x, of one sample or of all) and win over step_size and eps; lowers and uppers one per element, over lower and
  // upper.
  m.def(
      "linf_step_(Tensor(a!) x_adv, Tensor grad, Tensor x, float step_size, float eps, Tensor? step_sizes, "
      "Tensor? radii, float lower, float upper, Tensor? lowers, Tensor? uppers) -> ()");
  m.def(
      "l2_step_(Tensor(a!) x_adv, Tensor grad, Tensor x, float step_size, float eps, Tensor? step_sizes, "
      "Tensor? radii, float lower, float upper, Tensor? lowers, Tensor? uppers) -> ()");
  m.def(
      "l1_step_(Tensor(a!) x_adv, Tensor grad, Tensor x, float step_size, float eps, Tensor? step_sizes, "
      "Tensor? radii, float lower, float upper, Tensor? lowers, Tensor? uppers, int selected) -> ()");
  m.def(
      "project_(Tensor(a!) x_adv, Tensor x, float eps, Tensor? radii, int norm, float lower, float upper, "
      "Tensor? lowers, Tensor? uppers) -> ()");
  m.def(
      "random_start(Tensor x, float eps, Tensor? radii, int norm, Tensor seed, Tensor? sample_ids, int draw, "
      "float lower, float upper, Tensor? lowers, Tensor? uppers) -> Tensor");
  m.def(
      "attack_loss(Tensor logits, Tensor? y, int kind, Tensor? targets, Tensor? reference) -> (Tensor loss, Tensor "
      "grad)");
  // alpha_value and r_value, where given, are float64 0-d tensors on the device and win over alpha and r.
  m.def(
      "holistic(Tensor losses, float alpha, float r, Tensor? alpha_value, Tensor? r_value, int order) -> (Tensor "
      "weights, Tensor value)");
  m.def("benign_cross_entropy(Tensor logits, Tensor y, float gamma) -> (Tensor loss, Tensor grad, Tensor weights)");
  m.def("scale_rows(Tensor rows, Tensor weights, Tensor scale) -> Tensor");
  // products: rows first, first + 1, ... of the matrix of all. sums: log-sum, positive, count, loss, a row each, of
  // which columns start, start + 1, ... are written.
  m.def(
      "contrast_rows_(Tensor(a!) sums, Tensor products, Tensor labels, int start, int first, float inverse_tau, bool "
      "inside) -> ()");
  m.def(
      "contrast_gradient_(Tensor(a!) products, Tensor labels, Tensor sums, Tensor scale, int first, float inverse_tau, "
      "bool inside) -> ()");
  m.def("best_(Tensor(a!) best_x, Tensor(b!) best_loss, Tensor x_adv, Tensor loss) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(fastat, CPU, m) { fastat::Ops<fastat::CpuBackend>::implement(m); }

namespace {

// The weights for a contiguous float64 vector that is not empty, and the value. (fastat/objectives/holistic.py has
// looked at the arguments.)
pybind11::tuple holistic_numpy(pybind11::array_t<double, pybind11::array::c_style> losses, double alpha, double r,
                               int order) {
  pybind11::array_t<double> weights(losses.size());
  double value = 0.0;
  const fastat::HolisticArgs args{fastat::ElementType::f64,
                                  losses.data(),
                                  weights.mutable_data(),
                                  &value,
                                  losses.size(),
                                  alpha,
                                  r,
                                  nullptr,
                                  nullptr,
                                  order == 1};
  {
    const pybind11::gil_scoped_release release;
    fastat::CpuBackend::holistic(args, -1);
  }
  return pybind11::make_tuple(weights, value);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.def("holistic", &holistic_numpy);
  m.def("build_info", [] {
    pybind11::dict info;
    info["version"] = FASTAT_STRING(FASTAT_VERSION);
    info["torch"] = FASTAT_STRING(FASTAT_TORCH);
#ifdef __clang__
    info["compiler"] = "clang " __clang_version__;
#else
    info["compiler"] = "gcc " __VERSION__;
#endif
    info["cpu"] = fastat::cpu_kernels().isa;
    return info;
  });
}
