#pragma once

namespace ddad {

struct StepResult {
  double loss = 0, mse = 0, vb = 0;  // batch means; vb in bits
  double feature = 0;                // L_f (10), part of the loss with its weight; 0 without a feature head
  double gradNorm = 0;
};

}  // namespace ddad
