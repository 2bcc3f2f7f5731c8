// The CPU backend: the kernels of core/ compiled once per instruction set, chosen when the module loads, and spread
// over torch's threads.
#pragma once

#include "../args.h"

namespace fastat {

// Each takes a range of work items, so that a launcher can hand ranges to threads.
struct CpuKernels {
  const char* isa;
  void (*step_elements)(const StepArgs&, int64_t begin, int64_t end);  // linf: elements of the whole batch
  void (*step_samples)(const StepArgs&, int64_t begin, int64_t end);   // l2, l1: samples
  void (*start_blocks)(const StartArgs&, int64_t begin, int64_t end);  // linf: blocks of four elements
  void (*start_samples)(const StartArgs&, int64_t begin, int64_t end);
  void (*loss_rows)(const LossArgs&, int64_t begin, int64_t end);
  void (*holistic)(const HolisticArgs&);
  void (*scale_rows)(const ScaleArgs&, int64_t begin, int64_t end);
  void (*contrast_rows)(const ContrastArgs&, int64_t begin, int64_t end);
  void (*contrast_gradient)(const ContrastArgs&, int64_t begin, int64_t end);
};

extern const CpuKernels kernels_baseline, kernels_avx2, kernels_avx512;
const CpuKernels& cpu_kernels();

struct CpuBackend {
  static void step(const StepArgs& args, int device);
  static void random_start(const StartArgs& args, int device);
  static void attack_loss(const LossArgs& args, int device);
  static void holistic(const HolisticArgs& args, int device);
  static void scale_rows(const ScaleArgs& args, int device);
  static void contrast_rows(const ContrastArgs& args, int device);
  static void contrast_gradient(const ContrastArgs& args, int device);
  static void best(const BestArgs& args, int device);
};

}  // namespace fastat
