/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * rqdkm-vboard: a virtual STM32F407 board. Types and state shared by all its parts.
 *
 * One process is one board, so the machine is one structure with static storage. Each part owns its registers in its
 * own file and is reached through the functions declared here, grouped by file. Time is counted in HCLK cycles since
 * reset (`machine.cycles`); seconds are derived from the clock tree in rcc.c.
 */
#ifndef RQDKM_VBOARD_H
#define RQDKM_VBOARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unicorn/unicorn.h>

#define VBOARD_VERSION "1.0"

/* Exit codes of the program itself; every other code is the firmware's own (semihosting SYS_EXIT). */
enum { EXIT_CODE_USAGE = 121, EXIT_CODE_LOCKUP = 122, EXIT_CODE_CLOCK = 123, EXIT_CODE_LIMIT = 124 };

#define FLASH_BASE 0x08000000u
#define FLASH_BYTES 0x100000u
#define SRAM_BASE 0x20000000u
#define SRAM_BYTES 0x20000u
#define CCM_BASE 0x10000000u
#define CCM_BYTES 0x10000u
#define ROM_BASE 0x1FFF0000u
#define ROM_BYTES 0x10000u
#define NEVER UINT64_MAX
#define NO_REG 0xff

typedef enum { FLASH_MODEL_F407, FLASH_MODEL_L4R5, FLASH_MODEL_NONE } flash_model_kind;

/* Why the emulator was asked to come back to the run loop (cpu.c). */
typedef enum {
  STOP_NONE,
  STOP_INTERRUPT,        /* a pending exception may be taken now */
  STOP_SVC,              /* the instruction before PC is SVC */
  STOP_BREAKPOINT,       /* BKPT that is no semihosting call */
  STOP_EXCEPTION_RETURN, /* branch to an EXC_RETURN value */
  STOP_FAULT,            /* machine.fault describes it */
  STOP_END               /* the run is over: machine.exit_code, machine.exit_reason */
} stop_kind;

/* Fault status as the architecture reports it (ARMv7-M ARM B3.2.15 and on). */
typedef struct {
  uint32_t cfsr;    /* bits to set in CFSR */
  uint32_t hfsr;    /* bits to set in HFSR besides FORCED */
  uint32_t address; /* BFAR or MMFAR when the matching VALID bit is in cfsr */
  uint32_t pc;      /* return address to stack */
  bool use_pc;      /* stack `pc` instead of the current PC */
} fault_info;

typedef struct {
  const char *elf_path;
  const char *stats_path;
  const char *profile_path;
  const char *folded_path;
  const char *events_path; /* time line, written while it runs */
  const char *pins_path;   /* edges of input pins */
  flash_model_kind flash_model;
  uint64_t max_cycles;             /* of running, without sleep and waiting for input; NEVER = no limit */
  double timeout_s;                /* wall clock; 0 = no limit */
  uint32_t hse_hz, lse_hz, lsi_hz; /* 0: that oscillator never starts */
  uint32_t baud;                   /* rate of the host's end of the serial line; 0 = any */
  bool strict_clock;
  bool hse_dead, pll_dead;
  uint64_t hse_stops_ns; /* the crystal stops for good; NEVER = it does not */
  unsigned pll_miss;     /* which start of the PLL, counted from 1, never locks; 0 = none */
  bool functional;       /* no instruction hook: outputs only, cycles are a rough count */
  bool memory_hook_test; /* hidden: install the memory hook whose bug the tests demonstrate */
} board_options;

typedef struct {
  uc_engine *uc;
  board_options options;
  uint8_t *flash, *sram, *ccm, *rom;

  uint64_t cycles;       /* HCLK cycles since reset: running + sleeping + waiting for the host */
  uint64_t sleep_cycles; /* of them asleep in WFI/WFE */
  uint64_t wait_cycles;  /* of them polling an empty serial input while the host had nothing to say */
  uint64_t
      next_event; /* cycle count at which the run loop wants to look at the world; 0 = before the next instruction */

  stop_kind stop;
  fault_info fault;
  int exit_code;
  char exit_reason[160];
} machine_state;

extern machine_state machine;

/* ---- main.c ---- */
void message(const char *format, ...) __attribute__((format(printf, 1, 2)));
void end_run(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
double wall_seconds(void);

/* ---- elf.c: load the image, keep its function symbols ---- */
typedef struct {
  uint32_t start, end; /* [start, end) */
  const char *name;
} elf_symbol;
void elf_load(const char *path); /* exits with EXIT_CODE_USAGE and one line on a bad file */
extern elf_symbol *elf_functions;
extern size_t elf_function_count;
int elf_function_at(uint32_t address); /* index or -1 */

/* ---- memory.c: map, host pointers, peripheral dispatch ---- */
typedef struct {
  const char *name;
  uint32_t base, size;
  uint8_t enable_register; /* RCC register (index of 32-bit word) that gates its clock; 0 = always clocked */
  uint8_t enable_bit;
  uint32_t (*read)(uint32_t address);
  void (*write)(uint32_t address, uint32_t value);
} peripheral;
void memory_init(void);
uint8_t *memory_host(uint32_t address, uint32_t bytes, bool write); /* NULL when not plain memory */
bool memory_allow_code(
    uint32_t address); /* Unicorn's stores are slow where code may be: SRAM pages get the right on demand */
bool memory_read32(uint32_t address, uint32_t *value);
bool memory_write32(uint32_t address, uint32_t value);

/* ---- trace.c: the instruction hook (timing, precise checks) ---- */
void trace_init(void);
uint64_t trace_instructions(void);
void trace_for_each(void (*visit)(uint32_t address, uint64_t count, uint64_t cycles));
void trace_break_pipeline(void);    /* exception entry or return: no overlap with the instruction before */
void trace_fpu_frame(bool pending); /* lazy FPU stacking: space reserved, not yet written */
uint64_t trace_unaligned(void);
uint32_t trace_lowest_stack(void); /* lowest address stored through SP, 0 = none */
uint32_t trace_pc(void);           /* address of the instruction being executed */

/* ---- events.c: what happens when; WFI ---- */
void events_schedule(void);        /* recompute machine.next_event */
void events_recheck(void);         /* look again before the next instruction */
void events_service(void);         /* run everything that is due */
void events_sleep(bool for_event); /* WFI, or WFE: advance time to the next wake-up */
void events_wait(uint64_t cycles); /* time passes while the firmware polls an idle input */
void events_check_limits(void);

/* ---- cpu.c: exception entry and return, run loop ---- */
void cpu_init(void);
void cpu_run(void);
void cpu_request_stop(stop_kind kind);
void cpu_raise_fault(uint32_t cfsr, uint32_t address);
uint32_t cpu_fetch_fault(uint32_t pc); /* CFSR bit of an instruction fetch from a place that holds no code */
uint32_t cpu_reg(int uc_register);
void cpu_set_reg(int uc_register, uint32_t value);

/* ---- nvic.c ---- */
enum {
  EXC_RESET = 1,
  EXC_NMI,
  EXC_HARD,
  EXC_MEM,
  EXC_BUS,
  EXC_USAGE,
  EXC_SVC = 11,
  EXC_DEBUG,
  EXC_PENDSV = 14,
  EXC_SYSTICK
};
#define IRQ_COUNT 82
#define EXCEPTION_COUNT (16 + IRQ_COUNT)
enum { IRQ_RTC_WAKE_UP = 3, IRQ_USART1 = 37, IRQ_USART2 = 38 };
uint32_t nvic_read(uint32_t address);
void nvic_write(uint32_t address, uint32_t value);
void nvic_pend(int exception);
void nvic_set_line(int irq, bool level); /* level-sensitive request of a peripheral */
int nvic_take(void);                     /* exception that may pre-empt now, or 0 */
bool nvic_wakeup(void);                  /* would WFI wake up? (ignores PRIMASK) */
int nvic_execution_priority(void);
int nvic_priority(int exception);
void nvic_enter(int exception);
void nvic_leave(int exception);
bool nvic_is_active(int exception);
int nvic_active_count(void);
void nvic_unpend(int exception);
bool nvic_is_pending(int exception);
int nvic_best_pending(void);
uint32_t nvic_system_priority_read(uint32_t first_exception); /* SHPR1..3: four exceptions from this one */
void nvic_system_priority_write(uint32_t first_exception, uint32_t value);
bool nvic_handler_enabled(int exception); /* SHCSR enable bit of MEM/BUS/USAGE */

/* ---- scb.c: system control block ---- */
enum {
  CFSR_IACCVIOL = 1u << 0,
  CFSR_DACCVIOL = 1u << 1,
  CFSR_MMARVALID = 1u << 7,
  CFSR_IBUSERR = 1u << 8,
  CFSR_PRECISERR = 1u << 9,
  CFSR_IMPRECISERR = 1u << 10,
  CFSR_UNSTKERR = 1u << 11,
  CFSR_STKERR = 1u << 12,
  CFSR_BFARVALID = 1u << 15,
  CFSR_UNDEFINSTR = 1u << 16,
  CFSR_INVSTATE = 1u << 17,
  CFSR_INVPC = 1u << 18,
  CFSR_NOCP = 1u << 19,
  CFSR_UNALIGNED = 1u << 24,
  CFSR_DIVBYZERO = 1u << 25,
  HFSR_VECTTBL = 1u << 1,
  HFSR_FORCED = 1u << 30,
  HFSR_DEBUGEVT = 1u << 31,
  CCR_NONBASETHRDENA = 1u << 0,
  CCR_UNALIGN_TRP = 1u << 3,
  CCR_DIV_0_TRP = 1u << 4,
  CCR_STKALIGN = 1u << 9,
  SCR_SLEEPONEXIT = 1u << 1,
  SCR_SLEEPDEEP = 1u << 2
};
typedef struct {
  uint32_t vtor, aircr, scr, ccr, shcsr, cfsr, hfsr, dfsr, mmfar, bfar, afsr, cpacr, fpccr, fpcar, fpdscr;
} scb_registers;
extern scb_registers scb;
void scb_reset(void);
uint32_t scb_read(uint32_t address);
void scb_write(uint32_t address, uint32_t value);

/* ---- mpu.c ---- */
extern bool mpu_enabled;
bool mpu_allows(uint32_t address, bool write, bool fetch);
uint32_t mpu_read(uint32_t offset); /* offset in the system control space, 0xd90 to 0xdb8 */
void mpu_write(uint32_t offset, uint32_t value);

/* ---- core_timers.c: SysTick and DWT ---- */
uint32_t systick_read(uint32_t address);
void systick_write(uint32_t address, uint32_t value);
uint64_t systick_deadline(void);
void systick_service(void);
uint32_t dwt_read(uint32_t address);
void dwt_write(uint32_t address, uint32_t value);
uint32_t debug_read(uint32_t address);
void debug_write(uint32_t address, uint32_t value);

/* ---- violation.c ---- */
typedef struct {
  uint64_t cycle, nanoseconds;
  uint32_t pc, count;
  char kind[24], reason[120];
} violation;
extern violation violations[];
extern size_t violation_count;
void violation_record(const char *kind, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- rcc.c: clock tree, FLASH_ACR, time ---- */
typedef struct {
  uint64_t cycle, nanoseconds;
  uint32_t hclk_hz, wait_states;
  const char *source;
} clock_change;
typedef struct { /* what the supply current depends on */
  const char *source;
  uint32_t hclk_hz, vco_hz;  /* vco_hz: 0 = PLL off */
  uint32_t ahb1, apb1, apb2; /* enabled peripherals; in sleep, those that sleep leaves on */
  uint32_t wait_states;
  bool hse_on, art; /* art: prefetch and both caches */
} clock_state;
extern clock_change clock_history[];
extern size_t clock_change_count;
void rcc_reset(void);
uint32_t rcc_read(uint32_t address);
void rcc_write(uint32_t address, uint32_t value);
uint32_t flash_interface_read(uint32_t address);
void flash_interface_write(uint32_t address, uint32_t value);
uint32_t rcc_hclk(void);
uint32_t rcc_timer_divider(void);            /* HCLK cycles per tick of an APB1 timer, before its own prescaler */
uint64_t rcc_nanoseconds(void);              /* since reset */
uint64_t rcc_cycle_at(uint64_t nanoseconds); /* first cycle at or after that time, at the clock of now */
uint64_t rcc_deadline(void);                 /* cycle at which a pending clock switch completes, or the crystal fails */
void rcc_service(void);
void rcc_check(void);                        /* records broken rules of the clocks as they are */
void rcc_stop(void);                         /* what stop mode leaves of the clock tree */
void rcc_pass_stopped(uint64_t nanoseconds); /* time without cycles */
bool rcc_enabled(unsigned register_index, unsigned bit);
bool rcc_pll_on(void);
uint32_t rcc_apb_hz(unsigned bus); /* 1 or 2 */
clock_state rcc_state(bool asleep);

/* ---- power.c ---- */
void power_reset(void);
uint32_t pwr_read(uint32_t address);
void pwr_write(uint32_t address, uint32_t value);
bool power_scale1(void);
bool power_backup_writable(void);
bool power_standby(void); /* deep sleep would be standby */
bool power_stop_low_power(void);
bool power_stop_flash_off(void);
uint64_t power_wakeup_ns(void); /* from stop mode to the first instruction */

/* ---- rtc.c ---- */
void rtc_reset(void);
uint32_t rtc_read(uint32_t address);
void rtc_write(uint32_t address, uint32_t value);
uint32_t rtc_clock_read(bool backup_domain, uint32_t value); /* RCC_BDCR, or RCC_CSR, with its ready bit */
uint32_t rtc_clock_write(bool backup_domain, uint32_t before, uint32_t value); /* what the register becomes */
uint64_t rtc_deadline_ns(void);
void rtc_service(void);
bool rtc_pending(void); /* a wake-up flag that would keep the chip from stopping */

/* ---- exti.c ---- */
uint32_t exti_read(uint32_t address);
void exti_write(uint32_t address, uint32_t value);
uint32_t syscfg_read(uint32_t address);
void syscfg_write(uint32_t address, uint32_t value);
void exti_edge(unsigned line, bool rising);
void exti_pin_edge(unsigned port, unsigned pin, bool rising);
bool exti_pending(void);
bool exti_event_take(void); /* an event for WFE since the last call */

/* ---- residency.c ---- */
typedef enum { MODE_RUN, MODE_SLEEP, MODE_STOP, MODE_WAKE_UP, MODE_WAIT } power_mode;
void residency_update(void); /* after every change of what the supply current depends on */
void residency_mode(power_mode mode);
void residency_write(FILE *file);

/* ---- timeline.c: --events, and the ITM whose words it records ---- */
void timeline_open(void);
void timeline_record(const char *event, const char *subject, uint32_t value);
void timeline_number(const char *event, unsigned subject, uint32_t value);
void timeline_close(void);
uint32_t itm_read(uint32_t address);
void itm_write(uint32_t address, uint32_t value);

/* ---- flash_model.c ---- */
typedef struct {
  uint64_t instruction_hits, instruction_misses, data_hits, data_misses;
} flash_counters;
extern unsigned flash_fetch_shift; /* log2 of the bytes that one fetch look-up covers */
void flash_model_init(flash_model_kind kind);
void flash_model_configure(uint32_t acr); /* LATENCY, PRFTEN, ICEN, DCEN, ICRST, DCRST */
unsigned flash_fetch(uint32_t unit);      /* stall cycles for the fetch unit (offset in flash >> flash_fetch_shift) */
unsigned flash_load(uint32_t offset);     /* stall cycles for a data read at this offset in flash */
flash_counters flash_model_counters(void);
const char *flash_model_name(flash_model_kind kind);

/* ---- tim.c ---- */
uint32_t tim_read(uint32_t address);
void tim_write(uint32_t address, uint32_t value);
uint64_t tim_deadline(void);
void tim_service(void);
void tim_clock_changes(void); /* call before the APB1 timer clock changes: settles the counters */
void tim_clock_changed(void);
void tim_reset(uint32_t which); /* bit 0: TIM2, ... bit 5: TIM7 */

/* ---- usart.c and host_io.c ---- */
uint32_t usart1_read(uint32_t address);
void usart1_write(uint32_t address, uint32_t value);
uint32_t usart2_read(uint32_t address);
void usart2_write(uint32_t address, uint32_t value);
uint64_t usart_deadline(void);
void usart_service(void);
bool usart_waits_for_input(void); /* a receive interrupt is enabled */
void usart_reset(void);

void host_init(void);
bool host_input_ready(void);                       /* a byte can be taken now; never blocks */
int host_input_take(void);                         /* next byte, or -1 */
bool host_input_closed(void);                      /* end of file seen and everything taken */
void host_input_wait(double seconds);              /* block until there is input, end of file, or the time is over */
size_t host_input_read(uint8_t *to, size_t bytes); /* blocking; short only at end of file */
void host_output(uint8_t byte);
void host_flush(void);

/* ---- gpio.c ---- */
uint32_t gpio_read(uint32_t address);
void gpio_write(uint32_t address, uint32_t value);
void pins_open(void); /* reads --pins; exits with EXIT_CODE_USAGE and one line on a bad file */
uint64_t pins_deadline_ns(void);
void pins_service(void);

/* ---- semihost.c ---- */
void semihost_call(void); /* R0 = operation, R1 = argument; sets R0 or ends the run */

/* ---- profile.c, stats.c ---- */
void profile_init(void);
void profile_call(uint32_t target);
void profile_return(uint32_t target);
void profile_exception_enter(int exception, uint32_t handler);
void profile_exception_leave(void);
void profile_jump(uint32_t target);
void profile_write(void);
void stats_write(void);
void json_string(FILE *file, const char *text);

#endif
