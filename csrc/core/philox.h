// Counter-based random numbers: Philox4x32 with 10 rounds (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as
// easy as 1, 2, 3", SC 2011). A block of four words is a pure function of
//   key      the seed (64 bits)
//   counter  (block index, sample id low, sample id high, draw)
// so a number depends on what it is for, never on how the batch was split or in which order it was computed.
#pragma once

#include "portable.h"

FASTAT_NAMESPACE_BEGIN

struct RandomKey {
  uint64_t seed;
  uint64_t sample_id;
  uint32_t draw;
};

struct Words4 {
  uint32_t w[4];
};

FASTAT_HD Words4 philox(const RandomKey& key, uint32_t block) {
  uint32_t c0 = block, c1 = static_cast<uint32_t>(key.sample_id), c2 = static_cast<uint32_t>(key.sample_id >> 32),
           c3 = key.draw;
  uint32_t k0 = static_cast<uint32_t>(key.seed), k1 = static_cast<uint32_t>(key.seed >> 32);
  unrolled<10>([&](auto) {
    const uint64_t p0 = static_cast<uint64_t>(0xD2511F53u) * c0;
    const uint64_t p1 = static_cast<uint64_t>(0xCD9E8D57u) * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  });
  return {{c0, c1, c2, c3}};
}

// The block that no element uses (elements would have to number 2^34): it carries a sample's one extra draw.
constexpr uint32_t extra_block = 0xffffffffu;

// 24 bits, so that every value is an exact float: uniform on {-1, -1 + 2^-23, ..., 1 - 2^-23}.
FASTAT_HD float symmetric_uniform(uint32_t word) {
  return static_cast<float>(static_cast<int32_t>(word >> 8) - (1 << 23)) * (1.0f / (1 << 23));
}

// Uniform on {2^-24, ..., 1}: its logarithm is finite.
FASTAT_HD float positive_uniform(uint32_t word) {
  return static_cast<float>(static_cast<int32_t>(word >> 8) + 1) * (1.0f / (1 << 24));
}

// Uniform on {0, 2^-24, ..., 1 - 2^-24}.
FASTAT_HD float unit_uniform(uint32_t word) {
  return static_cast<float>(static_cast<int32_t>(word >> 8)) * (1.0f / (1 << 24));
}

FASTAT_NAMESPACE_END
