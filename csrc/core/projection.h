// One ascent step in the norm and its projection onto the eps-ball around x and the box, for one sample.
//
//   linf   clamp(x + clamp((adv + step sign g) - x, -eps, eps), lower, upper), each operation rounded: the same bits as
//          the plain PyTorch expression (Madry et al. 2018)
//   l2     adv + step g/||g||, scaled into the ball, then clipped to the box; measured in double, and where the three
//          sums of the first pass leave that in doubt, by a pass over what was stepped
//   l1     the step spread over the largest gradient entries that can still move, then the Euclidean projection onto
//          ball and box together (Croce and Hein, "Mind the box: l1-APGD for sparse adversarial attacks", 2021)
//
// A null gradient turns each into the projection alone. NaN entries of a gradient move nothing. Infinite ones move by
// their sign in linf and are chosen first in l1; in l2 they share the step, and what is finite is nothing beside them.
#pragma once

#include "team.h"

FASTAT_NAMESPACE_BEGIN

// One sample in memory. adv is read and written, in the order of memory: no function here looks at where an index lies.
template <class T>
struct Sample {
  T* adv;
  const T* grad;
  const T* x;
};

// The ball and the box: the same for every element of a sample.
template <class C>
struct Ball {
  C eps, lower, upper;
  FASTAT_HD Ball at(int64_t) const { return *this; }
  FASTAT_HD C radius() const { return eps; }
};

template <class C>
struct SizeOfElements {
  const C* values;  // null: `number` for every element
  C number;
  FASTAT_HD C at(int64_t i) const { return values ? values[i] : number; }
};

// They differ from element to element; the radius of l2 and l1 does not.
template <class C>
struct BallOfElements {
  SizeOfElements<C> eps, lower, upper;
  FASTAT_HD Ball<C> at(int64_t i) const { return {eps.at(i), lower.at(i), upper.at(i)}; }
  FASTAT_HD C radius() const { return eps.number; }
};

template <class C>
FASTAT_HD C linf_point(C adv, C grad, C x, C step, const Ball<C>& ball) {
  const C moved = adv + step * sign_of(grad);
  return clamp(x + clamp(moved - x, -ball.eps, ball.eps), ball.lower, ball.upper);
}

template <bool has_grad, class T, class C = compute_t<T>>
FASTAT_HD void linf_element(const Sample<T>& s, int64_t i, C step, const Ball<C>& ball) {
  const C x = load(s.x[i]);
  const C grad = has_grad ? load(s.grad[i]) : C(0);
  store_inside(s.adv[i], linf_point(load(s.adv[i]), grad, x, step, ball), x, ball.eps, ball.lower, ball.upper);
}

// What the one reduction pass of the l2 step knows: enough to say the norm of the stepped perturbation before taking
// it.
struct L2Sums {
  double gg, dg, dd;  // ||g||^2, <adv - x, g>, ||adv - x||^2
};

// How to move and scale the elements of one sample.
template <class C>
struct L2Plan {
  C first, second;  // g times first, at most 4, times second is the step, scaled: one alone may leave the range
  C coarse, fine;   // both multiply the perturbation: one alone may be below the smallest number
  bool moves, shrinks;
};

// ||stepped perturbation||^2.
FASTAT_HD double l2_squared(const L2Sums& sums, double step) {
  return sums.gg > 0 ? sums.dd + 2.0 * (step / sqrt(sums.gg)) * sums.dg + step * step : sums.dd;
}

template <class C>
FASTAT_HD L2Plan<C> l2_plan(const L2Sums& sums, C step, C eps) {
  L2Plan<C> plan{C(0), C(0), C(1), C(1), sums.gg > 0, false};
  const double squared = l2_squared(sums, step), radius = static_cast<double>(eps);
  const double scale = squared > radius * radius ? radius / sqrt(squared) : 1.0;
  if (plan.moves) {
    const double norm = sqrt(sums.gg), least = std::numeric_limits<C>::min();
    const double first = clamp(bits_of<double>(bits_of<int64_t>(1.0 / norm) >> 52 << 52), least, 0.25 / least);
    plan.first = static_cast<C>(first);
    plan.second = static_cast<C>(step * scale / (norm * first));
  }
  plan.shrinks = scale < 1.0;
  plan.coarse = static_cast<C>(scale < 0x1p-60 ? sqrt(scale) : 1.0);
  plan.fine = static_cast<C>(scale < 0x1p-60 ? sqrt(scale) : scale);
  return plan;
}

template <bool has_grad, class C>
FASTAT_HD C l2_point(C adv, C grad, C x, const L2Plan<C>& plan, const Ball<C>& ball) {
  C inside = plan.shrinks ? within_range(adv - x) * plan.coarse * plan.fine : adv;
  if (has_grad && plan.moves) inside = inside + grad * plan.first * plan.second;
  return clamp(plan.shrinks ? x + inside : inside, ball.lower, ball.upper);
}

// Whether the sums say too little: entries that are not finite, numbers near the end of the range, or a long step
// nearly undone by another. Without a step, floats have none of these.
template <bool has_grad, class C>
FASTAT_HD bool l2_unclear(const L2Sums& sums, C step, C eps) {
  if (!has_grad && std::is_same_v<C, float>) return false;
  const double size = static_cast<double>(step), radius = static_cast<double>(eps);
  const double parts = sums.dd + size * size, most = 0x1p+250;
  const bool finite = is_finite(sums.gg) & is_finite(sums.dg) & (parts < most);  // false for NaN
  const bool tiny = sums.gg < (std::is_same_v<C, double> ? 1e-280 : size > 0x1p+20 ? 0x1p-200 : 0.0);
  const bool cancels = parts > radius * radius && l2_squared(sums, size) < 0x1p-6 * parts;
  return !finite | tiny | cancels;
}

// What an entry of such a gradient counts for: itself times a power of two, or, where some are infinite, the sign of
// those. A NaN counts for nothing.
template <class C>
struct L2Entries {
  C lift;
  bool infinite;
  FASTAT_HD C operator()(C g) const {
    const C finite = infinite ? C(0) : g * lift;
    const C other = infinite ? sign_of(g) : C(0);
    return is_finite(g) ? finite : other;
  }
};

// By the largest magnitude, NaN passed over.
template <class C>
FASTAT_HD L2Entries<C> l2_entries(C largest) {
  if (!is_finite(largest)) return {C(1), true};
  if constexpr (std::is_same_v<C, double>) {
    const int64_t exponent = 2046 - (bits_of<int64_t>(largest) >> 52);  // of 1 / largest, biased
    return {bits_of<double>(clamp(exponent, int64_t(23), int64_t(2023)) << 52), false};
  }
  return {C(1), false};
}

// Step and scaling of a sample whose sums are unclear, in double throughout, the stepped perturbation measured as it
// is.
template <bool has_grad, class Team, class T, class Balls, class C = compute_t<T>>
FASTAT_HD void l2_carefully(const Team& team, const Sample<T>& s, int64_t n, C step, const Balls& balls) {
  const double eps = static_cast<double>(balls.radius());
  L2Entries<C> entry{C(1), false};
  double factor = 0.0;  // of the gradient
  if constexpr (has_grad) {
    entry = l2_entries(max_of<C>(team, n, [=](int64_t i) { return abs_of(load(s.grad[i])); }));
    const double gg = sums<1, double>(team, n, [=](int64_t i, auto v) {
      const double g = static_cast<double>(entry(load(s.grad[i])));
      v[0] += g * g;
    })[0];
    if (gg > 0.0) factor = static_cast<double>(step) / sqrt(gg);
  }
  const auto stepped = [=](int64_t i) {
    if constexpr (has_grad) return factor * static_cast<double>(entry(load(s.grad[i])));
    return 0.0;
  };
  const double far = max_of<double>(team, n, [=](int64_t i) {
    return abs_of(0.5 * static_cast<double>(load(s.adv[i])) - 0.5 * static_cast<double>(load(s.x[i])));
  });
  const double unit = far > 0x1p+400 || static_cast<double>(step) > 0x1p+400 ? 0x1p-600 : 1.0;
  const auto perturbation = [=](int64_t i) {
    return (unit * static_cast<double>(load(s.adv[i])) - unit * static_cast<double>(load(s.x[i]))) + unit * stepped(i);
  };
  const double norm = sqrt(sums<1, double>(team, n, [=](int64_t i, auto v) {
    const double d = perturbation(i);
    v[0] += d * d;
  })[0]);
  const bool outside = norm > unit * eps;
  const double scale = outside ? eps / norm : 1.0 / unit;
  for_each(team, n, [=](int64_t i) {
    const Ball<C> ball = balls.at(i);
    const C adv = load(s.adv[i]), x = load(s.x[i]);
    const C moved = within_range(static_cast<C>(static_cast<double>(x) + scale * perturbation(i)));
    const C point = clamp(outside | (stepped(i) != 0.0) ? moved : adv, ball.lower, ball.upper);
    store_inside(s.adv[i], point, x, abs_of(point - x), ball.lower, ball.upper);
  });
}

template <bool has_grad, class Team, class T, class Balls, class C = compute_t<T>>
FASTAT_HD void l2_sample(const Team& team, const Sample<T>& s, int64_t n, C step, const Balls& balls) {
  const auto total = sums<3, double>(team, n, [=](int64_t i, auto v) {
    const double d = static_cast<double>(load(s.adv[i])) - static_cast<double>(load(s.x[i]));
    v[2] += d * d;
    if constexpr (has_grad) {
      const double g = load(s.grad[i]);
      v[0] += g * g;
      v[1] += d * g;
    }
  });
  const L2Sums known{total[0], total[1], total[2]};
  if (l2_unclear<has_grad>(known, step, balls.radius())) return l2_carefully<has_grad>(team, s, n, step, balls);
  const L2Plan<C> plan = l2_plan(known, step, balls.radius());
  for_each(team, n, [=](int64_t i) {
    const Ball<C> ball = balls.at(i);
    const C x = load(s.x[i]);
    const C grad = has_grad ? load(s.grad[i]) : C(0);
    const C point = l2_point<has_grad>(load(s.adv[i]), grad, x, plan, ball);
    store_inside(s.adv[i], point, x, abs_of(point - x), ball.lower, ball.upper);
  });
}

// Bits of a non-negative float order like the number itself: the selection bisects over them.
template <class C>
using key_t = std::conditional_t<sizeof(C) == 8, int64_t, int32_t>;

// The key of a gradient entry that can still move its coordinate within the box, else 0.
template <class C>
FASTAT_HD key_t<C> movable_key(C adv, C grad, const Ball<C>& ball) {
  const bool movable = grad > C(0) ? adv < ball.upper : (grad < C(0) ? adv > ball.lower : false);
  return movable ? bits_of<key_t<C>>(abs_of(grad)) : key_t<C>(0);
}

template <class C>
struct L1Selection {
  key_t<C> threshold;  // entries with at least this key move
  int64_t count;
};

// The k largest movable gradient entries; all entries equal to the smallest of them are taken with it, so that the
// choice does not depend on the order of the elements.
template <class Team, class T, class Balls, class C = compute_t<T>>
FASTAT_HD L1Selection<C> l1_select(const Team& team, const Sample<T>& s, int64_t n, int64_t k, const Balls& balls) {
  using Key = key_t<C>;
  const auto key = [=](int64_t i) { return movable_key<C>(load(s.adv[i]), load(s.grad[i]), balls.at(i)); };
  const auto count_from = [&](Key threshold) {
    return sums<1, Key, int64_t>(team, n, [=](int64_t i, auto v) { v[0] += key(i) >= threshold ? 1 : 0; })[0];
  };
  Key low = 1;
  int64_t count = count_from(low);
  if (count <= k) return {low, count};
  Key high = max_of<Key>(team, n, key) + 1;  // count_from(high) = 0
  while (high - low > 1) {                   // count_from(low) > k > count_from(high)
    const Key middle = low + (high - low) / 2;
    const int64_t selected = count_from(middle);
    if (selected == k) return {middle, k};
    if (selected > k) {
      low = middle;
      count = selected;
    } else {
      high = middle;
    }
  }
  return {low, count};
}

// The Euclidean projection of v = moved - x onto {||u||_1 <= eps, x + u in the box} is u_i = sign(v_i) clip(|v_i| -
// shift, 0, room_i), room_i what the box leaves in the direction of v_i. Where x is outside of the box, v_i is taken to
// point into it, and the clip begins at what brings x there.

// The shift is hi + lo, and u is multiplied by `scale`, which takes back what rounding leaves beyond eps. Two numbers,
// since far from the ball a shift of one has no digits left for what lies within it.
struct L1Shift {
  double hi, lo, scale;
  FASTAT_HD L1Shift plus(double step) const {
    const double low = lo + step, sum = hi + low;
    return {sum, low - (sum - hi), 1.0};  // exact where |low| <= hi, else as good as the step
  }
  FASTAT_HD bool operator<(const L1Shift& other) const { return (hi - other.hi) + (lo - other.lo) < 0.0; }
};

// One coordinate of v, mirrored where it is negative.
struct L1Coordinate {
  double centre, distance, lost, least, room;  // |v| is distance + lost
  bool up;
  FASTAT_HD double rest(const L1Shift& shift) const { return (distance - shift.hi) - (shift.lo - lost); }
  FASTAT_HD double kept(double rest) const { return clamp(rest, least, room); }
};

template <class C>
FASTAT_HD bool l1_upwards(C moved, C x, const Ball<C>& ball) {
  return (x < ball.lower) | ((x <= ball.upper) & (moved > x));
}

template <class C>
FASTAT_HD L1Coordinate l1_coordinate(C moved, C x, const Ball<C>& ball) {
  const bool up = l1_upwards(moved, x, ball);
  const double far = static_cast<double>(up ? moved : -moved);
  const double centre = static_cast<double>(up ? x : -x);
  const double least = static_cast<double>(up ? ball.lower : -ball.upper) - centre;
  const double room = static_cast<double>(up ? ball.upper : -ball.lower) - centre;
  const double difference = far - centre, most = std::numeric_limits<double>::max();
  const double distance = difference > most ? most : difference;
  return {centre, distance, (far - distance) - centre, least > 0.0 ? least : 0.0, room > 0.0 ? room : 0.0, up};
}

// Between the two. Far away what is kept bends near the numbers that a double can be, and is flat between: first those
// are tried, then what is near one end, geometrically, or in the middle.
FASTAT_HD L1Shift l1_between(const L1Shift& low, const L1Shift& high, double eps, int turn) {
  const double tiny = eps * 0x1p-20, least = low.hi > tiny ? low.hi : tiny;
  if (high.hi > least * 0x1p+20) return {sqrt(least) * sqrt(high.hi), 0.0, 1.0};
  const double numbers[] = {low.hi + 0.5 * (high.hi - low.hi), low.hi, high.hi};
  for (const double number : numbers) {
    const L1Shift at{number, 0.0, 1.0};
    if ((low < at) & (at < high)) return at;
  }
  const double gap = (high.hi - low.hi) + (high.lo - low.lo);
  const double near = gap > tiny * 0x1p+20 ? sqrt(gap) * sqrt(tiny) : 0.5 * gap;
  const L1Shift at = turn % 2 == 0 ? low.plus(near) : high.plus(-near);
  return turn % 3 != 0 && (low < at) & (at < high) ? at : low.plus(0.5 * gap);
}

// Where to begin, in the arithmetic of the data: 0 where v may be in the ball.
struct L1Guess {
  double shift, top;  // |v| is nowhere above the top
  bool inside;
};

template <class Team, class T, class C, class Balls>
FASTAT_HD L1Guess l1_guess(const Team& team, const C* moved, const T* points, int64_t n, const Balls& balls) {
  const double eps = static_cast<double>(balls.radius());
  double low = 0.0, high = 0.0, shift = 0.0, top = 0.0;
  for (int iteration = 0; iteration < 30; ++iteration) {
    const C less = static_cast<C>(shift);
    const auto at = sums<2, C, double>(team, n, [=](int64_t i, auto v) {
      const C x = load(points[i]);
      const Ball<C> ball = balls.at(i);
      const bool up = l1_upwards(moved[i], x, ball);
      const C least = up ? ball.lower - x : x - ball.upper, room = up ? ball.upper - x : x - ball.lower;
      const C rest = (up ? moved[i] - x : x - moved[i]) - less;
      const C kept = clamp(rest, least > C(0) ? least : C(0), room > C(0) ? room : C(0));
      v[0] += kept;
      v[1] += static_cast<C>((rest > least) & (rest > C(0)) & (kept == rest));
    });
    if (iteration == 0) {
      if (at[0] < 0.99 * eps) return {0.0, 0.0, true};
      const C far = max_of<C>(team, n, [=](int64_t i) { return abs_of(moved[i] - load(points[i])); });
      const double most = static_cast<double>(std::numeric_limits<C>::max());
      top = high = within_range(is_finite(far) ? static_cast<double>(far) * (1.0 + 0x1p-20) : 4.0 * most);
      if (eps == 0.0 || !(at[0] > 1.01 * eps)) break;
    }
    if (abs_of(at[0] - eps) < 0x1p-18 * eps) break;
    (at[0] > eps ? low : high) = shift;
    double next = shift + (at[0] - eps) / at[1];
    if (!((next > low) & (next < high))) next = low + (high - low) * 0.5;
    if (!((next > low) & (next < high))) break;
    shift = next;
  }
  return {shift, top, false};
}

// What u keeps of v falls with the shift along a piecewise-linear function: Newton steps to where it is eps, within a
// bracket. hi < 0: the whole of v is in the ball.
template <class Team, class T, class C, class Balls>
FASTAT_HD L1Shift l1_shift(const Team& team, const C* moved, const T* points, int64_t n, const Balls& balls) {
  const double eps = static_cast<double>(balls.radius());
  const L1Guess guess = l1_guess(team, moved, points, n, balls);
  if (guess.inside) return {-1.0, 0.0, 1.0};
  L1Shift low{0.0, 0.0, 1.0}, high{guess.top, 0.0, 1.0}, shift{guess.shift, 0.0, 1.0};
  const double close = eps * (0x1p-46 + 0x1p-58 * static_cast<double>(n));  // as sums of n terms round
  for (int iteration = 0;; ++iteration) {
    const auto at = sums<2, double>(team, n, [=](int64_t i, auto v) {
      const L1Coordinate c = l1_coordinate<C>(moved[i], load(points[i]), balls.at(i));
      const double rest = c.rest(shift), kept = c.kept(rest);
      v[0] += kept;
      v[1] += static_cast<double>((rest > c.least) & (kept == rest));
    });
    if (shift.hi == 0.0) {
      if (at[0] <= eps) return {-1.0, 0.0, 1.0};
      if (eps == 0.0) return {std::numeric_limits<double>::infinity(), 0.0, 1.0};
    }
    shift.scale = at[0] > eps ? eps / at[0] : 1.0;
    if (abs_of(at[0] - eps) <= close || iteration == 300) break;
    (at[0] > eps ? low : high) = shift;
    L1Shift next = shift.plus((at[0] - eps) / at[1]);
    if (!((low < next) & (next < high))) next = l1_between(low, high, eps, iteration);  // off the bracket, or flat
    if (!((low < next) & (next < high))) break;
    shift = next;
  }
  return shift;
}

// x + u, its rounding toward x.
template <class C>
FASTAT_HD C l1_point(C moved, C x, const L1Shift& shift, const Ball<C>& ball) {
  const L1Coordinate c = l1_coordinate(moved, x, ball);
  const double u = c.kept(c.rest(shift)) * shift.scale;
  const double exact = c.centre + u;
  const C nearest = static_cast<C>(c.up ? exact : -exact);
  const double distance = static_cast<double>(c.up ? nearest : -nearest) - c.centre;
  const C point = distance > u ? next_toward(nearest, x) : nearest;
  return clamp(shift.hi < 0.0 ? moved : point, ball.lower, ball.upper);
}

// `moved` holds n numbers of the compute type; it may be adv itself where that is the element type.
template <bool has_grad, class Team, class T, class Balls, class C = compute_t<T>>
FASTAT_HD void l1_sample(const Team& team, const Sample<T>& s, C* moved, int64_t n, C step, int64_t k,
                         const Balls& balls) {
  if constexpr (has_grad) {
    const L1Selection<C> selection = l1_select(team, s, n, k, balls);
    const C amount = selection.count > 0 ? static_cast<C>(step / static_cast<double>(selection.count)) : C(0);
    for_each(team, n, [=](int64_t i) {
      const C adv = load(s.adv[i]), grad = load(s.grad[i]);
      const C move = amount * sign_of(grad);
      moved[i] = within_range(adv + (movable_key<C>(adv, grad, balls.at(i)) >= selection.threshold ? move : C(0)));
    });
  } else {
    for_each(team, n, [=](int64_t i) { moved[i] = within_range(load(s.adv[i])); });
  }
  const L1Shift shift = l1_shift(team, moved, s.x, n, balls);
  for_each(team, n, [=](int64_t i) {
    const Ball<C> ball = balls.at(i);
    const C x = load(s.x[i]);
    const C point = l1_point(moved[i], x, shift, ball);
    store_inside(s.adv[i], point, x, abs_of(point - x), ball.lower, ball.upper);
  });
}

FASTAT_NAMESPACE_END
