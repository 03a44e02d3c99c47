// Sums that do not depend on the order of their terms: 64-bit fixed point, as kernels/cpu/fixed_point.py.
//
// Forces and per-atom virials: one integer in units of 2^-40 eV/A (eV). Sums over all atoms: two words, units of 2^-12
// and 2^-44. What is not finite or out of range is reported to the caller, never wraps unseen.
#pragma once
#include "common.cuh"

static constexpr double FORCE_SCALE = 1099511627776.0;  // 2^40
static constexpr double FORCE_LIMIT = 4194304.0;        // 2^22: the largest magnitude of one term
static constexpr double SHARED_LIMIT = 131072.0;        // 2^17: 32 terms below it stay below FORCE_LIMIT
static constexpr double HIGH_SCALE = 4096.0;            // 2^12
static constexpr double LOW_SCALE = 17592186044416.0;   // 2^44
static constexpr double SUM_LIMIT = 68719476736.0;      // 2^36: the largest magnitude of one term of a two-word sum

DEVICE bool below(double value, double limit) { return fabs(value) < limit; }  // false for NaN

// Units of 2^-40, rounded to nearest; |value| < FORCE_LIMIT.
DEVICE long long to_fixed(double value) { return __double2ll_rn(value * FORCE_SCALE); }

DEVICE long long add_atomically(long long* sum, long long term) {
  return (long long)atomicAdd(reinterpret_cast<unsigned long long*>(sum), (unsigned long long)term);
}

// *sum += term for any number of threads (accumulates); false when the sum left the range of 64 bits.
DEVICE bool add_in_range(long long* sum, long long term) {
  const long long before = add_atomically(sum, term);
  const long long after = (long long)((unsigned long long)before + (unsigned long long)term);
  return ((before ^ after) & (term ^ after)) >= 0;
}

// A term of a two-word sum. Returns false, and zeros, when it is not finite or out of range.
DEVICE bool to_words(long long& high, long long& low, double value) {
  const bool good = below(value, SUM_LIMIT);
  const double kept = good ? value : 0.0;
  high = __double2ll_rn(kept * HIGH_SCALE);
  low = __double2ll_rn((kept - (double)high / HIGH_SCALE) * LOW_SCALE);
  return good;
}

// Report centre i; of several in a step the largest number stays in the status.
DEVICE void mark_fault(unsigned char* faults, int* status, int i) {
  faults[i] = 1;
  atomicMax(status + 1, i + 1);
}
