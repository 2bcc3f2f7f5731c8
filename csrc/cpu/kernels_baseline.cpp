// The CPU kernels for any machine of the architecture.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#define FASTAT_ISA baseline
#include "kernels.h"

namespace fastat {
const CpuKernels kernels_baseline = {"baseline",
                                     baseline::step_elements,
                                     baseline::step_samples,
                                     baseline::start_blocks_range,
                                     baseline::start_samples,
                                     baseline::loss_rows,
                                     baseline::holistic,
                                     baseline::scale_rows,
                                     baseline::contrast_rows,
                                     baseline::contrast_gradient};
}
