// The CPU kernels for AVX512.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#endif
#define FASTAT_ISA avx512
#include "kernels.h"

namespace fastat {
const CpuKernels kernels_avx512 = {"avx512",
                                   avx512::step_elements,
                                   avx512::step_samples,
                                   avx512::start_blocks_range,
                                   avx512::start_samples,
                                   avx512::loss_rows,
                                   avx512::holistic,
                                   avx512::scale_rows,
                                   avx512::contrast_rows,
                                   avx512::contrast_gradient};
}
