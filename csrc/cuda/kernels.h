// What the .cu files offer the launchers: raw pointers in, a CUDA error code out (0: launched). No torch types.
#pragma once

#include <cstddef>

#include "../args.h"

namespace fastat {

int launch_linf_step(const StepArgs& args, void* stream);
int launch_l2_step(const StepArgs& args, void* stream);

// Bytes of device memory an l1 step of these sizes needs beside its arguments: 0 where a sample fits on chip, or where
// the iterate itself can hold the intermediate result.
int64_t l1_step_workspace(const StepArgs& args, int device);
int launch_l1_step(const StepArgs& args, void* workspace, int device, void* stream);

int launch_random_start(const StartArgs& args, void* stream);
int launch_attack_loss(const LossArgs& args, void* stream);
int launch_holistic(const HolisticArgs& args, void* stream);
int launch_scale_rows(const ScaleArgs& args, void* stream);
int launch_contrast_rows(const ContrastArgs& args, void* stream);
int launch_contrast_gradient(const ContrastArgs& args, void* stream);
int launch_best(const BestArgs& args, void* stream);

}  // namespace fastat
