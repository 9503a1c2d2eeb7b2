/* SPDX-License-Identifier: GPL-2.0-or-later
 * Memory map of the STM32F407xG (RM0090 2.3) and the table of modelled peripherals.
 * Plain memory is mapped straight into the emulator. Peripheral pages are called back. Everything else stays unmapped,
 * so that an access stops the emulator and becomes a fault in the guest (cpu.c). To add a peripheral: one file with a
 * read and a write function, one row in `peripherals`. */
#include <stdlib.h>
#include <string.h>

#include "vboard.h"

enum { RCC_AHB1ENR = 0x30 / 4, RCC_APB1ENR = 0x40 / 4, RCC_APB2ENR = 0x44 / 4 };

static const peripheral peripherals[] = {
    {"TIM2", 0x40000000, 0x400, RCC_APB1ENR, 0, tim_read, tim_write},
    {"TIM3", 0x40000400, 0x400, RCC_APB1ENR, 1, tim_read, tim_write},
    {"TIM4", 0x40000800, 0x400, RCC_APB1ENR, 2, tim_read, tim_write},
    {"TIM5", 0x40000c00, 0x400, RCC_APB1ENR, 3, tim_read, tim_write},
    {"TIM6", 0x40001000, 0x400, RCC_APB1ENR, 4, tim_read, tim_write},
    {"TIM7", 0x40001400, 0x400, RCC_APB1ENR, 5, tim_read, tim_write},
    {"RTC", 0x40002800, 0x400, 0, 0, rtc_read, rtc_write},
    {"USART2", 0x40004400, 0x400, RCC_APB1ENR, 17, usart2_read, usart2_write},
    {"PWR", 0x40007000, 0x400, RCC_APB1ENR, 28, pwr_read, pwr_write},
    {"USART1", 0x40011000, 0x400, RCC_APB2ENR, 4, usart1_read, usart1_write},
    {"SYSCFG", 0x40013800, 0x400, RCC_APB2ENR, 14, syscfg_read, syscfg_write},
    {"EXTI", 0x40013c00, 0x400, 0, 0, exti_read, exti_write},
    {"GPIOA", 0x40020000, 0x400, RCC_AHB1ENR, 0, gpio_read, gpio_write},
    {"GPIOB", 0x40020400, 0x400, RCC_AHB1ENR, 1, gpio_read, gpio_write},
    {"GPIOC", 0x40020800, 0x400, RCC_AHB1ENR, 2, gpio_read, gpio_write},
    {"GPIOD", 0x40020c00, 0x400, RCC_AHB1ENR, 3, gpio_read, gpio_write},
    {"GPIOE", 0x40021000, 0x400, RCC_AHB1ENR, 4, gpio_read, gpio_write},
    {"GPIOF", 0x40021400, 0x400, RCC_AHB1ENR, 5, gpio_read, gpio_write},
    {"GPIOG", 0x40021800, 0x400, RCC_AHB1ENR, 6, gpio_read, gpio_write},
    {"GPIOH", 0x40021c00, 0x400, RCC_AHB1ENR, 7, gpio_read, gpio_write},
    {"GPIOI", 0x40022000, 0x400, RCC_AHB1ENR, 8, gpio_read, gpio_write},
    {"RCC", 0x40023800, 0x400, 0, 0, rcc_read, rcc_write},
    {"FLASH", 0x40023c00, 0x400, 0, 0, flash_interface_read, flash_interface_write},
    {"ITM", 0xe0000000, 0x1000, 0, 0, itm_read, itm_write},
    {"DWT", 0xe0001000, 0x1000, 0, 0, dwt_read, dwt_write},
    {"FPB", 0xe0002000, 0x1000, 0, 0, debug_read, debug_write},
    {"SysTick", 0xe000e010, 0x10, 0, 0, systick_read, systick_write},
    {"NVIC", 0xe000e000, 0xd00, 0, 0, nvic_read, nvic_write},
    {"SCB", 0xe000ed00, 0xf0, 0, 0, scb_read, scb_write},
    {"DCB", 0xe000edf0, 0x10, 0, 0, debug_read, debug_write},
    {"SCS", 0xe000ee00, 0x200, 0, 0, scb_read, scb_write},
    {"TPIU", 0xe0040000, 0x1000, 0, 0, debug_read, debug_write},
    {"DBGMCU", 0xe0042000, 0x400, 0, 0, debug_read, debug_write},
};
enum { PERIPHERAL_COUNT = sizeof peripherals / sizeof peripherals[0] };

static const peripheral *find(uint32_t address) {
  for (size_t k = 0; k < PERIPHERAL_COUNT; k++) {
    if (address - peripherals[k].base < peripherals[k].size) return &peripherals[k];
  }
  return NULL;
}

/* The addressed peripheral, or NULL after having reported why it does not answer. */
static const peripheral *select_peripheral(uint32_t address) {
  const peripheral *p = find(address);
  if (!p) {
    message("bus error: no peripheral is modelled at 0x%08x (pc 0x%08x)", address, trace_pc());
    cpu_raise_fault(CFSR_IMPRECISERR, 0);
    return NULL;
  }
  if (p->enable_register && !rcc_enabled(p->enable_register, p->enable_bit)) {
    violation_record("clock-off", "%s accessed while its clock is off in RCC", p->name);
    return NULL;
  }
  return p;
}

/* Registers where a zero in the lanes that a narrow write does not touch means "leave alone" (or that act when read).
 */
static bool zero_means_unchanged(const peripheral *p, uint32_t address) {
  uint32_t offset = address & 0x3ff;
  if (p->read == gpio_read) return offset == 0x18; /* BSRR */
  if (p->read == exti_read) return offset >= 0x10; /* SWIER, PR */
  if (p->read == itm_read) return true;
  if (p->read == nvic_read) return address >= 0xe000e100 && address < 0xe000e300;        /* ISER .. ICPR */
  if (p->read == scb_read) return offset == 0x104 || offset == 0x128 || offset == 0x12c; /* ICSR, CFSR, HFSR */
  return p->read == usart1_read || p->read == usart2_read;
}

static uint64_t on_read(uc_engine *uc, uint64_t offset, unsigned size, void *base) {
  (void)uc;
  uint32_t address = (uint32_t)((uintptr_t)base + offset);
  const peripheral *p = select_peripheral(address);
  if (!p) return 0;
  uint32_t value = p->read(address & ~3u) >> 8 * (address & 3);
  return size == 4 ? value : value & ((1u << 8 * size) - 1);
}

static void on_write(uc_engine *uc, uint64_t offset, unsigned size, uint64_t written, void *base) {
  (void)uc;
  uint32_t address = (uint32_t)((uintptr_t)base + offset), value = (uint32_t)written;
  const peripheral *p = select_peripheral(address);
  if (!p) return;
  if (size < 4) {
    unsigned lane = 8 * (address & 3);
    uint32_t mask = ((1u << 8 * size) - 1) << lane;
    value = value << lane & mask;
    address &= ~3u;
    if (!zero_means_unchanged(p, address)) value |= p->read(address) & ~mask;
  }
  p->write(address, value);
  events_recheck();
}

static void map_failed(const char *what, uc_err error) {
  message("cannot map %s: %s", what, uc_strerror(error));
  exit(EXIT_CODE_USAGE);
}

static void map_memory(const char *name, uint32_t base, uint32_t bytes, uint32_t rights, uint8_t *host) {
  uc_err error = uc_mem_map_ptr(machine.uc, base, bytes, rights, host);
  if (error) map_failed(name, error);
}

static void map_peripheral_pages(void) {
  enum { PAGE = 0x1000 };
  for (size_t k = 0; k < PERIPHERAL_COUNT; k++) {
    uint32_t first = peripherals[k].base & ~(PAGE - 1u);
    bool mapped = false;
    for (size_t j = 0; j < k; j++) mapped |= (peripherals[j].base & ~(PAGE - 1u)) == first;
    if (mapped) continue;
    void *base = (void *)(uintptr_t)first;
    uc_err error = uc_mmio_map(machine.uc, first, PAGE, on_read, base, on_write, base);
    if (error) map_failed(peripherals[k].name, error);
  }
}

static uint8_t *allocate(size_t bytes, int fill) {
  uint8_t *memory = aligned_alloc(0x10000, bytes);
  if (!memory) {
    message("out of memory");
    exit(EXIT_CODE_USAGE);
  }
  memset(memory, fill, bytes);
  return memory;
}

void memory_init(void) {
  machine.flash = allocate(FLASH_BYTES, 0xff); /* erased */
  machine.sram = allocate(SRAM_BYTES, 0);
  machine.ccm = allocate(CCM_BYTES, 0);
  machine.rom = allocate(ROM_BYTES, 0xff);
  static const uint32_t unique_id[3] = {0x00420051, 0x30365119, 0x30373532};
  memcpy(machine.rom + 0x7a10, unique_id, sizeof unique_id); /* RM0090 39.1 */
  machine.rom[0x7a22] = FLASH_BYTES >> 10 & 0xff;            /* flash size in KB, 39.2 */
  machine.rom[0x7a23] = FLASH_BYTES >> 18;
  map_memory("flash", FLASH_BASE, FLASH_BYTES, UC_PROT_READ | UC_PROT_EXEC, machine.flash);
  map_memory("boot alias", 0, FLASH_BYTES, UC_PROT_READ | UC_PROT_EXEC, machine.flash);
  map_memory("SRAM", SRAM_BASE, SRAM_BYTES, UC_PROT_READ | UC_PROT_WRITE, machine.sram); /* see memory_allow_code */
  map_memory("CCM", CCM_BASE, CCM_BYTES, UC_PROT_READ | UC_PROT_WRITE, machine.ccm);
  map_memory("system memory", ROM_BASE, ROM_BYTES, UC_PROT_READ, machine.rom);
  map_peripheral_pages();
}

bool memory_allow_code(uint32_t address) {
  enum { PAGE = 0x1000 };
  if (address - SRAM_BASE >= SRAM_BYTES) return false;
  return uc_mem_protect(machine.uc, address & ~(PAGE - 1u), PAGE, UC_PROT_ALL) == UC_ERR_OK;
}

uint8_t *memory_host(uint32_t address, uint32_t bytes, bool write) {
  struct {
    uint32_t base, bytes;
    uint8_t *host;
    bool writable;
  } const regions[] = {{FLASH_BASE, FLASH_BYTES, machine.flash, false},
                       {SRAM_BASE, SRAM_BYTES, machine.sram, true},
                       {CCM_BASE, CCM_BYTES, machine.ccm, true},
                       {0, FLASH_BYTES, machine.flash, false},
                       {ROM_BASE, ROM_BYTES, machine.rom, false}};
  for (size_t k = 0; k < sizeof regions / sizeof regions[0]; k++) {
    uint32_t offset = address - regions[k].base;
    if (offset < regions[k].bytes && bytes <= regions[k].bytes - offset && (!write || regions[k].writable)) {
      return regions[k].host + offset;
    }
  }
  return NULL;
}

bool memory_read32(uint32_t address, uint32_t *value) {
  const uint8_t *host = memory_host(address, 4, false);
  if (host) memcpy(value, host, 4);
  return host != NULL;
}

bool memory_write32(uint32_t address, uint32_t value) {
  uint8_t *host = memory_host(address, 4, true);
  if (host) memcpy(host, &value, 4);
  return host != NULL;
}
