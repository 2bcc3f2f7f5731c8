// The body of kernels_{baseline,avx2,avx512}.cpp, which set the target of the compiler and FASTAT_ISA before including
// it: instantiates core/ with SerialTeam for every element type.
#include <algorithm>
#include <cmath>
#include <vector>

#include "../views.h"
#include "backend.h"

FASTAT_NAMESPACE_BEGIN

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

void step_elements(const StepArgs& a, int64_t begin, int64_t end) {
  with_element_type(a.type, [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    for_sample_parts(begin, end, a.n, [&](int64_t sample, int64_t first, int64_t last) {
      const Sample<T> s = step_sample_at<T>(a, sample);
      const auto run = [&](auto has_grad) {
        constexpr bool grad = decltype(has_grad)::value;
        if (by_element(a)) {
          const BallOfElements<C> balls = balls_at<C>(a, sample);
          const SizeOfElements<C> steps = sizes_at<C>(a.step, a.steps_differ, sample);
          for_each(SerialTeam{}, last - first, [=](int64_t i) {
            linf_element<grad>(s, first + i, within_range(steps.at(first + i)), balls.at(first + i));
          });
        } else {
          const Ball<C> ball = ball_at<C>(a, sample);
          const C step = step_at<C>(a, sample);
          for_each(SerialTeam{}, last - first, [=](int64_t i) { linf_element<grad>(s, first + i, step, ball); });
        }
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
      const Sample<T> s = step_sample_at<T>(a, sample);
      const C step = step_at<C>(a, sample);
      const auto run = [&](auto has_grad, const auto& ball) {
        constexpr bool grad = decltype(has_grad)::value;
        if (static_cast<Norm>(a.norm) == Norm::l2)
          l2_sample<grad>(SerialTeam{}, s, a.n, step, ball);
        else
          l1_sample<grad>(SerialTeam{}, s, moved(s.adv), a.n, step, a.selected, ball);
      };
      const auto with_ball = [&](const auto& ball) {
        s.grad ? run(std::true_type{}, ball) : run(std::false_type{}, ball);
      };
      by_element(a) ? with_ball(balls_at<C>(a, sample)) : with_ball(ball_at<C>(a, sample));
    }
  });
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
      const auto run = [&](const auto& ball) {
        for (int64_t at = first; at < last; at += chunk) {
          float* kept = noise;
          for_each(SerialTeam{}, std::min(chunk, last - at), [=](int64_t block) {
            const Noise4 made = noise4<Norm::linf>(key, at + block);
            unrolled<4>([&](auto k) { kept[4 * block + k] = made.v[k]; });
          });
          for_each(SerialTeam{}, std::min(4 * chunk, std::min(a.n, 4 * last) - 4 * at),
                   [=](int64_t i) { start_element(s, 4 * at + i, kept[i], C(0), ball, true); });
        }
      };
      by_element(a) ? run(balls_at<C>(a, sample)) : run(ball_at<C>(a, sample));
    });
  });
}

void start_samples(const StartArgs& a, int64_t begin, int64_t end) {
  with_element_type(a.type, [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    std::vector<float> noise(a.n);
    for (int64_t sample = begin; sample < end; ++sample) {
      const RandomKey key = key_at(a, sample);
      const auto run = [&](auto tag, const auto& ball) {
        constexpr Norm norm = decltype(tag)::value;
        float* kept = noise.data();
        const auto keep = [=](int64_t i, float v) { kept[i] = v; };
        const StartSample<T> s = start_sample_at<T>(a, sample);
        const C scale = ball_scale<norm>(SerialTeam{}, key, a.n, s, ball, keep);
        for_each(SerialTeam{}, a.n, [=](int64_t i) { start_element(s, i, kept[i], scale, ball, false); });
      };
      const auto with_ball = [&](const auto& ball) {
        if (static_cast<Norm>(a.norm) == Norm::l2)
          run(std::integral_constant<Norm, Norm::l2>{}, ball);
        else
          run(std::integral_constant<Norm, Norm::l1>{}, ball);
      };
      by_element(a) ? with_ball(balls_at<C>(a, sample)) : with_ball(ball_at<C>(a, sample));
    }
  });
}

void loss_rows(const LossArgs& a, int64_t begin, int64_t end) {
  with_element_type(a.type, [&](auto zero) {
    for (int64_t row = begin; row < end; ++row)
      attack_loss_row(SerialTeam{}, row_at<decltype(zero)>(a, row), static_cast<LossKind>(a.kind));
  });
}

void holistic(const HolisticArgs& a) {
  with_real_type(a.type, [&](auto zero) { holistic_weights(SerialTeam{}, batch_of<decltype(zero)>(a)); });
}

void scale_rows(const ScaleArgs& a, int64_t begin, int64_t end) {
  with_element_type(a.type, [&](auto zero) {
    for (int64_t row = begin; row < end; ++row)
      for_each(SerialTeam{}, a.length, [=](int64_t i) { scale_element<decltype(zero)>(a, row, i); });
  });
}

void contrast_rows(const ContrastArgs& a, int64_t begin, int64_t end) {
  with_real_type(a.type, [&](auto zero) {
    for (int64_t row = begin; row < end; ++row) contrast_row_of<decltype(zero)>(SerialTeam{}, a, row);
  });
}

void contrast_gradient(const ContrastArgs& a, int64_t begin, int64_t end) {
  with_real_type(a.type, [&](auto zero) {
    for (int64_t i = begin; i < end; ++i) {
      const auto row = contrast_row_at<decltype(zero)>(a, i);
      auto* to = static_cast<decltype(zero)*>(a.products) + i * a.n;
      if (a.inside)
        for_each(SerialTeam{}, a.n, [=](int64_t k) { contrast_element<true>(a, row, to, k); });
      else
        for_each(SerialTeam{}, a.n, [=](int64_t k) { contrast_element<false>(a, row, to, k); });
    }
  });
}

FASTAT_NAMESPACE_END
