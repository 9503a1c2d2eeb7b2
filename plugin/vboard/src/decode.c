/* SPDX-License-Identifier: GPL-2.0-or-later
 * Thumb-2 decoder. Encodings: ARMv7-M Architecture Reference Manual (DDI0403), A5.2 (16 bit) and A5.3 (32 bit).
 * `base` is the cycle count of DDI0439 (Cortex-M4 TRM) table 3-1 and 7-1 as far as it does not depend on neighbours. */
#include "decode.h"

#include <string.h>

enum { NONE = 0xff };
/* Refill P after a taken branch (table 3-1 gives 1 to 3): immediate branches 1, register branches 2, loads to PC 3. */
enum { REFILL_IMMEDIATE = 1, REFILL_REGISTER = 2, REFILL_LOAD = 3 };

static unsigned count_bits(unsigned mask) { return (unsigned)__builtin_popcount(mask & 0xffff); }

static void set_branch(instruction *i, instruction_kind kind, unsigned refill) {
  i->kind = (uint8_t)kind;
  i->refill = (uint8_t)refill;
}

static void set_access(instruction *i, address_mode mode, unsigned rn, int offset, unsigned bytes, unsigned align,
                       bool write) {
  i->flags |= FLAG_MEMORY | (write ? FLAG_WRITE : 0);
  i->address = (uint8_t)mode;
  i->rn = (uint8_t)rn;
  i->offset = (int16_t)offset;
  i->bytes = (uint8_t)bytes;
  i->align = (uint8_t)align;
}

static void set_multiple(instruction *i, bool load, unsigned rn, int offset, unsigned words) {
  i->kind = load ? KIND_LOAD_MULTI : KIND_STORE_MULTI;
  i->base = (uint8_t)(1 + words);
  i->strict_align = true;
  set_access(i, ADDRESS_IMM, rn, offset, 4 * words, 4, !load);
}

static void decode_16_misc(instruction *i, unsigned h1) { /* 1011 xxxx */
  unsigned op = h1 & 0x0f00;
  unsigned words = count_bits(h1 & 0x1ff);
  if (op == 0x0000) {
    i->dst = 13; /* ADD/SUB SP */
  } else if (op == 0x0200 || op == 0x0a00) {
    i->dst = h1 & 7; /* SXTB.., REV.. */
  } else if ((h1 & 0x0500) == 0x0100) {
    set_branch(i, KIND_BRANCH, REFILL_IMMEDIATE); /* CBZ, CBNZ */
  } else if ((h1 & 0x0e00) == 0x0400) {
    set_multiple(i, false, 13, -4 * (int)words, words); /* PUSH */
  } else if ((h1 & 0x0e00) == 0x0c00) {
    set_multiple(i, true, 13, 0, words); /* POP */
    if (h1 & 0x100) {
      set_branch(i, KIND_LOAD_PC, REFILL_LOAD);
      i->flags |= FLAG_RETURN;
    }
  } else if (op == 0x0f00 && (h1 & 0xf)) {
    i->kind = KIND_IT;
    i->flags |= FLAG_IT;
    i->it_count = (uint8_t)(4 - __builtin_ctz(h1 & 0xf));
  } else if ((h1 & 0xffe0) == 0xb660) {
    i->flags |= FLAG_SYSTEM; /* CPS */
  }
}

static instruction decode_16(unsigned h1) {
  instruction i = {.size = 2,
                   .kind = KIND_ALU,
                   .base = 1,
                   .dst = NONE,
                   .dst_lo = NONE,
                   .rn = NONE,
                   .rm = NONE,
                   .align = 1,
                   .vfp_dst = NONE,
                   .vfp_n = NONE,
                   .vfp_m = NONE};
  unsigned op = h1 >> 12;
  if (op < 4) { /* shift, add, move, compare immediate */
    i.dst = (h1 >> 13) == 1 ? (h1 >> 8 & 7) : (h1 & 7);
    if ((h1 >> 11) == 5) i.dst = NONE; /* CMP */
  } else if ((h1 >> 10) == 0x10) {     /* data processing */
    unsigned o = h1 >> 6 & 15;
    i.dst = (o == 8 || o == 10 || o == 11) ? NONE : (h1 & 7); /* TST, CMP, CMN */
  } else if ((h1 >> 10) == 0x11) {                            /* high registers, BX */
    unsigned o = h1 >> 8 & 3, rd = (h1 & 7) | (h1 >> 4 & 8);
    if (o == 3) {
      set_branch(&i, KIND_BRANCH_REG, REFILL_REGISTER);
      i.flags |= (h1 & 0x80) ? FLAG_CALL : FLAG_RETURN;
    } else if (o != 1) {
      i.dst = (uint8_t)rd;
      if (rd == 15) {
        set_branch(&i, KIND_BRANCH_REG, REFILL_REGISTER);
        i.flags |= FLAG_RETURN; /* MOV PC, LR */
      }
    }
  } else if ((h1 >> 11) == 9) { /* LDR literal */
    i.kind = KIND_LOAD;
    i.base = 2;
    i.dst = h1 >> 8 & 7;
    set_access(&i, ADDRESS_LITERAL, 15, (int)(h1 & 0xff) * 4, 4, 1, false);
  } else if (op == 5) { /* register offset: STR STRH STRB LDRSB LDR LDRH LDRB LDRSH */
    static const uint8_t bytes[8] = {4, 2, 1, 1, 4, 2, 1, 2};
    unsigned o = h1 >> 9 & 7;
    i.base = 2;
    i.kind = o < 3 ? KIND_STORE_REG : KIND_LOAD;
    if (o >= 3) i.dst = h1 & 7;
    set_access(&i, ADDRESS_REG, h1 >> 3 & 7, 0, bytes[o], bytes[o], o < 3);
    i.rm = h1 >> 6 & 7;
  } else if (op >= 6 && op <= 9) { /* immediate offset: word, byte, halfword, SP relative word */
    static const uint8_t log2_bytes[4] = {2, 0, 1, 2};
    unsigned log2 = log2_bytes[op - 6], bytes = 1u << log2;
    bool load = h1 & 0x800, sp = op == 9;
    i.kind = load ? KIND_LOAD : KIND_STORE;
    i.base = load ? 2 : 1;
    if (load) i.dst = sp ? (h1 >> 8 & 7) : (h1 & 7);
    set_access(&i, ADDRESS_IMM, sp ? 13 : (h1 >> 3 & 7), (int)((sp ? (h1 & 0xff) : (h1 >> 6 & 31)) << log2), bytes,
               bytes, !load);
  } else if (op == 10) {
    i.dst = h1 >> 8 & 7; /* ADR, ADD SP */
  } else if (op == 11) {
    decode_16_misc(&i, h1);
  } else if (op == 12) {
    set_multiple(&i, h1 & 0x800, h1 >> 8 & 7, 0, count_bits(h1 & 0xff));
  } else if (op == 13) {
    if ((h1 >> 8 & 15) < 14) set_branch(&i, KIND_BRANCH, REFILL_IMMEDIATE); /* else UDF, SVC */
  } else {
    set_branch(&i, KIND_BRANCH, REFILL_IMMEDIATE);
  }
  return i;
}

static void decode_multiple_dual(instruction *i, unsigned h1, unsigned h2) { /* 1110 100x x... */
  unsigned rn = h1 & 15, op2 = h1 >> 4 & 0x7f;
  bool load = h1 & 0x10;
  if ((op2 & 0x64) == 0x00) { /* LDM, STM */
    unsigned words = count_bits(h2);
    bool down = (h1 & 0x180) == 0x100; /* DB */
    set_multiple(i, load, rn, down ? -4 * (int)words : 0, words);
    if (load && (h2 & 0x8000)) {
      set_branch(i, KIND_LOAD_PC, REFILL_LOAD);
      i->flags |= FLAG_RETURN;
    }
    return;
  }
  if ((h1 & 0xfff0) == 0xe8d0 && (h2 & 0xffe0) == 0xf000) { /* TBB, TBH */
    unsigned half = h2 >> 4 & 1;
    set_branch(i, KIND_TABLE_BRANCH, 3);
    i->base = 3;
    set_access(i, ADDRESS_REG, rn, 0, 1 + half, 1 + half, false);
    i->rm = h2 & 15;
    i->shift = (uint8_t)half;
    return;
  }
  if ((op2 & 0x7e) == 0x04 || (op2 & 0x7e) == 0x0c) { /* LDREX, STREX and their byte, halfword forms */
    static const uint8_t bytes[4] = {1, 2, 4, 8};
    bool word = (op2 & 0x7e) == 0x04;
    unsigned width = word ? 4 : bytes[h2 >> 4 & 3];
    i->base = 2;
    i->kind = load ? KIND_LOAD : KIND_STORE;
    if (load) i->dst = h2 >> 12;
    i->strict_align = true;
    set_access(i, ADDRESS_IMM, rn, word ? (int)(h2 & 0xff) * 4 : 0, width, width > 4 ? 4 : width, !load);
    return;
  }
  /* LDRD, STRD: P selects whether the offset is part of the address, U its sign; literal when rn is PC */
  int offset = (int)(h2 & 0xff) * 4;
  if (!(h1 & 0x80)) offset = -offset;
  if (!(h1 & 0x100)) offset = 0;
  set_multiple(i, load, rn, offset, 2);
  if (rn == 15) i->address = ADDRESS_LITERAL;
}

static void decode_single(instruction *i, unsigned h1, unsigned h2) { /* 1111 100x: single loads and stores */
  unsigned rn = h1 & 15, rt = h2 >> 12, bytes = 1u << (h1 >> 5 & 3);
  bool load = h1 & 0x10, imm12 = h1 & 0x80, indexed = h2 & 0x800;
  int offset = 0;
  address_mode mode = ADDRESS_IMM;
  if (load && rn == 15) {
    mode = ADDRESS_LITERAL;
    offset = (int)(h2 & 0xfff) * (imm12 ? 1 : -1);
  } else if (imm12) {
    offset = (int)(h2 & 0xfff);
  } else if (indexed) { /* P U W imm8 */
    if (h2 & 0x400) offset = (int)(h2 & 0xff) * ((h2 & 0x200) ? 1 : -1);
  } else {
    mode = ADDRESS_REG;
  }
  if (!load) {
    i->kind = mode == ADDRESS_REG ? KIND_STORE_REG : KIND_STORE;
    i->base = mode == ADDRESS_REG ? 2 : 1;
  } else if (rt == 15 && bytes < 4) {
    return; /* PLD, PLI: hint, one cycle */
  } else {
    i->kind = KIND_LOAD;
    i->base = 2;
    i->dst = (uint8_t)rt;
    if (rt == 15) {
      set_branch(i, KIND_LOAD_PC, REFILL_LOAD);
      i->flags |= FLAG_RETURN;
      i->dst = NONE;
    }
  }
  set_access(i, mode, rn, offset, bytes, bytes, !load);
  if (mode == ADDRESS_REG) {
    i->rm = h2 & 15;
    i->shift = h2 >> 4 & 3;
  }
}

static void decode_vfp(instruction *i, unsigned h1, unsigned h2) {
  unsigned rn = h1 & 15;
  i->flags |= FLAG_FPU;
  i->kind = KIND_VFP;
  if ((h1 & 0xfe00) == 0xec00) { /* load, store, or two-register move */
    bool index = h1 >> 8 & 1, up = h1 >> 7 & 1, write_back = h1 >> 5 & 1, load = h1 >> 4 & 1;
    if (!index && !write_back && !up) {
      i->base = 2; /* VMOV of two core registers */
      return;
    }
    if (index && !write_back) { /* VLDR, VSTR */
      unsigned words = (h2 & 0x100) ? 2 : 1;
      int offset = (int)(h2 & 0xff) * (up ? 4 : -4);
      i->base = (uint8_t)(1 + words);
      i->kind = load ? KIND_VFP_LOAD : KIND_VFP_STORE;
      i->strict_align = true;
      set_access(i, rn == 15 ? ADDRESS_LITERAL : ADDRESS_IMM, rn, offset, 4 * words, 4, !load);
      if (load) i->vfp_dst = (uint8_t)((h2 >> 12) << 1 | (h1 >> 6 & 1));
      return;
    }
    unsigned words = h2 & 0xff; /* VLDM, VSTM, VPUSH, VPOP */
    set_multiple(i, load, rn, index ? -4 * (int)words : 0, words);
    return;
  }
  if ((h1 & 0xff00) != 0xee00 || (h2 & 0x10)) return; /* VMOV core, VMRS, VMSR: one cycle */
  i->vfp_n = (uint8_t)((h1 & 15) << 1 | (h2 >> 7 & 1));
  i->vfp_m = (uint8_t)((h2 & 15) << 1 | (h2 >> 5 & 1));
  i->vfp_dst = (uint8_t)((h2 >> 12) << 1 | (h1 >> 6 & 1));
  unsigned op = h1 >> 4 & 0xb;
  if (op == 0 || op == 1 || op == 9 || op == 10) {
    i->base = 3; /* multiply-accumulate, plain and fused */
  } else if (op == 8 || (op == 11 && (h1 & 15) == 1 && (h2 >> 6 & 3) == 3)) {
    i->base = 14; /* VDIV, VSQRT */
  }
}

static void decode_long_multiply_divide(instruction *i, unsigned h1, unsigned h2) { /* 1111 1011 1xxx */
  unsigned op = h1 >> 4 & 7;
  bool divide = (op == 1 || op == 3) && (h2 & 0xf0) == 0xf0;
  if (divide) {
    i->kind = KIND_DIVIDE;
    i->base = 2; /* the rest depends on the operands */
    i->flags |= FLAG_DIVIDE;
    i->rn = h1 & 15;
    i->rm = h2 & 15;
    i->is_signed = op == 1;
  } else if (op != 1 && op != 3) {
    i->dst_lo = h2 >> 12;
  }
}

static instruction decode_32(unsigned h1, unsigned h2) {
  instruction i = {.size = 4,
                   .kind = KIND_ALU,
                   .base = 1,
                   .dst = NONE,
                   .dst_lo = NONE,
                   .rn = NONE,
                   .rm = NONE,
                   .align = 1,
                   .vfp_dst = NONE,
                   .vfp_n = NONE,
                   .vfp_m = NONE};
  unsigned op1 = h1 >> 11 & 3, op2 = h1 >> 4 & 0x7f;
  if (op1 == 1) {
    if ((op2 & 0x60) == 0x00) {
      decode_multiple_dual(&i, h1, h2);
    } else if ((op2 & 0x60) == 0x20) {
      bool compares = (h2 >> 8 & 15) == 15 && (h1 & 0x10); /* TST, TEQ, CMN, CMP */
      i.dst = compares ? NONE : (h2 >> 8 & 15);
    } else {
      decode_vfp(&i, h1, h2);
    }
  } else if (op1 == 2) {
    if (!(h2 & 0x8000)) { /* data processing immediate */
      bool compares = (h2 >> 8 & 15) == 15 && (h1 & 0x10) && !(h1 & 0x200);
      i.dst = compares ? NONE : (h2 >> 8 & 15);
    } else if ((h2 & 0x5000) == 0x0000) {
      if ((h1 >> 6 & 0xe) != 0xe) {
        set_branch(&i, KIND_BRANCH, REFILL_IMMEDIATE); /* Bcc.W */
      } else if ((h1 & 0xffe0) == 0xf3e0) {
        i.base = 2; /* MRS */
        i.dst = h2 >> 8 & 15;
      } else if ((h1 & 0xffe0) == 0xf380) {
        i.base = 2; /* MSR */
        i.flags |= FLAG_SYSTEM;
      }
    } else {
      set_branch(&i, KIND_BRANCH, REFILL_IMMEDIATE); /* B.W, BL */
      if ((h2 & 0x5000) == 0x5000) i.flags |= FLAG_CALL;
    }
  } else if ((op2 & 0x71) == 0x00 || (op2 & 0x67) == 0x01 || (op2 & 0x67) == 0x03 || (op2 & 0x67) == 0x05) {
    decode_single(&i, h1, h2);
  } else if (op2 & 0x40) {
    decode_vfp(&i, h1, h2);
  } else { /* register data processing, multiplies */
    i.dst = h2 >> 8 & 15;
    if ((op2 & 0x78) == 0x38) decode_long_multiply_divide(&i, h1, h2);
  }
  return i;
}

instruction decode(uint16_t h1, uint16_t h2) { return is_wide(h1) ? decode_32(h1, h2) : decode_16(h1); }
