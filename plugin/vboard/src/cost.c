/* SPDX-License-Identifier: GPL-2.0-or-later
 * Cortex-M4 cycle costs that depend on neighbours or operands: DDI0439 (TRM) 3.3.1 notes to table 3-1, 3.3.3
 * "Load/store timings", 7.2.3 (FPU). docs/virtual-board.md lists every rule with its source. */
#include "decode.h"
#include "vboard.h"

static bool writes(const instruction *i, unsigned reg) { return reg != NO_REG && (i->dst == reg || i->dst_lo == reg); }

static bool is_single_access(const instruction *i) {
  return i->kind == KIND_LOAD || i->kind == KIND_STORE || i->kind == KIND_STORE_REG || i->kind == KIND_VFP_LOAD ||
         i->kind == KIND_VFP_STORE;
}

unsigned cost_of(const instruction *before, const instruction *now) {
  unsigned cycles = now->base;
  if (!before) return cycles;
  if (is_single_access(now)) {
    bool address_depends = writes(before, now->rn) || (now->address == ADDRESS_REG && writes(before, now->rm));
    bool after_load = before->kind == KIND_LOAD || before->kind == KIND_VFP_LOAD;
    if (after_load && !address_depends && cycles > 1 && now->address != ADDRESS_LITERAL) {
      cycles--; /* address phase overlaps the data phase of the load before */
    } else if (before->kind == KIND_ALU && address_depends) {
      cycles++; /* the result reaches the address unit one cycle late */
    }
  }
  if (before->kind == KIND_VFP && now->kind == KIND_VFP && before->vfp_dst != NO_REG) {
    /* A result needed by the next FPU instruction costs one more; an accumulator may be forwarded from a
     * multiply-accumulate. */
    bool accumulates = now->base == 3 && before->vfp_dst == now->vfp_dst && before->base != 3;
    if (before->vfp_dst == now->vfp_n || before->vfp_dst == now->vfp_m || accumulates) cycles++;
  }
  if (now->kind == KIND_IT && before->size == 2) cycles = 0; /* folded into the 16-bit instruction before */
  return cycles;
}

unsigned cost_of_divide(uint32_t dividend, uint32_t divisor, bool is_signed) {
  if (is_signed) {
    if ((int32_t)dividend < 0) dividend = 0 - dividend;
    if ((int32_t)divisor < 0) divisor = 0 - divisor;
  }
  if (divisor == 0 || dividend < divisor) return 2;
  unsigned quotient_bits = (unsigned)(__builtin_clz(divisor) - __builtin_clz(dividend));
  unsigned cycles = 3 + (quotient_bits + 3) / 4; /* four quotient bits a cycle */
  return cycles > 12 ? 12 : cycles;
}

unsigned cost_of_unaligned(uint32_t address, unsigned align) {
  if (align == 4 && (address & 3)) return (address & 1) ? 2 : 1; /* byte + halfword + byte, or two halfwords */
  return align == 2 && (address & 1) ? 1 : 0;
}
