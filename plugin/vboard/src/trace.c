/* SPDX-License-Identifier: GPL-2.0-or-later
 * The instruction hook: every instruction is charged its cycles just before it executes.
 *
 * Why an instruction hook and not memory hooks: (1) Unicorn's memory hooks restore the guest's state in the middle of a
 * translated block and leave ITSTATE set after an access inside an IT block, so code after it runs wrong; instruction
 * hooks sit after the condition check and touch nothing. (2) Memory hooks send every load through the slow path. (3)
 * Addresses are known before the access, so alignment faults are precise, and interrupts are taken between any two
 * instructions. An instruction whose condition fails inside an IT block is not reported; it_left finds out and charges
 * its cycle. */
#include <stdlib.h>
#include <string.h>

#include "decode.h"
#include "vboard.h"

typedef struct {
  uint64_t straight;     /* executions charged cost_straight by the fast path */
  uint64_t others;       /* executions on the slow path, */
  uint64_t other_cycles; /* and their cycles */
  uint32_t raw;          /* both halfwords, to notice code that was overwritten in SRAM */
  uint8_t cost_straight; /* cycles right after the instruction before it; UNKNOWN_COST = not yet computed */
  bool known;            /* decoded */
  uint8_t path;          /* how it may be charged when it follows the instruction before it */
  instruction i;
} record;
enum { UNKNOWN_COST = 0xff, NO_FAST_PC = 1 };
enum {
  PATH_SLOW,
  PATH_PLAIN,  /* cost_straight, nothing else can happen */
  PATH_FETCH,  /* and its last bytes are in a flash unit of their own */
  PATH_MEMORY, /* reads or writes memory, no new flash unit */
  PATH_MEMORY_FETCH
};

static record *flash_records, *sram_records; /* one per halfword */
static record *current;                      /* instruction being executed; the one before it on entry to the hook */
static record *next_record;                  /* record of fast_pc */
static uint32_t fast_pc = NO_FAST_PC;        /* address of the next instruction when it may take the fast path */
static uint32_t current_pc, straight_pc;     /* slow path: address of the instruction; of its straight-line successor */
static uint32_t fetch_unit = UINT32_MAX;     /* flash unit of the last fetch of the slow path */
static unsigned it_left;                     /* instructions of the current IT block not seen yet */
static uint32_t it_start, it_end;            /* addresses of its instructions: [it_start, it_end) */
static record *it_record;
static bool fpu_frame_pending; /* an exception reserved FPU space that was not filled yet (lazy stacking) */
static uint64_t unaligned_count, functional_instructions;
static uint32_t lowest_stack;

static const int register_ids[16] = {UC_ARM_REG_R0,  UC_ARM_REG_R1, UC_ARM_REG_R2,  UC_ARM_REG_R3,
                                     UC_ARM_REG_R4,  UC_ARM_REG_R5, UC_ARM_REG_R6,  UC_ARM_REG_R7,
                                     UC_ARM_REG_R8,  UC_ARM_REG_R9, UC_ARM_REG_R10, UC_ARM_REG_R11,
                                     UC_ARM_REG_R12, UC_ARM_REG_SP, UC_ARM_REG_LR,  UC_ARM_REG_PC};

static uint32_t read_register(unsigned number) {
  uint32_t value = 0;
  uc_reg_read(machine.uc, register_ids[number], &value);
  return value;
}

static uint32_t it_block_end(uint32_t start, unsigned count) {
  uint32_t end = start;
  for (unsigned k = 0; k < count; k++) {
    const uint8_t *host = memory_host(end, 2, false);
    end += host && is_wide((uint16_t)(host[0] | host[1] << 8)) ? 4 : 2;
  }
  return end;
}

static void decode_record(record *r, const uint8_t *host, uint32_t address) {
  uint16_t h1 = (uint16_t)(host[0] | host[1] << 8), h2 = 0;
  if (is_wide(h1) && memory_host(address, 4, false)) h2 = (uint16_t)(host[2] | host[3] << 8);
  r->i = decode(h1, h2);
  r->raw = h1 | (uint32_t)h2 << 16;
  r->known = true;
  r->path = PATH_SLOW;
  r->cost_straight = UNKNOWN_COST;
}

/* Offset in flash of an address in the flash or its boot alias; FLASH_BYTES or more elsewhere. */
static uint32_t flash_offset(uint32_t address) { return address < FLASH_BYTES ? address : address - FLASH_BASE; }

/* Record of the instruction at `pc`, or NULL where code cannot be. */
static record *find_record(uint32_t pc) {
  uint32_t offset = flash_offset(pc);
  if (offset < FLASH_BYTES) {
    record *r = &flash_records[offset >> 1];
    if (!r->known) decode_record(r, machine.flash + offset, FLASH_BASE + offset);
    return r;
  }
  offset = pc - SRAM_BASE;
  if (offset >= SRAM_BYTES - 2) return NULL;
  record *r = &sram_records[offset >> 1];
  uint32_t raw;
  memcpy(&raw, machine.sram + offset, 4);
  if (!r->known || r->raw != (r->i.size == 4 ? raw : raw & 0xffff)) decode_record(r, machine.sram + offset, pc);
  return r;
}

/* Charge data reads from flash; the bus reads a whole line (sector), so each is looked up once per access. */
static unsigned flash_read_stalls(uint32_t address, unsigned bytes) {
  uint32_t offset = flash_offset(address);
  if (offset >= FLASH_BYTES) return 0;
  unsigned stalls = 0, shift = flash_fetch_shift;
  for (uint32_t unit = offset >> shift; unit <= (offset + bytes - 1) >> shift && unit < FLASH_BYTES >> shift; unit++) {
    stalls += flash_load(unit << shift);
  }
  return stalls;
}

/* Raise a fault before the instruction at `pc` runs. */
static void fault_before(uint32_t pc, uint32_t cfsr, uint32_t address) {
  cpu_raise_fault(cfsr, address);
  machine.fault.pc = pc;
  machine.fault.use_pc = true;
}

/* Extra cycles of the access, or -1 when it faults. */
static int access_cycles(const instruction *i, uint32_t pc) {
  bool write = i->flags & FLAG_WRITE;
  if (i->address == ADDRESS_LITERAL) return (int)flash_read_stalls(((pc + 4) & ~3u) + (uint32_t)i->offset, i->bytes);
  if (write && i->bytes == 1 && !mpu_enabled) return 0; /* no alignment, no flash */
  uint32_t address = i->rn == 15 ? pc + 4 : read_register(i->rn);
  if (i->address == ADDRESS_REG) {
    address += read_register(i->rm) << i->shift;
  } else {
    address += (uint32_t)i->offset;
  }
  if (mpu_enabled && !(mpu_allows(address, write, false) && mpu_allows(address + i->bytes - 1, write, false))) {
    fault_before(pc, CFSR_DACCVIOL | CFSR_MMARVALID, address);
    return -1;
  }
  unsigned extra = 0;
  if (address & (i->align - 1u)) {
    if (i->strict_align || (scb.ccr & CCR_UNALIGN_TRP)) {
      fault_before(pc, CFSR_UNALIGNED, 0);
      return -1;
    }
    extra = cost_of_unaligned(address, i->align);
    unaligned_count++;
  }
  if (!write) return (int)(extra + flash_read_stalls(address, i->bytes));
  if (i->rn == 13 && address < lowest_stack) lowest_stack = address;
  return (int)extra;
}

/* Everything an instruction may need beyond its table cost; -1 when it faults instead of executing. */
static int special_cycles(record *r, uint32_t pc) {
  const instruction *i = &r->i;
  int extra = 0;
  if (i->flags & FLAG_FPU) {
    if ((scb.cpacr >> 20 & 3) == 0) {
      fault_before(pc, CFSR_NOCP, 0);
      return -1;
    }
    if (fpu_frame_pending) { /* S0 to S15 and FPSCR are saved now: 17 stores after one address cycle */
      fpu_frame_pending = false;
      extra += 18;
    }
  }
  if (i->flags & FLAG_MEMORY) {
    int stalls = access_cycles(i, pc);
    if (stalls < 0) return -1;
    extra += stalls;
  }
  if (i->flags & FLAG_DIVIDE) {
    uint32_t divisor = read_register(i->rm);
    if (divisor == 0 && (scb.ccr & CCR_DIV_0_TRP)) {
      fault_before(pc, CFSR_DIVBYZERO, 0);
      return -1;
    }
    extra += (int)cost_of_divide(read_register(i->rn), divisor, i->is_signed) - i->base;
  }
  if (i->flags & FLAG_SYSTEM) machine.next_event = 0;
  if (i->flags & FLAG_IT) {
    it_left = i->it_count;
    it_start = pc + 2;
    it_end = it_block_end(it_start, it_left);
    it_record = r;
  }
  return extra;
}

/* Is `pc` inside the current IT block? On leaving it, charge one cycle for each instruction that was skipped. */
static bool in_it_block(uint32_t pc) {
  if (pc - it_start < it_end - it_start) {
    it_left--;
    return true;
  }
  machine.cycles += it_left;
  it_record->other_cycles += it_left;
  it_left = 0;
  return false;
}

static void on_jump(const instruction *from, uint32_t pc) {
  if (from->flags & FLAG_CALL) {
    profile_call(pc);
  } else if (from->flags & FLAG_RETURN) {
    profile_return(pc);
  } else {
    profile_jump(pc);
  }
}

/* Cycles of `r` at `pc` after `before` (NULL: pipeline empty): the core's own and those of a taken branch. */
static unsigned core_cycles(const record *before, record *r, uint32_t pc) {
  if (before && pc == straight_pc) {
    if (r->cost_straight == UNKNOWN_COST) r->cost_straight = (uint8_t)cost_of(&before->i, &r->i);
    return r->cost_straight;
  }
  unsigned cycles = r->i.base;
  if (before && before->i.refill) {
    cycles += before->i.refill;
    if (r->i.size == 4 && (pc & 2)) cycles++; /* a wide target across a word needs a second fetch */
    on_jump(&before->i, pc);
  }
  return cycles;
}

/* Stall cycles to fetch the instruction at this offset in flash. */
static unsigned fetch_cycles(const record *r, uint32_t offset) {
  unsigned stalls = 0;
  uint32_t first = offset >> flash_fetch_shift, last = (offset + r->i.size - 1) >> flash_fetch_shift;
  if (first != fetch_unit) stalls += flash_fetch(first);
  if (last != first) stalls += flash_fetch(last);
  fetch_unit = last;
  return stalls;
}

/* Path of a flash instruction from now on. */
static uint8_t choose_path(const record *r, uint32_t offset) {
  if (r->cost_straight == UNKNOWN_COST || offset == 0 || (r->i.flags & ~(FLAG_MEMORY | FLAG_WRITE | FLAG_CALL)))
    return PATH_SLOW;
  bool fetches = (offset - 1) >> flash_fetch_shift != (offset + r->i.size - 1) >> flash_fetch_shift;
  if (r->i.flags & FLAG_MEMORY) return fetches ? PATH_MEMORY_FETCH : PATH_MEMORY;
  return fetches ? PATH_FETCH : PATH_PLAIN;
}

static __attribute__((noinline)) void slow_instruction(uint32_t pc) {
  record *before = current;
  current_pc = pc;
  if (fast_pc != NO_FAST_PC) straight_pc = fast_pc;
  if (straight_pc) fetch_unit = flash_offset(straight_pc - 1) >> flash_fetch_shift;
  fast_pc = NO_FAST_PC;
  bool in_it = it_left != 0 && in_it_block(pc); /* Unicorn cannot stop inside an IT block */
  if (machine.cycles >= machine.next_event && !in_it) {
    events_service();
    if (machine.stop != STOP_NONE) return; /* this instruction does not execute now */
  }
  record *r = find_record(pc);
  if (!r) { /* Unicorn would execute from a peripheral */
    fault_before(pc, cpu_fetch_fault(pc), 0);
    return;
  }
  if (mpu_enabled && pc != straight_pc && !mpu_allows(pc, false, true)) {
    fault_before(pc, CFSR_IACCVIOL, 0);
    return;
  }
  uint32_t offset = flash_offset(pc);
  bool in_flash = offset < FLASH_BYTES;
  unsigned cycles = core_cycles(before, r, pc);
  if (in_flash) cycles += fetch_cycles(r, offset);
  if (r->i.flags) {
    int extra = special_cycles(r, pc);
    if (extra < 0) return;
    cycles += (unsigned)extra;
  }
  machine.cycles += cycles;
  r->others++;
  r->other_cycles += cycles;
  current = r;
  straight_pc = pc + r->i.size;
  if (!in_flash) return; /* code in SRAM is compared with its record every time */
  r->path = choose_path(r, offset);
  if (it_left == 0) {
    fast_pc = straight_pc;
    next_record = r + r->i.size / 2;
  }
}

/* Fetches and memory accesses of straight-line code. */
static __attribute__((noinline)) void straight_instruction(record *r, uint32_t pc) {
  unsigned extra = 0;
  if (r->path != PATH_MEMORY) extra = flash_fetch((flash_offset(pc) + r->i.size - 1) >> flash_fetch_shift);
  if (r->path != PATH_FETCH) {
    int stalls = access_cycles(&r->i, pc);
    if (stalls < 0) {
      current_pc = pc;
      fast_pc = NO_FAST_PC;
      return;
    }
    extra += (unsigned)stalls;
  }
  machine.cycles += r->cost_straight + extra;
  r->straight++;
  r->other_cycles += extra;
  current = r;
  fast_pc = pc + r->i.size;
  next_record = r + (r->i.size >> 1);
}

static void on_instruction(uc_engine *uc, uint64_t address, uint32_t size, void *user) {
  (void)uc, (void)size, (void)user;
  uint32_t pc = (uint32_t)address;
  record *r = next_record;
  if (__builtin_expect(pc != fast_pc || machine.cycles >= machine.next_event || r->path == PATH_SLOW, 0)) {
    slow_instruction(pc);
  } else if (__builtin_expect(r->path == PATH_PLAIN, 1)) {
    machine.cycles += r->cost_straight;
    r->straight++;
    current = r;
    fast_pc = pc + r->i.size;
    next_record = r + (r->i.size >> 1);
  } else {
    straight_instruction(r, pc);
  }
}

/* --functional: no timing, a block is charged one cycle per halfword. */
static void on_block(uc_engine *uc, uint64_t address, uint32_t size, void *user) {
  (void)uc, (void)user;
  current_pc = (uint32_t)address;
  if (machine.cycles >= machine.next_event || size == 0) {
    events_service();
    if (machine.stop != STOP_NONE) return;
  }
  machine.cycles += size / 2 + 1;
  functional_instructions += size / 2;
  if (machine.next_event == 0) events_schedule();
}

/* The hook that this program avoids, for the test that shows why. */
static void on_memory(uc_engine *uc, uc_mem_type type, uint64_t address, int size, int64_t value, void *user) {
  (void)uc, (void)type, (void)address, (void)size, (void)value, (void)user;
}

void trace_init(void) {
  static uc_hook hook, memory_hook;
  flash_records = calloc(FLASH_BYTES / 2 + 2, sizeof *flash_records);
  sram_records = calloc(SRAM_BYTES / 2 + 2, sizeof *sram_records);
  if (!flash_records || !sram_records) {
    message("out of memory");
    exit(EXIT_CODE_USAGE);
  }
  lowest_stack = UINT32_MAX;
  if (machine.options.functional) {
    uc_hook_add(machine.uc, &hook, UC_HOOK_BLOCK, (void *)on_block, NULL, 1, 0);
  } else {
    uc_hook_add(machine.uc, &hook, UC_HOOK_CODE, (void *)on_instruction, NULL, 1, 0);
  }
  if (machine.options.memory_hook_test) {
    uc_hook_add(machine.uc, &memory_hook, UC_HOOK_MEM_READ | UC_HOOK_MEM_WRITE, (void *)on_memory, NULL, 1, 0);
  }
}

void trace_break_pipeline(void) {
  current = NULL;
  current_pc = trace_pc();
  fast_pc = NO_FAST_PC;
  straight_pc = 0;
  it_left = 0;
  fetch_unit = UINT32_MAX;
}

void trace_fpu_frame(bool pending) { fpu_frame_pending = pending; }

uint32_t trace_pc(void) { return fast_pc != NO_FAST_PC && current ? fast_pc - current->i.size : current_pc; }
uint64_t trace_unaligned(void) { return unaligned_count; }
uint32_t trace_lowest_stack(void) { return lowest_stack == UINT32_MAX ? 0 : lowest_stack; }

static void visit_records(record *records, size_t count, uint32_t base, void (*visit)(uint32_t, uint64_t, uint64_t)) {
  for (size_t k = 0; k < count; k++) {
    const record *r = &records[k];
    uint64_t executed = r->straight + r->others;
    if (executed) visit(base + 2 * (uint32_t)k, executed, r->straight * r->cost_straight + r->other_cycles);
  }
}

void trace_for_each(void (*visit)(uint32_t address, uint64_t count, uint64_t cycles)) {
  visit_records(flash_records, FLASH_BYTES / 2, FLASH_BASE, visit);
  visit_records(sram_records, SRAM_BYTES / 2, SRAM_BASE, visit);
}

static uint64_t counted;
static void add_count(uint32_t address, uint64_t count, uint64_t cycles) {
  (void)address, (void)cycles;
  counted += count;
}

uint64_t trace_instructions(void) {
  if (machine.options.functional) return functional_instructions;
  counted = 0;
  trace_for_each(add_count);
  return counted;
}
