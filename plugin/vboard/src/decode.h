/* SPDX-License-Identifier: GPL-2.0-or-later
 * Thumb-2 decoder: only what timing and access checks need (no operands of arithmetic, no immediate values but
 * offsets). */
#ifndef RQDKM_VBOARD_DECODE_H
#define RQDKM_VBOARD_DECODE_H

#include <stdbool.h>
#include <stdint.h>

typedef enum {
  KIND_ALU,
  KIND_LOAD,        /* single load */
  KIND_STORE,       /* single store, immediate offset */
  KIND_STORE_REG,   /* single store, register offset */
  KIND_LOAD_MULTI,  /* LDM, POP, LDRD, VLDM */
  KIND_STORE_MULTI, /* STM, PUSH, STRD, VSTM */
  KIND_DIVIDE,
  KIND_BRANCH,       /* B, BL, Bcc, CBZ: immediate */
  KIND_BRANCH_REG,   /* BX, BLX, MOV PC */
  KIND_LOAD_PC,      /* POP {PC}, LDR PC, LDM with PC */
  KIND_TABLE_BRANCH, /* TBB, TBH */
  KIND_IT,
  KIND_VFP,
  KIND_VFP_LOAD,
  KIND_VFP_STORE
} instruction_kind;

typedef enum {
  ADDRESS_NONE,
  ADDRESS_LITERAL, /* Align(PC, 4) + offset */
  ADDRESS_IMM,     /* rn + offset (0 for post-indexed) */
  ADDRESS_REG      /* rn + (rm << shift) */
} address_mode;

enum {
  FLAG_MEMORY = 1 << 0, /* reads or writes memory */
  FLAG_WRITE = 1 << 1,
  FLAG_DIVIDE = 1 << 2,
  FLAG_FPU = 1 << 3,
  FLAG_SYSTEM = 1 << 4, /* CPS, MSR: may unmask an interrupt */
  FLAG_IT = 1 << 5,
  FLAG_CALL = 1 << 6,  /* BL, BLX */
  FLAG_RETURN = 1 << 7 /* BX LR, POP {..PC}: may leave the function */
};

typedef struct {
  uint8_t size;   /* bytes: 2 or 4 */
  uint8_t kind;   /* instruction_kind */
  uint8_t base;   /* cycles without any neighbour (cost.c) */
  uint8_t refill; /* pipeline refill when the branch is taken */
  uint8_t flags;
  uint8_t dst, dst_lo; /* core registers written, for address dependencies; NO_REG = none */
  uint8_t rn, rm;      /* base and index of an address; dividend and divisor of a divide */
  uint8_t address;     /* address_mode */
  uint8_t shift;
  uint8_t bytes;     /* accessed in total */
  uint8_t align;     /* alignment that the access needs at zero cost; 1 = any */
  bool strict_align; /* unaligned is always a UsageFault (LDM, LDRD, VLDR, exclusive) */
  bool is_signed;    /* SDIV */
  uint8_t vfp_dst, vfp_n, vfp_m;
  uint8_t it_count; /* instructions in the IT block */
  int16_t offset;
} instruction;

/* Decode the instruction with first halfword h1 and, when it is 32 bits wide, second halfword h2. */
instruction decode(uint16_t h1, uint16_t h2);
static inline bool is_wide(uint16_t h1) { return (h1 >> 11) >= 0x1d; }

/* ---- cost.c ---- */
/* Cycles of `now` executed right after its neighbour `before` in straight-line code (NULL: after a jump). */
unsigned cost_of(const instruction *before, const instruction *now);
/* Cycles of UDIV/SDIV for these operands, 2 to 12. */
unsigned cost_of_divide(uint32_t dividend, uint32_t divisor, bool is_signed);
/* Extra cycles of an access of `bytes` at `address` whose natural alignment is `align` (2 or 4). */
unsigned cost_of_unaligned(uint32_t address, unsigned align);

#endif
