/* SPDX-License-Identifier: Apache-2.0 */
/* The instruction seam: every Cortex-M4 DSP instruction the kernels use, as one function each.
 *
 * On a core with the DSP extension (__ARM_FEATURE_DSP) a function is the instruction: the ACLE intrinsic where there is
 * one, else a one-instruction asm statement. Elsewhere it is exact portable C, so that the same kernel source runs on
 * the host under sanitizers. Little-endian only, as TFLite files and the Cortex-M4 are. */
#ifndef RQDKM_ARCH_H
#define RQDKM_ARCH_H

#include <stdint.h>
#include <string.h>

#if defined(__ARM_FEATURE_DSP) && __ARM_FEATURE_DSP
#include <arm_acle.h>
#define RQDKM_DSP 1
/* Keeps a constant in a register: there a mask takes a shifted operand, as an immediate it does not. */
#define RQDKM_IN_REGISTER(x) __asm("" : "+r"(x))
#else
#define RQDKM_IN_REGISTER(x) ((void)0)
#define RQDKM_DSP 0
#endif

#if defined(__GNUC__)
#define RQDKM_INLINE static inline __attribute__((always_inline, unused))
#define RQDKM_NOINLINE __attribute__((noinline))
/* Put before a loop: GCC must not unroll or peel it. Loops above 1 KB of code thrash the F407's instruction cache. */
#define RQDKM_NO_UNROLL _Pragma("GCC unroll 1")
/* Stops the compiler from moving code across this point; costs no instruction. */
#define RQDKM_BARRIER() __asm volatile("" ::: "memory")
#else
#define RQDKM_INLINE static inline
#define RQDKM_NOINLINE
#define RQDKM_NO_UNROLL
#define RQDKM_BARRIER() ((void)0)
#endif

#if defined(__cplusplus)
#define RQDKM_RESTRICT __restrict
#else
#define RQDKM_RESTRICT restrict
#endif

/* ---- memory: one LDR / STR / LDRH / STRH each, any alignment, no aliasing assumptions -------------------------------
 * Going through memcpy also keeps GCC from merging neighbours into LDRD / STRD, which pipeline worse. */
RQDKM_INLINE uint32_t rqdkm_load32(const void *p) {
  uint32_t v;
  memcpy(&v, p, sizeof v);
  return v;
}

RQDKM_INLINE void rqdkm_store32(void *p, uint32_t v) { memcpy(p, &v, sizeof v); }

/* ---- lanes ----------------------------------------------------------------------------------------------------- */
RQDKM_INLINE int32_t rqdkm_lo16(uint32_t x) { return (int16_t)(uint16_t)x; }
RQDKM_INLINE int32_t rqdkm_hi16(uint32_t x) { return (int16_t)(uint16_t)(x >> 16); }

#if RQDKM_DSP

/* Two 16-bit lanes into one word. First half of the name: where lane 0 comes from in `a`; second: lane 1 in `b`. */
RQDKM_INLINE uint32_t rqdkm_pack_lo_lo(uint32_t a, uint32_t b) {
  uint32_t r;
  __asm("pkhbt %0, %1, %2, lsl #16" : "=r"(r) : "r"(a), "r"(b));
  return r;
}
RQDKM_INLINE uint32_t rqdkm_pack_hi_hi(uint32_t a, uint32_t b) {
  uint32_t r;
  __asm("pkhtb %0, %2, %1, asr #16" : "=r"(r) : "r"(a), "r"(b));
  return r;
}

/* Bytes 0 and 2 of x, sign / zero extended to two 16-bit lanes; the ror8 forms take bytes 1 and 3. */
RQDKM_INLINE uint32_t rqdkm_sxtb16(uint32_t x) { return (uint32_t)__sxtb16((int8x4_t)x); }
RQDKM_INLINE uint32_t rqdkm_uxtb16(uint32_t x) { return (uint32_t)__uxtb16((uint8x4_t)x); }
RQDKM_INLINE uint32_t rqdkm_sxtb16_ror8(uint32_t x) {
  uint32_t r;
  __asm("sxtb16 %0, %1, ror #8" : "=r"(r) : "r"(x));
  return r;
}
RQDKM_INLINE uint32_t rqdkm_uxtb16_ror8(uint32_t x) {
  uint32_t r;
  __asm("uxtb16 %0, %1, ror #8" : "=r"(r) : "r"(x));
  return r;
}
/* Lane-wise a + extended bytes of x, modulo 2^16. */
RQDKM_INLINE uint32_t rqdkm_sxtab16(uint32_t a, uint32_t x) { return (uint32_t)__sxtab16((int16x2_t)a, (int8x4_t)x); }
RQDKM_INLINE uint32_t rqdkm_sxtab16_ror8(uint32_t a, uint32_t x) {
  uint32_t r;
  __asm("sxtab16 %0, %1, %2, ror #8" : "=r"(r) : "r"(a), "r"(x));
  return r;
}

/* acc + x.lo * y.lo + x.hi * y.hi, modulo 2^32. */
RQDKM_INLINE int32_t rqdkm_smlad(uint32_t x, uint32_t y, int32_t acc) {
  return __smlad((int16x2_t)x, (int16x2_t)y, acc);
}
/* acc + one product of lanes (b = low, t = high; first letter for x, second for y), modulo 2^32. */
RQDKM_INLINE int32_t rqdkm_smlabb(uint32_t x, uint32_t y, int32_t acc) { return __smlabb((int32_t)x, (int32_t)y, acc); }
RQDKM_INLINE int32_t rqdkm_smlabt(uint32_t x, uint32_t y, int32_t acc) { return __smlabt((int32_t)x, (int32_t)y, acc); }
RQDKM_INLINE int32_t rqdkm_smlatb(uint32_t x, uint32_t y, int32_t acc) { return __smlatb((int32_t)x, (int32_t)y, acc); }
RQDKM_INLINE int32_t rqdkm_smlatt(uint32_t x, uint32_t y, int32_t acc) { return __smlatt((int32_t)x, (int32_t)y, acc); }

/* acc + floor(a * one 16-bit lane of y / 2^16), modulo 2^32. */
RQDKM_INLINE int32_t rqdkm_smlawb(int32_t a, uint32_t y, int32_t acc) { return __smlawb(a, (int32_t)y, acc); }
RQDKM_INLINE int32_t rqdkm_smlawt(int32_t a, uint32_t y, int32_t acc) { return __smlawt(a, (int32_t)y, acc); }

/* High words of the 64-bit product: floor(a b / 2^32), rounded, and added to c; see requantize.h for their use. */
RQDKM_INLINE int32_t rqdkm_smmulr(int32_t a, int32_t b) {
  int32_t r;
  __asm("smmulr %0, %1, %2" : "=r"(r) : "r"(a), "r"(b));
  return r;
}
RQDKM_INLINE int32_t rqdkm_smmla(int32_t a, int32_t b, int32_t c) {
  int32_t r;
  __asm("smmla %0, %1, %2, %3" : "=r"(r) : "r"(a), "r"(b), "r"(c));
  return r;
}
RQDKM_INLINE int32_t rqdkm_smmlar(int32_t a, int32_t b, int32_t c) {
  int32_t r;
  __asm("smmlar %0, %1, %2, %3" : "=r"(r) : "r"(a), "r"(b), "r"(c));
  return r;
}

/* Saturate to int8. The asr16 form does x >> 16 first, in the same instruction. */
RQDKM_INLINE int32_t rqdkm_ssat8(int32_t x) {
  int32_t r;
  __asm("ssat %0, #8, %1" : "=r"(r) : "r"(x));
  return r;
}
RQDKM_INLINE int32_t rqdkm_ssat8_asr16(int32_t x) {
  int32_t r;
  __asm("ssat %0, #8, %1, asr #16" : "=r"(r) : "r"(x));
  return r;
}
RQDKM_INLINE int32_t rqdkm_ssat8_asr20(int32_t x) {
  int32_t r;
  __asm("ssat %0, #8, %1, asr #20" : "=r"(r) : "r"(x));
  return r;
}

/* Lane arithmetic, modulo 2^16. */
RQDKM_INLINE uint32_t rqdkm_sadd16(uint32_t a, uint32_t b) { return (uint32_t)__sadd16((int16x2_t)a, (int16x2_t)b); }
RQDKM_INLINE uint32_t rqdkm_ssub16(uint32_t a, uint32_t b) { return (uint32_t)__ssub16((int16x2_t)a, (int16x2_t)b); }
/* Byte-wise a - b, modulo 2^8. */
RQDKM_INLINE uint32_t rqdkm_ssub8(uint32_t a, uint32_t b) {
  uint32_t r;
  __asm("ssub8 %0, %1, %2" : "=r"(r) : "r"(a), "r"(b));
  return r;
}
/* Byte-wise signed maximum: SSUB8 sets the GE flags that SEL reads, so both stay in one asm statement. */
RQDKM_INLINE uint32_t rqdkm_max_s8x4(uint32_t a, uint32_t b) {
  uint32_t r;
  __asm("ssub8 %0, %1, %2\n\tsel %0, %1, %2" : "=&r"(r) : "r"(a), "r"(b));
  return r;
}
RQDKM_INLINE uint32_t rqdkm_min_s8x4(uint32_t a, uint32_t b) {
  uint32_t r;
  __asm("ssub8 %0, %1, %2\n\tsel %0, %2, %1" : "=&r"(r) : "r"(a), "r"(b));
  return r;
}

#else /* ---- the same, in portable C ---- */

RQDKM_INLINE uint32_t rqdkm_pack_lo_lo(uint32_t a, uint32_t b) { return (a & 0xffffu) | (b << 16); }
RQDKM_INLINE uint32_t rqdkm_pack_hi_hi(uint32_t a, uint32_t b) { return (a >> 16) | (b & 0xffff0000u); }

RQDKM_INLINE int32_t rqdkm_wrap32(uint32_t x) { return x < 0x80000000u ? (int32_t)x : -(int32_t)(~x) - 1; }
RQDKM_INLINE int32_t rqdkm_sat(int32_t x, int32_t lo, int32_t hi) { return x < lo ? lo : x > hi ? hi : x; }
RQDKM_INLINE int32_t rqdkm_byte_s8(uint32_t x, unsigned i) { return (int8_t)(uint8_t)(x >> (8u * i)); }

RQDKM_INLINE uint32_t rqdkm_uxtb16(uint32_t x) { return x & 0x00ff00ffu; }
RQDKM_INLINE uint32_t rqdkm_sxtb16(uint32_t x) {
  return rqdkm_pack_lo_lo((uint32_t)rqdkm_byte_s8(x, 0), (uint32_t)rqdkm_byte_s8(x, 2));
}
RQDKM_INLINE uint32_t rqdkm_sxtb16_ror8(uint32_t x) { return rqdkm_sxtb16(x >> 8); }
RQDKM_INLINE uint32_t rqdkm_sadd16(uint32_t a, uint32_t b) { return rqdkm_pack_lo_lo(a + b, (a >> 16) + (b >> 16)); }
RQDKM_INLINE uint32_t rqdkm_uxtb16_ror8(uint32_t x) { return (x >> 8) & 0x00ff00ffu; }
RQDKM_INLINE uint32_t rqdkm_ssub8(uint32_t a, uint32_t b) {
  return ((a | 0x80808080u) - (b & 0x7f7f7f7fu)) ^ ((a ^ ~b) & 0x80808080u);
}
RQDKM_INLINE uint32_t rqdkm_ssub16(uint32_t a, uint32_t b) { return rqdkm_pack_lo_lo(a - b, (a >> 16) - (b >> 16)); }
RQDKM_INLINE uint32_t rqdkm_sxtab16(uint32_t a, uint32_t x) { return rqdkm_sadd16(a, rqdkm_sxtb16(x)); }
RQDKM_INLINE uint32_t rqdkm_sxtab16_ror8(uint32_t a, uint32_t x) { return rqdkm_sadd16(a, rqdkm_sxtb16_ror8(x)); }

RQDKM_INLINE int32_t rqdkm_mac(int32_t x, int32_t y, int32_t acc) {
  return rqdkm_wrap32((uint32_t)acc + (uint32_t)(x * y)); /* |x y| <= 2^30 */
}
RQDKM_INLINE int32_t rqdkm_smlabb(uint32_t x, uint32_t y, int32_t acc) {
  return rqdkm_mac(rqdkm_lo16(x), rqdkm_lo16(y), acc);
}
RQDKM_INLINE int32_t rqdkm_smlabt(uint32_t x, uint32_t y, int32_t acc) {
  return rqdkm_mac(rqdkm_lo16(x), rqdkm_hi16(y), acc);
}
RQDKM_INLINE int32_t rqdkm_smlatb(uint32_t x, uint32_t y, int32_t acc) {
  return rqdkm_mac(rqdkm_hi16(x), rqdkm_lo16(y), acc);
}
RQDKM_INLINE int32_t rqdkm_smlatt(uint32_t x, uint32_t y, int32_t acc) {
  return rqdkm_mac(rqdkm_hi16(x), rqdkm_hi16(y), acc);
}
RQDKM_INLINE int32_t rqdkm_smlad(uint32_t x, uint32_t y, int32_t acc) {
  return rqdkm_smlatt(x, y, rqdkm_smlabb(x, y, acc));
}

RQDKM_INLINE int32_t rqdkm_smlawb(int32_t a, uint32_t y, int32_t acc) {
  return rqdkm_wrap32((uint32_t)acc + (uint32_t)(((int64_t)a * rqdkm_lo16(y)) >> 16));
}
RQDKM_INLINE int32_t rqdkm_smlawt(int32_t a, uint32_t y, int32_t acc) {
  return rqdkm_wrap32((uint32_t)acc + (uint32_t)(((int64_t)a * rqdkm_hi16(y)) >> 16));
}

/* (c << 32) + a b + round, bits 63..32, modulo 2^64 as the instruction does. */
RQDKM_INLINE int32_t rqdkm_high_word(int32_t a, int32_t b, int32_t c, uint32_t round) {
  const uint64_t sum = ((uint64_t)(uint32_t)c << 32) + (uint64_t)((int64_t)a * b) + round;
  return rqdkm_wrap32((uint32_t)(sum >> 32));
}
RQDKM_INLINE int32_t rqdkm_smmulr(int32_t a, int32_t b) { return rqdkm_high_word(a, b, 0, 0x80000000u); }
RQDKM_INLINE int32_t rqdkm_smmla(int32_t a, int32_t b, int32_t c) { return rqdkm_high_word(a, b, c, 0u); }
RQDKM_INLINE int32_t rqdkm_smmlar(int32_t a, int32_t b, int32_t c) { return rqdkm_high_word(a, b, c, 0x80000000u); }

RQDKM_INLINE int32_t rqdkm_ssat8(int32_t x) { return rqdkm_sat(x, -128, 127); }
RQDKM_INLINE int32_t rqdkm_ssat8_asr16(int32_t x) { return rqdkm_sat(x >> 16, -128, 127); }
RQDKM_INLINE int32_t rqdkm_ssat8_asr20(int32_t x) { return rqdkm_sat(x >> 20, -128, 127); }

RQDKM_INLINE uint32_t rqdkm_max_s8x4(uint32_t a, uint32_t b) {
  uint32_t r = 0;
  for (unsigned i = 0; i < 4; i++) {
    r |= ((rqdkm_byte_s8(a, i) >= rqdkm_byte_s8(b, i) ? a : b) >> (8u * i) & 0xffu) << (8u * i);
  }
  return r;
}
RQDKM_INLINE uint32_t rqdkm_min_s8x4(uint32_t a, uint32_t b) {
  uint32_t r = 0;
  for (unsigned i = 0; i < 4; i++) {
    r |= ((rqdkm_byte_s8(a, i) >= rqdkm_byte_s8(b, i) ? b : a) >> (8u * i) & 0xffu) << (8u * i);
  }
  return r;
}

#endif /* RQDKM_DSP */
#endif
