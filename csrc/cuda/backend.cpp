// The module fastat.kernels._cuda: registers the CUDA kernels behind the ops and launches them on torch's current
// stream.
#include <cuda_runtime.h>
#include <pybind11/pybind11.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include "../launch.h"
#include "kernels.h"

#define FASTAT_STRING_(x) #x
#define FASTAT_STRING(x) FASTAT_STRING_(x)

namespace fastat {

namespace {

void* current_stream(int device) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return stream;
}

// A launch numbers its blocks with 31 bits, and the kernels of one block per sample take one each.
void check_batch(int64_t batch) {
  STD_TORCH_CHECK(batch < (int64_t(1) << 31), "fastat: at most 2^31 - 1 samples per call on CUDA, got ", batch);
}

void check_launch(int error) { STD_CUDA_CHECK(static_cast<cudaError_t>(error)); }

}  // namespace

struct CudaBackend {
  static void step(const StepArgs& args, int device) {
    check_batch(args.batch);
    const torch::stable::accelerator::DeviceGuard guard(device);
    void* stream = current_stream(device);
    if (args.norm == 0) return check_launch(launch_linf_step(args, stream));
    if (args.norm == 1) return check_launch(launch_l2_step(args, stream));
    const int64_t bytes = l1_step_workspace(args, device);
    std::optional<Tensor> workspace;
    if (bytes > 0) {
      const int64_t size[] = {bytes};
      workspace = torch::stable::empty({size, 1}, ScalarType::Byte, std::nullopt,
                                       torch::stable::Device(torch::headeronly::DeviceType::CUDA, device));
    }
    check_launch(launch_l1_step(args, workspace ? workspace->mutable_data_ptr() : nullptr, device, stream));
  }
  static void random_start(const StartArgs& args, int device) {
    check_batch(args.batch);
    const torch::stable::accelerator::DeviceGuard guard(device);
    check_launch(launch_random_start(args, current_stream(device)));
  }
  static void attack_loss(const LossArgs& args, int device) {
    check_batch(args.rows);
    const torch::stable::accelerator::DeviceGuard guard(device);
    check_launch(launch_attack_loss(args, current_stream(device)));
  }
  static void holistic(const HolisticArgs& args, int device) {
    const torch::stable::accelerator::DeviceGuard guard(device);
    check_launch(launch_holistic(args, current_stream(device)));
  }
  static void scale_rows(const ScaleArgs& args, int device) {
    check_batch(args.count * args.length / 256);
    const torch::stable::accelerator::DeviceGuard guard(device);
    check_launch(launch_scale_rows(args, current_stream(device)));
  }
  static void contrast_rows(const ContrastArgs& args, int device) {
    check_batch(args.rows);
    const torch::stable::accelerator::DeviceGuard guard(device);
    check_launch(launch_contrast_rows(args, current_stream(device)));
  }
  static void contrast_gradient(const ContrastArgs& args, int device) {
    check_batch(args.rows);
    const torch::stable::accelerator::DeviceGuard guard(device);
    check_launch(launch_contrast_gradient(args, current_stream(device)));
  }
  static void best(const BestArgs& args, int device) {
    check_batch(args.batch);
    const torch::stable::accelerator::DeviceGuard guard(device);
    check_launch(launch_best(args, current_stream(device)));
  }
};

}  // namespace fastat

STABLE_TORCH_LIBRARY_IMPL(fastat, CUDA, m) { fastat::Ops<fastat::CudaBackend>::implement(m); }

PYBIND11_MODULE(_cuda, m) {
  m.def("build_info", [] {
    pybind11::dict info;
    info["cuda"] = std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10);
    info["archs"] = FASTAT_STRING(FASTAT_ARCHS);
    return info;
  });
}
