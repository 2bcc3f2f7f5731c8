// Picks the instruction set once and spreads the work over torch's threads. Ranges are at least `grain` elements of
// arithmetic, so that a small batch stays on one core.
#include "backend.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include <torch/csrc/stable/ops.h>

namespace fastat {

namespace {

constexpr int64_t grain = 16384;

int64_t samples_per_grain(int64_t elements, int64_t cost) {
  return std::max<int64_t>(1, grain / std::max<int64_t>(1, elements * cost));
}

// FASTAT_CPU=baseline|avx2 takes a lesser instruction set than the machine has, to compare with.
const CpuKernels& best_for_this_machine() {
  const char* wanted = std::getenv("FASTAT_CPU");
  const auto allowed = [&](const char* isa) { return wanted == nullptr || std::strcmp(wanted, isa) == 0; };
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
  __builtin_cpu_init();
  if (allowed("avx512") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return kernels_avx512;
  if (allowed("avx2") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return kernels_avx2;
#endif
  return kernels_baseline;
}

}  // namespace

const CpuKernels& cpu_kernels() {
  static const CpuKernels& kernels = best_for_this_machine();
  return kernels;
}

void CpuBackend::step(const StepArgs& args, int) {
  const CpuKernels& kernels = cpu_kernels();
  const bool linf = args.norm == 0;
  const int64_t cost = args.norm == 1 ? 2 : 32;  // passes over the sample, roughly
  torch::stable::parallel_for(
      0, linf ? args.batch * args.n : args.batch, linf ? grain : samples_per_grain(args.n, cost),
      [&](int64_t begin, int64_t end) { (linf ? kernels.step_elements : kernels.step_samples)(args, begin, end); });
}

void CpuBackend::random_start(const StartArgs& args, int) {
  const CpuKernels& kernels = cpu_kernels();
  const bool linf = args.norm == 0;
  torch::stable::parallel_for(
      0, linf ? args.batch * ((args.n + 3) / 4) : args.batch, linf ? grain / 8 : samples_per_grain(args.n, 8),
      [&](int64_t begin, int64_t end) { (linf ? kernels.start_blocks : kernels.start_samples)(args, begin, end); });
}

void CpuBackend::attack_loss(const LossArgs& args, int) {
  torch::stable::parallel_for(0, args.rows, samples_per_grain(args.classes + 8, 8),
                              [&](int64_t begin, int64_t end) { cpu_kernels().loss_rows(args, begin, end); });
}

void CpuBackend::holistic(const HolisticArgs& args, int) { cpu_kernels().holistic(args); }

void CpuBackend::scale_rows(const ScaleArgs& args, int) {
  torch::stable::parallel_for(0, args.count, samples_per_grain(args.length, 1),
                              [&](int64_t begin, int64_t end) { cpu_kernels().scale_rows(args, begin, end); });
}

void CpuBackend::contrast_rows(const ContrastArgs& args, int) {
  torch::stable::parallel_for(0, args.rows, samples_per_grain(args.n, 8),
                              [&](int64_t begin, int64_t end) { cpu_kernels().contrast_rows(args, begin, end); });
}

void CpuBackend::contrast_gradient(const ContrastArgs& args, int) {
  torch::stable::parallel_for(0, args.rows, samples_per_grain(args.n, 8),
                              [&](int64_t begin, int64_t end) { cpu_kernels().contrast_gradient(args, begin, end); });
}

void CpuBackend::best(const BestArgs& args, int) {
  const auto keep = [&](auto zero, int64_t begin, int64_t end) {
    using L = decltype(zero);
    L* best_loss = static_cast<L*>(args.best_loss);
    const L* loss = static_cast<const L*>(args.loss);
    for (int64_t i = begin; i < end; ++i) {
      if (!(loss[i] > best_loss[i])) continue;
      best_loss[i] = loss[i];
      std::memcpy(static_cast<char*>(args.best_x) + i * args.sample_bytes,
                  static_cast<const char*>(args.adv) + i * args.sample_bytes, args.sample_bytes);
    }
  };
  torch::stable::parallel_for(0, args.batch, samples_per_grain(args.sample_bytes, 1), [&](int64_t begin, int64_t end) {
    args.loss_f64 ? keep(double{}, begin, end) : keep(float{}, begin, end);
  });
}

}  // namespace fastat
