// The module fastat._C: the schemas of every op, the CPU kernels behind them, and what is not a torch op.
#include <pybind11/pybind11.h>

#include "cpu/backend.h"
#include "launch.h"

#define FASTAT_STRING_(x) #x
#define FASTAT_STRING(x) FASTAT_STRING_(x)

STABLE_TORCH_LIBRARY(fastat, m) {
  // step_sizes and radii, where given, hold one number per sample and win over step_size and eps.
  m.def(
      "linf_step_(Tensor(a!) x_adv, Tensor grad, Tensor x, float step_size, float eps, Tensor? step_sizes, "
      "Tensor? radii, float lower, float upper) -> ()");
  m.def(
      "l2_step_(Tensor(a!) x_adv, Tensor grad, Tensor x, float step_size, float eps, Tensor? step_sizes, "
      "Tensor? radii, float lower, float upper) -> ()");
  m.def(
      "l1_step_(Tensor(a!) x_adv, Tensor grad, Tensor x, float step_size, float eps, Tensor? step_sizes, "
      "Tensor? radii, float lower, float upper, int selected) -> ()");
  m.def("project_(Tensor(a!) x_adv, Tensor x, float eps, Tensor? radii, int norm, float lower, float upper) -> ()");
  m.def(
      "random_start(Tensor x, float eps, Tensor? radii, int norm, Tensor seed, Tensor? sample_ids, int draw, "
      "float lower, float upper) -> Tensor");
  m.def(
      "attack_loss(Tensor logits, Tensor? y, int kind, Tensor? targets, Tensor? reference) -> (Tensor loss, Tensor "
      "grad)");
  m.def("best_(Tensor(a!) best_x, Tensor(b!) best_loss, Tensor x_adv, Tensor loss) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(fastat, CPU, m) { fastat::Ops<fastat::CpuBackend>::implement(m); }

PYBIND11_MODULE(_C, m) {
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
