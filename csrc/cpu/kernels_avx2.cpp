// The CPU kernels for AVX2.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx2,fma")
#endif
#define FASTAT_ISA avx2
#include "kernels.h"

namespace fastat {
const CpuKernels kernels_avx2 = {
    "avx2",          avx2::step_elements, avx2::step_samples, avx2::start_blocks_range, avx2::start_samples,
    avx2::loss_rows, avx2::holistic,      avx2::scale_rows,   avx2::contrast_rows,      avx2::contrast_gradient};
}
