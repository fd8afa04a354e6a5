#pragma once
// Bodies of kernels that sum over rows or columns, in a fixed order.
#include <cmath>
#include <cstdint>

#include "ops/elementwise/elementwise_grid.h"

namespace ddad {

/// Sums of columns, first within chunks of rows: partial [chunks, columns]. A block takes kColumns runs of columns and
/// one chunk; each of its kLanes rows of threads every kLanes-th row.
template <class T>
struct ColumnSums {
  static constexpr int kColumns = 16, kLanes = 16, kThreads = kColumns * kLanes, kPhases = 2;
  struct Shared {
    float sums[kLanes][kColumns * kRun];
  };
  const T* x;
  float* partial;
  int64_t rows, columns, chunkRows;
  bool aligned;

  GridIndex extent() const {
    return {static_cast<int>(blocksOf(columns, kColumns * kRun)), static_cast<int>(blocksOf(rows, chunkRows))};
  }
  template <int kPhase>
  DDAD_HD_MEMBER void run(GridIndex block, int thread, Shared& shared) const {
    const int lane = thread / kColumns, place = thread % kColumns;
    const int64_t first = static_cast<int64_t>(block.x) * kColumns * kRun;
    if constexpr (kPhase == 0) {
      const int64_t c = first + place * kRun, start = static_cast<int64_t>(block.y) * chunkRows;
      const int64_t end = start + chunkRows < rows ? start + chunkRows : rows;
      float sums[kRun] = {};
      if (c < columns) {
        const int count = columns - c < kRun ? static_cast<int>(columns - c) : kRun;
        const bool whole = aligned && count == kRun;
        for (int64_t r = start + lane; r < end; r += kLanes) {
          float values[kRun];
          loadValues(x + r * columns + c, whole, count, values);
          DDAD_UNROLL
          for (int k = 0; k < kRun; ++k) sums[k] += values[k];
        }
      }
      DDAD_UNROLL
      for (int k = 0; k < kRun; ++k) shared.sums[lane][place * kRun + k] = sums[k];
    } else {
      if (thread >= kColumns * kRun || first + thread >= columns) return;
      float sum = 0.0f;
      for (int l = 0; l < kLanes; ++l) sum += shared.sums[l][thread];
      partial[static_cast<int64_t>(block.y) * columns + first + thread] = sum;
    }
  }
};

/// to[c] = the sum of partial[:, c].
struct ColumnTotals {
  const float* partial;
  float* to;
  int64_t chunks, columns;

  DDAD_HD_MEMBER int64_t items() const { return columns; }
  DDAD_HD_MEMBER void item(int64_t c) const {
    double sum = 0.0;
    for (int64_t i = 0; i < chunks; ++i) sum += static_cast<double>(partial[i * columns + c]);
    to[c] = static_cast<float>(sum);
  }
};

/// A row a block. Phases: largest value, sum of exponentials, the quotient.
struct SoftmaxRows {
  static constexpr int kThreads = 128, kPhases = 5;
  struct Shared {
    float parts[kThreads];
    float largest, total;
  };
  float* scores;
  int64_t rows, columns;
  float scale;

  GridIndex extent() const { return {static_cast<int>(rows), 1}; }
  template <int kPhase>
  DDAD_HD_MEMBER void run(GridIndex block, int thread, Shared& shared) const {
    float* const row = scores + static_cast<int64_t>(block.x) * columns;
    if constexpr (kPhase == 0) {
      float largest = -INFINITY;
      for (int64_t i = thread; i < columns; i += kThreads) largest = largest < row[i] ? row[i] : largest;
      shared.parts[thread] = largest;
    } else if constexpr (kPhase == 1) {
      if (thread != 0) return;
      float largest = shared.parts[0];
      for (int i = 1; i < kThreads; ++i) largest = largest < shared.parts[i] ? shared.parts[i] : largest;
      shared.largest = largest;
    } else if constexpr (kPhase == 2) {
      float sum = 0.0f;
      for (int64_t i = thread; i < columns; i += kThreads) {
        const float e = fastExp((row[i] - shared.largest) * scale);
        row[i] = e;
        sum += e;
      }
      shared.parts[thread] = sum;
    } else if constexpr (kPhase == 3) {
      if (thread != 0) return;
      float sum = 0.0f;
      for (int i = 0; i < kThreads; ++i) sum += shared.parts[i];
      shared.total = sum;
    } else {
      const float inverse = 1.0f / shared.total;
      for (int64_t i = thread; i < columns; i += kThreads) row[i] *= inverse;
    }
  }
};

/// A row a block: gradient = scale p (gradient - sum(gradient p)).
struct SoftmaxRowsGradient {
  static constexpr int kThreads = 128, kPhases = 3;
  struct Shared {
    float parts[kThreads];
    float dot;
  };
  const float* p;
  float* gradient;
  int64_t rows, columns;
  float scale;

  GridIndex extent() const { return {static_cast<int>(rows), 1}; }
  template <int kPhase>
  DDAD_HD_MEMBER void run(GridIndex block, int thread, Shared& shared) const {
    const float* const weights = p + static_cast<int64_t>(block.x) * columns;
    float* const row = gradient + static_cast<int64_t>(block.x) * columns;
    if constexpr (kPhase == 0) {
      float sum = 0.0f;
      for (int64_t i = thread; i < columns; i += kThreads) sum += weights[i] * row[i];
      shared.parts[thread] = sum;
    } else if constexpr (kPhase == 1) {
      if (thread != 0) return;
      float sum = 0.0f;
      for (int i = 0; i < kThreads; ++i) sum += shared.parts[i];
      shared.dot = sum;
    } else {
      for (int64_t i = thread; i < columns; i += kThreads) row[i] = scale * weights[i] * (row[i] - shared.dot);
    }
  }
};

/// Threads that meet a value that is not finite all write the same.
struct FindNonFinite {
  const float* x;
  int64_t n;
  int32_t* result;

  DDAD_HD_MEMBER int64_t items() const { return n; }
  DDAD_HD_MEMBER void item(int64_t i) const {
    if (!(x[i] - x[i] == 0.0f)) *result = 1;
  }
};

}  // namespace ddad
