// What the launchers hand to the kernels: raw pointers and sizes, no torch types. Both backends take the same.
#pragma once

#include <cstdint>

namespace fastat {

enum class ElementType : int { f64, f32, f16, bf16 };

// One number for the batch, or numbers for the samples. `values` holds the compute type of the op: double for f64, else
// float.
struct Sizes {
  const void* values;  // null: `number` for every sample
  int64_t stride;      // from sample to sample; 0: the same for all
  double number;
};

// Samples lie one after the other, n elements each, in the same order inside for all tensors. What all kernels of a
// step take: those whose sizes are the same for all elements of a sample take no more, since every byte of their
// arguments costs registers.
struct SampleStepArgs {
  ElementType type;
  int norm;  // core/random_start.h's Norm
  void* adv;
  const void* grad;  // null: projection only
  const void* x;
  int64_t batch, n;
  Sizes step, eps;
  double lower, upper;
  int64_t selected;  // l1: how many coordinates the step moves
};

struct StepArgs : SampleStepArgs {
  Sizes lowers{}, uppers{};  // n numbers a sample, in the order of its elements, and then they win over lower and upper
  bool steps_differ = false, radii_differ = false;  // linf: step and eps hold n numbers a sample too
};

struct StartArgs {
  ElementType type;
  int norm;
  void* out;
  const void* x;
  int64_t batch, n, channels, spatial;  // channels == 1: row-major, else channels last
  Sizes eps;
  const int64_t* seed;
  const int64_t* sample_ids;  // null: 0, 1, 2, ...
  int64_t draw;
  double lower, upper;
  Sizes lowers{}, uppers{};  // as for a step
  bool radii_differ = false;
};

struct LossArgs {
  ElementType type;
  int kind;  // core/attack_loss.h's LossKind
  const void* logits;
  const void* reference;   // kl and bce, else null
  const int64_t* labels;   // null for kl and bce
  const int64_t* targets;  // dlr_targeted, else null
  void* loss;
  void* grad;
  int64_t rows, classes;
  void* weights;  // ce: where the weights of BAT go, else null
  double gamma;
};

struct HolisticArgs {
  ElementType type;  // f32 or f64
  const void* losses;
  void* weights;
  void* value;
  int64_t n;
  double alpha, r;
  const double* alpha_value;  // where given, they win over the numbers
  const double* r_value;
  bool hr;
};

struct ScaleArgs {
  ElementType type;
  const void* rows;
  const void* weights;  // compute type, as scale
  const void* scale;
  void* out;
  int64_t count, length;
};

// Rows first, first + 1, ... of the matrix of products of n samples. The sums are four rows of `length` numbers each:
// log-sum, positive, count and loss.
struct ContrastArgs {
  ElementType type;  // f32 or f64
  void* products;
  const void* labels;  // n integers of the width of the type
  int64_t rows, n, first;
  double inverse_tau;
  bool inside;
  void* sums_of_rows;       // forward: where those of the first row go
  int64_t length;           // forward
  const void* sums_of_all;  // backward: n each
  const void* scale;        // backward: one number of the type
};

struct BestArgs {
  void* best_x;
  void* best_loss;
  const void* adv;
  const void* loss;
  bool loss_f64;
  int64_t batch, sample_bytes;
};

}  // namespace fastat
