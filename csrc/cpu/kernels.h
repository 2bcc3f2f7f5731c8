// The body of kernels_{baseline,avx2,avx512}.cpp, which set the target of the compiler and FASTAT_ISA before including
// it: instantiates core/ with SerialTeam for every element type.
#include <algorithm>
#include <cmath>
#include <vector>

#include "../core/attack_loss.h"
#include "../core/projection.h"
#include "../core/random_start.h"
#include "backend.h"

FASTAT_NAMESPACE_BEGIN

template <class F>
void with_element_type(ElementType type, F f) {
  switch (type) {
    case ElementType::f64: return f(double{});
    case ElementType::f32: return f(float{});
    case ElementType::f16: return f(half16{});
    case ElementType::bf16: return f(bfloat16{});
  }
}

// f(sample, first, last) for the parts of the samples, `size` items each, that the range [begin, end) covers.
template <class F>
void for_sample_parts(int64_t begin, int64_t end, int64_t size, F f) {
  while (begin < end) {
    const int64_t sample = begin / size, first = begin % size;
    const int64_t last = std::min(size, first + (end - begin));
    f(sample, first, last);
    begin += last - first;
  }
}

template <class T>
Sample<T> sample_at(const StepArgs& a, int64_t sample) {
  const int64_t offset = sample * a.n;
  return {static_cast<T*>(a.adv) + offset, a.grad ? static_cast<const T*>(a.grad) + offset : nullptr,
          static_cast<const T*>(a.x) + offset};
}

template <class C, class Args>
Ball<C> ball_at(const Args& a, int64_t sample) {
  return {at_sample<C>(a.eps, sample), static_cast<C>(a.lower), static_cast<C>(a.upper)};
}

void step_elements(const StepArgs& a, int64_t begin, int64_t end) {
  with_element_type(a.type, [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    for_sample_parts(begin, end, a.n, [&](int64_t sample, int64_t first, int64_t last) {
      const Sample<T> s = sample_at<T>(a, sample);
      const Ball<C> ball = ball_at<C>(a, sample);
      const C step = at_sample<C>(a.step, sample);
      const auto run = [&](auto has_grad) {
        for_each(SerialTeam{}, last - first,
                 [=](int64_t i) { linf_element<decltype(has_grad)::value>(s, first + i, step, ball); });
      };
      s.grad ? run(std::true_type{}) : run(std::false_type{});
    });
  });
}

void step_samples(const StepArgs& a, int64_t begin, int64_t end) {
  with_element_type(a.type, [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    std::vector<C> scratch(is_compute_type<T> || static_cast<Norm>(a.norm) == Norm::l2 ? 0 : a.n);
    const auto moved = [&](T* adv) {
      if constexpr (is_compute_type<T>)
        return adv;
      else
        return scratch.data();
    };
    for (int64_t sample = begin; sample < end; ++sample) {
      const Sample<T> s = sample_at<T>(a, sample);
      const Ball<C> ball = ball_at<C>(a, sample);
      const C step = at_sample<C>(a.step, sample);
      const auto run = [&](auto has_grad) {
        constexpr bool grad = decltype(has_grad)::value;
        if (static_cast<Norm>(a.norm) == Norm::l2)
          l2_sample<grad>(SerialTeam{}, s, a.n, step, ball);
        else
          l1_sample<grad>(SerialTeam{}, s, moved(s.adv), a.n, step, a.selected, ball);
      };
      s.grad ? run(std::true_type{}) : run(std::false_type{});
    }
  });
}

template <class T>
StartSample<T> start_sample_at(const StartArgs& a, int64_t sample) {
  const int64_t offset = sample * a.n;
  return {static_cast<T*>(a.out) + offset, static_cast<const T*>(a.x) + offset, {a.channels, a.spatial}};
}

RandomKey key_at(const StartArgs& a, int64_t sample) {
  return {static_cast<uint64_t>(*a.seed), static_cast<uint64_t>(a.sample_ids ? a.sample_ids[sample] : sample),
          static_cast<uint32_t>(a.draw)};
}

void start_blocks_range(const StartArgs& a, int64_t begin, int64_t end) {
  constexpr int64_t chunk =
      512;  // blocks whose noise is made before it is used: two loops that vectorize, in the cache
  with_element_type(a.type, [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    float noise[4 * chunk];
    for_sample_parts(begin, end, (a.n + 3) / 4, [&](int64_t sample, int64_t first, int64_t last) {
      const StartSample<T> s = start_sample_at<T>(a, sample);
      const RandomKey key = key_at(a, sample);
      const Ball<C> ball = ball_at<C>(a, sample);
      for (; first < last; first += chunk) {
        float* kept = noise;
        for_each(SerialTeam{}, std::min(chunk, last - first), [=](int64_t block) {
          const Noise4 made = noise4<Norm::linf>(key, first + block);
          unrolled<4>([&](auto k) { kept[4 * block + k] = made.v[k]; });
        });
        for_each(SerialTeam{}, std::min(4 * chunk, std::min(a.n, 4 * last) - 4 * first),
                 [=](int64_t i) { start_element(s, 4 * first + i, kept[i], ball.eps, ball, true); });
      }
    });
  });
}

void start_samples(const StartArgs& a, int64_t begin, int64_t end) {
  with_element_type(a.type, [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    std::vector<float> noise(a.n);
    for (int64_t sample = begin; sample < end; ++sample) {
      const Ball<C> ball = ball_at<C>(a, sample);
      const RandomKey key = key_at(a, sample);
      const auto run = [&](auto tag) {
        constexpr Norm norm = decltype(tag)::value;
        float* kept = noise.data();
        const C scale = ball_scale<norm>(SerialTeam{}, key, a.n, ball.eps, [=](int64_t i, float v) { kept[i] = v; });
        const StartSample<T> s = start_sample_at<T>(a, sample);
        for_each(SerialTeam{}, a.n, [=](int64_t i) { start_element(s, i, kept[i], scale, ball, false); });
      };
      if (static_cast<Norm>(a.norm) == Norm::l2)
        run(std::integral_constant<Norm, Norm::l2>{});
      else
        run(std::integral_constant<Norm, Norm::l1>{});
    }
  });
}

void loss_rows(const LossArgs& a, int64_t begin, int64_t end) {
  with_element_type(a.type, [&](auto zero) {
    using T = decltype(zero);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t offset = row * a.classes;
      attack_loss_row(SerialTeam{},
                      LossRow<T>{static_cast<const T*>(a.logits) + offset,
                                 a.reference ? static_cast<const T*>(a.reference) + offset : nullptr,
                                 static_cast<T*>(a.grad) + offset, static_cast<compute_t<T>*>(a.loss) + row, a.classes,
                                 a.labels ? a.labels[row] : -1, a.targets ? a.targets[row] : -1},
                      static_cast<LossKind>(a.kind));
    }
  });
}

FASTAT_NAMESPACE_END
